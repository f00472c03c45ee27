package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/shred"
)

func ids(cs []lifecycle.Class) (out []string) {
	for _, c := range cs {
		out = append(out, c.ID)
	}
	return out
}

func dyingClasses(k *kit) {
	k.openClasses("hot-2026-11-20-1", "hot-2026-11-21-1", "hot-2024-01-02-2", "hot-2024-01-02-1", "deferral-2026-10-1", "deferral-2026-11-1", "archive-2024-01-1")
	for _, c := range []struct {
		now  time.Time
		want []string
	}{
		{day("2026-11-21").Add(-1), []string{"hot-2024-01-02-2", "hot-2024-01-02-1", "deferral-2026-10-1"}},
		{day("2026-11-21"), []string{"hot-2024-01-02-2", "hot-2024-01-02-1", "deferral-2026-10-1", "hot-2026-11-20-1"}},
		{day("2026-12-01").Add(-1), []string{"hot-2024-01-02-2", "hot-2024-01-02-1", "deferral-2026-10-1", "hot-2026-11-20-1", "hot-2026-11-21-1"}},
		{day("2026-12-01"), []string{"hot-2024-01-02-2", "hot-2024-01-02-1", "deferral-2026-10-1", "hot-2026-11-20-1", "hot-2026-11-21-1", "deferral-2026-11-1"}},
	} {
		got, err := k.DyingClasses(k.ctx, c.now)
		k.ok(err)
		g := ids(got)
		slices.Sort(g)
		slices.Sort(c.want)
		if !slices.Equal(g, c.want) {
			k.Errorf("over at %s: %q, want %q", c.now, g, c.want)
		}
	}
	k.begin()
	k.execute("hot-2026-11-20-1")
	k.destroy(1, "hot-2024-01-02-1")
	got, err := k.DyingClasses(k.ctx, Start)
	k.ok(err)
	for _, c := range got {
		if c.ID == "hot-2024-01-02-1" || c.ID == "hot-2026-11-20-1" && (c.State != lifecycle.Executing || c.IntentLeaf == 0) {
			k.Errorf("dying is %+v", c)
		}
	}
}

func classDEKs(k *kit) {
	var batch []lifecycle.Sealed
	for i := range 10 {
		batch = append(batch, row(fmt.Sprint(i), expired))
	}
	k.take(append(batch, row("other", expired.Add(48*time.Hour)))...)
	k.begin()
	k.archive("seg-1", batch[3:5]...)
	var got []string
	for after := int64(0); ; {
		page, err := k.ClassDEKs(k.ctx, batch[0].Class, after, 3)
		k.ok(err)
		if len(page) == 0 {
			break
		}
		if len(page) > 3 {
			k.Fatalf("a page of %d", len(page))
		}
		for _, d := range page {
			if d.Row.Seq <= after || string(d.Wrapped) != "\x00wrapped DEK of "+d.Row.RecordID+"\xff" {
				k.Fatalf("%+v after %d", d, after)
			}
			if r, err := k.Row(k.ctx, d.Row.RecordID); err != nil || !reflect.DeepEqual(r, d.Row) {
				k.Errorf("%+v, %v, want %+v", d.Row, err, r)
			}
			after = d.Row.Seq
			got = append(got, d.Row.RecordID)
		}
	}
	if want := []string{"0", "1", "2", "5", "6", "7", "8", "9"}; !slices.Equal(got, want) {
		k.Errorf("DEKs of %q, want %q", got, want)
	}
	if page, err := k.ClassDEKs(k.ctx, "hot-1999-01-01-1", 0, 3); err != nil || len(page) > 0 {
		k.Errorf("DEKs of an unknown class: %v, %v", page, err)
	}
}

