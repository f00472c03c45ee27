package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// heldCopy is the copy of a segment of the suite's in one of the suite's vaults.
func (k *kit) heldCopy(segment, class string, c lifecycle.Copy, state lifecycle.LegalState, since time.Time) lifecycle.HeldCopy {
	g := k.segment(segment, class, 0)
	return lifecycle.HeldCopy{Segment: segment, Vault: c.Vault, ObjectKey: g.ObjectKey, ObjectVersion: c.ObjectVersion, ManifestKey: g.ManifestKey, ManifestVersion: c.ManifestVersion, State: state, Since: since}
}

func (k *kit) moveLegal(segment, vault string, from, to lifecycle.LegalState) error {
	l := leaf(map[lifecycle.LegalState]string{lifecycle.LegalSet: lifecycle.ActionLegalHoldSet, lifecycle.Lifting: lifecycle.ActionLegalHoldOff, lifecycle.LegalNone: lifecycle.ActionLegalHoldGone}[to])
	l.Subject = segment
	return k.MoveLegalHold(k.ctx, segment, vault, from, to, l)
}

// heldCopies: which copies of which segments need a legal hold.
func heldCopies(k *kit) {
	k.addVault("cold")
	k.addVault("main")
	a, b, c, d := row("a", expired, lot("A", "S")), row("b", expired, lot("B", "S")), row("c", expired, lot("C", "S")), row("d", expired, lot("A", ""))
	hot := row("hot", expired, lot("A", "S"))
	k.take(a, b, c, d, hot)
	k.begin()
	class := a.ArchiveClass
	k.archive("seg-2", a, b)
	k.verified("seg-1", class, 1) // live, and not settled yet
	k.softDelete(1, "seg-1", Start, members(d))
	k.archive("seg-3", c)
	// Of its members none is archived in it.
	k.verified("seg-4", class, 2)
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-5", class, 1), leaf(lifecycle.ActionStaged)))
	both := func(segment string, state lifecycle.LegalState, since time.Time) []lifecycle.HeldCopy {
		return []lifecycle.HeldCopy{k.heldCopy(segment, class, copies()[0], state, since), k.heldCopy(segment, class, copies()[1], state, since)}
	}
	none := time.Time{}
	check := func(when string, r lifecycle.Reach, want ...[]lifecycle.HeldCopy) {
		k.Helper()
		got, err := k.HeldCopies(k.ctx, r)
		k.ok(err)
		if w := slices.Concat(want...); len(got)+len(w) > 0 && !reflect.DeepEqual(got, w) {
			k.Errorf("%s:\n%+v, want\n%+v", when, got, w)
		}
	}
	lotA := lifecycle.Reach{Scopes: []lifecycle.Scope{onLot("A", "S")}}
	check("a lot", lotA, both("seg-1", "", none), both("seg-2", "", none))
	check("a record", lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("b")}}, both("seg-2", "", none))
	check("two of one segment", lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("b"), onRecord("a"), onLot("B", "")}}, both("seg-2", "", none))
	check("a traced lot", lifecycle.Reach{Lots: []cte.Lot{lotOf("C", "")}}, both("seg-3", "", none))
	check("a hot record", lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("hot")}})
	check("nothing", lifecycle.Reach{})
	check("everything", lifecycle.Reach{Scopes: []lifecycle.Scope{{All: true}}}, both("seg-1", "", none), both("seg-2", "", none), both("seg-3", "", none))

	if all, err := k.LegalHolds(k.ctx); err != nil || len(all) != 0 {
		k.Errorf("legal holds before any: %+v, %v", all, err)
	}
	k.ok(k.moveLegal("seg-2", "main", "", lifecycle.LegalSet))
	k.ok(k.moveLegal("seg-3", "main", "", lifecycle.LegalSet))
	k.ok(k.moveLegal("seg-1", "cold", "", lifecycle.LegalSet))
	seg1, seg2 := both("seg-1", "", none), both("seg-2", "", none)
	seg1[0].State, seg1[0].Since = lifecycle.LegalSet, Start
	seg2[1].State, seg2[1].Since = lifecycle.LegalSet, Start
	check("set in part", lotA, seg1, seg2)
	all, err := k.LegalHolds(k.ctx)
	k.ok(err)
	slices.SortFunc(all, func(a, b lifecycle.HeldCopy) int { return strings.Compare(a.Segment, b.Segment) })
	if want := []lifecycle.HeldCopy{seg1[0], seg2[1], k.heldCopy("seg-3", class, copies()[1], lifecycle.LegalSet, Start)}; !reflect.DeepEqual(all, want) {
		k.Errorf("legal holds\n%+v, want\n%+v", all, want)
	}
	// A retiring vault's copies are copies still; a vault that joins has them once they
	// are recorded.
	k.ok(k.RetireVault(k.ctx, "cold", leaf(lifecycle.ActionVaultRetiring)))
	check("a vault retires", lotA, seg1, seg2)
	k.addVault("new")
	check("a vault joins", lotA, seg1, seg2)
	fresh := copies()[0]
	fresh.Vault, fresh.ObjectVersion, fresh.ManifestVersion = "new", "v-n1", "v-n2"
	k.ok(k.AddCopy(k.ctx, "seg-2", fresh, leaf(lifecycle.ActionVaultCopied)))
	seg2 = append(seg2, k.heldCopy("seg-2", class, fresh, "", none))
	check("a vault that joins has a copy", lotA, seg1, seg2)
}

