package bucket

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
)

// An API is one client library on one bucket. Each method is the S3 operation
// of its name, retried by the library's own retryer at most [Attempts] times on
// 429, 5xx and broken connections, and never on another answer. Keys are full
// keys; an empty version id stands for the current version.
type API interface {
	// PutObject sends everything in o, and If-None-Match: *. RetainUntil is in
	// whole seconds.
	PutObject(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (versionID string, err error)
	// GetObject and HeadObject ask with x-amz-checksum-mode: ENABLED. The
	// library must not compare the body with the checksum: that other bytes
	// are there is for the caller to find, not an error on the way.
	GetObject(ctx context.Context, key, versionID string) (io.ReadCloser, Head, error)
	HeadObject(ctx context.Context, key, versionID string) (Head, error)
	DeleteObject(ctx context.Context, key, versionID string, bypassGovernance bool) error
	// ListObjectVersions yields full keys, in the server's order. An error ends it.
	ListObjectVersions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error]

	// GetObjectRetention's error wraps archive.ErrLockUnknown for an answer that
	// the library cannot read.
	GetObjectRetention(ctx context.Context, key, versionID string) (archive.Mode, time.Time, error)
	PutObjectRetention(ctx context.Context, key, versionID string, mode archive.Mode, until time.Time) error
	GetObjectLegalHold(ctx context.Context, key, versionID string) (bool, error)
	PutObjectLegalHold(ctx context.Context, key, versionID string, on bool) error

	// GetBucketVersioning reports whether the status is Enabled.
	GetBucketVersioning(ctx context.Context) (bool, error)
	// GetObjectLockConfiguration reports whether Object Lock is Enabled.
	GetObjectLockConfiguration(ctx context.Context) (bool, error)

	// Answer takes an error of the methods above apart: the HTTP status that
	// the server answered with, 0 if it gave no answer, and the S3 error code.
	Answer(err error) (status int, code string)
}

// Attempts is how often a request is tried.
const Attempts = 5

// A Head is what the headers of a GetObject or HeadObject say.
type Head struct {
	VersionID   string
	Size        int64        // Content-Length; negative if there is none
	Mode        archive.Mode // empty: no header
	RetainUntil time.Time
	LegalHold   bool
	SHA256      [32]byte // zero: no header
}

// A Config is what a Vault needs beside its API. Everything is required but
// Prefix, which has no slash at its end.
type Config struct {
	Name, Prefix string
	Now          func() time.Time
	Wait         func(ctx context.Context, d time.Duration) error
	Hints        Hints
}

// Vault is one bucket, or the part of one under a prefix. It is safe for
// concurrent use.
type Vault struct {
	conf   Config
	api    API
	prefix string // of full keys: empty, or ends in a slash
}

var (
	_ archive.Vault     = (*Vault)(nil)
	_ archive.Inspector = (*Vault)(nil)
)

// New returns the vault. It asks nothing of the server.
func New(c Config, api API) (*Vault, error) {
	v := &Vault{conf: c, api: api}
	switch {
	case c.Name == "":
		return nil, errors.New("a vault needs a name")
	case c.Now == nil, c.Wait == nil:
		return nil, fmt.Errorf("vault %s needs Options.Now and Options.Wait", c.Name)
	}
	if c.Prefix != "" {
		if err := archive.ValidKey(c.Prefix); err != nil {
			return nil, fmt.Errorf("vault %s: prefix: %w", c.Name, err)
		}
		v.prefix = c.Prefix + "/"
	}
	return v, nil
}

// Name is the name the vault was opened under.
func (v *Vault) Name() string { return v.conf.Name }

