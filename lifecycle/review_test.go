package lifecycle_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/report"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred/keystoretest"
)

func obtained(line, at string) string {
	return strings.Replace(line, `"kde_payload"`, `"created_or_obtained_at":"`+at+`","kde_payload"`, 1)
}

// The ends of the calendar: nothing that was taken in may keep the rest from
// being archived, nor make the database unreadable.
func TestFarTimes(t *testing.T) {
	w := newWorld(t)
	w.ingest(
		obtained(record("first", "L", instant(t, "0001-01-01T00:00:00Z")), "0001-01-01T00:00:00Z"),
		record("year-1", "L", instant(t, "0001-01-01T00:00:00Z")),
		obtained(record("last-obtained", "L", instant(t, "2022-09-14T08:30:00Z")), "9999-12-31T23:59:59.999999999Z"),
		record("last", "L", instant(t, "9999-12-31T23:59:59.999999999Z")),
		textbook,
	)
	w.verify()
	if res := w.sweep(); res.Due != 4 || res.Archived != 4 {
		t.Fatalf("%+v", res)
	}
	w.verify()
	if got := w.export(lifecycle.Query{}); len(got) != 5 {
		t.Fatal(got)
	}
	if _, err := w.Store.Segments(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.sweep()
}

// twoHandles is the scenario up to its sweep, in memory but for the database,
// with two handles on it, as two processes have. The first one's calls go
// through the trap.
func twoHandles(t *testing.T, tr *trap) (w, other *world) {
	t.Helper()
	w = newWorld(t)
	w.Limits.SegmentRecords, w.Limits.LockRecords, w.Limits.BatchRecords = 3, 2, 4
	if err := scenarioUntilSweep(w); err != nil {
		t.Fatal(err)
	}
	o, e := *w, *w.Engine
	o.Engine = &e
	store, err := sqlite.Open(context.Background(), filepath.Join(w.dir, "lotkeeper.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	o.store, o.Store = store, store
	w.Store = &storetest.Faulty{Store: w.store, Fault: tr.hook}
	w.Keys = &keystoretest.Faulty{KeyStore: w.Keys, Fault: tr.hook}
	w.Vaults = []archive.Vault{&vaulttest.Faulty{Vault: w.vault, Fault: tr.hook}}
	return w, &o
}

// TestBetweenAnyTwoCalls lets another process do something just before each
// call of Store, Vault and KeyStore that a sweep makes.
func TestBetweenAnyTwoCalls(t *testing.T) {
	ctx := context.Background()
	tr := &trap{}
	w, _ := twoHandles(t, tr)
	w.sweep()
	calls := slices.Sorted(slices.Values(tr.calls))
	t.Logf("%d calls", len(calls))

	// What the other process does, and what has to be so in the end.
	for name, other := range map[string]func(t *testing.T, o *world) (check func(w *world, res lifecycle.SweepResult)){
		"hold on a due record": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			o.place(lifecycle.Scope{RecordID: "a-2"})
			base := o.view("a-2").BaseState
			return func(w *world, res lifecycle.SweepResult) {
				v := w.view("a-2")
				if v.State != lifecycle.Held || v.BaseState != base {
					t.Errorf("held as %s, and now %s", base, v.BaseState)
				}
				if base == lifecycle.Active {
					if _, err := w.HotLine(ctx, "a-2"); err != nil {
						t.Errorf("held in the hot store, and now: %v", err)
					}
				}
			}
		},
		"hold on a lot": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			o.place(lifecycle.Scope{TLC: "LOT-A", TLCSource: "anywhere"})
			base := map[string]lifecycle.State{}
			for _, id := range []string{"a-1", "a-2", "a-3", "a-4"} {
				base[id] = o.view(id).BaseState
			}
			return func(w *world, res lifecycle.SweepResult) {
				for id, base := range base {
					v := w.view(id)
					if v.State != lifecycle.Held || v.BaseState != base {
						t.Errorf("%s was held as %s, and now %s", id, base, v.BaseState)
					}
				}
			}
		},
		"hold on what a lot was made from": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			o.place(traced("LOT-X", lifecycle.Forward))
			base := map[string]lifecycle.State{}
			for _, id := range []string{"a-1", "a-2", "a-3", "a-4"} {
				base[id] = o.view(id).BaseState
			}
			return func(w *world, res lifecycle.SweepResult) {
				for id, base := range base {
					if v := w.view(id); v.State != lifecycle.Held || v.BaseState != base {
						t.Errorf("%s was held as %s, and is %s, now %s", id, base, v.State, v.BaseState)
					}
				}
			}
		},
		"lineage that leads to a lot from one that is held": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			o.place(traced("LOT-NEW", lifecycle.Forward))
			o.ingest(from(record("late-link", "LOT-A", instant(t, "2022-09-14T09:30:00Z")), "LOT-MIDDLE"), from(record("late-middle", "LOT-MIDDLE", instant(t, "2022-09-14T09:30:00Z")), "LOT-NEW"))
			base := map[string]lifecycle.State{"late-link": lifecycle.Active, "late-middle": lifecycle.Active}
			for _, id := range []string{"a-1", "a-2", "a-3", "a-4"} {
				base[id] = o.view(id).BaseState
			}
			return func(w *world, res lifecycle.SweepResult) {
				for id, base := range base {
					if v := w.view(id); v.State != lifecycle.Held || v.BaseState != base {
						t.Errorf("%s was held as %s, and is %s, now %s", id, base, v.State, v.BaseState)
					}
				}
				w.sweep()
				if v := w.view("late-link"); v.BaseState != lifecycle.Active {
					t.Errorf("%+v", v)
				}
			}
		},
		"a hold that grows": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			hold := o.place(lifecycle.Scope{RecordID: "nobody"})
			if _, err := o.Extend(ctx, hold.HoldID, []lifecycle.Scope{{TLCPrefix: "LOT-A", Location: "FAC-001"}}); err != nil {
				t.Error(err)
			}
			base := o.view("a-3").BaseState
			return func(w *world, res lifecycle.SweepResult) {
				if v := w.view("a-3"); v.State != lifecycle.Held || v.BaseState != base {
					t.Errorf("held as %s, and now %s", base, v.BaseState)
				}
			}
		},
		"late records": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			late := []string{record("late-1", "LOT-L", instant(t, "2022-09-14T09:30:00Z")), record("late-2", "LOT-L", instant(t, "2022-09-15T09:30:00Z")),
				record("late-3", "LOT-L", today.Add(-730*24*time.Hour)),
				strings.Replace(record("late-4", "LOT-L", instant(t, "2022-09-15T12:00:00Z")), `}}`, `},"retention_hold":true}`, 1)}
			if res := o.ingest(late...); res.Accepted != 4 {
				t.Errorf("%+v", res)
			}
			return func(w *world, res lifecycle.SweepResult) {
				if got := w.export(lifecycle.Query{TLC: "LOT-L"}); len(got) != 4 {
					t.Errorf("late records: %q", got)
				}
				w.sweep()
				if v := w.view("late-1"); v.BaseState != lifecycle.Archived || v.ClassState != lifecycle.Destroyed {
					t.Errorf("%+v", v)
				}
				if v := w.view("late-4"); v.BaseState != lifecycle.Active {
					t.Errorf("%+v", v)
				}
			}
		},
		"duplicates that ask for a hold": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			dup := strings.Replace(record("a-2", "LOT-A", instant(t, "2022-09-14T10:00:00Z")), `}}`, `},"retention_hold":true}`, 1)
			if res := o.ingest(dup); res.Duplicates != 1 {
				t.Errorf("%+v", res)
			}
			base := o.view("a-2").BaseState
			return func(w *world, res lifecycle.SweepResult) {
				if v := w.view("a-2"); v.State != lifecycle.Held || v.BaseState != base {
					t.Errorf("held as %s, and now %s", base, v.BaseState)
				}
			}
		},
		"release": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			if err := o.Release(ctx, o.view("held-1").Holds[0].HoldID, "closed"); err != nil {
				t.Error(err)
			}
			return func(w *world, res lifecycle.SweepResult) {
				w.sweep()
				if v := w.view("held-1"); v.State != lifecycle.Archived {
					t.Errorf("%+v", v)
				}
			}
		},
		"second sweep": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			if _, err := o.Sweep(ctx, lifecycle.SweepOptions{}); err != nil && !errors.Is(err, lifecycle.ErrLocked) {
				t.Error(err)
			}
			return func(w *world, res lifecycle.SweepResult) {}
		},
		"dry run": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			if _, err := o.DryRun(ctx, o.now); err != nil {
				t.Error(err)
			}
			return func(w *world, res lifecycle.SweepResult) {}
		},
		"export": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			if got := o.export(lifecycle.Query{}); len(got) != 10 {
				t.Errorf("%q", got)
			}
			return func(w *world, res lifecycle.SweepResult) {}
		},
		"verify": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			o.verify()
			return func(w *world, res lifecycle.SweepResult) {}
		},
		"keyring recovery": func(t *testing.T, o *world) func(*world, lifecycle.SweepResult) {
			if res, err := o.RecoverKeyring(ctx); err != nil || len(res.Lost) > 0 {
				t.Error(res, err)
			}
			return func(w *world, res lifecycle.SweepResult) {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n, call := range calls {
				if n%stride() != 0 {
					continue
				}
				t.Run(call, func(t *testing.T) {
					tr := &trap{on: call}
					w, o := twoHandles(t, tr)
					var check func(*world, lifecycle.SweepResult)
					tr.act = func() { check = other(t, o) }
					res, err := w.Sweep(ctx, lifecycle.SweepOptions{})
					if err != nil {
						t.Fatalf("before %s: %v", tr.fired, err)
					}
					if check == nil {
						return // a shorter run
					}
					if res.Due != res.Held+res.Archived+res.Failed || res.Failed > 0 {
						t.Errorf("before %s: %+v", tr.fired, res)
					}
					checkNothingLost(t, w, tr.fired)
					w.verify()
					check(w, res)
					checkNothingLost(t, w, tr.fired)
					w.verify()
					if t.Failed() {
						t.Log("just before", tr.fired)
					}
				})
			}
		})
	}
}

