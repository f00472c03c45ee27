package postgres

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// sequenceEach is how many leaves get their index in one transaction.
const sequenceEach = 5000

// leafOf begins the look-up of one leaf l after the other, which OFFSET 0 keeps the
// planner from turning into a walk through all of them.
const leafOf = `LATERAL (SELECT * FROM lotkeeper.leaves l WHERE l.leaf_id`

// Sequence looks at the queue in one statement after its lock. So two leaves of which
// one was committed before the other began get their indexes in that order: whoever
// sees the second in the queue sees the first, or its index.
func (s *Store) Sequence(ctx context.Context) (int64, error) {
	for {
		var size int64
		var n int
		err := s.write(ctx, sequencing, func(ctx context.Context, tx *txn) (err error) {
			size, n, err = tx.giveIndexes(ctx, sequenceEach)
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

// giveIndexes gives up to most leaves of the queue their indexes, and returns the size of
// the tree and how many they were.
func (tx *txn) giveIndexes(ctx context.Context, most int) (size int64, n int, err error) {
	hashes := int64(0)
	if err := each(ctx, tx, func(c *columns) { size, hashes = c.int(), c.int() },
		`SELECT (SELECT coalesce(max(log_index) + 1, 0) FROM lotkeeper.log_entries), (SELECT coalesce(max(n) + 1, 0) FROM lotkeeper.log_hashes)`); err != nil {
		return 0, 0, err
	}
	if hashes != tlog.StoredHashCount(size) {
		return 0, 0, fmt.Errorf("the log has %d entries and %d hashes: one of its tables was changed", size, hashes)
	}
	// Bodies may be long, so that hashes are all that is kept.
	var ids []int64
	var entries []tlog.Hash
	var failed error
	if err := each(ctx, tx, func(c *columns) {
		l := scanLeaf(c)
		h, err := l.LogHash()
		if err != nil && failed == nil {
			failed = fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		ids, entries = append(ids, l.ID), append(entries, h)
	}, `SELECT `+leafColumns+`, -1 FROM lotkeeper.log_pending p, `+leafOf+` = p.leaf_id OFFSET 0) l ORDER BY p.leaf_id LIMIT $1`, most); err != nil {
		return 0, 0, err
	}
	if failed != nil || len(ids) == 0 {
		return size, 0, failed
	}
	return size + int64(len(ids)), len(ids), tx.growLog(ctx, size, ids, entries)
}

// growLog gives leaves of the queue the next indexes after a size; entries are their
// hashes.
func (tx *txn) growLog(ctx context.Context, size int64, ids []int64, entries []tlog.Hash) error {
	grown, err := audit.Grow(size, entries, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return logHashes(ctx, tx, indexes) }))
	if err != nil {
		return err
	}
	indexes, stored := newCopyRows(24*len(ids)), newCopyRows(52*len(grown))
	for i, id := range ids {
		indexes.row(2)
		indexes.int64(size + int64(i))
		indexes.int64(id)
	}
	for i, h := range grown {
		stored.row(2)
		stored.int64(tlog.StoredHashCount(size) + int64(i))
		stored.bytes(h[:])
	}
	indexes.end()
	stored.end()
	if err := tx.copyInto(ctx, `lotkeeper.log_entries (log_index, leaf_id)`, indexes); err != nil {
		return err
	}
	if err := tx.copyInto(ctx, `lotkeeper.log_hashes (n, hash)`, stored); err != nil {
		return err
	}
	return exactly(len(ids))(tx.exec(ctx, `DELETE FROM lotkeeper.log_pending WHERE leaf_id = ANY($1)`, ids))
}

func (s *Store) LogState(ctx context.Context) (lifecycle.LogState, error) {
	out := lifecycle.LogState{Published: map[string]int64{}}
	err := each(ctx, s.pool, func(c *columns) {
		isVault, vault, size, pending := c.int() == 1, c.text(), c.int(), c.int()
		if isVault {
			out.Published[vault] = size
		} else {
			out.Size, out.Pending = size, pending
		}
	}, `SELECT 0, '', (SELECT coalesce(max(log_index) + 1, 0) FROM lotkeeper.log_entries), (SELECT count(*) FROM lotkeeper.log_pending)
		UNION ALL SELECT 1, vault, size, 0 FROM lotkeeper.log_published`)
	if err != nil {
		return lifecycle.LogState{}, fmt.Errorf("couldn't read the state of the log: %w", err)
	}
	return out, nil
}

func (s *Store) LogLeaves(ctx context.Context, from, to int64) ([]lifecycle.Leaf, error) {
	out, err := all(ctx, s.pool, scanLeaf, `SELECT `+leafColumns+`, e.log_index FROM lotkeeper.log_entries e, `+leafOf+` = e.leaf_id OFFSET 0) l
		WHERE e.log_index >= $1 AND e.log_index < $2 ORDER BY e.log_index`, from, to)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the log from %d to %d: %w", from, to, err)
	}
	return out, nil
}

func (s *Store) LogIndex(ctx context.Context, leafID int64) (int64, error) {
	index, err := one(ctx, s.pool, (*columns).int, `SELECT log_index FROM lotkeeper.log_entries WHERE leaf_id = $1`, leafID)
	return index, found(err, "the log's index of leaf", fmt.Sprint(leafID))
}

func (s *Store) LogHashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	return logHashes(ctx, s.pool, indexes)
}

func logHashes(ctx context.Context, q querier, indexes []int64) ([]tlog.Hash, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	stored := make(map[int64]tlog.Hash, len(indexes))
	if err := each(ctx, q, func(c *columns) { stored[c.int()] = c.sum() }, `SELECT n, hash FROM lotkeeper.log_hashes WHERE n = ANY($1)`, indexes); err != nil {
		return nil, fmt.Errorf("couldn't read %d hashes of the log: %w", len(indexes), err)
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
	unindexed, err = all(ctx, s.pool, (*columns).int, `SELECT l.leaf_id FROM lotkeeper.leaves l
		WHERE NOT EXISTS (SELECT FROM lotkeeper.log_entries e WHERE e.leaf_id = l.leaf_id)
		  AND NOT EXISTS (SELECT FROM lotkeeper.log_pending p WHERE p.leaf_id = l.leaf_id) ORDER BY l.leaf_id LIMIT $1`, limit)
	if err == nil {
		gone, err = all(ctx, s.pool, (*columns).int, `SELECT e.leaf_id FROM (SELECT leaf_id FROM lotkeeper.log_entries UNION ALL SELECT leaf_id FROM lotkeeper.log_pending) e
			WHERE NOT EXISTS (SELECT FROM lotkeeper.leaves l WHERE l.leaf_id = e.leaf_id) ORDER BY e.leaf_id LIMIT $1`, limit)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't compare the leaves with the log: %w", err)
	}
	return unindexed, gone, nil
}

func (s *Store) Published(ctx context.Context, vault string, size int64) error {
	err := s.write(ctx, sequencing, func(ctx context.Context, tx *txn) error {
		_, err := tx.exec(ctx, `INSERT INTO lotkeeper.log_published AS p (vault, size) VALUES ($1, $2)
			ON CONFLICT (vault) DO UPDATE SET size = excluded.size WHERE p.size < excluded.size`, vault, size)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record that vault %s has the log up to %d: %w", vault, size, err)
	}
	return nil
}

func (s *Store) LeafRows(ctx context.Context, leafID int64) iter.Seq2[lifecycle.Sealed, error] {
	return func(yield func(lifecycle.Sealed, error) bool) {
		err := s.sequence(ctx, func(tx pgx.Tx) error {
			// By its segment, or by its merge: no index has the leaves. Those that a
			// recovery has brought back have both.
			var cond string
			var args []any
			if err := each(ctx, tx, func(c *columns) {
				if segment, order := c.int(), c.text(); segment != 0 {
					// What was in the segment may have been archived anew since.
					cond, args = ` WHERE r.seq = ANY(ARRAY(SELECT seq FROM lotkeeper.records WHERE segment_no = $1 UNION SELECT seq FROM lotkeeper.rearchivals WHERE from_segment = $1))
						AND (r.archive_leaf = $2 OR r.purge_leaf = $2 OR r.seq = ANY(ARRAY(SELECT seq FROM lotkeeper.rearchivals WHERE leaf_id = $2))) ORDER BY r.due_at, `+order, []any{segment, leafID}
				} else if cond == "" {
					cond, args = ` WHERE r.seq >= $1 AND r.seq < $2 AND r.ingest_leaf = $3 ORDER BY r.seq`, []any{c.int(), c.int(), leafID}
				}
			}, `SELECT 0, '', first_seq, first_seq + records FROM lotkeeper.merges WHERE leaf_id = $1
				UNION ALL SELECT g.segment_no, CASE WHEN l.action IN ('rearchived', 'purged') THEN 'r.record_id' ELSE 'r.seq' END, 0, 0 FROM lotkeeper.leaves l JOIN lotkeeper.segments g ON g.segment_id = l.subject WHERE l.leaf_id = $1`, leafID); err != nil {
				return err
			}
			if cond == "" {
				cond, args = ` WHERE r.seq = ANY(ARRAY(SELECT seq FROM lotkeeper.reschedules WHERE leaf_id = $1)) ORDER BY r.seq`, []any{leafID}
			}
			return stream(ctx, tx, func(page []stored) error {
				if err := name(ctx, tx, page); err != nil {
					return err
				}
				if err := addInputs(ctx, tx, page); err != nil {
					return err
				}
				if err := addMoves(ctx, tx, leafID, page); err != nil {
					return err
				}
				for i := range page {
					if !yield(page[i].Sealed, nil) {
						return errStop
					}
				}
				return nil
			}, selectRows+cond, args...)
		})
		if err != nil {
			yield(lifecycle.Sealed{}, err)
		}
	}
}

// addInputs fills in what the records' lots were made from.
func addInputs(ctx context.Context, q querier, rs []stored) error {
	seqs := make([]int64, len(rs))
	index := make(map[int64]int, len(rs))
	for i := range rs {
		seqs[i] = rs[i].Seq
		index[rs[i].Seq] = i
	}
	err := each(ctx, q, func(c *columns) {
		r := &rs[index[c.int()]]
		r.Inputs = append(r.Inputs, cte.Lot{TLC: c.text(), Source: c.text()})
	}, `SELECT seq, input_tlc, input_source FROM lotkeeper.lineage WHERE seq = ANY($1) ORDER BY seq, input_tlc, input_source`, seqs)
	if err != nil {
		return fmt.Errorf("couldn't read lineage: %w", err)
	}
	return nil
}
