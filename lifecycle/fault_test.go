package lifecycle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/dir"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
	"github.com/lotkeeper/lotkeeper/shred/keystoretest"
)

// fault is what happens at the n-th call of Store, Vault or KeyStore.
type fault string

const (
	// failBefore: nothing is done, and the caller is told so. What it calls
	// next works again.
	failBefore fault = "before"
	// failAfter: it is done, and reported failed: the acknowledgement got lost.
	failAfter fault = "after, but reported failed"
	// dieBefore and dieAfter: the process ends; no later call does anything.
	dieBefore fault = "death before"
	dieAfter  fault = "death after"
)

// trap fires once: at call number at, or at the call named on. A sweep reads on
// while it finishes what it has read, so the order of its calls is not always
// the same; that a call is, say, the third of its method is.
type trap struct {
	at   int
	on   string // like "SoftDelete 3"
	kind fault

	mu    sync.Mutex
	calls []string // guarded by mu, as are the following
	count map[string]int
	fired string
	dead  bool
	// off: it is not counted yet, and nothing happens.
	off bool
	// act, if set, happens instead of a fault: what another process does just
	// before that call.
	act func()
}

var errDead = errors.New("the process is dead")

func (tr *trap) hook(method string) (before, after error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.off {
		return nil, nil
	}
	if tr.dead {
		return errDead, nil
	}
	if tr.count == nil {
		tr.count = map[string]int{}
	}
	tr.count[method]++
	call := fmt.Sprint(method, " ", tr.count[method])
	if tr.calls = append(tr.calls, call); len(tr.calls) != tr.at && call != tr.on {
		return nil, nil
	}
	tr.fired = call
	if tr.act != nil {
		tr.act()
		return nil, nil
	}
	tr.dead = tr.kind == dieBefore || tr.kind == dieAfter
	if tr.kind == failBefore || tr.kind == dieBefore {
		return storetest.ErrFault, nil
	}
	return nil, storetest.ErrFault
}

// storage opens the database that belongs to a directory, or makes it, with epoch
// 1, which is that of a new keyring.
type storage func(root string, create bool) (lifecycle.Store, error)

var firstLeaf = storetest.First(today)

func onSQLite(root string, create bool) (lifecycle.Store, error) {
	path := filepath.Join(root, "lotkeeper.db")
	if create {
		return sqlite.Create(context.Background(), path, 1, firstLeaf)
	}
	return sqlite.Open(context.Background(), path)
}

// onPostgreSQL makes databases by copying one.
func onPostgreSQL(t *testing.T) storage {
	t.Helper()
	template := pgtest.New(t)
	s, err := postgres.Create(t.Context(), postgres.Options{URL: template.URL()}, 1, firstLeaf)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	var mu sync.Mutex
	databases := map[string]*pgtest.Database{} // by directory
	return func(root string, create bool) (lifecycle.Store, error) {
		mu.Lock()
		defer mu.Unlock()
		if create {
			databases[root] = template.Clone(t)
		}
		return postgres.Open(context.Background(), postgres.Options{URL: databases[root].URL(), MaxConns: 4})
	}
}

// onDisk is a world whose every part is in one directory, so that it can be
// opened anew as the next process would, and searched for what must not be
// there.
func onDisk(t *testing.T, root string, now time.Time, tr *trap, create bool, open storage) *world {
	t.Helper()
	w := &world{t: t, dir: root, now: now}
	clock := func() time.Time { return w.now }
	vaults := []string{"one", "two"}
	openKeys, openVault := filekeys.Open, dir.Open
	if create {
		openKeys, openVault = filekeys.Create, dir.Create
	}
	keys, err := openKeys(filepath.Join(root, "keyring"), filekeys.Options{Mirrors: []string{filepath.Join(root, "mirror")}})
	if err != nil {
		t.Fatal(err)
	}
	if w.store, err = open(root, create); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close(); keys.Close() })
	w.Engine = &lifecycle.Engine{
		Store: &storetest.Faulty{Store: w.store, Fault: tr.hook}, Keys: &keystoretest.Faulty{KeyStore: keys, Fault: tr.hook},
		Now: clock, Log: zerolog.Nop(), Policy: lifecycle.DefaultPolicy(), Limits: lifecycle.DefaultLimits(), Actor: "tester", Software: "test",
		LogSigner: storetest.LogSigner(),
		Command: func(context.Context, lifecycle.Command) (int, error) {
			before, after := tr.hook("Command")
			return 0, errors.Join(before, after)
		},
	}
	for _, name := range vaults {
		if create {
			if err := w.store.AddVault(t.Context(), name, lifecycle.Leaf{At: now, Actor: "test", Action: lifecycle.ActionVaultAdded, Subject: name}); err != nil {
				t.Fatal(err)
			}
		}
		v, err := openVault(filepath.Join(root, "vault-"+name), name, dir.Options{Now: clock, Clock: func() (time.Time, error) { return w.now, nil }})
		if err != nil {
			t.Fatal(err)
		}
		w.Vaults = append(w.Vaults, &vaulttest.Faulty{Vault: v, Fault: tr.hook})
	}
	w.Limits.Identity = "x25519"
	w.Limits.SegmentRecords, w.Limits.LockRecords, w.Limits.BatchRecords = 3, 2, 4
	return w
}

