package integration

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
)

var (
	databaseRoles = []string{"ingest", "sweeper", "recall", "auditor", "export", "admin"}
	readingRoles  = databaseRoles[1:]
)

// permitted is which roles may type which command: docs/roles.md has the same as a
// table. HOLD, OTHER, RUN and SEGMENT stand for ids.
var permitted = []struct {
	title, args string
	roles       []string
}{
	{"ingest", "ingest records.jsonl", []string{"ingest"}},
	{"sweep", "sweep", []string{"sweeper"}},
	{"sweep --accept-clock", "sweep --accept-clock", nil},
	{"sweep --dry-run", "sweep --dry-run", readingRoles},
	{"record show", "record show old", readingRoles},
	{"record show --line", "record show old --line", []string{"export"}},
	{"record list", "record list", readingRoles},
	{"trace", "trace L-OLD", readingRoles},
	{"hold place", "hold place --lot L-OLD --kind recall --reason r --reference NEW", []string{"recall"}},
	{"hold place --dry-run", "hold place --lot L-OLD --kind recall --reason r --dry-run", readingRoles},
	{"hold extend", "hold extend HOLD --lot L-YOUNG", []string{"recall"}},
	{"hold release", "hold release OTHER --reason over", []string{"recall"}},
	{"hold list", "hold list", readingRoles},
	{"hold show", "hold show HOLD", readingRoles},
	{"run list", "run list", databaseRoles},
	{"run show", "run show RUN", databaseRoles},
	{"report checksums", "report checksums", readingRoles},
	{"report aggregates", "report aggregates", readingRoles},
	{"verify", "verify", []string{"sweeper", "export"}},
	{"reconcile", "reconcile", readingRoles},
	{"export", "export", []string{"export"}},
	{"shred status", "shred status", readingRoles},
	{"shred identity", "shred identity SEGMENT", []string{"export"}},
	{"receipt list", "receipt list", databaseRoles},
	{"receipt show", "receipt show hot-2024-09-13-1", readingRoles},
	{"receipt issue", "receipt issue hot-2024-09-13-1", []string{"auditor"}},
	{"policy apply", "policy apply policy.yaml", []string{"admin"}},
	{"trigger set", "trigger set fiscal_year_end 2026-12-31 --reason test", []string{"admin"}},
	{"trigger list", "trigger list", databaseRoles},
	{"policy show", "policy show", databaseRoles},
	{"policy history", "policy history", databaseRoles},
	{"policy simulate", "policy simulate policy.yaml", readingRoles},
	{"vault list", "vault list", databaseRoles},
	{"vault add", "vault add second", []string{"admin"}},
	{"vault sync", "vault sync second", []string{"sweeper"}},
	{"vault retire", "vault retire second", []string{"admin"}},
	{"doctor", "doctor", databaseRoles},
	{"audit log", "audit log", databaseRoles},
	{"audit verify", "audit verify", readingRoles},
	{"audit proof", "audit proof old", readingRoles},
	{"audit checkpoint", "audit checkpoint", []string{"ingest", "sweeper", "recall", "admin"}},
	{"init, of what is there", "init", databaseRoles},
}

// manned is a data directory on PostgreSQL, for which commands are typed by the users
// of a site.
type manned struct {
	*shell
	d     *pgtest.Database
	owner []string // what the owner has for an environment
}

func newManned(t *testing.T) *manned {
	t.Helper()
	d := pgtest.New(t)
	m := &manned{shell: newShell(t), d: d}
	m.env = []string{"LOTKEEPER_CONFIG=" + m.file("lotkeeper.yaml",
		"data: data\nstore: "+d.URL()+"\nvaults:\n  - {name: first, url: 'dir:first'}\n  - {name: second, url: 'dir:second'}\n")}
	m.owner = m.env
	m.file("policy.yaml", "version: 1\nname: p\nrules: [{name: r, citation: c, action: archive_then_shred}]\n")
	m.file("records.jsonl", `{"record_id":"old","traceability_lot_code":"L-OLD","event_timestamp":"2022-09-14T08:30:00Z","kde_payload":{"a":1}}
{"record_id":"young","traceability_lot_code":"L-YOUNG","event_timestamp":"2199-09-14T08:30:00Z","kde_payload":{"a":1},"retention_hold":true}
`)
	m.run(0, "init")
	return m
}

