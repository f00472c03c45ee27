package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

func newPolicy(a *app) *cobra.Command {
	return group("policy", "Check, apply and show retention policies",
		`A policy is a file of rules that say when records leave the hot store, and when
their last copy may go. The first rule that matches a record is its rule; one
that none matches is kept. No rule gets below the law's floor: 21 CFR 1.1455(d).
docs/policy.md has the format.`,
		newPolicyCheck(a), newPolicySchema(a), newPolicyApply(a), newPolicyApprove(a), newPolicyShow(a), newPolicyHistory(a), newPolicySimulate(a))
}

// policyCheck is what policy check prints.
type policyCheck struct {
	File    string   `json:"file"`
	Name    string   `json:"name"`
	Hash    string   `json:"hash"`
	Rules   int      `json:"rules"`
	Overdue []string `json:"overdue"`
}

func newPolicyCheck(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a policy file, and change nothing",
		Long: `Check a policy file: its form, its periods, its expressions, its words, and that
no rule ends a record before the law's floor. It needs no database.`,
		Example: "  lotkeeper policy check policy.yaml",
		Args:    arguments("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			res := policyCheck{args[0], p.Name(), p.Hash(), len(p.Rules()), append([]string{}, p.Overdue(a.now())...)}
			err = result(a, res, func(s *screen) {
				s.fields("", "name", res.Name, "hash", res.Hash, "rules", fmt.Sprint(res.Rules), "overdue", strings.Join(res.Overdue, ", "))
			})
			if err == nil {
				err = overdue(res.Overdue)
			}
			return err
		},
	}
	annotate(cmd, annotationNoConfig, "yes")
	exits(cmd, exitFailed, exitFindings, exitRefused)
	finds(cmd, "a rule's review_by has passed")
	return cmd
}

func overdue(rules []string) error {
	if len(rules) == 0 {
		return nil
	}
	return &findings{"past its review_by: rule " + strings.Join(rules, ", "), "have the rule looked at, set its next review_by, and type: lotkeeper policy apply FILE"}
}

// readPolicy reads a policy file. One below the law's floor is refused, whatever it is
// wanted for.
func readPolicy(path string) (*policy.Policy, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the policy: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, policy.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("couldn't read the policy: %w", err)
	}
	return parsePolicy(path, b)
}

func parsePolicy(name string, b []byte) (*policy.Policy, error) {
	p, err := policy.Parse(name, b)
	var fault *policy.Error
	if errors.As(err, &fault) && fault.Kind == policy.BelowFloor {
		return nil, &lifecycle.Refused{Check: "floor", Reason: err.Error(), Hint: "make hot or archive longer, or keep the archived copy: action: archive"}
	}
	return p, err
}

func newPolicySchema(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of policy files",
		Long:    "Print the JSON Schema of policy files, for editors: docs/policy.md says how.",
		Example: "  lotkeeper policy schema > policy.schema.json",
		Args:    arguments(),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(policy.Schema())
			return err
		},
	}
	prints(cmd, "json")
	annotate(cmd, annotationNoConfig, "yes")
	exits(cmd, exitFailed)
	return cmd
}

func newPolicyApply(a *app) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "apply FILE | https://ADDRESS [--token-file FILE]",
		Short: "Put a policy in force",
		Long: `Put a policy in force: now for the records that are taken in, and with the next
sweep for those that are there. "policy simulate" shows before what that does.
What is archived is kept for longer if the policy says so, and never shortened:
locked objects, and backups, keep the longer life. The same policy again changes
nothing; an older file puts that back in force.

From an address it is fetched over TLS, and all of it is checked before anything
changes. When that fails the policy that was in force stays, and the audit trail
says so.`,
		Example: `  lotkeeper policy apply policy.yaml
  lotkeeper policy apply https://policy.example.org/fsma.yaml --token-file token`,
		Args: arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, source := cmd.Context(), args[0]
			remote := strings.Contains(source, "://")
			if tokenFile != "" && !remote {
				return usagef("--token-file is for a policy that is fetched")
			}
			token := ""
			if tokenFile != "" {
				var err error
				if token, err = secretFile(tokenFile, 0o077); err != nil {
					return fmt.Errorf("couldn't read --token-file: %w", err)
				}
			}
			return a.with(ctx, func(e *lifecycle.Engine) error {
				if !remote {
					p, err := readPolicy(source)
					if err != nil {
						return err
					}
					return a.applyPolicy(ctx, e, p, source)
				}
				p, err := a.fetchPolicy(ctx, source, token)
				if err != nil {
					return errors.Join(err, e.PolicyRefused(context.WithoutCancel(ctx), withoutQuery(source), err))
				}
				return a.applyPolicy(ctx, e, p, withoutQuery(source))
			})
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "`FILE` with a bearer token for the address, that nobody else can read")
	exits(cmd, exitFailed, exitFindings, exitRefused)
	finds(cmd, "the policy would end lives earlier, and waits for approval")
	needs(cmd, roleAdmin)
	return cmd
}

