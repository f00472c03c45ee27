package storetest

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// world is a database with records in every state.
func (k *kit) world() map[string]lifecycle.Sealed {
	k.Helper()
	in := map[string]lifecycle.Sealed{}
	var all []lifecycle.Sealed
	for i, c := range []struct{ id, tlc, source string }{
		{"e", "LOT-1", "S1"}, {"d", "LOT-1", "S2"}, {"c", "lot-2", "S1"}, {"b", "50%_off", "S1"}, {"a", "50xxoff", ""}, {"f", "LOT-3", "S3"},
	} {
		in[c.id] = row(c.id, expired.Add(time.Duration(i/2)*time.Hour), lot(c.tlc, c.source)) // two and two at one time
		all = append(all, in[c.id])
	}
	k.take(all...)
	k.place("h-1", onLot("LOT-1", ""))
	k.begin()
	k.archive("seg-1", in["a"])
	k.archive("seg-2", in["f"], in["b"])
	k.place("h-2", onRecord("b"))
	k.place("h-3", onRecord("c"))
	k.release("h-3")
	return in
}

// worldReach is what the open holds of world cover.
var worldReach = lifecycle.Reach{Scopes: []lifecycle.Scope{onLot("LOT-1", ""), onRecord("b")}}

func rows(k *kit) {
	in := k.world()
	for _, c := range []struct {
		q    lifecycle.Query
		want string
	}{
		{lifecycle.Query{}, "debcaf"},
		{lifecycle.Query{Limit: 3}, "deb"},
		{lifecycle.Query{RecordIDs: []string{"f", "e", "none", "f"}}, "ef"},
		{lifecycle.Query{RecordIDs: []string{}}, ""},
		{lifecycle.Query{TLC: "LOT-1"}, "de"},
		{lifecycle.Query{TLC: "LOT-1", TLCSource: "S2"}, "d"},
		{lifecycle.Query{TLC: "lot-1"}, ""},
		{lifecycle.Query{TLCSource: "S1"}, "ebc"},
		{lifecycle.Query{LotContains: "OT-"}, "decf"},
		{lifecycle.Query{LotContains: "lot-2"}, "c"},
		{lifecycle.Query{LotContains: "%"}, "b"},
		{lifecycle.Query{LotContains: "0%_O"}, "b"},
		{lifecycle.Query{LotContains: "_"}, "b"},
		{lifecycle.Query{From: expired.Add(time.Hour)}, "bcaf"},
		{lifecycle.Query{From: expired.Add(1)}, "bcaf"},
		{lifecycle.Query{To: expired.Add(time.Hour)}, "de"},
		{lifecycle.Query{To: expired.Add(time.Hour + 1)}, "debc"},
		{lifecycle.Query{From: expired.Add(time.Hour), To: expired.Add(2 * time.Hour)}, "bc"},
		{lifecycle.Query{From: expired.Add(time.Hour).In(time.FixedZone("", -7*3600)), To: expired.Add(2 * time.Hour)}, "bc"},
		{lifecycle.Query{State: lifecycle.Active}, "dec"},
		{lifecycle.Query{State: lifecycle.Archived}, "baf"},
		{lifecycle.Query{State: lifecycle.Purged}, ""},
		{lifecycle.Query{State: lifecycle.Held}, "deb"},
		{lifecycle.Query{ExceptHeld: true}, "caf"},
		{lifecycle.Query{ExceptHeld: true, State: lifecycle.Active}, "c"},
		{lifecycle.Query{ExceptHeld: true, State: lifecycle.Held}, ""},
		{lifecycle.Query{Segment: "seg-2"}, "bf"},
		{lifecycle.Query{Segment: "seg-9"}, ""},
		{lifecycle.Query{Class: in["a"].Class}, "debcaf"},
		{lifecycle.Query{Class: in["a"].Class, Segment: "seg-2"}, "bf"},
		{lifecycle.Query{Class: in["a"].ArchiveClass}, ""},
		{lifecycle.Query{TLC: "LOT-1", State: lifecycle.Held, To: expired.Add(time.Hour), Limit: 1}, "d"},
	} {
		got := ""
		c.q.Reach = worldReach
		for r, err := range k.Rows(k.ctx, c.q) {
			k.ok(err)
			got += r.RecordID
			if one, err := k.Row(k.ctx, r.RecordID); err != nil || !reflect.DeepEqual(r, one) {
				k.Errorf("%+v is not %+v, %v", r, one, err)
			}
			if r.Checksum != in[r.RecordID].Checksum {
				k.Errorf("%s has another's checksum", r.RecordID)
			}
		}
		if got != c.want {
			k.Errorf("%+v finds %q, want %q", c.q, got, c.want)
		}
	}
}

