package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// readScopes is what a command makes of its flags for scopes.
func readScopes(stdin string, args ...string) (scopes []lifecycle.Scope, typed string, err error) {
	a := &app{in: strings.NewReader(stdin)}
	var f scopeFlags
	cmd := &cobra.Command{
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := errors.Join(noneEmpty(cmd.Flags()), check(&f))
			if err == nil {
				scopes, err = a.scopes(context.Background(), &f)
			}
			return err
		},
		SilenceErrors: true, SilenceUsage: true,
	}
	f.register(cmd)
	cmd.SetArgs(args)
	err = cmd.Execute()
	return scopes, f.typed(), err
}

func TestScopes(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 11, d, 0, 0, 0, 0, time.UTC) }
	type scopes = []lifecycle.Scope
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        scopes
	}{
		{"a lot", "", []string{"--lot", "A"}, scopes{{TLC: "A"}}},
		{"a lot and its source", "", []string{"--lot", "A", "--tlc-source", "S"}, scopes{{TLC: "A", TLCSource: "S"}}},
		{"two lots", "", []string{"--lot", "A", "--lot", "B,C", "--trace", "both"}, scopes{{TLC: "A", Trace: lifecycle.Both}, {TLC: "B,C", Trace: lifecycle.Both}}},
		{"a real code", "", []string{"--lot", "GTIN: 314141999995 4856APR0227"}, scopes{{TLC: "GTIN: 314141999995 4856APR0227"}}},
		{"the beginning of one", "", []string{"--lot", "GTIN: 3*"}, scopes{{TLCPrefix: "GTIN: 3"}}},
		{"a * inside is nothing else", "", []string{"--lot", "A*B"}, scopes{{TLC: "A*B"}}},
		{"a record, not traced", "", []string{"--record", "r", "--trace", "none"}, scopes{{RecordID: "r"}}},
		{"lots and records with a condition", "", []string{"--lot", "A", "--record", "r", "--location", "L", "--tlc-source", "S"},
			scopes{{TLC: "A", TLCSource: "S", Location: "L"}, {RecordID: "r", Location: "L"}}},
		{"conditions alone", "", []string{"--product", "P", "--event-type", "shipping", "--from", "2026-11-01", "--to", "2026-11-07"},
			scopes{{Product: "P", EventType: "shipping", From: day(1), To: day(8)}}},
		{"all", "", []string{"--all"}, scopes{{All: true}}},
		{"a file", "\uFEFF# the recall\nA\n\n  B \t S \r\nC*\tS2\n\t\n#D\nE\t\n", []string{"--lots-file", "-", "--tlc-source", "S0", "--trace", "forward"},
			scopes{{TLC: "A", TLCSource: "S0", Trace: lifecycle.Forward}, {TLC: "B", TLCSource: "S", Trace: lifecycle.Forward}, {TLCPrefix: "C", TLCSource: "S2", Trace: lifecycle.Forward}, {TLC: "E", TLCSource: "S0", Trace: lifecycle.Forward}}},
		{"a file without a last newline", "A", []string{"--lots-file", "-", "--lot", "B"}, scopes{{TLC: "B"}, {TLC: "A"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := readScopes(test.stdin, test.args...)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("%v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestScopesRefused(t *testing.T) {
	long := strings.Repeat("x", 513)
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"nothing", "", nil, "missing: --lot or another condition"},
		{"a trace of nothing", "", []string{"--trace", "both"}, "missing: --lot"},
		{"an empty lot", "", []string{"--lot", ""}, "--lot is empty"},
		{"an empty lot among others", "", []string{"--lot", "A", "--lot", ""}, "--lot is empty"},
		{"an empty location", "", []string{"--location", ""}, "--location is empty"},
		{"every lot", "", []string{"--lot", "*"}, "to hold all records there is --all"},
		{"a newline", "", []string{"--lot", "A\nB"}, "--lot contains a control character"},
		{"an escape", "", []string{"--record", "\x1b[2J"}, "--record contains a control character"},
		{"long", "", []string{"--lot", long}, "--lot is longer than 512"},
		{"a source of no lot", "", []string{"--tlc-source", "S", "--location", "L"}, "--tlc-source needs --lot"},
		{"all and more", "", []string{"--all", "--lot", "A"}, "takes no other condition"},
		{"all, traced", "", []string{"--all", "--trace", "forward"}, "takes no other condition"},
		{"no time at all", "", []string{"--from", "2026-11-02", "--to", "2026-11-01"}, "is not before"},
		{"no such trace", "", []string{"--lot", "A", "--trace", "up"}, "--trace must be one of forward, backward, both, none, not \"up\""},
		{"no such event", "", []string{"--event-type", "sales"}, "--event-type must be one of harvesting"},
		{"no file", "", []string{"--lots-file", "no/such"}, "couldn't read no/such: no such file"},
		{"an empty file", "\n# nothing\n", []string{"--lots-file", "-"}, "stdin: there is no lot in it"},
		{"a source alone", "A\n\tS\n", []string{"--lots-file", "-"}, "stdin:2: it has a source and no lot code"},
		{"three columns", "A\tS\tx\n", []string{"--lots-file", "-"}, "stdin:1: it has more than a code, a tab and a source"},
		{"every lot of a source", "A\n\n*\tS\n", []string{"--lots-file", "-"}, "stdin:3: * alone"},
		{"latin-1", "Chilo\xe9\n", []string{"--lots-file", "-"}, "stdin:1: it is not UTF-8"},
		{"NUL", "A\x00\n", []string{"--lots-file", "-"}, "stdin:1: it contains a control character"},
		{"long line", long + "\n", []string{"--lots-file", "-"}, "stdin:1: a code or a source is longer"},
		{"many bad lines", strings.Repeat("\tS\n", 7), []string{"--lots-file", "-"}, "stdin:5: it has a source and no lot code\nand 2 more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := readScopes(test.stdin, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, %v, want %s", got, err, test.want)
			}
		})
	}
}

// What a hint repeats is what was typed, for any shell.
func TestScopesTyped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lots")
	if err := os.WriteFile(file, []byte("A\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, got, err := readScopes("", "--trace", "both", "--lot", "it's *", "--lot", "B", "--lots-file", file, "--to", "2026-11-01")
	want := `--lot 'it'\''s *' --lot B --lots-file ` + file + ` --to 2026-11-01 --trace both`
	if err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if _, got, err := readScopes("", "--all"); err != nil || got != "--all" {
		t.Errorf("%s, %v", got, err)
	}
}