// Status implements archive.Vault with GetBucketVersioning and
// GetObjectLockConfiguration. Without both enabled, Lock is empty.
func (v *Vault) Status(ctx context.Context) (archive.Status, error) {
	if err := ctx.Err(); err != nil {
		return archive.Status{}, err
	}
	ctx, date := withDate(ctx)
	versioned, err := v.api.GetBucketVersioning(ctx)
	if err != nil {
		return archive.Status{}, fmt.Errorf("couldn't ask for the versioning of vault %s: %w", v.Name(), err)
	}
	locks, err := v.locks(ctx)
	if err != nil {
		return archive.Status{}, fmt.Errorf("couldn't ask for the Object Lock of vault %s: %w", v.Name(), err)
	}
	s := archive.Status{Versioned: versioned, Now: date.get()}
	if s.Now.IsZero() {
		return archive.Status{}, fmt.Errorf("couldn't read the clock of vault %s: no answer had a Date", v.Name())
	}
	if versioned && locks {
		s.Lock = archive.LockCompliance
	}
	return s, nil
}

// locks reports whether the bucket has Object Lock.
func (v *Vault) locks(ctx context.Context) (bool, error) {
	locks, err := v.api.GetObjectLockConfiguration(ctx)
	if _, code := v.api.Answer(err); code == "ObjectLockConfigurationNotFoundError" {
		return false, nil
	}
	return locks, err
}

// Put implements archive.Vault.
func (v *Vault) Put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (archive.Version, error) {
	if err := check(ctx, key); err != nil {
		return archive.Version{}, err
	}
	versionID, err := v.put(ctx, key, body, o)
	if err != nil {
		return archive.Version{}, fmt.Errorf("couldn't put %s into vault %s: %w", key, v.Name(), err)
	}
	return archive.Version{Key: key, VersionID: versionID, Size: o.Size, Latest: true}, nil
}

func (v *Vault) put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (string, error) {
	// The zero time: whether it is after the vault's clock, the vault says.
	if err := o.Check(time.Time{}); err != nil {
		return "", err
	}
	if err := announced(ctx, body, o); err != nil {
		return "", err
	}
	o.RetainUntil = archive.WholeSecond(o.RetainUntil)
	ctx, date := withDate(ctx)
	for attempt := 1; ; attempt++ {
		versionID, err := v.api.PutObject(ctx, v.prefix+key, body, o)
		if err == nil {
			if versionID == "" || versionID == nullVersion {
				return "", fmt.Errorf("%w: the bucket keeps no versions", archive.ErrLockUnsupported)
			}
			return versionID, nil
		}
		status, code := v.api.Answer(err)
		switch {
		case code == "ConditionalRequestConflict", code == "OperationAborted":
			// Another put of the key is under way, and may yet fail.
			if attempt < Attempts {
				if err := v.conf.Wait(ctx, time.Duration(attempt)*100*time.Millisecond); err != nil {
					return "", err
				}
				continue
			}
			return "", v.exists(ctx, key, err)
		case status == http.StatusPreconditionFailed:
			return "", v.exists(ctx, key, err)
		case code == "BadDigest", code == "InvalidDigest", code == "XAmzContentChecksumMismatch", code == "XAmzContentSHA256Mismatch":
			return "", fmt.Errorf("%w: %w", archive.ErrChecksum, err)
		case status/100 == 4 && !o.RetainUntil.After(date.get()):
			return "", fmt.Errorf("%w: %w", archive.CheckRetainUntil(o.RetainUntil, date.get()), err)
		case status == http.StatusBadRequest:
			if locks, asked := v.locks(ctx); asked == nil && !locks {
				return "", fmt.Errorf("%w: the bucket has no Object Lock: %w", archive.ErrLockUnsupported, err)
			}
		}
		return "", err
	}
}

// nullVersion is the id of what was put while a bucket kept no versions.
const nullVersion = "null"

