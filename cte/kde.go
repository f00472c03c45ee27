package cte

import "slices"

// kde is a key data element that the rule asks for, and what satisfies it.
type kde struct {
	section string // of 21 CFR
	name    string
	need    need
	ways    []way // any one of them is enough
}

type need bool

const (
	required    need = true
	conditional need = false // "if applicable", "if available": never a gap by itself
)

// way is one way to satisfy a KDE.
type way struct {
	// names must all be given in the KDEs.
	names []string

	// domestic must be given too, unless country is. The rule's location
	// description has "city, State, and zip code for domestic locations and
	// comparable information for foreign locations, including country" (21 CFR
	// 1.1310): what is comparable differs by country, some have no postal codes
	// and some no states, so with a country given only the city is asked for.
	// The country itself is asked of foreign locations only, and FDA's sample
	// leaves it out for domestic ones, so its absence is not a gap.
	domestic []string
	country  string

	// field is a field of the record that says it instead. It does not make
	// up for a location of which only a part is given.
	field func(*Record) bool
}

// The ways, by the shape of what is asked for. Native KDEs have the element's own
// name and any value that is not empty; FDA's spreadsheet has several columns for
// locations and products.

func named(names ...string) []way {
	var ways []way
	for _, name := range names {
		ways = append(ways, way{names: []string{name}})
	}
	return ways
}

// location is a location description, as a native KDE or as FDA's seven columns.
func location(name, prefix string) []way {
	return []way{{names: []string{name}}, {
		names:    []string{prefix + "_business_name", prefix + "_phone", prefix + "_street_or_geo", prefix + "_city"},
		domestic: []string{prefix + "_state_region", prefix + "_postal"},
		country:  prefix + "_country",
	}}
}

// tlcSourceLocation is the location of an event at which a lot code is assigned:
// that place is the lot's TLC source, and the record's own field may name it.
func tlcSourceLocation(name, prefix string) []way {
	return slices.Concat(location(name, prefix), tlcSource)
}

// product is a product description. Brand, commodity and variety belong to it
// where they apply only (21 CFR 1.1310), so they are not asked for.
func product(name, prefix string) []way {
	return []way{{names: []string{name}}, {
		names: []string{prefix + "_name", prefix + "_packaging_size", prefix + "_packaging_style"},
	}}
}

func inField(given func(*Record) bool) []way { return []way{{field: given}} }

var (
	lotCode   = inField(func(r *Record) bool { return r.TLC != "" })
	eventTime = inField(func(*Record) bool { return true }) // there is no record without one
	inputLots = append(named("inputs", "input_tlc"), inField(func(r *Record) bool { return len(r.InputLots) > 0 })...)

	// Where the rule asks for the TLC source, a description or a reference will do.
	tlcSource      = slices.Concat(location("tlc_source_loc", "tlc_source"), inField(func(r *Record) bool { return r.TLCSource != "" }))
	sourceRef      = named("tlc_source_ref", "tlc_source_reference")
	tlcSourceOrRef = slices.Concat(sourceRef, tlcSource)

	docType   = named("ref_doc_type", "ref_doc_type2")
	docNumber = named("ref_doc_number", "ref_doc_number2")
)

