package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// hits is a query of the seqs of all records of a reach, each once. It has an arm
// for each way to find some, and only those that the reach needs. An arm goes through
// its own scopes only: one that looks at every record must not compare it with ten
// thousand that name a record.
func hits(r lifecycle.Reach) (string, []any) { return hitsAmong(r, `true`) }

// hitsAmong is hits for those who ask only about records r for which cond is true: the
// records that no index finds are looked for among those. Others may be given too.
func hitsAmong(r lifecycle.Reach, cond string, condArgs ...any) (string, []any) {
	arms := []struct {
		scopes []scope
		query  string
	}{
		{query: `SELECT r.seq FROM asked s CROSS JOIN records r WHERE r.record_id = s.record_id AND ` + covers},
		{query: `SELECT r.seq FROM asked s CROSS JOIN records r WHERE r.tlc = s.tlc AND ` + covers},
		{query: `SELECT r.seq FROM asked s CROSS JOIN records r WHERE r.tlc >= s.tlc_prefix AND r.tlc < s.tlc_prefix || x'ff' AND ` + covers},
		{query: `SELECT r.seq FROM records r WHERE ` + cond + ` AND EXISTS (SELECT 1 FROM asked s WHERE ` + covers + `)`},
	}
	lots := slices.Clone(r.Lots)
	for _, sc := range r.Scopes {
		arm := &arms[3]
		switch {
		case exactLot(sc):
			lots = append(lots, cte.Lot{TLC: sc.TLC, Source: sc.TLCSource})
			continue
		case sc.RecordID != "":
			arm = &arms[0]
		case sc.TLC != "":
			arm = &arms[1]
		case sc.TLCPrefix != "":
			arm = &arms[2]
		}
		arm.scopes = append(arm.scopes, scopeOf(sc))
	}
	var with, union []string
	var args []any
	for i, arm := range arms {
		if len(arm.scopes) == 0 {
			continue
		}
		asked := fmt.Sprint("asked", i)
		with = append(with, asked+` AS MATERIALIZED (SELECT value ->> 'record_id' AS record_id, value ->> 'tlc' AS tlc, value ->> 'tlc_prefix' AS tlc_prefix,
			value ->> 'tlc_source' AS tlc_source, value ->> 'location' AS location, value ->> 'product' AS product,
			value ->> 'event_type' AS event_type, value ->> 'from_at' AS from_at, value ->> 'to_at' AS to_at FROM json_each(?))`)
		union = append(union, strings.Replace(arm.query, "FROM asked", "FROM "+asked, 1))
		args = append(args, list(arm.scopes))
	}
	if len(lots) > 0 {
		with = append(with, `lots AS MATERIALIZED (SELECT value ->> 0 AS tlc, value ->> 1 AS source FROM json_each(?))`)
		union = append(union, `SELECT r.seq FROM lots CROSS JOIN records r
			WHERE r.tlc = lots.tlc AND r.tlc <> '' AND (lots.source = '' OR r.tlc_source = '' OR r.tlc_source = lots.source)`) // a record of no lot is of none of these
		args = append(args, lotList(lots))
	}
	if len(union) == 0 {
		return `SELECT 0 AS seq WHERE false`, nil
	}
	if len(arms[3].scopes) > 0 {
		args = append(args, condArgs...)
	}
	return `WITH ` + strings.Join(with, ", ") + ` SELECT DISTINCT seq FROM (` + strings.Join(union, " UNION ALL ") + `)`, args
}

// ofReach are the records r of a reach, by a query made of hits.
func ofReach(query string) string {
	return `(` + query + `) hit CROSS JOIN records r ON r.seq = hit.seq`
}

