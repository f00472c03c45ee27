package cte

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"
)

// with returns the textbook record with one edit.
func with(old, new string) string {
	edited := strings.Replace(textbook, old, new, 1)
	if edited == textbook {
		panic("the edit does not apply: " + old)
	}
	return edited
}

const (
	idField   = `"record_id":"cte-8842-a"`
	tlcField  = `"traceability_lot_code":"LOT-2022-09-14-XJ9"`
	timeField = `"event_timestamp":"2022-09-14T08:30:00Z"`
	kdeField  = `"kde_payload":{"facility":"FAC-001","product_code":"PC-7782","quantity":1200}`
	holdField = `"retention_hold":false`
)

var long = strings.Repeat("x", 513)

// badLines are rows that have to be refused, and how.
var badLines = []struct{ name, line, id, field, rule, reason string }{
	{"no id", with(idField+",", ``), "", "record_id", "required", "missing"},
	{"null id", with(idField, `"record_id":null`), "", "record_id", "required", "null"},
	{"empty id", with(idField, `"record_id":""`), "", "record_id", "required", "empty"},
	{"id a number", with(idField, `"record_id":8842`), "", "record_id", "type", "must be a string, not a number"},
	{"NUL in the id", with(idField, `"record_id":"a\u0000b"`), "", "record_id", "nocontrol", "control character"},
	{"raw NUL in the id", with(idField, "\"record_id\":\"a\x00b\""), "", "record_id", "syntax", "not JSON"},
	{"DEL in the id", with(idField, `"record_id":"a\u007f"`), "", "record_id", "nocontrol", "control character"},
	{"C1 in the id", with(idField, `"record_id":"a\u0085"`), "", "record_id", "nocontrol", "control character"},
	{"long id", with(idField, `"record_id":"`+long+`"`), "", "record_id", "maxbytes", "longer than 512 bytes"},
	{"long in bytes", with(idField, `"record_id":"`+strings.Repeat("é", 257)+`"`), "", "record_id", "maxbytes", "512"},
	{"no lot", with(tlcField+",", ``), "cte-8842-a", "traceability_lot_code", "required", "only harvesting and cooling"},
	{"null lot", with(tlcField, `"traceability_lot_code":null`), "cte-8842-a", "traceability_lot_code", "required", "missing"},
	{"no lot, shipping", with(tlcField, `"event_type":"shipping"`), "cte-8842-a", "traceability_lot_code", "required", "missing"},
	{"newline in the lot", with(tlcField, `"traceability_lot_code":"a\nb"`), "cte-8842-a", "traceability_lot_code", "nocontrol", "control"},
	{"long lot", with(tlcField, `"traceability_lot_code":"`+long+`"`), "cte-8842-a", "traceability_lot_code", "maxbytes", "512"},
	{"no time", with(timeField+",", ``), "cte-8842-a", "event_timestamp", "required", "missing"},
	{"naive time", with(timeField, `"event_timestamp":"2022-09-14T08:30:00"`), "cte-8842-a", "event_timestamp", "time", "no offset"},
	{"lower-case z", with(timeField, `"event_timestamp":"2022-09-14T08:30:00z"`), "cte-8842-a", "event_timestamp", "time", "lower-case z"},
	{"one-digit hour", with(timeField, `"event_timestamp":"2022-09-14T3:04:00Z"`), "cte-8842-a", "event_timestamp", "time", "RFC 3339"},
	{"decimal comma", with(timeField, `"event_timestamp":"2022-09-14T08:30:00,5Z"`), "cte-8842-a", "event_timestamp", "time", "comma"},
	{"offset of a day", with(timeField, `"event_timestamp":"2022-09-14T08:30:00+24:00"`), "cte-8842-a", "event_timestamp", "time", "23:59"},
	{"unknown offset", with(timeField, `"event_timestamp":"2022-09-14T08:30:00-00:00"`), "cte-8842-a", "event_timestamp", "time", "-00:00"},
	{"no such day", with(timeField, `"event_timestamp":"2022-02-29T08:30:00Z"`), "cte-8842-a", "event_timestamp", "time", "leap year"},
	{"year 0", with(timeField, `"event_timestamp":"0000-09-14T08:30:00Z"`), "cte-8842-a", "event_timestamp", "time", "year 0000"},
	{"year 10000", with(timeField, `"event_timestamp":"10000-09-14T08:30:00Z"`), "cte-8842-a", "event_timestamp", "time", "RFC 3339"},
	{"time a number", with(timeField, `"event_timestamp":1663144200`), "cte-8842-a", "event_timestamp", "type", "number"},
	{"naive created", with(holdField, `"created_or_obtained_at":"2022-09-14"`), "cte-8842-a", "created_or_obtained_at", "time", "no time of day"},
	{"no KDEs", with(","+kdeField, ``), "cte-8842-a", "kde_payload", "required", "missing"},
	{"null KDEs", with(kdeField, `"kde_payload":null`), "cte-8842-a", "kde_payload", "required", "null"},
	{"KDEs a string", with(kdeField, `"kde_payload":"{}"`), "cte-8842-a", "kde_payload", "type", "must be an object, not a string"},
	{"KDEs an array", with(kdeField, `"kde_payload":[{}]`), "cte-8842-a", "kde_payload", "type", "an array"},
	{"field twice", with(holdField, timeField), "cte-8842-a", "event_timestamp", "duplicate", "twice"},
	{"KDE twice", with(`"quantity":1200`, `"facility":"other"`), "cte-8842-a", "kde_payload.facility", "duplicate", "twice"},
	{"KDE twice, escaped", with(`"quantity":1200`, `"f\u0061cility":"other"`), "cte-8842-a", "kde_payload.facility", "duplicate", "twice"},
	{"KDE twice, deep", with(`1200`, `{"a":[{"b":1,"b":2}]}`), "cte-8842-a", "kde_payload.quantity.a.0.b", "duplicate", "twice"},
	{"invalid UTF-8", with("FAC-001", "F\xffC"), "cte-8842-a", "kde_payload.facility", "utf8", "not UTF-8"},
	{"lone surrogate", with("FAC-001", `\ud800`), "cte-8842-a", "kde_payload.facility", "syntax", "not JSON"},
	{"broken JSON", with(`1200`, `01200`), "cte-8842-a", "kde_payload", "syntax", "not JSON at byte 186"},
	{"a comma too many", with(`1200`, `1200,`), "cte-8842-a", "kde_payload", "syntax", "not JSON"},
	{"NaN", with(`1200`, `NaN`), "cte-8842-a", "kde_payload.quantity", "syntax", "not JSON"},
	{"two objects", textbook + textbook, "cte-8842-a", "", "syntax", "one object a line"},
	{"text behind", textbook + " x", "cte-8842-a", "", "syntax", "after the object"},
	{"an array", "[" + textbook + "]", "", "", "syntax", "not a JSON object"},
	{"a number", "17", "", "", "syntax", "not a JSON object"},
	{"no JSON", "hello", "", "", "syntax", "not JSON"},
	{"misspelt hold", with(`"retention_hold"`, `"retention_hol"`), "cte-8842-a", "retention_hol", "unknown", "did you mean retention_hold?"},
	{"misspelt date", with(holdField, `"created_or_obtaned_at":"2022-09-14T08:30:00Z"`), "cte-8842-a", "created_or_obtaned_at", "unknown", "did you mean created_or_obtained_at?"},
	{"another case", with(`"retention_hold"`, `"Retention_Hold"`), "cte-8842-a", "Retention_Hold", "unknown", "did you mean retention_hold?"},
	{"a KDE outside", with(holdField, `"qty":5`), "cte-8842-a", "qty", "unknown", "belong in kde_payload"},
	{"a line's field", with(holdField, `"salt":"00"`), "cte-8842-a", "salt", "unknown", "no record has this field"},
	{"hold a string", with(holdField, `"retention_hold":"true"`), "cte-8842-a", "retention_hold", "type", "true or false"},
	{"labels an array", with(holdField, `"labels":["a"]`), "cte-8842-a", "labels", "type", "must be an object"},
	{"a label a number", with(holdField, `"labels":{"a":1}`), "cte-8842-a", "labels.a", "type", "must be a string"},
	{"a label without name", with(holdField, `"labels":{"":"a"}`), "cte-8842-a", "labels[]", "required", "empty"},
	{"lots an object", with(holdField, `"input_lots":{}`), "cte-8842-a", "input_lots", "type", "must be an array"},
	{"a lot a number", with(holdField, `"input_lots":["a",7]`), "cte-8842-a", "input_lots[1]", "type", "lot code or an object"},
	{"a lot empty", with(holdField, `"input_lots":["a",""]`), "cte-8842-a", "input_lots[1].traceability_lot_code", "required", "empty"},
	{"a lot without code", with(holdField, `"input_lots":[{"tlc_source":"S"}]`), "cte-8842-a", "input_lots[0].traceability_lot_code", "required", "missing"},
	{"a lot misspelt", with(holdField, `"input_lots":[{"tlc":"L"}]`), "cte-8842-a", "input_lots[0].tlc", "unknown", "only traceability_lot_code"},
	{"a lot of numbers", with(holdField, `"input_lots":[{"traceability_lot_code":7}]`), "cte-8842-a", "input_lots[0].traceability_lot_code", "type", "a number"},
	{"a type a number", with(holdField, `"event_type":7`), "cte-8842-a", "event_type", "type", "must be a string"},
	{"id behind the fault", `{"event_timestamp":"x",` + idField + `,` + tlcField + `,` + kdeField + `}`, "cte-8842-a", "event_timestamp", "time", "RFC 3339"},
}

