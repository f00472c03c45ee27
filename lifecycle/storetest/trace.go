package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func lotOf(tlc, source string) cte.Lot { return cte.Lot{TLC: tlc, Source: source} }

// made is a record that says what a lot was made from.
func made(id string, out cte.Lot, inputs ...cte.Lot) lifecycle.Sealed {
	return row(id, expired, lot(out.TLC, out.Source), func(s *lifecycle.Sealed) { s.EventType, s.Inputs = cte.Transformation, inputs })
}

func byLot(a, b cte.Lot) int {
	if c := strings.Compare(a.TLC, b.TLC); c != 0 {
		return c
	}
	return strings.Compare(a.Source, b.Source)
}

func traced(tlc, source string, t lifecycle.Trace) lifecycle.Scope {
	return lifecycle.Scope{TLC: tlc, TLCSource: source, Trace: t}
}

// touch: two lots may be one. Written here once more, so that nobody's mistake is
// taken for the rule.
func touch(a, b cte.Lot) bool {
	return a.TLC != "" && a.TLC == b.TLC && (a.Source == b.Source || a.Source == "" || b.Source == "")
}

// model is what the rules say of records and holds, by trying everything until
// nothing is new.
type model struct {
	rows   []lifecycle.Sealed
	scopes map[string][]lifecycle.Scope // of open holds, by id
}

// closure is each lot that a scope's trace leads to.
func (m *model) closure(s lifecycle.Scope) map[cte.Lot]bool {
	lots := map[cte.Lot]bool{}
	if s.Trace == lifecycle.TraceNone {
		return lots
	}
	add := func(l cte.Lot) {
		if s.TLCSource != "" {
			l.Source = s.TLCSource
		}
		if l.TLC != "" {
			lots[l] = true
		}
	}
	onLots := s == lifecycle.Scope{TLC: s.TLC, TLCPrefix: s.TLCPrefix, TLCSource: s.TLCSource, Trace: s.Trace}
	if s.TLC != "" && onLots {
		lots[lotOf(s.TLC, s.TLCSource)] = true
	}
	for i := range m.rows {
		r := &m.rows[i]
		if s.Covers(&r.Row) && (s.TLC == "" || !onLots) {
			add(lotOf(r.TLC, r.TLCSource))
		}
		if s.TLCPrefix == "" || !onLots || r.TLC == "" {
			continue
		}
		for _, in := range r.Inputs {
			for _, l := range []cte.Lot{in, lotOf(r.TLC, r.TLCSource)} {
				if in != lotOf(r.TLC, r.TLCSource) && strings.HasPrefix(l.TLC, s.TLCPrefix) && (s.TLCSource == "" || l.Source == "" || s.TLCSource == l.Source) {
					add(l)
				}
			}
		}
	}
	for before := -1; before != len(lots); {
		before = len(lots)
		for _, r := range m.rows {
			out := lotOf(r.TLC, r.TLCSource)
			for _, in := range r.Inputs {
				if out.TLC == "" || in == out {
					continue
				}
				for l := range lots {
					if s.Trace != lifecycle.Backward && touch(l, in) {
						lots[out] = true
					}
					if s.Trace != lifecycle.Forward && touch(l, out) {
						lots[in] = true
					}
				}
			}
		}
	}
	return lots
}

// held says which records the open holds cover.
func (m *model) held() func(*lifecycle.Row) bool {
	var all []lifecycle.Scope
	lots := map[cte.Lot]bool{}
	for _, scopes := range m.scopes {
		for _, s := range scopes {
			all = append(all, s)
			for l := range m.closure(s) {
				lots[l] = true
			}
		}
	}
	return func(r *lifecycle.Row) bool {
		if slices.ContainsFunc(all, func(s lifecycle.Scope) bool { return s.Covers(r) }) {
			return true
		}
		for l := range lots {
			if touch(l, lotOf(r.TLC, r.TLCSource)) {
				return true
			}
		}
		return false
	}
}

func (k *kit) trace() {
	k.Helper()
	k.ok(k.TraceHolds(k.ctx))
}

