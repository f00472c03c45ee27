package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred"
)

// tick is a leaf that every role may write.
var tick = lifecycle.Leaf{At: storetest.Start, Action: "refused"}

// two opens a new database twice.
func two(t *testing.T, lease time.Duration) (a, b *Store, d *pgtest.Database) {
	t.Helper()
	d = pgtest.New(t)
	o := Options{URL: d.URL(), Lease: lease}
	a, err := Create(t.Context(), o, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if b, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b, d
}

func run(id string) lifecycle.Run {
	return lifecycle.Run{ID: id, Kind: "sweep", Actor: "test", StartedAt: storetest.Start, FinishedAt: storetest.Start, Status: "done"}
}

func hold(id string) lifecycle.Placement {
	return lifecycle.Placement{Hold: lifecycle.Hold{ID: id, Kind: lifecycle.Recall, PlacedAt: storetest.Start, Scopes: []lifecycle.Scope{{TLC: "L"}}}, Leaf: tick}
}

// record is a record of an event of 2022, its classes' ids with it.
func record(id string) lifecycle.Sealed {
	event := time.Date(2022, 9, 14, 8, 30, 0, 0, time.UTC)
	hot, archive := periods()
	return lifecycle.Sealed{Row: lifecycle.Row{RecordID: id, TLC: "L", EventTimestamp: event, CreatedOrObtainedAt: event, DueAt: event.AddDate(2, 0, 0), PurgeNotBefore: event,
		Class: hot.ID(1), ArchiveClass: archive.ID(1), State: lifecycle.Active}, Payload: []byte("payload"), WrappedDEK: []byte("dek")}
}

func periods() (hot, archive lifecycle.Period) {
	due := time.Date(2024, 9, 14, 8, 30, 0, 0, time.UTC)
	return lifecycle.HotPeriod(due), lifecycle.ArchivePeriod(due.AddDate(1, 0, 0))
}

func openBoth(t *testing.T, s *Store, n int) {
	t.Helper()
	hot, archive := periods()
	if err := s.OpenClasses(t.Context(), []lifecycle.Class{{ID: hot.ID(n), Period: hot, Generation: n}, {ID: archive.ID(1), Period: archive, Generation: 1}}, 0, tick); err != nil {
		t.Fatal(err)
	}
}

// begun is a transaction of another program.
func begun(t *testing.T, d *pgtest.Database, statements ...string) pgx.Tx {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := tx.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return tx
}

// TestLease: a run that lives is not taken over, however long it takes; one whose
// process has gone silent is, with the next fence, and what it does then is
// refused.
func TestLease(t *testing.T) {
	const term = 300 * time.Millisecond
	a, b, _ := two(t, term)
	old, err := a.BeginRun(t.Context(), run("run-1"), tick)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(4 * term); time.Now().Before(end); time.Sleep(term / 10) {
		if _, err := b.BeginRun(t.Context(), run("run-2"), tick); !errors.Is(err, lifecycle.ErrLocked) {
			t.Fatalf("taken over from a run that lives: %v", err)
		}
	}
	// Silent: its heart stops, and nothing is given back.
	a.leases["sweep"].stop()
	silent := time.Now()
	// What it does under the lease still counts, and is a sign of life.
	if err := a.fenced(t.Context(), shared, old, func(context.Context, *txn) error { return nil }); err != nil {
		t.Error(err)
	}
	var now lifecycle.Lease
	for {
		if now, err = b.BeginRun(t.Context(), run("run-2"), tick); err == nil {
			break
		}
		if !errors.Is(err, lifecycle.ErrLocked) || time.Since(silent) > 20*term {
			t.Fatal(err)
		}
		time.Sleep(term / 20)
	}
	if early := time.Since(silent); early < term*9/10 || now.Fence <= old.Fence {
		t.Errorf("taken over after %s of %s, fence %d after %d", early, term, now.Fence, old.Fence)
	}
	if err := a.fenced(t.Context(), shared, old, func(context.Context, *txn) error { return nil }); !errors.Is(err, lifecycle.ErrFenced) {
		t.Errorf("done under a lost lease: %v", err)
	}
	// Its heart beating again, for some reason, takes nothing back.
	a.beat(t.Context(), "sweep", old)
	if err := a.FinishRun(t.Context(), run("run-1"), tick); !errors.Is(err, lifecycle.ErrMoved) {
		t.Errorf("finished an interrupted run: %v", err)
	}
	if err := b.fenced(t.Context(), shared, now, func(context.Context, *txn) error { return nil }); err != nil {
		t.Errorf("the newer run: %v", err)
	}
}

// TestLeaseGivenBack: the end of a run and a renewal of its lease meet, and the next run
// may begin at once.
func TestLeaseGivenBack(t *testing.T) {
	a, b, d := two(t, 0)
	l, err := a.BeginRun(t.Context(), run("run-1"), tick)
	if err != nil {
		t.Fatal(err)
	}
	ending := begun(t, d, `UPDATE lotkeeper.leases SET expires_at = '-infinity' WHERE kind = 'sweep'`)
	renewed := make(chan bool)
	go func() {
		ok, err := a.renew(t.Context(), "sweep", l)
		renewed <- ok || err != nil
	}()
	waits(t, d, "Lock")
	if err := ending.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if <-renewed {
		t.Error("a lease that was given back while its renewal waited was renewed")
	}
	if _, err := b.BeginRun(t.Context(), run("run-2"), tick); err != nil {
		t.Error(err)
	}
}

// TestTakeoverWaits: a lease that has run out while a transaction is under way is
// taken over after its commit, not in between.
func TestTakeoverWaits(t *testing.T) {
	a, b, d := two(t, 0)
	lease, err := a.BeginRun(t.Context(), run("run-1"), tick)
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	if err := a.fenced(t.Context(), shared, lease, func(ctx context.Context, tx *txn) error {
		// As if its term had passed since.
		if _, err := tx.exec(ctx, `UPDATE lotkeeper.leases SET expires_at = '-infinity'`); err != nil {
			return err
		}
		go func() {
			_, err := b.BeginRun(t.Context(), run("run-2"), tick)
			taken <- err
		}()
		waits(t, d, "Lock")
		select {
		case err := <-taken:
			t.Errorf("taken over under a transaction: %v", err)
		default:
		}
		_, err := tx.appendLeaf(ctx, tick)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil {
		t.Error(err)
	}
}

// waits waits until somebody waits for a lock of the database.
func waits(t *testing.T, d *pgtest.Database, kind string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), d.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for range 1000 {
		var n int
		if err := conn.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = $1`, kind).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("nobody waits")
}

// TestNoConvoy: behind an exclusive transaction that waits for a long ingest, a
// hold and another ingest wait a moment, not as long as the ingest takes.
func TestNoConvoy(t *testing.T) {
	a, b, d := two(t, 0)
	openBoth(t, a, 1)
	ingest := begun(t, d, fmt.Sprintf(`SELECT pg_advisory_xact_lock_shared(%d)`, lockKey))
	destroyed := make(chan error, 1)
	go func() {
		destroyed <- a.write(t.Context(), exclusive, func(ctx context.Context, tx *txn) error {
			_, err := tx.appendLeaf(ctx, lifecycle.Leaf{At: storetest.Start, Action: "destroyed"})
			return err
		})
	}()
	waits(t, d, "Lock")
	inTime, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var longest time.Duration
	const n = 30
	for i := range n {
		start := time.Now()
		if err := b.Place(inTime, hold(fmt.Sprint("h-", i))); err != nil {
			t.Fatal(err)
		}
		if res, err := b.Merge(inTime, []lifecycle.Sealed{record(fmt.Sprint("r-", i))}, nil, tick); err != nil || res.Inserted != 1 {
			t.Fatal(res, err)
		}
		longest = max(longest, time.Since(start))
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case err := <-destroyed:
		t.Fatalf("destroyed beside an ingest: %v", err)
	default:
	}
	t.Logf("the longest of %d holds and merges took %s", n, longest)
	if longest > time.Second {
		t.Errorf("a hold and a merge waited %s", longest)
	}
	if err := ingest.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-destroyed; err != nil {
		t.Fatal(err)
	}
	// Its leaf is above all that were committed before it.
	ls, err := a.Leaves(t.Context(), lifecycle.LeafQuery{})
	if err != nil || ls[len(ls)-1].Action != "destroyed" {
		t.Errorf("the newest leaf is %+v, %v", ls[len(ls)-1], err)
	}
	// A context that is done ends the wait.
	again := begun(t, d, fmt.Sprintf(`SELECT pg_advisory_xact_lock_shared(%d)`, lockKey))
	defer again.Rollback(t.Context())
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := a.write(soon, exclusive, func(context.Context, *txn) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("gave up with %v", err)
	}
}

// TestMergeTogether: two merges that share ids, each in its own order.
func TestMergeTogether(t *testing.T) {
	a, b, _ := two(t, 0)
	openBoth(t, a, 1)
	for round := range 40 {
		const n = 20
		var forth, back []lifecycle.Sealed
		for i := range n {
			forth = append(forth, record(fmt.Sprintf("r-%d-%d", round, i)))
			back = append([]lifecycle.Sealed{record(fmt.Sprintf("r-%d-%d", round, i))}, back...)
		}
		forth, back = append(forth, record(fmt.Sprintf("forth-%d", round))), append(back, record(fmt.Sprintf("back-%d", round)))
		var wg sync.WaitGroup
		var res [2]lifecycle.MergeResult
		var errs [2]error
		for i, m := range []func() (lifecycle.MergeResult, error){
			func() (lifecycle.MergeResult, error) { return a.Merge(t.Context(), forth, nil, tick) },
			func() (lifecycle.MergeResult, error) { return b.Merge(t.Context(), back, nil, tick) },
		} {
			wg.Go(func() { res[i], errs[i] = m() })
		}
		wg.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		if res[0].Inserted+res[1].Inserted != n+1 || len(res[0].Exists)+len(res[1].Exists) != n {
			t.Errorf("round %d: %d and %d merged, %d and %d exist", round, res[0].Inserted, res[1].Inserted, len(res[0].Exists), len(res[1].Exists))
		}
	}
}

// TestDropMonth: the partition of a month goes when all in it is over, not while
// somebody reads, who keeps nobody waiting by it; and comes back with a late class.
func TestDropMonth(t *testing.T) {
	a, b, d := two(t, 0)
	openBoth(t, a, 1)
	r := record("r")
	if _, err := a.Merge(t.Context(), []lifecycle.Sealed{r}, nil, tick); err != nil {
		t.Fatal(err)
	}
	l, err := a.BeginRun(t.Context(), run("run-1"), tick)
	if err != nil {
		t.Fatal(err)
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	destroy := func(segment, class string, r lifecycle.Sealed) {
		t.Helper()
		ok(a.StageSegment(t.Context(), l, lifecycle.Segment{ID: segment, Class: r.ArchiveClass, WrappedIdentity: []byte{1}}, tick))
		ok(a.VerifySegment(t.Context(), l, segment, nil, tick))
		if done, err := a.SoftDelete(t.Context(), l, segment, storetest.Start, []lifecycle.Member{{RecordID: r.RecordID}}, tick); err != nil || done.Records != 1 {
			t.Fatal(done, err)
		}
		_, err := a.Condemn(t.Context(), l, storetest.Start, []string{class}, tick)
		ok(err)
		var ev []shred.Evidence
		if ev, err = a.Execute(t.Context(), l, storetest.Start, []string{class}, tick); err != nil || len(ev) != 1 {
			t.Fatal(ev, err)
		}
		ok(a.Destroyed(t.Context(), l, []string{class}, storetest.Start, 1, tick))
	}
	there := func() bool {
		t.Helper()
		n, err := one(t.Context(), a.pool, (*columns).int, `SELECT count(*) FROM pg_class WHERE relname = 'payloads_202409'`)
		ok(err)
		return n == 1
	}
	drop := func(want int) time.Duration {
		t.Helper()
		start := time.Now()
		n, err := a.DropCiphertext(t.Context(), l, 100, tick)
		if err != nil || n != want {
			t.Fatalf("dropped %d, %v, want %d", n, err, want)
		}
		return time.Since(start)
	}
	destroy("seg-1", r.Class, r)
	// Row by row while there is a reader, and then it is empty and still there.
	reader := begun(t, d, `SELECT FROM lotkeeper.payloads`)
	for _, want := range []int{1, 0} {
		if took := drop(want); took > 2*time.Second || !there() {
			t.Errorf("waited %s for a reader, the partition is there: %v", took, there())
		}
	}
	// Others pass meanwhile.
	openBoth(t, b, 2)
	late := record("late")
	late.Class = func() string { hot, _ := periods(); return hot.ID(2) }()
	if res, err := b.Merge(t.Context(), []lifecycle.Sealed{late}, nil, tick); err != nil || res.Inserted != 1 {
		t.Fatal(res, err)
	}
	ok(reader.Rollback(t.Context()))
	drop(0)
	if !there() {
		t.Fatal("dropped with an open class")
	}
	destroy("seg-2", late.Class, late)
	drop(1)
	drop(0)
	if there() {
		t.Error("not dropped when all was over")
	}
	if s, err := a.SealedRow(t.Context(), "late"); err != nil || s.Payload != nil {
		t.Errorf("%+v, %v", s, err)
	}
	openBoth(t, a, 3)
	last := record("last")
	last.Class = func() string { hot, _ := periods(); return hot.ID(3) }()
	if res, err := a.Merge(t.Context(), []lifecycle.Sealed{last}, nil, tick); err != nil || res.Inserted != 1 || !there() {
		t.Error(res, err)
	}
}

// TestDropWholeMonth: a month that is over goes at one go, with all that is in
// it; not if somebody can read of it, who keeps his own.
func TestDropWholeMonth(t *testing.T) {
	for _, held := range []bool{false, true} {
		a, _, _ := two(t, 0)
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		openBoth(t, a, 1)
		openBoth(t, a, 2)
		hot, archive := periods()
		var rs []lifecycle.Sealed
		for i := range 6 {
			r := record(fmt.Sprint("r-", i))
			r.Class = hot.ID(1 + i%2)
			rs = append(rs, r)
		}
		_, err := a.Merge(t.Context(), rs, nil, tick)
		ok(err)
		l, err := a.BeginRun(t.Context(), run("run-1"), tick)
		ok(err)
		gone := rs
		if held {
			gone = rs[1:]
			later := lifecycle.DeferralPeriod(storetest.Start)
			ok(a.OpenClasses(t.Context(), []lifecycle.Class{{ID: later.ID(1), Period: later, Generation: 1}}, 0, tick))
			kept, err := a.Row(t.Context(), "r-0")
			ok(err)
			_, err = a.Reseal(t.Context(), l, hot.ID(1), later.ID(1), map[int64][]byte{kept.Seq: []byte("resealed")}, tick)
			ok(err)
		}
		ok(a.StageSegment(t.Context(), l, lifecycle.Segment{ID: "seg-1", Class: archive.ID(1), WrappedIdentity: []byte{1}}, tick))
		ok(a.VerifySegment(t.Context(), l, "seg-1", nil, tick))
		var members []lifecycle.Member
		for _, r := range gone {
			members = append(members, lifecycle.Member{RecordID: r.RecordID})
		}
		done, err := a.SoftDelete(t.Context(), l, "seg-1", storetest.Start, members, tick)
		if err != nil || done.Records != len(gone) {
			t.Fatal(done, err)
		}
		classes := []string{hot.ID(1), hot.ID(2)}
		for i := range classes {
			// Not before the last class of it is destroyed.
			_, err = a.Condemn(t.Context(), l, storetest.Start, classes[i:i+1], tick)
			ok(err)
			_, err = a.Execute(t.Context(), l, storetest.Start, classes[i:i+1], tick)
			ok(err)
			if i == 0 {
				n, err := one(t.Context(), a.pool, (*columns).int, `SELECT coalesce(lotkeeper.drop_month(202409), -1)`)
				if err != nil || n != -1 {
					t.Fatal(n, err)
				}
			}
			ok(a.Destroyed(t.Context(), l, classes[i:i+1], storetest.Start, 1, tick))
		}
		if !held {
			// All at one go, whatever the limit.
			n, err := a.DropCiphertext(t.Context(), l, 2, tick)
			if err != nil || n != len(rs) {
				t.Fatalf("dropped %d, %v", n, err)
			}
		}
		for left := len(gone); held && left > 0; {
			n, err := a.DropCiphertext(t.Context(), l, 2, tick)
			if err != nil || n < 1 || n > 2 {
				t.Fatalf("dropped %d of %d, %v", n, left, err)
			}
			left -= n
		}
		if n, err := a.DropCiphertext(t.Context(), l, 2, tick); err != nil || n != 0 {
			t.Fatalf("dropped %d more, %v", n, err)
		}
		for i, r := range rs {
			if s, err := a.SealedRow(t.Context(), r.RecordID); err != nil || (s.Payload != nil) != (held && i == 0) {
				t.Errorf("held %v: %+v, %v", held, s, err)
			}
		}
	}
}

// TestConnectionLost: what is under way when the server ends a session fails, has
// no effect, and can be repeated.
func TestConnectionLost(t *testing.T) {
	a, b, _ := two(t, 0)
	openBoth(t, a, 1)
	for _, mode := range []lockMode{shared, exclusive} {
		err := a.write(t.Context(), mode, func(ctx context.Context, tx *txn) error {
			if _, err := tx.appendLeaf(ctx, lifecycle.Leaf{At: storetest.Start, Action: "lost"}); err != nil {
				return err
			}
			if _, err := b.pool.Exec(ctx, `SELECT pg_terminate_backend($1)`, int32(tx.Conn().PgConn().PID())); err != nil {
				return err
			}
			_, err := tx.appendLeaf(ctx, tick)
			return err
		})
		if err == nil {
			t.Error("committed on a connection that was ended")
		}
	}
	if ls, err := a.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{"lost"}}); err != nil || len(ls) > 0 {
		t.Errorf("%+v, %v", ls, err)
	}
	if err := a.Append(t.Context(), tick); err != nil {
		t.Error(err)
	}
	// Whoever is gone without a word keeps the lock for half a minute at most:
	// the server ends a transaction in which nothing comes.
	if err := a.write(t.Context(), exclusive, func(ctx context.Context, tx *txn) error {
		var timeout, level, commit string
		if err := tx.QueryRow(ctx, `SELECT current_setting('idle_in_transaction_session_timeout'), current_setting('transaction_isolation'), current_setting('synchronous_commit')`).Scan(&timeout, &level, &commit); err != nil {
			return err
		}
		if timeout != "30s" || level != "read committed" || commit != "on" {
			t.Error(timeout, level, commit)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestStoredTimes: what was edited is not read as another time, least of all as
// one long ago.
func TestStoredTimes(t *testing.T) {
	for _, good := range []time.Time{{}, time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(2024, 2, 29, 0, 0, 0, 1, time.UTC), storetest.Start} {
		if got, err := parseStamp([]byte(stamp(good))); err != nil || !got.Equal(good) || got.Location() != time.UTC {
			t.Errorf("%s reads as %s, %v", stamp(good), got, err)
		}
	}
	for _, text := range []string{
		"", "0", " ", "2022-09-14T08:30:00Z", "2022-09-14T08:30:00.00000000Z", "2022-09-14T08:30:00.0000000000Z", "2022-09-14T08:30:00,000000000Z",
		"2022-09-14T8:30:00.0000000000Z", "2022-09-14T8:30:00.000000000Z", "2022-09-14 08:30:00.000000000Z", "2022-09-14T08:30:00.000000000z",
		"2022-09-31T08:30:00.000000000Z", "2022-13-14T08:30:00.000000000Z", "2022-00-14T08:30:00.000000000Z", "2022-09-00T08:30:00.000000000Z", "2023-02-29T08:30:00.000000000Z",
		"2022-09-14T24:00:00.000000000Z", "2022-09-14T08:60:00.000000000Z", "2022-09-14T08:30:60.000000000Z", "0000-09-14T08:30:00.000000000Z",
		"02022-09-14T08:30:00.00000000Z", "-022-09-14T08:30:00.000000000Z", "2022-09-14T08:30:00.00000+00:00", "2022-09-14T08:30:00.00000000٣",
	} {
		if got, err := parseStamp([]byte(text)); err == nil {
			t.Errorf("%q reads as %s", text, got)
		}
	}
}

// TestNothingIsLeft: no connection of a sequence that was broken off, however it
// was, nor of a transaction that failed.
func TestNothingIsLeft(t *testing.T) {
	s, _, _ := two(t, 0)
	openBoth(t, s, 1)
	if _, err := s.Merge(t.Context(), []lifecycle.Sealed{record("a"), record("b")}, nil, tick); err != nil {
		t.Fatal(err)
	}
	idle := func(after string) {
		t.Helper()
		for range 100 { // one that was broken is closed behind the caller's back
			if s.pool.Stat().AcquiredConns() == 0 {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("after %s %d connections are in use", after, s.pool.Stat().AcquiredConns())
	}
	for name, seq := range map[string]func(context.Context) func(func() bool){
		"Rows":   func(ctx context.Context) func(func() bool) { return each2(s.Rows(ctx, lifecycle.Query{})) },
		"Sealed": func(ctx context.Context) func(func() bool) { return each2(s.Sealed(ctx, lifecycle.Query{})) },
		"LeafRows": func(ctx context.Context) func(func() bool) {
			r, err := s.Row(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			return each2(s.LeafRows(ctx, r.IngestLeaf))
		},
	} {
		for range seq(t.Context()) {
			break
		}
		idle("breaking off " + name)
		ctx, cancel := context.WithCancel(t.Context())
		for range seq(ctx) {
			cancel() // and left at once, with nothing more to be told
			break
		}
		cancel()
		idle("breaking off " + name + " with a context that is done")
		func() {
			defer func() { _ = recover() }()
			for range seq(t.Context()) {
				panic("the loop's body")
			}
		}()
		idle("a panic in a loop over " + name)
	}
	fault := errors.New("a fault")
	for _, mode := range []lockMode{shared, exclusive} {
		if err := s.write(t.Context(), mode, func(ctx context.Context, tx *txn) error {
			if _, err := tx.appendLeaf(ctx, lifecycle.Leaf{At: storetest.Start, Action: "fault"}); err != nil {
				t.Error(err)
			}
			return fault
		}); err != fault {
			t.Errorf("%v, want the fault and nothing about the rollback", err)
		}
		idle("a fault")
		// Cancelled once it has the lock, it is done, and says so.
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.write(ctx, mode, func(ctx context.Context, tx *txn) error {
			cancel()
			_, err := tx.appendLeaf(ctx, tick)
			return err
		}); err != nil {
			t.Error(err)
		}
		idle("a context that ended within")
	}
	ls, err := s.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{"fault", tick.Action}})
	if err != nil || len(ls) != 4 {
		t.Errorf("%d leaves, %v", len(ls), err)
	}
}

// each2 is a sequence of which only the steps matter.
func each2[T any](seq iter.Seq2[T, error]) func(func() bool) {
	return func(yield func() bool) {
		for range seq {
			if !yield() {
				return
			}
		}
	}
}
