package integration

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// What is exported satisfies tools that know nothing of Lotkeeper: tessera's fsck
// reads the tiles, note the checkpoints. One flipped bit does not.
func TestFsck(t *testing.T) {
	const origin, size = "lotkeeper-7h3kq0w2xz", 5003
	secret, public, err := audit.NewKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	l := published{}
	checkpoints := l.grow(t, signer, 1, 256, 700, size)
	newest := checkpoints[size]
	delete(checkpoints, size)
	verifier, err := note.NewVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	head, err := audit.OpenCheckpoint(newest, verifier)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "log")
	if err := audit.Export(t.Context(), audit.Open(l, head), dir, newest, checkpoints, public); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "log.pub"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"checkpoint", "checkpoints/1", "checkpoints/256", "checkpoints/700", "checkpoints/5003"} {
		msg, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := note.Open(msg, note.VerifierList(theirs)); err != nil || !strings.HasPrefix(n.Text, origin+"\n") {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	if out := fsck(t, dir); !strings.Contains(out, fmt.Sprintf("Successfully fsck'd log with size %d and root %s", size, head.Root)) || strings.Contains(out, "failed") {
		t.Fatalf("fsck says:\n%s", out)
	}
	for _, name := range []string{"tile/entries/000", "tile/entries/007", "tile/entries/019.p/139", "tile/0/003", "tile/0/019.p/139", "tile/1/000.p/19", "checkpoint"} {
		file := filepath.Join(dir, name)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := fsck(t, dir); strings.Contains(out, "Successfully") || !strings.Contains(out, "fsck failed") {
			t.Errorf("%s has another bit, and fsck says:\n%s", name, out)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// fsck runs it as README.txt in an export says, and gives what it says: its exit
// status is 0 whatever it finds.
func fsck(t *testing.T, dir string) string {
	t.Helper()
	if os.Getenv("LOTKEEPER_EMBEDDED_ONLY") != "" {
		t.Skip("left out: it needs fsck, and LOTKEEPER_EMBEDDED_ONLY is set")
	}
	binary, err := filepath.Abs("../.cache/tessera-v1.0.4/fsck")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("no fsck here: %v\nbuild it with: make servers", err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "--storage_url=file://"+dir+"/", "--public_key=log.pub", "--N=8", "--ui=false")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("fsck: %v\n%s", err, out)
	}
	return string(out)
}

// published is a log's objects.
type published map[string][]byte

func (p published) Read(_ context.Context, key string) ([]byte, error) {
	if b, ok := p[key]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
}

// grow publishes a log at each of the sizes, and gives the checkpoints.
func (p published) grow(t *testing.T, s note.Signer, sizes ...int64) map[int64][]byte {
	t.Helper()
	var entries, bodies [][]byte
	var stored []tlog.Hash
	hashes := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	checkpoints, old := map[int64][]byte{}, int64(0)
	for _, size := range sizes {
		for i := int64(len(entries)); i < size; i++ {
			ids := ""
			if i%1000 == 99 {
				ids = strings.Repeat("record ", 10_000)
			}
			body, err := json.Marshal(map[string]any{"records": i, "ids": ids})
			if err != nil {
				t.Fatal(err)
			}
			e := audit.Entry{At: time.Date(2026, 11, 24, 0, 0, int(i), 0, time.UTC), Actor: "josé", Software: "lotkeeper", Action: "archived", Subject: fmt.Sprint(i), Body: body}
			raw, detached, err := e.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			more, err := tlog.StoredHashes(i, raw, hashes)
			if err != nil {
				t.Fatal(err)
			}
			entries, bodies, stored = append(entries, raw), append(bodies, detached), append(stored, more...)
		}
		for o, err := range audit.Objects(old, size, hashes, func(from, to int64) ([][]byte, [][]byte, error) { return entries[from:to], bodies[from:to], nil }) {
			if err != nil {
				t.Fatal(err)
			}
			p[o.Key] = o.Bytes
		}
		root, err := tlog.TreeHash(size, hashes)
		if err != nil {
			t.Fatal(err)
		}
		if checkpoints[size], err = (audit.Checkpoint{Origin: s.Name(), Size: size, Root: root}).Sign(s); err != nil {
			t.Fatal(err)
		}
		old = size
	}
	return checkpoints
}
