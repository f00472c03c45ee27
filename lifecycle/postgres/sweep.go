package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/shred"
)

func (s *Store) DueClasses(ctx context.Context, now time.Time) ([]string, error) {
	out, err := all(ctx, s.pool, (*columns).text, `SELECT class_id FROM lotkeeper.classes c WHERE kind = 'archive' AND EXISTS (
		SELECT FROM lotkeeper.records r WHERE r.archive_class_no = c.class_no AND r.archive_leaf = 0 AND r.due_at <= $1) ORDER BY period_start, generation`, stamp(now))
	if err != nil {
		return nil, fmt.Errorf("couldn't look for due records: %w", err)
	}
	return out, nil
}

const due = ` WHERE r.archive_class_no = (SELECT class_no FROM lotkeeper.classes WHERE class_id = $1) AND r.archive_leaf = 0
	AND r.due_at <= $2 AND (r.due_at, r.seq) > ($3, $4) ORDER BY r.due_at, r.seq LIMIT $5`

func (s *Store) DueRows(ctx context.Context, archiveClass string, now time.Time, after lifecycle.Cursor, limit int) ([]lifecycle.Row, error) {
	out, err := rows(ctx, s.pool, due, archiveClass, stamp(now), stamp(after.DueAt), after.Seq, limit)
	if err != nil {
		return nil, fmt.Errorf("couldn't read due records of %s: %w", archiveClass, err)
	}
	return out, nil
}

func (s *Store) DuePage(ctx context.Context, archiveClass string, now time.Time, after lifecycle.Cursor, limit int, maxBytes int64) ([]lifecycle.Sealed, error) {
	var out []lifecycle.Sealed
	err := s.snapshot(ctx, func(tx pgx.Tx) error {
		// A page is read along an index in 7 ms. To start workers who share it, and
		// collect from them, took 14.
		if _, err := tx.Exec(ctx, `SET LOCAL max_parallel_workers_per_gather = 0`); err != nil {
			return err
		}
		page, err := all(ctx, tx, scanStored, selectStored+due, archiveClass, stamp(now), stamp(after.DueAt), after.Seq, limit)
		if err != nil {
			return err
		}
		out, err = complete(ctx, tx, page[:within(page, maxBytes)])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read due records of %s: %w", archiveClass, err)
	}
	return out, nil
}

func (s *Store) Checksums(ctx context.Context, ids []string) (map[string][32]byte, error) {
	out := make(map[string][32]byte, len(ids))
	err := each(ctx, s.pool, func(c *columns) { out[c.text()] = c.sum() },
		`SELECT r.record_id, r.checksum FROM `+recordsOf(`record_id, state, checksum`)+` WHERE r.state = 'active'`, ids)
	if err != nil {
		return nil, fmt.Errorf("couldn't read back %d checksums: %w", len(ids), err)
	}
	return out, nil
}

func (s *Store) StageSegment(ctx context.Context, l lifecycle.Lease, g lifecycle.Segment, leaf lifecycle.Leaf) error {
	err := s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		class, err := openClass(ctx, tx, g.Class)
		if err != nil {
			return err
		}
		if err := insertSegment(ctx, tx, class, g); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't stage segment %s: %w", g.ID, err)
	}
	return nil
}

