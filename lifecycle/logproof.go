package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// RecordProof proves, under one checkpoint, each step of a record's life. It holds for
// whoever has the log's public key, without the database. Its JSON names are a promise.
type RecordProof struct {
	RecordID string `json:"record_id"`
	Checksum string `json:"checksum"`
	// Checkpoint is the signed note that all steps are proved under, Vault where it is.
	Checkpoint string      `json:"checkpoint"`
	Vault      string      `json:"vault"`
	Steps      []ProofStep `json:"steps"`
	// Pending counts steps that are in no published checkpoint yet.
	Pending int `json:"pending"`
}

// ProofStep is one entry that tells of the record.
type ProofStep struct {
	Action string      `json:"action"`
	Entry  audit.Proof `json:"entry"`
	// Batch proves the record's checksum to be one of those that the entry's
	// checksum_root is over; nil where the entry names its subject itself.
	Batch *audit.BatchProof `json:"batch,omitempty"`
}

// batched says that a leaf of the action commits to records, by the root over their
// checksums.
func batched(action string) bool {
	return slices.Contains([]string{ActionIngested, ActionRescheduled, ActionArchived, ActionRearchived, ActionPurged}, action)
}

// ProveRecord proves a record's life from its ingest to the destruction of its last
// copy's key, as far as it has come. ErrNotFound.
func (e *Engine) ProveRecord(ctx context.Context, id string) (RecordProof, error) {
	r, err := e.Store.Row(ctx, id)
	if err != nil {
		return RecordProof{}, err
	}
	p := RecordProof{RecordID: id, Checksum: hexOf(r.Checksum), Steps: []ProofStep{}}
	verifier, err := e.logVerifier(ctx)
	if err != nil {
		return p, err
	}
	newest, source, err := e.newestOfAll(ctx, verifier)
	if err != nil {
		return p, err
	}
	if newest.Size == 0 {
		return p, &Refused{"log", "no vault has a checkpoint yet, so there is nothing to prove it with", "type: lotkeeper audit checkpoint"}
	}
	p.Checkpoint, p.Vault = string(newest.note), source.Name()
	leaves, err := e.storyOf(ctx, &r)
	if err != nil {
		return p, err
	}
	log := audit.Open(source, newest.Checkpoint)
	for i := range leaves {
		l := &leaves[i]
		if l.Index < 0 || l.Index >= newest.Size {
			p.Pending++
			continue
		}
		step := ProofStep{Action: l.Action}
		if step.Entry, err = audit.Prove(ctx, log, l.Index); err != nil {
			return p, fmt.Errorf("couldn't prove entry %d: %w", l.Index, err)
		}
		if batched(l.Action) {
			if step.Batch, err = e.batchProof(ctx, l, id); err != nil {
				return p, err
			}
		}
		p.Steps = append(p.Steps, step)
	}
	return p, nil
}

// storyOf lists the leaves that tell of a record: its own, those of its segment, and
// those of the end of each class that its DEK was wrapped under, as the leaves say.
func (e *Engine) storyOf(ctx context.Context, r *Row) ([]Leaf, error) {
	leaves, err := e.Store.RecordLeaves(ctx, r.Seq)
	if err != nil {
		return nil, err
	}
	var segments []string
	for _, l := range leaves {
		if l.Action == ActionArchived || l.Action == ActionRearchived {
			segments = append(segments, l.Subject)
		}
	}
	for _, id := range segments {
		more, err := e.Store.Leaves(ctx, LeafQuery{Subject: id, Actions: []string{ActionStaged, ActionVerified, ActionSettled, ActionSegmentMoved}})
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, more...)
	}
	ends, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionShredIntent, ActionShredExecuting, ActionShredded}})
	if err != nil {
		return nil, err
	}
	classes := map[string]bool{r.Class: true, r.ArchiveClass: true}
	for _, l := range leaves {
		var body struct{ From, To string }
		if (l.Action == ActionResealed || l.Action == ActionSegmentMoved) && json.Unmarshal(l.Body, &body) == nil {
			classes[body.From], classes[body.To] = true, true
		}
	}
	moves, err := e.reschedulingsOf(ctx, r.Seq, leaves)
	if err != nil {
		return nil, err
	}
	for _, m := range moves {
		classes[m.From.Class], classes[m.To.Class] = true, true
	}
	for _, l := range ends {
		var body struct{ Classes []string }
		if json.Unmarshal(l.Body, &body) == nil && slices.ContainsFunc(body.Classes, func(c string) bool { return classes[c] }) {
			leaves = append(leaves, l)
		}
	}
	slices.SortFunc(leaves, func(a, b Leaf) int { return int(a.ID - b.ID) })
	return slices.CompactFunc(leaves, func(a, b Leaf) bool { return a.ID == b.ID }), nil
}

