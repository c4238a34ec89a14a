package connectortest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
)

// broken is a Fake with one method replaced.
type broken struct {
	*connectortest.Fake
	expand   func(context.Context, connector.ExpandRequest) (connector.Expansion, error)
	read     func(context.Context, staunch.Target, bool) (staunch.State, error)
	prepare  func(staunch.State, staunch.Verb) (staunch.Intent, error)
	apply    func(context.Context, staunch.Intent) (staunch.Receipt, error)
	revert   func(context.Context, staunch.Intent) (staunch.Receipt, error)
	describe func() connector.Description
}

func (b *broken) Expand(ctx context.Context, r connector.ExpandRequest) (connector.Expansion, error) {
	if b.expand != nil {
		return b.expand(ctx, r)
	}
	return b.Fake.Expand(ctx, r)
}

func (b *broken) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	if b.read != nil {
		return b.read(ctx, t, proof)
	}
	return b.Fake.Read(ctx, t, proof)
}

func (b *broken) Prepare(s staunch.State, v staunch.Verb) (staunch.Intent, error) {
	if b.prepare != nil {
		return b.prepare(s, v)
	}
	return b.Fake.Prepare(s, v)
}

func (b *broken) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if b.apply != nil {
		return b.apply(ctx, in)
	}
	return b.Fake.Apply(ctx, in)
}

func (b *broken) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if b.revert != nil {
		return b.revert(ctx, in)
	}
	return b.Fake.Revert(ctx, in)
}

func (b *broken) Describe() connector.Description {
	if b.describe != nil {
		return b.describe()
	}
	return b.Fake.Describe()
}

