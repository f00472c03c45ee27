package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// Start is the time of the first leaf of the database that a test is given, and
// what the suite takes for the present.
var Start = time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC)

// Init is the leaf to create that database with, at keyring epoch 0.
func Init() lifecycle.Leaf {
	return lifecycle.Leaf{At: Start, Actor: "storetest", Action: lifecycle.ActionInit}
}

// Harness is a new database.
type Harness struct {
	Store lifecycle.Store
	// Open opens the same database once more, as another process would:
	// nothing is shared with Store but the database. It registers the closing
	// with t.
	Open func(t testing.TB) lifecycle.Store
	// Raw, if set, does to the database what the Store has no method for: a
	// statement that both dialects know, on tables by their bare names.
	Raw func(sql string) error
}

// kit is a Store with what the tests would otherwise repeat. What it is asked
// to do has to succeed; what may fail is called on the Store itself.
type kit struct {
	testing.TB
	lifecycle.Store
	again func(testing.TB) lifecycle.Store
	raw   func(sql string) error
	ctx   context.Context
	lease lifecycle.Lease
	runs  int
}

func newKit(t testing.TB, h Harness) *kit {
	return &kit{TB: t, Store: h.Store, again: h.Open, raw: h.Raw, ctx: t.Context()}
}

func (k *kit) ok(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return t
}

