package dir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
)

var (
	errFault = errors.New("injected fault")
	body     = bytes.Repeat([]byte("sealed "), 10_000)
)

const key = "segments/2028-11/seg-a.age"

func putOptions(v *Vault) archive.PutOptions {
	return archive.PutOptions{
		SHA256: sha256.Sum256(body), Size: int64(len(body)),
		Mode: archive.Compliance, RetainUntil: v.now().Add(time.Hour),
	}
}

// How one call of the file system fails.
type mode int

const (
	refused    mode = iota // it does nothing and says so; the process goes on
	unreported             // it takes effect and reports an error; the process goes on
	before                 // the process dies before it
	after                  // the process dies after it
	modes
)

func (m mode) String() string { return [...]string{"refused", "unreported", "before", "after"}[m] }

// A faultyFS fails its nth call.
type faultyFS struct {
	filesystem
	n, calls int
	mode     mode
	dead     bool
	trace    []string
}

func (f *faultyFS) call(name string, do func() error) error {
	if f.dead {
		return errFault
	}
	f.calls++
	f.trace = append(f.trace, name)
	if f.calls != f.n {
		return do()
	}
	if f.mode == before || f.mode == after {
		f.dead = true
	}
	if f.mode == unreported || f.mode == after {
		_ = do()
	}
	return errFault
}

func (f *faultyFS) Create(name string) (file, error) {
	var created file
	err := f.call("create", func() (err error) { created, err = f.filesystem.Create(name); return err })
	if err != nil {
		if created != nil {
			created.Close()
		}
		return nil, err
	}
	return &faultyFile{created, f}, nil
}

func (f *faultyFS) Link(from, to string) error {
	return f.call("link", func() error { return f.filesystem.Link(from, to) })
}
func (f *faultyFS) Rename(from, to string) error {
	return f.call("rename", func() error { return f.filesystem.Rename(from, to) })
}
func (f *faultyFS) Remove(name string) error {
	return f.call("remove", func() error { return f.filesystem.Remove(name) })
}
func (f *faultyFS) Mkdir(name string) error {
	return f.call("mkdir", func() error { return f.filesystem.Mkdir(name) })
}
func (f *faultyFS) SyncDir(name string) error {
	return f.call("syncdir", func() error { return f.filesystem.SyncDir(name) })
}
func (f *faultyFS) Lstat(name string) (info fs.FileInfo, err error) {
	err = f.call("lstat", func() (err error) { info, err = f.filesystem.Lstat(name); return err })
	return info, err
}
func (f *faultyFS) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = f.call("readdir", func() (err error) { entries, err = f.filesystem.ReadDir(name); return err })
	return entries, err
}

type faultyFile struct {
	file
	fs *faultyFS
}

// Write fails half way.
func (f *faultyFile) Write(p []byte) (n int, err error) {
	err = f.fs.call("write", func() (err error) { n, err = f.file.Write(p); return err })
	if err != nil && !f.fs.dead {
		n, _ = f.file.Write(p[:len(p)/2])
	}
	return n, err
}
func (f *faultyFile) Sync() error { return f.fs.call("sync", f.file.Sync) }
func (f *faultyFile) Close() error {
	err := f.fs.call("close", func() error { return nil })
	return errors.Join(err, f.file.Close())
}

// whole checks that a key is absent, or there with all its bytes and its lock.
func whole(t *testing.T, v *Vault, until time.Time) (there bool) {
	t.Helper()
	info, err := v.Stat(t.Context(), key, "")
	if errors.Is(err, archive.ErrNotFound) {
		if _, _, err := v.Get(t.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("absent, but Get says %v", err)
		}
		for version, err := range v.Versions(t.Context(), "") {
			t.Errorf("absent, but Versions lists %+v, %v", version, err)
		}
		return false
	}
	if err != nil {
		t.Errorf("neither absent nor whole: %v", err)
		return true
	}
	got, err := os.ReadFile(v.object(key))
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes of %d, %v", len(got), len(body), err)
	}
	if info.Mode != archive.Compliance || info.RetainUntil.Before(until) {
		t.Errorf("locked in mode %q until %v, not %v", info.Mode, info.RetainUntil, until)
	}
	if err := v.Delete(t.Context(), key, info.VersionID); !errors.Is(err, archive.ErrLocked) {
		t.Errorf("its lock does not hold: %v", err)
	}
	return true
}

