package keystoretest

import (
	"context"

	"github.com/lotkeeper/lotkeeper/shred"
)

// Faulty is a KeyStore whose calls fail when Fault says so. Fault is asked once a
// call, with the method's name. If before is not nil, the call fails with it and
// nothing is done; if after is not nil, the call is done, and reported failed with
// it: the acknowledgement that gets lost.
//
// Every method is written out: with an embedded KeyStore a new method would get
// through without a fault, and nobody would notice.
type Faulty struct {
	KeyStore shred.KeyStore
	// Fault must be safe for concurrent use if the calls are concurrent.
	Fault func(method string) (before, after error)
}

var _ shred.KeyStore = (*Faulty)(nil)

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

func (f *Faulty) Create(ctx context.Context, ids []string) (uint64, error) {
	return get(f, "Create", func() (uint64, error) { return f.KeyStore.Create(ctx, ids) })
}

func (f *Faulty) Open(ctx context.Context, id string) (*shred.ClassKey, error) {
	return get(f, "Open", func() (*shred.ClassKey, error) { return f.KeyStore.Open(ctx, id) })
}

func (f *Faulty) Destroy(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
	return get(f, "Destroy", func() (shred.Destruction, error) { return f.KeyStore.Destroy(ctx, p) })
}

func (f *Faulty) Status(ctx context.Context) (shred.Status, error) {
	return get(f, "Status", func() (shred.Status, error) { return f.KeyStore.Status(ctx) })
}
