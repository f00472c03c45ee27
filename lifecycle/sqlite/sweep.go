package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/shred"
)

func (s *Store) BeginRun(ctx context.Context, r lifecycle.Run, leaf lifecycle.Leaf) (lifecycle.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.leases[r.Kind]; ok {
		if h.RunID == r.ID {
			return h.Lease, nil // begun before, and the acknowledgement got lost
		}
		return lifecycle.Lease{}, fmt.Errorf("another %s is running in this process: %w", r.Kind, lifecycle.ErrLocked)
	}
	lock, err := s.gate.lease(ctx, r.Kind)
	if err != nil {
		return lifecycle.Lease{}, err
	}
	lease := lifecycle.Lease{RunID: r.ID}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// We have the lock, so whoever left these running is gone.
		rows, err := tx.QueryContext(ctx, `SELECT run_id FROM runs WHERE kind = ? AND status = 'running'`, r.Kind)
		if err != nil {
			return err
		}
		dead, err := collect(rows, scanOne[string])
		if err != nil {
			return err
		}
		for _, id := range dead {
			if _, err := tx.ExecContext(ctx, `UPDATE runs SET status = 'interrupted' WHERE run_id = ?`, id); err != nil {
				return err
			}
			gone := leaf
			gone.Action, gone.RunID, gone.Subject, gone.Body = lifecycle.ActionRunInterrupted, id, id, nil
			if _, err := appendLeaf(ctx, tx, gone); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO leases (kind, fence) SELECT ?1, 0 WHERE NOT EXISTS (SELECT 1 FROM leases WHERE kind = ?1)`, r.Kind); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `UPDATE leases SET fence = fence + 1 WHERE kind = ? RETURNING fence`, r.Kind).Scan(&lease.Fence); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO runs (run_id, kind, actor, started_at, status) VALUES (?, ?, ?, ?, 'running')`,
			r.ID, r.Kind, r.Actor, stamp(r.StartedAt)); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
	if err != nil {
		lock.Close()
		return lifecycle.Lease{}, fmt.Errorf("couldn't begin %s %s: %w", r.Kind, r.ID, err)
	}
	s.leases[r.Kind] = held{lease, lock}
	return lease, nil
}

func (s *Store) FinishRun(ctx context.Context, r lifecycle.Run, leaf lifecycle.Leaf) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE runs SET finished_at = ?, status = ?, result = ? WHERE run_id = ? AND status = 'running'`,
			stamp(r.FinishedAt), r.Status, string(r.Result), r.ID)
		if err := moved(res, err, "run "+r.ID); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
	// Whether or not that was recorded, this process is done: the next run
	// will find it running without a lock, and mark it interrupted.
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.leases[r.Kind]; ok && h.RunID == r.ID {
		h.lock.Close()
		delete(s.leases, r.Kind)
	}
	if err != nil {
		return fmt.Errorf("couldn't record the end of %s %s: %w", r.Kind, r.ID, err)
	}
	return nil
}

func (s *Store) DueClasses(ctx context.Context, now time.Time) ([]string, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT class_id FROM classes c WHERE kind = 'archive' AND EXISTS (
		SELECT 1 FROM records r WHERE r.archive_class_no = c.class_no AND r.state = 'active' AND r.due_at <= ?) ORDER BY period_start, generation`, stamp(now))
	if err != nil {
		return nil, fmt.Errorf("couldn't look for due records: %w", err)
	}
	return collect(rows, scanOne[string])
}

const due = ` r.archive_class_no = (SELECT class_no FROM classes WHERE class_id = ?) AND r.state = 'active'
	AND r.due_at <= ? AND (r.due_at, r.seq) > (?, ?) ORDER BY r.due_at, r.seq LIMIT ?`

func (s *Store) DueRows(ctx context.Context, archiveClass string, now time.Time, after lifecycle.Cursor, limit int) ([]lifecycle.Row, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+rowColumns+` FROM `+rowTables+` WHERE`+due,
		archiveClass, stamp(now), stamp(after.DueAt), after.Seq, limit)
	if err != nil {
		return nil, fmt.Errorf("couldn't read due records of %s: %w", archiveClass, err)
	}
	return collect(rows, func(rows *sql.Rows) (lifecycle.Row, error) { return scanRow(rows) })
}

