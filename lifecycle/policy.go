package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-playground/validator/v10"
)

// Policy says when a record leaves the hot store and when its last copy may
// go. It cannot move the law's floor, see PurgeNotBefore.
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

// latest is the last instant that a stored time can name. What would fall due
// after it never does.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)

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

// PurgeNotBefore is the law's floor: no policy can end a record's last copy
// before it. 21 CFR 1.1455(d) asks for 2 years from the date the record was
// created or obtained, which are calendar years: 731 days where a 29 February
// lies between. The date is the later of the event's and the record's; a 29
// February counts as 1 March; and two days are added, because where the record
// was written the date may have been one later than in UTC, or the day of its
// anniversary may end half a day later than UTC's. This is code, not
// configuration.
func PurgeNotBefore(event, obtained time.Time) time.Time {
	from := obtained.UTC()
	if event.After(from) {
		from = event.UTC()
	}
	day := time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, time.UTC)
	// AddDate normalises 29 February of a common year to 1 March.
	return clamp(day.AddDate(2, 0, 0).AddDate(0, 0, 2))
}
