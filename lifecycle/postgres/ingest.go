package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// recordsOf are the records r of a list of ids, in $1, each looked up in the
// index. Of = ANY($1) the planner makes a walk through all records, until there
// are half a million: it reckons with a disk that has to seek for each. OFFSET 0
// keeps it from turning this into that. It names the columns: an ingest may not read
// them all.
func recordsOf(columns string) string {
	return `(SELECT DISTINCT unnest($1::text[]) AS id) ids, LATERAL (SELECT ` + columns + ` FROM lotkeeper.records r WHERE r.record_id = ids.id OFFSET 0) r`
}

func (s *Store) Existing(ctx context.Context, ids []string) (map[string]lifecycle.Existing, error) {
	out := map[string]lifecycle.Existing{}
	err := each(ctx, s.pool, func(c *columns) {
		out[c.text()] = lifecycle.Existing{State: lifecycle.State(c.text()), ContentClass: c.text(), Content: c.sum()}
	}, `SELECT r.record_id, r.state, c.class_id, r.content
		FROM `+recordsOf(`record_id, state, archive_class_no, content_class_no, content`)+` JOIN lotkeeper.classes c ON c.class_no = coalesce(r.content_class_no, r.archive_class_no)`, ids)
	if err != nil {
		return nil, fmt.Errorf("couldn't look up %d record ids: %w", len(ids), err)
	}
	return out, nil
}

const classColumns = `c.class_id, c.kind, c.period_start, c.generation, c.state, c.intent_leaf, c.destroyed_at, c.epoch`

func scanClass(c *columns) lifecycle.Class {
	return lifecycle.Class{ID: c.text(), Period: lifecycle.Period{Kind: lifecycle.ClassKind(c.text()), Start: c.time()}, Generation: int(c.int()),
		State: lifecycle.ClassState(c.text()), IntentLeaf: c.int(), DestroyedAt: c.maybeTime(), Epoch: uint64(c.int())}
}

func (s *Store) LatestClasses(ctx context.Context, periods []lifecycle.Period) (map[lifecycle.Period]lifecycle.Class, error) {
	kinds, starts := make([]string, len(periods)), make([]string, len(periods))
	for i, p := range periods {
		kinds[i], starts[i] = string(p.Kind), stamp(p.Start)
	}
	latest, err := all(ctx, s.pool, scanClass, `SELECT DISTINCT ON (c.kind, c.period_start) `+classColumns+`
		FROM unnest($1::text[], $2::text[]) p(kind, period_start) JOIN lotkeeper.classes c USING (kind, period_start)
		ORDER BY c.kind, c.period_start, c.generation DESC`, kinds, starts)
	if err != nil {
		return nil, fmt.Errorf("couldn't look up the classes of %d periods: %w", len(periods), err)
	}
	out := map[lifecycle.Period]lifecycle.Class{}
	for _, c := range latest {
		out[c.Period] = c
	}
	return out, nil
}

func (s *Store) OpenClasses(ctx context.Context, classes []lifecycle.Class, epoch uint64, leaf lifecycle.Leaf) error {
	return s.write(ctx, exclusive, func(ctx context.Context, tx *txn) error {
		if err := insertClasses(ctx, tx, classes, epoch); err != nil {
			return err
		}
		_, err := tx.appendLeaf(ctx, leaf)
		return err
	})
}

