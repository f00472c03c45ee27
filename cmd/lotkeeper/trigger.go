package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newTrigger(a *app) *cobra.Command {
	return group("trigger", "Set the dates that retention rules begin with",
		`A rule with "clock: trigger:NAME" begins with a date that somebody sets: of a
lot, or of the whole organisation. Until it is set its records are kept.
docs/policy.md says more.`,
		newTriggerSet(a), newTriggerList(a), newTriggerUnset(a))
}

// triggerFlags say what a date is set for, and why.
type triggerFlags struct{ lot, source, reason string }

func (f *triggerFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.lot, "lot", "", "of this lot's records: its traceability lot `CODE`; default: of all")
	cmd.Flags().StringVar(&f.source, "source", "", "and only of those with this TLC `SOURCE`")
	cmd.Flags().StringVar(&f.reason, "reason", "", "`WHY`, for the audit trail")
}

// trigger is what was typed.
func (f *triggerFlags) trigger(name string) (lifecycle.Trigger, error) {
	switch {
	case f.source != "" && f.lot == "":
		return lifecycle.Trigger{}, usagef("--source needs --lot")
	case f.reason == "":
		return lifecycle.Trigger{}, usagef("--reason is missing")
	}
	return lifecycle.Trigger{Name: name, TLC: f.lot, TLCSource: f.source, Reason: f.reason}, nil
}

func newTriggerSet(a *app) *cobra.Command {
	var f triggerFlags
	cmd := &cobra.Command{
		Use:   "set NAME DATE [--lot CODE [--source SOURCE]] --reason WHY",
		Short: "Set the date that a trigger's clock begins with, or another one",
		Long: `Set the date, YYYY-MM-DD, that a trigger's clock begins with, at 00:00 UTC: for
a lot, or without --lot for the whole organisation. The narrowest counts.
Records that are there follow with the next sweep; what is archived is never
shortened. The same date again changes nothing.`,
		Example: `  lotkeeper trigger set fiscal_year_end 2026-12-31 --reason "books closed"
  lotkeeper trigger set date_of_final_audit_closure 2027-03-15 --lot LOT-1 \
      --reason "audit 7"`,
		Args: arguments("NAME", "DATE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.trigger(args[0])
			if err != nil {
				return err
			}
			if day, err := time.Parse(time.DateOnly, args[1]); err != nil || day.Year() < 1 {
				return usagef("%q is not a date, such as 2026-12-31", args[1])
			}
			t.Date = args[1]
			return a.moveTrigger(cmd.Context(), t, (*lifecycle.Engine).SetTrigger)
		},
	}
	f.register(cmd)
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAdmin)
	return cmd
}

func newTriggerUnset(a *app) *cobra.Command {
	var f triggerFlags
	cmd := &cobra.Command{
		Use:   "unset NAME [--lot CODE [--source SOURCE]] --reason WHY",
		Short: "Take a trigger's date back",
		Long: `Take a trigger's date back: what goes by it is kept, from the next sweep on,
unless a wider one is set.`,
		Example: `  lotkeeper trigger unset date_of_final_audit_closure --lot LOT-1 \
      --reason "audit 7 reopened"`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.trigger(args[0])
			if err != nil {
				return err
			}
			return a.moveTrigger(cmd.Context(), t, (*lifecycle.Engine).UnsetTrigger)
		},
	}
	f.register(cmd)
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAdmin)
	return cmd
}

func (a *app) moveTrigger(ctx context.Context, t lifecycle.Trigger, move func(*lifecycle.Engine, context.Context, lifecycle.Trigger) (lifecycle.Trigger, error)) error {
	return a.with(ctx, func(e *lifecycle.Engine) error {
		res, err := move(e, ctx, t)
		switch {
		case errors.Is(err, lifecycle.ErrTrigger):
			return &usageError{err.Error(), "name it in the policy's taxonomy: triggers, and apply that; to see the policy, type: lotkeeper policy show"}
		case errors.Is(err, lifecycle.ErrNotFound):
			return &hinted{err, "to see what is set, type: lotkeeper trigger list"}
		case err != nil:
			return err
		}
		err = result(a, res, func(s *screen) {
			s.fields("", "trigger", res.Name, "lot", res.TLC, "source", res.TLCSource, "date", res.Date, "reason", res.Reason, "set by", res.SetBy, "set at", res.SetAt)
		})
		a.note("the records that are there follow with the next sweep: lotkeeper sweep --dry-run")
		return err
	})
}

func newTriggerList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the triggers that are set",
		Long:    "List the triggers that are set, for what, by whom and why. They are read from\nthe audit log, which nobody can rewrite unseen; those that were set before are\nthere: lotkeeper audit log --action trigger-set.",
		Example: "  lotkeeper trigger list",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				all, err := e.Triggers(cmd.Context())
				if err != nil {
					return err
				}
				type trigger = lifecycle.Trigger
				l := newList(a, []column[trigger]{
					{title: "TRIGGER", cell: func(t trigger) string { return t.Name }},
					{title: "LOT", cell: func(t trigger) string { return t.TLC }},
					{title: "SOURCE", cell: func(t trigger) string { return t.TLCSource }},
					{title: "DATE", cell: func(t trigger) string { return t.Date }, whole: true},
					{title: "SET BY", cell: func(t trigger) string { return t.SetBy }},
					{title: "REASON", cell: func(t trigger) string { return t.Reason }},
				})
				for _, t := range all {
					if err := l.add(t); err != nil {
						return fmt.Errorf("couldn't print trigger %s: %w", t.Name, err)
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
