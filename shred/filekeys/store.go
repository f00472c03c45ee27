package filekeys

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lotkeeper/lotkeeper/shred"
)

// Options are the same for Create and Open.
type Options struct {
	// Mirrors are directories that hold the same keys, preferably on other disks. Every
	// process that uses the keyring names the same directory first, whose lock they
	// share, and the same mirrors.
	Mirrors []string
	Rand    io.Reader // nil: crypto/rand.Reader
	FS      FS        // nil: the real one
}

// Store is a keyring in a directory. It is a shred.KeyStore.
type Store struct {
	first   copyDir // the one that Open reads
	mirrors []copyDir
	rand    io.Reader
	fs      FS

	rotating chan struct{} // holds a token while this Store has the keyring's lock

	mu     sync.Mutex  // guards what follows
	gen    *generation // as last read from first; nil: not yet, or closed
	closed bool
}

var _ shred.KeyStore = (*Store)(nil)

// Create makes a new keyring, without keys, in dir and in each mirror; their parents
// must be there. It returns an error that is fs.ErrExist if dir, or a mirror, already
// holds a keyring. After a crash it can be called again.
func Create(dir string, o Options) (*Store, error) {
	s, err := newStore(dir, o)
	if err != nil {
		return nil, err
	}
	for _, c := range s.copies() {
		if err := s.fs.Mkdir(c.path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("couldn't create a keyring: %w", err)
		}
		if err := c.private(c.path, 0o700); err != nil {
			return nil, err
		}
		if err := c.sync(filepath.Dir(c.path)); err != nil {
			return nil, err
		}
	}
	unlock, err := s.lock(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.vacant(); err != nil {
		return nil, err
	}
	g := &generation{epoch: 1}
	if _, err := io.ReadFull(s.rand, g.keyring[:]); err != nil {
		return nil, fmt.Errorf("couldn't draw the keyring's id: %w", err)
	}
	if err := s.write(g); err != nil {
		return nil, err
	}
	s.gen = g
	return s, nil
}

// vacant returns an error if a copy holds anything that Create could not have left when
// it was stopped: generation 1, which never holds a key, and in a mirror also a CURRENT
// that names it, because first is switched last.
func (s *Store) vacant() error {
	none := &generation{epoch: 1}
	for _, c := range append([]copyDir{s.first}, s.mirrors...) {
		stale, err := c.stale(none)
		if err != nil {
			return err
		}
		epoch, err := c.named()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			stale = slices.DeleteFunc(stale, func(name string) bool { return name == currentNew })
			if len(stale) == 0 {
				continue
			}
			err = fmt.Errorf("it has no %s, but a %s", currentFile, stale[0])
		case err == nil && epoch == 1 && len(stale) == 0 && c != s.first:
			continue
		}
		if err == nil {
			err = fmt.Errorf("it is at epoch %d", epoch)
		}
		return fmt.Errorf("%w in %s: %w", errExists, c.path, err)
	}
	return nil
}

var errExists = fmt.Errorf("there is a keyring already (%w)", fs.ErrExist)

// Open opens the keyring in dir, and first finishes what an interrupted rotation has
// left. A mirror that cannot be reached doesn't hinder reading: Status names it, and
// Create and Destroy fail until it can be reached. A keyring that others than its owner
// can read is refused with ErrPermissions. If there is no keyring in dir, the error is
// fs.ErrNotExist.
func Open(dir string, o Options) (*Store, error) {
	s, err := newStore(dir, o)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	newest, err := s.settle()
	if newest == nil {
		return nil, err
	}
	// Whatever went wrong on the way, first must be the newest: an older one may hold
	// keys that are destroyed elsewhere.
	now := s.first.read()
	if now.err != nil {
		return nil, fmt.Errorf("%w (epoch %d is whole in a mirror: copy that directory to %s)",
			now.err, newest.epoch, s.first.path)
	}
	if !now.gen.same(newest) {
		return nil, fmt.Errorf("%s: %w: %w", s.first.path, shred.ErrStale, err)
	}
	s.gen = now.gen
	return s, nil
}

