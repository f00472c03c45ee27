package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/dir"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
)

// sweepOrder has the test binary sweep a site, which is its value as JSON, instead of
// testing: a process that can be killed, with the small limits of these tests.
const sweepOrder = "LOTKEEPER_TEST_SWEEP"

// Exit codes of that process, the same as the program's.
const (
	exitDone   = 0
	exitFailed = 1
	exitLocked = 5
)

func sweepAsOrdered(order string) int {
	err := func() error {
		var s site
		if err := json.Unmarshal([]byte(order), &s); err != nil {
			return err
		}
		e, close, err := s.engine(context.Background(), nil, nil)
		if err != nil {
			return err
		}
		defer close()
		fmt.Println("ready")
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
		_, err = e.Sweep(context.Background(), lifecycle.SweepOptions{})
		return err
	}()
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, lifecycle.ErrLocked), errors.Is(err, lifecycle.ErrFenced):
		return exitLocked
	}
	fmt.Fprintln(os.Stderr, err)
	return exitFailed
}

// sweeper is a process that sweeps a site.
type sweeper struct {
	*exec.Cmd
	orders   io.Writer
	messages strings.Builder
}

// sweeper starts one, and returns when it is ready to begin.
func (s *site) sweeper(t *testing.T) *sweeper {
	t.Helper()
	order, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	p := &sweeper{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), sweepOrder+"="+string(order))
	p.Stderr = &p.messages
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.orders, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		p.Wait()
		t.Fatalf("it will not sweep: %q, %v\n%s", line, err, p.messages.String())
	}
	return p
}

// begin lets it sweep.
func (p *sweeper) begin(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.orders, "sweep\n"); err != nil {
		t.Fatalf("%v\n%s", err, p.messages.String())
	}
}

// A tally counts where sweeps were when something was killed: by the last that the
// audit trail says of them.
type tally struct {
	mu    sync.Mutex
	hits  int
	after map[string]int // guarded by mu
}

func (y *tally) add(t *testing.T, e *lifecycle.Engine, runBefore string) {
	t.Helper()
	last := "nothing"
	if r := newestSweep(t, e); r.ID != runBefore {
		leaves, err := e.Store.Leaves(t.Context(), lifecycle.LeafQuery{RunID: r.ID})
		if err != nil || len(leaves) == 0 {
			t.Fatalf("the trail of run %s: %+v, %v", r.ID, leaves, err)
		}
		last = leaves[len(leaves)-1].Action
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.after == nil {
		y.after = map[string]int{}
	}
	y.hits++
	y.after[last]++
}

func (y *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sweeps hit", y.hits)
	for _, action := range slices.Sorted(maps.Keys(y.after)) {
		fmt.Fprintf(&b, ", %d after %s", y.after[action], action)
	}
	return b.String()
}

func newestSweep(t *testing.T, e *lifecycle.Engine) lifecycle.Run {
	t.Helper()
	runs, err := e.Store.Runs(t.Context(), 20)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		if r.Kind == "sweep" {
			return r
		}
	}
	return lifecycle.Run{}
}

// A life is a site that takes in records, sweeps, and is hit again and again.
type life struct {
	*site
	records, round int
	newest         string // the newest sweep that nobody hit
	tally          *tally
	// took is how long a sweep takes, by those that came to their end. It is only
	// where moments are drawn from.
	took time.Duration
}

const perRound = 60

// grows takes in another season.
func (l *life) grows(t *testing.T) {
	t.Helper()
	l.with(t, nil, nil, func(e *lifecycle.Engine) { ingest(t, e, season(l.round, perRound)...) })
	l.round++
	l.records += perRound
}

// survived: after a sweep was hit everything can still be read, and the next one
// finishes its work.
func (l *life) survived(t *testing.T) {
	t.Helper()
	l.with(t, nil, nil, func(e *lifecycle.Engine) {
		l.tally.add(t, e, l.newest)
		nothingLost(t, e, l.records)
		l.newest = sweepWhenFree(t, e).RunID
		nothingLeft(t, e)
	})
}

