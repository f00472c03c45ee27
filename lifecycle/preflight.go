package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
)

// checkClock refuses a clock that cannot be right. A sweep that believes in a
// wrong year archives early and, once purging, loses records before their
// time.
func (e *Engine) checkClock(ctx context.Context, now time.Time) error {
	info, err := e.Store.Info(ctx)
	if err != nil {
		return err
	}
	if ahead := now.Sub(info.TrustedTime); ahead > MaxJump {
		return &Refused{"clock", fmt.Sprintf("it is %s, which is more than seven days after anything recorded here (%s)",
			cte.FormatTime(now), cte.FormatTime(info.TrustedTime)), clockHint}
	}
	return e.checkNotBehind(info, now)
}

const clockHint = "check the machine's date and time service; if the time is right, type: lotkeeper sweep --accept-clock"

// checkNotBehind refuses a clock that has fallen back. Ingest asks too: a record
// that does not say when it was obtained was obtained now, and with a clock that
// is years behind the law's floor would be years too early.
func (e *Engine) checkNotBehind(info Info, now time.Time) error {
	if behind := info.TrustedTime.Sub(now); behind > e.Limits.ClockSkew {
		return &Refused{"clock", fmt.Sprintf("it is %s, but something was recorded here at %s",
			cte.FormatTime(now), cte.FormatTime(info.TrustedTime)), clockHint}
	}
	return nil
}

// countingVaults finds the vaults that count, asks each whether it is there and
// locks, and compares its clock with ours. What the configuration names and the
// database does not know, or the other way round, is a person's to settle: a
// vault that is silently left out is a copy that somebody believes in.
func (e *Engine) countingVaults(ctx context.Context, now time.Time) ([]archive.Vault, error) {
	rows, err := e.Store.Vaults(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	var out []archive.Vault
	for _, r := range rows {
		known[r.Name] = true
		if r.State != ActiveVault {
			continue
		}
		v, err := e.vault(r.Name)
		if err != nil {
			return nil, &Refused{"vault", err.Error(), "name it in the configuration again; to do without it, type: lotkeeper vault retire " + r.Name}
		}
		out = append(out, v)
	}
	for _, v := range e.Vaults {
		if !known[v.Name()] {
			return nil, &Refused{"vault", fmt.Sprintf("vault %s is configured and does not count yet", v.Name()), "type: lotkeeper vault add " + v.Name()}
		}
	}
	if len(out) == 0 {
		return nil, &Refused{"vault", "no vault counts", "type: lotkeeper vault list"}
	}
	live, err := e.Store.Segments(ctx, Verified, Settled)
	if err != nil {
		return nil, err
	}
	for _, v := range out {
		if err := e.checkVault(ctx, v, now); err != nil {
			return nil, err
		}
		if err := checkPlace(ctx, v, live); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// checkPlace refuses a vault that has nothing of what is recorded of it: a disk that
// is not mounted, or a name that points to another bucket. It looks for the first
// copy, the last and one in between, and is content with one of them: what a vault
// has lost of what it had is for verify to find.
func checkPlace(ctx context.Context, v archive.Vault, live []Segment) error {
	var copies []source // of objects, by segment
	var keys []string
	for i := range live {
		for _, c := range live[i].Copies {
			if c.Vault == v.Name() {
				copies, keys = append(copies, source{v, c.ObjectVersion}), append(keys, live[i].ObjectKey)
			}
		}
	}
	if len(copies) == 0 {
		return nil
	}
	for _, i := range []int{len(copies) - 1, 0, len(copies) / 2} {
		if _, err := v.Stat(ctx, keys[i], copies[i].version); !errors.Is(err, archive.ErrNotFound) {
			return nil // there, or not to be told: then the sweep itself will say so
		}
	}
	return &Refused{"vault", fmt.Sprintf("vault %s has none of the copies that are recorded of it", v.Name()),
		"check that it is mounted, and that the configuration names the right place; if it is lost, type: lotkeeper vault retire " + v.Name()}
}

func (e *Engine) checkVault(ctx context.Context, v archive.Vault, now time.Time) error {
	st, err := v.Status(ctx)
	if err != nil {
		return fmt.Errorf("couldn't reach vault %s: %w", v.Name(), err)
	}
	if st.Lock == "" {
		return &Refused{"vault", fmt.Sprintf("vault %s does not lock objects", v.Name()), "use a bucket with versioning and Object Lock; type: lotkeeper doctor"}
	}
	if skew := st.Now.Sub(now).Abs(); skew > e.Limits.ClockSkew {
		return &Refused{"clock", fmt.Sprintf("it is %s here and %s in vault %s", cte.FormatTime(now), cte.FormatTime(st.Now), v.Name()),
			"check the date and time service of both machines"}
	}
	return nil
}

// AcceptClock makes the present time the trusted one: a person's decision,
// with a leaf of its own. It does not move the clock, nothing can.
func (e *Engine) AcceptClock(ctx context.Context) error {
	now := e.Now()
	info, err := e.Store.Info(ctx)
	if err != nil {
		return err
	}
	return e.Store.AcceptClock(ctx, e.leaf(now, ActionClockAccepted, "", "", map[string]any{"trusted_before": info.TrustedTime}))
}
