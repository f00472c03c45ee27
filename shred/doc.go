// Package shred seals records so that they can be destroyed: not by finding and
// overwriting every copy of them, but by destroying one small key. NIST SP 800-88 calls
// this cryptographic erase.
//
// # Words
//
//   - DEK: data encryption key. Every record has its own, random, used once. It seals
//     the record's payload.
//   - class: the records that are due to be destroyed together. A class id names it,
//     and is never used again once the class has been destroyed.
//   - class key: the key of one class. It is the KEK (key encryption key) that wraps
//     the DEKs of the class; it also wraps short secrets, such as the identity that
//     opens an archived segment, and keys the MACs that say whether two records have
//     the same content.
//   - key store: where class keys live. It is outside the database, so that no backup
//     of the database holds a class key.
//   - epoch: a number that a key store raises with every change of its keys. An epoch
//     lower than one seen before is an older key store, put back.
//   - copy: one place a key store keeps its keys in. A mirror is a copy beside the
//     first one.
//   - reseal: to unwrap a DEK from one class and wrap it for another. The payload stays
//     as it is; 32 bytes move.
//   - permit: the leave to destroy classes, given by [Authorize] on evidence.
//   - destroy: to remove a class key from every copy of its key store. To drop a
//     wrapped DEK shreds one live record; to destroy every class key that ever wrapped
//     it shreds that record in each backup and replica as well.
//
// # What is promised
//
// A sealed payload opens under its own DEK and record id only. A wrapped DEK opens
// under the class key that wrapped it and with the same record id only: wrapped DEKs
// that were swapped between records or classes are refused ([ErrAuthentication]), never
// opened as something else. Once [Destroy] has returned without an error and with no
// time pending, no key that the key store knows of opens anything that the class
// sealed; that was tried, not assumed. The formats are written down byte for byte in
// sealing-format.md.
//
// # What is trusted, and what a compromise means
//
// The key store is trusted with everything: who reads it opens every record whose class
// is alive, in the database, in its backups and in the archive. Who can write it can
// lose all of them. Who has a copy of it from before a destruction opens what was
// destroyed, so the promise reaches as far as the copies that the store knows of, no
// further.
//
// The database and the archive are not trusted with contents. Who reads them has
// ciphertext, wrapped keys and record ids. Who changes them can make records
// unreadable, but not make one record's payload appear as another's.
//
// Who has one DEK opens one record. Who has one class key opens the records of that
// class, wherever they lie, and no other class. The process is trusted while it runs: a
// [ClassKey] that is open stays usable in memory until it is let go, also when its
// class is destroyed meanwhile.
//
// # Cryptographic erase, and its conditions
//
// NIST SP 800-88 accepts cryptographic erase where (1) nothing was ever stored before
// it was encrypted, (2) every copy of the key is known and itself sanitized, and (3)
// the cipher and its keys have at least 128 bits of strength. Sealing before storing is
// the caller's part of (1). The key store's documentation says what it can promise for
// (2): see package filekeys for the limits of a directory of files. AES-256-GCM answers
// (3).
//
// # Why random nonces are safe at these counts
//
// AES-GCM fails badly when a nonce is used twice under one key. NIST SP 800-38D,
// section 8.3, allows at most 2^32 encryptions under one key with random 96-bit nonces,
// which keeps the chance of one repeat below 2^-32. A DEK encrypts one payload, once. A
// class key wraps one DEK a record, plus one for each record resealed into the class: a
// class is a day or a month of records, and 2^32 is four thousand million. DEKs and
// secrets are wrapped under separate subkeys, so neither count adds to the other.
package shred
