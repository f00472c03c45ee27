package storetest

import (
	"context"
	"errors"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/shred"
)

// Faulty is a Store whose calls fail when Fault says so. Fault is asked once a
// call, with the method's name. If before is not nil, the call fails with it
// and nothing is done; if after is not nil, the call is done, and reported
// failed with it: the acknowledgement that gets lost.
//
// An iterator asks when it is ranged over; with after set it yields everything,
// and the error last. Every method is written out below: with an embedded Store
// a new method would get through without a fault, and nobody would notice.
type Faulty struct {
	Store lifecycle.Store
	// Fault must be safe for concurrent use if the calls are concurrent.
	Fault func(method string) (before, after error)
}

var _ lifecycle.Store = (*Faulty)(nil)

// ErrFault is what a test's Fault fails calls with.
var ErrFault = errors.New("a fault of the test's making")

func (f *Faulty) do(method string, call func() error) error {
	_, err := get(f, method, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func get[T any](f *Faulty, method string, call func() (T, error)) (T, error) {
	var none T
	before, after := f.Fault(method)
	if before != nil {
		return none, before
	}
	v, err := call()
	if err == nil && after != nil {
		return none, after
	}
	return v, err
}

func each[T any](f *Faulty, method string, seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		before, after := f.Fault(method)
		if before != nil {
			yield(none, before)
			return
		}
		for v, err := range seq {
			if !yield(v, err) {
				return
			}
		}
		if after != nil {
			yield(none, after)
		}
	}
}

func (f *Faulty) Existing(ctx context.Context, ids []string) (map[string]lifecycle.Existing, error) {
	return get(f, "Existing", func() (map[string]lifecycle.Existing, error) { return f.Store.Existing(ctx, ids) })
}

func (f *Faulty) LatestClasses(ctx context.Context, periods []lifecycle.Period) (map[lifecycle.Period]lifecycle.Class, error) {
	return get(f, "LatestClasses", func() (map[lifecycle.Period]lifecycle.Class, error) { return f.Store.LatestClasses(ctx, periods) })
}

func (f *Faulty) OpenClasses(ctx context.Context, classes []lifecycle.Class, epoch uint64, leaf lifecycle.Leaf) error {
	return f.do("OpenClasses", func() error { return f.Store.OpenClasses(ctx, classes, epoch, leaf) })
}

func (f *Faulty) Merge(ctx context.Context, batch []lifecycle.Sealed, holds []lifecycle.Placement, leaf lifecycle.Leaf) (lifecycle.MergeResult, error) {
	return get(f, "Merge", func() (lifecycle.MergeResult, error) { return f.Store.Merge(ctx, batch, holds, leaf) })
}

func (f *Faulty) Place(ctx context.Context, p lifecycle.Placement) error {
	return f.do("Place", func() error { return f.Store.Place(ctx, p) })
}

func (f *Faulty) Extend(ctx context.Context, id string, scopes []lifecycle.Scope, leaf lifecycle.Leaf) error {
	return f.do("Extend", func() error { return f.Store.Extend(ctx, id, scopes, leaf) })
}

func (f *Faulty) Release(ctx context.Context, id, reason string, leaf lifecycle.Leaf) error {
	return f.do("Release", func() error { return f.Store.Release(ctx, id, reason, leaf) })
}

func (f *Faulty) Holds(ctx context.Context, openOnly bool) ([]*lifecycle.Hold, error) {
	return get(f, "Holds", func() ([]*lifecycle.Hold, error) { return f.Store.Holds(ctx, openOnly) })
}

func (f *Faulty) Hold(ctx context.Context, id string) (*lifecycle.Hold, error) {
	return get(f, "Hold", func() (*lifecycle.Hold, error) { return f.Store.Hold(ctx, id) })
}

func (f *Faulty) Coverage(ctx context.Context, r lifecycle.Reach) (lifecycle.Coverage, error) {
	return get(f, "Coverage", func() (lifecycle.Coverage, error) { return f.Store.Coverage(ctx, r) })
}

func (f *Faulty) Detail(ctx context.Context, r lifecycle.Reach, limit int) (lifecycle.Detail, error) {
	return get(f, "Detail", func() (lifecycle.Detail, error) { return f.Store.Detail(ctx, r, limit) })
}

func (f *Faulty) TooLate(ctx context.Context, r lifecycle.Reach) ([]lifecycle.Late, error) {
	return get(f, "TooLate", func() ([]lifecycle.Late, error) { return f.Store.TooLate(ctx, r) })
}

func (f *Faulty) Links(ctx context.Context, lots []cte.Lot, forward bool) ([]lifecycle.Link, error) {
	return get(f, "Links", func() ([]lifecycle.Link, error) { return f.Store.Links(ctx, lots, forward) })
}

func (f *Faulty) ScopeLots(ctx context.Context, s lifecycle.Scope) ([]cte.Lot, error) {
	return get(f, "ScopeLots", func() ([]cte.Lot, error) { return f.Store.ScopeLots(ctx, s) })
}

func (f *Faulty) TraceHolds(ctx context.Context) error {
	return f.do("TraceHolds", func() error { return f.Store.TraceHolds(ctx) })
}

func (f *Faulty) HeldCopies(ctx context.Context, r lifecycle.Reach) ([]lifecycle.HeldCopy, error) {
	return get(f, "HeldCopies", func() ([]lifecycle.HeldCopy, error) { return f.Store.HeldCopies(ctx, r) })
}

func (f *Faulty) LegalHolds(ctx context.Context) ([]lifecycle.HeldCopy, error) {
	return get(f, "LegalHolds", func() ([]lifecycle.HeldCopy, error) { return f.Store.LegalHolds(ctx) })
}

func (f *Faulty) MoveLegalHold(ctx context.Context, segment, vault string, from, to lifecycle.LegalState, leaf lifecycle.Leaf) error {
	return f.do("MoveLegalHold", func() error { return f.Store.MoveLegalHold(ctx, segment, vault, from, to, leaf) })
}

func (f *Faulty) NearLots(ctx context.Context, tlc string, limit int) ([]cte.Lot, error) {
	return get(f, "NearLots", func() ([]cte.Lot, error) { return f.Store.NearLots(ctx, tlc, limit) })
}

func (f *Faulty) NearRecords(ctx context.Context, id string, limit int) ([]string, error) {
	return get(f, "NearRecords", func() ([]string, error) { return f.Store.NearRecords(ctx, id, limit) })
}

func (f *Faulty) BeginRun(ctx context.Context, r lifecycle.Run, leaf lifecycle.Leaf) (lifecycle.Lease, error) {
	return get(f, "BeginRun", func() (lifecycle.Lease, error) { return f.Store.BeginRun(ctx, r, leaf) })
}

func (f *Faulty) FinishRun(ctx context.Context, r lifecycle.Run, leaf lifecycle.Leaf) error {
	return f.do("FinishRun", func() error { return f.Store.FinishRun(ctx, r, leaf) })
}

func (f *Faulty) DueClasses(ctx context.Context, now time.Time) ([]string, error) {
	return get(f, "DueClasses", func() ([]string, error) { return f.Store.DueClasses(ctx, now) })
}

func (f *Faulty) DueRows(ctx context.Context, archiveClass string, now time.Time, after lifecycle.Cursor, limit int) ([]lifecycle.Row, error) {
	return get(f, "DueRows", func() ([]lifecycle.Row, error) { return f.Store.DueRows(ctx, archiveClass, now, after, limit) })
}

func (f *Faulty) DuePage(ctx context.Context, archiveClass string, now time.Time, after lifecycle.Cursor, limit int, maxBytes int64) ([]lifecycle.Sealed, error) {
	return get(f, "DuePage", func() ([]lifecycle.Sealed, error) {
		return f.Store.DuePage(ctx, archiveClass, now, after, limit, maxBytes)
	})
}

func (f *Faulty) Checksums(ctx context.Context, ids []string) (map[string][32]byte, error) {
	return get(f, "Checksums", func() (map[string][32]byte, error) { return f.Store.Checksums(ctx, ids) })
}

func (f *Faulty) StageSegment(ctx context.Context, l lifecycle.Lease, s lifecycle.Segment, leaf lifecycle.Leaf) error {
	return f.do("StageSegment", func() error { return f.Store.StageSegment(ctx, l, s, leaf) })
}

func (f *Faulty) VerifySegment(ctx context.Context, l lifecycle.Lease, id string, copies []lifecycle.Copy, leaf lifecycle.Leaf) error {
	return f.do("VerifySegment", func() error { return f.Store.VerifySegment(ctx, l, id, copies, leaf) })
}

func (f *Faulty) AbandonSegment(ctx context.Context, l lifecycle.Lease, id string, leaf lifecycle.Leaf) error {
	return f.do("AbandonSegment", func() error { return f.Store.AbandonSegment(ctx, l, id, leaf) })
}

func (f *Faulty) SoftDelete(ctx context.Context, l lifecycle.Lease, segment string, now time.Time, members []lifecycle.Member, leaf lifecycle.Leaf) (lifecycle.SoftDeleted, error) {
	return get(f, "SoftDelete", func() (lifecycle.SoftDeleted, error) { return f.Store.SoftDelete(ctx, l, segment, now, members, leaf) })
}

func (f *Faulty) SettleSegment(ctx context.Context, l lifecycle.Lease, id string, leaf lifecycle.Leaf) error {
	return f.do("SettleSegment", func() error { return f.Store.SettleSegment(ctx, l, id, leaf) })
}

func (f *Faulty) DyingClasses(ctx context.Context, now time.Time) ([]lifecycle.Class, error) {
	return get(f, "DyingClasses", func() ([]lifecycle.Class, error) { return f.Store.DyingClasses(ctx, now) })
}

func (f *Faulty) ClassDEKs(ctx context.Context, class string, afterSeq int64, limit int) ([]lifecycle.DEK, error) {
	return get(f, "ClassDEKs", func() ([]lifecycle.DEK, error) { return f.Store.ClassDEKs(ctx, class, afterSeq, limit) })
}

func (f *Faulty) Reseal(ctx context.Context, l lifecycle.Lease, from, to string, deks map[int64][]byte, leaf lifecycle.Leaf) (int, error) {
	return get(f, "Reseal", func() (int, error) { return f.Store.Reseal(ctx, l, from, to, deks, leaf) })
}

func (f *Faulty) ActivePage(ctx context.Context, afterSeq int64, limit int, maxBytes int64) ([]lifecycle.Sealed, error) {
	return get(f, "ActivePage", func() ([]lifecycle.Sealed, error) { return f.Store.ActivePage(ctx, afterSeq, limit, maxBytes) })
}

func (f *Faulty) CountActive(ctx context.Context, class string) (int, error) {
	return get(f, "CountActive", func() (int, error) { return f.Store.CountActive(ctx, class) })
}

func (f *Faulty) Reschedule(ctx context.Context, l lifecycle.Lease, moves []lifecycle.Rescheduling, to lifecycle.Following, leaf lifecycle.Leaf) error {
	return f.do("Reschedule", func() error { return f.Store.Reschedule(ctx, l, moves, to, leaf) })
}

func (f *Faulty) MoveSegment(ctx context.Context, l lifecycle.Lease, g lifecycle.Segment, leaf lifecycle.Leaf) (int, error) {
	return get(f, "MoveSegment", func() (int, error) { return f.Store.MoveSegment(ctx, l, g, leaf) })
}

func (f *Faulty) Condemn(ctx context.Context, l lifecycle.Lease, now time.Time, classes []string, leaf lifecycle.Leaf) ([]string, error) {
	return get(f, "Condemn", func() ([]string, error) { return f.Store.Condemn(ctx, l, now, classes, leaf) })
}

func (f *Faulty) Execute(ctx context.Context, l lifecycle.Lease, now time.Time, classes []string, leaf lifecycle.Leaf) ([]shred.Evidence, error) {
	return get(f, "Execute", func() ([]shred.Evidence, error) { return f.Store.Execute(ctx, l, now, classes, leaf) })
}

func (f *Faulty) Destroyed(ctx context.Context, l lifecycle.Lease, classes []string, at time.Time, epoch uint64, leaf lifecycle.Leaf) error {
	return f.do("Destroyed", func() error { return f.Store.Destroyed(ctx, l, classes, at, epoch, leaf) })
}

func (f *Faulty) DropCiphertext(ctx context.Context, l lifecycle.Lease, limit int, leaf lifecycle.Leaf) (int, error) {
	return get(f, "DropCiphertext", func() (int, error) { return f.Store.DropCiphertext(ctx, l, limit, leaf) })
}

func (f *Faulty) Vaults(ctx context.Context) ([]lifecycle.VaultRow, error) {
	return get(f, "Vaults", func() ([]lifecycle.VaultRow, error) { return f.Store.Vaults(ctx) })
}

func (f *Faulty) AddVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	return f.do("AddVault", func() error { return f.Store.AddVault(ctx, name, leaf) })
}

