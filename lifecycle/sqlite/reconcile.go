package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func (s *Store) Tallies(ctx context.Context, q lifecycle.TallyQuery) ([]lifecycle.Tally, error) {
	held, args := hits(q.Reach)
	rows, err := s.r.QueryContext(ctx, `SELECT t.state, coalesce(hc.class_id, ''), coalesce(dc.class_id, ''), coalesce(ac.class_id, ''), coalesce(g.segment_id, ''),
			t.due, t.held, t.n, t.record, t.due_at, t.leaf
		FROM (SELECT r.state, r.class_no, d.class_no AS dek_class, r.archive_class_no, r.segment_no, r.due_at < ? AS due, r.seq IN (`+held+`) AS held,
				count(*) AS n, min(r.record_id) AS record, min(r.due_at) AS due_at, min(r.ingest_leaf) AS leaf
			FROM records r LEFT JOIN deks d ON d.seq = r.seq GROUP BY 1, 2, 3, 4, 5, 6, 7) t
		LEFT JOIN classes hc ON hc.class_no = t.class_no LEFT JOIN classes dc ON dc.class_no = t.dek_class
		LEFT JOIN classes ac ON ac.class_no = t.archive_class_no LEFT JOIN segments g ON g.segment_no = t.segment_no
		ORDER BY 1, 2, 3, 4, 5, 6, 7`, append([]any{stamp(q.DueBefore)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("couldn't tally records: %w", err)
	}
	out, err := collect(rows, func(rows *sql.Rows) (t lifecycle.Tally, err error) {
		err = rows.Scan(&t.State, &t.Class, &t.DEKClass, &t.ArchiveClass, &t.Segment, &t.Due, &t.Held, &t.Records, &t.FirstRecord, at(&t.FirstDue), &t.FirstLeaf)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't tally records: %w", err)
	}
	return out, nil
}

func (s *Store) RunRecords(ctx context.Context) (map[string]lifecycle.RunRecords, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT coalesce(l.run_id, '') AS run, sum(t.taken_in), sum(t.active), sum(t.archived) FROM (
			SELECT r.ingest_leaf AS leaf, count(*) AS taken_in, sum(r.state = 'active') AS active, 0 AS archived FROM records r GROUP BY r.ingest_leaf
			UNION ALL SELECT r.archive_leaf, 0, 0, count(*) FROM records r WHERE r.state <> 'active' GROUP BY r.archive_leaf) t
		LEFT JOIN leaves l ON l.leaf_id = t.leaf GROUP BY run`)
	if err != nil {
		return nil, fmt.Errorf("couldn't count the records of runs: %w", err)
	}
	defer rows.Close()
	out := map[string]lifecycle.RunRecords{}
	for rows.Next() {
		var run string
		var n lifecycle.RunRecords
		if err := rows.Scan(&run, &n.TakenIn, &n.Active, &n.Archived); err != nil {
			return nil, fmt.Errorf("couldn't count the records of runs: %w", err)
		}
		out[run] = n
	}
	return out, rows.Err()
}
