package archive_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/archive"
)

// lines makes records that look like what the archive is given: similar to
// each other, each with its own salt.
func lines(n int) (ids []string, out [][]byte) {
	for i := range n {
		salt := sha256.Sum256(fmt.Append(nil, "salt", i))
		ids = append(ids, fmt.Sprintf("cte-%05d", i))
		out = append(out, fmt.Appendf(nil,
			`{"v":1,"record_id":"cte-%05d","traceability_lot_code":"LOT-2022-%03d","kde_payload":{"facility":"FAC-001","quantity":%d},"salt":"%x"}`,
			i, i%100, i*7, salt[:16]))
	}
	return ids, out
}

func index(i int) json.RawMessage { return fmt.Appendf(nil, `{ "lot": "LOT-2022-%03d" }`, i%100) }

func identity(t testing.TB, kind string) (age.Identity, age.Recipient) {
	t.Helper()
	secret, recipient, err := archive.NewIdentity(kind)
	if err != nil {
		t.Fatal(err)
	}
	id, again, err := archive.ParseIdentity(secret)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(again) != fmt.Sprint(recipient) {
		t.Fatal("a parsed identity has another recipient")
	}
	return id, recipient
}

func seal(t testing.TB, recipient age.Recipient, ids []string, lines [][]byte) ([]byte, *archive.Sealed) {
	t.Helper()
	var object bytes.Buffer
	w, err := archive.NewWriter(&object, recipient)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines {
		if err := w.Write(ids[i], line, index(i)); err != nil {
			t.Fatal(err)
		}
	}
	sealed, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return object.Bytes(), sealed
}

// frame seals a plaintext as it is, for segments that the Writer would refuse
// to make.
func frame(t testing.TB, recipient age.Recipient, plaintext []byte) []byte {
	t.Helper()
	var object bytes.Buffer
	sealer, err := age.Encrypt(&object, recipient)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(sealer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enc.Write(plaintext); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(enc.Close(), sealer.Close()); err != nil {
		t.Fatal(err)
	}
	return object.Bytes()
}

func join(lines [][]byte) []byte { return append(bytes.Join(lines, []byte("\n")), '\n') }

// A segment has to open without this package, with public libraries and tools.
func TestOpensWithPublicTools(t *testing.T) {
	for _, kind := range []string{"hybrid", "x25519"} {
		t.Run(kind, func(t *testing.T) {
			id, recipient := identity(t, kind)
			ids, want := lines(3000)
			object, sealed := seal(t, recipient, ids, want)

			opened, err := age.Decrypt(bytes.NewReader(object), id)
			if err != nil {
				t.Fatal(err)
			}
			compressed, err := io.ReadAll(opened)
			if err != nil {
				t.Fatal(err)
			}
			dec, err := zstd.NewReader(bytes.NewReader(compressed))
			if err != nil {
				t.Fatal(err)
			}
			defer dec.Close()
			compareLines(t, dec, want, sealed)

			tool, err := exec.LookPath("zstd")
			if err != nil {
				t.Skip("no zstd on the path: only the library was tried")
			}
			cmd := exec.Command(tool, "-d", "-c")
			cmd.Stdin = bytes.NewReader(compressed)
			plain, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			compareLines(t, bytes.NewReader(plain), want, sealed)
		})
	}
}

func compareLines(t *testing.T, plain io.Reader, want [][]byte, sealed *archive.Sealed) {
	t.Helper()
	sum, n := sha256.New(), 0
	scanner := bufio.NewScanner(io.TeeReader(plain, sum))
	for ; scanner.Scan(); n++ {
		line := sha256.Sum256(scanner.Bytes())
		if got := hex.EncodeToString(line[:]); got != sealed.Entries[n].Checksum {
			t.Fatalf("line %d has SHA-256 %s, not its checksum %s", n, got, sealed.Entries[n].Checksum)
		}
		if !bytes.Equal(scanner.Bytes(), want[n]) {
			t.Fatalf("line %d came out changed", n)
		}
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	if n != len(want) {
		t.Fatalf("%d lines, want %d", n, len(want))
	}
	if [32]byte(sum.Sum(nil)) != sealed.PlaintextSHA256 {
		t.Fatal("plaintext has another SHA-256")
	}
}

func TestRoundTrip(t *testing.T) {
	id, recipient := identity(t, "x25519")
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(rt, "n")
		var ids []string
		var want [][]byte
		for i := range n {
			line := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "line")
			line = append(bytes.ReplaceAll(line, []byte("\n"), []byte("\r")), byte('0'+i%10), byte('0'+i/10))
			ids, want = append(ids, fmt.Sprintf("%d\u2028\"<%s", i, "é")), append(want, line)
		}
		object, sealed := seal(t, recipient, ids, want)
		var sums [][32]byte
		err := archive.ReadLines(bytes.NewReader(object), id, func(i int, line []byte) error {
			if i != len(sums) {
				rt.Fatalf("line %d came as %d", len(sums), i)
			}
			if !bytes.Equal(line, want[i]) {
				rt.Fatalf("line %d: got %q, want %q", i, line, want[i])
			}
			sums = append(sums, sha256.Sum256(line))
			return nil
		})
		if err != nil || len(sums) != n {
			rt.Fatalf("%d of %d lines, then %v", len(sums), n, err)
		}
		plain := join(want)
		if sealed.PlaintextSize != int64(len(plain)) || sealed.PlaintextSHA256 != sha256.Sum256(plain) ||
			sealed.ObjectSize != int64(len(object)) || sealed.ObjectSHA256 != sha256.Sum256(object) ||
			sealed.Root != archive.Root(sums) || len(sealed.Entries) != n {
			rt.Fatalf("sealed as %+v", sealed)
		}
	})
}

