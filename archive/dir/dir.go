package dir

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/archive"
)

// Limits is what an advisory lock does not protect against, for people who are
// about to rely on one. No line is longer than 80 columns.
const Limits = `The vault is a directory, and its lock is advisory: this program never changes
or removes a locked object, but the machine's root and the directory's owner can
do with its files as they please (rm, chmod, edit a lock file, turn the clock).
What is gone is found by "verify" and cannot be brought back: keep a second copy
of the directory elsewhere. To be held to the lock yourself, use a vault on
object storage in COMPLIANCE mode. A backup or snapshot of the directory keeps
its objects longer than the vault does; only their keys' end makes them end.
`

const (
	own        = ".lotkeeper" // no valid key has an element that starts with a dot
	format     = `{"format":"lotkeeper-dir-vault/v1"}` + "\n"
	lockSuffix = ".lock"
)

// Options are a vault's clocks.
type Options struct {
	// Now decides whether a lock has ended, and nothing else. Required.
	Now func() time.Time

	// Clock is what Status shows. Default: the time that the file system
	// itself gives a file written just now, which for a network mount is the
	// server's clock.
	Clock func() (time.Time, error)
}

// Vault is a directory of objects. It is safe for concurrent use, together
// with any number of other Vaults and processes on the same directory.
type Vault struct {
	path, name string
	now        func() time.Time
	clock      func() (time.Time, error)
	fs         filesystem
}

var _ archive.Vault = (*Vault)(nil)

// Create makes path, which must be empty or not exist, into a vault and opens
// it. A directory that is a vault already is refused with an error that wraps
// [fs.ErrExist]. Called again after a crash, it finishes what it began.
func Create(path, name string, o Options) (*Vault, error) { return create(path, name, o, osFS{}) }

func create(path, name string, o Options, fsys filesystem) (*Vault, error) {
	v, err := newVault(path, name, o, fsys)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Vault, error) {
		return nil, fmt.Errorf("couldn't create vault %s in %s: %w", name, path, err)
	}
	if err := os.MkdirAll(filepath.Dir(v.path), 0o700); err != nil {
		return fail(err)
	}
	if err := v.fs.Mkdir(v.path); err != nil {
		return fail(err)
	}
	entries, err := v.fs.ReadDir(v.path)
	if err != nil {
		return fail(err)
	}
	for _, e := range entries {
		// Whatever else is there would look like objects without a lock.
		if e.Name() != own {
			return fail(fmt.Errorf("directory is not empty: it has %s", e.Name()))
		}
	}
	for _, d := range []string{v.own(), v.own("tmp"), v.own("locks")} {
		if err := v.fs.Mkdir(d); err != nil {
			return fail(err)
		}
	}
	if _, err := v.fs.Lstat(v.own("flock")); errors.Is(err, fs.ErrNotExist) {
		if err := v.write(v.own("flock"), nil); err != nil && !errors.Is(err, fs.ErrExist) {
			return fail(err)
		}
	} else if err != nil {
		return fail(err)
	}
	// vault.json comes last, when all the rest is on the disk: without it the
	// directory is no vault, and Create may be called again.
	if err := v.fs.SyncDir(v.own()); err != nil {
		return fail(err)
	}
	temp := v.temp()
	if err := v.write(temp, []byte(format)); err != nil {
		return fail(err)
	}
	err = v.fs.Link(temp, v.own("vault.json"))
	_ = v.fs.Remove(temp) // Open has another try
	if err != nil {
		return fail(err)
	}
	for _, d := range []string{v.own(), v.path, filepath.Dir(v.path)} {
		if err := v.fs.SyncDir(d); err != nil {
			return fail(err)
		}
	}
	return v, nil
}

