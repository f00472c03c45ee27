package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// handles opens a new database three times.
func handles(t *testing.T, statements ...string) (out []lifecycle.Store) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lotkeeper-test-") // many commits, and no power is cut
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "lotkeeper.db")
	s, err := Create(t.Context(), path, 0, storetest.Init())
	for range 3 {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		out = append(out, s)
		s, err = Open(t.Context(), path)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, q := range statements {
		if err := out[0].(*Store).write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, q)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestHoldRace: holds against sweeps and ingests, on three handles. Each part has a
// database of its own: what a new hold by location has to look through is all that
// there is.
func TestHoldRace(t *testing.T) {
	parts, rounds := storetest.RaceRounds()
	for i := range parts {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			storetest.Race{Stores: handles(t), Rounds: rounds, Seed: uint64(time.Now().UnixNano())}.Run(t)
		})
	}
}

// protocol is a soft-delete's. It is written once more here, so that each part can
// be left out.
type protocol struct {
	// before: the check is made before the transaction that writes begins.
	before bool
	// trace: the traces are brought up to date before the check.
	trace bool
}

// sound is the one that the Store keeps to.
var sound = protocol{trace: true}

func (p protocol) softDelete(ctx context.Context, store lifecycle.Store, _ lifecycle.Lease, segment string, _ time.Time, members []lifecycle.Member, leaf lifecycle.Leaf, between func()) (int, error) {
	s := store.(*Store)
	var ids []string
	for _, m := range members {
		ids = append(ids, m.RecordID)
	}
	var seqs []int64
	check := func(ctx context.Context, q querier) error {
		rows, err := q.QueryContext(ctx, `SELECT r.seq FROM json_each(?) j JOIN records r ON r.record_id = j.value WHERE r.state = 'active' AND NOT `+heldRecord, list(ids))
		if err == nil {
			seqs, err = collect(rows, scanOne[int64])
		}
		if err == nil && len(seqs) > 0 && between != nil {
			between()
			between = nil
		}
		return err
	}
	write := func(fn func(context.Context, *sql.Tx) error) error { return s.write(ctx, fn) }
	if p.before {
		if p.trace {
			if err := s.TraceHolds(ctx); err != nil {
				return 0, err
			}
		}
		if err := check(ctx, s.r); err != nil {
			return 0, err
		}
	}
	n := 0
	fn := func(ctx context.Context, tx *sql.Tx) error {
		if !p.before {
			if err := check(ctx, tx); err != nil {
				return err
			}
		}
		if n = 0; len(seqs) == 0 {
			return nil
		}
		leafID, err := appendLeaf(ctx, tx, leaf)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `UPDATE records SET state = 'archived', archive_leaf = ?, segment_no = (SELECT segment_no FROM segments WHERE segment_id = ?)
			WHERE seq IN (SELECT value FROM json_each(?)) AND state = 'active' RETURNING seq`, leafID, segment, list(seqs))
		if err != nil {
			return err
		}
		gone, err := collect(rows, scanOne[int64])
		n = len(gone)
		_, e := tx.ExecContext(ctx, `DELETE FROM deks WHERE seq IN (SELECT value FROM json_each(?))`, list(gone))
		return errors.Join(err, e)
	}
	if p.trace && !p.before {
		err := s.traced(ctx, write, fn)
		return n, err
	}
	err := write(fn)
	return n, err
}

// TestHoldRaceControls: the race tells what does not keep the promise from what
// does. The guard is taken away: it stops some of what the check lets through, and
// this is about the check.
func TestHoldRaceControls(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol protocol
	}{
		{"check before the transaction", protocol{before: true, trace: true}},
		{"a closure without its versions", protocol{}},
		{"sound", sound},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := storetest.Race{Stores: handles(t, `DROP TRIGGER records_archived`), Rounds: 200, Seed: uint64(time.Now().UnixNano()), SoftDelete: c.protocol.softDelete, Interpose: c.protocol.before}
			if c.protocol == sound {
				r.Rounds = 40
				r.Run(t)
				return
			}
			r.Control(t)
		})
	}
}
