package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// Damage is an error: an object is there and is not what the checkpoint says.
type Damage struct {
	Key string // of the object
	// Index is of the first entry concerned: the entry itself, or the first one
	// under the hashes concerned.
	Index int64
	What  string
}

func (d *Damage) Error() string { return fmt.Sprintf("%s, entry %d: %s", d.Key, d.Index, d.What) }

// Log is a published log under one checkpoint. All that it gives back was proved to
// be in that tree. What does not fit is a *Damage, what is missing wraps
// fs.ErrNotExist. It may be used concurrently.
type Log struct {
	Checkpoint
	src Source

	mu     sync.Mutex
	tiles  map[tlog.Tile][]byte // proved. Guarded by mu
	bundle struct {             // the last one, not proved. Guarded by mu
		n       int64
		entries [][]byte
	}
}

// maxTiles bounds the cache of a Log. The tiles on the way to an entry are four in a
// log of less than 4,294,967,296.
const maxTiles = 128

// Open opens the log under a checkpoint that the caller has authenticated.
func Open(src Source, c Checkpoint) *Log {
	return &Log{Checkpoint: c, src: src, tiles: map[tlog.Tile][]byte{}}
}

func (l *Log) cached(t tlog.Tile) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tiles[t]
}

func (l *Log) keep(t tlog.Tile, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.tiles) >= maxTiles {
		clear(l.tiles)
	}
	l.tiles[t] = data
}

// tile reads a hash tile and proves it.
func (l *Log) tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	if data := l.cached(t); data != nil {
		return data, nil
	}
	data, err := readHashes(ctx, l.src, t)
	if err != nil {
		return nil, err
	}
	if err := l.prove(ctx, t, data); err != nil {
		return nil, err
	}
	l.keep(t, data)
	return data, nil
}

// prove says whether the data are those of the tree's tile. A full tile has a hash in
// the tile above it. The partial ones, at most one a level, make the root together.
func (l *Log) prove(ctx context.Context, t tlog.Tile, data []byte) error {
	if t.W == width {
		over := widest(t.L+1, t.N>>height, l.Size)
		hashes, err := l.tile(ctx, over)
		if err != nil {
			return err
		}
		if above(data) != hashAt(hashes, int(t.N%width)) {
			return &Damage{tileKey(t), first(t), "its hashes are not those that " + tileKey(over) + " stands for"}
		}
		return nil
	}
	root, err := tlog.TreeHash(l.Size, tileReader(l.Size, func(at tlog.Tile) ([]byte, error) {
		if at == t {
			return data, nil
		}
		if data := l.cached(at); data != nil {
			return data, nil
		}
		return readHashes(ctx, l.src, at)
	}))
	if err != nil {
		return err
	}
	if root != l.Root {
		return &Damage{tileKey(t), first(t), fmt.Sprintf("it makes the root %s with the other partial tiles of size %d, and the checkpoint has %s", root, l.Size, l.Root)}
	}
	return nil
}

// tileReader reads hashes from the tiles of a tree of the size.
func tileReader(size int64, read func(tlog.Tile) ([]byte, error)) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			if x < 0 || x >= tlog.StoredHashCount(size) {
				return nil, fmt.Errorf("hash %d is not in a tree of size %d", x, size)
			}
			t := tlog.TileForIndex(height, x)
			t = widest(t.L, t.N, size)
			data, err := read(t)
			if err != nil {
				return nil, err
			}
			if out[i], err = tlog.HashFromTile(t, data, x); err != nil {
				return nil, fmt.Errorf("couldn't read hash %d of %s: %w", x, tileKey(t), err)
			}
		}
		return out, nil
	})
}

// Hashes is the log's tlog.HashReader; what it reads was proved.
func (l *Log) Hashes(ctx context.Context) tlog.HashReader {
	return tileReader(l.Size, func(t tlog.Tile) ([]byte, error) { return l.tile(ctx, t) })
}

// Entries yields the entries with from <= index < to, with their bodies, each
// proved against the checkpoint. It ends with the first error.
func (l *Log) Entries(ctx context.Context, from, to int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for i := from; i < to; i++ {
			e, _, err := l.entry(ctx, i)
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// entry reads an entry, with its bytes, and proves it.
func (l *Log) entry(ctx context.Context, index int64) (Entry, []byte, error) {
	if index < 0 || index >= l.Size {
		return Entry{}, nil, fmt.Errorf("entry %d is not in a log of size %d", index, l.Size)
	}
	at, i := widest(bundles, index>>height, l.Size), int(index%width)
	entries, err := l.entries(ctx, at)
	if err != nil {
		return Entry{}, nil, err
	}
	hashes, err := l.tile(ctx, widest(0, at.N, l.Size))
	if err != nil {
		return Entry{}, nil, err
	}
	if Hash(entries[i]) != hashAt(hashes, i) {
		return Entry{}, nil, &Damage{tileKey(at), index, "the entry has not the hash that the tree has"}
	}
	e, err := readEntry(ctx, l.src, at, index, entries[i])
	return e, entries[i], err
}

func (l *Log) entries(ctx context.Context, at tlog.Tile) ([][]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bundle.entries != nil && l.bundle.n == at.N {
		return l.bundle.entries, nil
	}
	entries, err := readBundle(ctx, l.src, at)
	if err != nil {
		return nil, err
	}
	l.bundle.n, l.bundle.entries = at.N, entries
	return entries, nil
}

// readEntry parses an entry whose hash was right, and reads its body if that is
// detached.
func readEntry(ctx context.Context, src Source, at tlog.Tile, index int64, entry []byte) (Entry, error) {
	e, err := ParseEntry(entry)
	if err != nil {
		return Entry{}, &Damage{tileKey(at), index, err.Error()}
	}
	if e.BodySHA256 == "" {
		return e, nil
	}
	key := bodyKey(e.BodySHA256)
	body, err := src.Read(ctx, key)
	if err != nil {
		return Entry{}, fmt.Errorf("couldn't read %s, the body of entry %d: %w", key, index, err)
	}
	if err := e.attach(entry, body); err != nil {
		return Entry{}, &Damage{key, index, err.Error()}
	}
	return e, nil
}

// attach gives an entry its detached body.
func (e *Entry) attach(entry, body []byte) error {
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != e.BodySHA256 {
		return fmt.Errorf("the body has the SHA-256 %x, and the entry says %s", sum, e.BodySHA256)
	}
	whole := *e
	whole.Body = body
	if err := whole.wrote(entry); err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	*e = whole
	return nil
}
