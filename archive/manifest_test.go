package archive_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/archive"
)

func checksumOf(i int) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }

func manifest(n int) *archive.Manifest {
	m := &archive.Manifest{
		Format: archive.ManifestFormat, SegmentID: "seg-01J", Class: "2028-11",
		Records: n, Bytes: 1000 * int64(n), ObjectKey: "segments/2028-11/seg-01J.age", ObjectSize: 4711,
		ObjectSHA256: sha256.Sum256([]byte("object")), PlaintextSHA256: sha256.Sum256([]byte("plaintext")),
		WrappedIdentity: []byte("WRAPPED-IDENTITY"), Recipient: "age1abc",
		RetainUntil: time.Date(2028, 12, 1, 0, 0, 0, 0, time.UTC),
		CreatedAt:   time.Date(2026, 11, 21, 9, 0, 0, 123456789, time.UTC),
		Policy:      "default", PolicyHash: "sha256:00", Cutoff: "2026-11-21T09:00:00Z - 730 d = 2024-11-21T09:00:00Z",
		Sweeper: "root@host <x&y>", RunID: "run-1", Software: "lotkeeper v0",
	}
	var sums [][32]byte
	for i := range n {
		sum := checksumOf(i)
		sums = append(sums, sum)
		m.Entries = append(m.Entries, archive.Entry{
			RecordID: fmt.Sprintf("cte-%d", i), Checksum: archive.Hash(sum).String(),
			Index: json.RawMessage(fmt.Sprintf(`{"lot":"L<%d>","n":106141412345678908,"q":1200.50}`, i)),
		})
	}
	m.Root = archive.Root(sums)
	return m
}

const golden = `{
  "format": "lotkeeper-manifest/v1",
  "segment": "seg-01J",
  "class": "2028-11",
  "records": 2,
  "plaintext_bytes": 2000,
  "object_key": "segments/2028-11/seg-01J.age",
  "object_bytes": 4711,
  "object_sha256": "2958d416d08aa5a472d7b509036cb7eafd542add84527e66a145ea64cb4cdc75",
  "plaintext_sha256": "96d62e2abd3e42de5f50330fb8efc4c5599835278077b21e9aa0b33c1df07a1c",
  "merkle_root": "bbb441530bdded54e6e2bfcdc829819ff39b30768eb9f023071dffc16b410f10",
  "wrapped_identity": "V1JBUFBFRC1JREVOVElUWQ==",
  "recipient": "age1abc",
  "retain_until": "2028-12-01T00:00:00Z",
  "created_at": "2026-11-21T09:00:00.123456789Z",
  "policy": "default",
  "policy_hash": "sha256:00",
  "cutoff": "2026-11-21T09:00:00Z - 730 d = 2024-11-21T09:00:00Z",
  "sweeper": "root@host <x&y>",
  "run_id": "run-1",
  "software": "lotkeeper v0",
  "entries": [
    {"record_id":"cte-0","checksum":"5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9","index":{"lot":"L<0>","n":106141412345678908,"q":1200.50}},
    {"record_id":"cte-1","checksum":"6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b","index":{"lot":"L<1>","n":106141412345678908,"q":1200.50}}
  ]
}
`

// The format is a promise: a change of this text is a change of its version.
func TestManifestGolden(t *testing.T) {
	if got := string(manifest(2).Encode()); got != golden {
		t.Errorf("got\n%s\nwant\n%s", got, golden)
	}
	m, err := archive.ParseManifest([]byte(golden))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.Entries[1].Index); got != `{"lot":"L<1>","n":106141412345678908,"q":1200.50}` {
		t.Errorf("the index came back as %s", got)
	}
	if m.RetainUntil != time.Date(2028, 12, 1, 0, 0, 0, 0, time.UTC) || string(m.WrappedIdentity) != "WRAPPED-IDENTITY" {
		t.Errorf("parsed as %+v", m)
	}
	// It opens with any JSON library, too.
	var any map[string]any
	if err := json.Unmarshal([]byte(golden), &any); err != nil || len(any) != 21 {
		t.Errorf("%d fields, %v", len(any), err)
	}
}

func TestManifestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := manifest(rapid.IntRange(1, 20).Draw(t, "n"))
		m.Sweeper = rapid.String().Draw(t, "sweeper")
		m.Cutoff = rapid.String().Draw(t, "cutoff")
		m.WrappedIdentity = rapid.SliceOf(rapid.Byte()).Draw(t, "wrapped")
		for i := range m.Entries {
			m.Entries[i].RecordID = fmt.Sprint(i, rapid.String().Draw(t, "id"))
			if rapid.Bool().Draw(t, "no index") {
				m.Entries[i].Index = nil
			}
		}
		b := m.Encode()
		again, err := archive.ParseManifest(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Encode(), b) {
			t.Fatal("encoded differently")
		}
		if lines := bytes.Count(b, []byte("\n")); lines != 24+len(m.Entries) {
			t.Fatalf("%d lines for %d entries: not one each", lines, len(m.Entries))
		}
	})
}

// Whatever the Writer makes of an index, the manifest takes and gives back.
func TestManifestTakesWhatTheWriterMakes(t *testing.T) {
	_, recipient := identity(t, "x25519")
	for _, index := range []string{
		`null`, `""`, `0`, `1.50e+3`, ` { "a" : [ 1 , 2 ] , "b":"\u00e9\/<" } `, "[\n1,\n\t2]", `{"a":{"a":1}}`, "\"\u2028\"",
	} {
		var object bytes.Buffer
		w, err := archive.NewWriter(&object, recipient)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write("a", []byte("line"), json.RawMessage(index)); err != nil {
			t.Errorf("index %s: %v", index, err)
			continue
		}
		sealed, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		m := manifest(1)
		m.Entries, m.Root = sealed.Entries, sealed.Root
		again, err := archive.ParseManifest(m.Encode())
		if err != nil {
			t.Errorf("index %s: %v", index, err)
		} else if !bytes.Equal(again.Entries[0].Index, sealed.Entries[0].Index) {
			t.Errorf("index %s came back as %s", sealed.Entries[0].Index, again.Entries[0].Index)
		}
	}
}

