package s3test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lotkeeper/lotkeeper/archive"
)

// Open opens a vault on a server's bucket whose requests go through transport,
// or through the vault's own if that is nil. The vault's name is its library's.
type Open func(t *testing.T, s *Server, bucket string, transport http.RoundTripper) archive.Vault

// A fault answers a request, by send or otherwise.
type fault func(req *http.Request, send http.RoundTripper) (*http.Response, error)

// A wire stands between a vault and its server.
type wire struct {
	fault fault // nil: none

	mu   sync.Mutex
	sent []string // the method of each request, in order. Guarded by mu
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.sent = append(w.sent, req.Method)
	w.mu.Unlock()
	if w.fault == nil {
		return http.DefaultTransport.RoundTrip(req)
	}
	return w.fault(req, http.DefaultTransport)
}

// count says how many requests of a method there were; of all for an empty one.
func (w *wire) count(method string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, sent := range w.sent {
		if method == "" || method == sent {
			n++
		}
	}
	return n
}

// answer makes up an S3 error, or an answer without a body.
func answer(req *http.Request, status int, code string) *http.Response {
	if req.Body != nil {
		req.Body.Close()
	}
	body := ""
	if status != http.StatusNoContent {
		body = "<?xml version=\"1.0\"?><Error><Code>" + code + "</Code><Message>made up</Message></Error>"
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header:        http.Header{"Content-Type": {"application/xml"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
	}
}

var body = bytes.Repeat([]byte("sealed. "), 10_000)

const key = "segments/2026-11-0/seg-a.age"

// A scene is a vault on a bucket of its own, with a wire before it.
type scene struct {
	*testing.T
	vault  archive.Vault
	wire   *wire
	admin  *minio.Client
	server *Server
	bucket string
	open   Open
}

func (s *scene) put() (archive.Version, error) {
	s.Helper()
	status, err := s.vault.Status(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return s.vault.Put(s.Context(), key, bytes.NewReader(body), archive.PutOptions{
		SHA256: sha256.Sum256(body), Size: int64(len(body)), Mode: archive.Compliance, RetainUntil: status.Now.Add(time.Minute),
	})
}

// stored puts without a fault.
func (s *scene) stored() archive.Version {
	s.Helper()
	fault := s.wire.fault
	s.wire.fault = nil
	defer func() { s.wire.fault = fault }()
	v, err := s.put()
	if err != nil {
		s.Fatal(err)
	}
	return v
}

// versions asks the server, past the vault.
func (s *scene) versions() (all []minio.ObjectInfo) {
	s.Helper()
	for o := range s.admin.ListObjectsIter(s.Context(), s.bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
		if o.Err != nil {
			s.Fatal(o.Err)
		}
		all = append(all, o)
	}
	return all
}

func (s *scene) read(versionID string) ([]byte, archive.ObjectInfo, error) {
	r, info, err := s.vault.Get(s.Context(), key, versionID)
	if err != nil {
		return nil, info, err
	}
	b, err := io.ReadAll(r)
	return b, info, errors.Join(err, r.Close())
}

// locked: the description is that of a version just stored.
func (s *scene) locked(info archive.ObjectInfo, v archive.Version) {
	s.Helper()
	if info.VersionID != v.VersionID || info.Size != v.Size || info.Mode != archive.Compliance || info.RetainUntil.IsZero() {
		s.Errorf("described as %+v, put as %+v", info, v)
	}
}

// first lets f happen to the next n requests of a method.
func (w *wire) first(n int, method string, f fault) {
	var mu sync.Mutex
	w.fault = func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		mu.Lock()
		hit := req.Method == method && n > 0
		if hit {
			n--
		}
		mu.Unlock()
		if hit {
			return f(req, send)
		}
		return send.RoundTrip(req)
	}
}

// edit changes the answers to GET and HEAD.
func edit(change func(*http.Response)) fault {
	return func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		resp, err := send.RoundTrip(req)
		if err == nil && (req.Method == http.MethodGet || req.Method == http.MethodHead) && resp.StatusCode == http.StatusOK {
			change(resp)
		}
		return resp, err
	}
}

func stripLock(resp *http.Response) {
	for name := range resp.Header {
		if strings.HasPrefix(name, "X-Amz-Object-Lock-") {
			resp.Header.Del(name)
		}
	}
}

// ExerciseFaults runs what goes wrong between a vault and its server, on every
// server.
func ExerciseFaults(t *testing.T, open Open) {
	Each(t, func(t *testing.T, server *Server) {
		for name, test := range map[string]func(*scene){
			"Requests": requests, "Headers": headers, "Recovers": recovers, "AckLost": ackLost, "Conflict": conflict, "GivesUp": givesUp,
			"SentBytes": sentBytes, "OtherBytes": otherBytes, "Truncated": truncated, "WrongChecksum": wrongChecksum,
			"LockStripped": lockStripped, "LockRefused": lockRefused, "DeleteRefused": deleteRefused, "DeleteMarker": deleteMarker,
			"NoLock": noLock, "NoBucket": noBucket,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := &scene{T: t, server: server, wire: new(wire), admin: server.Admin(t), bucket: server.Bucket(t, name != "NoLock")}
				s.vault = open(t, server, s.bucket, s.wire)
				s.open = open
				test(s)
			})
		}
	})
}