// Close lets go of the keys that the Store holds in memory. Class keys that it has
// opened are the caller's to let go.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen, s.closed = nil, true
	return nil
}

func newStore(dir string, o Options) (*Store, error) {
	s := &Store{rand: o.Rand, fs: o.FS, rotating: make(chan struct{}, 1)}
	if s.rand == nil {
		s.rand = rand.Reader
	}
	if s.fs == nil {
		s.fs = osFS{}
	}
	var infos []fs.FileInfo
	for i, path := range append([]string{dir}, o.Mirrors...) {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("couldn't find the keyring: %w", err)
		}
		c := copyDir{fs: s.fs, path: abs}
		// A mirror that is the same directory would mirror nothing.
		for _, other := range s.copies() {
			if i > 0 && other.path == abs {
				return nil, fmt.Errorf("%s is named twice as a copy of the keyring", abs)
			}
		}
		if info, err := s.fs.Stat(abs); err == nil {
			if slices.ContainsFunc(infos, func(other fs.FileInfo) bool { return os.SameFile(info, other) }) {
				return nil, fmt.Errorf("%s is the same directory as another copy of the keyring", abs)
			}
			infos = append(infos, info)
		}
		if i == 0 {
			s.first = c
		} else {
			s.mirrors = append(s.mirrors, c)
		}
	}
	return s, nil
}

// copies are in the order in which they are written: first comes last, so that nobody
// opens a new key before it is in every mirror.
func (s *Store) copies() []copyDir {
	return append(slices.Clone(s.mirrors), s.first)
}

// Create implements shred.KeyStore. It fails if any mirror cannot be reached.
func (s *Store) Create(ctx context.Context, ids []string) (uint64, error) {
	for _, id := range ids {
		if err := shred.CheckID(id); err != nil {
			return 0, fmt.Errorf("couldn't create a class key: %w", err)
		}
	}
	return s.rotate(ctx, func(next *generation) (changed bool, err error) {
		for _, id := range ids {
			if next.destroyed[id] {
				return false, fmt.Errorf("couldn't create class key %q: %w", id, shred.ErrDestroyed)
			}
			if _, ok := next.live[id]; ok {
				continue
			}
			var secret [32]byte
			if _, err := io.ReadFull(s.rand, secret[:]); err != nil {
				return false, fmt.Errorf("couldn't draw class key %q: %w", id, err)
			}
			next.live[id], changed = secret, true
		}
		return changed, nil
	})
}

// Destroy implements shred.KeyStore. It fails if any mirror cannot be reached, and is
// never pending.
func (s *Store) Destroy(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
	classes := p.Classes()
	if len(classes) == 0 {
		return shred.Destruction{}, &shred.NotPermitted{Reason: "the permit names no class"}
	}
	epoch, err := s.rotate(ctx, func(next *generation) (changed bool, err error) {
		for _, id := range classes {
			if next.destroyed[id] {
				continue
			}
			if _, ok := next.live[id]; !ok {
				return false, fmt.Errorf("couldn't destroy class key %q: %w", id, shred.ErrUnknownKey)
			}
			delete(next.live, id)
			next.destroyed[id], changed = true, true
		}
		return changed, nil
	})
	if err != nil {
		return shred.Destruction{}, err
	}
	return shred.Destruction{Epoch: epoch}, nil
}

// Open implements shred.KeyStore. It costs one small read while nothing has changed.
func (s *Store) Open(ctx context.Context, id string) (*shred.ClassKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g, err := s.current()
	if err != nil {
		return nil, fmt.Errorf("couldn't open class key %q: %w", id, err)
	}
	if secret, ok := g.live[id]; ok {
		return shred.NewClassKey(id, secret), nil
	}
	err = shred.ErrUnknownKey
	if g.destroyed[id] {
		err = shred.ErrDestroyed
	}
	return nil, fmt.Errorf("couldn't open class key %q: %w", id, err)
}

