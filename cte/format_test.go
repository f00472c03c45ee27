package cte

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"
)

// zeroToF are the salt bytes of the worked examples.
func zeroToF() *bytes.Reader {
	salts := make([]byte, 4096)
	for i := range salts {
		salts[i] = byte(i % 16)
	}
	return bytes.NewReader(salts)
}

// The format's description is a promise to whoever reads a line in ten years: its
// examples are run.
func TestLineFormatExamples(t *testing.T) {
	md, err := os.ReadFile("line-format.md")
	if err != nil {
		t.Fatal(err)
	}
	type block struct{ kind, text string }
	var blocks []block
	for _, part := range strings.Split(string(md), "\n```")[1:] {
		if kind, text, ok := strings.Cut(part, "\n"); ok && kind != "" {
			blocks = append(blocks, block{kind, text})
		}
	}
	if len(blocks) != 6 {
		t.Fatalf("found %d examples, want 6", len(blocks))
	}
	for i := 0; i < len(blocks); i += 3 {
		in := blocks[i].text
		if blocks[i].kind == "native" {
			in = strings.ReplaceAll(in, "\n", "") // broken for the page
		}
		r, err := NewReader(strings.NewReader(in), Options{
			Now: time.Date(2026, 3, 2, 0, 0, 0, 500000000, time.UTC), Rand: zeroToF(),
		})
		if err != nil {
			t.Fatal(err)
		}
		rec, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		line := rec.AppendLine(nil)
		if want := blocks[i+1].text; string(line) != want {
			t.Errorf("line\n%s\nwant\n%s", line, want)
		}
		sum := Checksum(line)
		if want := blocks[i+2].text; hex.EncodeToString(sum[:]) != want {
			t.Errorf("checksum %x, want %s", sum, want)
		}
	}
}
