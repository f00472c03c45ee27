package report

import (
	_ "embed"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

//go:embed reconciliation.html
var reconciliationHTML string

var reconciliationPage = template.Must(template.New("reconciliation").Funcs(template.FuncMap{
	"count": grouped,
	"day":   func(at string) string { day, _, _ := strings.Cut(at, "T"); return day },
	"many":  func(n int64) bool { return n != 1 },
}).Parse(reconciliationHTML))

// Reconciliation writes a reconciliation as one page of HTML that needs nothing beside
// it, for a person to print, read and sign.
func Reconciliation(w io.Writer, r *lifecycle.Reconciliation) error {
	type group struct {
		Of     string
		Counts []lifecycle.ReconciledCount
	}
	type kind struct {
		Name  string
		Found int64
	}
	page := struct {
		*lifecycle.Reconciliation
		Found, Unlisted int64
		Groups          []group
		ByKind          []kind
	}{Reconciliation: r, Found: r.Found()}
	page.Unlisted = page.Found - int64(len(r.Findings))
	for _, c := range r.Counts {
		if n := len(page.Groups); n == 0 || page.Groups[n-1].Of != c.Of {
			page.Groups = append(page.Groups, group{Of: c.Of})
		}
		g := &page.Groups[len(page.Groups)-1]
		g.Counts = append(g.Counts, c)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Kinds)) {
		page.ByKind = append(page.ByKind, kind{name, r.Kinds[name]})
	}
	return reconciliationPage.Execute(w, page)
}

// grouped is a number with a space between each three digits.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}
