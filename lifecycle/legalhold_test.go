package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// bitVault is a vault in memory whose legal holds can be meddled with.
type bitVault struct {
	*memvault.Vault
	// before, if set, comes before each call that changes a legal hold, and may fail
	// it. With lies set it is not done, and reported done.
	before func(on bool) error
	lies   bool
}

func (v *bitVault) SetLegalHold(ctx context.Context, key, versionID string, on bool) error {
	if v.before != nil {
		if err := v.before(on); err != nil {
			return err
		}
	}
	if v.lies {
		return nil
	}
	return v.Vault.SetLegalHold(ctx, key, versionID, on)
}

// legalWorld has two vaults, and three records of two segments: a and b of one, c of
// the other. b was made from ROOT.
type legalWorld struct {
	*world
	first, second *bitVault
	ab, c         lifecycle.Segment
}

func newLegalWorld(t *testing.T) *legalWorld {
	t.Helper()
	w := &legalWorld{world: newWorld(t)}
	w.first = &bitVault{Vault: w.vault}
	w.second = &bitVault{Vault: w.addVault("second")}
	w.Vaults = []archive.Vault{w.first, w.second}
	w.ingest(record("a", "A", instant(t, "2022-09-14T09:00:00Z")), from(record("b", "B", instant(t, "2022-09-14T10:00:00Z")), "ROOT"),
		obtained(record("c", "C", instant(t, "2022-12-14T09:00:00Z")), "2022-12-14T09:00:00Z"))
	if res := w.sweep(); res.Segments != 2 || res.Archived != 3 {
		t.Fatalf("%+v", res)
	}
	segment := func(record string) lifecycle.Segment {
		r, err := w.store.Row(context.Background(), record)
		if err != nil {
			t.Fatal(err)
		}
		g, err := w.store.Segment(context.Background(), r.Segment)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	w.ab, w.c = segment("a"), segment("c")
	return w
}

func (w *legalWorld) memVault(name string) *memvault.Vault {
	for _, v := range []*bitVault{w.first, w.second} {
		if v.Name() == name {
			return v.Vault
		}
	}
	w.t.Fatal("no vault ", name)
	return nil
}

// bits counts, of the recorded copies of a segment, the objects and manifests that are
// under legal hold, by what the vaults have; of four that there are.
func (w *legalWorld) bits(g lifecycle.Segment) int {
	w.t.Helper()
	g, err := w.store.Segment(context.Background(), g.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, c := range g.Copies {
		n += bitsOf(w.t, w.memVault(c.Vault), g.ObjectKey, c.ObjectVersion, g.ManifestKey, c.ManifestVersion)
	}
	return n
}

func bitsOf(t *testing.T, v archive.Vault, objects ...string) (n int) {
	t.Helper()
	for o := range slices.Chunk(objects, 2) {
		info, err := v.Stat(context.Background(), o[0], o[1])
		if err != nil {
			t.Fatal(err)
		}
		if info.LegalHold {
			n++
		}
	}
	return n
}

// legal is what is recorded, as "segment vault state".
func (w *legalWorld) legal() string {
	w.t.Helper()
	all, err := w.store.LegalHolds(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	names := map[string]string{w.ab.ID: "ab", w.c.ID: "c"}
	var out []string
	for _, c := range all {
		out = append(out, fmt.Sprintf("%s %s %s", names[c.Segment], c.Vault, c.State))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

const bothSet = "ab main set, ab second set"

// lies lists copies that are recorded set, and of which a bit is off.
func (w *legalWorld) lies() (out []string) {
	all, err := w.store.LegalHolds(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	for _, c := range all {
		if c.State == lifecycle.LegalSet && bitsOf(w.t, w.memVault(c.Vault), c.ObjectKey, c.ObjectVersion, c.ManifestKey, c.ManifestVersion) != 2 {
			out = append(out, fmt.Sprintf("%s in %s", c.Segment, c.Vault))
		}
	}
	return out
}

// settled wants the legal holds recorded so, and the bits to be so.
func (w *legalWorld) settled(when, legal string, ab, c int) {
	w.t.Helper()
	if got := w.legal(); got != legal {
		w.t.Errorf("%s, recorded is %q, want %q", when, got, legal)
	}
	if w.bits(w.ab) != ab || w.bits(w.c) != c {
		w.t.Errorf("%s, %d and %d bits are on, want %d and %d", when, w.bits(w.ab), w.bits(w.c), ab, c)
	}
	if lies := w.lies(); len(lies) > 0 {
		w.t.Errorf("%s, recorded set and off: %q", when, lies)
	}
}

// confirmed places a hold and confirms it.
func (w *legalWorld) confirmed(scope lifecycle.Scope) lifecycle.PlaceResult {
	w.t.Helper()
	res := w.place(scope)
	if err := w.Confirm(context.Background(), &res); err != nil {
		w.t.Fatal(err)
	}
	return res
}

func (w *legalWorld) project() lifecycle.LegalHolds {
	w.t.Helper()
	done, err := w.ProjectHolds(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return done
}

// status is what the hold's own page says of its vaults.
func (w *legalWorld) status(id string) string {
	w.t.Helper()
	h, err := w.store.Hold(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	d, err := w.Describe(context.Background(), h, 5)
	if err != nil {
		w.t.Fatal(err)
	}
	out := d.Status
	for _, v := range d.Vaults {
		out += fmt.Sprintf(" %s %d/%d", v.Vault, v.Confirmed, v.Confirmed+v.Missing)
	}
	return out
}

// A hold on an archived record puts the legal hold on the object and the manifest of
// each copy of its segment, on the versions that are recorded; the last release lifts
// them.
func TestLegalHolds(t *testing.T) {
	for name, scope := range map[string]lifecycle.Scope{"a record": {RecordID: "b"}, "a trace": traced("ROOT", lifecycle.Both), "a place": {TLC: "B", Location: "FAC-001"}} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			w := newLegalWorld(t)
			// Whatever is newest under the key is not what was archived.
			w.second.Vault.ForcePut(w.ab.ObjectKey, []byte("on top"))
			w.first.Vault.DeleteLatest(w.ab.ManifestKey)
			res := w.place(scope)
			w.settled("placed", "", 0, 0)
			if got := w.status(res.HoldID); got != "partial main 0/1 second 0/1" {
				t.Error("placed:", got)
			}
			if err := w.Confirm(ctx, &res); err != nil || res.Status != "open" || len(res.Vaults) != 2 {
				t.Fatalf("%+v, %v", res, err)
			}
			for i, v := range res.Vaults {
				if want := (lifecycle.VaultHolds{Vault: []string{"main", "second"}[i], Confirmed: 1}); v != want {
					t.Errorf("%+v, want %+v", v, want)
				}
			}
			w.settled("confirmed", bothSet, 4, 0)
			if got := w.status(res.HoldID); got != "open main 1/1 second 1/1" {
				t.Error("confirmed:", got)
			}
			if bitsOf(t, w.second.Vault, w.ab.ObjectKey, "") != 0 {
				t.Error("the newest version was put under legal hold")
			}
			before := dump(t, w.world) + w.allHolds()
			if err := w.Confirm(ctx, &res); err != nil || res.Status != "open" {
				t.Errorf("%+v, %v", res, err)
			}
			if done := w.project(); done.Set+done.Lifted+done.Missing() != 0 {
				t.Errorf("%+v", done)
			}
			if after := dump(t, w.world) + w.allHolds(); after != before {
				t.Error("confirming what is confirmed changed something")
			}
			// A second hold, then the first goes: nothing is lifted.
			two := w.confirmed(lifecycle.Scope{RecordID: "a"})
			w.release(res.HoldID)
			if done := w.project(); done.Lifted != 0 {
				t.Errorf("%+v", done)
			}
			w.settled("one of two is released", bothSet, 4, 0)
			w.release(two.HoldID)
			w.settled("released, and not lifted yet", bothSet, 4, 0)
			if done := w.project(); done.Lifted != 2 || done.Missing() != 0 {
				t.Errorf("%+v", done)
			}
			w.settled("lifted", "", 0, 0)
			if got := w.status(res.HoldID); got != "released" {
				t.Error(got)
			}
			leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Subject: w.ab.ID, Actions: []string{lifecycle.ActionLegalHoldSet, lifecycle.ActionLegalHoldOff, lifecycle.ActionLegalHoldGone}})
			if err != nil || len(leaves) != 6 {
				t.Errorf("%d leaves tell of it, %v", len(leaves), err)
			}
		})
	}
}

// A vault that cannot be reached leaves the hold placed and partial; a later run
// completes it.
func TestLegalHoldVaultDown(t *testing.T) {
	for name, fail := range map[string]func(w *legalWorld) (mend func()){
		"down": func(w *legalWorld) func() {
			down := true
			w.Vaults[1] = &vaulttest.Faulty{Vault: w.second, Fault: func(string) (error, error) {
				if down {
					return storetest.ErrFault, nil
				}
				return nil, nil
			}}
			return func() { down = false }
		},
		"refusing legal holds": func(w *legalWorld) func() {
			w.second.before = func(bool) error { return storetest.ErrFault }
			return func() { w.second.before = nil }
		},
		"lying": func(w *legalWorld) func() {
			w.second.lies = true
			return func() { w.second.lies = false }
		},
		"losing the second": func(w *legalWorld) func() {
			n := 0
			w.second.before = func(bool) error {
				if n++; n%2 == 0 {
					return storetest.ErrFault
				}
				return nil
			}
			return func() { w.second.before = nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			w := newLegalWorld(t)
			mend := fail(w)
			res := w.place(lifecycle.Scope{All: true})
			if err := w.Confirm(ctx, &res); err != nil || res.Status != "partial" {
				t.Fatalf("%+v, %v", res, err)
			}
			if len(res.Vaults) != 2 || res.Vaults[0] != (lifecycle.VaultHolds{Vault: "main", Confirmed: 2}) || res.Vaults[1].Missing != 2 || res.Vaults[1].Confirmed != 0 || res.Vaults[1].Problem == "" {
				t.Errorf("%+v", res.Vaults)
			}
			if got := w.legal(); got != "ab main set, c main set" {
				t.Error(got)
			}
			if got := w.status(res.HoldID); got != "partial main 2/2 second 0/2" {
				t.Error(got)
			}
			if lies := w.lies(); len(lies) > 0 {
				t.Errorf("recorded set and off: %q", lies)
			}
			if name != "down" { // a sweep goes its way, and counts what is missing
				if res := w.sweep(); res.LegalHoldsMissing != 2 || res.LegalHoldsSet != 0 {
					t.Errorf("%+v", res)
				}
			}
			mend()
			if res := w.sweep(); res.LegalHoldsMissing != 0 || res.LegalHoldsSet != 2 || res.LegalHoldsLifted != 0 {
				t.Errorf("%+v", res)
			}
			w.settled("completed", "ab main set, ab second set, c main set, c second set", 4, 4)
			if got := w.status(res.HoldID); got != "open main 2/2 second 2/2" {
				t.Error(got)
			}
			if res := w.sweep(); res.LegalHoldsMissing+res.LegalHoldsSet+res.LegalHoldsLifted != 0 {
				t.Errorf("a sweep with nothing to do: %+v", res)
			}

			// And the way back: what cannot be lifted stays for a sweep.
			fail(w)
			w.release(res.HoldID)
			done := w.project()
			if done.Lifted != 2 {
				t.Errorf("%+v", done)
			}
			if got := w.legal(); got != "ab second lifting, c second lifting" {
				t.Error(got)
			}
			w.first.before, w.second.before, w.second.lies, w.Vaults[1] = nil, nil, false, w.second
			w.now = w.now.Add(10*time.Minute + 1)
			if res := w.sweep(); res.LegalHoldsLifted != 2 {
				t.Errorf("%+v", res)
			}
			w.settled("lifted", "", 0, 0)
		})
	}
}

// Confirmed again, a hold that was partial is said to be what it is by then.
func TestConfirmAgain(t *testing.T) {
	ctx := context.Background()
	w := newLegalWorld(t)
	w.second.before = func(bool) error { return storetest.ErrFault }
	res := w.confirmed(lifecycle.Scope{RecordID: "a"})
	if res.Status != "partial" {
		t.Fatalf("%+v", res)
	}
	w.second.before = nil
	if err := w.Confirm(ctx, &res); err != nil || res.Status != "open" || len(res.Vaults) != 2 || res.Vaults[1].Missing != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

// A legal hold that somebody lifts past the database is found, and set again by
// confirming the hold once more.
func TestLegalHoldLiftedByAnother(t *testing.T) {
	ctx := context.Background()
	w := newLegalWorld(t)
	res := w.confirmed(lifecycle.Scope{RecordID: "a"})
	w.verify()
	g, err := w.store.Segment(ctx, w.ab.ID)
	if err != nil {
		t.Fatal(err)
	}
	c := g.Copies[1]
	if err := w.memVault(c.Vault).SetLegalHold(ctx, g.ManifestKey, c.ManifestVersion, false); err != nil {
		t.Fatal(err)
	}
	found, err := w.Verify(ctx)
	if err != nil || len(found.Missing) > 0 || len(found.Mismatches) != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	if m := found.Mismatches[0]; m.Kind != lifecycle.KindLegalHold || m.Vault != c.Vault || m.Key != g.ManifestKey || m.Segment != g.ID {
		t.Errorf("found %+v", m)
	}
	if err := w.Confirm(ctx, &res); err != nil || res.Status != "open" {
		t.Errorf("%+v, %v", res, err)
	}
	w.settled("confirmed again", bothSet, 4, 0)
	w.verify()
	leaves, err := w.store.Leaves(ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionLegalHoldSet}})
	if err != nil || len(leaves) != 3 || !strings.Contains(string(leaves[2].Body), `"again":true`) {
		t.Errorf("%+v, %v", leaves, err)
	}
	// A vault that does not answer is not confirmed again.
	if err := w.memVault(c.Vault).SetLegalHold(ctx, g.ObjectKey, c.ObjectVersion, false); err != nil {
		t.Fatal(err)
	}
	w.second.before = func(bool) error { return storetest.ErrFault }
	if err := w.Confirm(ctx, &res); err != nil || res.Status != "partial" {
		t.Errorf("with a vault that refuses: %+v, %v", res, err)
	}
}

// A hold that is placed while the last one's legal hold is being lifted ends up set
// and confirmed, whatever it was placed just before.
func TestHoldWhileLifting(t *testing.T) {
	ctx := context.Background()
	for _, vault := range []string{"main", "second"} {
		for at := 1; at <= 2; at++ { // the object, the manifest
			for _, scope := range []lifecycle.Scope{{RecordID: "a"}, traced("ROOT", lifecycle.Forward)} {
				t.Run(fmt.Sprint(vault, at, scope), func(t *testing.T) {
					w := newLegalWorld(t)
					old := w.confirmed(lifecycle.Scope{RecordID: "a"})
					w.release(old.HoldID)
					v := map[string]*bitVault{"main": w.first, "second": w.second}[vault]
					var placed lifecycle.PlaceResult
					n := 0
					v.before = func(on bool) error {
						if on {
							return nil
						}
						if n++; n == at {
							placed = w.confirmed(scope)
							// It is told that this one is not confirmed.
							if placed.Status != "partial" || !strings.HasPrefix(w.status(placed.HoldID), "partial") {
								t.Errorf("placed while it is lifted: %+v", placed)
							}
							for _, h := range placed.Vaults {
								if h.Vault == vault && (h.Missing != 1 || h.Confirmed != 0 || h.Problem == "") || h.Vault != vault && h.Missing != 0 {
									t.Errorf("placed while it is lifted: %+v", h)
								}
							}
						}
						if lies := w.lies(); len(lies) > 0 {
							t.Errorf("recorded set and off: %q", lies)
						}
						return nil
					}
					w.project()
					if placed.HoldID == "" {
						t.Fatal("nothing was lifted")
					}
					w.settled("afterwards", bothSet, 4, 0)
					again := lifecycle.PlaceResult{HoldID: placed.HoldID, Status: "open"}
					if err := w.Confirm(ctx, &again); err != nil || again.Status != "open" {
						t.Errorf("%+v, %v", again, err)
					}
					if got := w.status(placed.HoldID); got != "open main 1/1 second 1/1" {
						t.Error(got)
					}
					gone, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Subject: w.ab.ID, Actions: []string{lifecycle.ActionLegalHoldGone}})
					if err != nil {
						t.Fatal(err)
					}
					for _, l := range gone {
						if strings.Contains(string(l.Body), `"vault":"`+vault+`"`) {
							t.Errorf("recorded as lifted: %s", l.Body)
						}
					}
				})
			}
		}
	}
}

