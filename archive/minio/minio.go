package minio

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/internal/bucket"
)

// Options say where a vault is and who asks. Keys are never part of an error.
type Options struct {
	Name     string // of the vault. Required
	Endpoint string // host or host:port. Required
	Bucket   string // required
	Prefix   string // of its keys, without a slash at its end. Default: the whole bucket
	TLS      bool
	Region   string // default: the server is asked once

	AccessKey, SecretKey string // required

	// Now is compared with the server's clock by Inspect. Wait returns after d,
	// or with the context's error once that is done. Both required.
	Now  func() time.Time
	Wait func(ctx context.Context, d time.Duration) error

	// Transport sends the requests. Default: one with timeouts.
	Transport http.RoundTripper
}

// Vault is a bucket, or the part of one under a prefix. It is safe for
// concurrent use.
type Vault struct{ *bucket.Vault }

var (
	_ archive.Vault     = (*Vault)(nil)
	_ archive.Inspector = (*Vault)(nil)
)

// Open returns the vault. It asks nothing of the server: that is what Status is
// for.
func Open(_ context.Context, o Options) (*Vault, error) {
	fail := func(err error) (*Vault, error) { return nil, fmt.Errorf("couldn't open vault %s: %w", o.Name, err) }
	switch {
	case o.Bucket == "":
		return fail(errors.New("no bucket is named"))
	case o.Endpoint == "", strings.ContainsAny(o.Endpoint, "/@"):
		return fail(errors.New("the endpoint is not host or host:port"))
	case o.AccessKey == "", o.SecretKey == "":
		return fail(errors.New("no access key or no secret key is given"))
	}
	transport := o.Transport
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		bucket.Tune(t)
		transport = t
	}
	core, err := minio.NewCore(o.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Secure: o.TLS, Region: o.Region,
		Transport: bucket.Dated{RoundTripper: transport}, MaxRetries: bucket.Attempts,
	})
	if err != nil {
		return fail(err)
	}
	at := "ALIAS/" + o.Bucket
	v, err := bucket.New(bucket.Config{
		Name: o.Name, Prefix: o.Prefix, Now: o.Now, Wait: o.Wait,
		Hints: bucket.Hints{
			CreateBucket:     "mc mb --with-lock " + at,
			EnableVersioning: "mc version enable " + at,
			EnableLock:       "a bucket without Object Lock stays without: make another one with mc mb --with-lock",
		},
	}, &client{core, o.Bucket})
	if err != nil {
		return nil, err
	}
	return &Vault{v}, nil
}

// client is the bucket.API of minio-go.
type client struct {
	core   *minio.Core
	bucket string
}

var _ bucket.API = (*client)(nil)

func (c *client) PutObject(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (string, error) {
	opts := minio.PutObjectOptions{
		Mode: minio.RetentionMode(o.Mode), RetainUntilDate: o.RetainUntil,
		// As a header of our own, which the library passes on: its Checksum
		// would come as a trailer, which not every server takes over plain HTTP.
		UserMetadata: map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(o.SHA256[:])},
		// No hash computed for the signature, chunk by chunk: the request is
		// signed with the one that is handed to PutObject below.
		DisableContentSha256: true,
	}
	opts.SetMatchETagExcept("*")
	// Core's PutObject is one PUT whatever the size; the wrapped body has no
	// Close for it to call.
	out, err := c.core.PutObject(ctx, c.bucket, key, struct{ io.ReadSeeker }{body}, o.Size, "", hex.EncodeToString(o.SHA256[:]), opts)
	return out.VersionID, err
}

// get asks for the checksum that the server has recorded. The option's own
// Checksum would have the library compare the body with it.
func get(versionID string) minio.GetObjectOptions {
	opts := minio.GetObjectOptions{VersionID: versionID}
	opts.Set("x-amz-checksum-mode", "ENABLED")
	return opts
}

func (c *client) GetObject(ctx context.Context, key, versionID string) (io.ReadCloser, bucket.Head, error) {
	r, info, _, err := c.core.GetObject(ctx, c.bucket, key, get(versionID))
	if err != nil {
		return nil, bucket.Head{}, err
	}
	h, err := head(info)
	if err != nil {
		r.Close()
		return nil, h, err
	}
	return r, h, nil
}