func TestNativeRejects(t *testing.T) {
	for _, test := range badLines {
		t.Run(test.name, func(t *testing.T) {
			// The rows around it have to survive.
			good := func(id string) string { return with("cte-8842-a", id) + "\n" }
			records, rejects := readAll(t, good("before")+"\n"+test.line+"\n"+good("after"), Options{File: "in.jsonl"})
			if len(records) != 2 || records[0].RecordID != "before" || records[1].RecordID != "after" {
				t.Fatalf("%d records were kept, want the two around it", len(records))
			}
			if len(rejects) != 1 {
				t.Fatalf("%d rejects", len(rejects))
			}
			r := rejects[0]
			if r.File != "in.jsonl" || r.Line != 3 || r.Field != test.field || r.Rule != test.rule || r.RecordID != test.id || !strings.Contains(r.Reason, test.reason) {
				t.Errorf("got %+v\nwant line 3, id %q, field %q, rule %q, reason with %q", r, test.id, test.field, test.rule, test.reason)
			}
			if string(r.Input) != test.line {
				t.Errorf("Input is not the row's own bytes")
			}
			for _, kde := range []string{"FAC-001", "PC-7782", "1200"} {
				if strings.Contains(r.Error(), kde) {
					t.Errorf("%q has a KDE in it", r.Error())
				}
			}
			if len(r.Error()) > 400 {
				t.Errorf("the message has %d bytes", len(r.Error()))
			}
		})
	}
}

