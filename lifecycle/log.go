package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// The audit trail is a transparency log: its leaves are the entries of a Merkle
// tree, whose head is signed with a key that is not in the database, and put into
// the vaults under lock. Whoever rewrites the database later, as its owner, cannot
// make it agree with what is locked there.

// LogPublication is how far one vault is with the log. Its JSON names are a promise.
type LogPublication struct {
	Vault string `json:"vault"`
	// Size is that of the newest checkpoint which the vault has confirmed.
	Size int64 `json:"size"`
	// Problem is why it is not the whole log.
	Problem string `json:"problem"`
}

// Publication is what publishing the log came to. Its JSON names are a promise.
type Publication struct {
	Size   int64            `json:"size"`
	Root   string           `json:"root_sha256"`
	Vaults []LogPublication `json:"vaults"`
}

// Confirmed counts the vaults that have all of it.
func (p Publication) Confirmed() (n int) {
	for _, v := range p.Vaults {
		if v.Size == p.Size && v.Problem == "" {
			n++
		}
	}
	return n
}

// Problems says, in one line, what kept vaults from having it.
func (p Publication) Problems() string {
	var out []string
	for _, v := range p.Vaults {
		if v.Problem != "" {
			out = append(out, fmt.Sprintf("vault %s: %s", v.Vault, v.Problem))
		}
	}
	return strings.Join(out, "; ")
}

// logVerifier is the log's public key, as the trail's first leaf names it.
func (e *Engine) logVerifier(ctx context.Context) (note.Verifier, error) {
	_, v, err := e.logKey(ctx)
	return v, err
}

// logKey is the same, with the key as text.
func (e *Engine) logKey(ctx context.Context) (string, note.Verifier, error) {
	o, err := e.origin(ctx)
	if err != nil {
		return "", nil, err
	}
	if o.LogKey == "" {
		return "", nil, &Refused{"log", "the database names no key that its log is signed with", "make a new database with this version, and ingest what this one exports"}
	}
	v, err := note.NewVerifier(o.LogKey)
	if err != nil {
		return "", nil, fmt.Errorf("couldn't read the log's key in the first leaf: %w", err)
	}
	return o.LogKey, v, nil
}

// LogKey is the public key of the log, as a note's verifier key: all that anybody needs
// to check a checkpoint, a proof or an export. It belongs in a place that whoever runs
// the database cannot change.
func (e *Engine) LogKey(ctx context.Context) (string, error) {
	key, _, err := e.logKey(ctx)
	return key, err
}

// logSigner is the signer, if it is the one whose key the database names.
func (e *Engine) logSigner(v note.Verifier) (note.Signer, error) {
	if e.LogSigner == nil {
		return nil, &Refused{"log", "this machine has no key to sign the log with", "name the file that init made as audit.key in the configuration"}
	}
	if e.LogSigner.Name() != v.Name() || e.LogSigner.KeyHash() != v.KeyHash() {
		return nil, &Refused{"log", fmt.Sprintf("the key of this machine signs for %s+%08x, and the database's log is %s+%08x",
			e.LogSigner.Name(), e.LogSigner.KeyHash(), v.Name(), v.KeyHash()), "name the file that init made as audit.key in the configuration"}
	}
	return e.LogSigner, nil
}

// checkLogKey refuses to begin what cannot end unless the log is signed on the way.
func (e *Engine) checkLogKey(ctx context.Context) error {
	v, err := e.logVerifier(ctx)
	if err == nil {
		_, err = e.logSigner(v)
	}
	return err
}

// storedHashes reads the tree that the database keeps.
func (e *Engine) storedHashes(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return e.Store.LogHashes(ctx, indexes) })
}

