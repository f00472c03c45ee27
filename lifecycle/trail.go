package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/lotkeeper/lotkeeper/cte"
)

// among keeps those of the leaves that the query selects, each once, oldest first.
func (q LeafQuery) among(leaves []Leaf) []Leaf {
	leaves = slices.DeleteFunc(leaves, func(l Leaf) bool {
		return q.RunID != "" && l.RunID != q.RunID || q.Subject != "" && l.Subject != q.Subject || q.Actions != nil && !slices.Contains(q.Actions, l.Action) ||
			q.Actor != "" && l.Actor != q.Actor || !q.From.IsZero() && l.At.Before(q.From) || !q.To.IsZero() && !l.At.Before(q.To) || l.ID <= q.After
	})
	slices.SortFunc(leaves, func(a, b Leaf) int { return int(a.ID - b.ID) })
	return slices.CompactFunc(leaves, func(a, b Leaf) bool { return a.ID == b.ID })
}

// Trail yields the leaves of a query, oldest first.
func (e *Engine) Trail(ctx context.Context, q LeafQuery) iter.Seq2[Leaf, error] {
	return func(yield func(Leaf, error) bool) {
		leaves, err := e.Store.Leaves(ctx, q)
		if err != nil {
			yield(Leaf{}, err)
			return
		}
		for _, l := range leaves {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// RecordTrail lists the leaves of a query that tell of a record: its own steps, those of
// its segment, the end of its class keys, the holds that cover or covered it, and the
// exports that asked for it. ErrNotFound.
func (e *Engine) RecordTrail(ctx context.Context, id string, q LeafQuery) ([]Leaf, error) {
	r, err := e.Store.Row(ctx, id)
	if err != nil {
		return nil, err
	}
	t, err := e.telling(ctx)
	if err != nil {
		return nil, err
	}
	leaves, err := t.all(ctx, &r)
	return q.among(leaves), err
}

// maxLotRecords is how many records of a lot LotTrail looks at.
const maxLotRecords = 1000

// LotTrail lists the leaves of a query that tell of a lot's records, or of a hold that
// names the lot. cut: the lot has more records than were looked at.
func (e *Engine) LotTrail(ctx context.Context, lot cte.Lot, q LeafQuery) (leaves []Leaf, cut bool, err error) {
	t, err := e.telling(ctx)
	if err != nil {
		return nil, false, err
	}
	n := 0
	for r, err := range e.Store.Rows(ctx, Query{TLC: lot.TLC, TLCSource: lot.Source, Limit: maxLotRecords + 1}) {
		if err != nil {
			return nil, false, err
		}
		if n++; n > maxLotRecords {
			cut = true
			break
		}
		of, err := t.all(ctx, &r)
		if err != nil {
			return nil, false, err
		}
		leaves = append(leaves, of...)
	}
	for _, h := range t.holds {
		if !slices.ContainsFunc(h.Scopes, func(s Scope) bool {
			return s.TLC+s.TLCPrefix != "" && (s.TLC == "" || s.TLC == lot.TLC) && strings.HasPrefix(lot.TLC, s.TLCPrefix) && sourcesMatch(s.TLCSource, lot.Source)
		}) {
			continue
		}
		of, err := t.subject(ctx, h.ID)
		if err != nil {
			return nil, false, err
		}
		leaves = append(leaves, of...)
	}
	return q.among(leaves), cut, nil
}

// telling finds the leaves that tell of records, and reads what many of them share
// once.
type telling struct {
	*Engine
	holds    []*Hold // all that ever were
	covering *HoldSet
	subjects map[string][]Leaf
	classes  map[string]map[string][]Leaf // by action and class
	exports  []asking
	// listed: exports is filled in.
	listed bool
}

// asking is an export with what it asked for.
type asking struct {
	id    string
	query askedQuery
}

func (e *Engine) telling(ctx context.Context) (*telling, error) {
	t := &telling{Engine: e, subjects: map[string][]Leaf{}, classes: map[string]map[string][]Leaf{}}
	var err error
	if t.holds, err = e.Store.Holds(ctx, false); err != nil {
		return nil, err
	}
	t.covering = newHoldSet(t.holds)
	return t, e.traceInto(ctx, t.covering, t.holds)
}

// subject lists the leaves about one thing.
func (t *telling) subject(ctx context.Context, id string) (leaves []Leaf, err error) {
	leaves, ok := t.subjects[id]
	if !ok {
		leaves, err = t.Store.Leaves(ctx, LeafQuery{Subject: id})
		t.subjects[id] = leaves
	}
	return leaves, err
}

// steps lists the leaves of a record's own steps, and those of the holds that cover or
// covered it, with the scopes of each that do.
func (t *telling) steps(ctx context.Context, r *Row) ([]Leaf, map[string][]Scope, error) {
	leaves, err := t.Store.RecordLeaves(ctx, r.Seq)
	if err != nil {
		return nil, nil, err
	}
	covering := map[string][]Scope{} // by the hold's id
	t.covering.each(r, func(s scoped) { covering[s.ID] = append(covering[s.ID], s.Scopes[s.scope]) })
	for id := range covering {
		of, err := t.subject(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		leaves = append(leaves, of...)
	}
	return leaves, covering, nil
}

// class lists the leaves of an action on class keys that name the class.
func (t *telling) class(ctx context.Context, action, class string) ([]Leaf, error) {
	if t.classes[action] == nil {
		leaves, err := t.Store.Leaves(ctx, LeafQuery{Actions: []string{action}})
		if err != nil {
			return nil, err
		}
		by := map[string][]Leaf{}
		for _, l := range leaves {
			var body struct {
				Classes []string `json:"classes"`
			}
			if err := json.Unmarshal(l.Body, &body); err != nil {
				return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
			}
			for _, c := range body.Classes {
				by[c] = append(by[c], l)
			}
		}
		t.classes[action] = by
	}
	return t.classes[action][class], nil
}

// asked lists the leaves of the exports that asked for a record.
func (t *telling) asked(ctx context.Context, r *Row) (out []Leaf, err error) {
	if !t.listed {
		leaves, err := t.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionExportBegun}})
		if err != nil {
			return nil, err
		}
		for _, l := range leaves {
			var body begun
			if err := json.Unmarshal(l.Body, &body); err != nil {
				return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
			}
			t.exports = append(t.exports, asking{l.Subject, body.Query})
		}
		t.listed = true
	}
	for _, x := range t.exports {
		if !x.query.covers(r) {
			continue
		}
		of, err := t.subject(ctx, x.id)
		if err != nil {
			return nil, err
		}
		// One that had ended before the record was taken in did not give it.
		if last := of[len(of)-1]; last.Action != ActionExported || last.ID > r.IngestLeaf {
			out = append(out, of...)
		}
	}
	return out, nil
}

// all lists the leaves that tell of a record.
func (t *telling) all(ctx context.Context, r *Row) ([]Leaf, error) {
	leaves, _, err := t.steps(ctx, r)
	if err != nil {
		return nil, err
	}
	add := func(of []Leaf, fault error) {
		leaves = append(leaves, of...)
		if err == nil {
			err = fault
		}
	}
	add(t.subject(ctx, r.RecordID))
	if r.Segment != "" {
		add(t.subject(ctx, r.Segment))
	}
	for _, action := range []string{ActionShredIntent, ActionShredExecuting, ActionShredded} {
		add(t.class(ctx, action, r.Class))
		add(t.class(ctx, action, r.ArchiveClass))
	}
	add(t.asked(ctx, r))
	return leaves, err
}

// AppendRefused tells that a command was refused, by which check and why.
func (e *Engine) AppendRefused(ctx context.Context, command, check, reason string) error {
	return e.Store.Append(ctx, e.leaf(e.Now(), ActionRefused, "", "", map[string]any{"command": command, "check": check, "reason": reason}))
}