func insertSegment(ctx context.Context, tx *txn, class int64, g lifecycle.Segment) error {
	_, err := tx.exec(ctx, `INSERT INTO lotkeeper.segments (segment_id, class_no, run_id, records, object_key, object_size, object_sha256,
			plaintext_sha256, merkle_root, manifest_key, manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		g.ID, class, g.RunID, int64(g.Records), g.ObjectKey, g.ObjectSize, g.ObjectSHA256[:],
		g.PlaintextSHA256[:], g.Root[:], g.ManifestKey, g.ManifestSize, g.ManifestSHA256[:], g.WrappedIdentity, stamp(g.RetainUntil), stamp(g.CreatedAt))
	return err
}

// openClass finds an open class's number. ErrMoved.
func openClass(ctx context.Context, tx *txn, id string) (int64, error) {
	no, err := one(ctx, tx, (*columns).int, `SELECT class_no FROM lotkeeper.classes WHERE class_id = $1 AND state = 'open'`, id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fmt.Errorf("class %s is not open: %w", id, lifecycle.ErrMoved)
	}
	return no, err
}

// moveSegment is the compare-and-swap of a segment's state, with its leaf. then,
// if it is not nil, is done in the same transaction.
func (s *Store) moveSegment(ctx context.Context, l lifecycle.Lease, id string, from, to lifecycle.SegmentState, leaf lifecycle.Leaf, then func(context.Context, *txn) error) error {
	return s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		n, err := tx.exec(ctx, `UPDATE lotkeeper.segments SET state = $1 WHERE segment_id = $2 AND state = $3`, string(to), id, string(from))
		if err := moved(n, err, fmt.Sprintf("segment %s is not %s", id, from)); err != nil {
			return err
		}
		if _, err = tx.appendLeaf(ctx, leaf); err != nil || then == nil {
			return err
		}
		return then(ctx, tx)
	})
}

func (s *Store) VerifySegment(ctx context.Context, l lifecycle.Lease, id string, copies []lifecycle.Copy, leaf lifecycle.Leaf) error {
	return s.moveSegment(ctx, l, id, lifecycle.Staged, lifecycle.Verified, leaf, func(ctx context.Context, tx *txn) error {
		names := make([]string, len(copies))
		for i, c := range copies {
			names[i] = c.Vault
		}
		// A vault may have become active since the copies were put.
		lack, err := one(ctx, tx, (*columns).text, `SELECT coalesce(min(name), '') FROM lotkeeper.vaults WHERE state = 'active' AND NOT name = ANY($1)`, names)
		if err != nil {
			return err
		}
		if lack != "" {
			return fmt.Errorf("segment %s has no copy in vault %s: %w", id, lack, lifecycle.ErrMoved)
		}
		for _, c := range copies {
			if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at)
				VALUES ((SELECT segment_no FROM lotkeeper.segments WHERE segment_id = $1), $2, $3, $4, $5, $6)`,
				id, c.Vault, c.ObjectVersion, c.ManifestVersion, stamp(c.RetainUntil), stamp(c.VerifiedAt)); err != nil {
				return fmt.Errorf("couldn't record the copy of segment %s in vault %s: %w", id, c.Vault, err)
			}
		}
		return nil
	})
}

func (s *Store) AbandonSegment(ctx context.Context, l lifecycle.Lease, id string, leaf lifecycle.Leaf) error {
	return s.moveSegment(ctx, l, id, lifecycle.Staged, lifecycle.Abandoned, leaf, nil)
}

func (s *Store) SettleSegment(ctx context.Context, l lifecycle.Lease, id string, leaf lifecycle.Leaf) error {
	return s.moveSegment(ctx, l, id, lifecycle.Verified, lifecycle.Settled, leaf, nil)
}

