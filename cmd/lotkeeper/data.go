package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/dir"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/shred"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
)

// The layout of a data directory. Directories are 0700, files 0600, objects in
// the vault 0400.
//
//	lotkeeper.json   what makes a directory ours, and where the keyring's mirrors are
//	lotkeeper.db     the database; with it, init has finished
//	vault/           the embedded vault, named "local"
//	keyring/         the class keys
//	rejects/         rows that ingest refused; they hold KDEs
//	locks/           the locks of runs and of transactions
const (
	settingsFile = "lotkeeper.json"
	databaseFile = "lotkeeper.db"
	vaultDir     = "vault"
	keyringDir   = "keyring"
	rejectsDir   = "rejects"
	locksDir     = "locks"

	vaultName      = "local"
	settingsFormat = "lotkeeper-data/v1"
	// unfinished marks what an interrupted init may leave, and the next removes.
	unfinished = ".unfinished"
)

// settings is lotkeeper.json.
type settings struct {
	Format string `json:"format"`
	// KeyringMirrors are absolute paths. Each command must name the same ones,
	// or a destroyed key would survive in one.
	KeyringMirrors []string `json:"keyring_mirrors"`
}

// data is an open data directory.
type data struct {
	path   string
	store  *sqlite.Store
	vaults []archive.Vault
	keys   *filekeys.Store
}

func (d *data) close() error {
	return errors.Join(d.store.Close(), d.keys.Close())
}

func vaultOptions(now func() time.Time) dir.Options { return dir.Options{Now: now} }

// openData opens a data directory that init made.
func openData(ctx context.Context, path string, now func() time.Time) (*data, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s, err := readSettings(path)
	if err == nil {
		_, err = os.Stat(filepath.Join(path, databaseFile))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &hinted{fmt.Errorf("data directory %s is not initialised", path), "type: lotkeeper init"}
	}
	if err != nil {
		return nil, err
	}
	d := &data{path: path}
	if d.keys, err = filekeys.Open(filepath.Join(path, keyringDir), filekeys.Options{Mirrors: s.KeyringMirrors}); err != nil {
		return nil, keyringError(err)
	}
	v, err := dir.Open(filepath.Join(path, vaultDir), vaultName, vaultOptions(now))
	if err != nil {
		return nil, errors.Join(err, d.keys.Close())
	}
	d.vaults = []archive.Vault{v}
	if d.store, err = sqlite.Open(ctx, filepath.Join(path, databaseFile)); err != nil {
		return nil, errors.Join(err, d.keys.Close())
	}
	return d, nil
}

// keyringError turns what the keyring refuses by itself into a refusal: keys that
// others can read, or copies of which the newest is damaged.
func keyringError(err error) error {
	switch {
	case errors.Is(err, filekeys.ErrPermissions):
		return &lifecycle.Refused{Check: "keyring", Reason: err.Error(), Hint: "find out who could have read the keys, then take the others' permissions away"}
	case errors.Is(err, shred.ErrStale):
		return &lifecycle.Refused{Check: "keyring", Reason: err.Error(), Hint: "put back the newest copy of the keyring"}
	}
	return err
}

// createData makes a data directory, or finishes one that an earlier call left
// half made, and opens it. created is false if there was nothing left to do.
func createData(ctx context.Context, path string, mirrors []string, actor string, now func() time.Time) (d *data, created bool, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, false, err
	}
	for i := range mirrors {
		if mirrors[i], err = filepath.Abs(mirrors[i]); err != nil {
			return nil, false, err
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, false, fmt.Errorf("couldn't make the data directory: %w", err)
	}
	unlock, err := lockDirectory(path)
	if err != nil {
		return nil, false, err
	}
	defer unlock()

	s, err := readSettings(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s, err = claim(path, mirrors); err != nil {
			return nil, false, err
		}
	case err != nil:
		return nil, false, err
	case mirrors != nil && !slices.Equal(mirrors, s.KeyringMirrors):
		return nil, false, &hinted{
			fmt.Errorf("%s was initialised with other mirrors of the keyring: %q", path, s.KeyringMirrors),
			"leave out --mirror to keep them; to change them, copy the keyring to the new place (cp -a) and name it in " + settingsFile,
		}
	}
	if _, err := os.Stat(filepath.Join(path, databaseFile)); err == nil {
		d, err := openData(ctx, path, now)
		return d, false, err
	}
	if err := fillData(ctx, path, s, actor, now); err != nil {
		return nil, false, fmt.Errorf("couldn't initialise %s: %w", path, err)
	}
	d, err = openData(ctx, path, now)
	return d, true, err
}

