// Package sqlite is the embedded Store: one SQLite file in WAL mode, through
// modernc.org/sqlite, so that neither a server nor a C compiler is needed.
//
// It promises what lifecycle.Store asks for. Every method that writes runs in one
// BEGIN IMMEDIATE transaction, committed with synchronous=FULL; TraceHolds in as
// many as it takes, so that a hold gets in between. As SQLite has a single writer,
// a transaction that destroys and one that places a hold never overlap, and
// whichever comes second sees the other's rows. Left to SQLite alone the order in
// which waiting writers get in is chance, and a hold can wait for seconds behind a
// sweep; the gate in gate.go lets it in first.
//
// A context that is done ends the wait for that gate; a transaction that has
// begun goes to its end. Reads never wait for writes, and each sequence reads one
// snapshot. While one is open, for an export that takes an hour, the -wal file
// keeps all that is written meanwhile, and grows by it.
//
// It trusts the file system with fsync and flock, so the file does not belong on
// a network share. It is not trusted with keys: a copy of the file, of any age,
// opens nothing once the class keys are gone. Its triggers repeat the rules as
// guards; who owns the file can drop them.
package sqlite
