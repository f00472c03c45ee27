package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/shred"
)

// Kinds of mismatch that only the database can show, beside archive's.
const (
	// KindRow: the row's index columns are not those of the record, or of the
	// manifest.
	KindRow = "row"
	// KindChecksum: the row's checksum is not the manifest's.
	KindChecksum = "checksum"
	// KindUnlisted: the row says it is archived in a segment whose manifest
	// does not list it, or in no segment that was verified.
	KindUnlisted = "unlisted"
	// KindUnknown: a segment lists a record that the database does not have.
	KindUnknown = "unknown_record"
	// KindTrail: there are fewer rows than the audit trail says were taken in.
	KindTrail = "trail"
	// KindLegalHold: an object is not under the legal hold that its vault has
	// confirmed. Confirming a hold that covers it once more sets it again.
	KindLegalHold = "legal_hold"
	// KindFault: it could not be checked.
	KindFault = "fault"
)

// VerifyResult is everything that was looked at and everything that was wrong.
type VerifyResult struct {
	Segments int `json:"segments"`
	// Objects counts objects read back: segments and manifests, each vault's.
	Objects int `json:"objects"`
	// Records counts records whose line was compared with its checksum,
	// archived or hot; one that a sweep archives meanwhile may count as both.
	Records    int                `json:"records"`
	Mismatches []archive.Mismatch `json:"mismatches"`
	// Missing are the objects that are not in their vault.
	Missing []archive.Mismatch `json:"missing"`
}

// Verify reads back every copy of every segment, and every hot record, and
// compares all of it with the database. It goes on to the end whatever it
// finds; the error is for what keeps it from going on. The trail has what came of it
// before anybody is told.
func (e *Engine) Verify(ctx context.Context) (VerifyResult, error) {
	v := &verification{Engine: e, keys: e.keyring(), legal: map[string][]HeldCopy{}, res: VerifyResult{Mismatches: []archive.Mismatch{}, Missing: []archive.Mismatch{}}}
	if err := v.all(ctx); err != nil {
		return v.res, err
	}
	return v.res, e.Store.Append(ctx, e.leaf(e.Now(), ActionVerifyDone, "", "", map[string]any{
		"segments": v.res.Segments, "objects": v.res.Objects, "records": v.res.Records,
		"mismatches": len(v.res.Mismatches), "missing": len(v.res.Missing), "result_sha256": hashOf(v.res),
	}))
}

// takenIn counts the records that the audit trail says were taken in, but for those that
// a recovery of the log said are lost.
func (e *Engine) takenIn(ctx context.Context) (int64, error) {
	leaves, err := e.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionIngested, ActionRecovered}})
	if err != nil {
		return 0, err
	}
	var n int64
	for i := range leaves {
		l := &leaves[i]
		if l.Action == ActionRecovered {
			lost, err := lostRecords(l)
			if err != nil {
				return 0, err
			}
			n -= lost
			continue
		}
		var body struct {
			Records int64 `json:"records"`
		}
		if err := json.Unmarshal(l.Body, &body); err != nil {
			return 0, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		n += body.Records
	}
	return n, nil
}

type verification struct {
	*Engine
	keys   *keyring
	vaults []VaultRow            // as they were before the segments were listed
	legal  map[string][]HeldCopy // those that are confirmed, by segment
	res    VerifyResult
	listed int64 // archived rows that belong to a verified segment
}

