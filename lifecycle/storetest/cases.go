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
	"github.com/lotkeeper/lotkeeper/shred"
)

// references: an open hold has its reference alone among those of its kind.
func references(k *kit) {
	as := func(id string, kind lifecycle.HoldKind, reference string, scopes ...lifecycle.Scope) lifecycle.Placement {
		p := placement(id, scopes...)
		p.Hold.Kind, p.Hold.Reference = kind, reference
		return p
	}
	k.take(row("a", expired))
	k.ok(k.Place(k.ctx, as("h-1", lifecycle.Recall, "CASE-1", onRecord("a"))))
	k.unchanged("placing what is refused", func() {
		for _, p := range []lifecycle.Placement{as("h-2", lifecycle.Recall, "CASE-1", onRecord("a")), as("h-2", lifecycle.Recall, "CASE-1", onRecord("b"))} {
			var taken *lifecycle.ReferenceTaken
			if err := k.Place(k.ctx, p); !errors.As(err, &taken) || taken.HoldID != "h-1" {
				k.Errorf("placed with a reference that is taken: %v", err)
			}
		}
	})
	for _, p := range []lifecycle.Placement{
		as("h-3", lifecycle.Litigation, "CASE-1", onRecord("a")), as("h-4", lifecycle.Recall, "case-1", onRecord("a")), as("h-5", lifecycle.Recall, "CASE-1 ", onRecord("a")),
		// None is not a reference.
		as("h-6", lifecycle.Recall, "", onRecord("a")), as("h-7", lifecycle.Recall, "", onRecord("a")),
	} {
		if err := k.Place(k.ctx, p); err != nil {
			k.Errorf("%s %q: %v", p.Hold.Kind, p.Hold.Reference, err)
		}
	}
	k.unchanged("placing the same id again", func() {
		for _, p := range []lifecycle.Placement{as("h-1", lifecycle.Recall, "CASE-1", onRecord("a")), as("h-1", lifecycle.Litigation, "CASE-1", onRecord("b")), as("h-1", lifecycle.Recall, "CASE-9", onRecord("b"))} {
			if err := k.Place(k.ctx, p); err != nil {
				k.Errorf("placed again: %v", err)
			}
		}
	})
	k.release("h-1")
	k.ok(k.Place(k.ctx, as("h-8", lifecycle.Recall, "CASE-1", onRecord("b"))))
	k.unchanged("placing the released id again", func() { k.ok(k.Place(k.ctx, as("h-1", lifecycle.Recall, "CASE-1", onRecord("a")))) })
	var taken *lifecycle.ReferenceTaken
	if err := k.Place(k.ctx, as("h-9", lifecycle.Recall, "CASE-1", onRecord("a"))); !errors.As(err, &taken) || taken.HoldID != "h-8" {
		k.Errorf("placed with the reference of the one placed last: %v", err)
	}

	// Two at once, from two handles: one of them has it.
	other := k.again(k)
	for i := range many(20) {
		var errs [2]error
		ids := [2]string{fmt.Sprintf("x-%d", i), fmt.Sprintf("y-%d", i)}
		together(
			func() { errs[0] = k.Place(k.ctx, as(ids[0], lifecycle.Recall, ids[0], onRecord("a"))) },
			func() { errs[1] = other.Place(k.ctx, as(ids[1], lifecycle.Recall, ids[0], onRecord("a"))) },
		)
		first := slices.Index(errs[:], nil)
		if first < 0 || !errors.As(errs[1-first], &taken) || taken.HoldID != ids[first] {
			k.Errorf("two at once: %v and %v", errs[0], errs[1])
		}
	}
}

