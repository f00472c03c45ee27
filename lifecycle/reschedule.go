package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
	"github.com/lotkeeper/lotkeeper/shred"
)

// reschedule brings the records that are there in line with what decides now: the policy
// in force, and the triggers that are set. Active ones get their due date, their hot class
// and their archive class; what is archived is never shortened, for it is locked, and kept
// for longer once every lock of it is lengthened. It is cut off and gone on with like any
// other stage: what follows the decision is found to follow it.
func (s *sweep) reschedule(ctx context.Context) error {
	info, err := s.Store.Info(ctx)
	if err != nil {
		return err
	}
	f := info.Following
	if f.Leaf == s.decision.leaf && f.Done {
		return nil
	}
	if f.Leaf != s.decision.leaf {
		f = Following{Leaf: s.decision.leaf}
	}
	f.Done = false
	older, err := s.older(ctx)
	if err != nil {
		return err
	}
	sch, err := s.scheduling(ctx, &s.decision, s.now)
	if err != nil {
		return err
	}
	if err := s.rescheduleActive(ctx, sch, &f, older); err != nil {
		return err
	}
	if err := s.rescheduleArchived(ctx, sch); err != nil {
		return err
	}
	s.res.KeptLonger, s.res.Undecided = sch.shorter, sch.undecided
	if older {
		s.Log.Warn().Msg("an ingest is running that began under an older policy: its records follow with the next sweep, and nothing in the archive is purged until then")
	}
	f.Done = s.res.SegmentsWaiting == 0
	if s.behind = older || !f.Done; older {
		return nil
	}
	return s.Store.Reschedule(ctx, s.lease, nil, f, Leaf{})
}

// older says whether an ingest is at work that began before the decision: its records may
// be merged behind the one that reads them here, with an older schedule. One that has left
// no trace for an hour is taken for dead.
func (s *sweep) older(ctx context.Context) (bool, error) {
	runs, err := s.Store.Runs(ctx, 0)
	if err != nil {
		return false, err
	}
	for _, run := range runs {
		if run.Kind != "ingest" || run.Status != "running" {
			continue
		}
		began, err := s.Store.Leaves(ctx, LeafQuery{RunID: run.ID, Actions: []string{ActionRunStarted}, Limit: 1})
		if err != nil {
			return false, err
		}
		signs, err := s.Store.Leaves(ctx, LeafQuery{RunID: run.ID, From: s.now.Add(-aliveFor), Limit: 1})
		if err != nil {
			return false, err
		}
		if len(signs) > 0 && (len(began) == 0 || began[0].ID < s.decision.leaf) {
			return true, nil
		}
	}
	return false, nil
}

// scheduling evaluates records that are there by a decision.
type scheduling struct {
	*decision
	now  time.Time
	keys *keyring
	// open: a record's jurisdiction may be one that the policy does not know, so none can
	// be judged by its row.
	open bool
	// rows: nothing is opened, as in a dry run, whose user may not; what would have to be
	// counts as undecided.
	rows bool
	// shorter counts archived records that would go earlier, undecided those that could not
	// be evaluated.
	shorter, undecided int
}

func (e *Engine) scheduling(ctx context.Context, d *decision, now time.Time) (*scheduling, error) {
	sch := &scheduling{decision: d, now: now, keys: e.keyring()}
	history, err := e.PolicyHistory(ctx)
	// What an older policy did not know of it has kept, and is looked at all the same.
	for _, v := range history {
		for _, j := range v.policy.Jurisdictions() {
			sch.open = sch.open || !slices.Contains(d.policy.Jurisdictions(), j)
		}
	}
	return sch, err
}

// byRow evaluates a record by its row. It is false where that will not do.
func (sch *scheduling) byRow(r *Row) (policy.Schedule, bool) {
	to := sch.policy.Schedule(sch.facts(r))
	return to, !to.Unknown && (to.Due.Equal(latest) || !sch.open && !r.DueAt.Equal(latest))
}

