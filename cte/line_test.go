package cte

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

var testNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const textbook = `{"record_id":"cte-8842-a","traceability_lot_code":"LOT-2022-09-14-XJ9","event_timestamp":"2022-09-14T08:30:00Z","kde_payload":{"facility":"FAC-001","product_code":"PC-7782","quantity":1200},"retention_hold":false}`

// testing.TB and rapid.T both.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// readAll reads an input to its end.
func readAll(t failer, input string, o Options) (records []*Record, rejects []*Reject) {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = testNow
	}
	r, err := NewReader(strings.NewReader(input), o)
	if err != nil {
		t.Fatalf("NewReader: %v", err)
	}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if refused, ok := err.(*Reject); ok {
			rejects = append(rejects, refused)
			continue
		}
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		records = append(records, rec)
	}
	if got := int64(len(records) + len(rejects)); r.Read() != got {
		t.Fatalf("Read() = %d after %d rows", r.Read(), got)
	}
	return records, rejects
}

// readOne reads an input of one record.
func readOne(t failer, input string) *Record {
	t.Helper()
	records, rejects := readAll(t, input, Options{File: "in"})
	if len(rejects) > 0 {
		t.Fatalf("refused: %v\n%s", rejects[0], input)
	}
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	return records[0]
}

func TestTextbookRecord(t *testing.T) {
	r := readOne(t, textbook+"\n")
	if got := string(r.AppendNative(nil)); got != textbook {
		t.Errorf("AppendNative\n%s\nwant\n%s", got, textbook)
	}
	r.Salt = [16]byte{1: 0xab}
	want := `{"v":1,"record_id":"cte-8842-a","traceability_lot_code":"LOT-2022-09-14-XJ9","event_type":"unclassified","event_timestamp":"2022-09-14T08:30:00Z","created_or_obtained_at":"2026-11-21T12:00:00Z","kde_payload":{"facility":"FAC-001","product_code":"PC-7782","quantity":1200},"retention_hold":false,"defaulted":["event_type","created_or_obtained_at"],"salt":"00ab0000000000000000000000000000"}`
	if got := string(r.AppendLine(nil)); got != want {
		t.Errorf("AppendLine\n%s\nwant\n%s", got, want)
	}
	if r.Location() != "FAC-001" || r.Product() != "PC-7782" {
		t.Errorf("location %q, product %q", r.Location(), r.Product())
	}
}

// draw is a generator of the JSON text of native records, in every form that a
// record may be given in.
type draw struct{ *rapid.T }

func (d draw) chance(label string) bool { return rapid.Bool().Draw(d.T, label) }

func (d draw) space() string {
	return rapid.SampledFrom([]string{"", "", "", " ", "\t", " \r "}).Draw(d.T, "space")
}

