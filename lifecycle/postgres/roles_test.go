package postgres_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	ingest  = "lotkeeper_ingest"
	sweeper = "lotkeeper_sweeper"
	recall  = "lotkeeper_recall"
	auditor = "lotkeeper_auditor"
	export  = "lotkeeper_export"
	admin   = "lotkeeper_admin"
)

var (
	roles   = []string{ingest, sweeper, recall, auditor, export, admin}
	readers = roles[1:]
	nobody  []string
)

// played is a database with something to do for each method, opened as its owner.
type played struct {
	*postgres.Store
	lease lifecycle.Lease
}

var (
	dueHot     = lifecycle.HotPeriod(time.Date(2024, 9, 14, 0, 0, 0, 0, time.UTC))
	dueArchive = lifecycle.ArchivePeriod(time.Date(2025, 9, 14, 0, 0, 0, 0, time.UTC))
	deferral   = lifecycle.DeferralPeriod(storetest.Start)
)

func told(action string) lifecycle.Leaf {
	return lifecycle.Leaf{At: storetest.Start, Actor: "test", Action: action}
}

func classes(n int, ps ...lifecycle.Period) (out []lifecycle.Class) {
	for _, p := range ps {
		out = append(out, lifecycle.Class{ID: p.ID(n), Period: p, Generation: n, State: lifecycle.Open})
	}
	return out
}

// due is a record that is due, of the hot class with the generation.
func due(id string, generation int) lifecycle.Sealed {
	event := time.Date(2022, 9, 14, 8, 30, 0, 0, time.UTC)
	return lifecycle.Sealed{Row: lifecycle.Row{RecordID: id, TLC: "L-" + id, EventTimestamp: event, CreatedOrObtainedAt: event, DueAt: event.AddDate(2, 0, 0), PurgeNotBefore: event,
		Class: dueHot.ID(generation), ArchiveClass: dueArchive.ID(1)}, Payload: []byte("payload"), WrappedDEK: []byte("dek"), Inputs: []cte.Lot{{TLC: "IN"}}}
}

func segment(id string) lifecycle.Segment {
	return lifecycle.Segment{ID: id, Class: dueArchive.ID(1), WrappedIdentity: []byte("identity"), RetainUntil: storetest.Start, CreatedAt: storetest.Start}
}

func copiesOf(id string) []lifecycle.Copy {
	return []lifecycle.Copy{{Vault: "main", ObjectVersion: id + "m", VerifiedAt: storetest.Start}, {Vault: "cold", ObjectVersion: id + "c", VerifiedAt: storetest.Start}}
}

func runOf(kind string) lifecycle.Run {
	return lifecycle.Run{ID: "run-" + kind, Kind: kind, Actor: "test", StartedAt: storetest.Start, FinishedAt: storetest.Start, Status: "done"}
}

// play prepares what all start from: "hot" is an active record, "gone" is archived in
// the settled segment "seg-old", in vaults main and cold; "seg-new" is verified and
// "seg-staged" staged. Class 1 has the DEK of hot, class 2 no DEK any more.
func play(t *testing.T) *pgtest.Database {
	t.Helper()
	d := pgtest.New(t)
	s, err := postgres.Create(t.Context(), postgres.Options{URL: d.URL()}, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	merge := func(rs ...lifecycle.Sealed) {
		t.Helper()
		_, err := s.Merge(ctx, rs, nil, told(lifecycle.ActionIngested))
		must(err)
	}
	must(s.OpenClasses(ctx, append(classes(1, dueHot, dueArchive, deferral), classes(2, dueHot)...), 1, told(lifecycle.ActionClassOpened)))
	must(s.AddVault(ctx, "main", told(lifecycle.ActionVaultAdded)))
	must(s.AddVault(ctx, "cold", told(lifecycle.ActionVaultAdded)))
	merge(due("hot", 1), due("gone", 2))
	lease, err := s.BeginRun(ctx, runOf("sweep"), told(lifecycle.ActionRunStarted))
	must(err)
	for _, id := range []string{"seg-old", "seg-new", "seg-staged"} {
		must(s.StageSegment(ctx, lease, segment(id), told(lifecycle.ActionStaged)))
		if id != "seg-staged" {
			must(s.VerifySegment(ctx, lease, id, copiesOf(id), told(lifecycle.ActionVerified)))
		}
	}
	_, err = s.SoftDelete(ctx, lease, "seg-old", storetest.Start, []lifecycle.Member{{RecordID: "gone"}}, told(lifecycle.ActionArchived))
	must(err)
	must(s.SettleSegment(ctx, lease, "seg-old", told(lifecycle.ActionSettled)))
	must(s.FinishRun(ctx, runOf("sweep"), told(lifecycle.ActionRunFinished)))
	must(s.AddVault(ctx, "new", told(lifecycle.ActionVaultAdded)))
	hold := func(id string, until time.Time, sc lifecycle.Scope) {
		t.Helper()
		must(s.Place(ctx, lifecycle.Placement{Hold: lifecycle.Hold{ID: id, Kind: lifecycle.Recall, PlacedAt: storetest.Start, Until: until, Scopes: []lifecycle.Scope{sc}}, Leaf: told(lifecycle.ActionHoldPlaced)}))
	}
	hold("h-open", time.Time{}, lifecycle.Scope{TLC: "OTHER"})
	hold("h-over", storetest.Start.AddDate(-10, 0, 0), lifecycle.Scope{TLC: "OTHER"})
	hold("h-later", storetest.Start.AddDate(100, 0, 0), lifecycle.Scope{TLC: "OTHER"})
	must(s.Close())
	return d
}

// operation is one method, or one use of it. as is whose turn it is: those who may
// come after each other.
type operation struct {
	name  string
	may   []string
	first func(ctx context.Context, s *played) error // prepared by the owner
	do    func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, as string) error
}