// byLine evaluates it by its canonical line.
func (sch *scheduling) byLine(r *Row, line []byte) (policy.Schedule, error) {
	rec, err := cte.ParseLine(line)
	if err != nil {
		return policy.Schedule{}, err
	}
	facts := sch.facts(r)
	facts.Labels, facts.LabelsUnknown = rec.Labels, false
	return sch.policy.Schedule(facts), nil
}

// active evaluates an active record. It has Failed, and Kept says why, if nobody can: then
// the record stays as it is.
func (sch *scheduling) active(ctx context.Context, s *Sealed) (policy.Schedule, error) {
	to, sure := sch.byRow(&s.Row)
	if sure {
		return to, nil
	}
	line, err := sch.keys.unseal(ctx, s)
	if err == nil {
		to, err = sch.byLine(&s.Row, line)
	}
	if errors.Is(err, shred.ErrDestroyed) || errors.Is(err, shred.ErrAuthentication) || errors.Is(err, errChecksum) {
		return policy.Schedule{Failed: true, Kept: err.Error()}, nil
	}
	return to, err
}

// timing is what a schedule makes of an active record: the periods of the classes that it
// goes to, zero where its class stays, and whether anything changes.
func (sch *scheduling) timing(r *Row, to policy.Schedule) (hot, arch Period, changed bool, err error) {
	class, err := parseClass(r.Class)
	if err != nil {
		return hot, arch, false, err
	}
	end, err := classEnd(r.ArchiveClass)
	if err != nil {
		return hot, arch, false, err
	}
	// What is due and had to stay is where it belongs.
	deferred := class.Period.Kind == DeferralClass && !to.Due.After(sch.now)
	if day := HotPeriod(to.Due); !to.Due.Equal(r.DueAt) && day != class.Period && !deferred {
		hot = day
	}
	purge := later(to.Purge, r.PurgeNotBefore)
	// One that came too late for its own month stays in the one that it came into; one that
	// had no day at all has come into none.
	late := !ArchivePeriod(purge).Ends().After(sch.now) && end.After(sch.now) && !r.DueAt.Equal(latest)
	if month := archivePeriodFrom(purge, sch.now); !month.Ends().Equal(end) && !late {
		arch = month
	}
	none := Period{}
	return hot, arch, !to.Due.Equal(r.DueAt) || hot != none || arch != none, nil
}

// rescheduleActive walks the active records from where the last run has stopped. With an
// older ingest at work the next one begins anew: records may come in behind this one.
func (s *sweep) rescheduleActive(ctx context.Context, sch *scheduling, f *Following, older bool) error {
	for attempt := 0; ; {
		page, err := s.Store.ActivePage(ctx, f.Seq, s.Limits.BatchRecords, s.Limits.BatchBytes)
		if err != nil || len(page) == 0 {
			return err
		}
		for part := range slices.Chunk(page, s.Limits.LockRecords) {
			moves, err := s.reschedulings(ctx, sch, part)
			if err != nil {
				return err
			}
			to := *f
			to.Seq = part[len(part)-1].Seq
			if len(moves) > 0 {
				leaf := s.leaf(s.Now(), ActionRescheduled, s.lease.RunID, "", s.decision.by(rescheduledBody(moves)))
				reached := to
				if older {
					reached.Seq = 0
				}
				err := s.Store.Reschedule(ctx, s.lease, moves, reached, leaf)
				if errors.Is(err, ErrMoved) && attempt < 3 {
					clear(s.keys.open) // a class is not open any more: look again
					attempt++
					break
				}
				if err != nil {
					return err
				}
				s.res.Rescheduled += len(moves)
				s.progress("reschedule", s.res.Rescheduled)
			}
			*f = to
		}
	}
}