// fullHold: whatever a hold says is read back, to the nanosecond.
func fullHold(k *kit) {
	p := placement("h-1",
		lifecycle.Scope{RecordID: "r", TLC: "L", TLCSource: "S", Location: "loc %_\\", Product: "p'\"", EventType: cte.Shipping, From: expired.Add(1), To: expired.Add(2), Trace: lifecycle.Both},
		lifecycle.Scope{TLCPrefix: "%", Trace: lifecycle.Forward}, lifecycle.Scope{TLCPrefix: "%"}, lifecycle.Scope{TLC: "L", Trace: lifecycle.Backward}, lifecycle.Scope{TLC: "L"},
		lifecycle.Scope{From: expired}, lifecycle.Scope{To: expired}, lifecycle.Scope{All: true}, lifecycle.Scope{EventType: "something else"},
		lifecycle.Scope{From: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), To: time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)},
	)
	p.Hold.ReviewAt, p.Hold.Until = Start.Add(time.Hour+1), Start.Add(2*time.Hour+3)
	k.ok(k.Place(k.ctx, p))
	only := placement("h-2", onRecord("r"))
	only.Hold.Until = Start.Add(5)
	k.ok(k.Place(k.ctx, only))
	review := placement("h-3", onRecord("r"))
	review.Hold.ReviewAt = Start.Add(6)
	k.ok(k.Place(k.ctx, review))
	check := func(when string, want ...lifecycle.Hold) {
		k.Helper()
		got, err := k.Store.Holds(k.ctx, false)
		k.ok(err)
		for i, w := range want {
			one, err := k.Hold(k.ctx, w.ID)
			k.ok(err)
			if i >= len(got) || !reflect.DeepEqual(*got[i], w) || !reflect.DeepEqual(*one, w) {
				k.Errorf("%s, the hold is\n%+v, want\n%+v", when, *one, w)
			}
		}
		if len(got) != len(want) {
			k.Errorf("%s, there are %d holds", when, len(got))
		}
	}
	check("placed", p.Hold, only.Hold, review.Hold)
	// The end that it was given is not its release: only a sweep does that.
	if hs, err := k.Store.Holds(k.ctx, true); err != nil || len(hs) != 3 {
		k.Errorf("%d open, %v", len(hs), err)
	}
	more := []lifecycle.Scope{{TLC: "M"}, {RecordID: "r"}, {TLC: "M", Trace: lifecycle.Forward}}
	k.ok(k.Extend(k.ctx, "h-1", more, leaf(lifecycle.ActionHoldExtended)))
	p.Hold.Scopes = append(p.Hold.Scopes, more...)
	check("extended", p.Hold, only.Hold, review.Hold)
	other := k.again(k)
	if h, err := other.Hold(k.ctx, "h-1"); err != nil || !reflect.DeepEqual(*h, p.Hold) {
		k.Errorf("from another handle\n%+v, %v", h, err)
	}
}

// overIsNotReleased: the Store does not look at Until.
func overIsNotReleased(k *kit) {
	a := row("a", expired)
	k.take(a)
	k.begin()
	p := placement("h-1", onRecord("a"))
	p.Hold.Until = Start.Add(-time.Hour)
	k.ok(k.Place(k.ctx, p))
	k.verified("seg-1", a.ArchiveClass, 1)
	k.softDelete(0, "seg-1", Start, members(a))
	k.release("h-1")
	k.softDelete(1, "seg-1", Start, members(a))
}

