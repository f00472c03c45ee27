package lifecycle_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred"
)

// backup copies a database that is in use. What it returns opens the copy in place of it.
type backup func(w *world) (restore func())

// put has the world go on with another database.
func (w *world) put(s lifecycle.Store, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	w.store = s
	if f, ok := w.Store.(*storetest.Faulty); ok {
		f.Store = s
	} else {
		w.Store = s
	}
}

func backupSQLite(w *world) func() {
	w.t.Helper()
	path := filepath.Join(w.dir, "lotkeeper.db")
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`VACUUM INTO ?`, path+".backup"); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		w.t.Helper()
		b, err := os.ReadFile(path + ".backup")
		if err := errors.Join(err, w.store.Close()); err != nil {
			w.t.Fatal(err)
		}
		for _, suffix := range []string{"-wal", "-shm"} {
			os.Remove(path + suffix)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			w.t.Fatal(err)
		}
		w.put(sqlite.Open(context.Background(), path))
	}
}

// backupPostgreSQL copies as a template does, for which nobody may be connected.
func backupPostgreSQL(d *pgtest.Database) backup {
	return func(w *world) func() {
		w.t.Helper()
		if err := w.store.Close(); err != nil {
			w.t.Fatal(err)
		}
		copied := d.Clone(w.t)
		w.put(postgres.Open(context.Background(), postgres.Options{URL: d.URL()}))
		return func() {
			w.t.Helper()
			if err := w.store.Close(); err != nil {
				w.t.Fatal(err)
			}
			w.put(postgres.Open(context.Background(), postgres.Options{URL: copied.URL()}))
		}
	}
}

// known is what a database is compared by after a recovery.
type known struct {
	holds    []*lifecycle.Hold
	classes  map[string]lifecycle.Class
	segments []lifecycle.Segment
	vaults   []lifecycle.VaultRow
	legal    []lifecycle.HeldCopy
	archived []string
	policies []string
}

