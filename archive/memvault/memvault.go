// Package memvault is an archive.Vault in memory, for tests. It behaves as a
// versioned S3 bucket with Object Lock does: versions and delete markers, locks
// on versions, retention to the second, refusals by the clock it was given.
//
// Its further methods do what the interface never does: overwrite, put a delete
// marker on top, and tamper beneath the lock, as somebody with access to the
// store could.
package memvault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
)

// Vault keeps everything in memory. It is safe for concurrent use.
type Vault struct {
	name string
	now  func() time.Time

	mu      sync.Mutex
	objects map[string][]version // oldest first; never an empty slice. Guarded by mu
}

var _ archive.Vault = (*Vault)(nil)

type version struct {
	id          string
	marker      bool
	body        []byte // never changed in place: readers may have it open
	sha256      [32]byte
	mode        archive.Mode
	retainUntil time.Time
	legalHold   bool
}

// New returns an empty vault whose clock is now.
func New(name string, now func() time.Time) *Vault {
	return &Vault{name: name, now: now, objects: make(map[string][]version)}
}

func (v *Vault) Name() string { return v.name }

func (v *Vault) Status(ctx context.Context) (archive.Status, error) {
	if err := ctx.Err(); err != nil {
		return archive.Status{}, err
	}
	return archive.Status{Lock: archive.LockCompliance, Versioned: true, Now: v.now().UTC()}, nil
}

func (v *Vault) Put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (archive.Version, error) {
	if err := check(ctx, key); err != nil {
		return archive.Version{}, err
	}
	if err := o.Check(v.now()); err != nil {
		return archive.Version{}, fmt.Errorf("couldn't put %s: %w", key, err)
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return archive.Version{}, fmt.Errorf("couldn't put %s: %w", key, err)
	}
	// One byte more than announced is enough to see that there is more.
	b, err := io.ReadAll(io.LimitReader(body, o.Size+1))
	if err != nil {
		return archive.Version{}, fmt.Errorf("couldn't put %s: %w", key, err)
	}
	if int64(len(b)) != o.Size || sha256.Sum256(b) != o.SHA256 {
		return archive.Version{}, fmt.Errorf("couldn't put %s: %w", key, archive.ErrChecksum)
	}
	if err := ctx.Err(); err != nil {
		return archive.Version{}, err
	}

	v.mu.Lock()
	defer v.mu.Unlock()
	if vs := v.objects[key]; len(vs) > 0 && !vs[len(vs)-1].marker {
		return archive.Version{}, fmt.Errorf("couldn't put %s: %w", key, archive.ErrExists)
	}
	return v.push(key, version{
		body: b, sha256: o.SHA256, mode: o.Mode, retainUntil: archive.WholeSecond(o.RetainUntil),
	}), nil
}

func (v *Vault) Get(ctx context.Context, key, versionID string) (io.ReadCloser, archive.ObjectInfo, error) {
	if err := check(ctx, key); err != nil {
		return nil, archive.ObjectInfo{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, versionID)
	if err != nil {
		return nil, archive.ObjectInfo{}, err
	}
	return io.NopCloser(bytes.NewReader(x.body)), v.info(key, x), nil
}

func (v *Vault) Stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	if err := check(ctx, key); err != nil {
		return archive.ObjectInfo{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, versionID)
	if err != nil {
		return archive.ObjectInfo{}, err
	}
	return v.info(key, x), nil
}

// info describes a version that find has found. The caller holds mu.
func (v *Vault) info(key string, x *version) archive.ObjectInfo {
	vs := v.objects[key]
	return archive.ObjectInfo{
		Version: describe(key, *x, x == &vs[len(vs)-1]),
		Mode:    x.mode, RetainUntil: x.retainUntil, LegalHold: x.legalHold, SHA256: x.sha256,
	}
}

func (v *Vault) Versions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error] {
	return func(yield func(archive.Version, error) bool) {
		for _, x := range v.list(prefix) {
			if err := ctx.Err(); err != nil {
				yield(archive.Version{}, err)
				return
			}
			if !yield(x, nil) {
				return
			}
		}
	}
}

