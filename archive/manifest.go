package archive

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ManifestFormat names the format that Encode writes and ParseManifest reads.
const ManifestFormat = "lotkeeper-manifest/v1"

// A Hash is a SHA-256, written as 64 lower-case hex digits.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the 64 digits.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText accepts exactly what MarshalText writes.
func (h *Hash) UnmarshalText(text []byte) error {
	sum, ok := parseHash(string(text))
	if !ok {
		return errors.New("not 64 lower-case hex digits")
	}
	*h = sum
	return nil
}

func parseHash(s string) (sum Hash, ok bool) {
	if len(s) != 2*len(sum) {
		return sum, false
	}
	if _, err := hex.Decode(sum[:], []byte(s)); err != nil {
		return sum, false
	}
	return sum, sum.is(s) // hex.Decode also takes upper case
}

// is reports whether s is the hash's text, without making one.
func (h Hash) is(s string) bool {
	var text [2 * len(h)]byte
	hex.Encode(text[:], h[:])
	return string(text[:]) == s
}

// A Manifest lies beside a segment in every vault and says, in plain JSON, what
// the segment holds and why it was made. It holds no KDEs and, beside the
// wrapped identity, no key material. segment-format.md describes each field.
type Manifest struct {
	Format          string    `json:"format"`
	SegmentID       string    `json:"segment"`
	Class           string    `json:"class"` // archive class
	Records         int       `json:"records"`
	Bytes           int64     `json:"plaintext_bytes"`
	ObjectKey       string    `json:"object_key"`
	ObjectSize      int64     `json:"object_bytes"`
	ObjectSHA256    Hash      `json:"object_sha256"`
	PlaintextSHA256 Hash      `json:"plaintext_sha256"`
	Root            Hash      `json:"merkle_root"`
	WrappedIdentity []byte    `json:"wrapped_identity"` // base64 in JSON
	Recipient       string    `json:"recipient"`
	RetainUntil     time.Time `json:"retain_until"` // when sealed; a vault's own may be later
	CreatedAt       time.Time `json:"created_at"`
	Policy          string    `json:"policy"`
	PolicyHash      string    `json:"policy_hash"`
	Cutoff          string    `json:"cutoff"` // the exact arithmetic
	Sweeper         string    `json:"sweeper"`
	RunID           string    `json:"run_id"`
	Software        string    `json:"software"`
	Entries         []Entry   `json:"entries"`
}

// ObjectKey is the key of a segment's object in every vault.
func ObjectKey(class, segmentID string) string {
	return ObjectPrefix + class + "/" + segmentID + ".age"
}

// ObjectPrefix is what the keys of all segments start with, and no others.
const ObjectPrefix = "segments/"

// ManifestKey is the key of a segment's manifest in every vault.
//
// A segment id is a name and a class one or several, separated by slashes (see
// [ParseManifest]). Names have no dots and keys end in one with an extension, so
// no key is a path prefix of another, which some stores cannot hold.
func ManifestKey(class, segmentID string) string {
	return "manifests/" + class + "/" + segmentID + ".json"
}

// Encode returns the manifest's one canonical form, ending in a newline. The
// manifest has to be one that [ParseManifest] would accept: with Format set,
// Index values as [Writer] made them, and all strings in UTF-8.
func (m *Manifest) Encode() []byte {
	var b bytes.Buffer
	size := 2048
	for _, e := range m.Entries {
		size += len(e.RecordID) + len(e.Checksum) + len(e.Index) + 64
	}
	b.Grow(size)
	_, _ = m.WriteTo(&b) // a Buffer does not fail
	return b.Bytes()
}

// WriteTo writes what Encode returns.
func (m *Manifest) WriteTo(w io.Writer) (int64, error) {
	out := &manifestWriter{w: bufio.NewWriterSize(w, 64<<10)}
	out.raw("{\n")
	out.text("format", m.Format)
	out.text("segment", m.SegmentID)
	out.text("class", m.Class)
	out.number("records", int64(m.Records))
	out.number("plaintext_bytes", m.Bytes)
	out.text("object_key", m.ObjectKey)
	out.number("object_bytes", m.ObjectSize)
	out.text("object_sha256", m.ObjectSHA256.String())
	out.text("plaintext_sha256", m.PlaintextSHA256.String())
	out.text("merkle_root", m.Root.String())
	out.text("wrapped_identity", base64.StdEncoding.EncodeToString(m.WrappedIdentity))
	out.text("recipient", m.Recipient)
	out.text("retain_until", m.RetainUntil.UTC().Format(time.RFC3339Nano))
	out.text("created_at", m.CreatedAt.UTC().Format(time.RFC3339Nano))
	out.text("policy", m.Policy)
	out.text("policy_hash", m.PolicyHash)
	out.text("cutoff", m.Cutoff)
	out.text("sweeper", m.Sweeper)
	out.text("run_id", m.RunID)
	out.text("software", m.Software)
	// One entry a line, so that grep finds a record and prints all of it.
	out.raw("  \"entries\": [")
	for i, e := range m.Entries {
		if i > 0 {
			out.raw(",")
		}
		out.raw("\n    {\"record_id\":")
		out.quote(e.RecordID)
		out.raw(",\"checksum\":")
		out.quote(e.Checksum)
		if len(e.Index) > 0 {
			out.raw(",\"index\":")
			n, _ := out.w.Write(e.Index)
			out.n += int64(n)
		}
		out.raw("}")
	}
	out.raw("\n  ]\n}\n")
	return out.n, out.w.Flush()
}

// A manifestWriter leaves errors to its bufio.Writer, which keeps the first.
type manifestWriter struct {
	w       *bufio.Writer
	n       int64
	scratch []byte
}

