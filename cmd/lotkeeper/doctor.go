package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newDoctor(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what ingest and sweep stand on, and say what to change",
		Long: `Check the database, the policy, the keyring and its copies, the clock, and every
vault: that the bucket is there, versioned and locks; that an object can be
written under a lock and not deleted before it ends; that these credentials
cannot bypass a governance lock; that the clocks agree. It writes objects of its
own that are locked for seconds, waits, and leaves nothing behind.`,
		Example: `  lotkeeper --config /etc/lotkeeper.yaml doctor
  lotkeeper doctor -o json | jq '.[] | select(.ok | not)'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks, err := a.examine(cmd.Context())
			if err != nil {
				return err
			}
			failed := 0
			l := newList(a, []column[lifecycle.Check]{
				{title: "", cell: func(c lifecycle.Check) string { return map[bool]string{true: "ok", false: "FAILED"}[c.OK] }, whole: true},
				{title: "SUBJECT", cell: func(c lifecycle.Check) string { return c.Subject }, whole: true},
				{title: "CHECK", cell: func(c lifecycle.Check) string { return c.Check }, whole: true},
				{title: "FOUND", cell: func(c lifecycle.Check) string { return c.Found }},
			})
			for _, c := range checks {
				if !c.OK {
					failed++
				}
				if err := l.add(c); err != nil {
					return err
				}
			}
			if err := l.close(); err != nil || failed == 0 {
				return err
			}
			if a.Output == "table" {
				s := &screen{a: a}
				for _, c := range checks {
					if !c.OK {
						s.printf("\n%s: %s\n", c.Subject, c.Check)
						s.fields("  ", notEmpty([]string{"found", c.Found, "change", a.typed(c.Hint)})...)
					}
				}
				if s.err != nil {
					return s.err
				}
			}
			return &findings{fmt.Sprintf("%s of %d failed", plural(failed, "check"), len(checks)), "mend what is listed, then type: lotkeeper doctor"}
		},
	}
	exits(cmd, exitFailed, exitFindings, exitRefused)
	needs(cmd, roleAuditor)
	finds(cmd, "a check failed")
	return cmd
}

// examine checks everything; of what cannot be opened, why, and the vaults all the
// same.
func (a *app) examine(ctx context.Context) (checks []lifecycle.Check, err error) {
	e, close, err := a.engine(ctx)
	if err == nil {
		return e.Examine(ctx), close()
	}
	c := lifecycle.Check{Subject: "installation", Check: "opens", Found: oneLine(err.Error()), Hint: a.hint(err)}
	if c.Hint == "" {
		c.Hint = "see what the message says, mend it and try again"
	}
	checks = append(checks, c)
	o, err := newOpener(a)
	if err != nil {
		return nil, err
	}
	e = a.engineOn(&data{})
	for _, v := range o.openVaults(ctx) {
		checks = append(checks, e.ExamineVault(ctx, v)...)
	}
	return checks, nil
}

func newConfig(a *app) *cobra.Command {
	return group("config", "Show the configuration", `Show the configuration.`, newConfigShow(a))
}

func newConfigShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print every setting, and where it comes from",
		Long: `Print every setting with its source: a flag, a variable of the environment, the
file with its line, or the default. Secrets are not part of the configuration:
of them only where they are found is said.`,
		Example: "  lotkeeper --config /etc/lotkeeper.yaml config show",
		Args:    arguments(),
		RunE: func(*cobra.Command, []string) error {
			all, err := a.cfg.settings()
			if err != nil {
				return err
			}
			l := newList(a, []column[setting]{
				{title: "KEY", cell: func(s setting) string { return s.Key }, whole: true},
				{title: "VALUE", cell: func(s setting) string { return s.Value }},
				{title: "SOURCE", cell: func(s setting) string { return s.Source }},
			})
			for _, s := range all {
				if err := l.add(s); err != nil {
					return err
				}
			}
			return l.close()
		},
	}
	exits(cmd, exitFailed)
	return cmd
}
