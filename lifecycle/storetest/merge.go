package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// same compares what was merged with what is there, but for what the Store gives.
func (k *kit) same(want lifecycle.Sealed) {
	k.Helper()
	got, err := k.SealedRow(k.ctx, want.RecordID)
	k.ok(err)
	if got.Seq <= 0 || got.IngestLeaf <= 0 {
		k.Errorf("record %q: seq %d, ingest leaf %d", want.RecordID, got.Seq, got.IngestLeaf)
	}
	want.Seq, want.IngestLeaf = got.Seq, got.IngestLeaf
	for _, t := range []*time.Time{&want.EventTimestamp, &want.CreatedOrObtainedAt, &want.DueAt, &want.PurgeNotBefore} {
		*t = t.UTC()
	}
	if !reflect.DeepEqual(got, want) {
		k.Errorf("record %q is\n%+v, want\n%+v", want.RecordID, got, want)
	}
}

// expired is the day of an event whose hot class is over at Start.
var expired = day("2022-09-14").Add(8*time.Hour + 30*time.Minute)

func merge(k *kit) {
	a := row("a", expired)
	b := row("b", expired.Add(time.Nanosecond), lot("", ""), func(s *lifecycle.Sealed) {
		s.EventType, s.Location, s.Product, s.Gaps = cte.Harvesting, "", "", []string{"farm_loc", "harvest_date"}
		// Given in another zone, kept in UTC.
		s.CreatedOrObtainedAt = s.CreatedOrObtainedAt.In(time.FixedZone("", 5*3600+1800))
	})
	k.take(a, b)
	k.same(a)
	k.same(b)
	ra, err := k.Row(k.ctx, "a")
	k.ok(err)
	rb, err := k.Row(k.ctx, "b")
	k.ok(err)
	info, err := k.Info(k.ctx)
	k.ok(err)
	if ra.Seq >= rb.Seq || ra.IngestLeaf != rb.IngestLeaf || ra.IngestLeaf != info.NewestLeaf.ID || info.NewestLeaf.Action != lifecycle.ActionIngested {
		k.Errorf("seq %d and %d, ingest leaves %d and %d, newest leaf %+v", ra.Seq, rb.Seq, ra.IngestLeaf, rb.IngestLeaf, info.NewestLeaf)
	}
}

func mergeAllOrNothing(k *kit) {
	k.take(row("a", expired))
	closed := row("c", day("2022-09-10"))
	k.openClasses(closed.Class, closed.ArchiveClass)
	k.begin()
	if ids, err := k.Condemn(k.ctx, k.lease, Start, []string{closed.Class}, leaf(lifecycle.ActionShredIntent)); err != nil || len(ids) != 1 {
		k.Fatalf("condemned %q, %v", ids, err)
	}
	hold := []lifecycle.Placement{placement("h-1", onRecord("b"))}
	for _, c := range []struct {
		name  string
		batch []lifecycle.Sealed
		want  lifecycle.MergeResult
		fails bool
	}{
		{name: "a taken id", batch: []lifecycle.Sealed{row("b", expired), row("a", expired)}, want: lifecycle.MergeResult{Exists: []string{"a"}}},
		{name: "a closed class", batch: []lifecycle.Sealed{row("b", expired), closed}, want: lifecycle.MergeResult{Closed: []string{closed.Class}}},
		{name: "both", batch: []lifecycle.Sealed{row("a", expired), closed}, want: lifecycle.MergeResult{Exists: []string{"a"}, Closed: []string{closed.Class}}},
		{name: "an unknown class", batch: []lifecycle.Sealed{row("b", expired), row("d", day("2020-01-01"))}, fails: true},
		{name: "an id twice", batch: []lifecycle.Sealed{row("b", expired), row("b", expired)}, fails: true},
	} {
		k.unchanged(c.name, func() {
			got, err := k.Merge(k.ctx, c.batch, hold, leaf(lifecycle.ActionIngested))
			if (err != nil) != c.fails || !reflect.DeepEqual(got, c.want) {
				k.Errorf("%s: %+v, %v, want %+v, error %v", c.name, got, err, c.want, c.fails)
			}
		})
	}
	// The same again, when its acknowledgement got lost: all of it exists.
	batch := []lifecycle.Sealed{row("x", expired), row("y", expired)}
	k.take(batch...)
	k.unchanged("a repeated merge", func() {
		got, err := k.Merge(k.ctx, batch, nil, leaf(lifecycle.ActionIngested))
		slices.Sort(got.Exists)
		if err != nil || !reflect.DeepEqual(got, lifecycle.MergeResult{Exists: []string{"x", "y"}}) {
			k.Errorf("merged again: %+v, %v", got, err)
		}
	})
}

