// Package archive seals records into segments, keeps segments in object-lock
// (WORM) storage, and proves afterwards that they are still there and still
// what was put in.
//
// # Vocabulary
//
//   - A line is one record in its canonical form, without a newline. Its
//     checksum is the SHA-256 of exactly those bytes.
//   - A segment is a batch of lines sealed as one object: lines, compressed
//     with zstd, encrypted with age to an identity of its own.
//   - A manifest is the plain JSON beside a segment: what is in it, in which
//     order, with which checksums, sealed when, by whom and why. It holds no
//     key data element (KDE) of any record.
//   - A vault is one object-lock store. Its objects have versions; a version
//     has a retention (mode and retain-until) and may be under legal hold. A
//     delete marker is a version that hides those below it.
//   - A copy is one segment with its manifest in one vault. Verification by
//     read-back reads a copy out of its vault and compares all of it with what
//     the caller knows from elsewhere.
//
// The formats are written down byte by byte in segment-format.md, so that a
// segment can be opened when this program is gone.
//
// # What it promises
//
// A [Sealed] segment's lines come out of [ReadLines] byte for byte, in order,
// or ReadLines fails: age authenticates every 64 KiB chunk and the end of the
// file, so that a flipped bit and a cut are both seen. [VerifyCopy] finds every
// difference between a copy and what was expected of it and goes on to the end.
// A [Vault] makes nothing durable that is not the bytes it was told to expect,
// never replaces a current object, and refuses to remove or to shorten the
// retention of a version while it is locked.
//
// # What it trusts
//
// Vaults are not trusted to keep what they were given: everything read back is
// compared with checksums the caller brings. They are trusted with the lock
// alone: whoever controls the store beneath an advisory lock can remove
// objects, which verification finds and cannot undo. Whoever can write to a
// vault cannot read a segment, since that takes its identity, but could seal a
// different one to the same public recipient: the checksums the caller brings
// (and, in the end, the signed log that holds them) are what tells the two
// apart, not the encryption. Identities are trusted to be kept by the caller;
// no error or log line of this package contains one, nor any byte of a line.
package archive
