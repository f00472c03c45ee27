package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

func parsed(t *testing.T, rules string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("p.yaml", []byte("version: 1\nname: test\ntaxonomy: {jurisdictions: [US]}\nrules:\n"+rules))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) apply(p *policy.Policy) lifecycle.PolicyChange {
	w.t.Helper()
	res, err := w.ApplyPolicy(context.Background(), p, "p.yaml", false)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func labelled(id, lot string, at time.Time, labels string) string {
	return fmt.Sprintf(`{"record_id":%q,"traceability_lot_code":%q,"event_type":"shipping","event_timestamp":%q,"labels":%s,"kde_payload":{"n":1}}`, id, lot, cte.FormatTime(at), labels)
}

const twoRules = `
  - {name: organic, citation: "charter 7", match: '"organic" in labels && labels.organic == "yes"', hot: P4Y, archive: P1Y, action: archive_then_shred}
  - {name: lots, citation: c, match: 'lot.startsWith("KEEP")', action: archive}
  - {name: shipping, citation: c, match: 'event_type == "shipping"', segment_records: 2, action: archive_then_shred}
`

// TestApplied: from the moment that a policy is applied its rules decide for what comes
// in, and each record has the classes of its rule.
func TestApplied(t *testing.T) {
	w := newWorld(t)
	old := instant(t, "2024-11-01T10:00:00Z") // 750 days ago
	w.ingest(record("before", "L", old))
	p := parsed(t, twoRules)
	if res := w.apply(p); !res.Applied || res.Hash != p.Hash() || res.Replaces != lifecycle.DefaultPolicy().Hash() || len(res.Changes) == 0 {
		t.Fatalf("applied %+v", res)
	}
	leaves, err := w.Store.Leaves(context.Background(), lifecycle.LeafQuery{Actions: []string{lifecycle.ActionPolicyApplied}})
	if err != nil || len(leaves) != 1 || bodyOf[string](t, leaves[0], "policy_hash") != p.Hash() {
		t.Fatalf("leaves %v, %v", leaves, err)
	}
	if res := w.apply(p); res.Applied {
		t.Error("the same policy was applied twice")
	}
	res := w.ingest(labelled("organic", "L", old, `{"organic":"yes"}`), labelled("kept-lot", "KEEP-1", old, `{}`), labelled("plain", "L", old, `{}`),
		labelled("abroad", "L", old, `{"jurisdiction":"MX"}`), strings.Replace(record("no-rule", "L", old), "shipping", "receiving", 1), labelled("plain-2", "L", old, `{}`), labelled("plain-3", "L", old, `{}`))
	if res.Accepted != 7 || res.Kept != 2 {
		t.Fatalf("ingested %+v", res)
	}
	if got := w.sweep(); got.Archived != 5 || got.Segments != 3 || got.Cutoff != "" {
		t.Errorf("swept %+v", got)
	}
	for _, c := range []struct {
		id, rule, policy string
		state            lifecycle.State
		due              string
	}{
		{"before", "default", "default", lifecycle.Archived, "2026-11-01T10:00:00Z"},
		{"organic", "", "test", lifecycle.Active, "2028-11-01T10:00:00Z"}, // only its label says which rule
		{"plain", "", "test", lifecycle.Archived, "2026-11-01T10:00:00Z"},
		{"kept-lot", "", "test", lifecycle.Archived, "2026-11-01T10:00:00Z"},
		{"abroad", "", "test", lifecycle.Active, cte.FormatTime(policy.Never)},
		{"no-rule", "", "test", lifecycle.Active, cte.FormatTime(policy.Never)},
	} {
		if v := w.view(c.id); v.State != c.state || v.DueAt != c.due || v.Why.Policy != c.policy || v.Why.PolicyRule != c.rule {
			t.Errorf("%s: %s, due %s, %+v", c.id, v.State, v.DueAt, v.Why)
		}
	}
	// What is archived for good is in a class that is never over, under a lock with an end.
	row, err := w.Store.Row(context.Background(), "kept-lot")
	if err != nil || row.ArchiveClass != "archive-9999-12-1" {
		t.Fatalf("%+v, %v", row, err)
	}
	g, err := w.Store.Segment(context.Background(), row.Segment)
	if err != nil || g.RetainUntil.Year() != 2026+99 {
		t.Errorf("locked until %v, %v", g.RetainUntil, err)
	}
	w.sound()
}

// sound: audit verify finds nothing.
func (w *world) sound() {
	w.t.Helper()
	rep, err := w.VerifyLog(context.Background())
	if err != nil || len(rep.Findings) > 0 {
		w.t.Errorf("audit verify: %+v, %v", rep.Findings, err)
	}
}

// TestPolicyHistory: the trail has who applied what, what it changed, and all of each
// version, so that an older one can be put back in force.
func TestPolicyHistory(t *testing.T) {
	w := newWorld(t)
	first := parsed(t, "  - {name: r, citation: c, action: archive_then_shred}\n")
	second := parsed(t, "  - {name: r, citation: c, hot: P3Y, action: archive_then_shred}\n")
	w.apply(first)
	w.Actor = "another"
	w.apply(second)
	again, err := w.PolicyHistory(context.Background())
	if err != nil || len(again) != 3 {
		t.Fatalf("%+v, %v", again, err)
	}
	back, err := policy.Parse("back", again[1].Applied().Canonical())
	if err != nil {
		t.Fatal(err)
	}
	if res := w.apply(back); !res.Applied || res.Hash != first.Hash() {
		t.Fatalf("rolled back: %+v", res)
	}
	history, err := w.PolicyHistory(context.Background())
	if err != nil || len(history) != 4 {
		t.Fatalf("%+v, %v", history, err)
	}
	for i, want := range []struct{ hash, actor, change string }{
		{lifecycle.DefaultPolicy().Hash(), "", ""}, {first.Hash(), "tester", "rule default: gone"},
		{second.Hash(), "another", "rule r: hot: P730D -> P3Y"}, {first.Hash(), "another", "rule r: hot: P3Y -> P730D"},
	} {
		h := history[i]
		if h.Hash != want.hash || i > 0 && h.Actor != want.actor || want.change != "" && !slices.Contains(h.Changes, want.change) || h.InForce != (i == 3) {
			t.Errorf("version %d: %+v, want %+v", i, h, want)
		}
	}
	if p, err := w.InForce(context.Background()); err != nil || p.Hash() != first.Hash() {
		t.Errorf("in force is %v, %v", p, err)
	}
	// The configuration's policy is the first one and no more: another one there, and
	// what was applied stays in force.
	w.Policy.ArchiveAfterDays++
	if p, err := w.InForce(context.Background()); err != nil || p.Hash() != first.Hash() {
		t.Errorf("in force is %v, %v", p, err)
	}
}

// TestSimulate: the months and rules are counted as they are and as they would be, and
// nothing is changed.
func TestSimulate(t *testing.T) {
	w := newWorld(t)
	event := instant(t, "2025-06-15T10:00:00Z")
	for _, id := range []string{"a", "b"} {
		w.ingest(obtained(record(id, "L", event), cte.FormatTime(event)))
	}
	w.ingest(obtained(record("old", "L", instant(t, "2022-09-14T08:30:00Z")), "2022-09-14T08:30:00Z"))
	longer := parsed(t, "  - {name: r, citation: c, match: 'lot == \"L\"', hot: P3Y, action: archive_then_shred}\n")
	before := w.leaves()
	s, err := w.SimulatePolicy(context.Background(), longer, w.now)
	if err != nil {
		t.Fatal(err)
	}
	if s.Records != 3 || s.Longer != 3 || s.Shorter != 0 || s.Undecided != 0 {
		t.Errorf("%+v", s)
	}
	want := []lifecycle.Moves{
		{Rule: "r", Month: "2026-11", Action: "archive", Current: 1, Proposed: 1}, // overdue both ways
		{Rule: "r", Month: "2027-06", Action: "archive", Current: 2},
		{Rule: "r", Month: "2028-06", Action: "archive", Proposed: 2},
		{Rule: "r", Month: "2027-01", Action: "purge", Current: 1, Proposed: 1}, // it came when its own month was over
		{Rule: "r", Month: "2028-07", Action: "purge", Current: 2},
		{Rule: "r", Month: "2029-07", Action: "purge", Proposed: 2},
	}
	if !slices.Equal(s.Moves, want) {
		t.Errorf("moves\n%+v, want\n%+v", s.Moves, want)
	}
	after := w.leaves()
	if len(after) != len(before)+1 || after[len(after)-1].Action != lifecycle.ActionDryRun {
		t.Errorf("it left %d leaves", len(after)-len(before))
	}
	later, err := w.SimulatePolicy(context.Background(), longer, w.now.AddDate(1, 0, 0))
	if err != nil || later.Moves[0] != (lifecycle.Moves{Rule: "r", Month: "2027-11", Action: "archive", Current: 3, Proposed: 1}) {
		t.Errorf("as of next year: %+v, %v", later, err)
	}
	short := parsed(t, "  - {name: r, citation: c, hot: P1D, archive: P733D, action: archive_then_shred}\n")
	if s, err := w.SimulatePolicy(context.Background(), short, w.now); err != nil || s.Shorter != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	label := parsed(t, "  - {name: r, citation: c, match: 'labels.a == \"b\"', action: archive_then_shred}\n")
	if s, err := w.SimulatePolicy(context.Background(), label, w.now); err != nil || s.Undecided != 3 || !strings.Contains(fmt.Sprint(s.Moves), "{? ") {
		t.Errorf("%+v, %v", s, err)
	}
}

func (w *world) leaves() []lifecycle.Leaf {
	w.t.Helper()
	leaves, err := w.Store.Leaves(context.Background(), lifecycle.LeafQuery{})
	if err != nil {
		w.t.Fatal(err)
	}
	return leaves
}

// TestDueTampered: a day that the policy does not allow is found, and one that only a
// label could have given is not.
func TestDueTampered(t *testing.T) {
	w := newWorld(t)
	p := parsed(t, twoRules)
	for _, c := range []struct {
		due  string
		want bool
	}{
		{"2026-11-01T10:00:00Z", true}, {"2028-11-01T10:00:00Z", true}, {cte.FormatTime(policy.Never), true}, {"2026-10-31T10:00:00Z", false}, {"2027-11-01T10:00:00Z", false},
	} {
		f := policy.Facts{EventType: cte.Shipping, Lot: "L", EventTimestamp: instant(t, "2024-11-01T10:00:00Z"), CreatedOrObtainedAt: w.now, LabelsUnknown: true}
		if got := p.Allows(f, instant(t, c.due)); got != c.want {
			t.Errorf("due at %s: %v", c.due, got)
		}
	}
}

// TestApproval: a policy that ends lives earlier waits for somebody else, and only the
// last proposal can be approved.
func TestApproval(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	event := instant(t, "2026-06-15T10:00:00Z")
	w.ingest(obtained(record("a", "L", event), cte.FormatTime(event)))
	longer := parsed(t, "  - {name: r, citation: c, hot: P5Y, action: archive_then_shred}\n")
	short := parsed(t, "  - {name: r, citation: c, hot: P1Y, archive: P2Y, action: archive_then_shred}\n")
	byLabel := parsed(t, "  - {name: r, citation: c, match: 'labels.a == \"b\"', hot: P1Y, archive: P5Y, action: archive_then_shred}\n")
	if res, err := w.ApplyPolicy(ctx, longer, "f", true); err != nil || !res.Applied || res.Longer != 1 {
		t.Fatalf("one that keeps longer: %+v, %v", res, err)
	}
	inForce := func(want *policy.Policy) {
		t.Helper()
		if p, err := w.InForce(ctx); err != nil || p.Hash() != want.Hash() {
			t.Fatalf("in force is %v, %v", p, err)
		}
	}
	if _, err := w.ApprovePolicy(ctx, short.Hash()); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Errorf("nothing was proposed: %v", err)
	}
	if res, err := w.ApplyPolicy(ctx, byLabel, "f", true); err != nil || res.Applied || !res.Waiting || res.Undecided != 1 {
		t.Fatalf("one that may end a life earlier: %+v, %v", res, err)
	}
	if res, err := w.ApplyPolicy(ctx, short, "f", true); err != nil || res.Applied || !res.Waiting || res.Shorter != 1 {
		t.Fatalf("one that ends a life earlier: %+v, %v", res, err)
	}
	inForce(longer)
	if _, err := w.ApprovePolicy(ctx, short.Hash()[:12]); err == nil {
		t.Error("it was approved by who proposed it")
	} else if r, ok := lifecycle.IsRefused(err); !ok || r.Check != "approval" {
		t.Error(err)
	}
	w.Actor = "another"
	for _, hash := range []string{byLabel.Hash(), ""} {
		if _, err := w.ApprovePolicy(ctx, hash); !errors.Is(err, lifecycle.ErrNotFound) {
			t.Errorf("approved %q: %v", hash, err)
		}
	}
	inForce(longer)
	res, err := w.ApprovePolicy(ctx, short.Hash()[:12])
	if err != nil || !res.Applied || res.ProposedBy != "tester" || res.Authenticated || res.Shorter != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	inForce(short)
	if _, err := w.ApprovePolicy(ctx, short.Hash()); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Errorf("approved twice: %v", err)
	}
	w.sound()
}

