package sqlite

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"
)

// changes are the columns that an update may change: on the way of an ingest, a hold
// or a sweep. All others, and all other verbs, are refused for everybody.
var changes = map[string][]string{
	"meta": {"epoch", "trusted_time", "following_leaf", "following_seq", "following_done"}, "runs": {"finished_at", "status", "result"}, "leases": {"fence"},
	"classes":  {"state", "intent_leaf", "destroyed_at", "epoch", "dropped_to", "dropped"},
	"segments": {"state", "retain_until"}, "vaults": {"state"},
	"records": {"archive_leaf", "class_no", "archive_class_no", "segment_no", "state", "purge_leaf"}, "deks": {"class_no", "wrapped"},
	"holds": {"released_at"}, "hold_traces": {"traced_to", "expanded_to", "lots"}, "legal_holds": {"state", "since"}, "log_published": {"size"}, "aggregates": {"records"},
	"leaves": nil, "segment_copies": {"retain_until"}, "payloads": nil, "reseals": nil, "reschedules": nil, "rearchivals": nil, "hold_scopes": nil, "lineage": nil, "merges": nil, "hold_lots": nil,
	"log_pending": nil, "log_entries": nil, "log_hashes": nil,
	// In these there is never anything.
	"never": nil, "recovering": nil,
}

// TestEveryVerb: on every table, each with rows, every verb, and REPLACE in its place.
func TestEveryVerb(t *testing.T) {
	db := guarded(t)
	// What guarded leaves empty; and a leaf that waits for its index.
	rows := func(table string) (n int) {
		t.Helper()
		if err := db.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, fill := range [][2]string{
		{"runs", `INSERT INTO runs (run_id, kind, actor, started_at, status) VALUES ('run', 'sweep', 'a', ` + someTime + `, 'running')`},
		{"reschedules", `INSERT INTO reschedules VALUES (1, 1, '', '', 1, 1, 1, 1)`},
		{"rearchivals", `INSERT INTO rearchivals VALUES (3, 1, 2)`},
		{"aggregates", `INSERT INTO aggregates VALUES ('2022-09', 'P', 'shipping', 2)`},
		{"reseals", `INSERT INTO reseals VALUES (1, 1)`},
		{"log_entries", `INSERT INTO log_entries VALUES (0, 1)`},
		{"log_hashes", `INSERT INTO log_hashes VALUES (0, zeroblob(32))`},
		{"log_published", `INSERT INTO log_published VALUES ('main', 1)`},
		{"", `INSERT INTO leaves (at, actor, action, run_id, subject, body) VALUES (` + someTime + `, '', 'pending', '', '', '{}')`},
	} {
		if fill[0] != "" && rows(fill[0]) > 0 {
			continue
		}
		if _, err := db.Exec(fill[1]); err != nil {
			t.Fatalf("%s: %v", fill[1], err)
		}
	}
	names := texts(t, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'goose_db_version'`)
	if len(names) != len(changes) {
		t.Errorf("there are the tables %q, and this test knows %d", names, len(changes))
	}
	for _, table := range names {
		may, known := changes[table]
		if !known {
			t.Errorf("this test does not know the table %s", table)
		}
		if table == "never" || table == "recovering" {
			continue
		}
		if rows(table) == 0 {
			t.Fatalf("%s has no rows", table)
		}
		for _, q := range []string{`DELETE FROM ` + table, `INSERT INTO ` + table + ` SELECT * FROM ` + table, `INSERT OR REPLACE INTO ` + table + ` SELECT * FROM ` + table} {
			if err := try(t, db, q); err == nil {
				t.Errorf("%s", q)
			}
		}
		for _, c := range texts(t, db, `SELECT name FROM pragma_table_info('`+table+`')`) {
			for _, update := range []string{`UPDATE`, `UPDATE OR REPLACE`} {
				q := fmt.Sprintf(`%s %s SET %s = CASE typeof(%[3]s) WHEN 'integer' THEN %[3]s + 1000 WHEN 'blob' THEN x'01' ELSE coalesce(%[3]s, '') || 'x' END`, update, table, c)
				if err := try(t, db, q); err == nil && !slices.Contains(may, c) {
					t.Errorf("%s", q)
				}
			}
		}
	}
}

func texts(t *testing.T, db *sql.DB, query string) (all []string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return all
}
