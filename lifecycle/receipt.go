package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// ReceiptStatus says how much a receipt claims.
type ReceiptStatus string

const (
	// ReceiptPending: the key is destroyed, but a backup of the keyring, beside one of
	// the database or a vault's objects, may still open what it wrapped.
	ReceiptPending ReceiptStatus = "pending"
	// ReceiptFinal: by the configured retention the last such backup is gone.
	ReceiptFinal ReceiptStatus = "final"
)

// ReceiptSummary is a destroyed class with what its receipt comes to. Its JSON names
// are a promise.
type ReceiptSummary struct {
	ClassID     string        `json:"class_id"`
	Kind        ClassKind     `json:"kind"`
	DestroyedAt string        `json:"destroyed_at"`
	Status      ReceiptStatus `json:"status"`
	// FinalAt is the beginning of the day, UTC, on which the last backup that opens it
	// must be gone; empty if nobody knows.
	FinalAt string `json:"final_at"`
	// Pending says why it is not final.
	Pending []string `json:"pending"`
}

// Receipt certifies the destruction of one class key, with the fields of the sample
// certificate of NIST SP 800-88 Rev. 1 (docs/receipts.md maps them). Its JSON names are
// a promise.
type Receipt struct {
	// Type and V are of the text that is signed: no checkpoint begins like it.
	Type string `json:"type"`
	V    int    `json:"v"`
	ReceiptSummary
	PeriodStart string `json:"period_start"`
	PeriodEnd   string `json:"period_end"`
	// BackupRetentionDays is how long backups are kept, by the policy that destroyed the
	// key, and as configured where it does not say; 0 is unknown.
	BackupRetentionDays int    `json:"backup_retention_days"`
	IssuedAt            string `json:"issued_at"`
	IssuedBy            string `json:"issued_by"`
	// Software is what made the receipt; Sanitization.Tool destroyed the key.
	Software string `json:"software"`
	// Log and LogKey are the log's name and public key, which signs the receipt.
	Log          string              `json:"log"`
	LogKey       string              `json:"log_key"`
	Person       ReceiptPerson       `json:"person"`
	Media        ReceiptMedia        `json:"media"`
	Sanitization ReceiptSanitization `json:"sanitization"`
	// Steps are the intent, the last check, and the destruction, each with its proof.
	Steps []ReceiptStep `json:"steps"`
	// Again tells of destructions of the same key after an older keyring was put back.
	Again       []ReceiptAgain      `json:"again"`
	Disclosures []ReceiptDisclosure `json:"disclosures"`
	NotCovered  []string            `json:"not_covered"`
	NotStated   []NotStated         `json:"not_stated"`
}

// ReceiptPerson is who destroyed the key.
type ReceiptPerson struct {
	// Actor is who said so, Role the database role; the server has authenticated it,
	// or there is none.
	Actor         string `json:"actor"`
	Role          string `json:"role"`
	Authenticated bool   `json:"authenticated"`
}

// ReceiptMedia is what was destroyed, and what it protected.
type ReceiptMedia struct {
	Type     string `json:"type"`
	KeyBytes int    `json:"key_bytes"`
	// Records counts those whose keys, or whose segments' identities, it wrapped to the
	// end, Moved those whose keys were moved to other classes before.
	Records int64 `json:"records"`
	Moved   int64 `json:"moved"`
	// Earlier counts records whose keys came from classes that are not destroyed: backups
	// from before that have them under those.
	Earlier int64 `json:"earlier"`
	// Segments are where the records of a hot or deferral class are archived, under other
	// keys; of any other class they are what became unreadable. Objects that were deleted
	// are left out.
	Segments []ReceiptSegment `json:"segments"`
	// Copies are the key store's places when the receipt was made, Epoch its count of
	// changes after the destruction.
	Copies []ReceiptCopy `json:"copies"`
	Epoch  uint64        `json:"epoch"`
}

// ReceiptCopy is one place that the key store keeps its keys in.
type ReceiptCopy struct {
	Path    string `json:"path"`
	Epoch   uint64 `json:"epoch"`
	Problem string `json:"problem"`
}

