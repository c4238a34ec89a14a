// Package wrap adds to a connector what no connector does itself: dry run,
// retry, rate limit, fault injection and metrics. Each wrapper is a connector
// with the same optional abilities (connector.Prober, Health, Own) as the one
// that it wraps, no more and no fewer.
//
// The order from the outside in is Metrics, Retry, RateLimit, Faults, the
// connector: what people see is the whole call, every attempt counts against
// the limit, and injected faults are retried like real ones. DryRun goes around
// everything that could reach the platform to change it.
package wrap

import (
	"context"
	"fmt"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// Method is a method of a connector that reaches the platform.
type Method string

// The methods that reach the platform.
const (
	MethodExpand Method = "expand"
	MethodRead   Method = "read"
	MethodProof  Method = "proof"
	MethodApply  Method = "apply"
	MethodRevert Method = "revert"
	MethodProbe  Method = "probe"
)

// Mutates reports whether the method changes the platform.
func (m Method) Mutates() bool { return m == MethodApply || m == MethodRevert }

// Call is one call of a connector, for those who decide about it.
type Call struct {
	Method Method
	// Key tells calls of a method apart: the intent's key, or the target or
	// subject that is read.
	Key string
	// Verb is empty for reads and expansions.
	Verb staunch.Verb
}

// around runs next, or does not, and returns the call's error.
type around func(ctx context.Context, call Call, next func(context.Context) error) error

// intercepted runs every call that reaches the platform through around.
type intercepted struct {
	connector.Connector
	around around
}

func intercept(c connector.Connector, a around) connector.Connector {
	i := &intercepted{Connector: c, around: a}
	var p connector.Prober
	if inner, ok := c.(connector.Prober); ok {
		p = &interceptedProber{inner: inner, around: a}
	}
	return like(c, i, p)
}

// like returns w with the optional abilities of c, its Prober replaced by p.
func like(c, w connector.Connector, p connector.Prober) connector.Connector {
	h, isHealth := c.(connector.Health)
	o, isOwn := c.(connector.Own)
	switch {
	case p != nil && isHealth && isOwn:
		return struct {
			connector.Connector
			connector.Prober
			connector.Health
			connector.Own
		}{w, p, h, o}
	case p != nil && isHealth:
		return struct {
			connector.Connector
			connector.Prober
			connector.Health
		}{w, p, h}
	case p != nil && isOwn:
		return struct {
			connector.Connector
			connector.Prober
			connector.Own
		}{w, p, o}
	case isHealth && isOwn:
		return struct {
			connector.Connector
			connector.Health
			connector.Own
		}{w, h, o}
	case p != nil:
		return struct {
			connector.Connector
			connector.Prober
		}{w, p}
	case isHealth:
		return struct {
			connector.Connector
			connector.Health
		}{w, h}
	case isOwn:
		return struct {
			connector.Connector
			connector.Own
		}{w, o}
	default:
		return w
	}
}

// Expand passes the call through around.
func (i *intercepted) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	return run(ctx, i.around, Call{Method: MethodExpand, Key: req.Subject.String()}, func(ctx context.Context) (connector.Expansion, error) {
		return i.Connector.Expand(ctx, req)
	})
}

// Read passes the call through around.
func (i *intercepted) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	m := MethodRead
	if proof {
		m = MethodProof
	}
	return run(ctx, i.around, Call{Method: m, Key: t.String()}, func(ctx context.Context) (staunch.State, error) {
		return i.Connector.Read(ctx, t, proof)
	})
}

// Apply passes the call through around.
func (i *intercepted) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return run(ctx, i.around, Call{Method: MethodApply, Key: in.Key, Verb: in.Verb}, func(ctx context.Context) (staunch.Receipt, error) {
		return i.Connector.Apply(ctx, in)
	})
}

// Revert passes the call through around.
func (i *intercepted) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return run(ctx, i.around, Call{Method: MethodRevert, Key: in.Key, Verb: in.Verb}, func(ctx context.Context) (staunch.Receipt, error) {
		return i.Connector.Revert(ctx, in)
	})
}

type interceptedProber struct {
	inner  connector.Prober
	around around
}

// Probe passes the call through around.
func (i *interceptedProber) Probe(ctx context.Context, in staunch.Intent) (connector.Probe, error) {
	return run(ctx, i.around, Call{Method: MethodProbe, Key: in.Key, Verb: in.Verb}, func(ctx context.Context) (connector.Probe, error) {
		return i.inner.Probe(ctx, in)
	})
}

// run makes a call with a result from one without; an error has no result.
func run[R any](ctx context.Context, a around, call Call, next func(context.Context) (R, error)) (R, error) {
	var got, none R
	err := a(ctx, call, func(ctx context.Context) error {
		r, err := next(ctx)
		if err != nil {
			r = none
		}
		got = r
		return err
	})
	if err != nil {
		return none, err
	}
	return got, nil
}

// DryRun returns a connector that reads and prepares and never changes
// anything: Apply and Revert answer what they would have done. why names the
// reason in the receipts, such as "dry run".
func DryRun(c connector.Connector, clock staunch.Clock, why string) connector.Connector {
	d := &dryRun{Connector: c, clock: clock, why: why}
	p, _ := c.(connector.Prober)
	return like(c, d, p)
}

// InMode returns c itself in mode enforce, and otherwise a dry run that names
// the mode.
func InMode(c connector.Connector, m staunch.Mode, clock staunch.Clock) connector.Connector {
	if m == staunch.ModeEnforce {
		return c
	}
	return DryRun(c, clock, "mode "+m.String())
}

type dryRun struct {
	connector.Connector
	clock staunch.Clock
	why   string
}

// Apply says what it would have called.
func (d *dryRun) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return d.receipt(ctx, "apply", in.Target, in.Call)
}

// Revert says what it would have undone.
func (d *dryRun) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return d.receipt(ctx, "revert", in.Target, in.Undo)
}

func (d *dryRun) receipt(ctx context.Context, what string, t staunch.Target, call string) (staunch.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return staunch.Receipt{}, staunch.Transient(fmt.Errorf("%s of %s: %w", what, t, err))
	}
	return staunch.Receipt{At: staunch.TimeOf(d.clock.Now()), Note: d.why + ": nothing was sent; would " + what + ": " + call}, nil
}
