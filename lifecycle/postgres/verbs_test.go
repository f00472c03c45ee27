package postgres_test

import (
	"fmt"
	"slices"
	"testing"
)

// changes are the columns that an update may change: on the way of an ingest, a hold
// or a sweep. All others, and all other verbs, are refused for everybody.
var changes = map[string][]string{
	"meta": {"epoch", "trusted_time"}, "runs": {"finished_at", "status", "result"}, "leases": {"fence", "expires_at"},
	"classes":  {"state", "intent_leaf", "destroyed_at", "epoch", "dropped_to", "dropped"},
	"segments": {"state", "wrapped_identity", "retain_until"}, "vaults": {"state", "since"},
	"records": {"archive_leaf", "class_no", "archive_class_no", "segment_no", "state", "due_at", "purge_leaf", "content_class_no"}, "deks": {"class_no", "wrapped"},
	"holds": {"released_at"}, "hold_traces": {"traced_to", "expanded_to", "lots"}, "legal_holds": {"state"}, "log_published": {"size"},
	"leaves": nil, "segment_copies": nil, "payloads": nil, "reseals": nil, "rearchivals": nil, "hold_scopes": nil, "lineage": nil, "merges": nil, "hold_lots": nil,
	"log_pending": nil, "log_entries": nil, "log_hashes": nil,
}

// TestEveryVerb: on every table, each with rows, every verb.
func TestEveryVerb(t *testing.T) {
	conn := guarded(t)
	for _, q := range []string{
		`INSERT INTO rearchivals VALUES (3, 1, 2)`,
		`INSERT INTO runs (run_id, kind, actor, started_at, status) VALUES ('run', 'sweep', 'a', ` + someTime + `, 'running')`,
		`INSERT INTO merges VALUES (1, 1, 6)`, `INSERT INTO lineage VALUES (1, 1, 'A', '', 'L-1', 'S')`,
		`INSERT INTO hold_traces (scope_no) VALUES (1)`, `INSERT INTO hold_lots (scope_no, tlc, tlc_source) VALUES (1, 'A', '')`,
		`INSERT INTO legal_holds VALUES (2, 'has-one', 'set', ` + someTime + `)`,
		`INSERT INTO leaves (at, actor, action, run_id, subject, body) VALUES (` + someTime + `, '', 'pending', '', '', '{}')`,
	} {
		if _, err := conn.Exec(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	names := tables(t, conn)
	if len(names) != len(changes) {
		t.Errorf("there are the tables %q, and this test knows %d", names, len(changes))
	}
	for _, table := range names {
		may, known := changes[table]
		if !known {
			t.Errorf("this test does not know the table %s", table)
		}
		var n int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil || n == 0 {
			t.Fatalf("%s has %d rows, %v", table, n, err)
		}
		for _, q := range []string{`DELETE FROM ` + table, `TRUNCATE ` + table + ` CASCADE`, `INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE SELECT * FROM ` + table} {
			if err := try(t, conn, q); err == nil {
				t.Errorf("%s", q)
			}
		}
		rows, err := conn.Query(t.Context(), `SELECT attname, atttypid::regtype::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`, table)
		if err != nil {
			t.Fatal(err)
		}
		types := map[string]string{}
		for rows.Next() {
			var c, typ string
			if err := rows.Scan(&c, &typ); err != nil {
				t.Fatal(err)
			}
			types[c] = typ
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
		for c, typ := range types {
			other, ok := map[string]string{"bigint": "%s + 1", "integer": "%s + 1", "text": "coalesce(%s, '') || 'x'", "bytea": `%s || '\x01'`, "boolean": "NOT %s", "timestamp with time zone": "%s + interval '1s'"}[typ]
			if !ok {
				t.Fatalf("%s.%s is of the type %s", table, c, typ)
			}
			q := fmt.Sprintf(`UPDATE %s SET %s = `+other, table, c, c)
			if err := try(t, conn, q); err == nil && !slices.Contains(may, c) {
				t.Errorf("%s", q)
			}
		}
	}
}