func (c *client) HeadObject(ctx context.Context, key, versionID string) (bucket.Head, error) {
	info, err := c.core.StatObject(ctx, c.bucket, key, get(versionID))
	if err != nil {
		return bucket.Head{}, err
	}
	return head(info)
}

func head(info minio.ObjectInfo) (bucket.Head, error) {
	h := bucket.Head{
		VersionID: info.VersionID, Size: info.Size, SHA256: bucket.ParseSHA256(info.ChecksumSHA256),
		Mode:      archive.Mode(info.Headers.Get("x-amz-object-lock-mode")),
		LegalHold: info.Headers.Get("x-amz-object-lock-legal-hold") == string(minio.LegalHoldEnabled),
	}
	if until := info.Headers.Get("x-amz-object-lock-retain-until-date"); until != "" {
		at, err := time.Parse(time.RFC3339, until)
		if err != nil {
			return h, fmt.Errorf("x-amz-object-lock-retain-until-date: %w", err)
		}
		h.RetainUntil = at.UTC()
	}
	return h, nil
}

func (c *client) DeleteObject(ctx context.Context, key, versionID string, bypassGovernance bool) error {
	return c.core.RemoveObject(ctx, c.bucket, key, minio.RemoveObjectOptions{VersionID: versionID, GovernanceBypass: bypassGovernance})
}

func (c *client) ListObjectVersions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error] {
	return func(yield func(archive.Version, error) bool) {
		for info := range c.core.ListObjectsIter(ctx, c.bucket, minio.ListObjectsOptions{WithVersions: true, Prefix: prefix, Recursive: true}) {
			if info.Err != nil {
				yield(archive.Version{}, info.Err)
				return
			}
			version := archive.Version{
				Key: info.Key, VersionID: info.VersionID, Size: info.Size, DeleteMarker: info.IsDeleteMarker, Latest: info.IsLatest,
			}
			if !yield(version, nil) {
				return
			}
		}
	}
}

func (c *client) GetObjectRetention(ctx context.Context, key, versionID string) (archive.Mode, time.Time, error) {
	mode, until, err := c.core.GetObjectRetention(ctx, c.bucket, key, versionID)
	if bad := xml.UnmarshalError(""); errors.As(err, &bad) {
		// versitygw 1.8 names the root element after S3's documentation, the
		// library wants it as S3 really sends it.
		return "", time.Time{}, fmt.Errorf("%w: %w", archive.ErrLockUnknown, err)
	}
	if err != nil || mode == nil || until == nil {
		return "", time.Time{}, err
	}
	return archive.Mode(*mode), until.UTC(), nil
}

func (c *client) PutObjectRetention(ctx context.Context, key, versionID string, mode archive.Mode, until time.Time) error {
	m := minio.RetentionMode(mode)
	return c.core.PutObjectRetention(ctx, c.bucket, key, minio.PutObjectRetentionOptions{VersionID: versionID, Mode: &m, RetainUntilDate: &until})
}

func (c *client) GetObjectLegalHold(ctx context.Context, key, versionID string) (bool, error) {
	status, err := c.core.GetObjectLegalHold(ctx, c.bucket, key, minio.GetObjectLegalHoldOptions{VersionID: versionID})
	return err == nil && *status == minio.LegalHoldEnabled, err
}

func (c *client) PutObjectLegalHold(ctx context.Context, key, versionID string, on bool) error {
	status := minio.LegalHoldDisabled
	if on {
		status = minio.LegalHoldEnabled
	}
	return c.core.PutObjectLegalHold(ctx, c.bucket, key, minio.PutObjectLegalHoldOptions{VersionID: versionID, Status: &status})
}

func (c *client) GetBucketVersioning(ctx context.Context) (bool, error) {
	versioning, err := c.core.GetBucketVersioning(ctx, c.bucket)
	return versioning.Enabled(), err
}

func (c *client) GetObjectLockConfiguration(ctx context.Context) (bool, error) {
	lock, _, _, _, err := c.core.GetObjectLockConfig(ctx, c.bucket)
	return lock == "Enabled", err
}

func (c *client) Answer(err error) (status int, code string) {
	var response minio.ErrorResponse
	if errors.As(err, &response) {
		return response.StatusCode, response.Code
	}
	return 0, ""
}
