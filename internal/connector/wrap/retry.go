package wrap

import (
	"context"
	"errors"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// RetryOptions bound retries. The zero value means the defaults.
type RetryOptions struct {
	// Attempts is how often a call is made at most, the first included; default 3.
	Attempts int
	// Delay is the pause after the first attempt, doubled with each and varied by
	// up to a quarter; default 50 ms.
	Delay time.Duration
	// MostDelay bounds the pauses; default 1 s.
	MostDelay time.Duration
}

// Retry returns a connector that makes calls again whose error is transient,
// which is to say that nothing was changed. Nothing else is made again: an
// outcome that is unknown has to be read first, by core.
func Retry(c connector.Connector, o RetryOptions) connector.Connector {
	if o.Attempts <= 0 {
		o.Attempts = 3
	}
	if o.Delay <= 0 {
		o.Delay = 50 * time.Millisecond
	}
	if o.MostDelay <= 0 {
		o.MostDelay = time.Second
	}
	if o.MostDelay <= o.Delay { // the library wants room to grow
		o.MostDelay = o.Delay + 1
	}
	return intercept(c, func(ctx context.Context, _ Call, next func(context.Context) error) error {
		var last error
		policy := retrypolicy.NewBuilder[any]().
			HandleIf(func(_ any, err error) bool {
				return err != nil && staunch.ClassOf(err) == staunch.ClassTransient && ctx.Err() == nil
			}).
			WithMaxAttempts(o.Attempts).
			WithBackoff(o.Delay, o.MostDelay).
			WithJitterFactor(0.25).
			ReturnLastFailure().
			Build()
		err := failsafe.With(policy).WithContext(ctx).Run(func() error {
			last = next(ctx)
			return last
		})
		if err == nil || errors.Is(err, last) && last != nil {
			return err
		}
		// The context ended in a pause: the last attempt changed nothing.
		return staunch.Transient(errors.Join(err, last))
	})
}
