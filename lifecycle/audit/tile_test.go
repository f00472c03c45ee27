package audit

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// The paths are written as in C2SP tlog-tiles.
func TestTileKey(t *testing.T) {
	for key, want := range map[string]tlog.Tile{
		"log/tile/0/000":                     {H: 8, L: 0, N: 0, W: 256},
		"log/tile/0/000.p/12":                {H: 8, L: 0, N: 0, W: 12},
		"log/tile/1/x001/x234/067":           {H: 8, L: 1, N: 1234067, W: 256},
		"log/tile/entries/x001/x234/067.p/8": {H: 8, L: -1, N: 1234067, W: 8},
		"log/tile/entries/999":               {H: 8, L: -1, N: 999, W: 256},
	} {
		if got := tileKey(want); got != key {
			t.Errorf("%+v is at %s, want %s", want, got, key)
		}
		if got, ok := parseTileKey(key); !ok || got != want {
			t.Errorf("%s: %+v, %v, want %+v", key, got, ok, want)
		}
	}
	for _, bad := range []string{"", "log/tile/", "log/tile/0/0", "log/tile/0/000.p/0", "log/tile/0/000.p/256", "log/tile/00/000", "log/tile/data/000", "log/tile/-1/000", "log/tile/8/0/000", "log/tile/5/000", "tile/0/000", "log/tile/0/001/000", "log/tile/0/x000/000", "log/tile/0/x072/x057/x594/x037/x927/936"} {
		if got, ok := parseTileKey(bad); ok {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 'x', 0, 0})
	f.Add(make([]byte, 2*257))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := split(data)
		if len(entries) > width {
			t.Fatalf("%d entries", len(entries))
		}
		again, joined := bundle(entries)
		if joined != nil {
			t.Fatal(joined)
		}
		if !bytes.HasPrefix(data, again) || (err == nil) != (len(again) == len(data)) {
			t.Fatalf("%x: %v, and again %x", data, err, again)
		}
	})
}

// Whoever reads what was published so far finds nothing that refers to what is not.
func TestObjects(t *testing.T) {
	small := grow(1200, nil)
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(edges), rapid.Int64Range(0, 1200)), 1, 4).Draw(t, "sizes")
		slices.Sort(sizes)
		grows(t, small, append([]int64{0}, sizes...)...)
	})
	grows(t, large(t), 0, 1000, square-1, square, square+1, square+300)
}

func grows(t rapid.TB, g *grown, sizes ...int64) {
	s := store{}
	for i, size := range sizes[1:] {
		old := sizes[i]
		for o, err := range Objects(old, size, g, g.between) {
			if err != nil {
				t.Fatal(err)
			}
			if refers(t, s, o); s[o.Key] != nil {
				t.Fatalf("from %d to %d: %s again", old, size, o.Key)
			}
			s[o.Key] = o.Bytes
		}
		for level := range 3 {
			if n := size >> (height * level); n > 0 {
				if last := tileKey(widest(level, (n-1)>>height, size)); s[last] == nil {
					t.Fatalf("from %d to %d: no %s", old, size, last)
				}
			}
		}
		for range Objects(size, size, g, g.between) {
			t.Fatal("the same tree has more")
		}
	}
}

// refers fails unless all that the object refers to is there.
func refers(t rapid.TB, s store, o Object) {
	need := func(key string) {
		if s[key] == nil {
			t.Fatalf("%s refers to %s, which is not there", o.Key, key)
		}
	}
	tile, ok := parseTileKey(o.Key)
	switch {
	case !ok:
		if !strings.HasPrefix(o.Key, bodyPrefix) {
			t.Fatalf("object %s", o.Key)
		}
	case tile.L == bundles:
		entries, err := split(o.Bytes)
		if err != nil || len(entries) != tile.W {
			t.Fatalf("%s: %d entries, %v", o.Key, len(entries), err)
		}
		for _, raw := range entries {
			if e, err := ParseEntry(raw); err != nil {
				t.Fatal(err)
			} else if e.BodySHA256 != "" {
				need(bodyKey(e.BodySHA256))
			}
		}
	case tile.L == 0:
		tile.L = bundles
		need(tileKey(tile))
	default:
		for i := range int64(tile.W) {
			need(tileKey(tlog.Tile{H: height, L: tile.L - 1, N: tile.N<<height + i, W: width}))
		}
	}
}

func TestObjectsRefuses(t *testing.T) {
	g := grow(300, nil)
	fault := errors.New("no database")
	for name, c := range map[string]struct {
		want    string
		entries func(from, to int64) (entries, detached [][]byte, err error)
	}{
		"another entry": {"entry 280 is not", func(from, to int64) ([][]byte, [][]byte, error) {
			e, d, err := g.between(from, to)
			if from == 256 {
				e = append(append(e[:24:24], g.entries[0]), e[25:]...)
			}
			return e, d, err
		}},
		"too few": {"got 0", func(from, to int64) ([][]byte, [][]byte, error) { return nil, nil, nil }},
		"no body": {"entry 77", func(from, to int64) ([][]byte, [][]byte, error) {
			return g.entries[from:to], make([][]byte, to-from), nil
		}},
		"cannot read":  {fault.Error(), func(from, to int64) ([][]byte, [][]byte, error) { return nil, nil, fault }},
		"not an entry": {"not an entry", func(from, to int64) ([][]byte, [][]byte, error) { return [][]byte{[]byte("{}")}, [][]byte{nil}, nil }},
	} {
		hashes, size := tlog.HashReader(g), int64(300)
		if name == "not an entry" {
			other := &grown{}
			other.stored = []tlog.Hash{Hash([]byte("{}"))}
			hashes, size = other, 1
		}
		var err error
		for _, err = range Objects(0, size, hashes, c.entries) {
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := bundle([][]byte{make([]byte, 1<<16)}); err == nil {
		t.Error("an entry of 65,536 bytes is taken")
	}
	if _, err := split(fmt.Append(nil, "\x00\x05abc")); err == nil {
		t.Error("a bundle that is cut off is taken")
	}
}