// announced reads body from its start and compares it with what was announced.
func announced(ctx context.Context, body io.ReadSeeker, o archive.PutOptions) error {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	// One byte more than announced is enough to see that there is more.
	n, err := io.Copy(sum, io.LimitReader(body, o.Size+1))
	if err != nil {
		return err
	}
	if n != o.Size || [32]byte(sum.Sum(nil)) != o.SHA256 {
		return archive.ErrChecksum
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return ctx.Err()
}

// exists is what a Put returns that was refused because of what is there. Some
// servers refuse it over a delete marker too: then there is no current version,
// and the refusal is none that a caller could do anything with.
func (v *Vault) exists(ctx context.Context, key string, refused error) error {
	_, err := v.head(ctx, key, "")
	if errors.Is(err, archive.ErrNotFound) {
		return fmt.Errorf("the server takes a delete marker for an object: %w", refused)
	}
	if err != nil {
		return errors.Join(refused, err)
	}
	return fmt.Errorf("%w: %w", archive.ErrExists, refused)
}

// Get implements archive.Vault. A body that ends before its announced length,
// or after it, is an error, never a short success.
func (v *Vault) Get(ctx context.Context, key, versionID string) (io.ReadCloser, archive.ObjectInfo, error) {
	if err := check(ctx, key); err != nil {
		return nil, archive.ObjectInfo{}, err
	}
	r, h, err := v.get(ctx, key, versionID)
	if err != nil {
		return nil, archive.ObjectInfo{}, v.failed("get", key, versionID, err)
	}
	if h.Mode == "" {
		// Some servers send the lock with HeadObject only.
		var again Head
		again, err = v.head(ctx, key, cmp.Or(versionID, h.VersionID))
		h.Mode, h.RetainUntil, h.LegalHold = again.Mode, again.RetainUntil, again.LegalHold
	}
	info := archive.ObjectInfo{}
	if err == nil {
		info, err = v.describe(ctx, key, versionID, h)
	}
	if err != nil && !errors.Is(err, archive.ErrLockUnknown) {
		r.Close()
		return nil, archive.ObjectInfo{}, v.failed("get", key, versionID, err)
	}
	return r, info, nil
}

func (v *Vault) get(ctx context.Context, key, versionID string) (io.ReadCloser, Head, error) {
	r, h, err := v.api.GetObject(ctx, v.prefix+key, versionID)
	if err != nil {
		return nil, h, v.absent(err, versionID)
	}
	if h.Size < 0 {
		r.Close()
		return nil, h, errors.New("the answer has no Content-Length")
	}
	return &whole{ReadCloser: r, left: h.Size}, h, nil
}

// whole is a body that has to have its announced length.
type whole struct {
	io.ReadCloser
	left int64
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.left -= int64(n)
	switch {
	case w.left < 0:
		return n, errors.New("the body is longer than its Content-Length")
	case err == io.EOF && w.left > 0:
		return n, fmt.Errorf("the body ends %d bytes before its Content-Length: %w", w.left, io.ErrUnexpectedEOF)
	}
	return n, err
}

// Stat implements archive.Vault.
func (v *Vault) Stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	if err := check(ctx, key); err != nil {
		return archive.ObjectInfo{}, err
	}
	info, err := v.stat(ctx, key, versionID)
	if err != nil {
		return info, v.failed("stat", key, versionID, err)
	}
	return info, nil
}

func (v *Vault) stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	h, err := v.head(ctx, key, versionID)
	if err != nil {
		return archive.ObjectInfo{}, err
	}
	return v.describe(ctx, key, versionID, h)
}

// errDeleteMarker: the version that was named is a delete marker.
var errDeleteMarker = fmt.Errorf("%w: it is a delete marker", archive.ErrNotFound)

func (v *Vault) head(ctx context.Context, key, versionID string) (Head, error) {
	h, err := v.api.HeadObject(ctx, v.prefix+key, versionID)
	if status, _ := v.api.Answer(err); status == http.StatusNotFound || status == http.StatusBadRequest {
		// The answer to a HEAD has no body that could say what is not there:
		// the object, or the whole bucket. That to a GET has.
		var r io.ReadCloser
		if r, h, err = v.get(ctx, key, versionID); err == nil {
			r.Close()
		}
		return h, err
	}
	return h, v.absent(err, versionID)
}

