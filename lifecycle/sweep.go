package lifecycle

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
	"github.com/lotkeeper/lotkeeper/shred"
)

// SweepOptions steer one sweep.
type SweepOptions struct {
	// MaxDuration ends the archiving of further segments after that long; what
	// was begun is finished. Zero: no limit.
	MaxDuration time.Duration
}

// SweepResult is what a sweep did, or with DryRun would do.
type SweepResult struct {
	RunID  string `json:"run_id"`
	DryRun bool   `json:"dry_run"`
	Cutoff string `json:"cutoff"`
	// Due = Held + LotActive + Archived + Failed, unless StoppedEarly left some for the
	// next run or Recovered finished what an earlier one had begun.
	Due  int `json:"due"`
	Held int `json:"held"`
	// LotActive counts those that stay by a rule with hold_while_lot_active.
	LotActive int `json:"lot_active"`
	Resealed  int `json:"resealed"`
	Archived  int `json:"archived"`
	Failed    int `json:"failed"`
	// Rescheduled counts records of the hot store that were given another due date or
	// archive class by the policy and the triggers of now. SegmentsMoved counts segments
	// that are kept for longer by them, SegmentsWaiting those of which not every lock could
	// be lengthened: they stay as they are, and nothing in the archive is purged meanwhile.
	// KeptLonger counts archived records that would go earlier by them; they stay until
	// their locks end. Undecided counts records whose rule cannot be evaluated, or that
	// cannot be opened for it: they stay as they are.
	Rescheduled     int `json:"rescheduled"`
	SegmentsMoved   int `json:"segments_moved"`
	SegmentsWaiting int `json:"segments_waiting"`
	KeptLonger      int `json:"kept_longer"`
	Undecided       int `json:"undecided"`
	// NeverDue counts records of the hot store that are never due: no rule matches them,
	// or a trigger is not set.
	NeverDue        int `json:"never_due"`
	Segments        int `json:"segments"`
	ShreddedClasses int `json:"shredded_classes"`
	// Rearchived counts held records that were archived anew since their archive class
	// was over, PurgedClasses the archive and hold classes whose keys were destroyed,
	// Purged the records that nobody can read any more for it.
	Rearchived    int `json:"rearchived"`
	PurgedClasses int `json:"purged_classes"`
	Purged        int `json:"purged"`
	// ObjectsDeleted counts copies of purged segments, each with its manifest, that were
	// deleted; ObjectsLocked those that are still there, and unreadable.
	ObjectsDeleted  int     `json:"objects_deleted"`
	ObjectsLocked   int     `json:"objects_locked"`
	DurationSeconds float64 `json:"duration_seconds"`
	// Recovered counts records that an interrupted run had left half way and
	// this one archived; they are not in Due.
	Recovered    int  `json:"recovered"`
	StoppedEarly bool `json:"stopped_early"`
	// LegalHoldsSet and LegalHoldsLifted count copies of segments, each with its
	// manifest; LegalHoldsMissing those that no vault has confirmed yet, so that a
	// hold is PARTIAL.
	LegalHoldsSet     int            `json:"legal_holds_set"`
	LegalHoldsLifted  int            `json:"legal_holds_lifted"`
	LegalHoldsMissing int            `json:"legal_holds_missing"`
	Policies          []PolicyResult `json:"policies"`
	// Steps are the commands that rules wanted run before they destroy. Of a rule with
	// one that failed, nothing was destroyed.
	Steps []StepResult `json:"steps"`
	// Kept lists due records that stay, with the reason; dry runs only, and the
	// first thousand.
	Kept []Decision `json:"kept,omitempty"`
}

// PolicyResult is one policy's part in a sweep.
type PolicyResult struct {
	Policy    string `json:"policy"`
	Action    string `json:"action"`
	Processed int    `json:"processed"`
	Held      int    `json:"held"`
	Errors    int    `json:"errors"`
}

// maxKept bounds the list of decisions that a dry run prints.
const maxKept = 1000