// lineage: what Merge is told of input lots, and what Links and ScopeLots say of it.
func lineage(k *kit) {
	batch := []lifecycle.Sealed{
		made("ab", lotOf("B", "S"), lotOf("A", "S")),
		made("ab2", lotOf("B", ""), lotOf("A", "")),
		made("ab3", lotOf("B", "T"), lotOf("A", "T"), lotOf("A", "U"), lotOf("A", "T")), // one of them twice
		made("self", lotOf("A", "S"), lotOf("A", "S"), lotOf("Z", "S")),
		made("no lot", lotOf("", "S"), lotOf("A", "S")),
		row("plain", expired, lot("A", "S")),
		made("bc", lotOf("C", "S"), lotOf("B", "S")),
	}
	batch[0].EventTimestamp, batch[0].EventType = expired.Add(7), cte.Cooling
	k.take(batch[:4]...)
	k.take(batch[4:]...)
	link := func(record string, in, out cte.Lot) lifecycle.Link {
		i := slices.IndexFunc(batch, func(s lifecycle.Sealed) bool { return s.RecordID == record })
		return lifecycle.Link{Input: in, Output: out, RecordID: record, EventType: batch[i].EventType, EventTimestamp: batch[i].EventTimestamp.UTC()}
	}
	ab, ab2 := link("ab", lotOf("A", "S"), lotOf("B", "S")), link("ab2", lotOf("A", ""), lotOf("B", ""))
	ab3t, ab3u := link("ab3", lotOf("A", "T"), lotOf("B", "T")), link("ab3", lotOf("A", "U"), lotOf("B", "T"))
	za, bc := link("self", lotOf("Z", "S"), lotOf("A", "S")), link("bc", lotOf("B", "S"), lotOf("C", "S"))
	cases := []struct {
		lots    []cte.Lot
		forward bool
		want    []lifecycle.Link
	}{
		{[]cte.Lot{lotOf("A", "S")}, true, []lifecycle.Link{ab, ab2}},
		{[]cte.Lot{lotOf("A", "T")}, true, []lifecycle.Link{ab2, ab3t}},
		{[]cte.Lot{lotOf("A", "U")}, true, []lifecycle.Link{ab2, ab3u}},
		{[]cte.Lot{lotOf("A", "other")}, true, []lifecycle.Link{ab2}},
		{[]cte.Lot{lotOf("A", "")}, true, []lifecycle.Link{ab, ab2, ab3t, ab3u}},
		{[]cte.Lot{lotOf("a", ""), lotOf("A%", ""), lotOf("", "")}, true, nil},
		{[]cte.Lot{lotOf("A", "S")}, false, []lifecycle.Link{za}},
		{[]cte.Lot{lotOf("B", "S")}, false, []lifecycle.Link{ab, ab2}},
		{[]cte.Lot{lotOf("B", "")}, false, []lifecycle.Link{ab, ab2, ab3t, ab3u}},
		{[]cte.Lot{lotOf("B", "T")}, false, []lifecycle.Link{ab2, ab3t, ab3u}},
		{[]cte.Lot{lotOf("B", "S")}, true, []lifecycle.Link{bc}},
		{[]cte.Lot{lotOf("Z", ""), lotOf("B", "S"), lotOf("Z", "S"), lotOf("nowhere", "S")}, true, []lifecycle.Link{za, bc}},
		{[]cte.Lot{lotOf("C", "S"), lotOf("A", "")}, false, []lifecycle.Link{bc, za}},
		{nil, true, nil},
		{nil, false, nil},
	}
	check := func(when string) {
		k.Helper()
		order := func(a, b lifecycle.Link) int {
			return strings.Compare(a.RecordID+"\x00"+a.Input.TLC+"\x00"+a.Input.Source, b.RecordID+"\x00"+b.Input.TLC+"\x00"+b.Input.Source)
		}
		for _, c := range cases {
			got, err := k.Links(k.ctx, c.lots, c.forward)
			k.ok(err)
			slices.SortFunc(got, order)
			// Asked for two lots that it touches both, a link may be told twice.
			got = slices.Compact(got)
			slices.SortFunc(c.want, order)
			if len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
				k.Errorf("%s, links of %q, forward %t:\n%+v, want\n%+v", when, c.lots, c.forward, got, c.want)
			}
		}
	}
	check("at first")
	// What it was made from is known for as long as the record's row is, and only once.
	k.begin()
	k.archive("seg-1", batch[0], batch[6])
	k.unchanged("a repeated merge", func() {
		if _, err := k.Merge(k.ctx, batch, nil, leaf(lifecycle.ActionIngested)); err != nil {
			k.Error(err)
		}
	})
	check("after archiving and a repeated merge")
	var many []cte.Lot
	for i := range 1500 {
		many = append(many, lotOf(fmt.Sprint("none-", i), "S"))
	}
	many = append(many, lotOf("Z", "S"))
	if got, err := k.Links(k.ctx, many, true); err != nil || len(got) != 1 || got[0].RecordID != "self" {
		k.Errorf("links of 1,501 lots: %+v, %v", got, err)
	}
}

// graph is lots with what was made from what: "A B>C" is a record of C made from A
// and B, and one record of each lot without a word of lineage.
type graph struct {
	name, links string
	start       string
	covers      map[lifecycle.Trace]string
}

