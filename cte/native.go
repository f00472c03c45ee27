package cte

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// parser reads one JSON object, native or canonical. It is reused from row to row;
// what it returns does not refer to it.
type parser struct {
	dec     *jsontext.Decoder
	buf     bytes.Buffer
	scratch []byte

	rec     *Record
	seen    fieldSet // members present and not null
	problem *Reject  // the first one found
}

func newParser() *parser {
	return &parser{dec: jsontext.NewDecoder(bytes.NewReader(nil))}
}

// parse reads text as a native object, or as a canonical line. After a fault in
// one field it reads on, so that the reject can name the record. It checks the
// form only: Record.check has the rules.
func (p *parser) parse(text []byte, line bool) (*Record, *Reject) {
	// The decoder reads straight from a bytes.Buffer, without copying a row of 16 MiB.
	p.buf = *bytes.NewBuffer(text)
	p.dec.Reset(&p.buf)
	p.rec, p.seen, p.problem = &Record{EventType: Unclassified}, 0, nil

	if err := p.members(line); err != nil {
		return nil, p.refused(syntaxReject(err))
	}
	switch {
	case line:
		// ParseLine compares the bytes, which finds whatever is missing.
	case !p.seen.has(fieldRecordID):
		p.fail(fieldRecordID, "required", "is missing or null")
	case !p.seen.has(fieldEventTimestamp):
		// Not left to the struct's rules: the zero time is a real instant.
		p.fail(fieldEventTimestamp, "required", "is missing or null")
	case !p.seen.has(fieldKDEs):
		p.fail(fieldKDEs, "required", "is missing or null")
	}
	if p.problem != nil {
		return nil, p.refused(p.problem)
	}
	if !line {
		slices.SortFunc(p.rec.asGiven, func(a, b given) int { return int(a.field) - int(b.field) })
		for _, f := range []field{fieldEventType, fieldCreatedOrObtainedAt} {
			if !p.seen.has(f) {
				p.rec.defaulted.add(f)
			}
		}
	}
	return p.rec, nil
}

func (p *parser) members(line bool) error {
	if kind := p.dec.PeekKind(); kind != '{' && kind != 0 {
		return errNotObject
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return err
	}
	for p.dec.PeekKind() != '}' {
		name, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		f, known := p.field(name)
		unknown := ""
		if known = known && (line || f < nativeFields); !known {
			unknown = unquote(name)
		}
		value, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		if !known {
			p.note(unknownField(unknown))
			continue
		}
		p.set(f, value, line)
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return err
	}
	if _, err := p.dec.ReadToken(); err != io.EOF {
		return errTrailing
	}
	return nil
}

var (
	errNotObject = errors.New("is not a JSON object")
	errTrailing  = errors.New("has something after the object; there must be one object a line")
)

// field finds the field that a quoted name stands for.
func (p *parser) field(name jsontext.Value) (field, bool) {
	f, ok := fieldsByName[string(unquoteBytes(name))]
	return f, ok
}

// set reads one member into the record.
func (p *parser) set(f field, value jsontext.Value, line bool) {
	if value.Kind() == 'n' {
		// A null says that there is none: the same as leaving the name out.
		return
	}
	p.seen.add(f)
	r := p.rec
	switch f {
	case fieldRecordID:
		r.RecordID = p.string(f, value)
	case fieldTLC:
		r.TLC = p.string(f, value)
	case fieldTLCSource:
		r.TLCSource = p.string(f, value)
	case fieldEventType:
		if t, known := ParseEventType(p.string(f, value)); known {
			r.EventType = t
		}
	case fieldEventTimestamp:
		r.EventTimestamp = p.time(f, value)
	case fieldCreatedOrObtainedAt:
		r.CreatedOrObtainedAt = p.time(f, value)
	case fieldKDEs:
		if value.Kind() != '{' {
			p.fail(f, "type", "must be an object, not "+kindName(value))
			return
		}
		r.KDEs = compact(value)
		return // compact, it is canonical as it stands
	case fieldInputLots:
		p.inputLots(value)
	case fieldCorrects:
		r.Corrects = p.string(f, value)
	case fieldLabels:
		p.labels(value)
	case fieldRetentionHold:
		if kind := value.Kind(); kind != 't' && kind != 'f' {
			p.fail(f, "type", "must be true or false, not "+kindName(value))
			return
		}
		hold := value.Kind() == 't'
		r.RetentionHold = &hold
	default:
		p.setLine(f, value)
		return
	}
	if line || p.problem != nil {
		return
	}
	if p.scratch = r.appendCanonical(p.scratch[:0], f); !bytes.Equal(p.scratch, value) {
		if text := compact(value); !bytes.Equal(p.scratch, text) {
			r.asGiven = append(r.asGiven, given{f, text})
		}
	}
}

