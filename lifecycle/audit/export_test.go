package audit

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lotkeeper/lotkeeper/archive"
)

// An export has everything, is for its owner alone, and verifies as a folder.
func TestExport(t *testing.T) {
	for _, size := range []int64{0, 1, 256, 600} {
		g, dst := grow(600, nil), filepath.Join(t.TempDir(), "a", "b")
		// Of a log that has grown on, with wider tiles at its end.
		s, _ := g.publish(t, 600)
		older := map[int64][]byte{}
		for _, n := range []int64{0, 1, 100, 256} {
			if n < size {
				older[n] = g.sign(n)
			}
		}
		s[CheckpointKey(size)] = g.sign(size)
		if err := Export(t.Context(), Open(s, g.checkpoint(size)), dst, g.sign(size), older, public); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(dst, func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			if mode := info.Mode().Perm(); mode != 0o600 && !e.IsDir() || mode != 0o700 && e.IsDir() {
				t.Errorf("%s has the mode %o", name, mode)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		checkpoints, err := Checkpoints(os.DirFS(dst))
		if err != nil || len(checkpoints) != len(older)+2 || !bytes.Equal(checkpoints[0], g.sign(size)) {
			t.Fatalf("%d checkpoints, %v", len(checkpoints), err)
		}
		src := Dir(os.DirFS(dst))
		if r := verify(t, src, checkpoints); len(r.Findings) > 0 || r.Size != size || r.Entries != size || r.Checkpoints != len(older)+1 {
			t.Errorf("size %d: %+v", size, r)
		}
		i := int64(0)
		l := Open(src, g.checkpoint(size))
		for e, err := range l.Entries(t.Context(), 0, size) {
			if err != nil {
				t.Fatal(err)
			}
			if raw, _, err := e.Marshal(); err != nil || !bytes.Equal(raw, g.entries[i]) {
				t.Fatalf("entry %d is %+v", i, e)
			}
			i++
		}
		if size > 0 {
			if p, err := Prove(t.Context(), l, size-1); err != nil {
				t.Error(err)
			} else if _, err := p.Check(verifier); err != nil {
				t.Error(err)
			}
		}
		for name, want := range map[string]string{publicFile: public, readmeFile: origin, formatFile: logFormat} {
			if b, err := os.ReadFile(filepath.Join(dst, name)); err != nil || !strings.Contains(string(b), want) {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		}
		if size < 600 {
			continue
		}
		// A file too many, in any place, and one that is another's.
		for _, name := range []string{"tile/x", "body/README.txt", "checkpoints/601", "checkpoints/x", "tile/0/000.p/1", ".hidden"} {
			file := filepath.Join(dst, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := verify(t, src, checkpoints); len(r.Findings) != 1 {
				t.Errorf("%s: %+v", name, r.Findings)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestExportRefuses(t *testing.T) {
	g := grow(600, nil)
	s, _ := g.publish(t, 600)
	l := Open(s, g.checkpoint(600))
	dst := t.TempDir()
	_, other := key(2)
	for name, err := range map[string]error{
		"a checkpoint of another size": Export(t.Context(), l, dst, g.sign(500), nil, public),
		"another key":                  Export(t.Context(), l, dst, g.sign(600), nil, other),
		"no key":                       Export(t.Context(), l, dst, g.sign(600), nil, ""),
	} {
		if err == nil {
			t.Errorf("%s: exported", name)
		}
	}
	if there, err := os.ReadDir(dst); err != nil || len(there) > 0 {
		t.Errorf("something was written: %v, %v", there, err)
	}
	if err := os.WriteFile(filepath.Join(dst, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Export(t.Context(), l, dst, g.sign(600), nil, public); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("into a folder with something in it: %v", err)
	}
	// What is damaged is not exported as if it were right: no checkpoint.
	dst = filepath.Join(t.TempDir(), "log")
	s["log/tile/entries/001"] = flipped(s["log/tile/entries/001"], 900)
	var d *Damage
	if err := Export(t.Context(), Open(s, g.checkpoint(600)), dst, g.sign(600), nil, public); !errors.As(err, &d) || d.Key != "log/tile/entries/001" {
		t.Errorf("a damaged log: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dst, "checkpoint")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a damaged log has a checkpoint: %v", err)
	}
}

// Every kind of vault can hold the keys.
func TestKeysAreValid(t *testing.T) {
	s, _ := large(t).publish(t, 100, square+300)
	keys := []string{tileKey(widest(0, 1234067, maxSize)), CheckpointKey(0), CheckpointKey(maxSize)}
	for key := range s {
		keys = append(keys, key)
	}
	for _, key := range keys {
		if err := archive.ValidKey(key); err != nil {
			t.Error(err)
		}
		if !strings.HasPrefix(key, Prefix) {
			t.Errorf("%s is elsewhere", key)
		}
	}
	if !slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, bodyPrefix) }) {
		t.Error("no body")
	}
}
