package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// The log is the policy's history: the leaf of each version has the whole of it, and
// the newest is in force. So no version can be changed or taken back unseen, and none
// can be in force without a trace.

// PolicyVersion is a policy that was applied once. Its JSON names are a promise.
type PolicyVersion struct {
	Hash      string `json:"hash"`
	Name      string `json:"name"`
	AppliedAt string `json:"applied_at"`
	Actor     string `json:"actor"`
	// Role is the database role that the server authenticated, if there are any.
	Role    string `json:"role"`
	LeafID  int64  `json:"leaf_id"`
	InForce bool   `json:"in_force"`
	// Source is the file or address that it was read from.
	Source string `json:"source"`
	// Changes are against the version before it.
	Changes []string `json:"changes"`

	policy *policy.Policy
}

// policyBody is what the leaf of a policy has to tell.
type policyBody struct {
	Hash   string `json:"policy_hash"`
	Source string `json:"source"`
	// Replaces is the hash of the policy that was in force.
	Replaces string `json:"replaces"`
	// Shorter and Undecided count the records that were there then, see PolicyChange.
	Shorter   int64 `json:"shorter"`
	Undecided int64 `json:"undecided"`
	// Proposal is the number of the leaf that proposed it, if it had to be approved.
	Proposal int64           `json:"proposal,omitempty"`
	Policy   json.RawMessage `json:"policy"`
}

// PolicyHistory lists every policy that was in force, the oldest first: the one that
// the database was made with, and those that were applied.
func (e *Engine) PolicyHistory(ctx context.Context) ([]PolicyVersion, error) {
	first, err := e.firstPolicy(ctx)
	if err != nil {
		return nil, err
	}
	applied, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionPolicyApplied}})
	if err != nil {
		return nil, err
	}
	out := []PolicyVersion{first}
	for i := range applied {
		l := &applied[i]
		p, body, err := policyOfLeaf(l)
		if err != nil {
			return nil, err
		}
		out = append(out, PolicyVersion{Hash: p.Hash(), Name: p.Name(), AppliedAt: cte.FormatTime(l.At), Actor: l.Actor, Role: l.Role, LeafID: l.ID,
			Source: body.Source, Changes: p.Diff(out[i].policy), policy: p})
	}
	out[len(out)-1].InForce = true
	return out, nil
}

// firstPolicy is the one that the database was made with.
func (e *Engine) firstPolicy(ctx context.Context) (PolicyVersion, error) {
	v := PolicyVersion{Source: "configuration", Changes: []string{}, policy: e.Policy.rules()}
	made, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionInit}, Limit: 1})
	if err != nil {
		return v, err
	}
	if len(made) > 0 {
		l := &made[0]
		v.AppliedAt, v.Actor, v.Role, v.LeafID = cte.FormatTime(l.At), l.Actor, l.Role, l.ID
		p, err := madeWith(l.Body, e.Policy)
		if err != nil {
			return v, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		v.policy = p.rules()
	}
	v.Hash, v.Name = v.policy.Hash(), v.policy.Name()
	return v, nil
}

// policyOfLeaf reads what was applied or proposed.
func policyOfLeaf(l *Leaf) (*policy.Policy, policyBody, error) {
	var body policyBody
	if err := json.Unmarshal(l.Body, &body); err != nil {
		return nil, body, fmt.Errorf("leaf %d: %w", l.ID, err)
	}
	p, err := policy.Parse(fmt.Sprintf("the policy of leaf %d", l.ID), body.Policy)
	return p, body, err
}

// madeWith is the policy that a database was made with, by the body of its first leaf; the
// one given if that does not say.
func madeWith(body json.RawMessage, otherwise Policy) (Policy, error) {
	var o Origin
	if len(body) == 0 {
		return otherwise, nil
	}
	if err := json.Unmarshal(body, &o); err != nil || o.PolicyHash == "" {
		return otherwise, err
	}
	return o.Policy, nil
}

// Applied is the policy of a version.
func (v PolicyVersion) Applied() *policy.Policy { return v.policy }

