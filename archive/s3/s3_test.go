package s3_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/s3"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
)

func open(t *testing.T, s *s3test.Server, bucket string, transport http.RoundTripper) archive.Vault {
	t.Helper()
	v, err := s3.Open(t.Context(), s3.Options{
		Name: "aws", Bucket: bucket, Prefix: s3test.Prefix, Region: "us-east-1", Endpoint: s.URL(), PathStyle: true,
		Now: time.Now, Wait: s3test.Wait, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Credentials come from the SDK's own chain.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": s3test.AccessKey, "AWS_SECRET_ACCESS_KEY": s3test.SecretKey,
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(name, value)
	}
	os.Exit(s3test.Main(m))
}

func TestVault(t *testing.T) {
	s3test.Each(t, func(t *testing.T, s *s3test.Server) {
		bucket := s.Bucket(t, true)
		vaulttest.Exercise(t, func(t *testing.T) vaulttest.Harness {
			return s3test.Harness(vaulttest.Harness{Vault: open(t, s, bucket, nil)})
		})
	})
}

func TestFaults(t *testing.T) { s3test.ExerciseFaults(t, open) }

func TestInspect(t *testing.T) { s3test.ExerciseInspect(t, open) }

// Storage classes that need a restore are refused before anything is put there.
func TestOpen(t *testing.T) {
	good := s3.Options{Name: "cold", Bucket: "b", Region: "eu-central-1", Now: time.Now, Wait: s3test.Wait}
	for _, test := range []struct {
		change func(*s3.Options)
		want   string // in the error; empty: none
	}{
		{func(*s3.Options) {}, ""},
		{func(o *s3.Options) { o.StorageClass = "STANDARD_IA" }, ""},
		{func(o *s3.Options) { o.StorageClass = "GLACIER_IR" }, ""},
		{func(o *s3.Options) { o.StorageClass = "GLACIER" }, "restored"},
		{func(o *s3.Options) { o.StorageClass = "DEEP_ARCHIVE" }, "restored"},
		{func(o *s3.Options) { o.StorageClass = "INTELLIGENT_TIERING" }, "restored"},
		{func(o *s3.Options) { o.StorageClass = "standard" }, "is none of"},
		{func(o *s3.Options) { o.Name = "" }, "name"},
		{func(o *s3.Options) { o.Bucket = "" }, "bucket"},
		{func(o *s3.Options) { o.Region = "" }, "region"},
		{func(o *s3.Options) { o.Region, o.Endpoint = "", "https://s3.example.org" }, ""},
		{func(o *s3.Options) { o.Endpoint = "s3.example.org" }, "endpoint"},
		{func(o *s3.Options) { o.Endpoint = "https://key:hush@s3.example.org" }, "endpoint"},
		{func(o *s3.Options) { o.Prefix = "lots/" }, "prefix"},
		{func(o *s3.Options) { o.Prefix = "lots/2026" }, ""},
		{func(o *s3.Options) { o.Now = nil }, "Now"},
		{func(o *s3.Options) { o.Wait = nil }, "Wait"},
		{func(o *s3.Options) { o.Profile = "nobody" }, "nobody"},
	} {
		o := good
		test.change(&o)
		_, err := s3.Open(t.Context(), o)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v: %v, want %q", o, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the error has a secret: %v", err)
		}
	}
}

// listing answers ListObjectVersions in two pages, with keys URL-encoded and
// parted from their delete markers only by the SDK.
func listing(w http.ResponseWriter, r *http.Request) {
	version := func(kind, key, id, at string, latest bool) string {
		return fmt.Sprintf(`<%s><Key>%s</Key><VersionId>%s</VersionId><IsLatest>%v</IsLatest><LastModified>2026-11-24T10:00:%s.000Z</LastModified><Size>1</Size></%[1]s>`, kind, key, id, latest, at)
	}
	page := version("Version", "p/a", "1", "09", true) + version("DeleteMarker", "p/a", "2", "08", false) + version("Version", "p/a", "3", "08", false) +
		version("DeleteMarker", "p/%C3%A9+%01", "x", "01", true) + version("DeleteMarker", "p/%C3%A9.age", "4", "05", true) +
		`<IsTruncated>true</IsTruncated><NextKeyMarker>p/%C3%A9.age</NextKeyMarker><NextVersionIdMarker>4</NextVersionIdMarker>`
	if q := r.URL.Query(); q.Has("key-marker") {
		if q.Get("key-marker") != "p/é.age" || q.Get("version-id-marker") != "4" || q.Get("encoding-type") != "url" {
			http.Error(w, r.URL.RawQuery, http.StatusTeapot)
			return
		}
		page = version("Version", "p/%C3%A9.age", "5", "05", false) + version("DeleteMarker", "p/%C3%A9.age", "6", "04", false) +
			version("Version", "p/.hidden", "y", "05", true) + version("Version", "other/z", "z", "05", true) + `<IsTruncated>false</IsTruncated>`
	}
	fmt.Fprintf(w, `<?xml version="1.0"?><ListVersionsResult><EncodingType>url</EncodingType>%s</ListVersionsResult>`, page)
}

func TestPages(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(listing))
	defer server.Close()
	v, err := s3.Open(t.Context(), s3.Options{
		Name: "aws", Bucket: "b", Prefix: "p", Endpoint: server.URL, PathStyle: true, Now: time.Now, Wait: s3test.Wait,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for version, err := range v.Versions(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(version.Key, " ", version.VersionID, " ", version.DeleteMarker, " ", version.Latest))
	}
	want := []string{"a 1 false true", "a 3 false false", "a 2 true false", "é.age 4 true true", "é.age 5 false false", "é.age 6 true false"}
	if !slices.Equal(got, want) {
		t.Errorf("listed\n%q, want\n%q", got, want)
	}
}
