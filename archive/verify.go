package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"

	"filippo.io/age"
)

// A File names one version of an object and says what it has to be.
type File struct {
	Key       string
	VersionID string // empty: whichever version is current
	SHA256    [32]byte
	Size      int64 // bytes
}

// Expect is what the caller knows of a copy, from anywhere but the vault that
// is checked. Every field is required except version ids.
type Expect struct {
	SegmentID        string
	Object, Manifest File
	RetainUntil      time.Time // both must be locked in COMPLIANCE mode at least until then
	Entries          []Entry   // record ids and checksums in the order of the lines; Index is not compared
}

// Kinds of mismatch.
const (
	KindMissing        = "missing"         // the object, or the recorded version of it, is gone
	KindOverwritten    = "overwritten"     // another version is current
	KindDeleteMarker   = "delete_marker"   // a delete marker is current
	KindLockUnknown    = "lock_unknown"    // the vault cannot tell the object's lock
	KindMode           = "mode"            // retained in another mode than COMPLIANCE, or not at all
	KindRetainUntil    = "retain_until"    // locked for less long than expected
	KindSize           = "size"            // of the object or manifest, in bytes
	KindSHA256         = "sha256"          // of the object or manifest as read back, or as the vault recorded it
	KindManifest       = "manifest"        // the manifest does not parse, or says something else
	KindUnreadable     = "unreadable"      // the object does not open to its very end with the segment's identity
	KindNotDecrypted   = "not_decrypted"   // no identity was given: the object's bytes were compared, its lines were not
	KindPlaintext      = "plaintext"       // size or SHA-256 of the whole plaintext are not the manifest's
	KindRecordChecksum = "record_checksum" // a line stands in a record's place, but is not that record's
	KindRecordMissing  = "record_missing"  // a record has no line
	KindRecordExtra    = "record_extra"    // a line belongs to no record
	KindRecordRepeated = "record_repeated" // a record's line comes again
	KindRecordMoved    = "record_moved"    // a record's line is out of its order
)

// A Mismatch is one finding: something in a vault that is not as expected.
type Mismatch struct {
	Segment  string `json:"segment"`
	Vault    string `json:"vault"`
	Key      string `json:"key"`       // of the object or manifest concerned
	RecordID string `json:"record_id"` // empty unless it is about one record
	Kind     string `json:"kind"`
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
}

// maxStray is how many lines beyond the expected ones are listed. An object put
// there by somebody else could go on for ever.
const maxStray = 1000

// VerifyCopy reads one copy of one segment back out of its vault and compares
// all of it with x: that the recorded versions are the current ones, locked in
// COMPLIANCE mode for long enough, and byte for byte those that were put there;
// that the manifest says what the object is; and that the object opens with the
// identity to exactly the expected lines, each once and in order. It goes on to
// the end and returns everything it finds, nothing being a verified copy.
//
// With a nil identity the lines are not looked at, and one mismatch of
// [KindNotDecrypted] says so.
//
// The error is for what is not a finding: the vault could not be asked, or the
// context was done. Mismatches found until then come with it.
//
// The object is streamed. Memory holds one line (at most [MaxLine]), the
// manifest, and a few dozen bytes for each expected entry.
func VerifyCopy(ctx context.Context, v Vault, x Expect, identity age.Identity) ([]Mismatch, error) {
	c := &copyCheck{ctx: ctx, vault: v, x: x}
	// The object first: what its plaintext turns out to be is compared with
	// what the manifest says. An object that cannot be asked for does not keep
	// the manifest from being checked.
	objectErr := c.object(identity)
	manifestErr := c.manifest()
	return c.found, errors.Join(objectErr, manifestErr)
}

type copyCheck struct {
	ctx   context.Context
	vault Vault
	x     Expect
	found []Mismatch

	objectLockedUntil time.Time // zero if the object's lock could not be told

	// Set once the object's lines were read to their end.
	opened      bool
	plainSize   int64
	plainSHA256 Hash
}

