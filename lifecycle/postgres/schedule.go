package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func (s *Store) ActivePage(ctx context.Context, afterSeq int64, limit int, maxBytes int64) ([]lifecycle.Sealed, error) {
	var out []lifecycle.Sealed
	err := s.snapshot(ctx, func(tx pgx.Tx) error {
		page, err := all(ctx, tx, scanStored, selectStored+` WHERE r.seq > $1 AND r.archive_leaf = 0 ORDER BY r.seq LIMIT $2`, afterSeq, limit)
		if err != nil {
			return err
		}
		out, err = complete(ctx, tx, page[:within(page, maxBytes)])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read active records: %w", err)
	}
	return out, nil
}

func (s *Store) CountActive(ctx context.Context, class string) (int, error) {
	n, err := one(ctx, s.pool, (*columns).int, `SELECT count(*) FROM lotkeeper.records WHERE class_no = (SELECT class_no FROM lotkeeper.classes WHERE class_id = $1) AND archive_leaf = 0`, class)
	if err != nil {
		return 0, fmt.Errorf("couldn't count the records of class %s: %w", class, err)
	}
	return int(n), nil
}

// Reschedule writes what is done to the records before it does it: a guard asks for that.
func (s *Store) Reschedule(ctx context.Context, l lifecycle.Lease, moves []lifecycle.Rescheduling, f lifecycle.Following, leaf lifecycle.Leaf) error {
	seqs, sums := make([]int64, len(moves)), make([][]byte, len(moves))
	var dues, classes, archives [2][]string
	var wrapped []int64
	var deks [][]byte
	for i := range moves {
		m := &moves[i]
		seqs[i], sums[i] = m.Seq, m.Checksum[:]
		for n, t := range []lifecycle.Timing{m.From, m.To} {
			dues[n], classes[n], archives[n] = append(dues[n], stamp(t.DueAt)), append(classes[n], t.Class), append(archives[n], t.ArchiveClass)
		}
		if m.Wrapped != nil {
			wrapped, deks = append(wrapped, m.Seq), append(deks, m.Wrapped)
		}
	}
	changed := func(want int) func(int64, error) error {
		return func(n int64, err error) error {
			if err == nil && n != int64(want) {
				err = fmt.Errorf("%d of %d are as they were: %w", n, want, lifecycle.ErrMoved)
			}
			return err
		}
	}
	err := s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		if err := exactly(1)(tx.exec(ctx, `UPDATE lotkeeper.meta SET following_leaf = $1, following_seq = $2, following_done = $3`, f.Leaf, f.Seq, f.Done)); err != nil || len(moves) == 0 {
			return err
		}
		leafID, err := tx.appendLeaf(ctx, leaf)
		if err != nil {
			return err
		}
		if err := changed(len(moves))(tx.exec(ctx, `INSERT INTO lotkeeper.reschedules (seq, leaf_id, due_from, due_to, class_from, class_to, archive_from, archive_to)
			SELECT r.seq, $1, r.due_at, m.due_to, r.class_no, ht.class_no, r.archive_class_no, at.class_no
			FROM unnest($2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
				m(seq, checksum, due_from, due_to, class_from, class_to, archive_from, archive_to)
			JOIN lotkeeper.records r ON r.seq = m.seq AND r.archive_leaf = 0 AND r.checksum = m.checksum AND r.due_at = m.due_from
			JOIN lotkeeper.classes hf ON hf.class_no = r.class_no AND hf.class_id = m.class_from JOIN lotkeeper.classes af ON af.class_no = r.archive_class_no AND af.class_id = m.archive_from
			JOIN lotkeeper.classes ht ON ht.class_id = m.class_to AND ht.state = 'open' JOIN lotkeeper.classes at ON at.class_id = m.archive_to AND at.state = 'open'`,
			leafID, seqs, sums, dues[0], dues[1], classes[0], classes[1], archives[0], archives[1])); err != nil {
			return err
		}
		if err := changed(len(wrapped))(tx.exec(ctx, `UPDATE lotkeeper.deks d SET class_no = m.class_to, wrapped = w.wrapped FROM unnest($2::bigint[], $3::bytea[]) w(seq, wrapped)
			JOIN lotkeeper.reschedules m ON m.seq = w.seq AND m.leaf_id = $1 WHERE d.seq = w.seq AND d.class_no = m.class_from`, leafID, wrapped, deks)); err != nil {
			return err
		}
		return exactly(len(moves))(tx.exec(ctx, `UPDATE lotkeeper.records r SET due_at = m.due_to, class_no = m.class_to, archive_class_no = m.archive_to,
			content_class_no = CASE WHEN m.archive_to = r.archive_class_no THEN r.content_class_no ELSE coalesce(r.content_class_no, r.archive_class_no) END
			FROM lotkeeper.reschedules m WHERE m.leaf_id = $1 AND r.seq = m.seq AND r.seq = ANY($2)`, leafID, seqs))
	})
	if err != nil {
		return fmt.Errorf("couldn't reschedule %d records: %w", len(moves), err)
	}
	return nil
}

