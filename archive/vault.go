package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Mode is a retention mode, in S3 Object Lock's terms.
type Mode string

const (
	// Compliance retention cannot be shortened or lifted by anyone.
	Compliance Mode = "COMPLIANCE"
	// Governance retention can be lifted by whoever has a special permission
	// in the store. No call of a Vault ever uses that permission.
	Governance Mode = "GOVERNANCE"
)

// What a vault's lock is worth, in [Status.Lock].
const (
	// LockCompliance: the store itself refuses, whoever asks.
	LockCompliance = "compliance"
	// LockAdvisory: every call of the Vault honours the lock, but whoever owns
	// the storage beneath it can go around it.
	LockAdvisory = "advisory"
)

// A Version is one version of an object, or a delete marker.
type Version struct {
	Key          string
	VersionID    string
	Size         int64 // bytes
	DeleteMarker bool
	Latest       bool // it is known to be the key's current version
}

// ObjectInfo is what a vault knows of one version without reading it.
type ObjectInfo struct {
	Version
	Mode        Mode      // empty: no retention
	RetainUntil time.Time // UTC; zero: no retention
	LegalHold   bool
	SHA256      [32]byte // as the vault recorded it at Put; zero if it keeps none
}

// PutOptions say what an object has to be and how long it is locked. Every
// field is required: nothing is left to a bucket's default.
type PutOptions struct {
	SHA256      [32]byte
	Size        int64 // bytes
	Mode        Mode
	RetainUntil time.Time
}

// Check reports whether a vault whose clock shows now may take the options as
// they are: a known mode, a retain-until that is still to come. The error wraps
// [ErrLockUnsupported] or [ErrRetainUntil].
func (o PutOptions) Check(now time.Time) error {
	if o.Mode != Compliance && o.Mode != Governance {
		return fmt.Errorf("%w: retention mode %q", ErrLockUnsupported, o.Mode)
	}
	if o.Size < 0 {
		return fmt.Errorf("%w: size %d", ErrChecksum, o.Size)
	}
	return CheckRetainUntil(o.RetainUntil, now)
}

