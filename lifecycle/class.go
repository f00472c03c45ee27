package lifecycle

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ClassKind says what a class key wraps.
type ClassKind string

const (
	// HotClass: DEKs of records whose hot copy falls due on one UTC day.
	HotClass ClassKind = "hot"
	// DeferralClass: DEKs of records that were due but had to stay, by the UTC
	// month in which they were resealed.
	DeferralClass ClassKind = "deferral"
	// ArchiveClass: segment identities (and content identities) of records
	// whose purge date falls in one UTC month.
	ArchiveClass ClassKind = "archive"
	// HoldClass: segment identities of records that were held when the class of
	// their segment was over, by the UTC month in which they were archived anew.
	HoldClass ClassKind = "hold"
)

// OfSegments says that the class key wraps the identities of segments, not DEKs.
func (k ClassKind) OfSegments() bool { return k == ArchiveClass || k == HoldClass }

// Period is what a class covers: a UTC day, or a UTC month.
type Period struct {
	Kind ClassKind
	// Start is 00:00 UTC of the day, or of the month's first day.
	Start time.Time
}

// HotPeriod, DeferralPeriod, ArchivePeriod and HoldPeriod find the period an instant is in.
func HotPeriod(due time.Time) Period {
	due = due.UTC()
	return Period{HotClass, time.Date(due.Year(), due.Month(), due.Day(), 0, 0, 0, 0, time.UTC)}
}

// DeferralPeriod is the UTC month of a sweep.
func DeferralPeriod(now time.Time) Period { return Period{DeferralClass, month(now)} }

// ArchivePeriod is the UTC month of a purge date.
func ArchivePeriod(purge time.Time) Period { return Period{ArchiveClass, month(purge)} }

// HoldPeriod is the UTC month of a sweep that finds a record held.
func HoldPeriod(now time.Time) Period { return Period{HoldClass, month(now)} }

// archivePeriodFrom is the archive period of a record that is to be purged at an
// instant: not one that is over, for its class may be destroyed at any time.
func archivePeriodFrom(purge, now time.Time) Period {
	if p := ArchivePeriod(purge); p.Ends().After(now) {
		return p
	}
	return nextArchivePeriod(now)
}

// nextArchivePeriod is the month after the present, for records that came, or stayed,
// beyond their own.
func nextArchivePeriod(now time.Time) Period { return ArchivePeriod(month(now).AddDate(0, 1, 0)) }

func month(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// Ends is the first instant after the period: from then on its class is over.
func (p Period) Ends() time.Time {
	if p.Kind == HotClass {
		return clamp(p.Start.AddDate(0, 0, 1))
	}
	return clamp(p.Start.AddDate(0, 1, 0))
}

// ID names generation n of the period's class: "hot-2024-09-13-1",
// "archive-2027-09-1". The id of a destroyed class is never used again, what
// comes later for the same period goes to the next generation.
func (p Period) ID(n int) string {
	if p.Kind == HotClass {
		return fmt.Sprintf("%s-%s-%d", p.Kind, p.Start.Format("2006-01-02"), n)
	}
	return fmt.Sprintf("%s-%s-%d", p.Kind, p.Start.Format("2006-01"), n)
}

// parseClass is the open class that Period.ID has named.
func parseClass(id string) (Class, error) {
	for kind, layout := range map[ClassKind]string{HotClass: time.DateOnly, DeferralClass: "2006-01", ArchiveClass: "2006-01", HoldClass: "2006-01"} {
		rest, ok := strings.CutPrefix(id, string(kind)+"-")
		if !ok || len(rest) <= len(layout) {
			continue
		}
		start, err := time.Parse(layout, rest[:len(layout)])
		n, convErr := strconv.Atoi(rest[len(layout)+1:])
		if p := (Period{kind, start}); err == nil && convErr == nil && p.ID(n) == id {
			return Class{ID: id, Period: p, Generation: n, State: Open}, nil
		}
	}
	return Class{}, fmt.Errorf("%q is not the id of a class", id)
}

// ClassState is how far a class key is on its way out. Every move is a
// compare-and-swap that carries the run's fence.
type ClassState string

const (
	// Open: DEKs may be wrapped under it. The only state in which they may.
	Open ClassState = "open"
	// Condemned: its period is over, no DEK is left, the intent leaf is
	// committed. A crash leaves it condemned; the next sweep checks it again.
	Condemned ClassState = "condemned"
	// Executing: the point of no return. A crash leaves it executing, and
	// recovery only rolls forward: destroying a destroyed key changes nothing.
	Executing ClassState = "executing"
	// Destroyed: the key was seen to be gone, the receipt is in the log.
	Destroyed ClassState = "destroyed"
)

// Class is one class key's row. The key itself is in the keyring.
type Class struct {
	ID         string
	Period     Period
	Generation int
	State      ClassState
	// IntentLeaf is the audit leaf that announced the destruction, 0 before.
	IntentLeaf  int64
	DestroyedAt time.Time
	// Epoch is the keyring's epoch after the destruction.
	Epoch uint64
	// DEKs counts the wrapped DEKs in the class, Members the records whose hot
	// copy is or was last in it. Filled by Classes only.
	DEKs, Members int64
}
