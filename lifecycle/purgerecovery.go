package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// ends is what a recovery knows of records that entries archived, and of which no vault
// has the manifest any more: it is deleted with the objects of a purged segment.
type ends struct {
	// unnamed counts, by segment, those that nobody can name.
	unnamed map[string]int64
	// purged are those of them that were purged since.
	purged map[string]int64
	// stuck are segments with records that were archived anew, nobody knows which.
	stuck map[string]bool
	// moved are the archive classes that a dry run would have moved to another.
	moved map[string]string
}

// inOrder is a record with what roots are ordered by.
type inOrder struct {
	Member
	due Cursor
}

// bySeq is the order of what was archived, byID that of what was archived anew or purged.
func bySeq(a, b inOrder) int {
	return cmp.Or(a.due.DueAt.Compare(b.due.DueAt), cmp.Compare(a.due.Seq, b.due.Seq))
}

func byID(a, b inOrder) int {
	return cmp.Or(a.due.DueAt.Compare(b.due.DueAt), cmp.Compare(a.RecordID, b.RecordID))
}

// rootOf is the Merkle root over the checksums of records in an order.
func rootOf(of []inOrder, order func(a, b inOrder) int) string {
	of = slices.SortedFunc(slices.Values(of), order)
	sums := make([][32]byte, len(of))
	for i := range of {
		sums[i] = of[i].Checksum
	}
	return hexOf(archive.Root(sums))
}

func membersOf(of []inOrder) (out []Member) {
	for _, x := range of {
		out = append(out, x.Member)
	}
	return out
}

func placed(r *Row) inOrder { return inOrder{Member{r.RecordID, r.Checksum}, Cursor{r.DueAt, r.Seq}} }