func (f *Faulty) AddCopy(ctx context.Context, segment string, c lifecycle.Copy, leaf lifecycle.Leaf) error {
	return f.do("AddCopy", func() error { return f.Store.AddCopy(ctx, segment, c, leaf) })
}

func (f *Faulty) ActivateVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	return f.do("ActivateVault", func() error { return f.Store.ActivateVault(ctx, name, leaf) })
}

func (f *Faulty) RetireVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	return f.do("RetireVault", func() error { return f.Store.RetireVault(ctx, name, leaf) })
}

func (f *Faulty) DyingArchives(ctx context.Context, now time.Time) ([]lifecycle.Class, error) {
	return get(f, "DyingArchives", func() ([]lifecycle.Class, error) { return f.Store.DyingArchives(ctx, now) })
}

func (f *Faulty) MoveArchiveClass(ctx context.Context, l lifecycle.Lease, from, to string, limit int, leaf lifecycle.Leaf) (int, error) {
	return get(f, "MoveArchiveClass", func() (int, error) { return f.Store.MoveArchiveClass(ctx, l, from, to, limit, leaf) })
}

func (f *Faulty) Rearchive(ctx context.Context, l lifecycle.Lease, from, to string, members []lifecycle.Member, leaf lifecycle.Leaf) (int, error) {
	return get(f, "Rearchive", func() (int, error) { return f.Store.Rearchive(ctx, l, from, to, members, leaf) })
}

