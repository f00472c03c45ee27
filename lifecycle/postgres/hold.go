package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// These are true for a row of records r that an open hold covers, in one of four
// ways. They read base rows only, so what they say holds for the whole transaction
// that has the lock, once it has brought the traces up to date (ensureTraced). They
// are written apart from lifecycle.HoldSet and from the guards' lotkeeper.matches on
// purpose: the planner's check, the destructive statements' and the guards' must not
// share a mistake.
//
// OFFSET 0 keeps the planner from making joins of them, which it does the wrong way
// round where it does not know how many holds there are: each record is looked up
// for itself, by its id and its lot.
const (
	ofOpenHold   = ` JOIN lotkeeper.holds h ON h.hold_no = s.hold_no AND h.released_at = '' `
	heldByRecord = `EXISTS (SELECT FROM lotkeeper.hold_scopes s` + ofOpenHold + `WHERE s.record_id = r.record_id AND ` + conditions + ` OFFSET 0)`
	heldByLot    = `EXISTS (SELECT FROM lotkeeper.hold_scopes s` + ofOpenHold + `WHERE s.tlc = r.tlc AND s.record_id IS NULL AND ` + conditions + ` OFFSET 0)`
	heldByRest   = `EXISTS (SELECT FROM lotkeeper.hold_scopes s` + ofOpenHold + `WHERE s.record_id IS NULL AND s.tlc IS NULL AND ` + conditions + ` OFFSET 0)`
	heldByTrace  = `EXISTS (SELECT FROM lotkeeper.hold_lots l JOIN lotkeeper.hold_scopes s ON s.scope_no = l.scope_no` + ofOpenHold + `
		WHERE l.tlc = r.tlc AND (l.tlc_source = '' OR r.tlc_source = '' OR l.tlc_source = r.tlc_source) OFFSET 0)`
	held    = `(` + heldByRecord + ` OR ` + heldByLot + ` OR ` + heldByRest + ` OR ` + heldByTrace + `)`
	notHeld = `NOT ` + heldByRecord + ` AND NOT ` + heldByLot + ` AND NOT ` + heldByRest + ` AND NOT ` + heldByTrace
)

// conditions are all of a scope's conditions on a record r. One that is NULL is not
// asked; a source that is lacking on either side may be any.
const conditions = `((s.record_id IS NULL OR s.record_id = r.record_id) AND (s.tlc IS NULL OR s.tlc = r.tlc)
	AND (s.tlc_prefix IS NULL OR starts_with(r.tlc, s.tlc_prefix))
	AND (s.tlc_source IS NULL OR s.tlc_source = '' OR r.tlc_source = '' OR s.tlc_source = r.tlc_source)
	AND (s.location IS NULL OR s.location = r.location) AND (s.product IS NULL OR s.product = r.product)
	AND (s.event_type IS NULL OR s.event_type = r.event_type)
	AND (s.from_at IS NULL OR s.from_at <= r.event_at) AND (s.to_at IS NULL OR r.event_at < s.to_at))`

// maybe is NULL for a condition that is not asked.
func maybe(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// maybeStamp is stamp, and empty for zero.
func maybeStamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return stamp(t)
}

func insertHold(ctx context.Context, tx *txn, h *lifecycle.Hold) error {
	if h.Kind == lifecycle.RetentionHold && len(h.Scopes) == 1 && h.Scopes[0] == (lifecycle.Scope{RecordID: h.Scopes[0].RecordID}) &&
		h.Reference == "" && h.ReviewAt.IsZero() && h.Until.IsZero() {
		// By the door that is open to an ingest, which may place no other.
		if _, err := tx.exec(ctx, `SELECT lotkeeper.retain($1, $2, $3, $4, $5)`, h.ID, h.Scopes[0].RecordID, h.Reason, h.PlacedBy, stamp(h.PlacedAt)); err != nil {
			return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
		}
		return nil
	}
	no, err := one(ctx, tx, (*columns).int, `INSERT INTO lotkeeper.holds (hold_id, kind, reference, reason, placed_by, placed_at, review_at, until_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING hold_no`,
		h.ID, string(h.Kind), h.Reference, h.Reason, h.PlacedBy, stamp(h.PlacedAt), maybeStamp(h.ReviewAt), maybeStamp(h.Until))
	if err != nil {
		return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
	}
	if err := insertScopes(ctx, tx, no, h.Scopes); err != nil {
		return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
	}
	return nil
}

