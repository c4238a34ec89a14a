package contain_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/contain"
)

// searching leaves an account's sessions out of a quick answer, and notes
// whether the account was disabled when it was asked in full.
type searching struct {
	connector.Connector
	t    *testing.T
	dump func() string
	full atomic.Int32
}

func (s *searching) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	ex, err := s.Connector.Expand(ctx, req)
	if req.Quick && len(ex.Actions) > 1 {
		ex.Actions, ex.More = ex.Actions[:1], true
		return ex, err
	}
	s.full.Add(1)
	if got := s.dump(); got == "" || got[:8] != "disabled" {
		s.t.Errorf("the search was waited for while the account was %q", got)
	}
	return ex, err
}

func TestASearchIsNotWaitedFor(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	stolen := r.platform.Login("bob")
	var s *searching
	r.wrap = func(c connector.Connector) connector.Connector {
		s = &searching{Connector: c, t: t, dump: func() string { return r.platform.Dump("bob") }}
		return s
	}
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", func(c contain.Case) bool { return c.Containment.Phase == staunch.PhaseHeld && !c.Containment.Replan })
	if len(c.Steps) != 2 || s.full.Load() != 1 || r.platform.Use(stolen) {
		t.Errorf("%d steps, asked in full %d times, the session works: %v", len(c.Steps), s.full.Load(), r.platform.Use(stolen))
	}
}
