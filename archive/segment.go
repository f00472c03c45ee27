package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"unicode/utf8"

	"filippo.io/age"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/zstd"
)

// MaxLine is the longest line a segment takes, in bytes without the newline. An
// input row of 16 MiB may be in its line twice, as fields and as the source's
// own bytes, and escaped: there has to be room for it, or a record that was
// taken in could never be archived. Readers keep one line in memory.
const MaxLine = 64 << 20

// windowSize is zstd's back-reference distance. Records of one batch resemble
// their neighbours; a larger window gains little and is paid for in memory by
// every reader and writer.
const windowSize = 1 << 20

// ErrCorrupt: an object is not a whole segment, or was not sealed for the
// identity at hand.
var ErrCorrupt = errors.New("segment cannot be opened")

// An Entry is what a manifest says of one line.
type Entry struct {
	RecordID string          `json:"record_id"`
	Checksum string          `json:"checksum"`        // SHA-256 of the line, 64 lower-case hex digits
	Index    json.RawMessage `json:"index,omitempty"` // opaque: what the caller needs to rebuild its database
}

// Sealed describes a finished segment.
type Sealed struct {
	Entries         []Entry // in the order of the lines
	PlaintextSHA256 [32]byte
	ObjectSHA256    [32]byte
	Root            [32]byte // Root of the checksums
	PlaintextSize   int64    // bytes, newlines included
	ObjectSize      int64    // bytes
}

// Encoders and decoders hold megabytes of tables: a sweep of many segments
// uses the same few again.
var encoders = sync.Pool{New: func() any {
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest), // later levels cost a fifth to a half of the speed for a tenth of the size
		zstd.WithEncoderConcurrency(1),           // no goroutines, hence nothing to leak when a Writer is dropped
		zstd.WithWindowSize(windowSize),
		zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return enc
}}

var decoders = sync.Pool{New: func() any {
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		// Not what we write but what we are ready to read: the zstd tool's
		// own default, so that a segment recompressed by hand still opens.
		zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		panic(err)
	}
	return dec
}}

// A Writer seals lines into one segment. It is not for concurrent use.
type Writer struct {
	object  *digest        // what leaves: ciphertext
	sealer  io.WriteCloser // age
	enc     *zstd.Encoder  // nil once closed or failed
	plain   hash.Hash
	size    int64
	tree    Tree
	entries []Entry
	ids     map[string]struct{}
	sums    map[[32]byte]struct{}
	err     error // the first failed write; the object is then worthless
}

// digest passes bytes on, counting and hashing them.
type digest struct {
	dst  io.Writer
	hash hash.Hash
	n    int64
}

func (d *digest) Write(p []byte) (int, error) {
	n, err := d.dst.Write(p)
	d.hash.Write(p[:n])
	d.n += int64(n)
	return n, err
}

// NewWriter starts a segment in dst, to be opened by recipient's identity. It
// writes age's header at once.
func NewWriter(dst io.Writer, recipient age.Recipient) (*Writer, error) {
	object := &digest{dst: dst, hash: sha256.New()}
	sealer, err := age.Encrypt(object, recipient)
	if err != nil {
		return nil, fmt.Errorf("couldn't start a segment: %w", err)
	}
	enc := encoders.Get().(*zstd.Encoder)
	enc.Reset(sealer)
	return &Writer{
		object: object, sealer: sealer, enc: enc, plain: sha256.New(),
		ids: make(map[string]struct{}), sums: make(map[[32]byte]struct{}),
	}, nil
}

// Write adds a line, of at most [MaxLine] bytes and without a newline, under
// the record's id. index is kept in the line's [Entry], compacted; it is one
// JSON value without duplicate names, or empty. A segment holds an id and a
// line once: a repeated one is refused, as are other unfit arguments, and the
// segment goes on without it. After an error of dst the segment is lost, and
// every later call returns that error.
func (w *Writer) Write(recordID string, line []byte, index json.RawMessage) error {
	if w.err != nil {
		return w.err
	}
	if w.enc == nil {
		return errors.New("segment is closed")
	}
	entry, sum, err := w.entry(recordID, line, index)
	if err != nil {
		return fmt.Errorf("couldn't add record %q to a segment: %w", recordID, err)
	}
	for _, p := range [][]byte{line, newline} {
		if _, err := w.enc.Write(p); err != nil {
			return w.fail(err)
		}
		w.plain.Write(p)
		w.size += int64(len(p))
	}
	w.tree.Add(sum)
	w.entries = append(w.entries, entry)
	w.ids[recordID] = struct{}{}
	w.sums[sum] = struct{}{}
	return nil
}

var newline = []byte{'\n'}

