package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
)

// HoldKind is what sort of case a hold is.
type HoldKind string

const (
	Recall           HoldKind = "recall"
	FDAInquiry       HoldKind = "fda-inquiry"
	InspectionFreeze HoldKind = "inspection-freeze"
	Litigation       HoldKind = "litigation"
	// RetentionHold is placed by ingest on a record that says
	// "retention_hold": true. It cannot be asked for by name.
	RetentionHold HoldKind = "retention-hold"
)

// HoldKinds are those that a person may place.
var HoldKinds = []HoldKind{Recall, FDAInquiry, InspectionFreeze, Litigation}

// Trace is how a scope follows lots through lineage: from the lots that went
// into one to the lot that was made from them, or back.
type Trace string

const (
	// TraceNone: a scope covers what it matches, and nothing more.
	TraceNone Trace = ""
	// Forward follows what was made from a lot, and from that, and so on.
	Forward Trace = "forward"
	// Backward follows what a lot was made from.
	Backward Trace = "backward"
	// Both takes each step in either direction: all that is connected with the
	// lot, so also what was made from what it was made from.
	Both Trace = "both"
)

// Scope says what a hold covers, as data: it is evaluated whenever it is asked,
// so it covers what arrives later too. A record must match all conditions that
// are set. One with a Trace covers, besides, every record of the lots of the
// records that it matches, and of those that lineage leads to from there.
type Scope struct {
	RecordID string `json:"record_id,omitempty"`
	// TLC is matched exactly. With a TLCSource it covers records of that
	// source and those that lack one; without, records of every source.
	// TLCPrefix is the beginning of a TLC, in its place.
	TLC       string `json:"traceability_lot_code,omitempty"`
	TLCPrefix string `json:"traceability_lot_code_prefix,omitempty"`
	TLCSource string `json:"tlc_source,omitempty"`
	// Location, Product and EventType are compared with the index columns.
	Location  string        `json:"location,omitempty"`
	Product   string        `json:"product,omitempty"`
	EventType cte.EventType `json:"event_type,omitempty"`
	// From and To bound the event's time: From <= event < To.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// All is every record there is. It stands alone.
	All   bool  `json:"all,omitempty"`
	Trace Trace `json:"trace,omitempty"`
}

// Validate says whether the conditions make sense together. The zero Scope does
// not: everything has to be asked for by All.
func (s Scope) Validate() error {
	alone := s
	alone.All = false
	switch {
	case s.All && alone != Scope{}:
		return errors.New("a scope of all records takes no other condition and no trace")
	case s.All:
		return nil
	case s == Scope{Trace: s.Trace}:
		return errors.New("a scope needs a condition")
	case s.TLC != "" && s.TLCPrefix != "":
		return errors.New("a scope takes a lot or the beginning of one, not both")
	case s.TLCSource != "" && s.TLC == "" && s.TLCPrefix == "":
		return errors.New("a TLC source needs a lot")
	case !s.From.IsZero() && !s.To.IsZero() && !s.From.Before(s.To):
		return fmt.Errorf("a scope's time from %s is not before %s", cte.FormatTime(s.From), cte.FormatTime(s.To))
	}
	switch s.Trace {
	case TraceNone, Forward, Backward, Both:
		return nil
	}
	return fmt.Errorf("a trace is forward, backward or both, not %q", s.Trace)
}

// Covers says whether the scope matches a record by itself, without its Trace.
func (s Scope) Covers(r *Row) bool {
	if s.All {
		return true
	}
	return (s.RecordID == "" || s.RecordID == r.RecordID) &&
		(s.TLC == "" || s.TLC == r.TLC) &&
		strings.HasPrefix(r.TLC, s.TLCPrefix) &&
		sourcesMatch(s.TLCSource, r.TLCSource) &&
		(s.Location == "" || s.Location == r.Location) &&
		(s.Product == "" || s.Product == r.Product) &&
		(s.EventType == "" || s.EventType == r.EventType) &&
		(s.From.IsZero() || !r.EventTimestamp.Before(s.From)) &&
		(s.To.IsZero() || r.EventTimestamp.Before(s.To))
}

// sourcesMatch: a TLC is unique only within its source, and where a source is
// lacking it may be any.
func sourcesMatch(a, b string) bool { return a == "" || b == "" || a == b }

// OnLots says that the scope names lots and nothing else, so that it stands for
// lots that have no record yet.
func (s Scope) OnLots() bool {
	return s.TLC+s.TLCPrefix != "" && s == Scope{TLC: s.TLC, TLCPrefix: s.TLCPrefix, TLCSource: s.TLCSource, Trace: s.Trace}
}

