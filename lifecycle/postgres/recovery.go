package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// recovering lets fn pass the guards that a recovery has to pass. Whoever leaves its
// mark behind cannot commit.
func (tx *txn) recovering(ctx context.Context, fn func() error) error {
	if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.recovering VALUES (1)`); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return exactly(1)(tx.exec(ctx, `DELETE FROM lotkeeper.recovering WHERE one = 1`))
}

// lockLog keeps others from changing the log until the transaction ends.
func (tx *txn) lockLog(ctx context.Context) error {
	_, err := tx.exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey+2)
	return err
}

func (s *Store) Rebase(ctx context.Context, l lifecycle.Lease, size int64) error {
	err := s.fenced(ctx, exclusive, l, func(ctx context.Context, tx *txn) error {
		if err := tx.lockLog(ctx); err != nil {
			return err
		}
		return tx.recovering(ctx, func() error {
			for _, q := range []struct {
				sql string
				arg int64
			}{
				{`INSERT INTO lotkeeper.log_pending SELECT e.leaf_id FROM lotkeeper.log_entries e JOIN lotkeeper.leaves l USING (leaf_id) WHERE e.log_index >= $1`, size},
				{`DELETE FROM lotkeeper.log_entries WHERE log_index >= $1`, size},
				{`DELETE FROM lotkeeper.log_hashes WHERE n >= $1`, tlog.StoredHashCount(size)},
				{`UPDATE lotkeeper.log_published SET size = $1 WHERE size > $1`, size},
			} {
				if _, err := tx.exec(ctx, q.sql, q.arg); err != nil {
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

// Replay has the exclusive lock: a leaf of a hold that is placed meanwhile is above it.
func (s *Store) Replay(ctx context.Context, l lifecycle.Lease, index int64, leaf lifecycle.Leaf, e lifecycle.Effect) error {
	err := s.fenced(ctx, exclusive, l, func(ctx context.Context, tx *txn) error { return tx.replay(ctx, index, leaf, e) })
	if err != nil {
		return fmt.Errorf("couldn't replay entry %d of the log: %w", index, err)
	}
	return nil
}

func (tx *txn) replay(ctx context.Context, index int64, leaf lifecycle.Leaf, e lifecycle.Effect) error {
	hash, err := leaf.LogHash()
	if err != nil {
		return err
	}
	if err := tx.lockLog(ctx); err != nil {
		return err
	}
	size, err := one(ctx, tx, (*columns).int, `SELECT coalesce(max(log_index) + 1, 0) FROM lotkeeper.log_entries`)
	if err != nil {
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
	id, err := one(ctx, tx, (*columns).int, `SELECT l.leaf_id FROM lotkeeper.log_pending p JOIN lotkeeper.leaves l ON l.leaf_id = p.leaf_id
		WHERE l.at = $1 AND l.action = $2 AND l.actor = $3 AND l.run_id = $4 AND l.subject = $5 AND l.software = $6 AND l.role = $7 AND l.body = $8 ORDER BY l.leaf_id LIMIT 1`,
		stamp(leaf.At), leaf.Action, leaf.Actor, leaf.RunID, leaf.Subject, leaf.Software, leaf.Role, bodyOf(leaf))
	if errors.Is(err, pgx.ErrNoRows) {
		// Its role is the one that was authenticated then.
		err = tx.recovering(ctx, func() (err error) {
			id, err = tx.writeLeaf(ctx, leaf, `$8`, leaf.Role)
			return err
		})
		if err == nil && e != nil {
			err = tx.take(ctx, id, leaf, e)
		}
	}
	if err != nil {
		return err
	}
	return tx.growLog(ctx, size, []int64{id}, []tlog.Hash{hash})
}

// take does an effect. Each of its statements passes over what is so already.
func (tx *txn) take(ctx context.Context, leafID int64, leaf lifecycle.Leaf, e lifecycle.Effect) error {
	exec := func(sql string, args ...any) error {
		_, err := tx.exec(ctx, sql, args...)
		return err
	}
	switch e := e.(type) {
	case lifecycle.RunBegun:
		return exec(`INSERT INTO lotkeeper.runs (run_id, kind, actor, started_at, status) VALUES ($1, $2, $3, $4, 'running') ON CONFLICT (run_id) DO NOTHING`,
			e.Run.ID, e.Run.Kind, e.Run.Actor, stamp(e.Run.StartedAt))
	case lifecycle.RunEnded:
		return exec(`UPDATE lotkeeper.runs SET finished_at = $1, status = $2, result = $3 WHERE run_id = $4 AND status = 'running'`,
			maybeStamp(e.Run.FinishedAt), e.Run.Status, string(e.Run.Result), e.Run.ID)
	case lifecycle.HoldPlaced:
		n, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.holds WHERE hold_id = $1`, e.Hold.ID)
		if err != nil || n > 0 {
			return err
		}
		if err := free(ctx, tx, &e.Hold); err != nil {
			return err
		}
		return insertHold(ctx, tx, &e.Hold)
	case lifecycle.HoldExtended:
		no, err := one(ctx, tx, (*columns).int, `SELECT hold_no FROM lotkeeper.holds WHERE hold_id = $1 FOR UPDATE`, e.ID)
		if err != nil {
			return found(err, "hold", e.ID)
		}
		have, err := holds(ctx, tx, `h.hold_no = $1`, no)
		if err != nil {
			return err
		}
		return insertScopes(ctx, tx, no, lacks(have[0], e.Scopes))
	case lifecycle.HoldReleased:
		return exec(`UPDATE lotkeeper.holds SET released_at = $1, released_by = $2, release_reason = $3 WHERE hold_id = $4 AND released_at = ''`, stamp(leaf.At), leaf.Actor, e.Reason, e.ID)
	case lifecycle.LegalHoldMoved:
		return tx.takeLegalHold(ctx, leaf, e)
	case lifecycle.ClassesOpened:
		return insertClasses(ctx, tx, e.Classes, e.Epoch)
	case lifecycle.ClassesMoved:
		return tx.recovering(ctx, func() error {
			switch e.To {
			case lifecycle.Condemned:
				return exec(`UPDATE lotkeeper.classes SET state = 'condemned', intent_leaf = $1 WHERE class_id = ANY($2) AND state = 'open'`, leafID, e.Classes)
			case lifecycle.Executing:
				return exec(`UPDATE lotkeeper.classes SET state = 'executing' WHERE class_id = ANY($1) AND state = 'condemned'`, e.Classes)
			}
			if err := exec(`UPDATE lotkeeper.classes SET state = 'destroyed', destroyed_at = $1, epoch = $2 WHERE class_id = ANY($3) AND state = 'executing'`,
				stamp(e.At), int64(e.Epoch), e.Classes); err != nil {
				return err
			}
			return logEpoch(ctx, tx, e.Epoch)
		})
	case lifecycle.SegmentStaged:
		n, err := one(ctx, tx, (*columns).int, `SELECT count(*) FROM lotkeeper.segments WHERE segment_id = $1`, e.Segment.ID)
		if err != nil || n > 0 {
			return err
		}
		class, err := one(ctx, tx, (*columns).int, `SELECT class_no FROM lotkeeper.classes WHERE class_id = $1`, e.Segment.Class)
		if err != nil {
			return found(err, "class", e.Segment.Class)
		}
		return insertSegment(ctx, tx, class, e.Segment)
	case lifecycle.SegmentMoved:
		from := map[lifecycle.SegmentState]lifecycle.SegmentState{lifecycle.Verified: lifecycle.Staged, lifecycle.Abandoned: lifecycle.Staged, lifecycle.Settled: lifecycle.Verified}[e.To]
		if err := exec(`UPDATE lotkeeper.segments SET state = $1 WHERE segment_id = $2 AND state = $3`, string(e.To), e.ID, string(from)); err != nil {
			return err
		}
		for _, c := range e.Copies {
			if err := tx.takeCopy(ctx, e.ID, c); err != nil {
				return err
			}
		}
		return nil
	case lifecycle.SegmentRescheduled:
		type place struct{ no, class int64 }
		at, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int()} }, `SELECT g.segment_no, t.class_no
			FROM lotkeeper.segments g JOIN lotkeeper.classes f ON f.class_no = g.class_no JOIN lotkeeper.classes t ON t.class_id = $1
			WHERE g.segment_id = $2 AND t.closes_at > f.closes_at`, e.Segment.Class, e.Segment.ID)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // it is there
		}
		if err != nil {
			return err
		}
		_, err = tx.takeMove(ctx, at.no, at.class, e.Segment)
		return err
	case lifecycle.CopyAdded:
		return tx.takeCopy(ctx, e.Segment, e.Copy)
	case lifecycle.RecordsArchived:
		return tx.recovering(ctx, func() error { return tx.takeArchived(ctx, leafID, e) })
	case lifecycle.RecordsRearchived:
		return tx.recovering(ctx, func() error { return tx.takeRearchived(ctx, leafID, e) })
	case lifecycle.RecordsPurged:
		seqs, err := tx.archivedIn(ctx, e.Segment, e.Members)
		if err != nil {
			return err
		}
		if err := tx.markPurged(ctx, leafID, seqs); err != nil || !e.Done {
			return err
		}
		return exec(`UPDATE lotkeeper.segments g SET purge_leaf = $1 WHERE segment_id = $2 AND purge_leaf = 0
			AND NOT EXISTS (SELECT FROM lotkeeper.records r WHERE r.segment_no = g.segment_no AND r.state = 'archived')`, leafID, e.Segment)
	case lifecycle.CopyDeleted:
		return exec(`UPDATE lotkeeper.segment_copies SET deleted_at = $1
			WHERE segment_no = (SELECT segment_no FROM lotkeeper.segments WHERE segment_id = $2 AND purge_leaf <> 0) AND vault = $3 AND deleted_at = ''`, stamp(leaf.At), e.Segment, e.Vault)
	case lifecycle.ArchiveClassMoved:
		to, err := openClass(ctx, tx, e.To)
		if err != nil {
			return err
		}
		seqs, err := tx.activeOf(ctx, e.From, e.Records)
		if err != nil {
			return err
		}
		return tx.markMoved(ctx, to, leafID, seqs)
	case lifecycle.VaultAdded:
		return exec(`INSERT INTO lotkeeper.vaults (name, state, since)
			SELECT $1, CASE WHEN EXISTS (SELECT FROM lotkeeper.segments g WHERE `+live+`) THEN 'joining' ELSE 'active' END, $2
			ON CONFLICT (name) DO NOTHING`, e.Name, stamp(leaf.At))
	case lifecycle.VaultMoved:
		return exec(`UPDATE lotkeeper.vaults SET state = $1, since = $2 WHERE name = $3 AND (state = 'joining' OR state = 'active' AND $1 = 'retiring')`, string(e.To), stamp(leaf.At), e.Name)
	case lifecycle.ClockAccepted:
		return exec(`UPDATE lotkeeper.meta SET trusted_time = $1`, stamp(leaf.At))
	case lifecycle.KeyringAccepted:
		return exec(`UPDATE lotkeeper.meta SET epoch = $1`, int64(e.Epoch))
	}
	return fmt.Errorf("an effect %T is not known", e)
}

