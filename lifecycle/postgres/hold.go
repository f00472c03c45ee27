package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// heldByRecord and heldByLot are true for a row of records r that an open hold
// covers. They read base rows only, so what they say holds for the whole
// transaction that has the lock. They are written apart from lifecycle.HoldSet on
// purpose: the planner's check and the destructive statements' must not share a
// mistake. Two conditions, and not one with OR in it: negated, each is an
// anti-join.
const (
	heldByRecord = `EXISTS (SELECT FROM lotkeeper.hold_scopes s JOIN lotkeeper.holds h ON h.hold_no = s.hold_no
		WHERE s.record_id = r.record_id AND h.released_at = '')`
	heldByLot = `EXISTS (SELECT FROM lotkeeper.hold_scopes s JOIN lotkeeper.holds h ON h.hold_no = s.hold_no
		WHERE s.tlc = r.tlc AND h.released_at = ''
		  AND (s.tlc_source = '' OR r.tlc_source = '' OR s.tlc_source = r.tlc_source))`
	held    = `(` + heldByRecord + ` OR ` + heldByLot + `)`
	notHeld = `NOT ` + heldByRecord + ` AND NOT ` + heldByLot
)

func insertHold(ctx context.Context, tx *txn, h *lifecycle.Hold) error {
	no, err := one(ctx, tx, (*columns).int, `INSERT INTO lotkeeper.holds (hold_id, kind, reference, reason, placed_by, placed_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING hold_no`,
		h.ID, string(h.Kind), h.Reference, h.Reason, h.PlacedBy, stamp(h.PlacedAt))
	if err != nil {
		return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
	}
	for _, sc := range h.Scopes {
		var record, tlc, source *string
		if sc.RecordID != "" {
			record = &sc.RecordID
		} else {
			tlc, source = &sc.TLC, &sc.TLCSource
		}
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.hold_scopes (hold_no, record_id, tlc, tlc_source) VALUES ($1, $2, $3, $4)`, no, record, tlc, source); err != nil {
			return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
		}
	}
	return nil
}

func (s *Store) Place(ctx context.Context, p lifecycle.Placement) error {
	return s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		placed, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.holds WHERE hold_id = $1`, p.Hold.ID)
		if err != nil || placed > 0 {
			return err // placed before, and the acknowledgement got lost
		}
		if err := insertHold(ctx, tx, &p.Hold); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, p.Leaf)
		return err
	})
}

func (s *Store) Release(ctx context.Context, id, reason string, leaf lifecycle.Leaf) error {
	return s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		n, err := tx.exec(ctx, `UPDATE lotkeeper.holds SET released_at = $1, released_by = $2, release_reason = $3 WHERE hold_id = $4 AND released_at = ''`,
			stamp(leaf.At), leaf.Actor, reason, id)
		if err != nil {
			return fmt.Errorf("couldn't release hold %s: %w", id, err)
		}
		if n == 0 {
			_, err := one(ctx, tx, (*columns).int, `SELECT hold_no FROM lotkeeper.holds WHERE hold_id = $1`, id)
			if err := found(err, "hold", id); err != nil {
				return err
			}
			return fmt.Errorf("hold %s: %w", id, lifecycle.ErrReleased)
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
}

func (s *Store) holds(ctx context.Context, where string, args ...any) ([]*lifecycle.Hold, error) {
	var out []*lifecycle.Hold
	var last int64
	err := each(ctx, s.pool, func(c *columns) {
		no := c.int()
		h := &lifecycle.Hold{ID: c.text(), Kind: lifecycle.HoldKind(c.text()), Reference: c.text(), Reason: c.text(), PlacedBy: c.text(), PlacedAt: c.time(),
			ReleasedAt: c.maybeTime(), ReleasedBy: c.text(), ReleaseReason: c.text()}
		if no != last {
			out, last = append(out, h), no
		}
		newest := out[len(out)-1]
		newest.Scopes = append(newest.Scopes, lifecycle.Scope{RecordID: c.text(), TLC: c.text(), TLCSource: c.text()})
	}, `SELECT h.hold_no, h.hold_id, h.kind, h.reference, h.reason, h.placed_by, h.placed_at,
			h.released_at, h.released_by, h.release_reason, s.record_id, s.tlc, s.tlc_source
		FROM lotkeeper.holds h JOIN lotkeeper.hold_scopes s USING (hold_no) WHERE `+where+` ORDER BY h.hold_no, s.scope_no`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read holds: %w", err)
	}
	return out, nil
}

func (s *Store) Holds(ctx context.Context, openOnly bool) ([]*lifecycle.Hold, error) {
	if openOnly {
		return s.holds(ctx, `h.released_at = ''`)
	}
	return s.holds(ctx, `true`)
}

func (s *Store) Hold(ctx context.Context, id string) (*lifecycle.Hold, error) {
	hs, err := s.holds(ctx, `h.hold_id = $1`, id)
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
	out, err := all(ctx, s.pool, func(c *columns) cte.Lot { return cte.Lot{TLC: c.text(), Source: c.text()} },
		`SELECT DISTINCT tlc, tlc_source FROM lotkeeper.records WHERE `+fmt.Sprintf(near, "tlc")+` ORDER BY tlc, tlc_source LIMIT $4`, nearArgs(tlc, limit)...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for lots like %q: %w", tlc, err)
	}
	return out, nil
}

func (s *Store) NearRecords(ctx context.Context, id string, limit int) ([]string, error) {
	out, err := all(ctx, s.pool, (*columns).text,
		`SELECT record_id FROM lotkeeper.records WHERE `+fmt.Sprintf(near, "record_id")+` ORDER BY record_id LIMIT $4`, nearArgs(id, limit)...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for records like %q: %w", id, err)
	}
	return out, nil
}
