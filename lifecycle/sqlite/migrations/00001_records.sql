-- +goose Up

-- Times are text of fixed width in UTC, nanoseconds included
-- (2022-09-14T08:30:00.000000000Z), so that they sort as they compare.

-- What there is one of: when the database was made, the keyring's epoch as
-- last logged, the trusted time.
CREATE TABLE meta (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    created_at   TEXT    NOT NULL,
    epoch        INTEGER NOT NULL,
    trusted_time TEXT    NOT NULL
);

-- The audit trail. Triggers below refuse any change of it.
CREATE TABLE leaves (
    leaf_id INTEGER PRIMARY KEY AUTOINCREMENT,
    at      TEXT NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    subject TEXT NOT NULL,
    body    TEXT NOT NULL
);
CREATE INDEX leaves_run ON leaves (run_id) WHERE run_id <> '';
CREATE INDEX leaves_subject ON leaves (subject) WHERE subject <> '';

CREATE TABLE runs (
    run_id      TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    actor       TEXT NOT NULL,
    started_at  TEXT NOT NULL,
    finished_at TEXT NOT NULL DEFAULT '',
    status      TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed', 'interrupted')),
    result      TEXT NOT NULL DEFAULT ''
);
CREATE INDEX runs_started ON runs (started_at);

-- The fencing number of the newest run of each kind.
CREATE TABLE leases (
    kind  TEXT PRIMARY KEY,
    fence INTEGER NOT NULL
);

-- Class keys' rows. The keys are in the keyring, never here.
CREATE TABLE classes (
    class_no     INTEGER PRIMARY KEY,
    class_id     TEXT    NOT NULL UNIQUE,
    kind         TEXT    NOT NULL,
    period_start TEXT    NOT NULL,
    closes_at    TEXT    NOT NULL,
    generation   INTEGER NOT NULL,
    state        TEXT    NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'condemned', 'executing', 'destroyed')),
    intent_leaf  INTEGER NOT NULL DEFAULT 0,
    destroyed_at TEXT    NOT NULL DEFAULT '',
    epoch        INTEGER NOT NULL DEFAULT 0,
    -- How far the payloads of a destroyed class are dropped: up to this seq; all
    -- of them, once dropped is 1.
    dropped_to   INTEGER NOT NULL DEFAULT 0,
    dropped      INTEGER NOT NULL DEFAULT 0,
    UNIQUE (kind, period_start, generation)
);

CREATE TABLE segments (
    segment_no       INTEGER PRIMARY KEY,
    segment_id       TEXT    NOT NULL UNIQUE,
    class_no         INTEGER NOT NULL REFERENCES classes,
    state            TEXT    NOT NULL DEFAULT 'staged' CHECK (state IN ('staged', 'verified', 'settled', 'abandoned')),
    run_id           TEXT    NOT NULL,
    records          INTEGER NOT NULL,
    object_key       TEXT    NOT NULL,
    object_size      INTEGER NOT NULL,
    object_sha256    BLOB    NOT NULL,
    plaintext_sha256 BLOB    NOT NULL,
    merkle_root      BLOB    NOT NULL,
    manifest_key     TEXT    NOT NULL,
    manifest_size    INTEGER NOT NULL,
    manifest_sha256  BLOB    NOT NULL,
    wrapped_identity BLOB    NOT NULL,
    retain_until     TEXT    NOT NULL,
    created_at       TEXT    NOT NULL
);

-- Which vaults count, see lifecycle.VaultState.
CREATE TABLE vaults (
    vault_no INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    state    TEXT NOT NULL CHECK (state IN ('joining', 'active', 'retiring')),
    since    TEXT NOT NULL
);

CREATE TABLE segment_copies (
    segment_no       INTEGER NOT NULL REFERENCES segments,
    vault            TEXT    NOT NULL,
    object_version   TEXT    NOT NULL,
    manifest_version TEXT    NOT NULL,
    retain_until     TEXT    NOT NULL,
    verified_at      TEXT    NOT NULL,
    PRIMARY KEY (segment_no, vault),
    -- One object must not count as two copies.
    UNIQUE (segment_no, object_version)
) WITHOUT ROWID;

