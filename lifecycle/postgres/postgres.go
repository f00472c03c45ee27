package postgres

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options say where the database is.
type Options struct {
	// URL is where records are written and read, as in
	// postgres://user@host/database. It may lead through PgBouncer in
	// transaction mode. A password may also come from PGPASSWORD or ~/.pgpass.
	URL string
	// AdminURL is a direct connection to the same database, for migrations, as a
	// member of lotkeeper_owner when one is due. URL if it is empty.
	AdminURL string
	// Password is used for both, if it is not empty and the URL has none.
	Password string
	// Lease is how long nobody may take over from a process that has gone
	// silent: 30 seconds if it is zero.
	Lease time.Duration
	// MaxConns bounds the connections of one Store: 32 if it is zero. Whoever
	// ranges over records holds one until the end.
	MaxConns int32
}

var (
	// ErrExists: the database has been created before, and can be opened.
	ErrExists = errors.New("the database has a Lotkeeper schema already")
	// ErrNotCreated: there is no Lotkeeper schema, or Create was cut off before
	// anything was in it that anybody could miss. Create it (again).
	ErrNotCreated = errors.New("the database has no Lotkeeper schema, or one that was never finished")
	// ErrStandby: the server replays another's log. What it shows may be old,
	// and nothing can be written to it.
	ErrStandby = errors.New("the server is a standby: use the primary")
)

// Store is the lifecycle.Store on PostgreSQL. It is safe for concurrent use,
// also by several processes.
type Store struct {
	pool  *pgxpool.Pool
	lease time.Duration
	may   rights

	mu     sync.Mutex
	leases map[string]heartbeat // by kind of run, guarded by mu
}

var _ lifecycle.Store = (*Store)(nil)

// Create makes the schema in a database that has none. The leaf is the trail's
// first, and its time the first trusted one. ErrExists. What a Create that fails
// has left behind is finished by the next one.
func Create(ctx context.Context, o Options, epoch uint64, leaf lifecycle.Leaf) (*Store, error) {
	return start(ctx, o, epoch, leaf, func(ctx context.Context, tx *txn) error {
		_, err := tx.appendLeaf(ctx, leaf)
		return err
	})
}

// Restore is Create with the first entry of a log that is published: what the
// database was is replayed from there.
func Restore(ctx context.Context, o Options, first lifecycle.Leaf) (*Store, error) {
	return start(ctx, o, 0, first, func(ctx context.Context, tx *txn) error { return tx.replay(ctx, 0, first, nil) })
}

func start(ctx context.Context, o Options, epoch uint64, first lifecycle.Leaf, begin func(context.Context, *txn) error) (*Store, error) {
	s, err := open(ctx, o, true)
	if err != nil {
		return nil, fmt.Errorf("couldn't create the database: %w", err)
	}
	err = s.write(ctx, exclusive, func(ctx context.Context, tx *txn) error {
		n, err := tx.exec(ctx, `INSERT INTO lotkeeper.meta (one, created_at, epoch, trusted_time) VALUES (1, $1, $2, $1) ON CONFLICT DO NOTHING`,
			stamp(first.At), int64(epoch))
		if err == nil && n == 0 {
			err = ErrExists
		}
		if err != nil {
			return err
		}
		return begin(ctx, tx)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't create the database: %w", err), s.Close())
	}
	return s, nil
}

// Open opens a database that Create made, and brings its schema up to date.
// ErrNotCreated, ErrStandby.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := open(ctx, o, false)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the database: %w", err)
	}
	_, err = s.Info(ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotCreated
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't open the database: %w", err), s.Close())
	}
	return s, nil
}

