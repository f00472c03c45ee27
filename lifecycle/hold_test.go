package lifecycle_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// from adds input lots, "TLC" or "TLC/source", to a native line.
func from(line string, lots ...string) string {
	var in []cte.Lot
	for _, l := range lots {
		tlc, source, _ := strings.Cut(l, "/")
		in = append(in, cte.Lot{TLC: tlc, Source: source})
	}
	b, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	return strings.Replace(line, `"kde_payload"`, `"input_lots":`+string(b)+`,"kde_payload"`, 1)
}

// of adds a source to the lot of a native line.
func of(line, source string) string {
	return strings.Replace(line, `"event_type"`, fmt.Sprintf(`"tlc_source":%q,"event_type"`, source), 1)
}

func traced(tlc string, trace lifecycle.Trace) lifecycle.Scope {
	return lifecycle.Scope{TLC: tlc, Trace: trace}
}

// tryPlace places a hold with a reference.
func (w *world) tryPlace(kind lifecycle.HoldKind, reference string, scopes ...lifecycle.Scope) (lifecycle.PlaceResult, error) {
	return w.Place(context.Background(), lifecycle.PlaceRequest{Kind: kind, Reference: reference, Reason: "a test", Scopes: scopes})
}

func (w *world) release(id string) {
	w.t.Helper()
	if err := w.Release(context.Background(), id, "case closed"); err != nil {
		w.t.Fatal(err)
	}
}

// inBase lists those of the records whose stored state is the one given.
func (w *world) inBase(state lifecycle.State, ids ...string) (out []string) {
	w.t.Helper()
	for _, id := range ids {
		if r, err := w.store.Row(context.Background(), id); err != nil {
			w.t.Fatal(err)
		} else if r.State == state {
			out = append(out, id)
		}
	}
	return out
}