func extend(k *kit) {
	a, b, c := row("a", expired, lot("A", "S")), row("b", expired, lot("B", "S")), row("c", expired, lot("C", "S"))
	k.take(a, b, c)
	k.begin()
	k.place("h-1", onRecord("a"), onLot("A", "S"))
	l := leaf(lifecycle.ActionHoldExtended)
	l.Subject = "h-1"
	scopes := func() int {
		h, err := k.Hold(k.ctx, "h-1")
		k.ok(err)
		return len(h.Scopes)
	}
	k.unchanged("extending by what it has", func() {
		k.ok(k.Extend(k.ctx, "h-1", []lifecycle.Scope{onLot("A", "S")}, l))
		k.ok(k.Extend(k.ctx, "h-1", []lifecycle.Scope{onRecord("a"), onLot("A", "S")}, l))
		k.ok(k.Extend(k.ctx, "h-1", nil, l))
	})
	k.ok(k.Extend(k.ctx, "h-1", []lifecycle.Scope{onLot("A", "S"), onLot("B", "S"), onRecord("a"), onLot("B", "S")}, l))
	if scopes() != 3 {
		k.Errorf("it has %d scopes, want its two and a new one", scopes())
	}
	k.unchanged("extending again, as after a lost acknowledgement", func() {
		k.ok(k.Extend(k.ctx, "h-1", []lifecycle.Scope{onLot("A", "S"), onLot("B", "S"), onRecord("a")}, l))
	})
	// Nearly the same is not the same.
	k.ok(k.Extend(k.ctx, "h-1", []lifecycle.Scope{onLot("B", ""), {TLC: "B", TLCSource: "S", Trace: lifecycle.Forward}, {TLCPrefix: "B", TLCSource: "S"}, {TLC: "B", TLCSource: "S", To: expired.Add(1)}}, l))
	if scopes() != 7 {
		k.Errorf("it has %d scopes, want 7", scopes())
	}
	ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: "h-1", Actions: []string{lifecycle.ActionHoldExtended}})
	k.ok(err)
	if len(ls) != 2 {
		k.Errorf("%d leaves tell of two extensions", len(ls))
	}
	k.keeps("extended", "seg-1", []lifecycle.Sealed{a, b, c}, "a", "b")
	k.release("h-1")
	k.unchanged("extending what cannot be", func() {
		if err := k.Extend(k.ctx, "h-1", []lifecycle.Scope{onLot("N", "S")}, l); !errors.Is(err, lifecycle.ErrReleased) {
			k.Errorf("a released one: %v", err)
		}
		if err := k.Extend(k.ctx, "h-9", []lifecycle.Scope{onLot("N", "S")}, l); !errors.Is(err, lifecycle.ErrNotFound) {
			k.Errorf("one that is not there: %v", err)
		}
	})
	k.keeps("extended after its release", "seg-2", []lifecycle.Sealed{a, b})
}

// tooLate: what is purged is not covered, and who asks is told since when.
func tooLate(k *kit) {
	month := 31 * 24 * time.Hour
	a, b, c, d := row("a", expired, lot("A", "S")), row("b", expired, lot("B", "S")), row("c", expired.Add(month), lot("A", "S")), row("d", expired.Add(2*month), lot("A", ""))
	e, active := row("e", expired.Add(3*month), lot("A", "S")), row("active", expired.Add(4*month), lot("A", "S"))
	k.take(a, b, c, d, e, active)
	k.begin()
	k.archive("seg-1", a, b)
	k.archive("seg-2", c)
	k.archive("seg-3", d)
	k.archive("seg-4", e)
	reach := lifecycle.Reach{Scopes: []lifecycle.Scope{onLot("A", "S")}}
	late := func(r lifecycle.Reach) []lifecycle.Late {
		k.Helper()
		got, err := k.TooLate(k.ctx, r)
		k.ok(err)
		slices.SortFunc(got, func(a, b lifecycle.Late) int { return strings.Compare(a.Class, b.Class) })
		return got
	}
	if got := late(reach); len(got) > 0 {
		k.Errorf("too late for %+v, and nothing is purged", got)
	}
	gone := Start.Add(-time.Hour + 7)
	receipt := func(classes string) int64 {
		l := leaf(lifecycle.ActionShredded)
		l.Body = []byte(`{"classes":[` + classes + `],"epoch":3}`)
		k.ok(k.Append(k.ctx, l))
		info, err := k.Info(k.ctx)
		k.ok(err)
		return info.NewestLeaf.ID
	}
	receipt(`"archive-1999-01-1"`)
	first := receipt(`"hot-2020-01-01-1","` + a.ArchiveClass + `"`)
	receipt(`"` + a.ArchiveClass + `0"`)
	k.purge(a.ArchiveClass, gone, "seg-1")
	k.purge(c.ArchiveClass, gone.Add(time.Minute), "seg-2")
	want := []lifecycle.Late{{Class: a.ArchiveClass, DestroyedAt: gone, Receipt: first, Records: 1}, {Class: c.ArchiveClass, DestroyedAt: gone.Add(time.Minute), Records: 1}}
	slices.SortFunc(want, func(a, b lifecycle.Late) int { return strings.Compare(a.Class, b.Class) })
	if got := late(reach); !reflect.DeepEqual(got, want) {
		k.Errorf("too late for\n%+v, want\n%+v", got, want)
	}
	// By the lots of a trace, and once though two lead to it.
	for i := range want {
		if want[i].Class == a.ArchiveClass {
			want[i].Records = 2
		}
	}
	if got := late(lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("a"), onLot("A", "")}, Lots: []cte.Lot{lotOf("A", ""), lotOf("B", "S"), lotOf("A", "S")}}); !reflect.DeepEqual(got, want) {
		k.Errorf("by lots, too late for\n%+v, want\n%+v", got, want)
	}
	for _, r := range []lifecycle.Reach{{}, {Scopes: []lifecycle.Scope{onLot("A", "T"), onRecord("active")}}} {
		if got := late(r); len(got) > 0 {
			k.Errorf("%+v comes too late for %+v", r, got)
		}
	}
	if c, err := k.Store.Coverage(k.ctx, reach); err != nil || c != (lifecycle.Coverage{Covered: 3, Archived: 2, TooLate: 2}) {
		k.Errorf("coverage %+v, %v", c, err)
	}
	if got := k.idsOf(lifecycle.Query{State: lifecycle.Held, Reach: reach}); !slices.Equal(got, []string{"active", "d", "e"}) {
		k.Errorf("held are %q", got)
	}
	detail, err := k.Detail(k.ctx, reach, 0)
	k.ok(err)
	if want := []lifecycle.LotCount{{TLC: "A", TLCSource: "S", Records: 2}, {TLC: "A", Records: 1}}; !reflect.DeepEqual(detail.Lots, want) || detail.AllLots != 2 {
		k.Errorf("detail %+v, want the lots %+v", detail, want)
	}
	// A lot that only a purged record is of is where its lineage starts all the same.
	if lots, err := k.ScopeLots(k.ctx, lifecycle.Scope{RecordID: "b"}); err != nil || !slices.Equal(lots, []cte.Lot{lotOf("B", "S")}) {
		k.Errorf("lots of a purged record: %q, %v", lots, err)
	}
}

