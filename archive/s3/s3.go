package s3

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/internal/bucket"
)

// Options say where a vault is. Credentials are the SDK's matter, see
// [config.LoadDefaultConfig]; none is ever part of an error.
type Options struct {
	Name   string // of the vault. Required
	Bucket string // required
	Prefix string // of its keys, without a slash at its end. Default: the whole bucket

	// Region: default is the SDK's own (environment, profile), or us-east-1
	// where there is none and an Endpoint is given.
	Region string

	// Endpoint is the URL of another server than Amazon's, like
	// https://s3.example.org. PathStyle: the bucket is in the path of its URLs,
	// not in the host's name.
	Endpoint  string
	PathStyle bool

	Profile string // of the shared configuration files

	// SSEKMSKeyID asks for encryption at rest with this KMS key, on top of the
	// segment's own. Default: as the bucket is set.
	SSEKMSKeyID string

	// StorageClass is one that can be read at any time. Default: STANDARD.
	StorageClass string

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

// storageClasses are those whose objects can be read at any time.
var storageClasses = []types.StorageClass{
	types.StorageClassStandard, types.StorageClassStandardIa, types.StorageClassOnezoneIa, types.StorageClassGlacierIr,
}

func checkStorageClass(name string) error {
	class := types.StorageClass(name)
	switch {
	case name == "", slices.Contains(storageClasses, class):
		return nil
	case class == types.StorageClassGlacier, class == types.StorageClassDeepArchive,
		// Its optional archive tiers are set on the bucket, by somebody who
		// does not know what a verification reads, and after 90 days without
		// access they work as GLACIER does.
		class == types.StorageClassIntelligentTiering:
		return fmt.Errorf("storage class %s: its objects may have to be restored before they can be read, so no copy in it could be verified; use one of %v", name, storageClasses)
	}
	return fmt.Errorf("storage class %q is none of %v", name, storageClasses)
}

// Open returns the vault. It reads the SDK's configuration and asks nothing of
// the server: that is what Status is for.
func Open(ctx context.Context, o Options) (*Vault, error) {
	fail := func(err error) (*Vault, error) { return nil, fmt.Errorf("couldn't open vault %s: %w", o.Name, err) }
	if o.Bucket == "" {
		return fail(errors.New("no bucket is named"))
	}
	if err := checkStorageClass(o.StorageClass); err != nil {
		return fail(err)
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(bucket.Tune)),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts = bucket.Attempts
				o.MaxBackoff = 5 * time.Second
			})
		}),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	// What it would write to standard error comes back as errors, or is no matter.
	load = append(load, config.WithLogger(logging.Nop{}))
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return fail(err)
	}
	flags := ""
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			return fail(errors.New("the endpoint is not the URL of a server, like https://s3.example.org"))
		}
		flags = " --endpoint-url " + o.Endpoint
		if c.Region == "" {
			c.Region = "us-east-1"
		}
	}
	if c.Region == "" {
		return fail(errors.New("no region is named, here or in the SDK's own configuration"))
	}
	api := &client{bucket: o.Bucket, kmsKey: o.SSEKMSKeyID, class: types.StorageClass(o.StorageClass)}
	api.s3 = s3.NewFromConfig(c, func(so *s3.Options) {
		if o.Endpoint != "" {
			so.BaseEndpoint = &o.Endpoint
		}
		so.UsePathStyle = o.PathStyle
		// What LoadDefaultConfig made knows about AWS_CA_BUNDLE.
		transport := o.Transport
		if transport == nil {
			transport = roundTripper{c.HTTPClient}
		}
		so.HTTPClient = &http.Client{
			Transport: bucket.Dated{RoundTripper: transport},
			// Where a bucket lives is the SDK's matter: a redirect is an answer.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		// PutObject sends the SHA-256 that the caller announced, and nothing
		// else needs one: the SDK's own CRC32 would come as a trailer, which
		// it cannot send over plain HTTP.
		so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	location := ""
	if c.Region != "us-east-1" {
		location = " --create-bucket-configuration LocationConstraint=" + c.Region
	}
	flags += " --bucket " + o.Bucket
	v, err := bucket.New(bucket.Config{
		Name: o.Name, Prefix: o.Prefix, Now: o.Now, Wait: o.Wait,
		Hints: bucket.Hints{
			CreateBucket:     "aws s3api create-bucket" + flags + " --region " + c.Region + location + " --object-lock-enabled-for-bucket",
			EnableVersioning: "aws s3api put-bucket-versioning" + flags + " --versioning-configuration Status=Enabled",
			EnableLock:       "aws s3api put-object-lock-configuration" + flags + " --object-lock-configuration ObjectLockEnabled=Enabled",
		},
	}, api)
	if err != nil {
		return nil, err
	}
	return &Vault{v}, nil
}

// roundTripper is the SDK's own HTTP client as a transport.
type roundTripper struct{ client aws.HTTPClient }

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r.client.Do(req) }

// client is the bucket.API of the SDK.
type client struct {
	s3             *s3.Client
	bucket, kmsKey string
	class          types.StorageClass
}

var _ bucket.API = (*client)(nil)

// optional is nil for the empty string, which the SDK would send.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (c *client) PutObject(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (string, error) {
	in := &s3.PutObjectInput{
		Bucket: &c.bucket, Key: &key, Body: body, ContentLength: &o.Size, IfNoneMatch: aws.String("*"),
		ChecksumSHA256:            aws.String(base64.StdEncoding.EncodeToString(o.SHA256[:])),
		ObjectLockMode:            types.ObjectLockMode(o.Mode),
		ObjectLockRetainUntilDate: &o.RetainUntil,
		StorageClass:              c.class,
	}
	if c.kmsKey != "" {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &c.kmsKey
	}
	out, err := c.s3.PutObject(ctx, in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.VersionId), nil
}

