package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/shred"
)

func (w *world) place(scope lifecycle.Scope) lifecycle.PlaceResult {
	w.t.Helper()
	res, err := w.Place(context.Background(), lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{scope}})
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func actions(v lifecycle.RecordView) string {
	var out []string
	for _, h := range v.History {
		out = append(out, fmt.Sprintf("%s:%s>%s", h.Action, h.From, h.To))
	}
	return strings.Join(out, " ")
}

// The record of every textbook, from its first day to its export out of the
// archive, beside a held record of the same day.
func TestTextbookRecord(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(textbook, record("held-1", "LOT-H", instant(t, "2022-09-14T09:00:00Z")))
	w.place(lifecycle.Scope{TLC: "LOT-H"})

	res := w.sweep()
	if res.Due != 2 || res.Held != 1 || res.Archived != 1 || res.Resealed != 1 || res.Segments != 1 || res.ShreddedClasses != 1 || res.Failed+res.Purged != 0 {
		t.Fatalf("sweep: %+v", res)
	}
	v := w.view("cte-8842-a")
	if v.State != lifecycle.Archived || v.ClassState != lifecycle.Destroyed || v.Class != "hot-2024-09-13-1" || len(v.Archive.Copies) != 1 {
		t.Fatalf("the record: %+v", v)
	}
	if v.Why.Arithmetic != "2022-09-14T08:30:00Z + 730 days = 2024-09-13T08:30:00Z" {
		t.Error(v.Why.Arithmetic)
	}
	if got := actions(v); got != "ingested:>active archived:active>archived shredded:archived>archived" {
		t.Error(got)
	}
	held := w.view("held-1")
	if held.State != lifecycle.Held || held.BaseState != lifecycle.Active || held.Class != "deferral-2026-11-1" || len(held.Holds) != 1 {
		t.Fatalf("the held record: %+v", held)
	}
	if got := actions(held); got != "ingested:>active hold-placed:active>held resealed:held>held" {
		t.Error(got)
	}

	// Readable from the archive, unchanged; not from the hot store.
	if got := w.export(lifecycle.Query{RecordIDs: []string{"cte-8842-a"}}); !slices.Equal(got, []string{textbook}) {
		t.Fatalf("exported %q", got)
	}
	if _, err := w.HotLine(ctx, "cte-8842-a"); !errors.Is(err, shred.ErrDestroyed) {
		t.Fatalf("the hot line: %v", err)
	}
	w.verify()

	// Again: a duplicate. Changed: a conflict. Beside it: another generation.
	if got := w.ingest(textbook); got.Duplicates != 1 || got.Accepted+got.Conflicts+got.Rejected != 0 {
		t.Fatalf("again: %+v", got)
	}
	changed := strings.Replace(textbook, "1200", "1201", 1)
	if got := w.ingest(changed); got.Conflicts != 1 || got.Read != 1 || len(w.rej) != 1 || w.rej[0].Rule != "conflict" {
		t.Fatalf("changed: %+v", got)
	}
	w.ingest(record("late", "L9", instant(t, "2022-09-14T10:00:00Z")))
	if got := w.view("late").Class; got != "hot-2024-09-13-2" {
		t.Fatal("a late arrival is in class", got)
	}
	if res := w.sweep(); res.Archived != 1 || res.ShreddedClasses != 1 || res.Held != 1 || res.Resealed != 0 {
		t.Fatalf("the second sweep: %+v", res)
	}
	if res := w.sweep(); res.Archived+res.ShreddedClasses+res.Resealed+res.Segments != 0 || res.Due != 1 {
		t.Fatalf("a sweep with nothing to do: %+v", res)
	}

	// Released, it goes the same way.
	if err := w.Release(ctx, held.Holds[0].HoldID, "case closed"); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.Archived != 1 || res.Held != 0 {
		t.Fatalf("after the release: %+v", res)
	}
	// The deferral class dies when its month is over.
	w.now = instant(t, "2026-11-27T00:00:00Z")
	w.sweep()
	if got := w.view("held-1").ClassState; got != lifecycle.Open {
		t.Fatal("the deferral class is", got)
	}
	w.now = instant(t, "2026-12-01T00:00:00Z")
	w.sweep()
	if got := w.view("held-1").ClassState; got != lifecycle.Destroyed {
		t.Fatal("the deferral class is", got)
	}
	w.verify()
}