var graphs = []graph{
	{"chain", "A>B B>C C>D D>E", "C", map[lifecycle.Trace]string{"": "C", lifecycle.Forward: "C D E", lifecycle.Backward: "A B C", lifecycle.Both: "A B C D E"}},
	{"end of a chain", "A>B B>C C>D D>E", "E", map[lifecycle.Trace]string{"": "E", lifecycle.Forward: "E", lifecycle.Backward: "A B C D E", lifecycle.Both: "A B C D E"}},
	{"split", "A>B A>C A>D", "B", map[lifecycle.Trace]string{"": "B", lifecycle.Forward: "B", lifecycle.Backward: "A B", lifecycle.Both: "A B C D"}},
	{"split at its root", "A>B A>C A>D", "A", map[lifecycle.Trace]string{"": "A", lifecycle.Forward: "A B C D", lifecycle.Backward: "A", lifecycle.Both: "A B C D"}},
	{"diamond", "A>B A>C B>D C>D", "B", map[lifecycle.Trace]string{"": "B", lifecycle.Forward: "B D", lifecycle.Backward: "A B", lifecycle.Both: "A B C D"}},
	{"diamond at its tip", "A>B A>C B>D C>D", "A", map[lifecycle.Trace]string{"": "A", lifecycle.Forward: "A B C D", lifecycle.Backward: "A", lifecycle.Both: "A B C D"}},
	{"cycle", "A>B B>C C>A C>D E>B", "B", map[lifecycle.Trace]string{"": "B", lifecycle.Forward: "A B C D", lifecycle.Backward: "A B C E", lifecycle.Both: "A B C D E"}},
	{"two that made each other", "A>B B>A", "A", map[lifecycle.Trace]string{"": "A", lifecycle.Forward: "A B", lifecycle.Backward: "A B", lifecycle.Both: "A B"}},
	{"many inputs", "A,B,C,D,E,F,G,H>I I>J", "I", map[lifecycle.Trace]string{"": "I", lifecycle.Forward: "I J", lifecycle.Backward: "A B C D E F G H I", lifecycle.Both: "A B C D E F G H I J"}},
	{"one of many inputs", "A,B,C,D,E,F,G,H>I I>J", "D", map[lifecycle.Trace]string{"": "D", lifecycle.Forward: "D I J", lifecycle.Backward: "D", lifecycle.Both: "A B C D E F G H I J"}},
	{"of itself", "A>A A>B", "A", map[lifecycle.Trace]string{"": "A", lifecycle.Forward: "A B", lifecycle.Backward: "A", lifecycle.Both: "A B"}},
	{"beside it", "A>B C>D", "A", map[lifecycle.Trace]string{"": "A", lifecycle.Forward: "A B", lifecycle.Backward: "A", lifecycle.Both: "A B"}},
	// A source that is lacking may be any. What is reached by a lot of one source is not
	// taken for one of another.
	{"lacking where it was made", "A/S>B B/S>C B/T>D", "A/S", map[lifecycle.Trace]string{"": "A/S", lifecycle.Forward: "A/S B B/S B/T C D", lifecycle.Backward: "A/S", lifecycle.Both: "A/S B B/S B/T C D"}},
	{"lacking where it was used", "A/S>B/S B>C B/T>D", "A/S", map[lifecycle.Trace]string{"": "A/S", lifecycle.Forward: "A/S B/S B C", lifecycle.Backward: "A/S", lifecycle.Both: "A/S B/S B C B/T D"}},
	{"lacking at the start", "A/S>B/S A/T>C/S", "A", map[lifecycle.Trace]string{"": "A A/S A/T", lifecycle.Forward: "A A/S A/T B/S C/S", lifecycle.Backward: "A A/S A/T", lifecycle.Both: "A A/S A/T B/S C/S"}},
	{"of another source", "A/S>B/S A/T>C/S B/T>D/S", "A/S", map[lifecycle.Trace]string{"": "A/S", lifecycle.Forward: "A/S B/S", lifecycle.Backward: "A/S", lifecycle.Both: "A/S B/S"}},
	{"lacking in the middle, backward", "A/S>B/S A/T>B B/S>C/S", "C/S", map[lifecycle.Trace]string{"": "C/S", lifecycle.Forward: "C/S", lifecycle.Backward: "C/S B/S B A/S A/T", lifecycle.Both: "C/S B/S B A/S A/T"}},
}

// parse gives the lot of a name such as "A" or "A/S", among those of its own.
func (g *graph) lot(space, name string) cte.Lot {
	tlc, source, _ := strings.Cut(name, "/")
	return lotOf(space+tlc, source)
}

func (g *graph) records(space string) (links, plain []lifecycle.Sealed) {
	seen := map[string]bool{}
	for i, l := range strings.Fields(g.links) {
		from, to, _ := strings.Cut(l, ">")
		var inputs []cte.Lot
		for _, f := range append(strings.Split(from, ","), to) {
			if !seen[f] {
				seen[f] = true
				lt := g.lot(space, f)
				plain = append(plain, row(space+"plain/"+f, expired, lot(lt.TLC, lt.Source)))
			}
			if f != to || from == to {
				inputs = append(inputs, g.lot(space, f))
			}
		}
		links = append(links, made(fmt.Sprintf("%slink-%d/%s", space, i, to), g.lot(space, to), inputs...))
	}
	return links, plain
}