func insertScopes(ctx context.Context, tx *txn, hold int64, scopes []lifecycle.Scope) error {
	for _, sc := range scopes {
		no, err := one(ctx, tx, (*columns).int, `INSERT INTO lotkeeper.hold_scopes
				(hold_no, record_id, tlc, tlc_prefix, tlc_source, location, product, event_type, from_at, to_at, everything, trace)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING scope_no`,
			hold, maybe(sc.RecordID), maybe(sc.TLC), maybe(sc.TLCPrefix), maybe(sc.TLCSource), maybe(sc.Location), maybe(sc.Product), maybe(string(sc.EventType)),
			maybe(maybeStamp(sc.From)), maybe(maybeStamp(sc.To)), sc.All, string(sc.Trace))
		if err != nil {
			return fmt.Errorf("couldn't add scope %q: %w", sc, err)
		}
		if sc.Trace == lifecycle.TraceNone {
			continue
		}
		lots := int64(0)
		if exactLot(sc) {
			// The lot that is named stands for itself, also where no record names it.
			lots = 1
			if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.hold_lots (scope_no, tlc, tlc_source) VALUES ($1, $2, $3)`, no, sc.TLC, sc.TLCSource); err != nil {
				return fmt.Errorf("couldn't trace scope %q: %w", sc, err)
			}
		}
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.hold_traces (scope_no, lots) VALUES ($1, $2)`, no, lots); err != nil {
			return fmt.Errorf("couldn't trace scope %q: %w", sc, err)
		}
	}
	return nil
}

func (s *Store) Place(ctx context.Context, p lifecycle.Placement) error {
	err := s.place(ctx, p)
	for twice(err, "holds_hold_id_key") {
		err = s.place(ctx, p) // placed by another meanwhile, who is found now
	}
	return err
}

