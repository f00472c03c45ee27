package integration

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/integration/s3test"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// What goes wrong between a sweep and one of its vaults: the sweep archives nothing
// that was not verified in both, destroys no key, and says which vault and which
// object it was. The next one, without the fault, finishes the work.
func TestVaultFaults(t *testing.T) {
	t.Parallel()
	east, west := s3test.Start(t, s3test.MinIO), s3test.Start(t, s3test.VersityGW)
	for name, f := range map[string]vaultFault{
		"slow":            {at: everything, do: slowly},
		"500 for a while": {at: everything, do: twice(status(http.StatusInternalServerError, "InternalError"))},
		"lost answer":     {at: puts, do: once(cutAfter)},

		"500":           {at: puts, do: status(http.StatusInternalServerError, "InternalError"), fails: true},
		"500 on GET":    {at: gets, do: status(http.StatusInternalServerError, "InternalError"), fails: true, stored: true},
		"403":           {at: puts, do: status(http.StatusForbidden, "AccessDenied"), fails: true},
		"other bytes":   {at: gets, do: edited(otherBytes), fails: true, stored: true},
		"no end":        {at: gets, do: edited(truncated), fails: true, stored: true},
		"checksum":      {at: gets, do: edited(wrongChecksum), fails: true, stored: true},
		"lock hidden":   {at: lockQuestions, do: lockHidden, fails: true, stored: true},
		"lock missing":  {at: lockQuestions, do: lockMissing, fails: true, stored: true},
		"shorter lock":  {at: gets, do: edited(shorterLock), fails: true, stored: true},
		"other version": {at: gets, do: edited(otherVersion), fails: true, stored: true},
	} {
		for _, vault := range []string{"east", "west"} {
			t.Run(name+" in "+vault, func(t *testing.T) {
				t.Parallel()
				f.hits(t, newSite(t, "", bucketOn(t, east), bucketOn(t, west)), vault)
			})
		}
	}
}

// The same when the server itself is gone, or stands still.
func TestVaultDown(t *testing.T) {
	t.Parallel()
	// Patient enough for a server that is busy with other tests, and not with one
	// that stands still.
	impatient := http.DefaultTransport.(*http.Transport).Clone()
	impatient.ResponseHeaderTimeout = 2 * time.Second
	for name, down := range map[string]struct {
		at         func(*http.Request) bool
		stop, heal func(*s3test.Server, *testing.T)
		stored     bool
	}{
		"killed at a put":       {puts, (*s3test.Server).Kill, (*s3test.Server).Restart, false},
		"killed at a read-back": {gets, (*s3test.Server).Kill, (*s3test.Server).Restart, true},
		"paused at a put":       {puts, (*s3test.Server).Pause, (*s3test.Server).Resume, false},
		"paused at a read-back": {gets, (*s3test.Server).Pause, (*s3test.Server).Resume, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := map[string]*s3test.Server{"east": s3test.Start(t, s3test.MinIO), "west": s3test.Start(t, s3test.VersityGW)}
			for vault, server := range servers {
				var stopped sync.Once
				f := vaultFault{fails: true, stored: down.stored, at: down.at,
					do: func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
						stopped.Do(func() { down.stop(server, t) })
						return impatient.RoundTrip(req)
					},
					heal: func() { down.heal(server, t) }}
				f.hits(t, newSite(t, "", bucketOn(t, servers["east"]), bucketOn(t, servers["west"])), vault)
			}
		})
	}
}

// An answerer answers a request, by send or otherwise.
type answerer func(req *http.Request, send http.RoundTripper) (*http.Response, error)

// A vaultFault is what happens to a vault's requests for the objects of the second
// segment.
type vaultFault struct {
	at    func(*http.Request) bool // to which of them
	do    answerer
	heal  func() // ends it; nil: it ends with the sweep
	fails bool   // the sweep
	// stored: the vault has all of the segment, and only the sweep cannot see it.
	stored bool
}

// A wire is what the requests of a vault go through.
type wire struct {
	vaultFault

	mu    sync.Mutex
	first string // the id of the first segment that was put. Guarded by mu
}

var segmentID = regexp.MustCompile(`seg-\d{8}-[0-9a-z]{10}`)

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	id := segmentID.FindString(req.URL.Path)
	w.mu.Lock()
	if w.first == "" {
		w.first = id
	}
	spared := id == "" || id == w.first
	w.mu.Unlock()
	if spared || !w.at(req) {
		return http.DefaultTransport.RoundTrip(req)
	}
	return w.do(req, http.DefaultTransport)
}

// namesObject: an error says which object it was.
var namesObject = regexp.MustCompile(`(segments|manifests)/archive-[0-9-]+/seg-`)