// requests: a copy is put with one request and read back with one. versitygw
// sends the lock with HeadObject alone, there it takes one more.
func requests(s *scene) {
	v := s.stored()
	if n := s.wire.count(http.MethodPut); n != 1 {
		s.Errorf("Put took %d requests", n)
	}
	before := s.wire.count("")
	_, info, err := s.read("")
	if err != nil {
		s.Fatal(err)
	}
	s.locked(info, v)
	want := 1
	if s.server.Name == VersityGW {
		want = 2
	}
	if n := s.wire.count("") - before; n != want {
		s.Errorf("Get took %d requests, want %d", n, want)
	}
}

// headers: over TLS as over plain HTTP, Put is one request with everything in
// its headers. The checksum as a trailer, or the body in signed chunks, is what
// some servers do not take.
func headers(s *scene) {
	backend, err := url.Parse(s.server.URL())
	if err != nil {
		s.Fatal(err)
	}
	var mu sync.Mutex
	var seen []*http.Request // guarded by mu
	see := func(req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, req)
	}
	front := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend)
		r.Out.Host = r.In.Host // it is signed
		see(r.In)
	}})
	defer front.Close()
	secure := *s.server
	secure.Endpoint, secure.TLS = strings.TrimPrefix(front.URL, "https://"), true
	o := archive.PutOptions{SHA256: sha256.Sum256(body), Size: int64(len(body)), Mode: archive.Compliance, RetainUntil: time.Now().Add(time.Minute)}
	plain := &wire{fault: func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		see(req.Clone(req.Context()))
		return send.RoundTrip(req)
	}}
	for i, v := range []archive.Vault{s.open(s.T, &secure, s.bucket, front.Client().Transport), s.open(s.T, s.server, s.bucket, plain)} {
		key := fmt.Sprintf("segments/%d.age", i)
		if _, err := v.Put(s.Context(), key, bytes.NewReader(body), o); err != nil {
			s.Fatal(err)
		}
		mu.Lock()
		sent := seen
		mu.Unlock()
		if len(sent) != 1 || sent[0].Method != http.MethodPut {
			s.Fatalf("%d requests: %v", len(sent), sent)
		}
		h := sent[0].Header
		if sent[0].ContentLength != o.Size || len(sent[0].TransferEncoding) > 0 || h.Get("X-Amz-Trailer") != "" || strings.Contains(h.Get("Content-Encoding"), "aws-chunked") {
			s.Errorf("the body comes as %d bytes, %v, %v", sent[0].ContentLength, sent[0].TransferEncoding, h)
		}
		for name, want := range map[string]string{
			"If-None-Match": "*", "X-Amz-Checksum-Sha256": base64.StdEncoding.EncodeToString(o.SHA256[:]), "X-Amz-Object-Lock-Mode": "COMPLIANCE",
		} {
			if got := h.Get(name); got != want {
				s.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		until, err := time.Parse(time.RFC3339, h.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if err != nil || !until.Equal(archive.WholeSecond(o.RetainUntil)) {
			s.Errorf("retain-until %v, want %v, %v", until, archive.WholeSecond(o.RetainUntil), err)
		}
		r, info, err := v.Get(s.Context(), key, "")
		if err != nil {
			s.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, body) || info.Mode != archive.Compliance || info.SHA256 != o.SHA256 {
			s.Errorf("read back %d bytes, %+v, %v", len(got), info, err)
		}
		mu.Lock()
		seen = nil
		mu.Unlock()
	}
}

func recovers(s *scene) {
	s.wire.first(2, http.MethodPut, func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		return answer(req, http.StatusInternalServerError, "InternalError"), nil
	})
	v, err := s.put()
	if err != nil || s.wire.count(http.MethodPut) != 3 {
		s.Fatalf("after %d requests: %v", s.wire.count(http.MethodPut), err)
	}
	if all := s.versions(); len(all) != 1 || all[0].VersionID != v.VersionID {
		s.Errorf("versions %+v, want %s alone", all, v.VersionID)
	}
	if got, _, err := s.read(v.VersionID); err != nil || !bytes.Equal(got, body) {
		s.Errorf("read back %d bytes, %v", len(got), err)
	}
}

var errCut = errors.New("connection reset by peer")

// ackLost: the server has stored the object, and nobody learns of it. Whatever
// Put says, there is one version, and it is whole.
func ackLost(s *scene) {
	s.wire.first(1, http.MethodPut, func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		resp, err := send.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			s.Errorf("the server did not store the object: %v", err)
			return resp, err
		}
		resp.Body.Close()
		return nil, errCut
	})
	if _, err := s.put(); err != nil && !errors.Is(err, archive.ErrExists) {
		s.Errorf("Put: %v", err)
	}
	all := s.versions()
	if len(all) != 1 {
		s.Fatalf("%d versions", len(all))
	}
	got, info, err := s.read("")
	if err != nil || !bytes.Equal(got, body) {
		s.Errorf("read back %d bytes, %v", len(got), err)
	}
	s.locked(info, archive.Version{VersionID: all[0].VersionID, Size: int64(len(body))})
}

