package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := cte.ParseTime(s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func example(t *testing.T) (*policy.Policy, []byte) {
	t.Helper()
	b, err := os.ReadFile("testdata/fsma.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse("fsma.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	return p, b
}

// TestArithmetic is the dates that hurt, under the default rule (730 days, one year)
// and under one of calendar years from the record's own day.
func TestArithmetic(t *testing.T) {
	days := policy.OfDays("days", 730, 1, "")
	years, err := policy.Parse("p", []byte(`{version: 1, name: years, rules: [{name: r, citation: c, clock: created_or_obtained, hot: P2Y, archive: P3D, action: archive_then_shred}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, event, obtained string
		floor                 string
		due, purge            string // by days
		dueY, purgeY          string // by years
	}{
		{"29 February", "2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z", "2026-03-03T00:00:00Z",
			"2026-02-28T12:00:00Z", "2027-02-28T12:00:00Z", "2026-03-01T12:00:00Z", "2026-03-04T12:00:00Z"},
		{"two years of 731 days", "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2028-03-03T00:00:00Z",
			"2028-02-29T00:00:00Z", "2029-03-01T00:00:00Z", "2028-03-01T00:00:00Z", "2028-03-04T00:00:00Z"},
		{"still February in UTC", "2026-03-01T00:30:00+10:00", "2026-03-01T00:30:00+10:00", "2028-03-01T00:00:00Z",
			"2028-02-28T14:30:00Z", "2029-02-28T14:30:00Z", "2028-02-28T14:30:00Z", "2028-03-02T14:30:00Z"},
		{"the last second of a year", "2025-12-31T23:59:59Z", "2025-12-31T23:59:59Z", "2028-01-02T00:00:00Z",
			"2027-12-31T23:59:59Z", "2028-12-31T23:59:59Z", "2027-12-31T23:59:59Z", "2028-01-03T23:59:59Z"},
		{"the next year in UTC", "2025-12-31T23:59:59-05:00", "2025-12-31T23:59:59-05:00", "2028-01-03T00:00:00Z",
			"2028-01-01T04:59:59Z", "2029-01-01T04:59:59Z", "2028-01-01T04:59:59Z", "2028-01-04T04:59:59Z"},
		{"obtained after the year was over", "2025-12-31T12:00:00Z", "2026-01-01T00:00:00Z", "2028-01-03T00:00:00Z",
			"2027-12-31T12:00:00Z", "2028-12-31T12:00:00Z", "2028-01-01T00:00:00Z", "2028-01-04T00:00:00Z"},
		{"obtained four years later: the floor stops the event's clock", "2022-09-14T08:30:00Z", "2026-11-21T10:00:00Z", "2028-11-23T00:00:00Z",
			"2024-09-13T08:30:00Z", "2028-11-23T00:00:00Z", "2028-11-21T10:00:00Z", "2028-11-24T10:00:00Z"},
		{"created before the event: the floor stops the record's clock", "2027-01-31T12:00:00Z", "2026-11-21T10:00:00Z", "2029-02-02T00:00:00Z",
			"2029-01-30T12:00:00Z", "2030-01-30T12:00:00Z", "2028-11-21T10:00:00Z", "2029-02-02T00:00:00Z"},
		{"an event far in the future", "9998-06-01T00:00:00Z", "2026-11-21T10:00:00Z", "9999-12-31T23:59:59.999999999Z",
			"9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z", "2028-11-21T10:00:00Z", "9999-12-31T23:59:59.999999999Z"},
	} {
		event, obtained := instant(t, c.event), instant(t, c.obtained)
		f := policy.Facts{EventType: cte.Shipping, EventTimestamp: event, CreatedOrObtainedAt: obtained}
		a, b := days.Schedule(f), years.Schedule(f)
		for _, x := range []struct {
			what string
			got  time.Time
			want string
		}{
			{"floor", policy.NotBefore(event, obtained), c.floor}, {"due by days", a.Due, c.due}, {"purge by days", a.Purge, c.purge},
			{"due by years", b.Due, c.dueY}, {"purge by years", b.Purge, c.purgeY},
		} {
			if cte.FormatTime(x.got) != x.want {
				t.Errorf("%s: %s %s, want %s", c.name, x.what, cte.FormatTime(x.got), x.want)
			}
		}
	}
}

// TestFloor: over every day from 2020 to 2040 and every offset from UTC, no policy ends
// a record before the law says, counted where it was written, nor before its own
// period is over.
func TestFloor(t *testing.T) {
	shortest, err := policy.Parse("p", []byte(`{version: 1, name: p, rules: [{name: r, citation: c, hot: P1D, archive: P2Y2D, action: archive_then_shred}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var offsets []*time.Location
	for quarter := -12 * 4; quarter <= 14*4; quarter++ {
		offsets = append(offsets, time.FixedZone("", quarter*15*60))
	}
	days := policy.OfDays("days", 730, 1, "")
	for day := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() <= 2040; day = day.AddDate(0, 0, 1) {
		for _, zone := range offsets {
			for _, second := range []int{0, 86399} {
				local := time.Date(day.Year(), day.Month(), day.Day(), 0, 0, second, 0, zone)
				floor := policy.NotBefore(local, local)
				// Two years from the date that it was where the record was written, 29 February
				// as 1 March.
				if law := time.Date(day.Year()+2, day.Month(), day.Day(), 0, 0, 0, 0, zone); floor.Before(law) {
					t.Fatalf("%v: the floor is %v, the two years end at %v", local, floor, law)
				}
				if late := floor.Sub(local); late > 734*24*time.Hour {
					t.Fatalf("%v: the floor %v is days later than it need be", local, floor)
				}
				if _, offset := local.Zone(); offset%3600 != 0 {
					continue // the same again, and slower
				}
				for _, p := range []*policy.Policy{shortest, days} {
					s := p.Schedule(policy.Facts{EventType: cte.Shipping, EventTimestamp: local, CreatedOrObtainedAt: local})
					if s.Purge.Before(floor) || s.Purge.Before(s.Due) {
						t.Fatalf("%s, %v: due %v, purge %v, floor %v", p.Name(), local, s.Due, s.Purge, floor)
					}
				}
				// A record that is obtained a month after its event.
				obtained := local.AddDate(0, 1, 0)
				s := days.Schedule(policy.Facts{EventTimestamp: local, CreatedOrObtainedAt: obtained})
				if s.Purge.Before(policy.NotBefore(local, obtained)) || s.Purge.Before(policy.NotBefore(obtained, obtained)) {
					t.Fatalf("%v, obtained %v: purge %v", local, obtained, s.Purge)
				}
			}
		}
	}
}

// TestFirstMatch: the first rule that matches is the record's; where none is, it is kept.
func TestFirstMatch(t *testing.T) {
	p, _ := example(t)
	at := instant(t, "2026-03-01T10:00:00Z")
	fact := func(change func(*policy.Facts)) policy.Facts {
		f := policy.Facts{EventType: cte.Receiving, Lot: "L1", EventTimestamp: at, CreatedOrObtainedAt: at.AddDate(0, 0, 3)}
		change(&f)
		return f
	}
	for _, c := range []struct {
		name string
		fact policy.Facts
		rule string
		due  string
		kept string
	}{
		// A label that a record lacks: its rule cannot be decided, and no other is taken.
		{"no label", fact(func(*policy.Facts) {}), "", "", "cannot be decided"},
		{"a label", fact(func(f *policy.Facts) { f.Labels = map[string]string{"audit": "no"} }), "receiving", "2028-03-04T10:00:00Z", ""},
		{"another event", fact(func(f *policy.Facts) { f.EventType, f.Labels = cte.Shipping, map[string]string{"audit": "no"} }), "everything", "2028-02-29T10:00:00Z", ""},
		{"another jurisdiction", fact(func(f *policy.Facts) { f.Labels = map[string]string{"audit": "no", "jurisdiction": "CA"} }), "everything", "2028-02-29T10:00:00Z", ""},
		{"an unknown jurisdiction", fact(func(f *policy.Facts) { f.Labels = map[string]string{"audit": "no", "jurisdiction": "MX"} }), "", "", policy.TaxonomyMismatch},
		{"a trigger that is not set", fact(func(f *policy.Facts) { f.Labels = map[string]string{"audit": "open"} }), "audit", "", "not set"},
		{"a trigger that is set", fact(func(f *policy.Facts) {
			f.Labels, f.Triggers = map[string]string{"audit": "open"}, map[string]time.Time{"date_of_final_audit_closure": at.AddDate(1, 0, 0)}
		}), "audit", "2029-03-01T10:00:00Z", ""},
	} {
		s := p.Schedule(c.fact)
		if s.Rule != c.rule || c.due != "" && cte.FormatTime(s.Due) != c.due || c.kept == "" && s.Kept != "" || !strings.Contains(s.Kept, c.kept) {
			t.Errorf("%s: %+v", c.name, s)
		}
		if c.kept != "" && (s.Due != policy.Never || s.Purge != policy.Never) {
			t.Errorf("%s: kept, and due %v, purge %v", c.name, s.Due, s.Purge)
		}
	}
	if s := p.Schedule(policy.Facts{EventType: cte.Shipping, EventTimestamp: at, LabelsUnknown: true}); !s.Unknown || s.Due != policy.Never {
		t.Errorf("without its labels the record has a rule: %+v", s)
	}
	none, err := policy.Parse("p", []byte(`{version: 1, name: p, rules: [{name: r, citation: c, match: 'lot == "L2"', action: archive}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if s := none.Schedule(fact(func(*policy.Facts) {})); s.Rule != "" || s.Due != policy.Never || !strings.Contains(s.Kept, "no rule") {
		t.Errorf("no rule matches: %+v", s)
	}
	if s := none.Schedule(fact(func(f *policy.Facts) { f.Lot = "L2" })); s.Rule != "r" || s.Purge != policy.Never {
		t.Errorf("archive alone: %+v", s)
	}
}

// TestHeldAsActive: the rule that keeps a record is the first that matches, or any that
// may, and only an event that is newer than the record's own and young enough counts.
func TestHeldAsActive(t *testing.T) {
	p, err := policy.Parse("p", []byte(`{version: 1, name: p, rules: [
		{name: labelled, citation: c, match: '"l" in labels', hold_while_lot_active: true, hot: P5Y, action: archive},
		{name: numbered, citation: c, match: 'lot.startsWith("N") && int(lot) > 5', hold_while_lot_active: true, hot: P4Y, action: archive},
		{name: shipping, citation: c, match: 'event_type == "shipping"', hold_while_lot_active: true, hot: P2Y, action: archive},
		{name: receiving, citation: c, match: 'event_type == "receiving"', action: archive},
		{name: rest, citation: c, hold_while_lot_active: true, hot: P3Y, action: archive}]}`))
	if err != nil {
		t.Fatal(err)
	}
	event := instant(t, "2024-09-01T10:00:00Z")
	facts := func(kind cte.EventType, lot string) policy.Facts {
		return policy.Facts{EventType: kind, Lot: lot, EventTimestamp: event, CreatedOrObtainedAt: event}
	}
	unlabelled := facts("receiving", "L")
	unlabelled.LabelsUnknown = true
	for _, c := range []struct {
		name   string
		facts  policy.Facts
		newest string
		now    string
		want   string
	}{
		{"young", facts("shipping", "L"), "2025-01-01T00:00:00Z", "2026-12-31T23:59:59Z", "shipping"},
		{"of age", facts("shipping", "L"), "2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z", ""},
		{"not a later rule's", facts("receiving", "L"), "2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z", ""},
		{"the last rule's", facts("cooling", "L"), "2025-01-01T00:00:00Z", "2027-12-31T23:59:59Z", "rest"},
		{"its own event", facts("shipping", "L"), "2024-09-01T10:00:00Z", "2024-09-02T10:00:00Z", ""},
		{"an older one", facts("shipping", "L"), "2024-08-31T10:00:00Z", "2024-09-02T10:00:00Z", ""},
		{"none", facts("shipping", "L"), "0001-01-01T00:00:00Z", "2024-09-02T10:00:00Z", ""},
		{"labels unknown", unlabelled, "2025-01-01T00:00:00Z", "2029-12-31T23:59:59Z", "labelled"},
		{"cannot be decided", facts("receiving", "N-x"), "2025-01-01T00:00:00Z", "2028-12-31T23:59:59Z", "numbered"},
	} {
		if got := p.HeldAsActive(c.facts, instant(t, c.newest), instant(t, c.now)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if days := policy.OfDays("days", 730, 1, ""); days.HoldsActiveLots() || !p.HoldsActiveLots() {
		t.Error("which policy holds active lots")
	}
}

func TestCanonical(t *testing.T) {
	p, text := example(t)
	// Logs name policies by this: a form that changes would make strangers of them.
	if want := "ec9bb2978e4ea7521bc67935f7dc0851e9ed6f35b4f9a40abfa651f0e48d0368"; p.Hash() != want {
		t.Errorf("the example's hash is %s, and was %s", p.Hash(), want)
	}
	again, err := policy.Parse("canonical", p.Canonical())
	if err != nil {
		t.Fatal(err)
	}
	if again.Hash() != p.Hash() || !bytes.Equal(again.Canonical(), p.Canonical()) {
		t.Errorf("the canonical form of\n%s\nis\n%s", p.Canonical(), again.Canonical())
	}
	for _, same := range []string{
		strings.Replace(string(text), "archive: P2W", "archive: P14D", 1), "# a comment\n" + string(text),
		strings.Replace(string(text), "  - name: everything", "  - name: everything\n    clock: event\n    hot: P730D", 1),
	} {
		if q, err := policy.Parse("p", []byte(same)); err != nil || q.Hash() != p.Hash() {
			t.Errorf("%v: the same policy has another hash:\n%s", err, same)
		}
	}
	for _, other := range []string{strings.Replace(string(text), "P2W", "P15D", 1), strings.Replace(string(text), "1.1345, ", "", 1)} {
		if q, err := policy.Parse("p", []byte(other)); err != nil || q.Hash() == p.Hash() {
			t.Errorf("%v: another policy has the same hash:\n%s", err, other)
		}
	}
	if got := p.Overdue(instant(t, "2027-06-30T23:00:00Z")); got != nil {
		t.Errorf("overdue on the day itself: %v", got)
	}
	if got := p.Overdue(instant(t, "2027-07-01T00:00:00Z")); len(got) != 1 || got[0] != "receiving" {
		t.Errorf("overdue: %v", got)
	}
}

// TestRefused: each bad policy is refused with what is wrong with it, and where.
func TestRefused(t *testing.T) {
	// rule is a file with one rule that has the given line, its line 6.
	rule := func(line string) string {
		return "version: 1\nname: p\nrules:\n  - name: r\n    citation: c\n    " + line + "\n    action: archive_then_shred\n"
	}
	for _, c := range []struct {
		name, file   string
		line, column int
		kind, want   string
	}{
		{"unknown field", rule("retain: P1Y"), 6, 5, "", "retain"},
		{"wrong type", rule("hold_while_lot_active: 12"), 6, 28, "", ""},
		{"a number for a text", rule("hot: 730"), 6, 10, "", "hot"},
		{"a boolean for an expression", rule("match: true"), 6, 12, "", "match"},
		{"a list for a text", rule("match: [a]"), 6, 12, "", ""},
		{"zero", rule("hot: P0D"), 6, 10, "", "longer than zero"},
		{"zero years", rule("archive: P0Y0M"), 6, 14, "", "longer than zero"},
		{"negative", rule("hot: -P1Y"), 6, 10, "", "no sign"},
		{"negative inside", rule("hot: P-1Y"), 6, 10, "", "no sign"},
		{"fraction", rule("hot: P1.5Y"), 6, 10, "", "fractions"},
		{"fraction with comma", rule("hot: 'P1,5Y'"), 6, 10, "", "fractions"},
		{"bare P", rule("hot: P"), 6, 10, "", "P alone"},
		{"hours", rule("hot: PT17520H"), 6, 10, "", "hours"},
		{"a bare T", rule("hot: P2YT"), 6, 10, "", "hours"},
		{"wrong order", rule("hot: P1D2Y"), 6, 10, "", "not a period"},
		{"too long", rule("hot: P500Y"), 6, 10, "", "at most 100 years"},
		{"CEL that does not compile", rule(`match: event_type ==`), 6, 0, "", ""},
		{"CEL with an unknown variable", rule(`match: lot == "a" || colour == "red"`), 6, 26, "", "colour"},
		{"the same, quoted", rule(`match: 'lot == "a" || colour == "red"'`), 6, 27, "", "colour"},
		{"the same, in a block", rule("match: |\n      lot == \"a\" ||\n      colour == \"red\""), 8, 7, "", "colour"},
		{"CEL of the wrong type", rule(`match: lot == 1`), 6, 16, "", ""},
		{"CEL that is not boolean", rule(`match: lot + product`), 6, 12, "", "must be true or false"},
		{"CEL that does not end", rule(`match: labels.all(a, labels.all(b, labels.all(c, labels.all(d, a + b != c + d))))`), 6, 12, "", "steps for one record"},
		{"unknown event type", rule(`match: event_type == "shipment"`), 6, 26, policy.TaxonomyMismatch, "shipment"},
		{"unknown event type in a list", rule(`match: event_type in ["shipping", "baking"]`), 6, 39, policy.TaxonomyMismatch, "baking"},
		{"unknown jurisdiction", rule(`match: '"MX" != jurisdiction'`), 6, 13, policy.TaxonomyMismatch, "MX"},
		{"unknown trigger", rule(`clock: trigger:full_moon`), 6, 12, policy.TaxonomyMismatch, "full_moon"},
		{"unknown clock", rule(`clock: ingest`), 6, 12, "", "no clock"},
		{"two names", rule("hot: P3Y") + "  - name: r\n    citation: c\n    action: archive\n", 8, 11, "", "two rules"},
		{"no action", "version: 1\nname: p\nrules:\n  - name: r\n    citation: c\n", 4, 5, "", "action"},
		{"an action of another name", "version: 1\nname: p\nrules:\n  - {name: r, citation: c, action: delete}\n", 4, 36, "", ""},
		{"no rules", "version: 1\nname: p\nrules: []\n", 3, 8, "", ""},
		{"another version", "version: 2\nname: p\nrules: [{name: r, citation: c, action: archive}]\n", 1, 10, "", ""},
		{"below the floor", rule("hot: P1Y"), 6, 10, policy.BelowFloor, "21 CFR 1.1455(d)"},
		{"a day below the floor", rule("hot: P730D\n    archive: P2D"), 7, 14, policy.BelowFloor, "2 years (21 CFR 1.1455(d))"},
		{"below the floor only of 28 February before a leap year", rule("hot: P2Y\n    archive: P2D"), 7, 14, policy.BelowFloor, "the law's floor is 2002-03-01, the date in other time zones, + 2 years (21 CFR 1.1455(d)) + 1 day = 2004-03-02"},
		{"a duplicate key", rule("hot: P2Y\n    hot: P3Y"), 7, 5, "", ""},
		{"an anchor", rule("hot: &a P2Y"), 6, 10, "", "anchors"},
		{"a bad day", rule("review_by: 2027-02-30"), 6, 16, "", "review_by"},
		{"a step that is nothing", rule("before: [{}]"), 6, 14, "", ""},
		{"two documents", rule("hot: P2Y") + "---\na: 1\n", 0, 0, "", "one document"},
		{"nothing", "", 0, 0, "", "one document"},
		{"no YAML", "version: [", 0, 0, "", ""},
		{"brackets", strings.Repeat("[", 5000), 0, 0, "", "brackets"},
		{"10 MB", strings.Repeat("#23456789\n", 1<<20), 0, 0, "", "at most 1048576"},
	} {
		_, err := policy.Parse("p.yaml", []byte(c.file))
		var e *policy.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.line != 0 && e.Line != c.line || c.column != 0 && e.Column != c.column || e.Kind != c.kind || !strings.Contains(e.Error(), c.want) {
			t.Errorf("%s: %v; want line %d, column %d, kind %q and %q", c.name, e, c.line, c.column, c.kind, c.want)
		}
		if strings.Contains(e.Error(), "\n") {
			t.Errorf("%s: more than a line: %v", c.name, e)
		}
	}
}

// TestSchema: what is published is what is checked by.
func TestSchema(t *testing.T) {
	published, err := os.ReadFile("../../docs/policy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(published, policy.Schema()) {
		t.Error("docs/policy.schema.json is not what lotkeeper policy schema prints")
	}
	var s struct {
		Required             []string
		AdditionalProperties *bool
	}
	if err := json.Unmarshal(published, &s); err != nil || len(s.Required) != 3 || s.AdditionalProperties == nil || *s.AdditionalProperties {
		t.Errorf("%+v, %v", s, err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("testdata/fsma.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{version: 1, name: p, rules: [{name: r, citation: c, match: 'lot == "a"', hot: P3Y, action: archive}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := policy.Parse("p", b)
		var e *policy.Error
		if err != nil {
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		again, err := policy.Parse("canonical", p.Canonical())
		if err != nil || again.Hash() != p.Hash() {
			t.Fatalf("%v: %s", err, p.Canonical())
		}
		at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		if s := p.Schedule(policy.Facts{EventTimestamp: at, CreatedOrObtainedAt: at}); s.Purge.Before(policy.NotBefore(at, at)) {
			t.Fatalf("%+v", s)
		}
	})
}