// InForce is the policy that decides: the one that was applied last, and until there is
// one the configuration's, which must be the one that the database was made with.
func (e *Engine) InForce(ctx context.Context) (*policy.Policy, error) {
	applied, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionPolicyApplied}})
	if err != nil {
		return nil, err
	}
	if len(applied) == 0 {
		return e.Policy.rules(), e.checkPolicy(ctx)
	}
	p, _, err := policyOfLeaf(&applied[len(applied)-1])
	return p, err
}

// newestPolicy is the same, whatever the configuration says now: the one that the
// database was made with until another was applied.
func (e *Engine) newestPolicy(ctx context.Context) (*policy.Policy, error) {
	p, err := e.InForce(ctx)
	if _, refused := IsRefused(err); refused {
		first, err := e.firstPolicy(ctx)
		return first.policy, err
	}
	return p, err
}

// PolicyChange is what applying or approving a policy did. Its JSON names are a promise.
type PolicyChange struct {
	Hash     string   `json:"hash"`
	Name     string   `json:"name"`
	Replaces string   `json:"replaces"`
	Applied  bool     `json:"applied"`
	Changes  []string `json:"changes"`
	// Waiting: it shortens lives, and waits for somebody else's approval.
	Waiting bool `json:"waiting"`
	// Records counts those that are there, Shorter, Longer and Undecided as a Simulation
	// does: what the policy would have said of them.
	Records   int64 `json:"records"`
	Shorter   int64 `json:"shorter"`
	Longer    int64 `json:"longer"`
	Undecided int64 `json:"undecided"`
	// ProposedBy is who proposed what was approved; Authenticated, that the database's
	// server knows both as different users, and not only by what they call themselves.
	ProposedBy    string `json:"proposed_by"`
	Authenticated bool   `json:"authenticated"`
}

// ApplyPolicy puts a policy in force: at once for the records that are taken in, and from
// the next sweep on for those that are there. The policy that is in force already is left
// alone. With approval, one that would end any record's life
// earlier, or that may, is only proposed.
func (e *Engine) ApplyPolicy(ctx context.Context, p *policy.Policy, source string, approval bool) (PolicyChange, error) {
	res := PolicyChange{Hash: p.Hash(), Name: p.Name(), Changes: []string{}}
	if err := e.carriedOut(p); err != nil {
		return res, err
	}
	d, err := e.decided(ctx)
	if err != nil {
		return res, err
	}
	current := d.policy
	if res.Replaces = current.Hash(); res.Replaces == p.Hash() {
		return res, nil
	}
	if err := e.checkLog(ctx); err != nil {
		return res, err
	}
	s, err := e.simulate(ctx, p, &d, e.Now())
	if err != nil {
		return res, err
	}
	res.Records, res.Shorter, res.Longer, res.Undecided = s.Records, s.Shorter, s.Longer, s.Undecided
	res.Changes = p.Diff(current)
	action := ActionPolicyApplied
	if res.Waiting = approval && s.Shorter+s.Undecided > 0; res.Waiting {
		action = ActionPolicyProposed
	}
	body := policyBody{Hash: p.Hash(), Source: source, Replaces: res.Replaces, Shorter: res.Shorter, Undecided: res.Undecided, Policy: p.Canonical()}
	if err := e.Store.Append(ctx, e.leaf(e.Now(), action, "", "", body)); err != nil {
		return res, fmt.Errorf("couldn't apply policy %s: %w", p.Name(), err)
	}
	res.Applied = !res.Waiting
	e.publishRun(ctx)
	return res, nil
}