// A vault whose legal hold cannot be set again stays on its way, and the hold partial,
// until a sweep takes it over.
func TestHoldWhileLiftingThenDown(t *testing.T) {
	w := newLegalWorld(t)
	old := w.confirmed(lifecycle.Scope{RecordID: "a"})
	w.release(old.HoldID)
	var placed lifecycle.PlaceResult
	w.second.before = func(on bool) error {
		if on {
			return storetest.ErrFault
		}
		if placed.HoldID == "" {
			placed = w.place(lifecycle.Scope{RecordID: "b"})
		}
		return nil
	}
	w.project()
	if lies := w.lies(); len(lies) > 0 {
		t.Errorf("recorded set and off: %q", lies)
	}
	// The first vault's was lifted before the hold was placed.
	if got := w.status(placed.HoldID); got != "partial main 0/1 second 0/1" {
		t.Error(got)
	}
	w.second.before = nil
	if res := w.sweep(); res.LegalHoldsMissing != 1 || res.LegalHoldsSet != 1 {
		t.Errorf("before ten minutes are over: %+v", res)
	}
	w.now = w.now.Add(10*time.Minute + 1)
	w.sweep()
	w.settled("taken over", bothSet, 4, 0)
	if got := w.status(placed.HoldID); got != "open main 1/1 second 1/1" {
		t.Error(got)
	}
	if res := w.sweep(); res.LegalHoldsMissing != 0 {
		t.Errorf("%+v", res)
	}
}

