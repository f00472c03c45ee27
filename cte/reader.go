package cte

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"
)

// maxRow bounds a row of input: a line, or the lines of a row whose quoted cells
// contain newlines.
const maxRow = 16 << 20

// Options are what a Reader needs to know beside the input.
type Options struct {
	// File names the input in rejects.
	File string

	// Now is when the records are obtained: their created_or_obtained_at unless
	// they say otherwise. It must be set.
	Now time.Time

	// Rand is where salts come from; nil is crypto/rand.
	Rand io.Reader

	// EventType is what the rows of a delimited input are; empty finds out from
	// the column names. Native records say it themselves.
	EventType EventType

	// Strict refuses records with gaps.
	Strict bool
}

// Reader reads records from native JSON Lines or from delimited text in FDA's
// spreadsheet layout.
type Reader struct {
	options Options
	salts   io.Reader
	lines   lineReader
	line    int
	native  *parser
	layout  *layout // nil when the input is native
	rows    int64
}

// NewReader looks at the beginning of in and finds out what it is. It returns an
// error that says what was looked for when it is neither native nor delimited, or
// when the event type cannot be told from the column names. An empty input is
// native without records.
func NewReader(in io.Reader, o Options) (*Reader, error) {
	if o.Now.IsZero() {
		return nil, errors.New("couldn't read records: Options.Now is not set")
	}
	salts := o.Rand
	if salts == nil {
		salts = rand.Reader
	}
	r := &Reader{
		options: o,
		salts:   bufio.NewReader(salts), // a call of the system every 256 records
		lines:   lineReader{src: in, line: 1},
		native:  newParser(),
	}
	start, err := r.lines.lookAhead(64 << 10)
	if err != nil {
		return nil, fmt.Errorf("couldn't read %s: %w", o.File, err)
	}
	if bytes.HasPrefix(start, []byte("\ufeff")) {
		r.lines.skip(len("\ufeff"))
		start = start[len("\ufeff"):]
	}
	delimited, err := sniff(start)
	if err != nil {
		return nil, fmt.Errorf("couldn't read %s: %w", o.File, err)
	}
	if delimited {
		if r.layout, err = readLayout(&r.lines, o.EventType); err != nil {
			return nil, fmt.Errorf("couldn't read %s: %w", o.File, err)
		}
	}
	return r, nil
}

// sniff tells delimited input from native by its beginning.
func sniff(start []byte) (delimited bool, err error) {
	for _, magic := range []struct{ prefix, what string }{
		{"\xff\xfe", "UTF-16 text; save it as UTF-8"},
		{"\xfe\xff", "UTF-16 text; save it as UTF-8"},
		{"PK\x03\x04", "a zip archive or a spreadsheet file; save the sheet as CSV"},
		{"\x1f\x8b", "compressed; decompress it first"},
	} {
		if bytes.HasPrefix(start, []byte(magic.prefix)) {
			return false, errors.New("the input is " + magic.what)
		}
	}
	first, rest := []byte(nil), start
	for len(bytes.TrimSpace(first)) == 0 {
		if len(rest) == 0 {
			return false, nil
		}
		first, rest, _ = bytes.Cut(rest, []byte("\n"))
	}
	switch {
	case bytes.TrimSpace(first)[0] == '{':
		return false, nil
	case looksLikeHeader(first):
		return true, nil
	case bytes.HasPrefix(rest, []byte("{")), bytes.Contains(rest, []byte("\n{")):
		return false, nil // a bad first line; it will be a reject
	case bytes.ContainsAny(first, "|,") && bytes.TrimSpace(first)[0] != '[':
		return true, nil
	}
	return false, errors.New("the input is neither JSON Lines (one object a line, beginning with {) nor delimited text (a header line with columns separated by | or ,)")
}

// Next returns the next record. A *Reject means that this row was refused and that
// Next can be called again; io.EOF is the end of the input; any other error means
// that reading failed and the input cannot be gone on with.
func (r *Reader) Next() (*Record, error) {
	var row row
	var rec *Record
	var refused *Reject
	var err error
	if r.layout != nil {
		row, rec, refused, err = r.nextDelimited()
	} else {
		row, rec, refused, err = r.nextNative()
	}
	if err == io.EOF {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read %s after line %d: %w", r.options.File, r.lines.line-1, err)
	}
	r.rows++
	r.line = row.line
	if refused == nil {
		refused, err = r.complete(rec)
		if err != nil {
			return nil, err
		}
	}
	if refused != nil {
		refused.File, refused.Line, refused.Input = r.options.File, row.line, bytes.Clone(row.text)
		return nil, refused
	}
	return rec, nil
}

// complete checks a record and adds what the engine adds.
func (r *Reader) complete(rec *Record) (*Reject, error) {
	if rec.defaulted.has(fieldCreatedOrObtainedAt) {
		rec.CreatedOrObtainedAt = r.options.Now.UTC()
	}
	if refused := rec.check(); refused != nil {
		if refused.Field != fieldRecordID.String() {
			refused.RecordID = rec.RecordID
		}
		return refused, nil
	}
	if r.options.Strict {
		if gaps := rec.Gaps(r.options.Now); len(gaps) > 0 {
			refused := refuse(gaps[0].KDE, "gap", gaps[0].Reason)
			if gaps[0].Section != "" {
				refused.Reason += " (21 CFR " + gaps[0].Section + ")"
			}
			refused.RecordID = rec.RecordID
			return refused, nil
		}
	}
	if _, err := io.ReadFull(r.salts, rec.Salt[:]); err != nil {
		return nil, fmt.Errorf("couldn't make a salt: %w", err)
	}
	return nil, nil
}