-- The narrow row of a record: what changes, and what is searched by.
CREATE TABLE records (
    seq              INTEGER PRIMARY KEY,
    record_id        TEXT    NOT NULL UNIQUE,
    tlc              TEXT    NOT NULL,
    tlc_source       TEXT    NOT NULL,
    event_type       TEXT    NOT NULL,
    event_at         TEXT    NOT NULL,
    obtained_at      TEXT    NOT NULL,
    due_at           TEXT    NOT NULL,
    purge_not_before TEXT    NOT NULL,
    location         TEXT    NOT NULL,
    product          TEXT    NOT NULL,
    checksum         BLOB    NOT NULL,
    content          BLOB    NOT NULL,
    gaps             TEXT    NOT NULL,
    class_no         INTEGER NOT NULL REFERENCES classes,
    archive_class_no INTEGER NOT NULL REFERENCES classes,
    state            TEXT    NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'archived', 'purged')),
    segment_no       INTEGER REFERENCES segments,
    ingest_leaf      INTEGER NOT NULL,
    archive_leaf     INTEGER NOT NULL DEFAULT 0,
    CHECK (state = 'active' OR segment_no IS NOT NULL)
);
CREATE INDEX records_lot ON records (tlc);
CREATE INDEX records_due ON records (archive_class_no, due_at) WHERE state = 'active';
CREATE INDEX records_class ON records (class_no, state);
CREATE INDEX records_segment ON records (segment_no) WHERE segment_no IS NOT NULL;

-- Wrapped DEKs, narrow, so that dropping one rewrites little. No row: shredded.
CREATE TABLE deks (
    seq      INTEGER PRIMARY KEY REFERENCES records,
    class_no INTEGER NOT NULL REFERENCES classes,
    wrapped  BLOB    NOT NULL
);
CREATE INDEX deks_class ON deks (class_no);

-- Sealed canonical lines. Without their DEK nobody can read them.
CREATE TABLE payloads (
    seq    INTEGER PRIMARY KEY REFERENCES records,
    sealed BLOB NOT NULL
);

-- Which leaf resealed which record: few, so worth a row each.
CREATE TABLE reseals (
    seq     INTEGER NOT NULL REFERENCES records,
    leaf_id INTEGER NOT NULL REFERENCES leaves,
    PRIMARY KEY (seq, leaf_id)
) WITHOUT ROWID;

CREATE TABLE holds (
    hold_no        INTEGER PRIMARY KEY,
    hold_id        TEXT NOT NULL UNIQUE,
    kind           TEXT NOT NULL,
    reference      TEXT NOT NULL,
    reason         TEXT NOT NULL,
    placed_by      TEXT NOT NULL,
    placed_at      TEXT NOT NULL,
    released_at    TEXT NOT NULL DEFAULT '',
    released_by    TEXT NOT NULL DEFAULT '',
    release_reason TEXT NOT NULL DEFAULT ''
);

-- A scope is either one record or one lot; '' in tlc_source is every source.
CREATE TABLE hold_scopes (
    scope_no   INTEGER PRIMARY KEY,
    hold_no    INTEGER NOT NULL REFERENCES holds,
    record_id  TEXT,
    tlc        TEXT,
    tlc_source TEXT,
    CHECK ((record_id IS NULL) <> (tlc IS NULL)),
    CHECK ((tlc IS NULL) = (tlc_source IS NULL))
);
CREATE INDEX hold_scopes_hold ON hold_scopes (hold_no);
CREATE INDEX hold_scopes_record ON hold_scopes (record_id) WHERE record_id IS NOT NULL;
CREATE INDEX hold_scopes_lot ON hold_scopes (tlc) WHERE tlc IS NOT NULL;

