package filekeys

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lotkeeper/lotkeeper/shred"
)

const (
	currentFile = "CURRENT"
	currentNew  = "CURRENT.new" // being written; means nothing until it is renamed
	lockFile    = "lock"
	rootFile    = "root"
	keysFile    = "keys"
)

// ErrPermissions: a directory or file of the keyring can be read by others than its
// owner.
var ErrPermissions = errors.New("keys can be read by others than their owner")

// copyDir is one copy of the keyring, the first or a mirror.
type copyDir struct {
	fs   FS
	path string
}

// reading is what read found in a copy.
type reading struct {
	copyDir
	named uint64      // the epoch that CURRENT names; 0: no CURRENT that can be read
	gen   *generation // nil unless it is whole
	err   error       // why it is not
}

// named reads the epoch in CURRENT.
func (c copyDir) named() (uint64, error) {
	path := filepath.Join(c.path, currentFile)
	b, err := c.fs.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("couldn't read the keyring in %s: %w", c.path, err)
	}
	epoch, err := parseCurrent(b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return epoch, nil
}

// read reads the copy from its files, with nothing remembered.
func (c copyDir) read() reading {
	r := reading{copyDir: c}
	if r.err = c.private(c.path, 0o700); r.err != nil {
		return r
	}
	if r.named, r.err = c.named(); r.err != nil {
		return r
	}
	r.gen, r.err = c.generation(r.named)
	return r
}

func (c copyDir) generation(epoch uint64) (*generation, error) {
	dir := filepath.Join(c.path, (&generation{epoch: epoch}).name())
	root, keys := filepath.Join(dir, rootFile), filepath.Join(dir, keysFile)
	for _, p := range []struct {
		path string
		want fs.FileMode
	}{{filepath.Join(c.path, currentFile), 0o600}, {dir, 0o700}, {root, 0o600}, {keys, 0o600}} {
		if err := c.private(p.path, p.want); err != nil {
			return nil, err
		}
	}
	rootBytes, err := c.fs.ReadFile(root)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the root key: %w", err)
	}
	keysBytes, err := c.fs.ReadFile(keys)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the class keys: %w", err)
	}
	g, err := parse(rootBytes, keysBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: damaged: %w", dir, err)
	}
	if g.epoch != epoch {
		return nil, fmt.Errorf("%s: damaged: keys: it is of epoch %d", dir, g.epoch)
	}
	return g, nil
}

// private refuses what group or others may touch.
func (c copyDir) private(path string, want fs.FileMode) error {
	info, err := c.fs.Stat(path)
	if err != nil {
		return fmt.Errorf("couldn't read the keyring in %s: %w", c.path, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o: %w: chmod %o %s", path, mode, ErrPermissions, want, path)
	}
	return nil
}

// stage writes a generation beside the current one and makes it durable. Nothing reads
// it before CURRENT names it; if it comes to that no more, tidy removes it.
func (c copyDir) stage(g *generation) error {
	dir := filepath.Join(c.path, g.name())
	if err := c.discard(g.name()); err != nil {
		return err
	}
	if err := c.fs.Mkdir(dir); err != nil {
		return fmt.Errorf("couldn't write a new generation: %w", err)
	}
	if err := c.write(filepath.Join(dir, rootFile), g.root[:]); err != nil {
		return err
	}
	if err := c.write(filepath.Join(dir, keysFile), g.keys); err != nil {
		return err
	}
	if err := c.sync(dir); err != nil {
		return err
	}
	// CURRENT must never be seen, after a power cut, to name a directory that is not
	// there.
	return c.sync(c.path)
}

// switchTo makes a staged generation the current one, by one rename.
func (c copyDir) switchTo(g *generation) error {
	next := filepath.Join(c.path, currentNew)
	if err := c.fs.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("couldn't remove what an unfinished rotation left: %w", err)
	}
	if err := c.write(next, []byte(g.name()+"\n")); err != nil {
		return err
	}
	if err := c.fs.Rename(next, filepath.Join(c.path, currentFile)); err != nil {
		return fmt.Errorf("couldn't switch to the new generation: %w", err)
	}
	return c.sync(c.path)
}

// tidy removes all that is not the current generation g, and looks whether it is gone:
// an older generation holds keys that may have been destroyed since.
func (c copyDir) tidy(g *generation) error {
	// The switch may have been made by a call that failed or a process that died before
	// it was durable. If the old generation went first and the power then, CURRENT
	// could name what is gone, and live keys be lost.
	if err := c.sync(c.path); err != nil {
		return err
	}
	stale, err := c.stale(g)
	if err != nil || len(stale) == 0 {
		return err
	}
	for _, name := range stale {
		if err := c.discard(name); err != nil {
			return err
		}
	}
	if err := c.sync(c.path); err != nil {
		return err
	}
	if stale, err = c.stale(g); err == nil && len(stale) > 0 {
		err = fmt.Errorf("%s: %w: removed, and still there", filepath.Join(c.path, stale[0]), shred.ErrStillReadable)
	}
	return err
}

// stale lists what unfinished rotations have left beside the generation g. Whatever
// else lies in the directory is not the keyring's and is left alone.
func (c copyDir) stale(g *generation) ([]string, error) {
	names, err := c.fs.ReadDir(c.path)
	if err != nil {
		return nil, fmt.Errorf("couldn't list the keyring in %s: %w", c.path, err)
	}
	var stale []string
	for _, name := range names {
		if name == currentNew || strings.HasPrefix(name, genPrefix) && name != g.name() {
			stale = append(stale, name)
		}
	}
	return stale, nil
}

// discard removes a generation or a file, if it is there. Its root goes first: without
// it the keys are noise. A file that the keyring didn't put there makes it fail, for it
// may be a copy of the keys that a person made.
func (c copyDir) discard(name string) error {
	path := filepath.Join(c.path, name)
	for _, p := range []string{filepath.Join(path, rootFile), filepath.Join(path, keysFile), path} {
		err := c.fs.Remove(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("couldn't remove an old generation: %w", err)
		}
	}
	return nil
}

// write makes a file that is not there yet, with durable content. Its name becomes
// durable with its directory.
func (c copyDir) write(path string, b []byte) error {
	f, err := c.fs.Create(path)
	if err != nil {
		return fmt.Errorf("couldn't write the keyring: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("couldn't write the keyring: %w", err)
	}
	return nil
}

func (c copyDir) sync(path string) error {
	if err := c.fs.SyncDir(path); err != nil {
		return fmt.Errorf("couldn't sync %s: %w", path, err)
	}
	return nil
}
