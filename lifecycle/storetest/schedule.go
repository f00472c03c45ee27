package storetest

import (
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// moveTo is a record that gets another due date and other classes, its DEK wrapped anew if
// the class is another.
func (k *kit) moveTo(id string, due time.Time, class, archiveClass string) lifecycle.Rescheduling {
	k.Helper()
	r, err := k.Row(k.ctx, id)
	k.ok(err)
	m := lifecycle.Rescheduling{Seq: r.Seq, RecordID: id, Checksum: r.Checksum, From: lifecycle.Timing{DueAt: r.DueAt, Class: r.Class, ArchiveClass: r.ArchiveClass},
		To: lifecycle.Timing{DueAt: due, Class: class, ArchiveClass: archiveClass}}
	if class != r.Class {
		m.Wrapped = []byte("\x00the DEK of " + id + " under " + class)
	}
	return m
}

// reschedule: due date, classes and DEK change together, with their leaf and with how far
// it is; or nothing does.
func reschedule(k *kit) {
	a, b, c := row("a", expired, lot("A", "")), row("b", expired, lot("B", "")), row("c", expired, lot("C", ""))
	k.take(a, b, c)
	k.begin()
	due := Start.Add(90*24*time.Hour + 5)
	hot, arch := lifecycle.HotPeriod(due).ID(1), lifecycle.ArchivePeriod(due.AddDate(1, 0, 0)).ID(1)
	k.openClasses(hot, arch)
	told := func() lifecycle.Leaf { return leaf(lifecycle.ActionRescheduled) }
	try := func(f lifecycle.Following, moves ...lifecycle.Rescheduling) error {
		return k.Reschedule(k.ctx, k.lease, moves, f, told())
	}
	following := func(want lifecycle.Following) {
		k.Helper()
		if i, err := k.Info(k.ctx); err != nil || i.Following != want {
			k.Errorf("following %+v, %v, want %+v", i.Following, err, want)
		}
	}
	following(lifecycle.Following{Done: true})

	page, err := k.ActivePage(k.ctx, 0, 2, 1<<20)
	if err != nil || len(page) != 2 || page[0].RecordID != "a" || page[1].RecordID != "b" || string(page[1].WrappedDEK) != string(b.WrappedDEK) || string(page[1].Payload) != string(b.Payload) {
		k.Fatalf("%+v, %v", page, err)
	}
	if page, err = k.ActivePage(k.ctx, page[1].Seq, 2, 1); err != nil || len(page) != 1 || page[0].RecordID != "c" {
		k.Fatalf("%+v, %v", page, err)
	}
	if page, err = k.ActivePage(k.ctx, 0, 3, 1); err != nil || len(page) != 1 {
		k.Errorf("a page of one byte: %d, %v", len(page), err)
	}

	moveA, moveB := k.moveTo("a", due, hot, arch), k.moveTo("b", due, b.Class, arch)
	moveB.To.DueAt = b.DueAt
	notOpen, other, late := moveB, moveB, moveB
	notOpen.To.ArchiveClass = "archive-1999-01-1"
	other.Checksum[0] ^= 1
	late.From.DueAt = due
	for what, m := range map[string]lifecycle.Rescheduling{"into no class": notOpen, "another record": other, "one that is due at another time": late} {
		k.unchanged("rescheduling "+what, func() { k.moved("rescheduling "+what, try(lifecycle.Following{Leaf: 7, Seq: 9}, moveA, m)) })
	}
	k.ok(try(lifecycle.Following{Leaf: 7, Seq: moveB.Seq}, moveA, moveB))
	following(lifecycle.Following{Leaf: 7, Seq: moveB.Seq})
	k.unchanged("rescheduling it again", func() { k.moved("rescheduling it again", try(lifecycle.Following{Leaf: 8}, moveA)) })
	s, err := k.SealedRow(k.ctx, "a")
	if err != nil || !s.DueAt.Equal(due) || s.Class != hot || s.ArchiveClass != arch || string(s.WrappedDEK) != string(moveA.Wrapped) {
		k.Errorf("%+v, %v", s, err)
	}
	if s, err = k.SealedRow(k.ctx, "b"); err != nil || !s.DueAt.Equal(b.DueAt) || s.Class != b.Class || s.ArchiveClass != arch || string(s.WrappedDEK) != string(b.WrappedDEK) {
		k.Errorf("%+v, %v", s, err)
	}
	if e, err := k.Existing(k.ctx, []string{"a"}); err != nil || e["a"].ContentClass != a.ArchiveClass {
		k.Errorf("its content is compared by %+v, %v", e, err)
	}
	if n, err := k.CountActive(k.ctx, hot); err != nil || n != 1 {
		k.Errorf("%d of %s, %v", n, hot, err)
	}
	k.tells(moveA.Seq, lifecycle.ActionIngested, lifecycle.ActionRescheduled)

	// A leaf's rows are as it left them, whatever came after.
	back := k.moveTo("a", a.DueAt, a.Class, arch)
	k.ok(try(lifecycle.Following{Leaf: 8, Seq: back.Seq}, back))
	ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionIngested, lifecycle.ActionRescheduled}})
	k.ok(err)
	for i, want := range []map[string]time.Time{{"a": a.DueAt, "b": b.DueAt, "c": c.DueAt}, {"a": due, "b": b.DueAt}, {"a": a.DueAt}} {
		got := map[string]time.Time{}
		for r, err := range k.LeafRows(k.ctx, ls[i].ID) {
			k.ok(err)
			got[r.RecordID] = r.DueAt
			if (r.Moved == nil) != (i == 0) {
				k.Errorf("leaf %d: %+v", i, r.Moved)
			}
			if r.RecordID == "a" && i == 1 {
				m := *r.Moved
				m.Wrapped = moveA.Wrapped
				if lifecycle.ReschedulingHash(&m) != lifecycle.ReschedulingHash(&moveA) || m.Seq != moveA.Seq {
					k.Errorf("%+v, want %+v", m, moveA)
				}
			}
		}
		if len(got) != len(want) {
			k.Errorf("leaf %d is of %v", i, got)
		}
		for id, at := range want {
			if !got[id].Equal(at) {
				k.Errorf("leaf %d leaves %s due at %s, want %s", i, id, got[id], at)
			}
		}
	}
	k.ok(k.Reschedule(k.ctx, k.lease, nil, lifecycle.Following{Leaf: 9, Done: true}, lifecycle.Leaf{}))
	following(lifecycle.Following{Leaf: 9, Done: true})

	// What is archived is not rescheduled; the class that it was moved out of may die.
	k.archive("seg-1", c)
	done := k.moveTo("c", due, hot, arch)
	k.unchanged("rescheduling what is archived", func() { k.moved("rescheduling what is archived", try(lifecycle.Following{Leaf: 9}, done)) })
	gone := lifecycle.Lease{RunID: k.lease.RunID, Fence: k.lease.Fence - 1}
	if err := k.Reschedule(k.ctx, gone, nil, lifecycle.Following{}, lifecycle.Leaf{}); err == nil {
		k.Error("without the lease")
	}
}