func mergeWithHolds(k *kit) {
	a, b := row("a", expired), row("b", expired)
	k.openClasses(a.Class, a.ArchiveClass)
	res, err := k.Merge(k.ctx, []lifecycle.Sealed{a, b}, []lifecycle.Placement{placement("h-1", onRecord("a"))}, leaf(lifecycle.ActionIngested))
	if err != nil || res.Inserted != 2 {
		k.Fatalf("%+v, %v", res, err)
	}
	h, err := k.Hold(k.ctx, "h-1")
	k.ok(err)
	if want := placement("h-1", onRecord("a")).Hold; !reflect.DeepEqual(*h, want) {
		k.Errorf("hold is %+v, want %+v", *h, want)
	}
	if ls, err := k.Leaves(k.ctx, lifecycle.LeafQuery{Subject: "h-1"}); err != nil || len(ls) != 1 || ls[0].Action != lifecycle.ActionHoldPlaced {
		k.Errorf("the hold's leaves: %+v, %v", ls, err)
	}
	k.begin()
	k.verified("seg-1", a.ArchiveClass, 2)
	k.softDelete(1, "seg-1", Start, members(a, b))
	if k.state("a") != lifecycle.Active || k.state("b") != lifecycle.Archived {
		k.Errorf("a is %s, b is %s", k.state("a"), k.state("b"))
	}
}

func mergeMany(k *kit) {
	n := many(5000) + 3 // no multiple of anything
	batch := make([]lifecycle.Sealed, n)
	for i := range batch {
		batch[i] = row(fmt.Sprintf("r-%05d", i), expired.Add(time.Duration(i)*time.Minute))
	}
	k.take(batch...)
	for _, i := range []int{0, 1, 19, 20, n / 2, n - 2, n - 1} {
		k.same(batch[i])
	}
	var last int64
	i := 0
	for s, err := range k.Sealed(k.ctx, lifecycle.Query{}) {
		k.ok(err)
		if s.RecordID != batch[i].RecordID || s.Seq <= last {
			k.Fatalf("record %d is %s with seq %d after %d", i, s.RecordID, s.Seq, last)
		}
		last = s.Seq
		i++
	}
	if i != n {
		k.Errorf("%d of %d records", i, n)
	}
}

func existing(k *kit) {
	a, b := row("a", expired), row("b", expired)
	k.take(a, b)
	k.begin()
	k.archive("seg-1", a)
	got, err := k.Existing(k.ctx, []string{"b", "none", "a", "b"})
	k.ok(err)
	if want := map[string]lifecycle.Existing{
		"a": {State: lifecycle.Archived, ContentClass: a.ArchiveClass, Content: a.Content},
		"b": {State: lifecycle.Active, ContentClass: b.ArchiveClass, Content: b.Content},
	}; !reflect.DeepEqual(got, want) {
		k.Errorf("%+v, want %+v", got, want)
	}
	if got, err := k.Existing(k.ctx, nil); err != nil || len(got) != 0 {
		k.Errorf("of no ids: %v, %v", got, err)
	}
}

