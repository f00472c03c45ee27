package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/shred"
)

// Row is the narrow, plain-text row of a record: its identity, the index
// columns, its checksum and where it is. KDEs are not in it, but for the two
// index columns that docs/index-columns.md lists.
type Row struct {
	Seq                 int64
	RecordID            string
	TLC, TLCSource      string
	EventType           cte.EventType
	EventTimestamp      time.Time
	CreatedOrObtainedAt time.Time
	DueAt               time.Time
	PurgeNotBefore      time.Time
	Location, Product   string
	Checksum            [32]byte
	// Content is the content identity: an HMAC under the archive class key.
	Content [32]byte
	// Gaps names the KDEs that the record should have and lacks.
	Gaps []string
	// Class wraps the DEK (or did last); ArchiveClass is where the archived
	// copy goes.
	Class, ArchiveClass string
	State               State
	Segment             string
	IngestLeaf          int64
	ArchiveLeaf         int64
}

// Sealed is a hot record with its ciphertext.
type Sealed struct {
	Row
	Payload    []byte
	WrappedDEK []byte
	// Inputs are the lots that the record's lot was made from. Merge stores them
	// as lineage; only LeafRows gives them back here.
	Inputs []cte.Lot
	// Moved is what a leaf ActionRescheduled did to the record; LeafRows of such a leaf
	// fills it in.
	Moved *Rescheduling
}

// Timing is what follows from a record's schedule.
type Timing struct {
	DueAt               time.Time
	Class, ArchiveClass string
}

// Rescheduling gives an active record another schedule.
type Rescheduling struct {
	Seq      int64
	RecordID string
	Checksum [32]byte
	From, To Timing
	// Wrapped is the DEK under To.Class; nil if the class stays.
	Wrapped []byte
}

// Following is which decision the schedules of the records follow.
type Following struct {
	// Leaf is the newest leaf that had decided: 0 if that was none, and the policy was
	// the one that the database was made with.
	Leaf int64
	// Seq: the active records up to it follow. Done: all do.
	Seq  int64
	Done bool
}

// DEK is a wrapped DEK and the class it is wrapped under.
type DEK struct {
	Row     Row
	Wrapped []byte
}

// Existing is what ingest must know of a record id that is taken.
type Existing struct {
	State State
	// Content is the content identity, under the key of ContentClass. That is the
	// archive class that the record was taken in with.
	ContentClass string
	Content      [32]byte
}

// MergeResult says what became of a batch.
type MergeResult struct {
	Inserted int
	// Exists lists record ids that were taken by the time of the merge, Closed
	// the classes that were no longer open. If either is set nothing was
	// merged at all: the caller looks again and merges anew.
	Exists, Closed []string
}

// SegmentState is how far a segment is. Every move is a compare-and-swap.
type SegmentState string

const (
	// Staged: the row is committed, objects may or may not be in the vaults. A
	// crash leaves it staged; recovery adopts it after full verification, or
	// abandons it.
	Staged SegmentState = "staged"
	// Verified: every vault's copy was read back and compared. Its records may
	// still be hot; recovery soft-deletes them.
	Verified SegmentState = "verified"
	// Settled: its records are archived, but for those that a hold kept hot.
	Settled SegmentState = "settled"
	// Abandoned: it counts for nothing. Objects it left are known by its row.
	Abandoned SegmentState = "abandoned"
	// PurgedSegment: its class key is destroyed, and with it the wrapped identity, here
	// and in the manifest. Its objects can be read by nobody, and are there until their
	// locks have ended.
	PurgedSegment SegmentState = "purged"
)

// Segment is a segment's row.
type Segment struct {
	ID              string
	Class           string
	State           SegmentState
	RunID           string
	Records         int
	ObjectKey       string
	ObjectSize      int64
	ObjectSHA256    [32]byte
	PlaintextSHA256 [32]byte
	Root            [32]byte
	ManifestKey     string
	ManifestSize    int64
	ManifestSHA256  [32]byte
	// WrappedIdentity is the segment's age identity under its class key.
	WrappedIdentity []byte
	RetainUntil     time.Time
	CreatedAt       time.Time
	// Copies is filled once the segment is verified.
	Copies []Copy
}