// DryRun plans a sweep at the given time and changes nothing: it only reads, and tells
// the trail what the plan was.
func (e *Engine) DryRun(ctx context.Context, now time.Time) (SweepResult, error) {
	start := e.Now()
	res := SweepResult{DryRun: true, Steps: []StepResult{}}
	d, err := e.decided(ctx)
	if err != nil {
		return res, err
	}
	inForce := d.policy
	res.Cutoff, _ = cutoff(inForce, now)
	holds, err := e.holdSet(ctx, now)
	if err != nil {
		return res, err
	}
	archiveClasses, err := e.Store.DueClasses(ctx, now)
	if err != nil {
		return res, err
	}
	lots := newActiveLots(inForce, now)
	over := map[string]bool{}
	dying, err := e.Store.DyingClasses(ctx, now)
	if err != nil {
		return res, err
	}
	for _, c := range dying {
		over[c.ID] = true
	}
	for _, class := range archiveClasses {
		inClass := 0
		for after := (Cursor{}); ; {
			page, err := e.Store.DueRows(ctx, class, now, after, e.Limits.BatchRecords)
			if err != nil {
				return res, err
			}
			if len(page) == 0 {
				break
			}
			after = Cursor{page[len(page)-1].DueAt, page[len(page)-1].Seq}
			if err := lots.look(ctx, e.Store, len(page), func(i int) *Row { return &page[i] }); err != nil {
				return res, err
			}
			plan := PlanSweep(page, holds, lots, now)
			res.Due += plan.Due
			res.Held += plan.Held
			res.LotActive += plan.LotActive
			res.Archived += plan.Archive
			inClass += plan.Archive
			for i, d := range plan.Decisions {
				if d.Action != Defer {
					continue
				}
				if over[page[i].Class] {
					res.Resealed++
				}
				if len(res.Kept) < maxKept {
					res.Kept = append(res.Kept, d)
				}
			}
			e.progress("plan", res.Due)
		}
		res.Segments += (inClass + e.segmentRecords(inForce) - 1) / e.segmentRecords(inForce)
	}
	if res.NeverDue, err = e.Store.CountActive(ctx, neverDue); err != nil {
		return res, err
	}
	moved, err := e.planReschedule(ctx, &res, &d, holds, now)
	if err != nil {
		return res, err
	}
	pinned, err := e.pinned(ctx, now)
	if err != nil {
		return res, err
	}
	for id := range over {
		if !pinned[id] {
			res.ShreddedClasses++
		}
	}
	archives, err := e.Store.DyingArchives(ctx, now)
	if err == nil {
		err = e.planPurge(ctx, &res, archives, moved, holds)
	}
	if err != nil {
		return res, err
	}
	res.Policies = []PolicyResult{{Policy: inForce.Name(), Action: "archive", Processed: res.Archived, Held: res.Held}}
	// Hashed without its duration, so that the same plan has the same hash.
	err = e.Store.Append(ctx, e.leaf(start, ActionDryRun, "", "", map[string]any{
		"of": "sweep", "as_of": cte.FormatTime(now), "policy_hash": inForce.Hash(), "due": res.Due, "held": res.Held, "lot_active": res.LotActive, "result_sha256": hashOf(res),
	}))
	res.DurationSeconds = e.Now().Sub(start).Seconds()
	return res, err
}

// pinned lists the classes that have an archived member under a hold which is not over
// at the given time: their keys stay.
func (e *Engine) pinned(ctx context.Context, now time.Time) (map[string]bool, error) {
	pinned := map[string]bool{}
	r, err := e.openReach(ctx, now)
	if err != nil || len(r.Scopes) == 0 {
		return pinned, err
	}
	for r, err := range e.Store.Rows(ctx, Query{State: Held, Reach: r}) {
		if err != nil {
			return nil, err
		}
		if r.State == Archived {
			pinned[r.Class] = true
		}
	}
	return pinned, nil
}

// sweep is the state of one run.
type sweep struct {
	*Engine
	lease    Lease
	decision decision
	policy   *policy.Policy // the decision's
	now      time.Time      // the run's one time: cutoff, class ends and retention follow from it
	deadline time.Time
	vaults   []archive.Vault // those that count: what is archived is in all of them
	keys     *keyring
	holds    *HoldSet
	pace     pace // of soft-deletes
	res      SweepResult
	// failed are records that are due and could not be archived, by seq.
	failed map[int64]bool
	// stopped are the rules of which a step failed.
	stopped map[string]bool
	// stuck counts held records whose DEK does not open. They count as held.
	stuck  int
	errors int
	// damaged are segments that were verified and no longer are.
	damaged []string
	// behind: there may be records that do not follow the decision yet, so what is
	// archived stays, whatever its class says.
	behind bool
}

