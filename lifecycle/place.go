package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
)

// PlaceRequest asks for a hold.
type PlaceRequest struct {
	Kind      HoldKind `validate:"oneof=recall fda-inquiry inspection-freeze litigation"`
	Reason    string   `validate:"required,max=2000"`
	Reference string   `validate:"max=200"`
	Scopes    []Scope  `validate:"required"`
	// ReviewAt and Until as in Hold; zero is never.
	ReviewAt, Until time.Time
}

// PlaceResult says what the hold covers at this moment. Its JSON names are a
// promise.
type PlaceResult struct {
	// HoldID is empty for a dry run.
	HoldID string `json:"hold_id"`
	DryRun bool   `json:"dry_run"`
	// Unchanged: the hold was there already, with these scopes.
	Unchanged bool `json:"unchanged"`
	// Counted: the three counts are known. Counting millions of records takes
	// longer than a reply may; the hold stands all the same.
	Counted bool `json:"counted"`
	// Covered counts records of which a readable copy is left, Archived those of
	// them that are in the archive.
	Covered  int64 `json:"covered"`
	Archived int64 `json:"archived"`
	// TooLate counts records that match and of which no readable copy is left.
	TooLate int64 `json:"too_late"`
	// Late says when that was, and by which receipt.
	Late []LateView `json:"late,omitempty"`
	// AllLots counts the lots of what a dry run would cover, Lots lists those with
	// the most records.
	AllLots int        `json:"lot_count,omitempty"`
	Lots    []LotCount `json:"lots,omitempty"`
	// Status is "open", or "partial" while not every vault has confirmed the
	// legal holds on what is archived.
	Status string `json:"status"`
	// Vaults is how far each vault is.
	Vaults []VaultHolds `json:"vaults,omitempty"`
	// Log is the publication of the log that has the hold in it. The hold is partial
	// until one vault has that.
	Log *Publication `json:"log,omitempty"`
	// NearLots and NearRecords resemble a scope that matched nothing.
	NearLots    []cte.Lot `json:"near_lots,omitempty"`
	NearRecords []string  `json:"near_records,omitempty"`
}

// LateView is Late as people see it.
type LateView struct {
	Class       string `json:"class"`
	DestroyedAt string `json:"destroyed_at"`
	Receipt     int64  `json:"receipt"`
	Records     int64  `json:"records"`
}

// OtherCase: an open hold has the reference, and other scopes.
type OtherCase struct{ HoldID, Reference string }

func (e *OtherCase) Error() string {
	return fmt.Sprintf("%s is the reference of hold %s, whose scopes are others", e.Reference, e.HoldID)
}

// Place commits a hold. From its return on nothing that it covers is shredded
// or purged, also of what arrives later and of what is made from it.
//
// Placed again with the same kind, reference and scopes it changes nothing, and
// says what it covers now. With the same kind and reference and other scopes it is
// refused with *OtherCase: Extend is for a case that grows. Legal holds on what is
// archived are Confirm's.
func (e *Engine) Place(ctx context.Context, req PlaceRequest) (PlaceResult, error) {
	if err := e.checkPlace(req); err != nil {
		return PlaceResult{}, fmt.Errorf("couldn't place the hold: %w", err)
	}
	p, err := e.placement(Hold{Kind: req.Kind, Reference: req.Reference, Reason: req.Reason, ReviewAt: req.ReviewAt.UTC(), Until: req.Until.UTC(), Scopes: uniqueScopes(req.Scopes)}, e.Now(), "")
	if err != nil {
		return PlaceResult{}, err
	}
	res := PlaceResult{HoldID: p.Hold.ID, Status: "open"}
	var taken *ReferenceTaken
	if err := e.Store.Place(ctx, p); errors.As(err, &taken) {
		h, err := e.Store.Hold(ctx, taken.HoldID)
		if err != nil {
			return PlaceResult{}, err
		}
		if !sameScopes(h.Scopes, p.Hold.Scopes) {
			return PlaceResult{}, &OtherCase{h.ID, h.Reference}
		}
		res.HoldID, res.Unchanged = h.ID, true
	} else if err != nil {
		return PlaceResult{}, fmt.Errorf("couldn't place hold %s: %w", p.Hold.ID, err)
	}
	return e.placed(ctx, res, p.Hold.Scopes), nil
}

