package cte

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseTime(t *testing.T) {
	for in, want := range map[string]string{
		"2026-03-01T08:30:00Z":                "2026-03-01T08:30:00Z",
		"2026-03-01T08:30:00+00:00":           "2026-03-01T08:30:00Z",
		"2026-03-01T08:30:00+02:00":           "2026-03-01T06:30:00Z",
		"2026-03-01T08:30:00-23:59":           "2026-03-02T08:29:00Z",
		"2026-03-01T08:30:00+23:59":           "2026-02-28T08:31:00Z",
		"2024-02-29T00:00:00Z":                "2024-02-29T00:00:00Z",
		"2000-02-29T23:59:59.999999999-12:00": "2000-03-01T11:59:59.999999999Z",
		"2026-03-01T08:30:00.120Z":            "2026-03-01T08:30:00.12Z",
		"2026-03-01T08:30:00.000000001Z":      "2026-03-01T08:30:00.000000001Z",
		"0001-01-01T00:00:00Z":                "0001-01-01T00:00:00Z",
		"9999-12-31T23:59:59.999999999Z":      "9999-12-31T23:59:59.999999999Z",
	} {
		got, err := ParseTime(in)
		if err != nil || FormatTime(got) != want || got.Location() != time.UTC {
			t.Errorf("ParseTime(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
}

func TestParseTimeRefuses(t *testing.T) {
	for in, reason := range map[string]string{
		"":                                "is empty",
		"2026-03-01":                      "no time of day",
		"2026-03-01T08:30:00":             "no offset",
		"2026-03-01T08:30:00.5":           "no offset",
		"2026-03-01t08:30:00Z":            "lower-case t",
		"2026-03-01T08:30:00z":            "lower-case z",
		"2026-03-01 08:30:00Z":            "blank",
		"2026-03-01T3:04:00Z":             "not an RFC 3339 time",
		"2026-03-01T08:30Z":               "not an RFC 3339 time",
		"2026-3-01T08:30:00Z":             "not an RFC 3339 time",
		"2026-03-01T08:30:00,5Z":          "decimal comma",
		"2026-03-01T08:30:00.Z":           "without digits",
		"2026-03-01T08:30:00.1234567890Z": "nine fractional digits",
		"2026-03-01T08:30:00+24:00":       "offset beyond 23:59",
		"2026-03-01T08:30:00+12:60":       "offset beyond 23:59",
		"2026-03-01T08:30:00-00:00":       "-00:00",
		"2026-03-01T08:30:00+0200":        "does not end in Z",
		"2026-03-01T08:30:00+02":          "does not end in Z",
		"2026-03-01T08:30:00ZZ":           "does not end in Z",
		"2026-03-01T08:30:00Z ":           "does not end in Z",
		"2026-03-01T08:30:60Z":            "leap second",
		"2026-03-01T08:30:61Z":            "second beyond 59",
		"2026-03-01T08:60:00Z":            "minute beyond 59",
		"2026-03-01T24:00:00Z":            "hour beyond 23",
		"2026-02-29T00:00:00Z":            "not a leap year",
		"1900-02-29T00:00:00Z":            "not a leap year",
		"2026-04-31T00:00:00Z":            "day beyond",
		"2026-04-00T00:00:00Z":            "day beyond",
		"2026-13-01T00:00:00Z":            "month beyond",
		"2026-00-01T00:00:00Z":            "month beyond",
		"0000-01-01T00:00:00Z":            "year 0000",
		"10000-01-01T00:00:00Z":           "not an RFC 3339 time",
		"0001-01-01T00:00:00+00:01":       "outside the years",
		"9999-12-31T23:59:59-00:01":       "outside the years",
		"2026-03-01T08:30:00\u221202:00":  "does not end in Z", // a minus sign, not a hyphen
		"２０26-03-01T08:30:00Z":            "not an RFC 3339 time",
	} {
		if got, err := ParseTime(in); err == nil {
			t.Errorf("ParseTime(%q) = %v, want an error", in, got)
		} else if !strings.Contains(err.Error(), reason) {
			t.Errorf("ParseTime(%q): %v; want a reason with %q", in, err, reason)
		}
	}
	if _, err := ParseTime(strings.Repeat("9", 1<<20)); len(err.Error()) > 300 {
		t.Errorf("the error for a long text has %d bytes", len(err.Error()))
	}
}

// instant draws an instant in the years 0001-9999, often at an edge.
func instant(t *rapid.T) time.Time {
	const first, last = -62135596800, 253402300799
	second := rapid.OneOf(
		rapid.Int64Range(first, last),
		rapid.SampledFrom([]int64{first, last, 0, 951782400}),
	).Draw(t, "second")
	nano := rapid.OneOf(rapid.Int64Range(0, 999999999), rapid.SampledFrom([]int64{0, 1, 500000000, 120000000})).Draw(t, "nanosecond")
	return time.Unix(second, nano).UTC()
}

func TestTimesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := instant(t)
		printed := FormatTime(want)
		got, err := ParseTime(printed)
		if err != nil || !got.Equal(want) {
			t.Fatalf("ParseTime(%q) = %v, %v; want %v", printed, got, err, want)
		}
		if !strings.HasSuffix(printed, "Z") || strings.Contains(printed, ".") && strings.HasSuffix(printed, "0Z") {
			t.Fatalf("%q is not the shortest form in UTC", printed)
		}
	})
}

// What is accepted has to mean what RFC 3339 says it means, in every offset.
func TestParseTimeAgreesWithTheStandard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.IntRange(-23*60-59, 23*60+59).Draw(t, "offset")
		zone := time.FixedZone("", offset*60)
		local := instant(t).In(zone)
		if y := local.Year(); y < 1 || y > 9999 {
			t.Skip("not a four-digit year")
		}
		text := local.Format("2006-01-02T15:04:05.999999999-07:00")
		if offset == 0 {
			text = strings.Replace(text, "-00:00", "+00:00", 1)
		}
		got, err := ParseTime(text)
		if err != nil || !got.Equal(local) {
			t.Fatalf("ParseTime(%q) = %v, %v; want %v", text, got, err, local)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, seed := range []string{
		"2026-03-01T08:30:00Z", "2026-03-01T08:30:00.123456789+02:00", "0001-01-01T00:00:00+23:59",
		"2026-02-29T00:00:00Z", "2026-03-01T08:30:60Z", "2026-03-01T3:04:00Z", "2026-03-01T08:30:00,5Z", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTime(s)
		if err != nil {
			return
		}
		want, err := time.Parse(time.RFC3339Nano, s)
		if err != nil || !got.Equal(want) {
			t.Fatalf("ParseTime(%q) = %v, time.Parse says %v, %v", s, got, want, err)
		}
		if back, err := ParseTime(FormatTime(got)); err != nil || !back.Equal(got) {
			t.Fatalf("%q came back as %v, %v", s, back, err)
		}
	})
}