func (s *Store) DuePage(ctx context.Context, archiveClass string, now time.Time, after lifecycle.Cursor, limit int, maxBytes int64) ([]lifecycle.Sealed, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+rowColumns+`, p.sealed, d.wrapped FROM `+rowTables+sealedTables+` WHERE`+due,
		archiveClass, stamp(now), stamp(after.DueAt), after.Seq, limit)
	if err != nil {
		return nil, fmt.Errorf("couldn't read due records of %s: %w", archiveClass, err)
	}
	out, err := within(rows, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("couldn't read due records of %s: %w", archiveClass, err)
	}
	return out, nil
}

// within reads sealed records until there are so many bytes of payload: at least one,
// and the one that passes the bound.
func within(rows *sql.Rows, maxBytes int64) ([]lifecycle.Sealed, error) {
	defer rows.Close()
	var out []lifecycle.Sealed
	bytes := int64(0)
	for (len(out) == 0 || bytes < maxBytes) && rows.Next() {
		r, err := scanSealed(rows)
		if err != nil {
			return nil, err
		}
		bytes += int64(len(r.Payload))
		out = append(out, r)
	}
	return out, rows.Err()
}

func (s *Store) Checksums(ctx context.Context, ids []string) (map[string][32]byte, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT record_id, checksum FROM records WHERE state = 'active' AND record_id IN (SELECT value FROM json_each(?))`, list(ids))
	if err != nil {
		return nil, fmt.Errorf("couldn't read back %d checksums: %w", len(ids), err)
	}
	defer rows.Close()
	out := make(map[string][32]byte, len(ids))
	for rows.Next() {
		var id string
		var c [32]byte
		if err := rows.Scan(&id, sum(&c)); err != nil {
			return nil, fmt.Errorf("couldn't read back a checksum: %w", err)
		}
		out[id] = c
	}
	return out, rows.Err()
}

func (s *Store) StageSegment(ctx context.Context, l lifecycle.Lease, g lifecycle.Segment, leaf lifecycle.Leaf) error {
	return s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		class, err := openClass(ctx, tx, g.Class)
		if err != nil {
			return fmt.Errorf("couldn't stage segment %s: %w", g.ID, err)
		}
		if err := insertSegment(ctx, tx, class, g); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
}

func insertSegment(ctx context.Context, tx *sql.Tx, class int64, g lifecycle.Segment) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO segments (segment_id, class_no, run_id, records, object_key, object_size, object_sha256,
			plaintext_sha256, merkle_root, manifest_key, manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		g.ID, class, g.RunID, g.Records, g.ObjectKey, g.ObjectSize, g.ObjectSHA256[:],
		g.PlaintextSHA256[:], g.Root[:], g.ManifestKey, g.ManifestSize, g.ManifestSHA256[:], g.WrappedIdentity, stamp(g.RetainUntil), stamp(g.CreatedAt))
	if err != nil {
		return fmt.Errorf("couldn't stage segment %s: %w", g.ID, err)
	}
	return nil
}

// openClass finds an open class's number. ErrMoved.
func openClass(ctx context.Context, tx *sql.Tx, id string) (no int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT class_no FROM classes WHERE class_id = ? AND state = 'open'`, id).Scan(&no)
	if err == sql.ErrNoRows {
		err = fmt.Errorf("class %s is not open: %w", id, lifecycle.ErrMoved)
	}
	return no, err
}

// moveSegment is the compare-and-swap of a segment's state, with its leaf.
func moveSegment(ctx context.Context, tx *sql.Tx, id string, from, to lifecycle.SegmentState, leaf lifecycle.Leaf) error {
	res, err := tx.ExecContext(ctx, `UPDATE segments SET state = ? WHERE segment_id = ? AND state = ?`, to, id, from)
	if err := moved(res, err, fmt.Sprintf("segment %s is not %s", id, from)); err != nil {
		return err
	}
	_, err = appendLeaf(ctx, tx, leaf)
	return err
}

