package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lotkeeper/lotkeeper/shred"
)

// KeyringRecovery is what RecoverKeyring found and did.
type KeyringRecovery struct {
	// LoggedEpoch is the keyring's epoch as the database had it, FoundEpoch the
	// keyring's own, Epoch the one that both have now.
	LoggedEpoch uint64 `json:"logged_epoch"`
	FoundEpoch  uint64 `json:"found_epoch"`
	Epoch       uint64 `json:"epoch"`
	// DestroyedAgain are classes that receipts say are destroyed, and whose keys
	// this older keyring had brought back.
	DestroyedAgain []string `json:"destroyed_again"`
	// Created are classes whose keys the keyring lacked, and on which nothing
	// depends: they have new keys.
	Created []string `json:"created"`
	// Lost are classes whose keys the keyring lacks and something depends on.
	// Only a newer copy of the keyring brings them back.
	Lost []LostClass `json:"lost"`
	// Resealed counts hot records of classes destroyed again that were moved to another
	// first: a recovery of the log leaves DEKs there that a sweep had moved on after the
	// backup.
	Resealed int `json:"resealed"`
}

// LostClass is a class whose key is gone.
type LostClass struct {
	ClassID string    `json:"class_id"`
	Kind    ClassKind `json:"kind"`
	// DEKs counts hot records that cannot be opened, Segments archived segments.
	DEKs     int64 `json:"deks"`
	Segments int   `json:"segments"`
}

// RecoverKeyring makes an older copy of the keyring, put back, usable again: it
// destroys again what receipts say is destroyed, and logs the keyring's epoch.
// It touches nothing if the keyring is in order, nor if anything is lost: that it
// can only list, and CheckKeyring goes on to refuse until a newer copy is put back.
//
// Before it destroys anything, a DEK or a segment's identity that the database
// holds must open with a key of this keyring. Class ids are the same in every
// installation, and another one's keyring must not be mistaken for an old copy.
func (e *Engine) RecoverKeyring(ctx context.Context) (KeyringRecovery, error) {
	res := KeyringRecovery{DestroyedAgain: []string{}, Created: []string{}, Lost: []LostClass{}}
	if err := e.checkLog(ctx); err != nil {
		return res, err
	}
	if err := e.checkLogKey(ctx); err != nil {
		return res, err
	}
	var (
		info     Info
		status   shred.Status
		classes  []Class
		segments []Segment
		err      error
	)
	// Read until nothing has changed while reading: see CheckKeyring.
	for seen := int64(-1); ; {
		if info, err = e.Store.Info(ctx); err != nil {
			return res, err
		}
		if info.NewestLeaf.ID == seen {
			break
		}
		seen = info.NewestLeaf.ID
		if status, err = e.Keys.Status(ctx); err != nil {
			return res, fmt.Errorf("couldn't read the keyring: %w", err)
		}
		if classes, err = e.Store.Classes(ctx, true); err != nil {
			return res, err
		}
		if segments, err = e.Store.Segments(ctx); err != nil {
			return res, err
		}
	}
	res.LoggedEpoch, res.FoundEpoch, res.Epoch = info.Epoch, status.Epoch, status.Epoch
	if err := e.checkWitness(ctx, status); err != nil {
		return res, err
	}
	inClass := map[string][]*Segment{}
	for i := range segments {
		if g := &segments[i]; g.State != Abandoned {
			inClass[g.Class] = append(inClass[g.Class], g)
		}
	}
	now := e.Now().UTC()
	var again []shred.Evidence
	var witnesses []Class
	for _, c := range classes {
		_, live := slices.BinarySearch(status.Live, c.ID)
		_, gone := slices.BinarySearch(status.Destroyed, c.ID)
		switch {
		case c.State == Destroyed:
			if live {
				again = append(again, shred.Evidence{Class: c.ID, ClosesAt: c.Period.Ends(), Now: now, DEKs: int(c.DEKs), IntentLeaf: c.IntentLeaf})
				res.DestroyedAgain = append(res.DestroyedAgain, c.ID)
			}
		case gone && c.State != Executing:
			// The other way round: it is the database that is older.
			return res, restored(fmt.Errorf("class %s", c.ID))
		case live:
			witnesses = append(witnesses, c)
		case gone:
			// Executing and destroyed: the next sweep only has to note it.
		case c.DEKs == 0 && !c.Period.Kind.OfSegments():
			res.Created = append(res.Created, c.ID)
		default:
			res.Lost = append(res.Lost, LostClass{c.ID, c.Period.Kind, c.DEKs, len(inClass[c.ID])})
		}
	}
	if len(res.Lost) > 0 {
		// The keys that this older keyring has brought back may be the last that
		// open a lost record, held perhaps, in a database as old as they are.
		res.DestroyedAgain, res.Created = []string{}, []string{}
		return res, nil
	}
	if len(again)+len(res.Created) == 0 && status.Epoch >= info.Epoch {
		return res, nil
	}
	if err := e.witness(ctx, witnesses, inClass); err != nil {
		res.DestroyedAgain, res.Created = []string{}, []string{}
		return res, err
	}
	if len(res.Created) > 0 {
		if _, err := e.Keys.Create(ctx, res.Created); err != nil {
			return res, fmt.Errorf("couldn't create %d class keys: %w", len(res.Created), err)
		}
	}
	if res.Resealed, err = e.resealAgain(ctx, again); err != nil {
		return res, err
	}
	if len(again) > 0 {
		permit, err := shred.Authorize(again)
		if err != nil {
			return res, fmt.Errorf("couldn't shred again: %w", err)
		}
		intent := e.leaf(now, ActionShredIntent, "", "", map[string]any{"classes": permit.Classes(), "again": true})
		// By way of accepting the epoch that is logged already: who may not accept the
		// keyring in the end must not have destroyed anything before.
		if err := e.Store.AcceptKeyring(ctx, info.Epoch, intent); err != nil {
			return res, err
		}
		if err := e.publishBefore(ctx, "destroying keys again"); err != nil {
			return res, err
		}
		if _, err := shred.Destroy(ctx, e.Keys, permit, e.rand()); err != nil {
			return res, fmt.Errorf("couldn't destroy %d class keys again: %w", len(again), err)
		}
	}
	if status, err = e.Keys.Status(ctx); err != nil {
		return res, fmt.Errorf("couldn't read the keyring: %w", err)
	}
	res.Epoch = status.Epoch
	return res, e.Store.AcceptKeyring(ctx, status.Epoch, e.leaf(e.Now(), ActionKeyringMended, "", "", res))
}

