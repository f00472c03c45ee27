package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// root is that of the tree of a size.
func (k *kit) root(size int64) tlog.Hash {
	k.Helper()
	h, err := tlog.TreeHash(size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return k.LogHashes(k.ctx, indexes) }))
	k.ok(err)
	return h
}

// publishedLeaf is a leaf as another database has published it.
func publishedLeaf(n int64, action string) lifecycle.Leaf {
	return lifecycle.Leaf{At: Start.Add(time.Duration(n) * time.Second), Actor: "another", Role: "its role", Software: "lotkeeper 0", Action: action,
		RunID: "run-there", Subject: fmt.Sprint("subject-", n), Body: json.RawMessage(fmt.Sprintf(`{"n":%d,"text":"é\u00e9"}`, n))}
}

// rebase: the log ends where it is told, and what came after waits; whatever it is given
// next, that is where it goes.
func rebase(k *kit) {
	k.begin()
	for i := range 20 {
		l := leaf("tick")
		l.Subject = fmt.Sprint(i)
		k.ok(k.Append(k.ctx, l))
	}
	k.sequence(22)
	whole := k.root(22)
	for vault, size := range map[string]int64{"main": 22, "cold": 7, "old": 2} {
		k.ok(k.Store.Published(k.ctx, vault, size))
	}
	at := func(size, pending int64, published map[string]int64) {
		k.Helper()
		if st, err := k.LogState(k.ctx); err != nil || !reflect.DeepEqual(st, lifecycle.LogState{Size: size, Pending: pending, Published: published}) {
			k.Errorf("%+v, %v, want %d, %d, %v", st, err, size, pending, published)
		}
		k.logged(size)
	}
	k.ok(k.Rebase(k.ctx, k.lease, 22))
	at(22, 0, map[string]int64{"main": 22, "cold": 7, "old": 2})
	k.ok(k.Rebase(k.ctx, k.lease, 5))
	at(5, 17, map[string]int64{"main": 5, "cold": 5, "old": 2})
	k.unchanged("taking it back again", func() { k.ok(k.Rebase(k.ctx, k.lease, 5)) })
	k.sequence(22)
	if k.root(22) != whole {
		k.Error("the same leaves, and another root")
	}
	k.ok(k.Rebase(k.ctx, k.lease, 0))
	at(0, 22, map[string]int64{"main": 0, "cold": 0, "old": 0})
	k.sequence(22)
	k.ok(k.Rebase(k.ctx, k.lease, 5))

	// An entry that waits here is that one, and is not written twice.
	waiting, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: "12"})
	k.ok(err)
	same := waiting[0]
	same.ID, same.Index = 0, 0
	k.ok(k.Replay(k.ctx, k.lease, 5, same, lifecycle.ClockAccepted{}))
	if i, err := k.LogIndex(k.ctx, waiting[0].ID); err != nil || i != 5 {
		k.Errorf("it has the index %d, %v", i, err)
	}
	k.ok(k.Replay(k.ctx, k.lease, 6, publishedLeaf(1, "new"), nil))
	at(7, 16, map[string]int64{"main": 0, "cold": 0, "old": 0})
	k.sequence(23)
	k.logged(23)
	in, err := k.LogLeaves(k.ctx, 0, 23)
	k.ok(err)
	var order []string
	for _, l := range in[2:] {
		order = append(order, l.Subject)
	}
	if want := []string{"0", "1", "2", "12", "subject-1", "3", "4", "5", "6", "7", "8", "9", "10", "11", "13", "14", "15", "16", "17", "18", "19"}; !slices.Equal(order, want) {
		k.Errorf("in the order %q, want %q", order, want)
	}

	// By nobody else, and by no other way.
	over := k.lease
	k.end()
	k.unchanged("what is refused", func() {
		if err := k.Rebase(k.ctx, over, 5); !errors.Is(err, lifecycle.ErrFenced) {
			k.Errorf("without the lease: %v", err)
		}
		if err := k.Replay(k.ctx, over, 23, publishedLeaf(2, "new"), nil); !errors.Is(err, lifecycle.ErrFenced) {
			k.Errorf("without the lease: %v", err)
		}
		for _, q := range []string{`DELETE FROM log_entries WHERE log_index > 5`, `DELETE FROM log_hashes WHERE n > 5`, `UPDATE log_published SET size = -1`} {
			if k.raw == nil {
				break // a harness that only looks at plans
			}
			if err := k.raw(q); err == nil {
				k.Errorf("%s: it passed", q)
			}
		}
	})
}

