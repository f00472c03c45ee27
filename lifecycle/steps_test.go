package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

const commandRules = `
  - {name: labelled, citation: c, match: 'lot == "LOT-L" && "organic" in labels', before: [{command: [count, x]}], action: archive_then_shred}
  - {name: a, citation: c, match: 'lot == "LOT-A"', before: [{command: [first]}, {aggregate: month_product_event_type}, {command: [second, now]}], action: archive_then_shred}
  - {name: b, citation: c, action: archive_then_shred}
`

// A rule destroys nothing, hot or archived, before its commands have succeeded, in each
// run anew; other rules go on.
func TestCommands(t *testing.T)             { commands(t, newWorld(t)) }
func TestCommandsOnPostgreSQL(t *testing.T) { commands(t, newWorldOnPostgreSQL(t)) }

func commands(t *testing.T, w *world) {
	ctx := context.Background()
	var ran []string
	fails := map[string]int{}
	w.Command = func(_ context.Context, c lifecycle.Command) (int, error) {
		ran = append(ran, fmt.Sprint(c.Rule, " ", strings.Join(c.Args, " "), ": ", strings.Join(c.Classes, " ")))
		if c.RunID == "" {
			t.Error("a command without a run")
		}
		if code := fails[c.Args[0]]; code < 0 {
			return code, errors.New("it is not there")
		} else if code > 0 {
			return code, nil
		}
		return 0, nil
	}
	swept := func(want ...string) lifecycle.SweepResult {
		t.Helper()
		ran = nil
		before := w.leaves()
		res := w.sweep()
		if !slices.Equal(ran, want) {
			t.Errorf("at %s ran\n%s, want\n%s", w.now, strings.Join(ran, "\n"), strings.Join(want, "\n"))
		}
		// The result and the trail have each.
		var steps []lifecycle.Leaf
		for _, l := range w.leaves()[len(before):] {
			if l.Action == lifecycle.ActionStep {
				steps = append(steps, l)
			}
		}
		if len(res.Steps) != len(want) || len(steps) != len(want) {
			t.Fatalf("%+v, %+v", res.Steps, steps)
		}
		for i, s := range res.Steps {
			l := steps[i]
			if l.RunID != res.RunID || bodyOf[string](t, l, "rule") != s.Rule || bodyOf[int](t, l, "step") != s.Step || bodyOf[string](t, l, "program") != s.Program ||
				bodyOf[int](t, l, "exit_code") != s.ExitCode || !slices.Equal(bodyOf[[]string](t, l, "classes"), s.Classes) || bodyOf[string](t, l, "policy_hash") == "" {
				t.Errorf("%+v, and the trail says %s", s, l.Body)
			}
		}
		return res
	}
	on := func(id, lot, day string) string {
		return obtained(record(id, lot, instant(t, day+"T09:00:00Z")), day+"T10:00:00Z")
	}
	state := func(id string, want lifecycle.ClassState) {
		t.Helper()
		if v := w.view(id); v.ClassState != want {
			t.Errorf("the class of %s is %s, want %s", id, v.ClassState, want)
		}
	}
	w.apply(parsed(t, commandRules))
	w.ingest(on("a", "LOT-A", "2022-09-14"), on("b", "LOT-B", "2022-09-14"), on("b-2", "LOT-B", "2022-09-15"), on("l", "LOT-L", "2022-09-16"),
		on("a-held", "LOT-A", "2022-09-17"), on("b-3", "LOT-B", "2022-09-17"), on("kept-class", "LOT-A", "2022-09-18"))
	w.place(lifecycle.Scope{RecordID: "a-held"})

	// One fails, and what shares a class with its rule's records stays too. Of what is held
	// nothing is asked: it has left its class.
	fails["second"] = 3
	asked := "hot-2024-09-13-1 hot-2024-09-17-1"
	got := swept("labelled count x: hot-2024-09-15-1", "a first: "+asked, "a second now: "+asked)
	if got.Archived != 6 || got.ShreddedClasses != 3 || !got.Steps[2].Failed() || got.Steps[1].Failed() || got.Steps[2].ExitCode != 3 {
		t.Errorf("%+v", got)
	}
	for id, want := range map[string]lifecycle.ClassState{"a": lifecycle.Open, "b": lifecycle.Open, "b-2": lifecycle.Destroyed, "l": lifecycle.Destroyed, "b-3": lifecycle.Destroyed, "kept-class": lifecycle.Open} {
		state(id, want)
	}
	// The first that fails is the last that is asked; a class that a hold pins is not due.
	fails["first"] = -1
	pin := w.place(lifecycle.Scope{RecordID: "kept-class"})
	if got = swept("a first: hot-2024-09-13-1"); got.Steps[0].Error != "it is not there" || got.ShreddedClasses != 0 {
		t.Errorf("%+v", got)
	}
	clear(fails)
	swept("a first: hot-2024-09-13-1", "a second now: hot-2024-09-13-1")
	state("a", lifecycle.Destroyed)
	if err := w.Release(ctx, pin.HoldID, "over"); err != nil {
		t.Fatal(err)
	}
	swept("a first: hot-2024-09-17-1", "a second now: hot-2024-09-17-1")
	state("kept-class", lifecycle.Destroyed)
	swept()

	// The same at the end of the archived copies.
	w.now = instant(t, "2027-01-01T00:00:00Z")
	w.accept()
	fails["second"] = 1
	if got = swept("labelled count x: archive-2026-12-1", "a first: archive-2026-12-1", "a second now: archive-2026-12-1"); got.Purged+got.PurgedClasses != 0 {
		t.Errorf("%+v", got)
	}
	w.read("a", "b", "b-2", "l", "a-held", "b-3", "kept-class")
	w.now = w.now.Add(25 * time.Hour)
	if res := w.reconcile(); len(res.Findings) != 1 || res.Findings[0].Kind != lifecycle.DriftClassOverdue || !strings.Contains(res.Findings[0].Detail, "a step of rule a failed: second") {
		t.Errorf("%+v", res.Findings)
	}
	clear(fails)
	if got = swept("labelled count x: archive-2026-12-1", "a first: archive-2026-12-1", "a second now: archive-2026-12-1"); got.Purged != 6 || got.PurgedClasses != 1 {
		t.Errorf("%+v", got)
	}
	w.unread("a", "b", "b-2", "l", "b-3", "kept-class")
	w.read("a-held")
	if got, err := w.Store.Aggregates(ctx); err != nil || !slices.Equal(got, []lifecycle.Aggregate{{Month: "2022-09", EventType: "shipping", Records: 2}}) {
		t.Errorf("%+v, %v", got, err)
	}
	w.clean("in the end")
	w.sound()

	// On a machine that may not run them there is no sweep.
	w.Command = nil
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !refusedBy(err, "policy") {
		t.Error(err)
	}
}

