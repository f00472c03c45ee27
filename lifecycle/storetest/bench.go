package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// benchRows is the size of a benchmark's database; a power of ten, so that a
// rate can be read off the time.
const benchRows = 100_000

// Benchmark measures the store alone: how many records a second it takes in,
// and how many it takes through a sweep. Payloads have 600 bytes, batches and
// pages are those of lifecycle.DefaultLimits. Run with -benchtime 1x.
func Benchmark(b *testing.B, open func(testing.TB) Harness) {
	limits := lifecycle.DefaultLimits()
	rate := func(b *testing.B, what string, n int, start time.Time) {
		b.ReportMetric(float64(n)/time.Since(start).Seconds(), what+"/s")
	}
	for range b.N {
		k := newKit(b, open(b))
		start := time.Now()
		payload := make([]byte, 600)
		var ids []string
		classes := map[string]bool{}
		var batch []lifecycle.Sealed
		for i := range benchRows {
			// A hundred days of events, in order, as records arrive.
			r := row(fmt.Sprintf("cte-%08d", i), Start.Add(-keep-100*24*time.Hour+time.Duration(i)*86*time.Second),
				lot(fmt.Sprintf("LOT-%06d", i/5), fmt.Sprintf("https://id.example.org/%d", i%50)))
			r.Payload, r.WrappedDEK = payload, payload[:60]
			for _, c := range []string{r.Class, r.ArchiveClass} {
				if !classes[c] {
					classes[c], ids = true, append(ids, c)
				}
			}
			if batch = append(batch, r); len(batch) < limits.BatchRecords && i+1 < benchRows {
				continue
			}
			if len(ids) > 0 {
				k.openClasses(ids...)
			}
			var recordIDs []string
			for _, r := range batch {
				recordIDs = append(recordIDs, r.RecordID)
			}
			_, err := k.Existing(k.ctx, recordIDs)
			k.ok(err)
			_, err = k.Merge(k.ctx, batch, nil, leaf(lifecycle.ActionIngested))
			k.ok(err)
			batch, ids = batch[:0], ids[:0]
		}
		rate(b, "ingest", benchRows, start)

		k.begin()
		now := Start.Add(24 * time.Hour)
		due, err := k.DueClasses(k.ctx, now)
		k.ok(err)
		start = time.Now()
		pages := map[string][]lifecycle.Member{}
		for _, c := range due {
			for after := (lifecycle.Cursor{}); ; {
				page, err := k.DuePage(k.ctx, c, now, after, limits.BatchRecords, limits.BatchBytes)
				k.ok(err)
				if len(page) == 0 {
					break
				}
				last := page[len(page)-1]
				after = lifecycle.Cursor{DueAt: last.DueAt, Seq: last.Seq}
				pages[c] = append(pages[c], members(page...)...)
			}
		}
		rate(b, "read", benchRows, start)
		start = time.Now()
		for c, m := range pages {
			k.verified("seg-"+c, c, len(m))
			for len(m) > 0 {
				n := min(limits.LockRecords, len(m))
				k.softDelete(n, "seg-"+c, now, m[:n])
				m = m[n:]
			}
			k.ok(k.SettleSegment(k.ctx, k.lease, "seg-"+c, leaf(lifecycle.ActionSettled)))
		}
		rate(b, "soft-delete", benchRows, start)
		start = time.Now()
		dying, err := k.DyingClasses(k.ctx, now)
		k.ok(err)
		var over []string
		for _, c := range dying {
			over = append(over, c.ID)
		}
		if _, err := k.Condemn(k.ctx, k.lease, now, over, leaf(lifecycle.ActionShredIntent)); err != nil {
			k.Fatal(err)
		}
		if _, err := k.Execute(k.ctx, k.lease, now, over, leaf(lifecycle.ActionShredExecuting)); err != nil {
			k.Fatal(err)
		}
		k.ok(k.Destroyed(k.ctx, k.lease, over, Start, 1, leaf(lifecycle.ActionShredded)))
		rate(b, "condemn", benchRows, start)
		start = time.Now()
		for {
			n, err := k.DropCiphertext(k.ctx, k.lease, limits.LockRecords, leaf(lifecycle.ActionDropped))
			k.ok(err)
			if n == 0 {
				break
			}
		}
		rate(b, "drop", benchRows, start)
		k.end()
	}
}