func (s *Store) VerifySegment(ctx context.Context, l lifecycle.Lease, id string, copies []lifecycle.Copy, leaf lifecycle.Leaf) error {
	return s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		if err := moveSegment(ctx, tx, id, lifecycle.Staged, lifecycle.Verified, leaf); err != nil {
			return err
		}
		names := make([]string, len(copies))
		for i, c := range copies {
			names[i] = c.Vault
		}
		// A vault may have become active since the copies were put.
		var lack string
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(min(name), '') FROM vaults WHERE state = 'active'
			AND name NOT IN (SELECT value FROM json_each(?))`, list(names)).Scan(&lack); err != nil {
			return err
		}
		if lack != "" {
			return fmt.Errorf("segment %s has no copy in vault %s: %w", id, lack, lifecycle.ErrMoved)
		}
		for _, c := range copies {
			if _, err := tx.ExecContext(ctx, `INSERT INTO segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at)
				VALUES ((SELECT segment_no FROM segments WHERE segment_id = ?), ?, ?, ?, ?, ?)`,
				id, c.Vault, c.ObjectVersion, c.ManifestVersion, stamp(c.RetainUntil), stamp(c.VerifiedAt)); err != nil {
				return fmt.Errorf("couldn't record the copy of segment %s in vault %s: %w", id, c.Vault, err)
			}
		}
		return nil
	})
}

func (s *Store) AbandonSegment(ctx context.Context, l lifecycle.Lease, id string, leaf lifecycle.Leaf) error {
	return s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		return moveSegment(ctx, tx, id, lifecycle.Staged, lifecycle.Abandoned, leaf)
	})
}

func (s *Store) SettleSegment(ctx context.Context, l lifecycle.Lease, id string, leaf lifecycle.Leaf) error {
	return s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		return moveSegment(ctx, tx, id, lifecycle.Verified, lifecycle.Settled, leaf)
	})
}

func (s *Store) SoftDelete(ctx context.Context, l lifecycle.Lease, segment string, now time.Time, members []lifecycle.Member, leaf lifecycle.Leaf) (done lifecycle.SoftDeleted, err error) {
	pairs := make([][2]string, len(members))
	for i, m := range members {
		pairs[i] = [2]string{m.RecordID, hex.EncodeToString(m.Checksum[:])}
	}
	want, err := json.Marshal(pairs)
	if err != nil {
		return done, err
	}
	fenced := func(fn func(context.Context, *sql.Tx) error) error { return s.fenced(ctx, l, fn) }
	err = s.traced(ctx, fenced, timed(&done.Locked, func(ctx context.Context, tx *sql.Tx) error {
		done.Records = 0
		var segmentNo, classNo int64
		if err := tx.QueryRowContext(ctx, `SELECT segment_no, class_no FROM segments WHERE segment_id = ? AND state = 'verified' AND purge_leaf = 0`, segment).Scan(&segmentNo, &classNo); err != nil {
			if err == sql.ErrNoRows {
				err = lifecycle.ErrMoved
			}
			return fmt.Errorf("segment %s is not verified: %w", segment, err)
		}
		// The check, from base rows, in a statement after the lock. What it
		// lets through is an explicit list of rows: nothing that arrives or is
		// held meanwhile can slip into the statements below. The plus keeps the planner
		// from looking for each record among all of the class.
		rows, err := tx.QueryContext(ctx, `SELECT r.seq, r.checksum FROM json_each(?) j JOIN records r ON r.record_id = j.value ->> 0
			WHERE r.state = 'active' AND r.due_at <= ? AND +r.archive_class_no = ? AND lower(hex(r.checksum)) = j.value ->> 1 AND NOT `+heldRecord+` ORDER BY r.due_at, r.seq`,
			string(want), stamp(now), classNo)
		if err != nil {
			return err
		}
		var seqs []int64
		archived, err := collect(rows, func(rows *sql.Rows) (c [32]byte, err error) {
			var seq int64
			err = rows.Scan(&seq, sum(&c))
			seqs = append(seqs, seq)
			return c, err
		})
		if err != nil {
			return err
		}
		if len(seqs) == 0 {
			return nil
		}
		ids := list(seqs)
		var kept []string
		if len(seqs) < len(members) {
			rows, err := tx.QueryContext(ctx, `SELECT r.record_id FROM records r WHERE r.record_id IN (SELECT j.value ->> 0 FROM json_each(?) j)
				AND r.state = 'active' AND r.seq NOT IN (SELECT value FROM json_each(?)) ORDER BY r.seq`, string(want), ids)
			if err != nil {
				return err
			}
			if kept, err = collect(rows, scanOne[string]); err != nil {
				return err
			}
		}
		leafID, err := appendLeaf(ctx, tx, leaf.Archived(archived, kept))
		if err != nil {
			return err
		}
		if err := markArchived(ctx, tx, segmentNo, leafID, seqs); err != nil {
			return err
		}
		if err := exactly(len(seqs))(tx.ExecContext(ctx, `DELETE FROM deks WHERE seq IN (SELECT value FROM json_each(?))`, ids)); err != nil {
			return fmt.Errorf("couldn't drop DEKs: %w", err)
		}
		done.Records = len(seqs)
		return nil
	}))
	if err != nil {
		return lifecycle.SoftDeleted{}, fmt.Errorf("couldn't soft-delete the records of segment %s: %w", segment, err)
	}
	return done, nil
}

// timed measures fn by the machine's clock. What the commit takes comes on top.
func timed(took *time.Duration, fn func(context.Context, *sql.Tx) error) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, tx *sql.Tx) error {
		const clock = `SELECT unixepoch('subsec')`
		var before, after float64
		if err := tx.QueryRowContext(ctx, clock).Scan(&before); err != nil {
			return err
		}
		if err := fn(ctx, tx); err != nil {
			return err
		}
		err := tx.QueryRowContext(ctx, clock).Scan(&after)
		*took = time.Duration((after - before) * float64(time.Second))
		return err
	}
}

func markArchived(ctx context.Context, tx *sql.Tx, segmentNo, leafID int64, seqs []int64) error {
	if err := exactly(len(seqs))(tx.ExecContext(ctx, `UPDATE records SET state = 'archived', segment_no = ?, archive_leaf = ?
		WHERE seq IN (SELECT value FROM json_each(?)) AND state = 'active'`, segmentNo, leafID, list(seqs))); err != nil {
		return fmt.Errorf("couldn't mark records archived: %w", err)
	}
	return nil
}

// exactly refuses a statement that changed another number of rows than it was
// meant to: the transaction is given up rather than explained.
func exactly(want int) func(sql.Result, error) error {
	return func(res sql.Result, err error) error {
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n != int64(want) {
			err = fmt.Errorf("changed %d rows instead of %d", n, want)
		}
		return err
	}
}

func (s *Store) DyingClasses(ctx context.Context, now time.Time) ([]lifecycle.Class, error) {
	return s.dying(ctx, `kind IN ('hot', 'deferral')`, now)
}

func (s *Store) dying(ctx context.Context, kinds string, now time.Time) ([]lifecycle.Class, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+classColumns+` FROM classes
		WHERE `+kinds+` AND closes_at <= ? AND state <> 'destroyed' ORDER BY closes_at, class_no`, stamp(now))
	if err != nil {
		return nil, fmt.Errorf("couldn't look for classes that are over: %w", err)
	}
	return collect(rows, func(rows *sql.Rows) (lifecycle.Class, error) { return scanClass(rows) })
}

func (s *Store) ClassDEKs(ctx context.Context, class string, afterSeq int64, limit int) ([]lifecycle.DEK, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+rowColumns+`, d.wrapped FROM `+rowTables+` JOIN deks d ON d.seq = r.seq
		WHERE d.class_no = (SELECT class_no FROM classes WHERE class_id = ?) AND d.seq > ? ORDER BY d.seq LIMIT ?`, class, afterSeq, limit)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the DEKs of class %s: %w", class, err)
	}
	return collect(rows, func(rows *sql.Rows) (d lifecycle.DEK, err error) {
		d.Row, err = scanRow(rows, &d.Wrapped)
		return d, err
	})
}

func (s *Store) Reseal(ctx context.Context, l lifecycle.Lease, from, to string, deks map[int64][]byte, leaf lifecycle.Leaf) (int, error) {
	n := 0
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		n = 0
		toNo, err := openClass(ctx, tx, to)
		if err != nil {
			return err
		}
		move, err := tx.PrepareContext(ctx, `UPDATE deks SET class_no = ?, wrapped = ?
			WHERE seq = ? AND class_no = (SELECT class_no FROM classes WHERE class_id = ?)`)
		if err != nil {
			return err
		}
		defer move.Close()
		var seqs []int64
		for _, seq := range slices.Sorted(maps.Keys(deks)) {
			res, err := move.ExecContext(ctx, toNo, deks[seq], seq, from)
			if err != nil {
				return err
			}
			if moved, err := res.RowsAffected(); err != nil {
				return err
			} else if moved == 1 {
				seqs = append(seqs, seq)
			}
		}
		if len(seqs) == 0 {
			return nil
		}
		ids := list(seqs)
		if err := exactly(len(seqs))(tx.ExecContext(ctx, `UPDATE records SET class_no = ? WHERE seq IN (SELECT value FROM json_each(?))`, toNo, ids)); err != nil {
			return err
		}
		leafID, err := appendLeaf(ctx, tx, leaf.With("records", len(seqs)))
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO reseals (seq, leaf_id) SELECT value, ? FROM json_each(?)`, leafID, ids); err != nil {
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
const unneeded = `NOT EXISTS (SELECT 1 FROM deks d WHERE d.class_no = c.class_no)
	AND NOT EXISTS (SELECT 1 FROM records r WHERE r.class_no = c.class_no AND r.state = 'active')
	AND NOT EXISTS (SELECT 1 FROM records r WHERE r.archive_class_no = c.class_no AND r.state = 'active')`

func (s *Store) Condemn(ctx context.Context, l lifecycle.Lease, now time.Time, classes []string, leaf lifecycle.Leaf) ([]string, error) {
	var ids []string
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		// By the class, whatever ANALYZE has seen of the segments: this is under the gate.
		rows, err := tx.QueryContext(ctx, `SELECT class_id FROM classes c
			WHERE class_id IN (SELECT value FROM json_each(?)) AND state = 'open' AND closes_at <= ?
			  AND `+unneeded+`
			  AND NOT EXISTS (SELECT 1 FROM segments g INDEXED BY segments_class WHERE g.class_no = c.class_no AND g.state = 'staged')
			  AND NOT EXISTS (SELECT 1 FROM segments g INDEXED BY segments_class CROSS JOIN records r ON r.segment_no = g.segment_no
			      WHERE g.class_no = c.class_no AND r.state = 'archived' AND r.purge_not_before > ?)
			ORDER BY class_no`, list(classes), stamp(now), stamp(now))
		if err != nil {
			return err
		}
		if ids, err = collect(rows, scanOne[string]); err != nil || len(ids) == 0 {
			return err
		}
		leafID, err := appendLeaf(ctx, tx, leaf.With("classes", ids))
		if err != nil {
			return err
		}
		return exactly(len(ids))(tx.ExecContext(ctx, `UPDATE classes SET state = 'condemned', intent_leaf = ?
			WHERE class_id IN (SELECT value FROM json_each(?)) AND state = 'open'`, leafID, list(ids)))
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't condemn %d classes: %w", len(classes), err)
	}
	return ids, nil
}

