package cte

import (
	"fmt"
	"strings"
	"time"
)

// ParseTime reads an RFC 3339 time with an explicit offset and returns it in
// UTC. It is stricter than [time.Parse], which also takes one-digit hours,
// decimal commas and offsets of 24 hours: a time that decides when a record
// dies must have one reading only.
//
// Refused, each with a reason in words: a time without offset, lower-case "t"
// or "z", a blank in place of "T", a leap second, more than nine fractional
// digits, the offset -00:00 (RFC 3339 section 4.3: local offset unknown), days
// that do not exist, and instants that in UTC lie outside the years 0001-9999.
// The error quotes at most 64 bytes of s.
func ParseTime(s string) (time.Time, error) {
	t, problem := parseTime(s)
	if problem != "" {
		return time.Time{}, fmt.Errorf("time %s %s", quoteShort(s), problem)
	}
	return t, nil
}

// FormatTime prints t in UTC as RFC 3339 with a "Z" and the shortest fraction
// that keeps its nanoseconds. ParseTime is its inverse for the years 0001-9999.
func FormatTime(t time.Time) string { return string(AppendTime(nil, t)) }

// AppendTime is FormatTime for who prints many.
func AppendTime(dst []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(dst, time.RFC3339Nano)
}

// parseTime returns what is wrong with s, and what is wanted, in words.
func parseTime(s string) (_ time.Time, problem string) {
	const wanted = "; wanted is YYYY-MM-DDThh:mm:ss with Z or an offset, for example 2026-03-01T08:30:00Z"
	switch {
	case s == "":
		return time.Time{}, "is empty" + wanted
	case matches(s, "dddd-dd-dd"):
		return time.Time{}, "has no time of day" + wanted
	case len(s) > 10 && s[10] == 't':
		return time.Time{}, "has a lower-case t; wanted is T"
	case len(s) > 10 && s[10] == ' ' && matches(s[:10], "dddd-dd-dd"):
		return time.Time{}, "has a blank between date and time; wanted is T"
	case len(s) < 19 || !matches(s[:19], "dddd-dd-ddTdd:dd:dd"):
		return time.Time{}, "is not an RFC 3339 time" + wanted
	}
	year, month, day := number(s[0:4]), number(s[5:7]), number(s[8:10])
	hour, minute, second := number(s[11:13]), number(s[14:16]), number(s[17:19])
	if problem := dateProblem(year, month, day); problem != "" {
		return time.Time{}, problem
	}
	switch {
	case hour > 23:
		return time.Time{}, "has an hour beyond 23"
	case minute > 59:
		return time.Time{}, "has a minute beyond 59"
	case second == 60:
		return time.Time{}, "has a leap second (:60), which cannot be kept; wanted is :59 or the next minute"
	case second > 60:
		return time.Time{}, "has a second beyond 59"
	}

	rest := s[19:]
	nanosecond := 0
	if strings.HasPrefix(rest, ",") {
		return time.Time{}, "has a decimal comma; wanted is a point"
	}
	if strings.HasPrefix(rest, ".") {
		digits := 0
		for rest = rest[1:]; digits < len(rest) && isDigit(rest[digits]); digits++ {
			if digits < 9 {
				nanosecond = nanosecond*10 + int(rest[digits]-'0')
			}
		}
		switch {
		case digits == 0:
			return time.Time{}, "has a decimal point without digits"
		case digits > 9:
			return time.Time{}, "has more than nine fractional digits; nanoseconds are the finest that can be kept"
		}
		for range 9 - digits {
			nanosecond *= 10
		}
		rest = rest[digits:]
	}

	offset := 0 // minutes east of UTC
	switch {
	case rest == "Z":
	case rest == "":
		return time.Time{}, "has no offset, so it names no instant; wanted is Z or an offset such as +02:00 at the end"
	case rest == "z":
		return time.Time{}, "has a lower-case z; wanted is Z"
	case matches(rest, "+dd:dd"), matches(rest, "-dd:dd"):
		hours, minutes := number(rest[1:3]), number(rest[4:6])
		if hours > 23 || minutes > 59 {
			return time.Time{}, "has an offset beyond 23:59"
		}
		offset = hours*60 + minutes
		if rest[0] == '-' {
			if offset == 0 {
				return time.Time{}, "has the offset -00:00, which says that the offset is unknown; wanted is Z"
			}
			offset = -offset
		}
	default:
		return time.Time{}, "does not end in Z or an offset such as +02:00"
	}

	t := time.Date(year, time.Month(month), day, hour, minute, second, nanosecond, time.UTC)
	t = t.Add(-time.Duration(offset) * time.Minute)
	if y := t.Year(); y < 1 || y > 9999 {
		return time.Time{}, "lies outside the years 0001 to 9999 in UTC"
	}
	return t, ""
}

// dateProblem says why there is no such day in the proleptic Gregorian
// calendar, or "".
func dateProblem(year, month, day int) string {
	switch {
	case year == 0:
		return "has the year 0000; years run from 0001 to 9999"
	case month < 1 || month > 12:
		return "has a month beyond 01 to 12"
	case month == 2 && day == 29 && daysIn(year, month) == 28:
		return fmt.Sprintf("names 29 February, but %04d is not a leap year", year)
	case day < 1 || day > daysIn(year, month):
		return fmt.Sprintf("has a day beyond 01 to %d", daysIn(year, month))
	}
	return ""
}

func daysIn(year, month int) int {
	// Day 0 of the next month is the last day of this one.
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// matches reports whether s has the shape of pattern, in which d stands for an
// ASCII digit and every other byte for itself.
func matches(s, pattern string) bool {
	if len(s) != len(pattern) {
		return false
	}
	for i := range len(s) {
		if pattern[i] == 'd' {
			if !isDigit(s[i]) {
				return false
			}
		} else if s[i] != pattern[i] {
			return false
		}
	}
	return true
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// number reads ASCII digits that matches has seen.
func number(digits string) int {
	n := 0
	for i := range len(digits) {
		n = n*10 + int(digits[i]-'0')
	}
	return n
}

// quoteShort quotes s for an error, cut to 64 bytes so that a message never
// carries a whole record away.
func quoteShort(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q...", s[:64])
	}
	return fmt.Sprintf("%q", s)
}
