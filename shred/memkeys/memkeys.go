// Package memkeys is a key store in memory, for the tests of others. It keeps every
// promise of shred.KeyStore but durability.
package memkeys

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/lotkeeper/lotkeeper/shred"
)

// Store is a shred.KeyStore. Make one with New.
type Store struct {
	mu        sync.Mutex // guards what follows
	epoch     uint64
	live      map[string][32]byte
	destroyed map[string]bool
}

var _ shred.KeyStore = (*Store)(nil)

// New returns an empty store at epoch 1.
func New() *Store {
	return &Store{epoch: 1, live: map[string][32]byte{}, destroyed: map[string]bool{}}
}

func (s *Store) Create(ctx context.Context, ids []string) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if err := shred.CheckID(id); err != nil {
			return 0, err
		}
		if s.destroyed[id] {
			return 0, fmt.Errorf("couldn't create class key %q: %w", id, shred.ErrDestroyed)
		}
	}
	changed := false
	for _, id := range ids {
		if _, ok := s.live[id]; ok {
			continue
		}
		var secret [32]byte
		rand.Read(secret[:])
		s.live[id], changed = secret, true
	}
	if changed {
		s.epoch++
	}
	return s.epoch, nil
}

func (s *Store) Open(ctx context.Context, id string) (*shred.ClassKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, ok := s.live[id]
	switch {
	case ok:
		return shred.NewClassKey(id, secret), nil
	case s.destroyed[id]:
		return nil, fmt.Errorf("couldn't open class key %q: %w", id, shred.ErrDestroyed)
	}
	return nil, fmt.Errorf("couldn't open class key %q: %w", id, shred.ErrUnknownKey)
}

func (s *Store) Destroy(ctx context.Context, p shred.Permit) (shred.Destruction, error) {
	if err := ctx.Err(); err != nil {
		return shred.Destruction{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	classes := p.Classes()
	if len(classes) == 0 {
		return shred.Destruction{}, &shred.NotPermitted{Reason: "the permit names no class"}
	}
	for _, id := range classes {
		if _, ok := s.live[id]; !ok && !s.destroyed[id] {
			return shred.Destruction{}, fmt.Errorf("couldn't destroy class key %q: %w", id, shred.ErrUnknownKey)
		}
	}
	changed := false
	for _, id := range classes {
		if _, ok := s.live[id]; ok {
			delete(s.live, id)
			s.destroyed[id], changed = true, true
		}
	}
	if changed {
		s.epoch++
	}
	return shred.Destruction{Epoch: s.epoch}, nil
}

func (s *Store) Status(ctx context.Context) (shred.Status, error) {
	if err := ctx.Err(); err != nil {
		return shred.Status{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return shred.Status{
		Epoch:     s.epoch,
		Live:      slices.Sorted(maps.Keys(s.live)),
		Destroyed: slices.Sorted(maps.Keys(s.destroyed)),
		Copies:    []shred.Copy{{Path: "memory", Epoch: s.epoch}},
	}, nil
}
