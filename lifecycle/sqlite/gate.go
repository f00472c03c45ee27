package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// gate orders the writers of one database, in this process and in others.
//
// Everybody holds "write" during a transaction. A hold takes "hold" first and
// keeps it; everybody else passes through "hold" before queueing for "write".
// So a hold waits for the transaction that is running and for those that had
// already passed, but never for a sweep that comes again and again: flock
// alone is not fair, and back-to-back writers were measured to starve a hold
// for more than 5 s.
type gate struct{ dir string }

// flock takes a lock, waiting for it until the context is done.
func (g gate) flock(ctx context.Context, name string, how int) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(g.dir, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't open lock %s: %w", name, err)
	}
	err = flock(f, how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) && how&unix.LOCK_NB == 0 {
		taken := make(chan error, 1)
		go func() { taken <- flock(f, how) }()
		select {
		case err = <-taken:
		case <-ctx.Done():
			// Nothing takes a waiter out of the kernel's queue: when its turn
			// comes it gives the lock straight back.
			go func() {
				<-taken //nolint:errcheck // taken or not, let go
				f.Close()
			}()
			return nil, fmt.Errorf("gave up waiting for lock %s: %w", f.Name(), ctx.Err())
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("couldn't take lock %s: %w", f.Name(), err)
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// enter returns what leaves the gate again.
func (g gate) enter(ctx context.Context, first bool) (leave func(), err error) {
	how := unix.LOCK_SH
	if first {
		how = unix.LOCK_EX
	}
	hold, err := g.flock(ctx, "hold", how)
	if err != nil {
		return nil, err
	}
	if !first {
		hold.Close() // closing a descriptor of its own gives its lock back
	}
	write, err := g.flock(ctx, "write", unix.LOCK_EX)
	if err != nil {
		if first {
			hold.Close()
		}
		return nil, err
	}
	return func() {
		write.Close()
		if first {
			hold.Close()
		}
	}, nil
}

// lease takes the lock that says which process runs a sweep or an ingest. The
// kernel gives it back when the process ends, however it ends.
func (g gate) lease(ctx context.Context, kind string) (*os.File, error) {
	f, err := g.flock(ctx, kind, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another %s is running: %w", kind, lifecycle.ErrLocked)
	}
	return f, err
}
