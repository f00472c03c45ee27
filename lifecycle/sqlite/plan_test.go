package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// recorder is a driver that writes down every statement.
type recorder struct {
	driver driver.Driver
	dsn    string
	mu     *sync.Mutex
	seen   map[string]int // statement -> number of parameters
}

func (r *recorder) Connect(context.Context) (driver.Conn, error) {
	c, err := r.driver.Open(r.dsn)
	if err != nil {
		return nil, err
	}
	return &recordedConn{c.(sqliteConn), r}, nil
}

func (r *recorder) Driver() driver.Driver { return r.driver }

type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type recordedConn struct {
	sqliteConn
	r *recorder
}

func (r *recorder) see(query string, args int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[query] = max(args, r.seen[query])
}

func (c *recordedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.r.see(query, strings.Count(query, "?"))
	return c.sqliteConn.PrepareContext(ctx, query)
}

func (c *recordedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.r.see(query, len(args))
	return c.sqliteConn.ExecContext(ctx, query, args)
}

func (c *recordedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.r.see(query, len(args))
	return c.sqliteConn.QueryContext(ctx, query, args)
}

// record puts the recorder between a store and its database.
func (s *Store) record(t testing.TB, path string, mu *sync.Mutex, seen map[string]int) *Store {
	d := s.w.Driver()
	open := func(q url.Values) *sql.DB {
		return sql.OpenDB(&recorder{d, (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String(), mu, seen})
	}
	if err := s.w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.r.Close(); err != nil {
		t.Fatal(err)
	}
	s.w = open(url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "foreign_keys(1)"}})
	s.w.SetMaxOpenConns(1)
	s.r = open(url.Values{"_pragma": {"busy_timeout(10000)", "query_only(1)"}})
	return s
}

// fullScans are the statements that may read a table from end to end, and why.
var fullScans = map[string]string{
	`^SELECT r\.seq, .*\sWHERE (r\.state = '\w+' AND (r\.segment_no IS NOT NULL AND )?)?true\b`:               "reports and exports without any of the selective filters below; a date range or part of a lot code has no index, which would cost every ingest",
	`FROM records r WHERE true AND .*EXISTS \(SELECT 1 FROM asked3 s`:                                         "a reach with a scope that names neither a record nor a lot: one pass for all of those",
	`^SELECT state, count\(\*\) FROM records`:                                                                 "Counts; a covering index",
	`^SELECT t\.state, .*FROM records r LEFT JOIN deks`:                                                       "Tallies: all of them, once",
	`^SELECT coalesce\(l\.run_id, ''\) AS run`:                                                                "RunRecords: all of them, twice",
	`^SELECT DISTINCT tlc, tlc_source FROM records`:                                                           "what a hold that matched nothing resembles",
	`^SELECT record_id FROM records WHERE \(record_id LIKE`:                                                   "the same",
	`FROM holds h JOIN hold_scopes s .* WHERE (h\.released_at = ''|true)`:                                     "all holds",
	`FROM leaves l LEFT JOIN .* WHERE true( AND l\.(actor =|at [<>]|action IN).*)? ORDER BY l\.leaf_id LIMIT`: "the whole trail, or what no index leads to",
	`FROM leaves l LEFT JOIN .* ORDER BY l\.leaf_id DESC LIMIT 1$`:                                            "the end of it",
	`FROM aggregates ORDER BY`:                                                                                "Aggregates: all of them",
	`FROM log_pending p JOIN leaves l .* LIMIT`:                                                               "the front of the queue",
	`^SELECT \w\.leaf_id FROM .*\sWHERE NOT EXISTS`:                                                           "StrayLeaves, which reads all of them",
	`count\(\*\) FROM log_pending`:                                                                            "how many wait",
	`^SELECT run_id, .* FROM runs ORDER BY started_at DESC`:                                                   "a page of them",
	`^SELECT run_id FROM runs WHERE kind = \? AND status = 'running'`:                                         "as many as there were runs",
	`FROM segments g JOIN classes c .* WHERE (true|CASE g\.purge_leaf .* IN)`:                                 "as many as there are segments",
	`FROM segments g JOIN classes c .* WHERE g\.purge_leaf <> 0 AND EXISTS`:                                   "the same, to find purged ones with objects left",
	`^UPDATE log_published SET size`:                                                                          "a row a vault",
	`FROM segment_copies\s+WHERE segment_no IN`:                                                               "the same",
	`FROM vaults v LEFT JOIN \(segment_copies`:                                                                "the same, for each vault",
	`FROM segments g (LEFT JOIN segment_copies .*)?WHERE g\.state IN`:                                         "the same, when a vault comes to count",
	`FROM segments g WHERE g\.state IN .* WHERE NOT EXISTS \(SELECT 1 FROM vaults`:                            "the same, when one is added",
}

