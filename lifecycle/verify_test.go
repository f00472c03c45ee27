package lifecycle_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// twoSegments is a world with two vaults, two segments of two records each in
// both, and one hot record.
func twoSegments(t *testing.T) (*world, []lifecycle.Segment) {
	w := newWorld(t)
	w.addVault("second")
	w.Limits.SegmentRecords = 2
	var lines []string
	for i := range 4 {
		lines = append(lines, record(fmt.Sprintf("r%d", i), "L", instant(t, "2023-01-01T00:00:00Z")))
	}
	w.ingest(append(lines, record("hot", "L", today))...)
	w.sweep()
	if res := w.verify(); res.Segments != 2 || res.Objects != 8 || res.Records != 5 {
		t.Fatalf("%+v", res)
	}
	segments, err := w.Store.Segments(context.Background())
	if err != nil || len(segments) != 2 {
		t.Fatal(segments, err)
	}
	return w, segments
}

// Every change of an object, a manifest, or of the database is found, and
// verify goes on to the end.
func TestVerifyFinds(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte {
			b = bytes.Clone(b)
			b[(at+len(b))%len(b)] ^= 1
			return b
		}
	}
	for name, c := range map[string]struct {
		vault func(v *memvault.Vault, a, b lifecycle.Segment) error
		sql   []string
		kinds []string // of findings, all of which must be there
	}{
		"object, first byte": {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error { return v.Tamper(a.ObjectKey, "", flip(0)) }, kinds: []string{archive.KindSHA256}},
		"object, last byte":  {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error { return v.Tamper(a.ObjectKey, "", flip(-1)) }, kinds: []string{archive.KindSHA256}},
		"object truncated": {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error {
			return v.Tamper(a.ObjectKey, "", func(b []byte) []byte { return b[:len(b)-7] })
		}, kinds: []string{archive.KindSHA256}},
		"object empty": {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error {
			return v.Tamper(a.ObjectKey, "", func([]byte) []byte { return nil })
		}, kinds: []string{archive.KindSHA256}},
		"objects swapped": {vault: func(v *memvault.Vault, a, b lifecycle.Segment) error { return v.Swap(a.ObjectKey, b.ObjectKey) }, kinds: []string{archive.KindSHA256}},
		"object missing":  {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error { v.Drop(a.ObjectKey); return nil }, kinds: []string{archive.KindMissing}},
		"object overwritten": {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error {
			v.ForcePut(a.ObjectKey, []byte("x"))
			return nil
		}, kinds: []string{archive.KindOverwritten}},
		"object under a marker":    {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error { v.DeleteLatest(a.ObjectKey); return nil }, kinds: []string{archive.KindDeleteMarker}},
		"manifest changed":         {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error { return v.Tamper(a.ManifestKey, "", flip(99)) }, kinds: []string{archive.KindSHA256}},
		"manifests swapped":        {vault: func(v *memvault.Vault, a, b lifecycle.Segment) error { return v.Swap(a.ManifestKey, b.ManifestKey) }, kinds: []string{archive.KindSHA256}},
		"manifest missing":         {vault: func(v *memvault.Vault, a, _ lifecycle.Segment) error { v.Drop(a.ManifestKey); return nil }, kinds: []string{archive.KindMissing}},
		"checksum, archived":       {sql: []string{`UPDATE records SET checksum = zeroblob(32) WHERE record_id = 'r1'`}, kinds: []string{lifecycle.KindChecksum}},
		"checksum, hot":            {sql: []string{`UPDATE records SET checksum = zeroblob(32) WHERE record_id = 'hot'`}, kinds: []string{lifecycle.KindChecksum}},
		"checksum of the object":   {sql: []string{`UPDATE segments SET object_sha256 = zeroblob(32) WHERE segment_no = 1`}, kinds: []string{archive.KindSHA256}},
		"checksum of the manifest": {sql: []string{`UPDATE segments SET manifest_sha256 = zeroblob(32) WHERE segment_no = 1`}, kinds: []string{archive.KindSHA256}},
		"lot, archived":            {sql: []string{`UPDATE records SET tlc = 'M' WHERE record_id = 'r1'`}, kinds: []string{lifecycle.KindRow}},
		"lot, hot":                 {sql: []string{`UPDATE records SET tlc = 'M' WHERE record_id = 'hot'`}, kinds: []string{lifecycle.KindRow}},
		"event time, hot":          {sql: []string{`UPDATE records SET event_at = '2020-01-01T00:00:00.000000000Z' WHERE record_id = 'hot'`}, kinds: []string{lifecycle.KindRow}},
		"payload, hot":             {sql: []string{`UPDATE payloads SET sealed = zeroblob(300)`}, kinds: []string{archive.KindUnreadable}},
		"wrapped DEK, hot":         {sql: []string{`UPDATE deks SET wrapped = zeroblob(60)`}, kinds: []string{archive.KindUnreadable}},
		"row deleted":              {sql: []string{`DELETE FROM records WHERE record_id = 'r1'`}, kinds: []string{lifecycle.KindUnknown}},
		"row of another segment":   {sql: []string{`UPDATE records SET segment_no = 2 WHERE record_id = 'r1'`}, kinds: []string{lifecycle.KindUnlisted}},
		"row without segment":      {sql: []string{`UPDATE records SET segment_no = NULL WHERE record_id = 'r1'`}, kinds: []string{lifecycle.KindUnlisted}},
		"segment abandoned":        {sql: []string{`UPDATE segments SET state = 'abandoned' WHERE segment_no = 1`}, kinds: []string{lifecycle.KindUnlisted}},
		"identity":                 {sql: []string{`UPDATE segments SET wrapped_identity = zeroblob(60) WHERE segment_no = 1`}, kinds: []string{archive.KindUnreadable}},
		"one copy forgotten":       {sql: []string{`DELETE FROM segment_copies WHERE segment_no = 1 AND vault = 'second'`}, kinds: []string{lifecycle.KindFault}},
		"copy forgotten":           {sql: []string{`DELETE FROM segment_copies WHERE segment_no = 1`}, kinds: []string{lifecycle.KindFault}},
	} {
		t.Run(name, func(t *testing.T) {
			w, segments := twoSegments(t)
			if c.vault != nil {
				if err := c.vault(w.vault, segments[0], segments[1]); err != nil {
					t.Fatal(err)
				}
			}
			if c.sql != nil {
				raw(t, w, c.sql...)
			}
			res, err := w.Verify(context.Background())
			if err != nil {
				t.Fatal("verify did not go on to the end:", err)
			}
			found := slices.Concat(res.Mismatches, res.Missing)
			for _, kind := range c.kinds {
				if !slices.ContainsFunc(found, func(m archive.Mismatch) bool { return m.Kind == kind }) {
					t.Errorf("no finding of kind %s among %+v", kind, found)
				}
			}
			if res.Segments < 1 || res.Objects < 4 {
				t.Errorf("verify stopped early: %+v", res)
			}
			for _, m := range found {
				if s := fmt.Sprint(m); strings.Contains(s, "very-secret") {
					t.Errorf("a finding tells a KDE: %s", s)
				}
			}
		})
	}
}

