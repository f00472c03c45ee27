package audit

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// A log is read under every size it had, also by one who has only what the newest
// size needs: wider tiles than an older checkpoint asks for.
func TestLog(t *testing.T) {
	g, ctx := large(t), t.Context()
	for _, newest := range []int64{square - 1, square, square + 300} {
		s, _ := g.publish(t, newest)
		for _, size := range []int64{1, 255, 256, 257, 300, 77*width + 1, square - 1, square, square + 1, newest} {
			if size > newest {
				continue
			}
			l := Open(s, g.checkpoint(size))
			for _, at := range []int64{0, 77, 255, 256, size / 2, size - 1} {
				from, to := max(0, at-1), min(size, at+2)
				i := from
				for e, err := range l.Entries(ctx, from, to) {
					if err != nil {
						t.Fatalf("size %d of %d, entry %d: %v", size, newest, i, err)
					}
					if want := g.entry(t, i); !reflect.DeepEqual(e, want) {
						t.Errorf("size %d of %d, entry %d is %+v, want %+v", size, newest, i, e, want)
					}
					i++
				}
				if i != max(from, to) {
					t.Errorf("size %d of %d: %d entries from %d to %d", size, newest, i-from, from, to)
				}
			}
			var beyond error
			for _, beyond = range l.Entries(ctx, size-1, size+1) {
			}
			if beyond == nil {
				t.Error("an entry beyond the checkpoint")
			}
			var all []int64
			for x := range min(tlog.StoredHashCount(size), 3000) {
				all = append(all, x, tlog.StoredHashCount(size)-1-x)
			}
			got, err := l.Hashes(ctx).ReadHashes(all)
			want, _ := g.ReadHashes(all)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("size %d of %d: the hashes are others, %v", size, newest, err)
			}
			if _, err := l.Hashes(ctx).ReadHashes([]int64{tlog.StoredHashCount(size)}); err == nil {
				t.Error("a hash beyond the checkpoint")
			}
		}
	}
}

func (g *grown) entry(t testing.TB, i int64) Entry {
	t.Helper()
	e, err := ParseEntry(g.entries[i])
	if err == nil && e.BodySHA256 != "" {
		err = e.attach(g.entries[i], g.bodies[i])
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// With any one bit changed, a log gives back what is right or the damage, by name.
func TestLogDamage(t *testing.T) {
	sizes := []int64{1, 77, 78, 255, 256, 257, 513, 600}
	g := grow(600, nil)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom(sizes).Draw(t, "size")
		s := store{}
		for o, err := range Objects(0, size, g, g.between) {
			if err != nil {
				t.Fatal(err)
			}
			s[o.Key] = o.Bytes
		}
		key := rapid.SampledFrom(slices.Sorted(maps.Keys(s))).Draw(t, "key")
		missing := rapid.Bool().Draw(t, "missing")
		if missing {
			delete(s, key)
		} else {
			s[key] = flipped(s[key], rapid.IntRange(0, len(s[key])*8-1).Draw(t, "bit"))
		}
		l, failed := Open(s, g.checkpoint(size)), error(nil)
		read := int64(0)
		for e, err := range l.Entries(context.Background(), 0, size) {
			if failed = err; err != nil {
				break
			}
			if raw, _, err := e.Marshal(); err != nil || !bytes.Equal(raw, g.entries[read]) {
				t.Fatalf("%s is damaged, and entry %d is read as %+v", key, read, e)
			}
			read++
		}
		var d *Damage
		if missing {
			if !errors.Is(failed, fs.ErrNotExist) {
				t.Fatalf("%s is missing: %v", key, failed)
			}
			return
		}
		if !errors.As(failed, &d) || d.Index < read && d.Index>>height != read>>height {
			t.Fatalf("%s is damaged: %v after %d entries", key, failed, read)
		}
		// Of the partial tiles, which make the root together, it cannot tell which.
		if tile, ok := parseTileKey(key); d.Key != key && (!ok || tile.L < 0 || tile.W == width) {
			t.Fatalf("%s is damaged, and %s is named", key, d.Key)
		}
	})
}

// The proof is the same as the one that tlog makes.
func TestLogAgreesWithTileHashReader(t *testing.T) {
	g := large(t)
	s, _ := g.publish(t, square+300)
	for _, size := range append([]int64{square - 1, square, square + 1, square + 300}, edges...) {
		c := g.checkpoint(size)
		theirs := tlog.TileHashReader(tlog.Tree{N: size, Hash: c.Root}, tiles{t, s})
		for _, n := range []int64{0, size / 2, size - 1} {
			want, err := tlog.ProveRecord(size, n, theirs)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tlog.ProveRecord(size, n, Open(s, c).Hashes(t.Context()))
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("entry %d of %d: %v, %v", n, size, got, err)
			}
		}
	}
}

type tiles struct {
	*testing.T
	store
}

func (tiles) Height() int                     { return height }
func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (r tiles) ReadTiles(ts []tlog.Tile) (out [][]byte, err error) {
	for _, t := range ts {
		data, err := readHashes(r.Context(), r.store, t)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

// Several read one log at once, through its cache.
func TestLogConcurrent(t *testing.T) {
	g := grow(600, nil)
	s, _ := g.publish(t, 600)
	l := Open(s, g.checkpoint(600))
	var readers sync.WaitGroup
	for n := range int64(4) {
		readers.Go(func() {
			i := n * 100
			for e, err := range l.Entries(t.Context(), i, i+300) {
				if raw, _, _ := e.Marshal(); err != nil || !bytes.Equal(raw, g.entries[i]) {
					t.Errorf("entry %d is %+v, %v", i, e, err)
				}
				i++
			}
		})
	}
	readers.Wait()
}

// Any fault of the source comes back as it is.
func TestLogFaults(t *testing.T) {
	g := grow(300, nil)
	s, _ := g.publish(t, 300)
	fault := errors.New("no network")
	for key := range s {
		if _, ok := CheckpointSize(key); ok {
			continue
		}
		l := Open(faulty{s, key, fault}, g.checkpoint(300))
		var err error
		for _, err = range l.Entries(t.Context(), 0, 300) {
		}
		if !errors.Is(err, fault) {
			t.Errorf("%s cannot be read: %v", key, err)
		}
		if _, err := Verify(t.Context(), faulty{s, key, fault}, [][]byte{g.sign(300)}, verifier); !errors.Is(err, fault) {
			t.Errorf("%s cannot be read, and is verified: %v", key, err)
		}
	}
}

type faulty struct {
	store
	key   string
	fault error
}

func (f faulty) Read(ctx context.Context, key string) ([]byte, error) {
	if key == f.key {
		return nil, f.fault
	}
	return f.store.Read(ctx, key)
}