// reschedulings is what has to be done to records, their DEKs wrapped anew.
func (s *sweep) reschedulings(ctx context.Context, sch *scheduling, page []Sealed) ([]Rescheduling, error) {
	type want struct {
		*Sealed
		due       time.Time
		hot, arch Period
	}
	var wants []want
	var periods []Period
	for i := range page {
		r := &page[i]
		to, err := sch.active(ctx, r)
		if err != nil {
			return nil, err
		}
		if to.Failed {
			s.Log.Warn().Str("record_id", r.RecordID).Str("reason", to.Kept).Msg("what the policy says of the record cannot be told: it stays as it is")
			sch.undecided++
			continue
		}
		hot, arch, changed, err := sch.timing(&r.Row, to)
		if err != nil {
			return nil, err
		}
		if !changed {
			continue
		}
		wants = append(wants, want{r, to.Due, hot, arch})
		for _, p := range []Period{hot, arch} {
			if p != (Period{}) {
				periods = append(periods, p)
			}
		}
	}
	if err := s.keys.classes(ctx, s.lease.RunID, periods); err != nil {
		return nil, err
	}
	var moves []Rescheduling
	for _, w := range wants {
		m := Rescheduling{Seq: w.Seq, RecordID: w.RecordID, Checksum: w.Checksum, From: Timing{w.DueAt, w.Class, w.ArchiveClass}, To: Timing{w.due, w.Class, w.ArchiveClass}}
		if w.arch != (Period{}) {
			m.To.ArchiveClass = s.keys.open[w.arch]
		}
		if w.hot != (Period{}) {
			m.To.Class = s.keys.open[w.hot]
			var err error
			if m.Wrapped, err = s.rewrap(ctx, w.Sealed, m.To.Class); errors.Is(err, shred.ErrDestroyed) || errors.Is(err, shred.ErrAuthentication) {
				s.Log.Error().Str("record_id", w.RecordID).Err(err).Msg("record cannot be resealed: it stays as it is")
				sch.undecided++
				continue
			} else if err != nil {
				return nil, err
			}
		}
		moves = append(moves, m)
	}
	return moves, nil
}

// rewrap is a record's DEK under the key of another class.
func (s *sweep) rewrap(ctx context.Context, r *Sealed, class string) ([]byte, error) {
	from, err := s.keys.key(ctx, r.Class)
	if err != nil {
		return nil, err
	}
	to, err := s.keys.key(ctx, class)
	if err != nil {
		return nil, err
	}
	return shred.Reseal(s.rand(), from, to, r.WrappedDEK, r.RecordID)
}

// reclassed is how many DEKs were moved from one hot class to another.
type reclassed struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Records int64  `json:"records"`
}

// rescheduledBody is what a leaf tells of reschedulings: how many, the roots over the
// records' checksums and over what was done to them, by seq, and how many keys were moved
// from which class to which.
func rescheduledBody(moves []Rescheduling) map[string]any {
	sums, hashes := make([][32]byte, len(moves)), make([][32]byte, len(moves))
	keys := []reclassed{}
	for i := range moves {
		m := &moves[i]
		sums[i], hashes[i] = m.Checksum, ReschedulingHash(m)
		if m.From.Class == m.To.Class {
			continue
		}
		at := slices.IndexFunc(keys, func(k reclassed) bool { return k.From == m.From.Class && k.To == m.To.Class })
		if at < 0 {
			at, keys = len(keys), append(keys, reclassed{From: m.From.Class, To: m.To.Class})
		}
		keys[at].Records++
	}
	return map[string]any{"records": len(moves), "checksum_root": hexOf(archive.Root(sums)), "schedule_root": hexOf(archive.Root(hashes)), "resealed": keys}
}

// ReschedulingHash is the hash of what was done to a record, which the log is over;
// lifecycle/audit/log-format.md has it.
func ReschedulingHash(m *Rescheduling) [32]byte {
	var b []byte
	text := func(s string) {
		n := len(s)
		b = append(append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n)), s...)
	}
	text(m.RecordID)
	b = append(b, m.Checksum[:]...)
	for _, t := range []Timing{m.From, m.To} {
		text(cte.FormatTime(t.DueAt))
		text(t.Class)
		text(t.ArchiveClass)
	}
	return sha256.Sum256(b)
}

