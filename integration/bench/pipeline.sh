# What a person writes who has PostgreSQL, a bucket with Object Lock and an
# afternoon: archive the records that are due in one object, look whether it
# arrived, and take payload and key out of the table.
#
# It ignores what arrives or is held between its first statement and its last,
# verifies the object and none of the records, and leaves every key in the WAL,
# in each backup, and on the pages of the table.
set -euo pipefail

due="event_timestamp <= '$CUTOFF' AND state = 'active' AND NOT retention_hold"

psql -qX -v ON_ERROR_STOP=1 -d "$DATABASE" -c "COPY (
    SELECT record_id, traceability_lot_code, tlc_source, event_type, event_timestamp, created_or_obtained_at, kde_payload
    FROM traceability_records WHERE $due ORDER BY event_timestamp) TO STDOUT" |
  zstd -q -1 |
  "$AGE" -r "$RECIPIENT" -o archive.age
sum=$(sha256sum archive.age | cut -d ' ' -f 1)

s3() {
  curl -sS --fail-with-body --aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
    "$@" -H "x-amz-security-token: $AWS_SESSION_TOKEN"
}
# Its checksum goes along, so that the server refuses other bytes; -H in the
# order that the signature wants them in.
s3 -X PUT -T archive.age \
  -H "x-amz-checksum-sha256: $(printf %s "$sum" | xxd -r -p | base64)" \
  -H "x-amz-content-sha256: $sum" \
  -H "x-amz-object-lock-mode: COMPLIANCE" \
  -H "x-amz-object-lock-retain-until-date: $RETAIN_UNTIL" \
  "$BUCKET_URL/archive.age"
back=$(s3 "$BUCKET_URL/archive.age" | sha256sum | cut -d ' ' -f 1)
[ "$back" = "$sum" ]

psql -qX -v ON_ERROR_STOP=1 -d "$DATABASE" -c "UPDATE traceability_records
    SET kde_payload = NULL, encryption_key = NULL, state = 'archived' WHERE $due"