func (tx *txn) takeCopy(ctx context.Context, segment string, c lifecycle.Copy) error {
	_, err := tx.exec(ctx, `INSERT INTO lotkeeper.segment_copies (segment_no, vault, object_version, manifest_version, retain_until, verified_at)
		SELECT g.segment_no, $2, $3, $4, $5, $6 FROM lotkeeper.segments g WHERE g.segment_id = $1 ON CONFLICT (segment_no, vault) DO NOTHING`,
		segment, c.Vault, c.ObjectVersion, c.ManifestVersion, stamp(c.RetainUntil), stamp(c.VerifiedAt))
	if err != nil {
		return fmt.Errorf("couldn't record the copy of segment %s in vault %s: %w", segment, c.Vault, err)
	}
	return nil
}

// takeLegalHold goes by way of the states in between.
func (tx *txn) takeLegalHold(ctx context.Context, leaf lifecycle.Leaf, e lifecycle.LegalHoldMoved) error {
	const of = ` WHERE segment_no = (SELECT segment_no FROM lotkeeper.segments WHERE segment_id = $1) AND vault = $2`
	move := func(from, to lifecycle.LegalState) error {
		_, err := tx.exec(ctx, `UPDATE lotkeeper.legal_holds SET state = $3, since = $4`+of+` AND state = $5`, e.Segment, e.Vault, string(to), stamp(leaf.At), string(from))
		return err
	}
	if e.To == lifecycle.LegalNone {
		if err := move(lifecycle.LegalSet, lifecycle.Lifting); err != nil {
			return err
		}
		_, err := tx.exec(ctx, `DELETE FROM lotkeeper.legal_holds`+of, e.Segment, e.Vault)
		return err
	}
	if _, err := tx.exec(ctx, `INSERT INTO lotkeeper.legal_holds (segment_no, vault, state, since)
		SELECT segment_no, vault, 'set', $3 FROM lotkeeper.segment_copies`+of+` ON CONFLICT (segment_no, vault) DO NOTHING`, e.Segment, e.Vault, stamp(leaf.At)); err != nil {
		return err
	}
	if e.To == lifecycle.Lifting {
		return move(lifecycle.LegalSet, lifecycle.Lifting)
	}
	return move(lifecycle.Lifting, lifecycle.LegalSet)
}

