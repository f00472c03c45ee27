// Package s3 is an archive.Vault on Amazon S3, and on other servers that speak
// its protocol with Object Lock, through aws-sdk-go-v2.
//
// # What it promises
//
// What package archive/internal/bucket says: one PutObject an object with its
// checksum, its own lock and If-None-Match: *, one GetObject to read it back
// with its lock, version ids everywhere. Requests are tried five times at most,
// with backoff and jitter, on 429, 5xx and broken connections; an answer that
// refuses is not tried again. Storage classes that have to be restored before
// they can be read are refused by [Open]: a copy that cannot be read cannot be
// verified.
//
// The bucket needs versioning and Object Lock; a default retention is neither
// needed nor used. The credentials come from the SDK's own chain (environment,
// shared files, roles) and need, on the bucket: s3:GetBucketVersioning,
// s3:GetBucketObjectLockConfiguration, s3:ListBucketVersions and s3:ListBucket,
// without which S3 answers 403 for what is not there; on its objects:
// s3:PutObject, s3:PutObjectRetention, s3:PutObjectLegalHold, s3:GetObject,
// s3:GetObjectVersion, s3:GetObjectRetention, s3:GetObjectLegalHold,
// s3:DeleteObjectVersion; with a KMS key also kms:GenerateDataKey and
// kms:Decrypt. They must not have s3:BypassGovernanceRetention. Inspect tries
// all of it.
//
// # What it trusts
//
// The server with the lock and with its clock, and TLS with the rest; an
// endpoint in plain HTTP is meant for loopback. S3 is not trusted to keep what
// it was given: bytes are compared by whoever reads them.
package s3