// rescheduleArchived moves the segments whose members are to be kept for longer. Where a
// vault does not lengthen a lock the segment stays where it is, and its class with it: the
// next sweep tries again.
func (s *sweep) rescheduleArchived(ctx context.Context, sch *scheduling) error {
	live, err := s.Store.Segments(ctx, Verified, Settled)
	if err != nil {
		return err
	}
	dead, err := s.classesIn(ctx, Executing, Destroyed)
	if err != nil {
		return err
	}
	for i := range live {
		g := &live[i]
		if dead[g.Class] {
			continue
		}
		to, err := s.latestPurge(ctx, sch, g)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		moved := 0
		if err == nil && to != nil {
			moved, err = s.moveSegment(ctx, g, to)
		}
		var fault *vaultFault
		if errors.As(err, &fault) || errors.Is(err, ErrMoved) {
			s.Log.Error().Str("segment", g.ID).Err(err).Msg("a segment is to be kept for longer, or may be, and is not yet")
			s.res.SegmentsWaiting++
			continue
		}
		if err != nil {
			return err
		}
		if moved > 0 {
			s.res.SegmentsMoved++
			s.progress("keep segments for longer", s.res.SegmentsMoved)
		}
	}
	return nil
}

// vaultFault: a vault did not do what it was asked.
type vaultFault struct{ error }

func (f *vaultFault) Unwrap() error { return f.error }

// destination is where a segment goes: the class of a month, and when its locks end at least.
type destination struct {
	period Period
	lock   time.Time
}

// latestPurge finds the class that a segment is to go to, by the member that is kept for
// longest; nil if it stays. Members that would go earlier are counted.
func (e *Engine) latestPurge(ctx context.Context, sch *scheduling, g *Segment) (*destination, error) {
	var ends []time.Time // of the members' months
	last, forGood := time.Time{}, false
	take := func(r *Row, to policy.Schedule) {
		if to.Failed {
			sch.undecided++
			return
		}
		purge := later(to.Purge, r.PurgeNotBefore)
		ends = append(ends, ArchivePeriod(purge).Ends())
		if purge.After(last) {
			last = purge
		}
		forGood = forGood || purge.Equal(latest) && to.Kept == ""
	}
	unsure := map[[32]byte]Row{}
	for r, err := range e.Store.Rows(ctx, Query{State: Archived, Segment: g.ID}) {
		if err != nil {
			return nil, err
		}
		// Its due date was an end: its jurisdiction was known then.
		if to, sure := sch.byRow(&r); sure {
			take(&r, to)
		} else {
			unsure[r.Checksum] = r
		}
	}
	if sch.rows {
		sch.undecided += len(unsure)
	} else if len(unsure) > 0 {
		if err := e.byLines(ctx, sch, g, unsure, take); err != nil {
			return nil, err
		}
	}
	end, err := classEnd(g.Class)
	if err != nil || len(ends) == 0 {
		return nil, err
	}
	var to *destination
	if month := ArchivePeriod(last); month.Ends().After(later(end, sch.now)) {
		end = month.Ends()
		to = &destination{period: month, lock: e.lockUntil(end, sch.now)}
		if end.Equal(latest) && !forGood {
			// Nothing says for how long it is kept: its key is, and no lock is made
			// that nobody could take back.
			to.lock = e.lockUntil(sch.now, sch.now)
		}
	}
	for _, at := range ends {
		if at.Before(end) && end.After(sch.now) {
			sch.shorter++
		}
	}
	return to, nil
}

