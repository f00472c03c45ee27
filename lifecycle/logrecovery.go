package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// LogRecovery is what RecoverLog found and did, or with DryRun would do. Its JSON names
// are a promise.
type LogRecovery struct {
	// RunID is empty if nothing was to be done.
	RunID  string `json:"run_id"`
	DryRun bool   `json:"dry_run"`
	// Vault has the newest checkpoint, of Size entries. The database had the first Common
	// of them, and has been given Replayed more.
	Vault    string `json:"vault"`
	Size     int64  `json:"size"`
	Common   int64  `json:"common"`
	Replayed int64  `json:"replayed"`
	// Behind counts leaves of the database that no vault has: they come after all that
	// is published.
	Behind int64 `json:"behind"`
	// What the entries brought back: holds, verified segments, archived records, those that
	// were archived anew or purged since, those that the database had no row of, classes
	// that were destroyed.
	HoldsPlaced      int   `json:"holds_placed"`
	HoldsExtended    int   `json:"holds_extended"`
	HoldsReleased    int   `json:"holds_released"`
	Segments         int   `json:"segments"`
	Archived         int64 `json:"archived"`
	Rearchived       int64 `json:"rearchived"`
	Purged           int64 `json:"purged"`
	Rebuilt          int64 `json:"rebuilt"`
	ClassesDestroyed int   `json:"classes_destroyed"`
	// LostRecords counts records that were taken in and that the database has no row of.
	LostRecords int64          `json:"lost_records"`
	Losses      []RecoveryLoss `json:"losses"`
	// DestroyAgain are classes that the log calls destroyed and whose keys this keyring
	// has: an older copy of it was put back.
	DestroyAgain []string `json:"destroy_again"`
	// KeyringProblem is why the keyring could not be asked.
	KeyringProblem string `json:"keyring_problem"`
	// Log is the publication that ended it, if this machine can sign.
	Log *Publication `json:"log,omitempty"`
}

// RecoveryLoss is something that could not be brought back. Its JSON names are a promise.
type RecoveryLoss struct {
	// Kind is one of the constants below.
	Kind string `json:"kind"`
	// Subject is the run, the record or the segment.
	Subject string `json:"subject"`
	Records int64  `json:"records"`
	Detail  string `json:"detail"`
}

const (
	// LostIngest: records of an ingest, which only its file brings back.
	LostIngest = "ingest"
	// LostKey: a hot record whose key had been moved to another class; the database has
	// the one from before, of a class that is destroyed.
	LostKey = "key"
	// LostConflict: a record that was archived, and that the database has with other
	// content, taken in again since. It stays as it is, and hot.
	LostConflict = "conflict"
	// LostManifest: a segment whose manifest no vault gives back, and its records.
	LostManifest = "manifest"
	// LostPurged: records that were purged, and of which no vault has the manifest any
	// more that could bring back their rows.
	LostPurged = "purged"
	// LostLineage: what the lots of archived records were made from, sealed in a segment
	// that cannot be opened. A hold that traces does not find them.
	LostLineage = "lineage"
	// LostRoot: records of a segment that are not those which the entry commits to.
	LostRoot = "root"
)

// setAside is why a hold is released that has the reference of a published one which
// comes back. When all is back it is placed again, or the other extended by it.
const setAside = "set aside while the log is recovered"

// logRecovery is the state of one RecoverLog.
type logRecovery struct {
	*Engine
	keys  *keyring
	lease Lease
	res   LogRecovery
	now   time.Time
	log   *audit.Log
	// from is where the first of the recoveries that never finished began.
	from int64
	// unfinished are their runs.
	unfinished []string

	manifests struct { // the last one
		segment string
		*archive.Manifest
	}
	staged    map[string]Segment   // those that were staged, with their keys and hashes
	lineages  map[string][]cte.Lot // of the records of the segment lineageOf
	lineageOf string
	classes   map[Period]string // of each period the newest
	seen      map[string]bool   // records of the last segment that an entry was about
	destroyed []string
	ends      ends
	// What a dry run has to remember, since the database does not.
	archived       map[string]bool
	taken, excused int64
	lostIngests    []RecoveryLoss
}

// RecoverLog brings a database that was restored from a backup, or has grown apart from
// what is published since, back to the log: what the entries tell that it has not is done
// again, from the entries and from the manifests in the vaults. Entries of its own that
// nobody has published come after them. It goes on where one that was interrupted has
// stopped. Nothing sweeps meanwhile; keys are not touched.
//
// Every vault that is configured has to answer: in one that does not there may be a newer
// checkpoint, and two histories would be signed.
func (e *Engine) RecoverLog(ctx context.Context, dryRun bool) (LogRecovery, error) {
	r := &logRecovery{Engine: e, keys: e.keyring(), now: e.Now().UTC(), staged: map[string]Segment{}, archived: map[string]bool{},
		ends: ends{map[string]int64{}, map[string]int64{}, map[string]bool{}, map[string]string{}},
		res:  LogRecovery{DryRun: dryRun, Losses: []RecoveryLoss{}, DestroyAgain: []string{}}}
	err := r.run(ctx)
	return r.res, err
}

