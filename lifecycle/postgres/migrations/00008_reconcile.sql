-- +goose Up

-- Whoever sees the records may compare them with the rest, and says that he did.
CREATE POLICY reconciles ON lotkeeper.leaves FOR INSERT
    TO lotkeeper_sweeper, lotkeeper_recall, lotkeeper_auditor, lotkeeper_export, lotkeeper_admin
    WITH CHECK (action = 'reconciled');

-- +goose Down
-- The log is not ours to drop: there is no way back from here.
SELECT 1;