func TestRetentionHold(t *testing.T) {
	w := newWorld(t)
	held := strings.Replace(textbook, `"retention_hold":false`, `"retention_hold":true`, 1)
	w.ingest(held)
	if res := w.sweep(); res.Archived != 0 || res.Held != 1 {
		t.Fatalf("%+v", res)
	}
	v := w.view("cte-8842-a")
	if v.State != lifecycle.Held || v.Holds[0].Kind != lifecycle.RetentionHold {
		t.Fatalf("%+v", v)
	}
	// The same again, with true or false: a duplicate either way, and the hold
	// is neither doubled nor released.
	for _, line := range []string{held, textbook, held} {
		if res := w.ingest(line); res.Duplicates != 1 {
			t.Fatalf("%+v", res)
		}
	}
	if v := w.view("cte-8842-a"); len(v.Holds) != 1 {
		t.Fatalf("%+v", v.Holds)
	}
	// A duplicate that asks for a hold places it, on an archived record too.
	w = newWorld(t)
	w.ingest(textbook)
	w.sweep()
	w.ingest(held)
	if v := w.view("cte-8842-a"); v.State != lifecycle.Held || v.BaseState != lifecycle.Archived {
		t.Fatalf("%+v", v)
	}
}

// A class whose day is not over keeps its key; its due records are archived
// all the same.
func TestDayNotOver(t *testing.T) {
	w := newWorld(t)
	cutoff := w.Policy.Cutoff(w.now)
	w.ingest(record("due", "L", cutoff), record("not-due", "L", cutoff.Add(time.Nanosecond)))
	res := w.sweep()
	if res.Due != 1 || res.Archived != 1 || res.ShreddedClasses != 0 {
		t.Fatalf("%+v", res)
	}
	if v := w.view("due"); v.State != lifecycle.Archived || v.ClassState != lifecycle.Open {
		t.Fatalf("%+v", v)
	}
	if v := w.view("not-due"); v.State != lifecycle.Active {
		t.Fatalf("%+v", v)
	}
	w.now = w.now.Add(24 * time.Hour)
	if res := w.sweep(); res.Archived != 1 || res.ShreddedClasses != 1 {
		t.Fatalf("the next day: %+v", res)
	}
	if v := w.view("due"); v.ClassState != lifecycle.Destroyed {
		t.Fatalf("%+v", v)
	}
}

// Ten thousand of the oldest records on hold do not starve those behind them,
// and cost the sweeps that follow no reseal.
func TestHeldDoNotStarve(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1500 // still more than a dry run lists
	}
	w := newWorld(t)
	var lines []string
	for i := range n {
		lines = append(lines, record(fmt.Sprintf("held-%05d", i), "LOT-HELD", instant(t, "2020-01-01T00:00:00Z").Add(time.Duration(i)*time.Second)))
	}
	for i := range 50 {
		lines = append(lines, record(fmt.Sprintf("free-%05d", i), "LOT-FREE", instant(t, "2023-01-01T00:00:00Z").Add(time.Duration(i)*time.Hour)))
	}
	w.ingest(lines...)
	if res := w.place(lifecycle.Scope{TLC: "LOT-HELD"}); res.Covered != int64(n) {
		t.Fatalf("%+v", res)
	}
	plan, err := w.DryRun(context.Background(), w.now)
	if err != nil || plan.Archived != 50 || plan.Held != n || len(plan.Kept) != 1000 {
		t.Fatalf("plan %d %d %d, %v", plan.Archived, plan.Held, len(plan.Kept), err)
	}
	res := w.sweep()
	if res.Archived != plan.Archived || res.Held != plan.Held || res.Resealed != plan.Resealed || res.Segments != plan.Segments || res.ShreddedClasses != plan.ShreddedClasses {
		t.Fatalf("the sweep %+v is not as planned %+v", res, plan)
	}
	if res := w.sweep(); res.Resealed != 0 || res.Archived != 0 || res.Held != n {
		t.Fatalf("again: %+v", res)
	}
}

