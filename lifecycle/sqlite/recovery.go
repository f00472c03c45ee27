package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// recovering lets fn pass the guards that a recovery has to pass. Whoever leaves its
// mark behind cannot commit.
func recovering(ctx context.Context, tx *sql.Tx, fn func() error) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO recovering VALUES (1)`); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM recovering WHERE one = 1`)
	return err
}

func (s *Store) Rebase(ctx context.Context, l lifecycle.Lease, size int64) error {
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error {
		return recovering(ctx, tx, func() error {
			for _, q := range []struct {
				sql string
				arg int64
			}{
				{`INSERT INTO log_pending SELECT e.leaf_id FROM log_entries e JOIN leaves l ON l.leaf_id = e.leaf_id WHERE e.log_index >= ? ORDER BY e.leaf_id`, size},
				{`DELETE FROM log_entries WHERE log_index >= ?`, size},
				{`DELETE FROM log_hashes WHERE n >= ?`, tlog.StoredHashCount(size)},
				{`UPDATE log_published SET size = ?1 WHERE size > ?1`, size},
			} {
				if _, err := tx.ExecContext(ctx, q.sql, q.arg); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("couldn't take the log back to %d entries: %w", size, err)
	}
	return nil
}

func (s *Store) Replay(ctx context.Context, l lifecycle.Lease, index int64, leaf lifecycle.Leaf, e lifecycle.Effect) error {
	err := s.fenced(ctx, l, func(ctx context.Context, tx *sql.Tx) error { return replay(ctx, tx, index, leaf, e) })
	if err != nil {
		return fmt.Errorf("couldn't replay entry %d of the log: %w", index, err)
	}
	return nil
}

func replay(ctx context.Context, tx *sql.Tx, index int64, leaf lifecycle.Leaf, e lifecycle.Effect) error {
	hash, err := leaf.LogHash()
	if err != nil {
		return err
	}
	var size int64
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(log_index) + 1, 0) FROM log_entries`).Scan(&size); err != nil {
		return err
	}
	if size > index {
		have, err := logHashes(ctx, tx, []int64{tlog.StoredHashIndex(0, index)})
		if err == nil && have[0] != hash {
			err = fmt.Errorf("there is another: %w", lifecycle.ErrMoved)
		}
		return err
	}
	if size < index {
		return fmt.Errorf("the log has %d entries: %w", size, lifecycle.ErrMoved)
	}
	// It may be there already, with all that it tells of: written before the backup, or
	// given another place in another database's log.
	var id int64
	err = tx.QueryRowContext(ctx, `SELECT l.leaf_id FROM log_pending p JOIN leaves l ON l.leaf_id = p.leaf_id
		WHERE l.at = ? AND l.action = ? AND l.actor = ? AND l.run_id = ? AND l.subject = ? AND l.software = ? AND l.role = ? AND l.body = ? ORDER BY l.leaf_id LIMIT 1`,
		stamp(leaf.At), leaf.Action, leaf.Actor, leaf.RunID, leaf.Subject, leaf.Software, leaf.Role, bodyOf(leaf)).Scan(&id)
	if err == sql.ErrNoRows {
		if id, err = writeLeaf(ctx, tx, leaf); err == nil && e != nil {
			err = take(ctx, tx, id, leaf, e)
		}
	}
	if err != nil {
		return err
	}
	return growLog(ctx, tx, size, []int64{id}, []tlog.Hash{hash})
}

// take does an effect. Each of its statements passes over what is so already.
func take(ctx context.Context, tx *sql.Tx, leafID int64, leaf lifecycle.Leaf, e lifecycle.Effect) error {
	exec := func(query string, args ...any) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	}
	switch e := e.(type) {
	case lifecycle.RunBegun:
		return exec(`INSERT INTO runs (run_id, kind, actor, started_at, status) SELECT ?1, ?2, ?3, ?4, 'running' WHERE NOT EXISTS (SELECT 1 FROM runs WHERE run_id = ?1)`,
			e.Run.ID, e.Run.Kind, e.Run.Actor, stamp(e.Run.StartedAt))
	case lifecycle.RunEnded:
		return exec(`UPDATE runs SET finished_at = ?, status = ?, result = ? WHERE run_id = ? AND status = 'running'`,
			maybeStamp(e.Run.FinishedAt), e.Run.Status, string(e.Run.Result), e.Run.ID)
	case lifecycle.HoldPlaced:
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM holds WHERE hold_id = ?`, e.Hold.ID).Scan(&n); err != nil || n > 0 {
			return err
		}
		return insertHold(ctx, tx, &e.Hold)
	case lifecycle.HoldExtended:
		var no int64
		if err := tx.QueryRowContext(ctx, `SELECT hold_no FROM holds WHERE hold_id = ?`, e.ID).Scan(&no); err != nil {
			return found(err, "hold", e.ID)
		}
		_, err := addScopes(ctx, tx, no, e.Scopes)
		return err
	case lifecycle.HoldReleased:
		return exec(`UPDATE holds SET released_at = ?, released_by = ?, release_reason = ? WHERE hold_id = ? AND released_at = ''`, stamp(leaf.At), leaf.Actor, e.Reason, e.ID)
	case lifecycle.LegalHoldMoved:
		return takeLegalHold(ctx, tx, leaf, e)
	case lifecycle.ClassesOpened:
		return insertClasses(ctx, tx, e.Classes, e.Epoch)
	case lifecycle.ClassesMoved:
		return recovering(ctx, tx, func() error {
			switch e.To {
			case lifecycle.Condemned:
				return exec(`UPDATE classes SET state = 'condemned', intent_leaf = ? WHERE class_id IN (SELECT value FROM json_each(?)) AND state = 'open'`, leafID, list(e.Classes))
			case lifecycle.Executing:
				return exec(`UPDATE classes SET state = 'executing' WHERE class_id IN (SELECT value FROM json_each(?)) AND state = 'condemned'`, list(e.Classes))
			}
			if err := exec(`UPDATE classes SET state = 'destroyed', destroyed_at = ?, epoch = ? WHERE class_id IN (SELECT value FROM json_each(?)) AND state = 'executing'`,
				stamp(e.At), int64(e.Epoch), list(e.Classes)); err != nil {
				return err
			}
			return logEpoch(ctx, tx, e.Epoch)
		})
	case lifecycle.SegmentStaged:
		var n int
		var class int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM segments WHERE segment_id = ?`, e.Segment.ID).Scan(&n); err != nil || n > 0 {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT class_no FROM classes WHERE class_id = ?`, e.Segment.Class).Scan(&class); err != nil {
			return found(err, "class", e.Segment.Class)
		}
		return insertSegment(ctx, tx, class, e.Segment)
	case lifecycle.SegmentMoved:
		from := map[lifecycle.SegmentState]lifecycle.SegmentState{lifecycle.Verified: lifecycle.Staged, lifecycle.Abandoned: lifecycle.Staged, lifecycle.Settled: lifecycle.Verified}[e.To]
		if err := exec(`UPDATE segments SET state = ? WHERE segment_id = ? AND state = ?`, e.To, e.ID, from); err != nil {
			return err
		}
		for _, c := range e.Copies {
			if err := takeCopy(ctx, tx, e.ID, c); err != nil {
				return err
			}
		}
		return nil
	case lifecycle.SegmentRescheduled:
		var no, class int64
		err := tx.QueryRowContext(ctx, `SELECT g.segment_no, t.class_no FROM segments g JOIN classes f ON f.class_no = g.class_no JOIN classes t ON t.class_id = ?
			WHERE g.segment_id = ? AND t.closes_at > f.closes_at`, e.Segment.Class, e.Segment.ID).Scan(&no, &class)
		if err == sql.ErrNoRows {
			return nil // it is there
		}
		if err != nil {
			return err
		}
		return takeMove(ctx, tx, no, class, e.Segment)
	case lifecycle.CopyAdded:
		return takeCopy(ctx, tx, e.Segment, e.Copy)
	case lifecycle.RecordsArchived:
		return recovering(ctx, tx, func() error { return takeArchived(ctx, tx, leafID, e) })
	case lifecycle.RecordsRearchived:
		return recovering(ctx, tx, func() error { return takeRearchived(ctx, tx, leafID, e) })
	case lifecycle.RecordsPurged:
		seqs, err := archivedIn(ctx, tx, e.Segment, e.Members)
		if err != nil {
			return err
		}
		if err := markPurged(ctx, tx, leafID, seqs); err != nil || !e.Done {
			return err
		}
		return exec(`UPDATE segments SET purge_leaf = ? WHERE segment_id = ? AND purge_leaf = 0
			AND NOT EXISTS (SELECT 1 FROM records r WHERE r.segment_no = segments.segment_no AND r.state = 'archived')`, leafID, e.Segment)
	case lifecycle.CopyDeleted:
		return exec(`UPDATE segment_copies SET deleted_at = ? WHERE segment_no = (SELECT segment_no FROM segments WHERE segment_id = ? AND purge_leaf <> 0) AND vault = ? AND deleted_at = ''`,
			stamp(leaf.At), e.Segment, e.Vault)
	case lifecycle.ArchiveClassMoved:
		to, err := openClass(ctx, tx, e.To)
		if err != nil {
			return err
		}
		seqs, err := activeOf(ctx, tx, e.From, e.Records)
		if err != nil {
			return err
		}
		return markMoved(ctx, tx, to, leafID, seqs)
	case lifecycle.VaultAdded:
		_, err := insertVault(ctx, tx, e.Name, leaf)
		return err
	case lifecycle.VaultMoved:
		return exec(`UPDATE vaults SET state = ?1, since = ?2 WHERE name = ?3 AND (state = 'joining' OR state = 'active' AND ?1 = 'retiring')`, e.To, stamp(leaf.At), e.Name)
	case lifecycle.ClockAccepted:
		return exec(`UPDATE meta SET trusted_time = ?`, stamp(leaf.At))
	case lifecycle.KeyringAccepted:
		return exec(`UPDATE meta SET epoch = ?`, int64(e.Epoch))
	}
	return fmt.Errorf("an effect %T is not known", e)
}

