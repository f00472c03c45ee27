-- +goose Up

-- A recovery of the log does again what entries tell of the end of an archive class: it
-- may go while a record is to come into it that the database has taken in since, or that
-- had been moved.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lotkeeper.classes_purged() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM lotkeeper.recovering WHERE one = 1) THEN
        RETURN NEW;
    END IF;
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

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
