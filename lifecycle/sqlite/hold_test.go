package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// plant is a database of records whose lots were made from others, all of them due,
// with a sweep that has a verified segment.
type plant struct {
	testing.TB
	*Store
	path          string
	hot, archive  lifecycle.Class
	lease         lifecycle.Lease
	records, hold int
}

func newPlant(t testing.TB) *plant {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lotkeeper-test-") // many databases, and no power is cut
	if err != nil {
		dir = t.TempDir()
	}
	p := &plant{TB: t, path: filepath.Join(dir, "lotkeeper.db")}
	if p.Store, err = Create(t.Context(), p.path, 0, storetest.Init()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.remove)
	due := storetest.Start.AddDate(0, -1, 0)
	class := func(period lifecycle.Period) lifecycle.Class {
		return lifecycle.Class{ID: period.ID(1), Period: period, Generation: 1, State: lifecycle.Open}
	}
	p.hot, p.archive = class(lifecycle.HotPeriod(due)), class(lifecycle.ArchivePeriod(due.AddDate(1, 0, 0)))
	p.ok(p.OpenClasses(t.Context(), []lifecycle.Class{p.hot, p.archive}, 0, tick))
	p.lease, err = p.BeginRun(t.Context(), lifecycle.Run{ID: "run-1", Kind: "sweep", StartedAt: storetest.Start}, tick)
	p.ok(err)
	p.segment("seg-1")
	return p
}

func (p *plant) remove() {
	p.Close()
	os.RemoveAll(filepath.Dir(p.path))
}

func (p *plant) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *plant) segment(id string) {
	p.Helper()
	ctx := p.Context()
	p.ok(p.StageSegment(ctx, p.lease, lifecycle.Segment{ID: id, Class: p.archive.ID, Records: 1, ObjectKey: "o-" + id, ManifestKey: "m-" + id, WrappedIdentity: []byte("i"), RetainUntil: storetest.Start, CreatedAt: storetest.Start}, tick))
	p.ok(p.VerifySegment(ctx, p.lease, id, []lifecycle.Copy{{Vault: "main", ObjectVersion: "v-" + id, ManifestVersion: "w-" + id, RetainUntil: storetest.Start, VerifiedAt: storetest.Start}}, tick))
}

// made is a record that says that a lot was made from others.
func (p *plant) made(lot cte.Lot, from ...cte.Lot) lifecycle.Sealed {
	p.records++
	id := fmt.Sprintf("r-%d", p.records)
	event := storetest.Start.AddDate(-3, 0, 0).Add(time.Duration(p.records) * time.Hour)
	return lifecycle.Sealed{
		Row: lifecycle.Row{RecordID: id, TLC: lot.TLC, TLCSource: lot.Source, EventType: cte.Transformation, EventTimestamp: event, CreatedOrObtainedAt: event,
			DueAt: storetest.Start.AddDate(0, -1, 0), PurgeNotBefore: storetest.Start, Checksum: sha256.Sum256([]byte(id)), Class: p.hot.ID, ArchiveClass: p.archive.ID},
		Payload: []byte("p"), WrappedDEK: []byte("d"), Inputs: from,
	}
}

func (p *plant) merge(rows ...lifecycle.Sealed) {
	p.Helper()
	res, err := p.Merge(p.Context(), rows, nil, tick)
	p.ok(err)
	if res.Inserted != len(rows) {
		p.Fatalf("merged %+v of %d", res, len(rows))
	}
}

func (p *plant) placement(scopes ...lifecycle.Scope) lifecycle.Placement {
	p.hold++
	return lifecycle.Placement{Leaf: tick, Hold: lifecycle.Hold{ID: fmt.Sprintf("h-%d", p.hold), Kind: lifecycle.Recall, PlacedAt: storetest.Start, Scopes: scopes}}
}

func (p *plant) place(scopes ...lifecycle.Scope) string {
	p.Helper()
	h := p.placement(scopes...)
	p.ok(p.Place(p.Context(), h))
	return h.Hold.ID
}

// rows are the records in a state, all if none.
func (p *plant) rows(state lifecycle.State) (out []lifecycle.Row) {
	p.Helper()
	for r, err := range p.Rows(p.Context(), lifecycle.Query{State: state}) {
		p.ok(err)
		out = append(out, r)
	}
	return out
}

