package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/archive"
)

// Hints are the commands that put a bucket right, in the words of the tool that
// its people use.
type Hints struct {
	CreateBucket, EnableVersioning, EnableLock string
}

const (
	// probeLock is how long Inspect locks what it puts: long enough for a
	// handful of requests on a bad day, since it is waited for.
	probeLock = 5 * time.Second
	// maxSkew is where a clock is called wrong. A sweep has a limit of its own.
	maxSkew = 5 * time.Minute
)

// Inspect implements archive.Inspector.
func (v *Vault) Inspect(ctx context.Context) []archive.Check {
	i := &inspection{Vault: v, folder: "inspect-" + strings.ToLower(rand.Text())}
	if i.bucket(ctx) {
		key, versionID, ok := i.lock(ctx)
		if ok {
			i.refusal(ctx, key, versionID)
		}
		i.bypass(ctx)
		if ok && i.legalHold(ctx, key, versionID) {
			i.holdAlone(ctx, key, versionID)
		}
		i.cleanUp(ctx)
	}
	return i.checks
}

// An inspection is one call of Inspect. What it puts has keys in a folder that
// nobody else uses.
type inspection struct {
	*Vault
	folder string
	until  time.Time // the latest retain-until of what was put, by the server's clock
	checks []archive.Check
}

func (i *inspection) add(name string, ok bool, hint, format string, args ...any) bool {
	if ok {
		hint = ""
	}
	i.checks = append(i.checks, archive.Check{Name: name, OK: ok, Found: fmt.Sprintf(format, args...), Hint: hint})
	return ok
}

// must is add for what a vault cannot do without.
func (i *inspection) must(name string, ok bool, hint, format string, args ...any) bool {
	i.add(name, ok, hint, format, args...)
	i.checks[len(i.checks)-1].Fatal = !ok
	return ok
}

// bucket looks at what the bucket says of itself, and reports whether trying it
// out makes sense.
func (i *inspection) bucket(ctx context.Context) bool {
	ctx, date := withDate(ctx)
	versioned, err := i.api.GetBucketVersioning(ctx)
	if status, code := i.api.Answer(err); err != nil {
		hint := "check endpoint, region and credentials, and that they may s3:GetBucketVersioning"
		if status == http.StatusNotFound && code != "NoSuchKey" {
			hint = i.conf.Hints.CreateBucket
		}
		return i.must("bucket", false, hint, "%v", err)
	}
	i.add("bucket", true, "", "it is there")
	here, there := i.conf.Now().UTC(), date.get()
	skew := there.Sub(here)
	i.add("clock", skew.Abs() <= maxSkew, "check the date and time service of both machines",
		"it is %s there and %s here", there.Format(time.RFC3339), here.Format(time.RFC3339))
	i.must("versioning", versioned, i.conf.Hints.EnableVersioning, "enabled: %v", versioned)
	locks, err := i.locks(ctx)
	if err != nil {
		return i.must("object lock", false, "let the credentials s3:GetBucketObjectLockConfiguration", "%v", err)
	}
	i.must("object lock", locks, i.conf.Hints.EnableLock, "enabled: %v", locks)
	return versioned && locks
}

var probe = []byte("lotkeeper tries out this vault\n")

// put stores a probe and remembers until when it is locked.
func (i *inspection) put(ctx context.Context, name string, mode archive.Mode) (key, versionID string, until time.Time, err error) {
	s, err := i.Status(ctx)
	if err != nil {
		return "", "", until, err
	}
	key, until = i.folder+"/"+name, s.Now.Add(probeLock)
	if until.After(i.until) {
		i.until = until // also if the acknowledgement gets lost
	}
	put, err := i.Put(ctx, key, bytes.NewReader(probe), archive.PutOptions{
		SHA256: sha256.Sum256(probe), Size: int64(len(probe)), Mode: mode, RetainUntil: until,
	})
	return key, put.VersionID, until, err
}

func (i *inspection) lock(ctx context.Context) (key, versionID string, ok bool) {
	const name, hint = "compliance lock", "let the credentials s3:PutObject, s3:PutObjectRetention, s3:GetObjectVersion and s3:GetObjectRetention"
	key, versionID, until, err := i.put(ctx, "compliance", archive.Compliance)
	if err != nil {
		return "", "", i.must(name, false, hint, "%v", err)
	}
	// Current, as verification asks for it.
	r, info, err := i.Get(ctx, key, "")
	if err != nil {
		return "", "", i.must(name, false, hint, "%v", err)
	}
	body, err := io.ReadAll(r)
	r.Close()
	switch {
	case err != nil:
		return "", "", i.must(name, false, hint, "%v", err)
	case !bytes.Equal(body, probe), info.VersionID != versionID:
		return "", "", i.must(name, false, "", "other bytes or another version came back than were put")
	case info.Mode != archive.Compliance, info.RetainUntil.Before(until):
		return "", "", i.must(name, false, hint, "put with mode COMPLIANCE until %s, it reads back as mode %q until %s",
			until.Format(time.RFC3339), info.Mode, info.RetainUntil.Format(time.RFC3339))
	}
	return key, versionID, i.must(name, true, "", "an object locked for %v reads back as put", probeLock)
}

