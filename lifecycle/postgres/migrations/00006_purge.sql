-- +goose Up

-- The end of what is archived. A segment that was purged has the leaf that tells so;
-- state keeps what it was before. A copy has the time at which it was deleted.
ALTER TABLE lotkeeper.segments ADD COLUMN purge_leaf bigint NOT NULL DEFAULT 0;
ALTER TABLE lotkeeper.segment_copies ADD COLUMN deleted_at text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX segments_class ON lotkeeper.segments (class_no);

-- The archive class that the content identity was made with, where the record is in
-- another by now.
ALTER TABLE lotkeeper.records
    ADD COLUMN content_class_no integer,
    ADD COLUMN purge_leaf bigint NOT NULL DEFAULT 0;

-- Records that were held when their archive class was over: which leaf moved which
-- record out of which segment.
CREATE TABLE lotkeeper.rearchivals (
    seq          bigint NOT NULL,
    leaf_id      bigint NOT NULL,
    from_segment integer NOT NULL,
    PRIMARY KEY (seq, leaf_id)
);
CREATE INDEX rearchivals_leaf ON lotkeeper.rearchivals (leaf_id);
CREATE INDEX rearchivals_from ON lotkeeper.rearchivals (from_segment);
CREATE TRIGGER rearchivals_kept BEFORE UPDATE OR DELETE ON lotkeeper.rearchivals
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('what was archived anew is recorded for ever');
CREATE TRIGGER rearchivals_emptied BEFORE TRUNCATE ON lotkeeper.rearchivals
    FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.refuse('nothing here is deleted at one go');

-- A record is purged when nothing can stop the end of its segment's key any more. These
-- are triggers of a row, for they come to rows that are few, or wait for a lock.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.records_purged() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce((SELECT c.state FROM lotkeeper.segments g JOIN lotkeeper.classes c USING (class_no) WHERE g.segment_no = OLD.segment_no), '') NOT IN ('executing', 'destroyed') THEN
        RAISE EXCEPTION 'purged before its archive class is' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER records_purged BEFORE UPDATE OF state ON lotkeeper.records
    FOR EACH ROW WHEN (OLD.state = 'archived' AND NEW.state = 'purged') EXECUTE FUNCTION lotkeeper.records_purged();

-- An archived record is in a segment of its archive class. It goes to another only
-- where that is verified, and the key that opens it is to stay.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.records_rearchived() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.state <> 'archived' OR NEW.state <> 'archived'
       OR NOT EXISTS (SELECT FROM lotkeeper.segments g JOIN lotkeeper.classes c USING (class_no)
                       WHERE g.segment_no = NEW.segment_no AND g.state = 'verified' AND c.state = 'open' AND c.class_no = NEW.archive_class_no) THEN
        RAISE EXCEPTION 'archived anew without a verified segment of an open class' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER records_rearchived BEFORE UPDATE OF segment_no ON lotkeeper.records
    FOR EACH ROW WHEN (OLD.state <> 'active' AND NEW.segment_no IS DISTINCT FROM OLD.segment_no) EXECUTE FUNCTION lotkeeper.records_rearchived();
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.records_archive_class() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.content_class_no IS DISTINCT FROM coalesce(OLD.content_class_no, OLD.archive_class_no)
       OR (SELECT c.state FROM lotkeeper.classes c WHERE c.class_no = NEW.archive_class_no) IS DISTINCT FROM 'open'
       OR NOT (OLD.state = 'active' AND NEW.state = 'active' OR OLD.state = 'archived' AND NEW.segment_no IS DISTINCT FROM OLD.segment_no) THEN
        RAISE EXCEPTION 'an archive class is left for a later one, by active records and with the segment' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER records_archive_class BEFORE UPDATE OF archive_class_no, content_class_no ON lotkeeper.records
    FOR EACH ROW WHEN (NEW.archive_class_no <> OLD.archive_class_no OR NEW.content_class_no IS DISTINCT FROM OLD.content_class_no)
    EXECUTE FUNCTION lotkeeper.records_archive_class();

-- An archive class is not condemned while a record is to come into it, and the law's
-- floor of each that is in it lies before the end of its period. From then on none comes.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.classes_purged() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM lotkeeper.records r WHERE r.archive_class_no = OLD.class_no AND r.archive_leaf = 0) THEN
        RAISE EXCEPTION 'the class still has records to come' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state = 'condemned' AND EXISTS (SELECT FROM lotkeeper.segments g JOIN lotkeeper.records r ON r.segment_no = g.segment_no
                WHERE g.class_no = OLD.class_no AND r.state = 'archived' AND r.purge_not_before > OLD.closes_at) THEN
        RAISE EXCEPTION 'the class has records that are to be kept for longer' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER classes_purged BEFORE UPDATE OF state ON lotkeeper.classes
    FOR EACH ROW WHEN (NEW.state IN ('condemned', 'executing') AND NEW.state <> OLD.state AND OLD.kind IN ('archive', 'hold'))
    EXECUTE FUNCTION lotkeeper.classes_purged();