func TestRejectError(t *testing.T) {
	_, rejects := readAll(t, with(timeField, `"event_timestamp":"2022-09-14T08:30:00"`), Options{File: "a.jsonl"})
	want := `a.jsonl:1: event_timestamp: time "2022-09-14T08:30:00" has no offset, so it names no instant; wanted is Z or an offset such as +02:00 at the end`
	if got := rejects[0].Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNativeLiterals(t *testing.T) {
	for _, kdes := range []string{
		`{}`,
		`{"sscc":106141412345678908,"weight":1200.50,"tiny":1e-400,"zero":-0,"big":123456789012345678901234567890}`,
		`{"a":"\u00e9\u0000\/\u2028 <&> \ud83c\udf45 é 🍅"}`,
		`{"b":1,"a":{"d":[],"c":[1,{"x":null}]},"":true}`,
	} {
		in := with(kdeField, `"kde_payload":`+kdes)
		if got := string(readOne(t, in).AppendNative(nil)); got != in {
			t.Errorf("went in as\n%s\ncame out as\n%s", in, got)
		}
		checkRecord(t, readOne(t, in))
	}
}

// All forms a field may be given in come out as they went in.
func TestNativeForms(t *testing.T) {
	for _, fields := range []string{
		`"record_id":"a","event_type":"harvesting","event_timestamp":"2022-09-14T08:30:00.500+02:00","kde_payload":{}`,
		`"record_id":"a","event_type":"cooling","event_timestamp":"2022-09-14T08:30:00+00:00","created_or_obtained_at":"2022-09-14T23:59:59-12:00","kde_payload":{}`,
		`"record_id":"a","traceability_lot_code":"L","tlc_source":"","event_type":"Shipping","event_timestamp":"2022-09-14T08:30:00Z","kde_payload":{},"input_lots":[],"corrects":"","labels":{}`,
		`"record_id":"\u0061","traceability_lot_code":"L\/M","event_type":"shippin\u0067","event_timestamp":"2022-09-14T08:30:0\u0030Z","kde_payload":{},"input_lots":["A",{"tlc_source":"S","traceability_lot_code":"B"},{"traceability_lot_code":"C","tlc_source":null}],"corrects":"<b>","labels":{"z":"1","a":""},"retention_hold":true`,
	} {
		in := "{" + fields + "}"
		r := readOne(t, in)
		if got := string(r.AppendNative(nil)); got != in {
			t.Errorf("went in as\n%s\ncame out as\n%s", in, got)
		}
		checkRecord(t, r)
	}
}

func TestNativeInputForms(t *testing.T) {
	bom, crlf := "\ufeff", "\r\n"
	for name, input := range map[string]string{
		"no newline at the end":     textbook,
		"CRLF":                      textbook + crlf,
		"byte order mark":           bom + textbook + "\n",
		"blank lines":               "\n \t\n" + crlf + textbook + "\n\n",
		"blanks around":             "  " + textbook + " \t\n",
		"byte order mark and blank": bom + crlf + textbook,
	} {
		r := readOne(t, input)
		if got := string(r.AppendNative(nil)); got != textbook {
			t.Errorf("%s: %s", name, got)
		}
	}
	if records, rejects := readAll(t, "", Options{}); len(records)+len(rejects) != 0 {
		t.Errorf("an empty input has rows")
	}
	if records, rejects := readAll(t, bom+"\n\n", Options{}); len(records)+len(rejects) != 0 {
		t.Errorf("a blank input has rows")
	}
}

func TestTruncatedLastLine(t *testing.T) {
	whole := with("FAC-001", `Caf\u00e9 é 🍅`)
	for n := 1; n < len(whole); n++ {
		records, rejects := readAll(t, textbook+"\n"+whole[:n], Options{})
		if len(records) != 1 || len(rejects) != 1 {
			t.Fatalf("cut after %d bytes: %d records, %d rejects", n, len(records), len(rejects))
		}
		if r := rejects[0]; r.Rule != "truncated" || !strings.Contains(r.Reason, "looks truncated") || r.Line != 2 {
			t.Fatalf("cut after %d bytes: %v", n, r)
		}
	}
	// With its newline there, the same line is broken and nothing more.
	if _, rejects := readAll(t, textbook[:50]+"\n", Options{}); rejects[0].Rule != "syntax" {
		t.Errorf("%+v", rejects[0])
	}
}

func TestLongLines(t *testing.T) {
	// 10 MB come out as they went in.
	in := with("FAC-001", strings.Repeat("0123456789", 1<<20))
	r := readOne(t, in+"\n")
	if got := string(r.AppendNative(nil)); got != in {
		t.Errorf("10 MB did not come out as they went in")
	}
	if _, err := ParseLine(r.AppendLine(nil)); err != nil {
		t.Errorf("ParseLine: %v", err)
	}

	// The space for it is given back while the lines behind it are read.
	blank := strings.Repeat(" ", 1<<16) + "\n"
	reader, err := NewReader(strings.NewReader(in+"\n"+strings.Repeat(blank, 600)), Options{Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = reader.Next()
	}
	if cap(reader.lines.space) > 1<<20 {
		t.Errorf("the buffer still has %d bytes", cap(reader.lines.space))
	}

	// 16 MiB and not one byte more.
	fill := strings.Repeat("x", maxRow-len(textbook))
	limit := with("FAC-001", "FAC-001"+fill)
	records, rejects := readAll(t, limit+"\n"+with("FAC-001", "FAC-001x"+fill)+"\n"+textbook, Options{})
	if len(records) != 2 || len(rejects) != 1 {
		t.Fatalf("%d records, %d rejects", len(records), len(rejects))
	}
	if r := rejects[0]; r.Line != 2 || r.Input != nil || !strings.Contains(r.Reason, "16 MiB") {
		t.Errorf("line %d, %d bytes of input, %s", r.Line, len(r.Input), r.Reason)
	}
}

// A line that is too long is read on without being kept.
func TestEndlessLineIsNotBuffered(t *testing.T) {
	const length = 256 << 20
	var blanks spaces
	in := io.MultiReader(strings.NewReader(textbook+"\n{"), io.LimitReader(&blanks, length), strings.NewReader("\n"+textbook))
	r, err := NewReader(in, Options{Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for {
		_, err := r.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			kept++
		}
	}
	if blanks.most > maxRow+1<<20 {
		t.Errorf("the buffer had room for %d bytes more", blanks.most)
	}
	if kept != 2 || r.Read() != 3 || r.Bytes() != int64(2*len(textbook)+length+3) {
		t.Errorf("%d kept of %d rows in %d bytes", kept, r.Read(), r.Bytes())
	}
}

// spaces are endless, and know the most that was asked for at once.
type spaces struct{ most int }

func (s *spaces) Read(p []byte) (int, error) {
	s.most = max(s.most, len(p))
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// How the input arrives does not matter, and a failure to read is no fault of a row.
func TestReadingInPieces(t *testing.T) {
	input := strings.Repeat(textbook+"\r\n", 200) + "{broken\n" + textbook
	for name, in := range map[string]io.Reader{
		"byte by byte": iotest.OneByteReader(strings.NewReader(input)),
		"in halves":    iotest.HalfReader(strings.NewReader(input)),
		"data and EOF": iotest.DataErrReader(strings.NewReader(input)),
	} {
		r, err := NewReader(in, Options{Now: testNow})
		if err != nil {
			t.Fatal(err)
		}
		kept := 0
		for {
			_, err := r.Next()
			if err == io.EOF {
				break
			}
			if err == nil {
				kept++
			}
		}
		if kept != 201 || r.Read() != 202 || r.Bytes() != int64(len(input)) {
			t.Errorf("%s: %d kept of %d rows in %d bytes", name, kept, r.Read(), r.Bytes())
		}
	}

	broken := errors.New("the cable is out")
	in := io.MultiReader(strings.NewReader(strings.Repeat(textbook+"\n", 400)+textbook[:20]), iotest.ErrReader(broken))
	r, err := NewReader(in, Options{File: "in", Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	for range 400 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		_, err = r.Next()
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "line 400") {
			t.Errorf("Next says %v", err)
		}
	}
	if _, err := NewReader(iotest.ErrReader(broken), Options{Now: testNow}); !errors.Is(err, broken) {
		t.Errorf("NewReader says %v", err)
	}
}

func TestReturnedRecordsStayValid(t *testing.T) {
	var in strings.Builder
	var want []string
	for i := range 2000 {
		native := with("cte-8842-a", fmt.Sprintf("id-%d", i))
		want = append(want, native)
		in.WriteString(native + "\n" + native + fmt.Sprint(i) + "\n")
	}
	records, rejects := readAll(t, in.String(), Options{})
	for i, r := range rejects {
		if got := string(r.Input); got != want[i]+fmt.Sprint(i) {
			t.Fatalf("reject %d became %s", i, got)
		}
	}
	for i, r := range records {
		if got := string(r.AppendNative(nil)); got != want[i] {
			t.Fatalf("record %d became %s", i, got)
		}
	}
}

func TestSniffRefuses(t *testing.T) {
	for input, reason := range map[string]string{
		"\xff\xfe{\x00":              "UTF-16",
		"PK\x03\x04rest":             "save the sheet as CSV",
		"\x1f\x8b\x08":               "decompress",
		"hello world\n":              "neither JSON Lines",
		"[\n  {\"record_id\":\"a\"}": "neither JSON Lines",
		"name,age\nann,5\n":          "--event-type",
	} {
		_, err := NewReader(strings.NewReader(input), Options{File: "in", Now: testNow})
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v; want a reason with %q", input, err, reason)
		}
	}
	if _, err := NewReader(strings.NewReader(textbook), Options{}); err == nil {
		t.Error("a zero Now was taken")
	}
	// A bad first line is one bad row of a native input.
	records, rejects := readAll(t, "oops, a log message\n"+textbook+"\n", Options{})
	if len(records) != 1 || len(rejects) != 1 {
		t.Errorf("%d records, %d rejects", len(records), len(rejects))
	}
}

func TestStrictRefusesGaps(t *testing.T) {
	records, rejects := readAll(t, textbook, Options{Strict: true})
	if len(records) != 0 || len(rejects) != 1 || rejects[0].Rule != "gap" || rejects[0].Field != "event_type" || rejects[0].RecordID != "cte-8842-a" {
		t.Errorf("%d records, rejects %v", len(records), rejects)
	}
}

// fuzzReader reads data and holds what every input is promised: no panic, every
// row a record or a reject, and every record one that round-trips.
func fuzzReader(t *testing.T, data []byte) {
	r, err := NewReader(bytes.NewReader(data), Options{File: "in", Now: testNow})
	if err != nil {
		return
	}
	rows := int64(0)
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		rows++
		var refused *Reject
		switch {
		case err == nil:
			checkRecord(t, rec)
		case !errors.As(err, &refused):
			t.Fatalf("Next: %v", err)
		case refused.Rule == "" || refused.Reason == "" || refused.Line < 1 || !bytes.Contains(data, refused.Input):
			t.Fatalf("an incomplete reject: %+v", refused)
		}
	}
	if r.Read() != rows || r.Bytes() > int64(len(data)) {
		t.Fatalf("Read() = %d after %d rows, Bytes() = %d of %d", r.Read(), rows, r.Bytes(), len(data))
	}
}

func FuzzNative(f *testing.F) {
	f.Add([]byte(textbook + "\n" + textbook))
	f.Add([]byte("\ufeff" + with(holdField, `"input_lots":["A",{"traceability_lot_code":"B"}],"labels":{"a":"b"},"event_type":"foo"`) + "\r\n\n{}"))
	f.Add([]byte(with(timeField, `"event_timestamp":"2022-09-14T08:30:00.5+02:00"`)))
	f.Add([]byte(with(kdeField, `"kde_payload":{"a":[1,{"b":"\u0000"}],"facility":" n/a (x)"}`)))
	for _, bad := range badLines {
		f.Add([]byte(bad.line))
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzzReader(t, data) })
}

func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[1,2],"c":{"d":"}"}}`))
	f.Add([]byte(`[1,"]",{}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		// Whatever the bytes, the scanners end; for valid JSON they find what is there.
		value := jsontext.Value(text)
		for range members(value) {
		}
		for range elements(value) {
		}
		if !value.IsValid() {
			return
		}
		c := compact(value)
		want := value.Clone()
		if err := want.Compact(); err != nil || !bytes.Equal(c, want) {
			t.Fatalf("compact(%q) = %q, want %q", value, c, want)
		}
		var again []byte
		switch c.Kind() {
		case '{':
			again = append(again, '{')
			for name, v := range members(c) {
				again = append(append(append(appendComma(again), name...), ':'), v...)
			}
			again = append(again, '}')
		case '[':
			again = append(again, '[')
			for v := range elements(c) {
				again = append(appendComma(again), v...)
			}
			again = append(again, ']')
		default:
			return
		}
		if !bytes.Equal(again, c) {
			t.Fatalf("%q taken apart and put together is %q", c, again)
		}
	})
}
