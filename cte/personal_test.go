package cte

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestIsPersonal(t *testing.T) {
	for name, want := range map[string]bool{
		"harvester_business_name": true, "harvester_name": true, "harvester_phone": true, "harvester": true, "HarvesterName": true, "Harvester's name": true,
		"isr_phone": true, "tlc_source_phone": true, "phone": true, "Phone Number": true, "phoneNumber": true, "telephone": true, "gs1:telephone": true, "TELEPHONE": true,
		"point_of_contact": true, "pointOfContact": true, "contact": true, "reference_contact": true, "ContactInformation": true, "contactname": true, "https://example.org/voc#contactPoint": true,
		"tel": true, "isrTel": true, "Tel.": true, "fax": true, "FaxNumber": true, "email": true, "e-mail": true, "EmailAddress": true, "mobile": true, "captain": true,
		"harvest_date": false, "harvest_locations": false, "commodity": false, "isr_business_name": false, "hotel": false, "halifax": false, "telemetry": false,
		"receive_date": false, "temperature": false, "": false, "\xff": false, strings.Repeat("x", 300): false, strings.Repeat("x", 300) + "_phone": true,
	} {
		if isPersonal([]byte(name)) != want {
			t.Errorf("%q is personal: %v", name, !want)
		}
	}
}

