package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
	"github.com/lotkeeper/lotkeeper/shred"
)

// contentLabel keys the HMAC of content identities.
const contentLabel = "content-identity"

// Input is one file of records.
type Input struct {
	Name string
	Open func() (io.ReadCloser, error)
}

// IngestOptions steer one ingest.
type IngestOptions struct {
	EventType cte.EventType
	Strict    bool
	// Reject is told of every row that was not taken in, conflicts included.
	// Its error ends the ingest: a row must not vanish.
	Reject func(*cte.Reject) error
	// Close, if set, is called once when all rows were read, before the run's
	// end is recorded. It makes the rejects durable and returns the name of the
	// file they are in, "" if there were none.
	Close func() (rejectsFile string, err error)
}

// IngestResult counts rows. Read is the sum of Accepted, Duplicates,
// Conflicts and Rejected; Gaps counts the accepted records that have any.
type IngestResult struct {
	RunID      string `json:"run_id"`
	Read       int    `json:"read"`
	Accepted   int    `json:"accepted"`
	Duplicates int    `json:"duplicates"`
	Conflicts  int    `json:"conflicts"`
	Rejected   int    `json:"rejected"`
	Gaps       int    `json:"gaps"`
	// Kept counts the accepted records that are never due: no rule matches them, or
	// their rule cannot be decided.
	Kept        int    `json:"kept"`
	RejectsFile string `json:"rejects_file"`
}

// ingest is the state of one run.
type ingest struct {
	*Engine
	decision decision
	keys     *keyring
	opt      IngestOptions
	runID    string
	now      time.Time
	res      IngestResult
	file     string
}

// Ingest takes in files, a batch at a time; memory follows the batch. When it
// returns an error, what was counted as accepted is in, and ingesting the same
// files again adds the rest and counts the others as duplicates.
func (e *Engine) Ingest(ctx context.Context, inputs []Input, opt IngestOptions) (res IngestResult, err error) {
	inForce, err := e.InForce(ctx)
	if err != nil {
		return res, err
	}
	if err := e.checkLog(ctx); err != nil {
		return res, err
	}
	if err := e.CheckKeyring(ctx); err != nil {
		return res, err
	}
	in := &ingest{Engine: e, keys: e.keyring(), opt: opt, now: e.Now().UTC()}
	info, err := e.Store.Info(ctx)
	if err != nil {
		return res, err
	}
	if err := e.checkNotBehind(info, in.now); err != nil {
		return res, err
	}
	if in.runID, err = e.newID("run", in.now); err != nil {
		return res, err
	}
	in.res.RunID = in.runID
	names := make([]string, len(inputs))
	for i, f := range inputs {
		names[i] = f.Name
	}
	run := Run{ID: in.runID, Kind: "ingest", Actor: e.Actor, StartedAt: in.now}
	if _, err := e.Store.BeginRun(ctx, run, e.leaf(in.now, ActionRunStarted, run.ID, run.ID, map[string]any{"kind": run.Kind, "files": names, "policy_hash": inForce.Hash()})); err != nil {
		return res, err // without a run: none has begun
	}
	// Once the run has begun: whoever reschedules records knows by that which decision
	// those of this run follow, see older.
	if in.decision, err = e.decided(ctx); err == nil {
		err = in.readFiles(ctx, inputs)
	}
	if opt.Close != nil {
		var closeErr error
		in.res.RejectsFile, closeErr = opt.Close()
		err = errors.Join(err, closeErr)
	}
	err = errors.Join(err, e.finishRun(ctx, run, in.res, err))
	e.publishRun(ctx)
	return in.res, err
}

// finishRun records how a run ended, also when its context is done.
func (e *Engine) finishRun(ctx context.Context, run Run, result any, failed error) error {
	run.FinishedAt, run.Status = e.Now().UTC(), "done"
	if failed != nil {
		run.Status = "failed"
	}
	var err error
	if run.Result, err = json.Marshal(result); err != nil {
		return err
	}
	leaf := e.leaf(run.FinishedAt, ActionRunFinished, run.ID, run.ID, map[string]any{"kind": run.Kind, "status": run.Status, "result": json.RawMessage(run.Result)})
	return e.Store.FinishRun(context.WithoutCancel(ctx), run, leaf)
}

