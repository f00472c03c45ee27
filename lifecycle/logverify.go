package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// LogFinding is one thing that does not fit. Its JSON names are a promise.
type LogFinding struct {
	// Kind is one of the Log... constants, or audit's.
	Kind string `json:"kind"`
	// Vault and Object say where; empty for the database.
	Vault  string `json:"vault,omitempty"`
	Object string `json:"object,omitempty"`
	// Index is the entry's place in the log, Leaf its number in the database; -1 and 0
	// where it is about none.
	Index int64 `json:"index"`
	// Count is how many entries it is about, from Index on.
	Count int64 `json:"count,omitempty"`
	Leaf  int64 `json:"leaf_id,omitempty"`
	// Subject is the record, hold, class, segment or vault that it is about.
	Subject string `json:"subject,omitempty"`
	Detail  string `json:"detail"`
	// Proof is what anybody can check it with: signed notes, hashes, entries. Fork is
	// the proof that the log's key has signed two histories.
	Proof []string    `json:"proof,omitempty"`
	Fork  *audit.Fork `json:"fork,omitempty"`
}

// Kinds of findings that comparing the database with the log can have.
const (
	// LogChanged: an entry of the database is not the one in the vaults' tree.
	LogChanged = "entry-changed"
	// LogTruncated: the database has fewer entries than a checkpoint.
	LogTruncated = "log-truncated"
	// LogForked: the database's tree, or a vault's, is not the one of a checkpoint.
	LogForked = "log-forked"
	// LogStray: a leaf that is not in the tree and does not wait for it, or an index
	// without its leaf.
	LogStray = "stray-leaf"
	// LogHashes: the hashes that the database keeps are not those of its entries.
	LogHashes = "stored-hashes"
	// LogMissing: a checkpoint that a vault had confirmed is not there.
	LogMissing = "checkpoint-missing"
	// LogRecord: records are not as the leaf says that took them in or archived them.
	LogRecord = "records-changed"
	// LogState: the database has a hold, class, segment, vault or legal hold in
	// another state than the log, or has it not, or has one that the log has not.
	LogStateDiffers = "state-differs"
	// LogUnchecked: something could not be looked at.
	LogUnchecked = "unchecked"
)

// LogReport is what VerifyLog looked at and found. Its JSON names are a promise.
type LogReport struct {
	Origin string `json:"origin"`
	// Size counts the database's entries, Pending leaves that have no index yet.
	Size    int64 `json:"size"`
	Pending int64 `json:"pending"`
	// Published is the size of the newest checkpoint in any vault.
	Published   int64 `json:"published"`
	Checkpoints int   `json:"checkpoints"`
	Records     int64 `json:"records"`
	// Policies are those that records came in under: each was evaluated again for them.
	Policies []LogPolicy  `json:"policies"`
	Findings []LogFinding `json:"findings"`
}

// LogPolicy is a version of the policy, and how many records came in under it.
type LogPolicy struct {
	Name    string `json:"name"`
	Hash    string `json:"hash"`
	Records int64  `json:"records"`
}

// VerifyLog compares the database with the log that is locked in the vaults: each
// vault's tiles with its checkpoints, each entry of the database with the tree, the
// records with the leaves that tell of them, and holds, classes, segments and vaults
// with what the log says became of them. It changes nothing of that, and goes on to the
// end whatever it finds.
func (e *Engine) VerifyLog(ctx context.Context) (LogReport, error) {
	v := &logVerification{Engine: e, res: LogReport{Policies: []LogPolicy{}, Findings: []LogFinding{}}}
	err := v.run(ctx)
	return v.res, err
}

type logVerification struct {
	*Engine
	res      LogReport
	verifier note.Verifier
	// newest is the newest checkpoint of all vaults, in the vault source.
	newest published
	source vaultSource
	said   said
	// seqs are the first and last seq of each batch that a leaf took in.
	seqs [][2]int64
}

// maxLogFindings bounds a report: who changed a whole table is found by its first rows.
const maxLogFindings = 1000

func (v *logVerification) find(f LogFinding) {
	switch n := len(v.res.Findings); {
	case n < maxLogFindings:
		v.res.Findings = append(v.res.Findings, f)
	case n == maxLogFindings:
		v.res.Findings = append(v.res.Findings, LogFinding{Kind: LogUnchecked, Index: -1, Detail: fmt.Sprintf("there are more findings than %d: the others are not listed", maxLogFindings)})
	}
}

