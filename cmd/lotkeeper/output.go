package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/rivo/uniseg"
)

// result prints the one value that a command has to say: as a table by the
// function given, as JSON by its field tags, as CSV with a header and one row.
func result[T any](a *app, v T, table func(*screen)) error {
	switch a.Output {
	case "table":
		s := &screen{a: a}
		table(s)
		return s.err
	case "json":
		return writeJSON(a, v, "  ")
	case "jsonl":
		return writeJSON(a, v, "")
	}
	l := newList(a, []column[T]{})
	if err := l.add(v); err != nil {
		return err
	}
	return l.close()
}

func writeJSON(a *app, v any, indent string) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	return e.Encode(v)
}

// list prints many values of one kind, one after the other: JSON as one array,
// JSON Lines and CSV a value a line, a table with the columns given. Memory does
// not follow the number of values.
type list[T any] struct {
	a       *app
	columns []column[T]
	csv     *csv.Writer
	rows    [][]string // of a table, waiting for the widths of its columns
	widths  []int      // nil until they are known
	n       int
}

// column is one column of a table. The other formats take all fields of T.
type column[T any] struct {
	title string
	cell  func(T) string
	// whole cells are never shortened: times, states, counts.
	whole bool
	right bool
	// least is the smallest width, where wider cells may follow.
	least int
}

// widthRows is how many rows a table looks at before it settles its columns.
const widthRows = 500

func newList[T any](a *app, columns []column[T]) *list[T] {
	l := &list[T]{a: a, columns: columns}
	if a.Output == "csv" {
		l.csv = csv.NewWriter(a.out)
	}
	return l
}

func (l *list[T]) add(v T) error {
	l.n++
	switch l.a.Output {
	case "json":
		b, err := compact(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(l.a.out, "%s%s", map[bool]string{true: "[\n  ", false: ",\n  "}[l.n == 1], b)
		return err
	case "jsonl":
		b, err := compact(v)
		if err != nil {
			return err
		}
		_, err = l.a.out.Write(append(b, '\n'))
		return err
	case "csv":
		names, cells, err := members(v)
		if err != nil {
			return err
		}
		if l.n == 1 {
			if err := l.csv.Write(names); err != nil {
				return err
			}
		}
		return l.csv.Write(cells)
	}
	row := make([]string, len(l.columns))
	for i, c := range l.columns {
		row[i] = printable(c.cell(v))
	}
	if l.widths != nil {
		return l.print(row)
	}
	if l.rows = append(l.rows, row); len(l.rows) == widthRows {
		return l.settle()
	}
	return nil
}

// close prints what is still to print: of an empty list an empty array, or the
// header.
func (l *list[T]) close() error {
	switch l.a.Output {
	case "json":
		end := "\n]\n"
		if l.n == 0 {
			end = "[]\n"
		}
		_, err := l.a.out.WriteString(end)
		return err
	case "jsonl":
		return nil
	case "csv":
		if l.n == 0 {
			names, _, err := members(*new(T))
			if err != nil {
				return err
			}
			if err := l.csv.Write(names); err != nil {
				return err
			}
		}
		l.csv.Flush()
		return l.csv.Error()
	}
	if l.n == 0 {
		return nil
	}
	return l.settle()
}

// flush shows what was added so far.
func (l *list[T]) flush() error {
	switch {
	case l.csv != nil:
		l.csv.Flush()
		if err := l.csv.Error(); err != nil {
			return err
		}
	case len(l.rows) > 0:
		if err := l.settle(); err != nil {
			return err
		}
	}
	return l.a.out.Flush()
}

// settle finds the columns' widths and prints the rows that waited for them.
func (l *list[T]) settle() error {
	if l.widths == nil {
		titles := make([]string, len(l.columns))
		l.widths = make([]int, len(l.columns))
		total := 2 * (len(l.columns) - 1)
		for i, c := range l.columns {
			titles[i] = c.title
			l.widths[i] = max(uniseg.StringWidth(c.title), c.least)
			for _, row := range l.rows {
				l.widths[i] = max(l.widths[i], uniseg.StringWidth(row[i]))
			}
			total += l.widths[i]
		}
		// The widest column gives way first.
		for ; total > l.a.width; total-- {
			widest := -1
			for i, c := range l.columns {
				if !c.whole && (widest < 0 || l.widths[i] > l.widths[widest]) {
					widest = i
				}
			}
			if widest < 0 || l.widths[widest] <= 8 {
				break
			}
			l.widths[widest]--
		}
		if err := l.print(titles); err != nil {
			return err
		}
	}
	for _, row := range l.rows {
		if err := l.print(row); err != nil {
			return err
		}
	}
	l.rows = nil
	return nil
}

func (l *list[T]) print(row []string) error {
	var b strings.Builder
	for i, cell := range row {
		width := l.widths[i]
		if !l.columns[i].whole {
			cell = shorten(cell, width)
		}
		pad := strings.Repeat(" ", max(0, width-uniseg.StringWidth(cell)))
		if i > 0 {
			b.WriteString("  ")
		}
		if l.columns[i].right {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	_, err := fmt.Fprintln(l.a.out, strings.TrimRight(b.String(), " "))
	return err
}

// shorten takes the middle out of what is too wide, with a sign: of ids and lot
// codes both ends say most. The beginning keeps more, so that it can be searched
// for.
func shorten(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	var clusters []string
	for g := uniseg.NewGraphemes(s); g.Next(); {
		clusters = append(clusters, g.Str())
	}
	head, tail, used := 0, len(clusters), 1
	for turn := 0; head < tail; turn++ {
		next := clusters[head]
		if turn%3 == 2 {
			next = clusters[tail-1]
		}
		if used += uniseg.StringWidth(next); used > width {
			break
		}
		if turn%3 == 2 {
			tail--
		} else {
			head++
		}
	}
	return strings.Join(clusters[:head], "") + "…" + strings.Join(clusters[tail:], "")
}

// compact is JSON on one line.
func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// members are the fields of a value as JSON has them, in order: what CSV
// prints. Strings stand as they are, null is empty, arrays and objects stay JSON.
func members(v any) (names, cells []string, err error) {
	b, err := compact(v)
	if err != nil {
		return nil, nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, nil, err
		}
		cell := string(value)
		switch {
		case cell == "null":
			cell = ""
		case cell[0] == '"':
			if err := json.Unmarshal(value, &cell); err != nil {
				return nil, nil, err
			}
		}
		names, cells = append(names, name.(string)), append(cells, cell)
	}
	return names, cells, nil
}

// screen prints what people read: names with values, and text.
type screen struct {
	a     *app
	label int // width of the names
	err   error
}

func (s *screen) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.a.out, format, args...)
	}
}

