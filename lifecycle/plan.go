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
	// Defer: it is due but must stay, held or since its lot is active, so once its
	// class is over its DEK is resealed into the month's deferral class.
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

// held says that a deferred record stays because of a hold.
func (d *Decision) held() bool { return len(d.HoldIDs) > 0 }

// Decide is the whole rule for one hot record, and a pure function of the
// record, which has its day from the policy it came in under, the open holds, the
// activity of its lot and the time.
func Decide(r *Row, holds *HoldSet, lots *ActiveLots, now time.Time) Decision {
	d := Decision{RecordID: r.RecordID}
	if r.DueAt.Equal(latest) {
		d.Action = Keep
		d.Reason = "never due: no rule ends its time in the hot store"
		return d
	}
	if r.DueAt.After(now) {
		d.Action = Keep
		d.Reason = "not due before " + cte.FormatTime(r.DueAt)
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
	if rule, newest := lots.keep(r, now); rule != "" {
		d.Action = Defer
		d.Reason = fmt.Sprintf("lot still active: rule %s, its newest event is of %s", rule, cte.FormatTime(newest))
		return d
	}
	d.Action = Archive
	d.Reason = "due since " + cte.FormatTime(r.DueAt)
	return d
}

// Plan is what a sweep would do to a set of records.
type Plan struct {
	// Due is Held, LotActive and Archive together.
	Due, Held, LotActive, Archive int
	// Decisions has one for each record, in the order given.
	Decisions []Decision
}

// PlanSweep decides for every record. It reads nothing and changes nothing. The
// dry run plans page by page, and the sweep itself decides by the same Decide,
// so that memory does not follow the number of records.
func PlanSweep(records []Row, holds *HoldSet, lots *ActiveLots, now time.Time) Plan {
	plan := Plan{Decisions: make([]Decision, len(records))}
	for i := range records {
		d := Decide(&records[i], holds, lots, now)
		switch d.Action {
		case Archive:
			plan.Due++
			plan.Archive++
		case Defer:
			plan.Due++
			if d.held() {
				plan.Held++
			} else {
				plan.LotActive++
			}
		}
		plan.Decisions[i] = d
	}
	return plan
}
