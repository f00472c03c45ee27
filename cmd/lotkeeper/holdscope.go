package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// scopeFlags say what a hold covers: each lot and each record makes a scope of its
// own, with all other conditions.
type scopeFlags struct {
	Lots      []string  `flag:"--lot" validate:"required_without_all=LotsFile Records Location Product EventType From To All,dive,max=512,nocontrol"`
	TLCSource string    `flag:"--tlc-source" validate:"max=512,nocontrol"`
	LotsFile  string    `flag:"--lots-file"`
	Records   []string  `flag:"--record" validate:"dive,max=512,nocontrol"`
	Location  string    `flag:"--location" validate:"max=512,nocontrol"`
	Product   string    `flag:"--product" validate:"max=512,nocontrol"`
	EventType string    `flag:"--event-type"`
	From      time.Time `flag:"--from"`
	To        time.Time `flag:"--to"`
	All       bool      `flag:"--all"`
	Trace     string    `flag:"--trace" validate:"oneof=forward backward both none"`

	flags *pflag.FlagSet
}

// scopeUse is what the flags look like in a usage line.
const scopeUse = "(--lot CODE... | --lots-file FILE | --record ID... | CONDITION...) [--trace WAY]"

// scopeHelp is what the commands that take the flags say of them.
const scopeHelp = `Each --lot, each --record and each line of --lots-file makes a scope of its own;
a record is covered that is in one of them and meets all other conditions given.
A lot code is matched exactly, unless it ends in *: then it is the beginning of
one. With --tlc-source only the lot of that source is meant; records of the lot
that name no source are covered too.

With --trace a scope covers, besides, all records of the lots that were made
from its lots (forward), of those that they were made from (backward), or of all
that is connected (both), however many steps away, also of what is made later.

A file of lots has one a line: CODE, or CODE, a tab and SOURCE. Blanks around
them, blank lines and lines that begin with # are passed over. If one line is
wrong, nothing is placed.`

func (f *scopeFlags) register(cmd *cobra.Command) {
	f.flags = pflag.NewFlagSet("", pflag.ContinueOnError)
	f.flags.SortFlags = false
	f.flags.StringArrayVar(&f.Lots, "lot", nil, "the lot with this traceability lot `CODE`, or those that begin with CODE* (repeatable)")
	f.flags.StringVar(&f.TLCSource, "tlc-source", "", "only lots of this traceability lot code `SOURCE`")
	f.flags.StringVar(&f.LotsFile, "lots-file", "", "the lots in `FILE`, one a line; - is standard input")
	f.flags.StringArrayVar(&f.Records, "record", nil, "the record with this `ID` (repeatable)")
	f.flags.StringVar(&f.Location, "location", "", "only records of this `LOCATION`, as in the index column")
	f.flags.StringVar(&f.Product, "product", "", "only records of this `PRODUCT`, as in the index column")
	f.flags.StringVar(&f.EventType, "event-type", "", "only events of this `TYPE`, such as transformation")
	f.flags.Var(&instant{at: &f.From}, "from", "only events at or after `TIME` (RFC 3339, or a UTC date)")
	f.flags.Var(&instant{at: &f.To, end: true}, "to", "only events before `TIME`; a date includes its whole UTC day")
	f.flags.BoolVar(&f.All, "all", false, "all records there are, and will be")
	f.flags.StringVar(&f.Trace, "trace", "none", "follow lots through lineage, this `WAY`: forward, backward, both or none")
	cmd.Flags().AddFlagSet(f.flags)
	oneOf(cmd, "trace", "forward", "backward", "both", "none")
	oneOf(cmd, "event-type", eventTypes()...)
}

// typed are the flags as they were typed, for a hint to repeat.
func (f *scopeFlags) typed() string {
	var words []string
	f.flags.VisitAll(func(fl *pflag.Flag) {
		values := []string{fl.Value.String()}
		many, ok := fl.Value.(pflag.SliceValue)
		switch {
		case !fl.Changed:
			return
		case fl.Value.Type() == "bool":
			words = append(words, "--"+fl.Name)
			return
		case ok:
			values = many.GetSlice()
		}
		for _, v := range values {
			words = append(words, "--"+fl.Name+" "+shellQuote(v))
		}
	})
	return strings.Join(words, " ")
}

// scopes reads the file of lots, if there is one.
func (a *app) scopes(ctx context.Context, f *scopeFlags) ([]lifecycle.Scope, error) {
	eventType, err := eventTypeFlag(f.EventType)
	if err != nil {
		return nil, err
	}
	rest := lifecycle.Scope{Location: f.Location, Product: f.Product, EventType: eventType, From: f.From, To: f.To, All: f.All}
	if f.Trace != "none" {
		rest.Trace = lifecycle.Trace(f.Trace)
	}
	var scopes []lifecycle.Scope
	for _, code := range f.Lots {
		s, err := onLot(rest, cte.Lot{TLC: code, Source: f.TLCSource})
		if err != nil {
			return nil, usagef("--lot: %v", err)
		}
		scopes = append(scopes, s)
	}
	if f.LotsFile != "" {
		more, err := a.lotsFile(ctx, f.LotsFile, f.TLCSource, rest)
		if err != nil {
			return nil, err
		}
		scopes = append(scopes, more...)
	}
	if f.TLCSource != "" && len(scopes) == 0 {
		return nil, usagef("--tlc-source needs --lot or --lots-file: it is the source of a lot's code")
	}
	for _, id := range f.Records {
		s := rest
		s.RecordID = id
		scopes = append(scopes, s)
	}
	if len(scopes) == 0 {
		scopes = append(scopes, rest)
	}
	for _, s := range scopes {
		if err := s.Validate(); err != nil {
			return nil, usagef("%v", err)
		}
	}
	return scopes, nil
}