func (e *Engine) checkPlace(req PlaceRequest) error {
	if err := validate.Struct(req); err != nil {
		return err
	}
	for _, s := range req.Scopes {
		if err := s.Validate(); err != nil {
			return err
		}
	}
	if !req.Until.IsZero() && !req.Until.After(e.Now()) {
		return fmt.Errorf("its end %s has passed", cte.FormatTime(req.Until))
	}
	return nil
}

// uniqueScopes leaves out scopes that are there twice.
func uniqueScopes(scopes []Scope) []Scope {
	var out []Scope
	seen := map[Scope]bool{}
	for _, s := range scopes {
		s.From, s.To = s.From.UTC(), s.To.UTC()
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func sameScopes(a, b []Scope) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(s Scope) bool { return !slices.Contains(b, s) })
}

// placed counts what a hold covers that stands already: whatever goes wrong from
// here on is only logged.
func (e *Engine) placed(ctx context.Context, res PlaceResult, scopes []Scope) PlaceResult {
	counting, cancel := ctx, context.CancelFunc(func() {})
	if e.Limits.CountFor > 0 {
		counting, cancel = context.WithTimeout(ctx, e.Limits.CountFor)
	}
	defer cancel()
	r, err := e.reach(counting, scopes)
	if err == nil {
		err = e.count(counting, &res, r)
	}
	if err != nil {
		if !errors.Is(counting.Err(), context.DeadlineExceeded) {
			e.Log.Warn().Err(err).Str("hold_id", res.HoldID).Msg("couldn't count what the hold covers")
		}
		return res
	}
	e.near(counting, &res, scopes)
	return res
}

// near looks for what resembles the first scope, if nothing matches.
func (e *Engine) near(ctx context.Context, res *PlaceResult, scopes []Scope) {
	if res.Covered+res.TooLate > 0 {
		return
	}
	var err error
	switch s := scopes[0]; {
	case s.RecordID != "":
		res.NearRecords, err = e.Store.NearRecords(ctx, s.RecordID, 5)
	case s.TLC+s.TLCPrefix != "":
		res.NearLots, err = e.Store.NearLots(ctx, s.TLC+s.TLCPrefix, 5)
	}
	if err != nil && ctx.Err() == nil {
		e.Log.Warn().Err(err).Str("hold_id", res.HoldID).Msg("couldn't look for near matches")
	}
}

func (e *Engine) count(ctx context.Context, res *PlaceResult, r Reach) error {
	c, err := e.Store.Coverage(ctx, r)
	if err != nil {
		return err
	}
	if c.TooLate > 0 {
		if res.Late, err = e.late(ctx, r); err != nil {
			return err
		}
	}
	res.Counted, res.Covered, res.Archived, res.TooLate = true, c.Covered, c.Archived, c.TooLate
	return nil
}

func (e *Engine) late(ctx context.Context, r Reach) ([]LateView, error) {
	late, err := e.Store.TooLate(ctx, r)
	var out []LateView
	for _, l := range late {
		v := LateView{Class: l.Class, Receipt: l.Receipt, Records: l.Records}
		if !l.DestroyedAt.IsZero() {
			v.DestroyedAt = cte.FormatTime(l.DestroyedAt)
		}
		out = append(out, v)
	}
	return out, err
}

// plannedLots is how many lots a dry run lists.
const plannedLots = 100

