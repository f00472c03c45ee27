// Package pgtest starts a real PostgreSQL server, and a real PgBouncer, for the
// tests of one process. Both are installed programs, started in a directory of
// their own, on a socket in it; nothing of a server that runs already is touched.
//
// A test's package needs
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// Without the programs the tests fail, and say what to type: a test that is
// passed over is one that nobody runs. Only LOTKEEPER_EMBEDDED_ONLY=1 passes
// them over. LOTKEEPER_TEST_FSYNC=1 has the server sync its files, which a test
// otherwise does not wait for.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Main runs the tests, stops the servers and ends the process.
func Main(m *testing.M) { os.Exit(Run(m.Run)) }

// Run is Main for a package whose TestMain has more to do than that.
func Run(tests func() int) int {
	code := tests()
	for _, s := range []*program{&server, &bouncer} {
		s.stop()
	}
	return code
}

// program is a server that is started once, and when it is first asked for.
type program struct {
	once  sync.Once
	start func() (*child, error)
	child *child
	err   error
}

// needed passes a test over where no servers are wanted.
func needed(t testing.TB) {
	t.Helper()
	if os.Getenv("LOTKEEPER_EMBEDDED_ONLY") == "1" {
		t.Skip("LOTKEEPER_EMBEDDED_ONLY is set: what needs PostgreSQL is left out")
	}
}

func (p *program) get(t testing.TB) string {
	t.Helper()
	needed(t)
	p.once.Do(func() { p.child, p.err = p.start() })
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.child.dir
}

func (p *program) stop() {
	if p.child != nil {
		p.child.leash.Close()
		_ = p.child.cmd.Wait()
	}
}

var (
	server  = program{start: func() (*child, error) { return startServer(os.Getenv("LOTKEEPER_TEST_FSYNC") == "1") }}
	bouncer = program{start: startBouncer}
)

// child is a server on a leash: a shell that waits for its standard input to end,
// stops the server then, and removes its directory. So it ends with this process,
// also when that is killed. A line there starts a server again that has ended.
type child struct {
	dir   string
	cmd   *exec.Cmd
	leash io.WriteCloser
}

const shell = `run() { "$@" >>"$DIR/log" 2>&1 & p=$!; }
run "$@"
while read -r line; do wait $p; run "$@"; done
kill -INT $p 2>/dev/null
wait $p
rm -rf "$DIR"`

// unprivileged is the user postgres for root, whom both programs refuse to run
// for, and nobody else for everybody else.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

// directory makes one that the server's user owns.
func directory(cred *syscall.Credential) (string, error) {
	dir, err := os.MkdirTemp("", "lotkeeper-pg-")
	if err == nil && cred != nil {
		err = os.Chown(dir, int(cred.Uid), int(cred.Gid))
	}
	return dir, err
}

