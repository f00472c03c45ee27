package filekeys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// FS is every system call that the keyring makes, so that tests can fail each one.
type FS interface {
	Mkdir(path string) error          // with mode 0700
	Create(path string) (File, error) // with mode 0600; fails if there is one
	Rename(oldpath, newpath string) error
	Remove(path string) error                        // a file or an empty directory
	SyncDir(path string) error                       // makes the directory's entries durable
	ReadFile(path string) ([]byte, error)            //
	ReadDir(path string) (names []string, err error) // in any order
	Stat(path string) (fs.FileInfo, error)
	// Lock takes the exclusive lock on a file, made with mode 0600 if there is none. It
	// never waits: it returns ErrLocked if anyone holds the lock, this process
	// included. Closing releases it, and so does the end of the process.
	Lock(path string) (io.Closer, error)
}

// File is a file being written.
type File interface {
	io.Writer
	Sync() error
	Close() error
}

// ErrLocked is what FS.Lock returns if the lock is held. Store waits and tries again.
var ErrLocked = errors.New("the keyring is locked by another rotation")

// osFS is the real one.
type osFS struct{}

func (osFS) Mkdir(path string) error { return os.Mkdir(path, 0o700) }

func (osFS) Create(path string) (File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (osFS) Rename(oldpath, newpath string) error { return os.Rename(oldpath, newpath) }

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (osFS) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (osFS) ReadDir(path string) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (osFS) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

func (osFS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// flock belongs to the open file, not to the process: two Stores in one process
	// exclude each other as two processes do.
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if err == unix.EWOULDBLOCK {
		return nil, ErrLocked
	}
	return nil, fmt.Errorf("couldn't lock %s: %w", path, err)
}