func (v *logVerification) run(ctx context.Context) (err error) {
	if v.verifier, err = v.logVerifier(ctx); err != nil {
		return err
	}
	v.res.Origin = v.verifier.Name()
	// What a vault must have is read before it, what is compared with it after it.
	confirmed, err := v.Store.LogState(ctx)
	if err != nil {
		return err
	}
	if err := v.vaultLogs(ctx, confirmed); err != nil {
		return err
	}
	// Who may not give leaves their index, as an auditor, does without.
	if _, err := v.Store.Sequence(ctx); err != nil {
		v.Log.Debug().Err(err).Msg("the newest leaves have no index yet")
	}
	state, err := v.Store.LogState(ctx)
	if err != nil {
		return err
	}
	// What is done meanwhile makes the database another one than that of the leaves that
	// were read: then once more.
	for found, attempt := len(v.res.Findings), 0; ; attempt++ {
		v.res.Findings, v.res.Records = v.res.Findings[:found], 0
		v.res.Size, v.res.Pending, v.seqs = state.Size, state.Pending, nil
		if err := v.database(ctx); err != nil {
			return err
		}
		before := state
		if state, err = v.Store.LogState(ctx); err != nil {
			return err
		}
		if state.Size == before.Size && state.Pending == before.Pending || len(v.res.Findings) == found {
			return nil
		}
		if attempt == 2 {
			v.find(LogFinding{Kind: LogUnchecked, Index: -1, Detail: "the database changed while it was compared: what differs may come of that, so look again when nothing runs"})
			return nil
		}
	}
}

// database compares all that the database has.
func (v *logVerification) database(ctx context.Context) error {
	if err := v.entries(ctx); err != nil {
		return err
	}
	unindexed, gone, err := v.Store.StrayLeaves(ctx, 1000)
	if err != nil {
		return err
	}
	for _, id := range unindexed {
		v.find(LogFinding{Kind: LogStray, Index: -1, Leaf: id, Detail: "the leaf is not in the tree, and does not wait to be"})
	}
	for _, id := range gone {
		v.find(LogFinding{Kind: LogStray, Index: -1, Leaf: id, Detail: "the leaf is in the tree, and its row is gone"})
	}
	return v.compare(ctx)
}

// vaultSource reads the log of a vault, each object by its oldest version: that was
// put when there was none, and what somebody put on top later does not hide it.
type vaultSource struct{ archive.Vault }

func (s vaultSource) Read(ctx context.Context, key string) ([]byte, error) {
	var oldest *archive.Version
	for x, err := range s.Versions(ctx, key) {
		if err != nil {
			return nil, fmt.Errorf("couldn't list %s in vault %s: %w", key, s.Name(), err)
		}
		if x.Key != key {
			break
		}
		if !x.DeleteMarker {
			oldest = &x
		}
	}
	if oldest == nil {
		return nil, fmt.Errorf("%s in vault %s: %w", key, s.Name(), fs.ErrNotExist)
	}
	return readObject(ctx, s.Vault, key, oldest.VersionID)
}

// vaultLogs verifies the log in each vault by itself, and against the newest
// checkpoint of all; confirmed is what each vault must have.
func (v *logVerification) vaultLogs(ctx context.Context, confirmed LogState) error {
	vaults, err := v.logVaults(ctx, func(VaultRow) bool { return true })
	if err != nil {
		return err
	}
	var all [][]byte
	seen := map[string]bool{}
	for _, vault := range vaults {
		notes, err := checkpointsIn(ctx, vault)
		if err != nil {
			v.find(LogFinding{Kind: LogUnchecked, Vault: vault.Name(), Index: -1, Detail: err.Error()})
			continue
		}
		newest := int64(0)
		for _, n := range notes {
			c, err := audit.OpenCheckpoint(n, v.verifier)
			if err == nil {
				newest = max(newest, c.Size)
			}
			if err == nil && c.Size > v.newest.Size {
				v.newest, v.source = published{c, n}, vaultSource{vault}
			}
			if !seen[string(n)] {
				seen[string(n)] = true
				all = append(all, n)
			}
		}
		if n := confirmed.Published[vault.Name()]; n > newest {
			v.find(LogFinding{Kind: LogMissing, Vault: vault.Name(), Index: newest, Count: n - newest,
				Detail: fmt.Sprintf("it had confirmed a checkpoint of %d entries, and its newest is of %d", n, newest)})
		}
	}
	v.res.Published, v.res.Checkpoints = v.newest.Size, len(all)
	for _, vault := range vaults {
		if v.newest.Size == 0 {
			break
		}
		rep, err := audit.Verify(ctx, vaultSource{vault}, v.inVault(ctx, vault, all), v.verifier)
		if err != nil {
			v.find(LogFinding{Kind: LogUnchecked, Vault: vault.Name(), Index: -1, Detail: err.Error()})
			continue
		}
		for _, f := range rep.Findings {
			// What is published comes before its checkpoint: one that is under way, or
			// was cut off, is no fault.
			if f.Kind == audit.FoundUnknown && f.Index+f.Count > rep.Size {
				continue
			}
			v.find(LogFinding{Kind: f.Kind, Vault: vault.Name(), Object: f.Key, Index: f.Index, Count: f.Count, Detail: f.Detail, Fork: f.Fork})
		}
	}
	return nil
}