// fields prints pairs of a name and a value. A value that does not fit goes on in
// the next line, so nothing of it is lost.
func (s *screen) fields(indent string, pairs ...string) {
	label := 0
	for i := 0; i < len(pairs); i += 2 {
		label = max(label, uniseg.StringWidth(pairs[i]))
	}
	label = max(label, s.label)
	for i := 0; i < len(pairs); i += 2 {
		for j, line := range wrap(printable(pairs[i+1]), s.a.width-len(indent)-label-2) {
			name := pairs[i]
			if j > 0 {
				name = ""
			}
			s.printf("%s\n", strings.TrimRight(fmt.Sprintf("%s%-*s  %s", indent, label, name, line), " "))
		}
	}
}

// wrap breaks text into lines of a width, at blanks if it can.
func wrap(text string, width int) []string {
	width = max(width, 20)
	var lines []string
	for uniseg.StringWidth(text) > width {
		used, cut, blank := 0, 0, 0
		for g := uniseg.NewGraphemes(text); g.Next(); {
			w := g.Width()
			_, end := g.Positions()
			if used+w > width {
				if g.Str() == " " {
					blank = end
				}
				break
			}
			used += w
			cut = end
			if g.Str() == " " {
				blank = end
			}
		}
		// A word that is longer than half a line is broken anyway.
		if blank > cut/2 {
			cut = blank
		}
		lines = append(lines, strings.TrimRightFunc(text[:cut], unicode.IsSpace))
		text = text[cut:]
	}
	return append(lines, text)
}

// table prints a small table within a screen.
func table[T any](s *screen, values []T, columns ...column[T]) {
	if s.err != nil {
		return
	}
	as := *s.a
	as.Output = "table"
	l := newList(&as, columns)
	for _, v := range values {
		if s.err = l.add(v); s.err != nil {
			return
		}
	}
	s.err = l.close()
}

// plural is "1 record", "2 records".
func plural[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
