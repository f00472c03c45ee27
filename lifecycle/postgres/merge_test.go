package postgres_test

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// BenchmarkMerge is Merge alone, in batches of 5,000 with payloads of 600 bytes,
// and then DueRows and DuePage of what it has merged.
func BenchmarkMerge(b *testing.B) {
	s := harness(b, postgres.Options{URL: pgtest.New(b).URL()}).Store
	const n, size = 20, 5000
	first := storetest.Start.AddDate(-2, -4, 0)
	batches := make([][]lifecycle.Sealed, n)
	classes := map[string]lifecycle.Class{}
	archive := lifecycle.ArchivePeriod(first.AddDate(3, 6, 0))
	classes[archive.ID(1)] = lifecycle.Class{ID: archive.ID(1), Period: archive, Generation: 1}
	for i := range n * size {
		at := first.Add(time.Duration(i) * 86 * time.Second)
		due := at.Add(730 * 24 * time.Hour)
		hot := lifecycle.HotPeriod(due)
		classes[hot.ID(1)] = lifecycle.Class{ID: hot.ID(1), Period: hot, Generation: 1}
		id := fmt.Sprintf("cte-%08d", i)
		r := lifecycle.Sealed{Row: lifecycle.Row{
			RecordID: id, TLC: fmt.Sprintf("LOT-%06d", i/5), TLCSource: fmt.Sprintf("https://id.example.org/%d", i%50), EventType: cte.Shipping,
			EventTimestamp: at, CreatedOrObtainedAt: at.Add(time.Hour), DueAt: due, PurgeNotBefore: due, Location: "FAC-001", Product: "PC-7782",
			Checksum: sha256.Sum256([]byte(id)), Content: sha256.Sum256([]byte(id)), Class: hot.ID(1), ArchiveClass: archive.ID(1),
		}, Payload: make([]byte, 600), WrappedDEK: make([]byte, 60)}
		batches[i/size] = append(batches[i/size], r)
	}
	var open []lifecycle.Class
	for _, c := range classes {
		open = append(open, c)
	}
	if err := s.OpenClasses(b.Context(), open, 0, lifecycle.Leaf{At: storetest.Start, Action: lifecycle.ActionClassOpened}); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		for _, batch := range batches {
			res, err := s.Merge(b.Context(), batch, nil, lifecycle.Leaf{At: storetest.Start, Action: lifecycle.ActionIngested})
			if err != nil || res.Inserted != size {
				b.Fatal(res, err)
			}
		}
		b.ReportMetric(n*size/time.Since(start).Seconds(), "merged/s")
		now := storetest.Start.AddDate(1, 0, 0)
		start = time.Now()
		rows := 0
		for after := (lifecycle.Cursor{}); ; {
			page, err := s.DueRows(b.Context(), archive.ID(1), now, after, size)
			if err != nil {
				b.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			rows += len(page)
			after = lifecycle.Cursor{DueAt: page[len(page)-1].DueAt, Seq: page[len(page)-1].Seq}
		}
		b.ReportMetric(float64(rows)/time.Since(start).Seconds(), "due-rows/s")
		start = time.Now()
		rows = 0
		for after := (lifecycle.Cursor{}); ; {
			page, err := s.DuePage(b.Context(), archive.ID(1), now, after, size, 8<<20)
			if err != nil {
				b.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			rows += len(page)
			after = lifecycle.Cursor{DueAt: page[len(page)-1].DueAt, Seq: page[len(page)-1].Seq}
		}
		b.ReportMetric(float64(rows)/time.Since(start).Seconds(), "due-sealed/s")
	}
}