func insertClasses(ctx context.Context, tx *txn, classes []lifecycle.Class, epoch uint64) error {
	for _, c := range classes {
		month := monthOf(c.Period.Start)
		if c.Period.Kind == lifecycle.HotClass {
			// A late class of a month whose partition was dropped brings it back.
			if _, err := tx.exec(ctx, `SELECT lotkeeper.open_month($1)`, month); err != nil {
				return fmt.Errorf("couldn't open a partition for class %s: %w", c.ID, err)
			}
		}
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.classes (class_id, kind, period_start, closes_at, month, generation)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (class_id) DO NOTHING`,
			c.ID, string(c.Period.Kind), stamp(c.Period.Start), stamp(c.Period.Ends()), month, int64(c.Generation)); err != nil {
			return fmt.Errorf("couldn't open class %s: %w", c.ID, err)
		}
	}
	return logEpoch(ctx, tx, epoch)
}

// monthOf names the partition that a hot class's payloads are in: 202409.
func monthOf(t time.Time) int32 {
	t = t.UTC()
	return int32(t.Year()*100 + int(t.Month()))
}

// logEpoch never goes back: another process may have logged a newer one.
func logEpoch(ctx context.Context, tx *txn, epoch uint64) error {
	_, err := tx.exec(ctx, `SELECT lotkeeper.log_epoch($1)`, int64(epoch))
	return err
}

// classRow is what a merge must know of a class.
type classRow struct {
	no, month int32
}

// seqsEach is how many numbers a merge takes: lotkeeper.seqs counts in steps of it.
const seqsEach = 1 << 20

// Merge makes the rows ready to be sent before it takes the lock, and under it
// copies them straight into their tables. Copied to a temporary table first, and
// moved on under the lock, the lock was held as long and the whole took a third
// longer (docs/decisions/0004).
func (s *Store) Merge(ctx context.Context, batch []lifecycle.Sealed, holds []lifecycle.Placement, leaf lifecycle.Leaf) (lifecycle.MergeResult, error) {
	var res lifecycle.MergeResult
	fail := func(err error) (lifecycle.MergeResult, error) {
		return lifecycle.MergeResult{}, fmt.Errorf("couldn't merge %d records: %w", len(batch), err)
	}
	if len(batch) > seqsEach {
		return fail(fmt.Errorf("more than %d at once", seqsEach))
	}
	// In order of their ids: two merges that share some wait for each other
	// instead of both for the other.
	order := make([]int, len(batch))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return strings.Compare(batch[i].RecordID, batch[j].RecordID) })
	ids := make([]string, len(batch))
	for n, i := range order {
		if ids[n] = batch[i].RecordID; n > 0 && ids[n] == ids[n-1] {
			return fail(fmt.Errorf("record %q is in it twice", ids[n]))
		}
	}
	classes, err := s.classesOf(ctx, batch)
	if err != nil {
		return fail(err)
	}
	nos := make([]int32, 0, len(classes))
	for _, c := range classes {
		nos = append(nos, c.no)
	}
	first, err := one(ctx, s.pool, (*columns).int, `SELECT nextval('lotkeeper.seqs')`)
	if err != nil {
		return fail(err)
	}
	load := encode(batch, order, classes, first)

	err = s.write(ctx, adding, func(ctx context.Context, tx *txn) (err error) {
		res = lifecycle.MergeResult{}
		// The class states are read here, under the lock: a class that a sweep
		// has condemned since the batch was sealed takes no more DEKs.
		if res.Closed, err = all(ctx, tx, (*columns).text, `SELECT class_id FROM lotkeeper.classes WHERE class_no = ANY($1) AND state <> 'open' ORDER BY class_id`, nos); err != nil {
			return err
		}
		if res.Exists, err = all(ctx, tx, (*columns).text, `SELECT r.record_id FROM `+recordsOf(`record_id`), ids); err != nil {
			return err
		}
		if len(res.Exists)+len(res.Closed) > 0 {
			return nil
		}
		leafID, err := tx.appendLeaf(ctx, leaf)
		if err != nil {
			return err
		}
		load.setLeaf(leafID)
		for _, c := range []struct {
			into string
			rows copyRows
		}{
			{intoRecords, load.records},
			{`lotkeeper.deks (seq, class_no, wrapped)`, load.deks},
			{`lotkeeper.payloads (seq, month, sealed)`, load.payloads},
			{intoLineage, load.lineage},
		} {
			if c.rows.n == 0 {
				continue
			}
			if err := tx.copyInto(ctx, c.into, &c.rows); err != nil {
				return err
			}
		}
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.merges (leaf_id, first_seq, records) VALUES ($1, $2, $3)`, leafID, first, int64(len(batch))); err != nil {
			return err
		}
		for i := range holds {
			if err := insertHold(ctx, tx, &holds[i].Hold); err != nil {
				return err
			}
			if _, err := tx.appendLeaf(ctx, holds[i].Leaf); err != nil {
				return err
			}
		}
		res.Inserted = len(batch)
		return nil
	})
	if err != nil {
		return fail(err)
	}
	return res, nil
}