// leashed starts a server.
func leashed(dir string, cred *syscall.Credential, args ...string) (*child, error) {
	cmd := exec.Command("/bin/sh", append([]string{"-c", shell, "sh"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DIR="+dir)
	// A group of its own: Ctrl-C is for the tests, which then let go of the leash.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true}
	leash, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &child{dir, cmd, leash}, cmd.Start()
}

// until tries for half a minute.
func (c *child) until(ready func() error) error {
	var err error
	for range 300 {
		if err = ready(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(c.dir, "log"))
	return fmt.Errorf("the server did not start: %w\n%s", err, log)
}

// binary finds a program of the newest PostgreSQL that is installed.
func binary(name string) (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if len(found) > 0 {
		return found[0], nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed; type: apt-get install postgresql", name)
	}
	return path, nil
}

func startServer(syncs bool) (*child, error) {
	initdb, err := binary("initdb")
	if err != nil {
		return nil, err
	}
	postgres, err := binary("postgres")
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := directory(cred)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	// A locale that sorts as people do: order must not depend on it.
	cmd := exec.Command(initdb, "-D", data, "-U", "lotkeeper", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	fsync := "off"
	if syncs {
		fsync = "on"
	}
	c, err := leashed(dir, cred, postgres, "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir, "-c", "fsync="+fsync, "-c", "max_connections=200")
	if err != nil {
		return nil, err
	}
	return c, c.until(func() error { return admin(dir, `SELECT 1`) })
}

// Standby is a server that replays the log of the one the database is on, for the
// length of the test, and leads to the database there.
func Standby(t testing.TB, d *Database) string {
	t.Helper()
	c, err := startStandby(server.get(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { (&program{child: c}).stop() })
	return address(c.dir, port, d.Name)
}

func startStandby(primary string) (*child, error) {
	basebackup, err := binary("pg_basebackup")
	if err != nil {
		return nil, err
	}
	postgres, err := binary("postgres")
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := directory(cred)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	cmd := exec.Command(basebackup, "-h", primary, "-U", "lotkeeper", "-D", data, "--checkpoint=fast", "--write-recovery-conf", "--no-sync")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pg_basebackup: %w\n%s", err, out)
	}
	c, err := leashed(dir, cred, postgres, "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir, "-c", "fsync=off", "-c", "max_connections=200")
	if err != nil {
		return nil, err
	}
	return c, c.until(func() error { return admin(dir, `SELECT 1`) })
}

// startBouncer is PgBouncer in transaction mode before the server.
func startBouncer() (*child, error) {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		return nil, errors.New("pgbouncer is not installed; type: apt-get install pgbouncer")
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := directory(cred)
	if err != nil {
		return nil, err
	}
	ini := fmt.Appendf(nil, `[pgbouncer]
listen_addr =
unix_socket_dir = %[1]s
auth_type = trust
auth_file = %[1]s/users
pool_mode = transaction
max_client_conn = 500
logfile =
[databases]
`, dir)
	for db := range 1000 {
		for _, size := range []int{Few, Many} {
			ini = fmt.Appendf(ini, "lotkeeper_%d_%d = host=%s dbname=lotkeeper_%[1]d pool_size=%[2]d\n", db, size, server.child.dir)
		}
	}
	config := filepath.Join(dir, "pgbouncer.ini")
	if err := errors.Join(os.WriteFile(config, ini, 0o644), os.WriteFile(filepath.Join(dir, "users"), []byte(`"lotkeeper" ""`), 0o644)); err != nil {
		return nil, err
	}
	c, err := leashed(dir, cred, path, config)
	if err != nil {
		return nil, err
	}
	return c, c.until(func() error {
		_, err := os.Stat(filepath.Join(dir, ".s.PGSQL.6432"))
		return err
	})
}

// Few and Many are how many server connections PgBouncer can have for a database.
const (
	Few  = 4
	Many = 20
)

// admin runs statements in the server's own database.
func admin(dir string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, address(dir, port, "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // all has been said by then
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

const port = "5432"

func address(dir, port, database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("lotkeeper"), Host: "", Path: "/" + database, RawQuery: url.Values{"host": {dir}, "port": {port}}.Encode()}).String()
}

// Database is a new, empty database.
type Database struct {
	Name string
	dir  string // the server's; "" is that of the process
}

func (d *Database) server() string {
	if d.dir == "" {
		return server.child.dir
	}
	return d.dir
}

var databases atomic.Int64

// New makes a database, which goes with the test. settings are its defaults, as
// in "synchronous_commit = off".
func New(t testing.TB, settings ...string) *Database {
	t.Helper()
	return clone(t, server.get(t), "template1", settings...)
}

// Clone makes a database like d, which nobody may be connected to, with settings of
// its own.
func (d *Database) Clone(t testing.TB, settings ...string) *Database {
	t.Helper()
	return clone(t, d.server(), d.Name, settings...)
}

func clone(t testing.TB, dir, template string, settings ...string) *Database {
	t.Helper()
	d := &Database{fmt.Sprintf("lotkeeper_%d", databases.Add(1)), dir}
	statements := []string{`CREATE DATABASE ` + d.Name + ` TEMPLATE ` + template}
	for _, s := range settings {
		statements = append(statements, `ALTER DATABASE `+d.Name+` SET `+s)
	}
	if err := admin(dir, statements...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin(dir, `DROP DATABASE `+d.Name+` WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	return d
}

// URL leads to the database directly.
func (d *Database) URL() string { return address(d.server(), port, d.Name) }

var users atomic.Int64

// As leads to the database directly, as a new user who has the roles given and nothing
// else.
func (d *Database) As(t testing.TB, roles ...string) string {
	t.Helper()
	user := fmt.Sprintf("user_%d", users.Add(1))
	statements := []string{`CREATE ROLE ` + user + ` LOGIN`}
	for _, r := range roles {
		statements = append(statements, `GRANT `+r+` TO `+user)
	}
	if err := admin(d.server(), statements...); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	return u.String()
}

// Files is the directory that the server keeps all of its databases in.
func (d *Database) Files() string { return filepath.Join(d.server(), "data") }

// PgBouncer leads to it through PgBouncer in transaction mode, which shares so
// many server connections, Few or Many, among all that come.
func (d *Database) PgBouncer(t testing.TB, connections int) string {
	t.Helper()
	return address(bouncer.get(t), "6432", fmt.Sprintf("%s_%d", d.Name, connections))
}
