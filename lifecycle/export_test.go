package lifecycle_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/report"
)

// bodyOf is one field of a leaf's body.
func bodyOf[T any](t *testing.T, l lifecycle.Leaf, field string) (v T) {
	t.Helper()
	var body map[string]json.RawMessage
	if err := json.Unmarshal(l.Body, &body); err != nil {
		t.Fatal(err)
	}
	if body[field] == nil {
		t.Fatalf("leaf %s has no %s: %s", l.Action, field, l.Body)
	}
	if err := json.Unmarshal(body[field], &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// resultHash is what the trail has of a result: that of its line in JSON Lines.
func resultHash(t *testing.T, result any) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(result); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(bytes.TrimSpace(b.Bytes())))
}

// guarded is a Store whose role may not unmask, or whose Append a test watches.
type guarded struct {
	lifecycle.Store
	masks  bool
	role   string
	append func(lifecycle.Leaf) error
}

func (g *guarded) MayUnmask(context.Context) (bool, error) { return !g.masks, nil }

func (g *guarded) Append(ctx context.Context, l lifecycle.Leaf) error {
	if g.append != nil {
		if err := g.append(l); err != nil {
			return err
		}
	}
	return g.Store.Append(ctx, l)
}

func (g *guarded) Leaves(ctx context.Context, q lifecycle.LeafQuery) ([]lifecycle.Leaf, error) {
	leaves, err := g.Store.Leaves(ctx, q)
	for i := range leaves {
		leaves[i].Role = g.role
	}
	return leaves, err
}

// picked is a record that names a person.
func picked(id, lot string, at time.Time) string {
	return fmt.Sprintf(`{"record_id":%q,"traceability_lot_code":%q,"event_timestamp":%q,"kde_payload":{"harvester_phone":"+1 928 555 9999","n":1.50}}`, id, lot, cte.FormatTime(at))
}

// pickedWorld has an archived record, two hot ones, and one that names a person.
func pickedWorld(t *testing.T) (*world, *guarded) {
	w := newWorld(t)
	old := instant(t, "2022-09-14T09:00:00Z")
	w.ingest(record("old", "A", old))
	w.sweep()
	w.ingest(record("a", "A", w.now), picked("b", "B", w.now), record("c", "B", w.now))
	g := &guarded{Store: w.store}
	w.Store = g
	return w, g
}

