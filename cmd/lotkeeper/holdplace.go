package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// holdFlags ask for a hold.
type holdFlags struct {
	scopeFlags
	Kind      string    `flag:"--kind" validate:"required,oneof=recall fda-inquiry inspection-freeze litigation"`
	Reason    string    `flag:"--reason" validate:"required,max=2000"`
	Reference string    `flag:"--reference" validate:"max=200,nocontrol"`
	Review    time.Time `flag:"--review"`
	Until     time.Time `flag:"--until"`
	dryRun    bool
}

func newHoldPlace(a *app) *cobra.Command {
	var f holdFlags
	cmd := &cobra.Command{
		Use:   "place " + scopeUse + " --kind KIND --reason TEXT [--reference TEXT] [--review DATE] [--until DATE] [--dry-run]",
		Short: "Place a hold on lots, records, or all that meets a condition",
		Long: `Place a hold. From the moment this command says that it stands, nothing that it
covers is shredded or purged, also of what arrives later.

` + scopeHelp + `

The same case placed again, with the same kind, reference and scopes, changes
nothing. With the same kind and reference and other scopes it is refused: a case
that grows is extended. A hold that matches nothing is placed all the same,
codes that are like it are listed, and the exit code is 3.

What is in the archive gets legal holds in every vault too. Until every vault
has confirmed them the hold is PARTIAL and the exit code is 3; nothing can be
lost meanwhile, for no key that the hold needs is destroyed.`,
		Example: `  lotkeeper hold place --lot LOT-2022-09-14-XJ9 --trace forward --kind recall \
      --reference F-1203-2026 --reason "Salmonella, onions" --dry-run
  lotkeeper hold place --lots-file lots.txt --trace both --kind recall \
      --reference F-1204-2026 --reason "Listeria" --review 2027-01-15
  lotkeeper hold place --location FAC-001 --from 2026-11-01 --to 2026-11-07 \
      --kind inspection-freeze --reason "inspection of 9 November"
  lotkeeper hold place --lot 'GTIN: 314141999995 *' --kind fda-inquiry \
      --reason "CFSAN asks"
  lotkeeper hold place --record cte-8842-a --kind litigation --reason "Doe"`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := check(&f); err != nil {
				return err
			}
			if !f.Until.IsZero() && !f.Until.After(a.now()) {
				return usagef("--until: %s has passed", cte.FormatTime(f.Until))
			}
			ctx := cmd.Context()
			scopes, err := a.scopes(ctx, &f.scopeFlags)
			if err != nil {
				return err
			}
			if f.dryRun {
				needs(cmd, roleAuditor)
			}
			return a.with(ctx, func(e *lifecycle.Engine) error { return a.holdPlace(ctx, e, f, scopes) })
		},
	}
	cmd.Flags().SortFlags = false
	f.register(cmd)
	cmd.Flags().StringVar(&f.Kind, "kind", "", "`KIND` of case: recall, fda-inquiry, inspection-freeze or litigation")
	cmd.Flags().StringVar(&f.Reason, "reason", "", "why, as `TEXT` for whoever reads it later")
	cmd.Flags().StringVar(&f.Reference, "reference", "", "the case's number, such as a recall number, as `TEXT`")
	cmd.Flags().Var(&instant{at: &f.Review}, "review", "when somebody is to look whether it is still needed: a `DATE`")
	cmd.Flags().Var(&instant{at: &f.Until, end: true}, "until", "when it ends by itself: after the whole UTC day of `DATE`")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what it would cover and change nothing")
	oneOf(cmd, "kind", holdKinds()...)
	exits(cmd, exitFailed, exitFindings, exitRefused)
	needs(cmd, roleRecall)
	finds(cmd, "the hold is placed, and matches nothing yet or is PARTIAL")
	return cmd
}

func (a *app) holdPlace(ctx context.Context, e *lifecycle.Engine, f holdFlags, scopes []lifecycle.Scope) error {
	req := lifecycle.PlaceRequest{
		Kind: lifecycle.HoldKind(f.Kind), Reason: f.Reason, Reference: f.Reference,
		ReviewAt: f.Review, Until: f.Until, Scopes: scopes,
	}
	if f.dryRun {
		return a.wouldPlace(ctx, e, req)
	}
	res, err := e.Place(ctx, req)
	var other *lifecycle.OtherCase
	if errors.As(err, &other) {
		return &lifecycle.Refused{Check: "reference", Reason: other.Error(),
			Hint: fmt.Sprintf("nothing was placed; to add this to that case, type: lotkeeper hold extend %s %s", other.HoldID, f.typed())}
	}
	if err != nil {
		return err
	}
	return a.stands(ctx, e, res, scopes, f.typed())
}