// Publish gives each leaf its index, signs the log's head, and puts what is new into
// every vault that takes anything, under lock, the checkpoint last. A vault that does
// not answer gets it with the next publication, and the result says so; an error if no
// vault has it. What is there already, from a publication that was cut off or made at
// the same time elsewhere, is compared and left; if it differs the log has been forked,
// which is Refused.
func (e *Engine) Publish(ctx context.Context) (Publication, error) {
	res := Publication{Vaults: []LogPublication{}}
	verifier, err := e.logVerifier(ctx)
	if err != nil {
		return res, err
	}
	signer, err := e.logSigner(verifier)
	if err != nil {
		return res, err
	}
	// What is signed is signed for good. A hold is placed also in a database that was put
	// back, and must not have that one's history signed beside the true one.
	away, err := e.compareLog(ctx)
	if err != nil {
		return res, err
	}
	info, err := e.Store.Info(ctx)
	if err != nil {
		return res, err
	}
	if res.Size, err = e.Store.Sequence(ctx); err != nil {
		return res, fmt.Errorf("couldn't give the log's leaves their index: %w", err)
	}
	// A leaf that was not queued would never be published, and nobody would miss it.
	if _, err := e.Store.LogIndex(ctx, info.NewestLeaf.ID); errors.Is(err, ErrNotFound) {
		return res, &Refused{"log", fmt.Sprintf("leaf %d is not in the log's tree: a guard of the database is gone", info.NewestLeaf.ID), "type: lotkeeper audit verify"}
	} else if err != nil {
		return res, err
	}
	root, err := tlog.TreeHash(res.Size, e.storedHashes(ctx))
	if err != nil {
		return res, fmt.Errorf("couldn't compute the log's head: %w", err)
	}
	res.Root = hexOf(root)
	checkpoint, err := audit.Checkpoint{Origin: signer.Name(), Size: res.Size, Root: root}.Sign(signer)
	if err != nil {
		return res, fmt.Errorf("couldn't sign the log's head: %w", err)
	}
	state, err := e.Store.LogState(ctx)
	if err != nil {
		return res, err
	}
	vaults, err := e.logVaults(ctx, func(r VaultRow) bool { return r.State != Retiring })
	if err != nil {
		return res, err
	}
	until, err := e.logLock(ctx)
	if err != nil {
		return res, err
	}
	res.Vaults = make([]LogPublication, len(vaults))
	errs := make([]error, len(vaults))
	var wg sync.WaitGroup
	for i, v := range vaults {
		wg.Go(func() {
			p := &res.Vaults[i]
			p.Vault, p.Size = v.Name(), state.Published[v.Name()]
			if p.Size >= res.Size {
				p.Size = res.Size
				return
			}
			err := away[v.Name()]
			if err == nil {
				err = e.publishTo(ctx, v, p.Size, res.Size, checkpoint, until)
			}
			if err != nil {
				p.Problem, errs[i] = err.Error(), fmt.Errorf("vault %s: %w", v.Name(), err)
				return
			}
			p.Size = res.Size
		})
	}
	wg.Wait()
	for _, err := range errs {
		if r, ok := IsRefused(err); ok {
			return res, r
		}
	}
	if res.Confirmed() == 0 {
		return res, fmt.Errorf("no vault has the log's newest leaves: %w", cmp.Or(errors.Join(errs...), errors.New("there is none that takes anything")))
	}
	return res, nil
}

// logVaults are the vaults of the database that are configured and whose row fits.
func (e *Engine) logVaults(ctx context.Context, fits func(VaultRow) bool) ([]archive.Vault, error) {
	rows, err := e.Store.Vaults(ctx)
	if err != nil {
		return nil, err
	}
	var out []archive.Vault
	for _, r := range rows {
		if v, err := e.vault(r.Name); err == nil && fits(r) {
			out = append(out, v)
		}
	}
	return out, nil
}

func (e *Engine) publishTo(ctx context.Context, v archive.Vault, from, size int64, checkpoint []byte, until time.Time) error {
	for o, err := range audit.Objects(from, size, e.storedHashes(ctx), e.logBytes(ctx)) {
		if err != nil {
			return fmt.Errorf("couldn't read the log: %w", err)
		}
		if err := e.putLog(ctx, v, o.Key, o.Bytes, until); err != nil {
			return err
		}
	}
	if err := e.putLog(ctx, v, audit.CheckpointKey(size), checkpoint, until); err != nil {
		return err
	}
	return e.Store.Published(ctx, v.Name(), size)
}

// logBytes reads entries, with their detached bodies, from the database.
func (e *Engine) logBytes(ctx context.Context) func(from, to int64) (entries, detached [][]byte, err error) {
	return func(from, to int64) (entries, detached [][]byte, err error) {
		leaves, err := e.Store.LogLeaves(ctx, from, to)
		if err != nil {
			return nil, nil, err
		}
		if int64(len(leaves)) != to-from {
			return nil, nil, fmt.Errorf("the log has %d of the entries %d to %d: type lotkeeper audit verify", len(leaves), from, to-1)
		}
		for i := range leaves {
			entry := leaves[i].Entry()
			b, d, err := entry.Marshal()
			if err != nil {
				return nil, nil, err
			}
			entries, detached = append(entries, b), append(detached, d)
		}
		return entries, detached, nil
	}
}

