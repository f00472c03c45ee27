package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/report"
)

func newReconcile(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare what there should be with what there is",
		Long: `Compare what there should be with what there is, in both directions: records
past due and not archived, and why; copies that are missing, and objects that
nothing names; keys without records, and records without keys; classes that
should be dead; legal holds without a hold, and holds without them; locks that
are too short; and the counts with what the runs said they did. It opens no
record (verify does) and changes nothing.

With -o html it is one page, to be printed and signed at a review.`,
		Example: `  lotkeeper reconcile
  lotkeeper reconcile -o html > reconciliation.html
  lotkeeper reconcile -o json | jq '.findings[]'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				res, err := e.Reconcile(cmd.Context())
				if err != nil {
					return err
				}
				if err := a.reconciliation(&res); err != nil {
					return err
				}
				if n := res.Found(); n > 0 {
					return &findings{plural(n, "finding") + ": there is not what there should be", "docs/reconcile.md says of each kind what to do"}
				}
				return nil
			})
		},
	}
	prints(cmd, "table", "json", "csv", "jsonl", "html")
	exits(cmd, exitFailed, exitFindings)
	needs(cmd, roleAuditor)
	finds(cmd, "there is not what there should be")
	return cmd
}

func (a *app) reconciliation(r *lifecycle.Reconciliation) error {
	switch a.Output {
	case "html":
		return report.Reconciliation(a.out, r)
	case "csv":
		return a.reconciliationLines(r)
	}
	return result(a, r, func(s *screen) { reconciliationScreen(s, r) })
}

// reconciliationLine is one line of CSV: a count or a finding.
type reconciliationLine struct {
	Line string `json:"line"`
	lifecycle.Drift
}

// reconciliationLines prints the counts, and then the findings.
func (a *app) reconciliationLines(r *lifecycle.Reconciliation) error {
	l := newList(a, []column[reconciliationLine]{})
	for _, c := range r.Counts {
		d := lifecycle.Drift{Kind: c.Of, Subject: c.Name, Actual: strconv.FormatInt(c.Count, 10)}
		if c.Expected != nil {
			d.Expected = strconv.FormatInt(*c.Expected, 10)
		}
		if err := l.add(reconciliationLine{"count", d}); err != nil {
			return err
		}
	}
	for _, v := range r.Vaults {
		for _, c := range []struct {
			name string
			n    int64
		}{{"versions", v.Objects}, {"of segments", v.Known}, {"of the log", v.Log}, {"unknown", v.Unknown}, {"missing", v.Missing}} {
			if err := l.add(reconciliationLine{"count", lifecycle.Drift{Kind: "objects", Subject: c.name, Vault: v.Vault, Actual: strconv.FormatInt(c.n, 10)}}); err != nil {
				return err
			}
		}
	}
	for _, d := range r.Findings {
		if err := l.add(reconciliationLine{"finding", d}); err != nil {
			return err
		}
	}
	return l.close()
}

func reconciliationScreen(s *screen, r *lifecycle.Reconciliation) {
	s.fields("", "at", r.At, "policy", r.Policy+" "+r.PolicyHash, "log", fmt.Sprintf("%d entries, of which a vault has %d under lock", r.Log.Size, r.Log.CheckpointSize))
	s.printf("\n")
	of := ""
	table(s, r.Counts,
		column[lifecycle.ReconciledCount]{title: "OF", whole: true, cell: func(c lifecycle.ReconciledCount) string {
			if c.Of == of {
				return ""
			}
			of = c.Of
			return c.Of
		}},
		column[lifecycle.ReconciledCount]{title: "", cell: func(c lifecycle.ReconciledCount) string { return c.Name }},
		column[lifecycle.ReconciledCount]{title: "THERE ARE", whole: true, right: true, cell: func(c lifecycle.ReconciledCount) string { return strconv.FormatInt(c.Count, 10) }},
		column[lifecycle.ReconciledCount]{title: "EXPECTED", whole: true, right: true, cell: func(c lifecycle.ReconciledCount) string {
			if c.Expected == nil {
				return ""
			}
			return strconv.FormatInt(*c.Expected, 10)
		}})
	s.printf("\n")
	number := func(title string, n func(lifecycle.ReconciledVault) int64) column[lifecycle.ReconciledVault] {
		return column[lifecycle.ReconciledVault]{title: title, whole: true, right: true, cell: func(v lifecycle.ReconciledVault) string { return strconv.FormatInt(n(v), 10) }}
	}
	table(s, r.Vaults,
		column[lifecycle.ReconciledVault]{title: "VAULT", cell: func(v lifecycle.ReconciledVault) string { return v.Vault }},
		column[lifecycle.ReconciledVault]{title: "STATE", whole: true, cell: func(v lifecycle.ReconciledVault) string { return string(v.State) }},
		number("VERSIONS", func(v lifecycle.ReconciledVault) int64 { return v.Objects }),
		number("SEGMENTS", func(v lifecycle.ReconciledVault) int64 { return v.Known }),
		number("LOG", func(v lifecycle.ReconciledVault) int64 { return v.Log }),
		number("UNKNOWN", func(v lifecycle.ReconciledVault) int64 { return v.Unknown }),
		number("MISSING", func(v lifecycle.ReconciledVault) int64 { return v.Missing }))
	for _, d := range r.Findings[:min(len(r.Findings), maxFindings)] {
		s.printf("\n%s\n", d.Kind)
		pairs := []string{"subject", d.Subject, "vault", d.Vault, "expected", oneLine(d.Expected), "actual", oneLine(d.Actual), "since", d.Since, "detail", oneLine(d.Detail)}
		if d.Records > 0 {
			pairs = append(pairs, "records", strconv.FormatInt(d.Records, 10))
		}
		s.fields("  ", notEmpty(pairs)...)
	}
	if more := r.Found() - maxFindings; more > 0 {
		s.printf("\nand %d more: -o json lists the first thousand of each kind\n", more)
	}
	if r.Found() == 0 {
		s.printf("\nthere is what there should be, and nothing else\n")
	}
}
