// Package s3test starts real S3 servers with Object Lock for tests: versitygw
// and MinIO, each a process of its own on a free port of the loopback interface,
// with its data in the test's temporary directory.
//
// The binaries are built by make, at pinned versions, into .cache. A missing one
// fails the test: what is skipped is soon broken. With LOTKEEPER_EMBEDDED_ONLY
// set (make test-short) the tests that need a server are skipped.
package s3test

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lotkeeper/lotkeeper/archive/vaulttest"
)

// A Server is running until its test has ended, or the test stops it.
type Server struct {
	Name     string // VersityGW or MinIO
	Endpoint string // host:port
	TLS      bool

	dir   string
	leash io.Writer
}

// URL is the endpoint with its scheme.
func (s *Server) URL() string {
	if s.TLS {
		return "https://" + s.Endpoint
	}
	return "http://" + s.Endpoint
}

// The servers there are.
const (
	VersityGW = "versitygw"
	MinIO     = "minio"
)

// A program is how a server is started. Its folder in .cache is the target that
// the Makefile builds it by.
type program struct {
	folder, health string
	env            []string // with the name of the variable; the value is added
	args           func(address, dir string) []string
}

// The keys of every server's root user.
const (
	AccessKey = "lotkeeper-test"
	SecretKey = "lotkeeper-test-secret"
)

var programs = map[string]program{
	VersityGW: {
		folder: "versitygw-v1.8.0", health: "/healthz",
		env: []string{"ROOT_ACCESS_KEY=" + AccessKey, "ROOT_SECRET_KEY=" + SecretKey},
		args: func(address, dir string) []string {
			return []string{"--port", address, "--health", "/healthz", "--quiet", "--keep-alive",
				"posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data")}
		},
	},
	MinIO: {
		folder: "minio-v0.0.0-20260212201848-7aac2a2c5b7c", health: "/minio/health/ready",
		env: []string{"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey, "MINIO_CI_CD=1", "MINIO_BROWSER=off"},
		args: func(address, dir string) []string {
			return []string{"server", "--quiet", "--address", address, filepath.Join(dir, "data")}
		},
	},
}

// Main is m.Run, with more tests at once than there are processors: most of
// their time they wait for locks to end. -parallel still has the last word.
func Main(m *testing.M) int {
	_ = flag.Set("test.parallel", "32") // a package that tests has this flag
	return m.Run()
}

// Each runs test with every server, as parallel subtests named after them.
func Each(t *testing.T, test func(t *testing.T, s *Server)) {
	for name := range programs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, Start(t, name))
		})
	}
}

// Start starts a server and returns when it is ready. It is killed when the test
// has ended, and also when the test's process dies.
func Start(t *testing.T, name string) *Server {
	t.Helper()
	if os.Getenv("LOTKEEPER_EMBEDDED_ONLY") != "" {
		t.Skip("left out: it needs " + name + ", and LOTKEEPER_EMBEDDED_ONLY is set")
	}
	p := programs[name]
	binary := filepath.Join(moduleRoot(t), ".cache", p.folder, name)
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("no %s here: %v\nbuild it with: make servers", name, err)
	}
	dir := t.TempDir()
	for _, d := range []string{"data", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	address := freeAddress(t)
	// The shell's standard input ends with Close below or with this process,
	// whichever comes first, and the server ends with it. A line there starts a
	// server again that has ended.
	cmd := exec.Command("sh", append([]string{"-c", `while "$@" & echo $! >pid; read -r again; do wait; done; kill -9 $!; wait`, "sh", binary}, p.args(address, dir)...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), p.env...), log, log
	alive, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		alive.Close()
		_ = cmd.Wait() // it was killed
	})
	s := &Server{Name: name, Endpoint: address, dir: dir, leash: alive}
	s.ready(t)
	return s
}

func (s *Server) ready(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + s.Endpoint + programs[s.Name].health)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			t.Fatalf("%s is not ready after a minute: %v\n%s", s.Name, err, said)
		}
	}
}

// Pause has the server do nothing more, not even refuse. All of it stands still when
// it returns.
func (s *Server) Pause(t *testing.T) {
	t.Helper()
	pid := s.signal(t, syscall.SIGSTOP)
	for deadline := time.Now().Add(time.Minute); !stopped(t, pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s goes on", s.Name)
		}
	}
}

// stopped asks each thread of a process.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d has no threads: %v", pid, err)
	}
	for _, path := range threads {
		// PID (NAME) STATE ..., and the name may be anything.
		stat, err := os.ReadFile(path)
		if i := strings.LastIndex(string(stat), ") "); err != nil || !strings.HasPrefix(string(stat[i+1:]), " T") {
			return false
		}
	}
	return true
}

// Resume lets a server that was paused go on.
func (s *Server) Resume(t *testing.T) { t.Helper(); s.signal(t, syscall.SIGCONT) }

// Kill ends the server; connections are refused when it returns.
func (s *Server) Kill(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", s.Endpoint)
		if err != nil {
			return
		}
		_ = c.Close()
		if time.Now().After(deadline) {
			t.Fatalf("%s lives on", s.Name)
		}
	}
}

// Restart starts a server that was killed, with the same data and address.
func (s *Server) Restart(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(s.leash, "again\n"); err != nil {
		t.Fatal(err)
	}
	s.ready(t)
}

func (s *Server) signal(t *testing.T, sig syscall.Signal) (pid int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil {
		err = syscall.Kill(pid, sig)
	}
	if err != nil {
		t.Fatalf("couldn't send %v to %s: %v", sig, s.Name, err)
	}
	return pid
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the working directory")
	return ""
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return address
}

// Admin is a client of the server's root user, for what no vault does.
func (s *Server) Admin(t *testing.T) *minio.Client {
	t.Helper()
	c, err := minio.New(s.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Bucket makes a new bucket, with Object Lock or without.
func (s *Server) Bucket(t *testing.T, locking bool) string {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text())
	if err := s.Admin(t).MakeBucket(t.Context(), name, minio.MakeBucketOptions{Region: "us-east-1", ObjectLocking: locking}); err != nil {
		t.Fatalf("couldn't make a bucket on %s: %v", s.Name, err)
	}
	if !locking {
		return name
	}
	// MinIO was seen to forget the lock of a bucket made a moment ago, for a
	// moment, while others were being made.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		lock, _, _, _, err := s.Admin(t).GetObjectLockConfig(t.Context(), name)
		if lock == "Enabled" {
			return name
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new bucket on %s has no Object Lock: %v", s.Name, err)
		}
	}
}

// Wait is a vault's Options.Wait that really waits.
func Wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Harness puts the suite's hand on the clock of a real server: it waits.
func Harness(v vaulttest.Harness) vaulttest.Harness {
	v.Advance, v.Retention, v.Parallel = time.Sleep, 6*time.Second, true
	return v
}
