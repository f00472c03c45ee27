// Package postgres is the Store on PostgreSQL 15 or later, through jackc/pgx,
// for more than one machine, or for more records than one file should hold.
//
// It promises what lifecycle.Store asks for. Every method that writes is one
// transaction at READ COMMITTED, whatever the server's default is, whose first
// statement takes an advisory lock: shared by most, so that holds and ingest
// never wait for each other, exclusive by those that destroy (see write in
// postgres.go). What they check is read by later statements, from base rows, and
// so sees everything that was committed before the lock was got. Commits are
// synchronous, whatever the server's default is.
//
// A context that is done ends the wait for the lock; a transaction that has the
// lock goes to its end. Reads never wait for writes, and each sequence reads one
// snapshot, on a connection of its own. A snapshot that is open for an hour
// keeps VACUUM from what was deleted since, as any long transaction does.
//
// Nothing outlives a transaction in the session, so connections may go through
// PgBouncer in transaction mode; migrations need a direct one. The right to run
// is a row with a fencing number and an end by the server's clock (lease.go).
//
// It trusts the server with order and durability: with fsync off, or on a
// standby that is promoted without the last commits, what was reported done may
// be undone. Open refuses a standby. It does not trust the server with keys: a
// copy of the database, of any age, opens nothing once the class keys are gone.
// Its triggers repeat the rules as guards; who owns the schema can drop them, and
// who has only a role of 00004_roles.sql cannot (docs/roles.md).
package postgres