// evidence is what speaks for the destruction of classes, and against it. Unverified
// counts every member that does not have its copy elsewhere: one that is active but
// says this class, and one that is archived in a segment which is not verified. It
// looks at the records, DEKs at the DEKs: two witnesses. An archive class is needed by
// the active records that are to come into it, and Early are those that are in it before
// their time.
func evidence(ctx context.Context, q querier, now time.Time, classes []string) ([]shred.Evidence, error) {
	rows, err := q.QueryContext(ctx, `SELECT class_id, closes_at, intent_leaf,
			(SELECT count(*) FROM deks d WHERE d.class_no = c.class_no) + (SELECT count(*) FROM records r WHERE r.archive_class_no = c.class_no AND r.state = 'active'),
			(SELECT count(*) FROM records r WHERE r.class_no = c.class_no AND r.state = 'active')
			+ (SELECT count(*) FROM records r LEFT JOIN segments g ON g.segment_no = r.segment_no
			    WHERE r.class_no = c.class_no AND r.state = 'archived' AND coalesce(g.state, '') NOT IN ('verified', 'settled')),
			(SELECT count(*) FROM segments g CROSS JOIN records r ON r.segment_no = g.segment_no WHERE g.class_no = c.class_no AND r.state = 'archived' AND r.purge_not_before > ?)
		FROM classes c WHERE class_id IN (SELECT value FROM json_each(?)) AND state IN ('condemned', 'executing') ORDER BY class_no`, stamp(now), list(classes))
	if err != nil {
		return nil, err
	}
	return collect(rows, func(rows *sql.Rows) (shred.Evidence, error) {
		e := shred.Evidence{Now: now}
		err := rows.Scan(&e.Class, at(&e.ClosesAt), &e.IntentLeaf, &e.DEKs, &e.Unverified, &e.Early)
		return e, err
	})
}