// ended: all is as if nothing had happened.
func (l *life) ended(t *testing.T) {
	t.Helper()
	l.with(t, nil, nil, func(e *lifecycle.Engine) { inOrder(t, e, l.records, l.objects(t)) })
	noPlaintext(t, l.Root)
}

// sweepWhenFree sweeps as soon as the lease of whoever was killed has run out.
func sweepWhenFree(t *testing.T, e *lifecycle.Engine) lifecycle.SweepResult {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		res, err := e.Sweep(t.Context(), lifecycle.SweepOptions{})
		if err == nil {
			return res
		}
		if !errors.Is(err, lifecycle.ErrLocked) || time.Now().After(deadline) {
			t.Fatalf("the next sweep: %+v, %v", res, err)
		}
	}
}

// undisturbed sweeps once without being hit.
func (l *life) undisturbed(t *testing.T) {
	t.Helper()
	l.grows(t)
	p := l.sweeper(t)
	began := time.Now()
	p.begin(t)
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.messages.String())
	}
	l.took = time.Since(began)
	l.with(t, nil, nil, func(e *lifecycle.Engine) { l.newest = newestSweep(t, e).ID })
}

// killed begins a sweep and kills it at a moment, unless it has ended.
func (l *life) killed(t *testing.T, rnd *rand.Rand) {
	t.Helper()
	l.grows(t)
	p := l.sweeper(t)
	began := time.Now()
	p.begin(t)
	timer := time.AfterFunc(moment(rnd, l.took), func() { p.Process.Kill() })
	defer timer.Stop()
	if p.Wait() == nil {
		l.took = min(l.took, time.Since(began))
	}
}

// seeded is a source of randomness for a test, and its seed in the test's log.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// moment is any of a sweep, and a little after.
func moment(rnd *rand.Rand, took time.Duration) time.Duration {
	return time.Duration(rnd.Int64N(int64(took + took/10)))
}

// short makes a test smaller for -short.
func short(n, less int) int {
	if testing.Short() {
		return less
	}
	return n
}

// kill -9 of the sweeping process at any moment, on PostgreSQL with two vaults: after
// each everything can be read, and the next sweep finishes the work; in the end all is
// as if nothing had happened.
func TestKilledSweepsOnServers(t *testing.T) {
	t.Parallel()
	var y tally
	lives, kills := short(5, 2), short(12, 3)
	east, west := s3test.Start(t, s3test.MinIO), s3test.Start(t, s3test.VersityGW)
	t.Run("lives", func(t *testing.T) {
		for range lives {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				rnd := seeded(t)
				l := &life{site: newSite(t, pgtest.New(t).URL(), bucketOn(t, east), bucketOn(t, west)), tally: &y}
				l.undisturbed(t)
				for range kills {
					l.killed(t, rnd)
					l.survived(t)
				}
				l.ended(t)
			})
		}
	})
	t.Logf("%d kills of a process, %v", lives*kills, &y)
}

// kill -9 of all of PostgreSQL at any moment of the sweeps on it, then a new start on
// what it has left.
func TestKilledPostgreSQL(t *testing.T) {
	t.Parallel()
	rnd := seeded(t)
	var y tally
	server := pgtest.NewServer(t)
	east, west := s3test.Start(t, s3test.MinIO), s3test.Start(t, s3test.VersityGW)
	lives := make([]*life, short(4, 2))
	took := time.Hour
	for i := range lives {
		lives[i] = &life{site: newSite(t, server.New(t).URL(), bucketOn(t, east), bucketOn(t, west)), tally: &y}
		lives[i].undisturbed(t)
		took = min(took, lives[i].took)
	}
	// each has all of them do something at once.
	each := func(do func(*life, *testing.T)) {
		t.Run("lives", func(t *testing.T) {
			for _, l := range lives {
				t.Run("", func(t *testing.T) {
					t.Parallel()
					do(l, t)
				})
			}
		})
	}
	kills := short(11, 2)
	for range kills {
		each((*life).grows)
		var sweeps []*sweeper
		for _, l := range lives {
			sweeps = append(sweeps, l.sweeper(t))
		}
		for _, p := range sweeps {
			p.begin(t)
		}
		time.Sleep(moment(rnd, took))
		server.Kill(t)
		for _, p := range sweeps {
			// It was done before, or it says what has happened.
			err := p.Wait()
			if err == nil {
				took = took * 9 / 10
			}
			// Or the lease of the one that was killed before had a moment to go.
			code := p.ProcessState.ExitCode()
			if err != nil && code != exitLocked && (code != exitFailed || p.messages.Len() == 0) {
				t.Errorf("a sweep whose database was killed: %v\n%s", err, p.messages.String())
			}
		}
		server.Start(t)
		if each((*life).survived); t.Failed() {
			return
		}
	}
	each((*life).ended)
	t.Logf("%d kills of the server, %v", kills, &y)
}