// Lifting that was begun by a process that is gone is taken over by a sweep, after ten
// minutes and not before; if something is held again, by setting it.
func TestLiftingLeftBehind(t *testing.T) {
	ctx := context.Background()
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprint("held again ", held), func(t *testing.T) {
			w := newLegalWorld(t)
			old := w.confirmed(lifecycle.Scope{RecordID: "a"})
			w.release(old.HoldID)
			// It ends just after the first is said to be lifted.
			n := 0
			w.Store = &storetest.Faulty{Store: w.store, Fault: func(method string) (error, error) {
				if method == "MoveLegalHold" {
					n++
				}
				if n > 1 {
					return errDead, nil
				}
				return nil, nil
			}}
			if _, err := w.ProjectHolds(ctx); !errors.Is(err, errDead) {
				t.Fatal(err)
			}
			w.Store = w.store
			left := w.legal()
			if left != "ab main lifting, ab second set" && left != "ab main set, ab second lifting" {
				t.Fatal(left)
			}
			want := ""
			bits := 0
			if held {
				w.place(lifecycle.Scope{RecordID: "b"})
				want, bits = bothSet, 4
			}
			check := func(when string, missing int) {
				t.Helper()
				lifting := strings.Count(w.legal(), "lifting")
				if lifting != 1 {
					t.Errorf("%s: %s", when, w.legal())
				}
				if held != (missing > 0) {
					t.Errorf("%s: %d are missing", when, missing)
				}
			}
			check("projected", w.project().Missing())
			check("at once", w.sweep().LegalHoldsMissing)
			w.now = w.now.Add(10 * time.Minute)
			check("after ten minutes", w.sweep().LegalHoldsMissing)
			w.now = w.now.Add(1)
			check("projected after ten minutes", w.project().Missing())
			if res := w.sweep(); held && res.LegalHoldsLifted != 0 || !held && res.LegalHoldsLifted != 1 {
				t.Errorf("%+v", res)
			}
			w.settled("taken over", want, bits, 0)
			if got := w.sweep().LegalHoldsMissing; got != 0 {
				t.Errorf("%d missing", got)
			}
		})
	}
}