// Open opens a vault made by [Create]. A directory that is none is refused, so
// that a file system that is not mounted is not taken for an empty vault. Reading
// from a vault works on a read-only file system.
func Open(path, name string, o Options) (*Vault, error) {
	v, err := newVault(path, name, o, osFS{})
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(v.own("vault.json"))
	if err == nil && string(b) != format {
		err = errors.New("vault.json is not of a format this version knows")
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't open vault %s in %s: %w", name, path, err)
	}
	f, err := os.Open(v.own("flock"))
	if err != nil {
		return nil, fmt.Errorf("couldn't open vault %s in %s: %w", name, path, err)
	}
	defer f.Close()
	// Tidying is not worth waiting for, nor worth failing for: whoever has the
	// flock is putting something, and Put tidies first.
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = v.tidy()
	}
	return v, nil
}

func newVault(path, name string, o Options, fsys filesystem) (*Vault, error) {
	if o.Now == nil {
		return nil, errors.New("a directory vault needs Options.Now")
	}
	abs, err := filepath.Abs(path) // the vault stays where it is when the process changes directory
	if err != nil {
		return nil, err
	}
	v := &Vault{path: abs, name: name, now: o.Now, clock: o.Clock, fs: fsys}
	if v.clock == nil {
		v.clock = v.fileClock
	}
	return v, nil
}

func (v *Vault) own(elements ...string) string {
	return filepath.Join(v.path, own, filepath.Join(elements...))
}
func (v *Vault) temp() string             { return v.own("tmp", rand.Text()) }
func (v *Vault) object(key string) string { return filepath.Join(v.path, filepath.FromSlash(key)) }
func (v *Vault) lockFile(key string) string {
	return v.own("locks", filepath.FromSlash(key)+lockSuffix)
}

// Name is the name the vault was opened under.
func (v *Vault) Name() string { return v.name }

// Status reports an advisory lock, one version a key, and the clock of the
// file system. It writes a file to read that clock.
func (v *Vault) Status(ctx context.Context) (archive.Status, error) {
	if err := ctx.Err(); err != nil {
		return archive.Status{}, err
	}
	now, err := v.clock()
	if err != nil {
		return archive.Status{}, fmt.Errorf("couldn't read the clock of vault %s: %w", v.name, err)
	}
	return archive.Status{Lock: archive.LockAdvisory, Now: now.UTC()}, nil
}

func (v *Vault) fileClock() (time.Time, error) {
	name := v.temp()
	f, err := v.fs.Create(name)
	if err != nil {
		return time.Time{}, err
	}
	_, err = f.Write([]byte{'\n'}) // it is the write that a server stamps
	info, statErr := f.Stat()
	// The flock is not held: a Put that tidies may have been faster.
	removeErr := v.fs.Remove(name)
	if errors.Is(removeErr, fs.ErrNotExist) {
		removeErr = nil
	}
	if err := errors.Join(err, statErr, f.Close(), removeErr); err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// Put implements archive.Vault. It holds the flock while it copies the body, so
// that nobody takes its temporary file for one that a crash left behind.
func (v *Vault) Put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (archive.Version, error) {
	if err := check(ctx, key); err != nil {
		return archive.Version{}, err
	}
	var version archive.Version
	err := v.exclusive(ctx, func() error {
		if err := o.Check(v.now()); err != nil {
			return err
		}
		if err := v.tidy(); err != nil {
			return err
		}
		l, err := v.put(ctx, key, body, o)
		if err != nil {
			return err
		}
		version = archive.Version{Key: key, VersionID: l.VersionID, Size: l.Size, Latest: true}
		return nil
	})
	if err != nil {
		return archive.Version{}, fmt.Errorf("couldn't put %s into vault %s: %w", key, v.name, err)
	}
	return version, nil
}

func (v *Vault) put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (_ *lock, err error) {
	object, lockFile := v.object(key), v.lockFile(key)
	if info, err := v.fs.Lstat(object); err == nil {
		if info.IsDir() {
			return nil, errors.New("it is a folder of other objects")
		}
		return nil, archive.ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}

	temp := v.temp()
	defer func() {
		// Also after success: the object has its own name by then. A failure
		// leaves a file for the next tidy.
		_ = v.fs.Remove(temp)
	}()
	if err := v.copy(ctx, temp, body, o); err != nil {
		return nil, err
	}

	// The lock is on the disk before its object can be seen. A crash after
	// this leaves a lock without an object, which is no object; the other way
	// round would leave an object that nobody may ever delete.
	l := &lock{
		Format: lockFormat, Key: key, VersionID: rand.Text(),
		Mode: o.Mode, RetainUntil: archive.WholeSecond(o.RetainUntil),
		SHA256: o.SHA256, Size: o.Size,
	}
	if err := v.mkdirs(v.own("locks"), lockFile); err != nil {
		return nil, err
	}
	if err := v.writeLock(l); err != nil {
		return nil, err
	}
	if err := v.syncDirs(v.own("locks"), lockFile); err != nil {
		return nil, err
	}

	if err := v.mkdirs(v.path, object); err != nil {
		return nil, err
	}
	// link, not rename: it refuses to replace, whoever else writes here.
	if err := v.fs.Link(temp, object); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, archive.ErrExists
		}
		return nil, err
	}
	if err := v.syncDirs(v.path, object); err != nil {
		return nil, err
	}
	return l, nil
}

