package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// The lots that a scope's trace leads to are kept in hold_lots, so that a statement
// can ask whether a record is of one of them. What is merged changes them, and no
// merge is to wait for that: hold_traces says how far they are known, and whoever
// destroys brings them up to date first, under the lock.
//
// Two marks make it complete. All that came with leaves up to traced_to was looked
// at: links that touch a lot of the trace have their other end in it, and records
// that the scope matches their lot. Lots up to expanded_to have their neighbours in
// it, by all links there are. Both only go forward, in the transaction that does
// what they say.

// trace is the trace of an open hold's scope.
type trace struct {
	no                   int64
	scope                lifecycle.Scope
	tracedTo, expandedTo int64
	pace                 pace
	// added are lots that save has yet to count.
	added int64
	// at is how far the links of the lot after expandedTo were followed, for a lot may
	// have more of them than one step takes. It is good for one tracedTo: where another
	// process has moved that on, it may count on the links being looked at from here.
	at struct {
		lot, tracedTo int64
		way           int
		link          int64
	}
	// statements are the step's, by their text: it makes the same ones for each lot.
	statements map[string]statement
}

// statement is a *sql.Stmt that its transaction closes.
type statement interface {
	ExecContext(context.Context, ...any) (sql.Result, error)
	QueryContext(context.Context, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, ...any) *sql.Row
}

// pace is how much of the tracing is done at a time.
type pace struct {
	// step is about how many lots and links a transaction of TraceHolds goes through,
	// so that a hold waits for some tens of milliseconds.
	step int
	// merged is how many records and links that were merged are looked at in one
	// statement. What was merged at once is looked at at once, however much it is.
	merged int
	// locked is how much is made up for under the lock of whoever destroys, rounds how
	// often they let go of it where that is not enough, before they do it all the same.
	locked, rounds int
}

var usualPace = pace{step: 500, merged: 5000, locked: 5000, rounds: 5}

// errFarBehind: more is missing of the traces than is done under the lock.
var errFarBehind = errors.New("the traces of the holds are far behind")

type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// exactLot says that a scope names one lot and nothing else: the trace starts from
// that lot, and no record that arrives can change where it starts.
func exactLot(sc lifecycle.Scope) bool { return sc.OnLots() && sc.TLC != "" }

