package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// list is a parameter for "IN (SELECT value FROM json_each(?))": an explicit
// list of ids of any length in one statement.
func list[T any](ids []T) string {
	if len(ids) == 0 {
		return "[]" // not null, which is a row of json_each
	}
	b, err := json.Marshal(ids)
	if err != nil {
		panic(err) // strings and integers
	}
	return string(b)
}

func (s *Store) Existing(ctx context.Context, ids []string) (map[string]lifecycle.Existing, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT r.record_id, r.state, c.class_id, r.content
		FROM records r JOIN classes c ON c.class_no = coalesce(r.content_class_no, r.archive_class_no)
		WHERE r.record_id IN (SELECT value FROM json_each(?))`, list(ids))
	if err != nil {
		return nil, fmt.Errorf("couldn't look up %d record ids: %w", len(ids), err)
	}
	defer rows.Close()
	out := map[string]lifecycle.Existing{}
	for rows.Next() {
		var id string
		var e lifecycle.Existing
		if err := rows.Scan(&id, &e.State, &e.ContentClass, sum(&e.Content)); err != nil {
			return nil, fmt.Errorf("couldn't read record: %w", err)
		}
		out[id] = e
	}
	return out, rows.Err()
}

const classColumns = `class_id, kind, period_start, generation, state, intent_leaf, destroyed_at, epoch`

func scanClass(row interface{ Scan(...any) error }, more ...any) (lifecycle.Class, error) {
	var c lifecycle.Class
	err := row.Scan(append([]any{&c.ID, &c.Period.Kind, at(&c.Period.Start), &c.Generation, &c.State, &c.IntentLeaf, maybeAt(&c.DestroyedAt), &c.Epoch}, more...)...)
	return c, err
}

func (s *Store) LatestClasses(ctx context.Context, periods []lifecycle.Period) (map[lifecycle.Period]lifecycle.Class, error) {
	out := map[lifecycle.Period]lifecycle.Class{}
	for _, p := range periods {
		c, err := scanClass(s.r.QueryRowContext(ctx, `SELECT `+classColumns+` FROM classes
			WHERE kind = ? AND period_start = ? ORDER BY generation DESC LIMIT 1`, p.Kind, stamp(p.Start)))
		switch {
		case err == sql.ErrNoRows:
		case err != nil:
			return nil, fmt.Errorf("couldn't look up class %s: %w", p.ID(1), err)
		default:
			out[p] = c
		}
	}
	return out, nil
}

func (s *Store) OpenClasses(ctx context.Context, classes []lifecycle.Class, epoch uint64, leaf lifecycle.Leaf) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := insertClasses(ctx, tx, classes, epoch); err != nil {
			return err
		}
		_, err := appendLeaf(ctx, tx, leaf)
		return err
	})
}

func insertClasses(ctx context.Context, tx *sql.Tx, classes []lifecycle.Class, epoch uint64) error {
	for _, c := range classes {
		if _, err := tx.ExecContext(ctx, `INSERT INTO classes (class_id, kind, period_start, closes_at, generation)
			SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM classes WHERE class_id = ?1)`,
			c.ID, c.Period.Kind, stamp(c.Period.Start), stamp(c.Period.Ends()), c.Generation); err != nil {
			return fmt.Errorf("couldn't open class %s: %w", c.ID, err)
		}
	}
	return logEpoch(ctx, tx, epoch)
}

// logEpoch never goes back: another process may have logged a newer one.
func logEpoch(ctx context.Context, tx *sql.Tx, epoch uint64) error {
	_, err := tx.ExecContext(ctx, `UPDATE meta SET epoch = max(epoch, ?)`, int64(epoch))
	return err
}

func (s *Store) Merge(ctx context.Context, batch []lifecycle.Sealed, holds []lifecycle.Placement, leaf lifecycle.Leaf) (lifecycle.MergeResult, error) {
	var res lifecycle.MergeResult
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res = lifecycle.MergeResult{}
		// The class states are read here, under the lock: a class that a sweep
		// has condemned since the batch was sealed takes no more DEKs.
		classes := map[string]int64{}
		ids := make([]string, len(batch))
		for i := range batch {
			ids[i] = batch[i].RecordID
			classes[batch[i].Class] = 0
			classes[batch[i].ArchiveClass] = 0
		}
		for _, id := range slices.Sorted(maps.Keys(classes)) {
			var no int64
			var state lifecycle.ClassState
			if err := tx.QueryRowContext(ctx, `SELECT class_no, state FROM classes WHERE class_id = ?`, id).Scan(&no, &state); err != nil {
				return fmt.Errorf("couldn't look up class %s: %w", id, err)
			}
			classes[id] = no
			if state != lifecycle.Open {
				res.Closed = append(res.Closed, id)
			}
		}
		rows, err := tx.QueryContext(ctx, `SELECT record_id FROM records WHERE record_id IN (SELECT value FROM json_each(?))`, list(ids))
		if err != nil {
			return err
		}
		if res.Exists, err = collect(rows, scanOne[string]); err != nil {
			return err
		}
		if len(res.Exists)+len(res.Closed) > 0 {
			return nil
		}
		leafID, err := appendLeaf(ctx, tx, leaf)
		if err != nil {
			return err
		}
		seq, err := nextSeq(ctx, tx)
		if err != nil {
			return err
		}
		if err := insertRecords(ctx, tx, leafID, seq, batch, classes); err != nil {
			return err
		}
		if err := insert(ctx, tx, `deks (seq, class_no, wrapped)`, len(batch), func(i int) []any {
			return []any{seq(i), classes[batch[i].Class], batch[i].WrappedDEK}
		}); err != nil {
			return err
		}
		if err := insert(ctx, tx, `payloads (seq, sealed)`, len(batch), func(i int) []any {
			return []any{seq(i), batch[i].Payload}
		}); err != nil {
			return err
		}
		if err := insertLineage(ctx, tx, leafID, seq, batch); err != nil {
			return err
		}
		for i := range holds {
			if err := insertHold(ctx, tx, &holds[i].Hold); err != nil {
				return err
			}
			if _, err := appendLeaf(ctx, tx, holds[i].Leaf); err != nil {
				return err
			}
		}
		res.Inserted = len(batch)
		return nil
	})
	if err != nil {
		return lifecycle.MergeResult{}, fmt.Errorf("couldn't merge %d records: %w", len(batch), err)
	}
	return res, nil
}

// nextSeq numbers the records of a merge. Under the lock nobody else takes a seq.
func nextSeq(ctx context.Context, tx *sql.Tx) (seq func(i int) int64, err error) {
	var last int64
	err = tx.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM records`).Scan(&last)
	return func(i int) int64 { return last + 1 + int64(i) }, err
}

