package storetest

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// mask is a set of a world's records or scopes, by their numbers.
type mask uint32

func (m mask) has(i int) bool { return m&(1<<i) != 0 }

func (m mask) each(yield func(int) bool) {
	for ; m != 0; m &= m - 1 {
		if !yield(bits.TrailingZeros32(uint32(m))) {
			return
		}
	}
}

// world is what there can be in a round: a few lots, records of them that arrive in
// batches and tell what was made from what, scopes, and holds.
type world struct {
	lots    []cte.Lot
	records []lifecycle.Sealed
	index   map[string]int // by record id
	// Half of the records are there from the beginning, the others come in batches.
	// One may bring a hold.
	batches    []mask
	batchHolds []int // -1 for none
	scopes     []lifecycle.Scope
	// The holds are those that are placed, then those that batches bring, then one
	// for each lot, to be placed between a check and what was checked.
	placements []lifecycle.Placement
	holds      []mask // the scopes that each is placed with
	placed     int
	spare      int // the first of those for the lots
	classes    [2]string
	ofClass    [2]mask

	reached map[scopeAt]mask // what closure has found
}

type scopeAt struct {
	scope   int
	present mask
}

const (
	raceLots    = 5
	raceRecords = 12
	raceScopes  = 10
	raceHolds   = 3 // that workers place
)

// newWorld makes one whose names begin with its own, and whose classes are two
// generations of a period, from the one given.
func newWorld(rng *rand.Rand, name string, hot lifecycle.Period, generation int) *world {
	w := &world{index: map[string]int{}, reached: map[scopeAt]mask{}, classes: [2]string{hot.ID(generation), hot.ID(generation + 1)}}
	either := func(of ...string) string { return of[rng.IntN(len(of))] }
	// The last two lots may have one code, of two sources or of none.
	for i := range raceLots {
		code := min(i, raceLots-2+rng.IntN(2))
		w.lots = append(w.lots, cte.Lot{TLC: fmt.Sprintf("%s/%c", name, 'A'+code), Source: either("", "S", "T")})
	}
	// Records link lots, more often than not as a chain in some order, so that what
	// arrives joins what there is.
	chain := rng.Perm(raceLots)
	anyLot := func() cte.Lot { return w.lots[rng.IntN(raceLots)] }
	for i := range raceRecords {
		w.index[fmt.Sprintf("%s/%d", name, i)] = i
		of := anyLot()
		var inputs []cte.Lot
		if rng.IntN(2) == 0 {
			at := rng.IntN(raceLots - 1)
			of, inputs = w.lots[chain[at+1]], []cte.Lot{w.lots[chain[at]]}
			if rng.IntN(4) == 0 {
				inputs = append(inputs, anyLot())
			}
			if rng.IntN(4) == 0 {
				inputs[0].Source = either("", "S", "T")
			}
		}
		if rng.IntN(12) == 0 {
			of = cte.Lot{Source: of.Source} // of no lot
		}
		class := 0
		if rng.IntN(4) == 0 {
			class = 1
		}
		w.ofClass[class] |= 1 << i
		w.records = append(w.records, row(fmt.Sprintf("%s/%d", name, i), expired.Add(time.Duration(rng.IntN(2))*time.Hour), lot(of.TLC, of.Source), func(s *lifecycle.Sealed) {
			s.Class, s.Inputs = w.classes[class], inputs
			s.Location, s.Product = name+either("/north", "/south"), either("leek", "kale")
			s.EventType = cte.EventType(either(string(cte.Shipping), string(cte.Receiving)))
		}))
	}
	// Two batches may share a record.
	for i := raceRecords / 2; i < raceRecords; {
		m := mask(0)
		for n := 1 + rng.IntN(3); n > 0 && i < raceRecords; n, i = n-1, i+1 {
			m |= 1 << i
		}
		if rng.IntN(8) == 0 {
			m |= 1 << (raceRecords/2 + rng.IntN(raceRecords/2))
		}
		w.batches, w.batchHolds = append(w.batches, m), append(w.batchHolds, -1)
	}

	add := func(s lifecycle.Scope) mask {
		if err := s.Validate(); err != nil {
			panic(err)
		}
		w.scopes = append(w.scopes, s)
		return 1 << (len(w.scopes) - 1)
	}
	for range raceScopes {
		l, r := anyLot(), w.records[rng.IntN(raceRecords)]
		if rng.IntN(3) == 0 {
			l.Source = ""
		}
		s := lifecycle.Scope{TLC: l.TLC, TLCSource: l.Source}
		switch rng.IntN(12) {
		case 0:
			s = lifecycle.Scope{RecordID: r.RecordID}
		case 1:
			s = lifecycle.Scope{Location: r.Location}
		case 2:
			s = lifecycle.Scope{Location: r.Location, Product: "leek", EventType: cte.Shipping}
		case 3:
			s = lifecycle.Scope{TLCPrefix: l.TLC, TLCSource: l.Source}
		case 4:
			s.Location = r.Location
		case 5:
			s = lifecycle.Scope{RecordID: r.RecordID, To: expired.Add(time.Minute), TLC: r.TLC}
		case 6:
			s = lifecycle.Scope{Location: r.Location, From: expired.Add(time.Minute)}
		}
		s.Trace = lifecycle.Trace(either("", "forward", "forward", "backward", "both"))
		add(s)
	}
	hold := func(kind lifecycle.HoldKind, reference string, scopes mask) {
		p := placement(fmt.Sprintf("h-%s-%d", name, len(w.holds)))
		p.Hold.Kind, p.Hold.Reference = kind, reference
		for i := range scopes.each {
			p.Hold.Scopes = append(p.Hold.Scopes, w.scopes[i])
		}
		w.placements, w.holds = append(w.placements, p), append(w.holds, scopes)
	}
	w.placed = raceHolds
	for i := range raceHolds {
		scopes := mask(1) << rng.IntN(raceScopes)
		if rng.IntN(3) == 0 {
			scopes |= 1 << rng.IntN(raceScopes)
		}
		// Two of them may be the same case, so that only one can be open.
		reference := fmt.Sprintf("%s-%d", name, i)
		if i == 1 && rng.IntN(4) == 0 {
			reference = fmt.Sprintf("%s-0", name)
		}
		hold(lifecycle.Recall, reference, scopes)
	}
	for i, m := range w.batches {
		if rng.IntN(8) == 0 {
			w.batchHolds[i] = len(w.holds)
			hold(lifecycle.RetentionHold, "", add(onRecord(w.records[bits.TrailingZeros32(uint32(m))].RecordID)))
		}
	}
	w.spare = len(w.holds)
	for _, l := range w.lots {
		hold(lifecycle.Litigation, "", add(lifecycle.Scope{TLC: l.TLC, TLCSource: l.Source, Trace: lifecycle.Trace(either("", "forward"))}))
	}
	return w
}

