package postgres

import (
	"context"
	"fmt"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func (s *Store) Tallies(ctx context.Context, q lifecycle.TallyQuery) ([]lifecycle.Tally, error) {
	var p params
	held := `false`
	due := p.add(stamp(q.DueBefore))
	if seqs := hits(q.Reach, &p); seqs != "" {
		held = `r.seq IN (` + seqs + `)`
	}
	out, err := all(ctx, s.pool, func(c *columns) lifecycle.Tally {
		return lifecycle.Tally{State: lifecycle.State(c.text()), Class: c.text(), DEKClass: c.text(), ArchiveClass: c.text(), Segment: c.text(),
			Due: c.int() == 1, Held: c.int() == 1, Records: c.int(), FirstRecord: c.text(), FirstDue: c.time(), FirstLeaf: c.int()}
	}, `SELECT t.state, coalesce(hc.class_id, ''), coalesce(dc.class_id, ''), coalesce(ac.class_id, ''), coalesce(g.segment_id, ''),
			t.due, t.held, t.n, t.record, t.due_at, t.leaf
		FROM (SELECT r.state, r.class_no, d.class_no AS dek_class, r.archive_class_no, r.segment_no, r.due_at < `+due+` AS due, `+held+` AS held,
				count(*) AS n, min(r.record_id) AS record, min(r.due_at) AS due_at, min(r.ingest_leaf) AS leaf
			FROM lotkeeper.records r LEFT JOIN lotkeeper.deks d ON d.seq = r.seq GROUP BY 1, 2, 3, 4, 5, 6, 7) t
		LEFT JOIN lotkeeper.classes hc ON hc.class_no = t.class_no LEFT JOIN lotkeeper.classes dc ON dc.class_no = t.dek_class
		LEFT JOIN lotkeeper.classes ac ON ac.class_no = t.archive_class_no LEFT JOIN lotkeeper.segments g ON g.segment_no = t.segment_no
		ORDER BY 1, 2, 3, 4, 5, 6, 7`, p...)
	if err != nil {
		return nil, fmt.Errorf("couldn't tally records: %w", err)
	}
	return out, nil
}

func (s *Store) RunRecords(ctx context.Context) (map[string]lifecycle.RunRecords, error) {
	out := map[string]lifecycle.RunRecords{}
	err := each(ctx, s.pool, func(c *columns) {
		out[c.text()] = lifecycle.RunRecords{TakenIn: c.int(), Active: c.int(), Archived: c.int()}
	},
		`SELECT coalesce(l.run_id, ''), sum(t.taken_in)::bigint, sum(t.active)::bigint, sum(t.archived)::bigint FROM (
			SELECT r.ingest_leaf AS leaf, count(*) AS taken_in, count(*) FILTER (WHERE r.state = 'active') AS active, 0::bigint AS archived FROM lotkeeper.records r GROUP BY r.ingest_leaf
			UNION ALL SELECT r.archive_leaf, 0, 0, count(*) FROM lotkeeper.records r WHERE r.state <> 'active' GROUP BY r.archive_leaf) t
		LEFT JOIN lotkeeper.leaves l ON l.leaf_id = t.leaf GROUP BY 1`)
	if err != nil {
		return nil, fmt.Errorf("couldn't count the records of runs: %w", err)
	}
	return out, nil
}
