package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

//go:embed pipeline.sh
var pipeline string

//go:embed textbook.sql
var textbook string

const (
	accessKey = "lotkeeper-bench"
	secretKey = "lotkeeper-bench-secret"
)

// onServers measures PostgreSQL and MinIO, with their default settings: what they
// say is durable is synced. Each is measured on tables that were vacuumed and a
// server that has just written its checkpoint; the pipeline before and after the
// sweep, since a machine that others use is not as fast at all times.
func onServers(b *bench) (err error) {
	servers := &servers{dir: b.dir}
	b.servers = servers
	defer func() { err = errors.Join(err, servers.stop()) }()
	if err := servers.startAll(b.cache); err != nil {
		return err
	}
	input := filepath.Join(b.dir, "records.jsonl")
	size, err := generate(input, b.n, b.n)
	if err != nil {
		return err
	}
	fmt.Println("Servers: PostgreSQL and MinIO")
	header(size, b.n, b.n)

	shell, err := b.pipeline(input)
	if err != nil {
		return err
	}

	config, err := servers.config()
	if err != nil {
		return err
	}
	b.global = []string{"--config=" + config, "-o", "json"}
	if _, err := b.lotkeeper("init"); err != nil {
		return err
	}
	if err := servers.settle("lotkeeper"); err != nil {
		return err
	}
	taken, err := b.ingest(input)
	if err != nil {
		return err
	}
	if err := servers.settle("lotkeeper"); err != nil {
		return err
	}
	before, err := servers.requests()
	if err != nil {
		return err
	}
	segments, swept, err := b.sweep(b.n)
	if err != nil {
		return err
	}
	after, err := servers.requests()
	if err != nil {
		return err
	}
	shellAgain, err := b.pipeline(input)
	if err != nil {
		return err
	}
	if err := b.read(); err != nil {
		return err
	}

	million := float64(b.n) / 1e6
	ratio := (shell.seconds + shellAgain.seconds) / 2 / swept.seconds
	fmt.Printf("\nsweep : shell pipeline %.2f (at least 2.5 wanted)\n", ratio)
	fmt.Printf("the same in processor time %.2f\n", (shell.cpu+shellAgain.cpu)/2/swept.cpu)
	fmt.Printf("ingest %.0f records/s (at least 50000 wanted)\n", float64(b.n)/taken.seconds)
	fmt.Printf("peak memory of the sweep %.0f MB (at most 96 wanted)\n", swept.peakMB)
	fmt.Printf("%.0f S3 requests in two sweeps, for %.0f segments: %.0f per million records (at most 400 wanted)\n", after-before, segments, (after-before)/million)
	b.atLeast("sweep : shell pipeline", ratio, 2.5)
	b.atLeast("ingest, records/s", float64(b.n)/taken.seconds, 50_000)
	b.atMost("peak memory of a sweep, MB", swept.peakMB, 96)
	b.atMost("S3 requests per million records", (after-before)/million, 400)
	return nil
}

// pipeline runs pipeline.sh on a new table of the same records.
func (b *bench) pipeline(input string) (m measured, err error) {
	s := b.servers
	if err := s.loadTextbook(input); err != nil {
		return m, err
	}
	dir := filepath.Join(b.dir, "pipeline")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return m, err
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(dir), s.psql("textbook", "DROP TABLE traceability_records"))
	}()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return m, err
	}
	now := time.Now().UTC()
	cmd := exec.Command("bash", "-c", pipeline)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"DATABASE="+s.database("textbook"), "CUTOFF="+now.Add(-730*24*time.Hour).Format(time.RFC3339),
		"AGE="+filepath.Join(b.cache, "age-v1.3.2", "age"), "RECIPIENT="+identity.Recipient().String(),
		"BUCKET_URL="+s.s3+"/textbook",
		"RETAIN_UNTIL="+now.Add(365*24*time.Hour).Format(time.RFC3339))
	if m, err = b.run(cmd); err == nil {
		m.print("shell pipeline", b.n)
	}
	return m, err
}

// servers are processes of their own, in the part's directory.
type servers struct {
	dir      string
	postgres string // its socket's directory
	s3       string // MinIO's URL
	running  []*exec.Cmd

	credentials credentials.Value
}

func (s *servers) start(cmd *exec.Cmd, log string) error {
	f, err := os.Create(filepath.Join(s.dir, log))
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT // also when this process is killed
	if err := cmd.Start(); err != nil {
		return err
	}
	s.running = append(s.running, cmd)
	return nil
}

// startAll starts both servers.
func (s *servers) startAll(cache string) error {
	if err := s.startPostgres(); err != nil {
		return err
	}
	return s.startMinIO(filepath.Join(cache, "minio-v0.0.0-20260212201848-7aac2a2c5b7c", "minio"))
}