// allHolds is every hold and legal hold that there is, for what must change nothing.
func (w *world) allHolds() string {
	w.t.Helper()
	holds, err := w.store.Holds(context.Background(), false)
	if err != nil {
		w.t.Fatal(err)
	}
	legal, err := w.store.LegalHolds(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	var out strings.Builder
	for _, h := range holds {
		fmt.Fprintf(&out, "%+v\n", *h)
	}
	return out.String() + fmt.Sprintf("%+v", legal)
}

// A hold on a lot follows what was made from it, and what it was made from, as it was
// asked to; the plan, the dry run, the sweep and the record's own page agree.
func TestHoldFollowsLineage(t *testing.T) {
	ctx := context.Background()
	day := instant(t, "2022-09-14T09:00:00Z")
	for _, c := range []struct {
		name   string
		lines  []string // "out<in in"
		scope  lifecycle.Scope
		covers string
	}{
		{"three from one, both ways", []string{"A", "B<A", "C<A", "D<A", "X"}, traced("B", lifecycle.Both), "A B C D"},
		{"three from one, backward", []string{"A", "B<A", "C<A", "D<A", "X"}, traced("B", lifecycle.Backward), "A B"},
		{"three from one, forward", []string{"A", "B<A", "C<A", "D<A", "X"}, traced("A", lifecycle.Forward), "A B C D"},
		{"three from one, no trace", []string{"A", "B<A", "C<A", "D<A", "X"}, traced("B", lifecycle.TraceNone), "B"},
		{"diamond forward", []string{"A", "B<A", "C<A", "D<B C", "E<D", "X"}, traced("B", lifecycle.Forward), "B D E"},
		{"diamond backward", []string{"A", "B<A", "C<A", "D<B C", "E<D", "X"}, traced("E", lifecycle.Backward), "A B C D E"},
		{"diamond both ways", []string{"A", "B<A", "C<A", "D<B C", "E<D", "X"}, traced("B", lifecycle.Both), "A B C D E"},
		{"cycle", []string{"A<C", "B<A", "C<B", "D<C", "X<Y"}, traced("B", lifecycle.Forward), "A B C D"},
		{"cycle backward", []string{"A<C", "B<A", "C<B", "D<C", "X<Y"}, traced("B", lifecycle.Backward), "A B C"},
		{"of a place", []string{"A", "B<A", "C<B"}, lifecycle.Scope{RecordID: "B", Trace: lifecycle.Forward}, "B C"},
		{"of a beginning, known by lineage only", []string{"B<GHOST-1", "C<B", "D<ghost-1"}, lifecycle.Scope{TLCPrefix: "GHOST", Trace: lifecycle.Forward}, "B C"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var lines, ids []string
			for _, l := range c.lines {
				out, in, made := strings.Cut(l, "<")
				line := record(out, out, day)
				if made {
					line = from(line, strings.Fields(in)...)
				}
				lines, ids = append(lines, line), append(ids, out)
			}
			w.ingest(lines...)
			want := strings.Fields(c.covers)
			if res := w.place(c.scope); res.Covered != int64(len(want)) || !res.Counted {
				t.Errorf("placed: %+v, want %d covered", res, len(want))
			}
			set, err := w.HoldSet(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var planned []string
			for _, id := range ids {
				r, err := w.store.Row(ctx, id)
				if err != nil {
					t.Fatal(err)
				}
				if len(set.Covering(&r)) > 0 {
					planned = append(planned, id)
				}
			}
			slices.Sort(planned)
			if !slices.Equal(planned, want) {
				t.Errorf("the set covers %q, want %q", planned, want)
			}
			plan, err := w.DryRun(ctx, w.now)
			if err != nil || plan.Held != len(want) || plan.Archived != len(ids)-len(want) {
				t.Errorf("plan %+v, %v", plan, err)
			}
			if res := w.sweep(); res.Held != len(want) || res.Archived != len(ids)-len(want) {
				t.Errorf("sweep %+v", res)
			}
			kept := w.inBase(lifecycle.Active, ids...)
			if slices.Sort(kept); !slices.Equal(kept, want) {
				t.Errorf("the sweep left %q, want %q", kept, want)
			}
			for _, id := range ids {
				if v := w.view(id); (v.State == lifecycle.Held) != slices.Contains(want, id) || (len(v.Holds) == 1) != slices.Contains(want, id) {
					t.Errorf("%s is %s by %+v", id, v.State, v.Holds)
				}
			}
		})
	}
}

// What arrives after the hold, and what is made from that, is held from its first
// moment, until the hold is released.
func TestHeldOnArrival(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	day := instant(t, "2022-09-14T09:00:00Z")
	w.ingest(record("first", "A", day))
	hold := w.place(traced("A", lifecycle.Forward))
	if res := w.sweep(); res.Held != 1 || res.Archived != 0 {
		t.Fatalf("%+v", res)
	}
	w.ingest(record("late", "A", day.Add(time.Hour)), record("plain", "X", day))
	w.ingest(from(record("step-2", "C", day.AddDate(0, 0, 1)), "B"), record("step-2 too", "C", day.AddDate(0, 0, 2)))
	w.ingest(from(record("step-1", "B", day), "A"))
	held := []string{"first", "late", "step-1", "step-2", "step-2 too"}
	for range 3 {
		w.sweep()
		if got := w.inBase(lifecycle.Active, held...); len(got) != len(held) {
			t.Fatalf("left are %q", got)
		}
		w.now = w.now.AddDate(0, 0, 6)
	}
	if v := w.view("plain"); v.State != lifecycle.Archived {
		t.Errorf("%+v", v)
	}
	if v := w.view("step-2"); v.State != lifecycle.Held || actions(v) != "ingested:>held resealed:held>held" && !strings.HasPrefix(actions(v), "ingested:>held") {
		t.Errorf("%s", actions(v))
	}
	if _, err := w.HotLine(ctx, "step-2 too"); err != nil {
		t.Error(err)
	}
	w.release(hold.HoldID)
	if res := w.sweep(); res.Archived != len(held) || res.Held != 0 {
		t.Errorf("after the release: %+v", res)
	}
	w.verify()
}

// A record stays held until the last of its holds is released; each step is in the
// trail, with who and why.
func TestTwoHolds(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(from(record("a", "A", instant(t, "2022-09-14T09:00:00Z")), "ROOT"))
	one := w.place(lifecycle.Scope{TLC: "A"})
	w.Actor = "another"
	two := w.place(traced("ROOT", lifecycle.Forward))
	w.sweep()
	w.release(one.HoldID)
	if res := w.sweep(); res.Archived != 0 || res.Held != 1 {
		t.Fatalf("one of two is released: %+v", res)
	}
	if v := w.view("a"); v.State != lifecycle.Held || len(v.Holds) != 1 || v.Holds[0].HoldID != two.HoldID || v.Holds[0].PlacedBy != "another" {
		t.Fatalf("%+v", v)
	}
	w.Actor = "a third"
	if err := w.Release(ctx, two.HoldID, "nothing found"); err != nil {
		t.Fatal(err)
	}
	if res := w.sweep(); res.Archived != 1 || res.Held != 0 {
		t.Fatalf("both are released: %+v", res)
	}
	v := w.view("a")
	if got := actions(v); got != "ingested:>active hold-placed:active>held hold-placed:held>held resealed:held>held hold-released:held>held hold-released:held>active archived:active>archived" {
		t.Error(got)
	}
	var who []string
	for _, h := range v.History {
		if strings.HasPrefix(h.Action, "hold") {
			who = append(who, h.Actor)
		}
	}
	if !slices.Equal(who, []string{"tester", "another", "another", "a third"}) {
		t.Errorf("by %q", who)
	}
	for id, reason := range map[string]string{one.HoldID: "case closed", two.HoldID: "nothing found"} {
		leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Subject: id})
		if err != nil || len(leaves) != 2 || leaves[0].Action != lifecycle.ActionHoldPlaced || leaves[1].Action != lifecycle.ActionHoldReleased {
			t.Fatalf("%+v, %v", leaves, err)
		}
		var placed struct {
			Reason string            `json:"reason"`
			Scopes []lifecycle.Scope `json:"scopes"`
		}
		if err := json.Unmarshal(leaves[0].Body, &placed); err != nil || placed.Reason != "a test" || len(placed.Scopes) != 1 {
			t.Errorf("%s, %v", leaves[0].Body, err)
		}
		if !strings.Contains(string(leaves[1].Body), `"reason":"`+reason+`"`) {
			t.Errorf("%s", leaves[1].Body)
		}
		if h, err := w.Store.Hold(ctx, id); err != nil || h.ReleaseReason != reason || h.Open() {
			t.Errorf("%+v, %v", h, err)
		}
	}
	if err := w.Release(ctx, one.HoldID, "again"); !errors.Is(err, lifecycle.ErrReleased) {
		t.Errorf("released again: %v", err)
	}
	if err := w.Release(ctx, two.HoldID, " "); err == nil {
		t.Error("released without a reason")
	}
}

