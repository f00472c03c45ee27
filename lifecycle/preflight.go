package lifecycle

import (
	"context"
	"fmt"
	"time"

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

// checkVaults asks every vault whether it is there and locks, and compares its
// clock with ours.
func (e *Engine) checkVaults(ctx context.Context, now time.Time) error {
	if len(e.Vaults) == 0 {
		return &Refused{"vault", "no vault is configured", "type: lotkeeper init"}
	}
	for _, v := range e.Vaults {
		st, err := v.Status(ctx)
		if err != nil {
			return fmt.Errorf("couldn't reach vault %s: %w", v.Name(), err)
		}
		if st.Lock == "" {
			return &Refused{"vault", fmt.Sprintf("vault %s does not lock objects", v.Name()), "use a bucket with Object Lock"}
		}
		if skew := st.Now.Sub(now).Abs(); skew > e.Limits.ClockSkew {
			return &Refused{"clock", fmt.Sprintf("it is %s here and %s in vault %s", cte.FormatTime(now), cte.FormatTime(st.Now), v.Name()),
				"check the date and time service of both machines"}
		}
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