// logLock is until when what the log says today is locked: as long as the archived copy
// of a record of today lives.
func (e *Engine) logLock(ctx context.Context) (time.Time, error) {
	p, err := e.newestPolicy(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return archive.WholeSecond(p.Longest(e.Now()).Add(e.Limits.MinLock)), nil
}

func (e *Engine) putLog(ctx context.Context, v archive.Vault, key string, b []byte, until time.Time) error {
	_, err := v.Put(ctx, key, bytes.NewReader(b), archive.PutOptions{
		SHA256: sha256.Sum256(b), Size: int64(len(b)), Mode: archive.Compliance, RetainUntil: until})
	if err == nil {
		return nil
	}
	if !errors.Is(err, archive.ErrExists) {
		return fmt.Errorf("couldn't put %s: %w", key, err)
	}
	// Any version will do: somebody may have put another on top.
	for _, have := range readVersions(ctx, v, key) {
		if bytes.Equal(have, b) {
			return nil
		}
	}
	return &Refused{"log", fmt.Sprintf("vault %s has another %s than this database would put there: the log has been forked", v.Name(), key),
		"type: lotkeeper audit verify"}
}

// readVersions reads what there is under a key, the newest first. What cannot be read
// is left out.
func readVersions(ctx context.Context, v archive.Vault, key string) (out [][]byte) {
	for x, err := range v.Versions(ctx, key) {
		if err != nil || x.Key != key || x.DeleteMarker {
			continue
		}
		if b, err := readObject(ctx, v, key, x.VersionID); err == nil {
			out = append(out, b)
		}
	}
	return out
}

// maxLogObject bounds what is read of an object of the log: an entry bundle has at
// most 256 entries of 64 KiB, and a body is not much longer than what it tells of.
const maxLogObject = 256 << 20

func readObject(ctx context.Context, v archive.Vault, key, version string) ([]byte, error) {
	r, _, err := v.Get(ctx, key, version)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxLogObject))
	return b, errors.Join(err, r.Close())
}

// published is the newest checkpoint that a vault has under the log's key.
type published struct {
	audit.Checkpoint
	note []byte
}

// newestCheckpoint finds it; its size is 0 if there is none. What lies there and was
// not signed by the key is passed over, and logged.
func (e *Engine) newestCheckpoint(ctx context.Context, v archive.Vault, verifier note.Verifier) (published, error) {
	for x, err := range v.Versions(ctx, audit.CheckpointPrefix) {
		if err != nil {
			return published{}, fmt.Errorf("couldn't list the checkpoints in vault %s: %w", v.Name(), err)
		}
		size, ok := audit.CheckpointSize(x.Key)
		if !ok || x.DeleteMarker {
			continue
		}
		b, err := readObject(ctx, v, x.Key, x.VersionID)
		if err != nil {
			return published{}, fmt.Errorf("couldn't read %s in vault %s: %w", x.Key, v.Name(), err)
		}
		c, err := audit.OpenCheckpoint(b, verifier)
		if err == nil && c.Size != size {
			err = fmt.Errorf("it is of %d entries", c.Size)
		}
		if err != nil {
			e.Log.Error().Str("vault", v.Name()).Str("object", x.Key).Err(err).Msg("not a checkpoint of this log")
			continue
		}
		return published{c, b}, nil
	}
	return published{}, nil
}

// checkLog refuses a database that does not agree with the newest checkpoint in any
// vault: it was restored from a backup, or another has grown from the same beginning.
// It compares roots, not sizes: a restored database that has grown since is another
// one. A vault that cannot be asked, or lags behind, is only logged.
func (e *Engine) checkLog(ctx context.Context) error {
	_, err := e.compareLog(ctx)
	return err
}

// compareLog is checkLog, and tells which vaults could not be asked, and why.
func (e *Engine) compareLog(ctx context.Context) (away map[string]error, err error) {
	verifier, err := e.logVerifier(ctx)
	if err != nil {
		return nil, err
	}
	away = map[string]error{}
	// All that are configured: an older database does not know one that was added since.
	for _, v := range e.Vaults {
		// Others publish at the same time: what is compared with a checkpoint is read
		// after it, and what must be in the vault before.
		before, err := e.Store.LogState(ctx)
		if err != nil {
			return nil, err
		}
		newest, err := e.newestInTime(ctx, v, verifier)
		if err != nil {
			e.Log.Warn().Str("vault", v.Name()).Err(err).Msg("couldn't compare the log with this vault")
			away[v.Name()] = err
			continue
		}
		if confirmed := before.Published[v.Name()]; newest.Size < confirmed {
			e.Log.Error().Str("vault", v.Name()).Int64("confirmed", confirmed).Int64("found", newest.Size).
				Msg("a checkpoint that this vault had confirmed is not there")
		}
		after, err := e.Store.LogState(ctx)
		if err != nil {
			return nil, err
		}
		if err := e.agrees(ctx, after.Size, newest.Checkpoint, v.Name()); err != nil {
			return nil, err
		}
	}
	return away, nil
}

