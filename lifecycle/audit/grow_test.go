package audit

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestGrow: in however many steps a log grows, it stores the hashes that tlog would,
// and reads none of them twice in a step.
func TestGrow(t *testing.T) {
	const most = 70
	var entries, want []tlog.Hash
	for i := range int64(most) {
		entries = append(entries, Hash([]byte{byte(i)}))
		hashes, err := tlog.StoredHashes(i, []byte{byte(i)}, tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
			for _, n := range indexes {
				out = append(out, want[n])
			}
			return out, nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, hashes...)
	}
	for from := range int64(most) {
		for to := from; to <= most; to++ {
			first, end := tlog.StoredHashCount(from), tlog.StoredHashCount(to)
			read := map[int64]bool{}
			got, err := Grow(from, entries[from:to], tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
				for _, n := range indexes {
					if read[n] || n >= first {
						t.Errorf("from %d to %d: hash %d is read, of %d", from, to, n, first)
					}
					read[n] = true
					out = append(out, want[n])
				}
				return out, nil
			}))
			if err != nil || !slices.Equal(got, want[first:end]) {
				t.Errorf("from %d to %d: %d hashes, %v, want %d", from, to, len(got), err, end-first)
			}
		}
	}
	gone := errors.New("it is gone")
	if _, err := Grow(1, entries[1:2], tlog.HashReaderFunc(func([]int64) ([]tlog.Hash, error) { return nil, gone })); !errors.Is(err, gone) {
		t.Error(err)
	}
}
