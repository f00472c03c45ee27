package dir

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
)

var start = time.Date(2026, 11, 21, 9, 0, 0, 123456789, time.UTC)

func options(clock *vaulttest.Clock) Options {
	return Options{Now: clock.Now, Clock: func() (time.Time, error) { return clock.Now(), nil }}
}

func TestVault(t *testing.T) {
	vaulttest.Exercise(t, func(t *testing.T) vaulttest.Harness {
		clock := vaulttest.NewClock(start)
		return vaulttest.Harness{Vault: newTestVault(t, clock, t.TempDir()), Advance: clock.Advance, Retention: time.Hour}
	})
}

// Two Vaults on one directory are one vault, as two processes' are.
func TestTwoVaultsOneDirectory(t *testing.T) {
	vaulttest.Exercise(t, func(t *testing.T) vaulttest.Harness {
		clock := vaulttest.NewClock(start)
		path := t.TempDir()
		first := newTestVault(t, clock, path)
		second, err := Open(path, "local", options(clock))
		if err != nil {
			t.Fatal(err)
		}
		return vaulttest.Harness{Vault: &alternating{Vault: first, other: second}, Advance: clock.Advance, Retention: time.Hour}
	})
}

// alternating puts through one vault and does all else through another.
type alternating struct {
	*Vault
	other *Vault
}

func (a *alternating) Put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (archive.Version, error) {
	return a.other.Put(ctx, key, body, o)
}

func put(t *testing.T, v *Vault, key string) archive.Version {
	t.Helper()
	version, err := v.Put(t.Context(), key, bytes.NewReader(body), putOptions(v))
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// The directory is what the documentation says it is: find, sha256sum and
// nobody else's eyes.
func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault")
	v := newTestVault(t, vaulttest.NewClock(start), path)
	put(t, v, "segments/2028-11/seg-a.age")
	put(t, v, "segments/2028-11/seg-b.age")
	put(t, v, "manifests/2028-11/seg-a.json")

	var objects []string
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o400)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		if strings.HasSuffix(name, ".age") {
			objects = append(objects, d.Name())
		}
		return nil
	})
	if err != nil || fmt.Sprint(objects) != "[seg-a.age seg-b.age]" {
		t.Errorf("find -name '*.age' finds %v, %v", objects, err)
	}
	tool, err := exec.LookPath("sha256sum")
	if err != nil {
		t.Skip("no sha256sum on the path")
	}
	cmd := exec.Command(tool, "-c")
	cmd.Dir = path
	cmd.Stdin = strings.NewReader(fmt.Sprintf("%x  segments/2028-11/seg-a.age\n", sha256.Sum256(body)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
}

// An object whose lock cannot be read can be read itself, and not deleted,
// whatever the clock shows.
func TestLockUnknown(t *testing.T) {
	for name, spoil := range map[string]func(lockFile string) error{
		"missing":   os.Remove,
		"empty":     func(f string) error { return os.Truncate(f, 0) },
		"cut":       func(f string) error { return os.Truncate(f, 100) },
		"edited":    replaceIn(`"legal_hold":false`, `"legal_hold": false`),
		"no mode":   replaceIn("COMPLIANCE", "NONE"),
		"no date":   replaceIn(`"retain_until":"2026`, `"retain_until":"x2026`),
		"no id":     replaceIn(`"version_id":"`, `"version_id":"","x":"`),
		"grown":     replaceIn("}\n", "}\n\n"),
		"another's": replaceIn("seg-a.age", "seg-b.age"),
		"newer":     replaceIn("lotkeeper-lock/v1", "lotkeeper-lock/v2"),
	} {
		t.Run(name, func(t *testing.T) {
			clock := vaulttest.NewClock(start)
			v := newTestVault(t, clock, t.TempDir())
			version := put(t, v, key)
			if err := spoil(v.lockFile(key)); err != nil {
				t.Fatal(err)
			}
			clock.Advance(100 * 365 * 24 * time.Hour)

			_, err := v.Stat(t.Context(), key, "")
			if !errors.Is(err, archive.ErrLockUnknown) || !strings.Contains(err.Error(), v.lockFile(key)) {
				t.Errorf("Stat: %v", err)
			}
			err = v.Delete(t.Context(), key, version.VersionID)
			if !errors.Is(err, archive.ErrLocked) || !errors.Is(err, archive.ErrLockUnknown) {
				t.Errorf("Delete: %v", err)
			}
			if err := v.Retain(t.Context(), key, version.VersionID, clock.Now().Add(time.Hour)); !errors.Is(err, archive.ErrLockUnknown) {
				t.Errorf("Retain: %v", err)
			}
			if err := v.SetLegalHold(t.Context(), key, version.VersionID, false); !errors.Is(err, archive.ErrLockUnknown) {
				t.Errorf("SetLegalHold: %v", err)
			}
			if _, err := v.Put(t.Context(), key, bytes.NewReader(body), putOptions(v)); !errors.Is(err, archive.ErrExists) {
				t.Errorf("Put: %v", err)
			}
			for _, versionID := range []string{"", version.VersionID} {
				r, info, err := v.Get(t.Context(), key, versionID)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) {
					t.Errorf("Get: %d bytes, %v", len(got), err)
				}
				if want := (archive.ObjectInfo{Version: archive.Version{Key: key, Size: int64(len(body)), Latest: true}}); info != want {
					t.Errorf("Get: %+v, want %+v", info, want)
				}
			}
			put(t, v, key+"2")
			var listed []string
			for version, err := range v.Versions(t.Context(), "") {
				listed = append(listed, fmt.Sprint(version.Key, " ", errors.Is(err, archive.ErrLockUnknown)))
			}
			if got := strings.Join(listed, ", "); got != key+" true, "+key+"2 false" {
				t.Errorf("Versions: %s", got)
			}

			x := archive.Expect{SegmentID: "seg-a", Object: archive.File{Key: key, VersionID: version.VersionID, SHA256: sha256.Sum256(body), Size: int64(len(body))},
				Manifest: archive.File{Key: "manifests/none.json"}}
			found, err := archive.VerifyCopy(t.Context(), v, x, nil)
			if err != nil || len(found) != 3 || found[0].Kind != archive.KindLockUnknown || found[1].Kind != archive.KindNotDecrypted || found[2].Kind != archive.KindMissing {
				t.Errorf("VerifyCopy: %+v, %v", found, err)
			}
		})
	}
}