func (i *inspection) legalHold(ctx context.Context, key, versionID string) bool {
	const name, hint = "legal hold", "let the credentials s3:PutObjectLegalHold and s3:GetObjectLegalHold"
	for _, on := range []bool{true, false} {
		if err := i.SetLegalHold(ctx, key, versionID, on); err != nil {
			return i.add(name, false, hint, "%v", err)
		}
		if info, err := i.Stat(ctx, key, versionID); err != nil || info.LegalHold != on {
			return i.add(name, false, hint, "set to %v, it reads back as %v: %v", on, info.LegalHold, err)
		}
	}
	return i.add(name, true, "", "it can be set, read back and lifted")
}

// refusal asks the server itself: Delete would look at the lock first.
func (i *inspection) refusal(ctx context.Context, key, versionID string) {
	err := i.api.DeleteObject(ctx, i.prefix+key, versionID, false)
	status, _ := i.api.Answer(err)
	i.must("delete while locked", status/100 == 4,
		"this server does not keep to Object Lock: do not use it", "deleting a version under a COMPLIANCE lock: %v", err)
}

// holdAlone looks whether a legal hold still holds when the retention beside it
// is over: that is what a recall relies on.
func (i *inspection) holdAlone(ctx context.Context, key, versionID string) {
	const name, hint = "legal hold after the lock", "upgrade the server; until then no hold protects an archived segment from anybody but this program"
	err := i.SetLegalHold(ctx, key, versionID, true)
	if err == nil {
		err = i.waitOut(ctx)
	}
	if err != nil {
		i.add(name, false, "", "%v", err)
		return
	}
	err = i.api.DeleteObject(ctx, i.prefix+key, versionID, false)
	status, _ := i.api.Answer(err)
	if i.add(name, status/100 == 4, hint, "deleting a version under legal hold whose lock is over: %v", err) {
		_ = i.SetLegalHold(ctx, key, versionID, false) // cleanUp will see
	}
}

// bypass tries what no other call of this program does.
func (i *inspection) bypass(ctx context.Context) {
	const name = "governance bypass"
	key, versionID, _, err := i.put(ctx, "governance", archive.Governance)
	if err != nil {
		i.add(name, false, "let the credentials s3:PutObject and s3:PutObjectRetention", "%v", err)
		return
	}
	err = i.api.DeleteObject(ctx, i.prefix+key, versionID, true)
	if status, _ := i.api.Answer(err); err != nil && status/100 != 4 {
		i.add(name, false, "", "%v", err)
		return
	}
	i.add(name, err != nil, "deny the credentials s3:BypassGovernanceRetention (and never run as the server's root user)",
		"the credentials can lift a GOVERNANCE lock: %v", err == nil)
}

// waitOut waits until everything is unlocked, by the server's clock.
func (i *inspection) waitOut(ctx context.Context) error {
	for range 10 {
		s, err := i.Status(ctx)
		if err != nil || s.Now.After(i.until) {
			return err
		}
		if err := i.conf.Wait(ctx, i.until.Sub(s.Now)+time.Second); err != nil {
			return err
		}
	}
	return errors.New("the server's clock does not move on")
}

// cleanUp removes each version and delete marker, once it is unlocked.
func (i *inspection) cleanUp(ctx context.Context) {
	const name = "nothing left behind"
	hint := fmt.Sprintf("delete every version under %s%s/ after %s", i.prefix, i.folder, i.until.Format(time.RFC3339))
	if err := i.waitOut(ctx); err != nil {
		i.add(name, false, hint, "%v", err)
		return
	}
	var left []archive.Version
	var errs []error
	for version, err := range i.Versions(ctx, i.folder+"/") {
		if err != nil {
			errs = append(errs, err)
			break
		}
		left = append(left, version)
	}
	for _, version := range left {
		errs = append(errs, i.Delete(ctx, version.Key, version.VersionID))
	}
	if err := errors.Join(errs...); err != nil {
		i.add(name, false, hint, "%v", err)
		return
	}
	i.add(name, true, "", "%d objects made and removed", len(left))
}
