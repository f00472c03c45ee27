package lifecycle_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
)

// everywhere runs a test on both databases.
func everywhere(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("SQLite", func(t *testing.T) { test(t, newWorld(t)) })
	t.Run("PostgreSQL", func(t *testing.T) {
		d := pgtest.New(t)
		store, err := postgres.Create(t.Context(), postgres.Options{URL: d.URL()}, 0, firstLeaf)
		if err != nil {
			t.Fatal(err)
		}
		test(t, newWorldOn(t, t.TempDir(), store))
	})
}

// both is a record of the time, obtained then.
func both(id, lot string, at time.Time) string {
	return obtained(record(id, lot, at), cte.FormatTime(at))
}

// due wants the record to be in a state, and due at a time.
func (w *world) due(id string, state lifecycle.State, due string) lifecycle.RecordView {
	w.t.Helper()
	v := w.view(id)
	if v.State != state || v.DueAt != due {
		w.t.Errorf("%s is %s, due at %s, want %s, %s", id, v.State, v.DueAt, state, due)
	}
	return v
}

// classState is the state of a class.
func (w *world) classState(id string) lifecycle.ClassState {
	w.t.Helper()
	classes, err := w.Store.Classes(context.Background(), false)
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(classes, func(c lifecycle.Class) bool { return c.ID == id })
	if i < 0 {
		w.t.Fatalf("there is no class %s", id)
	}
	return classes[i].State
}

// A longer policy keeps what is there for longer: a record that was due is not any more,
// and the class that it was in dies without it.
func TestRescheduleLonger(t *testing.T) { everywhere(t, rescheduleLonger) }

func rescheduleLonger(t *testing.T, w *world) {
	w.Limits.LockRecords = 2
	event := instant(t, "2024-12-01T10:00:00Z") // due at 2026-12-01
	w.ingest(both("a", "L", event), both("b", "L", event), both("c", "OTHER", event), both("d", "L", event))
	w.sweep()
	w.sweepUntil(instant(t, "2026-11-30T10:00:00Z"))
	first := w.row("a")
	w.apply(parsed(t, `
  - {name: l, citation: c, match: 'lot == "L"', hot: P4Y, action: archive_then_shred}
  - {name: other, citation: c, action: archive_then_shred}
`))
	w.now = instant(t, "2026-12-02T10:00:00Z")
	plan, err := w.DryRun(t.Context(), w.now)
	if err != nil || plan.Rescheduled != 3 || plan.Due != 1 || plan.Archived != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	if res := w.sweep(); res.Rescheduled != 3 || res.Due != 1 || res.Archived != 1 || res.ShreddedClasses != 1 || res.SegmentsMoved+res.KeptLonger+res.Undecided != 0 {
		t.Errorf("%+v", res)
	}
	for _, id := range []string{"a", "b", "d"} {
		v := w.due(id, lifecycle.Active, "2028-12-01T10:00:00Z")
		if v.Class != "hot-2028-12-01-1" || v.ClassState != lifecycle.Open || v.Why.Policy != "test" || v.Why.PolicyRule != "l" {
			t.Errorf("%+v", v)
		}
	}
	if r := w.row("a"); r.ArchiveClass != "archive-2029-12-1" || r.Content != first.Content {
		t.Errorf("%+v", r)
	}
	w.due("c", lifecycle.Archived, "2026-12-01T10:00:00Z")
	if s := w.classState(first.Class); s != lifecycle.Destroyed {
		t.Errorf("its old class is %s", s)
	}
	w.read("a", "b", "c", "d")
	// A duplicate is still known by the class that it came in with.
	if res := w.ingest(both("a", "L", event)); res.Duplicates != 1 {
		t.Errorf("%+v", res)
	}
	w.sound()
	w.verify()
	w.clean("rescheduled")
	if res := w.sweep(); res.Rescheduled != 0 {
		t.Errorf("once more %+v", res)
	}
	if res := w.sweepUntil(instant(t, "2028-12-01T10:00:00Z")); res.Archived != 3 {
		t.Errorf("in the end %+v", res)
	}
	w.sound()
	w.verify()
	p, err := w.ProveRecord(t.Context(), "a")
	if err != nil || !slices.ContainsFunc(p.Steps, func(s lifecycle.ProofStep) bool { return s.Action == lifecycle.ActionRescheduled && s.Batch != nil }) {
		t.Errorf("%+v, %v", p, err)
	}
}

