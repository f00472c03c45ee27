package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// The columns of lifecycle.Row, in the order scanRow reads them.
const (
	rowColumns = `r.seq, r.record_id, r.tlc, r.tlc_source, r.event_type, r.event_at, r.obtained_at, r.due_at, r.purge_not_before,
		r.location, r.product, r.checksum, r.content, r.gaps, hc.class_id, ac.class_id, r.state, coalesce(g.segment_id, ''), r.ingest_leaf, r.archive_leaf`
	rowTables = `records r JOIN classes hc ON hc.class_no = r.class_no JOIN classes ac ON ac.class_no = r.archive_class_no
		LEFT JOIN segments g ON g.segment_no = r.segment_no`
	sealedTables = ` LEFT JOIN payloads p ON p.seq = r.seq LEFT JOIN deks d ON d.seq = r.seq`
)

func scanRow(row interface{ Scan(...any) error }, more ...any) (lifecycle.Row, error) {
	var r lifecycle.Row
	var gaps string
	err := row.Scan(append([]any{&r.Seq, &r.RecordID, &r.TLC, &r.TLCSource, &r.EventType, at(&r.EventTimestamp), at(&r.CreatedOrObtainedAt), at(&r.DueAt), at(&r.PurgeNotBefore),
		&r.Location, &r.Product, sum(&r.Checksum), sum(&r.Content), &gaps, &r.Class, &r.ArchiveClass, &r.State, &r.Segment, &r.IngestLeaf, &r.ArchiveLeaf}, more...)...)
	if gaps != "" {
		r.Gaps = strings.Split(gaps, ",")
	}
	if err != nil {
		err = fmt.Errorf("couldn't read the row of record %q: %w", r.RecordID, err)
	}
	return r, err
}

func scanSealed(row interface{ Scan(...any) error }) (lifecycle.Sealed, error) {
	var s lifecycle.Sealed
	var err error
	s.Row, err = scanRow(row, &s.Payload, &s.WrappedDEK)
	return s, err
}

func (s *Store) Info(ctx context.Context) (lifecycle.Info, error) {
	var i lifecycle.Info
	if err := s.r.QueryRowContext(ctx, `SELECT created_at, epoch, trusted_time, following_leaf, following_seq, following_done FROM meta`).
		Scan(at(&i.CreatedAt), &i.Epoch, at(&i.TrustedTime), &i.Following.Leaf, &i.Following.Seq, &i.Following.Done); err != nil {
		return i, fmt.Errorf("couldn't read the database's own row: %w", err)
	}
	l, err := scanLeaf(s.r.QueryRowContext(ctx, `SELECT `+leafColumns+` FROM `+leafTables+` ORDER BY l.leaf_id DESC LIMIT 1`))
	if err != nil {
		return i, fmt.Errorf("couldn't read the newest leaf: %w", err)
	}
	i.NewestLeaf = l
	return i, nil
}

func (s *Store) Row(ctx context.Context, id string) (lifecycle.Row, error) {
	r, err := scanRow(s.r.QueryRowContext(ctx, `SELECT `+rowColumns+` FROM `+rowTables+` WHERE r.record_id = ?`, id))
	return r, found(err, "record", id)
}

func (s *Store) SealedRow(ctx context.Context, id string) (lifecycle.Sealed, error) {
	r, err := scanSealed(s.r.QueryRowContext(ctx, `SELECT `+rowColumns+`, p.sealed, d.wrapped FROM `+rowTables+sealedTables+` WHERE r.record_id = ?`, id))
	return r, found(err, "record", id)
}

func found(err error, what, id string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s %s: %w", what, id, lifecycle.ErrNotFound)
	}
	return err
}

