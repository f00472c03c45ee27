package lifecycle_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
)

// keyringWorld is a world whose keyring is a directory, so that a test can put an
// older copy of it back.
func keyringWorld(t *testing.T) (w *world, ring string) {
	w = newWorld(t)
	return w, w.newKeyring()
}

func (w *world) newKeyring() (ring string) {
	w.t.Helper()
	ring = filepath.Join(w.dir, "ring")
	keys, err := filekeys.Create(ring, filekeys.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Keys = keys
	return ring
}

// putBack replaces the keyring by a copy of it, as another process would find it.
func (w *world) putBack(ring, from string) {
	w.t.Helper()
	if err := os.RemoveAll(ring); err != nil {
		w.t.Fatal(err)
	}
	copyTree(w.t, ring, from)
	keys, err := filekeys.Open(ring, filekeys.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Keys = keys
}

func copyTree(t *testing.T, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dst := filepath.Join(to, strings.TrimPrefix(path, from))
		if e.IsDir() {
			return os.Mkdir(dst, 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(dst, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecoverKeyring(t *testing.T) {
	ctx := context.Background()
	w, ring := keyringWorld(t)
	none := func(res lifecycle.KeyringRecovery, err error) {
		t.Helper()
		if err != nil || len(res.DestroyedAgain)+len(res.Created)+len(res.Lost) > 0 {
			t.Fatalf("%+v %v", res, err)
		}
	}
	none(w.RecoverKeyring(ctx))
	old := time.Date(2022, 9, 14, 8, 30, 0, 0, time.UTC)
	w.ingest(record("old", "L", old), record("young", "L", w.now))
	older := ring + ".older"
	copyTree(t, older, ring)

	// After the copy: "old" is archived and its class destroyed; "today" is
	// archived, but its class's day is not over, so its key lives on; "later" is
	// hot in a class that the copy has never seen.
	w.ingest(record("today", "L", w.now.AddDate(0, 0, -730)))
	w.sweep()
	if v := w.view("today"); v.State != lifecycle.Archived || v.ClassState != lifecycle.Open {
		t.Fatalf("%+v", v)
	}
	newest := ring + ".newest"
	copyTree(t, newest, ring)
	before := leafCount(t, w)
	none(w.RecoverKeyring(ctx))
	if leafCount(t, w) != before {
		t.Fatal("a keyring that is in order was touched")
	}

	w.putBack(ring, older)
	if _, ok := lifecycle.IsRefused(w.CheckKeyring(ctx)); !ok {
		t.Fatal("an older keyring was not refused")
	}
	res, err := w.RecoverKeyring(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(res.DestroyedAgain, " "); got != "hot-2024-09-13-1" {
		t.Errorf("destroyed again: %s", got)
	}
	if got := strings.Join(res.Created, " "); got != "hot-2026-11-21-1" {
		t.Errorf("created: %s", got)
	}
	if len(res.Lost) > 0 {
		t.Errorf("lost: %+v", res.Lost)
	}
	if err := w.CheckKeyring(ctx); err != nil {
		t.Fatal(err)
	}
	none(w.RecoverKeyring(ctx))
	w.verify()
	w.ingest(record("more", "L", old))
	w.sweep()
	if got := w.export(lifecycle.Query{}); len(got) != 4 {
		t.Fatalf("%d records", len(got))
	}

	// A hot record in a class that the copy has never seen is lost with it, said,
	// and nothing builds on that keyring.
	w.putBack(ring, newest)
	if _, err := w.RecoverKeyring(ctx); err != nil {
		t.Fatal(err)
	}
	w.ingest(record("later", "L", w.now.AddDate(0, 0, -3)))
	w.putBack(ring, newest)
	for range 2 {
		res, err = w.RecoverKeyring(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Lost) != 1 || res.Lost[0].DEKs != 1 || res.Lost[0].Kind != lifecycle.HotClass {
			t.Fatalf("lost: %+v", res.Lost)
		}
		if _, ok := lifecycle.IsRefused(w.CheckKeyring(ctx)); !ok {
			t.Fatal("a keyring that lacks keys was accepted")
		}
	}
}

// Another database's keyring has classes of the same names; none of its keys
// opens anything here, and none is destroyed.
func TestRecoverKeyringOfAnother(t *testing.T) {
	ctx := context.Background()
	w, ring := keyringWorld(t)
	other, otherRing := keyringWorld(t)
	old := record("old", "L", time.Date(2022, 9, 14, 8, 30, 0, 0, time.UTC))
	w.ingest(old)
	w.sweep()
	other.ingest(old)
	w.putBack(ring, otherRing)
	before, err := w.Keys.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RecoverKeyring(ctx); err == nil || !strings.Contains(err.Error(), "another database") {
		t.Fatalf("%v", err)
	}
	after, err := w.Keys.Status(ctx)
	if err != nil || after.Epoch != before.Epoch || len(after.Live) != len(before.Live) {
		t.Fatalf("%+v became %+v, %v", before, after, err)
	}
}

func leafCount(t *testing.T, w *world) int {
	t.Helper()
	leaves, err := w.Store.Leaves(context.Background(), lifecycle.LeafQuery{})
	if err != nil {
		t.Fatal(err)
	}
	return len(leaves)
}