// pin marks those of the classes that have a member under an open hold, one whose hot
// copy was in it or whose archived one is, by scopes and lots that are newer than the mark. It goes from the holds to the records, by their
// indexes; only scopes that name neither a record nor a lot are compared with each
// member, until the first that one covers.
func pin(ctx context.Context, q querier, classes []string, since holdsMark, pinned map[string]bool) error {
	const ofOpenHold = ` CROSS JOIN holds h ON h.hold_no = s.hold_no AND h.released_at = '' `
	const member = ` CROSS JOIN classes c ON c.class_no IN (r.class_no, r.archive_class_no) WHERE r.state <> 'purged' AND c.class_id IN (SELECT value FROM json_each(?1)) AND `
	rows, err := q.QueryContext(ctx, `
		SELECT c.class_id FROM hold_scopes s`+ofOpenHold+`CROSS JOIN records r ON r.record_id = s.record_id`+member+`s.scope_no > ?2 AND `+covers+`
		UNION SELECT c.class_id FROM hold_scopes s`+ofOpenHold+`CROSS JOIN records r ON r.tlc = s.tlc AND s.record_id IS NULL`+member+`s.scope_no > ?2 AND `+covers+`
		UNION SELECT c.class_id FROM hold_lots l CROSS JOIN hold_scopes s ON s.scope_no = l.scope_no`+ofOpenHold+`
			CROSS JOIN records r ON r.tlc = l.tlc AND (l.tlc_source = '' OR r.tlc_source = '' OR l.tlc_source = r.tlc_source)`+member+`l.lot_no > ?3
		UNION SELECT c.class_id FROM hold_scopes s INDEXED BY hold_scopes_general`+ofOpenHold+`CROSS JOIN classes c
			WHERE s.record_id IS NULL AND s.tlc IS NULL AND s.scope_no > ?2 AND c.class_id IN (SELECT value FROM json_each(?1))
			  AND (EXISTS (SELECT 1 FROM records r WHERE r.class_no = c.class_no AND r.state <> 'purged' AND `+covers+`)
			    OR EXISTS (SELECT 1 FROM segments g CROSS JOIN records r ON r.segment_no = g.segment_no WHERE g.class_no = c.class_no AND r.state = 'archived' AND `+covers+`))`,
		list(classes), since.scope, since.lot)
	if err != nil {
		return fmt.Errorf("couldn't look for holds on the members of %d classes: %w", len(classes), err)
	}
	ids, err := collect(rows, scanOne[string])
	for _, id := range ids {
		pinned[id] = true
	}
	return err
}

