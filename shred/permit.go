package shred

import (
	"fmt"
	"slices"
	"time"
)

// Evidence is what the caller read about one class from its base rows, in the
// transaction that made its destruction irrevocable.
type Evidence struct {
	Class      string
	ClosesAt   time.Time // from here on no record can join the class
	Now        time.Time
	DEKs       int   // wrapped DEKs, or records, that are left and need the class
	Unverified int   // members without a verified copy elsewhere, where they are to have one
	Early      int   // members that are to be kept for longer
	IntentLeaf int64 // the committed audit entry that announces the destruction, > 0
}

// Permit is the leave to destroy classes. Only Authorize makes one that names any; the
// zero Permit names none, and no key store acts on it.
type Permit struct{ classes []string }

// Classes returns the ids that may be destroyed, in the order of the evidence.
func (p Permit) Classes() []string { return slices.Clone(p.classes) }

// NotPermitted says which class may not be destroyed and why. Class is empty if the
// reason is not about one class.
type NotPermitted struct{ Class, Reason string }

func (e *NotPermitted) Error() string {
	if e.Class == "" {
		return "destroying is not permitted: " + e.Reason
	}
	return fmt.Sprintf("destroying class %q is not permitted: %s", e.Class, e.Reason)
}

// Authorize is the last of the independent checks before keys are destroyed: it trusts
// the plan with nothing and looks at the evidence alone. It refuses all, with a
// *NotPermitted for the first class that fails, unless each class is closed, has no DEK
// left, has a verified copy of every member elsewhere, no member that is to be kept for
// longer, and its destruction is announced in the audit log.
func Authorize(ev []Evidence) (Permit, error) {
	if len(ev) == 0 {
		return Permit{}, &NotPermitted{Reason: "there is no evidence"}
	}
	var p Permit
	for _, e := range ev {
		if reason := e.objection(); reason != "" {
			return Permit{}, &NotPermitted{Class: e.Class, Reason: reason}
		}
		if slices.Contains(p.classes, e.Class) {
			return Permit{}, &NotPermitted{Class: e.Class, Reason: "it is named twice"}
		}
		p.classes = append(p.classes, e.Class)
	}
	return p, nil
}

// objection is the first reason against destroying the class, or empty.
func (e Evidence) objection() string {
	if err := CheckID(e.Class); err != nil {
		return err.Error()
	}
	switch {
	case e.ClosesAt.IsZero() || e.Now.IsZero():
		// A zero time is one that was not read; it must not pass as long ago.
		return "the evidence lacks the time at which the class closes, or the present time"
	case e.Now.Before(e.ClosesAt):
		return fmt.Sprintf("it is open until %s, and it is %s",
			e.ClosesAt.UTC().Format(time.RFC3339Nano), e.Now.UTC().Format(time.RFC3339Nano))
	case e.DEKs != 0:
		return fmt.Sprintf("%d records still depend on it", e.DEKs)
	case e.Unverified != 0:
		return fmt.Sprintf("%d of its records have no verified copy elsewhere", e.Unverified)
	case e.Early != 0:
		return fmt.Sprintf("%d of its records are to be kept for longer", e.Early)
	case e.IntentLeaf <= 0:
		return "its destruction is not announced in the audit log"
	}
	return ""
}