func detail(k *kit) {
	var in []lifecycle.Sealed
	add := func(n int, tlc, source, location string) {
		for range n {
			in = append(in, row(fmt.Sprint(len(in)), expired, lot(tlc, source), at(location)))
		}
	}
	add(3, "B", "S", "X")
	add(2, "A", "S", "Y")
	add(2, "A", "T", "")
	add(1, "A", "", "Z")
	add(4, "", "", "X")
	add(2, "C", "S", "")
	add(5, "free", "S", "free")
	k.take(in...)
	k.begin()
	k.archive("seg-1", in[0], in[3]) // of which there is a readable copy
	reach := lifecycle.Reach{Scopes: []lifecycle.Scope{{Location: "X"}, onLot("A", ""), onLot("B", "S")}, Lots: []cte.Lot{lotOf("C", ""), lotOf("B", "S")}}
	lots := []lifecycle.LotCount{{TLC: "B", TLCSource: "S", Records: 3}, {TLC: "A", TLCSource: "S", Records: 2}, {TLC: "A", TLCSource: "T", Records: 2}, {TLC: "C", TLCSource: "S", Records: 2}, {TLC: "A", TLCSource: "", Records: 1}}
	locations := []lifecycle.LocationCount{{Location: "X", Records: 7}, {Location: "Y", Records: 2}, {Location: "Z", Records: 1}}
	for _, limit := range []int{0, 1, 2, 4, 5, 100} {
		want := lifecycle.Detail{Lots: lots, Locations: locations, AllLots: len(lots), AllLocations: len(locations)}
		if limit > 0 {
			want.Lots, want.Locations = lots[:min(limit, len(lots))], locations[:min(limit, len(locations))]
		}
		got, err := k.Detail(k.ctx, reach, limit)
		k.ok(err)
		if !reflect.DeepEqual(got, want) {
			k.Errorf("at most %d:\n%+v, want\n%+v", limit, got, want)
		}
	}
	for _, r := range []lifecycle.Reach{{}, {Scopes: []lifecycle.Scope{onRecord("nobody")}}, {Lots: []cte.Lot{lotOf("nowhere", "")}}} {
		if got, err := k.Detail(k.ctx, r, 0); err != nil || len(got.Lots)+len(got.Locations)+got.AllLots+got.AllLocations != 0 {
			k.Errorf("%+v: %+v, %v", r, got, err)
		}
	}
	if c, err := k.Store.Coverage(k.ctx, reach); err != nil || c != (lifecycle.Coverage{Covered: 14, Archived: 2}) {
		k.Errorf("coverage %+v, %v", c, err)
	}
}

