package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// sequenceEach is how many leaves get their index in one transaction, since a hold
// waits for it.
const sequenceEach = 1000

func (s *Store) Sequence(ctx context.Context) (int64, error) {
	for {
		var size int64
		var n int
		err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
			size, n, err = giveIndexes(ctx, tx, sequenceEach)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("couldn't give leaves their index in the log: %w", err)
		}
		// What is committed meanwhile may be left for the next: else this might
		// never end.
		if n < sequenceEach {
			return size, nil
		}
	}
}

// giveIndexes gives up to most leaves of the queue their indexes, and returns the size
// of the tree and how many they were.
func giveIndexes(ctx context.Context, tx *sql.Tx, most int) (size int64, n int, err error) {
	var hashes int64
	if err := tx.QueryRowContext(ctx, `SELECT (SELECT coalesce(max(log_index) + 1, 0) FROM log_entries), (SELECT coalesce(max(n) + 1, 0) FROM log_hashes)`).
		Scan(&size, &hashes); err != nil {
		return 0, 0, err
	}
	if hashes != tlog.StoredHashCount(size) {
		return 0, 0, fmt.Errorf("the log has %d entries and %d hashes: one of its tables was changed", size, hashes)
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+leafColumns+` FROM log_pending p JOIN `+leafTables+` WHERE l.leaf_id = p.leaf_id ORDER BY p.leaf_id LIMIT ?`, most)
	if err != nil {
		return 0, 0, err
	}
	// Bodies may be long, so that hashes are all that is kept.
	var ids []int64
	entries, err := collect(rows, func(rows *sql.Rows) (tlog.Hash, error) {
		l, err := scanLeaf(rows)
		if err != nil {
			return tlog.Hash{}, err
		}
		ids = append(ids, l.ID)
		h, err := l.LogHash()
		if err != nil {
			err = fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		return h, err
	})
	if err != nil || len(ids) == 0 {
		return size, 0, err
	}
	return size + int64(len(ids)), len(ids), growLog(ctx, tx, size, ids, entries)
}

// growLog gives leaves of the queue the next indexes after a size; entries are their
// hashes.
func growLog(ctx context.Context, tx *sql.Tx, size int64, ids []int64, entries []tlog.Hash) error {
	grown, err := audit.Grow(size, entries, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return logHashes(ctx, tx, indexes) }))
	if err != nil {
		return err
	}
	if err := insert(ctx, tx, `log_entries (log_index, leaf_id)`, len(ids), func(i int) []any { return []any{size + int64(i), ids[i]} }); err != nil {
		return err
	}
	first := tlog.StoredHashCount(size)
	if err := insert(ctx, tx, `log_hashes (n, hash)`, len(grown), func(i int) []any { return []any{first + int64(i), grown[i][:]} }); err != nil {
		return err
	}
	return exactly(len(ids))(tx.ExecContext(ctx, `DELETE FROM log_pending WHERE leaf_id IN (SELECT value FROM json_each(?))`, list(ids)))
}

func (s *Store) LogState(ctx context.Context) (lifecycle.LogState, error) {
	out := lifecycle.LogState{Published: map[string]int64{}}
	fail := func(err error) (lifecycle.LogState, error) {
		return lifecycle.LogState{}, fmt.Errorf("couldn't read the state of the log: %w", err)
	}
	// One statement, so that all is of one instant.
	rows, err := s.r.QueryContext(ctx, `SELECT NULL, (SELECT coalesce(max(log_index) + 1, 0) FROM log_entries), (SELECT count(*) FROM log_pending)
		UNION ALL SELECT vault, size, 0 FROM log_published`)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		var vault sql.NullString
		var size, pending int64
		if err := rows.Scan(&vault, &size, &pending); err != nil {
			return fail(err)
		}
		if vault.Valid {
			out.Published[vault.String] = size
		} else {
			out.Size, out.Pending = size, pending
		}
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return out, nil
}

func (s *Store) LogLeaves(ctx context.Context, from, to int64) ([]lifecycle.Leaf, error) {
	return s.leaves(ctx, `e.log_index >= ? AND e.log_index < ? ORDER BY e.log_index`, from, to)
}