// setLine reads a member that only the canonical line has. Whatever is not exactly
// as AppendLine prints it is found when ParseLine compares the bytes.
func (p *parser) setLine(f field, value jsontext.Value) {
	r := p.rec
	switch f {
	case fieldVersion:
		if string(value) != "1" {
			p.fail(f, "type", "must be 1, the only version there is")
		}
	case fieldDefaulted:
		for name := range elements(value) {
			if f, ok := p.field(name); ok {
				r.defaulted.add(f)
			}
		}
	case fieldAsGiven:
		for name, text := range members(value) {
			if f, ok := p.field(name); ok && f < nativeFields {
				r.asGiven = append(r.asGiven, given{f, text.Clone()})
			}
		}
	case fieldSource:
		r.Source = new(Source)
		for name, text := range members(value) {
			switch unquote(name) {
			case "format":
				r.Source.Format = unquote(text)
			case "header":
				r.Source.Header = unquote(text)
			case "row":
				r.Source.Row = unquote(text)
			}
		}
	case fieldSalt:
		if salt := unquote(value); len(salt) == hex.EncodedLen(len(r.Salt)) {
			_, _ = hex.Decode(r.Salt[:], []byte(salt)) // what it cannot read, the comparison with AppendLine refuses
		}
	}
}

func (p *parser) string(f field, value jsontext.Value) string {
	if value.Kind() != '"' {
		p.fail(f, "type", "must be a string, not "+kindName(value))
		return ""
	}
	return unquote(value)
}

func (p *parser) time(f field, value jsontext.Value) time.Time {
	s := p.string(f, value)
	if value.Kind() != '"' {
		return time.Time{}
	}
	t, err := ParseTime(s)
	if err != nil {
		p.fail(f, "time", err.Error())
	}
	return t
}

// inputLots reads an array whose elements are lot codes or lots.
func (p *parser) inputLots(value jsontext.Value) {
	const f = fieldInputLots
	if value.Kind() != '[' {
		p.fail(f, "type", "must be an array, not "+kindName(value))
		return
	}
	i := -1
	for element := range elements(compact(value)) {
		i++
		at := f.String() + "[" + strconv.Itoa(i) + "]"
		var lot Lot
		switch element.Kind() {
		case '"':
			lot.TLC = unquote(element)
		case '{':
			for name, text := range members(element) {
				var to *string
				switch name := unquote(name); name {
				case "traceability_lot_code":
					to = &lot.TLC
				case "tlc_source":
					to = &lot.Source
				default:
					p.note(refuse(at+"."+cut(name, 64), "unknown", "a lot has only traceability_lot_code and tlc_source"))
					continue
				}
				switch text.Kind() {
				case '"':
					*to = unquote(text)
				case 'n':
				default:
					p.note(refuse(at+"."+unquote(name), "type", "must be a string, not "+kindName(text)))
				}
			}
		default:
			p.note(refuse(at, "type", "must be a lot code or an object, not "+kindName(element)))
		}
		p.rec.InputLots = append(p.rec.InputLots, lot)
	}
}

func (p *parser) labels(value jsontext.Value) {
	const f = fieldLabels
	if value.Kind() != '{' {
		p.fail(f, "type", "must be an object, not "+kindName(value))
		return
	}
	for name, text := range members(compact(value)) {
		name := unquote(name)
		if text.Kind() != '"' {
			p.note(refuse(f.String()+"."+cut(name, 64), "type", "must be a string, not "+kindName(text)))
			continue
		}
		if p.rec.Labels == nil {
			p.rec.Labels = make(map[string]string)
		}
		p.rec.Labels[name] = unquote(text)
	}
}

func (p *parser) fail(f field, rule, reason string) { p.note(refuse(f.String(), rule, reason)) }

func (p *parser) note(problem *Reject) {
	if p.problem == nil {
		p.problem = problem
	}
}

// refused adds the record's id to a reject, if it was read and is fit to be printed.
func (p *parser) refused(r *Reject) *Reject {
	if id := p.rec.RecordID; rules.Var(id, "maxbytes=512,nocontrol") == nil {
		r.RecordID = id
	}
	return r
}