// replayer gives entries to a log, each twice: the second time nothing happens.
type replayer struct {
	*kit
	size int64
}

func (r *replayer) replay(l lifecycle.Leaf, e lifecycle.Effect) lifecycle.Leaf {
	r.Helper()
	r.ok(r.Replay(r.ctx, r.lease, r.size, l, e))
	r.unchanged(fmt.Sprintf("%T again", e), func() { r.ok(r.Replay(r.ctx, r.lease, r.size, l, e)) })
	in, err := r.LogLeaves(r.ctx, r.size, r.size+1)
	r.ok(err)
	if len(in) != 1 {
		r.Fatalf("entry %d is not there", r.size)
	}
	got := in[0]
	if l.ID, l.Index = got.ID, r.size; !reflect.DeepEqual(got, l) {
		r.Fatalf("the entry is\n%+v, want\n%+v", got, l)
	}
	r.size++
	r.logged(r.size)
	return got
}

// again has another entry say the same: what is so already stays as it is.
func (r *replayer) again(e lifecycle.Effect) {
	r.Helper()
	state := func() any {
		hs, err := r.Store.Holds(r.ctx, false)
		r.ok(err)
		gs, err := r.Store.Segments(r.ctx)
		r.ok(err)
		cs, err := r.Classes(r.ctx, true)
		r.ok(err)
		vs, err := r.Store.Vaults(r.ctx)
		r.ok(err)
		rs, err := r.Runs(r.ctx, 0)
		r.ok(err)
		ls, err := r.LegalHolds(r.ctx)
		r.ok(err)
		b, err := json.Marshal([]any{hs, gs, cs, vs, rs, ls})
		r.ok(err)
		return string(b)
	}
	before := state()
	r.replay(publishedLeaf(r.size, "again"), e)
	if after := state(); after != before {
		r.Errorf("%T by another entry changed\n%s to\n%s", e, before, after)
	}
}

