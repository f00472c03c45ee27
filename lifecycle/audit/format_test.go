package audit

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// blocks are the examples of a kind in log-format.md.
func blocks(kind string) (out []string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(logFormat, -1) {
		out = append(out, m[1])
	}
	return out
}

// What log-format.md shows is a log.
func TestFormatExamples(t *testing.T) {
	g := &grown{}
	for _, example := range blocks("json") {
		raw := []byte(strings.TrimSuffix(example, "\n"))
		e, err := ParseEntry(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if again, _, err := e.Marshal(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%s is written as %s, %v", raw, again, err)
		}
		g.add(e)
	}
	v, err := note.NewVerifier(strings.Join(blocks("key"), ""))
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCheckpoint([]byte(strings.Join(blocks("checkpoint"), "")), v)
	if err != nil || len(g.entries) != 3 || c != g.checkpoint(3) {
		t.Errorf("the checkpoint of %d entries is %+v, want %+v, %v", len(g.entries), c, g.checkpoint(3), err)
	}
	for _, number := range []int64{maxInline, maxSize, 1234067} {
		plain, commas := strconv.FormatInt(number, 10), strconv.FormatInt(number/1000, 10)+","+strconv.FormatInt(number%1000, 10)
		if !strings.Contains(logFormat, plain) && !strings.Contains(logFormat, commas) {
			t.Errorf("%d is not there", number)
		}
	}
	if key := tileKey(tlog.Tile{H: height, N: 1234067, W: width}); !strings.Contains(logFormat, "`"+strings.TrimPrefix(key, "log/tile/0/")+"`") {
		t.Errorf("%s is not there", key)
	}
}

// Every action that the engine has is in the table, with all the fields that the
// engine writes in so many words, and the table has no other.
func TestFormatActions(t *testing.T) {
	rows := map[string]string{}
	_, table, _ := strings.Cut(logFormat, "## Actions")
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|.*$").FindAllStringSubmatch(table, -1) {
		rows[m[1]] = m[0]
	}
	names, bodies := actions(t)
	if got, want := slices.Sorted(maps.Keys(rows)), slices.Sorted(maps.Values(names)); !slices.Equal(got, want) {
		t.Errorf("log-format.md has the actions\n%q, the engine has\n%q", got, want)
	}
	if len(bodies) < 15 {
		t.Errorf("the bodies of only %d actions are read from the engine", len(bodies))
	}
	for name, fields := range bodies {
		for _, f := range fields {
			if !strings.Contains(rows[names[name]], "`"+f+"`") {
				t.Errorf("%s has a field %s, and log-format.md does not", names[name], f)
			}
		}
	}
}

// actions reads from the engine's source the values of its constants Action…, and
// the fields of each body that is a map written where the leaf is made.
func actions(t *testing.T) (names map[string]string, bodies map[string][]string) {
	files, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	names, bodies = map[string]string{}, map[string][]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, id := range n.Names {
					if strings.HasPrefix(id.Name, "Action") && id.Name != "Actions" && i < len(n.Values) {
						names[id.Name] = text(n.Values[i])
					}
				}
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || f.Sel.Name != "leaf" || len(n.Args) != 5 {
					return true
				}
				action, named := n.Args[1].(*ast.Ident)
				body, written := n.Args[4].(*ast.CompositeLit)
				if named && written && strings.HasPrefix(action.Name, "Action") {
					for _, field := range body.Elts {
						bodies[action.Name] = append(bodies[action.Name], text(field.(*ast.KeyValueExpr).Key))
					}
				}
			}
			return true
		})
	}
	return names, bodies
}

// text is the value of a string literal.
func text(e ast.Expr) string {
	if s, ok := e.(*ast.BasicLit); ok {
		if v, err := strconv.Unquote(s.Value); err == nil {
			return v
		}
	}
	return ""
}
