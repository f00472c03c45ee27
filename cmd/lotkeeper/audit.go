package main

import "github.com/spf13/cobra"

func newAudit(a *app) *cobra.Command {
	return group("audit", "Show what was done here, who did it, and prove it", `Show the audit trail: every step of every record, every refusal, and who was
given what. It is a transparency log: its entries are the leaves of a Merkle
tree, whose signed heads are locked in the vaults. Compare the database with it,
export it for others to verify, or prove what became of one record.`,
		newAuditLog(a), newAuditVerify(a), newAuditProof(a), newAuditExport(a), newAuditCheckpoint(a), newAuditRecover(a))
}
