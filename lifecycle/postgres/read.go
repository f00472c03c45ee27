package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// selectRows and selectStored read records r, without and with their DEKs, as
// scanStored takes them.
const (
	rowColumns = `r.seq, r.record_id, r.tlc, r.tlc_source, r.event_type, r.event_at, r.obtained_at, r.due_at, r.purge_not_before,
		r.location, r.product, r.checksum, r.content, r.gaps, r.state, r.ingest_leaf, r.archive_leaf`
	placeColumns = `r.class_no, r.archive_class_no, coalesce(r.segment_no, 0), r.month, r.payload_bytes`
	selectRows   = `SELECT ` + rowColumns + `, NULL::bytea, ` + placeColumns + ` FROM lotkeeper.records r`
	selectStored = `SELECT ` + rowColumns + `, d.wrapped, ` + placeColumns + ` FROM lotkeeper.records r LEFT JOIN lotkeeper.deks d ON d.seq = r.seq`
)

// stored is a record as its row has it: classes and segment by their numbers, and
// no payload yet. A page of them is completed at once: the names of a few classes
// are fetched faster than thousands of times joined.
type stored struct {
	lifecycle.Sealed
	class, archiveClass, segment int64
	month, bytes                 int64
}

func scanStored(c *columns) stored {
	return stored{lifecycle.Sealed{Row: lifecycle.Row{
		Seq: c.int(), RecordID: c.text(), TLC: c.text(), TLCSource: c.text(), EventType: cte.EventType(c.text()),
		EventTimestamp: c.time(), CreatedOrObtainedAt: c.time(), DueAt: c.time(), PurgeNotBefore: c.time(),
		Location: c.text(), Product: c.text(), Checksum: c.sum(), Content: c.sum(), Gaps: c.list(),
		State: lifecycle.State(c.text()), IngestLeaf: c.int(), ArchiveLeaf: c.int(),
	}, WrappedDEK: c.bytes()}, c.int(), c.int(), c.int(), c.int(), c.int()}
}

// name fills in the ids of classes and segments. They never change.
func name(ctx context.Context, q querier, rs []stored) error {
	classes, segments := map[int64]string{}, map[int64]string{}
	for i := range rs {
		classes[rs[i].class], classes[rs[i].archiveClass] = "", ""
		if rs[i].segment != 0 {
			segments[rs[i].segment] = ""
		}
	}
	if err := each(ctx, q, func(c *columns) {
		if c.int() == 0 {
			classes[c.int()] = c.text()
		} else {
			segments[c.int()] = c.text()
		}
	}, `SELECT 0, class_no, class_id FROM lotkeeper.classes WHERE class_no = ANY($1) UNION ALL SELECT 1, segment_no, segment_id FROM lotkeeper.segments WHERE segment_no = ANY($2)`,
		slices.Collect(maps.Keys(classes)), slices.Collect(maps.Keys(segments))); err != nil {
		return fmt.Errorf("couldn't read the names of classes and segments: %w", err)
	}
	for i := range rs {
		r := &rs[i]
		r.Class, r.ArchiveClass, r.Segment = classes[r.class], classes[r.archiveClass], segments[r.segment]
	}
	return nil
}

// rows reads rows without their ciphertext.
func rows(ctx context.Context, q querier, where string, args ...any) ([]lifecycle.Row, error) {
	page, err := all(ctx, q, scanStored, selectRows+where, args...)
	if err != nil || len(page) == 0 {
		return nil, err
	}
	if err := name(ctx, q, page); err != nil {
		return nil, err
	}
	out := make([]lifecycle.Row, len(page))
	for i := range page {
		out[i] = page[i].Row
	}
	return out, nil
}

// within says how many of the records stay within so many bytes of payload: at
// least one, and the one that passes the bound.
func within(rs []stored, maxBytes int64) int {
	n, bytes := 0, int64(0)
	for n < len(rs) && (n == 0 || bytes < maxBytes) {
		bytes += rs[n].bytes
		n++
	}
	return n
}