// Copy is a segment in one vault, as it was read back. Leaves have it as JSON.
type Copy struct {
	Vault           string    `json:"vault"`
	ObjectVersion   string    `json:"object_version"`
	ManifestVersion string    `json:"manifest_version"`
	RetainUntil     time.Time `json:"retain_until"`
	VerifiedAt      time.Time `json:"verified_at"`
	// DeletedAt is when a purged segment's object and manifest were deleted; zero while
	// they are there.
	DeletedAt time.Time `json:"deleted_at,omitzero"`
}

// VaultState is whether a vault counts.
//
//	joining ──▶ active ──▶ retiring
//	   └───────────────────────▲
type VaultState string

const (
	// Joining: added to a store that has live segments. It counts once it has a
	// verified copy of each; sweeps put nothing into it until then.
	Joining VaultState = "joining"
	// ActiveVault: it has a verified copy of every live segment, and a new one
	// counts as archived only with its copy too.
	ActiveVault VaultState = "active"
	// Retiring: it gets nothing more, and its copies still count as copies. It is
	// reported until the last of their locks has ended.
	Retiring VaultState = "retiring"
)

// VaultRow is what the database knows of a vault.
type VaultRow struct {
	Name  string
	State VaultState
	// Since is when it came into the state.
	Since time.Time
	// Copies counts the live segments that it has a verified copy of, Missing
	// those that it has not. Live are segments that are verified or settled.
	Copies, Missing int64
	// LockedUntil is when the last lock of its copies ends; zero without any.
	LockedUntil time.Time
}

// SoftDeleted is what a soft-delete came to.
type SoftDeleted struct {
	Records int // that it archived
	// Locked is how long whoever places a hold had to wait for it, at the most. It is
	// measured, and nothing but the size of the next one may hang by it.
	Locked time.Duration
}

// Member is a record of a segment with the checksum it was archived with.
type Member struct {
	RecordID string
	Checksum [32]byte
}

// Cursor is a place in the due order: (due_at, seq), exclusive.
type Cursor struct {
	DueAt time.Time
	Seq   int64
}

// Run is one ingest or sweep.
type Run struct {
	ID         string
	Kind       string // "ingest" or "sweep"
	Actor      string
	StartedAt  time.Time
	FinishedAt time.Time // zero while it runs
	Status     string    // "running", "done", "failed", "interrupted"
	// Result is the run's JSON as it was printed.
	Result []byte
}

// Lease is the right to sweep, with its fencing number. Every destructive
// method takes it and answers ErrFenced once the run has ended or a later one
// has the lease.
type Lease struct {
	RunID string
	Fence int64
}

// Query selects rows. Zero fields select everything.
type Query struct {
	RecordIDs []string
	TLC       string
	TLCSource string
	// LotContains finds lots by part of their code, whatever its case.
	LotContains string
	// From and To bound the event's time: From <= event < To.
	From, To time.Time
	// State is the stored state, or Held: covered by an open hold and not purged.
	State State
	// ExceptHeld leaves out what an open hold covers.
	ExceptHeld bool
	// Reach is what the open holds cover; State Held and ExceptHeld need it, and
	// Engine.Select fills it in.
	Reach Reach
	// Segment selects the records that are archived in one segment.
	Segment string
	// Class selects the records whose DEK a hot or deferral class wraps, or did last.
	Class string
	Limit int
}

// TallyQuery says what Tallies tells apart.
type TallyQuery struct {
	// Due are records whose due date is before it.
	DueBefore time.Time
	// Held are records of the reach, whatever their state.
	Reach Reach
}

