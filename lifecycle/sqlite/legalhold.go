package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// legalHolds lists copies c of segments g, with their legal holds l.
func (s *Store) legalHolds(ctx context.Context, cond string, args ...any) ([]lifecycle.HeldCopy, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT g.segment_id, c.vault, g.object_key, c.object_version, g.manifest_key, c.manifest_version, coalesce(l.state, ''), coalesce(l.since, '')
		FROM segments g JOIN segment_copies c ON c.segment_no = g.segment_no LEFT JOIN legal_holds l ON l.segment_no = c.segment_no AND l.vault = c.vault
		WHERE `+cond+` ORDER BY g.segment_id, c.vault`, args...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read legal holds: %w", err)
	}
	return collect(rows, func(rows *sql.Rows) (c lifecycle.HeldCopy, err error) {
		err = rows.Scan(&c.Segment, &c.Vault, &c.ObjectKey, &c.ObjectVersion, &c.ManifestKey, &c.ManifestVersion, &c.State, maybeAt(&c.Since))
		return c, err
	})
}

func (s *Store) HeldCopies(ctx context.Context, r lifecycle.Reach) ([]lifecycle.HeldCopy, error) {
	query, args := hits(r)
	return s.legalHolds(ctx, live+` AND g.segment_no IN (SELECT r.segment_no FROM `+ofReach(query)+` WHERE r.state = 'archived' AND NOT `+gone+`)`, args...)
}

func (s *Store) LegalHolds(ctx context.Context) ([]lifecycle.HeldCopy, error) {
	return s.legalHolds(ctx, `(g.segment_no, c.vault) IN (SELECT segment_no, vault FROM legal_holds)`)
}

func (s *Store) MoveLegalHold(ctx context.Context, segment, vault string, from, to lifecycle.LegalState, leaf lifecycle.Leaf) error {
	// A segment has tens of thousands of records. What is archived in it after the look
	// was not held then, and is not now if the holds are the same.
	var held bool
	look := func(ctx context.Context, q querier, _ holdsMark) error {
		return q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM records r
			WHERE r.segment_no = (SELECT segment_no FROM segments WHERE segment_id = ?) AND r.state = 'archived' AND `+heldRecord+`)`, segment).Scan(&held)
	}
	move := func(ctx context.Context, tx *sql.Tx) error {
		var no int64
		var state lifecycle.LegalState
		err := tx.QueryRowContext(ctx, `SELECT g.segment_no, coalesce(l.state, '') FROM segments g JOIN segment_copies c ON c.segment_no = g.segment_no
			LEFT JOIN legal_holds l ON l.segment_no = c.segment_no AND l.vault = c.vault WHERE g.segment_id = ? AND c.vault = ?`, segment, vault).Scan(&no, &state)
		if err != nil {
			return found(err, "the copy of segment", segment)
		}
		if state != from {
			return fmt.Errorf("it is %q: %w", state, lifecycle.ErrMoved)
		}
		change := map[[2]lifecycle.LegalState]string{
			{lifecycle.LegalNone, lifecycle.LegalSet}: `INSERT INTO legal_holds (state, since, segment_no, vault) VALUES (?, ?, ?, ?)`,
			{lifecycle.LegalSet, lifecycle.Lifting}:   `UPDATE legal_holds SET state = ?, since = ? WHERE segment_no = ? AND vault = ?`,
			{lifecycle.Lifting, lifecycle.LegalSet}:   `UPDATE legal_holds SET state = ?, since = ? WHERE segment_no = ? AND vault = ?`,
			{lifecycle.Lifting, lifecycle.LegalNone}:  `DELETE FROM legal_holds WHERE segment_no = ? AND vault = ?`,
		}[[2]lifecycle.LegalState{from, to}]
		if change == "" {
			return fmt.Errorf("there is no such move: %w", lifecycle.ErrMoved)
		}
		if to != lifecycle.LegalSet && held {
			return lifecycle.ErrHeld
		}
		args := []any{to, stamp(leaf.At), no, vault}
		if to == lifecycle.LegalNone {
			args = args[2:]
		}
		if err := exactly(1)(tx.ExecContext(ctx, change, args...)); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	}
	var err error
	if to == lifecycle.LegalSet {
		err = s.write(ctx, move)
	} else {
		err = s.decide(ctx, func(fn func(context.Context, *sql.Tx) error) error { return s.write(ctx, fn) }, look, move)
	}
	if err != nil {
		return fmt.Errorf("couldn't move the legal hold of segment %s in vault %s from %q to %q: %w", segment, vault, from, to, err)
	}
	return nil
}