// conflict: S3 answers 409 while another put of the key is under way.
func conflict(s *scene) {
	conflicting := func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		return answer(req, http.StatusConflict, "ConditionalRequestConflict"), nil
	}
	s.wire.first(2, http.MethodPut, conflicting)
	if _, err := s.put(); err != nil {
		s.Errorf("the other put failed, and this one: %v", err)
	}
	s.wire.first(1000, http.MethodPut, conflicting)
	if _, err := s.put(); !errors.Is(err, archive.ErrExists) {
		s.Errorf("the other put succeeded, and this one: %v", err)
	}
}

// givesUp: a server that is down is an error that says which vault and which
// key, soon, and no secret.
func givesUp(s *scene) {
	o := archive.PutOptions{SHA256: sha256.Sum256(body), Size: int64(len(body)), Mode: archive.Compliance, RetainUntil: time.Now().Add(time.Minute)}
	for name, fault := range map[string]fault{
		"503": func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
			return answer(req, http.StatusServiceUnavailable, "SlowDown"), nil
		},
		"cut": func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
			if req.Body != nil {
				req.Body.Close()
			}
			return nil, errCut
		},
	} {
		s.wire.fault = fault
		before := s.wire.count(http.MethodPut)
		began := time.Now()
		_, err := s.vault.Put(s.Context(), key, bytes.NewReader(body), o)
		if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), s.vault.Name()) {
			s.Errorf("%s: %v", name, err)
		}
		if errors.Is(err, archive.ErrExists) || errors.Is(err, archive.ErrNotFound) || strings.Contains(err.Error(), AccessKey) || strings.Contains(err.Error(), SecretKey) {
			s.Errorf("%s: %v", name, err)
		}
		if n := s.wire.count(http.MethodPut) - before; n != 5 || time.Since(began) > 30*time.Second {
			s.Errorf("%s: %d requests in %v", name, n, time.Since(began))
		}
	}
	s.wire.fault = nil
	if _, err := s.vault.Stat(s.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
		s.Errorf("Stat: %v", err)
	}
}

