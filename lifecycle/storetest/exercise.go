package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// Exercise runs the suite. open makes a new database for each test, created
// with Init, and registers the closing of Harness.Store with t; a store may be
// closed before that.
func Exercise(t *testing.T, open func(t testing.TB) Harness) {
	for _, c := range []struct {
		name string
		test func(*kit)
	}{
		{"Fresh", fresh},
		{"Merge", merge},
		{"MergeAllOrNothing", mergeAllOrNothing},
		{"MergeWithHolds", mergeWithHolds},
		{"MergeMany", mergeMany},
		{"Existing", existing},
		{"OddText", oddText},
		{"Times", times},
		{"LatestClasses", latestClasses},
		{"OpenClasses", openClasses},

		{"Due", due},
		{"DuePages", duePages},
		{"DuePageBytes", duePageBytes},
		{"Checksums", checksums},
		{"SegmentMoves", segmentMoves},
		{"Segments", segments},
		{"SoftDelete", softDelete},
		{"SoftDeleteHeld", softDeleteHeld},
		{"HoldBetween", holdBetween},
		{"Scopes", scopes},
		{"ScopesAtRandom", scopesAtRandom},

		{"Lineage", lineage},
		{"ScopeLots", scopeLots},
		{"Tracing", tracing},
		{"Arrivals", arrivals},
		{"LineageOnly", lineageOnly},
		{"ExtendTraced", extendTraced},
		{"LargeTraces", largeTraces},
		{"TraceAmongOthers", traceAmongOthers},
		{"TracesAtRandom", tracesAtRandom},

		{"Vaults", vaults},
		{"VaultJoins", vaultJoins},
		{"VaultRetires", vaultRetires},

		{"DyingClasses", dyingClasses},
		{"ClassDEKs", classDEKs},
		{"Reseal", reseal},
		{"Reschedule", reschedule},
		{"MoveSegment", moveSegment},
		{"Condemn", condemn},
		{"Execute", execute},
		{"Pins", pins},
		{"PinRace", pinRace},
		{"Destroyed", destroyed},
		{"DropCiphertext", dropCiphertext},
		{"DropLargeClass", dropLargeClass},
		{"Purge", purgeStore},
		{"Aggregates", aggregates},
		{"AcceptKeyring", acceptKeyring},

		{"PlaceAndRelease", placeAndRelease},
		{"References", references},
		{"FullHold", fullHold},
		{"OverIsNotReleased", overIsNotReleased},
		{"Extend", extend},
		{"Coverage", coverage},
		{"Detail", detail},
		{"Reaches", reaches},
		{"TooLate", tooLate},
		{"NearMatches", nearMatches},

		{"HeldCopies", heldCopies},
		{"LegalMoves", legalMoves},
		{"LegalUnderHolds", legalUnderHolds},
		{"LegalRace", legalRace},

		{"Runs", runs},
		{"OneRunAtATime", oneRunAtATime},
		{"Interrupted", interrupted},
		{"Fenced", fenced},

		{"Leaves", leaves},
		{"LeafQueries", leafQueries},
		{"RecordLeaves", recordLeaves},
		{"LeafRows", leafRows},
		{"ChecksumRoot", checksumRoot},

		{"Sequence", sequenced},
		{"SequenceMany", sequenceMany},
		{"SequenceConcurrently", sequenceConcurrently},
		{"Published", published},
		{"Rebase", rebase},
		{"Replay", replay},
		{"ReplayArchived", replayArchived},
		{"ReplayMoved", replayMoved},
		{"ReplayPurged", replayPurged},

		{"TrustedTime", trustedTime},
		{"AcceptClock", acceptClock},

		{"Rows", rows},
		{"NewestEvents", newestEvents},
		{"Sealed", sealed},
		{"Snapshot", snapshot},
		{"Iterators", iterators},
		{"NotFound", notFound},
		{"Counts", counts},
		{"Tallies", tallies},
		{"RunRecords", runRecords},
		{"MayUnmask", mayUnmask},

		{"Reopen", reopen},
		{"Cancelled", cancelled},
		{"Race", race},
		{"Concurrent", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(newKit(t, open(t))) })
	}
}

// dump is all that a Store can be asked, so that a test can see that something
// changed nothing.
func (k *kit) dump() string {
	k.Helper()
	d := map[string]any{}
	var err error
	put := func(name string, v any, e error) {
		if d[name] = v; err == nil {
			err = e
		}
	}
	add := func(v any, e error) { put(fmt.Sprintf("%T", v), v, e) }
	add(k.Info(k.ctx))
	add(k.Store.Holds(k.ctx, false))
	add(k.Store.Segments(k.ctx))
	add(k.Classes(k.ctx, true))
	add(k.Runs(k.ctx, 0))
	add(k.Store.Vaults(k.ctx))
	add(k.LegalHolds(k.ctx))
	add(k.Leaves(k.ctx, lifecycle.LeafQuery{}))
	add(k.LogState(k.ctx))
	add(k.Counts(k.ctx))
	add(k.Aggregates(k.ctx))
	var all []lifecycle.Sealed
	var lots []cte.Lot
	for r, e := range k.Rows(k.ctx, lifecycle.Query{}) {
		if e != nil {
			err = e
			break
		}
		s, e := k.SealedRow(k.ctx, r.RecordID)
		put("", nil, e)
		all, lots = append(all, s), append(lots, cte.Lot{TLC: s.TLC, Source: s.TLCSource})
	}
	add(all, nil)
	links, e := k.Links(k.ctx, lots, false)
	slices.SortFunc(links, func(a, b lifecycle.Link) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	add(links, e)
	k.ok(err)
	b, err := json.Marshal(d)
	k.ok(err)
	return string(b)
}

// unchanged runs fn and wants the database as it was before.
func (k *kit) unchanged(what string, fn func()) {
	k.Helper()
	before := k.dump()
	fn()
	if after := k.dump(); after != before {
		k.Errorf("%s changed the database from\n%s to\n%s", what, before, after)
	}
}

// fresh: what there is before anything was done.
func fresh(k *kit) {
	info, err := k.Info(k.ctx)
	k.ok(err)
	if !info.CreatedAt.Equal(Start) || !info.TrustedTime.Equal(Start) || info.Epoch != 0 || info.NewestLeaf.Action != lifecycle.ActionInit || info.NewestLeaf.ID <= 0 {
		k.Errorf("info of a new database: %+v", info)
	}
	for r, err := range k.Rows(k.ctx, lifecycle.Query{}) {
		k.Errorf("a row of a new database: %+v, %v", r, err)
	}
	if c, err := k.Counts(k.ctx); err != nil || c[lifecycle.Active]+c[lifecycle.Archived]+c[lifecycle.Purged] != 0 {
		k.Errorf("counts of a new database: %v, %v", c, err)
	}
	if due, err := k.DueClasses(k.ctx, Start); err != nil || len(due) > 0 {
		k.Errorf("due in a new database: %v, %v", due, err)
	}
	k.begin()
	if n, err := k.DropCiphertext(k.ctx, k.lease, 10, leaf(lifecycle.ActionDropped)); err != nil || n != 0 {
		k.Errorf("dropped %d in a new database, %v", n, err)
	}
}
