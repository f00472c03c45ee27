package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func newExport(a *app) *cobra.Command {
	var f queryFlags
	var mask bool
	cmd := &cobra.Command{
		Use:   "export [--lot CODE] [--from TIME] [--to TIME] [--record ID]... [--mask]",
		Short: "Print records with their key data elements, wherever they live",
		Long: `Print records with their key data elements, hot and archived ones alike, each
checked against its checksum. A record must match all that is asked for.

JSON Lines (the default) has the fields as they were given: ingesting it
elsewhere yields the same content. CSV has one column a field, times in UTC so
that it can be sorted, key data elements as JSON. A record that cannot be read
is named on standard error, the others are printed all the same, and the exit
code is 3.

Values that name people or their telephone numbers read "[masked]" for a role
that may not unmask them, and for everybody with --mask. A record that was
exported masked is not taken in elsewhere as the same content. The audit trail
says who asked for what before the first record is printed, and if what could be
masked was shown. Where the configuration limits what one may be given in a day
(audit.export_limit), an export ends before the record that goes beyond it.`,
		Example: `  lotkeeper export --lot LOT-2022-09-14-XJ9
  lotkeeper export --from 2026-10-01 --to 2026-10-31 -o csv > october.csv
  lotkeeper export --record cte-8842-a --record cte-8843-b
  lotkeeper export --lot LOT-2022-09-14-XJ9 --mask`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query()
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.export(cmd.Context(), e, q, mask) })
		},
	}
	f.register(cmd)
	maskFlag(cmd, &mask)
	prints(cmd, "jsonl", "json", "csv")
	exits(cmd, exitFailed, exitFindings, exitRefused)
	needs(cmd, roleExport)
	finds(cmd, "some records could not be read and were left out")
	refuses(cmd, "refused, or ended by the limit of what one may be given in a day")
	return cmd
}

func maskFlag(cmd *cobra.Command, mask *bool) {
	cmd.Flags().BoolVar(mask, "mask", false, "mask what names people or their telephone numbers, also for who may see it")
}

// maskedNote tells that records are not as they were taken in.
func (a *app) maskedNote(records int) {
	if records > 0 {
		a.note("%s with masked fields", plural(records, "record"))
	}
}

// exportRow is a record in CSV. JSON and JSON Lines print the native line itself.
type exportRow struct {
	native []byte

	RecordID            string            `json:"record_id"`
	TLC                 string            `json:"traceability_lot_code"`
	TLCSource           string            `json:"tlc_source"`
	EventType           cte.EventType     `json:"event_type"`
	EventTimestamp      string            `json:"event_timestamp"`
	CreatedOrObtainedAt string            `json:"created_or_obtained_at"`
	KDEs                json.RawMessage   `json:"kde_payload"`
	InputLots           []cte.Lot         `json:"input_lots"`
	Corrects            string            `json:"corrects"`
	Labels              map[string]string `json:"labels"`
	RetentionHold       *bool             `json:"retention_hold"`
}

// MarshalJSON gives the native line as it is, if there is one.
func (r exportRow) MarshalJSON() ([]byte, error) {
	if r.native != nil {
		return r.native, nil
	}
	type fields exportRow
	return compact(fields(r))
}

func (a *app) export(ctx context.Context, e *lifecycle.Engine, q lifecycle.Query, mask bool) error {
	var unknown []string
	for _, id := range q.RecordIDs {
		_, err := e.Store.Row(ctx, id)
		if errors.Is(err, lifecycle.ErrNotFound) {
			unknown = append(unknown, id)
		} else if err != nil {
			return err
		}
	}
	if len(unknown) == 1 {
		return a.unknownRecord(ctx, e, unknown[0], fmt.Errorf("record %s: %w", unknown[0], lifecycle.ErrNotFound))
	}
	if len(unknown) > 1 {
		return &hinted{fmt.Errorf("records %s: %w", strings.Join(unknown, ", "), lifecycle.ErrNotFound), "nothing was exported"}
	}
	l := newList[exportRow](a, nil)
	unreadable, masked := 0, 0
	for found, err := range e.Export(ctx, q, mask) {
		var u *lifecycle.Unreadable
		if errors.As(err, &u) && ctx.Err() == nil {
			unreadable++
			fmt.Fprintf(a.err, "lotkeeper: unreadable: %s\n", oneLine(u.Error()))
			continue
		}
		if _, limit := lifecycle.IsRefused(err); limit {
			err = errors.Join(err, l.close()) // what was given is whole
			a.maskedNote(masked)
			return err
		}
		if err != nil {
			return err
		}
		if found.Masked {
			masked++
		}
		if err := a.exportOne(l, found.Record); err != nil {
			return err
		}
	}
	if err := l.close(); err != nil {
		return err
	}
	a.maskedNote(masked)
	if unreadable > 0 {
		found := &findings{
			fmt.Sprintf("%s could not be read; %d exported", plural(unreadable, "record"), l.n),
			"to see what is wrong with their copies, type: lotkeeper verify",
		}
		// A database or keyring that was put back is the likely reason.
		if refused, ok := lifecycle.IsRefused(e.CheckKeyring(ctx)); ok {
			found.hint = refused.Reason + "; " + refused.Hint
		}
		return found
	}
	if l.n == 0 {
		a.note("no record matches")
	}
	return nil
}

func (a *app) exportOne(l *list[exportRow], r *cte.Record) error {
	row := exportRow{
		RecordID: r.RecordID, TLC: r.TLC, TLCSource: r.TLCSource, EventType: r.EventType,
		EventTimestamp: cte.FormatTime(r.EventTimestamp), CreatedOrObtainedAt: cte.FormatTime(r.CreatedOrObtainedAt),
		KDEs: json.RawMessage(r.KDEs), InputLots: r.InputLots, Corrects: r.Corrects, Labels: r.Labels, RetentionHold: r.RetentionHold,
	}
	if a.Output != "csv" {
		row.native = r.AppendNative(nil)
	}
	return l.add(row)
}
