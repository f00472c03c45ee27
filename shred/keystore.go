package shred

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What callers of a KeyStore branch on.
var (
	// ErrDestroyed: the class was destroyed. Its key will not come back.
	ErrDestroyed = errors.New("class key is destroyed")
	// ErrUnknownKey: the store has never had a key with this id.
	ErrUnknownKey = errors.New("class key is unknown")
	// ErrStale: the keys are older than what is known to have existed: a key store that
	// was put back from an older copy, or a copy that is behind another one.
	ErrStale = errors.New("key store is older than it should be")
	// ErrStillReadable: after a destruction, a key could still be had.
	ErrStillReadable = errors.New("destroyed class is still readable")
)

// KeyStore keeps class keys. Implementations are safe for concurrent use, also by
// several processes on one store. Every implementation, fakes included, passes
// keystoretest.Exercise.
//
// A class id is 1 to 255 bytes of printable ASCII without spaces ([CheckID]).
//
// An operation that returns an error may have taken effect or not. To call it again is
// always right, and rolls it forward.
type KeyStore interface {
	// Create makes a new random key for each id that has none, and returns the epoch in
	// which all of them are there. A key that exists is left as it is; if all exist,
	// the epoch stays. If any id is destroyed, it returns ErrDestroyed and creates
	// none. When it returns without an error, the keys are durable in every copy: only
	// then may anything be wrapped with them.
	Create(ctx context.Context, ids []string) (epoch uint64, err error)

	// Open returns the class key, ready to work in memory. It returns ErrDestroyed or
	// ErrUnknownKey if there is none. It sees what any process has destroyed before the
	// call.
	Open(ctx context.Context, id string) (*ClassKey, error)

	// Destroy removes the keys of all classes that the permit names, and remembers
	// their ids. Those destroyed already are passed over. If any id is unknown it
	// returns ErrUnknownKey and destroys none, because a receipt for a key that was
	// never here would prove nothing: the permit and the store do not belong together.
	// When it returns without an error, Open answers ErrDestroyed, and no copy that the
	// store knows of remains, or none will after Destruction.PendingUntil. A permit
	// that names no class is refused with *NotPermitted.
	Destroy(ctx context.Context, p Permit) (Destruction, error)

	// Status reports what is there, and what is wrong with each copy. It changes
	// nothing.
	Status(ctx context.Context) (Status, error)
}

// Destruction is what Destroy did.
type Destruction struct {
	// Epoch is one in which the classes are destroyed.
	Epoch uint64
	// PendingUntil is zero if the keys are gone. Otherwise they are disabled for good
	// and will be gone at this time: a cloud KMS imposes a waiting period.
	PendingUntil time.Time
}

// Status is the state of a key store.
type Status struct {
	Epoch     uint64
	Live      []string // ids of the keys that open, sorted
	Destroyed []string // ids that never open again, sorted
	Copies    []Copy   // the first is the one that Open reads
}

// Copy is one place that the keys are kept in.
type Copy struct {
	Path    string
	Epoch   uint64 // 0 if it could not be read
	Problem string // empty if there is none
}

// Regressed compares the store with what the caller has on record: the highest epoch it
// has seen, and the ids it knows to be destroyed. It returns a *Regression, which is an
// ErrStale, if the store's epoch is lower, or any of the ids is live again: the marks
// of a store that was put back from an older copy. A higher epoch is not a fault: a
// process can end between a change of the keys and the note of it.
func (s Status) Regressed(epoch uint64, destroyed []string) error {
	r := &Regression{Epoch: s.Epoch, KnownEpoch: epoch}
	for _, id := range destroyed {
		if slices.Contains(s.Live, id) {
			r.LiveAgain = append(r.LiveAgain, id)
		}
	}
	if s.Epoch >= epoch && len(r.LiveAgain) == 0 {
		return nil
	}
	return r
}

// Regression says how a key store is older than the caller knows it to have been.
type Regression struct {
	Epoch, KnownEpoch uint64
	LiveAgain         []string // ids known to be destroyed whose keys open
}

func (r *Regression) Error() string {
	var what []string
	if r.Epoch < r.KnownEpoch {
		what = append(what, fmt.Sprintf("epoch %d, but %d was seen before", r.Epoch, r.KnownEpoch))
	}
	if n := len(r.LiveAgain); n > 0 {
		what = append(what, fmt.Sprintf("%d destroyed class keys live again, %q the first", n, r.LiveAgain[0]))
	}
	return fmt.Sprintf("%v: %s", ErrStale, strings.Join(what, "; "))
}

func (r *Regression) Is(target error) bool { return target == ErrStale }

// CheckID returns an error unless id can be a class id: 1 to 255 bytes of printable
// ASCII without spaces. Every key store can write such an id down as it is.
func CheckID(id string) error {
	if len(id) < 1 || len(id) > 255 {
		return fmt.Errorf("class id of %d bytes: want 1 to 255", len(id))
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return fmt.Errorf("class id %q: byte %d is not printable ASCII", id, i)
		}
	}
	return nil
}
