package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// The closure of a traced scope, hold_lots, is what the destructive statements look
// lots up in. It only grows, and may be incomplete at any time: ensureTraced, which
// they begin with, completes it under the lock, from base rows. That is little if
// TraceHolds was there before.
//
// It is complete when each of its lots is expanded (up to expanded_to: the lots that
// a link connects it with are in) and all that has arrived was considered (up to
// the leaf traced_to: links that touch a lot that was expanded before them, and
// records that begin a trace). Leaves are numbered under the lock that those share who
// add something. So who has that for himself knows that nothing with a lower number is
// still on its way, and who remembers the highest number from then does too.

const (
	// traceBudget is how many lots are added between one step of TraceHolds and the
	// next.
	traceBudget = 5000
	// lockedBudget is how many while a hold waits for the lock.
	lockedBudget = 500
	// expansion is what it takes to expand lots, of which there may be only one at a
	// time: some statements, which a chain of lots takes again for each.
	expansion = 25
)

// errBehind: a closure needs more steps than may be taken under the lock.
var errBehind = errors.New("the traces of the holds are behind")

// traced is a traced scope of an open hold.
type traced struct {
	no    int64
	scope lifecycle.Scope
}

// exactLot: the trace starts from the lot that is named, and nothing else can
// begin it.
func exactLot(s lifecycle.Scope) bool { return s.TLC != "" && s.OnLots() }

// behind lists the traced scopes of open holds whose closure is not complete up to
// the newest merge that is seen.
func behind(ctx context.Context, q querier) ([]traced, error) {
	out, err := all(ctx, q, func(c *columns) traced { return traced{c.int(), scanScope(c)} }, `SELECT s.scope_no, `+scopeColumns+`
		FROM lotkeeper.hold_traces t JOIN lotkeeper.hold_scopes s USING (scope_no)`+ofOpenHold+`
		WHERE t.traced_to < (SELECT coalesce(max(leaf_id), 0) FROM lotkeeper.lineage)
		   OR (s.tlc IS NULL OR coalesce(s.record_id, s.location, s.product, s.event_type, s.from_at, s.to_at) IS NOT NULL)
		      AND t.traced_to < (SELECT coalesce(max(leaf_id), 0) FROM lotkeeper.merges)
		   OR EXISTS (SELECT FROM lotkeeper.hold_lots l WHERE l.scope_no = t.scope_no AND l.lot_no > t.expanded_to)
		ORDER BY s.scope_no`)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for holds to trace: %w", err)
	}
	return out, nil
}

// newestMerge is the leaf of the newest merge that is seen.
func newestMerge(ctx context.Context, q querier) (int64, error) {
	return one(ctx, q, (*columns).int, `SELECT coalesce(max(leaf_id), 0) FROM lotkeeper.merges`)
}

// TraceHolds takes its steps one transaction each. They share the lock, so that a
// hold need not wait for them, and what decides takes its turn between two.
func (s *Store) TraceHolds(ctx context.Context) error {
	scopes, err := behind(ctx, s.pool)
	if err != nil || len(scopes) == 0 {
		return err
	}
	// Whatever has a lower number than what is seen here is committed.
	var newest int64
	if err := s.write(ctx, between, func(ctx context.Context, tx *txn) (err error) {
		newest, err = newestMerge(ctx, tx)
		return err
	}); err != nil {
		return fmt.Errorf("couldn't trace holds: %w", err)
	}
	for done := false; !done; {
		if err := s.write(ctx, adding, func(ctx context.Context, tx *txn) error {
			budget := traceBudget
			done, err = tx.considerAll(ctx, scopes, newest, &budget)
			return err
		}); err != nil {
			return fmt.Errorf("couldn't trace holds: %w", err)
		}
	}
	if scopes, err = behind(ctx, s.pool); err != nil {
		return err
	}
	for _, sc := range scopes {
		for done := false; !done; {
			if err := s.write(ctx, adding, func(ctx context.Context, tx *txn) error {
				budget := traceBudget
				done, err = tx.follow(ctx, sc, newest, &budget, true)
				return err
			}); err != nil {
				return fmt.Errorf("couldn't trace scope %q: %w", sc.scope, err)
			}
		}
	}
	return nil
}

// askingHolds makes fn, of a transaction that is deciding, one that may ask what is held.
// What is left to trace is that of holds which were placed just before the lock.
func askingHolds(budget int, fn func(context.Context, *txn) error) func(context.Context, *txn) error {
	return func(ctx context.Context, tx *txn) error {
		if err := tx.ensureTraced(ctx, budget); err != nil {
			return err
		}
		return fn(ctx, tx)
	}
}

