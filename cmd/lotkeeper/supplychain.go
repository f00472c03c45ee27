package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// place is a link of the demo's supply chain.
type place struct{ Name, Phone, Street, City, State, Postal, Country string }

func (p place) kde() map[string]string {
	return map[string]string{"business_name": p.Name, "phone": p.Phone, "street_or_geo": p.Street, "city": p.City, "state_region": p.State, "postal": p.Postal, "country": p.Country}
}

// crop is what one farm grows, and what the packer and the kitchen make of it.
type crop struct {
	code, commodity, variety, product, cut string
	farm                                   place
}

var (
	cooler      = place{"Valley Forced-Air Cooling", "+1 831 555 0102", "1200 Harkins Road", "Salinas", "CA", "93901", "US"}
	packer      = place{"Coastline Packing", "+1 831 555 0103", "44 Airport Boulevard", "Watsonville", "CA", "95076", "US"}
	distributor = place{"Great Lakes Produce", "+1 312 555 0104", "2404 South Wolcott Avenue", "Chicago", "IL", "60608", "US"}
	kitchen     = place{"Fresh Cut Kitchen No. 12", "+1 312 555 0105", "7878 West Grover Lane", "South Holland", "IL", "60473", "US"}
	stores      = []place{
		{"Corner Market #1", "+1 773 555 0106", "123 Emlen Avenue", "Chicago", "IL", "60614", "US"},
		{"Corner Market #2", "+1 414 555 0107", "900 Pleasant Street", "Milwaukee", "WI", "53202", "US"},
		{"Lakeside School District", "+1 219 555 0108", "14 Oak Street", "Gary", "IN", "46402", "US"},
	}
	crops = []crop{
		{code: "CAN", commodity: "Melons (fresh)", variety: "Cantaloupe", product: "Cantaloupe, 12 ct", cut: "Cut cantaloupe, 12 x 1 lb",
			farm: place{"Red Barn Melons", "+1 559 555 0101", "36.786392, -119.413761", "Firebaugh", "CA", "93622", "US"}},
		{code: "ROM", commodity: "Leafy greens (fresh)", variety: "Romaine", product: "Romaine hearts, 24 ct", cut: "Chopped romaine, 6 x 2 lb",
			farm: place{"Frannie's Farm", "+1 831 555 0109", "Field road 8", "Gonzales", "CA", "93926", "US"}},
		{code: "CUC", commodity: "Cucumbers (fresh)", variety: "Short green", product: "Cucumbers, 36 ct", cut: "Cucumber spears, 8 x 1 lb",
			farm: place{"Nelson Farms", "+1 928 555 0110", "777 Wilson Road", "Callaway", "FL", "32404", "US"}},
	}
)

// supplyChain is what the demo needs to know of the file it wrote.
type supplyChain struct {
	// Recalled is the lot of a recall: packed three years ago, long overdue.
	Recalled string
	// Old is a record that the first sweep archives.
	Old string
}