// complete adds names and payloads. It reads these month by month, so that each
// statement looks into one partition: joined to all of them, each row would be
// looked for in each.
func complete(ctx context.Context, q querier, rs []stored) ([]lifecycle.Sealed, error) {
	if len(rs) == 0 {
		return nil, nil
	}
	if err := name(ctx, q, rs); err != nil {
		return nil, err
	}
	out := make([]lifecycle.Sealed, len(rs))
	months := map[int64][]int64{}
	index := make(map[int64]int, len(rs))
	for i := range rs {
		out[i] = rs[i].Sealed
		months[rs[i].month] = append(months[rs[i].month], rs[i].Seq)
		index[rs[i].Seq] = i
	}
	for month, seqs := range months {
		if err := each(ctx, q, func(c *columns) { out[index[c.int()]].Payload = c.bytes() },
			`SELECT seq, sealed FROM lotkeeper.payloads WHERE month = $1 AND seq = ANY($2)`, month, seqs); err != nil {
			return nil, fmt.Errorf("couldn't read payloads: %w", err)
		}
	}
	return out, nil
}

// snapshot runs fn in a transaction that reads the database as of one instant.
func (s *Store) snapshot(ctx context.Context, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, fn)
}

func (s *Store) Info(ctx context.Context) (lifecycle.Info, error) {
	i, err := one(ctx, s.pool, func(c *columns) lifecycle.Info {
		return lifecycle.Info{CreatedAt: c.time(), Epoch: uint64(c.int()), TrustedTime: c.time(),
			Following: lifecycle.Following{Leaf: c.int(), Seq: c.int(), Done: c.int() == 1}, NewestLeaf: scanLeaf(c)}
	}, `SELECT m.created_at, m.epoch, m.trusted_time, m.following_leaf, m.following_seq, m.following_done, l.* FROM lotkeeper.meta m,
		(`+selectLeaf+` ORDER BY l.leaf_id DESC LIMIT 1) l`)
	if err != nil {
		return i, fmt.Errorf("couldn't read the database's own row: %w", err)
	}
	return i, nil
}

func (s *Store) Row(ctx context.Context, id string) (lifecycle.Row, error) {
	rs, err := rows(ctx, s.pool, ` WHERE r.record_id = $1`, id)
	if err == nil && len(rs) == 0 {
		err = fmt.Errorf("record %s: %w", id, lifecycle.ErrNotFound)
	}
	if err != nil {
		return lifecycle.Row{}, err
	}
	return rs[0], nil
}

func (s *Store) SealedRow(ctx context.Context, id string) (lifecycle.Sealed, error) {
	var out lifecycle.Sealed
	err := s.snapshot(ctx, func(tx pgx.Tx) error {
		r, err := one(ctx, tx, scanStored, selectStored+` WHERE r.record_id = $1`, id)
		if err != nil {
			return err
		}
		full, err := complete(ctx, tx, []stored{r})
		if err == nil {
			out = full[0]
		}
		return err
	})
	return out, found(err, "record", id)
}

// where turns a query into a condition on records r. A parameter that is appended
// to args has the number of its length.
func where(q lifecycle.Query) (string, []any) {
	var p params
	conds := []string{heldIn(q, &p)}
	add := func(cond string, arg any) { conds = append(conds, fmt.Sprintf(cond, p.add(arg))) }
	if q.RecordIDs != nil {
		add(`r.record_id = ANY(%s)`, q.RecordIDs)
	}
	if q.TLC != "" {
		add(`r.tlc = %s`, q.TLC)
	}
	if q.TLCSource != "" {
		add(`r.tlc_source = %s`, q.TLCSource)
	}
	if q.LotContains != "" {
		add(`r.tlc ILIKE %s`, like(q.LotContains))
	}
	if !q.From.IsZero() {
		add(`r.event_at >= %s`, stamp(q.From))
	}
	if !q.To.IsZero() {
		add(`r.event_at < %s`, stamp(q.To))
	}
	if q.Segment != "" {
		add(`r.segment_no = (SELECT segment_no FROM lotkeeper.segments WHERE segment_id = %s)`, q.Segment)
	}
	if q.Class != "" {
		// Both halves are said, for each has an index of its own.
		const class = `r.class_no = (SELECT class_no FROM lotkeeper.classes WHERE class_id = %[1]s)`
		add(`(`+class+` AND r.archive_leaf = 0 OR `+class+` AND r.archive_leaf <> 0)`, q.Class)
	}
	if q.State != "" && q.State != lifecycle.Held {
		add(`r.state = %s`, string(q.State))
	}
	return strings.Join(conds, " AND "), p
}

// Of a sequence, so many rows are read at a time, with at most so many bytes of
// payload: memory follows these.
const (
	pageRows  = 1000
	pageBytes = 8 << 20
)

// errStop ends a sequence that its reader has broken off.
var errStop = errors.New("enough was read")