// scenario is a life in which every step of the engine has work to do: two
// days of due records in two archive classes, one due record of a day that is
// not over, one that is not due, one held by a person, because of what its lot was
// made from, one by its sender.
func scenario(w *world) error {
	if err := scenarioUntilSweep(w); err != nil {
		return err
	}
	_, err := w.Sweep(context.Background(), lifecycle.SweepOptions{})
	return err
}

func scenarioUntilSweep(w *world) error {
	ctx := context.Background()
	day := func(s string) time.Time { return instant(w.t, s) }
	lines := []string{
		textbook,
		record("a-1", "LOT-A", day("2022-09-14T09:00:00Z")), record("a-2", "LOT-A", day("2022-09-14T10:00:00Z")),
		record("a-3", "LOT-A", day("2022-09-15T10:00:00Z")), from(record("a-4", "LOT-A", day("2022-09-15T11:00:00Z")), "LOT-X"),
		strings.Replace(record("b-1", "LOT-B", day("2024-02-01T10:00:00Z")), `"kde_payload"`, `"created_or_obtained_at":"2024-02-01T10:00:00Z","kde_payload"`, 1),
		from(record("held-1", "LOT-H", day("2022-09-14T12:00:00Z")), "LOT-O"),
		strings.Replace(record("held-2", "LOT-S", day("2022-09-15T12:00:00Z")), `}}`, `},"retention_hold":true}`, 1),
		record("today-1", "LOT-T", today.Add(-730*24*time.Hour)), record("young-1", "LOT-Y", today.Add(-time.Hour)),
	}
	if _, err := w.tryIngest(lines...); err != nil {
		return err
	}
	held, err := w.Store.Holds(ctx, true)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(held, func(h *lifecycle.Hold) bool { return h.Kind == lifecycle.Recall }) {
		if _, err := w.Place(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{traced("LOT-O", lifecycle.Forward)}}); err != nil {
			return err
		}
	}
	return nil
}

// caseScenario goes on after scenario, with cases about what is archived: one is open
// in the end, and one came, grew and went. A sweep brings the vaults in line.
func caseScenario(w *world) error {
	ctx := context.Background()
	open := func(kind lifecycle.HoldKind, reference string, scope lifecycle.Scope) (lifecycle.PlaceResult, error) {
		res, err := w.tryPlace(kind, reference, scope)
		var other *lifecycle.OtherCase
		if errors.As(err, &other) {
			return lifecycle.PlaceResult{HoldID: other.HoldID}, nil // it has grown already
		}
		if err != nil {
			return res, err
		}
		return res, w.Confirm(ctx, &res)
	}
	if _, err := open(lifecycle.FDAInquiry, "CASE-1", lifecycle.Scope{RecordID: "a-1"}); err != nil {
		return err
	}
	other, err := open(lifecycle.Litigation, "CASE-2", traced("LOT-X", lifecycle.Forward))
	if err != nil {
		return err
	}
	res, err := w.Extend(ctx, other.HoldID, []lifecycle.Scope{{TLC: "LOT-B"}, {Location: "FAC-001", To: instant(w.t, "2022-09-14T09:00:00Z")}})
	if err != nil {
		return err
	}
	if err := w.Confirm(ctx, &res); err != nil {
		return err
	}
	h, err := w.Store.Hold(ctx, other.HoldID)
	if err != nil {
		return err
	}
	if _, err := w.Describe(ctx, h, 3); err != nil {
		return err
	}
	if err := w.Release(ctx, other.HoldID, "case closed"); err != nil {
		return err
	}
	if _, err := w.ProjectHolds(ctx); err != nil {
		return err
	}
	w.now = w.now.Add(10*time.Minute + 1)
	_, err = w.Sweep(ctx, lifecycle.SweepOptions{})
	return err
}

