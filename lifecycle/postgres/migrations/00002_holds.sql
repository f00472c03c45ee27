-- +goose Up

-- Records that are there already came without their lineage, which is sealed in
-- them: a trace would miss it, and a hold with it.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM lotkeeper.records) THEN
        RAISE EXCEPTION 'the lineage of the records in this database is not known, so that holds could not be traced: export them, and ingest them into a new one';
    END IF;
END $$;
-- +goose StatementEnd

ALTER TABLE lotkeeper.holds
    ADD COLUMN review_at text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN until_at  text COLLATE "C" NOT NULL DEFAULT '';
-- A case is known by its reference.
CREATE UNIQUE INDEX holds_reference ON lotkeeper.holds (kind, reference) WHERE reference <> '' AND released_at = '';

-- A scope is a lifecycle.Scope: NULL is a condition that is not asked.
ALTER TABLE lotkeeper.hold_scopes
    DROP CONSTRAINT hold_scopes_check,
    DROP CONSTRAINT hold_scopes_check1,
    ADD COLUMN tlc_prefix text COLLATE "C",
    ADD COLUMN location   text COLLATE "C",
    ADD COLUMN product    text COLLATE "C",
    ADD COLUMN event_type text COLLATE "C",
    ADD COLUMN from_at    text COLLATE "C",
    ADD COLUMN to_at      text COLLATE "C",
    ADD COLUMN everything boolean NOT NULL DEFAULT false,
    ADD COLUMN trace      text COLLATE "C" NOT NULL DEFAULT '' CHECK (trace IN ('', 'forward', 'backward', 'both'));
-- Without a condition a scope would cover everything, and has to say so.
ALTER TABLE lotkeeper.hold_scopes ADD CONSTRAINT hold_scopes_condition
    CHECK (everything <> (coalesce(record_id, tlc, tlc_prefix, location, product, event_type, from_at, to_at) IS NOT NULL));
-- Those that are looked up neither by record nor by lot: each is compared with
-- each record.
CREATE INDEX hold_scopes_general ON lotkeeper.hold_scopes (scope_no) WHERE record_id IS NULL AND tlc IS NULL;

-- What was made from what, as records say it: a row for each input lot.
CREATE TABLE lotkeeper.lineage (
    seq           bigint NOT NULL,
    leaf_id       bigint NOT NULL,
    input_tlc     text COLLATE "C" NOT NULL CHECK (input_tlc <> ''),
    input_source  text COLLATE "C" NOT NULL,
    output_tlc    text COLLATE "C" NOT NULL CHECK (output_tlc <> ''),
    output_source text COLLATE "C" NOT NULL,
    PRIMARY KEY (seq, input_tlc, input_source)
);
CREATE INDEX lineage_input ON lotkeeper.lineage (input_tlc);
CREATE INDEX lineage_output ON lotkeeper.lineage (output_tlc);
CREATE INDEX lineage_leaf ON lotkeeper.lineage (leaf_id);

-- Which records came with which leaf: their numbers are contiguous.
CREATE TABLE lotkeeper.merges (
    leaf_id   bigint PRIMARY KEY,
    first_seq bigint NOT NULL,
    records   integer NOT NULL
);

-- How far the closure of a traced scope is. What arrived up to the leaf traced_to
-- was considered, and the lots up to lot_no expanded_to have their neighbours in.
CREATE TABLE lotkeeper.hold_traces (
    scope_no    bigint PRIMARY KEY REFERENCES lotkeeper.hold_scopes,
    traced_to   bigint NOT NULL DEFAULT 0,
    expanded_to bigint NOT NULL DEFAULT 0,
    lots        bigint NOT NULL DEFAULT 0
);

