package contain_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/contain"
)

// refuser is a connector whose platform refuses its credential the first times
// that each of its methods is called.
type refuser struct {
	connector.Connector
	times int
	mu    sync.Mutex
	calls map[string]int
}

var errRefused = errors.New("the token is refused")

func (r *refuser) refuse(method string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls == nil {
		r.calls = map[string]int{}
	}
	if r.calls[method]++; r.calls[method] <= r.times {
		return staunch.Denied(errRefused)
	}
	return nil
}

func (r *refuser) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	if err := r.refuse("expand"); err != nil {
		return connector.Expansion{}, err
	}
	ex, err := r.Connector.Expand(ctx, req)
	for i := range ex.Actions {
		ex.Actions[i].State = nil // every read is Read's
	}
	return ex, err
}

func (r *refuser) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	method := "read"
	if proof {
		method = "proof"
	}
	if err := r.refuse(method); err != nil {
		return staunch.State{}, err
	}
	return r.Connector.Read(ctx, t, proof)
}

func (r *refuser) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if err := r.refuse("apply"); err != nil {
		return staunch.Receipt{}, err
	}
	return r.Connector.Apply(ctx, in)
}

func (r *refuser) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if err := r.refuse("revert"); err != nil {
		return staunch.Receipt{}, err
	}
	return r.Connector.Revert(ctx, in)
}

// TestARefusalMayPass: a platform that refuses our credential once or twice is
// asked again, whatever it was asked, and nobody is troubled.
func TestARefusalMayPass(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	ref := &refuser{times: 2}
	r.wrap = func(c connector.Connector) connector.Connector { ref.Connector = c; return ref }
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", func(c contain.Case) bool { return c.Containment.Phase == staunch.PhaseHeld && !c.Containment.Replan })
	for _, s := range c.Steps {
		if s.State != staunch.StepProven {
			t.Errorf("%s is %s: %s", s.Target, s.State, s.Note)
		}
	}
	if c.Containment.Trouble != "" || len(c.Steps) == 0 {
		t.Errorf("%d steps, trouble %q", len(c.Steps), c.Containment.Trouble)
	}
	r.release(con.ID)
	r.await(con.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("after the release the account is %q", got)
	}
	for _, method := range []string{"expand", "read", "proof", "apply", "revert"} {
		if ref.calls[method] <= ref.times {
			t.Errorf("%s was called %d times", method, ref.calls[method])
		}
	}
}

// TestARefusalThatStays: a person is asked after a few.
func TestARefusalThatStays(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		phase  staunch.Phase
	}{"plan": {"expand", staunch.PhaseStuck}, "call": {"apply", staunch.PhaseHeld}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.platform.AddAccount("bob")
			ref := &refuser{times: 1000}
			r.wrap = func(in connector.Connector) connector.Connector {
				ref.Connector = in
				return only{ref, c.method}
			}
			r.start()
			con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
			got := r.await(con.ID, string(c.phase), phase(c.phase))
			if !strings.Contains(got.Containment.Trouble, errRefused.Error()) {
				t.Errorf("trouble %q", got.Containment.Trouble)
			}
			ref.mu.Lock()
			defer ref.mu.Unlock()
			if n := ref.calls[c.method]; n != contain.MaxRefusals+1 {
				t.Errorf("it was called %d times for %d steps", n, len(got.Steps))
			}
		})
	}
}

// only refuses one method.
type only struct {
	*refuser
	method string
}

func (o only) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	if o.method == "expand" {
		return o.refuser.Expand(ctx, req)
	}
	return o.Connector.Expand(ctx, req)
}

func (o only) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	return o.Connector.Read(ctx, t, proof)
}

func (o only) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if o.method == "apply" {
		return o.refuser.Apply(ctx, in)
	}
	return o.Connector.Apply(ctx, in)
}

// sure is a doubter whose probe says at once that the access is gone.
type sure struct{ *doubter }

func (sure) Probe(context.Context, staunch.Intent) (connector.Probe, error) {
	return connector.Probe{Conclusive: true, How: "refused"}, nil
}

// TestAProbeAloneIsNoProof: what the proof credential still reads counts more
// than that the access was refused.
func TestAProbeAloneIsNoProof(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	d := &doubter{before: map[string]staunch.State{}, acted: map[string]bool{}, proofs: map[string]int{}}
	r.wrap = func(c connector.Connector) connector.Connector { d.Connector = c; return sure{d} }
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	d.mu.Lock()
	defer d.mu.Unlock()
	doubted := 0
	for _, s := range c.Steps {
		key := s.Target.String()
		if s.State != staunch.StepProven || !d.before[key].Effective {
			continue
		}
		if doubted++; d.proofs[key] < 2 {
			t.Errorf("%s was taken for proven although the proof credential still saw it", s.Target)
		}
	}
	if doubted == 0 {
		t.Error("no effect was doubted")
	}
}
