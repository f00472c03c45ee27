package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// live is true for a segment g that counts.
const live = `g.state IN ('verified', 'settled') AND g.purge_leaf = 0`

// lacking is true for a live segment g of which the vault named in the
// parameter has no verified copy.
const lacking = live + ` AND NOT EXISTS (SELECT 1 FROM segment_copies c WHERE c.segment_no = g.segment_no AND c.vault = ?)`

func (s *Store) Vaults(ctx context.Context) ([]lifecycle.VaultRow, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT v.name, v.state, v.since, count(c.segment_no), (SELECT count(*) FROM segments g WHERE `+live+`) - count(c.segment_no),
			coalesce((SELECT max(a.retain_until) FROM segment_copies a WHERE a.vault = v.name AND a.deleted_at = ''), '')
		FROM vaults v LEFT JOIN (segment_copies c JOIN segments g ON g.segment_no = c.segment_no AND `+live+`) ON c.vault = v.name
		GROUP BY v.name ORDER BY v.name`)
	if err != nil {
		return nil, fmt.Errorf("couldn't read vaults: %w", err)
	}
	return collect(rows, func(rows *sql.Rows) (v lifecycle.VaultRow, err error) {
		err = rows.Scan(&v.Name, &v.State, at(&v.Since), &v.Copies, &v.Missing, maybeAt(&v.LockedUntil))
		return v, err
	})
}

func (s *Store) AddVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n, err := insertVault(ctx, tx, name, leaf)
		if err != nil || n == 0 {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't add vault %s: %w", name, err)
	}
	return nil
}

func insertVault(ctx context.Context, tx *sql.Tx, name string, leaf lifecycle.Leaf) (int64, error) {
	res, err := tx.ExecContext(ctx, `INSERT INTO vaults (name, state, since)
		SELECT ?1, CASE WHEN EXISTS (SELECT 1 FROM segments g WHERE `+live+`) THEN 'joining' ELSE 'active' END, ?2
		WHERE NOT EXISTS (SELECT 1 FROM vaults WHERE name = ?1)`, name, stamp(leaf.At))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (s *Store) AddCopy(ctx context.Context, segment string, c lifecycle.Copy, leaf lifecycle.Leaf) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var no int64
		err := tx.QueryRowContext(ctx, `SELECT g.segment_no FROM segments g, vaults v
			WHERE g.segment_id = ? AND `+live+` AND v.name = ? AND v.state <> 'retiring' AND g.retain_until <= ?`, segment, c.Vault, stamp(c.RetainUntil)).Scan(&no)
		if errors.Is(err, sql.ErrNoRows) {
			err = lifecycle.ErrMoved
		}
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at)
			SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (SELECT 1 FROM segment_copies WHERE segment_no = ?1 AND vault = ?2)`,
			no, c.Vault, c.ObjectVersion, c.ManifestVersion, stamp(c.RetainUntil), stamp(c.VerifiedAt))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record the copy of segment %s in vault %s: %w", segment, c.Vault, err)
	}
	return nil
}

func (s *Store) ActivateVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var missing int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM segments g WHERE `+lacking, name).Scan(&missing); err != nil {
			return err
		}
		if missing > 0 {
			return fmt.Errorf("it lacks %d segments: %w", missing, lifecycle.ErrMoved)
		}
		return moveVault(ctx, tx, name, `'joining'`, lifecycle.ActiveVault, leaf)
	})
	if err != nil {
		return fmt.Errorf("couldn't make vault %s active: %w", name, err)
	}
	return nil
}

func (s *Store) RetireVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var others int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM vaults WHERE state = 'active' AND name <> ?`, name).Scan(&others); err != nil {
			return err
		}
		if others == 0 {
			return lifecycle.ErrLastVault
		}
		return moveVault(ctx, tx, name, `'joining', 'active'`, lifecycle.Retiring, leaf)
	})
	if err != nil {
		return fmt.Errorf("couldn't retire vault %s: %w", name, err)
	}
	return nil
}

// moveVault is the compare-and-swap of a vault's state, with its leaf.
func moveVault(ctx context.Context, tx *sql.Tx, name, from string, to lifecycle.VaultState, leaf lifecycle.Leaf) error {
	res, err := tx.ExecContext(ctx, `UPDATE vaults SET state = ?, since = ? WHERE name = ? AND state IN (`+from+`)`, to, stamp(leaf.At), name)
	if err := moved(res, err, fmt.Sprintf("it is not %s", from)); err != nil {
		return err
	}
	_, err = appendLeaf(ctx, tx, leaf)
	return err
}
