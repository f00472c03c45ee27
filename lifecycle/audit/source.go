package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Source reads published objects. fs.ErrNotExist (wrapped) where there is none.
type Source interface {
	Read(ctx context.Context, key string) ([]byte, error)
}

// A Lister is a Source that can tell which objects it has.
type Lister interface {
	Source
	Keys(ctx context.Context) iter.Seq2[string, error]
}

// Dir is a Source, and a Lister: a folder, such as Export writes, with log/ as its
// root. Tiles and bodies are where their keys say; the checkpoint of a size is
// checkpoints/<size>, since the file checkpoint is where public tools read the newest.
func Dir(f fs.FS) Source { return dir{f} }

type dir struct{ fs.FS }

// What an export has that is no object of the log.
const (
	newestFile = "checkpoint"
	olderDir   = "checkpoints"
	publicFile = "log.pub"
	readmeFile = "README.txt"
	formatFile = "log-format.md"
)

// fileOf is where an export has the object with the key.
func fileOf(key string) string {
	if size, ok := CheckpointSize(key); ok {
		return path.Join(olderDir, strconv.FormatInt(size, 10))
	}
	return strings.TrimPrefix(key, Prefix)
}

func (d dir) Read(_ context.Context, key string) ([]byte, error) { return fs.ReadFile(d, fileOf(key)) }

func (d dir) Keys(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := fs.WalkDir(d, ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if e.IsDir() || slices.Contains([]string{newestFile, publicFile, readmeFile, formatFile}, name) {
				return nil
			}
			key := Prefix + name
			if size, err := strconv.ParseInt(path.Base(name), 10, 64); err == nil && fileOf(CheckpointKey(size)) == name {
				key = CheckpointKey(size)
			}
			if !yield(key, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield("", err)
		}
	}
}

// Checkpoints reads the signed notes of a folder such as Export writes: the newest
// first, then those beside it.
func Checkpoints(f fs.FS) ([][]byte, error) {
	newest, err := fs.ReadFile(f, newestFile)
	if err != nil {
		return nil, err
	}
	older, err := fs.ReadDir(f, olderDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := [][]byte{newest}
	for _, e := range older {
		msg, err := fs.ReadFile(f, path.Join(olderDir, e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, msg)
	}
	return out, nil
}

// readTile reads a tile, or a wider one at its place, which a log that has grown may
// have instead. It gives the bytes as they are and the width that they were kept by.
func readTile(ctx context.Context, src Source, t tlog.Tile) ([]byte, tlog.Tile, error) {
	data, err := src.Read(ctx, tileKey(t))
	for w := width; errors.Is(err, fs.ErrNotExist) && w > t.W; w-- {
		var wider error
		at := t
		at.W = w
		if data, wider = src.Read(ctx, tileKey(at)); wider == nil {
			return data, at, nil
		} else if !errors.Is(wider, fs.ErrNotExist) {
			return nil, t, fmt.Errorf("couldn't read %s: %w", tileKey(at), wider)
		}
	}
	if err != nil {
		return nil, t, fmt.Errorf("couldn't read %s: %w", tileKey(t), err)
	}
	return data, t, nil
}

// readHashes reads a hash tile's data.
func readHashes(ctx context.Context, src Source, t tlog.Tile) ([]byte, error) {
	data, at, err := readTile(ctx, src, t)
	if err != nil {
		return nil, err
	}
	if len(data) != at.W*tlog.HashSize {
		return nil, &Damage{tileKey(at), first(t), fmt.Sprintf("%d bytes, where %d hashes have %d", len(data), at.W, at.W*tlog.HashSize)}
	}
	return data[:t.W*tlog.HashSize], nil
}

// readBundle reads an entry bundle. With a Damage it gives the entries that could be
// read.
func readBundle(ctx context.Context, src Source, t tlog.Tile) ([][]byte, error) {
	data, at, err := readTile(ctx, src, t)
	if err != nil {
		return nil, err
	}
	entries, err := split(data)
	if err != nil {
		err = &Damage{tileKey(at), first(t) + int64(len(entries)), err.Error()}
	} else if len(entries) != at.W {
		err = &Damage{tileKey(at), first(t) + int64(min(len(entries), at.W)), fmt.Sprintf("%d entries, where %d should be", len(entries), at.W)}
	}
	return entries[:min(len(entries), t.W)], err
}
