package filekeys

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lotkeeper/lotkeeper/shred"
	"github.com/lotkeeper/lotkeeper/shred/keystoretest"
)

func TestSuite(t *testing.T) {
	suite := func(t *testing.T, place func(t testing.TB) (dir string, o Options)) {
		keystoretest.Exercise(t, func(t testing.TB) keystoretest.Opener {
			dir, o := place(t)
			s, err := Create(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			return func(t testing.TB) shred.KeyStore {
				s, err := Open(dir, o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
		})
	}
	t.Run("disk", func(t *testing.T) {
		suite(t, func(t testing.TB) (string, Options) { return place(t, 1) })
	})
	for mirrors := range 3 {
		t.Run(strconv.Itoa(mirrors)+" mirrors", func(t *testing.T) {
			suite(t, func(t testing.TB) (string, Options) {
				o := Options{FS: newMemFS()}
				for i := range mirrors {
					o.Mirrors = append(o.Mirrors, "/d/mirror"+strconv.Itoa(i+1))
				}
				return "/d/keyring", o
			})
		})
	}
}

// place returns where on the disk a new keyring can be made.
func place(t testing.TB, mirrors int) (dir string, o Options) {
	tmp := t.TempDir()
	for i := range mirrors {
		o.Mirrors = append(o.Mirrors, filepath.Join(tmp, "mirror"+strconv.Itoa(i+1)))
	}
	return filepath.Join(tmp, "keyring"), o
}

// keyring makes one on the disk with live keys a and b and the destroyed z.
func keyring(t *testing.T, mirrors int) *world {
	w := newWorld(t, osFS{}, t.TempDir(), mirrors)
	w.populate()
	return w
}

func copyDirectory(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(to, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return errors.Join(err, os.Chmod(p, 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, want error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", parts)
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("error %q is not %q", err, want)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q doesn't say %q", err, part)
		}
	}
}

func TestModes(t *testing.T) {
	w := keyring(t, 1)
	for _, dir := range []string{w.dir, w.o.Mirrors[0]} {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			if info.Mode().Perm() != want {
				t.Errorf("%s has mode %04o, want %04o", p, info.Mode().Perm(), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusesWhatOthersCanRead(t *testing.T) {
	w := keyring(t, 1)
	gen := (&generation{epoch: 3}).name()
	for _, dir := range []string{w.dir, w.o.Mirrors[0]} {
		for _, p := range []struct {
			path string
			bad  fs.FileMode
			want string
		}{
			{dir, 0o750, "chmod 700 "},
			{filepath.Join(dir, "CURRENT"), 0o604, "chmod 600 "},
			{filepath.Join(dir, gen), 0o701, "chmod 700 "},
			{filepath.Join(dir, gen, "root"), 0o640, "chmod 600 "},
			{filepath.Join(dir, gen, "keys"), 0o644, "chmod 600 "},
		} {
			before, err := os.Stat(p.path)
			if err != nil {
				t.Fatal(err)
			}
			os.Chmod(p.path, p.bad)
			_, err = Open(w.dir, w.o)
			wantError(t, err, ErrPermissions, p.want+p.path)
			os.Chmod(p.path, before.Mode())
		}
	}
	w.holds(mustOpen(t, w))

	dir, o := place(t, 0)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Create(dir, o)
	wantError(t, err, ErrPermissions, "chmod 700 "+dir)
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	w := keyring(t, 1)
	_, err := Create(w.dir, w.o)
	wantError(t, err, fs.ErrExist, w.dir)

	// A mirror that is another keyring's.
	dir, o := place(t, 0)
	o.Mirrors = w.o.Mirrors
	_, err = Create(dir, o)
	wantError(t, err, fs.ErrExist, w.o.Mirrors[0])

	// Keys without a CURRENT are still keys.
	os.Remove(filepath.Join(w.dir, "CURRENT"))
	os.RemoveAll(w.o.Mirrors[0])
	_, err = Create(w.dir, w.o)
	wantError(t, err, fs.ErrExist, w.dir)
	if _, err := os.Stat(filepath.Join(w.dir, (&generation{epoch: 3}).name(), "keys")); err != nil {
		t.Error(err)
	}
}

func TestOpenWithoutKeyring(t *testing.T) {
	dir, o := place(t, 1)
	_, err := Open(dir, o)
	wantError(t, err, fs.ErrNotExist, dir)
	os.Mkdir(dir, 0o700)
	_, err = Open(dir, o)
	wantError(t, err, fs.ErrNotExist, dir)
}

func TestSameDirectoryTwice(t *testing.T) {
	w := keyring(t, 1)
	link := filepath.Join(filepath.Dir(w.dir), "link")
	if err := os.Symlink(w.dir, link); err != nil {
		t.Fatal(err)
	}
	for _, mirrors := range [][]string{{w.dir}, {w.dir + "/../keyring/"}, {link}, {w.o.Mirrors[0], w.o.Mirrors[0]}} {
		if _, err := Open(w.dir, Options{Mirrors: mirrors}); err == nil {
			t.Errorf("Open took %s with the mirrors %q", w.dir, mirrors)
		}
	}
}

func TestNewRootEachGeneration(t *testing.T) {
	w := keyring(t, 0)
	s := mustOpen(t, w)
	seen := map[string]bool{}
	for i := range 5 {
		b, err := os.ReadFile(filepath.Join(w.dir, (&generation{epoch: uint64(3 + i)}).name(), "root"))
		if err != nil || len(b) != 32 || seen[string(b)] {
			t.Fatalf("root of %d bytes, seen before: %v, %v", len(b), seen[string(b)], err)
		}
		seen[string(b)] = true
		if _, err := s.Create(t.Context(), []string{"k" + strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMirrorMissing: reading goes on, changes fail and say where, and a retry when the
// mirror is back does what was left.
func TestMirrorMissing(t *testing.T) {
	for _, empty := range []bool{false, true} {
		w := keyring(t, 2)
		mirror, away := w.o.Mirrors[1], w.o.Mirrors[1]+".away"
		if err := os.Rename(mirror, away); err != nil {
			t.Fatal(err)
		}
		if empty { // as a mount point is
			os.Mkdir(mirror, 0o700)
		}
		s := mustOpen(t, w)
		w.holds(s)
		st, err := s.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Copies[0].Problem != "" || st.Copies[1].Problem != "" || !strings.Contains(st.Copies[2].Problem, mirror) || st.Copies[2].Epoch != 0 {
			t.Errorf("copies: %+v", st.Copies)
		}
		_, err = s.Create(t.Context(), []string{"new"})
		wantError(t, err, nil, mirror)
		_, err = s.Create(t.Context(), []string{"a"}) // durable in every mirror, or no success
		wantError(t, err, nil, mirror)
		_, err = s.Destroy(t.Context(), keystoretest.Permit(t, "a"))
		wantError(t, err, nil, mirror)
		w.holds(s)
		if names, _ := os.ReadDir(mirror); len(names) > 0 {
			t.Errorf("wrote %v to the missing mirror's place", names)
		}
		os.Remove(mirror)
		if err := os.Rename(away, mirror); err != nil {
			t.Fatal(err)
		}
		if _, err = s.Destroy(t.Context(), keystoretest.Permit(t, "a")); err != nil {
			t.Fatal(err)
		}
		delete(w.live, "a")
		w.gone = append(w.gone, "a")
		w.holds(s)
		w.clean()
	}
}

// failFS fails one call by what it does and where.
type failFS struct {
	FS
	prefix string
}

func (f failFS) Mkdir(p string) error {
	if strings.HasPrefix(p, f.prefix) {
		return errFault
	}
	return f.FS.Mkdir(p)
}

// TestNothingSwitchedBeforeAllStaged: a copy that cannot be written stops the rotation
// while nothing has changed.
func TestNothingSwitchedBeforeAllStaged(t *testing.T) {
	w := keyring(t, 2)
	for _, bad := range append([]string{w.dir}, w.o.Mirrors...) {
		o := w.o
		o.FS = failFS{osFS{}, bad}
		s, err := Open(w.dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Destroy(t.Context(), keystoretest.Permit(t, "a")); !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		for _, r := range s.read() {
			if r.err != nil || r.gen.epoch != 3 {
				t.Errorf("%s was switched although %s could not be written: %v", r.path, bad, r.err)
			}
		}
		w.holds(mustOpen(t, w))
	}
}

// TestLaggards: a copy put back from before a destruction is brought up, and brings
// nothing back.
func TestLaggards(t *testing.T) {
	w := keyring(t, 2)
	old := filepath.Join(t.TempDir(), "old")
	copyDirectory(t, w.dir, old)
	s := mustOpen(t, w)
	if _, err := s.Destroy(t.Context(), keystoretest.Permit(t, "a")); err != nil {
		t.Fatal(err)
	}
	delete(w.live, "a")
	w.gone = append(w.gone, "a")
	for _, path := range append([]string{w.dir}, w.o.Mirrors...) {
		copyDirectory(t, old, path)
		if path != w.dir {
			st, err := s.Status(t.Context())
			if err != nil || !slices.ContainsFunc(st.Copies, func(c shred.Copy) bool {
				return c.Path == path && strings.Contains(c.Problem, "behind") && c.Epoch == 3
			}) {
				t.Errorf("Status doesn't show that %s is behind: %+v, %v", path, st.Copies, err)
			}
		} else if _, err := s.Open(t.Context(), "a"); !errors.Is(err, shred.ErrStale) {
			t.Errorf("Open of a destroyed key from an older keyring put back under an open store: %v", err)
		}
		w.holds(mustOpen(t, w))
		w.clean()
	}

	// All of them: only the caller can know.
	for _, path := range append([]string{w.dir}, w.o.Mirrors...) {
		copyDirectory(t, old, path)
	}
	_, err := s.Create(t.Context(), []string{"b"})
	wantError(t, err, shred.ErrStale)
	st, err := mustOpen(t, w).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Regressed(4, nil); !errors.Is(err, shred.ErrStale) {
		t.Errorf("Regressed by epoch: %v", err)
	}
	var r *shred.Regression
	if err := st.Regressed(3, []string{"z", "a"}); !errors.As(err, &r) || !slices.Equal(r.LiveAgain, []string{"a"}) {
		t.Errorf("Regressed by ids: %v", err)
	}
	if err := st.Regressed(3, []string{"z", "never"}); err != nil {
		t.Errorf("Regressed: %v", err)
	}
}

// TestDamage: each file of each copy is changed, cut or removed. A mirror's copy
// repairs it; without one the error names the file, and nothing is removed.
func TestDamage(t *testing.T) {
	gen := (&generation{epoch: 3}).name()
	damages := map[string]func(b []byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"longer":  func(b []byte) []byte { return append(b, 0) },
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"magic":   func(b []byte) []byte { b[0] ^= 1; return b },
		"removed": nil,
	}
	for _, name := range []string{gen + "/root", gen + "/keys", "CURRENT"} {
		for what, damage := range damages {
			for mirrors := range 2 {
				t.Run(fmt.Sprintf("%s %s, %d mirrors", name, what, mirrors), func(t *testing.T) {
					w := keyring(t, mirrors)
					path := filepath.Join(w.dir, name)
					b, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					os.Remove(path)
					if damage != nil {
						if err := os.WriteFile(path, damage(b), 0o600); err != nil {
							t.Fatal(err)
						}
					}
					_, err = Open(w.dir, w.o)
					if name != "CURRENT" && mirrors == 1 {
						if err != nil {
							t.Fatal(err)
						}
						w.holds(mustOpen(t, w))
						w.clean()
						return
					}
					wantError(t, err, nil, w.dir)
					if mirrors == 1 && what != "flipped" { // flipped, it names another epoch
						wantError(t, err, nil, "copy that directory to "+w.dir)
					}
					if name == "CURRENT" {
						if _, err := os.Stat(filepath.Join(w.dir, gen, "keys")); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
	}
}

// TestNewestIsDamaged: the whole copies must not outvote one that is newer, for it may
// be the end of a destruction.
func TestNewestIsDamaged(t *testing.T) {
	w := keyring(t, 1)
	next := filepath.Join(w.o.Mirrors[0], (&generation{epoch: 4}).name())
	os.Rename(filepath.Join(w.o.Mirrors[0], (&generation{epoch: 3}).name()), next)
	os.WriteFile(filepath.Join(w.o.Mirrors[0], "CURRENT"), []byte(filepath.Base(next)+"\n"), 0o600)
	_, err := Open(w.dir, w.o)
	wantError(t, err, shred.ErrStale, next, "epoch 3")
}

func TestOtherKeyrings(t *testing.T) {
	w := keyring(t, 1)
	other := newWorld(t, osFS{}, t.TempDir(), 0)
	other.rec.r.Seed([32]byte{2})
	other.populate()
	copyDirectory(t, other.dir, w.o.Mirrors[0])
	_, err := Open(w.dir, w.o)
	wantError(t, err, nil, w.dir, w.o.Mirrors[0])
	s, err := Open(w.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}

	// Rotated apart: each had no mirror for a while.
	copyDirectory(t, w.dir, w.o.Mirrors[0])
	one, err := Open(w.o.Mirrors[0], Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, one} {
		if _, err := s.Create(t.Context(), []string{"new"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = Open(w.dir, w.o)
	wantError(t, err, nil, w.dir, w.o.Mirrors[0], "epoch 4")
}

// TestForeignFiles: what a person has put into an old generation may be a copy of its
// keys.
func TestForeignFiles(t *testing.T) {
	w := keyring(t, 0)
	notes := filepath.Join(w.dir, "NOTES")
	saved := filepath.Join(w.dir, (&generation{epoch: 3}).name(), "root.saved")
	for _, p := range []string{notes, saved} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := mustOpen(t, w)
	_, err := s.Destroy(t.Context(), keystoretest.Permit(t, "a"))
	wantError(t, err, nil, filepath.Dir(saved))
	st, err := s.Status(t.Context())
	if err != nil || !strings.Contains(st.Copies[0].Problem, "gen-") {
		t.Errorf("Status: %+v, %v", st, err)
	}
	os.Remove(saved)
	if _, err := s.Destroy(t.Context(), keystoretest.Permit(t, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(notes); err != nil {
		t.Errorf("a file that isn't the keyring's: %v", err)
	}
}

func TestClosed(t *testing.T) {
	s := mustOpen(t, keyring(t, 0))
	s.Close()
	_, err := s.Open(t.Context(), "a")
	wantError(t, err, os.ErrClosed)
	_, err = s.Create(t.Context(), []string{"n"})
	wantError(t, err, os.ErrClosed)
	_, err = s.Status(t.Context())
	wantError(t, err, os.ErrClosed)
}

// TestLockHeld: a rotation waits for the lock until its context ends; reading needs
// none.
func TestLockHeld(t *testing.T) {
	w := keyring(t, 0)
	s := mustOpen(t, w)
	l, err := osFS{}.Lock(filepath.Join(w.dir, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := s.Create(ctx, []string{"new"})
		result <- err
	}()
	w.holds(s)
	cancel()
	wantError(t, <-result, context.Canceled)
	go func() {
		_, err := s.Create(t.Context(), []string{"new"})
		result <- err
	}()
	l.Close()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestReadersDuringRotations: Open never fails because a rotation is removing what it
// reads.
func TestReadersDuringRotations(t *testing.T) {
	w := newWorld(t, newMemFS(), "/d", 1)
	w.populate()
	writer := mustOpen(t, w)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		reader := mustOpen(t, w)
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if k, err := reader.Open(t.Context(), "a"); err != nil || k.MAC("l", nil) != w.live["a"] {
					t.Errorf("Open: %v", err)
					return
				}
			}
		})
	}
	for i := range 200 {
		if _, err := writer.Create(t.Context(), []string{"n" + strconv.Itoa(i)}); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	wg.Wait()
}

// TestRandFails: without randomness nothing is written, and no weak key is made.
func TestRandFails(t *testing.T) {
	w := keyring(t, 0)
	for n := range 32 + 32 + nonceSize {
		o := w.o
		o.Rand = io.LimitReader(rand.Reader, int64(n))
		s, err := Open(w.dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Create(t.Context(), []string{"new"}); err == nil {
			t.Fatalf("Create made do with %d random bytes", n)
		}
		if _, err := s.Open(t.Context(), "new"); !errors.Is(err, shred.ErrUnknownKey) {
			t.Fatalf("with %d random bytes: %v", n, err)
		}
	}
	w.clean()
}
