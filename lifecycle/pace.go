package lifecycle

import "time"

const (
	// lockFor is how long a soft-delete is meant to keep a hold waiting.
	lockFor = 30 * time.Millisecond
	// lockFewest is how many records a soft-delete has at least: with fewer, the
	// transaction is all there is to it.
	lockFewest = 20
)

// pace fits the size of soft-deletes to the machine: a server that has much else to do
// takes ten times as long for the same records, and a hold waits for them.
type pace struct{ n int }

// records is how many the next one should have, at most.
func (p *pace) records(most int) int {
	if p.n == 0 || p.n > most {
		p.n = most
	}
	return p.n
}

// took is told what one of so many records took. Too long a one is followed by a smaller one
// at once, a quick one by one that is a little larger.
func (p *pace) took(records int, locked time.Duration) {
	switch {
	case locked > lockFor:
		p.n = max(min(p.n, lockFewest), int(int64(records)*int64(lockFor)/int64(locked)))
	case records == p.n && locked > 0:
		p.n += p.n/8 + 1
	}
}
