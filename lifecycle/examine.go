package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// Inspector is a Store that can be tried out beyond what opening it asks.
type Inspector interface {
	Inspect(ctx context.Context) []archive.Check
}

// Check is one thing that Examine looked at.
type Check struct {
	// Subject is "database", "policy", "keyring", "clock" or "vault NAME".
	Subject string `json:"subject"`
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Found   string `json:"found"`
	// Hint is what to change, or to type; empty if OK.
	Hint string `json:"hint"`
}

// Examine looks at everything that an ingest or a sweep stands on, and leaves
// nothing behind. It takes as long as locks of some seconds need to end. It goes
// on to the end whatever it finds.
func (e *Engine) Examine(ctx context.Context) []Check {
	var out []Check
	add := func(subject string, c archive.Check) {
		out = append(out, Check{subject, c.Name, c.OK, c.Found, c.Hint})
		e.progress("doctor", len(out))
	}
	ask := func(subject, name, found string, err error) { add(subject, asked(name, found, err)) }
	info, err := e.Store.Info(ctx)
	ask("database", "readable", fmt.Sprintf("%d leaves, the newest of %s", info.NewestLeaf.ID, cte.FormatTime(info.NewestLeaf.At)), err)
	if i, ok := e.Store.(Inspector); ok {
		for _, c := range i.Inspect(ctx) {
			add("database", c)
		}
	}
	inForce, err := e.InForce(ctx)
	if inForce != nil && inForce.Hash() != e.Policy.Hash() {
		ask("policy", "applied", fmt.Sprintf("%s, %s: %d rules", inForce.Name(), inForce.Hash(), len(inForce.Rules())), e.checkReviews(inForce))
	} else {
		ask("policy", "as initialised", fmt.Sprintf("%s: archive_after_days %d, purge_after_years %d", e.Policy.Name, e.Policy.ArchiveAfterDays, e.Policy.PurgeAfterYears), err)
	}
	status, err := e.Keys.Status(ctx)
	if err == nil {
		err = e.CheckKeyring(ctx)
	}
	var copies []string
	for _, c := range status.Copies {
		copies = append(copies, c.Path)
	}
	ask("keyring", "in order", fmt.Sprintf("epoch %d, in %s and nowhere else that is known", status.Epoch, strings.Join(copies, ", ")), err)
	now := e.Now().UTC()
	ask("clock", "plausible", cte.FormatTime(now), e.checkClock(ctx, now))

	views, err := e.VaultViews(ctx)
	if err != nil {
		ask("vaults", "listed", "", err)
	}
	counting := 0
	for _, v := range views {
		if v.State == ActiveVault {
			counting++
		}
		if v.State == Retired {
			continue
		}
		if v.State == Retiring {
			// It gets nothing more, not even what doctor tries out.
			add("vault "+v.Name, archive.Check{Name: "retiring", OK: v.Problem == "", Found: strings.TrimSpace("locked until " + v.LockedUntil + " " + v.Problem)})
			continue
		}
		subject := "vault " + v.Name
		c := archive.Check{Name: "counts", OK: v.State == ActiveVault, Found: string(v.State)}
		switch v.State {
		case Joining:
			c.Hint = "type: lotkeeper vault sync " + v.Name
		case "unknown":
			c.Found, c.Hint = "configured, and never added", "type: lotkeeper vault add "+v.Name
		}
		add(subject, c)
		vault, err := e.vault(v.Name)
		if err != nil {
			ask(subject, "configured", "", err)
			continue
		}
		for _, c := range e.ExamineVault(ctx, vault) {
			out = append(out, c)
			e.progress("doctor", len(out))
		}
		live, err := e.Store.Segments(ctx, Verified, Settled)
		if err == nil {
			err = checkPlace(ctx, vault, live)
		}
		ask(subject, "has its copies", fmt.Sprintf("%d are recorded; three were looked for", v.Copies), err)
	}
	if err == nil && counting == 0 {
		add("vaults", archive.Check{Name: "one counts", Found: "none", Hint: "type: lotkeeper vault list"})
	}
	return out
}

// ExamineVault tries out one vault. It needs no Store.
func (e *Engine) ExamineVault(ctx context.Context, v archive.Vault) []Check {
	subject := "vault " + v.Name()
	var out []Check
	if i, ok := v.(archive.Inspector); ok {
		for _, c := range i.Inspect(ctx) {
			out = append(out, Check{subject, c.Name, c.OK, c.Found, c.Hint})
		}
		return out
	}
	st, err := v.Status(ctx)
	if err == nil {
		err = e.checkVault(ctx, v, e.Now())
	}
	c := asked("locks", st.Lock, err)
	return []Check{{subject, c.Name, c.OK, c.Found, c.Hint}}
}

// asked turns an error, a refusal with its hint, into a check.
func asked(name, found string, err error) archive.Check {
	c := archive.Check{Name: name, OK: err == nil, Found: found}
	if r, ok := IsRefused(err); ok {
		c.Found, c.Hint = r.Reason, r.Hint
	} else if err != nil {
		c.Found, c.Hint = err.Error(), "see what the message says, mend it and try again"
	}
	return c
}

// Origin is what the first leaf says of how the database was made.
type Origin struct {
	Policy     Policy `json:"policy"`
	PolicyHash string `json:"policy_hash"`
	// Witness is the id of a key that wraps nothing and is in no other database's
	// keyring.
	Witness string `json:"keyring_witness"`
	// LogKey is the public key that the log is signed with, as a note's verifier
	// key (C2SP signed-note).
	LogKey string `json:"log_key,omitempty"`
}

// origin is empty of a database that was made without one.
func (e *Engine) origin(ctx context.Context) (o Origin, err error) {
	leaves, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionInit}})
	if err != nil || len(leaves) == 0 {
		return o, err
	}
	if err := json.Unmarshal(leaves[0].Body, &o); err != nil {
		return o, fmt.Errorf("leaf %d: %w", leaves[0].ID, err)
	}
	return o, nil
}

// checkReviews finds rules that nobody has looked at again in time.
func (e *Engine) checkReviews(p *policy.Policy) error {
	if overdue := p.Overdue(e.Now()); len(overdue) > 0 {
		return &Refused{"policy", "past its review_by: rule " + strings.Join(overdue, ", "), "have the rule looked at, set its next review_by, and type: lotkeeper policy apply FILE"}
	}
	return nil
}

// checkPolicy refuses another policy than the database was made with: the day on
// which each record falls due is in its class, and a policy that is only written
// into a file would be believed in and not kept.
func (e *Engine) checkPolicy(ctx context.Context) error {
	o, err := e.origin(ctx)
	if err == nil && o.PolicyHash != "" && o.PolicyHash != e.Policy.Hash() {
		err = &Refused{"policy", fmt.Sprintf("the configured policy is not the one that the database was made with (%s: archive_after_days %d, purge_after_years %d)",
			o.Policy.Name, o.Policy.ArchiveAfterDays, o.Policy.PurgeAfterYears), "set the policy in the configuration to what it was"}
	}
	return err
}
