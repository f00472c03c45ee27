-- +goose Up

-- A recovery of the log does again what entries tell that are published: records are
-- archived that a hold covers which was placed since the backup, classes destroyed whose
-- DEKs had been moved, and entries that nobody has published make room. It marks its
-- transaction here, and some guards below let it pass; no others do. The mark cannot be
-- committed, for what it refers to is never there: it is taken away in the same
-- transaction, or nothing has happened. Nobody but the owner can make it, and all may
-- look whether it is there, as the guards of what they do have to.
CREATE TABLE lotkeeper.never (one integer PRIMARY KEY CHECK (one <> 1));
CREATE TABLE lotkeeper.recovering (
    one integer PRIMARY KEY CHECK (one = 1) REFERENCES lotkeeper.never DEFERRABLE INITIALLY DEFERRED
);
GRANT SELECT ON lotkeeper.recovering TO PUBLIC;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lotkeeper.records_archived() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT count(*) FROM after a JOIN before b USING (seq) LEFT JOIN lotkeeper.segments g ON g.segment_no = a.segment_no
         WHERE a.state = 'archived' AND b.state = 'active' AND g.state IS DISTINCT FROM 'verified') > 0 THEN
        RAISE EXCEPTION 'archived without a verified segment' USING ERRCODE = 'restrict_violation';
    END IF;
    -- Each record is looked up for itself, which LATERAL with LIMIT says to a planner
    -- that knows nothing of how many rows these are. What was archived already and
    -- changes in another way may be held.
    IF NOT EXISTS (SELECT FROM lotkeeper.recovering WHERE one = 1) AND EXISTS (SELECT FROM lotkeeper.holds h WHERE h.released_at = '')
       AND (SELECT count(*) FROM (SELECT seq FROM before b WHERE b.state = 'active' OFFSET 0) b JOIN (SELECT * FROM after a WHERE a.state = 'archived' OFFSET 0) a USING (seq), LATERAL (
            SELECT FROM lotkeeper.hold_scopes s JOIN lotkeeper.holds h USING (hold_no)
             WHERE s.record_id = a.record_id AND h.released_at = '' AND lotkeeper.matches(s, a.tlc, a.tlc_source, a.location, a.product, a.event_type, a.event_at)
            UNION ALL SELECT FROM lotkeeper.hold_scopes s JOIN lotkeeper.holds h USING (hold_no)
             WHERE s.tlc = a.tlc AND s.record_id IS NULL AND h.released_at = '' AND lotkeeper.matches(s, a.tlc, a.tlc_source, a.location, a.product, a.event_type, a.event_at)
            UNION ALL SELECT FROM lotkeeper.hold_scopes s JOIN lotkeeper.holds h USING (hold_no)
             WHERE s.tlc IS NULL AND s.record_id IS NULL AND h.released_at = '' AND lotkeeper.matches(s, a.tlc, a.tlc_source, a.location, a.product, a.event_type, a.event_at)
            UNION ALL SELECT FROM lotkeeper.hold_lots l JOIN lotkeeper.hold_scopes s USING (scope_no) JOIN lotkeeper.holds h USING (hold_no)
             WHERE l.tlc = a.tlc AND h.released_at = '' AND (l.tlc_source = '' OR a.tlc_source = '' OR l.tlc_source = a.tlc_source)
            LIMIT 1) held) > 0 THEN
        RAISE EXCEPTION 'archived under a hold' USING ERRCODE = 'restrict_violation';
    END IF;
    IF (SELECT count(*) FROM (SELECT class_no FROM after GROUP BY class_no) a LEFT JOIN lotkeeper.classes c USING (class_no) WHERE c.class_no IS NULL) > 0 THEN
        RAISE EXCEPTION 'a record of an unknown class' USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lotkeeper.classes_moves() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'open' THEN
            RAISE EXCEPTION 'a class is inserted open' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF NOT (OLD.state = 'open' AND NEW.state = 'condemned')
       AND NOT (OLD.state = 'condemned' AND NEW.state = 'executing')
       AND NOT (OLD.state = 'executing' AND NEW.state = 'destroyed') THEN
        RAISE EXCEPTION 'illegal move of a class''s state' USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM lotkeeper.recovering WHERE one = 1) THEN
        RETURN NEW;
    END IF;
    IF EXISTS (SELECT FROM lotkeeper.deks d WHERE d.class_no = OLD.class_no) THEN
        RAISE EXCEPTION 'the class still has DEKs' USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM lotkeeper.records r WHERE r.class_no = OLD.class_no AND r.archive_leaf = 0) THEN
        RAISE EXCEPTION 'the class still has active records' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION lotkeeper.log_kept() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (SELECT FROM lotkeeper.recovering WHERE one = 1) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the log never changes' USING ERRCODE = 'restrict_violation', TABLE = TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
DROP TRIGGER log_entries_kept ON lotkeeper.log_entries;
CREATE TRIGGER log_entries_kept BEFORE UPDATE OR DELETE ON lotkeeper.log_entries
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.log_kept();
DROP TRIGGER log_hashes_kept ON lotkeeper.log_hashes;
CREATE TRIGGER log_hashes_kept BEFORE UPDATE OR DELETE ON lotkeeper.log_hashes
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.log_kept();
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.log_published_forward() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.vault <> OLD.vault OR NEW.size < OLD.size AND NOT EXISTS (SELECT FROM lotkeeper.recovering WHERE one = 1) THEN
        RAISE EXCEPTION 'what is published only grows' USING ERRCODE = 'restrict_violation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP TRIGGER log_published_forward ON lotkeeper.log_published;
CREATE TRIGGER log_published_forward BEFORE UPDATE ON lotkeeper.log_published
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.log_published_forward();

-- A leaf that is published keeps the role that was authenticated when it was written.
-- A new one has that of its session, and can be read back.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lotkeeper.leaves_authenticated() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM lotkeeper.recovering WHERE one = 1) THEN
        NEW.role := session_user;
    END IF;
    -- What cannot be read back would keep the whole log from going on.
    PERFORM NEW.body::json;
    IF NEW.at !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$' THEN
        RAISE EXCEPTION '% is not a time', NEW.at USING ERRCODE = 'invalid_datetime_format';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    t text;
    guard record;
BEGIN
    FOREACH t IN ARRAY ARRAY['never', 'recovering'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON lotkeeper.%I FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.refuse(%L)',
                       t || '_emptied', t, 'nothing here is deleted at one go');
    END LOOP;
    FOR guard IN SELECT c.relname, g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
              WHERE c.relnamespace = 'lotkeeper'::regnamespace AND NOT g.tgisinternal AND g.tgenabled <> 'A' LOOP
        EXECUTE format('ALTER TABLE lotkeeper.%I ENABLE ALWAYS TRIGGER %I', guard.relname, guard.tgname);
    END LOOP;
    IF pg_has_role(current_user, 'lotkeeper_owner', 'USAGE') THEN
        ALTER TABLE lotkeeper.never OWNER TO lotkeeper_owner;
        ALTER TABLE lotkeeper.recovering OWNER TO lotkeeper_owner;
        ALTER FUNCTION lotkeeper.log_kept() OWNER TO lotkeeper_owner;
        ALTER FUNCTION lotkeeper.log_published_forward() OWNER TO lotkeeper_owner;
    END IF;
END $$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION lotkeeper.log_kept(), lotkeeper.log_published_forward() FROM PUBLIC;

-- +goose Down
-- The log is not ours to drop: there is no way back from here.
SELECT 1;
