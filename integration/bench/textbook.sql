-- The wide row that every introduction draws: payload, key and state in one table.
CREATE TABLE traceability_records (
    record_id              text PRIMARY KEY,
    traceability_lot_code  text NOT NULL,
    tlc_source             text,
    event_type             text NOT NULL,
    event_timestamp        timestamptz NOT NULL,
    created_or_obtained_at timestamptz NOT NULL,
    kde_payload            jsonb,
    encryption_key         bytea,
    retention_hold         boolean NOT NULL DEFAULT false,
    state                  text NOT NULL DEFAULT 'active'
);
CREATE TEMPORARY TABLE lines (line jsonb);
\copy lines FROM pstdin WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')
INSERT INTO traceability_records (record_id, traceability_lot_code, tlc_source, event_type, event_timestamp, created_or_obtained_at, kde_payload, encryption_key)
    SELECT line->>'record_id', line->>'traceability_lot_code', line->>'tlc_source', line->>'event_type', (line->>'event_timestamp')::timestamptz,
        (line->>'created_or_obtained_at')::timestamptz, line->'kde_payload', sha256((line->>'record_id')::bytea) FROM lines;
CREATE INDEX ON traceability_records (traceability_lot_code, tlc_source);
CREATE INDEX ON traceability_records (event_timestamp);