func (s *Store) SoftDelete(ctx context.Context, l lifecycle.Lease, segment string, now time.Time, members []lifecycle.Member, leaf lifecycle.Leaf) (lifecycle.SoftDeleted, error) {
	ids, sums := make([]string, len(members)), make([][]byte, len(members))
	for i := range members {
		ids[i], sums[i] = members[i].RecordID, members[i].Checksum[:]
	}
	type place struct{ no, class int64 }
	var done lifecycle.SoftDeleted
	softDelete := func(ctx context.Context, tx *txn) error {
		done.Records = 0
		g, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int()} },
			`SELECT segment_no, class_no FROM lotkeeper.segments WHERE segment_id = $1 AND state = 'verified' AND purge_leaf = 0`, segment)
		if errors.Is(err, pgx.ErrNoRows) {
			err = lifecycle.ErrMoved
		}
		if err != nil {
			return fmt.Errorf("segment %s is not verified: %w", segment, err)
		}
		// The check, from base rows, in a statement after the lock. What it
		// lets through is an explicit list of rows: nothing that arrives or is
		// held meanwhile can slip into the statements below.
		//
		// OFFSET 0 keeps the planner from looking for the records the other way
		// round, among all that are active.
		var seqs []int64
		var archived [][32]byte
		if err := each(ctx, tx, func(c *columns) { seqs, archived = append(seqs, c.int()), append(archived, c.sum()) },
			`SELECT r.seq, r.checksum FROM unnest($1::text[], $2::bytea[]) m(record_id, checksum),
			LATERAL (SELECT * FROM lotkeeper.records r WHERE r.record_id = m.record_id OFFSET 0) r
			WHERE r.state = 'active' AND r.due_at <= $3 AND r.archive_class_no = $4 AND r.checksum = m.checksum AND `+notHeld+` ORDER BY r.due_at, r.seq`, ids, sums, stamp(now), g.class); err != nil || len(seqs) == 0 {
			return err
		}
		var kept []string
		if len(seqs) < len(members) {
			if kept, err = all(ctx, tx, (*columns).text, `SELECT r.record_id FROM `+recordsOf(`seq, record_id, state`)+` WHERE r.state = 'active' AND NOT r.seq = ANY($2) ORDER BY r.seq`, ids, seqs); err != nil {
				return err
			}
		}
		leafID, err := tx.appendLeaf(ctx, leaf.Archived(archived, kept))
		if err != nil {
			return err
		}
		if err := tx.markArchived(ctx, g.no, leafID, seqs); err != nil {
			return err
		}
		if err := exactly(len(seqs))(tx.exec(ctx, `DELETE FROM lotkeeper.deks WHERE seq = ANY($1)`, seqs)); err != nil {
			return fmt.Errorf("couldn't drop DEKs: %w", err)
		}
		done.Records = len(seqs)
		return nil
	}
	err := s.untilTraced(ctx, func(budget int) error {
		return s.fenced(ctx, deciding, l, timed(&done.Locked, askingHolds(budget, softDelete)))
	})
	if err != nil {
		return lifecycle.SoftDeleted{}, fmt.Errorf("couldn't soft-delete the records of segment %s: %w", segment, err)
	}
	return done, nil
}

