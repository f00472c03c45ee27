package lifecycle

import "time"

// Effect is what a published entry says has become of things, for Replay to do again.
// What is so already stays as it is. Effects come in the order of the log, so that each
// finds things as its entry found them.
type Effect interface{ effect() }

type (
	// RunBegun: the run runs.
	RunBegun struct{ Run Run }
	// RunEnded: one that still runs ended, with this Status and Result, or was
	// interrupted, which has no FinishedAt.
	RunEnded struct{ Run Run }

	// HoldPlaced: the hold is there, and open.
	HoldPlaced struct{ Hold Hold }
	// HoldExtended: the hold has these scopes too.
	HoldExtended struct {
		ID     string
		Scopes []Scope
	}
	// HoldReleased: an open hold is released, at the leaf's time by its actor.
	HoldReleased struct{ ID, Reason string }
	// LegalHoldMoved: a copy's legal hold has come to a state.
	LegalHoldMoved struct {
		Segment, Vault string
		To             LegalState
	}

	// ClassesOpened: the classes are there, and the keyring has come to this epoch.
	ClassesOpened struct {
		Classes []Class
		Epoch   uint64
	}
	// ClassesMoved: those of the classes that are in the state before are now in To.
	// At is when they were destroyed, Epoch what the keyring had come to. Their DEKs
	// stay: those that a sweep had moved to another class since cannot be told from
	// this, and an older keyring may be the last that opens them.
	ClassesMoved struct {
		Classes []string
		To      ClassState
		At      time.Time
		Epoch   uint64
	}

	// SegmentStaged: the segment is there.
	SegmentStaged struct{ Segment Segment }
	// SegmentMoved: it is in a later state; verified, it has these copies.
	SegmentMoved struct {
		ID     string
		To     SegmentState
		Copies []Copy
	}
	// SegmentRescheduled: a live segment and its archived members are in another class,
	// with this wrapped identity, retention and copies.
	SegmentRescheduled struct{ Segment Segment }
	// CopyAdded: the segment has another verified copy.
	CopyAdded struct {
		Segment string
		Copy    Copy
	}
	// RecordsArchived: the members, as far as they are active and have the checksum,
	// are archived in the segment, and their DEKs dropped. Lacking are records that the
	// database has not: they are inserted, in their order, archived, and without
	// ciphertext, as if they had come with this leaf. All go to the segment's class.
	RecordsArchived struct {
		Segment string
		Members []Member
		Lacking []Sealed
	}
	// RecordsRearchived: the moved members, as far as they are archived in From and have
	// the checksum, are archived in the segment, and of its class. The others are
	// archived in it for the first time.
	RecordsRearchived struct {
		From  string
		Moved []Member
		RecordsArchived
	}
	// RecordsPurged: the members, as far as they are archived in the segment and have the
	// checksum, are purged; done, so is the segment, unless any other is archived in it.
	RecordsPurged struct {
		Segment string
		Members []Member
		Done    bool
	}
	// CopyDeleted: a purged segment's copy was deleted at the leaf's time.
	CopyDeleted struct{ Segment, Vault string }
	// ArchiveClassMoved: so many active records of one archive class, the first by due
	// time and seq, are of another.
	ArchiveClassMoved struct {
		From, To string
		Records  int64
	}

	// VaultAdded: the vault is there, joining or active by the rule of AddVault.
	VaultAdded struct{ Name string }
	// VaultMoved: it is in a later state.
	VaultMoved struct {
		Name string
		To   VaultState
	}

	// ClockAccepted: the leaf's time is the trusted time.
	ClockAccepted struct{}
	// KeyringAccepted: the epoch is the logged epoch.
	KeyringAccepted struct{ Epoch uint64 }
)

func (RunBegun) effect()           {}
func (RunEnded) effect()           {}
func (HoldPlaced) effect()         {}
func (HoldExtended) effect()       {}
func (HoldReleased) effect()       {}
func (LegalHoldMoved) effect()     {}
func (ClassesOpened) effect()      {}
func (ClassesMoved) effect()       {}
func (SegmentStaged) effect()      {}
func (SegmentMoved) effect()       {}
func (SegmentRescheduled) effect() {}
func (CopyAdded) effect()          {}
func (RecordsArchived) effect()    {}
func (ArchiveClassMoved) effect()  {}
func (CopyDeleted) effect()        {}
func (RecordsPurged) effect()      {}
func (VaultAdded) effect()         {}
func (VaultMoved) effect()         {}
func (ClockAccepted) effect()      {}
func (KeyringAccepted) effect()    {}