func (w *world) known() (s known) {
	w.t.Helper()
	ctx := context.Background()
	var err error
	fail := func() {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	s.holds, err = w.Store.Holds(ctx, false)
	fail()
	classes, err := w.Store.Classes(ctx, false)
	fail()
	s.classes = map[string]lifecycle.Class{}
	for _, c := range classes {
		c.IntentLeaf = 0 // its number is another here
		s.classes[c.ID] = c
	}
	s.segments, err = w.Store.Segments(ctx)
	fail()
	for i := range s.segments {
		g := &s.segments[i]
		if g.State == lifecycle.PurgedSegment && !slices.ContainsFunc(g.Copies, func(c lifecycle.Copy) bool { return c.DeletedAt.IsZero() }) {
			// The manifest is deleted that had this.
			g.ObjectSize, g.ManifestSize, g.PlaintextSHA256, g.WrappedIdentity, g.RetainUntil, g.CreatedAt = 0, 0, [32]byte{}, nil, time.Time{}, time.Time{}
		}
	}
	s.vaults, err = w.Store.Vaults(ctx)
	fail()
	s.legal, err = w.Store.LegalHolds(ctx)
	fail()
	s.archived = w.export(lifecycle.Query{State: lifecycle.Archived})
	slices.Sort(s.archived)
	history, err := w.PolicyHistory(ctx)
	fail()
	for _, v := range history {
		s.policies = append(s.policies, v.Name+" "+v.Hash)
	}
	return s
}

func (w *world) wantKnown(want known) {
	w.t.Helper()
	got := w.known()
	a, b := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range a.NumField() {
		if fmt.Sprintf("%+v", deref(a.Field(i))) != fmt.Sprintf("%+v", deref(b.Field(i))) {
			w.t.Errorf("%s are\n%+v, want\n%+v", a.Type().Field(i).Name, deref(a.Field(i)), deref(b.Field(i)))
		}
	}
}

// deref shows holds, not where they are.
func deref(v reflect.Value) any {
	if v.Type() != reflect.TypeFor[[]*lifecycle.Hold]() {
		return v
	}
	var out []reflect.Value
	for i := range v.Len() {
		out = append(out, v.Index(i).Elem())
	}
	return out
}

// losses lists what a recovery could not bring back, in order.
func losses(r lifecycle.LogRecovery) (out []string) {
	for _, l := range r.Losses {
		out = append(out, l.Kind+" "+l.Subject)
	}
	slices.Sort(out)
	return out
}

// beforeBackup and afterBackup are a life in which each kind of entry comes up.
func (w *world) beforeBackup() {
	w.t.Helper()
	w.Limits.SegmentRecords, w.Limits.LockRecords, w.Limits.BatchRecords = 5, 2, 4
	day := func(n int) time.Time { return instant(w.t, "2022-09-14T08:30:00Z").AddDate(0, 0, n) }
	var in []string
	// Not in the order of their due times, which is that of the manifests.
	for i := range 9 {
		in = append(in, record(fmt.Sprint("old-", i), fmt.Sprint("LOT-", i), day((i*7)%9)))
	}
	in = append(in, from(record("made", "LOT-MADE", day(3)), "LOT-1"), record("held", "LOT-HELD", day(4)), record("also-held", "LOT-HELD", day(5)), record("young", "LOT-YOUNG", w.now))
	w.ingest(in...)
	for kind, scopes := range map[lifecycle.HoldKind][]lifecycle.Scope{lifecycle.Recall: {{TLC: "LOT-HELD"}}, lifecycle.Litigation: {{RecordID: "old-2"}}} {
		res, err := w.tryPlace(kind, "BEFORE", scopes...)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := w.Confirm(context.Background(), &res); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) afterBackup() {
	w.t.Helper()
	ctx := context.Background()
	day := func(n int) time.Time { return instant(w.t, "2022-09-14T09:30:00Z").AddDate(0, 0, n) }
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	place := func(kind lifecycle.HoldKind, reference string, scopes ...lifecycle.Scope) string {
		w.t.Helper()
		res, err := w.tryPlace(kind, reference, scopes...)
		must(err)
		must(w.Confirm(ctx, &res))
		return res.HoldID
	}
	w.apply(parsed(w.t, "  - {name: r, citation: c, action: archive_then_shred}\n"))
	open, err := w.Store.Holds(ctx, true)
	must(err)
	for _, h := range open {
		if h.Kind == lifecycle.Litigation {
			w.release(h.ID)
		}
	}
	w.ingest(record("late-0", "LOT-LATE", day(2)), from(record("late-1", "LOT-LATE", day(1)), "LOT-MADE"), from(record("late-2", "LOT-END", day(1)), "LOT-LATE"),
		record("new", "LOT-NEW", w.now), strings.Replace(record("asks", "LOT-NEW", w.now), `}}`, `},"retention_hold":true}`, 1))
	if len(w.Vaults) == 1 {
		w.addVault("second")
		w.now = w.now.Add(time.Hour)
		if _, err := w.SyncVault(ctx, "second"); err != nil {
			w.t.Fatal(err)
		}
	}
	w.sweep()
	place(lifecycle.Recall, "RECORD", lifecycle.Scope{RecordID: "old-0"})
	h := place(lifecycle.Recall, "TRACED", traced("LOT-1", lifecycle.Both))
	place(lifecycle.FDAInquiry, "PLACE", lifecycle.Scope{Location: "FAC-001", From: day(0), To: day(1)}, lifecycle.Scope{TLCPrefix: "LOT-L", EventType: cte.Shipping})
	over := place(lifecycle.InspectionFreeze, "OVER", lifecycle.Scope{All: true})
	if _, err := w.Extend(ctx, h, []lifecycle.Scope{{TLC: "LOT-0", Trace: lifecycle.Forward}, {Product: "PC"}}); err != nil {
		w.t.Fatal(err)
	}
	w.release(over)
	w.ingest(record("last", "LOT-8", day(8)))
	w.now = w.now.Add(time.Hour)
	w.sweep()
	_, err = w.Publish(ctx)
	must(err)
}

func TestRecoverLog(t *testing.T) {
	w, ring := keyringWorld(t)
	recoverLog(t, w, ring, backupSQLite)
}

func TestRecoverLogOnPostgreSQL(t *testing.T) {
	d := pgtest.New(t)
	store, err := postgres.Create(context.Background(), postgres.Options{URL: d.URL()}, 0, firstLeaf)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, tempDir(t), store)
	recoverLog(t, w, w.newKeyring(), backupPostgreSQL(d))
}

// recoverLog puts a backup from before two sweeps back, with holds placed and released,
// a vault added, and records taken in since.
func recoverLog(t *testing.T, w *world, ring string, take backup) {
	ctx := context.Background()
	w.beforeBackup()
	restore := take(w)
	older := ring + ".older"
	copyTree(t, older, ring)
	w.afterBackup()
	want := w.known()
	w.verify()
	w.verifyLog()

	restore()
	for name, err := range map[string]error{
		"sweep":   second(w.Sweep(ctx, lifecycle.SweepOptions{})),
		"ingest":  second(w.tryIngest(record("x", "L", w.now))),
		"keyring": second(w.RecoverKeyring(ctx)),
	} {
		if !isRefused(err, "log") {
			t.Errorf("%s of a database that was restored: %v", name, err)
		}
	}
	before := leafCount(t, w)
	dry, err := w.RecoverLog(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	if leafCount(t, w) != before {
		t.Fatal("a dry run left a trace")
	}
	res, err := w.RecoverLog(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	w.wantKnown(want)
	w.verifyLog()
	if got := losses(res); len(got) != 4 || !strings.HasPrefix(got[1], "ingest ") || !slices.Equal(got[2:], []string{"key also-held", "key held"}) {
		t.Errorf("lost are %q", got)
	}
	if res.LostRecords != 2 || res.Rebuilt != 4 || res.HoldsPlaced != 5 || res.HoldsExtended != 1 || res.HoldsReleased != 2 || res.Behind != 0 || res.Replayed != res.Size-res.Common {
		t.Errorf("%+v", res)
	}
	dry.DryRun, dry.RunID, dry.Log = false, res.RunID, res.Log
	if !reflect.DeepEqual(dry, res) {
		t.Errorf("a dry run said\n%+v, it came to\n%+v", dry, res)
	}
	if again, err := w.RecoverLog(ctx, false); err != nil || again.Replayed > 0 || again.RunID != "" {
		t.Errorf("again: %+v, %v", again, err)
	}
	w.noneOpens(t)

	// Life goes on: what was lost is taken in again, and only that.
	in := w.ingest(record("late-0", "LOT-LATE", instant(t, "2022-09-16T09:30:00Z")), record("new", "LOT-NEW", today), record("asks", "LOT-NEW", today))
	if in.Accepted != 2 || in.Duplicates != 1 {
		t.Errorf("ingested again: %+v", in)
	}
	w.sweep()
	w.verifyLog()

	// An older keyring beside it: refused, until its keys are destroyed again. It is the
	// last that opens what had been moved on.
	w.putBack(ring, older)
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !isRefused(err, "keyring") {
		t.Errorf("an older keyring: %v", err)
	}
	again, err := w.RecoverKeyring(ctx)
	if err != nil || again.Resealed != 2 || len(again.DestroyedAgain) == 0 {
		t.Fatalf("%+v, %v", again, err)
	}
	for _, id := range []string{"held", "also-held"} {
		if _, err := w.HotLine(ctx, id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	w.noneOpens(t)
	status, err := w.Keys.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	classes, err := w.Store.Classes(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		if _, live := slices.BinarySearch(status.Live, c.ID); live && c.State == lifecycle.Destroyed {
			t.Errorf("the key of %s lives", c.ID)
		}
	}
	w.verifyLog()
}

func second[T any](_ T, err error) error { return err }

// noneOpens: no record of a destroyed class can be read from the hot store.
func (w *world) noneOpens(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	classes, err := w.Store.Classes(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	gone := map[string]bool{}
	for _, c := range classes {
		gone[c.ID] = c.State == lifecycle.Destroyed
	}
	n := 0
	for r, err := range w.Store.Rows(ctx, lifecycle.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if !gone[r.Class] {
			continue
		}
		n++
		if _, err := w.HotLine(ctx, r.RecordID); !errors.Is(err, shred.ErrDestroyed) {
			t.Errorf("record %s of %s: %v", r.RecordID, r.Class, err)
		}
	}
	if n == 0 {
		t.Error("nothing was destroyed")
	}
}

// A database that has gone on for itself, while no vault could be asked, with the keyring
// of its day: what it has comes after what is published, and nothing of either is lost
// that one of them had.
func TestRecoverForked(t *testing.T) {
	ctx := context.Background()
	w, ring := keyringWorld(t)
	w.beforeBackup()
	restore := backupSQLite(w)
	older := ring + ".older"
	copyTree(t, older, ring)
	w.afterBackup()
	want := w.known()

	restore()
	w.putBack(ring, older)
	vaults := w.Vaults
	w.Vaults = []archive.Vault{archive.NewAbsent("main", errors.New("away"))}
	w.ingest(record("fork", "LOT-FORK", today), record("late-0", "LOT-OTHER", instant(t, "2022-09-16T09:30:00Z")))
	fork := w.export(lifecycle.Query{RecordIDs: []string{"fork", "late-0"}})
	mine, err := w.tryPlace(lifecycle.Recall, "TRACED", lifecycle.Scope{TLC: "LOT-FORK"})
	if err != nil {
		t.Fatal(err)
	}
	free, err := w.tryPlace(lifecycle.InspectionFreeze, "OVER", lifecycle.Scope{TLC: "LOT-FREE"})
	if err != nil {
		t.Fatal(err)
	}
	w.Vaults = vaults

	// It may not be published, and nothing of it is.
	objects := w.objects()
	if _, err := w.Publish(ctx); !isRefused(err, "log") {
		t.Errorf("a fork was published: %v", err)
	}
	if w.objects() != objects {
		t.Error("something of a fork is in a vault")
	}
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !isRefused(err, "log") {
		t.Errorf("a fork sweeps: %v", err)
	}
	res, err := w.RecoverLog(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	if res.Behind == 0 || len(res.DestroyAgain) == 0 {
		t.Errorf("%+v", res)
	}
	if got := losses(res); !slices.Contains(got, "conflict late-0") || slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "key") }) {
		t.Errorf("lost are %q", got)
	}
	if _, err := w.RecoverKeyring(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.export(lifecycle.Query{RecordIDs: []string{"fork", "late-0"}}); !slices.Equal(got, fork) {
		t.Errorf("of the fork are\n%q, want\n%q", got, fork)
	}
	w.noneOpens(t)

	// Holds: the published ones as they were; those of the fork still cover what they did.
	now := w.known()
	have := map[string]*lifecycle.Hold{}
	for _, h := range now.holds {
		have[h.ID] = h
	}
	for _, h := range want.holds {
		got := *have[h.ID]
		if h.Reference == "TRACED" {
			if !slices.Contains(got.Scopes, lifecycle.Scope{TLC: "LOT-FORK"}) {
				t.Errorf("the scopes of the hold that was set aside are gone: %+v", got)
			}
			got.Scopes = h.Scopes
		}
		if !reflect.DeepEqual(got, *h) {
			t.Errorf("hold %s is\n%+v, want\n%+v", h.ID, got, *h)
		}
	}
	covers := func(lot string) bool {
		set, err := w.HoldSet(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(set.Covering(&lifecycle.Row{RecordID: "any", TLC: lot})) > 0
	}
	for _, lot := range []string{"LOT-FORK", "LOT-FREE"} {
		if !covers(lot) {
			t.Errorf("%s is not held any more", lot)
		}
	}
	if have[mine.HoldID].Open() || have[free.HoldID] == nil {
		t.Errorf("%+v %+v", have[mine.HoldID], have[free.HoldID])
	}
	w.ingest(record("more", "LOT-MORE", today))
	w.sweep()
	report, err := w.VerifyLog(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.Kind != lifecycle.LogRecord { // the conflict
			t.Errorf("%+v", f)
		}
	}
}

// objects lists every version in every vault.
func (w *world) objects() string {
	w.t.Helper()
	var out []string
	for _, v := range w.Vaults {
		for o, err := range v.Versions(context.Background(), "") {
			if err != nil {
				w.t.Fatal(err)
			}
			out = append(out, v.Name()+" "+o.Key+" "+o.VersionID)
		}
	}
	return strings.Join(out, "\n")
}

// TestRecoverFromVault makes a database anew, from what lies in the vaults alone.
func TestRecoverFromVault(t *testing.T) {
	w, _ := keyringWorld(t)
	recoverFromVault(t, w, func(first lifecycle.Leaf) (lifecycle.Store, error) {
		return sqlite.Restore(context.Background(), filepath.Join(tempDir(t), "lotkeeper.db"), first)
	})
}

func TestRecoverFromVaultOnPostgreSQL(t *testing.T) {
	w, _ := keyringWorld(t)
	d := pgtest.New(t)
	recoverFromVault(t, w, func(first lifecycle.Leaf) (lifecycle.Store, error) {
		return postgres.Restore(context.Background(), postgres.Options{URL: d.URL()}, first)
	})
}

func recoverFromVault(t *testing.T, w *world, restore func(lifecycle.Leaf) (lifecycle.Store, error)) {
	ctx := context.Background()
	w.beforeBackup()
	w.afterBackup()
	want := w.known()
	verifier, err := note.NewVerifier(storetest.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	w.Store = nil // nothing is asked of it
	first, err := w.FirstLeaf(ctx, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	w.put(restore(first))
	res, err := w.RecoverLog(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	w.wantKnown(want)
	w.verifyLog()
	w.verify()
	// Those that were only hot are lost: held, also-held, young, new, asks; and traces find
	// their way through the others.
	if res.LostRecords != 5 || res.Common != 1 || res.Rebuilt != int64(len(want.archived)) {
		t.Errorf("%+v", res)
	}
	for _, l := range res.Losses {
		if l.Kind != lifecycle.LostIngest {
			t.Errorf("%+v", l)
		}
	}
	chain, err := w.Trace(ctx, cte.Lot{TLC: "LOT-1"}, lifecycle.Forward)
	if err != nil || len(chain.Lots) != 4 {
		t.Errorf("%+v, %v", chain, err)
	}
	w.ingest(record("more", "LOT-MORE", today))
	w.sweep()
	w.verifyLog()
	if again, err := w.RecoverLog(ctx, false); err != nil || again.RunID != "" {
		t.Errorf("%+v, %v", again, err)
	}
}

// A vault that does not answer, or has another history, is not passed over.
func TestRecoverLogAsksAll(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(textbook)
	restore := backupSQLite(w)
	w.ingest(record("more", "L", today))
	restore()
	main := w.Vaults[0]
	w.Vaults = append(w.Vaults, archive.NewAbsent("gone", errors.New("away")))
	if _, err := w.RecoverLog(ctx, false); !isRefused(err, "vault") {
		t.Errorf("a vault is away: %v", err)
	}
	// Another database has gone on, and was published elsewhere.
	w.Vaults = w.Vaults[:1]
	other := memvault.New("other", w.Engine.Now)
	w.Vaults = []archive.Vault{other}
	if err := w.AddVault(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	w.ingest(record("else", "L", today))
	w.Vaults = []archive.Vault{main, other}
	if _, err := w.RecoverLog(ctx, true); !isRefused(err, "log") {
		t.Errorf("two histories: %v", err)
	}
}

// The databases and keyrings that a recovery of an archive's end is tried on.
func onBoth(t *testing.T, try func(t *testing.T, w *world, take backup)) {
	t.Run("sqlite", func(t *testing.T) {
		w, _ := keyringWorld(t)
		try(t, w, backupSQLite)
	})
	t.Run("postgres", func(t *testing.T) {
		d := pgtest.New(t)
		store, err := postgres.Create(t.Context(), postgres.Options{URL: d.URL()}, 0, firstLeaf)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorldOn(t, tempDir(t), store)
		w.newKeyring()
		try(t, w, backupPostgreSQL(d))
	})
}

// end is what is left to tell of the end of archive classes: each record's place and
// steps, and what is certified.
func (w *world) end() (out []string) {
	w.t.Helper()
	ctx := context.Background()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for r, err := range w.Store.Rows(ctx, lifecycle.Query{}) {
		must(err)
		e, err := w.Store.Existing(ctx, []string{r.RecordID})
		must(err)
		steps := strings.Fields(actions(w.view(r.RecordID)))
		if strings.HasPrefix(r.RecordID, "hot") {
			// Its key was moved to other hot classes, which of them is not in the log.
			r.Class = ""
			steps = slices.DeleteFunc(steps, func(s string) bool { return strings.HasPrefix(s, "resealed:") || strings.HasPrefix(s, "shredded:") })
		}
		out = append(out, fmt.Sprintf("%s %s of %s, in %s of %s, content %s: %s", r.RecordID, r.State, r.Class, r.Segment, r.ArchiveClass, e[r.RecordID].ContentClass, steps))
	}
	slices.Sort(out)
	classes, err := w.Store.Classes(ctx, false)
	must(err)
	for _, c := range classes {
		if c.State != lifecycle.Destroyed {
			continue
		}
		r, err := w.Receipt(ctx, c.ID)
		must(err)
		if !c.Period.Kind.OfSegments() { // see above; and known exports
			r.Media, r.NotCovered, r.Disclosures = lifecycle.ReceiptMedia{}, nil, nil
		}
		b, err := json.Marshal([]any{r.ReceiptSummary, r.Media, r.Person, r.Sanitization, r.Disclosures, r.NotCovered})
		must(err)
		out = append(out, string(b))
		for _, s := range r.Steps {
			out = append(out, fmt.Sprintln(s.Action, s.Index, s.Size, s.Entry != nil))
		}
	}
	left, err := w.Store.Undeleted(ctx)
	must(err)
	for _, g := range left {
		out = append(out, "undeleted "+g.ID)
	}
	issued, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionReceipt}})
	must(err)
	for _, l := range issued {
		out = append(out, "issued "+string(l.Body))
	}
	return out
}

func (w *world) wantEnd(want []string) {
	w.t.Helper()
	got := w.end()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			w.t.Errorf("missing %s", want[i])
		case i >= len(want) || got[i] != want[i]:
			w.t.Errorf("got  %s\nwant %s", got[i], append(want, "nothing more")[min(i, len(want))])
		}
	}
}

// A database is put back that knows of no end: what was held then is archived anew
// since, everything else of its class purged.
func TestRecoverRearchived(t *testing.T) { onBoth(t, recoverRearchived) }

func recoverRearchived(t *testing.T, w *world, take backup) {
	w.Limits.LockRecords = 2
	w.ingest(old("a", "LOT-A"), old("b", "LOT-B"), old("c", "LOT-C"), old("held-1", "LOT-H"), old("held-2", "LOT-H"), old("held-3", "LOT-H"))
	w.sweepUntil(instant(t, "2026-12-31T00:00:00Z"))
	restore := take(w)
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	if got := w.sweepUntil(instant(t, "2027-01-01T00:00:00Z")); got.Purged != 3 || got.Rearchived != 3 || got.ObjectsDeleted == 0 {
		t.Fatalf("%+v", got)
	}
	want, end := w.known(), w.end()

	restore()
	res, err := w.RecoverLog(context.Background(), false)
	if err != nil || len(res.Losses) > 0 || res.Rearchived != 3 || res.Purged != 3 {
		t.Fatalf("%+v, %v", res, err)
	}
	w.wantKnown(want)
	w.wantEnd(end)
	if got := w.sweep(); got.Purged+got.Rearchived+got.PurgedClasses != 0 {
		t.Errorf("after it a sweep does again: %+v", got)
	}
	for id, want := range map[string]lifecycle.State{"a": lifecycle.Purged, "b": lifecycle.Purged, "c": lifecycle.Purged, "held-1": lifecycle.Held, "held-3": lifecycle.Held} {
		if v := w.view(id); v.State != want {
			t.Errorf("%s is %s, want %s", id, v.State, want)
		}
	}
	w.read("held-1", "held-2", "held-3")
	w.unread("a", "b", "c")
	w.verify()
	w.verifyLog()
	checkTrail(t, w)
}

// What a database has taken in for itself, into a class that has ended meanwhile, goes to
// a later one.
func TestRecoverForkedFromAnEndedClass(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world, take backup) {
		ctx := context.Background()
		w.ingest(old("a", "LOT-A"))
		w.sweep()
		restore := take(w)
		ring := filepath.Join(w.dir, "ring")
		older := ring + ".older"
		copyTree(t, older, ring)
		w.sweepUntil(instant(t, "2027-01-01T00:00:00Z"))

		restore()
		w.now = today.Add(time.Minute)
		w.putBack(ring, older)
		vaults := w.Vaults
		w.Vaults = []archive.Vault{archive.NewAbsent("main", errors.New("away"))}
		w.ingest(old("fork", "LOT-FORK"))
		w.Vaults = vaults
		w.now = instant(t, "2027-01-01T00:00:02Z")
		if _, err := w.RecoverLog(ctx, false); err != nil {
			t.Fatal(err)
		}
		if _, err := w.RecoverKeyring(ctx); err != nil {
			t.Fatal(err)
		}
		if got := w.sweep(); got.Archived != 1 {
			t.Errorf("%+v", got)
		}
		w.read("fork")
		w.unread("a")
		w.verify()
		w.verifyLog()
	})
}

// wholeLife is all that can come of an archive class: records archived, held, archived
// anew twice, released and purged, others moved to a later class while they were hot,
// objects deleted, those of the last locked still, and receipts.
func (w *world) wholeLife() {
	w.t.Helper()
	w.sweep()
	held := w.place(lifecycle.Scope{TLC: "LOT-H"})
	w.sweepUntil(instant(w.t, "2027-01-01T00:00:00Z")) // archive-2026-12-1 ends
	w.sweepUntil(instant(w.t, "2027-02-01T00:00:00Z")) // hold-2027-01-1 ends
	open, err := w.Store.Holds(context.Background(), true)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range open {
		if h.ID != held.HoldID {
			w.release(h.ID) // of what is hot
		}
	}
	w.place(lifecycle.Scope{RecordID: "held-1"})
	w.release(held.HoldID)
	got := w.sweepUntil(instant(w.t, "2027-03-01T00:00:00Z")) // hold-2027-02-1 and archive-2027-02-1 end
	if got.Rearchived != 1 || got.Purged == 0 {
		w.t.Fatalf("%+v", got)
	}
	for _, class := range []string{"archive-2026-12-1", "hold-2027-02-1"} {
		if _, _, err := w.IssueReceipt(context.Background(), class); err != nil {
			w.t.Fatal(err)
		}
	}
	if _, err := w.Publish(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) oldOnes() {
	w.t.Helper()
	w.Limits.LockRecords, w.Limits.SegmentRecords, w.Limits.BatchRecords = 2, 6, 4
	w.addVault("second")
	w.ingest(old("a", "LOT-A"), old("b", "LOT-B"), old("c", "LOT-C"), old("held-1", "LOT-H"), old("held-2", "LOT-H"), old("held-3", "LOT-H"),
		old("hot-1", "LOT-HOT"), old("hot-2", "LOT-HOT"), old("hot-3", "LOT-HOT"), from(old("held-4", "LOT-H"), "LOT-A"), record("young", "LOT-A", instant(w.t, "2022-09-14T09:00:00Z")))
	w.place(lifecycle.Scope{TLC: "LOT-HOT"})
}

// The whole life lies between the backup and the restore: of what was archived in it the
// database has its own rows, for the manifests are deleted.
func TestRecoverWholeLife(t *testing.T) {
	for name, before := range map[string]func(w *world){
		"hot":      func(*world) {},
		"archived": func(w *world) { w.sweep() },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world, take backup) {
				w.oldOnes()
				before(w)
				restore := take(w)
				w.wholeLife()
				want, end := w.known(), w.end()
				recovered(t, w, restore, want, end)
			})
		})
	}
}

