package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// A gate stands before a server, lets everything through, and keeps one request
// waiting until it is opened.
type gate struct {
	URL    string
	caught chan struct{} // closed when the request has come
	open   func()
}

// newGate keeps the first request that is the one.
func newGate(t *testing.T, s *s3test.Server, isIt func(*http.Request) bool) *gate {
	t.Helper()
	backend, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{caught: make(chan struct{})}
	opened := make(chan struct{})
	g.open = sync.OnceFunc(func() { close(opened) })
	var kept atomic.Bool
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend)
		r.Out.Host = r.In.Host // it is signed
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isIt(r) && kept.CompareAndSwap(false, true) {
			close(g.caught)
			<-opened
		}
		proxy.ServeHTTP(w, r)
	}))
	g.URL = front.URL
	t.Cleanup(front.Close)
	t.Cleanup(g.open)
	return g
}

// await waits for what has to come.
func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not come", what)
	}
}

// A shared database is one that several processes of the program work on, with a
// vault behind a gate.
type sharedDatabase struct {
	*shell
	*gate
	database *pgtest.Database
	bucket   bucket
}

func newSharedDatabase(t *testing.T, isIt func(*http.Request) bool) *sharedDatabase {
	t.Helper()
	d := &sharedDatabase{shell: newShell(t), database: pgtest.New(t), bucket: newBucket(t, s3test.MinIO)}
	d.gate = newGate(t, d.bucket.Server, isIt)
	d.env = []string{
		"LOTKEEPER_CONFIG=" + d.file("lotkeeper.yaml", fmt.Sprintf("data: data\nstore: %s\nvaults:\n  - name: east\n    url: %s\n", d.database.URL(), d.bucket.awsURL(d.gate.URL))),
		"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey,
	}
	d.run(0, "init")
	if got := d.object(0, "ingest", sample(t, "season.jsonl")); got["accepted"] != 8.0 {
		t.Fatalf("ingest: %v", got)
	}
	return d
}

// archivedOnce: of the season's records so many are archived, each in one copy, and
// everything is in order.
func (d *sharedDatabase) archivedOnce(records int) {
	t := d.t
	t.Helper()
	copies := map[any]int{}
	for _, r := range d.array(0, "report", "checksums") {
		if r["segment"] != "" {
			copies[r["record_id"]]++
		}
	}
	for id, n := range copies {
		if n != 1 {
			t.Errorf("record %v is archived %d times", id, n)
		}
	}
	if len(copies) != records {
		t.Errorf("%d records are archived, not %d", len(copies), records)
	}
	if v := d.object(0, "verify"); v["records"] != 8.0 {
		t.Errorf("verify: %v", v)
	}
}

// Of two sweeps that are started at once one works, and the other says that it does.
func TestTwoSweepsAtOnce(t *testing.T) {
	t.Parallel()
	d := newSharedDatabase(t, func(r *http.Request) bool { return puts(r) && isObject(r) })
	works, waits := d.start("sweep", "-o", "json"), d.start("sweep", "-o", "json")
	await(t, "the first put", d.caught)
	select {
	case <-works.ended:
		works, waits = waits, works
	case <-waits.ended:
	case <-time.After(time.Minute):
		t.Fatal("both sweeps run")
	}
	out, messages := waits.end(5)
	for _, want := range []string{"another run holds the lock", "lotkeeper: hint: ", "run list"} {
		if !strings.Contains(messages, want) {
			t.Errorf("the second sweep does not say %q:\n%s", want, messages)
		}
	}
	if out != "" {
		t.Errorf("the second sweep prints\n%s", out)
	}
	d.open()
	var swept lifecycle.SweepResult
	out, _ = works.end(0)
	if d.decode(&swept, out); swept.Archived != 6 || swept.Held != 1 {
		t.Errorf("the first sweep: %+v", swept)
	}
	d.archivedOnce(6)
}

func isObject(r *http.Request) bool { return segmentID.MatchString(r.URL.Path) }

// A sweep that stood still for longer than its lease, while another took over, wakes
// up and can change nothing, wherever it was.
func TestPausedSweep(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at func(*http.Request) bool
		// adopted: what it had put by then is gone on with by the other.
		adopted float64
	}{
		"at the first put":      {func(r *http.Request) bool { return puts(r) && isObject(r) }, 0},
		"at the last read-back": {func(r *http.Request) bool { return gets(r) && isObject(r) && strings.HasSuffix(r.URL.Path, ".json") }, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newSharedDatabase(t, c.at)
			paused := d.start("sweep")
			await(t, "the request", d.caught)
			if err := paused.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			// The lease is half a minute long.
			deadline := time.Now().Add(3 * time.Minute)
			var took *typed
			for took = d.start("sweep", "-o", "json"); ; took = d.start("sweep", "-o", "json") {
				<-took.ended
				if took.ProcessState.ExitCode() != 5 || time.Now().After(deadline) {
					break
				}
				time.Sleep(200 * time.Millisecond)
			}
			out, _ := took.end(0)
			var got map[string]any
			if d.decode(&got, out); got["recovered"] != c.adopted || got["archived"] != 6-c.adopted || got["shredded_classes"] != 3.0 {
				t.Errorf("the sweep that took over: %v", got)
			}
			before := d.everything()

			d.open()
			if err := paused.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			_, messages := paused.end(5)
			for _, want := range []string{"the run's lease was lost to a later run", "lotkeeper: hint: nothing was changed since"} {
				if !strings.Contains(messages, want) {
					t.Errorf("the sweep that woke up does not say %q:\n%s", want, messages)
				}
			}
			if after := d.everything(); after != before {
				t.Errorf("the sweep that woke up has changed\n%s\ninto\n%s", before, after)
			}
			d.archivedOnce(6)
			if runs := d.array(0, "run", "list"); runs[0]["run_id"] != got["run_id"] || runs[0]["status"] != "done" || runs[1]["status"] != "interrupted" {
				t.Errorf("runs: %v", runs)
			}
		})
	}
}

// everything is all rows of all tables, but for the lease's term.
func (d *sharedDatabase) everything() string {
	t := d.t
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.database.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	tables, err := conn.Query(t.Context(), `SELECT relname FROM pg_class WHERE relnamespace = 'lotkeeper'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(tables, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		row := "to_jsonb(x)::text"
		if name == "leases" {
			row = "(to_jsonb(x) - 'expires_at')::text"
		}
		var rows string
		if err := conn.QueryRow(t.Context(), `SELECT coalesce(string_agg(`+row+`, E'\n' ORDER BY `+row+`), '') FROM lotkeeper.`+name+` x`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s\n%s\n", name, rows)
	}
	return all.String()
}