func (r *logRecovery) run(ctx context.Context) error {
	verifier, err := r.logVerifier(ctx)
	if err != nil {
		return err
	}
	if r.LogSigner != nil {
		if _, err := r.logSigner(verifier); err != nil {
			return err
		}
	}
	heads, newest, err := r.heads(ctx, verifier)
	if err != nil {
		return err
	}
	r.log = newest.log
	r.res.Vault, r.res.Size = newest.source.Name(), newest.Size
	state, err := r.Store.LogState(ctx)
	if err != nil {
		return err
	}
	if r.res.Common, err = r.common(ctx, min(state.Size, newest.Size)); err != nil {
		return err
	}
	if err := r.findUnfinished(ctx); err != nil {
		return err
	}
	if r.res.Common == newest.Size && len(r.unfinished) == 0 {
		return nil
	}
	r.res.Behind = state.Size - r.res.Common + state.Pending
	if r.res.DryRun {
		if err := r.replay(ctx); err != nil {
			return err
		}
		return r.account(ctx)
	}
	if r.res.RunID, err = r.newID("run", r.now); err != nil {
		return err
	}
	// A sweep's run, for it has a sweep's lease.
	run := Run{ID: r.res.RunID, Kind: "sweep", Actor: r.Actor, StartedAt: r.now}
	if r.lease, err = r.Store.BeginRun(ctx, run, r.leaf(r.now, ActionRunStarted, run.ID, run.ID,
		map[string]any{"kind": run.Kind, "recovery": true, "from": r.from, "to": newest.Size})); err != nil {
		return err
	}
	err = r.recover(ctx, state.Size > r.res.Common)
	if err = errors.Join(err, r.finishRun(ctx, run, r.res, err)); err != nil {
		return err
	}
	for _, h := range heads {
		if err := r.Store.Published(ctx, h.source.Name(), h.Size); err != nil {
			return err
		}
	}
	if r.LogSigner == nil {
		r.Log.Warn().Msg("this machine has no key to sign the log with: publish it where the key is")
		return nil
	}
	p, err := r.Publish(ctx)
	if r.res.Log = &p; err != nil {
		return fmt.Errorf("the database is recovered; the log is not in a vault yet: %w", err)
	}
	return nil
}

// recover is what the run does.
func (r *logRecovery) recover(ctx context.Context, rebase bool) error {
	if rebase {
		if err := r.Store.Rebase(ctx, r.lease, r.res.Common); err != nil {
			return err
		}
	}
	if err := r.replay(ctx); err != nil {
		return err
	}
	root, err := tlog.TreeHash(r.res.Size, r.storedHashes(ctx))
	if err != nil {
		return fmt.Errorf("couldn't compute the log's head: %w", err)
	}
	if root != r.log.Root {
		return fmt.Errorf("replayed, the log's %d entries have the root %s, and the checkpoint says %s", r.res.Size, hexOf(root), hexOf(r.log.Root))
	}
	if err := r.placeAgain(ctx); err != nil {
		return err
	}
	if err := r.account(ctx); err != nil {
		return err
	}
	left, err := r.missing(ctx) // but for what a recovery said that was cut off after it
	if err != nil {
		return err
	}
	purged, err := r.purgedAndLost(ctx)
	if err != nil {
		return err
	}
	return r.Store.Append(ctx, r.leaf(r.Now(), ActionRecovered, r.res.RunID, r.res.RunID, map[string]any{
		"from": r.from, "to": r.res.Size, "replayed": r.res.Replayed, "behind": r.res.Behind, "archived": r.res.Archived, "rebuilt": r.res.Rebuilt,
		"lost_records": left, "lost_purged": purged, "losses": len(r.res.Losses)}))
}

// head is the newest checkpoint of one vault.
type head struct {
	published
	source vaultSource
	log    *audit.Log
}

// heads finds the newest checkpoint of each configured vault that has any, whatever the
// database knows of vaults, and the newest of all. The others must be of its log.
func (e *Engine) heads(ctx context.Context, verifier note.Verifier) (all []head, newest head, err error) {
	for _, v := range e.Vaults {
		p, err := e.newestCheckpoint(ctx, v, verifier)
		if err != nil {
			return nil, newest, &Refused{"vault", fmt.Sprintf("vault %s cannot be asked for the log, which may go on there: %v", v.Name(), err),
				"mount or reach it and try again; one that is lost for good, take out of the configuration"}
		}
		if p.Size == 0 {
			continue
		}
		h := head{p, vaultSource{v}, audit.Open(vaultSource{v}, p.Checkpoint)}
		if all = append(all, h); h.Size > newest.Size {
			newest = h
		}
	}
	if newest.Size == 0 {
		return nil, newest, &Refused{"log", "no vault has a checkpoint of this log", "check that the configuration names the right vaults, and the right key of the log"}
	}
	for _, h := range all {
		root, err := tlog.TreeHash(h.Size, newest.log.Hashes(ctx))
		if err != nil {
			return nil, newest, fmt.Errorf("couldn't read the log in vault %s: %w", newest.source.Name(), err)
		}
		if root != h.Root {
			return nil, newest, &Refused{"log", fmt.Sprintf("vaults %s and %s have two logs that begin alike: at %d entries their roots are %s and %s",
				newest.source.Name(), h.source.Name(), h.Size, hexOf(root), hexOf(h.Root)), "find out who has the log's key; to see both, type: lotkeeper audit verify"}
		}
	}
	return all, newest, nil
}

