package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

func verify(t rapid.TB, s Source, checkpoints [][]byte) Report {
	t.Helper()
	r, err := Verify(context.Background(), s, checkpoints, verifier)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerify(t *testing.T) {
	large := large(t)
	for _, sizes := range [][]int64{{0}, {1}, {255}, {0, 256}, {257}, {100, 255, 256, 300, 513}, {1, 1000, square - 1}, {square - 1, square, square + 1, square + 300}} {
		s, checkpoints := large.publish(t, sizes...)
		size := sizes[len(sizes)-1]
		r := verify(t, s, append(checkpoints, checkpoints...))
		if len(r.Findings) > 0 || r.Incomplete {
			t.Fatalf("sizes %d: %+v", sizes, r.Findings)
		}
		tiles := size>>16 + min(1, size&(square-1)>>8) + (size+255)>>8
		if size >= square {
			tiles++
		}
		want := Report{Origin: origin, Size: size, Root: large.checkpoint(size).Root, Checkpoints: len(sizes), Entries: size, Tiles: tiles, Bodies: (size + 5000 - 78) / 5000}
		if r.Findings = nil; fmt.Sprint(r) != fmt.Sprint(want) {
			t.Errorf("sizes %d: %+v, want %+v", sizes, r, want)
		}
	}
}

// Whichever bit is changed, of whichever object, that object is named, and nothing
// else is.
func TestVerifyFlip(t *testing.T) {
	g := grow(1000, nil)
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfNDistinct(rapid.OneOf(rapid.SampledFrom(edges), rapid.Int64Range(1, 1000)), 1, 3, rapid.ID).Draw(t, "sizes")
		slices.Sort(sizes)
		s, checkpoints := store{}, [][]byte(nil)
		for i, size := range sizes {
			for o, err := range Objects(append([]int64{0}, sizes...)[i], size, g, g.between) {
				if err != nil {
					t.Fatal(err)
				}
				s[o.Key] = o.Bytes
			}
			checkpoints = append(checkpoints, g.sign(size))
		}
		key := rapid.SampledFrom(slices.Sorted(maps.Keys(s))).Draw(t, "key")
		bit := rapid.IntRange(0, len(s[key])*8-1).Draw(t, "bit")
		s[key] = flipped(s[key], bit)
		r := verify(t, s, checkpoints)
		if len(r.Findings) == 0 {
			t.Fatal("not found")
		}
		index := int64(-1)
		if tile, ok := parseTileKey(key); ok && tile.L >= 0 {
			index = first(tile) + int64(bit/8/tlog.HashSize)*covers(tile.L)
		}
		for _, f := range r.Findings {
			if f.Key != key || f.Index < 0 || index >= 0 && f.Index != index {
				t.Fatalf("%s is damaged at %d: %+v", key, index, f)
			}
		}
		if r.Checkpoints != len(sizes) {
			t.Fatalf("%d of %d checkpoints are right", r.Checkpoints, len(sizes))
		}
	})
}