// CheckRetainUntil reports an error that wraps [ErrRetainUntil] unless until is
// after now. A zero until is never after now, so a forgotten one is refused.
func CheckRetainUntil(until, now time.Time) error {
	if !until.After(now) {
		return fmt.Errorf("%w: %s, vault's clock %s", ErrRetainUntil,
			until.UTC().Format(time.RFC3339Nano), now.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// WholeSecond rounds a retain-until up to the resolution that every vault can
// keep. Up, because stores that keep seconds cut the fraction off, and an
// object unlocked a fraction early is an object unlocked early.
func WholeSecond(until time.Time) time.Time {
	t := until.UTC().Truncate(time.Second)
	if t.Before(until) {
		t = t.Add(time.Second)
	}
	return t
}

// Status is what a vault says of itself.
type Status struct {
	Lock      string    // LockCompliance or LockAdvisory
	Versioned bool      // an overwrite or delete leaves older versions in place
	Now       time.Time // the clock of the store itself, to compare the caller's with
}

// A Vault is one object-lock store. All methods may be called concurrently,
// from several processes too where the store is shared. They return promptly
// with the context's error once it is done; what a Put or Delete has done by
// then is either all or nothing.
//
// Keys are checked with [ValidKey] first. Errors wrap the sentinels below
// where a caller may branch on them; any other error means that the outcome is
// unknown and the vault has to be asked again.
type Vault interface {
	// Name is the vault's name in configuration, reports and the log.
	Name() string

	// Status asks the store itself: it fails if the store cannot be reached.
	Status(ctx context.Context) (Status, error)

	// Put stores an object under a key that has no current version, and
	// returns once it is durable together with its lock. It reads body from
	// its start, perhaps more than once.
	//
	// ErrExists: the key has a current version, which is left as it is; of
	// several concurrent Puts of one key exactly one succeeds. ErrChecksum: the
	// bytes are not SHA256 or not Size; nothing is stored. ErrRetainUntil:
	// RetainUntil is not after the vault's clock. ErrLockUnsupported: the
	// vault cannot lock in this mode. RetainUntil is rounded up to the
	// vault's resolution, never down.
	Put(ctx context.Context, key string, body io.ReadSeeker, o PutOptions) (Version, error)

	// Get opens one version, or the current one if versionID is empty, and
	// describes it as Stat would, so that reading a copy back takes one request.
	// The caller closes the reader. ErrNotFound: there is no such version, or
	// it is a delete marker, or the current one is.
	//
	// Latest is set if no version was named; of a named one it may be unknown
	// and is then false. A lock that cannot be told keeps no bytes from being
	// read: the description then has no Mode, as that of an object without
	// retention, and Stat tells which of the two it is. It may have no
	// VersionID either, where the lock that cannot be read is what knows it.
	Get(ctx context.Context, key, versionID string) (io.ReadCloser, ObjectInfo, error)

	// Stat describes a version; version ids, ErrNotFound and Latest are as in
	// Get. ErrLockUnknown: the object is there, its lock cannot be told.
	Stat(ctx context.Context, key, versionID string) (ObjectInfo, error)

	// Versions lists every version and delete marker whose key starts with
	// prefix (a string prefix, not a folder; empty means all), in byte order
	// of the keys, newest first within a key. An error with a Version that
	// has a Key is about that key alone, and the listing can go on; one with
	// an empty Key ends it.
	Versions(ctx context.Context, prefix string) iter.Seq2[Version, error]

	// Retain lengthens a version's retention, rounding up as Put does. An
	// until equal to the present one changes nothing. ErrLocked: until is
	// earlier than the present one. ErrRetainUntil: it is not after the
	// vault's clock. ErrNotFound as in Get, but versionID is required.
	Retain(ctx context.Context, key, versionID string, until time.Time) error

	// SetLegalHold sets or lifts the legal hold of a version, which is
	// independent of its retention. Setting what is already set succeeds.
	// ErrNotFound as in Retain.
	SetLegalHold(ctx context.Context, key, versionID string, on bool) error

	// Delete removes one version for good, or a delete marker. versionID is
	// required, since without one a versioned store only puts a delete marker
	// on top and calls that success. ErrLocked: the version is retained or
	// under legal hold. ErrNotFound: there is no such version.
	Delete(ctx context.Context, key, versionID string) error
}

var (
	// ErrExists: the key has a current version already.
	ErrExists = errors.New("object exists")
	// ErrNotFound: there is no such object, version or current version.
	ErrNotFound = errors.New("object not found")
	// ErrLocked: the version is retained or under legal hold.
	ErrLocked = errors.New("object is locked")
	// ErrChecksum: the bytes are not those that were announced.
	ErrChecksum = errors.New("bytes do not match their checksum")
	// ErrLockUnsupported: the vault cannot lock at all, or not in this mode.
	ErrLockUnsupported = errors.New("object lock not supported")
	// ErrLockUnknown: an object is there whose lock cannot be read. Every call
	// treats it as locked for ever.
	ErrLockUnknown = errors.New("lock cannot be read, object counts as locked")
	// ErrRetainUntil: a retain-until that is not in the future.
	ErrRetainUntil = errors.New("retain-until is not in the future")
	// ErrInvalidKey: not a key that every vault can hold.
	ErrInvalidKey = errors.New("invalid key")
	// ErrNoVersionID: a call that needs a version id was given none.
	ErrNoVersionID = errors.New("version id required")
)

const (
	maxKey = 1024 // S3's limit
	// A file name has 255 bytes; five are left for what a directory vault
	// appends to name a file beside the object.
	maxKeyElement = 250
)

// ValidKey reports an error that wraps [ErrInvalidKey] unless key can be kept
// by every kind of vault under exactly this name: a relative slash-separated
// path in UTF-8 of at most 1,024 bytes, at most 250 an element, no element
// empty or starting with a dot (so neither `..` nor `//`, nor a vault's own
// dot files), no control character and no backslash.
func ValidKey(key string) error {
	bad := func(why string) error { return fmt.Errorf("%w %q: %s", ErrInvalidKey, key, why) }
	switch {
	case key == "":
		return bad("it is empty")
	case len(key) > maxKey:
		return fmt.Errorf("%w: %d bytes, more than %d", ErrInvalidKey, len(key), maxKey)
	case !utf8.ValidString(key):
		return bad("it is not UTF-8")
	case strings.ContainsFunc(key, unicode.IsControl), strings.Contains(key, `\`):
		return bad("control character or backslash")
	}
	for element := range strings.SplitSeq(key, "/") {
		switch {
		case element == "":
			return bad("empty element, or a slash at its start or end")
		case element[0] == '.':
			return bad("element starts with a dot")
		case len(element) > maxKeyElement:
			return bad(fmt.Sprintf("element of %d bytes, more than %d", len(element), maxKeyElement))
		}
	}
	return nil
}