// moveSegment: a segment goes to a later class with its members and its locks.
func moveSegment(k *kit) {
	k.addVault("cold")
	k.addVault("main")
	a, b := row("a", expired, lot("A", "")), row("b", expired, lot("B", ""))
	k.take(a, b)
	later, earlier, hold := "archive-2040-01-1", "archive-2020-01-1", "hold-2041-01-1"
	k.openClasses(later, earlier, hold)
	k.begin()
	k.archive("seg-1", a, b)
	g, err := k.Store.Segment(k.ctx, "seg-1")
	k.ok(err)
	told := func() lifecycle.Leaf {
		l := leaf(lifecycle.ActionSegmentMoved)
		l.Subject = "seg-1"
		return l
	}
	moved := func(class string) lifecycle.Segment {
		m := g
		m.Class, m.WrappedIdentity, m.RetainUntil = class, []byte("the identity under "+class), Start.AddDate(14, 0, 0)
		m.Copies = slices.Clone(g.Copies)
		for i := range m.Copies {
			m.Copies[i].RetainUntil = m.RetainUntil.Add(time.Second)
		}
		return m
	}
	none := moved(later)
	none.ID = "seg-none"
	short := moved(later)
	short.Copies = short.Copies[:1]
	for what, m := range map[string]lifecycle.Segment{"to no class": moved("archive-1999-01-1"), "to an earlier class": moved(earlier), "to a hold class": moved(hold), "what is not there": none, "with a copy that is locked for less": short} {
		k.unchanged("moving "+what, func() {
			_, err := k.MoveSegment(k.ctx, k.lease, m, told())
			k.moved("moving "+what, err)
		})
	}
	want := moved(later)
	if n, err := k.MoveSegment(k.ctx, k.lease, want, told()); err != nil || n != 2 {
		k.Fatalf("%d, %v", n, err)
	}
	k.unchanged("moving it again", func() {
		if n, err := k.MoveSegment(k.ctx, k.lease, want, told()); err != nil || n != 0 {
			k.Errorf("%d, %v", n, err)
		}
	})
	got, err := k.Store.Segment(k.ctx, "seg-1")
	if err != nil || got.Class != later || string(got.WrappedIdentity) != string(want.WrappedIdentity) || !got.RetainUntil.Equal(want.RetainUntil) || got.ObjectKey != g.ObjectKey || got.State != lifecycle.Settled {
		k.Errorf("%+v, %v", got, err)
	}
	for _, c := range got.Copies {
		if !c.RetainUntil.Equal(want.Copies[0].RetainUntil) {
			k.Errorf("%+v", c)
		}
	}
	for _, id := range []string{"a", "b"} {
		if r, err := k.Row(k.ctx, id); err != nil || r.ArchiveClass != later || r.Segment != "seg-1" || r.State != lifecycle.Archived {
			k.Errorf("%+v, %v", r, err)
		}
	}
	if e, err := k.Existing(k.ctx, []string{"a"}); err != nil || e["a"].ContentClass != a.ArchiveClass {
		k.Errorf("its content is compared by %+v, %v", e, err)
	}
	// A vault that was being given a copy has to lock it for as long.
	k.addVault("late")
	c := copies()[0]
	c.Vault, c.ObjectVersion, c.ManifestVersion = "late", "v-late-1", "v-late-2"
	c.RetainUntil = want.RetainUntil.Add(-1)
	k.moved("a copy with an older lock", k.AddCopy(k.ctx, "seg-1", c, leaf(lifecycle.ActionVaultCopied)))
	c.RetainUntil = want.RetainUntil
	k.ok(k.AddCopy(k.ctx, "seg-1", c, leaf(lifecycle.ActionVaultCopied)))

	// Its old class dies without it.
	at := classOf(a.ArchiveClass).Period.Ends()
	ids, err := k.Condemn(k.ctx, k.lease, at, []string{a.ArchiveClass}, leaf(lifecycle.ActionShredIntent))
	if err != nil || len(ids) != 1 {
		k.Fatalf("%q, %v", ids, err)
	}
	ev, err := k.Execute(k.ctx, k.lease, at, ids, leaf(lifecycle.ActionShredExecuting))
	if err != nil || len(ev) != 1 {
		k.Fatalf("%+v, %v", ev, err)
	}
	k.ok(k.Destroyed(k.ctx, k.lease, ids, at, 1, leaf(lifecycle.ActionShredded)))
	if cov, err := k.Store.Coverage(k.ctx, lifecycle.Reach{Scopes: []lifecycle.Scope{{All: true}}}); err != nil || cov.Covered != 2 || cov.TooLate != 0 {
		k.Errorf("%+v, %v", cov, err)
	}
	_, _, err = k.Purge(k.ctx, k.lease, "seg-1", 10, nil, leaf(lifecycle.ActionPurged))
	k.moved("purging what was moved", err)
	// Nor does it come back.
	_, err = k.MoveSegment(k.ctx, k.lease, moved(a.ArchiveClass), told())
	k.moved("moving it back", err)
}