func (f *Faulty) Purge(ctx context.Context, l lifecycle.Lease, segment string, limit int, counted func(*lifecycle.Row) bool, leaf lifecycle.Leaf) (n int, done bool, err error) {
	err = f.do("Purge", func() error {
		var err error
		n, done, err = f.Store.Purge(ctx, l, segment, limit, counted, leaf)
		return err
	})
	return n, done, err
}

func (f *Faulty) Undeleted(ctx context.Context) ([]lifecycle.Segment, error) {
	return get(f, "Undeleted", func() ([]lifecycle.Segment, error) { return f.Store.Undeleted(ctx) })
}

func (f *Faulty) CopyDeleted(ctx context.Context, l lifecycle.Lease, segment, vault string, leaf lifecycle.Leaf) error {
	return f.do("CopyDeleted", func() error { return f.Store.CopyDeleted(ctx, l, segment, vault, leaf) })
}

func (f *Faulty) Append(ctx context.Context, leaf lifecycle.Leaf) error {
	return f.do("Append", func() error { return f.Store.Append(ctx, leaf) })
}

func (f *Faulty) AcceptClock(ctx context.Context, leaf lifecycle.Leaf) error {
	return f.do("AcceptClock", func() error { return f.Store.AcceptClock(ctx, leaf) })
}

