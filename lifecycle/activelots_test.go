package lifecycle_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
)

const activeRules = `
  - {name: organic, citation: c, match: 'event_type != "transformation" && "organic" in labels && labels.organic == "yes"', hold_while_lot_active: true, hot: P3Y, action: archive_then_shred}
  - {name: receiving, citation: c, match: 'event_type == "receiving"', action: archive_then_shred}
  - {name: others, citation: c, hold_while_lot_active: true, action: archive_then_shred}
`

// newWorldOnPostgreSQL is a world on a database of its own.
func newWorldOnPostgreSQL(t *testing.T) *world {
	t.Helper()
	store, err := postgres.Create(t.Context(), postgres.Options{URL: pgtest.New(t).URL()}, 0, firstLeaf)
	if err != nil {
		t.Fatal(err)
	}
	return newWorldOn(t, tempDir(t), store)
}

// A due record stays hot while its lot has a newer event inside of the hot period, its
// day's class dies all the same, and it goes once the lot is quiet.
func TestActiveLots(t *testing.T)             { activeLots(t, newWorld(t)) }
func TestActiveLotsOnPostgreSQL(t *testing.T) { activeLots(t, newWorldOnPostgreSQL(t)) }

func activeLots(t *testing.T, w *world) {
	ctx := context.Background()
	w.Limits.BatchRecords, w.Limits.LockRecords = 2, 2
	// It is the policy in force that decides, also of what came in before it.
	old := instant(t, "2024-09-01T10:00:00Z")
	young := instant(t, "2026-11-01T10:00:00Z")
	ofSource := func(line, source string) string {
		return strings.Replace(line, `"event_type"`, `"tlc_source":"`+source+`","event_type"`, 1)
	}
	of := func(event, line string) string { return strings.Replace(line, "shipping", event, 1) }
	w.ingest(
		record("quiet", "L-QUIET", old), record("active", "L", old), record("active-2", "L", old.Add(time.Hour)),
		ofSource(record("sourced", "LS", old), "S1"), ofSource(record("other-source", "LS", old), "S2"), ofSource(record("new-sourced", "LS", young), "S1"),
		ofSource(record("lacks", "LN", old), "S1"), record("new-lacks", "LN", young),
		of("receiving", record("any", "L", old)), of("receiving", record("none", "LQ", old)),
		of("transformation", record("too-old", "LO", old)), record("new-too-old", "LO", instant(t, "2024-11-01T10:00:00Z")),
		record("early", "LF", old), record("new-early", "LF", instant(t, "2027-01-01T10:00:00Z")),
		record("held", "L", old), record("new", "L", young))
	w.place(lifecycle.Scope{RecordID: "held"})
	w.apply(parsed(t, activeRules))

	// What the rows leave open is kept: "any" is organic for all that its row says.
	stay := map[string]bool{"active": true, "active-2": true, "sourced": true, "lacks": true, "any": true}
	gone := []string{"quiet", "other-source", "none", "too-old", "new-too-old", "early"}
	if v := w.view("active"); !strings.HasPrefix(v.Why.Rule, "defer: lot still active: rule organic, its newest event is of 2026-11-01T10:00:00Z") {
		t.Errorf("%+v", v.Why)
	}
	plan, err := w.DryRun(ctx, w.now)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range plan.Kept {
		if d.RecordID != "held" && (!stay[d.RecordID] || !strings.HasPrefix(d.Reason, "lot still active: ") || len(d.HoldIDs) > 0) {
			t.Errorf("kept %+v", d)
		}
	}
	got := w.sweep()
	if got.Due != 12 || got.Held != 1 || got.LotActive != len(stay) || got.Archived != len(gone) || got.Resealed != 1+len(stay) || got.Failed != 0 {
		t.Errorf("%+v", got)
	}
	if plan.Due != got.Due || plan.Held != got.Held || plan.LotActive != got.LotActive || plan.Archived != got.Archived || plan.Resealed != got.Resealed || len(plan.Kept) != 1+len(stay) {
		t.Errorf("the dry run said %+v", plan)
	}
	for _, id := range gone {
		if v := w.view(id); v.State != lifecycle.Archived || v.ClassState != lifecycle.Destroyed {
			t.Errorf("%s is %s, its class %s", id, v.State, v.ClassState)
		}
	}
	for id := range stay {
		if v := w.view(id); v.State != lifecycle.Active || !strings.HasPrefix(v.Class, "deferral-2026-11") {
			t.Errorf("%s is %s in %s", id, v.State, v.Class)
		}
		w.read(id)
	}
	w.clean("after a sweep")

	// Nothing more happens, until the last event of the lots is as old as it has to be:
	// by the longer of the rules that may be theirs.
	w.now = instant(t, "2029-10-31T10:00:00Z")
	w.accept()
	if got = w.sweep(); got.LotActive != len(stay) {
		t.Errorf("%+v", got)
	}
	w.clean("after a sweep")
	w.now = instant(t, "2029-11-01T10:00:00Z")
	w.clean("on the day") // there is a day's time
	if got = w.sweep(); got.LotActive != 0 || got.Archived != len(stay) {
		t.Errorf("%+v", got)
	}
	w.clean("after a sweep")
	w.sound()
}

// accept takes the clock for right, after a long time.
func (w *world) accept() {
	w.t.Helper()
	if err := w.AcceptClock(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}