// String is a scope in words.
func (s Scope) String() string {
	if s.All {
		return "all records"
	}
	var parts []string
	add := func(name, v string) {
		if v != "" {
			parts = append(parts, name+" "+v)
		}
	}
	add("record", s.RecordID)
	add("lot", s.TLC)
	if s.TLCPrefix != "" {
		add("lot", s.TLCPrefix+"*")
	}
	add("from", s.TLCSource)
	add("location", s.Location)
	add("product", s.Product)
	add("event type", string(s.EventType))
	if !s.From.IsZero() {
		add("since", cte.FormatTime(s.From))
	}
	if !s.To.IsZero() {
		add("before", cte.FormatTime(s.To))
	}
	switch s.Trace {
	case Forward, Backward:
		parts = append(parts, "traced "+string(s.Trace))
	case Both:
		parts = append(parts, "traced both ways")
	}
	return strings.Join(parts, " ")
}

// Hold is a case that stops shredding and purging of all it covers.
type Hold struct {
	ID        string
	Kind      HoldKind
	Reference string
	Reason    string
	PlacedBy  string
	PlacedAt  time.Time
	// ReviewAt, unless zero, is when somebody is to look whether it is still
	// needed: nothing happens then. Until, unless zero, is when it ends: the
	// next sweep after that ends it, and says so.
	ReviewAt, Until time.Time
	Scopes          []Scope

	// ReleasedAt is zero while the hold is open.
	ReleasedAt    time.Time
	ReleasedBy    string
	ReleaseReason string
}

// Open says that the hold has not been released.
func (h *Hold) Open() bool { return h.ReleasedAt.IsZero() }

// Over says that the end that the hold was placed with has come.
func (h *Hold) Over(now time.Time) bool { return !h.Until.IsZero() && !h.Until.After(now) }

// Overdue says that the hold is open and its review date has passed.
func (h *Hold) Overdue(now time.Time) bool {
	return h.Open() && !h.ReviewAt.IsZero() && !h.ReviewAt.After(now)
}

// HoldSet answers which open holds cover a record, in memory. It is the
// planner's check; the destructive statements repeat it in SQL from base rows.
// Memory follows the scopes, and the lots that tracing led to.
type HoldSet struct {
	byRecord, byLot map[string][]scoped
	rest            []scoped
	traced          map[string][]tracedLot
}

// scoped is one scope of a hold.
type scoped struct {
	*Hold
	scope int
}

func (s scoped) covers(r *Row) bool { return s.Scopes[s.scope].Covers(r) }

// tracedLot is a lot that a scope's trace led to.
type tracedLot struct {
	scoped
	source string
}

// NewHoldSet indexes the open ones among holds, without what their traces lead
// to: Engine.HoldSet has that too.
func NewHoldSet(holds []*Hold) *HoldSet {
	return newHoldSet(slices.DeleteFunc(slices.Clone(holds), func(h *Hold) bool { return !h.Open() }))
}

// newHoldSet indexes released ones too.
func newHoldSet(holds []*Hold) *HoldSet {
	s := &HoldSet{map[string][]scoped{}, map[string][]scoped{}, nil, map[string][]tracedLot{}}
	for _, h := range holds {
		s.add(h)
	}
	return s
}

func (s *HoldSet) add(h *Hold) {
	for i, sc := range h.Scopes {
		switch {
		case sc.RecordID != "":
			s.byRecord[sc.RecordID] = append(s.byRecord[sc.RecordID], scoped{h, i})
		case sc.TLC != "":
			s.byLot[sc.TLC] = append(s.byLot[sc.TLC], scoped{h, i})
		default:
			s.rest = append(s.rest, scoped{h, i})
		}
	}
}

// addLot adds a lot that the trace of a hold's scope led to.
func (s *HoldSet) addLot(h *Hold, scope int, lot cte.Lot) {
	s.traced[lot.TLC] = append(s.traced[lot.TLC], tracedLot{scoped{h, scope}, lot.Source})
}

// Covering lists the holds of the set that cover the record, each once.
func (s *HoldSet) Covering(r *Row) []*Hold {
	var out []*Hold
	s.each(r, func(c scoped) {
		if !slices.Contains(out, c.Hold) {
			out = append(out, c.Hold)
		}
	})
	return out
}

// each gives the scopes that cover the record, by themselves or by their traces.
func (s *HoldSet) each(r *Row, fn func(scoped)) {
	for _, candidates := range [][]scoped{s.byRecord[r.RecordID], s.byLot[r.TLC], s.rest} {
		for _, c := range candidates {
			if c.covers(r) {
				fn(c)
			}
		}
	}
	if r.TLC == "" {
		return // of no lot: nothing leads to it
	}
	for _, l := range s.traced[r.TLC] {
		if sourcesMatch(l.source, r.TLCSource) {
			fn(l.scoped)
		}
	}
}