// legalMoves: every move of a copy's legal hold, from every state.
func legalMoves(k *kit) {
	k.addVault("cold")
	k.addVault("main")
	a := row("a", expired)
	k.take(a)
	k.begin()
	k.archive("seg-1", a)
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment("seg-staged", a.ArchiveClass, 1), leaf(lifecycle.ActionStaged)))
	none, set, lifting := lifecycle.LegalNone, lifecycle.LegalSet, lifecycle.Lifting
	states := []lifecycle.LegalState{none, set, lifting}
	legal := map[[2]lifecycle.LegalState]bool{{none, set}: true, {set, lifting}: true, {lifting, set}: true, {lifting, none}: true}
	is := func() lifecycle.LegalState {
		k.Helper()
		all, err := k.LegalHolds(k.ctx)
		k.ok(err)
		for _, c := range all {
			if c.Segment == "seg-1" && c.Vault == "main" {
				return c.State
			}
		}
		return none
	}
	// How to come from one to another.
	way := map[[2]lifecycle.LegalState][]lifecycle.LegalState{
		{none, set}: {set}, {none, lifting}: {set, lifting}, {set, none}: {lifting, none}, {set, lifting}: {lifting}, {lifting, none}: {none}, {lifting, set}: {set},
	}
	bring := func(to lifecycle.LegalState) {
		k.Helper()
		for _, next := range way[[2]lifecycle.LegalState{is(), to}] {
			k.ok(k.moveLegal("seg-1", "main", is(), next))
		}
		if is() != to {
			k.Fatalf("it is %q, not %q", is(), to)
		}
	}
	for _, at := range states {
		for _, from := range states {
			for _, to := range states {
				if from == to {
					continue
				}
				bring(at)
				what := fmt.Sprintf("a move of %q from %q to %q", at, from, to)
				switch {
				case from == at && legal[[2]lifecycle.LegalState{from, to}]:
					k.ok(k.moveLegal("seg-1", "main", from, to))
					if is() != to {
						k.Errorf("%s made it %q", what, is())
					}
					// Told again, as after a lost acknowledgement.
					k.unchanged(what+", again", func() { k.moved(what+", again", k.moveLegal("seg-1", "main", from, to)) })
				case from == at:
					k.unchanged(what, func() {
						if err := k.moveLegal("seg-1", "main", from, to); err == nil {
							k.Errorf("%s was done", what)
						}
					})
				default:
					k.unchanged(what, func() {
						if err := k.moveLegal("seg-1", "main", from, to); legal[[2]lifecycle.LegalState{from, to}] && !errors.Is(err, lifecycle.ErrMoved) || err == nil {
							k.Errorf("%s: %v, want ErrMoved", what, err)
						}
					})
				}
			}
		}
	}
	bring(none)
	k.unchanged("a legal hold of what is not there", func() {
		for _, at := range [][2]string{{"seg-9", "main"}, {"seg-1", "nobody"}, {"seg-staged", "main"}} {
			if err := k.moveLegal(at[0], at[1], none, set); err == nil {
				k.Errorf("of %s in %s", at[0], at[1])
			}
		}
	})
	// When it came into its state, and the trail.
	l := leaf(lifecycle.ActionLegalHoldSet)
	l.At = Start.Add(time.Hour + 9)
	k.ok(k.MoveLegalHold(k.ctx, "seg-1", "cold", none, set, l))
	l.At, l.Action = Start.Add(2*time.Hour+8), lifecycle.ActionLegalHoldOff
	k.ok(k.MoveLegalHold(k.ctx, "seg-1", "cold", set, lifting, l))
	all, err := k.LegalHolds(k.ctx)
	k.ok(err)
	if want := []lifecycle.HeldCopy{k.heldCopy("seg-1", a.ArchiveClass, copies()[0], lifting, l.At)}; !reflect.DeepEqual(all, want) {
		k.Errorf("legal holds\n%+v, want\n%+v", all, want)
	}
	if info, err := k.Info(k.ctx); err != nil || info.NewestLeaf.Action != lifecycle.ActionLegalHoldOff || !info.NewestLeaf.At.Equal(l.At) {
		k.Errorf("its leaf: %+v, %v", info.NewestLeaf, err)
	}
}

