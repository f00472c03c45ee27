package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
)

// Action is what a sweep does with one record.
type Action string

const (
	// Keep: it stays in the hot store as it is.
	Keep Action = "keep"
	// Defer: it is due but must stay, so once its class is over its DEK is
	// resealed into the month's deferral class.
	Defer Action = "defer"
	// Archive: it moves to the archive.
	Archive Action = "archive"
)

// Decision is what happens to one record, and why.
type Decision struct {
	RecordID string   `json:"record_id"`
	Action   Action   `json:"action"`
	Reason   string   `json:"reason"`
	HoldIDs  []string `json:"hold_ids,omitempty"`
}

// Decide is the whole rule for one hot record, and a pure function of the
// record, the policy, the open holds and the time.
func Decide(r *Row, p Policy, holds *HoldSet, now time.Time) Decision {
	d := Decision{RecordID: r.RecordID}
	due := p.DueAt(r.EventTimestamp)
	if due.After(now) {
		d.Action = Keep
		d.Reason = "not due before " + cte.FormatTime(due)
		return d
	}
	if covering := holds.Covering(r); len(covering) > 0 {
		d.Action = Defer
		names := make([]string, len(covering))
		for i, h := range covering {
			d.HoldIDs = append(d.HoldIDs, h.ID)
			names[i] = string(h.Kind) + " " + h.ID
		}
		d.Reason = "held: " + strings.Join(names, ", ")
		return d
	}
	d.Action = Archive
	d.Reason = "due since " + cte.FormatTime(due)
	return d
}

// Arithmetic is how a record's due date comes about, in words that can be
// checked with a calendar.
func (p Policy) Arithmetic(event time.Time) string {
	return fmt.Sprintf("%s + %d days = %s", cte.FormatTime(event), p.ArchiveAfterDays, cte.FormatTime(p.DueAt(event)))
}

// Plan is what a sweep would do to a set of records.
type Plan struct {
	// Due is Held and Archive together.
	Due, Held, Archive int
	// Decisions has one for each record, in the order given.
	Decisions []Decision
}

// PlanSweep decides for every record. It reads nothing and changes nothing. The
// dry run plans page by page, and the sweep itself decides by the same Decide,
// so that memory does not follow the number of records.
func PlanSweep(records []Row, p Policy, holds *HoldSet, now time.Time) Plan {
	plan := Plan{Decisions: make([]Decision, len(records))}
	for i := range records {
		d := Decide(&records[i], p, holds, now)
		switch d.Action {
		case Archive:
			plan.Due++
			plan.Archive++
		case Defer:
			plan.Due++
			plan.Held++
		}
		plan.Decisions[i] = d
	}
	return plan
}
