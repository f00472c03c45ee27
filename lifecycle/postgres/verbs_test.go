package postgres_test

import (
	"fmt"
	"slices"
	"testing"
)

// changes are the columns that an update may change: on the way of an ingest, a hold
// or a sweep. All others, and all other verbs, are refused for everybody.
var changes = map[string][]string{
	"meta": {"epoch", "trusted_time", "following_leaf", "following_seq", "following_done"}, "runs": {"finished_at", "status", "result"}, "leases": {"fence", "expires_at"},
	"classes":  {"state", "intent_leaf", "destroyed_at", "epoch", "dropped_to", "dropped"},
	"segments": {"state", "retain_until"}, "vaults": {"state", "since"},
	"records": {"archive_leaf", "class_no", "archive_class_no", "segment_no", "state", "purge_leaf", "content_class_no"}, "deks": {"class_no", "wrapped"},
	"holds": {"released_at"}, "hold_traces": {"traced_to", "expanded_to", "lots"}, "legal_holds": {"state"}, "log_published": {"size"}, "aggregates": {"records"},
	"leaves": nil, "segment_copies": {"retain_until"}, "payloads": nil, "reseals": nil, "reschedules": nil, "rearchivals": nil, "hold_scopes": nil, "lineage": nil, "merges": nil, "hold_lots": nil,
	"log_pending": nil, "log_entries": nil, "log_hashes": nil,
	// In these there is never anything.
	"never": nil, "recovering": nil,
}

// TestEveryVerb: on every table, each with rows, every verb.
func TestEveryVerb(t *testing.T) {
	conn := guarded(t)
	// What guarded leaves empty; and a leaf that waits for its index.
	rows := func(table string) (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, fill := range [][2]string{
		{"runs", `INSERT INTO runs (run_id, kind, actor, started_at, status) VALUES ('run', 'sweep', 'a', ` + someTime + `, 'running')`},
		{"reschedules", `INSERT INTO reschedules VALUES (1, 1, '', '', 1, 1, 1, 1)`},
		{"rearchivals", `INSERT INTO rearchivals VALUES (3, 1, 2)`},
		{"aggregates", `INSERT INTO aggregates VALUES ('2022-09', 'P', 'shipping', 2)`},
		{"merges", `INSERT INTO merges VALUES (1, 1, 6)`},
		{"lineage", `INSERT INTO lineage VALUES (1, 1, 'A', '', 'L-1', 'S')`},
		{"hold_traces", `INSERT INTO hold_traces (scope_no) VALUES (1)`},
		{"hold_lots", `INSERT INTO hold_lots (scope_no, tlc, tlc_source) VALUES (1, 'A', '')`},
		{"legal_holds", `INSERT INTO legal_holds VALUES (2, 'has-one', 'set', ` + someTime + `)`},
		{"log_entries", `INSERT INTO log_entries VALUES (0, 1)`},
		{"log_hashes", `INSERT INTO log_hashes VALUES (0, decode(repeat('00', 32), 'hex'))`},
		{"log_published", `INSERT INTO log_published VALUES ('main', 1)`},
		{"", `INSERT INTO leaves (at, actor, action, run_id, subject, body) VALUES (` + someTime + `, '', 'pending', '', '', '{}')`},
	} {
		if fill[0] != "" && rows(fill[0]) > 0 {
			continue
		}
		if _, err := conn.Exec(t.Context(), fill[1]); err != nil {
			t.Fatalf("%s: %v", fill[1], err)
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
		if table == "never" || table == "recovering" {
			continue
		}
		if rows(table) == 0 {
			t.Fatalf("%s has no rows", table)
		}
		for _, q := range []string{`DELETE FROM ` + table, `TRUNCATE ` + table + ` CASCADE`, `INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE SELECT * FROM ` + table} {
			if err := try(t, conn, q); err == nil {
				t.Errorf("%s", q)
			}
		}
		attributes, err := conn.Query(t.Context(), `SELECT attname, atttypid::regtype::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`, table)
		if err != nil {
			t.Fatal(err)
		}
		types := map[string]string{}
		for attributes.Next() {
			var c, typ string
			if err := attributes.Scan(&c, &typ); err != nil {
				t.Fatal(err)
			}
			types[c] = typ
		}
		if attributes.Err() != nil {
			t.Fatal(attributes.Err())
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