// Status implements shred.KeyStore. It returns an error if the first directory cannot
// be read; what is wrong with a mirror is told of that copy.
func (s *Store) Status(ctx context.Context) (shred.Status, error) {
	unlock, err := s.lock(ctx) // a copy that is just being switched has no problem
	if err != nil {
		return shred.Status{}, err
	}
	defer unlock()
	readings := s.read()
	first := readings[len(readings)-1]
	if first.err != nil {
		return shred.Status{}, first.err
	}
	g := first.gen
	st := shred.Status{
		Epoch:     g.epoch,
		Live:      slices.Sorted(maps.Keys(g.live)),
		Destroyed: slices.Sorted(maps.Keys(g.destroyed)),
		Copies:    []shred.Copy{first.status(g)},
	}
	for _, r := range readings[:len(readings)-1] {
		st.Copies = append(st.Copies, r.status(g))
	}
	return st, nil
}

// status compares a copy with the generation that Open uses.
func (r reading) status(g *generation) shred.Copy {
	c := shred.Copy{Path: r.path}
	if r.err != nil {
		c.Problem = r.err.Error()
		return c
	}
	c.Epoch = r.gen.epoch
	switch {
	case r.gen.keyring != g.keyring:
		c.Problem = "it belongs to another keyring"
	case r.gen.epoch < g.epoch:
		c.Problem = fmt.Sprintf("it is behind: epoch %d, not %d", r.gen.epoch, g.epoch)
	case r.gen.epoch > g.epoch:
		c.Problem = fmt.Sprintf("it is ahead: epoch %d, not %d", r.gen.epoch, g.epoch)
	case !r.gen.same(g):
		c.Problem = "it holds other keys at the same epoch"
	default:
		stale, err := r.stale(g)
		if err != nil {
			c.Problem = err.Error()
		} else if len(stale) > 0 {
			c.Problem = "an unfinished rotation has left " + strings.Join(stale, ", ")
		}
	}
	return c
}

// current is the generation that CURRENT names now. What this Store holds in memory
// serves only while it still is that one: another process may have destroyed keys
// since.
func (s *Store) current() (*generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, os.ErrClosed
	}
	for {
		epoch, err := s.first.named()
		if err != nil {
			return nil, err
		}
		if s.gen != nil && epoch == s.gen.epoch {
			return s.gen, nil
		}
		g, err := s.first.generation(epoch)
		if err != nil {
			// A rotation may have removed it since CURRENT was read.
			if now, nerr := s.first.named(); nerr == nil && now != epoch {
				continue
			}
			return nil, err
		}
		if err := s.remember(g); err != nil {
			return nil, err
		}
		return g, nil
	}
}

// remember makes g the generation in memory. s.mu is held. It refuses one older than
// was seen before: someone has put an older keyring back while this Store was open.
func (s *Store) remember(g *generation) error {
	if s.gen != nil && g.epoch < s.gen.epoch {
		return fmt.Errorf("%s: %w: epoch %d, but %d was read before", s.first.path, shred.ErrStale, g.epoch, s.gen.epoch)
	}
	s.gen = g
	return nil
}

// rotate writes a new generation if change has changed the keys, and returns the epoch
// that is current in every copy then.
func (s *Store) rotate(ctx context.Context, change func(next *generation) (changed bool, err error)) (uint64, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	// Finish what came before, in every copy. That is also what makes it right to call
	// an operation again that failed half-way: it finds itself done.
	g, err := s.settle()
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	err = s.remember(g)
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	next := g.next()
	changed, err := change(next)
	if err != nil || !changed {
		return g.epoch, err
	}
	if err := s.write(next); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return next.epoch, s.remember(next)
}

