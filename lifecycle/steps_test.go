package lifecycle_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// A rule with an aggregate step leaves totals of what it purges, whatever of it was held
// and came later, and no others do.
func TestAggregates(t *testing.T)             { aggregates(t, newWorld(t)) }
func TestAggregatesOnPostgreSQL(t *testing.T) { aggregates(t, newWorldOnPostgreSQL(t)) }

func aggregates(t *testing.T, w *world) {
	ctx := context.Background()
	w.Limits.SegmentRecords, w.Limits.LockRecords = 2, 2
	w.apply(parsed(t, `
  - {name: labelled, citation: c, match: 'lot == "LOT-L" && "organic" in labels', before: [{aggregate: month_product_event_type}], action: archive_then_shred}
  - {name: counted, citation: c, match: 'lot != "LOT-N"', before: [{aggregate: month_product_event_type}], action: archive_then_shred}
  - {name: not, citation: c, action: archive_then_shred}
`))
	of := func(product, line string) string {
		return strings.Replace(line, `"facility"`, `"product_code":"`+product+`","facility"`, 1)
	}
	w.ingest(of("P", old("a", "LOT-A")), of("P", old("b", "LOT-A")), of("Q", old("c", "LOT-A")), of("P", old("d", "LOT-L")), of("P", old("not", "LOT-N")), of("P", old("held", "LOT-H")))
	w.place(lifecycle.Scope{TLC: "LOT-H"})
	w.sweep()
	if got := w.sweepUntil(instant(t, "2027-01-01T00:00:00Z")); got.Purged != 5 {
		t.Errorf("%+v", got)
	}
	want := []lifecycle.Aggregate{{Month: "2022-09", Product: "P", EventType: "shipping", Records: 3}, {Month: "2022-09", Product: "Q", EventType: "shipping", Records: 1}}
	if got, err := w.Store.Aggregates(ctx); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	w.read("held")
	w.sound()
}
