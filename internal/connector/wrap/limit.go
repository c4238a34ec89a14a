package wrap

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/time/rate"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// RateLimit returns a connector whose calls to the platform wait for l. A call
// that would have to wait for longer than its context lasts is not sent and is
// transient. l may be shared by connectors to one platform.
func RateLimit(c connector.Connector, l *rate.Limiter) connector.Connector {
	return intercept(c, func(ctx context.Context, call Call, next func(context.Context) error) error {
		if err := l.Wait(ctx); err != nil {
			// Wait gives up at once where the deadline is too near.
			if ctx.Err() == nil {
				err = errors.Join(err, context.DeadlineExceeded)
			}
			return staunch.Transient(fmt.Errorf("waiting for the rate limit to %s %s: %w", call.Method, call.Key, err))
		}
		return next(ctx)
	})
}
