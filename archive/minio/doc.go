// Package minio is an archive.Vault on MinIO, and on other servers that speak
// the S3 protocol with Object Lock, through minio-go.
//
// # What it promises
//
// What package archive/internal/bucket says: one PutObject an object with its
// checksum, its own lock and If-None-Match: *, one GetObject to read it back
// with its lock, version ids everywhere. Requests are tried five times at most,
// with backoff and jitter, on 429, 5xx and broken connections; an answer that
// refuses is not tried again.
//
// The bucket has to be made with Object Lock (mc mb --with-lock), which turns
// versioning on; a default retention is neither needed nor used. The user needs
// the actions that archive/s3 names, s3:DeleteObject in place of
// s3:DeleteObjectVersion, and must not have s3:BypassGovernanceRetention, which MinIO's root user always has. Inspect tries
// all of it.
//
// # What it trusts
//
// The server with the lock and with its clock, and TLS with the rest; plain HTTP
// is meant for loopback. Whoever has the disks of a server of one's own can go
// beneath its lock: a MinIO in the same hands as this program is no better a
// guard against those hands than a directory.
package minio