// Tally counts records that are alike.
type Tally struct {
	State State
	// Class is the one that the row names, DEKClass the one whose key wraps the DEK
	// that is there; empty if there is none.
	Class, DEKClass, ArchiveClass string
	Segment                       string
	Due, Held                     bool
	Records                       int64
	// FirstRecord is the least of their ids, FirstDue the earliest of their due dates,
	// FirstLeaf the least number of a leaf that they came with.
	FirstRecord string
	FirstDue    time.Time
	FirstLeaf   int64
}

// RunRecords counts the records that a run took in, those of them that are active still,
// and those that it archived.
type RunRecords struct{ TakenIn, Active, Archived int64 }

// Info is what the database says of itself.
type Info struct {
	CreatedAt time.Time
	// Epoch is the keyring's epoch as last logged.
	Epoch uint64
	// TrustedTime is the newest leaf's time that came at most seven days after
	// the one before, or was accepted by a person.
	TrustedTime time.Time
	Following   Following
	NewestLeaf  Leaf
}

// LeafQuery selects leaves, oldest first. Zero fields select everything.
type LeafQuery struct {
	RunID, Subject, Actor string
	Actions               []string
	// From and To bound the leaf's time: From <= at < To.
	From, To time.Time
	// After is the number of the leaf before the first. Who follows the trail goes by
	// LogLeaves: a leaf with a smaller number may be committed later.
	After int64
	Limit int
}

// MaxJump is how far the trusted time follows a leaf's time by itself.
const MaxJump = 7 * 24 * time.Hour

var (
	// ErrNotFound: no such record, hold, run or segment.
	ErrNotFound = errors.New("not found")
	// ErrLocked: another run has the lease.
	ErrLocked = errors.New("another run holds the lock")
	// ErrFenced: the lease was lost to a later run; nothing was changed.
	ErrFenced = errors.New("the run's lease was lost to a later run")
	// ErrMoved: a compare-and-swap found another state than expected.
	ErrMoved = errors.New("the state has changed")
	// ErrLastVault: it is the only vault that counts.
	ErrLastVault = errors.New("no active vault would be left")
	// ErrHeld: an open hold covers it.
	ErrHeld = errors.New("an open hold covers it")
	// ErrReleased: the hold was released before.
	ErrReleased = errors.New("the hold is released already")
	// ErrProposer: who proposed a policy may not approve it.
	ErrProposer = errors.New("a policy is approved by another than proposed it")
	// ErrDenied: the database does not let its user do that. Nothing was done.
	ErrDenied = errors.New("the database's permissions do not allow it")
)

// Store is the database. Each method is one transaction that is durable when
// it returns nil, and has had no effect when it returns an error, unless the
// error is the acknowledgement itself getting lost: callers recover by asking
// again, and every method bears being repeated. Leaves given to a method are
// committed with its change. All methods may be called concurrently.
//
// The methods that destroy (SoftDelete, Condemn, Execute, Purge) and lift (MoveLegalHold)
// are ordered against Place, Extend and Merge: they see every hold, every record
// and every link of lineage whose call returned before theirs began, read from base
// rows in a statement after the lock.
type Store interface {
	IngestStore
	HoldStore
	SweepStore
	VaultStore
	LogStore
	ReadStore
	Close() error
}

// IngestStore is what ingest needs.
type IngestStore interface {
	// Existing finds which of the ids are taken.
	Existing(ctx context.Context, ids []string) (map[string]Existing, error)
	// LatestClasses finds, for each period, the class with the highest
	// generation, in whatever state. Periods without a class are left out.
	LatestClasses(ctx context.Context, periods []Period) (map[Period]Class, error)
	// OpenClasses adds open classes whose keys exist, and logs the keyring's
	// epoch. A class that exists already is left as it is.
	OpenClasses(ctx context.Context, classes []Class, epoch uint64, leaf Leaf) error
	// Merge takes in a batch, with the holds that its records ask for, all or
	// nothing.
	Merge(ctx context.Context, batch []Sealed, holds []Placement, leaf Leaf) (MergeResult, error)
}

// Placement is a hold with the leaf that tells of it.
type Placement struct {
	Hold Hold
	Leaf Leaf
}