// onLot adds a lot to the conditions of a scope.
func onLot(s lifecycle.Scope, lot cte.Lot) (lifecycle.Scope, error) {
	if lot.TLC == "*" {
		return s, errors.New("* alone would be every lot; to hold all records there is --all")
	}
	s.TLC, s.TLCSource = lot.TLC, lot.Source
	if prefix, ok := strings.CutSuffix(lot.TLC, "*"); ok {
		s.TLC, s.TLCPrefix = "", prefix
	}
	return s, nil
}

// maxBadLines is how many wrong lines of a file of lots are told of.
const maxBadLines = 5

// lotsFile makes a scope of each lot in a file. source is that of the lines that
// name none.
func (a *app) lotsFile(ctx context.Context, name, source string, rest lifecycle.Scope) ([]lifecycle.Scope, error) {
	text, err := a.readLots(ctx, name)
	if err != nil {
		return nil, &hinted{fmt.Errorf("couldn't read %s: %w", name, reason(err)), "nothing was placed"}
	}
	if name == "-" {
		name = "stdin"
	}
	var scopes []lifecycle.Scope
	var bad []string
	n := 0
	for line := range bytes.Lines(text) {
		n++
		lot, err := lotLine(line, source)
		if err == nil && lot.TLC == "" {
			continue
		}
		var s lifecycle.Scope
		if err == nil {
			s, err = onLot(rest, lot)
		}
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s:%d: %v", name, n, err))
			continue
		}
		scopes = append(scopes, s)
	}
	if more := len(bad) - maxBadLines; more > 0 {
		bad = append(bad[:maxBadLines], fmt.Sprintf("and %d more", more))
	}
	switch {
	case len(bad) > 0:
		return nil, &usageError{strings.Join(bad, "\n"), "nothing was placed; mend the file and type the same command again"}
	case len(scopes) == 0:
		return nil, &usageError{name + ": there is no lot in it", "nothing was placed; a line is a lot's code, or its code, a tab and its source"}
	}
	return scopes, nil
}

func (a *app) readLots(ctx context.Context, name string) ([]byte, error) {
	var r io.ReadCloser = &patientReader{ctx: ctx, r: io.NopCloser(a.in)}
	if name != "-" {
		var err error
		if r, err = openInput(ctx, name); err != nil {
			return nil, err
		}
	}
	defer r.Close()
	text, err := io.ReadAll(bufio.NewReader(r))
	return bytes.TrimPrefix(text, []byte("\uFEFF")), err
}

// lotLine reads one line of a file of lots. One to pass over has no code.
func lotLine(line []byte, source string) (cte.Lot, error) {
	code, after, tab := strings.Cut(strings.TrimRight(string(line), "\r\n"), "\t")
	lot := cte.Lot{TLC: strings.TrimSpace(code), Source: source}
	if tab {
		if lot.Source = strings.TrimSpace(after); lot.Source == "" {
			lot.Source = source
		}
	}
	switch {
	case strings.HasPrefix(lot.TLC, "#"), lot.TLC == "" && strings.TrimSpace(after) == "":
		return cte.Lot{}, nil
	case !utf8.Valid(line):
		return lot, errors.New("it is not UTF-8")
	case lot.TLC == "":
		return lot, errors.New("it has a source and no lot code")
	case strings.Contains(after, "\t"):
		return lot, errors.New("it has more than a code, a tab and a source")
	case strings.ContainsFunc(lot.TLC+lot.Source, unicode.IsControl):
		return lot, errors.New("it contains a control character")
	case max(len(lot.TLC), len(lot.Source)) > 512:
		return lot, errors.New("a code or a source is longer than 512 bytes")
	}
	return lot, nil
}

// without lists the lots and records of scopes that match nothing by themselves: of
// a list of hundreds, what is mistyped must not go unseen.
func without(ctx context.Context, e *lifecycle.Engine, scopes []lifecycle.Scope) ([]string, error) {
	var none []string
	for _, s := range scopes {
		switch {
		case s.RecordID != "":
			_, err := e.Store.Row(ctx, s.RecordID)
			if errors.Is(err, lifecycle.ErrNotFound) {
				none = append(none, fmt.Sprintf("%q", s.RecordID))
			} else if err != nil {
				return nil, err
			}
		case s.TLC+s.TLCPrefix != "":
			lots, err := e.Store.ScopeLots(ctx, s)
			if err != nil {
				return nil, err
			}
			if len(lots) > 0 {
				continue
			}
			lot := cte.Lot{TLC: s.TLC, Source: s.TLCSource}
			if s.TLCPrefix != "" {
				lot.TLC = s.TLCPrefix + "*"
			}
			none = append(none, lotText(lot))
		}
	}
	return none, nil
}

// some joins the first few of what there is.
func some(what []string, limit int, sep string) string {
	if more := len(what) - limit; more > 0 {
		what = append(slices.Clone(what[:limit]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(what, sep)
}

// scopesText is what a hold is on, as far as it is good to read.
func scopesText(scopes []lifecycle.Scope, limit int) string {
	texts := make([]string, len(scopes))
	for i, s := range scopes {
		texts[i] = s.String()
	}
	return some(texts, limit, "; ")
}
