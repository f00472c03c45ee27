package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
)

// A hold's promise is kept by the database: nothing that it covers is shredded,
// and no key that it needs destroyed, from the moment it is placed. The legal
// holds in the vaults are its projection, against whoever has the vault and not
// the database. S3 has one bit a version, however many holds there are.

// VaultHolds is how far one vault is with the legal holds of a hold, or of all.
// Its JSON names are a promise.
type VaultHolds struct {
	Vault string `json:"vault"`
	// Confirmed counts segments whose object and manifest are under legal hold,
	// read back; Missing those that are not yet.
	Confirmed int `json:"confirmed"`
	Missing   int `json:"missing"`
	// Problem is why, if it is known.
	Problem string `json:"problem"`
}

// LegalHolds is what a projection of the holds did.
type LegalHolds struct {
	Set, Lifted int
	Vaults      []VaultHolds
}

// Missing counts copies whose legal hold is not confirmed.
func (l LegalHolds) Missing() (n int) {
	for _, v := range l.Vaults {
		n += v.Missing
	}
	return n
}

// liftAgain is after how long a sweep takes over lifting from whoever began it.
const liftAgain = 10 * time.Minute

// Confirm sets what is missing of the legal holds of a hold that was placed, and
// says how far each vault is. A vault that does not answer leaves the hold PARTIAL:
// a later run completes it. The hold stands, also when this fails.
func (e *Engine) Confirm(ctx context.Context, res *PlaceResult) error {
	done, err := e.confirmHold(ctx, res.HoldID)
	if err != nil {
		err = fmt.Errorf("hold %s is placed; its legal holds are not confirmed: %w", res.HoldID, err)
	}
	p, logErr := e.Publish(ctx)
	if logErr != nil {
		err = errors.Join(err, fmt.Errorf("hold %s is placed; the log is not in a vault yet: %w", res.HoldID, logErr))
	}
	res.Vaults, res.Log, res.Status = done.Vaults, &p, "open"
	if err != nil || done.Missing() > 0 {
		res.Status = "partial"
	}
	return err
}

func (e *Engine) confirmHold(ctx context.Context, id string) (LegalHolds, error) {
	h, err := e.Store.Hold(ctx, id)
	if err != nil || !h.Open() {
		return LegalHolds{}, err
	}
	r, err := e.reach(ctx, h.Scopes)
	if err != nil {
		return LegalHolds{}, err
	}
	wanted, err := e.heldCopies(ctx, r)
	if err != nil {
		return LegalHolds{}, err
	}
	// Those that are confirmed are looked at again: somebody may have lifted them,
	// past the database.
	for i, c := range wanted {
		if c.State != LegalSet {
			continue
		}
		if off, err := e.offLegalHold(ctx, c); err != nil || len(off) > 0 {
			e.Log.Error().Str("segment", c.Segment).Str("vault", c.Vault).Strs("objects", off).Err(err).Msg("a legal hold that was confirmed is not there")
			wanted[i].State = lost
		}
	}
	return e.setLegalHolds(ctx, "", wanted)
}

// lost is the state of a legal hold that is recorded as set and is not. It is not
// stored.
const lost LegalState = "lost"

// offLegalHold names what of a copy is not under legal hold.
func (e *Engine) offLegalHold(ctx context.Context, c HeldCopy) (off []string, err error) {
	v, err := e.vault(c.Vault)
	if err != nil {
		return nil, err
	}
	for _, o := range [][2]string{{c.ObjectKey, c.ObjectVersion}, {c.ManifestKey, c.ManifestVersion}} {
		info, err := v.Stat(ctx, o[0], o[1])
		if err != nil {
			return off, fmt.Errorf("couldn't look at the legal hold of %s in vault %s: %w", o[0], c.Vault, err)
		}
		if !info.LegalHold {
			off = append(off, o[0])
		}
	}
	return off, nil
}

// heldCopies are those that are to be under legal hold. Of a vault that is retired and
// out of the configuration nothing is asked any more.
func (e *Engine) heldCopies(ctx context.Context, r Reach) ([]HeldCopy, error) {
	copies, err := e.Store.HeldCopies(ctx, r)
	if err != nil {
		return nil, err
	}
	return e.inVaultsLeft(ctx, copies)
}