// reaches: a reach is its scopes and its lots, each record once; more of both than
// fit into one statement one by one.
func reaches(k *kit) {
	n := many(5000)
	var in []lifecycle.Sealed
	for i := range n {
		in = append(in, row(fmt.Sprint(i), expired, lot(fmt.Sprint("L-", i), "S")))
	}
	in = append(in, row("none", expired, lot("L-0", "")), row("other", expired, lot("L-0", "T")), row("no lot", expired, lot("", "")), row("no lot either", expired, lot("", "S")))
	k.take(in...)
	var records, lots []lifecycle.Scope
	var reached []cte.Lot
	for i := range n {
		records, lots = append(records, onRecord(fmt.Sprint(i))), append(lots, onLot(fmt.Sprint("L-", i), "S"))
		reached = append(reached, lotOf(fmt.Sprint("L-", i), "S"))
	}
	for _, c := range []struct {
		name string
		r    lifecycle.Reach
		want int64
	}{
		{"nothing", lifecycle.Reach{}, 0},
		{"records", lifecycle.Reach{Scopes: records}, int64(n)},
		{"lots", lifecycle.Reach{Scopes: lots}, int64(n) + 1},
		{"traced lots", lifecycle.Reach{Lots: reached}, int64(n) + 1},
		{"all of them", lifecycle.Reach{Scopes: slices.Concat(records, lots, records), Lots: reached}, int64(n) + 1},
		{"lots that overlap", lifecycle.Reach{Lots: []cte.Lot{lotOf("L-0", ""), lotOf("L-0", "S"), lotOf("L-0", "T"), lotOf("L-0", "")}}, 3},
		{"scopes on lots that overlap", lifecycle.Reach{Scopes: []lifecycle.Scope{onLot("L-0", ""), onLot("L-0", "S"), onLot("L-0", "T")}}, 3},
		{"the same record twice", lifecycle.Reach{Scopes: []lifecycle.Scope{onRecord("0"), onRecord("0")}}, 1},
		{"beginnings that overlap", lifecycle.Reach{Scopes: []lifecycle.Scope{{TLCPrefix: "L-0"}, {TLCPrefix: "L-", TLCSource: "T"}}}, 3},
		{"conditions that overlap", lifecycle.Reach{Scopes: []lifecycle.Scope{{Location: "FAC-001", TLC: "L-0"}, {Product: "PC-7782", TLC: "L-0"}, {Product: "PC-7782", RecordID: "0"}}}, 3},
		{"a lot of any source", lifecycle.Reach{Lots: []cte.Lot{lotOf("L-0", "")}}, 3},
		{"a lot of no code", lifecycle.Reach{Lots: []cte.Lot{lotOf("", ""), lotOf("", "S")}}, 0},
		{"everything, and some of it", lifecycle.Reach{Scopes: []lifecycle.Scope{{All: true}, onRecord("1")}, Lots: reached[:1]}, int64(len(in))},
		{"a lot and conditions", lifecycle.Reach{Scopes: []lifecycle.Scope{{TLC: "L-0", Location: "nowhere"}}, Lots: reached[1:2]}, 1},
	} {
		got, err := k.Store.Coverage(k.ctx, c.r)
		k.ok(err)
		if got != (lifecycle.Coverage{Covered: c.want}) {
			k.Errorf("%s: %+v, want %d", c.name, got, c.want)
		}
		held, free := k.idsOf(lifecycle.Query{State: lifecycle.Held, Reach: c.r}), k.idsOf(lifecycle.Query{ExceptHeld: true, Reach: c.r})
		if int64(len(held)) != c.want || len(held)+len(free) != len(in) {
			k.Errorf("%s: %d held and %d not, want %d of %d", c.name, len(held), len(free), c.want, len(in))
		}
	}
	// A trace says nothing by itself here: what it leads to is in the lots.
	if c, err := k.Store.Coverage(k.ctx, lifecycle.Reach{Scopes: []lifecycle.Scope{traced("L-1", "S", lifecycle.Both)}}); err != nil || c.Covered != 1 {
		k.Errorf("a traced scope covers %+v, %v by itself", c, err)
	}
}

