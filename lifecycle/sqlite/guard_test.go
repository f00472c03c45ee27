package sqlite

import (
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// raw opens the database as another program would: without our pragmas.
func raw(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "_pragma=busy_timeout(10000)"}).String())
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

const someTime = `'2020-01-01T00:00:00.000000000Z'`

// guarded is a database with a record in each state: 1 active, 2 archived, 3
// purged, 4 active and held, 5 active and held as its lot, 7 as its lot is where a
// trace led to, 8 and 9 for another condition. Classes: 1 open with
// DEKs, 2 open and empty, 3 condemned, 4 executing, 5 destroyed, 6 the archive's,
// 7 open with an active record whose DEK is in another, 8 destroyed with payloads.
// Segments are numbered as their states come: staged, verified, settled, abandoned.
func guarded(t testing.TB) *sql.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lotkeeper.db")
	s, err := Create(t.Context(), path, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	record := func(seq int, lot string, class int) string {
		return fmt.Sprintf(`INSERT INTO records (seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product,
			checksum, content, gaps, class_no, archive_class_no, ingest_leaf)
			VALUES (%d, 'r-%d', '%s', 'S', 'shipping', `+someTime+`, `+someTime+`, `+someTime+`, `+someTime+`, '', '', zeroblob(32), zeroblob(32), '', %d, 6, 1)`, seq, seq, lot, class)
	}
	setup := []string{`BEGIN`}
	for i := 1; i <= 8; i++ {
		setup = append(setup, fmt.Sprintf(`INSERT INTO classes (class_no, class_id, kind, period_start, closes_at, generation) VALUES (%d, 'c-%d', 'hot', %[3]s, %[3]s, %[1]d)`, i, i, someTime))
	}
	for i := 1; i <= 4; i++ {
		setup = append(setup, fmt.Sprintf(`INSERT INTO segments (segment_no, segment_id, class_no, run_id, records, object_key, object_size, object_sha256, plaintext_sha256,
			merkle_root, manifest_key, manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at)
			VALUES (%[1]d, 'seg-%[1]d', %[2]d, '', 1, '', 1, '', '', '', '', 1, '', '', %[3]s, %[3]s)`, i, []int{6, 6, 5, 6}[i-1], someTime))
	}
	setup = append(setup,
		`UPDATE segments SET state = 'verified' WHERE segment_no IN (2, 3)`,
		record(1, "L-1", 1), record(2, "L-1", 8), record(3, "L-1", 8), record(4, "L-1", 1), record(5, "HELD", 1), record(6, "L-1", 7), record(7, "TRACED", 1), record(8, "BEGINNING", 1),
		strings.Replace(record(9, "L-9", 1), "'', '', zero", "'FAC', '', zero", 1),
		`INSERT INTO deks SELECT seq, CASE seq WHEN 6 THEN 1 ELSE class_no END, zeroblob(60) FROM records`,
		`INSERT INTO payloads SELECT seq, zeroblob(60) FROM records`,
		`UPDATE records SET state = 'archived', segment_no = seq WHERE seq IN (2, 3)`,
		`DELETE FROM deks WHERE seq IN (2, 3)`,
		`UPDATE segments SET state = 'settled' WHERE segment_no = 3`,
		`UPDATE segments SET state = 'abandoned' WHERE segment_no = 4`,
		`UPDATE classes SET state = 'condemned' WHERE class_no IN (3, 4, 5, 8)`,
		`UPDATE classes SET state = 'executing' WHERE class_no IN (4, 5, 8)`,
		`UPDATE classes SET state = 'destroyed' WHERE class_no IN (5, 8)`,
		`UPDATE records SET state = 'purged' WHERE seq = 3`,
		`INSERT INTO holds (hold_no, hold_id, kind, reference, reason, placed_by, placed_at) VALUES (1, 'h-1', 'recall', '', 'r', 'a', `+someTime+`), (2, 'h-2', 'recall', '', 'r', 'a', `+someTime+`)`,
		`INSERT INTO hold_scopes (scope_no, hold_no, record_id, trace) VALUES (1, 1, 'r-4', 'both')`,
		`INSERT INTO hold_traces (scope_no) VALUES (1)`,
		`INSERT INTO hold_lots VALUES (1, 1, 'TRACED', 'S')`,
		`UPDATE hold_traces SET traced_to = 1, expanded_to = 1, lots = 1`,
		`INSERT INTO hold_scopes (scope_no, hold_no, tlc_prefix) VALUES (4, 1, 'BEGIN')`,
		`INSERT INTO hold_scopes (scope_no, hold_no, location, from_at) VALUES (5, 1, 'FAC', `+someTime+`)`,
		`INSERT INTO hold_scopes (scope_no, hold_no, tlc, tlc_source) VALUES (2, 1, 'HELD', 'S')`,
		`INSERT INTO hold_scopes (scope_no, hold_no, record_id) VALUES (3, 2, 'r-1')`,
		`UPDATE holds SET released_at = `+someTime+` WHERE hold_no = 2`,
		`INSERT INTO leases VALUES ('sweep', 7)`,
		`INSERT INTO vaults VALUES (1, 'has-one', 'joining', `+someTime+`), (2, 'has-all', 'joining', `+someTime+`), (3, 'gone', 'joining', `+someTime+`)`,
		`UPDATE vaults SET state = 'retiring' WHERE vault_no = 3`,
		`INSERT INTO segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at) SELECT segment_no, v, v, '', `+someTime+`, `+someTime+` FROM segments, (SELECT 'has-all' AS v UNION SELECT 'has-one') WHERE v = 'has-all' OR segment_no = 2`,
		`INSERT INTO merges VALUES (1, 1, 9)`,
		`INSERT INTO lineage VALUES (1, 1, 1, 'A', '', 'L-1', 'S')`,
		`INSERT INTO legal_holds VALUES (2, 'has-one', 'set', `+someTime+`), (2, 'has-all', 'set', `+someTime+`)`,
		`UPDATE legal_holds SET state = 'lifting' WHERE vault = 'has-all'`,
		`INSERT INTO leaves (at, actor, action, run_id, subject, body) VALUES (`+someTime+`, '', 'waits', '', '', '{}')`,
		`INSERT INTO log_entries VALUES (1, 1)`,
		`INSERT INTO log_hashes VALUES (1, zeroblob(32))`,
		`INSERT INTO log_published VALUES ('main', 5)`,
		`COMMIT`)
	for _, q := range setup {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	return db
}

// try runs statements in a transaction of their own that is always rolled back.
func try(t *testing.T, db *sql.DB, statements ...string) error {
	t.Helper()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for _, q := range statements {
		if _, err := tx.Exec(q); err != nil {
			return err
		}
	}
	return nil
}

// TestRecordMoves compares the triggers with lifecycle.Transitions: every pair of
// states, on a record for which nothing but the pair speaks against the move.
func TestRecordMoves(t *testing.T) {
	db := guarded(t)
	seq := map[lifecycle.State]int{lifecycle.Active: 1, lifecycle.Archived: 2, lifecycle.Purged: 3}
	for from, n := range seq {
		for _, to := range []lifecycle.State{lifecycle.Active, lifecycle.Archived, lifecycle.Purged, lifecycle.Held, ""} {
			err := try(t, db, `UPDATE classes SET state = 'condemned' WHERE class_no = 6`, `UPDATE classes SET state = 'executing' WHERE class_no = 6`,
				fmt.Sprintf(`UPDATE records SET state = '%s', segment_no = coalesce(segment_no, 2) WHERE seq = %d`, to, n))
			if legal := from == to || lifecycle.CheckMove(from, to) == nil; legal != (err == nil) {
				t.Errorf("from %s to %q: %v, the state machine says %v", from, to, err, legal)
			}
		}
	}
	// What Transitions says is not stored has no state to be stored as.
	for _, tr := range lifecycle.Transitions {
		if !tr.Stored && tr.From != lifecycle.Held && tr.To != lifecycle.Held {
			t.Errorf("%s to %s is neither stored nor about a hold", tr.From, tr.To)
		}
	}
}

func TestClassAndSegmentMoves(t *testing.T) {
	db := guarded(t)
	classes := []lifecycle.ClassState{lifecycle.Open, lifecycle.Condemned, lifecycle.Executing, lifecycle.Destroyed}
	for i, from := range classes {
		for j, to := range classes {
			err := try(t, db, fmt.Sprintf(`UPDATE classes SET state = '%s' WHERE class_no = %d`, to, i+2))
			if legal := j == i || j == i+1; legal != (err == nil) {
				t.Errorf("a class from %s to %s: %v", from, to, err)
			}
		}
	}
	legal := map[string]bool{"staged verified": true, "staged abandoned": true, "verified settled": true}
	segments := []lifecycle.SegmentState{lifecycle.Staged, lifecycle.Verified, lifecycle.Settled, lifecycle.Abandoned}
	for i, from := range segments {
		for _, to := range segments {
			err := try(t, db, fmt.Sprintf(`UPDATE segments SET state = '%s' WHERE segment_no = %d`, to, i+1))
			if want := from == to || legal[string(from+" "+to)]; want != (err == nil) {
				t.Errorf("a segment from %s to %s: %v", from, to, err)
			}
		}
	}
}

// TestGuards is what no program may do to the file, with whatever statement.
func TestGuards(t *testing.T) {
	db := guarded(t)
	// What is refused is refused to a recovery too, but for what let lists.
	var let []string
	refused := func(q ...string) {
		t.Helper()
		if err := try(t, db, q...); err == nil || !strings.Contains(err.Error(), "constraint failed") {
			t.Errorf("%q: %v", q, err)
		}
		if try(t, db, append([]string{`INSERT INTO recovering VALUES (1)`}, q...)...) == nil {
			let = append(let, q[len(q)-1])
		}
	}
	accepted := func(q ...string) {
		t.Helper()
		if err := try(t, db, q...); err != nil {
			t.Errorf("%q: %v", q, err)
		}
	}

	// Archiving: the segment, the hold.
	for no := range 6 {
		q := fmt.Sprintf(`UPDATE records SET state = 'archived', segment_no = %d WHERE seq = 1`, no)
		if no == 2 {
			accepted(q, `DELETE FROM deks WHERE seq = 1`)
		} else {
			refused(q)
		}
	}
	refused(`UPDATE records SET state = 'archived' WHERE seq = 1`)
	for _, held := range []int{4, 5, 7, 8, 9} {
		refused(fmt.Sprintf(`UPDATE records SET state = 'archived', segment_no = 2 WHERE seq = %d`, held))
	}
	accepted(`UPDATE holds SET released_at = `+someTime+` WHERE hold_no = 1`, `UPDATE records SET state = 'archived', segment_no = 2 WHERE seq IN (4, 5, 7, 8, 9)`)
	refused(`UPDATE records SET segment_no = NULL WHERE seq = 2`)

	// Records: no change, no end, no second beginning.
	for _, column := range []string{"seq", "record_id", "tlc", "tlc_source", "event_type", "event_at", "obtained_at", "purge_not_before", "location", "product", "checksum", "content", "gaps", "ingest_leaf"} {
		refused(fmt.Sprintf(`UPDATE records SET %s = '9' WHERE seq = 1`, column))
		refused(fmt.Sprintf(`UPDATE OR REPLACE records SET %s = '9' WHERE seq = 1`, column))
	}
	for _, table := range []string{"records", "classes", "segments", "holds", "hold_scopes", "hold_traces", "hold_lots", "lineage", "merges", "leaves", "leases", "vaults", "log_entries", "log_hashes", "log_published"} {
		refused(`DELETE FROM ` + table)
		refused(`DELETE FROM ` + table + ` WHERE rowid = 1`)
		// Over itself: REPLACE does not ask the triggers on deletion.
		refused(`INSERT OR REPLACE INTO ` + table + ` SELECT * FROM ` + table + ` WHERE rowid = 1`)
	}
	for _, table := range []string{"deks", "payloads"} {
		refused(`DELETE FROM ` + table)
		refused(`INSERT OR REPLACE INTO ` + table + ` SELECT * FROM ` + table + ` WHERE seq = 1`)
		refused(`DELETE FROM ` + table + ` WHERE seq = 1`) // an active record's
	}
	other := `INSERT OR REPLACE INTO records (record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at, purge_not_before, location, product, checksum, content, gaps,
		class_no, archive_class_no, ingest_leaf, state, segment_no) SELECT %s, '', '', '', event_at, event_at, event_at, event_at, '', '', checksum, content, '', 1, 6, 1, %s, 2 FROM records WHERE seq = 1`
	refused(fmt.Sprintf(other, `'r-1'`, `'active'`))
	refused(fmt.Sprintf(other, `'new'`, `'archived'`))
	refused(fmt.Sprintf(other, `'new'`, `'purged'`))
	accepted(fmt.Sprintf(other, `'new'`, `'active'`))

	// DEKs: under open classes only.
	for class := 1; class <= 8; class++ {
		insert := []string{`UPDATE records SET state = 'archived', segment_no = 2 WHERE seq = 1`, `DELETE FROM deks WHERE seq = 1`, fmt.Sprintf(`INSERT INTO deks VALUES (1, %d, zeroblob(60))`, class)}
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

	// Payloads: never changed, gone after the DEK.
	refused(`UPDATE payloads SET sealed = '' WHERE seq = 1`)
	refused(`UPDATE payloads SET seq = 99 WHERE seq = 2`)
	accepted(`DELETE FROM payloads WHERE seq = 2`)

	// Classes: not while a DEK or an active record is left; nothing but the state.
	refused(`UPDATE classes SET state = 'condemned' WHERE class_no = 1`)
	refused(`UPDATE classes SET state = 'condemned' WHERE class_no = 7`)
	for _, column := range []string{"class_no", "class_id", "kind", "period_start", "closes_at", "generation"} {
		refused(fmt.Sprintf(`UPDATE classes SET %s = 99 WHERE class_no = 2`, column))
	}
	refused(`INSERT INTO classes (class_id, kind, period_start, closes_at, generation, state) VALUES ('new', 'hot', '', '', 1, 'destroyed')`)
	refused(`INSERT OR REPLACE INTO classes (class_id, kind, period_start, closes_at, generation) VALUES ('c-5', 'hot', '', '', 1)`)

	// Segments: nothing but the state, and the retention; the class as below.
	for _, column := range []string{"segment_no", "segment_id", "run_id", "records", "object_key", "object_size", "object_sha256", "plaintext_sha256", "merkle_root", "manifest_key", "manifest_size", "manifest_sha256", "created_at"} {
		refused(fmt.Sprintf(`UPDATE segments SET %s = 99 WHERE segment_no = 2`, column))
	}
	accepted(`UPDATE segments SET retain_until = '2099-01-01T00:00:00.000000000Z' WHERE segment_no = 2`)

	// Holds: released once, and with their scopes.
	for _, column := range []string{"hold_no", "hold_id", "kind", "reference", "reason", "placed_by", "placed_at", "review_at", "until_at"} {
		refused(fmt.Sprintf(`UPDATE holds SET %s = 99 WHERE hold_no = 1`, column))
	}
	refused(`UPDATE holds SET released_at = '' WHERE hold_no = 2`)
	refused(`UPDATE holds SET release_reason = 'another' WHERE hold_no = 2`)
	refused(`INSERT INTO holds (hold_id, kind, reference, reason, placed_by, placed_at, released_at) VALUES ('new', '', '', '', '', '', 'x')`)
	refused(`INSERT OR REPLACE INTO holds (hold_id, kind, reference, reason, placed_by, placed_at) VALUES ('h-1', '', '', '', '', '')`)
	// Nor one that has its reference.
	ref := `INSERT OR REPLACE INTO holds (hold_id, kind, reference, reason, placed_by, placed_at) VALUES ('%s', '%s', 'FDA', '', '', '')`
	refused(fmt.Sprintf(ref, "h-8", "recall"), fmt.Sprintf(ref, "h-9", "recall"))
	accepted(fmt.Sprintf(ref, "h-8", "recall"), fmt.Sprintf(ref, "h-9", "litigation"), `UPDATE holds SET released_at = `+someTime+` WHERE hold_id = 'h-8'`, fmt.Sprintf(ref, "h-10", "recall"))
	for _, column := range []string{"scope_no", "hold_no", "record_id", "tlc", "tlc_prefix", "tlc_source", "location", "product", "event_type", "from_at", "to_at", "everything", "trace"} {
		refused(fmt.Sprintf(`UPDATE hold_scopes SET %s = 99`, column))
	}
	accepted(`INSERT INTO hold_scopes (hold_no, record_id) VALUES (1, 'r-1')`) // a hold may be extended
	accepted(`INSERT INTO hold_scopes (hold_no, record_id, tlc, trace) VALUES (1, 'r-1', 'L', 'both')`)
	accepted(`INSERT INTO hold_scopes (hold_no, everything) VALUES (1, 1)`)
	refused(`INSERT INTO hold_scopes (hold_no) VALUES (1)`)
	refused(`INSERT INTO hold_scopes (hold_no, tlc) VALUES (1, '')`)
	refused(`INSERT INTO hold_scopes (hold_no, tlc, tlc_prefix) VALUES (1, 'L', 'L')`)
	refused(`INSERT INTO hold_scopes (hold_no, location, tlc_source) VALUES (1, 'FAC', 'S')`)
	refused(`INSERT INTO hold_scopes (hold_no, everything, location) VALUES (1, 1, 'FAC')`)
	refused(`INSERT INTO hold_scopes (hold_no, everything, trace) VALUES (1, 1, 'both')`)
	refused(`INSERT INTO hold_scopes (hold_no, tlc, trace) VALUES (1, 'L', 'sideways')`)

	// Traces: forward only, from nothing, and with their lots. Lineage: for ever.
	for _, column := range []string{"scope_no", "tlc", "tlc_source", "lot_no"} {
		refused(fmt.Sprintf(`UPDATE hold_lots SET %s = 99`, column))
	}
	refused(`INSERT OR REPLACE INTO hold_lots VALUES (99, 1, 'TRACED', 'S')`)
	accepted(`INSERT INTO hold_lots VALUES (99, 1, 'TRACED', '')`)
	for _, column := range []string{"traced_to", "expanded_to", "lots"} {
		refused(fmt.Sprintf(`UPDATE hold_traces SET %s = 0`, column))
		accepted(fmt.Sprintf(`UPDATE hold_traces SET %s = 2`, column))
		refused(fmt.Sprintf(`INSERT INTO hold_traces (scope_no, %s) VALUES (4, 1)`, column))
	}
	refused(`UPDATE hold_traces SET scope_no = 4`)
	for _, column := range []string{"link_no", "seq", "leaf_id", "input_tlc", "input_source", "output_tlc", "output_source"} {
		refused(fmt.Sprintf(`UPDATE lineage SET %s = 99`, column))
	}
	for _, column := range []string{"leaf_id", "first_seq", "records"} {
		refused(fmt.Sprintf(`UPDATE merges SET %s = 99`, column))
	}

	// Legal holds: set, and lifted by way of lifting.
	const set, lifting = `segment_no = 2 AND vault = 'has-one'`, `segment_no = 2 AND vault = 'has-all'`
	refused(`DELETE FROM legal_holds WHERE ` + set)
	refused(`DELETE FROM legal_holds`)
	accepted(`DELETE FROM legal_holds WHERE ` + lifting)
	accepted(`UPDATE legal_holds SET state = 'lifting' WHERE ` + set)
	accepted(`UPDATE legal_holds SET state = 'set' WHERE ` + lifting)
	refused(`UPDATE legal_holds SET state = 'set' WHERE ` + set)
	refused(`UPDATE legal_holds SET vault = 'other' WHERE ` + set)
	refused(`UPDATE OR REPLACE legal_holds SET vault = 'has-one', state = 'set' WHERE ` + lifting)
	refused(`INSERT INTO legal_holds VALUES (3, 'has-all', 'lifting', '')`)
	accepted(`INSERT INTO legal_holds VALUES (3, 'has-all', 'set', '')`)
	refused(`INSERT OR REPLACE INTO legal_holds SELECT segment_no, vault, 'set', '' FROM legal_holds`)

	// The trail.
	for _, column := range []string{"leaf_id", "at", "actor", "action", "run_id", "subject", "body", "software", "role"} {
		refused(fmt.Sprintf(`UPDATE leaves SET %s = 99`, column))
	}
	refused(`INSERT OR REPLACE INTO leaves (leaf_id, at, actor, action, run_id, subject, body) VALUES (1, '', '', '', '', '', '')`)

	// The log. Leaf 1 has its index and could leave the queue, leaf 2 has none.
	accepted(`DELETE FROM log_pending WHERE leaf_id = 1`)
	refused(`DELETE FROM log_pending WHERE leaf_id = 2`)
	refused(`DELETE FROM log_pending`)
	accepted(`INSERT INTO log_entries VALUES (0, 2)`, `DELETE FROM log_pending`)
	refused(`UPDATE log_pending SET leaf_id = 1 WHERE leaf_id = 2`)
	refused(`UPDATE OR REPLACE log_pending SET leaf_id = 1 WHERE leaf_id = 2`)
	refused(`INSERT OR REPLACE INTO log_pending VALUES (2)`)
	for _, set := range []string{"log_entries SET log_index = 9", "log_entries SET leaf_id = 2", "log_hashes SET n = 9", "log_hashes SET hash = hash"} {
		refused(`UPDATE ` + set)
		refused(`UPDATE OR REPLACE ` + set)
	}
	refused(`INSERT OR REPLACE INTO log_entries VALUES (1, 2)`)
	refused(`INSERT OR REPLACE INTO log_entries VALUES (0, 1)`)
	refused(`INSERT INTO log_hashes VALUES (0, zeroblob(31))`)
	refused(`UPDATE log_published SET size = 4`)
	refused(`UPDATE log_published SET vault = 'other'`)
	refused(`INSERT OR REPLACE INTO log_published VALUES ('main', 9)`)
	accepted(`UPDATE log_published SET size = 6`, `INSERT INTO log_published VALUES ('other', 1)`)

	// Fences.
	refused(`UPDATE leases SET fence = 6`)
	refused(`UPDATE leases SET kind = 'ingest'`)
	accepted(`UPDATE leases SET fence = 8`)

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

	// Copies: for ever.
	// Rescheduled: while active, and with a trace. A segment: verified, with its members, to an
	// archive class that is over later; its locks get longer.
	due, trace := `UPDATE records SET due_at = '2021-01-01T00:00:00.000000000Z' WHERE seq = %d`, `INSERT INTO reschedules VALUES (%d, 1, `+someTime+`, '2021-01-01T00:00:00.000000000Z', 1, 1, 6, 6)`
	refused(fmt.Sprintf(due, 1))
	accepted(fmt.Sprintf(trace, 1), fmt.Sprintf(due, 1))
	refused(fmt.Sprintf(trace, 4), fmt.Sprintf(due, 1))
	refused(fmt.Sprintf(trace, 2), fmt.Sprintf(due, 2))
	refused(fmt.Sprintf(trace, 1), `UPDATE records SET due_at = '2022-01-01T00:00:00.000000000Z' WHERE seq = 1`)
	refused(fmt.Sprintf(trace, 1), fmt.Sprintf(trace, 1))
	late := `INSERT INTO classes (class_no, class_id, kind, period_start, closes_at, generation) VALUES (%d, 'late-%[1]d', '%s', '2040-01-01T00:00:00.000000000Z', '%s-02-01T00:00:00.000000000Z', %[1]d)`
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
	refused(`INSERT OR REPLACE INTO segment_copies SELECT * FROM segment_copies WHERE vault = 'has-one'`)
	refused(`INSERT OR REPLACE INTO segment_copies SELECT segment_no, 'other', object_version, '', '', '', '' FROM segment_copies WHERE vault = 'has-one'`)

	// Vaults: forward only, and not counting before they have every live segment.
	refused(`UPDATE vaults SET state = 'active' WHERE vault_no = 1`)
	accepted(`UPDATE vaults SET state = 'active' WHERE vault_no = 2`, `UPDATE vaults SET state = 'retiring' WHERE vault_no = 2`)
	refused(`UPDATE vaults SET state = 'active' WHERE vault_no = 3`)
	refused(`UPDATE vaults SET state = 'joining' WHERE vault_no = 3`)
	refused(`UPDATE vaults SET name = 'other' WHERE vault_no = 1`)
	accepted(`INSERT INTO vaults (name, state, since) VALUES ('new', 'joining', '')`)
	refused(`INSERT INTO vaults (name, state, since) VALUES ('new', 'active', '')`)
	refused(`INSERT INTO vaults (name, state, since) VALUES ('new', 'retiring', '')`)
	refused(`INSERT OR REPLACE INTO vaults (name, state, since) VALUES ('has-one', 'joining', '')`)

	// A total only grows.
	const total = `INSERT INTO aggregates VALUES ('2022-09', 'P', 'shipping', 2)`
	accepted(total, `UPDATE aggregates SET records = records + 1`)
	refused(`INSERT INTO aggregates VALUES ('2022-09', 'P', 'shipping', 0)`)
	refused(total, total)
	refused(total, `UPDATE aggregates SET records = records`)
	refused(total, `UPDATE aggregates SET records = records + 1, month = '2022-10'`)
	refused(total, `INSERT OR REPLACE INTO aggregates VALUES ('2022-09', 'P', 'shipping', 9)`)
	refused(total, `DELETE FROM aggregates`)

	want := []string{
		`UPDATE records SET state = 'archived', segment_no = 2 WHERE seq = 4`, `UPDATE records SET state = 'archived', segment_no = 2 WHERE seq = 5`,
		`UPDATE records SET state = 'archived', segment_no = 2 WHERE seq = 7`, `UPDATE records SET state = 'archived', segment_no = 2 WHERE seq = 8`, `UPDATE records SET state = 'archived', segment_no = 2 WHERE seq = 9`,
		`DELETE FROM log_entries`, `DELETE FROM log_entries WHERE rowid = 1`, `DELETE FROM log_hashes`, `DELETE FROM log_hashes WHERE rowid = 1`,
		`UPDATE classes SET state = 'condemned' WHERE class_no = 1`, `UPDATE classes SET state = 'condemned' WHERE class_no = 7`,
		`UPDATE log_published SET size = 4`,
	}
	if !slices.Equal(let, want) {
		t.Errorf("a recovery may do\n%q, want\n%q", let, want)
	}
	// Nobody can leave its mark.
	if _, err := db.Exec(`PRAGMA foreign_keys = 1`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`INSERT INTO recovering VALUES (1)`); err == nil {
		t.Error("the mark of a recovery was committed")
	}
}