// newestEvents: of each lot and source the newest event that is not after the time asked
// for, of whatever state, and of no lot that was not asked for.
func newestEvents(k *kit) {
	k.world()
	k.take(row("new", expired.Add(90*24*time.Hour), lot("LOT-1", "S1")), row("none", expired, lot("", "")))
	at := func(hours int) time.Time { return expired.Add(time.Duration(hours) * time.Hour) }
	for _, c := range []struct {
		tlcs  []string
		until time.Time
		want  map[cte.Lot]time.Time
	}{
		{[]string{"LOT-1", "LOT-3", "50xxoff", "none", "LOT-1"}, at(2), map[cte.Lot]time.Time{
			{TLC: "LOT-1", Source: "S1"}: at(0), {TLC: "LOT-1", Source: "S2"}: at(0), {TLC: "LOT-3", Source: "S3"}: at(2), {TLC: "50xxoff"}: at(2)}},
		{[]string{"LOT-1", "LOT-3"}, at(2).Add(-1), map[cte.Lot]time.Time{{TLC: "LOT-1", Source: "S1"}: at(0), {TLC: "LOT-1", Source: "S2"}: at(0)}},
		{[]string{"LOT-1"}, at(90 * 24), map[cte.Lot]time.Time{{TLC: "LOT-1", Source: "S1"}: at(90 * 24), {TLC: "LOT-1", Source: "S2"}: at(0)}},
		{[]string{"LOT-1"}, at(0).Add(-1), map[cte.Lot]time.Time{}},
		{nil, at(2), map[cte.Lot]time.Time{}},
	} {
		got, err := k.NewestEvents(k.ctx, c.tlcs, c.until)
		if k.ok(err); !maps.Equal(got, c.want) {
			k.Errorf("of %q until %s: %v, want %v", c.tlcs, c.until, got, c.want)
		}
	}
}

func sealed(k *kit) {
	in := k.world()
	for _, c := range []struct {
		q    lifecycle.Query
		want string
	}{
		// The active ones as they came in, then segment by segment.
		{lifecycle.Query{}, "edc" + "a" + "bf"},
		{lifecycle.Query{Limit: 2}, "ed"},
		{lifecycle.Query{Limit: 3}, "edc"},
		{lifecycle.Query{Limit: 4}, "edca"},
		{lifecycle.Query{Limit: 100}, "edcabf"},
		{lifecycle.Query{State: lifecycle.Archived, Limit: 1}, "a"},
		{lifecycle.Query{State: lifecycle.Active}, "edc"},
		{lifecycle.Query{State: lifecycle.Held}, "edb"},
		{lifecycle.Query{TLCSource: "S1"}, "ecb"},
		{lifecycle.Query{RecordIDs: []string{"f", "c"}}, "cf"},
		{lifecycle.Query{Segment: "seg-2"}, "bf"},
		{lifecycle.Query{From: expired.Add(time.Hour), To: expired.Add(2 * time.Hour)}, "cb"},
		{lifecycle.Query{TLC: "none"}, ""},
	} {
		got := ""
		c.q.Reach = worldReach
		for s, err := range k.Sealed(k.ctx, c.q) {
			k.ok(err)
			got += s.RecordID
			if r, err := k.Row(k.ctx, s.RecordID); err != nil || !reflect.DeepEqual(r, s.Row) {
				k.Errorf("%+v is not %+v, %v", s.Row, r, err)
			}
			want := in[s.RecordID]
			if s.State == lifecycle.Archived {
				want.WrappedDEK = nil
			} else if string(s.Payload) != string(want.Payload) {
				k.Errorf("%s has another's payload", s.RecordID)
			}
			if string(s.WrappedDEK) != string(want.WrappedDEK) {
				k.Errorf("%s has DEK %q, want %q", s.RecordID, s.WrappedDEK, want.WrappedDEK)
			}
		}
		if got != c.want {
			k.Errorf("%+v finds %q, want %q", c.q, got, c.want)
		}
	}
}

