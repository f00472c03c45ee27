package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/shred"
)

// Engine runs the life of records. Everything it does to the world goes
// through Store, Vaults, Keys, Command and Now; so a test can put a fault at each.
// An Engine may be used concurrently.
type Engine struct {
	Store  Store
	Vaults []archive.Vault
	Keys   shred.KeyStore
	// LogSigner signs the log's checkpoints; nil where this machine has no key.
	LogSigner note.Signer
	// Now is the clock. No rule reads another.
	Now    func() time.Time
	Rand   io.Reader
	Log    zerolog.Logger
	Policy Policy
	Limits Limits
	// Actor is who leaves are written for, Software what wrote them.
	Actor, Software string
	// Command runs a program that a policy's rule names, to its end, and gives its exit
	// code: an error if it did not begin, or end by itself. Nil where this machine's
	// configuration does not let policies run programs.
	Command func(context.Context, Command) (exitCode int, err error)
	// Progress, if set, is told how far a long step has come. It must be quick.
	Progress func(step string, records int)
}

// Limits are the engine's margins and batch sizes.
type Limits struct {
	// SegmentRecords and SegmentBytes (of plaintext) end a segment. Memory
	// follows them.
	SegmentRecords int
	SegmentBytes   int64
	// BatchRecords and BatchBytes bound a batch of ingest and a page of a sweep.
	BatchRecords int
	BatchBytes   int64
	// LockRecords bounds what one transaction soft-deletes or reseals, since a
	// hold waits for it.
	LockRecords int
	// CountFor is how long placing a hold may take to count what it covers, since
	// its reply is waited for; 0 is as long as it takes. The hold stands by then.
	CountFor time.Duration
	// VaultPatience bounds how long a vault is waited for to say what it has of the log;
	// 0 is as long as it takes. Nobody is to wait for one that is away.
	VaultPatience time.Duration
	// MinLock is the shortest retention that an object is given.
	MinLock time.Duration
	// ClockSkew is how far the clock may be from a vault's, or behind the
	// newest leaf.
	ClockSkew time.Duration
	// ExportRecords is how many records one identity may be given on a UTC day; 0 is
	// no limit. The identity is the database's role if the server has roles, else the
	// actor.
	ExportRecords int
	// BackupRetention is how long backups of the database and of the keyring are
	// kept; 0 is unknown. Receipts are pending for as long.
	BackupRetention time.Duration
	// Identity is the kind of age identity of new segments.
	Identity string
}

// DefaultLimits are those of production.
func DefaultLimits() Limits {
	return Limits{
		SegmentRecords: 20_000, SegmentBytes: 32 << 20,
		BatchRecords: 5_000, BatchBytes: 8 << 20,
		LockRecords:   500,
		CountFor:      100 * time.Millisecond,
		VaultPatience: 10 * time.Second,
		MinLock:       30 * 24 * time.Hour,
		ClockSkew:     5 * time.Minute,
		Identity:      "hybrid",
	}
}

func (e *Engine) rand() io.Reader {
	if e.Rand != nil {
		return e.Rand
	}
	return rand.Reader
}

func (e *Engine) progress(step string, records int) {
	if e.Progress != nil {
		e.Progress(step, records)
	}
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID makes an id such as "seg-20261121-7h3kq0w2xz": a date to find it by,
// and 50 random bits.
func (e *Engine) newID(prefix string, now time.Time) (string, error) {
	var b [8]byte
	if _, err := io.ReadFull(e.rand(), b[:]); err != nil {
		return "", fmt.Errorf("couldn't make an id: %w", err)
	}
	return prefix + "-" + now.UTC().Format("20060102") + "-" + idEncoding.EncodeToString(b[:])[:10], nil
}

// vault finds a vault by name.
func (e *Engine) vault(name string) (archive.Vault, error) {
	for _, v := range e.Vaults {
		if v.Name() == name {
			return v, nil
		}
	}
	var have []string
	for _, v := range e.Vaults {
		have = append(have, v.Name())
	}
	return nil, fmt.Errorf("vault %s is not configured (there is: %s)", name, strings.Join(have, ", "))
}

// IsRefused finds a Refused in an error's chain.
func IsRefused(err error) (*Refused, bool) {
	var r *Refused
	ok := errors.As(err, &r)
	return r, ok
}