// tracing: each graph traced each way, where what arrives and what is asked comes
// in another order each time.
func tracing(k *kit) {
	for _, when := range []struct {
		name string
		do   func(links, plain []lifecycle.Sealed, place func())
	}{
		{"placed last", func(links, plain []lifecycle.Sealed, place func()) {
			k.take(append(links, plain...)...)
			place()
		}},
		{"placed last, and prepared", func(links, plain []lifecycle.Sealed, place func()) {
			k.take(append(plain, links...)...)
			place()
			k.trace()
		}},
		{"placed first", func(links, plain []lifecycle.Sealed, place func()) {
			place()
			k.take(append(links, plain...)...)
		}},
		{"placed first, and prepared before each arrival", func(links, plain []lifecycle.Sealed, place func()) {
			place()
			for i := 0; i < len(links); i += 8 {
				k.trace()
				k.take(links[i:min(i+8, len(links))]...)
			}
			k.trace()
			k.take(plain...)
		}},
		{"in the other order, prepared now and then", func(links, plain []lifecycle.Sealed, place func()) {
			slices.Reverse(links)
			n := len(links) / 2
			k.take(plain...)
			k.take(links[:n]...)
			place()
			k.trace()
			for i := n; i < len(links); i += 5 {
				k.take(links[i:min(i+5, len(links))]...)
			}
		}},
		{"records before links, and all before it is prepared", func(links, plain []lifecycle.Sealed, place func()) {
			k.take(plain...)
			place()
			k.take(links...)
			k.trace()
		}},
	} {
		k.begin()
		var links, plain []lifecycle.Sealed
		var placements []lifecycle.Placement
		held := map[string]bool{}
		for _, g := range graphs {
			for trace, covers := range g.covers {
				space := fmt.Sprintf("%s/%s/%s/", when.name, g.name, trace)
				l, p := g.records(space)
				links, plain = append(links, l...), append(plain, p...)
				start := g.lot(space, g.start)
				placements = append(placements, placement("h/"+space, traced(start.TLC, start.Source, trace)))
				for _, r := range append(l, p...) {
					_, name, _ := strings.Cut(strings.TrimPrefix(r.RecordID, space), "/")
					held[r.RecordID] = slices.Contains(strings.Fields(covers), name)
				}
			}
		}
		// The order of a map, and so another each time.
		when.do(links, plain, func() {
			for _, p := range placements {
				k.ok(k.Place(k.ctx, p))
			}
		})
		all := append(slices.Clone(links), plain...)
		want := func(r *lifecycle.Row) bool { return held[r.RecordID] }
		for _, says := range k.disagree("seg/"+when.name, all, want) {
			k.Errorf("%s: %s", when.name, says)
		}
		// A released one covers nothing, whatever was found out for it.
		for _, p := range placements {
			k.release(p.Hold.ID)
		}
		k.nothingHeld()
		if kept, _ := sortedIDs(all, want); k.softDeleted("seg/"+when.name, all) != len(kept) {
			k.Errorf("%s: not all that was held is archived after the release", when.name)
		}
		k.end()
	}
}

// softDeleted takes what it can of the records.
func (k *kit) softDeleted(segment string, rows []lifecycle.Sealed) int {
	k.Helper()
	done, err := k.SoftDelete(k.ctx, k.lease, segment, Start, members(rows...), leaf(lifecycle.ActionArchived))
	k.ok(err)
	return done.Records
}

// keeps wants exactly these of the rows kept by a SoftDelete of all that are given,
// by the planner, and by those who count.
func (k *kit) keeps(what, segment string, rows []lifecycle.Sealed, want ...string) {
	k.Helper()
	for _, says := range k.disagree(segment, rows, func(r *lifecycle.Row) bool { return slices.Contains(want, r.RecordID) }) {
		k.Errorf("%s: %s", what, says)
	}
}