func (a *app) applyPolicy(ctx context.Context, e *lifecycle.Engine, p *policy.Policy, source string) error {
	res, err := e.ApplyPolicy(ctx, p, source, a.cfg.Policy.Approval != "")
	if err != nil {
		return err
	}
	if err := a.printChange(res); err != nil {
		return err
	}
	switch {
	case res.Waiting:
		return &findings{fmt.Sprintf("the policy is not in force: of %s it would end %d earlier, and may %d more, so it waits for approval", plural(res.Records, "record"), res.Shorter, res.Undecided),
			"have somebody else type: lotkeeper policy approve " + res.Hash[:12]}
	case !res.Applied:
		a.note("policy %s is in force already; nothing was changed", p.Name())
	default:
		a.noteApplied(res)
	}
	return nil
}

func (a *app) noteApplied(res lifecycle.PolicyChange) {
	a.note("the records that are there follow with the next sweep: lotkeeper sweep --dry-run")
	if res.Shorter+res.Undecided > 0 {
		a.note("%s a shorter life, and %d may: what of them is archived already stays as long as it is locked, and backups that have them keep them for as long as they were to live", gets(res.Shorter), res.Undecided)
	}
}

func gets(records int64) string {
	if records == 1 {
		return "1 record gets"
	}
	return fmt.Sprintf("%d records get", records)
}

func (a *app) printChange(res lifecycle.PolicyChange) error {
	return result(a, res, func(s *screen) {
		fields := []string{"name", res.Name, "hash", res.Hash, "replaces", res.Replaces, "applied", fmt.Sprint(res.Applied),
			"records", fmt.Sprintf("%d; by it %d would go earlier, %d later, %d only labels decide", res.Records, res.Shorter, res.Longer, res.Undecided)}
		if res.ProposedBy != "" {
			fields = append(fields, "proposed by", res.ProposedBy)
		}
		s.fields("", fields...)
		for _, c := range res.Changes {
			s.printf("  %s\n", c)
		}
	})
}

func newPolicyApprove(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approve HASH",
		Short: "Put in force what somebody else has proposed",
		Long: `Put in force the policy that waits: with "approval: required" in the
configuration, one that would end any record's life earlier. Whoever proposed it
cannot approve it. On PostgreSQL the server tells the two apart, by its users;
the embedded database knows only what --actor says.`,
		Example: "  lotkeeper policy approve 3fa85f641c02",
		Args:    arguments("HASH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				res, err := e.ApprovePolicy(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if err := a.printChange(res); err != nil {
					return err
				}
				if !res.Authenticated {
					a.note("who proposed and who approved is what they said (--actor): this database has no users")
				}
				a.noteApplied(res)
				return nil
			})
		},
	}
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAdmin)
	return cmd
}

// policyShown is what policy show prints.
type policyShown struct {
	lifecycle.PolicyVersion
	Rules   []policy.Rule   `json:"rules"`
	Overdue []string        `json:"overdue"`
	Mapping []policyMapping `json:"mapping,omitempty"`
}

// policyMapping is what a rule touches.
type policyMapping struct {
	Rule string `json:"rule"`
	// Tables have the hot copy, Vaults the archived ones.
	Tables       []string      `json:"tables"`
	Vaults       []mappedVault `json:"vaults"`
	HotClass     string        `json:"hot_class"`
	ArchiveClass string        `json:"archive_class"`
	Schedule     string        `json:"schedule"`
}

// mappedVault is a vault that every segment goes to, with its bucket or directory; the
// URL is empty if the vault is not configured on this machine.
type mappedVault struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