func reseal(k *kit) {
	a, b, c, other := row("a", expired), row("b", expired), row("c", expired), row("other", expired.Add(48*time.Hour))
	k.take(a, b, c, other)
	to := lifecycle.DeferralPeriod(Start).ID(1)
	k.openClasses(to, "deferral-2026-01-1")
	k.begin()
	k.archive("seg-1", c)
	deks := map[int64][]byte{}
	for _, id := range []string{"a", "c", "other"} {
		r, err := k.Row(k.ctx, id)
		k.ok(err)
		deks[r.Seq] = []byte("resealed " + id)
	}
	deks[1<<40] = []byte("of nobody")
	do := func(from, to string) (int, error) {
		return k.Reseal(k.ctx, k.lease, from, to, deks, leaf(lifecycle.ActionResealed))
	}
	// The class that it goes to has to be open.
	k.execute("deferral-2026-01-1")
	for _, closed := range []string{"deferral-2026-01-1", "deferral-1999-01-1"} {
		k.unchanged("a reseal into "+closed, func() {
			if n, err := do(a.Class, closed); n != 0 || !errors.Is(err, lifecycle.ErrMoved) {
				k.Errorf("resealed %d into %s, %v", n, closed, err)
			}
		})
	}
	if n, err := do(a.Class, to); err != nil || n != 1 {
		k.Errorf("resealed %d, %v, want only the one whose DEK is in %s", n, err, a.Class)
	}
	info, err := k.Info(k.ctx)
	k.ok(err)
	if info.NewestLeaf.Action != lifecycle.ActionResealed || string(info.NewestLeaf.Body) != `{"by":"storetest","records":1}` {
		k.Errorf("its leaf: %+v %s", info.NewestLeaf, info.NewestLeaf.Body)
	}
	a.Class, a.WrappedDEK = to, []byte("resealed a")
	k.same(a)
	k.same(b)
	k.same(other)
	k.unchanged("a repeated reseal", func() {
		if n, err := do(b.Class, to); err != nil || n != 0 {
			k.Errorf("resealed %d again, %v", n, err)
		}
	})
	// The old class can die now; a sealed copy of before is of no use then.
	k.archive("seg-2", b)
	k.destroy(1, b.Class)
	k.same(a)
}

func condemn(k *kit) {
	withDEK, archived, member := row("dek", expired), row("archived", expired.Add(24*time.Hour)), row("member", expired.Add(48*time.Hour))
	k.take(withDEK, archived, member)
	k.openClasses("hot-2026-11-21-1", "hot-2026-11-20-1", "deferral-2026-10-1", "deferral-2026-11-1", "archive-2024-01-1")
	k.begin()
	k.archive("seg-1", archived)
	all := []string{"hot-2026-11-21-1", "hot-2026-11-20-1", "deferral-2026-10-1", "deferral-2026-11-1", "archive-2024-01-1", withDEK.Class, archived.Class, member.Class, "hot-1999-01-01-1"}
	k.unchanged("condemning what may not be", func() {
		got, err := k.Condemn(k.ctx, k.lease, Start, []string{"hot-2026-11-21-1", "deferral-2026-11-1", withDEK.Class, member.Class, "hot-1999-01-01-1"}, leaf(lifecycle.ActionShredIntent))
		if err != nil || len(got) != 0 {
			k.Errorf("condemned %q, %v", got, err)
		}
	})
	// Not a nanosecond before the day is over.
	if got, err := k.Condemn(k.ctx, k.lease, day("2026-11-21").Add(-1), []string{"hot-2026-11-20-1"}, leaf(lifecycle.ActionShredIntent)); err != nil || len(got) != 0 {
		k.Errorf("condemned %q before its day was over, %v", got, err)
	}
	got, err := k.Condemn(k.ctx, k.lease, day("2026-11-21"), all, leaf(lifecycle.ActionShredIntent))
	k.ok(err)
	slices.Sort(got)
	want := []string{"archive-2024-01-1", "deferral-2026-10-1", "hot-2026-11-20-1", archived.Class}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		k.Errorf("condemned %q, want %q", got, want)
	}
	info, err := k.Info(k.ctx)
	k.ok(err)
	cs, err := k.Classes(k.ctx, false)
	k.ok(err)
	for _, c := range cs {
		if slices.Contains(want, c.ID) != (c.State == lifecycle.Condemned) || (c.State == lifecycle.Condemned) != (c.IntentLeaf == info.NewestLeaf.ID) {
			k.Errorf("class %+v, the intent leaf is %d", c, info.NewestLeaf.ID)
		}
	}
	k.unchanged("condemning again", func() {
		if got, err := k.Condemn(k.ctx, k.lease, Start, want, leaf(lifecycle.ActionShredIntent)); err != nil || len(got) != 0 {
			k.Errorf("condemned again: %q, %v", got, err)
		}
	})
}

