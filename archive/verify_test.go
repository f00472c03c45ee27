package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"filippo.io/age"
	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/memvault"
	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
)

var start = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

// A stored segment: what is in the vault, and what its owner knows of it.
type stored struct {
	vault     *memvault.Vault
	identity  age.Identity
	recipient age.Recipient
	ids       []string
	lines     [][]byte
	x         archive.Expect
	m         *archive.Manifest
}

func store(t testing.TB, vault *memvault.Vault, segment string, n int) *stored {
	t.Helper()
	id, recipient := identity(t, "x25519")
	ids, want := lines(n)
	for i := range want {
		want[i] = append(want[i], segment...)
	}
	object, sealed := seal(t, recipient, ids, want)
	s := &stored{vault: vault, identity: id, recipient: recipient, ids: ids, lines: want}
	s.m = manifest(1)
	s.m.SegmentID, s.m.ObjectKey = segment, archive.ObjectKey(s.m.Class, segment)
	s.m.Records, s.m.Entries, s.m.Root = len(ids), sealed.Entries, sealed.Root
	s.m.Bytes, s.m.ObjectSize = sealed.PlaintextSize, sealed.ObjectSize
	s.m.PlaintextSHA256, s.m.ObjectSHA256 = sealed.PlaintextSHA256, sealed.ObjectSHA256
	encoded := s.m.Encode()
	s.x = s.m.Expect(encoded)
	s.x.Object.VersionID = s.put(t, s.x.Object.Key, object)
	s.x.Manifest.VersionID = s.put(t, s.x.Manifest.Key, encoded)
	return s
}

func (s *stored) put(t testing.TB, key string, body []byte) string {
	t.Helper()
	version, err := s.vault.Put(t.Context(), key, bytes.NewReader(body), archive.PutOptions{
		SHA256: sha256.Sum256(body), Size: int64(len(body)), Mode: archive.Compliance, RetainUntil: s.m.RetainUntil,
	})
	if err != nil {
		t.Fatal(err)
	}
	return version.VersionID
}

func (s *stored) verify(t testing.TB) []archive.Mismatch {
	t.Helper()
	found, err := archive.VerifyCopy(t.Context(), s.vault, s.x, s.identity)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range found {
		if m.Segment != s.x.SegmentID || m.Vault != "memory" || m.Kind == "" || m.Key != s.x.Object.Key && m.Key != s.x.Manifest.Key {
			t.Errorf("incomplete: %+v", m)
		}
	}
	return found
}

// kinds names what was found, in short, in the order it was found.
func kinds(found []archive.Mismatch) string {
	var all []string
	for _, m := range found {
		kind := m.Kind
		if strings.HasPrefix(m.Key, "manifests/") && m.Kind != archive.KindManifest {
			kind = "manifest's " + kind
		}
		if m.RecordID != "" {
			kind += " " + strings.TrimPrefix(m.RecordID, "cte-000")
		}
		all = append(all, kind)
	}
	return strings.Join(all, ", ")
}

// reseal replaces the object by one with other lines, and brings the manifest's
// and the caller's word of the object's bytes in line with it: what is left to
// notice the difference is the lines themselves.
func (s *stored) reseal(t testing.TB, lines [][]byte) {
	t.Helper()
	plain := join(lines)
	object := frame(t, s.recipient, plain)
	s.m.ObjectSHA256, s.m.ObjectSize = sha256.Sum256(object), int64(len(object))
	s.m.PlaintextSHA256, s.m.Bytes = sha256.Sum256(plain), int64(len(plain))
	s.x.Object.SHA256, s.x.Object.Size = s.m.ObjectSHA256, s.m.ObjectSize
	s.vault.Drop(s.x.Object.Key)
	s.x.Object.VersionID = s.put(t, s.x.Object.Key, object)
	s.remanifest(t)
}

// remanifest stores the manifest as it now is.
func (s *stored) remanifest(t testing.TB) {
	t.Helper()
	encoded := s.m.Encode()
	s.x.Manifest.SHA256, s.x.Manifest.Size = sha256.Sum256(encoded), int64(len(encoded))
	s.vault.Drop(s.x.Manifest.Key)
	s.x.Manifest.VersionID = s.put(t, s.x.Manifest.Key, encoded)
}

func newVault() *memvault.Vault {
	return memvault.New("memory", vaulttest.NewClock(start).Now)
}

