package lifecycle

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// Moves is how many records would move in one month by one rule. Its JSON names are a
// promise.
type Moves struct {
	// Rule is the policy's; "" counts records without one, "?" those of which only the
	// labels say which it is.
	Rule string `json:"rule"`
	// Month is YYYY-MM in UTC, or "never". What is overdue moves in the month of as-of.
	Month string `json:"month"`
	// Action is "archive", or "purge": the first month in which the last copy may go.
	Action string `json:"action"`
	// Current counts the records that move then as things are, Proposed those that would
	// if they had come in under the policy.
	Current  int64 `json:"current"`
	Proposed int64 `json:"proposed"`
}

// Simulation is what a policy would say of the records that are there. Its JSON names
// are a promise.
type Simulation struct {
	Hash    string `json:"hash"`
	Current string `json:"current"`
	AsOf    string `json:"as_of"`
	Records int64  `json:"records"`
	// Shorter counts records whose hot or archived copy would go earlier than as things
	// are, Longer those of which none goes earlier and one later, Undecided those that
	// only their labels decide.
	Shorter   int64   `json:"shorter"`
	Longer    int64   `json:"longer"`
	Undecided int64   `json:"undecided"`
	Moves     []Moves `json:"moves"`
}

// undecided stands for the rule that only labels could name.
const undecided = "?"

// SimulatePolicy compares what becomes of the records that are there with what a policy
// would say of them. It changes nothing. Records are compared by their rows: a rule that
// goes by labels leaves them undecided.
func (e *Engine) SimulatePolicy(ctx context.Context, p *policy.Policy, asOf time.Time) (Simulation, error) {
	d, err := e.decided(ctx)
	if err != nil {
		return Simulation{}, err
	}
	s, err := e.simulate(ctx, p, &d, asOf)
	if err != nil {
		return s, err
	}
	return s, e.Store.Append(ctx, e.leaf(e.Now(), ActionDryRun, "", "", map[string]any{
		"of": "policy", "as_of": s.AsOf, "policy_hash": s.Hash, "records": s.Records, "result_sha256": hashOf(s)}))
}

func (e *Engine) simulate(ctx context.Context, p *policy.Policy, d *decision, asOf time.Time) (Simulation, error) {
	s := Simulation{Hash: p.Hash(), Current: d.policy.Hash(), AsOf: cte.FormatTime(asOf), Moves: []Moves{}}
	type key struct{ rule, month, action string }
	moves := map[key]*Moves{}
	at := func(rule, action string, t time.Time) *Moves {
		k := key{rule, "never", action}
		if t.Before(ArchivePeriod(latest).Start) {
			k.month = later(t, asOf).Format("2006-01")
		}
		if moves[k] == nil {
			moves[k] = &Moves{Rule: k.rule, Month: k.month, Action: k.action}
		}
		return moves[k]
	}
	for r, err := range e.Store.Rows(ctx, Query{}) {
		if err != nil {
			return s, err
		}
		if r.State == Purged {
			continue
		}
		// The last copy goes when its class is over, by months.
		over, err := classEnd(r.ArchiveClass)
		if err != nil {
			return s, err
		}
		s.Records++
		to := p.Schedule(factsOf(&r, p, d.triggers))
		proposed := ArchivePeriod(to.Purge).Ends()
		if now := e.Now(); !proposed.After(now) {
			// It would have come into a class that is not over, see archivePeriodFrom.
			if proposed = nextArchivePeriod(now).Ends(); proposed.After(over) {
				proposed = over
			}
		}
		rule := to.Rule
		switch {
		case to.Unknown:
			rule = undecided
			s.Undecided++
		case to.Due.Before(r.DueAt) || proposed.Before(over):
			s.Shorter++
		case to.Due.After(r.DueAt) || proposed.After(over):
			s.Longer++
		}
		if r.State == Active {
			at(rule, "archive", r.DueAt).Current++
			at(rule, "archive", to.Due).Proposed++
		}
		at(rule, "purge", over).Current++
		at(rule, "purge", proposed).Proposed++
		e.progress("simulate", int(s.Records))
	}
	for _, m := range moves {
		s.Moves = append(s.Moves, *m)
	}
	slices.SortFunc(s.Moves, func(a, b Moves) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Month, b.Month))
	})
	return s, nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b.UTC()
	}
	return a.UTC()
}