// arrivals: what comes in after a traced hold was placed, and after everything was
// made ready, is held the moment that Merge returns.
func arrivals(k *kit) {
	k.begin()
	// A link that connects two records that are there already.
	a, c := row("a", expired, lot("A", "S")), row("c", expired, lot("C", "S"))
	k.take(a, c)
	k.place("h-1", traced("A", "S", lifecycle.Forward))
	k.trace()
	k.take(made("b-link", lotOf("B", "S"), lotOf("A", "S")))
	k.trace()
	k.take(made("c-link", lotOf("C", "S"), lotOf("B", "S")))
	k.keeps("a link after the hold", "seg-1", []lifecycle.Sealed{a, c}, "a", "c")
	// A record of a lot that was reached by lineage alone.
	late := row("b", expired, lot("B", "S"))
	k.take(late, row("b-other", expired, lot("B", "T")))
	k.keeps("a record after the hold", "seg-2", []lifecycle.Sealed{late, row("b-other", expired, lot("B", "T"))}, "b")

	// Scopes whose first record comes later, each with what is made from it, and what
	// came before.
	for _, c := range []struct {
		name  string
		scope lifecycle.Scope
		// first and other complete the record that the scope matches, and one that it
		// does not.
		first, other func(*lifecycle.Sealed)
		// named: the start is known by lineage before its record comes.
		named bool
	}{
		{"location", lifecycle.Scope{Location: "FAC-9"}, at("FAC-9"), at("FAC-8"), false},
		{"product", lifecycle.Scope{Product: "P-9"}, func(s *lifecycle.Sealed) { s.Product = "P-9" }, nil, false},
		{"date", lifecycle.Scope{From: expired.Add(5 * time.Hour), To: expired.Add(5*time.Hour + 1)}, on(expired.Add(5 * time.Hour)), on(expired.Add(5*time.Hour + 1)), false},
		{"event", lifecycle.Scope{EventType: cte.Harvesting}, func(s *lifecycle.Sealed) { s.EventType = cte.Harvesting }, nil, false},
		{"id", lifecycle.Scope{RecordID: "id-first"}, nil, nil, false},
		{"beginning", lifecycle.Scope{TLCPrefix: "beginning-fir"}, nil, nil, true},
		{"lot and location", lifecycle.Scope{TLC: "lot and location-first", Location: "FAC-9"}, at("FAC-9"), at("FAC-9"), false},
		{"lot", lifecycle.Scope{TLC: "lot-first"}, nil, nil, true},
	} {
		of := func(name string) cte.Lot { return lotOf(c.name+"-"+name, "S") }
		record := func(name string, edit func(*lifecycle.Sealed)) lifecycle.Sealed {
			if edit == nil {
				edit = func(*lifecycle.Sealed) {}
			}
			return row(of(name).TLC, expired, lot(of(name).TLC, "S"), edit)
		}
		first, other := record("first", c.first), record("other", c.other)
		after, afterOther, bystander := record("after", nil), record("after-other", nil), record("bystander", nil)
		k.take(after, afterOther, bystander)
		k.take(made(c.name+"-link", of("after"), of("first")), made(c.name+"-link-other", of("after-other"), of("other")))
		id := "h-" + c.name
		c.scope.Trace = lifecycle.Forward
		k.place(id, c.scope)
		k.trace()
		early := []lifecycle.Sealed{after, afterOther, bystander}
		for _, says := range k.planned(early, func(r *lifecycle.Row) bool { return c.named && r.RecordID == after.RecordID }) {
			k.Errorf("%s, before its first record: %s", c.name, says)
		}
		k.take(first, other)
		k.keeps("a start that comes later, "+c.name, "seg-"+c.name, append(early, first, other), first.RecordID, after.RecordID)
		k.release(id)
	}
}

// on puts an event at a time.
func on(t time.Time) func(*lifecycle.Sealed) {
	return func(s *lifecycle.Sealed) { s.EventTimestamp = t }
}

// lineageOnly: lots that only lineage names, at the start and on the way.
func lineageOnly(k *kit) {
	k.begin()
	all := []lifecycle.Sealed{
		made("end", lotOf("END", "S"), lotOf("M-2", "S")), made("m2", lotOf("M-2", "S"), lotOf("M-1", "S")), made("m1", lotOf("M-1", "S"), lotOf("GHOST-1", "")),
		made("elsewhere", lotOf("X", "S"), lotOf("GHOST-2", "T")), made("free", lotOf("Y", "S"), lotOf("ghost-1", "")),
	}
	k.take(all...)
	for i, c := range []struct {
		scope lifecycle.Scope
		want  []string
	}{
		{lifecycle.Scope{TLCPrefix: "GHOST-", Trace: lifecycle.Forward}, []string{"end", "m2", "m1", "elsewhere"}},
		{lifecycle.Scope{TLCPrefix: "GHOST-", TLCSource: "S", Trace: lifecycle.Forward}, []string{"end", "m2", "m1"}},
		{lifecycle.Scope{TLC: "GHOST-1", TLCSource: "S", Trace: lifecycle.Forward}, []string{"end", "m2", "m1"}},
		{lifecycle.Scope{TLC: "GHOST-2", Trace: lifecycle.Both}, []string{"elsewhere"}},
		{lifecycle.Scope{TLC: "GHOST-2", TLCSource: "S", Trace: lifecycle.Both}, nil},
		{lifecycle.Scope{TLCPrefix: "GHOST-"}, nil},
		{lifecycle.Scope{TLCPrefix: "GHOST-", Trace: lifecycle.Backward}, nil},
	} {
		id := fmt.Sprint("h-", i)
		k.place(id, c.scope)
		for _, says := range k.planned(all, func(r *lifecycle.Row) bool { return slices.Contains(c.want, r.RecordID) }) {
			k.Errorf("%+v: %s", c.scope, says)
		}
		if len(c.want) > 0 {
			held := slices.DeleteFunc(slices.Clone(all), func(s lifecycle.Sealed) bool { return !slices.Contains(c.want, s.RecordID) })
			k.verified(fmt.Sprint("seg-", i), held[0].ArchiveClass, len(held))
			if n := k.softDeleted(fmt.Sprint("seg-", i), held); n != 0 {
				k.Errorf("%+v: %d that it leads to were archived", c.scope, n)
			}
		}
		k.release(id)
	}
}