// kill -9 at any moment of a sweep loses nothing: what was ingested is read
// afterwards from wherever it is, and the next sweep finishes the work.
func TestKilledSweeps(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.run(0, "init")
	rnd := seeded(t)
	var y tally
	total, newest := 0, ""
	rounds, records := short(10, 3), short(1500, 300)
	for round := range rounds {
		var b strings.Builder
		for i := range records {
			at := time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rnd.IntN(600*24)) * time.Hour)
			fmt.Fprintf(&b, `{"record_id":"r-%d-%d","traceability_lot_code":"L-%d","event_timestamp":%q,"created_or_obtained_at":%q,"kde_payload":{"facility":"F","secret":"very-secret-%d"}}`+"\n",
				round, i, i%7, at.Format(time.RFC3339), at.Format(time.RFC3339), i)
		}
		total += records
		path := filepath.Join(s.dir, "in.jsonl")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		// Also the ingest is killed, and then done again.
		kill(t, s.command("ingest", path), time.Duration(rnd.IntN(200))*time.Millisecond)
		got := s.object(0, "ingest", path)
		if got["accepted"].(float64)+got["duplicates"].(float64) != float64(records) || got["rejected"] != 0.0 {
			t.Fatalf("round %d: %v", round, got)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		kill(t, s.command("sweep"), time.Duration(rnd.IntN(600))*time.Millisecond)
		s.embedded(func(e *lifecycle.Engine) {
			y.add(t, e, newest)
			newest = newestSweep(t, e).ID
		})
		if n := strings.Count(s.run(0, "export"), "\n"); n != total {
			t.Fatalf("round %d: %d of %d records can be read", round, n, total)
		}
	}
	s.run(0, "sweep")
	s.embedded(func(e *lifecycle.Engine) {
		var keys []string
		for o, err := range e.Vaults[0].Versions(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, o.Key)
		}
		inOrder(t, e, total, map[string][]string{"local": keys})
	})
	if v := s.object(0, "verify"); v["records"] != float64(total) {
		t.Errorf("verify: %v of %d", v, total)
	}
	noPlaintext(t, s.dir)
	t.Logf("%d kills of a process, %v", rounds, &y)
}

// embedded opens what init made, without a configuration.
func (s *shell) embedded(do func(*lifecycle.Engine)) {
	s.t.Helper()
	root := filepath.Join(s.dir, "lotkeeper-data")
	keys, err := filekeys.Open(filepath.Join(root, "keyring"), filekeys.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer keys.Close()
	store, err := sqlite.Open(s.t.Context(), filepath.Join(root, "lotkeeper.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	vault, err := dir.Open(filepath.Join(root, "vault"), "local", dir.Options{Now: time.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	do(&lifecycle.Engine{
		Store: store, Vaults: []archive.Vault{vault}, Keys: keys, Now: time.Now, Log: zerolog.Nop(),
		Policy: lifecycle.DefaultPolicy(), Limits: lifecycle.DefaultLimits(), Actor: "tester", Software: "test",
	})
}

// kill starts a command and kills it after a while, unless it has ended.
func kill(t *testing.T, cmd *exec.Cmd, after time.Duration) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
}
