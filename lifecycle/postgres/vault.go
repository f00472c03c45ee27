package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// live is true for a segment g that counts.
const live = `g.state IN ('verified', 'settled') AND g.purge_leaf = 0`

func (s *Store) Vaults(ctx context.Context) ([]lifecycle.VaultRow, error) {
	out, err := all(ctx, s.pool, func(c *columns) lifecycle.VaultRow {
		return lifecycle.VaultRow{Name: c.text(), State: lifecycle.VaultState(c.text()), Since: c.time(), Copies: c.int(), Missing: c.int(), LockedUntil: c.maybeTime()}
	}, `SELECT v.name, v.state, v.since, count(g.segment_no), (SELECT count(*) FROM lotkeeper.segments g WHERE `+live+`) - count(g.segment_no),
			coalesce(max(c.retain_until) FILTER (WHERE c.deleted_at = ''), '')
		FROM lotkeeper.vaults v LEFT JOIN lotkeeper.segment_copies c ON c.vault = v.name
			LEFT JOIN lotkeeper.segments g ON g.segment_no = c.segment_no AND `+live+`
		GROUP BY v.vault_no ORDER BY v.name`)
	if err != nil {
		return nil, fmt.Errorf("couldn't read vaults: %w", err)
	}
	return out, nil
}

// The vaults' states are changed under the exclusive lock, since VerifySegment
// reads them under the shared one.

func (s *Store) AddVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	err := s.write(ctx, exclusive, func(ctx context.Context, tx *txn) error {
		n, err := tx.exec(ctx, `INSERT INTO lotkeeper.vaults (name, state, since)
			SELECT $1, CASE WHEN EXISTS (SELECT FROM lotkeeper.segments g WHERE `+live+`) THEN 'joining' ELSE 'active' END, $2
			ON CONFLICT (name) DO NOTHING`, name, stamp(leaf.At))
		if err != nil || n == 0 {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't add vault %s: %w", name, err)
	}
	return nil
}

func (s *Store) AddCopy(ctx context.Context, segment string, c lifecycle.Copy, leaf lifecycle.Leaf) error {
	err := s.write(ctx, shared, func(ctx context.Context, tx *txn) error {
		no, err := one(ctx, tx, (*columns).int, `SELECT g.segment_no FROM lotkeeper.segments g, lotkeeper.vaults v
			WHERE g.segment_id = $1 AND `+live+` AND v.name = $2 AND v.state <> 'retiring' AND g.retain_until <= $3`, segment, c.Vault, stamp(c.RetainUntil))
		if errors.Is(err, pgx.ErrNoRows) {
			err = lifecycle.ErrMoved
		}
		if err != nil {
			return err
		}
		n, err := tx.exec(ctx, `INSERT INTO lotkeeper.segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (segment_no, vault) DO NOTHING`,
			no, c.Vault, c.ObjectVersion, c.ManifestVersion, stamp(c.RetainUntil), stamp(c.VerifiedAt))
		if err != nil || n == 0 {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record the copy of segment %s in vault %s: %w", segment, c.Vault, err)
	}
	return nil
}

func (s *Store) ActivateVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	err := s.write(ctx, exclusive, func(ctx context.Context, tx *txn) error {
		missing, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.segments g WHERE `+live+`
			AND NOT EXISTS (SELECT FROM lotkeeper.segment_copies c WHERE c.segment_no = g.segment_no AND c.vault = $1)`, name)
		if err != nil {
			return err
		}
		if missing > 0 {
			return fmt.Errorf("it lacks %d segments: %w", missing, lifecycle.ErrMoved)
		}
		active, err := one(ctx, tx, (*columns).int, `SELECT lotkeeper.activate_vault($1, $2)`, name, stamp(leaf.At))
		if err := moved(active, err, "it is not joining"); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't make vault %s active: %w", name, err)
	}
	return nil
}

func (s *Store) RetireVault(ctx context.Context, name string, leaf lifecycle.Leaf) error {
	err := s.write(ctx, exclusive, func(ctx context.Context, tx *txn) error {
		others, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.vaults WHERE state = 'active' AND name <> $1`, name)
		if err != nil {
			return err
		}
		if others == 0 {
			return lifecycle.ErrLastVault
		}
		n, err := tx.exec(ctx, `UPDATE lotkeeper.vaults SET state = 'retiring', since = $1 WHERE name = $2 AND state IN ('joining', 'active')`, stamp(leaf.At), name)
		if err := moved(n, err, "it is neither joining nor active"); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't retire vault %s: %w", name, err)
	}
	return nil
}