// writeSupplyChain writes four years of events up to now: every week each farm
// harvests, a lot is packed, shipped, received, cut into a new lot and sold on.
// Some rows are as bad as rows are: the sender of each thought it was fine.
func writeSupplyChain(w io.Writer, now time.Time) (supplyChain, error) {
	out := bufio.NewWriter(w)
	rnd := rand.New(rand.NewPCG(204, 1455))
	var chain supplyChain
	n := 0
	emit := func(at time.Time, eventType, lot string, source place, kdes map[string]any, inputs ...string) string {
		n++
		id := fmt.Sprintf("cte-%05d", n)
		kdes["ref_doc_type"], kdes["ref_doc_number"] = "Work order", fmt.Sprintf("WO-%06d", n)
		rec := struct {
			ID       string         `json:"record_id"`
			TLC      string         `json:"traceability_lot_code,omitempty"`
			Source   string         `json:"tlc_source,omitempty"`
			Type     string         `json:"event_type"`
			At       string         `json:"event_timestamp"`
			Obtained string         `json:"created_or_obtained_at"`
			KDEs     map[string]any `json:"kde_payload"`
			Inputs   []string       `json:"input_lots,omitempty"`
		}{id, lot, "", eventType, at.Format(time.RFC3339), at.Add(3 * time.Hour).Format(time.RFC3339), kdes, inputs}
		if lot != "" {
			rec.Source = source.Name
			kdes["tlc_source_loc"] = source.kde()
		}
		line, err := json.Marshal(rec)
		if err == nil {
			_, err = out.Write(append(line, '\n'))
		}
		if err != nil {
			panic(err) // maps of strings, into a buffer that reports at Flush
		}
		return id
	}
	first := now.UTC().AddDate(-4, 0, 0).Truncate(24 * time.Hour)
	for week := 0; first.AddDate(0, 0, 7*week+14).Before(now); week++ {
		for _, c := range crops {
			day := first.AddDate(0, 0, 7*week).Add(time.Duration(5+rnd.IntN(4)) * time.Hour)
			qty := 400 + rnd.IntN(600)
			lot := fmt.Sprintf("%s-%s", c.code, day.Format("060102"))
			cutLot := "CUT-" + lot
			desc := func(name string) map[string]string {
				return map[string]string{"name": name, "packaging_size": "case", "packaging_style": "carton", "commodity": c.commodity, "variety": c.variety}
			}
			amount := func(q int) map[string]any { return map[string]any{"quantity": q, "uom": "cases"} }
			with := func(m map[string]any, kv ...any) map[string]any {
				for i := 0; i < len(kv); i += 2 {
					m[kv[i].(string)] = kv[i+1]
				}
				return m
			}
			date := day.Format("2006-01-02")
			old := emit(day, "harvesting", "", place{}, with(amount(qty), "isr_loc", cooler.kde(), "commodity", c.commodity, "variety", c.variety,
				"farm_loc", c.farm.kde(), "field_name", fmt.Sprintf("Field %d", 1+rnd.IntN(9)), "harvest_date", date))
			emit(day.Add(6*time.Hour), "cooling", "", place{}, with(amount(qty), "isr_loc", packer.kde(), "commodity", c.commodity, "variety", c.variety,
				"cooling_loc", cooler.kde(), "cooling_date", date, "farm_loc", c.farm.kde()))
			packed := day.AddDate(0, 0, 1)
			emit(packed, "initial_packing", lot, packer, map[string]any{
				"commodity": c.commodity, "variety": c.variety, "receive_date": date, "qty_received": qty, "uom_received": "cases", "farm_loc": c.farm.kde(),
				"harvester_name": c.farm.Name, "harvester_phone": c.farm.Phone, "harvest_date": date, "cooling_loc": cooler.kde(), "cooling_date": date,
				"product_desc": desc(c.product), "qty_packed": qty - 10, "uom_packed": "cases", "packing_loc": packer.kde(), "packing_date": packed.Format("2006-01-02")})
			shipped := packed.Add(5 * time.Hour)
			emit(shipped, "shipping", lot, packer, with(amount(qty-10), "product_desc", desc(c.product), "isr_loc", distributor.kde(), "ship_from_loc", packer.kde(), "ship_date", shipped.Format("2006-01-02")))
			received := shipped.Add(49 * time.Hour)
			emit(received, "receiving", lot, packer, with(amount(qty-10), "product_desc", desc(c.product), "ips_loc", packer.kde(), "receive_loc", distributor.kde(), "receive_date", received.Format("2006-01-02")))
			cut := received.Add(20 * time.Hour)
			emit(cut, "transformation", cutLot, kitchen, with(amount(qty/2), "inputs", []any{map[string]any{"tlc": lot, "product_desc": desc(c.product), "qty": qty / 2, "uom": "cases"}},
				"transform_loc", kitchen.kde(), "date_completed", cut.Format("2006-01-02"), "product_desc", desc(c.cut)), lot)
			for i, s := range stores {
				at := cut.Add(time.Duration(10+i) * time.Hour)
				emit(at, "shipping", cutLot, kitchen, with(amount(qty/6), "product_desc", desc(c.cut), "isr_loc", s.kde(), "ship_from_loc", kitchen.kde(), "ship_date", at.Format("2006-01-02")))
				got := at.Add(7 * time.Hour)
				emit(got, "receiving", cutLot, kitchen, with(amount(qty/6), "product_desc", desc(c.cut), "ips_loc", kitchen.kde(), "receive_loc", s.kde(), "receive_date", got.Format("2006-01-02")))
			}
			if week == 52 && c.code == "CAN" {
				chain.Recalled, chain.Old = cutLot, old
			}
		}
	}
	// The dirty rows.
	for _, row := range []string{
		`{"record_id":"erp-1","traceability_lot_code":"CAN-1","event_type":"shipping","event_timestamp":"2024-03-01 08:30:00","kde_payload":{}}`,                             // no T, no offset
		`{"record_id":"erp-2","traceability_lot_code":"CAN-1","event_type":"shipping","event_timestamp":"2025-02-29T08:30:00Z","kde_payload":{}}`,                            // no such day
		`{"record_id":"erp-3","event_type":"receiving","event_timestamp":"2024-03-01T08:30:00Z","kde_payload":{"quantity":12}}`,                                              // no lot
		`{"record_id":"erp-4","traceability_lot_code":"CAN-1","event_timestamp":"2024-03-01T08:30:00Z","kde_payload":{"quantity":12,"quantity":21}}`,                         // says two things
		`{"record_id":"cte-00001","traceability_lot_code":"CAN-1","event_type":"shipping","event_timestamp":"2024-03-01T08:30:00Z","kde_payload":{"quantity":1}}`,            // another's id
		`{"record_id":"erp-6","traceability_lot_code":"ROM-1","event_type":"shipping","event_timestamp":"2024-03-01T08:30:00Z","kde_payload":{"sscc":106141412345678908}}`,   // gaps
		`{"record_id":"erp-6","traceability_lot_code":"ROM-1","event_type":"shipping","event_timestamp":"2024-03-01T08:30:00Z","kde_payload":{"sscc":106141412345678908}}`,   // sent twice
		`{"record_id":"erp-7","traceability_lot_code":"CUC-1","event_type":"shipping","event_timestamp":"2024-03-01T08:30:00Z","kde_payload":{},"retention_hld":true}`,       // misspelt
		`{"record_id":"erp-8","traceability_lot_code":"CUC-1","event_type":"shipping","event_timestamp":"2024-03-01T08:30:00Z","kde_payload":{"quantity":400,"uom":"cases",`, // cut off
	} {
		if _, err := out.WriteString(row + "\n"); err != nil {
			return chain, err
		}
	}
	return chain, out.Flush()
}
