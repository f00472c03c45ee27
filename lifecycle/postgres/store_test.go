package postgres_test

import (
	"cmp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// hostile are defaults of a server whose administrator had other ideas: nothing
// may depend on them.
var hostile = []string{
	`default_transaction_isolation = 'serializable'`, `synchronous_commit = off`,
	`search_path = nowhere`, `lock_timeout = '2s'`, `timezone = 'Asia/Kathmandu'`, `datestyle = 'SQL, DMY'`, `bytea_output = 'escape'`,
}

func harness(t testing.TB, o postgres.Options) storetest.Harness {
	s, err := postgres.Create(t.Context(), o, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return storetest.Harness{Store: s, Open: func(t testing.TB) lifecycle.Store {
		s, err := postgres.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}, Raw: func(statement string) error {
		conn, err := pgx.Connect(t.Context(), cmp.Or(o.AdminURL, o.URL))
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), `SET search_path = lotkeeper; `+statement)
		return err
	}}
}

func direct(t testing.TB) storetest.Harness {
	return harness(t, postgres.Options{URL: pgtest.New(t, hostile...).URL()})
}

func TestStore(t *testing.T) { storetest.Exercise(t, direct) }

// TestStoreBouncer: the same through PgBouncer in transaction mode, where two
// Stores share four connections of the server, and a few more where a test holds
// many sequences open at once.
func TestStoreBouncer(t *testing.T) {
	if testing.Short() {
		t.Skip("through PgBouncer nothing else runs at once than without it")
	}
	storetest.Exercise(t, func(t testing.TB) storetest.Harness {
		d := pgtest.New(t, hostile...)
		connections := pgtest.Few
		if strings.HasSuffix(t.Name(), "/Iterators") {
			connections = pgtest.Many
		}
		return harness(t, postgres.Options{URL: d.PgBouncer(t, connections), AdminURL: d.URL()})
	})
}

func BenchmarkStore(b *testing.B) {
	storetest.Benchmark(b, func(t testing.TB) storetest.Harness { return harness(t, postgres.Options{URL: pgtest.New(t).URL()}) })
}