// newestMerge is the leaf that the newest records came with.
func newestMerge(ctx context.Context, q querier) (leaf int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT coalesce(max(leaf_id), 0) FROM merges`).Scan(&leaf)
	return leaf, err
}

// unfinished lists the traces of open holds that are not complete up to a leaf.
func (s *Store) unfinished(ctx context.Context, q querier, newest int64) ([]*trace, error) {
	rows, err := q.QueryContext(ctx, `SELECT t.scope_no, t.traced_to, t.expanded_to, `+scopeColumns+`
		FROM hold_traces t CROSS JOIN hold_scopes s ON s.scope_no = t.scope_no CROSS JOIN holds h ON h.hold_no = s.hold_no
		WHERE h.released_at = '' AND (t.traced_to < ? OR EXISTS (SELECT 1 FROM hold_lots l WHERE l.scope_no = t.scope_no AND l.lot_no > t.expanded_to))
		ORDER BY t.scope_no`, newest)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(rows *sql.Rows) (*trace, error) {
		t := trace{pace: s.pace}
		return &t, scanScope(rows, &t.scope, &t.no, &t.tracedTo, &t.expandedTo)
	})
}

func (s *Store) TraceHolds(ctx context.Context) error {
	// What is merged from here on is for whoever asks next.
	newest, err := newestMerge(ctx, s.r)
	if err != nil {
		return fmt.Errorf("couldn't trace holds: %w", err)
	}
	traces, err := s.unfinished(ctx, s.r, newest)
	if err != nil {
		return fmt.Errorf("couldn't trace holds: %w", err)
	}
	for _, t := range traces {
		// The gate is left after each step: a hold that waits gets in.
		for done := false; !done; {
			if err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
				done, err = t.reload(ctx, tx)
				if err == nil && !done {
					_, done, err = t.step(ctx, tx, newest)
				}
				return err
			}); err != nil {
				return fmt.Errorf("couldn't trace scope %q: %w", t.scope, err)
			}
		}
	}
	return nil
}

// ensureTraced makes all traces complete, for the check that follows in the same
// transaction. errFarBehind if that takes more than so many lots and links.
func (s *Store) ensureTraced(ctx context.Context, tx *sql.Tx, most int) error {
	newest, err := newestMerge(ctx, tx)
	if err != nil {
		return fmt.Errorf("couldn't trace holds: %w", err)
	}
	traces, err := s.unfinished(ctx, tx, newest)
	if err != nil {
		return fmt.Errorf("couldn't trace holds: %w", err)
	}
	for _, t := range traces {
		for done := false; !done; {
			if most <= 0 {
				return errFarBehind
			}
			var looked int
			if looked, done, err = t.step(ctx, tx, newest); err != nil {
				return fmt.Errorf("couldn't trace scope %q: %w", t.scope, err)
			}
			most -= looked
		}
	}
	return nil
}

// traced runs fn, by way of transact, in a transaction in which heldRecord says what
// is true. transact gives it the lock.
func (s *Store) traced(ctx context.Context, transact func(fn func(context.Context, *sql.Tx) error) error, fn func(context.Context, *sql.Tx) error) error {
	for round := 0; ; round++ {
		most := s.pace.locked
		if round == s.pace.rounds {
			most = math.MaxInt // merges come faster than this: now they wait
		}
		err := transact(func(ctx context.Context, tx *sql.Tx) error {
			if err := s.ensureTraced(ctx, tx, most); err != nil {
				return err
			}
			return fn(ctx, tx)
		})
		if !errors.Is(err, errFarBehind) {
			return err
		}
		if err := s.TraceHolds(ctx); err != nil {
			return err
		}
	}
}

// errHeldMore: the holds may cover more than when it was looked at.
var errHeldMore = errors.New("the holds cover more than before")

// holdsMark is how far the holds were looked at. It rises whenever an open hold comes to
// cover a record that was there before: by a new scope, or a lot that a trace comes to.
// A release does not change it, for it only makes what was looked at too careful.
type holdsMark struct{ scope, lot int64 }

func newestHolds(ctx context.Context, q querier) (m holdsMark, err error) {
	err = q.QueryRowContext(ctx, `SELECT (SELECT coalesce(max(scope_no), 0) FROM hold_scopes), (SELECT coalesce(max(lot_no), 0) FROM hold_lots)`).Scan(&m.scope, &m.lot)
	return m, err
}

// decide is traced for what takes long to look at: look does it in a snapshot, before
// the lock, and fn follows under the lock if the holds still cover the same. Where they
// come to cover more again and again, look is made under the lock too. It is given how
// far it has looked before, and adds to what it found: only the first takes long.
func (s *Store) decide(ctx context.Context, transact func(fn func(context.Context, *sql.Tx) error) error,
	look func(context.Context, querier, holdsMark) error, fn func(context.Context, *sql.Tx) error) error {
	var seen holdsMark
	for round := 0; ; round++ {
		locked := round == s.pace.rounds
		if !locked {
			// First, or what is traced under the lock would be news each time.
			err := s.TraceHolds(ctx)
			if err == nil {
				seen, err = s.snapshot(ctx, look, seen)
			}
			if err != nil {
				return err
			}
		}
		err := s.traced(ctx, transact, func(ctx context.Context, tx *sql.Tx) error {
			if locked {
				if err := look(ctx, tx, seen); err != nil {
					return err
				}
			} else if now, err := newestHolds(ctx, tx); err != nil {
				return err
			} else if now != seen {
				return errHeldMore
			}
			return fn(ctx, tx)
		})
		if !errors.Is(err, errHeldMore) {
			return err
		}
	}
}

// snapshot looks at the database as it is at one instant, and says how far the holds
// were by then.
func (s *Store) snapshot(ctx context.Context, look func(context.Context, querier, holdsMark) error, seen holdsMark) (now holdsMark, err error) {
	tx, err := s.r.BeginTx(ctx, nil)
	if err != nil {
		return now, err
	}
	defer tx.Rollback()
	if now, err = newestHolds(ctx, tx); err != nil {
		return now, err
	}
	return now, look(ctx, tx, seen)
}

// reload reads how far the trace is by now, and says whether its hold is over.
func (t *trace) reload(ctx context.Context, tx *sql.Tx) (over bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT t.traced_to, t.expanded_to FROM hold_traces t JOIN hold_scopes s USING (scope_no) JOIN holds h USING (hold_no)
		WHERE t.scope_no = ? AND h.released_at = ''`, t.no).Scan(&t.tracedTo, &t.expandedTo)
	if err == sql.ErrNoRows {
		return true, nil
	}
	return false, err
}

