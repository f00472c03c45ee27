package storetest

import (
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// engine is the planner on this Store: it walks lineage by Links, step by step, and
// shares no code with what the Store checks by.
func (k *kit) engine() *lifecycle.Engine {
	return &lifecycle.Engine{Store: k.Store, Now: func() time.Time { return Start }}
}

// idsOf lists the record ids that a query finds, sorted.
func (k *kit) idsOf(q lifecycle.Query) []string {
	k.Helper()
	out := []string{}
	for r, err := range k.Rows(k.ctx, q) {
		k.ok(err)
		out = append(out, r.RecordID)
	}
	slices.Sort(out)
	return out
}

// openReach is what the planner thinks the open holds cover.
func (k *kit) openReach() lifecycle.Reach {
	k.Helper()
	q, err := k.engine().Select(k.ctx, lifecycle.Query{ExceptHeld: true})
	k.ok(err)
	return q.Reach
}

func sortedIDs(rows []lifecycle.Sealed, want func(*lifecycle.Row) bool) (in, out []string) {
	in, out = []string{}, []string{}
	for i := range rows {
		if want(&rows[i].Row) {
			in = append(in, rows[i].RecordID)
		} else {
			out = append(out, rows[i].RecordID)
		}
	}
	slices.Sort(in)
	slices.Sort(out)
	return in, out
}

// disagree asks everybody who knows what is held, and lists those that say
// anything else than want: the planner's set, Coverage and Query by the reach, and
// in the end SoftDelete of the rows, which are active, due, and of one archive
// class. Nothing of what is not to be held is left active by that.
func (k *kit) disagree(segment string, rows []lifecycle.Sealed, want func(*lifecycle.Row) bool) []string {
	k.Helper()
	// SoftDelete first: nobody has prepared anything for it.
	before := map[string][]byte{}
	var ids []string
	for _, r := range rows {
		ids = append(ids, r.RecordID)
		before[r.RecordID] = r.WrappedDEK
	}
	k.verified(segment, rows[0].ArchiveClass, len(rows))
	done, err := k.SoftDelete(k.ctx, k.lease, segment, Start, members(rows...), leaf(lifecycle.ActionArchived))
	k.ok(err)
	held, free := sortedIDs(rows, want)
	var says []string
	differ := func(who string, got, want []string) {
		if !slices.Equal(got, want) {
			says = append(says, fmt.Sprintf("%s: %q, want %q", who, got, want))
		}
	}
	differ("kept by SoftDelete", k.idsOf(lifecycle.Query{RecordIDs: ids, State: lifecycle.Active}), held)
	differ("archived by SoftDelete", k.idsOf(lifecycle.Query{RecordIDs: ids, State: lifecycle.Archived}), free)
	if done.Records != len(free) {
		says = append(says, fmt.Sprintf("SoftDelete says it took %d, want %d", done.Records, len(free)))
	}
	for _, id := range held {
		if s, err := k.SealedRow(k.ctx, id); err != nil || string(s.WrappedDEK) != string(before[id]) {
			says = append(says, fmt.Sprintf("the DEK of %s, which is held, is %q, %v", id, s.WrappedDEK, err))
		}
	}
	return append(says, k.planned(rows, want)...)
}

// planned is disagree for those who only read.
func (k *kit) planned(rows []lifecycle.Sealed, want func(*lifecycle.Row) bool) (says []string) {
	k.Helper()
	held, free := sortedIDs(rows, want)
	var ids []string
	for _, r := range rows {
		ids = append(ids, r.RecordID)
	}
	differ := func(who string, got, want []string) {
		if !slices.Equal(got, want) {
			says = append(says, fmt.Sprintf("%s: %q, want %q", who, got, want))
		}
	}
	set, err := k.engine().HoldSet(k.ctx)
	k.ok(err)
	planned, _ := sortedIDs(rows, func(r *lifecycle.Row) bool { return len(set.Covering(r)) > 0 })
	differ("held by the planner", planned, held)
	reach := k.openReach()
	differ("Query State Held", k.idsOf(lifecycle.Query{RecordIDs: ids, State: lifecycle.Held, Reach: reach}), held)
	differ("Query ExceptHeld", k.idsOf(lifecycle.Query{RecordIDs: ids, ExceptHeld: true, Reach: reach}), free)
	// Of all records there are, the count is that of the list.
	all := k.idsOf(lifecycle.Query{State: lifecycle.Held, Reach: reach})
	c, err := k.Store.Coverage(k.ctx, reach)
	k.ok(err)
	archived := 0
	for r, err := range k.Rows(k.ctx, lifecycle.Query{State: lifecycle.Archived}) {
		k.ok(err)
		if len(set.Covering(&r)) > 0 {
			archived++
		}
	}
	if want := (lifecycle.Coverage{Covered: int64(len(all)), Archived: int64(archived)}); c != want {
		says = append(says, fmt.Sprintf("Coverage %+v, want %+v", c, want))
	}
	return says
}

// scopes: each condition by itself and together with others, as everybody who has
// to know it understands it.
func scopes(k *kit) {
	at := expired
	type rec struct {
		name, tlc, source, location, product string
		event                                cte.EventType
		at                                   time.Time
	}
	records := []rec{
		{"a", "L-1", "S1", "FAC-1", "P-1", cte.Shipping, at},
		{"b", "L-1", "S2", "FAC-1", "P-2", cte.Receiving, at.Add(1)},
		{"c", "L-1", "", "FAC-2", "P-1", cte.Shipping, at.Add(-1)},
		{"d", "L-2", "S1", "FAC-2", "P-2", cte.Transformation, at.Add(time.Hour)},
		{"e", "", "", "FAC-1", "P-1", cte.Harvesting, at},
		{"f", "", "S1", "", "", cte.Harvesting, at.Add(-time.Hour)},
		{"longer", "L-11", "S1", "", "", cte.Shipping, at.Add(2 * time.Hour)},
		{"lower", "l-1", "S1", "fac-1", "p-1", cte.Shipping, at.Add(2 * time.Hour)},
		{"percent", "50%_off*", "S1", "FAC-1%", "P_1", cte.Shipping, at.Add(2 * time.Hour)},
		{"letters", "50xxoffx", "S1", "FAC-10", "Px1", cte.Shipping, at.Add(2 * time.Hour)},
		{"star", "50*", "", "FAC*", "*", cte.Shipping, at.Add(2 * time.Hour)},
		{"backslash", `back\slash`, "S1", `\`, `\\`, cte.Shipping, at.Add(2 * time.Hour)},
		{"back", "backXslash", "S1", "", "", cte.Shipping, at.Add(2 * time.Hour)},
		{"bracket", "[0-9]", "S1", "", "", cte.Shipping, at.Add(2 * time.Hour)},
		{"digit", "5", "S1", "", "", cte.Shipping, at.Add(2 * time.Hour)},
		{"accent", "é1", "S1", "É", "é", cte.Shipping, at.Add(2 * time.Hour)},
		{"two runes", "e\u03011", "S1", "", "", cte.Shipping, at.Add(2 * time.Hour)},
		{"far", "\U0010FFFFx", "S1", "", "", cte.Shipping, at.Add(2 * time.Hour)},
		{"farther", "\U0010FFFF\U0010FFFF", "S1", "", "", cte.Shipping, at.Add(2 * time.Hour)},
	}
	all := func() (out []string) {
		for _, r := range records {
			out = append(out, r.name)
		}
		return out
	}()
	type sc = lifecycle.Scope
	list := func(s ...string) []string { return s }
	cases := []struct {
		name   string
		scopes []sc
		want   []string
	}{
		{"a record", []sc{{RecordID: "/a"}}, list("a")},
		{"no record", []sc{{RecordID: "/nobody"}}, nil},
		{"a lot of any source", []sc{{TLC: "L-1"}}, list("a", "b", "c")},
		{"a lot of a source, and of none", []sc{{TLC: "L-1", TLCSource: "S1"}}, list("a", "c")},
		{"a lot of another source", []sc{{TLC: "L-1", TLCSource: "S9"}}, list("c")},
		{"a prefix", []sc{{TLCPrefix: "L-1"}}, list("a", "b", "c", "longer")},
		{"a prefix of a source, and of none", []sc{{TLCPrefix: "L-", TLCSource: "S1"}}, list("a", "c", "d", "longer")},
		{"a prefix of another source", []sc{{TLCPrefix: "L-", TLCSource: "S2"}}, list("b", "c")},
		{"a prefix that is a whole lot", []sc{{TLCPrefix: "L-11"}}, list("longer")},
		{"a prefix with a percent sign", []sc{{TLCPrefix: "50%"}}, list("percent")},
		{"a prefix that is a percent sign", []sc{{TLCPrefix: "%"}}, nil},
		{"a prefix that is an underscore", []sc{{TLCPrefix: "_"}}, nil},
		{"a prefix with an underscore", []sc{{TLCPrefix: "50%_"}}, list("percent")},
		{"a prefix with a star", []sc{{TLCPrefix: "50*"}}, list("star")},
		{"a prefix that is a question mark", []sc{{TLCPrefix: "5?"}}, nil},
		{"a prefix with a bracket", []sc{{TLCPrefix: "[0-9]"}}, list("bracket")},
		{"a prefix with a backslash", []sc{{TLCPrefix: `back\`}}, list("backslash")},
		{"a prefix that is a backslash", []sc{{TLCPrefix: `\`}}, nil},
		{"a prefix beyond ASCII", []sc{{TLCPrefix: "é"}}, list("accent")},
		{"a prefix of another form of it", []sc{{TLCPrefix: "e\u0301"}}, list("two runes")},
		{"a prefix of the last character", []sc{{TLCPrefix: "\U0010FFFF"}}, list("far", "farther")},
		{"a prefix of nothing but last characters", []sc{{TLCPrefix: "\U0010FFFF\U0010FFFF"}}, list("farther")},
		{"a location", []sc{{Location: "FAC-1"}}, list("a", "b", "e")},
		{"a location with a percent sign", []sc{{Location: "FAC-1%"}}, list("percent")},
		{"a location that is a backslash", []sc{{Location: `\`}}, list("backslash")},
		{"a product", []sc{{Product: "P-1"}}, list("a", "c", "e")},
		{"a product with an underscore", []sc{{Product: "P_1"}}, list("percent")},
		{"an event type", []sc{{EventType: cte.Harvesting}}, list("e", "f")},
		{"since a nanosecond, that one with it", []sc{{From: at.Add(1), To: at.Add(time.Hour)}}, list("b")},
		{"before a nanosecond, that one without it", []sc{{From: at.Add(-1), To: at.Add(1)}}, list("a", "c", "e")},
		{"since", []sc{{From: at.Add(time.Hour)}}, slices.Concat(list("d"), all[6:])},
		{"before", []sc{{To: at}}, list("c", "f")},
		{"all", []sc{{All: true}}, all},
		{"a record and its lot", []sc{{RecordID: "/a", TLC: "L-1", TLCSource: "S1"}}, list("a")},
		{"a record and another lot", []sc{{RecordID: "/a", TLC: "L-2"}}, nil},
		{"a record of another source", []sc{{RecordID: "/a", TLC: "L-1", TLCSource: "S2"}}, nil},
		{"a record without a source", []sc{{RecordID: "/c", TLC: "L-1", TLCSource: "S2"}}, list("c")},
		{"a record and the beginning of its lot", []sc{{RecordID: "/a", TLCPrefix: "L"}}, list("a")},
		{"a record and another beginning", []sc{{RecordID: "/a", TLCPrefix: "M"}}, nil},
		{"a record and its location", []sc{{RecordID: "/a", Location: "FAC-1"}}, list("a")},
		{"a record and another location", []sc{{RecordID: "/a", Location: "FAC-2"}}, nil},
		{"a record and another time", []sc{{RecordID: "/a", To: at}}, nil},
		{"a lot and a location", []sc{{TLC: "L-1", Location: "FAC-1"}}, list("a", "b")},
		{"a lot of a source and a product", []sc{{TLC: "L-1", TLCSource: "S1", Product: "P-1"}}, list("a", "c")},
		{"a lot and an event type", []sc{{TLC: "L-1", EventType: cte.Receiving}}, list("b")},
		{"a lot and a time", []sc{{TLC: "L-1", From: at}}, list("a", "b")},
		{"a beginning, a location and a time", []sc{{TLCPrefix: "L-", Location: "FAC-2", To: at.Add(time.Hour)}}, list("c")},
		{"a location and a product", []sc{{Location: "FAC-1", Product: "P-1"}}, list("a", "e")},
		{"a location, a product and an event type", []sc{{Location: "FAC-1", Product: "P-1", EventType: cte.Shipping}}, list("a")},
		{"everything at once", []sc{{RecordID: "/a", TLC: "L-1", TLCSource: "S1", Location: "FAC-1", Product: "P-1", EventType: cte.Shipping, From: at, To: at.Add(1)}}, list("a")},
		{"everything at once but for the time", []sc{{RecordID: "/a", TLC: "L-1", TLCSource: "S1", Location: "FAC-1", Product: "P-1", EventType: cte.Shipping, From: at.Add(1)}}, nil},
		{"several scopes", []sc{{RecordID: "/f"}, {TLC: "L-2"}, {TLCPrefix: "50%"}, {Location: "FAC-2", EventType: cte.Shipping}}, list("f", "d", "percent", "c")},
		{"several scopes that overlap", []sc{{RecordID: "/a"}, {TLC: "L-1"}, {TLC: "L-1", TLCSource: "S1"}, {Location: "FAC-1"}}, list("a", "b", "c", "e")},
		{"several scopes of nothing", []sc{{RecordID: "/nobody"}, {TLC: "nowhere"}, {Product: "P-1", To: at.Add(-time.Hour)}}, nil},
	}
	open := func() {}
	for i, c := range cases {
		var in []lifecycle.Sealed
		held := map[string]bool{}
		for _, r := range records {
			id := fmt.Sprintf("%d/%s", i, r.name)
			in = append(in, row(id, expired, lot(r.tlc, r.source), func(s *lifecycle.Sealed) {
				s.Location, s.Product, s.EventType, s.EventTimestamp = r.location, r.product, r.event, r.at
			}))
			held[id] = slices.Contains(c.want, r.name)
		}
		k.take(in...)
		if i == 0 {
			k.begin()
		}
		hold := placement(fmt.Sprint("h-", i))
		for _, s := range c.scopes {
			if s.RecordID != "" {
				s.RecordID = fmt.Sprint(i, s.RecordID)
			}
			if err := s.Validate(); err != nil {
				k.Fatalf("%s: %v", c.name, err)
			}
			hold.Hold.Scopes = append(hold.Hold.Scopes, s)
		}
		open() // releases the one before
		k.ok(k.Place(k.ctx, hold))
		open = func() { k.release(hold.Hold.ID) }
		for _, says := range k.disagree(fmt.Sprint("seg-", i), in, func(r *lifecycle.Row) bool { return held[r.RecordID] }) {
			k.Errorf("%s: %s", c.name, says)
		}
	}
	open()
	k.nothingHeld()
}

// nothingHeld: with every hold released, nothing is covered any more.
func (k *kit) nothingHeld() {
	k.Helper()
	if got := k.idsOf(lifecycle.Query{State: lifecycle.Held, Reach: k.openReach()}); len(got) > 0 {
		k.Errorf("without an open hold, %q are held", got)
	}
	if got, all := k.idsOf(lifecycle.Query{ExceptHeld: true, Reach: k.openReach()}), k.idsOf(lifecycle.Query{}); !slices.Equal(got, all) {
		k.Errorf("without an open hold, %d of %d records are not held", len(got), len(all))
	}
	if c, err := k.Store.Coverage(k.ctx, lifecycle.Reach{}); err != nil || c != (lifecycle.Coverage{}) {
		k.Errorf("an empty reach covers %+v, %v", c, err)
	}
}

// scopesAtRandom: whatever the records and the scopes, all agree with
// Scope.Covers.
func scopesAtRandom(k *kit) {
	var (
		tlcs      = rapid.SampledFrom([]string{"", "A", "AA", "A%", "A_", `A\`, "A*", "a", "B", "é", "AÿB"})
		sources   = rapid.SampledFrom([]string{"", "S", "T", "%"})
		locations = rapid.SampledFrom([]string{"", "X", "x", "XY", "%"})
		products  = rapid.SampledFrom([]string{"", "P", "_"})
		events    = rapid.SampledFrom([]cte.EventType{cte.Shipping, cte.Receiving, cte.Harvesting})
		times     = rapid.Custom(func(t *rapid.T) time.Time {
			return expired.Add(time.Duration(rapid.IntRange(-3, 3).Draw(t, "ns")))
		})
	)
	round := 0
	rapid.Check(k, func(t *rapid.T) {
		round++
		var in []lifecycle.Sealed
		for i := range rapid.IntRange(1, 12).Draw(t, "records") {
			in = append(in, row(fmt.Sprintf("%d-%d", round, i), expired, lot(tlcs.Draw(t, "lot"), sources.Draw(t, "source")), func(s *lifecycle.Sealed) {
				s.Location, s.Product, s.EventType, s.EventTimestamp = locations.Draw(t, "location"), products.Draw(t, "product"), events.Draw(t, "event"), times.Draw(t, "at")
			}))
		}
		maybe := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) == 0 }
		scope := rapid.Custom(func(t *rapid.T) lifecycle.Scope {
			var s lifecycle.Scope
			switch rapid.IntRange(0, 5).Draw(t, "on") {
			case 0, 1:
				if s.TLC = tlcs.Draw(t, "on lot"); s.TLC != "" {
					s.TLCSource = sources.Draw(t, "of source")
				}
			case 2, 3:
				if s.TLCPrefix = tlcs.Draw(t, "on lots"); s.TLCPrefix != "" {
					s.TLCSource = sources.Draw(t, "of source")
				}
			case 4:
				s.RecordID = in[rapid.IntRange(0, len(in)-1).Draw(t, "on record")].RecordID
			}
			if maybe("at a location") {
				s.Location = locations.Draw(t, "at location")
			}
			if maybe("of a product") {
				s.Product = products.Draw(t, "of product")
			}
			if maybe("of an event type") {
				s.EventType = events.Draw(t, "of event")
			}
			if maybe("since") {
				s.From = times.Draw(t, "from")
			}
			if maybe("before") {
				s.To = times.Draw(t, "to")
			}
			return s
		}).Filter(func(s lifecycle.Scope) bool { return s.Validate() == nil })
		id := fmt.Sprint("h-", round)
		hold := placement(id, rapid.SliceOfNDistinct(scope, 1, 3, func(s lifecycle.Scope) lifecycle.Scope { return s }).Draw(t, "scopes")...)
		k.take(in...)
		k.begin()
		defer k.end()
		k.ok(k.Place(k.ctx, hold))
		defer k.release(id)
		says := k.disagree(fmt.Sprint("seg-", round), in, func(r *lifecycle.Row) bool {
			return slices.ContainsFunc(hold.Hold.Scopes, func(s lifecycle.Scope) bool { return s.Covers(r) })
		})
		for _, s := range says {
			t.Error(s)
		}
	})
	k.nothingHeld()
}

// scopeLots: the lots that a scope's trace would start from.
func scopeLots(k *kit) {
	in := []lifecycle.Sealed{
		row("1", expired, lot("A-1", "S"), at("FAC-1")), row("2", expired, lot("A-1", "S"), at("FAC-1")), row("3", expired, lot("A-1", ""), at("FAC-2")),
		row("4", expired, lot("A-2", "T"), at("FAC-1")), row("5", expired, lot("", ""), at("FAC-1")), row("6", expired, lot("", "S"), at("FAC-1")),
		made("7", lotOf("B", "S"), lotOf("A-9", "U"), lotOf("A%", ""), lotOf("C", "S")),
		made("8", lotOf("A-1", "V"), lotOf("D", "S")), made("9", lotOf("A-1", "V"), lotOf("A-1", "W")),
	}
	k.take(in...)
	k.begin()
	k.archive("seg-1", in[3])
	for _, c := range []struct {
		scope lifecycle.Scope
		want  []cte.Lot
	}{
		{lifecycle.Scope{TLC: "A-1"}, []cte.Lot{lotOf("A-1", ""), lotOf("A-1", "S"), lotOf("A-1", "V"), lotOf("A-1", "W")}},
		{lifecycle.Scope{TLC: "A-1", TLCSource: "S"}, []cte.Lot{lotOf("A-1", ""), lotOf("A-1", "S")}},
		{lifecycle.Scope{TLC: "A-1", Trace: lifecycle.Forward}, []cte.Lot{lotOf("A-1", ""), lotOf("A-1", "S"), lotOf("A-1", "V"), lotOf("A-1", "W")}},
		{lifecycle.Scope{TLC: "A-9"}, []cte.Lot{lotOf("A-9", "U")}},
		{lifecycle.Scope{TLC: "A-9", TLCSource: "S"}, nil},
		{lifecycle.Scope{TLC: "nowhere"}, nil},
		{lifecycle.Scope{TLCPrefix: "A-"}, []cte.Lot{lotOf("A-1", ""), lotOf("A-1", "S"), lotOf("A-1", "V"), lotOf("A-1", "W"), lotOf("A-2", "T"), lotOf("A-9", "U")}},
		{lifecycle.Scope{TLCPrefix: "A-", TLCSource: "U"}, []cte.Lot{lotOf("A-1", ""), lotOf("A-9", "U")}},
		{lifecycle.Scope{TLCPrefix: "A%"}, []cte.Lot{lotOf("A%", "")}},
		// Only lots that records are of, where more than the lot is asked.
		{lifecycle.Scope{TLC: "A-1", Location: "FAC-1"}, []cte.Lot{lotOf("A-1", "S")}},
		{lifecycle.Scope{TLCPrefix: "A-", Location: "FAC-1"}, []cte.Lot{lotOf("A-1", "S"), lotOf("A-2", "T")}},
		{lifecycle.Scope{TLC: "A-9", Location: "FAC-001"}, nil},
		{lifecycle.Scope{Location: "FAC-1"}, []cte.Lot{lotOf("A-1", "S"), lotOf("A-2", "T")}},
		{lifecycle.Scope{EventType: cte.Transformation}, []cte.Lot{lotOf("A-1", "V"), lotOf("B", "S")}},
		{lifecycle.Scope{RecordID: "3"}, []cte.Lot{lotOf("A-1", "")}},
		{lifecycle.Scope{RecordID: "5"}, nil},
		{lifecycle.Scope{RecordID: "nobody"}, nil},
	} {
		got, err := k.ScopeLots(k.ctx, c.scope)
		k.ok(err)
		slices.SortFunc(got, byLot)
		if !slices.Equal(got, c.want) {
			k.Errorf("lots of %+v: %q, want %q", c.scope, got, c.want)
		}
	}
}

// at puts a record at a location.
func at(location string) func(*lifecycle.Sealed) {
	return func(s *lifecycle.Sealed) { s.Location = location }
}