-- The closure: the lots that a scope's trace led to.
CREATE TABLE lotkeeper.hold_lots (
    lot_no     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope_no   bigint NOT NULL,
    tlc        text COLLATE "C" NOT NULL CHECK (tlc <> ''),
    tlc_source text COLLATE "C" NOT NULL,
    UNIQUE (scope_no, tlc, tlc_source)
);
CREATE INDEX hold_lots_tlc ON lotkeeper.hold_lots (tlc);
CREATE INDEX hold_lots_scope ON lotkeeper.hold_lots (scope_no, lot_no);

-- Legal holds in the vaults, as far as they are confirmed: lifecycle.LegalState.
CREATE TABLE lotkeeper.legal_holds (
    segment_no integer NOT NULL,
    vault      text COLLATE "C" NOT NULL,
    state      text COLLATE "C" NOT NULL CHECK (state IN ('set', 'lifting')),
    since      text COLLATE "C" NOT NULL,
    PRIMARY KEY (segment_no, vault),
    FOREIGN KEY (segment_no, vault) REFERENCES lotkeeper.segment_copies
);

-- The guards of what is new, and the one that knew less of what is held.
DROP TRIGGER holds_immutable ON lotkeeper.holds;
CREATE TRIGGER holds_immutable BEFORE UPDATE OF hold_no, hold_id, kind, reference, reason, placed_by, placed_at, review_at, until_at ON lotkeeper.holds
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a hold only changes by its release');
CREATE TRIGGER lineage_kept BEFORE UPDATE OR DELETE ON lotkeeper.lineage
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('lineage never changes');
CREATE TRIGGER merges_kept BEFORE UPDATE OR DELETE ON lotkeeper.merges
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a merge never changes');
CREATE TRIGGER hold_lots_kept BEFORE UPDATE OR DELETE ON lotkeeper.hold_lots
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a lot that a trace led to stays in it');
CREATE TRIGGER hold_traces_kept BEFORE DELETE ON lotkeeper.hold_traces
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a trace goes on as long as its hold');
CREATE TRIGGER hold_traces_forward BEFORE UPDATE ON lotkeeper.hold_traces
    FOR EACH ROW WHEN (NEW.scope_no <> OLD.scope_no OR NEW.lots < OLD.lots OR NEW.traced_to < OLD.traced_to OR NEW.expanded_to < OLD.expanded_to)
    EXECUTE FUNCTION lotkeeper.refuse('a trace only goes forward');
CREATE TRIGGER legal_holds_moves BEFORE UPDATE ON lotkeeper.legal_holds
    FOR EACH ROW WHEN (NEW.segment_no <> OLD.segment_no OR NEW.vault <> OLD.vault OR NEW.state = OLD.state)
    EXECUTE FUNCTION lotkeeper.refuse('a legal hold goes from set to lifting, or back');
CREATE TRIGGER legal_holds_kept BEFORE DELETE ON lotkeeper.legal_holds
    FOR EACH ROW WHEN (OLD.state <> 'lifting')
    EXECUTE FUNCTION lotkeeper.refuse('a legal hold is lifted before it is forgotten');

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
    IF EXISTS (SELECT FROM lotkeeper.holds h WHERE h.released_at = '')
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

-- All conditions of a scope but the record. One expression, which the planner puts
-- in place of the call.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.matches(s lotkeeper.hold_scopes, tlc text, source text, location text, product text, event_type text, event_at text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT (s.tlc IS NULL OR s.tlc = $2)
       AND (s.tlc_prefix IS NULL OR starts_with($2, s.tlc_prefix))
       AND (coalesce(s.tlc_source, '') = '' OR $3 = '' OR s.tlc_source = $3)
       AND (s.location IS NULL OR s.location = $4)
       AND (s.product IS NULL OR s.product = $5)
       AND (s.event_type IS NULL OR s.event_type = $6)
       AND (s.from_at IS NULL OR s.from_at <= $7 COLLATE "C")
       AND (s.to_at IS NULL OR $7 COLLATE "C" < s.to_at)
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    t text;
    guard record;
BEGIN
    FOREACH t IN ARRAY ARRAY['lineage', 'merges', 'hold_traces', 'hold_lots', 'legal_holds'] LOOP
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
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
