package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

func placeAndRelease(k *kit) {
	k.take(row("a", expired, lot("L-1", "S")))
	p := placement("h-1", onLot("L-1", "S"), onLot("L-1", ""), onRecord("b"))
	p.Hold.Kind, p.Hold.PlacedAt = lifecycle.Litigation, Start.Add(7)
	k.ok(k.Place(k.ctx, p))
	k.unchanged("placing again", func() {
		k.ok(k.Place(k.ctx, p))
	})
	k.place("h-0", onRecord("a")) // placed second, though its id sorts first
	got, err := k.Store.Holds(k.ctx, true)
	k.ok(err)
	want := []*lifecycle.Hold{&p.Hold, ptr(placement("h-0", onRecord("a")).Hold)}
	if !reflect.DeepEqual(got, want) {
		k.Errorf("holds are\n%+v, want\n%+v", got, want)
	}
	l := leaf(lifecycle.ActionHoldReleased)
	l.At, l.Actor, l.Subject = Start.Add(time.Hour+9), "somebody", "h-1"
	k.ok(k.Release(k.ctx, "h-1", "it's over; 100%", l))
	p.Hold.ReleasedAt, p.Hold.ReleasedBy, p.Hold.ReleaseReason = l.At, "somebody", "it's over; 100%"
	if h, err := k.Hold(k.ctx, "h-1"); err != nil || !reflect.DeepEqual(*h, p.Hold) || h.Open() {
		k.Errorf("released hold is\n%+v, %v, want\n%+v", h, err, p.Hold)
	}
	k.unchanged("releasing what cannot be released", func() {
		if err := k.Release(k.ctx, "h-1", "again", l); !errors.Is(err, lifecycle.ErrReleased) {
			k.Errorf("released again: %v", err)
		}
		if err := k.Release(k.ctx, "h-9", "none", l); !errors.Is(err, lifecycle.ErrNotFound) {
			k.Errorf("released none: %v", err)
		}
		// Placing is idempotent; a released hold does not come back by it.
		if err := k.Place(k.ctx, placement("h-1", onLot("L-1", "S"))); err != nil {
			k.Errorf("placed again: %v", err)
		}
	})
	open, err := k.Store.Holds(k.ctx, true)
	k.ok(err)
	all, err := k.Store.Holds(k.ctx, false)
	k.ok(err)
	if len(open) != 1 || open[0].ID != "h-0" || len(all) != 2 || all[0].ID != "h-1" {
		k.Errorf("%d open, %d in all", len(open), len(all))
	}
}

func ptr[T any](v T) *T { return &v }

func coverage(k *kit) {
	a1, a2, none, other := row("a1", expired, lot("A", "S1")), row("a2", expired, lot("A", "S2")), row("none", expired, lot("A", "")), row("other", expired, lot("B", "S1"))
	k.take(a1, a2, none, other)
	k.place("h-any", onLot("A", ""))
	k.place("h-s1", onLot("A", "S1"))
	k.place("h-both", onLot("A", "S1"), onRecord("a1"), onRecord("other"), onLot("A", ""))
	k.place("h-none", onLot("C", "S1"), onRecord("nobody"))
	check := func(when string, want map[string]int64) {
		k.Helper()
		for id, n := range want {
			h, err := k.Hold(k.ctx, id)
			k.ok(err)
			c, err := k.Store.Coverage(k.ctx, lifecycle.Reach{Scopes: h.Scopes})
			if c.Archived = 0; err != nil || c != (lifecycle.Coverage{Covered: n}) {
				k.Errorf("%s, %s covers %+v, %v, want %d", when, id, c, err, n)
			}
		}
	}
	check("at first", map[string]int64{"h-any": 3, "h-s1": 2, "h-both": 4, "h-none": 0})
	// An archived record has a readable copy and is covered; and what arrives
	// later is, and what was released says what it would cover.
	k.begin()
	k.verified("seg-1", a1.ArchiveClass, 4)
	k.softDelete(0, "seg-1", Start, members(a1, a2, none, other))
	k.release("h-any")
	k.release("h-both")
	k.softDelete(2, "seg-1", Start, members(a1, a2, none, other))
	check("after archiving", map[string]int64{"h-any": 3, "h-s1": 2, "h-both": 4, "h-none": 0})
	k.take(row("nobody", expired.Add(time.Hour), lot("A", "S1")))
	check("after an arrival", map[string]int64{"h-any": 4, "h-s1": 3, "h-both": 5, "h-none": 1})
}

func nearMatches(k *kit) {
	lots := []string{"LOT-2024-001", "LOT-2024-002", "lot-2024-003", "100%_A", "100xyA", `back\slash`, "completely different", ""}
	for i, l := range lots {
		k.take(row(fmt.Sprintf("rec-%d-%s", i, l), expired, lot(l, fmt.Sprintf("S%d", i))))
	}
	k.take(row("second", expired, lot("LOT-2024-001", "S0")), row("third", expired, lot("LOT-2024-001", "S9")))
	for _, c := range []struct {
		code        string
		has, hasNot []string
	}{
		{"LOT-2024-00", []string{"LOT-2024-001", "LOT-2024-002", "lot-2024-003"}, []string{"completely different", "100%_A"}},
		{"lot-2024-001", []string{"LOT-2024-001"}, []string{"completely different"}},
		{"LOT-2024-001-X", []string{"LOT-2024-001"}, []string{"completely different", ""}},
		{"%", []string{"100%_A"}, []string{"LOT-2024-001", "completely different", "100xyA", `back\slash`}},
		{"%_", []string{"100%_A"}, []string{"LOT-2024-001", "completely different", "100xyA"}},
		{"_A", []string{"100%_A"}, []string{"100xyA", "LOT-2024-001"}},
		{`\`, []string{`back\slash`}, []string{"LOT-2024-001", "100%_A"}},
		{`back\sl`, []string{`back\slash`}, []string{"LOT-2024-001"}},
		{"'", nil, lots},
		{"nothing like it", nil, []string{"LOT-2024-001", "100%_A", ""}},
	} {
		near, err := k.NearLots(k.ctx, c.code, 100)
		k.ok(err)
		found := map[string]bool{}
		for _, l := range near {
			found[l.TLC] = true
		}
		for _, want := range c.has {
			if !found[want] {
				k.Errorf("near %q are %q, without %q", c.code, near, want)
			}
		}
		for _, not := range c.hasNot {
			if found[not] {
				k.Errorf("near %q are %q, with %q", c.code, near, not)
			}
		}
	}
	near, err := k.NearLots(k.ctx, "LOT-2024-001", 100)
	k.ok(err)
	n := 0
	for _, l := range near {
		if l.TLC == "LOT-2024-001" {
			n++
		}
	}
	if n != 2 || !slices.Contains(near, cte.Lot{TLC: "LOT-2024-001", Source: "S9"}) {
		k.Errorf("lots %q: a lot is its code and its source, each once", near)
	}
	if near, err = k.NearLots(k.ctx, "LOT-2024-00", 2); err != nil || len(near) != 2 {
		k.Errorf("%d lots of at most 2, %v", len(near), err)
	}
	recs, err := k.NearRecords(k.ctx, "REC-3-100%", 100)
	k.ok(err)
	if !slices.Contains(recs, "rec-3-100%_A") || slices.ContainsFunc(recs, func(id string) bool { return strings.HasPrefix(id, "second") }) {
		k.Errorf("records near: %q", recs)
	}
	if recs, err = k.NearRecords(k.ctx, "rec", 3); err != nil || len(recs) != 3 {
		k.Errorf("%d records of at most 3, %v", len(recs), err)
	}
}
