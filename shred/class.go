package shred

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"sync"
)

// ClassKey is one class key, opened in memory: no method does I/O. It is safe for
// concurrent use. It never prints its secret.
type ClassKey struct {
	id      string
	deks    cipher.AEAD // wraps DEKs
	secrets cipher.AEAD // wraps short secrets
	prk     []byte      // HKDF's pseudorandom key, kept for the MAC labels
	macs    sync.Map    // label -> *sync.Pool of hash.Hash keyed for that label
}

// NewClassKey is for key stores: secret is 32 uniformly random bytes that belong to
// this class alone. Subkeys for each purpose are derived from it once, with
// HKDF-SHA-256 (RFC 5869).
func NewClassKey(id string, secret [32]byte) *ClassKey {
	prk, err := hkdf.Extract(sha256.New, secret[:], nil)
	if err != nil {
		panic(err) // SHA-256 and 32 bytes are always accepted
	}
	return &ClassKey{
		id:      id,
		deks:    newAEAD(subkey(prk, "dek")),
		secrets: newAEAD(subkey(prk, "secret")),
		prk:     prk,
	}
}

func subkey(prk []byte, purpose string) []byte {
	key, err := hkdf.Expand(sha256.New, prk, "lotkeeper/shred/v1/"+purpose, 32)
	if err != nil {
		panic(err) // 32 bytes is far below HKDF's limit
	}
	return key
}

// ID is the class id.
func (k *ClassKey) ID() string { return k.id }

// Format keeps every verb of package fmt from printing key material.
func (k *ClassKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "class key %q", k.id) }

// Wrap encrypts a record's DEK under the class key, bound to the record id and the
// class id. rand is crypto/rand.Reader outside tests. At most 2^32 wraps under one
// class key are safe; see the package documentation.
func (k *ClassKey) Wrap(rand io.Reader, dek [32]byte, recordID string) ([]byte, error) {
	wrapped, err := seal(rand, k.deks, dek[:], k.ad(adDEK, recordID))
	if err != nil {
		return nil, fmt.Errorf("couldn't wrap the key of record %q for class %q: %w", recordID, k.id, err)
	}
	return wrapped, nil
}

// Unwrap is the inverse of Wrap. It returns ErrAuthentication unless the class and the
// record id are the ones that the DEK was wrapped for.
func (k *ClassKey) Unwrap(wrapped []byte, recordID string) ([32]byte, error) {
	var dek [32]byte
	plain, err := open(k.deks, wrapped, k.ad(adDEK, recordID))
	if err == nil && len(plain) != len(dek) {
		err = fmt.Errorf("%w: not a key", ErrAuthentication)
	}
	if err != nil {
		return dek, fmt.Errorf("couldn't unwrap the key of record %q from class %q: %w", recordID, k.id, err)
	}
	copy(dek[:], plain)
	return dek, nil
}

// WrapSecret encrypts a short secret that is to die with the class, such as the
// identity that opens an archived segment. label says what it is for (for a segment:
// its id) and is needed to unwrap it. DEKs and secrets are never accepted for each
// other.
func (k *ClassKey) WrapSecret(rand io.Reader, secret []byte, label string) ([]byte, error) {
	wrapped, err := seal(rand, k.secrets, secret, k.ad(adSecret, label))
	if err != nil {
		return nil, fmt.Errorf("couldn't wrap secret %q for class %q: %w", label, k.id, err)
	}
	return wrapped, nil
}

// UnwrapSecret is the inverse of WrapSecret. It returns ErrAuthentication unless the
// class and the label are the ones that the secret was wrapped for.
func (k *ClassKey) UnwrapSecret(wrapped []byte, label string) ([]byte, error) {
	secret, err := open(k.secrets, wrapped, k.ad(adSecret, label))
	if err != nil {
		return nil, fmt.Errorf("couldn't unwrap secret %q from class %q: %w", label, k.id, err)
	}
	return secret, nil
}

// ad spells out purpose, class and name. The length before the class id makes it
// unambiguous where the class ends and the name begins.
func (k *ClassKey) ad(purpose, name string) []byte {
	ad := make([]byte, 0, len(purpose)+4+len(k.id)+len(name))
	ad = append(ad, purpose...)
	ad = binary.BigEndian.AppendUint32(ad, uint32(len(k.id)))
	ad = append(ad, k.id...)
	return append(ad, name...)
}

// MAC is HMAC-SHA-256 of msg under a subkey of the class key that belongs to the label.
// It is the same for the same class key, label and message, now and after a restart,
// and cannot be computed or checked by anyone once the class is destroyed. Labels are a
// few constants of the program, not data: what belongs to each is kept in memory.
func (k *ClassKey) MAC(label string, msg []byte) [32]byte {
	pool, ok := k.macs.Load(label)
	if !ok {
		key := subkey(k.prk, "mac\x00"+label)
		pool, _ = k.macs.LoadOrStore(label, &sync.Pool{New: func() any { return hmac.New(sha256.New, key) }})
	}
	h := pool.(*sync.Pool).Get().(hash.Hash)
	defer pool.(*sync.Pool).Put(h)
	h.Reset()
	h.Write(msg)
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// Reseal moves one record's DEK from one class to another. The payload needs no change.
// The old wrapping still opens until the old class is destroyed.
func Reseal(rand io.Reader, from, to *ClassKey, wrapped []byte, recordID string) ([]byte, error) {
	dek, err := from.Unwrap(wrapped, recordID)
	if err != nil {
		return nil, err
	}
	return to.Wrap(rand, dek, recordID)
}
