package audit

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestCheckpoint(t *testing.T) {
	g := grow(3, nil)
	for size := range int64(4) {
		c := g.checkpoint(size)
		msg, err := c.Sign(signer)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.Sign(signer); err != nil || !bytes.Equal(again, msg) {
			t.Errorf("signed twice: %q and %q, %v", msg, again, err)
		}
		if got, err := OpenCheckpoint(msg, verifier); err != nil || got != c {
			t.Errorf("%+v, %v, want %+v", got, err, c)
		}
		if want := fmt.Sprintf("%s\n%d\n%s\n\n— %s ", origin, size, c.Root, origin); !strings.HasPrefix(string(msg), want) {
			t.Errorf("%q", msg)
		}
	}
	root := g.checkpoint(3).Root.String()
	text := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	if _, err := OpenCheckpoint(signed(t, text(origin, "3", root)), verifier); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"another origin":   text("lotkeeper-other", "3", root),
		"no origin":        text("", "3", root),
		"size with a sign": text(origin, "+3", root),
		"negative":         text(origin, "-3", root),
		"leading zero":     text(origin, "03", root),
		"hexadecimal":      text(origin, "0x3", root),
		"too large":        text(origin, "1000000000000", root),
		"no size":          text(origin, "", root),
		"short root":       text(origin, "3", root[4:]),
		"not padded":       text(origin, "3", strings.TrimSuffix(root, "=")),
		"stray bits":       text(origin, "3", root[:42]+string(root[42]+1)+"="),
		"extension":        text(origin, "3", root, "more"),
		"two lines":        text(origin, "3"),
		"empty with root":  text(origin, "0", root),
	} {
		if c, err := OpenCheckpoint(signed(t, bad), verifier); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	_, other := key(2)
	v, err := note.NewVerifier(other)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := OpenCheckpoint(g.sign(3), v); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("by another key: %+v, %v", c, err)
	}
	for _, c := range []Checkpoint{{"lotkeeper-other", 3, g.checkpoint(3).Root}, {origin, -1, g.checkpoint(3).Root}, {origin, 0, g.checkpoint(3).Root}, {}} {
		if msg, err := c.Sign(signer); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%+v is signed: %q, %v", c, msg, err)
		}
	}
	if _, _, err := NewKey(bytes.NewReader(make([]byte, 64)), "two words"); err == nil {
		t.Error("a key with a space in its name")
	}
}

func signed(t testing.TB, text string) []byte {
	t.Helper()
	msg, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestCheckpointKey(t *testing.T) {
	var keys []string
	for _, size := range []int64{0, 1, 9, 10, 256, 99999, 100000, maxSize - 1, maxSize} {
		key := CheckpointKey(size)
		if got, ok := CheckpointSize(key); !ok || got != size {
			t.Errorf("%s: %d, %v", key, got, ok)
		}
		keys = append(keys, key)
	}
	slices.Reverse(keys)
	if !slices.IsSorted(keys) {
		t.Errorf("the newest does not sort first: %v", keys)
	}
	for _, bad := range []string{"", "log/checkpoint/", "log/checkpoint/999999999998-2", "log/checkpoint/999999999999-00", "log/checkpoint/999999999999-", "999999999999-0", CheckpointKey(3) + "0", CheckpointKey(-1), CheckpointKey(math.MinInt64)} {
		if size, ok := CheckpointSize(bad); ok {
			t.Errorf("%q: %d", bad, size)
		}
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	g := grow(3, nil)
	f.Add(g.sign(3))
	f.Add([]byte(g.checkpoint(0).text()))
	f.Fuzz(func(t *testing.T, b []byte) {
		opened := [][]byte{b} // as a note, and as a text that the key has signed
		if msg, err := note.Sign(&note.Note{Text: string(b)}, signer); err == nil {
			opened = append(opened, msg)
		}
		for _, msg := range opened {
			c, err := OpenCheckpoint(msg, verifier)
			if err != nil {
				if !errors.Is(err, ErrCheckpoint) {
					t.Fatal(err)
				}
				continue
			}
			again, err := c.Sign(signer)
			if err != nil || !bytes.HasPrefix(msg, []byte(c.text())) {
				t.Fatalf("%q is read as %+v, and signed as %q: %v", msg, c, again, err)
			}
		}
	})
}
