package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
)

// RecordView is all there is to say of one record but its KDEs. Its JSON
// names are a promise.
type RecordView struct {
	RecordID            string        `json:"record_id"`
	TLC                 string        `json:"traceability_lot_code"`
	TLCSource           string        `json:"tlc_source"`
	EventType           cte.EventType `json:"event_type"`
	EventTimestamp      string        `json:"event_timestamp"`
	CreatedOrObtainedAt string        `json:"created_or_obtained_at"`
	State               State         `json:"state"`
	BaseState           State         `json:"base_state"`
	DueAt               string        `json:"due_at"`
	PurgeNotBefore      string        `json:"purge_not_before"`
	Location            string        `json:"location"`
	Product             string        `json:"product"`
	Checksum            string        `json:"checksum"`
	Gaps                []string      `json:"gaps"`
	// Class wraps the DEK in the hot store, or did; ClassState is "destroyed"
	// once no copy of the hot row can be opened any more: with it every class that had
	// wrapped the DEK before.
	Class      string        `json:"class"`
	ClassState ClassState    `json:"class_state"`
	Why        Why           `json:"why"`
	Holds      []HoldView    `json:"holds"`
	Archive    *ArchiveView  `json:"archive"`
	History    []HistoryView `json:"history"`
}

// Why says which rule put the record where it is.
type Why struct {
	// Policy is the one that it was scheduled by, when it was taken in or later, PolicyRule the policy's rule for
	// it; empty if there is none, or only its labels say which.
	Policy     string `json:"policy"`
	PolicyHash string `json:"policy_hash"`
	PolicyRule string `json:"policy_rule"`
	Rule       string `json:"rule"`
	Arithmetic string `json:"arithmetic"`
}

// HoldView is a hold as a record sees it.
type HoldView struct {
	HoldID   string   `json:"hold_id"`
	Kind     HoldKind `json:"kind"`
	Reason   string   `json:"reason"`
	PlacedBy string   `json:"placed_by"`
	PlacedAt string   `json:"placed_at"`
}

// ArchiveView is where the archived copies are.
type ArchiveView struct {
	Segment string     `json:"segment"`
	Copies  []CopyView `json:"copies"`
}

// CopyView is one vault's copy of a segment.
type CopyView struct {
	Vault       string `json:"vault"`
	Key         string `json:"key"`
	VersionID   string `json:"version_id"`
	SHA256      string `json:"sha256"`
	RetainUntil string `json:"retain_until"`
	VerifiedAt  string `json:"verified_at"`
}

// HistoryView is one step of a record's life.
type HistoryView struct {
	At     string `json:"at"`
	Actor  string `json:"actor"`
	Action string `json:"action"`
	From   State  `json:"from"`
	To     State  `json:"to"`
	RunID  string `json:"run_id"`
}

// View collects what is known of a record. ErrNotFound.
func (e *Engine) View(ctx context.Context, id string) (RecordView, error) {
	r, err := e.Store.Row(ctx, id)
	if err != nil {
		return RecordView{}, err
	}
	now := e.Now().UTC()
	open, err := e.holdSet(ctx, now)
	if err != nil {
		return RecordView{}, err
	}
	v := RecordView{
		RecordID: r.RecordID, TLC: r.TLC, TLCSource: r.TLCSource, EventType: r.EventType,
		EventTimestamp: cte.FormatTime(r.EventTimestamp), CreatedOrObtainedAt: cte.FormatTime(r.CreatedOrObtainedAt),
		BaseState: r.State, State: r.State, DueAt: cte.FormatTime(r.DueAt), PurgeNotBefore: cte.FormatTime(r.PurgeNotBefore),
		Location: r.Location, Product: r.Product, Checksum: hexOf(r.Checksum), Gaps: append([]string{}, r.Gaps...),
		Class: r.Class, Holds: []HoldView{}, History: []HistoryView{},
	}
	if v.Why, err = e.why(ctx, &r); err != nil {
		return v, err
	}
	switch r.State {
	case Archived:
		v.Why.Rule = "archived: it was due, every copy was read back and verified"
	case Purged:
		v.Why.Rule = "purged: its archive class was over, and the law's floor had passed"
	default:
		lots, err := e.activeLots(ctx, &r, now)
		if err != nil {
			return v, err
		}
		d := Decide(&r, open, lots, now)
		v.Why.Rule = string(d.Action) + ": " + d.Reason
	}
	for _, h := range open.Covering(&r) {
		if r.State != Purged {
			v.State = Held
		}
		v.Holds = append(v.Holds, HoldView{h.ID, h.Kind, h.Reason, h.PlacedBy, cte.FormatTime(h.PlacedAt)})
	}
	if r.Segment != "" {
		g, err := e.Store.Segment(ctx, r.Segment)
		if err != nil {
			return v, err
		}
		v.Archive = &ArchiveView{Segment: g.ID, Copies: []CopyView{}}
		for _, c := range g.Copies {
			v.Archive.Copies = append(v.Archive.Copies, CopyView{c.Vault, g.ObjectKey, c.ObjectVersion, hexOf(g.ObjectSHA256), cte.FormatTime(c.RetainUntil), cte.FormatTime(c.VerifiedAt)})
		}
	}
	v.History, err = e.history(ctx, &r)
	if err != nil {
		return v, err
	}
	v.ClassState, err = e.classStateOf(ctx, &r)
	return v, err
}

