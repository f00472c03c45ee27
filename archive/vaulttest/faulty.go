package vaulttest

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
)

// Faulty is a Vault whose calls fail when Fault says so. Fault is asked once a
// call, with the method's name. If before is not nil, the call fails with it
// and nothing is done; if after is not nil, the call is done, and reported
// failed with it: the acknowledgement that gets lost.
//
// Versions asks when it is ranged over; with after set it yields everything,
// and the error last. Every method is written out: with an embedded Vault a new
// method would get through without a fault, and nobody would notice.
type Faulty struct {
	Vault archive.Vault
	// Fault must be safe for concurrent use if the calls are concurrent.
	Fault func(method string) (before, after error)
}

var _ archive.Vault = (*Faulty)(nil)

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

func (f *Faulty) do(method string, call func() error) error {
	_, err := get(f, method, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

// Name cannot fail.
func (f *Faulty) Name() string { return f.Vault.Name() }

func (f *Faulty) Status(ctx context.Context) (archive.Status, error) {
	return get(f, "Status", func() (archive.Status, error) { return f.Vault.Status(ctx) })
}

func (f *Faulty) Put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (archive.Version, error) {
	return get(f, "Put", func() (archive.Version, error) { return f.Vault.Put(ctx, key, body, o) })
}

func (f *Faulty) Get(ctx context.Context, key, versionID string) (io.ReadCloser, archive.ObjectInfo, error) {
	var r io.ReadCloser
	info, err := get(f, "Get", func() (info archive.ObjectInfo, err error) {
		r, info, err = f.Vault.Get(ctx, key, versionID)
		return info, err
	})
	if err != nil && r != nil {
		r.Close() // the caller is given none to close
		r = nil
	}
	return r, info, err
}

func (f *Faulty) Stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	return get(f, "Stat", func() (archive.ObjectInfo, error) { return f.Vault.Stat(ctx, key, versionID) })
}

func (f *Faulty) Versions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error] {
	return func(yield func(archive.Version, error) bool) {
		before, after := f.Fault("Versions")
		if before != nil {
			yield(archive.Version{}, before)
			return
		}
		for v, err := range f.Vault.Versions(ctx, prefix) {
			if !yield(v, err) {
				return
			}
		}
		if after != nil {
			yield(archive.Version{}, after)
		}
	}
}

func (f *Faulty) Retain(ctx context.Context, key, versionID string, until time.Time) error {
	return f.do("Retain", func() error { return f.Vault.Retain(ctx, key, versionID, until) })
}

func (f *Faulty) SetLegalHold(ctx context.Context, key, versionID string, on bool) error {
	return f.do("SetLegalHold", func() error { return f.Vault.SetLegalHold(ctx, key, versionID, on) })
}

func (f *Faulty) Delete(ctx context.Context, key, versionID string) error {
	return f.do("Delete", func() error { return f.Vault.Delete(ctx, key, versionID) })
}