// Made anew from the vaults, the database has what can be read, and the rows of what was
// purged as far as its manifest is there; the others are counted.
func TestRecoverWholeLifeFromVault(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world, take backup) {
		ctx := context.Background()
		w.oldOnes()
		w.wholeLife()
		want := w.known()
		verifier, err := note.NewVerifier(storetest.LogKey)
		if err != nil {
			t.Fatal(err)
		}
		first, err := w.FirstLeaf(ctx, verifier)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Close(); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(t.Name(), "sqlite") {
			w.put(sqlite.Restore(ctx, filepath.Join(tempDir(t), "lotkeeper.db"), first))
		} else {
			w.put(postgres.Restore(ctx, postgres.Options{URL: pgtest.New(t).URL()}, first))
		}
		dry, err := w.RecoverLog(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		res, err := w.RecoverLog(ctx, false)
		if err != nil {
			t.Fatal(err)
		}
		if dry.DryRun, dry.RunID, dry.Log = false, res.RunID, res.Log; !reflect.DeepEqual(dry, res) {
			t.Errorf("a dry run said\n%+v, it came to\n%+v", dry, res)
		}
		// Gone are the rows of a, b and c, purged with objects and manifest; and with the
		// keys of the others what their lots were made from.
		if res.LostRecords != 3 || res.Rebuilt != 8 || res.Rearchived != 5 || res.Purged != 6 {
			t.Errorf("%+v", res)
		}
		for _, l := range res.Losses {
			if l.Kind != lifecycle.LostLineage && (l.Kind != lifecycle.LostPurged || l.Records != 3) {
				t.Errorf("%+v", l)
			}
		}
		w.wantKnown(want)
		w.read("held-1", "young")
		for _, id := range []string{"held-2", "held-3", "held-4", "hot-1", "hot-2", "hot-3"} {
			if v := w.view(id); v.State != lifecycle.Purged {
				t.Errorf("%+v", v)
			}
		}
		w.unread("held-2", "held-3", "held-4", "hot-1", "hot-2", "hot-3")
		w.verify()
		w.verifyLog()
		if got := w.sweep(); got.Purged+got.Rearchived+got.PurgedClasses+got.Archived != 0 {
			t.Errorf("after it a sweep does again: %+v", got)
		}
		if again, err := w.RecoverLog(ctx, false); err != nil || again.RunID != "" {
			t.Errorf("again: %+v, %v", again, err)
		}
	})
}

