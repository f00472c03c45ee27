package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newVault(a *app) *cobra.Command {
	return group("vault", "List, add, sync and retire vaults",
		`A segment counts as archived only when every active vault was read back. A vault
that is added later gets and verifies every segment first; one that is retired
gets nothing more, and is reported until its last lock has ended.`,
		newVaultList(a), newVaultAdd(a), newVaultSync(a), newVaultRetire(a))
}

func newVaultList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List every vault, what it has and what it lacks",
		Long: `List every vault that is configured or known, its state, what its lock is worth,
how many segments it has a verified copy of and how many it lacks, and until
when its copies are locked.

  joining    added later, and lacks something yet: lotkeeper vault sync NAME
  active     it counts: nothing is archived without it
  retiring   it gets nothing more; its locks run their time
  retired    its last lock has ended: it may go from the configuration
  unknown    configured, and never added: lotkeeper vault add NAME`,
		Example: "  lotkeeper vault list\n  lotkeeper vault list -o json | jq '.[] | select(.missing > 0)'",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				return a.printVaults(cmd.Context(), e)
			})
		},
	}
	exits(cmd, exitFailed, exitFindings)
	needs(cmd, roleAuditor)
	finds(cmd, "a vault cannot be asked, does not lock, or does not count yet")
	return cmd
}

func (a *app) printVaults(ctx context.Context, e *lifecycle.Engine) error {
	all, err := e.VaultViews(ctx)
	if err != nil {
		return err
	}
	l := newList(a, []column[lifecycle.VaultView]{
		{title: "VAULT", cell: func(v lifecycle.VaultView) string { return v.Name }, whole: true},
		{title: "STATE", cell: func(v lifecycle.VaultView) string { return string(v.State) }, whole: true},
		{title: "LOCK", cell: func(v lifecycle.VaultView) string { return v.Lock }, whole: true},
		{title: "COPIES", cell: func(v lifecycle.VaultView) string { return fmt.Sprint(v.Copies) }, whole: true, right: true},
		{title: "MISSING", cell: func(v lifecycle.VaultView) string { return fmt.Sprint(v.Missing) }, whole: true, right: true},
		{title: "LOCKED UNTIL", cell: func(v lifecycle.VaultView) string { return v.LockedUntil }, whole: true},
	})
	var finding *findings
	for _, v := range all {
		if err := l.add(v); err != nil {
			return err
		}
		switch {
		case v.Problem != "":
			finding = &findings{fmt.Sprintf("vault %s: %s", v.Name, v.Problem), "type: lotkeeper doctor"}
		case v.State == lifecycle.Joining:
			finding = &findings{fmt.Sprintf("vault %s does not count yet: it lacks %s", v.Name, plural(v.Missing, "segment")), "type: lotkeeper vault sync " + v.Name}
		case v.State == "unknown":
			finding = &findings{fmt.Sprintf("vault %s is configured and was never added", v.Name), "type: lotkeeper vault add " + v.Name}
		}
	}
	if err := l.close(); err != nil || finding == nil {
		return err
	}
	return finding
}

func newVaultAdd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a vault that the configuration names",
		Long: `Add a vault that the configuration names. It counts at once if nothing is
archived yet; else it is joining, and sweeps go on without it until "vault sync"
has brought it every segment and read each back.`,
		Example: "  lotkeeper vault add onprem\n  lotkeeper vault sync onprem",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.knownVault(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch known {
			case "":
				err = a.makeVault(cmd.Context(), args[0])
			case lifecycle.Retiring:
				err = &lifecycle.Refused{Check: "vault", Reason: fmt.Sprintf("vault %s is retiring", args[0]), Hint: "a vault does not come back; give it another name in the configuration"}
			default:
				a.note("vault %s was added before; nothing is made or put there", args[0])
			}
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				if err := e.AddVault(cmd.Context(), args[0]); err != nil {
					return err
				}
				return a.printVault(cmd.Context(), e, args[0])
			})
		},
	}
	exits(cmd, exitFailed, exitFindings, exitRefused)
	needs(cmd, roleAdmin)
	finds(cmd, "it is added, and does not count before vault sync")
	return cmd
}

