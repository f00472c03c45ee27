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
)

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
	for class, d := range late {
		n, err := r.lotActive(ctx, class)
		if err != nil {
			return err
		}
		if d.Records -= n; d.Records <= 0 {
			delete(late, class)
		} else if n > 0 {
			d.Actual = "in the hot store, beside others whose lots are active"
		}
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

// lotActive counts the records of a class that are past due and stay since their lot is
// active, or was when a sweep could have been last.
func (r *reconciliation) lotActive(ctx context.Context, class string) (n int64, err error) {
	lots := newActiveLots(r.policy, r.now)
	if lots == nil {
		return 0, nil
	}
	holds, err := r.holdSet(ctx, r.now)
	if err != nil {
		return 0, err
	}
	var page []Row
	count := func() error {
		err := lots.look(ctx, r.Store, len(page), func(i int) *Row { return &page[i] })
		for i := range page {
			if rule, _ := lots.keep(&page[i], r.now.Add(-sweepEvery)); rule != "" && len(holds.Covering(&page[i])) == 0 {
				n++
			}
		}
		page = page[:0]
		return err
	}
	for row, err := range r.Store.Rows(ctx, Query{Class: class, State: Active}) {
		if err != nil {
			return n, err
		}
		if !row.DueAt.Before(HotPeriod(r.now).Start) {
			continue
		}
		if page = append(page, row); len(page) == r.Limits.BatchRecords {
			if err := count(); err != nil {
				return n, err
			}
		}
	}
	return n, count()
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

// dies says whether a sweep destroys the classes of a kind once they are over and empty.
func dies(kind ClassKind) bool {
	return kind == HotClass || kind == DeferralClass || kind == ArchiveClass
}

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
			active[t.ArchiveClass] += t.Records
		case t.Held:
			pinned[t.Class], pinned[t.ArchiveClass] = true, true
		}
	}
	last, swept := r.lastSweep()
	var res SweepResult
	if len(last.Result) > 0 {
		if err := json.Unmarshal(last.Result, &res); err != nil {
			return fmt.Errorf("the result of run %s: %w", last.ID, err)
		}
	}
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
			} else if i := slices.IndexFunc(res.Steps, func(s StepResult) bool { return s.Failed() && slices.Contains(s.Classes, id) }); i >= 0 {
				d.Detail += fmt.Sprintf("; in the last sweep, %s of %s, a step of rule %s failed: %s", last.ID, cte.FormatTime(last.StartedAt), res.Steps[i].Rule, res.Steps[i].Program)
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