// selective are the filters of a Query by which few rows are found.
var selective = regexp.MustCompile(`r\.record_id IN|r\.tlc = \?|r\.segment_no = \(`)

// small tables may be read whole: they have one row, or one a class, kind, or scope
// with a trace.
var small = []string{"j", "json_each", "CONSTANT", "hit", "lots", "meta", "leases", "classes", "c", "vaults", "v", "hold_traces", "t"}

// TestPlans looks at the plan of every statement that the whole suite makes: none
// reads a table from end to end that should not, neither on a new database nor on
// one that somebody has run ANALYZE on, with 20,000 records, 3,000 classes and
// 10,000 open holds, 20,000 links and the traces of 2,000 scopes.
func TestPlans(t *testing.T) {
	if testing.Short() {
		t.Skip("the suite runs in TestStore")
	}
	var mu sync.Mutex
	seen := map[string]int{}
	t.Run("Suite", func(t *testing.T) {
		storetest.Exercise(t, func(t testing.TB) storetest.Harness {
			path := filepath.Join(t.TempDir(), "lotkeeper.db")
			s, err := Create(t.Context(), path, 0, storetest.Init())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return storetest.Harness{Store: s.record(t, path, &mu, seen), Open: func(t testing.TB) lifecycle.Store {
				s, err := Open(t.Context(), path)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s.record(t, path, &mu, seen)
			}}
		})
	})
	t.Run("Holds", func(t *testing.T) {
		p := newPlant(t)
		p.record(t, p.path, &mu, seen)
		p.ask()
	})
	if len(seen) < 120 {
		t.Fatalf("only %d statements were seen", len(seen))
	}
	t.Logf("%d statements", len(seen))

	s := create(t)
	for _, q := range guardQueries(t, s) {
		seen[q] = strings.Count(q, "?")
	}
	check := func(t *testing.T) {
		for query, params := range seen {
			explain(t, s, query, params)
		}
	}
	t.Run("New", check)
	fillTables(t, s)
	t.Run("Filled", check)
	exec(t, s, `ANALYZE`)
	// Statistics are read when a connection opens.
	s.w.SetMaxIdleConns(0)
	s.w.SetMaxIdleConns(2)
	t.Run("Analyzed", check)
}

// ask makes the statements about holds, of every shape.
func (p *plant) ask() {
	ctx := p.Context()
	p.merge(p.made(lot("B"), lot("A")))
	p.sweep()
	p.merge(p.made(lot("C"), lot("B")))
	scopes := []lifecycle.Scope{
		{RecordID: "r-9", Location: "X"}, {TLC: "C", TLCSource: "S"}, {TLC: "C", Product: "P"}, {TLCPrefix: "C"}, {Location: "X", From: storetest.Start}, {All: true},
	}
	for _, sc := range slices.Clone(scopes) {
		for _, way := range []lifecycle.Trace{lifecycle.Forward, lifecycle.Backward, lifecycle.Both} {
			if sc.Trace = way; !sc.All {
				scopes = append(scopes, sc)
			}
		}
	}
	for _, sc := range scopes {
		id := p.place(sc)
		p.ok(p.Extend(ctx, id, []lifecycle.Scope{{RecordID: "x"}}, tick))
		p.merge(p.made(lot("D"), lot("C")))
		p.ok(p.TraceHolds(ctx))
		p.merge(p.made(lot("E"), lot("D")))
		p.sweep()
		p.ok(p.Release(ctx, id, "x", tick))
	}
	p.sweep()
	for _, m := range [][2]lifecycle.LegalState{{"", "set"}, {"set", "lifting"}, {"lifting", "set"}, {"set", "lifting"}, {"lifting", ""}} {
		p.ok(p.MoveLegalHold(ctx, "seg-1", "main", m[0], m[1], tick))
	}
	_, err := p.LegalHolds(ctx)
	p.ok(err)
	_, err = p.Condemn(ctx, p.lease, storetest.Start, []string{p.hot.ID}, tick)
	p.ok(err)
	_, err = p.Execute(ctx, p.lease, storetest.Start, []string{p.hot.ID}, tick)
	p.ok(err)
	reaches := []lifecycle.Reach{{}, {Lots: []cte.Lot{lot("C")}}, {Scopes: scopes, Lots: []cte.Lot{lot("C")}}}
	for _, sc := range scopes {
		reaches = append(reaches, lifecycle.Reach{Scopes: []lifecycle.Scope{sc}})
		_, err := p.ScopeLots(ctx, sc)
		p.ok(err)
	}
	for _, r := range reaches {
		_, err := p.Coverage(ctx, r)
		p.ok(err)
		_, err = p.Detail(ctx, r, 3)
		p.ok(err)
		_, err = p.TooLate(ctx, r)
		p.ok(err)
		_, err = p.HeldCopies(ctx, r)
		p.ok(err)
		for range p.Rows(ctx, lifecycle.Query{State: lifecycle.Held, Reach: r}) {
		}
		for range p.Rows(ctx, lifecycle.Query{RecordIDs: []string{"r-1"}, ExceptHeld: true, Reach: r}) {
		}
		for range p.Sealed(ctx, lifecycle.Query{State: lifecycle.Held, Reach: r}) {
		}
	}
	for _, forward := range []bool{true, false} {
		_, err := p.Links(ctx, []cte.Lot{lot("A"), lot("B")}, forward)
		p.ok(err)
	}
}

