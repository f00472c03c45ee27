package lifecycle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// Leaf is one entry of the audit trail. A Store writes it in the transaction
// of the change it tells of: no leaf, no change. Leaves hold ids, counts,
// checksums and arithmetic, never KDEs.
type Leaf struct {
	// ID is given by the Store when the leaf is committed, ascending.
	ID     int64
	At     time.Time
	Actor  string
	Action string
	RunID  string
	// Subject is the id of what the leaf is about: a record, hold, segment or
	// run; empty where the body lists many.
	Subject string
	Body    json.RawMessage
	// Software is what wrote it, with its version.
	Software string
	// Role is the database role that the server authenticated, which the Store
	// fills in; empty where there are none. Actor is what the caller says of itself.
	Role string
	// Index is the leaf's index in the log, which Sequence gives it; -1 until then.
	Index int64
}

// Entry is the leaf as the log has it: without its number here, which another
// database may give to another leaf.
func (l *Leaf) Entry() audit.Entry {
	return audit.Entry{At: l.At, Actor: l.Actor, Role: l.Role, Software: l.Software, Action: l.Action, RunID: l.RunID, Subject: l.Subject, Body: l.Body}
}

// LogHash is the leaf's hash in the log's tree.
func (l *Leaf) LogHash() (tlog.Hash, error) {
	e := l.Entry()
	entry, _, err := e.Marshal()
	if err != nil {
		return tlog.Hash{}, err
	}
	return audit.Hash(entry), nil
}

// The actions of leaves. Scripts read them in `record show` and `run show`.
const (
	ActionInit           = "init"
	ActionRunStarted     = "run-started"
	ActionRunFinished    = "run-finished"
	ActionRunInterrupted = "run-interrupted"
	ActionClassOpened    = "class-opened"
	ActionIngested       = "ingested"
	ActionHoldPlaced     = "hold-placed"
	ActionHoldExtended   = "hold-extended"
	ActionHoldReleased   = "hold-released"
	ActionHoldEnded      = "hold-ended"
	ActionLegalHoldSet   = "legal-hold-set"
	ActionLegalHoldOff   = "legal-hold-lifting"
	ActionLegalHoldGone  = "legal-hold-lifted"
	ActionStaged         = "segment-staged"
	ActionVerified       = "segment-verified"
	ActionAbandoned      = "segment-abandoned"
	ActionArchived       = "archived"
	ActionSettled        = "segment-settled"
	ActionResealed       = "resealed"
	ActionShredIntent    = "shred-intent"
	ActionShredExecuting = "shred-executing"
	ActionShredded       = "shredded"
	ActionDropped        = "ciphertext-dropped"
	ActionReceipt        = "receipt-issued"
	ActionRescheduled    = "rescheduled"
	ActionSegmentMoved   = "segment-moved"
	ActionClassMoved     = "archive-class-moved"
	ActionRearchived     = "rearchived"
	ActionStep           = "step"
	ActionPurged         = "purged"
	ActionObjectsDeleted = "objects-deleted"
	ActionClockAccepted  = "clock-accepted"
	ActionKeyringMended  = "keyring-recovered"
	ActionIdentityShown  = "identity-disclosed"
	ActionRecovered      = "recovered"
	ActionExportBegun    = "export-begun"
	ActionUnmasked       = "unmasked"
	ActionExportLimit    = "export-limit"
	ActionExported       = "exported"
	ActionReported       = "reported"
	ActionVerifyDone     = "verify-finished"
	ActionReconciled     = "reconciled"
	ActionDryRun         = "dry-run"
	ActionRefused        = "refused"
	ActionVaultAdded     = "vault-added"
	ActionVaultCopied    = "vault-copied"
	ActionVaultActive    = "vault-active"
	ActionVaultRetiring  = "vault-retiring"
	ActionPolicyApplied  = "policy-applied"
	ActionPolicyProposed = "policy-proposed"
	ActionPolicyRefused  = "policy-refused"
	ActionTriggerSet     = "trigger-set"
	ActionTriggerUnset   = "trigger-unset"
)

// Actions lists them, for whoever chooses from them.
var Actions = []string{
	ActionInit, ActionRunStarted, ActionRunFinished, ActionRunInterrupted, ActionClassOpened, ActionIngested,
	ActionHoldPlaced, ActionHoldExtended, ActionHoldReleased, ActionHoldEnded, ActionLegalHoldSet, ActionLegalHoldOff, ActionLegalHoldGone,
	ActionStaged, ActionVerified, ActionAbandoned, ActionArchived, ActionSettled, ActionResealed,
	ActionShredIntent, ActionShredExecuting, ActionShredded, ActionDropped, ActionReceipt, ActionRescheduled, ActionSegmentMoved, ActionClassMoved, ActionRearchived, ActionStep, ActionPurged, ActionObjectsDeleted, ActionClockAccepted, ActionKeyringMended, ActionRecovered, ActionIdentityShown,
	ActionExportBegun, ActionUnmasked, ActionExportLimit, ActionExported, ActionReported, ActionVerifyDone, ActionReconciled, ActionDryRun, ActionRefused,
	ActionVaultAdded, ActionVaultCopied, ActionVaultActive, ActionVaultRetiring,
	ActionPolicyApplied, ActionPolicyProposed, ActionPolicyRefused, ActionTriggerSet, ActionTriggerUnset,
}

// Decides says that the schedules of all records follow from the leaf. A Store orders it
// against the beginning of runs: one that has a later number began when it was there.
func (l *Leaf) Decides() bool { return slices.Contains(deciding, l.Action) }

var deciding = []string{ActionPolicyApplied, ActionTriggerSet, ActionTriggerUnset}

// With adds one field to the leaf's body: what only the Store knows, such as
// how many rows its statement changed.
func (l Leaf) With(field string, value any) Leaf {
	body := map[string]json.RawMessage{}
	if len(l.Body) > 0 {
		if err := json.Unmarshal(l.Body, &body); err != nil {
			panic(err) // the engine's own JSON
		}
	}
	b, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	body[field] = b
	if l.Body, err = json.Marshal(body); err != nil {
		panic(err)
	}
	return l
}

// Archived adds to the leaf of a soft-delete what the Store did: how many records it
// archived, the Merkle root over their checksums in order of due time and seq, which is
// that of the segment's manifest, and the ids of those members that stay active.
func (l Leaf) Archived(checksums [][32]byte, kept []string) Leaf {
	l = l.Of(checksums)
	if len(kept) > 0 {
		l = l.With("kept", kept)
	}
	return l
}

// Of adds to a leaf that commits to records how many they are, and the Merkle root over
// their checksums in the order given: of seq for what was taken in, of due time and
// record id for what was archived anew or purged, which is the same in a database that
// was made anew.
func (l Leaf) Of(checksums [][32]byte) Leaf {
	return l.With("records", len(checksums)).With("checksum_root", hexOf(archive.Root(checksums)))
}

// leaf makes a leaf of the engine's actor at the run's time.
func (e *Engine) leaf(at time.Time, action, runID, subject string, body any) Leaf {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // bodies are maps and structs of plain values
	}
	return Leaf{At: at.UTC(), Actor: e.Actor, Action: action, RunID: runID, Subject: subject, Body: b, Software: e.Software}
}

// hashOf is the SHA-256, in hex, of a result as -o jsonl prints it, without the newline.
func hashOf(result any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(result); err != nil {
		panic(err) // results are structs of plain values
	}
	return hexOf(sha256.Sum256(bytes.TrimSuffix(b.Bytes(), []byte("\n"))))
}