func open(ctx context.Context, o Options, create bool) (*Store, error) {
	if o.AdminURL == "" {
		o.AdminURL = o.URL
	}
	if o.Lease == 0 {
		o.Lease = 30 * time.Second
	}
	if o.MaxConns == 0 {
		o.MaxConns = 32
	}
	admin, err := pgx.ParseConfig(o.AdminURL)
	if err != nil {
		return nil, errURL
	}
	config, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, errURL
	}
	if o.Password != "" {
		admin.Password, config.ConnConfig.Password = o.Password, o.Password
	}
	config.MaxConns = o.MaxConns
	// The names and types of a statement's columns are remembered here, by
	// connection, and nothing in the server: the statement itself is sent, unnamed,
	// each time, in one round trip. So it does not matter which server connection
	// PgBouncer has for the next one, and results still come in binary. The types
	// change with a migration only, that is before the connections are made.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	if err := migrate(ctx, admin, create); err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	s := &Store{pool: pool, lease: o.Lease, leases: map[string]heartbeat{}}
	if err = checkServer(ctx, pool); err == nil {
		s.may, err = one(ctx, pool, func(c *columns) rights { return rights{c.int() == 1, c.int() == 1} }, `SELECT
			has_column_privilege('lotkeeper.segments', 'wrapped_identity', 'SELECT'), has_function_privilege('lotkeeper.advance(text)', 'EXECUTE')`)
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

// rights are what only some of those may do who call a method (00004_roles.sql).
type rights struct {
	identities bool // read the wrapped identities of segments
	advance    bool // have the trusted time follow their leaves
}

// denied names what the server refused for want of a right.
func denied(err error) error {
	var e *pgconn.PgError
	if errors.As(err, &e) && e.ConstraintName == "policy_approved" && !errors.Is(err, lifecycle.ErrProposer) {
		return fmt.Errorf("%w: %w", lifecycle.ErrProposer, err)
	}
	if errors.As(err, &e) && e.Code == "42501" && !errors.Is(err, lifecycle.ErrDenied) { // insufficient_privilege
		return fmt.Errorf("%w: %w", lifecycle.ErrDenied, err)
	}
	return err
}

// errURL says nothing of the URL: whatever part of it could not be read may be
// the password.
var errURL = errors.New("the URL cannot be read: it should look like postgres://user@host:5432/database, with odd characters of a password as %XX")

// checkServer refuses what would not keep the promises. It asks by both ways in:
// they may lead to different servers.
func checkServer(ctx context.Context, q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}) error {
	var standby bool
	var version int
	var encoding string
	if err := q.QueryRow(ctx, `SELECT pg_is_in_recovery(), current_setting('server_version_num')::integer, current_setting('server_encoding')`).
		Scan(&standby, &version, &encoding); err != nil {
		return err
	}
	switch {
	case standby:
		return ErrStandby
	case version < 150000:
		return fmt.Errorf("the server is PostgreSQL %d, and 15 is the oldest that will do", version/10000)
	case encoding != "UTF8":
		return fmt.Errorf("the database's encoding is %s: create one with ENCODING 'UTF8'", encoding)
	}
	return nil
}

// migrate brings the schema up to date, over one direct connection after the
// other. Two that start at once wait for each other. Where there is nothing to do it
// only looks, which every role may.
func migrate(ctx context.Context, config *pgx.ConnConfig, create bool) error {
	// A simple Exec of many statements, as goose sends them, caches nothing.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	var version int64
	if err = prepare(ctx, conn, create); err == nil {
		version, err = schemaVersion(ctx, conn)
	}
	if err = errors.Join(denied(err), conn.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	versions, err := database.NewStore(goose.DialectPostgres, "lotkeeper.goose_db_version")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockKey+1), lock.WithLockTimeout(1, 300))
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer db.Close() //nolint:errcheck // nothing is under way by then
	p, err := goose.NewProvider("", db, dir, goose.WithStore(versions), goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	sources := p.ListSources()
	newest := sources[len(sources)-1].Version
	if version > newest {
		return fmt.Errorf("its schema is version %d, this program knows up to %d: use a newer lotkeeper", version, newest)
	}
	if version < newest {
		_, err = p.Up(ctx)
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != "42501" { // insufficient_privilege
		return err
	}
	if e.Hint != "" { // 00004_roles.sql
		return &lifecycle.Refused{Check: "role", Reason: e.Message, Hint: "have somebody who may create roles run: " + e.Hint}
	}
	return &lifecycle.Refused{Check: "role", Reason: fmt.Sprintf("the schema is version %d and has to become %d, which %s may not do: %s", version, newest, config.User, e.Message),
		Hint: "name a connection as its owner in the configuration, as store_admin"}
}

// prepare makes the schema that goose's own table goes into.
func prepare(ctx context.Context, conn *pgx.Conn, create bool) error {
	if err := checkServer(ctx, conn); err != nil {
		return err
	}
	if !create {
		var there bool
		err := conn.QueryRow(ctx, `SELECT to_regclass('lotkeeper.meta') IS NOT NULL`).Scan(&there)
		if err == nil && !there {
			err = ErrNotCreated
		}
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// IF NOT EXISTS alone fails when two do it at once.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS lotkeeper`)
		return err
	})
}