// legalUnderHolds: nothing is lifted while an open hold covers an archived record of
// the segment, however it covers it, and whenever it was placed.
func legalUnderHolds(k *kit) {
	k.addVault("cold")
	k.addVault("main")
	k.begin()
	none, set, lifting := lifecycle.LegalNone, lifecycle.LegalSet, lifecycle.Lifting
	kept := func(what string, err error) {
		k.Helper()
		if !errors.Is(err, lifecycle.ErrHeld) {
			k.Errorf("%s: %v, want ErrHeld", what, err)
		}
	}
	for i, c := range []struct {
		name  string
		scope lifecycle.Scope
		link  bool // that the trace follows, and arrives in the middle of it
	}{
		{"a record", onRecord("a"), false},
		{"a lot", onLot("A", ""), false},
		{"a location", lifecycle.Scope{Location: "FAC-9"}, false},
		{"a trace", traced("ORIGIN", "S", lifecycle.Forward), false},
		{"a trace, by a link that arrives", traced("LATE", "S", lifecycle.Both), true},
		{"a trace of a location", lifecycle.Scope{Location: "ORIGIN'S", Trace: lifecycle.Forward}, false},
	} {
		space := fmt.Sprint(i, "/")
		if c.scope.RecordID != "" {
			c.scope.RecordID = space + c.scope.RecordID
		}
		for _, p := range []*string{&c.scope.TLC, &c.scope.Location} {
			if *p != "" {
				*p = space + *p
			}
		}
		a, b, other := row(space+"a", expired, lot(space+"A", "S"), at(space+"FAC-9")), row(space+"b", expired, lot(space+"B", "S")), row(space+"other", expired, lot(space+"C", "S"))
		link := made(space+"link", lotOf(space+"A", "S"), lotOf(space+"M", "S"))
		link2 := made(space+"link-2", lotOf(space+"M", "S"), lotOf(space+"ORIGIN", "S"))
		link2.Location = space + "ELSEWHERE"
		origin := row(space+"origin", expired, lot(space+"ORIGIN", "S"), at(space+"ORIGIN'S"))
		late := made(space+"late", lotOf(space+"B", "S"), lotOf(space+"LATE", "S"))
		k.take(a, b, other, link, link2, origin)
		seg := "seg-" + space
		k.archive(seg, a, b)
		k.archive("seg-other-"+space, other)
		k.ok(k.moveLegal(seg, "main", none, set))
		k.ok(k.moveLegal(seg, "cold", none, set))
		k.ok(k.moveLegal("seg-other-"+space, "main", none, set))
		id := "h-" + space
		place := func(id string) {
			k.place(id, c.scope)
		}
		// A hold on something else of the same segment's class keeps nothing.
		k.place(id+"other", onRecord(other.RecordID))
		k.ok(k.moveLegal(seg, "main", set, lifting))
		place(id)
		if c.link {
			k.take(late)
		}
		k.unchanged(c.name+": lifting under a hold", func() {
			kept(c.name+": a hold placed in between", k.moveLegal(seg, "main", lifting, none))
			kept(c.name, k.moveLegal(seg, "cold", set, lifting))
			kept(c.name+": the other", k.moveLegal("seg-other-"+space, "main", set, lifting))
		})
		k.ok(k.moveLegal(seg, "main", lifting, set)) // set again, and that is always allowed
		k.unchanged(c.name+": lifting what was set again", func() { kept(c.name+": again", k.moveLegal(seg, "main", set, lifting)) })
		// One of two released.
		k.place(id+"2", onRecord(b.RecordID))
		k.release(id)
		k.unchanged(c.name+": lifting under the last of two", func() { kept(c.name+": the last of two", k.moveLegal(seg, "main", set, lifting)) })
		k.release(id + "2")
		k.ok(k.moveLegal(seg, "main", set, lifting))
		k.ok(k.moveLegal(seg, "main", lifting, none))
		k.ok(k.moveLegal(seg, "cold", set, lifting))
		k.ok(k.moveLegal(seg, "cold", lifting, none))
		k.release(id + "other")
		k.ok(k.moveLegal("seg-other-"+space, "main", set, lifting))
		k.ok(k.moveLegal("seg-other-"+space, "main", lifting, none))
	}
	// A record that a hold kept hot is not in the segment that it was packed into.
	hot, cold := row("hot", expired, lot("HOT", "S")), row("cold", expired, lot("COLD", "S"))
	k.take(hot, cold)
	k.verified("seg-hot", hot.ArchiveClass, 2)
	k.place("h-hot", onRecord("hot"))
	k.softDelete(1, "seg-hot", Start, members(hot, cold))
	k.ok(k.moveLegal("seg-hot", "main", none, set))
	k.ok(k.moveLegal("seg-hot", "main", set, lifting))
	k.ok(k.moveLegal("seg-hot", "main", lifting, none))
	if all, err := k.LegalHolds(k.ctx); err != nil || len(all) > 0 {
		k.Errorf("left are %+v, %v", all, err)
	}
}