// TestSweepBetweenAnyTwoCalls is the other way round: a whole sweep just before
// each call that somebody else makes.
func TestSweepBetweenAnyTwoCalls(t *testing.T) {
	ctx := context.Background()
	for name, do := range map[string]func(t *testing.T, w *world){
		"export": func(t *testing.T, w *world) {
			if got := w.export(lifecycle.Query{}); len(got) != 10 {
				t.Errorf("%q", got)
			}
		},
		"verify": func(t *testing.T, w *world) {
			if res := w.verify(); res.Records < 10 {
				t.Errorf("%+v", res)
			}
		},
		"line": func(t *testing.T, w *world) {
			for _, id := range []string{"a-2", "held-1", "young-1"} {
				if _, err := w.Line(ctx, id, false); err != nil {
					t.Error(err)
				}
			}
		},
		"view": func(t *testing.T, w *world) {
			for _, id := range []string{"a-2", "held-1", "young-1"} {
				w.view(id)
			}
		},
		"ingest": func(t *testing.T, w *world) {
			res := w.ingest(
				record("late-1", "LOT-L", instant(t, "2022-09-14T09:30:00Z")), record("late-2", "LOT-L", instant(t, "2022-09-15T09:30:00Z")),
				record("a-1", "LOT-A", instant(t, "2022-09-14T09:00:00Z")),
				record("late-3", "LOT-L", instant(t, "2022-09-14T09:30:00Z")), record("late-4", "LOT-L", instant(t, "2022-09-16T09:30:00Z")),
				strings.Replace(record("late-5", "LOT-L", instant(t, "2022-09-15T12:00:00Z")), `}}`, `},"retention_hold":true}`, 1))
			if res.Accepted != 5 || res.Duplicates != 1 {
				t.Errorf("%+v", res)
			}
		},
		"dry run": func(t *testing.T, w *world) {
			if _, err := w.DryRun(ctx, w.now); err != nil {
				t.Error(err)
			}
		},
		"keyring recovery": func(t *testing.T, w *world) {
			if res, err := w.RecoverKeyring(ctx); err != nil || len(res.Lost) > 0 {
				t.Error(res, err)
			}
		},
		"checksums": func(t *testing.T, w *world) {
			n := 0
			for row, err := range report.Checksums(ctx, w.Engine, lifecycle.Query{}) {
				if err != nil || (row.Segment != "") != (row.VersionID != "") {
					t.Error(row, err)
				}
				n++
			}
			if n != 10 {
				t.Error(n)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n += sample(3) {
				tr := &trap{at: n}
				w, o := twoHandles(t, tr)
				tr.act = func() { o.sweep() }
				do(t, w)
				if t.Failed() {
					t.Fatal("a sweep just before ", tr.fired)
				}
				if tr.fired == "" {
					return
				}
				checkNothingLost(t, o, tr.fired)
				o.sweep()
				o.verify()
			}
		})
	}
}

