-- +goose Up

-- First of all, and before anything is read: whatever isolation is the default here,
-- no leaf is committed between the look at them below and the end.
LOCK TABLE lotkeeper.leaves IN ACCESS EXCLUSIVE MODE;

-- role is the server's session_user: who was authenticated, where actor is what the
-- writer says of itself.
ALTER TABLE lotkeeper.leaves
    ADD COLUMN software text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN role     text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX leaves_action ON lotkeeper.leaves (action, leaf_id);

-- Leaves that wait for their index in the log: each is put here with its own
-- transaction, since of two leaves the one with the smaller number may be committed
-- later.
CREATE TABLE lotkeeper.log_pending (
    leaf_id bigint PRIMARY KEY
);

-- Which index a leaf has in the log. A table beside the leaves, for these never change.
CREATE TABLE lotkeeper.log_entries (
    log_index bigint PRIMARY KEY CHECK (log_index >= 0),
    leaf_id   bigint NOT NULL UNIQUE
);

-- The hashes of the log's tree, numbered as golang.org/x/mod/sumdb/tlog stores them.
CREATE TABLE lotkeeper.log_hashes (
    n    bigint PRIMARY KEY CHECK (n >= 0),
    hash bytea NOT NULL CHECK (length(hash) = 32)
);

-- Up to what size of the tree each vault has confirmed a checkpoint and all under it.
CREATE TABLE lotkeeper.log_published (
    vault text COLLATE "C" PRIMARY KEY,
    size  bigint NOT NULL CHECK (size >= 0)
);

INSERT INTO lotkeeper.log_pending SELECT leaf_id FROM lotkeeper.leaves;

-- SECURITY DEFINER: who may write leaves need not be able to write the queue.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.leaves_queued() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO lotkeeper.log_pending VALUES (NEW.leaf_id);
    RETURN NULL;
END $$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION lotkeeper.leaves_queued() FROM PUBLIC;
CREATE TRIGGER leaves_queued AFTER INSERT ON lotkeeper.leaves
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.leaves_queued();

-- A leaf leaves the queue when it has its index, and by no other way.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.log_pending_kept() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT count(*) FROM gone g WHERE (SELECT e.log_index FROM lotkeeper.log_entries e WHERE e.leaf_id = g.leaf_id) IS NULL) > 0 THEN
        RAISE EXCEPTION 'the leaf has no index in the log yet' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER log_pending_kept AFTER DELETE ON lotkeeper.log_pending
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.log_pending_kept();
CREATE TRIGGER log_pending_immutable BEFORE UPDATE ON lotkeeper.log_pending
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a leaf waits for its index until it has it');
CREATE TRIGGER log_entries_kept BEFORE UPDATE OR DELETE ON lotkeeper.log_entries
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('the log never changes');
CREATE TRIGGER log_hashes_kept BEFORE UPDATE OR DELETE ON lotkeeper.log_hashes
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('the log never changes');
CREATE TRIGGER log_published_forward BEFORE UPDATE ON lotkeeper.log_published
    FOR EACH ROW WHEN (NEW.vault <> OLD.vault OR NEW.size < OLD.size)
    EXECUTE FUNCTION lotkeeper.refuse('what is published only grows');
CREATE TRIGGER log_published_kept BEFORE DELETE ON lotkeeper.log_published
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('what is published only grows');

-- +goose StatementBegin
DO $$
DECLARE
    t text;
    guard record;
BEGIN
    FOREACH t IN ARRAY ARRAY['log_pending', 'log_entries', 'log_hashes', 'log_published'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON lotkeeper.%I FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.refuse(%L)',
                       t || '_emptied', t, 'nothing here is deleted at one go');
    END LOOP;
    FOR guard IN SELECT c.relname, g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
              WHERE c.relnamespace = 'lotkeeper'::regnamespace AND NOT g.tgisinternal AND g.tgenabled <> 'A' LOOP
        EXECUTE format('ALTER TABLE lotkeeper.%I ENABLE ALWAYS TRIGGER %I', guard.relname, guard.tgname);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
-- The log is not ours to drop: there is no way back from here.
SELECT 1;
