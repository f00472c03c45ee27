package postgres

import "strings"

// Grants is the SQL that makes the roles and says what each may do, as the migration
// has it.
func Grants() string {
	file, err := migrations.ReadFile("migrations/00004_roles.sql")
	if err != nil {
		panic(err) // it is compiled in
	}
	up, _, _ := strings.Cut(string(file), "-- +goose Down")
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(strings.TrimPrefix(up, "-- +goose Up"))) {
		if !strings.HasPrefix(line, "-- +goose") {
			b.WriteString(line)
		}
	}
	return b.String() + "\n"
}
