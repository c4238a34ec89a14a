package contain_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/store"
)

// final is a connector whose endings of sessions cannot be undone.
type final struct{ connector.Connector }

func (f final) Prepare(st staunch.State, v staunch.Verb) (staunch.Intent, error) {
	in, err := f.Connector.Prepare(st, v)
	if v == staunch.VerbIsolate {
		in.Reversibility, in.Undo = staunch.Irreversible, "irreversible"
	}
	return in, err
}

// finally has a rig act through final.
func finally(r *rig) {
	r.wrap = func(c connector.Connector) connector.Connector { return final{c} }
}

// waiting opens a case that alice asks others to approve.
func (r *rig) waiting(subject staunch.Ref, opener string, p staunch.Playbook) staunch.Containment {
	r.t.Helper()
	o, err := r.ask(contain.OpenRequest{Subject: subject, Opener: opener, Tier: staunch.TierIsolate, Playbook: p, Requester: "alice", Approval: true})
	if err != nil || o.Containment.Phase != staunch.PhaseApproval {
		r.t.Fatalf("%+v, %v", o, err)
	}
	return o.Containment
}

// refused has an approval refused for a reason, with nothing changed.
func (r *rig) refused(id, who, scopeHash, planHash string, class error, why string) {
	r.t.Helper()
	before := r.caseOf(id).Containment
	err := r.approve(id, who, scopeHash, planHash)
	if !errors.Is(err, class) || !strings.Contains(err.Error(), why) {
		r.t.Errorf("an approval by %q gave %v, want %q", who, err, why)
	}
	if after := r.caseOf(id).Containment; after.Generation != before.Generation || after.Phase != before.Phase || len(after.Approvals) != len(before.Approvals) {
		r.t.Errorf("a refused approval by %q changed the case: %+v", who, after)
	}
}

