package lifecycle_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestLifeOnPostgreSQL is a season on PostgreSQL: records come in, some of them
// late, some are held; two sweeps; all come out as they went in.
func TestLifeOnPostgreSQL(t *testing.T) {
	ctx := context.Background()
	d := pgtest.New(t)
	store, err := postgres.Create(ctx, postgres.Options{URL: d.URL()}, 0, firstLeaf)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, t.TempDir(), store)
	w.Limits.SegmentRecords, w.Limits.LockRecords, w.Limits.BatchRecords = 40, 30, 50
	var in []string
	for i := range 300 {
		at := instant(t, "2022-09-14T08:30:00Z").AddDate(0, i/20, i%20)
		if i%10 == 9 {
			at = today.AddDate(0, 0, -i)
		}
		in = append(in, record(fmt.Sprintf("r-%03d", i), fmt.Sprint("LOT-", i/3), at))
	}
	if res := w.ingest(in...); res.Accepted != 300 {
		t.Fatalf("ingest: %+v", res)
	}
	hold := w.place(lifecycle.Scope{TLC: "LOT-10"})
	first := w.sweep()
	if first.Held != 3 || first.Archived == 0 || first.Archived+first.Held != first.Due || first.ShreddedClasses == 0 {
		t.Fatalf("the first sweep: %+v", first)
	}
	w.clean("the first sweep")
	// A backfill into days whose classes are destroyed, beside what is known already.
	for i := range 30 {
		in = append(in, record(fmt.Sprintf("late-%02d", i), "LOT-LATE", instant(t, "2022-09-14T10:00:00Z").AddDate(0, 0, i%10)))
	}
	if res := w.ingest(in...); res.Accepted != 30 || res.Duplicates != 300 || res.Conflicts+res.Rejected != 0 {
		t.Fatalf("the backfill: %+v", res)
	}
	if found := w.reconcile(); len(found.Findings) != 10 || found.Kinds[lifecycle.DriftPastDue] != 10 || found.Findings[0].Records != 3 {
		t.Fatalf("the backfill is late: %+v", found.Findings)
	}
	second := w.sweep()
	if second.Archived != 30 || second.Held != 3 {
		t.Fatalf("the second sweep: %+v", second)
	}
	if err := w.Release(ctx, hold.HoldID, "case closed"); err != nil {
		t.Fatal(err)
	}
	if third := w.sweep(); third.Archived != 3 || third.Held != 0 {
		t.Fatalf("after the release: %+v", third)
	}
	w.verify()
	w.clean("a whole life")
	out := w.export(lifecycle.Query{})
	slices.Sort(out)
	slices.Sort(in)
	if !slices.Equal(out, in) {
		t.Errorf("exported %d of %d records as they went in", len(out), len(in))
	}

	// The server's files, its log of changes among them, have no KDE in plain text.
	conn, err := pgx.Connect(ctx, d.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `CHECKPOINT`); err != nil {
		t.Fatal(err)
	}
	noPlaintext(t, filepath.Join(d.Files(), "base"))
	noPlaintext(t, filepath.Join(d.Files(), "pg_wal"))
}