// all looks at everything.
func (v *verification) all(ctx context.Context) error {
	// Each read before what it is compared with: what an ingest brings meanwhile
	// is too many, never too few.
	taken, err := v.takenIn(ctx)
	if err != nil {
		return err
	}
	// Counted first: what a sweep archives meanwhile only adds to it. And the
	// hot records before the segments: so it is seen at least once.
	counts, err := v.Store.Counts(ctx)
	if err != nil {
		return err
	}
	if have := counts[Active] + counts[Archived] + counts[Purged]; have < taken {
		v.find(archive.Mismatch{Kind: KindTrail, Expected: fmt.Sprintf("rows of %d records", taken), Actual: fmt.Sprint(have)})
	}
	if err := v.hot(ctx); err != nil {
		return err
	}
	if v.vaults, err = v.Store.Vaults(ctx); err != nil {
		return err
	}
	legal, err := v.Store.LegalHolds(ctx)
	if err != nil {
		return err
	}
	for _, c := range legal {
		if c.State == LegalSet {
			v.legal[c.Segment] = append(v.legal[c.Segment], c)
		}
	}
	// Until there is no new one: a sweep may archive anew what was in one of the others.
	seen := map[string]bool{}
	for more := true; more; {
		segments, err := v.Store.Segments(ctx)
		if err != nil {
			return err
		}
		more = false
		for i := range segments {
			g := &segments[i]
			if seen[g.ID] {
				continue
			}
			seen[g.ID], more = true, true
			if err := v.segment(ctx, g); err != nil {
				return fmt.Errorf("couldn't verify segment %s: %w", g.ID, err)
			}
			v.progress("verify", v.res.Records)
		}
	}
	if want := counts[Archived] + counts[Purged]; v.listed < want {
		v.find(archive.Mismatch{Kind: KindUnlisted, Expected: fmt.Sprintf("%d archived or purged records in segments", want), Actual: fmt.Sprint(v.listed)})
	}
	return nil
}

func (v *verification) find(m ...archive.Mismatch) {
	for _, m := range m {
		if m.Kind == archive.KindMissing {
			v.res.Missing = append(v.res.Missing, m)
		} else {
			v.res.Mismatches = append(v.res.Mismatches, m)
		}
	}
}

func (v *verification) segment(ctx context.Context, g *Segment) error {
	// By checksum in the database's own words, before anything a vault says.
	rows := map[string]*Row{}
	var order []*Row
	for r, err := range v.Store.Rows(ctx, Query{Segment: g.ID}) {
		if err != nil {
			return err
		}
		rows[r.RecordID] = &r
		order = append(order, &r)
	}
	if g.State == Staged && len(rows) > 0 {
		// A sweep may have finished it since the segments were listed.
		now, err := v.Store.Segment(ctx, g.ID)
		if err != nil {
			return err
		}
		*g = now
	}
	if gone, err := v.purged(ctx, g); err != nil {
		return err
	} else if gone {
		// Its objects are there until their locks end, and are nothing to anybody.
		v.listed += int64(len(rows))
		return nil
	}
	if g.State != Verified && g.State != Settled {
		for id := range rows {
			v.find(archive.Mismatch{Segment: g.ID, RecordID: id, Kind: KindUnlisted, Expected: string(Settled), Actual: string(g.State)})
		}
		return nil
	}
	v.res.Segments++
	v.listed += int64(len(rows))
	identity, err := v.keys.identity(ctx, g)
	if err != nil {
		// Without it the lines cannot be compared; all the rest can.
		v.find(archive.Mismatch{Segment: g.ID, Kind: archive.KindUnreadable, Expected: "an identity that opens the segment", Actual: err.Error()})
	}
	entries, err := v.manifest(ctx, g)
	if err != nil {
		return err
	}
	if entries == nil {
		// VerifyCopy will say what is wrong with each manifest. The lines can
		// still be compared with the database, in the order they were packed in.
		slices.SortFunc(order, func(a, b *Row) int { return cmp.Or(a.DueAt.Compare(b.DueAt), cmp.Compare(a.Seq, b.Seq)) })
		for _, r := range order {
			entries = append(entries, archive.Entry{RecordID: r.RecordID, Checksum: hexOf(r.Checksum)})
		}
	} else if err := v.compare(ctx, g, rows, entries); err != nil {
		return err
	}
	for _, r := range v.vaults {
		if r.State == ActiveVault && !slices.ContainsFunc(g.Copies, func(c Copy) bool { return c.Vault == r.Name }) {
			v.find(archive.Mismatch{Segment: g.ID, Vault: r.Name, Key: g.ObjectKey, Kind: KindFault, Expected: "a copy in this vault", Actual: "none is recorded"})
		}
	}
	if len(g.Copies) == 0 {
		v.find(archive.Mismatch{Segment: g.ID, Key: g.ObjectKey, Kind: KindFault, Expected: "a copy in a vault", Actual: "none is recorded"})
	}
	compared := false
	for _, c := range g.Copies {
		vault, err := v.vault(c.Vault)
		if err != nil && v.retired(c) {
			continue
		}
		if err != nil {
			v.find(archive.Mismatch{Segment: g.ID, Vault: c.Vault, Key: g.ObjectKey, Kind: KindFault, Actual: err.Error()})
			continue
		}
		v.res.Objects += 2
		found, err := archive.VerifyCopy(ctx, vault, expect(g, c, entries), identity)
		v.find(found...)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			v.find(archive.Mismatch{Segment: g.ID, Vault: c.Vault, Key: g.ObjectKey, Kind: KindFault, Actual: err.Error()})
			continue
		}
		compared = compared || identity != nil && !slices.ContainsFunc(found, func(m archive.Mismatch) bool {
			return m.Key == g.ObjectKey && (m.Kind == archive.KindMissing || m.Kind == archive.KindUnreadable)
		})
	}
	if compared {
		v.res.Records += len(rows)
	}
	return v.legalHolds(ctx, g)
}