func (c *copyCheck) add(key, recordID, kind, expected, actual string) {
	c.found = append(c.found, Mismatch{
		Segment: c.x.SegmentID, Vault: c.vault.Name(), Key: key,
		RecordID: recordID, Kind: kind, Expected: expected, Actual: actual,
	})
}

// open opens the version to be read and checks what the vault says of it. A nil
// reader without an error means that there is none, which is a finding.
//
// It asks for the current version and expects to be given the recorded one: one
// request then reads the copy, its lock, and that nothing lies on top of it.
func (c *copyCheck) open(f File) (io.ReadCloser, error) {
	r, info, err := c.vault.Get(c.ctx, f.Key, "")
	switch {
	case f.VersionID == "" || err == nil && info.VersionID == f.VersionID:
	case err == nil && info.VersionID != "":
		r.Close()
		c.add(f.Key, "", KindOverwritten, f.VersionID, info.VersionID)
		r, info, err = c.vault.Get(c.ctx, f.Key, f.VersionID)
	case errors.Is(err, ErrNotFound):
		if r, info, err = c.vault.Get(c.ctx, f.Key, f.VersionID); err == nil {
			c.add(f.Key, "", KindDeleteMarker, f.VersionID, "")
		}
	}
	if errors.Is(err, ErrNotFound) {
		c.add(f.Key, "", KindMissing, f.VersionID, "")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't open %s in vault %s: %w", f.Key, c.vault.Name(), err)
	}
	if err := c.lock(f, info); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// lock checks what the vault says of the version that is being read.
func (c *copyCheck) lock(f File, info ObjectInfo) error {
	if info.SHA256 != [32]byte{} && info.SHA256 != f.SHA256 {
		c.add(f.Key, "", KindSHA256, Hash(f.SHA256).String(), Hash(info.SHA256).String()+" as recorded by the vault")
	}
	if info.Mode == "" {
		// No retention, or none that can be told.
		_, err := c.vault.Stat(c.ctx, f.Key, info.VersionID)
		if errors.Is(err, ErrLockUnknown) {
			c.add(f.Key, "", KindLockUnknown, f.VersionID, err.Error())
			return nil
		}
		if err != nil {
			return fmt.Errorf("couldn't stat %s in vault %s: %w", f.Key, c.vault.Name(), err)
		}
	}
	if info.Mode != Compliance {
		c.add(f.Key, "", KindMode, string(Compliance), string(info.Mode))
	}
	if info.RetainUntil.Before(c.x.RetainUntil) {
		c.add(f.Key, "", KindRetainUntil, stamp(c.x.RetainUntil), stamp(info.RetainUntil))
	}
	if f.Key == c.x.Object.Key {
		c.objectLockedUntil = info.RetainUntil
	}
	return nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// readBack is a copy's bytes on their way from the vault: counted, hashed,
// stopped by the context, and with the vault's own errors remembered.
type readBack struct {
	ctx  context.Context
	src  sourceReader
	hash hash.Hash
	n    int64
}

func (c *copyCheck) readBack(r io.Reader) *readBack {
	return &readBack{ctx: c.ctx, src: sourceReader{r: r}, hash: sha256.New()}
}

func (b *readBack) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		b.src.err = err
		return 0, err
	}
	n, err := b.src.Read(p)
	b.hash.Write(p[:n])
	b.n += int64(n)
	return n, err
}

// compare reports whether the bytes, read to their end, are f's.
func (c *copyCheck) compare(f File, b *readBack) bool {
	if b.n != f.Size {
		c.add(f.Key, "", KindSize, strconv.FormatInt(f.Size, 10), strconv.FormatInt(b.n, 10))
	}
	sum := Hash(b.hash.Sum(nil))
	if sum != f.SHA256 {
		c.add(f.Key, "", KindSHA256, Hash(f.SHA256).String(), sum.String())
	}
	return sum == f.SHA256
}