func replaceIn(from, to string) func(string) error {
	return func(name string) error {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		edited := bytes.Replace(b, []byte(from), []byte(to), 1)
		if bytes.Equal(edited, b) {
			return fmt.Errorf("no %s in %s", from, b)
		}
		// As an editor would: a new file in the old one's place.
		return errors.Join(os.Remove(name), os.WriteFile(name, edited, 0o400))
	}
}

// What is not a plain file is not an object, and nothing is found outside.
func TestStrangers(t *testing.T) {
	v := newTestVault(t, vaulttest.NewClock(start), t.TempDir())
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(
		os.WriteFile(outside, body, 0o600),
		os.Symlink(outside, filepath.Join(v.path, "link.age")),
		os.WriteFile(filepath.Join(v.path, ".DS_Store"), body, 0o600),
		os.WriteFile(filepath.Join(v.path, `back\slash`), body, 0o600),
		unix.Mkfifo(filepath.Join(v.path, "fifo.age"), 0o600),
		os.Mkdir(filepath.Join(v.path, "folder.age"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"link.age", "fifo.age", "folder.age"} {
		if _, err := v.Stat(t.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("Stat %s: %v", key, err)
		}
		if _, _, err := v.Get(t.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("Get %s: %v", key, err)
		}
		if _, err := v.Put(t.Context(), key, bytes.NewReader(body), putOptions(v)); err == nil {
			t.Errorf("%s was put over", key)
		}
	}
	for _, prefix := range []string{"", ".", "..", "../", "/", "//", ".lotkeeper/", "a/../../"} {
		for version, err := range v.Versions(t.Context(), prefix) {
			t.Errorf("prefix %q lists %+v, %v", prefix, version, err)
		}
	}
}

func TestCreateAndOpen(t *testing.T) {
	clock := vaulttest.NewClock(start)
	path := filepath.Join(t.TempDir(), "data", "vault")
	if _, err := Open(path, "local", options(clock)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
	v := newTestVault(t, clock, path)
	put(t, v, key)
	if _, err := Create(path, "local", options(clock)); err == nil {
		t.Error("a vault was created over a vault with objects")
	}
	if _, err := Create(path, "local", Options{}); err == nil {
		t.Error("a vault was created without Now")
	}
	empty := filepath.Join(t.TempDir(), "vault")
	newTestVault(t, clock, empty)
	if _, err := Create(empty, "local", options(clock)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over an empty vault: %v", err)
	}
	if _, err := Open(t.TempDir(), "local", options(clock)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of an empty directory: %v", err) // an unmounted file system looks like this
	}
	if err := errors.Join(os.Chmod(filepath.Join(empty, own, "vault.json"), 0o600),
		os.WriteFile(filepath.Join(empty, own, "vault.json"), []byte(`{"format":"lotkeeper-dir-vault/v2"}`), 0o400)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(empty, "local", options(clock)); err == nil {
		t.Error("a vault of a later format was opened")
	}
}

// Open leaves alone what a Put in progress has in tmp.
func TestOpenDuringPut(t *testing.T) {
	clock := vaulttest.NewClock(start)
	path := t.TempDir()
	v := newTestVault(t, clock, path)
	reading, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := v.Put(context.Background(), key, &pausing{Reader: bytes.NewReader(body), reading: reading, goOn: goOn}, putOptions(v))
		done <- err
	}()
	<-reading
	other, err := Open(path, "local", options(clock))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Stat(t.Context(), key, ""); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("half an object can be seen: %v", err)
	}
	if left := stale(t, v); len(left) != 1 {
		t.Errorf("tmp has %v", left)
	}
	// Whoever waits for the flock can still be called off.
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan error)
	go func() {
		_, err := other.Put(ctx, "other.age", bytes.NewReader(body), putOptions(other))
		cancelled <- err
	}()
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Errorf("Put whose context was cancelled: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	whole(t, other, start)
	put(t, other, "other.age") // the flock is free
}

// A Put tidies up after others, also in a vault that was never opened again.
func TestPutTidies(t *testing.T) {
	v := newTestVault(t, vaulttest.NewClock(start), t.TempDir())
	if err := os.WriteFile(v.own("tmp", "left-by-a-crash"), body, 0o400); err != nil {
		t.Fatal(err)
	}
	put(t, v, key)
	if left := stale(t, v); len(left) > 0 {
		t.Errorf("Put left %v", left)
	}
}

// pausing stops before its first byte.
type pausing struct {
	*bytes.Reader
	reading, goOn chan struct{}
}

func (p *pausing) Read(b []byte) (int, error) {
	if p.reading != nil {
		close(p.reading)
		<-p.goOn
		p.reading = nil
	}
	return p.Reader.Read(b)
}

// WriteTo would let io.Copy go around Read.
func (p *pausing) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{p}) }