// classStateOf is the state of the class that a record's hot copy is in, or was last; but
// one that it was moved from by a shorter schedule lives on, and with it what backups have.
func (e *Engine) classStateOf(ctx context.Context, r *Row) (ClassState, error) {
	leaves, err := e.Store.RecordLeaves(ctx, r.Seq)
	if err != nil {
		return "", err
	}
	moves, err := e.reschedulingsOf(ctx, r.Seq, leaves)
	if err != nil {
		return "", err
	}
	classes, err := e.Store.Classes(ctx, false)
	if err != nil {
		return "", err
	}
	states := map[string]ClassState{}
	for _, c := range classes {
		states[c.ID] = c.State
	}
	state := states[r.Class]
	for _, m := range moves {
		if from := states[m.From.Class]; state == Destroyed {
			state = from
		}
	}
	return state, nil
}

// why evaluates once more the policy that a record was scheduled by.
func (e *Engine) why(ctx context.Context, r *Row) (Why, error) {
	p, err := e.policyOf(ctx, r)
	if err != nil {
		return Why{}, err
	}
	d, err := e.decided(ctx)
	if _, refused := IsRefused(err); err != nil && !refused {
		return Why{}, err
	}
	w := Why{Policy: p.Name(), PolicyHash: p.Hash(), Arithmetic: "its labels, or a trigger, said so when it was scheduled: " + cte.FormatTime(r.DueAt)}
	if s := p.Schedule(factsOf(r, p, d.triggers)); !s.Unknown && s.Due.Equal(r.DueAt) {
		w.PolicyRule, w.Arithmetic = s.Rule, s.Arithmetic()
	}
	return w, nil
}

// history puts a record's own leaves, those of its class's end, and those of
// the holds that cover or covered it, into one order, and follows its state
// through them.
func (e *Engine) history(ctx context.Context, r *Row) ([]HistoryView, error) {
	t, err := e.telling(ctx)
	if err != nil {
		return nil, err
	}
	leaves, covering, err := t.steps(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.State != Active {
		shredded, err := t.class(ctx, ActionShredded, r.Class)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, shredded...)
	}
	if r.State == Purged {
		destroyed, err := t.class(ctx, ActionShredded, r.ArchiveClass)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, destroyed...)
	}
	// A hold may be older than the record it covers: then the record is held
	// from its first moment on, and the hold's own leaf is not part of its life.
	slices.SortFunc(leaves, func(a, b Leaf) int { return int(a.ID - b.ID) })
	out := []HistoryView{}
	base, openHolds := State(""), map[string]bool{}
	state := func() State {
		if len(openHolds) > 0 && base != "" {
			return Held
		}
		return base
	}
	for _, l := range leaves {
		from := state()
		switch l.Action {
		case ActionIngested:
			base = Active
		case ActionArchived:
			base = Archived
		case ActionPurged:
			base, openHolds = Purged, map[string]bool{}
		case ActionHoldPlaced, ActionHoldExtended:
			var body struct {
				Scopes []Scope `json:"scopes"`
			}
			if err := json.Unmarshal(l.Body, &body); err != nil {
				return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
			}
			if !slices.ContainsFunc(body.Scopes, func(s Scope) bool { return slices.Contains(covering[l.Subject], s) }) {
				continue // an extension to something else
			}
			openHolds[l.Subject] = true
		case ActionHoldReleased, ActionHoldEnded:
			delete(openHolds, l.Subject)
		}
		if base == "" {
			continue
		}
		out = append(out, HistoryView{cte.FormatTime(l.At), l.Actor, l.Action, from, state(), l.RunID})
	}
	return out, nil
}