// withChecksum asks for the checksum that the server has recorded. The input's
// own ChecksumMode would have the SDK compare the body with it.
var withChecksum = s3.WithAPIOptions(smithyhttp.AddHeaderValue("x-amz-checksum-mode", "ENABLED"))

func (c *client) GetObject(ctx context.Context, key, versionID string) (io.ReadCloser, bucket.Head, error) {
	out, err := c.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &c.bucket, Key: &key, VersionId: optional(versionID)}, withChecksum)
	if err != nil {
		return nil, bucket.Head{}, err
	}
	return out.Body, head(out.VersionId, out.ContentLength, out.ObjectLockMode, out.ObjectLockRetainUntilDate, out.ObjectLockLegalHoldStatus, out.ChecksumSHA256), nil
}

func (c *client) HeadObject(ctx context.Context, key, versionID string) (bucket.Head, error) {
	out, err := c.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &c.bucket, Key: &key, VersionId: optional(versionID)}, withChecksum)
	if err != nil {
		return bucket.Head{}, err
	}
	return head(out.VersionId, out.ContentLength, out.ObjectLockMode, out.ObjectLockRetainUntilDate, out.ObjectLockLegalHoldStatus, out.ChecksumSHA256), nil
}

func head(versionID *string, size *int64, mode types.ObjectLockMode, until *time.Time, hold types.ObjectLockLegalHoldStatus, sum *string) bucket.Head {
	h := bucket.Head{
		VersionID: aws.ToString(versionID), Size: -1, Mode: archive.Mode(mode), RetainUntil: aws.ToTime(until).UTC(),
		LegalHold: hold == types.ObjectLockLegalHoldStatusOn, SHA256: bucket.ParseSHA256(aws.ToString(sum)),
	}
	if size != nil {
		h.Size = *size
	}
	return h
}

func (c *client) DeleteObject(ctx context.Context, key, versionID string, bypassGovernance bool) error {
	in := &s3.DeleteObjectInput{Bucket: &c.bucket, Key: &key, VersionId: &versionID}
	if bypassGovernance {
		in.BypassGovernanceRetention = &bypassGovernance
	}
	_, err := c.s3.DeleteObject(ctx, in)
	return err
}