// write makes g the current generation of every copy, and reads it back. Every copy has
// the new generation whole and durable before any is switched to it: a full disk or a
// missing mirror stops the rotation while the old generation still is current
// everywhere, and what was staged is discarded later. With the first switch the new
// generation is the newest, and settle carries it to the rest, whoever calls it.
func (s *Store) write(g *generation) error {
	if err := g.seal(s.rand); err != nil {
		return err
	}
	for _, c := range s.copies() {
		if err := c.stage(g); err != nil {
			return err
		}
	}
	for _, c := range s.copies() {
		if err := c.switchTo(g); err != nil {
			return err
		}
	}
	got, err := s.settle()
	if err != nil {
		return err
	}
	if !got.same(g) {
		return fmt.Errorf("%s: epoch %d reads back different from what was written", s.first.path, g.epoch)
	}
	return nil
}

// settle finishes what unfinished rotations have left: it reads every copy anew, takes
// the newest generation that is whole, brings up the copies that are behind, and
// removes all others. It returns that generation, and an error for each copy that could
// not be settled. If there is no telling which generation is the newest, it changes
// nothing and returns none. The lock is held.
func (s *Store) settle() (*generation, error) {
	readings := s.read()
	newest, err := authority(readings)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, r := range readings {
		err := r.err
		// Without a CURRENT this may be the mount point of a disk that is missing. A
		// keyring written there would hide that the old keys are still on the disk.
		if r.named > 0 {
			err = r.settle(newest)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return newest, errors.Join(errs...)
}

func (r reading) settle(newest *generation) error {
	if r.gen == nil || !r.gen.same(newest) {
		if err := r.stage(newest); err != nil {
			return err
		}
		if err := r.switchTo(newest); err != nil {
			return err
		}
	}
	return r.tidy(newest)
}

func (s *Store) read() []reading {
	var readings []reading
	for _, c := range s.copies() {
		readings = append(readings, c.read())
	}
	return readings
}

// authority is the newest generation that is whole in any copy.
func authority(readings []reading) (*generation, error) {
	var newest reading
	var errs []error
	for _, r := range readings {
		if errors.Is(r.err, ErrPermissions) {
			return nil, r.err
		}
		if r.gen == nil {
			errs = append(errs, r.err)
		} else if newest.gen == nil || r.gen.epoch > newest.gen.epoch {
			newest = r
		}
	}
	if newest.gen == nil {
		return nil, errors.Join(errs...)
	}
	for _, r := range readings {
		switch {
		case r.gen == nil && r.named > newest.gen.epoch:
			// It may be the end of a destruction. To go back would bring keys to life.
			return nil, fmt.Errorf("%w: the newest whole copy, %s, is at epoch %d, but: %w",
				shred.ErrStale, newest.path, newest.gen.epoch, r.err)
		case r.gen == nil:
		case r.gen.keyring != newest.gen.keyring:
			return nil, fmt.Errorf("%s and %s belong to different keyrings", r.path, newest.path)
		case r.gen.epoch == newest.gen.epoch && !r.gen.same(newest.gen):
			return nil, fmt.Errorf("%s and %s hold different keys at the same epoch %d", r.path, newest.path, r.gen.epoch)
		}
	}
	return newest.gen, nil
}

// lock takes the keyring's lock, for every call that may change files.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case s.rotating <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	for !closed {
		l, err := s.fs.Lock(filepath.Join(s.first.path, lockFile))
		if err == nil {
			return func() { l.Close(); <-s.rotating }, nil
		}
		if !errors.Is(err, ErrLocked) {
			<-s.rotating
			return nil, fmt.Errorf("couldn't lock the keyring: %w", err)
		}
		// Another process is rotating, which takes milliseconds. A blocking flock could
		// not be called off.
		select {
		case <-time.After(5 * time.Millisecond): //nolint:forbidigo // how often to try; no rule depends on it
		case <-ctx.Done():
			<-s.rotating
			return nil, ctx.Err()
		}
	}
	<-s.rotating
	return nil, os.ErrClosed
}
