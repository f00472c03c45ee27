package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// Race is holds against sweeps and ingests, round by round. In each round a few
// workers do at once whatever may get in each other's way, with a few records, lots
// and holds of its own, and porcupine looks whether what they were answered can have
// come about one by one, in an order that bears out who was done before who began:
// whether a record was archived, or a class executed, that a hold covered which had
// been placed by then; and also whether one was kept without a reason.
type Race struct {
	// Stores are handles of one database that were opened separately.
	Stores []lifecycle.Store
	Rounds int // Control runs fewer, if that is enough
	Seed   uint64

	// A negative control has functions with a flaw in place of the stores' own. Both
	// have to be all or nothing, as those are, and may answer ErrGaveUp.
	Place      func(ctx context.Context, s lifecycle.Store, p lifecycle.Placement) error
	SoftDelete SoftDeleteFunc
	// Interpose: what SoftDelete is given as between may place a hold, and waits
	// until it is. It must not be called then where a hold has to wait.
	Interpose bool
}

// ErrGaveUp: nothing was done.
var ErrGaveUp = errors.New("gave up")

// SoftDeleteFunc is Store.SoftDelete of s, which calls between, if it is not nil, at
// most once: after it has looked at what is held, and before it writes.
type SoftDeleteFunc func(ctx context.Context, s lifecycle.Store, l lifecycle.Lease, segment string, now time.Time, members []lifecycle.Member, leaf lifecycle.Leaf, between func()) (int, error)

const (
	// raceWorkers are those of one round, raceAbreast how many rounds run at once.
	raceWorkers = 4
	raceAbreast = 2
	raceSteps   = 3 // of each worker, after its first, at most
)

// RaceRounds is how many parts, each on a database of its own, of how many rounds:
// thousands in all for make torture, fewer otherwise, a few under the race detector.
func RaceRounds() (parts, rounds int) {
	switch {
	case os.Getenv("LOTKEEPER_TORTURE") != "":
		return 8, 250
	case testing.Short():
		return 1, 20
	}
	return 2, 100
}

// Run runs the rounds, and fails the test for each that cannot have come about in
// any order.
func (r Race) Run(t testing.TB) {
	t.Helper()
	if red := r.run(t); len(red) > 0 {
		least := red[0]
		t.Errorf("at least %d of %d rounds cannot have come about one by one. Round %d:\n%s", len(red), r.Rounds, least.number, least.excerpt(least.history))
		least.draw(t, least.history)
	}
}

// Control runs the rounds with a flaw, and fails the test if porcupine finds nothing.
func (r Race) Control(t testing.TB) {
	t.Helper()
	red := r.run(t)
	if len(red) == 0 {
		t.Errorf("the flaw was found in none of %d rounds", r.Rounds)
		return
	}
	least := red[0]
	t.Logf("found in %d of them. Round %d:\n%s", len(red), least.number, least.excerpt(least.history))
}

// redRound is a round that went wrong, with what it is wrong by.
type redRound struct {
	*world
	number  int
	history []porcupine.Operation
}

// enough rounds that went wrong: no more are run.
const enough = 10

