package cte

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// field is a member of the canonical line. The native fields come first, in the
// order in which both the native form and the line have them.
type field uint8

const (
	fieldRecordID field = iota
	fieldTLC
	fieldTLCSource
	fieldEventType
	fieldEventTimestamp
	fieldCreatedOrObtainedAt
	fieldKDEs
	fieldInputLots
	fieldCorrects
	fieldLabels
	fieldRetentionHold
	// The line has these besides: version before all native fields, the rest after.
	fieldVersion
	fieldDefaulted
	fieldAsGiven
	fieldSource
	fieldSalt

	nativeFields = fieldVersion
)

var fieldNames = [...]string{
	fieldRecordID:            "record_id",
	fieldTLC:                 "traceability_lot_code",
	fieldTLCSource:           "tlc_source",
	fieldEventType:           "event_type",
	fieldEventTimestamp:      "event_timestamp",
	fieldCreatedOrObtainedAt: "created_or_obtained_at",
	fieldKDEs:                "kde_payload",
	fieldInputLots:           "input_lots",
	fieldCorrects:            "corrects",
	fieldLabels:              "labels",
	fieldRetentionHold:       "retention_hold",
	fieldVersion:             "v",
	fieldDefaulted:           "defaulted",
	fieldAsGiven:             "as_given",
	fieldSource:              "source",
	fieldSalt:                "salt",
}

var fieldsByName = func() map[string]field {
	m := make(map[string]field, len(fieldNames))
	for f, name := range fieldNames {
		m[name] = field(f)
	}
	return m
}()

func (f field) String() string { return fieldNames[f] }

// memberNames are the names as they stand in JSON, with quotes and colon.
var memberNames = func() (names [len(fieldNames)]string) {
	for f, name := range fieldNames {
		names[f] = `"` + name + `":`
	}
	return names
}()

// fieldSet is a set of fields, one bit each.
type fieldSet uint32

func (s fieldSet) has(f field) bool { return s&(1<<f) != 0 }
func (s *fieldSet) add(f field)     { *s |= 1 << f }

// Checksum is the SHA-256 of a canonical line without its newline.
func Checksum(line []byte) [32]byte { return sha256.Sum256(line) }

// AppendLine appends the record's canonical line to dst, without a newline. The
// line never contains one. Its bytes are specified in line-format.md.
func (r *Record) AppendLine(dst []byte) []byte {
	dst = append(dst, `{"v":1`...)
	for f := range nativeFields {
		dst = r.appendMember(dst, f, nil)
	}
	if r.defaulted != 0 {
		dst = append(dst, `,"defaulted":[`...)
		for f := range nativeFields {
			if r.defaulted.has(f) {
				dst = appendString(appendComma(dst), f.String())
			}
		}
		dst = append(dst, ']')
	}
	if len(r.asGiven) > 0 {
		dst = append(dst, `,"as_given":{`...)
		for _, g := range r.asGiven {
			dst = append(append(appendComma(dst), memberNames[g.field]...), g.text...)
		}
		dst = append(dst, '}')
	}
	if r.Source != nil {
		dst = appendString(append(dst, `,"source":{"format":`...), r.Source.Format)
		dst = appendString(append(dst, `,"header":`...), r.Source.Header)
		dst = appendString(append(dst, `,"row":`...), r.Source.Row)
		dst = append(dst, '}')
	}
	dst = append(dst, `,"salt":"`...)
	dst = hex.AppendEncode(dst, r.Salt[:])
	return append(dst, `"}`...)
}

// AppendNative appends the record as one native JSON Lines object to dst, without
// a newline: the fields that were given and no others, in the native order, each
// as it was given. Read again, it has the same content. For a record that came
// from delimited input the fields are those that the row was read as.
func (r *Record) AppendNative(dst []byte) []byte {
	dst = append(dst, '{')
	for f := range nativeFields {
		if !r.defaulted.has(f) {
			dst = r.appendMember(dst, f, r.givenText(f))
		}
	}
	return append(dst, '}')
}

// appendCanonical appends the canonical JSON text of a native field, or nothing
// when the record has no such field.
func (r *Record) appendCanonical(dst []byte, f field) []byte {
	switch f {
	case fieldRecordID:
		return appendString(dst, r.RecordID)
	case fieldTLC:
		return appendOptional(dst, r.TLC)
	case fieldTLCSource:
		return appendOptional(dst, r.TLCSource)
	case fieldEventType:
		return appendString(dst, string(r.EventType))
	case fieldEventTimestamp:
		return append(AppendTime(append(dst, '"'), r.EventTimestamp), '"')
	case fieldCreatedOrObtainedAt:
		return append(AppendTime(append(dst, '"'), r.CreatedOrObtainedAt), '"')
	case fieldKDEs:
		return append(dst, r.KDEs...)
	case fieldInputLots:
		if len(r.InputLots) == 0 {
			return dst
		}
		dst = append(dst, '[')
		for _, lot := range r.InputLots {
			dst = appendString(append(appendComma(dst), `{"traceability_lot_code":`...), lot.TLC)
			if lot.Source != "" {
				dst = appendString(append(dst, `,"tlc_source":`...), lot.Source)
			}
			dst = append(dst, '}')
		}
		return append(dst, ']')
	case fieldCorrects:
		return appendOptional(dst, r.Corrects)
	case fieldLabels:
		if len(r.Labels) == 0 {
			return dst
		}
		dst = append(dst, '{')
		for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
			dst = append(appendString(appendComma(dst), name), ':')
			dst = appendString(dst, r.Labels[name])
		}
		return append(dst, '}')
	case fieldRetentionHold:
		switch {
		case r.RetentionHold == nil:
			return dst
		case *r.RetentionHold:
			return append(dst, "true"...)
		default:
			return append(dst, "false"...)
		}
	}
	return dst
}