func (w *world) ids(m mask) (out []string) {
	for i := range m.each {
		out = append(out, w.records[i].RecordID)
	}
	return out
}

// sameSource: a lot is unique only within its source, and one that is lacking may
// be any.
func sameSource(a, b string) bool { return a == "" || b == "" || a == b }

// matches says whether a scope matches a record by itself.
func matches(s *lifecycle.Scope, r *lifecycle.Sealed) bool {
	for _, c := range [][2]string{
		{s.RecordID, r.RecordID}, {s.TLC, r.TLC}, {s.Location, r.Location}, {s.Product, r.Product}, {string(s.EventType), string(r.EventType)},
	} {
		if c[0] != "" && c[0] != c[1] {
			return false
		}
	}
	return strings.HasPrefix(r.TLC, s.TLCPrefix) && sameSource(s.TLCSource, r.TLCSource) &&
		!r.EventTimestamp.Before(s.From) && (s.To.IsZero() || r.EventTimestamp.Before(s.To))
}

// closure finds the records that a scope covers once those given are present: by
// itself, and by going along all links again and again until nothing is new.
func (w *world) closure(scope int, present mask) (covered mask) {
	at := scopeAt{scope, present}
	if m, ok := w.reached[at]; ok {
		return m
	}
	s := &w.scopes[scope]
	var lots []cte.Lot
	touches := func(l cte.Lot) bool {
		return l.TLC != "" && slices.ContainsFunc(lots, func(have cte.Lot) bool { return have.TLC == l.TLC && sameSource(have.Source, l.Source) })
	}
	begin := func(l cte.Lot) {
		if l.TLC == "" {
			return
		}
		if s.TLCSource != "" {
			l.Source = s.TLCSource
		}
		lots = append(lots, l)
	}
	links := func(do func(in, out cte.Lot)) {
		for i := range present.each {
			r := &w.records[i]
			for _, in := range r.Inputs {
				if r.TLC != "" {
					do(in, cte.Lot{TLC: r.TLC, Source: r.TLCSource})
				}
			}
		}
	}
	if s.Trace != lifecycle.TraceNone {
		switch {
		case s.OnLots() && s.TLC != "":
			begin(cte.Lot{TLC: s.TLC, Source: s.TLCSource})
		default:
			for i := range present.each {
				if r := &w.records[i]; matches(s, r) {
					begin(cte.Lot{TLC: r.TLC, Source: r.TLCSource})
				}
			}
		}
		if s.OnLots() && s.TLCPrefix != "" {
			links(func(in, out cte.Lot) {
				for _, l := range []cte.Lot{in, out} {
					if strings.HasPrefix(l.TLC, s.TLCPrefix) && sameSource(s.TLCSource, l.Source) {
						begin(l)
					}
				}
			})
		}
		for more := true; more; {
			more = false
			reach := func(l cte.Lot) {
				if !slices.Contains(lots, l) {
					lots, more = append(lots, l), true
				}
			}
			links(func(in, out cte.Lot) {
				if s.Trace != lifecycle.Backward && touches(in) {
					reach(out)
				}
				if s.Trace != lifecycle.Forward && touches(out) {
					reach(in)
				}
			})
		}
	}
	for i := range w.records {
		if r := &w.records[i]; matches(s, r) || touches(cte.Lot{TLC: r.TLC, Source: r.TLCSource}) {
			covered |= 1 << i
		}
	}
	w.reached[at] = covered
	return covered
}

