package lifecycle

import (
	"context"
)

// SegmentIdentity discloses the age identity that opens one segment and
// nothing else. The leaf that says so is committed first.
func (e *Engine) SegmentIdentity(ctx context.Context, segment string) (string, error) {
	g, err := e.Store.Segment(ctx, segment)
	if err != nil {
		return "", err
	}
	secret, err := e.keyring().secret(ctx, &g)
	if err != nil {
		return "", err
	}
	leaf := e.leaf(e.Now(), ActionIdentityShown, "", g.ID, map[string]any{"object_key": g.ObjectKey, "records": g.Records})
	if err := e.Store.Append(ctx, leaf); err != nil {
		return "", err
	}
	return secret, nil
}