// sweep soft-deletes all that it may, and says what is left.
func (p *plant) sweep() (left []string) {
	p.Helper()
	var members []lifecycle.Member
	for _, r := range p.rows(lifecycle.Active) {
		members = append(members, lifecycle.Member{RecordID: r.RecordID, Checksum: r.Checksum})
	}
	done, err := p.SoftDelete(p.Context(), p.lease, "seg-1", storetest.Start, members, tick)
	p.ok(err)
	for _, r := range p.rows(lifecycle.Active) {
		left = append(left, r.RecordID)
	}
	if done.Records+len(left) != len(members) {
		p.Fatalf("archived %d of %d, and %d are left", done.Records, len(members), len(left))
	}
	return left
}

func (p *plant) engine() *lifecycle.Engine {
	return &lifecycle.Engine{Store: p.Store, Now: func() time.Time { return storetest.Start }}
}

// covered is what the planner's check says of records.
func (p *plant) covered(rows []lifecycle.Row) (ids []string) {
	p.Helper()
	set, err := p.engine().HoldSet(p.Context())
	p.ok(err)
	for i := range rows {
		if len(set.Covering(&rows[i])) > 0 {
			ids = append(ids, rows[i].RecordID)
		}
	}
	return ids
}

func lot(tlc string) cte.Lot { return cte.Lot{TLC: tlc} }

func traced(tlc string, t lifecycle.Trace) lifecycle.Scope {
	return lifecycle.Scope{TLC: tlc, Trace: t}
}

// TestHoldsAgree: whatever is merged, held and released in whatever order, what
// SoftDelete leaves is what the planner's check in memory says is covered, and so is
// what the reads and the guard say.
func TestHoldsAgree(t *testing.T) {
	codes := []string{"A", "AB", "ABC", "a", "B", "BA", "Ab", "C%", "C_", "", "é", "éclair"}
	sources := []string{"", "", "S", "T"}
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlant(t)
		defer p.remove()
		p.pace = pace{step: rapid.IntRange(1, 4).Draw(rt, "step"), merged: rapid.IntRange(1, 8).Draw(rt, "merged"), locked: rapid.IntRange(0, 10).Draw(rt, "locked"), rounds: rapid.IntRange(0, 2).Draw(rt, "rounds")}
		code, source := rapid.SampledFrom(codes), rapid.SampledFrom(sources)
		drawLot := func(name string) cte.Lot {
			return cte.Lot{TLC: code.Draw(rt, name), Source: source.Draw(rt, name+" source")}
		}
		scope := func() (sc lifecycle.Scope) {
			bits := rapid.IntRange(0, 127).Draw(rt, "conditions")
			if bits == 127 {
				return lifecycle.Scope{All: true}
			}
			if bits&1 > 0 {
				sc.TLC, sc.TLCSource = code.Draw(rt, "tlc"), source.Draw(rt, "source")
			} else if bits&2 > 0 {
				sc.TLCPrefix, sc.TLCSource = code.Draw(rt, "prefix"), source.Draw(rt, "source")
			}
			// The rest seldom, or hardly anything matches.
			if bits&12 == 12 {
				sc.RecordID = fmt.Sprintf("r-%d", rapid.IntRange(1, 12).Draw(rt, "record"))
			}
			if bits&24 == 24 {
				sc.Location = rapid.SampledFrom([]string{"X", "Y"}).Draw(rt, "location")
			}
			if bits&48 == 48 {
				sc.From = storetest.Start.AddDate(-3, 0, 0).Add(time.Duration(rapid.IntRange(1, 6).Draw(rt, "from")) * time.Hour)
			}
			if bits&96 == 96 {
				sc.To = storetest.Start.AddDate(-3, 0, 0).Add(time.Duration(rapid.IntRange(7, 14).Draw(rt, "to")) * time.Hour)
			}
			sc.Trace = rapid.SampledFrom([]lifecycle.Trace{"", lifecycle.Forward, lifecycle.Backward, lifecycle.Both}).Draw(rt, "trace")
			return sc
		}
		var holds []string
		for range rapid.IntRange(2, 14).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"merge", "merge", "place", "place", "extend", "release", "trace", "sweep"}).Draw(rt, "step") {
			case "merge":
				var rows []lifecycle.Sealed
				for range rapid.IntRange(1, 4).Draw(rt, "records") {
					var from []cte.Lot
					for range rapid.IntRange(0, 3).Draw(rt, "inputs") {
						from = append(from, drawLot("input"))
					}
					r := p.made(drawLot("lot"), from...)
					r.Location = rapid.SampledFrom([]string{"", "X", "Y"}).Draw(rt, "at")
					rows = append(rows, r)
				}
				p.merge(rows...)
			case "place":
				if sc := scope(); sc.Validate() == nil {
					holds = append(holds, p.place(sc))
				}
			case "extend":
				if sc := scope(); len(holds) > 0 && sc.Validate() == nil {
					if err := p.Extend(t.Context(), rapid.SampledFrom(holds).Draw(rt, "hold"), []lifecycle.Scope{sc, sc}, tick); err != nil && !errors.Is(err, lifecycle.ErrReleased) {
						rt.Fatal(err)
					}
				}
			case "release":
				if len(holds) > 0 {
					if err := p.Release(t.Context(), rapid.SampledFrom(holds).Draw(rt, "hold"), "x", tick); err != nil && !errors.Is(err, lifecycle.ErrReleased) {
						rt.Fatal(err)
					}
				}
			case "trace":
				p.ok(p.TraceHolds(t.Context()))
			case "sweep":
				p.agree(rt)
			}
		}
		p.agree(rt)
	})
}

