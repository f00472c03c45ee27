-- +goose Up

-- A record's lineage is written as the record is taken in. Of records that are
-- there already it is sealed in their payloads, and a hold could not trace it.
CREATE TEMP TABLE refused (
    records INTEGER CONSTRAINT "the lineage of the records in it is not known: this database was made before holds could trace; export its records and ingest them into a new one" CHECK (records = 0)
);
INSERT INTO refused SELECT EXISTS (SELECT 1 FROM records);
DROP TABLE refused;

-- Which records came with which leaf: the seqs of a merge are contiguous.
CREATE TABLE merges (
    leaf_id   INTEGER PRIMARY KEY REFERENCES leaves,
    first_seq INTEGER NOT NULL,
    records   INTEGER NOT NULL
);

-- Which lots a record's lot was made from, a row for each of them.
CREATE TABLE lineage (
    link_no       INTEGER PRIMARY KEY,
    seq           INTEGER NOT NULL REFERENCES records,
    leaf_id       INTEGER NOT NULL REFERENCES merges,
    input_tlc     TEXT    NOT NULL CHECK (input_tlc <> ''),
    input_source  TEXT    NOT NULL,
    output_tlc    TEXT    NOT NULL CHECK (output_tlc <> ''),
    output_source TEXT    NOT NULL
);
CREATE INDEX lineage_input ON lineage (input_tlc);
CREATE INDEX lineage_output ON lineage (output_tlc);
CREATE INDEX lineage_leaf ON lineage (leaf_id);

-- review_at and until_at: '' is never. Nothing here looks at them: a hold ends
-- when it is released.
ALTER TABLE holds ADD COLUMN review_at TEXT NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN until_at  TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX holds_reference ON holds (kind, reference) WHERE reference <> '' AND released_at = '';

-- A scope is a lifecycle.Scope. NULL is a condition that it does not have; '' in
-- tlc_source is every source. SQLite cannot change a table's CHECK constraints, so
-- the table is made anew; what looks at it comes after it.
DROP TRIGGER records_archived;
CREATE TEMP TABLE kept AS SELECT * FROM hold_scopes;
DROP TABLE hold_scopes;
CREATE TABLE hold_scopes (
    scope_no   INTEGER PRIMARY KEY,
    hold_no    INTEGER NOT NULL REFERENCES holds,
    record_id  TEXT CHECK (record_id <> ''),
    tlc        TEXT CHECK (tlc <> ''),
    tlc_prefix TEXT CHECK (tlc_prefix <> ''),
    tlc_source TEXT NOT NULL DEFAULT '',
    location   TEXT CHECK (location <> ''),
    product    TEXT CHECK (product <> ''),
    event_type TEXT CHECK (event_type <> ''),
    from_at    TEXT CHECK (from_at <> ''),
    to_at      TEXT CHECK (to_at <> ''),
    everything INTEGER NOT NULL DEFAULT 0 CHECK (everything IN (0, 1)),
    trace      TEXT NOT NULL DEFAULT '' CHECK (trace IN ('', 'forward', 'backward', 'both')),
    CHECK (tlc IS NULL OR tlc_prefix IS NULL),
    CHECK (tlc_source = '' OR coalesce(tlc, tlc_prefix) IS NOT NULL),
    -- What has no condition matches every record, so it has to be asked for.
    CHECK (everything = (coalesce(record_id, tlc, tlc_prefix, location, product, event_type, from_at, to_at) IS NULL)),
    CHECK (NOT everything OR trace = '')
);
INSERT INTO hold_scopes (scope_no, hold_no, record_id, tlc, tlc_source) SELECT scope_no, hold_no, record_id, tlc, coalesce(tlc_source, '') FROM kept;
DROP TABLE kept;
CREATE INDEX hold_scopes_hold ON hold_scopes (hold_no);
CREATE INDEX hold_scopes_record ON hold_scopes (record_id) WHERE record_id IS NOT NULL;
CREATE INDEX hold_scopes_lot ON hold_scopes (tlc) WHERE tlc IS NOT NULL;
CREATE INDEX hold_scopes_general ON hold_scopes (scope_no) WHERE record_id IS NULL AND tlc IS NULL;