// absent makes ErrNotFound of the answers that mean it.
func (v *Vault) absent(err error, versionID string) error {
	status, code := v.api.Answer(err)
	switch {
	case status == http.StatusNotFound && code != "NoSuchBucket",
		// Not an id that this server could have given, so there is none.
		status == http.StatusBadRequest && versionID != "" && (code == "InvalidArgument" || code == "NoSuchVersion"):
		return fmt.Errorf("%w: %w", archive.ErrNotFound, err)
	case status == http.StatusMethodNotAllowed:
		return errDeleteMarker
	}
	return err
}

// describe puts together what is known of a version, and asks for its lock if
// the headers did not have it.
func (v *Vault) describe(ctx context.Context, key, versionID string, h Head) (archive.ObjectInfo, error) {
	info := archive.ObjectInfo{
		Version: archive.Version{Key: key, VersionID: h.VersionID, Size: h.Size, Latest: versionID == ""},
		Mode:    h.Mode, RetainUntil: h.RetainUntil, LegalHold: h.LegalHold, SHA256: h.SHA256,
	}
	if info.VersionID == "" {
		info.VersionID = nullVersion // the bucket keeps no versions
	}
	if info.Mode != "" {
		return info, nil
	}
	var err error
	info.Mode, info.RetainUntil, info.LegalHold, err = v.retention(ctx, key, info.VersionID)
	return info, err
}

// retention asks for a version's lock alone. ErrLockUnknown: the server has
// answered, but with a refusal.
func (v *Vault) retention(ctx context.Context, key, versionID string) (archive.Mode, time.Time, bool, error) {
	mode, until, err := v.api.GetObjectRetention(ctx, v.prefix+key, versionID)
	if err := v.lockAnswer(err); err != nil {
		return "", time.Time{}, false, err
	}
	held, err := v.api.GetObjectLegalHold(ctx, v.prefix+key, versionID)
	if err := v.lockAnswer(err); err != nil {
		return "", time.Time{}, false, err
	}
	return mode, until, held, nil
}

func (v *Vault) lockAnswer(err error) error {
	status, code := v.api.Answer(err)
	switch {
	case code == "NoSuchObjectLockConfiguration", code == "ObjectLockConfigurationNotFoundError",
		code == "InvalidRequest": // "Bucket is missing Object Lock Configuration"
		return nil
	case status/100 == 4:
		return fmt.Errorf("%w: %w", archive.ErrLockUnknown, err)
	}
	return err
}

