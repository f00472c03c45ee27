package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Period is a length of time on the calendar, in UTC. A year is what leads to the
// same date of the next one, not a number of hours.
type Period struct{ Years, Months, Days int }

var (
	period        = regexp.MustCompile(`^P(?:(\d{1,5})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,5})D)?$`)
	errUnreadable = errors.New("it is not a period such as P730D, P2Y, P18M or P2W")
)

// maxYears bounds a period: what is locked for it can be deleted by nobody before.
const maxYears = 100

// ParsePeriod reads an ISO 8601 period of years, months, weeks and days. One that is
// zero, negative, a fraction, or has hours is refused.
func ParsePeriod(s string) (Period, error) {
	m := period.FindStringSubmatch(s)
	switch {
	case s == "P":
		return Period{}, errors.New("a P alone is no period")
	case strings.ContainsAny(s, "-+"):
		return Period{}, errors.New("a period has no sign")
	case strings.ContainsAny(s, ".,"):
		return Period{}, errors.New("a period has no fractions: a fraction of a year or month is no number of days")
	case strings.Contains(s, "T"):
		return Period{}, errors.New("a period has no hours: records are kept by the day")
	case m == nil:
		return Period{}, errUnreadable
	}
	var n [4]int
	for i, digits := range m[1:] {
		if digits == "" {
			continue
		}
		var err error
		if n[i], err = strconv.Atoi(digits); err != nil {
			return Period{}, errUnreadable
		}
	}
	p := Period{n[0], n[1], 7*n[2] + n[3]}
	if p == (Period{}) {
		return p, errors.New("a period must be longer than zero")
	}
	if p.Years*366+p.Months*31+p.Days > maxYears*366 {
		return p, fmt.Errorf("a period is at most %d years", maxYears)
	}
	return p, nil
}

// String is the period in ISO 8601, weeks as days.
func (p Period) String() string {
	s := "P"
	for _, part := range p.parts() {
		s += strconv.Itoa(part.n) + strings.ToUpper(part.unit[:1])
	}
	return s
}

// Words is the period as people say it: "2 years and 3 days".
func (p Period) Words() string {
	var words []string
	for _, part := range p.parts() {
		word := strconv.Itoa(part.n) + " " + part.unit
		if part.n != 1 {
			word += "s"
		}
		words = append(words, word)
	}
	return strings.Join(words, " and ")
}

type part struct {
	n    int
	unit string
}

func (p Period) parts() (out []part) {
	for _, x := range []part{{p.Years, "year"}, {p.Months, "month"}, {p.Days, "day"}} {
		if x.n != 0 {
			out = append(out, x)
		}
	}
	return out
}

// After is the end of the period that begins at t: the same time of the day, in UTC.
// A day that the month has not counts on into the next month, so the end is never
// earlier than the calendar says.
func (p Period) After(t time.Time) time.Time {
	return clamp(t.UTC().AddDate(p.Years, p.Months, p.Days))
}

// Never is the last instant that a stored time can name. What would fall due after it
// never does.
var Never = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)

func clamp(t time.Time) time.Time {
	if t.After(Never) {
		return Never
	}
	return t
}