// WouldPlace says what a hold would cover, and changes nothing. The trail has what it
// said.
func (e *Engine) WouldPlace(ctx context.Context, req PlaceRequest) (PlaceResult, error) {
	if err := e.checkPlace(req); err != nil {
		return PlaceResult{}, fmt.Errorf("couldn't plan the hold: %w", err)
	}
	res := PlaceResult{DryRun: true, Status: "open"}
	if err := e.plan(ctx, &res, req.Scopes); err != nil {
		return PlaceResult{}, fmt.Errorf("couldn't plan the hold: %w", err)
	}
	e.near(ctx, &res, req.Scopes)
	now := e.Now()
	return res, e.Store.Append(ctx, e.leaf(now, ActionDryRun, "", "", map[string]any{
		"of": "hold", "as_of": cte.FormatTime(now), "scopes": req.Scopes, "covered": res.Covered, "result_sha256": hashOf(res),
	}))
}

func (e *Engine) plan(ctx context.Context, res *PlaceResult, scopes []Scope) error {
	r, err := e.reach(ctx, scopes)
	if err != nil {
		return err
	}
	if err := e.count(ctx, res, r); err != nil {
		return err
	}
	d, err := e.Store.Detail(ctx, r, plannedLots)
	res.AllLots, res.Lots = d.AllLots, d.Lots
	return err
}

// Extend adds scopes to an open hold, and says what it covers now. Scopes that it
// has already change nothing. ErrNotFound, ErrReleased.
func (e *Engine) Extend(ctx context.Context, id string, scopes []Scope) (PlaceResult, error) {
	for _, s := range scopes {
		if err := s.Validate(); err != nil {
			return PlaceResult{}, fmt.Errorf("couldn't extend hold %s: %w", id, err)
		}
	}
	h, err := e.Store.Hold(ctx, id)
	if err != nil {
		return PlaceResult{}, err
	}
	scopes = slices.DeleteFunc(uniqueScopes(scopes), func(s Scope) bool { return slices.Contains(h.Scopes, s) })
	if len(scopes) > 0 || !h.Open() {
		leaf := e.leaf(e.Now(), ActionHoldExtended, "", id, map[string]any{"scopes": scopes})
		if err := e.Store.Extend(ctx, id, scopes, leaf); err != nil {
			return PlaceResult{}, err
		}
	}
	return e.placed(ctx, PlaceResult{HoldID: id, Unchanged: len(scopes) == 0, Status: "open"}, append(h.Scopes, scopes...)), nil
}

// placement completes a hold and writes the leaf that tells of it.
func (e *Engine) placement(h Hold, now time.Time, runID string) (Placement, error) {
	var err error
	if h.ID, err = e.newID("hold", now); err != nil {
		return Placement{}, err
	}
	h.PlacedBy, h.PlacedAt = e.Actor, now.UTC()
	body := map[string]any{"kind": h.Kind, "reference": h.Reference, "reason": h.Reason, "scopes": h.Scopes}
	if !h.ReviewAt.IsZero() {
		body["review_at"] = cte.FormatTime(h.ReviewAt)
	}
	if !h.Until.IsZero() {
		body["until"] = cte.FormatTime(h.Until)
	}
	return Placement{Hold: h, Leaf: e.leaf(now, ActionHoldPlaced, runID, h.ID, body)}, nil
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

// endHolds ends those whose end has come, which was said when they were placed.
func (s *sweep) endHolds(ctx context.Context) error {
	open, err := s.Store.Holds(ctx, true)
	if err != nil {
		return err
	}
	for _, h := range open {
		if !h.Over(s.now) {
			continue
		}
		reason := fmt.Sprintf("placed until %s, which has come", cte.FormatTime(h.Until))
		leaf := s.leaf(s.Now(), ActionHoldEnded, s.lease.RunID, h.ID, map[string]any{"reason": reason})
		err := s.Store.Release(ctx, h.ID, reason, leaf)
		if errors.Is(err, ErrHeld) {
			s.Log.Warn().Str("hold_id", h.ID).Msg("the hold's end has come by this clock and not by the database's: the next sweep ends it")
			continue
		}
		if err != nil && !errors.Is(err, ErrReleased) {
			return fmt.Errorf("couldn't end hold %s: %w", h.ID, err)
		}
		s.Log.Info().Str("hold_id", h.ID).Msg("hold ended: " + reason)
	}
	return nil
}
