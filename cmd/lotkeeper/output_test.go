package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"github.com/spf13/cobra"
	"pgregory.net/rapid"
)

// Every help fits on 80 columns, has an example, and ends with the exit codes.
func TestHelp(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		var out bytes.Buffer
		a := newApp()
		a.out = bufio.NewWriter(&out)
		help(a, cmd)
		a.out.Flush()
		for l := range strings.Lines(out.String()) {
			if w := uniseg.StringWidth(strings.TrimSuffix(l, "\n")); w > 80 {
				t.Errorf("%s: %d columns: %s", cmd.CommandPath(), w, l)
			}
		}
		if !cmd.HasSubCommands() && cmd.Name() != "help" {
			if cmd.Example == "" {
				t.Errorf("%s has no example", cmd.CommandPath())
			}
			// Whatever opens the store can be refused by it.
			if opens := usesConfig(cmd) && cmd.CommandPath() != "lotkeeper config show"; opens != strings.Contains(out.String(), "\nRole on PostgreSQL: lotkeeper_") {
				t.Errorf("%s opens the store: %v, and names a role: %v", cmd.CommandPath(), opens, !opens)
			}
			if _, codes, ok := strings.Cut(out.String(), "\nExit codes:\n  0  done\n"); !ok || strings.Contains(codes, "\n\n") {
				t.Errorf("%s does not end with its exit codes", cmd.CommandPath())
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRoot(newApp()))
}

// Nothing that printable returns can move a cursor, and what was harmless stays.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"Pesca Chiloé 鮭": "Pesca Chiloé 鮭",
		"a\x1b[2Jb":      `a\x1b[2Jb`,
		"a\x9bb":         `a\x9bb`,
		"a\u009bb":       `a\u009bb`,
		"a\u202eb":       `a\u202eb`,
		"a\nb\tc\x00":    `a\x0ab\x09c\x00`,
		"a\ufffdb":       "a\ufffdb",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "s")
		got := printable(s)
		if !utf8.ValidString(got) || printable(got) != got {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

// A shortened text is as wide as it may be and says that it is shortened; a
// wrapped one loses nothing but blanks at its line ends.
func TestShortenAndWrap(t *testing.T) {
	words := rapid.SliceOf(rapid.SampledFrom([]string{"a", "lot", "鮭", "é", "e\u0301", " ", "GTIN: 09524000059109", "0123456789abcdef0123456789abcdef", "👩‍🌾"}))
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Join(words.Draw(t, "words"), "")
		width := rapid.IntRange(8, 60).Draw(t, "width")
		short := shorten(s, width)
		switch {
		case uniseg.StringWidth(short) > width:
			t.Fatalf("%q is wider than %d", short, width)
		case short != s && (uniseg.StringWidth(s) <= width || !strings.Contains(short, "…")):
			t.Fatalf("%q became %q at %d", s, short, width)
		}
		width = max(width, 20)
		lines := wrap(s, width)
		for _, l := range lines {
			if uniseg.StringWidth(l) > width {
				t.Fatalf("%q is wider than %d", l, width)
			}
		}
		strip := strings.NewReplacer(" ", "")
		if strip.Replace(strings.Join(lines, "")) != strip.Replace(s) {
			t.Fatalf("%q became %q", s, lines)
		}
	})
	if got := shorten("GTIN: 09524000059109 + Lot: 1303479", 20); got != "GTIN: 0952400…303479" {
		t.Errorf("%q", got)
	}
}

// Each format of a list is whole, whatever is in it.
func TestList(t *testing.T) {
	type row struct {
		ID   string          `json:"id"`
		N    int             `json:"n"`
		List []string        `json:"list"`
		Raw  json.RawMessage `json:"raw"`
	}
	print := func(t *rapid.T, format string, rows []row) string {
		var out bytes.Buffer
		a := &app{options: options{Output: format}, out: bufio.NewWriter(&out), width: 80}
		l := newList(a, []column[row]{{title: "ID", cell: func(r row) string { return r.ID }}})
		for _, r := range rows {
			if err := l.add(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		a.out.Flush()
		return out.String()
	}
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOf(rapid.Custom(func(t *rapid.T) row {
			return row{rapid.String().Draw(t, "id"), rapid.Int().Draw(t, "n"), rapid.SliceOf(rapid.String()).Draw(t, "list"), json.RawMessage(`{"x":1.50}`)}
		})).Draw(t, "rows")
		var back []row
		if err := json.Unmarshal([]byte(print(t, "json", rows)), &back); err != nil || len(back) != len(rows) {
			t.Fatal(err)
		}
		if got := strings.Count(print(t, "jsonl", rows), "\n"); got != len(rows) {
			t.Fatalf("%d lines of %d", got, len(rows))
		}
		records, err := csv.NewReader(strings.NewReader(print(t, "csv", rows))).ReadAll()
		if err != nil || len(records) != len(rows)+1 {
			t.Fatal(err, len(records))
		}
		for i, r := range rows {
			// encoding/csv reads \r\n within a cell as \n.
			if want := strings.ReplaceAll(r.ID, "\r\n", "\n"); records[i+1][0] != want || records[i+1][3] != `{"x":1.50}` {
				t.Fatalf("%q, want %q", records[i+1], want)
			}
		}
		if got := strings.Count(print(t, "table", rows), "\n"); len(rows) > 0 && got != len(rows)+1 {
			t.Fatalf("%d lines of %d", got, len(rows))
		}
	})
}