// failing makes a world's n-th call of a Store's method fail, before or after.
func failing(w *world, method string, at int, after bool) {
	n := 0
	w.Store = &storetest.Faulty{Store: w.store, Fault: func(m string) (error, error) {
		if m != method {
			return nil, nil
		}
		if n++; n != at {
			return nil, nil
		}
		if after {
			return nil, storetest.ErrFault
		}
		return storetest.ErrFault, nil
	}}
}

// A crash in the middle of a soft-delete, and then the vault loses the segment:
// the records that were soft-deleted have no copy left but what an older copy of
// the database holds, so their class keys must stay.
func TestDamagedSegmentKeepsItsKeys(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.Limits.LockRecords = 2
	w.ingest(record("a-1", "L", instant(t, "2022-09-14T09:00:00Z")), record("a-2", "L", instant(t, "2022-09-14T09:01:00Z")),
		record("a-3", "L", instant(t, "2022-09-14T09:02:00Z")), record("b-1", "L", instant(t, "2022-09-15T09:02:00Z")))
	failing(w, "SoftDelete", 2, false)
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !errors.Is(err, storetest.ErrFault) {
		t.Fatal(err)
	}
	w.Store = w.store
	segments, err := w.Store.Segments(ctx, lifecycle.Verified)
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	if err := w.vault.Tamper(segments[0].ObjectKey, "", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res, err := w.Sweep(ctx, lifecycle.SweepOptions{})
		if err == nil {
			t.Fatal("a damaged segment, and nobody noticed")
		}
		t.Logf("%+v %v", res, err)
		if v := w.view("a-1"); v.BaseState != lifecycle.Archived || v.ClassState != lifecycle.Open {
			t.Fatalf("the key of a record without a sound copy is %s", v.ClassState)
		}
		if v := w.view("b-1"); v.BaseState != lifecycle.Archived || v.ClassState != lifecycle.Destroyed {
			t.Fatalf("another day's: %+v", v)
		}
	}
}