// step is what a worker does, with a hold, a batch or a class by its number, or a
// set of scopes or records.
type step struct {
	kind  kind
	which int
	set   mask
}

type kind string

const (
	toPlace      kind = "place"
	toExtend     kind = "extend"
	toRelease    kind = "release"
	toMerge      kind = "merge"
	toTrace      kind = "trace holds"
	toSoftDelete kind = "soft-delete"
	toCondemn    kind = "condemn"
	toExecute    kind = "execute"
	toRead       kind = "read"
)

// answer is what came of a step: set has the records that were archived (read:
// that are), that exist already (merge), or 1 for a class that was moved.
type answer struct {
	word      word
	set, seen mask
	classes   mask // that are closed
}

type word string

const (
	saidDone     word = "done"
	saidNotFound word = "not found"
	saidReleased word = "released"
	saidTaken    word = "reference taken"
)

// state is all there is to know between two steps.
type state struct {
	present, archived mask
	holds             [16]holdState
	classes           [2]classState
}

type holdState struct {
	is     word // "", open or released
	scopes mask
}

const isOpen word = "open"

type classState uint8

const (
	classOpen classState = iota
	classCondemned
	classExecuting
)

// covered are the records that an open hold covers.
func (w *world) covered(s *state) (m mask) {
	for _, h := range s.holds {
		if h.is == isOpen {
			for i := range h.scopes.each {
				m |= w.closure(i, s.present)
			}
		}
	}
	return m & s.present
}

// next is the sequential specification: whether the answer is right in the state,
// and the state after it.
func (w *world) next(s state, in step, out answer) (bool, state) {
	var h *holdState
	switch in.kind {
	case toPlace, toExtend, toRelease:
		h = &s.holds[in.which]
	}
	switch in.kind {
	case toPlace:
		if h.is != "" {
			return out.word == saidDone, s
		}
		for i, other := range s.holds {
			if other.is == isOpen && w.placements[i].Hold.Kind == w.placements[in.which].Hold.Kind &&
				w.placements[i].Hold.Reference != "" && w.placements[i].Hold.Reference == w.placements[in.which].Hold.Reference {
				return out.word == saidTaken, s
			}
		}
		*h = holdState{isOpen, w.holds[in.which]}
		return out.word == saidDone, s
	case toExtend, toRelease:
		switch h.is {
		case "":
			return out.word == saidNotFound, s
		case saidReleased:
			return out.word == saidReleased, s
		}
		if in.kind == toRelease {
			*h = holdState{is: saidReleased}
		} else {
			h.scopes |= in.set
		}
		return out.word == saidDone, s
	case toMerge:
		exist, closed := w.batches[in.which]&s.present, mask(0)
		for i, c := range s.classes {
			if c != classOpen && w.batches[in.which]&w.ofClass[i] != 0 {
				closed |= 1 << i
			}
		}
		if exist == 0 && closed == 0 {
			s.present |= w.batches[in.which]
			if i := w.batchHolds[in.which]; i >= 0 {
				s.holds[i] = holdState{isOpen, w.holds[i]}
			}
		}
		return out.word == saidDone && out.set == exist && out.classes == closed, s
	case toSoftDelete:
		// All or nothing, and exactly those that may go.
		goes := in.set & s.present &^ s.archived &^ w.covered(&s)
		s.archived |= goes
		return out.word == saidDone && out.set == goes, s
	case toCondemn:
		goes := s.classes[in.which] == classOpen && s.present&^s.archived&w.ofClass[in.which] == 0
		if goes {
			s.classes[in.which] = classCondemned
		}
		return out.word == saidDone && goes == (out.set == 1), s
	case toExecute:
		held := w.covered(&s)&w.ofClass[in.which] != 0
		if s.classes[in.which] == classExecuting && held {
			// The hold came too late. Whether it keeps what may be gone is left open.
			return out.word == saidDone, s
		}
		goes := s.classes[in.which] != classOpen && !held
		if goes {
			s.classes[in.which] = classExecuting
		}
		return out.word == saidDone && goes == (out.set == 1), s
	case toRead:
		return out.word == saidDone && out.seen == s.present && out.set == s.archived, s
	default: // what changes nothing
		return out.word == saidDone, s
	}
}