func newPolicyShow(a *app) *cobra.Command {
	var file, mapping bool
	cmd := &cobra.Command{
		Use:   "show [HASH] [--mapping | --file]",
		Short: "Show the policy that is in force, or an older one",
		Long: `Show the policy that is in force, or the one with a hash, of which the first
digits will do. --mapping adds which tables, vaults and key classes each rule
touches, and when. --file prints the policy alone, in its canonical form, which
"policy apply" takes.`,
		Example: `  lotkeeper policy show
  lotkeeper policy show --mapping
  lotkeeper policy show 3fa85f64 --file > older.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file && mapping {
				return usagef("--mapping and --file do not go together")
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				v, err := findPolicy(cmd.Context(), e, strings.Join(args, ""))
				if err != nil {
					return err
				}
				if file {
					_, err := a.out.Write(append(v.Applied().Canonical(), '\n'))
					return err
				}
				return a.showPolicy(cmd.Context(), e, v, mapping)
			})
		},
	}
	cmd.Flags().BoolVar(&mapping, "mapping", false, "which table, vault and key class each rule touches")
	cmd.Flags().BoolVar(&file, "file", false, "the policy alone, as a file")
	exits(cmd, exitFailed, exitFindings)
	finds(cmd, "a rule's review_by has passed")
	needs(cmd, roleAuditor)
	return cmd
}

func findPolicy(ctx context.Context, e *lifecycle.Engine, hash string) (v lifecycle.PolicyVersion, err error) {
	history, err := e.PolicyHistory(ctx)
	if err != nil {
		return v, err
	}
	for i := len(history) - 1; i >= 0; i-- {
		if strings.HasPrefix(history[i].Hash, hash) {
			return history[i], nil
		}
	}
	return v, fmt.Errorf("policy %s: %w", hash, lifecycle.ErrNotFound)
}

func (a *app) showPolicy(ctx context.Context, e *lifecycle.Engine, v lifecycle.PolicyVersion, mapping bool) error {
	res := policyShown{PolicyVersion: v, Rules: v.Applied().Rules(), Overdue: append([]string{}, v.Applied().Overdue(a.now())...)}
	if mapping {
		vaults, err := e.VaultViews(ctx)
		if err != nil {
			return err
		}
		urls := map[string]string{}
		for _, c := range a.cfg.Vaults {
			urls[c.Name] = c.URL
		}
		active := []mappedVault{}
		for _, v := range vaults {
			if v.State == lifecycle.ActiveVault {
				active = append(active, mappedVault{v.Name, urls[v.Name]})
			}
		}
		for _, r := range res.Rules {
			res.Mapping = append(res.Mapping, mappingOf(r, active))
		}
	}
	err := result(a, res, func(s *screen) {
		s.fields("", "name", res.Name, "hash", res.Hash, "applied", res.AppliedAt+" by "+res.Actor, "in force", fmt.Sprint(res.InForce))
		s.printf("\n")
		table(s, res.Rules,
			column[policy.Rule]{title: "RULE", cell: func(r policy.Rule) string { return r.Name }},
			column[policy.Rule]{title: "CLOCK", cell: func(r policy.Rule) string { return r.Clock }, whole: true},
			column[policy.Rule]{title: "HOT", cell: func(r policy.Rule) string { return r.Hot }, whole: true},
			column[policy.Rule]{title: "ARCHIVE", cell: func(r policy.Rule) string { return r.Archive }, whole: true},
			column[policy.Rule]{title: "ACTION", cell: func(r policy.Rule) string { return r.Action }, whole: true},
			column[policy.Rule]{title: "MATCH", cell: func(r policy.Rule) string { return r.Match }})
		for _, m := range res.Mapping {
			var vaults []string
			for _, v := range m.Vaults {
				vaults = append(vaults, strings.TrimSpace(v.Name+" "+v.URL))
			}
			s.printf("\n%s\n", m.Rule)
			s.fields("  ", "tables", strings.Join(m.Tables, ", "), "vaults", strings.Join(vaults, ", "), "hot class", m.HotClass, "archive class", m.ArchiveClass, "schedule", m.Schedule)
		}
	})
	if err == nil {
		err = overdue(res.Overdue)
	}
	return err
}

func mappingOf(r policy.Rule, vaults []mappedVault) policyMapping {
	m := policyMapping{
		Rule: r.Name, Tables: []string{"records", "deks", "payloads"}, Vaults: vaults,
		HotClass:     "hot-YYYY-MM-DD-n of the day of " + r.Clock + " + " + r.Hot,
		ArchiveClass: "archive-9999-12-n, which is never over",
		Schedule:     "archived by the first sweep after " + r.Clock + " + " + r.Hot + ", and kept there",
	}
	if r.Action == policy.ArchiveThenShred {
		m.ArchiveClass = "archive-YYYY-MM-n of the month of " + r.Clock + " + " + r.Hot + " + " + r.Archive + ", or of the law's floor if that is later"
		m.Schedule = "archived by the first sweep after " + r.Clock + " + " + r.Hot + "; purged once the month of its archive class is over"
	}
	return m
}

func newPolicyHistory(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "history",
		Short:   "List every policy that was in force, who applied it and when",
		Long:    "List every policy that was in force, the oldest first: who applied it, when,\nfrom where, and what it changed. It is read from the audit log, which nobody can\nrewrite unseen.",
		Example: "  lotkeeper policy history\n  lotkeeper policy history -o json | jq '.[-1].changes'",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				history, err := e.PolicyHistory(cmd.Context())
				if err != nil {
					return err
				}
				type version = lifecycle.PolicyVersion
				l := newList(a, []column[version]{
					{title: "APPLIED", cell: func(v version) string { return v.AppliedAt }, whole: true},
					{title: "BY", cell: func(v version) string { return v.Actor }},
					{title: "NAME", cell: func(v version) string { return v.Name }},
					{title: "HASH", cell: func(v version) string { return v.Hash[:12] }, whole: true},
					{title: "CHANGES", cell: func(v version) string { return strings.Join(v.Changes, "; ") }},
				})
				for _, v := range history {
					if err := l.add(v); err != nil {
						return err
					}
				}
				return l.close()
			})
		},
	}
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func newPolicySimulate(a *app) *cobra.Command {
	var asOf time.Time
	cmd := &cobra.Command{
		Use:   "simulate FILE [--as-of TIME]",
		Short: "Show what would move when under a policy, and change nothing",
		Long: `Compare, by rule and month, when the records that are there move as things are
with when they would under a policy: into the archive, and out of it. Nothing is
changed. Archived copies that would go earlier do not: they are locked for as
long as they were to stay. A rule that goes by labels cannot be told from a
record's row: those records count as undecided, and the sweep that follows an
apply opens them.`,
		Example: "  lotkeeper policy simulate policy.yaml\n  lotkeeper policy simulate policy.yaml --as-of 2028-01-01 -o json",
		Args:    arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			if asOf.IsZero() {
				asOf = a.now()
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				res, err := e.SimulatePolicy(cmd.Context(), p, asOf)
				if err != nil {
					return err
				}
				return result(a, res, func(s *screen) { simulationTable(s, res) })
			})
		},
	}
	cmd.Flags().Var(&instant{at: &asOf}, "as-of", "count what is overdue by then as moving at `TIME`; default: now")
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAuditor)
	return cmd
}

func simulationTable(s *screen, r lifecycle.Simulation) {
	s.fields("", "records", fmt.Sprint(r.Records), "shorter", fmt.Sprint(r.Shorter), "longer", fmt.Sprint(r.Longer), "undecided", fmt.Sprint(r.Undecided))
	s.printf("\n")
	table(s, r.Moves,
		column[lifecycle.Moves]{title: "RULE", cell: func(m lifecycle.Moves) string { return m.Rule }},
		column[lifecycle.Moves]{title: "ACTION", cell: func(m lifecycle.Moves) string { return m.Action }, whole: true},
		column[lifecycle.Moves]{title: "MONTH", cell: func(m lifecycle.Moves) string { return m.Month }, whole: true},
		column[lifecycle.Moves]{title: "NOW", cell: func(m lifecycle.Moves) string { return fmt.Sprint(m.Current) }, whole: true, right: true},
		column[lifecycle.Moves]{title: "THEN", cell: func(m lifecycle.Moves) string { return fmt.Sprint(m.Proposed) }, whole: true, right: true})
}
