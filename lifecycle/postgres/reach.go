package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// params are a statement's arguments while it is put together.
type params []any

// add appends an argument and returns its place in the statement.
func (p *params) add(arg any) string {
	*p = append(*p, arg)
	return fmt.Sprintf("$%d", len(*p))
}

// scopeOn is a scope as a condition on records r. Everything is true.
func scopeOn(s lifecycle.Scope, p *params) string {
	conds := []string{"true"}
	eq := func(column, v string) {
		if v != "" {
			conds = append(conds, "r."+column+" = "+p.add(v))
		}
	}
	eq("record_id", s.RecordID)
	eq("tlc", s.TLC)
	eq("location", s.Location)
	eq("product", s.Product)
	eq("event_type", string(s.EventType))
	if s.TLCPrefix != "" {
		conds = append(conds, "starts_with(r.tlc, "+p.add(s.TLCPrefix)+")")
	}
	if s.TLCSource != "" {
		conds = append(conds, "r.tlc_source IN ('', "+p.add(s.TLCSource)+")")
	}
	if !s.From.IsZero() {
		conds = append(conds, "r.event_at >= "+p.add(stamp(s.From)))
	}
	if !s.To.IsZero() {
		conds = append(conds, "r.event_at < "+p.add(stamp(s.To)))
	}
	return strings.Join(conds, " AND ")
}

// hits selects the seqs of a reach, from as many queries as there are ways to find
// them: records and lots, which may be thousands, by their indexes. It is empty for
// a reach of nothing.
func hits(r lifecycle.Reach, p *params) string {
	var records, tlcs, sources, traced, tracedSources, rest []string
	for _, s := range r.Scopes {
		switch {
		case s.RecordID != "" && s == lifecycle.Scope{RecordID: s.RecordID, Trace: s.Trace}:
			records = append(records, s.RecordID)
		case s.TLC != "" && s.OnLots():
			tlcs, sources = append(tlcs, s.TLC), append(sources, s.TLCSource)
		default:
			rest = append(rest, "("+scopeOn(s, p)+")")
		}
	}
	for _, l := range r.Lots {
		if l.TLC == "" {
			continue // records of no lot are of no lot together
		}
		traced, tracedSources = append(traced, l.TLC), append(tracedSources, l.Source)
	}
	var arms []string
	if records != nil {
		arms = append(arms, `SELECT r.seq FROM unnest(`+p.add(records)+`::text[]) i(id) JOIN lotkeeper.records r ON r.record_id = i.id`)
	}
	for _, lots := range [][2][]string{{tlcs, sources}, {traced, tracedSources}} {
		if lots[0] != nil {
			arms = append(arms, `SELECT r.seq FROM unnest(`+p.add(lots[0])+`::text[], `+p.add(lots[1])+`::text[]) i(tlc, source)
				JOIN lotkeeper.records r ON r.tlc = i.tlc AND (i.source = '' OR r.tlc_source = '' OR i.source = r.tlc_source)`)
		}
	}
	if rest != nil {
		arms = append(arms, `SELECT r.seq FROM lotkeeper.records r WHERE `+strings.Join(rest, " OR "))
	}
	if arms == nil {
		return ""
	}
	// A record may be found in more than one way, and in one way more than once.
	return `SELECT DISTINCT seq FROM (` + strings.Join(arms, " UNION ALL ") + `) found`
}

// reached reads something of the records r of a reach, which sql has as %s. It is
// not asked for a reach of nothing.
func reached[T any](ctx context.Context, s *Store, r lifecycle.Reach, scan func(*columns) T, sql string) ([]T, error) {
	var p params
	seqs := hits(r, &p)
	if seqs == "" {
		return nil, nil
	}
	return bounded(ctx, s, scan, fmt.Sprintf(sql, `(`+seqs+`) hit JOIN lotkeeper.records r ON r.seq = hit.seq`), p...)
}

