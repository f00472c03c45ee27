package cte

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// samples are the names and contents of FDA's sample sheets, one a file.
func samples(t *testing.T) map[string]string {
	t.Helper()
	dir := os.Getenv("LOTKEEPER_SAMPLES")
	if dir == "" {
		t.Skip("LOTKEEPER_SAMPLES does not name a folder with FDA's sample sheets in fda/*.psv")
	}
	files, err := filepath.Glob(filepath.Join(dir, "fda", "*.psv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sample sheets in %s: %v", dir, err)
	}
	sheets := make(map[string]string)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sheets[strings.TrimSuffix(filepath.Base(name), ".psv")] = string(text)
	}
	return sheets
}

// FDA's own sample goes in whole, with all its traps, and comes out as content that
// native input can carry.
func TestFDASample(t *testing.T) {
	rows, ids := 0, make(map[string]bool)
	for name, text := range samples(t) {
		records, rejects := readAll(t, text, Options{File: name})
		for _, r := range rejects {
			t.Errorf("%v", r)
		}
		for i, r := range records {
			rows++
			ids[r.RecordID] = true
			if string(r.EventType) != name {
				t.Errorf("%s is read as %s", name, r.EventType)
			}
			checkRecord(t, r)
			if row := strings.Split(text, "\n")[i+1]; r.Source.Row != row || r.Source.Header != strings.Split(text, "\n")[0] {
				t.Errorf("%s: source is not the input's own bytes", name)
			}
			// The sample is complete; only its dates run ahead.
			if gaps := r.Gaps(testNow.AddDate(2, 0, 0)); len(gaps) > 0 {
				t.Errorf("%s row %d: %v", name, i+1, gaps)
			}
			if r.Location() == "" || r.Product() == "" {
				t.Errorf("%s row %d: location %q, product %q", name, i+1, r.Location(), r.Product())
			}
		}
		again, _ := readAll(t, text, Options{})
		for i, r := range again {
			if r.RecordID != records[i].RecordID || string(r.AppendContent(nil)) != string(records[i].AppendContent(nil)) {
				t.Errorf("%s row %d: another record when it is read again", name, i+1)
			}
		}
	}
	if rows != 41 || len(ids) != 41 {
		t.Errorf("%d rows with %d ids, want 41", rows, len(ids))
	}
}