// agree compares what is known of the holds in every way there is to ask.
func (p *plant) agree(rt rapid.TB) {
	rt.Helper()
	ctx := p.Context()
	rows := p.rows("")
	covered := p.covered(rows)
	ask := func(q lifecycle.Query) (ids []string) {
		q, err := p.engine().Select(ctx, q)
		p.ok(err)
		for r, err := range p.Rows(ctx, q) {
			p.ok(err)
			ids = append(ids, r.RecordID)
		}
		return ids
	}
	if got := ask(lifecycle.Query{State: lifecycle.Held}); !slices.Equal(got, covered) {
		rt.Fatalf("held are %q, covered %q", got, covered)
	}
	if got := ask(lifecycle.Query{ExceptHeld: true}); len(got)+len(covered) != len(rows) || slices.ContainsFunc(got, func(id string) bool { return slices.Contains(covered, id) }) {
		rt.Fatalf("not held are %q, covered %q", got, covered)
	}
	q, err := p.engine().Select(ctx, lifecycle.Query{State: lifecycle.Held})
	p.ok(err)
	if c, err := p.Coverage(ctx, q.Reach); err != nil || c.Covered != int64(len(covered)) {
		rt.Fatalf("%+v, %v, and %d are covered", c, err, len(covered))
	}
	var want []string
	for _, r := range p.rows(lifecycle.Active) {
		if slices.Contains(covered, r.RecordID) {
			want = append(want, r.RecordID)
		}
	}
	if left := p.sweep(); !slices.Equal(left, want) {
		rt.Fatalf("left are %q, want %q", left, want)
	}
	if n, err := p.unfinished(ctx, p.r, 0); err != nil || len(n) > 0 && len(want) < len(rows) {
		// A sweep that archived nothing has rolled back nothing either.
		rt.Fatalf("%d traces are unfinished, %v", len(n), err)
	}
	// The guard, with another program's statement.
	for _, id := range want {
		tx, err := p.w.Begin()
		p.ok(err)
		_, err = tx.Exec(`UPDATE records SET state = 'archived', segment_no = 1 WHERE record_id = ?`, id)
		if err == nil || !strings.Contains(err.Error(), "archived under a hold") {
			rt.Fatalf("%s, which is held, archived: %v", id, err)
		}
		tx.Rollback()
	}
}

// TestLinkAfterTrace: what comes after TraceHolds is seen by whoever destroys.
func TestLinkAfterTrace(t *testing.T) {
	p := newPlant(t)
	p.merge(p.made(lot("B"), lot("A")))
	p.place(traced("A", lifecycle.Forward))
	p.place(lifecycle.Scope{Location: "X", Trace: lifecycle.Backward})
	p.ok(p.TraceHolds(t.Context()))
	at := p.made(lot("E"), lot("D"))
	at.Location = "X"
	p.merge(p.made(lot("C"), lot("B")), p.made(lot("D")), at)
	p.merge(p.made(lot("Z")))
	if left := p.sweep(); !slices.Equal(left, []string{"r-1", "r-2", "r-3", "r-4"}) {
		t.Errorf("left are %q", left)
	}
}

