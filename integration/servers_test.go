package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/klauspost/compress/zstd"
	miniogo "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// The README's story on PostgreSQL, with a vault of each kind: directly, and by way
// of PgBouncer in transaction mode. What is printed is the same.
func TestStoryOnServers(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*testing.T, *pgtest.Database) string{
		"direct":    func(_ *testing.T, d *pgtest.Database) string { return d.URL() },
		"pgbouncer": func(t *testing.T, d *pgtest.Database) string { return d.PgBouncer(t, pgtest.Few) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := pgtest.New(t)
			s := newDeployment(t, store(t, d), d.URL())
			s.story()
			s.copiesAreLocked()
			s.vandalised()
		})
	}
}

// A bucket that would not keep what is put into it is refused, and nothing is begun.
func TestInitRefusesBucket(t *testing.T) {
	t.Parallel()
	s, server := newShell(t), s3test.Start(t, s3test.MinIO)
	for name, want := range map[string]string{
		server.Bucket(t, false): "versioning: enabled: false", "there-is-none": "bucket: ",
	} {
		s.env = []string{"LOTKEEPER_CONFIG=" + s.file("lotkeeper.yaml", fmt.Sprintf("data: data\nvaults:\n  - {name: east, url: '%s'}\n", bucket{server, name}.awsURL(server.URL()))),
			"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey}
		if _, messages := s.both(6, "init"); !strings.Contains(messages, want) {
			t.Errorf("init with bucket %s does not say %q:\n%s", name, want, messages)
		}
		s.run(1, "verify")
	}
}

// A deployment is a shell with a configuration: PostgreSQL, a vault "east" on MinIO
// through aws-sdk-go-v2, and "west" on versitygw through minio-go.
type deployment struct {
	*shell
	east, west bucket
}

// bucket is one on a server, with Object Lock.
type bucket struct {
	*s3test.Server
	Name string
}

func newBucket(t *testing.T, server string) bucket {
	t.Helper()
	return bucketOn(t, s3test.Start(t, server))
}

func bucketOn(t *testing.T, s *s3test.Server) bucket {
	t.Helper()
	return bucket{s, s.Bucket(t, true)}
}

// The URLs of a vault on a bucket, by the library that is to be used.
func (b bucket) awsURL(endpoint string) string {
	return fmt.Sprintf("s3://%s?region=us-east-1&path_style=true&endpoint=%s", b.Name, endpoint)
}

func (b bucket) minioURL() string {
	return fmt.Sprintf("minio://%s/%s/%s?tls=false&region=us-east-1", b.Endpoint, b.Name, s3test.Prefix)
}

// newDeployment writes the configuration, and secrets into files of their own. On
// MinIO the credentials are what they should be; versitygw is asked as root, for it
// has no way to forbid the bypass alone.
func newDeployment(t *testing.T, store, admin string) *deployment {
	t.Helper()
	s := &deployment{newShell(t), newBucket(t, s3test.MinIO), newBucket(t, s3test.VersityGW)}
	restricted := s.east.restricted(t)
	s.env = []string{
		"LOTKEEPER_CONFIG=" + s.file("lotkeeper.yaml", fmt.Sprintf(`
data: data
store: %s
store_admin: %s
vaults:
  - name: east
    url: %s
  - name: west
    url: %s
`, store, admin, s.east.awsURL(s.east.URL()), s.west.minioURL())),
		"AWS_SHARED_CREDENTIALS_FILE=" + s.file("aws", fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n",
			restricted.AccessKeyID, restricted.SecretAccessKey, restricted.SessionToken)),
		"MINIO_ACCESS_KEY_FILE=" + s.file("access", s3test.AccessKey+"\n"),
		"MINIO_SECRET_KEY_WEST_FILE=" + s.file("secret", s3test.SecretKey+"\n"),
		"PGPASSWORD_FILE=" + s.file("pgpassword", "unasked\n"),
	}
	return s
}

