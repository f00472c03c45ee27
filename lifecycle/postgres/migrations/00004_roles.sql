-- +goose Up

-- Roles are of the whole server and have no login: each user of a site is given the
-- one that his commands need, and owns nothing. lotkeeper_owner owns everything
-- here; lotkeeper_unmask has no rights of its own, it says who may see what names
-- people. Two databases of one server may come here at once.
-- +goose StatementBegin
DO $$
DECLARE
    r text;
    missing text := '';
BEGIN
    FOREACH r IN ARRAY ARRAY['lotkeeper_owner', 'lotkeeper_ingest', 'lotkeeper_sweeper', 'lotkeeper_recall', 'lotkeeper_auditor',
                             'lotkeeper_export', 'lotkeeper_admin', 'lotkeeper_unmask'] LOOP
        CONTINUE WHEN to_regrole(r) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', r);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN missing := missing || format('CREATE ROLE %I NOLOGIN; ', r);
        END;
    END LOOP;
    IF missing <> '' THEN
        RAISE EXCEPTION '% may not create the roles', current_user
            USING ERRCODE = 'insufficient_privilege', HINT = missing || format('GRANT lotkeeper_unmask TO lotkeeper_owner; GRANT lotkeeper_owner TO %I;', current_user);
    END IF;
    -- Who may do everything may see everything.
    IF NOT pg_has_role('lotkeeper_owner', 'lotkeeper_unmask', 'MEMBER') THEN
        BEGIN
            GRANT lotkeeper_unmask TO lotkeeper_owner;
        EXCEPTION
            WHEN unique_violation OR insufficient_privilege THEN NULL;
        END;
    END IF;
    -- Whoever migrates goes on to be able to. Where he may not have the owner's
    -- rights, what is his stays his.
    IF NOT pg_has_role(current_user, 'lotkeeper_owner', 'USAGE') THEN
        BEGIN
            EXECUTE format('GRANT lotkeeper_owner TO %I', current_user);
        EXCEPTION
            WHEN unique_violation OR insufficient_privilege THEN NULL;
        END;
    END IF;
END $$;
-- +goose StatementEnd

-- Narrow doors: one thing to do to a table that the role may not write freely.

-- The trusted time follows a leaf's time forward, by seven days at most.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.advance(at text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF at !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$' THEN
        RAISE EXCEPTION '% is not a time', at USING ERRCODE = 'invalid_datetime_format';
    END IF;
    UPDATE lotkeeper.meta SET trusted_time = at WHERE trusted_time < at COLLATE "C" AND trusted_time >= (CASE WHEN at < '0001-01-08' COLLATE "C" THEN ''
        ELSE to_char(left(at, 19)::timestamp - interval '7 days', 'YYYY-MM-DD"T"HH24:MI:SS') || substr(at, 20) END) COLLATE "C";
END $$;
-- +goose StatementEnd

-- The keyring's epoch is logged forward.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.log_epoch(logged bigint) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE lotkeeper.meta SET epoch = greatest(epoch, logged)
$$;
-- +goose StatementEnd