func TestVerifyFinds(t *testing.T) {
	const size = 2*width + 100
	sizes := []int64{100, width, size}
	g := grow(size, nil)
	// The same log with one entry changed, as somebody makes it who has the key.
	forged := grow(size, func(i int, e *Entry) {
		if i == 42 {
			e.Actor = "nobody"
		}
	})
	entriesAt := func(n int) string { return tileKey(widest(bundles, int64(n), size)) }
	tileAt := func(n int) string { return tileKey(widest(0, int64(n), size)) }
	body := ""
	// rebundle writes the bundle anew, after its entries were changed.
	rebundle := func(s store, n int, change func([][]byte) [][]byte) {
		entries, err := split(s[entriesAt(n)])
		if err != nil {
			t.Fatal(err)
		}
		if s[entriesAt(n)], err = bundle(change(entries)); err != nil {
			t.Fatal(err)
		}
	}
	// retile makes the tile of a bundle from what is in it.
	retile := func(s store, n int) {
		entries, _ := split(s[entriesAt(n)])
		s[tileAt(n)] = nil
		for _, e := range entries {
			h := Hash(e)
			s[tileAt(n)] = append(s[tileAt(n)], h[:]...)
		}
	}
	for name, c := range map[string]struct {
		damage func(s store)
		want   []string // kind key index count
	}{
		"entry changed": {func(s store) { s[entriesAt(1)] = flipped(s[entriesAt(1)], 9000) }, []string{"entry " + entriesAt(1) + " 261 1"}},
		"entry and its hash changed": {func(s store) {
			rebundle(s, 1, func(e [][]byte) [][]byte { e[5] = bytes.Replace(e[5], []byte("é"), []byte("e"), 1); return e })
			retile(s, 1)
		}, []string{"tile " + tileAt(1) + " 256 256"}},
		"entry and its hash changed, in the last bundle": {func(s store) {
			rebundle(s, 2, func(e [][]byte) [][]byte { e[5] = bytes.Replace(e[5], []byte("é"), []byte("e"), 1); return e })
			retile(s, 2)
		}, []string{"root " + CheckpointKey(size) + " -1 0"}},
		"leaf removed": {func(s store) { rebundle(s, 1, func(e [][]byte) [][]byte { return slices.Delete(e, 7, 8) }) },
			[]string{"entry " + entriesAt(1) + " 511 1", "entry " + entriesAt(1) + " 263 248"}},
		"last leaf removed": {func(s store) { rebundle(s, 2, func(e [][]byte) [][]byte { return e[:99] }) }, []string{"entry " + entriesAt(2) + " 611 1"}},
		"leaf added":        {func(s store) { rebundle(s, 2, func(e [][]byte) [][]byte { return append(e, e[0]) }) }, []string{"entry " + entriesAt(2) + " 612 0"}},
		"leaves swapped": {func(s store) { rebundle(s, 0, func(e [][]byte) [][]byte { e[3], e[200] = e[200], e[3]; return e }) },
			[]string{"entry " + entriesAt(0) + " 3 1", "entry " + entriesAt(0) + " 200 1"}},
		"leaves swapped, between bundles": {func(s store) {
			rebundle(s, 0, func(e [][]byte) [][]byte { e[3] = g.entries[600]; return e })
			rebundle(s, 2, func(e [][]byte) [][]byte { e[600-512] = g.entries[3]; return e })
		}, []string{"entry " + entriesAt(0) + " 3 1", "entry " + entriesAt(2) + " 600 1"}},
		"hash of a tile changed":        {func(s store) { s[tileAt(1)] = flipped(s[tileAt(1)], 3*256) }, []string{"tile " + tileAt(1) + " 259 1"}},
		"hash of the last tile changed": {func(s store) { s[tileAt(2)] = flipped(s[tileAt(2)], 3*256) }, []string{"tile " + tileAt(2) + " 515 1"}},
		"hash of an upper tile changed": {func(s store) { s["log/tile/1/000.p/2"] = flipped(s["log/tile/1/000.p/2"], 256) }, []string{"tile log/tile/1/000.p/2 256 256"}},
		"tile too short":                {func(s store) { s[tileAt(1)] = s[tileAt(1)][32:] }, []string{"tile " + tileAt(1) + " 256 256"}},
		"tile missing":                  {func(s store) { delete(s, tileAt(1)) }, []string{"missing " + tileAt(1) + " 256 256"}},
		"upper tile missing":            {func(s store) { delete(s, "log/tile/1/000.p/2") }, []string{"missing log/tile/1/000.p/2 0 512"}},
		"bundle missing":                {func(s store) { delete(s, entriesAt(1)) }, []string{"missing " + entriesAt(1) + " 256 256"}},
		"tile and bundle elsewhere wrong": {func(s store) {
			s[tileAt(1)] = flipped(s[tileAt(1)], 0)
			s[entriesAt(0)] = flipped(s[entriesAt(0)], 900)
		}, []string{"entry " + entriesAt(0) + " 0 1", "tile " + tileAt(1) + " 256 1"}},
		"body changed":                   {func(s store) { s[body] = flipped(s[body], 0) }, []string{"body " + body + " 77 1"}},
		"body missing":                   {func(s store) { delete(s, body) }, []string{"missing " + body + " 77 1"}},
		"partial tile of before changed": {func(s store) { s["log/tile/0/000.p/100"] = flipped(s["log/tile/0/000.p/100"], 256) }, []string{"tile log/tile/0/000.p/100 1 1"}},
		"bundle of before changed":       {func(s store) { s["log/tile/entries/000.p/100"] = flipped(s["log/tile/entries/000.p/100"], 900) }, []string{"entry log/tile/entries/000.p/100 0 1"}},
		"tail cut off": {func(s store) { delete(s, tileAt(2)); delete(s, entriesAt(2)) },
			[]string{"missing " + entriesAt(2) + " 512 100", "missing " + tileAt(2) + " 512 100", "root " + CheckpointKey(size) + " -1 0"}},
		"unknown objects": {func(s store) {
			s["log/x"] = nil
			s[bodyKey(strings.Repeat("0", 64))] = nil
			s[CheckpointKey(7)] = nil
			s["log/tile/0/002.p/101"] = nil
			s["log/tile/2/000.p/1"] = nil
		}, []string{"unknown " + bodyKey(strings.Repeat("0", 64)) + " -1 0", "unknown " + CheckpointKey(7) + " -1 0", "unknown log/tile/0/002.p/101 512 101", "unknown log/tile/2/000.p/1 0 65536", "unknown log/x -1 0"}},
		"everything else but the checkpoint signed anew": {func(s store) {
			other, _ := forged.publish(t, sizes...)
			maps.DeleteFunc(s, func(key string, _ []byte) bool { return strings.HasPrefix(key, Prefix+"tile/") })
			maps.Copy(s, other)
		}, []string{"root " + CheckpointKey(size) + " -1 0", "root " + CheckpointKey(width) + " -1 0", "root " + CheckpointKey(100) + " -1 0"}},
	} {
		s, checkpoints := g.publish(t, sizes...)
		for key := range s {
			if strings.HasPrefix(key, bodyPrefix) {
				body = key
			}
		}
		for i, w := range c.want { // body is known only now
			c.want[i] = strings.ReplaceAll(w, "  ", " "+body+" ")
		}
		c.damage(s)
		r := verify(t, s, checkpoints)
		var got []string
		for _, f := range r.Findings {
			got = append(got, fmt.Sprintf("%s %s %d %d", f.Kind, f.Key, f.Index, f.Count))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q\n%+v", name, got, c.want, r.Findings)
		}
	}
}

