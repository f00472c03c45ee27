package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
)

// A site is what an engine of these tests works on, with limits so small that few
// records give every stage something to do: a database, a keyring, vault "east" on
// MinIO through aws-sdk-go-v2, and "west" on versitygw through minio-go. As JSON it
// can be told to another process.
type site struct {
	Root       string // of the keyring, and of the database unless it is
	Postgres   string // a URL
	Lease      time.Duration
	MinLock    time.Duration
	East, West bucket
}

// newSite makes everything. It starts out empty.
func newSite(t *testing.T, postgresURL string, east, west bucket) *site {
	t.Helper()
	s := &site{Root: t.TempDir(), Postgres: postgresURL, Lease: time.Second, MinLock: lifecycle.DefaultLimits().MinLock, East: east, West: west}
	keys, err := filekeys.Create(filepath.Join(s.Root, "keyring"), filekeys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	keys.Close()
	store, err := s.store(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	s.with(t, nil, nil, func(e *lifecycle.Engine) {
		for _, v := range e.Vaults {
			if err := e.AddVault(t.Context(), v.Name()); err != nil {
				t.Fatal(err)
			}
		}
	})
	return s
}

// store opens the database, or makes it if its keyring's epoch is given.
func (s *site) store(ctx context.Context, epoch uint64) (lifecycle.Store, error) {
	first := storetest.First(time.Now())
	path, options := filepath.Join(s.Root, "lotkeeper.db"), postgres.Options{URL: s.Postgres, Lease: s.Lease, MaxConns: 4}
	switch {
	case s.Postgres == "" && epoch > 0:
		return sqlite.Create(ctx, path, epoch, first)
	case s.Postgres == "":
		return sqlite.Open(ctx, path)
	case epoch > 0:
		return postgres.Create(ctx, options, epoch, first)
	}
	return postgres.Open(ctx, options)
}

// engine opens everything. east and west are what the vaults' requests go through.
func (s *site) engine(ctx context.Context, east, west http.RoundTripper) (e *lifecycle.Engine, close func(), err error) {
	e = &lifecycle.Engine{
		Now: time.Now, Log: zerolog.Nop(), Policy: lifecycle.DefaultPolicy(), Limits: lifecycle.DefaultLimits(), Actor: "tester", Software: "test",
		LogSigner: storetest.LogSigner(),
	}
	e.Limits.Identity, e.Limits.MinLock = "x25519", s.MinLock
	e.Limits.VaultPatience = time.Second // for those tests in which one is paused
	e.Limits.SegmentRecords, e.Limits.BatchRecords, e.Limits.LockRecords = 20, 25, 8
	eastVault, err1 := s3.Open(ctx, s3.Options{
		Name: "east", Bucket: s.East.Name, Endpoint: s.East.URL(), PathStyle: true, Region: "us-east-1", Now: time.Now, Wait: s3test.Wait, Transport: east,
	})
	westVault, err2 := minio.Open(ctx, minio.Options{
		Name: "west", Bucket: s.West.Name, Prefix: s3test.Prefix, Endpoint: s.West.Endpoint, Region: "us-east-1",
		AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Now: time.Now, Wait: s3test.Wait, Transport: west,
	})
	if err := errors.Join(err1, err2); err != nil {
		return nil, nil, err
	}
	e.Vaults = []archive.Vault{eastVault, westVault}
	keys, err := filekeys.Open(filepath.Join(s.Root, "keyring"), filekeys.Options{})
	if err != nil {
		return nil, nil, err
	}
	if e.Store, err = s.store(ctx, 0); err != nil {
		keys.Close()
		return nil, nil, err
	}
	e.Keys = keys
	return e, func() { e.Store.Close(); keys.Close() }, nil
}

// with opens everything for as long as do takes, as one command of the program does.
func (s *site) with(t *testing.T, east, west http.RoundTripper, do func(*lifecycle.Engine)) {
	t.Helper()
	e, close, err := s.engine(t.Context(), east, west)
	if err != nil {
		t.Fatal(err)
	}
	defer close()
	do(e)
}

// season is n records that are due, of three days of one month, one in twenty of
// which its sender wants to be held.
func season(number, n int) (lines []string) {
	at := time.Date(2023, 3, 14, 8, 0, 0, 0, time.UTC)
	for i := range n {
		hold := ""
		if i%20 == 19 {
			hold = `,"retention_hold":true`
		}
		at := at.AddDate(0, 0, i%3).Add(time.Duration(i) * time.Second).Format(time.RFC3339)
		lines = append(lines, fmt.Sprintf(`{"record_id":"cte-%d-%d","traceability_lot_code":"LOT-%d","event_type":"shipping","event_timestamp":%q,"created_or_obtained_at":%[4]q,"kde_payload":{"facility":"FAC-001","secret":"very-secret"}%s}`,
			number, i, i%7, at, hold))
	}
	return lines
}

func ingest(t *testing.T, e *lifecycle.Engine, lines ...string) {
	t.Helper()
	in := lifecycle.Input{Name: "test.jsonl", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Join(lines, "\n"))), nil
	}}
	res, err := e.Ingest(t.Context(), []lifecycle.Input{in}, lifecycle.IngestOptions{Reject: func(r *cte.Reject) error { return fmt.Errorf("rejected: %w", r) }})
	if err != nil || res.Accepted != len(lines) {
		t.Fatalf("ingest: %+v, %v", res, err)
	}
}