// extendTraced: a hold that is extended by a trace, and by what its trace did not
// reach.
func extendTraced(k *kit) {
	k.begin()
	all := []lifecycle.Sealed{
		row("a", expired, lot("A", "S")), made("b", lotOf("B", "S"), lotOf("A", "S")), made("c", lotOf("C", "S"), lotOf("B", "S")),
		row("x", expired, lot("X", "S")), made("y", lotOf("Y", "S"), lotOf("X", "S")), row("free", expired, lot("F", "S")),
	}
	k.take(all...)
	k.place("h-1", onLot("A", "S"))
	k.trace()
	k.ok(k.Extend(k.ctx, "h-1", []lifecycle.Scope{traced("A", "S", lifecycle.Forward)}, leaf(lifecycle.ActionHoldExtended)))
	k.keeps("extended by a trace", "seg-1", all[:3], "a", "b", "c")
	k.trace()
	k.ok(k.Extend(k.ctx, "h-1", []lifecycle.Scope{traced("Y", "", lifecycle.Backward)}, leaf(lifecycle.ActionHoldExtended)))
	k.keeps("extended by another", "seg-2", all, "a", "b", "c", "x", "y")
	late := made("z", lotOf("Z", "S"), lotOf("C", "S"))
	later := made("w", lotOf("X", "S"), lotOf("W", "S"))
	w := row("w-plain", expired, lot("W", "S"))
	k.take(late, later, w)
	k.keeps("and what arrives", "seg-3", []lifecycle.Sealed{late, later, w}, "z", "w", "w-plain")
	k.release("h-1")
	k.nothingHeld()
	if n := k.softDeleted("seg-3", append(all[:5:5], late, later, w)); n != 8 {
		k.Errorf("after the release %d of 8 are archived", n)
	}
}

// largeTraces: more lots than are looked at under the lock, in one step and in
// many; asked at once, without anybody having prepared anything.
func largeTraces(k *kit) {
	n, steps := many(8000), many(2000)
	star := []lifecycle.Sealed{row("star-root", expired, lot("star", "S"))}
	chain := []lifecycle.Sealed{row("chain-0", expired, lot("chain-0", "S"))}
	for i := 1; i <= n; i++ {
		star = append(star, made(fmt.Sprint("star-", i), lotOf(fmt.Sprint("star-", i), "S"), lotOf("star", "S")))
	}
	// A chain takes as many steps as it has lots.
	for i := 1; i <= steps; i++ {
		chain = append(chain, made(fmt.Sprint("chain-", i), lotOf(fmt.Sprint("chain-", i), "S"), lotOf(fmt.Sprint("chain-", i-1), "S")))
	}
	k.take(star...)
	k.take(chain...)
	free := row("free", expired, lot("free", "S"))
	k.take(free)
	k.begin()
	ends := func(rows []lifecycle.Sealed) []lifecycle.Sealed {
		last := len(rows) - 1
		return []lifecycle.Sealed{rows[0], rows[1], rows[last/2], rows[last]}
	}
	k.verified("seg-star", free.ArchiveClass, 1)
	k.verified("seg-chain", free.ArchiveClass, 1)
	k.verified("seg-free", free.ArchiveClass, 1)
	k.place("h-star", traced(fmt.Sprint("star-", n), "S", lifecycle.Both))
	k.place("h-chain", traced("chain-0", "", lifecycle.Forward))
	if got := k.softDeleted("seg-star", ends(star)); got != 0 {
		k.Errorf("%d of a star were archived", got)
	}
	if got := k.softDeleted("seg-chain", ends(chain)); got != 0 {
		k.Errorf("%d of a chain were archived", got)
	}
	if got := k.softDeleted("seg-free", []lifecycle.Sealed{free}); got != 1 {
		k.Errorf("%d of one that nothing holds was archived", got)
	}
	// Another hold on the same, from the other end, with a step before.
	k.release("h-chain")
	k.place("h-chain-2", traced(fmt.Sprint("chain-", steps), "S", lifecycle.Backward))
	k.trace()
	k.take(made("before", lotOf("chain-0", "S"), lotOf("before", "S")), row("before-plain", expired, lot("before", "T")), row("before-plain-2", expired, lot("before", "S")))
	rows := []lifecycle.Sealed{row("before-plain", expired, lot("before", "T")), row("before-plain-2", expired, lot("before", "S")), chain[0], chain[steps]}
	if got := k.softDeleted("seg-chain", rows); got != 1 || k.state("before-plain") != lifecycle.Archived {
		k.Errorf("%d were archived, want the one of another source", got)
	}
	k.release("h-star")
	k.release("h-chain-2")
	if got := k.softDeleted("seg-star", append(ends(star), ends(chain)...)); got != 8 {
		k.Errorf("%d of 8 were archived after the release", got)
	}
}

