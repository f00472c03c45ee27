package lifecycle

import (
	"testing"
	"time"
)

// A soft-delete is as large as may be while it is quick, and fits into lockFor soon
// after it was not, on whatever machine.
func TestPace(t *testing.T) {
	for _, each := range []time.Duration{0, time.Microsecond, 50 * time.Microsecond, 300 * time.Microsecond, time.Second} {
		var p pace
		const most = 500
		fits := min(most, max(lockFewest, int(lockFor/max(each, 1))))
		for range 100 {
			n := p.records(most)
			p.took(n, time.Duration(n)*each)
		}
		if n := p.records(most); n > most || n < fits*7/8 || n > fits*9/8+1 {
			t.Errorf("with %v for each, %d records, want about %d", each, n, fits)
		}
		p.took(p.n, time.Hour)
		if n := p.records(most); n != lockFewest {
			t.Errorf("after an hour, %d records, want %d", n, lockFewest)
		}
		p.took(p.n-1, 0) // the last of a segment says nothing
		for range 100 {
			n := p.records(most)
			p.took(n, time.Microsecond)
		}
		if n := p.records(most); n != most {
			t.Errorf("on a machine that is quick again, %d records, want %d", n, most)
		}
	}
	p := pace{}
	if p.records(5); p.n != 5 {
		t.Error(p)
	}
	if p.took(5, time.Hour); p.records(5) != 5 {
		t.Errorf("%d records: a bound below the fewest is kept to", p.n)
	}
}
