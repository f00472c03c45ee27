package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is one of a test's own: it syncs its files, and can be killed.
type Server struct{ child *child }

// NewServer starts a server, for the length of the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	needed(t)
	c, err := startServer(true)
	if c != nil {
		t.Cleanup(func() { (&program{child: c}).stop() })
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Server{c}
}

// New makes a database on it. It goes with the server.
func (s *Server) New(t testing.TB) *Database {
	t.Helper()
	d := &Database{fmt.Sprintf("lotkeeper_%d", databases.Add(1)), s.child.dir}
	if err := admin(d.dir, `CREATE DATABASE `+d.Name); err != nil {
		t.Fatal(err)
	}
	return d
}

// Kill ends the server as a machine's crash would, but for what the disk has not
// been given yet: every process of it, with no time to tidy up.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	first, err := os.ReadFile(filepath.Join(s.child.dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(first), "\n")
	postmaster, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	// Stopped, it makes no new process, and mends nothing after the death of one.
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, postmaster, "T")
	all := append(childrenOf(t, postmaster), postmaster)
	for _, pid := range all {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	for _, pid := range all {
		await(t, pid, "ZX")
	}
}

// Start starts a server that was killed, on what it has left, and returns when it
// has recovered.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if _, err := s.child.leash.Write([]byte("again\n")); err != nil {
		t.Fatal(err)
	}
	if err := s.child.until(func() error { return admin(s.child.dir, `SELECT 1`) }); err != nil {
		t.Fatal(err)
	}
}

// await waits until a process is in one of the states given, or gone.
func await(t testing.TB, pid int, states string) {
	t.Helper()
	for range 3000 {
		state, _, ok := processStat(t, pid)
		if !ok || strings.Contains(states, state) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d does not come into one of the states %s", pid, states)
}

func childrenOf(t testing.TB, parent int) (all []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if _, of, ok := processStat(t, pid); ok && of == parent {
				all = append(all, pid)
			}
		}
	}
	return all
}

// processStat is the state of a process, and its parent's id; ok is false of one
// that is gone.
func processStat(t testing.TB, pid int) (state string, parent int, ok bool) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return "", 0, false
	}
	// PID (NAME) STATE PARENT ..., and the name may be anything.
	if i := bytes.LastIndexByte(b, ')'); err == nil {
		_, err = fmt.Sscan(string(b[i+1:]), &state, &parent)
	}
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	return state, parent, true
}
