package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rs/zerolog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
)

// purge ends the archived copies of classes whose month is over. Active records that
// were to come into one go to a later class, held members are archived anew in a hold
// class, and then the class dies as any other does: its key wraps the identity of each
// of its segments, in the database and in the manifests, and with the key nobody has
// any of them. What an earlier run left at any point is gone on with.
func (s *sweep) purge(ctx context.Context) error {
	dying, err := s.Store.DyingArchives(ctx, s.now)
	if err != nil {
		return err
	}
	now, err := s.decided(ctx)
	if err != nil {
		return err
	}
	if s.behind || now.leaf != s.decision.leaf {
		// Something may have to be kept for longer, and is not moved yet; by what was
		// decided while this run was at work, too. What is past the point of no return goes on: nothing brings it back.
		dying = slices.DeleteFunc(dying, func(c Class) bool { return c.State != Executing })
	}
	if len(dying) > 0 {
		ready, err := s.clear(ctx, dying)
		if err != nil {
			return err
		}
		if ready, err = s.prepared(ctx, ready, s.ofArchive); err != nil {
			return err
		}
		n, err := s.destroy(ctx, ready)
		if err != nil {
			return err
		}
		s.res.PurgedClasses += n
	}
	return s.purgeSegments(ctx)
}

// clear takes what must stay out of classes that are over, and returns those that
// nothing keeps: not those with a held record that no vault gives back.
func (s *sweep) clear(ctx context.Context, dying []Class) ([]Class, error) {
	open, err := s.openReach(ctx, s.now)
	if err != nil {
		return nil, err
	}
	live, err := s.Store.Segments(ctx, Verified, Settled)
	if err != nil {
		return nil, err
	}
	var ready []Class
	for _, c := range dying {
		if c.State == Executing {
			ready = append(ready, c)
			continue
		}
		if err := s.moveActive(ctx, c.ID); err != nil {
			return nil, err
		}
		var segments []Segment
		for _, g := range live {
			if g.Class == c.ID {
				segments = append(segments, g)
			}
		}
		whole := true
		if len(open.Scopes) > 0 && len(segments) > 0 {
			if whole, err = s.rearchive(ctx, c.ID, segments, open); err != nil {
				return nil, err
			}
		}
		if whole {
			ready = append(ready, c)
		}
	}
	return ready, nil
}

// moveActive moves the records that are still to be archived into a class that is over:
// those that are held, that could not be archived, or that an ingest has just brought.
func (s *sweep) moveActive(ctx context.Context, from string) error {
	if any, err := s.Store.DueRows(ctx, from, latest, Cursor{}, 1); err != nil || len(any) == 0 {
		return err
	}
	to := nextArchivePeriod(s.now)
	if err := s.keys.classes(ctx, s.lease.RunID, []Period{to}); err != nil {
		return err
	}
	for {
		leaf := s.leaf(s.Now(), ActionClassMoved, s.lease.RunID, s.keys.open[to], map[string]any{"from": from, "to": s.keys.open[to], "policy_hash": s.policy.Hash()})
		n, err := s.Store.MoveArchiveClass(ctx, s.lease, from, s.keys.open[to], s.Limits.LockRecords, leaf)
		if err != nil || n == 0 {
			return err
		}
	}
}

// leaveEnded moves active records out of archive classes that have come to their end: a
// database that was brought back to the log may have taken them in before it knew of it.
func (s *sweep) leaveEnded(ctx context.Context) error {
	due, err := s.Store.DueClasses(ctx, latest)
	if err != nil {
		return err
	}
	ended, err := s.classesIn(ctx, Executing, Destroyed)
	if err != nil {
		return err
	}
	for _, class := range due {
		if !ended[class] {
			continue
		}
		if err := s.moveActive(ctx, class); err != nil {
			return err
		}
	}
	return nil
}

// rearchival packs what is held out of the segments of one class into new ones.
type rearchival struct {
	*sweep
	class string // that they go to
	b     *builder
	from  []string // segments, with the members of each that are in b
	took  map[string][]Member
}

