package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// raw connects as another program would: as the owner, even.
func raw(t testing.TB, d *pgtest.Database) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

const someTime = `'2020-01-01T00:00:00.000000000Z'`

// guarded is a database with a record in each state: 1 active, 2 archived, 3
// purged, 4 active and held, 5 active and held as its lot. Classes: 1 open with
// DEKs, 2 open and empty, 3 condemned, 4 executing, 5 destroyed, 6 the archive's,
// 7 open with an active record whose DEK is in another, 8 destroyed with payloads.
// Segments are numbered as their states come: staged, verified, settled, abandoned.
func guarded(t testing.TB) *pgx.Conn {
	t.Helper()
	d := pgtest.New(t)
	s, err := postgres.Create(t.Context(), postgres.Options{URL: d.URL()}, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn := raw(t, d)
	record := func(seq int, lot string, class int) string {
		return fmt.Sprintf(`INSERT INTO records (seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product,
			checksum, content, gaps, class_no, archive_class_no, month, payload_bytes, ingest_leaf)
			VALUES (%d, 'r-%d', '%s', 'S', 'shipping', `+someTime+`, `+someTime+`, `+someTime+`, `+someTime+`, '', '', '\x00', '\x00', '', %d, 6, 202001, 60, 1)`, seq, seq, lot, class)
	}
	setup := []string{`SET search_path = lotkeeper`, `SELECT open_month(202001)`}
	for i := 1; i <= 8; i++ {
		setup = append(setup, fmt.Sprintf(`INSERT INTO classes (class_no, class_id, kind, period_start, closes_at, month, generation) VALUES (%d, 'c-%d', 'hot', %[3]s, %[3]s, 202001, %[1]d)`, i, i, someTime))
	}
	for i := 1; i <= 4; i++ {
		setup = append(setup, fmt.Sprintf(`INSERT INTO segments (segment_no, segment_id, class_no, run_id, records, object_key, object_size, object_sha256, plaintext_sha256,
			merkle_root, manifest_key, manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at)
			VALUES (%[1]d, 'seg-%[1]d', %[2]d, '', 1, '', 1, '', '', '', '', 1, '', '', %[3]s, %[3]s)`, i, []int{6, 6, 5, 6}[i-1], someTime))
	}
	setup = append(setup,
		`UPDATE segments SET state = 'verified' WHERE segment_no IN (2, 3)`,
		record(1, "L-1", 1), record(2, "L-1", 2), record(3, "L-1", 2), record(4, "L-1", 1), record(5, "HELD", 1), record(6, "L-1", 7),
		`UPDATE records SET class_no = 8 WHERE seq IN (2, 3)`,
		`INSERT INTO deks SELECT seq, CASE seq WHEN 6 THEN 1 ELSE class_no END, '\x00' FROM records`,
		`INSERT INTO payloads SELECT month, seq, '\x00' FROM records`,
		`UPDATE records SET state = 'archived', segment_no = seq, archive_leaf = 1 WHERE seq IN (2, 3)`,
		`DELETE FROM deks WHERE seq IN (2, 3)`,
		`UPDATE segments SET state = 'settled' WHERE segment_no = 3`,
		`UPDATE segments SET state = 'abandoned' WHERE segment_no = 4`,
		`UPDATE classes SET state = 'condemned' WHERE class_no IN (3, 4, 5, 8)`,
		`UPDATE classes SET state = 'executing' WHERE class_no IN (4, 5, 8)`,
		`UPDATE classes SET state = 'destroyed' WHERE class_no IN (5, 8)`,
		`UPDATE records SET state = 'purged' WHERE seq = 3`,
		`INSERT INTO holds (hold_no, hold_id, kind, reference, reason, placed_by, placed_at) VALUES (1, 'h-1', 'recall', '', 'r', 'a', `+someTime+`), (2, 'h-2', 'recall', '', 'r', 'a', `+someTime+`)`,
		`INSERT INTO hold_scopes (scope_no, hold_no, record_id) VALUES (1, 1, 'r-4')`,
		`INSERT INTO hold_scopes (scope_no, hold_no, tlc, tlc_source) VALUES (2, 1, 'HELD', 'S')`,
		`INSERT INTO hold_scopes (scope_no, hold_no, record_id) VALUES (3, 2, 'r-1')`,
		`UPDATE holds SET released_at = `+someTime+` WHERE hold_no = 2`,
		`INSERT INTO segment_copies VALUES (2, 'main', '', '', '', '')`,
		`INSERT INTO reseals VALUES (1, 1)`,
		`INSERT INTO leases VALUES ('sweep', 7, 'run', now())`,
		`INSERT INTO vaults VALUES (1, 'has-one', 'joining', ''), (2, 'has-all', 'joining', ''), (3, 'gone', 'joining', '')`,
		`UPDATE vaults SET state = 'retiring' WHERE vault_no = 3`,
		`INSERT INTO leaves (at, actor, action, run_id, subject, body) VALUES (`+someTime+`, '', 'waits', '', '', '{}')`,
		`INSERT INTO log_entries VALUES (0, 1)`,
		`INSERT INTO log_hashes VALUES (0, sha256(''))`,
		`INSERT INTO log_published VALUES ('main', 5)`,
		`INSERT INTO segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at) SELECT segment_no, v, v, '', '', '' FROM segments, (VALUES ('has-all'), ('has-one')) x(v) WHERE v = 'has-all' OR segment_no = 2`)
	for _, q := range setup {
		if _, err := conn.Exec(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	return conn
}

// try runs statements in a transaction of their own that is always rolled back,
// as one who has turned off what can be turned off without touching the schema.
func try(t *testing.T, conn *pgx.Conn, statements ...string) error {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	for _, q := range append([]string{`SET LOCAL session_replication_role = replica`}, statements...) {
		if _, err := tx.Exec(t.Context(), q); err != nil {
			return err
		}
	}
	return nil
}

// TestRecordMoves compares the triggers with lifecycle.Transitions: every pair of
// states, on a record for which nothing but the pair speaks against the move.
func TestRecordMoves(t *testing.T) {
	conn := guarded(t)
	seq := map[lifecycle.State]int{lifecycle.Active: 1, lifecycle.Archived: 2, lifecycle.Purged: 3}
	for from, n := range seq {
		for _, to := range []lifecycle.State{lifecycle.Active, lifecycle.Archived, lifecycle.Purged, lifecycle.Held, ""} {
			err := try(t, conn, `UPDATE classes SET state = 'condemned' WHERE class_no = 6`, `UPDATE classes SET state = 'executing' WHERE class_no = 6`,
				fmt.Sprintf(`UPDATE records SET state = '%s', segment_no = coalesce(segment_no, 2), archive_leaf = CASE '%[1]s' WHEN 'active' THEN 0 ELSE 1 END WHERE seq = %d`, to, n))
			if legal := from == to || lifecycle.CheckMove(from, to) == nil; legal != (err == nil) {
				t.Errorf("from %s to %q: %v, the state machine says %v", from, to, err, legal)
			}
		}
	}
}

func TestClassAndSegmentMoves(t *testing.T) {
	conn := guarded(t)
	classes := []lifecycle.ClassState{lifecycle.Open, lifecycle.Condemned, lifecycle.Executing, lifecycle.Destroyed}
	for i, from := range classes {
		for j, to := range classes {
			err := try(t, conn, fmt.Sprintf(`UPDATE classes SET state = '%s' WHERE class_no = %d`, to, i+2))
			if legal := j == i || j == i+1; legal != (err == nil) {
				t.Errorf("a class from %s to %s: %v", from, to, err)
			}
		}
	}
	legal := map[string]bool{"staged verified": true, "staged abandoned": true, "verified settled": true}
	segments := []lifecycle.SegmentState{lifecycle.Staged, lifecycle.Verified, lifecycle.Settled, lifecycle.Abandoned}
	for i, from := range segments {
		for _, to := range segments {
			err := try(t, conn, fmt.Sprintf(`UPDATE segments SET state = '%s' WHERE segment_no = %d`, to, i+1))
			if want := from == to || legal[string(from+" "+to)]; want != (err == nil) {
				t.Errorf("a segment from %s to %s: %v", from, to, err)
			}
		}
	}
}

// TestGuards is what no program may do to the tables, with whatever statement,
// and be it the owner's under session_replication_role = replica.
func TestGuards(t *testing.T) {
	conn := guarded(t)
	// What is refused is refused to a recovery too, but for what let lists.
	var let []string
	refused := func(q ...string) {
		t.Helper()
		err := try(t, conn, q...)
		var e *pgconn.PgError
		if !errors.As(err, &e) || !strings.HasPrefix(e.Code, "23") {
			t.Errorf("%q: %v", q, err)
		}
		if try(t, conn, append([]string{`INSERT INTO recovering VALUES (1)`}, q...)...) == nil {
			let = append(let, q[len(q)-1])
		}
	}
	accepted := func(q ...string) {
		t.Helper()
		if err := try(t, conn, q...); err != nil {
			t.Errorf("%q: %v", q, err)
		}
	}

	// Archiving: the segment, the hold.
	const archived = `UPDATE records SET state = 'archived', archive_leaf = 1, segment_no = `
	for no := range 6 {
		q := fmt.Sprintf(archived+`%d WHERE seq = 1`, no)
		if no == 2 {
			accepted(q, `DELETE FROM deks WHERE seq = 1`)
		} else {
			refused(q)
		}
	}
	refused(archived + `NULL WHERE seq = 1`)
	refused(archived + `2 WHERE seq = 4`)
	refused(archived + `2 WHERE seq = 5`)
	refused(archived + `2 WHERE seq IN (1, 5)`)
	accepted(`UPDATE holds SET released_at = `+someTime+` WHERE hold_no = 1`, archived+`2 WHERE seq IN (4, 5)`)
	refused(`UPDATE records SET segment_no = NULL WHERE seq = 2`)
	refused(`UPDATE records SET archive_leaf = 1 WHERE seq = 1`)
	refused(`UPDATE records SET archive_leaf = 0 WHERE seq = 2`)
	refused(`UPDATE records SET class_no = 99 WHERE seq = 1`)

	// Records: no change, no end, no second beginning.
	for _, column := range []string{"seq", "record_id", "tlc", "tlc_source", "event_type", "event_at", "obtained_at", "purge_not_before", "location", "product", "checksum", "content", "gaps", "ingest_leaf", "month", "payload_bytes"} {
		refused(fmt.Sprintf(`UPDATE records SET %s = %[1]s WHERE seq = 1`, column))
	}
	for _, table := range []string{"records", "classes", "segments", "holds", "hold_scopes", "leaves", "leases", "vaults", "deks", "payloads", "payloads_202001", "log_pending", "log_entries", "log_hashes", "log_published"} {
		refused(`DELETE FROM ` + table)
	}
	for _, table := range []string{"records", "classes", "segments", "segment_copies", "vaults", "holds", "hold_scopes", "leaves", "leases", "deks", "payloads", "payloads_202001", "reseals", "log_pending", "log_entries", "log_hashes", "log_published"} {
		refused(`TRUNCATE ` + table + ` CASCADE`)
		refused(`INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE SELECT * FROM ` + table + ` LIMIT 1`)
	}
	other := `INSERT INTO records (seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product, checksum, content, gaps,
		month, payload_bytes, ingest_leaf, class_no, archive_class_no, state, segment_no, archive_leaf) SELECT 99, %s, '', '', '', event_at, event_at, event_at, event_at, '', '', checksum, content, '',
		202001, 1, 1, %s, %s FROM records WHERE seq = 1`
	refused(fmt.Sprintf(other, `'r-1'`, `1, 6`, `'active', NULL, 0`))
	refused(fmt.Sprintf(other, `'new'`, `1, 6`, `'archived', 2, 1`))
	refused(fmt.Sprintf(other, `'new'`, `1, 6`, `'purged', 2, 1`))
	refused(fmt.Sprintf(other, `'new'`, `99, 6`, `'active', NULL, 0`))
	refused(fmt.Sprintf(other, `'new'`, `1, 99`, `'active', NULL, 0`))
	accepted(fmt.Sprintf(other, `'new'`, `1, 6`, `'active', NULL, 0`))

	// DEKs: under open classes only.
	for class := 1; class <= 8; class++ {
		insert := []string{archived + `2 WHERE seq = 1`, `DELETE FROM deks WHERE seq = 1`, fmt.Sprintf(`INSERT INTO deks VALUES (1, %d, '\x00')`, class)}
		update := fmt.Sprintf(`UPDATE deks SET class_no = %d WHERE seq = 1`, class)
		if open := class != 3 && class != 4 && class != 5 && class != 8; open {
			accepted(insert...)
			accepted(update)
		} else {
			refused(insert...)
			refused(update)
		}
	}
	refused(`UPDATE deks SET class_no = 99 WHERE seq = 1`)
	refused(`UPDATE deks SET seq = 99 WHERE seq = 1`)
	refused(`DELETE FROM deks WHERE seq = 1`)

	// Payloads: never changed, gone after the DEK, by the table and by its partition.
	for _, table := range []string{"payloads", "payloads_202001"} {
		refused(`UPDATE ` + table + ` SET sealed = '\x01' WHERE seq = 2`)
		refused(`UPDATE ` + table + ` SET seq = 99 WHERE seq = 2`)
		refused(`DELETE FROM ` + table + ` WHERE seq = 1`)
		accepted(`DELETE FROM ` + table + ` WHERE seq = 2`)
	}
	refused(`INSERT INTO payloads VALUES (202002, 1, '\x00')`)
	// A month is dropped when all is over, and by nothing else.
	accepted(`SELECT drop_month(202001)`, `SELECT count(*) FROM payloads_202001`)

	// Classes: not while a DEK or an active record is left; nothing but the state.
	refused(`UPDATE classes SET state = 'condemned' WHERE class_no = 1`)
	refused(`UPDATE classes SET state = 'condemned' WHERE class_no = 7`)
	for _, column := range []string{"class_no", "class_id", "kind", "period_start", "closes_at", "month", "generation"} {
		refused(fmt.Sprintf(`UPDATE classes SET %s = %[1]s WHERE class_no = 2`, column))
	}
	refused(`INSERT INTO classes (class_id, kind, period_start, closes_at, month, generation, state) VALUES ('new', 'hot', '', '', 1, 1, 'destroyed')`)
	refused(`INSERT INTO classes (class_id, kind, period_start, closes_at, month, generation) VALUES ('c-5', 'hot', '', '', 1, 1)`)

	// Segments: nothing but the state, and the retention; the class as below.
	for _, column := range []string{"segment_no", "segment_id", "run_id", "records", "object_key", "object_size", "object_sha256", "plaintext_sha256", "merkle_root", "manifest_key", "manifest_size", "manifest_sha256", "created_at"} {
		refused(fmt.Sprintf(`UPDATE segments SET %s = %[1]s WHERE segment_no = 2`, column))
	}
	accepted(`UPDATE segments SET retain_until = '2099-01-01T00:00:00.000000000Z' WHERE segment_no = 2`)

	// Holds: released once, and with their scopes.
	for _, column := range []string{"hold_no", "hold_id", "kind", "reference", "reason", "placed_by", "placed_at"} {
		refused(fmt.Sprintf(`UPDATE holds SET %s = %[1]s WHERE hold_no = 1`, column))
		refused(fmt.Sprintf(`UPDATE holds SET %s = %[1]s, released_at = `+someTime+` WHERE hold_no = 1`, column))
	}
	refused(`UPDATE holds SET released_at = '' WHERE hold_no = 2`)
	refused(`UPDATE holds SET release_reason = 'another' WHERE hold_no = 2`)
	refused(`INSERT INTO holds (hold_id, kind, reference, reason, placed_by, placed_at, released_at) VALUES ('new', '', '', '', '', '', 'x')`)
	refused(`INSERT INTO holds (hold_id, kind, reference, reason, placed_by, placed_at) VALUES ('h-1', '', '', '', '', '')`)
	for _, column := range []string{"scope_no", "hold_no", "record_id", "tlc", "tlc_source"} {
		refused(fmt.Sprintf(`UPDATE hold_scopes SET %s = %[1]s`, column))
	}
	accepted(`INSERT INTO hold_scopes (hold_no, scope_no, record_id) VALUES (1, 99, 'r-1')`) // a hold may be extended
	refused(`INSERT INTO hold_scopes (hold_no, record_id, tlc, tlc_source) VALUES (1, 'r-1', 'L', '')`)
	refused(`INSERT INTO hold_scopes (hold_no) VALUES (1)`)

	// The trail.
	for _, column := range []string{"at", "actor", "action", "run_id", "subject", "body", "software", "role"} {
		refused(fmt.Sprintf(`UPDATE leaves SET %s = %[1]s`, column))
	}

	// The log. Leaf 1 has its index and could leave the queue, leaf 2 has none, and
	// whoever writes a leaf has put it there.
	accepted(`DELETE FROM log_pending WHERE leaf_id = 1`)
	refused(`DELETE FROM log_pending WHERE leaf_id = 2`)
	accepted(`INSERT INTO log_entries VALUES (1, 2)`, `DELETE FROM log_pending`)
	refused(`UPDATE log_pending SET leaf_id = 9 WHERE leaf_id = 2`)
	refused(`INSERT INTO leaves (at, actor, action, run_id, subject, body) VALUES ('2026-01-01T00:00:00.000000000Z', '', '', '', '', '{}')`, `INSERT INTO log_pending SELECT max(leaf_id) FROM leaves`)
	for _, set := range []string{"log_entries SET log_index = 9", "log_entries SET leaf_id = 2", "log_hashes SET n = 9", "log_hashes SET hash = hash"} {
		refused(`UPDATE ` + set)
	}
	refused(`INSERT INTO log_entries VALUES (1, 1)`)
	refused(`INSERT INTO log_hashes VALUES (1, '')`)
	refused(`UPDATE log_published SET size = 4`)
	refused(`UPDATE log_published SET vault = 'other'`)
	accepted(`UPDATE log_published SET size = 6`, `INSERT INTO log_published VALUES ('other', 1)`)

	// Fences.
	refused(`UPDATE leases SET fence = 6`)
	refused(`UPDATE leases SET kind = 'ingest'`)
	refused(`UPDATE leases SET run_id = 'another'`)
	accepted(`UPDATE leases SET expires_at = now()`)
	accepted(`UPDATE leases SET fence = 8, run_id = 'another'`)

	// Copies: for ever.
	// Purging: after the class, and the segment after its records; a copy after its segment.
	const ends = `UPDATE classes SET state = 'condemned' WHERE class_no = 6`
	const executes = `UPDATE classes SET state = 'executing' WHERE class_no = 6`
	refused(`UPDATE records SET state = 'purged' WHERE seq = 2`)
	refused(ends, `UPDATE records SET state = 'purged' WHERE seq = 2`)
	accepted(ends, executes, `UPDATE records SET state = 'purged' WHERE seq = 2`)
	refused(ends, executes, `UPDATE segments SET purge_leaf = 1 WHERE segment_no = 2`)
	refused(`UPDATE segments SET purge_leaf = 1 WHERE segment_no = 2`)
	const purges = `UPDATE records SET state = 'purged' WHERE seq = 2`
	accepted(ends, executes, purges, `UPDATE segments SET purge_leaf = 1 WHERE segment_no = 2`)
	refused(ends, executes, purges, `UPDATE segments SET purge_leaf = 1 WHERE segment_no = 2`, `UPDATE segments SET purge_leaf = 2 WHERE segment_no = 2`)
	refused(`UPDATE segment_copies SET deleted_at = ` + someTime + ` WHERE vault = 'has-one'`)
	accepted(ends, executes, purges, `UPDATE segments SET purge_leaf = 1 WHERE segment_no = 2`, `UPDATE segment_copies SET deleted_at = `+someTime+` WHERE vault = 'has-one'`)
	refused(ends, executes, purges, `UPDATE segments SET purge_leaf = 1 WHERE segment_no = 2`, `UPDATE segment_copies SET deleted_at = `+someTime+`, object_version = 'x' WHERE vault = 'has-one'`)
	// Archived anew: with a verified segment of an open class, and into that.
	refused(`UPDATE records SET segment_no = 3 WHERE seq = 2`)
	refused(`UPDATE records SET segment_no = 1 WHERE seq = 2`)
	refused(`UPDATE records SET archive_class_no = 1, content_class_no = 6 WHERE seq = 2`)
	accepted(`UPDATE records SET archive_class_no = 1, content_class_no = 6 WHERE seq = 1`)
	refused(`UPDATE records SET archive_class_no = 1 WHERE seq = 1`)
	refused(`UPDATE records SET archive_class_no = 3, content_class_no = 6 WHERE seq = 1`)

	// Rescheduled: while active, and with a trace. A segment: verified, with its members, to an
	// archive class that is over later; its locks get longer.
	due, trace := `UPDATE records SET due_at = '2021-01-01T00:00:00.000000000Z' WHERE seq = %d`, `INSERT INTO reschedules VALUES (%d, 1, `+someTime+`, '2021-01-01T00:00:00.000000000Z', 1, 1, 6, 6)`
	refused(fmt.Sprintf(due, 1))
	accepted(fmt.Sprintf(trace, 1), fmt.Sprintf(due, 1))
	refused(fmt.Sprintf(trace, 4), fmt.Sprintf(due, 1))
	refused(fmt.Sprintf(trace, 2), fmt.Sprintf(due, 2))
	refused(fmt.Sprintf(trace, 1), `UPDATE records SET due_at = '2022-01-01T00:00:00.000000000Z' WHERE seq = 1`)
	refused(fmt.Sprintf(trace, 1), fmt.Sprintf(trace, 1))
	late := `INSERT INTO classes (class_no, class_id, kind, period_start, closes_at, month, generation) VALUES (%d, 'late-%[1]d', '%s', '2040-01-01T00:00:00.000000000Z', '%s-02-01T00:00:00.000000000Z', 204001, %[1]d)`
	later, notArchive, earlier := fmt.Sprintf(late, 20, "archive", "2040"), fmt.Sprintf(late, 20, "hold", "2040"), fmt.Sprintf(late, 20, "archive", "2010")
	moves := func(segment int) string {
		return fmt.Sprintf(`UPDATE segments SET class_no = 20, wrapped_identity = 'x' WHERE segment_no = %d`, segment)
	}
	members := `UPDATE records SET archive_class_no = 20, content_class_no = 6 WHERE seq = 2`
	accepted(later, moves(2), members)
	refused(later, members)
	refused(later, moves(1))
	refused(later, moves(3))
	refused(later, moves(4))
	refused(notArchive, moves(2))
	refused(earlier, moves(2))
	refused(later, `UPDATE classes SET state = 'condemned' WHERE class_no = 20`, moves(2))
	refused(ends, executes, later, moves(2))
	refused(`UPDATE segments SET wrapped_identity = 'x' WHERE segment_no = 2`)
	accepted(`UPDATE segment_copies SET retain_until = '2099-01-01T00:00:00.000000000Z' WHERE vault = 'has-one'`)
	refused(`UPDATE segment_copies SET retain_until = retain_until WHERE vault = 'has-one'`)
	refused(`UPDATE segment_copies SET retain_until = '2099-01-01T00:00:00.000000000Z', verified_at = 'x' WHERE vault = 'has-one'`)

	refused(`DELETE FROM segment_copies`)
	refused(`UPDATE segment_copies SET retain_until = '' WHERE vault = 'has-one'`)
	refused(`INSERT INTO segment_copies SELECT segment_no, 'other', object_version, '', '', '' FROM segment_copies WHERE vault = 'has-one'`)

	// Vaults: forward only, and not counting before they have every live segment.
	refused(`UPDATE vaults SET state = 'active' WHERE vault_no = 1`)
	accepted(`UPDATE vaults SET state = 'active' WHERE vault_no = 2`, `UPDATE vaults SET state = 'retiring' WHERE vault_no = 2`)
	refused(`UPDATE vaults SET state = 'active' WHERE vault_no = 3`)
	refused(`UPDATE vaults SET state = 'joining' WHERE vault_no = 3`)
	refused(`UPDATE vaults SET name = 'other' WHERE vault_no = 1`)
	accepted(`INSERT INTO vaults (vault_no, name, state, since) VALUES (9, 'new', 'joining', '')`)
	refused(`INSERT INTO vaults (vault_no, name, state, since) VALUES (9, 'new', 'active', '')`)
	refused(`INSERT INTO vaults (vault_no, name, state, since) VALUES (9, 'new', 'retiring', '')`)

	// A total only grows.
	const total = `INSERT INTO aggregates VALUES ('2022-09', 'P', 'shipping', 2)`
	accepted(total, `UPDATE aggregates SET records = records + 1`)
	refused(`INSERT INTO aggregates VALUES ('2022-09', 'P', 'shipping', 0)`)
	refused(total, total)
	refused(total, `UPDATE aggregates SET records = records`)
	refused(total, `UPDATE aggregates SET records = records + 1, month = '2022-10'`)
	refused(total, `DELETE FROM aggregates`)

	want := []string{
		`UPDATE records SET state = 'archived', archive_leaf = 1, segment_no = 2 WHERE seq = 4`, `UPDATE records SET state = 'archived', archive_leaf = 1, segment_no = 2 WHERE seq = 5`,
		`UPDATE records SET state = 'archived', archive_leaf = 1, segment_no = 2 WHERE seq IN (1, 5)`, `DELETE FROM log_entries`, `DELETE FROM log_hashes`,
		`UPDATE classes SET state = 'condemned' WHERE class_no = 1`, `UPDATE classes SET state = 'condemned' WHERE class_no = 7`, `UPDATE log_published SET size = 4`,
	}
	if !slices.Equal(let, want) {
		t.Errorf("a recovery may do\n%q, want\n%q", let, want)
	}
	// Nobody can leave its mark.
	if _, err := conn.Exec(t.Context(), `INSERT INTO recovering VALUES (1)`); err == nil {
		t.Error("the mark of a recovery was committed")
	}
}

// TestGuardsStay: each trigger fires for everybody, also those that a partition
// has from its table.
func TestGuardsStay(t *testing.T) {
	conn := guarded(t)
	var n, weak int
	if err := conn.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE tgenabled <> 'A') FROM pg_trigger
		WHERE tgrelid::regclass::text NOT LIKE 'pg_%' AND (NOT tgisinternal OR tgparentid <> 0) AND tgname NOT LIKE 'RI_%'`).Scan(&n, &weak); err != nil {
		t.Fatal(err)
	}
	if n < 30 || weak > 0 {
		t.Errorf("%d of %d triggers are not ENABLE ALWAYS", weak, n)
	}
}