// Coverage counts the records that holds reach at the time of asking.
type Coverage struct {
	// Covered counts records of which a readable copy is left, TooLate those
	// of which none is: they are purged, or their archive class is executing, which
	// nothing stops. Archived are those of the covered that are in the archive.
	Covered, Archived, TooLate int64
}

// Detail is which lots and places the covered records are of, the ones with the
// most records first, and how many there are in all.
type Detail struct {
	Lots                  []LotCount
	Locations             []LocationCount
	AllLots, AllLocations int
}

// LotCount is a lot with its records. Its JSON names are a promise.
type LotCount struct {
	TLC       string `json:"traceability_lot_code"`
	TLCSource string `json:"tlc_source"`
	Records   int64  `json:"records"`
}

// LocationCount is a location with its records. Its JSON names are a promise.
type LocationCount struct {
	Location string `json:"location"`
	Records  int64  `json:"records"`
}

// Late is records for which a hold comes too late: no readable copy is left.
type Late struct {
	// Class is their archive class, whose key was destroyed at DestroyedAt; the
	// leaf with the number Receipt tells of it.
	Class       string
	DestroyedAt time.Time
	Receipt     int64
	Records     int64
}

// LegalState is how far the legal hold of one copy is. It is the bit in the
// vault, as far as it is confirmed.
//
//	"" ──▶ set ──▶ lifting ──▶ ""
//	        ▲─────────┘ held again meanwhile
type LegalState string

const (
	// LegalNone: no legal hold is confirmed. There may be one all the same, of a
	// call whose answer got lost.
	LegalNone LegalState = ""
	// LegalSet: it was set on the object and its manifest, and read back.
	LegalSet LegalState = "set"
	// Lifting: somebody is about to lift it. Nothing confirms it meanwhile.
	Lifting LegalState = "lifting"
)

// HeldCopy is a copy of a segment in a vault, with its legal hold.
type HeldCopy struct {
	Segment, Vault               string
	ObjectKey, ObjectVersion     string
	ManifestKey, ManifestVersion string
	State                        LegalState
	// Since is when it came into the state; zero for LegalNone.
	Since time.Time
}

// ReferenceTaken: an open hold of the same kind has the reference.
type ReferenceTaken struct{ HoldID string }

func (e *ReferenceTaken) Error() string { return "the reference is that of hold " + e.HoldID }

// HoldStore is what holds need.
type HoldStore interface {
	// Place commits a hold. From its return on nothing the hold covers is
	// shredded or purged. A hold that is there already is left as it is.
	// *ReferenceTaken if another open one of its kind has its reference.
	Place(ctx context.Context, p Placement) error
	// Extend adds scopes to an open hold; those it has are passed over, and
	// without a new one nothing is written. ErrNotFound, ErrReleased.
	Extend(ctx context.Context, id string, scopes []Scope, leaf Leaf) error
	// Release ends a hold; told by a leaf ActionHoldEnded, because its end has come.
	// ErrNotFound, ErrReleased, ErrHeld if its end has not come by the database's own
	// clock, and who asks may not release holds.
	Release(ctx context.Context, id, reason string, leaf Leaf) error
	// Holds lists holds in the order they were placed.
	Holds(ctx context.Context, openOnly bool) ([]*Hold, error)
	// Hold finds one. ErrNotFound.
	Hold(ctx context.Context, id string) (*Hold, error)
	// Coverage counts the records of a reach, Detail their lots and locations
	// (limit of each; 0 is all), those of which a readable copy is left. TooLate
	// tells of the others.
	Coverage(ctx context.Context, r Reach) (Coverage, error)
	Detail(ctx context.Context, r Reach, limit int) (Detail, error)
	TooLate(ctx context.Context, r Reach) ([]Late, error)

	// Links lists the links whose input (forward) or output is one of the lots.
	// A lot without a source, there or here, matches that of every source.
	Links(ctx context.Context, lots []cte.Lot, forward bool) ([]Link, error)
	// ScopeLots lists the lots of the records that a scope matches by itself; of
	// a scope OnLots also those that only lineage names. Records of no lot are
	// left out.
	ScopeLots(ctx context.Context, s Scope) ([]cte.Lot, error)
	// TraceHolds brings what the destructive methods know of the open holds'
	// traces up to date, in steps that keep nobody waiting. They do the rest
	// themselves, under the lock: without it they are right, and slower.
	TraceHolds(ctx context.Context) error

	// HeldCopies lists the copies, in whatever vaults, of the live segments that an
	// archived record of the reach is in.
	HeldCopies(ctx context.Context, r Reach) ([]HeldCopy, error)
	// LegalHolds lists the copies whose State is not LegalNone.
	LegalHolds(ctx context.Context) ([]HeldCopy, error)
	// MoveLegalHold is the compare-and-swap of a copy's legal hold. ErrMoved.
	// ErrHeld, on the way to Lifting or from it to LegalNone: an open hold covers
	// an archived record of the segment, by base rows under the lock.
	MoveLegalHold(ctx context.Context, segment, vault string, from, to LegalState, leaf Leaf) error

	// NearLots and NearRecords list what resembles a code that matched nothing.
	NearLots(ctx context.Context, tlc string, limit int) ([]cte.Lot, error)
	NearRecords(ctx context.Context, id string, limit int) ([]string, error)
}

