package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// NewKey makes the key that a log's checkpoints are signed with (Ed25519). The origin
// is the log's name, and the key's. Both keys are a line of text, as note has them.
func NewKey(rand io.Reader, origin string) (secret, public string, err error) {
	secret, public, err = note.GenerateKey(rand, origin)
	if err != nil {
		return "", "", fmt.Errorf("couldn't make a key for %q: %w", origin, err)
	}
	if _, err := note.NewVerifier(public); err != nil {
		return "", "", fmt.Errorf("%q can't be the name of a key: %w", origin, err)
	}
	return secret, public, nil
}

// PublicKey is the public half of a key that NewKey made. The error says nothing of
// the key.
func PublicKey(secret string) (string, error) {
	s, err := note.NewSigner(secret)
	if err != nil {
		return "", errSecret
	}
	// "PRIVATE+KEY+" name "+" hash "+" base64 of the algorithm (1 is Ed25519) and the seed;
	// base64 has plus signs too.
	fields := strings.SplitN(secret, "+", 5)
	key, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(key) != 1+ed25519.SeedSize {
		return "", errSecret
	}
	return note.NewEd25519VerifierKey(s.Name(), ed25519.NewKeyFromSeed(key[1:]).Public().(ed25519.PublicKey))
}

var errSecret = errors.New("not a secret key of a log")

// Checkpoint is a log's head.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

// ErrCheckpoint: a note that is no checkpoint, or not one of this log.
var ErrCheckpoint = errors.New("not a checkpoint of this log")

// text is what is signed.
func (c Checkpoint) text() string { return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root) }

// Sign gives the checkpoint as a signed note (C2SP tlog-checkpoint), always the same bytes.
func (c Checkpoint) Sign(s note.Signer) ([]byte, error) {
	if _, err := parseCheckpoint(c.text()); err != nil {
		return nil, err
	}
	if c.Origin != s.Name() {
		return nil, fmt.Errorf("%w: origin %q, signed by %q", ErrCheckpoint, c.Origin, s.Name())
	}
	msg, err := note.Sign(&note.Note{Text: c.text()}, s)
	if err != nil {
		return nil, fmt.Errorf("couldn't sign a checkpoint of size %d: %w", c.Size, err)
	}
	return msg, nil
}

// OpenCheckpoint reads a signed note; its origin must be the verifier's name.
// ErrCheckpoint.
func OpenCheckpoint(msg []byte, v note.Verifier) (Checkpoint, error) {
	n, err := note.Open(msg, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, fmt.Errorf("%w: origin %q, want %q", ErrCheckpoint, c.Origin, v.Name())
	}
	return c, nil
}

// parseCheckpoint is text's inverse, and takes nothing else: no other way to write a
// number, and no lines after the three.
func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] == "" {
		return Checkpoint{}, fmt.Errorf("%w: it has not three lines", ErrCheckpoint)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > maxSize {
		return Checkpoint{}, fmt.Errorf("%w: size %q", ErrCheckpoint, lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: root %q", ErrCheckpoint, lines[2])
	}
	c := Checkpoint{lines[0], size, root}
	if c.text() != text {
		return Checkpoint{}, fmt.Errorf("%w: it is not in the one form that a checkpoint has", ErrCheckpoint)
	}
	if empty, err := tlog.TreeHash(0, nil); size == 0 && (err != nil || root != empty) {
		return Checkpoint{}, fmt.Errorf("%w: size 0 with the root %s", ErrCheckpoint, root)
	}
	return c, nil
}

// CheckpointPrefix begins the keys of checkpoints. The newest sorts first: one
// listing request finds it. Key: log/checkpoint/<999999999999-size, 12 digits>-<size>.
const CheckpointPrefix = Prefix + "checkpoint/"

// maxSize is how many entries a log may have, as far as its keys go.
const maxSize = 999_999_999_999

// CheckpointKey is where the checkpoint of a size is, CheckpointSize its inverse.
func CheckpointKey(size int64) string {
	return fmt.Sprintf("%s%012d-%d", CheckpointPrefix, maxSize-size, size)
}

// CheckpointSize is the size that a checkpoint's key tells; false if it is none.
func CheckpointSize(key string) (int64, bool) {
	_, decimal, _ := strings.Cut(strings.TrimPrefix(key, CheckpointPrefix), "-")
	size, err := strconv.ParseInt(decimal, 10, 64)
	if err != nil || size < 0 || size > maxSize || CheckpointKey(size) != key {
		return 0, false
	}
	return size, true
}
