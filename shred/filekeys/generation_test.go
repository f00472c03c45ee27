package filekeys

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func sample() *generation {
	return &generation{
		keyring:   [16]byte{1, 2, 3},
		epoch:     42,
		live:      map[string][32]byte{"hot/2024-11-21/1": {9}, "archive/2026-11": {8, 7}},
		destroyed: map[string]bool{"hot/2024-11-20/1": true, "hot/2024-11-20/2": true},
	}
}

func sealed(t testing.TB, g *generation) *generation {
	t.Helper()
	if err := g.seal(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestLayout holds the file to the offsets that keyring-format.md promises.
func TestLayout(t *testing.T) {
	g := sealed(t, sample())
	if got := string(g.keys[:8]); got != "LKKEYS\x00\x01" {
		t.Errorf("magic: %q", got)
	}
	if !bytes.Equal(g.keys[8:24], g.keyring[:]) {
		t.Errorf("keyring id: %x", g.keys[8:24])
	}
	if got := fmt.Sprintf("%x", g.keys[24:32]); got != "000000000000002a" {
		t.Errorf("epoch: %s", got)
	}
	body, err := newAEAD(g.root).Open(nil, g.keys[32:44], g.keys[44:], g.keys[:32])
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	want = append(want, 0, 0, 0, 2)
	want = append(want, "\x0farchive/2026-11\x08\x07"...)
	want = append(want, make([]byte, 30)...)
	want = append(want, "\x10hot/2024-11-21/1\x09"...)
	want = append(want, make([]byte, 31)...)
	want = append(want, 0, 0, 0, 2)
	want = append(want, "\x10hot/2024-11-20/1\x10hot/2024-11-20/2"...)
	if !bytes.Equal(body, want) {
		t.Errorf("body:\n%q, want\n%q", body, want)
	}
}

// TestParseRefusesEveryChange: each bit of both files counts.
func TestParseRefusesEveryChange(t *testing.T) {
	g := sealed(t, sample())
	if _, err := parse(g.root[:], g.keys); err != nil {
		t.Fatal(err)
	}
	for i := range len(g.keys) * 8 {
		b := bytes.Clone(g.keys)
		b[i/8] ^= 1 << (i % 8)
		if _, err := parse(g.root[:], b); err == nil {
			t.Errorf("parsed with bit %d of byte %d flipped", i%8, i/8)
		}
	}
	for i := range g.keys {
		if _, err := parse(g.root[:], g.keys[:i]); err == nil {
			t.Errorf("parsed the first %d bytes", i)
		}
	}
	for i := range 256 {
		b := bytes.Clone(g.root[:])
		b[i/8] ^= 1 << (i % 8)
		if _, err := parse(b, g.keys); err == nil {
			t.Errorf("parsed with another root")
		}
	}
}

func TestSealParse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		id := rapid.StringMatching(`[!-~]{1,255}`)
		g := &generation{epoch: rapid.Uint64Min(1).Draw(rt, "epoch"), live: map[string][32]byte{}, destroyed: map[string]bool{}}
		for _, id := range rapid.SliceOfDistinct(id, rapid.ID).Draw(rt, "ids") {
			if rapid.Bool().Draw(rt, "live") {
				g.live[id] = [32]byte{1}
			} else {
				g.destroyed[id] = true
			}
		}
		sealed(t, g)
		got, err := parse(g.root[:], g.keys)
		if err != nil {
			rt.Fatal(err)
		}
		if got.epoch != g.epoch || !bytes.Equal(got.appendBody(nil), g.appendBody(nil)) || len(got.live) != len(g.live) {
			rt.Fatalf("parsed %v, sealed %v", got, g)
		}
	})
}

func FuzzParse(f *testing.F) {
	g := sample()
	if err := g.seal(newRecorder()); err != nil { // the same in each of the fuzzer's processes
		f.Fatal(err)
	}
	f.Add(g.root[:], g.keys)
	f.Add([]byte{}, []byte{})
	f.Add(g.root[:], g.keys[:40])
	f.Fuzz(func(t *testing.T, root, keys []byte) {
		if g, err := parse(root, keys); err == nil && (len(root) != 32 || g.epoch == 0) {
			t.Errorf("parsed %+v", g)
		}
	})
}

// FuzzParseBody is behind the AEAD, which a fuzzer can't forge.
func FuzzParseBody(f *testing.F) {
	f.Add(sample().appendBody(nil))
	f.Add((&generation{}).appendBody(nil))
	f.Add([]byte("\xff\xff\xff\xff\x01a"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x02\x01a\x01a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var g generation
		if err := g.parseBody(b); err != nil {
			return
		}
		if again := g.appendBody(nil); !bytes.Equal(again, b) {
			t.Errorf("parsed %x, which is written as %x", b, again)
		}
	})
}

func FuzzParseCurrent(f *testing.F) {
	for _, s := range []string{"gen-00000000000000000042\n", "gen-00000000000000000000\n", "gen-42\n",
		"gen-99999999999999999999\n", "gen-+0000000000000000042\n", "", "gen-00000000000000000042"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if epoch, err := parseCurrent(b); err == nil && string(b) != fmt.Sprintf("gen-%020d\n", epoch) {
			t.Errorf("parsed %q as %d", b, epoch)
		}
	})
}
