package storetest

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// muchLater is after the end of every archive class that the suite's records go to.
var muchLater = Start.AddDate(10, 0, 0)

// purge takes an archive class all the way, with all that is in its segments.
func (k *kit) purge(class string, at time.Time, segments ...string) {
	k.Helper()
	got, err := k.Condemn(k.ctx, k.lease, muchLater, []string{class}, leaf(lifecycle.ActionShredIntent))
	k.ok(err)
	ev, err := k.Execute(k.ctx, k.lease, muchLater, []string{class}, leaf(lifecycle.ActionShredExecuting))
	k.ok(err)
	if len(got) != 1 || len(ev) != 1 {
		k.Fatalf("%s was not condemned and executed: %q %+v", class, got, ev)
	}
	k.ok(k.Destroyed(k.ctx, k.lease, []string{class}, at, 1, leaf(lifecycle.ActionShredded)))
	for _, g := range segments {
		if _, done, err := k.Purge(k.ctx, k.lease, g, 100, nil, leaf(lifecycle.ActionPurged)); err != nil || !done {
			k.Fatalf("%s: %t, %v", g, done, err)
		}
	}
}

// purgeStore: the end of an archive class, and what is moved out of it before.
func purgeStore(k *kit) {
	k.addVault("cold")
	k.addVault("main")
	a, b, held, active := row("a", expired, lot("A", "")), row("b", expired, lot("B", "")), row("held", expired, lot("H", "")), row("active", expired, lot("X", ""))
	young := row("young", expired, func(s *lifecycle.Sealed) { s.PurgeNotBefore = muchLater.Add(1) })
	young.ArchiveClass = "archive-2030-01-1"
	later, hold := "archive-2040-01-1", "hold-2026-11-1"
	k.take(a, b, held, active, young)
	k.openClasses(later, hold)
	k.begin()
	k.verified("seg-1", a.ArchiveClass, 3)
	told := leaf(lifecycle.ActionArchived)
	told.Subject = "seg-1"
	if done, err := k.SoftDelete(k.ctx, k.lease, "seg-1", Start, members(a, b, held), told); err != nil || done.Records != 3 {
		k.Fatalf("soft-deleted %d, %v", done.Records, err)
	}
	k.ok(k.SettleSegment(k.ctx, k.lease, "seg-1", leaf(lifecycle.ActionSettled)))
	k.archive("seg-young", young)

	ends := classOf(a.ArchiveClass).Period.Ends()
	for now, want := range map[time.Time]bool{ends.Add(-1): false, ends: true} {
		got, err := k.DyingArchives(k.ctx, now)
		if err != nil || slices.ContainsFunc(got, func(c lifecycle.Class) bool { return c.ID == a.ArchiveClass }) != want {
			k.Errorf("dying at %s: %+v, %v", now, got, err)
		}
	}
	if got, err := k.DyingClasses(k.ctx, muchLater); err != nil || slices.ContainsFunc(got, func(c lifecycle.Class) bool { return c.ID == a.ArchiveClass || c.ID == hold }) {
		k.Errorf("hot classes: %+v, %v", got, err)
	}
	condemn := func(class string, now time.Time, want int) {
		k.Helper()
		got, err := k.Condemn(k.ctx, k.lease, now, []string{class}, leaf(lifecycle.ActionShredIntent))
		if err != nil || len(got) != want {
			k.Errorf("condemned %q, %v, want %d", got, err, want)
		}
	}
	// Not before its end, nor with a record to come, a segment on its way, or one that
	// is to be kept for longer.
	condemn(a.ArchiveClass, ends.Add(-1), 0)
	condemn(a.ArchiveClass, muchLater, 0)
	condemn(young.ArchiveClass, muchLater, 0)

	move := func(from, to string, limit, want int) error {
		k.Helper()
		n, err := k.MoveArchiveClass(k.ctx, k.lease, from, to, limit, leaf(lifecycle.ActionClassMoved))
		if n != want {
			k.Errorf("moved %d, want %d", n, want)
		}
		return err
	}
	k.moved("a move into no class", move(a.ArchiveClass, "archive-1999-01-1", 10, 0))
	k.ok(move(a.ArchiveClass, later, 10, 1))
	k.unchanged("a repeated move", func() { k.ok(move(a.ArchiveClass, later, 10, 0)) })
	if r, err := k.Row(k.ctx, "active"); err != nil || r.ArchiveClass != later {
		k.Errorf("%+v, %v", r, err)
	}
	if e, err := k.Existing(k.ctx, []string{"active"}); err != nil || e["active"].ContentClass != active.ArchiveClass || e["active"].Content != active.Content {
		k.Errorf("%+v, %v", e, err)
	}
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-staged", a.ArchiveClass, 1), leaf(lifecycle.ActionStaged)))
	condemn(a.ArchiveClass, muchLater, 0)
	k.ok(k.AbandonSegment(k.ctx, k.lease, "seg-staged", leaf(lifecycle.ActionAbandoned)))
	condemn(a.ArchiveClass, muchLater, 1)

	// A hold pins it until what it covers is elsewhere.
	k.place("h", onLot("H", ""))
	execute := func(want int) {
		k.Helper()
		ev, err := k.Execute(k.ctx, k.lease, muchLater, []string{a.ArchiveClass}, leaf(lifecycle.ActionShredExecuting))
		if err != nil || len(ev) != want {
			k.Fatalf("%+v, %v, want %d", ev, err, want)
		}
	}
	k.unchanged("executing what is held", func() { execute(0) })
	k.place("h-all", lifecycle.Scope{Location: held.Location})
	k.release("h")
	k.unchanged("executing what is held, by another condition", func() { execute(0) })
	k.place("h-2", onRecord("held"))
	k.release("h-all")
	k.unchanged("executing what is held, as a record", func() { execute(0) })
	rearchive := func(from, to string, rows ...lifecycle.Sealed) (int, error) {
		l := leaf(lifecycle.ActionRearchived)
		l.Subject = to
		return k.Rearchive(k.ctx, k.lease, from, to, members(rows...), l)
	}
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-2", hold, 1), leaf(lifecycle.ActionStaged)))
	_, err := rearchive("seg-1", "seg-2", held)
	k.moved("rearchiving into what is not verified", err)
	k.ok(k.VerifySegment(k.ctx, k.lease, "seg-2", copies(), leaf(lifecycle.ActionVerified)))
	other := held
	other.Checksum[0] ^= 1
	k.unchanged("rearchiving another record", func() {
		if n, err := rearchive("seg-1", "seg-2", other, active); err != nil || n != 0 {
			k.Errorf("%d, %v", n, err)
		}
	})
	if n, err := rearchive("seg-1", "seg-2", held); err != nil || n != 1 {
		k.Fatalf("%d, %v", n, err)
	}
	k.unchanged("rearchiving it again", func() {
		if n, err := rearchive("seg-1", "seg-2", held); err != nil || n != 0 {
			k.Errorf("%d, %v", n, err)
		}
	})
	k.ok(k.SettleSegment(k.ctx, k.lease, "seg-2", leaf(lifecycle.ActionSettled)))
	r, err := k.Row(k.ctx, "held")
	if err != nil || r.Segment != "seg-2" || r.ArchiveClass != hold || r.State != lifecycle.Archived || r.Content != held.Content {
		k.Errorf("%+v, %v", r, err)
	}
	k.tells(r.Seq, lifecycle.ActionIngested, lifecycle.ActionArchived, lifecycle.ActionRearchived)
	k.ofLeaf(lifecycle.ActionArchived, "seg-1", "a", "b", "held")
	k.ofLeaf(lifecycle.ActionRearchived, "seg-2", "held")

	purge := func(limit int) (int, bool, error) {
		l := leaf(lifecycle.ActionPurged)
		l.Subject = "seg-1"
		return k.Purge(k.ctx, k.lease, "seg-1", limit, nil, l)
	}
	_, _, err = purge(1)
	k.moved("purging before the end", err)
	reach := lifecycle.Reach{Scopes: []lifecycle.Scope{onLot("A", ""), onLot("H", "")}}
	coverage := func(want lifecycle.Coverage) {
		k.Helper()
		if c, err := k.Store.Coverage(k.ctx, reach); err != nil || c != want {
			k.Errorf("coverage %+v, %v, want %+v", c, err, want)
		}
	}
	coverage(lifecycle.Coverage{Covered: 2, Archived: 2})
	execute(1)
	// Nothing stops it from here on: a hold comes too late.
	coverage(lifecycle.Coverage{Covered: 1, Archived: 1, TooLate: 1})
	if copies, err := k.HeldCopies(k.ctx, reach); err != nil || len(copies) != 2 || copies[0].Segment != "seg-2" {
		k.Errorf("%+v, %v", copies, err)
	}
	_, err = rearchive("seg-1", "seg-2", a)
	k.moved("rearchiving too late", err)
	_, _, err = purge(1)
	k.moved("purging before its key is destroyed", err)
	k.ok(k.Destroyed(k.ctx, k.lease, []string{a.ArchiveClass}, Start, 1, leaf(lifecycle.ActionShredded)))

	k.ok(k.MoveLegalHold(k.ctx, "seg-1", "main", lifecycle.LegalNone, lifecycle.LegalSet, leaf(lifecycle.ActionLegalHoldSet)))
	if n, done, err := purge(1); err != nil || n != 1 || done || k.state("a") != lifecycle.Purged || k.state("b") != lifecycle.Archived {
		k.Fatalf("%d, %t, %v", n, done, err)
	}
	k.moved("deleting a copy of what is not purged", k.CopyDeleted(k.ctx, k.lease, "seg-1", "main", leaf(lifecycle.ActionObjectsDeleted)))
	if n, done, err := purge(1); err != nil || n != 1 || !done || k.state("b") != lifecycle.Purged || k.state("held") != lifecycle.Archived {
		k.Fatalf("%d, %t, %v", n, done, err)
	}
	k.unchanged("purging again", func() {
		if n, done, err := purge(1); err != nil || n != 0 || !done {
			k.Errorf("%d, %t, %v", n, done, err)
		}
	})
	coverage(lifecycle.Coverage{Covered: 1, Archived: 1, TooLate: 1})
	if r, err = k.Row(k.ctx, "a"); err != nil {
		k.Fatal(err)
	}
	k.tells(r.Seq, lifecycle.ActionIngested, lifecycle.ActionArchived, lifecycle.ActionPurged)
	k.ofLeaf(lifecycle.ActionArchived, "seg-1", "a", "b", "held")
	k.ofLeaf(lifecycle.ActionPurged, "seg-1", "a")
	g, err := k.Store.Segment(k.ctx, "seg-1")
	if err != nil || g.State != lifecycle.PurgedSegment {
		k.Errorf("%+v, %v", g, err)
	}
	for state, want := range map[lifecycle.SegmentState][]string{lifecycle.PurgedSegment: {"seg-1"}, lifecycle.Settled: {"seg-2", "seg-young"}} {
		var ids []string
		gs, err := k.Store.Segments(k.ctx, state)
		k.ok(err)
		for _, g := range gs {
			ids = append(ids, g.ID)
		}
		if !slices.Equal(ids, want) {
			k.Errorf("%s are %q, want %q", state, ids, want)
		}
	}
	// It is no longer what a vault has to have, and its legal hold can be lifted.
	k.vaultIs("main", lifecycle.ActiveVault, 2, 0)
	k.ok(k.MoveLegalHold(k.ctx, "seg-1", "main", lifecycle.LegalSet, lifecycle.Lifting, leaf(lifecycle.ActionLegalHoldOff)))
	k.ok(k.MoveLegalHold(k.ctx, "seg-1", "main", lifecycle.Lifting, lifecycle.LegalNone, leaf(lifecycle.ActionLegalHoldGone)))
	for i, vault := range []string{"main", "cold"} {
		if left, err := k.Undeleted(k.ctx); err != nil || len(left) != 1 || left[0].ID != "seg-1" {
			k.Errorf("left after %d: %+v, %v", i, left, err)
		}
		k.ok(k.CopyDeleted(k.ctx, k.lease, "seg-1", vault, leaf(lifecycle.ActionObjectsDeleted)))
		k.unchanged("deleting it again", func() { k.ok(k.CopyDeleted(k.ctx, k.lease, "seg-1", vault, leaf(lifecycle.ActionObjectsDeleted))) })
	}
	if left, err := k.Undeleted(k.ctx); err != nil || len(left) != 0 {
		k.Errorf("left are %+v, %v", left, err)
	}
	if g, err = k.Store.Segment(k.ctx, "seg-1"); err != nil || !g.Copies[0].DeletedAt.Equal(Start) || !g.Copies[1].DeletedAt.Equal(Start) {
		k.Errorf("%+v, %v", g, err)
	}
	if err := k.CopyDeleted(k.ctx, k.lease, "seg-1", "none", leaf(lifecycle.ActionObjectsDeleted)); !errors.Is(err, lifecycle.ErrNotFound) {
		k.Error(err)
	}
}

