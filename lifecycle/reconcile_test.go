package lifecycle_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred"
)

// drift is the findings of a reconciliation, each as "kind subject vault".
func (w *world) drift() []string {
	w.t.Helper()
	return driftOf(w.reconcile())
}

func driftOf(res lifecycle.Reconciliation) []string {
	out := []string{}
	for _, d := range res.Findings {
		out = append(out, strings.TrimSpace(d.Kind+" "+d.Subject+" "+d.Vault))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (w *world) reconcile() lifecycle.Reconciliation {
	w.t.Helper()
	res, err := w.Reconcile(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

// clean wants no finding.
func (w *world) clean(when string) {
	w.t.Helper()
	if res := w.reconcile(); len(res.Findings) > 0 {
		w.t.Errorf("%s: %+v", when, res.Findings)
	}
}

// statusKeys is a key store whose Status is another than the truth.
type statusKeys struct {
	shred.KeyStore
	edit func(*shred.Status)
}

func (k statusKeys) Status(ctx context.Context) (shred.Status, error) {
	s, err := k.KeyStore.Status(ctx)
	k.edit(&s)
	return s, err
}

// blindVault cannot tell the lock of one key, as a directory whose lock file is gone.
type blindVault struct {
	*memvault.Vault
	key string
}

func (v blindVault) Stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	if key == v.key {
		return archive.ObjectInfo{}, archive.ErrLockUnknown
	}
	return v.Vault.Stat(ctx, key, versionID)
}

func (v blindVault) Versions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error] {
	return func(yield func(archive.Version, error) bool) {
		for x, err := range v.Vault.Versions(ctx, prefix) {
			if x.Key == v.key {
				x, err = archive.Version{Key: x.Key}, archive.ErrLockUnknown
			}
			if !yield(x, err) {
				return
			}
		}
	}
}

// newDriftWorld is a legalWorld with a hold on lot C, which is archived, and on H,
// which is deferred, and a record that is not due.
func newDriftWorld(t *testing.T) *legalWorld {
	w := newLegalWorld(t)
	w.place(lifecycle.Scope{TLC: "C"})
	w.place(lifecycle.Scope{TLC: "H"})
	w.ingest(record("h", "H", instant(t, "2022-09-14T09:00:00Z")), record("hot", "N", today))
	if res := w.sweep(); res.Resealed != 1 || res.LegalHoldsSet != 2 || res.LegalHoldsMissing != 0 {
		t.Fatalf("%+v", res)
	}
	w.clean("before anything was planted")
	return w
}

// segmentLike puts a row beside that of a segment, in another state, and returns its
// keys.
func (w *legalWorld) segmentLike(id, state string) (object, manifest string) {
	w.t.Helper()
	object, manifest = archive.ObjectKey(w.ab.Class, id), archive.ManifestKey(w.ab.Class, id)
	raw(w.t, w.world, fmt.Sprintf(`INSERT INTO segments (segment_id, class_no, state, run_id, records, object_key, object_size, object_sha256, plaintext_sha256, merkle_root,
			manifest_key, manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at)
		SELECT '%s', class_no, '%s', run_id, records, '%s', object_size, object_sha256, plaintext_sha256, merkle_root,
			'%s', manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at FROM segments WHERE segment_id = '%s'`, id, state, object, manifest, w.ab.ID))
	return object, manifest
}

func (w *legalWorld) row(id string) lifecycle.Row {
	w.t.Helper()
	r, err := w.store.Row(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// copyIn is the copy of the first segment in a vault.
func (w *legalWorld) copyIn(vault string) lifecycle.Copy {
	return w.ab.Copies[slices.IndexFunc(w.ab.Copies, func(c lifecycle.Copy) bool { return c.Vault == vault })]
}

// Each kind of drift is found where it was planted, and nothing else is.
func TestReconcileFinds(t *testing.T) {
	ctx := context.Background()
	ok := func(w *legalWorld, err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	status := func(w *legalWorld, edit func(*shred.Status)) { w.Keys = statusKeys{w.Keys, edit} }
	for name, c := range map[string]struct {
		plant func(w *legalWorld)
		want  func(w *legalWorld) []string
	}{
		"past due": {func(w *legalWorld) {
			w.now = w.now.AddDate(0, 0, 731)
		}, func(w *legalWorld) []string {
			return []string{"past-due " + w.row("hot").Class}
		}},
		"taken in late": {func(w *legalWorld) {
			w.ingest(record("late", "L", instant(w.t, "2022-10-01T00:00:00Z")))
		}, func(w *legalWorld) []string { return []string{"past-due hot-2024-09-30-1"} }},
		"a segment without rows of its copies": {func(w *legalWorld) {
			raw(w.t, w.world, `DELETE FROM segment_copies WHERE vault = 'second' AND segment_no = (SELECT segment_no FROM segments WHERE segment_id = '`+w.ab.ID+`')`)
		}, func(w *legalWorld) []string {
			return []string{"archived-without-copy " + w.ab.ID + " second", "unknown-object " + w.ab.ObjectKey + " second", "unknown-object " + w.ab.ManifestKey + " second"}
		}},
		"an object lost": {func(w *legalWorld) { w.memVault("second").Drop(w.ab.ObjectKey) }, func(w *legalWorld) []string {
			return []string{"archived-without-copy " + w.ab.ID + " second"}
		}},
		"a manifest lost": {func(w *legalWorld) { w.memVault("main").Drop(w.ab.ManifestKey) }, func(w *legalWorld) []string {
			return []string{"archived-without-copy " + w.ab.ID + " main"}
		}},
		"a record of no verified segment": {func(w *legalWorld) {
			w.segmentLike("seg-x", "abandoned")
			raw(w.t, w.world, `UPDATE records SET segment_no = (SELECT segment_no FROM segments WHERE segment_id = 'seg-x') WHERE record_id = 'a'`)
		}, func(w *legalWorld) []string { return []string{"archived-without-copy seg-x"} }},
		"an object nobody knows": {func(w *legalWorld) { w.memVault("main").ForcePut("segments/x.age", []byte("x")) }, func(*legalWorld) []string {
			return []string{"unknown-object segments/x.age main"}
		}},
		"an object outside": {func(w *legalWorld) { w.memVault("main").ForcePut("x", []byte("x")) }, func(*legalWorld) []string {
			return []string{"unknown-object x main"}
		}},
		"another version": {func(w *legalWorld) { w.memVault("main").ForcePut(w.ab.ObjectKey, []byte("x")) }, func(w *legalWorld) []string {
			return []string{"unknown-object " + w.ab.ObjectKey + " main"}
		}},
		"a delete marker": {func(w *legalWorld) { w.memVault("second").DeleteLatest(w.ab.ManifestKey) }, func(w *legalWorld) []string {
			return []string{"unknown-object " + w.ab.ManifestKey + " second"}
		}},
		"a checkpoint put over": {func(w *legalWorld) {
			w.memVault("second").ForcePut(w.newestCheckpointKey("second"), []byte("x"))
		}, func(w *legalWorld) []string {
			return []string{"unknown-object " + w.newestCheckpointKey("second") + " second"}
		}},
		"an abandoned segment": {func(w *legalWorld) {
			object, _ := w.segmentLike("seg-x", "abandoned")
			w.memVault("main").ForcePut(object, []byte("x"))
		}, func(*legalWorld) []string { return []string{"abandoned-segment seg-x main"} }},
		"a segment left staged": {func(w *legalWorld) { w.segmentLike("seg-x", "staged") }, func(*legalWorld) []string { return []string{"unfinished-run seg-x"} }},
		"a run left running": {func(w *legalWorld) {
			_, err := w.store.BeginRun(ctx, lifecycle.Run{ID: "run-x", Kind: "sweep", StartedAt: w.now}, lifecycle.Leaf{At: w.now, Action: lifecycle.ActionRunStarted, RunID: "run-x", Subject: "run-x", Body: []byte(`{}`)})
			ok(w, err)
			w.now = w.now.Add(2 * time.Hour)
		}, func(*legalWorld) []string { return []string{"unfinished-run run-x"} }},
		"a key of no class": {func(w *legalWorld) {
			_, err := w.Keys.Create(ctx, []string{"hot-2020-01-01-1"})
			ok(w, err)
		}, func(*legalWorld) []string { return []string{"key-without-records hot-2020-01-01-1"} }},
		"a destroyed key that lives": {func(w *legalWorld) {
			status(w, func(s *shred.Status) { s.Live = append(s.Live, w.row("a").Class); slices.Sort(s.Live) })
		}, func(w *legalWorld) []string { return []string{"key-without-records " + w.row("a").Class} }},
		"the DEK of an archived record": {func(w *legalWorld) {
			raw(w.t, w.world, `INSERT INTO deks SELECT seq, (SELECT class_no FROM records WHERE record_id = 'hot'), x'00' FROM records WHERE record_id = 'a'`)
		}, func(w *legalWorld) []string { return []string{"key-without-records " + w.row("hot").Class} }},
		"a DEK of no record": {func(w *legalWorld) {
			raw(w.t, w.world, `INSERT INTO deks SELECT 4711, class_no, x'00' FROM records WHERE record_id = 'hot'`)
		}, func(w *legalWorld) []string { return []string{"key-without-records " + w.row("hot").Class} }},
		"a key lost": {func(w *legalWorld) {
			status(w, func(s *shred.Status) {
				s.Live = slices.DeleteFunc(s.Live, func(id string) bool { return id == w.ab.Class })
			})
		}, func(w *legalWorld) []string { return []string{"record-without-key " + w.ab.Class} }},
		"a DEK lost": {func(w *legalWorld) {
			raw(w.t, w.world, `DELETE FROM deks WHERE seq = (SELECT seq FROM records WHERE record_id = 'hot')`)
		}, func(w *legalWorld) []string { return []string{"record-without-key " + w.row("hot").Class} }},
		"an executing class": {func(w *legalWorld) {
			raw(w.t, w.world, `UPDATE classes SET state = 'executing' WHERE class_id = '`+w.row("a").Class+`'`)
		}, func(w *legalWorld) []string { return []string{"class-overdue " + w.row("a").Class} }},
		"a condemned class": {func(w *legalWorld) {
			_, err := w.Keys.Create(ctx, []string{"hot-2020-01-01-1"})
			ok(w, err)
			raw(w.t, w.world, `INSERT INTO classes (class_id, kind, period_start, closes_at, generation, state)
				VALUES ('hot-2020-01-01-1', 'hot', '2020-01-01T00:00:00.000000000Z', '2020-01-02T00:00:00.000000000Z', 1, 'condemned')`)
		}, func(*legalWorld) []string { return []string{"class-overdue hot-2020-01-01-1"} }},
		"an empty class": {func(w *legalWorld) {
			_, err := w.Keys.Create(ctx, []string{"deferral-2020-01-1"})
			ok(w, err)
			raw(w.t, w.world, `INSERT INTO classes (class_id, kind, period_start, closes_at, generation) VALUES ('deferral-2020-01-1', 'deferral', '2020-01-01T00:00:00.000000000Z', '2020-02-01T00:00:00.000000000Z', 1)`)
		}, func(*legalWorld) []string { return []string{"class-overdue deferral-2020-01-1"} }},
		"a legal hold that no hold asks for": {func(w *legalWorld) {
			ok(w, w.memVault("main").SetLegalHold(ctx, w.ab.ObjectKey, w.copyIn("main").ObjectVersion, true))
		}, func(w *legalWorld) []string { return []string{"legal-hold-without-hold " + w.ab.ID + " main"} }},
		"a hold dropped": {func(w *legalWorld) {
			raw(w.t, w.world, `UPDATE holds SET released_at = placed_at WHERE hold_no = (SELECT hold_no FROM hold_scopes WHERE tlc = 'C')`)
		}, func(w *legalWorld) []string {
			return []string{"legal-hold-without-hold " + w.c.ID + " main", "legal-hold-without-hold " + w.c.ID + " second"}
		}},
		"a legal hold lifted": {func(w *legalWorld) {
			i := slices.IndexFunc(w.c.Copies, func(c lifecycle.Copy) bool { return c.Vault == "second" })
			ok(w, w.memVault("second").SetLegalHold(ctx, w.c.ManifestKey, w.c.Copies[i].ManifestVersion, false))
		}, func(w *legalWorld) []string { return []string{"hold-without-legal-hold " + w.c.ID + " second"} }},
		"a hold that no vault has confirmed": {func(w *legalWorld) { w.place(lifecycle.Scope{TLC: "A"}) }, func(w *legalWorld) []string {
			return []string{"hold-without-legal-hold " + w.ab.ID + " main", "hold-without-legal-hold " + w.ab.ID + " second"}
		}},
		"a run that said more": {func(w *legalWorld) {
			raw(w.t, w.world, `UPDATE runs SET result = json_set(result, '$.archived', 4) WHERE kind = 'sweep' AND json_extract(result, '$.archived') = 3`)
		}, func(w *legalWorld) []string { return []string{"run-history " + w.runOf("sweep")} }},
		"a run that said less": {func(w *legalWorld) {
			raw(w.t, w.world, `UPDATE runs SET result = json_set(result, '$.accepted', 2) WHERE kind = 'ingest' AND json_extract(result, '$.accepted') = 3`)
		}, func(w *legalWorld) []string { return []string{"run-history " + w.runOf("ingest")} }},
		"a row deleted": {func(w *legalWorld) {
			raw(w.t, w.world, `DELETE FROM deks WHERE seq = (SELECT seq FROM records WHERE record_id = 'hot')`, `DELETE FROM records WHERE record_id = 'hot'`)
		}, func(w *legalWorld) []string {
			runs, err := w.store.Runs(ctx, 0)
			ok(w, err)
			i := slices.IndexFunc(runs, func(r lifecycle.Run) bool { return r.Kind == "ingest" })
			return []string{"run-history " + runs[i].ID, "run-history trail"}
		}},
		"a lock shortened": {func(w *legalWorld) {
			ok(w, w.memVault("main").SetLock(w.ab.ObjectKey, w.copyIn("main").ObjectVersion, archive.Compliance, w.copyIn("main").RetainUntil.Add(-time.Second)))
		}, func(w *legalWorld) []string { return []string{"lock-short " + w.ab.ID + " main"} }},
		"a weaker lock": {func(w *legalWorld) {
			ok(w, w.memVault("main").SetLock(w.ab.ManifestKey, w.copyIn("main").ManifestVersion, archive.Governance, w.copyIn("main").RetainUntil))
		}, func(w *legalWorld) []string { return []string{"lock-short " + w.ab.ID + " main"} }},
		"a copy of the keyring behind": {func(w *legalWorld) {
			status(w, func(s *shred.Status) { s.Copies = append(s.Copies, shred.Copy{Path: "/mirror", Epoch: s.Epoch - 1}) })
		}, func(*legalWorld) []string { return []string{"keyring-copy /mirror"} }},
		"an old keyring": {func(w *legalWorld) {
			status(w, func(s *shred.Status) { s.Epoch--; s.Copies[0].Epoch-- })
		}, func(*legalWorld) []string { return []string{"keyring-copy keyring"} }},
		"a rule past its review": {func(w *legalWorld) {
			p, err := policy.Parse("reviewed.yaml", []byte("{version: 1, name: reviewed, rules: [{name: all, citation: x, action: archive_then_shred, review_by: 2020-01-01}]}"))
			ok(w, err)
			_, err = w.ApplyPolicy(ctx, p, "reviewed.yaml", false)
			ok(w, err)
		}, func(*legalWorld) []string { return []string{"policy-review all"} }},
		"a vault not configured": {func(w *legalWorld) { w.Vaults = w.Vaults[:1] }, func(*legalWorld) []string { return []string{"vault second second"} }},
		"a vault never added":    {func(w *legalWorld) { w.Vaults = append(w.Vaults, memvault.New("third", w.Engine.Now)) }, func(*legalWorld) []string { return []string{"vault third third"} }},
		"a vault out of reach": {func(w *legalWorld) { w.Vaults[1] = archive.NewAbsent("second", errors.New("no such disk")) }, func(*legalWorld) []string {
			return []string{"vault second second"}
		}},
		"a lock that cannot be read": {func(w *legalWorld) {
			w.Vaults[1] = blindVault{w.memVault("second"), w.ab.ManifestKey}
		}, func(w *legalWorld) []string { return []string{"lock-short " + w.ab.ID + " second"} }},
		"a stranger's lock that cannot be read": {func(w *legalWorld) {
			w.memVault("second").ForcePut("x", nil)
			w.Vaults[1] = blindVault{w.memVault("second"), "x"}
		}, func(w *legalWorld) []string { return []string{"unknown-object x second"} }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDriftWorld(t)
			c.plant(w)
			want := c.want(w)
			slices.Sort(want)
			res := w.reconcile()
			if got := driftOf(res); !slices.Equal(got, want) {
				t.Errorf("found %q, want %q: %+v", got, want, res.Findings)
			}
			for _, d := range res.Findings {
				if d.Expected == "" || d.Actual == "" {
					t.Errorf("says too little: %+v", d)
				}
			}
			if res.Found() != int64(len(res.Findings)) {
				t.Errorf("%d findings in all, %d listed", res.Found(), len(res.Findings))
			}
		})
	}
}

func (w *legalWorld) newestCheckpointKey(vault string) string {
	for x := range w.memVault(vault).Versions(context.Background(), "log/checkpoint/") {
		return x.Key
	}
	w.t.Fatal("no checkpoint")
	return ""
}

// runOf is the oldest run of a kind.
func (w *legalWorld) runOf(kind string) string {
	w.t.Helper()
	runs, err := w.store.Runs(context.Background(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range slices.Backward(runs) {
		if r.Kind == kind {
			return r.ID
		}
	}
	w.t.Fatal("no run")
	return ""
}

// Why records are late is said as far as it is known.
func TestReconcileWhyLate(t *testing.T) {
	w := newWorld(t)
	late := func(why string) {
		t.Helper()
		res := w.reconcile()
		if len(res.Findings) != 1 || res.Findings[0].Kind != lifecycle.DriftPastDue || !strings.Contains(res.Findings[0].Detail, why) || res.Findings[0].Records != 1 {
			t.Errorf("want %q, got %+v", why, res.Findings)
		}
	}
	old := instant(t, "2022-09-14T09:00:00Z")
	w.ingest(record("a", "A", old))
	late("there was no sweep yet")
	w.sweep()
	w.clean("swept")
	w.ingest(record("b", "B", old))
	late("taken in after the last sweep")
	held := w.place(lifecycle.Scope{TLC: "B"})
	w.clean("held")
	w.now = w.now.Add(time.Second)
	w.sweep()
	w.clean("deferred")
	w.now = w.now.Add(time.Second)
	if err := w.Release(context.Background(), held.HoldID, "over"); err != nil {
		t.Fatal(err)
	}
	late("a hold was released after the last sweep")
	raw(t, w, `UPDATE payloads SET sealed = x'00' WHERE seq = (SELECT seq FROM records WHERE record_id = 'b')`)
	if _, err := w.Sweep(context.Background(), lifecycle.SweepOptions{}); err == nil {
		t.Fatal("archived what is damaged")
	}
	late("ended failed with 1 records failed")
	w.Vaults = nil
	if res := w.reconcile(); !slices.ContainsFunc(res.Findings, func(d lifecycle.Drift) bool {
		return d.Kind == lifecycle.DriftPastDue && strings.Contains(d.Detail, "no sweep can begin: vault main is not configured")
	}) {
		t.Errorf("%+v", res.Findings)
	}
}

// What falls due today is not late, nor is a class that a sweep of today takes.
func TestReconcileInTime(t *testing.T) {
	w := newWorld(t)
	w.ingest(record("a", "A", today.AddDate(0, 0, -730).Add(-time.Hour)))
	w.clean("due since an hour")
	w.sweep()
	w.now = w.now.Add(24 * time.Hour)
	w.clean("its class is over since ten hours")
	w.now = w.now.Add(24 * time.Hour)
	if got := w.drift(); !slices.Equal(got, []string{"class-overdue hot-2026-11-21-1"}) {
		t.Errorf("a day and more after it was over: %q", got)
	}
	w.sweep()
	w.clean("swept again")
}

// Vaults that join and retire are not drift.
func TestReconcileVaults(t *testing.T) {
	ctx := context.Background()
	w := archived(t)
	second := w.addVault("second")
	w.clean("a vault is joining, with nothing")
	if _, err := w.SyncVault(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	w.clean("it counts")
	if err := w.RetireVault(ctx, "main"); err != nil {
		t.Fatal(err)
	}
	w.clean("the first is retiring")
	w.Vaults = []archive.Vault{second}
	if got := w.drift(); !slices.Equal(got, []string{"vault main main"}) {
		t.Errorf("its locks have not ended: %q", got)
	}
	rows, err := w.store.Vaults(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.now = rows[0].LockedUntil.Add(time.Hour)
	w.clean("its locks have ended")
	// A vault that a sync was cut off in has an object that no copy is recorded of.
	third := w.addVault("third")
	g, err := w.store.Segments(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := third.Put(ctx, g[0].ObjectKey, bytes.NewReader([]byte("x")), archive.PutOptions{SHA256: sha256.Sum256([]byte("x")), Size: 1, Mode: archive.Compliance, RetainUntil: w.now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	w.clean("a vault is joining, with an object")
}

// hookVault calls before each Put.
type hookVault struct {
	*memvault.Vault
	before func()
}

func (v hookVault) Put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (archive.Version, error) {
	v.before()
	return v.Vault.Put(ctx, key, body, o)
}

// hookKeys calls after each Create and Destroy.
type hookKeys struct {
	shred.KeyStore
	after func()
}

func (k hookKeys) Create(ctx context.Context, ids []string) (uint64, error) {
	defer k.after()
	return k.KeyStore.Create(ctx, ids)
}

func (k hookKeys) Destroy(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
	defer k.after()
	return k.KeyStore.Destroy(ctx, p)
}

// Whatever an ingest, a sweep or a sync has done so far is no drift: it is looked for at
// each of their calls, with the world standing still.
func TestReconcileMeanwhile(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.Limits.SegmentRecords = 2
	looker := *w.Engine
	looks, on, sweeps := 0, atomic.Bool{}, false
	look := func() {
		if !on.CompareAndSwap(true, false) { // one at a time: a sweep has several goroutines
			return
		}
		defer on.Store(true)
		looks++
		res, err := looker.Reconcile(ctx)
		if err != nil || len(res.Findings) > 0 {
			t.Errorf("look %d: %+v %v", looks, res.Findings, err)
		}
	}
	w.Store = &storetest.Faulty{Store: w.store, Fault: func(method string) (before, after error) {
		look()
		if method == "BeginRun" && sweeps {
			on.Store(true)
		}
		return nil, nil
	}}
	w.Vaults = []archive.Vault{hookVault{w.vault, look}}
	w.Keys = hookKeys{w.Keys, look}
	on.Store(true)
	w.place(lifecycle.Scope{TLC: "HELD"})
	w.ingest(record("hot", "L", today))
	var lines []string
	for i := range 6 {
		lines = append(lines, record(fmt.Sprint("r", i), "L", instant(t, "2023-01-01T00:00:00Z").AddDate(0, 0, i/3)))
	}
	on.Store(false) // they are late until a sweep is at it
	w.ingest(append(lines, record("held", "HELD", instant(t, "2023-01-01T00:00:00Z")))...)
	sweeps = true
	if res := w.sweep(); res.Archived != 6 || res.Resealed != 1 || res.ShreddedClasses != 2 {
		t.Fatalf("%+v", res)
	}
	second := memvault.New("second", w.Engine.Now)
	on.Store(false) // configured and not added
	w.Vaults = append(w.Vaults, hookVault{second, look})
	looker.Vaults = append(looker.Vaults, second)
	if err := w.AddVault(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	if _, err := w.SyncVault(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	if looks < 50 {
		t.Errorf("looked %d times", looks)
	}
}

// The counts are those of the world, and the trail has the result.
func TestReconcileCounts(t *testing.T) {
	w := newDriftWorld(t)
	res := w.reconcile()
	counts := map[string]string{}
	for _, c := range res.Counts {
		counts[c.Of+": "+c.Name] = fmt.Sprint(c.Count)
		if c.Expected != nil {
			counts[c.Of+": "+c.Name] += fmt.Sprint(" of ", *c.Expected)
		}
	}
	for name, want := range map[string]string{
		"records: active": "2", "records: archived": "3", "records: purged": "0", "records: held": "2", "records: held and past due": "1", "records: in all": "5 of 5",
		"records by class: hot 2028-11": "1", "records by class: deferral 2026-11": "1", "records by class: archive 2028-11": "2", "records by class: archive 2026-12": "1",
		"classes: hot destroyed": "3", "segments: settled": "2", "run history: taken in by ingests": "5 of 5", "run history: archived by sweeps": "3 of 3",
		"records by policy: archived, default " + w.Policy.Hash(): "3", "records by policy: in the hot store, default " + w.Policy.Hash(): "2",
	} {
		if counts[name] != want {
			t.Errorf("%s is %q, want %q", name, counts[name], want)
		}
	}
	if t.Failed() {
		t.Log(counts)
	}
	if len(res.Vaults) != 2 || res.Vaults[0].Known != 4 || res.Vaults[0].Unknown+res.Vaults[0].Missing != 0 || res.Vaults[0].Log == 0 || res.Vaults[0].Objects != 4+res.Vaults[0].Log {
		t.Errorf("%+v", res.Vaults)
	}
	if !strings.Contains(res.Log.Checkpoint, "lotkeeper") || res.Log.CheckpointSize == 0 || res.Log.CheckpointSize > res.Log.Size {
		t.Errorf("%+v", res.Log)
	}
	leaves, err := w.store.Leaves(context.Background(), lifecycle.LeafQuery{Actions: []string{lifecycle.ActionReconciled}})
	if err != nil || len(leaves) != 2 || !strings.Contains(string(leaves[1].Body), `"findings":0`) {
		t.Errorf("%+v %v", leaves, err)
	}
	w.verifyLog()
}

// Whatever somebody puts into a vault, the findings stay few enough to print; how many
// there are is said.
func TestReconcileMany(t *testing.T) {
	w := newWorld(t)
	for i := range 1200 {
		w.vault.ForcePut(fmt.Sprintf("x/%04d", i), nil)
	}
	if res := w.reconcile(); len(res.Findings) != 1000 || res.Found() != 1200 || res.Vaults[0].Unknown != 1200 {
		t.Errorf("%d listed, %d in all", len(res.Findings), res.Found())
	}
}

// A fault of the database ends it, and is never taken for drift or for its absence.
func TestReconcileFaults(t *testing.T) {
	w := newDriftWorld(t)
	w.memVault("main").ForcePut("x", nil) // so that there is a second look
	for at := 0; ; at++ {
		calls := 0
		w.Engine.Store = &storetest.Faulty{Store: w.store, Fault: func(string) (before, after error) {
			if calls++; calls-1 == at {
				return storetest.ErrFault, nil
			}
			return nil, nil
		}}
		res, err := w.Reconcile(context.Background())
		if calls <= at {
			if err != nil || len(res.Findings) != 1 || at < 20 {
				t.Errorf("without a fault, after %d calls: %+v %v", calls, res.Findings, err)
			}
			return
		}
		if !errors.Is(err, storetest.ErrFault) {
			t.Errorf("a fault at call %d: %+v %v", at, res.Findings, err)
		}
	}
}
