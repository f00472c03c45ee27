package audit

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Proof proves that an entry is in a log, to whoever has the log's public key.
type Proof struct {
	Index int64  `json:"index"`
	Entry []byte `json:"entry"`
	// Body is the entry's detached body, if it has one.
	Body []byte           `json:"body,omitempty"`
	Path tlog.RecordProof `json:"path"`
	// Checkpoint is the signed note.
	Checkpoint string `json:"checkpoint"`
}

// Prove makes the proof of one entry, under the log's checkpoint as it was published.
func Prove(ctx context.Context, l *Log, index int64) (Proof, error) {
	e, raw, err := l.entry(ctx, index)
	if err != nil {
		return Proof{}, err
	}
	p := Proof{Index: index, Entry: raw}
	if e.BodySHA256 != "" {
		p.Body = e.Body
	}
	if p.Path, err = tlog.ProveRecord(l.Size, index, l.Hashes(ctx)); err != nil {
		return Proof{}, err
	}
	msg, err := l.src.Read(ctx, CheckpointKey(l.Size))
	if err != nil {
		return Proof{}, fmt.Errorf("couldn't read the checkpoint of size %d: %w", l.Size, err)
	}
	p.Checkpoint = string(msg)
	return p, nil
}

// Check gives the entry, with its body, if the proof holds.
func (p Proof) Check(v note.Verifier) (Entry, error) {
	c, err := OpenCheckpoint([]byte(p.Checkpoint), v)
	if err != nil {
		return Entry{}, err
	}
	if err := tlog.CheckRecord(p.Path, c.Size, c.Root, p.Index, Hash(p.Entry)); err != nil {
		return Entry{}, fmt.Errorf("entry %d in a tree of size %d: %w", p.Index, c.Size, err)
	}
	e, err := ParseEntry(p.Entry)
	if err != nil {
		return Entry{}, fmt.Errorf("entry %d: %w", p.Index, err)
	}
	switch {
	case e.BodySHA256 == "" && p.Body != nil:
		return Entry{}, fmt.Errorf("entry %d: its body is inline, and another is beside it", p.Index)
	case p.Body != nil:
		if err := e.attach(p.Entry, p.Body); err != nil {
			return Entry{}, fmt.Errorf("entry %d: %w", p.Index, err)
		}
	}
	return e, nil
}

// BatchProof proves that a row is among those over which an entry has a Merkle root.
type BatchProof struct {
	Index int64            `json:"index"`
	Size  int64            `json:"size"`
	Path  tlog.RecordProof `json:"path"`
}

// ProveBatch makes the proof for the row with index i.
func ProveBatch(rows [][32]byte, i int) (BatchProof, error) {
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	for n, row := range rows {
		hashes, err := tlog.StoredHashes(int64(n), row[:], read)
		if err != nil {
			return BatchProof{}, err
		}
		stored = append(stored, hashes...)
	}
	path, err := tlog.ProveRecord(int64(len(rows)), int64(i), read)
	if err != nil {
		return BatchProof{}, fmt.Errorf("row %d of %d: %w", i, len(rows), err)
	}
	return BatchProof{int64(i), int64(len(rows)), path}, nil
}

// Check says whether the row is among those with the root.
func (p BatchProof) Check(row, root [32]byte) error {
	if err := tlog.CheckRecord(p.Path, p.Size, root, p.Index, tlog.RecordHash(row[:])); err != nil {
		return fmt.Errorf("row %d of %d: %w", p.Index, p.Size, err)
	}
	return nil
}

// Fork proves that a log's key has signed two trees, one of which is not the other
// gone on with.
type Fork struct {
	// Older and Newer are the signed notes.
	Older string `json:"older"`
	Newer string `json:"newer"`
	// Root is what the newer tree has where it had the older one's size, and Path
	// proves it (RFC 6962, consistency).
	Root tlog.Hash      `json:"root"`
	Path tlog.TreeProof `json:"path"`
}

// Check gives an error unless it is a fork.
func (f Fork) Check(v note.Verifier) error {
	older, err := OpenCheckpoint([]byte(f.Older), v)
	if err != nil {
		return err
	}
	newer, err := OpenCheckpoint([]byte(f.Newer), v)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(f.Path, newer.Size, newer.Root, older.Size, f.Root); err != nil {
		return fmt.Errorf("from size %d to %d: %w", older.Size, newer.Size, err)
	}
	if f.Root == older.Root {
		return fmt.Errorf("no fork: the tree of size %d goes on with that of size %d", newer.Size, older.Size)
	}
	return nil
}