// where turns a query into a condition on records r.
func where(q lifecycle.Query) (string, []any) {
	conds, args := []string{"true"}, []any(nil)
	add := func(cond string, arg ...any) { conds, args = append(conds, cond), append(args, arg...) }
	if q.RecordIDs != nil {
		add(`r.record_id IN (SELECT value FROM json_each(?))`, list(q.RecordIDs))
	}
	if q.TLC != "" {
		add(`r.tlc = ?`, q.TLC)
	}
	if q.TLCSource != "" {
		add(`r.tlc_source = ?`, q.TLCSource)
	}
	if q.LotContains != "" {
		add(`r.tlc LIKE ? ESCAPE '\'`, like(q.LotContains))
	}
	if !q.From.IsZero() {
		add(`r.event_at >= ?`, stamp(q.From))
	}
	if !q.To.IsZero() {
		add(`r.event_at < ?`, stamp(q.To))
	}
	if q.Segment != "" {
		add(`r.segment_no = (SELECT segment_no FROM segments WHERE segment_id = ?)`, q.Segment)
	}
	if q.Class != "" {
		add(`r.class_no = (SELECT class_no FROM classes WHERE class_id = ?)`, q.Class)
	}
	query, reach := hitsAmong(q.Reach, strings.Join(conds, " AND "), args...)
	if q.ExceptHeld {
		add(`r.seq NOT IN (`+query+`)`, reach...)
	}
	switch q.State {
	case "":
	case lifecycle.Held:
		add(`r.seq IN (`+query+`) AND NOT `+gone, reach...)
	default:
		add(`r.state = ?`, string(q.State))
	}
	return strings.Join(conds, " AND "), args
}

func limit(n int) int {
	if n <= 0 {
		return -1
	}
	return n
}

// each yields the rows of a query one by one, and says whether to go on.
func each[T any](ctx context.Context, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, yield func(T, error) bool, scan func(*sql.Rows) (T, error), query string, args ...any) bool {
	var zero T
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		yield(zero, fmt.Errorf("couldn't read records: %w", err))
		return false
	}
	defer rows.Close()
	for rows.Next() {
		v, err := scan(rows)
		if !yield(v, err) || err != nil {
			return false
		}
	}
	if err := rows.Err(); err != nil {
		yield(zero, fmt.Errorf("couldn't read records: %w", err))
		return false
	}
	return true
}

func (s *Store) NewestEvents(ctx context.Context, tlcs []string, until time.Time) (map[cte.Lot]time.Time, error) {
	// The join goes from the lots to their records, whatever ANALYZE has seen.
	rows, err := s.r.QueryContext(ctx, `SELECT r.tlc, r.tlc_source, max(r.event_at) FROM json_each(?) j CROSS JOIN records r INDEXED BY records_lot ON r.tlc = j.value
		WHERE r.event_at <= ? GROUP BY r.tlc, r.tlc_source`, list(tlcs), stamp(until))
	if err != nil {
		return nil, fmt.Errorf("couldn't look for the newest events of %d lots: %w", len(tlcs), err)
	}
	defer rows.Close()
	out := map[cte.Lot]time.Time{}
	for rows.Next() {
		var lot cte.Lot
		var newest time.Time
		if err := rows.Scan(&lot.TLC, &lot.Source, at(&newest)); err != nil {
			return nil, fmt.Errorf("couldn't look for the newest events of %d lots: %w", len(tlcs), err)
		}
		out[lot] = newest
	}
	return out, rows.Err()
}

func (s *Store) Rows(ctx context.Context, q lifecycle.Query) iter.Seq2[lifecycle.Row, error] {
	return func(yield func(lifecycle.Row, error) bool) {
		cond, args := where(q)
		each(ctx, s.r, yield, func(rows *sql.Rows) (lifecycle.Row, error) { return scanRow(rows) },
			`SELECT `+rowColumns+` FROM `+rowTables+` WHERE `+cond+` ORDER BY r.event_at, r.record_id LIMIT ?`, append(args, limit(q.Limit))...)
	}
}

func (s *Store) Sealed(ctx context.Context, q lifecycle.Query) iter.Seq2[lifecycle.Sealed, error] {
	return func(yield func(lifecycle.Sealed, error) bool) {
		// One transaction is one snapshot in WAL mode.
		tx, err := s.r.BeginTx(ctx, nil)
		if err != nil {
			yield(lifecycle.Sealed{}, fmt.Errorf("couldn't read records: %w", err))
			return
		}
		defer tx.Rollback()
		cond, args := where(q)
		left := limit(q.Limit)
		counted := func(r lifecycle.Sealed, err error) bool { left--; return yield(r, err) }
		scan := func(rows *sql.Rows) (lifecycle.Sealed, error) { return scanSealed(rows) }
		if !each(ctx, tx, counted, scan, `SELECT `+rowColumns+`, p.sealed, d.wrapped FROM `+rowTables+sealedTables+`
			WHERE r.state = 'active' AND `+cond+` ORDER BY r.seq LIMIT ?`, append(args, left)...) {
			return
		}
		// An archived record has a segment; that it is said here lets the index
		// on segments give the order.
		each(ctx, tx, yield, scan, `SELECT `+rowColumns+`, NULL, NULL FROM `+rowTables+`
			WHERE r.state = 'archived' AND r.segment_no IS NOT NULL AND `+cond+` ORDER BY r.segment_no, r.seq LIMIT ?`, append(args, left)...)
	}
}