// sweeping prepares an operation that needs a sweep under way.
func sweeping(ctx context.Context, s *played) (err error) {
	run := runOf("sweep")
	run.ID = "run-now"
	s.lease, err = s.BeginRun(ctx, run, told(lifecycle.ActionRunStarted))
	return err
}

// dying condemns class 2, and takes it so far.
func dying(state lifecycle.ClassState) func(context.Context, *played) error {
	return func(ctx context.Context, s *played) error {
		ids := []string{dueHot.ID(2)}
		err := sweeping(ctx, s)
		if err == nil {
			_, err = s.Condemn(ctx, s.lease, storetest.Start, ids, told(lifecycle.ActionShredIntent))
		}
		if err == nil && state != lifecycle.Condemned {
			_, err = s.Execute(ctx, s.lease, storetest.Start, ids, told(lifecycle.ActionShredExecuting))
		}
		if err == nil && state == lifecycle.Destroyed {
			err = s.Destroyed(ctx, s.lease, ids, storetest.Start, 2, told(lifecycle.ActionShredded))
		}
		return err
	}
}

// archiveDestroyed destroys the archive class, with all that is in it.
func archiveDestroyed(ctx context.Context, s *played) error {
	err := sweeping(ctx, s)
	if err == nil {
		err = s.AbandonSegment(ctx, s.lease, "seg-staged", told(lifecycle.ActionAbandoned))
	}
	if err == nil {
		err = softDeleted(s.SoftDelete(ctx, s.lease, "seg-new", storetest.Start, []lifecycle.Member{{RecordID: "hot"}}, told(lifecycle.ActionArchived)))
	}
	ids := []string{dueArchive.ID(1)}
	if err == nil {
		_, err = s.Condemn(ctx, s.lease, storetest.Start, ids, told(lifecycle.ActionShredIntent))
	}
	if err == nil {
		_, err = s.Execute(ctx, s.lease, storetest.Start, ids, told(lifecycle.ActionShredExecuting))
	}
	if err == nil {
		err = s.Destroyed(ctx, s.lease, ids, storetest.Start, 2, told(lifecycle.ActionShredded))
	}
	return err
}