func (c *copyCheck) object(identity age.Identity) error {
	f := c.x.Object
	r, err := c.open(f)
	if r == nil {
		return err
	}
	defer r.Close()
	b := c.readBack(r)
	plain := &digest{dst: io.Discard, hash: sha256.New()}
	lines := &lineCheck{copyCheck: c}

	var unreadable error
	if identity != nil {
		unreadable = readLines(b, identity, plain, lines.line)
	}
	// An object that stopped making sense is still read to its end: its
	// SHA-256 says whether it is the object that was put there.
	if b.src.err == nil {
		_, _ = io.Copy(io.Discard, b)
	}
	if b.src.err != nil {
		return fmt.Errorf("couldn't read %s in vault %s: %w", f.Key, c.vault.Name(), b.src.err)
	}
	c.compare(f, b)
	switch {
	case identity == nil:
		c.add(f.Key, "", KindNotDecrypted, strconv.Itoa(len(c.x.Entries))+" records", "")
	case unreadable != nil:
		// The records behind the damage cannot be told from those that are
		// not there: one finding for the object, not one for each of them.
		c.add(f.Key, "", KindUnreadable, strconv.Itoa(len(c.x.Entries))+" records",
			fmt.Sprintf("%d lines, then: %v", lines.n, unreadable))
		lines.end(false)
	default:
		lines.end(true)
		c.opened, c.plainSize, c.plainSHA256 = true, plain.n, Hash(plain.hash.Sum(nil))
	}
	return nil
}

// A lineCheck matches the lines of an object, one by one as they come, with the
// expected entries. While they agree it only counts.
type lineCheck struct {
	*copyCheck
	n    int // lines so far
	next int // the entry that the next line should be

	// From the first disagreement on.
	position map[Hash]int // of each entry
	seen     []bool       // entries whose line has come
	unknown  []unknownLine
	run      int // unknown lines since the last one known
	stray    int // lines beyond the expected ones
}

// An unknownLine has a checksum that no entry has. at is the entry whose place
// it took, if that entry's line never comes.
type unknownLine struct {
	n, at int
	sum   Hash
}

var errStray = fmt.Errorf("more than %d lines that were not expected", maxStray)

func (l *lineCheck) line(n int, line []byte) error {
	sum := Hash(sha256.Sum256(line))
	l.n = n + 1
	entries := l.x.Entries
	if l.position == nil {
		if n < len(entries) && sum.is(entries[n].Checksum) {
			l.next++
			return nil
		}
		l.disagree()
	}
	at, known := l.position[sum]
	switch {
	case !known:
		l.unknown = append(l.unknown, unknownLine{n: n, at: l.next + l.run, sum: sum})
		l.run++
		l.stray++
	case l.seen[at]:
		l.add(l.x.Object.Key, entries[at].RecordID, KindRecordRepeated, "once", "again in line "+strconv.Itoa(n+1))
		l.stray++
	default:
		l.seen[at] = true
		l.run = 0
		if at < l.next {
			l.add(l.x.Object.Key, entries[at].RecordID, KindRecordMoved,
				"line "+strconv.Itoa(at+1), "line "+strconv.Itoa(n+1))
		} else {
			// Entries passed over may still come (moved) or not (missing).
			l.next = at + 1
		}
	}
	if l.stray > len(entries)+maxStray {
		return errStray
	}
	return nil
}

func (l *lineCheck) disagree() {
	l.position = make(map[Hash]int, len(l.x.Entries))
	l.seen = make([]bool, len(l.x.Entries))
	for i, e := range l.x.Entries {
		if sum, ok := parseHash(e.Checksum); ok {
			l.position[sum] = i
		}
		l.seen[i] = i < l.next
	}
}

// end settles what could only be told after the last line. Unless the object
// was read whole, an entry without a line is no finding of its own.
func (l *lineCheck) end(whole bool) {
	if l.position == nil {
		if l.next == len(l.x.Entries) {
			return
		}
		l.disagree()
	}
	key, entries := l.x.Object.Key, l.x.Entries
	for _, u := range l.unknown {
		if u.at < len(entries) && !l.seen[u.at] {
			l.seen[u.at] = true
			l.add(key, entries[u.at].RecordID, KindRecordChecksum, entries[u.at].Checksum, u.sum.String())
		} else {
			l.add(key, "", KindRecordExtra, "", u.sum.String()+" in line "+strconv.Itoa(u.n+1))
		}
	}
	if !whole {
		return
	}
	for i, e := range entries {
		if !l.seen[i] {
			l.add(key, e.RecordID, KindRecordMissing, e.Checksum, "")
		}
	}
}

