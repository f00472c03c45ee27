package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What a Finding may be about.
const (
	// FoundSignature: a note that the log's key has not signed, or no checkpoint.
	FoundSignature = "signature"
	// FoundFork: two checkpoints that the key has signed contradict each other.
	FoundFork = "fork"
	// FoundRoot: the objects do not make the root that a checkpoint has.
	FoundRoot = "root"
	// FoundTile: a hash tile is not what the tree has.
	FoundTile = "tile"
	// FoundEntry: an entry, or a bundle of them, is not what the tree has.
	FoundEntry = "entry"
	// FoundBody: a detached body is not what its entry says.
	FoundBody = "body"
	// FoundMissing: there is no such object.
	FoundMissing = "missing"
	// FoundUnknown: an object that the log does not have.
	FoundUnknown = "unknown"
)

// Finding is one thing that is not as it must be.
type Finding struct {
	Kind string `json:"kind"`
	Key  string `json:"key"` // of the object concerned
	// Index is of the first entry concerned, -1 where none is: of the entries from
	// there on, Count are.
	Index  int64  `json:"index"`
	Count  int64  `json:"count"`
	Detail string `json:"detail"`
	Fork   *Fork  `json:"fork,omitempty"`
}

// Report is what Verify found.
type Report struct {
	Origin string `json:"origin"`
	// Size and Root are of the newest checkpoint that the key has signed.
	Size int64     `json:"size"`
	Root tlog.Hash `json:"root"`
	// Checkpoints, Entries, Tiles and Bodies count what is right.
	Checkpoints int       `json:"checkpoints"`
	Entries     int64     `json:"entries"`
	Tiles       int64     `json:"tiles"`
	Bodies      int64     `json:"bodies"`
	Findings    []Finding `json:"findings"`
	// Incomplete: there were too many findings to go on.
	Incomplete bool `json:"incomplete"`
}

// maxFindings is where Verify gives up: it bounds its memory.
const maxFindings = 1000

// Verify checks everything, with no more than the log's public key: each
// checkpoint's signature, that the newest goes on with each of the others, every
// hash tile by the entries, every entry, and every detached body. If the source is a
// Lister, then also that it has nothing else. What it finds is in the report; an
// error means that it could not look, and that the report ends there.
func Verify(ctx context.Context, src Source, checkpoints [][]byte, v note.Verifier) (Report, error) {
	c := &check{mended: mended{src, map[string][]byte{}}, bodies: map[string]bool{}, report: Report{Origin: v.Name(), Findings: []Finding{}}}
	heads := c.signatures(checkpoints, v)
	if len(heads) == 0 {
		return c.report, nil
	}
	c.log = Open(c.mended, heads[0].Checkpoint)
	c.report.Size, c.report.Root = c.log.Size, c.log.Root
	for _, step := range []func(context.Context, []head) error{c.tree, c.history, c.others} {
		if err := step(ctx, heads); err != nil || c.report.Incomplete {
			return c.report, err
		}
	}
	return c.report, nil
}

// head is a checkpoint with its note.
type head struct {
	Checkpoint
	msg string
}

type check struct {
	log    *Log
	mended mended
	// levels are the hashes of the tile that is being computed, level by level; a
	// zero hash is not known.
	levels [][]tlog.Hash
	bodies map[string]bool // that entries refer to
	unread bool            // there are entries of which that is not known
	report Report
}

// mended is a Source with the damaged and missing tiles that could be computed from
// the entries, so that what they stand over can be proved.
type mended struct {
	Source
	tiles map[string][]byte
}

func (m mended) Read(ctx context.Context, key string) ([]byte, error) {
	if data := m.tiles[key]; data != nil {
		return data, nil
	}
	return m.Source.Read(ctx, key)
}

func (c *check) find(f Finding) {
	if len(c.report.Findings) == maxFindings {
		c.report.Incomplete = true
		return
	}
	c.report.Findings = append(c.report.Findings, f)
}

