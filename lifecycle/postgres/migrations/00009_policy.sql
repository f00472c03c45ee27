-- +goose Up

-- A policy is in force by its leaf: who may write that may set the policy. The embedded
-- database has no roles, and nothing to add.
CREATE POLICY applies ON lotkeeper.leaves FOR INSERT TO lotkeeper_admin
    WITH CHECK (action IN ('policy-applied', 'policy-proposed', 'policy-refused'));

-- Nobody approves what he has proposed himself, whatever he calls himself. A recovery
-- writes again what was approved then.
-- +goose StatementBegin
CREATE FUNCTION lotkeeper.policy_approved() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    proposal bigint := (NEW.body::json ->> 'proposal')::bigint;
BEGIN
    IF EXISTS (SELECT FROM lotkeeper.recovering WHERE one = 1) THEN
        RETURN NEW;
    END IF;
    IF proposal IS NOT NULL AND NOT EXISTS (SELECT FROM lotkeeper.leaves l WHERE l.leaf_id = proposal AND l.action = 'policy-proposed' AND l.role <> session_user) THEN
        RAISE EXCEPTION 'a policy is approved by another than proposed it' USING ERRCODE = 'restrict_violation', CONSTRAINT = 'policy_approved';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER leaves_approved BEFORE INSERT ON lotkeeper.leaves
    FOR EACH ROW WHEN (NEW.action = 'policy-applied') EXECUTE FUNCTION lotkeeper.policy_approved();
ALTER TABLE lotkeeper.leaves ENABLE ALWAYS TRIGGER leaves_approved;
REVOKE EXECUTE ON FUNCTION lotkeeper.policy_approved() FROM PUBLIC;

-- +goose StatementBegin
DO $$
BEGIN
    IF pg_has_role(current_user, 'lotkeeper_owner', 'USAGE') THEN
        ALTER FUNCTION lotkeeper.policy_approved() OWNER TO lotkeeper_owner;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
-- A policy that was applied stays: there is no way back from here.
SELECT 1;
