package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

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