// nothingLost: each of so many records can be read, from the hot store or from
// every vault, and everything is as the database says.
func nothingLost(t *testing.T, e *lifecycle.Engine, records int) {
	t.Helper()
	found, err := e.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Concat(found.Missing, found.Mismatches) {
		t.Errorf("verify finds %+v", m)
	}
	if found.Records < records {
		t.Errorf("%d of %d records can be read", found.Records, records)
	}
}

// nothingLeft: there is no more to do, and nothing was left half way.
func nothingLeft(t *testing.T, e *lifecycle.Engine) {
	t.Helper()
	plan, err := e.DryRun(t.Context(), time.Now())
	if err != nil || plan.Due != plan.Held {
		t.Errorf("%d records are due and %d held: %v", plan.Due, plan.Held, err)
	}
	segments, err := e.Store.Segments(t.Context(), lifecycle.Staged, lifecycle.Verified)
	if err != nil || len(segments) > 0 {
		t.Errorf("segments left half way: %+v, %v", segments, err)
	}
	classes, err := e.Store.Classes(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		over := c.Period.Kind == lifecycle.HotClass && !c.Period.Ends().After(time.Now())
		if c.State == lifecycle.Condemned || c.State == lifecycle.Executing || over && c.State != lifecycle.Destroyed {
			t.Errorf("class %s was left %s", c.ID, c.State)
		}
	}
}

// inOrder: what nothingLost and nothingLeft say; and no record is archived twice,
// each class that was destroyed has its receipt, its key is gone, and no object lies
// in a vault that no row knows. vaults are listed past the program.
func inOrder(t *testing.T, e *lifecycle.Engine, records int, vaults map[string][]string) {
	t.Helper()
	nothingLost(t, e, records)
	nothingLeft(t, e)
	archivedOnce(t, e)
	destroyedWithReceipt(t, e)
	segments, err := e.Store.Segments(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, g := range segments {
		known[g.ObjectKey], known[g.ManifestKey] = true, true
	}
	for name, keys := range vaults {
		for _, key := range keys {
			if !known[key] && !strings.HasPrefix(key, audit.Prefix) {
				t.Errorf("%s in vault %s belongs to no segment", key, name)
			}
		}
	}
}

// archivedOnce: no two segments that count list one record.
func archivedOnce(t *testing.T, e *lifecycle.Engine) {
	t.Helper()
	segments, err := e.Store.Segments(t.Context(), lifecycle.Verified, lifecycle.Settled)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]string{}
	for _, g := range segments {
		r, _, err := e.Vaults[0].Get(t.Context(), g.ManifestKey, "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		m, err := archive.ParseManifest(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range m.Entries {
			if other := in[entry.RecordID]; other != "" {
				t.Errorf("record %s is archived twice: in %s and %s", entry.RecordID, other, g.ID)
			}
			in[entry.RecordID] = g.ID
		}
	}
}

func destroyedWithReceipt(t *testing.T, e *lifecycle.Engine) {
	t.Helper()
	classes, err := e.Store.Classes(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	receipts, err := e.Store.Leaves(t.Context(), lifecycle.LeafQuery{Actions: []string{lifecycle.ActionShredded}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := e.Keys.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		gone := slices.Contains(keys.Destroyed, c.ID)
		if gone != (c.State == lifecycle.Destroyed) {
			t.Errorf("class %s is %s, its key destroyed: %v", c.ID, c.State, gone)
		}
		if c.State != lifecycle.Destroyed {
			continue
		}
		if !slices.ContainsFunc(receipts, func(l lifecycle.Leaf) bool { return strings.Contains(string(l.Body), `"`+c.ID+`"`) }) {
			t.Errorf("class %s was destroyed without a receipt", c.ID)
		}
		if c.IntentLeaf == 0 || c.DEKs != 0 {
			t.Errorf("class %s was destroyed with %d DEKs, its intent in leaf %d", c.ID, c.DEKs, c.IntentLeaf)
		}
	}
}

// objects lists the keys of every version and delete marker in both buckets, as the
// vaults call them.
func (s *site) objects(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for name, b := range map[string]bucket{"east": s.East, "west": s.West} {
		for o := range b.Admin(t).ListObjectsIter(t.Context(), b.Name, miniogo.ListObjectsOptions{WithVersions: true, Recursive: true}) {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			all[name] = append(all[name], strings.TrimPrefix(o.Key, s3test.Prefix+"/"))
		}
	}
	return all
}

// noPlaintext: no file has a KDE in it that is not an index column.
func noPlaintext(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), "very-secret") {
			t.Errorf("%s has a KDE in plain text", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