// timed measures fn by the server's clock. What the commit takes comes on top.
func timed(took *time.Duration, fn func(context.Context, *txn) error) func(context.Context, *txn) error {
	return func(ctx context.Context, tx *txn) error {
		const clock = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`
		before, err := one(ctx, tx, (*columns).int, clock)
		if err != nil {
			return err
		}
		if err := fn(ctx, tx); err != nil {
			return err
		}
		after, err := one(ctx, tx, (*columns).int, clock)
		*took = time.Duration(after-before) * time.Microsecond
		return err
	}
}

func (tx *txn) markArchived(ctx context.Context, segmentNo, leafID int64, seqs []int64) error {
	if err := exactly(len(seqs))(tx.exec(ctx, `UPDATE lotkeeper.records SET state = 'archived', segment_no = $1, archive_leaf = $2
		WHERE seq = ANY($3) AND state = 'active'`, segmentNo, leafID, seqs)); err != nil {
		return fmt.Errorf("couldn't mark records archived: %w", err)
	}
	return nil
}

func (s *Store) DyingClasses(ctx context.Context, now time.Time) ([]lifecycle.Class, error) {
	return s.dying(ctx, `c.kind IN ('hot', 'deferral')`, now)
}

func (s *Store) dying(ctx context.Context, kinds string, now time.Time) ([]lifecycle.Class, error) {
	out, err := all(ctx, s.pool, scanClass, `SELECT `+classColumns+` FROM lotkeeper.classes c
		WHERE `+kinds+` AND c.closes_at <= $1 AND c.state <> 'destroyed' ORDER BY c.closes_at, c.class_no`, stamp(now))
	if err != nil {
		return nil, fmt.Errorf("couldn't look for classes that are over: %w", err)
	}
	return out, nil
}

func (s *Store) ClassDEKs(ctx context.Context, class string, afterSeq int64, limit int) ([]lifecycle.DEK, error) {
	var out []lifecycle.DEK
	page, err := all(ctx, s.pool, scanStored, selectStored+` WHERE d.class_no = (SELECT class_no FROM lotkeeper.classes WHERE class_id = $1) AND d.seq > $2 ORDER BY d.seq LIMIT $3`,
		class, afterSeq, limit)
	if err == nil {
		err = name(ctx, s.pool, page)
	}
	for _, r := range page {
		out = append(out, lifecycle.DEK{Row: r.Row, Wrapped: r.WrappedDEK})
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the DEKs of class %s: %w", class, err)
	}
	return out, nil
}

func (s *Store) Reseal(ctx context.Context, l lifecycle.Lease, from, to string, deks map[int64][]byte, leaf lifecycle.Leaf) (int, error) {
	want := slices.Sorted(maps.Keys(deks))
	wrapped := make([][]byte, len(want))
	for i, seq := range want {
		wrapped[i] = deks[seq]
	}
	n := 0
	err := s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		n = 0
		toNo, err := openClass(ctx, tx, to)
		if err != nil {
			return err
		}
		seqs, err := all(ctx, tx, (*columns).int, `UPDATE lotkeeper.deks d SET class_no = $1, wrapped = m.wrapped FROM unnest($2::bigint[], $3::bytea[]) m(seq, wrapped)
			WHERE d.seq = m.seq AND d.class_no = (SELECT class_no FROM lotkeeper.classes WHERE class_id = $4) RETURNING d.seq`, toNo, want, wrapped, from)
		if err != nil || len(seqs) == 0 {
			return err
		}
		if err := exactly(len(seqs))(tx.exec(ctx, `UPDATE lotkeeper.records SET class_no = $1 WHERE seq = ANY($2)`, toNo, seqs)); err != nil {
			return err
		}
		leafID, err := tx.appendLeaf(ctx, leaf.With("records", len(seqs)))
		if err != nil {
			return err
		}
		if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.reseals (seq, leaf_id) SELECT seq, $1 FROM unnest($2::bigint[]) seq`, leafID, seqs); err != nil {
			return err
		}
		n = len(seqs)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't reseal %d records from class %s to %s: %w", len(deks), from, to, err)
	}
	return n, nil
}

// unneeded is true for a class c under whose key no DEK is wrapped, and which no active
// record is of, or is to be archived in.
const unneeded = `NOT EXISTS (SELECT FROM lotkeeper.deks d WHERE d.class_no = c.class_no)
	AND NOT EXISTS (SELECT FROM lotkeeper.records r WHERE r.class_no = c.class_no AND r.archive_leaf = 0)
	AND NOT EXISTS (SELECT FROM lotkeeper.records r WHERE r.archive_class_no = c.class_no AND r.archive_leaf = 0)`