func execute(k *kit) {
	a := row("a", expired)
	k.take(a)
	k.openClasses("hot-2026-11-20-1", "hot-2024-01-01-1")
	k.begin()
	k.archive("seg-1", a)
	run := func(now time.Time, classes ...string) []shred.Evidence {
		k.Helper()
		ev, err := k.Execute(k.ctx, k.lease, now, classes, leaf(lifecycle.ActionShredExecuting))
		k.ok(err)
		return ev
	}
	k.unchanged("executing what was not condemned", func() {
		if ev := run(Start, a.Class, "hot-2026-11-20-1", "hot-1999-01-01-1"); len(ev) > 0 {
			k.Errorf("evidence %+v", ev)
		}
	})
	k.destroy(1, "hot-2024-01-01-1")
	if got, err := k.Condemn(k.ctx, k.lease, Start, []string{a.Class, "hot-2026-11-20-1"}, leaf(lifecycle.ActionShredIntent)); err != nil || len(got) != 2 {
		k.Fatalf("condemned %q, %v", got, err)
	}
	intent, err := k.Info(k.ctx)
	k.ok(err)
	// Looked at again, at a time when one of them was not over: it is left.
	k.unchanged("executing before the class is over", func() {
		if ev := run(day("2026-11-21").Add(-1), "hot-2026-11-20-1"); len(ev) > 0 {
			k.Errorf("evidence %+v", ev)
		}
	})
	want := []shred.Evidence{
		{Class: a.Class, ClosesAt: lifecycle.HotPeriod(a.DueAt).Ends(), Now: Start, IntentLeaf: intent.NewestLeaf.ID},
		{Class: "hot-2026-11-20-1", ClosesAt: day("2026-11-21"), Now: Start, IntentLeaf: intent.NewestLeaf.ID},
	}
	byClass := func(a, b shred.Evidence) int { return strings.Compare(a.Class, b.Class) }
	for _, when := range []string{"once", "again, as after a crash"} {
		ev := run(Start, a.Class, "hot-2026-11-20-1", "hot-2024-01-01-1")
		slices.SortFunc(ev, byClass)
		slices.SortFunc(want, byClass)
		if !reflect.DeepEqual(ev, want) {
			k.Errorf("executed %s, the evidence is\n%+v, want\n%+v", when, ev, want)
		}
		if k.classState(a.Class) != lifecycle.Executing {
			k.Errorf("executed %s, the class is %s", when, k.classState(a.Class))
		}
	}
	if k.classState("hot-2024-01-01-1") != lifecycle.Destroyed {
		k.Error("a destroyed class went back")
	}
	if _, err := shred.Authorize(want); err != nil {
		k.Error("the evidence does not convince:", err)
	}
	// It takes no more DEKs, and is condemned no more.
	if res, err := k.Merge(k.ctx, []lifecycle.Sealed{row("late", expired)}, nil, leaf(lifecycle.ActionIngested)); err != nil || !slices.Equal(res.Closed, []string{a.Class}) {
		k.Errorf("merged into an executing class: %+v, %v", res, err)
	}
	if got, err := k.Condemn(k.ctx, k.lease, Start, []string{a.Class}, leaf(lifecycle.ActionShredIntent)); err != nil || len(got) > 0 {
		k.Errorf("condemned an executing class: %q, %v", got, err)
	}
}

func destroyed(k *kit) {
	k.openClasses("hot-2024-01-01-1", "hot-2024-01-02-1", "hot-2024-01-03-1")
	k.begin()
	at := Start.Add(time.Minute + 7)
	do := func(epoch uint64, classes ...string) error {
		return k.Destroyed(k.ctx, k.lease, classes, at, epoch, leaf(lifecycle.ActionShredded))
	}
	refused := func(what string, classes ...string) {
		k.Helper()
		k.unchanged("destroying "+what, func() {
			if err := do(99, classes...); !errors.Is(err, lifecycle.ErrMoved) {
				k.Errorf("destroying %s: %v", what, err)
			}
		})
	}
	refused("an open class", "hot-2024-01-01-1")
	_, err := k.Condemn(k.ctx, k.lease, Start, []string{"hot-2024-01-01-1"}, leaf(lifecycle.ActionShredIntent))
	k.ok(err)
	refused("a condemned class", "hot-2024-01-01-1")
	refused("an unknown class", "hot-1999-01-01-1")
	k.execute("hot-2024-01-02-1")
	refused("two classes of which one is not executing", "hot-2024-01-02-1", "hot-2024-01-01-1")
	k.ok(do(4, "hot-2024-01-02-1"))
	k.unchanged("recording a destruction again", func() { k.ok(do(4, "hot-2024-01-02-1")) })
	// A run that was cut off before it could say so, and has more by now.
	k.execute("hot-2024-01-03-1")
	k.ok(do(3, "hot-2024-01-02-1", "hot-2024-01-03-1"))
	cs, err := k.Classes(k.ctx, false)
	k.ok(err)
	for _, c := range cs {
		want := map[string]uint64{"hot-2024-01-02-1": 4, "hot-2024-01-03-1": 3}[c.ID]
		if (want > 0) != (c.State == lifecycle.Destroyed) || want > 0 && (!c.DestroyedAt.Equal(at) || c.Epoch != want) || want == 0 && !c.DestroyedAt.IsZero() {
			k.Errorf("class %+v", c)
		}
	}
	if info, err := k.Info(k.ctx); err != nil || info.Epoch != 4 {
		k.Errorf("epoch %d, %v: it must not go back", info.Epoch, err)
	}
	refused("forward only", "hot-2024-01-01-1")
}