// Who asked for what is in the trail before the first record is given; that somebody
// is shown who is named in one, before that one; how much was given, at the end.
func TestExportTrail(t *testing.T) {
	w, g := pickedWorld(t)
	var steps []string
	var leaves []lifecycle.Leaf
	g.append = func(l lifecycle.Leaf) error {
		steps, leaves = append(steps, l.Action), append(leaves, l)
		return nil
	}
	var sums [][32]byte
	from := w.now.Add(-9 * 365 * 24 * time.Hour)
	for f, err := range w.Export(t.Context(), lifecycle.Query{From: from}, false) {
		if err != nil {
			t.Fatal(err)
		}
		steps, sums = append(steps, f.Row.RecordID), append(sums, f.Row.Checksum)
		if f.Masked || f.Record.RecordID != f.Row.RecordID || cte.Checksum(f.Line) != f.Row.Checksum {
			t.Errorf("given: %+v", f)
		}
	}
	if want := []string{"export-begun", "a", "unmasked", "b", "c", "old", "exported"}; !slices.Equal(steps, want) {
		t.Fatalf("steps are %q, want %q", steps, want)
	}
	for _, l := range leaves {
		if !strings.HasPrefix(l.Subject, "export-20261121-") || l.Subject != leaves[0].Subject || l.Actor != "tester" || strings.Contains(string(l.Body), "928 555") {
			t.Errorf("leaf %+v", l)
		}
	}
	begun, end := leaves[0], leaves[2]
	if q := bodyOf[map[string]any](t, begun, "query"); len(q) != 1 || q["from"] != cte.FormatTime(from) || !bodyOf[bool](t, begun, "unmasked") {
		t.Errorf("the beginning: %s", begun.Body)
	}
	if bodyOf[string](t, end, "root") != fmt.Sprintf("%x", archive.Root(sums)) || bodyOf[int](t, end, "records") != 4 || bodyOf[int](t, end, "unreadable") != 0 ||
		bodyOf[int](t, end, "masked") != 0 || !bodyOf[bool](t, end, "unmasked") {
		t.Errorf("the end: %s", end.Body)
	}

	// Nobody is named: nothing is unmasked. And one record is an export too.
	steps = nil
	if f, err := w.Line(t.Context(), "old", false); err != nil || cte.Checksum(f.Line) != sums[3] {
		t.Errorf("line %+v, %v", f, err)
	}
	if want := []string{"export-begun", "exported"}; !slices.Equal(steps, want) {
		t.Errorf("steps are %q, want %q", steps, want)
	}

	// Whoever has enough after one record was given one; also who is interrupted.
	for range w.Export(t.Context(), lifecycle.Query{}, false) {
		break
	}
	if end = leaves[len(leaves)-1]; end.Action != lifecycle.ActionExported || bodyOf[int](t, end, "records") != 1 {
		t.Errorf("the end of a broken one: %+v", end)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range w.Export(ctx, lifecycle.Query{RecordIDs: []string{"a", "c"}}, false) {
		cancel()
		if err != nil {
			break
		}
	}
	cancel()
	if end = leaves[len(leaves)-1]; end.Action != lifecycle.ActionExported || bodyOf[int](t, end, "records") < 1 {
		t.Errorf("the end of an interrupted one: %+v", end)
	}
}

// What cannot be told to the trail is not given.
func TestExportUntold(t *testing.T) {
	for action, want := range map[string][]string{
		lifecycle.ActionExportBegun: nil,
		lifecycle.ActionUnmasked:    {"a"},
		lifecycle.ActionExported:    {"a", "b", "c", "old"},
	} {
		w, g := pickedWorld(t)
		full := errors.New("disk full")
		g.append = func(l lifecycle.Leaf) error {
			if l.Action == action {
				return full
			}
			return nil
		}
		var given []string
		var last error
		for f, err := range w.Export(t.Context(), lifecycle.Query{}, false) {
			if last = err; err != nil {
				if f.Record != nil || f.Line != nil {
					t.Errorf("%s: given with an error: %+v", action, f)
				}
				continue
			}
			given = append(given, f.Row.RecordID)
		}
		if !errors.Is(last, full) || !slices.Equal(given, want) {
			t.Errorf("%s: given %q, %v", action, given, last)
		}
	}
}

// A role that may not unmask is not shown who is named, nor is one who asks for it so.
func TestExportMasked(t *testing.T) {
	for _, masks := range []bool{false, true} {
		w, g := pickedWorld(t)
		g.masks = masks
		var leaves []lifecycle.Leaf
		g.append = func(l lifecycle.Leaf) error { leaves = append(leaves, l); return nil }
		n := 0
		for f, err := range w.Export(t.Context(), lifecycle.Query{}, !masks) {
			if err != nil {
				t.Fatal(err)
			}
			native := string(f.Record.AppendNative(nil))
			if n++; strings.Contains(native+string(f.Line), "928 555") {
				t.Errorf("%s: %s", native, f.Line)
			}
			if f.Masked != (f.Row.RecordID == "b") || f.Masked && !strings.Contains(native, `"kde_payload":{"harvester_phone":"[masked]","n":1.50}`) || f.Masked == (cte.Checksum(f.Line) == f.Row.Checksum) {
				t.Errorf("%v: %s", f.Masked, native)
			}
		}
		if n != 4 || len(leaves) != 2 || bodyOf[bool](t, leaves[0], "unmasked") || bodyOf[int](t, leaves[1], "masked") != 1 || bodyOf[bool](t, leaves[1], "unmasked") {
			t.Errorf("%d given, %+v", n, leaves)
		}
		segments, err := w.Store.Segments(t.Context())
		if err != nil || len(segments) != 1 {
			t.Fatal(segments, err)
		}
		secret, err := w.SegmentIdentity(t.Context(), segments[0].ID)
		if _, refused := lifecycle.IsRefused(err); refused != masks || masks && (secret != "" || len(leaves) != 2) {
			t.Errorf("the identity of a segment: refused %v, %v, %+v", refused, err, leaves[2:])
		}
	}
}

// A limit counts what one identity was given on a UTC day, by whatever way.
func TestExportLimit(t *testing.T) {
	w, g := pickedWorld(t)
	w.Limits.ExportRecords = 3
	export := func(q lifecycle.Query) (n int, refused bool) {
		t.Helper()
		for f, err := range w.Export(t.Context(), q, false) {
			if _, refused = lifecycle.IsRefused(err); err != nil && !refused {
				t.Fatal(err)
			}
			if f.Record != nil {
				n++
			}
		}
		return n, refused
	}
	want := func(q lifecycle.Query, n int, refused bool) {
		t.Helper()
		if got, was := export(q); got != n || was != refused {
			t.Errorf("given %d, refused %v; want %d, %v", got, was, n, refused)
		}
	}
	want(lifecycle.Query{TLC: "B"}, 2, false)
	want(lifecycle.Query{}, 1, true)
	leaves, err := w.Store.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{lifecycle.ActionExportLimit}})
	if err != nil || len(leaves) != 1 || bodyOf[string](t, leaves[0], "identity") != "tester" || bodyOf[int](t, leaves[0], "limit") != 3 {
		t.Errorf("%+v, %v", leaves, err)
	}
	if _, err := w.Line(t.Context(), "a", false); err == nil {
		t.Error("one more was shown")
	}
	want(lifecycle.Query{RecordIDs: []string{"none"}}, 0, false)
	// Somebody else, and the next day, begin anew.
	w.Actor = "other"
	want(lifecycle.Query{}, 3, true)
	w.Actor = "tester"
	w.now = w.now.Add(14*time.Hour - time.Nanosecond) // the last moment of the day
	want(lifecycle.Query{}, 0, true)
	w.now = w.now.Add(time.Nanosecond)
	// One that never came to its end counts as all that it might have given.
	g.append = func(l lifecycle.Leaf) error {
		if l.Action == lifecycle.ActionExported {
			return errors.New("killed")
		}
		return nil
	}
	for range w.Export(t.Context(), lifecycle.Query{TLC: "B"}, false) {
		break
	}
	g.append = nil
	want(lifecycle.Query{}, 1, true)
	// The identity is the role where the server has authenticated one.
	w.now = w.now.Add(24 * time.Hour)
	g.role = "reader"
	want(lifecycle.Query{TLC: "A"}, 2, false)
	w.Actor = "nobody"
	want(lifecycle.Query{}, 1, true)
}