// TestPolicyOfTheDestruction: how long backups are kept is what the policy says under
// which the key was destroyed, and not what policy or configuration say later.
func TestPolicyOfTheDestruction(t *testing.T) {
	w := newWorld(t)
	first := parsed(t, "  - {name: a, citation: c, match: 'lot == \"L\"', action: archive_then_shred, backup_retention: P35D}\n  - {name: b, citation: c, action: archive_then_shred, backup_retention: P1M}\n")
	w.apply(first)
	class := w.shredded()
	w.apply(parsed(t, "  - {name: a, citation: c, action: archive_then_shred, backup_retention: P1D}\n"))
	w.Limits.BackupRetention = 24 * time.Hour
	r, err := w.Receipt(t.Context(), class)
	if err != nil || r.Sanitization.PolicyHash != first.Hash() || r.BackupRetentionDays != 35 || r.FinalAt != "2026-12-27T00:00:00Z" {
		t.Errorf("%+v, %v", r.ReceiptSummary, err)
	}

	// A rule that says nothing leaves it to the configuration.
	for _, c := range []struct{ configured, days int }{{0, 0}, {1, 35}, {90, 90}} {
		w := newWorld(t)
		w.Limits.BackupRetention = time.Duration(c.configured) * 24 * time.Hour
		w.apply(parsed(t, "  - {name: a, citation: c, match: 'lot == \"L\"', action: archive_then_shred, backup_retention: P35D}\n  - {name: b, citation: c, action: archive_then_shred}\n"))
		r, err := w.Receipt(t.Context(), w.shredded())
		if err != nil || r.BackupRetentionDays != c.days || (r.FinalAt == "") != (c.days == 0) {
			t.Errorf("configured %d days: %d, %+v, %v", c.configured, r.BackupRetentionDays, r.ReceiptSummary, err)
		}
	}
}

