package lifecycle

import (
	"testing"
	"time"
)

// A recovery opens classes again by what their ids say, those of every kind.
func TestParseClass(t *testing.T) {
	at := time.Date(2027, 1, 31, 23, 59, 0, 0, time.UTC)
	for _, p := range []Period{HotPeriod(at), DeferralPeriod(at), ArchivePeriod(at), HoldPeriod(at)} {
		for _, n := range []int{1, 12} {
			got, err := parseClass(p.ID(n))
			if want := (Class{ID: p.ID(n), Period: p, Generation: n, State: Open}); err != nil || got != want {
				t.Errorf("%s is %+v, %v, want %+v", p.ID(n), got, err, want)
			}
		}
	}
	for _, id := range []string{"", "hold", "hold-2027-01", "hold-2027-01-", "hold-2027-13-1", "hold-2027-01-01-1", "hot-2027-01-1", "hold-2027-01-01", "hold-2027-01-x", "kept-2027-01-1"} {
		if c, err := parseClass(id); err == nil {
			t.Errorf("%q is %+v", id, c)
		}
	}
}
