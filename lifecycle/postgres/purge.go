package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// gone is true for a record r of which no readable copy is left: it is purged, or will
// be, since nothing stops the end of its archive class any more.
const gone = `(r.state = 'purged' OR r.state = 'archived' AND r.archive_class_no IN (
	SELECT class_no FROM lotkeeper.classes WHERE kind IN ('archive', 'hold') AND state IN ('executing', 'destroyed')))`

func (s *Store) DyingArchives(ctx context.Context, now time.Time) ([]lifecycle.Class, error) {
	return s.dying(ctx, `c.kind IN ('archive', 'hold')`, now)
}

func (s *Store) MoveArchiveClass(ctx context.Context, l lifecycle.Lease, from, to string, limit int, leaf lifecycle.Leaf) (int, error) {
	n := 0
	err := s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		n = 0
		toNo, err := openClass(ctx, tx, to)
		if err != nil {
			return err
		}
		seqs, err := tx.activeOf(ctx, from, int64(limit))
		if err != nil || len(seqs) == 0 {
			return err
		}
		leafID, err := tx.appendLeaf(ctx, leaf.With("records", len(seqs)))
		if err != nil {
			return err
		}
		n = len(seqs)
		return tx.markMoved(ctx, toNo, leafID, seqs)
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't move records from archive class %s to %s: %w", from, to, err)
	}
	return n, nil
}

// activeOf finds the first active records of an archive class.
func (tx *txn) activeOf(ctx context.Context, class string, limit int64) ([]int64, error) {
	return all(ctx, tx, (*columns).int, `SELECT seq FROM lotkeeper.records WHERE archive_class_no = (SELECT class_no FROM lotkeeper.classes WHERE class_id = $1)
		AND archive_leaf = 0 ORDER BY due_at, seq LIMIT $2`, class, limit)
}

// markMoved moves active records to another archive class.
func (tx *txn) markMoved(ctx context.Context, classNo, leafID int64, seqs []int64) error {
	if err := exactly(len(seqs))(tx.exec(ctx, `UPDATE lotkeeper.records SET archive_class_no = $1, content_class_no = coalesce(content_class_no, archive_class_no)
		WHERE seq = ANY($2) AND state = 'active'`, classNo, seqs)); err != nil {
		return err
	}
	_, err := tx.exec(ctx, `INSERT INTO lotkeeper.reseals (seq, leaf_id) SELECT seq, $1 FROM unnest($2::bigint[]) seq`, leafID, seqs)
	return err
}

func (s *Store) Rearchive(ctx context.Context, l lifecycle.Lease, from, to string, members []lifecycle.Member, leaf lifecycle.Leaf) (int, error) {
	ids, sums := idsAndSums(members)
	type place struct{ from, to, class int64 }
	n := 0
	err := s.fenced(ctx, exclusive, l, func(ctx context.Context, tx *txn) error {
		n = 0
		at, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int(), c.int()} }, `SELECT f.segment_no, t.segment_no, tc.class_no
			FROM lotkeeper.segments f JOIN lotkeeper.classes fc ON fc.class_no = f.class_no, lotkeeper.segments t JOIN lotkeeper.classes tc ON tc.class_no = t.class_no
			WHERE f.segment_id = $1 AND fc.state NOT IN ('executing', 'destroyed') AND t.segment_id = $2 AND t.state = 'verified' AND t.purge_leaf = 0 AND tc.state = 'open'`, from, to)
		if errors.Is(err, pgx.ErrNoRows) {
			err = lifecycle.ErrMoved
		}
		if err != nil {
			return err
		}
		var seqs []int64
		var moved [][32]byte
		if err := each(ctx, tx, func(c *columns) { seqs, moved = append(seqs, c.int()), append(moved, c.sum()) },
			`SELECT r.seq, r.checksum FROM unnest($1::text[], $2::bytea[]) m(record_id, checksum),
			LATERAL (SELECT * FROM lotkeeper.records r WHERE r.record_id = m.record_id OFFSET 0) r
			WHERE r.state = 'archived' AND r.segment_no = $3 AND r.checksum = m.checksum ORDER BY r.due_at, r.record_id`, ids, sums, at.from); err != nil || len(seqs) == 0 {
			return err
		}
		leafID, err := tx.appendLeaf(ctx, leaf.Of(moved))
		if err != nil {
			return err
		}
		n = len(seqs)
		return tx.markRearchived(ctx, at.from, at.to, at.class, leafID, seqs)
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't move %d records from segment %s to %s: %w", len(members), from, to, err)
	}
	return n, nil
}

// markRearchived moves archived records to another segment, of the class.
func (tx *txn) markRearchived(ctx context.Context, from, to, class, leafID int64, seqs []int64) error {
	if err := exactly(len(seqs))(tx.exec(ctx, `UPDATE lotkeeper.records SET segment_no = $1, archive_class_no = $2, content_class_no = coalesce(content_class_no, archive_class_no)
		WHERE seq = ANY($3) AND state = 'archived' AND segment_no = $4`, to, class, seqs, from)); err != nil {
		return err
	}
	_, err := tx.exec(ctx, `INSERT INTO lotkeeper.rearchivals (seq, leaf_id, from_segment) SELECT seq, $1, $2 FROM unnest($3::bigint[]) seq`, leafID, from, seqs)
	return err
}