// A hold with an end is ended by the first sweep after it, which says so; not before.
func TestHoldUntil(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.ingest(record("a", "A", instant(t, "2022-09-14T09:00:00Z")), record("b", "B", instant(t, "2022-09-14T09:00:00Z")))
	until := w.now.Add(24*time.Hour + 1)
	res, err := w.Place(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{{TLC: "A"}}, Until: until, ReviewAt: w.now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Place(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{{TLC: "B"}}, Until: w.now}); err == nil {
		t.Error("a hold was placed whose end has come")
	}
	forever := w.place(lifecycle.Scope{TLC: "B"})
	plan := func(at time.Time, archived, held int) {
		t.Helper()
		if p, err := w.DryRun(ctx, at); err != nil || p.Archived != archived || p.Held != held {
			t.Errorf("planned for %s: %+v, %v", at, p, err)
		}
	}
	plan(w.now, 0, 2)
	plan(until.Add(-1), 0, 2)
	plan(until, 1, 1)
	w.now = until.Add(-1)
	if res := w.sweep(); res.Archived != 0 || res.Held != 2 {
		t.Fatalf("a nanosecond before: %+v", res)
	}
	h, err := w.Store.Hold(ctx, res.HoldID)
	if err != nil || !h.Open() || !h.Until.Equal(until) {
		t.Fatalf("%+v, %v", h, err)
	}
	if d, err := w.Describe(ctx, h, 5); err != nil || d.Status != "open" || !d.Overdue || d.Until != cte.FormatTime(until) {
		t.Errorf("%+v, %v", d, err)
	}
	// Its end has come, and no sweep has: it is still open, and whoever destroys still
	// looks at it.
	w.now = until
	if h, err := w.Store.Hold(ctx, res.HoldID); err != nil || !h.Open() {
		t.Fatalf("%+v, %v", h, err)
	}
	sweep := w.sweep()
	if sweep.Archived != 1 || sweep.Held != 1 {
		t.Fatalf("when its end has come: %+v", sweep)
	}
	h, err = w.Store.Hold(ctx, res.HoldID)
	if err != nil || h.Open() || !strings.Contains(h.ReleaseReason, cte.FormatTime(until)) || h.ReleasedBy != "tester" {
		t.Errorf("%+v, %v", h, err)
	}
	leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Subject: res.HoldID, Actions: []string{lifecycle.ActionHoldEnded}})
	if err != nil || len(leaves) != 1 || leaves[0].RunID != sweep.RunID || !strings.Contains(string(leaves[0].Body), "until "+cte.FormatTime(until)) {
		t.Errorf("%+v, %v", leaves, err)
	}
	if got := actions(w.view("a")); got != "ingested:>active hold-placed:active>held resealed:held>held hold-ended:held>active archived:active>archived" {
		t.Error(got)
	}
	if h, err := w.Store.Hold(ctx, forever.HoldID); err != nil || !h.Open() {
		t.Errorf("%+v, %v", h, err)
	}
}

