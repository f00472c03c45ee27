-- +goose Up

-- Guards that were missing: with them there is no table here of which a row can be
-- deleted, replaced or changed but on the way of an ingest, a hold or a sweep.

-- +goose StatementBegin
CREATE TRIGGER meta_once BEFORE INSERT ON meta
WHEN EXISTS (SELECT 1 FROM meta)
BEGIN SELECT RAISE(ABORT, 'a database is made once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER meta_immutable BEFORE UPDATE OF one, created_at ON meta
BEGIN SELECT RAISE(ABORT, 'a database is made once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER meta_kept BEFORE DELETE ON meta
BEGIN SELECT RAISE(ABORT, 'a database is made once'); END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER runs_born BEFORE INSERT ON runs
WHEN NEW.status <> 'running' OR EXISTS (SELECT 1 FROM runs r WHERE r.run_id = NEW.run_id OR r.rowid = NEW.rowid)
BEGIN SELECT RAISE(ABORT, 'a run is inserted once, and running'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER runs_moves BEFORE UPDATE ON runs
WHEN OLD.status <> 'running'
BEGIN SELECT RAISE(ABORT, 'a run ends once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER runs_immutable BEFORE UPDATE OF run_id, kind, actor, started_at ON runs
BEGIN SELECT RAISE(ABORT, 'a run only changes by its end'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER runs_kept BEFORE DELETE ON runs
BEGIN SELECT RAISE(ABORT, 'a run''s row is never deleted'); END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER records_settled BEFORE UPDATE OF class_no ON records
WHEN OLD.state <> 'active' AND NEW.class_no <> OLD.class_no
BEGIN SELECT RAISE(ABORT, 'an archived record''s class is what its hot copy died with'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reseals_once BEFORE INSERT ON reseals
WHEN EXISTS (SELECT 1 FROM reseals r WHERE r.seq = NEW.seq AND r.leaf_id = NEW.leaf_id)
BEGIN SELECT RAISE(ABORT, 'a reseal is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reseals_immutable BEFORE UPDATE ON reseals
BEGIN SELECT RAISE(ABORT, 'a reseal is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reseals_kept BEFORE DELETE ON reseals
BEGIN SELECT RAISE(ABORT, 'a reseal is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER segments_locked BEFORE UPDATE OF retain_until ON segments
WHEN NEW.retain_until < OLD.retain_until
BEGIN SELECT RAISE(ABORT, 'a segment''s lock is only lengthened'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER holds_released BEFORE UPDATE ON holds
WHEN NEW.released_at = ''
BEGIN SELECT RAISE(ABORT, 'a hold only changes by its release'); END;
-- +goose StatementEnd

-- What cannot be read back would keep the whole log from going on.
-- +goose StatementBegin
CREATE TRIGGER leaves_readable BEFORE INSERT ON leaves
WHEN NOT json_valid(NEW.body) OR NEW.at NOT GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]Z'
BEGIN SELECT RAISE(ABORT, 'a leaf has a time, and a body in JSON'); END;
-- +goose StatementEnd

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
