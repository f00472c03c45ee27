package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// together runs functions at once and waits for all.
func together(fns ...func()) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for _, fn := range fns {
		wg.Go(func() {
			<-start
			fn()
		})
	}
	close(start)
	wg.Wait()
}

// cancelled: a context that is done fails every call with its error, nothing is
// changed, and nothing is left behind.
func cancelled(k *kit) {
	a := row("a", expired)
	k.take(a)
	k.openClasses("hot-2024-01-01-1", "deferral-2026-11-1")
	k.place("h-1", onRecord("b"), traced("B", "", lifecycle.Both))
	k.begin()
	k.verified("seg-1", a.ArchiveClass, 1)
	done, cancel := context.WithCancel(k.ctx)
	cancel()
	l := leaf("cancelled")
	none := func(_ any, err error) error { return err }
	calls := map[string]func(s lifecycle.Store) error{
		"Existing": func(s lifecycle.Store) error { return none(s.Existing(done, []string{"a"})) },
		"LatestClasses": func(s lifecycle.Store) error {
			return none(s.LatestClasses(done, []lifecycle.Period{lifecycle.HotPeriod(Start)}))
		},
		"OpenClasses": func(s lifecycle.Store) error {
			return s.OpenClasses(done, []lifecycle.Class{classOf("hot-2026-11-21-1")}, 3, l)
		},
		"Merge": func(s lifecycle.Store) error {
			return none(s.Merge(done, []lifecycle.Sealed{row("b", expired)}, nil, l))
		},
		"Place":   func(s lifecycle.Store) error { return s.Place(done, placement("h-2", onRecord("a"))) },
		"Extend":  func(s lifecycle.Store) error { return s.Extend(done, "h-1", []lifecycle.Scope{onRecord("a")}, l) },
		"Release": func(s lifecycle.Store) error { return s.Release(done, "h-1", "x", l) },
		"Holds":   func(s lifecycle.Store) error { return none(s.Holds(done, true)) },
		"Hold":    func(s lifecycle.Store) error { return none(s.Hold(done, "h-1")) },
		"Coverage": func(s lifecycle.Store) error {
			return none(s.Coverage(done, lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("a")}}))
		},
		"Detail": func(s lifecycle.Store) error {
			return none(s.Detail(done, lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("a")}}, 5))
		},
		"TooLate": func(s lifecycle.Store) error {
			return none(s.TooLate(done, lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("a")}}))
		},
		"Links":      func(s lifecycle.Store) error { return none(s.Links(done, []cte.Lot{lotOf("LOT-1", "")}, true)) },
		"ScopeLots":  func(s lifecycle.Store) error { return none(s.ScopeLots(done, onLot("LOT-1", ""))) },
		"TraceHolds": func(s lifecycle.Store) error { return s.TraceHolds(done) },
		"HeldCopies": func(s lifecycle.Store) error {
			return none(s.HeldCopies(done, lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("a")}}))
		},
		"LegalHolds": func(s lifecycle.Store) error { return none(s.LegalHolds(done)) },
		"MoveLegalHold": func(s lifecycle.Store) error {
			return s.MoveLegalHold(done, "seg-1", "main", lifecycle.LegalNone, lifecycle.LegalSet, l)
		},
		"NearLots":    func(s lifecycle.Store) error { return none(s.NearLots(done, "L", 5)) },
		"NearRecords": func(s lifecycle.Store) error { return none(s.NearRecords(done, "a", 5)) },
		"BeginRun":    func(s lifecycle.Store) error { return none(s.BeginRun(done, run("run-x", "ingest"), l)) },
		"FinishRun":   func(s lifecycle.Store) error { return s.FinishRun(done, run("run-nobody", "ingest"), l) },
		"DueClasses":  func(s lifecycle.Store) error { return none(s.DueClasses(done, Start)) },
		"DueRows": func(s lifecycle.Store) error {
			return none(s.DueRows(done, a.ArchiveClass, Start, lifecycle.Cursor{}, 5))
		},
		"DuePage": func(s lifecycle.Store) error {
			return none(s.DuePage(done, a.ArchiveClass, Start, lifecycle.Cursor{}, 5, 1<<20))
		},
		"Checksums": func(s lifecycle.Store) error { return none(s.Checksums(done, []string{"a"})) },
		"StageSegment": func(s lifecycle.Store) error {
			return s.StageSegment(done, k.lease, k.segment("seg-2", a.ArchiveClass, 1), l)
		},
		"VerifySegment":  func(s lifecycle.Store) error { return s.VerifySegment(done, k.lease, "seg-1", nil, l) },
		"AbandonSegment": func(s lifecycle.Store) error { return s.AbandonSegment(done, k.lease, "seg-1", l) },
		"SoftDelete": func(s lifecycle.Store) error {
			return none(s.SoftDelete(done, k.lease, "seg-1", Start, members(a), l))
		},
		"SettleSegment": func(s lifecycle.Store) error { return s.SettleSegment(done, k.lease, "seg-1", l) },
		"DyingClasses":  func(s lifecycle.Store) error { return none(s.DyingClasses(done, Start)) },
		"ClassDEKs":     func(s lifecycle.Store) error { return none(s.ClassDEKs(done, a.Class, 0, 5)) },
		"Reseal": func(s lifecycle.Store) error {
			return none(s.Reseal(done, k.lease, a.Class, "deferral-2026-11-1", map[int64][]byte{1: nil}, l))
		},
		"ActivePage":  func(s lifecycle.Store) error { return none(s.ActivePage(done, 0, 5, 1<<20)) },
		"CountActive": func(s lifecycle.Store) error { return none(s.CountActive(done, a.Class)) },
		"Reschedule": func(s lifecycle.Store) error {
			return s.Reschedule(done, k.lease, nil, lifecycle.Following{Leaf: 1}, l)
		},
		"MoveSegment": func(s lifecycle.Store) error {
			return none(s.MoveSegment(done, k.lease, lifecycle.Segment{ID: "seg-1", Class: a.ArchiveClass}, l))
		},
		"Condemn": func(s lifecycle.Store) error {
			return none(s.Condemn(done, k.lease, Start, []string{"hot-2024-01-01-1"}, l))
		},
		"Execute": func(s lifecycle.Store) error {
			return none(s.Execute(done, k.lease, Start, []string{"hot-2024-01-01-1"}, l))
		},
		"Destroyed": func(s lifecycle.Store) error {
			return s.Destroyed(done, k.lease, []string{"hot-2024-01-01-1"}, Start, 3, l)
		},
		"DropCiphertext": func(s lifecycle.Store) error { return none(s.DropCiphertext(done, k.lease, 5, l)) },
		"Vaults":         func(s lifecycle.Store) error { return none(s.Vaults(done)) },
		"AddVault":       func(s lifecycle.Store) error { return s.AddVault(done, "new", l) },
		"AddCopy":        func(s lifecycle.Store) error { return s.AddCopy(done, "seg-1", copies()[0], l) },
		"ActivateVault":  func(s lifecycle.Store) error { return s.ActivateVault(done, "new", l) },
		"RetireVault":    func(s lifecycle.Store) error { return s.RetireVault(done, "new", l) },
		"Append":         func(s lifecycle.Store) error { return s.Append(done, l) },
		"AcceptClock":    func(s lifecycle.Store) error { return s.AcceptClock(done, l) },
		"AcceptKeyring":  func(s lifecycle.Store) error { return s.AcceptKeyring(done, 3, l) },
		"Info":           func(s lifecycle.Store) error { return none(s.Info(done)) },
		"Row":            func(s lifecycle.Store) error { return none(s.Row(done, "a")) },
		"SealedRow":      func(s lifecycle.Store) error { return none(s.SealedRow(done, "a")) },
		"Aggregates":     func(s lifecycle.Store) error { return none(s.Aggregates(done)) },
		"NewestEvents":   func(s lifecycle.Store) error { return none(s.NewestEvents(done, []string{"LOT-1"}, Start)) },
		"Rows":           func(s lifecycle.Store) error { return drain(s.Rows(done, lifecycle.Query{}), func() {}) },
		"Sealed":         func(s lifecycle.Store) error { return drain(s.Sealed(done, lifecycle.Query{}), func() {}) },
		"Segment":        func(s lifecycle.Store) error { return none(s.Segment(done, "seg-1")) },
		"Segments":       func(s lifecycle.Store) error { return none(s.Segments(done)) },
		"Classes":        func(s lifecycle.Store) error { return none(s.Classes(done, true)) },
		"Runs":           func(s lifecycle.Store) error { return none(s.Runs(done, 5)) },
		"Run":            func(s lifecycle.Store) error { return none(s.Run(done, k.lease.RunID)) },
		"Leaves":         func(s lifecycle.Store) error { return none(s.Leaves(done, lifecycle.LeafQuery{})) },
		"RecordLeaves":   func(s lifecycle.Store) error { return none(s.RecordLeaves(done, 1)) },
		"Counts":         func(s lifecycle.Store) error { return none(s.Counts(done)) },
		"Tallies":        func(s lifecycle.Store) error { return none(s.Tallies(done, lifecycle.TallyQuery{})) },
		"RunRecords":     func(s lifecycle.Store) error { return none(s.RunRecords(done)) },
		"Sequence":       func(s lifecycle.Store) error { return none(s.Sequence(done)) },
		"LogState":       func(s lifecycle.Store) error { return none(s.LogState(done)) },
		"LogLeaves":      func(s lifecycle.Store) error { return none(s.LogLeaves(done, 0, 5)) },
		"LogIndex":       func(s lifecycle.Store) error { return none(s.LogIndex(done, 1)) },
		"LogHashes":      func(s lifecycle.Store) error { return none(s.LogHashes(done, []int64{0})) },
		"StrayLeaves":    func(s lifecycle.Store) error { _, _, err := s.StrayLeaves(done, 5); return err },
		"LeafRows":       func(s lifecycle.Store) error { return drain(s.LeafRows(done, 1), func() {}) },
		"Published":      func(s lifecycle.Store) error { return s.Published(done, "main", 1) },
		"Rebase":         func(s lifecycle.Store) error { return s.Rebase(done, k.lease, 0) },
		"Replay":         func(s lifecycle.Store) error { return s.Replay(done, k.lease, 0, l, nil) },
		"MayUnmask":      func(s lifecycle.Store) error { return none(s.MayUnmask(done)) },
		"DyingArchives":  func(s lifecycle.Store) error { return none(s.DyingArchives(done, Start)) },
		"MoveArchiveClass": func(s lifecycle.Store) error {
			return none(s.MoveArchiveClass(done, k.lease, "archive-2026-09-1", "archive-2026-10-1", 5, l))
		},
		"Rearchive":   func(s lifecycle.Store) error { return none(s.Rearchive(done, k.lease, "seg-1", "seg-2", nil, l)) },
		"Purge":       func(s lifecycle.Store) error { _, _, err := s.Purge(done, k.lease, "seg-1", 5, nil, l); return err },
		"Undeleted":   func(s lifecycle.Store) error { return none(s.Undeleted(done)) },
		"CopyDeleted": func(s lifecycle.Store) error { return s.CopyDeleted(done, k.lease, "seg-1", "main", l) },
	}
	k.unchanged("a cancelled call", func() {
		for name, call := range calls {
			if err := call(k.Store); !errors.Is(err, context.Canceled) {
				k.Errorf("%s with a context that is done: %v", name, err)
			}
		}
		// Each of them was asked, and there are no others.
		asked := map[string]bool{"Close": true}
		f := &Faulty{Store: k.Store, Fault: func(method string) (before, after error) {
			asked[method] = true
			return ErrFault, nil
		}}
		for name, call := range calls {
			if err := call(f); !errors.Is(err, ErrFault) || !asked[name] {
				k.Errorf("%s of a faulty store: %v", name, err)
			}
		}
		if n := reflect.TypeFor[lifecycle.Store]().NumMethod(); len(asked) != len(calls)+1 || len(asked) != n {
			k.Errorf("asked were %d methods of %d", len(asked), n)
		}
	})

	// In the middle of reading: the sequence ends, with the context's error.
	var more []lifecycle.Sealed
	for i := range many(2000) {
		more = append(more, row(fmt.Sprint("more-", i), expired))
	}
	k.take(more...)
	for name, read := range map[string]func(context.Context, func()) error{
		"Rows":   func(ctx context.Context, seen func()) error { return drain(k.Rows(ctx, lifecycle.Query{}), seen) },
		"Sealed": func(ctx context.Context, seen func()) error { return drain(k.Sealed(ctx, lifecycle.Query{}), seen) },
		"LeafRows": func(ctx context.Context, seen func()) error {
			return drain(k.LeafRows(ctx, k.newest(lifecycle.ActionIngested).ID), seen)
		},
	} {
		ctx, cancel := context.WithCancel(k.ctx)
		if err := read(ctx, cancel); err != nil && !errors.Is(err, context.Canceled) {
			k.Errorf("%s, cancelled at its first record: %v", name, err)
		}
		cancel()
	}
	// Cancelled at some point of its work, a write has happened or it has not.
	for i := range many(50) {
		ctx, cancel := context.WithCancel(k.ctx)
		id := fmt.Sprint("half-", i)
		var err error
		together(func() {
			_, err = k.Merge(ctx, []lifecycle.Sealed{row(id, expired), row(id+"-b", expired)}, nil, leaf(lifecycle.ActionIngested))
		}, cancel)
		got, e := k.Store.Existing(k.ctx, []string{id, id + "-b"})
		k.ok(e)
		if err == nil && len(got) != 2 || err != nil && len(got) == 1 {
			k.Errorf("merge cancelled: %v, and %d of 2 are there", err, len(got))
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			k.Errorf("merge cancelled: %v", err)
		}
	}
	k.take(row("after", expired))
	k.softDelete(1, "seg-1", Start, members(a))
}