// byLines evaluates members of a segment by what is in it, read from one of its copies.
func (e *Engine) byLines(ctx context.Context, sch *scheduling, g *Segment, rows map[[32]byte]Row, take func(*Row, policy.Schedule)) error {
	identity, err := sch.keys.identity(ctx, g)
	if err != nil {
		return &vaultFault{err}
	}
	var faults []error
	enough := errors.New("enough")
	for _, c := range g.Copies {
		err := e.readCopy(ctx, g, c, identity, func(line []byte) error {
			sum := cte.Checksum(line)
			if r, ok := rows[sum]; ok {
				to, err := sch.byLine(&r, line)
				if err != nil {
					return err
				}
				delete(rows, sum)
				take(&r, to)
			}
			if len(rows) == 0 {
				return enough
			}
			return nil
		})
		if len(rows) == 0 {
			return nil
		}
		faults = append(faults, fmt.Errorf("%s in vault %s: %w", g.ObjectKey, c.Vault, err))
	}
	return &vaultFault{fmt.Errorf("%d records cannot be read: %w", len(rows), errors.Join(faults...))}
}

// moveSegment lengthens every lock of a segment, reads them back, and then moves it and its
// members to the later class. Copies in a vault that is retiring are left alone: their
// locks run their time.
func (s *sweep) moveSegment(ctx context.Context, g *Segment, to *destination) (int, error) {
	rows, err := s.Store.Vaults(ctx)
	if err != nil {
		return 0, err
	}
	moved := *g
	moved.RetainUntil = later(g.RetainUntil, to.lock)
	moved.Copies = nil
	for _, c := range g.Copies {
		if slices.ContainsFunc(rows, func(r VaultRow) bool { return r.Name == c.Vault && r.State == Retiring }) {
			continue
		}
		until := later(c.RetainUntil, moved.RetainUntil)
		if c.RetainUntil, err = s.lengthen(ctx, g, c, until); err != nil {
			return 0, &vaultFault{fmt.Errorf("vault %s: %w", c.Vault, err)}
		}
		moved.Copies = append(moved.Copies, c)
	}
	secret, err := s.keys.secret(ctx, g)
	if err != nil {
		return 0, &vaultFault{err}
	}
	if err := s.keys.classes(ctx, s.lease.RunID, []Period{to.period}); err != nil {
		return 0, err
	}
	moved.Class = s.keys.open[to.period]
	key, err := s.keys.key(ctx, moved.Class)
	if err != nil {
		return 0, err
	}
	if moved.WrappedIdentity, err = key.WrapSecret(s.rand(), []byte(secret), identityLabel(g.ID)); err != nil {
		return 0, fmt.Errorf("couldn't wrap the identity of segment %s: %w", g.ID, err)
	}
	leaf := s.leaf(s.Now(), ActionSegmentMoved, s.lease.RunID, g.ID, s.decision.by(movedBody(g.Class, &moved)))
	return s.Store.MoveSegment(ctx, s.lease, moved, leaf)
}

func movedBody(from string, g *Segment) map[string]any {
	return map[string]any{"from": from, "to": g.Class, "wrapped_identity": g.WrappedIdentity, "retain_until": g.RetainUntil, "copies": g.Copies, "object_sha256": hexOf(g.ObjectSHA256)}
}

// lengthen makes the locks of a copy's object and manifest last until then at least, and
// says until when they do by what the vault answers.
func (s *sweep) lengthen(ctx context.Context, g *Segment, c Copy, until time.Time) (time.Time, error) {
	v, err := s.vault(c.Vault)
	if err != nil {
		return until, err
	}
	for _, o := range [][2]string{{g.ObjectKey, c.ObjectVersion}, {g.ManifestKey, c.ManifestVersion}} {
		info, err := v.Stat(ctx, o[0], o[1])
		if err != nil {
			return until, fmt.Errorf("couldn't read the lock of %s: %w", o[0], err)
		}
		if info.RetainUntil.Before(until) {
			if err := v.Retain(ctx, o[0], o[1], until); err != nil {
				return until, fmt.Errorf("couldn't lengthen the lock of %s: %w", o[0], err)
			}
			if info, err = v.Stat(ctx, o[0], o[1]); err != nil {
				return until, fmt.Errorf("couldn't read the lock of %s: %w", o[0], err)
			}
		}
		if info.Mode != archive.Compliance || info.RetainUntil.Before(until) {
			return until, fmt.Errorf("the lock of %s is %s until %s, and not until %s: %w", o[0], info.Mode, cte.FormatTime(info.RetainUntil), cte.FormatTime(until), errMismatch)
		}
	}
	return until, nil
}