// checkCases: a-1 is held in the archive, and of all legal holds only those of its
// segment are set, in every vault.
func checkCases(t *testing.T, w *world) {
	t.Helper()
	ctx := context.Background()
	checkDone(t, w, "a-1")
	r, err := w.Store.Row(ctx, "a-1")
	if err != nil {
		t.Fatal(err)
	}
	segments, err := w.Store.Segments(ctx, lifecycle.Verified, lifecycle.Settled)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range segments {
		for _, c := range g.Copies {
			i := slices.IndexFunc(w.Vaults, func(v archive.Vault) bool { return v.Name() == c.Vault })
			want := 0
			if g.ID == r.Segment {
				want = 2
			}
			if n := bitsOf(t, w.Vaults[i], g.ObjectKey, c.ObjectVersion, g.ManifestKey, c.ManifestVersion); n != want {
				t.Errorf("segment %s has %d legal holds in vault %s, want %d", g.ID, n, c.Vault, want)
			}
		}
	}
	legal, err := w.Store.LegalHolds(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range legal {
		if c.Segment != r.Segment || c.State != lifecycle.LegalSet {
			t.Errorf("left is %+v", c)
		}
	}
	if len(legal) != len(w.Vaults) {
		t.Errorf("%d legal holds are recorded", len(legal))
	}
}

// story is what is interrupted: do, after before, which is not. Done again by the next
// process it has to come to what check wants.
type story struct {
	before, do func(*world) error
	check      func(*testing.T, *world)
	// kept is what must be true wherever it was interrupted.
	kept func(t *testing.T, w *world, at string)
}

var (
	life  = story{func(*world) error { return nil }, scenario, func(t *testing.T, w *world) { checkDone(t, w) }, checkNothingLost}
	cases = story{scenario, caseScenario, checkCases, checkNothingLost}
	rules = story{rulesScenario, func(w *world) error { _, err := w.Sweep(context.Background(), lifecycle.SweepOptions{}); return err }, checkRules, checkHeldKept}
	moved = story{policyScenario, policyChange, checkRescheduled, checkNothingLost}
	end   = story{purgeScenario, func(w *world) error { _, err := w.Sweep(context.Background(), lifecycle.SweepOptions{}); return err }, checkPurged, checkHeldKept}
)

// policyScenario has records in the hot store and in the archive, of each one that is
// held, before their month in the archive is over.
func policyScenario(w *world) error {
	day := func(s string) time.Time { return instant(w.t, s) }
	if _, err := w.tryIngest(old("a", "LOT-A"), old("short", "LOT-S"), old("b", "LOT-A"), old("held-1", "LOT-H"),
		both("longer", "LOT-A", day("2024-12-20T10:00:00Z")), both("longer-held", "LOT-H", day("2024-12-20T10:00:00Z")), both("longer-2", "LOT-A", day("2024-12-21T10:00:00Z")),
		both("shorter", "LOT-S", day("2025-06-20T10:00:00Z")), both("shorter-2", "LOT-S", day("2025-06-21T10:00:00Z"))); err != nil {
		return err
	}
	w.sweep()
	res := w.place(lifecycle.Scope{TLC: "LOT-H"})
	if err := w.Confirm(context.Background(), &res); err != nil {
		return err
	}
	w.sweepUntil(instant(w.t, "2026-12-31T00:00:00Z"))
	w.now = instant(w.t, "2027-01-01T00:00:00Z")
	return nil
}

// policyChange applies another policy, of which only labels say whose rule is whose, on the day on which a month in the archive is over.
func policyChange(w *world) error {
	p := parsed(w.t, `
  - {name: organic, citation: c, match: '"organic" in labels', action: archive}
  - {name: short, citation: c, match: 'lot == "LOT-S"', hot: P1Y, archive: P2Y, action: archive_then_shred}
  - {name: long, citation: c, hot: P4Y, archive: P5Y, action: archive_then_shred}
`)
	if _, err := w.ApplyPolicy(context.Background(), p, "p.yaml", false); err != nil {
		return err
	}
	for {
		res, err := w.Sweep(context.Background(), lifecycle.SweepOptions{})
		// What a vault has refused, the next sweep does.
		if err != nil || res.SegmentsWaiting == 0 {
			return err
		}
	}
}

func checkRescheduled(t *testing.T, w *world) {
	t.Helper()
	for id, want := range map[string]struct {
		state lifecycle.State
		class string
	}{
		"a": {lifecycle.Archived, "archive-2031-09-1"}, "held-1": {lifecycle.Held, "archive-2031-09-1"}, "short": {lifecycle.Archived, "archive-2031-09-1"},
		"longer": {lifecycle.Archived, "archive-2033-12-1"}, "longer-held": {lifecycle.Held, "archive-2033-12-1"},
		"shorter": {lifecycle.Archived, "archive-2028-06-1"}, "shorter-2": {lifecycle.Archived, "archive-2028-06-1"},
	} {
		if v, r := w.view(id), w.row(id); v.State != want.state || r.ArchiveClass != want.class {
			t.Errorf("%s is %s, of %s, due at %s, want %+v", id, v.State, r.ArchiveClass, v.DueAt, want)
		}
	}
	checkNothingLost(t, w, "all")
	w.verify()
	w.verifyLog()
	if i, err := w.Store.Info(context.Background()); err != nil || !i.Following.Done || i.Following.Leaf == 0 {
		t.Errorf("following %+v, %v", i.Following, err)
	}
	for _, d := range w.reconcile().Findings {
		if d.Kind != lifecycle.DriftAbandoned {
			t.Errorf("what is left differs from what there should be: %+v", d)
		}
	}
}

// purgeScenario goes as far as the last instant of a month in the archive: five records
// of it, of which two are held there and one in the hot store.
func purgeScenario(w *world) error {
	if _, err := w.tryIngest(old("a", "LOT-A"), old("b", "LOT-A"), old("c", "LOT-A"), old("held-1", "LOT-H"), old("held-2", "LOT-H"), old("hot", "LOT-HOT")); err != nil {
		return err
	}
	w.place(lifecycle.Scope{TLC: "LOT-HOT"})
	w.sweep()
	res := w.place(lifecycle.Scope{TLC: "LOT-H"})
	if err := w.Confirm(context.Background(), &res); err != nil {
		return err
	}
	w.sweepUntil(instant(w.t, "2026-12-31T00:00:00Z"))
	w.now = instant(w.t, "2027-01-01T00:00:00Z")
	return nil
}

// rulesScenario is the same under a rule that asks for more before it destroys, and keeps
// a record hot whose lot is active.
func rulesScenario(w *world) error {
	w.apply(parsed(w.t, "  - {name: r, citation: c, hold_while_lot_active: true, before: [{aggregate: month_product_event_type}, {command: [x]}], action: archive_then_shred}\n"))
	if _, err := w.tryIngest(old("active", "LOT-ACTIVE"), record("young", "LOT-ACTIVE", today.Add(-time.Hour))); err != nil {
		return err
	}
	return purgeScenario(w)
}

// checkRules: what was purged is counted, each record once.
func checkRules(t *testing.T, w *world) {
	t.Helper()
	checkPurged(t, w)
	if got, err := w.Store.Aggregates(context.Background()); err != nil || !slices.Equal(got, []lifecycle.Aggregate{{Month: "2022-09", EventType: "shipping", Records: 3}}) {
		t.Errorf("counted are %+v, %v", got, err)
	}
	if v := w.view("active"); v.State != lifecycle.Active || !strings.HasPrefix(v.Class, "deferral-2027-01") {
		t.Errorf("active is %s in %s", v.State, v.Class)
	}
	w.read("active")
}

// checkHeldKept: what is held can be read, and what cannot be read is of a class that
// nothing keeps any more.
func checkHeldKept(t *testing.T, w *world, at string) {
	t.Helper()
	w.read("held-1", "held-2", "hot")
	classes, err := w.Store.Classes(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	state := map[string]lifecycle.ClassState{}
	for _, c := range classes {
		state[c.ID] = c.State
	}
	for _, id := range []string{"a", "b", "c"} {
		r, err := w.Store.Row(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Line(context.Background(), id, false); err != nil && state[r.ArchiveClass] != lifecycle.Executing && state[r.ArchiveClass] != lifecycle.Destroyed {
			t.Errorf("after %s, %s (%s) cannot be read, and its class is %s: %v", at, id, r.State, state[r.ArchiveClass], err)
		}
	}
}

func checkPurged(t *testing.T, w *world) {
	t.Helper()
	checkHeldKept(t, w, "all")
	w.unread("a", "b", "c")
	for _, id := range []string{"a", "b", "c"} {
		if v := w.view(id); v.State != lifecycle.Purged {
			t.Errorf("%s is %s", id, v.State)
		}
	}
	if left, err := w.Store.Undeleted(context.Background()); err != nil || len(left) > 0 {
		t.Errorf("left are %+v, %v", left, err)
	}
	w.verify()
	w.verifyLog()
	checkTrail(t, w)
}

// stride is how far apart the calls are that a test interrupts: it is each call, or
// with -short, as under the race detector, a sample.
func stride() int {
	if testing.Short() {
		return 20
	}
	return 1
}

// sample is stride, and leaves out all but one in n unless for make torture.
func sample(n int) int {
	if os.Getenv("LOTKEEPER_TORTURE") != "" {
		return stride()
	}
	return n * stride()
}

// TestFaultAtEveryCall interrupts the scenario at every call of Store, Vault
// and KeyStore in each way, opens everything anew, checks that nothing is lost,
// does the same again, and checks that all is as if nothing had happened.
func TestFaultAtEveryCall(t *testing.T) {
	faultAtEveryCall(t, sample(4), onSQLite, life)
}

// TestCaseFaultAtEveryCall is the same with holds on what is archived.
func TestCaseFaultAtEveryCall(t *testing.T) {
	faultAtEveryCall(t, sample(4), onSQLite, cases)
}

// TestFaultOnPostgreSQL is the same, with each call interrupted in one of the ways:
// a database costs more there.
func TestPurgeFaultAtEveryCall(t *testing.T) {
	faultAtEveryCall(t, sample(4), onSQLite, end)
}

// TestRulesFaultAtEveryCall is the same under a rule that asks for more before it
// destroys; what it has run is a call as well.
func TestRulesFaultAtEveryCall(t *testing.T) {
	faultAtEveryCall(t, sample(4), onSQLite, rules)
}

func TestRulesFaultOnPostgreSQL(t *testing.T) {
	faultAtEveryCall(t, 4*sample(4), onPostgreSQL(t), rules)
}

// TestRescheduleFaultAtEveryCall is the same with a policy that changes the schedules of
// what is there.
func TestRescheduleFaultAtEveryCall(t *testing.T) {
	faultAtEveryCall(t, sample(4), onSQLite, moved)
}

func TestRescheduleFaultOnPostgreSQL(t *testing.T) {
	faultAtEveryCall(t, 4*sample(4), onPostgreSQL(t), moved)
}

func TestFaultOnPostgreSQL(t *testing.T) {
	faultAtEveryCall(t, 2*sample(4), onPostgreSQL(t), life)
}

func TestCaseFaultOnPostgreSQL(t *testing.T) {
	faultAtEveryCall(t, 4*sample(4), onPostgreSQL(t), cases)
}

func faultAtEveryCall(t *testing.T, every int, open storage, s story) {
	run := func(t *testing.T, root string, tr *trap) (*world, error) {
		tr.off = true
		w := onDisk(t, root, today, tr, true, open)
		if err := s.before(w); err != nil {
			t.Fatal(err)
		}
		tr.off = false
		return w, s.do(w)
	}
	// How many calls there are is found by a run without a fault.
	tr := &trap{}
	w, err := run(t, tempDir(t), tr)
	if err != nil {
		t.Fatal(err)
	}
	calls := slices.Sorted(slices.Values(tr.calls))
	finished := tr.count["FinishRun"]
	s.check(t, w)
	t.Logf("%d calls, %d ways, one of %d", len(calls), 4, every)

	for i, kind := range []fault{failBefore, failAfter, dieBefore, dieAfter} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for n, call := range calls {
				if (n+i)%every != 0 {
					continue
				}
				t.Run(call, func(t *testing.T) {
					root := tempDir(t)
					tr := &trap{on: call, kind: kind}
					w, err := run(t, root, tr)
					if tr.fired == "" {
						t.Fatalf("%s never came", call)
					}
					// What comes after the last run's end is the publication of the log, which
					// the next run makes good.
					ended := tr.count["FinishRun"] == finished && call != fmt.Sprint("FinishRun ", finished)
					if err == nil && kind != failAfter && kind != failBefore && !ended {
						t.Fatalf("%s at %s: nobody noticed", kind, tr.fired)
					}
					if err != nil && !errors.Is(err, storetest.ErrFault) && !errors.Is(err, errDead) {
						t.Fatalf("%s at %s: another error: %v", kind, tr.fired, err)
					}
					w.store.Close()

					// The next process.
					w = onDisk(t, root, w.now.Add(10*time.Minute+1), &trap{}, false, open)
					s.kept(t, w, tr.fired)
					if err := s.do(w); err != nil {
						t.Fatalf("%s at %s: the next run: %v", kind, tr.fired, err)
					}
					s.check(t, w)
				})
			}
		})
	}
}