// payload says whether a record's payload is there.
func (k *kit) payload(id string) bool {
	k.Helper()
	s, err := k.SealedRow(k.ctx, id)
	k.ok(err)
	return s.Payload != nil
}

func dropCiphertext(k *kit) {
	var dead, rest []lifecycle.Sealed
	for i := range 5 {
		dead = append(dead, row(fmt.Sprint("dead-", i), expired))
	}
	living := row("living", expired.Add(24*time.Hour))
	resealed := row("resealed", expired)
	rest = append(rest, living, resealed)
	k.take(append(dead, rest...)...)
	to := lifecycle.DeferralPeriod(Start).ID(1)
	k.openClasses(to)
	k.begin()
	drop := func(limit, want int) {
		k.Helper()
		n, err := k.DropCiphertext(k.ctx, k.lease, limit, leaf(lifecycle.ActionDropped))
		if err != nil || n != want {
			k.Errorf("dropped %d of at most %d, %v, want %d", n, limit, err, want)
		}
	}
	s, err := k.Row(k.ctx, "resealed")
	k.ok(err)
	if n, err := k.Reseal(k.ctx, k.lease, resealed.Class, to, map[int64][]byte{s.Seq: []byte("new")}, leaf(lifecycle.ActionResealed)); err != nil || n != 1 {
		k.Fatalf("resealed %d, %v", n, err)
	}
	k.archive("seg-1", dead...)
	k.archive("seg-2", living)
	none := func(why string) {
		k.Helper()
		k.unchanged("dropping "+why, func() { drop(100, 0) })
	}
	none("while the class is open")
	k.execute(dead[0].Class)
	none("while the class is executing")
	k.ok(k.Destroyed(k.ctx, k.lease, []string{dead[0].Class}, Start, 1, leaf(lifecycle.ActionShredded)))
	drop(2, 2)
	drop(2, 2)
	drop(2, 1)
	none("when none is left")
	for _, r := range dead {
		if k.payload(r.RecordID) {
			k.Errorf("the payload of %s is still there", r.RecordID)
		}
	}
	if !k.payload("living") || !k.payload("resealed") {
		k.Error("a payload whose class is not destroyed is gone")
	}
	// Another class later, and two of them within one limit.
	more := row("more", expired.Add(72*time.Hour))
	k.take(more)
	k.archive("seg-3", more)
	k.destroy(2, living.Class, more.Class)
	drop(100, 2)
	none("when none is left")
	if ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionDropped}}); err != nil || len(ls) != 4 {
		k.Errorf("%d leaves, %v, want one a drop that dropped", len(ls), err)
	}
}

// dropLargeClass: more members than one call drops, to the end.
func dropLargeClass(k *kit) {
	n := many(1000)
	var all []lifecycle.Sealed
	for i := range n {
		all = append(all, row(fmt.Sprint(i), expired))
	}
	k.take(all...)
	// Of the same month, and not to be dropped with the others.
	k.take(row("living", expired.Add(24*time.Hour)))
	k.begin()
	k.archive("seg-1", all...)
	k.destroy(1, all[0].Class)
	dropped := 0
	for {
		got, err := k.DropCiphertext(k.ctx, k.lease, 7, leaf(lifecycle.ActionDropped))
		k.ok(err)
		if got > 7 {
			k.Fatalf("dropped %d of at most 7", got)
		}
		if dropped += got; got == 0 {
			break
		}
	}
	if dropped != n || k.payload("0") || k.payload(fmt.Sprint(n-1)) || !k.payload("living") {
		k.Errorf("dropped %d of %d", dropped, n)
	}
}

func acceptKeyring(k *kit) {
	k.ok(k.OpenClasses(k.ctx, nil, 9, leaf(lifecycle.ActionClassOpened)))
	// A person's decision: the one way back.
	k.ok(k.AcceptKeyring(k.ctx, 4, leaf(lifecycle.ActionKeyringMended)))
	if info, err := k.Info(k.ctx); err != nil || info.Epoch != 4 || info.NewestLeaf.Action != lifecycle.ActionKeyringMended {
		k.Errorf("%+v, %v", info, err)
	}
}
