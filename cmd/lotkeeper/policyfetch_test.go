package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

const fetched = "version: 1\nname: fetched\nrules:\n  - {name: r, citation: c, action: archive_then_shred}\n"

// TestPolicyFetched: a policy from an address is in force only when all of it was
// fetched over TLS and is a policy; else the one before stays, and the trail says so.
func TestPolicyFetched(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, dir, "init")
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, fetched) }))
	defer plain.Close()
	calls := map[string]int{}
	mux := http.NewServeMux()
	handle := func(path string, h http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { calls[path]++; h(w, r) })
	}
	handle("/good", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, fetched) })
	handle("/500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })
	handle("/500-then-200", func(w http.ResponseWriter, _ *http.Request) {
		if calls["/500-then-200"] == 1 {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, strings.Replace(fetched, "fetched", "second", 1))
	})
	handle("/404", http.NotFound)
	handle("/plain", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL, http.StatusFound) })
	handle("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	handle("/large", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("#23456789\n", 1<<20)) })
	handle("/bad", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, fetched+"    retain: P1Y\n") })
	handle("/short", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Replace(fetched, "citation: c", "citation: c, hot: P1Y", 1))
	})
	handle("/torn", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		fmt.Fprint(w, fetched)
	})
	handle("/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, strings.Replace(fetched, "fetched", "third", 1))
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	var pauses []time.Duration
	apply := func(trusted bool, args ...string) error {
		a := newApp()
		a.out, a.err, a.log = bufio.NewWriter(io.Discard), io.Discard, zerolog.Nop()
		a.wait = func(_ context.Context, d time.Duration) bool { pauses = append(pauses, d); return true }
		if trusted {
			a.transport = server.Client().Transport
		}
		cmd := newRoot(a)
		cmd.SetArgs(append([]string{"--data", filepath.Join(dir, "lotkeeper-data"), "policy", "apply"}, args...))
		return cmd.ExecuteContext(t.Context())
	}
	for _, c := range []struct {
		name    string
		trusted bool
		args    []string
		code    int
		tries   int // of the path
		inForce string
		want    string
	}{
		{"a server that is not trusted", false, []string{server.URL + "/good?key=s3cret"}, exitFailed, 0, "default", "certificate"},
		{"500", true, []string{server.URL + "/500"}, exitFailed, 4, "default", "500"},
		{"404", true, []string{server.URL + "/404"}, exitFailed, 1, "default", "404"},
		{"a redirect to plain HTTP", true, []string{server.URL + "/plain"}, exitFailed, 1, "default", "plain http"},
		{"redirects without end", true, []string{server.URL + "/loop"}, exitFailed, 5, "default", "more than five"},
		{"10 MB", true, []string{server.URL + "/large"}, exitFailed, 1, "default", "longer than"},
		{"half of it", true, []string{server.URL + "/torn"}, exitFailed, 4, "default", "EOF"},
		{"no policy", true, []string{server.URL + "/bad"}, exitUsage, 1, "default", ""},
		{"below the floor", true, []string{server.URL + "/short"}, exitRefused, 1, "default", "below_floor"},
		{"no token", true, []string{server.URL + "/token"}, exitFailed, 1, "default", "401"},
		{"plain HTTP", true, []string{plain.URL}, exitUsage, 0, "default", "https"},
		{"good", true, []string{server.URL + "/good"}, exitDone, 1, "fetched", ""},
		{"500, then 200", true, []string{server.URL + "/500-then-200"}, exitDone, 2, "second", ""},
		{"a token", true, []string{server.URL + "/token", "--token-file", token}, exitDone, 2, "third", ""},
		{"no TLS there", true, []string{strings.Replace(plain.URL, "http:", "https:", 1)}, exitFailed, 0, "third", "HTTP response to HTTPS client"},
		{"500 again", true, []string{server.URL + "/500"}, exitFailed, 8, "third", "500"},
	} {
		err := apply(c.trusted, c.args...)
		if exitCode(err) != c.code || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v (exit %d), want %d and %q", c.name, err, exitCode(err), c.code, c.want)
		}
		path := strings.TrimPrefix(c.args[0], server.URL)
		if calls[path] != c.tries {
			t.Errorf("%s: asked %d times, want %d", c.name, calls[path], c.tries)
		}
		if got := mustRun(t, dir, "policy", "show", "-o", "json"); !strings.Contains(got, `"name": "`+c.inForce+`"`) {
			t.Errorf("%s: in force is %s, want %s", c.name, got, c.inForce)
		}
	}
	if want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}; len(pauses) < 3 || pauses[0] != want[0] || pauses[1] != want[1] || pauses[2] != want[2] {
		t.Errorf("paused %v", pauses)
	}
	got := mustRun(t, dir, "audit", "log", "--action", lifecycle.ActionPolicyRefused, "-o", "jsonl")
	if strings.Count(got, "\n") != 13 || strings.Contains(got, "s3cret") {
		t.Errorf("refusals:\n%s", got)
	}
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := apply(true, server.URL+"/token", "--token-file", token); exitCode(err) != exitFailed || !strings.Contains(err.Error(), "can read") {
		t.Errorf("a token that others can read: %v", err)
	}
}