// ReceiptSegment is a segment with the class that it is under.
type ReceiptSegment struct {
	SegmentID  string          `json:"segment_id"`
	Class      string          `json:"archive_class"`
	ClassState ClassState      `json:"archive_class_state"`
	Records    int64           `json:"records"`
	Objects    []ReceiptObject `json:"objects"`
}

// ReceiptObject is a segment's ciphertext in a vault, which cannot be deleted before
// its lock has ended.
type ReceiptObject struct {
	Vault       string `json:"vault"`
	Key         string `json:"key"`
	Version     string `json:"version"`
	LockedUntil string `json:"locked_until"`
}

// ReceiptSanitization is how, and when.
type ReceiptSanitization struct {
	Method       string `json:"method"`
	Technique    string `json:"technique"`
	Tool         string `json:"tool"`
	Verification string `json:"verification"`
	CondemnedAt  string `json:"condemned_at"`
	ExecutingAt  string `json:"executing_at"`
	RunID        string `json:"run_id"`
	PolicyHash   string `json:"policy_hash"`
}

// ReceiptStep is one entry of the log, proved under the oldest checkpoint that has it.
type ReceiptStep struct {
	Action string       `json:"action"`
	Index  int64        `json:"index"`
	Size   int64        `json:"checkpoint_size"`
	Vault  string       `json:"vault"`
	Entry  *audit.Proof `json:"entry"` // nil while no vault has it
}

// ReceiptAgain is an entry of a destruction of a key that an older keyring had brought
// back: its intent, or its end.
type ReceiptAgain struct {
	Action string `json:"action"`
	At     string `json:"at"`
	Actor  string `json:"actor"`
	Index  int64  `json:"index"`
}

// What a disclosure is.
const (
	DisclosedByExport   = "export"
	DisclosedByIdentity = "identity"
)

// ReceiptDisclosure is an export that asked for records of the class, or an identity
// of their segment that was given out.
type ReceiptDisclosure struct {
	Kind  string `json:"kind"`
	ID    string `json:"id"`
	At    string `json:"at"`
	Actor string `json:"actor"`
	Role  string `json:"role"`
	// Index is the entry's place in the log; -1 while it has none.
	Index int64 `json:"index"`
	// Records counts those of the class at most: what the query of an export covers now,
	// whatever it gave.
	Records int64 `json:"records"`
	// Given counts all that the export gave; null if the log does not have its end.
	Given    *int64 `json:"given"`
	Unmasked bool   `json:"unmasked"`

	leaf int64
}

// NotStated is a field of the sample certificate that the receipt leaves open.
type NotStated struct {
	Field string `json:"field"`
	Why   string `json:"why"`
}

// receiptType begins the text of every receipt.
const receiptType = "lotkeeper-receipt"

// The fields of the sample certificate that a program cannot fill in.
var notStated = []NotStated{
	{"name, title, organization, location, phone and signature of persons", "the log has the actor and the database role; there are lines to sign on the printed receipt"},
	{"make, vendor, model and property number of the medium", "a key was destroyed, not a device; the class id is its serial number"},
	{"classification before and after", "records have none here"},
	{"location of backups", "it is not known here; what is assumed of them is how long they are kept"},
}

// receipts is what the receipts of all classes are made from.
type receipts struct {
	*Engine
	now     time.Time
	classes []Class
	live    []string // keys that open
	copies  []ReceiptCopy
	again   map[string][]ReceiptAgain
	newest  map[string]time.Time // of again
	// policies are by their hash, decided are those of destroyed classes.
	policies map[string]*policy.Policy
	decided  map[string]string
	leaves   *telling
}