func (e *Engine) inVaultsLeft(ctx context.Context, copies []HeldCopy) ([]HeldCopy, error) {
	if len(copies) == 0 {
		return nil, nil
	}
	rows, err := e.Store.Vaults(ctx)
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}
	for _, v := range rows {
		_, err := e.vault(v.Name)
		gone[v.Name] = err != nil && v.State == Retiring && !v.LockedUntil.After(e.Now())
	}
	return slices.DeleteFunc(copies, func(c HeldCopy) bool { return gone[c.Vault] }), nil
}

// ProjectHolds sets the legal holds that are missing, of all open holds, and lifts
// those of segments that no open hold covers anything of any more.
func (e *Engine) ProjectHolds(ctx context.Context) (LegalHolds, error) {
	return e.projectHolds(ctx, "", false)
}

func (e *Engine) projectHolds(ctx context.Context, runID string, takeOver bool) (LegalHolds, error) {
	r, err := e.openReach(ctx, e.Now())
	if err != nil {
		return LegalHolds{}, err
	}
	var wanted []HeldCopy
	if len(r.Scopes) > 0 {
		if wanted, err = e.heldCopies(ctx, r); err != nil {
			return LegalHolds{}, err
		}
	}
	res, err := e.setLegalHolds(ctx, runID, wanted)
	if err != nil {
		return res, err
	}
	type place struct{ segment, vault string }
	held := map[place]bool{}
	for _, c := range wanted {
		held[place{c.Segment, c.Vault}] = true
	}
	have, err := e.Store.LegalHolds(ctx)
	if err == nil {
		have, err = e.inVaultsLeft(ctx, have)
	}
	if err != nil {
		return res, err
	}
	missing := map[string]bool{}
	for _, v := range res.Vaults {
		missing[v.Vault] = v.Missing > 0
	}
	for _, c := range have {
		if c.State == Lifting && (!takeOver || e.Now().Sub(c.Since) <= liftAgain) {
			continue // somebody else is at it
		}
		if held[place{c.Segment, c.Vault}] {
			if c.State == Lifting { // and whoever was lifting it is gone
				if err := e.setAgain(ctx, runID, c); err != nil {
					return res, err
				}
			}
			continue
		}
		// What is held may be in another segment by now: where the legal hold of that one
		// is not confirmed, none is lifted.
		if missing[c.Vault] {
			continue
		}
		lifted, err := e.liftLegalHold(ctx, runID, c)
		if err != nil {
			return res, err
		}
		if lifted {
			res.Lifted++
		}
	}
	return res, nil
}

// setLegalHolds sets those that are not set, vault by vault, the vaults side by
// side. A vault that fails is left for later, its other copies with it.
func (e *Engine) setLegalHolds(ctx context.Context, runID string, wanted []HeldCopy) (LegalHolds, error) {
	byVault := map[string][]HeldCopy{}
	for _, c := range wanted {
		byVault[c.Vault] = append(byVault[c.Vault], c)
	}
	var res LegalHolds
	var mu sync.Mutex
	var wg sync.WaitGroup
	var fault error
	for name, copies := range byVault {
		wg.Go(func() {
			v, set, err := e.setInVault(ctx, runID, name, copies)
			mu.Lock()
			defer mu.Unlock()
			res.Vaults = append(res.Vaults, v)
			res.Set += set
			fault = errors.Join(fault, err)
		})
	}
	wg.Wait()
	slices.SortFunc(res.Vaults, func(a, b VaultHolds) int { return strings.Compare(a.Vault, b.Vault) })
	return res, fault
}

// setInVault returns an error for a fault of the database only: one of the vault
// is in its VaultHolds.
func (e *Engine) setInVault(ctx context.Context, runID, name string, copies []HeldCopy) (VaultHolds, int, error) {
	res, set := VaultHolds{Vault: name}, 0
	for i, c := range copies {
		switch c.State {
		case LegalSet:
			res.Confirmed++
			continue
		case Lifting:
			res.Missing++
			res.Problem = fmt.Sprintf("segment %s was being released by another command when this hold was placed: if that command is gone, a sweep completes it from %s on",
				c.Segment, cte.FormatTime(c.Since.Add(liftAgain)))
			continue
		}
		if err := e.putLegalHold(ctx, c, true); err != nil {
			e.Log.Warn().Str("segment", c.Segment).Str("vault", name).Err(err).Msg("legal hold cannot be set")
			res.Problem = err.Error()
			for _, rest := range copies[i:] {
				if rest.State == LegalSet {
					res.Confirmed++
				} else {
					res.Missing++
				}
			}
			break
		}
		var err error
		if c.State == lost {
			err = e.Store.Append(ctx, e.legalLeaf(runID, c, LegalSet).With("again", true))
		} else {
			err = e.moveLegalHold(ctx, runID, c, LegalNone, LegalSet)
		}
		if errors.Is(err, ErrMoved) {
			err = nil // another has confirmed it meanwhile
		}
		if err != nil {
			return res, set, err
		}
		set++
		res.Confirmed++
		e.progress("legal holds", res.Confirmed)
	}
	return res, set, nil
}

