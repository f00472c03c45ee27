package policy

import (
	"fmt"
	"time"
)

// NotBefore is the law's floor: no policy can end a record's last copy before it. 21
// CFR 1.1455(d) asks for 2 years from the date the record was created or obtained,
// which are calendar years: 731 days where a 29 February lies between. The date is
// the later of the event's and the record's; a 29 February counts as 1 March; and two
// days are added, because where the record was written the date may have been one
// later than in UTC, or the day of its anniversary may end half a day later than
// UTC's. This is code, not configuration.
func NotBefore(event, obtained time.Time) time.Time {
	from := obtained.UTC()
	if event.After(from) {
		from = event.UTC()
	}
	day := time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, time.UTC)
	// AddDate normalises 29 February of a common year to 1 March.
	return clamp(day.AddDate(2, 0, 0).AddDate(0, 0, 2))
}

// longest is the most days that the floor can be after a record's day: two years over
// a leap day, and the two days more.
const longest = 733

// belowFloor finds the first day, if there is one, from which hot and archive together
// end before the floor of a record of that day, and shows the arithmetic. Where the
// record was written the date may have been one later, and two years from 1 March can
// end a day later than two years and a day from 28 February: the later floor counts.
func belowFloor(hot, archive Period) string {
	least := func(p Period) int { return p.Years*365 + p.Months*28 + p.Days }
	if least(hot)+least(archive) >= longest {
		return ""
	}
	// The calendar repeats itself after 400 years.
	for day := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2400; day = day.AddDate(0, 0, 1) {
		end, floor := archive.After(hot.After(day)), NotBefore(day, day)
		how := fmt.Sprintf("%s + 2 years (21 CFR 1.1455(d)) + 2 days for time zones", date(day))
		next := day.AddDate(0, 0, 1)
		if other := next.AddDate(2, 0, 1); other.After(floor) {
			floor, how = other, fmt.Sprintf("%s, the date in other time zones, + 2 years (21 CFR 1.1455(d)) + 1 day", date(next))
		}
		if end.Before(floor) {
			return fmt.Sprintf("a record of %s would go at %s + %s + %s = %s; the law's floor is %s = %s",
				date(day), date(day), hot.Words(), archive.Words(), date(end), how, date(floor))
		}
	}
	return ""
}

func date(t time.Time) string { return t.Format(time.DateOnly) }