func refusedBy(err error, check string) bool {
	r, ok := lifecycle.IsRefused(err)
	return ok && r.Check == check
}

// TestCommandCancelled: a run that is ended while a command runs destroys nothing.
func TestCommandCancelled(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	w.Command = func(context.Context, lifecycle.Command) (int, error) { cancel(); return 0, nil }
	w.apply(parsed(t, "  - {name: r, citation: c, before: [{command: [x]}], action: archive}\n"))
	w.ingest(old("a", "L"))
	if _, err := w.Sweep(ctx, lifecycle.SweepOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if v := w.view("a"); v.State != lifecycle.Archived || v.ClassState != lifecycle.Open {
		t.Errorf("%+v", v)
	}
}

// TestCommandsNotAllowed: a policy with commands is neither applied nor approved where the
// machine is not to run them.
func TestCommandsNotAllowed(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	run := func(context.Context, lifecycle.Command) (int, error) { return 0, nil }
	w.ingest(old("a", "L"))
	p := parsed(t, "  - {name: r, citation: c, hot: P729D, before: [{command: [x]}], action: archive_then_shred}\n")
	if _, err := w.ApplyPolicy(ctx, p, "p.yaml", false); !refusedBy(err, "policy") {
		t.Error(err)
	}
	w.Command = run
	if res, err := w.ApplyPolicy(ctx, p, "p.yaml", true); err != nil || !res.Waiting {
		t.Errorf("%+v, %v", res, err)
	}
	w.Actor, w.Command = "another", nil
	if _, err := w.ApprovePolicy(ctx, p.Hash()); !refusedBy(err, "policy") {
		t.Error(err)
	}
	w.Command = run
	if res, err := w.ApprovePolicy(ctx, p.Hash()); err != nil || !res.Applied {
		t.Errorf("%+v, %v", res, err)
	}
}