// What a sweep says it did adds up, wherever it was stopped.
func TestCountsAddUp(t *testing.T) {
	ctx := context.Background()
	for _, kind := range []fault{failBefore, failAfter} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n += sample(3) {
				tr := &trap{at: n, kind: kind}
				w, o := twoHandles(t, tr)
				res, err := w.Sweep(ctx, lifecycle.SweepOptions{})
				if tr.fired == "" {
					return
				}
				if res.Due != res.Held+res.Archived+res.Failed || err == nil && res.Failed > 0 {
					t.Errorf("%s at %s: %+v %v", kind, tr.fired, res, err)
				}
				w.store.Close() // the process ends, and its lease with it
				again := o.sweep()
				if again.Due != again.Held+again.Archived+again.Failed || again.Failed > 0 {
					t.Errorf("after %s at %s: %+v", kind, tr.fired, again)
				}
			}
		})
	}
}

// A record that is held and whose DEK is damaged is due once.
func TestDamagedAndHeld(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(record("a-1", "L", instant(t, "2022-09-14T09:00:00Z")), record("a-2", "L", instant(t, "2022-09-14T09:01:00Z")), record("b-1", "M", instant(t, "2022-09-14T09:02:00Z")))
	w.place(lifecycle.Scope{TLC: "L"})
	raw(t, w, `UPDATE deks SET wrapped = zeroblob(61) WHERE seq IN (1, 3)`)
	for i := range 3 {
		res, err := w.Sweep(ctx, lifecycle.SweepOptions{})
		if err == nil || res.Due != 3 || res.Failed != 1 || res.Due != res.Held+res.Archived+res.Failed {
			t.Errorf("sweep %d: %+v %v", i, res, err)
		}
		if got := w.view("a-1"); got.ClassState != lifecycle.Open || got.State != lifecycle.Held {
			t.Errorf("%+v", got)
		}
		w.now = w.now.Add(6 * 24 * time.Hour)
	}
}

// A record that does not say when it was obtained was obtained now. With a clock
// that has fallen back to its epoch that would be long ago, and its law's floor
// with it.
func TestIngestWithAClockThatFellBack(t *testing.T) {
	w := newWorld(t)
	w.now = instant(t, "2000-01-01T00:00:00Z")
	if _, err := w.tryIngest(textbook); err == nil {
		t.Fatalf("taken in, and to be purged after %s, %s", w.view("cte-8842-a").PurgeNotBefore, w.view("cte-8842-a").CreatedOrObtainedAt)
	} else if r, ok := lifecycle.IsRefused(err); !ok || r.Check != "clock" {
		t.Fatal(err)
	}
	// A few minutes are no matter, nor is a clock that is ahead: it keeps longer.
	w.now = today.Add(-time.Minute)
	w.ingest(textbook)
	w.now = today.Add(365 * 24 * time.Hour)
	w.ingest(record("a", "L", today))
}

