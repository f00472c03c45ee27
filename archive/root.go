package archive

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"
)

// Root is the RFC 6962 Merkle tree hash over a segment's checksums in the order
// of its lines: the leaf hash of a checksum is SHA-256(0x00 || its 32 bytes), a
// node SHA-256(0x01 || left || right). Root of nothing is SHA-256 of nothing.
func Root(checksums [][32]byte) [32]byte {
	var t Tree
	for _, sum := range checksums {
		t.Add(sum)
	}
	return t.Root()
}

// A Tree computes a Merkle tree hash in one pass. It keeps the roots of the
// perfect subtrees so far, one for each bit set in n, widest first.
type Tree struct {
	n        uint64
	subtrees []tlog.Hash
}

// Add adds the next checksum.
func (t *Tree) Add(checksum [32]byte) {
	h := tlog.RecordHash(checksum[:])
	for bit := t.n; bit&1 == 1; bit >>= 1 {
		last := len(t.subtrees) - 1
		h = tlog.NodeHash(t.subtrees[last], h)
		t.subtrees = t.subtrees[:last]
	}
	t.subtrees = append(t.subtrees, h)
	t.n++
}

// Root is the Merkle tree hash of what was added so far.
func (t *Tree) Root() [32]byte {
	if t.n == 0 {
		return sha256.Sum256(nil)
	}
	last := len(t.subtrees) - 1
	h := t.subtrees[last]
	for i := last - 1; i >= 0; i-- {
		h = tlog.NodeHash(t.subtrees[i], h)
	}
	return h
}