-- The rules once more, as guards against whoever writes to the file with
-- another program. The code has the state machine in lifecycle.Transitions; a
-- test compares the two. Where a row must not be replaced, an insert over it is
-- refused by a trigger of its own: REPLACE deletes without asking the triggers
-- on deletion.

-- +goose StatementBegin
CREATE TRIGGER records_born BEFORE INSERT ON records
WHEN NEW.state <> 'active' OR EXISTS (SELECT 1 FROM records r WHERE r.seq = NEW.seq OR r.record_id = NEW.record_id)
BEGIN SELECT RAISE(ABORT, 'a record is inserted once, and active'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER records_moves BEFORE UPDATE OF state ON records
WHEN NEW.state <> OLD.state
 AND NOT (OLD.state = 'active' AND NEW.state = 'archived')
 AND NOT (OLD.state = 'archived' AND NEW.state = 'purged')
BEGIN SELECT RAISE(ABORT, 'illegal move of a record''s state'); END;
-- +goose StatementEnd

-- A record is archived only in a segment that is verified, and with no open hold
-- on it.
-- +goose StatementBegin
CREATE TRIGGER records_archived BEFORE UPDATE OF state ON records
WHEN NEW.state = 'archived' AND OLD.state = 'active'
BEGIN
    SELECT RAISE(ABORT, 'archived without a verified segment')
     WHERE NOT EXISTS (SELECT 1 FROM segments s WHERE s.segment_no = NEW.segment_no AND s.state = 'verified');
    SELECT RAISE(ABORT, 'archived under a hold')
     WHERE EXISTS (SELECT 1 FROM hold_scopes s JOIN holds h USING (hold_no)
                    WHERE s.record_id = NEW.record_id AND h.released_at = '')
        OR EXISTS (SELECT 1 FROM hold_scopes s JOIN holds h USING (hold_no)
                    WHERE s.tlc = NEW.tlc AND h.released_at = ''
                      AND (s.tlc_source = '' OR NEW.tlc_source = '' OR s.tlc_source = NEW.tlc_source));
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER records_immutable BEFORE UPDATE OF seq, record_id, tlc, tlc_source, event_type, event_at, obtained_at, purge_not_before,
    location, product, checksum, content, gaps, ingest_leaf ON records
BEGIN SELECT RAISE(ABORT, 'a record is immutable'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER records_kept BEFORE DELETE ON records
BEGIN SELECT RAISE(ABORT, 'a record''s row is never deleted'); END;
-- +goose StatementEnd

-- A DEK may be wrapped only under a class that is open, and goes only after its
-- record was archived: without it an active record is lost.
-- +goose StatementBegin
CREATE TRIGGER deks_open_insert BEFORE INSERT ON deks
WHEN (SELECT state FROM classes WHERE class_no = NEW.class_no) IS NOT 'open' OR EXISTS (SELECT 1 FROM deks d WHERE d.seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'the class is not open, or the record has a DEK'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER deks_open_update BEFORE UPDATE ON deks
WHEN NEW.seq <> OLD.seq OR (SELECT state FROM classes WHERE class_no = NEW.class_no) IS NOT 'open'
BEGIN SELECT RAISE(ABORT, 'the class is not open'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER deks_kept BEFORE DELETE ON deks
WHEN (SELECT state FROM records WHERE seq = OLD.seq) = 'active'
BEGIN SELECT RAISE(ABORT, 'the DEK of an active record'); END;
-- +goose StatementEnd

-- A payload never changes, and goes only after its DEK.
-- +goose StatementBegin
CREATE TRIGGER payloads_once BEFORE INSERT ON payloads
WHEN EXISTS (SELECT 1 FROM payloads p WHERE p.seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'a payload never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER payloads_immutable BEFORE UPDATE ON payloads
BEGIN SELECT RAISE(ABORT, 'a payload never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER payloads_kept BEFORE DELETE ON payloads
WHEN EXISTS (SELECT 1 FROM deks d WHERE d.seq = OLD.seq)
BEGIN SELECT RAISE(ABORT, 'the payload can still be read'); END;
-- +goose StatementEnd

-- A class only moves forward, and not while anything depends on its key.
-- +goose StatementBegin
CREATE TRIGGER classes_born BEFORE INSERT ON classes
WHEN NEW.state <> 'open' OR EXISTS (SELECT 1 FROM classes c WHERE c.class_no = NEW.class_no OR c.class_id = NEW.class_id)
BEGIN SELECT RAISE(ABORT, 'a class is inserted once, and open'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER classes_moves BEFORE UPDATE OF state ON classes
WHEN NEW.state <> OLD.state
BEGIN
    SELECT RAISE(ABORT, 'illegal move of a class''s state')
     WHERE NOT (OLD.state = 'open' AND NEW.state = 'condemned')
       AND NOT (OLD.state = 'condemned' AND NEW.state = 'executing')
       AND NOT (OLD.state = 'executing' AND NEW.state = 'destroyed');
    SELECT RAISE(ABORT, 'the class still has DEKs')
     WHERE EXISTS (SELECT 1 FROM deks d WHERE d.class_no = OLD.class_no);
    SELECT RAISE(ABORT, 'the class still has active records')
     WHERE EXISTS (SELECT 1 FROM records r WHERE r.class_no = OLD.class_no AND r.state = 'active');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER classes_immutable BEFORE UPDATE OF class_no, class_id, kind, period_start, closes_at, generation ON classes
BEGIN SELECT RAISE(ABORT, 'a class only changes its state'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER classes_kept BEFORE DELETE ON classes
BEGIN SELECT RAISE(ABORT, 'a class''s row is never deleted'); END;
-- +goose StatementEnd

-- A segment only moves forward. Its retain_until may be lengthened.
-- +goose StatementBegin
CREATE TRIGGER segments_born BEFORE INSERT ON segments
WHEN NEW.state <> 'staged' OR EXISTS (SELECT 1 FROM segments g WHERE g.segment_no = NEW.segment_no OR g.segment_id = NEW.segment_id)
BEGIN SELECT RAISE(ABORT, 'a segment is inserted once, and staged'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER segments_moves BEFORE UPDATE OF state ON segments
WHEN NEW.state <> OLD.state
 AND NOT (OLD.state = 'staged' AND NEW.state IN ('verified', 'abandoned'))
 AND NOT (OLD.state = 'verified' AND NEW.state = 'settled')
BEGIN SELECT RAISE(ABORT, 'illegal move of a segment''s state'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER segments_immutable BEFORE UPDATE OF segment_no, segment_id, class_no, run_id, records, object_key, object_size, object_sha256, plaintext_sha256,
    merkle_root, manifest_key, manifest_size, manifest_sha256, created_at ON segments
BEGIN SELECT RAISE(ABORT, 'a segment is immutable'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER segments_kept BEFORE DELETE ON segments
BEGIN SELECT RAISE(ABORT, 'a segment''s row is never deleted'); END;
-- +goose StatementEnd

-- A copy is recorded for ever.
-- +goose StatementBegin
CREATE TRIGGER copies_once BEFORE INSERT ON segment_copies
WHEN EXISTS (SELECT 1 FROM segment_copies c WHERE c.segment_no = NEW.segment_no AND (c.vault = NEW.vault OR c.object_version = NEW.object_version))
BEGIN SELECT RAISE(ABORT, 'the copy is recorded already, or is another vault''s'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER copies_immutable BEFORE UPDATE ON segment_copies
BEGIN SELECT RAISE(ABORT, 'a copy is recorded for ever'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER copies_kept BEFORE DELETE ON segment_copies
BEGIN SELECT RAISE(ABORT, 'a copy is recorded for ever'); END;
-- +goose StatementEnd

-- A vault only moves forward, and does not count before it has every segment.
-- +goose StatementBegin
CREATE TRIGGER vaults_born BEFORE INSERT ON vaults
WHEN NEW.state = 'retiring' OR EXISTS (SELECT 1 FROM vaults v WHERE v.vault_no = NEW.vault_no OR v.name = NEW.name)
BEGIN SELECT RAISE(ABORT, 'a vault is inserted once, and not retiring'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vaults_active BEFORE INSERT ON vaults
WHEN NEW.state = 'active' AND EXISTS (SELECT 1 FROM segments g WHERE g.state IN ('verified', 'settled'))
BEGIN SELECT RAISE(ABORT, 'the vault lacks a segment'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vaults_moves BEFORE UPDATE ON vaults
WHEN NEW.vault_no <> OLD.vault_no OR NEW.name <> OLD.name
  OR NOT (OLD.state = 'joining' AND NEW.state = 'active' OR OLD.state IN ('joining', 'active') AND NEW.state = 'retiring')
BEGIN SELECT RAISE(ABORT, 'illegal move of a vault''s state'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vaults_complete BEFORE UPDATE OF state ON vaults
WHEN NEW.state = 'active' AND EXISTS (SELECT 1 FROM segments g LEFT JOIN segment_copies c ON c.segment_no = g.segment_no AND c.vault = NEW.name
    WHERE g.state IN ('verified', 'settled') AND c.vault IS NULL)
BEGIN SELECT RAISE(ABORT, 'the vault lacks a segment'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER vaults_kept BEFORE DELETE ON vaults
BEGIN SELECT RAISE(ABORT, 'a vault''s row is never deleted'); END;
-- +goose StatementEnd

-- A hold is released once, and otherwise never changes. A scope never does.
-- +goose StatementBegin
CREATE TRIGGER holds_once BEFORE INSERT ON holds
WHEN NEW.released_at <> '' OR EXISTS (SELECT 1 FROM holds h WHERE h.hold_no = NEW.hold_no OR h.hold_id = NEW.hold_id)
BEGIN SELECT RAISE(ABORT, 'a hold is inserted once, and open'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER holds_immutable BEFORE UPDATE ON holds
WHEN OLD.released_at <> ''
  OR NEW.hold_no <> OLD.hold_no OR NEW.hold_id <> OLD.hold_id OR NEW.kind <> OLD.kind OR NEW.reference <> OLD.reference
  OR NEW.reason <> OLD.reason OR NEW.placed_by <> OLD.placed_by OR NEW.placed_at <> OLD.placed_at
BEGIN SELECT RAISE(ABORT, 'a hold only changes by its release'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER holds_kept BEFORE DELETE ON holds
BEGIN SELECT RAISE(ABORT, 'a hold''s row is never deleted'); END;
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

-- +goose StatementBegin
CREATE TRIGGER leaves_once BEFORE INSERT ON leaves
WHEN EXISTS (SELECT 1 FROM leaves l WHERE l.leaf_id = NEW.leaf_id)
BEGIN SELECT RAISE(ABORT, 'the audit trail never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER leaves_immutable BEFORE UPDATE ON leaves
BEGIN SELECT RAISE(ABORT, 'the audit trail never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER leaves_kept BEFORE DELETE ON leaves
BEGIN SELECT RAISE(ABORT, 'the audit trail is never shortened'); END;
-- +goose StatementEnd

-- A fence never goes back: a run that was fenced off must stay so.
-- +goose StatementBegin
CREATE TRIGGER leases_once BEFORE INSERT ON leases
WHEN EXISTS (SELECT 1 FROM leases l WHERE l.kind = NEW.kind)
BEGIN SELECT RAISE(ABORT, 'a fence never goes back'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER leases_forward BEFORE UPDATE ON leases
WHEN NEW.fence <= OLD.fence OR NEW.kind <> OLD.kind
BEGIN SELECT RAISE(ABORT, 'a fence never goes back'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER leases_kept BEFORE DELETE ON leases
BEGIN SELECT RAISE(ABORT, 'a fence never goes back'); END;
-- +goose StatementEnd

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
