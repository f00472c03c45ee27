package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
)

// Found is a record as an export gives it out.
type Found struct {
	Row    Row
	Record *cte.Record
	// Line is the canonical line.
	Line []byte
	// Masked: values that name people or their telephone numbers are masked in
	// Record and Line, so that Line is not the one that the checksum is of.
	Masked bool
}

// Unreadable is a record that an export has to leave out: no copy that can be
// reached has the line that its checksum names.
type Unreadable struct {
	RecordID string
	Err      error
}

func (u *Unreadable) Error() string {
	return fmt.Sprintf("record %s cannot be read: %v", u.RecordID, u.Err)
}
func (u *Unreadable) Unwrap() error { return u.Err }

// Line finds a record's canonical line wherever it lives, checked against its
// checksum: in the hot store, or in the first vault that has it unchanged. It is
// an export of one record.
func (e *Engine) Line(ctx context.Context, id string, mask bool) (Found, error) {
	r, err := e.Store.Row(ctx, id)
	if err != nil {
		return Found{}, err
	}
	if r.State == Purged {
		return Found{}, purged(id)
	}
	found := Found{}
	err = fmt.Errorf("record %s: %w", id, ErrNotFound)
	for f, fault := range e.Export(ctx, Query{RecordIDs: []string{id}}, mask) {
		if found, err = f, fault; err != nil {
			break
		}
	}
	return found, err
}

// Export yields the records of a query wherever they live: the hot ones first, then
// the archived ones segment by segment, each segment read once. An *Unreadable is
// about that record alone, and the next one follows; any other error is the end.
//
// Who asked for what is in the trail before the first record is given, and how much
// was given when the last one was; without the leaf nothing is given. Values that name
// people are masked if mask says so, or if the store says that whoever is asking may
// not see them; that they are shown has a leaf of its own, before they are. A
// *Refused ends an export that would go beyond Limits.ExportRecords.
func (e *Engine) Export(ctx context.Context, q Query, mask bool) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		d, err := e.disclose(ctx, q, mask)
		if err != nil {
			yield(Found{}, fmt.Errorf("couldn't begin the export: %w", err))
			return
		}
		stopped := false
		for f, err := range e.find(ctx, q) {
			if err == nil {
				err = d.give(ctx, &f)
			}
			var u *Unreadable
			goesOn := err == nil || errors.As(err, &u)
			if err != nil {
				f = Found{Row: f.Row}
			}
			if u != nil {
				d.unreadable++
			}
			if stopped = !yield(f, err) || !goesOn; stopped {
				break
			}
		}
		// Also of an export that was interrupted: what was given, was given.
		if err := d.append(context.WithoutCancel(ctx), ActionExported, map[string]any{
			"records": d.given, "unreadable": d.unreadable, "root": hexOf(d.tree.Root()), "masked": d.masked, "unmasked": !d.mask,
		}); err != nil {
			err = fmt.Errorf("couldn't end the export: %w", err)
			if stopped {
				e.Log.Error().Err(err).Str("export", d.id).Msg("the audit trail has its beginning alone")
			} else {
				yield(Found{}, err)
			}
		}
	}
}

// disclosure is the state of one export.
type disclosure struct {
	*Engine
	id       string
	mask     bool
	identity string
	allowed  int // records; -1 is no limit
	// What was given so far.
	given, masked, unreadable int
	tree                      archive.Tree
	// told: the trail says that personal values are shown, so there is nothing more to
	// be looked for.
	told bool
}

// askedQuery is a query as a leaf has it.
type askedQuery struct {
	RecordIDs   []string  `json:"record_ids,omitempty"`
	TLC         string    `json:"traceability_lot_code,omitempty"`
	TLCSource   string    `json:"tlc_source,omitempty"`
	LotContains string    `json:"lot_contains,omitempty"`
	From        time.Time `json:"from,omitzero"`
	To          time.Time `json:"to,omitzero"`
	State       State     `json:"state,omitempty"`
	Limit       int       `json:"limit,omitempty"`
}

func askedFor(q Query) askedQuery {
	return askedQuery{q.RecordIDs, q.TLC, q.TLCSource, q.LotContains, q.From.UTC(), q.To.UTC(), q.State, q.Limit}
}

// covers says whether the query asked for a record, whatever its state was then.
func (a askedQuery) covers(r *Row) bool {
	return (a.RecordIDs == nil || slices.Contains(a.RecordIDs, r.RecordID)) &&
		(a.TLC == "" || a.TLC == r.TLC) &&
		(a.TLCSource == "" || a.TLCSource == r.TLCSource) &&
		(a.From.IsZero() || !r.EventTimestamp.Before(a.From)) &&
		(a.To.IsZero() || r.EventTimestamp.Before(a.To))
}