// The tree was made anew with one entry changed, and signed with the log's own key.
func TestVerifyFindsFork(t *testing.T) {
	const size = 2*width + 100
	sizes := []int64{30, 100, width, size}
	g := grow(size, nil)
	forged := grow(size, func(i int, e *Entry) {
		if i == 42 {
			e.Actor = "nobody"
		}
	})
	_, before := g.publish(t, sizes...)
	s, after := forged.publish(t, sizes...)
	all := append([][]byte{after[3]}, before...)
	r := verify(t, s, all)
	var forks []string
	for _, f := range r.Findings {
		if f.Kind != FoundFork || f.Fork == nil {
			t.Fatalf("%+v", f)
		}
		if err := f.Fork.Check(verifier); err != nil {
			t.Errorf("%s: %v", f.Key, err)
		}
		b, err := json.Marshal(f.Fork)
		if err != nil {
			t.Fatal(err)
		}
		var again Fork
		if err := json.Unmarshal(b, &again); err != nil || again.Check(verifier) != nil {
			t.Errorf("%s: %v", b, err)
		}
		for _, change := range []func(*Fork){
			func(f *Fork) { f.Older = string(after[1]); f.Root = forged.checkpoint(100).Root },
			func(f *Fork) { f.Root[0]++ },
			func(f *Fork) { f.Older, f.Newer = f.Newer, f.Older },
			func(f *Fork) { f.Newer = strings.Replace(f.Newer, "\n6", "\n7", 1) },
		} {
			no := again
			if change(&no); no.Check(verifier) == nil {
				t.Errorf("%+v is a fork", no)
			}
		}
		forks = append(forks, f.Key)
	}
	// The checkpoint of 30 is from before the change: both go on with it.
	if want := []string{CheckpointKey(size), CheckpointKey(width), CheckpointKey(100)}; !slices.Equal(forks, want) || r.Checkpoints != 2 {
		t.Errorf("forks at %q, %d checkpoints are right", forks, r.Checkpoints)
	}
}