// sentBytes: what changes on the way to the server is noticed by the server.
func sentBytes(s *scene) {
	s.wire.fault = func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		if req.Method == http.MethodPut {
			sent, err := io.ReadAll(req.Body)
			if err != nil {
				return nil, err
			}
			sent[len(sent)/2]++
			changed := req.Clone(req.Context())
			changed.Body = io.NopCloser(bytes.NewReader(sent))
			req = changed
		}
		return send.RoundTrip(req)
	}
	if _, err := s.put(); !errors.Is(err, archive.ErrChecksum) {
		s.Errorf("Put: %v", err)
	}
	if all := s.versions(); len(all) > 0 {
		s.Errorf("stored: %+v", all)
	}
}

// otherBytes: what the server gives back is for the caller to compare, with what
// the caller knows.
func otherBytes(s *scene) {
	v := s.stored()
	s.wire.fault = edit(func(resp *http.Response) {
		if resp.Request.Method == http.MethodGet && resp.ContentLength == int64(len(body)) {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(strings.NewReader("x"), skip(resp.Body, 1)), resp.Body}
		}
	})
	got, info, err := s.read("")
	if err != nil || len(got) != len(body) || bytes.Equal(got, body) || info.SHA256 != sha256.Sum256(body) {
		s.Errorf("%d bytes, recorded SHA-256 %x, %v", len(got), info.SHA256, err)
	}
	found, err := archive.VerifyCopy(s.Context(), s.vault, archive.Expect{
		SegmentID:   "seg-a",
		Object:      archive.File{Key: key, VersionID: v.VersionID, SHA256: sha256.Sum256(body), Size: int64(len(body))},
		Manifest:    archive.File{Key: "manifests/none.json"},
		RetainUntil: info.RetainUntil,
	}, nil)
	if err != nil || !slices.ContainsFunc(found, func(m archive.Mismatch) bool { return m.Kind == archive.KindSHA256 && m.Key == key }) {
		s.Errorf("VerifyCopy: %+v, %v", found, err)
	}
}

func skip(r io.Reader, n int64) io.Reader {
	_, _ = io.CopyN(io.Discard, r, n)
	return r
}

// truncated: a body that breaks off is never a short success.
func truncated(s *scene) {
	s.stored()
	s.wire.fault = edit(func(resp *http.Response) {
		if resp.Request.Method == http.MethodGet && resp.ContentLength == int64(len(body)) {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(resp.Body, 1000), resp.Body}
		}
	})
	if got, _, err := s.read(""); !errors.Is(err, io.ErrUnexpectedEOF) {
		s.Errorf("read %d of %d bytes, %v", len(got), len(body), err)
	}
}

// wrongChecksum: the recorded checksum is handed on as it is.
func wrongChecksum(s *scene) {
	s.stored()
	const wrong = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" // of nothing
	s.wire.fault = edit(func(resp *http.Response) { resp.Header.Set("x-amz-checksum-sha256", wrong) })
	got, info, err := s.read("")
	if err != nil || !bytes.Equal(got, body) || info.SHA256 != sha256.Sum256(nil) {
		s.Errorf("%d bytes, recorded SHA-256 %x, %v", len(got), info.SHA256, err)
	}
}

// unparsed: minio-go does not read the root element that versitygw gives its
// answer to GetObjectRetention.
func (s *scene) unparsed() bool { return s.server.Name == VersityGW && s.vault.Name() == "minio-go" }

// lockStripped: S3 leaves the lock out of its headers for a caller who may not
// see it there, so it is asked for.
func lockStripped(s *scene) {
	v := s.stored()
	s.wire.fault = edit(stripLock)
	for _, versionID := range []string{"", v.VersionID} {
		_, got, getErr := s.read(versionID)
		stat, statErr := s.vault.Stat(s.Context(), key, versionID)
		if s.unparsed() {
			if getErr != nil || got.Mode != "" || !errors.Is(statErr, archive.ErrLockUnknown) {
				s.Errorf("with an answer that cannot be read: Get %+v, %v, Stat %v", got, getErr, statErr)
			}
			continue
		}
		if err := errors.Join(getErr, statErr); err != nil {
			s.Fatal(err)
		}
		s.locked(got, v)
		s.locked(stat, v)
	}
}

