package lifecycle

import (
	"context"
)

// SegmentIdentity discloses the age identity that opens one segment and
// nothing else. The leaf that says so is committed first. Whoever may not see what
// names people is refused: a segment cannot be masked.
func (e *Engine) SegmentIdentity(ctx context.Context, segment string) (string, error) {
	g, err := e.Store.Segment(ctx, segment)
	if err != nil {
		return "", err
	}
	may, err := e.Store.MayUnmask(ctx)
	if err != nil {
		return "", err
	}
	if !may {
		return "", &Refused{"unmask", "whoever opens segment " + g.ID + " sees all that is in it, and this role may not see what names people",
			"have an administrator grant the role lotkeeper_unmask"}
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
