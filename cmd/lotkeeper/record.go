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

func newRecord(a *app) *cobra.Command {
	return group("record", "Show records: where they are, and why", `Show records: which there are, where each one is in its life, and why.`,
		newRecordShow(a), newRecordList(a))
}

func newRecordShow(a *app) *cobra.Command {
	var line, mask bool
	cmd := &cobra.Command{
		Use:   "show RECORD [--line [--mask]]",
		Short: "Show one record: state, due date, holds, copies, history",
		Long: `Show all there is to say of one record but its key data elements: its state and
the rule that put it there, the holds on it, where the archived copies are, and
its history.

With --line, print the canonical line itself and nothing else, from the hot
store or from the archive, wherever the record lives. The record's checksum is
the SHA-256 of that line without its newline:

  lotkeeper record show RECORD --line | tr -d '\n' | sha256sum

On PostgreSQL --line needs the role lotkeeper_export. It is an export of one
record: the audit trail says who was shown it. For a role that may not see them,
and with --mask, values that name people or their telephone numbers read
"[masked]", and the checksum is not that of the line.`,
		Example: `  lotkeeper record show cte-8842-a
  lotkeeper record show cte-8842-a -o json | jq .state
  lotkeeper record show cte-8842-a --line | jq .kde_payload`,
		Args: arguments("RECORD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if mask && !line {
				return usagef("--mask is for --line: nothing else shows key data elements")
			}
			ctx := cmd.Context()
			return a.with(ctx, func(e *lifecycle.Engine) error {
				if line {
					needs(cmd, roleExport)
					return a.recordLine(ctx, e, args[0], mask)
				}
				v, err := e.View(ctx, args[0])
				if err != nil {
					return a.unknownRecord(ctx, e, args[0], err)
				}
				return result(a, v, func(s *screen) { recordScreen(s, v) })
			})
		},
	}
	cmd.Flags().BoolVar(&line, "line", false, "print the canonical line, whatever --output says")
	maskFlag(cmd, &mask)
	exits(cmd, exitFailed, exitRefused)
	refuses(cmd, "refused, or ended by the limit of what one may be given in a day")
	needs(cmd, roleAuditor)
	return cmd
}

func (a *app) recordLine(ctx context.Context, e *lifecycle.Engine, id string, mask bool) error {
	f, err := e.Line(ctx, id, mask)
	if err != nil {
		return a.unknownRecord(ctx, e, id, err)
	}
	if _, err := a.out.Write(append(f.Line, '\n')); err != nil {
		return err
	}
	if f.Masked {
		a.maskedNote(1)
	}
	return nil
}

// unknownRecord adds to ErrNotFound which records have an id like it.
func (a *app) unknownRecord(ctx context.Context, e *lifecycle.Engine, id string, err error) error {
	if !errors.Is(err, lifecycle.ErrNotFound) {
		return err
	}
	hint := "to find it by its lot, type: lotkeeper record list --contains TEXT"
	if near, err := e.Store.NearRecords(ctx, id, 5); err == nil && len(near) > 0 {
		hint = "there is " + strings.Join(near, ", ")
	}
	return &hinted{err, hint}
}

func recordScreen(s *screen, v lifecycle.RecordView) {
	pairs := []string{
		"record", v.RecordID,
		"lot", v.TLC,
		"source", v.TLCSource,
		"event", string(v.EventType),
		"event time", v.EventTimestamp,
		"obtained", v.CreatedOrObtainedAt,
		"location", v.Location,
		"product", v.Product,
		"state", stateText(v),
		"why", v.Why.Rule,
		"policy", v.Why.Policy + ": " + v.Why.Arithmetic,
		"due at", v.DueAt,
		"purge floor", v.PurgeNotBefore,
		"class", v.Class + ", " + string(v.ClassState),
		"checksum", v.Checksum,
		"gaps", strings.Join(v.Gaps, ", "),
	}
	s.fields("", notEmpty(pairs)...)
	for _, h := range v.Holds {
		s.printf("\nhold %s\n", h.HoldID)
		s.fields("  ", "kind", string(h.Kind), "reason", h.Reason, "placed", h.PlacedAt+" by "+h.PlacedBy)
	}
	if v.Archive != nil {
		s.printf("\nsegment %s\n", v.Archive.Segment)
		for _, c := range v.Archive.Copies {
			s.fields("  ", "vault", c.Vault, "key", c.Key, "version", c.VersionID, "sha256", c.SHA256,
				"locked until", c.RetainUntil, "verified at", c.VerifiedAt)
		}
	}
	if len(v.History) > 0 {
		s.printf("\n")
		type step = lifecycle.HistoryView
		table(s, v.History,
			column[step]{title: "AT", cell: func(h step) string { return seconds(h.At) }, whole: true},
			column[step]{title: "ACTION", cell: func(h step) string { return h.Action }},
			column[step]{title: "STATE", cell: func(h step) string { return string(h.To) }, whole: true},
			column[step]{title: "BY", cell: func(h step) string { return h.Actor }},
			column[step]{title: "RUN", cell: func(h step) string { return h.RunID }})
	}
}

