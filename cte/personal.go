package cte

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// mask is what stands in place of a masked value.
const mask = `"[masked]"`

// personal are the parts of names by which a KDE is known to name a person, or to say
// how to reach one. They are looked for in a name in lower case that has "_" at both
// ends, for whatever is no letter, and before a capital that follows a small letter.
//
// What is not written into a KDE of its own, such as a telephone number in a remark,
// cannot be found so.
var personal = []string{
	"harvester", // business name and phone number of the harvester, 21 CFR 1.1330(a)(7): mostly a person
	"phone",     // phone number, a part of each location description, 21 CFR 1.1310
	"contact",   // point of contact, 21 CFR 1.1310 and 1.1315(a)(4): an individual; ContactInformation in GS1's header
	// The rule does not ask for these. They come in the place of those above.
	"captain", "_tel_", "mobile", "_fax_", "email", "e_mail",
}

// personalBy has them by their first byte: every name of every record that is exported
// is looked at.
var personalBy = func() (by [256][]string) {
	for _, part := range personal {
		by[part[0]] = append(by[part[0]], part)
	}
	return by
}()

// isPersonal says whether a KDE of this name is masked.
func isPersonal(name []byte) bool {
	var space [128]byte
	text, small := append(space[:0], '_'), false
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z':
			text, small = append(text, c), true
			continue
		case 'A' <= c && c <= 'Z':
			if small {
				text = append(text, '_')
			}
			text = append(text, c-'A'+'a')
		default:
			text = append(text, '_')
		}
		small = false
	}
	text = append(text, '_')
	for i, c := range text {
		for _, part := range personalBy[c] {
			if len(text)-i >= len(part) && string(text[i:i+len(part)]) == part {
				return true
			}
		}
	}
	return false
}

// Masked returns the record with every value masked that names people or their
// telephone numbers, at whatever depth it stands; all else keeps its literal text.
// The source's row is masked as a whole, for the same values stand in it. Without
// any such value it returns the record itself, and false.
//
// A masked record has another content and another checksum than the record.
func (r *Record) Masked() (_ *Record, found bool) {
	m := masking{in: r.KDEs}
	if len(m.in) > 0 {
		m.value()
	}
	if m.out == nil {
		return r, false
	}
	masked := *r
	masked.KDEs = append(m.out, m.in[m.copied:]...)
	if r.Source != nil {
		source := *r.Source
		source.Row = "[masked]"
		masked.Source = &source
	}
	return &masked, true
}

// masking copies a compact value, but for what is masked, in one pass: a value may be
// megabytes long and thousands deep.
type masking struct {
	in     jsontext.Value
	at     int    // what is looked at
	out    []byte // nil while nothing is masked
	copied int    // how much of in is in out
}

func (m *masking) value() {
	switch m.in[m.at] {
	case '{':
		for m.at++; m.in[m.at] != '}'; m.comma() {
			name := m.in[m.at : m.at+stringLen(m.in[m.at:])]
			m.at += len(name) + len(":")
			if isPersonal(unquoteBytes(name)) {
				m.personal()
			} else {
				m.value()
			}
		}
		m.at++
	case '[':
		for m.at++; m.in[m.at] != ']'; m.comma() {
			m.value()
		}
		m.at++
	default:
		m.at += valueLen(m.in[m.at:])
	}
}

func (m *masking) comma() {
	if m.in[m.at] == ',' {
		m.at++
	}
}

// personal masks a value, unless there is nothing in it that tells anything.
func (m *masking) personal() {
	value := m.in[m.at : m.at+valueLen(m.in[m.at:])]
	if tells(value) {
		m.out = append(append(m.out, m.in[m.copied:m.at]...), mask...)
		m.copied = m.at + len(value)
	}
	m.at += len(value)
}

// tells is isGiven, but for texts: "n/a (ask Joe)" is not given and tells of Joe.
func tells(value jsontext.Value) bool {
	if value.Kind() == '"' {
		return len(bytes.TrimSpace(unquoteBytes(value))) > 0
	}
	return isGiven(value)
}