// stream reads records page by page through a cursor. Each page is read to its
// end before its first row is used: its reader may take his time and leave early,
// and use the transaction in between.
func stream(ctx context.Context, tx pgx.Tx, page func([]stored) error, query string, args ...any) error {
	if _, err := tx.Exec(ctx, `DECLARE page NO SCROLL CURSOR FOR `+query, args...); err != nil {
		return denied(err)
	}
	for {
		rs, err := all(ctx, tx, scanStored, fmt.Sprintf(`FETCH %d FROM page`, pageRows))
		if err != nil {
			return err
		}
		more := len(rs) == pageRows
		if err := page(rs); err != nil {
			return err
		}
		if !more {
			_, err := tx.Exec(ctx, `CLOSE page`)
			return err
		}
	}
}

// sequence is a snapshot in which a sequence is read. The cursor's plan is for all
// of its rows, and its reader may take his time. A reader who has left is told
// nothing any more, least of all that his context is done.
func (s *Store) sequence(ctx context.Context, fn func(pgx.Tx) error) error {
	stopped := false
	err := s.snapshot(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SET LOCAL cursor_tuple_fraction = 1; SET LOCAL idle_in_transaction_session_timeout = 0`)
		if err == nil {
			err = fn(tx)
		}
		stopped = errors.Is(err, errStop)
		return err
	})
	if stopped || err == nil {
		return nil
	}
	return fmt.Errorf("couldn't read records: %w", err)
}

func (s *Store) NewestEvents(ctx context.Context, tlcs []string, until time.Time) (map[cte.Lot]time.Time, error) {
	out := map[cte.Lot]time.Time{}
	// OFFSET 0 keeps the planner from walking through all records, where it takes the
	// lots for many.
	err := each(ctx, s.pool, func(c *columns) { out[cte.Lot{TLC: c.text(), Source: c.text()}] = c.time() },
		`SELECT r.tlc, r.tlc_source, max(r.event_at) FROM unnest($1::text[]) l(tlc),
		LATERAL (SELECT tlc, tlc_source, event_at FROM lotkeeper.records r WHERE r.tlc = l.tlc AND r.event_at <= $2 OFFSET 0) r
		GROUP BY r.tlc, r.tlc_source`, tlcs, stamp(until))
	if err != nil {
		return nil, fmt.Errorf("couldn't look for the newest events of %d lots: %w", len(tlcs), err)
	}
	return out, nil
}

func (s *Store) Rows(ctx context.Context, q lifecycle.Query) iter.Seq2[lifecycle.Row, error] {
	return func(yield func(lifecycle.Row, error) bool) {
		cond, args := where(q)
		err := s.sequence(ctx, func(tx pgx.Tx) error {
			return stream(ctx, tx, func(page []stored) error {
				if err := name(ctx, tx, page); err != nil {
					return err
				}
				for i := range page {
					if !yield(page[i].Row, nil) {
						return errStop
					}
				}
				return nil
			}, selectRows+` WHERE `+cond+fmt.Sprintf(` ORDER BY r.event_at, r.record_id LIMIT $%d`, len(args)+1), append(args, limit(q.Limit))...)
		})
		if err != nil {
			yield(lifecycle.Row{}, err)
		}
	}
}

func (s *Store) Sealed(ctx context.Context, q lifecycle.Query) iter.Seq2[lifecycle.Sealed, error] {
	return func(yield func(lifecycle.Sealed, error) bool) {
		cond, args := where(q)
		left := q.Limit
		query := func(state, order string) (string, []any) {
			return selectStored + ` WHERE ` + state + ` AND ` + cond + fmt.Sprintf(` ORDER BY %s LIMIT $%d`, order, len(args)+1), append(args[:len(args):len(args)], limit(left))
		}
		err := s.sequence(ctx, func(tx pgx.Tx) error {
			sql, args := query(`r.state = 'active'`, `r.seq`)
			if err := stream(ctx, tx, func(page []stored) error {
				for len(page) > 0 {
					n := within(page, pageBytes)
					full, err := complete(ctx, tx, page[:n])
					if err != nil {
						return err
					}
					for i := range full {
						if !yield(full[i], nil) {
							return errStop
						}
					}
					page, left = page[n:], left-n
				}
				return nil
			}, sql, args...); err != nil {
				return err
			}
			if q.Limit > 0 && left <= 0 {
				return nil
			}
			// An archived record has a segment; that it is said here lets the index
			// on segments give the order.
			sql, args = query(`r.state = 'archived' AND r.segment_no IS NOT NULL`, `r.segment_no, r.seq`)
			return stream(ctx, tx, func(page []stored) error {
				if err := name(ctx, tx, page); err != nil {
					return err
				}
				for i := range page {
					if !yield(page[i].Sealed, nil) {
						return errStop
					}
				}
				return nil
			}, sql, args...)
		})
		if err != nil {
			yield(lifecycle.Sealed{}, err)
		}
	}
}

const segmentState = `CASE g.purge_leaf WHEN 0 THEN g.state ELSE 'purged' END`

const segmentColumns = `g.segment_no, g.segment_id, c.class_id, ` + segmentState + `, g.run_id, g.records, g.object_key, g.object_size, g.object_sha256, g.plaintext_sha256,
	g.merkle_root, g.manifest_key, g.manifest_size, g.manifest_sha256, g.retain_until, g.created_at`

func (s *Store) segments(ctx context.Context, cond string, args ...any) ([]lifecycle.Segment, error) {
	var out []lifecycle.Segment
	err := s.snapshot(ctx, func(tx pgx.Tx) error {
		index := map[int64]int{}
		if err := each(ctx, tx, func(c *columns) {
			index[c.int()] = len(out)
			out = append(out, lifecycle.Segment{ID: c.text(), Class: c.text(), State: lifecycle.SegmentState(c.text()), RunID: c.text(), Records: int(c.int()),
				ObjectKey: c.text(), ObjectSize: c.int(), ObjectSHA256: c.sum(), PlaintextSHA256: c.sum(), Root: c.sum(),
				ManifestKey: c.text(), ManifestSize: c.int(), ManifestSHA256: c.sum(), RetainUntil: c.time(), CreatedAt: c.time()})
		}, `SELECT `+segmentColumns+` FROM lotkeeper.segments g JOIN lotkeeper.classes c ON c.class_no = g.class_no WHERE `+cond+` ORDER BY g.segment_id`, args...); err != nil {
			return err
		}
		if s.may.identities {
			if err := each(ctx, tx, func(c *columns) { out[index[c.int()]].WrappedIdentity = c.bytes() },
				`SELECT g.segment_no, g.wrapped_identity FROM lotkeeper.segments g WHERE `+cond, args...); err != nil {
				return err
			}
		}
		return each(ctx, tx, func(c *columns) {
			g := &out[index[c.int()]]
			g.Copies = append(g.Copies, lifecycle.Copy{Vault: c.text(), ObjectVersion: c.text(), ManifestVersion: c.text(), RetainUntil: c.time(), VerifiedAt: c.time(), DeletedAt: c.maybeTime()})
		}, `SELECT p.segment_no, p.vault, p.object_version, p.manifest_version, p.retain_until, p.verified_at, p.deleted_at
			FROM lotkeeper.segment_copies p JOIN lotkeeper.segments g USING (segment_no) WHERE `+cond+` ORDER BY p.segment_no, p.vault`, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read segments: %w", err)
	}
	return out, nil
}

func (s *Store) Segment(ctx context.Context, id string) (lifecycle.Segment, error) {
	gs, err := s.segments(ctx, `g.segment_id = $1`, id)
	if err == nil && len(gs) == 0 {
		err = fmt.Errorf("segment %s: %w", id, lifecycle.ErrNotFound)
	}
	if err != nil {
		return lifecycle.Segment{}, err
	}
	return gs[0], nil
}

func (s *Store) Segments(ctx context.Context, states ...lifecycle.SegmentState) ([]lifecycle.Segment, error) {
	if len(states) == 0 {
		return s.segments(ctx, `true`)
	}
	list := make([]string, len(states))
	for i, st := range states {
		list[i] = string(st)
	}
	return s.segments(ctx, segmentState+` = ANY($1)`, list)
}

func (s *Store) Classes(ctx context.Context, counted bool) ([]lifecycle.Class, error) {
	counts := `0::bigint, 0::bigint FROM lotkeeper.classes c`
	if counted {
		// Each table is read once, not once a class.
		counts = `coalesce(d.n, 0), coalesce(r.n, 0) FROM lotkeeper.classes c
			LEFT JOIN (SELECT class_no, count(*) n FROM lotkeeper.deks GROUP BY class_no) d USING (class_no)
			LEFT JOIN (SELECT class_no, count(*) n FROM lotkeeper.records GROUP BY class_no) r USING (class_no)`
	}
	out, err := all(ctx, s.pool, func(c *columns) lifecycle.Class {
		class := scanClass(c)
		class.DEKs, class.Members = c.int(), c.int()
		return class
	}, `SELECT `+classColumns+`, `+counts+` ORDER BY c.kind, c.period_start, c.generation`)
	if err != nil {
		return nil, fmt.Errorf("couldn't read classes: %w", err)
	}
	return out, nil
}

// The columns of lifecycle.Leaf, in the order scanLeaf reads them: the last is its
// index. That is looked up for each leaf, since a planner that knows little of the
// tables would read all of the log for a few.
const (
	leafColumns = `l.leaf_id, l.at, l.actor, l.action, l.run_id, l.subject, l.body, l.software, l.role`
	selectLeaf  = `SELECT ` + leafColumns + `, coalesce((SELECT e.log_index FROM lotkeeper.log_entries e WHERE e.leaf_id = l.leaf_id), -1) AS log_index FROM lotkeeper.leaves l`
)

func scanLeaf(c *columns) lifecycle.Leaf {
	return lifecycle.Leaf{ID: c.int(), At: c.time(), Actor: c.text(), Action: c.text(), RunID: c.text(), Subject: c.text(), Body: c.bytes(),
		Software: c.text(), Role: c.text(), Index: c.int()}
}

func (s *Store) leaves(ctx context.Context, cond string, args ...any) ([]lifecycle.Leaf, error) {
	out, err := all(ctx, s.pool, scanLeaf, selectLeaf+` WHERE `+cond, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the audit trail: %w", err)
	}
	return out, nil
}

func (s *Store) Leaves(ctx context.Context, q lifecycle.LeafQuery) ([]lifecycle.Leaf, error) {
	conds, args := []string{"true"}, []any(nil)
	add := func(cond string, arg any) {
		args = append(args, arg)
		conds = append(conds, fmt.Sprintf(cond, len(args)))
	}
	if q.RunID != "" {
		// Said twice for the planner, which may not know that a parameter is not
		// '', and so would not use an index of the rows that have one.
		add(`l.run_id <> '' AND l.run_id = $%d`, q.RunID)
	}
	if q.Subject != "" {
		add(`l.subject <> '' AND l.subject = $%d`, q.Subject)
	}
	if q.Actor != "" {
		add(`l.actor = $%d`, q.Actor)
	}
	switch {
	case len(q.Actions) == 1:
		add(`l.action = $%d`, q.Actions[0]) // whose index has them in order
	case q.Actions != nil:
		add(`l.action = ANY($%d)`, q.Actions)
	}
	if !q.From.IsZero() {
		add(`l.at >= $%d`, stamp(q.From))
	}
	if !q.To.IsZero() {
		add(`l.at < $%d`, stamp(q.To))
	}
	if q.After != 0 {
		add(`l.leaf_id > $%d`, q.After)
	}
	args = append(args, limit(q.Limit))
	return s.leaves(ctx, strings.Join(conds, " AND ")+fmt.Sprintf(` ORDER BY l.leaf_id LIMIT $%d`, len(args)), args...)
}

func (s *Store) RecordLeaves(ctx context.Context, seq int64) ([]lifecycle.Leaf, error) {
	return s.leaves(ctx, `l.leaf_id IN (SELECT ingest_leaf FROM lotkeeper.records WHERE seq = $1 UNION SELECT archive_leaf FROM lotkeeper.records WHERE seq = $1
		UNION SELECT purge_leaf FROM lotkeeper.records WHERE seq = $1 UNION SELECT leaf_id FROM lotkeeper.reseals WHERE seq = $1
		UNION SELECT leaf_id FROM lotkeeper.reschedules WHERE seq = $1 UNION SELECT leaf_id FROM lotkeeper.rearchivals WHERE seq = $1) ORDER BY l.leaf_id`, seq)
}

func (s *Store) Counts(ctx context.Context) (map[lifecycle.State]int64, error) {
	out := map[lifecycle.State]int64{}
	err := each(ctx, s.pool, func(c *columns) { out[lifecycle.State(c.text())] = c.int() }, `SELECT state, count(*) FROM lotkeeper.records GROUP BY state`)
	if err != nil {
		return nil, fmt.Errorf("couldn't count records: %w", err)
	}
	return out, nil
}

// MayUnmask asks for a membership of lotkeeper_unmask. Where nobody has made that role,
// none were set up.
func (s *Store) MayUnmask(ctx context.Context) (bool, error) {
	may, err := one(ctx, s.pool, func(c *columns) bool { return c.int() == 1 }, `SELECT coalesce((SELECT pg_has_role(session_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = 'lotkeeper_unmask'), true)`)
	if err != nil {
		return false, fmt.Errorf("couldn't see who may unmask: %w", err)
	}
	return may, nil
}