func newHoldExtend(a *app) *cobra.Command {
	var f struct {
		scopeFlags
		dryRun bool
	}
	cmd := &cobra.Command{
		Use:   "extend HOLD " + scopeUse + " [--dry-run]",
		Short: "Add to what a hold covers, when a case grows",
		Long: `Add scopes to an open hold. From the moment this command says that it stands,
nothing that they cover is shredded or purged. What the hold covers already it
goes on to cover; scopes that it has are passed over. The counts are those of
the whole hold.

` + scopeHelp,
		Example: `  lotkeeper hold extend hold-20261121-7h3kq0w2xz --lot LOT-2022-09-15-XJ9 \
      --trace forward
  lotkeeper hold extend hold-20261121-7h3kq0w2xz --lots-file more.txt --dry-run`,
		Args: arguments("HOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := check(&f); err != nil {
				return err
			}
			ctx := cmd.Context()
			scopes, err := a.scopes(ctx, &f.scopeFlags)
			if err != nil {
				return err
			}
			return a.with(ctx, func(e *lifecycle.Engine) error {
				if f.dryRun {
					h, err := e.Store.Hold(ctx, args[0])
					if err == nil && !h.Open() {
						err = lifecycle.ErrReleased
					}
					if err != nil {
						return holdError(args[0], err)
					}
					// A kind that can be asked for: ingest places others.
					return a.wouldPlace(ctx, e, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: h.Reason, Scopes: append(h.Scopes, scopes...)})
				}
				res, err := e.Extend(ctx, args[0], scopes)
				if err != nil {
					return holdError(args[0], err)
				}
				return a.stands(ctx, e, res, scopes, f.typed())
			})
		},
	}
	cmd.Flags().SortFlags = false
	f.register(cmd)
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what it would cover then and change nothing")
	exits(cmd, exitFailed, exitFindings)
	needs(cmd, roleRecall)
	finds(cmd, "the hold is extended, and matches nothing yet or is PARTIAL")
	return cmd
}

// wouldPlace says what a hold would cover.
func (a *app) wouldPlace(ctx context.Context, e *lifecycle.Engine, req lifecycle.PlaceRequest) error {
	res, err := e.WouldPlace(ctx, req)
	if err != nil {
		return err
	}
	if err := result(a, res, func(s *screen) { wouldPlaceTable(s, res) }); err != nil {
		return err
	}
	if res.Covered+res.TooLate == 0 {
		return &findings{"it would match nothing yet", nothingYet(res) + "to look for a lot by part of its code, type: lotkeeper record list --contains TEXT"}
	}
	return a.mistyped(ctx, e, req.Scopes)
}

// holdStands is how a command ended after the hold stood: not even an interrupt
// may then say otherwise.
type holdStands struct{ error }

func (e *holdStands) Unwrap() error { return e.error }

// stands confirms a hold in the vaults that stands already, and says what it
// covers. typed are its scopes as flags.
func (a *app) stands(ctx context.Context, e *lifecycle.Engine, res lifecycle.PlaceResult, scopes []lifecycle.Scope, typed string) error {
	if a.progress.terminal {
		// Vaults may take their time. Nobody is to wait for this until then.
		a.note("%s stands: from now on nothing that it covers is shredded or purged; now the vaults confirm it", res.HoldID)
	}
	fault := e.Confirm(ctx, &res)
	a.progress.clear()
	if err := a.placed(ctx, e, res, scopes, typed, fault); err != nil {
		return &holdStands{err}
	}
	return nil
}

func (a *app) placed(ctx context.Context, e *lifecycle.Engine, res lifecycle.PlaceResult, scopes []lifecycle.Scope, typed string, fault error) error {
	if err := result(a, res, func(s *screen) { placeTable(s, res) }); err != nil {
		return err
	}
	if res.Unchanged {
		a.note("%s was there already with these scopes: nothing was changed", res.HoldID)
	}
	if !res.Counted {
		a.note("the hold stands; counting what it covers takes longer than this reply may: %s", a.typed("type: lotkeeper hold show "+res.HoldID))
	}
	if res.TooLate > 0 {
		a.note("of %s no readable copy is left: the hold came too late for them", plural(res.TooLate, "record"))
	}
	switch {
	case res.Status == "partial":
		return partial(res, typed, fault)
	case res.Counted && res.Covered+res.TooLate == 0:
		return &findings{fmt.Sprintf("hold %s is placed and matches nothing yet", res.HoldID),
			nothingYet(res) + "the hold stands, for what may still arrive; to find a lot by part of its code, type: lotkeeper record list --contains TEXT; if the code is wrong, place another, then type: lotkeeper hold release " + res.HoldID + " --reason TEXT"}
	}
	return a.mistyped(ctx, e, scopes)
}

// partial tells of a hold that not every vault has confirmed.
func partial(res lifecycle.PlaceResult, typed string, fault error) error {
	var what []string
	for _, v := range res.Vaults {
		if v.Missing > 0 {
			what = append(what, fmt.Sprintf("vault %s has confirmed %d of %s: %s", v.Vault, v.Confirmed, plural(v.Confirmed+v.Missing, "segment"), v.Problem))
		}
	}
	if fault != nil {
		what = append(what, fault.Error())
	}
	return &findings{
		fmt.Sprintf("hold %s is PARTIAL: %s", res.HoldID, strings.Join(what, "; ")),
		"nothing can be lost meanwhile: the keys that it needs are pinned; the next sweep completes it; to try at once, type: lotkeeper hold extend " + res.HoldID + " " + typed,
	}
}