// All that the rule's own KDEs and FDA's columns have of people and telephones is masked.
func TestRuleIsMasked(t *testing.T) {
	n := 0
	for _, kdes := range ruleKDEs {
		for _, k := range kdes {
			for _, w := range k.ways {
				for _, name := range append(w.names, w.domestic...) {
					if strings.Contains(name, "phone") || strings.Contains(name, "harvester") {
						if n++; !isPersonal([]byte(name)) {
							t.Errorf("%s of %s is not masked", name, k.section)
						}
					}
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d names were looked at", n)
	}
}

func parsed(t testing.TB, kdes string) *Record {
	t.Helper()
	r, refused := newParser().parse([]byte(`{"record_id":"a","traceability_lot_code":"L","event_timestamp":"2026-11-01T00:00:00+02:00","kde_payload":`+kdes+`}`), false)
	if refused != nil {
		t.Fatal(refused)
	}
	return r
}

func TestMasked(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                                  ``,
		`{"n":1200.50,"harvest_date":"2026"}`: ``,
		`{"phone":"","fax":null,"tel":true,"contact":{},"email":[ ],"harvester":"  "}`:  ``,
		`{"n":1e400,"phone":"+1","z":"é\u00e9"}`:                                        `{"n":1e400,"phone":"[masked]","z":"é\u00e9"}`,
		`{"phone": 15551234567 ,"x":106141412345678908}`:                                `{"phone":"[masked]","x":106141412345678908}`,
		`{"ph\u006fne":"n/a (ask Joe)"}`:                                                `{"ph\u006fne":"[masked]"}`,
		`{"harvester":{"name":"J","a":[1,{"b":"}]"}]},"b":[{"c":{"phone":"x"}},[],{}]}`: `{"harvester":"[masked]","b":[{"c":{"phone":"[masked]"}},[],{}]}`,
		`{"a":[{"contact":["x"]},"phone",{"y":"\"phone\":\"1\""}]}`:                     `{"a":[{"contact":"[masked]"},"phone",{"y":"\"phone\":\"1\""}]}`,
		`{"phone":"1","email":"2"}`:                                                     `{"phone":"[masked]","email":"[masked]"}`,
	} {
		r := parsed(t, in)
		before := string(r.AppendLine(nil))
		masked, found := r.Masked()
		if found != (want != "") || !found && masked != r || found && string(masked.KDEs) != want {
			t.Errorf("%s: %s, %v", in, masked.KDEs, found)
		}
		if after := string(r.AppendLine(nil)); after != before {
			t.Errorf("%s: the record itself was changed to %s", in, after)
		}
		if _, err := ParseLine(masked.AppendLine(nil)); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
	// Depth and length cost what they are, not their product.
	deep := strings.Repeat(`{"a":[`, 4000) + `{"phone":1}` + strings.Repeat(`]}`, 4000)
	masked, found := parsed(t, `{"d":`+deep+`,"l":"`+strings.Repeat("x", 8<<20)+`"}`).Masked()
	if !found || !bytes.Contains(masked.KDEs, []byte(`{"phone":"[masked]"}]}`)) {
		t.Error("what stands deep is not masked")
	}
}

// A row of FDA's spreadsheet is masked with its source, in which the same values stand.
func TestMaskedSource(t *testing.T) {
	r := parsed(t, `{"isr_phone":"+1 321 555 0987","n":1}`)
	r.Source = &Source{Format: FormatPipe, Header: "isr_phone|n", Row: "+1 321 555 0987|1"}
	masked, _ := r.Masked()
	if line := string(masked.AppendLine(nil)); strings.Contains(line, "0987") || !strings.Contains(line, `"source":{"format":"fda-psv","header":"isr_phone|n","row":"[masked]"}`) {
		t.Error(line)
	}
	if r.Source.Row != "+1 321 555 0987|1" {
		t.Errorf("the record's own source is %q", r.Source.Row)
	}
}

// No telephone number of FDA's sample is left, nor a harvester.
func TestMaskedSample(t *testing.T) {
	samples := os.Getenv("LOTKEEPER_SAMPLES")
	if samples == "" {
		t.Skip("LOTKEEPER_SAMPLES does not name the folder of the sample files")
	}
	files, err := filepath.Glob(filepath.Join(samples, "fda", "*.psv"))
	if err != nil || len(files) != 9 {
		t.Fatal(files, err)
	}
	n := 0
	for _, file := range files {
		for _, r := range recordsOf(t, file) {
			masked, found := r.Masked()
			if found {
				n++
			}
			for _, text := range []string{string(masked.AppendLine(nil)), string(masked.AppendNative(nil))} {
				if strings.Contains(text, " 555 ") || strings.Contains(text, "+1") || strings.Contains(text, "Harvesting\"") {
					t.Errorf("%s: %s", file, text)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("%d records were masked", n)
	}
}

func recordsOf(t *testing.T, file string) (out []*Record) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := NewReader(f, Options{File: file, Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
}

// However KDEs are written, a masked value is gone, and all else is there.
func FuzzMasked(f *testing.F) {
	for _, seed := range []string{`{"a":{"phone":"1"}}`, `{"phone":[1,{"b":"\""}],"c":1e5}`, `{"":"\\"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, kdes []byte) {
		v := jsontext.Value(kdes)
		if v.Kind() != '{' || !v.IsValid() {
			t.Skip()
		}
		r := &Record{KDEs: compact(v)}
		masked, found := r.Masked()
		var plain, hidden map[string]any
		if json.Unmarshal(r.KDEs, &plain) != nil {
			t.Skip() // nested deeper than it reads
		}
		if err := json.Unmarshal(masked.KDEs, &hidden); err != nil {
			t.Fatalf("%s became %s: %v", kdes, masked.KDEs, err)
		}
		if again, more := masked.Masked(); more != found || string(again.KDEs) != string(masked.KDEs) {
			t.Fatalf("%s masked again is %s", masked.KDEs, again.KDEs)
		}
		same(t, plain, hidden)
	})
}

// same walks both, and stops where a value is masked.
func same(t *testing.T, plain, hidden any) {
	switch p := plain.(type) {
	case map[string]any:
		h, ok := hidden.(map[string]any)
		if !ok || len(h) != len(p) {
			t.Fatalf("%v became %v", plain, hidden)
		}
		for name, v := range p {
			if b, _ := json.Marshal(v); isPersonal([]byte(name)) && h[name] == "[masked]" && tells(b) {
				continue
			}
			if b, _ := json.Marshal(v); isPersonal([]byte(name)) && tells(b) {
				t.Fatalf("%s is not masked: %v", name, h[name])
			}
			same(t, v, h[name])
		}
	case []any:
		h, ok := hidden.([]any)
		if !ok || len(h) != len(p) {
			t.Fatalf("%v became %v", plain, hidden)
		}
		for i := range p {
			same(t, p[i], h[i])
		}
	default:
		if plain != hidden {
			t.Fatalf("%v became %v", plain, hidden)
		}
	}
}

func BenchmarkMasked(b *testing.B) {
	var kdes []byte
	for _, name := range complete[InitialPacking] {
		kdes = append(append(append(kdes, `,"`...), name...), `":"what it says"`...)
	}
	r := &Record{KDEs: append(append(jsontext.Value(`{`), kdes[1:]...), '}')}
	for b.Loop() {
		r.Masked()
	}
}
