package sqlite

import (
	"context"

	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// TODO: to be written.

func (s *Store) Extend(ctx context.Context, id string, scopes []lifecycle.Scope, leaf lifecycle.Leaf) error {
	panic("TODO")
}
func (s *Store) Detail(ctx context.Context, r lifecycle.Reach, limit int) (lifecycle.Detail, error) {
	panic("TODO")
}
func (s *Store) TooLate(ctx context.Context, r lifecycle.Reach) ([]lifecycle.Late, error) {
	panic("TODO")
}
func (s *Store) Links(ctx context.Context, lots []cte.Lot, forward bool) ([]lifecycle.Link, error) {
	panic("TODO")
}
func (s *Store) ScopeLots(ctx context.Context, sc lifecycle.Scope) ([]cte.Lot, error) { panic("TODO") }
func (s *Store) TraceHolds(ctx context.Context) error                                 { return nil }
func (s *Store) HeldCopies(ctx context.Context, r lifecycle.Reach) ([]lifecycle.HeldCopy, error) {
	return nil, nil
}
func (s *Store) LegalHolds(ctx context.Context) ([]lifecycle.HeldCopy, error) { return nil, nil }
func (s *Store) MoveLegalHold(ctx context.Context, segment, vault string, from, to lifecycle.LegalState, leaf lifecycle.Leaf) error {
	panic("TODO")
}
func (s *Store) Coverage(ctx context.Context, r lifecycle.Reach) (lifecycle.Coverage, error) {
	return lifecycle.Coverage{}, nil
}