func (s *Store) Condemn(ctx context.Context, l lifecycle.Lease, now time.Time, classes []string, leaf lifecycle.Leaf) ([]string, error) {
	var ids []string
	err := s.fenced(ctx, exclusive, l, func(ctx context.Context, tx *txn) (err error) {
		ids, err = all(ctx, tx, (*columns).text, `SELECT class_id FROM lotkeeper.classes c
			WHERE class_id = ANY($1) AND state = 'open' AND closes_at <= $2 AND `+unneeded+`
			  AND NOT EXISTS (SELECT FROM lotkeeper.segments g WHERE g.class_no = c.class_no AND g.state = 'staged')
			  AND NOT EXISTS (SELECT FROM lotkeeper.segments g JOIN lotkeeper.records r ON r.segment_no = g.segment_no
			      WHERE g.class_no = c.class_no AND r.state = 'archived' AND r.purge_not_before > $2)
			ORDER BY class_no`, classes, stamp(now))
		if err != nil || len(ids) == 0 {
			return err
		}
		leafID, err := tx.appendLeaf(ctx, leaf.With("classes", ids))
		if err != nil {
			return err
		}
		return exactly(len(ids))(tx.exec(ctx, `UPDATE lotkeeper.classes SET state = 'condemned', intent_leaf = $1 WHERE class_id = ANY($2) AND state = 'open'`, leafID, ids))
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't condemn %d classes: %w", len(classes), err)
	}
	return ids, nil
}

// Execute counts before it takes the lock, since that reads every member: the members
// of a condemned class do not change. What may change is the holds, and only by more
// scopes and more lots that traces lead to. So what is new is looked at round by round,
// outside the lock, until so little is left that it can be done under it.
func (s *Store) Execute(ctx context.Context, l lifecycle.Lease, now time.Time, classes []string, leaf lifecycle.Leaf) ([]shred.Evidence, error) {
	var out []shred.Evidence
	var counted []shred.Evidence
	var seen holdsMark
	pinned := map[string]bool{}
	err := s.untilTraced(ctx, func(budget int) error {
		if counted == nil {
			var err error
			if counted, err = countClasses(ctx, s.pool, now, classes); err != nil {
				return err
			}
		}
		// Whatever is not above the mark is committed, and seen: nobody else has
		// the lock.
		var mark holdsMark
		if err := s.write(ctx, exclusive, func(ctx context.Context, tx *txn) (err error) {
			mark, err = newestHolds(ctx, tx)
			return err
		}); err != nil {
			return err
		}
		if err := pin(ctx, s.pool, classes, seen, pinned); err != nil {
			return err
		}
		seen = mark
		return s.fenced(ctx, deciding, l, askingHolds(budget, func(ctx context.Context, tx *txn) error {
			n, err := one(ctx, tx, (*columns).int, `SELECT (SELECT count(*) FROM lotkeeper.hold_lots WHERE lot_no > $1)
				+ 100 * (SELECT count(*) FROM lotkeeper.hold_scopes WHERE scope_no > $2)`, seen.lot, seen.scope)
			if err != nil {
				return err
			}
			if n > int64(budget) {
				return errBehind
			}
			if err := pin(ctx, tx, classes, seen, pinned); err != nil {
				return err
			}
			out, err = tx.execute(ctx, now, counted, pinned, leaf)
			return err
		}))
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't execute %d classes: %w", len(classes), err)
	}
	return out, nil
}

// holdsMark is how far the holds were looked at.
type holdsMark struct{ scope, lot int64 }

func newestHolds(ctx context.Context, q querier) (holdsMark, error) {
	return one(ctx, q, func(c *columns) holdsMark { return holdsMark{c.int(), c.int()} },
		`SELECT (SELECT coalesce(max(scope_no), 0) FROM lotkeeper.hold_scopes), (SELECT coalesce(max(lot_no), 0) FROM lotkeeper.hold_lots)`)
}

// pin marks those of the classes that have a member under an open hold, one whose hot
// copy was in it or whose archived one is, by scopes and lots that are newer than the mark. It goes from the holds to the records, by their
// indexes; only scopes that name neither a record nor a lot are compared with each
// member, until the first that one covers.
func pin(ctx context.Context, q querier, classes []string, since holdsMark, pinned map[string]bool) error {
	const member = ` JOIN lotkeeper.classes c ON c.class_no IN (r.class_no, r.archive_class_no) AND c.class_id = ANY($1) WHERE r.state <> 'purged' AND `
	err := each(ctx, q, func(c *columns) { pinned[c.text()] = true }, `
		SELECT c.class_id FROM lotkeeper.hold_scopes s`+ofOpenHold+`JOIN lotkeeper.records r ON r.record_id = s.record_id`+member+`s.scope_no > $2 AND `+conditions+`
		UNION SELECT c.class_id FROM lotkeeper.hold_scopes s`+ofOpenHold+`JOIN lotkeeper.records r ON r.tlc = s.tlc AND s.record_id IS NULL`+member+`s.scope_no > $2 AND `+conditions+`
		UNION SELECT c.class_id FROM lotkeeper.hold_lots l JOIN lotkeeper.hold_scopes s ON s.scope_no = l.scope_no`+ofOpenHold+`
			JOIN lotkeeper.records r ON r.tlc = l.tlc AND (l.tlc_source = '' OR r.tlc_source = '' OR l.tlc_source = r.tlc_source)`+member+`l.lot_no > $3
		UNION SELECT c.class_id FROM lotkeeper.hold_scopes s`+ofOpenHold+`, lotkeeper.classes c WHERE s.record_id IS NULL AND s.tlc IS NULL AND s.scope_no > $2 AND c.class_id = ANY($1)
			AND (EXISTS (SELECT FROM lotkeeper.records r WHERE r.class_no = c.class_no AND r.archive_leaf <> 0 AND r.state <> 'purged' AND `+conditions+` OFFSET 0)
			  OR EXISTS (SELECT FROM lotkeeper.segments g JOIN lotkeeper.records r ON r.segment_no = g.segment_no WHERE g.class_no = c.class_no AND r.state = 'archived' AND `+conditions+` OFFSET 0))`,
		classes, since.scope, since.lot)
	if err != nil {
		return fmt.Errorf("couldn't look for holds on the members of %d classes: %w", len(classes), err)
	}
	return nil
}

// countClasses counts what speaks against the destruction of classes that are
// condemned or executing. Unverified are members that do not have their copy
// elsewhere: one that is active but says this class, and one that is archived in a
// segment which is not verified. It looks at the records, DEKs at the DEKs: two
// witnesses. An archive class is needed by the active records that are to come into it,
// and Early are those that are in it before their time.
func countClasses(ctx context.Context, q querier, now time.Time, classes []string) ([]shred.Evidence, error) {
	return all(ctx, q, func(c *columns) shred.Evidence {
		return shred.Evidence{Class: c.text(), ClosesAt: c.time(), Now: now, IntentLeaf: c.int(), DEKs: int(c.int()), Unverified: int(c.int()), Early: int(c.int())}
	}, `SELECT class_id, closes_at, intent_leaf,
			(SELECT count(*) FROM lotkeeper.deks d WHERE d.class_no = c.class_no)
			+ (SELECT count(*) FROM lotkeeper.records r WHERE r.archive_class_no = c.class_no AND r.archive_leaf = 0),
			(SELECT count(*) FROM lotkeeper.records r WHERE r.class_no = c.class_no AND r.archive_leaf = 0)
			+ (SELECT count(*) FROM lotkeeper.records r LEFT JOIN lotkeeper.segments g ON g.segment_no = r.segment_no
			    WHERE r.class_no = c.class_no AND r.archive_leaf <> 0 AND r.state = 'archived' AND coalesce(g.state, '') NOT IN ('verified', 'settled')),
			(SELECT count(*) FROM lotkeeper.segments g JOIN lotkeeper.records r ON r.segment_no = g.segment_no
			  WHERE g.class_no = c.class_no AND r.state = 'archived' AND r.purge_not_before > $2)
		FROM lotkeeper.classes c WHERE class_id = ANY($1) AND state IN ('condemned', 'executing') ORDER BY class_id`, classes, stamp(now))
}

// execute moves the classes that nothing speaks against to executing. DEKs and
// active members are looked for once more: there must be none, which is quick.
func (tx *txn) execute(ctx context.Context, now time.Time, counted []shred.Evidence, pinned map[string]bool, leaf lifecycle.Leaf) ([]shred.Evidence, error) {
	var out []shred.Evidence
	var ids []string
	for _, e := range counted {
		if e.DEKs == 0 && e.Unverified == 0 && e.Early == 0 && !pinned[e.Class] && !e.ClosesAt.After(now) && e.IntentLeaf > 0 {
			out, ids = append(out, e), append(ids, e.Class)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	sound, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.classes c WHERE class_id = ANY($1) AND state IN ('condemned', 'executing') AND `+unneeded, ids)
	if err != nil {
		return nil, err
	}
	if int(sound) != len(ids) {
		return nil, fmt.Errorf("of %d condemned classes %d are not as they were counted: %w", len(ids), len(ids)-int(sound), lifecycle.ErrMoved)
	}
	if _, err := tx.exec(ctx, `UPDATE lotkeeper.classes SET state = 'executing' WHERE class_id = ANY($1) AND state = 'condemned'`, ids); err != nil {
		return nil, err
	}
	_, err = tx.appendLeaf(ctx, leaf.With("classes", ids))
	return out, err
}

func (s *Store) Destroyed(ctx context.Context, l lifecycle.Lease, classes []string, at time.Time, epoch uint64, leaf lifecycle.Leaf) error {
	err := s.fenced(ctx, exclusive, l, func(ctx context.Context, tx *txn) error {
		early, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM unnest($1::text[]) w(class_id) LEFT JOIN lotkeeper.classes c USING (class_id)
			WHERE coalesce(c.state, '') NOT IN ('executing', 'destroyed')`, classes)
		if err != nil {
			return err
		}
		if early > 0 {
			return fmt.Errorf("%d of them are not executing: %w", early, lifecycle.ErrMoved)
		}
		n, err := tx.exec(ctx, `UPDATE lotkeeper.classes SET state = 'destroyed', destroyed_at = $1, epoch = $2
			WHERE class_id = ANY($3) AND state = 'executing'`, stamp(at), int64(epoch), classes)
		if err != nil || n == 0 {
			return err // recorded before, and the acknowledgement got lost
		}
		if err := logEpoch(ctx, tx, epoch); err != nil {
			return err
		}
		_, err = tx.appendLeaf(ctx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record the destruction of %d classes: %w", len(classes), err)
	}
	return nil
}

// DropCiphertext drops the partition of a month that is over as a whole: all of
// its classes destroyed, and no DEK left among its payloads. That takes next to
// nothing, where deleting them was a tenth of a sweep. In a month that is not, it
// deletes row by row, by lists of numbers: there may be payloads of held records
// in it for years. Once nothing is left to delete, the months that are empty by
// then are dropped.
func (s *Store) DropCiphertext(ctx context.Context, l lifecycle.Lease, limit int, leaf lifecycle.Leaf) (int, error) {
	// The first month that has anything to drop. A month that is not whole is
	// begun below, row by row, and not looked at as a whole again; so is one with
	// records whose payloads are in another's partition.
	n, err := s.dropMonths(ctx, l, leaf, `SELECT month FROM lotkeeper.classes WHERE kind = 'hot' AND month =
			(SELECT min(month) FROM lotkeeper.classes WHERE kind = 'hot' AND state = 'destroyed' AND NOT dropped)
		GROUP BY month HAVING bool_and(state = 'destroyed' AND NOT dropped AND dropped_to = 0
			AND NOT EXISTS (SELECT FROM lotkeeper.reschedules m WHERE m.class_to = class_no AND m.class_to <> m.class_from))`)
	if err == nil && n == 0 {
		n, err = s.dropPayloads(ctx, l, limit, leaf)
	}
	if err == nil && n == 0 {
		_, err = s.dropMonths(ctx, l, leaf, `SELECT month FROM lotkeeper.classes WHERE kind = 'hot' GROUP BY month HAVING bool_and(dropped)`)
	}
	if err != nil {
		return 0, fmt.Errorf("couldn't drop ciphertext of destroyed classes: %w", err)
	}
	return n, nil
}

func (s *Store) dropPayloads(ctx context.Context, l lifecycle.Lease, limit int, leaf lifecycle.Leaf) (int, error) {
	type place struct{ no, to int64 }
	n := 0
	err := s.fenced(ctx, shared, l, func(ctx context.Context, tx *txn) error {
		n = 0
		for n < limit {
			class, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int()} },
				`SELECT class_no, dropped_to FROM lotkeeper.classes WHERE state = 'destroyed' AND NOT dropped ORDER BY kind DESC, month, class_no LIMIT 1`)
			if errors.Is(err, pgx.ErrNoRows) {
				break
			}
			if err != nil {
				return err
			}
			// From where the last call stopped: a class may have more members
			// than one call drops, and those it has done must not be walked
			// again and again.
			months := map[int64][]int64{}
			last := int64(0)
			if err := each(ctx, tx, func(c *columns) {
				last = c.int()
				month := c.int()
				months[month] = append(months[month], last)
			}, `SELECT seq, month FROM lotkeeper.records WHERE class_no = $1 AND archive_leaf <> 0 AND seq > $2 ORDER BY seq LIMIT $3`, class.no, class.to, limit-n); err != nil {
				return err
			}
			if last == 0 {
				if _, err := tx.exec(ctx, `UPDATE lotkeeper.classes SET dropped = true WHERE class_no = $1`, class.no); err != nil {
					return err
				}
				continue
			}
			for month, seqs := range months {
				gone, err := tx.exec(ctx, `DELETE FROM lotkeeper.payloads WHERE month = $1 AND seq = ANY($2)`, month, seqs)
				if err != nil {
					return err
				}
				n += int(gone)
			}
			if _, err := tx.exec(ctx, `UPDATE lotkeeper.classes SET dropped_to = $1 WHERE class_no = $2`, last, class.no); err != nil {
				return err
			}
		}
		if n == 0 {
			return nil
		}
		_, err := tx.appendLeaf(ctx, leaf.With("records", n))
		return err
	})
	return n, err
}

