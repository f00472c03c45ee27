-- +goose Up

-- How many records were purged, by the month of the event, product and event type: what
-- stays of records whose rule asks for it. It is written with their purge.
CREATE TABLE lotkeeper.aggregates (
    month      text COLLATE "C" NOT NULL,
    product    text COLLATE "C" NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    records    bigint NOT NULL CHECK (records > 0),
    PRIMARY KEY (month, product, event_type)
);
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.aggregates_grow() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.month, NEW.product, NEW.event_type) IS DISTINCT FROM (OLD.month, OLD.product, OLD.event_type) OR NEW.records <= OLD.records THEN
        RAISE EXCEPTION 'a total only grows' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER aggregates_grow BEFORE UPDATE ON lotkeeper.aggregates
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.aggregates_grow();
CREATE TRIGGER aggregates_kept BEFORE DELETE ON lotkeeper.aggregates
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a total is kept for ever');
CREATE TRIGGER aggregates_emptied BEFORE TRUNCATE ON lotkeeper.aggregates
    FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.refuse('nothing here is deleted at one go');
ALTER TABLE lotkeeper.aggregates ENABLE ALWAYS TRIGGER aggregates_grow;
ALTER TABLE lotkeeper.aggregates ENABLE ALWAYS TRIGGER aggregates_kept;
ALTER TABLE lotkeeper.aggregates ENABLE ALWAYS TRIGGER aggregates_emptied;

-- A sweep tells which programs it ran before it destroyed anything.
CREATE POLICY steps ON lotkeeper.leaves FOR INSERT TO lotkeeper_sweeper
    WITH CHECK (action = 'step');

-- +goose StatementBegin
DO $$
BEGIN
    IF pg_has_role(current_user, 'lotkeeper_owner', 'USAGE') THEN
        ALTER TABLE lotkeeper.aggregates OWNER TO lotkeeper_owner;
        ALTER FUNCTION lotkeeper.aggregates_grow() OWNER TO lotkeeper_owner;
    END IF;
END $$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION lotkeeper.aggregates_grow() FROM PUBLIC;
GRANT SELECT ON lotkeeper.aggregates TO lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
GRANT INSERT, UPDATE (records) ON lotkeeper.aggregates TO lotkeeper_sweeper;

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
