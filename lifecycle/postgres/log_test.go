package postgres

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// TestSequencing: while the log grows, everything else goes on, and a log that could
// not be written to its end is as it was.
func TestSequencing(t *testing.T) {
	a, b, _ := two(t, 0)
	openBoth(t, a, 1)
	fault := errors.New("a fault")
	if err := a.write(t.Context(), sequencing, func(ctx context.Context, tx *txn) error {
		if size, n, err := tx.giveIndexes(ctx, 100); err != nil || size != 2 || n != 2 {
			t.Errorf("%d of %d, %v", n, size, err)
		}
		return fault
	}); err != fault {
		t.Error(err)
	}
	if st, err := a.LogState(t.Context()); err != nil || st.Size != 0 || st.Pending != 2 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := a.write(t.Context(), sequencing, func(ctx context.Context, tx *txn) error {
		size, _, err := tx.giveIndexes(ctx, 100)
		if err != nil {
			return err
		}
		if err := b.Append(ctx, tick); err != nil {
			return err
		}
		if err := b.Place(ctx, hold("h-1")); err != nil {
			return err
		}
		if _, err := b.Merge(ctx, []lifecycle.Sealed{record("r-1")}, nil, tick); err != nil {
			return err
		}
		if err := b.AcceptKeyring(ctx, 1, tick); err != nil {
			return err
		}
		// What was committed since then comes in the next round, and not in this one.
		next, n, err := tx.giveIndexes(ctx, 2)
		if err == nil && (size != 2 || next != 4 || n != 2) {
			t.Errorf("from %d to %d by %d", size, next, n)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if size, err := b.Sequence(t.Context()); err != nil || size != 6 {
		t.Errorf("%d, %v", size, err)
	}
}

// TestLogMigrate: the leaves of an older database wait for their index.
func TestLogMigrate(t *testing.T) {
	d := pgtest.New(t)
	config, err := pgx.ParseConfig(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := prepare(t.Context(), conn, true); err != nil {
		t.Fatal(err)
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	versions, err := database.NewStore(goose.DialectPostgres, "lotkeeper.goose_db_version")
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	g, err := goose.NewProvider("", db, dir, goose.WithStore(versions))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.UpTo(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO lotkeeper.meta VALUES (1, '2020-01-01T00:00:00.000000000Z', 0, '2020-01-01T00:00:00.000000000Z');
		INSERT INTO lotkeeper.leaves (at, actor, action, run_id, subject, body) SELECT '2020-01-01T00:00:00.000000000Z', '', 'init', '', '', '{}' FROM generate_series(1, 3)`); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{URL: d.URL()})
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
	ls, err := s.LogLeaves(t.Context(), 0, 4)
	if err != nil || len(ls) != 4 || ls[0].Role != "" || ls[0].Software != "" || ls[3].Role != config.User {
		t.Errorf("%+v, %v", ls, err)
	}
}

// TestStrayLeaves: what was done to the tables with their guards off is found.
func TestStrayLeaves(t *testing.T) {
	s, _, d := two(t, 0)
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
	tx := begun(t, d, `ALTER TABLE lotkeeper.leaves DISABLE TRIGGER USER`, `ALTER TABLE lotkeeper.log_entries DISABLE TRIGGER USER`, `ALTER TABLE lotkeeper.log_pending DISABLE TRIGGER USER`)
	for _, c := range []struct {
		statement string
		leaf      int64
	}{
		{`DELETE FROM lotkeeper.log_entries WHERE leaf_id = $1`, ids[1]},
		{`DELETE FROM lotkeeper.leaves WHERE leaf_id = $1`, ids[3]},
		{`DELETE FROM lotkeeper.leaves WHERE leaf_id = $1`, ids[7]},
		{`DELETE FROM lotkeeper.log_pending WHERE leaf_id = $1`, ids[8]},
		{`INSERT INTO lotkeeper.leaves (leaf_id, at, actor, action, run_id, subject, body) OVERRIDING SYSTEM VALUE
			SELECT $1, at, actor, action, run_id, subject, body FROM lotkeeper.leaves LIMIT 1`, 1 << 40},
	} {
		if _, err := tx.Exec(t.Context(), c.statement, c.leaf); err != nil {
			t.Fatalf("%s: %v", c.statement, err)
		}
	}
	for _, table := range []string{"leaves", "log_entries", "log_pending"} {
		if _, err := tx.Exec(t.Context(), `ALTER TABLE lotkeeper.`+table+` ENABLE TRIGGER USER`); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
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
	tx = begun(t, d, `ALTER TABLE lotkeeper.log_hashes DISABLE TRIGGER USER`, `DELETE FROM lotkeeper.log_hashes WHERE n = (SELECT max(n) FROM lotkeeper.log_hashes)`)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size, err := s.Sequence(t.Context()); err == nil {
		t.Errorf("sequenced to %d without the last hash", size)
	}
}