func TestVerifyCopy(t *testing.T) {
	swap := func(lines [][]byte, i, j int) [][]byte { lines[i], lines[j] = lines[j], lines[i]; return lines }
	tamper := func(key func(*stored) string, edit func([]byte) []byte) func(testing.TB, *stored) {
		return func(t testing.TB, s *stored) {
			if err := s.vault.Tamper(key(s), "", edit); err != nil {
				t.Fatal(err)
			}
		}
	}
	object := func(s *stored) string { return s.x.Object.Key }
	theManifest := func(s *stored) string { return s.x.Manifest.Key }
	reseal := func(edit func([][]byte) [][]byte) func(testing.TB, *stored) {
		return func(t testing.TB, s *stored) { s.reseal(t, edit(slices.Clone(s.lines))) }
	}
	for _, test := range []struct {
		name string
		do   func(testing.TB, *stored)
		want string
	}{
		{"nothing", func(testing.TB, *stored) {}, ""},

		{"object gone", func(_ testing.TB, s *stored) { s.vault.Drop(object(s)) }, "missing"},
		{"manifest gone", func(_ testing.TB, s *stored) { s.vault.Drop(theManifest(s)) }, "manifest's missing"},
		{"both gone", func(_ testing.TB, s *stored) { s.vault.Drop(object(s)); s.vault.Drop(theManifest(s)) }, "missing, manifest's missing"},
		{"delete marker", func(_ testing.TB, s *stored) { s.vault.DeleteLatest(object(s)) }, "delete_marker"},
		{"delete marker on the manifest", func(_ testing.TB, s *stored) { s.vault.DeleteLatest(theManifest(s)) }, "manifest's delete_marker"},
		{"overwritten", func(_ testing.TB, s *stored) { s.vault.ForcePut(object(s), []byte("x")) }, "overwritten"},
		{"manifest overwritten", func(_ testing.TB, s *stored) { s.vault.ForcePut(theManifest(s), nil) }, "manifest's overwritten"},
		{"replaced", func(_ testing.TB, s *stored) { s.vault.Drop(object(s)); s.vault.ForcePut(object(s), []byte("x")) }, "overwritten, missing"},
		{"gone under a delete marker", func(_ testing.TB, s *stored) { s.vault.Drop(object(s)); s.vault.DeleteLatest(object(s)) }, "missing"},

		{"lock shortened", func(t testing.TB, s *stored) {
			s.vault.SetLock(object(s), "", archive.Compliance, s.m.RetainUntil.Add(-time.Second))
		}, "retain_until"},
		{"lock lifted", func(t testing.TB, s *stored) { s.vault.SetLock(object(s), "", "", time.Time{}) }, "mode, retain_until"},
		{"lock weakened", func(t testing.TB, s *stored) {
			s.vault.SetLock(theManifest(s), "", archive.Governance, s.m.RetainUntil)
		}, "manifest's mode"},
		{"lock lengthened", func(t testing.TB, s *stored) {
			s.vault.SetLock(object(s), "", archive.Compliance, s.m.RetainUntil.Add(time.Hour))
		}, ""},
		{"lock and the caller's date shortened", func(t testing.TB, s *stored) {
			s.x.RetainUntil = s.x.RetainUntil.Add(-time.Hour)
			s.vault.SetLock(object(s), "", archive.Compliance, s.x.RetainUntil)
		}, "retain_until"},
		{"the caller's date shortened", func(t testing.TB, s *stored) { s.x.RetainUntil = s.x.RetainUntil.Add(-time.Hour) }, ""},

		{"object empty", tamper(object, func([]byte) []byte { return nil }), "size, sha256, unreadable"},
		{"object grown", tamper(object, func(b []byte) []byte { return append(b, 0) }), "size, sha256, unreadable"},
		{"object sealed to another", func(t testing.TB, s *stored) { s.identity, _ = identity(t, "x25519") }, "unreadable"},
		{"manifest empty", tamper(theManifest, func([]byte) []byte { return nil }), "manifest's size, manifest's sha256, manifest"},
		{"manifest grown", tamper(theManifest, func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), 1<<20)...) }), "manifest's size, manifest's sha256"},
		{"manifest reworded", tamper(theManifest, func(b []byte) []byte { return bytes.Replace(b, []byte("run-1"), []byte("run-2"), 1) }), "manifest's sha256"},

		{"line changed", reseal(func(l [][]byte) [][]byte { l[5] = []byte("other"); return l }), "record_checksum 05"},
		{"first and last changed", reseal(func(l [][]byte) [][]byte { l[0], l[99] = []byte("a"), []byte("b"); return l }), "record_checksum 00, record_checksum 99"},
		{"neighbours changed", reseal(func(l [][]byte) [][]byte { l[5], l[6] = []byte("a"), []byte("b"); return l }), "record_checksum 05, record_checksum 06"},
		{"line dropped", reseal(func(l [][]byte) [][]byte { return slices.Delete(l, 5, 6) }), "record_missing 05"},
		{"first line dropped", reseal(func(l [][]byte) [][]byte { return l[1:] }), "record_missing 00"},
		{"last line dropped", reseal(func(l [][]byte) [][]byte { return l[:99] }), "record_missing 99"},
		{"half dropped", reseal(func(l [][]byte) [][]byte { return l[:97] }), "record_missing 97, record_missing 98, record_missing 99"},
		{"line added", reseal(func(l [][]byte) [][]byte { return slices.Insert(l, 5, []byte("new")) }), "record_extra"},
		{"line added at the end", reseal(func(l [][]byte) [][]byte { return append(l, []byte("new")) }), "record_extra"},
		{"line repeated", reseal(func(l [][]byte) [][]byte { return slices.Insert(l, 5, l[4]) }), "record_repeated 04"},
		{"line repeated at the end", reseal(func(l [][]byte) [][]byte { return append(l, l[4]) }), "record_repeated 04"},
		{"line in another's place", reseal(func(l [][]byte) [][]byte { l[5] = l[4]; return l }), "record_repeated 04, record_missing 05"},
		{"neighbours swapped", reseal(func(l [][]byte) [][]byte { return swap(l, 5, 6) }), "record_moved 05"},
		{"line moved back", reseal(func(l [][]byte) [][]byte { return slices.Concat(l[:5], l[6:], l[5:6]) }), "record_moved 05"},
		{"one dropped, one changed", reseal(func(l [][]byte) [][]byte {
			l[50] = []byte("x")
			return slices.Delete(l, 5, 6)
		}), "record_checksum 50, record_missing 05"},
		{"empty line added", reseal(func(l [][]byte) [][]byte { return append(l, nil) }), "record_extra"},

		{"manifest of another segment", func(t testing.TB, s *stored) {
			s.m.SegmentID, s.m.ObjectKey = "seg-other", archive.ObjectKey(s.m.Class, "seg-other")
			s.remanifest(t)
		}, "manifest, manifest"},
		{"manifest with another object", func(t testing.TB, s *stored) { s.m.ObjectSHA256[0]++; s.remanifest(t) }, "manifest"},
		{"manifest with another size", func(t testing.TB, s *stored) { s.m.ObjectSize++; s.remanifest(t) }, "manifest"},
		{"manifest with another plaintext", func(t testing.TB, s *stored) { s.m.PlaintextSHA256[0]++; s.m.Bytes++; s.remanifest(t) }, "plaintext, plaintext"},
		{"manifest with a later date", func(t testing.TB, s *stored) {
			s.m.RetainUntil = s.m.RetainUntil.Add(time.Hour)
			s.remanifest(t)
		}, "retain_until"},
		{"manifest with a changed checksum", func(t testing.TB, s *stored) {
			s.m.Entries[5].Checksum = archive.Hash(checksumOf(5)).String()
			s.m.Root = rootOf(s.m.Entries)
			s.remanifest(t)
		}, "manifest 05"},
		{"manifest that contradicts itself", func(t testing.TB, s *stored) { s.m.Root[0]++; s.remanifest(t) }, "manifest"},

		{"checksum changed in the database", func(_ testing.TB, s *stored) {
			s.x.Entries[5].Checksum = archive.Hash(checksumOf(5)).String()
		}, "record_checksum 05, manifest 05"},
		{"checksum broken in the database", func(_ testing.TB, s *stored) {
			s.x.Entries[5].Checksum = ""
		}, "record_checksum 05, manifest 05"},
		{"record missing in the database", func(_ testing.TB, s *stored) { s.x.Entries = s.x.Entries[:99] }, "record_extra, manifest"},
		{"record only in the database", func(_ testing.TB, s *stored) {
			s.x.Entries = append(s.x.Entries, archive.Entry{RecordID: "cte-100", Checksum: archive.Hash{}.String()})
		}, "record_missing cte-100, manifest"},
		{"object hash changed in the database", func(_ testing.TB, s *stored) { s.x.Object.SHA256[0]++ }, "sha256, sha256, manifest"},
		{"no version ids known", func(_ testing.TB, s *stored) { s.x.Object.VersionID, s.x.Manifest.VersionID = "", "" }, ""},
		{"no identity", func(_ testing.TB, s *stored) { s.identity = nil }, "not_decrypted"},
		{"no identity, and damaged", func(t testing.TB, s *stored) {
			s.identity = nil
			tamper(object, func(b []byte) []byte { b[300]++; return b })(t, s)
		}, "sha256, not_decrypted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := store(t, newVault(), "seg-a", 100)
			s.x.Entries = slices.Clone(s.x.Entries) // apart from the manifest's
			test.do(t, s)
			found := s.verify(t)
			if got := kinds(found); got != test.want {
				t.Errorf("found %q, want %q\n%+v", got, test.want, found)
			}
			for _, m := range found {
				if text := fmt.Sprint(m); strings.Contains(text, "FAC-001") || strings.Contains(text, "V1JBUFBF") {
					t.Errorf("a mismatch holds content: %s", text)
				}
			}
		})
	}
}

