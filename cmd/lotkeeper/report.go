package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/report"
)

func newReport(a *app) *cobra.Command {
	return group("report", "Pull reports for auditors", `Pull what auditors ask for. A report only reads, and holds no key data elements.`,
		newReportChecksums(a), newReportAggregates(a))
}

func newReportChecksums(a *app) *cobra.Command {
	var f queryFlags
	cmd := &cobra.Command{
		Use:   "checksums [--lot CODE] [--contains TEXT] [--state STATE] [--from TIME] [--to TIME] [--record ID]...",
		Short: "List each record's checksum, and where its copies are",
		Long: `List one row for each record and copy: the record's checksum, the segment that
holds it, and the object's key, version, SHA-256 and lock in each vault. A
record in the hot store has one row, with the columns of the copy empty.

With -o sha256sum, list the objects and manifests that hold these records, in
the format that "sha256sum -c" reads in the vault's directory.`,
		Example: `  lotkeeper report checksums -o csv > checksums.csv
  lotkeeper report checksums --lot LOT-2022-09-14-XJ9 -o json
  lotkeeper report checksums -o sha256sum |
      (cd lotkeeper-data/vault && sha256sum -c)`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query()
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.checksums(cmd.Context(), e, q) })
		},
	}
	f.registerList(cmd)
	prints(cmd, "table", "json", "csv", "jsonl", "sha256sum")
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func newReportAggregates(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "aggregates",
		Short: "List the totals that are left of purged records",
		Long: `List how many records were purged, by the month of their event, product and
event type. They were counted in the transaction of their purge, where their
rule has the step "aggregate": docs/policy.md. The totals stay for
ever; they name no record, lot or place.`,
		Example: "  lotkeeper report aggregates\n  lotkeeper report aggregates -o csv > aggregates.csv",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.aggregates(cmd.Context(), e) })
		},
	}
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func (a *app) aggregates(ctx context.Context, e *lifecycle.Engine) error {
	totals, err := report.Aggregates(ctx, e)
	if err != nil {
		return err
	}
	type total = lifecycle.Aggregate
	l := newList(a, []column[total]{
		{title: "MONTH", cell: func(t total) string { return t.Month }, whole: true},
		{title: "PRODUCT", cell: func(t total) string { return t.Product }},
		{title: "EVENT TYPE", cell: func(t total) string { return string(t.EventType) }, whole: true},
		{title: "RECORDS", cell: func(t total) string { return fmt.Sprint(t.Records) }, whole: true, right: true},
	})
	for _, t := range totals {
		if err := l.add(t); err != nil {
			return err
		}
	}
	if err := l.close(); err != nil {
		return err
	}
	if l.n == 0 {
		a.note("no purged record was counted")
	}
	return nil
}

func (a *app) checksums(ctx context.Context, e *lifecycle.Engine, q lifecycle.Query) error {
	if a.Output == "sha256sum" {
		return report.SHA256Sums(ctx, a.out, e, q)
	}
	limit := q.Limit
	if limit == 0 && a.Output == "table" {
		limit, q.Limit = tableLimit, tableLimit+1
	}
	type row = report.ChecksumRow
	l := newList(a, []column[row]{
		{title: "RECORD", cell: func(r row) string { return r.RecordID }},
		{title: "STATE", cell: func(r row) string { return string(r.State) }, whole: true},
		{title: "CHECKSUM", cell: func(r row) string { return r.Checksum }},
		{title: "SEGMENT", cell: func(r row) string { return r.Segment }, whole: true},
		{title: "VAULT", cell: func(r row) string { return r.Vault }},
	})
	records, last, more := 0, "", false
	for r, err := range report.Checksums(ctx, e, q) {
		if err != nil {
			return err
		}
		// A record has a row for each of its copies, one after the other.
		if r.RecordID != last {
			if limit > 0 && records == limit {
				more = true
				break
			}
			records, last = records+1, r.RecordID
		}
		if err := l.add(r); err != nil {
			return err
		}
	}
	if err := l.close(); err != nil {
		return err
	}
	switch {
	case more:
		a.note("these are the first %d records, there are more: --limit N shows more, -o csv and -o json all", limit)
	case l.n == 0:
		a.note("no record matches")
	}
	return nil
}