// TestStartSource: a record without a source that a scope with one matches is of that
// source where the trace starts, and not of any.
func TestStartSource(t *testing.T) {
	p := newPlant(t)
	p.merge(p.made(lot("A")), p.made(lot("B"), cte.Lot{TLC: "A", Source: "T"}), p.made(lot("C"), cte.Lot{TLC: "A", Source: "S"}), p.made(lot("D"), lot("A")))
	p.place(lifecycle.Scope{TLC: "A", TLCSource: "S", EventType: cte.Transformation, Trace: lifecycle.Forward})
	if left := p.sweep(); !slices.Equal(left, []string{"r-1", "r-3", "r-4"}) {
		t.Errorf("left are %q", left)
	}
	p.merge(p.made(cte.Lot{TLC: "E", Source: "T"}, cte.Lot{TLC: "F", Source: "T"}), p.made(lot("G"), lot("Ed")), p.made(lot("H"), cte.Lot{TLC: "Ed", Source: "T"}))
	p.place(lifecycle.Scope{TLCPrefix: "E", TLCSource: "S", Trace: lifecycle.Forward})
	if left := p.sweep(); !slices.Equal(left, []string{"r-1", "r-3", "r-4", "r-6"}) {
		t.Errorf("left are %q", left)
	}
}

// long merges a chain of so many lots, or a star, from L0 on.
func (p *plant) long(n int, star bool) {
	p.Helper()
	for from := 1; from <= n; from += 5000 {
		var rows []lifecycle.Sealed
		for i := from; i < min(from+5000, n+1); i++ {
			in := lot("L0")
			if !star {
				in = lot(fmt.Sprint("L", i-1))
			}
			rows = append(rows, p.made(lot(fmt.Sprint("L", i)), in))
		}
		p.merge(rows...)
	}
}

// TestTraceHoldsSteps: a long trace is made in small steps, and holds get in between.
func TestTraceHoldsSteps(t *testing.T) {
	n, pace := 20_000, usualPace
	if testing.Short() {
		n, pace.step = 2000, 100
	}
	for _, star := range []bool{false, true} {
		t.Run(fmt.Sprint("star ", star), func(t *testing.T) {
			p := newPlant(t)
			p.pace = pace
			p.long(n, star)
			id := p.place(traced("L0", lifecycle.Forward))
			var stop atomic.Bool
			var wg sync.WaitGroup
			var slowest time.Duration
			placed := 0
			wg.Go(func() {
				for !stop.Load() {
					began := time.Now()
					if err := p.Place(t.Context(), p.placement(lifecycle.Scope{RecordID: "r-1"})); err != nil {
						t.Error(err)
						return
					}
					slowest = max(slowest, time.Since(began))
					placed++
				}
			})
			began := time.Now()
			p.ok(p.TraceHolds(t.Context()))
			took := time.Since(began)
			stop.Store(true)
			wg.Wait()
			t.Logf("%d lots in %s; %d holds, of which one waited for %s", n, took, placed, slowest)
			// How long one waited is the machine's affair as well: it is for the reader.
			if steps := n / p.pace.step; placed < steps/4 {
				t.Errorf("%d holds were placed within some %d steps", placed, steps)
			}
			var lots, rows int
			p.ok(p.r.QueryRow(`SELECT t.lots, (SELECT count(*) FROM hold_lots l WHERE l.scope_no = t.scope_no) FROM hold_traces t`).Scan(&lots, &rows))
			if lots != n+1 || rows != n+1 {
				t.Errorf("%d lots, %d counted, want %d", rows, lots, n+1)
			}
			if left := p.sweep(); len(left) != n {
				t.Errorf("%d of %d are left", len(left), n)
			}
			p.ok(p.Release(t.Context(), id, "x", tick))
			if left := p.sweep(); !slices.Equal(left, []string{"r-1"}) {
				t.Errorf("left are %q", left)
			}
		})
	}
}