// as makes a user with the roles, who types from here on.
func (m *manned) as(roles ...string) {
	m.t.Helper()
	var names []string
	for _, r := range roles {
		names = append(names, "lotkeeper_"+r)
	}
	m.env = append(slices.Clone(m.owner), "LOTKEEPER_STORE="+m.d.As(m.t, names...))
}

// TestRolesOfCommands types every command as a user of every role.
func TestRolesOfCommands(t *testing.T) {
	t.Parallel()
	m := newManned(t)
	m.run(0, "ingest", "records.jsonl")
	swept := m.object(0, "sweep")
	ids := strings.NewReplacer(
		"HOLD", m.object(0, "hold", "place", "--lot", "L-OLD", "--kind", "recall", "--reason", "r")["hold_id"].(string),
		"OTHER", m.object(0, "hold", "place", "--lot", "L-OLD", "--kind", "litigation", "--reason", "r")["hold_id"].(string),
		"RUN", swept["run_id"].(string),
		"SEGMENT", m.array(0, "report", "checksums", "--lot", "L-OLD")[0]["segment"].(string))
	help := map[string]string{} // the role that a command names
	for _, c := range permitted {
		args := strings.Fields(ids.Replace(c.args))
		// Those who may not come first, when there is still something to do.
		order := slices.Clone(databaseRoles)
		slices.SortStableFunc(order, func(a, b string) int {
			return cmp.Compare(slices.Index(c.roles, a), slices.Index(c.roles, b))
		})
		for _, role := range order {
			m.as(role, "unmask") // which gives no right of its own
			p := m.start(args...)
			<-p.ended
			code, messages := p.ProcessState.ExitCode(), p.messages.String()
			switch may := slices.Contains(c.roles, role); {
			case may && code != 0 && (code != 3 || c.title != "doctor"):
				t.Errorf("%s may not %s: %d\n%s", role, c.title, code, messages)
			case !may && (code != 6 || !strings.Contains(messages, "needs the database role lotkeeper_") || !strings.Contains(messages, "run: GRANT lotkeeper_")):
				t.Errorf("%s is not refused %s: %d\n%s", role, c.title, code, messages)
			case !may && p.out.Len() > 0:
				t.Errorf("%s is refused %s and sees %s", role, c.title, &p.out)
			}
		}
		command := strings.Split(c.title, " --")[0]
		if help[command] == "" {
			_, after, _ := strings.Cut(m.run(0, append(strings.Fields(strings.Split(command, ",")[0]), "--help")...), "\nRole on PostgreSQL: lotkeeper_")
			help[command], _, _ = strings.Cut(after, "\n")
		}
		if command == c.title && !slices.Contains(c.roles, help[command]) {
			t.Errorf("the help of %s names the role %q", c.title, help[command])
		}
	}
	// A user of no role is told so too.
	m.as()
	if _, messages := m.both(6, "record", "list"); !strings.Contains(messages, "needs the database role lotkeeper_auditor") {
		t.Errorf("without a role: %s", messages)
	}
	m.as("sweeper", "admin")
	m.run(0, "sweep", "--accept-clock")
	m.env = m.owner
	m.run(0, "verify")
}

// The page has the same table.
func TestRolesPage(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "| command | %s |\n|---|%s\n", strings.Join(databaseRoles, " | "), strings.Repeat("---|", len(databaseRoles)))
	for _, c := range permitted {
		fmt.Fprintf(&table, "| %s |", c.title)
		for _, r := range databaseRoles {
			table.WriteString(map[bool]string{true: " yes |", false: " |"}[slices.Contains(c.roles, r)])
		}
		table.WriteString("\n")
	}
	page, err := os.ReadFile("../docs/roles.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), table.String()) {
		t.Errorf("docs/roles.md does not have\n%s", table.String())
	}
}

