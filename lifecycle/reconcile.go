package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
	"github.com/lotkeeper/lotkeeper/shred"
)

// Kinds of drift: what is there and should not be, or should be and is not. Their
// names are a promise; docs/reconcile.md says of each what to do.
const (
	// DriftPastDue: records whose due day is over, not held, and not archived.
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
	now time.Time
	res Reconciliation

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
	now := e.Now().UTC()
	r := &reconciliation{Engine: e, now: now, working: map[string]bool{}, classes: map[string]*Class{},
		wanted: map[place]bool{}, legal: map[place]LegalState{}, lifting: map[place]bool{}}
	r.res = Reconciliation{At: cte.FormatTime(now), Actor: e.Actor, Software: e.Software, Policy: e.Policy.Name, PolicyHash: e.Policy.Hash(),
		Counts: []ReconciledCount{}, Vaults: []ReconciledVault{}, Kinds: map[string]int64{}, Findings: []Drift{}}
	for _, step := range []func(context.Context) error{r.readRuns, r.readRecords, r.readHolds, r.pastDue, r.keyring, r.runHistory, r.overdue, r.unfinished, r.inVaults, r.log} {
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
	return r.byPolicy(ctx, states[Active])
}

// byPolicy counts archived records by the policy that the run which archived them went
// by. Those in the hot store are under that of now.
func (r *reconciliation) byPolicy(ctx context.Context, active int64) error {
	starts, err := r.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionRunStarted}})
	if err != nil {
		return err
	}
	archived := map[string]int64{}
	for _, l := range starts {
		var body struct {
			Policy struct {
				Name string `json:"name"`
			} `json:"policy"`
			PolicyHash string `json:"policy_hash"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		if n := r.byRun[l.Subject].Archived; n > 0 {
			archived[strings.TrimSpace(body.Policy.Name+" "+body.PolicyHash)] += n
		}
	}
	r.count("records by policy", "in the hot store, "+r.Policy.Name+" "+r.Policy.Hash(), active)
	for _, policy := range slices.Sorted(maps.Keys(archived)) {
		r.count("records by policy", "archived, "+policy, archived[policy])
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

// lastSweep is the newest sweep that has ended.
func (r *reconciliation) lastSweep() (Run, bool) {
	i := slices.IndexFunc(r.runs, func(run Run) bool { return run.Kind == "sweep" && run.Status != "running" })
	if i < 0 {
		return Run{}, false
	}
	return r.runs[i], true
}

// pastDue looks for records that a sweep should have archived, day by day. Those that
// fall due today are not late yet, and while a sweep is at work nobody can tell.
func (r *reconciliation) pastDue(ctx context.Context) error {
	if r.sweeping {
		return nil
	}
	late := map[string]*Drift{}
	since := map[string]time.Time{}
	leaf := map[string]int64{}
	for _, t := range r.tallies {
		if t.State != Active || !t.Due || t.Held {
			continue
		}
		d := late[t.Class]
		if d == nil {
			d = &Drift{Kind: DriftPastDue, Subject: t.Class, Expected: "archived, or held", Actual: "in the hot store, the first " + t.FirstRecord}
			late[t.Class], since[t.Class], leaf[t.Class] = d, t.FirstDue, t.FirstLeaf
		}
		d.Records += t.Records
		if t.FirstDue.Before(since[t.Class]) {
			since[t.Class] = t.FirstDue
		}
		leaf[t.Class] = min(leaf[t.Class], t.FirstLeaf)
	}
	if len(late) == 0 {
		return nil
	}
	why, err := r.whyLate(ctx)
	if err != nil {
		return err
	}
	for _, class := range slices.Sorted(maps.Keys(late)) {
		late[class].Detail = why(since[class], leaf[class])
		r.find(*late[class], since[class])
	}
	return nil
}

// whyLate tells why records are not archived that fell due at a time and came with a
// leaf, or with later ones.
func (r *reconciliation) whyLate(ctx context.Context) (func(due time.Time, leaf int64) string, error) {
	last, ok := r.lastSweep()
	if !ok {
		return func(time.Time, int64) string { return "there was no sweep yet" }, nil
	}
	began, err := r.Store.Leaves(ctx, LeafQuery{RunID: last.ID, Actions: []string{ActionRunStarted}, Limit: 1})
	if err != nil {
		return nil, err
	}
	holds, err := r.Store.Holds(ctx, false)
	if err != nil {
		return nil, err
	}
	released := slices.ContainsFunc(holds, func(h *Hold) bool { return h.ReleasedAt.After(last.StartedAt) })
	var res SweepResult
	if len(last.Result) > 0 {
		if err := json.Unmarshal(last.Result, &res); err != nil {
			return nil, fmt.Errorf("the result of run %s: %w", last.ID, err)
		}
	}
	blocked := ""
	for _, v := range r.vaults {
		if _, err := r.vault(v.Name); err != nil && v.State == ActiveVault {
			blocked = "; no sweep can begin: " + err.Error()
		}
	}
	at := cte.FormatTime(last.StartedAt)
	return func(due time.Time, leaf int64) string {
		switch {
		case due.After(last.StartedAt):
			return fmt.Sprintf("no sweep since it fell due: the last, %s, began %s%s", last.ID, at, blocked)
		case len(began) > 0 && leaf > began[0].ID:
			return fmt.Sprintf("taken in after the last sweep, %s, had begun %s%s", last.ID, at, blocked)
		case last.Status != "done":
			return fmt.Sprintf("the last sweep, %s of %s, ended %s with %d records failed%s", last.ID, at, last.Status, res.Failed, blocked)
		case res.StoppedEarly:
			return fmt.Sprintf("the last sweep, %s of %s, was stopped early by --max-duration%s", last.ID, at, blocked)
		case released:
			return fmt.Sprintf("a hold was released after the last sweep, %s, had begun %s%s", last.ID, at, blocked)
		}
		return fmt.Sprintf("the last sweep, %s of %s, ended without a fault and left it%s", last.ID, at, blocked)
	}, nil
}

// keyring compares the keys that there are with those that records need.
func (r *reconciliation) keyring(ctx context.Context) (err error) {
	if r.keys, err = r.Keys.Status(ctx); err != nil {
		return fmt.Errorf("couldn't read the keyring: %w", err)
	}
	info, err := r.Store.Info(ctx)
	if err != nil {
		return err
	}
	o, err := r.origin(ctx)
	if err != nil {
		return err
	}
	if r.keys.Epoch < info.Epoch {
		r.find(Drift{Kind: DriftKeyringCopy, Subject: "keyring", Expected: fmt.Sprintf("epoch %d or later", info.Epoch), Actual: fmt.Sprintf("epoch %d", r.keys.Epoch),
			Detail: "an older copy of the keyring was put back"}, time.Time{})
	}
	for _, c := range r.keys.Copies {
		if c.Problem != "" || c.Epoch != r.keys.Epoch {
			r.find(Drift{Kind: DriftKeyringCopy, Subject: c.Path, Expected: fmt.Sprintf("epoch %d", r.keys.Epoch), Actual: fmt.Sprintf("epoch %d", c.Epoch), Detail: c.Problem}, time.Time{})
		}
	}
	if _, ok := slices.BinarySearch(r.keys.Live, o.Witness); !ok && o.Witness != "" {
		r.find(Drift{Kind: DriftKeyringCopy, Subject: "keyring", Expected: "the one that this database was made with", Actual: "another database's"}, time.Time{})
	}
	for _, id := range r.keys.Live {
		switch c := r.classes[id]; {
		case id == o.Witness:
		case c == nil && len(r.working) > 0: // the key comes before its row
		case c == nil:
			r.find(Drift{Kind: DriftKeyWithoutRecords, Subject: id, Expected: "a class of the database", Actual: "a key in the keyring alone",
				Detail: "an ingest or a sweep was cut off after it had made the key, and none came back for it; or the database is an older copy"}, time.Time{})
		case c.State == Destroyed:
			r.find(Drift{Kind: DriftKeyWithoutRecords, Subject: id, Records: c.Members, Expected: "destroyed", Actual: "its key is in the keyring",
				Detail: "an older copy of the keyring was put back"}, c.DestroyedAt)
		}
	}
	deks, inSegments := map[string]int64{}, map[string]int64{}
	for _, g := range r.segments {
		if g.State == Verified || g.State == Settled {
			inSegments[g.Class] += int64(g.Records)
		}
	}
	// Class by class and reason by reason, of all tallies together.
	type key struct{ kind, subject, expected, actual string }
	sums := map[key]int64{}
	for _, t := range r.tallies {
		if t.DEKClass != "" {
			deks[t.DEKClass] += t.Records
		}
		switch {
		case t.State != Active && t.DEKClass != "":
			sums[key{DriftKeyWithoutRecords, t.DEKClass, "no DEK of archived records", "their DEKs are in the hot store"}] += t.Records
		case t.State == Active && t.DEKClass == "":
			sums[key{DriftRecordWithoutKey, cmp.Or(t.Class, "no class"), "a DEK for each active record", "none, the first " + t.FirstRecord}] += t.Records
		case t.State == Active && t.DEKClass != t.Class:
			sums[key{DriftRecordWithoutKey, cmp.Or(t.Class, "no class"), "DEKs under the class of the row", "under " + t.DEKClass}] += t.Records
		}
	}
	for k, n := range sums {
		r.find(Drift{Kind: k.kind, Subject: k.subject, Records: n, Expected: k.expected, Actual: k.actual}, time.Time{})
	}
	for _, id := range slices.Sorted(maps.Keys(r.classes)) {
		c := r.classes[id]
		if n := c.DEKs - deks[id]; n > 0 && len(r.working) == 0 { // a run at work moves them between the two counts
			r.find(Drift{Kind: DriftKeyWithoutRecords, Subject: id, Expected: "a record for each DEK", Actual: fmt.Sprintf("%d DEKs of no record", n)}, time.Time{})
		}
		if _, live := slices.BinarySearch(r.keys.Live, id); live || c.State == Executing || c.State == Destroyed {
			continue
		}
		r.find(Drift{Kind: DriftRecordWithoutKey, Subject: id, Records: max(deks[id], inSegments[id]), Expected: "a key in the keyring", Actual: "none",
			Detail: fmt.Sprintf("%d DEKs and segments of %d records cannot be opened", deks[id], inSegments[id])}, time.Time{})
	}
	return nil
}

// runHistory compares what runs said they did with what is there.
func (r *reconciliation) runHistory(context.Context) error {
	type sum struct{ n, said int64 }
	sums := map[string]*sum{}
	for _, run := range slices.Backward(r.runs) {
		var res struct {
			Accepted  int64 `json:"accepted"`
			Archived  int64 `json:"archived"`
			Recovered int64 `json:"recovered"`
		}
		have := r.byRun[run.ID]
		name, n, what := "taken in by ingests", have.TakenIn, "taken in"
		if run.Kind == "sweep" {
			name, n, what = "archived by sweeps", have.Archived, "archived"
		} else if run.Kind != "ingest" {
			continue
		}
		if len(run.Result) == 0 || run.Status == "running" {
			name = strings.Replace(name, "by", "by unfinished", 1)
			if sums[name] == nil {
				sums[name] = &sum{said: -1}
			}
			sums[name].n += n
			continue
		}
		if err := json.Unmarshal(run.Result, &res); err != nil {
			return fmt.Errorf("the result of run %s: %w", run.ID, err)
		}
		said := res.Accepted
		if run.Kind == "sweep" {
			said = res.Archived + res.Recovered
		}
		if sums[name] == nil {
			sums[name] = &sum{}
		}
		sums[name].n += n
		sums[name].said += said
		// One that failed may have done a step whose answer it never got.
		if n == said || run.Status != "done" && n > said {
			continue
		}
		r.find(Drift{Kind: DriftRunHistory, Subject: run.ID, Records: max(n-said, said-n), Expected: fmt.Sprintf("%d records %s", said, what), Actual: fmt.Sprint(n),
			Detail: "the rows do not say what the run said"}, run.StartedAt)
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if sums[name].said < 0 {
			r.count("run history", name, sums[name].n)
		} else {
			r.compared("run history", name, sums[name].n, sums[name].said)
		}
	}
	return nil
}

// dies says whether a sweep destroys the classes of a kind once they are over.
func dies(kind ClassKind) bool { return kind != ArchiveClass }

// overdue looks for classes that should be dead.
func (r *reconciliation) overdue(context.Context) error {
	if r.sweeping {
		return nil
	}
	active, pinned := map[string]int64{}, map[string]bool{}
	for _, t := range r.tallies {
		switch {
		case t.State == Active:
			active[t.Class] += t.Records
		case t.Held:
			pinned[t.Class], pinned[t.ArchiveClass] = true, true
		}
	}
	last, swept := r.lastSweep()
	for _, id := range slices.Sorted(maps.Keys(r.classes)) {
		c := r.classes[id]
		ended := c.Period.Ends()
		d := Drift{Kind: DriftClassOverdue, Subject: id, Records: c.Members, Expected: string(Destroyed), Actual: string(c.State)}
		switch {
		case c.State == Executing:
			d.Detail = "its destruction was begun and never finished; the next sweep finishes it"
		case c.State == Condemned && !pinned[id]:
			d.Detail = "it was condemned and no hold keeps it; the next sweep destroys it"
		case c.State == Open && dies(c.Period.Kind) && c.DEKs+active[id] == 0 && !pinned[id] && !ended.Add(sweepEvery).After(r.now):
			d.Detail = "it is over and empty"
			if !swept {
				d.Detail += "; there was no sweep yet"
			} else if last.StartedAt.Before(ended) {
				d.Detail += fmt.Sprintf("; no sweep since: the last, %s, began %s", last.ID, cte.FormatTime(last.StartedAt))
			} else {
				d.Detail += fmt.Sprintf("; the last sweep, %s of %s, ended %s and left it", last.ID, cte.FormatTime(last.StartedAt), last.Status)
			}
		default:
			continue
		}
		r.find(d, ended)
	}
	return nil
}

// unfinished looks for runs, and segments of runs, that nobody is at any more.
func (r *reconciliation) unfinished(context.Context) error {
	for _, run := range r.runs {
		if run.Status == "running" && !r.working[run.ID] {
			r.find(Drift{Kind: DriftUnfinishedRun, Subject: run.ID, Expected: "ended", Actual: run.Status,
				Detail: fmt.Sprintf("this %s has left no leaf for an hour; the next one calls it interrupted", run.Kind)}, run.StartedAt)
		}
	}
	for _, g := range r.segments {
		// Whatever run is at work may be finishing it for another.
		if (g.State == Staged || g.State == Verified) && !r.sweeping {
			r.find(Drift{Kind: DriftUnfinishedRun, Subject: g.ID, Records: int64(g.Records), Expected: string(Settled) + " or " + string(Abandoned), Actual: string(g.State),
				Detail: "left by run " + g.RunID + "; the next sweep finishes it"}, g.CreatedAt)
		}
	}
	return nil
}

// inVaults compares the copies that are recorded with what the vaults list.
func (r *reconciliation) inVaults(ctx context.Context) error {
	live := map[string]bool{}
	for _, g := range r.segments {
		live[g.ID] = r.needed(&g)
	}
	gone := map[string]int64{}
	for _, t := range r.tallies {
		if t.State == Archived && !live[t.Segment] && !r.sweeping {
			gone[cmp.Or(t.Segment, "no segment")] += t.Records
		}
	}
	for _, id := range slices.Sorted(maps.Keys(gone)) {
		r.find(Drift{Kind: DriftNoCopy, Subject: id, Records: gone[id], Expected: "archived in a segment that was verified", Actual: "it was not, or its key is destroyed"}, time.Time{})
	}
	for _, row := range r.vaults {
		v, err := r.vault(row.Name)
		if err != nil {
			if row.State != Retiring || row.LockedUntil.After(r.now) {
				r.find(Drift{Kind: DriftVault, Subject: row.Name, Vault: row.Name, Expected: "configured, since it is " + string(row.State), Actual: "not configured", Detail: err.Error()}, time.Time{})
			}
			continue
		}
		if err := r.inVault(ctx, row, v); err != nil {
			return err
		}
	}
	for _, v := range r.Engine.Vaults {
		if !slices.ContainsFunc(r.vaults, func(row VaultRow) bool { return row.Name == v.Name() }) {
			r.find(Drift{Kind: DriftVault, Subject: v.Name(), Vault: v.Name(), Expected: "known to the database", Actual: "configured, and never added"}, time.Time{})
		}
	}
	return nil
}

// needed says that a segment's copies have to be there: it counts, and can be opened.
func (r *reconciliation) needed(g *Segment) bool {
	c := r.classes[g.Class]
	return (g.State == Verified || g.State == Settled) && (c == nil || c.State != Destroyed)
}

// listing is one look into one vault.
type listing struct {
	*reconciliation
	archive.Vault
	row   VaultRow
	of    map[string]*Segment          // by key of object and manifest
	there map[archive.Version]bool     // the recorded versions that are there
	blind map[string]bool              // keys whose versions cannot be listed
	left  map[string][]archive.Version // of abandoned segments
	res   ReconciledVault
}

func (r *reconciliation) inVault(ctx context.Context, row VaultRow, v archive.Vault) error {
	l := &listing{reconciliation: r, Vault: v, row: row, of: map[string]*Segment{}, there: map[archive.Version]bool{}, blind: map[string]bool{}, left: map[string][]archive.Version{},
		res: ReconciledVault{Vault: row.Name, State: row.State}}
	if !row.LockedUntil.IsZero() {
		l.res.LockedUntil = cte.FormatTime(row.LockedUntil)
	}
	for i := range r.segments {
		g := &r.segments[i]
		l.of[g.ObjectKey], l.of[g.ManifestKey] = g, g
	}
	last := ""
	for x, err := range v.Versions(ctx, "") {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && x.Key != "" {
			if l.of[x.Key] != nil {
				l.blind[x.Key] = true // its lock tells
			} else {
				l.unknown(archive.Version{Key: x.Key}, "an object that the database knows", err.Error())
			}
			continue
		}
		if err != nil {
			// What was not listed must not be taken for missing.
			r.find(Drift{Kind: DriftVault, Subject: row.Name, Vault: row.Name, Expected: "a list of its objects", Actual: err.Error()}, time.Time{})
			r.res.Vaults = append(r.res.Vaults, l.res)
			return nil
		}
		l.see(x, x.Key == last)
		last = x.Key
	}
	if err := l.copies(ctx); err != nil {
		return err
	}
	if err := l.abandoned(ctx); err != nil {
		return err
	}
	r.objects += l.res.Objects
	r.res.Vaults = append(r.res.Vaults, l.res)
	return nil
}

// see takes one version that the vault has; again: the key had a newer one.
func (l *listing) see(x archive.Version, again bool) {
	if l.res.Objects++; l.res.Objects%10_000 == 0 {
		l.progress("objects", int(l.res.Objects))
	}
	g := l.of[x.Key]
	switch {
	case x.DeleteMarker:
		l.unknown(x, "no delete marker", "one on top of the key's versions")
	case g == nil && strings.HasPrefix(x.Key, audit.Prefix) && !again:
		l.res.Log++
	case g == nil && strings.HasPrefix(x.Key, audit.Prefix):
		l.unknown(x, "one version of each object of the log", "an older one under a newer")
	case g == nil:
		l.unknown(x, "an object that the database knows", "of no segment")
	case g.State == Abandoned:
		l.res.Known++
		l.left[g.ID] = append(l.left[g.ID], x)
	case !l.needed(g):
		l.res.Known++ // on its way in or out
	default:
		i := slices.IndexFunc(g.Copies, func(c Copy) bool { return c.Vault == l.row.Name })
		switch {
		case i < 0 && l.row.State == Joining:
			l.res.Known++ // a sync puts before it records, and takes over what it finds
		case i < 0:
			l.unknown(x, "a copy of segment "+g.ID+" that is recorded", "none is recorded in this vault")
		case x.Key == g.ObjectKey && x.VersionID == g.Copies[i].ObjectVersion, x.Key == g.ManifestKey && x.VersionID == g.Copies[i].ManifestVersion:
			l.res.Known++
			l.there[archive.Version{Key: x.Key, VersionID: x.VersionID}] = true
		default:
			l.unknown(x, "the version that is recorded, and no other", "another")
		}
	}
}

func (l *listing) unknown(x archive.Version, expected, actual string) {
	l.res.Unknown++
	d := Drift{Kind: DriftUnknownObject, Subject: x.Key, Vault: l.row.Name, Expected: expected, Actual: actual}
	if x.VersionID != "" {
		d.Detail = fmt.Sprintf("version %s, %d bytes", x.VersionID, x.Size)
	}
	l.find(d, time.Time{})
}

// copies looks for each recorded copy among what was listed, and at its lock.
func (l *listing) copies(ctx context.Context) error {
	for i := range l.segments {
		g := &l.segments[i]
		if !l.needed(g) {
			continue
		}
		d := Drift{Kind: DriftNoCopy, Subject: g.ID, Vault: l.row.Name, Records: int64(g.Records)}
		at := slices.IndexFunc(g.Copies, func(c Copy) bool { return c.Vault == l.row.Name })
		if at < 0 {
			if l.row.State == ActiveVault {
				d.Expected, d.Actual = "a copy that was read back", "none is recorded"
				l.find(d, g.CreatedAt)
			}
			continue
		}
		c := g.Copies[at]
		if l.row.State == Retiring && !c.RetainUntil.After(l.now) {
			continue // nothing is asked of it any more
		}
		files := []archive.Version{{Key: g.ObjectKey, VersionID: c.ObjectVersion}, {Key: g.ManifestKey, VersionID: c.ManifestVersion}}
		missing := slices.DeleteFunc(slices.Clone(files), func(f archive.Version) bool { return l.there[f] || l.blind[f.Key] })
		if len(missing) > 0 {
			l.res.Missing += int64(len(missing))
			d.Expected, d.Actual = "version "+missing[0].VersionID+" of "+missing[0].Key, "not in the vault"
			d.Detail = fmt.Sprintf("%d of its 2 objects missing; they were read back %s", len(missing), cte.FormatTime(c.VerifiedAt))
			l.find(d, c.VerifiedAt)
			continue
		}
		if err := l.locks(ctx, g, c, files); err != nil {
			return err
		}
	}
	return nil
}

// locks compares the lock of a copy with what was recorded, and its legal hold with
// what the holds ask for.
func (l *listing) locks(ctx context.Context, g *Segment, c Copy, files []archive.Version) error {
	d := Drift{Subject: g.ID, Vault: l.row.Name, Records: int64(g.Records)}
	on, off := 0, 0
	for _, f := range files {
		info, err := l.Stat(ctx, f.Key, f.VersionID)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d := d
		switch {
		case err != nil:
			d.Kind, d.Expected, d.Actual, d.Detail = DriftVault, "the lock of "+f.Key, "it cannot be told", err.Error()
			if errors.Is(err, archive.ErrLockUnknown) {
				d.Kind = DriftLockShort
			}
			l.find(d, time.Time{})
			return nil
		case info.Mode != archive.Compliance || info.RetainUntil.Before(c.RetainUntil):
			d.Kind, d.Detail = DriftLockShort, f.Key
			d.Expected = fmt.Sprintf("%s until %s", archive.Compliance, cte.FormatTime(c.RetainUntil))
			d.Actual = "no retention"
			if info.Mode != "" {
				d.Actual = fmt.Sprintf("%s until %s", info.Mode, cte.FormatTime(info.RetainUntil))
			}
			l.find(d, time.Time{})
		}
		if info.LegalHold {
			on++
		} else {
			off++
		}
	}
	at := place{g.ID, l.row.Name}
	state := l.legal[at]
	recorded := cmp.Or(string(state), "not recorded")
	switch {
	case l.sweeping || l.lifting[at]: // somebody is at it
	case l.wanted[at] && (off > 0 || state != LegalSet):
		d.Kind, d.Expected, d.Actual = DriftHoldWithoutLegalHold, "a legal hold, set and confirmed", fmt.Sprintf("on %d of 2 objects, %s", on, recorded)
		d.Detail = "an open hold covers records of this segment; the next sweep sets it, or hold place"
		l.find(d, time.Time{})
	case !l.wanted[at] && (on > 0 || state != LegalNone):
		d.Kind, d.Expected, d.Actual = DriftLegalHoldWithoutHold, "no legal hold", fmt.Sprintf("on %d of 2 objects, %s", on, recorded)
		d.Detail = "no open hold covers records of this segment"
		if state == LegalNone {
			d.Detail += "; the database does not know of it, so no sweep lifts it"
		}
		l.find(d, time.Time{})
	}
	return nil
}

// abandoned tells of objects that segments left which were given up.
func (l *listing) abandoned(ctx context.Context) error {
	for i := range l.segments {
		g := &l.segments[i]
		versions := l.left[g.ID]
		if len(versions) == 0 {
			continue
		}
		var until time.Time
		for _, x := range versions {
			info, err := l.Stat(ctx, x.Key, x.VersionID)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil && info.RetainUntil.After(until) {
				until = info.RetainUntil
			}
		}
		d := Drift{Kind: DriftAbandoned, Subject: g.ID, Vault: l.row.Name, Expected: "no object", Actual: fmt.Sprintf("%d, %s the first", len(versions), versions[0].Key), Detail: "they can be deleted"}
		if until.After(l.now) {
			d.Detail = "locked until " + cte.FormatTime(until)
		}
		l.find(d, g.CreatedAt)
	}
	return nil
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
