-- +goose Up

-- Which decision the records' schedules follow, see lifecycle.Following. Those that are
-- there may have come in under another policy than is in force: the first sweep looks.
ALTER TABLE meta ADD COLUMN following_leaf INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN following_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN following_done INTEGER NOT NULL DEFAULT 1;

-- Which leaf gave which active record which schedule, and which it had before.
CREATE TABLE reschedules (
    seq          INTEGER NOT NULL REFERENCES records,
    leaf_id      INTEGER NOT NULL REFERENCES leaves,
    due_from     TEXT    NOT NULL,
    due_to       TEXT    NOT NULL,
    class_from   INTEGER NOT NULL REFERENCES classes,
    class_to     INTEGER NOT NULL REFERENCES classes,
    archive_from INTEGER NOT NULL REFERENCES classes,
    archive_to   INTEGER NOT NULL REFERENCES classes,
    PRIMARY KEY (seq, leaf_id)
) WITHOUT ROWID;
CREATE INDEX reschedules_leaf ON reschedules (leaf_id);

-- +goose StatementBegin
CREATE TRIGGER reschedules_once BEFORE INSERT ON reschedules
WHEN EXISTS (SELECT 1 FROM reschedules m WHERE m.seq = NEW.seq AND m.leaf_id >= NEW.leaf_id)
BEGIN SELECT RAISE(ABORT, 'what was rescheduled is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reschedules_immutable BEFORE UPDATE ON reschedules
BEGIN SELECT RAISE(ABORT, 'what was rescheduled is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reschedules_kept BEFORE DELETE ON reschedules
BEGIN SELECT RAISE(ABORT, 'what was rescheduled is recorded for ever'); END;
-- +goose StatementEnd

-- A due date changes while the record is active, and with a trace.
-- +goose StatementBegin
CREATE TRIGGER records_rescheduled BEFORE UPDATE OF due_at ON records
WHEN NEW.due_at <> OLD.due_at
 AND NOT (OLD.state = 'active' AND NEW.state = 'active'
          AND EXISTS (SELECT 1 FROM reschedules m WHERE m.seq = OLD.seq AND m.due_from = OLD.due_at AND m.due_to = NEW.due_at))
BEGIN SELECT RAISE(ABORT, 'a due date changes while the record is active, and with a trace'); END;
-- +goose StatementEnd

-- A segment that is not purged, with its members, goes to an archive class that is over
-- later, with an identity under its key and locks that are as long.
DROP TRIGGER segments_immutable;
-- +goose StatementBegin
CREATE TRIGGER segments_immutable BEFORE UPDATE OF segment_no, segment_id, run_id, records, object_key, object_size, object_sha256, plaintext_sha256,
    merkle_root, manifest_key, manifest_size, manifest_sha256, created_at ON segments
BEGIN SELECT RAISE(ABORT, 'a segment is immutable'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER segments_rescheduled BEFORE UPDATE OF class_no, wrapped_identity ON segments
WHEN (NEW.class_no <> OLD.class_no OR NEW.wrapped_identity <> OLD.wrapped_identity)
 AND NOT (NEW.class_no <> OLD.class_no AND OLD.state IN ('verified', 'settled') AND OLD.purge_leaf = 0
          AND EXISTS (SELECT 1 FROM classes f, classes t WHERE f.class_no = OLD.class_no AND t.class_no = NEW.class_no
                       AND f.state IN ('open', 'condemned') AND t.state = 'open' AND t.kind = 'archive' AND t.closes_at > f.closes_at))
BEGIN SELECT RAISE(ABORT, 'a segment goes to an open archive class that is over later'); END;
-- +goose StatementEnd
DROP TRIGGER records_archive_class;
-- +goose StatementBegin
CREATE TRIGGER records_archive_class BEFORE UPDATE OF archive_class_no, content_class_no ON records
WHEN NOT (NEW.archive_class_no = OLD.archive_class_no AND NEW.content_class_no IS OLD.content_class_no)
 AND NOT (NEW.content_class_no IS coalesce(OLD.content_class_no, OLD.archive_class_no)
          AND (SELECT c.state FROM classes c WHERE c.class_no = NEW.archive_class_no) IS 'open'
          AND (OLD.state = 'active' AND NEW.state = 'active'
               OR OLD.state = 'archived' AND NEW.segment_no IS NOT OLD.segment_no
               OR OLD.state = 'archived' AND NEW.archive_class_no = (SELECT g.class_no FROM segments g WHERE g.segment_no = NEW.segment_no)))
BEGIN SELECT RAISE(ABORT, 'an archive class is left by active records, and with the segment'); END;
-- +goose StatementEnd
DROP TRIGGER copies_immutable;
-- +goose StatementBegin
CREATE TRIGGER copies_immutable BEFORE UPDATE ON segment_copies
WHEN NEW.segment_no <> OLD.segment_no OR NEW.vault <> OLD.vault OR NEW.object_version <> OLD.object_version OR NEW.manifest_version <> OLD.manifest_version
  OR NEW.verified_at <> OLD.verified_at OR OLD.deleted_at <> ''
  OR CASE WHEN (SELECT g.purge_leaf FROM segments g WHERE g.segment_no = OLD.segment_no) = 0 THEN NEW.deleted_at <> '' OR NEW.retain_until <= OLD.retain_until
          ELSE NEW.deleted_at = '' OR NEW.retain_until <> OLD.retain_until END
BEGIN SELECT RAISE(ABORT, 'a copy only changes by a longer lock, and by its end, after that of its segment'); END;
-- +goose StatementEnd

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
