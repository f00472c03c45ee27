package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

var tick = lifecycle.Leaf{At: storetest.Start, Action: "tick"}

// TestPermissions: nobody else may read the database or anything beside it,
// whatever the umask allows.
func TestPermissions(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	dir := t.TempDir()
	s, err := Create(t.Context(), filepath.Join(dir, "lotkeeper.db"), 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Place(t.Context(), lifecycle.Placement{Hold: lifecycle.Hold{ID: "h-1", PlacedAt: storetest.Start}, Leaf: tick}); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ingest", "sweep"} {
		if _, err := s.BeginRun(t.Context(), lifecycle.Run{ID: "run-" + kind, Kind: kind, StartedAt: storetest.Start}, tick); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]fs.FileMode{
		"lotkeeper.db": 0o600, "lotkeeper.db-wal": 0o600, "lotkeeper.db-shm": 0o600, "locks": fs.ModeDir | 0o700,
		"locks/hold": 0o600, "locks/write": 0o600, "locks/ingest": 0o600, "locks/sweep": 0o600,
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if m, ok := want[name]; !ok || m != info.Mode() {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), m)
		}
		delete(want, name)
		return nil
	})
	if err != nil || len(want) > 0 {
		t.Errorf("%v; not there: %v", err, want)
	}
}

func TestPaths(t *testing.T) {
	for _, name := range []string{"plain", "with space", "question?mark", "query?mode=memory&x=1", "per%41cent", "100%", "ha#sh", "a&b=c;d+e", "ünï-名前-🥬", "file:x", ":memory:", "quote'\"", `back\slash`} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name+".db")
		s, err := Create(t.Context(), path, 0, storetest.Init())
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if err := s.Append(t.Context(), tick); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 2 {
			t.Errorf("%q: beside the database and its locks there is %v, %v", name, entries, err)
		}
		if s, err = Open(t.Context(), path); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if info, err := s.Info(t.Context()); err != nil || info.NewestLeaf.Action != "tick" {
			t.Errorf("%q: %+v, %v", name, info, err)
		}
		s.Close()
	}
	// A relative path is of the directory that it was opened in.
	t.Chdir(t.TempDir())
	s, err := Create(t.Context(), "lotkeeper.db", 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	t.Chdir(t.TempDir())
	if err := s.Append(t.Context(), tick); err != nil {
		t.Error(err)
	}
}