// purged says that a segment's class is destroyed, or about to be.
func (v *verification) purged(ctx context.Context, g *Segment) (bool, error) {
	if g.State == PurgedSegment {
		return true, nil
	}
	if _, err := v.keys.key(ctx, g.Class); !errors.Is(err, shred.ErrDestroyed) {
		return false, nil
	}
	dead, err := v.classesIn(ctx, Executing, Destroyed)
	return dead[g.Class], err
}

// legalHolds looks whether the vaults still have the legal holds that they confirmed.
func (v *verification) legalHolds(ctx context.Context, g *Segment) error {
	for _, c := range v.legal[g.ID] {
		off, err := v.offLegalHold(ctx, c)
		if err != nil {
			continue // the copy's own check has said so
		}
		if len(off) == 0 {
			continue
		}
		// It may just have been released.
		now, err := v.Store.LegalHolds(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(now, func(n HeldCopy) bool { return n.Segment == c.Segment && n.Vault == c.Vault && n.State == LegalSet }) {
			continue
		}
		for _, key := range off {
			v.find(archive.Mismatch{Segment: g.ID, Vault: c.Vault, Key: key, Kind: KindLegalHold, Expected: "under legal hold, as was confirmed " + cte.FormatTime(c.Since), Actual: "not"})
		}
	}
	return nil
}

// retired says that nothing is asked of a copy any more: its vault is retiring,
// and its lock has ended.
func (v *verification) retired(c Copy) bool {
	return !c.RetainUntil.After(v.Now()) && slices.ContainsFunc(v.vaults, func(r VaultRow) bool { return r.Name == c.Vault && r.State == Retiring })
}

// manifest finds a manifest that has the SHA-256 in the database; nil if no
// vault has one.
func (v *verification) manifest(ctx context.Context, g *Segment) ([]archive.Entry, error) {
	for _, c := range g.Copies {
		vault, err := v.vault(c.Vault)
		if err != nil {
			continue
		}
		r, _, err := vault.Get(ctx, g.ManifestKey, c.ManifestVersion)
		if err != nil {
			continue // the copy's own check will say so
		}
		b, err := io.ReadAll(io.LimitReader(r, g.ManifestSize+1))
		r.Close()
		if err != nil || cte.Checksum(b) != g.ManifestSHA256 {
			continue
		}
		m, err := archive.ParseManifest(b)
		if err != nil {
			return nil, fmt.Errorf("manifest %s has the right checksum and does not parse: %w", g.ManifestKey, err)
		}
		return m.Entries, nil
	}
	return nil, ctx.Err()
}

// compare checks the rows of a segment against its manifest, both ways.
func (v *verification) compare(ctx context.Context, g *Segment, rows map[string]*Row, entries []archive.Entry) error {
	var others []string
	listed := make(map[string]bool, len(entries))
	for _, en := range entries {
		listed[en.RecordID] = true
		r := rows[en.RecordID]
		if r == nil {
			others = append(others, en.RecordID)
			continue
		}
		if hexOf(r.Checksum) != en.Checksum {
			v.find(archive.Mismatch{Segment: g.ID, Key: g.ManifestKey, RecordID: r.RecordID, Kind: KindChecksum, Expected: hexOf(r.Checksum), Actual: en.Checksum})
		}
		if want := string(indexOf(r)); want != string(en.Index) {
			v.find(archive.Mismatch{Segment: g.ID, Key: g.ManifestKey, RecordID: r.RecordID, Kind: KindRow, Expected: want, Actual: string(en.Index)})
		}
	}
	for id := range rows {
		if !listed[id] {
			v.find(archive.Mismatch{Segment: g.ID, Key: g.ManifestKey, RecordID: id, Kind: KindUnlisted, Expected: "in the manifest", Actual: "not in it"})
		}
	}
	// A member that a hold kept hot is in the segment without being of it.
	for len(others) > 0 {
		part := others[:min(v.Limits.BatchRecords, len(others))]
		others = others[len(part):]
		known, err := v.Store.Existing(ctx, part)
		if err != nil {
			return err
		}
		for _, id := range part {
			if _, ok := known[id]; !ok {
				v.find(archive.Mismatch{Segment: g.ID, Key: g.ManifestKey, RecordID: id, Kind: KindUnknown, Expected: "a row in the database", Actual: "none"})
			}
		}
	}
	return nil
}

// hot checks every active record: that it opens, that its line has its
// checksum, and that its row says what the line says.
func (v *verification) hot(ctx context.Context) error {
	for r, err := range v.Store.Sealed(ctx, Query{State: Active}) {
		if err != nil {
			return err
		}
		line, err := v.keys.follow(ctx, &r)
		if err != nil && r.State != Active {
			continue // a sweep has archived it meanwhile: its segment is still to come
		}
		m := archive.Mismatch{Vault: "hot", RecordID: r.RecordID}
		if err != nil {
			m.Kind, m.Expected, m.Actual = archive.KindUnreadable, hexOf(r.Checksum), err.Error()
			if errors.Is(err, errChecksum) {
				m.Kind, m.Actual = KindChecksum, "another line"
			}
			v.find(m)
			continue
		}
		v.res.Records++
		rec, err := cte.ParseLine(line)
		if err != nil {
			m.Kind, m.Actual = archive.KindUnreadable, err.Error()
			v.find(m)
			continue
		}
		if diff := v.rowDiffers(&r.Row, rec); diff != "" {
			m.Kind, m.Expected, m.Actual = KindRow, "as in the record", diff
			v.find(m)
		}
		if v.res.Records%v.Limits.BatchRecords == 0 {
			v.progress("verify", v.res.Records)
		}
	}
	return nil
}

// rowDiffers names the columns of a row that are not its record's.
func (v *verification) rowDiffers(r *Row, rec *cte.Record) string {
	var cols []string
	check := func(name string, same bool) {
		if !same {
			cols = append(cols, name)
		}
	}
	check("record_id", r.RecordID == rec.RecordID)
	check("traceability_lot_code", r.TLC == rec.TLC)
	check("tlc_source", r.TLCSource == rec.TLCSource)
	check("event_type", r.EventType == rec.EventType)
	check("event_timestamp", r.EventTimestamp.Equal(rec.EventTimestamp))
	check("created_or_obtained_at", r.CreatedOrObtainedAt.Equal(rec.CreatedOrObtainedAt))
	check("purge_not_before", r.PurgeNotBefore.Equal(PurgeNotBefore(rec.EventTimestamp, rec.CreatedOrObtainedAt)))
	check("location", r.Location == rec.Location())
	check("product", r.Product == rec.Product())
	return strings.Join(cols, ", ")
}
