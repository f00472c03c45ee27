package postgres

import (
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

var errTODO = errors.New("not yet")

func (s *Store) Sequence(ctx context.Context) (int64, error) { return 0, errTODO }
func (s *Store) LogState(ctx context.Context) (lifecycle.LogState, error) {
	return lifecycle.LogState{}, errTODO
}
func (s *Store) LogLeaves(ctx context.Context, from, to int64) ([]lifecycle.Leaf, error) {
	return nil, errTODO
}
func (s *Store) LogIndex(ctx context.Context, leafID int64) (int64, error) { return 0, errTODO }
func (s *Store) LogHashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	return nil, errTODO
}
func (s *Store) StrayLeaves(ctx context.Context, limit int) (unindexed, gone []int64, err error) {
	return nil, nil, errTODO
}
func (s *Store) Published(ctx context.Context, vault string, size int64) error { return errTODO }
