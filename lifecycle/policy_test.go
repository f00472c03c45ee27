package lifecycle_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := cte.ParseTime(s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestDue(t *testing.T) {
	p := lifecycle.DefaultPolicy()
	now := instant(t, "2026-11-21T10:00:00Z")
	cutoff := p.Cutoff(now)
	if want := instant(t, "2024-11-21T10:00:00Z"); !cutoff.Equal(want) {
		t.Fatalf("cutoff %v", cutoff)
	}
	none := lifecycle.NewHoldSet(nil)
	for _, c := range []struct {
		event time.Time
		want  lifecycle.Action
	}{
		{cutoff, lifecycle.Archive},
		{cutoff.Add(time.Nanosecond), lifecycle.Keep},
		{cutoff.Add(-time.Nanosecond), lifecycle.Archive},
		{instant(t, "9999-12-31T23:59:59.999999999Z"), lifecycle.Keep},
		{instant(t, "0001-01-01T00:00:00Z"), lifecycle.Archive},
	} {
		d := lifecycle.Decide(&lifecycle.Row{RecordID: "r", EventTimestamp: c.event, DueAt: p.DueAt(c.event)}, none, nil, now)
		if d.Action != c.want || d.Reason == "" {
			t.Errorf("an event at %v: %+v, want %s", c.event, d, c.want)
		}
	}
}

func TestPurgeNotBefore(t *testing.T) {
	for _, c := range []struct{ event, obtained, want string }{
		{"2022-09-14T08:30:00Z", "2022-09-14T08:30:00Z", "2024-09-16T00:00:00Z"},
		// Two calendar years over a leap day are 731 days, and two more.
		{"2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2028-03-03T00:00:00Z"},
		// 29 February counts as 1 March.
		{"2024-02-29T23:59:59.999999999Z", "2024-02-29T00:00:00Z", "2026-03-03T00:00:00Z"},
		// The clock starts with the record, not the event; and never before the event.
		{"2022-09-14T08:30:00Z", "2026-11-21T10:00:00Z", "2028-11-23T00:00:00Z"},
		{"2027-01-31T12:00:00Z", "2026-11-21T10:00:00Z", "2029-02-02T00:00:00Z"},
		{"9999-01-01T00:00:00Z", "2026-11-21T10:00:00Z", "9999-12-31T23:59:59.999999999Z"},
	} {
		got := lifecycle.PurgeNotBefore(instant(t, c.event), instant(t, c.obtained))
		if cte.FormatTime(got) != c.want {
			t.Errorf("event %s, obtained %s: %s, want %s", c.event, c.obtained, cte.FormatTime(got), c.want)
		}
	}
}

// No policy, however short, ends a record before the law's floor; and the
// floor is never less than two calendar years, nor less than 730 days, after
// the later of the two dates.
func TestFloorHolds(t *testing.T) {
	when := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(-30e9, 200e9).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	})
	rapid.Check(t, func(t *rapid.T) {
		event, obtained := when.Draw(t, "event"), when.Draw(t, "obtained")
		p := lifecycle.Policy{Name: "p", ArchiveAfterDays: rapid.IntRange(1, 5000).Draw(t, "days"), PurgeAfterYears: rapid.IntRange(0, 30).Draw(t, "years")}
		later := event
		if obtained.After(later) {
			later = obtained
		}
		floor := lifecycle.PurgeNotBefore(event, obtained)
		if floor.Before(later.AddDate(2, 0, 0)) || floor.Before(later.Add(731*24*time.Hour)) {
			t.Fatalf("floor %v is too early for %v", floor, later)
		}
		if p.PurgeAt(event, obtained).Before(floor) {
			t.Fatalf("policy %+v purges before %v", p, floor)
		}
		// Purging goes by archive classes, after their month has ended.
		if lifecycle.ArchivePeriod(p.PurgeAt(event, obtained)).Ends().Before(floor) {
			t.Fatal("the archive class is over before the floor")
		}
		// Due and the cutoff say the same, to the nanosecond.
		now := when.Draw(t, "now")
		if due := !p.DueAt(event).After(now); due != !event.After(p.Cutoff(now)) {
			t.Fatalf("due %v, cutoff %v, event %v", p.DueAt(event), p.Cutoff(now), event)
		}
		if day := lifecycle.HotPeriod(p.DueAt(event)); p.DueAt(event).Before(day.Start) || !p.DueAt(event).Before(day.Ends()) {
			t.Fatalf("due %v is not in its day %v", p.DueAt(event), day)
		}
	})
}

func TestPolicyValidate(t *testing.T) {
	for _, p := range []lifecycle.Policy{{}, {Name: "x"}, {Name: "x", ArchiveAfterDays: -1}, {Name: strings.Repeat("x", 65), ArchiveAfterDays: 730}} {
		if p.Validate() == nil {
			t.Errorf("%+v was accepted", p)
		}
	}
	if err := lifecycle.DefaultPolicy().Validate(); err != nil {
		t.Error(err)
	}
	a, b := lifecycle.DefaultPolicy(), lifecycle.DefaultPolicy()
	b.ArchiveAfterDays++
	if a.Hash() == b.Hash() || a.Hash() != lifecycle.DefaultPolicy().Hash() {
		t.Error("the hash does not follow the policy")
	}
}