func rootOf(entries []archive.Entry) [32]byte {
	var sums [][32]byte
	for _, e := range entries {
		var h archive.Hash
		if err := h.UnmarshalText([]byte(e.Checksum)); err != nil {
			panic(err)
		}
		sums = append(sums, h)
	}
	return archive.Root(sums)
}

// Wherever an object or a manifest is cut or changed, it is found, with the
// identity and without.
func TestVerifyCopyFindsEveryByte(t *testing.T) {
	s := store(t, newVault(), "seg-a", 300)
	if found := s.verify(t); len(found) > 0 {
		t.Fatal(found)
	}
	identity := s.identity
	for _, file := range []archive.File{s.x.Object, s.x.Manifest} {
		var whole []byte
		if err := s.vault.Tamper(file.Key, "", func(b []byte) []byte { whole = b; return b }); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(whole); at += max(1, len(whole)/150) {
			flipped := bytes.Clone(whole)
			flipped[at] ^= 0x20
			for what, damaged := range map[string][]byte{"cut": whole[:at], "flip": flipped} {
				if err := s.vault.Tamper(file.Key, "", func([]byte) []byte { return damaged }); err != nil {
					t.Fatal(err)
				}
				for _, s.identity = range []age.Identity{identity, nil} {
					if found := s.verify(t); !strings.Contains(kinds(found), archive.KindSHA256) {
						t.Errorf("%s: %s at byte %d: found %q", file.Key, what, at, kinds(found))
					}
				}
			}
		}
		if err := s.vault.Tamper(file.Key, "", func([]byte) []byte { return whole }); err != nil {
			t.Fatal(err)
		}
	}
	s.identity = identity
	if found := s.verify(t); len(found) > 0 {
		t.Fatal(found)
	}
}

