-- +goose Up

-- An auditor tells of the receipts that he issues.
CREATE POLICY receipts ON lotkeeper.leaves FOR INSERT TO lotkeeper_auditor
    WITH CHECK (action = 'receipt-issued');

-- +goose Down
-- The records are not ours to drop: there is no way back from here.
SELECT 1;
