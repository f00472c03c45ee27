package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newHold(a *app) *cobra.Command {
	return group("hold", "Stop shredding and purging of what a case needs",
		`Place, extend, release and show holds. A hold is a named case, such as a recall:
as long as it is open, nothing that it covers is shredded or purged.`,
		newHoldPlace(a), newHoldExtend(a), newHoldRelease(a), newHoldList(a), newHoldShow(a))
}

// holdKinds are those that a person may place.
func holdKinds() []string {
	kinds := make([]string, len(lifecycle.HoldKinds))
	for i, k := range lifecycle.HoldKinds {
		kinds[i] = string(k)
	}
	return kinds
}

// releaseFlags end a hold.
type releaseFlags struct {
	Reason string `flag:"--reason" validate:"required,max=2000"`
}

func newHoldRelease(a *app) *cobra.Command {
	var f releaseFlags
	cmd := &cobra.Command{
		Use:   "release HOLD --reason TEXT",
		Short: "End a hold, and say why",
		Long: `End a hold. A record stays held until the last hold that covers it is released;
then the next sweep treats it as any other. Legal holds in the vaults that no
other hold needs are lifted; what a vault refuses now, the next sweep lifts.`,
		Example: `  lotkeeper hold release hold-20261121-7h3kq0w2xz --reason "recall closed"`,
		Args:    arguments("HOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := check(&f); err != nil {
				return err
			}
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				if err := e.Release(ctx, args[0], f.Reason); err != nil {
					return holdError(args[0], err)
				}
				if err := a.holdShow(ctx, e, args[0]); err != nil {
					return err
				}
				if err := a.lift(ctx, e, args[0]); err != nil {
					return err
				}
				if _, err := e.Publish(ctx); err != nil {
					return &findings{fmt.Sprintf("hold %s is released, and the log that says so is in no vault yet: %v", args[0], err),
						"the next sweep publishes it; to try at once, type: lotkeeper audit checkpoint"}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&f.Reason, "reason", "", "why, as `TEXT` for whoever reads it later")
	exits(cmd, exitFailed, exitFindings)
	finds(cmd, "the hold is released, and no vault has the log that says so yet")
	needs(cmd, roleRecall)
	return cmd
}

// lift lifts the legal holds that a release has left without a hold. The hold is
// released by then, whatever becomes of them.
func (a *app) lift(ctx context.Context, e *lifecycle.Engine, id string) error {
	_, err := e.ProjectHolds(ctx)
	a.progress.clear()
	var left []lifecycle.HeldCopy
	if err == nil {
		left, err = e.Store.LegalHolds(ctx)
	}
	if err != nil {
		a.note("%s is released; its legal holds are not lifted yet, the next sweep lifts them: %v", id, err)
		return nil
	}
	n := map[string]int{}
	for _, c := range left {
		if c.State == lifecycle.Lifting {
			n[c.Vault]++
		}
	}
	for _, vault := range slices.Sorted(maps.Keys(n)) {
		a.note("vault %s has not lifted the legal holds of %s that no hold needs any more: the next sweep does", vault, plural(n[vault], "segment"))
	}
	return nil
}

func holdError(id string, err error) error {
	switch {
	case errors.Is(err, lifecycle.ErrNotFound):
		return &hinted{err, "to see all holds, type: lotkeeper hold list --all"}
	case errors.Is(err, lifecycle.ErrReleased):
		return &hinted{err, "to see when and why, type: lotkeeper hold show " + shellQuote(id)}
	}
	return err
}

// listFlags choose holds.
type listFlags struct {
	All     bool   `flag:"--all"`
	Overdue bool   `flag:"--overdue" validate:"excluded_with=All"`
	Kind    string `flag:"--kind" validate:"omitempty,oneof=recall fda-inquiry inspection-freeze litigation retention-hold"`
}

func newHoldList(a *app) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list [--all | --overdue] [--kind KIND]",
		Short: "List the open holds",
		Long: `List the open holds in the order they were placed, with what they cover now.
With --overdue list those whose review date has passed; if there is one, the
exit code is 3.`,
		Example: `  lotkeeper hold list
  lotkeeper hold list --overdue
  lotkeeper hold list --all --kind recall -o csv`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := check(&f); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.holdList(cmd.Context(), e, f) })
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&f.All, "all", false, "released ones too")
	cmd.Flags().BoolVar(&f.Overdue, "overdue", false, "only those whose review date has passed")
	cmd.Flags().StringVar(&f.Kind, "kind", "", "only those of this `KIND`: recall, fda-inquiry, inspection-freeze, litigation or retention-hold")
	oneOf(cmd, "kind", append(holdKinds(), string(lifecycle.RetentionHold))...)
	exits(cmd, exitFailed, exitFindings)
	needs(cmd, roleAuditor)
	finds(cmd, "with --overdue: there are holds whose review date has passed")
	return cmd
}