// inVault leaves out checkpoints that are newer than what a vault has: it lags behind,
// which is no fault of what is there.
func (v *logVerification) inVault(ctx context.Context, vault archive.Vault, all [][]byte) [][]byte {
	newest, err := v.newestCheckpoint(ctx, vault, v.verifier)
	if err != nil {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(n []byte) bool {
		c, err := audit.OpenCheckpoint(n, v.verifier)
		return err == nil && c.Size > newest.Size
	})
}

// checkpointsIn reads every version of every checkpoint in a vault.
func checkpointsIn(ctx context.Context, v archive.Vault) (out [][]byte, err error) {
	for x, err := range v.Versions(ctx, audit.CheckpointPrefix) {
		if err != nil {
			return nil, fmt.Errorf("couldn't list the checkpoints in vault %s: %w", v.Name(), err)
		}
		if x.DeleteMarker {
			continue
		}
		b, err := readObject(ctx, v, x.Key, x.VersionID)
		if err != nil {
			return nil, fmt.Errorf("couldn't read %s in vault %s: %w", x.Key, v.Name(), err)
		}
		out = append(out, b)
	}
	return out, nil
}

// logPage is how many entries are read at a time.
const logPage = 1000

// entries compares each entry of the database with the published tree, the tree with
// the hashes that the database keeps, and collects what the entries say. Where an
// entry differs, the published one is believed.
func (v *logVerification) entries(ctx context.Context) error {
	log := audit.Open(v.source, v.newest.Checkpoint)
	var hashes []tlog.Hash // stored hashes, recomputed
	tree := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, n := range indexes {
			out[i] = hashes[n]
		}
		return out, nil
	})
	v.said = newSaid()
	damaged := false // from some entry on, the tree cannot be computed
	for from := int64(0); from < max(v.res.Size, v.newest.Size); from += logPage {
		to := from + logPage
		kept := len(hashes)
		leaves, err := v.Store.LogLeaves(ctx, from, min(to, v.res.Size))
		if err != nil {
			return err
		}
		var there []audit.Entry
		if from < v.newest.Size {
			for en, err := range log.Entries(ctx, from, min(to, v.newest.Size)) {
				if err != nil {
					v.find(LogFinding{Kind: LogUnchecked, Vault: v.source.Name(), Index: from + int64(len(there)), Detail: err.Error()})
					break
				}
				there = append(there, en)
			}
		}
		for i := from; i < min(to, max(v.res.Size, v.newest.Size)); i++ {
			var here *Leaf
			if n := i - from; n < int64(len(leaves)) && leaves[n].Index == i {
				here = &leaves[n]
			} else if at := slices.IndexFunc(leaves, func(l Leaf) bool { return l.Index == i }); at >= 0 {
				here = &leaves[at]
			}
			var published *audit.Entry
			if n := i - from; n < int64(len(there)) {
				published = &there[n]
			}
			if err := v.entry(i, here, published); err != nil {
				return err
			}
			if here == nil || damaged {
				damaged = damaged || i < v.res.Size
				continue
			}
			entry := here.Entry()
			b, _, err := entry.Marshal()
			if err != nil {
				return err
			}
			more, err := tlog.StoredHashesForRecordHash(i, audit.Hash(b), tree)
			if err != nil {
				return err
			}
			hashes = append(hashes, more...)
		}
		if err := v.hashes(ctx, hashes, kept); err != nil {
			return err
		}
		v.progress("compare entries", int(min(to, v.res.Size)))
	}
	if v.newest.Size > v.res.Size {
		v.find(LogFinding{Kind: LogTruncated, Vault: v.source.Name(), Index: v.res.Size, Count: v.newest.Size - v.res.Size, Detail: fmt.Sprintf("the database's log has %d entries, the newest checkpoint %d", v.res.Size, v.newest.Size),
			Proof: []string{string(v.newest.note)}})
	}
	if err := v.waiting(ctx); err != nil {
		return err
	}
	if damaged {
		return nil
	}
	if v.newest.Size > 0 && v.newest.Size <= v.res.Size {
		if at, err := tlog.TreeHash(v.newest.Size, tree); err == nil && at != v.newest.Root {
			v.find(LogFinding{Kind: LogForked, Vault: v.source.Name(), Index: -1, Detail: fmt.Sprintf("at %d entries the database's root is %s, the checkpoint's %s", v.newest.Size, hexOf(at), hexOf(v.newest.Root)),
				Proof: []string{string(v.newest.note), "database root at " + fmt.Sprint(v.newest.Size) + ": " + hexOf(at)}})
		}
	}
	return nil
}