// The root is what the transparency log's own library computes.
func TestRootIsRFC6962(t *testing.T) {
	var sums [][32]byte
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for n := range 130 {
		want, err := tlog.TreeHash(int64(n), reader)
		if n == 0 {
			want, err = sha256.Sum256(nil), nil // RFC 6962, section 2.1; tlog has zeros
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := archive.Root(sums); got != want {
			t.Fatalf("root of %d checksums is %x, want %x", n, got, want)
		}
		sum := sha256.Sum256([]byte{byte(n)})
		hashes, err := tlog.StoredHashes(int64(n), sum[:], reader)
		if err != nil {
			t.Fatal(err)
		}
		sums, stored = append(sums, sum), append(stored, hashes...)
	}
}

func TestWriterRefuses(t *testing.T) {
	_, recipient := identity(t, "x25519")
	w, err := archive.NewWriter(io.Discard, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write("a", []byte("SECRET-line"), nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, id, line, index string
	}{
		{"a newline", "b", "SECRET\nline", ""},
		{"a newline at the end", "b", "SECRET-line\n", ""},
		{"no id", "", "SECRET-line", ""},
		{"an id that is not UTF-8", "b\xff", "SECRET-line2", ""},
		{"an id twice", "a", "SECRET-other", ""},
		{"a line twice", "b", "SECRET-line", ""},
		{"an index that is not JSON", "b", "SECRET-line2", "SECRET"},
		{"an index of two values", "b", "SECRET-line2", "1 2"},
		{"an index with a repeated name", "b", "SECRET-line2", `{"SECRET":1,"SECRET":2}`},
		{"an index that is not UTF-8", "b", "SECRET-line2", "\"SECRET\xff\""},
		{"a line that is too long", "b", strings.Repeat("x", archive.MaxLine+1), ""},
	} {
		err := w.Write(test.id, []byte(test.line), json.RawMessage(test.index))
		if err == nil {
			t.Errorf("%s was taken", test.name)
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error holds content: %v", test.name, err)
		}
	}
	// What was refused left no trace.
	if w.Records() != 1 || w.PlaintextBytes() != int64(len("SECRET-line\n")) {
		t.Errorf("%d records, %d bytes", w.Records(), w.PlaintextBytes())
	}
	sealed, err := w.Close()
	if err != nil || len(sealed.Entries) != 1 {
		t.Fatalf("Close: %+v, %v", sealed, err)
	}
	if err := w.Write("c", []byte("late"), nil); err == nil {
		t.Error("a closed segment took a line")
	}
	if _, err := w.Close(); err == nil {
		t.Error("a segment was closed twice")
	}
	if w, err = archive.NewWriter(io.Discard, recipient); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err == nil {
		t.Error("a segment without a line was closed")
	}
}

// failingWriter takes n bytes.
type failingWriter struct{ n int }

func (f *failingWriter) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

var errFull = errors.New("no space left")

func TestWriterReportsTheFirstError(t *testing.T) {
	_, recipient := identity(t, "x25519")
	ids, want := lines(3000)
	object, _ := seal(t, recipient, ids, want)
	for room := 0; room < len(object); room += len(object)/50 + 1 {
		w, err := archive.NewWriter(&failingWriter{room}, recipient)
		for i := 0; err == nil && i < len(want); i++ {
			err = w.Write(ids[i], want[i], nil)
		}
		if err == nil {
			_, err = w.Close()
		}
		if !errors.Is(err, errFull) {
			t.Fatalf("with room for %d of %d bytes: %v", room, len(object), err)
		}
		if w != nil {
			if _, err := w.Close(); !errors.Is(err, errFull) {
				t.Fatalf("a failed segment was closed: %v", err)
			}
		}
	}
}

func TestLongestLine(t *testing.T) {
	id, recipient := identity(t, "x25519")
	long := bytes.Repeat([]byte("x"), archive.MaxLine)
	object, _ := seal(t, recipient, []string{"a", "b"}, [][]byte{long, []byte("after")})
	var n int
	err := archive.ReadLines(bytes.NewReader(object), id, func(_ int, line []byte) error {
		n += len(line)
		return nil
	})
	if err != nil || n != archive.MaxLine+5 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	object = frame(t, recipient, append(long, "x\n"...))
	if err := archive.ReadLines(bytes.NewReader(object), id, nothing); !errors.Is(err, archive.ErrCorrupt) {
		t.Fatalf("a longer line: %v", err)
	}
}

func nothing(int, []byte) error { return nil }

// Every cut and every changed byte is noticed, and what was passed on before it
// is genuine.
func TestReadLinesNoticesDamage(t *testing.T) {
	for _, kind := range []string{"hybrid", "x25519"} {
		t.Run(kind, func(t *testing.T) {
			id, recipient := identity(t, kind)
			ids, want := lines(6000) // several age chunks, several zstd blocks
			object, _ := seal(t, recipient, ids, want)
			genuine := func(n int, line []byte) error {
				if n >= len(want) || !bytes.Equal(line, want[n]) {
					t.Errorf("line %d is not genuine", n)
				}
				return nil
			}
			read := func(what string, at int, damaged []byte) {
				t.Helper()
				if err := archive.ReadLines(bytes.NewReader(damaged), id, genuine); !errors.Is(err, archive.ErrCorrupt) {
					t.Errorf("%s at byte %d of %d: %v", what, at, len(object), err)
				}
			}
			step := len(object)/300 + 1
			for at := 0; at < len(object); at++ {
				edge := at < 200 || at > len(object)-200 || at%(64<<10) < 3
				if at%step != 0 && !edge {
					continue
				}
				read("cut", at, object[:at])
				flipped := bytes.Clone(object)
				flipped[at] ^= 1
				read("flip", at, flipped)
			}
			read("more", len(object), append(bytes.Clone(object), 'x'))
			read("twice", len(object), append(bytes.Clone(object), object...))
			if err := archive.ReadLines(bytes.NewReader(object), id, genuine); err != nil {
				t.Fatal(err)
			}
			other, _ := identity(t, kind)
			if err := archive.ReadLines(bytes.NewReader(object), other, nothing); !errors.Is(err, archive.ErrCorrupt) {
				t.Errorf("another identity: %v", err)
			}
		})
	}
}

// A segment made of two zstd frames, the first of which ends with an age chunk,
// and cut there: zstd by itself would see nothing wrong.
func TestCutBetweenFrames(t *testing.T) {
	id, recipient := identity(t, "x25519")
	const chunk = 64 << 10
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderPadding(chunk))
	if err != nil {
		t.Fatal(err)
	}
	frames := enc.EncodeAll([]byte("first\n"), nil)
	if len(frames) != chunk {
		t.Fatalf("the first frame has %d bytes", len(frames))
	}
	frames = enc.EncodeAll([]byte("second\n"), frames)
	var object bytes.Buffer
	sealer, err := age.Encrypt(&object, recipient)
	if err != nil {
		t.Fatal(err)
	}
	header := object.Len() // with its nonce
	if _, err := sealer.Write(frames); err != nil {
		t.Fatal(err)
	}
	if err := sealer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := archive.ReadLines(bytes.NewReader(object.Bytes()), id, nothing); err != nil {
		t.Fatalf("the whole: %v", err)
	}
	n := 0
	cut := object.Bytes()[:header+chunk+16] // a chunk and its tag
	err = archive.ReadLines(bytes.NewReader(cut), id, func(int, []byte) error { n++; return nil })
	if !errors.Is(err, archive.ErrCorrupt) || n != 1 {
		t.Fatalf("%d lines, then %v", n, err)
	}
}

func TestReadLinesTellsErrorsApart(t *testing.T) {
	id, recipient := identity(t, "x25519")
	ids, want := lines(3000)
	object, _ := seal(t, recipient, ids, want)
	boom := errors.New("boom")

	if err := archive.ReadLines(bytes.NewReader(object), id, func(n int, _ []byte) error {
		if n == 7 {
			return boom
		}
		return nil
	}); err != boom {
		t.Errorf("the callback's error came back as %v", err)
	}
	for _, at := range []int{0, 100, len(object) / 2, len(object) - 1} {
		r := io.MultiReader(bytes.NewReader(object[:at]), iotest.ErrReader(boom))
		if err := archive.ReadLines(r, id, nothing); !errors.Is(err, boom) || errors.Is(err, archive.ErrCorrupt) {
			t.Errorf("the reader's error at byte %d came back as %v", at, err)
		}
	}
	for name, plaintext := range map[string]string{"no last newline": "a\nb", "only a part": "a", "nothing": ""} {
		if err := archive.ReadLines(bytes.NewReader(frame(t, recipient, []byte(plaintext))), id, nothing); !errors.Is(err, archive.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := archive.ReadLines(iotest.OneByteReader(bytes.NewReader(object)), id, nothing); err != nil {
		t.Errorf("byte by byte: %v", err)
	}
}

func TestIdentities(t *testing.T) {
	if _, _, err := archive.NewIdentity("rsa"); err == nil {
		t.Error("an unknown kind was made")
	}
	secret, _, err := archive.NewIdentity("hybrid")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "x", secret[:len(secret)-1], secret + "Q", strings.ToLower(secret[:30]) + secret[30:], " " + secret} {
		_, _, err := archive.ParseIdentity(bad)
		if err == nil {
			t.Errorf("%.10q… was taken for an identity", bad)
		} else if err.Error() != "not an age identity" {
			t.Errorf("the error may hold key material: %v", err)
		}
	}
}

// Fifty segments, one after the other, need no more memory than one.
func TestSegmentsReuseMemory(t *testing.T) {
	id, recipient := identity(t, "x25519")
	ids, want := lines(500)
	heap := func(segments int) uint64 {
		for range segments {
			object, _ := seal(t, recipient, ids, want)
			if err := archive.ReadLines(bytes.NewReader(object), id, nothing); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	one := heap(1)
	if fifty := heap(50); fifty > one+8<<20 {
		t.Errorf("the heap has %d bytes after one segment, %d after fifty more", one, fifty)
	}
}

func FuzzReadLines(f *testing.F) {
	id, recipient := identity(f, "x25519")
	ids, want := lines(20)
	object, _ := seal(f, recipient, ids, want)
	f.Add(object)
	f.Add(object[:len(object)/2])
	f.Add([]byte("age-encryption.org/v1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// As an object it has to fail, unless it is the object.
		if err := archive.ReadLines(bytes.NewReader(b), id, nothing); err == nil && !bytes.Equal(b, object) {
			t.Fatal("something else opened")
		} else if err != nil && !errors.Is(err, archive.ErrCorrupt) {
			t.Fatal(err)
		}
		// As a zstd stream that somebody with the recipient sealed, and as the
		// lines of one, it must not do harm.
		var inner bytes.Buffer
		sealer, err := age.Encrypt(&inner, recipient)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = sealer.Write(b)
		_ = sealer.Close()
		if err := archive.ReadLines(&inner, id, nothing); err != nil && !errors.Is(err, archive.ErrCorrupt) {
			t.Fatal(err)
		}
		var got []byte
		err = archive.ReadLines(bytes.NewReader(frame(t, recipient, b)), id, func(_ int, line []byte) error {
			got = append(append(got, line...), '\n')
			return nil
		})
		if whole := len(b) > 0 && b[len(b)-1] == '\n'; whole != (err == nil) {
			t.Fatalf("plaintext %q: %v", b, err)
		} else if whole && !bytes.Equal(got, b) {
			t.Fatalf("plaintext %q came out as %q", b, got)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	_, recipient := identity(b, "hybrid")
	ids, want := lines(20_000)
	b.ReportAllocs()
	for b.Loop() {
		seal(b, recipient, ids, want)
	}
	b.ReportMetric(float64(len(want)*b.N)/b.Elapsed().Seconds(), "lines/s")
}

func BenchmarkReadLines(b *testing.B) {
	id, recipient := identity(b, "hybrid")
	ids, want := lines(20_000)
	object, _ := seal(b, recipient, ids, want)
	b.ReportAllocs()
	for b.Loop() {
		if err := archive.ReadLines(bytes.NewReader(object), id, nothing); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(want)*b.N)/b.Elapsed().Seconds(), "lines/s")
}
