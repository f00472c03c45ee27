package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-playground/validator/v10"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// config is the configuration, and its file's reference: docs/configuration.md
// shows it. Without a file everything is in the data directory. Paths in a file
// are relative to it. There are no secrets in it: see secrets.go.
type config struct {
	// Data is a directory of this machine's own: rejects and locks, and whatever
	// of the following is not named.
	Data string `yaml:"data"`
	// Store is sqlite:PATH, or postgres://user@host/database; that may lead
	// through PgBouncer in transaction mode.
	Store string `yaml:"store"`
	// StoreAdmin is a direct connection to the same PostgreSQL database, as the
	// schema's owner: each command looks there whether the schema is up to date.
	// Default: Store.
	StoreAdmin string `yaml:"store_admin"`
	// Vaults are all that a segment must be in before it counts as archived.
	Vaults []vaultConfig `yaml:"vaults" validate:"unique=Name,dive"`
	// Keyring is file:DIR, Mirrors are further directories with the same keys.
	Keyring string   `yaml:"keyring"`
	Mirrors []string `yaml:"mirrors" validate:"unique,dive,required"`
	// Policy says when a record leaves the hot store, and the archive.
	Policy policyConfig `yaml:"policy"`
	Audit  auditConfig  `yaml:"audit"`

	file    string            // "" without one
	sources map[string]string // where each value is from, by its path
}

type vaultConfig struct {
	// Name is the vault's for ever: copies are recorded under it.
	Name string `yaml:"name" validate:"required,max=32,vaultname"`
	// URL is dir:PATH, s3://bucket/prefix?region=R (also endpoint, path_style,
	// profile, kms_key, storage_class), or minio://host:port/bucket/prefix (also
	// tls, region).
	URL string `yaml:"url" validate:"required"`
}

type policyConfig struct {
	lifecycle.Policy `yaml:",inline"`
	// Approval is required where a policy that ends lives earlier waits for somebody
	// else than who applied it.
	Approval string `yaml:"approval" validate:"omitempty,oneof=required"`
	// Commands are allowed where policies may have this machine run programs.
	Commands string `yaml:"commands" validate:"omitempty,oneof=allowed"`
}

type auditConfig struct {
	// Actor is the service identity that the audit trail gets, where neither
	// --actor nor LOTKEEPER_ACTOR says another.
	Actor string `yaml:"actor" validate:"max=200,nocontrol"`
	// Key is the file with the key that signs the log, which init makes. Default:
	// log.key in the data directory.
	Key string `yaml:"key"`
	// ExportLimit is how many records one identity may be given on a UTC day; 0 is
	// no limit.
	ExportLimit int `yaml:"export_limit" validate:"min=0"`
	// BackupRetentionDays is for how many days backups of database and keyring are
	// kept; 0 is unknown. Until they have passed, receipts are pending.
	BackupRetentionDays int `yaml:"backup_retention_days" validate:"min=0,max=36500"`
}

// vaultName leaves out names that end in file: NAME_FILE is where a secret's file is
// named.
var vaultName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

func validVaultName(s string) bool { return vaultName.MatchString(s) && !strings.HasSuffix(s, "file") }

// configError is a fault in the configuration file, at its line and column.
type configError struct {
	file         string
	line, column int
	msg          string
}

func (e *configError) Error() string {
	if e.line == 0 {
		return fmt.Sprintf("%s: %s", e.file, e.msg)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.file, e.line, e.column, e.msg)
}