// quote writes s with escapes that are not needed, now and then.
func (d draw) quote(s string) string {
	if d.chance("plain") {
		b, _ := jsontext.AppendQuote(nil, s)
		return string(b)
	}
	var b strings.Builder
	for _, r := range s {
		if r < 0x10000 && (r < ' ' || r == '"' || r == '\\' || rapid.IntRange(0, 4).Draw(d.T, "escape") == 0) {
			fmt.Fprintf(&b, `\u%04X`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return `"` + b.String() + `"`
}

func (d draw) id(label string) string {
	return rapid.StringMatching(`[ -~äß<>&€漢🍅]{1,20}`).Draw(d.T, label)
}

func (d draw) time() string {
	at := instant(d.T)
	offset := rapid.SampledFrom([]int{0, 0, 120, -300, 23*60 + 59}).Draw(d.T, "offset")
	local := at.In(time.FixedZone("", offset*60))
	if y := local.Year(); y < 1 || y > 9999 {
		local = at
	}
	layout := rapid.SampledFrom([]string{time.RFC3339Nano, "2006-01-02T15:04:05.000000000Z07:00"}).Draw(d.T, "layout")
	return d.quote(local.Format(layout))
}

// value is any JSON value.
func (d draw) value(depth int) string {
	kinds := 4
	if depth > 0 {
		kinds = 6
	}
	switch rapid.IntRange(0, kinds-1).Draw(d.T, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(d.T, "literal")
	case 1:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?`).Draw(d.T, "number")
	case 2, 3:
		return d.quote(rapid.String().Draw(d.T, "string"))
	case 4:
		return d.object(depth - 1)
	}
	var b strings.Builder
	b.WriteString("[" + d.space())
	for i := range rapid.IntRange(0, 3).Draw(d.T, "elements") {
		if i > 0 {
			b.WriteString("," + d.space())
		}
		b.WriteString(d.value(depth-1) + d.space())
	}
	return b.String() + "]"
}

func (d draw) object(depth int) string {
	names := rapid.SliceOfNDistinct(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"facility", "gtin", "quantity"})), 0, 4, rapid.ID).Draw(d.T, "names")
	var members []string
	for _, name := range names {
		members = append(members, d.quote(name)+d.space()+":"+d.space()+d.value(depth))
	}
	return "{" + d.space() + strings.Join(members, d.space()+",") + d.space() + "}"
}

func (d draw) lot() string {
	if d.chance("lot as string") {
		return d.quote(d.id("tlc"))
	}
	members := []string{`"traceability_lot_code":` + d.quote(d.id("tlc"))}
	switch rapid.IntRange(0, 3).Draw(d.T, "lot source") {
	case 0:
		members = append(members, `"tlc_source":`+d.quote(d.id("source")))
	case 1:
		members = append([]string{`"tlc_source": ` + d.quote(d.id("source"))}, members...)
	case 2:
		members = append(members, `"tlc_source":null`)
	}
	return "{" + strings.Join(members, ",") + "}"
}

func (d draw) native() string {
	members := []string{
		`"record_id":` + d.quote(d.id("record_id")),
		`"traceability_lot_code":` + d.quote(d.id("tlc")),
		`"event_timestamp":` + d.time(),
		`"kde_payload":` + d.object(3),
	}
	may := func(name string, value func() string) {
		switch rapid.IntRange(0, 3).Draw(d.T, name) {
		case 0:
			members = append(members, `"`+name+`":null`)
		case 1, 2:
			members = append(members, `"`+name+`"`+d.space()+`:`+d.space()+value())
		}
	}
	may("tlc_source", func() string {
		return d.quote(rapid.SampledFrom([]string{"", "S1", "https://id.gs1.org/414/1"}).Draw(d.T, "source"))
	})
	may("event_type", func() string {
		return d.quote(rapid.SampledFrom([]string{"shipping", "harvesting", "unclassified", "Shipping", "", "mystery"}).Draw(d.T, "type"))
	})
	may("created_or_obtained_at", d.time)
	may("input_lots", func() string {
		var lots []string
		for range rapid.IntRange(0, 3).Draw(d.T, "lots") {
			lots = append(lots, d.lot())
		}
		return "[" + strings.Join(lots, ", ") + "]"
	})
	may("corrects", func() string { return d.quote(d.id("corrects")) })
	may("labels", func() string {
		var labels []string
		for _, name := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-zé]{1,3}`), 0, 3, rapid.ID).Draw(d.T, "labels") {
			labels = append(labels, d.quote(name)+": "+d.quote(d.id("label")))
		}
		return "{" + strings.Join(labels, ",") + "}"
	})
	may("retention_hold", func() string { return rapid.SampledFrom([]string{"true", "false"}).Draw(d.T, "hold") })
	members = rapid.Permutation(members).Draw(d.T, "order")
	return "{" + strings.Join(members, d.space()+","+d.space()) + "}"
}

