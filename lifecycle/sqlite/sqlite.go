package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is the embedded lifecycle.Store. It is safe for concurrent use, also
// by several processes.
type Store struct {
	w, r *sql.DB
	gate gate
	pace pace

	mu     sync.Mutex
	leases map[string]held // by kind of run, guarded by mu
}

// held is a lease that this handle holds, and the lock that it rests on.
type held struct {
	lifecycle.Lease
	lock *os.File
}

var _ lifecycle.Store = (*Store)(nil)

// applicationID marks a file as Lotkeeper's database, at an offset of SQLite's
// header where file(1) and Open find it. It reads "LOTK".
const applicationID = 0x4c4f544b

// Create makes a database at path; the file must not exist. The leaf is the
// trail's first, and its time the first trusted one. When it fails nothing is
// left of the file.
func Create(ctx context.Context, path string, epoch uint64, leaf lifecycle.Leaf) (*Store, error) {
	return start(ctx, path, epoch, leaf, func(ctx context.Context, tx *sql.Tx) error {
		_, err := appendLeaf(ctx, tx, leaf)
		return err
	})
}

// Restore is Create with the first entry of a log that is published: what the
// database was is replayed from there.
func Restore(ctx context.Context, path string, first lifecycle.Leaf) (*Store, error) {
	return start(ctx, path, 0, first, func(ctx context.Context, tx *sql.Tx) error { return replay(ctx, tx, 0, first, nil) })
}

func start(ctx context.Context, path string, epoch uint64, first lifecycle.Leaf, begin func(context.Context, *sql.Tx) error) (*Store, error) {
	// SQLite would make the file with the umask's permissions, and gives its
	// -wal and -shm those of the file.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't create database: %w", err)
	}
	s, err := fill(ctx, path, epoch, first, begin)
	if err = errors.Join(err, f.Close()); err != nil {
		for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
			_ = os.Remove(path + suffix) // most are not there
		}
		return nil, fmt.Errorf("couldn't start database %s: %w", path, err)
	}
	return s, nil
}