// Copies in vaults that join get their legal holds once they are there; those in vaults
// that retire keep them, and lose them as the others do.
func TestLegalHoldsAndVaults(t *testing.T) {
	ctx := context.Background()
	w := newLegalWorld(t)
	hold := w.confirmed(lifecycle.Scope{RecordID: "a"})
	third := w.addVault("third")
	if res := w.sweep(); res.LegalHoldsSet+res.LegalHoldsMissing != 0 {
		t.Errorf("a vault without copies: %+v", res)
	}
	if _, err := w.SyncVault(ctx, "third"); err != nil {
		t.Fatal(err)
	}
	if got := w.status(hold.HoldID); got != "partial main 1/1 second 1/1 third 0/1" {
		t.Error("synced:", got)
	}
	if err := w.RetireVault(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.LegalHoldsSet != 1 || res.LegalHoldsMissing+res.LegalHoldsLifted != 0 {
		t.Errorf("%+v", res)
	}
	on := func(want int) {
		t.Helper()
		g, err := w.store.Segment(ctx, w.ab.ID)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, c := range g.Copies {
			v := map[string]archive.Vault{"main": w.first, "second": w.second, "third": third}[c.Vault]
			n += bitsOf(t, v, g.ObjectKey, c.ObjectVersion, g.ManifestKey, c.ManifestVersion)
		}
		if n != want {
			t.Errorf("%d bits are on, want %d", n, want)
		}
	}
	on(6)
	// A new hold, on what the retiring vault has too.
	two := w.confirmed(lifecycle.Scope{RecordID: "c"})
	if got := w.status(two.HoldID); got != "open main 1/1 second 1/1 third 1/1" {
		t.Error(got)
	}
	w.release(hold.HoldID)
	w.release(two.HoldID)
	if res := w.sweep(); res.LegalHoldsLifted != 6 {
		t.Errorf("%+v", res)
	}
	on(0)
	if all, err := w.store.LegalHolds(ctx); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// A vault that has served its time, and is gone from the configuration, does not keep a
// hold from being confirmed.
func TestLegalHoldsAfterAVaultIsGone(t *testing.T) {
	ctx := context.Background()
	w := newLegalWorld(t)
	if err := w.RetireVault(ctx, "second"); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.AddDate(20, 0, 0)
	if err := w.AcceptClock(ctx); err != nil {
		t.Fatal(err)
	}
	w.Vaults = []archive.Vault{w.first}
	w.vaultIs("second", lifecycle.Retired, 2, 0)
	res := w.confirmed(lifecycle.Scope{RecordID: "a"})
	if res.Status != "open" {
		t.Errorf("%+v", res)
	}
	if res := w.sweep(); res.LegalHoldsMissing != 0 {
		t.Errorf("%+v", res)
	}
}

// TestLegalHoldFaults interrupts what places and confirms, and what releases and lifts,
// at every call. At no moment is a copy recorded set whose bit is off; and the same
// again brings it to its end.
func TestLegalHoldFaults(t *testing.T) {
	ctx := context.Background()
	type step func(w *legalWorld) error
	place := func(w *legalWorld) error {
		res, err := w.tryPlace(lifecycle.Recall, "CASE-1", traced("ROOT", lifecycle.Forward))
		if err != nil {
			return err
		}
		return w.Confirm(ctx, &res)
	}
	release := func(w *legalWorld) error {
		holds, err := w.Store.Holds(ctx, true)
		if err != nil {
			return err
		}
		for _, h := range holds {
			if err := w.Release(ctx, h.ID, "case closed"); err != nil && !errors.Is(err, lifecycle.ErrReleased) {
				return err
			}
		}
		_, err = w.ProjectHolds(ctx)
		return err
	}
	nothing := func(*legalWorld) error { return nil }
	for name, c := range map[string]struct {
		before, do step
		legal      string
		bits       int
	}{
		"place and confirm": {nothing, place, bothSet, 4},
		"release and lift":  {place, release, "", 0},
		// A hold is placed anew when the other's lifting was cut off.
		"release, lift and place again": {place, func(w *legalWorld) error { return errors.Join(release(w), place(w)) }, bothSet, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []fault{failBefore, failAfter, dieBefore, dieAfter} {
				for n := 1; ; n += sample(4) {
					w := newLegalWorld(t)
					if err := c.before(w); err != nil {
						t.Fatal(err)
					}
					tr := &trap{at: n, kind: kind}
					var mu sync.Mutex
					hook := func(method string) (before, after error) {
						// What is true between any two calls is seen here, through a way of its own.
						mu.Lock()
						defer mu.Unlock()
						if lies := w.lies(); len(lies) > 0 {
							t.Errorf("%s at %s, before %s: recorded set and off: %q", kind, tr.fired, method, lies)
						}
						return tr.hook(method)
					}
					w.Store = &storetest.Faulty{Store: w.store, Fault: hook}
					w.Vaults = []archive.Vault{&vaulttest.Faulty{Vault: w.first, Fault: hook}, &vaulttest.Faulty{Vault: w.second, Fault: hook}}
					err := c.do(w)
					if tr.fired == "" {
						if err != nil || n < 5 {
							t.Fatalf("%d calls, %v", n, err)
						}
						break
					}
					if err != nil && !errors.Is(err, storetest.ErrFault) && !errors.Is(err, errDead) {
						t.Fatalf("%s at %s: another error: %v", kind, tr.fired, err)
					}
					if lies := w.lies(); len(lies) > 0 {
						t.Errorf("%s at %s: recorded set and off: %q", kind, tr.fired, lies)
					}
					// The next process: the same again, and then a sweep for what the first has
					// left on its way.
					w.Store, w.Vaults = w.store, []archive.Vault{w.first, w.second}
					if err := c.do(w); err != nil {
						t.Fatalf("%s at %s, again: %v", kind, tr.fired, err)
					}
					w.now = w.now.Add(10*time.Minute + 1)
					w.sweep()
					w.settled(fmt.Sprintf("%s at %s, in the end", kind, tr.fired), c.legal, c.bits, 0)
					if t.Failed() {
						return
					}
				}
			}
		})
	}
}