// checkRecord holds the promises that every record keeps, wherever it came from.
func checkRecord(t failer, r *Record) {
	t.Helper()
	line := r.AppendLine(nil)
	if bytes.IndexByte(line, '\n') >= 0 {
		t.Fatalf("the line has a newline: %q", line)
	}
	if !jsontext.Value(line).IsValid() {
		t.Fatalf("the line is not valid JSON: %q", line)
	}
	back, err := ParseLine(line)
	if err != nil {
		t.Fatalf("ParseLine: %v\n%s", err, line)
	}
	if !reflect.DeepEqual(back, r) {
		t.Fatalf("ParseLine returned\n%#v\nwant\n%#v", back, r)
	}

	native := r.AppendNative(nil)
	again := readOne(t, string(native)+"\n")
	if got := again.AppendNative(nil); !bytes.Equal(got, native) {
		t.Fatalf("native form\n%s\ncame back as\n%s", native, got)
	}
	if !bytes.Equal(again.AppendContent(nil), r.AppendContent(nil)) {
		t.Fatalf("the native form has other content:\n%s\n%s", native, line)
	}
	if len(r.Location()) > maxIndex || len(r.Product()) > maxIndex {
		t.Fatalf("index columns too long")
	}
	r.Gaps(testNow)
}

func TestNativeRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		native := draw{t}.native()
		r := readOne(t, native)
		checkRecord(t, r)

		// White space and order apart, it comes out as it went in.
		want := make(map[string]string)
		for name, value := range members(compact(jsontext.Value(native))) {
			if string(value) != "null" {
				want[unquote(name)] = string(value)
			}
		}
		got := make(map[string]string)
		for name, value := range members(r.AppendNative(nil)) {
			got[unquote(name)] = string(value)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("came out as\n%v\nwent in as\n%v", got, want)
		}
	})
}

// Changing a byte of a line either makes it unreadable or makes another line: no
// two texts are one record.
func TestParseLineIsStrict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := readOne(t, draw{t}.native()).AppendLine(nil)
		i := rapid.IntRange(0, len(line)-1).Draw(t, "at")
		switch rapid.IntRange(0, 2).Draw(t, "mutation") {
		case 0:
			line[i] = rapid.Byte().Draw(t, "byte")
		case 1:
			line = append(line[:i], line[i+1:]...)
		case 2:
			line = append(line[:i], append([]byte{rapid.SampledFrom([]byte(" \n\",:{}[]0a\\")).Draw(t, "inserted")}, line[i:]...)...)
		}
		if r, err := ParseLine(line); err == nil && !bytes.Equal(r.AppendLine(nil), line) {
			t.Fatalf("ParseLine took %q", line)
		}
	})
}