// run gives the rounds that went wrong, the one with the shortest history first.
func (r Race) run(t testing.TB) (red []redRound) {
	t.Helper()
	k := newKit(t, Harness{Store: r.Stores[0]})
	archive := row("x", expired).ArchiveClass
	k.openClasses(archive)
	k.begin()
	for slot := range raceAbreast * raceWorkers {
		k.verified(raceSegment(slot), archive, 1)
	}
	hot := lifecycle.HotPeriod(row("x", expired).DueAt)
	var classes []lifecycle.Class
	for n := range 2 * r.Rounds {
		classes = append(classes, class(hot, 1+n))
	}
	k.ok(k.OpenClasses(k.ctx, classes, 0, leaf(lifecycle.ActionClassOpened)))

	worlds := make([]*world, r.Rounds)
	var first []lifecycle.Sealed
	for i := range worlds {
		worlds[i] = newWorld(rand.New(rand.NewPCG(r.Seed, uint64(i))), fmt.Sprint(i), hot, 2*i+1)
		first = append(first, worlds[i].records[:raceRecords/2]...)
	}
	for batch := range slices.Chunk(first, 100*raceRecords) {
		k.take(batch...)
	}

	start := time.Now()
	var next, rounds, ops, archived atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range raceAbreast {
		wg.Go(func() {
			for !t.Failed() {
				i := int(next.Add(1)) - 1
				if i >= r.Rounds {
					return
				}
				w := worlds[i]
				worlds[i] = nil
				round := &round{Race: &r, kit: k, world: w, start: start, slot: n * raceWorkers}
				round.play(rand.New(rand.NewPCG(r.Seed, uint64(i)^1<<63)))
				rounds.Add(1)
				ops.Add(int64(len(round.history)))
				archived.Add(int64(round.archived))
				if t.Failed() || porcupine.CheckOperations(w.model(), round.history) {
					continue
				}
				mu.Lock()
				if red = append(red, redRound{w, i, w.shrink(round.history)}); len(red) == enough {
					next.Store(int64(r.Rounds))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	k.end()
	t.Logf("seed %d: %d rounds, %d operations, %d records archived, in %s", r.Seed, rounds.Load(), ops.Load(), archived.Load(), time.Since(start).Round(time.Millisecond))
	slices.SortStableFunc(red, func(a, b redRound) int { return len(a.history) - len(b.history) })
	return red
}

func raceSegment(slot int) string { return fmt.Sprint("seg-race-", slot) }

// round is one round as it is played.
type round struct {
	*Race
	*kit
	*world
	start time.Time
	slot  int // of the first worker

	mu       sync.Mutex
	history  []porcupine.Operation // guarded by mu
	archived int                   // guarded by mu
	spares   mask                  // the lots whose spare hold was placed, guarded by mu
	isPlaced mask                  // the holds that were placed, guarded by mu
}

func (r *round) play(rng *rand.Rand) {
	// Most rounds are short, and a few are long.
	more := func(rng *rand.Rand) int { return rng.IntN(2) }
	if rng.IntN(8) == 0 {
		more = func(*rand.Rand) int { return raceSteps }
	}
	var plays []func()
	for i := range raceWorkers {
		w := r.worker(i, rand.New(rand.NewPCG(rng.Uint64(), 0)))
		// One places a hold, one brings something, two sweep, all at once; and then
		// everybody does everything.
		steps := []step{
			{kind: toPlace, which: w.rng.IntN(r.placed)},
			{kind: toMerge, which: w.rng.IntN(len(r.batches))},
			{kind: toSoftDelete, set: some(w.rng, raceRecords/2, 2)},
			{kind: toSoftDelete, set: some(w.rng, raceRecords/2, 3)},
		}[i : i+1]
		for range more(w.rng) {
			steps = append(steps, r.steps(w.rng)...)
		}
		plays = append(plays, func() {
			for _, s := range steps {
				w.do(s)
			}
		})
	}
	together(plays...)
	// The holds of one round must not be in the way of the next.
	last := r.worker(0, rng)
	for i := range r.isPlaced.each {
		last.do(step{kind: toRelease, which: i})
	}
	last.do(step{kind: toRead})
}

// some are so many of the first records or scopes, or fewer.
func some(rng *rand.Rand, of, n int) (m mask) {
	for range n {
		m |= 1 << rng.IntN(of)
	}
	return m
}

// steps are what a worker comes to: one thing, or a few that belong together.
func (w *world) steps(rng *rand.Rand) []step {
	hold := rng.IntN(w.placed)
	look := func(s step) []step {
		return []step{s, {kind: toRead}}[:1+rng.IntN(2)]
	}
	switch n := rng.IntN(20); {
	case n < 3:
		return look(step{kind: toPlace, which: hold})
	case n < 5:
		return look(step{kind: toExtend, which: hold, set: some(rng, raceScopes, 2)})
	case n < 6:
		return look(step{kind: toRelease, which: hold})
	case n < 9:
		return look(step{kind: toMerge, which: rng.IntN(len(w.batches))})
	case n < 11:
		return []step{{kind: toTrace}}
	case n < 12:
		return []step{{kind: toCondemn, which: rng.IntN(2)}, {kind: toExecute, which: rng.IntN(2)}}
	case n < 13:
		return []step{{kind: toSoftDelete, set: w.ofClass[1] | some(rng, raceRecords, 1)}, {kind: toCondemn, which: 1}, {kind: toExecute, which: 1}}
	default:
		return []step{{kind: toSoftDelete, set: some(rng, raceRecords, 3)}}
	}
}

// worker does one step after the other, each with a handle of its own choice.
type worker struct {
	*round
	client int
	rng    *rand.Rand
	gone   mask // records that it archived itself
}

func (r *round) worker(i int, rng *rand.Rand) *worker { return &worker{r, i, rng, 0} }

// do does a step and records what came of it.
func (w *worker) do(s step) {
	store := w.Stores[w.rng.IntN(len(w.Stores))]
	op := porcupine.Operation{ClientId: w.client, Input: s, Call: int64(time.Since(w.start))}
	a, err := w.call(store, s, &op.Return)
	if errors.Is(err, ErrGaveUp) {
		return
	}
	if err != nil {
		w.Errorf("%s: %v", w.describe(s, answer{}), err)
		return
	}
	op.Output = a
	w.mu.Lock()
	w.history = append(w.history, op)
	switch {
	case s.kind == toPlace && a.word == saidDone:
		w.isPlaced |= 1 << s.which
	case s.kind == toMerge && w.batchHolds[s.which] >= 0 && a.set == 0 && a.classes == 0:
		w.isPlaced |= 1 << w.batchHolds[s.which]
	case s.kind == toSoftDelete:
		w.archived += bits.OnesCount32(uint32(a.set))
	}
	w.mu.Unlock()
}

// call asks a store, notes when it had answered, and makes an answer of it.
func (w *worker) call(store lifecycle.Store, s step, returned *int64) (a answer, err error) {
	ctx := w.ctx
	ended := func(e error) error {
		*returned = int64(time.Since(w.start))
		var taken *lifecycle.ReferenceTaken
		switch {
		case e == nil:
			a.word = saidDone
		case errors.Is(e, lifecycle.ErrNotFound):
			a.word = saidNotFound
		case errors.Is(e, lifecycle.ErrReleased):
			a.word = saidReleased
		case errors.As(e, &taken):
			a.word = saidTaken
		default:
			return e
		}
		return nil
	}
	switch s.kind {
	case toPlace:
		if w.Race.Place != nil {
			return a, ended(w.Race.Place(ctx, store, w.placements[s.which]))
		}
		return a, ended(store.Place(ctx, w.placements[s.which]))
	case toExtend:
		var scopes []lifecycle.Scope
		for i := range s.set.each {
			scopes = append(scopes, w.scopes[i])
		}
		return a, ended(store.Extend(ctx, w.placements[s.which].Hold.ID, scopes, leaf(lifecycle.ActionHoldExtended)))
	case toRelease:
		return a, ended(store.Release(ctx, w.placements[s.which].Hold.ID, "it is over", leaf(lifecycle.ActionHoldReleased)))
	case toMerge:
		var batch []lifecycle.Sealed
		for i := range w.batches[s.which].each {
			batch = append(batch, w.records[i])
		}
		var holds []lifecycle.Placement
		if h := w.batchHolds[s.which]; h >= 0 {
			holds = []lifecycle.Placement{w.placements[h]}
		}
		res, err := store.Merge(ctx, batch, holds, leaf(lifecycle.ActionIngested))
		if err := ended(err); err != nil {
			return a, err
		}
		for i, id := range w.classes {
			if slices.Contains(res.Closed, id) {
				a.classes |= 1 << i
			}
		}
		for _, id := range res.Exists {
			a.set |= 1 << w.index[id]
		}
		if whole := a.set == 0 && a.classes == 0; whole != (res.Inserted == len(batch)) || !whole && res.Inserted > 0 {
			return a, fmt.Errorf("merged %+v", res)
		}
		return a, nil
	case toTrace:
		return a, ended(store.TraceHolds(ctx))
	case toSoftDelete:
		var m []lifecycle.Member
		for i := range s.set.each {
			m = append(m, lifecycle.Member{RecordID: w.records[i].RecordID, Checksum: w.records[i].Checksum})
		}
		segment := raceSegment(w.slot + w.client)
		n, err := 0, error(nil)
		if w.Race.SoftDelete != nil {
			n, err = w.Race.SoftDelete(ctx, store, w.lease, segment, Start, m, leaf(lifecycle.ActionArchived), w.between(s.set))
		} else {
			var done lifecycle.SoftDeleted
			done, err = store.SoftDelete(ctx, w.lease, segment, Start, m, leaf(lifecycle.ActionArchived))
			n = done.Records
		}
		if err := ended(err); err != nil {
			return a, err
		}
		if n == 0 {
			return a, nil
		}
		// Those that are archived now, unless others archived some of them: into
		// this segment nobody else does.
		now, err := w.states(store, s.set)
		if a.set = now.set; err != nil {
			return a, err
		}
		if bits.OnesCount32(uint32(a.set)) != n {
			a.set = 0
			for r, err := range store.Rows(ctx, lifecycle.Query{RecordIDs: w.ids(s.set), Segment: segment}) {
				if err != nil {
					return a, err
				}
				a.set |= 1 << w.index[r.RecordID]
			}
			a.set &^= w.gone
		}
		w.gone |= a.set
		if bits.OnesCount32(uint32(a.set)) != n {
			return a, fmt.Errorf("said to have archived %d, and it were %s", n, w.ids(a.set))
		}
		return a, nil
	case toCondemn:
		got, err := store.Condemn(ctx, w.lease, Start, []string{w.classes[s.which]}, leaf(lifecycle.ActionShredIntent))
		if len(got) > 0 {
			a.set = 1
		}
		return a, ended(err)
	case toExecute:
		got, err := store.Execute(ctx, w.lease, Start, []string{w.classes[s.which]}, leaf(lifecycle.ActionShredExecuting))
		if len(got) > 0 {
			a.set = 1
		}
		return a, ended(err)
	case toRead:
		a, err = w.states(store, 1<<len(w.records)-1)
		return a, ended(err)
	}
	panic(s.kind)
}

// states says which of the records are there, and which are archived.
func (w *worker) states(store lifecycle.Store, records mask) (a answer, err error) {
	got, err := store.Existing(w.ctx, w.ids(records))
	for id, e := range got {
		a.seen |= 1 << w.index[id]
		if e.State != lifecycle.Active {
			a.set |= 1 << w.index[id]
		}
	}
	return a, err
}

// between is what happens while a soft-delete that has a flaw is between its check
// and what it writes: somebody reads what it is about to archive and, where nobody
// has to wait for it, has placed a hold on it before.
func (w *worker) between(members mask) func() {
	who := w.worker(raceWorkers+w.client, rand.New(rand.NewPCG(w.rng.Uint64(), 0)))
	return func() {
		if w.Interpose && who.rng.IntN(2) == 0 {
			if lot := w.spareFor(members); lot >= 0 {
				who.do(step{kind: toPlace, which: w.spare + lot})
			}
		}
		who.do(step{kind: toRead})
	}
}

// spareFor takes a lot of one of the records whose hold is not taken yet.
func (r *round) spareFor(members mask) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range members.each {
		lot := slices.IndexFunc(r.lots, func(l cte.Lot) bool { return l == cte.Lot{TLC: r.records[i].TLC, Source: r.records[i].TLCSource} })
		if lot >= 0 && !r.spares.has(lot) {
			r.spares |= 1 << lot
			return lot
		}
	}
	return -1
}

// draw draws a history for the browser.
func (w *world) draw(t testing.TB, h []porcupine.Operation) {
	_, info := porcupine.CheckOperationsVerbose(w.model(), h, 0)
	path := filepath.Join(t.ArtifactDir(), "history.html")
	if err := porcupine.VisualizePath(w.model(), info, path); err != nil {
		t.Errorf("couldn't draw the history: %v", err)
	}
	t.Logf("it is drawn in %s, which go test -artifacts keeps", path)
}
