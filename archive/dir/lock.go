package dir

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lotkeeper/lotkeeper/archive"
)

const lockFormat = "lotkeeper-lock/v1"

// A lock is what a lock file holds.
type lock struct {
	Format      string       `json:"format"`
	Key         string       `json:"key"`
	VersionID   string       `json:"version_id"`
	Mode        archive.Mode `json:"mode"`
	RetainUntil time.Time    `json:"retain_until"`
	LegalHold   bool         `json:"legal_hold"`
	SHA256      archive.Hash `json:"sha256"`
	Size        int64        `json:"size"`
}

// encode returns the one form that parseLock takes.
func (l *lock) encode() ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// parseLock is strict: a lock file that was cut, edited or mixed up has to be
// noticed, since an object whose lock is in doubt is locked.
func parseLock(b []byte, key string) (*lock, error) {
	l := new(lock)
	if err := json.Unmarshal(b, l); err != nil {
		return nil, errors.New("not a lock file")
	}
	switch {
	case l.Format != lockFormat:
		return nil, fmt.Errorf("format %q, not %q", l.Format, lockFormat)
	case l.Key != key:
		return nil, fmt.Errorf("it is the lock of %q", l.Key)
	case l.VersionID == "":
		return nil, errors.New("no version id")
	case l.Mode != archive.Compliance && l.Mode != archive.Governance:
		return nil, fmt.Errorf("retention mode %q", l.Mode)
	case l.RetainUntil.IsZero(), l.RetainUntil.Location() != time.UTC:
		return nil, errors.New("no retain-until in UTC")
	}
	if same, err := l.encode(); err != nil || !bytes.Equal(same, b) {
		return nil, errors.New("not in canonical form")
	}
	return l, nil
}