// oddText: ids and codes are kept and compared as they are.
func oddText(k *kit) {
	odd := []string{
		"plain", "PLAIN", " plain", "plain ", "1", "01", "1.0", "0x1", "null", "true", `"quoted"`, `back\slash`, `%`, `_`, `per%cent`, "it's", `a","b`, `["x"]`,
		"{}", "<b>&amp;", "tab\tand\nline", "\u2028", "é", "e\u0301", "名前", "🥬", "\U0010FFFF", "\ufeffmark", strings.Repeat("long", 128), "--", ";DROP TABLE records",
	}
	var batch []lifecycle.Sealed
	for _, id := range odd {
		batch = append(batch, row(id, expired, lot(id, id), func(s *lifecycle.Sealed) { s.Location, s.Product = id, id }))
	}
	k.take(batch...)
	got, err := k.Existing(k.ctx, odd)
	k.ok(err)
	sums, err := k.Store.Checksums(k.ctx, odd)
	k.ok(err)
	if len(got) != len(odd) || len(sums) != len(odd) {
		k.Errorf("%d and %d of %d ids found", len(got), len(sums), len(odd))
	}
	for i, id := range odd {
		k.same(batch[i])
		for _, q := range []lifecycle.Query{{RecordIDs: []string{id}}, {TLC: id}, {TLCSource: id}} {
			n := 0
			for r, err := range k.Rows(k.ctx, q) {
				k.ok(err)
				if n++; r.RecordID != id {
					k.Errorf("%+v finds %q", q, r.RecordID)
				}
			}
			if n != 1 {
				k.Errorf("%+v finds %d", q, n)
			}
		}
		k.place(fmt.Sprintf("hold-%d %s", i, id), onLot(id, id))
		if c, err := k.Store.Coverage(k.ctx, lifecycle.Reach{Scopes: []lifecycle.Scope{onLot(id, id)}}); err != nil || c.Covered != 1 {
			k.Errorf("a hold on lot %q covers %+v, %v", id, c, err)
		}
		if _, err := k.Hold(k.ctx, fmt.Sprintf("hold-%d %s", i, id)); err != nil {
			k.Error(err)
		}
	}
	k.begin()
	k.verified("seg-1", batch[0].ArchiveClass, len(batch))
	k.softDelete(0, "seg-1", Start, members(batch...))
	for i, id := range odd {
		k.release(fmt.Sprintf("hold-%d %s", i, id))
	}
	k.softDelete(len(odd), "seg-1", Start, members(batch...))
}

// times: from the first instant to the last, to the nanosecond, and in order.
func times(k *kit) {
	first, last := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
	in := []time.Time{
		first, first.Add(1), first.Add(2), day("0099-12-31"), day("0999-12-31"), day("1969-12-31").Add(24*time.Hour - 1), day("1970-01-01"), day("1970-01-01").Add(1),
		expired, expired.Add(9), expired.Add(10), expired.Add(99), expired.Add(100), expired.Add(time.Second - 1), expired.Add(time.Second),
		last.Add(-time.Second), last.Add(-1), last,
	}
	var batch []lifecycle.Sealed
	for i, t := range in {
		batch = append(batch, row(fmt.Sprintf("r-%02d", len(in)-i), t, func(s *lifecycle.Sealed) {
			s.CreatedOrObtainedAt = t
			if s.DueAt = t.Add(keep); s.DueAt.After(last) {
				s.DueAt = last
			}
			s.Class, s.ArchiveClass = lifecycle.HotPeriod(s.DueAt).ID(1), lifecycle.ArchivePeriod(last).ID(1)
		}))
	}
	slices.Reverse(batch)
	k.take(batch...)
	slices.Reverse(batch)
	for _, r := range batch {
		k.same(r)
	}
	i := 0
	for r, err := range k.Rows(k.ctx, lifecycle.Query{}) {
		k.ok(err)
		if !r.EventTimestamp.Equal(in[i]) {
			k.Errorf("row %d is of %s, want %s", i, r.EventTimestamp, in[i])
		}
		i++
	}
	for i, t := range in[1:] {
		n := 0
		for _, err := range k.Rows(k.ctx, lifecycle.Query{From: in[1], To: t}) {
			k.ok(err)
			n++
		}
		if n != i {
			k.Errorf("from %s to before %s there are %d, want %d", in[1], t, n, i)
		}
	}
	// Due to the nanosecond, and what is due at the last instant is due then.
	page, err := k.DueRows(k.ctx, batch[0].ArchiveClass, expired.Add(keep+10), lifecycle.Cursor{}, 100)
	k.ok(err)
	if len(page) != 11 {
		k.Errorf("%d are due, want 11", len(page))
	}
	if page, err = k.DueRows(k.ctx, batch[0].ArchiveClass, last, lifecycle.Cursor{}, 100); err != nil || len(page) != len(in) {
		k.Errorf("%d of %d are due at the end of time, %v", len(page), len(in), err)
	}
}