func (e *Engine) receipts(ctx context.Context) (*receipts, error) {
	rs := &receipts{Engine: e, now: e.Now().UTC(), again: map[string][]ReceiptAgain{}, newest: map[string]time.Time{}, policies: map[string]*policy.Policy{}, decided: map[string]string{},
		leaves: &telling{Engine: e, subjects: map[string][]Leaf{}, classes: map[string]map[string][]Leaf{}}}
	var err error
	if rs.classes, err = e.Store.Classes(ctx, false); err != nil {
		return nil, err
	}
	history, err := e.PolicyHistory(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range history {
		rs.policies[v.Hash] = v.policy
	}
	ends, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionShredded}})
	if err != nil {
		return nil, err
	}
	for _, l := range ends {
		var body struct {
			Classes    []string `json:"classes"`
			PolicyHash string   `json:"policy_hash"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		for _, c := range body.Classes {
			rs.decided[c] = body.PolicyHash
		}
	}
	status, err := e.Keys.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the keyring: %w", err)
	}
	rs.live, rs.copies = status.Live, []ReceiptCopy{}
	for _, c := range status.Copies {
		rs.copies = append(rs.copies, ReceiptCopy{c.Path, c.Epoch, c.Problem})
	}
	// A recovery of the keyring that was cut off after it had destroyed has left its
	// intent alone.
	again, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionShredIntent, ActionKeyringMended}})
	if err != nil {
		return nil, err
	}
	for _, l := range again {
		var body struct {
			Again          bool     `json:"again"`
			Classes        []string `json:"classes"`
			DestroyedAgain []string `json:"destroyed_again"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		if l.Action == ActionShredIntent {
			body.DestroyedAgain = nil
			if body.Again {
				body.DestroyedAgain = body.Classes
			}
		}
		for _, c := range body.DestroyedAgain {
			rs.again[c] = append(rs.again[c], ReceiptAgain{l.Action, cte.FormatTime(l.At), l.Actor, l.Index})
			if l.At.After(rs.newest[c]) {
				rs.newest[c] = l.At
			}
		}
	}
	return rs, nil
}

// summary says what the receipt of a destroyed class comes to now.
func (rs *receipts) summary(c *Class) ReceiptSummary {
	s := ReceiptSummary{ClassID: c.ID, Kind: c.Period.Kind, DestroyedAt: cte.FormatTime(c.DestroyedAt), Status: ReceiptPending, Pending: []string{}}
	pending := func(format string, args ...any) { s.Pending = append(s.Pending, fmt.Sprintf(format, args...)) }
	if _, gone := rs.backups(c); gone.IsZero() {
		pending("no backup retention is configured, so nobody knows when the last backup of the keyring is gone")
	} else {
		final := nextDay(gone)
		s.FinalAt = cte.FormatTime(final)
		if rs.now.Before(final) {
			pending("a backup of the keyring from before the destruction may be kept until %s", final.Format(time.DateOnly))
		}
	}
	for _, copy := range rs.copies {
		if copy.Problem != "" {
			pending("the keyring's copy %s is not in order: %s", copy.Path, copy.Problem)
		}
	}
	if _, live := slices.BinarySearch(rs.live, c.ID); live {
		pending("an older keyring was put back, and has the key: it has to be destroyed again")
	}
	if len(s.Pending) == 0 {
		s.Status = ReceiptFinal
	}
	return s
}

// backups says until when a backup may have been made that has the class's key: as long
// as it was there, also for the second time; and when the last of them is gone, zero if
// nobody knows.
func (rs *receipts) backups(c *Class) (made, gone time.Time) {
	made = c.DestroyedAt
	if again := rs.newest[c.ID]; again.After(made) {
		made = again
	}
	said := false
	if p := rs.policies[rs.decided[c.ID]]; p != nil {
		gone, said = p.BackupsGone(made)
	}
	if said {
		return made, gone
	}
	if rs.Limits.BackupRetention == 0 {
		return made, time.Time{}
	}
	if at := made.Add(rs.Limits.BackupRetention); at.After(gone) {
		gone = at
	}
	return made, gone
}

// nextDay is the first midnight, UTC, that is not before the time: the day on which
// something is over for certain.
func nextDay(t time.Time) time.Time {
	const day = 24 * time.Hour
	return clamp(t.UTC().Add(day - 1).Truncate(day))
}