// traceAmongOthers: preparing, arriving, placing, extending and archiving at once,
// from two handles; whatever the order, nothing that is held in the end may have been
// archived after it was held, and in the end all is as the rules say.
func traceAmongOthers(k *kit) {
	rounds := many(40)
	other := k.again(k)
	m := &model{scopes: map[string][]lifecycle.Scope{}}
	chain := func(name string) (out []lifecycle.Sealed) {
		for i := range rounds {
			id := fmt.Sprintf("%s-%d", name, i)
			if i == 0 {
				out = append(out, row(id, expired, lot(id, "S")))
			} else {
				out = append(out, made(id, lotOf(id, "S"), lotOf(fmt.Sprintf("%s-%d", name, i-1), "S")))
			}
		}
		return out
	}
	a, b := chain("a"), chain("b")
	var free []lifecycle.Sealed
	for i := range rounds {
		free = append(free, row(fmt.Sprint("free-", i), expired, lot(fmt.Sprint("free-", i), "S")))
	}
	k.openClasses(a[0].Class, a[0].ArchiveClass)
	k.take(free...)
	k.begin()
	k.verified("seg-1", a[0].ArchiveClass, rounds)
	arrive := func(s lifecycle.Store, rows []lifecycle.Sealed) func() {
		return func() {
			for _, r := range rows {
				if res, err := s.Merge(k.ctx, []lifecycle.Sealed{r}, nil, leaf(lifecycle.ActionIngested)); err != nil || res.Inserted != 1 {
					k.Errorf("merge: %+v, %v", res, err)
				}
			}
		}
	}
	prepare := func(s lifecycle.Store) func() {
		return func() {
			for range rounds {
				if err := s.TraceHolds(k.ctx); err != nil {
					k.Error("TraceHolds:", err)
				}
			}
		}
	}
	// Both chains are held from their first lot on, before anything of them arrives.
	for _, name := range []string{"a", "b"} {
		k.place("h-"+name, traced(name+"-0", "", lifecycle.Forward))
		m.scopes["h-"+name] = []lifecycle.Scope{traced(name+"-0", "", lifecycle.Forward)}
	}
	hold := func() {
		for i := range rounds {
			s := traced(fmt.Sprintf("b-%d", i), "S", lifecycle.Backward)
			id := fmt.Sprint("h-more-", i/4)
			var err error
			if i%4 == 0 {
				err = other.Place(k.ctx, placement(id, s))
			} else {
				err = other.Extend(k.ctx, id, []lifecycle.Scope{s}, leaf(lifecycle.ActionHoldExtended))
			}
			if err != nil {
				k.Error("hold:", err)
			}
			m.scopes[id] = append(m.scopes[id], s)
		}
	}
	archive := func() {
		for i := range rounds {
			// The last that may have arrived, first.
			rows := []lifecycle.Sealed{a[rounds-1-i], b[rounds-1-i], a[i], b[i], free[i]}
			done, err := k.SoftDelete(k.ctx, k.lease, "seg-1", Start, members(rows...), leaf(lifecycle.ActionArchived))
			if err != nil || done.Records != 1 {
				k.Errorf("archived %d, %v, want the free one", done.Records, err)
			}
		}
	}
	together(arrive(k, a), arrive(other, b), prepare(k), prepare(other), hold, archive)
	m.rows = slices.Concat(a, b)
	for _, says := range k.disagree("seg-2", m.rows, m.held()) {
		k.Error(says)
	}
	if n := len(k.idsOf(lifecycle.Query{State: lifecycle.Archived})); n != rounds {
		k.Errorf("%d are archived, want the %d free ones", n, rounds)
	}
	for id := range m.scopes {
		k.release(id)
	}
	k.nothingHeld()
}

