package postgres_test

import (
	"net/url"
	"testing"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

// Once there is a role lotkeeper_unmask, its members may unmask, and superusers, who
// are members of every role; nobody else. Before that, everybody may. On a server of
// its own, since roles are the whole server's.
func TestMayUnmask(t *testing.T) {
	d := pgtest.NewServer(t).New(t)
	o := postgres.Options{URL: d.URL()}
	owner, err := postgres.Create(t.Context(), o, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	conn := raw(t, d)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`DROP ROLE IF EXISTS lotkeeper_unmask`)
	exec(`CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA lotkeeper TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA lotkeeper TO reader`)
	u, err := url.Parse(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("reader")
	reader, err := postgres.Open(t.Context(), postgres.Options{URL: u.String(), AdminURL: d.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, step := range []struct {
		sql  string
		want bool
	}{
		{`SELECT 1`, true},
		{`CREATE ROLE lotkeeper_unmask NOLOGIN`, false},
		{`GRANT lotkeeper_unmask TO reader`, true},
		{`REVOKE lotkeeper_unmask FROM reader`, false},
		{`CREATE ROLE auditors NOLOGIN; GRANT lotkeeper_unmask TO auditors; GRANT auditors TO reader`, true},
	} {
		exec(step.sql)
		if may, err := reader.MayUnmask(t.Context()); err != nil || may != step.want {
			t.Errorf("%s: reader may unmask: %v, %v", step.sql, may, err)
		}
		if may, err := owner.MayUnmask(t.Context()); err != nil || !may {
			t.Errorf("%s: a superuser may unmask: %v, %v", step.sql, may, err)
		}
	}
}