// newestInTime is newestCheckpoint, for no longer than a vault is waited for.
func (e *Engine) newestInTime(ctx context.Context, v archive.Vault, verifier note.Verifier) (published, error) {
	if e.Limits.VaultPatience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.Limits.VaultPatience)
		defer cancel()
	}
	return e.newestCheckpoint(ctx, v, verifier)
}

// agrees refuses a database whose log, of the size, does not begin with the checkpoint's.
func (e *Engine) agrees(ctx context.Context, size int64, c audit.Checkpoint, vault string) error {
	if c.Size == 0 {
		return nil
	}
	if c.Size > size {
		return &Refused{"log", fmt.Sprintf("the database's log has %d entries, and vault %s has a checkpoint of %d: the database is older than what is locked there", size, vault, c.Size), recoverHint}
	}
	root, err := tlog.TreeHash(c.Size, e.storedHashes(ctx))
	if err != nil {
		return fmt.Errorf("couldn't compute the log's head at %d entries: %w", c.Size, err)
	}
	if root != c.Root {
		return &Refused{"log", fmt.Sprintf("the database's log is not the one that vault %s has a checkpoint of (%d entries): it was restored from a backup and has grown since, or was changed", vault, c.Size), recoverHint}
	}
	return nil
}

const recoverHint = "see docs/backup.md; to find what differs, type: lotkeeper audit verify; to bring back what the log says, type: lotkeeper audit recover"

// publishRun publishes at the end of a run. The run is done: a fault is only logged,
// and the next publication makes it good.
func (e *Engine) publishRun(ctx context.Context) {
	if err := e.publish(context.WithoutCancel(ctx)); err != nil {
		e.Log.Error().Err(err).Msg("couldn't publish the log")
	}
}

// publishBefore publishes before something that cannot be taken back: without a vault
// that has the leaves so far under lock, it is not done.
func (e *Engine) publishBefore(ctx context.Context, what string) error {
	if err := e.publish(ctx); err != nil {
		return fmt.Errorf("couldn't publish the log before %s: %w", what, err)
	}
	return nil
}

// publish is Publish for a run, and logs which vaults lag behind.
func (e *Engine) publish(ctx context.Context) error {
	p, err := e.Publish(ctx)
	if problems := p.Problems(); err == nil && problems != "" {
		e.Log.Warn().Msg("the log is not in every vault: " + problems)
	}
	return err
}

// RowHash is what the leaf of an ingest commits to for each of its records: SHA-256 of
// the row's columns that never change, each with its length before it. The salted
// checksum is among them, so that nothing can be guessed from the hash alone.
func RowHash(r *Row, inputs []cte.Lot) [32]byte {
	b := make([]byte, 0, 512)
	length := func(b []byte, n int) []byte { return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n)) }
	text := func(s string) { b = append(length(b, len(s)), s...) }
	instant := func(t time.Time) {
		at := len(b)
		b = cte.AppendTime(length(b, 0), t)
		length(b[:at], len(b)-at-4) // in place
	}
	text(r.RecordID)
	text(r.TLC)
	text(r.TLCSource)
	text(string(r.EventType))
	instant(r.EventTimestamp)
	instant(r.CreatedOrObtainedAt)
	instant(r.PurgeNotBefore)
	text(r.Location)
	text(r.Product)
	text(strings.Join(r.Gaps, ","))
	b = append(b, r.Checksum[:]...)
	b = append(b, r.Content[:]...)
	for _, in := range lineageOf(r, inputs) {
		text(in.TLC)
		text(in.Source)
	}
	return sha256.Sum256(b)
}

// lineageOf are the inputs that are kept as lineage: those with a code, of a record
// that has one, which is another, each once, in order.
func lineageOf(r *Row, inputs []cte.Lot) []cte.Lot {
	if r.TLC == "" || len(inputs) == 0 {
		return nil
	}
	itself := cte.Lot{TLC: r.TLC, Source: r.TLCSource}
	out := slices.DeleteFunc(slices.Clone(inputs), func(l cte.Lot) bool { return l.TLC == "" || l == itself })
	slices.SortFunc(out, func(a, b cte.Lot) int {
		if c := strings.Compare(a.TLC, b.TLC); c != 0 {
			return c
		}
		return strings.Compare(a.Source, b.Source)
	})
	return slices.Compact(out)
}