// A shorter one archives at once what it calls due; what backups have is not called
// shredded before the class is that they have it under.
func TestRescheduleShorter(t *testing.T) { everywhere(t, rescheduleShorter) }

func rescheduleShorter(t *testing.T, w *world) {
	event := instant(t, "2025-01-10T10:00:00Z") // due at 2027-01-10
	w.ingest(both("a", "L", event), both("held", "H", event), both("later", "L", instant(t, "2026-06-01T10:00:00Z")))
	w.place(lifecycle.Scope{TLC: "H"})
	w.sweep()
	old := w.row("a").Class
	change := w.apply(parsed(t, "  - {name: r, citation: c, hot: P1Y, archive: P2Y, action: archive_then_shred}\n"))
	if change.Shorter != 3 {
		t.Errorf("%+v", change)
	}
	plan, err := w.DryRun(t.Context(), w.now)
	if err != nil || plan.Rescheduled != 3 || plan.Due != 2 || plan.Archived != 1 || plan.Held != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	if res := w.sweep(); res.Rescheduled != 3 || res.Archived != 1 || res.Held != 1 || res.Resealed != 1 {
		t.Errorf("%+v", res)
	}
	v := w.due("a", lifecycle.Archived, "2026-01-10T10:00:00Z")
	if v.Class != "hot-2026-01-10-1" || w.classState(v.Class) != lifecycle.Destroyed || v.ClassState != lifecycle.Open {
		t.Errorf("%+v, its class is %s", v, w.classState(v.Class))
	}
	r, err := w.Receipt(t.Context(), v.Class)
	if err != nil || r.Media.Earlier != 2 || !strings.Contains(strings.Join(r.NotCovered, "\n"), "in a later class before, which lives on: 2") {
		t.Errorf("%+v, %v", r, err)
	}
	w.due("held", lifecycle.Held, "2026-01-10T10:00:00Z")
	w.due("later", lifecycle.Active, "2027-06-01T10:00:00Z")
	w.sound()
	w.clean("shorter")
	w.sweepUntil(instant(t, "2027-01-11T10:00:00Z"))
	if v := w.view("a"); v.ClassState != lifecycle.Destroyed || w.classState(old) != lifecycle.Destroyed {
		t.Errorf("%+v, %s", v, w.classState(old))
	}
	if r, err = w.Receipt(t.Context(), "hot-2026-01-10-1"); err != nil || r.Media.Earlier != 0 {
		t.Errorf("%+v, %v", r.Media, err)
	}
	w.read("a", "held", "later")
	w.verify()
	w.sound()
}

// What is archived is kept for longer: first its locks, in every vault, and then its class.
func TestRescheduleArchived(t *testing.T) { everywhere(t, rescheduleArchived) }

