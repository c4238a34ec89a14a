package pipeline_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/store"
)

// defaults has a rig go by the default limits.
func defaults(_ *rig, l *decide.Limits) { *l = decide.Limits{} }

// TestForgedStorm: a source accuses a thousand in a minute. The caps hold, its
// breaker opens within a second, releases go on, and so does what another source
// says, even of those that the forger accuses as well (I4, I14).
func TestForgedStorm(t *testing.T) {
	r := newRig(t, defaults)
	r.setIdentity(staunch.Identity{Name: "thief", Accounts: []staunch.Ref{account("thief")}})
	r.setIdentity(staunch.Identity{Name: "app42", Accounts: []staunch.Ref{account("u42")}})
	other := *r.src
	other.Name = "honest"
	began := r.clock.Now()
	var opened time.Duration
	open := func(scope string) (is bool) {
		r.view(func(rd store.Reader) error {
			bs, err := rd.Breakers()
			for _, b := range bs {
				is = is || b.Scope == scope && b.Open
			}
			return err
		})
		return is
	}
	for i := range 100 { // ten at a time, 16.7 a second
		recs := make([]string, 0, 10)
		for n := range 10 {
			u := fmt.Sprintf("u%d", 10*i+n)
			recs = append(recs, r.rec("storm-"+u, "high", u))
		}
		r.ingest(recs...)
		if opened == 0 && open("source/src") {
			opened = r.clock.Now().Sub(began)
		}
		r.clock.add(600 * time.Millisecond)
	}
	contained := map[staunch.Ref]bool{}
	for _, c := range r.cases() {
		contained[c.Subject] = true
	}
	if len(contained) != 5 {
		t.Errorf("%d of a thousand were contained, want 5", len(contained))
	}
	if opened == 0 || opened > time.Second {
		t.Errorf("the source's breaker opened after %s", opened)
	}
	if open("global") || open("connector/"+realm) {
		t.Error("one source's storm stopped everybody")
	}
	say := func(src *pipeline.Source, rec string) {
		t.Helper()
		if _, err := r.pipe.Ingest(context.Background(), src, strings.NewReader(rec), ""); err != nil {
			t.Fatal(err)
		}
	}
	is := func(ref staunch.Ref, tier staunch.Tier) bool {
		for _, c := range r.cases() {
			if c.Subject == ref && c.Tier == tier && !c.Phase.Idle() {
				return true
			}
		}
		return false
	}
	// The forger accuses no more, whatever it says; others do, and at the top at once.
	say(r.src, r.rec("more", "critical", "thief"))
	if is(account("thief"), staunch.TierRevoke) {
		t.Error("an open breaker let its source contain")
	}
	say(&other, r.rec("real", "critical", "thief"))
	if !is(account("thief"), staunch.TierRevoke) {
		t.Errorf("a genuine critical event was not contained: %+v", r.decisions()[len(r.decisions())-1])
	}
	say(&other, r.rec("shielded", "critical", "u42"))
	if !is(account("u42"), staunch.TierRevoke) {
		t.Errorf("whom the forger accused as well is shielded: %+v", r.decisions()[len(r.decisions())-1])
	}
	// Release works, and gives the places back.
	r.release()
	for _, c := range r.cases() {
		if c.Phase != staunch.PhaseReleased {
			t.Errorf("%s is %s", c.ID, c.Phase)
		}
	}
}

// TestCanaryOfARule: of what one rule asks for, the first goes alone; what has to
// be stopped now does not wait.
func TestCanaryOfARule(t *testing.T) {
	r := newRig(t, defaults)
	r.setIdentity(staunch.Identity{Name: "thief", Accounts: []staunch.Ref{account("thief")}})
	r.ingest(r.rec("1", "high", "a"), r.rec("2", "high", "b"), r.rec("3", "high", "c"))
	r.ingest(r.rec("4", "critical", "thief"))
	phases := map[staunch.Ref]staunch.Containment{}
	for _, c := range r.cases() {
		phases[c.Subject] = c
	}
	first := phases[account("a")]
	if first.Phase != staunch.PhaseOpen || phases[account("thief")].Phase != staunch.PhaseOpen {
		t.Fatalf("%+v", phases)
	}
	for _, n := range []string{"b", "c"} {
		if c := phases[account(n)]; c.Phase != staunch.PhaseWaiting || c.Canary != first.ID || c.WaitEnds.Sub(c.Opened) != time.Minute {
			t.Errorf("%s: %+v", n, c)
		}
	}
	if n := r.guard.active(); n != 2 {
		t.Errorf("%d guard holds while two of four wait", n)
	}
}
