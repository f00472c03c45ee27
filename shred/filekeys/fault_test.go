package filekeys

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/shred"
	"github.com/lotkeeper/lotkeeper/shred/keystoretest"
)

// recorder is a source of keys that remembers every one it gave.
type recorder struct {
	r     *rand.ChaCha8
	drawn [][]byte // the reads of 32 bytes: roots and class keys
}

func newRecorder() *recorder { return &recorder{r: rand.NewChaCha8([32]byte{1})} }

func (r *recorder) Read(b []byte) (int, error) {
	r.r.Read(b)
	if len(b) == 32 {
		r.drawn = append(r.drawn, bytes.Clone(b))
	}
	return len(b), nil
}

// world is a keyring on some file system, with what it must hold.
type world struct {
	t    *testing.T
	fs   FS // without faults
	dir  string
	o    Options
	rec  *recorder
	live map[string][32]byte // MACs of the keys that must open
	gone []string            // that must never
}

// newWorld makes a keyring with live keys a, b, c and the destroyed z.
func newWorld(t *testing.T, files FS, at string, mirrors int) *world {
	w := &world{t: t, fs: files, dir: filepath.Join(at, "keyring"), rec: newRecorder(), live: map[string][32]byte{}}
	for i := range mirrors {
		w.o.Mirrors = append(w.o.Mirrors, filepath.Join(at, fmt.Sprintf("mirror%d", i+1)))
	}
	w.o.Rand = w.rec
	w.o.FS = files
	return w
}

