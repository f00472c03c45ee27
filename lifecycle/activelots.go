package lifecycle

import (
	"context"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// ActiveLots knows the newest events of the lots that were last looked up, for the rules
// of a policy with hold_while_lot_active. Nil keeps nothing.
type ActiveLots struct {
	policy *policy.Policy
	until  time.Time
	newest map[string]map[string]time.Time // by TLC and source
}

// newActiveLots is nil for a policy that lets no record stay for its lot. Events after
// now count for nothing.
func newActiveLots(p *policy.Policy, now time.Time) *ActiveLots {
	if !p.HoldsActiveLots() {
		return nil
	}
	return &ActiveLots{policy: p, until: now}
}

// look finds the newest events of the lots of a page of rows, by one query. What the page
// before has in common with it is not asked for again: a lot of very many records is read
// once, and memory follows the page.
func (l *ActiveLots) look(ctx context.Context, s Store, n int, row func(int) *Row) error {
	if l == nil {
		return nil
	}
	before := l.newest
	l.newest = map[string]map[string]time.Time{}
	var ask []string
	for i := range n {
		tlc := row(i).TLC
		if _, known := l.newest[tlc]; known || tlc == "" {
			continue
		}
		if l.newest[tlc] = before[tlc]; before[tlc] == nil {
			l.newest[tlc] = map[string]time.Time{}
			ask = append(ask, tlc)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	found, err := s.NewestEvents(ctx, ask, l.until)
	for lot, at := range found {
		l.newest[lot.TLC][lot.Source] = at
	}
	return err
}

// keep is the rule by which a due record stays since its lot is active, and the lot's
// newest event. A lot without a source matches that of every source. Which rule is a
// record's is told by its row alone, as a dry run has to, which has no
// keys: where only labels say, see policy.HeldAsActive.
func (l *ActiveLots) keep(r *Row, now time.Time) (rule string, newest time.Time) {
	if l == nil || r.TLC == "" {
		return "", newest
	}
	for source, at := range l.newest[r.TLC] {
		if sourcesMatch(source, r.TLCSource) && at.After(newest) {
			newest = at
		}
	}
	return l.policy.HeldAsActive(r.facts(), newest, now), newest
}

// activeLots is what is known of one record's lot.
func (e *Engine) activeLots(ctx context.Context, r *Row, now time.Time) (*ActiveLots, error) {
	p, err := e.newestPolicy(ctx)
	if err != nil {
		return nil, err
	}
	lots := newActiveLots(p, now)
	return lots, lots.look(ctx, e.Store, 1, func(int) *Row { return r })
}
