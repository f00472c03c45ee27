package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newAuditRecover(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "recover [--dry-run]",
		Short: "Bring a database that was restored from a backup back to the log",
		Long: `Bring back what a restored database has not, from the log and the manifests
that are locked in the vaults: holds, which records are archived and where,
which classes are destroyed, vaults, legal holds, runs. What the database has
written since, and no vault has, comes after it. Until that is done sweep,
ingest and export are refused.

What cannot be brought back is listed, with exit code 3: records that were
taken in after the backup and were not archived (ingest their files again),
and hot records whose keys a sweep had moved on after it. Keys are not
touched: if an older keyring was put back too, "lotkeeper shred recover" comes
next.

Every vault in the configuration has to answer. An interrupted recovery is
gone on with by the next. If nothing is missing, nothing is touched.`,
		Example: "  lotkeeper audit recover --dry-run\n  lotkeeper audit recover",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				res, err := e.RecoverLog(cmd.Context(), dryRun)
				return a.recovered(res, err)
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be brought back, and what not")
	exits(cmd, exitFailed, exitFindings, exitLocked, exitRefused)
	finds(cmd, "something could not be brought back: each thing is listed")
	needs(cmd, roleOwner)
	return cmd
}

// recovered prints what a recovery came to. It may have done its work and then failed.
func (a *app) recovered(res lifecycle.LogRecovery, err error) error {
	a.progress.clear()
	if err != nil && res.Log == nil {
		return err
	}
	if printErr := result(a, res, func(s *screen) { logRecoveryScreen(s, res) }); printErr != nil || err != nil {
		return errors.Join(err, printErr)
	}
	if len(res.DestroyAgain) > 0 && !res.DryRun {
		a.note("the keyring has keys that the log says are destroyed; type: %s", a.typed("type: lotkeeper shred recover")[len("type: "):])
	}
	if len(res.Losses) > 0 {
		return &findings{fmt.Sprintf("%s could not be brought back", plural(len(res.Losses), "thing")), "ingest again what was taken in since the backup; see docs/backup.md"}
	}
	return nil
}

func logRecoveryScreen(s *screen, r lifecycle.LogRecovery) {
	if r.Replayed == 0 && r.RunID == "" {
		s.printf("nothing to recover: the database has all %d entries of the log\n", r.Size)
		return
	}
	s.fields("", notEmpty([]string{
		"log", fmt.Sprintf("%d entries, in vault %s", r.Size, r.Vault),
		"had", fmt.Sprint(r.Common),
		"replayed", fmt.Sprint(r.Replayed),
		"of its own", fmt.Sprintf("%d, which come after", r.Behind),
		"holds", fmt.Sprintf("%d placed, %d extended, %d released", r.HoldsPlaced, r.HoldsExtended, r.HoldsReleased),
		"archived", fmt.Sprintf("%s in %s, %d of them rebuilt", plural(r.Archived, "record"), plural(r.Segments, "segment"), r.Rebuilt),
		"anew", plural(r.Rearchived, "record"),
		"purged", plural(r.Purged, "record"),
		"destroyed", plural(r.ClassesDestroyed, "class key"),
		"lost", plural(r.LostRecords, "record"),
		"keyring", r.KeyringProblem,
		"run", r.RunID})...)
	for _, id := range r.DestroyAgain {
		s.fields("", "to destroy again", id)
	}
	for _, l := range r.Losses[:min(len(r.Losses), maxFindings)] {
		s.printf("\n")
		s.fields("", "not back", l.Kind, "subject", l.Subject, "records", fmt.Sprint(l.Records), "why", oneLine(l.Detail))
	}
	if more := len(r.Losses) - maxFindings; more > 0 {
		s.printf("\nand %d more: -o json lists them all\n", more)
	}
}