var scan = regexp.MustCompile(`\bSCAN (\w+)|AUTOMATIC`)

func explain(t *testing.T, s *Store, query string, params int) {
	t.Helper()
	query = strings.TrimPrefix(query, "INSERT INTO hold_lots (scope_no, tlc, tlc_source)\n")
	// An insert's plan lists checks of foreign keys that are not deferred, which
	// are never made.
	if !regexp.MustCompile(`^\s*(SELECT|WITH|UPDATE|DELETE)`).MatchString(query) {
		return
	}
	for pattern := range fullScans {
		if regexp.MustCompile(`(?s)`+pattern).MatchString(query) && !selective.MatchString(query) {
			return
		}
	}
	rows, err := s.w.Query(`EXPLAIN QUERY PLAN `+query, make([]any, params)...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var plan []string
	bad := false
	for rows.Next() {
		var id, parent, notUsed int
		var detail string
		if err := rows.Scan(&id, &parent, &notUsed, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
		if strings.HasSuffix(detail, "USING INDEX hold_scopes_general") {
			continue // as many as there are scopes without a record and a lot, of people's making
		}
		if detail == "SCAN s" && strings.Contains(query, "WITH asked") {
			continue // the scopes that are asked about
		}
		if m := scan.FindStringSubmatch(detail); m != nil && !slices.Contains(small, m[1]) {
			bad = true
		}
	}
	if bad {
		t.Errorf("%s\n\treads too much:\n\t%s", query, strings.Join(plan, "\n\t"))
	}
}

// guardQueries are the subqueries of the triggers, which plans do not show.
func guardQueries(t *testing.T, s *Store) (out []string) {
	rows, err := s.r.Query(`SELECT sql FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	triggers, err := collect(rows, scanOne[string])
	if err != nil {
		t.Fatal(err)
	}
	column := regexp.MustCompile(`\b(NEW|OLD)\.\w+`)
	for _, sql := range triggers {
		for rest := sql; ; {
			_, after, ok := strings.Cut(rest, "(SELECT ")
			if !ok {
				break
			}
			depth, end := 1, 0
			for ; depth > 0; end++ {
				switch after[end] {
				case '(':
					depth++
				case ')':
					depth--
				}
			}
			out = append(out, column.ReplaceAllString("SELECT "+after[:end-1], "?"))
			rest = after
		}
	}
	if len(out) < 15 {
		t.Fatalf("only %d guards: %q", len(out), out)
	}
	return out
}

func create(t testing.TB) *Store {
	t.Helper()
	s, err := Create(t.Context(), filepath.Join(t.TempDir(), "lotkeeper.db"), 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func exec(t testing.TB, s *Store, statements ...string) {
	t.Helper()
	for _, q := range statements {
		if _, err := s.w.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// fillTables makes 20,000 records in 2,500 hot and 500 archive classes, 500 segments, a
// leaf for each ten, and 10,000 open holds, half on records and half on lots, of which
// 2,000 are traced to five lots each; each record's lot was made from that of the one
// before.
func fillTables(t testing.TB, s *Store) {
	t.Helper()
	numbers := func(n int) string {
		return fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) `, n)
	}
	exec(t, s,
		`BEGIN`,
		numbers(3000)+`INSERT INTO classes (class_no, class_id, kind, period_start, closes_at, generation)
			SELECT i, 'class-' || i, CASE WHEN i <= 500 THEN 'archive' ELSE 'hot' END, i, '2020-01-01T00:00:00.000000000Z', 1 FROM n`,
		numbers(2000)+`INSERT INTO leaves (at, actor, action, run_id, subject, body) SELECT '2020-01-01T00:00:00.000000000Z', 'a', 'ingested', 'run-' || (i / 10), 'subject-' || i, '{}' FROM n`,
		numbers(20000)+`INSERT INTO records (seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product,
				checksum, content, gaps, class_no, archive_class_no, ingest_leaf)
			SELECT i, 'record-' || i, 'LOT-' || (i / 5), 'S', 'shipping', '2020-01-01T00:00:00.000000000Z', '2020-01-01T00:00:00.000000000Z',
				'2022-01-01T00:00:00.000000000Z', '2023-01-01T00:00:00.000000000Z', '', '', zeroblob(32), zeroblob(32), '', 501 + i % 2500, 1 + i % 500, 1 + i % 2000 FROM n`,
		`INSERT INTO deks SELECT seq, class_no, zeroblob(60) FROM records`,
		`INSERT INTO payloads SELECT seq, zeroblob(100) FROM records`,
		numbers(500)+`INSERT INTO segments (segment_no, segment_id, class_no, run_id, records, object_key, object_size, object_sha256, plaintext_sha256, merkle_root,
				manifest_key, manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at)
			SELECT i, 'seg-' || i, 1, '', 1, '', 1, '', '', '', '', 1, '', '', '', '' FROM n`,
		`UPDATE segments SET state = 'verified'`,
		`UPDATE records SET state = 'archived', segment_no = 1 + seq % 500 WHERE seq <= 10000`,
		`DELETE FROM deks WHERE seq <= 10000`,
		numbers(10000)+`INSERT INTO holds (hold_no, hold_id, kind, reference, reason, placed_by, placed_at) SELECT i, 'hold-' || i, 'recall', '', 'r', 'a', '2020-01-01T00:00:00.000000000Z' FROM n`,
		`INSERT INTO hold_scopes (hold_no, record_id) SELECT hold_no, 'record-' || hold_no FROM holds WHERE hold_no <= 5000`,
		`INSERT INTO hold_scopes (hold_no, tlc, tlc_source, trace) SELECT hold_no, 'LOT-' || hold_no, '', CASE WHEN hold_no <= 7000 THEN 'both' ELSE '' END FROM holds WHERE hold_no > 5000`,
		`INSERT INTO hold_scopes (hold_no, location) SELECT hold_no, 'FAC-' || hold_no FROM holds WHERE hold_no <= 20`,
		`INSERT INTO merges (leaf_id, first_seq, records) SELECT ingest_leaf, min(seq), count(*) FROM records GROUP BY ingest_leaf`,
		`INSERT INTO lineage (seq, leaf_id, input_tlc, input_source, output_tlc, output_source) SELECT seq, ingest_leaf, 'LOT-' || (seq - 1), 'S', 'LOT-' || seq, 'S' FROM records`,
		`INSERT INTO hold_traces (scope_no) SELECT scope_no FROM hold_scopes WHERE trace <> ''`,
		`INSERT INTO hold_lots (scope_no, tlc, tlc_source) SELECT t.scope_no, 'LOT-' || (t.scope_no + j.value), '' FROM hold_traces t, json_each('[1,2,3,4,5]') j`,
		`UPDATE hold_traces SET traced_to = 2000, expanded_to = (SELECT max(lot_no) FROM hold_lots)`,
		`INSERT INTO log_entries SELECT leaf_id - 1, leaf_id FROM leaves WHERE leaf_id <= 1500`,
		`DELETE FROM log_pending WHERE leaf_id <= 1500`,
		numbers(3000)+`INSERT INTO log_hashes SELECT i - 1, zeroblob(32) FROM n`,
		`INSERT INTO runs SELECT 'run-' || hold_no, 'sweep', '', '2020-01-01T00:00:00.000000000Z', '', 'running', '' FROM holds`,
		`COMMIT`)
}
