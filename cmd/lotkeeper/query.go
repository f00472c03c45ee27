package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// queryFlags select records. A record must match all that are given.
type queryFlags struct {
	Records   []string
	Lot       string
	TLCSource string
	Contains  string
	State     string `flag:"--state" validate:"omitempty,oneof=active held archived purged"`
	From, To  time.Time
	Limit     int `flag:"--limit" validate:"min=0"`
}

// register adds the flags that choose by id, lot and time; list adds those for lists.
func (f *queryFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.Lot, "lot", "", "of the lot with this traceability lot `CODE`, exactly")
	cmd.Flags().StringVar(&f.TLCSource, "tlc-source", "", "of this traceability lot code `SOURCE`, exactly")
	cmd.Flags().StringArrayVar(&f.Records, "record", nil, "the record with this `ID` (repeatable)")
	cmd.Flags().Var(&instant{at: &f.From}, "from", "of events at or after `TIME` (RFC 3339, or a UTC date)")
	cmd.Flags().Var(&instant{at: &f.To, end: true}, "to", "of events before `TIME`; a date includes its whole UTC day")
}

func (f *queryFlags) registerList(cmd *cobra.Command) {
	f.register(cmd)
	cmd.Flags().StringVar(&f.Contains, "contains", "", "of lots whose code has `TEXT` in it, in any case")
	cmd.Flags().StringVar(&f.State, "state", "", "in this `STATE`: active, held, archived or purged")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most `N` records (default: 50 in a table, else all)")
}

func (f *queryFlags) query() (lifecycle.Query, error) {
	if err := check(f); err != nil {
		return lifecycle.Query{}, err
	}
	if !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To) {
		return lifecycle.Query{}, usagef("--from %s is not before --to %s", cte.FormatTime(f.From), cte.FormatTime(f.To))
	}
	return lifecycle.Query{
		RecordIDs: f.Records, TLC: f.Lot, TLCSource: f.TLCSource, LotContains: f.Contains, From: f.From, To: f.To, Limit: f.Limit,
		// The states that people see: a held record is not also active.
		State: lifecycle.State(f.State), ExceptHeld: f.State == string(lifecycle.Active) || f.State == string(lifecycle.Archived),
	}, nil
}

// instant is a flag that takes an RFC 3339 time, or a date: 00:00 UTC of it, or
// with end set of the day after.
type instant struct {
	at   *time.Time
	end  bool
	text string
}

func (i *instant) String() string { return i.text }
func (i *instant) Type() string   { return "TIME" }

func (i *instant) Set(s string) error {
	i.text = s
	if day, err := time.Parse(time.DateOnly, s); err == nil && day.Year() > 0 {
		if *i.at = day; i.end {
			*i.at = day.AddDate(0, 0, 1)
		}
		if i.at.Year() > 9999 {
			*i.at = time.Time{} // the end of 9999-12-31 bounds nothing
		}
		return nil
	}
	t, err := cte.ParseTime(s)
	*i.at = t
	return err
}
