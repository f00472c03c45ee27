package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// auditLogFlags select entries of the audit trail. An entry must match all that are given.
type auditLogFlags struct {
	Record    string `flag:"--record" validate:"excluded_with=Lot"`
	Lot       string `flag:"--lot"`
	TLCSource string
	Hold      string
	Run       string
	By        string
	Actions   []string `flag:"--action"`
	From, To  time.Time
	Limit     int `flag:"--limit" validate:"min=0"`
	Follow    bool
}

func newAuditLog(a *app) *cobra.Command {
	var f auditLogFlags
	cmd := &cobra.Command{
		Use:   "log [--record ID | --lot CODE] [--hold HOLD] [--run RUN] [--by NAME] [--action ACTION]... [--from TIME] [--to TIME] [--limit N] [--follow]",
		Short: "List the entries of the audit trail",
		Long: `List the entries of the audit trail, the newest last. An entry must match all
that is asked for.

With --record, list what tells of one record: its own steps, those of its
segment, the end of its class keys, the holds that cover or covered it, and the
exports that asked for it. With --lot, list the same of the lot's records, and
the holds that name the lot.`,
		Example: `  lotkeeper audit log --limit 10
  lotkeeper audit log --record cte-8842-a -o json | jq '.[].action'
  lotkeeper audit log --action exported --action unmasked --from 2026-11-01
  lotkeeper audit log --by recall-desk -f`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(a.Output); err != nil {
				return err
			}
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error { return a.auditLog(ctx, e, f) })
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&f.Record, "record", "", "what tells of the record with this `ID`")
	cmd.Flags().StringVar(&f.Lot, "lot", "", "what tells of the lot with this traceability lot `CODE`, exactly")
	cmd.Flags().StringVar(&f.TLCSource, "tlc-source", "", "with --lot: of this traceability lot code `SOURCE`, exactly")
	cmd.Flags().StringVar(&f.Hold, "hold", "", "about this `HOLD`")
	cmd.Flags().StringVar(&f.Run, "run", "", "of this `RUN`")
	cmd.Flags().StringVar(&f.By, "by", "", "by the actor of this `NAME`, exactly")
	cmd.Flags().StringArrayVar(&f.Actions, "action", nil, "of this `ACTION`, such as exported (repeatable)")
	cmd.Flags().Var(&instant{at: &f.From}, "from", "at or after `TIME` (RFC 3339, or a UTC date)")
	cmd.Flags().Var(&instant{at: &f.To, end: true}, "to", "before `TIME`; a date includes its whole UTC day")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "the newest `N` entries (default: 50 in a table, else all)")
	cmd.Flags().BoolVarP(&f.Follow, "follow", "f", false, "go on with what comes, until interrupted")
	oneOf(cmd, "action", lifecycle.Actions...)
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func (f *auditLogFlags) check(output string) error {
	if err := check(f); err != nil {
		return err
	}
	switch {
	case f.TLCSource != "" && f.Lot == "":
		return usagef("--tlc-source needs --lot")
	case !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To):
		return usagef("--from %s is not before --to %s", cte.FormatTime(f.From), cte.FormatTime(f.To))
	case f.Follow && output == "json":
		return &usageError{"-o json is one array, which --follow never ends", "for a value a line, type: -o jsonl"}
	}
	for _, action := range f.Actions {
		if !slices.Contains(lifecycle.Actions, action) {
			return usagef("--action: there is no action %q; there is %s", action, strings.Join(lifecycle.Actions, ", "))
		}
	}
	return nil
}

// leafResult is one entry of the audit trail.
type leafResult struct {
	LeafID int64 `json:"leaf_id"`
	// Index is the entry's place in the log; null while it has none.
	Index    *int64          `json:"index"`
	At       string          `json:"at"`
	Actor    string          `json:"actor"`
	Role     string          `json:"role"`
	Software string          `json:"software"`
	Action   string          `json:"action"`
	RunID    string          `json:"run_id"`
	Subject  string          `json:"subject"`
	Body     json.RawMessage `json:"body"`
}

func leafOf(l lifecycle.Leaf) leafResult {
	r := leafResult{LeafID: l.ID, At: cte.FormatTime(l.At), Actor: l.Actor, Role: l.Role, Software: l.Software, Action: l.Action, RunID: l.RunID, Subject: l.Subject, Body: l.Body}
	if l.Index >= 0 {
		r.Index = &l.Index
	}
	return r
}

// pollEvery is how often --follow looks for what is new.
const pollEvery = time.Second

