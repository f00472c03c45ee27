// Package dir is the embedded archive.Vault: a directory in which objects are
// plain files, so that sha256sum, find and age work on it as they are.
//
// # Vocabulary
//
// It is that of package archive. A lock file is the file that holds an object's
// lock (retention, legal hold) with its version id, size and SHA-256; the flock
// is the file that processes take an exclusive flock(2) on before they change
// anything.
//
//	DIR/KEY                            the object, 0400
//	DIR/.lotkeeper/locks/KEY.lock      its lock file, 0400, canonical JSON
//	DIR/.lotkeeper/tmp/                files being written
//	DIR/.lotkeeper/flock               the flock
//	DIR/.lotkeeper/vault.json          what makes a directory a vault
//
// # What it promises
//
// A key has one version or none; there is no overwriting and no delete marker,
// so the vault does not call itself versioned. An object becomes visible whole
// or not at all, by link(2), and never before its lock is on the disk. When Put
// returns, object, lock and every directory above them have been synced. A Put
// that failed or crashed leaves no visible object, or the whole object with its
// lock; what it leaves in tmp is removed by the next Put or Open. Removing goes
// the other way round: first the object, then its lock.
//
// An object without a readable lock file counts as locked for ever: Delete
// refuses it, Stat's error names the file. A lock file without its object means
// nothing; it is what a crash in the middle of either leaves, and it is kept
// until the key is put again, so that an object restored from a backup has its
// lock again.
//
// Several processes may use a vault at once, also over a network file system
// that has flock(2), link(2) and fsync(2).
//
// # What it trusts
//
// The file system and whoever can write to it. The lock is advisory: see
// [Limits].
package dir