-- The lots that a scope's trace leads to. Those up to hold_traces.expanded_to have
-- their neighbours in it.
CREATE TABLE hold_lots (
    lot_no     INTEGER PRIMARY KEY,
    scope_no   INTEGER NOT NULL REFERENCES hold_scopes,
    tlc        TEXT    NOT NULL CHECK (tlc <> ''),
    tlc_source TEXT    NOT NULL,
    UNIQUE (scope_no, tlc, tlc_source)
);
CREATE INDEX hold_lots_scope ON hold_lots (scope_no);
CREATE INDEX hold_lots_lot ON hold_lots (tlc);

-- How far the lots of a scope with a trace are known: what came with leaves up to
-- traced_to was looked at, lots up to expanded_to have their neighbours.
CREATE TABLE hold_traces (
    scope_no    INTEGER PRIMARY KEY REFERENCES hold_scopes,
    traced_to   INTEGER NOT NULL DEFAULT 0,
    expanded_to INTEGER NOT NULL DEFAULT 0,
    lots        INTEGER NOT NULL DEFAULT 0
);

-- The legal hold on a copy. No row: none is confirmed.
CREATE TABLE legal_holds (
    segment_no INTEGER NOT NULL,
    vault      TEXT    NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('set', 'lifting')),
    since      TEXT    NOT NULL,
    PRIMARY KEY (segment_no, vault),
    FOREIGN KEY (segment_no, vault) REFERENCES segment_copies (segment_no, vault)
) WITHOUT ROWID;

-- A record is archived only in a segment that is verified, and with no open hold
-- on it: by its id, its lot, another condition, or the lots that a trace has led
-- to so far.
-- +goose StatementBegin
CREATE TRIGGER records_archived BEFORE UPDATE OF state ON records
WHEN NEW.state = 'archived' AND OLD.state = 'active'
BEGIN
    SELECT RAISE(ABORT, 'archived without a verified segment')
     WHERE NOT EXISTS (SELECT 1 FROM segments g WHERE g.segment_no = NEW.segment_no AND g.state = 'verified');
    SELECT RAISE(ABORT, 'archived under a hold')
     WHERE EXISTS (SELECT 1 FROM hold_scopes s CROSS JOIN holds h ON h.hold_no = s.hold_no
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
                      AND (l.tlc_source = '' OR NEW.tlc_source = '' OR l.tlc_source = NEW.tlc_source));
END;
-- +goose StatementEnd

-- An open hold's reference is its own among those of its kind. The reference index
-- says so too, and REPLACE would make room in it by deleting the other hold.
DROP TRIGGER holds_once;
DROP TRIGGER holds_immutable;
-- +goose StatementBegin
CREATE TRIGGER holds_once BEFORE INSERT ON holds
WHEN NEW.released_at <> '' OR EXISTS (SELECT 1 FROM holds h WHERE h.hold_no = NEW.hold_no OR h.hold_id = NEW.hold_id)
  OR EXISTS (SELECT 1 FROM holds h WHERE h.kind = NEW.kind AND h.reference = NEW.reference AND h.reference <> '' AND h.released_at = '')
