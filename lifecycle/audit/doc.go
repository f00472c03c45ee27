// Package audit is the transparency log: its entries, its checkpoints, its tiles,
// and what can be proved from them without the database.
//
// It knows no Store and no Vault. A log is a Merkle tree as in RFC 6962
// (golang.org/x/mod/sumdb/tlog), its head a signed note
// (golang.org/x/mod/sumdb/note, C2SP tlog-checkpoint), its published form the
// tiles of C2SP tlog-tiles: https://c2sp.org/tlog-tiles.
package audit