// ApprovePolicy puts in force what somebody else has proposed last, under the hash given
// or its first digits. ErrNotFound if no such proposal waits.
func (e *Engine) ApprovePolicy(ctx context.Context, hash string) (PolicyChange, error) {
	leaves, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionPolicyApplied, ActionPolicyProposed}})
	if err != nil {
		return PolicyChange{}, err
	}
	if len(leaves) == 0 || leaves[len(leaves)-1].Action != ActionPolicyProposed {
		return PolicyChange{}, fmt.Errorf("no policy waits for approval: %w", ErrNotFound)
	}
	l := &leaves[len(leaves)-1]
	p, body, err := policyOfLeaf(l)
	if err != nil {
		return PolicyChange{}, err
	}
	if hash == "" || !strings.HasPrefix(body.Hash, hash) {
		return PolicyChange{}, fmt.Errorf("what waits for approval is policy %s, not %s: %w", body.Hash, hash, ErrNotFound)
	}
	if err := e.carriedOut(p); err != nil {
		return PolicyChange{}, err
	}
	another := &Refused{"approval", fmt.Sprintf("the policy was proposed by %s, and another has to approve it", cmp.Or(l.Role, l.Actor)), "have somebody else type: lotkeeper policy approve " + body.Hash[:12]}
	// What one calls oneself counts only where the server knows nobody.
	if l.Role == "" && l.Actor == e.Actor {
		return PolicyChange{}, another
	}
	current, err := e.InForce(ctx)
	if err != nil {
		return PolicyChange{}, err
	}
	res := PolicyChange{Hash: p.Hash(), Name: p.Name(), Replaces: current.Hash(), Changes: p.Diff(current), Shorter: body.Shorter, Undecided: body.Undecided, ProposedBy: cmp.Or(l.Role, l.Actor), Authenticated: l.Role != ""}
	if err := e.checkLog(ctx); err != nil {
		return res, err
	}
	body.Replaces, body.Proposal = current.Hash(), l.ID
	if err := e.Store.Append(ctx, e.leaf(e.Now(), ActionPolicyApplied, "", "", body)); errors.Is(err, ErrProposer) {
		return res, another
	} else if err != nil {
		return res, fmt.Errorf("couldn't apply policy %s: %w", p.Name(), err)
	}
	res.Applied = true
	e.publishRun(ctx)
	return res, nil
}

// PolicyRefused tells the trail that a policy could not be put in force; the one that
// was stays.
func (e *Engine) PolicyRefused(ctx context.Context, source string, why error) error {
	return e.Store.Append(ctx, e.leaf(e.Now(), ActionPolicyRefused, "", "", map[string]any{"source": source, "reason": why.Error()}))
}

// carriedOut refuses a policy with commands where they may not be run: it would be believed
// in and not kept. Whoever may apply a policy with commands may have programs
// run by whoever sweeps, so the machine's own configuration has to allow it.
func (e *Engine) carriedOut(p *policy.Policy) error {
	if p.HasCommands() && e.Command == nil {
		return &Refused{"policy", fmt.Sprintf("policy %s has commands to run, and this machine's configuration does not allow it", p.Name()),
			"read them, and who may apply a policy; then set in the configuration: policy: {commands: allowed}"}
	}
	return nil
}

// facts are what a rule may know of a record from its row.
func (r *Row) facts() policy.Facts {
	return policy.Facts{
		EventType: r.EventType, Lot: r.TLC, LotSource: r.TLCSource, Location: r.Location, Product: r.Product,
		EventTimestamp: r.EventTimestamp, CreatedOrObtainedAt: r.CreatedOrObtainedAt, LabelsUnknown: true,
	}
}

// policyOf finds the policy that a record was scheduled by last.
func (e *Engine) policyOf(ctx context.Context, r *Row) (*policy.Policy, error) {
	leaves, err := e.Store.RecordLeaves(ctx, r.Seq)
	if err != nil {
		return nil, err
	}
	var body policyBody
	for _, l := range leaves {
		if l.Action != ActionIngested && l.Action != ActionRescheduled {
			continue
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
	}
	history, err := e.PolicyHistory(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(history, func(v PolicyVersion) bool { return v.Hash == body.Hash }); i >= 0 {
		return history[i].policy, nil
	}
	return history[0].policy, nil
}

// cutoff is the instant at and before which events are due, if the policy has one for
// all records, and how it comes about.
func cutoff(p *policy.Policy, now time.Time) (at, arithmetic string) {
	days, ok := p.Days()
	if !ok {
		return "", fmt.Sprintf("due_at <= %s, by policy %s (%s)", cte.FormatTime(now), p.Name(), p.Hash())
	}
	at = cte.FormatTime(now.UTC().AddDate(0, 0, -days))
	return at, fmt.Sprintf("event_timestamp <= %s - %d days = %s", cte.FormatTime(now), days, at)
}