// hashes compares the hashes that the database keeps, from the one with the number on,
// with those that its entries make. The next tiles are made from them.
func (v *logVerification) hashes(ctx context.Context, computed []tlog.Hash, from int) error {
	numbers := make([]int64, len(computed)-from)
	for i := range numbers {
		numbers[i] = int64(from + i)
	}
	stored, err := v.Store.LogHashes(ctx, numbers)
	if errors.Is(err, ErrNotFound) {
		v.find(LogFinding{Kind: LogHashes, Index: -1, Detail: err.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	for i, h := range stored {
		if want := computed[from+i]; h != want {
			level, n := tlog.SplitStoredHashIndex(numbers[i])
			v.find(LogFinding{Kind: LogHashes, Index: n << level, Count: 1 << level, Detail: fmt.Sprintf("stored hash %d is %s, the entries make %s", numbers[i], hexOf(h), hexOf(want))})
		}
	}
	return nil
}

// waiting takes in what the leaves say that have no index yet: the state that the
// database is in comes of them too.
func (v *logVerification) waiting(ctx context.Context) error {
	if v.res.Pending == 0 {
		return nil
	}
	q := LeafQuery{Limit: logPage}
	for {
		leaves, err := v.Store.Leaves(ctx, q)
		if err != nil || len(leaves) == 0 {
			return err
		}
		for i := range leaves {
			if leaves[i].Index >= 0 {
				continue
			}
			entry := leaves[i].Entry()
			if err := v.said.take(-1, leaves[i].ID, &entry); err != nil {
				return err
			}
		}
		q.After = leaves[len(leaves)-1].ID
	}
}

// entry compares one entry, here and in the vault, and takes in what it says.
func (v *logVerification) entry(i int64, here *Leaf, there *audit.Entry) error {
	switch {
	case here == nil && there == nil:
		v.find(LogFinding{Kind: LogStray, Index: i, Detail: "the entry's leaf is gone, and no vault has it"})
		return nil
	case here == nil:
		if i < v.res.Size {
			v.find(LogFinding{Kind: LogChanged, Index: i, Subject: there.Subject, Detail: "the leaf is gone: " + there.Action + " by " + there.Actor + " at " + cte.FormatTime(there.At)})
		}
	case there == nil:
		entry := here.Entry()
		return v.said.take(i, here.ID, &entry)
	default:
		entry := here.Entry()
		a, _, err := entry.Marshal()
		if err != nil {
			return err
		}
		b, _, err := there.Marshal()
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			v.find(LogFinding{Kind: LogChanged, Index: i, Leaf: here.ID, Subject: there.Subject, Detail: "the leaf is not the published entry", Proof: []string{"published: " + string(b), "database: " + string(a)}})
		}
	}
	id := int64(0)
	if here != nil {
		id = here.ID
	}
	return v.said.take(i, id, there)
}

// said is what the log says that things have come to.
type said struct {
	holds    map[string]*saidHold
	classes  map[string]ClassState
	segments map[string]*saidSegment
	vaults   map[string]VaultState
	legal    map[[2]string]LegalState  // by segment and vault
	policies map[string]*policy.Policy // that were applied, by hash
	triggers triggers                  // that are set by now
	dates    map[string]triggers       // that were set together, by hash
	batches  []saidBatch
	// taken, archived and purged count records, none that a recovery said are lost.
	taken, archived, purged int64
	recovered               []saidRecovery
}

// saidRecovery is a recovery, which replayed the entries from one to before another, and
// lost rows of so many purged records.
type saidRecovery struct{ from, to, purged int64 }

// lost says that a recovery may have found no records of the entry, or left them as the
// backup had them: of what was archived only those that were purged since.
func (s *said) lost(b *saidBatch) bool {
	return slices.ContainsFunc(s.recovered, func(r saidRecovery) bool {
		return r.from <= b.index && b.index < r.to && (b.action == ActionIngested || b.action == ActionRescheduled || r.purged > 0)
	})
}

type saidHold struct {
	index    int64
	Hold     // as it was placed, with the scopes that it has now
	released bool
}

type saidSegment struct {
	index  int64
	state  SegmentState
	object string // SHA-256
	class  string
	copies []string
	gone   []string // copies that were deleted
}

// saidBatch is a leaf that commits to records, see batched.
type saidBatch struct {
	index, leaf           int64
	action, segment       string
	records               int64
	checksumRoot, rowRoot string
	scheduleRoot          string
	policy, triggers      string // their hashes
}

func newSaid() said {
	return said{map[string]*saidHold{}, map[string]ClassState{}, map[string]*saidSegment{}, map[string]VaultState{}, map[[2]string]LegalState{}, map[string]*policy.Policy{}, triggers{},
		map[string]triggers{"": {}, triggers{}.hash(): {}}, nil, 0, 0, 0, nil}
}

// take takes in an entry, in the order of the log.
func (s *said) take(index, leaf int64, e *audit.Entry) error {
	read := func(body any) error {
		if err := json.Unmarshal(e.Body, body); err != nil {
			return fmt.Errorf("couldn't read entry %d (%s): %w", index, e.Action, err)
		}
		return nil
	}
	classes := func(state ClassState, from ...ClassState) error {
		var body struct {
			Classes []string `json:"classes"`
		}
		err := read(&body)
		for _, id := range body.Classes {
			if len(from) == 0 || slices.Contains(from, s.classes[id]) {
				s.classes[id] = state
			}
		}
		return err
	}
	switch e.Action {
	case ActionHoldPlaced:
		var h struct {
			Kind      HoldKind  `json:"kind"`
			Reference string    `json:"reference"`
			Reason    string    `json:"reason"`
			ReviewAt  time.Time `json:"review_at"`
			Until     time.Time `json:"until"`
			Scopes    []Scope   `json:"scopes"`
		}
		err := read(&h)
		s.holds[e.Subject] = &saidHold{index: index, Hold: Hold{Kind: h.Kind, Reference: h.Reference, Reason: h.Reason, ReviewAt: h.ReviewAt, Until: h.Until, Scopes: h.Scopes}}
		return err
	case ActionHoldExtended:
		var more struct {
			Scopes []Scope `json:"scopes"`
		}
		err := read(&more)
		if h := s.holds[e.Subject]; h != nil {
			h.Scopes = append(h.Scopes, more.Scopes...)
		}
		return err
	case ActionHoldReleased, ActionHoldEnded:
		if h := s.holds[e.Subject]; h != nil {
			h.released = true
		}
	case ActionClassOpened:
		return classes(Open, "")
	case ActionShredIntent:
		return classes(Condemned, Open)
	case ActionShredExecuting:
		return classes(Executing, Condemned)
	case ActionShredded:
		return classes(Destroyed)
	case ActionStaged, ActionVerified:
		var g struct {
			Object string `json:"object_sha256"`
			Class  string `json:"class"`
			Copies []Copy `json:"copies"`
		}
		err := read(&g)
		have := s.segments[e.Subject]
		if have == nil {
			have = &saidSegment{index: index, object: g.Object, class: g.Class, state: Staged}
			s.segments[e.Subject] = have
		}
		if e.Action == ActionVerified {
			have.state = Verified
			for _, c := range g.Copies {
				have.copies = append(have.copies, c.Vault)
			}
		}
		return err
	case ActionSettled, ActionAbandoned:
		if g := s.segments[e.Subject]; g != nil {
			g.state = map[string]SegmentState{ActionSettled: Settled, ActionAbandoned: Abandoned}[e.Action]
		}
	case ActionSegmentMoved:
		var b struct {
			To string `json:"to"`
		}
		err := read(&b)
		if g := s.segments[e.Subject]; g != nil {
			g.class = b.To
		}
		return err
	case ActionVaultAdded, ActionVaultActive, ActionVaultRetiring:
		// Added is joining or active, as there was something to copy or not: both fit.
		s.vaults[e.Subject] = map[string]VaultState{ActionVaultAdded: "", ActionVaultActive: ActiveVault, ActionVaultRetiring: Retiring}[e.Action]
	case ActionVaultCopied:
		var b struct {
			Copy Copy `json:"copy"`
		}
		err := read(&b)
		if g := s.segments[e.Subject]; g != nil {
			g.copies = append(g.copies, b.Copy.Vault)
		}
		return err
	case ActionLegalHoldSet, ActionLegalHoldOff, ActionLegalHoldGone:
		var c struct {
			Vault string `json:"vault"`
		}
		err := read(&c)
		s.legal[[2]string{e.Subject, c.Vault}] = map[string]LegalState{ActionLegalHoldSet: LegalSet, ActionLegalHoldOff: Lifting}[e.Action]
		return err
	case ActionInit:
		var o Origin
		if err := read(&o); err != nil || o.PolicyHash == "" {
			return err
		}
		s.policies[o.PolicyHash] = o.Policy.rules()
	case ActionPolicyApplied:
		var body policyBody
		if err := read(&body); err != nil {
			return err
		}
		p, err := policy.Parse(fmt.Sprintf("the policy of entry %d", index), body.Policy)
		if err == nil {
			s.policies[body.Hash] = p
		}
		return err
	case ActionTriggerSet, ActionTriggerUnset:
		if _, err := s.triggers.take(e.Action, e.Body); err != nil {
			return fmt.Errorf("couldn't read entry %d (%s): %w", index, e.Action, err)
		}
		s.dates[s.triggers.hash()] = maps.Clone(s.triggers)
	case ActionRecovered:
		var b struct {
			From   int64 `json:"from"`
			To     int64 `json:"to"`
			Lost   int64 `json:"lost_records"`
			Purged int64 `json:"lost_purged"`
		}
		err := read(&b)
		s.recovered = append(s.recovered, saidRecovery{b.From, b.To, b.Purged})
		s.taken, s.archived, s.purged = s.taken-b.Lost, s.archived-b.Purged, s.purged-b.Purged
		return err
	case ActionObjectsDeleted:
		var c struct {
			Vault string `json:"vault"`
		}
		err := read(&c)
		if g := s.segments[e.Subject]; g != nil {
			g.gone = append(g.gone, c.Vault)
		}
		return err
	case ActionIngested, ActionArchived, ActionRearchived, ActionPurged, ActionRescheduled:
		var b struct {
			Records      int64  `json:"records"`
			ChecksumRoot string `json:"checksum_root"`
			RowRoot      string `json:"row_root"`
			ScheduleRoot string `json:"schedule_root"`
			Done         bool   `json:"done"`
			PolicyHash   string `json:"policy_hash"`
			TriggersHash string `json:"triggers_hash"`
		}
		err := read(&b)
		s.batches = append(s.batches, saidBatch{index, leaf, e.Action, e.Subject, b.Records, b.ChecksumRoot, b.RowRoot, b.ScheduleRoot, b.PolicyHash, b.TriggersHash})
		switch e.Action {
		case ActionIngested:
			s.taken += b.Records
		case ActionArchived:
			s.archived += b.Records
		case ActionPurged:
			s.purged += b.Records
			if g := s.segments[e.Subject]; g != nil && b.Done {
				g.state = PurgedSegment
			}
		}
		return err
	}
	return nil
}

// compare compares what the database has with what the log says.
func (v *logVerification) compare(ctx context.Context) error {
	for _, step := range []func(context.Context) error{v.compareHolds, v.compareClasses, v.compareSegments, v.compareVaults, v.compareLegalHolds, v.compareRecords} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (v *logVerification) differs(index int64, subject, format string, args ...any) {
	v.find(LogFinding{Kind: LogStateDiffers, Index: index, Subject: subject, Detail: fmt.Sprintf(format, args...)})
}

func (v *logVerification) compareHolds(ctx context.Context) error {
	holds, err := v.Store.Holds(ctx, false)
	if err != nil {
		return err
	}
	have := map[string]*Hold{}
	for _, h := range holds {
		have[h.ID] = h
		if v.said.holds[h.ID] == nil {
			v.differs(-1, h.ID, "the database has the hold, the log has not")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.said.holds)) {
		said, h := v.said.holds[id], have[id]
		if h == nil {
			v.differs(said.index, id, "the log has the hold, the database has not")
			continue
		}
		if said.released && h.Open() {
			v.differs(said.index, id, "the log says that the hold is released, and it is open")
		}
		if !said.released && !h.Open() {
			v.differs(said.index, id, "the hold is released, and the log does not say so")
		}
		if h.Kind != said.Kind || h.Reference != said.Reference || h.Reason != said.Reason {
			v.differs(said.index, id, "the hold is %s %q (%s), the log says %s %q (%s)", h.Kind, h.Reference, h.Reason, said.Kind, said.Reference, said.Reason)
		}
		if !h.Until.Equal(said.Until) || !h.ReviewAt.Equal(said.ReviewAt) {
			v.differs(said.index, id, "the hold is to be reviewed at %s and ends at %s, the log says %s and %s", day(h.ReviewAt), day(h.Until), day(said.ReviewAt), day(said.Until))
		}
		if !sameScopes(h.Scopes, said.Scopes) {
			v.differs(said.index, id, "the hold has other scopes than the log says: %s", scopesText(h.Scopes, said.Scopes))
		}
	}
	return nil
}

// day is a time that may be none.
func day(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	return cte.FormatTime(t)
}

// scopesText names what one list has and the other has not.
func scopesText(have, want []Scope) string {
	var out []string
	for _, s := range want {
		if !slices.Contains(have, s) {
			out = append(out, "missing "+s.String())
		}
	}
	for _, s := range have {
		if !slices.Contains(want, s) {
			out = append(out, "added "+s.String())
		}
	}
	return strings.Join(out, ", ")
}

func (v *logVerification) compareClasses(ctx context.Context) error {
	classes, err := v.Store.Classes(ctx, false)
	if err != nil {
		return err
	}
	have := map[string]ClassState{}
	for _, c := range classes {
		have[c.ID] = c.State
		if v.said.classes[c.ID] == "" {
			v.differs(-1, c.ID, "the database has the class, the log has not")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.said.classes)) {
		switch said := v.said.classes[id]; {
		case have[id] == "":
			v.differs(-1, id, "the log has the class (%s), the database has not", said)
		case have[id] != said:
			v.differs(-1, id, "the class is %s, the log says %s", have[id], said)
		}
	}
	return nil
}

func (v *logVerification) compareSegments(ctx context.Context) error {
	segments, err := v.Store.Segments(ctx)
	if err != nil {
		return err
	}
	have := map[string]*Segment{}
	for i := range segments {
		g := &segments[i]
		have[g.ID] = g
		if v.said.segments[g.ID] == nil {
			v.differs(-1, g.ID, "the database has the segment, the log has not")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.said.segments)) {
		said, g := v.said.segments[id], have[id]
		if g == nil {
			v.differs(said.index, id, "the log has the segment, the database has not")
			continue
		}
		if g.State != said.state {
			v.differs(said.index, id, "the segment is %s, the log says %s", g.State, said.state)
		}
		if said.class != "" && g.Class != said.class && v.res.Pending == 0 {
			v.differs(said.index, id, "the segment is of class %s, the log says %s", g.Class, said.class)
		}
		if hexOf(g.ObjectSHA256) != said.object {
			v.differs(said.index, id, "the segment's object has the SHA-256 %s, the log says %s", hexOf(g.ObjectSHA256), said.object)
		}
		for _, vault := range said.copies {
			if !slices.ContainsFunc(g.Copies, func(c Copy) bool { return c.Vault == vault }) {
				v.differs(said.index, id, "the log has a copy in vault %s, the database has not", vault)
			}
		}
		for _, c := range g.Copies {
			if deleted := slices.Contains(said.gone, c.Vault); deleted == c.DeletedAt.IsZero() && v.res.Pending == 0 {
				v.differs(said.index, id, "its copy in vault %s is deleted: %t; the log says %t", c.Vault, !deleted, deleted)
			}
		}
	}
	return nil
}

func (v *logVerification) compareVaults(ctx context.Context) error {
	rows, err := v.Store.Vaults(ctx)
	if err != nil {
		return err
	}
	have := map[string]VaultState{}
	for _, r := range rows {
		have[r.Name] = r.State
		if _, ok := v.said.vaults[r.Name]; !ok {
			v.differs(-1, r.Name, "the database has the vault, the log has not")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.said.vaults)) {
		switch said := v.said.vaults[name]; {
		case have[name] == "":
			v.differs(-1, name, "the log has the vault, the database has not")
		case (said == "" && have[name] == Retiring || said != "" && have[name] != said):
			v.differs(-1, name, "the vault is %s, the log says %s", have[name], said)
		}
	}
	return nil
}

func (v *logVerification) compareLegalHolds(ctx context.Context) error {
	copies, err := v.Store.LegalHolds(ctx)
	if err != nil {
		return err
	}
	have := map[[2]string]LegalState{}
	for _, c := range copies {
		have[[2]string{c.Segment, c.Vault}] = c.State
	}
	for _, at := range sortedPairs(v.said.legal) {
		if said := v.said.legal[at]; have[at] != said {
			v.differs(-1, at[0], "its legal hold in vault %s is %q, the log says %q", at[1], have[at], said)
		}
	}
	for _, at := range sortedPairs(have) {
		if _, ok := v.said.legal[at]; !ok {
			v.differs(-1, at[0], "its legal hold in vault %s is %q, the log has none", at[1], have[at])
		}
	}
	return nil
}

func sortedPairs(m map[[2]string]LegalState) [][2]string {
	return slices.SortedFunc(maps.Keys(m), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
}

// compareRecords recomputes, for each leaf that commits to records, what it commits to.
func (v *logVerification) compareRecords(ctx context.Context) error {
	for _, b := range v.said.batches {
		if b.leaf == 0 {
			continue // its leaf is gone: found already
		}
		if err := v.batch(ctx, b); err != nil {
			return err
		}
		v.progress("compare records", int(v.res.Records))
	}
	counts, err := v.Store.Counts(ctx)
	if err != nil {
		return err
	}
	if n := counts[Active] + counts[Archived] + counts[Purged]; n != v.said.taken {
		v.find(LogFinding{Kind: LogRecord, Index: -1, Detail: fmt.Sprintf("the log took in %d records, the database has %d", v.said.taken, n)})
		if err := v.strangers(ctx); err != nil {
			return err
		}
	}
	if n := counts[Archived] + counts[Purged]; n != v.said.archived {
		v.find(LogFinding{Kind: LogRecord, Index: -1, Detail: fmt.Sprintf("the log archived %d records, the database has %d that are archived", v.said.archived, n)})
	}
	if n := counts[Purged]; n != v.said.purged && v.res.Pending == 0 {
		v.find(LogFinding{Kind: LogRecord, Index: -1, Detail: fmt.Sprintf("the log purged %d records, the database has %d that are purged", v.said.purged, n)})
	}
	return nil
}

// batch compares the records of one leaf.
func (v *logVerification) batch(ctx context.Context, b saidBatch) error {
	f := LogFinding{Kind: LogRecord, Index: b.index, Leaf: b.leaf}
	scheduled := b.action == ActionIngested || b.action == ActionRescheduled
	by := v.said.policies[b.policy]
	if by == nil && b.policy == v.Policy.Hash() {
		by = v.Policy.rules() // a database that was made without a first leaf
	}
	if by == nil && scheduled {
		f.Detail = fmt.Sprintf("its records were scheduled by policy %q, which was never applied", b.policy)
		v.find(f)
	}
	dates, known := v.said.dates[b.triggers]
	if !known && scheduled {
		f.Detail = fmt.Sprintf("its records were scheduled by triggers %q, which were never set", b.triggers)
		v.find(f)
	}
	var sums, rows, schedules [][32]byte
	seqs := [2]int64{0, -1}
	for r, err := range v.Store.LeafRows(ctx, b.leaf) {
		if err != nil {
			return err
		}
		if len(sums) == 0 {
			seqs[0] = r.Seq
		}
		seqs[1] = r.Seq
		sums, rows = append(sums, r.Checksum), append(rows, RowHash(&r.Row, r.Inputs))
		if r.Moved != nil {
			schedules = append(schedules, ReschedulingHash(r.Moved))
			if !r.Moved.To.DueAt.Equal(r.DueAt) {
				f.Subject, f.Detail = r.RecordID, fmt.Sprintf("it is due at %s, and was rescheduled to %s", cte.FormatTime(r.DueAt), cte.FormatTime(r.Moved.To.DueAt))
				v.find(f)
			}
		}
		if scheduled && by != nil && known {
			if facts := factsOf(&r.Row, by, dates); !by.Allows(facts, r.DueAt) {
				f.Subject, f.Detail = r.RecordID, fmt.Sprintf("it is due at %s, by policy %s at %s", cte.FormatTime(r.DueAt), by.Name(), cte.FormatTime(by.Schedule(facts).Due))
				v.find(f)
			}
		}
		if !scheduled && r.State == Active {
			f.Subject, f.Detail = r.RecordID, "the log says that it was archived, and it is active"
			v.find(f)
		}
		if b.action == ActionPurged && r.State != Purged {
			f.Subject, f.Detail = r.RecordID, fmt.Sprintf("the log says that it was purged, and it is %s", r.State)
			v.find(f)
		}
	}
	v.res.Records += int64(len(sums))
	if b.action == ActionIngested {
		v.seqs = append(v.seqs, seqs)
		if by != nil {
			v.replayed(by, int64(len(sums)))
		}
	}
	f.Subject = b.segment
	switch checksumRoot, rowRoot, scheduleRoot := archive.Root(sums), archive.Root(rows), archive.Root(schedules); {
	case len(sums) == 0 && v.said.lost(&b):
		return nil // a recovery has said so, or has left them as the backup had them
	case int64(len(sums)) != b.records:
		f.Detail = fmt.Sprintf("the leaf (%s) is of %d records, the database has %d of them", b.action, b.records, len(sums))
	case hexOf(checksumRoot) != b.checksumRoot:
		f.Detail = fmt.Sprintf("the Merkle root over the checksums of its %d records is %s, the leaf (%s) says %s", b.records, hexOf(checksumRoot), b.action, b.checksumRoot)
	case b.action == ActionIngested && hexOf(rowRoot) != b.rowRoot:
		f.Detail = fmt.Sprintf("the Merkle root over the rows of its %d records is %s, the leaf (%s) says %s: a lot, time, place or input was changed", b.records, hexOf(rowRoot), b.action, b.rowRoot)
	case b.action == ActionRescheduled && hexOf(scheduleRoot) != b.scheduleRoot:
		f.Detail = fmt.Sprintf("the Merkle root over the schedules of its %d records is %s, the leaf (%s) says %s: a due date or a class was changed", b.records, hexOf(scheduleRoot), b.action, b.scheduleRoot)
	default:
		return nil
	}
	v.find(f)
	return nil
}

// replayed counts records under the policy that was evaluated again for them.
func (v *logVerification) replayed(p *policy.Policy, records int64) {
	i := slices.IndexFunc(v.res.Policies, func(l LogPolicy) bool { return l.Hash == p.Hash() })
	if i < 0 {
		i = len(v.res.Policies)
		v.res.Policies = append(v.res.Policies, LogPolicy{Name: p.Name(), Hash: p.Hash()})
	}
	v.res.Policies[i].Records += records
}

// strangers names records that no leaf took in. The seqs of a batch are contiguous.
func (v *logVerification) strangers(ctx context.Context) error {
	slices.SortFunc(v.seqs, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	for r, err := range v.Store.Rows(ctx, Query{}) {
		if err != nil {
			return err
		}
		_, taken := slices.BinarySearchFunc(v.seqs, r.Seq, func(of [2]int64, seq int64) int {
			switch {
			case of[1] < seq:
				return -1
			case of[0] > seq:
				return 1
			}
			return 0
		})
		if !taken {
			v.find(LogFinding{Kind: LogRecord, Index: -1, Leaf: r.IngestLeaf, Subject: r.RecordID, Detail: "no leaf took it in"})
		}
	}
	return nil
}