// snapshot: what another handle soft-deletes and merges meanwhile is neither
// missing nor given twice.
func snapshot(k *kit) {
	n := many(3000)
	var all []lifecycle.Sealed
	for i := range n {
		all = append(all, row(fmt.Sprintf("r-%04d", i), expired))
	}
	k.take(all...)
	k.begin()
	k.verified("seg-1", all[0].ArchiveClass, n)
	other := k.again(k)
	seen := map[string]bool{}
	for s, err := range other.Sealed(k.ctx, lifecycle.Query{}) {
		k.ok(err)
		if seen[s.RecordID] || s.State != lifecycle.Active || s.WrappedDEK == nil {
			k.Fatalf("%s, seen %v, is %s", s.RecordID, seen[s.RecordID], s.State)
		}
		seen[s.RecordID] = true
		switch len(seen) {
		case 10:
			k.softDelete(n/3, "seg-1", Start, members(all[:n/3]...))
			k.take(row("late", expired))
		case n / 2:
			k.softDelete(n-n/3, "seg-1", Start, members(all[n/3:]...))
		}
	}
	if len(seen) != n {
		k.Errorf("%d of %d records", len(seen), n)
	}
	archived := 0
	for s, err := range other.Sealed(k.ctx, lifecycle.Query{}) {
		k.ok(err)
		if s.State == lifecycle.Archived {
			archived++
		} else if s.RecordID != "late" {
			k.Errorf("%s is %s", s.RecordID, s.State)
		}
	}
	if archived != n {
		k.Errorf("%d of %d are archived", archived, n)
	}
}

// iterators: broken off early they leave nothing behind, and however many are
// under way, more can be asked in between.
func iterators(k *kit) {
	var all []lifecycle.Sealed
	for i := range 100 {
		all = append(all, row(fmt.Sprint(i), expired))
	}
	k.take(all...)
	ingested := k.newest(lifecycle.ActionIngested).ID
	for range 50 {
		for _, err := range k.Rows(k.ctx, lifecycle.Query{}) {
			k.ok(err)
			break
		}
		for _, err := range k.LeafRows(k.ctx, ingested) {
			k.ok(err)
			break
		}
		for _, err := range k.Sealed(k.ctx, lifecycle.Query{}) {
			k.ok(err)
			break
		}
	}
	var nest func(depth int)
	nest = func(depth int) {
		if depth == 0 {
			k.take(row("late", expired))
			k.state("late")
			return
		}
		for _, err := range k.Sealed(k.ctx, lifecycle.Query{Limit: 2}) {
			k.ok(err)
			for r, err := range k.Rows(k.ctx, lifecycle.Query{Limit: 2}) {
				k.ok(err)
				k.state(r.RecordID)
				nest(depth - 1)
				break
			}
			break
		}
	}
	nest(8)
	// A sequence can be ranged over again.
	seq := k.Rows(k.ctx, lifecycle.Query{Limit: 3})
	for range 2 {
		n := 0
		for _, err := range seq {
			k.ok(err)
			n++
		}
		if n != 3 {
			k.Errorf("%d rows of 3", n)
		}
	}
}

func notFound(k *kit) {
	for name, call := range map[string]func() error{
		"Row":       func() error { _, err := k.Row(k.ctx, "none"); return err },
		"SealedRow": func() error { _, err := k.SealedRow(k.ctx, "none"); return err },
		"Segment":   func() error { _, err := k.Segment(k.ctx, "none"); return err },
		"Run":       func() error { _, err := k.Run(k.ctx, "none"); return err },
		"Hold":      func() error { _, err := k.Hold(k.ctx, "none"); return err },
	} {
		if err := call(); !errors.Is(err, lifecycle.ErrNotFound) {
			k.Errorf("%s of none: %v", name, err)
		}
	}
}

func counts(k *kit) {
	k.world()
	got, err := k.Store.Counts(k.ctx)
	k.ok(err)
	if got[lifecycle.Active] != 3 || got[lifecycle.Archived] != 3 || got[lifecycle.Purged] != 0 || got[lifecycle.Held] != 0 {
		k.Errorf("%v: stored states only", got)
	}
	cs, err := k.Classes(k.ctx, true)
	k.ok(err)
	i := slices.IndexFunc(cs, func(c lifecycle.Class) bool { return c.Members > 0 })
	if i < 0 || cs[i].DEKs != 3 || cs[i].Members != 6 {
		k.Errorf("classes %+v", cs)
	}
	cs, err = k.Classes(k.ctx, false)
	k.ok(err)
	for _, c := range cs {
		if c.DEKs != 0 || c.Members != 0 {
			k.Errorf("not asked to count, %+v", c)
		}
	}
}

// mayUnmask: whoever owns the database may see all that is in it.
func mayUnmask(k *kit) {
	if may, err := k.MayUnmask(k.ctx); err != nil || !may {
		k.Errorf("the owner may unmask: %v, %v", may, err)
	}
}
