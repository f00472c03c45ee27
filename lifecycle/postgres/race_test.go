package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// raced is a new database, which nobody is connected to.
func raced(t *testing.T, statements ...string) *pgtest.Database {
	t.Helper()
	d := pgtest.New(t)
	s, err := Create(t.Context(), Options{URL: d.URL()}, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, sql := range statements {
		if _, err := s.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// handles opens a database like another three times. A statement that is compiled
// would take longer than all others of a round, and some of what is raced runs into
// deadlocks.
func handles(t *testing.T, like *pgtest.Database) (out []lifecycle.Store) {
	t.Helper()
	d := like.Clone(t, `jit = off`, `deadlock_timeout = '10ms'`)
	for range 3 {
		s, err := Open(t.Context(), Options{URL: d.URL()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		out = append(out, s)
	}
	return out
}

// TestHoldRace: holds against sweeps and ingests, on three handles. Each part has a
// database of its own: what a new hold by location has to look through is all that
// there is.
func TestHoldRace(t *testing.T) {
	parts, rounds := storetest.RaceRounds()
	empty := raced(t)
	for i := range parts {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			storetest.Race{Stores: handles(t, empty), Rounds: rounds, Seed: uint64(time.Now().UnixNano())}.Run(t)
		})
	}
}

// protocol is a soft-delete's, part by part. It is written once more here, so that
// each part can be left out.
type protocol struct {
	begin string
	lock  string // the statement that takes the lock, none if it is empty
	check string // what is true for a record that may go
	// trace: the traces are brought up to date before the check.
	trace bool
}

// sound is the one that the Store keeps to.
var sound = protocol{begin: readCommitted, lock: `SELECT pg_advisory_xact_lock($1)`, check: notHeld, trace: true}

func (p protocol) softDelete(ctx context.Context, s lifecycle.Store, _ lifecycle.Lease, segment string, now time.Time, members []lifecycle.Member, leaf lifecycle.Leaf, between func()) (int, error) {
	ids := make([]string, len(members))
	for i := range members {
		ids[i] = members[i].RecordID
	}
	n := 0
	err := attempted(ctx, s, p.begin, func(tx *txn) error {
		if p.lock != "" {
			if _, err := tx.exec(ctx, p.lock, lockKey); err != nil {
				return err
			}
		}
		if p.trace {
			if err := tx.ensureTraced(ctx, math.MaxInt); err != nil {
				return err
			}
		}
		seqs, err := all(ctx, tx, (*columns).int, `SELECT r.seq FROM lotkeeper.records r WHERE r.record_id = ANY($1) AND r.state = 'active' AND `+p.check, ids)
		if err != nil || len(seqs) == 0 {
			n = 0
			return err
		}
		if between != nil {
			between()
			between = nil
		}
		leafID, err := tx.appendLeaf(ctx, leaf)
		if err != nil {
			return err
		}
		seqs, err = all(ctx, tx, (*columns).int, `UPDATE lotkeeper.records SET state = 'archived', archive_leaf = $1, segment_no = (SELECT segment_no FROM lotkeeper.segments WHERE segment_id = $2)
			WHERE seq = ANY($3) AND state = 'active' RETURNING seq`, leafID, segment, seqs)
		if err != nil {
			return err
		}
		n = len(seqs)
		_, err = tx.exec(ctx, `DELETE FROM lotkeeper.deks WHERE seq = ANY($1)`, seqs)
		return err
	})
	return n, err
}

// attempted runs fn in a transaction of its own, and a few times again if another
// one was in the way: of some that cannot be serialized, one has to give up.
func attempted(ctx context.Context, s lifecycle.Store, begin string, fn func(*txn) error) error {
	for range 10 {
		err := pgx.BeginTxFunc(ctx, s.(*Store).pool, pgx.TxOptions{BeginQuery: begin}, func(tx pgx.Tx) error { return fn(&txn{Tx: tx}) })
		var e *pgconn.PgError
		unserializable := errors.As(err, &e) && e.Code == "40001"
		if !inTheWay(err) && !unserializable {
			return err
		}
	}
	return storetest.ErrGaveUp
}

const serializable = `BEGIN ISOLATION LEVEL SERIALIZABLE`

// placeSerializable places a hold in a serializable transaction instead of under the lock.
func placeSerializable(ctx context.Context, s lifecycle.Store, p lifecycle.Placement) error {
	return attempted(ctx, s, serializable, func(tx *txn) error {
		placed, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.holds WHERE hold_id = $1`, p.Hold.ID)
		if err != nil || placed > 0 {
			return err
		}
		if err := insertHold(ctx, tx, &p.Hold); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, p.Leaf)
		return err
	})
}

// TestHoldRaceControls: the race tells what does not keep the promise from what
// does. The guards are taken away: they stop most of what gets past a lock, and this
// is about the lock.
func TestHoldRaceControls(t *testing.T) {
	empty := raced(t, `ALTER TABLE lotkeeper.records DISABLE TRIGGER records_archived`)
	for _, c := range []struct {
		name     string
		protocol func(p *protocol)
		place    func(context.Context, lifecycle.Store, lifecycle.Placement) error
		// alone: holds do not wait for the soft-delete.
		alone bool
	}{
		{name: "no lock", protocol: func(p *protocol) { p.lock = "" }, alone: true},
		{name: "serializable only", protocol: func(p *protocol) { p.begin, p.lock = serializable, "" }, place: placeSerializable, alone: true},
		{name: "lock and check in one statement", protocol: func(p *protocol) {
			p.lock, p.check = "", fmt.Sprintf(`(SELECT pg_advisory_xact_lock(%d)) IS NOT NULL AND `, lockKey)+notHeld
		}},
		{name: "lock inside repeatable read", protocol: func(p *protocol) { p.begin = `BEGIN ISOLATION LEVEL REPEATABLE READ` }},
		{name: "a closure without its versions", protocol: func(p *protocol) { p.trace = false }},
		{name: "sound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := sound
			r := storetest.Race{Stores: handles(t, empty), Rounds: 200, Seed: uint64(time.Now().UnixNano()), Place: c.place, Interpose: c.alone}
			if c.protocol == nil {
				r.SoftDelete, r.Rounds = p.softDelete, 40
				r.Run(t)
				return
			}
			c.protocol(&p)
			r.SoftDelete = p.softDelete
			r.Control(t)
		})
	}
}