func (s *Store) Purge(ctx context.Context, l lifecycle.Lease, segment string, limit int, counted func(*lifecycle.Row) bool, leaf lifecycle.Leaf) (n int, done bool, err error) {
	type place struct{ no, purged int64 }
	err = s.fenced(ctx, exclusive, l, func(ctx context.Context, tx *txn) error {
		n, done = 0, false
		g, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int()} }, `SELECT g.segment_no, g.purge_leaf
			FROM lotkeeper.segments g JOIN lotkeeper.classes c USING (class_no) WHERE g.segment_id = $1 AND g.state IN ('verified', 'settled') AND c.state = 'destroyed'`, segment)
		if errors.Is(err, pgx.ErrNoRows) {
			err = fmt.Errorf("its class is not destroyed: %w", lifecycle.ErrMoved)
		}
		if err != nil {
			return err
		}
		if g.purged != 0 {
			done = true
			return nil
		}
		var seqs []int64
		var sums [][32]byte
		// One more than is asked for, to know whether any is left.
		if err := each(ctx, tx, func(c *columns) { seqs, sums = append(seqs, c.int()), append(sums, c.sum()) },
			`SELECT seq, checksum FROM lotkeeper.records WHERE segment_no = $1 AND state = 'archived' ORDER BY due_at, record_id LIMIT $2`, g.no, limit+1); err != nil {
			return err
		}
		if done = len(seqs) <= limit; !done {
			seqs, sums = seqs[:limit], sums[:limit]
		}
		told := leaf.Of(sums).With("done", done)
		if counted != nil {
			aggregated, err := tx.aggregate(ctx, seqs, counted)
			if err != nil {
				return err
			}
			told = told.With("aggregated", aggregated)
		}
		leafID, err := tx.appendLeaf(ctx, told)
		if err != nil {
			return err
		}
		if err := tx.markPurged(ctx, leafID, seqs); err != nil {
			return err
		}
		n = len(seqs)
		if done {
			return exactly(1)(tx.exec(ctx, `UPDATE lotkeeper.segments SET purge_leaf = $1 WHERE segment_no = $2`, leafID, g.no))
		}
		return nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("couldn't purge the records of segment %s: %w", segment, err)
	}
	return n, done, nil
}

func (tx *txn) markPurged(ctx context.Context, leafID int64, seqs []int64) error {
	return exactly(len(seqs))(tx.exec(ctx, `UPDATE lotkeeper.records SET state = 'purged', purge_leaf = $1 WHERE seq = ANY($2) AND state = 'archived'`, leafID, seqs))
}

// aggregate adds records to the totals, as far as they are to be counted.
func (tx *txn) aggregate(ctx context.Context, seqs []int64, counted func(*lifecycle.Row) bool) (int, error) {
	purged, err := rows(ctx, tx, ` WHERE r.seq = ANY($1)`, seqs)
	if err != nil {
		return 0, err
	}
	totals, n := lifecycle.Aggregated(purged, counted)
	for _, a := range totals {
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.aggregates AS a (month, product, event_type, records) VALUES ($1, $2, $3, $4)
			ON CONFLICT (month, product, event_type) DO UPDATE SET records = a.records + excluded.records`, a.Month, a.Product, string(a.EventType), a.Records); err != nil {
			return 0, fmt.Errorf("couldn't count what is purged: %w", err)
		}
	}
	return n, nil
}

func (s *Store) Aggregates(ctx context.Context) ([]lifecycle.Aggregate, error) {
	out, err := all(ctx, s.pool, func(c *columns) lifecycle.Aggregate {
		return lifecycle.Aggregate{Month: c.text(), Product: c.text(), EventType: cte.EventType(c.text()), Records: c.int()}
	}, `SELECT month, product, event_type, records FROM lotkeeper.aggregates ORDER BY month, product, event_type`)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the aggregates: %w", err)
	}
	return out, nil
}

func (s *Store) Undeleted(ctx context.Context) ([]lifecycle.Segment, error) {
	return s.segments(ctx, `g.purge_leaf <> 0 AND EXISTS (SELECT FROM lotkeeper.segment_copies k WHERE k.segment_no = g.segment_no AND k.deleted_at = '')`)
}

func (s *Store) CopyDeleted(ctx context.Context, l lifecycle.Lease, segment, vault string, leaf lifecycle.Leaf) error {
	type place struct {
		no, purged int64
		at         string
	}
	err := s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		c, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int(), c.text()} }, `SELECT g.segment_no, g.purge_leaf, k.deleted_at
			FROM lotkeeper.segments g JOIN lotkeeper.segment_copies k USING (segment_no) WHERE g.segment_id = $1 AND k.vault = $2`, segment, vault)
		switch {
		case err != nil:
			return found(err, "the copy of segment", segment)
		case c.purged == 0:
			return fmt.Errorf("it is not purged: %w", lifecycle.ErrMoved)
		case c.at != "":
			return nil
		}
		if err := exactly(1)(tx.exec(ctx, `UPDATE lotkeeper.segment_copies SET deleted_at = $1 WHERE segment_no = $2 AND vault = $3`, stamp(leaf.At), c.no, vault)); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record that the copy of segment %s in vault %s is deleted: %w", segment, vault, err)
	}
	return nil
}
