package archive

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"
)

// Absent stands for a vault that is configured and could not be opened: a disk
// that is not mounted, credentials that are not there. Every call but Name fails
// with the reason, so that whatever can do without it still can.
type Absent struct {
	name string
	err  error
}

var _ Vault = (*Absent)(nil)

// NewAbsent returns the vault called name, which could not be opened because of err.
func NewAbsent(name string, err error) *Absent {
	return &Absent{name, fmt.Errorf("vault %s is not to be had: %w", name, err)}
}

func (v *Absent) Name() string { return v.name }

func (v *Absent) Status(context.Context) (Status, error) { return Status{}, v.err }

func (v *Absent) Put(context.Context, string, io.ReadSeeker, PutOptions) (Version, error) {
	return Version{}, v.err
}

func (v *Absent) Get(context.Context, string, string) (io.ReadCloser, ObjectInfo, error) {
	return nil, ObjectInfo{}, v.err
}

func (v *Absent) Stat(context.Context, string, string) (ObjectInfo, error) {
	return ObjectInfo{}, v.err
}

func (v *Absent) Versions(context.Context, string) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) { yield(Version{}, v.err) }
}

func (v *Absent) Retain(context.Context, string, string, time.Time) error { return v.err }

func (v *Absent) SetLegalHold(context.Context, string, string, bool) error { return v.err }

func (v *Absent) Delete(context.Context, string, string) error { return v.err }
