package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// TestNoWalks: on tables that have grown and were never analysed, nothing that an
// ingest or a sweep does walks through one of them; also for a user of the roles, whose
// rights are looked at and whose rows may be fewer.
func TestNoWalks(t *testing.T) {
	t.Run("owner", func(t *testing.T) { noWalks(t) })
	t.Run("roles", func(t *testing.T) {
		noWalks(t, "lotkeeper_ingest", "lotkeeper_sweeper", "lotkeeper_recall", "lotkeeper_export")
	})
}

func noWalks(t *testing.T, roles ...string) {
	d := pgtest.New(t)
	owner, err := Create(t.Context(), Options{URL: d.URL()}, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { owner.Close() })
	url := d.URL()
	if roles != nil {
		url = d.As(t, roles...)
	}
	// One connection, so that its counters can be asked for.
	s, err := Open(t.Context(), Options{URL: url, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	openBoth(t, s, 1)
	hot, archive := periods()
	deferral := lifecycle.DeferralPeriod(storetest.Start)
	if err := s.OpenClasses(t.Context(), []lifecycle.Class{{ID: deferral.ID(1), Period: deferral, Generation: 1}}, 0, tick); err != nil {
		t.Fatal(err)
	}
	const size, batches, some = 5000, 5, 2000
	batch := func(n int) (out []lifecycle.Sealed) {
		for i := range size {
			r := record(fmt.Sprintf("r-%d-%d", n, i))
			r.TLC, r.Payload = fmt.Sprint("L-", i/5), make([]byte, 600)
			out = append(out, r)
		}
		return out
	}
	ids := make([]string, size)
	members := make([]lifecycle.Member, some)
	for i := range size {
		ids[i] = fmt.Sprintf("r-1-%d", i)
	}
	for i := range some {
		members[i].RecordID = ids[i]
	}
	merge := func(n int) error {
		res, err := s.Merge(t.Context(), batch(n), nil, tick)
		if err == nil && res.Inserted != size {
			err = fmt.Errorf("%+v", res)
		}
		return err
	}
	for n := range batches {
		if err := merge(n); err != nil {
			t.Fatal(err)
		}
	}
	lease, err := s.BeginRun(t.Context(), run("run-1"), tick)
	if err != nil {
		t.Fatal(err)
	}
	walks := func() int64 {
		t.Helper()
		if _, err := s.pool.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`); err != nil {
			t.Fatal(err)
		}
		n, err := one(t.Context(), s.pool, (*columns).int, `SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE relname IN ('records', 'deks') OR relname LIKE 'payloads%'`)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	ctx := t.Context()
	const limit = 1 << 30
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"Existing", func(ctx context.Context) error { _, err := s.Existing(ctx, ids); return err }},
		{"Merge", func(context.Context) error { return merge(batches) }},
		{"Place", func(ctx context.Context) error { return s.Place(ctx, hold("h-1")) }},
		{"DueClasses", func(ctx context.Context) error { _, err := s.DueClasses(ctx, storetest.Start); return err }},
		{"DueRows", func(ctx context.Context) error {
			_, err := s.DueRows(ctx, archive.ID(1), storetest.Start, lifecycle.Cursor{}, size)
			return err
		}},
		{"DuePage", func(ctx context.Context) error {
			_, err := s.DuePage(ctx, archive.ID(1), storetest.Start, lifecycle.Cursor{}, size, limit)
			return err
		}},
		{"Checksums", func(ctx context.Context) error { _, err := s.Checksums(ctx, ids); return err }},
		{"StageSegment", func(ctx context.Context) error {
			return s.StageSegment(ctx, lease, lifecycle.Segment{ID: "seg-1", Class: archive.ID(1), WrappedIdentity: []byte{1}}, tick)
		}},
		{"VerifySegment", func(ctx context.Context) error { return s.VerifySegment(ctx, lease, "seg-1", nil, tick) }},
		{"SoftDelete", func(ctx context.Context) error {
			leaf := tick
			leaf.Subject = "seg-1"
			done, err := s.SoftDelete(ctx, lease, "seg-1", storetest.Start, members, leaf)
			if err == nil && done.Records != some {
				err = fmt.Errorf("%d", done.Records)
			}
			return err
		}},
		{"ClassDEKs and Reseal", func(ctx context.Context) error {
			left, err := s.ClassDEKs(ctx, hot.ID(1), 0, some)
			if err != nil {
				return err
			}
			deks := map[int64][]byte{}
			for _, d := range left {
				deks[d.Row.Seq] = d.Wrapped
			}
			n, err := s.Reseal(ctx, lease, hot.ID(1), deferral.ID(1), deks, tick)
			if err == nil && n != some {
				err = fmt.Errorf("%d", n)
			}
			return err
		}},
		{"Condemn", func(ctx context.Context) error {
			_, err := s.Condemn(ctx, lease, storetest.Start, []string{hot.ID(1)}, tick)
			return err
		}},
		{"SealedRow", func(ctx context.Context) error { _, err := s.SealedRow(ctx, ids[0]); return err }},
		{"LeafRows", func(ctx context.Context) error {
			for column, want := range map[string]int{"ingest_leaf": size, "archive_leaf": some} {
				leaf, err := one(ctx, s.pool, (*columns).int, `SELECT `+column+` FROM lotkeeper.records WHERE record_id = $1`, ids[0])
				if err != nil {
					return err
				}
				n := 0
				for _, err := range s.LeafRows(ctx, leaf) {
					if err != nil {
						return err
					}
					n++
				}
				if n != want {
					return fmt.Errorf("%d of %s, want %d", n, column, want)
				}
			}
			return nil
		}},
		{"Rows of a class", func(ctx context.Context) error {
			n := 0
			for _, err := range s.Rows(ctx, lifecycle.Query{Class: deferral.ID(1)}) {
				if err != nil {
					return err
				}
				n++
			}
			if n != some {
				return fmt.Errorf("%d, want %d", n, some)
			}
			return nil
		}},
		{"Rows of a lot", func(ctx context.Context) error {
			for _, err := range s.Rows(ctx, lifecycle.Query{TLC: "L-7"}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"NewestEvents", func(ctx context.Context) error {
			lots := make([]string, size)
			for i := range lots {
				lots[i] = fmt.Sprint("L-", i)
			}
			newest, err := s.NewestEvents(ctx, lots, storetest.Start)
			if err == nil && len(newest) != size/5 {
				err = fmt.Errorf("%d lots", len(newest))
			}
			return err
		}},
		{"Coverage", func(ctx context.Context) error {
			_, err := s.Coverage(ctx, lifecycle.Reach{Scopes: hold("h-1").Hold.Scopes})
			return err
		}},
		{"DropCiphertext", func(ctx context.Context) error {
			// As if the class had been destroyed: its guards would refuse it here.
			if _, err := owner.pool.Exec(ctx, `ALTER TABLE lotkeeper.classes DISABLE TRIGGER classes_moves; UPDATE lotkeeper.classes SET state = 'destroyed' WHERE class_no = 1`); err != nil {
				return err
			}
			n, err := s.DropCiphertext(ctx, lease, some/2, tick)
			if err == nil && n != some/2 {
				err = fmt.Errorf("%d", n)
			}
			return err
		}},
	}
	for _, step := range steps {
		before := walks()
		if err := step.do(ctx); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if n := walks() - before; n > 0 {
			t.Errorf("%s walked through a table %d times", step.name, n)
		}
	}
}
