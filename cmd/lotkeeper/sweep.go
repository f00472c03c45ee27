package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// sweepFlags steer one sweep.
type sweepFlags struct {
	dryRun      bool
	asOf        time.Time
	maxDuration time.Duration
	acceptClock bool
}

func newSweep(a *app) *cobra.Command {
	var f sweepFlags
	cmd := &cobra.Command{
		Use:   "sweep [--dry-run [--as-of TIME]] [--max-duration D] [--accept-clock]",
		Short: "Archive what is due, shred its hot copies, purge what is over",
		Long: `Move every record that is past the cutoff and not held into the archive: seal it
into segments, put them into every vault, read them back and compare, and only
then drop the hot copies' keys. Then destroy the class keys that nothing depends
on any more. Held records stay; legal holds in the vaults are brought in line
with the holds.

If a policy was applied since the last sweep, or a trigger set, the records that
are there are brought in line with it first. What is archived is kept for longer
if they say so, and never for less: it is locked.

Last come the archived copies whose month is over: what is held is archived
anew, the keys of the rest are destroyed, so that nobody can read it, and its
objects are deleted once their locks have ended.

What the rules of the policy want done first is done before any of their keys is
destroyed; where it fails, those classes stay (docs/policy.md).

On PostgreSQL --dry-run needs only the role lotkeeper_auditor; --accept-clock
needs lotkeeper_admin too.

A sweep that was interrupted is finished by the next one.`,
		Example: `  lotkeeper sweep --dry-run                        what would happen now
  lotkeeper sweep --dry-run --as-of 2027-01-01     what would happen then
  lotkeeper sweep
  lotkeeper sweep --max-duration 30m -o json`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			switch {
			case given("as-of") && !f.dryRun:
				return &usageError{"--as-of is for dry runs only: there is no way to tell a sweep what time it is", "type: lotkeeper sweep --dry-run --as-of TIME"}
			case given("max-duration") && f.maxDuration <= 0:
				return usagef("--max-duration must be longer than nothing, such as 30m")
			case f.dryRun && (given("max-duration") || f.acceptClock):
				return usagef("--max-duration and --accept-clock are not for dry runs, which change nothing")
			}
			if f.dryRun {
				needs(cmd, roleAuditor)
			}
			if f.acceptClock {
				needs(cmd, roleSweeper, roleAdmin)
			}
			return a.sweep(cmd.Context(), f)
		},
	}
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan and change nothing")
	cmd.Flags().Var(&instant{at: &f.asOf}, "as-of", "plan as if it were `TIME` (with --dry-run only)")
	cmd.Flags().DurationVar(&f.maxDuration, "max-duration", 0, "begin no further segment after `D`, such as 30m; the next sweep goes on")
	cmd.Flags().BoolVar(&f.acceptClock, "accept-clock", false, "the machine's clock is right, although nothing was recorded for long")
	exits(cmd, exitFailed, exitFindings, exitLocked, exitRefused)
	needs(cmd, roleSweeper)
	finds(cmd, "done; a hold is PARTIAL, a rule's step failed, or a lock is too short yet")
	return cmd
}

func (a *app) sweep(ctx context.Context, f sweepFlags) error {
	return a.with(ctx, func(e *lifecycle.Engine) error {
		if f.dryRun {
			now := f.asOf
			if now.IsZero() {
				now = a.now()
			}
			res, err := e.DryRun(ctx, now)
			if err != nil {
				return err
			}
			return result(a, res, func(s *screen) { planTable(s, res) })
		}
		if f.acceptClock {
			if err := e.AcceptClock(ctx); err != nil {
				return err
			}
			a.log.Info().Time("now", a.now().UTC()).Msg("clock accepted")
		}
		res, err := e.Sweep(ctx, lifecycle.SweepOptions{MaxDuration: f.maxDuration})
		if res.Policies != nil {
			// It began; also of a sweep that failed half way, what it did, it did.
			err = errors.Join(err, result(a, res, func(s *screen) { sweepTable(s, res) }))
		}
		if failed := failedSteps(res); err == nil && len(failed) > 0 {
			err = &findings{
				"a step before destruction failed, so nothing of its rule was destroyed: " + strings.Join(failed, "; "),
				"its output is in the log above; mend what it complains of: the next sweep runs it again",
			}
		}
		if err == nil && res.SegmentsWaiting > 0 {
			err = &findings{
				plural(res.SegmentsWaiting, "segment") + " could not be locked for as long as the policy says, or not be read to tell: see the log above",
				"nothing in the archive is purged meanwhile; the next sweep tries again; to see which vault, type: lotkeeper vault list",
			}
		}
		if err == nil && res.LegalHoldsMissing > 0 {
			err = &findings{
				fmt.Sprintf("holds are PARTIAL: %s in vaults not confirmed", plural(res.LegalHoldsMissing, "legal hold")),
				"nothing can be lost meanwhile: the keys that the holds need are pinned; the next sweep tries again; to see which holds and vaults, type: lotkeeper hold list",
			}
		}
		return err
	})
}

// failedSteps says which steps failed.
func failedSteps(r lifecycle.SweepResult) (out []string) {
	for _, s := range r.Steps {
		if s.Failed() {
			why := s.Error
			if why == "" {
				why = fmt.Sprintf("exit code %d", s.ExitCode)
			}
			out = append(out, fmt.Sprintf("rule %s, step %d, %s: %s (%s)", s.Rule, s.Step, s.Program, why, plural(len(s.Classes), "class key")))
		}
	}
	return out
}

// maxKeptRows is how many of the records that stay a table lists.
const maxKeptRows = 20

