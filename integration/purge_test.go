package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/integration/s3test"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/shred"
)

// movedVault is a vault at another time: its clock is moved, and the locks with it.
type movedVault struct {
	archive.Vault
	by *time.Duration // whole seconds
}

func (v movedVault) Status(ctx context.Context) (archive.Status, error) {
	st, err := v.Vault.Status(ctx)
	st.Now = st.Now.Add(*v.by)
	return st, err
}

func (v movedVault) Put(ctx context.Context, key string, body io.ReadSeeker, o archive.PutOptions) (archive.Version, error) {
	o.RetainUntil = o.RetainUntil.Add(-*v.by)
	return v.Vault.Put(ctx, key, body, o)
}

func (v movedVault) moved(info archive.ObjectInfo) archive.ObjectInfo {
	if !info.RetainUntil.IsZero() {
		info.RetainUntil = info.RetainUntil.Add(*v.by)
	}
	return info
}

func (v movedVault) Get(ctx context.Context, key, versionID string) (io.ReadCloser, archive.ObjectInfo, error) {
	r, info, err := v.Vault.Get(ctx, key, versionID)
	return r, v.moved(info), err
}

func (v movedVault) Stat(ctx context.Context, key, versionID string) (archive.ObjectInfo, error) {
	info, err := v.Vault.Stat(ctx, key, versionID)
	return v.moved(info), err
}

func (v movedVault) Retain(ctx context.Context, key, versionID string, until time.Time) error {
	return v.Vault.Retain(ctx, key, versionID, until.Add(-*v.by))
}

// A whole life on PostgreSQL and two object stores, whose locks end within the test:
// active, archived, held, archived anew, released, purged. At each step what can be
// read, and which leaf says so.
func TestWholeLife(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newSite(t, pgtest.New(t).URL(), newBucket(t, s3test.MinIO), newBucket(t, s3test.VersityGW))
	s.MinLock = time.Second
	s.with(t, nil, nil, func(e *lifecycle.Engine) {
		// It is half a minute before the end of a month.
		now := time.Now().UTC()
		ends := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		by := ends.Add(-30 * time.Second).Sub(now).Truncate(time.Second)
		e.Now = func() time.Time { return time.Now().Add(by) }
		for i, v := range e.Vaults {
			e.Vaults[i] = movedVault{v, &by}
		}
		if err := e.AcceptClock(ctx); err != nil {
			t.Fatal(err)
		}
		sweep := func() lifecycle.SweepResult {
			t.Helper()
			res, err := e.Sweep(ctx, lifecycle.SweepOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		// step says what state a record is in, whether it can be read from where it is and
		// from the hot store, and what its newest leaf is.
		step := func(id string, state lifecycle.State, readable, hot bool, action string) {
			t.Helper()
			v, err := e.View(ctx, id)
			if err != nil || v.State != state || v.History[len(v.History)-1].Action != action {
				t.Errorf("%s is %+v, %v; want it %s, by a leaf %s", id, v, err, state, action)
			}
			if f, err := e.Line(ctx, id, false); readable != (err == nil) || err == nil && !strings.Contains(string(f.Line), "very-secret") || err != nil && !errors.Is(err, shred.ErrDestroyed) {
				t.Errorf("%s, %s: %q, %v", id, state, f.Line, err)
			}
			if _, err := e.HotLine(ctx, id); hot != (err == nil) {
				t.Errorf("%s, %s, in the hot store: %v", id, state, err)
			}
		}
		at := ends.AddDate(-1, 0, -15).Add(-730 * 24 * time.Hour).Format(time.RFC3339)
		for _, id := range []string{"plain", "held"} {
			ingest(t, e, fmt.Sprintf(`{"record_id":%q,"traceability_lot_code":"LOT-%[1]s","event_type":"shipping","event_timestamp":%q,"created_or_obtained_at":%[2]q,"kde_payload":{"facility":"FAC-001","secret":"very-secret"}}`, id, at))
			step(id, lifecycle.Active, true, true, lifecycle.ActionIngested)
		}
		if res := sweep(); res.Archived != 2 || res.Purged+res.PurgedClasses != 0 {
			t.Fatalf("%+v", res)
		}
		step("plain", lifecycle.Archived, true, false, lifecycle.ActionShredded)
		res, err := e.Place(ctx, lifecycle.PlaceRequest{Kind: lifecycle.Recall, Reason: "a test", Scopes: []lifecycle.Scope{{TLC: "LOT-held"}}})
		if err == nil {
			err = e.Confirm(ctx, &res)
		}
		if err != nil || res.Status != "open" {
			t.Fatalf("%+v, %v", res, err)
		}
		step("held", lifecycle.Held, true, false, lifecycle.ActionHoldPlaced)

		for e.Now().Before(ends) {
			time.Sleep(100 * time.Millisecond)
		}
		swept := sweep()
		if swept.Purged != 1 || swept.Rearchived != 1 || swept.PurgedClasses != 1 || swept.ObjectsDeleted+swept.ObjectsLocked != 2 {
			t.Fatalf("%+v", swept)
		}
		step("plain", lifecycle.Purged, false, false, lifecycle.ActionPurged)
		step("held", lifecycle.Held, true, false, lifecycle.ActionRearchived)
		for deadline := time.Now().Add(time.Minute); swept.ObjectsLocked > 0; swept = sweep() {
			if time.Now().After(deadline) {
				t.Fatalf("not deleted: %+v", swept)
			}
		}
		if found, err := e.Verify(ctx); err != nil || len(found.Mismatches)+len(found.Missing) > 0 {
			t.Errorf("%+v, %v", found, err)
		}

		if err := e.Release(ctx, res.HoldID, "case closed"); err != nil {
			t.Fatal(err)
		}
		step("held", lifecycle.Archived, true, false, lifecycle.ActionHoldReleased)
		for by += 6 * 24 * time.Hour; e.Now().Before(ends.AddDate(0, 1, 0)); by += 6 * 24 * time.Hour {
			sweep()
		}
		// Its key is destroyed; its objects are locked for as long as the stores know.
		if swept := sweep(); swept.Purged != 1 || swept.PurgedClasses != 1 || swept.ObjectsLocked != 2 || swept.ObjectsDeleted != 0 {
			t.Errorf("%+v", swept)
		}
		step("held", lifecycle.Purged, false, false, lifecycle.ActionPurged)
		if log, err := e.VerifyLog(ctx); err != nil || len(log.Findings) > 0 {
			t.Errorf("%+v, %v", log, err)
		}
		if found, err := e.Verify(ctx); err != nil || len(found.Mismatches)+len(found.Missing) > 0 {
			t.Errorf("%+v, %v", found, err)
		}
	})
}
