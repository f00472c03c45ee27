package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// traceFlags choose a chain of lots.
type traceFlags struct {
	Source    string `flag:"--tlc-source" validate:"max=512,nocontrol"`
	Direction string `flag:"--direction" validate:"oneof=forward backward both"`
}

func newTrace(a *app) *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use:   "trace LOT [--tlc-source SOURCE] [--direction WAY]",
		Short: "Draw what a lot was made from, and what was made from it",
		Long: `Draw the chain of a lot: the lots that were made from it (forward), those that
it was made from (backward), or all that is connected with it (both), with the
records there are of each and the holds on it. Without --tlc-source it is the
chain of the lots of this code of every source. A lot that no record is of,
known from the input lots of another, has 0 records.

In a table -> leads to a lot that was made from the one above it, <- to one that
went into it. JSON has the lots and the links, CSV and JSON Lines have a link a
row, dot is for Graphviz.`,
		Example: `  lotkeeper trace LOT-2022-09-14-XJ9
  lotkeeper trace 'GTIN: 314141999995 4856APR0227' --direction backward
  lotkeeper trace LOT-2022-09-14-XJ9 -o dot | dot -Tsvg > chain.svg`,
		Args: arguments("LOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := check(&f); err != nil {
				return err
			}
			if args[0] == "" {
				return usagef("LOT is empty")
			}
			ctx := cmd.Context()
			lot := cte.Lot{TLC: args[0], Source: f.Source}
			return a.with(ctx, func(e *lifecycle.Engine) error { return a.trace(ctx, e, lot, lifecycle.Trace(f.Direction)) })
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&f.Source, "tlc-source", "", "only the lot of this traceability lot code `SOURCE`")
	cmd.Flags().StringVar(&f.Direction, "direction", "both", "`WAY`: forward, backward or both")
	oneOf(cmd, "direction", "forward", "backward", "both")
	prints(cmd, "table", "json", "csv", "jsonl", "dot")
	exits(cmd, exitFailed)
	needs(cmd, roleAuditor)
	return cmd
}

func (a *app) trace(ctx context.Context, e *lifecycle.Engine, lot cte.Lot, direction lifecycle.Trace) error {
	c, err := e.Trace(ctx, lot, direction)
	if errors.Is(err, lifecycle.ErrNotFound) {
		hint := "to find it by part of its code, type: lotkeeper record list --contains TEXT"
		if near, err := e.Store.NearLots(ctx, lot.TLC, 5); err == nil && len(near) > 0 {
			hint = "there is " + lotsText(near) + "; " + hint
		}
		return &hinted{err, hint}
	}
	if err != nil {
		return err
	}
	switch a.Output {
	case "dot":
		return chainDot(a, c)
	case "csv", "jsonl":
		l := newList[lifecycle.ChainLink](a, nil)
		for _, link := range c.Links {
			if err := l.add(link); err != nil {
				return err
			}
		}
		return l.close()
	}
	return result(a, c, func(s *screen) { chainTree(s, c) })
}

// step is an edge of a chain, between two of its lots: to was made from from. More
// than one record may tell of it.
type step struct{ from, to int }

// chainSteps are the edges of a chain, each with the links that tell of it. A lot
// whose source is lacking stands for those of every source.
func chainSteps(c lifecycle.Chain) (order []step, links map[step][]lifecycle.ChainLink) {
	byCode := map[string][]int{}
	for i, l := range c.Lots {
		byCode[l.TLC] = append(byCode[l.TLC], i)
	}
	matching := func(code, source string) (out []int) {
		for _, i := range byCode[code] {
			if s := c.Lots[i].TLCSource; s == source || s == "" || source == "" {
				out = append(out, i)
			}
		}
		return out
	}
	links = map[step][]lifecycle.ChainLink{}
	for _, l := range c.Links {
		for _, from := range matching(l.InputTLC, l.InputSource) {
			for _, to := range matching(l.OutputTLC, l.OutputSource) {
				s := step{from, to}
				if links[s] == nil {
					order = append(order, s)
				}
				links[s] = append(links[s], l)
			}
		}
	}
	return order, links
}

