package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func due(k *kit) {
	now := expired.Add(keep)
	var in []lifecycle.Sealed
	for i, at := range []time.Duration{0, 1, -1, -time.Hour, time.Hour, -48 * time.Hour} {
		in = append(in, row(fmt.Sprintf("r-%d", i), expired.Add(at)))
	}
	other := row("other", expired.Add(-60*24*time.Hour)) // of an earlier archive class
	k.take(append(in, other)...)
	classes, err := k.DueClasses(k.ctx, now)
	k.ok(err)
	if want := []string{other.ArchiveClass, in[0].ArchiveClass}; !reflect.DeepEqual(classes, want) {
		k.Errorf("due classes %q, want %q", classes, want)
	}
	want := []string{"r-5", "r-3", "r-2", "r-0"} // due at now exactly is due, a nanosecond later is not
	get := func() (rows, sealed []string) {
		page, err := k.DueRows(k.ctx, in[0].ArchiveClass, now, lifecycle.Cursor{}, 100)
		k.ok(err)
		for _, r := range page {
			rows = append(rows, r.RecordID)
		}
		full, err := k.DuePage(k.ctx, in[0].ArchiveClass, now, lifecycle.Cursor{}, 100, 1<<20)
		k.ok(err)
		for i, r := range full {
			sealed = append(sealed, r.RecordID)
			if !reflect.DeepEqual(r.Row, page[i]) {
				k.Errorf("%+v is not %+v", r.Row, page[i])
			}
			if string(r.Payload) == "" || string(r.WrappedDEK) == "" {
				k.Errorf("record %s lacks its ciphertext", r.RecordID)
			}
		}
		return rows, sealed
	}
	if rows, sealed := get(); !slices.Equal(rows, want) || !slices.Equal(sealed, want) {
		k.Errorf("due are %q and %q, want %q", rows, sealed, want)
	}
	// Page by page: what falls due earlier may have come in later.
	var paged []string
	for after := (lifecycle.Cursor{}); len(paged) <= len(want); {
		page, err := k.DueRows(k.ctx, in[0].ArchiveClass, now, after, 1)
		k.ok(err)
		if len(page) == 0 {
			break
		}
		paged, after = append(paged, page[0].RecordID), lifecycle.Cursor{DueAt: page[0].DueAt, Seq: page[0].Seq}
	}
	if !slices.Equal(paged, want) {
		k.Errorf("one by one, due are %q, want %q", paged, want)
	}
	// A hold does not hide a record from the planner; archiving does.
	k.place("h-1", onRecord("r-3"))
	k.begin()
	k.archive("seg-1", in[2])
	want = []string{"r-5", "r-3", "r-0"}
	if rows, sealed := get(); !slices.Equal(rows, want) || !slices.Equal(sealed, want) {
		k.Errorf("due are %q and %q, want %q", rows, sealed, want)
	}
	k.archive("seg-2", other)
	if classes, err = k.DueClasses(k.ctx, now); err != nil || !slices.Equal(classes, []string{in[0].ArchiveClass}) {
		k.Errorf("due classes %q, %v", classes, err)
	}
	if page, err := k.DueRows(k.ctx, "archive-1999-01-1", now, lifecycle.Cursor{}, 100); err != nil || len(page) > 0 {
		k.Errorf("due in an unknown class: %v, %v", page, err)
	}
}

// duePages: ten thousand records that fall due at one instant, as those of a
// file without times of day do, some of them held, between a few others.
func duePages(k *kit) {
	n := many(10_000)
	var batch []lifecycle.Sealed
	for i := range n {
		batch = append(batch, row(fmt.Sprintf("same-%05d", i), expired))
	}
	batch = append(batch, row("before", expired.Add(-1)), row("after", expired.Add(1)))
	k.take(batch...)
	for i := 0; i < n; i += 100 {
		k.place(fmt.Sprintf("h-%d", i), onRecord(fmt.Sprintf("same-%05d", i)))
	}
	var got []string
	var after lifecycle.Cursor
	const limit = 999
	for len(got) <= n+2 {
		page, err := k.DueRows(k.ctx, batch[0].ArchiveClass, Start, after, limit)
		k.ok(err)
		if len(page) == 0 {
			break
		}
		if len(page) > limit {
			k.Fatalf("a page of %d", len(page))
		}
		for _, r := range page {
			got = append(got, r.RecordID)
			after = lifecycle.Cursor{DueAt: r.DueAt, Seq: r.Seq}
		}
		// What is archived behind the cursor takes nothing away before it.
		if len(got) == limit {
			k.begin()
			k.verified("seg-1", batch[0].ArchiveClass, 2)
			k.softDelete(2, "seg-1", Start, members(batch[n], batch[1]))
		}
	}
	if len(got) != n+2 || got[0] != "before" || got[n+1] != "after" {
		k.Fatalf("%d records, the first %s, the last %s", len(got), got[0], got[len(got)-1])
	}
	for i, id := range got[1 : n+1] {
		if id != batch[i].RecordID {
			k.Fatalf("record %d is %s, want %s", i, id, batch[i].RecordID)
		}
	}
}