// bounded is all for what may take long, and whose caller may not wait so long: the
// server is told too, which would go on otherwise, with all its workers, for an answer
// that nobody reads.
func bounded[T any](ctx context.Context, s *Store, scan func(*columns) T, sql string, args ...any) (out []T, err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return all(ctx, s.pool, scan, sql, args...)
	}
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		left := max(1, time.Until(deadline).Milliseconds()) //nolint:forbidigo // a context's deadline is of this clock, and no rule hangs by it
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL statement_timeout = %d; SET LOCAL max_parallel_workers_per_gather = 0`, left)); err != nil {
			return err
		}
		out, err = all(ctx, tx, scan, sql, args...)
		return err
	})
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == "57014" { // query_canceled
		err = errors.Join(context.DeadlineExceeded, err)
	}
	return out, err
}

func (s *Store) Coverage(ctx context.Context, r lifecycle.Reach) (lifecycle.Coverage, error) {
	out, err := reached(ctx, s, r, func(c *columns) lifecycle.Coverage {
		return lifecycle.Coverage{Covered: c.int(), Archived: c.int(), TooLate: c.int()}
	}, `SELECT count(*) FILTER (WHERE NOT `+gone+`), count(*) FILTER (WHERE r.state = 'archived' AND NOT `+gone+`), count(*) FILTER (WHERE `+gone+`) FROM %s`)
	if err != nil {
		return lifecycle.Coverage{}, fmt.Errorf("couldn't count what is covered: %w", err)
	}
	return append(out, lifecycle.Coverage{})[0], nil
}

func (s *Store) Detail(ctx context.Context, r lifecycle.Reach, limit int) (lifecycle.Detail, error) {
	var d lifecycle.Detail
	most := `ALL`
	if limit > 0 {
		most = fmt.Sprint(limit)
	}
	var err error
	if d.Lots, err = reached(ctx, s, r, func(c *columns) lifecycle.LotCount {
		d.AllLots = int(c.int())
		return lifecycle.LotCount{TLC: c.text(), TLCSource: c.text(), Records: c.int()}
	}, `SELECT count(*) OVER (), r.tlc, r.tlc_source, count(*) FROM %s WHERE NOT `+gone+` AND r.tlc <> ''
		GROUP BY r.tlc, r.tlc_source ORDER BY count(*) DESC, r.tlc, r.tlc_source LIMIT `+most); err != nil {
		return d, fmt.Errorf("couldn't list the lots that are covered: %w", err)
	}
	if d.Locations, err = reached(ctx, s, r, func(c *columns) lifecycle.LocationCount {
		d.AllLocations = int(c.int())
		return lifecycle.LocationCount{Location: c.text(), Records: c.int()}
	}, `SELECT count(*) OVER (), r.location, count(*) FROM %s WHERE NOT `+gone+` AND r.location <> ''
		GROUP BY r.location ORDER BY count(*) DESC, r.location LIMIT `+most); err != nil {
		return d, fmt.Errorf("couldn't list the locations that are covered: %w", err)
	}
	return d, nil
}

func (s *Store) TooLate(ctx context.Context, r lifecycle.Reach) ([]lifecycle.Late, error) {
	out, err := reached(ctx, s, r, func(c *columns) lifecycle.Late {
		return lifecycle.Late{Class: c.text(), DestroyedAt: c.maybeTime(), Receipt: c.int(), Records: c.int()}
	}, `SELECT c.class_id, c.destroyed_at, coalesce((SELECT max(l.leaf_id) FROM lotkeeper.leaves l
			WHERE l.action = '`+lifecycle.ActionShredded+`' AND l.body::jsonb -> 'classes' ? c.class_id), 0), n.records
		FROM (SELECT r.archive_class_no, count(*) records FROM %s WHERE `+gone+` GROUP BY 1) n
		JOIN lotkeeper.classes c ON c.class_no = n.archive_class_no ORDER BY c.class_id`)
	if err != nil {
		return nil, fmt.Errorf("couldn't list the records that are gone: %w", err)
	}
	return out, nil
}

func (s *Store) ScopeLots(ctx context.Context, sc lifecycle.Scope) ([]cte.Lot, error) {
	var p params
	sql := `SELECT r.tlc, r.tlc_source FROM lotkeeper.records r WHERE r.tlc <> '' AND ` + scopeOn(sc, &p)
	if sc.OnLots() {
		for _, end := range []string{"input", "output"} {
			sql += ` UNION SELECT r.tlc, r.tlc_source FROM (SELECT ` + end + `_tlc AS tlc, ` + end + `_source AS tlc_source FROM lotkeeper.lineage) r WHERE ` + scopeOn(sc, &p)
		}
	}
	out, err := bounded(ctx, s, func(c *columns) cte.Lot { return cte.Lot{TLC: c.text(), Source: c.text()} },
		`SELECT DISTINCT tlc, tlc_source FROM (`+sql+`) l ORDER BY tlc, tlc_source`, p...)
	if err != nil {
		return nil, fmt.Errorf("couldn't list the lots of %s: %w", sc, err)
	}
	return out, nil
}

func (s *Store) Links(ctx context.Context, lots []cte.Lot, forward bool) ([]lifecycle.Link, error) {
	from := "output"
	if forward {
		from = "input"
	}
	tlcs, sources := make([]string, len(lots)), make([]string, len(lots))
	for i, l := range lots {
		tlcs[i], sources[i] = l.TLC, l.Source
	}
	out, err := bounded(ctx, s, func(c *columns) lifecycle.Link {
		return lifecycle.Link{Input: cte.Lot{TLC: c.text(), Source: c.text()}, Output: cte.Lot{TLC: c.text(), Source: c.text()},
			RecordID: c.text(), EventType: cte.EventType(c.text()), EventTimestamp: c.time()}
	}, `SELECT DISTINCT e.input_tlc, e.input_source, e.output_tlc, e.output_source, r.record_id, r.event_type, r.event_at
		FROM unnest($1::text[], $2::text[]) l(tlc, tlc_source) JOIN lotkeeper.lineage e ON `+touches(from)+`
		JOIN lotkeeper.records r ON r.seq = e.seq
		ORDER BY e.input_tlc, e.input_source, e.output_tlc, e.output_source, r.event_at, r.record_id`, tlcs, sources)
	if err != nil {
		return nil, fmt.Errorf("couldn't look up the lineage of %d lots: %w", len(lots), err)
	}
	return out, nil
}

const heldCopyColumns = `g.segment_id, k.vault, g.object_key, k.object_version, g.manifest_key, k.manifest_version, coalesce(lh.state, ''), coalesce(lh.since, '')`

func scanHeldCopy(c *columns) lifecycle.HeldCopy {
	return lifecycle.HeldCopy{Segment: c.text(), Vault: c.text(), ObjectKey: c.text(), ObjectVersion: c.text(), ManifestKey: c.text(), ManifestVersion: c.text(),
		State: lifecycle.LegalState(c.text()), Since: c.maybeTime()}
}

func (s *Store) HeldCopies(ctx context.Context, r lifecycle.Reach) ([]lifecycle.HeldCopy, error) {
	out, err := reached(ctx, s, r, scanHeldCopy, `SELECT `+heldCopyColumns+`
		FROM (SELECT DISTINCT r.segment_no FROM %s WHERE r.state = 'archived' AND NOT `+gone+`) of
		JOIN lotkeeper.segments g ON g.segment_no = of.segment_no AND `+live+`
		JOIN lotkeeper.segment_copies k ON k.segment_no = g.segment_no
		LEFT JOIN lotkeeper.legal_holds lh ON lh.segment_no = k.segment_no AND lh.vault = k.vault ORDER BY g.segment_id, k.vault`)
	if err != nil {
		return nil, fmt.Errorf("couldn't list the segments that are held: %w", err)
	}
	return out, nil
}

func (s *Store) LegalHolds(ctx context.Context) ([]lifecycle.HeldCopy, error) {
	out, err := all(ctx, s.pool, scanHeldCopy, `SELECT `+heldCopyColumns+` FROM lotkeeper.legal_holds lh
		JOIN lotkeeper.segments g USING (segment_no) JOIN lotkeeper.segment_copies k ON k.segment_no = lh.segment_no AND k.vault = lh.vault ORDER BY g.segment_id, k.vault`)
	if err != nil {
		return nil, fmt.Errorf("couldn't list the legal holds: %w", err)
	}
	return out, nil
}

func (s *Store) MoveLegalHold(ctx context.Context, segment, vault string, from, to lifecycle.LegalState, leaf lifecycle.Leaf) error {
	move := func(ctx context.Context, tx *txn) error {
		no, err := one(ctx, tx, (*columns).int, `SELECT g.segment_no FROM lotkeeper.segments g JOIN lotkeeper.segment_copies k USING (segment_no) WHERE g.segment_id = $1 AND k.vault = $2`, segment, vault)
		if err := found(err, "copy", segment+" in vault "+vault); err != nil {
			return err
		}
		if to == lifecycle.Lifting || to == lifecycle.LegalNone {
			n, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM (SELECT FROM lotkeeper.records r WHERE r.segment_no = $1 AND r.state = 'archived' AND `+held+` LIMIT 1) r`, no)
			if err != nil {
				return err
			}
			if n > 0 {
				return lifecycle.ErrHeld
			}
		}
		n := int64(0)
		switch {
		case from == lifecycle.LegalNone && to == lifecycle.LegalSet:
			n, err = tx.exec(ctx, `INSERT INTO lotkeeper.legal_holds (segment_no, vault, state, since) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, no, vault, string(to), stamp(leaf.At))
		case from == lifecycle.Lifting && to == lifecycle.LegalNone:
			n, err = tx.exec(ctx, `DELETE FROM lotkeeper.legal_holds WHERE segment_no = $1 AND vault = $2 AND state = $3`, no, vault, string(from))
		case from == lifecycle.LegalSet && to == lifecycle.Lifting, from == lifecycle.Lifting && to == lifecycle.LegalSet:
			n, err = tx.exec(ctx, `UPDATE lotkeeper.legal_holds SET state = $4, since = $5 WHERE segment_no = $1 AND vault = $2 AND state = $3`, no, vault, string(from), string(to), stamp(leaf.At))
		default:
			return fmt.Errorf("a legal hold does not go from %q to %q", from, to)
		}
		if err := moved(n, err, fmt.Sprintf("the legal hold is not %q", from)); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	}
	var err error
	if to == lifecycle.LegalSet {
		err = s.write(ctx, shared, move)
	} else {
		err = s.untilTraced(ctx, func(budget int) error {
			return s.write(ctx, deciding, askingHolds(budget, move))
		})
	}
	if err != nil {
		return fmt.Errorf("couldn't record the legal hold of segment %s in vault %s: %w", segment, vault, err)
	}
	return nil
}

// heldIn is whether a query q asks for what is held, or for what is not, as a
// condition on records r.
func heldIn(q lifecycle.Query, p *params) string {
	if q.State == lifecycle.Held && q.ExceptHeld {
		return `false`
	}
	if q.State != lifecycle.Held && !q.ExceptHeld {
		return `true`
	}
	seqs := hits(q.Reach, p)
	switch {
	case q.State == lifecycle.Held && seqs == "":
		return `false`
	case q.State == lifecycle.Held:
		return `NOT ` + gone + ` AND EXISTS (SELECT FROM (` + seqs + `) hit WHERE hit.seq = r.seq)`
	case seqs == "":
		return `true`
	}
	return `NOT EXISTS (SELECT FROM (` + seqs + `) hit WHERE hit.seq = r.seq)`
}