// hits runs a sweep of three segments with the fault in one vault, and another
// without.
func (f vaultFault) hits(t *testing.T, s *site, vault string) {
	t.Helper()
	const records = 60
	wires := map[string]http.RoundTripper{vault: &wire{vaultFault: f}}
	s.with(t, wires["east"], wires["west"], func(e *lifecycle.Engine) {
		ingest(t, e, season(0, records)...)
		res, err := e.Sweep(t.Context(), lifecycle.SweepOptions{})
		if f.heal != nil {
			f.heal()
		}
		if (err != nil) != f.fails {
			t.Fatalf("the sweep: %+v, %v", res, err)
		}
		if !f.fails {
			return
		}
		if !strings.Contains(err.Error(), "vault "+vault) || !namesObject.MatchString(err.Error()) {
			t.Errorf("the error does not say that it was vault %s, or which object: %v", vault, err)
		}
		if res.Archived != 20 || res.Segments != 1 || res.ShreddedClasses != 0 || res.Due != res.Archived+res.Held+res.Failed {
			t.Errorf("the sweep: %+v", res)
		}
		if keys, err := e.Keys.Status(t.Context()); err != nil || len(keys.Destroyed) > 0 {
			t.Errorf("keys destroyed: %v, %v", keys.Destroyed, err)
		}
	})
	s.with(t, nil, nil, func(e *lifecycle.Engine) {
		nothingLost(t, e, records)
		res, err := e.Sweep(t.Context(), lifecycle.SweepOptions{})
		if err != nil || res.Failed > 0 {
			t.Fatalf("the next sweep: %+v, %v", res, err)
		}
		abandoned, err := e.Store.Segments(t.Context(), lifecycle.Abandoned)
		if err != nil {
			t.Fatal(err)
		}
		// What one of the vaults has all of is gone on with, not put once more.
		adopts := f.fails && (f.stored || vault == "west")
		if adopted := res.Recovered == 20 && len(abandoned) == 0; f.fails && adopted != adopts {
			t.Errorf("the next sweep recovered %d records and abandoned %d segments", res.Recovered, len(abandoned))
		}
		inOrder(t, e, records, s.objects(t))
	})
}

// Which requests.

func everything(*http.Request) bool { return true }

func puts(req *http.Request) bool { return req.Method == http.MethodPut }

// gets are those that read, and not only look.
func gets(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Method == http.MethodHead
}

// lockQuestions are all whose answer can tell of the lock.
func lockQuestions(req *http.Request) bool { return !puts(req) }

// What happens to them.

func slowly(req *http.Request, send http.RoundTripper) (*http.Response, error) {
	return edited(func(resp *http.Response) { resp.Body = body{&trickle{resp.Body}, resp.Body} })(req, send)
}

// body is the body of an answer, with another way to read it.
type body struct {
	io.Reader
	io.Closer
}

// trickle comes in small pieces, with a pause before each.
type trickle struct{ r io.Reader }

func (t *trickle) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return t.r.Read(p[:min(len(p), 500)])
}

// status answers with an S3 error.
func status(code int, name string) answerer {
	return func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		if req.Body != nil {
			req.Body.Close()
		}
		text := "<?xml version=\"1.0\"?><Error><Code>" + name + "</Code><Message>made up</Message></Error>"
		return &http.Response{
			StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
			Header:        http.Header{"Content-Type": {"application/xml"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
			ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
		}, nil
	}
}

// cutAfter: the server has done it, and nobody learns of it.
func cutAfter(req *http.Request, send http.RoundTripper) (*http.Response, error) {
	resp, err := send.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return nil, errors.New("connection reset by peer")
}

func once(f answerer) answerer { return times(1, f) }

func twice(f answerer) answerer { return times(2, f) }

// times has it happen so often to each of a kind of request.
func times(n int, f answerer) answerer {
	var mu sync.Mutex
	seen := map[string]int{}
	return func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		mu.Lock()
		what := req.Method + req.URL.Path
		seen[what]++
		hit := seen[what] <= n
		mu.Unlock()
		if hit {
			return f(req, send)
		}
		return send.RoundTrip(req)
	}
}

// edited changes the answers.
func edited(edit func(*http.Response)) answerer {
	return func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		resp, err := send.RoundTrip(req)
		if err == nil && resp.StatusCode == http.StatusOK {
			edit(resp)
		}
		return resp, err
	}
}

func otherBytes(resp *http.Response) {
	var first [1]byte
	if n, _ := resp.Body.Read(first[:]); n == 1 {
		first[0]++
		resp.Body = body{io.MultiReader(strings.NewReader(string(first[:])), resp.Body), resp.Body}
	}
}

func truncated(resp *http.Response) { resp.Body = body{io.LimitReader(resp.Body, 100), resp.Body} }

func wrongChecksum(resp *http.Response) {
	resp.Header.Set("X-Amz-Checksum-Sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=") // of nothing
}

func shorterLock(resp *http.Response) {
	if resp.Header.Get("X-Amz-Object-Lock-Mode") != "" {
		resp.Header.Set("X-Amz-Object-Lock-Retain-Until-Date", time.Now().Add(time.Minute).UTC().Format(time.RFC3339))
	}
}

func otherVersion(resp *http.Response) {
	if resp.Header.Get("X-Amz-Version-Id") != "" {
		resp.Header.Set("X-Amz-Version-Id", "00000000-0000-0000-0000-000000000000")
	}
}

// lockHidden: the headers do not tell of the lock, and whoever asks is refused.
func lockHidden(req *http.Request, send http.RoundTripper) (*http.Response, error) {
	return withoutLock(http.StatusForbidden, "AccessDenied")(req, send)
}

// lockMissing: there is none.
func lockMissing(req *http.Request, send http.RoundTripper) (*http.Response, error) {
	return withoutLock(http.StatusNotFound, "NoSuchObjectLockConfiguration")(req, send)
}

func withoutLock(code int, name string) answerer {
	return func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		if q := req.URL.Query(); q.Has("retention") || q.Has("legal-hold") {
			return status(code, name)(req, send)
		}
		return edited(func(resp *http.Response) {
			for _, h := range []string{"Mode", "Retain-Until-Date", "Legal-Hold"} {
				resp.Header.Del("X-Amz-Object-Lock-" + h)
			}
		})(req, send)
	}
}