const segmentState = `CASE g.purge_leaf WHEN 0 THEN g.state ELSE 'purged' END`

const segmentColumns = `g.segment_no, g.segment_id, c.class_id, ` + segmentState + `, g.run_id, g.records, g.object_key, g.object_size, g.object_sha256, g.plaintext_sha256,
	g.merkle_root, g.manifest_key, g.manifest_size, g.manifest_sha256, g.wrapped_identity, g.retain_until, g.created_at`

func (s *Store) segments(ctx context.Context, cond string, args ...any) ([]lifecycle.Segment, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+segmentColumns+` FROM segments g JOIN classes c ON c.class_no = g.class_no WHERE `+cond+` ORDER BY g.segment_id`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read segments: %w", err)
	}
	byNo := map[int64]int{}
	var n int
	out, err := collect(rows, func(rows *sql.Rows) (g lifecycle.Segment, err error) {
		var no int64
		err = rows.Scan(&no, &g.ID, &g.Class, &g.State, &g.RunID, &g.Records, &g.ObjectKey, &g.ObjectSize, sum(&g.ObjectSHA256), sum(&g.PlaintextSHA256),
			sum(&g.Root), &g.ManifestKey, &g.ManifestSize, sum(&g.ManifestSHA256), &g.WrappedIdentity, at(&g.RetainUntil), at(&g.CreatedAt))
		byNo[no] = n
		n++
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read segments: %w", err)
	}
	copies, err := s.r.QueryContext(ctx, `SELECT segment_no, vault, object_version, manifest_version, retain_until, verified_at, deleted_at FROM segment_copies
		WHERE segment_no IN (SELECT g.segment_no FROM segments g WHERE `+cond+`) ORDER BY segment_no, vault`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the copies of segments: %w", err)
	}
	defer copies.Close()
	for copies.Next() {
		var no int64
		var c lifecycle.Copy
		if err := copies.Scan(&no, &c.Vault, &c.ObjectVersion, &c.ManifestVersion, at(&c.RetainUntil), at(&c.VerifiedAt), maybeAt(&c.DeletedAt)); err != nil {
			return nil, fmt.Errorf("couldn't read the copies of segments: %w", err)
		}
		if i, ok := byNo[no]; ok {
			out[i].Copies = append(out[i].Copies, c)
		}
	}
	return out, copies.Err()
}

func (s *Store) Segment(ctx context.Context, id string) (lifecycle.Segment, error) {
	gs, err := s.segments(ctx, `g.segment_id = ?`, id)
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
	return s.segments(ctx, segmentState+` IN (SELECT value FROM json_each(?))`, list(states))
}

func (s *Store) Classes(ctx context.Context, counted bool) ([]lifecycle.Class, error) {
	counts := `0, 0`
	if counted {
		counts = `(SELECT count(*) FROM deks d WHERE d.class_no = c.class_no), (SELECT count(*) FROM records r WHERE r.class_no = c.class_no)`
	}
	rows, err := s.r.QueryContext(ctx, `SELECT `+classColumns+`, `+counts+` FROM classes c ORDER BY kind, period_start, generation`)
	if err != nil {
		return nil, fmt.Errorf("couldn't read classes: %w", err)
	}
	return collect(rows, func(rows *sql.Rows) (lifecycle.Class, error) {
		var deks, members int64
		c, err := scanClass(rows, &deks, &members)
		c.DEKs, c.Members = deks, members
		return c, err
	})
}

const runColumns = `run_id, kind, actor, started_at, finished_at, status, result`

func scanRun(row interface{ Scan(...any) error }) (r lifecycle.Run, err error) {
	var result string
	err = row.Scan(&r.ID, &r.Kind, &r.Actor, at(&r.StartedAt), maybeAt(&r.FinishedAt), &r.Status, &result)
	r.Result = []byte(result)
	return r, err
}

