package main

import "github.com/spf13/cobra"

func newAudit(a *app) *cobra.Command {
	return group("audit", "Show what was done here, and who did it", `Show the audit trail: every step of every record, every refusal, and who was
given what.`,
		newAuditLog(a))
}