// step goes through some lots and links, or a statement's worth of what was merged. It
// says how many it was, and whether the trace is complete up to the leaf newest.
func (t *trace) step(ctx context.Context, tx *sql.Tx, newest int64) (looked int, done bool, err error) {
	t.statements = map[string]statement{}
	for looked < t.pace.step && !done {
		var n int
		if t.tracedTo < newest {
			n, err = t.follow(ctx, tx, newest)
		} else {
			n, done, err = t.expand(ctx, tx)
		}
		if err != nil {
			return looked, false, err
		}
		looked += n
	}
	return looked, done, t.save(ctx, tx)
}

func (t *trace) prepared(ctx context.Context, tx *sql.Tx, query string) (statement, error) {
	if st := t.statements[query]; st != nil {
		return st, nil
	}
	st, err := tx.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	t.statements[query] = st
	return st, nil
}

func (t *trace) save(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `UPDATE hold_traces SET traced_to = ?, expanded_to = ?, lots = lots + ? WHERE scope_no = ?`, t.tracedTo, t.expandedTo, t.added, t.no)
	t.added = 0
	return err
}

// follow looks at what was merged after tracedTo, up to the leaf newest.
func (t *trace) follow(ctx context.Context, tx *sql.Tx, newest int64) (int, error) {
	by := ``
	switch {
	case t.scope.RecordID != "":
		by = `r.record_id = s.record_id AND `
	case t.scope.TLC != "":
		by = `r.tlc = s.tlc AND `
	}
	if t.expandedTo == 0 && by != `` {
		// An index finds where it starts, among all there is; and with no lot
		// expanded, expanding them is going to look at all links.
		n, err := t.start(ctx, tx, by, 0, math.MaxInt64)
		t.tracedTo = newest
		return n + 1, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT m.leaf_id, m.first_seq, m.records, (SELECT count(*) FROM lineage g WHERE g.leaf_id = m.leaf_id)
		FROM merges m WHERE m.leaf_id > ? AND m.leaf_id <= ? ORDER BY m.leaf_id`, t.tracedTo, newest)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	looked := 0
	var first, last, to int64
	for rows.Next() {
		var leaf, seq, records, links int64
		if err := rows.Scan(&leaf, &seq, &records, &links); err != nil {
			return 0, err
		}
		n := 1 + int(links)
		if !exactLot(t.scope) {
			n += int(records)
		}
		if looked > 0 && looked+n > t.pace.merged {
			break
		}
		if looked == 0 {
			first = seq
		}
		looked += n
		last, to = seq+records-1, leaf
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, err
	}
	if !exactLot(t.scope) {
		if _, err := t.start(ctx, tx, by, first, last); err != nil {
			return 0, err
		}
	}
	if t.scope.OnLots() && t.scope.TLCPrefix != "" {
		// Also those that only lineage names. An output is the lot of a record.
		if err := t.addFrom(ctx, tx, `SELECT g.input_tlc, CASE s.tlc_source WHEN '' THEN g.input_source ELSE s.tlc_source END
			FROM hold_scopes s CROSS JOIN lineage g
			WHERE s.scope_no = ?1 AND g.leaf_id > ?2 AND g.leaf_id <= ?3 AND g.input_tlc >= s.tlc_prefix AND g.input_tlc < s.tlc_prefix || x'ff'
			  AND (s.tlc_source = '' OR g.input_source = '' OR g.input_source = s.tlc_source)`, t.tracedTo, to); err != nil {
			return 0, err
		}
	}
	for _, w := range t.ways() {
		if err := t.addFrom(ctx, tx, `SELECT g.`+w.far+`_tlc, g.`+w.far+`_source FROM lineage g
			WHERE g.leaf_id > ?2 AND g.leaf_id <= ?3 AND EXISTS (SELECT 1 FROM hold_lots l
				WHERE l.scope_no = ?1 AND l.tlc = g.`+w.near+`_tlc
				  AND (l.tlc_source = '' OR g.`+w.near+`_source = '' OR l.tlc_source = g.`+w.near+`_source))`, t.tracedTo, to); err != nil {
			return 0, err
		}
	}
	t.tracedTo = to
	return looked, nil
}

// start adds the lots of the records from one seq to another that the scope matches
// by itself. Where a record lacks the source that the scope names, it is taken for
// one of that source. by is what finds them, if an index does.
func (t *trace) start(ctx context.Context, tx *sql.Tx, by string, from, to int64) (int, error) {
	if exactLot(t.scope) {
		return 0, nil // there from the beginning
	}
	before := t.added
	err := t.addFrom(ctx, tx, `SELECT r.tlc, CASE s.tlc_source WHEN '' THEN r.tlc_source ELSE s.tlc_source END
		FROM hold_scopes s CROSS JOIN records r WHERE s.scope_no = ?1 AND r.seq BETWEEN ?2 AND ?3 AND `+by+`r.tlc <> '' AND `+covers, from, to)
	return int(t.added - before), err
}

// add adds lots that are not there yet.
func (t *trace) add(ctx context.Context, tx *sql.Tx, lots []cte.Lot) error {
	if len(lots) == 0 {
		return nil
	}
	return t.addFrom(ctx, tx, `SELECT value ->> 0, value ->> 1 FROM json_each(?2)`, lotList(lots))
}

// addFrom is add for the lots that a query finds. In it ?1 is the scope's number.
func (t *trace) addFrom(ctx context.Context, tx *sql.Tx, query string, args ...any) error {
	insert, err := t.prepared(ctx, tx, `INSERT INTO hold_lots (scope_no, tlc, tlc_source)
		WITH n(tlc, source) AS (`+query+`)
		SELECT DISTINCT ?1, n.tlc, n.source FROM n
		WHERE NOT EXISTS (SELECT 1 FROM hold_lots l WHERE l.scope_no = ?1 AND l.tlc = n.tlc AND l.tlc_source = n.source)`)
	if err != nil {
		return err
	}
	res, err := insert.ExecContext(ctx, append([]any{t.no}, args...)...)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	t.added += n
	return err
}

// lotList is list for lots, each a pair of its code and its source.
func lotList(lots []cte.Lot) string {
	pairs := make([][2]string, len(lots))
	for i, l := range lots {
		pairs[i] = [2]string{l.TLC, l.Source}
	}
	return list(pairs)
}

// way is a direction that a trace takes a link in: from its end near to its end far.
type way struct{ near, far string }

func (t *trace) ways() []way {
	switch t.scope.Trace {
	case lifecycle.Forward:
		return []way{{"input", "output"}}
	case lifecycle.Backward:
		return []way{{"output", "input"}}
	}
	return []way{{"input", "output"}, {"output", "input"}}
}

// expand adds neighbours of the first lot that may lack some. It says how many links
// it went through, and whether there was no such lot.
func (t *trace) expand(ctx context.Context, tx *sql.Tx) (looked int, done bool, err error) {
	next, err := t.prepared(ctx, tx, `SELECT lot_no, tlc, tlc_source FROM hold_lots WHERE scope_no = ? AND lot_no > ? ORDER BY lot_no LIMIT 1`)
	if err != nil {
		return 0, false, err
	}
	var no int64
	var lot cte.Lot
	err = next.QueryRowContext(ctx, t.no, t.expandedTo).Scan(&no, &lot.TLC, &lot.Source)
	if err == sql.ErrNoRows {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	if t.at.lot != no || t.at.tracedTo != t.tracedTo {
		t.at.lot, t.at.tracedTo, t.at.way, t.at.link = no, t.tracedTo, 0, 0
	}
	looked = 1
	for ways := t.ways(); t.at.way < len(ways); t.at.way, t.at.link = t.at.way+1, 0 {
		w := ways[t.at.way]
		links, err := t.prepared(ctx, tx, `SELECT g.link_no, g.`+w.far+`_tlc, g.`+w.far+`_source FROM lineage g
			WHERE g.`+w.near+`_tlc = ?1 AND (?2 = '' OR g.`+w.near+`_source = '' OR g.`+w.near+`_source = ?2) AND g.link_no > ?3 ORDER BY g.link_no LIMIT ?4`)
		if err != nil {
			return looked, false, err
		}
		rows, err := links.QueryContext(ctx, lot.TLC, lot.Source, t.at.link, t.pace.step)
		if err != nil {
			return looked, false, err
		}
		far, err := collect(rows, func(rows *sql.Rows) (l cte.Lot, err error) {
			err = rows.Scan(&t.at.link, &l.TLC, &l.Source)
			return l, err
		})
		if err != nil {
			return looked, false, err
		}
		if err := t.add(ctx, tx, far); err != nil {
			return looked, false, err
		}
		looked += len(far)
		if len(far) == t.pace.step {
			return looked, false, nil // there may be more
		}
	}
	t.expandedTo = no
	return looked, false, nil
}
