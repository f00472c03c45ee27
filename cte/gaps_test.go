package cte

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// complete has, for every event type, native KDEs under the names of the rule.
var complete = map[EventType][]string{
	Harvesting:               {"isr_loc", "commodity", "quantity", "uom", "farm_loc", "ref_doc_type", "ref_doc_number"},
	Cooling:                  {"isr_loc", "commodity", "quantity", "uom", "cooling_loc", "farm_loc", "ref_doc_type", "ref_doc_number"},
	InitialPacking:           {"commodity", "receive_date", "qty_received", "uom_received", "farm_loc", "harvester_name", "harvester_phone", "harvest_date", "product_desc", "qty_packed", "uom_packed", "packing_loc", "ref_doc_type", "ref_doc_number"},
	InitialPackingSprouts:    {"commodity", "receive_date", "qty_received", "uom_received", "farm_loc", "harvester_name", "harvester_phone", "harvest_date", "product_desc", "qty_packed", "uom_packed", "packing_loc", "ref_doc_type", "ref_doc_number", "conditioner_loc", "conditioner_lot", "conditioner_date", "packinghouse_loc", "pack_date", "supplier_loc", "seed_description", "seed_receipt_date"},
	InitialPackingFromExempt: {"commodity", "receive_date", "qty_received", "uom_received", "received_from_loc", "product_desc", "qty_packed", "uom_packed", "packing_loc", "ref_doc_type", "ref_doc_number"},
	FirstLandBasedReceiving:  {"species_or_market_name", "quantity", "uom", "harvest_date_start", "harvest_date_end", "harvest_locations", "receiver_loc", "ref_doc_type", "ref_doc_number"},
	Shipping:                 {"quantity", "uom", "product_desc", "isr_loc", "ship_from_loc", "tlc_source_loc", "ref_doc_type", "ref_doc_number"},
	Receiving:                {"quantity", "uom", "product_desc", "ips_loc", "receive_loc", "tlc_source_ref", "ref_doc_type", "ref_doc_number"},
	ReceivingFromExempt:      {"quantity", "uom", "product_desc", "ips_loc", "receive_loc", "ref_doc_type", "ref_doc_number"},
	Transformation:           {"transform_loc", "product_desc", "quantity", "uom", "ref_doc_type", "ref_doc_number"},
}

func record(eventType EventType, kdes map[string]any) *Record {
	text, err := json.Marshal(kdes)
	if err != nil {
		panic(err)
	}
	return &Record{RecordID: "a", TLC: "L", EventType: eventType, EventTimestamp: testNow, CreatedOrObtainedAt: testNow, KDEs: text}
}

// gapNames are the KDEs that a record lacks.
func gapNames(r *Record) []string {
	var names []string
	for _, g := range r.Gaps(testNow) {
		names = append(names, g.KDE)
	}
	return names
}

// Every KDE is asked for, and every one satisfies only its own.
func TestGapsOfEveryEventType(t *testing.T) {
	for _, eventType := range EventTypes {
		if eventType == Unclassified {
			continue
		}
		names := complete[eventType]
		kdes := make(map[string]any)
		for i, name := range names {
			kdes[name] = []any{"x", 7, map[string]any{"name": "x"}, []string{"x"}}[i%4]
		}
		if gaps := record(eventType, kdes).Gaps(testNow); len(gaps) > 0 {
			t.Errorf("%s is complete, and yet %v", eventType, gaps)
		}
		for _, name := range names {
			for _, nothing := range []any{nil, "", "  ", "n/a", "N/A (not known)", []int{}, map[string]int{}, true} {
				kdes := mapsWith(kdes, name, nothing)
				got := gapNames(record(eventType, kdes))
				want := map[string]string{
					"species_or_market_name": "species_or_market_name or product_desc",
					"tlc_source_loc":         "tlc_source_loc or tlc_source_ref",
					"tlc_source_ref":         "tlc_source_loc or tlc_source_ref",
				}[name]
				if want == "" {
					want = name
				}
				// The reference document of sprouts is asked for in two paragraphs.
				if len(got) == 0 || slices.ContainsFunc(got, func(g string) bool { return g != want }) {
					t.Errorf("%s with %s: %v lacks %v", eventType, name, nothing, got)
				}
			}
		}
		// Without any KDE, everything required is a gap and nothing conditional is.
		got := gapNames(record(eventType, nil))
		for _, k := range ruleKDEs[eventType] {
			has := slices.Contains(got, k.name)
			field := k.ways[0].field != nil
			if want := k.need == required && !field; has != want {
				t.Errorf("%s without KDEs: %s is a gap: %v", eventType, k.name, has)
			}
		}
	}
}