// TestReconciledByPolicy: each record counts under the policy that decided.
func TestReconciledByPolicy(t *testing.T) {
	w := newWorld(t)
	w.ingest(record("due", "L", instant(t, "2022-09-14T08:30:00Z")))
	w.ingest(record("hot", "L", w.now))
	second := parsed(t, "  - {name: r, citation: c, hot: P3Y, action: archive_then_shred}\n")
	w.apply(second)
	w.ingest(record("new", "L", w.now))
	w.sweep()
	res := w.reconcile()
	if res.Policy != "test" || res.PolicyHash != second.Hash() {
		t.Errorf("the policy is %s %s", res.Policy, res.PolicyHash)
	}
	got := map[string]int64{}
	for _, c := range res.Counts {
		if c.Of == "records by policy" {
			got[c.Name] = c.Count
		}
	}
	first := "default " + w.Policy.Hash()
	want := map[string]int64{"in the hot store, " + first: 1, "in the hot store, test " + second.Hash(): 1, "archived, test " + second.Hash(): 1}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	w.sound()
	rep, err := w.VerifyLog(t.Context())
	if want := []lifecycle.LogPolicy{{Name: "default", Hash: w.Policy.Hash(), Records: 2}, {Name: "test", Hash: second.Hash(), Records: 1}}; err != nil || !slices.Equal(rep.Policies, want) {
		t.Errorf("records came in under %+v, %v, want %+v", rep.Policies, err, want)
	}
}

