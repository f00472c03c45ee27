package lifecycle

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
)

// PlaceRequest asks for a hold.
type PlaceRequest struct {
	Kind      HoldKind `validate:"oneof=recall fda-inquiry inspection-freeze litigation"`
	Reason    string   `validate:"required,max=2000"`
	Reference string   `validate:"max=200"`
	Scope     Scope
}

// PlaceResult says what the hold covers at this moment.
type PlaceResult struct {
	HoldID string `json:"hold_id"`
	// Covered counts records of which a readable copy is left.
	Covered int64 `json:"covered"`
	// TooLate counts records that match and of which no readable copy is left.
	TooLate int64 `json:"too_late"`
	// Status is "open" as long as the hold is not released.
	Status string `json:"status"`
	// NearLots and NearRecords resemble a scope that matched nothing.
	NearLots    []cte.Lot `json:"near_lots,omitempty"`
	NearRecords []string  `json:"near_records,omitempty"`
}

// Place commits a hold. From its return on nothing that it covers is shredded
// or purged, also of what arrives later.
func (e *Engine) Place(ctx context.Context, req PlaceRequest) (PlaceResult, error) {
	if err := validate.Struct(req); err != nil {
		return PlaceResult{}, fmt.Errorf("couldn't place the hold: %w", err)
	}
	if (req.Scope.RecordID == "") == (req.Scope.TLC == "") {
		return PlaceResult{}, fmt.Errorf("couldn't place the hold: its scope must be one lot or one record")
	}
	p, err := e.placement(Hold{Kind: req.Kind, Reference: req.Reference, Reason: req.Reason, Scopes: []Scope{req.Scope}}, e.Now(), "")
	if err != nil {
		return PlaceResult{}, err
	}
	cov, err := e.Store.Place(ctx, p)
	if err != nil {
		return PlaceResult{}, fmt.Errorf("couldn't place hold %s: %w", p.Hold.ID, err)
	}
	res := PlaceResult{HoldID: p.Hold.ID, Covered: cov.Covered, TooLate: cov.TooLate, Status: "open"}
	if cov.Covered+cov.TooLate == 0 {
		// The hold stands whatever happens now, so a fault here is only logged.
		if req.Scope.RecordID != "" {
			res.NearRecords, err = e.Store.NearRecords(ctx, req.Scope.RecordID, 5)
		} else {
			res.NearLots, err = e.Store.NearLots(ctx, req.Scope.TLC, 5)
		}
		if err != nil {
			e.Log.Warn().Err(err).Str("hold_id", p.Hold.ID).Msg("couldn't look for near matches")
		}
	}
	return res, nil
}

// placement completes a hold and writes the leaf that tells of it.
func (e *Engine) placement(h Hold, now time.Time, runID string) (Placement, error) {
	var err error
	if h.ID, err = e.newID("hold", now); err != nil {
		return Placement{}, err
	}
	h.PlacedBy, h.PlacedAt = e.Actor, now.UTC()
	leaf := e.leaf(now, ActionHoldPlaced, runID, h.ID, map[string]any{
		"kind": h.Kind, "reference": h.Reference, "reason": h.Reason, "scopes": h.Scopes})
	return Placement{Hold: h, Leaf: leaf}, nil
}

// Release ends a hold, and says why. A record stays held until the last hold
// that covers it is released. ErrNotFound, ErrReleased.
func (e *Engine) Release(ctx context.Context, id, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return fmt.Errorf("couldn't release hold %s: a reason is required", id)
	}
	leaf := e.leaf(e.Now(), ActionHoldReleased, "", id, map[string]any{"reason": reason})
	return e.Store.Release(ctx, id, reason, leaf)
}