func (tx *txn) takeArchived(ctx context.Context, leafID int64, e lifecycle.RecordsArchived) error {
	type place struct{ segment, class int64 }
	g, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int()} }, `SELECT segment_no, class_no FROM lotkeeper.segments WHERE segment_id = $1`, e.Segment)
	if err != nil {
		return found(err, "segment", e.Segment)
	}
	ids, sums := idsAndSums(e.Members)
	seqs, err := all(ctx, tx, (*columns).int, `SELECT r.seq FROM unnest($1::text[], $2::bytea[]) m(record_id, checksum),
		LATERAL (SELECT seq, state, checksum FROM lotkeeper.records r WHERE r.record_id = m.record_id OFFSET 0) r
		WHERE r.state = 'active' AND r.checksum = m.checksum`, ids, sums)
	if err != nil {
		return err
	}
	if len(e.Lacking) > 0 {
		lacking, err := tx.insertLacking(ctx, leafID, e.Lacking)
		if err != nil {
			return err
		}
		seqs = append(seqs, lacking...)
	}
	// The database may have them in the class that they were in before.
	if _, err := tx.exec(ctx, `UPDATE lotkeeper.records SET archive_class_no = $1, content_class_no = coalesce(content_class_no, archive_class_no)
		WHERE seq = ANY($2) AND archive_class_no <> $1`, g.class, seqs); err != nil {
		return fmt.Errorf("couldn't move records to the class of segment %s: %w", e.Segment, err)
	}
	if err := tx.markArchived(ctx, g.segment, leafID, seqs); err != nil {
		return err
	}
	if _, err := tx.exec(ctx, `DELETE FROM lotkeeper.deks WHERE seq = ANY($1)`, seqs); err != nil {
		return fmt.Errorf("couldn't drop DEKs: %w", err)
	}
	return nil
}

