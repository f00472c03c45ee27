package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/archive/dir"
	"github.com/lotkeeper/lotkeeper/archive/minio"
	"github.com/lotkeeper/lotkeeper/archive/s3"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/audit"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/shred"
	"github.com/lotkeeper/lotkeeper/shred/filekeys"
)

// The layout of a data directory. Directories are 0700, files 0600, objects in
// the vault 0400. The database, the vault and the keyring are elsewhere if the
// configuration says so.
//
//	lotkeeper.json   what makes a directory ours, and where the keyring's mirrors are
//	lotkeeper.db     the database; with it, init has finished
//	vault/           the embedded vault, named "local"
//	keyring/         the class keys
//	log.key          the key that signs the audit trail's checkpoints
//	rejects/         rows that ingest refused; they hold KDEs
//	locks/           the locks of runs and of transactions
const (
	settingsFile = "lotkeeper.json"
	databaseFile = "lotkeeper.db"
	vaultDir     = "vault"
	keyringDir   = "keyring"
	logKeyFile   = "log.key"
	rejectsDir   = "rejects"
	locksDir     = "locks"

	localVault     = "local"
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

// data is everything that a configuration names, open.
type data struct {
	store  lifecycle.Store
	vaults []archive.Vault
	keys   shred.KeyStore
	signer note.Signer // nil: this machine cannot sign the log
	// keyring has the keyring's directories, the mirrors after the first.
	keyring []string
	closers []func() error
}

func (d *data) close() error {
	var errs []error
	for _, c := range slices.Backward(d.closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// opener opens what the configuration names, in data directory path.
type opener struct {
	*config
	path string // absolute
	now  func() time.Time
	note func(format string, args ...any) // tells of what is no error

	checked map[string]bool // vaults that checkVault was content with
}

func newOpener(a *app) (*opener, error) {
	path, err := filepath.Abs(a.cfg.Data)
	return &opener{a.cfg, path, a.now, a.note, map[string]bool{}}, err
}

// sqlitePath is where the embedded database is; "" if it is another.
func (o *opener) sqlitePath() string {
	path, _ := strings.CutPrefix(o.Store, "sqlite:")
	if path == o.Store {
		return ""
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}

// storeName is how people are shown the database.
func (o *opener) storeName() string {
	if path := o.sqlitePath(); path != "" {
		return path
	}
	return o.Store
}

// postgres adds the password, which is in no configuration.
func (o *opener) postgres() (postgres.Options, error) {
	password, _, err := secret("PGPASSWORD", "")
	return postgres.Options{URL: o.Store, AdminURL: o.StoreAdmin, Password: password}, err
}

// openStore opens a database that init made. errNoStore if there is none.
func (o *opener) openStore(ctx context.Context) (lifecycle.Store, error) {
	if path := o.sqlitePath(); path != "" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, errNoStore
		}
		return sqlite.Open(ctx, path)
	}
	opt, err := o.postgres()
	if err != nil {
		return nil, err
	}
	s, err := postgres.Open(ctx, opt)
	if errors.Is(err, postgres.ErrNotCreated) {
		return nil, errNoStore
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.storeName(), err)
	}
	return s, nil
}

var errNoStore = errors.New("there is no database yet")

// createStore makes the database, its first leaf the one given.
func (o *opener) createStore(ctx context.Context, epoch uint64, leaf lifecycle.Leaf) error {
	return o.makeStore(
		func(opt postgres.Options) (lifecycle.Store, error) { return postgres.Create(ctx, opt, epoch, leaf) },
		func(path string) (lifecycle.Store, error) { return sqlite.Create(ctx, path, epoch, leaf) })
}

// makeStore makes the database that is configured, whole or not at all.
func (o *opener) makeStore(onPostgres func(postgres.Options) (lifecycle.Store, error), onSQLite func(path string) (lifecycle.Store, error)) error {
	path := o.sqlitePath()
	if path == "" {
		opt, err := o.postgres()
		if err != nil {
			return err
		}
		s, err := onPostgres(opt)
		if err != nil {
			return fmt.Errorf("%s: %w", o.storeName(), err)
		}
		return s.Close()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp := path + unfinished
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(temp + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	s, err := onSQLite(temp)
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil { // brings the -wal file home
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// keyringDirs are the keyring's directory and its mirrors.
func (o *opener) keyringDirs(s settings) (string, filekeys.Options) {
	return strings.TrimPrefix(o.Keyring, "file:"), filekeys.Options{Mirrors: s.KeyringMirrors}
}

// openVault opens one vault. With create it makes a directory that is not there;
// a bucket is for whoever owns the account to make.
func (o *opener) openVault(ctx context.Context, v vaultConfig, create bool) (archive.Vault, error) {
	t, err := parseVault(v)
	if err != nil {
		return nil, err
	}
	wait := func(ctx context.Context, d time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
	switch t.kind {
	case "s3":
		return s3.Open(ctx, s3.Options{
			Name: v.Name, Bucket: t.bucket, Prefix: t.prefix, Region: t.query.Get("region"), Endpoint: t.query.Get("endpoint"),
			PathStyle: t.query.Get("path_style") == "true", Profile: t.query.Get("profile"),
			SSEKMSKeyID: t.query.Get("kms_key"), StorageClass: t.query.Get("storage_class"), Now: o.now, Wait: wait})
	case "minio":
		access, _, err := secret("MINIO_ACCESS_KEY", v.Name)
		if err != nil {
			return nil, err
		}
		secretKey, _, err := secret("MINIO_SECRET_KEY", v.Name)
		if err != nil {
			return nil, err
		}
		if access == "" || secretKey == "" {
			return nil, &hinted{fmt.Errorf("vault %s: there is no access key or no secret key", v.Name),
				"set MINIO_ACCESS_KEY_FILE and MINIO_SECRET_KEY_FILE to files of mode 0600; docs/configuration.md has the other ways"}
		}
		return minio.Open(ctx, minio.Options{
			Name: v.Name, Endpoint: t.host, Bucket: t.bucket, Prefix: t.prefix, TLS: t.query.Get("tls") != "false", Region: t.query.Get("region"),
			AccessKey: access, SecretKey: secretKey, Now: o.now, Wait: wait})
	}
	opt := dir.Options{Now: o.now}
	opened, err := dir.Open(t.path, v.Name, opt)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(t.path), 0o700); err != nil {
			return nil, err
		}
		opened, err = dir.Create(t.path, v.Name, opt)
	}
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// openVaults opens every vault that is configured. One that cannot be opened is there
// all the same, and says why not: a hold is placed also while a vault is away.
func (o *opener) openVaults(ctx context.Context) []archive.Vault {
	var out []archive.Vault
	for _, c := range o.Vaults {
		v, err := o.openVault(ctx, c, false)
		if err != nil {
			v = archive.NewAbsent(c.Name, err)
		}
		out = append(out, v)
	}
	return out
}

// open opens everything, as init left it.
func (o *opener) open(ctx context.Context) (_ *data, err error) {
	s, err := readSettings(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, o.notInitialised()
	}
	if err != nil {
		return nil, err
	}
	if err := o.sameMirrors(s); err != nil {
		return nil, err
	}
	opened := &data{}
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	if path := o.sqlitePath(); path != "" {
		// Before the keyring: of a directory that was never finished, say that.
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, o.notInitialised()
		}
	}
	keyring, opt := o.keyringDirs(s)
	if keys, err := filekeys.Open(keyring, opt); err != nil {
		// A hold is placed also while the keyring is away.
		opened.keys = shred.NewAbsent(keyringError(err))
	} else {
		opened.keys, opened.closers = keys, append(opened.closers, keys.Close)
	}
	opened.keyring = append([]string{keyring}, opt.Mirrors...)
	if opened.signer, err = o.logSigner(); err != nil {
		return nil, err
	}
	opened.vaults = o.openVaults(ctx)
	opened.store, err = o.openStore(ctx)
	if errors.Is(err, errNoStore) {
		err = o.notInitialised()
	}
	if err != nil {
		return nil, err
	}
	opened.closers = append(opened.closers, opened.store.Close)
	return opened, nil
}

func (o *opener) notInitialised() error {
	return &hinted{fmt.Errorf("data directory %s is not initialised", o.path), "type: lotkeeper init"}
}

// sameMirrors refuses a configuration that names other mirrors than init knew.
func (o *opener) sameMirrors(s settings) error {
	if o.file == "" || slices.Equal(o.Mirrors, s.KeyringMirrors) {
		return nil
	}
	return &hinted{
		fmt.Errorf("%s was initialised with other mirrors of the keyring: %q", o.path, s.KeyringMirrors),
		"name the same in the configuration; to change them, copy the keyring to the new place (cp -a) and name it in " + filepath.Join(o.path, settingsFile) + " too",
	}
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

// create makes everything, or finishes what an earlier call left half made, and
// opens it. created is false if there was nothing left to do. mirrors are those of
// init's own flag; nil leaves them to the configuration, or as they are.
func (o *opener) create(ctx context.Context, mirrors []string, actor string) (d *data, created bool, err error) {
	for i := range mirrors {
		if mirrors[i], err = filepath.Abs(mirrors[i]); err != nil {
			return nil, false, err
		}
	}
	if o.file != "" {
		if mirrors != nil {
			return nil, false, usagef("--mirror is for a directory without a configuration file; with one, name them there as mirrors")
		}
		mirrors = append([]string{}, o.Mirrors...)
	}
	if err := os.MkdirAll(o.path, 0o700); err != nil {
		return nil, false, fmt.Errorf("couldn't make the data directory: %w", err)
	}
	unlock, err := lockDirectory(o.path)
	if err != nil {
		return nil, false, err
	}
	defer unlock()

	s, err := readSettings(o.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s, err = claim(o.path, mirrors); err != nil {
			return nil, false, err
		}
	case err != nil:
		return nil, false, err
	case o.file != "":
		if err := o.sameMirrors(s); err != nil {
			return nil, false, err
		}
	case mirrors != nil && !slices.Equal(mirrors, s.KeyringMirrors):
		return nil, false, &hinted{
			fmt.Errorf("%s was initialised with other mirrors of the keyring: %q", o.path, s.KeyringMirrors),
			"leave out --mirror to keep them; to change them, copy the keyring to the new place (cp -a) and name it in " + settingsFile,
		}
	}
	for _, name := range []string{rejectsDir, locksDir} {
		if err := os.Mkdir(filepath.Join(o.path, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, false, err
		}
	}
	store, err := o.openStore(ctx)
	if errors.Is(err, errNoStore) || errors.Is(err, sqlite.ErrUnfinished) {
		created = true
		if err := o.fill(ctx, s, actor); err != nil {
			return nil, false, fmt.Errorf("couldn't initialise %s: %w", o.path, err)
		}
	} else if err != nil {
		return nil, false, err
	} else if err := store.Close(); err != nil {
		return nil, false, err
	}
	if d, err = o.open(ctx); err != nil {
		return nil, false, err
	}
	// A database that is there says that there was a keyring: none is made anew.
	if _, err := d.keys.Status(ctx); err != nil {
		return nil, false, errors.Join(err, d.close())
	}
	added, err := o.addVaults(ctx, d, actor)
	if err != nil {
		return nil, false, errors.Join(err, d.close())
	}
	return d, created || added, nil
}

// addVaults adds what init was cut off from adding: a database in which nothing is
// archived yet knows every vault that is configured.
func (o *opener) addVaults(ctx context.Context, d *data, actor string) (added bool, err error) {
	rows, err := d.store.Vaults(ctx)
	if err != nil {
		return false, err
	}
	live, err := d.store.Segments(ctx, lifecycle.Verified, lifecycle.Settled)
	if err != nil || len(live) > 0 {
		return false, err
	}
	for _, v := range d.vaults {
		if slices.ContainsFunc(rows, func(r lifecycle.VaultRow) bool { return r.Name == v.Name() }) {
			continue
		}
		if err := o.checkVault(ctx, v); err != nil {
			return added, err
		}
		if err := d.store.AddVault(ctx, v.Name(), lifecycle.Leaf{At: o.now().UTC(), Actor: actor, Action: lifecycle.ActionVaultAdded, Subject: v.Name(), Software: software()}); err != nil {
			return added, err
		}
		added = true
	}
	return added, nil
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
	return writeSettings(path, mirrors)
}

func writeSettings(path string, mirrors []string) (settings, error) {
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

// fill makes everything that a database which is not there yet stands on, and
// then the database: where there is one, there is all the rest.
func (o *opener) fill(ctx context.Context, s settings, actor string) (err error) {
	var vaults []archive.Vault
	for _, c := range o.Vaults {
		v, err := o.openVault(ctx, c, true)
		if err == nil {
			err = o.checkVault(ctx, v)
		}
		if err != nil {
			return err
		}
		vaults = append(vaults, v)
	}
	keyring, opt := o.keyringDirs(s)
	if err := os.MkdirAll(filepath.Dir(keyring), 0o700); err != nil {
		return err
	}
	keys, err := filekeys.Create(keyring, opt)
	if errors.Is(err, fs.ErrExist) {
		keys, err = filekeys.Open(keyring, opt)
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
	// old one is gone. A witness alone is what an init has left that was cut off.
	inUse := slices.DeleteFunc(slices.Concat(status.Live, status.Destroyed), func(id string) bool { return strings.HasPrefix(id, witnessPrefix) })
	if len(inUse) > 0 {
		return o.lostDatabase("the keyring holds keys")
	}
	for _, v := range vaults {
		for _, prefix := range []string{archive.ObjectPrefix, audit.Prefix} {
			for x, err := range v.Versions(ctx, prefix) {
				if err != nil {
					return fmt.Errorf("couldn't list vault %s: %w", v.Name(), err)
				}
				return o.lostDatabase(fmt.Sprintf("vault %s holds %s", v.Name(), x.Key))
			}
		}
	}
	witness := witnessPrefix + strings.ToLower(rand.Text())
	epoch, err := keys.Create(ctx, []string{witness})
	if err != nil {
		return err
	}
	logKey, err := o.makeLogKey()
	if err != nil {
		return err
	}
	body, err := json.Marshal(lifecycle.Origin{Policy: o.Policy.Policy, PolicyHash: o.Policy.Hash(), Witness: witness, LogKey: logKey})
	if err != nil {
		return err
	}
	return o.createStore(ctx, epoch, lifecycle.Leaf{At: o.now().UTC(), Actor: actor, Action: lifecycle.ActionInit, Body: body, Software: software()})
}

// witnessPrefix begins the id of the key by which a database knows its keyring.
const witnessPrefix = "witness-"

// checkVault refuses to begin with a vault that nothing may be put into, and tells
// of what else is not as it should be.
func (o *opener) checkVault(ctx context.Context, v archive.Vault) error {
	if o.checked[v.Name()] {
		return nil
	}
	o.checked[v.Name()] = true
	i, ok := v.(archive.Inspector)
	if !ok {
		_, err := v.Status(ctx)
		return err
	}
	checks := i.Inspect(ctx)
	for _, c := range checks {
		if c.Fatal {
			return &lifecycle.Refused{Check: "vault", Reason: fmt.Sprintf("vault %s: %s: %s", v.Name(), c.Name, c.Found), Hint: c.Hint}
		}
	}
	for _, c := range checks {
		if !c.OK {
			o.note("vault %s, %s: %s; %s", v.Name(), c.Name, c.Found, c.Hint)
		}
	}
	return nil
}

func (o *opener) lostDatabase(why string) error {
	return &lifecycle.Refused{Check: "database", Reason: "there is no database in " + o.storeName() + ", but " + why + ": the database is lost, not new",
		Hint: "put back the newest copy of it"}
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