// Receipts lists the destroyed classes with what their receipts come to.
func (e *Engine) Receipts(ctx context.Context) ([]ReceiptSummary, error) {
	rs, err := e.receipts(ctx)
	if err != nil {
		return nil, err
	}
	out := []ReceiptSummary{}
	for i := range rs.classes {
		if c := &rs.classes[i]; c.State == Destroyed {
			out = append(out, rs.summary(c))
		}
	}
	return out, nil
}

// Receipt says what is known of the destruction of a class key. ErrNotFound; a
// *Refused if the key is not destroyed, or was brought back.
func (e *Engine) Receipt(ctx context.Context, class string) (Receipt, error) {
	rs, err := e.receipts(ctx)
	if err != nil {
		return Receipt{}, err
	}
	i := slices.IndexFunc(rs.classes, func(c Class) bool { return c.ID == class })
	if i < 0 {
		return Receipt{}, fmt.Errorf("class %s: %w", class, ErrNotFound)
	}
	c := &rs.classes[i]
	if c.State != Destroyed {
		return Receipt{}, &Refused{"receipt", fmt.Sprintf("class %s is %s: its key is not destroyed", c.ID, c.State), "those that are: lotkeeper receipt list"}
	}
	if _, live := slices.BinarySearch(rs.live, c.ID); live {
		return Receipt{}, &Refused{"receipt", fmt.Sprintf("the keyring has the key of class %s, which is destroyed: an older keyring was put back", c.ID), "type: lotkeeper shred recover"}
	}
	keeps := 0
	if made, gone := rs.backups(c); !gone.IsZero() {
		keeps = int(nextDay(gone).Sub(nextDay(made)) / (24 * time.Hour))
	}
	r := Receipt{
		Type: receiptType, V: 1, ReceiptSummary: rs.summary(c), PeriodStart: cte.FormatTime(c.Period.Start), PeriodEnd: cte.FormatTime(c.Period.Ends()),
		BackupRetentionDays: keeps,
		IssuedAt:            cte.FormatTime(rs.now), IssuedBy: e.Actor, Software: e.Software,
		Media: ReceiptMedia{Type: "class key of a key store outside the database", KeyBytes: 32, Segments: []ReceiptSegment{}, Copies: rs.copies, Epoch: c.Epoch},
		Again: rs.again[c.ID], NotStated: notStated,
	}
	if r.Again == nil {
		r.Again = []ReceiptAgain{}
	}
	if r.LogKey, err = e.LogKey(ctx); err != nil {
		return Receipt{}, err
	}
	end, err := rs.steps(ctx, &r, c)
	if err != nil {
		return Receipt{}, fmt.Errorf("couldn't prove the end of class %s: %w", c.ID, err)
	}
	if err := rs.media(ctx, &r, c, end); err != nil {
		return Receipt{}, err
	}
	r.NotCovered = notCovered(&r)
	return r, nil
}

