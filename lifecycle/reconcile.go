package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
	"github.com/lotkeeper/lotkeeper/shred"
)

// Kinds of drift: what is there and should not be, or should be and is not. Their
// names are a promise; docs/reconcile.md says of each what to do.
const (
	// DriftPastDue: records whose due day is over, not held, nor of a lot that keeps
	// them, and not archived.
	DriftPastDue = "past-due"
	// DriftNoCopy: what is archived has no verified copy where it should have one.
	DriftNoCopy = "archived-without-copy"
	// DriftUnknownObject: a version or delete marker in a vault that nothing names.
	DriftUnknownObject = "unknown-object"
	// DriftAbandoned: a segment was given up, and objects of it are still there.
	DriftAbandoned = "abandoned-segment"
	// DriftKeyWithoutRecords: a class key or a DEK that no record needs.
	DriftKeyWithoutRecords = "key-without-records"
	// DriftRecordWithoutKey: records, or segments, whose key is not there.
	DriftRecordWithoutKey = "record-without-key"
	// DriftClassOverdue: a class that should be destroyed.
	DriftClassOverdue = "class-overdue"
	// DriftLegalHoldWithoutHold: a legal hold that no open hold asks for.
	DriftLegalHoldWithoutHold = "legal-hold-without-hold"
	// DriftHoldWithoutLegalHold: a legal hold that an open hold asks for is not there.
	DriftHoldWithoutLegalHold = "hold-without-legal-hold"
	// DriftRunHistory: there are not as many records as runs and trail say.
	DriftRunHistory = "run-history"
	// DriftLockShort: an object is locked shorter, or otherwise, than was recorded.
	DriftLockShort = "lock-short"
	// DriftUnfinishedRun: a run, or a segment of one, that nobody is finishing.
	DriftUnfinishedRun = "unfinished-run"
	// DriftKeyringCopy: the keyring's copies differ from each other, or from the log.
	DriftKeyringCopy = "keyring-copy"
	// DriftVault: a vault that could not be compared.
	DriftVault = "vault"
	// DriftPolicyReview: a rule in force that was to be looked at again by now.
	DriftPolicyReview = "policy-review"
)

// Drift is one finding of a reconciliation. Its JSON names are a promise.
type Drift struct {
	Kind string `json:"kind"`
	// Subject is the id of what it is about: a class, segment, run, vault or key of
	// an object.
	Subject string `json:"subject"`
	Vault   string `json:"vault"`
	// Records is how many records it is about; 0 where it is about none, or it is
	// not known.
	Records  int64  `json:"records"`
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
	// Since is when it began, if that is known, and AgeDays how many days ago.
	Since   string `json:"since"`
	AgeDays int    `json:"age_days"`
	Detail  string `json:"detail"`
}

// same says that two are about the same.
func (d *Drift) same(o Drift) bool {
	return d.Kind == o.Kind && d.Subject == o.Subject && d.Vault == o.Vault
}

// ReconciledCount is how many there are of something. Its JSON names are a promise.
type ReconciledCount struct {
	// Of is what is counted, and Name which of them.
	Of    string `json:"of"`
	Name  string `json:"name"`
	Count int64  `json:"count"`
	// Expected is how many the trail or the run history says there are; null where
	// neither does.
	Expected *int64 `json:"expected"`
}

// ReconciledVault is what a vault has. Its JSON names are a promise.
type ReconciledVault struct {
	Vault string     `json:"vault"`
	State VaultState `json:"state"`
	// Objects counts all versions and delete markers; Known those of them that the
	// database knows, Log those of the log, Unknown the others. Missing are not there.
	Objects     int64  `json:"objects"`
	Known       int64  `json:"known"`
	Log         int64  `json:"log"`
	Unknown     int64  `json:"unknown"`
	Missing     int64  `json:"missing"`
	LockedUntil string `json:"locked_until"`
}

// ReconciledLog is how far the log is, and the newest checkpoint that a vault has. Its
// JSON names are a promise.
type ReconciledLog struct {
	Size  int64  `json:"size"`
	Vault string `json:"vault"`
	// CheckpointSize, Root and Checkpoint are of that checkpoint; its note can be
	// checked with the log's public key.
	CheckpointSize int64  `json:"checkpoint_size"`
	Root           string `json:"root_sha256"`
	Checkpoint     string `json:"checkpoint"`
}

