package shred_test

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/shred"
	"github.com/lotkeeper/lotkeeper/shred/keystoretest"
	"github.com/lotkeeper/lotkeeper/shred/memkeys"
	"pgregory.net/rapid"
)

func TestSealOpen(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(rt, "plain")
		id := rapid.String().Draw(rt, "id")
		dek, sealed, err := shred.Seal(rand.Reader, plain, id)
		if err != nil {
			rt.Fatal(err)
		}
		if len(plain) >= 8 && bytes.Contains(sealed, plain) {
			rt.Fatal("the sealed bytes contain the plaintext")
		}
		got, err := shred.Open(dek, sealed, id)
		if err != nil || !bytes.Equal(got, plain) {
			rt.Fatalf("Open: %v", err)
		}
		if _, err := shred.Open(dek, sealed, id+"x"); !errors.Is(err, shred.ErrAuthentication) {
			rt.Fatalf("Open for another record: %v", err)
		}
		other := dek
		other[rapid.IntRange(0, 31).Draw(rt, "key byte")] ^= 1
		if _, err := shred.Open(other, sealed, id); !errors.Is(err, shred.ErrAuthentication) {
			rt.Fatalf("Open with another key: %v", err)
		}
	})
}

// TestEveryBitCounts changes each bit and cuts at each length, for everything sealed.
func TestEveryBitCounts(t *testing.T) {
	k := shred.NewClassKey("c", [32]byte{1})
	dek, sealed, err := shred.Seal(rand.Reader, []byte("kdes"), "r")
	if err != nil {
		t.Fatal(err)
	}
	wrapped, _ := k.Wrap(rand.Reader, dek, "r")
	secret, _ := k.WrapSecret(rand.Reader, []byte("identity"), "s")
	for _, c := range []struct {
		name string
		b    []byte
		open func(b []byte) error
	}{
		{"payload", sealed, func(b []byte) error { _, err := shred.Open(dek, b, "r"); return err }},
		{"wrapped DEK", wrapped, func(b []byte) error { _, err := k.Unwrap(b, "r"); return err }},
		{"wrapped secret", secret, func(b []byte) error { _, err := k.UnwrapSecret(b, "s"); return err }},
	} {
		if err := c.open(c.b); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for i := range len(c.b) * 8 {
			b := bytes.Clone(c.b)
			b[i/8] ^= 1 << (i % 8)
			if err := c.open(b); !errors.Is(err, shred.ErrAuthentication) {
				t.Errorf("%s with bit %d of byte %d flipped: %v", c.name, i%8, i/8, err)
			}
		}
		for i := range c.b {
			if err := c.open(c.b[:i]); !errors.Is(err, shred.ErrAuthentication) {
				t.Errorf("%s cut to %d bytes: %v", c.name, i, err)
			}
		}
		if err := c.open(append(bytes.Clone(c.b), 0)); !errors.Is(err, shred.ErrAuthentication) {
			t.Errorf("%s with a byte more: %v", c.name, err)
		}
	}
}

// TestBinding: nothing made for one purpose, class or name opens as another, also if
// two classes had the same secret, and wherever the border between class and record
// lies.
func TestBinding(t *testing.T) {
	a, ab := shred.NewClassKey("a", [32]byte{1}), shred.NewClassKey("ab", [32]byte{1})
	w, _ := a.Wrap(rand.Reader, [32]byte{2}, "bc")
	if _, err := ab.Unwrap(w, "c"); !errors.Is(err, shred.ErrAuthentication) {
		t.Errorf("class a, record bc opened as class ab, record c: %v", err)
	}
	if _, err := a.UnwrapSecret(w, "bc"); !errors.Is(err, shred.ErrAuthentication) {
		t.Errorf("a DEK opened as a secret: %v", err)
	}
	s, _ := a.WrapSecret(rand.Reader, make([]byte, 32), "bc")
	if _, err := a.Unwrap(s, "bc"); !errors.Is(err, shred.ErrAuthentication) {
		t.Errorf("a secret opened as a DEK: %v", err)
	}
	if _, err := shred.Open([32]byte{2}, w, "bc"); !errors.Is(err, shred.ErrAuthentication) {
		t.Errorf("a wrapped DEK opened as a payload: %v", err)
	}
}

