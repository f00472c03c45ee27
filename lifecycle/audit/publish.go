package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"
)

// Object is one published object.
type Object struct {
	Key   string
	Bytes []byte
}

// Objects yields what a tree of the size has beyond one of the size old (0 is
// nothing): hash tiles, entry bundles, detached bodies, full and partial ones, all
// but the checkpoint. entries gives the bytes and the detached bodies (nil where
// inline) of from <= index < to.
//
// What an object refers to comes before it, so that what has been published is sound
// wherever publishing stopped. Published is for good, so entries that are not those
// of the tree, or that ParseEntry would refuse, end it with an error. The same body
// may come twice.
func Objects(old, size int64, hashes tlog.HashReader, entries func(from, to int64) (entries, detached [][]byte, err error)) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for _, t := range tlog.NewTiles(height, old, size) {
			data, err := tlog.ReadTileData(t, hashes)
			if err != nil {
				yield(Object{}, fmt.Errorf("couldn't read the hashes of %s: %w", tileKey(t), err))
				return
			}
			if t.L == 0 {
				below, err := entryObjects(old, t, data, entries)
				if err != nil {
					yield(Object{}, err)
					return
				}
				for _, o := range below {
					if !yield(o, nil) {
						return
					}
				}
			}
			if !yield(Object{tileKey(t), data}, nil) {
				return
			}
		}
	}
}

// entryObjects are the bodies and the bundle of the entries under a tile.
func entryObjects(old int64, t tlog.Tile, data []byte, entries func(from, to int64) (entries, detached [][]byte, err error)) ([]Object, error) {
	from := first(t)
	to := from + int64(t.W)
	raw, detached, err := entries(from, to)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the entries from %d to %d: %w", from, to, err)
	}
	if len(raw) != t.W || len(detached) != t.W {
		return nil, fmt.Errorf("entries from %d to %d: got %d, and %d bodies", from, to, len(raw), len(detached))
	}
	var out []Object
	for i, b := range raw {
		if Hash(b) != hashAt(data, i) {
			return nil, fmt.Errorf("entry %d is not the one that is in the tree", from+int64(i))
		}
		e, err := ParseEntry(b)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", from+int64(i), err)
		}
		if from+int64(i) < old || e.BodySHA256 == "" {
			continue
		}
		if sum := sha256.Sum256(detached[i]); hex.EncodeToString(sum[:]) != e.BodySHA256 {
			return nil, fmt.Errorf("the body of entry %d has not the checksum that the entry tells", from+int64(i))
		}
		out = append(out, Object{bodyKey(e.BodySHA256), detached[i]})
	}
	t.L = bundles
	joined, err := bundle(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't make %s: %w", tileKey(t), err)
	}
	return append(out, Object{tileKey(t), joined}), nil
}