// A Put whose context ends while it copies leaves nothing.
func TestPutCancelled(t *testing.T) {
	v := newTestVault(t, vaulttest.NewClock(start), t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	reading, goOn := make(chan struct{}), make(chan struct{})
	go func() {
		<-reading
		cancel()
		close(goOn)
	}()
	_, err := v.Put(ctx, key, &pausing{Reader: bytes.NewReader(body), reading: reading, goOn: goOn}, putOptions(v))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if whole(t, v, start) {
		t.Error("the object is there")
	}
	if left := stale(t, v); len(left) > 0 {
		t.Errorf("Put left %v", left)
	}
}

// Without a clock of its own the vault shows the file system's.
func TestStatusShowsTheFileSystemsClock(t *testing.T) {
	v, err := Create(t.TempDir(), "local", Options{Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if s.Now.Equal(start) || s.Now.After(info.ModTime()) || s.Now.Location() != time.UTC {
		t.Errorf("the clock shows %v, a file written since has %v", s.Now, info.ModTime())
	}
	if s.Lock != archive.LockAdvisory || s.Versioned {
		t.Errorf("%+v", s)
	}
	if left := stale(t, v); len(left) > 0 {
		t.Errorf("Status left %v", left)
	}
}

func TestLimitsFitATerminal(t *testing.T) {
	for line := range strings.Lines(Limits) {
		if len(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	l := &lock{Format: lockFormat, Key: key, VersionID: "x", Mode: archive.Compliance, RetainUntil: start, Size: 1}
	b, err := l.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLock(b, key)
		if err != nil {
			return
		}
		if again, err := l.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q parses, and encodes as %q", b, again)
		}
		if l.Key != key || l.RetainUntil.IsZero() {
			t.Fatalf("%+v", l)
		}
	})
}