func (f *Faulty) AcceptKeyring(ctx context.Context, epoch uint64, leaf lifecycle.Leaf) error {
	return f.do("AcceptKeyring", func() error { return f.Store.AcceptKeyring(ctx, epoch, leaf) })
}

func (f *Faulty) Info(ctx context.Context) (lifecycle.Info, error) {
	return get(f, "Info", func() (lifecycle.Info, error) { return f.Store.Info(ctx) })
}

func (f *Faulty) Row(ctx context.Context, id string) (lifecycle.Row, error) {
	return get(f, "Row", func() (lifecycle.Row, error) { return f.Store.Row(ctx, id) })
}

func (f *Faulty) SealedRow(ctx context.Context, id string) (lifecycle.Sealed, error) {
	return get(f, "SealedRow", func() (lifecycle.Sealed, error) { return f.Store.SealedRow(ctx, id) })
}

func (f *Faulty) Aggregates(ctx context.Context) ([]lifecycle.Aggregate, error) {
	return get(f, "Aggregates", func() ([]lifecycle.Aggregate, error) { return f.Store.Aggregates(ctx) })
}

func (f *Faulty) NewestEvents(ctx context.Context, tlcs []string, until time.Time) (map[cte.Lot]time.Time, error) {
	return get(f, "NewestEvents", func() (map[cte.Lot]time.Time, error) { return f.Store.NewestEvents(ctx, tlcs, until) })
}

func (f *Faulty) Rows(ctx context.Context, q lifecycle.Query) iter.Seq2[lifecycle.Row, error] {
	return each(f, "Rows", f.Store.Rows(ctx, q))
}

func (f *Faulty) Sealed(ctx context.Context, q lifecycle.Query) iter.Seq2[lifecycle.Sealed, error] {
	return each(f, "Sealed", f.Store.Sealed(ctx, q))
}

func (f *Faulty) Segment(ctx context.Context, id string) (lifecycle.Segment, error) {
	return get(f, "Segment", func() (lifecycle.Segment, error) { return f.Store.Segment(ctx, id) })
}