// many is n, or a tenth of it where the race detector makes each row ten times as
// dear and a few rows race as well.
func many(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// leaf is an audit leaf at the suite's present.
func leaf(action string) lifecycle.Leaf {
	return lifecycle.Leaf{At: Start, Actor: "storetest", Action: action, Body: json.RawMessage(`{"by":"storetest"}`)}
}

const keep = 730 * 24 * time.Hour

// row is a record of an event at the given time, with bytes for ciphertext.
func row(id string, event time.Time, edit ...func(*lifecycle.Sealed)) lifecycle.Sealed {
	s := lifecycle.Sealed{
		Row: lifecycle.Row{
			RecordID: id, TLC: "LOT-1", TLCSource: "https://example.org/1", EventType: cte.Shipping,
			EventTimestamp: event, CreatedOrObtainedAt: event.Add(time.Hour), DueAt: event.Add(keep), PurgeNotBefore: lifecycle.PurgeNotBefore(event, event),
			Location: "FAC-001", Product: "PC-7782", Checksum: sha256.Sum256([]byte(id)), Content: sha256.Sum256([]byte("content of " + id)),
			Class: lifecycle.HotPeriod(event.Add(keep)).ID(1), ArchiveClass: lifecycle.ArchivePeriod(event.Add(keep + 365*24*time.Hour)).ID(1),
			State: lifecycle.Active,
		},
		Payload:    []byte("\x00sealed line of " + id + "\xff"),
		WrappedDEK: []byte("\x00wrapped DEK of " + id + "\xff"),
	}
	for _, e := range edit {
		e(&s)
	}
	return s
}

// lot puts a record into a lot.
func lot(tlc, source string) func(*lifecycle.Sealed) {
	return func(s *lifecycle.Sealed) { s.TLC, s.TLCSource = tlc, source }
}

// class is an open class of a period.
func class(p lifecycle.Period, n int) lifecycle.Class {
	return lifecycle.Class{ID: p.ID(n), Period: p, Generation: n, State: lifecycle.Open}
}

// classOf is the class with an id that Period.ID made.
func classOf(id string) lifecycle.Class {
	for _, kind := range []lifecycle.ClassKind{lifecycle.HotClass, lifecycle.DeferralClass, lifecycle.ArchiveClass, lifecycle.HoldClass} {
		layout := "2006-01"
		if kind == lifecycle.HotClass {
			layout = time.DateOnly
		}
		prefix := string(kind) + "-"
		if len(id) <= len(prefix)+len(layout) || id[:len(prefix)] != prefix {
			continue
		}
		start, err := time.Parse(layout, id[len(prefix):len(prefix)+len(layout)])
		if err != nil {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(id[len(prefix)+len(layout):], "-%d", &n); err == nil {
			return class(lifecycle.Period{Kind: kind, Start: start}, n)
		}
	}
	panic(id + " is not the id of a class")
}

// openClasses opens classes by their ids.
func (k *kit) openClasses(ids ...string) {
	k.Helper()
	var cs []lifecycle.Class
	for _, id := range ids {
		cs = append(cs, classOf(id))
	}
	k.ok(k.OpenClasses(k.ctx, cs, 0, leaf(lifecycle.ActionClassOpened)))
}

// take merges records, their classes opened first.
func (k *kit) take(rows ...lifecycle.Sealed) {
	k.Helper()
	var ids []string
	seen := map[string]bool{}
	for _, r := range rows {
		for _, id := range []string{r.Class, r.ArchiveClass} {
			if !seen[id] {
				ids, seen[id] = append(ids, id), true
			}
		}
	}
	k.openClasses(ids...)
	res, err := k.Merge(k.ctx, rows, nil, leaf(lifecycle.ActionIngested))
	k.ok(err)
	if res.Inserted != len(rows) {
		k.Fatalf("merged %d of %d records: %+v", res.Inserted, len(rows), res)
	}
}

// begin begins a sweep, whose lease the methods below use.
func (k *kit) begin() lifecycle.Lease {
	k.Helper()
	k.runs++
	var err error
	k.lease, err = k.BeginRun(k.ctx, run(fmt.Sprintf("run-sweep-%d", k.runs), "sweep"), leaf(lifecycle.ActionRunStarted))
	k.ok(err)
	return k.lease
}

func run(id, kind string) lifecycle.Run {
	return lifecycle.Run{ID: id, Kind: kind, Actor: "storetest", StartedAt: Start}
}

// end ends the sweep that begin began.
func (k *kit) end() {
	k.Helper()
	r := run(k.lease.RunID, "sweep")
	r.FinishedAt, r.Status, r.Result = Start.Add(time.Minute), "done", []byte(`{"due":1}`)
	k.ok(k.FinishRun(k.ctx, r, leaf(lifecycle.ActionRunFinished)))
}

func sum(s string) [32]byte { return sha256.Sum256([]byte(s)) }

// segment is a segment's row, with every field filled.
func (k *kit) segment(id, class string, records int) lifecycle.Segment {
	return lifecycle.Segment{
		ID: id, Class: class, State: lifecycle.Staged, RunID: k.lease.RunID, Records: records,
		ObjectKey: class + "/" + id + ".age", ObjectSize: 1 << 33, ObjectSHA256: sum(id + " object"), PlaintextSHA256: sum(id + " plaintext"), Root: sum(id + " root"),
		ManifestKey: class + "/" + id + ".json", ManifestSize: 4097, ManifestSHA256: sum(id + " manifest"),
		WrappedIdentity: []byte("\x00identity of " + id), RetainUntil: Start.Add(400 * 24 * time.Hour).Truncate(time.Second), CreatedAt: Start,
	}
}

func copies() []lifecycle.Copy {
	return []lifecycle.Copy{
		{Vault: "cold", ObjectVersion: "v-1", ManifestVersion: "v-2", RetainUntil: Start.Add(400 * 24 * time.Hour), VerifiedAt: Start.Add(time.Second)},
		{Vault: "main", ObjectVersion: "v-3", ManifestVersion: "v-4", RetainUntil: Start.Add(401 * 24 * time.Hour), VerifiedAt: Start.Add(2 * time.Second)},
	}
}

// verified stages and verifies a segment of an open class.
func (k *kit) verified(id, class string, records int) {
	k.Helper()
	k.ok(k.StageSegment(k.ctx, k.lease, k.segment(id, class, records), leaf(lifecycle.ActionStaged)))
	k.ok(k.VerifySegment(k.ctx, k.lease, id, copies(), leaf(lifecycle.ActionVerified)))
}

func members(rows ...lifecycle.Sealed) []lifecycle.Member {
	out := make([]lifecycle.Member, len(rows))
	for i, r := range rows {
		out[i] = lifecycle.Member{RecordID: r.RecordID, Checksum: r.Checksum}
	}
	return out
}

// softDelete wants so many of the records archived.
func (k *kit) softDelete(want int, segment string, now time.Time, m []lifecycle.Member) {
	k.Helper()
	done, err := k.SoftDelete(k.ctx, k.lease, segment, now, m, leaf(lifecycle.ActionArchived))
	k.ok(err)
	if done.Records != want {
		k.Fatalf("soft-deleted %d of %d, want %d", done.Records, len(m), want)
	}
}

// archive takes records of one archive class all the way into a segment.
func (k *kit) archive(segment string, rows ...lifecycle.Sealed) {
	k.Helper()
	k.verified(segment, rows[0].ArchiveClass, len(rows))
	k.softDelete(len(rows), segment, Start, members(rows...))
	k.ok(k.SettleSegment(k.ctx, k.lease, segment, leaf(lifecycle.ActionSettled)))
}

// execute condemns classes and takes them to executing.
func (k *kit) execute(classes ...string) {
	k.Helper()
	got, err := k.Condemn(k.ctx, k.lease, Start, classes, leaf(lifecycle.ActionShredIntent))
	k.ok(err)
	if len(got) != len(classes) {
		k.Fatalf("condemned %q of %q", got, classes)
	}
	ev, err := k.Execute(k.ctx, k.lease, Start, classes, leaf(lifecycle.ActionShredExecuting))
	k.ok(err)
	if len(ev) != len(classes) {
		k.Fatalf("evidence for %d of %q: %+v", len(ev), classes, ev)
	}
}

// destroy takes classes all the way.
func (k *kit) destroy(epoch uint64, classes ...string) {
	k.Helper()
	k.execute(classes...)
	k.ok(k.Destroyed(k.ctx, k.lease, classes, Start, epoch, leaf(lifecycle.ActionShredded)))
}

// placement is a hold on the scopes.
func placement(id string, scopes ...lifecycle.Scope) lifecycle.Placement {
	l := leaf(lifecycle.ActionHoldPlaced)
	l.Subject = id
	return lifecycle.Placement{
		Hold: lifecycle.Hold{ID: id, Kind: lifecycle.Recall, Reference: "FDA-" + id, Reason: "because of " + id, PlacedBy: "storetest", PlacedAt: Start, Scopes: scopes},
		Leaf: l,
	}
}

func onLot(tlc, source string) lifecycle.Scope { return lifecycle.Scope{TLC: tlc, TLCSource: source} }
func onRecord(id string) lifecycle.Scope       { return lifecycle.Scope{RecordID: id} }

func (k *kit) place(id string, scopes ...lifecycle.Scope) {
	k.Helper()
	k.ok(k.Place(k.ctx, placement(id, scopes...)))
}

func (k *kit) release(id string) {
	k.Helper()
	k.ok(k.Release(k.ctx, id, "it is over", leaf(lifecycle.ActionHoldReleased)))
}

// state is a record's stored state.
func (k *kit) state(id string) lifecycle.State {
	k.Helper()
	r, err := k.Row(k.ctx, id)
	k.ok(err)
	return r.State
}

func (k *kit) classState(id string) lifecycle.ClassState {
	k.Helper()
	cs, err := k.Classes(k.ctx, false)
	k.ok(err)
	for _, c := range cs {
		if c.ID == id {
			return c.State
		}
	}
	return ""
}