// Line returns the line of the input, from 1, on which the row that Next has last
// read begins.
func (r *Reader) Line() int { return r.line }

// Read returns how many rows have been read, accepted and rejected. Blank lines
// and the header are none.
func (r *Reader) Read() int64 { return r.rows }

// Bytes returns how many bytes of the input have been read as rows.
func (r *Reader) Bytes() int64 { return r.lines.bytes }

// nextNative reads the next line that is not blank.
func (r *Reader) nextNative() (row, *Record, *Reject, error) {
	row, err := r.lines.next()
	if err != nil {
		return row, nil, nil, err
	}
	if row.text == nil {
		return row, nil, tooLong(), nil
	}
	rec, refused := r.native.parse(row.text, false)
	if refused != nil && refused.Rule == "syntax" && !row.terminated {
		refused.Rule = "truncated"
		refused.Reason += "; the last line has no newline, so the input looks truncated"
	}
	return row, rec, refused, nil
}

func tooLong() *Reject { return refuse("", "maxbytes", "the row is longer than 16 MiB") }

// row is a row of the input. Its text is valid until the next one is read.
type row struct {
	line       int    // where it begins
	text       []byte // without the line terminator; nil if it was longer than maxRow
	terminated bool   // a newline followed
}

// lineReader reads physical lines and lets the caller look ahead before it
// decides where a row ends. It buffers maxRow at most.
type lineReader struct {
	src   io.Reader
	space []byte // what buf is a part of
	buf   []byte // read and not consumed
	err   error  // what src ended with
	line  int    // the number of the line that buf begins with
	bytes int64  // consumed
}

// lookAhead returns what the input begins with, n bytes unless it is shorter.
func (l *lineReader) lookAhead(n int) ([]byte, error) {
	for len(l.buf) < n && l.err == nil {
		l.fill()
	}
	if l.err != nil && l.err != io.EOF {
		return nil, l.err
	}
	return l.buf, nil
}

// fill reads once, or records that there is no more.
func (l *lineReader) fill() {
	const chunk = 64 << 10
	if cap(l.buf)-len(l.buf) < chunk/2 {
		// Grow in proportion to what is kept, so that a long row is not copied
		// over and over; shrink again when it has been consumed.
		want := 2*len(l.buf) + chunk
		if cap(l.space) < want || cap(l.space) > 4*want {
			l.space = make([]byte, want)
		}
		l.buf = l.space[:copy(l.space, l.buf)]
	}
	for range 100 {
		n, err := l.src.Read(l.buf[len(l.buf):cap(l.buf)])
		l.buf = l.buf[:len(l.buf)+n]
		if l.err = err; n > 0 || err != nil {
			return
		}
	}
	l.err = io.ErrNoProgress
}

// lineEnd returns the end in buf of the line that begins at from, behind its
// newline if it has one. It returns io.EOF when there is no such line, and
// errTooLong when buf would have to hold more than maxRow for it.
func (l *lineReader) lineEnd(from int) (end int, terminated bool, err error) {
	searched := from
	for {
		if i := bytes.IndexByte(l.buf[searched:], '\n'); i >= 0 {
			if end := searched + i + 1; end-1 <= maxRow {
				return end, true, nil
			}
			return 0, false, errTooLong
		}
		searched = len(l.buf)
		switch {
		case searched > maxRow:
			return 0, false, errTooLong
		case l.err == nil:
			l.fill()
		case l.err != io.EOF:
			return 0, false, l.err
		case searched == from:
			return 0, false, io.EOF
		default:
			return searched, false, nil
		}
	}
}

var errTooLong = errors.New("row longer than 16 MiB")

// next consumes the next line that is not blank and returns it as a row.
func (l *lineReader) next() (row, error) {
	for {
		r := row{line: l.line}
		end, terminated, err := l.lineEnd(0)
		switch {
		case err == errTooLong:
			return r, l.skipLine()
		case err != nil:
			return r, err
		}
		r.terminated = terminated
		r.text = trimNewline(l.buf[:end:end])
		l.skip(end)
		if len(bytes.TrimSpace(r.text)) > 0 {
			return r, nil
		}
	}
}

// skip consumes n bytes that are in the buffer. They stay valid until the buffer
// is filled again.
func (l *lineReader) skip(n int) {
	l.line += bytes.Count(l.buf[:n], []byte("\n"))
	l.bytes += int64(n)
	l.buf = l.buf[n:]
}

// skipLine consumes a line that is too long to be kept.
func (l *lineReader) skipLine() error {
	for {
		if i := bytes.IndexByte(l.buf, '\n'); i >= 0 {
			l.skip(i + 1)
			return nil
		}
		l.skip(len(l.buf))
		if l.err == io.EOF {
			return nil
		}
		if l.err != nil {
			return l.err
		}
		l.buf = nil // not grown: the line is not kept
		l.fill()
	}
}

func trimNewline(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}