func duePageBytes(k *kit) {
	var batch []lifecycle.Sealed
	for i := range 7 {
		batch = append(batch, row(fmt.Sprint(i), expired, func(s *lifecycle.Sealed) { s.Payload = make([]byte, 100) }))
	}
	k.take(batch...)
	for _, c := range []struct {
		limit    int
		maxBytes int64
		want     int
	}{{100, 1 << 30, 7}, {3, 1 << 30, 3}, {100, 300, 3}, {100, 301, 4}, {100, 1, 1}, {100, 0, 1}, {2, 250, 2}} {
		page, err := k.DuePage(k.ctx, batch[0].ArchiveClass, Start, lifecycle.Cursor{}, c.limit, c.maxBytes)
		if err != nil || len(page) != c.want {
			k.Errorf("limit %d, %d bytes: %d records, %v, want %d", c.limit, c.maxBytes, len(page), err, c.want)
		}
	}
}

func checksums(k *kit) {
	a, b := row("a", expired), row("b", expired)
	k.take(a, b)
	k.begin()
	k.archive("seg-1", b)
	got, err := k.Store.Checksums(k.ctx, []string{"a", "b", "none"})
	if want := map[string][32]byte{"a": a.Checksum}; err != nil || !reflect.DeepEqual(got, want) {
		k.Errorf("%x, %v, want %x", got, err, want)
	}
}

// segmentMoves tries every call in every state.
func segmentMoves(k *kit) {
	r := row("a", expired)
	k.take(r)
	k.begin()
	moves := map[string]func(id string) error{
		"verify": func(id string) error {
			return k.VerifySegment(k.ctx, k.lease, id, copies(), leaf(lifecycle.ActionVerified))
		},
		"abandon": func(id string) error { return k.AbandonSegment(k.ctx, k.lease, id, leaf(lifecycle.ActionAbandoned)) },
		"settle":  func(id string) error { return k.SettleSegment(k.ctx, k.lease, id, leaf(lifecycle.ActionSettled)) },
		"soft-delete": func(id string) error {
			_, err := k.SoftDelete(k.ctx, k.lease, id, Start, nil, leaf(lifecycle.ActionArchived))
			return err
		},
	}
	legal := map[lifecycle.SegmentState]map[string]lifecycle.SegmentState{
		lifecycle.Staged:    {"verify": lifecycle.Verified, "abandon": lifecycle.Abandoned},
		lifecycle.Verified:  {"settle": lifecycle.Settled, "soft-delete": lifecycle.Verified},
		lifecycle.Settled:   {},
		lifecycle.Abandoned: {},
		"none":              {},
	}
	reach := map[lifecycle.SegmentState][]string{lifecycle.Verified: {"verify"}, lifecycle.Settled: {"verify", "settle"}, lifecycle.Abandoned: {"abandon"}}
	for from, allowed := range legal {
		for name, move := range moves {
			id := "seg-" + string(from) + "-" + name
			if from != "none" {
				k.ok(k.StageSegment(k.ctx, k.lease, k.segment(id, r.ArchiveClass, 1), leaf(lifecycle.ActionStaged)))
			}
			for _, step := range reach[from] {
				k.ok(moves[step](id))
			}
			to, ok := allowed[name]
			if ok {
				k.ok(move(id))
				if g, err := k.Segment(k.ctx, id); err != nil || g.State != to {
					k.Errorf("%s of a %s segment made it %s, %v", name, from, g.State, err)
				}
				continue
			}
			k.unchanged(name+" of a segment that is "+string(from), func() {
				if err := move(id); !errors.Is(err, lifecycle.ErrMoved) {
					k.Errorf("%s of a segment that is %s: %v", name, from, err)
				}
			})
		}
	}
	// A segment is staged once, and for a class that is open.
	k.unchanged("staging again", func() {
		if err := k.StageSegment(k.ctx, k.lease, k.segment("seg-settled-verify", r.ArchiveClass, 1), leaf(lifecycle.ActionStaged)); err == nil {
			k.Error("a segment was staged twice")
		}
	})
	k.unchanged("staging for an unknown class", func() {
		if err := k.StageSegment(k.ctx, k.lease, k.segment("seg-x", "archive-1999-01-1", 1), leaf(lifecycle.ActionStaged)); !errors.Is(err, lifecycle.ErrMoved) {
			k.Errorf("staging for an unknown class: %v", err)
		}
	})
}

