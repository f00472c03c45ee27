package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/shred"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
)

// sweepUntil sweeps once a week, and at last at the time.
func (w *world) sweepUntil(at time.Time) lifecycle.SweepResult {
	w.t.Helper()
	for week := 7 * 24 * time.Hour; w.now.Add(week).Before(at); {
		w.now = w.now.Add(week)
		w.sweep()
	}
	w.now = at
	return w.sweep()
}

// old is a record of September 2022 that is to be purged with September 2025.
func old(id, lot string) string {
	return obtained(record(id, lot, time.Date(2022, 9, 14, 9, 0, 0, 0, time.UTC)), "2022-09-14T10:00:00Z")
}

// unread wants nobody to be able to read the records.
func (w *world) unread(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		if f, err := w.Line(context.Background(), id, false); !errors.Is(err, shred.ErrDestroyed) {
			w.t.Errorf("%s: %q, %v", id, f.Line, err)
		}
		if line, err := w.HotLine(context.Background(), id); err == nil {
			w.t.Errorf("%s: %q", id, line)
		}
	}
}

func (w *world) read(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		if f, err := w.Line(context.Background(), id, false); err != nil || !strings.Contains(string(f.Line), "very-secret-"+id) {
			w.t.Errorf("%s: %q, %v", id, f.Line, err)
		}
	}
}