// Reconciliation is what there is, and where it is not what there should be. Its JSON
// names are a promise.
type Reconciliation struct {
	At         string            `json:"at"`
	Actor      string            `json:"actor"`
	Software   string            `json:"software"`
	CreatedAt  string            `json:"database_created_at"`
	Policy     string            `json:"policy"`
	PolicyHash string            `json:"policy_hash"`
	Log        ReconciledLog     `json:"log"`
	Counts     []ReconciledCount `json:"counts"`
	Vaults     []ReconciledVault `json:"vaults"`
	// Kinds counts the findings by kind. Findings lists them, of each kind the first
	// thousand.
	Kinds    map[string]int64 `json:"kinds"`
	Findings []Drift          `json:"findings"`
}

// Found counts the findings, those that are not listed too.
func (r *Reconciliation) Found() (n int64) {
	for _, k := range r.Kinds {
		n += k
	}
	return n
}

const (
	// maxDrift bounds what is listed of one kind, whatever somebody put into a vault.
	maxDrift = 1000
	// aliveFor is how long a run counts as being at work after its last leaf.
	aliveFor = time.Hour
	// sweepEvery is within what time a sweep is expected to do what has become due.
	sweepEvery = 24 * time.Hour
)

// Reconcile compares what there should be with what there is, in both directions:
// database, keyring, vaults, holds and run history. It reads no record's content and
// opens no key, and its memory follows segments and classes, not records. What others
// change while it looks is no finding: one is told only if it is there at a second look
// too. The trail has the result before anybody is told.
func (e *Engine) Reconcile(ctx context.Context) (Reconciliation, error) {
	r, err := e.reconcile(ctx)
	if err == nil && len(r.res.Findings) > 0 {
		first := r.res
		if r, err = e.reconcile(ctx); err == nil {
			r.confirm(first)
		}
	}
	if err != nil {
		return Reconciliation{}, err
	}
	res := r.res
	return res, e.Store.Append(ctx, e.leaf(e.Now(), ActionReconciled, "", "", map[string]any{
		"records": r.records, "objects": r.objects, "findings": res.Found(), "kinds": res.Kinds, "result_sha256": hashOf(res)}))
}

// reconciliation is one look at everything.
type reconciliation struct {
	*Engine
	now    time.Time
	policy *policy.Policy // in force
	res    Reconciliation

	runs     []Run // the newest first
	working  map[string]bool
	sweeping bool
	tallies  []Tally
	byRun    map[string]RunRecords
	classes  map[string]*Class
	segments []Segment
	vaults   []VaultRow
	keys     shred.Status
	wanted   map[place]bool       // copies that an open hold asks a legal hold for
	legal    map[place]LegalState // as the database has it
	lifting  map[place]bool       // somebody is at it

	records, objects int64
}

// place is a segment's copy in a vault.
type place struct{ segment, vault string }

func (e *Engine) reconcile(ctx context.Context) (*reconciliation, error) {
	inForce, err := e.newestPolicy(ctx)
	if err != nil {
		return nil, err
	}
	now := e.Now().UTC()
	r := &reconciliation{Engine: e, now: now, policy: inForce, working: map[string]bool{}, classes: map[string]*Class{},
		wanted: map[place]bool{}, legal: map[place]LegalState{}, lifting: map[place]bool{}}
	r.res = Reconciliation{At: cte.FormatTime(now), Actor: e.Actor, Software: e.Software, Policy: inForce.Name(), PolicyHash: inForce.Hash(),
		Counts: []ReconciledCount{}, Vaults: []ReconciledVault{}, Kinds: map[string]int64{}, Findings: []Drift{}}
	for _, step := range []func(context.Context) error{r.readRuns, r.readRecords, r.readHolds, r.pastDue, r.keyring, r.runHistory, r.overdue, r.unfinished, r.reviews, r.inVaults, r.log} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("couldn't reconcile: %w", err)
		}
	}
	slices.SortStableFunc(r.res.Findings, func(a, b Drift) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Vault, b.Vault), strings.Compare(a.Subject, b.Subject), strings.Compare(a.Actual, b.Actual))
	})
	return r, nil
}