func (s *Store) place(ctx context.Context, p lifecycle.Placement) error {
	return s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		placed, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.holds WHERE hold_id = $1`, p.Hold.ID)
		if err != nil || placed > 0 {
			return err // placed before, and the acknowledgement got lost
		}
		if err := free(ctx, tx, &p.Hold); err != nil {
			return err
		}
		if err := insertHold(ctx, tx, &p.Hold); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, p.Leaf)
		return err
	})
}

// free says whether an open hold has the reference, as *lifecycle.ReferenceTaken. Two
// that place it at once meet at the unique index, and the second finds the first here
// when it is tried again.
func free(ctx context.Context, tx *txn, h *lifecycle.Hold) error {
	other, err := one(ctx, tx, (*columns).text, `SELECT hold_id FROM lotkeeper.holds WHERE kind = $1 AND reference = $2 AND reference <> '' AND released_at = ''`,
		string(h.Kind), h.Reference)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && other == h.ID: // placed since the look before
		return nil
	case err == nil:
		return &lifecycle.ReferenceTaken{HoldID: other}
	}
	return err
}

func (s *Store) Extend(ctx context.Context, id string, scopes []lifecycle.Scope, leaf lifecycle.Leaf) error {
	return s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		// FOR UPDATE: it is neither released nor extended by another meanwhile.
		no, err := one(ctx, tx, (*columns).int, `SELECT hold_no FROM lotkeeper.holds WHERE hold_id = $1 FOR UPDATE`, id)
		if err := found(err, "hold", id); err != nil {
			return err
		}
		have, err := holds(ctx, tx, `h.hold_no = $1`, no)
		if err != nil {
			return err
		}
		if !have[0].Open() {
			return fmt.Errorf("hold %s: %w", id, lifecycle.ErrReleased)
		}
		fresh := lacks(have[0], scopes)
		if len(fresh) == 0 {
			return nil
		}
		if err := insertScopes(ctx, tx, no, fresh); err != nil {
			return fmt.Errorf("couldn't extend hold %s: %w", id, err)
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
}

// lacks are those of the scopes that a hold has not, each once.
func lacks(h *lifecycle.Hold, scopes []lifecycle.Scope) (fresh []lifecycle.Scope) {
	for _, sc := range scopes {
		if !slices.Contains(h.Scopes, sc) && !slices.Contains(fresh, sc) {
			fresh = append(fresh, sc)
		}
	}
	return fresh
}

func (s *Store) Release(ctx context.Context, id, reason string, leaf lifecycle.Leaf) error {
	if leaf.Action == lifecycle.ActionHoldEnded {
		return s.end(ctx, id, reason, leaf)
	}
	return s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		// Looked up first: where the update finds nothing, a hold may have been placed
		// since, and would be taken for one that is released.
		open, err := one(ctx, tx, (*columns).int, `SELECT (released_at = '')::integer FROM lotkeeper.holds WHERE hold_id = $1 FOR UPDATE`, id)
		if err := found(err, "hold", id); err != nil {
			return err
		}
		if open == 0 {
			return fmt.Errorf("hold %s: %w", id, lifecycle.ErrReleased)
		}
		if err := exactly(1)(tx.exec(ctx, `UPDATE lotkeeper.holds SET released_at = $1, released_by = $2, release_reason = $3 WHERE hold_id = $4 AND released_at = ''`,
			stamp(leaf.At), leaf.Actor, reason, id)); err != nil {
			return fmt.Errorf("couldn't release hold %s: %w", id, err)
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
}

// end is Release for a hold whose end has come, by a door that is open to sweeps.
func (s *Store) end(ctx context.Context, id, reason string, leaf lifecycle.Leaf) error {
	return s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		what, err := one(ctx, tx, (*columns).text, `SELECT coalesce(lotkeeper.end_hold($1, $2, $3, $4), '')`, id, stamp(leaf.At), leaf.Actor, reason)
		switch {
		case err != nil:
			return fmt.Errorf("couldn't end hold %s: %w", id, err)
		case what == "":
			return fmt.Errorf("hold %s: %w", id, lifecycle.ErrNotFound)
		case what == "released":
			return fmt.Errorf("hold %s: %w", id, lifecycle.ErrReleased)
		case what == "early":
			return fmt.Errorf("hold %s has not come to its end: %w", id, lifecycle.ErrHeld)
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
}

func holds(ctx context.Context, q querier, where string, args ...any) ([]*lifecycle.Hold, error) {
	var out []*lifecycle.Hold
	var last int64
	err := each(ctx, q, func(c *columns) {
		no := c.int()
		h := &lifecycle.Hold{ID: c.text(), Kind: lifecycle.HoldKind(c.text()), Reference: c.text(), Reason: c.text(), PlacedBy: c.text(), PlacedAt: c.time(),
			ReviewAt: c.maybeTime(), Until: c.maybeTime(), ReleasedAt: c.maybeTime(), ReleasedBy: c.text(), ReleaseReason: c.text()}
		if no != last {
			out, last = append(out, h), no
		}
		newest := out[len(out)-1]
		newest.Scopes = append(newest.Scopes, scanScope(c))
	}, `SELECT h.hold_no, h.hold_id, h.kind, h.reference, h.reason, h.placed_by, h.placed_at, h.review_at, h.until_at,
			h.released_at, h.released_by, h.release_reason, `+scopeColumns+`
		FROM lotkeeper.holds h JOIN lotkeeper.hold_scopes s USING (hold_no) WHERE `+where+` ORDER BY h.hold_no, s.scope_no`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read holds: %w", err)
	}
	return out, nil
}

const scopeColumns = `s.record_id, s.tlc, s.tlc_prefix, s.tlc_source, s.location, s.product, s.event_type, coalesce(s.from_at, ''), coalesce(s.to_at, ''), s.everything, s.trace`

func scanScope(c *columns) lifecycle.Scope {
	return lifecycle.Scope{RecordID: c.text(), TLC: c.text(), TLCPrefix: c.text(), TLCSource: c.text(), Location: c.text(), Product: c.text(), EventType: cte.EventType(c.text()),
		From: c.maybeTime(), To: c.maybeTime(), All: c.int() != 0, Trace: lifecycle.Trace(c.text())}
}

func (s *Store) Holds(ctx context.Context, openOnly bool) ([]*lifecycle.Hold, error) {
	if openOnly {
		return holds(ctx, s.pool, `h.released_at = ''`)
	}
	return holds(ctx, s.pool, `true`)
}

func (s *Store) Hold(ctx context.Context, id string) (*lifecycle.Hold, error) {
	hs, err := holds(ctx, s.pool, `h.hold_id = $1`, id)
	if err != nil {
		return nil, err
	}
	if len(hs) == 0 {
		return nil, fmt.Errorf("hold %s: %w", id, lifecycle.ErrNotFound)
	}
	return hs[0], nil
}

// like makes a LIKE pattern of text that is meant literally.
func like(s string) string {
	return "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s) + "%"
}

// near resembles: contains the code, is contained in it (and is no shorter than
// half of it), or begins with its first half; whatever the case, of ASCII.
const near = `(%[1]s ILIKE $1 OR (length(%[1]s) * 2 >= length($2) AND strpos(lower($2 COLLATE "C"), lower(%[1]s)) > 0) OR %[1]s ILIKE $3)`

func nearArgs(code string, limit int) []any {
	half := []rune(code)
	half = half[:(len(half)+1)/2]
	return []any{like(code), code, strings.TrimPrefix(like(string(half)), "%"), limit}
}

func (s *Store) NearLots(ctx context.Context, tlc string, limit int) ([]cte.Lot, error) {
	out, err := bounded(ctx, s, func(c *columns) cte.Lot { return cte.Lot{TLC: c.text(), Source: c.text()} },
		`SELECT DISTINCT tlc, tlc_source FROM lotkeeper.records WHERE `+fmt.Sprintf(near, "tlc")+` ORDER BY tlc, tlc_source LIMIT $4`, nearArgs(tlc, limit)...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for lots like %q: %w", tlc, err)
	}
	return out, nil
}

func (s *Store) NearRecords(ctx context.Context, id string, limit int) ([]string, error) {
	out, err := bounded(ctx, s, (*columns).text,
		`SELECT record_id FROM lotkeeper.records WHERE `+fmt.Sprintf(near, "record_id")+` ORDER BY record_id LIMIT $4`, nearArgs(id, limit)...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for records like %q: %w", id, err)
	}
	return out, nil
}
