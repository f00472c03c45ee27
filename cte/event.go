package cte

// EventType is the critical tracking event (CTE) that a record documents: the
// events of 21 CFR 1.1325-1.1350, and the variants whose key data elements the
// rule lists apart.
type EventType string

const (
	Harvesting               EventType = "harvesting"                  // 1.1325(a)
	Cooling                  EventType = "cooling"                     // 1.1325(b), before initial packing
	InitialPacking           EventType = "initial_packing"             // 1.1330(a)
	InitialPackingSprouts    EventType = "initial_packing_sprouts"     // 1.1330(a) and (b)
	InitialPackingFromExempt EventType = "initial_packing_from_exempt" // 1.1330(c)
	FirstLandBasedReceiving  EventType = "first_land_based_receiving"  // 1.1335
	Shipping                 EventType = "shipping"                    // 1.1340
	Receiving                EventType = "receiving"                   // 1.1345(a)
	ReceivingFromExempt      EventType = "receiving_from_exempt"       // 1.1345(b)
	Transformation           EventType = "transformation"              // 1.1350

	// Unclassified is a record whose event type was not given, or is not one
	// of the above. It is kept, with a gap.
	Unclassified EventType = "unclassified"
)

// EventTypes are all event types, in the order of the rule.
var EventTypes = []EventType{
	Harvesting, Cooling, InitialPacking, InitialPackingSprouts, InitialPackingFromExempt,
	FirstLandBasedReceiving, Shipping, Receiving, ReceivingFromExempt, Transformation, Unclassified,
}

// ParseEventType returns the event type named s, which must be spelt exactly
// as the constants are.
func ParseEventType(s string) (EventType, bool) {
	for _, t := range EventTypes {
		if string(t) == s {
			return t, true
		}
	}
	return "", false
}

// carriesLot says whether a record of this type has a traceability lot code.
// Harvesting and cooling come before initial packing, where the lot code is
// first assigned (21 CFR 1.1320(a)).
func (t EventType) carriesLot() bool { return t != Harvesting && t != Cooling }