// putLegalHold sets or lifts the legal hold of a copy's object and manifest, and
// reads back that it did: the versions, never whatever is newest under the key.
func (e *Engine) putLegalHold(ctx context.Context, c HeldCopy, on bool) error {
	v, err := e.vault(c.Vault)
	if err != nil {
		return err
	}
	for _, o := range [][2]string{{c.ObjectKey, c.ObjectVersion}, {c.ManifestKey, c.ManifestVersion}} {
		if err := v.SetLegalHold(ctx, o[0], o[1], on); err != nil {
			if !on && errors.Is(err, archive.ErrNotFound) {
				continue // deleted since: nothing is left to lift
			}
			return fmt.Errorf("%s in vault %s: %w", o[0], c.Vault, err)
		}
		info, err := v.Stat(ctx, o[0], o[1])
		if err != nil {
			return fmt.Errorf("couldn't read back the legal hold of %s in vault %s: %w", o[0], c.Vault, err)
		}
		if info.LegalHold != on {
			return fmt.Errorf("vault %s took the legal hold of %s as %t and says %t", c.Vault, o[0], on, info.LegalHold)
		}
	}
	return nil
}

// liftLegalHold lifts one, unless a hold covers something in the segment by the
// time that it is looked at under the lock, before and after. A vault's fault
// leaves it Lifting, for a sweep.
func (e *Engine) liftLegalHold(ctx context.Context, runID string, c HeldCopy) (bool, error) {
	if c.State == LegalSet {
		err := e.moveLegalHold(ctx, runID, c, LegalSet, Lifting)
		if errors.Is(err, ErrHeld) || errors.Is(err, ErrMoved) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	if err := e.putLegalHold(ctx, c, false); err != nil {
		e.Log.Warn().Str("segment", c.Segment).Str("vault", c.Vault).Err(err).Msg("legal hold cannot be lifted")
		return false, nil
	}
	err := e.moveLegalHold(ctx, runID, c, Lifting, LegalNone)
	if errors.Is(err, ErrHeld) {
		// A hold was placed in between, and was told that it is PARTIAL. Nothing
		// but this may confirm it, for nothing else knows that the bit is off.
		return false, e.setAgain(ctx, runID, c)
	}
	if errors.Is(err, ErrMoved) {
		return false, nil
	}
	return err == nil, err
}

// setAgain confirms a legal hold that was about to be lifted.
func (e *Engine) setAgain(ctx context.Context, runID string, c HeldCopy) error {
	if err := e.putLegalHold(ctx, c, true); err != nil {
		e.Log.Warn().Str("segment", c.Segment).Str("vault", c.Vault).Err(err).Msg("legal hold cannot be set again")
		return nil // it stays Lifting, and PARTIAL, for the next sweep
	}
	err := e.moveLegalHold(ctx, runID, c, Lifting, LegalSet)
	if errors.Is(err, ErrMoved) {
		err = nil // another has
	}
	return err
}

func (e *Engine) moveLegalHold(ctx context.Context, runID string, c HeldCopy, from, to LegalState) error {
	return e.Store.MoveLegalHold(ctx, c.Segment, c.Vault, from, to, e.legalLeaf(runID, c, to))
}

func (e *Engine) legalLeaf(runID string, c HeldCopy, to LegalState) Leaf {
	action := map[LegalState]string{LegalSet: ActionLegalHoldSet, Lifting: ActionLegalHoldOff, LegalNone: ActionLegalHoldGone}[to]
	return e.leaf(e.Now(), action, runID, c.Segment, map[string]any{"vault": c.Vault,
		"object": c.ObjectKey, "object_version": c.ObjectVersion, "manifest": c.ManifestKey, "manifest_version": c.ManifestVersion})
}

// legalHolds is the stage of a sweep that brings the vaults in line with the
// holds. What a vault refuses is counted, and keeps the sweep from nothing.
func (s *sweep) legalHolds(ctx context.Context) error {
	done, err := s.projectHolds(ctx, s.lease.RunID, true)
	s.res.LegalHoldsSet += done.Set
	s.res.LegalHoldsLifted += done.Lifted
	s.res.LegalHoldsMissing = done.Missing()
	return err
}