// ruleKDEs are the KDEs of 21 CFR 1.1325-1.1350, in the order of the rule. The
// sections were read in the eCFR's text of 2026-06-11.
var ruleKDEs = map[EventType][]kde{
	Harvesting: {
		{"1.1325(a)(1)(i)", "isr_loc", required, location("isr_loc", "isr")},
		{"1.1325(a)(1)(ii)", "commodity", required, named("commodity")},
		{"1.1325(a)(1)(ii)", "variety", conditional, named("variety")},
		{"1.1325(a)(1)(iii)", "quantity", required, named("quantity")},
		{"1.1325(a)(1)(iii)", "uom", required, named("uom")},
		{"1.1325(a)(1)(iv)", "farm_loc", required, location("farm_loc", "farm")},
		{"1.1325(a)(1)(v)", "field_name", conditional, named("field_name")},          // produce
		{"1.1325(a)(1)(vi)", "container_name", conditional, named("container_name")}, // aquaculture
		{"1.1325(a)(1)(vii)", "harvest_date", required, eventTime},
		{"1.1325(a)(1)(viii)", "ref_doc_type", required, docType},
		{"1.1325(a)(1)(viii)", "ref_doc_number", required, docNumber},
	},
	Cooling: {
		{"1.1325(b)(1)(i)", "isr_loc", required, location("isr_loc", "isr")},
		{"1.1325(b)(1)(ii)", "commodity", required, named("commodity")},
		{"1.1325(b)(1)(ii)", "variety", conditional, named("variety")},
		{"1.1325(b)(1)(iii)", "quantity", required, named("quantity")},
		{"1.1325(b)(1)(iii)", "uom", required, named("uom")},
		{"1.1325(b)(1)(iv)", "cooling_loc", required, location("cooling_loc", "cooling")},
		{"1.1325(b)(1)(v)", "cooling_date", required, eventTime},
		{"1.1325(b)(1)(vi)", "farm_loc", required, location("farm_loc", "farm")},
		{"1.1325(b)(1)(vii)", "ref_doc_type", required, docType},
		{"1.1325(b)(1)(vii)", "ref_doc_number", required, docNumber},
	},
	InitialPacking:        initialPacking,
	InitialPackingSprouts: append(initialPacking[:len(initialPacking):len(initialPacking)], sprouts...),
	InitialPackingFromExempt: {
		{"1.1330(c)(1)", "commodity", required, named("commodity", "commodity_received")},
		{"1.1330(c)(1)", "variety", conditional, named("variety", "variety_received")},
		{"1.1330(c)(2)", "receive_date", required, named("receive_date")},
		{"1.1330(c)(3)", "qty_received", required, named("qty_received", "quantity_received")},
		{"1.1330(c)(3)", "uom_received", required, named("uom_received")},
		{"1.1330(c)(4)", "received_from_loc", required, append(location("received_from_loc", "received_from"), location("ips_loc", "ips")...)},
		{"1.1330(c)(5)", "tlc", required, lotCode},
		{"1.1330(c)(6)", "product_desc", required, product("product_desc", "product")},
		{"1.1330(c)(7)", "qty_packed", required, named("qty_packed", "quantity_packed")},
		{"1.1330(c)(7)", "uom_packed", required, named("uom_packed")},
		{"1.1330(c)(8)", "packing_loc", required, tlcSourceLocation("packing_loc", "packing")},
		{"1.1330(c)(8)", "tlc_source_ref", conditional, sourceRef},
		{"1.1330(c)(9)", "packing_date", required, eventTime},
		{"1.1330(c)(10)", "ref_doc_type", required, docType},
		{"1.1330(c)(10)", "ref_doc_number", required, docNumber},
	},
	FirstLandBasedReceiving: {
		{"1.1335(a)", "tlc", required, lotCode},
		// The name for unpackaged food, the description for packaged food.
		{"1.1335(b)", "species_or_market_name or product_desc", required, append(named("species_or_market_name"), product("product_desc", "product")...)},
		{"1.1335(c)", "quantity", required, named("quantity")},
		{"1.1335(c)", "uom", required, named("uom")},
		{"1.1335(d)", "harvest_date_start", required, named("harvest_date_start")},
		{"1.1335(d)", "harvest_date_end", required, named("harvest_date_end")},
		{"1.1335(d)", "harvest_locations", required, named("harvest_locations")},
		{"1.1335(e)", "receiver_loc", required, tlcSourceLocation("receiver_loc", "receiver")},
		{"1.1335(e)", "tlc_source_ref", conditional, sourceRef},
		{"1.1335(f)", "landing_date", required, eventTime},
		{"1.1335(g)", "ref_doc_type", required, docType},
		{"1.1335(g)", "ref_doc_number", required, docNumber},
	},
	Shipping: {
		{"1.1340(a)(1)", "tlc", required, lotCode},
		{"1.1340(a)(2)", "quantity", required, named("quantity")},
		{"1.1340(a)(2)", "uom", required, named("uom")},
		{"1.1340(a)(3)", "product_desc", required, product("product_desc", "product")},
		{"1.1340(a)(4)", "isr_loc", required, location("isr_loc", "isr")},
		{"1.1340(a)(5)", "ship_from_loc", required, location("ship_from_loc", "ship_from")},
		{"1.1340(a)(6)", "ship_date", required, eventTime},
		{"1.1340(a)(7)", "tlc_source_loc or tlc_source_ref", required, tlcSourceOrRef},
		{"1.1340(a)(8)", "ref_doc_type", required, docType},
		{"1.1340(a)(8)", "ref_doc_number", required, docNumber},
	},
	Receiving: {
		{"1.1345(a)(1)", "tlc", required, lotCode},
		{"1.1345(a)(2)", "quantity", required, named("quantity")},
		{"1.1345(a)(2)", "uom", required, named("uom")},
		{"1.1345(a)(3)", "product_desc", required, product("product_desc", "product")},
		{"1.1345(a)(4)", "ips_loc", required, location("ips_loc", "ips")},
		{"1.1345(a)(5)", "receive_loc", required, location("receive_loc", "receive")},
		{"1.1345(a)(6)", "receive_date", required, eventTime},
		{"1.1345(a)(7)", "tlc_source_loc or tlc_source_ref", required, tlcSourceOrRef},
		{"1.1345(a)(8)", "ref_doc_type", required, docType},
		{"1.1345(a)(8)", "ref_doc_number", required, docNumber},
	},
	ReceivingFromExempt: {
		{"1.1345(b)(1)", "tlc", required, lotCode},
		{"1.1345(b)(2)", "quantity", required, named("quantity")},
		{"1.1345(b)(2)", "uom", required, named("uom")},
		{"1.1345(b)(3)", "product_desc", required, product("product_desc", "product")},
		{"1.1345(b)(4)", "ips_loc", required, location("ips_loc", "ips")},
		{"1.1345(b)(5)", "receive_loc", required, tlcSourceLocation("receive_loc", "receive")},
		{"1.1345(b)(5)", "tlc_source_ref", conditional, sourceRef},
		{"1.1345(b)(6)", "receive_date", required, eventTime},
		{"1.1345(b)(7)", "ref_doc_type", required, docType},
		{"1.1345(b)(7)", "ref_doc_number", required, docNumber},
	},
	Transformation: {
		// Of foods on the Food Traceability List that went in, and of those only.
		{"1.1350(a)(1)(i)", "inputs", conditional, inputLots},
		{"1.1350(a)(1)(ii)", "input_product_desc", conditional, append(named("inputs"), product("input_product_desc", "input_product")...)},
		{"1.1350(a)(1)(iii)", "input_quantity", conditional, named("inputs", "input_quantity")},
		{"1.1350(a)(1)(iii)", "input_uom", conditional, named("inputs", "input_uom")},
		{"1.1350(a)(2)(i)", "tlc", required, lotCode},
		{"1.1350(a)(2)(ii)", "transform_loc", required, tlcSourceLocation("transform_loc", "transform")},
		{"1.1350(a)(2)(ii)", "tlc_source_ref", conditional, sourceRef},
		{"1.1350(a)(2)(iii)", "date_completed", required, eventTime},
		{"1.1350(a)(2)(iv)", "product_desc", required, product("product_desc", "product")},
		{"1.1350(a)(2)(v)", "quantity", required, named("quantity")},
		{"1.1350(a)(2)(v)", "uom", required, named("uom")},
		{"1.1350(a)(2)(vi)", "ref_doc_type", required, docType},
		{"1.1350(a)(2)(vi)", "ref_doc_number", required, docNumber},
	},
}