// What only reads leaves its leaf too.
func TestReadsTrail(t *testing.T) {
	w, _ := pickedWorld(t)
	last := func(action string) lifecycle.Leaf {
		t.Helper()
		info, err := w.Store.Info(t.Context())
		if err != nil || info.NewestLeaf.Action != action {
			t.Fatalf("the newest leaf is %+v, %v; want %s", info.NewestLeaf, err, action)
		}
		return info.NewestLeaf
	}
	res := w.verify()
	if l := last(lifecycle.ActionVerifyDone); bodyOf[string](t, l, "result_sha256") != resultHash(t, res) || bodyOf[int](t, l, "records") != 4 || bodyOf[int](t, l, "mismatches") != 0 {
		t.Errorf("verify: %s", l.Body)
	}
	for range report.Checksums(t.Context(), w.Engine, lifecycle.Query{TLC: "B"}) {
	}
	if l := last(lifecycle.ActionReported); bodyOf[string](t, l, "report") != "checksums" || bodyOf[int](t, l, "rows") != 2 || bodyOf[map[string]any](t, l, "query")["traceability_lot_code"] != "B" {
		t.Errorf("report: %s", l.Body)
	}
	var sums bytes.Buffer
	if err := report.SHA256Sums(t.Context(), &sums, w.Engine, lifecycle.Query{}); err != nil {
		t.Fatal(err)
	}
	if l := last(lifecycle.ActionReported); bodyOf[string](t, l, "report") != "sha256sum" || bodyOf[int](t, l, "rows") != 2 || bytes.Count(sums.Bytes(), []byte("\n")) != 2 {
		t.Errorf("report: %s", l.Body)
	}
	would, err := w.WouldPlace(t.Context(), lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{{TLC: "B"}}})
	if err != nil {
		t.Fatal(err)
	}
	if l := last(lifecycle.ActionDryRun); bodyOf[string](t, l, "result_sha256") != resultHash(t, would) || bodyOf[string](t, l, "as_of") != cte.FormatTime(w.now) {
		t.Errorf("a hold's dry run: %s", l.Body)
	}
	if err := w.AppendRefused(t.Context(), "sweep", "clock", "it is late"); err != nil {
		t.Fatal(err)
	}
	if l := last(lifecycle.ActionRefused); bodyOf[string](t, l, "command") != "sweep" || bodyOf[string](t, l, "check") != "clock" || bodyOf[string](t, l, "reason") != "it is late" {
		t.Errorf("refused: %s", l.Body)
	}
}