// TestTwoPersons: what cannot be undone takes two people, neither of them who
// asked for it; each approves what was shown, once, and in time.
func TestTwoPersons(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.Login("bob")
	finally(r)
	r.tune = func(o *contain.Options) {
		o.Approving = func() contain.Approving { return contain.Approving{For: time.Hour} }
	}
	r.start()
	con := r.waiting(account("bob"), "k", revokeNow)
	asked := r.asked(con.ID)
	if asked.Persons != 2 || len(asked.Steps) != 2 || !slices.ContainsFunc(asked.Steps, func(s staunch.AskedStep) bool { return s.Reversibility == staunch.Irreversible }) {
		t.Fatalf("asked for %+v", asked)
	}
	scope := con.Scope.Hash()
	r.refused(con.ID, "alice", scope, asked.Hash, staunch.ErrForbidden, "another person")
	r.refused(con.ID, " Alice ", scope, asked.Hash, staunch.ErrForbidden, "another person")
	r.refused(con.ID, "", scope, asked.Hash, staunch.ErrForbidden, "needs a name")
	r.refused(con.ID, "carol", "", asked.Hash, staunch.ErrConflict, "scope is not the one")
	r.refused(con.ID, "carol", scope, "", staunch.ErrConflict, "plan is not the one")
	r.refused(con.ID, "carol", asked.Hash, scope, staunch.ErrConflict, "scope is not the one")
	other := r.waiting(staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: "name", Value: "eve"}, "other", revokeNow)
	r.refused(con.ID, "carol", scope, r.asked(other.ID).Hash, staunch.ErrConflict, "plan is not the one")

	if err := r.approve(con.ID, "carol", scope, asked.Hash); err != nil {
		t.Fatal(err)
	}
	c := r.caseOf(con.ID).Containment
	if c.Phase != staunch.PhaseApproval || len(c.Approvals) != 1 || c.Approvals[0].By != "carol" || c.Approvals[0].PlanHash != asked.Hash || c.Approvals[0].ScopeHash != scope {
		t.Fatalf("after one of two: %+v", c)
	}
	r.refused(con.ID, "carol", scope, asked.Hash, staunch.ErrConflict, "approved it already")
	r.refused(con.ID, "CAROL", scope, asked.Hash, staunch.ErrConflict, "approved it already")
	if n := len(r.platform.Ledger()); n != 0 {
		t.Fatalf("%d calls after one of two", n)
	}
	if _, ok := r.guard.on(account("bob")); ok {
		t.Error("the fast plane denies after one of two")
	}
	if err := r.approve(con.ID, "dave", scope, asked.Hash); err != nil {
		t.Fatal(err)
	}
	held := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if held.Containment.Approver != "carol, dave" || len(held.Steps) != 2 {
		t.Errorf("approved by %q, %d steps", held.Containment.Approver, len(held.Steps))
	}
	r.refused(con.ID, "erin", scope, asked.Hash, staunch.ErrConflict, "does not wait for approval")
	// Both are on record, each with what it bound to.
	var who []string
	if err := r.store.View(t.Context(), func(rd store.Reader) error {
		recs, err := rd.RecordsAbout(con.ID, 1000)
		for _, rec := range recs {
			if strings.Contains(string(rec.Body), `"approval"`) && strings.Contains(string(rec.Body), asked.Hash) && strings.Contains(string(rec.Body), scope) {
				who = append(who, rec.Actor)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(who, []string{"carol", "dave"}) {
		t.Errorf("approvals on record are by %v", who)
	}
}

// TestApprovalsRunOut: an approval counts for a time; then it takes another.
func TestApprovalsRunOut(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	finally(r)
	r.tune = func(o *contain.Options) {
		o.Approving = func() contain.Approving { return contain.Approving{For: 50 * time.Millisecond} }
	}
	r.start()
	con := r.waiting(account("bob"), "k", revokeNow)
	asked, scope := r.asked(con.ID), con.Scope.Hash()
	if err := r.approve(con.ID, "carol", scope, asked.Hash); err != nil {
		t.Fatal(err)
	}
	for until := r.caseOf(con.ID).Containment.Approvals[0].Until; now() < until; {
		time.Sleep(5 * time.Millisecond)
	}
	if err := r.approve(con.ID, "dave", scope, asked.Hash); err != nil {
		t.Fatal(err)
	}
	if c := r.caseOf(con.ID).Containment; c.Phase != staunch.PhaseApproval || len(c.Approvals) != 1 || c.Approvals[0].By != "dave" {
		t.Fatalf("an approval that ran out counted: %+v", c)
	}
	if n := len(r.platform.Ledger()); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// TestADecisionVoidsApprovals: what people approved is not what a further decision
// asks for.
func TestADecisionVoidsApprovals(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	finally(r)
	r.start()
	con := r.waiting(account("bob"), "k", revokeNow)
	asked, scope := r.asked(con.ID), con.Scope.Hash()
	if err := r.approve(con.ID, "carol", scope, asked.Hash); err != nil {
		t.Fatal(err)
	}
	o, err := r.ask(contain.OpenRequest{Subject: account("bob"), Opener: "more", Decision: "d", Tier: staunch.TierRevoke, Playbook: revokeNow, Approval: true})
	if err != nil || o.Containment.ID != con.ID || !o.Raised || len(o.Containment.Approvals) != 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	r.refused(con.ID, "dave", scope, asked.Hash, staunch.ErrConflict, "scope is not the one")
	again := r.asked(con.ID)
	scope = o.Containment.Scope.Hash()
	for _, who := range []string{"dave", "carol"} {
		if err := r.approve(con.ID, who, scope, again.Hash); err != nil {
			t.Fatal(err)
		}
	}
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
}

// TestOnlyWhatWasApproved: of an approved case, nothing that cannot be undone is
// done beyond the plan (invariant I7); what can be undone follows the scope.
func TestOnlyWhatWasApproved(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.AddAccount("minted")
	finally(r)
	r.start()
	con := r.waiting(account("bob"), "k", revokeNow)
	asked, scope := r.asked(con.ID), con.Scope.Hash()
	for _, who := range []string{"carol", "dave"} {
		if err := r.approve(con.ID, who, scope, asked.Hash); err != nil {
			t.Fatal(err)
		}
	}
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	id := r.platform.Login("minted")
	if err := r.do(func(tx store.Tx) error {
		f := staunch.Fact{V: 1, Type: staunch.FactSessionStarted, Subject: session(id), Of: account("minted"), By: account("bob"), Time: now(), Learned: now(), Source: "t"}
		f.ID = staunch.FactID(f)
		if _, err := tx.PutFact(f); err != nil {
			return err
		}
		return r.engine.Derived(tx, con.ID)
	}); err != nil {
		t.Fatal(err)
	}
	c := r.await(con.ID, "the child plan", func(c contain.Case) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Children == 1 && !c.Containment.Replan
	})
	if !r.platform.Use(id) {
		t.Error("a session was ended for good though nobody approved that")
	}
	if !strings.HasPrefix(c.Containment.Trouble, "not in the plan that was approved") {
		t.Errorf("people are not told: %q", c.Containment.Trouble)
	}
	if _, ok := r.guard.on(session(id)); !ok {
		t.Error("what can be undone was left out as well")
	}
	for _, s := range c.Steps {
		if !slices.ContainsFunc(asked.Steps, func(a staunch.AskedStep) bool { return a.Target == s.Target && a.Verb == s.Verb }) {
			t.Errorf("%s on %s was not approved", s.Verb, s.Target)
		}
	}
}

// Property: whoever approves with whatever, a case acts only after as many
// different people as it takes, none of whom asked for it, each with the hashes of
// what was shown (invariant I7).
func TestApprovalsInAnyOrder(t *testing.T) {
	r := newRig(t)
	finally(r)
	r.start()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name := "bob" + strings.Repeat("x", n)
		r.platform.AddAccount(name)
		con := r.waiting(account(name), "k", revokeNow)
		asked, scope := r.asked(con.ID), con.Scope.Hash()
		good := map[string]bool{}
		for range rapid.IntRange(1, 8).Draw(rt, "tries") {
			who := rapid.SampledFrom([]string{"alice", "ALICE", "carol", "Carol", "dave", ""}).Draw(rt, "who")
			sh := rapid.SampledFrom([]string{scope, scope, scope, "sha256:0", asked.Hash}).Draw(rt, "scope hash")
			ph := rapid.SampledFrom([]string{asked.Hash, asked.Hash, asked.Hash, "", scope}).Draw(rt, "plan hash")
			err := r.approve(con.ID, who, sh, ph)
			person := strings.ToLower(who)
			want := len(good) < 2 && sh == scope && ph == asked.Hash && person != "alice" && person != "" && !good[person]
			if (err == nil) != want {
				rt.Fatalf("%q with %s and %s gave %v; approved so far by %v", who, sh, ph, err, good)
			}
			if err == nil {
				good[person] = true
			}
			c := r.caseOf(con.ID)
			if waits := c.Containment.Phase == staunch.PhaseApproval; waits != (len(good) < 2) || waits && len(c.Steps) > 0 {
				rt.Fatalf("approved by %v, and the case is %s with %d steps", good, c.Containment.Phase, len(c.Steps))
			}
		}
	})
}

// TestTwoPersonsApplyAPlanFile: a file that asks for approval and has something
// that cannot be undone is applied by two people, and done once.
func TestTwoPersonsApplyAPlanFile(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.Login("bob")
	finally(r)
	r.start()
	f := r.draw(account("bob"), isolateNow, func(f *staunch.PlanFile) { f.Approval = true })
	if _, err := r.apply(f, f.MadeBy); !errors.Is(err, staunch.ErrForbidden) {
		t.Errorf("applied by who asked for it: %v", err)
	}
	first, err := r.apply(f, "bea")
	if err != nil || first.Containment.Phase != staunch.PhaseApproval || !first.Created {
		t.Fatalf("%+v, %v", first, err)
	}
	id := first.Containment.ID
	if _, err := r.apply(f, "Bea"); !errors.Is(err, staunch.ErrConflict) || !strings.Contains(err.Error(), "approved it already") {
		t.Errorf("the same person again: %v", err)
	}
	r.refused(id, "dave", first.Containment.Scope.Hash(), first.Containment.Asked.Hash, staunch.ErrConflict, "plan file")
	if n := len(r.platform.Ledger()); n != 0 {
		t.Fatalf("%d calls after one of two", n)
	}
	second, err := r.apply(f, "dave")
	if err != nil || second.Containment.ID != id || second.Containment.Approver != "bea, dave" {
		t.Fatalf("%+v, %v", second, err)
	}
	c := r.await(id, "held", phase(staunch.PhaseHeld))
	if len(c.Steps) != len(f.Targets) || len(c.Containment.Approvals) != 2 || c.Containment.PlanFile != f.Hash {
		t.Errorf("%d steps, %+v", len(c.Steps), c.Containment)
	}
	calls := map[string]int{}
	for _, l := range r.platform.Ledger() {
		key, _, _ := strings.Cut(l, " ")
		calls[key]++
	}
	for _, s := range c.Steps {
		if calls[s.ID] != 1 {
			t.Errorf("%s was called %d times", s.ID, calls[s.ID])
		}
	}
	if _, err := r.apply(f, "dan"); err == nil {
		if n := len(r.caseOf(id).Steps); n != len(c.Steps) {
			t.Errorf("a third apply made %d steps of %d", n, len(c.Steps))
		}
	}
}

// TestCanaryGoesFirst: of many cases of one cause the first goes alone; the rest
// wait for its proof, and nothing is done for them until then, also over a restart.
func TestCanaryGoesFirst(t *testing.T) {
	r := newRig(t)
	for _, n := range []string{"a", "b", "c"} {
		r.platform.AddAccount(n)
	}
	let := make(chan struct{})
	r.wrap = func(c connector.Connector) connector.Connector {
		return gate{c, func(ctx context.Context, in staunch.Intent, next func(context.Context, staunch.Intent) (staunch.Receipt, error)) (staunch.Receipt, error) {
			select {
			case <-let:
				return next(ctx, in)
			case <-ctx.Done():
				return staunch.Receipt{}, staunch.Transient(ctx.Err())
			}
		}}
	}
	r.start()
	first := r.follower("a", staunch.TierIsolate)
	if first.Containment.Phase != staunch.PhaseOpen {
		t.Fatalf("the first is %s", first.Containment.Phase)
	}
	b := r.follower("b", staunch.TierIsolate, "rule/x").Containment
	c := r.follower("c", staunch.TierIsolate, "rule/x").Containment
	for _, con := range []staunch.Containment{b, c} {
		if con.Phase != staunch.PhaseWaiting || con.Canary != first.Containment.ID || con.WaitEnds == 0 {
			t.Fatalf("%+v", con)
		}
	}
	// A further ordinary decision leaves it waiting; one by hand does not.
	if o, err := r.ask(contain.OpenRequest{Subject: account("b"), Opener: "again", Decision: "d2", Origin: staunch.OriginPolicy, Tier: staunch.TierIsolate, Playbook: revokeNow, Causes: []string{"rule/x"}}); err != nil || o.Containment.Phase != staunch.PhaseWaiting || o.Containment.ID != b.ID {
		t.Errorf("another decision: %+v, %v", o, err)
	}
	if _, held := r.guard.on(account("b")); held {
		t.Error("one that waits is held on the fast plane")
	}
	hand := r.open(account("c"), staunch.TierIsolate, revokeNow, "by hand")
	if hand.Containment.ID != c.ID || hand.Containment.Phase != staunch.PhaseOpen {
		t.Errorf("asked for by hand it is %s", hand.Containment.Phase)
	}
	r.stop()
	r.start()
	if got := r.caseOf(b.ID).Containment; got.Phase != staunch.PhaseWaiting {
		t.Errorf("after a restart it is %s", got.Phase)
	}
	close(let)
	r.await(first.Containment.ID, "the canary", phase(staunch.PhaseHeld))
	r.await(b.ID, "who waited", phase(staunch.PhaseHeld))
	// Who comes after the proof does not wait.
	r.platform.AddAccount("d")
	if o := r.follower("d", staunch.TierIsolate, "rule/x"); o.Containment.Phase != staunch.PhaseOpen {
		t.Errorf("after the proof it is %s", o.Containment.Phase)
	}
}

// follower opens a case that policy asks for by rule x; follows names the causes of
// which there were too many.
func (r *rig) follower(name string, tier staunch.Tier, follows ...string) contain.Opened {
	r.t.Helper()
	o, err := r.ask(contain.OpenRequest{
		Subject: account(name), Opener: "d-" + name, Decision: "d-" + name, Origin: staunch.OriginPolicy, Tier: tier, Playbook: revokeNow,
		Causes: []string{"rule/x"}, Follows: follows, Window: 7, Wait: time.Minute,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// TestDeadCanaryStopsTheRest: where the canary fails, people decide on each of the
// rest, and nothing is done for them meanwhile.
func TestDeadCanaryStopsTheRest(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("a")
	r.platform.AddAccount("b")
	r.wrap = func(c connector.Connector) connector.Connector {
		return gate{c, func(_ context.Context, in staunch.Intent, next func(context.Context, staunch.Intent) (staunch.Receipt, error)) (staunch.Receipt, error) {
			if in.Target.Ref == account("a") {
				return staunch.Receipt{}, staunch.Permanent(errors.New("no such thing"))
			}
			return next(context.Background(), in)
		}}
	}
	r.start()
	first := r.follower("a", staunch.TierIsolate).Containment
	b := r.follower("b", staunch.TierIsolate, "rule/x").Containment
	c := r.await(b.ID, "people to be asked", phase(staunch.PhaseApproval))
	if !strings.Contains(c.Containment.Trouble, first.ID) || len(c.Containment.Caps) != 0 || len(c.Steps) != 0 {
		t.Errorf("%+v", c.Containment)
	}
	if got := r.platform.Dump("b"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("it was touched: %q", got)
	}
	asked := r.asked(b.ID)
	if err := r.approve(b.ID, "carol", c.Containment.Scope.Hash(), asked.Hash); err != nil {
		t.Fatal(err)
	}
	r.await(b.ID, "held", phase(staunch.PhaseHeld))
}

// TestCanaryWaitIsBounded: a canary of which nothing is heard does not hold up the
// rest for ever.
func TestCanaryWaitIsBounded(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("a")
	r.platform.AddAccount("b")
	slow := connectortest.NewFakePlatform(staunch.SystemClock{})
	slow.SetDown(true)
	const other = "fake/other"
	r.tune = func(o *contain.Options) { o.Connectors[other] = connectortest.NewFake(slow, other) }
	r.start()
	o, err := r.ask(contain.OpenRequest{
		Subject: staunch.Ref{Kind: staunch.KindAccount, Realm: other, Scheme: "name", Value: "a"}, Opener: "d1", Decision: "d1", Origin: staunch.OriginPolicy,
		Tier: staunch.TierIsolate, Playbook: revokeNow, Causes: []string{"rule/x"}, Window: 7, Wait: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.ask(contain.OpenRequest{
		Subject: account("b"), Opener: "d2", Decision: "d2", Origin: staunch.OriginPolicy, Tier: staunch.TierIsolate, Playbook: revokeNow,
		Causes: []string{"rule/x"}, Follows: []string{"rule/x"}, Window: 7, Wait: 300 * time.Millisecond,
	})
	if err != nil || b.Containment.Phase != staunch.PhaseWaiting || b.Containment.Canary != o.Containment.ID {
		t.Fatalf("%+v, %v", b, err)
	}
	began := time.Now()
	r.await(b.Containment.ID, "held", phase(staunch.PhaseHeld))
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("it went on after %s", took)
	}
}

// TestBarredStep: what was admitted is not called when it may not be any more.
func TestBarredStep(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.tune = func(o *contain.Options) {
		o.Barred = func(_ store.Reader, con staunch.Containment, s staunch.Step) (string, error) {
			if s.Verb == staunch.VerbSuspend && con.Subject == account("bob") {
				return "the group would be too small", nil
			}
			return "", nil
		}
	}
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("it was called: %q", got)
	}
	if !strings.Contains(c.Containment.Trouble, "the group would be too small") {
		t.Errorf("trouble %q", c.Containment.Trouble)
	}
}

// TestWhoRaisesDoesNotApprove: who asks for more than what waits for people is who
// asked for it, whoever asked for less before; that one is another person by now.
func TestWhoRaisesDoesNotApprove(t *testing.T) {
	for _, first := range []string{"", "alice"} { // policy asked, or a person
		r := newRig(t)
		r.platform.AddAccount("bob")
		r.start()
		open := func(opener, who string, tier staunch.Tier) contain.Opened {
			t.Helper()
			o, err := r.ask(contain.OpenRequest{Subject: account("bob"), Opener: opener, Tier: tier, Playbook: revokeNow, Requester: who, Approval: true})
			if err != nil || o.Containment.Phase != staunch.PhaseApproval {
				t.Fatalf("%+v, %v", o, err)
			}
			return o
		}
		con := open("k", first, staunch.TierIsolate).Containment
		r.asked(con.ID)
		if o := open("more", "carol", staunch.TierRevoke); !o.Raised || o.Containment.ID != con.ID {
			t.Fatalf("%+v", o)
		}
		asked := r.asked(con.ID)
		scope := r.caseOf(con.ID).Containment.Scope.Hash()
		r.refused(con.ID, "Carol", scope, asked.Hash, staunch.ErrForbidden, "another person")
		// Whoever asked for less has seen what is asked for now.
		if err := r.approve(con.ID, "alice", scope, asked.Hash); err != nil {
			t.Errorf("first %q: %v", first, err)
		}
	}
}

// TestLessDoesNotFreeMore: what waits for people at a tier is not let go on by a
// request for less that nobody has to approve.
func TestLessDoesNotFreeMore(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	con := r.waiting(account("bob"), "k", revokeNow) // isolate
	r.asked(con.ID)
	for i, who := range []string{"alice", ""} { // a person, and policy
		o, err := r.ask(contain.OpenRequest{Subject: account("bob"), Opener: "less" + who, Tier: staunch.TierRestrict, Playbook: revokeNow, Requester: who})
		if err != nil {
			t.Fatal(err)
		}
		if c := r.caseOf(con.ID).Containment; c.Phase != staunch.PhaseApproval || c.Tier != staunch.TierIsolate {
			t.Errorf("a request for restrict by %q let isolate go on: %s, tier %s", who, c.Phase, c.Tier)
		}
		// What was asked for is done beside it.
		if o.Containment.ID == con.ID || o.Created != (i == 0) || o.Containment.Tier != staunch.TierRestrict || o.Containment.Phase.Idle() {
			t.Errorf("by %q: %+v", who, o)
		}
		r.await(o.Containment.ID, "held", phase(staunch.PhaseHeld))
	}
	if err := r.approve(con.ID, "carol", con.Scope.Hash(), r.asked(con.ID).Hash); err != nil {
		t.Fatal(err)
	}
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
}