// loadConfig reads the configuration: a flag wins over LOTKEEPER_*, which wins
// over the file, which wins over the defaults.
func loadConfig(file string, data, dataSource string, getenv func(string) string) (*config, error) {
	c := &config{file: file, Policy: policyConfig{Policy: lifecycle.DefaultPolicy()}, sources: map[string]string{}}
	var tree *ast.File
	if file != "" {
		var err error
		if tree, err = c.read(file); err != nil {
			return nil, err
		}
	}
	if dataSource != "default" || c.Data == "" {
		c.Data, c.sources["data"] = data, dataSource
	}
	for _, e := range []struct {
		path string
		to   *string
	}{{"store", &c.Store}, {"store_admin", &c.StoreAdmin}, {"keyring", &c.Keyring}} {
		name := "LOTKEEPER_" + strings.ToUpper(e.path)
		if v := getenv(name); v != "" {
			*e.to, c.sources[e.path] = v, name
		}
	}
	fallback := func(path string, to *string, value string) {
		if *to == "" {
			*to, c.sources[path] = value, "default"
		}
	}
	fallback("store", &c.Store, "sqlite:"+filepath.Join(c.Data, databaseFile))
	fallback("keyring", &c.Keyring, "file:"+filepath.Join(c.Data, keyringDir))
	fallback("audit.key", &c.Audit.Key, filepath.Join(c.Data, logKeyFile))
	if c.Vaults == nil {
		c.Vaults = []vaultConfig{{Name: localVault, URL: "dir:" + filepath.Join(c.Data, vaultDir)}}
		c.sources["vaults[0].name"], c.sources["vaults[0].url"] = "default", "default"
	}
	for _, p := range []string{"policy.name", "policy.archive_after_days", "policy.purge_after_years"} {
		if c.sources[p] == "" {
			c.sources[p] = "default"
		}
	}
	if err := c.absolute("."); err != nil {
		return nil, err
	}
	return c, c.check(tree)
}

func (c *config) read(file string) (*ast.File, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &configError{file: file, msg: "there is no such configuration file"}
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the configuration: %w", err)
	}
	tree, err := parser.ParseBytes(b, 0)
	if err == nil && len(tree.Docs) > 1 {
		return nil, &configError{file: file, msg: "it holds more than one document"}
	}
	if err == nil && len(tree.Docs) == 1 && tree.Docs[0].Body != nil {
		err = yaml.NodeToValue(tree.Docs[0].Body, c, yaml.Strict())
	}
	if err != nil {
		return nil, yamlError(file, err)
	}
	c.sources = sourcesOf(file, tree)
	return tree, c.absolute(filepath.Dir(file))
}

// absolute makes the paths of the configuration absolute, those that are not yet
// relative to a directory. The data directory is shown as it was typed.
func (c *config) absolute(dir string) error {
	base, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	resolve := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(base, path)
	}
	under := func(s, scheme string) string {
		if path, ok := strings.CutPrefix(s, scheme); ok {
			return scheme + resolve(path)
		}
		return s
	}
	if c.file != "" {
		c.Data = resolve(c.Data)
	}
	for i := range c.Mirrors {
		c.Mirrors[i] = resolve(c.Mirrors[i])
	}
	c.Audit.Key = resolve(c.Audit.Key)
	c.Store, c.Keyring = under(c.Store, "sqlite:"), under(c.Keyring, "file:")
	for i := range c.Vaults {
		c.Vaults[i].URL = under(c.Vaults[i].URL, "dir:")
	}
	return nil
}

// yamlError is the library's error without the excerpt of the file that it shows:
// somebody may have put a password there.
func yamlError(file string, err error) error {
	var y yaml.Error
	if !errors.As(err, &y) {
		return &configError{file: file, msg: err.Error()}
	}
	e := &configError{file: file, msg: y.GetMessage()}
	if t := y.GetToken(); t != nil && t.Position != nil {
		e.line, e.column = t.Position.Line, t.Position.Column
	}
	return e
}

// sourcesOf finds the line of each value in the file.
func sourcesOf(file string, tree *ast.File) map[string]string {
	lines := map[string]string{}
	var walk func(path string, n ast.Node)
	walk = func(path string, n ast.Node) {
		switch n := n.(type) {
		case *ast.MappingNode:
			for _, v := range n.Values {
				walk(path, v)
			}
		case *ast.MappingValueNode:
			walk(strings.TrimPrefix(path+"."+n.Key.String(), "."), n.Value)
		case *ast.SequenceNode:
			for i, v := range n.Values {
				walk(fmt.Sprintf("%s[%d]", path, i), v)
			}
		case nil:
		default:
			if t := n.GetToken(); t != nil && t.Position != nil {
				lines[path] = fmt.Sprintf("%s:%d", file, t.Position.Line)
			}
		}
	}
	for _, d := range tree.Docs {
		walk("", d.Body)
	}
	return lines
}

