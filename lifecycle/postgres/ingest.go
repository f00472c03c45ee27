package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func (s *Store) Existing(ctx context.Context, ids []string) (map[string]lifecycle.Existing, error) {
	out := map[string]lifecycle.Existing{}
	err := each(ctx, s.pool, func(c *columns) {
		out[c.text()] = lifecycle.Existing{State: lifecycle.State(c.text()), ArchiveClass: c.text(), Content: c.sum()}
	}, `SELECT r.record_id, r.state, c.class_id, r.content
		FROM lotkeeper.records r JOIN lotkeeper.classes c ON c.class_no = r.archive_class_no WHERE r.record_id = ANY($1)`, ids)
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
		if err := logEpoch(ctx, tx, epoch); err != nil {
			return err
		}
		_, err := tx.appendLeaf(ctx, leaf)
		return err
	})
}

// monthOf names the partition that a hot class's payloads are in: 202409.
func monthOf(t time.Time) int32 {
	t = t.UTC()
	return int32(t.Year()*100 + int(t.Month()))
}

// logEpoch never goes back: another process may have logged a newer one.
func logEpoch(ctx context.Context, tx *txn, epoch uint64) error {
	_, err := tx.exec(ctx, `UPDATE lotkeeper.meta SET epoch = greatest(epoch, $1)`, int64(epoch))
	return err
}

// classRow is what a merge must know of a class.
type classRow struct {
	no, month int32
}

// seqsEach is how many numbers a merge takes: lotkeeper.seqs counts in steps of it.
const seqsEach = 1 << 20

// Merge sends the rows to a temporary table first, which takes most of the time
// and no lock. Under the lock it then looks at the classes and at the ids, and
// moves the rows on within the server. The temporary table ends with the
// transaction, so that a connection through PgBouncer keeps nothing.
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

	err = s.transact(ctx, shared, func(ctx context.Context, tx *txn) error {
		first, err := one(ctx, tx, (*columns).int, `SELECT nextval('lotkeeper.seqs')`)
		if err != nil {
			return err
		}
		if _, err := tx.exec(ctx, `CREATE TEMP TABLE lotkeeper_batch (LIKE lotkeeper.batch INCLUDING STORAGE) ON COMMIT DROP`); err != nil {
			return err
		}
		tag, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(encode(batch, order, classes, first)), `COPY pg_temp.lotkeeper_batch FROM STDIN (FORMAT binary)`)
		return exactly(len(batch))(tag.RowsAffected(), err)
	}, func(ctx context.Context, tx *txn) (err error) {
		res = lifecycle.MergeResult{}
		// The class states are read here, under the lock: a class that a sweep
		// has condemned since the batch was sealed takes no more DEKs.
		if res.Closed, err = all(ctx, tx, (*columns).text, `SELECT class_id FROM lotkeeper.classes WHERE class_no = ANY($1) AND state <> 'open' ORDER BY class_id`, nos); err != nil {
			return err
		}
		if res.Exists, err = all(ctx, tx, (*columns).text, `SELECT record_id FROM lotkeeper.records WHERE record_id = ANY($1)`, ids); err != nil {
			return err
		}
		if len(res.Exists)+len(res.Closed) > 0 {
			return nil
		}
		leafID, err := tx.appendLeaf(ctx, leaf)
		if err != nil {
			return err
		}
		move := func(into string, args ...any) error {
			return exactly(len(batch))(tx.exec(ctx, `INSERT INTO `+into+` FROM pg_temp.lotkeeper_batch`, args...))
		}
		if err := move(`lotkeeper.records (seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before,
				location, product, gaps, checksum, content, class_no, archive_class_no, month, payload_bytes, ingest_leaf)
			SELECT seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before,
				location, product, gaps, checksum, content, class_no, archive_class_no, month, payload_bytes, $1::bigint`, leafID); err != nil {
			return err
		}
		if err := move(`lotkeeper.deks (seq, class_no, wrapped) SELECT seq, class_no, wrapped`); err != nil {
			return err
		}
		if err := move(`lotkeeper.payloads (month, seq, sealed) SELECT month, seq, sealed`); err != nil {
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

// encode makes a batch into what COPY (FORMAT binary) reads: the columns of
// lotkeeper.batch, each with its length before it, in network order.
func encode(batch []lifecycle.Sealed, order []int, classes map[string]classRow, first int64) []byte {
	size := 64
	for i := range batch {
		size += len(batch[i].Payload) + len(batch[i].WrappedDEK) + 512
	}
	b := make([]byte, 0, size)
	u16 := func(v int) { b = binary.BigEndian.AppendUint16(b, uint16(v)) }
	u32 := func(v int) { b = binary.BigEndian.AppendUint32(b, uint32(v)) }
	text := func(s string) { u32(len(s)); b = append(b, s...) }
	raw := func(s []byte) { u32(len(s)); b = append(b, s...) }
	i32 := func(v int32) { u32(4); u32(int(v)) }
	at := func(t time.Time) { u32(len(layout)); b = t.UTC().AppendFormat(b, layout) }

	b = append(b, "PGCOPY\n\xff\r\n\x00"...)
	u32(0) // flags
	u32(0) // header extension
	for _, i := range order {
		r := &batch[i]
		class := classes[r.Class]
		u16(20)
		u32(8)
		b = binary.BigEndian.AppendUint64(b, uint64(first+int64(i)))
		i32(class.no)
		i32(classes[r.ArchiveClass].no)
		i32(class.month)
		i32(int32(len(r.Payload)))
		text(r.RecordID)
		text(r.TLC)
		text(r.TLCSource)
		text(string(r.EventType))
		at(r.EventTimestamp)
		at(r.CreatedOrObtainedAt)
		at(r.DueAt)
		at(r.PurgeNotBefore)
		text(r.Location)
		text(r.Product)
		text(strings.Join(r.Gaps, ","))
		raw(r.Checksum[:])
		raw(r.Content[:])
		raw(r.WrappedDEK)
		raw(r.Payload)
	}
	u16(-1)
	return b
}