-- A vault that has every segment counts.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.activate_vault(vault text, at text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE lotkeeper.vaults SET state = 'active', since = at WHERE name = vault AND state = 'joining';
    RETURN FOUND;
END $$;
-- +goose StatementEnd

-- The hold that a record asks for as it is taken in.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.retain(id text, record text, why text, by text, at text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH h AS (INSERT INTO lotkeeper.holds (hold_id, kind, reference, reason, placed_by, placed_at) VALUES (id, 'retention-hold', '', why, by, at) RETURNING hold_no)
    INSERT INTO lotkeeper.hold_scopes (hold_no, record_id) SELECT hold_no, record FROM h
$$;
-- +goose StatementEnd

-- Ends a hold whose end was said when it was placed, and has come by this server's
-- clock: the caller's own would let him end it at any time. Who may release holds may
-- end them as he likes. NULL: there is no such hold.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.end_hold(id text, at text, by text, why text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    h lotkeeper.holds;
BEGIN
    SELECT * INTO h FROM lotkeeper.holds WHERE hold_id = id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF h.released_at <> '' THEN
        RETURN 'released';
    ELSIF NOT has_column_privilege(session_user, 'lotkeeper.holds', 'released_at', 'UPDATE')
          AND (h.until_at = '' OR h.until_at > to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US000"Z"') COLLATE "C") THEN
        RETURN 'early';
    END IF;
    UPDATE lotkeeper.holds SET released_at = at, released_by = by, release_reason = why WHERE hold_no = h.hold_no;
    RETURN 'ended';
END $$;
-- +goose StatementEnd

-- Guards that were missing.

-- A leaf has the role that the server authenticated, whoever writes what.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.leaves_authenticated() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.role := session_user;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER leaves_authenticated BEFORE INSERT ON lotkeeper.leaves
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.leaves_authenticated();

CREATE TRIGGER meta_immutable BEFORE UPDATE OF one, created_at ON lotkeeper.meta
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a database is made once');
CREATE TRIGGER meta_kept BEFORE DELETE ON lotkeeper.meta
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a database is made once');

CREATE TRIGGER runs_born BEFORE INSERT ON lotkeeper.runs
    FOR EACH ROW WHEN (NEW.status <> 'running') EXECUTE FUNCTION lotkeeper.refuse('a run is inserted running');
CREATE TRIGGER runs_moves BEFORE UPDATE ON lotkeeper.runs
    FOR EACH ROW WHEN (OLD.status <> 'running') EXECUTE FUNCTION lotkeeper.refuse('a run ends once');
CREATE TRIGGER runs_immutable BEFORE UPDATE OF run_no, run_id, kind, actor, started_at ON lotkeeper.runs
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a run only changes by its end');
CREATE TRIGGER runs_kept BEFORE DELETE ON lotkeeper.runs
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a run''s row is never deleted');

CREATE TRIGGER records_settled BEFORE UPDATE OF class_no ON lotkeeper.records
    FOR EACH ROW WHEN (OLD.state <> 'active' AND NEW.class_no <> OLD.class_no)
    EXECUTE FUNCTION lotkeeper.refuse('an archived record''s class is what its hot copy died with');
CREATE TRIGGER reseals_kept BEFORE UPDATE OR DELETE ON lotkeeper.reseals
    FOR EACH ROW EXECUTE FUNCTION lotkeeper.refuse('a reseal is recorded for ever');
CREATE TRIGGER segments_locked BEFORE UPDATE OF retain_until ON lotkeeper.segments
    FOR EACH ROW WHEN (NEW.retain_until < OLD.retain_until)
    EXECUTE FUNCTION lotkeeper.refuse('a segment''s lock is only lengthened');
CREATE TRIGGER hold_traces_born BEFORE INSERT ON lotkeeper.hold_traces
    FOR EACH ROW WHEN (NEW.traced_to <> 0 OR NEW.expanded_to <> 0)
    EXECUTE FUNCTION lotkeeper.refuse('a trace starts from nothing');
CREATE TRIGGER legal_holds_born BEFORE INSERT ON lotkeeper.legal_holds
    FOR EACH ROW WHEN (NEW.state <> 'set')
    EXECUTE FUNCTION lotkeeper.refuse('a legal hold is inserted set');
CREATE TRIGGER meta_emptied BEFORE TRUNCATE ON lotkeeper.meta
    FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.refuse('nothing here is deleted at one go');
CREATE TRIGGER runs_emptied BEFORE TRUNCATE ON lotkeeper.runs
    FOR EACH STATEMENT EXECUTE FUNCTION lotkeeper.refuse('nothing here is deleted at one go');

-- +goose StatementBegin
DO $$
DECLARE
    guard record;
    own record;
BEGIN
    FOR guard IN SELECT c.relname, g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
              WHERE c.relnamespace = 'lotkeeper'::regnamespace AND NOT g.tgisinternal AND g.tgenabled <> 'A' LOOP
        EXECUTE format('ALTER TABLE lotkeeper.%I ENABLE ALWAYS TRIGGER %I', guard.relname, guard.tgname);
    END LOOP;

    -- What is here belongs to the owner, if whoever migrates may give it away: the
    -- tables with their indexes and sequences, and the doors, which have the owner's
    -- rights.
    IF NOT pg_has_role(current_user, 'lotkeeper_owner', 'USAGE') THEN
        RETURN;
    END IF;
    GRANT USAGE, CREATE ON SCHEMA lotkeeper TO lotkeeper_owner;
    FOR own IN SELECT format('ALTER %s %s OWNER TO lotkeeper_owner', CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass) AS command
                 FROM pg_class c WHERE relnamespace = 'lotkeeper'::regnamespace AND relkind IN ('r', 'p', 'S')
                  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i' AND c.relkind = 'S')
               UNION ALL SELECT format('ALTER FUNCTION %s OWNER TO lotkeeper_owner', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'lotkeeper'::regnamespace LOOP
        EXECUTE own.command;
    END LOOP;
END $$;
-- +goose StatementEnd

-- What each role may do. A column that is not named is closed to it.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA lotkeeper FROM PUBLIC;
GRANT USAGE ON SCHEMA lotkeeper TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;

-- Everybody sees what a command looks at before it begins.
GRANT SELECT ON lotkeeper.goose_db_version, lotkeeper.meta, lotkeeper.leaves, lotkeeper.runs, lotkeeper.leases, lotkeeper.classes, lotkeeper.vaults,
    lotkeeper.segment_copies, lotkeeper.holds, lotkeeper.hold_scopes, lotkeeper.log_pending, lotkeeper.log_entries, lotkeeper.log_hashes, lotkeeper.log_published
    TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
GRANT SELECT (segment_no, segment_id, class_no, state, run_id, records, object_key, object_size, object_sha256, plaintext_sha256, merkle_root,
    manifest_key, manifest_size, manifest_sha256, retain_until, created_at) ON lotkeeper.segments
    TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;

-- All but ingest see the records' rows and whatever else is no key and no ciphertext.
GRANT SELECT ON lotkeeper.records, lotkeeper.reseals, lotkeeper.lineage, lotkeeper.merges, lotkeeper.hold_traces, lotkeeper.hold_lots, lotkeeper.legal_holds
    TO lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
GRANT SELECT (seq, class_no) ON lotkeeper.deks TO lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
GRANT SELECT (seq, month) ON lotkeeper.payloads TO lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;

-- Keys and ciphertext: who archives, and who gives records out.
GRANT SELECT (wrapped) ON lotkeeper.deks TO lotkeeper_sweeper, lotkeeper_export;
GRANT SELECT (sealed) ON lotkeeper.payloads TO lotkeeper_sweeper, lotkeeper_export;
GRANT SELECT (wrapped_identity) ON lotkeeper.segments TO lotkeeper_sweeper, lotkeeper_export;

-- Ingest adds, and knows of a record what tells a duplicate from a conflict.
GRANT SELECT (record_id, state, archive_class_no, content) ON lotkeeper.records TO lotkeeper_ingest;
GRANT INSERT (seq, ingest_leaf, class_no, archive_class_no, month, payload_bytes, record_id, tlc, tlc_source, event_type, event_at, obtained_at, due_at,
    purge_not_before, location, product, gaps, checksum, content) ON lotkeeper.records TO lotkeeper_ingest;
GRANT INSERT ON lotkeeper.deks, lotkeeper.payloads, lotkeeper.lineage, lotkeeper.merges TO lotkeeper_ingest;
GRANT USAGE ON SEQUENCE lotkeeper.seqs TO lotkeeper_ingest;
GRANT EXECUTE ON FUNCTION lotkeeper.open_month(integer), lotkeeper.retain(text, text, text, text, text) TO lotkeeper_ingest;

-- A sweep moves records and classes on, never a hold: it ends those whose end has come.
GRANT UPDATE (state, segment_no, archive_leaf, class_no) ON lotkeeper.records TO lotkeeper_sweeper;
GRANT UPDATE (class_no, wrapped), DELETE ON lotkeeper.deks TO lotkeeper_sweeper;
GRANT DELETE ON lotkeeper.payloads TO lotkeeper_sweeper;
GRANT INSERT ON lotkeeper.reseals, lotkeeper.segment_copies TO lotkeeper_sweeper;
GRANT UPDATE (state, intent_leaf, destroyed_at, epoch, dropped_to, dropped) ON lotkeeper.classes TO lotkeeper_sweeper;
GRANT INSERT (segment_id, class_no, run_id, records, object_key, object_size, object_sha256, plaintext_sha256, merkle_root,
    manifest_key, manifest_size, manifest_sha256, wrapped_identity, retain_until, created_at), UPDATE (state) ON lotkeeper.segments TO lotkeeper_sweeper;
GRANT EXECUTE ON FUNCTION lotkeeper.matches(lotkeeper.hold_scopes, text, text, text, text, text, text), lotkeeper.drop_month(integer),
    lotkeeper.end_hold(text, text, text, text), lotkeeper.activate_vault(text, text) TO lotkeeper_sweeper;

-- Recall holds and releases.
GRANT INSERT (hold_id, kind, reference, reason, placed_by, placed_at, review_at, until_at), UPDATE (released_at, released_by, release_reason)
    ON lotkeeper.holds TO lotkeeper_recall;
GRANT INSERT (hold_no, record_id, tlc, tlc_source, tlc_prefix, location, product, event_type, from_at, to_at, everything, trace)
    ON lotkeeper.hold_scopes TO lotkeeper_recall;
GRANT INSERT (scope_no, lots) ON lotkeeper.hold_traces TO lotkeeper_recall;

-- Both follow traces, and bring the vaults' legal holds in line.
GRANT UPDATE (traced_to, expanded_to, lots) ON lotkeeper.hold_traces TO lotkeeper_sweeper, lotkeeper_recall;
GRANT INSERT (scope_no, tlc, tlc_source) ON lotkeeper.hold_lots TO lotkeeper_sweeper, lotkeeper_recall;
GRANT INSERT, UPDATE (state, since), DELETE ON lotkeeper.legal_holds TO lotkeeper_sweeper, lotkeeper_recall;

-- An administrator makes the database, says which vaults count, and believes in a
-- clock or a keyring.
GRANT INSERT, UPDATE (epoch, trusted_time) ON lotkeeper.meta TO lotkeeper_admin;
GRANT INSERT (name, state, since), UPDATE (state, since) ON lotkeeper.vaults TO lotkeeper_admin;

-- Both open classes, and have runs and the lease of their own kind.
GRANT INSERT (class_id, kind, period_start, closes_at, month, generation) ON lotkeeper.classes TO lotkeeper_ingest, lotkeeper_sweeper;
GRANT EXECUTE ON FUNCTION lotkeeper.log_epoch(bigint) TO lotkeeper_ingest, lotkeeper_sweeper;
GRANT INSERT (run_id, kind, actor, started_at, status), UPDATE (finished_at, status, result) ON lotkeeper.runs TO lotkeeper_ingest, lotkeeper_sweeper;
GRANT INSERT, UPDATE (fence, run_id, expires_at) ON lotkeeper.leases TO lotkeeper_ingest, lotkeeper_sweeper;
ALTER TABLE lotkeeper.runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE lotkeeper.leases ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON lotkeeper.runs FOR SELECT USING (true);
CREATE POLICY seen ON lotkeeper.leases FOR SELECT USING (true);
CREATE POLICY ingests ON lotkeeper.runs TO lotkeeper_ingest USING (kind = 'ingest');
CREATE POLICY ingests ON lotkeeper.leases TO lotkeeper_ingest USING (kind = 'ingest');
CREATE POLICY sweeps ON lotkeeper.runs TO lotkeeper_sweeper USING (kind IN ('sweep', 'sync'));
CREATE POLICY sweeps ON lotkeeper.leases TO lotkeeper_sweeper USING (kind IN ('sweep', 'sync'));

-- Everybody leaves a trace, of what he may do and nothing else.
GRANT INSERT (at, actor, action, run_id, subject, body, software, role) ON lotkeeper.leaves
    TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin;
ALTER TABLE lotkeeper.leaves ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON lotkeeper.leaves FOR SELECT USING (true);
CREATE POLICY reads ON lotkeeper.leaves FOR INSERT
    TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin
    WITH CHECK (action IN ('refused', 'dry-run', 'reported', 'verify-finished'));
CREATE POLICY ingests ON lotkeeper.leaves FOR INSERT TO lotkeeper_ingest
    WITH CHECK (action IN ('run-started', 'run-finished', 'run-interrupted', 'class-opened', 'ingested', 'hold-placed'));
CREATE POLICY sweeps ON lotkeeper.leaves FOR INSERT TO lotkeeper_sweeper
    WITH CHECK (action IN ('run-started', 'run-finished', 'run-interrupted', 'class-opened', 'hold-ended', 'legal-hold-set', 'legal-hold-lifting', 'legal-hold-lifted',
        'segment-staged', 'segment-verified', 'segment-abandoned', 'archived', 'segment-settled', 'resealed', 'shred-intent', 'shred-executing', 'shredded',
        'ciphertext-dropped', 'vault-copied', 'vault-active'));
CREATE POLICY holds ON lotkeeper.leaves FOR INSERT TO lotkeeper_recall
    WITH CHECK (action IN ('hold-placed', 'hold-extended', 'hold-released', 'legal-hold-set', 'legal-hold-lifting', 'legal-hold-lifted'));
CREATE POLICY discloses ON lotkeeper.leaves FOR INSERT TO lotkeeper_export
    WITH CHECK (action IN ('export-begun', 'exported', 'unmasked', 'export-limit', 'identity-disclosed'));
CREATE POLICY administers ON lotkeeper.leaves FOR INSERT TO lotkeeper_admin
    WITH CHECK (action IN ('init', 'clock-accepted', 'keyring-recovered', 'vault-added', 'vault-retiring'));

-- Of the auditor's leaves the trusted time does not follow: nothing he does moves
-- what a sweep goes by.
GRANT EXECUTE ON FUNCTION lotkeeper.advance(text) TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_export, lotkeeper_admin;

-- Who changes anything brings the log's tree up to date, and notes which vault has it.
GRANT INSERT ON lotkeeper.log_entries, lotkeeper.log_hashes TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_admin;
GRANT DELETE ON lotkeeper.log_pending TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_admin;
GRANT INSERT, UPDATE (size) ON lotkeeper.log_published TO lotkeeper_ingest, lotkeeper_sweeper, lotkeeper_recall, lotkeeper_admin;

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
