package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// atTerminal is an app whose messages go to a terminal, as far as it knows.
func atTerminal(dir string, messages io.Writer) (*app, *bytes.Buffer) {
	var out bytes.Buffer
	a := &app{in: strings.NewReader(""), out: bufio.NewWriter(&out), err: messages, width: 80, now: time.Now,
		getenv: func(name string) string { return map[string]string{"LOTKEEPER_DATA": dir}[name] }, progress: newProgress(io.Discard, true)}
	return a, &out
}

// Whoever waits at a terminal is told that the hold stands before the vaults are
// asked to confirm it; and an interrupt while they are says nothing else.
func TestStandsBeforeConfirmed(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, "init")
	in := filepath.Join(dir, "in")
	if err := os.WriteFile(in, []byte(fmt.Sprintf(line, "r1")), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, "ingest", in)
	mustRun(t, dir, "sweep")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages := &interrupting{at: " stands: ", cancel: cancel}
	a, out := atTerminal(filepath.Join(dir, "lotkeeper-data"), messages)
	code := run(ctx, a, []string{"hold", "place", "--lot", "L", "--kind", "recall", "--reason", "x"})
	said := messages.String()
	if code != exitFindings || !strings.Contains(out.String(), "PARTIAL") {
		t.Errorf("ended with %d:\n%s\n%s", code, out, said)
	}
	stands, partial := strings.Index(said, " stands: from now on nothing that it covers is shredded or purged"), strings.Index(said, " is PARTIAL: ")
	if stands < 0 || partial < stands || strings.Contains(said, "no hold is known") {
		t.Errorf("it said:\n%s", said)
	}
	if got := mustRun(t, dir, "hold", "list", "-o", "csv"); !strings.Contains(got, ",partial,") {
		t.Errorf("the hold does not stand:\n%s", got)
	}
	a, _ = atTerminal(filepath.Join(dir, "lotkeeper-data"), io.Discard)
	if code := run(t.Context(), a, []string{"sweep"}); code != exitDone {
		t.Errorf("the sweep that completes it ended with %d", code)
	}
}

// interrupting is like somebody who presses Ctrl-C when they read something.
type interrupting struct {
	bytes.Buffer
	at     string
	cancel func()
}

func (i *interrupting) Write(b []byte) (int, error) {
	if strings.Contains(string(b), i.at) {
		i.cancel()
	}
	return i.Buffer.Write(b)
}

// What a small database cannot show: a reply that came too late for some records,
// or that did not wait for the counts.
func TestPlaceTable(t *testing.T) {
	for _, test := range []struct {
		res  lifecycle.PlaceResult
		want string
	}{
		{lifecycle.PlaceResult{HoldID: "hold-1", Status: "open"}, `
hold    hold-1
covers  not counted yet
status  open
`},
		{lifecycle.PlaceResult{
			HoldID: "hold-1", Counted: true, Covered: 40, Archived: 12, TooLate: 3, Status: "partial",
			Late:   []lifecycle.LateView{{Class: "archive-2025-11-1", DestroyedAt: "2026-12-02T03:04:05.6Z", Receipt: 812, Records: 3}},
			Vaults: []lifecycle.VaultHolds{{Vault: "a", Confirmed: 2}, {Vault: "b", Confirmed: 1, Missing: 1, Problem: "refused"}},
		}, `
hold      hold-1
covers    40 records, 12 of them in the archive
too late  3 records
status    PARTIAL

TOO LATE           DESTROYED AT          RECEIPT   RECORDS
archive-2025-11-1  2026-12-02 03:04:05Z  leaf 812        3

VAULT  CONFIRMED   MISSING
a      2 segments        0
b      1 segment         1
`},
	} {
		var b bytes.Buffer
		a := &app{out: bufio.NewWriter(&b), width: 80}
		s := &screen{a: a}
		placeTable(s, test.res)
		a.out.Flush()
		if got := "\n" + b.String(); got != test.want {
			t.Errorf("%s\nwant:%s", got, test.want)
		}
	}
}