func stale(t *testing.T, v *Vault) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(v.own("tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func newTestVault(t *testing.T, clock *vaulttest.Clock, path string) *Vault {
	t.Helper()
	v, err := Create(path, "local", options(clock))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Every call of a Put fails, in every way: the object is absent or whole with
// its lock, nothing temporary stays, and the same Put again works.
func TestPutFaults(t *testing.T) {
	clean := &faultyFS{filesystem: osFS{}}
	v := newTestVault(t, vaulttest.NewClock(start), t.TempDir())
	v.fs = clean
	if _, err := v.Put(t.Context(), key, bytes.NewReader(body), putOptions(v)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls: %s", clean.calls, strings.Join(clean.trace, " "))

	for n := 1; n <= clean.calls; n++ {
		for mode := range modes {
			t.Run(fmt.Sprintf("%d-%s-%s", n, clean.trace[n-1], mode), func(t *testing.T) {
				clock := vaulttest.NewClock(start)
				path := t.TempDir()
				v := newTestVault(t, clock, path)
				faulty := &faultyFS{filesystem: osFS{}, n: n, mode: mode}
				v.fs = faulty
				o := putOptions(v)
				_, err := v.Put(t.Context(), key, bytes.NewReader(body), o)
				if err != nil && !errors.Is(err, errFault) {
					t.Errorf("Put: %v", err)
				}

				again, openErr := Open(path, "local", options(clock))
				if openErr != nil {
					t.Fatal(openErr)
				}
				if left := stale(t, again); len(left) > 0 {
					t.Errorf("Open left %v", left)
				}
				there := whole(t, again, o.RetainUntil)
				if err == nil && !there {
					t.Error("Put succeeded, but the object is absent")
				}
				_, err = again.Put(t.Context(), key, bytes.NewReader(body), o)
				if there && !errors.Is(err, archive.ErrExists) || !there && err != nil {
					t.Errorf("there: %v, but Put again: %v", there, err)
				}
				if !whole(t, again, o.RetainUntil) {
					t.Error("absent after Put again")
				}
				if left := stale(t, again); len(left) > 0 {
					t.Errorf("Put left %v", left)
				}
			})
		}
	}
}

// The same for what changes an object that is there: its lock is the old one or
// the new one, and a Delete has removed it or not.
func TestChangeFaults(t *testing.T) {
	for name, change := range map[string]func(*Vault, string, time.Time) error{
		"Retain": func(v *Vault, id string, until time.Time) error {
			return v.Retain(t.Context(), key, id, until.Add(time.Hour))
		},
		"SetLegalHold": func(v *Vault, id string, _ time.Time) error {
			return v.SetLegalHold(t.Context(), key, id, true)
		},
		"Delete": func(v *Vault, id string, until time.Time) error {
			v.now = func() time.Time { return until.Add(time.Second) }
			return v.Delete(t.Context(), key, id)
		},
	} {
		for n := 1; ; n++ {
			done := false
			for mode := range modes {
				t.Run(fmt.Sprintf("%s-%d-%s", name, n, mode), func(t *testing.T) {
					clock := vaulttest.NewClock(start)
					path := t.TempDir()
					v := newTestVault(t, clock, path)
					o := putOptions(v)
					o.RetainUntil = archive.WholeSecond(o.RetainUntil)
					put, err := v.Put(t.Context(), key, bytes.NewReader(body), o)
					if err != nil {
						t.Fatal(err)
					}
					faulty := &faultyFS{filesystem: osFS{}, n: n, mode: mode}
					v.fs = faulty
					err = change(v, put.VersionID, o.RetainUntil)
					done = faulty.calls < n
					if err == nil != done {
						t.Errorf("%s: %v", name, err)
					}
					again, err := Open(path, "local", options(clock))
					if err != nil {
						t.Fatal(err)
					}
					if there := whole(t, again, o.RetainUntil); !there && name != "Delete" {
						t.Error("the object is gone")
					}
					if name == "Delete" {
						if !done {
							return
						}
						_, err := again.Stat(t.Context(), key, "")
						if !errors.Is(err, archive.ErrNotFound) {
							t.Errorf("deleted, but %v", err)
						}
						return
					}
					if err := change(again, put.VersionID, o.RetainUntil); err != nil {
						t.Errorf("%s again: %v", name, err)
					}
				})
			}
			if done {
				break
			}
		}
	}
}

// Every call of Create fails: called again, it finishes, unless it was finished.
func TestCreateFaults(t *testing.T) {
	for n := 1; ; n++ {
		done := false
		for mode := range modes {
			t.Run(fmt.Sprintf("%d-%s", n, mode), func(t *testing.T) {
				clock := vaulttest.NewClock(start)
				path := filepath.Join(t.TempDir(), "vault")
				faulty := &faultyFS{filesystem: osFS{}, n: n, mode: mode}
				_, err := create(path, "local", options(clock), faulty)
				done = faulty.calls < n
				if err != nil && !errors.Is(err, errFault) {
					t.Errorf("Create: %v", err)
				}
				if _, err := Create(path, "local", options(clock)); err != nil && !errors.Is(err, fs.ErrExist) {
					t.Errorf("Create again: %v", err)
				}
				v, err := Open(path, "local", options(clock))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := v.Put(t.Context(), key, bytes.NewReader(body), putOptions(v)); err != nil {
					t.Error(err)
				}
				whole(t, v, start)
			})
		}
		if done {
			break
		}
	}
}

// A journalFS works on the real file system and notes what each call would
// leave on a disk that keeps only what was synced.
type journalFS struct {
	osFS
	root  string
	steps []step
	files map[string]*inode // by the name it has now
}

// A step puts a name into a directory (or takes it out), or makes all earlier
// steps in a directory durable.
type step struct {
	folder, name string
	to           *inode // nil: taken out
	sync         bool
}

// An inode has the steps at which it was written last and synced first after.
type inode struct {
	folder  bool
	content []byte
	synced  int // number of steps there were; -1: never
}

func (j *journalFS) note(name string, to *inode) {
	j.steps = append(j.steps, step{folder: filepath.Dir(name), name: filepath.Base(name), to: to})
	if to == nil {
		delete(j.files, name)
	} else {
		j.files[name] = to
	}
}

func (j *journalFS) Create(name string) (file, error) {
	f, err := j.osFS.Create(name)
	if err != nil {
		return nil, err
	}
	node := &inode{synced: -1}
	j.note(name, node)
	return &journalFile{file: f, fs: j, node: node}, nil
}

func (j *journalFS) Link(from, to string) error {
	if err := j.osFS.Link(from, to); err != nil {
		return err
	}
	j.note(to, j.files[from])
	return nil
}

func (j *journalFS) Rename(from, to string) error {
	if err := j.osFS.Rename(from, to); err != nil {
		return err
	}
	node := j.files[from]
	j.note(to, node)
	j.note(from, nil)
	return nil
}

func (j *journalFS) Remove(name string) error {
	if err := j.osFS.Remove(name); err != nil {
		return err
	}
	j.note(name, nil)
	return nil
}

func (j *journalFS) Mkdir(name string) error {
	if err := j.osFS.Mkdir(name); err != nil {
		return err
	}
	if j.files[name] == nil {
		j.note(name, &inode{folder: true})
	}
	return nil
}

func (j *journalFS) SyncDir(name string) error {
	j.steps = append(j.steps, step{folder: name, sync: true})
	return j.osFS.SyncDir(name)
}

type journalFile struct {
	file
	fs   *journalFS
	node *inode
}

func (f *journalFile) Write(p []byte) (int, error) {
	f.node.content = append(f.node.content, p...)
	f.node.synced = -1
	return f.file.Write(p)
}

func (f *journalFile) Sync() error {
	f.node.synced = len(f.fs.steps)
	return f.file.Sync()
}

// lose rebuilds, in the folder to, what a power cut after the first n steps may
// leave: everything synced, and of the rest whatever keep says.
func (j *journalFS) lose(t *testing.T, to string, n int, keep func() bool) {
	t.Helper()
	names := make(map[string]*inode)
	for i, s := range j.steps[:n] {
		durable := slices.ContainsFunc(j.steps[i:n], func(later step) bool { return later.sync && later.folder == s.folder })
		if s.sync || !durable && !keep() {
			continue
		}
		if name := filepath.Join(s.folder, s.name); s.to == nil {
			delete(names, name)
		} else {
			names[name] = s.to
		}
	}
	order := make([]string, 0, len(names))
	for name := range names {
		order = append(order, name)
	}
	slices.Sort(order) // folders before what is in them
	for _, name := range order {
		rel, err := filepath.Rel(j.root, name)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(to, rel)
		node := names[name]
		if node.folder {
			err = os.Mkdir(target, 0o700)
		} else {
			content := node.content
			if node.synced < 0 || node.synced > n {
				content = content[:len(content)/3]
			}
			err = os.WriteFile(target, content, 0o400)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // in a folder that was lost
			t.Fatal(err)
		}
	}
}

// The power fails at any point of a vault's life, and the disk keeps only what
// was synced, or any part of the rest too. Objects are absent or whole with their
// lock; what a call had reported done is done.
func TestPowerCuts(t *testing.T) {
	clock := vaulttest.NewClock(start)
	root := t.TempDir()
	j := &journalFS{root: root, files: make(map[string]*inode)}
	path := filepath.Join(root, "vault")
	v, err := create(path, "local", options(clock), j)
	if err != nil {
		t.Fatal(err)
	}
	created := len(j.steps)
	o := putOptions(v)
	put, err := v.Put(t.Context(), key, bytes.NewReader(body), o)
	if err != nil {
		t.Fatal(err)
	}
	stored := len(j.steps)
	longer := archive.WholeSecond(o.RetainUntil.Add(time.Hour))
	if err := v.Retain(t.Context(), key, put.VersionID, longer); err != nil {
		t.Fatal(err)
	}
	retained := len(j.steps)
	v.now = func() time.Time { return longer }
	if err := v.Delete(t.Context(), key, put.VersionID); err != nil {
		t.Fatal(err)
	}
	deleted := len(j.steps)
	t.Logf("created, stored, retained, deleted after %d, %d, %d, %d steps", created, stored, retained, deleted)

	r := rand.New(rand.NewPCG(1, 2))
	keeps := map[string]func() bool{
		"nothing else": func() bool { return false },
		"everything":   func() bool { return true },
	}
	for i := range 20 {
		keeps[fmt.Sprintf("part %d", i)] = func() bool { return r.IntN(2) == 0 }
	}
	for n := 0; n <= deleted; n++ {
		for name, keep := range keeps {
			disk := t.TempDir()
			j.lose(t, disk, n, keep)
			at := fmt.Sprintf("after %d of %d steps, kept %s", n, deleted, name)
			disk = filepath.Join(disk, "vault")
			v, err := Open(disk, "local", options(clock))
			if err != nil {
				if n >= created {
					t.Errorf("%s: created, but %v", at, err)
				}
				if v, err = Create(disk, "local", options(clock)); err != nil {
					t.Errorf("%s: Create: %v", at, err)
					continue
				}
			}
			until := o.RetainUntil
			if n >= retained {
				until = longer
			}
			there := whole(t, v, until)
			if n >= stored && n <= retained && !there {
				t.Errorf("%s: the object is lost", at)
			}
			if n == deleted && there {
				t.Errorf("%s: a deleted object is back", at)
			}
			if !there {
				if _, err := v.Put(t.Context(), key, bytes.NewReader(body), o); err != nil {
					t.Errorf("%s: Put: %v", at, err)
				}
				whole(t, v, o.RetainUntil)
			}
			if t.Failed() {
				t.Fatalf("%s", at)
			}
		}
	}
}

// intruderFS has somebody without the flock write the object just before it is
// linked.
type intruderFS struct{ osFS }

func (i intruderFS) Mkdir(name string) error {
	err := i.osFS.Mkdir(name)
	if err == nil && strings.HasSuffix(name, "segments/2028-11") && !strings.Contains(name, own) {
		err = os.WriteFile(filepath.Join(name, filepath.Base(key)), []byte("intruder"), 0o600)
	}
	return err
}

// Not even a file that came from nowhere is replaced.
func TestPutNeverReplaces(t *testing.T) {
	v := newTestVault(t, vaulttest.NewClock(start), t.TempDir())
	v.fs = intruderFS{}
	_, err := v.Put(t.Context(), key, bytes.NewReader(body), putOptions(v))
	if !errors.Is(err, archive.ErrExists) {
		t.Errorf("Put: %v", err)
	}
	if got, err := os.ReadFile(v.object(key)); err != nil || string(got) != "intruder" {
		t.Errorf("the file is now %q, %v", got, err)
	}
}
