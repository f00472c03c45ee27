package report

import (
	"context"

	"github.com/lotkeeper/lotkeeper/lifecycle"
)

// Aggregates lists the totals that are left of purged records, in order of month, product
// and event type. The trail has who was given them.
func Aggregates(ctx context.Context, e *lifecycle.Engine) ([]lifecycle.Aggregate, error) {
	out, err := e.Store.Aggregates(ctx)
	if err != nil {
		return nil, err
	}
	return out, e.Reported(ctx, "aggregates", lifecycle.Query{}, len(out))
}
