package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// A trigger is a date that a rule's clock begins with, such as the end of an audit. As
// with policies, the log is where they are kept: the newest leaf about one says whether it
// is set, so none is set without a trace, and none can be changed unseen.

// Trigger is a date that is set, for a lot or for the whole organisation. Its JSON names
// are a promise.
type Trigger struct {
	Name string `json:"name"`
	// TLC is the lot that it is set for, of every source unless TLCSource names one; empty
	// if it is the organisation's.
	TLC       string `json:"traceability_lot_code"`
	TLCSource string `json:"tlc_source"`
	// Date is YYYY-MM-DD; the clock begins at 00:00 UTC.
	Date   string `json:"date"`
	Reason string `json:"reason"`
	SetBy  string `json:"set_by"`
	// Role is the database role that the server authenticated, if there are any.
	Role   string `json:"role"`
	SetAt  string `json:"set_at"`
	LeafID int64  `json:"leaf_id"`
}

// triggerOf is what at most one date is set for.
type triggerOf struct{ name, tlc, source string }

func (t *Trigger) of() triggerOf { return triggerOf{t.Name, t.TLC, t.TLCSource} }

// triggers are the dates that are set.
type triggers map[triggerOf]time.Time

// take takes in a leaf about a trigger.
func (t triggers) take(action string, body json.RawMessage) (Trigger, error) {
	var b Trigger
	if err := json.Unmarshal(body, &b); err != nil {
		return b, err
	}
	if action == ActionTriggerUnset {
		delete(t, b.of())
		return b, nil
	}
	at, err := time.Parse(time.DateOnly, b.Date)
	t[b.of()] = at
	return b, err
}

// hash is the SHA-256, in hex, of all dates that are set: leaves name by it what their
// records' schedules began with.
func (t triggers) hash() string {
	type set struct {
		Name   string `json:"name"`
		TLC    string `json:"traceability_lot_code"`
		Source string `json:"tlc_source"`
		Date   string `json:"date"`
	}
	all := []set{}
	for of, at := range t {
		all = append(all, set{of.name, of.tlc, of.source, at.Format(time.DateOnly)})
	}
	slices.SortFunc(all, func(a, b set) int {
		return slices.Compare([]string{a.Name, a.TLC, a.Source}, []string{b.Name, b.TLC, b.Source})
	})
	b, err := json.Marshal(all)
	if err != nil {
		panic(err) // plain values
	}
	return hexOf(sha256.Sum256(b))
}

// decision is what the schedule of every record follows from.
type decision struct {
	policy   *policy.Policy
	triggers triggers
	// leaf is the number of the newest leaf that decided; 0 if the policy is the one that
	// the database was made with, and no trigger was ever set.
	leaf int64
	// set are the triggers as people are shown them.
	set map[triggerOf]Trigger
}

// decided reads what decides now.
func (e *Engine) decided(ctx context.Context) (decision, error) {
	d := decision{triggers: triggers{}, set: map[triggerOf]Trigger{}}
	leaves, err := e.Store.Leaves(ctx, LeafQuery{Actions: deciding})
	if err != nil {
		return d, err
	}
	var applied *Leaf
	for i := range leaves {
		l := &leaves[i]
		d.leaf = l.ID
		if l.Action == ActionPolicyApplied {
			applied = l
			continue
		}
		t, err := d.triggers.take(l.Action, l.Body)
		if err != nil {
			return d, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		t.SetBy, t.Role, t.SetAt, t.LeafID = l.Actor, l.Role, cte.FormatTime(l.At), l.ID
		if d.set[t.of()] = t; l.Action == ActionTriggerUnset {
			delete(d.set, t.of())
		}
	}
	if applied == nil {
		d.policy = e.Policy.rules()
		return d, e.checkPolicy(ctx)
	}
	d.policy, _, err = policyOfLeaf(applied)
	return d, err
}

// facts are what a rule may know of a record from its row.
func (d *decision) facts(r *Row) policy.Facts { return factsOf(r, d.policy, d.triggers) }

func factsOf(r *Row, p *policy.Policy, set triggers) policy.Facts {
	f := r.facts()
	for _, name := range p.Triggers() {
		// The narrowest counts.
		for _, of := range []triggerOf{{name, r.TLC, r.TLCSource}, {name, r.TLC, ""}, {name, "", ""}} {
			if at, ok := set[of]; ok {
				if f.Triggers == nil {
					f.Triggers = map[string]time.Time{}
				}
				f.Triggers[name] = at
				break
			}
		}
	}
	return f
}

// by names the decision in the body of a leaf, for replay.
func (d *decision) by(body map[string]any) map[string]any {
	body["policy_hash"] = d.policy.Hash()
	if len(d.policy.Triggers()) > 0 {
		body["triggers_hash"] = d.triggers.hash()
	}
	return body
}

// Triggers lists the triggers that are set, by name and lot.
func (e *Engine) Triggers(ctx context.Context) ([]Trigger, error) {
	d, err := e.decided(ctx)
	if _, refused := IsRefused(err); err != nil && !refused {
		return nil, err
	}
	out := slices.AppendSeq([]Trigger{}, maps.Values(d.set))
	slices.SortFunc(out, func(a, b Trigger) int {
		return slices.Compare([]string{a.Name, a.TLC, a.TLCSource}, []string{b.Name, b.TLC, b.TLCSource})
	})
	return out, nil
}

// ErrTrigger: the policy in force knows no trigger of the name.
var ErrTrigger = errors.New(policy.TaxonomyMismatch)

// SetTrigger sets a date, or another one. The same date again changes nothing.
func (e *Engine) SetTrigger(ctx context.Context, t Trigger) (Trigger, error) {
	return e.moveTrigger(ctx, ActionTriggerSet, t)
}

// UnsetTrigger takes a date back: what goes by it is kept. ErrNotFound if it is not set.
func (e *Engine) UnsetTrigger(ctx context.Context, t Trigger) (Trigger, error) {
	t.Date = ""
	return e.moveTrigger(ctx, ActionTriggerUnset, t)
}

func (e *Engine) moveTrigger(ctx context.Context, action string, t Trigger) (Trigger, error) {
	d, err := e.decided(ctx)
	if err != nil {
		return t, err
	}
	have, set := d.set[t.of()]
	switch {
	case action == ActionTriggerUnset && !set:
		return t, fmt.Errorf("trigger %s: %w", t.subject(), ErrNotFound)
	case action == ActionTriggerSet && !d.policy.KnowsTrigger(t.Name):
		return t, fmt.Errorf("%w: there is no trigger %q", ErrTrigger, t.Name)
	case set && have.Date == t.Date:
		return have, nil
	}
	if err := e.checkLog(ctx); err != nil {
		return t, err
	}
	l := e.leaf(e.Now(), action, "", t.TLC, map[string]any{"name": t.Name, "traceability_lot_code": t.TLC, "tlc_source": t.TLCSource, "date": t.Date, "reason": t.Reason, "before": have.Date})
	if err := e.Store.Append(ctx, l); err != nil {
		return t, fmt.Errorf("couldn't set trigger %s: %w", t.subject(), err)
	}
	t.SetBy, t.SetAt = e.Actor, cte.FormatTime(l.At)
	e.publishRun(ctx)
	return t, nil
}

// subject is what the trigger is set for, in words.
func (t *Trigger) subject() string {
	if t.TLC == "" {
		return t.Name
	}
	return strings.TrimSpace(t.Name + " of lot " + t.TLC + " " + t.TLCSource)
}