// FirstLeaf reads the leaf that the published log begins with, from the vaults alone:
// where there is no database, one is made anew with it.
func (e *Engine) FirstLeaf(ctx context.Context, verifier note.Verifier) (Leaf, error) {
	_, newest, err := e.heads(ctx, verifier)
	if err != nil {
		return Leaf{}, err
	}
	for en, err := range newest.log.Entries(ctx, 0, 1) {
		if err != nil {
			return Leaf{}, fmt.Errorf("couldn't read the log in vault %s: %w", newest.source.Name(), err)
		}
		var o Origin
		if err := json.Unmarshal(en.Body, &o); err != nil || en.Action != ActionInit {
			return Leaf{}, fmt.Errorf("the log in vault %s does not begin with how the database was made", newest.source.Name())
		}
		if v, err := note.NewVerifier(o.LogKey); err != nil || v.Name() != verifier.Name() || v.KeyHash() != verifier.KeyHash() {
			return Leaf{}, fmt.Errorf("the log in vault %s names another key than the one that it is signed with", newest.source.Name())
		}
		return leafOf(&en), nil
	}
	return Leaf{}, fmt.Errorf("the log in vault %s is empty", newest.source.Name())
}

func leafOf(en *audit.Entry) Leaf {
	return Leaf{At: en.At, Actor: en.Actor, Action: en.Action, RunID: en.RunID, Subject: en.Subject, Body: en.Body, Software: en.Software, Role: en.Role}
}