// found makes a finding of damage or absence, and gives any other error back.
func (c *check) found(err error, kind, key string, index, count int64) error {
	var d *Damage
	switch {
	case errors.As(err, &d):
		c.find(Finding{Kind: kind, Key: d.Key, Index: d.Index, Count: index + count - d.Index, Detail: d.What})
	case errors.Is(err, fs.ErrNotExist):
		c.find(Finding{Kind: FoundMissing, Key: key, Index: index, Count: count, Detail: "there is no such object"})
	default:
		return err
	}
	return nil
}

// signatures opens the notes, and gives those that are checkpoints of this log, the
// newest first.
func (c *check) signatures(checkpoints [][]byte, v note.Verifier) (heads []head) {
	seen := map[string]bool{}
	for i, msg := range checkpoints {
		if seen[string(msg)] {
			continue
		}
		seen[string(msg)] = true
		opened, err := OpenCheckpoint(msg, v)
		if err == nil {
			heads = append(heads, head{opened, string(msg)})
			continue
		}
		f := Finding{Kind: FoundSignature, Index: -1, Detail: fmt.Sprintf("of the checkpoints given, number %d: %v", i+1, err)}
		// Which one it would be, for all that an unsigned text is worth.
		if text, _, ok := bytes.Cut(msg, []byte("\n\n")); ok {
			if said, err := parseCheckpoint(string(text) + "\n"); err == nil {
				f.Key = CheckpointKey(said.Size)
			}
		}
		c.find(f)
	}
	slices.SortStableFunc(heads, func(a, b head) int { return cmp.Compare(b.Size, a.Size) })
	return heads
}