// TestStep: no step goes through much more than it is to.
func TestStep(t *testing.T) {
	for _, star := range []bool{false, true} {
		p := newPlant(t)
		p.long(3000, star)
		p.place(traced("L0", lifecycle.Both))
		p.place(lifecycle.Scope{TLCPrefix: "L", Trace: lifecycle.Backward})
		p.pace.step, p.pace.merged = 100, 500 // merges of 3,000 are not split
		newest, err := newestMerge(t.Context(), p.r)
		p.ok(err)
		traces, err := p.unfinished(t.Context(), p.r, newest)
		p.ok(err)
		for i, tr := range traces {
			steps := 0
			for done := false; !done; steps++ {
				p.ok(p.write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
					var before, after, looked int
					p.ok(tx.QueryRow(`SELECT count(*) FROM hold_lots`).Scan(&before))
					looked, done, err = tr.step(ctx, tx, newest)
					p.ok(err)
					p.ok(tx.QueryRow(`SELECT count(*) FROM hold_lots`).Scan(&after))
					if merged := i == 1 && steps == 0; !merged && (looked > 202 || after-before > 202) {
						t.Errorf("a step looked at %d and added %d", looked, after-before)
					}
					return nil
				}))
			}
			if steps < 15 {
				t.Errorf("%d steps", steps)
			}
		}
	}
}

// TestFarBehind: nobody has called TraceHolds, and still nothing is missed.
func TestFarBehind(t *testing.T) {
	p := newPlant(t)
	p.long(6000, false)
	p.place(traced("L0", lifecycle.Forward))
	if left := p.sweep(); len(left) != 6000 {
		t.Errorf("%d are left", len(left))
	}
	p.long(100, false) // once more, with the same lots
	p.pace = pace{step: 10, merged: 10, locked: 0, rounds: 3}
	p.place(traced("L3000", lifecycle.Backward))
	if left := p.sweep(); len(left) != 6100 {
		t.Errorf("%d are left", len(left))
	}
}

// TestTracedMeanwhile: a process in the middle of a lot's links, and another that
// counts on the first to look at those that have just come.
func TestTracedMeanwhile(t *testing.T) {
	p := newPlant(t)
	p.pace.step = 1
	p.merge(p.made(lot("B"), lot("A")), p.made(lot("A"), lot("Z")))
	p.place(traced("A", lifecycle.Both))
	load := func() (*trace, int64) {
		newest, err := newestMerge(t.Context(), p.r)
		p.ok(err)
		traces, err := p.unfinished(t.Context(), p.r, newest)
		p.ok(err)
		return traces[0], newest
	}
	step := func(tr *trace, newest int64) {
		p.ok(p.write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tr.reload(ctx, tx); err != nil {
				return err
			}
			_, _, err := tr.step(ctx, tx, newest)
			return err
		}))
	}
	one, old := load()
	for one.at.way == 0 {
		step(one, old)
	}
	p.merge(p.made(lot("C"), lot("A")))
	other, newest := load()
	step(other, newest)
	if other.tracedTo != newest || other.expandedTo != 0 {
		t.Fatalf("traced to %d of %d, expanded to %d", other.tracedTo, newest, other.expandedTo)
	}
	for range 10 {
		step(one, old)
	}
	if left := p.sweep(); len(left) != 3 {
		t.Errorf("left are %q", left)
	}
}