func TestVerifyCopyFindsSwappedSegments(t *testing.T) {
	vault := newVault()
	a, b := store(t, vault, "seg-a", 50), store(t, vault, "seg-b", 50)
	if err := vault.Swap(a.x.Object.Key, b.x.Object.Key); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*stored{a, b} {
		if got := kinds(s.verify(t)); !strings.HasSuffix(got, "sha256, unreadable") {
			t.Errorf("objects swapped: found %q", got)
		}
	}
	if err := errors.Join(vault.Swap(a.x.Object.Key, b.x.Object.Key), vault.Swap(a.x.Manifest.Key, b.x.Manifest.Key)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*stored{a, b} {
		if got := kinds(s.verify(t)); !strings.HasPrefix(got, "manifest's sha256, manifest") {
			t.Errorf("manifests swapped: found %q", got)
		}
	}
}

// Any edit of the lines is found, and an untouched record is not blamed for
// being missing or changed.
func TestVerifyCopyFindsAnyEdit(t *testing.T) {
	s := store(t, newVault(), "seg-a", 12)
	rapid.Check(t, func(rt *rapid.T) {
		edited := slices.Clone(s.lines)
		for range rapid.IntRange(1, 5).Draw(rt, "edits") {
			at := rapid.IntRange(0, len(edited)-1).Draw(rt, "at")
			switch rapid.SampledFrom([]string{"drop", "repeat", "swap", "change", "add"}).Draw(rt, "edit") {
			case "drop":
				if len(edited) > 1 {
					edited = slices.Delete(edited, at, at+1)
				}
			case "repeat":
				edited = slices.Insert(edited, rapid.IntRange(0, len(edited)).Draw(rt, "to"), edited[at])
			case "swap":
				to := rapid.IntRange(0, len(edited)-1).Draw(rt, "to")
				edited[at], edited[to] = edited[to], edited[at]
			case "change":
				edited[at] = append(slices.Clone(edited[at]), '.')
			case "add":
				edited = slices.Insert(edited, at, rapid.SliceOfN(rapid.ByteRange('a', 'z'), 0, 9).Draw(rt, "line"))
			}
		}
		s.reseal(t, edited)
		same := slices.EqualFunc(edited, s.lines, bytes.Equal)
		found := s.verify(t)
		if same != (len(found) == 0) {
			rt.Fatalf("same %v, but found %q", same, kinds(found))
		}
		for _, m := range found {
			there := slices.ContainsFunc(edited, func(line []byte) bool {
				return bytes.Contains(line, []byte(`"record_id":"`+m.RecordID+`"`)) && line[len(line)-1] != '.'
			})
			lost := m.Kind == archive.KindRecordMissing || m.Kind == archive.KindRecordChecksum
			if m.RecordID != "" && lost == there {
				rt.Fatalf("%s of %s, but its line is there: %v", m.Kind, m.RecordID, there)
			}
		}
	})
}

// An object without end does not fill the memory with findings.
func TestVerifyCopyStopsListening(t *testing.T) {
	s := store(t, newVault(), "seg-a", 10)
	s.reseal(t, append(slices.Clone(s.lines), slices.Repeat([][]byte{[]byte("x")}, 100_000)...))
	found := s.verify(t)
	if len(found) > 2000 || !strings.Contains(kinds(found), archive.KindUnreadable) {
		t.Errorf("%d findings", len(found))
	}
}

// faultyVault fails one kind of call.
type faultyVault struct {
	archive.Vault
	call string
}

var errUnreachable = errors.New("unreachable")

func (f faultyVault) Stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	if f.call == "stat" {
		return archive.ObjectInfo{}, errUnreachable
	}
	return f.Vault.Stat(ctx, key, versionID)
}

