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
	"unicode/utf8"
)

// The demo tells its whole story on 80 columns, and leaves nothing outside its
// directory.
func TestDemo(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	t.Setenv("TMPDIR", filepath.Join(root, "tmp"))
	if err := os.Mkdir("tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	demo := func(args ...string) (int, string, string) {
		var out, messages bytes.Buffer
		a := &app{in: strings.NewReader(""), out: bufio.NewWriter(&out), err: &messages, width: 80, now: time.Now, getenv: os.Getenv, progress: newProgress(io.Discard, false)}
		code := run(context.Background(), a, append([]string{"demo"}, args...))
		return code, out.String(), messages.String()
	}
	code, out, messages := demo("--dir", "here")
	if code != exitDone {
		t.Fatalf("ended with %d: %s\n%s", code, messages, out)
	}
	for _, want := range []string{"$ lotkeeper sweep --dry-run", "status    open", "shredded  5", "held      7", "key is destroyed", "everything is as it was taken in", "mismatches  2", "unreadable"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		// The path of the directory is as long as it is.
		if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > 80 && !strings.Contains(line, root) {
			t.Errorf("wider than 80 columns: %s", line)
		}
	}
	for _, dir := range []string{".", "tmp"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "here" && e.Name() != "tmp" {
				t.Errorf("the demo left %s in %s", e.Name(), dir)
			}
		}
	}
	if code, _, messages := demo("--dir", "here"); code != exitFailed || !strings.Contains(messages, "not empty") {
		t.Errorf("a second demo in the same directory: %d %s", code, messages)
	}
}
