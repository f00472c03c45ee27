package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadPolicies: a bad policy is refused with what is wrong with it and where, before
// anything changes, and the trail has nothing but the refusal.
func TestBadPolicies(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, "init")
	good := "version: 1\nname: good\nrules:\n  - name: r\n    citation: c\n    action: archive_then_shred\n"
	if err := os.WriteFile(filepath.Join(dir, "good.yaml"), []byte(good), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, "policy", "apply", "good.yaml")
	trail := func() string {
		return mustRun(t, dir, "audit", "log", "-o", "jsonl")
	}
	// rule is a file with one rule that has the given line, its line 6.
	rule := func(line string) string {
		return strings.Replace(good, "    action", "    "+line+"\n    action", 1)
	}
	for _, c := range []struct {
		name, file string
		code       int
		want       string // with its line and column
	}{
		{"an unknown field", rule("retain: P1Y"), exitUsage, `bad.yaml:6:5: unknown field "retain"`},
		{"a wrong type", rule("hold_while_lot_active: 12"), exitUsage, "bad.yaml:6:28: "},
		{"a period of zero", rule("hot: P0D"), exitUsage, `bad.yaml:6:10: rules[0].hot: "P0D": a period must be longer than zero`},
		{"a negative period", rule("archive: -P1Y"), exitUsage, `bad.yaml:6:14: rules[0].archive: "-P1Y": a period has no sign`},
		{"a fraction", rule("hot: P1.5Y"), exitUsage, `bad.yaml:6:10: rules[0].hot: "P1.5Y": a period has no fractions`},
		{"a bare P", rule("hot: P"), exitUsage, `bad.yaml:6:10: rules[0].hot: "P": a P alone is no period`},
		{"CEL that does not compile", rule("match: lot =="), exitUsage, "bad.yaml:6:18: rules[0].match: Syntax error"},
		{"CEL that is not boolean", rule("match: lot + product"), exitUsage, "bad.yaml:6:12: rules[0].match: the expression is string"},
		{"CEL that does not end", rule("match: labels.all(a, labels.all(b, labels.all(c, labels.all(d, a + b != c + d))))"), exitUsage, "bad.yaml:6:12: rules[0].match: the expression could take "},
		{"two rules of one name", good + "  - name: r\n    citation: c\n    action: archive\n", exitUsage, `bad.yaml:7:11: rules[1].name: two rules are called "r"`},
		{"an unknown event type", rule(`match: event_type == "shipment"`), exitUsage, `bad.yaml:6:26: taxonomy_mismatch: rules[0].match: there is no event_type "shipment"`},
		{"an unknown jurisdiction", rule(`match: jurisdiction == "MX"`), exitUsage, "bad.yaml:6:28: taxonomy_mismatch: "},
		{"an unknown trigger", rule("clock: trigger:full_moon"), exitUsage, "bad.yaml:6:12: taxonomy_mismatch: "},
		{"below the floor", rule("hot: P1Y"), exitRefused, "bad.yaml:6:10: below_floor: rules[0].hot: a record of 2000-01-01 would go at 2000-01-01 + 1 year + 1 year = 2002-01-01; the law's floor is 2000-01-01 + 2 years (21 CFR 1.1455(d)) + 2 days for time zones = 2002-01-03"},
		{"10 MB", strings.Repeat("#23456789\n", 1<<20), exitUsage, "bad.yaml: it is too long: a policy has at most 1048576 bytes"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "bad.yaml"), []byte(c.file), 0o644); err != nil {
			t.Fatal(err)
		}
		before := trail()
		cmd, _, stderr := lotkeeper(t, dir, "policy", "apply", "bad.yaml")
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: %v, want exit %d and %q, got\n%s", c.name, err, c.code, c.want, stderr)
		}
		added := strings.Split(strings.TrimSpace(strings.TrimPrefix(trail(), before)), "\n")
		if refusal := c.code == exitRefused; len(added) != 1 || refusal != strings.Contains(added[0], `"action":"refused"`) || !refusal && added[0] != "" {
			t.Errorf("%s left %q in the trail", c.name, added)
		}
		if got := mustRun(t, dir, "policy", "show", "-o", "json"); !strings.Contains(got, `"name": "good"`) || !strings.Contains(got, `"in_force": true`) {
			t.Errorf("%s: in force is %s", c.name, got)
		}
	}
}