// lateLeaves is how far back --follow looks for entries that it has not shown: one may
// be committed after another that has a greater number.
const lateLeaves = 10_000

func (a *app) auditLog(ctx context.Context, e *lifecycle.Engine, f auditLogFlags) error {
	q := lifecycle.LeafQuery{RunID: f.Run, Subject: f.Hold, Actor: f.By, From: f.From, To: f.To}
	if len(f.Actions) > 0 {
		q.Actions = f.Actions
	}
	if err := a.knownToTrail(ctx, e, f); err != nil {
		return err
	}
	limit := f.Limit
	if limit == 0 && a.Output == "table" {
		limit = tableLimit
	}
	l := newList(a, []column[leafResult]{
		{title: "LEAF", cell: func(r leafResult) string { return fmt.Sprint(r.LeafID) }, whole: true, right: true},
		{title: "AT", cell: func(r leafResult) string { return seconds(r.At) }, whole: true},
		{title: "BY", cell: func(r leafResult) string { return r.Actor }, least: 6},
		{title: "ACTION", cell: func(r leafResult) string { return r.Action }, whole: true, least: 15},
		{title: "SUBJECT", cell: func(r leafResult) string { return r.Subject }, least: 26},
	})
	var newest []lifecycle.Leaf // of those that are there, as many as the limit allows
	seen, last, more, cut := map[int64]bool{}, int64(0), false, false
	for leaf, err := range a.trail(ctx, e, f, q, &cut) {
		if err != nil {
			return err
		}
		seen[leaf.ID], last = true, leaf.ID
		if limit == 0 {
			if err := l.add(leafOf(leaf)); err != nil {
				return err
			}
		} else if newest = append(newest, leaf); len(newest) > limit {
			newest, more = newest[1:], true
		}
	}
	for _, leaf := range newest {
		if err := l.add(leafOf(leaf)); err != nil {
			return err
		}
	}
	for f.Follow {
		if err := l.flush(); err != nil {
			return err
		}
		if !a.wait(ctx, pollEvery) {
			return l.close()
		}
		q.After = max(0, last-lateLeaves)
		maps.DeleteFunc(seen, func(id int64, _ bool) bool { return id <= q.After })
		for leaf, err := range a.trail(ctx, e, f, q, &cut) {
			if ctx.Err() != nil {
				return l.close()
			}
			if err != nil {
				return err
			}
			if seen[leaf.ID] {
				continue
			}
			seen[leaf.ID], last = true, max(last, leaf.ID)
			if err := l.add(leafOf(leaf)); err != nil {
				return err
			}
		}
	}
	if err := l.close(); err != nil {
		return err
	}
	if cut {
		a.note("the lot has more records than were looked at: to see those of one, type: lotkeeper audit log --record ID")
	}
	switch {
	case more && f.Limit == 0:
		a.note("these are the newest %d, there are more: --limit N shows more, -o csv and -o json all", limit)
	case l.n == 0:
		a.note("no entry matches")
	}
	return nil
}

// knownToTrail refuses ids of what was never there, of which the trail has nothing.
func (a *app) knownToTrail(ctx context.Context, e *lifecycle.Engine, f auditLogFlags) error {
	if f.Record != "" {
		if _, err := e.Store.Row(ctx, f.Record); err != nil {
			return a.unknownRecord(ctx, e, f.Record, err)
		}
	}
	if f.Hold != "" {
		if _, err := e.Store.Hold(ctx, f.Hold); err != nil {
			return holdError(f.Hold, err)
		}
	}
	if f.Run != "" {
		if _, err := e.Store.Run(ctx, f.Run); err != nil {
			return runError(err)
		}
	}
	return nil
}

// trail yields what the flags select. cut: of a lot not all records were looked at.
func (a *app) trail(ctx context.Context, e *lifecycle.Engine, f auditLogFlags, q lifecycle.LeafQuery, cut *bool) iter.Seq2[lifecycle.Leaf, error] {
	if f.Record == "" && f.Lot == "" {
		return e.Trail(ctx, q)
	}
	return func(yield func(lifecycle.Leaf, error) bool) {
		var leaves []lifecycle.Leaf
		var err error
		if f.Record != "" {
			leaves, err = e.RecordTrail(ctx, f.Record, q)
		} else {
			leaves, *cut, err = e.LotTrail(ctx, cte.Lot{TLC: f.Lot, Source: f.TLCSource}, q)
		}
		if err != nil {
			yield(lifecycle.Leaf{}, err)
			return
		}
		for _, l := range leaves {
			if !yield(l, nil) {
				return
			}
		}
	}
}