// TestTraceRace: several trace, one merges, and what they know in the end is all.
func TestTraceRace(t *testing.T) {
	p := newPlant(t)
	p.pace.step, p.pace.merged = 3, 4
	p.place(traced("L0", lifecycle.Both), lifecycle.Scope{TLCPrefix: "M", Trace: lifecycle.Forward}, lifecycle.Scope{Location: "X", Trace: lifecycle.Both})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		other, err := Open(t.Context(), p.path)
		p.ok(err)
		defer other.Close()
		other.pace = p.pace
		wg.Go(func() {
			for !stop.Load() {
				if err := other.TraceHolds(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		var rows []lifecycle.Sealed
		for j := range 3 {
			n := (i*7 + j*13) % 40
			r := p.made(lot(fmt.Sprint("L", n)), lot(fmt.Sprint("L", (n*3+i)%50)), lot("L0"), lot(fmt.Sprint("M", i%5)))
			if i%20 == 0 {
				r.Location = "X"
			}
			rows = append(rows, r, p.made(lot(fmt.Sprint("N", i)), lot(fmt.Sprint("M", i))))
		}
		p.merge(rows...)
		p.merge(p.made(lot(fmt.Sprint("free", i)), lot("free")))
	}
	stop.Store(true)
	wg.Wait()
	want := p.covered(p.rows(lifecycle.Active))
	if left := p.sweep(); !slices.Equal(left, want) || len(left) < 5*rounds || len(left) == 7*rounds {
		t.Errorf("%d are left, %d covered", len(left), len(want))
	}
}

// TestExecuteSeesHolds: a class with a held member stays as it is, whichever way the
// hold covers it, and whether or not its members are looked at under the lock.
func TestExecuteSeesHolds(t *testing.T) {
	for _, c := range []struct {
		scope lifecycle.Scope
		held  bool
	}{
		{lifecycle.Scope{RecordID: "r-1"}, true},
		{lifecycle.Scope{RecordID: "r-2"}, false},
		{lifecycle.Scope{TLC: "B"}, true},
		{lifecycle.Scope{TLCPrefix: "B"}, true},
		{lifecycle.Scope{EventType: cte.Transformation}, true},
		{lifecycle.Scope{All: true}, true},
		{traced("A", lifecycle.Forward), true},
		{traced("A", lifecycle.Backward), false},
		{lifecycle.Scope{Location: "X", Trace: lifecycle.Forward}, false},
	} {
		for _, rounds := range []int{0, 5} {
			t.Run(fmt.Sprint(c.scope, rounds), func(t *testing.T) {
				p := newPlant(t)
				p.pace.rounds = rounds
				p.merge(p.made(lot("B"), lot("A")))
				p.sweep()
				ids, err := p.Condemn(t.Context(), p.lease, storetest.Start, []string{p.hot.ID}, tick)
				if err != nil || len(ids) != 1 {
					t.Fatalf("%q, %v", ids, err)
				}
				id := p.place(c.scope)
				out, err := p.Execute(t.Context(), p.lease, storetest.Start, ids, tick)
				if err != nil || (len(out) == 0) != c.held {
					t.Errorf("evidence %+v, %v", out, err)
				}
				p.ok(p.Release(t.Context(), id, "x", tick))
				if out, err := p.Execute(t.Context(), p.lease, storetest.Start, ids, tick); err != nil || len(out) != 1 {
					t.Errorf("after the release: %+v, %v", out, err)
				}
			})
		}
	}
}

// TestDecide: what comes between the look and the lock makes it look again, unless it
// makes no record held that was there before.
func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		comes func(*plant, int)
		looks int
	}{
		"nothing": {func(*plant, int) {}, 1},
		"a hold":  {func(p *plant, n int) { p.place(lifecycle.Scope{RecordID: fmt.Sprint(n)}) }, 6},
		"a scope": {func(p *plant, n int) {
			p.ok(p.Extend(p.Context(), "h-1", []lifecycle.Scope{{RecordID: fmt.Sprint(n)}}, tick))
		}, 6},
		"a link":       {func(p *plant, n int) { p.merge(p.made(lot(fmt.Sprint("B", n)), lot("A"))) }, 6},
		"another link": {func(p *plant, n int) { p.merge(p.made(lot(fmt.Sprint("B", n)), lot("C"))) }, 1},
		"a hold, once": {func(p *plant, n int) {
			if n == 1 {
				p.place(lifecycle.Scope{All: true})
			}
		}, 2},
		"a trace, at last": {func(p *plant, n int) {
			if n == 3 {
				p.place(traced("A", lifecycle.Both))
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			p.place(traced("A", lifecycle.Forward))
			looks, decided := 0, 0
			p.ok(p.decide(t.Context(), func(fn func(context.Context, *sql.Tx) error) error { return p.write(t.Context(), fn) }, func(_ context.Context, q querier, _ holdsMark) error {
				looks++
				var n int
				p.ok(q.QueryRowContext(t.Context(), `SELECT count(*) FROM holds`).Scan(&n)) // the snapshot is of now
				if looks <= 5 {
					c.comes(p, looks)
				}
				return nil
			}, func(context.Context, *sql.Tx) error {
				decided++
				return nil
			}))
			if looks != c.looks || decided != 1 {
				t.Errorf("it looked %d times and decided %d times, want %d looks", looks, decided, c.looks)
			}
		})
	}
}

// TestCoverageEnds: counting ends with its context, soon, and leaves nothing behind.
func TestCoverageEnds(t *testing.T) {
	p := newPlant(t)
	p.long(5000, true)
	// As slow as ten million records: each is compared with thousands of scopes.
	var slow lifecycle.Reach
	for i := range 5000 {
		slow.Scopes = append(slow.Scopes, lifecycle.Scope{Location: fmt.Sprint("nowhere ", i)})
	}
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began := time.Now()
		c, err := p.Coverage(ctx, slow)
		cancel()
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > time.Second {
			t.Fatalf("%+v, %v after %s", c, err, took)
		}
		began = time.Now()
		if c, err := p.Coverage(t.Context(), lifecycle.Reach{Lots: []cte.Lot{lot("L7")}}); err != nil || c.Covered != 1 || time.Since(began) > time.Second {
			t.Fatalf("%+v, %v", c, err)
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Coverage(done, slow); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := p.r.Stats().InUse; n > 0 {
		t.Errorf("%d connections are in use", n)
	}
}

// TestHoldComesBack: what was placed is read as it was, to the last field.
func TestHoldComesBack(t *testing.T) {
	p := newPlant(t)
	h := p.placement(lifecycle.Scope{RecordID: "r", TLC: "L", TLCSource: "S", Location: "F", Product: "P", EventType: cte.Shipping, From: storetest.Start, To: storetest.Start.Add(1), Trace: lifecycle.Both},
		lifecycle.Scope{All: true}, lifecycle.Scope{TLCPrefix: "L%", Trace: lifecycle.Backward}, lifecycle.Scope{TLC: "L\xff\x00", Trace: lifecycle.Forward})
	h.Hold.Reference, h.Hold.ReviewAt, h.Hold.Until = "FDA-1", storetest.Start.Add(2), storetest.Start.Add(3)
	p.ok(p.Place(t.Context(), h))
	more := []lifecycle.Scope{h.Hold.Scopes[2], {Product: "P"}, {Product: "P"}, h.Hold.Scopes[0]}
	p.ok(p.Extend(t.Context(), h.Hold.ID, more, tick))
	h.Hold.Scopes = append(h.Hold.Scopes, lifecycle.Scope{Product: "P"})
	if got, err := p.Hold(t.Context(), h.Hold.ID); err != nil || !reflect.DeepEqual(*got, h.Hold) {
		t.Errorf("%+v, %v, want\n%+v", got, err, h.Hold)
	}
	leaves := func() int64 { i, err := p.Info(t.Context()); p.ok(err); return i.NewestLeaf.ID }
	before := leaves()
	p.ok(p.Extend(t.Context(), h.Hold.ID, more, tick))
	p.ok(p.Place(t.Context(), h))
	other := p.placement(lifecycle.Scope{All: true})
	other.Hold.Reference = "FDA-1"
	var taken *lifecycle.ReferenceTaken
	if err := p.Place(t.Context(), other); !errors.As(err, &taken) || taken.HoldID != h.Hold.ID {
		t.Errorf("a reference that is taken: %v", err)
	}
	if err := p.Extend(t.Context(), "h-none", more, tick); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Error(err)
	}
	if n := leaves(); n != before {
		t.Errorf("%d leaves were written for nothing", n-before)
	}
	p.ok(p.Release(t.Context(), h.Hold.ID, "x", tick))
	if err := p.Extend(t.Context(), h.Hold.ID, more, tick); !errors.Is(err, lifecycle.ErrReleased) {
		t.Error(err)
	}
	p.ok(p.Place(t.Context(), other))
}

// TestLegalHoldMoves: every move there is, from every state, with a hold and without.
func TestLegalHoldMoves(t *testing.T) {
	p := newPlant(t)
	p.merge(p.made(lot("B"), lot("A")))
	p.sweep()
	states := []lifecycle.LegalState{lifecycle.LegalNone, lifecycle.LegalSet, lifecycle.Lifting}
	way := map[lifecycle.LegalState][][2]lifecycle.LegalState{
		lifecycle.LegalSet: {{"", "set"}}, lifecycle.Lifting: {{"", "set"}, {"set", "lifting"}},
	}
	back := map[lifecycle.LegalState][][2]lifecycle.LegalState{
		lifecycle.LegalSet: {{"set", "lifting"}, {"lifting", ""}}, lifecycle.Lifting: {{"lifting", ""}},
	}
	move := func(from, to lifecycle.LegalState) error {
		return p.MoveLegalHold(t.Context(), "seg-1", "main", from, to, tick)
	}
	for _, held := range []bool{false, true} {
		for _, is := range states {
			for _, from := range states {
				for _, to := range states {
					for _, m := range way[is] {
						p.ok(move(m[0], m[1]))
					}
					id := ""
					if held {
						id = p.place(traced("A", lifecycle.Forward))
					}
					err := move(from, to)
					var want error
					switch legal := map[[2]lifecycle.LegalState]bool{{"", "set"}: true, {"set", "lifting"}: true, {"lifting", "set"}: true, {"lifting", ""}: true}[[2]lifecycle.LegalState{from, to}]; {
					case is != from || !legal:
						want = lifecycle.ErrMoved
					case held && to != lifecycle.LegalSet:
						want = lifecycle.ErrHeld
					}
					if !errors.Is(err, want) {
						t.Errorf("held %t, it is %q, from %q to %q: %v, want %v", held, is, from, to, err, want)
					}
					now := is
					if err == nil {
						now = to
					}
					have, lerr := p.LegalHolds(t.Context())
					p.ok(lerr)
					if (len(have) == 0) != (now == "") || len(have) > 0 && (have[0].State != now || !have[0].Since.Equal(tick.At) || have[0].ObjectVersion != "v-seg-1" || have[0].ManifestKey != "m-seg-1") {
						t.Errorf("it is %q, and they are %+v", now, have)
					}
					if id != "" {
						p.ok(p.Release(t.Context(), id, "x", tick))
					}
					for _, m := range back[now] {
						p.ok(move(m[0], m[1]))
					}
				}
			}
		}
	}
	if err := p.MoveLegalHold(t.Context(), "seg-1", "other", "", "set", tick); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Error(err)
	}
}

// TestHoldsMigrate: the holds of an older database are kept, and one with records is
// refused as it is.
func TestHoldsMigrate(t *testing.T) {
	older := func(t *testing.T) (string, *sql.DB) {
		path := filepath.Join(t.TempDir(), "lotkeeper.db")
		db := raw(t, path)
		dir, err := fs.Sub(migrations, "migrations")
		if err != nil {
			t.Fatal(err)
		}
		g, err := goose.NewProvider(goose.DialectSQLite3, db, dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.UpTo(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{fmt.Sprintf(`PRAGMA application_id = %d`, applicationID),
			`INSERT INTO meta VALUES (1, ` + someTime + `, 0, ` + someTime + `)`,
			`INSERT INTO leaves VALUES (1, ` + someTime + `, '', 'init', '', '', '{}')`,
			`INSERT INTO holds (hold_no, hold_id, kind, reference, reason, placed_by, placed_at) VALUES (7, 'h-7', 'recall', 'FDA', 'r', 'a', ` + someTime + `)`,
			`INSERT INTO hold_scopes VALUES (3, 7, 'r-1', NULL, NULL), (5, 7, NULL, 'L', 'S'), (9, 7, NULL, 'L', '')`,
		} {
			if _, err := db.Exec(q); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
		return path, db
	}
	path, db := older(t)
	db.Close()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h, err := s.Hold(t.Context(), "h-7")
	if want := []lifecycle.Scope{{RecordID: "r-1"}, {TLC: "L", TLCSource: "S"}, {TLC: "L"}}; err != nil || !reflect.DeepEqual(h.Scopes, want) || !h.Open() || !h.Until.IsZero() || !h.ReviewAt.IsZero() {
		t.Errorf("%+v, %v", h, err)
	}

	path, db = older(t)
	for _, q := range []string{
		`INSERT INTO classes (class_no, class_id, kind, period_start, closes_at, generation) VALUES (1, 'c', 'hot', '', '', 1)`,
		`INSERT INTO records (record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product,
			checksum, content, gaps, class_no, archive_class_no, ingest_leaf) VALUES ('r', '', '', '', '', '', '', '', '', '', '', '', '', 1, 1, 1)`,
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if s, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "export its records and ingest them into a new one") {
		t.Errorf("%v, %v", s, err)
	}
	var scopes, version, tables int
	if err := db.QueryRow(`SELECT (SELECT count(*) FROM hold_scopes), (SELECT max(version_id) FROM goose_db_version), (SELECT count(*) FROM sqlite_schema WHERE name = 'lineage')`).Scan(&scopes, &version, &tables); err != nil || scopes != 3 || version != 1 || tables != 0 {
		t.Errorf("it was changed: %d scopes, version %d, %v", scopes, version, err)
	}
}