// SweepStore is what a sweep needs.
type SweepStore interface {
	// BeginRun records a run and takes the lease of its kind, or answers
	// ErrLocked while another run has it. Runs of the kind that never finished
	// are marked interrupted. The same run is given the same lease again.
	BeginRun(ctx context.Context, r Run, leaf Leaf) (Lease, error)
	// FinishRun records how it ended and gives the lease back. ErrMoved if it
	// is not running (any more).
	FinishRun(ctx context.Context, r Run, leaf Leaf) error

	// DueClasses lists the archive classes that have active records due at or
	// before now.
	DueClasses(ctx context.Context, now time.Time) ([]string, error)
	// DueRows pages through the due active rows of one archive class in due
	// order, DuePage the same with their ciphertext; a page ends early after
	// maxBytes of it, but is never empty unless nothing is left.
	DueRows(ctx context.Context, archiveClass string, now time.Time, after Cursor, limit int) ([]Row, error)
	DuePage(ctx context.Context, archiveClass string, now time.Time, after Cursor, limit int, maxBytes int64) ([]Sealed, error)
	// Checksums reads back the checksums of active records, by a statement of
	// its own. Records that are not active are left out.
	Checksums(ctx context.Context, ids []string) (map[string][32]byte, error)

	// StageSegment commits a segment's row before its first byte is put.
	// ErrMoved if its class is not open. A segment is staged once.
	StageSegment(ctx context.Context, l Lease, s Segment, leaf Leaf) error
	// VerifySegment moves staged -> verified and records the copies. ErrMoved if
	// it is not staged, or an active vault has none of the copies.
	VerifySegment(ctx context.Context, l Lease, id string, copies []Copy, leaf Leaf) error
	// AbandonSegment moves staged -> abandoned. ErrMoved.
	AbandonSegment(ctx context.Context, l Lease, id string, leaf Leaf) error
	// SoftDelete marks members archived in a verified segment and drops their
	// DEKs, in one transaction: those that are active, due, not held, and have
	// the checksum given. The others stay as they are. It writes no leaf if it
	// archived none; Leaf.Archived says what its leaf tells. ErrMoved if the segment
	// is not verified.
	SoftDelete(ctx context.Context, l Lease, segment string, now time.Time, members []Member, leaf Leaf) (SoftDeleted, error)
	// SettleSegment moves verified -> settled. ErrMoved.
	SettleSegment(ctx context.Context, l Lease, id string, leaf Leaf) error

	// DyingClasses lists hot and deferral classes whose period is over at now
	// and that are not destroyed.
	DyingClasses(ctx context.Context, now time.Time) ([]Class, error)
	// ClassDEKs pages through the DEKs left in a class by seq.
	ClassDEKs(ctx context.Context, class string, afterSeq int64, limit int) ([]DEK, error)
	// Reseal replaces wrapped DEKs of one class by those of another, which
	// must be open (ErrMoved). A DEK that is no longer in from is passed over.
	// It returns how many it moved, and writes no leaf for none.
	Reseal(ctx context.Context, l Lease, from, to string, deks map[int64][]byte, leaf Leaf) (int, error)

	// ActivePage pages through the active records by seq, with their ciphertext; a page
	// ends early as DuePage's does.
	ActivePage(ctx context.Context, afterSeq int64, limit int, maxBytes int64) ([]Sealed, error)
	// CountActive counts the active records whose DEK a class wraps.
	CountActive(ctx context.Context, class string) (int, error)
	// Reschedule gives active records other due dates and classes, and says which decision
	// they follow: all of it or nothing. Without a move it writes no leaf. ErrMoved if a
	// class that a record goes to is not open, or a record is not as From says.
	Reschedule(ctx context.Context, l Lease, moves []Rescheduling, f Following, leaf Leaf) error
	// MoveSegment moves a live segment with its archived members to the archive class in
	// g, which is over later than the segment's and open, with the wrapped identity, the
	// retention and the copies in g. It returns how many records it moved; a segment that
	// is in the class is left as it is. ErrMoved if that cannot be, or a vault that is not
	// retiring has a copy that is not in g.
	MoveSegment(ctx context.Context, l Lease, g Segment, leaf Leaf) (int, error)

	// Condemn moves those of the classes that are open, over at now, and have
	// neither a DEK nor an active member to condemned; the leaf is their
	// intent leaf. It returns the ids it moved, and writes no leaf for none. An archive
	// or hold class has, besides, no segment that is staged, and no member that is to
	// be kept for longer than now by its purge_not_before.
	Condemn(ctx context.Context, l Lease, now time.Time, classes []string, leaf Leaf) ([]string, error)
	// Execute reads from base rows what speaks for the destruction of
	// condemned or executing classes, and moves those it speaks for to
	// executing. Only their evidence is returned. A class with a member under an
	// open hold is pinned: it stays as it is until the hold is released.
	Execute(ctx context.Context, l Lease, now time.Time, classes []string, leaf Leaf) ([]shred.Evidence, error)
	// Destroyed moves executing -> destroyed and logs the keyring's epoch, which
	// never goes back. Classes that are destroyed already are passed over;
	// ErrMoved, and nothing is moved, if any other is not executing.
	Destroyed(ctx context.Context, l Lease, classes []string, at time.Time, epoch uint64, leaf Leaf) error
	// DropCiphertext deletes up to limit payloads of archived records whose
	// class is destroyed, or more of them where that is done at one go. It
	// returns how many, 0 when none is left.
	DropCiphertext(ctx context.Context, l Lease, limit int, leaf Leaf) (int, error)

	// DyingArchives lists archive and hold classes whose period is over at now and
	// that are not destroyed.
	DyingArchives(ctx context.Context, now time.Time) ([]Class, error)
	// MoveArchiveClass moves up to limit active records from one archive class to
	// another, which must be open (ErrMoved). It returns how many it moved, and writes
	// no leaf for none.
	MoveArchiveClass(ctx context.Context, l Lease, from, to string, limit int, leaf Leaf) (int, error)
	// Rearchive moves archived members from one segment to another, and into its class.
	// Those that are not in from, or have another checksum, are passed over. It
	// returns how many it moved, and writes no leaf for none; Leaf.Of says what its leaf
	// tells. ErrMoved if the segment they go to is not verified, or its class not open,
	// or the class that they come from is executing or destroyed.
	Rearchive(ctx context.Context, l Lease, from, to string, members []Member, leaf Leaf) (int, error)
	// Purge makes up to limit archived records of a segment, the first by due time and
	// id, purged, and the segment with the last of them: done. ErrMoved if its class is
	// not destroyed. Leaf.Of says what the leaf tells, and its field done. A purged
	// segment is left as it is. In the same transaction those that counted, if it is not
	// nil, says yes to are added to the aggregates; the leaf's field aggregated tells how
	// many. It must be quick.
	Purge(ctx context.Context, l Lease, segment string, limit int, counted func(*Row) bool, leaf Leaf) (n int, done bool, err error)
	// Undeleted lists the purged segments of which a copy is not known to be deleted.
	Undeleted(ctx context.Context) ([]Segment, error)
	// CopyDeleted records at the leaf's time that the object and the manifest of a
	// purged segment are gone from a vault. ErrMoved if it is not purged. A copy that
	// is recorded as deleted is left as it is.
	CopyDeleted(ctx context.Context, l Lease, segment, vault string, leaf Leaf) error

	// Append commits a leaf by itself.
	Append(ctx context.Context, leaf Leaf) error
	// AcceptClock makes the leaf's time the trusted time.
	AcceptClock(ctx context.Context, leaf Leaf) error
	// AcceptKeyring makes epoch the logged epoch.
	AcceptKeyring(ctx context.Context, epoch uint64, leaf Leaf) error
}