// replay: each effect, from nothing.
func replay(k *kit) {
	k.begin()
	k.sequence(2)
	r := &replayer{k, 2}
	entry := func(action string) lifecycle.Leaf { return publishedLeaf(r.size, action) }
	r.replay(entry("without effect"), nil)
	for _, bad := range []struct {
		index int64
		leaf  lifecycle.Leaf
	}{{r.size + 1, entry("x")}, {r.size - 1, entry("x")}, {0, entry("x")}} {
		k.unchanged("an entry out of order", func() {
			if err := k.Replay(k.ctx, k.lease, bad.index, bad.leaf, lifecycle.ClockAccepted{}); !errors.Is(err, lifecycle.ErrMoved) {
				k.Errorf("entry %d of %d: %v", bad.index, r.size, err)
			}
		})
	}

	// Classes.
	ids := []string{"hot-2024-01-01-1", "archive-2025-01-1", "deferral-2024-01-2"}
	var cs []lifecycle.Class
	for _, id := range ids {
		cs = append(cs, classOf(id))
	}
	r.replay(entry(lifecycle.ActionClassOpened), lifecycle.ClassesOpened{Classes: cs, Epoch: 4})
	r.again(lifecycle.ClassesOpened{Classes: cs, Epoch: 3})
	intent := r.replay(entry(lifecycle.ActionShredIntent), lifecycle.ClassesMoved{Classes: ids[:1], To: lifecycle.Condemned})
	r.again(lifecycle.ClassesMoved{Classes: ids[:1], To: lifecycle.Condemned})
	r.replay(entry(lifecycle.ActionShredExecuting), lifecycle.ClassesMoved{Classes: ids[:1], To: lifecycle.Executing})
	gone := Start.Add(time.Hour + 7)
	r.replay(entry(lifecycle.ActionShredded), lifecycle.ClassesMoved{Classes: ids[:1], To: lifecycle.Destroyed, At: gone, Epoch: 6})
	for _, to := range []lifecycle.ClassState{lifecycle.Condemned, lifecycle.Executing, lifecycle.Destroyed} {
		r.again(lifecycle.ClassesMoved{Classes: ids[:1], To: to, At: gone.Add(1), Epoch: 6})
	}
	r.again(lifecycle.ClassesMoved{Classes: ids[1:], To: lifecycle.Destroyed, At: gone, Epoch: 6}) // not executing
	all, err := k.Classes(k.ctx, false)
	k.ok(err)
	cs[0].State, cs[0].IntentLeaf, cs[0].DestroyedAt, cs[0].Epoch = lifecycle.Destroyed, intent.ID, gone, 6
	byID := func(cs []lifecycle.Class) []lifecycle.Class {
		return slices.SortedFunc(slices.Values(cs), func(a, b lifecycle.Class) int { return slices.Compare([]string{a.ID}, []string{b.ID}) })
	}
	if !reflect.DeepEqual(byID(all), byID(cs)) {
		k.Errorf("the classes are\n%+v, want\n%+v", all, cs)
	}
	if info, err := k.Info(k.ctx); err != nil || info.Epoch != 6 {
		k.Errorf("epoch %d, %v", info.Epoch, err)
	}
	r.replay(entry(lifecycle.ActionKeyringMended), lifecycle.KeyringAccepted{Epoch: 5})
	r.replay(publishedLeaf(1<<30, lifecycle.ActionClockAccepted), lifecycle.ClockAccepted{})
	if info, err := k.Info(k.ctx); err != nil || info.Epoch != 5 || !info.TrustedTime.Equal(Start.Add(time.Second<<30)) {
		k.Errorf("%+v, %v", info, err)
	}

	// Runs.
	ran := lifecycle.Run{ID: "run-there", Kind: "ingest", Actor: "another", StartedAt: Start.Add(3), Status: "running", Result: []byte{}}
	r.replay(entry(lifecycle.ActionRunStarted), lifecycle.RunBegun{Run: ran})
	r.again(lifecycle.RunBegun{Run: ran})
	ran.FinishedAt, ran.Status, ran.Result = Start.Add(4), "failed", []byte(`{"read":1}`)
	r.replay(entry(lifecycle.ActionRunFinished), lifecycle.RunEnded{Run: ran})
	r.again(lifecycle.RunEnded{Run: lifecycle.Run{ID: ran.ID, Status: "interrupted"}})
	if got, err := k.Run(k.ctx, ran.ID); err != nil || !reflect.DeepEqual(got, ran) {
		k.Errorf("the run is\n%+v, %v, want\n%+v", got, err, ran)
	}
	cut := lifecycle.Run{ID: "run-cut", Kind: "sweep", Actor: "another", StartedAt: Start, Status: "running", Result: []byte{}}
	r.replay(entry(lifecycle.ActionRunStarted), lifecycle.RunBegun{Run: cut})
	r.replay(entry(lifecycle.ActionRunInterrupted), lifecycle.RunEnded{Run: lifecycle.Run{ID: cut.ID, Status: "interrupted"}})
	if got, err := k.Run(k.ctx, cut.ID); err != nil || got.Status != "interrupted" || !got.FinishedAt.IsZero() {
		k.Errorf("%+v, %v", got, err)
	}

	// Holds.
	h := placement("h-1", onRecord("r"), traced("L", "S", lifecycle.Both), lifecycle.Scope{TLCPrefix: "P", From: expired, To: expired.Add(1)}).Hold
	h.ReviewAt, h.Until = Start.Add(5), Start.Add(6)
	r.replay(entry(lifecycle.ActionHoldPlaced), lifecycle.HoldPlaced{Hold: h})
	r.again(lifecycle.HoldPlaced{Hold: h})
	k.unchanged("another of its reference", func() {
		if err := k.Replay(k.ctx, k.lease, r.size, entry(lifecycle.ActionHoldPlaced), lifecycle.HoldPlaced{Hold: lifecycle.Hold{ID: "h-2", Kind: h.Kind, Reference: h.Reference, Scopes: h.Scopes}}); err == nil {
			k.Error("two open holds have one reference")
		}
	})
	more := []lifecycle.Scope{{All: true}, onRecord("r"), traced("M", "", lifecycle.Forward)}
	r.replay(entry(lifecycle.ActionHoldExtended), lifecycle.HoldExtended{ID: "h-1", Scopes: more})
	r.again(lifecycle.HoldExtended{ID: "h-1", Scopes: more})
	h.Scopes = append(h.Scopes, more[0], more[2])
	check := func() {
		k.Helper()
		if got, err := k.Hold(k.ctx, "h-1"); err != nil || !reflect.DeepEqual(*got, h) {
			k.Errorf("the hold is\n%+v, %v, want\n%+v", got, err, h)
		}
	}
	check()
	l := r.replay(entry(lifecycle.ActionHoldReleased), lifecycle.HoldReleased{ID: "h-1", Reason: "over"})
	r.again(lifecycle.HoldReleased{ID: "h-1", Reason: "over again"})
	h.ReleasedAt, h.ReleasedBy, h.ReleaseReason = l.At, "another", "over"
	check()
	// The database has released it, and the log says later that it grew.
	r.replay(entry(lifecycle.ActionHoldExtended), lifecycle.HoldExtended{ID: "h-1", Scopes: []lifecycle.Scope{onRecord("s")}})
	h.Scopes = append(h.Scopes, onRecord("s"))
	check()

	// Vaults and segments.
	r.replay(entry(lifecycle.ActionVaultAdded), lifecycle.VaultAdded{Name: "main"})
	r.again(lifecycle.VaultAdded{Name: "main"})
	g := k.segment("seg-1", ids[1], 2)
	r.replay(entry(lifecycle.ActionStaged), lifecycle.SegmentStaged{Segment: g})
	r.again(lifecycle.SegmentStaged{Segment: g})
	r.again(lifecycle.SegmentMoved{ID: g.ID, To: lifecycle.Settled})
	r.replay(entry(lifecycle.ActionVerified), lifecycle.SegmentMoved{ID: g.ID, To: lifecycle.Verified, Copies: copies()[1:]})
	r.again(lifecycle.SegmentMoved{ID: g.ID, To: lifecycle.Verified, Copies: copies()[1:]})
	r.again(lifecycle.SegmentMoved{ID: g.ID, To: lifecycle.Abandoned})
	r.replay(entry(lifecycle.ActionVaultAdded), lifecycle.VaultAdded{Name: "cold"}) // joining: it lacks one
	r.replay(entry(lifecycle.ActionVaultCopied), lifecycle.CopyAdded{Segment: g.ID, Copy: copies()[0]})
	r.again(lifecycle.CopyAdded{Segment: g.ID, Copy: copies()[0]})
	r.replay(entry(lifecycle.ActionVaultActive), lifecycle.VaultMoved{Name: "cold", To: lifecycle.ActiveVault})
	r.replay(entry(lifecycle.ActionSettled), lifecycle.SegmentMoved{ID: g.ID, To: lifecycle.Settled})
	g.State, g.Copies = lifecycle.Settled, copies()
	if got, err := k.Segment(k.ctx, g.ID); err != nil || !reflect.DeepEqual(got, g) {
		k.Errorf("the segment is\n%+v, %v, want\n%+v", got, err, g)
	}
	// One of which nothing was put is known by what its entry says.
	none := lifecycle.Segment{ID: "seg-2", Class: ids[1], State: lifecycle.Staged, ObjectKey: "o", ManifestKey: "m", WrappedIdentity: []byte{}, RetainUntil: Start, CreatedAt: Start}
	r.replay(entry(lifecycle.ActionStaged), lifecycle.SegmentStaged{Segment: none})
	r.replay(entry(lifecycle.ActionAbandoned), lifecycle.SegmentMoved{ID: none.ID, To: lifecycle.Abandoned})
	if got, err := k.Segment(k.ctx, none.ID); err != nil || got.State != lifecycle.Abandoned || got.ObjectKey != "o" {
		k.Errorf("%+v, %v", got, err)
	}
	states := func(want ...lifecycle.VaultState) {
		k.Helper()
		vs, err := k.Store.Vaults(k.ctx)
		k.ok(err)
		var got []lifecycle.VaultState
		for _, v := range vs {
			got = append(got, v.State)
		}
		if !slices.Equal(got, want) {
			k.Errorf("the vaults are %q, want %q", got, want)
		}
	}
	states(lifecycle.ActiveVault, lifecycle.ActiveVault)
	r.replay(entry(lifecycle.ActionVaultRetiring), lifecycle.VaultMoved{Name: "main", To: lifecycle.Retiring})
	r.again(lifecycle.VaultMoved{Name: "main", To: lifecycle.Retiring})
	r.again(lifecycle.VaultMoved{Name: "main", To: lifecycle.ActiveVault})
	states(lifecycle.ActiveVault, lifecycle.Retiring)

	// Legal holds.
	legal := func(to, want lifecycle.LegalState) {
		k.Helper()
		r.replay(entry("legal"), lifecycle.LegalHoldMoved{Segment: g.ID, Vault: "cold", To: to})
		ls, err := k.LegalHolds(k.ctx)
		k.ok(err)
		if want == lifecycle.LegalNone && len(ls) == 0 {
			return
		}
		if len(ls) != 1 || ls[0].Segment != g.ID || ls[0].Vault != "cold" || ls[0].State != want {
			k.Errorf("to %q: %+v, want %q", to, ls, want)
		}
	}
	for _, to := range []lifecycle.LegalState{lifecycle.LegalNone, lifecycle.LegalSet, lifecycle.LegalSet, lifecycle.Lifting, lifecycle.Lifting, lifecycle.LegalSet,
		lifecycle.LegalNone, lifecycle.Lifting, lifecycle.LegalNone} {
		legal(to, to)
	}
	r.again(lifecycle.LegalHoldMoved{Segment: g.ID, Vault: "elsewhere", To: lifecycle.LegalSet})
}