var initialPacking = []kde{
	{"1.1330(a)(1)", "commodity", required, named("commodity", "commodity_received")},
	{"1.1330(a)(1)", "variety", conditional, named("variety", "variety_received")},
	{"1.1330(a)(2)", "receive_date", required, named("receive_date")},
	{"1.1330(a)(3)", "qty_received", required, named("qty_received", "quantity_received")},
	{"1.1330(a)(3)", "uom_received", required, named("uom_received")},
	{"1.1330(a)(4)", "farm_loc", required, location("farm_loc", "farm")},
	{"1.1330(a)(5)", "field_name", conditional, named("field_name")},         // produce
	{"1.1330(a)(6)", "container_name", conditional, named("container_name")}, // aquaculture
	{"1.1330(a)(7)", "harvester_name", required, named("harvester_name", "harvester_business_name")},
	{"1.1330(a)(7)", "harvester_phone", required, named("harvester_phone")},
	{"1.1330(a)(8)", "harvest_date", required, named("harvest_date")},
	{"1.1330(a)(9)", "cooling_loc", conditional, location("cooling_loc", "cooling")},
	{"1.1330(a)(10)", "cooling_date", conditional, named("cooling_date")},
	{"1.1330(a)(11)", "tlc", required, lotCode},
	{"1.1330(a)(12)", "product_desc", required, product("product_desc", "product")},
	{"1.1330(a)(13)", "qty_packed", required, named("qty_packed", "quantity_packed")},
	{"1.1330(a)(13)", "uom_packed", required, named("uom_packed")},
	{"1.1330(a)(14)", "packing_loc", required, tlcSourceLocation("packing_loc", "packing")},
	{"1.1330(a)(14)", "tlc_source_ref", conditional, sourceRef},
	{"1.1330(a)(15)", "packing_date", required, eventTime},
	{"1.1330(a)(16)", "ref_doc_type", required, docType},
	{"1.1330(a)(16)", "ref_doc_number", required, docNumber},
}

// sprouts are what initial packers of sprouts keep besides.
var sprouts = []kde{
	{"1.1330(b)(1)", "seed_grower_loc", conditional, location("seed_grower_loc", "seed_grower")},
	{"1.1330(b)(1)", "seed_harvest_date", conditional, named("seed_harvest_date")},
	{"1.1330(b)(2)", "conditioner_loc", required, location("conditioner_loc", "conditioner")},
	{"1.1330(b)(2)", "conditioner_lot", required, named("conditioner_lot")},
	{"1.1330(b)(2)", "conditioner_date", required, named("conditioner_date")},
	{"1.1330(b)(3)", "packinghouse_loc", required, location("packinghouse_loc", "packinghouse")},
	{"1.1330(b)(3)", "pack_date", required, named("pack_date")},
	{"1.1330(b)(3)", "repack_date", conditional, named("repack_date")},
	{"1.1330(b)(3)", "packinghouse_lot", conditional, named("packinghouse_lot")},
	{"1.1330(b)(4)", "supplier_loc", required, location("supplier_loc", "supplier")},
	{"1.1330(b)(4)", "supplier_lot", conditional, named("supplier_lot")},
	{"1.1330(b)(4)", "sprouter_lot", conditional, named("sprouter_lot")},
	{"1.1330(b)(5)", "seed_description", required, named("seed_description")},
	{"1.1330(b)(6)", "seed_receipt_date", required, named("seed_receipt_date")},
	{"1.1330(b)(7)", "ref_doc_type", required, docType},
	{"1.1330(b)(7)", "ref_doc_number", required, docNumber},
}