func mapsWith(m map[string]any, name string, value any) map[string]any {
	edited := map[string]any{name: value}
	for n, v := range m {
		if n != name {
			edited[n] = v
		}
	}
	return edited
}

// The table cites paragraphs, in the order of the rule, of the section that the
// event type belongs to.
func TestSections(t *testing.T) {
	form := regexp.MustCompile(`^1\.13\d\d(\([a-z]\))?(\(\d+\))?(\([ivx]+\))?$`)
	sections := map[EventType]string{
		Harvesting: "1.1325(a)(1)(", Cooling: "1.1325(b)(1)(", InitialPacking: "1.1330(a)(", InitialPackingSprouts: "1.1330(",
		InitialPackingFromExempt: "1.1330(c)(", FirstLandBasedReceiving: "1.1335(", Shipping: "1.1340(a)(",
		Receiving: "1.1345(a)(", ReceivingFromExempt: "1.1345(b)(", Transformation: "1.1350(a)(",
	}
	if len(ruleKDEs) != len(sections) {
		t.Errorf("the table has %d event types", len(ruleKDEs))
	}
	for eventType, section := range sections {
		for _, k := range ruleKDEs[eventType] {
			if !form.MatchString(k.section) || !strings.HasPrefix(k.section, section) {
				t.Errorf("%s cites %s for %s", eventType, k.section, k.name)
			}
		}
	}
}

func TestGapsOfLocations(t *testing.T) {
	full := map[string]any{"quantity": 1, "uom": "x", "product_desc": "x", "ship_from_loc": "x", "tlc_source_ref": "x", "ref_doc_type": "x", "ref_doc_number": "x",
		"isr_business_name": "N", "isr_phone": "1", "isr_street_or_geo": "S", "isr_city": "C", "isr_state_region": "WA", "isr_postal": "98032", "isr_country": "n/a"}
	for _, test := range []struct {
		edit map[string]any
		want string // the reason of the one gap
	}{
		{nil, ""},
		{map[string]any{"isr_phone": "n/a"}, "is given in part; missing: isr_phone"},
		{map[string]any{"isr_city": nil, "isr_postal": " "}, "is given in part; missing: isr_city, isr_postal"},
		{map[string]any{"isr_state_region": nil, "isr_postal": nil}, "is given in part; missing: isr_state_region, isr_postal"},
		{map[string]any{"isr_state_region": nil, "isr_postal": nil, "isr_country": "Hong Kong"}, ""},
		{map[string]any{"isr_street_or_geo": nil, "isr_country": "Hong Kong"}, "is given in part; missing: isr_street_or_geo"},
		{map[string]any{"isr_phone": nil, "isr_loc": "North DC"}, ""},
		{map[string]any{"isr_business_name": nil, "isr_phone": nil, "isr_street_or_geo": nil, "isr_city": nil, "isr_state_region": nil, "isr_postal": nil}, "is not given"},
	} {
		kdes := full
		for name, value := range test.edit {
			kdes = mapsWith(kdes, name, value)
		}
		gaps := record(Shipping, kdes).Gaps(testNow)
		var got string
		for _, g := range gaps {
			if g.KDE != "isr_loc" || g.Section != "1.1340(a)(4)" {
				t.Errorf("%v: %v", test.edit, g)
			}
			got += g.Reason
		}
		if got != test.want {
			t.Errorf("%v: %q, want %q", test.edit, got, test.want)
		}
	}
}

// The record's own fields count, but they do not make half a location whole.
func TestGapsOfTheLotSource(t *testing.T) {
	for _, eventType := range []EventType{Shipping, Receiving, InitialPacking, FirstLandBasedReceiving, ReceivingFromExempt, Transformation} {
		kdes := make(map[string]any)
		for _, name := range complete[eventType] {
			if !strings.HasPrefix(name, "tlc_source") && !slices.Contains([]string{"packing_loc", "receiver_loc", "transform_loc"}, name) &&
				(name != "receive_loc" || eventType != ReceivingFromExempt) {
				kdes[name] = "x"
			}
		}
		r := record(eventType, kdes)
		if got := gapNames(r); len(got) != 1 {
			t.Errorf("%s without a source lacks %v", eventType, got)
		}
		r.TLCSource = "Plant 4"
		if got := gapNames(r); len(got) != 0 {
			t.Errorf("%s with a source lacks %v", eventType, got)
		}
		r = record(eventType, mapsWith(kdes, "tlc_source_business_name", "Plant 4"))
		r.TLCSource = "Plant 4"
		if got := gapNames(r); len(got) != 1 {
			t.Errorf("%s with half a location lacks %v", eventType, got)
		}
	}
}

