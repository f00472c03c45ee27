package audit

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/lotkeeper/lotkeeper/archive"
)

func TestProof(t *testing.T) {
	g := grow(600, nil)
	s, _ := g.publish(t, 1, 256, 600)
	for _, size := range []int64{1, 256, 600} {
		l := Open(s, g.checkpoint(size))
		for _, i := range []int64{0, 77, 255, 256, size - 1} {
			if i >= size {
				continue
			}
			p, err := Prove(t.Context(), l, i)
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			var again Proof
			if err := json.Unmarshal(b, &again); err != nil {
				t.Fatal(err)
			}
			e, err := again.Check(verifier)
			if want := g.entry(t, i); err != nil || !reflect.DeepEqual(e, want) {
				t.Errorf("entry %d of %d: %+v, %v, want %+v", i, size, e, err, want)
			}
			if again.Body = nil; i == 77 {
				if e, err := again.Check(verifier); err != nil || e.Body != nil || e.BodySHA256 == "" {
					t.Errorf("without its body: %+v, %v", e, err)
				}
			}
		}
		for _, i := range []int64{-1, size} {
			if p, err := Prove(t.Context(), l, i); err == nil {
				t.Errorf("entry %d of %d: %+v", i, size, p)
			}
		}
	}
	if p, err := Prove(t.Context(), Open(s, g.checkpoint(300)), 1); err == nil {
		t.Errorf("under a checkpoint that was not published: %+v", p)
	}
}

func TestProofRefuses(t *testing.T) {
	g := grow(600, nil)
	s, _ := g.publish(t, 256, 600)
	l := Open(s, g.checkpoint(600))
	_, other := key(2)
	stranger, err := note.NewVerifier(other)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{77, 300} {
		whole, err := Prove(t.Context(), l, i)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := whole.Check(stranger); err == nil {
			t.Errorf("by another key: %+v", e)
		}
		for name, change := range map[string]func(*Proof){
			"index":              func(p *Proof) { p.Index++ },
			"negative":           func(p *Proof) { p.Index = -1 },
			"entry":              func(p *Proof) { p.Entry = flipped(p.Entry, 900) },
			"another's entry":    func(p *Proof) { p.Entry = g.entries[i+1] },
			"another body":       func(p *Proof) { p.Body = append(bytes.Clone(p.Body), '1') },
			"path":               func(p *Proof) { p.Path[0][0]++ },
			"short path":         func(p *Proof) { p.Path = p.Path[1:] },
			"long path":          func(p *Proof) { p.Path = append(p.Path, tlog.Hash{}) },
			"no path":            func(p *Proof) { p.Path = nil },
			"another checkpoint": func(p *Proof) { p.Checkpoint = string(g.sign(500)) },
			"checkpoint":         func(p *Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "600", "601", 1) },
			"nothing":            func(p *Proof) { *p = Proof{} },
		} {
			p := whole
			p.Path = slices.Clone(whole.Path)
			if change(&p); reflect.DeepEqual(p, whole) {
				t.Fatalf("%s: not changed", name)
			}
			if e, err := p.Check(verifier); err == nil {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
}

// The names are a promise.
func TestProofJSON(t *testing.T) {
	names := func(v any) (out []string) {
		for f := range reflect.TypeOf(v).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			out = append(out, name)
		}
		return out
	}
	for _, c := range []struct {
		v    any
		want []string
	}{
		{Proof{}, []string{"index", "entry", "body", "path", "checkpoint"}},
		{BatchProof{}, []string{"index", "size", "path"}},
		{Fork{}, []string{"older", "newer", "root", "path"}},
		{Finding{}, []string{"kind", "key", "index", "count", "detail", "fork"}},
		{Report{}, []string{"origin", "size", "root", "checkpoints", "entries", "tiles", "bodies", "findings", "incomplete"}},
	} {
		if got := names(c.v); !slices.Equal(got, c.want) {
			t.Errorf("%T has %q, want %q", c.v, got, c.want)
		}
	}
}

// A batch's root is archive.Root of its rows.
func TestBatchProof(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := make([][32]byte, rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(250, 260)).Draw(t, "rows"))
		for i := range rows {
			rows[i] = [32]byte{byte(i), byte(i >> 8)}
		}
		root := archive.Root(rows)
		i := rapid.IntRange(0, len(rows)-1).Draw(t, "row")
		p, err := ProveBatch(rows, i)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(rows[i], root); err != nil {
			t.Fatal(err)
		}
		if p.Check([32]byte{0xff, 0xff}, root) == nil || p.Check(rows[i], [32]byte{1}) == nil {
			t.Fatal("another row, or root, is taken")
		}
		if p.Index = int64(i+1) % p.Size; len(rows) > 1 && p.Check(rows[i], root) == nil {
			t.Fatal("at another place")
		}
	})
	for _, i := range []int{-1, 1} {
		if p, err := ProveBatch(make([][32]byte, 1), i); err == nil {
			t.Errorf("row %d of 1: %+v", i, p)
		}
	}
	if p, err := ProveBatch(nil, 0); err == nil {
		t.Errorf("of no rows: %+v", p)
	}
}