// rearchive archives held members of a class anew. It is false if one of them cannot be
// read: then the class has to stay.
func (s *sweep) rearchive(ctx context.Context, class string, segments []Segment, open Reach) (whole bool, err error) {
	a := &rearchival{sweep: s, took: map[string][]Member{}}
	whole = true
	for i := range segments {
		g := &segments[i]
		var held []Row
		for r, err := range s.Store.Rows(ctx, Query{State: Held, Reach: open, Segment: g.ID}) {
			if err != nil {
				return false, err
			}
			held = append(held, r)
		}
		if len(held) == 0 {
			continue
		}
		if a.class == "" {
			to := HoldPeriod(s.now)
			if err := s.keys.classes(ctx, s.lease.RunID, []Period{to}); err != nil {
				return false, err
			}
			a.class = s.keys.open[to]
		}
		left, err := a.take(ctx, g, held)
		if err != nil {
			return false, err
		}
		if left > 0 {
			s.Log.Error().Str("segment", g.ID).Str("class", class).Int("records", left).Msg("held records cannot be read, so their class is not destroyed; run: lotkeeper verify")
			s.damaged = append(s.damaged, g.ID)
			s.errors++
			whole = false
		}
	}
	return whole, a.flush(ctx)
}

// take packs rows of a segment, from as many vaults as it takes, each line checked
// against the checksum in the database. It returns how many no vault gives back.
func (a *rearchival) take(ctx context.Context, g *Segment, rows []Row) (left int, err error) {
	want := make(map[[32]byte]*Row, len(rows))
	for i := range rows {
		want[rows[i].Checksum] = &rows[i]
	}
	if err := a.keys.ask(ctx, g.Class); err != nil {
		return len(rows), err
	}
	identity, err := a.keys.identity(ctx, g)
	if err != nil {
		a.Log.Error().Str("segment", g.ID).Err(err).Msg("a segment cannot be opened")
		return len(rows), ctx.Err()
	}
	enough := errors.New("enough")
	for _, c := range g.Copies {
		var fault error // of what is done with a line, not of the copy
		err := a.readCopy(ctx, g, c, identity, func(line []byte) error {
			sum := cte.Checksum(line)
			if r := want[sum]; r != nil {
				delete(want, sum)
				if fault = a.add(ctx, g, r, line); fault != nil {
					return fault
				}
			}
			if len(want) == 0 {
				return enough
			}
			return nil
		})
		if fault != nil {
			return len(want), fault
		}
		if len(want) == 0 {
			return 0, nil
		}
		if err := ctx.Err(); err != nil {
			return len(want), err
		}
		a.Log.Warn().Str("segment", g.ID).Str("vault", c.Vault).Err(err).Msg("a copy does not give back what is held in it")
	}
	return len(want), nil
}

func (a *rearchival) add(ctx context.Context, g *Segment, r *Row, line []byte) (err error) {
	if a.b == nil {
		if a.b, err = a.newSegment(a.class); err != nil {
			return err
		}
		a.b.why = fmt.Sprintf("held at %s, when archive class %s was over", cte.FormatTime(a.now), g.Class)
	}
	if err := a.b.w.Write(r.RecordID, line, indexOf(r)); err != nil {
		return fmt.Errorf("couldn't write record %s to segment %s: %w", r.RecordID, a.b.id, err)
	}
	if a.took[g.ID] == nil {
		a.from = append(a.from, g.ID)
	}
	a.took[g.ID] = append(a.took[g.ID], Member{r.RecordID, r.Checksum})
	if a.b.w.Records() >= a.segmentRecords(a.policy) || a.b.w.PlaintextBytes() >= a.Limits.SegmentBytes {
		return a.flush(ctx)
	}
	return nil
}

// flush takes what was packed to where it counts: into every vault, read back and
// verified, and only then are its records of it.
func (a *rearchival) flush(ctx context.Context) error {
	if a.b == nil {
		return nil
	}
	g, err := a.describe(ctx, a.b)
	if err != nil {
		return err
	}
	copies, err := a.stage(ctx, g)
	if err != nil {
		return err
	}
	if err := a.verify(ctx, &g.Segment, copies, g.entries, g.identity); err != nil {
		return err
	}
	moved := 0
	for _, from := range a.from {
		for part := range slices.Chunk(a.took[from], a.Limits.LockRecords) {
			leaf := a.leaf(a.Now(), ActionRearchived, a.lease.RunID, g.ID, map[string]any{"from": from, "class": g.Class,
				"object_sha256": hexOf(g.ObjectSHA256), "merkle_root": hexOf(g.Root), "copies": g.Copies, "policy_hash": a.policy.Hash()})
			n, err := a.Store.Rearchive(ctx, a.lease, from, g.ID, part, leaf)
			moved += n
			a.res.Rearchived += n
			if err != nil {
				return err
			}
		}
	}
	a.b, a.from = nil, nil
	clear(a.took)
	a.progress("archive anew", a.res.Rearchived)
	return a.Store.SettleSegment(ctx, a.lease, g.ID, a.leaf(a.Now(), ActionSettled, a.lease.RunID, g.ID, map[string]any{"rearchived": moved}))
}