// AppendContent appends an unambiguous encoding of the record's content to dst:
// the native fields that were given, with neither defaults nor salt, source or
// retention_hold, and with times as instants in UTC. Two records have the same
// content exactly if these bytes are equal; their HMAC is the content's identity.
//
// The encoding is "cte content 1\n" and then, for each field in native order, its
// name and its value, each with its length before it. Lots are pairs of TLC and
// source in the order given, labels pairs of name and value sorted by name, KDEs
// their text without white space. A field that is empty counts as not given.
func (r *Record) AppendContent(dst []byte) []byte {
	dst = append(dst, "cte content 1\n"...)
	var value []byte
	for f := range nativeFields {
		if r.defaulted.has(f) {
			continue
		}
		if value = r.appendContentValue(value[:0], f); len(value) > 0 {
			dst = appendCounted(dst, f.String())
			dst = appendCounted(dst, value)
		}
	}
	return dst
}

// appendContentValue appends what a field says, whichever way it was written. A
// retention_hold says nothing about the event and is not content: given again with
// it, a record is a duplicate that asks for a hold.
func (r *Record) appendContentValue(dst []byte, f field) []byte {
	switch f {
	case fieldRecordID:
		return append(dst, r.RecordID...)
	case fieldTLC:
		return append(dst, r.TLC...)
	case fieldTLCSource:
		return append(dst, r.TLCSource...)
	case fieldEventType:
		// An event type that is not known is content like any other text: two
		// different ones are a conflict, though both are kept as unclassified.
		if text := r.givenText(f); text != nil {
			given, _ := jsontext.AppendUnquote(dst, text)
			return given
		}
		return append(dst, r.EventType...)
	case fieldEventTimestamp:
		return AppendTime(dst, r.EventTimestamp)
	case fieldCreatedOrObtainedAt:
		return AppendTime(dst, r.CreatedOrObtainedAt)
	case fieldKDEs:
		return append(dst, r.KDEs...)
	case fieldInputLots:
		for _, lot := range r.InputLots {
			dst = appendCounted(appendCounted(dst, lot.TLC), lot.Source)
		}
	case fieldCorrects:
		return append(dst, r.Corrects...)
	case fieldLabels:
		for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
			dst = appendCounted(appendCounted(dst, name), r.Labels[name])
		}
	}
	return dst
}

// ParseLine reads a canonical line. It is the strict inverse of AppendLine: it
// returns an error for every line that AppendLine would not print exactly so,
// byte for byte, from the record it returns.
//
// It checks the form only. The rules for taking a record in may grow stricter; a
// line that was once accepted has to stay readable for as long as it is kept.
// The error carries no value of the line.
func ParseLine(line []byte) (*Record, error) {
	p := newParser()
	r, refused := p.parse(line, true)
	if refused != nil {
		return nil, fmt.Errorf("not a canonical line: %w", refused)
	}
	if !bytes.Equal(r.AppendLine(make([]byte, 0, len(line))), line) {
		return nil, errNotCanonical
	}
	// What as_given restores has to be this record, or an export would say
	// something else than the line that was checksummed.
	if len(r.asGiven) > 0 {
		back, refused := p.parse(r.AppendNative(nil), false)
		if refused != nil || !slices.EqualFunc(back.asGiven, r.asGiven, given.equal) ||
			!bytes.Equal(back.AppendContent(nil), r.AppendContent(nil)) {
			return nil, errNotCanonical
		}
	}
	return r, nil
}

var errNotCanonical = errors.New("not a canonical line: a canonical line for this record has other bytes")

func (g given) equal(h given) bool { return g.field == h.field && bytes.Equal(g.text, h.text) }

// appendMember appends a native field with the text given or, if that is nil, its
// canonical text; and nothing when the record has no such field.
func (r *Record) appendMember(dst []byte, f field, text jsontext.Value) []byte {
	start := len(dst)
	dst = append(appendComma(dst), memberNames[f]...)
	named := len(dst)
	if text != nil {
		return append(dst, text...)
	}
	if dst = r.appendCanonical(dst, f); len(dst) == named {
		return dst[:start]
	}
	return dst
}

// appendComma appends a comma unless dst ends where an object or array begins.
func appendComma(dst []byte) []byte {
	if last := dst[len(dst)-1]; last == '{' || last == '[' {
		return dst
	}
	return append(dst, ',')
}

// appendString appends s as a JSON string with the fewest escapes: only the quote,
// the backslash and control characters have one. Invalid UTF-8 cannot come this
// far; if it does, it is replaced by U+FFFD.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			dst, _ = jsontext.AppendQuote(dst, s)
			return dst
		}
	}
	// Nearly all strings are ASCII without escapes, and quoting is what printing
	// a line consists of.
	return append(append(append(dst, '"'), s...), '"')
}

func appendOptional(dst []byte, s string) []byte {
	if s == "" {
		return dst
	}
	return appendString(dst, s)
}

// appendCounted appends b with its length before it, as an unsigned varint.
func appendCounted[Bytes ~[]byte | ~string](dst []byte, b Bytes) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}
