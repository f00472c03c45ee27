package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// heldRecord is true for a row of records r that an open hold covers. It reads
// base rows only, so what it says holds for the whole transaction it is in. It
// is written apart from lifecycle.HoldSet on purpose: the planner's check and
// the destructive statements' must not share a mistake.
const heldRecord = `(
	EXISTS (SELECT 1 FROM hold_scopes s JOIN holds h ON h.hold_no = s.hold_no
	         WHERE s.record_id = r.record_id AND h.released_at = '')
	OR EXISTS (SELECT 1 FROM hold_scopes s JOIN holds h ON h.hold_no = s.hold_no
	         WHERE s.tlc = r.tlc AND h.released_at = ''
	           AND (s.tlc_source = '' OR r.tlc_source = '' OR s.tlc_source = r.tlc_source)))`

func insertHold(ctx context.Context, tx *sql.Tx, h *lifecycle.Hold) error {
	res, err := tx.ExecContext(ctx, `INSERT INTO holds (hold_id, kind, reference, reason, placed_by, placed_at) VALUES (?, ?, ?, ?, ?, ?)`,
		h.ID, h.Kind, h.Reference, h.Reason, h.PlacedBy, stamp(h.PlacedAt))
	if err != nil {
		return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
	}
	no, err := res.LastInsertId()
	if err != nil {
		return err
	}
	for _, sc := range h.Scopes {
		var record, tlc, source any
		if sc.RecordID != "" {
			record = sc.RecordID
		} else {
			tlc, source = sc.TLC, sc.TLCSource
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO hold_scopes (hold_no, record_id, tlc, tlc_source) VALUES (?, ?, ?, ?)`,
			no, record, tlc, source); err != nil {
			return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
		}
	}
	return nil
}

func (s *Store) Place(ctx context.Context, p lifecycle.Placement) error {
	return s.transact(ctx, true, func(ctx context.Context, tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM holds WHERE hold_id = ?`, p.Hold.ID).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return nil // placed before, and the acknowledgement got lost
		}
		if err := insertHold(ctx, tx, &p.Hold); err != nil {
			return err
		}
		_, err := appendLeaf(ctx, tx, p.Leaf)
		return err
	})
}

func (s *Store) Release(ctx context.Context, id, reason string, leaf lifecycle.Leaf) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE holds SET released_at = ?, released_by = ?, release_reason = ? WHERE hold_id = ? AND released_at = ''`,
			stamp(leaf.At), leaf.Actor, reason, id)
		if err != nil {
			return fmt.Errorf("couldn't release hold %s: %w", id, err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n == 0 {
			err := tx.QueryRowContext(ctx, `SELECT 1 FROM holds WHERE hold_id = ?`, id).Scan(&n)
			if errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("hold %s: %w", id, lifecycle.ErrNotFound)
			}
			return fmt.Errorf("hold %s: %w", id, errors.Join(lifecycle.ErrReleased, err))
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
}

func (s *Store) holds(ctx context.Context, where string, args ...any) ([]*lifecycle.Hold, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT h.hold_no, h.hold_id, h.kind, h.reference, h.reason, h.placed_by, h.placed_at,
			h.released_at, h.released_by, h.release_reason, coalesce(s.record_id, ''), coalesce(s.tlc, ''), coalesce(s.tlc_source, '')
		FROM holds h JOIN hold_scopes s USING (hold_no) WHERE `+where+` ORDER BY h.hold_no, s.scope_no`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read holds: %w", err)
	}
	defer rows.Close()
	var out []*lifecycle.Hold
	var last int64
	for rows.Next() {
		var no int64
		var h lifecycle.Hold
		var sc lifecycle.Scope
		if err := rows.Scan(&no, &h.ID, &h.Kind, &h.Reference, &h.Reason, &h.PlacedBy, at(&h.PlacedAt),
			maybeAt(&h.ReleasedAt), &h.ReleasedBy, &h.ReleaseReason, &sc.RecordID, &sc.TLC, &sc.TLCSource); err != nil {
			return nil, fmt.Errorf("couldn't read holds: %w", err)
		}
		if no != last {
			out, last = append(out, &h), no
		}
		newest := out[len(out)-1]
		newest.Scopes = append(newest.Scopes, sc)
	}
	return out, rows.Err()
}

func (s *Store) Holds(ctx context.Context, openOnly bool) ([]*lifecycle.Hold, error) {
	if openOnly {
		return s.holds(ctx, `h.released_at = ''`)
	}
	return s.holds(ctx, `true`)
}

func (s *Store) Hold(ctx context.Context, id string) (*lifecycle.Hold, error) {
	hs, err := s.holds(ctx, `h.hold_id = ?`, id)
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

// near resembles: contains the code, is contained in it (and is no shorter
// than half of it), or begins with its first half.
const near = `(%[1]s LIKE ? ESCAPE '\' OR (length(%[1]s) * 2 >= length(?) AND instr(lower(?), lower(%[1]s)) > 0) OR %[1]s LIKE ? ESCAPE '\')`

func nearArgs(code string) []any {
	half := []rune(code)
	half = half[:(len(half)+1)/2]
	return []any{like(code), code, code, strings.TrimPrefix(like(string(half)), "%")}
}

func (s *Store) NearLots(ctx context.Context, tlc string, limit int) ([]cte.Lot, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT DISTINCT tlc, tlc_source FROM records WHERE `+fmt.Sprintf(near, "tlc")+` ORDER BY tlc, tlc_source LIMIT ?`,
		append(nearArgs(tlc), limit)...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for lots like %q: %w", tlc, err)
	}
	return collect(rows, func(rows *sql.Rows) (l cte.Lot, err error) {
		err = rows.Scan(&l.TLC, &l.Source)
		return l, err
	})
}

func (s *Store) NearRecords(ctx context.Context, id string, limit int) ([]string, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT record_id FROM records WHERE `+fmt.Sprintf(near, "record_id")+` ORDER BY record_id LIMIT ?`,
		append(nearArgs(id), limit)...)
	if err != nil {
		return nil, fmt.Errorf("couldn't look for records like %q: %w", id, err)
	}
	return collect(rows, scanOne[string])
}

// collect reads all rows and closes them.
func collect[T any](rows *sql.Rows, scan func(*sql.Rows) (T, error)) ([]T, error) {
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func scanOne[T any](rows *sql.Rows) (v T, err error) {
	err = rows.Scan(&v)
	return v, err
}
