package contain_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/store"
)

// mint has bob issue a session of the account minted, as a fact tells.
func mint(t *testing.T, r *rig, con string) string {
	t.Helper()
	id := r.platform.Login("minted")
	if err := r.do(func(tx store.Tx) error {
		f := staunch.Fact{V: 1, Type: staunch.FactSessionStarted, Subject: session(id), Of: account("minted"), By: account("bob"), Time: now(), Learned: now(), Source: "t"}
		f.ID = staunch.FactID(f)
		if _, err := tx.PutFact(f); err != nil {
			return err
		}
		return r.engine.Derived(tx, con)
	}); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestScopeEnds: what is found derived after the scope's end is told and left
// alone, until a new decision gives the case another.
func TestScopeEnds(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.AddAccount("minted")
	r.start()
	p := revokeNow
	p.ScopeFor = staunch.Duration(time.Hour)
	con := r.open(account("bob"), staunch.TierIsolate, p, "k").Containment
	if got := con.Scope.Until.Std().Sub(con.Opened.Std()); got != time.Hour {
		t.Fatalf("the scope lasts %s", got)
	}
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	early := mint(t, r, con.ID)
	r.await(con.ID, "the child plan", func(c contain.Case) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Children == 1
	})
	if r.platform.Use(early) {
		t.Error("what came to light within the scope works")
	}

	if err := r.do(func(tx store.Tx) error {
		c, err := tx.Containment(con.ID)
		c.Scope.Until = now()
		return errors.Join(err, tx.PutContainment(c))
	}); err != nil {
		t.Fatal(err)
	}
	late := mint(t, r, con.ID)
	c := r.await(con.ID, "the second child plan", func(c contain.Case) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Children == 2
	})
	if !r.platform.Use(late) {
		t.Error("what came to light after the scope's end was contained")
	}
	if _, ok := r.guard.on(session(late)); ok {
		t.Error("what came to light after the scope's end is held on the fast plane")
	}
	if r.platform.Use(early) {
		t.Error("what was contained within the scope works again")
	}
	if !strings.HasPrefix(c.Containment.Trouble, "the scope ended at ") {
		t.Errorf("people are told %q", c.Containment.Trouble)
	}

	r.open(account("bob"), staunch.TierIsolate, p, "again")
	r.await(con.ID, "the plan of the new scope", func(c contain.Case) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Children == 3 && c.Containment.Trouble == ""
	})
	if r.platform.Use(late) {
		t.Error("a new decision did not contain what was left out")
	}
}

// TestNoApprovalOfAScopeThatEnded: an approval is for what was shown.
func TestNoApprovalOfAScopeThatEnded(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	p := revokeNow
	p.ScopeFor = staunch.Duration(time.Microsecond)
	var con staunch.Containment
	if err := r.do(func(tx store.Tx) error {
		o, err := r.engine.Open(tx, contain.OpenRequest{
			Subject: account("bob"), Resolution: staunch.Resolution{Ref: account("bob"), Names: []staunch.Ref{account("bob")}},
			Origin: staunch.OriginManual, Opener: "k", Tier: staunch.TierIsolate, Playbook: p, Requester: "alice", Approval: true,
		})
		con = o.Containment
		return err
	}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond)
	err := r.approve(con.ID, "bea", con.Scope.Hash(), "sha256:any")
	if !errors.Is(err, staunch.ErrConflict) || !strings.Contains(err.Error(), "the scope ended") {
		t.Errorf("approving gave %v", err)
	}
}

// TestSettledOver: the instant of a release is of no more use once there are no
// signals of before it that count; what cannot be read stays.
func TestSettledOver(t *testing.T) {
	for value, want := range map[string]bool{"99": true, "100": false, "101": false, "x": false, "": false} {
		if got := contain.SettledOver(value, 100); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
