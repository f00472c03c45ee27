package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Grow gives the hashes that a log of the size stores for its next entries, by their
// leaf hashes: those with the storage indexes from tlog.StoredHashCount(size) on. It
// reads few of those that are stored, each at most once.
func Grow(size int64, entries []tlog.Hash, stored tlog.HashReader) ([]tlog.Hash, error) {
	first := tlog.StoredHashCount(size)
	var grown []tlog.Hash
	both := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		// Sorted, they are some stored ones and then some new ones.
		old := 0
		for old < len(indexes) && indexes[old] < first {
			old++
		}
		var out []tlog.Hash
		if old > 0 {
			var err error
			if out, err = stored.ReadHashes(indexes[:old]); err != nil {
				return nil, err
			}
		}
		for _, i := range indexes[old:] {
			out = append(out, grown[i-first])
		}
		return out, nil
	})
	for i, h := range entries {
		hashes, err := tlog.StoredHashesForRecordHash(size+int64(i), h, both)
		if err != nil {
			return nil, fmt.Errorf("couldn't hash entry %d of the log: %w", size+int64(i), err)
		}
		grown = append(grown, hashes...)
	}
	return grown, nil
}
