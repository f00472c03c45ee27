package lifecycle

import "fmt"

// State is where a record is in its life. The diagram:
//
//	active ───────────▶ archived ───────────▶ purged
//	  ▲ │                 ▲ │
//	  │ ▼                 │ ▼
//	 held                held
//
// Held is derived, never stored: a record is held while any open hold covers
// it, and is active or archived again (its base state) when the last one is
// released.
type State string

const (
	// Active: the hot store has the sealed record and its wrapped DEK. Entered
	// by ingest. A crash leaves it active; nothing is lost.
	Active State = "active"
	// Archived: every vault has a verified copy, the hot DEK is dropped.
	// Entered by soft-delete, in the transaction that drops the DEK.
	Archived State = "archived"
	// Purged: no readable copy is left. Entered when the archive class is over.
	Purged State = "purged"
	// Held: an open hold covers the record. Derived from the holds, see above.
	Held State = "held"
)

// Transition is one row of the state machine.
type Transition struct {
	From, To State
	// Stored says that the move is an update of the record's row. Moves to and
	// from Held are not: they follow from the holds alone.
	Stored bool
	When   string
}

// Transitions is the whole state machine. Each database checks the stored
// moves again by trigger, so a new row here needs a migration there.
var Transitions = []Transition{
	{Active, Archived, true, "copy verified in every vault, past the cutoff, not held: soft-deleted, DEK dropped"},
	{Active, Held, false, "a hold that covers it is placed"},
	{Held, Active, false, "the last hold is released"},
	{Archived, Held, false, "a hold that covers it is placed"},
	{Held, Archived, false, "the last hold is released"},
	{Archived, Purged, true, "archive class over, never before the law's floor, not held"},
}

// CheckMove says whether a record's stored state may go from one to another.
func CheckMove(from, to State) error {
	for _, t := range Transitions {
		if t.Stored && t.From == from && t.To == to {
			return nil
		}
	}
	return fmt.Errorf("a record cannot go from %s to %s", from, to)
}