// changes says whether a step had an effect: without those that had none a history
// that is wrong may be right, but not the other way round.
func changes(op porcupine.Operation) bool {
	in, out := op.Input.(step), op.Output.(answer)
	switch in.kind {
	case toPlace, toExtend, toRelease:
		return out.word == saidDone
	case toMerge:
		return out.set == 0 && out.classes == 0
	case toSoftDelete, toCondemn, toExecute:
		return out.set != 0
	}
	return false
}

func (w *world) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state{present: 1<<(raceRecords/2) - 1} },
		Step: func(s, in, out any) (bool, any) { return w.next(s.(state), in.(step), out.(answer)) },
		DescribeOperation: func(in, out any) string {
			return w.describe(in.(step), out.(answer))
		},
		DescribeState: func(s any) string {
			st := s.(state)
			return fmt.Sprintf("present %v, archived %v, covered %v", w.ids(st.present), w.ids(st.archived), w.ids(w.covered(&st)))
		},
	}
}

// shrink leaves out of a history that is wrong what it is wrong without: what had
// no effect, and what came when all the others were done.
func (w *world) shrink(h []porcupine.Operation) []porcupine.Operation {
	h = slices.Clone(h)
	slices.SortFunc(h, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for i := len(h) - 1; i >= 0; i-- {
		less := slices.Delete(slices.Clone(h), i, i+1)
		later := !slices.ContainsFunc(less, func(op porcupine.Operation) bool { return op.Return >= h[i].Call })
		if (later || !changes(h[i])) && !porcupine.CheckOperations(w.model(), less) {
			h, i = less, len(less) // from the end again: more may be later than all others now
		}
	}
	return h
}

// excerpt is a history in words, and what its records, links and scopes are.
func (w *world) excerpt(h []porcupine.Operation) string {
	var b strings.Builder
	first := h[0].Call
	last := state{present: 1<<(raceRecords/2) - 1}
	for _, op := range h {
		fmt.Fprintf(&b, "  %8.3f to %8.3f ms, worker %d: %s\n", float64(op.Call-first)/1e6, float64(op.Return-first)/1e6, op.ClientId, w.describe(op.Input.(step), op.Output.(answer)))
		_, last = w.next(last, op.Input.(step), op.Output.(answer))
	}
	for i := range last.present.each {
		r := &w.records[i]
		fmt.Fprintf(&b, "  record %s of %s: lot %q of %q, from %v, %s %s %s %s\n", r.RecordID, r.Class, r.TLC, r.TLCSource, r.Inputs, r.Location, r.Product, r.EventType, cte.FormatTime(r.EventTimestamp))
	}
	return b.String()
}

func (w *world) describe(in step, out answer) string {
	var b strings.Builder
	scopes := func(m mask) {
		for i := range m.each {
			fmt.Fprintf(&b, " [%s]", w.scopes[i])
		}
	}
	fmt.Fprint(&b, in.kind)
	switch in.kind {
	case toPlace:
		fmt.Fprintf(&b, " %s on", w.placements[in.which].Hold.ID)
		scopes(w.holds[in.which])
	case toExtend:
		fmt.Fprintf(&b, " %s by", w.placements[in.which].Hold.ID)
		scopes(in.set)
	case toRelease:
		fmt.Fprintf(&b, " %s", w.placements[in.which].Hold.ID)
	case toMerge:
		fmt.Fprintf(&b, " %v", w.ids(w.batches[in.which]))
		if i := w.batchHolds[in.which]; i >= 0 {
			fmt.Fprintf(&b, " with %s on", w.placements[i].Hold.ID)
			scopes(w.holds[i])
		}
	case toSoftDelete:
		fmt.Fprintf(&b, " %v", w.ids(in.set))
	case toCondemn, toExecute:
		fmt.Fprintf(&b, " %s", w.classes[in.which])
	}
	fmt.Fprintf(&b, ": %s", out.word)
	switch in.kind {
	case toMerge:
		if out.set != 0 || out.classes != 0 {
			fmt.Fprintf(&b, ", exist %v, closed %b", w.ids(out.set), out.classes)
		}
	case toSoftDelete:
		fmt.Fprintf(&b, ", archived %v", w.ids(out.set))
	case toRead:
		fmt.Fprintf(&b, ", there %v, archived %v", w.ids(out.seen), w.ids(out.set))
	case toCondemn, toExecute:
		fmt.Fprintf(&b, ", %v", out.set == 1)
	}
	return b.String()
}