// insertRecords writes the rows of records; classes has the numbers of theirs.
func insertRecords(ctx context.Context, tx *sql.Tx, leafID int64, seq func(int) int64, batch []lifecycle.Sealed, classes map[string]int64) error {
	return insert(ctx, tx, `records (seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before,
		location, product, checksum, content, gaps, class_no, archive_class_no, ingest_leaf)`, len(batch), func(i int) []any {
		r := &batch[i]
		return []any{seq(i), r.RecordID, r.TLC, r.TLCSource, string(r.EventType), stamp(r.EventTimestamp), stamp(r.CreatedOrObtainedAt), stamp(r.DueAt), stamp(r.PurgeNotBefore),
			r.Location, r.Product, r.Checksum[:], r.Content[:], strings.Join(r.Gaps, ","), classes[r.Class], classes[r.ArchiveClass], leafID}
	})
}

// insertLineage writes what the records of a merge say their lots were made from,
// each input of a record once. What is of no lot was not made into one, and that a
// lot was made from itself says nothing.
func insertLineage(ctx context.Context, tx *sql.Tx, leafID int64, seq func(int) int64, batch []lifecycle.Sealed) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO merges (leaf_id, first_seq, records) VALUES (?, ?, ?)`, leafID, seq(0), len(batch)); err != nil {
		return fmt.Errorf("couldn't note which records came with leaf %d: %w", leafID, err)
	}
	type link struct {
		record int
		input  cte.Lot
	}
	var links []link
	for i := range batch {
		r := &batch[i]
		for n, in := range r.Inputs {
			itself := in == cte.Lot{TLC: r.TLC, Source: r.TLCSource}
			if r.TLC != "" && in.TLC != "" && !itself && !slices.Contains(r.Inputs[:n], in) {
				links = append(links, link{i, in})
			}
		}
	}
	return insert(ctx, tx, `lineage (seq, leaf_id, input_tlc, input_source, output_tlc, output_source)`, len(links), func(n int) []any {
		l := links[n]
		r := &batch[l.record]
		return []any{seq(l.record), leafID, l.input.TLC, l.input.Source, r.TLC, r.TLCSource}
	})
}

// insert inserts n rows, many a statement: a statement costs more than a row.
func insert(ctx context.Context, tx *sql.Tx, into string, n int, row func(i int) []any) error {
	const most = 20
	var stmt *sql.Stmt
	var args []any
	for start := 0; start < n; start += most {
		end := min(start+most, n)
		args = args[:0]
		for i := start; i < end; i++ {
			args = append(args, row(i)...)
		}
		if stmt == nil || end-start < most {
			one := "(" + strings.Repeat("?, ", len(args)/(end-start)-1) + "?)"
			var err error
			if stmt, err = tx.PrepareContext(ctx, `INSERT INTO `+into+` VALUES `+strings.Repeat(one+", ", end-start-1)+one); err != nil {
				return fmt.Errorf("couldn't insert into %s: %w", into, err)
			}
			defer stmt.Close()
		}
		if _, err := stmt.ExecContext(ctx, args...); err != nil {
			return fmt.Errorf("couldn't insert into %s: %w", into, err)
		}
	}
	return nil
}