func legal(to ...lifecycle.LegalState) func(context.Context, *played) error {
	return func(ctx context.Context, s *played) error {
		for _, vault := range []string{"main", "cold"} {
			for i, from := range append([]lifecycle.LegalState{lifecycle.LegalNone}, to...)[:len(to)] {
				if err := s.MoveLegalHold(ctx, "seg-old", vault, from, to[i], told(lifecycle.ActionLegalHoldSet)); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func some(n int, err error) error {
	if err == nil && n == 0 {
		err = errors.New("it found nothing to do")
	}
	return err
}

func softDeleted(done lifecycle.SoftDeleted, err error) error { return some(done.Records, err) }

func just[T any](_ T, err error) error { return err }

var everything = lifecycle.Reach{Scopes: []lifecycle.Scope{{All: true}}}

// operations are what a Store can be asked, and which roles may.
var operations = []operation{
	{name: "Existing", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.Existing(ctx, []string{"hot"}))
	}},
	{name: "LatestClasses", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.LatestClasses(ctx, []lifecycle.Period{dueHot}))
	}},
	{name: "OpenClasses hot", may: []string{ingest, sweeper}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.OpenClasses(ctx, classes(1, lifecycle.HotPeriod(storetest.Start)), 2, told(lifecycle.ActionClassOpened))
	}},
	{name: "OpenClasses deferral", may: []string{ingest, sweeper}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.OpenClasses(ctx, classes(2, deferral), 2, told(lifecycle.ActionClassOpened))
	}},
	{name: "Merge", may: []string{ingest}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		res, err := s.Merge(ctx, []lifecycle.Sealed{due("new", 1)}, nil, told(lifecycle.ActionIngested))
		return some(res.Inserted, err)
	}},
	{name: "Merge with a hold", may: []string{ingest}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		res, err := s.Merge(ctx, []lifecycle.Sealed{due("new", 1)}, []lifecycle.Placement{retention("new")}, told(lifecycle.ActionIngested))
		return some(res.Inserted, err)
	}},

	{name: "Place", may: []string{recall}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.Place(ctx, lifecycle.Placement{Hold: lifecycle.Hold{ID: "h-new", Kind: lifecycle.Recall, PlacedAt: storetest.Start, Scopes: []lifecycle.Scope{{TLC: "IN", Trace: lifecycle.Forward}}}, Leaf: told(lifecycle.ActionHoldPlaced)})
	}},
	{name: "Place for a record that asks", may: []string{ingest}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.Place(ctx, retention("hot"))
	}},
	{name: "Extend", may: []string{recall}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.Extend(ctx, "h-open", []lifecycle.Scope{{TLCPrefix: "I", Trace: lifecycle.Both}}, told(lifecycle.ActionHoldExtended))
	}},
	{name: "Release", may: []string{recall}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.Release(ctx, "h-open", "over", told(lifecycle.ActionHoldReleased))
	}},
	{name: "Release of what is over", may: []string{sweeper}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.Release(ctx, "h-over", "over", told(lifecycle.ActionHoldEnded))
	}},
	{name: "Release before its end, as over", may: nobody, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.Release(ctx, "h-later", "over", told(lifecycle.ActionHoldEnded))
	}},
	{name: "Release without an end, as over", may: nobody, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.Release(ctx, "h-open", "over", told(lifecycle.ActionHoldEnded))
	}},
	{name: "Holds", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return errors.Join(just(s.Holds(ctx, true)), just(s.Hold(ctx, "h-open")))
	}},
	{name: "Coverage", may: readers, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return errors.Join(just(s.Coverage(ctx, everything)), just(s.Detail(ctx, everything, 1)), just(s.TooLate(ctx, everything)), just(s.HeldCopies(ctx, everything)))
	}},
	{name: "Links", may: readers, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return errors.Join(just(s.Links(ctx, []cte.Lot{{TLC: "IN"}}, true)), just(s.ScopeLots(ctx, lifecycle.Scope{TLC: "IN"})), just(s.NearLots(ctx, "I", 1)), just(s.NearRecords(ctx, "h", 1)))
	}},
	{name: "LegalHolds", may: readers, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.LegalHolds(ctx))
	}},
	{name: "TraceHolds", may: []string{sweeper, recall}, first: func(ctx context.Context, s *played) error {
		return s.Place(ctx, lifecycle.Placement{Hold: lifecycle.Hold{ID: "h-traced", Kind: lifecycle.Recall, PlacedAt: storetest.Start, Scopes: []lifecycle.Scope{{TLC: "IN", Trace: lifecycle.Forward}}}, Leaf: told(lifecycle.ActionHoldPlaced)})
	}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.TraceHolds(ctx)
	}},
	moveLegal(lifecycle.LegalNone, lifecycle.LegalSet, lifecycle.ActionLegalHoldSet),
	moveLegal(lifecycle.LegalSet, lifecycle.Lifting, lifecycle.ActionLegalHoldOff, lifecycle.LegalSet),
	moveLegal(lifecycle.Lifting, lifecycle.LegalSet, lifecycle.ActionLegalHoldSet, lifecycle.LegalSet, lifecycle.Lifting),
	moveLegal(lifecycle.Lifting, lifecycle.LegalNone, lifecycle.ActionLegalHoldGone, lifecycle.LegalSet, lifecycle.Lifting),

	begin("ingest", ingest), begin("sweep", sweeper), begin("sync", sweeper), begin("other"),
	finish("ingest", ingest), finish("sweep", sweeper),
	{name: "DueRows", may: readers, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return errors.Join(just(s.DueClasses(ctx, storetest.Start)), just(s.DueRows(ctx, dueArchive.ID(1), storetest.Start, lifecycle.Cursor{}, 1)), just(s.Checksums(ctx, []string{"hot"})))
	}},
	{name: "DuePage", may: []string{sweeper, export}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.DuePage(ctx, dueArchive.ID(1), storetest.Start, lifecycle.Cursor{}, 1, 1))
	}},
	{name: "StageSegment", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return s.StageSegment(ctx, l, segment("seg-next"), told(lifecycle.ActionStaged))
	}},
	{name: "VerifySegment", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return s.VerifySegment(ctx, l, "seg-staged", copiesOf("seg-staged"), told(lifecycle.ActionVerified))
	}},
	{name: "AbandonSegment", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return s.AbandonSegment(ctx, l, "seg-staged", told(lifecycle.ActionAbandoned))
	}},
	{name: "SoftDelete", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return softDeleted(s.SoftDelete(ctx, l, "seg-new", storetest.Start, []lifecycle.Member{{RecordID: "hot"}}, told(lifecycle.ActionArchived)))
	}},
	{name: "SettleSegment", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return s.SettleSegment(ctx, l, "seg-new", told(lifecycle.ActionSettled))
	}},
	{name: "DyingClasses", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.DyingClasses(ctx, storetest.Start))
	}},
	{name: "ClassDEKs", may: []string{sweeper, export}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.ClassDEKs(ctx, dueHot.ID(1), 0, 1))
	}},
	{name: "Reseal", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		hot, err := s.Row(ctx, "hot")
		if err != nil {
			return err
		}
		return some(s.Reseal(ctx, l, dueHot.ID(1), deferral.ID(1), map[int64][]byte{hot.Seq: []byte("dek")}, told(lifecycle.ActionResealed)))
	}},
	{name: "ActivePage", may: []string{sweeper, export}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.ActivePage(ctx, 0, 1, 1))
	}},
	{name: "CountActive", may: readers, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.CountActive(ctx, dueHot.ID(1)))
	}},
	{name: "Reschedule", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		hot, err := s.Row(ctx, "hot")
		if err != nil {
			return err
		}
		from := lifecycle.Timing{DueAt: hot.DueAt, Class: hot.Class, ArchiveClass: hot.ArchiveClass}
		to := lifecycle.Timing{DueAt: storetest.Start, Class: deferral.ID(1), ArchiveClass: hot.ArchiveClass}
		return s.Reschedule(ctx, l, []lifecycle.Rescheduling{{Seq: hot.Seq, RecordID: "hot", Checksum: hot.Checksum, From: from, To: to, Wrapped: []byte("dek")}},
			lifecycle.Following{Leaf: 1}, told(lifecycle.ActionRescheduled))
	}},
	{name: "MoveSegment", may: []string{sweeper}, first: func(ctx context.Context, s *played) error {
		return errors.Join(sweeping(ctx, s), s.OpenClasses(ctx, classes(1, lifecycle.ArchivePeriod(storetest.Start)), 2, told(lifecycle.ActionClassOpened)))
	}, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		g, err := s.Segment(ctx, "seg-old")
		if err != nil {
			return err
		}
		g.Class, g.WrappedIdentity, g.RetainUntil = lifecycle.ArchivePeriod(storetest.Start).ID(1), []byte("another"), storetest.Start.AddDate(1, 0, 0)
		for i := range g.Copies {
			g.Copies[i].RetainUntil = g.RetainUntil
		}
		return some(s.MoveSegment(ctx, l, g, told(lifecycle.ActionSegmentMoved)))
	}},
	{name: "Condemn", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		ids, err := s.Condemn(ctx, l, storetest.Start, []string{dueHot.ID(2)}, told(lifecycle.ActionShredIntent))
		return some(len(ids), err)
	}},
	{name: "Execute", may: []string{sweeper}, first: dying(lifecycle.Condemned), do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		evidence, err := s.Execute(ctx, l, storetest.Start, []string{dueHot.ID(2)}, told(lifecycle.ActionShredExecuting))
		return some(len(evidence), err)
	}},
	{name: "Destroyed", may: []string{sweeper}, first: dying(lifecycle.Executing), do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return s.Destroyed(ctx, l, []string{dueHot.ID(2)}, storetest.Start, 2, told(lifecycle.ActionShredded))
	}},
	{name: "DropCiphertext", may: []string{sweeper}, first: dying(lifecycle.Destroyed), do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return some(s.DropCiphertext(ctx, l, 10, told(lifecycle.ActionDropped)))
	}},
	{name: "DropCiphertext of a month", may: []string{sweeper}, first: func(ctx context.Context, s *played) error {
		err := sweeping(ctx, s)
		if err == nil {
			err = softDeleted(s.SoftDelete(ctx, s.lease, "seg-new", storetest.Start, []lifecycle.Member{{RecordID: "hot"}}, told(lifecycle.ActionArchived)))
		}
		ids := []string{dueHot.ID(1), dueHot.ID(2)}
		if err == nil {
			_, err = s.Condemn(ctx, s.lease, storetest.Start, ids, told(lifecycle.ActionShredIntent))
		}
		if err == nil {
			_, err = s.Execute(ctx, s.lease, storetest.Start, ids, told(lifecycle.ActionShredExecuting))
		}
		if err == nil {
			err = s.Destroyed(ctx, s.lease, ids, storetest.Start, 2, told(lifecycle.ActionShredded))
		}
		return err
	}, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return some(s.DropCiphertext(ctx, l, 10, told(lifecycle.ActionDropped)))
	}},
	{name: "DyingArchives", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return errors.Join(just(s.DyingArchives(ctx, storetest.Start)), just(s.Undeleted(ctx)))
	}},
	{name: "MoveArchiveClass", may: []string{sweeper}, first: func(ctx context.Context, s *played) error {
		return errors.Join(sweeping(ctx, s), s.OpenClasses(ctx, classes(2, dueArchive), 2, told(lifecycle.ActionClassOpened)))
	}, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return some(s.MoveArchiveClass(ctx, l, dueArchive.ID(1), dueArchive.ID(2), 1, told(lifecycle.ActionClassMoved)))
	}},
	{name: "Rearchive", may: []string{sweeper}, first: sweeping, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return some(s.Rearchive(ctx, l, "seg-old", "seg-new", []lifecycle.Member{{RecordID: "gone"}}, told(lifecycle.ActionRearchived)))
	}},
	{name: "Purge", may: []string{sweeper}, first: archiveDestroyed, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		n, _, err := s.Purge(ctx, l, "seg-old", 10, func(*lifecycle.Row) bool { return true }, told(lifecycle.ActionPurged))
		return some(n, err)
	}},
	{name: "CopyDeleted", may: []string{sweeper}, first: func(ctx context.Context, s *played) error {
		err := archiveDestroyed(ctx, s)
		if err == nil {
			_, _, err = s.Purge(ctx, s.lease, "seg-old", 10, nil, told(lifecycle.ActionPurged))
		}
		return err
	}, do: func(ctx context.Context, s *postgres.Store, l lifecycle.Lease, _ string) error {
		return s.CopyDeleted(ctx, l, "seg-old", "main", told(lifecycle.ActionObjectsDeleted))
	}},
	{name: "AcceptClock", may: []string{admin}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.AcceptClock(ctx, told(lifecycle.ActionClockAccepted))
	}},
	{name: "AcceptKeyring", may: []string{admin}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.AcceptKeyring(ctx, 0, told(lifecycle.ActionKeyringMended))
	}},

	{name: "Vaults", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.Vaults(ctx))
	}},
	{name: "AddVault", may: []string{admin}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.AddVault(ctx, "newer", told(lifecycle.ActionVaultAdded))
	}},
	{name: "AddCopy", may: []string{sweeper}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.AddCopy(ctx, "seg-old", lifecycle.Copy{Vault: "new", ObjectVersion: "n", RetainUntil: storetest.Start, VerifiedAt: storetest.Start}, told(lifecycle.ActionVaultCopied))
	}},
	{name: "ActivateVault", may: []string{sweeper}, first: func(ctx context.Context, s *played) error {
		return errors.Join(s.AddCopy(ctx, "seg-old", lifecycle.Copy{Vault: "new", ObjectVersion: "n", RetainUntil: storetest.Start, VerifiedAt: storetest.Start}, told(lifecycle.ActionVaultCopied)),
			s.AddCopy(ctx, "seg-new", lifecycle.Copy{Vault: "new", ObjectVersion: "n", RetainUntil: storetest.Start, VerifiedAt: storetest.Start}, told(lifecycle.ActionVaultCopied)))
	}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.ActivateVault(ctx, "new", told(lifecycle.ActionVaultActive))
	}},
	{name: "RetireVault", may: []string{admin}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return s.RetireVault(ctx, "cold", told(lifecycle.ActionVaultRetiring))
	}},

	{name: "Info", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return errors.Join(just(s.Info(ctx)), just(s.Runs(ctx, 1)), just(s.Run(ctx, "run-sweep")), just(s.Leaves(ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionInit}})))
	}},
	{name: "Rows", may: readers, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		for _, err := range s.Rows(ctx, lifecycle.Query{}) {
			if err != nil {
				return err
			}
		}
		return errors.Join(just(s.Row(ctx, "hot")), just(s.RecordLeaves(ctx, 1)), just(s.Counts(ctx)))
	}},
	{name: "Sealed", may: []string{sweeper, export}, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		for _, err := range s.Sealed(ctx, lifecycle.Query{}) {
			if err != nil {
				return err
			}
		}
		return just(s.SealedRow(ctx, "hot"))
	}},
	{name: "Segments", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, as string) error {
		gs, err := s.Segments(ctx)
		if err != nil {
			return err
		}
		for _, g := range gs {
			if known := g.WrappedIdentity != nil; known != (as == sweeper || as == export) {
				return fmt.Errorf("%s is shown the wrapped identity of %s: %v", as, g.ID, known)
			}
		}
		return just(s.Segment(ctx, "seg-old"))
	}},
	{name: "Classes", may: roles, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.Classes(ctx, false))
	}},
	{name: "Classes, counted", may: readers, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		return just(s.Classes(ctx, true))
	}},
}

