package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// covers is true for a row of records r that a row of scopes s matches by itself,
// without its trace. The range is that of a prefix, byte for byte: no UTF-8 text has
// the byte ff.
const covers = `(s.record_id IS NULL OR s.record_id = r.record_id)
	AND (s.tlc IS NULL OR s.tlc = r.tlc)
	AND (s.tlc_prefix IS NULL OR (r.tlc >= s.tlc_prefix AND r.tlc < s.tlc_prefix || x'ff'))
	AND (s.tlc_source = '' OR r.tlc_source = '' OR s.tlc_source = r.tlc_source)
	AND (s.location IS NULL OR s.location = r.location)
	AND (s.product IS NULL OR s.product = r.product)
	AND (s.event_type IS NULL OR s.event_type = r.event_type)
	AND (s.from_at IS NULL OR r.event_at >= s.from_at)
	AND (s.to_at IS NULL OR r.event_at < s.to_at)`

// heldRecord is true for a row of records r that an open hold covers: by its id, its
// lot, another condition, or the lots that a trace leads to, as far as ensureTraced
// knows them. It reads base rows only, so what it says holds for the whole
// transaction it is in. It is written apart from lifecycle.HoldSet on purpose: the
// planner's check and the destructive statements' must not share a mistake.
//
// CROSS keeps the planner from beginning with the holds, of which there may be many.
const heldRecord = `(
	EXISTS (SELECT 1 FROM hold_scopes s CROSS JOIN holds h ON h.hold_no = s.hold_no
	         WHERE s.record_id = r.record_id AND h.released_at = '' AND ` + covers + `)
	OR EXISTS (SELECT 1 FROM hold_scopes s CROSS JOIN holds h ON h.hold_no = s.hold_no
	         WHERE s.tlc = r.tlc AND s.record_id IS NULL AND h.released_at = '' AND ` + covers + `)
	OR EXISTS (SELECT 1 FROM hold_scopes s INDEXED BY hold_scopes_general CROSS JOIN holds h ON h.hold_no = s.hold_no
	         WHERE s.record_id IS NULL AND s.tlc IS NULL AND h.released_at = '' AND ` + covers + `)
	OR EXISTS (SELECT 1 FROM hold_lots l CROSS JOIN hold_scopes s ON s.scope_no = l.scope_no CROSS JOIN holds h ON h.hold_no = s.hold_no
	         WHERE l.tlc = r.tlc AND h.released_at = ''
	           AND (l.tlc_source = '' OR r.tlc_source = '' OR l.tlc_source = r.tlc_source)))`

// scope is a lifecycle.Scope as hold_scopes has it. A field that is empty is NULL
// there, but for the source.
type scope struct {
	RecordID   string `json:"record_id,omitempty"`
	TLC        string `json:"tlc,omitempty"`
	TLCPrefix  string `json:"tlc_prefix,omitempty"`
	TLCSource  string `json:"tlc_source"`
	Location   string `json:"location,omitempty"`
	Product    string `json:"product,omitempty"`
	EventType  string `json:"event_type,omitempty"`
	From       string `json:"from_at,omitempty"`
	To         string `json:"to_at,omitempty"`
	Everything bool   `json:"-"`
	Trace      string `json:"-"`
}

func scopeOf(sc lifecycle.Scope) scope {
	return scope{sc.RecordID, sc.TLC, sc.TLCPrefix, sc.TLCSource, sc.Location, sc.Product, string(sc.EventType),
		maybeStamp(sc.From), maybeStamp(sc.To), sc.All, string(sc.Trace)}
}

// scopeColumns are the columns of a lifecycle.Scope, in the order scanScope reads
// them.
const scopeColumns = `coalesce(s.record_id, ''), coalesce(s.tlc, ''), coalesce(s.tlc_prefix, ''), s.tlc_source, coalesce(s.location, ''),
	coalesce(s.product, ''), coalesce(s.event_type, ''), coalesce(s.from_at, ''), coalesce(s.to_at, ''), s.everything, s.trace`

func scanScope(row interface{ Scan(...any) error }, sc *lifecycle.Scope, before ...any) error {
	return row.Scan(append(before, &sc.RecordID, &sc.TLC, &sc.TLCPrefix, &sc.TLCSource, &sc.Location,
		&sc.Product, &sc.EventType, maybeAt(&sc.From), maybeAt(&sc.To), &sc.All, &sc.Trace)...)
}