// replayArchived: records are archived though a hold covers them that the database has
// placed since, and classes destroyed whose DEKs the database still has; no other move
// is let through with them.
func replayArchived(k *kit) {
	a, b, c := row("a", expired), row("b", expired), row("c", expired.Add(-48*time.Hour))
	k.take(a, b, c)
	k.place("h-1", onRecord("a"), lifecycle.Scope{All: true})
	k.begin()
	k.sequence(5)
	r := &replayer{k, 5}
	entry := func(action, subject string) lifecycle.Leaf {
		l := publishedLeaf(r.size, action)
		l.Subject = subject
		return l
	}
	lacks := func(id string, at time.Time, lots ...cte.Lot) lifecycle.Sealed {
		s := row(id, at, lot("PRODUCT", "S"), func(s *lifecycle.Sealed) { s.Inputs, s.Gaps = lots, []string{"harvester", "field"} })
		s.Class, s.ArchiveClass, s.Payload, s.WrappedDEK = a.Class, a.ArchiveClass, nil, nil
		return s
	}
	lacking := []lifecycle.Sealed{lacks("z", expired.Add(-time.Hour), lotOf("M", "S"), lotOf("N", ""), lotOf("M", "S")), lacks("y", expired.Add(time.Minute)), lacks("x", expired.Add(time.Minute))}
	g := k.segment("seg-1", a.ArchiveClass, 5)
	r.replay(entry(lifecycle.ActionStaged, g.ID), lifecycle.SegmentStaged{Segment: g})
	archived := lifecycle.RecordsArchived{Segment: g.ID, Members: append(members(a), lifecycle.Member{RecordID: "b"}, lifecycle.Member{RecordID: "nobody"}), Lacking: lacking}
	k.unchanged("archiving in a segment that is not verified", func() {
		if err := k.Replay(k.ctx, k.lease, r.size, entry(lifecycle.ActionArchived, g.ID), archived); err == nil {
			k.Error("it passed")
		}
	})
	r.replay(entry(lifecycle.ActionVerified, g.ID), lifecycle.SegmentMoved{ID: g.ID, To: lifecycle.Verified, Copies: copies()})
	l := r.replay(entry(lifecycle.ActionArchived, g.ID), archived)
	inputs := map[string][]cte.Lot{"z": {lotOf("M", "S"), lotOf("N", "")}}
	k.ofRows(l.ID, inputs, "z", "a", "y", "x") // by due time and seq, as the manifest has them
	for id, want := range map[string]lifecycle.State{"a": lifecycle.Archived, "b": lifecycle.Active, "c": lifecycle.Active, "x": lifecycle.Archived, "y": lifecycle.Archived, "z": lifecycle.Archived} {
		s, err := k.SealedRow(k.ctx, id)
		k.ok(err)
		if s.State != want || (s.WrappedDEK == nil) != (want == lifecycle.Archived) {
			k.Errorf("%s is %s, its DEK %q", id, s.State, s.WrappedDEK)
		}
		if want == lifecycle.Archived && (s.Segment != g.ID || s.ArchiveLeaf != l.ID) {
			k.Errorf("%s: %+v", id, s.Row)
		}
	}
	for _, want := range lacking {
		got, err := k.Row(k.ctx, want.RecordID)
		k.ok(err)
		want.Seq, want.State, want.Segment, want.IngestLeaf, want.ArchiveLeaf = got.Seq, lifecycle.Archived, g.ID, l.ID, l.ID
		if !reflect.DeepEqual(got, want.Row) {
			k.Errorf("rebuilt is\n%+v, want\n%+v", got, want.Row)
		}
	}
	// What was made from M is found again, by a trace that began before.
	links, err := k.Links(k.ctx, []cte.Lot{lotOf("M", "S")}, true)
	if err != nil || len(links) != 1 || links[0].RecordID != "z" {
		k.Errorf("%+v, %v", links, err)
	}
	k.ok(k.TraceHolds(k.ctx))

	// A class goes, with the DEK that an active record has in it; no other way.
	r.replay(entry(lifecycle.ActionShredIntent, ""), lifecycle.ClassesMoved{Classes: []string{c.Class}, To: lifecycle.Condemned})
	r.replay(entry(lifecycle.ActionShredExecuting, ""), lifecycle.ClassesMoved{Classes: []string{c.Class}, To: lifecycle.Executing})
	r.replay(entry(lifecycle.ActionShredded, ""), lifecycle.ClassesMoved{Classes: []string{c.Class}, To: lifecycle.Destroyed, At: Start, Epoch: 1})
	deks, err := k.ClassDEKs(k.ctx, c.Class, 0, 5)
	if err != nil || len(deks) != 1 || deks[0].Row.RecordID != "c" || k.classState(c.Class) != lifecycle.Destroyed {
		k.Errorf("%+v, %v; the class is %s", deks, err, k.classState(c.Class))
	}
	k.unchanged("the same without an entry", func() {
		for _, q := range []string{`UPDATE classes SET state = 'condemned' WHERE class_id = '` + a.Class + `'`, `UPDATE records SET state = 'archived', segment_no = 1, archive_leaf = 1 WHERE record_id = 'b'`} {
			if k.raw == nil {
				break // a harness that only looks at plans
			}
			if err := k.raw(q); err == nil {
				k.Errorf("%s: it passed", q)
			}
		}
	})
	// What is left of it can be moved on, if anybody has its key.
	to := lifecycle.DeferralPeriod(Start).ID(1)
	k.openClasses(to)
	if n, err := k.Reseal(k.ctx, k.lease, c.Class, to, map[int64][]byte{deks[0].Row.Seq: []byte("moved")}, leaf(lifecycle.ActionResealed)); err != nil || n != 1 {
		k.Errorf("resealed %d, %v", n, err)
	}
	k.ok(k.Store.Close())
	k.Store = k.again(k)
	k.ofRows(k.leafAt(7), inputs, "z", "a", "y", "x")
}