// Sweep runs every stage once: preflight, recovery of what an earlier run left,
// archive with read-back, soft-delete, reseal, shred, purge. It stops at the first
// fault of a Store, Vault or KeyStore; the next sweep goes on from there,
// through the same functions. A record that cannot be read is counted in
// Failed, left as it is, and passed over. Before keys are destroyed the commands of the
// rules that it concerns are run.
func (e *Engine) Sweep(ctx context.Context, opt SweepOptions) (res SweepResult, err error) {
	s := &sweep{Engine: e, now: e.Now().UTC(), keys: e.keyring(), failed: map[int64]bool{}, stopped: map[string]bool{}}
	s.res.Steps = []StepResult{}
	if opt.MaxDuration > 0 {
		s.deadline = s.now.Add(opt.MaxDuration)
	}
	if err := e.Policy.Validate(); err != nil {
		return s.res, err
	}
	if s.decision, err = e.decided(ctx); err != nil {
		return s.res, err
	}
	s.policy = s.decision.policy
	if err := e.carriedOut(s.policy); err != nil {
		return s.res, err
	}
	s.res.Cutoff, _ = cutoff(s.policy, s.now)
	if err := e.checkClock(ctx, s.now); err != nil {
		return s.res, err
	}
	// Before the vaults are: an older database does not know which of them count.
	if err := e.checkLog(ctx); err != nil {
		return s.res, err
	}
	if s.vaults, err = e.countingVaults(ctx, s.now); err != nil {
		return s.res, err
	}
	if err := e.checkLogKey(ctx); err != nil {
		return s.res, err
	}
	if err := e.CheckKeyring(ctx); err != nil {
		return s.res, err
	}
	if s.res.RunID, err = e.newID("run", s.now); err != nil {
		return s.res, err
	}
	run := Run{ID: s.res.RunID, Kind: "sweep", Actor: e.Actor, StartedAt: s.now}
	s.lease, err = e.Store.BeginRun(ctx, run, e.leaf(s.now, ActionRunStarted, run.ID, run.ID, map[string]any{
		"kind": run.Kind, "policy": s.told(), "policy_hash": s.policy.Hash(), "cutoff": s.arithmetic()}))
	if err != nil {
		return s.res, err
	}
	err = s.stages(ctx)
	if err != nil {
		// Stopped on the way: what was due and got no further is still hot, and is
		// counted with what could not be archived, so that the counts add up.
		s.res.Failed = s.res.Due - s.res.Held - s.res.LotActive - s.res.Archived
		s.errors++
	}
	s.res.Policies = []PolicyResult{{Policy: s.policy.Name(), Action: "archive", Processed: s.res.Archived + s.res.Recovered, Held: s.res.Held, Errors: s.errors}}
	s.res.DurationSeconds = e.Now().Sub(s.now).Seconds()
	if err == nil && s.res.Failed > 0 {
		err = fmt.Errorf("%d due records could not be archived; they are still in the hot store, see the log above for each", s.res.Failed)
	}
	if err == nil && s.stuck > 0 {
		err = fmt.Errorf("%d held records could not be resealed; they and their class keys stay as they are, see the log above for each", s.stuck)
	}
	if err == nil && len(s.damaged) > 0 {
		err = fmt.Errorf("segments %s were verified once and are damaged now: run lotkeeper verify", strings.Join(s.damaged, ", "))
	}
	end := e.finishRun(ctx, run, s.res, err)
	if errors.Is(end, ErrMoved) {
		// A later run has taken over and called this one interrupted. Whatever this
		// one met with on the way, that is why: records archived by the other look
		// like records that are not the ones packed.
		end = fmt.Errorf("run %s: %w", run.ID, ErrFenced)
	}
	if !errors.Is(errors.Join(end, err), ErrFenced) { // whoever has the lease publishes
		e.publishRun(ctx)
	}
	return s.res, errors.Join(end, err)
}

// arithmetic is how the cutoff comes about, as leaves and manifests say it.
func (s *sweep) arithmetic() string {
	_, arithmetic := cutoff(s.policy, s.now)
	return arithmetic
}

// told is what the run's leaf says of the policy: the configuration's as it is; of one
// that was applied the name, since its own leaf has all of it.
func (s *sweep) told() any {
	if s.policy.Hash() == s.Policy.Hash() {
		return s.Policy
	}
	return map[string]any{"name": s.policy.Name()}
}