// A dry run says what would happen, and changes nothing. The trail has what it said.
func TestDryRunOnlyReads(t *testing.T) {
	w := newWorld(t)
	w.ingest(textbook)
	before := dump(t, w)
	res, err := w.DryRun(context.Background(), w.now)
	if err != nil || res.Archived != 1 || !res.DryRun || res.RunID != "" {
		t.Fatalf("%+v %v", res, err)
	}
	if after := dump(t, w); before != after {
		t.Error("a dry run changed something")
	}
	if res, err := w.DryRun(context.Background(), instant(t, "2024-09-13T08:29:59.999999999Z")); err != nil || res.Due != 0 {
		t.Fatalf("as of before it was due: %+v %v", res, err)
	}
	leaves, err := w.Store.Leaves(context.Background(), lifecycle.LeafQuery{Actions: []string{lifecycle.ActionDryRun}})
	if err != nil || len(leaves) != 2 {
		t.Fatalf("the trail of two dry runs: %+v, %v", leaves, err)
	}
	res.DurationSeconds = 0
	if got := bodyOf[string](t, leaves[0], "result_sha256"); got != resultHash(t, res) {
		t.Errorf("the trail has %s of %+v", got, res)
	}
	if at := bodyOf[string](t, leaves[1], "as_of"); at != "2024-09-13T08:29:59.999999999Z" || !leaves[1].At.Equal(w.now) {
		t.Errorf("as of %s, at %s", at, leaves[1].At)
	}
}