// With one vault's copy gone, export reads the other's; with both, it says
// which record it could not read and goes on.
func TestExportAroundDamage(t *testing.T) {
	w, segments := twoSegments(t)
	w.vault.Drop(segments[0].ObjectKey)
	if got := w.export(lifecycle.Query{}); len(got) != 5 {
		t.Fatalf("exported %q", got)
	}
	w.Vaults[1].(*memvault.Vault).Drop(segments[0].ObjectKey)
	var read, unread int
	for f, err := range w.Export(context.Background(), lifecycle.Query{}, false) {
		if err != nil {
			unread++
		} else if f.Line != nil {
			read++
		}
	}
	if read != 3 || unread != 2 {
		t.Fatalf("read %d, unread %d", read, unread)
	}
	n := 0
	for range w.Export(context.Background(), lifecycle.Query{}, false) {
		if n++; n == 2 {
			break
		}
	}
	if got := w.export(lifecycle.Query{Limit: 1}); len(got) != 1 {
		t.Fatalf("a limit of one gave %d", len(got))
	}
}

// A segment opens with nothing of ours: age, zstd and SHA-256.
func TestPublicTools(t *testing.T) {
	ctx := context.Background()
	w, segments := twoSegments(t)
	want := map[string]bool{}
	for r, err := range w.Store.Rows(ctx, lifecycle.Query{State: lifecycle.Archived}) {
		if err != nil {
			t.Fatal(err)
		}
		want[hex.EncodeToString(r.Checksum[:])] = true
	}
	for _, g := range segments {
		secret, err := w.SegmentIdentity(ctx, g.ID)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := age.ParseIdentities(strings.NewReader(secret))
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := w.vault.Get(ctx, g.ObjectKey, "")
		if err != nil {
			t.Fatal(err)
		}
		plain, err := age.Decrypt(object, ids...)
		if err != nil {
			t.Fatal(err)
		}
		z, err := zstd.NewReader(plain)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		z.Close()
		for line := range bytes.Lines(text) {
			sum := sha256.Sum256(bytes.TrimSuffix(line, []byte("\n")))
			if !want[hex.EncodeToString(sum[:])] {
				t.Errorf("%x is no record's checksum", sum)
			}
			delete(want, hex.EncodeToString(sum[:]))
		}
		// It opens this segment and nothing else.
		other := segments[0]
		if g.ID == other.ID {
			other = segments[1]
		}
		object, _, err = w.vault.Get(ctx, other.ObjectKey, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := age.Decrypt(object, ids...); err == nil {
			t.Error("one identity opens two segments")
		}
	}
	if len(want) != 0 {
		t.Errorf("%d checksums have no line", len(want))
	}
	leaves, err := w.Store.Leaves(ctx, lifecycle.LeafQuery{Actions: []string{lifecycle.ActionIdentityShown}})
	if err != nil || len(leaves) != 2 {
		t.Errorf("disclosing left %d leaves, %v", len(leaves), err)
	}
}