// segmentRecords is how many records a segment has at most.
func (e *Engine) segmentRecords(p *policy.Policy) int {
	if n := p.SegmentRecords(); n > 0 {
		return min(n, e.Limits.SegmentRecords)
	}
	return e.Limits.SegmentRecords
}

// stages in their order. Each looks at what the Store says, not at what the
// stage before did, so a run that was cut off anywhere is gone on with by
// running them again.
func (s *sweep) stages(ctx context.Context) error {
	for _, stage := range []func(context.Context) error{s.endHolds, s.loadHolds, s.recover, s.leaveEnded, s.reschedule, s.archive, s.reseal, s.shred, s.drop, s.purge, s.legalHolds, s.deleteObjects, s.countNeverDue} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	return nil
}

// neverDue is the class of the records that are never due.
var neverDue = HotPeriod(latest).ID(1)

func (s *sweep) countNeverDue(ctx context.Context) (err error) {
	s.res.NeverDue, err = s.Store.CountActive(ctx, neverDue)
	return err
}

// loadHolds reads what is held now, for the plan, and lets the Store prepare what
// it will check the plan by.
func (s *sweep) loadHolds(ctx context.Context) (err error) {
	if err := s.Store.TraceHolds(ctx); err != nil {
		return err
	}
	s.holds, err = s.holdSet(ctx, s.now)
	return err
}