func fill(ctx context.Context, path string, epoch uint64, first lifecycle.Leaf, begin func(context.Context, *sql.Tx) error) (*Store, error) {
	// The mark is the first that is written, before WAL mode even (the driver
	// sets pragmas in alphabetical order), so that Open knows a file that Create
	// did not finish from one that is somebody else's.
	s, err := open(ctx, path, fmt.Sprintf("application_id(%d)", applicationID))
	if err != nil {
		return nil, err
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO meta (one, created_at, epoch, trusted_time) VALUES (1, ?, ?, ?)`,
			stamp(first.At), int64(epoch), stamp(first.At)); err != nil {
			return err
		}
		return begin(ctx, tx)
	})
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// syncDir makes the file's name durable: SQLite syncs what is in it.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ErrUnfinished: Create was cut off. Nothing is in the file that anybody could
// miss; remove it, and create it again.
var ErrUnfinished = errors.New("the database was never finished: remove the file and create it again")

// Open opens a database that Create made, and brings its schema up to date.
// ErrUnfinished. A file that is not Lotkeeper's is refused as it is.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := checkHeader(path); err != nil {
		return nil, fmt.Errorf("couldn't open database %s: %w", path, err)
	}
	s, err := open(ctx, path)
	if err != nil {
		return nil, err
	}
	_, err = s.Info(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrUnfinished
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't open database %s: %w", path, err), s.Close())
	}
	return s, nil
}

// checkHeader looks at the file before SQLite does, which would make of an empty
// file a database, and of another program's database one in WAL mode. The layout
// is section 1.3 of https://www.sqlite.org/fileformat.html.
func checkHeader(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	header := make([]byte, 100)
	switch n, err := io.ReadFull(f, header); {
	case err == io.EOF && n == 0:
		return ErrUnfinished
	case err != nil && err != io.ErrUnexpectedEOF:
		return err
	}
	if !bytes.HasPrefix(header, []byte("SQLite format 3\x00")) || binary.BigEndian.Uint32(header[68:]) != applicationID {
		return errors.New("it is not a Lotkeeper database")
	}
	return nil
}

func open(ctx context.Context, path string, pragmas ...string) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	locks := filepath.Join(filepath.Dir(abs), "locks")
	if err := os.MkdirAll(locks, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the folder for locks: %w", err)
	}
	connect := func(txlock string, pragmas ...string) (*sql.DB, error) {
		q := url.Values{"_txlock": {txlock}, "_pragma": append([]string{"busy_timeout(10000)", "foreign_keys(1)"}, pragmas...)}
		return sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: abs, RawQuery: q.Encode()}).String())
	}
	s := &Store{gate: gate{locks}, pace: usualPace, leases: map[string]held{}}
	// FULL, not NORMAL: in WAL mode NORMAL may lose the last commits when the
	// power goes, and a lost "resealed" with its class key destroyed is a lost
	// record. The WAL may grow to 32 MB before it is brought home, for an ingest
	// touches the same pages of its indexes again and again.
	if s.w, err = connect("immediate", append(pragmas, "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-16000)", "wal_autocheckpoint(8000)")...); err != nil {
		return nil, err
	}
	s.w.SetMaxOpenConns(1)
	if s.r, err = connect("deferred", "query_only(1)", "cache_size(-4000)"); err != nil {
		return nil, errors.Join(err, s.w.Close())
	}
	// Connections are kept, not limited: whoever ranges over records may ask for
	// something else in between, and would wait for himself.
	s.r.SetMaxIdleConns(4)
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't bring %s up to date: %w", path, err), s.Close())
	}
	return s, nil
}

func (s *Store) migrate(ctx context.Context) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.w, dir)
	if err != nil {
		return err
	}
	// goose takes no lock on SQLite; the gate is one for every process.
	leave, err := s.gate.enter(ctx, false)
	if err != nil {
		return err
	}
	defer leave()
	version, err := p.GetDBVersion(ctx)
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
	return err
}

// Close gives back every lease that is still held.
func (s *Store) Close() error {
	s.mu.Lock()
	for kind, l := range s.leases {
		l.lock.Close()
		delete(s.leases, kind)
	}
	s.mu.Unlock()
	return errors.Join(s.r.Close(), s.w.Close())
}

// write runs fn in one durable transaction.
func (s *Store) write(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	return s.transact(ctx, false, fn)
}

// transact is write; with first set it overtakes others that wait.
//
// A context that is done ends the wait for the lock. A transaction that has
// begun goes to its end, and fn is given a context that says so: it is short,
// and an interrupt would leave database/sql to roll back at its leisure, after
// the gate was left, and report whatever it found done already.
func (s *Store) transact(ctx context.Context, first bool, fn func(context.Context, *sql.Tx) error) error {
	leave, err := s.gate.enter(ctx, first)
	if err != nil {
		return err
	}
	defer leave()
	ctx = context.WithoutCancel(ctx)
	tx, err := s.w.BeginTx(ctx, nil) // BEGIN IMMEDIATE: the lock comes first, every check is a later statement
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing, once it is committed
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// fenced is write for a sweep that must still have its lease.
func (s *Store) fenced(ctx context.Context, l lifecycle.Lease, fn func(context.Context, *sql.Tx) error) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var one int
		err := tx.QueryRowContext(ctx, `SELECT 1 FROM leases l JOIN runs r USING (kind)
			WHERE kind = 'sweep' AND l.fence = ? AND r.run_id = ? AND r.status = 'running'`, l.Fence, l.RunID).Scan(&one)
		if err == sql.ErrNoRows {
			err = lifecycle.ErrFenced
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", l.RunID, err)
		}
		return fn(ctx, tx)
	})
}

// moved turns an update that found nothing into ErrMoved.
func moved(res sql.Result, err error, what string) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
		err = fmt.Errorf("%s: %w", what, lifecycle.ErrMoved)
	}
	return err
}

// appendLeaf commits a leaf with tx and moves the trusted time along. It
// returns the leaf's id. A leaf's role is that of a server, of which there is none.
func appendLeaf(ctx context.Context, tx *sql.Tx, l lifecycle.Leaf) (int64, error) {
	l.Role = ""
	return writeLeaf(ctx, tx, l)
}

// writeLeaf is appendLeaf for a leaf that was published, and has its role.
func writeLeaf(ctx context.Context, tx *sql.Tx, l lifecycle.Leaf) (int64, error) {
	res, err := tx.ExecContext(ctx, `INSERT INTO leaves (at, actor, action, run_id, subject, body, software, role) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		stamp(l.At), l.Actor, l.Action, l.RunID, l.Subject, bodyOf(l), l.Software, l.Role)
	if err != nil {
		return 0, fmt.Errorf("couldn't write audit leaf %s: %w", l.Action, err)
	}
	var trusted time.Time
	if err := tx.QueryRowContext(ctx, `SELECT trusted_time FROM meta`).Scan(at(&trusted)); err != nil {
		return 0, err
	}
	if l.At.After(trusted) && l.At.Sub(trusted) <= lifecycle.MaxJump {
		if _, err := tx.ExecContext(ctx, `UPDATE meta SET trusted_time = ?`, stamp(l.At)); err != nil {
			return 0, err
		}
	}
	return res.LastInsertId()
}

// bodyOf is a leaf's body as it is stored.
func bodyOf(l lifecycle.Leaf) string {
	if len(l.Body) == 0 {
		return "{}"
	}
	return string(l.Body)
}

const layout = "2006-01-02T15:04:05.000000000Z"

// stamp is a time as it is stored: of fixed width, so that text sorts as time.
func stamp(t time.Time) string { return t.UTC().Format(layout) }

// maybeStamp is stamp for a time that may be zero, stored as nothing.
func maybeStamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return stamp(t)
}

// at scans a stored time into a time.Time. Anything but what stamp writes is an
// error: a time that somebody has edited must not read as long ago.
func at(t *time.Time) sql.Scanner { return (*stampScanner)(t) }

type stampScanner time.Time

func (s *stampScanner) Scan(v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("a stored time is a %T", v)
	}
	t, err := time.Parse(layout, text)
	// Parse alone also takes a comma, and an hour of one digit.
	if err != nil || len(text) != len(layout) || text[19] != '.' {
		return fmt.Errorf("a stored time reads %q", text)
	}
	*s = stampScanner(t)
	return nil
}

// maybeAt is at for a time that may not have come yet: ”, read as zero.
func maybeAt(t *time.Time) sql.Scanner { return (*maybeScanner)(t) }

type maybeScanner time.Time

func (s *maybeScanner) Scan(v any) error {
	if v == "" {
		*s = maybeScanner{}
		return nil
	}
	return (*stampScanner)(s).Scan(v)
}

// sum scans a stored SHA-256.
func sum(b *[32]byte) sql.Scanner { return (*sumScanner)(b) }

type sumScanner [32]byte

func (s *sumScanner) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(s) {
		return fmt.Errorf("a stored checksum is a %T, not %d bytes", v, len(s))
	}
	copy(s[:], b)
	return nil
}
