package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newRun(a *app) *cobra.Command {
	return group("run", "Show what ran: ingests and sweeps", `Show the ingests and sweeps that ran here, how they ended and what they did.`,
		newRunList(a), newRunShow(a))
}

// runResult is a run in a list.
type runResult struct {
	RunID      string `json:"run_id"`
	Kind       string `json:"kind"`
	Actor      string `json:"actor"`
	StartedAt  string `json:"started_at"`
	FinishedAt string `json:"finished_at"`
	Status     string `json:"status"`
	// Result is what the run printed, null while it runs or if it never ended.
	Result json.RawMessage `json:"result"`
}

// runDetail is a run with its part of the audit trail.
type runDetail struct {
	runResult
	Leaves []leafResult `json:"leaves"`
}

func runOf(r lifecycle.Run) runResult {
	res := runResult{RunID: r.ID, Kind: r.Kind, Actor: r.Actor, StartedAt: cte.FormatTime(r.StartedAt), FinishedAt: timeOrEmpty(r.FinishedAt), Status: r.Status}
	if len(r.Result) > 0 {
		res.Result = r.Result
	}
	return res
}

func timeOrEmpty(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return cte.FormatTime(t)
}

// records is how many records a run took in, or archived.
func (r runResult) records() string {
	var res struct{ Accepted, Archived, Recovered int }
	if json.Unmarshal(r.Result, &res) != nil {
		return ""
	}
	return fmt.Sprint(res.Accepted + res.Archived + res.Recovered)
}

func newRunList(a *app) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list [--limit N]",
		Short:   "List runs, the newest first",
		Long:    "List runs, the newest first: how each ended, and how many records it took in or\narchived.",
		Example: "  lotkeeper run list\n  lotkeeper run list -o json | jq '.[0].result'",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usagef("--limit must be at least 0, not %d", limit)
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.runList(cmd.Context(), e, limit) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "at most `N` runs (default: 50 in a table, else all)")
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func (a *app) runList(ctx context.Context, e *lifecycle.Engine, limit int) error {
	ask := limit
	if limit == 0 && a.Output == "table" {
		limit, ask = tableLimit, tableLimit+1
	}
	runs, err := e.Store.Runs(ctx, ask)
	if err != nil {
		return err
	}
	l := newList(a, []column[runResult]{
		{title: "RUN", cell: func(r runResult) string { return r.RunID }, whole: true},
		{title: "KIND", cell: func(r runResult) string { return r.Kind }, whole: true},
		{title: "STATUS", cell: func(r runResult) string { return r.Status }, whole: true},
		{title: "STARTED", cell: func(r runResult) string { return seconds(r.StartedAt) }, whole: true},
		{title: "RECORDS", cell: func(r runResult) string { return r.records() }, right: true},
	})
	more := limit > 0 && len(runs) > limit
	if more {
		runs = runs[:limit]
	}
	for _, r := range runs {
		if err := l.add(runOf(r)); err != nil {
			return err
		}
	}
	if err := l.close(); err != nil {
		return err
	}
	switch {
	case more:
		a.note("these are the newest %d, there are more: --limit N shows more, -o csv and -o json all", limit)
	case l.n == 0:
		a.note("nothing has run yet")
	}
	return nil
}

func newRunShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show RUN",
		Short:   "Show one run: its result, and its part of the audit trail",
		Example: "  lotkeeper run show run-20261121-2njfeyypc6",
		Args:    arguments("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				r, err := e.Store.Run(ctx, args[0])
				if err != nil {
					return runError(err)
				}
				leaves, err := e.Store.Leaves(ctx, lifecycle.LeafQuery{RunID: r.ID})
				if err != nil {
					return err
				}
				d := runDetail{runResult: runOf(r), Leaves: []leafResult{}}
				for _, l := range leaves {
					d.Leaves = append(d.Leaves, leafOf(l))
				}
				return result(a, d, func(s *screen) { runScreen(s, d) })
			})
		},
	}
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

// runError adds to ErrNotFound how to see the runs that there are.
func runError(err error) error {
	if errors.Is(err, lifecycle.ErrNotFound) {
		return &hinted{err, "to see all runs, type: lotkeeper run list"}
	}
	return err
}

func runScreen(s *screen, d runDetail) {
	s.fields("", notEmpty([]string{"run", d.RunID, "kind", d.Kind, "by", d.Actor, "started", seconds(d.StartedAt), "finished", seconds(d.FinishedAt),
		"status", d.Status})...)
	if d.Result != nil {
		names, values, err := members(d.Result)
		if s.err = err; err != nil {
			return
		}
		s.printf("\nresult\n")
		var pairs []string
		for i := range names {
			pairs = append(pairs, names[i], values[i])
		}
		s.fields("  ", pairs...)
	}
	s.printf("\naudit trail\n")
	table(s, d.Leaves,
		column[leafResult]{title: "LEAF", cell: func(l leafResult) string { return fmt.Sprint(l.LeafID) }, whole: true, right: true},
		column[leafResult]{title: "AT", cell: func(l leafResult) string { return seconds(l.At) }, whole: true},
		column[leafResult]{title: "ACTION", cell: func(l leafResult) string { return l.Action }, whole: true},
		column[leafResult]{title: "SUBJECT", cell: func(l leafResult) string { return l.Subject }})
}