// tracesAtRandom: small graphs, arriving in any order, traced by any scopes,
// prepared whenever it may be; what SoftDelete lets through is what the rules, tried
// out until nothing is new, do not hold.
func tracesAtRandom(k *kit) {
	other := k.again(k)
	round := 0
	rapid.Check(k, func(t *rapid.T) {
		round++
		space := fmt.Sprintf("%d/", round)
		lots := rapid.Custom(func(t *rapid.T) cte.Lot {
			return lotOf(space+string(rune('A'+rapid.IntRange(0, 9).Draw(t, "lot"))), rapid.SampledFrom([]string{"S", "S", "S", "T", ""}).Draw(t, "source"))
		})
		m := &model{scopes: map[string][]lifecycle.Scope{}}
		var rows []lifecycle.Sealed
		for i := range rapid.IntRange(1, 15).Draw(t, "links") {
			out := lots.Draw(t, "output")
			if rapid.IntRange(0, 9).Draw(t, "without a lot") == 0 {
				out = lotOf("", "")
			}
			rows = append(rows, made(fmt.Sprintf("%slink-%d", space, i), out, rapid.SliceOfN(lots, 1, 3).Draw(t, "inputs")...))
		}
		for i := range rapid.IntRange(1, 12).Draw(t, "plain") {
			l := lots.Draw(t, "plain lot")
			rows = append(rows, row(fmt.Sprintf("%splain-%d", space, i), expired, lot(l.TLC, l.Source)))
		}
		for i := range rows {
			rows[i].Location = space + rapid.SampledFrom([]string{"X", "Y", "Z", "W", "V"}).Draw(t, "location")
		}
		rows = rapid.Permutation(rows).Draw(t, "order")
		scope := rapid.Custom(func(t *rapid.T) lifecycle.Scope {
			s := lifecycle.Scope{Trace: rapid.SampledFrom([]lifecycle.Trace{lifecycle.Forward, lifecycle.Backward, lifecycle.Both, lifecycle.TraceNone}).Draw(t, "trace")}
			l := lots.Draw(t, "start")
			switch rapid.IntRange(0, 6).Draw(t, "of") {
			case 0, 1, 2:
				s.TLC, s.TLCSource = l.TLC, l.Source
			case 3:
				s.TLCPrefix, s.TLCSource = l.TLC, l.Source
			case 4:
				s.RecordID = rows[rapid.IntRange(0, len(rows)-1).Draw(t, "record")].RecordID
			case 5:
				s.Location = space + rapid.SampledFrom([]string{"X", "Y"}).Draw(t, "at")
			case 6:
				s.TLC, s.TLCSource, s.Location = l.TLC, l.Source, space+rapid.SampledFrom([]string{"X", "Y"}).Draw(t, "at")
			}
			return s
		})
		k.openClasses(rows[0].Class, rows[0].ArchiveClass)
		k.begin()
		defer k.end()
		stores := rapid.SampledFrom([]lifecycle.Store{k.Store, other})
		var open []string
		defer func() {
			for _, id := range open {
				k.release(id)
			}
		}()
		holds := 0
		rest := rows
		for len(rest) > 0 || holds == 0 {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1, 2:
				if len(rest) == 0 {
					continue
				}
				n := rapid.IntRange(1, len(rest)).Draw(t, "arrive")
				res, err := stores.Draw(t, "by").Merge(k.ctx, rest[:n], nil, leaf(lifecycle.ActionIngested))
				if k.ok(err); res.Inserted != n {
					k.Fatalf("merged %+v of %d", res, n)
				}
				m.rows, rest = append(m.rows, rest[:n]...), rest[n:]
			case 3:
				k.ok(stores.Draw(t, "by").TraceHolds(k.ctx))
			case 4:
				if holds > 4 {
					continue
				}
				holds++
				id := fmt.Sprintf("%sh-%d", space, holds)
				m.scopes[id] = rapid.SliceOfNDistinct(scope, 1, 2, func(s lifecycle.Scope) lifecycle.Scope { return s }).Draw(t, "scopes")
				k.ok(stores.Draw(t, "by").Place(k.ctx, placement(id, m.scopes[id]...)))
				open = append(open, id)
			case 5:
				if len(open) == 0 {
					continue
				}
				id := open[rapid.IntRange(0, len(open)-1).Draw(t, "which")]
				if rapid.Bool().Draw(t, "released") {
					k.ok(stores.Draw(t, "by").Release(k.ctx, id, "over", leaf(lifecycle.ActionHoldReleased)))
					delete(m.scopes, id)
					open = slices.DeleteFunc(open, func(o string) bool { return o == id })
					continue
				}
				s := scope.Draw(t, "extended by")
				k.ok(stores.Draw(t, "by").Extend(k.ctx, id, []lifecycle.Scope{s}, leaf(lifecycle.ActionHoldExtended)))
				m.scopes[id] = append(m.scopes[id], s)
			}
		}
		for _, says := range k.disagree("seg/"+space, rows, m.held()) {
			t.Errorf("held by %+v: %s", m.scopes, says)
		}
	})
	k.nothingHeld()
}
