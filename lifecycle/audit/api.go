package audit

import (
	"context"
	"errors"
	"io/fs"
	"iter"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The signatures that others build on; each is to be written in a file of its own.

var errTODO = errors.New("not yet")

// ParseEntry reads an entry's bytes, strictly: what Marshal would not have written is
// refused. A detached body is left nil. ErrEntry.
func ParseEntry(entry []byte) (Entry, error) { return Entry{}, errTODO }

// Checkpoint is a log's head.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

// Sign gives the checkpoint as a signed note (C2SP tlog-checkpoint), always the same bytes.
func (c Checkpoint) Sign(s note.Signer) ([]byte, error) { return nil, errTODO }

// OpenCheckpoint reads a signed note; its origin must be the verifier's name.
func OpenCheckpoint(msg []byte, v note.Verifier) (Checkpoint, error) { return Checkpoint{}, errTODO }

// Prefix begins the keys of all that a log publishes.
const Prefix = "log/"

// CheckpointPrefix begins the keys of checkpoints. The newest sorts first: one
// listing request finds it. Key: log/checkpoint/<999999999999-size, 12 digits>-<size>.
const CheckpointPrefix = Prefix + "checkpoint/"

// CheckpointKey is where the checkpoint of a size is, CheckpointSize its inverse.
func CheckpointKey(size int64) string         { return "" }
func CheckpointSize(key string) (int64, bool) { return 0, false }

// Object is one published object.
type Object struct {
	Key   string
	Bytes []byte
}

// Objects yields what a tree of the size has beyond one of the size old (0 is
// nothing): hash tiles, entry bundles, detached bodies, full and partial ones, all
// but the checkpoint. entries gives the bytes and the detached bodies (nil where
// inline) of from <= index < to.
func Objects(old, size int64, hashes tlog.HashReader, entries func(from, to int64) (entries, detached [][]byte, err error)) iter.Seq2[Object, error] {
	return nil
}

// Source reads published objects. fs.ErrNotExist (wrapped) where there is none.
type Source interface {
	Read(ctx context.Context, key string) ([]byte, error)
}

// Dir is a Source: a folder, such as Export writes, with log/ as its root.
func Dir(f fs.FS) Source { return nil }

// Log is a published log under one checkpoint. All that it gives back was proved to
// be in that tree.
type Log struct{ Checkpoint }

// Open opens the log under a checkpoint that the caller has authenticated.
func Open(src Source, c Checkpoint) *Log { return nil }

// Entries yields the entries with from <= index < to, with their bodies, each
// proved against the checkpoint.
func (l *Log) Entries(ctx context.Context, from, to int64) iter.Seq2[Entry, error] { return nil }

// Hashes is the log's tlog.HashReader; what it reads was proved.
func (l *Log) Hashes(ctx context.Context) tlog.HashReader { return nil }