// at is a fault of the value with the given path, where the file has it.
func (c *config) at(tree *ast.File, path, format string, args ...any) error {
	msg := path + ": " + fmt.Sprintf(format, args...)
	if tree != nil {
		e := &configError{file: c.file, msg: msg}
		if p, err := yaml.PathString("$." + path); err == nil {
			if n, err := p.FilterFile(tree); err == nil && n.GetToken() != nil {
				e.line, e.column = n.GetToken().Position.Line, n.GetToken().Position.Column
				return e
			}
		}
	}
	if source := c.sources[path]; source != "" {
		return usagef("%s (from %s)", msg, source)
	}
	return usagef("%s", msg)
}

func (c *config) check(tree *ast.File) error {
	if err := rules.Struct(c); err != nil {
		var broken validator.ValidationErrors
		if !errors.As(err, &broken) {
			return err
		}
		b := broken[0]
		return c.at(tree, strings.TrimPrefix(b.Namespace(), "config."), "%s", brokenRule(b))
	}
	if !strings.HasPrefix(c.Store, "sqlite:") {
		if err := checkPostgres(c.Store); err != nil {
			return c.at(tree, "store", "%v", err)
		}
	}
	if c.StoreAdmin != "" {
		if err := checkPostgres(c.StoreAdmin); err != nil {
			return c.at(tree, "store_admin", "%v", err)
		}
	}
	if !strings.HasPrefix(c.Keyring, "file:") || c.Keyring == "file:" {
		return c.at(tree, "keyring", "it must be file:DIR")
	}
	if len(c.Vaults) == 0 {
		return c.at(tree, "vaults", "at least one vault is needed")
	}
	places := map[string]string{}
	for i, v := range c.Vaults {
		path := fmt.Sprintf("vaults[%d].url", i)
		t, err := parseVault(v)
		if err != nil {
			return c.at(tree, path, "%v", err)
		}
		// One copy must not count as two.
		if other, taken := places[t.place()]; taken {
			return c.at(tree, path, "it is the same place as vault %s", other)
		}
		places[t.place()] = v.Name
	}
	return nil
}

// brokenRule is a rule in our words.
func brokenRule(b validator.FieldError) string {
	switch b.Tag() {
	case "required":
		return "it is missing"
	case "unique":
		return "two have the same name"
	case "vaultname":
		return fmt.Sprintf("%q is not a name of lower-case letters, digits and dashes that does not end in file", b.Value())
	case "min":
		return fmt.Sprintf("it must be at least %s, not %v", b.Param(), b.Value())
	case "max":
		return fmt.Sprintf("it must be at most %s", b.Param())
	case "nocontrol":
		return "it contains a control character"
	}
	return "it breaks the rule " + b.Tag()
}

// checkPostgres never repeats the URL: it may have a password in it.
func checkPostgres(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("it is not a URL")
	case u.Scheme != "postgres" && u.Scheme != "postgresql":
		return errors.New("it must be sqlite:PATH or postgres://user@host/database")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("what follows its ? cannot be read")
	}
	if _, has := u.User.Password(); has || query.Has("password") || query.Has("sslpassword") {
		return errors.New("it has a password in it; use PGPASSWORD_FILE, PGPASSFILE or the systemd credential pgpassword")
	}
	return nil
}

// vaultTarget is a vault's URL, taken apart.
type vaultTarget struct {
	kind           string // dir, s3, minio
	path           string // of dir
	host           string // of minio
	bucket, prefix string
	query          url.Values
}

