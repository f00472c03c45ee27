package audit

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

//go:embed log-format.md
var logFormat string

// Export writes a log into a folder that verifies offline, with public tools too:
// all objects of the log, each proved, the signed notes of its checkpoint and of
// older ones by size, the public key, and how to verify it. Older checkpoints are
// written as they are, whether they fit or not: that is for who verifies to find.
// The folder must be empty or not there yet. The file checkpoint is written last.
func Export(ctx context.Context, l *Log, dst string, checkpoint []byte, older map[int64][]byte, public string) error {
	v, err := note.NewVerifier(public)
	if err != nil {
		return fmt.Errorf("couldn't read the log's public key: %w", err)
	}
	if c, err := OpenCheckpoint(checkpoint, v); err != nil {
		return err
	} else if c != l.Checkpoint {
		return fmt.Errorf("%w: its size is %d, the log's %d, or it has another root", ErrCheckpoint, c.Size, l.Size)
	}
	if err := os.MkdirAll(dst, 0o700); err != nil {
		return err
	}
	if there, err := os.ReadDir(dst); err != nil {
		return err
	} else if len(there) > 0 {
		return fmt.Errorf("couldn't export into %s: it is not empty", dst)
	}
	write := func(name string, b []byte) error {
		name = filepath.Join(dst, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		return os.WriteFile(name, b, 0o600)
	}
	for o, err := range Objects(0, l.Size, l.Hashes(ctx), func(from, to int64) (entries, detached [][]byte, err error) {
		for i := from; i < to; i++ {
			e, raw, err := l.entry(ctx, i)
			if err != nil {
				return nil, nil, err
			}
			entries = append(entries, raw)
			if e.BodySHA256 == "" {
				e.Body = nil
			}
			detached = append(detached, e.Body)
		}
		return entries, detached, nil
	}) {
		if err != nil {
			return err
		}
		if err := write(fileOf(o.Key), o.Bytes); err != nil {
			return err
		}
	}
	for size, msg := range older {
		if err := write(fileOf(CheckpointKey(size)), msg); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{
		{fileOf(CheckpointKey(l.Size)), checkpoint},
		{publicFile, []byte(public + "\n")},
		{formatFile, []byte(logFormat)},
		{readmeFile, []byte(strings.ReplaceAll(readme, "ORIGIN", l.Origin))},
		{newestFile, checkpoint},
	} {
		if err := write(f.name, f.b); err != nil {
			return err
		}
	}
	return nil
}

const readme = `The audit log ORIGIN of Lotkeeper, in the layout of C2SP tlog-tiles
(https://c2sp.org/tlog-tiles). log-format.md says what is in it.

1. The key. All that follows is worth as much as log.pub. Compare it, character by
   character, with the key that you were given when the log was set up or at an
   earlier audit, by a way that is not this folder. Compare checkpoint too with
   those that you have from earlier: see 4.

2. The tree, with tessera's fsck, which needs Go:

       go install github.com/transparency-dev/tessera/cmd/fsck@v1.0.4
       fsck --storage_url="file://$PWD/" --public_key=log.pub --N=8 --ui=false

   It checks the signature of checkpoint, computes every hash from the entries, and
   compares. The log is right only if it says "Successfully fsck'd log". It says "fsck
   failed" if not, and its exit status is 0 in both cases. Version 1.0.4 never ends
   if it finds as many damaged tiles as N says, and more tiles are to come.

3. Bodies of entries that are too long for a bundle, if there is a folder body. The
   name of each is its SHA-256, and its entry in tile/entries has it as body_sha256:

       cd body && for f in *; do echo "$f  $f"; done | sha256sum --check --quiet

4. Checkpoints of earlier sizes are in checkpoints/, by their size. Each is a signed
   note: golang.org/x/mod/sumdb/note reads it with the key in log.pub, and
   golang.org/x/mod/sumdb/tlog computes from the tiles the root that the tree had at
   its size (TreeHash). If the two roots are not the same, then the log was forked:
   the two notes prove it, together with the tiles.
`
