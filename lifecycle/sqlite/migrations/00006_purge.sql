-- +goose Up

-- The end of what is archived. A segment that was purged has the leaf that tells so;
-- state keeps what it was before. A copy has the time at which it was deleted.
ALTER TABLE segments ADD COLUMN purge_leaf INTEGER NOT NULL DEFAULT 0;
ALTER TABLE segment_copies ADD COLUMN deleted_at TEXT NOT NULL DEFAULT '';
CREATE INDEX segments_class ON segments (class_no);

-- The archive class that the content identity was made with, where the record is in
-- another by now.
ALTER TABLE records ADD COLUMN content_class_no INTEGER REFERENCES classes;
ALTER TABLE records ADD COLUMN purge_leaf INTEGER NOT NULL DEFAULT 0;

-- Records that were held when their archive class was over: which leaf moved which
-- record out of which segment.
CREATE TABLE rearchivals (
    seq          INTEGER NOT NULL REFERENCES records,
    leaf_id      INTEGER NOT NULL REFERENCES leaves,
    from_segment INTEGER NOT NULL REFERENCES segments,
    PRIMARY KEY (seq, leaf_id)
) WITHOUT ROWID;
CREATE INDEX rearchivals_leaf ON rearchivals (leaf_id);
CREATE INDEX rearchivals_from ON rearchivals (from_segment);

-- +goose StatementBegin
CREATE TRIGGER rearchivals_once BEFORE INSERT ON rearchivals
WHEN EXISTS (SELECT 1 FROM rearchivals r WHERE r.seq = NEW.seq AND r.leaf_id = NEW.leaf_id)
BEGIN SELECT RAISE(ABORT, 'what was archived anew is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER rearchivals_immutable BEFORE UPDATE ON rearchivals
BEGIN SELECT RAISE(ABORT, 'what was archived anew is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER rearchivals_kept BEFORE DELETE ON rearchivals
BEGIN SELECT RAISE(ABORT, 'what was archived anew is recorded for ever'); END;
-- +goose StatementEnd

-- A record is purged when nothing can stop the end of its segment's key any more.
-- +goose StatementBegin
CREATE TRIGGER records_purged BEFORE UPDATE OF state ON records
WHEN NEW.state = 'purged' AND OLD.state = 'archived'
 AND (SELECT c.state FROM segments g JOIN classes c USING (class_no) WHERE g.segment_no = OLD.segment_no) NOT IN ('executing', 'destroyed')
BEGIN SELECT RAISE(ABORT, 'purged before its archive class is'); END;
-- +goose StatementEnd

-- An archived record is in a segment of its archive class. It goes to another only
-- where that is verified, and the key that opens it is to stay.
-- +goose StatementBegin
CREATE TRIGGER records_rearchived BEFORE UPDATE OF segment_no ON records
WHEN OLD.state <> 'active' AND NEW.segment_no IS NOT OLD.segment_no
 AND NOT (OLD.state = 'archived' AND NEW.state = 'archived'
          AND EXISTS (SELECT 1 FROM segments g JOIN classes c USING (class_no)
                       WHERE g.segment_no = NEW.segment_no AND g.state = 'verified' AND c.state = 'open' AND c.class_no = NEW.archive_class_no))
BEGIN SELECT RAISE(ABORT, 'archived anew without a verified segment of an open class'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER records_archive_class BEFORE UPDATE OF archive_class_no, content_class_no ON records
WHEN NOT (NEW.archive_class_no = OLD.archive_class_no AND NEW.content_class_no IS OLD.content_class_no)
 AND NOT (NEW.content_class_no IS coalesce(OLD.content_class_no, OLD.archive_class_no)
          AND (SELECT c.state FROM classes c WHERE c.class_no = NEW.archive_class_no) IS 'open'
          AND (OLD.state = 'active' AND NEW.state = 'active' OR OLD.state = 'archived' AND NEW.segment_no IS NOT OLD.segment_no))
BEGIN SELECT RAISE(ABORT, 'an archive class is left for a later one, by active records and with the segment'); END;
-- +goose StatementEnd

-- An archive class is not condemned while a record is to come into it, and the law's
-- floor of each that is in it lies before the end of its period. From then on none comes.
-- +goose StatementBegin
CREATE TRIGGER classes_purged BEFORE UPDATE OF state ON classes
WHEN NEW.state IN ('condemned', 'executing') AND NEW.state <> OLD.state AND OLD.kind IN ('archive', 'hold')
BEGIN
    SELECT RAISE(ABORT, 'the class still has records to come')
     WHERE EXISTS (SELECT 1 FROM records r WHERE r.archive_class_no = OLD.class_no AND r.state = 'active');
    SELECT RAISE(ABORT, 'the class has records that are to be kept for longer')
     WHERE NEW.state = 'condemned' AND EXISTS (SELECT 1 FROM segments g CROSS JOIN records r ON r.segment_no = g.segment_no
                    WHERE g.class_no = OLD.class_no AND r.state = 'archived' AND r.purge_not_before > OLD.closes_at);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER segments_purged BEFORE UPDATE OF purge_leaf ON segments
WHEN OLD.purge_leaf <> 0 OR OLD.state NOT IN ('verified', 'settled')
  OR (SELECT c.state FROM classes c WHERE c.class_no = OLD.class_no) NOT IN ('executing', 'destroyed')
  OR EXISTS (SELECT 1 FROM records r WHERE r.segment_no = OLD.segment_no AND r.state = 'archived')
BEGIN SELECT RAISE(ABORT, 'a segment is purged once, after its key and its records'); END;
-- +goose StatementEnd
DROP TRIGGER copies_immutable;
-- +goose StatementBegin
CREATE TRIGGER copies_immutable BEFORE UPDATE ON segment_copies
WHEN OLD.deleted_at <> '' OR NEW.deleted_at = ''
  OR NEW.segment_no <> OLD.segment_no OR NEW.vault <> OLD.vault OR NEW.object_version <> OLD.object_version OR NEW.manifest_version <> OLD.manifest_version
  OR NEW.retain_until <> OLD.retain_until OR NEW.verified_at <> OLD.verified_at
  OR (SELECT g.purge_leaf FROM segments g WHERE g.segment_no = OLD.segment_no) = 0
BEGIN SELECT RAISE(ABORT, 'a copy only changes by its end, after that of its segment'); END;
-- +goose StatementEnd

-- A vault need not have what is purged.
DROP TRIGGER vaults_complete;
-- +goose StatementBegin
CREATE TRIGGER vaults_complete BEFORE UPDATE OF state ON vaults
WHEN NEW.state = 'active' AND EXISTS (SELECT 1 FROM segments g LEFT JOIN segment_copies c ON c.segment_no = g.segment_no AND c.vault = NEW.name
    WHERE g.state IN ('verified', 'settled') AND g.purge_leaf = 0 AND c.vault IS NULL)
BEGIN SELECT RAISE(ABORT, 'the vault lacks a segment'); END;
-- +goose StatementEnd

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
