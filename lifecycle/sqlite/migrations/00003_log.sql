-- +goose Up

-- role is that of the database's server, of which there is none here.
ALTER TABLE leaves ADD COLUMN software TEXT NOT NULL DEFAULT '';
ALTER TABLE leaves ADD COLUMN role     TEXT NOT NULL DEFAULT '';
CREATE INDEX leaves_action ON leaves (action);

-- Leaves that wait for their index in the log, each put here with its own
-- transaction.
CREATE TABLE log_pending (
    leaf_id INTEGER PRIMARY KEY REFERENCES leaves
);

-- Which index a leaf has in the log. A table beside the leaves, for these never change.
CREATE TABLE log_entries (
    log_index INTEGER PRIMARY KEY CHECK (log_index >= 0),
    leaf_id   INTEGER NOT NULL UNIQUE REFERENCES leaves
);

-- The hashes of the log's tree, numbered as golang.org/x/mod/sumdb/tlog stores them.
CREATE TABLE log_hashes (
    n    INTEGER PRIMARY KEY CHECK (n >= 0),
    hash BLOB NOT NULL CHECK (length(hash) = 32)
);

-- Up to what size of the tree each vault has confirmed a checkpoint and all under it.
CREATE TABLE log_published (
    vault TEXT PRIMARY KEY,
    size  INTEGER NOT NULL CHECK (size >= 0)
);

INSERT INTO log_pending SELECT leaf_id FROM leaves;

-- The links of one record among those of its merge.
DROP INDEX lineage_leaf;
CREATE INDEX lineage_leaf ON lineage (leaf_id, seq);

-- +goose StatementBegin
CREATE TRIGGER leaves_queued AFTER INSERT ON leaves
BEGIN INSERT INTO log_pending VALUES (NEW.leaf_id); END;
-- +goose StatementEnd

-- A leaf leaves the queue when it has its index, and by no other way.
-- +goose StatementBegin
CREATE TRIGGER log_pending_once BEFORE INSERT ON log_pending
WHEN EXISTS (SELECT 1 FROM log_pending p WHERE p.leaf_id = NEW.leaf_id)
BEGIN SELECT RAISE(ABORT, 'the leaf waits for its index already'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_pending_immutable BEFORE UPDATE ON log_pending
BEGIN SELECT RAISE(ABORT, 'a leaf waits for its index until it has it'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_pending_kept BEFORE DELETE ON log_pending
WHEN NOT EXISTS (SELECT 1 FROM log_entries e WHERE e.leaf_id = OLD.leaf_id)
BEGIN SELECT RAISE(ABORT, 'the leaf has no index in the log yet'); END;
-- +goose StatementEnd

-- The log never changes: it grows.
-- +goose StatementBegin
CREATE TRIGGER log_entries_once BEFORE INSERT ON log_entries
WHEN EXISTS (SELECT 1 FROM log_entries e WHERE e.log_index = NEW.log_index OR e.leaf_id = NEW.leaf_id)
BEGIN SELECT RAISE(ABORT, 'the log never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_entries_immutable BEFORE UPDATE ON log_entries
BEGIN SELECT RAISE(ABORT, 'the log never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_entries_kept BEFORE DELETE ON log_entries
BEGIN SELECT RAISE(ABORT, 'the log is never shortened'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_hashes_once BEFORE INSERT ON log_hashes
WHEN EXISTS (SELECT 1 FROM log_hashes h WHERE h.n = NEW.n)
BEGIN SELECT RAISE(ABORT, 'the log never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_hashes_immutable BEFORE UPDATE ON log_hashes
BEGIN SELECT RAISE(ABORT, 'the log never changes'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_hashes_kept BEFORE DELETE ON log_hashes
BEGIN SELECT RAISE(ABORT, 'the log is never shortened'); END;
-- +goose StatementEnd

-- What is published only grows.
-- +goose StatementBegin
CREATE TRIGGER log_published_once BEFORE INSERT ON log_published
WHEN EXISTS (SELECT 1 FROM log_published p WHERE p.vault = NEW.vault)
BEGIN SELECT RAISE(ABORT, 'what is published only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_published_forward BEFORE UPDATE ON log_published
WHEN NEW.vault <> OLD.vault OR NEW.size < OLD.size
BEGIN SELECT RAISE(ABORT, 'what is published only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_published_kept BEFORE DELETE ON log_published
BEGIN SELECT RAISE(ABORT, 'what is published only grows'); END;
-- +goose StatementEnd

-- +goose Down
-- The log is not ours to drop: there is no way back from here.
SELECT 1;