// VaultStore is which vaults count. A vault is known by its name for ever.
type VaultStore interface {
	// Vaults lists all vaults by name.
	Vaults(ctx context.Context) ([]VaultRow, error)
	// AddVault adds a vault: active if there is no live segment that it could
	// lack, else joining. One that is known already is left as it is.
	AddVault(ctx context.Context, name string, leaf Leaf) error
	// AddCopy records that a live segment has a verified copy in a vault that is
	// known. A copy that is recorded already is left as it is. ErrMoved if the
	// segment is not live or locked for longer by now, or the vault is retiring.
	AddCopy(ctx context.Context, segment string, c Copy, leaf Leaf) error
	// ActivateVault moves joining -> active. ErrMoved if it is not joining, or
	// lacks a live segment.
	ActivateVault(ctx context.Context, name string, leaf Leaf) error
	// RetireVault moves joining or active -> retiring. ErrMoved if it is neither,
	// ErrLastVault if no active vault would be left.
	RetireVault(ctx context.Context, name string, leaf Leaf) error
}

// LogStore keeps the tree of the transparency log beside the leaves: which leaf has
// which index, and the hashes that golang.org/x/mod/sumdb/tlog stores. Leaves
// themselves never change.
type LogStore interface {
	// Sequence gives each committed leaf that has no index the next ones, in order
	// of their numbers, stores the hashes, and returns the tree's size. Leaves are
	// found by a queue that they are put into with their own transaction, never by
	// their number: a smaller one may be committed later.
	Sequence(ctx context.Context) (size int64, err error)
	// LogState is how far the log is.
	LogState(ctx context.Context) (LogState, error)
	// LogLeaves lists the leaves with from <= index < to, in that order. One that is
	// gone is missing in it.
	LogLeaves(ctx context.Context, from, to int64) ([]Leaf, error)
	// LogIndex finds the index of a leaf. ErrNotFound: it has none yet, or there
	// is no such leaf.
	LogIndex(ctx context.Context, leafID int64) (int64, error)
	// LogHashes reads stored hashes by tlog's storage indexes, in the order asked
	// for. ErrNotFound if one is missing.
	LogHashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error)
	// StrayLeaves lists, oldest first, the numbers of up to limit leaves that have no
	// index and do not wait for one, and of up to limit that have one, or wait for it,
	// and are gone. It reads all of them.
	StrayLeaves(ctx context.Context, limit int) (unindexed, gone []int64, err error)
	// LeafRows yields the records that came with a leaf, that it rescheduled, or that a
	// leaf whose subject is their segment tells were archived, by seq, with their inputs in
	// order, but without ciphertext. DueAt is as the leaf left it.
	LeafRows(ctx context.Context, leafID int64) iter.Seq2[Sealed, error]
	// Published records that a vault has confirmed everything up to a checkpoint
	// of the size; it never goes back.
	Published(ctx context.Context, vault string, size int64) error

	// Rebase takes the indexes from size on back: the tree ends there, what vaults have
	// confirmed beyond counts no more, and the leaves wait for an index again.
	Rebase(ctx context.Context, l Lease, size int64) error
	// Replay writes a published entry as it was published, its role included, gives it
	// its index, and does its effect (nil is none). An entry that has the index already
	// is passed over; ErrMoved if the tree does not end there, or has another.
	Replay(ctx context.Context, l Lease, index int64, leaf Leaf, e Effect) error
}