// find adds a finding. Since may be zero.
func (r *reconciliation) find(d Drift, since time.Time) {
	if r.res.Kinds[d.Kind]++; r.res.Kinds[d.Kind] > maxDrift {
		return
	}
	if !since.IsZero() {
		d.Since, d.AgeDays = cte.FormatTime(since), int(r.now.Sub(since)/(24*time.Hour))
	}
	r.res.Findings = append(r.res.Findings, d)
}

// confirm leaves of the findings those that an earlier look had too.
func (r *reconciliation) confirm(first Reconciliation) {
	all := r.res.Findings
	r.res.Findings = []Drift{}
	for _, d := range all {
		if slices.ContainsFunc(first.Findings, d.same) {
			r.res.Findings = append(r.res.Findings, d)
		} else if r.res.Kinds[d.Kind]--; r.res.Kinds[d.Kind] == 0 {
			delete(r.res.Kinds, d.Kind)
		}
	}
}

func (r *reconciliation) count(of, name string, n int64) {
	r.res.Counts = append(r.res.Counts, ReconciledCount{Of: of, Name: name, Count: n})
}

func (r *reconciliation) compared(of, name string, n, expected int64) {
	r.res.Counts = append(r.res.Counts, ReconciledCount{of, name, n, &expected})
}

// reviews finds the rules that nobody has looked at again in time.
func (r *reconciliation) reviews(context.Context) error {
	overdue := r.policy.Overdue(r.now)
	for _, rule := range r.policy.Rules() {
		if slices.Contains(overdue, rule.Name) {
			r.find(Drift{Kind: DriftPolicyReview, Subject: rule.Name, Expected: "looked at again by " + rule.ReviewBy, Actual: "in force as it was"}, time.Time{})
		}
	}
	return nil
}

// readRuns reads the run history, and sees which runs are at work.
func (r *reconciliation) readRuns(ctx context.Context) (err error) {
	if r.runs, err = r.Store.Runs(ctx, 0); err != nil {
		return err
	}
	for _, run := range r.runs {
		if run.Status != "running" {
			continue
		}
		signs, err := r.Store.Leaves(ctx, LeafQuery{RunID: run.ID, From: r.now.Add(-aliveFor), Limit: 1})
		if err != nil {
			return err
		}
		if len(signs) > 0 {
			r.working[run.ID] = true
			r.sweeping = r.sweeping || run.Kind == "sweep"
		}
	}
	return nil
}

// readRecords counts the records, and reads what there is to compare them with.
func (r *reconciliation) readRecords(ctx context.Context) (err error) {
	taken, err := r.takenIn(ctx) // before the rows: what comes meanwhile is too many
	if err != nil {
		return err
	}
	classes, err := r.Store.Classes(ctx, true)
	if err != nil {
		return err
	}
	for i := range classes {
		r.classes[classes[i].ID] = &classes[i]
	}
	holds, err := r.openReach(ctx, time.Time{}) // one that is over holds until a sweep ends it
	if err != nil {
		return err
	}
	if r.tallies, err = r.Store.Tallies(ctx, TallyQuery{DueBefore: HotPeriod(r.now).Start, Reach: holds}); err != nil {
		return err
	}
	if r.byRun, err = r.Store.RunRecords(ctx); err != nil {
		return err
	}
	if r.segments, err = r.Store.Segments(ctx); err != nil {
		return err
	}
	if r.vaults, err = r.Store.Vaults(ctx); err != nil {
		return err
	}

	states, kinds := map[State]int64{}, map[string]int64{}
	var held, heldDue int64
	for _, t := range r.tallies {
		r.records += t.Records
		states[t.State] += t.Records
		if t.Held && t.State != Purged {
			held += t.Records
		}
		if t.Held && t.State == Active && t.Due {
			heldDue += t.Records
		}
		class := t.Class
		if t.State != Active {
			class = t.ArchiveClass
		}
		if c := r.classes[class]; c != nil {
			kinds[string(c.Period.Kind)+" "+c.Period.Start.Format("2006-01")] += t.Records
		}
	}
	for _, s := range []State{Active, Archived, Purged} {
		r.count("records", string(s), states[s])
	}
	r.count("records", "held", held)
	r.count("records", "held and past due", heldDue)
	r.compared("records", "in all", r.records, taken)
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		r.count("records by class", name, kinds[name])
	}
	if r.records < taken {
		r.find(Drift{Kind: DriftRunHistory, Subject: "trail", Records: taken - r.records, Expected: fmt.Sprintf("rows of %d records", taken), Actual: fmt.Sprint(r.records),
			Detail: "the trail says that more records were taken in than there are"}, time.Time{})
	}
	classStates := map[string]int64{}
	for _, c := range classes {
		classStates[string(c.Period.Kind)+" "+string(c.State)]++
	}
	for _, name := range slices.Sorted(maps.Keys(classStates)) {
		r.count("classes", name, classStates[name])
	}
	segmentStates := map[string]int64{}
	for _, g := range r.segments {
		segmentStates[string(g.State)]++
	}
	for _, name := range slices.Sorted(maps.Keys(segmentStates)) {
		r.count("segments", name, segmentStates[name])
	}
	return r.byPolicy(ctx)
}

