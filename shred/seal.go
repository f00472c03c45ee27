package shred

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
)

// ErrAuthentication: the ciphertext was not made under this key for this id, or has
// been changed or cut since. Which of these it was cannot be told apart.
var ErrAuthentication = errors.New("ciphertext does not authenticate")

// sealVersion is the first byte of everything sealed or wrapped here, so that a later
// format can be told from this one.
const sealVersion = 1

const (
	nonceSize = 12
	tagSize   = 16
	overhead  = 1 + nonceSize + tagSize
)

// Each purpose has its own prefix of associated data, so that nothing made for one is
// ever accepted for another, even if a key were used for both by mistake.
const (
	adPayload = "lotkeeper/shred/v1/payload\x00"
	adDEK     = "lotkeeper/shred/v1/dek\x00"
	adSecret  = "lotkeeper/shred/v1/secret\x00"
)

// Seal encrypts one record under a fresh DEK with AES-256-GCM and binds it to the
// record id. rand is crypto/rand.Reader outside tests. The caller wraps the DEK with a
// class key and lets it go; it must not seal anything else with it.
func Seal(rand io.Reader, plaintext []byte, recordID string) (dek [32]byte, sealed []byte, err error) {
	if _, err := io.ReadFull(rand, dek[:]); err != nil {
		return dek, nil, fmt.Errorf("couldn't draw a key for record %q: %w", recordID, err)
	}
	sealed, err = seal(rand, newAEAD(dek[:]), plaintext, payloadAD(recordID))
	if err != nil {
		return [32]byte{}, nil, fmt.Errorf("couldn't seal record %q: %w", recordID, err)
	}
	return dek, sealed, nil
}

// Open decrypts what Seal made. It returns ErrAuthentication unless the DEK, the bytes
// and the record id are those of one Seal.
func Open(dek [32]byte, sealed []byte, recordID string) ([]byte, error) {
	plaintext, err := open(newAEAD(dek[:]), sealed, payloadAD(recordID))
	if err != nil {
		return nil, fmt.Errorf("couldn't open record %q: %w", recordID, err)
	}
	return plaintext, nil
}

func payloadAD(recordID string) []byte {
	ad := make([]byte, 0, len(adPayload)+len(recordID))
	ad = append(ad, adPayload...)
	return append(ad, recordID...)
}

// seal returns version, nonce, ciphertext and tag.
func seal(rand io.Reader, aead cipher.AEAD, plaintext, ad []byte) ([]byte, error) {
	out := make([]byte, 1+nonceSize, overhead+len(plaintext))
	out[0] = sealVersion
	nonce := out[1 : 1+nonceSize]
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, fmt.Errorf("couldn't draw a nonce: %w", err)
	}
	return aead.Seal(out, nonce, plaintext, ad), nil
}

func open(aead cipher.AEAD, sealed, ad []byte) ([]byte, error) {
	if len(sealed) < overhead {
		return nil, fmt.Errorf("%w: %d bytes, need at least %d", ErrAuthentication, len(sealed), overhead)
	}
	if sealed[0] != sealVersion {
		return nil, fmt.Errorf("%w: format version %d, know only %d", ErrAuthentication, sealed[0], sealVersion)
	}
	plaintext, err := aead.Open(nil, sealed[1:1+nonceSize], sealed[1+nonceSize:], ad)
	if err != nil {
		return nil, ErrAuthentication
	}
	return plaintext, nil
}

// newAEAD is AES-256-GCM. Its two constructors fail for keys of a wrong length only.
func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}