-- +goose StatementBegin
CREATE FUNCTION lotkeeper.segments_purged() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.purge_leaf <> 0 OR OLD.state NOT IN ('verified', 'settled')
       OR (SELECT c.state FROM lotkeeper.classes c WHERE c.class_no = OLD.class_no) NOT IN ('executing', 'destroyed')
       OR EXISTS (SELECT FROM lotkeeper.records r WHERE r.segment_no = OLD.segment_no AND r.state = 'archived') THEN
        RAISE EXCEPTION 'a segment is purged once, after its key and its records' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER segments_purged BEFORE UPDATE OF purge_leaf ON lotkeeper.segments
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.segments_purged();

DROP TRIGGER copies_kept ON lotkeeper.segment_copies;
CREATE TRIGGER copies_kept BEFORE DELETE ON lotkeeper.segment_copies
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a copy is recorded for ever');
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.copies_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.deleted_at <> '' OR NEW.deleted_at = ''
       OR (NEW.segment_no, NEW.vault, NEW.object_version, NEW.manifest_version, NEW.retain_until, NEW.verified_at)
          IS DISTINCT FROM (OLD.segment_no, OLD.vault, OLD.object_version, OLD.manifest_version, OLD.retain_until, OLD.verified_at)
       OR (SELECT g.purge_leaf FROM lotkeeper.segments g WHERE g.segment_no = OLD.segment_no) = 0 THEN
        RAISE EXCEPTION 'a copy only changes by its end, after that of its segment' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER copies_deleted BEFORE UPDATE ON lotkeeper.segment_copies
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.copies_deleted();

-- A vault need not have what is purged.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lotkeeper.vaults_moves() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state = 'retiring' THEN
            RAISE EXCEPTION 'a vault is not inserted retiring' USING ERRCODE = 'restrict_violation';
        END IF;
    ELSIF NOT (OLD.state = 'joining' AND NEW.state = 'active') AND NOT (OLD.state IN ('joining', 'active') AND NEW.state = 'retiring') THEN
        RAISE EXCEPTION 'illegal move of a vault''s state' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state = 'active' AND EXISTS (SELECT FROM lotkeeper.segments g WHERE g.state IN ('verified', 'settled') AND g.purge_leaf = 0
            AND NOT EXISTS (SELECT FROM lotkeeper.segment_copies c WHERE c.segment_no = g.segment_no AND c.vault = NEW.name)) THEN
        RAISE EXCEPTION 'the vault lacks a segment' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    guard record;
    own record;
BEGIN
    FOR guard IN SELECT c.relname, g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
              WHERE c.relnamespace = 'lotkeeper'::regnamespace AND NOT g.tgisinternal AND g.tgenabled <> 'A' LOOP
        EXECUTE format('ALTER TABLE lotkeeper.%I ENABLE ALWAYS TRIGGER %I', guard.relname, guard.tgname);
    END LOOP;
    IF NOT pg_has_role(current_user, 'lotkeeper_owner', 'USAGE') THEN
        RETURN;
    END IF;
    ALTER TABLE lotkeeper.rearchivals OWNER TO lotkeeper_owner;
    FOR own IN SELECT format('ALTER FUNCTION %s OWNER TO lotkeeper_owner', oid::regprocedure) AS command FROM pg_proc WHERE pronamespace = 'lotkeeper'::regnamespace LOOP
        EXECUTE own.command;
    END LOOP;
END $$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION lotkeeper.records_purged(), lotkeeper.records_rearchived(), lotkeeper.records_archive_class(), lotkeeper.classes_purged(),
    lotkeeper.segments_purged(), lotkeeper.copies_deleted() FROM PUBLIC;
GRANT SELECT ON lotkeeper.rearchivals TO lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
GRANT SELECT (purge_leaf) ON lotkeeper.segments
    TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
GRANT SELECT (content_class_no) ON lotkeeper.records TO lotkeeper_ingest;
GRANT INSERT ON lotkeeper.rearchivals TO lotkeeper_sweeper;
GRANT UPDATE (archive_class_no, content_class_no, purge_leaf) ON lotkeeper.records TO lotkeeper_sweeper;
GRANT UPDATE (purge_leaf) ON lotkeeper.segments TO lotkeeper_sweeper;
GRANT UPDATE (deleted_at) ON lotkeeper.segment_copies TO lotkeeper_sweeper;
CREATE POLICY purges ON lotkeeper.leaves FOR INSERT TO lotkeeper_sweeper
    WITH CHECK (action IN ('archive-class-moved', 'rearchived', 'purged', 'objects-deleted'));

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