// schemaVersion is the newest migration that was applied, 0 if none was. goose would
// ask with the owner's rights.
func schemaVersion(ctx context.Context, conn *pgx.Conn) (version int64, err error) {
	var there bool
	err = conn.QueryRow(ctx, `SELECT to_regclass('lotkeeper.goose_db_version') IS NOT NULL`).Scan(&there)
	if err == nil && there {
		err = conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM lotkeeper.goose_db_version WHERE is_applied`).Scan(&version)
	}
	return version, err
}

// Close gives back every lease that is still held.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for kind, h := range s.leases {
		h.stop()
		errs = append(errs, s.giveBack(kind, h.Lease))
		delete(s.leases, kind)
	}
	s.pool.Close()
	return errors.Join(errs...)
}

// lockKey is the advisory lock that writers take. It reads "LOTK". The next one is for
// migrations, the one after it for the log, and the one after that, addedKey, keeps what
// takes its time out of the way of the lock: see adding.
const (
	lockKey  = int64(0x4c4f544b)
	addedKey = lockKey + 3
)

// lockMode is how a transaction takes the lock.
type lockMode int

const (
	// shared: placing holds, and what changes nothing that they read. A transaction
	// that has it lets all others of its kind pass.
	shared lockMode = iota
	// adding is shared for what adds records, links or lots of traces: a merge takes
	// its time, and who wants the lock for himself waits for it before he stands in the
	// queue for that, where holds would have to wait behind him.
	adding
	// between has no lock, and nothing is added meanwhile: all that was is seen.
	between
	// exclusive: what destroys, or opens what merges depend on. It sees every
	// hold and every record whose call returned before it began. It waits in the
	// queue for a moment only, for whoever comes behind it in the queue waits as
	// well: then it steps back, and comes again. It is also what the trail's
	// order hangs by: its leaf is above all that were committed before it.
	exclusive
	// deciding is exclusive for what asks what is held: it completes the traces before
	// it asks for the lock, while nothing is added.
	deciding
	// sequencing: one at a time changes the log. That is another lock, which neither
	// holds nor merges wait for.
	sequencing
)

const (
	// readCommitted is what makes the statements after the lock see what was
	// committed before it. Under REPEATABLE READ or SERIALIZABLE they see the
	// time before the wait, and were measured to shred a held record.
	//
	// A client that vanishes without a word must not keep the lock until TCP
	// notices, which takes hours: a transaction in which nothing comes for half a
	// minute is ended by the server.
	//
	// All statements of these transactions are about rows that are named one by one,
	// or lead to them by an index. So a walk through a table is never the better
	// plan, but what a planner comes to that knows little of a table that has just
	// grown. And where it has no other, the cost it then sets on one must not make it
	// compile the statement, which takes longer than the statement.
	readCommitted = `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; SET LOCAL idle_in_transaction_session_timeout = '30s';
		SET LOCAL enable_seqscan = off; SET LOCAL jit = off`
	// inQueue is how long an exclusive transaction may keep others waiting.
	inQueue = `SET LOCAL lock_timeout = '50ms'`
	// patience is how long a transaction may take that has the lock: a bound
	// for the case that the network swallows all.
	patience = 5 * time.Minute
)

// txn is a transaction that has the lock.
type txn struct {
	pgx.Tx
	leaves []time.Time // of the leaves that were written, in order
}

// write runs fn in one durable transaction, under the lock.
//
// A context that is done ends the wait for the lock. A transaction that has it
// goes to its end, and fn is given a context that says so: it is short, and an
// interrupt would leave it open whether it was committed. fn is run again if
// another transaction was in the way, for nothing has happened then.
func (s *Store) write(ctx context.Context, mode lockMode, fn func(context.Context, *txn) error) error {
	for attempt := 0; ; attempt++ {
		err := s.attempt(ctx, mode, fn)
		if !inTheWay(err) {
			return err
		}
		// Up to 5, 10, 20 ... 160 ms, at random, so that two do not meet again.
		if !wait(ctx, rand.N(5*time.Millisecond<<min(attempt, 5))) {
			return ctx.Err()
		}
	}
}

func (s *Store) attempt(ctx context.Context, mode lockMode, fn func(context.Context, *txn) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	inner, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: readCommitted})
	if err != nil {
		return err
	}
	tx := &txn{Tx: inner}
	// On whatever way out: without it the connection would be closed, not reused.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		_ = inner.Rollback(ctx) // nothing, once it is committed
	}()
	if err := tx.lock(ctx, mode); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := fn(ctx, tx); err != nil {
		return err
	}
	if s.may.advance {
		if err := tx.advance(ctx); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

// lock is what a transaction begins with. Everybody takes the locks in this order.
func (tx *txn) lock(ctx context.Context, mode lockMode) error {
	const one, many = `SELECT pg_advisory_xact_lock($1)`, `SELECT pg_advisory_xact_lock_shared($1)`
	take := func(lock string, key int64) error {
		_, err := tx.exec(ctx, lock, key)
		return err
	}
	switch mode {
	case sequencing:
		return take(one, lockKey+2)
	case shared:
		return take(many, lockKey)
	case adding:
		if err := take(many, addedKey); err != nil {
			return err
		}
		return take(many, lockKey)
	}
	if err := take(one, addedKey); err != nil || mode == between {
		return err
	}
	if mode == deciding {
		if err := tx.ensureTraced(ctx, math.MaxInt); err != nil {
			return err
		}
	}
	if _, err := tx.exec(ctx, inQueue); err != nil {
		return err
	}
	return take(one, lockKey)
}

// inTheWay says that a transaction failed because of another one, and may find
// another state of things if it is tried again: lock_not_available,
// deadlock_detected, and the unique_violation of a record that two merges bring
// at once, or of a case that two place. The second finds it there when it looks again.
func inTheWay(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == "55P03" || e.Code == "40P01" || twice(err, "records_record_id") || twice(err, "holds_reference")
}

// twice says that something would have been there twice, and is there.
func twice(err error, constraint string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "23505" && e.ConstraintName == constraint
}

// wait waits, and says whether to go on. It reads no clock, and nothing is
// decided by how long it really took.
func wait(ctx context.Context, d time.Duration) bool {
	pause, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-pause.Done()
	return ctx.Err() == nil
}

// fenced is write for a sweep that must still have its lease.
func (s *Store) fenced(ctx context.Context, mode lockMode, l lifecycle.Lease, fn func(context.Context, *txn) error) error {
	return s.write(ctx, mode, s.withLease(l, fn))
}

// withLease makes fn one that must have the lease, and has it for another term by
// that. The lease's row stays locked until the commit, so that nobody takes over
// in between.
func (s *Store) withLease(l lifecycle.Lease, fn func(context.Context, *txn) error) func(context.Context, *txn) error {
	return func(ctx context.Context, tx *txn) error {
		n, err := tx.exec(ctx, `UPDATE lotkeeper.leases SET expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
			WHERE kind = 'sweep' AND fence = $1 AND run_id = $2 AND EXISTS (SELECT FROM lotkeeper.runs r WHERE r.run_id = $2 AND r.status = 'running')`,
			l.Fence, l.RunID, s.lease.Microseconds())
		if err == nil && n != 1 {
			err = lifecycle.ErrFenced
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", l.RunID, err)
		}
		return fn(ctx, tx)
	}
}

// exec runs a statement and says how many rows it changed.
func (tx *txn) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	tag, err := tx.Exec(ctx, sql, args...)
	return tag.RowsAffected(), denied(err)
}

// moved turns an update that found nothing into ErrMoved.
func moved(n int64, err error, what string) error {
	if err == nil && n != 1 {
		err = fmt.Errorf("%s: %w", what, lifecycle.ErrMoved)
	}
	return err
}

// exactly refuses a statement that changed another number of rows than it was
// meant to: the transaction is given up rather than explained.
func exactly(want int) func(int64, error) error {
	return func(n int64, err error) error {
		if err == nil && n != int64(want) {
			err = fmt.Errorf("changed %d rows instead of %d", n, want)
		}
		return err
	}
}

// copyInto inserts rows.
func (tx *txn) copyInto(ctx context.Context, into string, rows *copyRows) error {
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(rows.b), `COPY `+into+` FROM STDIN (FORMAT binary)`)
	return exactly(rows.n)(tag.RowsAffected(), denied(err))
}

// appendLeaf commits a leaf with tx, and returns its id. It takes the id here,
// under the lock.
func (tx *txn) appendLeaf(ctx context.Context, l lifecycle.Leaf) (int64, error) {
	return tx.writeLeaf(ctx, l, `session_user`)
}

func (tx *txn) writeLeaf(ctx context.Context, l lifecycle.Leaf, role string, args ...any) (int64, error) {
	id, err := one(ctx, tx, (*columns).int, `INSERT INTO lotkeeper.leaves (at, actor, action, run_id, subject, body, software, role)
		VALUES ($1, $2, $3, $4, $5, $6, $7, `+role+`) RETURNING leaf_id`,
		append([]any{stamp(l.At), l.Actor, l.Action, l.RunID, l.Subject, bodyOf(l), l.Software}, args...)...)
	if err != nil {
		return 0, fmt.Errorf("couldn't write audit leaf %s: %w", l.Action, err)
	}
	tx.leaves = append(tx.leaves, l.At)
	return id, nil
}

// bodyOf is a leaf's body as it is stored.
func bodyOf(l lifecycle.Leaf) string {
	if len(l.Body) == 0 {
		return "{}"
	}
	return string(l.Body)
}

// advance moves the trusted time along with the leaves. It comes last: there is
// one row, and the next transaction that moves it waits from here to the commit.
func (tx *txn) advance(ctx context.Context) error {
	for i, at := range tx.leaves {
		if i > 0 && at.Equal(tx.leaves[i-1]) {
			continue
		}
		if _, err := tx.exec(ctx, `SELECT lotkeeper.advance($1)`, stamp(at)); err != nil {
			return err
		}
	}
	return nil
}