func (s *Store) Runs(ctx context.Context, n int) ([]lifecycle.Run, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+runColumns+` FROM runs ORDER BY started_at DESC, rowid DESC LIMIT ?`, limit(n))
	if err != nil {
		return nil, fmt.Errorf("couldn't read runs: %w", err)
	}
	return collect(rows, func(rows *sql.Rows) (lifecycle.Run, error) { return scanRun(rows) })
}

func (s *Store) Run(ctx context.Context, id string) (lifecycle.Run, error) {
	r, err := scanRun(s.r.QueryRowContext(ctx, `SELECT `+runColumns+` FROM runs WHERE run_id = ?`, id))
	return r, found(err, "run", id)
}

// The columns of lifecycle.Leaf, in the order scanLeaf reads them.
const (
	leafColumns = `l.leaf_id, l.at, l.actor, l.action, l.run_id, l.subject, l.body, l.software, l.role, coalesce(e.log_index, -1)`
	leafTables  = `leaves l LEFT JOIN log_entries e ON e.leaf_id = l.leaf_id`
)

func scanLeaf(row interface{ Scan(...any) error }) (l lifecycle.Leaf, err error) {
	var body string
	err = row.Scan(&l.ID, at(&l.At), &l.Actor, &l.Action, &l.RunID, &l.Subject, &body, &l.Software, &l.Role, &l.Index)
	l.Body = []byte(body)
	return l, err
}

func (s *Store) leaves(ctx context.Context, cond string, args ...any) ([]lifecycle.Leaf, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+leafColumns+` FROM `+leafTables+` WHERE `+cond, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the audit trail: %w", err)
	}
	return collect(rows, func(rows *sql.Rows) (lifecycle.Leaf, error) { return scanLeaf(rows) })
}

func (s *Store) Leaves(ctx context.Context, q lifecycle.LeafQuery) ([]lifecycle.Leaf, error) {
	conds, args := []string{"true"}, []any(nil)
	add := func(cond string, arg any) { conds, args = append(conds, cond), append(args, arg) }
	if q.RunID != "" {
		// Said twice for the planner: it does not know that a parameter is not
		// '', and so would not use an index of the rows that have one.
		add(`l.run_id <> '' AND l.run_id = ?`, q.RunID)
	}
	if q.Subject != "" {
		add(`l.subject <> '' AND l.subject = ?`, q.Subject)
	}
	if q.Actor != "" {
		add(`l.actor = ?`, q.Actor)
	}
	switch {
	case len(q.Actions) == 1:
		add(`l.action = ?`, q.Actions[0]) // whose index has them in order
	case q.Actions != nil:
		add(`l.action IN (SELECT value FROM json_each(?))`, list(q.Actions))
	}
	if !q.From.IsZero() {
		add(`l.at >= ?`, stamp(q.From))
	}
	if !q.To.IsZero() {
		add(`l.at < ?`, stamp(q.To))
	}
	if q.After != 0 {
		add(`l.leaf_id > ?`, q.After)
	}
	return s.leaves(ctx, strings.Join(conds, " AND ")+` ORDER BY l.leaf_id LIMIT ?`, append(args, limit(q.Limit))...)
}

func (s *Store) RecordLeaves(ctx context.Context, seq int64) ([]lifecycle.Leaf, error) {
	return s.leaves(ctx, `l.leaf_id IN (SELECT ingest_leaf FROM records WHERE seq = ?1 UNION SELECT archive_leaf FROM records WHERE seq = ?1
		UNION SELECT purge_leaf FROM records WHERE seq = ?1 UNION SELECT leaf_id FROM reseals WHERE seq = ?1
		UNION SELECT leaf_id FROM reschedules WHERE seq = ?1 UNION SELECT leaf_id FROM rearchivals WHERE seq = ?1) ORDER BY l.leaf_id`, seq)
}

func (s *Store) Counts(ctx context.Context) (map[lifecycle.State]int64, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT state, count(*) FROM records GROUP BY state`)
	if err != nil {
		return nil, fmt.Errorf("couldn't count records: %w", err)
	}
	defer rows.Close()
	out := map[lifecycle.State]int64{}
	for rows.Next() {
		var st lifecycle.State
		var n int64
		if err := rows.Scan(&st, &n); err != nil {
			return nil, err
		}
		out[st] = n
	}
	return out, rows.Err()
}

// MayUnmask: there are no roles here. Whoever can open the file sees all of it.
func (s *Store) MayUnmask(ctx context.Context) (bool, error) { return true, ctx.Err() }
