package memvault_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
)

var start = time.Date(2026, 11, 21, 9, 0, 0, 123456789, time.UTC)

func TestVault(t *testing.T) {
	vaulttest.Exercise(t, func(t *testing.T) vaulttest.Harness {
		clock := vaulttest.NewClock(start)
		return vaulttest.Harness{Vault: memvault.New("memory", clock.Now), Advance: clock.Advance, Retention: time.Hour}
	})
}

func put(t *testing.T, v *memvault.Vault, key, body string) archive.Version {
	t.Helper()
	version, err := v.Put(t.Context(), key, strings.NewReader(body), archive.PutOptions{
		SHA256: sha256.Sum256([]byte(body)), Size: int64(len(body)),
		Mode: archive.Compliance, RetainUntil: start.Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func get(t *testing.T, v *memvault.Vault, key, versionID string) string {
	t.Helper()
	r, _, err := v.Get(t.Context(), key, versionID)
	if err != nil {
		return err.Error()
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A locked version stays below whatever is put on top of it, as on S3.
func TestVersionsAndDeleteMarkers(t *testing.T) {
	clock := vaulttest.NewClock(start)
	v := memvault.New("memory", clock.Now)
	first := put(t, v, "a", "first")
	marker := v.DeleteLatest("a")
	if _, err := v.Stat(t.Context(), "a", ""); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("Stat below a delete marker: %v", err)
	}
	for _, id := range []string{"", marker.VersionID} {
		if _, _, err := v.Get(t.Context(), "a", id); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("Get of a delete marker: %v", err)
		}
	}
	if got := get(t, v, "a", first.VersionID); got != "first" {
		t.Errorf("below the delete marker: %q", got)
	}
	second := put(t, v, "a", "second") // a delete marker leaves the key free
	third := v.ForcePut("a", []byte("third"))
	put(t, v, "b", "other")

	var got []archive.Version
	for version, err := range v.Versions(t.Context(), "a") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, version)
	}
	first.Latest, marker.Latest, second.Latest = false, false, false
	if want := []archive.Version{third, second, marker, first}; !slices.Equal(got, want) {
		t.Errorf("versions\n%+v, want\n%+v", got, want)
	}
	if err := v.Delete(t.Context(), "a", third.VersionID); err != nil {
		t.Errorf("Delete of a version without a lock: %v", err)
	}
	if err := v.Delete(t.Context(), "a", marker.VersionID); err != nil {
		t.Errorf("Delete of a delete marker: %v", err)
	}
	if err := v.Delete(t.Context(), "a", first.VersionID); !errors.Is(err, archive.ErrLocked) {
		t.Errorf("Delete of a locked version: %v", err)
	}
	if info, err := v.Stat(t.Context(), "a", ""); err != nil || info.VersionID != second.VersionID || !info.Latest {
		t.Errorf("current is %+v, %v", info, err)
	}
	if info, err := v.Stat(t.Context(), "a", first.VersionID); err != nil || info.Latest {
		t.Errorf("the first is %+v, %v", info, err)
	}
}

// Tampering changes what it says and nothing else.
func TestTamper(t *testing.T) {
	v := memvault.New("memory", vaulttest.NewClock(start).Now)
	a, b := put(t, v, "a", "first"), put(t, v, "b", "other")
	before, _, err := v.Get(t.Context(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	info, err := v.Stat(t.Context(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Tamper("a", "", func(b []byte) []byte { b[0]++; return b }); err != nil {
		t.Fatal(err)
	}
	if got := get(t, v, "a", a.VersionID); got != "girst" {
		t.Errorf("tampered: %q", got)
	}
	if after, err := v.Stat(t.Context(), "a", ""); err != nil || after != info {
		t.Errorf("tampering with bytes changed\n%+v to\n%+v, %v", info, after, err)
	}
	if got, err := io.ReadAll(before); err != nil || string(got) != "first" {
		t.Errorf("a reader that was open reads %q, %v", got, err)
	}
	if err := v.Swap("a", "b"); err != nil || get(t, v, "a", a.VersionID) != "other" || get(t, v, "b", b.VersionID) != "girst" {
		t.Errorf("swapped: %v", err)
	}
	if err := v.SetLock("a", "", "", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := v.Delete(t.Context(), "a", a.VersionID); err != nil {
		t.Errorf("Delete of a version whose lock was lifted: %v", err)
	}
	v.Drop("b")
	for version := range v.Versions(t.Context(), "") {
		t.Errorf("left: %+v", version)
	}
	for name, err := range map[string]error{
		"Tamper": v.Tamper("a", "", nil), "Swap": v.Swap("a", "b"), "SetLock": v.SetLock("a", "", "", start),
	} {
		if !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
}