func (s *Store) Execute(ctx context.Context, l lifecycle.Lease, now time.Time, classes []string, leaf lifecycle.Leaf) ([]shred.Evidence, error) {
	var all, out []shred.Evidence
	fenced := func(fn func(context.Context, *sql.Tx) error) error { return s.fenced(ctx, l, fn) }
	pinned := map[string]bool{}
	// The members of a condemned class do not change, so what was found before the
	// lock is true under it if the holds are the same.
	err := s.decide(ctx, fenced, func(ctx context.Context, q querier, seen holdsMark) (err error) {
		if all == nil {
			if all, err = evidence(ctx, q, now, classes); err != nil {
				return err
			}
		}
		return pin(ctx, q, classes, seen, pinned)
	}, func(ctx context.Context, tx *sql.Tx) error {
		out = nil
		var ids []string
		for _, e := range all {
			if e.DEKs == 0 && e.Unverified == 0 && e.Early == 0 && !pinned[e.Class] && !e.ClosesAt.After(now) && e.IntentLeaf > 0 {
				ids = append(ids, e.Class)
			}
		}
		rows, err := tx.QueryContext(ctx, `SELECT class_id FROM classes c
			WHERE class_id IN (SELECT value FROM json_each(?)) AND state IN ('condemned', 'executing')
			  AND `+unneeded+`
			ORDER BY class_no`, list(ids))
		if err != nil {
			return err
		}
		if ids, err = collect(rows, scanOne[string]); err != nil || len(ids) == 0 {
			return err
		}
		for _, e := range all {
			if slices.Contains(ids, e.Class) {
				out = append(out, e)
			}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE classes SET state = 'executing' WHERE class_id IN (SELECT value FROM json_each(?)) AND state = 'condemned'`, list(ids)); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf.With("classes", ids))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't execute %d classes: %w", len(classes), err)
	}
	return out, nil
}

func (s *Store) Destroyed(ctx context.Context, l lifecycle.Lease, classes []string, at time.Time, epoch uint64, leaf lifecycle.Leaf) error {
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		var early int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM json_each(?) j LEFT JOIN classes c ON c.class_id = j.value
			WHERE coalesce(c.state, '') NOT IN ('executing', 'destroyed')`, list(classes)).Scan(&early); err != nil {
			return err
		}
		if early > 0 {
			return fmt.Errorf("%d of them are not executing: %w", early, lifecycle.ErrMoved)
		}
		res, err := tx.ExecContext(ctx, `UPDATE classes SET state = 'destroyed', destroyed_at = ?, epoch = ?
			WHERE class_id IN (SELECT value FROM json_each(?)) AND state = 'executing'`, stamp(at), int64(epoch), list(classes))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err // recorded before, and the acknowledgement got lost
		}
		if err := logEpoch(ctx, tx, epoch); err != nil {
			return err
		}
		_, err = appendLeaf(ctx, tx, leaf)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't record the destruction of %d classes: %w", len(classes), err)
	}
	return nil
}

