package postgres

import (
	"io/fs"
	"strings"
)

// Grants is the SQL that makes the roles and says what each may do: the migration that
// makes them, and of those after it what they grant.
func Grants() string {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		panic(err) // a misspelt pattern
	}
	const roles = "migrations/00004_roles.sql"
	var b strings.Builder
	for _, name := range names { // in order
		if name < roles {
			continue
		}
		file, err := migrations.ReadFile(name)
		if err != nil {
			panic(err) // it is compiled in
		}
		up, _, _ := strings.Cut(string(file), "-- +goose Down")
		granting := name == roles
		up = strings.TrimSpace(strings.TrimPrefix(up, "-- +goose Up")) + "\n"
		for line := range strings.Lines(up) {
			if name != roles && !granting {
				granting = strings.HasPrefix(line, "GRANT ") || strings.HasPrefix(line, "CREATE POLICY ")
			}
			if granting && !strings.HasPrefix(line, "-- +goose") {
				b.WriteString(line)
			}
			if name != roles && strings.HasSuffix(line, ";\n") {
				granting = false
			}
		}
	}
	return strings.TrimSpace(b.String()) + "\n"
}
