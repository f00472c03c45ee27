package archive

import "context"

// A Check is one thing that was tried out on a vault.
type Check struct {
	Name  string // short, the same for every vault
	OK    bool
	Found string // what was found, in words
	Hint  string // what to do about it, a command if there is one; empty if OK
	// Fatal is set of a check that is not OK if nothing may be put into the vault:
	// it would not be kept, or not be locked. Any other that is not OK makes the
	// vault weaker than it should be, which a person has to know and may accept.
	Fatal bool
}

// An Inspector is a [Vault] that can be tried out, beyond what [Vault.Status]
// asks of it.
type Inspector interface {
	// Inspect tries out what the vault promises, on objects of its own that
	// are locked for seconds, and returns a Check for everything it tried, in
	// that order. It waits until their locks have ended and leaves nothing
	// behind, unless its last Check says so. What could not be tried since
	// something before it failed has no Check. It never fails: a store that
	// cannot be reached is a Check that is not OK.
	Inspect(ctx context.Context) []Check
}
