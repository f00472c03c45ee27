package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// gone is true for a record r of which no readable copy is left: it is purged, or will
// be, since nothing stops the end of its archive class any more.
const gone = `(r.state = 'purged' OR r.state = 'archived' AND r.archive_class_no IN (
	SELECT class_no FROM classes WHERE kind IN ('archive', 'hold') AND state IN ('executing', 'destroyed')))`

func (s *Store) DyingArchives(ctx context.Context, now time.Time) ([]lifecycle.Class, error) {
	return s.dying(ctx, `kind IN ('archive', 'hold')`, now)
}

func (s *Store) MoveArchiveClass(ctx context.Context, l lifecycle.Lease, from, to string, limit int, leaf lifecycle.Leaf) (int, error) {
	n := 0
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		n = 0
		toNo, err := openClass(ctx, tx, to)
		if err != nil {
			return err
		}
		seqs, err := activeOf(ctx, tx, from, int64(limit))
		if err != nil || len(seqs) == 0 {
			return err
		}
		leafID, err := appendLeaf(ctx, tx, leaf.With("records", len(seqs)))
		if err != nil {
			return err
		}
		n = len(seqs)
		return markMoved(ctx, tx, toNo, leafID, seqs)
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't move records from archive class %s to %s: %w", from, to, err)
	}
	return n, nil
}

// activeOf finds the first active records of an archive class.
func activeOf(ctx context.Context, tx *sql.Tx, class string, limit int64) ([]int64, error) {
	rows, err := tx.QueryContext(ctx, `SELECT seq FROM records WHERE archive_class_no = (SELECT class_no FROM classes WHERE class_id = ?) AND state = 'active'
		ORDER BY due_at, seq LIMIT ?`, class, limit)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanOne[int64])
}

// markMoved moves active records to another archive class.
func markMoved(ctx context.Context, tx *sql.Tx, classNo, leafID int64, seqs []int64) error {
	ids := list(seqs)
	if err := exactly(len(seqs))(tx.ExecContext(ctx, `UPDATE records SET archive_class_no = ?, content_class_no = coalesce(content_class_no, archive_class_no)
		WHERE seq IN (SELECT value FROM json_each(?)) AND state = 'active'`, classNo, ids)); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO reseals (seq, leaf_id) SELECT value, ? FROM json_each(?)`, leafID, ids)
	return err
}

func (s *Store) Rearchive(ctx context.Context, l lifecycle.Lease, from, to string, members []lifecycle.Member, leaf lifecycle.Leaf) (int, error) {
	n := 0
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		n = 0
		var fromNo, toNo, classNo int64
		err := tx.QueryRowContext(ctx, `SELECT f.segment_no, t.segment_no, tc.class_no
			FROM segments f JOIN classes fc ON fc.class_no = f.class_no, segments t JOIN classes tc ON tc.class_no = t.class_no
			WHERE f.segment_id = ? AND fc.state NOT IN ('executing', 'destroyed') AND t.segment_id = ? AND t.state = 'verified' AND t.purge_leaf = 0 AND tc.state = 'open'`,
			from, to).Scan(&fromNo, &toNo, &classNo)
		if err == sql.ErrNoRows {
			err = lifecycle.ErrMoved
		}
		if err != nil {
			return err
		}
		var seqs []int64
		rows, err := tx.QueryContext(ctx, `SELECT r.seq, r.checksum FROM json_each(?) j CROSS JOIN records r ON r.record_id = j.value ->> 0
			WHERE r.state = 'archived' AND +r.segment_no = ? AND lower(hex(r.checksum)) = j.value ->> 1 ORDER BY r.due_at, r.record_id`, pairs(members), fromNo)
		if err != nil {
			return err
		}
		moved, err := collect(rows, func(rows *sql.Rows) (c [32]byte, err error) {
			var seq int64
			err = rows.Scan(&seq, sum(&c))
			seqs = append(seqs, seq)
			return c, err
		})
		if err != nil || len(seqs) == 0 {
			return err
		}
		leafID, err := appendLeaf(ctx, tx, leaf.Of(moved))
		if err != nil {
			return err
		}
		n = len(seqs)
		return markRearchived(ctx, tx, fromNo, toNo, classNo, leafID, seqs)
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't move %d records from segment %s to %s: %w", len(members), from, to, err)
	}
	return n, nil
}

// markRearchived moves archived records to another segment, of the class.
func markRearchived(ctx context.Context, tx *sql.Tx, fromNo, toNo, classNo, leafID int64, seqs []int64) error {
	ids := list(seqs)
	if err := exactly(len(seqs))(tx.ExecContext(ctx, `UPDATE records SET segment_no = ?, archive_class_no = ?, content_class_no = coalesce(content_class_no, archive_class_no)
		WHERE seq IN (SELECT value FROM json_each(?)) AND state = 'archived' AND segment_no = ?`, toNo, classNo, ids, fromNo)); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO rearchivals (seq, leaf_id, from_segment) SELECT value, ?, ? FROM json_each(?)`, leafID, fromNo, ids)
	return err
}

