package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// maxFindings is how many findings a table shows in full.
const maxFindings = 20

func newVerify(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read everything back and compare it with its checksums",
		Long: `Read back every copy of every segment and every record in the hot store, and
compare them with the checksums in the database: bytes, manifests, locks, and
each record's line. Verify goes on to the end whatever it finds, and changes
nothing.`,
		Example: `  lotkeeper verify
  lotkeeper verify -o json | jq '.mismatches[]'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error {
				res, err := e.Verify(cmd.Context())
				if err != nil {
					return err
				}
				if err := result(a, res, func(s *screen) { verifyScreen(s, res) }); err != nil {
					return err
				}
				if n := len(res.Mismatches) + len(res.Missing); n > 0 {
					return &findings{
						fmt.Sprintf("%s: what is kept is not what was taken in", plural(n, "finding")),
						"put back the objects from another copy of the vault, then verify again; leave those that are there as they are",
					}
				}
				return nil
			})
		},
	}
	exits(cmd, exitFailed, exitFindings)
	needs(cmd, roleExport)
	finds(cmd, "something is missing, or is not what was taken in")
	return cmd
}

func verifyScreen(s *screen, r lifecycle.VerifyResult) {
	s.fields("",
		"segments", fmt.Sprint(r.Segments),
		"objects", fmt.Sprint(r.Objects),
		"records", fmt.Sprint(r.Records),
		"mismatches", fmt.Sprint(len(r.Mismatches)),
		"missing", fmt.Sprint(len(r.Missing)))
	all := append(append([]archive.Mismatch{}, r.Missing...), r.Mismatches...)
	for _, m := range all[:min(len(all), maxFindings)] {
		s.printf("\n%s\n", m.Kind)
		s.fields("  ", notEmpty([]string{
			"segment", m.Segment, "vault", m.Vault, "key", m.Key, "record", m.RecordID,
			"expected", oneLine(m.Expected), "actual", oneLine(m.Actual)})...)
	}
	if more := len(all) - maxFindings; more > 0 {
		s.printf("\nand %d more: -o json lists them all\n", more)
	}
	if len(all) == 0 {
		s.printf("everything is as it was taken in\n")
	}
}