// ofLeaf counts the records of an entry that the database has.
func (r *logRecovery) ofLeaf(ctx context.Context, i int64) (n int64, err error) {
	leaves, err := r.Store.LogLeaves(ctx, i, i+1)
	if err != nil || len(leaves) == 0 {
		return 0, err
	}
	for _, err := range r.Store.LeafRows(ctx, leaves[0].ID) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// archivedByRows finds the records that an entry archived by what the database has of
// them: active records of the class in order of due time, from the entry's first to its
// last. The root proves that it is they.
func (r *logRecovery) archivedByRows(ctx context.Context, i int64, g *Segment, b *archivedBody) (Effect, error) {
	if i < r.res.Common {
		n, err := r.ofLeaf(ctx, i)
		r.res.Archived += n
		r.ends.unnamed[g.ID] += b.Records - n
		return nil, err
	}
	of, err := r.between(ctx, g.Class, b)
	if err != nil {
		return nil, err
	}
	if int64(len(of)) != b.Records || rootOf(of, bySeq) != b.Root {
		r.ends.unnamed[g.ID] += b.Records
		return nil, nil
	}
	r.res.Archived += b.Records
	if r.res.DryRun {
		for _, x := range of {
			r.archived[x.RecordID] = true
		}
	}
	return RecordsArchived{Segment: g.ID, Members: membersOf(of)}, nil
}

func (r *logRecovery) between(ctx context.Context, class string, b *archivedBody) (of []inOrder, err error) {
	var ends [2]Row
	for n, id := range []string{b.First, b.Last} {
		if ends[n], err = r.Store.Row(ctx, id); errors.Is(err, ErrNotFound) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	last := placed(&ends[1]).due
	classes := []string{class}
	for from, to := range r.ends.moved {
		if to == class {
			classes = append(classes, from)
		}
	}
	for _, class := range classes {
		for after, more := (Cursor{ends[0].DueAt, ends[0].Seq - 1}), true; more; {
			page, err := r.Store.DueRows(ctx, class, last.DueAt, after, r.Limits.BatchRecords)
			if err != nil {
				return nil, err
			}
			more = len(page) > 0
			for n := range page {
				x := placed(&page[n])
				if after = x.due; x.due.DueAt.Equal(last.DueAt) && x.due.Seq > last.Seq {
					more = false
					break
				}
				if !slices.Contains(b.Kept, x.RecordID) && !r.archived[x.RecordID] {
					of = append(of, x)
				}
			}
		}
	}
	return of, nil
}

// rearchivedEffect finds the records that an entry archived anew: the next of the new
// segment's manifest, for its entries tell of them in that order.
func (r *logRecovery) rearchivedEffect(ctx context.Context, i int64, en *audit.Entry) (Effect, error) {
	var b struct {
		From    string `json:"from"`
		Records int64  `json:"records"`
		Root    string `json:"checksum_root"`
	}
	if err := json.Unmarshal(en.Body, &b); err != nil {
		return nil, err
	}
	g, m, err := r.segment(ctx, en.Subject)
	if err != nil {
		return nil, err
	}
	from, err := r.segmentRow(ctx, b.From)
	if err != nil {
		return nil, err
	}
	out := RecordsRearchived{From: from.ID, RecordsArchived: RecordsArchived{Segment: g.ID}}
	if m == nil {
		moved, err := r.rearchivedByRows(ctx, i, en, &out, b.Records, b.Root)
		if err != nil || !moved {
			return nil, err
		}
		return out, nil
	}
	if r.lineageOf != g.ID {
		r.seen, r.lineages, r.lineageOf = map[string]bool{}, nil, g.ID
	}
	var ids []string
	for _, x := range m.Entries {
		if !r.seen[x.RecordID] {
			ids = append(ids, x.RecordID)
		}
	}
	have, err := r.rows(ctx, ids)
	if err != nil {
		return nil, err
	}
	id := int64(0) // of the leaf, if the database has it
	if i < r.res.Common {
		leaves, err := r.Store.LogLeaves(ctx, i, i+1)
		if err != nil {
			return nil, err
		}
		for _, l := range leaves {
			id = l.ID
		}
	}
	var of []inOrder
	var lacking []archive.Entry
	for _, x := range m.Entries {
		if int64(len(of)) == b.Records {
			break
		}
		row, here := have[x.RecordID]
		in := here && row.State != Active && row.Segment == g.ID
		if r.seen[x.RecordID] || in && i >= r.res.Common {
			continue
		}
		r.seen[x.RecordID] = true
		entry, err := rowOf(x)
		if err != nil {
			return nil, fmt.Errorf("manifest %s, record %s: %w", g.ManifestKey, x.RecordID, err)
		}
		of = append(of, placed(&entry))
		member := Member{x.RecordID, entry.Checksum}
		first := false // archived, as far as is known here, for the first time
		switch same := here && row.Checksum == entry.Checksum; {
		case in:
			first = row.ArchiveLeaf == id
		case r.res.DryRun && r.archived[x.RecordID], same && row.State == Archived && (row.Segment == from.ID || r.res.DryRun):
			out.Moved = append(out.Moved, member)
		case !here:
			lacking, first = append(lacking, x), true
		case same && row.State == Active:
			out.Members, first = append(out.Members, member), true
		default:
			r.lose(LostConflict, x.RecordID, 1, "segment %s has it, and the database another record of this id, taken in again since: it stays", g.ID)
		}
		if first {
			r.ends.unnamed[from.ID] = max(0, r.ends.unnamed[from.ID]-1)
			r.res.Archived++
		}
		if r.res.DryRun {
			r.archived[x.RecordID] = true
		}
	}
	if root := rootOf(of, byID); i >= r.res.Common && (root != b.Root || int64(len(of)) != b.Records) {
		r.lose(LostRoot, g.ID, b.Records, "the entry is of %d records with the root %s, the manifest has %d of them with the root %s", b.Records, b.Root, len(of), root)
	}
	r.res.Rearchived += int64(len(of))
	r.res.Rebuilt += int64(len(lacking))
	if len(lacking) > 0 {
		if out.Lacking, err = r.rebuild(ctx, &g, m, lacking); err != nil {
			return nil, err
		}
		for n := range out.Lacking {
			out.Lacking[n].ArchiveClass = from.Class // where they were before
		}
	}
	return out, nil
}

// rearchivedByRows finds them by what was held in the segment that they come from. A dry
// run, which has not brought the holds back, takes it that they can be found.
func (r *logRecovery) rearchivedByRows(ctx context.Context, i int64, en *audit.Entry, out *RecordsRearchived, records int64, root string) (bool, error) {
	unnamed := min(records, r.ends.unnamed[out.From])
	if i < r.res.Common {
		n, err := r.ofLeaf(ctx, i)
		if err != nil {
			return false, err
		}
		unnamed = records - n
	}
	r.ends.unnamed[out.From] -= min(unnamed, r.ends.unnamed[out.From])
	r.ends.unnamed[out.Segment] += unnamed
	r.res.Rearchived += records - unnamed
	if r.res.DryRun || i < r.res.Common || unnamed == records {
		return false, nil
	}
	open, err := r.openReach(ctx, en.At)
	if err != nil {
		return false, err
	}
	var of []inOrder
	for row, err := range r.Store.Rows(ctx, Query{State: Held, Reach: open, Segment: out.From}) {
		if err != nil {
			return false, err
		}
		of = append(of, placed(&row))
	}
	slices.SortFunc(of, bySeq) // as they were read from the segment
	of = of[:min(int64(len(of)), records)]
	if rootOf(of, byID) != root {
		r.ends.unnamed[out.Segment] += records - unnamed
		r.res.Rearchived -= records - unnamed
		r.ends.stuck[out.From] = true
		return false, nil
	}
	out.Moved = membersOf(of)
	return true, nil
}

// purgedEffect finds the records that an entry purged: the first that are left in the
// segment.
func (r *logRecovery) purgedEffect(ctx context.Context, i int64, en *audit.Entry) (Effect, error) {
	var b struct {
		Records int64  `json:"records"`
		Root    string `json:"checksum_root"`
		Done    bool   `json:"done"`
	}
	if err := json.Unmarshal(en.Body, &b); err != nil {
		return nil, err
	}
	unnamed := min(b.Records, r.ends.unnamed[en.Subject])
	r.ends.unnamed[en.Subject] -= unnamed
	r.ends.purged[en.Subject] += unnamed
	r.res.Purged += b.Records - unnamed
	if r.res.DryRun || i < r.res.Common {
		return nil, nil
	}
	var of []inOrder
	for row, err := range r.Store.Rows(ctx, Query{Segment: en.Subject, State: Archived}) {
		if err != nil {
			return nil, err
		}
		of = append(of, placed(&row))
	}
	slices.SortFunc(of, byID)
	of = of[:min(int64(len(of)), b.Records)]
	if root := rootOf(of, byID); root != b.Root {
		if unnamed == 0 {
			r.lose(LostRoot, en.Subject, b.Records, "the entry purged %d records with the root %s, the segment has %d of them with the root %s", b.Records, b.Root, len(of), root)
		}
		if r.ends.stuck[en.Subject] {
			return nil, nil // one of them may be archived anew
		}
	}
	return RecordsPurged{Segment: en.Subject, Members: membersOf(of), Done: b.Done}, nil
}

// classMovedEffect moves as many records as the entry says: which they were it does not.
func (r *logRecovery) classMovedEffect(en *audit.Entry) (Effect, error) {
	var b struct {
		From    string `json:"from"`
		To      string `json:"to"`
		Records int64  `json:"records"`
	}
	if err := json.Unmarshal(en.Body, &b); err != nil {
		return nil, err
	}
	if r.res.DryRun {
		for from, to := range r.ends.moved {
			if to == b.From {
				r.ends.moved[from] = b.To
			}
		}
		r.ends.moved[b.From] = b.To
	}
	return ArchiveClassMoved(b), nil
}

// sayUnnamed says which records nobody can name, and counts those that were purged.
func (r *logRecovery) sayUnnamed() (purged int64) {
	for _, id := range slices.Sorted(maps.Keys(r.ends.unnamed)) {
		if n := r.ends.unnamed[id]; n > 0 {
			r.lose(LostManifest, id, n, "no vault gives back the segment's manifest, which says which records these are")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.ends.purged)) {
		if n := r.ends.purged[id]; n > 0 {
			r.lose(LostPurged, id, n, "they were purged, and with the segment's objects the manifest is deleted that has their rows: nobody can read them, and their ids are not known to be taken")
			purged += n
		}
	}
	return purged
}

// purgedAndLost counts the records that were archived and purged, of which there is no row,
// but for those that a recovery has said are lost.
func (r *logRecovery) purgedAndLost(ctx context.Context) (int64, error) {
	lost := int64(0)
	for _, n := range r.ends.purged {
		lost += n
	}
	if lost == 0 {
		return 0, nil
	}
	leaves, err := r.Store.Leaves(ctx, LeafQuery{Actions: []string{ActionArchived, ActionRecovered}})
	if err != nil {
		return 0, err
	}
	archived := int64(0)
	for _, l := range leaves {
		var b struct {
			Records int64 `json:"records"`
			Lost    int64 `json:"lost_purged"`
		}
		if err := json.Unmarshal(l.Body, &b); err != nil {
			return 0, fmt.Errorf("leaf %d: %w", l.ID, err)
		}
		archived += b.Records - b.Lost
	}
	counts, err := r.Store.Counts(ctx)
	return min(lost, max(0, archived-counts[Archived]-counts[Purged])), err
}