func TestTransitions(t *testing.T) {
	stored := map[[2]lifecycle.State]bool{
		{lifecycle.Active, lifecycle.Archived}: true,
		{lifecycle.Archived, lifecycle.Purged}: true,
	}
	states := []lifecycle.State{lifecycle.Active, lifecycle.Held, lifecycle.Archived, lifecycle.Purged}
	for _, from := range states {
		for _, to := range states {
			if err := lifecycle.CheckMove(from, to); (err == nil) != stored[[2]lifecycle.State{from, to}] {
				t.Errorf("%s to %s: %v", from, to, err)
			}
		}
	}
}

func TestScope(t *testing.T) {
	row := func(id, tlc, source string) *lifecycle.Row {
		return &lifecycle.Row{RecordID: id, TLC: tlc, TLCSource: source}
	}
	for _, c := range []struct {
		scope lifecycle.Scope
		row   *lifecycle.Row
		want  bool
	}{
		{lifecycle.Scope{RecordID: "a"}, row("a", "L", ""), true},
		{lifecycle.Scope{RecordID: "a"}, row("A", "L", ""), false},
		{lifecycle.Scope{TLC: "L"}, row("a", "L", "S"), true},
		{lifecycle.Scope{TLC: "L"}, row("a", "L", ""), true},
		{lifecycle.Scope{TLC: "L", TLCSource: "S"}, row("a", "L", "S"), true},
		{lifecycle.Scope{TLC: "L", TLCSource: "S"}, row("a", "L", "T"), false},
		{lifecycle.Scope{TLC: "L", TLCSource: "S"}, row("a", "L", ""), true}, // lacks one: covered
		{lifecycle.Scope{TLC: "L"}, row("a", "L2", ""), false},
		{lifecycle.Scope{TLC: "L"}, row("a", "l", ""), false},
	} {
		if got := c.scope.Covers(c.row); got != c.want {
			t.Errorf("%v covers %+v: %v", c.scope, c.row, got)
		}
	}
}

// One lot may be covered by many holds and many scopes of one; each hold
// counts once, and a released one not at all.
func TestHoldSet(t *testing.T) {
	released := &lifecycle.Hold{ID: "h3", Scopes: []lifecycle.Scope{{TLC: "L"}}, ReleasedAt: today}
	set := lifecycle.NewHoldSet([]*lifecycle.Hold{
		{ID: "h1", Scopes: []lifecycle.Scope{{TLC: "L"}, {RecordID: "a"}, {TLC: "L", TLCSource: "S"}}},
		{ID: "h2", Scopes: []lifecycle.Scope{{RecordID: "a"}}}, released,
	})
	var ids []string
	for _, h := range set.Covering(&lifecycle.Row{RecordID: "a", TLC: "L", TLCSource: "S"}) {
		ids = append(ids, h.ID)
	}
	if len(ids) != 2 {
		t.Errorf("covered by %v", ids)
	}
}

// The plan is a function of what it is given: the same again gives the same,
// and every record that stays has its reason.
func TestPlanSweep(t *testing.T) {
	now := instant(t, "2026-11-21T10:00:00Z")
	rows := []lifecycle.Row{
		{RecordID: "due", TLC: "L", EventTimestamp: instant(t, "2024-11-21T10:00:00Z")},
		{RecordID: "young", TLC: "L", EventTimestamp: instant(t, "2024-11-21T10:00:00.000000001Z")},
		{RecordID: "held", TLC: "H", TLCSource: "S", EventTimestamp: instant(t, "2022-09-14T08:30:00Z")},
	}
	for i := range rows {
		rows[i].DueAt = lifecycle.DefaultPolicy().DueAt(rows[i].EventTimestamp)
	}
	holds := lifecycle.NewHoldSet([]*lifecycle.Hold{{ID: "hold-1", Kind: lifecycle.Recall, Scopes: []lifecycle.Scope{{TLC: "H", TLCSource: "S"}}}})
	got := lifecycle.PlanSweep(rows, holds, nil, now)
	want := lifecycle.Plan{Due: 2, Held: 1, Archive: 1, Decisions: []lifecycle.Decision{
		{RecordID: "due", Action: lifecycle.Archive, Reason: "due since 2026-11-21T10:00:00Z"},
		{RecordID: "young", Action: lifecycle.Keep, Reason: "not due before 2026-11-21T10:00:00.000000001Z"},
		{RecordID: "held", Action: lifecycle.Defer, Reason: "held: recall hold-1", HoldIDs: []string{"hold-1"}},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("planned %+v, want %+v", got, want)
	}
	if again := lifecycle.PlanSweep(rows, holds, nil, now); !reflect.DeepEqual(got, again) {
		t.Error("the same input gave another plan")
	}
}
