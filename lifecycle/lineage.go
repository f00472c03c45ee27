package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
)

// Link is one step of lineage, as a record tells it: Output was made from Input.
type Link struct {
	Input, Output  cte.Lot
	RecordID       string
	EventType      cte.EventType
	EventTimestamp time.Time
}

// linkLots is how many lots are asked about at a time.
const linkLots = 1000

// walk follows lineage from lots, step by step, and gives each lot once, those it
// starts from first, with the number of steps to it, and each link once. A lot
// whose source is lacking stands for the lots of that code of every source, so
// what it leads to is never too little. Cycles and diamonds end where something
// was seen before.
func (e *Engine) walk(ctx context.Context, start []cte.Lot, trace Trace, lot func(l cte.Lot, steps int), link func(Link)) error {
	seen := map[cte.Lot]bool{}
	type told struct {
		record string
		input  cte.Lot
	}
	links := map[told]bool{}
	var frontier []cte.Lot
	take := func(l cte.Lot, steps int) {
		// A record of no lot is not of the same lot as another of none.
		if l.TLC != "" && !seen[l] {
			seen[l] = true
			frontier = append(frontier, l)
			lot(l, steps)
		}
	}
	for _, l := range start {
		take(l, 0)
	}
	var ways []bool
	if trace == Forward || trace == Both {
		ways = append(ways, true)
	}
	if trace == Backward || trace == Both {
		ways = append(ways, false)
	}
	for steps := 1; len(frontier) > 0; steps++ {
		lots := frontier
		frontier = nil
		for part := range slices.Chunk(lots, linkLots) {
			for _, forward := range ways {
				found, err := e.Store.Links(ctx, part, forward)
				if err != nil {
					return err
				}
				for _, l := range found {
					if link != nil && !links[told{l.RecordID, l.Input}] {
						links[told{l.RecordID, l.Input}] = true
						link(l)
					}
					if forward {
						take(l.Output, steps)
					} else {
						take(l.Input, steps)
					}
				}
			}
		}
	}
	return nil
}

// scopeLots are the lots that a scope's trace starts from.
func (e *Engine) scopeLots(ctx context.Context, s Scope) ([]cte.Lot, error) {
	if s.OnLots() && s.TLC != "" {
		// The lot that is named stands for itself, also where nothing names it yet.
		return []cte.Lot{{TLC: s.TLC, Source: s.TLCSource}}, nil
	}
	lots, err := e.Store.ScopeLots(ctx, s)
	for i := range lots {
		if s.TLCSource != "" {
			// Where a record lacks the source it is taken for one of this source,
			// and not for one of any.
			lots[i].Source = s.TLCSource
		}
	}
	return lots, err
}

// traceScope gives the lots whose records a scope covers because of its trace.
func (e *Engine) traceScope(ctx context.Context, s Scope, lot func(cte.Lot)) error {
	if s.Trace == TraceNone {
		return nil
	}
	start, err := e.scopeLots(ctx, s)
	if err != nil {
		return err
	}
	return e.walk(ctx, start, s.Trace, func(l cte.Lot, _ int) { lot(l) }, nil)
}

// HoldSet loads the holds that are open and not over, with what their traces lead
// to at this moment.
func (e *Engine) HoldSet(ctx context.Context) (*HoldSet, error) {
	return e.holdSet(ctx, e.Now())
}

// openHolds are those that are open, and not over at the given time.
func (e *Engine) openHolds(ctx context.Context, now time.Time) ([]*Hold, error) {
	open, err := e.Store.Holds(ctx, true)
	return slices.DeleteFunc(open, func(h *Hold) bool { return h.Over(now) }), err
}

func (e *Engine) holdSet(ctx context.Context, now time.Time) (*HoldSet, error) {
	open, err := e.openHolds(ctx, now)
	if err != nil {
		return nil, err
	}
	set := NewHoldSet(open)
	return set, e.traceInto(ctx, set, open)
}

// traceInto adds to a set what the traces of its holds lead to.
func (e *Engine) traceInto(ctx context.Context, set *HoldSet, holds []*Hold) error {
	for _, h := range holds {
		for i, s := range h.Scopes {
			if err := e.traceScope(ctx, s, func(l cte.Lot) { set.addLot(h, i, l) }); err != nil {
				return fmt.Errorf("couldn't trace hold %s: %w", h.ID, err)
			}
		}
	}
	return nil
}

// Reach is what holds cover, as a Store can select it: the records that one of
// the scopes matches by itself, and those of the lots.
type Reach struct {
	Scopes []Scope
	Lots   []cte.Lot
}

