package cte

import (
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Gap is something that 21 CFR 1.1325-1.1350 asks for and a record lacks, or that
// makes it impossible to tell. A record with gaps is kept.
type Gap struct {
	KDE     string `json:"kde"`
	Section string `json:"section,omitempty"` // of 21 CFR; empty when no section says it
	Reason  string `json:"reason"`            // names KDEs, never their values
}

// Gaps returns what the record lacks, in the order of the rule. An event after now
// is a gap too: the event has not happened, or a clock was wrong.
func (r *Record) Gaps(now time.Time) []Gap {
	var gaps []Gap
	begun := r.EventTimestamp
	if r.Source != nil {
		// A spreadsheet says the day only, and the record has its end. Today's
		// events are not in the future.
		begun = begun.Add(-daySpan)
	}
	if begun.After(now) {
		gaps = append(gaps, Gap{"event_timestamp", "", "lies in the future"})
	}
	if r.EventType == Unclassified {
		reason := "is unclassified, so it cannot be told which KDEs are missing"
		switch {
		case r.defaulted.has(fieldEventType):
			reason = "is not given, so it cannot be told which KDEs are missing"
		case r.givenText(fieldEventType) != nil:
			reason = "is not an event type of the rule; kept as unclassified, so it cannot be told which KDEs are missing"
		}
		return append(gaps, Gap{"event_type", "1.1325-1.1350", reason})
	}
	given := r.givenKDEs()
	for _, k := range ruleKDEs[r.EventType] {
		if k.need == conditional {
			continue
		}
		if lacks, ok := k.satisfied(r, given); !ok {
			reason := "is not given"
			if len(lacks) > 0 {
				reason = "is given in part; missing: " + strings.Join(lacks, ", ")
			}
			gaps = append(gaps, Gap{k.name, k.section, reason})
		}
	}
	return gaps
}

// daySpan is how long a day is in progress somewhere: from its start at UTC+14 to
// its end at UTC-12.
const daySpan = 50 * time.Hour

// satisfied reports whether one of the ways is complete, and if not, what is
// missing from the first that was begun.
func (k kde) satisfied(r *Record, given names) (lacks []string, ok bool) {
	for _, w := range k.ways {
		if w.field != nil {
			if lacks == nil && w.field(r) {
				return nil, true
			}
			continue
		}
		needed := [2][]string{w.names}
		if w.country != "" && !given.has(w.country) {
			needed[1] = w.domestic
		}
		begun := false
		var missing []string
		for _, list := range needed {
			for _, name := range list {
				if given.has(name) {
					begun = true
				} else {
					missing = append(missing, name)
				}
			}
		}
		if missing == nil {
			return nil, true
		}
		if lacks == nil && begun {
			lacks = missing
		}
	}
	return lacks, false
}

// names are the names of KDEs. There are a few dozen at most, and a search from
// the front is faster than making a map of them for every record.
type names [][]byte

func (n names) has(name string) bool {
	for _, have := range n {
		if string(have) == name {
			return true
		}
	}
	return false
}

// givenKDEs returns the names of the KDEs that have a value.
func (r *Record) givenKDEs() names {
	given := make(names, 0, 64)
	for name, value := range members(r.KDEs) {
		if isGiven(value) {
			given = append(given, unquoteBytes(name))
		}
	}
	return given
}

// isGiven reports whether a compact value says something: a number, an object or
// an array that is not empty, or a string that is not empty and not "n/a".
func isGiven(value jsontext.Value) bool {
	switch value.Kind() {
	case '"':
		return !notGiven(unquoteBytes(value))
	case '0':
		return true
	case '{', '[':
		return len(value) > len("{}")
	}
	return false
}
