package dir

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A filesystem is the calls by which a vault changes its directory and looks
// before it does: the seam at which tests let each of them fail.
type filesystem interface {
	Create(name string) (file, error) // for writing, 0400; fails if there is one
	Link(from, to string) error       // fails if there is a to
	Rename(from, to string) error     // replaces to
	Remove(name string) error
	Mkdir(name string) error   // 0700; an existing one is fine
	SyncDir(name string) error // makes the names in a directory durable
	Lstat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.DirEntry, error)
}

type file interface {
	io.WriteCloser
	Sync() error
	Stat() (fs.FileInfo, error)
}

type osFS struct{}

func (osFS) Create(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return nil, err // not a file that holds a nil
	}
	return f, nil
}

func (osFS) Link(from, to string) error   { return os.Link(from, to) }
func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(name string) error     { return os.Remove(name) }

func (osFS) Mkdir(name string) error {
	if err := os.Mkdir(name, 0o700); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Lstat(name string) (fs.FileInfo, error)     { return os.Lstat(name) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

// flock takes f's lock, which closing f releases. It belongs to the open file,
// so it keeps goroutines apart as well as processes.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return os.NewSyscallError("flock", err)
		}
	}
}