// restricted are credentials that may do everything but lift a GOVERNANCE lock.
func (b bucket) restricted(t *testing.T) credentials.Value {
	t.Helper()
	sts, err := credentials.NewSTSAssumeRole(b.URL(), credentials.STSAssumeRoleOptions{
		AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Location: "us-east-1",
		Policy: `{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::*"},
			{"Effect":"Deny","Action":"s3:BypassGovernanceRetention","Resource":"arn:aws:s3:::*"}]}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := sts.GetWithContext(nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (s *deployment) story() {
	t := s.t
	// Before anything is there, init has tried out both buckets.
	_, notes := s.both(0, "init")
	for _, want := range []string{"note: vault west, governance bypass: ", "note: vault west, legal hold after the lock: "} {
		if !strings.Contains(notes, want) {
			t.Errorf("init does not say %q:\n%s", want, notes)
		}
	}
	if strings.Contains(notes, "vault east, ") {
		t.Errorf("init has something against a vault that is as it should be:\n%s", notes)
	}
	readmeStory(t, s.shell)
	for name, args := range map[string][]string{
		"plan.txt":      {"sweep", "--dry-run", "--as-of", "2025-07-05T20:00:00Z"},
		"records.csv":   {"-o", "csv", "record", "list", "--to", "2023-12-31"},
		"checksums.csv": {"-o", "csv", "report", "checksums", "--to", "2023-12-31"},
		"vaults.json":   {"-o", "json", "vault", "list"},
		"runs.csv":      {"-o", "csv", "run", "list"},
		"record.json":   {"-o", "json", "record", "show", "t-1"},
	} {
		golden(t, "servers/"+name, s.run(0, args...))
	}
	var checks strings.Builder
	for _, c := range s.array(3, "doctor") {
		fmt.Fprintf(&checks, "%v, %v: %v\n", c["subject"], c["check"], c["ok"])
	}
	golden(t, "servers/doctor.txt", checks.String())
	var classes struct {
		Problem string
		Classes []struct{ Kind, State, Shredded string }
	}
	s.decode(&classes, s.run(0, "-o", "json", "shred", "status"))
	count := map[string]int{}
	for _, c := range classes.Classes {
		count[strings.Join([]string{c.Kind, c.State, c.Shredded}, " ")]++
	}
	want := map[string]int{"archive open ": 2, "deferral open ": 1, "hot destroyed shredded-everywhere": 3, "hot open ": 1}
	if classes.Problem != "" || !maps.Equal(count, want) {
		t.Errorf("shred status: %v, not %v; %s", count, want, classes.Problem)
	}
}

// array is object for a command that prints many.
func (s *shell) array(code int, args ...string) (all []map[string]any) {
	s.t.Helper()
	s.decode(&all, s.run(code, append([]string{"-o", "json"}, args...)...))
	return all
}

func (s *shell) decode(to any, printed string) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(printed), to); err != nil {
		s.t.Fatalf("%v in\n%s", err, printed)
	}
}

// copyRow is a copy of a record as report checksums prints it.
type copyRow struct {
	RecordID      string    `json:"record_id"`
	Checksum      string    `json:"checksum"`
	EventTime     time.Time `json:"event_timestamp"`
	Segment       string    `json:"segment"`
	Vault         string    `json:"vault"`
	Key           string    `json:"key"`
	VersionID     string    `json:"version_id"`
	ObjectSHA256  string    `json:"object_sha256"`
	stored        string    // the key in the bucket
	bucket        bucket
	foreignClient client
}

// copies are what the report says of a record.
func (s *deployment) copies(record string) []copyRow {
	s.t.Helper()
	var rows []copyRow
	s.decode(&rows, s.run(0, "-o", "json", "report", "checksums", "--record", record))
	for i := range rows {
		r := &rows[i]
		switch r.Vault {
		case "east":
			r.bucket, r.stored, r.foreignClient = s.east, r.Key, minioClient{s.east.Admin(s.t), s.east.Name}
		case "west":
			r.bucket, r.stored, r.foreignClient = s.west, s3test.Prefix+"/"+r.Key, s.west.awsClient()
		default:
			s.t.Fatalf("a copy in vault %s: %+v", r.Vault, r)
		}
	}
	return rows
}

// copiesAreLocked asks the servers, each with the library that the vault does not
// use: every copy has a COMPLIANCE lock that lasts as long as the policy says, is
// what the report says, and opens with what shred identity prints.
func (s *deployment) copiesAreLocked() {
	t := s.t
	t.Helper()
	rows := s.copies("t-1")
	if len(rows) != 2 || rows[0].Vault == rows[1].Vault {
		t.Fatalf("copies %+v", rows)
	}
	for _, r := range rows {
		body, mode, until := r.foreignClient.read(t, r.stored, r.VersionID)
		policy := r.EventTime.AddDate(0, 0, 730).AddDate(1, 0, 0)
		if mode != "COMPLIANCE" || until.Before(policy) || until.Before(time.Now().AddDate(0, 0, 29)) {
			t.Errorf("%s in %s: locked as %q until %v; the policy says %v", r.stored, r.Vault, mode, until, policy)
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != r.ObjectSHA256 {
			t.Errorf("%s in %s is not what the report says", r.stored, r.Vault)
		}
		if err := r.foreignClient.remove(t.Context(), r.stored, r.VersionID); err == nil {
			t.Errorf("%s has deleted %s, which is locked", r.Vault, r.stored)
		}
		if !slices.Contains(checksums(t, body, s.run(0, "shred", "identity", r.Segment)), r.Checksum) {
			t.Errorf("%s in %s, opened by hand, has no line with the checksum %s", r.stored, r.Vault, r.Checksum)
		}
	}
}

// checksums opens a segment as an auditor would, without this program.
func checksums(t *testing.T, object []byte, secret string) (all []string) {
	t.Helper()
	identities, err := age.ParseIdentities(strings.NewReader(secret))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := age.Decrypt(bytes.NewReader(object), identities...)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := zstd.NewReader(opened)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	lines, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(lines) {
		sum := sha256.Sum256(bytes.TrimSuffix(line, []byte("\n")))
		all = append(all, hex.EncodeToString(sum[:]))
	}
	return all
}

// vandalised: somebody else puts another object on top of one, and a delete marker
// on another. verify names both, and neither hides what is below.
func (s *deployment) vandalised() {
	t := s.t
	t.Helper()
	before := sorted(s.run(0, "export"))
	kinds := map[string]string{}
	for _, r := range s.copies("t-1") {
		if r.Vault == "east" {
			r.foreignClient.put(t, r.stored, "something else")
			kinds[r.Vault+" "+r.Key] = archive.KindOverwritten
			continue
		}
		if err := r.foreignClient.remove(t.Context(), r.stored, ""); err != nil {
			t.Fatal(err)
		}
		kinds[r.Vault+" "+r.Key] = archive.KindDeleteMarker
	}
	var found struct {
		Mismatches, Missing []struct{ Vault, Key, Kind string }
	}
	s.decode(&found, s.run(3, "-o", "json", "verify"))
	for _, m := range found.Mismatches {
		// Of what is not the current version, versitygw does not tell the lock in
		// words that minio-go reads.
		at := m.Vault + " " + m.Key
		switch {
		case kinds[at] == m.Kind:
			delete(kinds, at)
		case m.Vault != "west" || m.Kind != archive.KindLockUnknown:
			t.Errorf("verify finds %+v", m)
		}
	}
	if len(kinds) > 0 || len(found.Missing) > 0 {
		t.Errorf("verify does not find %v; %+v", kinds, found)
	}
	if after := sorted(s.run(0, "export")); after != before {
		t.Errorf("exported\n%s\ninstead of\n%s", after, before)
	}
}

// A client is a library on a bucket, past everything of ours.
type client interface {
	read(t *testing.T, key, versionID string) (body []byte, mode string, until time.Time)
	put(t *testing.T, key, body string)
	// remove deletes a version, or puts a delete marker if none is named.
	remove(ctx context.Context, key, versionID string) error
	legalHold(t *testing.T, key, versionID string) bool
}

type minioClient struct {
	*miniogo.Client
	bucket string
}

func (c minioClient) read(t *testing.T, key, versionID string) ([]byte, string, time.Time) {
	t.Helper()
	o, err := c.GetObject(t.Context(), c.bucket, key, miniogo.GetObjectOptions{VersionID: versionID})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	body, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	mode, until, err := c.GetObjectRetention(t.Context(), c.bucket, key, versionID)
	if err != nil {
		t.Fatal(err)
	}
	return body, string(*mode), *until
}

func (c minioClient) put(t *testing.T, key, body string) {
	t.Helper()
	if _, err := c.PutObject(t.Context(), c.bucket, key, strings.NewReader(body), int64(len(body)), miniogo.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c minioClient) remove(ctx context.Context, key, versionID string) error {
	return c.RemoveObject(ctx, c.bucket, key, miniogo.RemoveObjectOptions{VersionID: versionID})
}

type awsClient struct {
	*awss3.Client
	bucket string
}

func (b bucket) awsClient() awsClient {
	return awsClient{awss3.New(awss3.Options{
		BaseEndpoint: aws.String(b.URL()), UsePathStyle: true, Region: "us-east-1",
		Credentials: awscredentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, ""),
	}), b.Name}
}

func version(id string) *string {
	if id == "" {
		return nil
	}
	return &id
}

func (c awsClient) read(t *testing.T, key, versionID string) ([]byte, string, time.Time) {
	t.Helper()
	o, err := c.GetObject(t.Context(), &awss3.GetObjectInput{Bucket: &c.bucket, Key: &key, VersionId: version(versionID)})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	body, err := io.ReadAll(o.Body)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := c.GetObjectRetention(t.Context(), &awss3.GetObjectRetentionInput{Bucket: &c.bucket, Key: &key, VersionId: version(versionID)})
	if err != nil {
		t.Fatal(err)
	}
	return body, string(lock.Retention.Mode), *lock.Retention.RetainUntilDate
}

func (c awsClient) put(t *testing.T, key, body string) {
	t.Helper()
	if _, err := c.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: &c.bucket, Key: &key, Body: strings.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
}

func (c awsClient) remove(ctx context.Context, key, versionID string) error {
	_, err := c.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &c.bucket, Key: &key, VersionId: version(versionID)})
	return err
}

// A copy is deleted as soon as its lock has ended, and not before: the server says
// so, to clients that are not ours.
func TestUnlockedWhenOver(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", newBucket(t, s3test.MinIO), newBucket(t, s3test.VersityGW))
	s.MinLock = 15 * time.Second
	s.with(t, nil, nil, func(e *lifecycle.Engine) {
		ingest(t, e, season(0, 1)...)
		began := time.Now()
		if res, err := e.Sweep(t.Context(), lifecycle.SweepOptions{}); err != nil || res.Archived != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		segments, err := e.Store.Segments(t.Context(), lifecycle.Settled)
		if err != nil || len(segments) != 1 {
			t.Fatalf("%+v, %v", segments, err)
		}
		var copies []lockedCopy
		for _, c := range segments[0].Copies {
			l := lockedCopy{minioClient{s.East.Admin(t), s.East.Name}, c.Vault, segments[0].ObjectKey, c.ObjectVersion, time.Time{}}
			if c.Vault == "west" {
				l.client, l.key = s.West.awsClient(), s3test.Prefix+"/"+l.key
			}
			var mode string
			_, mode, l.until = l.read(t, l.key, l.version)
			if mode != "COMPLIANCE" || l.until.Before(began.Add(s.MinLock)) {
				t.Errorf("vault %s: locked as %q until %v, put after %v", l.vault, mode, l.until, began)
			}
			if l.deleted(t) {
				t.Errorf("vault %s deleted a segment that is locked until %v", l.vault, l.until)
			}
			// The segment's own lock ends with its month: one that ends here is put beside it.
			v := e.Vaults[slices.IndexFunc(e.Vaults, func(v archive.Vault) bool { return v.Name() == c.Vault })]
			body := []byte("a segment whose month is over")
			put, err := v.Put(t.Context(), "segments/over", bytes.NewReader(body), archive.PutOptions{
				SHA256: sha256.Sum256(body), Size: int64(len(body)), Mode: archive.Compliance, RetainUntil: archive.WholeSecond(time.Now().Add(s.MinLock))})
			if err != nil {
				t.Fatal(err)
			}
			l.key, l.version = strings.Replace(l.key, segments[0].ObjectKey, "segments/over", 1), put.VersionID
			if _, mode, l.until = l.read(t, l.key, l.version); mode != "COMPLIANCE" {
				t.Errorf("vault %s: locked as %q", l.vault, mode)
			}
			copies = append(copies, l)
		}
		for _, l := range copies {
			if l.deleted(t) {
				t.Logf("too late to see vault %s refuse", l.vault)
			}
		}
		for _, l := range copies {
			for !l.deleted(t) {
				if time.Now().After(l.until.Add(time.Minute)) {
					t.Fatalf("vault %s does not delete a version whose lock ended at %v", l.vault, l.until)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		found, err := e.Verify(t.Context())
		if err != nil || len(found.Missing)+len(found.Mismatches) != 0 {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

// lockedCopy is a version in a bucket, and a client that is not the vault's.
type lockedCopy struct {
	client
	vault, key, version string
	until               time.Time
}

// deleted tries to delete it, which must not work before its lock has ended: by the
// server's clock, which is this one, for it is on the same machine.
func (l lockedCopy) deleted(t *testing.T) bool {
	t.Helper()
	err := l.remove(t.Context(), l.key, l.version)
	if now := time.Now(); err == nil && now.Before(l.until) {
		t.Errorf("vault %s deleted at %v what is locked until %v", l.vault, now, l.until)
	}
	return err == nil
}
