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

// ParseEntry reads an entry's bytes, strictly: what Marshal would not have written is
// refused. A detached body is left nil. ErrEntry.
func ParseEntry(entry []byte) (Entry, error) {
	var l line
	if err := json.Unmarshal(entry, &l); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if l.V != 1 {
		return Entry{}, fmt.Errorf("%w: version %d", ErrEntry, l.V)
	}
	at, err := time.Parse(time.RFC3339Nano, l.At)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if l.BodySHA256 != "" {
		if sum, err := hex.DecodeString(l.BodySHA256); err != nil || hex.EncodeToString(sum) != l.BodySHA256 || len(sum) != sha256.Size || l.Body != nil {
			return Entry{}, fmt.Errorf("%w: body_sha256", ErrEntry)
		}
	}
	e := Entry{at, l.Actor, l.Role, l.Software, l.Action, l.RunID, l.Subject, l.Body, l.BodySHA256}
	if err := e.wrote(entry); err != nil {
		return Entry{}, err
	}
	return e, nil
}

// wrote says whether these are the entry's bytes.
func (e *Entry) wrote(entry []byte) error {
	again, _, err := e.Marshal()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEntry, err)
	}
	// What was no UTF-8 has been written as \ufffd, and is a character of its own
	// now: the one difference there may be.
	plain := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`\ufffd`), []byte("\ufffd")) }
	if !bytes.Equal(plain(again), plain(entry)) {
		return fmt.Errorf("%w: it is not in the form that this log writes", ErrEntry)
	}
	return nil
}