// pins: no key goes that a held record's hot copy needs, and the others of the same
// call go.
func pins(k *kit) {
	day := 24 * time.Hour
	for i, c := range []struct {
		name  string
		scope lifecycle.Scope
	}{
		{"a record", onRecord("a")},
		{"a lot", onLot("A", "S")},
		{"a lot whose source is lacking", onLot("A", "")},
		{"a beginning", lifecycle.Scope{TLCPrefix: "A"}},
		{"a location", lifecycle.Scope{Location: "PINNED"}},
		{"a time", lifecycle.Scope{From: expired, To: expired.Add(1)}},
		{"a trace forward", traced("ORIGIN", "S", lifecycle.Forward)},
		{"a trace backward", traced("PRODUCT", "S", lifecycle.Backward)},
		{"a trace of a place", lifecycle.Scope{Location: "ORIGIN'S", Trace: lifecycle.Forward}},
	} {
		space := fmt.Sprint(i, "/")
		if c.scope.RecordID != "" {
			c.scope.RecordID = space + c.scope.RecordID
		}
		for _, p := range []*string{&c.scope.TLC, &c.scope.TLCPrefix, &c.scope.Location} {
			if *p != "" {
				*p = space + *p
			}
		}
		shift := -time.Duration(i) * 4 * day // so that the classes are its own
		if !c.scope.From.IsZero() {
			c.scope.From, c.scope.To = c.scope.From.Add(shift), c.scope.To.Add(shift)
		}
		a := row(space+"a", expired.Add(shift), lot(space+"A", "S"), at(space+"PINNED"))
		beside := row(space+"beside", expired.Add(shift+time.Hour), lot(space+"B", "S"))
		free := row(space+"free", expired.Add(shift-day), lot(space+"C", "S"))
		k.take(a, beside, free)
		k.begin()
		// On another day, so that they are members of no class that is to go.
		far := expired.Add(60 * day)
		links := []lifecycle.Sealed{
			row(space+"link-1", far, lot(space+"M", "S"), func(s *lifecycle.Sealed) { s.Inputs = []cte.Lot{lotOf(space+"ORIGIN", "S")} }),
			row(space+"link-2", far, lot(space+"A", "S"), func(s *lifecycle.Sealed) { s.Inputs = []cte.Lot{lotOf(space+"M", "S")} }),
			row(space+"link-3", far, lot(space+"PRODUCT", "S"), func(s *lifecycle.Sealed) { s.Inputs = []cte.Lot{lotOf(space+"A", "S")} }),
			row(space+"origin", far, lot(space+"ORIGIN", "S"), at(space+"ORIGIN'S")),
		}
		k.take(links[:2]...)
		k.verified("seg-a"+space, a.ArchiveClass, 2)
		k.softDelete(2, "seg-a"+space, Start, members(a, beside))
		k.verified("seg-f"+space, free.ArchiveClass, 1)
		k.softDelete(1, "seg-f"+space, Start, members(free))
		classes := []string{a.Class, free.Class}
		if got, err := k.Condemn(k.ctx, k.lease, Start, classes, leaf(lifecycle.ActionShredIntent)); err != nil || len(got) != 2 {
			k.Fatalf("condemned %q, %v", got, err)
		}
		id := "h-" + c.name
		k.place(id, c.scope) // after it was archived, and condemned
		k.take(links[2:]...)
		run := func(want ...string) {
			k.Helper()
			ev, err := k.Execute(k.ctx, k.lease, Start, classes, leaf(lifecycle.ActionShredExecuting))
			k.ok(err)
			var got []string
			for _, e := range ev {
				got = append(got, e.Class)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				k.Errorf("%s: evidence for %q, want %q", c.name, got, want)
			}
		}
		run(free.Class)
		if k.classState(a.Class) != lifecycle.Condemned || k.classState(free.Class) != lifecycle.Executing {
			k.Errorf("%s: the held one is %s, the other %s", c.name, k.classState(a.Class), k.classState(free.Class))
		}
		k.ok(k.Destroyed(k.ctx, k.lease, []string{free.Class}, Start, 1, leaf(lifecycle.ActionShredded)))
		k.unchanged(c.name+": executing what is pinned", func() { run() })
		// Another hold on the same: the last one counts.
		k.place(id+" too", onRecord(beside.RecordID))
		k.release(id)
		k.unchanged(c.name+": executing what another pins", func() { run() })
		k.release(id + " too")
		run(a.Class)
		// Executing, and its key not yet destroyed: a hold that comes now pins it still.
		k.place(id+" again", c.scope)
		k.unchanged(c.name+": executing again under a new hold", func() { run() })
		if err := authorized(k, classes[:1]); err == nil {
			k.Errorf("%s: the evidence of a pinned class convinces", c.name)
		}
		k.release(id + " again")
		run(a.Class)
		k.ok(k.Destroyed(k.ctx, k.lease, classes[:1], Start, 1, leaf(lifecycle.ActionShredded)))
		k.end()
	}
}