func (w *world) segmentOf(id string) lifecycle.Segment {
	w.t.Helper()
	r, err := w.Store.Row(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	g, err := w.Store.Segment(context.Background(), r.Segment)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// The end of a month in the archive: what is held is archived anew and stays readable,
// everything else is gone; the objects go when their locks end; a release is followed
// by the end of the hold class.
func TestPurge(t *testing.T) { purgeLife(t, newWorld(t)) }

func TestPurgeOnPostgreSQL(t *testing.T) {
	d := pgtest.New(t)
	store, err := postgres.Create(t.Context(), postgres.Options{URL: d.URL()}, 0, firstLeaf)
	if err != nil {
		t.Fatal(err)
	}
	purgeLife(t, newWorldOn(t, t.TempDir(), store))
}

func purgeLife(t *testing.T, w *world) {
	ctx := context.Background()
	w.addVault("second")
	w.Limits.SegmentRecords, w.Limits.LockRecords = 2, 2
	w.ingest(old("a", "LOT-A"), old("b", "LOT-B"), old("c", "LOT-C"), old("held-1", "LOT-H"), old("held-2", "LOT-H"), old("hot", "LOT-HOT"),
		record("young", "LOT-A", instant(t, "2022-09-14T09:00:00Z")))
	hot := w.place(lifecycle.Scope{TLC: "LOT-HOT"})
	w.sweep()
	res := w.place(lifecycle.Scope{TLC: "LOT-H"})
	if err := w.Confirm(ctx, &res); err != nil || res.Status != "open" {
		t.Fatal(res, err)
	}
	first := w.segmentOf("held-1")

	// The month before is not theirs, and its last instant is not its end.
	if res := w.sweepUntil(instant(t, "2026-12-31T23:59:59.999999999Z")); res.Purged+res.PurgedClasses+res.Rearchived != 0 {
		t.Fatalf("%+v", res)
	}
	w.now = instant(t, "2027-01-01T00:00:00Z")
	plan, err := w.DryRun(ctx, w.now)
	if err != nil {
		t.Fatal(err)
	}
	got := w.sweep()
	if got.Purged != 3 || got.Rearchived != 2 || got.PurgedClasses != 1 || got.ObjectsDeleted == 0 || got.ObjectsLocked != 0 || got.LegalHoldsMissing != 0 {
		t.Errorf("%+v", got)
	}
	if plan.Purged != got.Purged || plan.Rearchived != got.Rearchived || plan.PurgedClasses != got.PurgedClasses {
		t.Errorf("the dry run said %+v, the sweep did %+v", plan, got)
	}
	w.unread("a", "b", "c")
	w.read("held-1", "held-2", "hot", "young")
	if v := w.view("a"); v.State != lifecycle.Purged || actions(v) != "ingested:>active archived:active>archived shredded:archived>archived shredded:archived>archived purged:archived>purged" {
		t.Errorf("%+v", v)
	}
	if v := w.view("held-1"); v.State != lifecycle.Held || v.BaseState != lifecycle.Archived || w.segmentOf("held-1").Class != "hold-2027-01-1" ||
		actions(v) != "ingested:>active archived:active>archived shredded:archived>archived hold-placed:archived>held rearchived:held>held" {
		t.Errorf("%+v\n%s", v, actions(v))
	}
	// Its legal hold is on the new copies, and the old ones could go.
	legal, err := w.Store.LegalHolds(ctx)
	if err != nil || len(legal) != 2 || legal[0].Segment != w.segmentOf("held-1").ID {
		t.Errorf("%+v, %v", legal, err)
	}
	if g, err := w.Store.Segment(ctx, first.ID); err != nil || g.State != lifecycle.PurgedSegment || g.Copies[0].DeletedAt.IsZero() || g.Copies[1].DeletedAt.IsZero() {
		t.Errorf("%+v, %v", g, err)
	}
	for _, v := range w.Vaults {
		for _, key := range []string{first.ObjectKey, first.ManifestKey} {
			if _, err := v.Stat(ctx, key, ""); !errors.Is(err, archive.ErrNotFound) {
				t.Errorf("%s in %s: %v", key, v.Name(), err)
			}
		}
	}
	var gone *lifecycle.Unreadable
	for f, err := range w.Export(ctx, lifecycle.Query{RecordIDs: []string{"a"}}, false) {
		if !errors.As(err, &gone) || f.Row.RecordID != "a" || !errors.Is(err, shred.ErrDestroyed) {
			t.Errorf("%+v, %v", f, err)
		}
	}
	if gone == nil {
		t.Error("an export does not say that the record is purged")
	}
	// One that comes too late is told so, and since when.
	late := w.place(lifecycle.Scope{TLC: "LOT-A"})
	if late.Covered != 1 || late.TooLate != 1 || len(late.Late) != 1 || late.Late[0].Class != "archive-2026-12-1" || late.Late[0].Receipt == 0 || late.Late[0].DestroyedAt == "" {
		t.Errorf("%+v", late)
	}
	// The same id is not taken in again; of what was archived anew, it is not known.
	if res := w.ingest(old("a", "LOT-A")); res.Rejected != 1 || w.rej[0].Rule != "purged" {
		t.Errorf("%+v", res)
	}
	if res := w.ingest(old("held-1", "LOT-H")); res.Rejected != 1 || w.rej[0].Rule != "incomparable" {
		t.Errorf("%+v", res)
	}
	w.verify()
	w.verifyLog()
	checkTrail(t, w)
	for _, id := range []string{"a", "held-1", "hot"} {
		p, err := w.ProveRecord(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		key, err := w.LogKey(ctx)
		if err == nil {
			err = p.Check(key)
		}
		if err != nil || p.Pending > 0 {
			t.Errorf("%s: %d pending, %v", id, p.Pending, err)
		}
	}
	if v := w.view("hot"); v.State != lifecycle.Held {
		t.Errorf("%+v", v)
	}
	w.vaultIs("main", lifecycle.ActiveVault, int64(len(w.live())), 0)

	// A second month under the hold, and the release.
	if got := w.sweepUntil(instant(t, "2027-02-01T00:00:00Z")); got.Rearchived != 2 || got.PurgedClasses != 1 || got.Purged != 0 {
		t.Errorf("%+v", got)
	}
	w.read("held-1", "held-2")
	w.release(res.HoldID)
	w.release(hot.HoldID)
	w.sweepUntil(instant(t, "2027-03-01T00:00:00Z"))
	w.unread("held-1", "held-2", "hot")
	w.read("young")
	if got := actions(w.view("hot")); !strings.Contains(got, " archive-class-moved:held>held ") || !strings.HasSuffix(got, " archived:active>archived shredded:archived>archived shredded:archived>archived purged:archived>purged") {
		t.Error(got)
	}
	w.verify()
	w.verifyLog()
	checkTrail(t, w)
}

func (w *world) live() []lifecycle.Segment {
	w.t.Helper()
	live, err := w.Store.Segments(context.Background(), lifecycle.Verified, lifecycle.Settled)
	if err != nil {
		w.t.Fatal(err)
	}
	return live
}

// Objects whose lock has not ended, of a vault that does not answer, or is not there,
// are reported and stay, unreadable.
func TestPurgedObjectsStayLocked(t *testing.T) {
	w := newWorld(t)
	w.Limits.MinLock = 60 * 24 * time.Hour
	w.ingest(old("a", "LOT-A"))
	w.sweep()
	g := w.segmentOf("a")
	if got := w.sweepUntil(instant(t, "2027-01-01T00:00:00Z")); got.Purged != 1 || got.ObjectsLocked != 1 || got.ObjectsDeleted != 0 {
		t.Errorf("%+v", got)
	}
	w.unread("a")
	if _, err := w.vault.Stat(context.Background(), g.ObjectKey, g.Copies[0].ObjectVersion); err != nil {
		t.Error(err)
	}
	w.verify()
	// Somebody has lengthened the lock past the database.
	ends := g.Copies[0].RetainUntil
	if err := w.vault.Retain(context.Background(), g.ObjectKey, g.Copies[0].ObjectVersion, ends.AddDate(0, 0, 3)); err != nil {
		t.Fatal(err)
	}
	if got := w.sweepUntil(ends); got.ObjectsLocked != 1 || got.ObjectsDeleted != 0 || got.Purged != 0 {
		t.Errorf("%+v", got)
	}
	if got := w.sweepUntil(ends.AddDate(0, 0, 3)); got.ObjectsLocked != 0 || got.ObjectsDeleted != 1 {
		t.Errorf("%+v", got)
	}
	if got := w.sweep(); got.ObjectsLocked+got.ObjectsDeleted+got.Purged+got.PurgedClasses != 0 {
		t.Errorf("%+v", got)
	}
	w.verify()
	w.verifyLog()
}

// What was read once with the keyring of before the purge cannot be read with the one
// of after it, whatever else was copied.
func TestPurgeLeavesNoWayBack(t *testing.T) {
	ctx := context.Background()
	root := tempDir(t)
	w := onDisk(t, root, today, &trap{}, true, onSQLite)
	ids := []string{"a", "b", "c", "d"}
	for _, id := range ids {
		w.ingest(old(id, "LOT-A"))
	}
	w.ingest(old("held", "LOT-H"))
	w.sweep()
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	w.sweepUntil(instant(t, "2026-12-31T00:00:00Z"))
	before := filepath.Join(tempDir(t), "before")
	copyTree(t, before, root)
	if got := w.sweepUntil(instant(t, "2027-01-01T00:00:00Z")); got.Purged != len(ids) || got.Rearchived != 1 {
		t.Fatalf("%+v", got)
	}
	now := instant(t, "2027-01-01T00:00:00Z")
	reopen := func() *world { return onDisk(t, before, now, &trap{}, false, onSQLite) }
	x := reopen()
	x.read(append(ids, "held")...) // with the keyring of before
	x.store.Close()
	current, err := filekeys.Open(filepath.Join(root, "keyring"), filekeys.Options{Mirrors: []string{filepath.Join(root, "mirror")}})
	if err != nil {
		t.Fatal(err)
	}
	defer current.Close()
	x = reopen()
	x.Keys = current
	for _, id := range append(ids, "held") {
		if f, err := x.Line(ctx, id, false); !errors.Is(err, shred.ErrDestroyed) {
			t.Errorf("%s: %q, %v", id, f.Line, err)
		}
	}
	w.read("held")
	w.unread(ids...)
}

// Ten thousand held records and one of each kind beside them in one month: everything
// else of that month is purged, those stay readable.
func TestPurgeBesideManyHeld(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 500
	}
	w := newWorld(t)
	var lines []string
	for i := range n {
		lines = append(lines, old(fmt.Sprintf("held-%05d", i), "LOT-H"))
	}
	w.ingest(append(lines, old("plain", "LOT-P"), old("released", "LOT-R"), old("traced", "LOT-T"), from(old("made", "LOT-M"), "LOT-T"),
		old("hot", "LOT-HOT"), strings.Replace(old("sender", "LOT-S"), `}}`, `},"retention_hold":true}`, 1))...)
	w.place(lifecycle.Scope{TLC: "LOT-HOT"})
	w.sweep()
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	released := w.place(lifecycle.Scope{RecordID: "released"})
	w.place(traced("LOT-T", lifecycle.Forward))
	w.release(released.HoldID)
	w.ingest(old("late", "LOT-L"))
	w.sweep()
	got := w.sweepUntil(instant(t, "2027-01-01T00:00:00Z"))
	if got.Rearchived != n+2 || got.Purged != 3 || got.PurgedClasses != 1 {
		t.Errorf("%+v", got)
	}
	w.unread("plain", "released", "late")
	w.read("traced", "made", "hot", "sender")
	if got := w.export(lifecycle.Query{TLC: "LOT-H"}); len(got) != n {
		t.Errorf("%d of %d held records can be read", len(got), n)
	}
	w.verify()
	w.verifyLog()
}

// A held record that no vault gives back keeps its class, and the sweep says so.
func TestDamagedAndHeldIsNotPurged(t *testing.T) {
	w := newWorld(t)
	w.ingest(old("a", "LOT-A"), old("held", "LOT-H"))
	w.sweep()
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	g := w.segmentOf("held")
	w.sweepUntil(instant(t, "2026-12-31T00:00:00Z"))
	body := slices.Clone([]byte(nil))
	if err := w.vault.Tamper(g.ObjectKey, g.Copies[0].ObjectVersion, func(b []byte) []byte {
		body = slices.Clone(b)
		b = slices.Clone(b)
		b[len(b)-1] ^= 1
		return b
	}); err != nil {
		t.Fatal(err)
	}
	w.now = instant(t, "2027-01-01T00:00:00Z")
	for range 2 {
		res, err := w.Sweep(context.Background(), lifecycle.SweepOptions{})
		if err == nil || !strings.Contains(err.Error(), g.ID) || res.Purged+res.PurgedClasses+res.Rearchived != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	if err := w.vault.Tamper(g.ObjectKey, g.Copies[0].ObjectVersion, func([]byte) []byte { return body }); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.Purged != 1 || res.Rearchived != 1 {
		t.Errorf("%+v", res)
	}
	w.read("held")
	w.unread("a")
	w.verify()
	w.verifyLog()
}

// An older keyring that is put back opens what was purged, until recovering it destroys
// the keys again.
func TestPurgeAndAnOlderKeyring(t *testing.T) {
	ctx := context.Background()
	w, ring := keyringWorld(t)
	w.ingest(old("a", "LOT-A"), old("held", "LOT-H"))
	w.sweep()
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	w.sweepUntil(instant(t, "2026-12-31T00:00:00Z"))
	before := filepath.Join(w.dir, "before")
	copyTree(t, before, ring)
	if got := w.sweepUntil(instant(t, "2027-01-01T00:00:00Z")); got.Purged != 1 || got.Rearchived != 1 {
		t.Fatalf("%+v", got)
	}
	current := filepath.Join(w.dir, "current")
	copyTree(t, current, ring)
	w.putBack(ring, before)
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !isRefused(err, "keyring") {
		t.Errorf("a sweep with the older keyring: %v", err)
	}
	// It lacks the key of the hold class, and nothing is destroyed while that is lost.
	res, err := w.RecoverKeyring(ctx)
	if err != nil || len(res.Lost) != 1 || res.Lost[0].ClassID != "hold-2027-01-1" || len(res.DestroyedAgain) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	w.putBack(ring, current)
	w.read("held")
	w.unread("a")
}
