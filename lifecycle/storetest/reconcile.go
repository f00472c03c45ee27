package storetest

import (
	"reflect"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func tallies(k *kit) {
	if got, err := k.Tallies(k.ctx, lifecycle.TallyQuery{}); err != nil || len(got) > 0 {
		k.Errorf("a new database: %+v, %v", got, err)
	}
	k.world()
	late := row("z", expired.Add(48*time.Hour), lot("LOT-Z", "S1"))
	k.take(late)
	first, err := k.Row(k.ctx, "c")
	k.ok(err)
	zRow, err := k.Row(k.ctx, "z")
	k.ok(err)
	hot, archived := first.Class, first.ArchiveClass
	tally := func(state lifecycle.State, dek, segment string, held bool, n int64, record string) lifecycle.Tally {
		r, err := k.Row(k.ctx, record)
		k.ok(err)
		t := lifecycle.Tally{State: state, Class: hot, DEKClass: dek, ArchiveClass: archived, Segment: segment, Due: true, Held: held,
			Records: n, FirstRecord: record, FirstDue: r.DueAt, FirstLeaf: first.IngestLeaf}
		return t
	}
	want := []lifecycle.Tally{
		tally(lifecycle.Active, hot, "", false, 1, "c"),
		tally(lifecycle.Active, hot, "", true, 2, "d"),
		{State: lifecycle.Active, Class: zRow.Class, DEKClass: zRow.Class, ArchiveClass: zRow.ArchiveClass, Records: 1, FirstRecord: "z", FirstDue: zRow.DueAt, FirstLeaf: zRow.IngestLeaf},
		tally(lifecycle.Archived, "", "seg-1", false, 1, "a"),
		tally(lifecycle.Archived, "", "seg-2", false, 1, "f"),
		tally(lifecycle.Archived, "", "seg-2", true, 1, "b"),
	}
	got, err := k.Tallies(k.ctx, lifecycle.TallyQuery{DueBefore: late.DueAt, Reach: worldReach}) // at its due date it is not due before it
	k.ok(err)
	if !reflect.DeepEqual(got, want) {
		k.Errorf("got\n%+v, want\n%+v", got, want)
	}
	for _, q := range []lifecycle.TallyQuery{{}, {Reach: lifecycle.Reach{Scopes: []lifecycle.Scope{{All: true}}}}, {Reach: lifecycle.Reach{Scopes: []lifecycle.Scope{{Location: "FAC-001"}}}}} {
		got, err := k.Tallies(k.ctx, q)
		k.ok(err)
		var n int64
		for _, t := range got {
			n += t.Records
			if t.Due || t.Held != (len(q.Reach.Scopes) > 0) {
				k.Errorf("%+v: %+v", q, t)
			}
		}
		if n != 7 {
			k.Errorf("%+v: %d records", q, n)
		}
	}
}

func runRecords(k *kit) {
	if got, err := k.Store.RunRecords(k.ctx); err != nil || len(got) > 0 {
		k.Errorf("a new database: %v, %v", got, err)
	}
	a, b, c := row("a", expired), row("b", expired), row("c", expired)
	k.take(a)
	of := func(run, action string) lifecycle.Leaf {
		l := leaf(action)
		l.RunID = run
		return l
	}
	for run, rows := range map[string][]lifecycle.Sealed{"run-1": {b}, "run-2": {c, row("d", expired)}} {
		res, err := k.Merge(k.ctx, rows, nil, of(run, lifecycle.ActionIngested))
		k.ok(err)
		if res.Inserted != len(rows) {
			k.Fatalf("%+v", res)
		}
	}
	k.begin()
	k.verified("seg-1", a.ArchiveClass, 3)
	for run, m := range map[string][]lifecycle.Member{"run-2": members(a), "run-3": members(b, c)} {
		_, err := k.SoftDelete(k.ctx, k.lease, "seg-1", Start, m, of(run, lifecycle.ActionArchived))
		k.ok(err)
	}
	got, err := k.Store.RunRecords(k.ctx)
	k.ok(err)
	want := map[string]lifecycle.RunRecords{"": {TakenIn: 1}, "run-1": {TakenIn: 1}, "run-2": {TakenIn: 2, Active: 1, Archived: 1}, "run-3": {Archived: 2}}
	if !reflect.DeepEqual(got, want) {
		k.Errorf("%+v, want %+v", got, want)
	}
}