// addMoves fills in what a leaf did to the records, and the due dates that it left.
func addMoves(ctx context.Context, q querier, leafID int64, rs []stored) error {
	seqs := make([]int64, len(rs))
	index := make(map[int64]*stored, len(rs))
	for i := range rs {
		seqs[i] = rs[i].Seq
		index[rs[i].Seq] = &rs[i]
	}
	err := each(ctx, q, func(c *columns) {
		r := index[c.int()]
		r.Moved = &lifecycle.Rescheduling{Seq: r.Seq, RecordID: r.RecordID, Checksum: r.Checksum,
			From: lifecycle.Timing{DueAt: c.time(), Class: c.text(), ArchiveClass: c.text()}, To: lifecycle.Timing{DueAt: c.time(), Class: c.text(), ArchiveClass: c.text()}}
	}, `SELECT m.seq, m.due_from, hf.class_id, af.class_id, m.due_to, ht.class_id, at.class_id FROM lotkeeper.reschedules m
		JOIN lotkeeper.classes hf ON hf.class_no = m.class_from JOIN lotkeeper.classes ht ON ht.class_no = m.class_to
		JOIN lotkeeper.classes af ON af.class_no = m.archive_from JOIN lotkeeper.classes at ON at.class_no = m.archive_to
		WHERE m.leaf_id = $1 AND m.seq = ANY($2)`, leafID, seqs)
	if err == nil {
		err = each(ctx, q, func(c *columns) { index[c.int()].DueAt = c.time() },
			`SELECT DISTINCT ON (seq) seq, due_from FROM lotkeeper.reschedules WHERE seq = ANY($1) AND leaf_id > $2 ORDER BY seq, leaf_id`, seqs, leafID)
	}
	if err != nil {
		return fmt.Errorf("couldn't read what leaf %d has rescheduled: %w", leafID, err)
	}
	return nil
}

func (s *Store) MoveSegment(ctx context.Context, l lifecycle.Lease, g lifecycle.Segment, leaf lifecycle.Leaf) (int, error) {
	type place struct {
		no           int64
		there, later bool
	}
	n := 0
	err := s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		n = 0
		to, err := openClass(ctx, tx, g.Class)
		if err != nil {
			return err
		}
		at, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int() == 1, c.int() == 1} },
			`SELECT g.segment_no, g.class_no = t.class_no, f.state IN ('open', 'condemned') AND t.kind = 'archive' AND t.closes_at > f.closes_at
			FROM lotkeeper.segments g JOIN lotkeeper.classes f ON f.class_no = g.class_no JOIN lotkeeper.classes t ON t.class_no = $2
			WHERE g.segment_id = $1 AND g.state IN ('verified', 'settled') AND g.purge_leaf = 0`, g.ID, to)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("it is not live: %w", lifecycle.ErrMoved)
		case err != nil || at.there:
			return err
		case !at.later:
			return fmt.Errorf("class %s is not over later than its own, or that is on its way out: %w", g.Class, lifecycle.ErrMoved)
		}
		moved, err := tx.takeMove(ctx, at.no, to, g)
		if err != nil {
			return err
		}
		short, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.segment_copies c JOIN lotkeeper.vaults v ON v.name = c.vault
			WHERE c.segment_no = $1 AND v.state <> 'retiring' AND c.retain_until < $2`, at.no, stamp(g.RetainUntil))
		if err != nil {
			return err
		}
		if short > 0 {
			return fmt.Errorf("%d copies are not locked for as long: %w", short, lifecycle.ErrMoved)
		}
		n = int(moved)
		_, err = tx.appendLeaf(ctx, leaf.With("records", n))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't move segment %s to class %s: %w", g.ID, g.Class, err)
	}
	return n, nil
}

// takeMove moves a segment first, and its members with it: guards ask for that order.
func (tx *txn) takeMove(ctx context.Context, no, class int64, g lifecycle.Segment) (int64, error) {
	if _, err := tx.exec(ctx, `UPDATE lotkeeper.segments SET class_no = $1, wrapped_identity = $2, retain_until = greatest(retain_until, $3) WHERE segment_no = $4`,
		class, g.WrappedIdentity, stamp(g.RetainUntil), no); err != nil {
		return 0, err
	}
	for _, c := range g.Copies {
		if _, err := tx.exec(ctx, `UPDATE lotkeeper.segment_copies SET retain_until = $1 WHERE segment_no = $2 AND vault = $3 AND retain_until < $1`, stamp(c.RetainUntil), no, c.Vault); err != nil {
			return 0, fmt.Errorf("couldn't record the lock in vault %s: %w", c.Vault, err)
		}
	}
	return tx.exec(ctx, `UPDATE lotkeeper.records SET archive_class_no = $1, content_class_no = coalesce(content_class_no, archive_class_no) WHERE segment_no = $2 AND state = 'archived'`, class, no)
}