// untilTraced brings the traces up to date and tries a transaction; again, when it
// answers errBehind: so much, or something that it was prepared with, has changed. The
// last time it has no budget: however much arrives, it comes to an end.
func (s *Store) untilTraced(ctx context.Context, try func(budget int) error) error {
	for budget, round := lockedBudget, 1; ; round++ {
		if err := s.TraceHolds(ctx); err != nil {
			return err
		}
		if round == 5 {
			budget = math.MaxInt
		}
		if err := try(budget); !errors.Is(err, errBehind) {
			return err
		}
	}
}

// ensureTraced completes the closures of all open holds that are seen. Nothing is added
// meanwhile. errBehind if that takes more than the budget.
func (tx *txn) ensureTraced(ctx context.Context, budget int) error {
	scopes, err := behind(ctx, tx)
	if err != nil || len(scopes) == 0 {
		return err
	}
	newest, err := newestMerge(ctx, tx)
	if err != nil {
		return err
	}
	if done, err := tx.considerAll(ctx, scopes, newest, &budget); err != nil || !done {
		return cmp.Or(err, errBehind)
	}
	if scopes, err = behind(ctx, tx); err != nil {
		return err
	}
	for _, sc := range scopes {
		done, err := tx.follow(ctx, sc, newest, &budget, false)
		if err != nil {
			return fmt.Errorf("couldn't trace scope %q: %w", sc.scope, err)
		}
		if !done {
			return errBehind
		}
	}
	return nil
}

// considerAll takes in what arrived up to a leaf for all of the scopes at once that
// begin with the lot they name, which is most of them: a merge has thousands of links,
// and to go through them scope by scope would take that many times as long. It says
// whether it came to the end before the budget was spent.
func (tx *txn) considerAll(ctx context.Context, scopes []traced, newest int64, budget *int) (bool, error) {
	ways := map[lifecycle.Trace][]int64{}
	var exact []int64
	for _, sc := range scopes {
		if exactLot(sc.scope) {
			exact = append(exact, sc.no)
			ways[sc.scope.Trace] = append(ways[sc.scope.Trace], sc.no)
		}
	}
	// In order, so that two that do this at once wait for each other. A scope that has
	// no lot expanded yet, since its hold was just placed, needs none of the links: each
	// of its lots gets them when it is.
	from := newest
	var fresh []int64
	if err := each(ctx, tx, func(c *columns) {
		no, to, expanded := c.int(), c.int(), c.int()
		if expanded == 0 {
			fresh = append(fresh, no)
		} else {
			from = min(from, to)
		}
	}, `SELECT scope_no, traced_to, expanded_to FROM lotkeeper.hold_traces WHERE scope_no = ANY($1) ORDER BY scope_no FOR UPDATE`, exact); err != nil {
		return false, err
	}
	if len(fresh) > 0 {
		if _, err := tx.exec(ctx, `UPDATE lotkeeper.hold_traces SET traced_to = $2 WHERE scope_no = ANY($1) AND traced_to < $2`, fresh, newest); err != nil {
			return false, err
		}
	}
	for from < newest {
		if *budget <= 0 {
			return false, nil
		}
		to := newest
		last, err := all(ctx, tx, (*columns).int, manyLinks, from, to)
		if err != nil {
			return false, err
		}
		if len(last) > 0 {
			to = last[0]
		}
		added := int64(0)
		for _, w := range []struct {
			from, to string
			scopes   []int64
		}{
			{"input", "output", slices.Concat(ways[lifecycle.Forward], ways[lifecycle.Both])},
			{"output", "input", slices.Concat(ways[lifecycle.Backward], ways[lifecycle.Both])},
		} {
			if len(w.scopes) == 0 {
				continue
			}
			// Each link is looked up among the lots, which OFFSET 0 says to a planner that
			// knows nothing of how many there are of either. A lot that is not expanded yet
			// gets its links when it is, in portions.
			n, err := one(ctx, tx, (*columns).int, fmt.Sprintf(`WITH added AS (INSERT INTO lotkeeper.hold_lots (scope_no, tlc, tlc_source)
				SELECT DISTINCT l.scope_no, e.%[2]s_tlc, e.%[2]s_source FROM (SELECT * FROM lotkeeper.lineage WHERE leaf_id > $1 AND leaf_id <= $2 OFFSET 0) e,
					LATERAL (SELECT l.scope_no, l.lot_no FROM lotkeeper.hold_lots l WHERE %[1]s OFFSET 0) l JOIN lotkeeper.hold_traces t USING (scope_no)
				WHERE l.scope_no = ANY($3) AND e.leaf_id > t.traced_to AND l.lot_no <= t.expanded_to
				ON CONFLICT (scope_no, tlc, tlc_source) DO NOTHING RETURNING scope_no),
				counted AS (UPDATE lotkeeper.hold_traces t SET lots = lots + a.n FROM (SELECT scope_no, count(*) AS n FROM added GROUP BY scope_no) a WHERE t.scope_no = a.scope_no RETURNING a.n)
				SELECT coalesce(sum(n), 0)::bigint FROM counted`, touches(w.from), w.to), from, to, w.scopes)
			if err != nil {
				return false, err
			}
			added += n
		}
		if _, err := tx.exec(ctx, `UPDATE lotkeeper.hold_traces SET traced_to = $2 WHERE scope_no = ANY($1) AND traced_to < $2`, exact, to); err != nil {
			return false, err
		}
		*budget -= 100 + int(added)
		from = to
	}
	return true, nil
}

