package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func (s *Store) ActivePage(ctx context.Context, afterSeq int64, limit int, maxBytes int64) ([]lifecycle.Sealed, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+rowColumns+`, p.sealed, d.wrapped FROM `+rowTables+sealedTables+`
		WHERE r.seq > ? AND r.state = 'active' ORDER BY r.seq LIMIT ?`, afterSeq, limit)
	if err != nil {
		return nil, fmt.Errorf("couldn't read active records: %w", err)
	}
	out, err := within(rows, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("couldn't read active records: %w", err)
	}
	return out, nil
}

func (s *Store) CountActive(ctx context.Context, class string) (n int, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT count(*) FROM records WHERE class_no = (SELECT class_no FROM classes WHERE class_id = ?) AND state = 'active'`, class).Scan(&n)
	if err != nil {
		err = fmt.Errorf("couldn't count the records of class %s: %w", class, err)
	}
	return n, err
}

func (s *Store) Reschedule(ctx context.Context, l lifecycle.Lease, moves []lifecycle.Rescheduling, f lifecycle.Following, leaf lifecycle.Leaf) error {
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE meta SET following_leaf = ?, following_seq = ?, following_done = ?`, f.Leaf, f.Seq, f.Done); err != nil || len(moves) == 0 {
			return err
		}
		leafID, err := appendLeaf(ctx, tx, leaf)
		if err != nil {
			return err
		}
		classes := map[string]int64{}
		for i := range moves {
			for _, id := range []string{moves[i].To.Class, moves[i].To.ArchiveClass} {
				if classes[id] != 0 {
					continue
				}
				if classes[id], err = openClass(ctx, tx, id); err != nil {
					return err
				}
			}
		}
		// What is done to a record is written before it is done: a guard asks for that.
		write, err := tx.PrepareContext(ctx, `INSERT INTO reschedules (seq, leaf_id, due_from, due_to, class_from, class_to, archive_from, archive_to)
			SELECT r.seq, ?, r.due_at, ?, r.class_no, ?, r.archive_class_no, ? FROM `+rowTables+`
			WHERE r.seq = ? AND r.state = 'active' AND r.checksum = ? AND r.due_at = ? AND hc.class_id = ? AND ac.class_id = ?`)
		if err != nil {
			return err
		}
		defer write.Close()
		rewrap, err := tx.PrepareContext(ctx, `UPDATE deks SET class_no = ?, wrapped = ? WHERE seq = ? AND class_no = (SELECT class_no FROM classes WHERE class_id = ?)`)
		if err != nil {
			return err
		}
		defer rewrap.Close()
		update, err := tx.PrepareContext(ctx, `UPDATE records SET due_at = ?1, class_no = ?2, archive_class_no = ?3,
			content_class_no = CASE WHEN archive_class_no = ?3 THEN content_class_no ELSE coalesce(content_class_no, archive_class_no) END WHERE seq = ?4`)
		if err != nil {
			return err
		}
		defer update.Close()
		for i := range moves {
			m := &moves[i]
			class, archive := classes[m.To.Class], classes[m.To.ArchiveClass]
			res, err := write.ExecContext(ctx, leafID, stamp(m.To.DueAt), class, archive, m.Seq, m.Checksum[:], stamp(m.From.DueAt), m.From.Class, m.From.ArchiveClass)
			if err := moved(res, err, fmt.Sprintf("record %s is not as it was", m.RecordID)); err != nil {
				return err
			}
			if m.Wrapped != nil {
				res, err := rewrap.ExecContext(ctx, class, m.Wrapped, m.Seq, m.From.Class)
				if err := moved(res, err, fmt.Sprintf("the DEK of record %s is not of its class", m.RecordID)); err != nil {
					return err
				}
			}
			if err := exactly(1)(update.ExecContext(ctx, stamp(m.To.DueAt), class, archive, m.Seq)); err != nil {
				return fmt.Errorf("record %s: %w", m.RecordID, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("couldn't reschedule %d records: %w", len(moves), err)
	}
	return nil
}

// rescheduled reads what a leaf did to the records of a condition, and the due dates of
// those that were given others after it.
func rescheduled(ctx context.Context, tx *sql.Tx, leafID int64, cond string, args []any) (map[int64]*lifecycle.Rescheduling, map[int64]time.Time, error) {
	moves, dues := map[int64]*lifecycle.Rescheduling{}, map[int64]time.Time{}
	rows, err := tx.QueryContext(ctx, `SELECT m.seq, m.due_from, m.due_to, hf.class_id, ht.class_id, af.class_id, at.class_id FROM reschedules m
		JOIN classes hf ON hf.class_no = m.class_from JOIN classes ht ON ht.class_no = m.class_to JOIN classes af ON af.class_no = m.archive_from JOIN classes at ON at.class_no = m.archive_to
		WHERE m.leaf_id = ?`, leafID)
	if err != nil {
		return nil, nil, err
	}
	if _, err := collect(rows, func(rows *sql.Rows) (m lifecycle.Rescheduling, err error) {
		err = rows.Scan(&m.Seq, at(&m.From.DueAt), at(&m.To.DueAt), &m.From.Class, &m.To.Class, &m.From.ArchiveClass, &m.To.ArchiveClass)
		moves[m.Seq] = &m
		return m, err
	}); err != nil {
		return nil, nil, err
	}
	// The first of those after the leaf comes last.
	rows, err = tx.QueryContext(ctx, `SELECT m.seq, m.due_from FROM records r CROSS JOIN reschedules m ON m.seq = r.seq WHERE `+cond+` AND m.leaf_id > ? ORDER BY m.seq, m.leaf_id DESC`,
		append(args[:len(args):len(args)], leafID)...)
	if err != nil {
		return nil, nil, err
	}
	_, err = collect(rows, func(rows *sql.Rows) (due time.Time, err error) {
		var seq int64
		err = rows.Scan(&seq, at(&due))
		dues[seq] = due
		return due, err
	})
	return moves, dues, err
}

func (s *Store) MoveSegment(ctx context.Context, l lifecycle.Lease, g lifecycle.Segment, leaf lifecycle.Leaf) (int, error) {
	n := 0
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		n = 0
		to, err := openClass(ctx, tx, g.Class)
		if err != nil {
			return err
		}
		var no int64
		var there, later bool
		err = tx.QueryRowContext(ctx, `SELECT g.segment_no, g.class_no = t.class_no, f.state IN ('open', 'condemned') AND t.kind = 'archive' AND t.closes_at > f.closes_at
			FROM segments g JOIN classes f ON f.class_no = g.class_no JOIN classes t ON t.class_no = ?
			WHERE g.segment_id = ? AND g.state IN ('verified', 'settled') AND g.purge_leaf = 0`, to, g.ID).Scan(&no, &there, &later)
		switch {
		case err == sql.ErrNoRows:
			return fmt.Errorf("it is not live: %w", lifecycle.ErrMoved)
		case err != nil || there:
			return err
		case !later:
			return fmt.Errorf("class %s is not over later than its own, or that is on its way out: %w", g.Class, lifecycle.ErrMoved)
		}
		if err := takeMove(ctx, tx, no, to, g); err != nil {
			return err
		}
		var short int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM segment_copies c JOIN vaults v ON v.name = c.vault
			WHERE c.segment_no = ? AND v.state <> 'retiring' AND c.retain_until < ?`, no, stamp(g.RetainUntil)).Scan(&short); err != nil {
			return err
		}
		if short > 0 {
			return fmt.Errorf("%d copies are not locked for as long: %w", short, lifecycle.ErrMoved)
		}
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM records WHERE segment_no = ? AND state = 'archived'`, no).Scan(&n); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf.With("records", n))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't move segment %s to class %s: %w", g.ID, g.Class, err)
	}
	return n, nil
}

// takeMove moves a segment first, and its members with it: guards ask for that order.
func takeMove(ctx context.Context, tx *sql.Tx, no, class int64, g lifecycle.Segment) error {
	if _, err := tx.ExecContext(ctx, `UPDATE segments SET class_no = ?, wrapped_identity = ?, retain_until = max(retain_until, ?) WHERE segment_no = ?`,
		class, g.WrappedIdentity, stamp(g.RetainUntil), no); err != nil {
		return err
	}
	for _, c := range g.Copies {
		if _, err := tx.ExecContext(ctx, `UPDATE segment_copies SET retain_until = ?1 WHERE segment_no = ?2 AND vault = ?3 AND retain_until < ?1`, stamp(c.RetainUntil), no, c.Vault); err != nil {
			return fmt.Errorf("couldn't record the lock in vault %s: %w", c.Vault, err)
		}
	}
	_, err := tx.ExecContext(ctx, `UPDATE records SET archive_class_no = ?, content_class_no = coalesce(content_class_no, archive_class_no) WHERE segment_no = ? AND state = 'archived'`, class, no)
	return err
}
