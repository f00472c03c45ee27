-- +goose Up

-- A recovery of the log does again what entries tell that are published: records are
-- archived that a hold covers which was placed since the backup, classes destroyed whose
-- DEKs had been moved, and entries that nobody has published make room. It marks its
-- transaction here, and some guards below let it pass; no others do. The mark cannot be
-- committed, for what it refers to is never there: it is taken away in the same
-- transaction, or nothing has happened.
CREATE TABLE never (one INTEGER PRIMARY KEY CHECK (one <> 1));
CREATE TABLE recovering (
    one INTEGER PRIMARY KEY CHECK (one = 1) REFERENCES never DEFERRABLE INITIALLY DEFERRED
);

DROP TRIGGER records_archived;
-- +goose StatementBegin
CREATE TRIGGER records_archived BEFORE UPDATE OF state ON records
WHEN NEW.state = 'archived' AND OLD.state = 'active'
BEGIN
    SELECT RAISE(ABORT, 'archived without a verified segment')
     WHERE NOT EXISTS (SELECT 1 FROM segments g WHERE g.segment_no = NEW.segment_no AND g.state = 'verified');
    SELECT RAISE(ABORT, 'archived under a hold')
     WHERE NOT EXISTS (SELECT 1 FROM recovering WHERE one = 1) AND (
           EXISTS (SELECT 1 FROM hold_scopes s CROSS JOIN holds h ON h.hold_no = s.hold_no
                    WHERE s.record_id = NEW.record_id AND h.released_at = ''
                      AND (s.tlc IS NULL OR s.tlc = NEW.tlc)
                      AND (s.tlc_prefix IS NULL OR (NEW.tlc >= s.tlc_prefix AND NEW.tlc < s.tlc_prefix || x'ff'))
                      AND (s.tlc_source = '' OR NEW.tlc_source = '' OR s.tlc_source = NEW.tlc_source)
                      AND (s.location IS NULL OR s.location = NEW.location)
                      AND (s.product IS NULL OR s.product = NEW.product)
                      AND (s.event_type IS NULL OR s.event_type = NEW.event_type)
                      AND (s.from_at IS NULL OR NEW.event_at >= s.from_at)
                      AND (s.to_at IS NULL OR NEW.event_at < s.to_at))
        OR EXISTS (SELECT 1 FROM hold_scopes s CROSS JOIN holds h ON h.hold_no = s.hold_no
                    WHERE s.tlc = NEW.tlc AND s.record_id IS NULL AND h.released_at = ''
                      AND (s.tlc_source = '' OR NEW.tlc_source = '' OR s.tlc_source = NEW.tlc_source)
                      AND (s.location IS NULL OR s.location = NEW.location)
                      AND (s.product IS NULL OR s.product = NEW.product)
                      AND (s.event_type IS NULL OR s.event_type = NEW.event_type)
                      AND (s.from_at IS NULL OR NEW.event_at >= s.from_at)
                      AND (s.to_at IS NULL OR NEW.event_at < s.to_at))
        OR EXISTS (SELECT 1 FROM hold_scopes s INDEXED BY hold_scopes_general CROSS JOIN holds h ON h.hold_no = s.hold_no
                    WHERE s.record_id IS NULL AND s.tlc IS NULL AND h.released_at = ''
                      AND (s.tlc_prefix IS NULL OR (NEW.tlc >= s.tlc_prefix AND NEW.tlc < s.tlc_prefix || x'ff'))
                      AND (s.tlc_source = '' OR NEW.tlc_source = '' OR s.tlc_source = NEW.tlc_source)
                      AND (s.location IS NULL OR s.location = NEW.location)
                      AND (s.product IS NULL OR s.product = NEW.product)
                      AND (s.event_type IS NULL OR s.event_type = NEW.event_type)
                      AND (s.from_at IS NULL OR NEW.event_at >= s.from_at)
                      AND (s.to_at IS NULL OR NEW.event_at < s.to_at))
        OR EXISTS (SELECT 1 FROM hold_lots l CROSS JOIN hold_scopes s ON s.scope_no = l.scope_no CROSS JOIN holds h ON h.hold_no = s.hold_no
                    WHERE l.tlc = NEW.tlc AND h.released_at = ''
                      AND (l.tlc_source = '' OR NEW.tlc_source = '' OR l.tlc_source = NEW.tlc_source)));
END;
-- +goose StatementEnd

DROP TRIGGER classes_moves;
-- +goose StatementBegin
CREATE TRIGGER classes_moves BEFORE UPDATE OF state ON classes
WHEN NEW.state <> OLD.state
BEGIN
    SELECT RAISE(ABORT, 'illegal move of a class''s state')
     WHERE NOT (OLD.state = 'open' AND NEW.state = 'condemned')
       AND NOT (OLD.state = 'condemned' AND NEW.state = 'executing')
       AND NOT (OLD.state = 'executing' AND NEW.state = 'destroyed');
    SELECT RAISE(ABORT, 'the class still has DEKs')
     WHERE EXISTS (SELECT 1 FROM deks d WHERE d.class_no = OLD.class_no) AND NOT EXISTS (SELECT 1 FROM recovering WHERE one = 1);
    SELECT RAISE(ABORT, 'the class still has active records')
     WHERE EXISTS (SELECT 1 FROM records r WHERE r.class_no = OLD.class_no AND r.state = 'active') AND NOT EXISTS (SELECT 1 FROM recovering WHERE one = 1);
END;
-- +goose StatementEnd

DROP TRIGGER log_entries_kept;
-- +goose StatementBegin
CREATE TRIGGER log_entries_kept BEFORE DELETE ON log_entries
WHEN NOT EXISTS (SELECT 1 FROM recovering WHERE one = 1)
BEGIN SELECT RAISE(ABORT, 'the log is never shortened'); END;
-- +goose StatementEnd
DROP TRIGGER log_hashes_kept;
-- +goose StatementBegin
CREATE TRIGGER log_hashes_kept BEFORE DELETE ON log_hashes
WHEN NOT EXISTS (SELECT 1 FROM recovering WHERE one = 1)
BEGIN SELECT RAISE(ABORT, 'the log is never shortened'); END;
-- +goose StatementEnd
DROP TRIGGER log_published_forward;
-- +goose StatementBegin
CREATE TRIGGER log_published_forward BEFORE UPDATE ON log_published
WHEN NEW.vault <> OLD.vault OR NEW.size < OLD.size AND NOT EXISTS (SELECT 1 FROM recovering WHERE one = 1)
BEGIN SELECT RAISE(ABORT, 'what is published only grows'); END;
-- +goose StatementEnd

-- +goose Down
-- The log is not ours to drop: there is no way back from here.
SELECT 1;
