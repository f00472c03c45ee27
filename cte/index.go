package cte

import (
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
)

// maxIndex bounds an index column. Index columns stand in plain text beside the
// sealed KDEs; they are for finding records, not for reading them.
const maxIndex = 200

// The KDEs that the index columns are taken from, the first one given. They are
// documented in docs/index-columns.md; a test holds the two together.
var (
	locationKDEs = []string{"facility", "facility_id", "location", "location_id", "gln", "site", "site_id"}

	// The place where an event of this type happens, when none of the above is given.
	eventLocationKDEs = map[EventType][]string{
		Harvesting:               {"farm_loc", "farm_business_name"},
		Cooling:                  {"cooling_loc", "cooling_business_name"},
		InitialPacking:           {"packing_loc", "packing_business_name", "tlc_source_loc", "tlc_source_business_name"},
		InitialPackingSprouts:    {"packing_loc", "packing_business_name", "tlc_source_loc", "tlc_source_business_name"},
		InitialPackingFromExempt: {"packing_loc", "packing_business_name", "tlc_source_loc", "tlc_source_business_name"},
		FirstLandBasedReceiving:  {"receiver_loc", "receiver_business_name", "tlc_source_loc", "tlc_source_business_name"},
		Shipping:                 {"ship_from_loc", "ship_from_business_name"},
		Receiving:                {"receive_loc", "receive_business_name"},
		ReceivingFromExempt:      {"receive_loc", "receive_business_name", "tlc_source_loc", "tlc_source_business_name"},
		Transformation:           {"transform_loc", "transform_business_name", "tlc_source_loc", "tlc_source_business_name"},
	}

	productKDEs = []string{
		"product_code", "product_id", "gtin", "sku", "product", "product_name", "product_desc",
		"species_or_market_name", "commodity", "product_commodity", "commodity_received",
	}
)

// Location returns the record's location index column: where the event happened,
// from the first KDE given of a documented list, or "". See docs/index-columns.md.
func (r *Record) Location() string {
	if found := r.index(locationKDEs); found != "" {
		return found
	}
	return r.index(eventLocationKDEs[r.EventType])
}

// Product returns the record's product index column, or "". See
// docs/index-columns.md.
func (r *Record) Product() string { return r.index(productKDEs) }

// index returns the text of the first of names that the KDEs give as a string or
// a number.
func (r *Record) index(names []string) string {
	best, found := len(names), ""
	for name, value := range members(r.KDEs) {
		name := unquoteBytes(name)
		for i, wanted := range names[:best] {
			if string(name) == wanted {
				if text := indexText(value); text != "" {
					best, found = i, text
				}
				break
			}
		}
	}
	return found
}

func indexText(value jsontext.Value) string {
	switch value.Kind() {
	case '0':
		return cut(string(value), maxIndex)
	case '"':
		if !isGiven(value) {
			return ""
		}
		// A NUL is more than some databases take in a text column, and an escape
		// sequence more than a terminal should be shown.
		text := strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, unquote(value))
		return strings.TrimSpace(cut(strings.TrimSpace(text), maxIndex))
	}
	return ""
}