// replayPurged: the end of an archive class, with a record to come into it that the
// database has taken in since, and one that was archived anew.
func replayPurged(k *kit) {
	a, b, held, moved, fork := row("a", expired), row("b", expired), row("held", expired), row("moved", expired), row("fork", expired.Add(time.Hour))
	k.take(a, b, held, moved, fork)
	later, hold := "archive-2040-01-1", "hold-2026-11-1"
	k.openClasses(later, hold)
	k.addVault("main")
	k.addVault("cold")
	k.begin()
	size, err := k.Sequence(k.ctx)
	k.ok(err)
	r := &replayer{k, size}
	entry := func(action, subject string) lifecycle.Leaf {
		l := publishedLeaf(r.size, action)
		l.Subject = subject
		return l
	}
	verified := func(id, class string, records int) {
		r.replay(entry(lifecycle.ActionStaged, id), lifecycle.SegmentStaged{Segment: k.segment(id, class, records)})
		r.replay(entry(lifecycle.ActionVerified, id), lifecycle.SegmentMoved{ID: id, To: lifecycle.Verified, Copies: copies()})
	}
	// Only as many as the entry says, in order of due time.
	verified("seg-1", a.ArchiveClass, 3)
	r.replay(entry(lifecycle.ActionArchived, "seg-1"), lifecycle.RecordsArchived{Segment: "seg-1", Members: members(a, b, held)})
	l := r.replay(entry(lifecycle.ActionClassMoved, ""), lifecycle.ArchiveClassMoved{From: a.ArchiveClass, To: later, Records: 1})
	if got, err := k.Row(k.ctx, "moved"); err != nil || got.ArchiveClass != later || k.class("fork") != a.ArchiveClass {
		k.Errorf("%+v, %v; the other is of %s", got, err, k.class("fork"))
	} else {
		k.tells(got.Seq, lifecycle.ActionIngested, l.Action)
	}

	// Anew, from the segment that the entry names alone; what was never archived here
	// comes to the same place.
	lacking := row("lacking", expired, func(s *lifecycle.Sealed) { s.Payload, s.WrappedDEK = nil, nil })
	verified("seg-2", hold, 3)
	other := members(b)
	other[0].Checksum[0] ^= 1
	anew := lifecycle.RecordsRearchived{From: "seg-1", Moved: append(members(held, moved), other...), RecordsArchived: lifecycle.RecordsArchived{Segment: "seg-2", Lacking: []lifecycle.Sealed{lacking}}}
	l = r.replay(entry(lifecycle.ActionRearchived, "seg-2"), anew)
	anew.Lacking = nil
	r.again(anew)
	k.ofRows(l.ID, nil, "held", "lacking")
	for _, id := range []string{"held", "lacking"} {
		got, err := k.Row(k.ctx, id)
		k.ok(err)
		e, err := k.Existing(k.ctx, []string{id})
		if err != nil || got.Segment != "seg-2" || got.ArchiveClass != hold || got.State != lifecycle.Archived || e[id].ContentClass != a.ArchiveClass {
			k.Errorf("%+v %+v, %v", got, e[id], err)
		}
	}
	r.replay(entry(lifecycle.ActionSettled, "seg-2"), lifecycle.SegmentMoved{ID: "seg-2", To: lifecycle.Settled})

	purged := lifecycle.RecordsPurged{Segment: "seg-1", Members: members(a), Done: false}
	refused := func(what string, e lifecycle.Effect) {
		k.Helper()
		k.unchanged(what, func() {
			if err := k.Replay(k.ctx, k.lease, r.size, entry("x", "seg-1"), e); err == nil {
				k.Errorf("%s: it passed", what)
			}
		})
	}
	refused("purging before the class is", purged)
	// The class goes though a record is to come into it; not so for anybody else.
	if got, err := k.Condemn(k.ctx, k.lease, muchLater, []string{a.ArchiveClass}, leaf(lifecycle.ActionShredIntent)); err != nil || len(got) != 0 {
		k.Errorf("condemned %q, %v", got, err)
	}
	k.unchanged("the same without an entry", func() {
		if k.raw == nil {
			return // a harness that only looks at plans
		}
		if err := k.raw(`UPDATE classes SET state = 'condemned' WHERE class_id = '` + a.ArchiveClass + `'`); err == nil {
			k.Error("it passed")
		}
	})
	ids := []string{a.ArchiveClass}
	r.replay(entry(lifecycle.ActionShredIntent, ""), lifecycle.ClassesMoved{Classes: ids, To: lifecycle.Condemned})
	r.replay(entry(lifecycle.ActionShredExecuting, ""), lifecycle.ClassesMoved{Classes: ids, To: lifecycle.Executing})
	r.replay(entry(lifecycle.ActionShredded, ""), lifecycle.ClassesMoved{Classes: ids, To: lifecycle.Destroyed, At: Start, Epoch: 1})
	r.replay(entry(lifecycle.ActionObjectsDeleted, "seg-1"), lifecycle.CopyDeleted{Segment: "seg-1", Vault: "main"}) // it is not purged: nothing
	l = r.replay(entry(lifecycle.ActionPurged, "seg-1"), purged)
	r.again(purged)
	k.ofRows(l.ID, nil, "a")
	// Not of what is in another segment, and not the segment while one is left in it.
	r.replay(entry(lifecycle.ActionPurged, "seg-1"), lifecycle.RecordsPurged{Segment: "seg-1", Members: members(held), Done: true})
	if g, err := k.Segment(k.ctx, "seg-1"); err != nil || g.State != lifecycle.Verified || !g.Copies[0].DeletedAt.IsZero() || k.state("held") != lifecycle.Archived || k.state("b") != lifecycle.Archived {
		k.Errorf("%+v, %v; held is %s", g, err, k.state("held"))
	}
	purged = lifecycle.RecordsPurged{Segment: "seg-1", Members: members(b), Done: true}
	r.replay(entry(lifecycle.ActionPurged, "seg-1"), purged)
	r.again(purged)
	l = r.replay(entry(lifecycle.ActionObjectsDeleted, "seg-1"), lifecycle.CopyDeleted{Segment: "seg-1", Vault: "main"})
	r.again(lifecycle.CopyDeleted{Segment: "seg-1", Vault: "main"})
	g, err := k.Store.Segment(k.ctx, "seg-1")
	if err != nil || g.State != lifecycle.PurgedSegment || k.state("b") != lifecycle.Purged {
		k.Errorf("%+v, %v", g, err)
	}
	for _, c := range g.Copies {
		if c.Vault == "main" != c.DeletedAt.Equal(l.At) {
			k.Errorf("%+v", c)
		}
	}
	// What was to come into the class goes to a later one.
	if n, err := k.MoveArchiveClass(k.ctx, k.lease, a.ArchiveClass, later, 10, leaf(lifecycle.ActionClassMoved)); err != nil || n != 1 || k.class("fork") != later {
		k.Errorf("%d, %v", n, err)
	}
}

// class is the archive class of a record.
func (k *kit) class(id string) string {
	k.Helper()
	r, err := k.Row(k.ctx, id)
	k.ok(err)
	return r.ArchiveClass
}

// leafAt is the number of the leaf at an index.
func (k *kit) leafAt(index int64) int64 {
	k.Helper()
	in, err := k.LogLeaves(k.ctx, index, index+1)
	k.ok(err)
	if len(in) != 1 {
		k.Fatalf("there is no entry %d", index)
	}
	return in[0].ID
}