// The same case placed again changes nothing; one with other scopes is refused, and
// grows by being extended.
func TestPlaceTwice(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	day := instant(t, "2022-09-14T09:00:00Z")
	w.ingest(record("a", "A", day), from(record("b", "B", day), "A"), record("c", "C", day))
	scopes := []lifecycle.Scope{{TLC: "A"}, {RecordID: "c"}}
	first, err := w.tryPlace(lifecycle.Recall, "CASE-1", scopes...)
	if err != nil || first.Unchanged || first.Covered != 2 || first.HoldID == "" || first.Status != "open" {
		t.Fatalf("%+v, %v", first, err)
	}
	before := dump(t, w) + w.allHolds()
	for _, again := range [][]lifecycle.Scope{scopes, {scopes[1], scopes[0]}, {scopes[0], scopes[1], scopes[0]}} {
		res, err := w.tryPlace(lifecycle.Recall, "CASE-1", again...)
		if err != nil || !res.Unchanged || res.HoldID != first.HoldID || res.Covered != 2 {
			t.Errorf("placed again: %+v, %v", res, err)
		}
	}
	for _, other := range [][]lifecycle.Scope{{scopes[0]}, {scopes[0], {RecordID: "b"}}, {traced("A", lifecycle.Forward), scopes[1]}, append(slices.Clone(scopes), lifecycle.Scope{RecordID: "b"})} {
		var oc *lifecycle.OtherCase
		if _, err := w.tryPlace(lifecycle.Recall, "CASE-1", other...); !errors.As(err, &oc) || oc.HoldID != first.HoldID || oc.Reference != "CASE-1" {
			t.Errorf("placed with other scopes: %v", err)
		}
	}
	if after := dump(t, w) + w.allHolds(); after != before {
		t.Errorf("placing again changed\n%s to\n%s", before, after)
	}
	if res, err := w.tryPlace(lifecycle.FDAInquiry, "CASE-1", scopes[0]); err != nil || res.Unchanged || res.HoldID == first.HoldID {
		t.Errorf("a case of another kind: %+v, %v", res, err)
	}

	res, err := w.Extend(ctx, first.HoldID, []lifecycle.Scope{traced("A", lifecycle.Forward), {RecordID: "c"}})
	if err != nil || res.Unchanged || res.Covered != 3 || res.HoldID != first.HoldID {
		t.Errorf("extended: %+v, %v", res, err)
	}
	leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Subject: first.HoldID, Actions: []string{lifecycle.ActionHoldExtended}})
	if err != nil || len(leaves) != 1 || strings.Contains(string(leaves[0].Body), "record_id") || !strings.Contains(string(leaves[0].Body), `"trace":"forward"`) {
		t.Errorf("%+v, %v", leaves, err)
	}
	before = dump(t, w) + w.allHolds()
	if res, err := w.Extend(ctx, first.HoldID, []lifecycle.Scope{traced("A", lifecycle.Forward)}); err != nil || !res.Unchanged || res.Covered != 3 {
		t.Errorf("extended again: %+v, %v", res, err)
	}
	if after := dump(t, w) + w.allHolds(); after != before {
		t.Error("extending again changed something")
	}
	// The case is what it has grown to.
	if res, err := w.tryPlace(lifecycle.Recall, "CASE-1", append(slices.Clone(scopes), traced("A", lifecycle.Forward))...); err != nil || !res.Unchanged {
		t.Errorf("placed as it has grown: %+v, %v", res, err)
	}
	if got := actions(w.view("b")); got != "ingested:>active hold-extended:active>held" {
		t.Error(got)
	}
	w.release(first.HoldID)
	for _, scopes := range [][]lifecycle.Scope{{{RecordID: "b"}}, scopes} {
		if _, err := w.Extend(ctx, first.HoldID, scopes); !errors.Is(err, lifecycle.ErrReleased) {
			t.Errorf("extended a released hold: %v", err)
		}
	}
	if _, err := w.Extend(ctx, "hold-none", scopes); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Errorf("extended none: %v", err)
	}
	// A closed case may be opened anew, under its reference.
	if res, err := w.tryPlace(lifecycle.Recall, "CASE-1", lifecycle.Scope{RecordID: "b"}); err != nil || res.Unchanged || res.HoldID == first.HoldID {
		t.Errorf("a new case: %+v, %v", res, err)
	}
}