func (a *app) holdList(ctx context.Context, e *lifecycle.Engine, f listFlags) error {
	holds, err := e.Store.Holds(ctx, !f.All)
	if err != nil {
		return err
	}
	now := a.now()
	type hold = lifecycle.HoldDetail
	l := newList(a, []column[hold]{
		{title: "HOLD", cell: func(h hold) string { return h.HoldID }, whole: true},
		{title: "KIND", cell: func(h hold) string { return string(h.Kind) }},
		{title: "REFERENCE", cell: func(h hold) string { return h.Reference }},
		{title: "ON", cell: func(h hold) string { return scopesText(h.Scopes, 2) }},
		{title: "COVERS", cell: func(h hold) string { return fmt.Sprint(h.Covered) }, whole: true, right: true},
		{title: "STATUS", cell: func(h hold) string { return statusText(h.Status) + overdueText(h.Overdue) }, whole: true},
	})
	for _, h := range holds {
		if f.Kind != "" && string(h.Kind) != f.Kind || f.Overdue && !h.Overdue(now) {
			continue
		}
		d, err := e.Describe(ctx, h, listedLots)
		if err != nil {
			return err
		}
		if err := l.add(d); err != nil {
			return err
		}
	}
	if err := l.close(); err != nil {
		return err
	}
	what := map[bool]string{false: "open "}[f.All] + strings.TrimPrefix(f.Kind+" ", " ")
	switch {
	case f.Overdue && l.n > 0:
		return &findings{fmt.Sprintf("the review date of %s has passed", plural(l.n, what+"hold")),
			"see whether each is still needed; to end one, type: lotkeeper hold release HOLD --reason TEXT"}
	case f.Overdue:
		a.note("the review date of no %shold has passed", what)
	case l.n == 0:
		a.note("there is no %shold", what)
	}
	return nil
}

// listedLots is how many lots and locations of each hold a list has.
const listedLots = 10

func overdueText(overdue bool) string {
	if overdue {
		return ", OVERDUE"
	}
	return ""
}

func newHoldShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show HOLD",
		Short: "Show one hold: what it covers now, and how far each vault is",
		Long: `Show one hold: its case, what it covers now, counted by lot and by location,
what it came too late for, and how far each vault is with the legal holds. A
table lists the lots with the most records, the other formats list all.`,
		Example: `  lotkeeper hold show hold-20261121-7h3kq0w2xz
  lotkeeper hold show hold-20261121-7h3kq0w2xz -o json | jq .lots`,
		Args: arguments("HOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.holdShow(cmd.Context(), e, args[0]) })
		},
	}
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func (a *app) holdShow(ctx context.Context, e *lifecycle.Engine, id string) error {
	h, err := e.Store.Hold(ctx, id)
	if err != nil {
		return holdError(id, err)
	}
	limit := 0
	if a.Output == "table" {
		limit = tableLots
	}
	d, err := e.Describe(ctx, h, limit)
	if err != nil {
		return err
	}
	if err := result(a, d, func(s *screen) { holdScreen(s, d, h.Open() && h.Over(a.now())) }); err != nil {
		return err
	}
	if !h.Open() {
		return nil
	}
	return a.mistyped(ctx, e, h.Scopes)
}

// holdScreen shows a hold. over: it is open, and its end has come.
func holdScreen(s *screen, d lifecycle.HoldDetail, over bool) {
	covers := coversText(d.Covered, d.Archived)
	if d.Covered > 0 {
		covers += fmt.Sprintf("; %s, %s", plural(d.AllLots, "lot"), plural(d.AllLocations, "location"))
	}
	review, until, released := "", "", ""
	if d.ReviewAt != "" {
		review = seconds(d.ReviewAt) + overdueText(d.Overdue)
	}
	if d.Until != "" {
		until = seconds(d.Until) + map[bool]string{true: ", which has come: it covers nothing any more"}[over]
	}
	if d.ReleasedAt != "" {
		released = seconds(d.ReleasedAt) + " by " + d.ReleasedBy
	}
	s.fields("", notEmpty([]string{
		"hold", d.HoldID, "kind", string(d.Kind), "reference", d.Reference, "reason", d.Reason,
		"on", scopesText(d.Scopes, tableLots),
		"status", statusText(d.Status), "placed", fmt.Sprintf("%s by %s, %s ago", seconds(d.PlacedAt), d.PlacedBy, plural(d.AgeDays, "day")),
		"review", review, "until", until,
		"released", released, "because", d.ReleaseReason,
		"covers", covers, "too late", plural(d.TooLate, "record"),
	})...)
	lotsTable(s, d.Lots, d.AllLots)
	if shown := d.Locations[:min(len(d.Locations), tableLots)]; len(shown) > 0 {
		s.printf("\n")
		table(s, shown,
			column[lifecycle.LocationCount]{title: "LOCATION", cell: func(l lifecycle.LocationCount) string { return l.Location }},
			column[lifecycle.LocationCount]{title: "RECORDS", cell: func(l lifecycle.LocationCount) string { return fmt.Sprint(l.Records) }, whole: true, right: true})
		more(s, d.AllLocations-len(shown))
	}
	lateTable(s, d.Late)
	vaultsTable(s, d.Vaults)
}