func TestVerifySignatures(t *testing.T) {
	g := grow(300, nil)
	s, checkpoints := g.publish(t, 100, 300)
	other, _ := key(2)
	forger, err := note.NewSigner(other)
	if err != nil {
		t.Fatal(err)
	}
	by, err := g.checkpoint(300).Sign(forger)
	if err != nil {
		t.Fatal(err)
	}
	text := g.checkpoint(300).text()
	for name, c := range map[string]struct {
		msg []byte
		key string
	}{
		"another key":     {by, CheckpointKey(300)},
		"signature":       {flipped(checkpoints[1], (len(checkpoints[1])-10)*8), CheckpointKey(300)},
		"text":            {[]byte(strings.Replace(string(checkpoints[1]), "\n300\n", "\n299\n", 1)), CheckpointKey(299)},
		"no signature":    {[]byte(text), ""},
		"no note":         {[]byte("hello"), ""},
		"nothing":         {nil, ""},
		"more in the end": {append(slices.Clone(checkpoints[1]), "x\n"...), CheckpointKey(300)},
	} {
		r := verify(t, s, [][]byte{checkpoints[0], c.msg})
		if len(r.Findings) == 0 || r.Findings[0].Kind != FoundSignature || r.Findings[0].Key != c.key || r.Size != 100 || r.Checkpoints != 1 {
			t.Errorf("%s: %+v", name, r)
		}
		if r := verify(t, s, [][]byte{c.msg}); len(r.Findings) != 1 || r.Size != 0 || r.Checkpoints != 0 {
			t.Errorf("%s, alone: %+v", name, r)
		}
	}
	if r := verify(t, s, nil); len(r.Findings) != 0 || r.Checkpoints != 0 {
		t.Errorf("no checkpoint: %+v", r)
	}
}

// An entry in another form, and a body too, that the key's owner has put into the
// tree: every hash is right.
func TestVerifyForm(t *testing.T) {
	g := grow(3, nil)
	s := store{}
	for i, raw := range [][]byte{[]byte(`{"v": 1}`), []byte(anEntry)} {
		hashes, err := tlog.StoredHashes(int64(3+i), raw, g)
		if err != nil {
			t.Fatal(err)
		}
		g.entries, g.stored = append(g.entries, raw), append(g.stored, hashes...)
	}
	data, err := tlog.ReadTileData(widest(0, 0, 5), g)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := bundle(g.entries)
	if err != nil {
		t.Fatal(err)
	}
	s["log/tile/0/000.p/5"], s["log/tile/entries/000.p/5"] = data, joined
	r := verify(t, s, [][]byte{g.sign(5)})
	if len(r.Findings) != 1 || r.Findings[0].Kind != FoundEntry || r.Findings[0].Index != 3 || r.Entries != 4 {
		t.Errorf("%+v", r)
	}
}

// It gives up after so many findings, and says so.
func TestVerifyGivesUp(t *testing.T) {
	g := large(t)
	s, _ := g.publish(t, square)
	for key, b := range s {
		if tile, ok := parseTileKey(key); ok && tile.L == 0 {
			b = slices.Clone(b)
			for i := 0; i < len(b); i += 2 * tlog.HashSize {
				b[i]++
			}
			s[key] = b
		}
	}
	r := verify(t, s, [][]byte{g.sign(square)})
	if !r.Incomplete || len(r.Findings) != maxFindings {
		t.Errorf("%d findings, incomplete: %v", len(r.Findings), r.Incomplete)
	}
}
