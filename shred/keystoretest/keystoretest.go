// Package keystoretest holds the one suite that every shred.KeyStore passes.
package keystoretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/shred"
	"pgregory.net/rapid"
)

// Opener opens one store, each time anew, as another process would: nothing is shared
// between two of its results but the store itself. Several may be open at once. It
// registers their closing with t.
type Opener func(t testing.TB) shred.KeyStore

// Exercise runs the suite. fresh makes a new store without keys and returns its Opener.
func Exercise(t *testing.T, fresh func(t testing.TB) Opener) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Opener)
	}{
		{"CreateAndOpen", createAndOpen},
		{"CreateIsIdempotent", createIsIdempotent},
		{"IDs", ids},
		{"WrapsAreBound", wrapsAreBound},
		{"KeysAreIndependent", keysAreIndependent},
		{"Reseal", reseal},
		{"SurvivesReopen", survivesReopen},
		{"Destroy", destroy},
		{"DestroyUnknown", destroyUnknown},
		{"DestroyedStaysDestroyed", destroyedStaysDestroyed},
		{"DestroyProved", destroyProved},
		{"Permits", permits},
		{"SeenByOthers", seenByOthers},
		{"Canceled", canceled},
		{"Concurrency", concurrency},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh(t)) })
	}
	t.Run("Model", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { model(t, rt, fresh(t)) })
	})
}