func rescheduleArchived(t *testing.T, w *world) {
	w.addVault("second")
	w.Limits.SegmentRecords = 2
	w.ingest(old("a", "L"), old("b", "L"), old("c", "SHORT"), old("d", "SHORT"), old("held", "H"))
	w.sweep()
	hold := w.place(lifecycle.Scope{TLC: "H"})
	if err := w.Confirm(t.Context(), &hold); err != nil {
		t.Fatal(err)
	}
	class := w.segmentOf("a").Class // of 2026-12, for they came late
	w.apply(parsed(t, `
  - {name: short, citation: c, match: 'lot == "SHORT"', action: archive_then_shred}
  - {name: long, citation: c, archive: P5Y, action: archive_then_shred}
`))
	plan, err := w.DryRun(t.Context(), w.now)
	if err != nil || plan.SegmentsMoved != 2 {
		t.Errorf("%+v, %v", plan, err)
	}
	res := w.sweep()
	if res.SegmentsMoved != 2 || res.SegmentsWaiting != 0 || res.Rescheduled != 0 {
		t.Errorf("%+v", res)
	}
	want := instant(t, "2029-10-01T00:00:00Z")
	for _, id := range []string{"a", "held"} {
		g := w.segmentOf(id)
		if g.Class != "archive-2029-09-1" || w.row(id).ArchiveClass != g.Class || g.RetainUntil.Before(want) {
			t.Errorf("%s: %+v", id, g)
		}
		for _, c := range g.Copies {
			i := slices.IndexFunc(w.Vaults, func(v archive.Vault) bool { return v.Name() == c.Vault })
			for _, o := range [][2]string{{g.ObjectKey, c.ObjectVersion}, {g.ManifestKey, c.ManifestVersion}} {
				if info, err := w.Vaults[i].Stat(t.Context(), o[0], o[1]); err != nil || info.RetainUntil.Before(want) || c.RetainUntil.Before(want) {
					t.Errorf("%s in %s: %+v, %v", o[0], c.Vault, info, err)
				}
			}
		}
	}
	if g := w.segmentOf("c"); g.Class != class {
		t.Errorf("the others went to %s", g.Class)
	}
	w.read("a", "b", "c", "d", "held")
	w.due("held", lifecycle.Held, "2024-09-13T09:00:00Z")
	w.sound()
	w.verify()
	w.clean("kept for longer")
	// Its old class ends without it, and the record's own month does.
	w.sweepUntil(instant(t, "2027-01-01T00:00:00Z"))
	if s := w.classState(class); s != lifecycle.Destroyed {
		t.Errorf("its old class is %s", s)
	}
	w.read("a", "b", "held")
	w.unread("c", "d")
	w.sound()
	w.verify()
	w.clean("without its old class")
	if v := w.view("a"); !strings.Contains(actions(v), "archived") || v.State != lifecycle.Archived {
		t.Errorf("%+v", v)
	}

	// Shorter again: the copies stay, and that is said.
	w.apply(parsed(t, "  - {name: r, citation: c, action: archive_then_shred}\n"))
	if res := w.sweep(); res.KeptLonger != 3 || res.SegmentsMoved != 0 {
		t.Errorf("%+v", res)
	}
	w.read("a", "b", "held")
	if res := w.sweepUntil(want); res.Purged != 2 || res.Rearchived != 1 {
		t.Errorf("%+v", res)
	}
	w.unread("a", "b")
	w.read("held")
	w.sound()
}

// While a vault does not lengthen its locks nothing moves, and nothing of the archive is
// purged: the next sweep goes on.
func TestRescheduleVaultDown(t *testing.T) {
	w := newWorld(t)
	second := w.addVault("second")
	w.ingest(old("a", "L"), old("b", "L"))
	w.sweep()
	w.sweepUntil(instant(t, "2026-12-31T10:00:00Z"))
	class := w.segmentOf("a").Class
	w.apply(parsed(t, "  - {name: long, citation: c, archive: P5Y, action: archive_then_shred}\n"))
	down := true
	w.Vaults[1] = &vaulttest.Faulty{Vault: second, Fault: func(method string) (before, after error) {
		if down && method == "Retain" {
			return errors.New("the vault is full of water"), nil
		}
		return nil, nil
	}}
	w.now = instant(t, "2027-01-01T00:00:00Z")
	if res := w.sweep(); res.SegmentsWaiting != 1 || res.SegmentsMoved != 0 || res.PurgedClasses != 0 {
		t.Errorf("%+v", res)
	}
	if g := w.segmentOf("a"); g.Class != class || w.classState(class) != lifecycle.Open {
		t.Errorf("%+v", g)
	}
	if i, err := w.Store.Info(t.Context()); err != nil || i.Following.Leaf == 0 || i.Following.Done {
		t.Errorf("%+v, %v", i.Following, err)
	}
	w.read("a", "b")
	w.sound()
	w.verify()
	down = false
	if res := w.sweep(); res.SegmentsMoved != 1 || res.SegmentsWaiting != 0 || res.PurgedClasses != 1 {
		t.Errorf("%+v", res)
	}
	w.read("a", "b")
	w.sound()
	w.verify()
	w.clean("after the water")
}