func (s *Store) DropCiphertext(ctx context.Context, l lifecycle.Lease, limit int, leaf lifecycle.Leaf) (int, error) {
	n := 0
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		n = 0
		for n < limit {
			var class, to int64
			err := tx.QueryRowContext(ctx, `SELECT class_no, dropped_to FROM classes WHERE state = 'destroyed' AND NOT dropped LIMIT 1`).Scan(&class, &to)
			if err == sql.ErrNoRows {
				break
			}
			if err != nil {
				return err
			}
			// From where the last call stopped: a class may have more members
			// than one call drops, and the gaps it leaves must not be walked
			// again and again.
			rows, err := tx.QueryContext(ctx, `SELECT p.seq FROM records r JOIN payloads p ON p.seq = r.seq
				WHERE r.class_no = ? AND r.state <> 'active' AND r.seq > ? ORDER BY r.seq LIMIT ?`, class, to, limit-n)
			if err != nil {
				return err
			}
			seqs, err := collect(rows, scanOne[int64])
			if err != nil {
				return err
			}
			if len(seqs) == 0 {
				if _, err := tx.ExecContext(ctx, `UPDATE classes SET dropped = 1 WHERE class_no = ?`, class); err != nil {
					return err
				}
				continue
			}
			if err := exactly(len(seqs))(tx.ExecContext(ctx, `DELETE FROM payloads WHERE seq IN (SELECT value FROM json_each(?))`, list(seqs))); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE classes SET dropped_to = ? WHERE class_no = ?`, seqs[len(seqs)-1], class); err != nil {
				return err
			}
			n += len(seqs)
		}
		if n == 0 {
			return nil
		}
		_, err := appendLeaf(ctx, tx, leaf.With("records", n))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't drop ciphertext of destroyed classes: %w", err)
	}
	return n, nil
}

func (s *Store) Append(ctx context.Context, leaf lifecycle.Leaf) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := appendLeaf(ctx, tx, leaf)
		return err
	})
}

func (s *Store) AcceptClock(ctx context.Context, leaf lifecycle.Leaf) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE meta SET trusted_time = ?`, stamp(leaf.At)); err != nil {
			return err
		}
		_, err := appendLeaf(ctx, tx, leaf)
		return err
	})
}

func (s *Store) AcceptKeyring(ctx context.Context, epoch uint64, leaf lifecycle.Leaf) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE meta SET epoch = ?`, int64(epoch)); err != nil {
			return err
		}
		_, err := appendLeaf(ctx, tx, leaf)
		return err
	})
}
