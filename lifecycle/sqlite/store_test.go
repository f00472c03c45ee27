package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/lotkeeper/lotkeeper/lifecycle"
	"github.com/lotkeeper/lotkeeper/lifecycle/sqlite"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

func harness(t testing.TB) storetest.Harness {
	path := filepath.Join(t.TempDir(), "lotkeeper.db")
	s, err := sqlite.Create(t.Context(), path, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return storetest.Harness{Store: s, Open: func(t testing.TB) lifecycle.Store {
		s, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}, Raw: func(statement string) error {
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = db.ExecContext(t.Context(), statement)
		return err
	}}
}

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, harness) }

func TestStore(t *testing.T) { storetest.Exercise(t, harness) }
