package storetest

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func leaves(k *kit) {
	in := []lifecycle.Leaf{
		{At: Start.Add(3), Actor: "a", Action: "one", RunID: "run-1", Subject: "s-1", Software: "lotkeeper 1.2 <é>", Role: "a lie", Body: json.RawMessage(`{"z":1,"a":1.50,"text":"\u00e9 % '"}`)},
		{At: Start.Add(2), Actor: "b", Action: "two", RunID: "run-1", Body: json.RawMessage(`{}`)}, // earlier, but committed later
		{At: Start.Add(1), Actor: "c", Action: "two", Subject: "s-1", Body: json.RawMessage(`{ "spaces" : "kept" }`)},
		{At: Start, Actor: "", Action: "three", RunID: "run-2", Subject: "run-2", Body: json.RawMessage(`{"n":123456789012345678}`)},
	}
	for _, l := range in {
		k.ok(k.Append(k.ctx, l))
	}
	find := func(q lifecycle.LeafQuery) []lifecycle.Leaf {
		k.Helper()
		got, err := k.Leaves(k.ctx, q)
		k.ok(err)
		return got
	}
	all := find(lifecycle.LeafQuery{})
	if len(all) != len(in)+1 || all[0].Action != lifecycle.ActionInit {
		k.Fatalf("leaves %+v", all)
	}
	for i, l := range all[1:] {
		if l.ID <= all[i].ID {
			k.Errorf("leaf %d after %d", l.ID, all[i].ID)
		}
		in[i].ID, in[i].Role, in[i].Index = l.ID, all[0].Role, -1
		if !reflect.DeepEqual(l, in[i]) {
			k.Errorf("leaf is %+v, want %+v", l, in[i])
		}
	}
	for _, c := range []struct {
		q    lifecycle.LeafQuery
		want []int
	}{
		{lifecycle.LeafQuery{RunID: "run-1"}, []int{0, 1}},
		{lifecycle.LeafQuery{Subject: "s-1"}, []int{0, 2}},
		{lifecycle.LeafQuery{RunID: "run-1", Subject: "s-1"}, []int{0}},
		{lifecycle.LeafQuery{Actions: []string{"two"}}, []int{1, 2}},
		{lifecycle.LeafQuery{Actions: []string{"three", "one"}}, []int{0, 3}},
		{lifecycle.LeafQuery{Actions: []string{"two"}, RunID: "run-2"}, nil},
		{lifecycle.LeafQuery{Subject: "none"}, nil},
	} {
		var want []lifecycle.Leaf
		for _, i := range c.want {
			want = append(want, in[i])
		}
		if got := find(c.q); !slices.EqualFunc(got, want, func(a, b lifecycle.Leaf) bool { return a.ID == b.ID }) {
			k.Errorf("%+v finds %+v, want %+v", c.q, got, want)
		}
	}
	// A leaf without a body has an empty one.
	k.ok(k.Append(k.ctx, lifecycle.Leaf{At: Start, Action: "bare"}))
	if l := find(lifecycle.LeafQuery{Actions: []string{"bare"}}); len(l) != 1 || string(l[0].Body) != "{}" {
		k.Errorf("a bare leaf: %+v", l)
	}
}

func recordLeaves(k *kit) {
	a, b := row("a", expired), row("b", expired)
	k.take(a, b)
	to := []string{"deferral-2026-11-1", "deferral-2026-12-1"}
	k.openClasses(to...)
	k.begin()
	k.place("h-1", onRecord("a"))
	r, err := k.Row(k.ctx, "a")
	k.ok(err)
	from := a.Class
	for _, c := range to {
		if n, err := k.Reseal(k.ctx, k.lease, from, c, map[int64][]byte{r.Seq: []byte(c)}, leaf(lifecycle.ActionResealed)); err != nil || n != 1 {
			k.Fatalf("resealed %d, %v", n, err)
		}
		from = c
	}
	k.release("h-1")
	k.verified("seg-1", a.ArchiveClass, 1)
	k.softDelete(1, "seg-1", Start, members(a))
	actions := func(id string) (out []string) {
		r, err := k.Row(k.ctx, id)
		k.ok(err)
		ls, err := k.RecordLeaves(k.ctx, r.Seq)
		k.ok(err)
		for i, l := range ls {
			if out = append(out, l.Action); i > 0 && l.ID <= ls[i-1].ID {
				k.Errorf("leaf %d after %d", l.ID, ls[i-1].ID)
			}
		}
		return out
	}
	if got, want := actions("a"), []string{lifecycle.ActionIngested, lifecycle.ActionResealed, lifecycle.ActionResealed, lifecycle.ActionArchived}; !slices.Equal(got, want) {
		k.Errorf("a: %q, want %q", got, want)
	}
	if got, want := actions("b"), []string{lifecycle.ActionIngested}; !slices.Equal(got, want) {
		k.Errorf("b: %q, want %q", got, want)
	}
	if ls, err := k.RecordLeaves(k.ctx, 1<<40); err != nil || len(ls) > 0 {
		k.Errorf("of nobody: %+v, %v", ls, err)
	}
}

func trustedTime(k *kit) {
	at := func(t, want time.Time) {
		k.Helper()
		k.ok(k.Append(k.ctx, lifecycle.Leaf{At: t, Action: "tick"}))
		if info, err := k.Info(k.ctx); err != nil || !info.TrustedTime.Equal(want) || !info.NewestLeaf.At.Equal(t) {
			k.Errorf("after a leaf at %s: trusted %s, newest %s, %v; want trusted %s", t, info.TrustedTime, info.NewestLeaf.At, err, want)
		}
	}
	trusted := Start.Add(1)
	at(trusted, trusted)
	at(trusted.Add(-time.Hour), trusted)          // never back
	at(trusted.Add(lifecycle.MaxJump+1), trusted) // not so far
	at(trusted.AddDate(500, 0, 0), trusted)       // more than a Duration holds
	at(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), trusted)
	trusted = trusted.Add(lifecycle.MaxJump)
	at(trusted, trusted)
	// Whatever writes the leaf.
	l := leaf(lifecycle.ActionHoldPlaced)
	l.At = trusted.Add(time.Hour)
	p := placement("h-1", onRecord("a"))
	p.Leaf = l
	k.ok(k.Place(k.ctx, p))
	if info, err := k.Info(k.ctx); err != nil || !info.TrustedTime.Equal(l.At) {
		k.Errorf("after a hold: trusted %s, %v, want %s", info.TrustedTime, err, l.At)
	}
}

func acceptClock(k *kit) {
	for _, t := range []time.Time{Start.Add(400 * 24 * time.Hour), Start.Add(-400 * 24 * time.Hour)} {
		k.ok(k.AcceptClock(k.ctx, lifecycle.Leaf{At: t, Actor: "a person", Action: lifecycle.ActionClockAccepted}))
		if info, err := k.Info(k.ctx); err != nil || !info.TrustedTime.Equal(t) || info.NewestLeaf.Action != lifecycle.ActionClockAccepted {
			k.Errorf("accepted %s: %+v, %v", t, info, err)
		}
	}
}
