-- +goose Up

-- A recovery of the log does again what entries tell of the end of an archive class: it
-- may go while a record is to come into it that the database has taken in since, or that
-- had been moved.
DROP TRIGGER classes_purged;
-- +goose StatementBegin
CREATE TRIGGER classes_purged BEFORE UPDATE OF state ON classes
WHEN NEW.state IN ('condemned', 'executing') AND NEW.state <> OLD.state AND OLD.kind IN ('archive', 'hold')
 AND NOT EXISTS (SELECT 1 FROM recovering WHERE one = 1)
BEGIN
    SELECT RAISE(ABORT, 'the class still has records to come')
     WHERE EXISTS (SELECT 1 FROM records r WHERE r.archive_class_no = OLD.class_no AND r.state = 'active');
    SELECT RAISE(ABORT, 'the class has records that are to be kept for longer')
     WHERE NEW.state = 'condemned' AND EXISTS (SELECT 1 FROM segments g CROSS JOIN records r ON r.segment_no = g.segment_no
                    WHERE g.class_no = OLD.class_no AND r.state = 'archived' AND r.purge_not_before > OLD.closes_at);
END;
-- +goose StatementEnd

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