// claim makes an empty directory ours.
func claim(path string, mirrors []string) (settings, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return settings{}, err
	}
	for _, e := range entries {
		if e.Name() != settingsFile+unfinished {
			return settings{}, &hinted{
				fmt.Errorf("%s is not empty and was not made by init: it has %s", path, e.Name()),
				"name a directory that is empty or does not exist: lotkeeper --data DIR init",
			}
		}
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return settings{}, err
	}
	s := settings{Format: settingsFormat, KeyringMirrors: append([]string{}, mirrors...)}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return s, err
	}
	temp := filepath.Join(path, settingsFile+unfinished)
	if err := os.RemoveAll(temp); err != nil {
		return s, err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return s, err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return s, err
	}
	if err := os.Rename(temp, filepath.Join(path, settingsFile)); err != nil {
		return s, err
	}
	return s, errors.Join(syncDir(path), syncDir(filepath.Dir(path)))
}

// fillData makes everything in a directory that is ours. The database's rename
// comes last, so that a directory with a database has all the rest.
func fillData(ctx context.Context, path string, s settings, actor string, now func() time.Time) (err error) {
	for _, name := range []string{rejectsDir, locksDir} {
		if err := os.Mkdir(filepath.Join(path, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	v, err := dir.Create(filepath.Join(path, vaultDir), vaultName, vaultOptions(now))
	if errors.Is(err, fs.ErrExist) {
		v, err = dir.Open(filepath.Join(path, vaultDir), vaultName, vaultOptions(now))
	}
	if err != nil {
		return err
	}
	keys, err := filekeys.Create(filepath.Join(path, keyringDir), filekeys.Options{Mirrors: s.KeyringMirrors})
	if errors.Is(err, fs.ErrExist) {
		keys, err = filekeys.Open(filepath.Join(path, keyringDir), filekeys.Options{Mirrors: s.KeyringMirrors})
	}
	if err != nil {
		return keyringError(err)
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	status, err := keys.Status(ctx)
	if err != nil {
		return err
	}
	// A new database beside keys or objects that are in use would hide that the
	// old one is gone.
	if len(status.Live)+len(status.Destroyed) > 0 {
		return lostDatabase("the keyring holds keys")
	}
	for o, err := range v.Versions(ctx, "") {
		if err != nil {
			return err
		}
		return lostDatabase("the vault holds " + o.Key)
	}

	temp := filepath.Join(path, databaseFile+unfinished)
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(temp + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	store, err := sqlite.Create(ctx, temp, status.Epoch, lifecycle.Leaf{At: now().UTC(), Actor: actor, Action: lifecycle.ActionInit})
	if err != nil {
		return err
	}
	added := lifecycle.Leaf{At: now().UTC(), Actor: actor, Action: lifecycle.ActionVaultAdded, Subject: vaultName}
	if err := store.AddVault(ctx, vaultName, added); err != nil {
		return errors.Join(err, store.Close())
	}
	if err := store.Close(); err != nil { // brings the -wal file home
		return err
	}
	if err := os.Rename(temp, filepath.Join(path, databaseFile)); err != nil {
		return err
	}
	return syncDir(path)
}

func lostDatabase(why string) error {
	return &lifecycle.Refused{Check: "database", Reason: "there is no " + databaseFile + ", but " + why + ": the database is lost, not new",
		Hint: "put back the newest copy of " + databaseFile}
}

func readSettings(path string) (settings, error) {
	var s settings
	b, err := os.ReadFile(filepath.Join(path, settingsFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil || s.Format != settingsFormat {
		return s, fmt.Errorf("%s is not a file that this version knows (format %q)", filepath.Join(path, settingsFile), s.Format)
	}
	return s, nil
}

// lockDirectory keeps two inits of one directory apart.
func lockDirectory(path string) (unlock func(), err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another init of %s is running: %w", path, lifecycle.ErrLocked)
		}
		return nil, err
	}
	return func() { d.Close() }, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