func (w *Writer) entry(recordID string, line []byte, index json.RawMessage) (Entry, [32]byte, error) {
	var none [32]byte
	switch {
	case recordID == "":
		return Entry{}, none, errors.New("empty record id")
	case !utf8.ValidString(recordID):
		return Entry{}, none, errors.New("record id is not UTF-8")
	case len(line) > MaxLine:
		return Entry{}, none, fmt.Errorf("line of %d bytes, more than %d", len(line), MaxLine)
	case bytes.IndexByte(line, '\n') >= 0:
		return Entry{}, none, errors.New("line contains a newline")
	}
	sum := sha256.Sum256(line)
	if _, ok := w.ids[recordID]; ok {
		return Entry{}, none, errors.New("record is in the segment already")
	}
	if _, ok := w.sums[sum]; ok {
		return Entry{}, none, errors.New("line is in the segment already, under another record id")
	}
	entry := Entry{RecordID: recordID, Checksum: hex.EncodeToString(sum[:])}
	if len(index) > 0 {
		v := jsontext.Value(index).Clone()
		if !v.IsValid() { // also duplicate names and invalid UTF-8, which ParseManifest refuses
			return Entry{}, none, errors.New("index is not one JSON value")
		}
		if !compact(v) {
			if err := v.Compact(); err != nil {
				return Entry{}, none, errors.New("index is not one JSON value")
			}
		}
		entry.Index = json.RawMessage(v)
	}
	return entry, sum, nil
}

func (w *Writer) fail(err error) error {
	w.err = fmt.Errorf("couldn't write a segment: %w", err)
	w.release()
	return w.err
}

func (w *Writer) release() {
	w.enc.Reset(nil) // keeps no reference to the segment's writers
	encoders.Put(w.enc)
	w.enc = nil
}

// Records is the number of lines so far.
func (w *Writer) Records() int { return len(w.entries) }

// PlaintextBytes is the size of the lines so far, newlines included.
func (w *Writer) PlaintextBytes() int64 { return w.size }

// Close ends the segment and describes it. A segment without a line is an
// error. Close does not close dst. A Writer that is dropped without Close
// leaves an object that no reader takes for a segment.
func (w *Writer) Close() (*Sealed, error) {
	if w.err != nil {
		return nil, w.err
	}
	if w.enc == nil {
		return nil, errors.New("segment is closed")
	}
	if len(w.entries) == 0 {
		return nil, w.fail(errors.New("it has no line"))
	}
	if err := w.enc.Close(); err != nil {
		return nil, w.fail(err)
	}
	if err := w.sealer.Close(); err != nil {
		return nil, w.fail(err)
	}
	w.release()
	return &Sealed{
		Entries:         w.entries,
		PlaintextSHA256: [32]byte(w.plain.Sum(nil)),
		ObjectSHA256:    [32]byte(w.object.hash.Sum(nil)),
		Root:            w.tree.Root(),
		PlaintextSize:   w.size,
		ObjectSize:      w.object.n,
	}, nil
}

// ReadLines opens a segment and calls fn with each line and its number,
// counting from 0. A line is valid during the call only. Memory is bounded by
// [MaxLine], whatever the size of the object.
//
// An error of fn ends the reading and is returned as it is. An error of object
// is returned wrapped. Anything else that keeps the segment from being read to
// its very end wraps [ErrCorrupt]: a changed or missing byte, bytes after the
// end, a last line without its newline, the wrong identity. Lines passed to fn
// before that are genuine (age authenticates before it decrypts), but they may
// not be all.
func ReadLines(object io.Reader, identity age.Identity, fn func(n int, line []byte) error) error {
	src := &sourceReader{r: object}
	err := readLines(src, identity, io.Discard, fn)
	var stop *callbackError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stop):
		return stop.err
	case src.err != nil:
		return fmt.Errorf("couldn't read a segment: %w", src.err)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// A sourceReader remembers the error of the reader beneath, so that a vault
// which cannot be read is not mistaken for a segment that is damaged.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

type callbackError struct{ err error }

func (e *callbackError) Error() string { return e.err.Error() }

// readLines is ReadLines without its sorting of errors; plain receives the
// plaintext as it goes by.
func readLines(object io.Reader, identity age.Identity, plain io.Writer, fn func(n int, line []byte) error) error {
	opened, err := age.Decrypt(object, identity)
	if err != nil {
		return err
	}
	dec := decoders.Get().(*zstd.Decoder)
	defer func() {
		_ = dec.Reset(nil) // lets go of the object; a nil reader is no error
		decoders.Put(dec)
	}()
	if err := dec.Reset(opened); err != nil {
		return err
	}
	lines := bufio.NewScanner(io.TeeReader(dec, plain))
	lines.Buffer(make([]byte, 0, 64<<10), MaxLine+1)
	lines.Split(wholeLines)
	n := 0
	for ; lines.Scan(); n++ {
		if err := fn(n, lines.Bytes()); err != nil {
			return &callbackError{err}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	// The zstd decoder takes an unexpected end between two frames for the end.
	// It is age that knows, and says again what it said to zstd.
	if _, err := io.Copy(io.Discard, opened); err != nil {
		return err
	}
	if n == 0 {
		return errors.New("it has no line")
	}
	return nil
}

// wholeLines is bufio.ScanLines with neither of its leniencies: a carriage
// return belongs to the line, and what comes after the last newline is not one.
func wholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, fmt.Errorf("last line has no newline: %w", io.ErrUnexpectedEOF)
	}
	return 0, nil, nil
}
