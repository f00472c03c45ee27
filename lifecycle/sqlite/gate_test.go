package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// TestGateLetsHoldsFirst: once a hold has queued, each writer gets in at most
// once more before it, for as often as they come again.
func TestGateLetsHoldsFirst(t *testing.T) {
	const writers = 8
	ctx := t.Context()
	for round := range 20 {
		g := gate{t.TempDir()}
		enter := func(first bool) func() {
			leave, err := g.enter(ctx, first)
			if err != nil {
				t.Error(err)
				return func() {}
			}
			return leave
		}
		inside := enter(false) // a transaction that is under way

		var began atomic.Int64
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for !stop.Load() {
					leave := enter(false)
					began.Add(1)
					leave()
				}
			})
		}
		var before int64
		wg.Go(func() {
			leave := enter(true)
			before = began.Load()
			leave()
			stop.Store(true)
		})
		// It has queued when nobody can pass any more. A writer in passing holds
		// the lock shared, which does not keep us from sharing it.
		probe, err := os.Open(filepath.Join(g.dir, "hold"))
		if err != nil {
			t.Fatal(err)
		}
		for unix.Flock(int(probe.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			unix.Flock(int(probe.Fd()), unix.LOCK_UN)
		}
		probe.Close()
		queued := began.Load()
		inside()
		wg.Wait()
		if n := before - queued; n > writers {
			t.Fatalf("round %d: %d transactions began after the hold had queued, with %d writers", round, n, writers)
		}
	}
}

// TestHoldAmongWriters: back-to-back writers on eight handles do not keep holds
// out, nor holds each other.
func TestHoldAmongWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lotkeeper.db")
	s, err := Create(t.Context(), path, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var stop atomic.Bool
	var writers, placers sync.WaitGroup
	for range 8 {
		h, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		writers.Go(func() {
			for !stop.Load() {
				if err := h.Append(t.Context(), lifecycle.Leaf{At: storetest.Start, Action: "busy"}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 20 {
		placers.Go(func() {
			err := s.Place(t.Context(), lifecycle.Placement{Hold: lifecycle.Hold{
				ID: fmt.Sprint("h-", i), Kind: lifecycle.Recall, PlacedAt: storetest.Start, Scopes: []lifecycle.Scope{{RecordID: "r"}},
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	placers.Wait()
	stop.Store(true)
	writers.Wait()
	if holds, err := s.Holds(t.Context(), true); err != nil || len(holds) != 20 {
		t.Errorf("%d holds, %v", len(holds), err)
	}
}

// TestWaitCancelled: a context that is done ends the wait for the lock, and what
// stays behind in the kernel's queue takes nothing away.
func TestWaitCancelled(t *testing.T) {
	s := create(t)
	for _, first := range []bool{false, true} {
		inside, err := s.gate.enter(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := s.gate.enter(ctx, first)
			failed <- err
		}()
		if first {
			// Until it has queued: then it keeps others from passing.
			for {
				f, err := s.gate.flock(t.Context(), "hold", unix.LOCK_SH|unix.LOCK_NB)
				if errors.Is(err, unix.EWOULDBLOCK) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
		}
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while it waited: %v", err)
		}
		inside()
		if err := s.Append(t.Context(), lifecycle.Leaf{At: storetest.Start}); err != nil {
			t.Error(err)
		}
	}
}