// copy writes the announced bytes, and only those, to a new synced file.
func (v *Vault) copy(ctx context.Context, name string, body io.ReadSeeker, o archive.PutOptions) error {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := v.fs.Create(name)
	if err != nil {
		return err
	}
	sum := sha256.New()
	// One byte more than announced is enough to see that there is more.
	src := io.TeeReader(io.LimitReader(contextReader{ctx, body}, o.Size+1), sum)
	n, err := io.Copy(f, src)
	if err == nil && (n != o.Size || [32]byte(sum.Sum(nil)) != o.SHA256) {
		err = archive.ErrChecksum
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Get implements archive.Vault. The bytes of an object whose lock is lost can
// still be read, as whichever version was asked for: which it is, only the lock
// knows.
func (v *Vault) Get(ctx context.Context, key, versionID string) (io.ReadCloser, archive.ObjectInfo, error) {
	info, err := v.Stat(ctx, key, versionID)
	if err != nil && !errors.Is(err, archive.ErrLockUnknown) {
		return nil, archive.ObjectInfo{}, err
	}
	f, err := os.Open(v.object(key))
	if absent(err) {
		return nil, archive.ObjectInfo{}, v.notFound(key, versionID)
	}
	if err != nil {
		return nil, archive.ObjectInfo{}, fmt.Errorf("couldn't open %s in vault %s: %w", key, v.name, err)
	}
	return f, info, nil
}

// Stat implements archive.Vault. Size is that of the file.
func (v *Vault) Stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	if err := check(ctx, key); err != nil {
		return archive.ObjectInfo{}, err
	}
	l, size, err := v.load(key, versionID)
	if errors.Is(err, archive.ErrLockUnknown) {
		return archive.ObjectInfo{Version: archive.Version{Key: key, Size: size, Latest: true}}, err
	}
	if err != nil {
		return archive.ObjectInfo{}, err
	}
	return archive.ObjectInfo{
		Version: archive.Version{Key: key, VersionID: l.VersionID, Size: size, Latest: true},
		Mode:    l.Mode, RetainUntil: l.RetainUntil, LegalHold: l.LegalHold, SHA256: l.SHA256,
	}, nil
}

// Versions implements archive.Vault. A file whose lock cannot be read is listed
// with an error that wraps archive.ErrLockUnknown.
func (v *Vault) Versions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error] {
	return func(yield func(archive.Version, error) bool) {
		keys, err := v.keys(ctx, prefix)
		if err != nil {
			yield(archive.Version{}, fmt.Errorf("couldn't list vault %s: %w", v.name, err))
			return
		}
		for _, key := range keys {
			if err := ctx.Err(); err != nil {
				yield(archive.Version{}, err)
				return
			}
			l, size, err := v.load(key, "")
			switch {
			case errors.Is(err, archive.ErrNotFound):
				continue // deleted since
			case err != nil:
				if !yield(archive.Version{Key: key, Latest: true}, err) {
					return
				}
			default:
				if !yield(archive.Version{Key: key, VersionID: l.VersionID, Size: size, Latest: true}, nil) {
					return
				}
			}
		}
	}
}

