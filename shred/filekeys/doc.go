// Package filekeys keeps class keys in a directory, the keyring, for installations that
// have no key service. It implements shred.KeyStore.
//
// # Words
//
//   - keyring: a directory with all class keys and the ids of those destroyed.
//   - generation: all keys at one epoch, in a directory of its own. The generation's
//     number is the epoch.
//   - root: a generation's own random key, which seals its class keys. It is never used
//     for another generation.
//   - CURRENT: the file that names the generation that counts.
//   - rotation: to write the next generation, switch CURRENT to it by one rename, and
//     remove the one before. Every change of the keys is a rotation.
//   - mirror: another directory with the same generation, byte for byte.
//   - copy: the keyring's first directory, or a mirror.
//   - settle: to finish what an interrupted rotation has left.
//
// The layout and the files are written down byte for byte in keyring-format.md.
//
// # What is promised
//
// A rotation reaches all copies or fails, and names the copy that it could not reach.
// What a failed or interrupted rotation leaves is settled by the next Open, Create or
// Destroy: the newest generation that is whole in any copy counts, the copies that are
// behind are brought up to it, and everything else is removed. So a key whose Create
// has returned is never lost, a key whose Destroy has returned is never opened again,
// and to call either again after an error is always right. Processes that use one
// keyring at the same time take turns at rotating, by a lock on the file named lock,
// and see each other's changes at their next call.
//
// Settling brings up, and removes from, only directories that have a CURRENT: an empty
// directory where a mirror is expected is probably the mount point of a disk that is
// missing. So to add a mirror, or to replace a lost copy, copy the whole directory
// there (cp -a) while nothing rotates, and name it in the options.
//
// # What is trusted, and the limits
//
// The file system is trusted to do what it confirms: a synced file stays, a rename
// happens whole or not at all, a removed file is gone from its directory. Directories
// are made with mode 0700 and files with 0600, and a keyring that others can read is
// refused; root, and whoever can read the disk, are trusted. Sealing the keys under a
// root that lies beside them hides nothing from these: it is there so that 32 bytes
// decide over all the others, and so that no generation can be opened with another
// one's root.
//
// Destroy removes the keys from the directories that it was told of. It cannot reach:
//
//   - Copies that it doesn't know. Copying the data directory copies the keys, and so
//     do backups, snapshots of a file system or a virtual machine, and replicas of a
//     disk. Keep the keyring out of them, or make them forget within the time you can
//     accept.
//   - The disk itself. A removed file can often be undeleted until its blocks are used
//     again. The files are not overwritten first, on purpose: journaling and
//     copy-on-write file systems and flash memory write new data elsewhere and keep the
//     old, so it would look like a promise and be none. Encrypt the disk, and sanitize
//     it when it is retired (NIST SP 800-88).
//   - Memory and swap. A process may keep a key that it has opened.
//
// An older keyring that is put back in all its copies looks sound from inside. Callers
// note the epoch and the destroyed ids elsewhere and compare: see
// shred.Status.Regressed.
//
// Where keys have to be beyond the reach of whoever can read the disk, use a key
// service or an HSM.
package filekeys