// manyLinks is the leaf on the way from $1 to $2 after which a thousand links were seen.
const manyLinks = `SELECT leaf_id FROM lotkeeper.lineage WHERE leaf_id > $1 AND leaf_id <= $2 ORDER BY leaf_id LIMIT 1 OFFSET 999`

// follow brings one closure up to a leaf, and says whether it came to the end: when
// the budget is spent it stops, at a place where it can be gone on from. A lot that
// has more links than the budget takes is expanded only with large set.
//
// The row of hold_traces stays locked, so nobody else works at the closure, and lots
// are numbered in the order in which they are committed.
func (tx *txn) follow(ctx context.Context, sc traced, newest int64, budget *int, large bool) (bool, error) {
	tracedTo, expandedTo := int64(0), int64(0)
	if err := each(ctx, tx, func(c *columns) { tracedTo, expandedTo = c.int(), c.int() },
		`SELECT traced_to, expanded_to FROM lotkeeper.hold_traces WHERE scope_no = $1 FOR UPDATE`, sc.no); err != nil {
		return false, err
	}
	for tracedTo < newest {
		if *budget <= 0 {
			return false, nil
		}
		to, err := tx.consider(ctx, sc, tracedTo, newest, expandedTo > 0, budget)
		if err != nil {
			return false, err
		}
		tracedTo = to
	}
	for {
		// The lots to expand next: as many as have no more links than the budget
		// takes.
		next, links, any := expandedTo, int64(0), false
		if err := each(ctx, tx, func(c *columns) {
			no, n := c.int(), c.int()
			if links += n; links <= int64(*budget) || large && !any {
				next = no
			}
			any = true
		}, `SELECT l.lot_no, `+countLinks(sc.scope.Trace, *budget)+` FROM (SELECT * FROM lotkeeper.hold_lots WHERE scope_no = $1 AND lot_no > $2 ORDER BY lot_no LIMIT 1000) l ORDER BY l.lot_no`,
			sc.no, expandedTo); err != nil {
			return false, err
		}
		if !any {
			return true, nil
		}
		if *budget <= 0 || next == expandedTo {
			return false, nil
		}
		n, err := tx.insertLots(ctx, sc, `l.lot_no > $2 AND l.lot_no <= $3`, expandedTo, next)
		if err != nil {
			return false, err
		}
		*budget -= expansion + int(n)
		expandedTo = next
		if _, err := tx.exec(ctx, `UPDATE lotkeeper.hold_traces SET expanded_to = $2, lots = lots + $3 WHERE scope_no = $1`, sc.no, expandedTo, n); err != nil {
			return false, err
		}
	}
}

// ways are the ends of a link that a trace goes from and to.
func ways(t lifecycle.Trace) (out [][2]string) {
	if t == lifecycle.Forward || t == lifecycle.Both {
		out = append(out, [2]string{"input", "output"})
	}
	if t == lifecycle.Backward || t == lifecycle.Both {
		out = append(out, [2]string{"output", "input"})
	}
	return out
}

// touches: a lot l of the closure is at this end of the link e.
func touches(end string) string {
	return fmt.Sprintf(`e.%[1]s_tlc = l.tlc AND (l.tlc_source = '' OR e.%[1]s_source = '' OR e.%[1]s_source = l.tlc_source)`, end)
}

// countLinks counts the links of a lot l, as far as it matters.
func countLinks(t lifecycle.Trace, most int) string {
	var counts []string
	for _, w := range ways(t) {
		counts = append(counts, fmt.Sprintf(`(SELECT count(*) FROM (SELECT FROM lotkeeper.lineage e WHERE %s LIMIT %d) n)`, touches(w[0]), max(0, min(most, 1<<30))+1))
	}
	return strings.Join(counts, " + ")
}