// tree computes the tree from the entries, a bundle at a time, and compares each tile.
func (c *check) tree(ctx context.Context, _ []head) error {
	size := c.log.Size
	for n := int64(0); n<<height < size; n++ {
		at := widest(bundles, n, size)
		entries, err := readBundle(ctx, c.mended, at)
		if err != nil {
			if err := c.found(err, FoundEntry, tileKey(at), first(at), int64(at.W)); err != nil {
				return err
			}
		}
		computed := make([]tlog.Hash, at.W)
		for i, e := range entries {
			computed[i] = Hash(e)
		}
		hashes, err := c.tile(ctx, 0, n, slices.Clone(computed))
		if err != nil {
			return err
		}
		c.unread = c.unread || !slices.Equal(computed, hashes)
		for i, e := range entries {
			if computed[i] != hashes[i] {
				continue
			}
			if err := c.entry(ctx, at, first(at)+int64(i), e); err != nil {
				return err
			}
		}
		if c.report.Incomplete {
			return nil
		}
	}
	for level := 1; level < len(c.levels); level++ {
		if rest := c.levels[level]; len(rest) > 0 {
			if _, err := c.tile(ctx, level, size>>(height*level)>>height, rest); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry checks an entry whose hash was right.
func (c *check) entry(ctx context.Context, at tlog.Tile, index int64, raw []byte) error {
	e, err := readEntry(ctx, c.mended, at, index, raw)
	if err == nil {
		c.report.Entries++
		if e.BodySHA256 != "" {
			c.report.Bodies++
			c.bodies[bodyKey(e.BodySHA256)] = true
		}
		return nil
	}
	kind, key := FoundEntry, tileKey(at)
	if e, parsed := ParseEntry(raw); parsed == nil {
		kind, key = FoundBody, bodyKey(e.BodySHA256)
		c.bodies[key] = true
	}
	return c.found(err, kind, key, index, 1)
}

// tile compares a tile with what was computed, decides which of the two is right,
// and goes on with that, upwards.
func (c *check) tile(ctx context.Context, level int, n int64, hashes []tlog.Hash) ([]tlog.Hash, error) {
	t := widest(level, n, c.log.Size)
	computed, known := make([]byte, 0, len(hashes)*tlog.HashSize), true
	for _, h := range hashes {
		computed = append(computed, h[:]...)
		known = known && h != tlog.Hash{}
	}
	covered := int64(t.W) * covers(level)
	kept, err := readHashes(ctx, c.mended, t)
	if err != nil {
		if err := c.found(err, FoundTile, tileKey(t), first(t), covered); err != nil {
			return nil, err
		}
		if known {
			c.mended.tiles[tileKey(t)] = computed
		}
	} else if err := c.compare(ctx, t, kept, computed, hashes, known); err != nil {
		return nil, err
	}
	if t.W < width {
		return hashes, nil
	}
	if len(c.levels) < level+2 {
		c.levels = append(c.levels, make([][]tlog.Hash, level+2-len(c.levels))...)
	}
	var up tlog.Hash
	if !slices.Contains(hashes, tlog.Hash{}) {
		for i, h := range hashes {
			copy(computed[i*tlog.HashSize:], h[:])
		}
		up = above(computed)
	}
	c.levels[level+1] = append(c.levels[level+1], up)
	if len(c.levels[level+1]) == width {
		full := c.levels[level+1]
		c.levels[level+1] = nil
		if _, err := c.tile(ctx, level+1, n>>height, full); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

// compare compares a tile as it was kept with what was computed of it, and leaves in
// hashes what is right.
func (c *check) compare(ctx context.Context, t tlog.Tile, kept, computed []byte, hashes []tlog.Hash, known bool) error {
	differs := func(i int) bool { return hashes[i] != tlog.Hash{} && hashes[i] != hashAt(kept, i) }
	same := true
	for i := range hashes {
		same = same && !differs(i)
	}
	if same {
		c.report.Tiles++
		for i := range hashes {
			hashes[i] = hashAt(kept, i)
		}
		return nil
	}
	proved := c.log.prove(ctx, t, kept)
	if err := unprovable(proved); err != nil {
		return err
	}
	kind, key, detail := FoundTile, tileKey(t), "it is not what the entries make, and neither can be proved, since what is above them does not fit the checkpoint either"
	switch {
	case proved == nil:
		c.report.Tiles++
	case known:
		err := c.log.prove(ctx, t, computed)
		if err := unprovable(err); err != nil {
			return err
		}
		if err == nil {
			detail = "it is not what the entries make, which fit the checkpoint"
			c.mended.tiles[tileKey(t)] = computed
		}
	}
	each := covers(t.L)
	for i := 0; i < len(hashes); {
		run := 0
		for i+run < len(hashes) && differs(i+run) {
			run++
		}
		if run == 0 {
			i++
			continue
		}
		if proved == nil && t.L == 0 {
			kind, key, detail = FoundEntry, tileKey(widest(bundles, t.N, c.log.Size)), "the entry has not the hash that the tree has"
		} else if proved == nil {
			run = 1 // each is a tile of its own
			below := widest(t.L-1, t.N<<height+int64(i), c.log.Size)
			key, detail = tileKey(below), "it fits the entries under it, and neither is what the tree has"
		}
		c.find(Finding{Kind: kind, Key: key, Index: first(t) + int64(i)*each, Count: int64(run) * each, Detail: detail})
		i += run
	}
	if proved == nil {
		for i := range hashes {
			hashes[i] = hashAt(kept, i)
		}
	}
	return nil
}

// unprovable gives an error back unless it says that something does not fit or is
// not there, which is known then or will be found where it is.
func unprovable(err error) error {
	var d *Damage
	if errors.As(err, &d) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// history checks that the tree has the newest root, and was what each older
// checkpoint says.
func (c *check) history(ctx context.Context, heads []head) error {
	newest := heads[0]
	_, err := tlog.TreeHash(newest.Size, c.log.Hashes(ctx))
	if other := unprovable(err); other != nil {
		return other
	}
	if err != nil {
		c.find(Finding{Kind: FoundRoot, Key: CheckpointKey(newest.Size), Index: -1, Detail: err.Error()})
		return c.each(ctx, heads[1:])
	}
	c.report.Checkpoints++
	for _, h := range heads[1:] {
		root, err := tlog.TreeHash(h.Size, c.log.Hashes(ctx))
		switch {
		case unprovable(err) != nil:
			return err
		case err != nil:
			c.find(Finding{Kind: FoundRoot, Key: CheckpointKey(h.Size), Index: -1, Detail: err.Error()})
		case root == h.Root:
			c.report.Checkpoints++
		default:
			path, err := tlog.ProveTree(newest.Size, h.Size, c.log.Hashes(ctx))
			if err := unprovable(err); err != nil {
				return err
			}
			f := Finding{Kind: FoundFork, Key: CheckpointKey(h.Size), Index: -1,
				Detail: fmt.Sprintf("the newest tree, of size %d, had the root %s at size %d, and the checkpoint of that size has %s", newest.Size, root, h.Size, h.Root)}
			if err == nil {
				f.Fork = &Fork{h.msg, newest.msg, root, path}
			}
			c.find(f)
		}
	}
	return nil
}

// each checks the older checkpoints by themselves, where the newest does not fit.
func (c *check) each(ctx context.Context, heads []head) error {
	for _, h := range heads {
		_, err := tlog.TreeHash(h.Size, Open(c.mended, h.Checkpoint).Hashes(ctx))
		switch {
		case unprovable(err) != nil:
			return err
		case err != nil:
			c.find(Finding{Kind: FoundRoot, Key: CheckpointKey(h.Size), Index: -1, Detail: err.Error()})
		default:
			c.report.Checkpoints++
		}
	}
	return nil
}

// others looks at all there is besides what a log of this size needs: partial tiles
// of earlier sizes have to fit, anything else does not belong here.
func (c *check) others(ctx context.Context, heads []head) error {
	src, ok := c.mended.Source.(Lister)
	if !ok {
		return nil
	}
	for key, err := range src.Keys(ctx) {
		if err != nil {
			return fmt.Errorf("couldn't list the objects: %w", err)
		}
		t, isTile := parseTileKey(key)
		size, isCheckpoint := CheckpointSize(key)
		switch {
		case isTile && t.W <= widest(t.L, t.N, c.log.Size).W:
			if err := c.partial(ctx, src, t); err != nil {
				return err
			}
		case isTile:
			c.find(Finding{Kind: FoundUnknown, Key: key, Index: first(t), Count: int64(t.W) * covers(t.L), Detail: "it has entries that are not under the newest checkpoint"})
		case isCheckpoint && slices.ContainsFunc(heads, func(h head) bool { return h.Size == size }),
			strings.HasPrefix(key, bodyPrefix) && (c.bodies[key] || c.unread):
		default:
			c.find(Finding{Kind: FoundUnknown, Key: key, Index: -1, Detail: "nothing in the log refers to it"})
		}
	}
	return nil
}

// partial checks a tile or bundle that was not read, because it was published for an
// earlier size.
func (c *check) partial(ctx context.Context, src Source, t tlog.Tile) error {
	if t.W == widest(t.L, t.N, c.log.Size).W {
		return nil
	}
	hashes, err := c.log.tile(ctx, widest(max(t.L, 0), t.N, c.log.Size))
	if err != nil {
		return unprovable(err) // it has been found
	}
	kind, got := FoundTile, []byte(nil)
	if t.L == bundles {
		kind = FoundEntry
		entries, err := readBundle(ctx, src, t)
		if err != nil {
			return c.found(err, kind, tileKey(t), first(t), int64(t.W))
		}
		for _, e := range entries {
			h := Hash(e)
			got = append(got, h[:]...)
		}
	} else if got, err = readHashes(ctx, src, t); err != nil {
		return c.found(err, kind, tileKey(t), first(t), int64(t.W)*covers(t.L))
	}
	for i := range t.W {
		if hashAt(got, i) != hashAt(hashes, i) {
			c.find(Finding{Kind: kind, Key: tileKey(t), Index: first(t) + int64(i)*covers(t.L), Count: covers(t.L), Detail: "it is not what the tree has"})
		}
	}
	return nil
}
