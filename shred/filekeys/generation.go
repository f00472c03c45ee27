package filekeys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lotkeeper/lotkeeper/shred"
)

// The files of a generation; keyring-format.md says what is in them.
const (
	magic      = "LKKEYS\x00\x01" // the last byte is the version
	headerSize = len(magic) + 16 + 8
	nonceSize  = 12
	genPrefix  = "gen-"
)

// generation is all keys at one epoch. It is never changed once it has been sealed or
// read.
type generation struct {
	keyring   [16]byte // tells one keyring and its mirrors from any other
	epoch     uint64
	live      map[string][32]byte
	destroyed map[string]bool

	root [32]byte // the content of the file root
	keys []byte   // the content of the file keys: the above, sealed under root
}

// name is that of the directory.
func (g *generation) name() string { return fmt.Sprintf(genPrefix+"%020d", g.epoch) }

// same: two copies of one generation are the same in every byte, for a mirror is
// copied, not sealed again.
func (g *generation) same(o *generation) bool {
	return g.root == o.root && bytes.Equal(g.keys, o.keys)
}

// next is a generation one epoch later with the same keys, to be changed and sealed.
func (g *generation) next() *generation {
	return &generation{
		keyring:   g.keyring,
		epoch:     g.epoch + 1,
		live:      maps.Clone(g.live),
		destroyed: maps.Clone(g.destroyed),
	}
}

// seal draws a new root and seals the keys under it. A root seals one file, once, so
// that the random nonce can't meet itself.
func (g *generation) seal(rand io.Reader) error {
	var nonce [nonceSize]byte
	if _, err := io.ReadFull(rand, g.root[:]); err != nil {
		return fmt.Errorf("couldn't draw a root key: %w", err)
	}
	if _, err := io.ReadFull(rand, nonce[:]); err != nil {
		return fmt.Errorf("couldn't draw a nonce: %w", err)
	}
	header := make([]byte, 0, headerSize)
	header = append(header, magic...)
	header = append(header, g.keyring[:]...)
	header = binary.BigEndian.AppendUint64(header, g.epoch)
	sealed := append(bytes.Clone(header), nonce[:]...)
	g.keys = newAEAD(g.root).Seal(sealed, nonce[:], g.appendBody(nil), header)
	return nil
}

// parse is the inverse of seal: it accepts what seal can have made and nothing else.
func parse(root, keys []byte) (*generation, error) {
	g := &generation{keys: keys}
	if len(root) != len(g.root) {
		return nil, fmt.Errorf("root: %d bytes, want %d", len(root), len(g.root))
	}
	copy(g.root[:], root)
	if len(keys) < headerSize+nonceSize {
		return nil, fmt.Errorf("keys: cut short after %d bytes", len(keys))
	}
	header, nonce, body := keys[:headerSize], keys[headerSize:headerSize+nonceSize], keys[headerSize+nonceSize:]
	if !bytes.HasPrefix(header, []byte(magic[:len(magic)-1])) {
		return nil, errors.New("keys: not a key file")
	}
	if v := header[len(magic)-1]; v != magic[len(magic)-1] {
		return nil, fmt.Errorf("keys: format version %d, know only %d", v, magic[len(magic)-1])
	}
	copy(g.keyring[:], header[len(magic):])
	g.epoch = binary.BigEndian.Uint64(header[headerSize-8:])
	if g.epoch == 0 {
		return nil, errors.New("keys: epoch 0")
	}
	plain, err := newAEAD(g.root).Open(nil, nonce, body, header)
	if err != nil {
		return nil, errors.New("keys: changed or cut short, or does not belong to the file root beside it")
	}
	if err := g.parseBody(plain); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return g, nil
}

// appendBody spells out the ids in order, so that the same keys are the same bytes.
func (g *generation) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(g.live)))
	for _, id := range slices.Sorted(maps.Keys(g.live)) {
		secret := g.live[id]
		b = append(append(append(b, byte(len(id))), id...), secret[:]...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(g.destroyed)))
	for _, id := range slices.Sorted(maps.Keys(g.destroyed)) {
		b = append(append(b, byte(len(id))), id...)
	}
	return b
}

func (g *generation) parseBody(b []byte) error {
	g.live, g.destroyed = map[string][32]byte{}, map[string]bool{}
	short := func() error { return errors.New("cut short") }
	count := func() (uint32, bool) {
		if len(b) < 4 {
			return 0, false
		}
		n := binary.BigEndian.Uint32(b)
		b = b[4:]
		return n, true
	}
	last := ""
	id := func() (string, error) {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return "", short()
		}
		id := string(b[1 : 1+int(b[0])])
		b = b[1+len(id):]
		if err := shred.CheckID(id); err != nil {
			return "", err
		}
		if id <= last {
			return "", fmt.Errorf("class %q is out of order", id)
		}
		last = id
		return id, nil
	}
	n, ok := count()
	if !ok {
		return short()
	}
	for range n {
		id, err := id()
		if err != nil {
			return err
		}
		var secret [32]byte
		if len(b) < len(secret) {
			return short()
		}
		b = b[copy(secret[:], b):]
		g.live[id] = secret
	}
	n, ok = count()
	if !ok {
		return short()
	}
	last = ""
	for range n {
		id, err := id()
		if err != nil {
			return err
		}
		if _, ok := g.live[id]; ok {
			return fmt.Errorf("class %q is both live and destroyed", id)
		}
		g.destroyed[id] = true
	}
	if len(b) > 0 {
		return fmt.Errorf("%d bytes too many", len(b))
	}
	return nil
}

// parseCurrent reads the epoch that the file CURRENT names.
func parseCurrent(b []byte) (uint64, error) {
	digits, ok := strings.CutPrefix(string(b), genPrefix)
	if ok {
		digits, ok = strings.CutSuffix(digits, "\n")
	}
	epoch, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || epoch == 0 || string(b) != (&generation{epoch: epoch}).name()+"\n" {
		return 0, errors.New("does not name a generation")
	}
	return epoch, nil
}

func newAEAD(key [32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are always accepted
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}
