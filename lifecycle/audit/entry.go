package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Entry is one leaf as the log has it. log-format.md writes it down in prose.
type Entry struct {
	At time.Time
	// Actor is who says that they did it: an operating system's user or a service
	// identity, which nobody has authenticated.
	Actor string
	// Role is the database role that the server authenticated; empty where the
	// store has none.
	Role string
	// Software is what wrote it, with its version.
	Software string
	Action   string
	RunID    string
	Subject  string
	// Body is what the action has to tell, as JSON; nil if it is detached and was
	// not read.
	Body json.RawMessage
	// BodySHA256 is that of a detached body, in hex; empty if the body is inline.
	BodySHA256 string
}

// maxInline bounds a body within its entry, since an entry bundle has 16 bits for
// an entry's length (C2SP tlog-tiles). A longer one is an object of its own, named
// by its SHA-256.
const maxInline = 48 << 10

// line is an entry's bytes: one JSON object, in this order of fields, without any
// white space that is not in the body.
type line struct {
	V          int             `json:"v"`
	At         string          `json:"at"`
	Actor      string          `json:"actor"`
	Role       string          `json:"role"`
	Software   string          `json:"software"`
	Action     string          `json:"action"`
	RunID      string          `json:"run_id"`
	Subject    string          `json:"subject"`
	Body       json.RawMessage `json:"body,omitempty"`
	BodySHA256 string          `json:"body_sha256,omitempty"`
}

// Marshal gives an entry's bytes, and its body if that is detached. The same entry
// always has the same bytes.
func (e *Entry) Marshal() (entry, detached []byte, err error) {
	l := line{1, e.At.UTC().Format("2006-01-02T15:04:05.000000000Z"), e.Actor, e.Role, e.Software, e.Action, e.RunID, e.Subject, nil, e.BodySHA256}
	if len(e.Body) > 0 {
		var body bytes.Buffer
		if err := json.Compact(&body, e.Body); err != nil {
			return nil, nil, fmt.Errorf("body of an entry %s: %w", e.Action, err)
		}
		if l.BodySHA256 = ""; body.Len() <= maxInline {
			l.Body = body.Bytes()
		} else {
			detached = body.Bytes()
			sum := sha256.Sum256(detached)
			l.BodySHA256 = hex.EncodeToString(sum[:])
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return nil, nil, fmt.Errorf("entry %s: %w", e.Action, err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), detached, nil
}

// Hash is an entry's leaf hash: SHA-256(0x00 || entry), as in RFC 6962.
func Hash(entry []byte) tlog.Hash { return tlog.RecordHash(entry) }

// ErrEntry: bytes that are no entry.
var ErrEntry = errors.New("not an entry of this log")