func segments(k *kit) {
	r := row("a", expired)
	k.take(r)
	k.begin()
	want := map[string]lifecycle.Segment{}
	for _, id := range []string{"seg-3", "seg-1", "seg-2", "seg-4"} {
		want[id] = k.segment(id, r.ArchiveClass, 3)
		k.ok(k.StageSegment(k.ctx, k.lease, want[id], leaf(lifecycle.ActionStaged)))
	}
	set := func(id string, state lifecycle.SegmentState, copies []lifecycle.Copy) {
		g := want[id]
		g.State, g.Copies = state, copies
		want[id] = g
	}
	k.ok(k.VerifySegment(k.ctx, k.lease, "seg-1", copies(), leaf(lifecycle.ActionVerified)))
	set("seg-1", lifecycle.Verified, copies())
	k.ok(k.VerifySegment(k.ctx, k.lease, "seg-4", copies()[:1], leaf(lifecycle.ActionVerified)))
	k.ok(k.SettleSegment(k.ctx, k.lease, "seg-4", leaf(lifecycle.ActionSettled)))
	set("seg-4", lifecycle.Settled, copies()[:1])
	k.ok(k.AbandonSegment(k.ctx, k.lease, "seg-2", leaf(lifecycle.ActionAbandoned)))
	set("seg-2", lifecycle.Abandoned, nil)
	for id, g := range want {
		if got, err := k.Segment(k.ctx, id); err != nil || !reflect.DeepEqual(got, g) {
			k.Errorf("segment is\n%+v, %v, want\n%+v", got, err, g)
		}
	}
	for _, c := range []struct {
		states []lifecycle.SegmentState
		want   []string
	}{
		{nil, []string{"seg-1", "seg-2", "seg-3", "seg-4"}},
		{[]lifecycle.SegmentState{lifecycle.Staged}, []string{"seg-3"}},
		{[]lifecycle.SegmentState{lifecycle.Staged, lifecycle.Verified}, []string{"seg-1", "seg-3"}},
		{[]lifecycle.SegmentState{lifecycle.Settled}, []string{"seg-4"}},
	} {
		got, err := k.Store.Segments(k.ctx, c.states...)
		k.ok(err)
		var ids []string
		for _, g := range got {
			ids = append(ids, g.ID)
			if !reflect.DeepEqual(g, want[g.ID]) {
				k.Errorf("segment is\n%+v, want\n%+v", g, want[g.ID])
			}
		}
		if !slices.Equal(ids, c.want) {
			k.Errorf("segments that are %q: %q, want %q", c.states, ids, c.want)
		}
	}
}