// config writes a configuration of Lotkeeper's on them.
func (s *servers) config() (path string, err error) {
	path = filepath.Join(s.dir, "lotkeeper.yaml")
	text := fmt.Sprintf("data: data\nstore: %s\nvaults:\n  - name: minio\n    url: s3://lotkeeper?region=us-east-1&endpoint=%s&path_style=true\n", s.database("lotkeeper"), url.QueryEscape(s.s3))
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func (s *servers) stop() error {
	for _, cmd := range s.running {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait() // it was interrupted
	}
	if s.postgres != "" {
		return os.RemoveAll(s.postgres)
	}
	return nil
}

// cpu is the processor time that the servers have spent, their children included.
func (s *servers) cpu() (time.Duration, error) {
	if s == nil {
		return 0, nil
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	ticks := 0
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended; its parent's has its time
		}
		// pid (name) state parent ..., where the name may have anything in it.
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, cmd := range s.running {
			pid := strconv.Itoa(cmd.Process.Pid)
			if filepath.Base(filepath.Dir(path)) != pid && f[1] != pid {
				continue
			}
			// User and system time, of itself and of its children that have ended.
			for _, field := range f[11:15] {
				n, err := strconv.Atoi(field)
				if err != nil {
					return 0, err
				}
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // Linux counts in hundredths
}

// until tries for half a minute.
func until(what string, ready func() error) error {
	var err error
	for range 300 {
		if err = ready(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s did not start: %w", what, err)
}

// startPostgres makes a server with the default settings. It does not run as
// root, so it has a directory of its own.
func (s *servers) startPostgres() error {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		return errors.New("PostgreSQL is not installed; type: make postgres")
	}
	bin := found[len(found)-1]
	attr := &syscall.SysProcAttr{}
	if s.postgres, err = os.MkdirTemp("", "lotkeeper-bench-pg-"); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2, os.Chown(s.postgres, uid, gid)); err != nil {
			return err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(s.postgres, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "lotkeeper", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
	initdb.Dir, initdb.SysProcAttr = s.postgres, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+s.postgres)
	cmd.Dir, cmd.SysProcAttr = s.postgres, attr
	if err := s.start(cmd, "postgres.log"); err != nil {
		return err
	}
	if err := until("PostgreSQL", func() error { return s.psql("postgres", "SELECT 1") }); err != nil {
		return err
	}
	return errors.Join(s.psql("postgres", "CREATE DATABASE lotkeeper"), s.psql("postgres", "CREATE DATABASE textbook"))
}

func (s *servers) database(name string) string {
	return "postgres://lotkeeper@/" + name + "?host=" + url.QueryEscape(s.postgres)
}

func (s *servers) psql(database string, statements ...string) error {
	args := []string{"-qX", "-v", "ON_ERROR_STOP=1", "-d", s.database(database)}
	for _, statement := range statements {
		args = append(args, "-c", statement)
	}
	if out, err := exec.Command("psql", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w\n%s", err, out)
	}
	return nil
}

// settle leaves nothing to do that would disturb what is measured next.
func (s *servers) settle(database string) error {
	return s.psql(database, "VACUUM ANALYZE", "CHECKPOINT")
}

// loadTextbook makes the wide table of the same records.
func (s *servers) loadTextbook(input string) error {
	f, err := os.Open(input)
	if err != nil {
		return err
	}
	defer f.Close()
	script := filepath.Join(s.dir, "textbook.sql")
	if err := os.WriteFile(script, []byte(textbook), 0o600); err != nil {
		return err
	}
	cmd := exec.Command("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", s.database("textbook"), "-f", script)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w\n%s", err, out)
	}
	return s.settle("textbook")
}

// startMinIO starts a server with a bucket for each that locks.
func (s *servers) startMinIO(binary string) error {
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("MinIO is not there; type: make servers (%w)", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	s.s3 = "http://" + address
	cmd := exec.Command(binary, "server", "--quiet", "--address", address, filepath.Join(s.dir, "minio"))
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+accessKey, "MINIO_ROOT_PASSWORD="+secretKey, "MINIO_CI_CD=1", "MINIO_BROWSER=off", "MINIO_PROMETHEUS_AUTH_TYPE=public")
	if err := s.start(cmd, "minio.log"); err != nil {
		return err
	}
	client, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Region: "us-east-1"})
	if err != nil {
		return err
	}
	if err := until("MinIO", func() error {
		return client.MakeBucket(context.Background(), "lotkeeper", minio.MakeBucketOptions{ObjectLocking: true})
	}); err != nil {
		return err
	}
	if err := client.MakeBucket(context.Background(), "textbook", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		return err
	}
	return s.assumeRole()
}

// role may do everything but lift a lock: what can, Lotkeeper refuses.
const role = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::*"},
	{"Effect": "Deny", "Action": "s3:BypassGovernanceRetention", "Resource": "arn:aws:s3:::*"}]}`

// assumeRole gets the credentials that Lotkeeper and the pipeline use.
func (s *servers) assumeRole() error {
	assumed, err := credentials.NewSTSAssumeRole(s.s3, credentials.STSAssumeRoleOptions{
		AccessKey: accessKey, SecretKey: secretKey, Policy: role, DurationSeconds: 7 * 24 * 60 * 60})
	if err != nil {
		return err
	}
	if s.credentials, err = assumed.GetWithContext(nil); err != nil {
		return err
	}
	var errs []error
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": s.credentials.AccessKeyID, "AWS_SECRET_ACCESS_KEY": s.credentials.SecretAccessKey, "AWS_SESSION_TOKEN": s.credentials.SessionToken,
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		errs = append(errs, os.Setenv(name, value))
	}
	return errors.Join(errs...)
}

// requests is how many S3 requests MinIO has answered, by its own count, which it
// publishes some seconds late.
func (s *servers) requests() (float64, error) {
	last := -1.0
	for {
		n, err := s.counted()
		if err != nil || n == last {
			return n, err
		}
		last = n
		time.Sleep(12 * time.Second)
	}
}

func (s *servers) counted() (n float64, err error) {
	resp, err := http.Get(s.s3 + "/minio/v2/metrics/cluster")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return 0, fmt.Errorf("MinIO's metrics: %s\n%s", resp.Status, text)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "} ")
		if !strings.HasPrefix(name, "minio_s3_requests_total{") {
			continue
		}
		one, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		n += one
	}
	return n, lines.Err()
}