// TestBrokenConnectorsFail breaks one thing at a time; the suite must say so in
// the check that is about it.
func TestBrokenConnectorsFail(t *testing.T) {
	for name, tc := range map[string]struct {
		brk   func(f *connectortest.Fake, b *broken)
		check string
	}{
		"apply does nothing": {func(_ *connectortest.Fake, b *broken) {
			b.apply = func(context.Context, staunch.Intent) (staunch.Receipt, error) {
				return staunch.Receipt{At: 1, Changed: true}, nil
			}
		}, "suspend/apply and revert"},
		"apply does nothing and reads lie": {func(f *connectortest.Fake, b *broken) {
			var applied atomic.Bool
			b.apply = func(context.Context, staunch.Intent) (staunch.Receipt, error) {
				applied.Store(true)
				return staunch.Receipt{At: 1, Changed: true}, nil
			}
			b.read = func(ctx context.Context, t staunch.Target, p bool) (staunch.State, error) {
				st, err := f.Read(ctx, t, p)
				if applied.Load() && err == nil {
					in, _ := f.Prepare(st, staunch.VerbSuspend)
					in.Expected.ReadAt = 1
					return in.Expected, nil
				}
				return st, err
			}
		}, "suspend/apply and revert"},
		"revert overwrites": {func(f *connectortest.Fake, b *broken) {
			b.revert = func(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
				if st, err := f.Read(ctx, in.Target, false); err == nil {
					in.Expected = st
				}
				return f.Revert(ctx, in)
			}
		}, "suspend/third party"},
		"revert does nothing": {func(_ *connectortest.Fake, b *broken) {
			b.revert = func(context.Context, staunch.Intent) (staunch.Receipt, error) {
				return staunch.Receipt{At: 1, Changed: true}, nil
			}
		}, "suspend/apply and revert"},
		"lost answers are called transient": {func(f *connectortest.Fake, b *broken) {
			b.apply = func(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
				r, err := f.Apply(ctx, in)
				if staunch.ClassOf(err) == staunch.ClassUnknown {
					err = staunch.Transient(err)
				}
				return r, err
			}
		}, "suspend/answer lost"},
		"wildcards": {func(f *connectortest.Fake, b *broken) {
			b.expand = func(ctx context.Context, r connector.ExpandRequest) (connector.Expansion, error) {
				ex, err := f.Expand(ctx, r)
				for i := range ex.Actions {
					ex.Actions[i].Target.Ref.Value = "*"
				}
				return ex, err
			}
		}, "suspend/expand"},
		"expand makes states up": {func(f *connectortest.Fake, b *broken) {
			b.expand = func(ctx context.Context, r connector.ExpandRequest) (connector.Expansion, error) {
				ex, err := f.Expand(ctx, r)
				for i := range ex.Actions {
					if st := ex.Actions[i].State; st != nil {
						st.Effective = !st.Effective
					}
				}
				return ex, err
			}
		}, "suspend/expand"},
		"undeclared verb": {func(f *connectortest.Fake, b *broken) {
			b.expand = func(ctx context.Context, r connector.ExpandRequest) (connector.Expansion, error) {
				ex, err := f.Expand(ctx, r)
				for i := range ex.Actions {
					ex.Actions[i].Verb = staunch.VerbRotate
				}
				return ex, err
			}
		}, "suspend/expand"},
		"expand acts": {func(f *connectortest.Fake, b *broken) {
			b.expand = func(ctx context.Context, r connector.ExpandRequest) (connector.Expansion, error) {
				ex, err := f.Expand(ctx, r)
				for _, a := range ex.Actions {
					st, _ := f.Read(ctx, a.Target, false)
					in, _ := f.Prepare(st, a.Verb)
					in.PreImage = st
					_, _ = f.Apply(ctx, in)
				}
				return ex, err
			}
		}, "suspend/expand"},
		"prepare has a clock": {func(f *connectortest.Fake, b *broken) {
			b.prepare = func(s staunch.State, v staunch.Verb) (staunch.Intent, error) {
				in, err := f.Prepare(s, v)
				in.Call += time.Now().Format(time.RFC3339Nano)
				return in, err
			}
		}, "suspend/prepare"},
		"cancelled calls act": {func(f *connectortest.Fake, b *broken) {
			b.apply = func(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
				return f.Apply(context.WithoutCancel(ctx), in)
			}
		}, "suspend/contexts"},
		"nothing declared to survive": {func(f *connectortest.Fake, b *broken) {
			b.describe = func() connector.Description {
				d := f.Describe()
				d.Verbs[0].Survives = nil
				return d
			}
		}, "describe"},
		"denied is called permanent": {func(f *connectortest.Fake, b *broken) {
			b.read = func(ctx context.Context, t staunch.Target, p bool) (staunch.State, error) {
				st, err := f.Read(ctx, t, p)
				if staunch.ClassOf(err) == staunch.ClassDenied {
					err = staunch.Permanent(err)
				}
				return st, err
			}
		}, "wrong credential"},
	} {
		t.Run(name, func(t *testing.T) {
			h := harness(func(f *connectortest.Fake) connector.Connector {
				b := &broken{Fake: f}
				tc.brk(f, b)
				return b
			})
			h.Settle = 30 * time.Millisecond
			got := connectortest.Failures(t, h)
			if len(got[tc.check]) == 0 {
				t.Errorf("the check %q passes; failures: %v", tc.check, got)
			}
		})
	}
}

func TestHarnessMustExplainItself(t *testing.T) {
	if got := connectortest.Failures(t, harness(nil)); len(got) > 0 {
		t.Fatalf("the whole harness fails: %v", got)
	}
	for name, spoil := range map[string]func(*connectortest.Harness){
		"a hook without a reason":  func(h *connectortest.Harness) { h.Cut = nil },
		"a reason beside a hook":   func(h *connectortest.Harness) { h.Cannot["Cut"] = "no reason" },
		"a reason for no hook":     func(h *connectortest.Harness) { h.Cannot["Everything"] = "no" },
		"no cases":                 func(h *connectortest.Harness) { h.Cases = nil },
		"no targets to be missing": func(h *connectortest.Harness) { h.Missing = nil },
	} {
		h := harness(nil)
		spoil(&h)
		if got := connectortest.Failures(t, h); len(got["harness"]) == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
	// A verb without a case is found by the check of the description.
	h := harness(nil)
	h.Cases = h.Cases[:2]
	if got := connectortest.Failures(t, h); len(got["describe"]) == 0 {
		t.Errorf("a verb without a case: accepted; failures %v", got)
	}
}