// begun is what the leaf of an export's beginning has in its body.
type begun struct {
	Query    askedQuery `json:"query"`
	Unmasked bool       `json:"unmasked"`
	// Planned is how many records it will give at most, if there is a limit.
	Planned int `json:"planned,omitempty"`
}

// disclose begins an export.
func (e *Engine) disclose(ctx context.Context, q Query, mask bool) (*disclosure, error) {
	now := e.Now().UTC()
	id, err := e.newID("export", now)
	if err != nil {
		return nil, err
	}
	may, err := e.Store.MayUnmask(ctx)
	if err != nil {
		return nil, err
	}
	d := &disclosure{Engine: e, id: id, mask: mask || !may, allowed: -1}
	body := begun{Query: askedFor(q), Unmasked: !d.mask}
	limit := e.Limits.ExportRecords
	if limit > 0 {
		if body.Planned, err = e.countRows(ctx, q, limit); err != nil {
			return nil, err
		}
	}
	if err := e.Store.Append(ctx, e.leaf(now, ActionExportBegun, "", id, body)); err != nil {
		return nil, err
	}
	if limit > 0 {
		err = d.limit(ctx, now, limit)
	}
	return d, err
}

// countRows counts the rows of a query, and stops at most.
func (e *Engine) countRows(ctx context.Context, q Query, most int) (n int, err error) {
	if q.Limit == 0 || q.Limit > most {
		q.Limit = most
	}
	if q, err = e.Select(ctx, q); err != nil {
		return 0, err
	}
	for _, err := range e.Store.Rows(ctx, q) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// limit finds how much is left of what an identity may be given on a UTC day.
//
// An export that has not ended counts as all that it may still give: it may be running,
// or its process may have been killed to keep it from saying how much it gave. So of
// two that begin at once none can miss the other, for each has its beginning in the
// trail before it reads the trail.
func (d *disclosure) limit(ctx context.Context, now time.Time, limit int) error {
	leaves, err := d.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionExportBegun, ActionExported}, From: now.Truncate(24 * time.Hour)})
	if err != nil {
		return err
	}
	identity := func(l Leaf) string { return cmp.Or(l.Role, l.Actor) }
	for _, l := range leaves {
		if l.Subject == d.id {
			d.identity = identity(l)
		}
	}
	used := map[string]int{} // by export
	for _, l := range leaves {
		if l.Subject == d.id || identity(l) != d.identity {
			continue
		}
		var body struct {
			Planned int `json:"planned"`
			Records int `json:"records"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		if used[l.Subject] = body.Records; l.Action == ActionExportBegun {
			used[l.Subject] = body.Planned
		}
	}
	d.allowed = limit
	for _, n := range used {
		d.allowed -= n
	}
	d.allowed = max(d.allowed, 0)
	return nil
}

// give reads a record that is about to be given out, and masks it, or tells that it is
// not masked.
func (d *disclosure) give(ctx context.Context, f *Found) error {
	if d.given == d.allowed {
		limit := d.Limits.ExportRecords
		if err := d.append(ctx, ActionExportLimit, map[string]any{"identity": d.identity, "limit": limit, "records": d.given}); err != nil {
			return err
		}
		return &Refused{"export limit", fmt.Sprintf("%s would be given more than %d records on one UTC day; %d were given this time", d.identity, limit, d.given),
			"ask for fewer, or wait for the next UTC day; the limit is audit.export_limit in the configuration"}
	}
	var err error
	if f.Record, err = cte.ParseLine(f.Line); err != nil {
		return &Unreadable{f.Row.RecordID, err}
	}
	if !d.told {
		if err := d.masking(ctx, f); err != nil {
			return err
		}
	}
	d.given++
	d.tree.Add(f.Row.Checksum)
	return nil
}

func (d *disclosure) masking(ctx context.Context, f *Found) error {
	masked, personal := f.Record.Masked()
	switch {
	case personal && d.mask:
		f.Record, f.Line, f.Masked = masked, masked.AppendLine(nil), true
		d.masked++
	case personal:
		if err := d.append(ctx, ActionUnmasked, map[string]any{}); err != nil {
			return fmt.Errorf("couldn't show what is not masked: %w", err)
		}
		d.told = true
	}
	return nil
}

func (d *disclosure) append(ctx context.Context, action string, body any) error {
	return d.Store.Append(ctx, d.leaf(d.Now(), action, "", d.id, body))
}

// Reported tells that a report was given out. A report has no KDEs.
func (e *Engine) Reported(ctx context.Context, report string, q Query, rows int) error {
	return e.Store.Append(context.WithoutCancel(ctx), e.leaf(e.Now(), ActionReported, "", "", map[string]any{"report": report, "query": askedFor(q), "rows": rows}))
}