// aggregates: what is purged is counted with its purge, once, and only that.
func aggregates(k *kit) {
	k.addVault("main")
	of := func(product string, kind cte.EventType) func(*lifecycle.Sealed) {
		return func(s *lifecycle.Sealed) { s.Product, s.EventType = product, kind }
	}
	rows := []lifecycle.Sealed{
		row("a", expired, of("P", cte.Shipping)), row("b", expired, of("P", cte.Shipping)), row("c", expired, of("P", cte.Receiving)),
		row("d", expired, of("", cte.Shipping)), row("other", expired, of("P", cte.Shipping)),
	}
	class := rows[0].ArchiveClass
	early := row("early", expired.AddDate(0, -1, 0), of("P", cte.Shipping))
	early.ArchiveClass = class
	k.take(append(rows, early)...)
	k.begin()
	k.archive("seg-1", rows[0], rows[2], rows[4], early)
	k.archive("seg-2", rows[1], rows[3])
	k.purge(class, Start)
	counted := func(r *lifecycle.Row) bool { return r.RecordID != "other" }
	purge := func(segment string) (int, bool, error) {
		l := leaf(lifecycle.ActionPurged)
		l.Subject = segment
		return k.Purge(k.ctx, k.lease, segment, 3, counted, l)
	}
	month, before := expired.Format("2006-01"), expired.AddDate(0, -1, 0).Format("2006-01")
	want := func(want ...lifecycle.Aggregate) {
		k.Helper()
		if got, err := k.Aggregates(k.ctx); err != nil || !slices.Equal(got, want) {
			k.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	want()
	k.unchanged("purging by a lease that is lost", func() {
		if _, _, err := k.Purge(k.ctx, lifecycle.Lease{RunID: k.lease.RunID, Fence: k.lease.Fence - 1}, "seg-1", 3, counted, leaf(lifecycle.ActionPurged)); !errors.Is(err, lifecycle.ErrFenced) {
			k.Error(err)
		}
	})
	for i, want := range []bool{false, true} {
		if _, done, err := purge("seg-1"); err != nil || done != want {
			k.Fatalf("%d: %t, %v", i, done, err)
		}
	}
	want(lifecycle.Aggregate{Month: before, Product: "P", EventType: cte.Shipping, Records: 1},
		lifecycle.Aggregate{Month: month, Product: "P", EventType: cte.Receiving, Records: 1}, lifecycle.Aggregate{Month: month, Product: "P", EventType: cte.Shipping, Records: 1})
	k.unchanged("purging again", func() {
		if n, done, err := purge("seg-1"); err != nil || n != 0 || !done {
			k.Errorf("%d, %t, %v", n, done, err)
		}
	})
	if n, done, err := purge("seg-2"); err != nil || n != 2 || !done {
		k.Fatalf("%d, %t, %v", n, done, err)
	}
	want(lifecycle.Aggregate{Month: before, Product: "P", EventType: cte.Shipping, Records: 1}, lifecycle.Aggregate{Month: month, EventType: cte.Shipping, Records: 1},
		lifecycle.Aggregate{Month: month, Product: "P", EventType: cte.Receiving, Records: 1}, lifecycle.Aggregate{Month: month, Product: "P", EventType: cte.Shipping, Records: 2})
	// The trail says how many were counted.
	ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionPurged}})
	k.ok(err)
	told := 0
	for _, l := range ls {
		var body struct {
			Aggregated int `json:"aggregated"`
		}
		k.ok(json.Unmarshal(l.Body, &body))
		told += body.Aggregated
	}
	if told != 5 || len(ls) != 3 {
		k.Errorf("%d leaves tell of %d", len(ls), told)
	}
}

