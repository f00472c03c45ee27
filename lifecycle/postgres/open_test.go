package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/lotkeeper/lotkeeper/integration/pgtest"
	"github.com/lotkeeper/lotkeeper/lifecycle/postgres"
	"github.com/lotkeeper/lotkeeper/lifecycle/storetest"
)

func TestCreateAndOpen(t *testing.T) {
	d := pgtest.New(t)
	o := postgres.Options{URL: d.URL()}
	if _, err := postgres.Open(t.Context(), o); !errors.Is(err, postgres.ErrNotCreated) {
		t.Errorf("opened an empty database: %v", err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := postgres.Create(done, o, 0, storetest.Init()); !errors.Is(err, context.Canceled) {
		t.Errorf("created with a context that is done: %v", err)
	}
	// Four at once: one creates, the others find it created.
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			s, err := postgres.Create(t.Context(), o, uint64(i), storetest.Init())
			if err == nil {
				err = s.Close()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case !errors.Is(err, postgres.ErrExists):
			t.Errorf("one of four at once: %v", err)
		}
	}
	s, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := s.Info(t.Context()); err != nil || info.Epoch != uint64(winner) {
		t.Errorf("%+v, %v, want epoch %d", info, err, winner)
	}
	s.Close()

	// Cut off after the tables: as good as nothing, and finished by the next one.
	conn := raw(t, d)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`ALTER TABLE lotkeeper.meta DISABLE TRIGGER meta_kept; DELETE FROM lotkeeper.meta; ALTER TABLE lotkeeper.meta ENABLE ALWAYS TRIGGER meta_kept`)
	if _, err := postgres.Open(t.Context(), o); !errors.Is(err, postgres.ErrNotCreated) {
		t.Errorf("opened what was never finished: %v", err)
	}
	if s, err = postgres.Create(t.Context(), o, 7, storetest.Init()); err != nil {
		t.Fatal(err)
	}
	s.Close()

	exec(`INSERT INTO lotkeeper.goose_db_version (version_id, is_applied) VALUES (99, true)`)
	if _, err := postgres.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "use a newer lotkeeper") {
		t.Errorf("opened a newer schema: %v", err)
	}
}

func TestOtherServers(t *testing.T) {
	d := pgtest.New(t)
	s, err := postgres.Create(t.Context(), postgres.Options{URL: d.URL()}, 0, storetest.Init())
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	standby := pgtest.Standby(t, d)
	for _, o := range []postgres.Options{{URL: standby}, {URL: standby, AdminURL: d.URL()}, {URL: d.URL(), AdminURL: standby}} {
		if _, err := postgres.Open(t.Context(), o); !errors.Is(err, postgres.ErrStandby) {
			t.Errorf("opened a standby: %v", err)
		}
	}
	// Migrated here, to be written there.
	other := pgtest.New(t)
	if _, err := postgres.Create(t.Context(), postgres.Options{URL: other.URL(), AdminURL: d.URL()}, 0, storetest.Init()); err == nil {
		t.Error("created over two databases")
	}
	conn := raw(t, d)
	if _, err := conn.Exec(t.Context(), `CREATE DATABASE lotkeeper_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'`); err != nil {
		t.Fatal(err)
	}
	latin := pgtest.Database{Name: "lotkeeper_latin"}
	if _, err := postgres.Create(t.Context(), postgres.Options{URL: latin.URL()}, 0, storetest.Init()); err == nil || !strings.Contains(err.Error(), "UTF8") {
		t.Errorf("created in LATIN1: %v", err)
	}
}

// TestPassword: no error says it, whatever is wrong.
func TestPassword(t *testing.T) {
	d := pgtest.New(t)
	with := func(raw string) string {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("nobody", "s3cret")
		return u.String()
	}
	for _, u := range []string{
		with(d.URL()), "postgres://u:s3cret@127.0.0.1:1/x", "postgres://u:s3cret@no-such-host.invalid/x", "postgres://u:s3cret%@h/x", "postgres://u:s3cret@h:port/x",
		"postgres://u:s3cret@h/x?sslmode=s3cret", "host=h password=s3cret port=x", "host=h password='s3cret", "password = s3cret =", "s3cret", "postgres://u:s3#cret@h/x",
	} {
		for _, o := range []postgres.Options{{URL: u}, {URL: u, AdminURL: d.URL()}, {URL: d.URL(), AdminURL: u}} {
			_, err := postgres.Create(t.Context(), o, 0, storetest.Init())
			if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "cret@") {
				t.Errorf("%s: %v", u, err)
			}
		}
	}
}