// reach follows the scopes' traces.
func (e *Engine) reach(ctx context.Context, scopes []Scope) (Reach, error) {
	r := Reach{Scopes: scopes}
	seen := map[cte.Lot]bool{}
	for _, s := range scopes {
		if err := e.traceScope(ctx, s, func(l cte.Lot) {
			if !seen[l] {
				seen[l] = true
				r.Lots = append(r.Lots, l)
			}
		}); err != nil {
			return r, fmt.Errorf("couldn't trace %s: %w", s, err)
		}
	}
	return r, nil
}

// openReach is what openHolds cover.
func (e *Engine) openReach(ctx context.Context, now time.Time) (Reach, error) {
	open, err := e.openHolds(ctx, now)
	if err != nil {
		return Reach{}, err
	}
	var scopes []Scope
	for _, h := range open {
		scopes = append(scopes, h.Scopes...)
	}
	return e.reach(ctx, scopes)
}

// Select completes a query that asks for what is held, or for what is not.
func (e *Engine) Select(ctx context.Context, q Query) (Query, error) {
	if q.State != Held && !q.ExceptHeld {
		return q, nil
	}
	var err error
	q.Reach, err = e.openReach(ctx, e.Now())
	return q, err
}

// Chain is a lot with what was made from it, or what it was made from.
type Chain struct {
	TLC       string      `json:"traceability_lot_code"`
	TLCSource string      `json:"tlc_source"`
	Direction Trace       `json:"direction"`
	Lots      []ChainLot  `json:"lots"`
	Links     []ChainLink `json:"links"`
}

// ChainLot is one lot of a chain. A lot of which no record was taken in, known
// from another record's input lots, has no records.
type ChainLot struct {
	TLC       string `json:"traceability_lot_code"`
	TLCSource string `json:"tlc_source"`
	// Steps is how far it is from the lot asked for.
	Steps   int   `json:"steps"`
	Records int64 `json:"records"`
	// Holds are the open holds that cover records of the lot.
	Holds []string `json:"holds"`
}

// ChainLink is one step: a record that says what was made from what.
type ChainLink struct {
	InputTLC       string        `json:"input_traceability_lot_code"`
	InputSource    string        `json:"input_tlc_source"`
	OutputTLC      string        `json:"output_traceability_lot_code"`
	OutputSource   string        `json:"output_tlc_source"`
	RecordID       string        `json:"record_id"`
	EventType      cte.EventType `json:"event_type"`
	EventTimestamp string        `json:"event_timestamp"`
}

// Trace draws the chain of a lot. Without a source it is that of the lots of the
// code of all sources. ErrNotFound if neither a record nor a record's input lots
// name the lot.
func (e *Engine) Trace(ctx context.Context, lot cte.Lot, direction Trace) (Chain, error) {
	c := Chain{TLC: lot.TLC, TLCSource: lot.Source, Direction: direction, Lots: []ChainLot{}, Links: []ChainLink{}}
	named, err := e.Store.ScopeLots(ctx, Scope{TLC: lot.TLC, TLCSource: lot.Source})
	if err != nil {
		return c, err
	}
	if len(named) == 0 {
		return c, fmt.Errorf("lot %s: %w", lot.TLC, ErrNotFound)
	}
	if lot.Source != "" {
		named = []cte.Lot{lot}
	}
	at := map[cte.Lot]int{}
	if err := e.walk(ctx, named, direction, func(l cte.Lot, steps int) {
		at[l] = len(c.Lots)
		c.Lots = append(c.Lots, ChainLot{TLC: l.TLC, TLCSource: l.Source, Steps: steps, Holds: []string{}})
	}, func(l Link) {
		c.Links = append(c.Links, ChainLink{l.Input.TLC, l.Input.Source, l.Output.TLC, l.Output.Source, l.RecordID, l.EventType, cte.FormatTime(l.EventTimestamp)})
	}); err != nil {
		return c, err
	}
	holds, err := e.HoldSet(ctx)
	if err != nil {
		return c, err
	}
	lots := make([]cte.Lot, len(c.Lots))
	for i, l := range c.Lots {
		lots[i] = cte.Lot{TLC: l.TLC, Source: l.TLCSource}
	}
	for part := range slices.Chunk(lots, linkLots) {
		counts, err := e.Store.Detail(ctx, Reach{Lots: part}, 0)
		if err != nil {
			return c, err
		}
		for _, n := range counts.Lots {
			if i, ok := at[cte.Lot{TLC: n.TLC, Source: n.TLCSource}]; ok {
				c.Lots[i].Records = n.Records
			}
		}
	}
	for i := range c.Lots {
		l := &c.Lots[i]
		// As a record of the lot would be covered of which nothing else is known.
		for _, h := range holds.Covering(&Row{TLC: l.TLC, TLCSource: l.TLCSource}) {
			l.Holds = append(l.Holds, h.ID)
		}
	}
	return c, nil
}