BEGIN SELECT RAISE(ABORT, 'a hold is inserted once, and open, with a reference of its own'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER holds_immutable BEFORE UPDATE ON holds
WHEN OLD.released_at <> ''
  OR NEW.hold_no <> OLD.hold_no OR NEW.hold_id <> OLD.hold_id OR NEW.kind <> OLD.kind OR NEW.reference <> OLD.reference
  OR NEW.reason <> OLD.reason OR NEW.placed_by <> OLD.placed_by OR NEW.placed_at <> OLD.placed_at
  OR NEW.review_at <> OLD.review_at OR NEW.until_at <> OLD.until_at
BEGIN SELECT RAISE(ABORT, 'a hold only changes by its release'); END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER hold_scopes_once BEFORE INSERT ON hold_scopes
WHEN EXISTS (SELECT 1 FROM hold_scopes s WHERE s.scope_no = NEW.scope_no)
BEGIN SELECT RAISE(ABORT, 'a scope never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER hold_scopes_kept BEFORE DELETE ON hold_scopes
BEGIN SELECT RAISE(ABORT, 'a scope is never deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER hold_scopes_immutable BEFORE UPDATE ON hold_scopes
BEGIN SELECT RAISE(ABORT, 'a scope never changes'); END;
-- +goose StatementEnd

-- Lineage is as the records told it, for ever.
-- +goose StatementBegin
CREATE TRIGGER merges_once BEFORE INSERT ON merges
WHEN EXISTS (SELECT 1 FROM merges m WHERE m.leaf_id = NEW.leaf_id)
BEGIN SELECT RAISE(ABORT, 'a merge never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER merges_immutable BEFORE UPDATE ON merges
BEGIN SELECT RAISE(ABORT, 'a merge never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER merges_kept BEFORE DELETE ON merges
BEGIN SELECT RAISE(ABORT, 'a merge is never deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER lineage_once BEFORE INSERT ON lineage
WHEN EXISTS (SELECT 1 FROM lineage g WHERE g.link_no = NEW.link_no)
BEGIN SELECT RAISE(ABORT, 'lineage never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER lineage_immutable BEFORE UPDATE ON lineage
BEGIN SELECT RAISE(ABORT, 'lineage never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER lineage_kept BEFORE DELETE ON lineage
BEGIN SELECT RAISE(ABORT, 'lineage is never deleted'); END;
-- +goose StatementEnd

-- A trace starts from nothing and only goes forward, and its lots only grow.
-- +goose StatementBegin
CREATE TRIGGER hold_traces_born BEFORE INSERT ON hold_traces
WHEN NEW.traced_to <> 0 OR NEW.expanded_to <> 0 OR NEW.lots <> 0 OR EXISTS (SELECT 1 FROM hold_traces t WHERE t.scope_no = NEW.scope_no)
BEGIN SELECT RAISE(ABORT, 'a trace starts once, and from nothing'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER hold_traces_forward BEFORE UPDATE ON hold_traces
WHEN NEW.scope_no <> OLD.scope_no OR NEW.traced_to < OLD.traced_to OR NEW.expanded_to < OLD.expanded_to OR NEW.lots < OLD.lots
BEGIN SELECT RAISE(ABORT, 'a trace only goes forward'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER hold_traces_kept BEFORE DELETE ON hold_traces
BEGIN SELECT RAISE(ABORT, 'a trace is never deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER hold_lots_once BEFORE INSERT ON hold_lots
WHEN EXISTS (SELECT 1 FROM hold_lots l WHERE l.lot_no = NEW.lot_no)
  OR EXISTS (SELECT 1 FROM hold_lots l WHERE l.scope_no = NEW.scope_no AND l.tlc = NEW.tlc AND l.tlc_source = NEW.tlc_source)
BEGIN SELECT RAISE(ABORT, 'a lot of a trace is there once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER hold_lots_immutable BEFORE UPDATE ON hold_lots
BEGIN SELECT RAISE(ABORT, 'a lot of a trace never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER hold_lots_kept BEFORE DELETE ON hold_lots
BEGIN SELECT RAISE(ABORT, 'a lot of a trace is never deleted'); END;
-- +goose StatementEnd

-- A legal hold is lifted by way of lifting, when nothing confirms it.
-- +goose StatementBegin
CREATE TRIGGER legal_holds_born BEFORE INSERT ON legal_holds
WHEN NEW.state <> 'set' OR EXISTS (SELECT 1 FROM legal_holds l WHERE l.segment_no = NEW.segment_no AND l.vault = NEW.vault)
BEGIN SELECT RAISE(ABORT, 'a legal hold is inserted once, and set'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER legal_holds_moves BEFORE UPDATE ON legal_holds
WHEN NEW.segment_no <> OLD.segment_no OR NEW.vault <> OLD.vault
  OR NOT (OLD.state = 'set' AND NEW.state = 'lifting' OR OLD.state = 'lifting' AND NEW.state = 'set')
BEGIN SELECT RAISE(ABORT, 'illegal move of a legal hold''s state'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER legal_holds_lifted BEFORE DELETE ON legal_holds
WHEN OLD.state <> 'lifting'
BEGIN SELECT RAISE(ABORT, 'a legal hold is lifted only from lifting'); END;
-- +goose StatementEnd

-- +goose Down
-- The holds are not ours to drop: there is no way back from here.
SELECT 1;