func (s *Store) LogIndex(ctx context.Context, leafID int64) (index int64, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT log_index FROM log_entries WHERE leaf_id = ?`, leafID).Scan(&index)
	return index, found(err, "the log's index of leaf", fmt.Sprint(leafID))
}

func (s *Store) LogHashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	return logHashes(ctx, s.r, indexes)
}

func logHashes(ctx context.Context, q querier, indexes []int64) ([]tlog.Hash, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	fail := func(err error) ([]tlog.Hash, error) {
		return nil, fmt.Errorf("couldn't read %d hashes of the log: %w", len(indexes), err)
	}
	rows, err := q.QueryContext(ctx, `SELECT n, hash FROM log_hashes WHERE n IN (SELECT value FROM json_each(?))`, list(indexes))
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	stored := make(map[int64][32]byte, len(indexes))
	for rows.Next() {
		var n int64
		var h [32]byte
		if err := rows.Scan(&n, sum(&h)); err != nil {
			return fail(err)
		}
		stored[n] = h
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	out := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		h, ok := stored[n]
		if !ok {
			return nil, fmt.Errorf("hash %d of the log: %w", n, lifecycle.ErrNotFound)
		}
		out[i] = h
	}
	return out, nil
}

func (s *Store) StrayLeaves(ctx context.Context, limit int) (unindexed, gone []int64, err error) {
	numbers := func(query string) ([]int64, error) {
		rows, err := s.r.QueryContext(ctx, query, limit)
		if err != nil {
			return nil, err
		}
		return collect(rows, scanOne[int64])
	}
	unindexed, err = numbers(`SELECT l.leaf_id FROM leaves l WHERE NOT EXISTS (SELECT 1 FROM log_entries e WHERE e.leaf_id = l.leaf_id)
		AND NOT EXISTS (SELECT 1 FROM log_pending p WHERE p.leaf_id = l.leaf_id) ORDER BY l.leaf_id LIMIT ?`)
	if err == nil {
		gone, err = numbers(`SELECT e.leaf_id FROM (SELECT leaf_id FROM log_entries UNION ALL SELECT leaf_id FROM log_pending) e
			WHERE NOT EXISTS (SELECT 1 FROM leaves l WHERE l.leaf_id = e.leaf_id) ORDER BY e.leaf_id LIMIT ?`)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't compare the leaves with the log: %w", err)
	}
	return unindexed, gone, nil
}

func (s *Store) Published(ctx context.Context, vault string, size int64) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// Without ON CONFLICT, whose insert the guard would refuse.
		if _, err := tx.ExecContext(ctx, `INSERT INTO log_published (vault, size) SELECT ?1, 0 WHERE NOT EXISTS (SELECT 1 FROM log_published WHERE vault = ?1)`, vault); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE log_published SET size = ?2 WHERE vault = ?1 AND size < ?2`, vault, size)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record that vault %s has the log up to %d: %w", vault, size, err)
	}
	return nil
}

func (s *Store) LeafRows(ctx context.Context, leafID int64) iter.Seq2[lifecycle.Sealed, error] {
	return func(yield func(lifecycle.Sealed, error) bool) {
		if err := s.leafRows(ctx, leafID, yield); err != nil {
			yield(lifecycle.Sealed{}, fmt.Errorf("couldn't read the records of leaf %d: %w", leafID, err))
		}
	}
}

func (s *Store) leafRows(ctx context.Context, leafID int64, yield func(lifecycle.Sealed, error) bool) error {
	tx, err := s.r.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// By its segment, or by its merge: no index has the leaves. Those that a recovery
	// has brought back have both.
	// What was in the segment may have been archived anew since.
	cond, order, args := `(r.segment_no = ?1 OR r.seq IN (SELECT seq FROM rearchivals WHERE from_segment = ?1))
		AND (r.archive_leaf = ?2 OR r.purge_leaf = ?2 OR r.seq IN (SELECT seq FROM rearchivals WHERE leaf_id = ?2))`, ``, []any{0, leafID}
	err = tx.QueryRowContext(ctx, `SELECT g.segment_no, CASE WHEN l.action IN ('rearchived', 'purged') THEN 'r.due_at, r.record_id' ELSE 'r.due_at, r.seq' END
		FROM leaves l JOIN segments g ON g.segment_id = l.subject WHERE l.leaf_id = ?`, leafID).Scan(&args[0], &order)
	if err == sql.ErrNoRows {
		cond, order, args = `r.seq >= ? AND r.seq < ? AND r.ingest_leaf = ?`, `r.seq`, []any{0, 0, leafID}
		err = tx.QueryRowContext(ctx, `SELECT first_seq, first_seq + records FROM merges WHERE leaf_id = ?`, leafID).Scan(&args[0], &args[1])
	}
	if err == sql.ErrNoRows {
		cond, order, args = `r.seq IN (SELECT seq FROM reschedules WHERE leaf_id = ?)`, `r.seq`, []any{leafID}
		err = nil
	}
	if err != nil {
		return err
	}
	moved, dues, err := rescheduled(ctx, tx, leafID, cond, args)
	if err != nil {
		return err
	}
	inputs := map[int64][]cte.Lot{}
	links, err := tx.QueryContext(ctx, `SELECT g.seq, g.input_tlc, g.input_source FROM records r CROSS JOIN lineage g ON g.leaf_id = r.ingest_leaf AND g.seq = r.seq
		WHERE `+cond+` ORDER BY g.seq, g.input_tlc, g.input_source`, args...)
	if err != nil {
		return err
	}
	if _, err := collect(links, func(rows *sql.Rows) (lot cte.Lot, err error) {
		var seq int64
		err = rows.Scan(&seq, &lot.TLC, &lot.Source)
		inputs[seq] = append(inputs[seq], lot)
		return lot, err
	}); err != nil {
		return err
	}
	each(ctx, tx, yield, func(rows *sql.Rows) (r lifecycle.Sealed, err error) {
		r.Row, err = scanRow(rows)
		r.Inputs, r.Moved = inputs[r.Seq], moved[r.Seq]
		if due, ok := dues[r.Seq]; ok {
			r.DueAt = due
		}
		if r.Moved != nil {
			r.Moved.RecordID, r.Moved.Checksum = r.RecordID, r.Checksum
		}
		return r, err
	}, `SELECT `+rowColumns+` FROM `+rowTables+` WHERE `+cond+` ORDER BY `+order, args...)
	return nil
}