func (in *ingest) readFiles(ctx context.Context, inputs []Input) error {
	for _, f := range inputs {
		if err := in.readFile(ctx, f); err != nil {
			return fmt.Errorf("couldn't ingest %s: %w", f.Name, err)
		}
	}
	return nil
}

func (in *ingest) readFile(ctx context.Context, f Input) error {
	file, err := f.Open()
	if err != nil {
		return err
	}
	defer file.Close()
	in.file = f.Name
	r, err := cte.NewReader(file, cte.Options{File: f.Name, Now: in.now, Rand: in.Rand, EventType: in.opt.EventType, Strict: in.opt.Strict})
	if err != nil {
		return err
	}
	// Two goroutines share the work: one reads and prepares the next batch, which
	// asks nothing of anybody, while this one brings the last one in. They meet
	// without a buffer: at most two batches are in memory, and they come in, and
	// rows are refused, in the order of the file.
	reading, stop := context.WithCancel(ctx)
	defer stop()
	batches := make(chan *batch)
	var failed error
	go func() {
		defer close(batches)
		failed = in.read(reading, r, batches)
	}()
	for b := range batches {
		if err := in.takeBatch(ctx, b); err != nil {
			// Not waited for: the reader may be waiting for a terminal.
			return err
		}
	}
	return failed
}

// batch is what is read at a time. It holds an id once, so that the second of two
// rows with one id finds the first in the database and is compared with it there.
type batch struct {
	arrivals []arrival
	ids      map[string]bool
	rejects  []*cte.Reject
	bytes    int64
}

// arrival is a record as it will be stored: with its row, as far as that depends
// on the record alone, and its canonical line.
type arrival struct {
	*cte.Record
	line      int // of its file, that it began on
	row       Row
	schedule  policy.Schedule
	canonical []byte
}