func TestParseLineRefuses(t *testing.T) {
	good := `{"v":1,"record_id":"a","traceability_lot_code":"L","event_type":"unclassified","event_timestamp":"2026-03-01T06:30:00Z","created_or_obtained_at":"2026-03-02T00:00:00Z","kde_payload":{"n":1.50},"input_lots":[{"traceability_lot_code":"H"}],"labels":{"a":"1","b":"2"},"retention_hold":true,"as_given":{"event_type":"foo","event_timestamp":"2026-03-01T08:30:00+02:00","input_lots":["H"]},"salt":"000102030405060708090a0b0c0d0e0f"}`
	if _, err := ParseLine([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"another version":                 {`"v":1`, `"v":2`},
		"no version":                      {`"v":1,`, ``},
		"white space":                     {`"v":1,`, `"v":1, `},
		"white space in the KDEs":         {`{"n":1.50}`, `{"n": 1.50}`},
		"another order":                   {`"v":1,"record_id":"a",`, `"record_id":"a","v":1,`},
		"a needless escape":               {`"record_id":"a"`, `"record_id":"\u0061"`},
		"upper-case salt":                 {`0a0b`, `0A0b`},
		"a short salt":                    {`0e0f`, `0e`},
		"no salt":                         {`,"salt":"000102030405060708090a0b0c0d0e0f"`, ``},
		"a time with an offset":           {`06:30:00Z`, `06:30:00+00:00`},
		"a time with zeros":               {`06:30:00Z`, `06:30:00.0Z`},
		"labels out of order":             {`"a":"1","b":"2"`, `"b":"2","a":"1"`},
		"a label twice":                   {`"a":"1","b":"2"`, `"a":"1","a":"2"`},
		"a null":                          {`"retention_hold":true`, `"retention_hold":null`},
		"an unknown member":               {`,"salt"`, `,"pepper":1,"salt"`},
		"an unknown event type":           {`"event_type":"unclassified"`, `"event_type":"foo"`},
		"an empty defaulted":              {`"as_given"`, `"defaulted":[],"as_given"`},
		"defaulted out of order":          {`"as_given"`, `"defaulted":["created_or_obtained_at","event_type"],"as_given"`},
		"an unknown defaulted":            {`"as_given"`, `"defaulted":["tlc"],"as_given"`},
		"an empty as_given":               {`{"event_type":"foo","event_timestamp":"2026-03-01T08:30:00+02:00","input_lots":["H"]}`, `{}`},
		"as_given of another instant":     {`08:30:00+02:00`, `08:30:00+03:00`},
		"as_given of other lots":          {`["H"]`, `["I"]`},
		"as_given that says nothing new":  {`08:30:00+02:00`, `06:30:00Z`},
		"as_given of a known event type":  {`"event_type":"foo"`, `"event_type":"shipping"`},
		"as_given out of order":           {`"event_type":"foo","event_timestamp":"2026-03-01T08:30:00+02:00"`, `"event_timestamp":"2026-03-01T08:30:00+02:00","event_type":"foo"`},
		"a source that is not whole":      {`,"salt"`, `,"source":{"format":"fda-psv"},"salt"`},
		"text behind it":                  {`0e0f"}`, `0e0f"} `},
		"another object behind it":        {`0e0f"}`, `0e0f"}{}`},
		"a newline behind it":             {`0e0f"}`, "0e0f\"}\n"},
		"a year that does not exist":      {`2026-03-01T06`, `0000-03-01T06`},
		"KDEs that are no object":         {`{"n":1.50}`, `[]`},
		"a control character in a string": {`"record_id":"a"`, "\"record_id\":\"a\x01\""},
	} {
		bad := strings.Replace(good, edit[0], edit[1], 1)
		if bad == good {
			t.Fatalf("%s: the edit does not apply", name)
		}
		if _, err := ParseLine([]byte(bad)); err == nil {
			t.Errorf("ParseLine took a line with %s", name)
		} else if !strings.Contains(err.Error(), "not a canonical line") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range len(good) {
		if _, err := ParseLine([]byte(good[:n])); err == nil {
			t.Fatalf("ParseLine took the first %d bytes", n)
		}
	}
}

// Content is what was given: neither what the engine added nor how it was written.
func TestContent(t *testing.T) {
	const base = `{"record_id":"a","traceability_lot_code":"L","tlc_source":"S","event_type":"shipping","event_timestamp":"2026-03-01T06:30:00Z","kde_payload":{"n":1.50},"input_lots":[{"traceability_lot_code":"H","tlc_source":"S"}],"labels":{"a":"1","b":"2"},"corrects":"z"}`
	content := func(native string) string {
		t.Helper()
		return string(readOne(t, native).AppendContent(nil))
	}
	for name, edit := range map[string][2]string{
		"the hold":           {`"corrects":"z"`, `"corrects":"z","retention_hold":true`},
		"white space":        {`{"n":1.50}`, ` { "n" : 1.50 } `},
		"the offset":         {`06:30:00Z`, `08:30:00.000+02:00`},
		"label order":        {`{"a":"1","b":"2"}`, `{"b":"2","a":"1"}`},
		"a needless escape":  {`"record_id":"a"`, `"record_id":"\u0061"`},
		"an escape in type":  {`"shipping"`, `"shippin\u0067"`},
		"a null":             {`"corrects":"z"`, `"corrects":"z","created_or_obtained_at":null`},
		"an empty hold list": {`"corrects":"z"`, `"corrects":"z","retention_hold":null`},
	} {
		if content(strings.Replace(base, edit[0], edit[1], 1)) != content(base) {
			t.Errorf("content depends on %s", name)
		}
	}
	seen := map[string]string{content(base): "nothing"}
	for name, edit := range map[string][2]string{
		"id":                {`"record_id":"a"`, `"record_id":"b"`},
		"lot":               {`"traceability_lot_code":"L"`, `"traceability_lot_code":"M"`},
		"source":            {`"tlc_source":"S","event`, `"tlc_source":"T","event`},
		"no source":         {`"tlc_source":"S","event`, `"event`},
		"type":              {`shipping`, `receiving`},
		"unknown type":      {`shipping`, `foo`},
		"other unknown":     {`shipping`, `bar`},
		"no type":           {`"event_type":"shipping",`, ``},
		"instant":           {`06:30:00Z`, `06:30:00.000000001Z`},
		"created":           {`"corrects":"z"`, `"corrects":"z","created_or_obtained_at":"2026-11-21T12:00:00Z"`},
		"number":            {`1.50`, `1.5`},
		"input":             {`"H"`, `"I"`},
		"input source":      {`"H","tlc_source":"S"`, `"H","tlc_source":"T"`},
		"no input source":   {`"H","tlc_source":"S"`, `"H"`},
		"input moved":       {`"H","tlc_source":"S"`, `"HS"`},
		"label":             {`"a":"1"`, `"a":"3"`},
		"label moved":       {`"a":"1"`, `"a1":""`},
		"corrects":          {`"z"`, `"y"`},
		"corrects and none": {`,"corrects":"z"`, ``},
	} {
		edited := strings.Replace(base, edit[0], edit[1], 1)
		if edited == base {
			t.Fatalf("%s: the edit does not apply", name)
		}
		c := content(edited)
		if other, twice := seen[c]; twice {
			t.Errorf("%s and %s changed have the same content", name, other)
		}
		seen[c] = name
	}
}

// Records of different rows have different salts, so equal rows have different
// checksums.
func TestSalt(t *testing.T) {
	records, _ := readAll(t, strings.Repeat(textbook+"\n", 300), Options{})
	seen := make(map[[16]byte]bool)
	for _, r := range records {
		if seen[r.Salt] {
			t.Fatalf("a salt came twice")
		}
		seen[r.Salt] = true
	}
	r, err := NewReader(strings.NewReader(textbook), Options{Now: testNow, Rand: strings.NewReader("short")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err == nil || err == io.EOF {
		t.Errorf("no randomness, and Next says %v", err)
	} else if _, refused := err.(*Reject); refused {
		t.Errorf("no randomness is blamed on the row: %v", err)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"v":1,"record_id":"a","event_type":"unclassified","event_timestamp":"2026-03-01T06:30:00Z","created_or_obtained_at":"2026-03-02T00:00:00Z","kde_payload":{},"defaulted":["event_type","created_or_obtained_at"],"salt":"000102030405060708090a0b0c0d0e0f"}`))
	f.Add([]byte(`{"v":1,"record_id":"a","traceability_lot_code":"L","event_type":"shipping","event_timestamp":"2026-03-01T06:30:00Z","created_or_obtained_at":"2026-03-02T00:00:00Z","kde_payload":{"n":1.50},"input_lots":[{"traceability_lot_code":"H"}],"labels":{"a":"1"},"as_given":{"event_timestamp":"2026-03-01T08:30:00+02:00","input_lots":["H"]},"source":{"format":"fda-psv","header":"h","row":"r"},"salt":"000102030405060708090a0b0c0d0e0f"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseLine(line)
		if err != nil {
			return
		}
		if got := r.AppendLine(nil); !bytes.Equal(got, line) {
			t.Fatalf("%q came back as %q", line, got)
		}
		r.AppendContent(nil)
		r.AppendNative(nil)
		r.Gaps(testNow)
		r.Location()
		r.Product()
	})
}