// A rule that goes by labels is decided by the record itself, in the hot store and in the
// archive; one that cannot be decided leaves it as it is.
func TestRescheduleByLabels(t *testing.T) {
	w := newWorld(t)
	young := instant(t, "2026-01-10T10:00:00Z")
	line := func(id string, at time.Time, labels string) string {
		return strings.Replace(labelled(id, "L", at, labels), `"kde_payload"`, `"created_or_obtained_at":"`+cte.FormatTime(at)+`","kde_payload"`, 1)
	}
	gone := instant(t, "2024-10-01T10:00:00Z")
	w.ingest(line("organic", young, `{"organic":"yes"}`), line("plain", young, `{"organic":"no"}`), line("bare", young, `{}`),
		line("old-organic", gone, `{"organic":"yes"}`), line("old-plain", gone, `{"organic":"no"}`))
	w.Limits.SegmentRecords = 1
	w.sweep()
	if w.row("old-organic").Segment == w.row("old-plain").Segment {
		t.Fatal("they are in one segment")
	}
	w.apply(parsed(t, `
  - {name: organic, citation: c, match: 'labels.organic == "yes"', hot: P3Y, archive: P9Y, action: archive_then_shred}
  - {name: rest, citation: c, action: archive_then_shred}
`))
	if plan, err := w.DryRun(t.Context(), w.now); err != nil || plan.Undecided != 5 {
		t.Errorf("%+v, %v", plan, err)
	}
	if res := w.sweep(); res.Rescheduled != 1 || res.Undecided != 1 || res.SegmentsMoved != 1 {
		t.Errorf("%+v", res)
	}
	w.due("organic", lifecycle.Active, "2029-01-10T10:00:00Z")
	w.due("plain", lifecycle.Active, "2028-01-10T10:00:00Z")
	w.due("bare", lifecycle.Active, "2028-01-10T10:00:00Z")
	if r := w.row("old-organic"); r.ArchiveClass != "archive-2036-10-1" {
		t.Errorf("%+v", r)
	}
	if r := w.row("old-plain"); r.ArchiveClass != "archive-2027-10-1" {
		t.Errorf("%+v", r)
	}
	w.sound()
	w.verify()
}

