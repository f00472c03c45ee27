package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
)

// Retired is what people are shown of a retiring vault when the last lock of its
// recorded copies has ended. It is not stored.
const Retired VaultState = "retired"

// VaultView is what is known of a vault, and what it says of itself.
type VaultView struct {
	Name string `json:"name"`
	// State is "joining", "active", "retiring" or "retired"; "unknown" of a
	// vault that is configured and was never added.
	State VaultState `json:"state"`
	Since string     `json:"since"`
	// Lock is what its lock is worth, "compliance" or "advisory"; empty if it
	// does not lock, or Problem says why it cannot be asked.
	Lock    string `json:"lock"`
	Problem string `json:"problem"`
	// Copies and Missing count live segments with and without a verified copy.
	Copies      int64  `json:"copies"`
	Missing     int64  `json:"missing"`
	LockedUntil string `json:"locked_until"`
}

// VaultViews shows every vault that is known or configured.
func (e *Engine) VaultViews(ctx context.Context) ([]VaultView, error) {
	rows, err := e.Store.Vaults(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range e.Vaults {
		if !slices.ContainsFunc(rows, func(r VaultRow) bool { return r.Name == v.Name() }) {
			rows = append(rows, VaultRow{Name: v.Name(), State: "unknown"})
		}
	}
	now := e.Now().UTC()
	out := []VaultView{}
	for _, r := range rows {
		w := VaultView{Name: r.Name, State: r.State, Copies: r.Copies, Missing: r.Missing}
		if !r.Since.IsZero() {
			w.Since = cte.FormatTime(r.Since)
		}
		if !r.LockedUntil.IsZero() {
			w.LockedUntil = cte.FormatTime(r.LockedUntil)
		}
		if r.State == Retiring && !r.LockedUntil.After(now) {
			w.State = Retired
		}
		if v, err := e.vault(r.Name); err != nil {
			w.Problem = err.Error()
		} else if st, err := v.Status(ctx); err != nil {
			w.Problem = err.Error()
		} else if w.Lock = st.Lock; w.Lock == "" {
			w.Problem = "it does not lock objects"
		}
		if w.State == Retired {
			w.Problem = "" // nothing is asked of it any more
		}
		out = append(out, w)
	}
	return out, nil
}

// AddVault makes a configured vault known. It counts at once if there is no live
// segment; else SyncVault has to bring them first.
func (e *Engine) AddVault(ctx context.Context, name string) error {
	v, err := e.vault(name)
	if err != nil {
		return err
	}
	now := e.Now()
	if err := e.checkVault(ctx, v, now); err != nil {
		return err
	}
	return e.Store.AddVault(ctx, name, e.leaf(now, ActionVaultAdded, "", name, map[string]any{}))
}

// RetireVault takes a vault out of service: it gets nothing more, and its locks
// run their time. ErrMoved if it is retiring already, ErrLastVault.
func (e *Engine) RetireVault(ctx context.Context, name string) error {
	if _, err := e.vaultRow(ctx, name); err != nil {
		return err
	}
	return e.Store.RetireVault(ctx, name, e.leaf(e.Now(), ActionVaultRetiring, "", name, map[string]any{}))
}

func (e *Engine) vaultRow(ctx context.Context, name string) (VaultRow, error) {
	rows, err := e.Store.Vaults(ctx)
	if err != nil {
		return VaultRow{}, err
	}
	for _, r := range rows {
		if r.Name == name {
			return r, nil
		}
	}
	return VaultRow{}, fmt.Errorf("vault %s: %w", name, ErrNotFound)
}

// VaultSync is what SyncVault did.
type VaultSync struct {
	RunID string `json:"run_id"`
	Vault string `json:"vault"`
	// State is the vault's when it ended.
	State VaultState `json:"state"`
	// Copied counts segments that it got and were read back from it, Failed those
	// that no other vault gives back, or that it did not keep as they were.
	Copied          int     `json:"copied"`
	Failed          int     `json:"failed"`
	Records         int     `json:"records"`
	DurationSeconds float64 `json:"duration_seconds"`
}

// SyncVault brings a joining vault every live segment that it lacks, reads each
// back and compares it as a sweep does, and then lets the vault count. A segment
// that cannot be brought is logged and counted, and keeps the vault joining; the
// others are brought all the same. An interrupted sync is gone on with by the next.
func (e *Engine) SyncVault(ctx context.Context, name string) (res VaultSync, err error) {
	res.Vault = name
	now := e.Now().UTC()
	row, err := e.vaultRow(ctx, name)
	if err != nil {
		return res, err
	}
	if res.State = row.State; row.State == Retiring {
		return res, &Refused{"vault", fmt.Sprintf("vault %s is retiring and gets nothing more", name), "a vault comes back under a new name only"}
	}
	target, err := e.vault(name)
	if err != nil {
		return res, err
	}
	if err := e.checkVault(ctx, target, now); err != nil {
		return res, err
	}
	if err := e.CheckKeyring(ctx); err != nil {
		return res, err
	}
	if res.RunID, err = e.newID("run", now); err != nil {
		return res, err
	}
	run := Run{ID: res.RunID, Kind: "sync", Actor: e.Actor, StartedAt: now}
	if _, err := e.Store.BeginRun(ctx, run, e.leaf(now, ActionRunStarted, run.ID, run.ID, map[string]any{"kind": run.Kind, "vault": name})); err != nil {
		res.RunID = "" // none has begun
		return res, err
	}
	err = e.syncVault(ctx, target, run.ID, now, &res)
	res.DurationSeconds = e.Now().Sub(now).Seconds()
	return res, errors.Join(err, e.finishRun(ctx, run, res, err))
}

func (e *Engine) syncVault(ctx context.Context, target archive.Vault, runID string, now time.Time, res *VaultSync) error {
	keys := e.keyring()
	failed := map[string]bool{}
	for {
		segments, err := e.Store.Segments(ctx, Verified, Settled)
		if err != nil {
			return err
		}
		brought := 0
		for i := range segments {
			g := &segments[i]
			if failed[g.ID] || slices.ContainsFunc(g.Copies, func(c Copy) bool { return c.Vault == target.Name() }) {
				continue
			}
			err := e.bring(ctx, keys, target, g, runID, now)
			if errors.Is(err, errMismatch) {
				e.Log.Error().Str("segment", g.ID).Str("vault", target.Name()).Err(err).Msg("segment cannot be brought")
				failed[g.ID] = true
				res.Failed++
				continue
			}
			if err != nil {
				return err
			}
			brought++
			res.Copied++
			res.Records += g.Records
			e.progress("sync", res.Records)
		}
		if len(failed) > 0 {
			return fmt.Errorf("%d segments could not be brought to vault %s, so it does not count; see the log above for each, and type: lotkeeper verify", len(failed), target.Name())
		}
		if res.State == ActiveVault {
			return nil
		}
		err = e.Store.ActivateVault(ctx, target.Name(), e.leaf(e.Now(), ActionVaultActive, runID, target.Name(), map[string]any{"copied": res.Copied}))
		if errors.Is(err, ErrMoved) && brought > 0 {
			continue // a sweep has verified another segment meanwhile
		}
		if err == nil {
			res.State = ActiveVault
		}
		return err
	}
}

// bring copies one live segment from any vault that has it, and reads it back.
func (e *Engine) bring(ctx context.Context, keys *keyring, target archive.Vault, g *Segment, runID string, now time.Time) error {
	identity, err := keys.identity(ctx, g)
	if err != nil {
		return fmt.Errorf("%w: %w", errMismatch, err)
	}
	var objects, manifests []source
	for _, c := range g.Copies {
		v, err := e.vault(c.Vault)
		if err != nil {
			continue // retired, and no longer configured
		}
		objects = append(objects, source{v, c.ObjectVersion})
		manifests = append(manifests, source{v, c.ManifestVersion})
	}
	object, objectErr := e.fetch(ctx, objects, g.ObjectKey, g.ObjectSHA256, g.ObjectSize)
	manifest, manifestErr := e.fetch(ctx, manifests, g.ManifestKey, g.ManifestSHA256, g.ManifestSize)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if object == nil || manifest == nil {
		return fmt.Errorf("segment %s: no vault gives it back: %w", g.ID, errors.Join(errMismatch, objectErr, manifestErr))
	}
	m, err := archive.ParseManifest(manifest)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", g.ManifestKey, err)
	}
	e.lockFor(g, now) // the others' may be nearly over
	c, err := putCopy(ctx, target, g, object, manifest)
	if err != nil {
		return fmt.Errorf("segment %s: %w", g.ID, err)
	}
	if err := distinct(g, append(g.Copies, c)); err != nil {
		return err
	}
	if err := checkCopy(ctx, target, g, c, m.Entries, identity); err != nil {
		return err
	}
	c.VerifiedAt = e.Now().UTC()
	leaf := e.leaf(e.Now(), ActionVaultCopied, runID, g.ID, map[string]any{"object_key": g.ObjectKey, "object_sha256": hexOf(g.ObjectSHA256), "copy": c})
	return e.Store.AddCopy(ctx, g.ID, c, leaf)
}
