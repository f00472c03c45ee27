package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// heartbeat is a lease that this handle holds, and what ends its renewal.
type heartbeat struct {
	lifecycle.Lease
	stop func()
}

// beat renews a lease at a third of its term until the context is done or the
// lease is another's. It decides nothing: a run whose heart has stopped is found
// out by the server's clock and its fence, not by this.
func (s *Store) beat(ctx context.Context, kind string, l lifecycle.Lease) {
	for wait(ctx, s.lease/3) {
		// A renewal that hangs must not outlast the lease's second third.
		once, cancel := context.WithTimeout(ctx, s.lease/3)
		renewed, err := s.renew(once, kind, l)
		cancel()
		if err == nil && !renewed {
			return
		}
	}
}

// renew is for a lease that was not given back: the end of a run may be under way, and
// this may have to wait for it.
func (s *Store) renew(ctx context.Context, kind string, l lifecycle.Lease) (bool, error) {
	tag, err := s.pool.Exec(ctx, `UPDATE lotkeeper.leases SET expires_at = clock_timestamp() + $4::bigint * interval '1 microsecond'
		WHERE kind = $1 AND fence = $2 AND run_id = $3 AND expires_at > '-infinity'`, kind, l.Fence, l.RunID, s.lease.Microseconds())
	return tag.RowsAffected() > 0, err
}

// keep starts the heart of a lease. The caller holds mu.
func (s *Store) keep(kind string, l lifecycle.Lease) {
	if h, ok := s.leases[kind]; ok {
		if h.Lease == l {
			return
		}
		h.stop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.beat(ctx, kind, l)
	}()
	s.leases[kind] = heartbeat{l, func() { cancel(); <-done }}
}

// giveBack lets the next run begin at once, instead of at the end of the term.
func (s *Store) giveBack(kind string, l lifecycle.Lease) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.lease)
	defer cancel()
	_, err := s.pool.Exec(ctx, expire+` AND fence = $3`, kind, l.RunID, l.Fence)
	return err
}

// expire ends a lease, if it is the run's.
const expire = `UPDATE lotkeeper.leases SET expires_at = '-infinity' WHERE kind = $1 AND run_id = $2`

func (s *Store) BeginRun(ctx context.Context, r lifecycle.Run, leaf lifecycle.Leaf) (lifecycle.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lease := lifecycle.Lease{RunID: r.ID}
	err := s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.leases (kind, fence, run_id, expires_at) VALUES ($1, 0, '', '-infinity') ON CONFLICT DO NOTHING`, r.Kind); err != nil {
			return err
		}
		type holder struct {
			fence      int64
			run        string
			live, runs bool
		}
		// The row stays locked: two that begin at once do so one after the other,
		// and a fenced transaction that is under way comes to its end first.
		h, err := one(ctx, tx, func(c *columns) holder { return holder{c.int(), c.text(), c.int() == 1, c.int() == 1} },
			`SELECT l.fence, l.run_id, l.expires_at > clock_timestamp(), EXISTS (SELECT FROM lotkeeper.runs r WHERE r.run_id = l.run_id AND r.status = 'running')
			FROM lotkeeper.leases l WHERE l.kind = $1 FOR UPDATE OF l`, r.Kind)
		if err != nil {
			return err
		}
		if h.runs && h.run == r.ID {
			lease.Fence = h.fence // begun before, and the acknowledgement got lost
			return nil
		}
		if h.live {
			return fmt.Errorf("%s is running: %w", h.run, lifecycle.ErrLocked)
		}
		// Nobody holds the lease, so whoever left these running is gone.
		dead, err := all(ctx, tx, (*columns).text, `UPDATE lotkeeper.runs SET status = 'interrupted' WHERE kind = $1 AND status = 'running' RETURNING run_id`, r.Kind)
		if err != nil {
			return err
		}
		for _, id := range dead {
			gone := leaf
			gone.Action, gone.RunID, gone.Subject, gone.Body = lifecycle.ActionRunInterrupted, id, id, nil
			if _, err := tx.appendLeaf(ctx, gone); err != nil {
				return err
			}
		}
		if lease.Fence, err = one(ctx, tx, (*columns).int, `UPDATE lotkeeper.leases SET fence = fence + 1, run_id = $2,
			expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond' WHERE kind = $1 RETURNING fence`, r.Kind, r.ID, s.lease.Microseconds()); err != nil {
			return err
		}
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.runs (run_id, kind, actor, started_at, status) VALUES ($1, $2, $3, $4, 'running')`,
			r.ID, r.Kind, r.Actor, stamp(r.StartedAt)); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return lifecycle.Lease{}, fmt.Errorf("couldn't begin %s %s: %w", r.Kind, r.ID, err)
	}
	s.keep(r.Kind, lease)
	return lease, nil
}

func (s *Store) FinishRun(ctx context.Context, r lifecycle.Run, leaf lifecycle.Leaf) error {
	err := s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		// The lease's row first, as everybody locks them in this order.
		if _, err := tx.exec(ctx, expire, r.Kind, r.ID); err != nil {
			return err
		}
		n, err := tx.exec(ctx, `UPDATE lotkeeper.runs SET finished_at = $1, status = $2, result = $3 WHERE run_id = $4 AND status = 'running'`,
			stamp(r.FinishedAt), r.Status, string(r.Result), r.ID)
		if err := moved(n, err, "run "+r.ID); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	// Whether or not that was recorded, this process is done: the next run will
	// find it running without a lease, and mark it interrupted.
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.leases[r.Kind]; ok && h.RunID == r.ID {
		h.stop()
		delete(s.leases, r.Kind)
		if err != nil {
			err = errors.Join(err, s.giveBack(r.Kind, h.Lease))
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't record the end of %s %s: %w", r.Kind, r.ID, err)
	}
	return nil
}

const runColumns = `run_id, kind, actor, started_at, finished_at, status, result`

func scanRun(c *columns) lifecycle.Run {
	return lifecycle.Run{ID: c.text(), Kind: c.text(), Actor: c.text(), StartedAt: c.time(), FinishedAt: c.maybeTime(), Status: c.text(), Result: c.bytes()}
}

func (s *Store) Runs(ctx context.Context, n int) ([]lifecycle.Run, error) {
	out, err := all(ctx, s.pool, scanRun, `SELECT `+runColumns+` FROM lotkeeper.runs ORDER BY started_at DESC, run_no DESC LIMIT $1`, limit(n))
	if err != nil {
		return nil, fmt.Errorf("couldn't read runs: %w", err)
	}
	return out, nil
}

func (s *Store) Run(ctx context.Context, id string) (lifecycle.Run, error) {
	r, err := one(ctx, s.pool, scanRun, `SELECT `+runColumns+` FROM lotkeeper.runs WHERE run_id = $1`, id)
	return r, found(err, "run", id)
}

// limit is the parameter of a LIMIT: NULL for none.
func limit(n int) *int {
	if n <= 0 {
		return nil
	}
	return &n
}

func found(err error, what, id string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%s %s: %w", what, id, lifecycle.ErrNotFound)
	}
	return err
}