// steps finds the entries that tell of the destruction, and proves them. It returns the
// number of the last one's leaf.
func (rs *receipts) steps(ctx context.Context, r *Receipt, c *Class) (after int64, err error) {
	verifier, err := rs.logVerifier(ctx)
	if err != nil {
		return 0, err
	}
	r.Log = verifier.Name()
	checkpoints, err := rs.checkpointSizes(ctx)
	if err != nil {
		return 0, err
	}
	for _, action := range []string{ActionShredIntent, ActionShredExecuting, ActionShredded} {
		leaves, err := rs.leaves.class(ctx, action, c.ID)
		if err != nil {
			return 0, err
		}
		// The first that came after the step before: of a class that was checked again
		// after a crash the first check is the point of no return.
		i := slices.IndexFunc(leaves, func(l Leaf) bool { return l.ID > after && (action != ActionShredIntent || l.ID == c.IntentLeaf) })
		if i < 0 {
			return 0, fmt.Errorf("the trail has no leaf %s of it: type lotkeeper audit verify", action)
		}
		l := &leaves[i]
		after = l.ID
		step := ReceiptStep{Action: action, Index: l.Index}
		if err := rs.prove(ctx, &step, checkpoints, verifier); err != nil {
			return 0, err
		}
		r.Steps = append(r.Steps, step)
		var body struct {
			PolicyHash string `json:"policy_hash"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return 0, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		s := &r.Sanitization
		switch at := cte.FormatTime(l.At); action {
		case ActionShredIntent:
			s.CondemnedAt = at
		case ActionShredExecuting:
			s.ExecutingAt = at
		case ActionShredded:
			r.Person = ReceiptPerson{l.Actor, l.Role, l.Role != ""}
			*s = ReceiptSanitization{Method: "Purge", Technique: "cryptographic erase", Tool: l.Software, CondemnedAt: s.CondemnedAt, ExecutingAt: s.ExecutingAt,
				RunID: l.RunID, PolicyHash: body.PolicyHash,
				Verification: "full: after the destruction the key store was asked for the key and had none, so that nothing it had wrapped could be decrypted"}
		}
	}
	return after, nil
}

// checkpointSizes finds the sizes of the published checkpoints, and the vaults that have
// each. A vault that does not answer is logged and left out.
func (e *Engine) checkpointSizes(ctx context.Context) (map[int64][]archive.Vault, error) {
	vaults, err := e.logVaults(ctx, func(VaultRow) bool { return true })
	if err != nil {
		return nil, err
	}
	sizes := map[int64][]archive.Vault{}
	for _, v := range vaults {
		for x, err := range v.Versions(ctx, audit.CheckpointPrefix) {
			if err != nil {
				e.Log.Warn().Str("vault", v.Name()).Err(err).Msg("couldn't list the checkpoints of this vault")
				break
			}
			if size, ok := audit.CheckpointSize(x.Key); ok && !x.DeleteMarker && !slices.Contains(sizes[size], v) {
				sizes[size] = append(sizes[size], v)
			}
		}
	}
	return sizes, nil
}

// maxProofs is how many proofs of one entry are tried: a vault that answers no more
// would have all of its checkpoints asked for.
const maxProofs = 5

// prove proves a step under the oldest checkpoint that has it: what came later is not
// in that one. Without any it leaves the proof out.
func (rs *receipts) prove(ctx context.Context, step *ReceiptStep, checkpoints map[int64][]archive.Vault, verifier note.Verifier) error {
	var errs []error
	for _, size := range slices.Sorted(maps.Keys(checkpoints)) {
		if step.Index < 0 || size <= step.Index {
			continue
		}
		for _, v := range checkpoints[size] {
			p, err := proveUnder(ctx, vaultSource{v}, size, step.Index, verifier)
			if err == nil {
				step.Size, step.Vault, step.Entry = size, v.Name(), &p
				return nil
			}
			errs = append(errs, fmt.Errorf("entry %d, vault %s: %w", step.Index, v.Name(), err))
			if len(errs) == maxProofs {
				return errors.Join(errs...)
			}
		}
	}
	return errors.Join(errs...)
}

func proveUnder(ctx context.Context, source vaultSource, size, index int64, verifier note.Verifier) (audit.Proof, error) {
	msg, err := source.Read(ctx, audit.CheckpointKey(size))
	if err != nil {
		return audit.Proof{}, err
	}
	c, err := audit.OpenCheckpoint(msg, verifier)
	if err != nil {
		return audit.Proof{}, err
	}
	p, err := audit.Prove(ctx, audit.Open(source, c), index)
	if err == nil {
		_, err = p.Check(verifier)
	}
	return p, err
}

// media counts what the key had wrapped, and finds who was given any of it. end is the
// leaf of the destruction.
func (rs *receipts) media(ctx context.Context, r *Receipt, c *Class, end int64) error {
	segments, err := rs.Store.Segments(ctx)
	if err != nil {
		return err
	}
	r.Disclosures = []ReceiptDisclosure{}
	in := map[string]int64{} // records, by segment
	var queries []Query
	if r.hot() {
		queries = []Query{{Class: c.ID}}
	} else {
		for _, g := range segments {
			if g.Class == c.ID && g.State != Abandoned && g.State != Staged {
				in[g.ID] = 0
				queries = append(queries, Query{Segment: g.ID})
			}
		}
	}
	exports, err := rs.exports(ctx)
	if err != nil {
		return err
	}
	if !r.hot() {
		// The archived copy was the last: nothing was given out after its end.
		exports = slices.DeleteFunc(exports, func(x exported) bool { return x.leaf > end })
	}
	for _, q := range queries {
		for row, err := range rs.Store.Rows(ctx, q) {
			if err != nil {
				return err
			}
			r.Media.Records++
			if row.Segment != "" {
				in[row.Segment]++
			}
			for i := range exports {
				exports[i].take(&row)
			}
		}
	}
	alive := map[string]bool{}
	for _, class := range rs.classes {
		alive[class.ID] = class.State != Destroyed
	}
	moved, err := rs.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionResealed, ActionRescheduled, ActionSegmentMoved, ActionRearchived, ActionObjectsDeleted}})
	if err != nil {
		return err
	}
	deleted := map[[2]string]bool{} // by segment and vault
	for _, l := range moved {
		var body struct {
			From    string `json:"from"` // a class, or a segment
			Records int64  `json:"records"`
			Vault   string `json:"vault"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		keys, err := resealedBody(&l)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.From == c.ID {
				r.Media.Moved += k.Records
			}
			if k.To == c.ID && alive[k.From] {
				r.Media.Earlier += k.Records
			}
		}
		_, rearchived := in[body.From]
		switch {
		case l.Action == ActionObjectsDeleted:
			deleted[[2]string{l.Subject, body.Vault}] = true
		case body.From == c.ID, l.Action == ActionRearchived && rearchived && !r.hot():
			r.Media.Moved += body.Records
		}
	}
	for _, g := range segments {
		n, ok := in[g.ID]
		if !ok {
			continue
		}
		s := ReceiptSegment{SegmentID: g.ID, Class: g.Class, Records: n, Objects: []ReceiptObject{}}
		for _, class := range rs.classes {
			if class.ID == g.Class {
				s.ClassState = class.State
			}
		}
		for _, copy := range g.Copies {
			if !deleted[[2]string{g.ID, copy.Vault}] {
				s.Objects = append(s.Objects, ReceiptObject{copy.Vault, g.ObjectKey, copy.ObjectVersion, cte.FormatTime(copy.RetainUntil)})
			}
		}
		r.Media.Segments = append(r.Media.Segments, s)
	}
	shown, err := rs.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionIdentityShown}})
	if err != nil {
		return err
	}
	for _, l := range shown {
		if n, ok := in[l.Subject]; ok {
			r.Disclosures = append(r.Disclosures, ReceiptDisclosure{Kind: DisclosedByIdentity, ID: l.Subject, At: cte.FormatTime(l.At), Actor: l.Actor, Role: l.Role, Index: l.Index, Records: n, Given: &n, Unmasked: true, leaf: l.ID})
		}
	}
	for _, x := range exports {
		if x.Records > 0 && (x.Given == nil || *x.Given > 0) {
			r.Disclosures = append(r.Disclosures, x.ReceiptDisclosure)
		}
	}
	slices.SortFunc(r.Disclosures, func(a, b ReceiptDisclosure) int { return cmp.Compare(a.leaf, b.leaf) })
	return nil
}

