package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"github.com/rivo/uniseg"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// Whatever the program makes must be private under the loosest umask too.
	unix.Umask(0)
	testscript.Main(m, map[string]func(){"lotkeeper": main})
}

// TestScripts runs testdata/*.txt, each headed by what it guards.
func TestScripts(t *testing.T) {
	where := testscript.Params{Dir: "testdata"}
	if testing.Short() {
		// A sample: under the race detector each process takes its time to start.
		where = testscript.Params{Files: []string{"testdata/textbook.txt", "testdata/keyring.txt", "testdata/verify.txt"}}
	}
	testscript.Run(t, testscript.Params{
		Dir: where.Dir, Files: where.Files,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LOTKEEPER_SAMPLES", os.Getenv("LOTKEEPER_SAMPLES"))
			env.Setenv("COLUMNS", "80")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "samples" {
				return os.Getenv("LOTKEEPER_SAMPLES") != "", nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":    cmdCode,
			"json":    cmdJSON,
			"capture": cmdCapture,
			"now":     cmdNow,
			"modes":   cmdModes,
			"flip":    cmdFlip,
			"lock":    cmdLock,
			"open":    cmdOpen,
			"absent":  cmdAbsent,
			"fits":    cmdFits,
			"bytes":   cmdBytes,
			"sql":     cmdSQL,
		},
	})
}

func must(ts *testscript.TestScript, neg bool, ok bool, usage string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

// code N COMMAND...: the command ends with exactly this exit code.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) >= 2, "code N command...")
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want := args[0]; strconv.Itoa(got) != want {
		ts.Fatalf("exit code %d, want %s", got, want)
	}
}

// at finds a value in the JSON of the last command's standard output. A path is
// names and indices with dots between; "len" is a length.
func at(ts *testscript.TestScript, path string) any {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	var v any
	ts.Check(d.Decode(&v))
	if d.More() {
		ts.Fatalf("standard output has more than one JSON value")
	}
	for _, step := range strings.Split(strings.Trim(path, "."), ".") {
		switch x := v.(type) {
		case map[string]any:
			field, ok := x[step]
			if !ok {
				ts.Fatalf("%s: there is no field %q", path, step)
			}
			v = field
		case []any:
			if step == "len" {
				v = json.Number(strconv.Itoa(len(x)))
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(x) {
				ts.Fatalf("%s: no element %s in an array of %d", path, step, len(x))
			}
			v = x[i]
		default:
			ts.Fatalf("%s: %q leads into a %T", path, step, v)
		}
	}
	return v
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// json PATH WANT [PATH WANT]...: compares values of the JSON on standard output.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, false, len(args) > 0 && len(args)%2 == 0, "[!] json path want...")
	for i := 0; i < len(args); i += 2 {
		if got := text(at(ts, args[i])); (got == args[i+1]) == neg {
			ts.Fatalf("%s is %q, want %q", args[i], got, args[i+1])
		}
	}
}

// capture NAME PATH: an environment variable from the JSON on standard output.
func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) == 2, "capture name path")
	ts.Setenv(args[0], text(at(ts, args[1])))
}

// now NAME OFFSET: an environment variable with the time so far from now. There
// is no other clock in the program, on purpose.
func cmdNow(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) == 2, "now name offset")
	d, err := time.ParseDuration(args[1])
	ts.Check(err)
	ts.Setenv(args[0], time.Now().UTC().Add(d).Format(time.RFC3339))
}

// modes PATH...: directories are 0700, files 0600 or, in a vault, 0400.
func cmdModes(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) > 0, "modes path...")
	for _, dir := range args {
		ts.Check(filepath.WalkDir(ts.MkAbs(dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			switch mode := info.Mode(); {
			case mode == fs.ModeDir|0o700, mode == 0o600:
			case mode == 0o400 && strings.Contains(path, "/vault/"):
			default:
				return fmt.Errorf("%s has mode %v", path, mode)
			}
			return nil
		}))
	}
}

