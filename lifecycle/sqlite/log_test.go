package sqlite

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pressly/goose/v3"
)

// TestLogMigrate: the leaves of an older database wait for their index.
func TestLogMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lotkeeper.db")
	db := raw(t, path)
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	g, err := goose.NewProvider(goose.DialectSQLite3, db, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.UpTo(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{fmt.Sprintf(`PRAGMA application_id = %d`, applicationID),
		`INSERT INTO meta VALUES (1, ` + someTime + `, 0, ` + someTime + `)`,
		`INSERT INTO leaves (at, actor, action, run_id, subject, body) SELECT ` + someTime + `, '', 'init', '', '', '{}' FROM json_each('[1,2,3]')`,
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Append(t.Context(), tick); err != nil {
		t.Fatal(err)
	}
	if size, err := s.Sequence(t.Context()); err != nil || size != 4 {
		t.Errorf("%d, %v", size, err)
	}
	if ls, err := s.LogLeaves(t.Context(), 0, 4); err != nil || len(ls) != 4 || ls[0].Software != "" || ls[3].Action != tick.Action {
		t.Errorf("%+v, %v", ls, err)
	}
}

// TestStrayLeaves: what was done to the tables with their guards off is found.
func TestStrayLeaves(t *testing.T) {
	s := create(t)
	var ids []int64
	for range 9 {
		if err := s.Append(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.NewestLeaf.ID)
		if len(ids) == 6 {
			if _, err := s.Sequence(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Of leaf 1 the entry goes, of leaf 3 itself, of leaf 7, which waits, itself, of
	// leaf 8 its place in the queue; and another comes without one.
	exec(t, s, `PRAGMA foreign_keys = off`, `DROP TRIGGER log_entries_kept`, `DROP TRIGGER leaves_kept`, `DROP TRIGGER log_pending_kept`, `DROP TRIGGER leaves_queued`, `DROP TRIGGER log_hashes_kept`,
		fmt.Sprintf(`DELETE FROM log_entries WHERE leaf_id = %d`, ids[1]),
		fmt.Sprintf(`DELETE FROM leaves WHERE leaf_id IN (%d, %d)`, ids[3], ids[7]),
		fmt.Sprintf(`DELETE FROM log_pending WHERE leaf_id = %d`, ids[8]),
		`INSERT INTO leaves (leaf_id, at, actor, action, run_id, subject, body) VALUES (1099511627776, `+someTime+`, '', 'tick', '', '', '{}')`)
	for limit := range 4 {
		wantUnindexed, wantGone := []int64{ids[1], ids[8], 1 << 40}, []int64{ids[3], ids[7]}
		unindexed, gone, err := s.StrayLeaves(t.Context(), limit)
		if err != nil || !slices.Equal(unindexed, wantUnindexed[:limit]) || !slices.Equal(gone, wantGone[:min(limit, 2)]) {
			t.Errorf("%v, %v, %v, want %v, %v", unindexed, gone, err, wantUnindexed, wantGone)
		}
	}
	// The log goes on: what is wrong with it stays to be found.
	if size, err := s.Sequence(t.Context()); err != nil || size != 8 {
		t.Errorf("%d, %v", size, err)
	}
	ls, err := s.LogLeaves(t.Context(), 0, 8)
	var indexes []int64
	for _, l := range ls {
		indexes = append(indexes, l.Index)
	}
	if err != nil || !slices.Equal(indexes, []int64{0, 1, 3, 5, 6, 7}) {
		t.Errorf("%v, %v", indexes, err)
	}
	// Without the last hash, the next ones would be wrong.
	exec(t, s, `DELETE FROM log_hashes WHERE n = (SELECT max(n) FROM log_hashes)`)
	if size, err := s.Sequence(t.Context()); err == nil {
		t.Errorf("sequenced to %d without the last hash", size)
	}
}