func (w *world) populate() {
	w.t.Helper()
	s, err := Create(w.dir, w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := s.Create(w.t.Context(), []string{"a", "b", "c", "z"}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := s.Destroy(w.t.Context(), keystoretest.Permit(w.t, "z")); err != nil {
		w.t.Fatal(err)
	}
	w.gone = []string{"z"}
	for _, id := range []string{"a", "b", "c"} {
		k, err := s.Open(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		w.live[id] = k.MAC("l", nil)
	}
}

// fork is the same world on a file system of its own.
func (w *world) fork(t *testing.T) *world {
	f := *w
	f.t, f.fs = t, w.fs.(*memFS).clone()
	f.live, f.gone = maps.Clone(w.live), slices.Clone(w.gone)
	f.rec = newRecorder()
	f.rec.r.Seed([32]byte{2}) // other keys than those drawn before
	f.rec.drawn = slices.Clone(w.rec.drawn)
	f.o.FS, f.o.Rand = f.fs, f.rec
	return &f
}

// holds checks what must be true whenever a store could be opened.
func (w *world) holds(s *Store) {
	w.t.Helper()
	for id, mac := range w.live {
		k, err := s.Open(w.t.Context(), id)
		if err != nil {
			w.t.Errorf("live key %q is lost: %v", id, err)
		} else if k.MAC("l", nil) != mac {
			w.t.Errorf("live key %q has changed", id)
		}
	}
	for _, id := range w.gone {
		if _, err := s.Open(w.t.Context(), id); !errors.Is(err, shred.ErrDestroyed) {
			w.t.Errorf("destroyed key %q: %v, want ErrDestroyed", id, err)
		}
	}
}

// clean checks the files after a success: every copy holds one generation, the same,
// and no file holds a key that was drawn before, the current root apart.
func (w *world) clean() {
	w.t.Helper()
	s, err := newStore(w.dir, w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	var root []byte
	for _, r := range s.read() {
		if r.err != nil {
			w.t.Errorf("%s: %v", r.path, r.err)
			continue
		}
		if root != nil && !bytes.Equal(root, r.gen.root[:]) {
			w.t.Errorf("%s: differs from another copy", r.path)
		}
		root = r.gen.root[:]
		if stale, err := r.stale(r.gen); err != nil || len(stale) > 0 {
			w.t.Errorf("%s: left over: %q, %v", r.path, stale, err)
		}
	}
	search := func(name string, b []byte) {
		for _, key := range w.rec.drawn {
			if bytes.Contains(b, key) && !bytes.Equal(key, root) {
				w.t.Errorf("%s holds a key that should be gone", name)
			}
		}
	}
	if m, ok := w.fs.(*memFS); ok {
		m.files(search)
		return
	}
	err = filepath.WalkDir(filepath.Dir(w.dir), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		search(p, b)
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

// operation is a call that changes files. done notes what must hold once it has
// succeeded.
type operation struct {
	name string
	run  func(t *testing.T, s *Store) error
	done func(w *world, s *Store)
}

var operations = []operation{
	{"Create",
		func(t *testing.T, s *Store) error {
			_, err := s.Create(t.Context(), []string{"a", "new", "newer"})
			return err
		},
		func(w *world, s *Store) {
			for _, id := range []string{"new", "newer"} {
				k, err := s.Open(w.t.Context(), id)
				if err != nil {
					w.t.Errorf("created key %q: %v", id, err)
					continue
				}
				w.live[id] = k.MAC("l", nil)
			}
		}},
	{"Destroy",
		func(t *testing.T, s *Store) error {
			_, err := s.Destroy(t.Context(), keystoretest.Permit(t, "a", "z", "b"))
			return err
		},
		func(w *world, s *Store) {
			delete(w.live, "a")
			delete(w.live, "b")
			w.gone = []string{"a", "b", "z"}
		}},
}

// may removes from the world what an unfinished operation may or may not have done: the
// keys that it was destroying must be the same if they open, but need not open.
func (w *world) may(s *Store, op string) {
	w.t.Helper()
	if op != "Destroy" {
		return
	}
	for _, id := range []string{"a", "b"} {
		mac, ok := w.live[id]
		k, err := s.Open(w.t.Context(), id)
		switch {
		case err == nil && ok && k.MAC("l", nil) != mac:
			w.t.Errorf("key %q has changed", id)
		case err != nil && !errors.Is(err, shred.ErrDestroyed):
			w.t.Errorf("key %q: %v", id, err)
		}
		if err != nil && ok {
			// Now it has been seen destroyed: from here on it stays so.
			delete(w.live, id)
			w.gone = append(w.gone, id)
		}
	}
}

// stride is 1: every call. With -short, as under the race detector, it is a sample.
func stride() int {
	if testing.Short() {
		return 6
	}
	return 1
}

// TestFaults fails each call of each operation in each way, recovers with a sound file
// system, and repeats the operation.
func TestFaults(t *testing.T) {
	for mirrors := range 3 {
		start := newWorld(t, newMemFS(), "/d", mirrors)
		start.populate()
		for _, op := range operations {
			for _, f := range faults {
				t.Run(fmt.Sprintf("%d mirrors/%s/%s", mirrors, op.name, f.name), func(t *testing.T) {
					reached := 0 // the last call that met a fault: with a stride, more than were failed
					for at := 1; ; at += stride() {
						hit := false
						// The same process goes on, or another one comes after it; on a
						// disk, or on one that loses what was not synced.
						for _, sameProcess := range []bool{true, false} {
							for _, cut := range []float64{-1, 0, 0.5, 1} {
								if sameProcess && (f.dies || cut >= 0) {
									continue
								}
								hit = faultOnce(t, start, op, at, f, sameProcess, cut) || hit
							}
						}
						if t.Failed() {
							t.Fatalf("with the fault at call %d", at)
						}
						if !hit {
							break
						}
						reached = at
					}
					if reached < 20*(mirrors+1) {
						t.Errorf("the operation makes only %d calls", reached)
					}
				})
			}
		}
	}
}

// faultOnce reports whether the operation made enough calls to meet the fault. cut is
// the share of what was not synced that survives; below 0 the power stays on.
func faultOnce(t *testing.T, start *world, op operation, at int, f fault, sameProcess bool, cut float64) bool {
	t.Helper()
	w := start.fork(t)
	mem := w.fs.(*memFS)
	faulty := &faultFS{FS: mem}
	o := w.o
	o.FS = faulty
	s, err := Open(w.dir, o)
	if err != nil {
		t.Fatal(err)
	}
	faulty.calls, faulty.log, faulty.at, faulty.fault = 0, nil, at, f
	err = op.run(t, s)
	hit := faulty.reached()
	if err == nil {
		op.done(w, mustOpen(t, w)) // from here on it must survive whatever comes
		w.clean()
	} else if !hit {
		t.Fatalf("no fault, but: %v", err)
	}

	if sameProcess {
		faulty.at = 0
	} else {
		if f.dies {
			mem.held = map[string]bool{} // the system releases the locks of the dead
		}
		if cut >= 0 {
			r := rand.New(rand.NewPCG(uint64(at), 0))
			mem.powerCut(func() bool { return r.Float64() < cut })
		}
		if s, err = Open(w.dir, w.o); err != nil {
			t.Fatalf("couldn't open after %v: %v", last(faulty.log, at), err)
		}
	}
	w.may(s, op.name)
	w.holds(s)
	if err := op.run(t, s); err != nil {
		t.Fatalf("couldn't repeat after %v: %v", last(faulty.log, at), err)
	}
	op.done(w, s)
	w.holds(s)
	w.holds(mustOpen(t, w))
	w.clean()
	return hit
}

func last(log []string, at int) string {
	if at > len(log) {
		return "nothing"
	}
	return log[at-1]
}

func mustOpen(t *testing.T, w *world) *Store {
	t.Helper()
	s, err := Open(w.dir, w.o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFaultsInRecovery has the process die in an operation, and the next one die while
// it settles what the first has left.
func TestFaultsInRecovery(t *testing.T) {
	for mirrors := range 3 {
		step := 1 + 2*mirrors // all pairs of calls without mirrors, a part of them with
		start := newWorld(t, newMemFS(), "/d", mirrors)
		start.populate()
		for _, op := range operations {
			t.Run(fmt.Sprintf("%d mirrors/%s", mirrors, op.name), func(t *testing.T) {
				for at := 1; ; at += stride() {
					reached := false
					for again := 1 + at%step; ; again += step {
						w := start.fork(t)
						mem := w.fs.(*memFS)
						r := rand.New(rand.NewPCG(uint64(at), uint64(again)))
						faulty := &faultFS{FS: mem}
						die := func(at int) {
							*faulty = faultFS{FS: mem, at: at, fault: fault{done: r.IntN(2) == 0, dies: true}}
							faulty.fault.fails = !faulty.fault.done
						}
						cut := func() {
							mem.powerCut(func() bool { return r.IntN(2) == 0 })
						}
						o := w.o
						o.FS = faulty
						s, err := Open(w.dir, o)
						if err != nil {
							t.Fatal(err)
						}
						die(at)
						acked := op.run(t, s) == nil
						reached = faulty.reached()
						cut()
						if acked {
							op.done(w, mustOpen(t, w))
						}
						die(again)
						Open(w.dir, o)
						inRecovery := faulty.reached()
						cut()
						s = mustOpen(t, w)
						w.may(s, op.name)
						w.holds(s)
						if err := op.run(t, s); err != nil {
							t.Fatal(err)
						}
						op.done(w, s)
						w.holds(mustOpen(t, w))
						w.clean()
						if t.Failed() {
							t.Fatalf("died at call %d, then at call %d of the recovery", at, again)
						}
						if !inRecovery {
							break
						}
					}
					if !reached {
						break
					}
				}
			})
		}
	}
}

// TestFaultsInNewKeyring: Create of a keyring can be called again, or has been done.
func TestFaultsInNewKeyring(t *testing.T) {
	for mirrors := range 3 {
		for _, f := range faults {
			for _, cut := range []float64{-1, 0, 0.5, 1} {
				for at := 1; ; at += stride() {
					mem := newMemFS()
					w := newWorld(t, mem, "/d", mirrors)
					faulty := &faultFS{FS: mem, at: at, fault: f}
					o := w.o
					o.FS = faulty
					_, err := Create(w.dir, o)
					acked := err == nil
					if cut >= 0 {
						r := rand.New(rand.NewPCG(uint64(at), 0))
						mem.powerCut(func() bool { return r.Float64() < cut })
					}
					mem.held = map[string]bool{}
					_, err = Create(w.dir, w.o)
					if acked != errors.Is(err, fs.ErrExist) && (acked || err != nil) && !errors.Is(err, fs.ErrExist) {
						t.Errorf("%d mirrors, %s at %s: Create again: %v", mirrors, f.name, last(faulty.log, at), err)
					}
					s, err := Open(w.dir, w.o)
					if err != nil {
						t.Fatalf("%d mirrors, %s at %s: Open: %v", mirrors, f.name, last(faulty.log, at), err)
					}
					if _, err := s.Create(t.Context(), []string{"a"}); err != nil {
						t.Fatalf("%d mirrors, %s at %s: %v", mirrors, f.name, last(faulty.log, at), err)
					}
					w.clean()
					if !faulty.reached() {
						break
					}
				}
			}
		}
	}
}

// unsyncedFS is the real one, without waiting for the disk.
type unsyncedFS struct{ osFS }

func (unsyncedFS) SyncDir(string) error { return nil }

func (unsyncedFS) Create(p string) (File, error) {
	f, err := osFS{}.Create(p)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ File }

func (unsyncedFile) Sync() error { return nil }

// TestFaultsOnDisk repeats the faults of a rotation on the real file system.
func TestFaultsOnDisk(t *testing.T) {
	for _, op := range operations {
		for _, f := range faults {
			t.Run(op.name+"/"+strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
				for at := 1; ; at += stride() {
					tmp := t.TempDir()
					w := newWorld(t, unsyncedFS{}, tmp, 1)
					w.populate()
					faulty := &faultFS{FS: unsyncedFS{}}
					o := w.o
					o.FS = faulty
					s, err := Open(w.dir, o)
					if err != nil {
						t.Fatal(err)
					}
					faulty.calls, faulty.at, faulty.fault = 0, at, f
					if err := op.run(t, s); err == nil {
						w.clean()
					}
					hit := faulty.reached()
					s = mustOpen(t, w)
					w.may(s, op.name)
					w.holds(s)
					if err := op.run(t, s); err != nil {
						t.Fatal(err)
					}
					op.done(w, s)
					w.holds(mustOpen(t, w))
					w.clean()
					os.RemoveAll(tmp)
					if t.Failed() {
						t.Fatalf("with the fault at call %d", at)
					}
					if !hit {
						break
					}
				}
			})
		}
	}
}
