package contain_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/store"
)

// watched notes the calls of a connector, and has one verb fail.
type watched struct {
	connector.Connector
	refuses staunch.Verb
	mu      sync.Mutex
	log     []string
	// between is called before each mutating call, with what was called before.
	between func(before []string)
}

func (w *watched) note(what string, t staunch.Target) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, what+" "+t.Attribute)
}

func (w *watched) calls(what string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, l := range w.log {
		if s, ok := strings.CutPrefix(l, what+" "); ok {
			out = append(out, s)
		}
	}
	return out
}

func (w *watched) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	if !proof {
		w.note("read", t)
	}
	return w.Connector.Read(ctx, t, proof)
}

func (w *watched) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if w.between != nil {
		w.between(w.calls("apply"))
	}
	w.note("apply", in.Target)
	if in.Verb == w.refuses {
		return staunch.Receipt{}, staunch.Permanent(errors.New("not here"))
	}
	return w.Connector.Apply(ctx, in)
}

// TestTheCallsOfARealmShareACommit: both calls are made before either's receipt
// is durable, each read back before the next call.
func TestTheCallsOfARealmShareACommit(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	stolen := r.platform.Login("bob")
	var w *watched
	r.wrap = func(c connector.Connector) connector.Connector {
		w = &watched{Connector: c, between: func(before []string) {
			if len(before) != 1 {
				return
			}
			if got := w.calls("read"); len(got) == 0 || got[len(got)-1] != "enabled" {
				t.Errorf("the second call came after the reads %v", got)
			}
			var open []staunch.Containment
			err := r.store.View(context.Background(), func(rd store.Reader) (err error) {
				open, err = rd.Containments(store.Page{}, true)
				return err
			})
			if err != nil || len(open) != 1 {
				t.Errorf("%d cases, %v", len(open), err)
				return
			}
			for _, s := range r.caseOf(open[0].ID).Steps {
				if s.State != staunch.StepIntended {
					t.Errorf("at the second call %s is %s", s.Target, s.State)
				}
			}
		}}
		return w
	}
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if got := strings.Join(w.calls("apply"), " "); got != "enabled sessions" {
		t.Errorf("called: %s", got)
	}
	if r.platform.Use(stolen) {
		t.Error("the stolen session works")
	}
}

// TestARunEndsWhereACallFails: what was called before the failure is committed,
// the failure is told of, and what comes after it is done all the same.
func TestARunEndsWhereACallFails(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.Login("bob")
	r.wrap = func(c connector.Connector) connector.Connector {
		return &watched{Connector: c, refuses: staunch.VerbIsolate}
	}
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	for _, s := range c.Steps {
		want := staunch.StepProven
		if s.Verb == staunch.VerbIsolate {
			want = staunch.StepFailed
		}
		if s.State != want {
			t.Errorf("%s is %s, want %s: %s", s.Target, s.State, want, s.Note)
		}
	}
	if !strings.Contains(c.Containment.Trouble, "not here") {
		t.Errorf("trouble %q", c.Containment.Trouble)
	}
}

// TestWhatExpandReadIsNotReadAgain: the attribute that came with its state is not
// read before its intent, the other is.
func TestWhatExpandReadIsNotReadAgain(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.Login("bob")
	var w *watched
	var before []string
	r.wrap = func(c connector.Connector) connector.Connector {
		w = &watched{Connector: c, between: func(calls []string) {
			if len(calls) == 0 {
				before = w.calls("read")
			}
		}}
		return w
	}
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if got := strings.Join(before, " "); got != "sessions" {
		t.Errorf("read before the first call: %s", got)
	}
	for _, s := range c.Steps {
		if s.Before == "" || s.PreImageDigest == "" {
			t.Errorf("%s has no pre-image", s.Target)
		}
	}
}

// gated holds up every undo, and lets it go on while Expand runs, so that what
// Expand read is not what there is any more.
type gated struct {
	connector.Connector
	open   chan struct{}
	passed func()
	armed  atomic.Bool
}

func (g *gated) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	ex, err := g.Connector.Expand(ctx, req)
	if g.armed.CompareAndSwap(true, false) {
		close(g.open)
		g.passed()
	}
	return ex, err
}

func (g *gated) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	select {
	case <-g.open:
	case <-ctx.Done():
		return staunch.Receipt{}, staunch.Transient(ctx.Err())
	}
	return g.Connector.Revert(ctx, in)
}

func TestWhatExpandReadIsReadAgainAfterAChange(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	g := &gated{open: make(chan struct{})}
	r.wrap = func(c connector.Connector) connector.Connector { g.Connector = c; return g }
	r.start()
	release := func(id string) {
		t.Helper()
		if err := r.do(func(tx store.Tx) error {
			_, err := r.engine.Release(tx, id, staunch.Release{Reason: "false alarm", By: "alice", Revive: true})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	first := r.open(account("bob"), staunch.TierIsolate, revokeNow, "first").Containment
	r.await(first.ID, "held", phase(staunch.PhaseHeld))
	release(first.ID)
	// Evidence that comes during a release opens a case of its own. Its Expand
	// sees the account disabled; by the time it returns the release is over.
	g.passed = func() { r.await(first.ID, "released", phase(staunch.PhaseReleased)) }
	g.armed.Store(true)
	second := r.open(account("bob"), staunch.TierIsolate, revokeNow, "second").Containment
	r.await(second.ID, "held", phase(staunch.PhaseHeld))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "disabled") {
		t.Fatalf("contained, the account is %q", got)
	}
	release(second.ID)
	r.await(second.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("after the release the account is %q: its pre-image was another case's effect", got)
	}
}