// drain ranges over a sequence to its end or its error, and calls seen for each
// of its values.
func drain[T any](seq iter.Seq2[T, error], seen func()) error {
	for _, err := range seq {
		if err != nil {
			return err
		}
		seen()
	}
	return nil
}

// race: a hold against the soft-delete of what it covers, and an ingest against
// the end of its class, each from its own handle. Whichever is first in the
// trail, the other has to have seen it.
func race(k *kit) {
	n := many(100)
	other := k.again(k)
	var all []lifecycle.Sealed
	for i := range n {
		all = append(all, row(fmt.Sprint("r-", i), expired, lot(fmt.Sprint("L-", i), "S")))
	}
	k.take(all...)
	for i := range n {
		k.take(made(fmt.Sprint("m-", i), lotOf(fmt.Sprint("L-", i), "S"), lotOf(fmt.Sprint("P-", i), "S")))
	}
	k.begin()
	k.verified("seg-1", all[0].ArchiveClass, n)
	kept := map[string]int{}
	for i, r := range all {
		id := fmt.Sprint("h-", i)
		scope := []lifecycle.Scope{
			onRecord(r.RecordID), onLot(r.TLC, "S"), traced(fmt.Sprint("P-", i), "", lifecycle.Forward), traced(fmt.Sprint("P-", i), "S", lifecycle.Both),
		}[i%4]
		// What puts the record under the hold: its placing, its extension, or a link
		// that its trace follows.
		way, what := "place", id
		hold := func() error { return other.Place(k.ctx, placement(id, scope)) }
		switch i / 4 % 3 {
		case 1:
			way = "extend"
			k.place(id, onRecord("nobody"))
			hold = func() error {
				l := leaf(lifecycle.ActionHoldExtended)
				l.Subject = id
				return other.Extend(k.ctx, id, []lifecycle.Scope{scope}, l)
			}
		case 2:
			way, what = "link", fmt.Sprint("link-", i)
			k.place(id, traced(fmt.Sprint("Q-", i), "", lifecycle.Forward))
			if i%2 == 1 {
				k.trace()
			}
			link := made(what, lotOf(fmt.Sprint("P-", i), "S"), lotOf(fmt.Sprint("Q-", i), ""))
			hold = func() error {
				l := leaf(lifecycle.ActionIngested)
				l.Subject = what
				_, err := other.Merge(k.ctx, []lifecycle.Sealed{link}, nil, l)
				return err
			}
		}
		var placed, deleted error
		together(
			func() { placed = hold() },
			func() {
				_, deleted = k.SoftDelete(k.ctx, k.lease, "seg-1", Start, members(r), leaf(lifecycle.ActionArchived))
			},
		)
		k.ok(errors.Join(placed, deleted))
		ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: what})
		k.ok(err)
		got, err := other.SealedRow(k.ctx, r.RecordID)
		k.ok(err)
		switch held := ls[len(ls)-1].ID; {
		case got.State == lifecycle.Active && got.WrappedDEK != nil:
			kept[way]++
		case got.State == lifecycle.Archived && got.ArchiveLeaf < held:
		default:
			k.Errorf("%s is %s by leaf %d, and held (%s) by leaf %d", r.RecordID, got.State, got.ArchiveLeaf, way, held)
		}
	}
	k.Logf("of %d records raced for, holds kept %v", n, kept)

	merged := 0
	for i := range n {
		r := row(fmt.Sprint("late-", i), expired.AddDate(0, 0, -i-1))
		k.openClasses(r.Class, r.ArchiveClass)
		var res lifecycle.MergeResult
		var condemned []string
		var mergeErr, condemnErr error
		together(
			func() { res, mergeErr = other.Merge(k.ctx, []lifecycle.Sealed{r}, nil, leaf(lifecycle.ActionIngested)) },
			func() {
				condemned, condemnErr = k.Condemn(k.ctx, k.lease, Start, []string{r.Class}, leaf(lifecycle.ActionShredIntent))
			},
		)
		k.ok(errors.Join(mergeErr, condemnErr))
		merged += res.Inserted
		if res.Inserted+len(condemned) != 1 || (len(condemned) == 1) != slices.Equal(res.Closed, []string{r.Class}) {
			k.Errorf("%s: merged %+v, condemned %q", r.Class, res, condemned)
		}
	}
	k.Logf("of %d classes raced for, records kept %d open", n, merged)
}

