package contain_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
)

// isolateNow takes everything at once; its scope has no closure.
var isolateNow = staunch.Playbook{Name: "cut", Stages: []staunch.Stage{{Tier: staunch.TierIsolate, Deny: []string{"*"}}}}

// draw makes a signed plan of the subject as it is now.
func (r *rig) draw(subject staunch.Ref, p staunch.Playbook, change ...func(*staunch.PlanFile)) staunch.PlanFile {
	r.t.Helper()
	con := contain.Would(subject, staunch.TierIsolate, p, now().Add(-time.Hour))
	d, err := r.engine.Preview(r.t.Context(), con)
	if err != nil {
		r.t.Fatal(err)
	}
	f := d.File(con)
	f.Bundle, f.Made, f.MadeBy, f.Until = "sha256:b", now(), "alice", now().Add(time.Hour)
	for _, c := range change {
		c(&f)
	}
	if f, err = contain.SignPlan(r.keys, f); err != nil {
		r.t.Fatal(err)
	}
	return f
}

// apply does what a server does with a file: it looks whether it is authentic,
// was applied already, still holds, and opens its case.
func (r *rig) apply(f staunch.PlanFile, approver string) (contain.Opened, error) {
	if err := contain.VerifyPlan(r.keys, f); err != nil {
		return contain.Opened{}, err
	}
	p, err := r.engine.Recheck(r.t.Context(), f)
	if err != nil {
		return contain.Opened{}, err
	}
	return r.openPlanned(p, approver)
}

func (r *rig) openPlanned(p contain.Planned, approver string) (out contain.Opened, err error) {
	p.Approver = approver
	err = r.do(func(tx store.Tx) error {
		if con, ok, err := contain.Applied(tx, p.File); err != nil || ok {
			out = contain.Opened{Containment: con}
			return err
		}
		res := staunch.Resolution{Ref: p.File.Subject, Names: []staunch.Ref{p.File.Subject}}
		out, err = r.engine.OpenPlanned(tx, p, contain.OpenRequest{Resolution: res, Origin: staunch.OriginManual, Requester: "carol"})
		return err
	})
	return out, err
}