// purgeSegments marks what the destroyed keys have made unreadable.
func (s *sweep) purgeSegments(ctx context.Context) error {
	destroyed, err := s.classesIn(ctx, Destroyed)
	if err != nil {
		return err
	}
	live, err := s.Store.Segments(ctx, Verified, Settled)
	if err != nil {
		return err
	}
	// Nothing but the row is left to tell which rule is a record's.
	var counted func(*Row) bool
	if s.policy.Aggregates() {
		counted = func(r *Row) bool { return s.policy.Counts(r.facts()) }
	}
	for _, g := range live {
		if !destroyed[g.Class] {
			continue
		}
		for done := false; !done; {
			leaf := s.leaf(s.Now(), ActionPurged, s.lease.RunID, g.ID, map[string]any{"class": g.Class, "object_sha256": hexOf(g.ObjectSHA256), "policy_hash": s.policy.Hash()})
			var n int
			if n, done, err = s.Store.Purge(ctx, s.lease, g.ID, s.Limits.LockRecords, counted, leaf); err != nil {
				return err
			}
			s.res.Purged += n
			s.progress("purge", s.res.Purged)
		}
	}
	return nil
}

// classesIn lists the classes in the states given.
func (e *Engine) classesIn(ctx context.Context, states ...ClassState) (map[string]bool, error) {
	classes, err := e.Store.Classes(ctx, false)
	in := map[string]bool{}
	for _, c := range classes {
		if slices.Contains(states, c.State) {
			in[c.ID] = true
		}
	}
	return in, err
}

// deleteObjects deletes what is left of purged segments in the vaults, where its lock
// has ended. The rest is there, and nobody can read it. What a vault refuses is counted
// as such, and keeps the sweep from nothing.
func (s *sweep) deleteObjects(ctx context.Context) error {
	left, err := s.Store.Undeleted(ctx)
	if err != nil {
		return err
	}
	for i := range left {
		g := &left[i]
		for _, c := range g.Copies {
			if !c.DeletedAt.IsZero() {
				continue
			}
			err := s.deleteCopy(ctx, g, c)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				level := zerolog.DebugLevel
				if !errors.Is(err, archive.ErrLocked) {
					level = zerolog.WarnLevel
				}
				s.Log.WithLevel(level).Str("segment", g.ID).Str("vault", c.Vault).Err(err).Msg("purged, and still there")
				s.res.ObjectsLocked++
				continue
			}
			leaf := s.leaf(s.Now(), ActionObjectsDeleted, s.lease.RunID, g.ID, map[string]any{"vault": c.Vault,
				"object": g.ObjectKey, "object_version": c.ObjectVersion, "manifest": g.ManifestKey, "manifest_version": c.ManifestVersion})
			if err := s.Store.CopyDeleted(ctx, s.lease, g.ID, c.Vault, leaf); err != nil {
				return err
			}
			s.res.ObjectsDeleted++
		}
	}
	return nil
}

// deleteCopy deletes a copy's object and manifest, those versions for good. archive.ErrLocked.
func (s *sweep) deleteCopy(ctx context.Context, g *Segment, c Copy) error {
	if c.RetainUntil.After(s.now) {
		return fmt.Errorf("locked until %s: %w", cte.FormatTime(c.RetainUntil), archive.ErrLocked)
	}
	v, err := s.vault(c.Vault)
	if err != nil {
		return err
	}
	for _, o := range [][2]string{{g.ObjectKey, c.ObjectVersion}, {g.ManifestKey, c.ManifestVersion}} {
		if err := v.Delete(ctx, o[0], o[1]); err != nil && !errors.Is(err, archive.ErrNotFound) {
			return err
		}
	}
	return nil
}

// planPurge counts what a sweep at res's time would archive anew, and purge; but for the
// segments that it would have moved to later classes before.
func (e *Engine) planPurge(ctx context.Context, res *SweepResult, dying []Class, moved map[string]bool, holds *HoldSet) error {
	if len(dying) == 0 {
		return nil
	}
	live, err := e.Store.Segments(ctx, Verified, Settled)
	if err != nil {
		return err
	}
	for _, c := range dying {
		res.PurgedClasses++
		for _, g := range live {
			if g.Class != c.ID || moved[g.ID] {
				continue
			}
			for r, err := range e.Store.Rows(ctx, Query{State: Archived, Segment: g.ID}) {
				if err != nil {
					return err
				}
				if len(holds.Covering(&r)) > 0 && c.State != Executing {
					res.Rearchived++
				} else {
					res.Purged++
				}
			}
		}
	}
	return nil
}
