package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Prefix begins the keys of all that a log publishes.
const Prefix = "log/"

// C2SP tlog-tiles has tiles of one height.
const (
	height = 8
	width  = 1 << height
)

// bundles is the level of entry bundles, in tlog's terms.
const bundles = -1

// widest is the tile at a place in a tree of the size. Its width is 0 or less if the
// tree does not reach there.
func widest(level int, n, size int64) tlog.Tile {
	return tlog.Tile{H: height, L: level, N: n, W: int(min(width, size>>(height*max(level, 0))-n<<height))}
}

// tileKey is where a hash tile or an entry bundle is: tlog's path, without the
// height, and with entries where that has data.
func tileKey(t tlog.Tile) string {
	path := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", t.H))
	if rest, ok := strings.CutPrefix(path, "data/"); ok {
		path = "entries/" + rest
	}
	return Prefix + "tile/" + path
}

// parseTileKey is the inverse of tileKey, as far as a log's size goes.
func parseTileKey(key string) (tlog.Tile, bool) {
	path, ok := strings.CutPrefix(key, Prefix+"tile/")
	if rest, ok := strings.CutPrefix(path, "entries/"); ok {
		path = "data/" + rest
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", height, path))
	return t, ok && err == nil && tileKey(t) == key && t.L < 5 && t.N < maxSize
}

// first is the index of the first entry under a tile, covers how many are under one
// of its hashes.
func first(t tlog.Tile) int64 { return t.N << height * covers(t.L) }

func covers(level int) int64 { return 1 << (height * max(level, 0)) }

// bodyKey is where a detached body is.
func bodyKey(sha256 string) string { return bodyPrefix + sha256 }

const bodyPrefix = Prefix + "body/"

// hashAt is a hash of a tile's data.
func hashAt(data []byte, i int) tlog.Hash { return tlog.Hash(data[i*tlog.HashSize:][:tlog.HashSize]) }

// above is the hash that stands for a full tile in the one above it.
func above(data []byte) tlog.Hash {
	if len(data) == tlog.HashSize {
		return tlog.Hash(data)
	}
	return tlog.NodeHash(above(data[:len(data)/2]), above(data[len(data)/2:]))
}

// bundle joins entries, each with its length before it in 16 bits.
func bundle(entries [][]byte) ([]byte, error) {
	var out []byte
	for _, e := range entries {
		if len(e) > 1<<16-1 {
			return nil, fmt.Errorf("an entry has %d bytes, more than 65535", len(e))
		}
		out = binary.BigEndian.AppendUint16(out, uint16(len(e)))
		out = append(out, e...)
	}
	return out, nil
}

// split is the inverse of bundle. With errBundle it gives what could be read.
func split(data []byte) (entries [][]byte, err error) {
	for len(data) > 0 {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) || len(entries) == width {
			return entries, errBundle
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		entries = append(entries, data[2:end:end])
		data = data[end:]
	}
	return entries, nil
}

var errBundle = errors.New("it is no sequence of at most 256 entries, each with its length before it")