// ListObjectVersions goes from page to page itself: the SDK's paginator would
// send the markers back as they came, URL-encoded.
func (c *client) ListObjectVersions(ctx context.Context, prefix string) iter.Seq2[archive.Version, error] {
	return func(yield func(archive.Version, error) bool) {
		in := &s3.ListObjectVersionsInput{
			Bucket: &c.bucket, Prefix: &prefix,
			// Other people's keys may have characters that XML cannot hold.
			EncodingType: types.EncodingTypeUrl,
		}
		for {
			out, err := c.s3.ListObjectVersions(ctx, in)
			if err != nil {
				yield(archive.Version{}, err)
				return
			}
			decode := func(key *string) string { return aws.ToString(key) }
			if out.EncodingType == types.EncodingTypeUrl {
				decode = func(key *string) string {
					s, decodeErr := url.QueryUnescape(aws.ToString(key))
					err = errors.Join(err, decodeErr)
					return s
				}
			}
			page, next := merge(out, decode), decode(out.NextKeyMarker)
			if err != nil {
				yield(archive.Version{}, err)
				return
			}
			for _, version := range page {
				if !yield(version, nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			if next == "" {
				yield(archive.Version{}, errors.New("the server did not say where its listing goes on"))
				return
			}
			in.KeyMarker, in.VersionIdMarker = &next, out.NextVersionIdMarker
		}
	}
}

// merge puts versions and delete markers, which the SDK has parted, back into
// one order: by key, the newest first. Each of the two is in that order. Of a
// version and a delete marker of the same second it cannot be told which is
// older, unless one is the current one.
func merge(out *s3.ListObjectVersionsOutput, decode func(*string) string) []archive.Version {
	versions, markers := out.Versions, out.DeleteMarkers
	page := make([]archive.Version, 0, len(versions)+len(markers))
	for len(versions)+len(markers) > 0 {
		if len(markers) == 0 || len(versions) > 0 && before(&versions[0], &markers[0], decode) {
			x := versions[0]
			versions = versions[1:]
			page = append(page, archive.Version{
				Key: decode(x.Key), VersionID: aws.ToString(x.VersionId), Size: aws.ToInt64(x.Size), Latest: aws.ToBool(x.IsLatest),
			})
		} else {
			x := markers[0]
			markers = markers[1:]
			page = append(page, archive.Version{
				Key: decode(x.Key), VersionID: aws.ToString(x.VersionId), DeleteMarker: true, Latest: aws.ToBool(x.IsLatest),
			})
		}
	}
	return page
}

// before reports whether v comes before m in a listing.
func before(v *types.ObjectVersion, m *types.DeleteMarkerEntry, decode func(*string) string) bool {
	if order := strings.Compare(decode(v.Key), decode(m.Key)); order != 0 {
		return order < 0
	}
	if aws.ToBool(v.IsLatest) || aws.ToBool(m.IsLatest) {
		return aws.ToBool(v.IsLatest)
	}
	return !aws.ToTime(v.LastModified).Before(aws.ToTime(m.LastModified))
}

func (c *client) GetObjectRetention(ctx context.Context, key, versionID string) (archive.Mode, time.Time, error) {
	out, err := c.s3.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &c.bucket, Key: &key, VersionId: &versionID})
	if err != nil || out.Retention == nil {
		return "", time.Time{}, err
	}
	return archive.Mode(out.Retention.Mode), aws.ToTime(out.Retention.RetainUntilDate).UTC(), nil
}

func (c *client) PutObjectRetention(ctx context.Context, key, versionID string, mode archive.Mode, until time.Time) error {
	_, err := c.s3.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
		Bucket: &c.bucket, Key: &key, VersionId: &versionID,
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionMode(mode), RetainUntilDate: &until},
	})
	return err
}

func (c *client) GetObjectLegalHold(ctx context.Context, key, versionID string) (bool, error) {
	out, err := c.s3.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: &c.bucket, Key: &key, VersionId: &versionID})
	if err != nil || out.LegalHold == nil {
		return false, err
	}
	return out.LegalHold.Status == types.ObjectLockLegalHoldStatusOn, nil
}

func (c *client) PutObjectLegalHold(ctx context.Context, key, versionID string, on bool) error {
	status := types.ObjectLockLegalHoldStatusOff
	if on {
		status = types.ObjectLockLegalHoldStatusOn
	}
	_, err := c.s3.PutObjectLegalHold(ctx, &s3.PutObjectLegalHoldInput{
		Bucket: &c.bucket, Key: &key, VersionId: &versionID, LegalHold: &types.ObjectLockLegalHold{Status: status},
	})
	return err
}

func (c *client) GetBucketVersioning(ctx context.Context) (bool, error) {
	out, err := c.s3.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &c.bucket})
	if err != nil {
		return false, err
	}
	return out.Status == types.BucketVersioningStatusEnabled, nil
}

func (c *client) GetObjectLockConfiguration(ctx context.Context) (bool, error) {
	out, err := c.s3.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &c.bucket})
	if err != nil || out.ObjectLockConfiguration == nil {
		return false, err
	}
	return out.ObjectLockConfiguration.ObjectLockEnabled == types.ObjectLockEnabledEnabled, nil
}

func (c *client) Answer(err error) (status int, code string) {
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	return status, code
}