// flip FILE OFFSET: changes one byte of a read-only file, from its end if the
// offset is negative, as somebody who owns the disk can.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) == 2, "flip file offset")
	path := ts.MkAbs(args[0])
	info, err := os.Stat(path)
	ts.Check(err)
	b, err := os.ReadFile(path)
	ts.Check(err)
	i, err := strconv.Atoi(args[1])
	ts.Check(err)
	if i < 0 {
		i += len(b)
	}
	b[i] ^= 1
	ts.Check(os.Chmod(path, 0o600))
	ts.Check(os.WriteFile(path, b, 0o600))
	ts.Check(os.Chmod(path, info.Mode()))
}

// lock PATH: takes the flock of a file or directory until the script ends.
func cmdLock(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) == 1, "lock file")
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(unix.Flock(int(f.Fd()), unix.LOCK_EX))
	ts.Defer(func() { f.Close() })
}

// open IDENTITY OBJECT OUT: age -d -i IDENTITY OBJECT | zstd -d > OUT, by the
// libraries themselves.
func cmdOpen(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, false, len(args) == 3, "[!] open identity object out")
	ids, err := age.ParseIdentities(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	f, err := os.Open(ts.MkAbs(args[1]))
	ts.Check(err)
	defer f.Close()
	r, err := age.Decrypt(f, ids...)
	var other *age.NoIdentityMatchError
	if neg {
		if !errors.As(err, &other) {
			ts.Fatalf("the identity opens it, or: %v", err)
		}
		return
	}
	ts.Check(err)
	z, err := zstd.NewReader(r)
	ts.Check(err)
	b, err := io.ReadAll(z)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b, 0o600))
}

// absent TEXT PATH...: no file at or below the paths contains the text.
func cmdAbsent(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) >= 2, "absent text path...")
	for _, root := range args[1:] {
		ts.Check(filepath.WalkDir(ts.MkAbs(root), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err == nil && bytes.Contains(b, []byte(args[0])) {
				err = fmt.Errorf("%s contains %q", path, args[0])
			}
			return err
		}))
	}
}

// fits N [FILE]...: no line is wider than N columns, and none could move a
// terminal's cursor.
func cmdFits(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) >= 2, "fits n file...")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for _, name := range args[1:] {
		for line := range strings.Lines(ts.ReadFile(name)) {
			line = strings.TrimSuffix(line, "\n")
			if w := uniseg.StringWidth(line); w > n {
				ts.Fatalf("%s: %d columns: %s", name, w, line)
			}
			if line != printable(line) {
				ts.Fatalf("%s: not safe to show: %q", name, line)
			}
		}
	}
}

// bytes FILE GOSTRING...: writes what a script cannot hold, such as NUL bytes.
// "N*TEXT" repeats.
func cmdBytes(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) >= 2, "bytes file text...")
	var b strings.Builder
	for _, a := range args[1:] {
		n := 1
		if count, rest, ok := strings.Cut(a, "*"); ok {
			if i, err := strconv.Atoi(count); err == nil {
				n, a = i, rest
			}
		}
		s, err := strconv.Unquote(`"` + strings.ReplaceAll(a, `"`, `\"`) + `"`)
		ts.Check(err)
		b.WriteString(strings.Repeat(s, n))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o600))
}

// sql DATA STATEMENT...: does to the database in a data directory what its owner can,
// with the triggers gone and put back.
func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	must(ts, neg, len(args) >= 2, "sql data statement...")
	db, err := sql.Open("sqlite", "file:"+filepath.Join(ts.MkAbs(args[0]), "lotkeeper.db"))
	ts.Check(err)
	defer db.Close()
	db.SetMaxOpenConns(1) // so that the pragma holds for what follows
	rows, err := db.Query(`SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'`)
	ts.Check(err)
	defer rows.Close()
	before, after := []string{`PRAGMA foreign_keys = 0`}, []string(nil)
	for rows.Next() {
		var name, create string
		ts.Check(rows.Scan(&name, &create))
		before, after = append(before, `DROP TRIGGER `+name), append(after, create)
	}
	ts.Check(rows.Err())
	for _, s := range slices.Concat(before, args[1:], after) {
		if _, err := db.Exec(s); err != nil {
			ts.Fatalf("%s: %v", s, err)
		}
	}
}
