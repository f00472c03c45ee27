package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
)

// The key that signs the log's checkpoints is in a file of its own, outside the
// database: who has the database alone cannot sign what it would like to have been.

// logSigner reads the log's key. nil if this machine has none: then others sign.
func (o *opener) logSigner() (note.Signer, error) {
	secret, err := secretFile(o.Audit.Key, 0o077)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &lifecycle.Refused{Check: "log", Reason: "couldn't read the log's key: " + err.Error(), Hint: "if somebody else could have read it, they could sign in its name; then type: chmod 600 " + shellQuote(o.Audit.Key)}
	}
	s, err := note.NewSigner(secret)
	if err != nil {
		// The library's error may have the key in it.
		return nil, fmt.Errorf("%s is not a key of a log: put back the file that init made", o.Audit.Key)
	}
	return s, nil
}

// makeLogKey makes the log's key, and says what its public half is. The key that an
// init has left which was cut off is taken.
func (o *opener) makeLogKey() (public string, err error) {
	s, err := o.logSigner()
	if err != nil {
		return "", err
	}
	if s == nil {
		name := "lotkeeper-" + strings.ToLower(rand.Text()[:10])
		secret, _, err := audit.NewKey(rand.Reader, name)
		if err != nil {
			return "", fmt.Errorf("couldn't make the log's key: %w", err)
		}
		if err := writeSecret(o.Audit.Key, secret); err != nil {
			return "", fmt.Errorf("couldn't write the log's key: %w", err)
		}
	}
	return o.logPublicKey()
}

// logPublicKey is the public half of the key in the file.
func (o *opener) logPublicKey() (string, error) {
	secret, err := secretFile(o.Audit.Key, 0o077)
	if err != nil {
		return "", err
	}
	return audit.PublicKey(secret)
}

// writeSecret makes a file that only its owner can read, whole or not at all.
func writeSecret(path, secret string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp := path + unfinished
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(temp, path); err != nil { // never over a key that is there
		return errors.Join(err, os.Remove(temp))
	}
	return errors.Join(os.Remove(temp), syncDir(filepath.Dir(path)))
}

// publishFirst publishes a log that was just begun, so that a vault has its beginning.
func (a *app) publishFirst(ctx context.Context, d *data) {
	if _, err := a.engineOn(d).Publish(ctx); err != nil {
		a.log.Warn().Err(err).Msg("couldn't publish the log yet; the next run does")
	}
}