// replayMoved: a recovery moves a segment as its entry says, once.
func replayMoved(k *kit) {
	k.addVault("cold")
	k.addVault("main")
	a := row("a", expired)
	k.take(a)
	later := "archive-2040-01-1"
	k.openClasses(later)
	k.begin()
	k.archive("seg-1", a)
	g, err := k.Store.Segment(k.ctx, "seg-1")
	k.ok(err)
	g.Class, g.WrappedIdentity, g.RetainUntil = later, []byte("under the later key"), Start.AddDate(14, 0, 0)
	for i := range g.Copies {
		g.Copies[i].RetainUntil = g.RetainUntil
	}
	size, err := k.Sequence(k.ctx)
	k.ok(err)
	l := leaf(lifecycle.ActionSegmentMoved)
	l.Subject = "seg-1"
	k.ok(k.Replay(k.ctx, k.lease, size, l, lifecycle.SegmentRescheduled{Segment: g}))
	again := l
	again.Actor = "another"
	k.ok(k.Replay(k.ctx, k.lease, size+1, again, lifecycle.SegmentRescheduled{Segment: g}))
	got, err := k.Store.Segment(k.ctx, "seg-1")
	if err != nil || got.Class != later || string(got.WrappedIdentity) != string(g.WrappedIdentity) || !got.Copies[0].RetainUntil.Equal(g.RetainUntil) {
		k.Errorf("%+v, %v", got, err)
	}
	if r, err := k.Row(k.ctx, "a"); err != nil || r.ArchiveClass != later {
		k.Errorf("%+v, %v", r, err)
	}
}