func (f *Faulty) Segments(ctx context.Context, states ...lifecycle.SegmentState) ([]lifecycle.Segment, error) {
	return get(f, "Segments", func() ([]lifecycle.Segment, error) { return f.Store.Segments(ctx, states...) })
}

func (f *Faulty) Classes(ctx context.Context, counted bool) ([]lifecycle.Class, error) {
	return get(f, "Classes", func() ([]lifecycle.Class, error) { return f.Store.Classes(ctx, counted) })
}

func (f *Faulty) Runs(ctx context.Context, limit int) ([]lifecycle.Run, error) {
	return get(f, "Runs", func() ([]lifecycle.Run, error) { return f.Store.Runs(ctx, limit) })
}

func (f *Faulty) Run(ctx context.Context, id string) (lifecycle.Run, error) {
	return get(f, "Run", func() (lifecycle.Run, error) { return f.Store.Run(ctx, id) })
}

func (f *Faulty) Leaves(ctx context.Context, q lifecycle.LeafQuery) ([]lifecycle.Leaf, error) {
	return get(f, "Leaves", func() ([]lifecycle.Leaf, error) { return f.Store.Leaves(ctx, q) })
}

func (f *Faulty) RecordLeaves(ctx context.Context, seq int64) ([]lifecycle.Leaf, error) {
	return get(f, "RecordLeaves", func() ([]lifecycle.Leaf, error) { return f.Store.RecordLeaves(ctx, seq) })
}

func (f *Faulty) Tallies(ctx context.Context, q lifecycle.TallyQuery) ([]lifecycle.Tally, error) {
	return get(f, "Tallies", func() ([]lifecycle.Tally, error) { return f.Store.Tallies(ctx, q) })
}

func (f *Faulty) RunRecords(ctx context.Context) (map[string]lifecycle.RunRecords, error) {
	return get(f, "RunRecords", func() (map[string]lifecycle.RunRecords, error) { return f.Store.RunRecords(ctx) })
}

func (f *Faulty) Counts(ctx context.Context) (map[lifecycle.State]int64, error) {
	return get(f, "Counts", func() (map[lifecycle.State]int64, error) { return f.Store.Counts(ctx) })
}

func (f *Faulty) MayUnmask(ctx context.Context) (bool, error) {
	return get(f, "MayUnmask", func() (bool, error) { return f.Store.MayUnmask(ctx) })
}

func (f *Faulty) Close() error { return f.do("Close", f.Store.Close) }

func (f *Faulty) Sequence(ctx context.Context) (int64, error) {
	return get(f, "Sequence", func() (int64, error) { return f.Store.Sequence(ctx) })
}

func (f *Faulty) LogState(ctx context.Context) (lifecycle.LogState, error) {
	return get(f, "LogState", func() (lifecycle.LogState, error) { return f.Store.LogState(ctx) })
}

func (f *Faulty) LogLeaves(ctx context.Context, from, to int64) ([]lifecycle.Leaf, error) {
	return get(f, "LogLeaves", func() ([]lifecycle.Leaf, error) { return f.Store.LogLeaves(ctx, from, to) })
}

func (f *Faulty) LogIndex(ctx context.Context, leafID int64) (int64, error) {
	return get(f, "LogIndex", func() (int64, error) { return f.Store.LogIndex(ctx, leafID) })
}

func (f *Faulty) LogHashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	return get(f, "LogHashes", func() ([]tlog.Hash, error) { return f.Store.LogHashes(ctx, indexes) })
}

func (f *Faulty) StrayLeaves(ctx context.Context, limit int) (unindexed, gone []int64, err error) {
	err = f.do("StrayLeaves", func() error {
		var err error
		unindexed, gone, err = f.Store.StrayLeaves(ctx, limit)
		return err
	})
	return unindexed, gone, err
}

func (f *Faulty) LeafRows(ctx context.Context, leafID int64) iter.Seq2[lifecycle.Sealed, error] {
	return each(f, "LeafRows", f.Store.LeafRows(ctx, leafID))
}

func (f *Faulty) Published(ctx context.Context, vault string, size int64) error {
	return f.do("Published", func() error { return f.Store.Published(ctx, vault, size) })
}

func (f *Faulty) Rebase(ctx context.Context, l lifecycle.Lease, size int64) error {
	return f.do("Rebase", func() error { return f.Store.Rebase(ctx, l, size) })
}

func (f *Faulty) Replay(ctx context.Context, l lifecycle.Lease, index int64, leaf lifecycle.Leaf, e lifecycle.Effect) error {
	return f.do("Replay", func() error { return f.Store.Replay(ctx, l, index, leaf, e) })
}