// A staged segment whose identity does not open any more never counted: its
// records are hot, and go into another. A verified one is told of, and the rest
// goes on.
func TestDamagedIdentity(t *testing.T) {
	ctx := context.Background()
	for _, method := range []string{"VerifySegment", "SoftDelete"} {
		t.Run(method, func(t *testing.T) {
			w := newWorld(t)
			w.ingest(textbook)
			failing(w, method, 1, false)
			if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !errors.Is(err, storetest.ErrFault) {
				t.Fatal(err)
			}
			w.Store = w.store
			raw(t, w, `UPDATE segments SET wrapped_identity = zeroblob(100)`)
			w.ingest(record("a", "L", instant(t, "2022-09-15T09:30:00Z")))
			_, err := w.Sweep(ctx, lifecycle.SweepOptions{})
			if (err == nil) != (method == "VerifySegment") {
				t.Error(err)
			}
			for _, id := range []string{"cte-8842-a", "a"} {
				if v := w.view(id); v.State != lifecycle.Archived {
					t.Errorf("%s is %s", id, v.State)
				}
				if _, err := w.Line(ctx, id, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A hot record whose row is gone is found by what the trail says was taken in.
func TestMissingHotRow(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(textbook, record("a", "L", today))
	raw(t, w, `DELETE FROM deks WHERE seq = 2`, `DELETE FROM payloads WHERE seq = 2`, `DELETE FROM records WHERE seq = 2`)
	res, err := w.Verify(ctx)
	if err != nil || len(res.Mismatches)+len(res.Missing) == 0 {
		t.Fatalf("nobody noticed: %+v %v", res, err)
	}
}

// Without its manifests an object is compared with the database, in the order
// of its lines; what could not be compared does not count as compared.
func TestVerifyWithoutManifest(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(record("z", "L", instant(t, "2022-09-15T09:30:00Z")), record("a", "L", instant(t, "2022-09-15T09:30:00Z")))
	w.sweep()
	segments, err := w.Store.Segments(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.vault.Drop(segments[0].ManifestKey)
	res, err := w.Verify(ctx)
	if err != nil || len(res.Mismatches) != 0 || len(res.Missing) != 1 || res.Records != 2 {
		t.Errorf("%+v %v", res, err)
	}
	w.vault.Drop(segments[0].ObjectKey)
	res, err = w.Verify(ctx)
	if err != nil || len(res.Mismatches) != 0 || len(res.Missing) != 2 || res.Records != 0 {
		t.Errorf("%+v %v", res, err)
	}
}

// TestManyFaultsInARow interrupts run after run, each recovering from the ones
// before, while days and months go by; then a run gets through.
func TestManyFaultsInARow(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.Log = zerolog.Nop()
		w.Limits.SegmentRecords, w.Limits.LockRecords, w.Limits.BatchRecords = 3, 2, 4
		w.Limits.MinLock = 2 * 24 * time.Hour
		keys := w.Keys
		reopen := func(tr *trap) {
			w.store.Close()
			store, err := sqlite.Open(ctx, filepath.Join(w.dir, "lotkeeper.db"))
			if err != nil {
				t.Fatal(err)
			}
			w.store = store
			w.Store = &storetest.Faulty{Store: store, Fault: tr.hook}
			w.Keys = &keystoretest.Faulty{KeyStore: keys, Fault: tr.hook}
			w.Vaults = []archive.Vault{&vaulttest.Faulty{Vault: w.vault, Fault: tr.hook}}
		}
		defer func() { w.store.Close() }()
		var log []string
		placed := map[string]lifecycle.State{} // what a person has put a hold on, and how it stood
		for range rapid.IntRange(1, 7).Draw(rt, "faults") {
			tr := &trap{
				at:   rapid.IntRange(1, 150).Draw(rt, "at"),
				kind: rapid.SampledFrom([]fault{failBefore, failAfter, dieBefore, dieAfter}).Draw(rt, "kind"),
			}
			reopen(tr)
			err := scenario(w)
			log = append(log, fmt.Sprintf("%s %s at %s: %v", w.now.Format(time.RFC3339), tr.kind, tr.fired, err))
			if err != nil && !errors.Is(err, storetest.ErrFault) && !errors.Is(err, errDead) {
				rt.Fatalf("another error: %q", log)
			}
			reopen(&trap{})
			checkNothingLost(t, w, fmt.Sprint(log))
			held := w.held("held-1", "held-2")
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 6*24).Draw(rt, "hours")) * time.Hour)
			if res, err := w.Verify(ctx); err != nil || len(res.Missing)+len(res.Mismatches) > 0 {
				rt.Fatalf("%+v %v after %q", res, err, log)
			}
			if info, err := w.Store.Info(ctx); err != nil || w.now.Sub(info.TrustedTime) > lifecycle.MaxJump {
				if err := errors.Join(err, w.AcceptClock(ctx)); err != nil { // faults before any leaf, for a week
					rt.Fatal(err)
				}
			}
			if got := w.held("held-1", "held-2"); got != held {
				rt.Fatalf("%s became %s after %q", held, got, log)
			}
			if id := rapid.SampledFrom([]string{"", "", "a-1", "a-4", "b-1", "today-1"}).Draw(rt, "hold"); id != "" {
				if v, err := w.View(ctx, id); err == nil && placed[id] == "" {
					if _, err := w.Place(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Litigation, Reason: "a test", Scopes: []lifecycle.Scope{{RecordID: id}}}); err != nil {
						rt.Fatal(err)
					}
					placed[id] = v.BaseState
					log = append(log, fmt.Sprintf("hold on %s, which is %s", id, v.BaseState))
				}
			}
		}
		reopen(&trap{})
		if err := scenario(w); err != nil {
			rt.Fatalf("the last run: %v after %q", err, log)
		}
		for _, id := range []string{"cte-8842-a", "a-1", "a-2", "a-3", "a-4", "b-1", "today-1"} {
			want := lifecycle.Archived
			if placed[id] != "" {
				want = placed[id]
			}
			if v := w.view(id); v.BaseState != want || (v.State == lifecycle.Held) != (placed[id] != "") {
				rt.Fatalf("%s is %s, %s after %q", id, v.State, v.BaseState, log)
			}
		}
		if got := w.held("held-1", "held-2"); got != "held active, held active" {
			rt.Fatalf("%s after %q", got, log)
		}
		classes, err := w.Store.Classes(ctx, true)
		if err != nil {
			rt.Fatal(err)
		}
		pinned := map[string]bool{} // by a hold on an archived member, if it came in time
		for id, state := range placed {
			r, err := w.Store.Row(ctx, id)
			if err != nil {
				rt.Fatal(err)
			}
			pinned[r.Class] = state == lifecycle.Archived || pinned[r.Class]
		}
		for _, c := range classes {
			over := c.Period.Kind != lifecycle.ArchiveClass && !c.Period.Ends().After(w.now)
			if over != (c.State == lifecycle.Destroyed) && (!over || !pinned[c.ID]) {
				rt.Fatalf("class %s is %s after %q", c.ID, c.State, log)
			}
		}
		checkNothingLost(t, w, fmt.Sprint(log))
		w.verify()
		checkTrail(t, w)
		noPlaintext(t, w.dir)
	})
}

// held says how records stand that a hold covers, those that are there.
func (w *world) held(ids ...string) string {
	var out []string
	for _, id := range ids {
		v, err := w.View(context.Background(), id)
		if errors.Is(err, lifecycle.ErrNotFound) || len(v.Holds) == 0 {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %s", v.State, v.BaseState))
	}
	return strings.Join(out, ", ")
}

// checkTrail: every state that anything is in has the leaves that led there, in
// their order.
func checkTrail(t *testing.T, w *world) {
	t.Helper()
	ctx := context.Background()
	leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{})
	if err != nil {
		t.Fatal(err)
	}
	first := map[string]int64{} // by action and what it names: the first leaf that does
	at := func(l lifecycle.Leaf, what string) {
		if key := l.Action + " " + what; first[key] == 0 {
			first[key] = l.ID
		}
	}
	resealed, archived, ingested, purged := 0, 0, 0, 0
	for i, l := range leaves {
		if i > 0 && l.ID <= leaves[i-1].ID {
			t.Fatalf("leaf %d after %d", l.ID, leaves[i-1].ID)
		}
		var body struct {
			Classes []string `json:"classes"`
			Records int      `json:"records"`
			Cutoff  string   `json:"cutoff"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			t.Fatalf("leaf %d: %s: %v", l.ID, l.Body, err)
		}
		if l.Subject != "" {
			at(l, l.Subject)
		}
		for _, c := range body.Classes {
			at(l, c)
		}
		switch l.Action {
		case lifecycle.ActionIngested:
			ingested += body.Records
		case lifecycle.ActionArchived:
			archived += body.Records
			if !strings.Contains(body.Cutoff, " - 730 days = ") {
				t.Errorf("leaf %d does not say how its cutoff came about: %s", l.ID, l.Body)
			}
		case lifecycle.ActionResealed:
			resealed += body.Records
		case lifecycle.ActionPurged:
			purged += body.Records
		}
	}
	order := func(what string, actions ...string) {
		t.Helper()
		last := int64(0)
		for _, a := range actions {
			id := first[a+" "+what]
			if id <= last {
				t.Errorf("%s: leaf %d says %s, and the step before it has %d", what, id, a, last)
			}
			last = id
		}
	}
	classes, err := w.Store.Classes(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		order(c.ID, lifecycle.ActionClassOpened)
		if c.State == lifecycle.Destroyed {
			order(c.ID, lifecycle.ActionClassOpened, lifecycle.ActionShredIntent, lifecycle.ActionShredExecuting, lifecycle.ActionShredded)
			if c.IntentLeaf != first[lifecycle.ActionShredIntent+" "+c.ID] {
				t.Errorf("class %s names intent leaf %d", c.ID, c.IntentLeaf)
			}
		}
	}
	segments, err := w.Store.Segments(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range segments {
		switch g.State {
		case lifecycle.Settled:
			order(g.ID, lifecycle.ActionStaged, lifecycle.ActionVerified, lifecycle.ActionSettled)
		case lifecycle.PurgedSegment:
			order(g.ID, lifecycle.ActionStaged, lifecycle.ActionVerified, lifecycle.ActionPurged)
		case lifecycle.Abandoned:
			order(g.ID, lifecycle.ActionStaged, lifecycle.ActionAbandoned)
		default:
			t.Errorf("segment %s was left %s", g.ID, g.State)
		}
	}
	holds, err := w.Store.Holds(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range holds {
		order(h.ID, lifecycle.ActionHoldPlaced)
	}
	runs, err := w.Store.Runs(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		switch r.Status {
		case "interrupted":
			order(r.ID, lifecycle.ActionRunStarted, lifecycle.ActionRunInterrupted)
		case "running":
			t.Errorf("run %s was left running", r.ID)
		default:
			order(r.ID, lifecycle.ActionRunStarted, lifecycle.ActionRunFinished)
		}
	}
	counts, err := w.Store.Counts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if int64(archived) != counts[lifecycle.Archived]+counts[lifecycle.Purged] || int64(purged) != counts[lifecycle.Purged] || int64(ingested) != counts[lifecycle.Active]+int64(archived) {
		t.Errorf("the trail says %d ingested, %d archived, %d purged; there are %v", ingested, archived, purged, counts)
	}
}

// A recall that takes three years: the held records move from one month's
// deferral class to the next, every month's class dies, and after the release
// they go the way of all others.
func TestHeldForYears(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(textbook, record("held-1", "LOT-H", instant(t, "2022-09-14T09:00:00Z")),
		strings.Replace(record("held-2", "LOT-S", instant(t, "2022-09-15T12:00:00Z")), `}}`, `},"retention_hold":true}`, 1))
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	for range 3 * 53 {
		if res := w.sweep(); res.Held != 2 || res.Due != res.Held+res.Archived || res.Failed > 0 {
			t.Fatalf("%s: %+v", w.now, res)
		}
		w.now = w.now.Add(7 * 24 * time.Hour)
	}
	month := "deferral-" + w.now.Add(-7*24*time.Hour).Format("2006-01") + "-1"
	for _, id := range []string{"held-1", "held-2"} {
		v := w.view(id)
		if v.Class != month || v.State != lifecycle.Held {
			t.Errorf("%s is %s in class %s", id, v.State, v.Class)
		}
		if _, err := w.Line(ctx, id, false); err != nil {
			t.Error(err)
		}
		if err := w.Release(ctx, v.Holds[0].HoldID, "closed"); err != nil {
			t.Error(err)
		}
	}
	if res := w.sweep(); res.Archived != 2 || res.Held != 0 {
		t.Fatalf("%+v", res)
	}
	for range 6 {
		w.now = w.now.Add(7 * 24 * time.Hour)
		w.sweep()
	}
	classes, err := w.Store.Classes(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		if c.Period.Kind != lifecycle.ArchiveClass && c.State != lifecycle.Destroyed {
			t.Errorf("class %s is %s", c.ID, c.State)
		}
	}
	w.verify()
	checkTrail(t, w)
}

// Duplicates that ask for the hold they have read the holds once a batch: one by
// one, ten thousand of them took eleven minutes.
func TestDuplicatesReadHoldsOnce(t *testing.T) {
	w := newWorld(t)
	var lines []string
	for i := range 40 {
		lines = append(lines, strings.Replace(record(fmt.Sprint("r-", i), "L", today), `}}`, `},"retention_hold":true}`, 1))
	}
	w.ingest(lines[:20]...)
	reads := 0
	w.Store = &storetest.Faulty{Store: w.store, Fault: func(method string) (error, error) {
		if method == "Holds" {
			reads++
		}
		return nil, nil
	}}
	if res := w.ingest(append(lines[:20:20], strings.Replace(textbook, "false", "true", 1))...); res.Duplicates != 20 || res.Accepted != 1 || reads != 1 {
		t.Errorf("%d reads of the holds: %+v", reads, res)
	}
}

// An older database that has never heard of a class that is destroyed is as old
// as one that takes it for open.
func TestOlderDatabaseThatKnowsLess(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(record("young", "L", today))
	path := filepath.Join(w.dir, "lotkeeper.db")
	backup := filepath.Join(tempDir(t), "backup.db")
	raw(t, w, `VACUUM INTO '`+backup+`'`)
	w.ingest(textbook)
	w.sweep()
	w.store.Close()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		os.Remove(path + suffix)
	}
	if err := os.Rename(backup, path); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	w.store, w.Store = store, store
	if _, err = w.Sweep(ctx, lifecycle.SweepOptions{}); !isRefused(err, "log") {
		t.Errorf("a sweep of a database that has lost a record: %v", err)
	}
	// Without the vault's word for it the keyring's still stands.
	w.Vaults[0] = archive.NewAbsent("main", errors.New("away"))
	_, err = w.tryIngest(record("another", "L", today))
	if r, ok := lifecycle.IsRefused(err); !ok || r.Check != "keyring" || !strings.Contains(r.Reason, "older copy") {
		t.Errorf("an ingest: %v", err)
	}
}

// TestInterruptedAtEveryCall: the context ends just before a call, as Ctrl-C
// does it. The run ends, says so, and the same process can go on.
func TestInterruptedAtEveryCall(t *testing.T) {
	t.Parallel()
	for n := 1; ; n += sample(3) {
		tr := &trap{at: n}
		w, o := twoHandles(t, tr)
		w.Log = zerolog.Nop()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		tr.act = cancel
		res, err := w.Sweep(ctx, lifecycle.SweepOptions{})
		if tr.fired == "" {
			return
		}
		if res.Due != res.Held+res.Archived+res.Failed || err == nil && res.Failed > 0 {
			t.Errorf("interrupted before %s: %+v %v", tr.fired, res, err)
		}
		checkNothingLost(t, o, tr.fired)
		o.sweep() // the lease was given back
		if res := w.sweep(); res.Archived+res.Recovered+res.ShreddedClasses > 0 {
			t.Errorf("interrupted before %s, the next sweep left something: %+v", tr.fired, res)
		}
		o.verify()
		checkTrail(t, o)
	}
}

// TestEverythingAtOnce: what the tests above do one at a time.
func TestEverythingAtOnce(t *testing.T) {
	ctx := context.Background()
	w, o := twoHandles(t, &trap{})
	w.Limits.SegmentRecords, w.Limits.LockRecords = 50, 20
	third := *o
	e := *o.Engine
	third.Engine = &e
	w.Log, o.Log, third.Log = zerolog.Nop(), zerolog.Nop(), zerolog.Nop()
	var wg sync.WaitGroup
	var sweeps atomic.Int64
	done := make(chan struct{})
	wg.Go(func() { // sweeps
		for {
			if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); err != nil {
				t.Errorf("sweep: %v", err)
				sweeps.Add(1000)
				return
			}
			sweeps.Add(1)
			select {
			case <-done:
				return
			default:
			}
		}
	})
	wg.Go(func() { // reads
		for {
			if res, err := third.Verify(ctx); err != nil || len(res.Mismatches)+len(res.Missing) > 0 {
				t.Errorf("verify: %+v %v", res, err)
			}
			for _, err := range third.Export(ctx, lifecycle.Query{}, false) {
				if err != nil {
					t.Errorf("export: %v", err)
				}
			}
			if _, err := third.RecoverKeyring(ctx); err != nil {
				t.Errorf("recover: %v", err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	base := map[string]lifecycle.State{}
	for i := 0; sweeps.Load() < 12 && i < 90; i++ { // records, then a hold on some of them
		id := func(k int) string { return fmt.Sprintf("x-%d-%d", i, k) }
		var lines []string
		for k := range 7 {
			lines = append(lines, record(id(k), fmt.Sprint("LOT-", i), instant(t, "2022-09-14T09:30:00Z").Add(time.Duration(k%3)*24*time.Hour)))
		}
		if res, err := o.tryIngest(lines...); err != nil || res.Accepted != 7 {
			t.Errorf("ingest: %+v %v", res, err)
			break
		}
		// By now a sweep has it in its hands, or not, or is through with it.
		old := func(k int) string { return fmt.Sprintf("x-%d-%d", i-i%4, k) }
		switch i % 3 {
		case 0:
			o.place(lifecycle.Scope{RecordID: old(i % 7)})
			base[old(i%7)] = o.view(old(i % 7)).BaseState
		case 1:
			o.place(lifecycle.Scope{TLC: fmt.Sprint("LOT-", i-i%4)})
			for k := range 7 {
				if base[old(k)] == "" {
					base[old(k)] = o.view(old(k)).BaseState
				}
			}
		}
	}
	close(done)
	wg.Wait()
	if t.Failed() {
		return
	}
	w.sweep()
	kept := 0
	for id, base := range base {
		v := w.view(id)
		if v.State != lifecycle.Held || v.BaseState != base {
			t.Errorf("%s was held as %s, and is %s, %s", id, base, v.State, v.BaseState)
		}
		if base == lifecycle.Active {
			kept++
			if _, err := w.HotLine(ctx, id); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("%d of %d were held while hot", kept, len(base))
	w.verify()
	checkTrail(t, w)
}

// A held record was resealed after a copy of the keyring was made. With that copy
// put back its key is lost; the key of the class that it was in before is back,
// and opens it in an older copy of the database. It must not be destroyed again
// as long as a person may need it.
func TestRecoverDestroysNothingWhileAnythingIsLost(t *testing.T) {
	ctx := context.Background()
	w, ring := keyringWorld(t)
	w.ingest(record("held", "H", instant(t, "2022-09-14T08:30:00Z")), record("b", "L", instant(t, "2022-09-14T08:30:00Z")))
	w.place(lifecycle.Scope{TLC: "H"})
	older := ring + ".older"
	copyTree(t, older, ring)
	w.sweep()
	if v := w.view("held"); !strings.HasPrefix(v.Class, "deferral-") {
		t.Fatalf("%+v", v)
	}
	w.putBack(ring, older)
	res, err := w.RecoverKeyring(ctx)
	if err != nil || len(res.Lost) != 1 || len(res.DestroyedAgain)+len(res.Created) > 0 {
		t.Errorf("%+v %v", res, err)
	}
	if _, err := w.Keys.Open(ctx, "hot-2024-09-13-1"); err != nil {
		t.Error(err)
	}
}