func retention(record string) lifecycle.Placement {
	return lifecycle.Placement{Hold: lifecycle.Hold{ID: "h-asked", Kind: lifecycle.RetentionHold, Reason: "asked", PlacedBy: "test", PlacedAt: storetest.Start, Scopes: []lifecycle.Scope{{RecordID: record}}}, Leaf: told(lifecycle.ActionHoldPlaced)}
}

func moveLegal(from, to lifecycle.LegalState, action string, before ...lifecycle.LegalState) operation {
	return operation{name: fmt.Sprintf("MoveLegalHold from %q to %q", from, to), may: []string{sweeper, recall}, first: legal(before...),
		do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, as string) error {
			vault := "main"
			if as == recall {
				vault = "cold"
			}
			return s.MoveLegalHold(ctx, "seg-old", vault, from, to, told(action))
		}}
}

func begin(kind string, may ...string) operation {
	return operation{name: "BeginRun " + kind, may: may, do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
		run := runOf(kind)
		run.ID = "run-next"
		return just(s.BeginRun(ctx, run, told(lifecycle.ActionRunStarted)))
	}}
}

func finish(kind string, may ...string) operation {
	run := runOf(kind)
	run.ID = "run-under-way"
	return operation{name: "FinishRun " + kind, may: may,
		first: func(ctx context.Context, s *played) error {
			return just(s.BeginRun(ctx, run, told(lifecycle.ActionRunStarted)))
		},
		do: func(ctx context.Context, s *postgres.Store, _ lifecycle.Lease, _ string) error {
			return s.FinishRun(ctx, run, told(lifecycle.ActionRunFinished))
		}}
}

