package cte

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

var benchNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// benchInput is n native shipping records of some 600 bytes.
func benchInput(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"record_id":"ship-%08d","traceability_lot_code":"LOT-2024-%05d","tlc_source":"https://id.gs1.org/414/9521321000010","event_type":"shipping","event_timestamp":"2024-09-14T08:30:%02dZ","kde_payload":{"quantity":%d,"uom":"cases","product_code":"PC-7782","product_desc":"Romaine hearts 24 ct, carton","ship_from_loc":"Valley Fresh Packing, +1 831 555 0100, 1200 Harvest Road, Salinas, CA 93901","isr_loc":"North DC 14, +1 206 555 0199, 88 Dock Street, Kent, WA 98032","ref_doc_type":"Bill of Lading","ref_doc_number":"BOL-%08d","sscc":106141412345678908}}`+"\n", i, i%40000, i%60, i%900, i)
	}
	return b.Bytes()
}

func benchRead(b *testing.B, input []byte, each func(*Record)) {
	b.SetBytes(int64(len(input)))
	b.ReportAllocs()
	rows := 0
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(input), Options{Now: benchNow})
		if err != nil {
			b.Fatal(err)
		}
		for {
			rec, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			each(rec)
			rows++
		}
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rec/s")
}

// BenchmarkNative is what ingest does with every record here: read it, print its
// line and take the checksum.
func BenchmarkNative(b *testing.B) {
	var line []byte
	benchRead(b, benchInput(2000), func(r *Record) {
		line = r.AppendLine(line[:0])
		Checksum(line)
	})
}

// BenchmarkIngest adds the content, the gaps and the index columns.
func BenchmarkIngest(b *testing.B) {
	var line, content []byte
	benchRead(b, benchInput(2000), func(r *Record) {
		line = r.AppendLine(line[:0])
		Checksum(line)
		content = r.AppendContent(content[:0])
		r.Gaps(benchNow)
		r.Location()
		r.Product()
	})
}

func BenchmarkDelimited(b *testing.B) {
	var in strings.Builder
	in.WriteString(shippingHeader + "\n")
	for i := range 2000 {
		fmt.Fprintf(&in, shippingRow+"\n", i)
	}
	var line []byte
	benchRead(b, []byte(in.String()), func(r *Record) {
		line = r.AppendLine(line[:0])
		Checksum(line)
	})
}

const (
	shippingHeader = "tlc|quantity|uom|product_name|product_packaging_size|product_packaging_style|isr_business_name|isr_phone|isr_street_or_geo|isr_city|isr_state_region|isr_postal|ship_from_business_name|ship_from_phone|ship_from_street_or_geo|ship_from_city|ship_from_state_region|ship_from_postal|ship_date|tlc_source_reference|ref_doc_type|ref_doc_number"
	shippingRow    = "LOT-2024-7|%d|cases|Romaine hearts|24 ct|carton|North DC 14|+1 206 555 0199|88 Dock Street|Kent|WA|98032|Valley Fresh Packing|+1 831 555 0100|1200 Harvest Road|Salinas|CA|93901|09/14/2024|https://id.gs1.org/01/09521321000010/10/7|Bill of Lading|BOL-1"
)

func BenchmarkParseLine(b *testing.B) {
	r, err := NewReader(bytes.NewReader(benchInput(1)), Options{Now: benchNow})
	if err != nil {
		b.Fatal(err)
	}
	rec, err := r.Next()
	if err != nil {
		b.Fatal(err)
	}
	line := rec.AppendLine(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseLine(line); err != nil {
			b.Fatal(err)
		}
	}
}