func (f faultyVault) Get(ctx context.Context, key, versionID string) (io.ReadCloser, archive.ObjectInfo, error) {
	r, info, err := f.Vault.Get(ctx, key, versionID)
	switch {
	case err != nil:
		return nil, info, err
	case f.call == "get":
		return nil, archive.ObjectInfo{}, errUnreachable
	case f.call == "stat":
		info.Mode = "" // so that Stat has to tell
	case f.call == "read":
		r = io.NopCloser(io.MultiReader(io.LimitReader(r, 250), iotest.ErrReader(errUnreachable)))
	}
	return r, info, nil
}

// A vault that cannot be asked is an error, never a finding.
func TestVerifyCopyErrors(t *testing.T) {
	s := store(t, newVault(), "seg-a", 10)
	for _, call := range []string{"stat", "get", "read"} {
		for _, identity := range []age.Identity{s.identity, nil} {
			found, err := archive.VerifyCopy(t.Context(), faultyVault{s.vault, call}, s.x, identity)
			if !errors.Is(err, errUnreachable) || len(found) > 0 {
				t.Errorf("%s: found %q, error %v", call, kinds(found), err)
			}
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err := archive.VerifyCopy(done, s.vault, s.x, s.identity); !errors.Is(err, context.Canceled) || len(found) > 0 {
		t.Errorf("context done: found %q, error %v", kinds(found), err)
	}
}

// A sound copy costs one request a file, and that tells also that the recorded
// versions are the current ones.
func TestVerifyCopyRequests(t *testing.T) {
	s := store(t, newVault(), "seg-a", 10)
	var calls []string
	counted := &vaulttest.Faulty{Vault: s.vault, Fault: func(method string) (before, after error) {
		calls = append(calls, method)
		return nil, nil
	}}
	if found, err := archive.VerifyCopy(t.Context(), counted, s.x, s.identity); err != nil || len(found) > 0 {
		t.Errorf("found %q, %v", kinds(found), err)
	}
	if want := []string{"Get", "Get"}; !slices.Equal(calls, want) {
		t.Errorf("calls are %v, want %v", calls, want)
	}
}

func BenchmarkVerifyCopy(b *testing.B) {
	s := store(b, newVault(), "seg-a", 20_000)
	b.ReportAllocs()
	for b.Loop() {
		if found := s.verify(b); len(found) > 0 {
			b.Fatal(found)
		}
	}
	b.ReportMetric(float64(len(s.lines)*b.N)/b.Elapsed().Seconds(), "lines/s")
}