// resealAgain moves the DEKs that are left in classes which are about to be destroyed
// again into the month's deferral class, and corrects the evidence. A recovery of the log
// has left them, since it cannot tell which of a class's records a sweep had moved on;
// this older keyring may be the last that opens them.
func (e *Engine) resealAgain(ctx context.Context, again []shred.Evidence) (moved int, err error) {
	left := slices.DeleteFunc(slices.Clone(again), func(ev shred.Evidence) bool { return ev.DEKs == 0 })
	if len(left) == 0 {
		return 0, nil
	}
	p, err := e.newestPolicy(ctx)
	if err != nil {
		return 0, err
	}
	s := &sweep{Engine: e, policy: p, now: e.Now().UTC(), keys: e.keyring(), failed: map[int64]bool{}}
	if s.res.RunID, err = e.newID("run", s.now); err != nil {
		return 0, err
	}
	run := Run{ID: s.res.RunID, Kind: "sweep", Actor: e.Actor, StartedAt: s.now}
	if s.lease, err = e.Store.BeginRun(ctx, run, e.leaf(s.now, ActionRunStarted, run.ID, run.ID, map[string]any{"kind": run.Kind, "keyring_recovery": true})); err != nil {
		return 0, err
	}
	for i := range again {
		for after := int64(0); again[i].DEKs > 0 && err == nil; {
			var page []DEK
			if page, err = e.Store.ClassDEKs(ctx, again[i].Class, after, e.Limits.LockRecords); err != nil || len(page) == 0 {
				break
			}
			after = page[len(page)-1].Row.Seq
			for n := range page {
				s.failed[page[n].Row.Seq] = true // so that it is moved on, whatever the plan says of it
			}
			before := s.res.Resealed
			err = s.resealPage(ctx, again[i].Class, page, nil)
			again[i].DEKs -= s.res.Resealed - before
		}
	}
	return s.res.Resealed, errors.Join(err, e.finishRun(ctx, run, map[string]any{"resealed": s.res.Resealed}, err))
}

// witness looks for something in the database that a key of this keyring opens.
// Anything that it should open and does not speaks against the keyring.
func (e *Engine) witness(ctx context.Context, classes []Class, segments map[string][]*Segment) error {
	keys := e.keyring()
	refuse := func(reason string) error {
		return &Refused{"keyring", reason, "check that --data names the right directory, and put back a keyring that belongs to this database"}
	}
	seen := 0
	for _, c := range classes {
		if in := segments[c.ID]; len(in) > 0 {
			if _, err := keys.secret(ctx, in[0]); err != nil {
				return refuse(fmt.Sprintf("the keyring is another database's: %v", err))
			}
			seen++
		}
		deks, err := e.Store.ClassDEKs(ctx, c.ID, 0, 1)
		if err != nil {
			return err
		}
		for _, d := range deks {
			key, err := keys.key(ctx, c.ID)
			if err != nil {
				return err
			}
			if _, err := key.Unwrap(d.Wrapped, d.Row.RecordID); err != nil {
				return refuse(fmt.Sprintf("the keyring is another database's: %v", err))
			}
			seen++
		}
	}
	if seen == 0 {
		return refuse("nothing shows that the keyring belongs to this database: none of its keys opens anything here")
	}
	return nil
}
