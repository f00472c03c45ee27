package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const origin = "lotkeeper-7h3kq0w2xz"

var (
	secret, public = key(1)
	signer, _      = note.NewSigner(secret)
	verifier, _    = note.NewVerifier(public)
)

func key(seed byte) (secret, public string) {
	secret, public, err := NewKey(rand.NewChaCha8([32]byte{seed}), origin)
	if err != nil {
		panic(err)
	}
	return secret, public
}

// A grown is a log's entries with all their hashes.
type grown struct {
	entries, bodies [][]byte
	stored          []tlog.Hash
}

func (g *grown) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = g.stored[x]
	}
	return out, nil
}

func (g *grown) add(e Entry) {
	raw, body, err := e.Marshal()
	if err != nil {
		panic(err)
	}
	hashes, err := tlog.StoredHashes(int64(len(g.entries)), raw, g)
	if err != nil {
		panic(err)
	}
	g.entries, g.bodies, g.stored = append(g.entries, raw), append(g.bodies, body), append(g.stored, hashes...)
}

// numbered is an entry as the log's tests have it. Some have a detached body.
func numbered(i int) Entry {
	body := fmt.Sprintf(`{"records":%d}`, i)
	if i%5000 == 77 {
		body = fmt.Sprintf(`{"records":%d,"ids":"%s"}`, i, strings.Repeat("r", maxInline))
	}
	return Entry{At: time.Date(2026, 11, 24, 0, 0, i, 0, time.UTC), Actor: "josé", Role: "lotkeeper_sweeper", Software: "lotkeeper 1", Action: "archived", RunID: "run-1", Subject: fmt.Sprintf("seg-%d", i), Body: json.RawMessage(body)}
}

func grow(n int, change func(i int, e *Entry)) *grown {
	g := &grown{}
	for i := range n {
		e := numbered(i)
		if change != nil {
			change(i, &e)
		}
		g.add(e)
	}
	return g
}

// large is a log that goes over the edge of its third level of tiles.
func large(t *testing.T) *grown {
	if testing.Short() {
		t.Skip("left out: it is slow under the race detector")
	}
	return growLarge()
}

var growLarge = sync.OnceValue(func() *grown { return grow(square+300, nil) })

func (g *grown) checkpoint(size int64) Checkpoint {
	root, err := tlog.TreeHash(size, g)
	if err != nil {
		panic(err)
	}
	return Checkpoint{origin, size, root}
}

func (g *grown) sign(size int64) []byte {
	msg, err := g.checkpoint(size).Sign(signer)
	if err != nil {
		panic(err)
	}
	return msg
}

func (g *grown) between(from, to int64) (entries, detached [][]byte, err error) {
	return g.entries[from:to], g.bodies[from:to], nil
}

// A store is a Lister in memory.
type store map[string][]byte

func (s store) Read(_ context.Context, key string) ([]byte, error) {
	if b, ok := s[key]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
}

func (s store) Keys(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(s)) {
			if !yield(key, nil) {
				return
			}
		}
	}
}

// publish publishes the log at each of the sizes, one after the other.
func (g *grown) publish(t testing.TB, sizes ...int64) (s store, checkpoints [][]byte) {
	t.Helper()
	s = store{}
	old := int64(0)
	for _, size := range sizes {
		for o, err := range Objects(old, size, g, g.between) {
			if err != nil {
				t.Fatal(err)
			}
			if there, ok := s[o.Key]; ok && !bytes.Equal(there, o.Bytes) {
				t.Fatalf("%s is published twice, and is not the same", o.Key)
			}
			s[o.Key] = o.Bytes
		}
		msg := g.sign(size)
		s[CheckpointKey(size)] = msg
		checkpoints = append(checkpoints, msg)
		old = size
	}
	return s, checkpoints
}

// flipped is a copy of the bytes with one bit changed.
func flipped(b []byte, bit int) []byte {
	b = slices.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

// edges are the sizes around which tiles begin.
var edges = []int64{1, 2, 255, 256, 257, 511, 512, 513, 1000}

const square = width * width