func stateText(v lifecycle.RecordView) string {
	if v.State != v.BaseState {
		return fmt.Sprintf("%s (%s once the last hold is released)", v.State, v.BaseState)
	}
	return string(v.State)
}

// notEmpty leaves out the pairs that have no value.
func notEmpty(pairs []string) []string {
	var out []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			out = append(out, pairs[i], pairs[i+1])
		}
	}
	return out
}

// seconds is a time of ours for a table, which has no room for nanoseconds.
func seconds(stamp string) string {
	t, err := cte.ParseTime(stamp)
	if err != nil {
		return stamp
	}
	return t.Format("2006-01-02 15:04:05Z")
}

// recordRow is a record in a list.
type recordRow struct {
	RecordID            string          `json:"record_id"`
	TLC                 string          `json:"traceability_lot_code"`
	TLCSource           string          `json:"tlc_source"`
	EventType           cte.EventType   `json:"event_type"`
	EventTimestamp      string          `json:"event_timestamp"`
	CreatedOrObtainedAt string          `json:"created_or_obtained_at"`
	State               lifecycle.State `json:"state"`
	BaseState           lifecycle.State `json:"base_state"`
	DueAt               string          `json:"due_at"`
	PurgeNotBefore      string          `json:"purge_not_before"`
	Location            string          `json:"location"`
	Product             string          `json:"product"`
	Checksum            string          `json:"checksum"`
	Segment             string          `json:"segment"`
}

func newRecordList(a *app) *cobra.Command {
	var f queryFlags
	cmd := &cobra.Command{
		Use:   "list [--lot CODE] [--contains TEXT] [--state STATE] [--from TIME] [--to TIME]",
		Short: "List records by lot, time or state, wherever they live",
		Long: `List records in the order of their events, hot, held and archived ones alike. A
record must match all that is asked for.`,
		Example: `  lotkeeper record list --contains XJ9
  lotkeeper record list --state held
  lotkeeper record list --from 2026-11-01 --to 2026-11-30 -o csv`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query()
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(e *lifecycle.Engine) error { return a.recordList(cmd.Context(), e, q) })
		},
	}
	f.registerList(cmd)
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

// tableLimit is how many rows a table has unless --limit says otherwise.
const tableLimit = 50

func (a *app) recordList(ctx context.Context, e *lifecycle.Engine, q lifecycle.Query) error {
	holds, err := e.HoldSet(ctx)
	if err != nil {
		return err
	}
	if q, err = e.Select(ctx, q); err != nil {
		return err
	}
	limit := q.Limit
	if limit == 0 && a.Output == "table" {
		limit = tableLimit
		q.Limit = limit + 1 // one more tells that there are more
	}
	l := newList(a, []column[recordRow]{
		{title: "RECORD", cell: func(r recordRow) string { return r.RecordID }},
		{title: "LOT", cell: func(r recordRow) string { return r.TLC }},
		{title: "EVENT", cell: func(r recordRow) string { return string(r.EventType) }},
		{title: "TIME", cell: func(r recordRow) string { return r.EventTimestamp }, whole: true},
		{title: "STATE", cell: func(r recordRow) string { return string(r.State) }, whole: true},
	})
	more := false
	for r, err := range e.Store.Rows(ctx, q) {
		if err != nil {
			return err
		}
		if limit > 0 && l.n == limit {
			more = true
			break
		}
		state := r.State
		if r.State != lifecycle.Purged && len(holds.Covering(&r)) > 0 {
			state = lifecycle.Held
		}
		if err := l.add(recordRow{
			RecordID: r.RecordID, TLC: r.TLC, TLCSource: r.TLCSource, EventType: r.EventType,
			EventTimestamp: cte.FormatTime(r.EventTimestamp), CreatedOrObtainedAt: cte.FormatTime(r.CreatedOrObtainedAt),
			State: state, BaseState: r.State, DueAt: cte.FormatTime(r.DueAt), PurgeNotBefore: cte.FormatTime(r.PurgeNotBefore),
			Location: r.Location, Product: r.Product, Checksum: fmt.Sprintf("%x", r.Checksum), Segment: r.Segment,
		}); err != nil {
			return err
		}
	}
	if err := l.close(); err != nil {
		return err
	}
	switch {
	case more:
		a.note("these are the first %d, there are more: --limit N shows more, -o csv and -o json all", limit)
	case l.n == 0:
		a.note("no record matches")
	}
	return nil
}