// TestFormat holds to sealing-format.md, so that no change makes old records
// unreadable.
func TestFormat(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	counting := func() io.Reader { // 0, 1, 2, …
		b := make([]byte, 256)
		for i := range b {
			b[i] = byte(i)
		}
		return bytes.NewReader(b)
	}
	dek, sealed, err := shred.Seal(counting(), []byte(`{"quantity":1200}`), "cte-8842-a")
	if err != nil {
		t.Fatal(err)
	}
	k := shred.NewClassKey("hot/2024-09-13/1", [32]byte{0xff})
	wrapped, _ := k.Wrap(counting(), dek, "cte-8842-a")
	secret, _ := k.WrapSecret(counting(), []byte("AGE-SECRET-KEY-1"), "segment")
	mac := k.MAC("content", []byte("m"))
	for _, c := range []struct {
		name, want string
		got        []byte
	}{
		{"dek", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", dek[:]},
		{"sealed", wantSealed, sealed},
		{"wrapped", wantWrapped, wrapped},
		{"secret", wantSecret, secret},
		{"mac", wantMAC, mac[:]},
	} {
		if hex.EncodeToString(c.got) != c.want {
			t.Errorf("%s:\n %x, want\n %s", c.name, c.got, c.want)
		}
	}
	if got, err := k.Unwrap(unhex(wantWrapped), "cte-8842-a"); err != nil || got != dek {
		t.Errorf("Unwrap: %v", err)
	}
	// The MAC from its definition alone.
	ff := [32]byte{0xff}
	key, _ := hkdf.Key(sha256.New, ff[:], nil, "lotkeeper/shred/v1/mac\x00content", 32)
	h := hmac.New(sha256.New, key)
	h.Write([]byte("m"))
	if !bytes.Equal(h.Sum(nil), mac[:]) {
		t.Error("the MAC isn't what sealing-format.md says")
	}
}

func TestClassKeyPrintsNoSecret(t *testing.T) {
	secret := [32]byte(bytes.Repeat([]byte{0xAB}, 32))
	k := shred.NewClassKey("c", secret)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(verb, k); got != `class key "c"` {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}

func TestReseal(t *testing.T) {
	from, to := shred.NewClassKey("from", [32]byte{1}), shred.NewClassKey("to", [32]byte{2})
	w, _ := from.Wrap(rand.Reader, [32]byte{3}, "r")
	moved, err := shred.Reseal(rand.Reader, from, to, w, "r")
	if err != nil {
		t.Fatal(err)
	}
	if dek, err := to.Unwrap(moved, "r"); err != nil || dek != [32]byte{3} {
		t.Errorf("Unwrap: %v", err)
	}
	if _, err := shred.Reseal(rand.Reader, to, from, w, "r"); !errors.Is(err, shred.ErrAuthentication) {
		t.Errorf("Reseal from the wrong class: %v", err)
	}
	if _, err := shred.Reseal(rand.Reader, from, to, w, "other"); !errors.Is(err, shred.ErrAuthentication) {
		t.Errorf("Reseal of another record: %v", err)
	}
}

func TestRandFails(t *testing.T) {
	k := shred.NewClassKey("c", [32]byte{1})
	for n := range 44 {
		if _, _, err := shred.Seal(bytes.NewReader(make([]byte, n)), nil, "r"); err == nil {
			t.Errorf("Seal made do with %d random bytes", n)
		}
	}
	for n := range 12 {
		if _, err := k.Wrap(bytes.NewReader(make([]byte, n)), [32]byte{}, "r"); err == nil {
			t.Errorf("Wrap made do with %d random bytes", n)
		}
	}
}

func TestAuthorize(t *testing.T) {
	closes := time.Date(2024, 9, 15, 0, 0, 0, 0, time.UTC)
	sound := shred.Evidence{Class: "c", ClosesAt: closes, Now: closes, IntentLeaf: 1}
	for _, c := range []struct {
		name   string
		change func(e *shred.Evidence)
		reason string // empty: permitted
	}{
		{"at the moment it closes", func(e *shred.Evidence) {}, ""},
		{"in another zone", func(e *shred.Evidence) { e.Now = closes.In(time.FixedZone("", -7*3600)) }, ""},
		{"a nanosecond early", func(e *shred.Evidence) { e.Now = closes.Add(-1) }, "open until 2024-09-15T00:00:00Z"},
		{"one DEK", func(e *shred.Evidence) { e.DEKs = 1 }, "1 records still depend"},
		{"DEKs below zero", func(e *shred.Evidence) { e.DEKs = -1 }, "depend"},
		{"one unverified", func(e *shred.Evidence) { e.Unverified = 1 }, "1 of its records have no verified copy"},
		{"unverified below zero", func(e *shred.Evidence) { e.Unverified = -1 }, "no verified copy"},
		{"no leaf", func(e *shred.Evidence) { e.IntentLeaf = 0 }, "audit log"},
		{"leaf below zero", func(e *shred.Evidence) { e.IntentLeaf = -1 }, "audit log"},
		{"no class", func(e *shred.Evidence) { e.Class = "" }, "class id"},
		{"close not read", func(e *shred.Evidence) { e.ClosesAt = time.Time{} }, "lacks the time"},
		{"now not read", func(e *shred.Evidence) { e.Now = time.Time{} }, "lacks the time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := sound
			e.Class = "changed"
			c.change(&e)
			p, err := shred.Authorize([]shred.Evidence{sound, e})
			if c.reason == "" {
				if err != nil || strings.Join(p.Classes(), " ") != "c changed" {
					t.Errorf("%q, %v", p.Classes(), err)
				}
				return
			}
			var np *shred.NotPermitted
			if !errors.As(err, &np) || np.Class != e.Class || !strings.Contains(np.Reason, c.reason) {
				t.Errorf("got %v, want *NotPermitted for %q that says %q", err, e.Class, c.reason)
			}
			if len(p.Classes()) != 0 {
				t.Errorf("refused, but permits %q", p.Classes())
			}
		})
	}
	if _, err := shred.Authorize(nil); err == nil {
		t.Error("permitted on no evidence")
	}
	if _, err := shred.Authorize([]shred.Evidence{sound, sound}); err == nil {
		t.Error("permitted one class twice")
	}
	p, _ := shred.Authorize([]shred.Evidence{sound})
	p.Classes()[0] = "other"
	if p.Classes()[0] != "c" {
		t.Error("a permit can be changed")
	}
}

// liar is a key store that breaks its promise.
type liar struct {
	shred.KeyStore
	destroy func(context.Context, shred.Permit) (shred.Destruction, error)
	open    func(context.Context, string) (*shred.ClassKey, error)
}

func (l liar) Destroy(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
	if l.destroy != nil {
		return l.destroy(ctx, p)
	}
	return l.KeyStore.Destroy(ctx, p)
}

func (l liar) Open(ctx context.Context, id string) (*shred.ClassKey, error) {
	if l.open != nil {
		return l.open(ctx, id)
	}
	return l.KeyStore.Open(ctx, id)
}

func TestDestroyIsProved(t *testing.T) {
	ctx := t.Context()
	store := func() *memkeys.Store {
		ks := memkeys.New()
		if _, err := ks.Create(ctx, []string{"a", "b"}); err != nil {
			t.Fatal(err)
		}
		return ks
	}
	permit := keystoretest.Permit(t, "a", "b")

	t.Run("destroys nothing", func(t *testing.T) {
		ks := liar{KeyStore: store(), destroy: func(context.Context, shred.Permit) (shred.Destruction, error) {
			return shred.Destruction{Epoch: 9}, nil
		}}
		_, err := shred.Destroy(ctx, ks, permit, rand.Reader)
		if !errors.Is(err, shred.ErrStillReadable) || !strings.Contains(err.Error(), `"a"`) {
			t.Error(err)
		}
	})
	t.Run("destroys the first only", func(t *testing.T) {
		inner := store()
		ks := liar{KeyStore: inner, destroy: func(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
			return inner.Destroy(ctx, keystoretest.Permit(t, "a"))
		}}
		_, err := shred.Destroy(ctx, ks, permit, rand.Reader)
		if !errors.Is(err, shred.ErrStillReadable) || !strings.Contains(err.Error(), `"b"`) {
			t.Error(err)
		}
	})
	t.Run("opens another key", func(t *testing.T) {
		ks := liar{KeyStore: store()}
		ks.destroy = func(context.Context, shred.Permit) (shred.Destruction, error) { return shred.Destruction{}, nil }
		n := byte(0)
		ks.open = func(_ context.Context, id string) (*shred.ClassKey, error) {
			n++
			return shred.NewClassKey(id, [32]byte{n}), nil
		}
		if _, err := shred.Destroy(ctx, ks, permit, rand.Reader); !errors.Is(err, shred.ErrStillReadable) {
			t.Error(err)
		}
	})
	t.Run("cannot tell", func(t *testing.T) {
		inner, down, done := store(), errors.New("down"), false
		ks := liar{KeyStore: inner}
		ks.destroy = func(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
			done = true
			return inner.Destroy(ctx, p)
		}
		ks.open = func(ctx context.Context, id string) (*shred.ClassKey, error) {
			if done {
				return nil, down
			}
			return inner.Open(ctx, id)
		}
		if _, err := shred.Destroy(ctx, ks, permit, rand.Reader); !errors.Is(err, down) {
			t.Error(err)
		}
	})
	t.Run("acknowledgement lost", func(t *testing.T) {
		inner, lost := store(), errors.New("lost")
		ks := liar{KeyStore: inner, destroy: func(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
			inner.Destroy(ctx, p)
			return shred.Destruction{}, lost
		}}
		if _, err := shred.Destroy(ctx, ks, permit, rand.Reader); !errors.Is(err, lost) {
			t.Error(err)
		}
		if d, err := shred.Destroy(ctx, inner, permit, rand.Reader); err != nil || d.Epoch != 3 {
			t.Errorf("again: %+v, %v", d, err)
		}
	})
	t.Run("no randomness", func(t *testing.T) {
		inner := store()
		if _, err := shred.Destroy(ctx, inner, permit, bytes.NewReader(nil)); err == nil {
			t.Error("destroyed without a probe")
		}
		if _, err := inner.Open(ctx, "a"); err != nil {
			t.Error(err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	fixed := mathrand.NewChaCha8([32]byte{1}) // each of the fuzzer's processes starts here
	dek, sealed, _ := shred.Seal(fixed, []byte("kdes"), "r")
	k := shred.NewClassKey("c", [32]byte{1})
	wrapped, _ := k.Wrap(fixed, dek, "r")
	f.Add(sealed, "r")
	f.Add(wrapped, "r")
	f.Add([]byte{}, "")
	f.Add([]byte{1}, "r")
	f.Fuzz(func(t *testing.T, b []byte, id string) {
		if p, err := shred.Open(dek, b, id); (err == nil) != (bytes.Equal(b, sealed) && id == "r") {
			t.Errorf("Open: %q, %v", p, err)
		}
		if _, err := k.Unwrap(b, id); (err == nil) != (bytes.Equal(b, wrapped) && id == "r") {
			t.Errorf("Unwrap: %v", err)
		}
		if _, err := k.UnwrapSecret(b, id); err == nil {
			t.Error("UnwrapSecret opened what was never wrapped")
		}
	})
}

// The figures are those of one record: 600 bytes of line, one core.

func BenchmarkSealAndWrap(b *testing.B) {
	k := shred.NewClassKey("hot/2024-11-21/1", [32]byte{1})
	line := bytes.Repeat([]byte("k"), 600)
	b.ReportAllocs()
	for b.Loop() {
		dek, _, err := shred.Seal(rand.Reader, line, "cte-8842-a")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := k.Wrap(rand.Reader, dek, "cte-8842-a"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnwrapAndOpen(b *testing.B) {
	k := shred.NewClassKey("hot/2024-11-21/1", [32]byte{1})
	dek, sealed, _ := shred.Seal(rand.Reader, bytes.Repeat([]byte("k"), 600), "cte-8842-a")
	wrapped, _ := k.Wrap(rand.Reader, dek, "cte-8842-a")
	b.ReportAllocs()
	for b.Loop() {
		dek, err := k.Unwrap(wrapped, "cte-8842-a")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := shred.Open(dek, sealed, "cte-8842-a"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReseal(b *testing.B) {
	from, to := shred.NewClassKey("from", [32]byte{1}), shred.NewClassKey("to", [32]byte{2})
	wrapped, _ := from.Wrap(rand.Reader, [32]byte{3}, "cte-8842-a")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := shred.Reseal(rand.Reader, from, to, wrapped, "cte-8842-a"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMAC(b *testing.B) {
	k := shred.NewClassKey("c", [32]byte{1})
	msg := make([]byte, 600)
	b.ReportAllocs()
	for b.Loop() {
		k.MAC("content", msg)
	}
}

// What this package wrote when its format was fixed.
const (
	wantSealed  = "01202122232425262728292a2ba918d7050df66e676e0560f4f02ac4c9ad96424c49fa024759fac9e924111ef7c9"
	wantWrapped = "01000102030405060708090a0bef377e22586276d1627d6272a8c2c6178f93236ee84113a80a6a59fb135e4130ee9f86958701ccf85ca9f1407134d5f9"
	wantSecret  = "01000102030405060708090a0b588eb0ab756feb158c01a3531545b2f50e23a77ff614f0859b7a0787bdcae7ab"
	wantMAC     = "baa7c14b1b50474a8dfbda901b0468f6f3e883c59644d5f4f9b9a4c85588d17c"
)
