package lifecycle

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
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
	RunID       string `json:"run_id"`
	Read        int    `json:"read"`
	Accepted    int    `json:"accepted"`
	Duplicates  int    `json:"duplicates"`
	Conflicts   int    `json:"conflicts"`
	Rejected    int    `json:"rejected"`
	Gaps        int    `json:"gaps"`
	RejectsFile string `json:"rejects_file"`
}

// ingest is the state of one run.
type ingest struct {
	*Engine
	keys  *keyring
	opt   IngestOptions
	runID string
	now   time.Time
	res   IngestResult
	file  string
}

// Ingest takes in files, a batch at a time; memory follows the batch. When it
// returns an error, what was counted as accepted is in, and ingesting the same
// files again adds the rest and counts the others as duplicates.
func (e *Engine) Ingest(ctx context.Context, inputs []Input, opt IngestOptions) (res IngestResult, err error) {
	if err := e.checkPolicy(ctx); err != nil {
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
	if _, err := e.Store.BeginRun(ctx, run, e.leaf(in.now, ActionRunStarted, run.ID, run.ID, map[string]any{"kind": run.Kind, "files": names})); err != nil {
		return in.res, err
	}
	for _, f := range inputs {
		if err = in.readFile(ctx, f); err != nil {
			err = fmt.Errorf("couldn't ingest %s: %w", f.Name, err)
			break
		}
	}
	if opt.Close != nil {
		var closeErr error
		in.res.RejectsFile, closeErr = opt.Close()
		err = errors.Join(err, closeErr)
	}
	return in.res, errors.Join(err, e.finishRun(ctx, run, in.res, err))
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
	var batch []arrival
	ids := map[string]bool{}
	var bytes int64
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := in.take(ctx, batch); err != nil {
			return err
		}
		batch, bytes = batch[:0], 0
		clear(ids)
		in.progress("ingest", in.res.Read)
		return nil
	}
	for {
		rec, err := r.Next()
		var rejected *cte.Reject
		switch {
		case errors.Is(err, io.EOF):
			return flush()
		case errors.As(err, &rejected):
			in.res.Read++
			in.res.Rejected++
			if err := in.opt.Reject(rejected); err != nil {
				return err
			}
			continue
		case err != nil:
			return errors.Join(err, flush()) // what was read before the fault still goes in
		}
		in.res.Read++
		if tooLong(rec) {
			in.res.Rejected++
			if err := in.refuse(arrival{rec, r.Line()}, "maxbytes", fmt.Sprintf("its canonical line would be longer than %d bytes", archive.MaxLine)); err != nil {
				return err
			}
			continue
		}
		// A batch holds an id once, so that the second of two rows with one id
		// finds the first in the database and is compared with it there.
		if ids[rec.RecordID] {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, ids[rec.RecordID] = append(batch, arrival{rec, r.Line()}), true
		bytes += int64(len(rec.KDEs))
		if len(batch) >= in.Limits.BatchRecords || bytes >= in.Limits.BatchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

// tooLong says that a record could be taken in and never archived: escaping
// can make a row several times as long.
func tooLong(r *cte.Record) bool {
	given := len(r.KDEs)
	if r.Source != nil {
		given += len(r.Source.Header) + len(r.Source.Row)
	}
	return given > archive.MaxLine/8 && len(r.AppendLine(nil)) > archive.MaxLine
}

// arrival is a record with the line of its file that it began on.
type arrival struct {
	*cte.Record
	line int
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
		sums := make([][32]byte, len(sealed))
		gaps := 0
		for i := range sealed {
			sums[i] = sealed[i].Checksum
			if len(sealed[i].Gaps) > 0 {
				gaps++
			}
		}
		root := archive.Root(sums)
		leaf := in.leaf(in.Now(), ActionIngested, in.runID, "", map[string]any{
			"records": len(sealed), "merkle_root": hex.EncodeToString(root[:]), "file": in.file, "policy_hash": in.Policy.Hash()})
		res, err := in.Store.Merge(ctx, sealed, holds, leaf)
		if err != nil {
			return err
		}
		if len(res.Exists) == 0 && len(res.Closed) == 0 {
			in.res.Accepted += res.Inserted
			in.res.Gaps += gaps
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
		key, err := in.keys.key(ctx, have.ArchiveClass)
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
		if r.RetentionHold != nil && *r.RetentionHold {
			if held == nil {
				if held, err = in.retentionHolds(ctx); err != nil {
					return nil, err
				}
			}
			if !held[r.RecordID] {
				if err := in.holdAgain(ctx, r.RecordID); err != nil {
					return nil, err
				}
			}
		}
	}
	return rest, nil
}

func (in *ingest) refuse(r arrival, rule, reason string) error {
	return in.opt.Reject(&cte.Reject{File: in.file, Line: r.line, RecordID: r.RecordID, Field: "record_id", Rule: rule, Reason: reason, Input: r.AppendNative(nil)})
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
	_, err = in.Store.Place(ctx, p)
	return err
}

func (in *ingest) retentionHold(recordID string) (Placement, error) {
	return in.placement(Hold{Kind: RetentionHold, Reason: "retention_hold in " + in.file, Scopes: []Scope{{RecordID: recordID}}}, in.now, in.runID)
}

// seal makes the rows of new records: class, line, checksum, content identity,
// sealed payload, wrapped DEK.
func (in *ingest) seal(ctx context.Context, batch []arrival) ([]Sealed, []Placement, error) {
	out := make([]Sealed, len(batch))
	periods := make([]Period, 0, 2*len(batch))
	for i, r := range batch {
		out[i].Row = Row{
			RecordID: r.RecordID, TLC: r.TLC, TLCSource: r.TLCSource, EventType: r.EventType,
			EventTimestamp: r.EventTimestamp, CreatedOrObtainedAt: r.CreatedOrObtainedAt,
			DueAt:          in.Policy.DueAt(r.EventTimestamp),
			PurgeNotBefore: PurgeNotBefore(r.EventTimestamp, r.CreatedOrObtainedAt),
			Location:       r.Location(), Product: r.Product(), State: Active,
		}
		for _, g := range r.Gaps(in.now) {
			out[i].Gaps = append(out[i].Gaps, g.KDE)
		}
		periods = append(periods, HotPeriod(out[i].DueAt), ArchivePeriod(in.Policy.PurgeAt(r.EventTimestamp, r.CreatedOrObtainedAt)))
	}
	if err := in.keys.classes(ctx, in.runID, periods); err != nil {
		return nil, nil, err
	}
	var holds []Placement
	var line, content []byte
	for i, r := range batch {
		s := &out[i]
		s.Class, s.ArchiveClass = in.keys.open[periods[2*i]], in.keys.open[periods[2*i+1]]
		hot, err := in.keys.key(ctx, s.Class)
		if err != nil {
			return nil, nil, err
		}
		arch, err := in.keys.key(ctx, s.ArchiveClass)
		if err != nil {
			return nil, nil, err
		}
		line = r.AppendLine(line[:0])
		content = r.AppendContent(content[:0])
		s.Checksum = cte.Checksum(line)
		s.Content = arch.MAC(contentLabel, content)
		var dek [32]byte
		if dek, s.Payload, err = shred.Seal(in.rand(), line, r.RecordID); err != nil {
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