func (tx *txn) takeRearchived(ctx context.Context, leafID int64, e lifecycle.RecordsRearchived) error {
	type place struct{ from, to, class int64 }
	at, err := one(ctx, tx, func(c *columns) place { return place{c.int(), c.int(), c.int()} },
		`SELECT f.segment_no, t.segment_no, t.class_no FROM lotkeeper.segments f, lotkeeper.segments t WHERE f.segment_id = $1 AND t.segment_id = $2`, e.From, e.Segment)
	if err != nil {
		return found(err, "segment", e.From+" or "+e.Segment)
	}
	seqs, err := tx.archivedIn(ctx, e.From, e.Moved)
	if err != nil {
		return err
	}
	if err := tx.markRearchived(ctx, at.from, at.to, at.class, leafID, seqs); err != nil {
		return err
	}
	if len(e.Members)+len(e.Lacking) == 0 {
		return nil
	}
	return tx.takeArchived(ctx, leafID, e.RecordsArchived)
}

// archivedIn finds those of the members that are archived in the segment.
func (tx *txn) archivedIn(ctx context.Context, segment string, members []lifecycle.Member) ([]int64, error) {
	ids, sums := idsAndSums(members)
	return all(ctx, tx, (*columns).int, `SELECT r.seq FROM unnest($1::text[], $2::bytea[]) m(record_id, checksum),
		LATERAL (SELECT seq, state, segment_no, checksum FROM lotkeeper.records r WHERE r.record_id = m.record_id OFFSET 0) r
		WHERE r.state = 'archived' AND r.segment_no = (SELECT segment_no FROM lotkeeper.segments WHERE segment_id = $3) AND r.checksum = m.checksum`, ids, sums, segment)
}

func idsAndSums(members []lifecycle.Member) ([]string, [][]byte) {
	ids, sums := make([]string, len(members)), make([][]byte, len(members))
	for i := range members {
		ids[i], sums[i] = members[i].RecordID, members[i].Checksum[:]
	}
	return ids, sums
}

// insertLacking inserts records as a merge does, without ciphertext, and gives their
// numbers.
func (tx *txn) insertLacking(ctx context.Context, leafID int64, lacking []lifecycle.Sealed) ([]int64, error) {
	classes := map[string]classRow{}
	names := make([]string, 0, 2*len(lacking))
	for i := range lacking {
		names = append(names, lacking[i].Class, lacking[i].ArchiveClass)
	}
	if err := each(ctx, tx, func(c *columns) { classes[c.text()] = classRow{int32(c.int()), int32(c.int())} },
		`SELECT class_id, class_no, month FROM lotkeeper.classes WHERE class_id = ANY($1)`, names); err != nil {
		return nil, err
	}
	for _, id := range names {
		if classes[id].no == 0 {
			return nil, fmt.Errorf("class %s: %w", id, lifecycle.ErrNotFound)
		}
	}
	first, err := one(ctx, tx, (*columns).int, `SELECT nextval('lotkeeper.seqs')`)
	if err != nil {
		return nil, err
	}
	order, seqs := make([]int, len(lacking)), make([]int64, len(lacking))
	for i := range lacking {
		order[i], seqs[i] = i, first+int64(i)
	}
	load := encode(lacking, order, classes, first)
	load.setLeaf(leafID)
	if err := tx.copyInto(ctx, intoRecords, &load.records); err != nil {
		return nil, err
	}
	if load.lineage.n > 0 {
		if err := tx.copyInto(ctx, intoLineage, &load.lineage); err != nil {
			return nil, err
		}
	}
	_, err = tx.exec(ctx, `INSERT INTO lotkeeper.merges (leaf_id, first_seq, records) VALUES ($1, $2, $3)`, leafID, first, int64(len(lacking)))
	return seqs, err
}