// Versions implements archive.Vault. Objects whose key no vault could have are
// somebody else's and not listed.
func (v *Vault) Versions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error] {
	return func(yield func(archive.Version, error) bool) {
		if !leadsToKey(prefix) {
			return // and the server would perhaps not take it
		}
		for version, err := range v.api.ListObjectVersions(ctx, v.prefix+prefix) {
			if err := ctx.Err(); err != nil {
				yield(archive.Version{}, err)
				return
			}
			if err != nil {
				yield(archive.Version{}, fmt.Errorf("couldn't list vault %s: %w", v.Name(), err))
				return
			}
			var ok bool
			version.Key, ok = strings.CutPrefix(version.Key, v.prefix)
			// Not every server keeps to the prefix it was given.
			if !ok || !strings.HasPrefix(version.Key, prefix) || archive.ValidKey(version.Key) != nil {
				continue
			}
			if !yield(version, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(archive.Version{}, err)
		}
	}
}

// leadsToKey reports whether a valid key can start with prefix.
func leadsToKey(prefix string) bool {
	return prefix == "" || archive.ValidKey(strings.TrimSuffix(prefix, "/")) == nil
}

// Retain implements archive.Vault with PutObjectRetention, in the mode that the
// version has, without x-amz-bypass-governance-retention.
func (v *Vault) Retain(ctx context.Context, key, versionID string, until time.Time) error {
	if err := checkVersion(ctx, key, versionID); err != nil {
		return err
	}
	if err := v.retain(ctx, key, versionID, archive.WholeSecond(until)); err != nil {
		return v.failed("retain", key, versionID, err)
	}
	return nil
}

func (v *Vault) retain(ctx context.Context, key, versionID string, until time.Time) error {
	ctx, date := withDate(ctx)
	info, err := v.stat(ctx, key, versionID)
	if err != nil {
		return err
	}
	locked := func(present time.Time) error {
		return fmt.Errorf("%w until %s", archive.ErrLocked, present.Format(time.RFC3339))
	}
	if until.Equal(info.RetainUntil) {
		return nil
	}
	if until.Before(info.RetainUntil) {
		return locked(info.RetainUntil)
	}
	if err := archive.CheckRetainUntil(until, date.get()); err != nil {
		return err
	}
	if info.Mode == "" {
		info.Mode = archive.Compliance
	}
	err = v.api.PutObjectRetention(ctx, v.prefix+key, versionID, info.Mode, until)
	if status, _ := v.api.Answer(err); status/100 == 4 {
		// Somebody else may have lengthened it further meanwhile.
		if now, asked := v.stat(ctx, key, versionID); asked == nil && until.Before(now.RetainUntil) {
			return locked(now.RetainUntil)
		}
	}
	return v.absent(err, versionID)
}

// SetLegalHold implements archive.Vault with PutObjectLegalHold.
func (v *Vault) SetLegalHold(ctx context.Context, key, versionID string, on bool) error {
	if err := checkVersion(ctx, key, versionID); err != nil {
		return err
	}
	if err := v.api.PutObjectLegalHold(ctx, v.prefix+key, versionID, on); err != nil {
		return v.failed("set the legal hold of", key, versionID, v.absent(err, versionID))
	}
	return nil
}

// Delete implements archive.Vault with HeadObject and DeleteObject, which never
// bypasses governance.
func (v *Vault) Delete(ctx context.Context, key, versionID string) error {
	if err := checkVersion(ctx, key, versionID); err != nil {
		return err
	}
	if err := v.remove(ctx, key, versionID); err != nil {
		return v.failed("delete", key, versionID, err)
	}
	return nil
}

func (v *Vault) remove(ctx context.Context, key, versionID string) error {
	ctx, date := withDate(ctx)
	locked := func() error {
		info, err := v.stat(ctx, key, versionID)
		switch {
		case err == errDeleteMarker:
			return nil
		case errors.Is(err, archive.ErrLockUnknown):
			return fmt.Errorf("%w: %w", archive.ErrLocked, err)
		case err != nil:
			return err
		case info.LegalHold:
			return fmt.Errorf("%w: legal hold", archive.ErrLocked)
		case date.get().Before(info.RetainUntil):
			return fmt.Errorf("%w until %s", archive.ErrLocked, info.RetainUntil.Format(time.RFC3339))
		}
		return nil
	}
	// DeleteObject succeeds for a version that is not there. And there is a
	// server (versitygw 1.8) that forgets a legal hold once the retention
	// beside it is over.
	if err := locked(); err != nil {
		return err
	}
	err := v.api.DeleteObject(ctx, v.prefix+key, versionID, false)
	if status, _ := v.api.Answer(err); status/100 == 4 {
		// It may have been locked meanwhile.
		return errors.Join(locked(), err)
	}
	return err
}

func (v *Vault) failed(what, key, versionID string, err error) error {
	if versionID != "" {
		key += " version " + versionID
	}
	return fmt.Errorf("couldn't %s %s in vault %s: %w", what, key, v.Name(), err)
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return archive.ValidKey(key)
}

func checkVersion(ctx context.Context, key, versionID string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	if versionID == "" {
		return fmt.Errorf("%s: %w", key, archive.ErrNoVersionID)
	}
	return nil
}

// ParseSHA256 reads an x-amz-checksum-sha256. What is none (no header, or the
// checksum of checksums of a multipart upload) is zero: the vault keeps none.
func ParseSHA256(header string) (sum [32]byte) {
	if b, err := base64.StdEncoding.DecodeString(header); err == nil && len(b) == len(sum) {
		copy(sum[:], b)
	}
	return sum
}
