package lifecycle_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
	"github.com/lotkeeper/lotkeeper/shred/memkeys"
)

// world is an engine with a clock that a test sets, on a real database.
type world struct {
	*lifecycle.Engine
	t     *testing.T
	dir   string
	now   time.Time
	store lifecycle.Store
	vault *memvault.Vault
	rej   []*cte.Reject
}

var today = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// tempDir is in memory where there is such a place. These tests end processes at
// every call, thousands of times, and never cut the power: a disk's syncs would
// only make them slow. What survives those is tested beside each back end.
func tempDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "lotkeeper-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := tempDir(t)
	store, err := sqlite.Create(context.Background(), filepath.Join(dir, "lotkeeper.db"), 0, firstLeaf)
	if err != nil {
		t.Fatal(err)
	}
	return newWorldOn(t, dir, store)
}

// newWorldOn is a world on another store.
func newWorldOn(t *testing.T, dir string, store lifecycle.Store) *world {
	t.Helper()
	w := &world{t: t, dir: dir, now: today, store: store}
	w.vault = memvault.New("main", func() time.Time { return w.now })
	w.Engine = &lifecycle.Engine{
		Store: store, Vaults: []archive.Vault{w.vault}, Keys: memkeys.New(), Now: func() time.Time { return w.now },
		Log: zerolog.New(zerolog.NewTestWriter(t)), Policy: lifecycle.DefaultPolicy(), Limits: lifecycle.DefaultLimits(), Actor: "tester", Software: "test",
		LogSigner: storetest.LogSigner(),
	}
	w.Limits.Identity = "x25519" // hybrid identities cost 1 ms each
	w.Limits.CountFor = 0        // no test hangs by how fast it counts
	w.Limits.VaultPatience = 0
	t.Cleanup(func() { store.Close() })
	if err := w.AddVault(context.Background(), "main"); err != nil {
		t.Fatal(err)
	}
	return w
}

// addVault configures a vault in memory and adds it.
func (w *world) addVault(name string) *memvault.Vault {
	w.t.Helper()
	v := memvault.New(name, w.Engine.Now)
	w.Vaults = append(w.Vaults, v)
	if err := w.AddVault(context.Background(), name); err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) ingest(lines ...string) lifecycle.IngestResult {
	w.t.Helper()
	res, err := w.tryIngest(lines...)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func (w *world) tryIngest(lines ...string) (lifecycle.IngestResult, error) {
	w.rej = nil
	return w.Ingest(context.Background(), []lifecycle.Input{{Name: "test.jsonl", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Join(lines, "\n") + "\n")), nil
	}}}, lifecycle.IngestOptions{Reject: func(r *cte.Reject) error { w.rej = append(w.rej, r); return nil }})
}

func (w *world) sweep() lifecycle.SweepResult {
	w.t.Helper()
	res, err := w.Sweep(context.Background(), lifecycle.SweepOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func (w *world) view(id string) lifecycle.RecordView {
	w.t.Helper()
	v, err := w.View(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) export(q lifecycle.Query) []string {
	w.t.Helper()
	var out []string
	for f, err := range w.Export(context.Background(), q, false) {
		if err != nil {
			w.t.Fatal(err)
		}
		r, err := cte.ParseLine(f.Line)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, string(r.AppendNative(nil)))
	}
	return out
}

// verify fails the test on any finding.
func (w *world) verify() lifecycle.VerifyResult {
	w.t.Helper()
	res, err := w.Verify(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	if len(res.Mismatches)+len(res.Missing) > 0 {
		w.t.Fatalf("verify found %+v %+v", res.Mismatches, res.Missing)
	}
	return res
}

// verifyLog wants the database to be what the log says, and each vault to have the log.
func (w *world) verifyLog() lifecycle.LogReport {
	w.t.Helper()
	res, err := w.VerifyLog(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range res.Findings {
		w.t.Errorf("the log does not fit: %+v", f)
	}
	return res
}

// record is a native line of an event at the given time.
func record(id, lot string, at time.Time) string {
	return fmt.Sprintf(`{"record_id":%q,"traceability_lot_code":%q,"event_type":"shipping","event_timestamp":%q,"kde_payload":{"facility":"FAC-001","secret_kde":"very-secret-%s"}}`,
		id, lot, cte.FormatTime(at), id)
}

const textbook = `{"record_id":"cte-8842-a","traceability_lot_code":"LOT-2022-09-14-XJ9","event_timestamp":"2022-09-14T08:30:00Z","kde_payload":{"facility":"FAC-001","product_code":"PC-7782","quantity":1200},"retention_hold":false}`

// raw does to the database what no Store would: whoever has the file can drop its
// guards first.
func raw(t *testing.T, w *world, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, "lotkeeper.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // so that the pragmas hold for all that follows
	guards := []string{`PRAGMA foreign_keys = 0`, `PRAGMA ignore_check_constraints = 1`}
	var again []string
	rows, err := db.Query(`SELECT 'DROP TRIGGER ' || name, sql FROM sqlite_schema WHERE type = 'trigger'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var drop, create string
		if err := rows.Scan(&drop, &create); err != nil {
			t.Fatal(err)
		}
		guards, again = append(guards, drop), append(again, create)
	}
	for _, s := range slices.Concat(guards, statements, again) {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(s, err)
		}
	}
}