// list is taken under the lock and given out after it: whoever ranges over
// Versions may call the vault meanwhile.
func (v *Vault) list(prefix string) []archive.Version {
	v.mu.Lock()
	defer v.mu.Unlock()
	var keys []string
	for key := range v.objects {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var all []archive.Version
	for _, key := range keys {
		for i, x := range slices.Backward(v.objects[key]) {
			all = append(all, describe(key, x, i == len(v.objects[key])-1))
		}
	}
	return all
}

func (v *Vault) Retain(ctx context.Context, key, versionID string, until time.Time) error {
	until = archive.WholeSecond(until)
	return v.change(ctx, key, versionID, func(x *version) error {
		if until.Equal(x.retainUntil) {
			return nil
		}
		if until.Before(x.retainUntil) {
			return fmt.Errorf("%w until %s", archive.ErrLocked, x.retainUntil.Format(time.RFC3339))
		}
		if err := archive.CheckRetainUntil(until, v.now()); err != nil {
			return err
		}
		if x.mode == "" {
			x.mode = archive.Compliance
		}
		x.retainUntil = until
		return nil
	})
}

func (v *Vault) SetLegalHold(ctx context.Context, key, versionID string, on bool) error {
	return v.change(ctx, key, versionID, func(x *version) error {
		x.legalHold = on
		return nil
	})
}

func (v *Vault) change(ctx context.Context, key, versionID string, do func(*version) error) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	if versionID == "" {
		return fmt.Errorf("couldn't change the lock of %s: %w", key, archive.ErrNoVersionID)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, versionID)
	if err != nil {
		return err
	}
	if err := do(x); err != nil {
		return fmt.Errorf("couldn't change the lock of %s version %s: %w", key, versionID, err)
	}
	return nil
}

func (v *Vault) Delete(ctx context.Context, key, versionID string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	if versionID == "" {
		return fmt.Errorf("couldn't delete %s: %w", key, archive.ErrNoVersionID)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, x := range v.objects[key] {
		if x.id != versionID {
			continue
		}
		if x.legalHold {
			return fmt.Errorf("couldn't delete %s version %s: %w: legal hold", key, versionID, archive.ErrLocked)
		}
		if v.now().Before(x.retainUntil) {
			return fmt.Errorf("couldn't delete %s version %s: %w until %s", key, versionID,
				archive.ErrLocked, x.retainUntil.Format(time.RFC3339))
		}
	}
	if !v.drop(key, versionID) {
		return fmt.Errorf("%w: %s version %s", archive.ErrNotFound, key, versionID)
	}
	return nil
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return archive.ValidKey(key)
}

func describe(key string, x version, latest bool) archive.Version {
	return archive.Version{
		Key: key, VersionID: x.id, Size: int64(len(x.body)), DeleteMarker: x.marker, Latest: latest,
	}
}

// find returns a version that can be read, or the current one if versionID is
// empty. The caller holds mu.
func (v *Vault) find(key, versionID string) (*version, error) {
	vs := v.objects[key]
	for i := range vs {
		x := &vs[i]
		if x.id == versionID || versionID == "" && i == len(vs)-1 {
			if x.marker {
				return nil, fmt.Errorf("%w: %s version %q is a delete marker", archive.ErrNotFound, key, x.id)
			}
			return x, nil
		}
	}
	return nil, fmt.Errorf("%w: %s version %q", archive.ErrNotFound, key, versionID)
}

// push puts a version on top. The caller holds mu.
func (v *Vault) push(key string, x version) archive.Version {
	x.id = rand.Text()
	v.objects[key] = append(v.objects[key], x)
	return describe(key, x, true)
}

// drop removes a version, whatever its lock. The caller holds mu.
func (v *Vault) drop(key, versionID string) bool {
	vs := v.objects[key]
	i := slices.IndexFunc(vs, func(x version) bool { return x.id == versionID })
	if i < 0 {
		return false
	}
	// A new slice: pointers into the old one do not outlive mu, but the
	// bodies in its tail would outlive their removal.
	if v.objects[key] = slices.Concat(vs[:i], vs[i+1:]); len(vs) == 1 {
		delete(v.objects, key)
	}
	return true
}

// ForcePut puts a version on top of whatever is there, without a lock, as a
// plain S3 PUT does.
func (v *Vault) ForcePut(key string, body []byte) archive.Version {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.push(key, version{body: bytes.Clone(body), sha256: sha256.Sum256(body)})
}

// DeleteLatest puts a delete marker on top, as an S3 DELETE without a version
// id does: it succeeds on a locked object, whose versions stay.
func (v *Vault) DeleteLatest(key string) archive.Version {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.push(key, version{marker: true})
}

// Tamper replaces the bytes of a version (the current one if versionID is
// empty) by what edit makes of them, and leaves version id, lock and recorded
// SHA-256 as they are.
func (v *Vault) Tamper(key, versionID string, edit func([]byte) []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, versionID)
	if err != nil {
		return err
	}
	x.body = edit(bytes.Clone(x.body))
	return nil
}

// Swap exchanges the bytes of the current versions of two keys, and nothing
// else.
func (v *Vault) Swap(a, b string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(a, "")
	if err != nil {
		return err
	}
	y, err := v.find(b, "")
	if err != nil {
		return err
	}
	x.body, y.body = y.body, x.body
	return nil
}

// Drop removes a key with all its versions, whatever their locks.
func (v *Vault) Drop(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.objects, key)
}

// SetLock sets a version's retention as it could never be set through the
// interface: shortened, lifted (an empty mode and a zero time), in another mode.
func (v *Vault) SetLock(key, versionID string, mode archive.Mode, until time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	x, err := v.find(key, versionID)
	if err != nil {
		return err
	}
	x.mode, x.retainUntil = mode, until.UTC()
	return nil
}