// untouched fails the test where anything was opened or called.
func (r *rig) untouched(what string) {
	r.t.Helper()
	err := r.store.View(r.t.Context(), func(rd store.Reader) error {
		cs, err := rd.Containments(store.Page{}, false)
		if len(cs) != 0 {
			r.t.Errorf("%s: there are cases: %+v", what, cs)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if l := r.platform.Ledger(); len(l) != 0 {
		r.t.Errorf("%s: the platform was called: %v", what, l)
	}
}

// counting counts what is asked of a platform.
type counting struct {
	connector.Connector
	expands atomic.Int64
}

func (c *counting) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	c.expands.Add(1)
	return c.Connector.Expand(ctx, req)
}

func TestAPlanFileIsCarriedOutAsItStands(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.Login("bob")
	var c *counting
	r.wrap = func(conn connector.Connector) connector.Connector { c = &counting{Connector: conn}; return c }
	r.start()
	f := r.draw(account("bob"), isolateNow)
	if len(f.Targets) != 2 || f.Scope.Closure != "none" || len(f.Guard) != 1 {
		t.Fatalf("the plan is %+v", f)
	}
	// It goes to a file and back.
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var back staunch.PlanFile
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	r.untouched("drawing a plan")
	asked := c.expands.Load()
	// Sessions come and go: the same call still ends them all.
	later := r.platform.Login("bob")

	o, err := r.apply(back, "")
	if err != nil || !o.Created {
		t.Fatalf("applying gave %+v, %v", o, err)
	}
	if h, ok := r.guard.on(account("bob")); !ok || h.Deny[0] != "*" {
		t.Errorf("the guard hold is not in force when the commit returns: %+v", h)
	}
	cs := r.await(o.Containment.ID, "held", phase(staunch.PhaseHeld))
	con := cs.Containment
	if con.PlanFile != f.Hash || con.Scope.Hash() != f.ScopeHash || con.Requester != "carol" || con.Since != f.Since || con.Children != 0 {
		t.Errorf("the case is %+v", con)
	}
	if len(cs.Steps) != len(f.Targets) {
		t.Fatalf("%d steps, the file has %d", len(cs.Steps), len(f.Targets))
	}
	for i, s := range cs.Steps {
		if s.Target != f.Targets[i].Target || s.Verb != f.Targets[i].Verb || s.Intent.Call != f.Targets[i].Call || s.State != staunch.StepProven {
			t.Errorf("step %d is %s on %s, %s", i, s.Verb, s.Target, s.State)
		}
	}
	if c.expands.Load() != asked {
		t.Error("the platform was asked what else there is")
	}
	if r.platform.Use(later) || !strings.HasPrefix(r.platform.Dump("bob"), "disabled") {
		t.Error("it was not contained")
	}
	// It is released like any other.
	if err := r.do(func(tx store.Tx) error {
		_, err := r.engine.Release(tx, con.ID, staunch.Release{Reason: "a drill", By: "alice", Revive: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.await(con.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("after the release the account is %q", got)
	}
}

// forger signs with something else in the server's name.
type forger struct{ contain.Signer }

func (f forger) MAC(purpose string, parts ...[]byte) []byte {
	if purpose == "plan file" {
		return make([]byte, 32)
	}
	return f.Signer.MAC(purpose, parts...)
}

func TestWhatIsRefusedOfAPlanFile(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.AddAccount("eve")
	protected := ""
	r.protect = func(ref staunch.Ref) string {
		if protected != "" && ref == account(protected) {
			return "the break-glass account"
		}
		return ""
	}
	r.start()
	f := r.draw(account("bob"), isolateNow)
	refused := func(what string, f staunch.PlanFile, want error, says string) {
		t.Helper()
		o, err := r.apply(f, "")
		if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v; want %v that says %q", what, o, err, want, says)
		}
		r.untouched(what)
	}

	// Whatever is edited, the hash tells.
	for what, edit := range map[string]func(*staunch.PlanFile){
		"target":    func(f *staunch.PlanFile) { f.Targets[0].Target.Ref = account("eve") },
		"attribute": func(f *staunch.PlanFile) { f.Targets[0].Target.Attribute = "sessions" },
		"verb":      func(f *staunch.PlanFile) { f.Targets[0].Verb = staunch.VerbRevoke },
		"fewer":     func(f *staunch.PlanFile) { f.Targets = f.Targets[:1] },
		"none":      func(f *staunch.PlanFile) { f.Targets = nil },
		"order":     func(f *staunch.PlanFile) { f.Targets[0], f.Targets[1] = f.Targets[1], f.Targets[0] },
		"before":    func(f *staunch.PlanFile) { f.Targets[0].Before.Digest = staunch.Digest(nil) },
		"probe":     func(f *staunch.PlanFile) { f.Targets[0].Probe = session("x") },
		"scope":     func(f *staunch.PlanFile) { f.Scope.Closure = "derived" },
		"scope and its hash": func(f *staunch.PlanFile) {
			f.Scope.MostTargets = 1000
			f.ScopeHash = f.Scope.Hash()
		},
		"subject":  func(f *staunch.PlanFile) { f.Subject = account("eve") },
		"until":    func(f *staunch.PlanFile) { f.Until = f.Until.Add(time.Hour) },
		"maker":    func(f *staunch.PlanFile) { f.MadeBy = "bea" },
		"approval": func(f *staunch.PlanFile) { f.Approval = !f.Approval },
		"bundle":   func(f *staunch.PlanFile) { f.Bundle = "sha256:other" },
		"playbook": func(f *staunch.PlanFile) { f.Playbook.OnExpiry = staunch.ExpiryRelease },
		"guard":    func(f *staunch.PlanFile) { f.Guard = append(f.Guard, account("eve")) },
		"server":   func(f *staunch.PlanFile) { f.Server = "srv_0000000000000000" },
		"hash":     func(f *staunch.PlanFile) { f.Hash = staunch.Digest(nil) },
	} {
		edited := r.draw(account("bob"), isolateNow)
		edit(&edited)
		refused("edited "+what, edited, staunch.ErrInvalid, "was edited")
	}
	edited := f
	edited.V = 2
	refused("another version", edited, staunch.ErrInvalid, "version 2")
	edited = f
	edited.Signature = ""
	refused("unsigned", edited, staunch.ErrInvalid, "did not sign")
	forged, err := contain.SignPlan(forger{r.keys}, f)
	if err != nil {
		t.Fatal(err)
	}
	refused("forged with a hash that fits", forged, staunch.ErrInvalid, "did not sign")

	key := filepath.Join(t.TempDir(), "key")
	if err := seal.Generate(key); err != nil {
		t.Fatal(err)
	}
	others, err := seal.Load(key)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := contain.SignPlan(others, f)
	if err != nil {
		t.Fatal(err)
	}
	refused("another server's", foreign, staunch.ErrInvalid, "another server")

	// Nobody signs an empty set, and nobody applies one that was signed.
	empty := f
	empty.Targets = nil
	if _, err := contain.SignPlan(r.keys, empty); !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "no target") {
		t.Errorf("signing an empty set gave %v", err)
	}
	if _, err := r.engine.Recheck(t.Context(), empty); !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "no target") {
		t.Errorf("checking an empty set gave %v", err)
	}
	for what, change := range map[string]func(*staunch.PlanFile){
		"a wildcard":      func(f *staunch.PlanFile) { f.Targets[0].Target.Ref.Value = "*" },
		"too many":        func(f *staunch.PlanFile) { f.Scope.MostTargets = 1; f.ScopeHash = f.Scope.Hash() },
		"above its scope": func(f *staunch.PlanFile) { f.Targets[0].Tier = staunch.TierRevoke },
		"twice":           func(f *staunch.PlanFile) { f.Targets[1] = f.Targets[0] },
		"no such stage":   func(f *staunch.PlanFile) { f.Stage = 1 },
		"another's scope": func(f *staunch.PlanFile) { f.Scope.Roots = []staunch.Ref{account("eve")}; f.ScopeHash = f.Scope.Hash() },
	} {
		bad := r.draw(account("bob"), isolateNow)
		change(&bad)
		if _, err := contain.SignPlan(r.keys, bad); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("signing %s gave %v", what, err)
		}
	}

	// Ours, by whatever way it came into the file.
	own := r.draw(account("bob"), isolateNow, func(f *staunch.PlanFile) {
		f.Targets[1].Target.Ref = account(connectortest.FakeOwn)
	})
	refused("our own account", own, staunch.ErrConflict, account(connectortest.FakeOwn).String()+" must not be touched: it is staunch's own account")
	protected = "bob"
	refused("protected since", f, staunch.ErrConflict, account("bob").String()+" must not be touched: protected")
	protected = ""

	// The state that it was planned on.
	r.platform.SetState("bob", "archived")
	refused("changed since", f, staunch.ErrConflict, account("bob").String()+`#enabled: it was "\"enabled\"" and is "\"archived\""`)
	r.platform.AddAccount("bob")
	gone := r.draw(account("bob"), isolateNow, func(f *staunch.PlanFile) { f.Targets[1].Target.Ref = account("nobody") })
	refused("gone since", gone, staunch.ErrConflict, account("nobody").String()+"#sessions: it was")
	undone := r.draw(account("bob"), isolateNow, func(f *staunch.PlanFile) { f.Targets[0].Undo = "nothing" })
	refused("prepared otherwise now", undone, staunch.ErrConflict, "what would be sent now")
	elsewhere := r.draw(account("bob"), isolateNow, func(f *staunch.PlanFile) { f.Targets[0].Target.Ref.Realm = "fake/other" })
	refused("a realm that is gone", elsewhere, staunch.ErrConflict, "no connector is configured for realm fake/other")

	r.platform.SetDown(true)
	if _, err := r.apply(f, ""); staunch.ClassOf(err) != staunch.ClassTransient {
		t.Errorf("on a platform that is down it gave %v", err)
	}
	r.platform.SetDown(false)
	r.untouched("a platform that is down")

	// Nobody applies what they asked somebody else to.
	asked := r.draw(account("bob"), isolateNow, func(f *staunch.PlanFile) { f.Approval = true })
	for _, who := range []string{"", "alice", "Alice"} {
		if _, err := r.apply(asked, who); !errors.Is(err, staunch.ErrForbidden) {
			t.Errorf("applied by %q it gave %v", who, err)
		}
	}
	r.untouched("one's own plan")
	o, err := r.apply(asked, "bea")
	if err != nil || o.Containment.Approver != "bea" {
		t.Fatalf("another person's apply gave %+v, %v", o.Containment, err)
	}
	// And a second case on the same subject is none, whether the first has acted
	// yet or not.
	if _, err := r.apply(f, ""); !errors.Is(err, staunch.ErrConflict) ||
		!strings.Contains(err.Error(), o.Containment.ID+" is open") && !strings.Contains(err.Error(), "not any more as it was") {
		t.Errorf("beside an open case it gave %v", err)
	}
}

func TestAPlanIsAppliedOnce(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	f := r.draw(account("bob"), isolateNow)
	p, err := r.engine.Recheck(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.openPlanned(p, "")
	if err != nil {
		t.Fatal(err)
	}
	// Who lost the answer and asks again gets the same case.
	again, err := r.openPlanned(p, "")
	if err != nil || again.Created || again.Containment.ID != first.Containment.ID {
		t.Fatalf("once more it gave %+v, %v", again, err)
	}
	r.await(first.Containment.ID, "held", phase(staunch.PhaseHeld))
	if err := r.do(func(tx store.Tx) error {
		_, err := r.engine.Release(tx, first.Containment.ID, staunch.Release{Reason: "a false alarm", By: "alice", Revive: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.await(first.Containment.ID, "released", phase(staunch.PhaseReleased))
	calls := len(r.platform.Ledger())
	if _, err := r.apply(f, ""); !errors.Is(err, staunch.ErrConflict) || !strings.Contains(err.Error(), "applied already as "+first.Containment.ID) {
		t.Errorf("after the release it gave %v", err)
	}
	if got := len(r.platform.Ledger()); got != calls {
		t.Errorf("it was called %d times more", got-calls)
	}
}

// TestAPlanSurvivesAStop: what was committed with the case is carried out by
// whoever takes it up.
func TestAPlanSurvivesAStop(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	p, err := r.engine.Recheck(t.Context(), r.draw(account("bob"), isolateNow))
	if err != nil {
		t.Fatal(err)
	}
	r.platform.SetDown(true)
	o, err := r.openPlanned(p, "")
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.platform.SetDown(false)
	r.start()
	c := r.await(o.Containment.ID, "held after the restart", phase(staunch.PhaseHeld))
	if len(c.Steps) != 2 || len(r.platform.Ledger()) != 1 {
		t.Errorf("%d steps, called %v", len(c.Steps), r.platform.Ledger())
	}
}

// TestClosure: what Expand finds beyond the file is contained by a child plan only
// where the file's scope has a closure.
func TestClosure(t *testing.T) {
	for _, derived := range []bool{false, true} {
		t.Run(map[bool]string{false: "none", true: "derived"}[derived], func(t *testing.T) {
			r := newRig(t)
			r.platform.AddAccount("bob")
			r.platform.AddAccount("bob2")
			r.start()
			robert := staunch.IdentityRef("robert")
			declare := func(accounts ...staunch.Ref) {
				t.Helper()
				if err := r.do(func(tx store.Tx) error {
					return tx.PutIdentity(staunch.Identity{V: 1, Name: "robert", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: accounts})
				}); err != nil {
					t.Fatal(err)
				}
			}
			declare(account("bob"))
			p := isolateNow
			p.Derived = derived
			o, err := r.apply(r.draw(robert, p), "")
			if err != nil {
				t.Fatal(err)
			}
			id := o.Containment.ID
			children := map[bool]int{false: 0, true: 1}[derived] // what came since the plan
			r.await(id, "held", func(c contain.Case) bool {
				return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Children == children && !c.Containment.Replan
			})
			declare(account("bob"), account("bob2"))
			if err := r.do(func(tx store.Tx) error {
				return r.engine.Residual(tx, id, staunch.Event{ID: "evt_1", Outcome: staunch.OutcomeSuccess, Time: now().Add(time.Minute), Operation: "read"})
			}); err != nil {
				t.Fatal(err)
			}
			c := r.await(id, "the child plan", func(c contain.Case) bool {
				return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Children == children+1
			})
			left := strings.HasPrefix(r.platform.Dump("bob2"), "enabled")
			told := strings.HasPrefix(c.Containment.Trouble, "outside of the plan that was applied: "+account("bob2").String())
			if _, ok := r.guard.on(account("bob2")); ok != derived {
				t.Errorf("bob2 held on the fast plane: %v", ok)
			}
			if left == derived || told == derived {
				t.Errorf("bob2 is %q, trouble %q", r.platform.Dump("bob2"), c.Containment.Trouble)
			}
			if n := map[bool]int{false: 2, true: 4}[derived]; len(c.Steps) != n {
				t.Errorf("%d steps, want %d", len(c.Steps), n)
			}
		})
	}
}

// TestLaterStagesOfAPlan are planned when their time comes, under the same scope.
func TestLaterStagesOfAPlan(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	stolen := r.platform.Login("bob")
	r.start()
	p := staunch.Playbook{Name: "slow", Stages: []staunch.Stage{
		{Tier: staunch.TierIsolate, Verbs: []staunch.Verb{staunch.VerbIsolate}, Deny: []string{"write"}, Window: staunch.Duration(time.Hour)},
		{Tier: staunch.TierRevoke, Deny: []string{"*"}},
	}}
	con := contain.Would(account("bob"), staunch.TierRevoke, p, now().Add(-time.Hour))
	d, err := r.engine.Preview(t.Context(), con)
	if err != nil {
		t.Fatal(err)
	}
	f := d.File(con)
	f.Made, f.MadeBy, f.Until = now(), "alice", now().Add(time.Hour)
	if f, err = contain.SignPlan(r.keys, f); err != nil || len(f.Targets) != 1 {
		t.Fatalf("%+v, %v", f, err)
	}
	o, err := r.apply(f, "")
	if err != nil {
		t.Fatal(err)
	}
	c := r.await(o.Containment.ID, "window", phase(staunch.PhaseWindow))
	if len(c.Steps) != 1 || r.platform.Use(stolen) || !strings.HasPrefix(r.platform.Dump("bob"), "enabled") {
		t.Fatalf("the first stage: %d steps, %q", len(c.Steps), r.platform.Dump("bob"))
	}
	if err := r.do(func(tx store.Tx) error {
		_, err := r.engine.AdvanceWindow(tx, o.Containment.ID, "alice")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c = r.await(o.Containment.ID, "held", phase(staunch.PhaseHeld))
	if !strings.HasPrefix(r.platform.Dump("bob"), "disabled") || c.Containment.Scope.Hash() != f.ScopeHash {
		t.Errorf("the second stage: %q, scope %+v", r.platform.Dump("bob"), c.Containment.Scope)
	}
}

// TestAPlanNeedsNoLook: the steps of a plan that this process has just committed
// are called at once; they were read when the plan was checked.
func TestAPlanNeedsNoLook(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.Login("bob")
	var w *watched
	var reads []int // before each call
	r.wrap = func(c connector.Connector) connector.Connector {
		w = &watched{Connector: c, between: func([]string) { reads = append(reads, len(w.calls("read"))) }}
		return w
	}
	r.start()
	p, err := r.engine.Recheck(t.Context(), r.draw(account("bob"), isolateNow))
	if err != nil {
		t.Fatal(err)
	}
	before := len(w.calls("read"))
	o, err := r.openPlanned(p, "")
	if err != nil {
		t.Fatal(err)
	}
	r.await(o.Containment.ID, "held", phase(staunch.PhaseHeld))
	if len(reads) != 2 || reads[0] != before || reads[1] != before+1 {
		t.Errorf("%d reads before it was opened, then %v before each call; want the one after the first call alone", before, reads)
	}
}

// TestAPlanBesideAnotherCase: what another case has made by then is shared, and
// what it changes meanwhile is a change like anybody's.
func TestAPlanBesideAnotherCase(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	if err := r.do(func(tx store.Tx) error {
		return tx.PutIdentity(staunch.Identity{V: 1, Name: "robert", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: []staunch.Ref{account("bob")}})
	}); err != nil {
		t.Fatal(err)
	}
	early := r.draw(staunch.IdentityRef("robert"), isolateNow)
	checked, err := r.engine.Recheck(t.Context(), early)
	if err != nil {
		t.Fatal(err)
	}
	con := r.open(account("bob"), staunch.TierIsolate, isolateNow, "k").Containment
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	calls := len(r.platform.Ledger())
	if _, err := r.apply(early, ""); !errors.Is(err, staunch.ErrConflict) || !strings.Contains(err.Error(), account("bob").String()+"#enabled: it was") {
		t.Errorf("a plan from before it gave %v", err)
	}
	// Also where it changed between the check and the commit.
	if o, err := r.openPlanned(checked, ""); err == nil {
		for _, s := range r.caseOf(o.Containment.ID).Steps {
			if s.State != staunch.StepShared {
				t.Errorf("%s is %s: its pre-image is the other case's effect", s.Target, s.State)
			}
		}
		t.Error("a plan that was checked before it was opened")
	} else if !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("a plan that was checked before it gave %v", err)
	}
	o, err := r.apply(r.draw(staunch.IdentityRef("robert"), isolateNow), "")
	if err != nil {
		t.Fatal(err)
	}
	c := r.await(o.Containment.ID, "held", phase(staunch.PhaseHeld))
	for _, s := range c.Steps {
		if s.State != staunch.StepShared {
			t.Errorf("%s is %s, want shared", s.Target, s.State)
		}
	}
	if got := len(r.platform.Ledger()); got != calls {
		t.Errorf("it was called %d times more", got-calls)
	}
}