// LogState is how far the log is.
type LogState struct {
	// Size counts the leaves that have an index, Pending those that wait for one.
	Size, Pending int64
	// Published is the size of the newest checkpoint that each vault has confirmed.
	Published map[string]int64
}

// ReadStore is what reports, exports and screens need.
type ReadStore interface {
	Info(ctx context.Context) (Info, error)
	// Row finds a record's row, SealedRow with what is left of its ciphertext:
	// the DEK is nil once it is dropped, the payload once DropCiphertext has
	// come to it. ErrNotFound.
	Row(ctx context.Context, id string) (Row, error)
	SealedRow(ctx context.Context, id string) (Sealed, error)
	// NewestEvents finds the newest events at or before a time of the lots with one of
	// the TLCs, whatever has become of their records.
	NewestEvents(ctx context.Context, tlcs []string, until time.Time) (map[cte.Lot]time.Time, error)
	// Rows yields rows in order of event time and id.
	Rows(ctx context.Context, q Query) iter.Seq2[Row, error]
	// Sealed yields the records of a query with their ciphertext: the active
	// ones in order of seq, then the archived ones segment by segment, all as
	// of one instant, so that none is missed or given twice while a sweep runs.
	Sealed(ctx context.Context, q Query) iter.Seq2[Sealed, error]
	// Segment finds a segment. Its WrappedIdentity, and that of Segments, is nil for
	// whom the database does not let read it. ErrNotFound.
	Segment(ctx context.Context, id string) (Segment, error)
	// Segments lists segments in the states given, all if none, by id.
	Segments(ctx context.Context, states ...SegmentState) ([]Segment, error)
	// Classes lists all classes; with counted set, DEKs and Members are filled
	// in, which reads every record's index entry.
	Classes(ctx context.Context, counted bool) ([]Class, error)
	Runs(ctx context.Context, limit int) ([]Run, error)
	Run(ctx context.Context, id string) (Run, error)
	Leaves(ctx context.Context, q LeafQuery) ([]Leaf, error)
	// RecordLeaves lists the leaves of one record's own steps: ingest,
	// reseals, reschedulings, archiving.
	RecordLeaves(ctx context.Context, seq int64) ([]Leaf, error)
	// Counts counts records by stored state.
	Counts(ctx context.Context) (map[State]int64, error)
	// Tallies counts all records, those that are alike together. It reads each record's
	// row and looks for its DEK.
	Tallies(ctx context.Context, q TallyQuery) ([]Tally, error)
	// Aggregates lists what Purge has counted, by month, product and event type.
	Aggregates(ctx context.Context) ([]Aggregate, error)
	// RunRecords counts records by the run whose leaf tells that it took them in, and
	// by the run whose leaf tells that it archived them; under "" those of no such leaf.
	RunRecords(ctx context.Context) (map[string]RunRecords, error)
	// MayUnmask says whether whoever is asking may see KDEs that name people. A
	// database without roles for it lets everybody.
	MayUnmask(ctx context.Context) (bool, error)
}

// Refused is a safety check that said no: nothing was done.
type Refused struct {
	Check  string
	Reason string
	// Hint is what to type or look at next.
	Hint string
}

func (r *Refused) Error() string {
	return fmt.Sprintf("refused by the %s check: %s", r.Check, r.Reason)
}
