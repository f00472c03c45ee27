package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-playground/validator/v10"

	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// Policy is the configuration's: it decides until the first policy is applied. It says
// when a record leaves the hot store and when its last copy may go, and cannot move the
// law's floor, see PurgeNotBefore.
type Policy struct {
	Name string `json:"name" yaml:"name" validate:"required,max=64,printascii"`
	// ArchiveAfterDays counts days of 24 hours from the event's instant. UTC
	// has no shorter or longer ones.
	ArchiveAfterDays int `json:"archive_after_days" yaml:"archive_after_days" validate:"min=1,max=36500"`
	// PurgeAfterYears counts calendar years from the day the record left the
	// hot store.
	PurgeAfterYears int `json:"purge_after_years" yaml:"purge_after_years" validate:"min=0,max=100"`
}

// DefaultPolicy is the 730-day cutoff, and one more year in the archive.
func DefaultPolicy() Policy {
	return Policy{Name: "default", ArchiveAfterDays: 730, PurgeAfterYears: 1}
}

var validate = validator.New(validator.WithRequiredStructEnabled())

// Validate says which field of the policy breaks which rule.
func (p Policy) Validate() error {
	if err := validate.Struct(p); err != nil {
		return fmt.Errorf("policy %q: %w", p.Name, err)
	}
	return nil
}

// Hash is the SHA-256 of the policy's JSON, in hex: what a manifest and an
// audit leaf name it by.
func (p Policy) Hash() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of a string and two ints
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// rules is the policy as the one rule that it is.
func (p Policy) rules() *policy.Policy {
	return policy.OfDays(p.Name, p.ArchiveAfterDays, p.PurgeAfterYears, p.Hash())
}

// latest is the last instant that a stored time can name. What would fall due
// after it never does.
var latest = policy.Never

func clamp(t time.Time) time.Time {
	if t.After(latest) {
		return latest
	}
	return t
}

// Cutoff is the instant before which, and at which, an event is old enough to
// leave the hot store.
func (p Policy) Cutoff(now time.Time) time.Time {
	return now.UTC().Add(-time.Duration(p.ArchiveAfterDays) * 24 * time.Hour)
}

// DueAt is when a record's hot copy falls due: due when DueAt <= now, which is
// the same as event <= Cutoff(now).
func (p Policy) DueAt(event time.Time) time.Time {
	return clamp(event.UTC().Add(time.Duration(p.ArchiveAfterDays) * 24 * time.Hour))
}

// PurgeAt is when the policy ends the archived copy. It is never before the
// law's floor.
func (p Policy) PurgeAt(event, obtained time.Time) time.Time {
	at := clamp(p.DueAt(event).AddDate(p.PurgeAfterYears, 0, 0))
	if floor := PurgeNotBefore(event, obtained); at.Before(floor) {
		return floor
	}
	return at
}

// PurgeNotBefore is the law's floor: no policy can end a record's last copy before it.
func PurgeNotBefore(event, obtained time.Time) time.Time {
	return policy.NotBefore(event, obtained)
}