// exported is an export with what it asked for.
type exported struct {
	ReceiptDisclosure
	query askedQuery
	end   int64 // the leaf of its end, 0 if there is none
}

func (rs *receipts) exports(ctx context.Context) (out []exported, err error) {
	leaves, err := rs.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionExportBegun, ActionUnmasked, ActionExported}})
	if err != nil {
		return nil, err
	}
	at := map[string]int{} // by the export's id
	for _, l := range leaves {
		switch i, ok := at[l.Subject]; {
		case l.Action == ActionExportBegun:
			var body begun
			if err := json.Unmarshal(l.Body, &body); err != nil {
				return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
			}
			at[l.Subject] = len(out)
			out = append(out, exported{ReceiptDisclosure{Kind: DisclosedByExport, ID: l.Subject, At: cte.FormatTime(l.At), Actor: l.Actor, Role: l.Role, Index: l.Index, leaf: l.ID}, body.Query, 0})
		case !ok:
		case l.Action == ActionUnmasked:
			out[i].Unmasked = true
		default:
			var body struct {
				Records int64 `json:"records"`
			}
			if err := json.Unmarshal(l.Body, &body); err != nil {
				return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
			}
			out[i].Given, out[i].end = &body.Records, l.ID
		}
	}
	return out, nil
}