// syntaxReject says in words what the decoder found. The decoder's own words quote
// what they complain about, which may be a part of a KDE.
func syntaxReject(err error) *Reject {
	var syntax *jsontext.SyntacticError
	if !errors.As(err, &syntax) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err == io.ErrUnexpectedEOF {
			return refuse("", "syntax", "ends within the object")
		}
		return refuse("", "syntax", err.Error())
	}
	field := fieldOf(syntax.JSONPointer)
	at := " at byte " + strconv.FormatInt(syntax.ByteOffset+1, 10)
	switch {
	case syntax.Err == jsontext.ErrDuplicateName:
		return refuse(field, "duplicate", "stands twice in the same object, so it has no one value")
	case syntax.Err == jsontext.ErrNonStringName:
		return refuse(field, "syntax", "has a name that is not a string"+at)
	case syntax.Err == io.ErrUnexpectedEOF:
		return refuse(field, "syntax", "ends within the object")
	case strings.Contains(syntax.Err.Error(), "UTF-8"):
		return refuse(field, "utf8", "is not UTF-8"+at)
	default:
		return refuse(field, "syntax", "is not JSON"+at)
	}
}

// fieldOf turns the decoder's JSON Pointer into the form fields are named in:
// "kde_payload.quantity", at most 128 bytes of it.
func fieldOf(pointer jsontext.Pointer) string {
	var names []string
	for name := range pointer.Tokens() {
		names = append(names, cut(name, 64))
	}
	return cut(strings.Join(names, "."), 128)
}

// unknownField refuses a name that no record has. It is not kept silently: a
// misspelt retention_hold or created_or_obtained_at would change how long the
// record is kept.
func unknownField(name string) *Reject {
	reason := "no record has this field"
	var nearest field
	distance := 4 // further off it is another word
	for f := range nativeFields {
		if d := editDistance(cut(name, 64), f.String()); d < distance {
			nearest, distance = f, d
		}
	}
	if distance < min(4, len(name)) {
		reason += fmt.Sprintf("; did you mean %s?", nearest)
	} else {
		reason += "; facts about the event belong in kde_payload"
	}
	return refuse(cut(name, 64), "unknown", reason)
}

// editDistance counts the letters to add, drop or replace to get from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// compact returns a copy of a value that the decoder has checked, without white
// space between its tokens and otherwise untouched.
func compact(value jsontext.Value) jsontext.Value {
	c := make(jsontext.Value, 0, len(value))
	start := 0 // of what is still to be copied
	for i := 0; i < len(value); {
		switch value[i] {
		case '"':
			i += stringLen(value[i:])
		case ' ', '\t', '\n', '\r':
			c = append(c, value[start:i]...)
			i++
			start = i
		default:
			i++
		}
	}
	return append(c, value[start:]...)
}

// members iterates over the members of a compact object, elements over the
// elements of a compact array. Names come quoted. Anything else has none.
func members(object jsontext.Value) iter.Seq2[jsontext.Value, jsontext.Value] {
	return func(yield func(name, value jsontext.Value) bool) {
		if len(object) == 0 || object[0] != '{' {
			return
		}
		for rest := object[1:]; len(rest) > 0 && rest[0] == '"'; {
			n := stringLen(rest)
			name := rest[:n]
			rest = rest[n:]
			if len(rest) < 2 || rest[0] != ':' {
				return
			}
			rest = rest[1:]
			n = valueLen(rest)
			if !yield(name, rest[:n]) {
				return
			}
			if rest = rest[n:]; len(rest) > 0 {
				rest = rest[1:] // the comma or the end
			}
		}
	}
}

func elements(array jsontext.Value) iter.Seq[jsontext.Value] {
	return func(yield func(jsontext.Value) bool) {
		if len(array) == 0 || array[0] != '[' {
			return
		}
		for rest := array[1:]; len(rest) > 1; {
			n := valueLen(rest)
			if !yield(rest[:n]) {
				return
			}
			if rest = rest[n:]; len(rest) > 0 {
				rest = rest[1:]
			}
		}
	}
}

// valueLen is the length of the JSON value that compact text begins with.
func valueLen(text []byte) int {
	depth := 0
	for i := 0; i < len(text); {
		switch text[i] {
		case '"':
			i += stringLen(text[i:])
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i // the end of what the value stands in
			}
			if depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return len(text)
}

// stringLen is the length of the JSON string that text begins with.
func stringLen(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// unquote returns the text of a JSON string that the decoder has checked, and ""
// for any other value.
func unquote(value jsontext.Value) string { return string(unquoteBytes(value)) }

// unquoteBytes is unquote; its result may be a part of value.
func unquoteBytes(value jsontext.Value) []byte {
	if len(value) < 2 || value[0] != '"' {
		return nil
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	b, _ := jsontext.AppendUnquote(nil, value)
	return b
}

// kindName names the JSON type of a value, for a reason.
func kindName(value jsontext.Value) string {
	switch value.Kind() {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	default:
		return "an array"
	}
}

// cut shortens s to at most n bytes, at the edge of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !isRuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func isRuneStart(b byte) bool { return b&0xC0 != 0x80 }