// byPolicy counts records by the policy that decided: those in the hot store by the one
// that they came in under, archived ones by that of the run which archived them.
func (r *reconciliation) byPolicy(ctx context.Context) error {
	history, err := r.PolicyHistory(ctx)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, v := range history {
		names[v.Hash] = v.Name
	}
	starts, err := r.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionRunStarted}})
	if err != nil {
		return err
	}
	counts := map[string]int64{}
	for _, l := range starts {
		var body struct {
			PolicyHash string `json:"policy_hash"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		hash := cmp.Or(body.PolicyHash, history[0].Hash)
		if n := r.byRun[l.Subject].Active; n > 0 {
			counts["in the hot store, "+strings.TrimSpace(names[hash]+" "+hash)] += n
		}
		if n := r.byRun[l.Subject].Archived; n > 0 {
			counts["archived, "+strings.TrimSpace(names[hash]+" "+hash)] += n
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		r.count("records by policy", name, counts[name])
	}
	return nil
}

// readHolds reads which legal holds there should be, and which the database has.
func (r *reconciliation) readHolds(ctx context.Context) error {
	holds, err := r.openReach(ctx, time.Time{})
	if err != nil {
		return err
	}
	if len(holds.Scopes) > 0 {
		wanted, err := r.heldCopies(ctx, holds)
		if err != nil {
			return err
		}
		for _, c := range wanted {
			r.wanted[place{c.Segment, c.Vault}] = true
		}
	}
	have, err := r.Store.LegalHolds(ctx)
	if err == nil {
		have, err = r.inVaultsLeft(ctx, have)
	}
	for _, c := range have {
		at := place{c.Segment, c.Vault}
		r.legal[at] = c.State
		r.lifting[at] = c.State == Lifting && r.now.Sub(c.Since) <= liftAgain
	}
	return err
}

// log says how far the log is, and what a vault has of it under lock.
func (r *reconciliation) log(ctx context.Context) error {
	info, err := r.Store.Info(ctx)
	if err != nil {
		return err
	}
	r.res.CreatedAt = cte.FormatTime(info.CreatedAt)
	state, err := r.Store.LogState(ctx)
	if err != nil {
		return err
	}
	r.res.Log.Size = state.Size + state.Pending
	verifier, err := r.logVerifier(ctx)
	if _, none := IsRefused(err); none {
		return nil // a database that names no key
	} else if err != nil {
		return err
	}
	vaults, err := r.logVaults(ctx, func(VaultRow) bool { return true })
	if err != nil {
		return err
	}
	for _, v := range vaults {
		p, err := r.newestCheckpoint(ctx, v, verifier)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && p.Size > r.res.Log.CheckpointSize {
			r.res.Log.Vault, r.res.Log.CheckpointSize, r.res.Log.Root, r.res.Log.Checkpoint = v.Name(), p.Size, hexOf(p.Root), string(p.note)
		}
	}
	return nil
}