// branch is one line of a tree of lots.
type branch struct {
	lifecycle.ChainLot
	drawn string // the lines that lead to it, and its code
}

// chainTree draws a chain as a tree that begins with the lots asked for. Each step
// is drawn once, and what follows from a lot only where it comes first. Holds are in
// notes below it: their ids are as long as lot codes, and mostly the same.
func chainTree(s *screen, c lifecycle.Chain) {
	next := make([][]step, len(c.Lots))
	order, _ := chainSteps(c)
	for _, st := range order {
		if c.Direction != lifecycle.Backward {
			next[st.from] = append(next[st.from], st)
		}
		if c.Direction != lifecycle.Forward && st.from != st.to {
			next[st.to] = append(next[st.to], st)
		}
	}
	var lines []branch
	seen, done := make([]bool, len(c.Lots)), map[step]bool{}
	var draw func(lot int, lead, below string)
	draw = func(lot int, lead, below string) {
		b := branch{c.Lots[lot], lead + c.Lots[lot].TLC}
		if seen[lot] {
			b.drawn += " (see above)"
			lines = append(lines, b)
			return
		}
		seen[lot] = true
		lines = append(lines, b)
		for _, st := range next[lot] {
			if done[st] {
				continue // drawn from the other side, or the way here
			}
			done[st] = true
			way, to := "-> ", st.to
			if st.to == lot && st.from != lot {
				way, to = "<- ", st.from
			}
			draw(to, below+way, below+"   ")
		}
	}
	for i, l := range c.Lots {
		if l.Steps == 0 {
			draw(i, "", "  ")
		}
	}
	var holds []string
	notes := func(b branch) string {
		text := ""
		for _, id := range b.Holds {
			i := slices.Index(holds, id)
			if i < 0 {
				i, holds = len(holds), append(holds, id)
			}
			text += fmt.Sprintf("[%d]", i+1)
		}
		return text
	}
	table(s, lines,
		column[branch]{title: "LOT", cell: func(b branch) string { return b.drawn }},
		column[branch]{title: "SOURCE", cell: func(b branch) string { return b.TLCSource }},
		column[branch]{title: "RECORDS", cell: func(b branch) string { return fmt.Sprint(b.Records) }, whole: true, right: true},
		column[branch]{title: "HOLDS", cell: notes})
	for i, id := range holds {
		s.printf("%s[%d] %s\n", map[bool]string{true: "\n"}[i == 0], i+1, id)
	}
}

// chainDot prints a chain for Graphviz.
func chainDot(a *app, c lifecycle.Chain) error {
	s := &screen{a: a}
	s.printf("digraph chain {\n  rankdir=LR\n  node [shape=box]\n")
	for i, l := range c.Lots {
		text := []string{l.TLC}
		if l.TLCSource != "" {
			text = append(text, l.TLCSource)
		}
		text = append(text, append([]string{plural(l.Records, "record")}, l.Holds...)...)
		style := ""
		if l.Steps == 0 {
			style = ", penwidth=2"
		}
		s.printf("  n%d [label=%s%s]\n", i, dotQuote(text...), style)
	}
	order, links := chainSteps(c)
	for _, st := range order {
		var ids []string
		for _, l := range links[st] {
			ids = append(ids, l.RecordID)
		}
		s.printf("  n%d -> n%d [label=%s]\n", st.from, st.to, dotQuote(ids...))
	}
	s.printf("}\n")
	return s.err
}

// dotQuote makes a label of Graphviz of some lines. In one a backslash begins an
// escape.
func dotQuote(lines ...string) string {
	quoted := make([]string, len(lines))
	for i, l := range lines {
		quoted[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(l))
	}
	return `"` + strings.Join(quoted, `\n`) + `"`
}