func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }

// tells wants the leaves of a record's own steps to be of these actions.
func (k *kit) tells(seq int64, want ...string) {
	k.Helper()
	ls, err := k.Store.RecordLeaves(k.ctx, seq)
	k.ok(err)
	var got []string
	for _, l := range ls {
		got = append(got, l.Action)
	}
	if !slices.Equal(got, want) {
		k.Errorf("its steps are %q, want %q", got, want)
	}
}

// ofLeaf wants the first leaf of the action to be of these records, as their rows say
// and as it says itself.
func (k *kit) ofLeaf(action, subject string, ids ...string) {
	k.Helper()
	ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Actions: []string{action}})
	k.ok(err)
	var sums [][32]byte
	var got []string
	for r, err := range k.LeafRows(k.ctx, ls[0].ID) {
		k.ok(err)
		got, sums = append(got, r.RecordID), append(sums, r.Checksum)
	}
	var body struct {
		Records int    `json:"records"`
		Root    string `json:"checksum_root"`
	}
	k.ok(json.Unmarshal(ls[0].Body, &body))
	if !slices.Equal(got, ids) || body.Records != len(ids) || body.Root != hexOf(archive.Root(sums)) {
		k.Errorf("leaf %s (%s) is of %q, want %q: %s", action, subject, got, ids, ls[0].Body)
	}
}
