package lifecycle

import (
	"cmp"
	"slices"

	"github.com/lotkeeper/lotkeeper/cte"
)

// Aggregate counts purged records that are alike: what stays of them, where their rule
// has an aggregate step. It names no record, lot or place. Its JSON names are a promise.
type Aggregate struct {
	// Month is that of the event in UTC, YYYY-MM.
	Month     string        `json:"month"`
	Product   string        `json:"product"`
	EventType cte.EventType `json:"event_type"`
	Records   int64         `json:"records"`
}

// Aggregated counts those of the rows that counted says yes to, in order.
func Aggregated(rows []Row, counted func(*Row) bool) (out []Aggregate, n int) {
	totals := map[Aggregate]int64{}
	for i := range rows {
		if r := &rows[i]; counted(r) {
			totals[Aggregate{Month: r.EventTimestamp.UTC().Format("2006-01"), Product: r.Product, EventType: r.EventType}]++
			n++
		}
	}
	for a, records := range totals {
		a.Records = records
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Aggregate) int {
		return cmp.Or(cmp.Compare(a.Month, b.Month), cmp.Compare(a.Product, b.Product), cmp.Compare(a.EventType, b.EventType))
	})
	return out, n
}