// mistyped tells of lots and records that match nothing, among others that do.
func (a *app) mistyped(ctx context.Context, e *lifecycle.Engine, scopes []lifecycle.Scope) error {
	if len(scopes) < 2 {
		return nil
	}
	none, err := without(ctx, e, scopes)
	if err != nil {
		a.log.Warn().Err(err).Msg("couldn't look which scopes match nothing")
		return nil
	}
	if len(none) > 0 {
		a.note("%d of %d match no record yet: %s", len(none), len(scopes), some(none, 10, ", "))
	}
	return nil
}

// nothingYet begins a hint with what resembles a scope that matched nothing.
func nothingYet(r lifecycle.PlaceResult) string {
	near := strings.Join(r.NearRecords, ", ") + lotsText(r.NearLots) // one of them
	if near == "" {
		return ""
	}
	return "there is " + near + "; "
}

func lotsText(lots []cte.Lot) string {
	texts := make([]string, len(lots))
	for i, l := range lots {
		texts[i] = lotText(l)
	}
	return strings.Join(texts, ", ")
}

func lotText(l cte.Lot) string {
	if l.Source == "" {
		return fmt.Sprintf("%q", l.TLC)
	}
	return fmt.Sprintf("%q from %q", l.TLC, l.Source)
}

func placeTable(s *screen, r lifecycle.PlaceResult) {
	covers, late := "not counted yet", ""
	if r.Counted {
		covers, late = coversText(r.Covered, r.Archived), plural(r.TooLate, "record")
	}
	s.fields("", notEmpty([]string{"hold", r.HoldID, "covers", covers, "too late", late, "status", statusText(r.Status)})...)
	lateTable(s, r.Late)
	vaultsTable(s, r.Vaults)
}

func wouldPlaceTable(s *screen, r lifecycle.PlaceResult) {
	s.fields("", "would cover", coversText(r.Covered, r.Archived), "too late", plural(r.TooLate, "record"))
	lotsTable(s, r.Lots, r.AllLots)
	lateTable(s, r.Late)
	s.printf("\nThis was a dry run: nothing was changed.\n")
}

func coversText(covered, archived int64) string {
	text := plural(covered, "record")
	if archived > 0 {
		text += fmt.Sprintf(", %d of them in the archive", archived)
	}
	return text
}

// statusText is a hold's status as a screen has it: that not every vault has
// confirmed it is not to be read over.
func statusText(status string) string {
	if status == "partial" {
		return "PARTIAL"
	}
	return status
}

func lotsTable(s *screen, lots []lifecycle.LotCount, all int) {
	if len(lots) == 0 {
		return
	}
	shown := lots[:min(len(lots), tableLots)]
	s.printf("\n")
	table(s, shown,
		column[lifecycle.LotCount]{title: "LOT", cell: func(l lifecycle.LotCount) string { return l.TLC }},
		column[lifecycle.LotCount]{title: "SOURCE", cell: func(l lifecycle.LotCount) string { return l.TLCSource }},
		column[lifecycle.LotCount]{title: "RECORDS", cell: func(l lifecycle.LotCount) string { return fmt.Sprint(l.Records) }, whole: true, right: true})
	more(s, all-len(shown))
}

// tableLots is how many lots and locations a table lists.
const tableLots = 20

func more(s *screen, n int) {
	if n > 0 {
		s.printf("and %d more: -o json has them\n", n)
	}
}

// lateTable tells when what came too late ended, and which leaf of the audit trail
// is the receipt.
func lateTable(s *screen, late []lifecycle.LateView) {
	if len(late) == 0 {
		return
	}
	s.printf("\n")
	table(s, late,
		column[lifecycle.LateView]{title: "TOO LATE", cell: func(l lifecycle.LateView) string { return l.Class }},
		column[lifecycle.LateView]{title: "DESTROYED AT", cell: func(l lifecycle.LateView) string { return seconds(l.DestroyedAt) }, whole: true},
		column[lifecycle.LateView]{title: "RECEIPT", cell: func(l lifecycle.LateView) string { return fmt.Sprintf("leaf %d", l.Receipt) }, whole: true},
		column[lifecycle.LateView]{title: "RECORDS", cell: func(l lifecycle.LateView) string { return fmt.Sprint(l.Records) }, whole: true, right: true})
}

func vaultsTable(s *screen, vaults []lifecycle.VaultHolds) {
	if len(vaults) == 0 {
		return
	}
	s.printf("\n")
	columns := []column[lifecycle.VaultHolds]{
		{title: "VAULT", cell: func(v lifecycle.VaultHolds) string { return v.Vault }},
		{title: "CONFIRMED", cell: func(v lifecycle.VaultHolds) string { return plural(v.Confirmed, "segment") }, whole: true},
		{title: "MISSING", cell: func(v lifecycle.VaultHolds) string { return fmt.Sprint(v.Missing) }, whole: true, right: true},
	}
	table(s, vaults, columns...)
}
