-- +goose Up

-- How many records were purged, by the month of the event, product and event type: what
-- stays of records whose rule asks for it. It is written with their purge.
CREATE TABLE aggregates (
    month      TEXT    NOT NULL,
    product    TEXT    NOT NULL,
    event_type TEXT    NOT NULL,
    records    INTEGER NOT NULL CHECK (records > 0),
    PRIMARY KEY (month, product, event_type)
) WITHOUT ROWID;
-- +goose StatementBegin
CREATE TRIGGER aggregates_once BEFORE INSERT ON aggregates
WHEN EXISTS (SELECT 1 FROM aggregates a WHERE a.month = NEW.month AND a.product = NEW.product AND a.event_type = NEW.event_type)
BEGIN SELECT RAISE(ABORT, 'a total only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER aggregates_grow BEFORE UPDATE ON aggregates
WHEN NEW.month <> OLD.month OR NEW.product <> OLD.product OR NEW.event_type <> OLD.event_type OR NEW.records <= OLD.records
BEGIN SELECT RAISE(ABORT, 'a total only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER aggregates_kept BEFORE DELETE ON aggregates
BEGIN SELECT RAISE(ABORT, 'a total is kept for ever'); END;
-- +goose StatementEnd

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