// TestKeyringRecoveryByRole: nothing is destroyed for one who could not finish.
func TestKeyringRecoveryByRole(t *testing.T) {
	t.Parallel()
	m := newManned(t)
	m.run(0, "ingest", "records.jsonl")
	keyring := filepath.Join(m.dir, "data", "keyring")
	older := filepath.Join(m.dir, "older")
	if err := os.CopyFS(older, os.DirFS(keyring)); err != nil {
		t.Fatal(err)
	}
	m.run(0, "sweep")
	if err := os.RemoveAll(keyring); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(older, keyring); err != nil {
		t.Fatal(err)
	}
	if err := filepath.Walk(keyring, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			err = os.Chmod(path, map[bool]os.FileMode{true: 0o700, false: 0o600}[info.IsDir()])
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before := m.run(3, "shred", "status")
	for _, roles := range [][]string{{"sweeper"}, {"admin"}, {"auditor"}} {
		m.as(roles...)
		m.run(6, "shred", "recover")
		if after := m.run(3, "shred", "status"); after != before {
			t.Errorf("%s has changed the keyring from\n%s\nto\n%s", roles, before, after)
		}
	}
	m.as("sweeper", "admin")
	if got := m.object(0, "shred", "recover"); len(got["destroyed_again"].([]any)) == 0 {
		t.Errorf("recovered: %v", got)
	}
	m.as("sweeper")
	m.run(0, "sweep")
}

// TestLeastPrivilege: on a server whose roles somebody else has made, init by two users
// who are no superusers, the schema's and the administrator's, and no command needs
// more than its role.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	d := server.New(t)
	super, err := pgx.Connect(t.Context(), d.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(t.Context())
	exec := func(sql string) {
		t.Helper()
		if _, err := super.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(`CREATE ROLE schema_user LOGIN; CREATE ROLE admin_user LOGIN; CREATE ROLE sweeper_user LOGIN; ALTER DATABASE ` + d.Name + ` OWNER TO schema_user`)
	as := func(user string) string {
		u, err := url.Parse(d.URL())
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.User(user)
		return u.String()
	}
	s := newShell(t)
	s.env = []string{"LOTKEEPER_STORE=" + as("admin_user"), "LOTKEEPER_STORE_ADMIN=" + as("schema_user")}
	// The roles are not there, and may not be made: what to run is said, and does it.
	_, messages := s.both(6, "init")
	_, sql, _ := strings.Cut(messages, "have somebody who may create roles run: ")
	if strings.Count(sql, "CREATE ROLE lotkeeper_") != 8 {
		t.Fatalf("init says\n%s", messages)
	}
	exec(sql)
	exec(`GRANT lotkeeper_admin TO admin_user; GRANT lotkeeper_sweeper TO sweeper_user`)
	s.run(0, "init")
	for _, kind := range []string{"r", "p", "S"} {
		var others int
		if err := super.QueryRow(t.Context(), `SELECT count(*) FROM pg_class WHERE relnamespace = 'lotkeeper'::regnamespace AND relkind = $1 AND relowner <> 'lotkeeper_owner'::regrole`, kind).Scan(&others); err != nil || others > 0 {
			t.Errorf("%d of kind %s are not the owner's, %v", others, kind, err)
		}
	}
	// The schema's user can go on to change it: he has the owner's rights.
	schema, err := pgx.Connect(t.Context(), as("schema_user"))
	if err != nil {
		t.Fatal(err)
	}
	defer schema.Close(t.Context())
	if _, err := schema.Exec(t.Context(), `BEGIN; ALTER TABLE lotkeeper.records ADD COLUMN later text; CREATE TABLE lotkeeper.later (n integer);
		CREATE OR REPLACE FUNCTION lotkeeper.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; GRANT SELECT ON lotkeeper.records TO lotkeeper_ingest; ROLLBACK`); err != nil {
		t.Errorf("schema_user cannot migrate any more: %v", err)
	}
	// Nobody else needs that.
	s.env = []string{"LOTKEEPER_STORE=" + as("sweeper_user")}
	s.run(0, "sweep")
	exec(`DELETE FROM lotkeeper.goose_db_version WHERE version_id >= 4`)
	if _, messages := s.both(6, "sweep"); !strings.Contains(messages, "sweeper_user may not do") || !strings.Contains(messages, "store_admin") {
		t.Errorf("with a schema that is behind: %s", messages)
	}
}

// TestPrintGrants: without any database, and what is printed is what init does.
func TestPrintGrants(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	out := s.run(0, "init", "--print-grants")
	files, err := filepath.Glob("../lifecycle/postgres/migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	var migration []byte
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		migration = append(migration, b...)
	}
	for line := range strings.Lines(out) {
		if !strings.Contains(string(migration), line) {
			t.Errorf("it prints %q", line)
		}
	}
	if strings.Count(out, "GRANT ") < 30 || strings.Contains(out, "+goose") || strings.Contains(out, "no way back") {
		t.Errorf("it prints\n%s", out)
	}
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) > 0 {
		t.Errorf("it has made %v, %v", entries, err)
	}
}
