package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/report"
)

func newReceipt(a *app) *cobra.Command {
	return group("receipt", "Certify that class keys were destroyed", `Certify that class keys were destroyed: what, how many records, how, by whom,
when, under which policy and checkpoint, and what that does not cover. A receipt
is pending as long as a backup of the keyring may be there: for how long backups
are kept is audit.backup_retention_days in the configuration.`,
		newReceiptList(a), newReceiptShow(a), newReceiptIssue(a), newReceiptVerify(a))
}

func newReceiptList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the destroyed classes with what their receipts come to",
		Example: `  lotkeeper receipt list
  lotkeeper receipt list -o csv > receipts.csv`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				all, err := e.Receipts(ctx)
				if err != nil {
					return err
				}
				l := newList(a, []column[lifecycle.ReceiptSummary]{
					{title: "CLASS", cell: func(s lifecycle.ReceiptSummary) string { return s.ClassID }, whole: true},
					{title: "DESTROYED", cell: func(s lifecycle.ReceiptSummary) string { return seconds(s.DestroyedAt) }, whole: true},
					{title: "STATUS", cell: func(s lifecycle.ReceiptSummary) string { return string(s.Status) }, whole: true},
					{title: "FINAL", cell: func(s lifecycle.ReceiptSummary) string { return cmp.Or(seconds(s.FinalAt), "unknown") }, whole: true},
				})
				for _, s := range all {
					if err := l.add(s); err != nil {
						return err
					}
				}
				if err := l.close(); err != nil {
					return err
				}
				if len(all) == 0 {
					a.note("no class key is destroyed yet")
				}
				return nil
			})
		},
	}
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func newReceiptShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show CLASS",
		Short: "Show what the receipt of a class says now, without a signature",
		Long: `Show what the receipt of a class says now, without a signature. Nothing is
written. To give it to somebody, type: lotkeeper receipt issue CLASS.`,
		Example: "  lotkeeper receipt show hot-2024-09-13-1",
		Args:    arguments("CLASS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				r, err := e.Receipt(ctx, args[0])
				if err != nil {
					return receiptError(err)
				}
				return result(a, r, func(s *screen) { receiptScreen(s, r) })
			})
		},
	}
	prints(cmd, "table", "json")
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func newReceiptIssue(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issue CLASS",
		Short: "Print the signed receipt of a class, or a certificate as PDF",
		Long: `Print the receipt of a class, signed with the log's key: a signed note, whose
first line is the receipt as JSON. With -o pdf it is a certificate to print and
to sign by hand, which has the signed note attached. Both can be verified
without the database. The audit trail says that the receipt was issued, before
it is printed.`,
		Example: `  lotkeeper receipt issue hot-2024-09-13-1 > receipt.note
  lotkeeper receipt issue hot-2024-09-13-1 -o pdf > receipt.pdf
  head -1 receipt.note | jq .not_covered`,
		Args: arguments("CLASS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				r, msg, err := e.IssueReceipt(ctx, args[0])
				if err != nil {
					return receiptError(err)
				}
				if a.Output == "pdf" {
					err = report.ReceiptPDF(a.out, &r, msg)
				} else {
					_, err = a.out.Write(msg)
				}
				if err != nil {
					return err
				}
				for _, why := range r.Pending {
					a.note("the receipt is pending: %s", why)
				}
				return nil
			})
		},
	}
	prints(cmd, "note", "pdf")
	exits(cmd, exitFailed, exitRefused)
	needs(cmd, roleAuditor)
	return cmd
}

func newReceiptVerify(a *app) *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "verify --log-key KEY FILE",
		Short: "Verify a signed receipt, without the database",
		Long: `Verify a signed receipt: that the log's key has signed it, that each step of the
destruction is in the log, that they say what the receipt says, and that the
intent was published before the key was given up. It needs nothing but the log's
public key. FILE is what "lotkeeper receipt issue" printed, or what is attached
to its PDF; - is standard input.`,
		Example: `  lotkeeper receipt verify --log-key lotkeeper-7h3kq0w2xz+1b2c3d4e+AbCd... FILE`,
		Args: arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return usagef("missing: --log-key")
			}
			msg, err := a.readFile(args[0])
			if err != nil {
				return err
			}
			r, err := lifecycle.OpenReceipt(msg, key)
			if errors.Is(err, lifecycle.ErrReceipt) {
				return &findings{oneLine(err.Error()), "it was changed, or made under another key"}
			}
			if err != nil {
				return err
			}
			return result(a, r, func(s *screen) { receiptScreen(s, r) })
		},
	}
	cmd.Flags().StringVar(&key, "log-key", "", "the log's public `KEY`, as init printed it (required)")
	annotate(cmd, annotationNoConfig, "yes")
	prints(cmd, "table", "json")
	exits(cmd, exitFailed, exitFindings)
	finds(cmd, "the receipt does not hold")
	return cmd
}

// readFile reads a whole file; - is standard input.
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.in)
	}
	return os.ReadFile(name)
}

func receiptError(err error) error {
	if errors.Is(err, lifecycle.ErrNotFound) {
		return &hinted{err, "those that are destroyed: lotkeeper receipt list"}
	}
	return err
}

func receiptScreen(s *screen, r lifecycle.Receipt) {
	person := r.Person.Actor + ", not authenticated"
	if r.Person.Authenticated {
		person = r.Person.Actor + ", database role " + r.Person.Role
	}
	s.label = 14
	s.fields("", notEmpty([]string{
		"class", r.ClassID, "status", string(r.Status), "final", cmp.Or(r.FinalAt, "unknown"), "because", strings.Join(r.Pending, "; "),
		"wrapped", fmt.Sprintf("the keys of %s; %d moved to later classes before", plural(r.Media.Records, "record"), r.Media.Moved),
		"method", r.Sanitization.Technique + " (" + r.Sanitization.Method + ")", "verification", r.Sanitization.Verification,
		"destroyed", r.DestroyedAt, "by", person, "with", r.Sanitization.Tool, "run", r.Sanitization.RunID, "policy", r.Sanitization.PolicyHash,
		"issued", r.IssuedAt + " by " + r.IssuedBy,
	})...)
	for _, c := range r.Media.Copies {
		s.fields("", "key store", strings.TrimSuffix(fmt.Sprintf("%s, epoch %d; %s", c.Path, c.Epoch, c.Problem), "; "))
	}
	for _, g := range r.Media.Segments {
		s.fields("", "segment", fmt.Sprintf("%s: %s, key %s (%s), %s", g.SegmentID, plural(g.Records, "record"), g.Class, g.ClassState, plural(len(g.Objects), "object")))
	}
	for _, step := range r.Steps {
		text := fmt.Sprintf("%d: %s, in no published checkpoint yet", step.Index, step.Action)
		if step.Entry != nil {
			text = fmt.Sprintf("%d: %s, in the checkpoint of %d entries", step.Index, step.Action, step.Size)
		}
		s.fields("", "entry", text)
	}
	for _, g := range r.Again {
		s.fields("", "again", fmt.Sprintf("%s by %s, entry %d", g.At, g.Actor, g.Index))
	}
	for _, d := range r.Disclosures {
		s.fields("", "disclosed", fmt.Sprintf("%s %s by %s at %s: at most %s of the class", d.Kind, d.ID, d.Actor, d.At, plural(d.Records, "record")))
	}
	for _, n := range r.NotCovered {
		s.fields("", "not covered", n)
	}
}