// Permit returns a permit for the classes, on evidence that leaves nothing to object
// to.
func Permit(t testing.TB, classes ...string) shred.Permit {
	t.Helper()
	closes := time.Date(2024, 11, 22, 0, 0, 0, 0, time.UTC)
	var ev []shred.Evidence
	for i, c := range classes {
		ev = append(ev, shred.Evidence{Class: c, ClosesAt: closes, Now: closes, IntentLeaf: int64(i + 1)})
	}
	p, err := shred.Authorize(ev)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func create(t testing.TB, ks shred.KeyStore, ids ...string) uint64 {
	t.Helper()
	epoch, err := ks.Create(t.Context(), ids)
	if err != nil {
		t.Fatalf("Create(%q): %v", ids, err)
	}
	return epoch
}

func open(t testing.TB, ks shred.KeyStore, id string) *shred.ClassKey {
	t.Helper()
	k, err := ks.Open(t.Context(), id)
	if err != nil {
		t.Fatalf("Open(%q): %v", id, err)
	}
	if k.ID() != id {
		t.Fatalf("Open(%q) returned the key of %q", id, k.ID())
	}
	return k
}

func status(t testing.TB, ks shred.KeyStore) shred.Status {
	t.Helper()
	st, err := ks.Status(t.Context())
	if err != nil {
		t.Fatalf("Status: %v", err)
	}
	if len(st.Copies) == 0 {
		t.Error("Status names no copy")
	}
	for _, c := range st.Copies {
		if c.Problem != "" || c.Epoch != st.Epoch || c.Path == "" {
			t.Errorf("Status: a copy of a sound store at epoch %d reads %+v", st.Epoch, c)
		}
	}
	return st
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func wantIDs(t testing.TB, st shred.Status, live, destroyed []string) {
	t.Helper()
	if !slices.Equal(st.Live, live) || !slices.Equal(st.Destroyed, destroyed) {
		t.Errorf("Status: live %q, destroyed %q; want %q and %q", st.Live, st.Destroyed, live, destroyed)
	}
}

func createAndOpen(t *testing.T, opener Opener) {
	ks := opener(t)
	before := status(t, ks)
	wantIDs(t, before, nil, nil)
	_, err := ks.Open(t.Context(), "day-1")
	wantErr(t, "Open before Create", err, shred.ErrUnknownKey)

	epoch := create(t, ks, "day-2", "day-1")
	if epoch <= before.Epoch {
		t.Errorf("Create of new keys left the epoch at %d, was %d", epoch, before.Epoch)
	}
	open(t, ks, "day-1")
	open(t, ks, "day-2")
	st := status(t, ks)
	wantIDs(t, st, []string{"day-1", "day-2"}, nil)
	if st.Epoch != epoch {
		t.Errorf("Status: epoch %d, Create returned %d", st.Epoch, epoch)
	}
}

func createIsIdempotent(t *testing.T, opener Opener) {
	ks := opener(t)
	e1 := create(t, ks, "a")
	mac := open(t, ks, "a").MAC("l", nil)
	if e := create(t, ks, "a"); e != e1 {
		t.Errorf("Create with nothing new raised the epoch from %d to %d", e1, e)
	}
	if e := create(t, ks); e != e1 {
		t.Errorf("Create of nothing raised the epoch from %d to %d", e1, e)
	}
	e2 := create(t, ks, "b", "a", "b")
	if e2 <= e1 {
		t.Errorf("Create with one new key left the epoch at %d", e2)
	}
	if open(t, ks, "a").MAC("l", nil) != mac {
		t.Error("Create changed a key that was there")
	}
	wantIDs(t, status(t, ks), []string{"a", "b"}, nil)
}

func ids(t *testing.T, opener Opener) {
	ks := opener(t)
	longest := string(bytes.Repeat([]byte("x"), 255))
	for _, id := range []string{"", longest + "x", "a b", "a\x00", "a\n", "ä", "\xff"} {
		if _, err := ks.Create(t.Context(), []string{"fine", id}); err == nil {
			t.Errorf("Create took the id %q", id)
		}
		if _, err := ks.Open(t.Context(), id); err == nil {
			t.Errorf("Open took the id %q", id)
		}
	}
	wantIDs(t, status(t, ks), nil, nil)
	for _, id := range []string{longest, "../x", "hot/2024-11-21/1", "~", "!", "%2f", "A", "a"} {
		create(t, ks, id)
		open(t, ks, id)
	}
}

func wrapsAreBound(t *testing.T, opener Opener) {
	ks := opener(t)
	create(t, ks, "a", "b")
	a, b := open(t, ks, "a"), open(t, ks, "b")
	dek, sealed, err := shred.Seal(rand.Reader, []byte("payload"), "r1")
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := a.Wrap(rand.Reader, dek, "r1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Unwrap(wrapped, "r1")
	if err != nil || got != dek {
		t.Fatalf("Unwrap: %v, the same key: %v", err, got == dek)
	}
	if p, err := shred.Open(got, sealed, "r1"); err != nil || string(p) != "payload" {
		t.Fatalf("Open: %q, %v", p, err)
	}
	_, err = a.Unwrap(wrapped, "r2")
	wantErr(t, "Unwrap for another record", err, shred.ErrAuthentication)
	_, err = b.Unwrap(wrapped, "r1")
	wantErr(t, "Unwrap by another class", err, shred.ErrAuthentication)

	secret, err := a.WrapSecret(rand.Reader, []byte("AGE-SECRET-KEY-"), "segment 1")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := a.UnwrapSecret(secret, "segment 1"); err != nil || string(s) != "AGE-SECRET-KEY-" {
		t.Fatalf("UnwrapSecret: %q, %v", s, err)
	}
	_, err = a.UnwrapSecret(secret, "segment 2")
	wantErr(t, "UnwrapSecret with another label", err, shred.ErrAuthentication)
	_, err = b.UnwrapSecret(secret, "segment 1")
	wantErr(t, "UnwrapSecret by another class", err, shred.ErrAuthentication)
}

func keysAreIndependent(t *testing.T, opener Opener) {
	ks := opener(t)
	var all []string
	for i := range 20 {
		all = append(all, fmt.Sprintf("class-%d", i))
	}
	create(t, ks, all...)
	seen := map[[32]byte]string{}
	for _, id := range all {
		mac := open(t, ks, id).MAC("l", []byte("m"))
		if other, ok := seen[mac]; ok {
			t.Errorf("classes %q and %q have the same key", id, other)
		}
		seen[mac] = id
	}
}

func reseal(t *testing.T, opener Opener) {
	ks := opener(t)
	create(t, ks, "dying", "later")
	from, to := open(t, ks, "dying"), open(t, ks, "later")
	dek := [32]byte{1, 2, 3}
	wrapped, err := from.Wrap(rand.Reader, dek, "r")
	if err != nil {
		t.Fatal(err)
	}
	moved, err := shred.Reseal(rand.Reader, from, to, wrapped, "r")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shred.Destroy(t.Context(), ks, Permit(t, "dying"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	later := open(t, opener(t), "later")
	if got, err := later.Unwrap(moved, "r"); err != nil || got != dek {
		t.Errorf("a resealed key doesn't open after its old class was destroyed: %v", err)
	}
	_, err = later.Unwrap(wrapped, "r")
	wantErr(t, "Unwrap of the old wrapping by the new class", err, shred.ErrAuthentication)
}

func survivesReopen(t *testing.T, opener Opener) {
	ks := opener(t)
	epoch := create(t, ks, "a", "b")
	wrapped, err := open(t, ks, "a").Wrap(rand.Reader, [32]byte{7}, "r")
	if err != nil {
		t.Fatal(err)
	}
	mac := open(t, ks, "a").MAC("content", []byte("m"))

	again := opener(t)
	if st := status(t, again); st.Epoch != epoch {
		t.Errorf("epoch %d after reopening, was %d", st.Epoch, epoch)
	}
	k := open(t, again, "a")
	if dek, err := k.Unwrap(wrapped, "r"); err != nil || dek != [32]byte{7} {
		t.Errorf("Unwrap after reopening: %v", err)
	}
	if k.MAC("content", []byte("m")) != mac {
		t.Error("the MAC changed with reopening")
	}
	if k.MAC("other", []byte("m")) == mac {
		t.Error("the MAC doesn't depend on its label")
	}
}

func destroy(t *testing.T, opener Opener) {
	ks := opener(t)
	e1 := create(t, ks, "a", "b", "c", "d")
	mac := open(t, ks, "d").MAC("l", nil)

	d, err := ks.Destroy(t.Context(), Permit(t, "b", "a"))
	if err != nil {
		t.Fatal(err)
	}
	if d.Epoch <= e1 {
		t.Errorf("Destroy left the epoch at %d", d.Epoch)
	}
	check := func(ks shred.KeyStore, live, destroyed []string) {
		t.Helper()
		for _, id := range destroyed {
			_, err := ks.Open(t.Context(), id)
			wantErr(t, "Open of destroyed "+id, err, shred.ErrDestroyed)
		}
		for _, id := range live {
			open(t, ks, id)
		}
		wantIDs(t, status(t, ks), live, destroyed)
		if open(t, ks, "d").MAC("l", nil) != mac {
			t.Error("destroying other keys changed a live one")
		}
	}
	check(ks, []string{"c", "d"}, []string{"a", "b"})
	check(opener(t), []string{"c", "d"}, []string{"a", "b"})

	// Again, all of it destroyed already: nothing changes.
	d2, err := ks.Destroy(t.Context(), Permit(t, "a", "b"))
	if err != nil {
		t.Fatalf("second Destroy: %v", err)
	}
	if d2.Epoch != d.Epoch {
		t.Errorf("second Destroy moved the epoch from %d to %d", d.Epoch, d2.Epoch)
	}
	// Mixed: the live one goes.
	if _, err := opener(t).Destroy(t.Context(), Permit(t, "a", "c")); err != nil {
		t.Fatalf("mixed Destroy: %v", err)
	}
	check(ks, []string{"d"}, []string{"a", "b", "c"})
	check(opener(t), []string{"d"}, []string{"a", "b", "c"})
}

func destroyUnknown(t *testing.T, opener Opener) {
	ks := opener(t)
	create(t, ks, "a", "b")
	if _, err := ks.Destroy(t.Context(), Permit(t, "b")); err != nil {
		t.Fatal(err)
	}
	epoch := status(t, ks).Epoch
	_, err := ks.Destroy(t.Context(), Permit(t, "a", "b", "never"))
	wantErr(t, "Destroy with an unknown id", err, shred.ErrUnknownKey)
	open(t, ks, "a") // none of the list was destroyed
	if st := status(t, ks); st.Epoch != epoch {
		t.Errorf("a refused Destroy moved the epoch from %d to %d", epoch, st.Epoch)
	}
	create(t, ks, "never")
}

func destroyedStaysDestroyed(t *testing.T, opener Opener) {
	ks := opener(t)
	create(t, ks, "a")
	if _, err := ks.Destroy(t.Context(), Permit(t, "a")); err != nil {
		t.Fatal(err)
	}
	for _, ks := range []shred.KeyStore{ks, opener(t)} {
		_, err := ks.Create(t.Context(), []string{"new", "a"})
		wantErr(t, "Create of a destroyed id", err, shred.ErrDestroyed)
		_, err = ks.Open(t.Context(), "new")
		wantErr(t, "Open of an id that was refused along with a destroyed one", err, shred.ErrUnknownKey)
		_, err = ks.Open(t.Context(), "a")
		wantErr(t, "Open", err, shred.ErrDestroyed)
	}
}

func destroyProved(t *testing.T, opener Opener) {
	ks := opener(t)
	create(t, ks, "a", "b", "c")
	if _, err := shred.Destroy(t.Context(), ks, Permit(t, "a"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	// As after a crash: some of the list is gone already.
	d, err := shred.Destroy(t.Context(), opener(t), Permit(t, "a", "b"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if d.Epoch != status(t, ks).Epoch {
		t.Errorf("Destroy returned epoch %d, Status %d", d.Epoch, status(t, ks).Epoch)
	}
	if _, err := shred.Destroy(t.Context(), ks, Permit(t, "a", "b"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	_, err = shred.Destroy(t.Context(), ks, Permit(t, "c", "never"), rand.Reader)
	wantErr(t, "Destroy of an unknown id", err, shred.ErrUnknownKey)
	open(t, ks, "c")
}

func permits(t *testing.T, opener Opener) {
	ks := opener(t)
	epoch := create(t, ks, "a")
	var np *shred.NotPermitted
	if _, err := ks.Destroy(t.Context(), shred.Permit{}); !errors.As(err, &np) {
		t.Errorf("Destroy with the zero permit: %v, want *NotPermitted", err)
	}
	if _, err := shred.Destroy(t.Context(), ks, shred.Permit{}, rand.Reader); !errors.As(err, &np) {
		t.Errorf("proved Destroy with the zero permit: %v, want *NotPermitted", err)
	}
	wantIDs(t, status(t, ks), []string{"a"}, nil)
	if st := status(t, ks); st.Epoch != epoch {
		t.Errorf("the zero permit moved the epoch")
	}
}

// seenByOthers: what one handle does, another that was open before sees at its next
// call.
func seenByOthers(t *testing.T, opener Opener) {
	one, two := opener(t), opener(t)
	create(t, one, "a", "b")
	mac := open(t, two, "a").MAC("l", nil)
	if open(t, one, "a").MAC("l", nil) != mac {
		t.Error("two handles open different keys for one id")
	}
	create(t, two, "c")
	open(t, one, "c")
	if _, err := one.Destroy(t.Context(), Permit(t, "a")); err != nil {
		t.Fatal(err)
	}
	_, err := two.Open(t.Context(), "a")
	wantErr(t, "Open of a key that another handle destroyed", err, shred.ErrDestroyed)
	_, err = two.Create(t.Context(), []string{"a"})
	wantErr(t, "Create of an id that another handle destroyed", err, shred.ErrDestroyed)
	create(t, two, "d")
	wantIDs(t, status(t, one), []string{"b", "c", "d"}, []string{"a"})
}

func canceled(t *testing.T, opener Opener) {
	ks := opener(t)
	create(t, ks, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := ks.Create(ctx, []string{"b"})
	wantErr(t, "Create", err, context.Canceled)
	_, err = ks.Open(ctx, "a")
	wantErr(t, "Open", err, context.Canceled)
	_, err = ks.Destroy(ctx, Permit(t, "a"))
	wantErr(t, "Destroy", err, context.Canceled)
	_, err = ks.Status(ctx)
	wantErr(t, "Status", err, context.Canceled)
	wantIDs(t, status(t, ks), []string{"a"}, nil)
}

// concurrency: creators and destroyers on several handles, each with ids of its own and
// one that all want; every acknowledged effect is there at the end.
func concurrency(t *testing.T, opener Opener) {
	const workers, rounds = 6, 5
	first := opener(t)
	create(t, first, "stays")
	stays := open(t, first, "stays").MAC("l", nil)
	handles := []shred.KeyStore{first, opener(t), opener(t)}
	var shared sync.Map // the MAC under each key that all workers create
	var wg sync.WaitGroup
	for w := range workers {
		ks := handles[w%len(handles)]
		wg.Go(func() {
			for r := range rounds {
				all, mine, gone := fmt.Sprintf("all-%d", r), fmt.Sprintf("live-%d-%d", w, r), fmt.Sprintf("gone-%d-%d", w, r)
				if _, err := ks.Create(t.Context(), []string{all, mine, gone}); err != nil {
					t.Errorf("Create: %v", err)
					return
				}
				k, err := ks.Open(t.Context(), all)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				mac := k.MAC("l", nil)
				if prev, _ := shared.LoadOrStore(all, mac); prev != mac {
					t.Errorf("two workers got different keys for %q", all)
				}
				if _, err := shred.Destroy(t.Context(), ks, Permit(t, gone), rand.Reader); err != nil {
					t.Errorf("Destroy: %v", err)
				}
				k, err = ks.Open(t.Context(), "stays")
				if err != nil || k.MAC("l", nil) != stays {
					t.Errorf("Open of a key that nobody touches: %v", err)
				}
			}
		})
	}
	wg.Wait()
	live, destroyed := []string{"stays"}, []string{}
	for r := range rounds {
		live = append(live, fmt.Sprintf("all-%d", r))
		for w := range workers {
			live = append(live, fmt.Sprintf("live-%d-%d", w, r))
			destroyed = append(destroyed, fmt.Sprintf("gone-%d-%d", w, r))
		}
	}
	slices.Sort(live)
	slices.Sort(destroyed)
	wantIDs(t, status(t, opener(t)), live, destroyed)
}

// model compares random calls on two handles with what a map says.
func model(t *testing.T, rt *rapid.T, opener Opener) {
	ctx := context.Background()
	handles := []shred.KeyStore{opener(t), opener(t)}
	macs := map[string][32]byte{} // of live keys
	gone := map[string]bool{}
	id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	list := rapid.SliceOfNDistinct(id, 1, 4, rapid.ID)
	handle := rapid.SampledFrom([]int{0, 1})
	last := status(t, handles[0]).Epoch
	rt.Repeat(map[string]func(*rapid.T){
		"create": func(rt *rapid.T) {
			ids, ks := list.Draw(rt, "ids"), handles[handle.Draw(rt, "handle")]
			epoch, err := ks.Create(ctx, ids)
			if slices.ContainsFunc(ids, func(id string) bool { return gone[id] }) {
				if !errors.Is(err, shred.ErrDestroyed) {
					rt.Fatalf("Create(%q): %v, want ErrDestroyed", ids, err)
				}
				return
			}
			if err != nil {
				rt.Fatalf("Create(%q): %v", ids, err)
			}
			isNew := false
			for _, id := range ids {
				if _, ok := macs[id]; !ok {
					k, err := ks.Open(ctx, id)
					if err != nil {
						rt.Fatalf("Open(%q): %v", id, err)
					}
					macs[id], isNew = k.MAC("l", nil), true
				}
			}
			if isNew != (epoch > last) || epoch < last {
				rt.Fatalf("Create(%q), new: %v, moved the epoch from %d to %d", ids, isNew, last, epoch)
			}
			last = epoch
		},
		"destroy": func(rt *rapid.T) {
			ids, ks := list.Draw(rt, "ids"), handles[handle.Draw(rt, "handle")]
			d, err := ks.Destroy(ctx, Permit(t, ids...))
			for _, id := range ids {
				if _, ok := macs[id]; !ok && !gone[id] {
					if !errors.Is(err, shred.ErrUnknownKey) {
						rt.Fatalf("Destroy(%q): %v, want ErrUnknownKey", ids, err)
					}
					return
				}
			}
			if err != nil || d.Epoch < last {
				rt.Fatalf("Destroy(%q): epoch %d, was %d, %v", ids, d.Epoch, last, err)
			}
			last = d.Epoch
			for _, id := range ids {
				delete(macs, id)
				gone[id] = true
			}
		},
		"reopen": func(rt *rapid.T) { handles[handle.Draw(rt, "handle")] = opener(t) },
		"": func(rt *rapid.T) {
			for _, ks := range handles {
				st, err := ks.Status(ctx)
				if err != nil {
					rt.Fatal(err)
				}
				if st.Epoch != last || !slices.Equal(st.Live, slices.Sorted(maps.Keys(macs))) ||
					!slices.Equal(st.Destroyed, slices.Sorted(maps.Keys(gone))) {
					rt.Fatalf("Status: %+v; want epoch %d, live %v, destroyed %v", st, last, macs, gone)
				}
				for id, mac := range macs {
					k, err := ks.Open(ctx, id)
					if err != nil || k.MAC("l", nil) != mac {
						rt.Fatalf("Open(%q): %v, or another key", id, err)
					}
				}
				for id := range gone {
					if _, err := ks.Open(ctx, id); !errors.Is(err, shred.ErrDestroyed) {
						rt.Fatalf("Open(%q): %v, want ErrDestroyed", id, err)
					}
				}
			}
		},
	})
}
