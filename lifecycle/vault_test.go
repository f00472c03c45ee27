package lifecycle_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

func (w *world) vaultIs(name string, state lifecycle.VaultState, copies, missing int64) lifecycle.VaultView {
	w.t.Helper()
	all, err := w.VaultViews(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range all {
		if v.Name == name {
			if v.State != state || v.Copies != copies || v.Missing != missing {
				w.t.Errorf("vault %+v, want %s, %d copies, %d missing", v, state, copies, missing)
			}
			return v
		}
	}
	w.t.Fatalf("vault %s is not in %+v", name, all)
	return lifecycle.VaultView{}
}

// archived is a world with two segments of two records each in one vault.
func archived(t *testing.T) *world {
	w := newWorld(t)
	w.Limits.SegmentRecords = 2
	w.ingest(record("r1", "L", instant(t, "2023-01-01T00:00:00Z")), record("r2", "L", instant(t, "2023-01-01T00:00:00Z")),
		record("r3", "L", instant(t, "2023-01-02T00:00:00Z")), record("r4", "L", instant(t, "2023-01-02T00:00:00Z")))
	if res := w.sweep(); res.Segments != 2 {
		t.Fatalf("%+v", res)
	}
	return w
}

// A vault that is added later counts once it has everything, and then whatever
// the first one loses is still there.
func TestVaultJoins(t *testing.T) {
	ctx := context.Background()
	w := archived(t)
	second := memvault.New("second", w.Engine.Now)
	w.Vaults = append(w.Vaults, second)
	w.vaultIs("second", "unknown", 0, 0)

	// Configured and not added, it is not silently left out.
	_, err := w.Sweep(ctx, lifecycle.SweepOptions{})
	if r, ok := lifecycle.IsRefused(err); !ok || !strings.Contains(r.Hint, "vault add second") {
		t.Errorf("sweep with a vault that was never added: %v", err)
	}
	if err := w.AddVault(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	w.vaultIs("second", lifecycle.Joining, 0, 2)

	// While it joins, sweeps go on without it.
	w.ingest(record("r5", "L", instant(t, "2023-01-03T00:00:00Z")))
	w.sweep()
	w.vaultIs("second", lifecycle.Joining, 0, 3)
	res, err := w.SyncVault(ctx, "second")
	if err != nil || res.State != lifecycle.ActiveVault || res.Copied != 3 || res.Records != 5 || res.Failed != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	w.vaultIs("second", lifecycle.ActiveVault, 3, 0)
	if res, err := w.SyncVault(ctx, "second"); err != nil || res.Copied != 0 || res.State != lifecycle.ActiveVault {
		t.Errorf("a second sync: %+v, %v", res, err)
	}

	// From now on a segment is in both, or not archived.
	w.ingest(record("r6", "L", instant(t, "2023-01-04T00:00:00Z")))
	w.sweep()
	w.vaultIs("second", lifecycle.ActiveVault, 4, 0)
	if v := w.verify(); v.Objects != 16 {
		t.Errorf("%+v", v)
	}
	for o := range w.vault.Versions(ctx, "") {
		w.vault.Drop(o.Key)
	}
	for _, id := range []string{"r1", "r4", "r5", "r6"} {
		if _, err := w.Line(ctx, id, false); err != nil {
			t.Errorf("%s, with the first vault empty: %v", id, err)
		}
	}
	g, err := w.Store.Segments(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range g {
		info, err := second.Stat(ctx, g.ObjectKey, "")
		if err != nil || info.RetainUntil.Before(g.RetainUntil) || info.Mode != archive.Compliance {
			t.Errorf("%s in the second vault: %+v, %v", g.ObjectKey, info, err)
		}
	}
}

// A vault that has nothing of what is recorded of it is another place: nothing is
// archived on the strength of it. One that has lost a part is for verify to find.
func TestVaultIsAnotherPlace(t *testing.T) {
	ctx := context.Background()
	w := archived(t)
	w.ingest(record("r5", "L", instant(t, "2023-01-03T00:00:00Z")))
	segments, err := w.Store.Segments(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.vault.Drop(segments[0].ObjectKey)
	w.sweep()
	w.ingest(record("r6", "L", instant(t, "2023-01-04T00:00:00Z")))
	w.Vaults = []archive.Vault{memvault.New("main", w.Engine.Now)}
	_, err = w.Sweep(ctx, lifecycle.SweepOptions{})
	if r, ok := lifecycle.IsRefused(err); !ok || !strings.Contains(r.Reason, "none of the copies") {
		t.Errorf("sweep into another place: %v", err)
	}
	if v := w.view("r6"); v.State != lifecycle.Active || v.ClassState != lifecycle.Open {
		t.Errorf("%+v", v)
	}
}

// A segment that recovery adopts, and one that was staged long ago, is locked for as
// long as a new one.
func TestAdoptedLock(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(strings.Replace(textbook, `"kde_payload"`, `"created_or_obtained_at":"2022-09-14T08:30:00Z","kde_payload"`, 1))
	failing(w, "VerifySegment", 1, false)
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !errors.Is(err, storetest.ErrFault) {
		t.Fatal(err)
	}
	w.Engine.Store = w.store
	staged, err := w.Store.Segments(ctx, lifecycle.Staged)
	if err != nil || len(staged) != 1 {
		t.Fatal(staged, err)
	}
	w.now = staged[0].RetainUntil.Add(-time.Minute)
	if err := w.AcceptClock(ctx); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.Recovered != 1 {
		t.Fatalf("%+v", res)
	}
	info, err := w.vault.Stat(ctx, staged[0].ObjectKey, "")
	if err != nil || info.RetainUntil.Before(w.now.Add(w.Limits.MinLock)) {
		t.Errorf("locked until %s at %s, %v", info.RetainUntil, w.now, err)
	}
	w.verify()
}

// What cannot be brought keeps the vault from counting, and takes nothing else
// with it.
func TestVaultSyncWithDamage(t *testing.T) {
	ctx := context.Background()
	w := archived(t)
	segments, err := w.Store.Segments(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.vault.Tamper(segments[0].ObjectKey, "", func(b []byte) []byte { b[0] ^= 1; return b }); err != nil {
		t.Fatal(err)
	}
	w.addVault("second")
	res, err := w.SyncVault(ctx, "second")
	if err == nil || res.Copied != 1 || res.Failed != 1 || res.State != lifecycle.Joining {
		t.Fatalf("%+v, %v", res, err)
	}
	w.vaultIs("second", lifecycle.Joining, 1, 1)
	if err := w.vault.Tamper(segments[0].ObjectKey, "", func(b []byte) []byte { b[0] ^= 1; return b }); err != nil {
		t.Fatal(err)
	}
	if res, err := w.SyncVault(ctx, "second"); err != nil || res.Copied != 1 || res.State != lifecycle.ActiveVault {
		t.Fatalf("mended: %+v, %v", res, err)
	}
}

// A sync that is interrupted at any call is gone on with, also a year later, when
// the lock of what it had put by then would have been too short.
func TestVaultSyncInterrupted(t *testing.T) {
	ctx := context.Background()
	for _, kind := range []fault{failBefore, failAfter} {
		for n := 1; ; n += stride() {
			w := archived(t)
			second := w.addVault("second")
			tr := &trap{at: n, kind: kind}
			w.Vaults[1] = &vaulttest.Faulty{Vault: second, Fault: tr.hook}
			w.Engine.Store = &storetest.Faulty{Store: w.store, Fault: tr.hook}
			_, err := w.SyncVault(ctx, "second")
			if tr.fired == "" {
				if err != nil || n < 15 {
					t.Fatalf("%d calls, %v", n, err)
				}
				break
			}
			if err != nil && !errors.Is(err, storetest.ErrFault) {
				t.Fatalf("%s at %s: %v", kind, tr.fired, err)
			}
			// The next one is another process: the lease of a run whose end could not
			// be recorded is gone with the first.
			w.store.Close()
			store, err := sqlite.Open(ctx, filepath.Join(w.dir, "lotkeeper.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			w.Engine.Store, w.Vaults[1] = store, second
			w.now = w.now.AddDate(1, 6, 0)
			if err := w.AcceptClock(ctx); err != nil {
				t.Fatal(err)
			}
			if res, err := w.SyncVault(ctx, "second"); err != nil || res.State != lifecycle.ActiveVault {
				t.Fatalf("%s at %s, then: %+v, %v", kind, tr.fired, res, err)
			}
			w.vaultIs("second", lifecycle.ActiveVault, 2, 0)
			segments, err := w.Store.Segments(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range segments {
				for _, c := range g.Copies {
					if c.Vault == "second" && c.VerifiedAt.Equal(w.now) && c.RetainUntil.Before(w.now.Add(w.Limits.MinLock)) {
						t.Errorf("%s at %s: %s is locked until %s only", kind, tr.fired, g.ID, c.RetainUntil)
					}
				}
			}
		}
	}
}

// A retiring vault gets nothing more, is reported until its last lock has ended,
// and may then be gone from the configuration.
func TestVaultRetires(t *testing.T) {
	ctx := context.Background()
	w := archived(t)
	if err := w.RetireVault(ctx, "main"); !errors.Is(err, lifecycle.ErrLastVault) {
		t.Errorf("retiring the only vault: %v", err)
	}
	if err := w.RetireVault(ctx, "nobody"); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Errorf("retiring a vault that is not there: %v", err)
	}
	second := w.addVault("second")
	if _, err := w.SyncVault(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	if err := w.RetireVault(ctx, "main"); err != nil {
		t.Fatal(err)
	}
	w.ingest(record("r5", "L", instant(t, "2023-01-03T00:00:00Z")))
	w.sweep()
	w.vaultIs("main", lifecycle.Retiring, 2, 1)
	w.vaultIs("second", lifecycle.ActiveVault, 3, 0)
	if _, err := w.SyncVault(ctx, "main"); err == nil {
		t.Error("a retiring vault was brought something")
	}

	// Too early out of the configuration: said, not passed over.
	w.Vaults = []archive.Vault{second}
	res, err := w.Verify(ctx)
	if err != nil || len(res.Mismatches) != 2 || res.Mismatches[0].Kind != lifecycle.KindFault || res.Mismatches[0].Vault != "main" {
		t.Errorf("%+v, %v", res, err)
	}
	if v := w.vaultIs("main", lifecycle.Retiring, 2, 1); v.Problem == "" {
		t.Errorf("%+v", v)
	}
	w.now = w.now.Add(10 * 365 * 24 * time.Hour)
	w.verify()
	if v := w.vaultIs("main", lifecycle.Retired, 2, 1); v.Problem != "" {
		t.Errorf("%+v", v)
	}
	for _, id := range []string{"r1", "r5"} {
		if _, err := w.Line(ctx, id, false); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}

	// An active vault that is not configured stops a sweep.
	w.Vaults = []archive.Vault{w.vault}
	_, err = w.Sweep(ctx, lifecycle.SweepOptions{})
	if _, ok := lifecycle.IsRefused(err); !ok {
		t.Errorf("sweep without the vault that counts: %v", err)
	}
}