// dump is everything the database says, but for its trusted time and the leaves of dry
// runs.
func dump(t *testing.T, w *world) string {
	t.Helper()
	ctx := context.Background()
	leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{})
	if err != nil {
		t.Fatal(err)
	}
	leaves = slices.DeleteFunc(leaves, func(l lifecycle.Leaf) bool { return l.Action == lifecycle.ActionDryRun })
	classes, err := w.Store.Classes(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	runs, err := w.Store.Runs(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	var rows []lifecycle.Row
	for r, err := range w.Store.Rows(ctx, lifecycle.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return fmt.Sprintf("%+v\n%+v\n%+v\n%+v", leaves, classes, runs, rows)
}

func TestClockGuard(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(textbook)
	refused := func(why string) {
		t.Helper()
		_, err := w.Sweep(ctx, lifecycle.SweepOptions{})
		if r, ok := lifecycle.IsRefused(err); !ok || r.Check != "clock" || r.Hint == "" {
			t.Fatalf("%s: %v", why, err)
		}
		if v := w.view("cte-8842-a"); v.State != lifecycle.Active {
			t.Fatalf("%s: %+v", why, v)
		}
	}
	w.now = today.Add(7*24*time.Hour + time.Nanosecond)
	refused("more than seven days ahead")
	// Something recorded under the wrong clock does not make it right.
	w.place(lifecycle.Scope{TLC: "other"})
	refused("after a leaf of the wrong time")
	w.now = today.Add(-6 * time.Minute)
	refused("behind what was recorded")
	w.now = today.Add(7*24*time.Hour + time.Nanosecond)
	if err := w.AcceptClock(ctx); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.Archived != 1 {
		t.Fatalf("accepted: %+v", res)
	}
	w.now = w.now.Add(7 * 24 * time.Hour)
	w.sweep()
}

func TestVaultClock(t *testing.T) {
	w := newWorld(t)
	w.ingest(textbook)
	ours := w.now
	w.Engine.Now = func() time.Time { return ours.Add(6 * time.Minute) } // the vault keeps w.now
	_, err := w.Sweep(context.Background(), lifecycle.SweepOptions{})
	if r, ok := lifecycle.IsRefused(err); !ok || r.Check != "clock" {
		t.Fatal(err)
	}
}

func TestMaxDuration(t *testing.T) {
	w := newWorld(t)
	w.Limits.SegmentRecords = 2
	var lines []string
	for i := range 6 {
		lines = append(lines, record(fmt.Sprintf("r%d", i), "L", instant(t, "2023-01-01T00:00:00Z")))
	}
	w.ingest(lines...)
	// The clock moves a second at each look.
	base, looks := w.now, new(atomic.Int64)
	w.Engine.Now = func() time.Time { return base.Add(time.Duration(looks.Add(1)) * time.Second) }
	res, err := w.Sweep(context.Background(), lifecycle.SweepOptions{MaxDuration: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if !res.StoppedEarly || res.Archived == 0 || res.Archived == 6 || res.ShreddedClasses != 0 || res.Resealed != 0 {
		t.Fatalf("after %d looks: %+v", looks.Load(), res)
	}
	rest := w.sweep()
	if rest.Archived+res.Archived != 6 || rest.ShreddedClasses != 1 {
		t.Fatalf("%+v", rest)
	}
	w.verify()
}

// A record that was changed in the hot store is not archived as if it were the
// one taken in; all others are, and its class lives on with it.
func TestDamagedHotRecord(t *testing.T) {
	w := newWorld(t)
	w.ingest(textbook, record("good", "L", instant(t, "2022-09-14T09:00:00Z")))
	raw(t, w, `UPDATE payloads SET sealed = (SELECT sealed FROM payloads WHERE seq = 2) WHERE seq = 1`)
	res, err := w.Sweep(context.Background(), lifecycle.SweepOptions{})
	if err == nil || res.Failed != 1 || res.Archived != 1 || res.Policies[0].Errors != 1 {
		t.Fatalf("%+v %v", res, err)
	}
	if v := w.view("cte-8842-a"); v.State != lifecycle.Active {
		t.Fatalf("%+v", v)
	}
	found, err := w.Verify(context.Background())
	if err != nil || len(found.Mismatches) != 1 || found.Mismatches[0].RecordID != "cte-8842-a" {
		t.Fatalf("%+v %v", found, err)
	}
}

// A copy of the database from before a sweep, put back after it, yields no KDE
// of a destroyed class, and no sweep or ingest works on it.
func TestOldDatabasePutBack(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(textbook, record("young", "L", today.Add(-time.Hour)))
	raw(t, w, `PRAGMA wal_checkpoint(TRUNCATE)`)
	old, err := os.ReadFile(filepath.Join(w.dir, "lotkeeper.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.sweep()

	dir := tempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "lotkeeper.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(ctx, filepath.Join(dir, "lotkeeper.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	w.Store = store
	if v := w.view("cte-8842-a"); v.State != lifecycle.Active {
		t.Fatalf("the copy is not from before the sweep: %+v", v)
	}
	if _, err := w.HotLine(ctx, "cte-8842-a"); !errors.Is(err, shred.ErrDestroyed) {
		t.Fatalf("a destroyed class gave a record back: %v", err)
	}
	for f, err := range w.Export(ctx, lifecycle.Query{}, false) {
		if f.Line != nil || !isRefused(err, "log") {
			t.Fatal("exported", f.Row.RecordID, err)
		}
	}
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !isRefused(err, "log") {
		t.Fatal(err)
	}
	if _, err := w.tryIngest(textbook); !isRefused(err, "log") {
		t.Fatal(err)
	}
	// Without the vault's word for it the keyring's still stands.
	w.Vaults[0] = archive.NewAbsent("main", errors.New("away"))
	for f, err := range w.Export(ctx, lifecycle.Query{}, false) {
		if f.Line != nil && f.Row.RecordID != "young" {
			t.Fatal("exported", f.Row.RecordID, err)
		}
	}
	if _, err := w.tryIngest(textbook); !isRefused(err, "keyring") {
		t.Fatal(err)
	}
}

// A fresh segment costs each vault four requests, the log a listing and a read at the
// beginning of a sweep, and the same and three puts before keys are destroyed and once
// more at its end. The version ids are those that
// Put returned; only an object that was there already is read for its own, and to see
// that it is the same.
func TestVaultRequests(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newWorld(t)
		w.ingest(textbook)
		var calls []string
		w.Vaults[0] = &vaulttest.Faulty{Vault: w.vault, Fault: func(method string) (before, after error) {
			if calls = append(calls, method); method == "Put" && lost {
				return nil, fmt.Errorf("the acknowledgement was lost, and the vault says: %w", archive.ErrExists)
			}
			return nil, nil
		}}
		w.sweep()
		checked, put := []string{"Versions", "Get", "Status"}, []string{"Versions", "Get", "Put", "Put", "Put"}
		want := slices.Concat(checked, []string{"Put", "Put", "Get", "Get"}, put, put)
		if lost {
			put = []string{"Versions", "Get", "Put", "Versions", "Get", "Put", "Versions", "Get", "Put", "Versions", "Get"}
			want = slices.Concat(checked, []string{"Put", "Get", "Put", "Get", "Get", "Get"}, put, put)
		}
		if !slices.Equal(calls, want) {
			t.Errorf("lost %v: calls are %v, want %v", lost, calls, want)
		}
		w.verify()
		segments, err := w.Store.Segments(context.Background(), lifecycle.Settled)
		if err != nil || len(segments) != 1 || len(segments[0].Copies) != 1 {
			t.Fatalf("%+v, %v", segments, err)
		}
		for key, versionID := range map[string]string{
			segments[0].ObjectKey: segments[0].Copies[0].ObjectVersion, segments[0].ManifestKey: segments[0].Copies[0].ManifestVersion,
		} {
			if info, err := w.vault.Stat(context.Background(), key, ""); err != nil || info.VersionID != versionID {
				t.Errorf("recorded version %q of %s, the vault's is %q, %v", versionID, key, info.VersionID, err)
			}
		}
	}
}

func isRefused(err error, check string) bool {
	r, ok := lifecycle.IsRefused(err)
	return ok && r.Check == check
}