// checkNothingLost: whatever was accepted can be read, and no key was destroyed
// for a record without a verified copy.
func checkNothingLost(t *testing.T, w *world, at string) {
	t.Helper()
	ctx := context.Background()
	for r, err := range w.Store.Rows(ctx, lifecycle.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		f, err := w.Line(ctx, r.RecordID, false)
		if err != nil || !bytes.Contains(f.Line, []byte(r.RecordID)) {
			t.Fatalf("after %s, record %s (%s) cannot be read: %v", at, r.RecordID, r.State, err)
		}
	}
	noneTwice(t, w)
}

// noneTwice: at most one verified segment lists a record.
func noneTwice(t *testing.T, w *world) {
	t.Helper()
	ctx := context.Background()
	segments, err := w.Store.Segments(ctx, lifecycle.Verified, lifecycle.Settled)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]string{}
	for _, g := range segments {
		r, _, err := w.Vaults[0].Get(ctx, g.ManifestKey, "")
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
		m, err := archive.ParseManifest(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, en := range m.Entries {
			if in[en.RecordID] != "" {
				t.Fatalf("record %s is archived twice: in %s and %s", en.RecordID, in[en.RecordID], g.ID)
			}
			in[en.RecordID] = g.ID
		}
	}
}

// checkDone: all is as it is after an undisturbed run. Some archived records may be
// held in addition.
func checkDone(t *testing.T, w *world, held ...string) {
	t.Helper()
	ctx := context.Background()
	want := map[string]lifecycle.State{
		"cte-8842-a": lifecycle.Archived, "a-1": lifecycle.Archived, "a-2": lifecycle.Archived, "a-3": lifecycle.Archived, "a-4": lifecycle.Archived,
		"b-1": lifecycle.Archived, "held-1": lifecycle.Held, "held-2": lifecycle.Held, "today-1": lifecycle.Archived, "young-1": lifecycle.Active,
	}
	for id, state := range want {
		v := w.view(id)
		if slices.Contains(held, id) {
			state = lifecycle.Held
		}
		if v.State != state {
			t.Errorf("record %s is %s, not %s", id, v.State, state)
		}
		// Every day that is over has lost its key, also that of the held ones.
		wantClass := lifecycle.Destroyed
		if id == "today-1" || id == "young-1" || strings.HasPrefix(id, "held") {
			wantClass = lifecycle.Open
		}
		if v.ClassState != wantClass {
			t.Errorf("the class %s of record %s is %s, not %s", v.Class, id, v.ClassState, wantClass)
		}
		if len(v.History) == 0 || v.History[0].Action != lifecycle.ActionIngested {
			t.Errorf("record %s has no trace of its ingest: %+v", id, v.History)
		}
		if _, err := w.Line(ctx, id, false); err != nil {
			t.Errorf("record %s cannot be read: %v", id, err)
		}
		if held := len(v.Holds); strings.HasPrefix(id, "held") && held != 1 {
			t.Errorf("record %s has %d holds", id, held)
		}
	}
	classes, err := w.Store.Classes(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionShredded}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		if c.State == lifecycle.Condemned || c.State == lifecycle.Executing {
			t.Errorf("class %s was left %s", c.ID, c.State)
		}
		if c.State != lifecycle.Destroyed {
			continue
		}
		if !slices.ContainsFunc(leaves, func(l lifecycle.Leaf) bool { return bytes.Contains(l.Body, []byte(`"`+c.ID+`"`)) }) {
			t.Errorf("class %s was destroyed without a receipt", c.ID)
		}
		if c.IntentLeaf == 0 || c.DEKs != 0 {
			t.Errorf("class %s was destroyed with %d DEKs, intent leaf %d", c.ID, c.DEKs, c.IntentLeaf)
		}
	}
	noneTwice(t, w)
	w.verify()
	w.verifyLog()
	// Nothing is left but the objects of segments that were given up.
	for _, d := range w.reconcile().Findings {
		if d.Kind != lifecycle.DriftAbandoned {
			t.Errorf("what is left differs from what there should be: %+v", d)
		}
	}
	noPlaintext(t, w.dir)
}

// noPlaintext: no file anywhere has a KDE in it that is not an index column.
func noPlaintext(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte("very-secret")) {
			t.Errorf("%s has a KDE in plain text", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
