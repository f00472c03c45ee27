package cte

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/go-playground/validator/v10"
)

// Lot is a traceability lot: a TLC is unique only among the lots of its source
// (21 CFR 1.1310, "traceability lot code source"). An empty Source is unknown.
type Lot struct {
	TLC    string `json:"traceability_lot_code" validate:"required,maxbytes=512,nocontrol"`
	Source string `json:"tlc_source,omitempty" validate:"maxbytes=512,nocontrol"`
}

// Record is one critical tracking event. A record that came from [Reader.Next] or
// [ParseLine] keeps to the rules below; it is not to be changed, since what it
// remembers of the form it was given in would no longer fit.
type Record struct {
	// RecordID is the identity the input gave: 1 to 512 bytes without control characters.
	RecordID string `json:"record_id" validate:"required,maxbytes=512,nocontrol"`

	// TLC is empty only for harvesting and cooling, which come before the first lot code.
	TLC       string `json:"traceability_lot_code" validate:"maxbytes=512,nocontrol"`
	TLCSource string `json:"tlc_source" validate:"maxbytes=512,nocontrol"`

	EventType EventType `json:"event_type" validate:"-"`

	// Both in UTC with nanoseconds, in the years 0001-9999. The law counts
	// from the day the record was created or obtained (21 CFR 1.1455(d)).
	EventTimestamp      time.Time `json:"event_timestamp" validate:"-"`
	CreatedOrObtainedAt time.Time `json:"created_or_obtained_at" validate:"-"`

	// KDEs is a JSON object without white space between its tokens, otherwise
	// literally as it was given.
	KDEs jsontext.Value `json:"kde_payload" validate:"required"`

	InputLots []Lot             `json:"input_lots" validate:"dive"`
	Corrects  string            `json:"corrects" validate:"maxbytes=512,nocontrol"`
	Labels    map[string]string `json:"labels" validate:"dive,keys,required,maxbytes=512,nocontrol,endkeys,maxbytes=512,nocontrol"`

	// RetentionHold asks for a hold (true) or says there is none (false, which
	// releases nothing); nil when it was not given.
	RetentionHold *bool `json:"retention_hold" validate:"-"`

	// Source is the input's own bytes; nil when the input was native.
	Source *Source `json:"source" validate:"-"`

	// Salt makes the checksum of the line a hiding commitment: once the line is
	// destroyed, a guess at its KDEs cannot be tried against the checksum.
	Salt [16]byte `json:"salt" validate:"-"`

	defaulted fieldSet // fields that the engine filled in
	asGiven   []given  // in field order; empty for a record built in code
}

// Source is a row of an input that was not native, as it stood there.
type Source struct {
	Format string // FormatPipe or FormatComma
	Header string // the header line
	Row    string // the row, without its line terminator
}

// given is the JSON text of a native field where it differs from the text the
// canonical line has for the same value: a time with an offset, an unknown event
// type, lots written as strings, needless escapes.
type given struct {
	field field
	text  jsontext.Value
}

// givenText returns the text that f was given in, or nil if it is the canonical one.
func (r *Record) givenText(f field) jsontext.Value {
	for _, g := range r.asGiven {
		if g.field == f {
			return g.text
		}
	}
	return nil
}

// rules checks the struct tags of Record; validators cache what they learn about
// a type, so there is one.
var rules = newRules()

func newRules() *validator.Validate {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(func(f reflect.StructField) string {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		return name
	})
	must := func(err error) {
		if err != nil {
			panic(err) // a misspelt tag in this file
		}
	}
	// The validator's own max counts runes; what has to be bounded is index bytes.
	must(v.RegisterValidation("maxbytes", func(fl validator.FieldLevel) bool {
		limit, err := strconv.Atoi(fl.Param())
		must(err)
		return len(fl.Field().String()) <= limit
	}))
	// Control characters reach terminals, file names and C strings from here.
	must(v.RegisterValidation("nocontrol", func(fl validator.FieldLevel) bool {
		return !strings.ContainsFunc(fl.Field().String(), unicode.IsControl)
	}))
	v.RegisterStructValidation(func(sl validator.StructLevel) {
		r := sl.Current().Addr().Interface().(*Record)
		if r.TLC == "" && r.EventType.carriesLot() {
			sl.ReportError(r.TLC, "traceability_lot_code", "TLC", "required_for_event", "")
		}
	}, Record{})
	return v
}

// check applies the rules that a readable record has to keep.
func (r *Record) check() *Reject {
	err := rules.Struct(r)
	if err == nil {
		return nil
	}
	var broken validator.ValidationErrors
	if !errors.As(err, &broken) || len(broken) == 0 {
		return refuse("", "internal", fmt.Sprintf("the record could not be checked: %v", err))
	}
	first := broken[0]
	_, field, _ := strings.Cut(first.Namespace(), ".") // "Record.input_lots[1].tlc_source"
	switch rule := first.Tag(); rule {
	case "required":
		return refuse(field, rule, "is missing or empty")
	case "required_for_event":
		return refuse(field, "required", "is missing; only harvesting and cooling records go without one")
	case "maxbytes":
		return refuse(field, rule, "is longer than "+first.Param()+" bytes")
	case "nocontrol":
		return refuse(field, rule, "contains a control character")
	default:
		return refuse(field, rule, "breaks the rule "+rule)
	}
}

// Reject is a row that was refused. The rules are:
//
//	required     a field without which there is no record is missing, empty or null
//	type         a field has another JSON type than it must have
//	unknown      a top-level name that no record has
//	duplicate    a name stands twice in one object
//	syntax       the row is not one JSON object
//	truncated    the input ends within the row
//	utf8         the row is not UTF-8
//	time, date   an instant or a day that is not unambiguous, or does not exist
//	maxbytes     an id, lot code, source or label is too long, or the row is
//	nocontrol    an id, lot code, source or label has control characters
//	columns      a delimited row has another number of cells than its header
//	quote        a quoted cell is not closed, or is followed by text
//	gap          a KDE is missing, and Options.Strict asks for all of them
type Reject struct {
	File     string `json:"file"`
	Line     int    `json:"line"` // of the input, from 1; a row of several lines counts where it begins
	RecordID string `json:"record_id,omitempty"`
	Field    string `json:"field"` // the native field or the column; empty for the row as a whole
	Rule     string `json:"rule"`
	Reason   string `json:"reason"`

	// Input is the row's own bytes without the line terminator; nil when it was
	// longer than 16 MiB. It holds KDEs: it belongs in the rejects file and
	// nowhere else. In JSON it is base64, since it need not be UTF-8.
	Input []byte `json:"input,omitempty"`
}

// Error returns "FILE:LINE: FIELD: REASON".
func (r *Reject) Error() string {
	s := r.Reason
	if r.Field != "" {
		s = r.Field + ": " + s
	}
	if r.Line > 0 {
		s = fmt.Sprintf("%s:%d: %s", r.File, r.Line, s)
	}
	return s
}

func refuse(field, rule, reason string) *Reject {
	return &Reject{Field: field, Rule: rule, Reason: reason}
}