// TestPolicyNeverApplied: records that came in under a policy which the trail does not
// have are found.
func TestPolicyNeverApplied(t *testing.T) {
	w := newWorld(t)
	w.ingest(record("a", "L", w.now))
	w.sound()
	w.Policy.Name = "another"
	rep, err := w.VerifyLog(t.Context())
	if err != nil || len(rep.Findings) != 1 || rep.Findings[0].Kind != lifecycle.LogRecord || !strings.Contains(rep.Findings[0].Detail, "which was never applied") {
		t.Errorf("%+v, %v", rep.Findings, err)
	}
}

// TestPurgedByRule: each record lives as long as the rule says that it came in under, where
// one that was applied later does not say longer; what no rule had gets one.
func TestPurgedByRule(t *testing.T) {
	w := newWorld(t)
	w.ingest(old("before", "LONG"))
	w.apply(parsed(t, `
  - {name: keep, citation: c, match: 'lot == "KEEP"', action: archive}
  - {name: labelled, citation: c, match: '"years" in labels && labels.years == "4"', archive: P2Y, action: archive_then_shred}
  - {name: long, citation: c, match: 'lot == "LONG"', archive: P3Y, action: archive_then_shred}
  - {name: rest, citation: c, match: 'lot != "NONE"', action: archive_then_shred}
`))
	w.ingest(old("keep", "KEEP"), strings.Replace(old("labelled", "LONG"), `"kde_payload"`, `"labels":{"years":"4"},"kde_payload"`, 1), old("long", "LONG"), old("rest", "L"), old("none", "NONE"))
	second := parsed(t, "  - {name: short, citation: c, hot: P1D, archive: P733D, action: archive_then_shred}\n")
	w.apply(second)
	// What came when its own month was over goes with the month after that.
	w.sweepUntil(instant(t, "2027-01-01T00:00:00Z").Add(-1))
	w.read("before", "keep", "labelled", "long", "rest", "none")
	w.now = instant(t, "2027-01-01T00:00:00Z")
	if got := w.sweep(); got.Purged != 4 {
		t.Errorf("purged %+v", got)
	}
	w.unread("before", "labelled", "rest", "none")
	w.sweepUntil(instant(t, "2027-10-01T00:00:00Z").Add(-1))
	w.read("keep", "long")
	w.now = instant(t, "2027-10-01T00:00:00Z")
	if got := w.sweep(); got.Purged != 1 {
		t.Errorf("purged %+v", got)
	}
	w.unread("long")
	w.now = instant(t, "2060-01-01T00:00:00Z")
	if err := w.AcceptClock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.sweep(); got.Purged != 0 || got.Archived != 0 {
		t.Errorf("after all: %+v", got)
	}
	w.read("keep")
	w.sound()

	// Each leaf of an end names the policy that the sweep went by.
	for _, action := range []string{lifecycle.ActionArchived, lifecycle.ActionShredIntent, lifecycle.ActionShredExecuting, lifecycle.ActionShredded, lifecycle.ActionPurged} {
		leaves, err := w.Store.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{action}})
		if err != nil || len(leaves) == 0 {
			t.Errorf("%s: %d leaves, %v", action, len(leaves), err)
		}
		for _, l := range leaves {
			if bodyOf[string](t, l, "policy_hash") != second.Hash() {
				t.Errorf("%s: %s", action, l.Body)
			}
		}
	}
}
