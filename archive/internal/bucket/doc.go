// Package bucket is an archive.Vault on one S3 bucket with Object Lock,
// whichever client library speaks to the server. The packages archive/s3 and
// archive/minio each bring a library as an [API]; what its answers mean is
// decided here, once.
//
// # Vocabulary
//
// It is that of package archive. An answer is what the server said, by HTTP
// status and S3 error code; an error without one means that the outcome is not
// known. A full key is a vault's key with the vault's prefix before it.
//
// # What it promises
//
// Requests: one for Put and Get, as long as the server sends the lock with the
// object, as S3 does; one for Stat; two for Delete and Retain; two for Status.
//
// Put is one PutObject with Content-Length, x-amz-checksum-sha256,
// If-None-Match: * and the object's own lock, so that the server itself checks
// the bytes, keeps what is there, and never falls back on the bucket's default
// retention. (A gateway was seen to evaluate that default only at the moment of
// a delete: whoever removed it had unlocked every object.) The bytes are also
// hashed before they are sent, so that wrong ones never leave. If an
// acknowledgement is lost, the retry finds the object there: ErrExists, for the
// caller to compare.
//
// A version is addressed by its id in every call that changes or removes
// something. S3 puts a delete marker on top of a locked object when it is asked
// to delete without one, and calls that success; it also calls it success to
// delete a version that is not there, so Delete looks first.
//
// A refusal is no proof of a lock: servers answer 403 to a missing permission,
// and 400 or 403 to a lock. It is reported as archive.ErrLocked only when the
// lock itself, asked for then, says so or cannot be told.
//
// The server's clock is the Date header of its answers, to the whole second.
//
// # What it trusts
//
// The server with the lock, as package archive says, and TLS or the network with
// the answers. Get's description comes with the object where the server sends
// it. A missing x-amz-object-lock-mode is asked for by HeadObject, since some
// servers send it there alone, and then by GetObjectRetention and
// GetObjectLegalHold, since S3 leaves it out for a caller who may not see it. A
// missing x-amz-object-lock-legal-hold beside a mode counts as no legal hold:
// Inspect finds a caller that may not see one.
//
// Credentials are the client library's. No error holds any.
package bucket