// dropMonths drops those of the months whose payloads nobody can read and that
// nothing more will arrive in, and returns how many payloads went with them.
//
// No class of such a month is open, and none is opened while this has the lock
// shared, so nothing is merged into it between the look for DEKs, which takes its
// time, and the drop. Whoever reads, an export perhaps, is in the way of the
// drop, and whoever wants to read or write then would have to wait as well: so it
// waits for a moment only, and leaves the month as it is.
func (s *Store) dropMonths(ctx context.Context, l lifecycle.Lease, leaf lifecycle.Leaf, which string) (int, error) {
	months, err := all(ctx, s.pool, (*columns).int, `SELECT month FROM (`+which+`) m WHERE to_regclass('lotkeeper.payloads_' || lpad(month::text, 6, '0')) IS NOT NULL ORDER BY month`)
	if err != nil {
		return 0, err
	}
	dropped := 0
	for _, month := range months {
		n := int64(0)
		err := s.attempt(ctx, shared, s.withLease(l, func(ctx context.Context, tx *txn) error {
			if _, err := tx.exec(ctx, inQueue); err != nil {
				return err
			}
			n, err = one(ctx, tx, (*columns).int, `SELECT coalesce(lotkeeper.drop_month($1), 0)`, month)
			if err != nil || n == 0 {
				return err
			}
			_, err = tx.appendLeaf(ctx, leaf.With("records", n))
			return err
		}))
		switch {
		case err == nil:
			dropped += int(n)
		case !inTheWay(err):
			return dropped, err
		}
	}
	return dropped, nil
}

func (s *Store) Append(ctx context.Context, leaf lifecycle.Leaf) error {
	mode := shared
	if leaf.Decides() {
		mode = exclusive
	}
	return s.write(ctx, mode, func(ctx context.Context, tx *txn) error {
		_, err := tx.appendLeaf(ctx, leaf)
		return err
	})
}

func (s *Store) AcceptClock(ctx context.Context, leaf lifecycle.Leaf) error {
	return s.write(ctx, exclusive, func(ctx context.Context, tx *txn) error {
		if _, err := tx.exec(ctx, `UPDATE lotkeeper.meta SET trusted_time = $1`, stamp(leaf.At)); err != nil {
			return err
		}
		_, err := tx.appendLeaf(ctx, leaf)
		return err
	})
}

func (s *Store) AcceptKeyring(ctx context.Context, epoch uint64, leaf lifecycle.Leaf) error {
	return s.write(ctx, exclusive, func(ctx context.Context, tx *txn) error {
		if _, err := tx.exec(ctx, `UPDATE lotkeeper.meta SET epoch = $1`, int64(epoch)); err != nil {
			return err
		}
		_, err := tx.appendLeaf(ctx, leaf)
		return err
	})
}
