package wrap_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"golang.org/x/time/rate"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/connector/wrap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const realm = "fake/test"

func platform() *connectortest.FakePlatform {
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	p.AddAccount("svc")
	return p
}

func target() staunch.Target {
	return staunch.Target{Ref: staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: "name", Value: "svc"}, Attribute: "enabled"}
}

func intent(t *testing.T, c connector.Connector) staunch.Intent {
	t.Helper()
	pre, err := c.Read(t.Context(), target(), false)
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.Prepare(pre, staunch.VerbSuspend)
	if err != nil {
		t.Fatal(err)
	}
	in.Key, in.PreImage = "stp_1", pre
	return in
}

// plain hides a connector's optional abilities, and the kinds below show some.
type plain struct{ connector.Connector }

type prober struct{ connector.Connector }

func (prober) Probe(context.Context, staunch.Intent) (connector.Probe, error) {
	return connector.Probe{How: "prober"}, nil
}

type health struct{ connector.Connector }

func (health) Check(context.Context) []connector.Finding {
	return []connector.Finding{{Message: "health"}}
}

type own struct{ connector.Connector }

func (own) OwnRefs(context.Context) ([]staunch.Ref, error) {
	return []staunch.Ref{staunch.IdentityRef("own")}, nil
}

type pairPH struct {
	connector.Connector
	connector.Prober
	connector.Health
}

type pairPO struct {
	connector.Connector
	connector.Prober
	connector.Own
}

type pairHO struct {
	connector.Connector
	connector.Health
	connector.Own
}

func wrappers(t *testing.T) map[string]func(connector.Connector) connector.Connector {
	t.Helper()
	m, err := wrap.NewMeters(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]func(connector.Connector) connector.Connector{
		"dry run": func(c connector.Connector) connector.Connector {
			return wrap.DryRun(c, staunch.SystemClock{}, "dry run")
		},
		"shadow": func(c connector.Connector) connector.Connector {
			return wrap.InMode(c, staunch.ModeShadow, staunch.SystemClock{})
		},
		"enforce": func(c connector.Connector) connector.Connector {
			return wrap.InMode(c, staunch.ModeEnforce, staunch.SystemClock{})
		},
		"retry": func(c connector.Connector) connector.Connector { return wrap.Retry(c, wrap.RetryOptions{}) },
		"limit": func(c connector.Connector) connector.Connector {
			return wrap.RateLimit(c, rate.NewLimiter(rate.Inf, 1))
		},
		"faults": func(c connector.Connector) connector.Connector {
			return wrap.Faults(c, func(wrap.Call, int) wrap.Fault { return wrap.Fault{} })
		},
		"metrics": func(c connector.Connector) connector.Connector { return wrap.Metrics(c, m, staunch.SystemClock{}) },
	}
}

func TestOptionalAbilitiesPassThrough(t *testing.T) {
	base := plain{connectortest.NewFake(platform(), realm)}
	p, h, o := prober{base}, health{base}, own{base}
	inner := map[string]connector.Connector{
		"": base, "P": p, "H": h, "O": o,
		"PH": pairPH{base, p, h}, "PO": pairPO{base, p, o}, "HO": pairHO{base, h, o},
		"PHO": connectortest.NewFake(platform(), realm),
	}
	for name, w := range wrappers(t) {
		for want, c := range inner {
			got := ""
			wrapped := w(w(c)) // twice, as wrappers stand in one another
			if x, ok := wrapped.(connector.Prober); ok {
				got += "P"
				if pr, err := x.Probe(t.Context(), staunch.Intent{Target: target()}); err != nil || pr.How == "" {
					t.Errorf("%s of %q: probe gives %+v, %v", name, want, pr, err)
				}
			}
			if x, ok := wrapped.(connector.Health); ok {
				got += "H"
				if f := x.Check(t.Context()); want != "PHO" && len(f) != 1 {
					t.Errorf("%s of %q: check gives %v", name, want, f)
				}
			}
			if x, ok := wrapped.(connector.Own); ok {
				got += "O"
				if refs, err := x.OwnRefs(t.Context()); err != nil || len(refs) != 1 {
					t.Errorf("%s of %q: own refs %v, %v", name, want, refs, err)
				}
			}
			if got != want {
				t.Errorf("%s of a connector with %q has %q", name, want, got)
			}
			if wrapped.Describe().Platform != "fake" {
				t.Errorf("%s of %q does not describe", name, want)
			}
		}
	}
}

