package shred

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// probeID stands in for a record id. The class key wraps a key that is never used, and
// the proof of destruction is that it cannot be unwrapped any more.
const probeID = "lotkeeper/shred/v1/probe"

// Destroy destroys the classes that the permit names, and proves it: it wraps a probe
// under each key that is still there, has the store destroy them, then opens each anew
// and tries the probe. If any class can still be opened it returns ErrStillReadable
// with the class's name. It may be called again after a crash at any point, and then
// finishes what was left; classes destroyed before are proved by the store's answer
// alone, for no probe can be made.
//
// A ClassKey opened earlier keeps working in memory: callers let go of theirs first.
func Destroy(ctx context.Context, ks KeyStore, p Permit, rand io.Reader) (Destruction, error) {
	classes := p.Classes()
	if len(classes) == 0 {
		return Destruction{}, &NotPermitted{Reason: "the permit names no class"}
	}
	probes := make(map[string][]byte, len(classes))
	for _, id := range classes {
		key, err := ks.Open(ctx, id)
		if errors.Is(err, ErrDestroyed) {
			continue // an earlier call got this far
		}
		if err != nil {
			return Destruction{}, fmt.Errorf("couldn't open class %q to probe it: %w", id, err)
		}
		var dek [32]byte
		if _, err := io.ReadFull(rand, dek[:]); err != nil {
			return Destruction{}, fmt.Errorf("couldn't draw a probe for class %q: %w", id, err)
		}
		if probes[id], err = key.Wrap(rand, dek, probeID); err != nil {
			return Destruction{}, err
		}
	}
	// Called also if every class answered ErrDestroyed: the store may have been stopped
	// before it had removed the last copy.
	d, err := ks.Destroy(ctx, p)
	if err != nil {
		return Destruction{}, fmt.Errorf("couldn't destroy %d class keys: %w", len(classes), err)
	}
	for _, id := range classes {
		key, err := ks.Open(ctx, id)
		switch {
		case errors.Is(err, ErrDestroyed):
			continue
		case err != nil:
			return d, fmt.Errorf("couldn't prove that class %q is destroyed: %w", id, err)
		}
		if _, err := key.Unwrap(probes[id], probeID); err == nil {
			return d, fmt.Errorf("class %q: %w: the probe still decrypts", id, ErrStillReadable)
		}
		return d, fmt.Errorf("class %q: %w: the store still opens a key for it", id, ErrStillReadable)
	}
	return d, nil
}