// common is how many entries, up to most, the database and the vault share.
func (r *logRecovery) common(ctx context.Context, most int64) (int64, error) {
	here, there := r.storedHashes(ctx), r.log.Hashes(ctx)
	same := func(n int64) (bool, error) {
		a, err := tlog.TreeHash(n, here)
		if err != nil {
			return false, fmt.Errorf("couldn't compute the database's root at %d entries: %w", n, err)
		}
		b, err := tlog.TreeHash(n, there)
		if err != nil {
			return false, fmt.Errorf("couldn't compute the log's root at %d entries: %w", n, err)
		}
		return a == b, nil
	}
	// Trees that are the same are so at every smaller size.
	low, high := int64(0), most
	for low < high {
		mid := low + (high-low+1)/2
		ok, err := same(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low, nil
}

// findUnfinished looks for recoveries that were interrupted, back to the last that was
// not: what they had replayed is in the database, and what was lost was not said.
func (r *logRecovery) findUnfinished(ctx context.Context) error {
	r.from = r.res.Common
	started, err := r.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionRunStarted}})
	if err != nil {
		return err
	}
	for _, l := range slices.Backward(started) {
		var body struct {
			Recovery bool  `json:"recovery"`
			From     int64 `json:"from"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		if !body.Recovery {
			continue
		}
		run, err := r.Store.Run(ctx, l.RunID)
		if err != nil {
			return err
		}
		if run.Status == "done" {
			break
		}
		r.unfinished, r.from = append(r.unfinished, l.RunID), min(r.from, body.From)
	}
	return nil
}

// replay goes through the entries. What the database had before is looked at only for
// what it tells of losses.
func (r *logRecovery) replay(ctx context.Context) error {
	i := r.from
	for en, err := range r.log.Entries(ctx, r.from, r.res.Size) {
		if err != nil {
			return fmt.Errorf("couldn't read the log in vault %s: %w", r.res.Vault, err)
		}
		effect, err := r.effect(ctx, i, &en)
		if err == nil && i >= r.res.Common && !r.res.DryRun {
			err = r.apply(ctx, i, &en, effect)
		}
		if err != nil {
			return fmt.Errorf("couldn't replay entry %d (%s): %w", i, en.Action, err)
		}
		if i >= r.res.Common {
			r.res.Replayed++
			r.progress("replay the log", int(r.res.Replayed))
		}
		i++
	}
	return nil
}

func (r *logRecovery) apply(ctx context.Context, i int64, en *audit.Entry, effect Effect) error {
	if h, ok := effect.(HoldPlaced); ok && h.Hold.Reference != "" {
		if err := r.makeRoom(ctx, &h.Hold); err != nil {
			return err
		}
	}
	for attempt := 0; ; attempt++ {
		err := r.Store.Replay(ctx, r.lease, i, leafOf(en), effect)
		if !errors.Is(err, ErrMoved) || attempt == 100 {
			return err
		}
		// Somebody has placed a hold, and given its leaf this index.
		if err := r.Store.Rebase(ctx, r.lease, i); err != nil {
			return err
		}
	}
}

// makeRoom sets a hold aside that was placed since with a published one's reference.
func (r *logRecovery) makeRoom(ctx context.Context, h *Hold) error {
	open, err := r.Store.Holds(ctx, true)
	if err != nil {
		return err
	}
	for _, o := range open {
		if o.ID == h.ID || o.Kind != h.Kind || o.Reference != h.Reference {
			continue
		}
		if err := r.Store.Release(ctx, o.ID, setAside, r.leaf(r.Now(), ActionHoldReleased, r.res.RunID, o.ID, map[string]any{"reason": setAside})); err != nil && !errors.Is(err, ErrReleased) {
			return err
		}
	}
	return nil
}

// placeAgain places what was set aside since the last recovery, or extends the hold that
// has its reference now.
func (r *logRecovery) placeAgain(ctx context.Context) error {
	said, err := r.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionRecovered}})
	if err != nil {
		return err
	}
	last := int64(0)
	for _, l := range said {
		if !slices.Contains(r.unfinished, l.RunID) {
			last = l.ID
		}
	}
	holds, err := r.Store.Holds(ctx, false)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if h.ReleaseReason != setAside {
			continue
		}
		released, err := r.Store.Leaves(ctx, LeafQuery{Subject: h.ID, Actions: []string{ActionHoldReleased}, After: last})
		if err != nil {
			return err
		}
		if len(released) == 0 {
			continue
		}
		p, err := r.placement(Hold{Kind: h.Kind, Reference: h.Reference, Reason: h.Reason, ReviewAt: h.ReviewAt, Until: h.Until, Scopes: h.Scopes}, r.Now(), r.res.RunID)
		if err != nil {
			return err
		}
		var taken *ReferenceTaken
		if err := r.Store.Place(ctx, p); errors.As(err, &taken) {
			if err := r.Store.Extend(ctx, taken.HoldID, h.Scopes, r.leaf(r.Now(), ActionHoldExtended, r.res.RunID, taken.HoldID, map[string]any{"scopes": h.Scopes})); err != nil {
				return fmt.Errorf("couldn't extend hold %s by the scopes of %s: %w", taken.HoldID, h.ID, err)
			}
		} else if err != nil {
			return fmt.Errorf("couldn't place hold %s again: %w", h.ID, err)
		}
	}
	return nil
}

func (r *logRecovery) lose(kind, subject string, records int64, format string, args ...any) {
	r.res.Losses = append(r.res.Losses, RecoveryLoss{kind, subject, records, fmt.Sprintf(format, args...)})
}

// effect says what an entry is to do again, and counts it.
func (r *logRecovery) effect(ctx context.Context, i int64, en *audit.Entry) (Effect, error) {
	var b struct {
		Kind      string          `json:"kind"`
		Status    string          `json:"status"`
		Result    json.RawMessage `json:"result"`
		Reference string          `json:"reference"`
		Reason    string          `json:"reason"`
		ReviewAt  time.Time       `json:"review_at"`
		Until     time.Time       `json:"until"`
		Scopes    []Scope         `json:"scopes"`
		Vault     string          `json:"vault"`
		Classes   []string        `json:"classes"`
		Epoch     uint64          `json:"epoch"`
		Copies    []Copy          `json:"copies"`
		Copy      Copy            `json:"copy"`
		File      string          `json:"file"`
		Records   int64           `json:"records"`
		Lost      int64           `json:"lost_records"`
	}
	if err := json.Unmarshal(en.Body, &b); err != nil {
		return nil, err
	}
	fresh := i >= r.res.Common
	switch en.Action {
	case ActionRunStarted:
		return RunBegun{Run{ID: en.RunID, Kind: b.Kind, Actor: en.Actor, StartedAt: en.At, Status: "running"}}, nil
	case ActionRunFinished:
		return RunEnded{Run{ID: en.RunID, Kind: b.Kind, FinishedAt: en.At, Status: b.Status, Result: b.Result}}, nil
	case ActionRunInterrupted:
		return RunEnded{Run{ID: en.RunID, Status: "interrupted"}}, nil
	case ActionIngested:
		here, err := r.knows(ctx, i, en)
		if err != nil || here {
			return nil, err
		}
		if fresh {
			r.taken += b.Records
		}
		if n := len(r.lostIngests) - 1; n >= 0 && r.lostIngests[n].Subject == en.RunID && r.lostIngests[n].Detail == b.File {
			r.lostIngests[n].Records += b.Records
		} else {
			r.lostIngests = append(r.lostIngests, RecoveryLoss{LostIngest, en.RunID, b.Records, b.File})
		}
	case ActionRecovered:
		if fresh {
			r.excused += b.Lost
		}
	case ActionHoldPlaced:
		r.res.HoldsPlaced++
		return HoldPlaced{Hold{ID: en.Subject, Kind: HoldKind(b.Kind), Reference: b.Reference, Reason: b.Reason, PlacedBy: en.Actor, PlacedAt: en.At,
			ReviewAt: b.ReviewAt, Until: b.Until, Scopes: uniqueScopes(b.Scopes)}}, nil
	case ActionHoldExtended:
		r.res.HoldsExtended++
		return HoldExtended{en.Subject, uniqueScopes(b.Scopes)}, nil
	case ActionHoldReleased, ActionHoldEnded:
		r.res.HoldsReleased++
		return HoldReleased{en.Subject, b.Reason}, nil
	case ActionLegalHoldSet:
		return LegalHoldMoved{en.Subject, b.Vault, LegalSet}, nil
	case ActionLegalHoldOff:
		return LegalHoldMoved{en.Subject, b.Vault, Lifting}, nil
	case ActionLegalHoldGone:
		return LegalHoldMoved{en.Subject, b.Vault, LegalNone}, nil
	case ActionClassOpened:
		r.classes = nil
		opened := ClassesOpened{Epoch: b.Epoch}
		for _, id := range b.Classes {
			c, err := parseClass(id)
			if err != nil {
				return nil, err
			}
			opened.Classes = append(opened.Classes, c)
		}
		return opened, nil
	case ActionShredIntent:
		return ClassesMoved{Classes: b.Classes, To: Condemned}, nil
	case ActionShredExecuting:
		return ClassesMoved{Classes: b.Classes, To: Executing}, nil
	case ActionShredded:
		r.res.ClassesDestroyed += len(b.Classes)
		r.destroyed = append(r.destroyed, b.Classes...)
		return ClassesMoved{b.Classes, Destroyed, en.At, b.Epoch}, nil
	case ActionStaged:
		return r.stagedEffect(ctx, en)
	case ActionVerified:
		r.res.Segments++
		return SegmentMoved{en.Subject, Verified, b.Copies}, nil
	case ActionSegmentMoved:
		return r.movedEffect(en)
	case ActionSettled:
		return SegmentMoved{ID: en.Subject, To: Settled}, nil
	case ActionAbandoned:
		return SegmentMoved{ID: en.Subject, To: Abandoned}, nil
	case ActionArchived:
		return r.archivedEffect(ctx, i, en)
	case ActionClassMoved:
		return r.classMovedEffect(en)
	case ActionRearchived:
		return r.rearchivedEffect(ctx, i, en)
	case ActionPurged:
		return r.purgedEffect(ctx, i, en)
	case ActionObjectsDeleted:
		return CopyDeleted{en.Subject, b.Vault}, nil
	case ActionVaultAdded:
		return VaultAdded{cmp.Or(en.Subject, b.Vault)}, nil
	case ActionVaultActive:
		return VaultMoved{en.Subject, ActiveVault}, nil
	case ActionVaultRetiring:
		return VaultMoved{en.Subject, Retiring}, nil
	case ActionVaultCopied:
		return CopyAdded{en.Subject, b.Copy}, nil
	case ActionClockAccepted:
		return ClockAccepted{}, nil
	case ActionKeyringMended:
		return KeyringAccepted{b.Epoch}, nil
	}
	return nil, nil
}

// knows says whether the database has the records of an entry that took some in.
func (r *logRecovery) knows(ctx context.Context, i int64, en *audit.Entry) (bool, error) {
	if i < r.res.Common {
		leaves, err := r.Store.LogLeaves(ctx, i, i+1)
		if err != nil || len(leaves) == 0 {
			return false, err
		}
		for _, err := range r.Store.LeafRows(ctx, leaves[0].ID) {
			return err == nil, err
		}
		return false, nil
	}
	want, _, err := en.Marshal()
	if err != nil {
		return false, err
	}
	leaves, err := r.Store.Leaves(ctx, LeafQuery{RunID: en.RunID, Actions: []string{ActionIngested}})
	if err != nil {
		return false, err
	}
	for i := range leaves {
		have := leaves[i].Entry()
		if b, _, err := have.Marshal(); err != nil || string(b) == string(want) {
			return err == nil, err
		}
	}
	return false, nil
}

// stagedEffect is a segment's row, from its manifest. Without one it has what the entry
// says: so it is if nothing was ever put.
func (r *logRecovery) stagedEffect(ctx context.Context, en *audit.Entry) (Effect, error) {
	var b struct {
		Class          string `json:"class"`
		Records        int    `json:"records"`
		ObjectKey      string `json:"object_key"`
		ObjectSHA256   string `json:"object_sha256"`
		Root           string `json:"merkle_root"`
		ManifestKey    string `json:"manifest_key"`
		ManifestSHA256 string `json:"manifest_sha256"`
	}
	if err := json.Unmarshal(en.Body, &b); err != nil {
		return nil, err
	}
	g := Segment{ID: en.Subject, Class: b.Class, State: Staged, RunID: en.RunID, Records: b.Records, ObjectKey: b.ObjectKey, ManifestKey: b.ManifestKey,
		WrappedIdentity: []byte{}, RetainUntil: en.At, CreatedAt: en.At}
	for _, h := range []struct {
		text string
		sum  *[32]byte
	}{{b.ObjectSHA256, &g.ObjectSHA256}, {b.Root, &g.Root}, {b.ManifestSHA256, &g.ManifestSHA256}} {
		var err error
		if *h.sum, err = parseHex(h.text); err != nil {
			return nil, err
		}
	}
	manifest, err := r.object(ctx, g.ManifestKey, g.ManifestSHA256)
	if err != nil {
		return nil, err
	}
	if manifest != nil {
		m, err := archive.ParseManifest(manifest)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", g.ManifestKey, err)
		}
		r.manifests.segment, r.manifests.Manifest = g.ID, m
		g.ManifestSize, g.ObjectSize, g.PlaintextSHA256 = int64(len(manifest)), m.ObjectSize, m.PlaintextSHA256
		g.WrappedIdentity, g.RetainUntil, g.CreatedAt = m.WrappedIdentity, m.RetainUntil.UTC(), m.CreatedAt.UTC()
	}
	r.staged[g.ID] = g
	return SegmentStaged{g}, nil
}

// movedEffect is a segment that was moved to a later class, with what opens it there.
func (r *logRecovery) movedEffect(en *audit.Entry) (Effect, error) {
	var b struct {
		To          string    `json:"to"`
		Wrapped     []byte    `json:"wrapped_identity"`
		RetainUntil time.Time `json:"retain_until"`
		Copies      []Copy    `json:"copies"`
	}
	if err := json.Unmarshal(en.Body, &b); err != nil {
		return nil, err
	}
	g := r.staged[en.Subject]
	g.ID, g.Class, g.WrappedIdentity, g.RetainUntil, g.Copies = en.Subject, b.To, b.Wrapped, b.RetainUntil, b.Copies
	if _, ok := r.staged[en.Subject]; ok {
		r.staged[en.Subject] = g
	}
	return SegmentRescheduled{g}, nil
}

// object reads what has the SHA-256, whichever version it is of whichever vault. nil if
// none has it; an error if one could not be asked.
func (r *logRecovery) object(ctx context.Context, key string, sum [32]byte) ([]byte, error) {
	var faults []error
	for _, v := range r.Vaults {
		b, err := readObject(ctx, v, key, "")
		if err == nil && cte.Checksum(b) == sum {
			return b, nil
		}
		if err != nil && !errors.Is(err, archive.ErrNotFound) {
			faults = append(faults, fmt.Errorf("couldn't read %s in vault %s: %w", key, v.Name(), err))
			continue
		}
		for _, b := range readVersions(ctx, v, key) {
			if cte.Checksum(b) == sum {
				return b, nil
			}
		}
	}
	return nil, errors.Join(faults...)
}

// segment is what is known of one that records are archived in, and its manifest, nil if
// no vault has it.
func (r *logRecovery) segment(ctx context.Context, id string) (Segment, *archive.Manifest, error) {
	g, err := r.segmentRow(ctx, id)
	if err != nil {
		return g, nil, err
	}
	if r.manifests.segment == id {
		return g, r.manifests.Manifest, nil
	}
	b, err := r.object(ctx, g.ManifestKey, g.ManifestSHA256)
	if err != nil || b == nil {
		return g, nil, err
	}
	m, err := archive.ParseManifest(b)
	if err != nil {
		return g, nil, fmt.Errorf("manifest %s: %w", g.ManifestKey, err)
	}
	r.manifests.segment, r.manifests.Manifest = id, m
	return g, m, nil
}

func (r *logRecovery) segmentRow(ctx context.Context, id string) (Segment, error) {
	g, err := r.Store.Segment(ctx, id)
	if staged, ok := r.staged[id]; ok && errors.Is(err, ErrNotFound) {
		return staged, nil // a dry run has staged nothing
	}
	return g, err
}

// rows finds which of the records the database has.
func (r *logRecovery) rows(ctx context.Context, ids []string) (map[string]Row, error) {
	have := map[string]Row{}
	if len(ids) == 0 {
		return have, nil
	}
	for row, err := range r.Store.Rows(ctx, Query{RecordIDs: ids}) {
		if err != nil {
			return nil, err
		}
		have[row.RecordID] = row
	}
	return have, nil
}

// archivedBody is what an entry says of the records that it archived.
type archivedBody struct {
	First   string   `json:"first"`
	Last    string   `json:"last"`
	Records int64    `json:"records"`
	Root    string   `json:"checksum_root"`
	Kept    []string `json:"kept"`
}

// archivedEffect finds the records that an entry archived: those of the manifest from its
// first to its last, but for what stayed hot and what an earlier entry had archived.
func (r *logRecovery) archivedEffect(ctx context.Context, i int64, en *audit.Entry) (Effect, error) {
	var b archivedBody
	if err := json.Unmarshal(en.Body, &b); err != nil {
		return nil, err
	}
	g, m, err := r.segment(ctx, en.Subject)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return r.archivedByRows(ctx, i, &g, &b)
	}
	first := slices.IndexFunc(m.Entries, func(x archive.Entry) bool { return x.RecordID == b.First })
	last := slices.IndexFunc(m.Entries, func(x archive.Entry) bool { return x.RecordID == b.Last })
	if first < 0 || last < first {
		return nil, fmt.Errorf("the manifest %s has no records from %s to %s", g.ManifestKey, b.First, b.Last)
	}
	part := m.Entries[first : last+1]
	ids := make([]string, len(part))
	for n := range part {
		ids[n] = part[n].RecordID
	}
	have, err := r.rows(ctx, ids)
	if err != nil {
		return nil, err
	}
	if r.lineageOf != g.ID {
		r.seen, r.lineages, r.lineageOf = map[string]bool{}, nil, g.ID
	}
	out := RecordsArchived{Segment: g.ID}
	var sums [][32]byte
	var lacking []archive.Entry
	for _, x := range part {
		sum, err := parseHex(x.Checksum)
		if err != nil {
			return nil, err
		}
		row, here := have[x.RecordID]
		in := here && row.State != Active && row.Segment == g.ID
		if slices.Contains(b.Kept, x.RecordID) || r.seen[x.RecordID] || in && i >= r.res.Common {
			continue
		}
		r.seen[x.RecordID] = true
		if r.res.DryRun {
			r.archived[x.RecordID] = true
		}
		sums = append(sums, sum)
		switch {
		case in:
		case !here:
			lacking = append(lacking, x)
		case row.State == Active && row.Checksum == sum:
			out.Members = append(out.Members, Member{x.RecordID, sum})
		default:
			r.lose(LostConflict, x.RecordID, 1, "segment %s has it, and the database another record of this id, taken in again since: it stays", g.ID)
		}
	}
	// An entry that the database had is not looked at so closely: others may have
	// archived some of these before it, too.
	if root := archive.Root(sums); i >= r.res.Common && b.Root != "" && (hexOf(root) != b.Root || int64(len(sums)) != b.Records) {
		r.lose(LostRoot, g.ID, b.Records, "the entry is of %d records with the root %s, the manifest has %d of them with the root %s", b.Records, b.Root, len(sums), hexOf(root))
	}
	r.res.Archived += int64(len(sums))
	r.res.Rebuilt += int64(len(lacking))
	if len(lacking) > 0 {
		out.Lacking, err = r.rebuild(ctx, &g, m, lacking)
	}
	return out, err
}

// rebuild makes rows anew: from the manifest, and for lineage from the segment itself.
func (r *logRecovery) rebuild(ctx context.Context, g *Segment, m *archive.Manifest, entries []archive.Entry) ([]Sealed, error) {
	out := make([]Sealed, len(entries))
	var periods []Period
	for i, x := range entries {
		row, err := rowOf(x)
		if err != nil {
			return nil, fmt.Errorf("manifest %s, record %s: %w", g.ManifestKey, x.RecordID, err)
		}
		row.ArchiveClass, row.State = m.Class, Active
		out[i].Row = row
		periods = append(periods, HotPeriod(row.DueAt))
	}
	if r.lineages == nil {
		lineages, lost, err := r.lineage(ctx, g, m)
		if err != nil {
			return nil, err
		}
		if r.lineages = lineages; lost != nil {
			r.lineages = map[string][]cte.Lot{}
			r.lose(LostLineage, g.ID, int64(m.Records), "the segment cannot be opened, and what its records' lots were made from is sealed in it: %v", lost)
		}
	}
	for i := range out {
		out[i].Inputs = r.lineages[out[i].RecordID]
	}
	if r.res.DryRun {
		return out, nil
	}
	if r.classes == nil {
		r.classes = map[Period]string{}
	}
	var unknown []Period
	for _, p := range periods {
		if r.classes[p] == "" && !slices.Contains(unknown, p) {
			unknown = append(unknown, p)
		}
	}
	latest, err := r.Store.LatestClasses(ctx, unknown)
	if err != nil {
		return nil, err
	}
	for p, c := range latest {
		r.classes[p] = c.ID
	}
	for i, p := range periods {
		// Its DEK may have been moved to another since, or its day have had another
		// generation then: the newest of its day stands for them.
		if out[i].Class = r.classes[p]; out[i].Class == "" {
			return nil, fmt.Errorf("the log has opened no class for record %s, which fell due on %s", out[i].RecordID, cte.FormatTime(out[i].DueAt))
		}
	}
	return out, nil
}

// rowOf is the inverse of indexOf.
func rowOf(x archive.Entry) (Row, error) {
	var b struct {
		TLC       string        `json:"traceability_lot_code"`
		TLCSource string        `json:"tlc_source"`
		EventType cte.EventType `json:"event_type"`
		Event     time.Time     `json:"event_timestamp"`
		Obtained  time.Time     `json:"created_or_obtained_at"`
		Due       time.Time     `json:"due_at"`
		NotBefore time.Time     `json:"purge_not_before"`
		Location  string        `json:"location"`
		Product   string        `json:"product"`
		Content   string        `json:"content_identity"`
		Gaps      []string      `json:"gaps"`
	}
	if err := json.Unmarshal(x.Index, &b); err != nil {
		return Row{}, fmt.Errorf("its index: %w", err)
	}
	r := Row{RecordID: x.RecordID, TLC: b.TLC, TLCSource: b.TLCSource, EventType: b.EventType, EventTimestamp: b.Event.UTC(), CreatedOrObtainedAt: b.Obtained.UTC(),
		DueAt: b.Due.UTC(), PurgeNotBefore: b.NotBefore.UTC(), Location: b.Location, Product: b.Product, Gaps: b.Gaps}
	var err error
	if r.Checksum, err = parseHex(x.Checksum); err != nil {
		return r, err
	}
	r.Content, err = parseHex(b.Content)
	return r, err
}

// lineage reads from a segment what its records' lots were made from. A dry run only
// looks whether it can be opened. Lost says that nobody can any more; an error, that it
// could not be asked for now: holds go by lineage, so that must not pass for a loss.
func (r *logRecovery) lineage(ctx context.Context, g *Segment, m *archive.Manifest) (out map[string][]cte.Lot, lost, err error) {
	if err := r.keys.ask(ctx, g.Class); err != nil {
		return nil, nil, err
	}
	identity, err := r.keys.identity(ctx, g)
	if err != nil || r.res.DryRun {
		return nil, err, nil
	}
	sums := make(map[string]string, len(m.Entries))
	for _, x := range m.Entries {
		sums[x.RecordID] = x.Checksum
	}
	var faults []error
	var away *vaultFault
	for _, c := range g.Copies {
		out, err := r.lineageIn(ctx, g, c, identity, sums)
		if err == nil {
			return out, nil, nil
		}
		err = fmt.Errorf("%s in vault %s: %w", g.ObjectKey, c.Vault, err)
		if errors.As(err, &away) {
			return nil, nil, err
		}
		faults = append(faults, err)
	}
	return nil, cmp.Or(errors.Join(faults...), errors.New("no copy of it is known")), nil
}

func (r *logRecovery) lineageIn(ctx context.Context, g *Segment, c Copy, identity age.Identity, sums map[string]string) (map[string][]cte.Lot, error) {
	v, err := r.vault(c.Vault)
	if err != nil {
		return nil, err
	}
	object, _, err := v.Get(ctx, g.ObjectKey, c.ObjectVersion)
	if err != nil && !errors.Is(err, archive.ErrNotFound) {
		err = &vaultFault{err}
	}
	if err != nil {
		return nil, err
	}
	defer object.Close()
	out := map[string][]cte.Lot{}
	return out, archive.ReadLines(object, identity, func(_ int, line []byte) error {
		rec, err := cte.ParseLine(line)
		if err != nil {
			return err
		}
		if sum := cte.Checksum(line); sums[rec.RecordID] != hexOf(sum) {
			return fmt.Errorf("record %s: %w", rec.RecordID, errChecksum)
		}
		if len(rec.InputLots) > 0 {
			out[rec.RecordID] = rec.InputLots
		}
		return nil
	})
}

// missing counts records that were taken in, and of which there is no row, but for those
// that a recovery has said are lost.
func (r *logRecovery) missing(ctx context.Context) (int64, error) {
	taken, err := r.takenIn(ctx)
	if err != nil {
		return 0, err
	}
	counts, err := r.Store.Counts(ctx)
	return max(0, taken-counts[Active]-counts[Archived]-counts[Purged]), err
}

// account says what could not be brought back, and what is left to do with the keys.
func (r *logRecovery) account(ctx context.Context) error {
	var err error
	if r.res.LostRecords, err = r.missing(ctx); err != nil {
		return err
	}
	if r.res.DryRun {
		r.res.LostRecords = max(0, r.res.LostRecords+r.taken-r.excused-r.res.Rebuilt)
	}
	said, err := r.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionRecovered}})
	if err != nil {
		return err
	}
	for _, l := range said {
		if slices.Contains(r.unfinished, l.RunID) {
			n, err := lostRecords(&l)
			if err != nil {
				return err
			}
			r.res.LostRecords += n
		}
	}
	if purged := r.sayUnnamed(); r.res.LostRecords > purged {
		for _, l := range r.lostIngests {
			r.lose(LostIngest, l.Subject, l.Records, "taken in from %s; those that were archived since are back; ingest it again, what is there counts as a duplicate", l.Detail)
		}
	}
	status, err := r.Keys.Status(ctx)
	if err != nil {
		r.res.KeyringProblem = err.Error()
	}
	slices.Sort(r.destroyed)
	for _, class := range slices.Compact(r.destroyed) {
		if _, live := slices.BinarySearch(status.Live, class); live {
			r.res.DestroyAgain = append(r.res.DestroyAgain, class)
			continue
		}
		for after := int64(0); ; {
			page, err := r.Store.ClassDEKs(ctx, class, after, r.Limits.BatchRecords)
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].Row.Seq
			for _, d := range page {
				if !r.archived[d.Row.RecordID] {
					r.lose(LostKey, d.Row.RecordID, 1, "its key was moved to another class after the backup, and the database has the one of %s, which is destroyed: no copy of it is left here", class)
				}
			}
		}
	}
	return nil
}

// lostRecords is how many records the leaf of a recovery says are lost.
func lostRecords(l *Leaf) (int64, error) {
	var body struct {
		Lost int64 `json:"lost_records"`
	}
	if err := json.Unmarshal(l.Body, &body); err != nil {
		return 0, fmt.Errorf("leaf %d: %w", l.ID, err)
	}
	return body.Lost, nil
}
