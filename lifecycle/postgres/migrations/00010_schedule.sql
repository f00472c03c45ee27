-- +goose Up

-- Which decision the records' schedules follow, see lifecycle.Following. Those that are
-- there may have come in under another policy than is in force: the first sweep looks.
ALTER TABLE lotkeeper.meta
    ADD COLUMN following_leaf bigint NOT NULL DEFAULT 0,
    ADD COLUMN following_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN following_done boolean NOT NULL DEFAULT true;

-- Which leaf gave which active record which schedule, and which it had before.
CREATE TABLE lotkeeper.reschedules (
    seq          bigint NOT NULL,
    leaf_id      bigint NOT NULL,
    due_from     text COLLATE "C" NOT NULL,
    due_to       text COLLATE "C" NOT NULL,
    class_from   integer NOT NULL,
    class_to     integer NOT NULL,
    archive_from integer NOT NULL,
    archive_to   integer NOT NULL,
    PRIMARY KEY (seq, leaf_id)
);
CREATE INDEX reschedules_leaf ON lotkeeper.reschedules (leaf_id, seq);
-- A class with records whose payloads are in another month's partition.
CREATE INDEX reschedules_class ON lotkeeper.reschedules (class_to) WHERE class_to <> class_from;
CREATE TRIGGER reschedules_kept BEFORE UPDATE OR DELETE ON lotkeeper.reschedules
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('what was rescheduled is recorded for ever');
CREATE TRIGGER reschedules_emptied BEFORE TRUNCATE ON lotkeeper.reschedules
    FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.refuse('nothing here is deleted at one go');

-- A due date changes while the record is active, and with a trace.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.records_rescheduled() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.state <> 'active' OR NEW.state <> 'active'
       OR NOT EXISTS (SELECT FROM lotkeeper.reschedules m WHERE m.seq = OLD.seq AND m.due_from = OLD.due_at AND m.due_to = NEW.due_at) THEN
        RAISE EXCEPTION 'a due date changes while the record is active, and with a trace' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER records_rescheduled BEFORE UPDATE OF due_at ON lotkeeper.records
    FOR EACH ROW WHEN (NEW.due_at <> OLD.due_at) EXECUTE FUNCTION lotkeeper.records_rescheduled();

-- A segment that is not purged, with its members, goes to an archive class that is over
-- later, with an identity under its key and locks that are as long.
DROP TRIGGER segments_immutable ON lotkeeper.segments;
CREATE TRIGGER segments_immutable BEFORE UPDATE OF segment_no, segment_id, run_id, records, object_key, object_size, object_sha256, plaintext_sha256,
    merkle_root, manifest_key, manifest_size, manifest_sha256, created_at ON lotkeeper.segments
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a segment is immutable');
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.segments_rescheduled() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.class_no = OLD.class_no OR OLD.state NOT IN ('verified', 'settled') OR OLD.purge_leaf <> 0
       OR NOT EXISTS (SELECT FROM lotkeeper.classes f, lotkeeper.classes t WHERE f.class_no = OLD.class_no AND t.class_no = NEW.class_no
                       AND f.state IN ('open', 'condemned') AND t.state = 'open' AND t.kind = 'archive' AND t.closes_at > f.closes_at) THEN
        RAISE EXCEPTION 'a segment goes to an open archive class that is over later' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER segments_rescheduled BEFORE UPDATE OF class_no, wrapped_identity ON lotkeeper.segments
    FOR EACH ROW WHEN (NEW.class_no <> OLD.class_no OR NEW.wrapped_identity <> OLD.wrapped_identity) EXECUTE FUNCTION lotkeeper.segments_rescheduled();
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lotkeeper.records_archive_class() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.content_class_no IS DISTINCT FROM coalesce(OLD.content_class_no, OLD.archive_class_no)
       OR (SELECT c.state FROM lotkeeper.classes c WHERE c.class_no = NEW.archive_class_no) IS DISTINCT FROM 'open'
       OR NOT (OLD.state = 'active' AND NEW.state = 'active'
               OR OLD.state = 'archived' AND NEW.segment_no IS DISTINCT FROM OLD.segment_no
               OR OLD.state = 'archived' AND NEW.archive_class_no = (SELECT g.class_no FROM lotkeeper.segments g WHERE g.segment_no = NEW.segment_no)) THEN
        RAISE EXCEPTION 'an archive class is left by active records, and with the segment' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lotkeeper.copies_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.deleted_at <> ''
       OR (NEW.segment_no, NEW.vault, NEW.object_version, NEW.manifest_version, NEW.verified_at)
          IS DISTINCT FROM (OLD.segment_no, OLD.vault, OLD.object_version, OLD.manifest_version, OLD.verified_at)
       OR (CASE WHEN (SELECT g.purge_leaf FROM lotkeeper.segments g WHERE g.segment_no = OLD.segment_no) = 0 THEN NEW.deleted_at <> '' OR NEW.retain_until <= OLD.retain_until
                ELSE NEW.deleted_at = '' OR NEW.retain_until <> OLD.retain_until END) THEN
        RAISE EXCEPTION 'a copy only changes by a longer lock, and by its end, after that of its segment' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    guard record;
BEGIN
    FOR guard IN SELECT c.relname, g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
              WHERE c.relnamespace = 'lotkeeper'::regnamespace AND NOT g.tgisinternal AND g.tgenabled <> 'A' LOOP
        EXECUTE format('ALTER TABLE lotkeeper.%I ENABLE ALWAYS TRIGGER %I', guard.relname, guard.tgname);
    END LOOP;
    IF pg_has_role(current_user, 'lotkeeper_owner', 'USAGE') THEN
        ALTER TABLE lotkeeper.reschedules OWNER TO lotkeeper_owner;
        ALTER FUNCTION lotkeeper.records_rescheduled() OWNER TO lotkeeper_owner;
        ALTER FUNCTION lotkeeper.segments_rescheduled() OWNER TO lotkeeper_owner;
    END IF;
END $$;
-- +goose StatementEnd

-- A sweep reschedules, and opens the classes of the days that records are due on then. An
-- administrator sets the dates that schedules begin with.
REVOKE EXECUTE ON FUNCTION lotkeeper.records_rescheduled(), lotkeeper.segments_rescheduled() FROM PUBLIC;
GRANT SELECT ON lotkeeper.reschedules TO lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
GRANT INSERT ON lotkeeper.reschedules TO lotkeeper_sweeper;
GRANT UPDATE (following_leaf, following_seq, following_done) ON lotkeeper.meta TO lotkeeper_sweeper;
GRANT UPDATE (due_at) ON lotkeeper.records TO lotkeeper_sweeper;
GRANT UPDATE (class_no, wrapped_identity, retain_until) ON lotkeeper.segments TO lotkeeper_sweeper;
GRANT UPDATE (retain_until) ON lotkeeper.segment_copies TO lotkeeper_sweeper;
GRANT EXECUTE ON FUNCTION lotkeeper.open_month(integer) TO lotkeeper_sweeper;
CREATE POLICY reschedules ON lotkeeper.leaves FOR INSERT TO lotkeeper_sweeper
    WITH CHECK (action IN ('rescheduled', 'segment-moved'));
CREATE POLICY triggers ON lotkeeper.leaves FOR INSERT TO lotkeeper_admin
    WITH CHECK (action IN ('trigger-set', 'trigger-unset'));

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