// lockRefused: a lock that nobody may see keeps no bytes from being read, and
// nothing from being protected.
func lockRefused(s *scene) {
	v := s.stored()
	s.wire.fault = func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
		if q := req.URL.Query(); q.Has("retention") || q.Has("legal-hold") {
			return answer(req, http.StatusForbidden, "AccessDenied"), nil
		}
		return edit(stripLock)(req, send)
	}
	got, info, err := s.read("")
	if err != nil || !bytes.Equal(got, body) || info.Mode != "" || info.VersionID != v.VersionID {
		s.Errorf("%d bytes, %+v, %v", len(got), info, err)
	}
	if info, err := s.vault.Stat(s.Context(), key, ""); !errors.Is(err, archive.ErrLockUnknown) || info.VersionID != v.VersionID {
		s.Errorf("Stat: %+v, %v", info, err)
	}
	if err := s.vault.Retain(s.Context(), key, v.VersionID, time.Now().Add(time.Hour)); !errors.Is(err, archive.ErrLockUnknown) {
		s.Errorf("Retain: %v", err)
	}
	if err := s.vault.Delete(s.Context(), key, v.VersionID); !errors.Is(err, archive.ErrLocked) || !errors.Is(err, archive.ErrLockUnknown) {
		s.Errorf("Delete: %v", err)
	}
	if n := s.wire.count(http.MethodDelete); n > 0 {
		s.Errorf("%d deletes were sent", n)
	}
}

// deleteRefused: a missing permission is not a lock.
func deleteRefused(s *scene) {
	info, err := s.admin.PutObject(s.Context(), s.bucket, s.full(key), strings.NewReader("unlocked"), 8, minio.PutObjectOptions{})
	if err != nil {
		s.Fatal(err)
	}
	s.wire.first(1, http.MethodDelete, func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		return answer(req, http.StatusForbidden, "AccessDenied"), nil
	})
	if err := s.vault.Delete(s.Context(), key, info.VersionID); err == nil || errors.Is(err, archive.ErrLocked) {
		s.Errorf("Delete without the permission: %v", err)
	}
	if n := s.wire.count(http.MethodDelete); n != 1 {
		s.Errorf("%d deletes were sent", n)
	}
	if err := s.vault.Delete(s.Context(), key, info.VersionID); err != nil {
		s.Errorf("Delete with the permission: %v", err)
	}
}

// full is a key with the prefix that every vault under test has.
func (s *scene) full(key string) string { return Prefix + "/" + key }

// Prefix is what an Open has to give its vault.
const Prefix = "lots/2026"

// deleteMarker: a plain DELETE hides a locked object. It is read by its version
// id, and the marker can be removed.
func deleteMarker(s *scene) {
	v := s.stored()
	if err := s.admin.RemoveObject(s.Context(), s.bucket, s.full(key), minio.RemoveObjectOptions{}); err != nil {
		s.Fatal(err)
	}
	if _, err := s.vault.Stat(s.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
		s.Errorf("Stat: %v", err)
	}
	if got, _, err := s.read(v.VersionID); err != nil || !bytes.Equal(got, body) {
		s.Errorf("below the delete marker: %d bytes, %v", len(got), err)
	}
	var marker archive.Version
	var all []archive.Version
	for x, err := range s.vault.Versions(s.Context(), "") {
		if err != nil {
			s.Fatal(err)
		}
		all = append(all, x)
		if x.DeleteMarker {
			marker = x
		}
	}
	below := v
	below.Latest = false
	if want := []archive.Version{{Key: key, VersionID: marker.VersionID, DeleteMarker: true, Latest: true}, below}; !slices.Equal(all, want) {
		s.Errorf("versions\n%+v, want\n%+v", all, want)
	}
	if _, _, err := s.read(marker.VersionID); !errors.Is(err, archive.ErrNotFound) {
		s.Errorf("Get of the delete marker: %v", err)
	}
	if _, err := s.vault.Stat(s.Context(), key, marker.VersionID); !errors.Is(err, archive.ErrNotFound) {
		s.Errorf("Stat of the delete marker: %v", err)
	}
	_, err := s.put()
	if refused := s.server.Name == VersityGW; refused != (err != nil) || errors.Is(err, archive.ErrExists) {
		s.Errorf("Put over a delete marker: %v", err)
	}
	if err := s.vault.Delete(s.Context(), key, marker.VersionID); err != nil {
		s.Errorf("Delete of the delete marker: %v", err)
	}
}