// HoldDetail is a hold as its list and its own screen show it.
type HoldDetail struct {
	HoldID    string   `json:"hold_id"`
	Kind      HoldKind `json:"kind"`
	Reference string   `json:"reference"`
	Reason    string   `json:"reason"`
	// Status is "open"; "partial" while not every vault has confirmed the legal
	// holds on what is archived; "released".
	Status   string `json:"status"`
	PlacedBy string `json:"placed_by"`
	PlacedAt string `json:"placed_at"`
	AgeDays  int    `json:"age_days"`
	// ReviewAt and Until are empty where none was given. Overdue: the hold is
	// open, and its review date has passed.
	ReviewAt string  `json:"review_at"`
	Until    string  `json:"until"`
	Overdue  bool    `json:"overdue"`
	Scopes   []Scope `json:"scopes"`
	Covered  int64   `json:"covered"`
	Archived int64   `json:"archived"`
	TooLate  int64   `json:"too_late"`
	// AllLots and AllLocations count what Lots and Locations list the largest of.
	AllLots       int             `json:"lot_count"`
	AllLocations  int             `json:"location_count"`
	Lots          []LotCount      `json:"lots"`
	Locations     []LocationCount `json:"locations"`
	Late          []LateView      `json:"late"`
	Vaults        []VaultHolds    `json:"vaults"`
	ReleasedBy    string          `json:"released_by"`
	ReleasedAt    string          `json:"released_at"`
	ReleaseReason string          `json:"release_reason"`
}

// Describe counts what a hold covers now, and lists at most so many of its lots
// and locations.
func (e *Engine) Describe(ctx context.Context, h *Hold, limit int) (HoldDetail, error) {
	now := e.Now()
	d := HoldDetail{
		HoldID: h.ID, Kind: h.Kind, Reference: h.Reference, Reason: h.Reason, Status: "open", PlacedBy: h.PlacedBy, PlacedAt: cte.FormatTime(h.PlacedAt),
		AgeDays: int(now.Sub(h.PlacedAt) / (24 * time.Hour)), Scopes: h.Scopes, Vaults: []VaultHolds{}, Late: []LateView{},
	}
	if !h.ReviewAt.IsZero() {
		d.ReviewAt, d.Overdue = cte.FormatTime(h.ReviewAt), h.Overdue(now)
	}
	if !h.Until.IsZero() {
		d.Until = cte.FormatTime(h.Until)
	}
	r, err := e.reach(ctx, h.Scopes)
	if err != nil {
		return d, err
	}
	cov, err := e.Store.Coverage(ctx, r)
	if err != nil {
		return d, err
	}
	d.Covered, d.Archived, d.TooLate = cov.Covered, cov.Archived, cov.TooLate
	detail, err := e.Store.Detail(ctx, r, limit)
	if err != nil {
		return d, err
	}
	d.Lots, d.Locations, d.AllLots, d.AllLocations = append([]LotCount{}, detail.Lots...), append([]LocationCount{}, detail.Locations...), detail.AllLots, detail.AllLocations
	if cov.TooLate > 0 {
		if d.Late, err = e.late(ctx, r); err != nil {
			return d, err
		}
	}
	if !h.Open() {
		d.Status, d.ReleasedBy, d.ReleasedAt, d.ReleaseReason = "released", h.ReleasedBy, cte.FormatTime(h.ReleasedAt), h.ReleaseReason
		return d, nil
	}
	if cov.Archived == 0 {
		return d, nil
	}
	copies, err := e.heldCopies(ctx, r)
	if err != nil {
		return d, err
	}
	for _, c := range copies {
		i := slices.IndexFunc(d.Vaults, func(v VaultHolds) bool { return v.Vault == c.Vault })
		if i < 0 {
			i, d.Vaults = len(d.Vaults), append(d.Vaults, VaultHolds{Vault: c.Vault})
		}
		if c.State == LegalSet {
			d.Vaults[i].Confirmed++
		} else {
			d.Vaults[i].Missing++
			d.Status = "partial"
		}
	}
	slices.SortFunc(d.Vaults, func(a, b VaultHolds) int { return strings.Compare(a.Vault, b.Vault) })
	return d, nil
}