func parseVault(v vaultConfig) (vaultTarget, error) {
	if path, ok := strings.CutPrefix(v.URL, "dir:"); ok {
		if path == "" {
			return vaultTarget{}, errors.New("dir: needs a path")
		}
		return vaultTarget{kind: "dir", path: path}, nil
	}
	u, err := url.Parse(v.URL)
	if err != nil {
		return vaultTarget{}, errors.New("it is not a URL")
	}
	if u.User != nil {
		return vaultTarget{}, errors.New("it has credentials in it; they come from the environment, a file or a systemd credential")
	}
	t := vaultTarget{kind: u.Scheme}
	if t.query, err = url.ParseQuery(u.RawQuery); err != nil {
		return t, errors.New("what follows its ? cannot be read")
	}
	var allowed []string
	switch u.Scheme {
	case "s3":
		allowed = []string{"region", "endpoint", "path_style", "profile", "kms_key", "storage_class"}
		t.bucket, t.prefix = u.Host, strings.Trim(u.Path, "/")
	case "minio":
		allowed = []string{"tls", "region"}
		t.host = u.Host
		t.bucket, t.prefix, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	default:
		return t, errors.New("it must be dir:PATH, s3://bucket/prefix or minio://host:port/bucket/prefix")
	}
	if t.bucket == "" || t.kind == "minio" && t.host == "" {
		return t, errors.New("it names no bucket")
	}
	for _, k := range slices.Sorted(maps.Keys(t.query)) {
		if !slices.Contains(allowed, k) {
			return t, fmt.Errorf("%s is not a setting of %s://; there is %s", k, t.kind, strings.Join(allowed, ", "))
		}
		if len(t.query[k]) > 1 {
			return t, fmt.Errorf("%s stands twice", k)
		}
	}
	if e := t.query.Get("endpoint"); e != "" {
		if u, err := url.Parse(e); err != nil || u.User != nil || u.RawQuery != "" || u.Host == "" {
			return t, errors.New("endpoint must be the URL of a server, such as https://s3.example.org, and nothing else")
		}
	}
	for _, k := range []string{"tls", "path_style"} {
		if s := t.query.Get(k); s != "" && s != "true" && s != "false" {
			return t, fmt.Errorf("%s must be true or false, not %q", k, s)
		}
	}
	return t, nil
}

// place is where a vault's objects are, whichever library gets at them.
func (t vaultTarget) place() string {
	if t.kind == "dir" {
		if real, err := filepath.EvalSymlinks(t.path); err == nil {
			return "dir:" + real
		}
		return "dir:" + filepath.Clean(t.path)
	}
	host := t.host
	if e, err := url.Parse(t.query.Get("endpoint")); err == nil && e.Host != "" {
		host = e.Host
	}
	return strings.ToLower(host) + "/" + t.bucket + "/" + t.prefix
}

// setting is one value as config show prints it.
type setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// settings lists every value with its source, in the file's order, and where each
// secret that it needs is found.
func (c *config) settings() ([]setting, error) {
	out := []setting{}
	add := func(key, value string) {
		if value != "" {
			out = append(out, setting{key, value, cmp.Or(c.sources[key], "default")})
		}
	}
	found := func(name, vault string) error {
		_, source, err := secret(name, vault)
		if err == nil {
			out = append(out, setting{strings.TrimSuffix(strings.ToLower(name)+" of "+vault, " of "), map[bool]string{true: "not set", false: "set, and not shown"}[source == ""], cmp.Or(source, "nowhere")})
		}
		return err
	}
	add("data", c.Data)
	add("store", c.Store)
	add("store_admin", c.StoreAdmin)
	if !strings.HasPrefix(c.Store, "sqlite:") {
		if err := found("PGPASSWORD", ""); err != nil {
			return nil, err
		}
	}
	for i, v := range c.Vaults {
		add(fmt.Sprintf("vaults[%d].name", i), v.Name)
		add(fmt.Sprintf("vaults[%d].url", i), v.URL)
		if strings.HasPrefix(v.URL, "minio:") {
			if err := errors.Join(found("MINIO_ACCESS_KEY", v.Name), found("MINIO_SECRET_KEY", v.Name)); err != nil {
				return nil, err
			}
		}
	}
	add("keyring", c.Keyring)
	for i, m := range c.Mirrors {
		add(fmt.Sprintf("mirrors[%d]", i), m)
	}
	add("policy.name", c.Policy.Name)
	add("policy.archive_after_days", fmt.Sprint(c.Policy.ArchiveAfterDays))
	add("policy.purge_after_years", fmt.Sprint(c.Policy.PurgeAfterYears))
	add("policy.approval", c.Policy.Approval)
	add("policy.commands", c.Policy.Commands)
	add("audit.actor", c.Audit.Actor)
	add("audit.key", c.Audit.Key)
	add("audit.export_limit", fmt.Sprint(c.Audit.ExportLimit))
	add("audit.backup_retention_days", fmt.Sprint(c.Audit.BackupRetentionDays))
	return out, nil
}