// knownVault is the state of a vault that was added before, "" if it was not. What
// was is never made anew: an empty place must not pass for the one that copies are
// recorded in.
func (a *app) knownVault(ctx context.Context, name string) (state lifecycle.VaultState, err error) {
	err = a.with(ctx, func(e *lifecycle.Engine) error {
		rows, err := e.Store.Vaults(ctx)
		for _, r := range rows {
			if r.Name == name {
				state = r.State
			}
		}
		return err
	})
	return state, err
}

// makeVault makes the directory of a vault that is one, and tries out a bucket, as
// init does.
func (a *app) makeVault(ctx context.Context, name string) error {
	o, err := newOpener(a)
	if err != nil {
		return err
	}
	var names []string
	for _, c := range a.cfg.Vaults {
		if names = append(names, c.Name); c.Name != name {
			continue
		}
		v, err := o.openVault(ctx, c, true)
		if err != nil {
			return err
		}
		return o.checkVault(ctx, v)
	}
	return usagef("the configuration names no vault %q; there is %s", name, strings.Join(names, ", "))
}

// printVault prints one vault as it is now.
func (a *app) printVault(ctx context.Context, e *lifecycle.Engine, name string) error {
	all, err := e.VaultViews(ctx)
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.Name != name {
			continue
		}
		if err := result(a, v, func(s *screen) {
			s.fields("", notEmpty([]string{"vault", v.Name, "state", string(v.State), "since", v.Since, "lock", v.Lock, "problem", v.Problem,
				"copies", fmt.Sprintf("%d, missing: %d", v.Copies, v.Missing), "locked until", v.LockedUntil})...)
		}); err != nil {
			return err
		}
		if v.State == lifecycle.Joining {
			return &findings{fmt.Sprintf("vault %s does not count yet: it lacks %s", name, plural(v.Missing, "segment")), "type: lotkeeper vault sync " + name}
		}
	}
	return nil
}

func newVaultSync(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sync NAME",
		Short: "Bring a joining vault every segment, and let it count",
		Long: `Bring a vault every segment that it lacks, from any vault that has it, read each
back and compare it record by record, and then let the vault count. A segment
that no vault gives back is named in the log and keeps the vault joining. An
interrupted sync goes on where it was when it is typed again.`,
		Example: "  lotkeeper vault sync onprem",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				res, err := e.SyncVault(cmd.Context(), args[0])
				if errors.Is(err, lifecycle.ErrNotFound) {
					return &hinted{err, "type: lotkeeper vault add " + args[0]}
				}
				if res.RunID == "" {
					return err
				}
				if err == nil && res.Copied == 0 {
					a.note("it lacked nothing that is recorded; to read back what it has, type: lotkeeper verify")
				}
				return errors.Join(err, result(a, res, func(s *screen) {
					s.fields("", "vault", res.Vault, "state", string(res.State), "copied", fmt.Sprintf("%s, %s", plural(res.Copied, "segment"), plural(res.Records, "record")),
						"failed", fmt.Sprint(res.Failed), "run", res.RunID, "duration", fmt.Sprintf("%.1f s", res.DurationSeconds))
				}))
			})
		},
	}
	exits(cmd, exitFailed, exitLocked, exitRefused)
	needs(cmd, roleSweeper)
	return cmd
}

func newVaultRetire(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retire NAME",
		Short: "Put nothing more into a vault, and report it until its locks end",
		Long: `Put nothing more into a vault. Its copies stay, and are verified and exported
from as before, until the last of their locks has ended: leave it in the
configuration until "vault list" calls it retired. It cannot come back under the
same name, and the last vault that counts cannot be retired.`,
		Example: "  lotkeeper vault retire old",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				err := e.RetireVault(cmd.Context(), args[0])
				switch {
				case errors.Is(err, lifecycle.ErrLastVault):
					return &lifecycle.Refused{Check: "vault", Reason: err.Error(), Hint: "add another vault to the configuration, then type: lotkeeper vault add NAME"}
				case errors.Is(err, lifecycle.ErrNotFound):
					return &hinted{err, "type: lotkeeper vault list"}
				case errors.Is(err, lifecycle.ErrMoved):
					a.note("vault %s is retiring already", args[0])
				case err != nil:
					return err
				}
				return a.printVault(cmd.Context(), e, args[0])
			})
		},
	}
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAdmin)
	return cmd
}