func recovered(t *testing.T, w *world, restore func(), want known, end []string) {
	ctx := context.Background()
	restore()
	dry, err := w.RecoverLog(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.RecoverLog(ctx, false)
	if err != nil || len(res.Losses) > 0 || res.LostRecords > 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	if dry.DryRun, dry.RunID, dry.Log = false, res.RunID, res.Log; !reflect.DeepEqual(dry, res) {
		t.Errorf("a dry run said\n%+v, it came to\n%+v", dry, res)
	}
	w.wantKnown(want)
	w.wantEnd(end)
	w.read("held-1", "young")
	w.unread("a", "b", "c", "held-2", "held-3", "held-4", "hot-1", "hot-2", "hot-3")
	w.verify()
	w.verifyLog()
	checkTrail(t, w)
	if got := w.sweep(); got.Purged+got.Rearchived+got.PurgedClasses+got.Archived != 0 {
		t.Errorf("after it a sweep does again: %+v", got)
	}
	if again, err := w.RecoverLog(ctx, false); err != nil || again.RunID != "" {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// TestRecoverFaultAtEveryCall interrupts a recovery at each call in each way; the next
// process goes on with it, and comes to the same.
func TestRecoverFaultAtEveryCall(t *testing.T) {
	ctx := context.Background()
	restored := func(t *testing.T, root string, tr *trap) *world {
		tr.off = true
		w := onDisk(t, root, today, tr, true, onSQLite)
		w.beforeBackup()
		restore := backupSQLite(w)
		w.afterBackup()
		restore()
		tr.off = false
		return w
	}
	tr := &trap{}
	w := restored(t, tempDir(t), tr)
	whole, err := w.RecoverLog(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	calls := slices.Sorted(slices.Values(tr.calls))
	every := sample(12)
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
					w := restored(t, root, tr)
					first, err := w.RecoverLog(ctx, false)
					if tr.fired == "" {
						return // vaults are written side by side, and not always asked as often
					}
					if err != nil && !errors.Is(err, storetest.ErrFault) && !errors.Is(err, errDead) && !strings.Contains(err.Error(), storetest.ErrFault.Error()) {
						t.Fatalf("another error: %v", err)
					}
					w.store.Close()
					w = onDisk(t, root, w.now.Add(10*time.Minute+1), &trap{}, false, onSQLite)
					res, err := w.RecoverLog(ctx, false)
					if err != nil {
						t.Fatalf("the next run: %v", err)
					}
					if res.RunID == "" {
						res = first // it was done
					}
					if got, want := losses(res), losses(whole); len(got) != len(want) || res.LostRecords != whole.LostRecords || res.HoldsPlaced != whole.HoldsPlaced || res.Archived != whole.Archived {
						t.Errorf("it came to\n%+v, want\n%+v", res, whole)
					}
					w.noneOpens(t)
					w.verifyLog()
					w.sweep()
					w.verifyLog()
				})
			}
		})
	}
}
