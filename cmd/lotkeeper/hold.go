package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newHold(a *app) *cobra.Command {
	return group("hold", "Stop shredding and purging of a lot or a record",
		`Place, release and show holds. A hold is a named case, such as a recall: as long
as it is open, nothing that it covers is shredded or purged.`,
		newHoldPlace(a), newHoldRelease(a), newHoldList(a), newHoldShow(a))
}

// holdFlags ask for a hold.
type holdFlags struct {
	Lot       string `flag:"--lot" validate:"required_without=Record,excluded_with=Record,max=512"`
	TLCSource string `flag:"--tlc-source" validate:"excluded_with=Record,max=512"`
	Record    string `flag:"--record" validate:"max=512"`
	Kind      string `flag:"--kind" validate:"required,oneof=recall fda-inquiry inspection-freeze litigation"`
	Reason    string `flag:"--reason" validate:"required,max=2000"`
	Reference string `flag:"--reference" validate:"max=200"`
}

func newHoldPlace(a *app) *cobra.Command {
	var f holdFlags
	cmd := &cobra.Command{
		Use:   "place (--lot CODE [--tlc-source SOURCE] | --record ID) --kind KIND --reason TEXT [--reference TEXT]",
		Short: "Place a hold on a lot or a record",
		Long: `Place a hold on a lot or on one record. From the moment this command returns,
nothing that it covers is shredded or purged, also of what arrives later.

The lot code is matched exactly. With --tlc-source the hold covers the lot of
that source, and records of the lot that name none. A hold that matches nothing
is placed all the same, codes that are like it are listed, and the exit code
is 3.`,
		Example: `  lotkeeper hold place --lot LOT-2022-09-14-XJ9 --kind recall \
      --reason "Salmonella, onions" --reference F-1203-2026
  lotkeeper hold place --record cte-8842-a --kind litigation --reason "Doe"`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := check(&f); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.holdPlace(cmd.Context(), e, f) })
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&f.Lot, "lot", "", "the lot with this traceability lot `CODE`")
	cmd.Flags().StringVar(&f.TLCSource, "tlc-source", "", "only the lot of this traceability lot code `SOURCE`")
	cmd.Flags().StringVar(&f.Record, "record", "", "the record with this `ID`")
	cmd.Flags().StringVar(&f.Kind, "kind", "", "`KIND` of case: recall, fda-inquiry, inspection-freeze or litigation")
	cmd.Flags().StringVar(&f.Reason, "reason", "", "why, as `TEXT` for whoever reads it later")
	cmd.Flags().StringVar(&f.Reference, "reference", "", "the case's number, as `TEXT`")
	exits(cmd, exitFailed, exitFindings)
	finds(cmd, "the hold is placed, and matches nothing yet")
	return cmd
}

func (a *app) holdPlace(ctx context.Context, e *lifecycle.Engine, f holdFlags) error {
	res, err := e.Place(ctx, lifecycle.PlaceRequest{
		Kind: lifecycle.HoldKind(f.Kind), Reason: f.Reason, Reference: f.Reference,
		Scopes: []lifecycle.Scope{{RecordID: f.Record, TLC: f.Lot, TLCSource: f.TLCSource}},
	})
	if err != nil {
		return err
	}
	if err := result(a, res, func(s *screen) {
		s.fields("", "hold", res.HoldID, "covers", plural(res.Covered, "record"), "too late", plural(res.TooLate, "record"), "status", res.Status)
	}); err != nil {
		return err
	}
	if res.TooLate > 0 {
		a.note("of %s no readable copy is left: the hold came too late for them", plural(res.TooLate, "record"))
	}
	if res.Covered+res.TooLate > 0 {
		return nil
	}
	hint := "the hold stands, for what may still arrive; if the code is wrong, place another, then type: lotkeeper hold release " + res.HoldID + " --reason TEXT"
	if near := nearMatches(res); near != "" {
		hint = "there is " + near + "; " + hint
	}
	return &findings{fmt.Sprintf("hold %s is placed and matches nothing yet", res.HoldID), hint}
}

func nearMatches(r lifecycle.PlaceResult) string {
	near := r.NearRecords
	for _, l := range r.NearLots {
		near = append(near, lotText(l))
	}
	return strings.Join(near, ", ")
}

func lotText(l cte.Lot) string {
	if l.Source == "" {
		return fmt.Sprintf("%q", l.TLC)
	}
	return fmt.Sprintf("%q from %q", l.TLC, l.Source)
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
then the next sweep treats it as any other.`,
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
				return a.holdShow(ctx, e, args[0])
			})
		},
	}
	cmd.Flags().StringVar(&f.Reason, "reason", "", "why, as `TEXT` for whoever reads it later")
	exits(cmd, exitFailed)
	return cmd
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

func newHoldList(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "list [--all]",
		Short: "List the open holds",
		Long:  `List the open holds in the order they were placed, with what they cover now.`,
		Example: `  lotkeeper hold list
  lotkeeper hold list --all -o csv`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				holds, err := e.Store.Holds(ctx, !all)
				if err != nil {
					return err
				}
				type hold = lifecycle.HoldDetail
				l := newList(a, []column[hold]{
					{title: "HOLD", cell: func(h hold) string { return h.HoldID }, whole: true},
					{title: "KIND", cell: func(h hold) string { return string(h.Kind) }},
					{title: "ON", cell: func(h hold) string { return scopesText(h.Scopes) }},
					{title: "COVERS", cell: func(h hold) string { return fmt.Sprint(h.Covered) }, whole: true, right: true},
					{title: "STATUS", cell: func(h hold) string { return h.Status }, whole: true},
					{title: "REASON", cell: func(h hold) string { return h.Reason }},
				})
				for _, h := range holds {
					d, err := e.Describe(ctx, h, 10)
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
				if l.n == 0 {
					a.note("there is no %shold", map[bool]string{false: "open "}[all])
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "released ones too")
	exits(cmd, exitFailed)
	return cmd
}

func scopesText(scopes []lifecycle.Scope) string {
	texts := make([]string, len(scopes))
	for i, s := range scopes {
		texts[i] = s.String()
	}
	return strings.Join(texts, "; ")
}

func newHoldShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show HOLD",
		Short:   "Show one hold and what it covers now",
		Example: "  lotkeeper hold show hold-20261121-7h3kq0w2xz",
		Args:    arguments("HOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.holdShow(cmd.Context(), e, args[0]) })
		},
	}
	exits(cmd, exitFailed)
	return cmd
}

func (a *app) holdShow(ctx context.Context, e *lifecycle.Engine, id string) error {
	h, err := e.Store.Hold(ctx, id)
	if err != nil {
		return holdError(id, err)
	}
	d, err := e.Describe(ctx, h, 10)
	if err != nil {
		return err
	}
	return result(a, d, func(s *screen) {
		s.fields("", notEmpty([]string{
			"hold", d.HoldID, "kind", string(d.Kind), "on", scopesText(d.Scopes), "reference", d.Reference, "reason", d.Reason,
			"status", d.Status, "placed", seconds(d.PlacedAt) + " by " + d.PlacedBy,
			"covers", plural(d.Covered, "record"), "too late", plural(d.TooLate, "record"),
		})...)
		if d.ReleasedAt != "" {
			s.fields("", "released", seconds(d.ReleasedAt)+" by "+d.ReleasedBy, "because", d.ReleaseReason)
		}
	})
}