// read makes batches of a file. What was read before a fault still goes in.
func (in *ingest) read(ctx context.Context, r *cte.Reader, batches chan<- *batch) error {
	b := &batch{ids: map[string]bool{}}
	send := func() error {
		select {
		case batches <- b:
			b = &batch{ids: map[string]bool{}}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		rec, err := r.Next()
		var rejected *cte.Reject
		switch {
		case errors.Is(err, io.EOF):
			return send()
		case errors.As(err, &rejected):
			b.reject(rejected)
		case err != nil:
			return errors.Join(err, send())
		default:
			if b.ids[rec.RecordID] {
				if err := send(); err != nil {
					return err
				}
			}
			if a := in.prepare(rec, r.Line()); len(a.canonical) > archive.MaxLine {
				b.reject(in.refusal(a, "maxbytes", fmt.Sprintf("its canonical line would be longer than %d bytes", archive.MaxLine)))
			} else {
				b.arrivals, b.ids[rec.RecordID] = append(b.arrivals, a), true
				b.bytes += int64(len(a.canonical))
			}
		}
		if len(b.arrivals)+len(b.rejects) >= in.Limits.BatchRecords || b.bytes >= in.Limits.BatchBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
}

func (b *batch) reject(r *cte.Reject) {
	b.rejects = append(b.rejects, r)
	b.bytes += int64(len(r.Input))
}

func (in *ingest) prepare(r *cte.Record, line int) arrival {
	a := arrival{Record: r, line: line, canonical: r.AppendLine(nil), row: Row{
		RecordID: r.RecordID, TLC: r.TLC, TLCSource: r.TLCSource, EventType: r.EventType,
		EventTimestamp: r.EventTimestamp, CreatedOrObtainedAt: r.CreatedOrObtainedAt,
		PurgeNotBefore: PurgeNotBefore(r.EventTimestamp, r.CreatedOrObtainedAt),
		Location:       r.Location(), Product: r.Product(), State: Active,
	}}
	facts := in.decision.facts(&a.row)
	facts.Labels, facts.LabelsUnknown = r.Labels, false
	a.schedule = in.decision.policy.Schedule(facts)
	a.row.DueAt = a.schedule.Due
	a.row.Checksum = cte.Checksum(a.canonical)
	for _, g := range r.Gaps(in.now) {
		a.row.Gaps = append(a.row.Gaps, g.KDE)
	}
	return a
}

// takeBatch counts and refuses what could not be read, and brings in the rest.
func (in *ingest) takeBatch(ctx context.Context, b *batch) error {
	in.res.Read += len(b.rejects) + len(b.arrivals)
	for _, r := range b.rejects {
		in.res.Rejected++
		if err := in.opt.Reject(r); err != nil {
			return err
		}
	}
	if len(b.arrivals) == 0 {
		return nil
	}
	if err := in.take(ctx, b.arrivals); err != nil {
		return err
	}
	in.progress("ingest", in.res.Read)
	return nil
}

// take brings a batch in: seal, merge, and both again when a class was closed
// or an id taken in between.
func (in *ingest) take(ctx context.Context, batch []arrival) error {
	for attempt := 0; ; attempt++ {
		rest, err := in.known(ctx, batch)
		if err != nil || len(rest) == 0 {
			return err
		}
		sealed, holds, err := in.seal(ctx, rest)
		if errors.Is(err, shred.ErrDestroyed) {
			// A sweep has destroyed the class since it was looked up, and looking
			// again finds the next generation. If the database goes on calling
			// it open, it is the database that is behind.
			if attempt == 3 {
				return restored(err)
			}
			clear(in.keys.open)
			batch = rest
			continue
		}
		if err != nil {
			return err
		}
		sums, rows := make([][32]byte, len(sealed)), make([][32]byte, len(sealed))
		gaps, kept := 0, 0
		for i := range sealed {
			if rest[i].schedule.Kept != "" {
				kept++
				in.Log.Info().Str("record_id", rest[i].RecordID).Str("reason", rest[i].schedule.Kept).Msg("the record is kept: it has no day on which it is due")
			}
			sums[i], rows[i] = sealed[i].Checksum, RowHash(&sealed[i].Row, sealed[i].Inputs)
			if len(sealed[i].Gaps) > 0 {
				gaps++
			}
		}
		checksumRoot, rowRoot := archive.Root(sums), archive.Root(rows)
		leaf := in.leaf(in.Now(), ActionIngested, in.runID, "", in.decision.by(map[string]any{
			"records": len(sealed), "checksum_root": hexOf(checksumRoot), "row_root": hexOf(rowRoot), "file": in.file}))
		res, err := in.Store.Merge(ctx, sealed, holds, leaf)
		if err != nil {
			return err
		}
		if len(res.Exists) == 0 && len(res.Closed) == 0 {
			in.res.Accepted += res.Inserted
			in.res.Gaps += gaps
			in.res.Kept += kept
			return nil
		}
		in.keys.closed(res.Closed)
		batch = rest // what known has counted is not counted again
	}
}

// known deals with the records whose id is taken, and returns the others.
func (in *ingest) known(ctx context.Context, batch []arrival) ([]arrival, error) {
	ids := make([]string, len(batch))
	for i, r := range batch {
		ids[i] = r.RecordID
	}
	existing, err := in.Store.Existing(ctx, ids)
	if err != nil || len(existing) == 0 {
		return batch, err
	}
	var rest []arrival
	var content []byte
	var held map[string]bool // read once, if anybody asks for a hold
	holdAgain := func(r *arrival) (err error) {
		if r.RetentionHold == nil || !*r.RetentionHold {
			return nil
		}
		if held == nil {
			if held, err = in.retentionHolds(ctx); err != nil {
				return err
			}
		}
		if held[r.RecordID] {
			return nil
		}
		return in.holdAgain(ctx, r.RecordID)
	}
	for _, r := range batch {
		have, ok := existing[r.RecordID]
		if !ok {
			rest = append(rest, r)
			continue
		}
		if have.State == Purged {
			in.res.Rejected++
			if err := in.refuse(r, "purged", "a record with this id was purged; it is not taken in again"); err != nil {
				return nil, err
			}
			continue
		}
		// The key of the record that is there: it may be another month's than
		// the one that this copy, obtained today, would get.
		key, err := in.keys.key(ctx, have.ContentClass)
		if errors.Is(err, shred.ErrDestroyed) {
			// It was held, or too late, when that class died, and is in another.
			in.res.Rejected++
			if err := in.refuse(r, "incomparable", "a record with this id is there, and what its content was compared by is destroyed; retention_hold is heeded all the same"); err != nil {
				return nil, err
			}
			if err := holdAgain(&r); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("couldn't compare record %s with the one that is there: %w", r.RecordID, err)
		}
		content = r.AppendContent(content[:0])
		if key.MAC(contentLabel, content) != have.Content {
			in.res.Conflicts++
			if err := in.refuse(r, "conflict", "a record with this id and other content is there; a correction needs an id of its own, and names this one in corrects"); err != nil {
				return nil, err
			}
			continue
		}
		in.res.Duplicates++
		if err := holdAgain(&r); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

func (in *ingest) refuse(r arrival, rule, reason string) error {
	return in.opt.Reject(in.refusal(r, rule, reason))
}

func (in *ingest) refusal(r arrival, rule, reason string) *cte.Reject {
	return &cte.Reject{File: in.file, Line: r.line, RecordID: r.RecordID, Field: "record_id", Rule: rule, Reason: reason, Input: r.AppendNative(nil)}
}

// retentionHolds lists the records that a hold of an ingest covers.
func (in *ingest) retentionHolds(ctx context.Context) (map[string]bool, error) {
	open, err := in.Store.Holds(ctx, true)
	if err != nil {
		return nil, err
	}
	held := map[string]bool{}
	for _, h := range open {
		if h.Kind == RetentionHold {
			held[h.Scopes[0].RecordID] = true
		}
	}
	return held, nil
}

// holdAgain places the hold that a duplicate asks for.
func (in *ingest) holdAgain(ctx context.Context, recordID string) error {
	p, err := in.retentionHold(recordID)
	if err != nil {
		return err
	}
	return in.Store.Place(ctx, p)
}

func (in *ingest) retentionHold(recordID string) (Placement, error) {
	return in.placement(Hold{Kind: RetentionHold, Reason: "retention_hold in " + in.file, Scopes: []Scope{{RecordID: recordID}}}, in.now, in.runID)
}

// seal completes the rows of new records: class, content identity, sealed payload,
// wrapped DEK.
func (in *ingest) seal(ctx context.Context, batch []arrival) ([]Sealed, []Placement, error) {
	out := make([]Sealed, len(batch))
	periods := make([]Period, 0, 2*len(batch))
	for i := range batch {
		r := &batch[i]
		out[i].Row, out[i].Inputs = r.row, r.InputLots
		periods = append(periods, HotPeriod(r.row.DueAt), archivePeriodFrom(r.schedule.Purge, in.now))
	}
	if err := in.keys.classes(ctx, in.runID, periods); err != nil {
		return nil, nil, err
	}
	var holds []Placement
	var content []byte
	for i := range batch {
		r, s := &batch[i], &out[i]
		s.Class, s.ArchiveClass = in.keys.open[periods[2*i]], in.keys.open[periods[2*i+1]]
		hot, err := in.keys.key(ctx, s.Class)
		if err != nil {
			return nil, nil, err
		}
		arch, err := in.keys.key(ctx, s.ArchiveClass)
		if err != nil {
			return nil, nil, err
		}
		content = r.AppendContent(content[:0])
		s.Content = arch.MAC(contentLabel, content)
		var dek [32]byte
		if dek, s.Payload, err = shred.Seal(in.rand(), r.canonical, r.RecordID); err != nil {
			return nil, nil, fmt.Errorf("couldn't seal record %s: %w", r.RecordID, err)
		}
		if s.WrappedDEK, err = hot.Wrap(in.rand(), dek, r.RecordID); err != nil {
			return nil, nil, fmt.Errorf("couldn't wrap the DEK of record %s: %w", r.RecordID, err)
		}
		if r.RetentionHold != nil && *r.RetentionHold {
			p, err := in.retentionHold(r.RecordID)
			if err != nil {
				return nil, nil, err
			}
			holds = append(holds, p)
		}
	}
	return out, holds, nil
}