// A jurisdiction that the new policy does not know keeps its records, though no rule asks
// for it; what was kept before is looked at, too.
func TestRescheduleJurisdiction(t *testing.T) {
	w := newWorld(t)
	at := instant(t, "2026-01-10T10:00:00Z")
	taxonomy := func(jurisdictions string) *policy.Policy {
		p, err := policy.Parse("p.yaml", []byte("version: 1\nname: test\ntaxonomy: {jurisdictions: ["+jurisdictions+"]}\nrules:\n  - {name: r, citation: c, action: archive_then_shred}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	w.apply(taxonomy("US, CA"))
	w.ingest(labelled("us", "L", at, `{}`), labelled("ca", "L", at, `{"jurisdiction":"CA"}`), labelled("mx", "L", at, `{"jurisdiction":"MX"}`))
	never := cte.FormatTime(policy.Never)
	w.due("ca", lifecycle.Active, "2028-01-10T10:00:00Z")
	w.due("mx", lifecycle.Active, never)
	w.apply(taxonomy("US, MX"))
	if res := w.sweep(); res.Rescheduled != 2 || res.NeverDue != 1 {
		t.Errorf("%+v", res)
	}
	w.due("us", lifecycle.Active, "2028-01-10T10:00:00Z")
	w.due("ca", lifecycle.Active, never)
	w.due("mx", lifecycle.Active, "2028-01-10T10:00:00Z")
	w.sound()
}

// An ingest that is at work with an older policy keeps the archive from being purged, and
// what it brings follows with the next sweep.
func TestRescheduleOlderIngest(t *testing.T) {
	w := newWorld(t)
	w.ingest(old("a", "L"))
	w.sweep()
	w.sweepUntil(instant(t, "2026-12-31T10:00:00Z"))
	run := lifecycle.Run{ID: "run-older", Kind: "ingest", Actor: "another", StartedAt: w.now}
	began := lifecycle.Leaf{At: w.now, Action: lifecycle.ActionRunStarted, RunID: run.ID, Subject: run.ID}
	if _, err := w.Store.BeginRun(t.Context(), run, began); err != nil {
		t.Fatal(err)
	}
	w.apply(parsed(t, "  - {name: r, citation: c, archive: P1Y, action: archive_then_shred}\n"))
	w.now = instant(t, "2027-01-01T00:00:00Z")
	sign := began
	sign.At, sign.Action = w.now, lifecycle.ActionRefused
	if err := w.Store.Append(t.Context(), sign); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.PurgedClasses != 0 {
		t.Errorf("%+v", res)
	}
	w.read("a")
	run.FinishedAt, run.Status = w.now, "done"
	if err := w.Store.FinishRun(t.Context(), run, lifecycle.Leaf{At: w.now, Action: lifecycle.ActionRunFinished, RunID: run.ID, Subject: run.ID}); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.PurgedClasses != 1 {
		t.Errorf("%+v", res)
	}
}

// What somebody does to a due date, to what was recorded of it, or to a segment's class is
// found.
func TestRescheduleTampered(t *testing.T) {
	for name, statement := range map[string]string{
		"a day of its policy": `UPDATE records SET due_at = '2029-01-10T10:00:00.000000000Z' WHERE record_id = 'a'`,
		"the due date":        `UPDATE records SET due_at = '2030-01-10T10:00:00.000000000Z' WHERE record_id = 'a'`,
		"the trace":           `UPDATE reschedules SET due_to = '2030-01-10T10:00:00.000000000Z'`,
		"both":                `UPDATE reschedules SET due_to = '2028-01-11T10:00:00.000000000Z'; UPDATE records SET due_at = '2028-01-11T10:00:00.000000000Z' WHERE record_id = 'a'`,
		"where it came from":  `UPDATE reschedules SET due_from = '2027-01-11T10:00:00.000000000Z'`,
		"that there is one":   `DELETE FROM reschedules`,
		"a class":             `UPDATE reschedules SET archive_to = archive_from`,
		"the segment's class": `UPDATE segments SET class_no = (SELECT class_no FROM classes WHERE class_id = 'archive-2026-12-1')`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ingest(both("a", "L", instant(t, "2025-01-10T10:00:00Z")), old("b", "L"))
			w.sweep()
			w.apply(parsed(t, `
  - {name: labelled, citation: c, match: '"x" in labels', hot: P4Y, archive: P5Y, action: archive_then_shred}
  - {name: rest, citation: c, hot: P3Y, archive: P5Y, action: archive_then_shred}
`))
			if res := w.sweep(); res.Rescheduled != 1 || res.SegmentsMoved != 1 {
				t.Fatalf("%+v", res)
			}
			w.sound()
			raw(t, w, statement)
			if rep, err := w.VerifyLog(t.Context()); err != nil || len(rep.Findings) == 0 {
				t.Errorf("%+v, %v", rep.Findings, err)
			}
		})
	}
}

// A record whose clock is a trigger is kept until the date is set, for its lot or for the
// organisation, and follows it when it is another one or none.
func TestTriggers(t *testing.T) { everywhere(t, triggers) }

func triggers(t *testing.T, w *world) {
	ctx := context.Background()
	w.apply(parsed(t, `
  - {name: audit, citation: c, match: 'lot.startsWith("AUDIT")', clock: 'trigger:date_of_final_audit_closure', hot: P1Y, archive: P2Y, action: archive_then_shred}
  - {name: rest, citation: c, action: archive_then_shred}
`))
	set := func(date, lot, source string) {
		t.Helper()
		got, err := w.SetTrigger(ctx, lifecycle.Trigger{Name: "date_of_final_audit_closure", TLC: lot, TLCSource: source, Date: date, Reason: "a test"})
		if err != nil || got.Date != date || got.SetBy != "tester" {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	at := instant(t, "2024-01-10T10:00:00Z")
	from := func(source string) string {
		return strings.Replace(both("c", "AUDIT-2", at), `"event_type"`, `"tlc_source":"`+source+`","event_type"`, 1)
	}
	if res := w.ingest(both("a", "AUDIT-1", at), both("b", "AUDIT-2", at), from("S"), both("d", "L", at)); res.Kept != 3 {
		t.Errorf("%+v", res)
	}
	never := cte.FormatTime(policy.Never)
	if res := w.sweep(); res.NeverDue != 3 || res.Archived != 1 {
		t.Errorf("%+v", res)
	}
	if v := w.due("a", lifecycle.Active, never); v.Why.PolicyRule != "audit" || v.Why.Arithmetic != "trigger:date_of_final_audit_closure is not set" {
		t.Errorf("%+v", v.Why)
	}
	if _, err := w.SetTrigger(ctx, lifecycle.Trigger{Name: "full_moon", Date: "2026-01-01"}); !errors.Is(err, lifecycle.ErrTrigger) || !strings.Contains(err.Error(), "taxonomy_mismatch") {
		t.Errorf("an unknown trigger: %v", err)
	}
	if _, err := w.UnsetTrigger(ctx, lifecycle.Trigger{Name: "fiscal_year_end"}); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Errorf("one that is not set: %v", err)
	}

	// The narrowest counts. What is due by it is archived in the same run.
	set("2025-06-01", "", "")
	set("2026-06-01", "AUDIT-2", "")
	set("2026-09-01", "AUDIT-2", "S")
	before := len(w.leaves())
	set("2026-09-01", "AUDIT-2", "S")
	if n := len(w.leaves()); n != before {
		t.Errorf("the same date again has left %d leaves", n-before)
	}
	if res := w.sweep(); res.Rescheduled != 3 || res.Archived != 1 || res.NeverDue != 0 {
		t.Errorf("%+v", res)
	}
	w.due("a", lifecycle.Archived, "2026-06-01T00:00:00Z")
	w.due("b", lifecycle.Active, "2027-06-01T00:00:00Z")
	w.due("c", lifecycle.Active, "2027-09-01T00:00:00Z")
	if res := w.ingest(both("e", "AUDIT-2", at)); res.Kept != 0 {
		t.Errorf("%+v", res)
	}
	w.due("e", lifecycle.Active, "2027-06-01T00:00:00Z")
	w.sound()
	all, err := w.Triggers(ctx)
	if err != nil || len(all) != 3 || all[2].TLCSource != "S" || all[2].Date != "2026-09-01" || all[2].SetBy != "tester" || all[2].Reason != "a test" {
		t.Errorf("%+v, %v", all, err)
	}

	// Another date, and none. What is archived is kept for longer.
	set("2026-10-01", "", "")
	for _, source := range []string{"", "S"} {
		if _, err := w.UnsetTrigger(ctx, lifecycle.Trigger{Name: "date_of_final_audit_closure", TLC: "AUDIT-2", TLCSource: source, Reason: "reopened"}); err != nil {
			t.Fatal(err)
		}
	}
	if res := w.sweep(); res.Rescheduled != 3 || res.SegmentsMoved != 1 {
		t.Errorf("%+v", res)
	}
	for _, id := range []string{"b", "c", "e"} {
		w.due(id, lifecycle.Active, "2027-10-01T00:00:00Z")
	}
	if r := w.row("a"); r.State != lifecycle.Archived || r.ArchiveClass != "archive-2029-10-1" {
		t.Errorf("%+v", r)
	}
	if _, err := w.UnsetTrigger(ctx, lifecycle.Trigger{Name: "date_of_final_audit_closure", Reason: "reopened"}); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.Rescheduled != 3 || res.NeverDue != 3 || res.SegmentsMoved != 1 {
		t.Errorf("%+v", res)
	}
	// Nobody knows for how long: its key stays, and no lock is made for good.
	if g := w.segmentOf("a"); g.Class != "archive-9999-12-1" || g.RetainUntil.Year() > 2030 {
		t.Errorf("%+v", g)
	}
	w.due("b", lifecycle.Active, never)
	w.read("a", "b", "c", "d", "e")
	w.sound()
	w.verify()
	w.clean("unset")
}

// An order of dates that never was is found: the records have it from triggers that nobody
// has set.
func TestTriggersTampered(t *testing.T) {
	w := newWorld(t)
	w.apply(parsed(t, "  - {name: r, citation: c, clock: 'trigger:fiscal_year_end', action: archive_then_shred}\n"))
	if _, err := w.SetTrigger(t.Context(), lifecycle.Trigger{Name: "fiscal_year_end", Date: "2026-01-01", Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	w.ingest(both("a", "L", instant(t, "2026-01-10T10:00:00Z")))
	w.sound()
	raw(t, w, `UPDATE leaves SET body = replace(body, '2026-01-01', '2025-01-01') WHERE action = 'trigger-set'`)
	rep, err := w.VerifyLog(t.Context())
	if err != nil || !slices.ContainsFunc(rep.Findings, func(f lifecycle.LogFinding) bool { return f.Kind == lifecycle.LogChanged }) {
		t.Errorf("%+v, %v", rep.Findings, err)
	}
}

// A database from before is brought back to where its segments were moved, and opens them
// by what the log has; what was rescheduled in the hot store is so again by the next sweep.
func TestRescheduleRecovered(t *testing.T) {
	w := newWorld(t)
	w.ingest(old("a", "L"), both("hot", "L", instant(t, "2025-01-10T10:00:00Z")), both("gone", "L", instant(t, "2024-12-01T10:00:00Z")))
	w.sweep()
	restore := backupSQLite(w)
	w.apply(parsed(t, "  - {name: r, citation: c, clock: 'trigger:fiscal_year_end', hot: P3Y, archive: P5Y, action: archive_then_shred}\n"))
	if _, err := w.SetTrigger(t.Context(), lifecycle.Trigger{Name: "fiscal_year_end", Date: "2026-01-01", Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.Rescheduled != 2 || res.SegmentsMoved != 1 {
		t.Fatalf("%+v", res)
	}
	// Without its old class: only the log has what opens the segment.
	w.sweepUntil(instant(t, "2027-01-02T00:00:00Z"))
	want := w.segmentOf("a")
	restore()
	if dry, err := w.RecoverLog(t.Context(), true); err != nil || len(dry.Losses) != 1 {
		t.Errorf("%+v, %v", dry, err)
	}
	res, err := w.RecoverLog(t.Context(), false)
	if err != nil || len(res.Losses) != 1 || res.Losses[0].Kind != lifecycle.LostKey || res.Losses[0].Subject != "gone" {
		t.Fatalf("%+v, %v", res, err)
	}
	if g := w.segmentOf("a"); g.Class != want.Class || string(g.WrappedIdentity) != string(want.WrappedIdentity) || !g.RetainUntil.Equal(want.RetainUntil) || !g.Copies[0].RetainUntil.Equal(want.Copies[0].RetainUntil) {
		t.Errorf("%+v, want %+v", g, want)
	}
	w.read("a", "hot")
	w.sound()
	if res, err := w.Sweep(t.Context(), lifecycle.SweepOptions{}); err == nil || res.Rescheduled != 1 || res.Undecided != 1 || res.Failed != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	w.due("hot", lifecycle.Active, "2029-01-01T00:00:00Z")
	w.sound()
}
