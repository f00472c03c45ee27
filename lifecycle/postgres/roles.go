package postgres

import (
	"io/fs"
	"strings"
)

// Grants is the SQL that makes the roles and says what each may do, as the migrations
// have it: the one that makes them, and all that came after it.
func Grants() string {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		panic(err) // a misspelt pattern
	}
	var b strings.Builder
	for _, name := range names { // in order
		if name < "migrations/00004_roles.sql" {
			continue
		}
		file, err := migrations.ReadFile(name)
		if err != nil {
			panic(err) // it is compiled in
		}
		up, _, _ := strings.Cut(string(file), "-- +goose Down")
		for line := range strings.Lines(strings.TrimSpace(strings.TrimPrefix(up, "-- +goose Up"))) {
			if !strings.HasPrefix(line, "-- +goose") {
				b.WriteString(line)
			}
		}
		b.WriteString("\n\n")
	}
	return strings.TrimSpace(b.String()) + "\n"
}