// TestOpenRefuses: whatever is not a database of ours is refused, and left as it
// is, with nothing beside it.
func TestOpenRefuses(t *testing.T) {
	foreign := func(t *testing.T, path string) {
		db := raw(t, path)
		if _, err := db.Exec(`CREATE TABLE meta (one); INSERT INTO meta VALUES (1)`); err != nil {
			t.Fatal(err)
		}
		db.Close()
	}
	write := func(content string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	unfinished := func(pragmas ...string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			s, err := open(t.Context(), path, pragmas...)
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			os.RemoveAll(filepath.Join(filepath.Dir(path), "locks"))
		}
	}
	marked := func(t *testing.T, path string) {
		db := raw(t, path)
		if _, err := db.Exec(fmt.Sprintf(`PRAGMA application_id = %d`, applicationID)); err != nil {
			t.Fatal(err)
		}
		db.Close()
	}
	newer := func(t *testing.T, path string) {
		s, err := Create(t.Context(), path, 0, storetest.Init())
		if err != nil {
			t.Fatal(err)
		}
		exec(t, s, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)`)
		s.Close()
	}
	for _, c := range []struct {
		name    string
		make    func(*testing.T, string)
		is      error
		says    string
		touches bool // it is ours, and may be written to
	}{
		{name: "missing", make: func(*testing.T, string) {}, is: fs.ErrNotExist},
		{name: "empty", make: write(""), is: ErrUnfinished},
		{name: "text", make: write("not a database\n"), says: "not a Lotkeeper database"},
		{name: "long text", make: write(strings.Repeat("SQLite format 3\x00", 1000)), says: "not a Lotkeeper database"},
		{name: "directory", make: func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, says: "directory"},
		{name: "another's", make: foreign, says: "not a Lotkeeper database"},
		{name: "another's, with our tables", make: unfinished(), says: "not a Lotkeeper database"},
		{name: "cut off after the mark", make: marked, is: ErrUnfinished, touches: true},
		{name: "cut off after the tables", make: unfinished(fmt.Sprintf("application_id(%d)", applicationID)), is: ErrUnfinished, touches: true},
		{name: "newer", make: newer, says: "use a newer lotkeeper", touches: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "lotkeeper.db")
			c.make(t, path)
			before, _ := os.ReadFile(path)
			was, _ := os.ReadDir(dir)
			s, err := Open(t.Context(), path)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v", err)
			}
			if c.touches {
				return
			}
			after, _ := os.ReadFile(path)
			is, _ := os.ReadDir(dir)
			if !bytes.Equal(after, before) || len(is) != len(was) {
				t.Errorf("the file was changed, or has company: %v", is)
			}
		})
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lotkeeper.db")
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Create(done, path, 0, storetest.Init()); !errors.Is(err, context.Canceled) {
		t.Errorf("created with a context that is done: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 1 {
		t.Errorf("a failed Create left %v, %v", entries, err)
	}
	s, err := Create(t.Context(), path, 7, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Create(t.Context(), path, 8, storetest.Init()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	if info, err := s.Info(t.Context()); err != nil || info.Epoch != 7 {
		t.Errorf("the second Create changed the first's: %+v, %v", info, err)
	}
	if _, err := Create(t.Context(), filepath.Join(dir, "none", "lotkeeper.db"), 0, storetest.Init()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("created in no directory: %v", err)
	}
}

// TestStoredTimes: what was edited is not read as another time, least of all as
// one long ago.
func TestStoredTimes(t *testing.T) {
	for _, text := range []any{
		"", "0", " ", nil, int64(0), 1.5, []byte("2022-09-14T08:30:00.000000000Z"), time.Time{},
		"2022-09-14T08:30:00Z", "2022-09-14T08:30:00.00000000Z", "2022-09-14T08:30:00.0000000000Z", "2022-09-14T08:30:00,000000000Z",
		"2022-09-14T8:30:00.0000000000Z", "2022-09-14T8:30:00.000000000Z", "2022-09-14 08:30:00.000000000Z", "2022-09-14T08:30:00.000000000z",
		"2022-09-31T08:30:00.000000000Z", "2022-13-14T08:30:00.000000000Z", "2022-09-14T24:00:00.000000000Z", "2022-09-14T08:30:60.000000000Z",
		"02022-09-14T08:30:00.000000000Z", "-022-09-14T08:30:00.000000000Z", "2022-09-14T08:30:00.000000000+00:00",
	} {
		var got time.Time
		if err := at(&got).Scan(text); err == nil {
			t.Errorf("%#v reads as %s", text, got)
		}
		if err := maybeAt(&got).Scan(text); (err == nil) != (text == "") {
			t.Errorf("%#v, which may be missing: %v", text, err)
		}
	}
	s := create(t)
	fillTables(t, s)
	exec(t, s, `DROP TRIGGER records_immutable`, `DROP TRIGGER records_rescheduled`, `UPDATE records SET event_at = '' WHERE seq = 1`, `UPDATE records SET due_at = '1999' WHERE seq = 2`, `UPDATE records SET checksum = zeroblob(31) WHERE seq = 3`)
	for i := 1; i <= 3; i++ {
		if r, err := s.Row(t.Context(), fmt.Sprint("record-", i)); err == nil || errors.Is(err, lifecycle.ErrNotFound) {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestNothingIsLeft: neither a connection of a sequence that was broken off nor a
// transaction of a call that failed.
func TestNothingIsLeft(t *testing.T) {
	s := create(t)
	fillTables(t, s)
	idle := func(after string) {
		t.Helper()
		if n := s.r.Stats().InUse + s.w.Stats().InUse; n > 0 {
			t.Errorf("after %s %d connections are in use", after, n)
		}
	}
	for range 20 {
		for range s.Rows(t.Context(), lifecycle.Query{}) {
			break
		}
		for range s.Sealed(t.Context(), lifecycle.Query{}) {
			break
		}
	}
	idle("breaking off")
	func() {
		defer func() { _ = recover() }()
		for range s.Sealed(t.Context(), lifecycle.Query{}) {
			panic("the loop's body")
		}
	}()
	idle("a panic in a loop")
	fault := errors.New("a fault")
	if err := s.write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
		if _, err := appendLeaf(ctx, tx, tick); err != nil {
			t.Error(err)
		}
		return fault
	}); err != fault {
		t.Errorf("%v, want the fault and nothing about the rollback", err)
	}
	idle("a fault")
	func() {
		defer func() { _ = recover() }()
		_ = s.write(t.Context(), func(context.Context, *sql.Tx) error { panic("in a transaction") })
	}()
	idle("a panic")
	if ls, err := s.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{"tick"}}); err != nil || len(ls) > 0 {
		t.Errorf("%+v, %v", ls, err)
	}
	if err := s.Append(t.Context(), tick); err != nil {
		t.Error(err)
	}
	// Cancelled once it has begun, it is done, and says so.
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		cancel()
		_, err := appendLeaf(ctx, tx, tick)
		return err
	}); err != nil {
		t.Error(err)
	}
	idle("a context that ended within")
	if ls, err := s.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{"tick"}}); err != nil || len(ls) != 2 {
		t.Errorf("%+v, %v", ls, err)
	}
}

// TestBusy: another program that holds SQLite's own lock, past the gate, is
// waited for, and reads go on meanwhile.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lotkeeper.db")
	s, err := Create(t.Context(), path, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db := raw(t, path)
	if _, err := db.Exec(`BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error)
	go func() { wrote <- s.Append(t.Context(), tick) }()
	for range 100 {
		if _, err := s.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-wrote:
		t.Fatalf("written past the lock: %v", err)
	default:
	}
	if _, err := db.Exec(`COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}