// insertLots adds the lots that links lead to from lots l of the closure: those
// links e and lots l that the condition names. $1 is the scope.
func (tx *txn) insertLots(ctx context.Context, sc traced, cond string, args ...any) (int64, error) {
	total := int64(0)
	for _, w := range ways(sc.scope.Trace) {
		n, err := tx.exec(ctx, fmt.Sprintf(`INSERT INTO lotkeeper.hold_lots (scope_no, tlc, tlc_source)
			SELECT DISTINCT $1::bigint, e.%[1]s_tlc, e.%[1]s_source FROM lotkeeper.hold_lots l JOIN lotkeeper.lineage e ON %[2]s
			WHERE l.scope_no = $1 AND %[3]s ON CONFLICT (scope_no, tlc, tlc_source) DO NOTHING`, w[1], touches(w[0]), cond), append([]any{sc.no}, args...)...)
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// consider takes in what arrived after a leaf, up to newest or, if that is much, up
// to one on the way, which it returns.
func (tx *txn) consider(ctx context.Context, sc traced, from, newest int64, expanded bool, budget *int) (int64, error) {
	to, added := newest, int64(0)
	// upTo shortens the way to the leaf that a query finds, if it does.
	upTo := func(query string) error {
		last, err := all(ctx, tx, (*columns).int, query, from, to)
		if err == nil && len(last) > 0 {
			to = last[0]
		}
		return err
	}
	if expanded || sc.scope.TLCPrefix != "" {
		if err := upTo(manyLinks); err != nil {
			return 0, err
		}
	}
	if starts := startsFrom(sc.scope); starts != "" {
		if sc.scope.RecordID == "" { // which would be looked up
			// A merge is of one record, or of a few thousand.
			if err := upTo(`SELECT leaf_id FROM (SELECT leaf_id, sum(records) OVER seen AS n, row_number() OVER seen AS i
				FROM (SELECT * FROM lotkeeper.merges WHERE leaf_id > $1 AND leaf_id <= $2 ORDER BY leaf_id LIMIT 1000) m WINDOW seen AS (ORDER BY leaf_id)) m
				WHERE n >= 1000 OR i = 1000 ORDER BY leaf_id LIMIT 1`); err != nil {
				return 0, err
			}
		}
		n, err := tx.exec(ctx, `INSERT INTO lotkeeper.hold_lots (scope_no, tlc, tlc_source) `+starts+` ON CONFLICT (scope_no, tlc, tlc_source) DO NOTHING`, sc.no, from, to)
		if err != nil {
			return 0, err
		}
		added += n
	}
	if expanded {
		n, err := tx.insertLots(ctx, sc, `e.leaf_id > $2 AND e.leaf_id <= $3`, from, to)
		if err != nil {
			return 0, err
		}
		added += n
	}
	*budget -= 100 + int(added)
	_, err := tx.exec(ctx, `UPDATE lotkeeper.hold_traces SET traced_to = $2, lots = lots + $3 WHERE scope_no = $1`, sc.no, to, added)
	return to, err
}

// startsFrom selects the lots that a scope's trace starts from, among what arrived
// in ($2, $3]. A record that lacks a source is taken for one of the scope's, and not
// for one of any.
func startsFrom(s lifecycle.Scope) string {
	if exactLot(s) {
		return "" // from the lot that is named, which is in from the beginning
	}
	if s.RecordID != "" {
		return `SELECT s.scope_no, r.tlc, coalesce(nullif(s.tlc_source, ''), r.tlc_source) FROM lotkeeper.hold_scopes s JOIN lotkeeper.records r ON r.record_id = s.record_id
			WHERE s.scope_no = $1 AND $2::bigint < $3::bigint AND r.tlc <> '' AND ` + conditions
	}
	const lot = `SELECT DISTINCT s.scope_no, %[1]s_tlc, coalesce(nullif(s.tlc_source, ''), %[1]s_source) FROM lotkeeper.hold_scopes s, `
	starts := `SELECT DISTINCT s.scope_no, r.tlc, coalesce(nullif(s.tlc_source, ''), r.tlc_source) FROM lotkeeper.hold_scopes s, lotkeeper.merges m,
		LATERAL (SELECT * FROM lotkeeper.records r WHERE r.seq >= m.first_seq AND r.seq < m.first_seq + m.records OFFSET 0) r
		WHERE s.scope_no = $1 AND m.leaf_id > $2 AND m.leaf_id <= $3 AND r.tlc <> '' AND ` + conditions
	if s.OnLots() {
		for _, end := range []string{"e.input", "e.output"} {
			starts += ` UNION ` + fmt.Sprintf(lot+`lotkeeper.lineage e WHERE s.scope_no = $1 AND e.leaf_id > $2 AND e.leaf_id <= $3
				AND starts_with(%[1]s_tlc, s.tlc_prefix) AND (coalesce(s.tlc_source, '') = '' OR %[1]s_source = '' OR %[1]s_source = s.tlc_source)`, end)
		}
	}
	return starts
}