func (c *copyCheck) manifest() error {
	f := c.x.Manifest
	r, err := c.open(f)
	if r == nil {
		return err
	}
	defer r.Close()
	b := c.readBack(r)
	// No more is kept than a manifest of the right size needs, however much
	// the vault sends.
	var body bytes.Buffer
	body.Grow(int(min(f.Size, 64<<20)) + bytes.MinRead)
	_, err = io.Copy(&body, io.LimitReader(b, f.Size))
	if err == nil {
		_, err = io.Copy(io.Discard, b)
	}
	if err != nil {
		return fmt.Errorf("couldn't read %s in vault %s: %w", f.Key, c.vault.Name(), err)
	}
	c.compare(f, b)
	m, err := ParseManifest(body.Bytes())
	if err != nil {
		c.add(f.Key, "", KindManifest, ManifestFormat, err.Error())
		return nil
	}
	c.compareManifest(f.Key, m)
	return nil
}

func (c *copyCheck) compareManifest(key string, m *Manifest) {
	field := func(name, expected, actual string) {
		if expected != actual {
			c.add(key, "", KindManifest, name+" "+expected, actual)
		}
	}
	field("segment", c.x.SegmentID, m.SegmentID)
	field("object_key", c.x.Object.Key, m.ObjectKey)
	field("object_bytes", strconv.FormatInt(c.x.Object.Size, 10), strconv.FormatInt(m.ObjectSize, 10))
	field("object_sha256", Hash(c.x.Object.SHA256).String(), m.ObjectSHA256.String())
	if until := c.objectLockedUntil; !until.IsZero() && until.Before(m.RetainUntil) && !until.Before(c.x.RetainUntil) {
		// Locks are lengthened, never shortened: one that ends before the
		// date it was put with has been tampered with, even if the caller
		// asks for no more.
		c.add(c.x.Object.Key, "", KindRetainUntil, stamp(m.RetainUntil), stamp(until))
	}
	if c.opened {
		if c.plainSize != m.Bytes {
			c.add(c.x.Object.Key, "", KindPlaintext, strconv.FormatInt(m.Bytes, 10)+" bytes", strconv.FormatInt(c.plainSize, 10)+" bytes")
		}
		if c.plainSHA256 != m.PlaintextSHA256 {
			c.add(c.x.Object.Key, "", KindPlaintext, m.PlaintextSHA256.String(), c.plainSHA256.String())
		}
	}
	field("records", strconv.Itoa(len(c.x.Entries)), strconv.Itoa(m.Records))
	for i := range min(len(c.x.Entries), len(m.Entries)) {
		want, got := c.x.Entries[i], m.Entries[i]
		if want.RecordID != got.RecordID || want.Checksum != got.Checksum {
			c.add(key, want.RecordID, KindManifest, want.RecordID+" "+want.Checksum, got.RecordID+" "+got.Checksum)
		}
	}
}

// Expect is what the manifest itself promises of a copy: for an auditor who
// has a manifest from a trusted source, and no database. encoded is the
// manifest's own bytes.
func (m *Manifest) Expect(encoded []byte) Expect {
	return Expect{
		SegmentID: m.SegmentID,
		Object:    File{Key: m.ObjectKey, SHA256: m.ObjectSHA256, Size: m.ObjectSize},
		Manifest: File{
			Key:    ManifestKey(m.Class, m.SegmentID),
			SHA256: sha256.Sum256(encoded), Size: int64(len(encoded)),
		},
		RetainUntil: m.RetainUntil,
		Entries:     m.Entries,
	}
}