// concurrent: everything at once, from two handles. It is for the race detector
// and for deadlocks; what has to hold in the end is checked at the end.
func concurrent(k *kit) {
	rounds, size := 2+many(10), 20
	other := k.again(k)
	ctx := k.ctx
	check := func(what string, err error) {
		if err != nil && !errors.Is(err, lifecycle.ErrLocked) {
			k.Errorf("%s: %v", what, err)
		}
	}
	to := lifecycle.DeferralPeriod(Start).ID(1)
	first := row("x", expired)
	k.openClasses(first.Class, first.ArchiveClass, to)
	k.begin()
	ingest := func(s lifecycle.Store, name string) func() {
		return func() {
			for i := range rounds {
				var batch []lifecycle.Sealed
				for j := range size {
					r := row(fmt.Sprintf("%s-%d-%d", name, i, j), expired, lot(fmt.Sprint("L-", j), "S"))
					if j%3 == 0 {
						r.Inputs = []cte.Lot{lotOf(fmt.Sprintf("%s-%d", name, i), "S"), lotOf(fmt.Sprint("L-", (j+i)%size), "")}
					}
					batch = append(batch, r)
				}
				_, err := s.Merge(ctx, batch, []lifecycle.Placement{placement(fmt.Sprintf("h-%s-%d", name, i), onRecord(batch[0].RecordID))}, leaf(lifecycle.ActionIngested))
				check("merge", err)
			}
		}
	}
	holds := func(s lifecycle.Store, name string) func() {
		return func() {
			for i := range rounds {
				id := fmt.Sprintf("p-%s-%d", name, i)
				err := s.Place(ctx, placement(id, onLot(fmt.Sprint("L-", i), "")))
				check("place", err)
				check("extend", s.Extend(ctx, id, []lifecycle.Scope{traced(fmt.Sprint("L-", i), "S", lifecycle.Both), {TLCPrefix: "L-1", Trace: lifecycle.Forward}}, leaf(lifecycle.ActionHoldExtended)))
				check("trace", s.TraceHolds(ctx))
				check("release", s.Release(ctx, id, "over", leaf(lifecycle.ActionHoldReleased)))
			}
		}
	}
	sweep := func() {
		for i := range rounds {
			page, err := k.DuePage(ctx, first.ArchiveClass, Start, lifecycle.Cursor{}, 2*size, 1<<20)
			check("page", err)
			id := fmt.Sprint("seg-", i)
			check("stage", k.StageSegment(ctx, k.lease, k.segment(id, first.ArchiveClass, len(page)), leaf(lifecycle.ActionStaged)))
			check("verify", k.VerifySegment(ctx, k.lease, id, copies(), leaf(lifecycle.ActionVerified)))
			_, err = k.SoftDelete(ctx, k.lease, id, Start, members(page...), leaf(lifecycle.ActionArchived))
			check("soft-delete", err)
			check("settle", k.SettleSegment(ctx, k.lease, id, leaf(lifecycle.ActionSettled)))
			deks, err := k.ClassDEKs(ctx, first.Class, 0, 3)
			check("DEKs", err)
			moved := map[int64][]byte{}
			for _, d := range deks {
				moved[d.Row.Seq] = d.Wrapped
			}
			_, err = k.Reseal(ctx, k.lease, first.Class, to, moved, leaf(lifecycle.ActionResealed))
			check("reseal", err)
		}
	}
	reads := func(s lifecycle.Store, name string) func() {
		return func() {
			for i := range rounds {
				_, err := s.Info(ctx)
				check("info", err)
				for r, err := range s.Sealed(ctx, lifecycle.Query{}) {
					check("sealed", err)
					if (r.State == lifecycle.Active) != (r.WrappedDEK != nil) {
						k.Errorf("%s is %s, DEK %v", r.RecordID, r.State, r.WrappedDEK != nil)
					}
				}
				for _, err := range s.Rows(ctx, lifecycle.Query{State: lifecycle.Held, Reach: lifecycle.Reach{Scopes: []lifecycle.Scope{onLot("L-1", "")}}}) {
					check("rows", err)
				}
				_, err = s.Counts(ctx)
				check("counts", err)
				_, err = s.Classes(ctx, true)
				check("classes", err)
				_, err = s.Segments(ctx)
				check("segments", err)
				_, err = s.Holds(ctx, true)
				check("holds", err)
				_, err = s.Links(ctx, []cte.Lot{lotOf("L-1", ""), lotOf("L-3", "S")}, i%2 == 0)
				check("links", err)
				_, err = s.Coverage(ctx, lifecycle.Reach{Scopes: []lifecycle.Scope{{TLCPrefix: "L-"}}, Lots: []cte.Lot{lotOf("L-1", "")}})
				check("coverage", err)
				_, err = s.HeldCopies(ctx, lifecycle.Reach{Scopes: []lifecycle.Scope{{All: true}}})
				check("held copies", err)
				r := run(fmt.Sprintf("run-%s-%d", name, i), "ingest")
				if _, err = s.BeginRun(ctx, r, leaf(lifecycle.ActionRunStarted)); err == nil {
					r.Status, r.FinishedAt = "done", Start
					err = s.FinishRun(ctx, r, leaf(lifecycle.ActionRunFinished))
				}
				check("run", err)
			}
		}
	}
	together(ingest(k, "a"), ingest(other, "b"), holds(k, "a"), holds(other, "b"), sweep, reads(k, "a"), reads(other, "b"))

	c, err := k.Store.Counts(ctx)
	k.ok(err)
	if c[lifecycle.Active]+c[lifecycle.Archived] != int64(2*rounds*size) {
		k.Errorf("counts %v of %d", c, 2*rounds*size)
	}
	for r, err := range k.Rows(ctx, lifecycle.Query{State: lifecycle.Archived}) {
		k.ok(err)
		if strings.HasSuffix(r.RecordID, "-0") {
			k.Errorf("%s was held from its first moment, and is archived", r.RecordID)
		}
	}
	ls, err := k.Leaves(ctx, lifecycle.LeafQuery{})
	k.ok(err)
	for i, l := range ls[1:] {
		if l.ID <= ls[i].ID {
			k.Errorf("leaf %d after %d", l.ID, ls[i].ID)
		}
	}
}
