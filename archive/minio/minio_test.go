package minio_test

import (
	"net/http"
	"os"
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
		Name: "minio-go", Endpoint: s.Endpoint, Bucket: bucket, Prefix: "lots/2026", Region: "us-east-1",
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