// TestRoles: each method, as a user of each role: done for those who may, refused for
// all others, and then nothing has changed.
func TestRoles(t *testing.T) {
	template := play(t)
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			d := template.Clone(t)
			owner, err := postgres.Open(t.Context(), postgres.Options{URL: d.URL()})
			if err != nil {
				t.Fatal(err)
			}
			defer owner.Close()
			p := &played{Store: owner}
			if op.first != nil {
				if err := op.first(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			try := func(role string) error {
				s, err := postgres.Open(t.Context(), postgres.Options{URL: d.As(t, role)})
				if err != nil {
					t.Fatalf("%s cannot open the database: %v", role, err)
				}
				defer s.Close()
				return op.do(t.Context(), s, p.lease, role)
			}
			before := contents(t, d)
			for _, role := range roles {
				if slices.Contains(op.may, role) {
					continue
				}
				err := try(role)
				if err == nil {
					t.Errorf("%s may do it", role)
				} else if !refused(err) {
					t.Errorf("%s is told: %v", role, err)
				}
			}
			if after := contents(t, d); after != before {
				t.Errorf("what was refused has changed %s", diff(before, after))
			}
			for _, role := range op.may {
				if err := try(role); err != nil {
					t.Errorf("%s may not do it: %v", role, err)
				}
			}
		})
	}
}

