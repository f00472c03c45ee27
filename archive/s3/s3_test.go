package s3_test

import (
	"net/http"
	"os"
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
		Name: "aws", Bucket: bucket, Prefix: "lots/2026", Region: "us-east-1", Endpoint: "http://" + s.Endpoint, PathStyle: true,
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