func planTable(s *screen, r lifecycle.SweepResult) {
	if r.Due == 0 {
		nothing(s, r)
		if r.ShreddedClasses > 0 {
			s.printf("%s would be looked at and, if nothing depends on it, shredded\n", plural(r.ShreddedClasses, "class key"))
		}
		s.fields("", purging(r)...)
		return
	}
	s.fields("", append([]string{
		"cutoff", r.Cutoff,
		"due", fmt.Sprint(r.Due),
		"to archive", fmt.Sprintf("%d, in %s", r.Archived, plural(r.Segments, "segment")),
		"held", fmt.Sprintf("%s, of which %d to reseal", staying(r), r.Resealed),
		"classes over", fmt.Sprintf("%d, to shred if nothing depends on them", r.ShreddedClasses)}, purging(r)...)...)
	if len(r.Kept) > 0 {
		s.printf("\nDue, and staying:\n")
		table(s, r.Kept[:min(len(r.Kept), maxKeptRows)],
			column[lifecycle.Decision]{title: "RECORD", cell: func(d lifecycle.Decision) string { return d.RecordID }},
			column[lifecycle.Decision]{title: "WHY", cell: func(d lifecycle.Decision) string { return d.Reason }})
		if more := r.Held + r.LotActive - min(len(r.Kept), maxKeptRows); more > 0 {
			s.printf("and %d more: -o json lists up to a thousand\n", more)
		}
	}
	s.printf("\nThis was a dry run: nothing was changed.\n")
}

func nothing(s *screen, r lifecycle.SweepResult) {
	if r.Due > 0 {
		why := "held"
		if r.LotActive > 0 {
			why = "held: " + staying(r)
		}
		s.printf("nothing to do: %s due, and %s\n", map[bool]string{true: "1 record is", false: fmt.Sprintf("%d records are", r.Due)}[r.Due == 1], why)
		return
	}
	s.printf("nothing is due: no record in the hot store has an event at or before\n%s\n", r.Cutoff)
}

func sweepTable(s *screen, r lifecycle.SweepResult) {
	if r.Due == r.Held+r.LotActive && r.Recovered == 0 && r.ShreddedClasses == 0 && r.Resealed == 0 && r.Rescheduled == 0 && r.PurgedClasses+r.Purged+r.Rearchived+len(r.Steps) == 0 {
		// There was nothing to do, and it says so.
		nothing(s, r)
		s.fields("", append([]string{"run", r.RunID}, append(purging(r), legalHolds(r)...)...)...)
		return
	}
	pairs := []string{
		"run", r.RunID,
		"cutoff", r.Cutoff,
		"due", fmt.Sprint(r.Due),
		"archived", fmt.Sprintf("%d, in %s", r.Archived, plural(r.Segments, "segment")),
		"held", staying(r),
		"resealed", fmt.Sprint(r.Resealed),
		"failed", fmt.Sprint(r.Failed),
		"shredded", plural(r.ShreddedClasses, "class key"),
		"duration", fmt.Sprintf("%.1f s", r.DurationSeconds),
	}
	if r.Recovered > 0 {
		pairs = append(pairs, "recovered", plural(r.Recovered, "record")+" that an interrupted run had left half way")
	}
	if r.StoppedEarly {
		pairs = append(pairs, "stopped", "early, as --max-duration asked; the next sweep goes on")
	}
	if n := len(r.Steps); n > 0 {
		pairs = append(pairs, "steps", fmt.Sprintf("%d run before destruction, %d failed", n, len(failedSteps(r))))
	}
	s.fields("", append(append(pairs, purging(r)...), legalHolds(r)...)...)
}

// purging are the lines about schedules and about the end of archived copies, if there was
// something to do.
func purging(r lifecycle.SweepResult) (pairs []string) {
	for _, l := range []struct {
		name string
		n    int
		what string
	}{
		{"rescheduled", r.Rescheduled, "by the policy and the triggers of now"},
		{"segments moved", r.SegmentsMoved, "to be kept for longer"},
		{"segments waiting", r.SegmentsWaiting, "for a vault to lengthen their locks"},
		{"kept longer", r.KeptLonger, "would go earlier, and are locked"},
		{"undecided", r.Undecided, "stay as they are"},
		{"never due", r.NeverDue, "kept: no rule, or a trigger that is not set"},
		{"archived anew", r.Rearchived, "held, and their archive class is over"},
		{"purged", r.Purged, "can be read by nobody any more"},
		{"archive classes", r.PurgedClasses, "over"},
		{"objects deleted", r.ObjectsDeleted, "each with its manifest"},
		{"objects locked", r.ObjectsLocked, "still there, and unreadable"},
	} {
		if l.n > 0 {
			pairs = append(pairs, l.name, fmt.Sprintf("%d, %s", l.n, l.what))
		}
	}
	return pairs
}

// staying is how many due records stay, by holds and for their lots.
func staying(r lifecycle.SweepResult) string {
	if r.LotActive == 0 {
		return fmt.Sprint(r.Held)
	}
	return fmt.Sprintf("%d, and %d whose lots are active", r.Held, r.LotActive)
}

// legalHolds are the lines about legal holds, if there was something to do.
func legalHolds(r lifecycle.SweepResult) (pairs []string) {
	for _, l := range []struct {
		name string
		n    int
	}{{"legal holds set", r.LegalHoldsSet}, {"legal holds lifted", r.LegalHoldsLifted}, {"legal holds missing", r.LegalHoldsMissing}} {
		if l.n > 0 {
			pairs = append(pairs, l.name, fmt.Sprint(l.n))
		}
	}
	return pairs
}