func (v *Vault) keys(ctx context.Context, prefix string) ([]string, error) {
	// Only the folder that the prefix ends in can have what it names.
	folder := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if folder != "" && archive.ValidKey(strings.TrimSuffix(folder, "/")) != nil {
		return nil, nil //nolint:nilerr // no object can be there, and the walk must not leave the vault
	}
	var keys []string
	err := filepath.WalkDir(v.object(folder), func(name string, d fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if absent(err) {
			return nil // no such folder, or removed while walking
		}
		if err != nil {
			return err
		}
		if name != v.path && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(v.path, name)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(rel)
		if d.Type().IsRegular() && strings.HasPrefix(key, prefix) && archive.ValidKey(key) == nil {
			keys = append(keys, key)
		}
		return nil
	})
	// A walk meets `a/b` before `a.b`; keys go by their bytes.
	slices.Sort(keys)
	return keys, err
}

// Retain implements archive.Vault.
func (v *Vault) Retain(ctx context.Context, key, versionID string, until time.Time) error {
	until = archive.WholeSecond(until)
	return v.change(ctx, key, versionID, func(l *lock) error {
		if until.Equal(l.RetainUntil) {
			return nil
		}
		if until.Before(l.RetainUntil) {
			return fmt.Errorf("%w until %s", archive.ErrLocked, l.RetainUntil.Format(time.RFC3339))
		}
		if err := archive.CheckRetainUntil(until, v.now()); err != nil {
			return err
		}
		l.RetainUntil = until
		return nil
	})
}

// SetLegalHold implements archive.Vault.
func (v *Vault) SetLegalHold(ctx context.Context, key, versionID string, on bool) error {
	return v.change(ctx, key, versionID, func(l *lock) error {
		l.LegalHold = on
		return nil
	})
}

func (v *Vault) change(ctx context.Context, key, versionID string, do func(*lock) error) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	if versionID == "" {
		return fmt.Errorf("couldn't change the lock of %s: %w", key, archive.ErrNoVersionID)
	}
	err := v.exclusive(ctx, func() error {
		l, _, err := v.load(key, versionID)
		if err != nil {
			return err
		}
		if err := do(l); err != nil {
			return err
		}
		// Written also if nothing has changed: the lock read may be one whose
		// write was never synced.
		if err := v.writeLock(l); err != nil {
			return err
		}
		return v.fs.SyncDir(filepath.Dir(v.lockFile(key)))
	})
	if err != nil {
		return fmt.Errorf("couldn't change the lock of %s in vault %s: %w", key, v.name, err)
	}
	return nil
}