// insertHold answers *lifecycle.ReferenceTaken if another open hold of the kind has
// the reference.
func insertHold(ctx context.Context, tx *sql.Tx, h *lifecycle.Hold) error {
	var other string
	err := tx.QueryRowContext(ctx, `SELECT hold_id FROM holds WHERE kind = ? AND reference = ? AND reference <> '' AND released_at = ''`, h.Kind, h.Reference).Scan(&other)
	if err == nil {
		return &lifecycle.ReferenceTaken{HoldID: other}
	}
	if err != sql.ErrNoRows {
		return fmt.Errorf("couldn't look for the reference of hold %s: %w", h.ID, err)
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO holds (hold_id, kind, reference, reason, placed_by, placed_at, review_at, until_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		h.ID, h.Kind, h.Reference, h.Reason, h.PlacedBy, stamp(h.PlacedAt), maybeStamp(h.ReviewAt), maybeStamp(h.Until))
	if err != nil {
		return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
	}
	no, err := res.LastInsertId()
	if err != nil {
		return err
	}
	for _, sc := range h.Scopes {
		if err := insertScope(ctx, tx, no, sc); err != nil {
			return fmt.Errorf("couldn't place hold %s: %w", h.ID, err)
		}
	}
	return nil
}

func insertScope(ctx context.Context, tx *sql.Tx, hold int64, sc lifecycle.Scope) error {
	s := scopeOf(sc)
	res, err := tx.ExecContext(ctx, `INSERT INTO hold_scopes (hold_no, record_id, tlc, tlc_prefix, tlc_source, location, product, event_type, from_at, to_at, everything, trace)
		VALUES (?, nullif(?, ''), nullif(?, ''), nullif(?, ''), ?, nullif(?, ''), nullif(?, ''), nullif(?, ''), nullif(?, ''), nullif(?, ''), ?, ?)`,
		hold, s.RecordID, s.TLC, s.TLCPrefix, s.TLCSource, s.Location, s.Product, s.EventType, s.From, s.To, s.Everything, s.Trace)
	if err != nil {
		return fmt.Errorf("couldn't insert scope %q: %w", sc, err)
	}
	if sc.Trace == lifecycle.TraceNone {
		return nil
	}
	no, err := res.LastInsertId()
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO hold_traces (scope_no) VALUES (?)`, no); err != nil {
		return fmt.Errorf("couldn't begin the trace of scope %q: %w", sc, err)
	}
	if !exactLot(sc) {
		return nil
	}
	t := trace{no: no, scope: sc, statements: map[string]statement{}}
	if err := t.add(ctx, tx, []cte.Lot{{TLC: sc.TLC, Source: sc.TLCSource}}); err != nil {
		return fmt.Errorf("couldn't begin the trace of scope %q: %w", sc, err)
	}
	return t.save(ctx, tx)
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

func (s *Store) Extend(ctx context.Context, id string, scopes []lifecycle.Scope, leaf lifecycle.Leaf) error {
	err := s.transact(ctx, true, func(ctx context.Context, tx *sql.Tx) error {
		var no int64
		var released string
		err := tx.QueryRowContext(ctx, `SELECT hold_no, released_at FROM holds WHERE hold_id = ?`, id).Scan(&no, &released)
		switch {
		case err == sql.ErrNoRows:
			return lifecycle.ErrNotFound
		case err != nil:
			return err
		case released != "":
			return lifecycle.ErrReleased
		}
		added, err := addScopes(ctx, tx, no, scopes)
		if err != nil {
			return err
		}
		if added == 0 {
			return nil
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't extend hold %s: %w", id, err)
	}
	return nil
}

// addScopes adds those that the hold has not, and says how many they were.
func addScopes(ctx context.Context, tx *sql.Tx, hold int64, scopes []lifecycle.Scope) (int, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+scopeColumns+` FROM hold_scopes s WHERE s.hold_no = ?`, hold)
	if err != nil {
		return 0, err
	}
	have, err := collect(rows, func(rows *sql.Rows) (scope, error) {
		var sc lifecycle.Scope
		err := scanScope(rows, &sc)
		return scopeOf(sc), err
	})
	if err != nil {
		return 0, err
	}
	before := len(have)
	for _, sc := range scopes {
		if slices.Contains(have, scopeOf(sc)) {
			continue
		}
		have = append(have, scopeOf(sc))
		if err := insertScope(ctx, tx, hold, sc); err != nil {
			return 0, err
		}
	}
	return len(have) - before, nil
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
			h.review_at, h.until_at, h.released_at, h.released_by, h.release_reason, `+scopeColumns+`
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
		if err := scanScope(rows, &sc, &no, &h.ID, &h.Kind, &h.Reference, &h.Reason, &h.PlacedBy, at(&h.PlacedAt),
			maybeAt(&h.ReviewAt), maybeAt(&h.Until), maybeAt(&h.ReleasedAt), &h.ReleasedBy, &h.ReleaseReason); err != nil {
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