func softDelete(k *kit) {
	now := expired.Add(keep)
	good, young, wrong, gone := row("good", expired), row("young", expired.Add(1)), row("wrong", expired), row("gone", expired)
	k.take(good, young, wrong, gone)
	k.begin()
	k.archive("seg-0", gone)
	k.verified("seg-1", good.ArchiveClass, 4)
	m := members(good, young, wrong, gone)
	m[2].Checksum[31] ^= 1
	m = append(m, lifecycle.Member{RecordID: "unknown"})
	k.softDelete(1, "seg-1", now, m)
	for id, want := range map[string]lifecycle.State{"good": lifecycle.Archived, "young": lifecycle.Active, "wrong": lifecycle.Active, "gone": lifecycle.Archived} {
		if got := k.state(id); got != want {
			k.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	s, err := k.SealedRow(k.ctx, "good")
	k.ok(err)
	info, err := k.Info(k.ctx)
	k.ok(err)
	if s.WrappedDEK != nil || s.Segment != "seg-1" || s.ArchiveLeaf != info.NewestLeaf.ID || string(s.Payload) != string(good.Payload) {
		k.Errorf("after its soft-delete: %+v", s)
	}
	if info.NewestLeaf.Action != lifecycle.ActionArchived || string(info.NewestLeaf.Body) != fmt.Sprintf(`{"by":"storetest","checksum_root":"%x","kept":["young","wrong"],"records":1}`, archive.Root([][32]byte{good.Checksum})) {
		k.Errorf("its leaf: %+v %s", info.NewestLeaf, info.NewestLeaf.Body)
	}
	if g, err := k.Row(k.ctx, "gone"); err != nil || g.Segment != "seg-0" {
		k.Errorf("a record that was archived before is in %s now, %v", g.Segment, err)
	}
	k.unchanged("a repeated soft-delete", func() { k.softDelete(0, "seg-1", now, m) })
	k.unchanged("a soft-delete of nothing", func() { k.softDelete(0, "seg-1", now, nil) })
	k.softDelete(1, "seg-1", now.Add(1), m)
	k.same(wrong)
}

func softDeleteHeld(k *kit) {
	in := map[string]lifecycle.Sealed{}
	var all []lifecycle.Sealed
	for _, c := range []struct{ id, tlc, source string }{
		{"by-record", "L-0", "S"}, {"free", "L-0", "S"},
		{"any-source", "L-1", "S1"}, {"any-source-none", "L-1", ""},
		{"source", "L-2", "S1"}, {"source-none", "L-2", ""}, {"source-other", "L-2", "S2"},
		{"lot-case", "l-1", "S1"}, {"lot-longer", "L-11", "S1"}, {"no-lot", "", ""},
		{"released", "L-3", "S"}, {"twice", "L-4", "S"},
	} {
		in[c.id] = row(c.id, expired, lot(c.tlc, c.source))
		all = append(all, in[c.id])
	}
	k.take(all...)
	k.place("h-record", onRecord("by-record"))
	k.place("h-lot", onLot("L-1", ""))
	k.place("h-source", onLot("L-2", "S1"))
	k.place("h-many", onRecord("nobody"), onLot("nowhere", "S"), onLot("L-4", "S"))
	k.place("h-again", onRecord("twice"))
	k.place("h-released", onLot("L-3", ""))
	k.release("h-released")
	k.release("h-again")
	k.begin()
	k.verified("seg-1", all[0].ArchiveClass, len(all))
	want := map[string]lifecycle.State{
		"by-record": lifecycle.Active, "any-source": lifecycle.Active, "any-source-none": lifecycle.Active, "source": lifecycle.Active,
		// A record that lacks its source may be of the source that is held.
		"source-none": lifecycle.Active, "twice": lifecycle.Active,
	}
	k.softDelete(len(all)-len(want), "seg-1", Start, members(all...))
	holds, err := k.Store.Holds(k.ctx, true)
	k.ok(err)
	set := lifecycle.NewHoldSet(holds)
	for id, r := range in {
		w := want[id]
		if w == "" {
			w = lifecycle.Archived
		}
		if got := k.state(id); got != w {
			k.Errorf("%s is %s, want %s", id, got, w)
		}
		// The planner's check, written apart, says the same.
		if planned := len(set.Covering(&r.Row)) > 0; planned != (w == lifecycle.Active) {
			k.Errorf("the planner takes %s for held: %v", id, planned)
		}
	}
	for _, id := range []string{"h-record", "h-lot", "h-source", "h-many"} {
		k.release(id)
	}
	k.softDelete(len(want), "seg-1", Start, members(all...))
}

// holdBetween: a hold placed after verification, before soft-delete, and from
// another handle.
func holdBetween(k *kit) {
	a, b := row("a", expired, lot("L-1", "S")), row("b", expired, lot("L-2", "S"))
	k.take(a, b)
	k.begin()
	k.verified("seg-1", a.ArchiveClass, 2)
	other := k.again(k)
	if err := other.Place(k.ctx, placement("h-1", onLot("L-1", "S"))); err != nil {
		k.Fatal(err)
	}
	k.softDelete(1, "seg-1", Start, members(a, b))
	k.same(a)
	k.ok(other.Release(k.ctx, "h-1", "over", leaf(lifecycle.ActionHoldReleased)))
	k.softDelete(1, "seg-1", Start, members(a, b))
	if s, err := other.SealedRow(k.ctx, "a"); err != nil || s.State != lifecycle.Archived || s.WrappedDEK != nil {
		k.Errorf("%+v, %v", s, err)
	}
}