// planReschedule counts what a sweep would reschedule, and corrects by it what res says is
// due. It returns the segments that would go to later classes.
func (e *Engine) planReschedule(ctx context.Context, res *SweepResult, d *decision, holds *HoldSet, now time.Time) (map[string]bool, error) {
	moved := map[string]bool{}
	info, err := e.Store.Info(ctx)
	if err != nil || info.Following == (Following{Leaf: d.leaf, Seq: info.Following.Seq, Done: true}) {
		return moved, err
	}
	sch, err := e.scheduling(ctx, d, now)
	if err != nil {
		return nil, err
	}
	sch.rows = true
	lots := newActiveLots(d.policy, now)
	var page []Row
	plan := func() error {
		if err := lots.look(ctx, e.Store, len(page), func(i int) *Row { return &page[i] }); err != nil {
			return err
		}
		for i := range page {
			if err := sch.planRecord(res, &page[i], holds, lots, now); err != nil {
				return err
			}
		}
		page = page[:0]
		return nil
	}
	for r, err := range e.Store.Rows(ctx, Query{State: Active}) {
		if err != nil {
			return nil, err
		}
		if page = append(page, r); len(page) < e.Limits.BatchRecords {
			continue
		}
		if err := plan(); err != nil {
			return nil, err
		}
	}
	if err := plan(); err != nil {
		return nil, err
	}
	live, err := e.Store.Segments(ctx, Verified, Settled)
	if err != nil {
		return nil, err
	}
	dead, err := e.classesIn(ctx, Executing, Destroyed)
	if err != nil {
		return nil, err
	}
	for i := range live {
		g := &live[i]
		if dead[g.Class] {
			continue
		}
		to, err := e.latestPurge(ctx, sch, g)
		if err != nil {
			return nil, err
		}
		if to != nil {
			res.SegmentsMoved++
			moved[g.ID] = true
		}
	}
	res.KeptLonger, res.Undecided = sch.shorter, sch.undecided
	return moved, nil
}

// planRecord counts what becomes of one active record.
func (sch *scheduling) planRecord(res *SweepResult, r *Row, holds *HoldSet, lots *ActiveLots, now time.Time) error {
	to, sure := sch.byRow(r)
	if !sure || to.Failed {
		sch.undecided++
		return nil
	}
	_, _, changed, err := sch.timing(r, to)
	if err != nil || !changed {
		return err
	}
	res.Rescheduled++
	count := func(r *Row, n int) {
		switch d := Decide(r, holds, lots, now); {
		case d.Action == Archive:
			res.Due, res.Archived = res.Due+n, res.Archived+n
		case d.Action == Defer && d.held():
			res.Due, res.Held = res.Due+n, res.Held+n
		case d.Action == Defer:
			res.Due, res.LotActive = res.Due+n, res.LotActive+n
		}
	}
	count(r, -1)
	after := *r
	after.DueAt = to.Due
	count(&after, 1)
	return nil
}

// reschedulingsOf lists what was done to a record, the oldest first.
func (e *Engine) reschedulingsOf(ctx context.Context, seq int64, leaves []Leaf) (out []Rescheduling, err error) {
	for i := range leaves {
		if leaves[i].Action != ActionRescheduled {
			continue
		}
		for r, err := range e.Store.LeafRows(ctx, leaves[i].ID) {
			if err != nil {
				return nil, err
			}
			if r.Seq == seq && r.Moved != nil {
				out = append(out, *r.Moved)
			}
		}
	}
	return out, nil
}

// resealedBody reads how many keys a leaf says were moved from which class to which.
func resealedBody(l *Leaf) ([]reclassed, error) {
	var body struct {
		Resealed []reclassed `json:"resealed"`
	}
	if err := json.Unmarshal(l.Body, &body); err != nil {
		return nil, fmt.Errorf("leaf %d: %w", l.ID, err)
	}
	return body.Resealed, nil
}