// take counts a record that the export may have given: not one that was taken in after
// its end.
func (x *exported) take(r *Row) {
	if x.query.covers(r) && (x.end == 0 || r.IngestLeaf < x.end) {
		x.Records++
	}
}

// hot says that the key wrapped records' own keys, not segments' identities.
func (r *Receipt) hot() bool { return r.Kind == HotClass || r.Kind == DeferralClass }

// notCovered says what may still be readable.
func notCovered(r *Receipt) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.hot() {
		if len(r.Media.Segments) > 0 {
			n, open := int64(0), 0
			for _, s := range r.Media.Segments {
				if n += s.Records; s.ClassState != Destroyed {
					open++
				}
			}
			say("the archived copies of the records: %d, under keys of their own; segments %d, of which can be read %d", n, len(r.Media.Segments), open)
		}
	} else {
		objects, last := 0, ""
		for _, s := range r.Media.Segments {
			for _, o := range s.Objects {
				objects++
				last = max(last, o.LockedUntil)
			}
		}
		if objects > 0 {
			say("the ciphertext, which no key opens: objects in vaults %d, none of which can be deleted before its lock has ended, the last at %s", objects, last)
		}
	}
	if r.Media.Moved > 0 {
		say("records whose keys were moved to other classes before, and live on there: %d", r.Media.Moved)
	}
	if r.Media.Earlier > 0 {
		say("records whose keys were in a later class before, which lives on: %d; an older backup of the database has them under that", r.Media.Earlier)
	}
	say("backups of the keyring from before the destruction: whoever has one, and a backup of the database or an object of that time, can read the records")
	say("copies of the keyring that its key store does not know of: of its directory, of a disk, of a deleted file")
	if n := len(r.Disclosures); n > 0 {
		say("what was given out: the exports and identities that may have had records of this class are listed, %d in all", n)
	} else {
		say("what was given out by other ways than this program: its log has no disclosure of records of this class")
	}
	say("the columns that the database keeps in plain text after the shred: lot, source, event type, times, location, product, lineage")
	say("the systems that the records came from or were passed on to")
	return out
}

// ErrReceipt: a receipt that does not hold.
var ErrReceipt = errors.New("the receipt does not hold")

// IssueReceipt gives the receipt of a class as a signed note, whose text is the
// receipt's JSON on one line. The trail has it before anybody is given it.
func (e *Engine) IssueReceipt(ctx context.Context, class string) (Receipt, []byte, error) {
	verifier, err := e.logVerifier(ctx)
	if err != nil {
		return Receipt{}, nil, err
	}
	signer, err := e.logSigner(verifier)
	if err != nil {
		return Receipt{}, nil, err
	}
	// Disclosures of just now shall have their index. Who may not give it to them, as an
	// auditor, does without.
	if _, err := e.Store.Sequence(ctx); err != nil {
		e.Log.Debug().Err(err).Msg("the newest leaves have no index yet")
	}
	r, err := e.Receipt(ctx, class)
	if err != nil {
		return Receipt{}, nil, err
	}
	for _, s := range r.Steps {
		if s.Entry == nil {
			return Receipt{}, nil, &Refused{"log", fmt.Sprintf("no vault has the leaf %s of class %s yet, so there is nothing to prove it with", s.Action, class), "type: lotkeeper audit checkpoint"}
		}
	}
	text, err := r.text()
	if err != nil {
		return Receipt{}, nil, err
	}
	msg, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return Receipt{}, nil, fmt.Errorf("couldn't sign the receipt of class %s: %w", class, err)
	}
	// What others will check is checked here first.
	if _, err := OpenReceipt(msg, r.LogKey); err != nil {
		return Receipt{}, nil, err
	}
	leaf := e.leaf(e.Now(), ActionReceipt, "", class, map[string]any{"status": r.Status, "final_at": r.FinalAt, "receipt_sha256": hexOf(sha256.Sum256(msg))})
	if err := e.Store.Append(ctx, leaf); err != nil {
		return Receipt{}, nil, err
	}
	return r, msg, nil
}