// The same sheets as CSV are the same records.
func TestFDASampleAsCSV(t *testing.T) {
	for name, text := range samples(t) {
		var csv strings.Builder
		for line := range strings.Lines(text) {
			for i, cell := range strings.Split(strings.TrimSuffix(line, "\n"), "|") {
				if i > 0 {
					csv.WriteString(",")
				}
				if strings.ContainsAny(cell, `",`) || i%3 == 0 {
					cell = `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
				}
				csv.WriteString(cell)
			}
			csv.WriteString("\r\n")
		}
		want, _ := readAll(t, text, Options{})
		got, rejects := readAll(t, csv.String(), Options{})
		if len(got) != len(want) || len(rejects) > 0 {
			t.Fatalf("%s: %d records, %v", name, len(got), rejects)
		}
		for i := range want {
			if string(got[i].AppendContent(nil)) != string(want[i].AppendContent(nil)) {
				t.Errorf("%s row %d: CSV and PSV differ\n%s\n%s", name, i+1, got[i].AppendNative(nil), want[i].AppendNative(nil))
			}
		}
	}
}

const (
	harvestHeader = "commodity|farm_business_name|harvest_date|quantity\n"
	packHeader    = "tlc,farm_business_name,packing_date,product_name,tlc_source_business_name\n"
)

func TestDelimitedRecord(t *testing.T) {
	in := "transformation_date|New_TLC | INPUT_TLC|tlc_source_reference|tlc_source_business_name|quantity\n" +
		" 02/19/2024 | L-1 |L-0|N/A (none)|Plant 4|12\n" +
		"2024-02-19|L-1|n/a (not on FTL)|https://id.gs1.org/x|Plant 4|n/a\n"
	records, rejects := readAll(t, in, Options{})
	if len(records) != 2 || len(rejects) > 0 {
		t.Fatalf("%d records, %v", len(records), rejects)
	}
	want := `{"record_id":"` + records[0].RecordID + `","traceability_lot_code":"L-1","tlc_source":"Plant 4","event_type":"transformation","event_timestamp":"2024-02-20T12:00:00Z","kde_payload":{"transformation_date":" 02/19/2024 ","new_tlc":" L-1 ","input_tlc":"L-0","tlc_source_reference":"N/A (none)","tlc_source_business_name":"Plant 4","quantity":"12"},"input_lots":[{"traceability_lot_code":"L-0"}]}`
	if got := string(records[0].AppendNative(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if r := records[1]; r.TLCSource != "https://id.gs1.org/x" || len(r.InputLots) > 0 || r.Location() != "Plant 4" {
		t.Errorf("source %q, inputs %v, location %q", r.TLCSource, r.InputLots, r.Location())
	}
	for _, r := range records {
		checkRecord(t, r)
	}

	records, rejects = readAll(t, packHeader+"L,F,01/02/2024,K,\"Plant\r\n4\"\n", Options{})
	if len(rejects) > 0 || records[0].TLCSource != "Plant 4" {
		t.Errorf("a source of two lines: %v, %v", records, rejects)
	}
}

// The id is written down in prose, so that it can be computed without us.
func TestDelimitedRecordID(t *testing.T) {
	id := func(texts ...string) string {
		var b strings.Builder
		for _, s := range texts {
			b.WriteString(strconv.Itoa(len(s)) + ":" + s)
		}
		sum := sha256.Sum256([]byte(b.String()))
		return hex.EncodeToString(sum[:])
	}
	records, _ := readAll(t, harvestHeader+"Kale|Farm Ä|01/02/2024|\nKale|Farm Ä|01/02/2024|7\nKale|Farm Ä|01/02/2024|\n", Options{})
	want := []string{
		id("harvesting", "Kale", "Farm Ä", "01/02/2024", "", "1"),
		id("harvesting", "Kale", "Farm Ä", "01/02/2024", "7", "1"),
		id("harvesting", "Kale", "Farm Ä", "01/02/2024", "", "2"),
	}
	for i, r := range records {
		if r.RecordID != want[i] {
			t.Errorf("row %d has id %s, want %s", i+1, r.RecordID, want[i])
		}
	}
}

func TestEventDate(t *testing.T) {
	for in, want := range map[string]string{
		"02/19/2027":                  "2027-02-20T12:00:00Z",
		"2/9/2027":                    "2027-02-10T12:00:00Z",
		"12/31/2026":                  "2027-01-01T12:00:00Z",
		"02/28/2024":                  "2024-02-29T12:00:00Z",
		"02/29/2024":                  "2024-03-01T12:00:00Z",
		"2026-10-25":                  "2026-10-26T12:00:00Z",
		"2026-10-25 00:00:00":         "2026-10-26T12:00:00Z",
		"12/30/9999":                  "9999-12-31T12:00:00Z",
		"2026-10-25T08:00:00.5-07:00": "2026-10-25T15:00:00.5Z",
	} {
		got, problem := parseEventDate(in)
		if problem != "" || FormatTime(got) != want {
			t.Errorf("%q is read as %v, %s; want %s", in, got, problem, want)
		}
	}
	for in, reason := range map[string]string{
		"":                     "missing",
		"02/30/2024":           "day beyond",
		"02/29/2023":           "not a leap year",
		"13/01/2024":           "month beyond",
		"00/10/2024":           "month beyond",
		"01/00/2024":           "day beyond",
		"01/01/0000":           "year 0000",
		"12/31/9999":           "after the year 9999",
		"01/01/24":             "not mm/dd/yyyy",
		"01/01/20244":          "not mm/dd/yyyy",
		"001/01/2024":          "not mm/dd/yyyy",
		"/01/2024":             "not mm/dd/yyyy",
		"2024-1-1":             "not mm/dd/yyyy",
		"01-02-2024":           "not mm/dd/yyyy",
		"2024/01/02":           "not mm/dd/yyyy",
		"Feb 19, 2027":         "not mm/dd/yyyy",
		"45678":                "not mm/dd/yyyy",
		"2026-10-25 08:00:00":  "time of day without an offset",
		"10/25/2026 00:00:00":  "time of day without an offset",
		"2026-10-25 00:00":     "time of day without an offset",
		"2026-10-25T00:00:00":  "no offset",
		"2026-10-25t00:00:00Z": "lower-case t",
	} {
		if got, problem := parseEventDate(in); !strings.Contains(problem, reason) {
			t.Errorf("%q is read as %v, %q; want a reason with %q", in, got, problem, reason)
		}
	}
}

func TestDelimitedRejects(t *testing.T) {
	for _, test := range []struct {
		name, header, rows  string
		line                int
		field, rule, reason string
		input               string
	}{
		{"too few cells", harvestHeader, "Kale|Farm|01/02/2024\n", 2, "", "columns", "has 3 cells, but the header has 4", "Kale|Farm|01/02/2024"},
		{"too many cells", harvestHeader, "Kale|Farm|01/02/2024|1|\n", 2, "", "columns", "has 5 cells", "Kale|Farm|01/02/2024|1|"},
		{"no date", harvestHeader, "Kale|Farm||1\n", 2, "harvest_date", "date", "is missing", "Kale|Farm||1"},
		{"date n/a", harvestHeader, "Kale|Farm|n/a|1\n", 2, "harvest_date", "date", "is missing", "Kale|Farm|n/a|1"},
		{"bad date", harvestHeader, "Kale|Farm|yesterday|1\n", 2, "harvest_date", "date", "not mm/dd/yyyy", "Kale|Farm|yesterday|1"},
		{"not UTF-8", harvestHeader, "Kale|F\xe4rm|01/02/2024|1\n", 2, "", "utf8", "UTF-8", "Kale|F\xe4rm|01/02/2024|1"},
		{"no lot", packHeader, ",Farm,01/02/2024,Kale,P\n", 2, "traceability_lot_code", "required", "missing", ",Farm,01/02/2024,Kale,P"},
		{"lot n/a", packHeader, "n/a (none),Farm,01/02/2024,Kale,P\n", 2, "traceability_lot_code", "required", "missing", "n/a (none),Farm,01/02/2024,Kale,P"},
		{"newline in the lot", packHeader, "\"L\n1\",Farm,01/02/2024,Kale,P\n", 2, "traceability_lot_code", "nocontrol", "control", "\"L\n1\",Farm,01/02/2024,Kale,P"},
		{"open quote at the end", packHeader, "L,\"Farm,01/02/2024,Kale,P", 2, "", "quote", "not closed", "L,\"Farm,01/02/2024,Kale,P"},
		{"text behind a quote", packHeader, "L,\"Farm\"s,01/02/2024,Kale,P\n", 2, "", "quote", "followed by text", "L,\"Farm\"s,01/02/2024,Kale,P"},
		{"CRLF", harvestHeader, "\r\n \r\nKale|Farm|x|1\r\n", 4, "harvest_date", "date", "not mm/dd/yyyy", "Kale|Farm|x|1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			good := "Kale|Farm|01/02/2024|1\n"
			if test.header == packHeader {
				good = "L,Farm,01/02/2024,Kale,P\n"
			}
			records, rejects := readAll(t, test.header+test.rows, Options{File: "in"})
			if len(records) != 0 || len(rejects) != 1 {
				t.Fatalf("%d records, rejects %v", len(records), rejects)
			}
			r := rejects[0]
			if r.Line != test.line || r.Field != test.field || r.Rule != test.rule || !strings.Contains(r.Reason, test.reason) || string(r.Input) != test.input {
				t.Errorf("got %+v with input %q", r, r.Input)
			}
			if strings.Contains(r.Error(), "Kale") || strings.Contains(r.Error(), "Farm") {
				t.Errorf("%q has a KDE in it", r.Error())
			}
			// The rows around it survive.
			records, rejects = readAll(t, test.header+good+strings.TrimSuffix(test.rows, "\n")+"\n"+good, Options{})
			if len(records) != 2 || len(rejects) != 1 {
				t.Errorf("with rows around it: %d records, rejects %v", len(records), rejects)
			}
		})
	}
}

// A stray quote costs the row it stands in, whatever follows.
func TestStrayQuotes(t *testing.T) {
	good := "L,Farm,01/02/2024,Kale,P\n"
	for name, stray := range map[string]string{
		"never closed":              "L,\"Farm,01/02/2024,Kale,P\n",
		"never closed, last column": "L,Farm,01/02/2024,Kale,\"P\n",
		"never closed, first":       "\"L,Farm,01/02/2024,Kale,P\n",
	} {
		for after, tail := range map[string]string{
			"nothing":               "",
			"a quoted cell":         "L,\"Farm\",01/02/2024,Kale,P\n",
			"a quote in the middle": "L,Fa\"rm,01/02/2024,Kale,P\n",
			"inches at the end":     "L,Farm,01/02/2024,Kale,P 5\"\n",
		} {
			for _, between := range []int{0, 1, 50} {
				records, rejects := readAll(t, packHeader+good+stray+strings.Repeat(good, between)+tail, Options{})
				want := 1 + between + strings.Count(tail, "\n")
				if len(records) != want || len(rejects) != 1 || rejects[0].Line != 3 {
					t.Errorf("%s, then %d rows and %s: %d records of %d, rejects %v", name, between, after, len(records), want, rejects)
				}
			}
		}
	}
}

func TestQuotedCells(t *testing.T) {
	kdes := func(in string) []string {
		t.Helper()
		records, rejects := readAll(t, in, Options{})
		if len(rejects) > 0 {
			t.Fatalf("%v", rejects[0])
		}
		var all []string
		for _, r := range records {
			all = append(all, string(r.KDEs))
			checkRecord(t, r)
		}
		return all
	}
	for in, want := range map[string][]string{
		packHeader + "L,\"Farm, \"\"Red\"\"\",01/02/2024,\"\",P\n":                 {`{"tlc":"L","farm_business_name":"Farm, \"Red\"","packing_date":"01/02/2024","tlc_source_business_name":"P"}`},
		packHeader + "L,\"Farm\r\n2 Road\n\",01/02/2024,K,P\r\nM,F,01/02/2024,K,P": {`{"tlc":"L","farm_business_name":"Farm\r\n2 Road\n","packing_date":"01/02/2024","product_name":"K","tlc_source_business_name":"P"}`, `{"tlc":"M","farm_business_name":"F","packing_date":"01/02/2024","product_name":"K","tlc_source_business_name":"P"}`},
		packHeader + "L,F,01/02/2024,5\" pie,P\n":                                  {`{"tlc":"L","farm_business_name":"F","packing_date":"01/02/2024","product_name":"5\" pie","tlc_source_business_name":"P"}`},
		packHeader + "\"L\",\"F\",\"01/02/2024\",\"K\",\"P\n\"":                    {`{"tlc":"L","farm_business_name":"F","packing_date":"01/02/2024","product_name":"K","tlc_source_business_name":"P\n"}`},
		harvestHeader + `K|19°51'30.0"N|01/02/2024|1`:                              {`{"commodity":"K","farm_business_name":"19°51'30.0\"N","harvest_date":"01/02/2024","quantity":"1"}`},
		harvestHeader + `"K"|"a|""b"""|01/02/2024|"1`:                              {`{"commodity":"K","farm_business_name":"a|\"b\"","harvest_date":"01/02/2024","quantity":"\"1"}`},
		harvestHeader + `K|"Big" Farm|01/02/2024|1`:                                {`{"commodity":"K","farm_business_name":"\"Big\" Farm","harvest_date":"01/02/2024","quantity":"1"}`},
		harvestHeader + `"K|Farm|01/02/2024|1"`:                                    {`{"commodity":"\"K","farm_business_name":"Farm","harvest_date":"01/02/2024","quantity":"1\""}`},
	} {
		if got := kdes(in); !slices.Equal(got, want) {
			t.Errorf("%q\ngot  %s\nwant %s", in, got, want)
		}
	}
}

func TestDelimitedBlankRows(t *testing.T) {
	in := "\ufeff\n" + harvestHeader + "\nK|F|01/02/2024|1\n|||\n   \n|||"
	records, rejects := readAll(t, in, Options{})
	if len(records) != 1 || len(rejects) != 0 {
		t.Errorf("%d records, rejects %v", len(records), rejects)
	}
	if records, rejects := readAll(t, harvestHeader, Options{}); len(records)+len(rejects) != 0 {
		t.Errorf("a header alone has rows")
	}
}

func TestDelimitedLongRow(t *testing.T) {
	cell := strings.Repeat("x", 10<<20)
	records, rejects := readAll(t, harvestHeader+"K|"+cell+"|01/02/2024|1\nK|"+cell+cell+"|01/02/2024|1\nK|F|01/02/2024|1\n", Options{})
	if len(records) != 2 || len(rejects) != 1 || rejects[0].Line != 3 || rejects[0].Input != nil {
		t.Fatalf("%d records, %d rejects", len(records), len(rejects))
	}
	if !strings.Contains(string(records[0].KDEs), cell) {
		t.Error("10 MB did not come out as they went in")
	}
	// Within quotes too the limit holds, and costs the first line only.
	records, rejects = readAll(t, packHeader+"L,\""+strings.Repeat(cell+"\n", 2)+"L,F,01/02/2024,K,P\n", Options{})
	if len(records) != 1 || len(rejects) != 2 {
		t.Fatalf("%d records, %d rejects", len(records), len(rejects))
	}
}

// The event type follows from the columns, in whatever order and case they stand.
func TestEventTypeFromColumns(t *testing.T) {
	headers := map[EventType]string{
		Harvesting:            "farm_business_name|harvest_date|isr_business_name",
		InitialPackingSprouts: "tlc|packing_date|seed_description|farm_business_name",
	}
	if os.Getenv("LOTKEEPER_SAMPLES") != "" {
		for name, text := range samples(t) {
			headers[EventType(name)], _, _ = strings.Cut(text, "\n")
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for want, header := range headers {
			columns := rapid.Permutation(strings.Split(header, "|")).Draw(t, "order")
			for i, c := range columns {
				switch rapid.IntRange(0, 3).Draw(t, "case") {
				case 0:
					columns[i] = strings.ToUpper(c)
				case 1:
					columns[i] = " " + c + "\t"
				case 2:
					columns[i] = `"` + c + `"`
				}
			}
			for _, separator := range []string{"|", ","} {
				r, err := NewReader(strings.NewReader(strings.Join(columns, separator)), Options{Now: testNow})
				if err != nil {
					t.Fatalf("%s: %v", want, err)
				}
				if got := r.layout.sheet.eventType; got != want {
					t.Fatalf("%s is read as %s", want, got)
				}
			}
		}
	})
}

func TestHeaderProblems(t *testing.T) {
	for _, test := range []struct {
		in        string
		eventType EventType
		reasons   []string
	}{
		{"commodity|quantity|uom\n", "", []string{"cannot tell the event type", "harvesting: harvest_date, farm_business_name, and not tlc, cooling_date", "transformation: transformation_date, new_tlc", "--event-type"}},
		{"tlc|ship_date|receive_date|receive_business_name\n", "", []string{"these fit", "shipping: ship_date, tlc", "receiving: receive_date", "--event-type"}},
		{"commodity|quantity|uom\n", Shipping, []string{"no column ship_date"}},
		{"tlc|ship_date\n", Unclassified, []string{"unclassified", "no spreadsheet layout"}},
		{"tlc|ship_date|TLC\n", "", []string{"columns 1 and 3", `"tlc"`}},
		{"tlc|ship_date|\n", "", []string{"column 3", "no name"}},
		{"tlc,\"ship_date\n", "", []string{"quoted cell"}},
		{"tlc|ship_date|\xff\n", "", []string{"not UTF-8"}},
	} {
		_, err := NewReader(strings.NewReader(test.in), Options{File: "in.psv", Now: testNow, EventType: test.eventType})
		if err == nil {
			t.Errorf("%q was taken", test.in)
			continue
		}
		for _, reason := range append(test.reasons, "in.psv") {
			if !strings.Contains(err.Error(), reason) {
				t.Errorf("%q: %v; want a reason with %q", test.in, err, reason)
			}
		}
	}
	// What the columns cannot tell, the caller can.
	r, err := NewReader(strings.NewReader("tlc|ship_date|receive_date|receive_business_name\nL|01/02/2024|03/04/2024|x\n"), Options{Now: testNow, EventType: Receiving})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := r.Next()
	if err != nil || rec.EventType != Receiving || rec.EventTimestamp != time.Date(2024, 3, 5, 12, 0, 0, 0, time.UTC) {
		t.Errorf("%v, %v", rec, err)
	}
}

// A day that has begun somewhere on earth is not in the future.
func TestTodayIsNotTheFuture(t *testing.T) {
	records, _ := readAll(t, harvestHeader+"K|F|11/21/2026|1\nK|F|11/24/2026|1\n", Options{})
	future := func(r *Record) bool {
		return slices.ContainsFunc(r.Gaps(testNow), func(g Gap) bool { return g.KDE == "event_timestamp" })
	}
	if future(records[0]) || !future(records[1]) {
		t.Errorf("today %v, three days later %v", future(records[0]), future(records[1]))
	}
}

func FuzzDelimited(f *testing.F) {
	f.Add([]byte(harvestHeader + "K|F|01/02/2024|1\nK|\"F|\"|2024-01-02 00:00:00|1\r\n\n|||\n"))
	f.Add([]byte(packHeader + "L,\"F\n\"\"x\",01/02/2024,K,P\nL,\"F,01/02/2024,K,P\nL,F,2024-01-02T00:00:00Z,K,P"))
	f.Add([]byte("\ufeffnew_tlc|transformation_date|input_tlc\nL|1/2/2024|n/a (x)\nL|1/2/2024|M\nL|1/2/2024|M\n"))
	f.Add([]byte(fmt.Sprintf("%s\n"+shippingRow+"\n", shippingHeader, 7)))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzReader(t, data) })
}
