// Package report is what auditors and FDA pull. A report reads; it never
// changes anything, and it holds no KDEs beyond the index columns.
package report

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"iter"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// ChecksumRow is one record and one copy of it. A hot record has one row, with
// the columns of the copy empty. Its JSON names are a promise.
type ChecksumRow struct {
	RecordID       string          `json:"record_id"`
	TLC            string          `json:"traceability_lot_code"`
	EventType      cte.EventType   `json:"event_type"`
	EventTimestamp string          `json:"event_timestamp"`
	State          lifecycle.State `json:"state"`
	Checksum       string          `json:"checksum"`
	Segment        string          `json:"segment"`
	Vault          string          `json:"vault"`
	Key            string          `json:"key"`
	VersionID      string          `json:"version_id"`
	ObjectSHA256   string          `json:"object_sha256"`
	RetainUntil    string          `json:"retain_until"`
	VerifiedAt     string          `json:"verified_at"`
}

// Checksums yields the checksum report of a query in order of event time. The
// state is the one people see: held while a hold covers the record. The trail has who
// was given it.
func Checksums(ctx context.Context, e *lifecycle.Engine, q lifecycle.Query) iter.Seq2[ChecksumRow, error] {
	return func(yield func(ChecksumRow, error) bool) {
		rows, stopped := 0, false
		for row, err := range checksums(ctx, e, q) {
			if stopped = !yield(row, err) || err != nil; stopped {
				break
			}
			rows++
		}
		if err := e.Reported(ctx, "checksums", q, rows); err != nil && stopped {
			e.Log.Error().Err(err).Msg("the audit trail does not have the report")
		} else if err != nil {
			yield(ChecksumRow{}, err)
		}
	}
}

func checksums(ctx context.Context, e *lifecycle.Engine, q lifecycle.Query) iter.Seq2[ChecksumRow, error] {
	return func(yield func(ChecksumRow, error) bool) {
		s := e.Store
		holds, err := e.HoldSet(ctx)
		if err == nil {
			q, err = e.Select(ctx, q)
		}
		if err != nil {
			yield(ChecksumRow{}, err)
			return
		}
		segments := map[string]lifecycle.Segment{}
		for r, err := range s.Rows(ctx, q) {
			if err != nil {
				yield(ChecksumRow{}, err)
				return
			}
			row := ChecksumRow{
				RecordID: r.RecordID, TLC: r.TLC, EventType: r.EventType, EventTimestamp: cte.FormatTime(r.EventTimestamp),
				State: r.State, Checksum: hex.EncodeToString(r.Checksum[:]), Segment: r.Segment,
			}
			if r.State != lifecycle.Purged && len(holds.Covering(&r)) > 0 {
				row.State = lifecycle.Held
			}
			g, known := segments[r.Segment]
			if r.Segment != "" && !known {
				if g, err = s.Segment(ctx, r.Segment); err != nil {
					yield(ChecksumRow{}, err)
					return
				}
				segments[r.Segment] = g
			}
			if len(g.Copies) == 0 {
				if !yield(row, nil) {
					return
				}
				continue
			}
			for _, c := range g.Copies {
				row.Vault, row.Key, row.VersionID, row.ObjectSHA256 = c.Vault, g.ObjectKey, c.ObjectVersion, hex.EncodeToString(g.ObjectSHA256[:])
				row.RetainUntil, row.VerifiedAt = cte.FormatTime(c.RetainUntil), cte.FormatTime(c.VerifiedAt)
				if !yield(row, nil) {
					return
				}
			}
		}
	}
}

// SHA256Sums writes the objects and manifests that hold a query's records in
// the format that `sha256sum -c` reads in a vault's directory, each once.
func SHA256Sums(ctx context.Context, w io.Writer, e *lifecycle.Engine, q lifecycle.Query) error {
	s := e.Store
	asked := q
	q, err := e.Select(ctx, q)
	if err != nil {
		return err
	}
	rows, done := 0, map[string]bool{"": true}
	for r, err := range s.Rows(ctx, q) {
		if err != nil {
			return err
		}
		if done[r.Segment] {
			continue
		}
		done[r.Segment] = true
		g, err := s.Segment(ctx, r.Segment)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%x  %s\n%x  %s\n", g.ObjectSHA256, g.ObjectKey, g.ManifestSHA256, g.ManifestKey); err != nil {
			return err
		}
		rows += 2
	}
	return e.Reported(ctx, "sha256sum", asked, rows)
}
