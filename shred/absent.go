package shred

import "context"

// Absent stands for a key store that could not be opened. Every call fails with
// the reason, so that whatever needs no key, placing a hold above all, still can.
type Absent struct{ err error }

var _ KeyStore = Absent{}

// NewAbsent returns the key store that could not be opened because of err.
func NewAbsent(err error) Absent { return Absent{err} }

func (a Absent) Create(context.Context, []string) (uint64, error) { return 0, a.err }

func (a Absent) Open(context.Context, string) (*ClassKey, error) { return nil, a.err }

func (a Absent) Destroy(context.Context, Permit) (Destruction, error) { return Destruction{}, a.err }

func (a Absent) Status(context.Context) (Status, error) { return Status{}, a.err }