// classesOf finds the classes of a batch. Their numbers and months never change.
func (s *Store) classesOf(ctx context.Context, batch []lifecycle.Sealed) (map[string]classRow, error) {
	out := map[string]classRow{}
	for i := range batch {
		out[batch[i].Class], out[batch[i].ArchiveClass] = classRow{}, classRow{}
	}
	ids := make([]string, 0, len(out))
	for id := range out {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	err := each(ctx, s.pool, func(c *columns) {
		out[c.text()] = classRow{int32(c.int()), int32(c.int())}
	}, `SELECT class_id, class_no, month FROM lotkeeper.classes WHERE class_id = ANY($1)`, ids)
	if err != nil {
		return nil, fmt.Errorf("couldn't look up classes: %w", err)
	}
	for _, id := range ids {
		if out[id].no == 0 {
			return nil, fmt.Errorf("there is no class %s", id)
		}
	}
	return out, nil
}

// What encode makes of records and of their lineage.
const (
	intoRecords = `lotkeeper.records (ingest_leaf, seq, class_no, archive_class_no, month, payload_bytes, record_id, tlc, tlc_source, event_type,
		event_at, obtained_at, due_at, purge_not_before, location, product, gaps, checksum, content)`
	intoLineage = `lotkeeper.lineage (leaf_id, seq, input_tlc, input_source, output_tlc, output_source)`
)

// load is a batch as COPY (FORMAT binary) reads it: each row begins with the
// number of its columns, each column with its length, all in network order.
type load struct {
	records, deks, payloads, lineage copyRows
	// Of records and lineage the first column is their leaf, whose id is not known
	// before the lock is got: these are its places.
	recordLeaves, lineageLeaves []int
}

func encode(batch []lifecycle.Sealed, order []int, classes map[string]classRow, first int64) *load {
	deks, payloads := 0, 0
	for i := range batch {
		deks += len(batch[i].WrappedDEK) + 32
		payloads += len(batch[i].Payload) + 32
	}
	r, d, p, e := newCopyRows(512*len(batch)), newCopyRows(deks), newCopyRows(payloads), newCopyRows(0)
	l := &load{recordLeaves: make([]int, 0, len(batch))}
	for _, i := range order {
		s := &batch[i]
		seq, class := first+int64(i), classes[s.Class]
		r.row(19)
		l.recordLeaves = append(l.recordLeaves, len(r.b)+4)
		r.int64(0)
		r.int64(seq)
		r.int32(class.no)
		r.int32(classes[s.ArchiveClass].no)
		r.int32(class.month)
		r.int32(int32(len(s.Payload)))
		r.text(s.RecordID)
		r.text(s.TLC)
		r.text(s.TLCSource)
		r.text(string(s.EventType))
		r.time(s.EventTimestamp)
		r.time(s.CreatedOrObtainedAt)
		r.time(s.DueAt)
		r.time(s.PurgeNotBefore)
		r.text(s.Location)
		r.text(s.Product)
		r.text(strings.Join(s.Gaps, ","))
		r.bytes(s.Checksum[:])
		r.bytes(s.Content[:])

		d.row(3)
		d.int64(seq)
		d.int32(class.no)
		d.bytes(s.WrappedDEK)

		p.row(3)
		p.int64(seq)
		p.int32(class.month)
		p.bytes(s.Payload)

		for _, input := range inputs(s) {
			e.row(6)
			l.lineageLeaves = append(l.lineageLeaves, len(e.b)+4)
			e.int64(0)
			e.int64(seq)
			e.text(input.TLC)
			e.text(input.Source)
			e.text(s.TLC)
			e.text(s.TLCSource)
		}
	}
	for _, rows := range []*copyRows{r, d, p, e} {
		rows.end()
	}
	l.records, l.deks, l.payloads, l.lineage = *r, *d, *p, *e
	return l
}

// inputs are the lots that a record links its own with, each once.
func inputs(s *lifecycle.Sealed) (out []cte.Lot) {
	for _, in := range s.Inputs {
		if own := (cte.Lot{TLC: s.TLC, Source: s.TLCSource}); s.TLC != "" && in.TLC != "" && in != own && !slices.Contains(out, in) {
			out = append(out, in)
		}
	}
	return out
}

func (l *load) setLeaf(id int64) {
	for _, at := range l.recordLeaves {
		binary.BigEndian.PutUint64(l.records.b[at:], uint64(id))
	}
	for _, at := range l.lineageLeaves {
		binary.BigEndian.PutUint64(l.lineage.b[at:], uint64(id))
	}
}

// copyRows are rows for COPY (FORMAT binary).
type copyRows struct {
	b []byte
	n int
}

func newCopyRows(size int) *copyRows {
	c := &copyRows{b: make([]byte, 0, size+32)}
	c.b = append(c.b, "PGCOPY\n\xff\r\n\x00"...)
	c.b = append(c.b, 0, 0, 0, 0, 0, 0, 0, 0) // no flags, nothing more of a header
	return c
}

func (c *copyRows) length(n int)  { c.b = binary.BigEndian.AppendUint32(c.b, uint32(n)) }
func (c *copyRows) row(n uint16)  { c.b, c.n = binary.BigEndian.AppendUint16(c.b, n), c.n+1 }
func (c *copyRows) end()          { c.b = binary.BigEndian.AppendUint16(c.b, 0xffff) }
func (c *copyRows) int32(v int32) { c.length(4); c.length(int(v)) }
func (c *copyRows) int64(v int64) {
	c.length(8)
	c.b = binary.BigEndian.AppendUint64(c.b, uint64(v))
}
func (c *copyRows) text(s string)    { c.length(len(s)); c.b = append(c.b, s...) }
func (c *copyRows) bytes(s []byte)   { c.length(len(s)); c.b = append(c.b, s...) }
func (c *copyRows) time(t time.Time) { c.length(len(layout)); c.b = t.UTC().AppendFormat(c.b, layout) }