// legalRace: lifting against placing and extending, each from its own handle.
// Whichever is first in the trail, the other has to have seen it.
func legalRace(k *kit) {
	n := many(60)
	other := k.again(k)
	k.addVault("cold")
	k.addVault("main")
	a, b := row("a", expired, lot("A", "S")), made("b", lotOf("B", "S"), lotOf("A", "S"))
	k.take(a, b)
	k.begin()
	k.archive("seg-1", b)
	none, set, lifting := lifecycle.LegalNone, lifecycle.LegalSet, lifecycle.Lifting
	kept := 0
	for i := range n {
		id := fmt.Sprint("h-", i)
		scope := traced("A", "S", lifecycle.Forward)
		if i%2 == 1 {
			scope = onLot("B", "")
		}
		add := func() error { return other.Place(k.ctx, placement(id, scope)) }
		if i%4 > 1 {
			k.place(id, onRecord("nobody"))
			add = func() error {
				l := leaf(lifecycle.ActionHoldExtended)
				l.Subject = id
				return other.Extend(k.ctx, id, []lifecycle.Scope{scope}, l)
			}
		}
		k.ok(k.moveLegal("seg-1", "main", none, set))
		k.ok(k.moveLegal("seg-1", "main", set, lifting))
		var placed, lifted error
		together(func() { placed = add() }, func() { lifted = k.moveLegal("seg-1", "main", lifting, none) })
		k.ok(placed)
		ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: id})
		k.ok(err)
		gone, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: "seg-1", Actions: []string{lifecycle.ActionLegalHoldGone}})
		k.ok(err)
		switch {
		case errors.Is(lifted, lifecycle.ErrHeld):
			kept++
			k.release(id)
			k.ok(k.moveLegal("seg-1", "main", lifting, none))
			continue
		case lifted != nil:
			k.ok(lifted)
		case gone[len(gone)-1].ID > ls[len(ls)-1].ID:
			k.Errorf("lifted by leaf %d, and held by leaf %d", gone[len(gone)-1].ID, ls[len(ls)-1].ID)
		}
		k.release(id)
	}
	k.Logf("of %d legal holds raced for, holds kept %d", n, kept)
}