func TestGapsOfTheEvent(t *testing.T) {
	gaps := func(native string) string {
		t.Helper()
		return fmt.Sprint(readOne(t, native).Gaps(testNow))
	}
	if got := gaps(textbook); !strings.Contains(got, "event_type 1.1325-1.1350 is not given") {
		t.Error(got)
	}
	if got := gaps(with(holdField, `"event_type":"Shipping"`)); !strings.Contains(got, "is not an event type of the rule") || strings.Contains(got, "Shipping") {
		t.Error(got)
	}
	if got := gaps(with(holdField, `"event_type":"unclassified"`)); !strings.Contains(got, "is unclassified") {
		t.Error(got)
	}
	r := record(Shipping, nil)
	r.EventTimestamp = testNow.Add(time.Nanosecond)
	if gaps := r.Gaps(testNow); gaps[0] != (Gap{"event_timestamp", "", "lies in the future"}) {
		t.Error(gaps)
	}
	r.EventTimestamp = testNow
	if gaps := r.Gaps(testNow); gaps[0].KDE == "event_timestamp" {
		t.Error("now is the future")
	}
}

func TestIndexColumns(t *testing.T) {
	for _, test := range []struct {
		eventType         EventType
		kdes              string
		location, product string
	}{
		{Unclassified, `{}`, "", ""},
		{Unclassified, `{"facility":"FAC-001","product_code":"PC-7782"}`, "FAC-001", "PC-7782"},
		{Unclassified, `{"gtin":"g","product_code":7782.50,"gln":9521321000010,"facility_id":"f"}`, "f", "7782.50"},
		{Unclassified, `{"facility":{"name":"x"},"facility_id":["x"],"location":null,"location_id":true,"gln":"","site":"n/a (mobile)","site_id":" S \n1 "}`, "S  1", ""},
		{Shipping, `{"isr_business_name":"to","ship_from_business_name":"from","commodity":"Kale"}`, "from", "Kale"},
		{Shipping, `{"ship_from_business_name":"from","f\u0061cility":"\u0046AC"}`, "FAC", ""},
		{Receiving, `{"receive_business_name":"here","ship_from_business_name":"from"}`, "here", ""},
		{FirstLandBasedReceiving, `{"product_name":"n/a (Unpackaged)","species_or_market_name":"Cod","tlc_source_business_name":"Pier 1"}`, "Pier 1", "Cod"},
		{Unclassified, `{"facility":"` + strings.Repeat("é", 150) + `","sku":"` + strings.Repeat("9", 300) + `"}`, strings.Repeat("é", 100), strings.Repeat("9", 200)},
		{Unclassified, `{"facility":"a` + strings.Repeat("é", 150) + `"}`, "a" + strings.Repeat("é", 99), ""},
		{Unclassified, `{"facility":"\u0000\u001b[31m","product":"\u0000"}`, "[31m", ""},
	} {
		r := &Record{EventType: test.eventType, KDEs: []byte(test.kdes)}
		if l, p := r.Location(), r.Product(); l != test.location || p != test.product {
			t.Errorf("%s %s: location %q, product %q", test.eventType, test.kdes, l, p)
		}
	}
}

// The documented lists are the lists.
func TestIndexColumnsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/index-columns.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("## Location\n\n")
	for i, name := range locationKDEs {
		fmt.Fprintf(&want, "%d. `%s`\n", i+1, name)
	}
	fmt.Fprintf(&want, "%d. then the place where an event of the record's type happens:\n\n| event type | KDEs |\n|---|---|\n", len(locationKDEs)+1)
	for _, eventType := range EventTypes {
		if names := eventLocationKDEs[eventType]; len(names) > 0 {
			fmt.Fprintf(&want, "| `%s` | `%s` |\n", eventType, strings.Join(names, "`, `"))
		}
	}
	want.WriteString("\n## Product\n\n")
	for i, name := range productKDEs {
		fmt.Fprintf(&want, "%d. `%s`\n", i+1, name)
	}
	if !strings.HasSuffix(string(doc), want.String()) {
		t.Errorf("docs/index-columns.md must end with\n%s", want.String())
	}
}

func TestParseEventType(t *testing.T) {
	for _, want := range EventTypes {
		if got, ok := ParseEventType(string(want)); !ok || got != want {
			t.Errorf("%s: %s, %v", want, got, ok)
		}
	}
	for _, s := range []string{"", "Shipping", "ship", " shipping"} {
		if got, ok := ParseEventType(s); ok {
			t.Errorf("%q is %s", s, got)
		}
	}
}