// pinRace: the end of a class against a hold on what it needs, each from its own
// handle. Whichever is first in the trail, the other has to have seen it.
func pinRace(k *kit) {
	n := many(60)
	other := k.again(k)
	k.begin()
	kept := 0
	for i := range n {
		r := row(fmt.Sprint("r-", i), expired.AddDate(0, 0, -i), lot(fmt.Sprint("L-", i), "S"))
		// The link is a record of another day: a class that is over takes no more.
		link := row(fmt.Sprint("m-", i), expired.AddDate(0, 0, 60), lot(r.TLC, "S"), func(s *lifecycle.Sealed) { s.Inputs = []cte.Lot{lotOf(fmt.Sprint("P-", i), "S")} })
		k.take(r, link)
		k.verified(fmt.Sprint("seg-", i), r.ArchiveClass, 1)
		k.softDelete(1, fmt.Sprint("seg-", i), Start, members(r))
		_, err := k.Condemn(k.ctx, k.lease, Start, []string{r.Class}, leaf(lifecycle.ActionShredIntent))
		k.ok(err)
		if k.classState(r.Class) != lifecycle.Condemned {
			k.Fatalf("%s is %s", r.Class, k.classState(r.Class))
		}
		id := fmt.Sprint("h-", i)
		scope := []lifecycle.Scope{onRecord(r.RecordID), traced(fmt.Sprint("P-", i), "", lifecycle.Forward), {TLCPrefix: r.TLC, TLCSource: "S"}}[i%3]
		l := leaf(lifecycle.ActionShredExecuting)
		l.Subject = r.Class
		var placed, executed error
		var ev []shred.Evidence
		together(
			func() { placed = other.Place(k.ctx, placement(id, scope)) },
			func() { ev, executed = k.Execute(k.ctx, k.lease, Start, []string{r.Class}, l) },
		)
		k.ok(errors.Join(placed, executed))
		if len(ev) == 0 {
			kept++
			k.release(id)
			continue
		}
		held, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: id})
		k.ok(err)
		gone, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: r.Class})
		k.ok(err)
		if len(gone) != 1 || gone[0].ID > held[0].ID {
			k.Errorf("%s is executing by %+v, and held by leaf %d", r.Class, gone, held[0].ID)
		}
		k.release(id)
	}
	k.Logf("of %d classes raced for, holds kept %d", n, kept)
}

// authorized asks for a permit on what Execute says.
func authorized(k *kit, classes []string) error {
	ev, err := k.Execute(k.ctx, k.lease, Start, classes, leaf(lifecycle.ActionShredExecuting))
	k.ok(err)
	p, err := shred.Authorize(ev)
	if err == nil && len(p.Classes()) == 0 {
		err = errors.New("it names no class")
	}
	return err
}