func takeCopy(ctx context.Context, tx *sql.Tx, segment string, c lifecycle.Copy) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at)
		SELECT g.segment_no, ?2, ?3, ?4, ?5, ?6 FROM segments g
		WHERE g.segment_id = ?1 AND NOT EXISTS (SELECT 1 FROM segment_copies c WHERE c.segment_no = g.segment_no AND c.vault = ?2)`,
		segment, c.Vault, c.ObjectVersion, c.ManifestVersion, stamp(c.RetainUntil), stamp(c.VerifiedAt))
	if err != nil {
		return fmt.Errorf("couldn't record the copy of segment %s in vault %s: %w", segment, c.Vault, err)
	}
	return nil
}

// takeLegalHold goes by way of the states in between.
func takeLegalHold(ctx context.Context, tx *sql.Tx, leaf lifecycle.Leaf, e lifecycle.LegalHoldMoved) error {
	const of = ` WHERE segment_no = (SELECT segment_no FROM segments WHERE segment_id = ?) AND vault = ?`
	exec := func(query string, args ...any) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	}
	move := func(from, to lifecycle.LegalState) error {
		return exec(`UPDATE legal_holds SET state = ?, since = ?`+of+` AND state = ?`, to, stamp(leaf.At), e.Segment, e.Vault, from)
	}
	if e.To == lifecycle.LegalNone {
		if err := move(lifecycle.LegalSet, lifecycle.Lifting); err != nil {
			return err
		}
		return exec(`DELETE FROM legal_holds`+of, e.Segment, e.Vault)
	}
	if err := exec(`INSERT INTO legal_holds (segment_no, vault, state, since) SELECT c.segment_no, c.vault, 'set', ? FROM segment_copies c`+of+`
		AND NOT EXISTS (SELECT 1 FROM legal_holds l WHERE l.segment_no = c.segment_no AND l.vault = c.vault)`, stamp(leaf.At), e.Segment, e.Vault); err != nil {
		return err
	}
	if e.To == lifecycle.Lifting {
		return move(lifecycle.LegalSet, lifecycle.Lifting)
	}
	return move(lifecycle.Lifting, lifecycle.LegalSet)
}

func takeArchived(ctx context.Context, tx *sql.Tx, leafID int64, e lifecycle.RecordsArchived) error {
	var segmentNo, classNo int64
	if err := tx.QueryRowContext(ctx, `SELECT segment_no, class_no FROM segments WHERE segment_id = ?`, e.Segment).Scan(&segmentNo, &classNo); err != nil {
		return found(err, "segment", e.Segment)
	}
	rows, err := tx.QueryContext(ctx, `SELECT r.seq FROM json_each(?) j JOIN records r ON r.record_id = j.value ->> 0
		WHERE r.state = 'active' AND lower(hex(r.checksum)) = j.value ->> 1`, pairs(e.Members))
	if err != nil {
		return err
	}
	seqs, err := collect(rows, scanOne[int64])
	if err != nil {
		return err
	}
	if len(e.Lacking) > 0 {
		classes := map[string]int64{}
		for i := range e.Lacking {
			classes[e.Lacking[i].Class], classes[e.Lacking[i].ArchiveClass] = 0, 0
		}
		for id := range classes {
			var no int64
			if err := tx.QueryRowContext(ctx, `SELECT class_no FROM classes WHERE class_id = ?`, id).Scan(&no); err != nil {
				return found(err, "class", id)
			}
			classes[id] = no
		}
		seq, err := nextSeq(ctx, tx)
		if err != nil {
			return err
		}
		if err := insertRecords(ctx, tx, leafID, seq, e.Lacking, classes); err != nil {
			return err
		}
		if err := insertLineage(ctx, tx, leafID, seq, e.Lacking); err != nil {
			return err
		}
		for i := range e.Lacking {
			seqs = append(seqs, seq(i))
		}
	}
	// The database may have them in the class that they were in before.
	if _, err := tx.ExecContext(ctx, `UPDATE records SET archive_class_no = ?1, content_class_no = coalesce(content_class_no, archive_class_no)
		WHERE seq IN (SELECT value FROM json_each(?2)) AND archive_class_no <> ?1`, classNo, list(seqs)); err != nil {
		return fmt.Errorf("couldn't move records to the class of segment %s: %w", e.Segment, err)
	}
	if err := markArchived(ctx, tx, segmentNo, leafID, seqs); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM deks WHERE seq IN (SELECT value FROM json_each(?))`, list(seqs)); err != nil {
		return fmt.Errorf("couldn't drop DEKs: %w", err)
	}
	return nil
}