func (o *manifestWriter) raw(s string) {
	n, _ := o.w.WriteString(s)
	o.n += int64(n)
}

func (o *manifestWriter) quote(s string) {
	// The one error is invalid UTF-8, which comes out replaced; what does not
	// then match its checksum or its key is refused by whoever parses it.
	o.scratch, _ = jsontext.AppendQuote(o.scratch[:0], s)
	n, _ := o.w.Write(o.scratch)
	o.n += int64(n)
}

func (o *manifestWriter) text(name, value string) {
	o.raw("  \"" + name + "\": ")
	o.quote(value)
	o.raw(",\n")
}

func (o *manifestWriter) number(name string, value int64) {
	o.raw("  \"" + name + "\": " + strconv.FormatInt(value, 10) + ",\n")
}

// ParseManifest parses what [Manifest.Encode] writes, and nothing else: any
// other spelling of the same content is refused, so that a manifest has one
// SHA-256. Beyond the form it checks what a manifest says against itself: the
// segment id is a name (letters, digits, `-` and `_`, at most 128 bytes), the
// class is names separated by slashes, the object key is the segment's, the
// count is the number of entries and not zero, ids and checksums do not repeat,
// and the root is theirs. Errors never hold the wrapped identity.
func ParseManifest(b []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := json.Unmarshal(b, m, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("couldn't parse manifest: %w", jsonError(err))
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest contradicts itself: %w", err)
	}
	same := &comparer{want: b}
	if _, err := m.WriteTo(same); err != nil {
		return nil, fmt.Errorf("manifest is not in canonical form: %w", err)
	}
	if len(same.want) > 0 {
		return nil, fmt.Errorf("manifest is not in canonical form: %d bytes after its end", len(same.want))
	}
	return m, nil
}

// jsonError cuts a JSON error down to where it is: what was found there could
// be a part of the wrapped identity.
func jsonError(err error) error {
	if s := (*jsontext.SyntacticError)(nil); errors.As(err, &s) {
		return fmt.Errorf("syntax error at byte %d", s.ByteOffset)
	}
	if s := (*json.SemanticError)(nil); errors.As(err, &s) {
		return fmt.Errorf("unfit value of %s at byte %d", s.JSONPointer, s.ByteOffset)
	}
	return errors.New("not a JSON object")
}

// A comparer is a writer that fails at the first byte that differs from want.
type comparer struct {
	want []byte
	n    int
}

func (c *comparer) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(c.want, p) {
		i := 0
		for i < len(p) && i < len(c.want) && p[i] == c.want[i] {
			i++
		}
		return 0, fmt.Errorf("it differs at byte %d", c.n+i)
	}
	c.want = c.want[len(p):]
	c.n += len(p)
	return len(p), nil
}

func (m *Manifest) check() error {
	switch {
	case m.Format != ManifestFormat:
		return fmt.Errorf("format %q, not %q", m.Format, ManifestFormat)
	case !validName(m.SegmentID):
		return fmt.Errorf("segment %q is not a name", m.SegmentID)
	case !validClass(m.Class):
		return fmt.Errorf("class %q is not made of names", m.Class)
	case m.ObjectKey != ObjectKey(m.Class, m.SegmentID):
		return fmt.Errorf("object_key %q, not %q", m.ObjectKey, ObjectKey(m.Class, m.SegmentID))
	case m.Records != len(m.Entries):
		return fmt.Errorf("records %d, but %d entries", m.Records, len(m.Entries))
	case m.Records == 0:
		return errors.New("no entries")
	case m.Bytes < int64(m.Records): // a newline each
		return fmt.Errorf("plaintext_bytes %d for %d records", m.Bytes, m.Records)
	case m.ObjectSize <= 0:
		return fmt.Errorf("object_bytes %d", m.ObjectSize)
	case m.RetainUntil.IsZero(), m.CreatedAt.IsZero():
		return errors.New("retain_until or created_at is missing")
	}
	ids := make(map[string]struct{}, len(m.Entries))
	sums := make(map[Hash]struct{}, len(m.Entries))
	var t Tree
	for i, e := range m.Entries {
		sum, ok := parseHash(e.Checksum)
		if !ok {
			return fmt.Errorf("checksum of entry %d is not 64 lower-case hex digits", i)
		}
		if e.RecordID == "" {
			return fmt.Errorf("record_id of entry %d is empty", i)
		}
		if _, ok := ids[e.RecordID]; ok {
			return fmt.Errorf("record_id %q of entry %d repeats", e.RecordID, i)
		}
		if _, ok := sums[sum]; ok {
			return fmt.Errorf("checksum %s of entry %d repeats", sum, i)
		}
		if !compact(e.Index) { // WriteTo writes it as it is
			return fmt.Errorf("index of entry %d is not compact JSON", i)
		}
		ids[e.RecordID] = struct{}{}
		sums[sum] = struct{}{}
		t.Add(sum)
	}
	if root := Hash(t.Root()); root != m.Root {
		return fmt.Errorf("merkle_root %s, but %s over the entries", m.Root, root)
	}
	return nil
}

// compact reports whether a valid JSON value has no space outside its strings.
func compact(value []byte) bool {
	quoted := false
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '"':
			quoted = !quoted
		case '\\':
			i++ // only strings have them, and this one does not end the string
		case ' ', '\t', '\n', '\r':
			if !quoted {
				return false
			}
		}
	}
	return true
}

func validName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

func validClass(s string) bool {
	for name := range strings.SplitSeq(s, "/") {
		if !validName(name) {
			return false
		}
	}
	return true
}