func latestClasses(k *kit) {
	hot, deferral, none := lifecycle.HotPeriod(day("2024-09-13")), lifecycle.DeferralPeriod(day("2024-09-01")), lifecycle.HotPeriod(day("2024-09-14"))
	month := lifecycle.ArchivePeriod(day("2024-09-01")) // the same start as the deferral period
	k.openClasses(hot.ID(1), deferral.ID(1), month.ID(1))
	want := map[lifecycle.Period]lifecycle.Class{hot: class(hot, 1), deferral: class(deferral, 1), month: class(month, 1)}
	check := func() {
		k.Helper()
		got, err := k.LatestClasses(k.ctx, []lifecycle.Period{none, hot, deferral, month, hot})
		k.ok(err)
		for p, c := range got {
			c.IntentLeaf, c.DestroyedAt, c.Epoch = 0, time.Time{}, 0
			got[p] = c
		}
		if !reflect.DeepEqual(got, want) {
			k.Errorf("latest classes are\n%+v, want\n%+v", got, want)
		}
	}
	check()
	k.begin()
	k.destroy(7, hot.ID(1))
	gone := class(hot, 1)
	gone.State = lifecycle.Destroyed
	want[hot] = gone
	check()
	// Ten after nine: by number, not by letters.
	for n := 2; n <= 10; n++ {
		k.openClasses(hot.ID(n))
		want[hot] = class(hot, n)
		check()
	}
	if got, err := k.LatestClasses(k.ctx, nil); err != nil || len(got) != 0 {
		k.Errorf("of no periods: %v, %v", got, err)
	}
}

func openClasses(k *kit) {
	p := lifecycle.HotPeriod(day("2024-09-13"))
	cs := []lifecycle.Class{class(p, 1)}
	epoch := func(want uint64) {
		k.Helper()
		if info, err := k.Info(k.ctx); err != nil || info.Epoch != want {
			k.Errorf("epoch %d, %v, want %d", info.Epoch, err, want)
		}
	}
	k.ok(k.OpenClasses(k.ctx, cs, 5, leaf(lifecycle.ActionClassOpened)))
	epoch(5)
	// Another process had a newer one to log: it does not go back.
	k.ok(k.OpenClasses(k.ctx, cs, 3, leaf(lifecycle.ActionClassOpened)))
	epoch(5)
	k.begin()
	k.destroy(9, p.ID(1))
	epoch(9)
	k.ok(k.OpenClasses(k.ctx, append(cs, class(p, 2)), 10, leaf(lifecycle.ActionClassOpened)))
	if k.classState(p.ID(1)) != lifecycle.Destroyed || k.classState(p.ID(2)) != lifecycle.Open {
		k.Errorf("classes are %s and %s", k.classState(p.ID(1)), k.classState(p.ID(2)))
	}
	epoch(10)
}