func (s *Store) Purge(ctx context.Context, l lifecycle.Lease, segment string, limit int, counted func(*lifecycle.Row) bool, leaf lifecycle.Leaf) (n int, done bool, err error) {
	err = s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		n, done = 0, false
		var segmentNo, purged int64
		err := tx.QueryRowContext(ctx, `SELECT g.segment_no, g.purge_leaf FROM segments g JOIN classes c USING (class_no)
			WHERE g.segment_id = ? AND g.state IN ('verified', 'settled') AND c.state = 'destroyed'`, segment).Scan(&segmentNo, &purged)
		if err == sql.ErrNoRows {
			err = fmt.Errorf("its class is not destroyed: %w", lifecycle.ErrMoved)
		}
		if err != nil {
			return err
		}
		if purged != 0 {
			done = true
			return nil
		}
		var seqs []int64
		// One more than is asked for, to know whether any is left.
		rows, err := tx.QueryContext(ctx, `SELECT seq, checksum FROM records WHERE segment_no = ? AND state = 'archived' ORDER BY due_at, record_id LIMIT ?`, segmentNo, limit+1)
		if err != nil {
			return err
		}
		sums, err := collect(rows, func(rows *sql.Rows) (c [32]byte, err error) {
			var seq int64
			err = rows.Scan(&seq, sum(&c))
			seqs = append(seqs, seq)
			return c, err
		})
		if err != nil {
			return err
		}
		if done = len(seqs) <= limit; !done {
			seqs, sums = seqs[:limit], sums[:limit]
		}
		told := leaf.Of(sums).With("done", done)
		if counted != nil {
			aggregated, err := aggregate(ctx, tx, seqs, counted)
			if err != nil {
				return err
			}
			told = told.With("aggregated", aggregated)
		}
		leafID, err := appendLeaf(ctx, tx, told)
		if err != nil {
			return err
		}
		if err := markPurged(ctx, tx, leafID, seqs); err != nil {
			return err
		}
		n = len(seqs)
		if done {
			return exactly(1)(tx.ExecContext(ctx, `UPDATE segments SET purge_leaf = ? WHERE segment_no = ?`, leafID, segmentNo))
		}
		return nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("couldn't purge the records of segment %s: %w", segment, err)
	}
	return n, done, nil
}

func markPurged(ctx context.Context, tx *sql.Tx, leafID int64, seqs []int64) error {
	return exactly(len(seqs))(tx.ExecContext(ctx, `UPDATE records SET state = 'purged', purge_leaf = ?
		WHERE seq IN (SELECT value FROM json_each(?)) AND state = 'archived'`, leafID, list(seqs)))
}

// aggregate adds records to the totals, as far as they are to be counted.
func aggregate(ctx context.Context, tx *sql.Tx, seqs []int64, counted func(*lifecycle.Row) bool) (int, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+rowColumns+` FROM `+rowTables+` WHERE r.seq IN (SELECT value FROM json_each(?))`, list(seqs))
	if err != nil {
		return 0, err
	}
	purged, err := collect(rows, func(rows *sql.Rows) (lifecycle.Row, error) { return scanRow(rows) })
	if err != nil {
		return 0, err
	}
	totals, n := lifecycle.Aggregated(purged, counted)
	for _, a := range totals {
		res, err := tx.ExecContext(ctx, `UPDATE aggregates SET records = records + ? WHERE month = ? AND product = ? AND event_type = ?`, a.Records, a.Month, a.Product, a.EventType)
		if err != nil {
			return 0, fmt.Errorf("couldn't count what is purged: %w", err)
		}
		if known, err := res.RowsAffected(); err != nil {
			return 0, err
		} else if known > 0 {
			continue
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO aggregates (month, product, event_type, records) VALUES (?, ?, ?, ?)`, a.Month, a.Product, a.EventType, a.Records); err != nil {
			return 0, fmt.Errorf("couldn't count what is purged: %w", err)
		}
	}
	return n, nil
}

func (s *Store) Aggregates(ctx context.Context) ([]lifecycle.Aggregate, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT month, product, event_type, records FROM aggregates ORDER BY month, product, event_type`)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the aggregates: %w", err)
	}
	return collect(rows, func(rows *sql.Rows) (a lifecycle.Aggregate, err error) {
		err = rows.Scan(&a.Month, &a.Product, &a.EventType, &a.Records)
		return a, err
	})
}

func (s *Store) Undeleted(ctx context.Context) ([]lifecycle.Segment, error) {
	return s.segments(ctx, `g.purge_leaf <> 0 AND EXISTS (SELECT 1 FROM segment_copies c WHERE c.segment_no = g.segment_no AND c.deleted_at = '')`)
}

func (s *Store) CopyDeleted(ctx context.Context, l lifecycle.Lease, segment, vault string, leaf lifecycle.Leaf) error {
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		var no, purged int64
		var at string
		err := tx.QueryRowContext(ctx, `SELECT g.segment_no, g.purge_leaf, c.deleted_at FROM segments g JOIN segment_copies c USING (segment_no)
			WHERE g.segment_id = ? AND c.vault = ?`, segment, vault).Scan(&no, &purged, &at)
		switch {
		case err != nil:
			return found(err, "the copy of segment", segment)
		case purged == 0:
			return fmt.Errorf("it is not purged: %w", lifecycle.ErrMoved)
		case at != "":
			return nil
		}
		if err := exactly(1)(tx.ExecContext(ctx, `UPDATE segment_copies SET deleted_at = ? WHERE segment_no = ? AND vault = ?`, stamp(leaf.At), no, vault)); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record that the copy of segment %s in vault %s is deleted: %w", segment, vault, err)
	}
	return nil
}
