package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"
	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/minio"
	"github.com/lotkeeper/lotkeeper/archive/s3"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred/memkeys"
)

// counter notes the requests for objects: their method, and what is asked for.
type counter struct {
	mu   sync.Mutex
	seen []string // guarded by mu
}

func (c *counter) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, ".age") || strings.HasSuffix(req.URL.Path, ".json") {
		c.mu.Lock()
		c.seen = append(c.seen, req.Method)
		c.mu.Unlock()
	}
	return http.DefaultTransport.RoundTrip(req)
}

// Two vaults, on two servers, through two libraries: a sweep archives into both
// with four requests each, verification finds them sound, and then what was done
// to them; the records can be read all the same.
func TestSweepIntoBuckets(t *testing.T) {
	ctx := context.Background()
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	east, west := s3test.Start(t, s3test.MinIO), s3test.Start(t, s3test.VersityGW)
	eastBucket, westBucket := east.Bucket(t, true), west.Bucket(t, true)
	eastWire, westWire := new(counter), new(counter)
	eastVault, err := s3.Open(ctx, s3.Options{
		Name: "east", Bucket: eastBucket, Endpoint: east.URL(), PathStyle: true, Region: "us-east-1",
		Now: time.Now, Wait: s3test.Wait, Transport: eastWire,
	})
	if err != nil {
		t.Fatal(err)
	}
	westVault, err := minio.Open(ctx, minio.Options{
		Name: "west", Bucket: westBucket, Prefix: s3test.Prefix, Endpoint: west.Endpoint, Region: "us-east-1",
		AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Now: time.Now, Wait: s3test.Wait, Transport: westWire,
	})
	if err != nil {
		t.Fatal(err)
	}

	store, err := sqlite.Create(ctx, filepath.Join(t.TempDir(), "lotkeeper.db"), 0, storetest.First(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	e := &lifecycle.Engine{
		Store: store, Vaults: []archive.Vault{eastVault, westVault}, Keys: memkeys.New(), Now: time.Now,
		Log: zerolog.New(zerolog.NewTestWriter(t)), Policy: lifecycle.DefaultPolicy(), Limits: lifecycle.DefaultLimits(), Actor: "tester", Software: "test",
		LogSigner: storetest.LogSigner(),
	}
	for _, v := range e.Vaults {
		if err := e.AddVault(ctx, v.Name()); err != nil {
			t.Fatal(err)
		}
	}
	const n = 50
	lines := new(strings.Builder)
	// All due, and all of one archive class.
	at := time.Now().UTC().AddDate(-3, 0, 0)
	for i := range n {
		fmt.Fprintf(lines, `{"record_id":"cte-%d","traceability_lot_code":"LOT-1","event_type":"shipping","event_timestamp":%q,"kde_payload":{"facility":"FAC-001"}}`+"\n",
			i, at.Format(time.RFC3339))
	}
	_, err = e.Ingest(ctx, []lifecycle.Input{{Name: "test.jsonl", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(lines.String())), nil
	}}}, lifecycle.IngestOptions{Reject: func(r *cte.Reject) error { return fmt.Errorf("rejected: %w", r) }})
	if err != nil {
		t.Fatal(err)
	}
	swept, err := e.Sweep(ctx, lifecycle.SweepOptions{})
	if err != nil || swept.Archived != n || swept.Segments != 1 {
		t.Fatalf("%+v, %v", swept, err)
	}
	if want := []string{"PUT", "PUT", "GET", "GET"}; !slices.Equal(eastWire.seen, want) {
		t.Errorf("requests to S3 are %v, want %v", eastWire.seen, want)
	}
	// versitygw sends the lock with HeadObject alone.
	if want := []string{"PUT", "PUT", "GET", "HEAD", "GET", "HEAD"}; !slices.Equal(westWire.seen, want) {
		t.Errorf("requests to versitygw are %v, want %v", westWire.seen, want)
	}
	found, err := e.Verify(ctx)
	if err != nil || len(found.Mismatches)+len(found.Missing) > 0 || found.Records != n || found.Objects != 4 {
		t.Fatalf("%+v, %v", found, err)
	}

	segments, err := store.Segments(ctx, lifecycle.Settled)
	if err != nil || len(segments) != 1 {
		t.Fatalf("%+v, %v", segments, err)
	}
	key := segments[0].ObjectKey
	if _, err := east.Admin(t).PutObject(ctx, eastBucket, key, strings.NewReader("x"), 1, miniogo.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := west.Admin(t).RemoveObject(ctx, westBucket, s3test.Prefix+"/"+key, miniogo.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	found, err = e.Verify(ctx)
	if err != nil || len(found.Missing) > 0 || found.Records != n {
		t.Fatalf("%+v, %v", found, err)
	}
	kinds := make(map[string][]string)
	for _, m := range found.Mismatches {
		kinds[m.Vault] = append(kinds[m.Vault], m.Kind)
	}
	// minio-go cannot read what versitygw answers of the lock of a version that
	// is not the current one.
	if !slices.Equal(kinds["east"], []string{archive.KindOverwritten}) || !slices.Equal(kinds["west"], []string{archive.KindDeleteMarker, archive.KindLockUnknown}) {
		t.Errorf("found %v", kinds)
	}
	for _, vaults := range [][]archive.Vault{{eastVault}, {westVault}} {
		e.Vaults = vaults
		read := 0
		for _, err := range e.Export(ctx, lifecycle.Query{}, false) {
			if err != nil {
				t.Fatalf("from %s: %v", vaults[0].Name(), err)
			}
			read++
		}
		if read != n {
			t.Errorf("%d records read from %s", read, vaults[0].Name())
		}
	}
}
