package minio_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/minio"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
)

func open(t *testing.T, s *s3test.Server, bucket string, transport http.RoundTripper) archive.Vault {
	t.Helper()
	v, err := minio.Open(t.Context(), minio.Options{
		Name: "minio-go", Endpoint: s.Endpoint, TLS: s.TLS, Bucket: bucket, Prefix: s3test.Prefix, Region: "us-east-1",
		AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey,
		Now: time.Now, Wait: s3test.Wait, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMain(m *testing.M) { os.Exit(s3test.Main(m)) }

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

func TestOpen(t *testing.T) {
	good := minio.Options{
		Name: "own", Endpoint: "minio.example.org:9000", Bucket: "b", AccessKey: "key", SecretKey: "hush", Now: time.Now, Wait: s3test.Wait,
	}
	for _, test := range []struct {
		change func(*minio.Options)
		want   string // in the error; empty: none
	}{
		{func(*minio.Options) {}, ""},
		{func(o *minio.Options) { o.TLS = true }, ""},
		{func(o *minio.Options) { o.Name = "" }, "name"},
		{func(o *minio.Options) { o.Bucket = "" }, "bucket"},
		{func(o *minio.Options) { o.Endpoint = "" }, "endpoint"},
		{func(o *minio.Options) { o.Endpoint = "http://minio.example.org" }, "endpoint"},
		{func(o *minio.Options) { o.AccessKey = "" }, "access key"},
		{func(o *minio.Options) { o.SecretKey = "" }, "secret key"},
		{func(o *minio.Options) { o.Prefix = "/lots" }, "prefix"},
		{func(o *minio.Options) { o.Now = nil }, "Now"},
	} {
		o := good
		test.change(&o)
		_, err := minio.Open(t.Context(), o)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v, want %q", err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the error has a secret: %v", err)
		}
	}
}