// refused: for want of a right; or, of a run of another kind or a hold that is not
// over, for the row that the role does not see, or may not touch yet.
func refused(err error) bool {
	return errors.Is(err, lifecycle.ErrDenied) || errors.Is(err, lifecycle.ErrFenced) || errors.Is(err, lifecycle.ErrMoved) || errors.Is(err, lifecycle.ErrHeld)
}

// contents is all that is in the tables, a line a row.
func contents(t *testing.T, d *pgtest.Database) string {
	t.Helper()
	conn := raw(t, d)
	var out strings.Builder
	for _, table := range tables(t, conn) {
		rows, err := conn.Query(t.Context(), `SELECT x::text FROM lotkeeper.`+table+` x ORDER BY 1`)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			fmt.Fprintf(&out, "%s %s\n", table, l)
		}
	}
	return out.String()
}

func diff(before, after string) string {
	old := strings.Split(before, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(after, "\n"), func(l string) bool { return slices.Contains(old, l) }), "\n")
}

// tables lists the tables but for partitions and goose's own.
func tables(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT relname FROM pg_class WHERE relnamespace = 'lotkeeper'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'goose_db_version' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) < 20 {
		t.Fatal(names, err)
	}
	return names
}

// TestGrants writes down what each role may do in SQL, tried out column by column, and
// compares it with testdata/grants.txt. Then what must never be in that file.
func TestGrants(t *testing.T) {
	d := play(t)
	owner := raw(t, d)
	columns := map[string][]string{}
	names := tables(t, owner)
	for _, table := range names {
		rows, err := owner.Query(t.Context(), `SELECT attname FROM pg_attribute WHERE attrelid = ('lotkeeper.' || $1)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, table)
		if err != nil {
			t.Fatal(err)
		}
		if columns[table], err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := owner.Query(t.Context(), `SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'lotkeeper'::regnamespace ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	functions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	may := map[string]bool{} // "role VERB table column"
	for _, role := range append([]string{""}, roles...) {
		var conn *pgx.Conn
		if role == "" {
			conn, err = pgx.Connect(t.Context(), d.As(t))
		} else {
			conn, err = pgx.Connect(t.Context(), d.As(t, role))
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		allowed := func(sql string) bool {
			t.Helper()
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), sql)
			var e *pgconn.PgError
			if err != nil && !errors.As(err, &e) {
				t.Fatalf("%s: %v", sql, err)
			}
			return err == nil || e.Code != "42501"
		}
		for _, table := range names {
			for verb, sql := range map[string]string{
				"SELECT": `SELECT %[2]s FROM lotkeeper.%[1]s WHERE false`,
				"INSERT": `INSERT INTO lotkeeper.%[1]s (%[2]s) OVERRIDING SYSTEM VALUE SELECT NULL WHERE false`,
				"UPDATE": `UPDATE lotkeeper.%[1]s SET %[2]s = DEFAULT WHERE false`,
			} {
				for _, c := range columns[table] {
					if allowed(fmt.Sprintf(sql, table, c)) {
						may[strings.Join([]string{role, verb, table, c}, " ")] = true
					}
				}
			}
			for _, verb := range []string{"DELETE FROM", "TRUNCATE"} {
				sql := verb + ` lotkeeper.` + table
				if verb == "DELETE FROM" {
					sql += ` WHERE false`
				}
				if allowed(sql) {
					may[strings.Join([]string{role, strings.Fields(verb)[0], table, ""}, " ")] = true
				}
			}
		}
		for _, table := range names {
			for _, verb := range []string{"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"} {
				var cols []string
				for _, c := range append([]string{""}, columns[table]...) {
					if may[strings.Join([]string{role, verb, table, c}, " ")] {
						cols = append(cols, c)
					}
				}
				list := " (" + strings.Join(cols, ", ") + ")"
				if len(cols) == len(columns[table]) || slices.Equal(cols, []string{""}) {
					list = ""
				}
				if cols != nil {
					fmt.Fprintf(&got, "%s: %s %s%s\n", role, verb, table, list)
				}
			}
		}
		for _, f := range functions {
			var execute bool
			if err := owner.QueryRow(t.Context(), `SELECT has_function_privilege($1, $2, 'EXECUTE')`, conn.Config().User, f).Scan(&execute); err != nil {
				t.Fatal(err)
			}
			if execute {
				fmt.Fprintf(&got, "%s: EXECUTE %s\n", role, f)
			}
		}
	}
	if *update {
		if err := os.WriteFile("testdata/grants.txt", []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/grants.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("may do besides testdata/grants.txt (go test -update writes it):\n%s\nand may not:\n%s", diff(string(want), got.String()), diff(got.String(), string(want)))
	}

	for right := range may {
		f := strings.Split(right, " ")
		role, verb, table, column := f[0], f[1], f[2], f[3]
		key := table == "deks" && column == "wrapped" || table == "payloads" && column == "sealed" || table == "segments" && column == "wrapped_identity"
		switch {
		case role == "":
			t.Errorf("a user without a role: %s", right)
		case verb == "TRUNCATE":
			t.Errorf("%s", right)
		case role == auditor && verb != "SELECT" && (verb != "INSERT" || table != "leaves"):
			t.Errorf("the auditor changes something: %s", right)
		case verb == "SELECT" && key && role != sweeper && role != export:
			t.Errorf("a key: %s", right)
		case role == sweeper && verb != "SELECT" && (table == "holds" || table == "hold_scopes"):
			t.Errorf("the sweeper touches a hold: %s", right)
		case role == recall && verb != "SELECT" && slices.Contains([]string{"records", "deks", "payloads", "classes", "segments", "segment_copies", "vaults", "runs", "leases", "meta"}, table):
			t.Errorf("recall sweeps: %s", right)
		case role == export && verb != "SELECT" && table != "leaves":
			t.Errorf("export changes something: %s", right)
		case table == "leaves" && (verb == "UPDATE" || verb == "DELETE" || column == "leaf_id" && verb == "INSERT"):
			t.Errorf("the trail: %s", right)
		}
	}
}

// TestRolesAreMade: on a server that has none, by several databases at once, and by a
// user who is no superuser and may create roles. What is made is the owner's.
func TestRolesAreMade(t *testing.T) {
	server := pgtest.NewServer(t)
	first := server.New(t)
	super := raw(t, first)
	if _, err := super.Exec(t.Context(), `CREATE ROLE maker LOGIN CREATEROLE`); err != nil {
		t.Fatal(err)
	}
	urls := make([]string, 6)
	for i := range urls {
		d := first
		if i > 0 {
			d = server.New(t)
		}
		if _, err := super.Exec(t.Context(), `ALTER DATABASE `+d.Name+` OWNER TO maker`); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(d.URL())
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			u.User = url.User("maker")
		}
		urls[i] = u.String()
	}
	var wg sync.WaitGroup
	for _, u := range urls {
		wg.Go(func() {
			s, err := postgres.Create(t.Context(), postgres.Options{URL: u}, 0, storetest.Init())
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.OpenClasses(t.Context(), classes(1, dueHot, dueArchive), 1, told(lifecycle.ActionClassOpened)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, u := range urls {
		conn, err := pgx.Connect(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		var others int
		if err := conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'lotkeeper'::regnamespace AND relowner <> 'lotkeeper_owner'::regrole)
			+ (SELECT count(*) FROM pg_proc WHERE pronamespace = 'lotkeeper'::regnamespace AND proowner <> 'lotkeeper_owner'::regrole)`).Scan(&others); err != nil || others > 0 {
			t.Errorf("%d tables, indexes, sequences or functions are not the owner's, %v", others, err)
		}
		var unmasked bool
		if err := conn.QueryRow(t.Context(), `SELECT pg_has_role(session_user, 'lotkeeper_unmask', 'MEMBER')`).Scan(&unmasked); err != nil || !unmasked {
			t.Errorf("%s may not see what is masked: %v", conn.Config().User, err)
		}
	}
}

// tells is who may write a leaf of which action.
var tells = map[string][]string{
	lifecycle.ActionInit: {admin}, lifecycle.ActionClockAccepted: {admin}, lifecycle.ActionKeyringMended: {admin}, lifecycle.ActionVaultAdded: {admin}, lifecycle.ActionVaultRetiring: {admin}, lifecycle.ActionPolicyApplied: {admin}, lifecycle.ActionPolicyProposed: {admin}, lifecycle.ActionPolicyRefused: {admin}, lifecycle.ActionTriggerSet: {admin}, lifecycle.ActionTriggerUnset: {admin},
	lifecycle.ActionRunStarted: {ingest, sweeper}, lifecycle.ActionRunFinished: {ingest, sweeper}, lifecycle.ActionRunInterrupted: {ingest, sweeper}, lifecycle.ActionClassOpened: {ingest, sweeper},
	lifecycle.ActionIngested: {ingest}, lifecycle.ActionHoldPlaced: {ingest, recall}, lifecycle.ActionHoldExtended: {recall}, lifecycle.ActionHoldReleased: {recall}, lifecycle.ActionHoldEnded: {sweeper},
	lifecycle.ActionLegalHoldSet: {sweeper, recall}, lifecycle.ActionLegalHoldOff: {sweeper, recall}, lifecycle.ActionLegalHoldGone: {sweeper, recall},
	lifecycle.ActionStaged: {sweeper}, lifecycle.ActionVerified: {sweeper}, lifecycle.ActionAbandoned: {sweeper}, lifecycle.ActionArchived: {sweeper}, lifecycle.ActionSettled: {sweeper},
	lifecycle.ActionResealed: {sweeper}, lifecycle.ActionShredExecuting: {sweeper}, lifecycle.ActionShredded: {sweeper}, lifecycle.ActionDropped: {sweeper}, lifecycle.ActionReceipt: {auditor},
	lifecycle.ActionRescheduled: {sweeper}, lifecycle.ActionSegmentMoved: {sweeper}, lifecycle.ActionClassMoved: {sweeper}, lifecycle.ActionRearchived: {sweeper}, lifecycle.ActionStep: {sweeper}, lifecycle.ActionPurged: {sweeper}, lifecycle.ActionObjectsDeleted: {sweeper},
	lifecycle.ActionShredIntent: {sweeper}, lifecycle.ActionVaultCopied: {sweeper}, lifecycle.ActionVaultActive: {sweeper},
	lifecycle.ActionIdentityShown: {export}, lifecycle.ActionExportBegun: {export}, lifecycle.ActionExported: {export}, lifecycle.ActionUnmasked: {export}, lifecycle.ActionExportLimit: {export},
	lifecycle.ActionRecovered: {}, // the owner alone
	lifecycle.ActionReported:  roles, lifecycle.ActionVerifyDone: roles, lifecycle.ActionDryRun: roles, lifecycle.ActionRefused: roles,
	lifecycle.ActionReconciled: {sweeper, recall, auditor, export, admin},
}

// TestTrailByRole: each role leaves traces of what it may do, and of nothing else, with
// the user's own name on them.
func TestTrailByRole(t *testing.T) {
	d := play(t)
	for _, action := range lifecycle.Actions {
		if tells[action] == nil {
			t.Errorf("no role may tell %s", action)
		}
	}
	for _, role := range roles {
		s, err := postgres.Open(t.Context(), postgres.Options{URL: d.As(t, role)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, action := range lifecycle.Actions {
			err := s.Append(t.Context(), told(action))
			if want := slices.Contains(tells[action], role); want != (err == nil) || err != nil && !errors.Is(err, lifecycle.ErrDenied) {
				t.Errorf("%s tells %s: %v", role, action, err)
			}
		}
	}
	conn := raw(t, d)
	if _, err := conn.Exec(t.Context(), `INSERT INTO lotkeeper.leaves (at, actor, action, run_id, subject, body, role) VALUES (`+someTime+`, '', 'x', '', '', '{}', 'another')`); err != nil {
		t.Fatal(err)
	}
	var names int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM lotkeeper.leaves WHERE role <> 'lotkeeper' AND role NOT LIKE 'user\_%' OR role = 'another'`).Scan(&names); err != nil || names > 0 {
		t.Errorf("%d leaves have another's role, %v", names, err)
	}
}

// TestApprovalByRole: the server tells who proposes a policy from who approves it,
// whatever they call themselves.
func TestApprovalByRole(t *testing.T) {
	d := play(t)
	user := func(role string) *postgres.Store {
		s, err := postgres.Open(t.Context(), postgres.Options{URL: d.As(t, role)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	first, second := user(admin), user(admin)
	if err := first.Append(t.Context(), told(lifecycle.ActionPolicyProposed)); err != nil {
		t.Fatal(err)
	}
	leaves, err := first.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{lifecycle.ActionPolicyProposed}})
	if err != nil || len(leaves) != 1 {
		t.Fatal(leaves, err)
	}
	approval := func(actor string, proposal int64) lifecycle.Leaf {
		l := told(lifecycle.ActionPolicyApplied).With("proposal", proposal)
		l.Actor = actor
		return l
	}
	if err := first.Append(t.Context(), approval("somebody else", leaves[0].ID)); !errors.Is(err, lifecycle.ErrProposer) {
		t.Errorf("the proposer approves: %v", err)
	}
	if err := second.Append(t.Context(), approval("tester", 1)); !errors.Is(err, lifecycle.ErrProposer) {
		t.Errorf("what is no proposal is approved: %v", err)
	}
	if err := user(sweeper).Append(t.Context(), approval("tester", leaves[0].ID)); !errors.Is(err, lifecycle.ErrDenied) {
		t.Errorf("a sweeper approves: %v", err)
	}
	if err := second.Append(t.Context(), approval("tester", leaves[0].ID)); err != nil {
		t.Errorf("another approves: %v", err)
	}

	// A recovery of the log writes again what was approved, where leaves have other numbers.
	owner, err := postgres.Open(t.Context(), postgres.Options{URL: d.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	lease, err := owner.BeginRun(t.Context(), lifecycle.Run{ID: "run-recovery", Kind: "sweep", Actor: "tester", StartedAt: storetest.Start}, told(lifecycle.ActionRunStarted))
	if err != nil {
		t.Fatal(err)
	}
	size, err := owner.Sequence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := approval("tester", 1<<40)
	again.Role = "another"
	if err := owner.Replay(t.Context(), lease, size, again, nil); err != nil {
		t.Errorf("it is recovered: %v", err)
	}
}