// What a hold would cover is what it covers then, and asking changes nothing.
func TestWouldPlace(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	day := instant(t, "2022-09-14T09:00:00Z")
	w.ingest(record("a", "A", day), from(record("b", "B", day), "A"), record("near-1", "LOT-99", day))
	w.sweep()
	w.ingest(from(record("c", "C", day), "B"))
	before := dump(t, w) + w.allHolds()
	req := lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reference: "CASE-1", Reason: "a test", Scopes: []lifecycle.Scope{traced("A", lifecycle.Forward)}}
	would, err := w.WouldPlace(ctx, req)
	if err != nil || !would.DryRun || would.HoldID != "" || !would.Counted || would.Covered != 3 || would.Archived != 2 || would.TooLate != 0 {
		t.Errorf("%+v, %v", would, err)
	}
	if res, err := w.WouldPlace(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{{TLC: "LOT-9"}}}); err != nil || res.Covered != 0 || len(res.NearLots) != 1 || res.NearLots[0].TLC != "LOT-99" {
		t.Errorf("%+v, %v", res, err)
	}
	for _, bad := range []lifecycle.PlaceRequest{
		{Kind: lifecycle.Recall, Reason: "a test"}, {Kind: lifecycle.Recall, Scopes: req.Scopes}, {Kind: lifecycle.RetentionHold, Reason: "x", Scopes: req.Scopes}, {Kind: lifecycle.Recall, Reason: "x", Scopes: []lifecycle.Scope{{}}},
	} {
		if _, err := w.WouldPlace(ctx, bad); err == nil {
			t.Errorf("%+v would be placed", bad)
		}
		if _, err := w.Place(ctx, bad); err == nil {
			t.Errorf("%+v was placed", bad)
		}
	}
	if after := dump(t, w) + w.allHolds(); after != before {
		t.Errorf("asking changed\n%s to\n%s", before, after)
	}
	placed, err := w.Place(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if would.AllLots == 0 || len(would.Lots) != would.AllLots {
		t.Errorf("it would cover %d lots, and lists %+v", would.AllLots, would.Lots)
	}
	would.HoldID, would.DryRun, would.AllLots, would.Lots = placed.HoldID, false, 0, nil
	if !reflect.DeepEqual(placed, would) {
		t.Errorf("placed %+v, it would be %+v", placed, would)
	}
}

