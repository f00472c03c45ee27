package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"filippo.io/age"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/shred"
)

// HotLine opens a record's canonical line from the hot store alone, and tells nobody.
// shred.ErrDestroyed once its DEK is dropped or its class key is gone.
func (e *Engine) HotLine(ctx context.Context, id string) ([]byte, error) {
	r, err := e.Store.SealedRow(ctx, id)
	if err != nil {
		return nil, err
	}
	return e.keyring().unseal(ctx, &r)
}

func purged(id string) error {
	return fmt.Errorf("record %s was purged, no readable copy is left: %w", id, shred.ErrDestroyed)
}

// find yields the records of a query with their lines, as Export does.
func (e *Engine) find(ctx context.Context, q Query) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		x := &export{Engine: e, keys: e.keyring(), left: q.Limit, yield: yield}
		// An older database beside an older keyring could still open what was destroyed.
		if err := e.checkLog(ctx); err != nil {
			x.give(Found{}, err)
			return
		}
		q, err := e.Select(ctx, q)
		if err != nil {
			x.give(Found{}, err)
			return
		}
		for r, err := range e.Store.Sealed(ctx, q) {
			if err != nil {
				x.give(Found{}, err)
				return
			}
			if r.State == Archived {
				if len(x.segment) > 0 && x.segment[0].Segment != r.Segment {
					x.flush(ctx)
				}
				x.segment = append(x.segment, r.Row)
			} else {
				x.hot(ctx, &r)
			}
			if x.done {
				return
			}
		}
		x.flush(ctx)
		// Who names a record is told that it is gone, and not just given nothing.
		if q.RecordIDs == nil || q.State != "" || q.ExceptHeld {
			return
		}
		q.State = Purged
		for r, err := range e.Store.Rows(ctx, q) {
			if err == nil {
				err = &Unreadable{r.RecordID, purged(r.RecordID)}
			}
			x.give(Found{Row: r}, err)
			if x.done {
				return
			}
		}
	}
}

// export is the state of one find.
type export struct {
	*Engine
	keys    *keyring
	segment []Row // archived rows of one segment, not given yet
	left    int   // of the query's limit; 0 is none
	yield   func(Found, error) bool
	done    bool // give must not be called any more
}

func (x *export) give(f Found, err error) {
	if x.done {
		return
	}
	x.done = !x.yield(f, err)
	if x.left > 0 {
		x.left--
		x.done = x.done || x.left == 0
	}
}

// follow unseals a row of a snapshot. A sweep may since have destroyed the class
// that the row names, after it had archived the record or resealed it into
// another class: then r becomes the row as it is now.
func (k *keyring) follow(ctx context.Context, r *Sealed) ([]byte, error) {
	line, err := k.unseal(ctx, r)
	if !errors.Is(err, shred.ErrDestroyed) {
		return line, err
	}
	now, rowErr := k.e.Store.SealedRow(ctx, r.RecordID)
	if rowErr != nil || now.State == r.State && now.Class == r.Class {
		return nil, err
	}
	*r = now
	if r.State != Active {
		return nil, err
	}
	return k.follow(ctx, r)
}

func (x *export) hot(ctx context.Context, r *Sealed) {
	line, err := x.keys.follow(ctx, r)
	if err != nil && r.State == Archived {
		x.segment = append(x.segment, r.Row)
		x.flush(ctx)
		return
	}
	if err != nil {
		err = &Unreadable{r.RecordID, err}
	}
	x.give(Found{Row: r.Row, Line: line}, err)
}

// flush gives the rows of one segment, from as many vaults as it takes. Each
// line is checked against the checksum in the database, so it may be given
// before the whole object is seen to be sound.
func (x *export) flush(ctx context.Context) {
	rows := x.segment
	x.segment = nil
	if len(rows) == 0 || x.done {
		return
	}
	want := make(map[[32]byte]*Row, len(rows))
	for i := range rows {
		want[rows[i].Checksum] = &rows[i]
	}
	g, err := x.Store.Segment(ctx, rows[0].Segment)
	if err != nil {
		x.give(Found{}, err)
		x.done = true
		return
	}
	var faults []error
	identity, err := x.keys.identity(ctx, &g)
	if errors.Is(err, shred.ErrDestroyed) {
		x.moved(ctx, rows, err)
		return
	}
	if err != nil {
		faults, g.Copies = append(faults, err), nil
	}
	enough := errors.New("enough")
	for _, c := range g.Copies {
		err := x.readCopy(ctx, &g, c, identity, func(line []byte) error {
			sum := cte.Checksum(line)
			if r := want[sum]; r != nil {
				delete(want, sum)
				x.give(Found{Row: *r, Line: append([]byte(nil), line...)}, nil)
			}
			if x.done || len(want) == 0 {
				return enough
			}
			return nil
		})
		if errors.Is(err, enough) {
			return
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s in vault %s: %w", g.ObjectKey, c.Vault, err))
		}
	}
	for i := range rows {
		if r := &rows[i]; want[r.Checksum] != nil {
			x.give(Found{Row: *r}, &Unreadable{r.RecordID, errors.Join(append(faults, fmt.Errorf("segment %s does not give it back", g.ID))...)})
		}
	}
}

// moved gives rows of a snapshot whose archive class was destroyed since: from the
// segment that the held ones of them are in now. The others are purged, or about to be.
func (x *export) moved(ctx context.Context, rows []Row, err error) {
	for i := range rows {
		now, rowErr := x.Store.Row(ctx, rows[i].RecordID)
		switch {
		case rowErr != nil:
			x.give(Found{Row: rows[i]}, rowErr)
		case now.State != Archived:
			x.give(Found{Row: now}, &Unreadable{now.RecordID, purged(now.RecordID)})
		case now.Segment == rows[i].Segment:
			x.give(Found{Row: now}, &Unreadable{now.RecordID, err})
		default:
			if len(x.segment) > 0 && x.segment[0].Segment != now.Segment {
				x.flush(ctx)
			}
			x.segment = append(x.segment, now)
		}
	}
	x.flush(ctx)
}

// readCopy reads the lines of one copy of a segment.
func (e *Engine) readCopy(ctx context.Context, g *Segment, c Copy, identity age.Identity, fn func([]byte) error) error {
	v, err := e.vault(c.Vault)
	if err != nil {
		return err
	}
	object, _, err := v.Get(ctx, g.ObjectKey, c.ObjectVersion)
	if err != nil {
		return err
	}
	defer object.Close()
	return archive.ReadLines(object, identity, func(_ int, line []byte) error { return fn(line) })
}