// reseal moves the DEKs that must outlive their class into the month's deferral
// class: those of held records, of records whose lot is active, and of records that
// could not be archived.
// Others that are still there (the run was stopped early, or an ingest has just
// brought them) are left for the next run, and their class with them.
func (s *sweep) reseal(ctx context.Context) error {
	dying, err := s.Store.DyingClasses(ctx, s.now)
	if err != nil {
		return err
	}
	// Holds again: those placed since the plan belong to this month too.
	if err := s.loadHolds(ctx); err != nil {
		return err
	}
	for _, class := range dying {
		if class.State != Open {
			continue
		}
		lots := newActiveLots(s.policy, s.now)
		for after := int64(0); ; {
			page, err := s.Store.ClassDEKs(ctx, class.ID, after, s.Limits.LockRecords)
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].Row.Seq
			if err := lots.look(ctx, s.Store, len(page), func(i int) *Row { return &page[i].Row }); err != nil {
				return err
			}
			if err := s.resealPage(ctx, class.ID, page, lots); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sweep) resealPage(ctx context.Context, from string, page []DEK, lots *ActiveLots) error {
	to := DeferralPeriod(s.now)
	moved := map[int64][]byte{}
	for i := range page {
		d := &page[i]
		if !s.failed[d.Row.Seq] && Decide(&d.Row, s.holds, lots, s.now).Action != Defer {
			continue
		}
		if err := s.keys.classes(ctx, s.lease.RunID, []Period{to}); err != nil {
			return err
		}
		fromKey, err := s.keys.key(ctx, from)
		if err != nil {
			return err
		}
		toKey, err := s.keys.key(ctx, s.keys.open[to])
		if err != nil {
			return err
		}
		wrapped, err := shred.Reseal(s.rand(), fromKey, toKey, d.Wrapped, d.Row.RecordID)
		if err != nil {
			// It stays where it is, so its class stays too: nothing is lost,
			// and every sweep says so again.
			s.Log.Error().Str("record_id", d.Row.RecordID).Err(err).Msg("record cannot be resealed")
			if !s.failed[d.Row.Seq] {
				s.stuck++
				s.errors++
			}
			continue
		}
		moved[d.Row.Seq] = wrapped
	}
	if len(moved) == 0 {
		return nil
	}
	leaf := s.leaf(s.Now(), ActionResealed, s.lease.RunID, s.keys.open[to], map[string]any{"from": from, "to": s.keys.open[to], "policy_hash": s.policy.Hash()})
	n, err := s.Store.Reseal(ctx, s.lease, from, s.keys.open[to], moved, leaf)
	s.res.Resealed += n
	s.progress("reseal", s.res.Resealed)
	return err
}

// fail counts a record that cannot be archived, once.
func (s *sweep) fail(r *Row, err error) {
	s.Log.Error().Str("record_id", r.RecordID).Err(err).Msg("record cannot be archived")
	if !s.failed[r.Seq] {
		s.failed[r.Seq] = true
		s.res.Failed++
		s.errors++
	}
}

// shred destroys the keys of hot and deferral classes that are over and empty.
func (s *sweep) shred(ctx context.Context) error {
	dying, err := s.Store.DyingClasses(ctx, s.now)
	if err != nil || len(dying) == 0 {
		return err
	}
	// The copy that a class was to die for is gone: with its key, an older copy
	// of the database still has the record.
	if s.policy.HasCommands() {
		if dying, err = s.emptied(ctx, dying); err != nil {
			return err
		}
	}
	spared := map[string]bool{}
	for _, segment := range s.damaged {
		for r, err := range s.Store.Rows(ctx, Query{Segment: segment}) {
			if err != nil {
				return err
			}
			spared[r.Class] = true
		}
	}
	ready, err := s.prepared(ctx, slices.DeleteFunc(dying, func(c Class) bool { return spared[c.ID] }), s.ofHot)
	if err != nil {
		return err
	}
	n, err := s.destroy(ctx, ready)
	s.res.ShreddedClasses += n
	return err
}

// destroy destroys class keys that nothing depends on. Condemn commits
// the intent; Execute looks again, from base rows, and is the point of no
// return; then the keys go, in one call, and are seen to be gone. A class that
// an earlier run left condemned or executing takes the same way.
func (s *sweep) destroy(ctx context.Context, dying []Class) (int, error) {
	if len(dying) == 0 {
		return 0, nil
	}
	ids := make([]string, len(dying))
	for i, c := range dying {
		ids[i] = c.ID
	}
	body := map[string]any{"policy_hash": s.policy.Hash(), "now": cte.FormatTime(s.now)}
	condemned, err := s.Store.Condemn(ctx, s.lease, s.now, ids, s.leaf(s.Now(), ActionShredIntent, s.lease.RunID, "", body))
	if err != nil {
		return 0, err
	}
	left := slices.ContainsFunc(dying, func(c Class) bool { return c.State != Open })
	if len(condemned) == 0 && !left {
		return 0, nil
	}
	// The intent is under lock before anything is destroyed, and with it all that
	// speaks for it: one checkpoint for all classes of a stage.
	if err := s.publishBefore(ctx, "destroying keys"); err != nil {
		return 0, err
	}
	evidence, err := s.Store.Execute(ctx, s.lease, s.now, ids, s.leaf(s.Now(), ActionShredExecuting, s.lease.RunID, "", body))
	if err != nil || len(evidence) == 0 {
		return 0, err
	}
	permit, err := shred.Authorize(evidence)
	if err != nil {
		return 0, fmt.Errorf("couldn't shred: %w", err)
	}
	s.keys.forget(permit.Classes())
	gone, err := shred.Destroy(ctx, s.Keys, permit, s.rand())
	if err != nil {
		return 0, fmt.Errorf("couldn't destroy %d class keys: %w", len(evidence), err)
	}
	if gone.PendingUntil.After(s.now) {
		s.Log.Info().Time("pending_until", gone.PendingUntil).Msg("the key store destroys the keys later; the classes stay executing until then")
		return 0, nil
	}
	at := s.Now()
	receipt := map[string]any{"classes": permit.Classes(), "epoch": gone.Epoch, "policy_hash": s.policy.Hash()}
	if err := s.Store.Destroyed(ctx, s.lease, permit.Classes(), at, gone.Epoch, s.leaf(at, ActionShredded, s.lease.RunID, "", receipt)); err != nil {
		return 0, err
	}
	return len(evidence), nil
}

// drop deletes ciphertext that nobody can read any more.
func (s *sweep) drop(ctx context.Context) error {
	for dropped := 0; ; {
		n, err := s.Store.DropCiphertext(ctx, s.lease, s.Limits.LockRecords, s.leaf(s.Now(), ActionDropped, s.lease.RunID, "", map[string]any{}))
		if err != nil || n == 0 {
			return err
		}
		dropped += n
		s.progress("drop ciphertext", dropped)
	}
}

// hexOf is a checksum as people see it, parseHex its inverse.
func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }

func parseHex(s string) (sum [32]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("%q is not a SHA-256 in hex", s)
	}
	return [32]byte(b), nil
}