// No key goes that a hold on an archived record's hot copy needs; a sweep leaves its
// class, takes the others, and is not in the way of what comes later.
func TestHeldClassIsPinned(t *testing.T) {
	for name, scope := range map[string]lifecycle.Scope{"by its record": {RecordID: "a"}, "by a trace": traced("ROOT", lifecycle.Forward)} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			w := newWorld(t)
			due := w.Policy.Cutoff(w.now)
			w.ingest(from(record("a", "A", due), "ROOT"), record("beside", "B", due), record("before", "C", due.AddDate(0, 0, -1)))
			if res := w.sweep(); res.Archived != 3 || res.ShreddedClasses != 1 {
				t.Fatalf("%+v", res)
			}
			hold := w.place(scope)
			w.ingest(record("next", "D", due.AddDate(0, 0, 1)))
			w.now = w.now.AddDate(0, 0, 2)
			plan, err := w.DryRun(ctx, w.now)
			if err != nil {
				t.Fatal(err)
			}
			res := w.sweep()
			if res.Archived != 1 || res.ShreddedClasses != 1 || res.Failed != 0 {
				t.Errorf("%+v", res)
			}
			if plan.ShreddedClasses != res.ShreddedClasses {
				t.Errorf("the dry run said %d classes, the sweep took %d", plan.ShreddedClasses, res.ShreddedClasses)
			}
			for id, want := range map[string]bool{"a": false, "beside": false, "before": true, "next": true} {
				if v := w.view(id); v.BaseState != lifecycle.Archived || (v.ClassState == lifecycle.Destroyed) != want {
					t.Errorf("%s is %s, its class %s", id, v.BaseState, v.ClassState)
				}
			}
			if _, err := w.HotLine(ctx, "a"); errors.Is(err, lifecycle.ErrNotFound) {
				t.Error(err)
			}
			// What comes late for that day goes to the next generation, and its way.
			w.ingest(record("late", "E", due.Add(1)))
			for range 2 {
				w.sweep()
				w.now = w.now.AddDate(0, 0, 3)
			}
			if v := w.view("late"); v.State != lifecycle.Archived || v.ClassState != lifecycle.Destroyed || v.Class == w.view("a").Class {
				t.Errorf("%+v", v)
			}
			if v := w.view("a"); v.ClassState == lifecycle.Destroyed || v.State != lifecycle.Held {
				t.Errorf("%+v", v)
			}
			w.release(hold.HoldID)
			if res := w.sweep(); res.ShreddedClasses != 1 {
				t.Errorf("after the release: %+v", res)
			}
			if v := w.view("a"); v.ClassState != lifecycle.Destroyed {
				t.Errorf("%+v", v)
			}
			w.verify()
			checkTrail(t, w)
		})
	}
}

// A hold on a lot holds the records whose source is lacking, and not those of another
// source; so does its trace.
func TestTraceAndSources(t *testing.T) {
	w := newWorld(t)
	day := instant(t, "2022-09-14T09:00:00Z")
	w.ingest(of(record("a-s", "A", day), "S"), of(record("a-t", "A", day), "T"), record("a", "A", day),
		from(of(record("b", "B", day), "S"), "A/S"), from(of(record("c", "C", day), "S"), "A/T"), from(of(record("d", "D", day), "S"), "A"),
		of(record("b-t", "B", day), "T"))
	w.place(lifecycle.Scope{TLC: "A", TLCSource: "S", Trace: lifecycle.Forward})
	w.sweep()
	if got := w.inBase(lifecycle.Active, "a-s", "a-t", "a", "b", "c", "d", "b-t"); !slices.Equal(got, []string{"a-s", "a", "b", "d"}) {
		t.Errorf("left are %q", got)
	}
}
