package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const anEntry = `{"v":1,"at":"2026-11-24T01:02:03.000000004Z","actor":"a<b","role":"","software":"s","action":"archived","run_id":"","subject":"","body":{"n":1.50}}`

func TestParseEntryRefuses(t *testing.T) {
	e, err := ParseEntry([]byte(anEntry))
	if err != nil || e.Actor != "a<b" || string(e.Body) != `{"n":1.50}` || !e.At.Equal(time.Date(2026, 11, 24, 1, 2, 3, 4, time.UTC)) {
		t.Fatalf("%+v, %v", e, err)
	}
	swap := func(old, new string) string {
		if !strings.Contains(anEntry, old) {
			t.Fatalf("no %s", old)
		}
		return strings.Replace(anEntry, old, new, 1)
	}
	sum := strings.Repeat("0a", 32)
	for name, bad := range map[string]string{
		"nothing":             "",
		"null":                "null",
		"array":               "[]",
		"trailing":            anEntry + "\n",
		"two":                 anEntry + anEntry,
		"white space":         swap(`"v":1,`, `"v":1, `),
		"white space in body": swap(`{"n"`, `{ "n"`),
		"version":             swap(`"v":1`, `"v":2`),
		"no version":          swap(`"v":1,`, ``),
		"another field":       swap(`"v":1`, `"v":1,"w":1`),
		"field twice":         swap(`"role":""`, `"role":"","role":""`),
		"missing field":       swap(`"role":"",`, ``),
		"order":               swap(`"actor":"a<b","role":""`, `"role":"","actor":"a<b"`),
		"case":                swap(`"actor"`, `"Actor"`),
		"escape":              swap(`a<b`, `a\u003cb`),
		"time without zeros":  swap(`.000000004Z`, `Z`),
		"time zone":           swap(`.000000004Z`, `.000000004+00:00`),
		"number for text":     swap(`"a<b"`, `1`),
		"null for text":       swap(`"a<b"`, `null`),
		"hash of no length":   swap(`"body":{"n":1.50}`, `"body_sha256":"0a"`),
		"hash in capitals":    swap(`"body":{"n":1.50}`, `"body_sha256":"`+strings.ToUpper(sum)+`"`),
		"both bodies":         swap(`"body":{"n":1.50}`, `"body":{"n":1.50},"body_sha256":"`+sum+`"`),
		"long inline body":    swap(`1.50`, strings.Repeat("1", maxInline)),
	} {
		if e, err := ParseEntry([]byte(bad)); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if e, err := ParseEntry([]byte(swap(`"body":{"n":1.50}`, `"body_sha256":"`+sum+`"`))); err != nil || e.BodySHA256 != sum || e.Body != nil {
		t.Errorf("detached: %+v, %v", e, err)
	}
}

// What log-format.md says of strings.
func TestEscapes(t *testing.T) {
	e := Entry{Actor: "\"\\/\b\f\n\r\t\x00\x1f\x7f\u2028\u2029\xff<&>é"}
	raw, _, err := e.Marshal()
	if want := `"actor":"\"\\/\b\f\n\r\t\u0000\u001f` + "\x7f" + `\u2028\u2029\ufffd<&>é"`; err != nil || !bytes.Contains(raw, []byte(want)) {
		t.Errorf("%s, %v, want %s", raw, err, want)
	}
}

// What Marshal writes ParseEntry reads, whatever the strings are.
func TestParseEntryReadsWhatMarshalWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 20), func(b []byte) string { return string(b) }),
			rapid.SampledFrom([]string{"\xff", `\ufffd`, "\ufffd\xff", "\u2028<&>", "\x00"}))
		e := Entry{At: time.Unix(rapid.Int64Range(-1e9, 1e11).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(),
			Actor: text.Draw(t, "actor"), Role: text.Draw(t, "role"), Software: text.Draw(t, "software"), Action: text.Draw(t, "action"), RunID: text.Draw(t, "run"), Subject: text.Draw(t, "subject"),
			Body: rapid.SampledFrom([]json.RawMessage{nil, []byte(`null`), []byte(`"\ufffd"`), []byte("\"\xff\""), []byte(` { "a" : [ 1.0 , "<" ] } `), []byte(`"` + strings.Repeat("x", maxInline-2) + `"`), []byte(`"` + strings.Repeat("x", maxInline-1) + `"`)}).Draw(t, "body")}
		raw, detached, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseEntry(raw)
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if (detached != nil) != (len(e.Body) > maxInline) || (got.BodySHA256 != "") != (detached != nil) {
			t.Fatalf("detached %d bytes, entry says %q", len(detached), got.BodySHA256)
		}
		if detached != nil {
			if err := got.attach(raw, detached); err != nil {
				t.Fatal(err)
			}
			if err := got.attach(raw, append(detached, ' ')); err == nil {
				t.Fatal("another body is taken")
			}
			e.BodySHA256 = got.BodySHA256
		}
		if e.Body != nil {
			var b bytes.Buffer
			if err := json.Compact(&b, e.Body); err != nil {
				t.Fatal(err)
			}
			e.Body = b.Bytes()
		}
		for _, s := range []*string{&e.Actor, &e.Role, &e.Software, &e.Action, &e.RunID, &e.Subject} {
			*s = string([]rune(*s)) // each byte that is no UTF-8 becomes U+FFFD
		}
		if !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v, want %+v", got, e)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(anEntry))
	f.Add([]byte(`{"v":1,"at":"0001-01-01T00:00:00.000000000Z","actor":"\ufffd","role":"\\ufffd","software":"","action":"","run_id":"","subject":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := ParseEntry(raw)
		if err != nil {
			if !errors.Is(err, ErrEntry) {
				t.Fatal(err)
			}
			return
		}
		again, detached, err := e.Marshal()
		if err != nil || detached != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if !bytes.Equal(again, raw) && !bytes.Contains(raw, []byte(`\ufffd`)) {
			t.Fatalf("%q is read, and is written as %q", raw, again)
		}
		if e2, err := ParseEntry(again); err != nil || !reflect.DeepEqual(e, e2) {
			t.Fatalf("%+v, %v", e2, err)
		}
	})
}

func BenchmarkParseEntry(b *testing.B) {
	for b.Loop() {
		if _, err := ParseEntry([]byte(anEntry)); err != nil {
			b.Fatal(err)
		}
	}
}