// Delete implements archive.Vault.
func (v *Vault) Delete(ctx context.Context, key, versionID string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	if versionID == "" {
		return fmt.Errorf("couldn't delete %s: %w", key, archive.ErrNoVersionID)
	}
	err := v.exclusive(ctx, func() error {
		l, _, err := v.load(key, versionID)
		switch {
		case errors.Is(err, archive.ErrLockUnknown):
			return fmt.Errorf("%w: %w", archive.ErrLocked, err)
		case err != nil:
			return err
		case l.LegalHold:
			return fmt.Errorf("%w: legal hold", archive.ErrLocked)
		case v.now().Before(l.RetainUntil):
			return fmt.Errorf("%w until %s", archive.ErrLocked, l.RetainUntil.Format(time.RFC3339))
		}
		// The object's end is on the disk before the lock goes, so that a
		// crash cannot bring back an object without its lock.
		for _, name := range []string{v.object(key), v.lockFile(key)} {
			if err := v.fs.Remove(name); err != nil {
				return err
			}
			if err := v.fs.SyncDir(filepath.Dir(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("couldn't delete %s from vault %s: %w", key, v.name, err)
	}
	return nil
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return archive.ValidKey(key)
}

// exclusive runs do with the flock held.
func (v *Vault) exclusive(ctx context.Context, do func() error) error {
	f, err := os.Open(v.own("flock"))
	if err != nil {
		return err
	}
	locked := make(chan error, 1)
	go func() { locked <- flock(f, unix.LOCK_EX) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		// flock(2) cannot be called off: whenever it comes through, let go.
		go func() {
			<-locked //nolint:errcheck // taken or not, let go
			f.Close()
		}()
		return ctx.Err()
	}
	defer f.Close()
	if err != nil {
		return err
	}
	return do()
}

// tidy removes what crashed calls left in tmp. The caller has the flock.
func (v *Vault) tidy() error {
	stale, err := v.fs.ReadDir(v.own("tmp"))
	if err != nil {
		return err
	}
	for _, e := range stale {
		// Status works without the flock and may have removed its own.
		if err := v.fs.Remove(v.own("tmp", e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// lstat describes an object's file. Anything but a plain file is no object.
func (v *Vault) lstat(key string) (fs.FileInfo, error) {
	info, err := os.Lstat(v.object(key))
	if absent(err) || err == nil && !info.Mode().IsRegular() {
		return nil, v.notFound(key, "")
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't stat %s in vault %s: %w", key, v.name, err)
	}
	return info, nil
}

// load reads the lock of an object that is there, and its size, which comes
// with archive.ErrLockUnknown too. An empty version id stands for the one there is.
func (v *Vault) load(key, versionID string) (*lock, int64, error) {
	info, err := v.lstat(key)
	if err != nil {
		return nil, 0, err
	}
	name := v.lockFile(key)
	b, err := os.ReadFile(name)
	if absent(err) {
		// Delete removes the object first: it may be gone by now, too.
		if _, err := v.lstat(key); err != nil {
			return nil, 0, err
		}
		return nil, info.Size(), fmt.Errorf("%w: %s is missing", archive.ErrLockUnknown, name)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("couldn't read the lock of %s in vault %s: %w", key, v.name, err)
	}
	l, err := parseLock(b, key)
	if err != nil {
		return nil, info.Size(), fmt.Errorf("%w: %s: %w", archive.ErrLockUnknown, name, err)
	}
	if versionID != "" && versionID != l.VersionID {
		return nil, 0, v.notFound(key, versionID)
	}
	return l, info.Size(), nil
}

func (v *Vault) notFound(key, versionID string) error {
	return fmt.Errorf("%w: %s version %q in vault %s", archive.ErrNotFound, key, versionID, v.name)
}

// absent: there is no such file, nor can there be one, since a part of its path
// is a file.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// write makes a new file with the given content and syncs it.
func (v *Vault) write(name string, content []byte) error {
	f, err := v.fs.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// writeLock replaces a lock file by one rename. The caller has the flock, and
// syncs the directory.
func (v *Vault) writeLock(l *lock) error {
	b, err := l.encode()
	if err != nil {
		return err
	}
	temp := v.temp()
	if err := v.write(temp, b); err != nil {
		_ = v.fs.Remove(temp)
		return err
	}
	if err := v.fs.Rename(temp, v.lockFile(l.Key)); err != nil {
		_ = v.fs.Remove(temp)
		return err
	}
	return nil
}

// mkdirs makes the folders between root and the file name.
func (v *Vault) mkdirs(root, name string) error {
	for _, d := range folders(root, name) {
		if err := v.fs.Mkdir(d); err != nil {
			return err
		}
	}
	return nil
}

// syncDirs makes a name durable with all folders above it, up to and including
// root. Also those it has not made: whoever made them may have crashed before
// they were synced.
func (v *Vault) syncDirs(root, name string) error {
	for _, d := range slices.Backward(append([]string{root}, folders(root, name)...)) {
		if err := v.fs.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// folders lists the folders between root and name, both exclusive, outermost
// first.
func folders(root, name string) (all []string) {
	for d := filepath.Dir(name); d != root; d = filepath.Dir(d) {
		all = append(all, d)
	}
	slices.Reverse(all)
	return all
}