// batchProof proves that a record's checksum is among those that a leaf is over.
func (e *Engine) batchProof(ctx context.Context, l *Leaf, id string) (*audit.BatchProof, error) {
	var sums [][32]byte
	at := -1
	for r, err := range e.Store.LeafRows(ctx, l.ID) {
		if err != nil {
			return nil, err
		}
		if r.RecordID == id {
			at = len(sums)
		}
		sums = append(sums, r.Checksum)
	}
	var body struct {
		Root string `json:"checksum_root"`
	}
	if err := json.Unmarshal(l.Body, &body); err != nil {
		return nil, fmt.Errorf("couldn't read leaf %d: %w", l.ID, err)
	}
	if root := archive.Root(sums); at < 0 || hexOf(root) != body.Root {
		return nil, fmt.Errorf("leaf %d (%s) is over other checksums than the database has: type lotkeeper audit verify", l.ID, l.Action)
	}
	b, err := audit.ProveBatch(sums, at)
	return &b, err
}

// Check checks a proof without the database: every entry is in the tree of the
// checkpoint, which the log's key has signed, and the checksum in each entry's batch.
func (p *RecordProof) Check(verifierKey string) error {
	v, err := note.NewVerifier(verifierKey)
	if err != nil {
		return fmt.Errorf("couldn't read the log's key: %w", err)
	}
	sum, err := parseHex(p.Checksum)
	if err != nil {
		return err
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Entry.Checkpoint != p.Checkpoint {
			return fmt.Errorf("step %d (%s) is proved under another checkpoint", i+1, s.Action)
		}
		entry, err := s.Entry.Check(v)
		if err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, s.Action, err)
		}
		if entry.Action != s.Action {
			return fmt.Errorf("step %d is called %s, and its entry says %s", i+1, s.Action, entry.Action)
		}
		if s.Batch == nil {
			if batched(s.Action) {
				return fmt.Errorf("step %d (%s) does not prove that the record is in its batch", i+1, s.Action)
			}
			continue
		}
		var body struct {
			Root string `json:"checksum_root"`
		}
		if err := json.Unmarshal(entry.Body, &body); err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, s.Action, err)
		}
		root, err := parseHex(body.Root)
		if err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, s.Action, err)
		}
		if err := s.Batch.Check(sum, root); err != nil {
			return fmt.Errorf("step %d (%s): the checksum is not in the batch that the entry names: %w", i+1, s.Action, err)
		}
	}
	return nil
}

// newestOfAll is the newest checkpoint of all vaults that answer, and where it is.
func (e *Engine) newestOfAll(ctx context.Context, verifier note.Verifier) (published, vaultSource, error) {
	vaults, err := e.logVaults(ctx, func(VaultRow) bool { return true })
	if err != nil {
		return published{}, vaultSource{}, err
	}
	var newest published
	var source vaultSource
	var errs []error
	for _, v := range vaults {
		p, err := e.newestCheckpoint(ctx, v, verifier)
		errs = append(errs, err)
		if err == nil && p.Size > newest.Size {
			newest, source = p, vaultSource{v}
		}
	}
	if newest.Size == 0 {
		return newest, source, errors.Join(errs...)
	}
	return newest, source, nil
}

// ExportLog writes the published log, under its newest checkpoint, as a folder that
// verifies offline with public tools; see lifecycle/audit/log-format.md.
func (e *Engine) ExportLog(ctx context.Context, dst string) (audit.Checkpoint, error) {
	key, verifier, err := e.logKey(ctx)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	newest, source, err := e.newestOfAll(ctx, verifier)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	if newest.Size == 0 {
		return audit.Checkpoint{}, &Refused{"log", "no vault has a checkpoint yet", "type: lotkeeper audit checkpoint"}
	}
	older := map[int64][]byte{}
	notes, err := checkpointsIn(ctx, source.Vault)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	for _, n := range notes {
		if c, err := audit.OpenCheckpoint(n, verifier); err == nil && c.Size < newest.Size {
			older[c.Size] = n
		}
	}
	return newest.Checkpoint, audit.Export(ctx, audit.Open(source, newest.Checkpoint), dst, newest.note, older, key)
}
