package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nested runs a command in this process, with the wait given.
func nested(t *testing.T, dir string, wait func(context.Context, time.Duration) bool, args ...string) (code int, stdout string) {
	t.Helper()
	var out, messages bytes.Buffer
	a := &app{
		in: strings.NewReader(""), out: bufio.NewWriter(&out), err: &messages, width: 80, now: time.Now, wait: wait,
		getenv: func(string) string { return "" }, progress: newProgress(io.Discard, false),
	}
	code = run(t.Context(), a, append([]string{"--data", filepath.Join(dir, "data"), "--actor", "tester"}, args...))
	if messages.Len() > 0 {
		t.Logf("%v: %s", args, &messages)
	}
	return code, out.String()
}

// audit log -f shows what comes, each entry once, until it is interrupted.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	if err := os.WriteFile(in, []byte(strings.ReplaceAll(line, "%s", "r1")), 0o600); err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) {
		t.Helper()
		if code, _ := nested(t, dir, nil, args...); code != exitDone {
			t.Fatalf("%v ended with %d", args, code)
		}
	}
	do("init")
	// The first time nothing is there at first, then one of the holds placed before.
	for i, format := range []string{"jsonl", "table", "csv"} {
		polls := 0
		code, out := nested(t, dir, func(_ context.Context, d time.Duration) bool {
			if d != time.Second {
				t.Errorf("it waits %s", d)
			}
			switch polls++; polls {
			case 1, 3:
				if code, _ := nested(t, dir, nil, "hold", "place", "--all", "--kind", "recall", "--reason", "x"); code != exitDone && code != exitFindings {
					t.Errorf("hold place ended with %d", code)
				}
			case 5:
				return false
			}
			return true
		}, "audit", "log", "--follow", "--action", "hold-placed", "--limit", "1", "-o", format)
		if polls != 5 || code != exitDone {
			t.Fatalf("%s: %d polls, code %d", format, polls, code)
		}
		if got, want := strings.Count(out, "hold-placed"), 2+min(i, 1); got != want {
			t.Errorf("%s: %d entries, want %d:\n%s", format, got, want, out)
		}
	}
	// With nothing there at first, a table still has room for what comes.
	first := true
	_, out := nested(t, dir, func(context.Context, time.Duration) bool {
		if !first {
			return false
		}
		first = false
		do("ingest", in)
		return true
	}, "audit", "log", "-f", "--action", "ingested")
	if !strings.Contains(out, "  ingested\n") || strings.Contains(out, "…") {
		t.Errorf("followed:\n%s", out)
	}
}
