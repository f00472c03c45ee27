package lifecycle

import "time"

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

// Scope says what a hold covers, as data: it is evaluated whenever it is
// asked, so it covers what arrives later too. Either RecordID or TLC is set.
type Scope struct {
	RecordID string `json:"record_id,omitempty"`
	// TLC is matched exactly. With a TLCSource it covers records of that
	// source and those that lack one; without, records of every source.
	TLC       string `json:"traceability_lot_code,omitempty"`
	TLCSource string `json:"tlc_source,omitempty"`
}

// Covers says whether the scope covers a record.
func (s Scope) Covers(r *Row) bool {
	if s.RecordID != "" {
		return s.RecordID == r.RecordID
	}
	return s.TLC == r.TLC && (s.TLCSource == "" || r.TLCSource == "" || s.TLCSource == r.TLCSource)
}

// Hold is a case that stops shredding and purging of all it covers.
type Hold struct {
	ID        string
	Kind      HoldKind
	Reference string
	Reason    string
	PlacedBy  string
	PlacedAt  time.Time
	Scopes    []Scope

	// ReleasedAt is zero while the hold is open.
	ReleasedAt    time.Time
	ReleasedBy    string
	ReleaseReason string
}

// Open says that the hold has not been released.
func (h *Hold) Open() bool { return h.ReleasedAt.IsZero() }

// HoldSet answers which open holds cover a record, in memory. It is the
// planner's check; the destructive statements repeat it in SQL from base rows.
type HoldSet struct {
	byRecord, byLot map[string][]*Hold
}

// NewHoldSet indexes the open ones among holds.
func NewHoldSet(holds []*Hold) *HoldSet {
	s := &HoldSet{map[string][]*Hold{}, map[string][]*Hold{}}
	for _, h := range holds {
		if !h.Open() {
			continue
		}
		for _, sc := range h.Scopes {
			if sc.RecordID != "" {
				s.byRecord[sc.RecordID] = append(s.byRecord[sc.RecordID], h)
			} else {
				s.byLot[sc.TLC] = append(s.byLot[sc.TLC], h)
			}
		}
	}
	return s
}

// Covering lists the open holds that cover the record, each once.
func (s *HoldSet) Covering(r *Row) []*Hold {
	var out []*Hold
	for _, candidates := range [][]*Hold{s.byRecord[r.RecordID], s.byLot[r.TLC]} {
	next:
		for _, h := range candidates {
			for _, have := range out {
				if have == h {
					continue next
				}
			}
			for _, sc := range h.Scopes {
				if sc.Covers(r) {
					out = append(out, h)
					continue next
				}
			}
		}
	}
	return out
}