func TestDryRunSendsNothing(t *testing.T) {
	p := platform()
	fake := connectortest.NewFake(p, realm)
	for _, c := range []connector.Connector{
		wrap.DryRun(fake, staunch.SystemClock{}, "dry run"),
		wrap.InMode(fake, staunch.ModeShadow, staunch.SystemClock{}),
		wrap.InMode(fake, staunch.ModeRecommend, staunch.SystemClock{}),
	} {
		in := intent(t, c)
		for what, f := range map[string]func(context.Context, staunch.Intent) (staunch.Receipt, error){"apply": c.Apply, "revert": c.Revert} {
			r, err := f(t.Context(), in)
			if err != nil || r.Changed || r.At == 0 || !strings.Contains(r.Note, "nothing was sent") {
				t.Errorf("%s: %+v, %v", what, r, err)
			}
			dead, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := f(dead, in); staunch.ClassOf(err) != staunch.ClassTransient || !errors.Is(err, context.Canceled) {
				t.Errorf("%s with a dead context: %v", what, err)
			}
		}
		if r, _ := c.Apply(t.Context(), in); !strings.Contains(r.Note, in.Call) {
			t.Errorf("the receipt does not say what would be called: %q", r.Note)
		}
	}
	if l := p.Ledger(); len(l) != 0 || p.Dump("svc") != "enabled " {
		t.Errorf("the platform was reached: %v, %s", l, p.Dump("svc"))
	}
	if c := wrap.InMode(fake, staunch.ModeEnforce, staunch.SystemClock{}); c != connector.Connector(fake) {
		t.Error("enforce wraps")
	}
}

// scripted answers Apply and Read with one error after the other, then none.
type scripted struct {
	connector.Connector
	mu     sync.Mutex
	errs   []error
	calls  int
	called []time.Time
}

func (s *scripted) next() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.called = append(s.called, time.Now())
	if len(s.errs) == 0 {
		return nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	return err
}

func (s *scripted) Apply(context.Context, staunch.Intent) (staunch.Receipt, error) {
	return staunch.Receipt{At: 1, Changed: true}, s.next()
}

func (s *scripted) Revert(context.Context, staunch.Intent) (staunch.Receipt, error) {
	return staunch.Receipt{At: 1, Changed: true}, s.next()
}

func (s *scripted) Read(context.Context, staunch.Target, bool) (staunch.State, error) {
	return staunch.State{Exists: true}, s.next()
}

func (s *scripted) Expand(context.Context, connector.ExpandRequest) (connector.Expansion, error) {
	return connector.Expansion{}, s.next()
}

func TestRetry(t *testing.T) {
	boom := errors.New("boom")
	tr := staunch.Transient(boom)
	for name, tc := range map[string]struct {
		errs  []error
		calls int
		class string
	}{
		"none":             {nil, 1, ""},
		"transient once":   {[]error{tr}, 2, ""},
		"transient twice":  {[]error{tr, tr}, 3, ""},
		"transient always": {[]error{tr, tr, tr, tr, tr}, 3, "transient"},
		"unknown":          {[]error{staunch.OutcomeUnknown(boom)}, 1, "outcome-unknown"},
		"denied":           {[]error{staunch.Denied(boom)}, 1, "denied"},
		"permanent":        {[]error{staunch.Permanent(boom)}, 1, "permanent"},
		"unmarked":         {[]error{boom}, 1, "permanent"},
		"then unknown":     {[]error{tr, staunch.OutcomeUnknown(boom), tr}, 2, "outcome-unknown"},
	} {
		for what, call := range map[string]func(context.Context, connector.Connector) (bool, error){
			"apply": func(ctx context.Context, c connector.Connector) (bool, error) {
				r, err := c.Apply(ctx, staunch.Intent{})
				return r.Changed, err
			},
			"revert": func(ctx context.Context, c connector.Connector) (bool, error) {
				r, err := c.Revert(ctx, staunch.Intent{})
				return r.Changed, err
			},
			"read": func(ctx context.Context, c connector.Connector) (bool, error) {
				s, err := c.Read(ctx, target(), true)
				return s.Exists, err
			},
			"expand": func(ctx context.Context, c connector.Connector) (bool, error) {
				_, err := c.Expand(ctx, connector.ExpandRequest{})
				return err == nil, err
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{errs: slices.Clone(tc.errs)}
				ok, err := call(t.Context(), wrap.Retry(s, wrap.RetryOptions{}))
				class := ""
				if err != nil {
					class = staunch.ClassOf(err).String()
					if !errors.Is(err, boom) {
						t.Errorf("%s, %s: does not wrap the error: %v", name, what, err)
					}
				}
				if s.calls != tc.calls || class != tc.class || ok != (err == nil) {
					t.Errorf("%s, %s: %d calls, class %q, result %t; want %d, %q", name, what, s.calls, class, ok, tc.calls, tc.class)
				}
			})
		}
	}
}

func TestRetryBacksOffWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := staunch.Transient(errors.New("boom"))
		s := &scripted{errs: slices.Repeat([]error{tr}, 8)}
		c := wrap.Retry(s, wrap.RetryOptions{Attempts: 6, Delay: 100 * time.Millisecond, MostDelay: 400 * time.Millisecond})
		if _, err := c.Apply(t.Context(), staunch.Intent{}); err == nil {
			t.Fatal("no error")
		}
		want := []time.Duration{100, 200, 400, 400, 400}
		if len(s.called) != 6 {
			t.Fatalf("%d calls", len(s.called))
		}
		varied := false
		for i, w := range want {
			w *= time.Millisecond
			got := s.called[i+1].Sub(s.called[i])
			if got < w*3/4 || got > w*5/4 {
				t.Errorf("pause %d is %s, want %s by a quarter", i+1, got, w)
			}
			varied = varied || got != w
		}
		if !varied {
			t.Error("no jitter")
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		s := &scripted{errs: slices.Repeat([]error{staunch.Transient(boom)}, 8)}
		c := wrap.Retry(s, wrap.RetryOptions{Attempts: 8, Delay: time.Second, MostDelay: 2 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := c.Apply(ctx, staunch.Intent{})
		if staunch.ClassOf(err) != staunch.ClassTransient || !errors.Is(err, boom) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("class %s: %v", staunch.ClassOf(err), err)
		}
		if s.calls != 1 || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("%d calls in %s", s.calls, time.Since(begin))
		}
	})
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		c := wrap.RateLimit(s, rate.NewLimiter(10, 2))
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				var err error
				switch i % 4 {
				case 0:
					_, err = c.Apply(t.Context(), staunch.Intent{})
				case 1:
					_, err = c.Read(t.Context(), target(), false)
				case 2:
					_, err = c.Revert(t.Context(), staunch.Intent{})
				default:
					_, err = c.Expand(t.Context(), connector.ExpandRequest{})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		begin := time.Now()
		wg.Wait()
		// Two at once, ten more at ten a second.
		if d := time.Since(begin); d != time.Second {
			t.Errorf("12 calls took %s, want 1s", d)
		}
		// No room within the deadline: not sent, at once.
		calls := s.calls
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		begin = time.Now()
		_, err := c.Apply(ctx, staunch.Intent{})
		if staunch.ClassOf(err) != staunch.ClassTransient || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("class %s: %v", staunch.ClassOf(err), err)
		}
		if s.calls != calls || time.Since(begin) != 0 {
			t.Errorf("sent %d, waited %s", s.calls-calls, time.Since(begin))
		}
	})
}

func TestFaults(t *testing.T) {
	p := platform()
	fake := connectortest.NewFake(p, realm)
	in := intent(t, fake)
	plan := []wrap.Fault{{Before: true}, {Lost: true}, {}}
	c := wrap.Faults(fake, func(call wrap.Call, before int) wrap.Fault {
		if call.Method == wrap.MethodApply || call.Method == wrap.MethodRead {
			return plan[before]
		}
		return wrap.Fault{}
	})
	_, err := c.Apply(t.Context(), in)
	if staunch.ClassOf(err) != staunch.ClassTransient || !errors.Is(err, wrap.ErrInjected) || len(p.Ledger()) != 0 {
		t.Errorf("before: class %s, %v; ledger %v", staunch.ClassOf(err), err, p.Ledger())
	}
	r, err := c.Apply(t.Context(), in)
	if staunch.ClassOf(err) != staunch.ClassUnknown || r != (staunch.Receipt{}) || len(p.Ledger()) != 1 {
		t.Errorf("lost: class %s, %v, %+v; ledger %v", staunch.ClassOf(err), err, r, p.Ledger())
	}
	if r, err = c.Apply(t.Context(), in); err != nil || r.Changed {
		t.Errorf("then: %+v, %v", r, err)
	}
	for i, want := range []staunch.Class{staunch.ClassTransient, staunch.ClassTransient} {
		if _, err := c.Read(t.Context(), target(), false); staunch.ClassOf(err) != want {
			t.Errorf("read %d: %v", i, err)
		}
	}
	if _, err := c.Read(t.Context(), target(), false); err != nil {
		t.Error(err)
	}
	if _, err := c.Revert(t.Context(), in); err != nil {
		t.Error(err)
	}
}

func TestFaultsDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		c := wrap.Faults(s, func(wrap.Call, int) wrap.Fault { return wrap.Fault{Delay: time.Second} })
		begin := time.Now()
		if _, err := c.Apply(t.Context(), staunch.Intent{}); err != nil || time.Since(begin) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Apply(ctx, staunch.Intent{}); staunch.ClassOf(err) != staunch.ClassTransient || s.calls != 1 {
			t.Errorf("%v, %d calls", err, s.calls)
		}
	})
}

func TestSeededFaultsRepeat(t *testing.T) {
	r := wrap.Rates{Before: 0.2, Lost: 0.1, Delayed: 0.5, MostDelay: time.Second}
	a, b, other := wrap.Seeded(7, r), wrap.Seeded(7, r), wrap.Seeded(8, r)
	var before, lost, delayed, differ int
	const n = 20000
	for i := range n {
		call := wrap.Call{Method: wrap.MethodApply, Key: fmt.Sprintf("stp_%d", i/4), Verb: staunch.VerbSuspend}
		f := a(call, i%4)
		if f != b(call, i%4) {
			t.Fatalf("%+v is not repeated", call)
		}
		if f != other(call, i%4) {
			differ++
		}
		if f.Before {
			before++
		}
		if f.Lost {
			lost++
		}
		if f.Delay > 0 {
			delayed++
		}
		if f.Delay < 0 || f.Delay > time.Second {
			t.Fatalf("delay %s", f.Delay)
		}
	}
	for what, x := range map[string][2]int{"before": {before, n / 5}, "lost": {lost, n / 10}, "delayed": {delayed, n / 2}} {
		if x[0] < x[1]*9/10 || x[0] > x[1]*11/10 {
			t.Errorf("%s: %d of %d, want about %d", what, x[0], n, x[1])
		}
	}
	if differ < n/2 {
		t.Errorf("another seed differs in %d of %d only", differ, n)
	}
}

type fixed struct{ step time.Duration }

func (f *fixed) Now() time.Time {
	f.step += 250 * time.Millisecond
	return time.Unix(0, 0).Add(f.step)
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := wrap.NewMeters(reg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrap.NewMeters(reg); err == nil {
		t.Error("registered twice")
	}
	p := platform()
	c := wrap.Metrics(connectortest.NewFake(p, realm), m, &fixed{})
	in := intent(t, c)
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	p.LoseAnswer(in.Key)
	if _, err := c.Apply(t.Context(), in); err == nil {
		t.Fatal("no error")
	}
	p.SetDown(true)
	if _, err := c.Read(t.Context(), target(), true); err == nil {
		t.Fatal("no error")
	}
	want := `# HELP staunch_connector_calls_total Calls of connectors that reach a platform, by platform, method, verb and outcome (ok, or the error's class).
# TYPE staunch_connector_calls_total counter
staunch_connector_calls_total{class="ok",method="apply",platform="fake",verb="suspend"} 1
staunch_connector_calls_total{class="outcome-unknown",method="apply",platform="fake",verb="suspend"} 1
staunch_connector_calls_total{class="ok",method="read",platform="fake",verb=""} 1
staunch_connector_calls_total{class="transient",method="proof",platform="fake",verb=""} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "staunch_connector_calls_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "staunch_connector_call_seconds"); err != nil || n != 3 {
		t.Errorf("%d histograms, %v", n, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "staunch_connector_call_seconds" {
			var sum float64
			for _, x := range f.GetMetric() {
				sum += x.GetHistogram().GetSampleSum()
			}
			if sum != 1 { // four calls of 250 ms
				t.Errorf("observed %v s", sum)
			}
		}
	}
}

// TestRetriedFaultsConverge stacks the wrappers as the app does: under faults
// the right end is reached and the platform is changed once for each step.
func TestRetriedFaultsConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(40) {
			p := platform()
			fake := connectortest.NewFake(p, realm)
			in := intent(t, fake)
			c := wrap.Retry(wrap.RateLimit(wrap.Faults(fake, wrap.Seeded(seed, wrap.Rates{Before: 0.4, Lost: 0.3, Delayed: 0.3, MostDelay: time.Second})),
				rate.NewLimiter(100, 1)), wrap.RetryOptions{Attempts: 4})
			for tries := 0; ; tries++ {
				_, err := c.Apply(t.Context(), in)
				if err == nil {
					break
				}
				if cl := staunch.ClassOf(err); cl != staunch.ClassTransient && cl != staunch.ClassUnknown || tries > 50 {
					t.Fatalf("seed %d: %v after %d tries", seed, err, tries)
				}
			}
			if l := p.Ledger(); len(l) != 1 || p.Dump("svc") != "disabled " {
				t.Errorf("seed %d: ledger %v, %s", seed, l, p.Dump("svc"))
			}
		}
	})
}