// The trail is searched by what tells of a record or a lot, and by everything else.
func TestTrailOf(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	old := instant(t, "2022-09-14T09:00:00Z")
	w.ingest(record("old", "A", old))
	for range w.Export(ctx, lifecycle.Query{TLC: "B"}, false) { // asked for before it was there
	}
	w.ingest(record("b-1", "B", w.now), record("b-2", "B", w.now))
	placed, err := w.Place(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{{TLCPrefix: "A"}, {TLC: "C"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Release(ctx, placed.HoldID, "over"); err != nil {
		t.Fatal(err)
	}
	w.sweep()
	w.now = w.now.Add(time.Minute)
	w.Actor = "reader"
	for _, q := range []lifecycle.Query{{RecordIDs: []string{"old", "b-1"}}, {To: old}} {
		for range w.Export(ctx, q, false) {
		}
	}
	actions := func(leaves []lifecycle.Leaf, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for i, l := range leaves {
			if i > 0 && l.ID <= leaves[i-1].ID {
				t.Errorf("leaf %d after %d", l.ID, leaves[i-1].ID)
			}
			out = append(out, l.Action)
		}
		return strings.Join(out, " ")
	}
	const export = " export-begun exported"
	ofOld := "ingested hold-placed hold-released segment-staged segment-verified archived segment-settled shred-intent shred-executing shredded" + export
	for _, c := range []struct {
		id, want string
		q        lifecycle.LeafQuery
	}{
		{"old", ofOld, lifecycle.LeafQuery{}},
		{"old", "export-begun exported", lifecycle.LeafQuery{Actor: "reader"}},
		{"old", "export-begun exported", lifecycle.LeafQuery{From: w.now}},
		{"old", strings.TrimSuffix(ofOld, export), lifecycle.LeafQuery{To: w.now}},
		{"old", "hold-placed hold-released", lifecycle.LeafQuery{Subject: placed.HoldID}},
		{"old", "archived exported", lifecycle.LeafQuery{Actions: []string{"archived", "exported"}}},
		{"b-1", "ingested export-begun exported", lifecycle.LeafQuery{}},
		{"b-2", "ingested", lifecycle.LeafQuery{}},
	} {
		if got := actions(w.RecordTrail(ctx, c.id, c.q)); got != c.want {
			t.Errorf("%s, %+v:\n%s, want\n%s", c.id, c.q, got, c.want)
		}
	}
	if _, err := w.RecordTrail(ctx, "none", lifecycle.LeafQuery{}); !errors.Is(err, lifecycle.ErrNotFound) {
		t.Errorf("of no record: %v", err)
	}
	for lot, want := range map[string]string{"A": ofOld, "B": "ingested export-begun exported", "C": "hold-placed hold-released", "D": ""} {
		leaves, cut, err := w.LotTrail(ctx, cte.Lot{TLC: lot}, lifecycle.LeafQuery{})
		if got := actions(leaves, err); got != want || cut {
			t.Errorf("lot %s: %s, want %s", lot, got, want)
		}
	}
	// Everything, and what is left after some of it.
	var all []lifecycle.Leaf
	for l, err := range w.Trail(ctx, lifecycle.LeafQuery{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	n := 0
	for l := range w.Trail(ctx, lifecycle.LeafQuery{After: all[5].ID}) {
		if n++; l.ID <= all[5].ID {
			t.Errorf("leaf %d after %d", l.ID, all[5].ID)
		}
	}
	if n != len(all)-6 {
		t.Errorf("%d of %d leaves come after the sixth", n, len(all))
	}
	// A lot with more records than anybody would look at.
	var many []string
	for i := range 1001 {
		many = append(many, record(fmt.Sprint("m-", i), "M", w.now))
	}
	w.ingest(many...)
	if leaves, cut, err := w.LotTrail(ctx, cte.Lot{TLC: "M"}, lifecycle.LeafQuery{}); err != nil || !cut || len(leaves) != 1 {
		t.Errorf("%d leaves, cut %v, %v", len(leaves), cut, err)
	}
}

// Actions has every action there is.
func TestActions(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "leaf.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Action") && spec.Names[0].Name != "Actions" {
			want = append(want, strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
		}
		return true
	})
	got := slices.Sorted(slices.Values(lifecycle.Actions))
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("Actions are %q, the constants %q", got, want)
	}
}