// text is what is signed: the JSON, and a newline.
func (r *Receipt) text() (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return "", fmt.Errorf("couldn't encode the receipt of class %s: %w", r.ClassID, err)
	}
	return b.String(), nil
}

// OpenReceipt reads a signed note and checks, by the log's public key alone, that the
// key has signed it, that each step is in the log, and that the steps say what the
// receipt says: who, when, and that the intent was published before the last check.
// ErrReceipt.
func OpenReceipt(msg []byte, logKey string) (Receipt, error) {
	fail := func(format string, args ...any) (Receipt, error) {
		return Receipt{}, fmt.Errorf("%w: %w", ErrReceipt, fmt.Errorf(format, args...))
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(logKey))
	if err != nil {
		return Receipt{}, fmt.Errorf("couldn't read the log's key: %w", err)
	}
	n, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return fail("%w", err)
	}
	var r Receipt
	if err := json.Unmarshal([]byte(n.Text), &r); err != nil {
		return fail("its text is no receipt: %w", err)
	}
	if r.Type != receiptType || r.V != 1 {
		return fail("its text is %s version %d, not %s version 1", cmp.Or(r.Type, "of no type"), r.V, receiptType)
	}
	if r.Log != verifier.Name() || len(r.Steps) != 3 {
		return fail("it is not one of the log %s, with three steps", verifier.Name())
	}
	for i, action := range []string{ActionShredIntent, ActionShredExecuting, ActionShredded} {
		s := &r.Steps[i]
		if s.Action != action || s.Entry == nil {
			return fail("step %d is not a proved %s", i+1, action)
		}
		entry, err := s.Entry.Check(verifier)
		if err != nil {
			return fail("step %d (%s): %w", i+1, action, err)
		}
		checkpoint, err := audit.OpenCheckpoint([]byte(s.Entry.Checkpoint), verifier)
		if err != nil {
			return fail("step %d (%s): %w", i+1, action, err)
		}
		var body struct {
			Classes    []string `json:"classes"`
			PolicyHash string   `json:"policy_hash"`
		}
		if err := json.Unmarshal(entry.Body, &body); err != nil {
			return fail("step %d (%s): %w", i+1, action, err)
		}
		said := map[string]string{ActionShredIntent: r.Sanitization.CondemnedAt, ActionShredExecuting: r.Sanitization.ExecutingAt, ActionShredded: r.DestroyedAt}[action]
		switch {
		case entry.Action != action || s.Index != s.Entry.Index || s.Size != checkpoint.Size:
			return fail("step %d is another entry than it says", i+1)
		case !slices.Contains(body.Classes, r.ClassID):
			return fail("entry %d (%s) is not about class %s", s.Index, action, r.ClassID)
		case said != cte.FormatTime(entry.At):
			return fail("entry %d (%s) is of %s, not of %s", s.Index, action, cte.FormatTime(entry.At), said)
		case i > 0 && s.Index <= r.Steps[i-1].Index:
			return fail("step %d came before step %d", i+1, i)
		case action == ActionShredExecuting && r.Steps[0].Size > s.Index:
			return fail("the intent was not published before the key was given up")
		case action == ActionShredded && (r.Person.Actor != entry.Actor || r.Person.Role != entry.Role || r.Sanitization.Tool != entry.Software || r.Sanitization.RunID != entry.RunID || r.Sanitization.PolicyHash != body.PolicyHash):
			return fail("entry %d (%s) says another person, tool, run or policy", s.Index, action)
		}
	}
	return r, nil
}