func TestParseManifestIsStrict(t *testing.T) {
	replace := func(from, to string) string {
		out := strings.Replace(golden, from, to, 1)
		if out == golden {
			panic("no " + from)
		}
		return out
	}
	first := golden[strings.Index(golden, `    {"record_id":"cte-0"`):strings.Index(golden, `    {"record_id":"cte-1"`)]
	for name, b := range map[string]string{
		"empty":                    "",
		"not JSON":                 "WRAPPED",
		"null":                     "null",
		"an array":                 "[]",
		"an empty object":          "{}",
		"two values":               golden + golden,
		"a byte more":              golden + "\n",
		"a byte less":              golden[:len(golden)-1],
		"a space more":             replace(`: 2,`, `:  2,`),
		"CRLF":                     strings.ReplaceAll(golden, "\n", "\r\n"),
		"a BOM":                    "\ufeff" + golden,
		"another format":           replace("manifest/v1", "manifest/v2"),
		"an unknown field":         replace(`"format"`, `"extra": 1, "format"`),
		"a field in capitals":      replace(`"class"`, `"Class"`),
		"a field twice":            replace(`  "class": "2028-11",`+"\n", `  "class": "2028-11",`+"\n"+`  "class": "2028-11",`+"\n"),
		"a field missing":          replace(`  "cutoff": "2026-11-21T09:00:00Z - 730 d = 2024-11-21T09:00:00Z",`+"\n", ""),
		"fields in another order":  replace(`"policy": "default",`+"\n"+`  "policy_hash": "sha256:00"`, `"policy_hash": "sha256:00",`+"\n"+`  "policy": "default"`),
		"an escape":                replace("age1abc", `\u0061ge1abc`),
		"invalid UTF-8":            replace("root@host", "root\xff"),
		"an offset":                replace(`28-12-01T00:00:00Z`, `28-12-01T01:00:00+01:00`),
		"no time":                  replace(`"2028-12-01T00:00:00Z"`, `null`),
		"the zero time":            replace(`2028-12-01T00:00:00Z`, `0001-01-01T00:00:00Z`),
		"hex in capitals":          replace("2958d416", "2958D416"),
		"hex too short":            replace("2958d416", "2958d4"),
		"a checksum in capitals":   replace("5feceb66", "5FECEB66"),
		"a checksum changed":       replace("5feceb66", "5feceb67"),
		"the root changed":         replace(`"merkle_root": "`, `"merkle_root": "0`),
		"the count changed":        replace(`"records": 2`, `"records": 3`),
		"the count as a string":    replace(`"records": 2`, `"records": "2"`),
		"the count as a float":     replace(`"records": 2`, `"records": 2.0`),
		"too few bytes":            replace(`"plaintext_bytes": 2000`, `"plaintext_bytes": 1`),
		"negative bytes":           replace(`"plaintext_bytes": 2000`, `"plaintext_bytes": -2000`),
		"no object bytes":          replace(`"object_bytes": 4711`, `"object_bytes": 0`),
		"another object's key":     replace("segments/2028-11/seg-01J.age", "segments/2028-11/seg-01K.age"),
		"a class with dots":        strings.ReplaceAll(golden, "2028-11/", "../"),
		"a segment with a slash":   strings.ReplaceAll(golden, "seg-01J", "seg/01J"),
		"a segment with a dot":     strings.ReplaceAll(golden, "seg-01J", "seg.01J"),
		"an entry dropped":         replace(first, ""),
		"an entry twice":           replace(first, first+first),
		"entries null":             golden[:strings.Index(golden, "[")] + "null\n}\n",
		"an id twice":              replace("cte-1", "cte-0"),
		"an empty id":              replace("cte-1", ""),
		"an index with spaces":     replace(`{"lot":"L<0>"`, `{ "lot":"L<0>"`),
		"an index with twin names": replace(`"n":1`, `"lot":1`),
		"an unknown entry field":   replace(`,"index":{"lot":"L<0>"`, `,"x":1,"index":{"lot":"L<0>"`),
		"base64 unpadded":          replace("UWQ==", "UWQ"),
		"base64 with loose bits":   replace("UWQ==", "UWR=="),
		"base64 broken":            replace("V1JBUFBFRC1JREVOVElUWQ==", "V1JBUFBFRC1J*"),
		"the identity an object":   replace(`"V1JBUFBFRC1JREVOVElUWQ=="`, `{"WRAPPED":"WRAPPED"}`),
	} {
		m, err := archive.ParseManifest([]byte(b))
		if err == nil || m != nil {
			t.Errorf("%s: was parsed", name)
			continue
		}
		for _, secret := range []string{"WRAPPED", "V1JBUFBF"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error holds key material: %v", name, err)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	for _, class := range []string{"2028-11", "archive/2028-11/1"} {
		for _, key := range []string{archive.ObjectKey(class, "seg-01J"), archive.ManifestKey(class, "seg-01J")} {
			if err := archive.ValidKey(key); err != nil {
				t.Error(err)
			}
		}
	}
	if got := archive.ObjectKey("2028-11", "seg-01J"); got != "segments/2028-11/seg-01J.age" {
		t.Error(got)
	}
	if got := archive.ManifestKey("2028-11", "seg-01J"); got != "manifests/2028-11/seg-01J.json" {
		t.Error(got)
	}
}

func TestWholeSecond(t *testing.T) {
	second := time.Date(2028, 2, 29, 23, 59, 59, 0, time.UTC)
	for _, test := range []struct{ in, want time.Time }{
		{second, second},
		{second.Add(1), second.Add(time.Second)},
		{second.Add(-1), second},
		{second.Add(time.Second - 1), second.Add(time.Second)},
		{second.In(time.FixedZone("", 5*3600+1800)), second},
		{time.Unix(-1, 1), time.Unix(0, 0).UTC()}, // up is up also before 1970
	} {
		if got := archive.WholeSecond(test.in); got != test.want {
			t.Errorf("WholeSecond(%v) = %v, want %v", test.in, got, test.want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(golden))
	f.Add(manifest(1).Encode())
	f.Add([]byte(`{"format":"lotkeeper-manifest/v1","entries":[{"record_id":"a","index":null}]}`))
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte(golden))))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := archive.ParseManifest(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Fatalf("%q parses, and encodes as %q", b, m.Encode())
		}
		if err := archive.ValidKey(m.ObjectKey); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzValidKey(f *testing.F) {
	for _, key := range []string{"a", "segments/2028-11/seg.age", "..", "a//b", "/a", "a/", "a/../b", "\x00"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if archive.ValidKey(key) != nil {
			return
		}
		if len(key) > 1024 || strings.HasPrefix(key, "/") || strings.Contains("/"+key+"/", "/./") ||
			strings.Contains("/"+key+"/", "/../") || strings.Contains(key+"/", "//") || strings.ContainsAny(key, "\x00\\\n") {
			t.Fatalf("%q is valid", key)
		}
		for _, element := range strings.Split(key, "/") {
			if len(element) >= 255 {
				t.Fatalf("%q is valid", key)
			}
		}
	})
}

func BenchmarkManifest(b *testing.B) {
	m := manifest(20_000)
	encoded := m.Encode()
	b.Run("Encode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(encoded)))
		for b.Loop() {
			m.Encode()
		}
	})
	b.Run("Parse", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(encoded)))
		for b.Loop() {
			if _, err := archive.ParseManifest(encoded); err != nil {
				b.Fatal(err)
			}
		}
	})
}