func (s *Store) Coverage(ctx context.Context, r lifecycle.Reach) (lifecycle.Coverage, error) {
	var c lifecycle.Coverage
	query, args := hits(r)
	err := s.r.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE NOT `+gone+`), count(*) FILTER (WHERE r.state = 'archived' AND NOT `+gone+`), count(*) FILTER (WHERE `+gone+`)
		FROM `+ofReach(query), args...).Scan(&c.Covered, &c.Archived, &c.TooLate)
	if err != nil {
		return c, fmt.Errorf("couldn't count the records of %d scopes and %d lots: %w", len(r.Scopes), len(r.Lots), err)
	}
	return c, nil
}

func (s *Store) Detail(ctx context.Context, r lifecycle.Reach, most int) (lifecycle.Detail, error) {
	var d lifecycle.Detail
	query, args := hits(r)
	failed := func(err error) (lifecycle.Detail, error) {
		return lifecycle.Detail{}, fmt.Errorf("couldn't list the lots and locations of %d scopes and %d lots: %w", len(r.Scopes), len(r.Lots), err)
	}
	tx, err := s.r.BeginTx(ctx, nil) // both lists as of one instant
	if err != nil {
		return failed(err)
	}
	defer tx.Rollback()
	args = append(args, limit(most))
	rows, err := tx.QueryContext(ctx, `SELECT r.tlc, r.tlc_source, count(*) AS n, count(*) OVER () FROM `+ofReach(query)+`
		WHERE NOT `+gone+` AND r.tlc <> '' GROUP BY r.tlc, r.tlc_source ORDER BY n DESC, r.tlc, r.tlc_source LIMIT ?`, args...)
	if err != nil {
		return failed(err)
	}
	if d.Lots, err = collect(rows, func(rows *sql.Rows) (l lifecycle.LotCount, err error) {
		err = rows.Scan(&l.TLC, &l.TLCSource, &l.Records, &d.AllLots)
		return l, err
	}); err != nil {
		return failed(err)
	}
	if rows, err = tx.QueryContext(ctx, `SELECT r.location, count(*) AS n, count(*) OVER () FROM `+ofReach(query)+`
		WHERE NOT `+gone+` AND r.location <> '' GROUP BY r.location ORDER BY n DESC, r.location LIMIT ?`, args...); err != nil {
		return failed(err)
	}
	if d.Locations, err = collect(rows, func(rows *sql.Rows) (l lifecycle.LocationCount, err error) {
		err = rows.Scan(&l.Location, &l.Records, &d.AllLocations)
		return l, err
	}); err != nil {
		return failed(err)
	}
	return d, nil
}

func (s *Store) TooLate(ctx context.Context, r lifecycle.Reach) ([]lifecycle.Late, error) {
	query, args := hits(r)
	rows, err := s.r.QueryContext(ctx, `SELECT c.class_id, c.destroyed_at, count(*) FROM `+ofReach(query)+` JOIN classes c ON c.class_no = r.archive_class_no
		WHERE `+gone+` GROUP BY c.class_no ORDER BY c.destroyed_at, c.class_id`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for records that are gone: %w", err)
	}
	late, err := collect(rows, func(rows *sql.Rows) (l lifecycle.Late, err error) {
		err = rows.Scan(&l.Class, maybeAt(&l.DestroyedAt), &l.Records)
		return l, err
	})
	if err != nil || len(late) == 0 {
		return nil, err
	}
	receipts, err := s.Leaves(ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionShredded}})
	if err != nil {
		return nil, err
	}
	for _, leaf := range receipts {
		var body struct {
			Classes []string `json:"classes"`
		}
		if err := json.Unmarshal(leaf.Body, &body); err != nil {
			return nil, fmt.Errorf("couldn't read leaf %d: %w", leaf.ID, err)
		}
		for i := range late {
			if late[i].Receipt == 0 && slices.Contains(body.Classes, late[i].Class) {
				late[i].Receipt = leaf.ID
			}
		}
	}
	return late, nil
}

func (s *Store) Links(ctx context.Context, lots []cte.Lot, forward bool) ([]lifecycle.Link, error) {
	near := "output"
	if forward {
		near = "input"
	}
	rows, err := s.r.QueryContext(ctx, `SELECT g.input_tlc, g.input_source, g.output_tlc, g.output_source, r.record_id, r.event_type, r.event_at
		FROM (SELECT DISTINCT g.link_no FROM json_each(?) j CROSS JOIN lineage g ON g.`+near+`_tlc = j.value ->> 0
			WHERE j.value ->> 1 = '' OR g.`+near+`_source = '' OR g.`+near+`_source = j.value ->> 1) hit
		CROSS JOIN lineage g ON g.link_no = hit.link_no CROSS JOIN records r ON r.seq = g.seq ORDER BY g.link_no`, lotList(lots))
	if err != nil {
		return nil, fmt.Errorf("couldn't read the links of %d lots: %w", len(lots), err)
	}
	return collect(rows, func(rows *sql.Rows) (l lifecycle.Link, err error) {
		err = rows.Scan(&l.Input.TLC, &l.Input.Source, &l.Output.TLC, &l.Output.Source, &l.RecordID, &l.EventType, at(&l.EventTimestamp))
		return l, err
	})
}

func (s *Store) ScopeLots(ctx context.Context, sc lifecycle.Scope) ([]cte.Lot, error) {
	query, args := hits(lifecycle.Reach{Scopes: []lifecycle.Scope{sc}})
	query = `SELECT r.tlc, r.tlc_source FROM ` + ofReach(query) + ` WHERE r.tlc <> ''`
	if sc.OnLots() {
		// Lineage names further ones as inputs only: an output is the lot of a record.
		cond, lots := `g.input_tlc = ?`, []any{sc.TLC}
		if sc.TLCPrefix != "" {
			cond, lots = `g.input_tlc >= ? AND g.input_tlc < ? || x'ff'`, []any{sc.TLCPrefix, sc.TLCPrefix}
		}
		query += ` UNION SELECT g.input_tlc, g.input_source FROM lineage g WHERE ` + cond + ` AND (? = '' OR g.input_source = '' OR g.input_source = ?)`
		args = append(append(args, lots...), sc.TLCSource, sc.TLCSource)
	}
	rows, err := s.r.QueryContext(ctx, `SELECT DISTINCT * FROM (`+query+`) ORDER BY 1, 2`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for the lots of scope %q: %w", sc, err)
	}
	return collect(rows, func(rows *sql.Rows) (l cte.Lot, err error) {
		err = rows.Scan(&l.TLC, &l.Source)
		return l, err
	})
}