func noLock(s *scene) {
	status, err := s.vault.Status(s.Context())
	if err != nil || status.Lock != "" {
		s.Errorf("Status: %+v, %v", status, err)
	}
	if _, err := s.put(); !errors.Is(err, archive.ErrLockUnsupported) {
		s.Errorf("Put: %v", err)
	}
}

// noBucket: that the bucket is missing does not mean that its objects are.
func noBucket(s *scene) {
	// One that never was: of one that is removed MinIO may know for a moment more.
	s.vault = s.open(s.T, s.server, "never-"+s.bucket, s.wire)
	_, _, getErr := s.read("")
	_, statErr := s.vault.Stat(s.Context(), key, "")
	_, statusErr := s.vault.Status(s.Context())
	deleteErr := s.vault.Delete(s.Context(), key, "11111111-1111-1111-1111-111111111111")
	for _, err := range []error{getErr, statErr, statusErr, deleteErr} {
		if err == nil || errors.Is(err, archive.ErrNotFound) {
			s.Errorf("without a bucket: %v", err)
		}
	}
}

// ExerciseInspect checks what Inspect finds on every server, and that it leaves
// nothing behind.
func ExerciseInspect(t *testing.T, open Open) {
	inspect := func(t *testing.T, v archive.Vault) map[string]archive.Check {
		t.Helper()
		checks := make(map[string]archive.Check)
		for _, c := range v.(archive.Inspector).Inspect(context.WithoutCancel(t.Context())) {
			if c.Found == "" || c.OK != (c.Hint == "") {
				t.Errorf("incomplete: %+v", c)
			}
			checks[c.Name] = c
		}
		return checks
	}
	fatal := []string{"bucket", "versioning", "object lock", "compliance lock", "delete while locked"}
	Each(t, func(t *testing.T, server *Server) {
		var pretended atomic.Bool
		for name, test := range map[string]struct {
			locking, noBucket bool
			fault             fault
			failed            []string
		}{
			// What runs as the server's root user can bypass governance.
			"root": {locking: true, failed: []string{"governance bypass"}},
			"restricted": {locking: true, fault: func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
				if req.Header.Get("X-Amz-Bypass-Governance-Retention") != "" {
					return answer(req, http.StatusForbidden, "AccessDenied"), nil
				}
				return send.RoundTrip(req)
			}},
			"no lock":   {failed: []string{"object lock", "versioning"}},
			"no bucket": {noBucket: true, failed: []string{"bucket"}},
			"no put": {locking: true, failed: []string{"compliance lock", "governance bypass"}, fault: func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
				if req.Method == http.MethodPut {
					return answer(req, http.StatusForbidden, "AccessDenied"), nil
				}
				return send.RoundTrip(req)
			}},
			"deletes": {locking: true, failed: []string{"delete while locked", "governance bypass"}, fault: func(req *http.Request, send http.RoundTripper) (*http.Response, error) {
				if req.Method == http.MethodDelete && pretended.CompareAndSwap(false, true) {
					return answer(req, http.StatusNoContent, ""), nil
				}
				return send.RoundTrip(req)
			}},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				bucket := "missing"
				if !test.noBucket {
					bucket = server.Bucket(t, test.locking)
				}
				locked := test.locking && !slices.Contains(test.failed, "compliance lock")
				if locked && server.Name == VersityGW {
					// As of v1.8.0: a retention that is over takes the legal
					// hold beside it along.
					test.failed = append(test.failed, "legal hold after the lock")
				}
				checks := inspect(t, open(t, server, bucket, &wire{fault: test.fault}))
				var failed []string
				for name, c := range checks {
					if !c.OK {
						failed = append(failed, name)
						t.Logf("%+v", c)
					}
					if c.Fatal != (!c.OK && slices.Contains(fatal, name)) {
						t.Errorf("%s is fatal: %v", name, c.Fatal)
					}
				}
				slices.Sort(failed)
				slices.Sort(test.failed)
				if !slices.Equal(failed, test.failed) {
					t.Errorf("failed %q, want %q: %+v", failed, test.failed, checks)
				}
				if locked && len(checks) != 10 {
					t.Errorf("%d checks: %+v", len(checks), checks)
				}
				if test.noBucket {
					return
				}
				for o := range server.Admin(t).ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
					t.Errorf("left behind: %+v", o)
				}
			})
		}
	})
}
