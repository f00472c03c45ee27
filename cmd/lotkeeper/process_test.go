package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// lotkeeper prepares a run of the program itself in a directory. TestMain is the
// program when it is started under its name.
func lotkeeper(t *testing.T, dir string, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	path, err := exec.LookPath("lotkeeper") // testscript has put it there
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), path, args...)
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, stdout, stderr
	cmd.Env = append(os.Environ(), "COLUMNS=80")
	return cmd, stdout, stderr
}

func mustRun(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd, stdout, stderr := lotkeeper(t, dir, args...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stderr)
	}
	return stdout.String()
}

const line = `{"record_id":"%s","traceability_lot_code":"L","event_timestamp":"2022-09-14T08:30:00Z","kde_payload":{"a":1}}` + "\n"

// A first signal ends a command in order, also one that waits for a pipe; what
// it has taken in by then is in, and the next run goes on from there.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, "init")
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGTERM} {
		fifo := filepath.Join(dir, "fifo-"+sig.String())
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd, stdout, stderr := lotkeeper(t, dir, "ingest", fifo, "-o", "json")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Opening a pipe waits until the other side has it open too, so from here
		// on the program is past its start.
		w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, line, "r1")
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		w.Close()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
			t.Fatalf("%v: %v\n%s", sig, err, stderr)
		}
		if !strings.Contains(stderr.String(), "lotkeeper: error: interrupted\nlotkeeper: hint: ") {
			t.Errorf("%v: %s", sig, stderr)
		}
		if !strings.Contains(stdout.String(), `"read": `) {
			t.Errorf("%v: the counts are missing: %s", sig, stdout)
		}
	}
	if got := mustRun(t, dir, "run", "list", "-o", "csv"); strings.Count(got, ",failed,") != 2 {
		t.Errorf("runs:\n%s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "again"), []byte(fmt.Sprintf(line, "r1")), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, "ingest", "again")
	mustRun(t, dir, "sweep")
	mustRun(t, dir, "verify")
}

// Nobody reads the output: the command ends quietly, and a sweep has still swept.
func TestClosedOutput(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, "init")
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte(fmt.Sprintf(line, "r1")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ingest", "in"}, {"export"}, {"record", "list", "-o", "json"}, {"report", "checksums", "-o", "csv"}, {"sweep"}, {"verify"}, {"--help"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd, _, stderr := lotkeeper(t, dir, args...)
		cmd.Stdout = w
		if err := cmd.Run(); err != nil || stderr.Len() > 0 {
			t.Errorf("%v: %v %s", args, err, stderr)
		}
		w.Close()
	}
	if got := mustRun(t, dir, "record", "list", "-o", "csv"); !strings.Contains(got, ",archived,") {
		t.Errorf("the sweep did not sweep:\n%s", got)
	}
	// A full disk is another matter.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full here")
	}
	defer full.Close()
	cmd, _, stderr := lotkeeper(t, dir, "export")
	cmd.Stdout = full
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "no space") {
		t.Errorf("%v %s", err, stderr)
	}
}

// The log is for people on a terminal, with colour unless NO_COLOR asks for none,
// and JSON lines everywhere else.
func TestLog(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, "init")
	for name, want := range map[string]struct {
		env             []string
		terminal, color bool
	}{
		"terminal": {nil, true, true},
		"NO_COLOR": {[]string{"NO_COLOR=1"}, true, false},
		"file":     {nil, false, false},
	} {
		cmd, _, stderr := lotkeeper(t, dir, "--log-level", "debug", "sweep", "--accept-clock")
		cmd.Env = append(cmd.Env, want.env...)
		got := stderr.String
		if want.terminal {
			pty, tty := openTerminal(t)
			cmd.Stderr = tty
			var seen bytes.Buffer
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(&seen, pty) // ends with EIO once nobody has the terminal open
			}()
			got = func() string { tty.Close(); <-done; return seen.String() }
		}
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v %s", name, err, got())
		}
		out := got()
		if !strings.Contains(out, "clock accepted") {
			t.Errorf("%s: nothing was logged: %q", name, out)
		}
		if strings.Contains(out, "\x1b[") != want.color {
			t.Errorf("%s: colour: %q", name, out)
		}
		if strings.HasPrefix(out, `{"level":"info"`) == want.terminal {
			t.Errorf("%s: %q", name, out)
		}
	}
}

// openTerminal makes a pseudo-terminal.
func openTerminal(t *testing.T) (pty, tty *os.File) {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { pty.Close() })
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return pty, tty
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{fmt.Errorf("write: %w", unix.EPIPE), 0},
		{errors.New("anything"), 1},
		{context.Canceled, 1},
		{lifecycle.ErrNotFound, 1},
		{usagef("x"), 2},
		{&findings{"x", ""}, 3},
		{fmt.Errorf("record r: %w", errHeld), 4},
		{fmt.Errorf("couldn't begin: %w", lifecycle.ErrLocked), 5},
		{errors.Join(lifecycle.ErrFenced, errors.New("and more")), 5},
		{fmt.Errorf("x: %w", &lifecycle.Refused{}), 6},
		// The worse of two: refused beats findings, a failure to print beats none.
		{errors.Join(&findings{"x", ""}, &lifecycle.Refused{}), 6},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}