func takeRearchived(ctx context.Context, tx *sql.Tx, leafID int64, e lifecycle.RecordsRearchived) error {
	var fromNo, toNo, classNo int64
	if err := tx.QueryRowContext(ctx, `SELECT f.segment_no, t.segment_no, t.class_no FROM segments f, segments t WHERE f.segment_id = ? AND t.segment_id = ?`,
		e.From, e.Segment).Scan(&fromNo, &toNo, &classNo); err != nil {
		return found(err, "segment", e.From+" or "+e.Segment)
	}
	seqs, err := archivedIn(ctx, tx, e.From, e.Moved)
	if err != nil {
		return err
	}
	if err := markRearchived(ctx, tx, fromNo, toNo, classNo, leafID, seqs); err != nil {
		return err
	}
	if len(e.Members)+len(e.Lacking) == 0 {
		return nil
	}
	return takeArchived(ctx, tx, leafID, e.RecordsArchived)
}

// archivedIn finds those of the members that are archived in the segment.
func archivedIn(ctx context.Context, tx *sql.Tx, segment string, members []lifecycle.Member) ([]int64, error) {
	rows, err := tx.QueryContext(ctx, `SELECT r.seq FROM json_each(?) j CROSS JOIN records r ON r.record_id = j.value ->> 0
		WHERE r.state = 'archived' AND +r.segment_no = (SELECT segment_no FROM segments WHERE segment_id = ?) AND lower(hex(r.checksum)) = j.value ->> 1`, pairs(members), segment)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanOne[int64])
}

// pairs is members as JSON.
func pairs(members []lifecycle.Member) string {
	out := make([][2]string, len(members))
	for i, m := range members {
		out[i] = [2]string{m.RecordID, hex.EncodeToString(m.Checksum[:])}
	}
	return list(out)
}
