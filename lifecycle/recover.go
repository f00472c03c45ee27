package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"

	"github.com/lotkeeper/lotkeeper/archive"
	"github.com/lotkeeper/lotkeeper/cte"
	"github.com/lotkeeper/lotkeeper/shred"
)

// recover finishes the segments that an earlier run left, with the functions
// that would have finished them then.
//
//	staged    put what is missing, read back and verify, go on as verified;
//	          or abandon it, if no vault has all of it
//	verified  read back once more, soft-delete, settle
func (s *sweep) recover(ctx context.Context) error {
	left, err := s.Store.Segments(ctx, Staged, Verified)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		return nil
	}
	dead, err := s.classesIn(ctx, Executing, Destroyed)
	if err != nil {
		return err
	}
	for i := range left {
		g := &left[i]
		if dead[g.Class] {
			continue // it is being purged
		}
		s.Log.Info().Str("segment", g.ID).Str("state", string(g.State)).Str("left_by", g.RunID).Msg("finishing a segment")
		err := s.recoverSegment(ctx, g)
		switch {
		case err == nil:
		case errors.Is(err, errMismatch) && g.State == Staged:
			// It never counted. Its records are all hot and go into another.
			if err := s.abandon(ctx, g, err.Error()); err != nil {
				return err
			}
		case errors.Is(err, errMismatch):
			// It did count, and a vault has lost it since. What of it is still
			// hot is archived anew below; what is not, only verify and a person
			// can help. The run goes on, and fails.
			s.Log.Error().Str("segment", g.ID).Err(err).Msg("a verified segment is no longer what it was; run: lotkeeper verify")
			s.errors++
			s.damaged = append(s.damaged, g.ID)
		default:
			return fmt.Errorf("couldn't finish segment %s, left by %s: %w", g.ID, g.RunID, err)
		}
	}
	return nil
}

func (s *sweep) recoverSegment(ctx context.Context, g *Segment) error {
	identity, err := s.keys.identity(ctx, g)
	if errors.Is(err, shred.ErrAuthentication) {
		return fmt.Errorf("%w: %w", errMismatch, err)
	}
	if err != nil {
		return err
	}
	var anywhere []source
	for _, v := range s.vaults {
		anywhere = append(anywhere, source{vault: v})
	}
	manifest, err := s.fetch(ctx, anywhere, g.ManifestKey, g.ManifestSHA256, g.ManifestSize)
	if err != nil {
		return err
	}
	var object []byte
	if manifest != nil && g.State == Staged {
		if object, err = s.fetch(ctx, anywhere, g.ObjectKey, g.ObjectSHA256, g.ObjectSize); err != nil {
			return err
		}
	}
	if g.State == Verified && manifest == nil {
		return fmt.Errorf("no vault gives back the manifest %s: %w", g.ManifestKey, errMismatch)
	}
	if g.State == Staged && (manifest == nil || object == nil) {
		return s.abandon(ctx, g, "no vault has all of it")
	}
	m, err := archive.ParseManifest(manifest)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", g.ManifestKey, err)
	}
	if g.State == Staged {
		if _, err := s.members(ctx, m.Entries); errors.Is(err, errChecksum) {
			// Somebody else archived or changed one of its records since.
			return s.abandon(ctx, g, err.Error())
		} else if err != nil {
			return err
		}
		s.lockFor(g, s.now) // it may have been staged long ago
		copies, err := s.put(ctx, g, object, manifest)
		if err != nil {
			return err
		}
		if err := s.verify(ctx, g, copies, m.Entries, identity); err != nil {
			return err
		}
	} else {
		// It was verified, but that was another day: the copies that count must
		// stand now. One that was retired meanwhile may be gone.
		for _, v := range s.vaults {
			i := slices.IndexFunc(g.Copies, func(c Copy) bool { return c.Vault == v.Name() })
			if i < 0 {
				return fmt.Errorf("no copy in vault %s is recorded: %w", v.Name(), errMismatch)
			}
			if err := checkCopy(ctx, v, g, g.Copies[i], m.Entries, identity); err != nil {
				return err
			}
		}
	}
	members := make([]Member, len(m.Entries))
	for i, en := range m.Entries {
		sum, err := parseHex(en.Checksum)
		if err != nil {
			return err
		}
		members[i] = Member{en.RecordID, sum}
	}
	n, err := s.settle(ctx, g, members)
	s.res.Recovered += n
	return err
}

func (s *sweep) abandon(ctx context.Context, g *Segment, why string) error {
	s.Log.Warn().Str("segment", g.ID).Str("reason", why).Msg("abandoning a segment that was never finished; its records are still hot")
	return s.Store.AbandonSegment(ctx, s.lease, g.ID, s.leaf(s.Now(), ActionAbandoned, s.lease.RunID, g.ID, map[string]any{
		"reason": why, "object_key": g.ObjectKey, "manifest_key": g.ManifestKey}))
}

// source is where an object may be: the current version if version is empty.
type source struct {
	vault   archive.Vault
	version string
}

// fetch reads an object whole from the first source that has exactly the bytes
// wanted; nil if none has. A source that cannot be asked is an error only if no
// other has them.
func (e *Engine) fetch(ctx context.Context, from []source, key string, sum [32]byte, size int64) ([]byte, error) {
	var faults []error
	for _, f := range from {
		b, err := get(ctx, f, key, size+1)
		switch {
		case errors.Is(err, archive.ErrNotFound):
		case err != nil:
			faults = append(faults, fmt.Errorf("couldn't get %s from vault %s: %w", key, f.vault.Name(), err))
		case cte.Checksum(b) == sum:
			return b, nil
		default:
			e.Log.Warn().Str("vault", f.vault.Name()).Str("key", key).Msg("the object in the vault is not the one that was put there")
		}
	}
	return nil, errors.Join(faults...)
}

// get reads at most max bytes of an object.
func get(ctx context.Context, f source, key string, max int64) ([]byte, error) {
	r, _, err := f.vault.Get(ctx, key, f.version)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, max))
}

// identity unwraps a segment's age identity.
func (k *keyring) identity(ctx context.Context, g *Segment) (age.Identity, error) {
	secret, err := k.secret(ctx, g)
	if err != nil {
		return nil, err
	}
	identity, _, err := archive.ParseIdentity(secret)
	if err != nil {
		return nil, fmt.Errorf("the identity of segment %s does not parse: %w", g.ID, err)
	}
	return identity, nil
}

func (k *keyring) secret(ctx context.Context, g *Segment) (string, error) {
	if g.WrappedIdentity == nil {
		return "", fmt.Errorf("couldn't read the wrapped identity of segment %s: %w", g.ID, ErrDenied)
	}
	key, err := k.key(ctx, g.Class)
	if err != nil {
		return "", err
	}
	secret, err := key.UnwrapSecret(g.WrappedIdentity, identityLabel(g.ID))
	if err != nil {
		return "", fmt.Errorf("couldn't unwrap the identity of segment %s: %w", g.ID, err)
	}
	return string(secret), nil
}
