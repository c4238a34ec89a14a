package contain_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/store"
)

// stagedBook walks from restrict to isolate, with an hour to clear it.
var stagedBook = staunch.Playbook{Name: "staged", Stages: []staunch.Stage{
	{Tier: staunch.TierRestrict, Deny: []string{"write"}, Window: staunch.Duration(time.Hour)},
	{Tier: staunch.TierIsolate, Deny: []string{"*"}, Window: staunch.Duration(time.Hour)},
	{Tier: staunch.TierRevoke, Deny: []string{"*"}},
}}

func (r *rig) release(id string) {
	r.t.Helper()
	if err := r.do(func(tx store.Tx) error {
		_, err := r.engine.Release(tx, id, staunch.Release{Reason: "done", By: "alice", Revive: true})
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) ask(req contain.OpenRequest) (contain.Opened, error) {
	var out contain.Opened
	req.Resolution = staunch.Resolution{Ref: req.Subject, Names: []staunch.Ref{req.Subject}}
	req.Since = now().Add(-time.Hour)
	err := r.do(func(tx store.Tx) error {
		var err error
		out, err = r.engine.Open(tx, req)
		return err
	})
	return out, err
}

func (r *rig) residual(id string, at staunch.Time) {
	r.t.Helper()
	if err := r.do(func(tx store.Tx) error {
		return r.engine.Residual(tx, id, staunch.Event{ID: "ev", Time: at, Outcome: staunch.OutcomeSuccess})
	}); err != nil {
		r.t.Fatal(err)
	}
}

// A stage that leaves the subject some access must not be driven on by its use.
func TestUseOfWhatIsLeftIsNotResidual(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, stagedBook, "k").Containment
	r.await(con.ID, "the first window", phase(staunch.PhaseWindow))
	r.residual(con.ID, now().Add(time.Minute))
	if c := r.caseOf(con.ID).Containment; c.Residual != 0 || c.WindowEnds < now().Add(50*time.Minute) || c.Phase != staunch.PhaseWindow {
		t.Fatalf("an allowed read: residual %d, window until %s, %s", c.Residual, c.WindowEnds, c.Phase)
	}
	if err := r.do(func(tx store.Tx) error { _, err := r.engine.AdvanceWindow(tx, con.ID, "alice"); return err }); err != nil {
		t.Fatal(err)
	}
	r.await(con.ID, "isolation", func(c contain.Case) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Stage == 1
	})
	// What was let through before this stage was proven is not residual either.
	r.residual(con.ID, now().Add(-time.Second))
	if c := r.caseOf(con.ID).Containment; c.Residual != 0 {
		t.Fatalf("success before the stage counts: %d", c.Residual)
	}
	r.residual(con.ID, now().Add(time.Minute))
	if c := r.caseOf(con.ID).Containment; c.Residual != 1 {
		t.Fatalf("success after isolation does not count: %d", c.Residual)
	}
}

// An expiry inside a window used to be passed over, in a loop without pause.
func TestExpiryInsideAWindow(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	p := stagedBook
	p.Expiry, p.OnExpiry = staunch.Duration(100*time.Millisecond), staunch.ExpiryRelease
	con := r.open(account("bob"), staunch.TierRestrict, p, "k").Containment
	r.await(con.ID, "release", phase(staunch.PhaseReleased))
	// The fast plane hears of a commit after readers see it.
	r.await(con.ID, "the end of the hold", func(contain.Case) bool {
		_, held := r.guard.on(account("bob"))
		return !held
	})
}

// A case that cannot even be planned runs out all the same (I8).
func TestExpiryWhileThePlatformIsDown(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.SetDown(true)
	r.start()
	p := revokeNow
	p.Expiry, p.OnExpiry = staunch.Duration(100*time.Millisecond), staunch.ExpiryKeep
	con := r.open(account("bob"), staunch.TierIsolate, p, "k").Containment
	c := r.await(con.ID, "expiry", func(c contain.Case) bool { return c.Containment.Expires == 0 })
	if !strings.Contains(c.Containment.Trouble, "ran out") {
		t.Errorf("trouble %q", c.Containment.Trouble)
	}
	// Nor is that forgotten when the platform is back.
	r.platform.SetDown(false)
	c = r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if !strings.Contains(c.Containment.Trouble, "ran out") {
		t.Errorf("trouble %q once it was planned", c.Containment.Trouble)
	}
}

// A raise by another playbook must not take back what is in force.
func TestRaiseNeverWeakens(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "a").Containment
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	again := r.open(account("bob"), staunch.TierRevoke, stagedBook, "b")
	if !again.Raised || again.Containment.Stage != 1 {
		t.Fatalf("raised %t to stage %d", again.Raised, again.Containment.Stage)
	}
	if h, ok := r.guard.on(account("bob")); !ok || !slices.Contains(h.Deny, "*") {
		t.Errorf("the fast plane was opened again: %v", h.Deny)
	}
	c := r.await(con.ID, "the playbook's window", phase(staunch.PhaseWindow))
	if c.Containment.WindowEnds < now().Add(50*time.Minute) || !strings.HasPrefix(r.platform.Dump("bob"), "disabled") {
		t.Errorf("window until %s, account %q", c.Containment.WindowEnds, r.platform.Dump("bob"))
	}
}

// What a person has to approve does not come in by way of a case in force.
func TestApprovalIsNotBypassedByARaise(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	var admitted atomic.Int64
	r.tune = func(o *contain.Options) {
		o.Admit = func(tx store.Tx, con staunch.Containment) ([]string, error) {
			if admitted.Add(1) > 1 {
				return nil, staunch.ErrConflict
			}
			_, err := tx.Reserve("open/global", 5, 0, true)
			return []string{"open/global"}, err
		}
	}
	r.start()
	low := r.open(account("bob"), staunch.TierRestrict, revokeNow, "a").Containment
	r.await(low.ID, "held", phase(staunch.PhaseHeld))
	p := revokeNow
	p.Expiry = staunch.Duration(time.Hour)
	waits, err := r.ask(contain.OpenRequest{Subject: account("bob"), Opener: "b", Tier: staunch.TierRevoke, Playbook: p, Approval: true})
	if err != nil || !waits.Created || waits.Containment.Phase != staunch.PhaseApproval {
		t.Fatalf("%+v, %v", waits, err)
	}
	if c := r.caseOf(low.ID).Containment; c.Tier != staunch.TierRestrict {
		t.Errorf("the case in force went to %s without approval", c.Tier)
	}
	// The same asked again finds the case that waits.
	if again, err := r.ask(contain.OpenRequest{Subject: account("bob"), Opener: "c", Tier: staunch.TierRevoke, Playbook: p, Approval: true}); err != nil || again.Created || again.Containment.ID != waits.Containment.ID {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	expires := r.caseOf(waits.Containment.ID).Containment.Expires
	if err := r.approve(waits.Containment.ID, "carol", waits.Containment.Scope.Hash(), r.asked(waits.Containment.ID).Hash); err != nil {
		t.Fatal(err)
	}
	c := r.await(waits.Containment.ID, "held", phase(staunch.PhaseHeld))
	if !slices.Equal(c.Containment.Caps, []string{"open/global"}) || c.Containment.Expires <= expires {
		t.Errorf("approved: caps %v, expires %s (was %s)", c.Containment.Caps, c.Containment.Expires, expires)
	}
	// Without a place an approval is refused, and nothing is done.
	r.platform.AddAccount("eve")
	full, err := r.ask(contain.OpenRequest{Subject: account("eve"), Opener: "d", Tier: staunch.TierRevoke, Playbook: revokeNow, Approval: true})
	if err != nil {
		t.Fatal(err)
	}
	err = r.approve(full.Containment.ID, "carol", full.Containment.Scope.Hash(), r.asked(full.Containment.ID).Hash)
	if !errors.Is(err, staunch.ErrConflict) || r.caseOf(full.Containment.ID).Containment.Phase != staunch.PhaseApproval {
		t.Errorf("approving without a place gave %v", err)
	}
}

// What was admitted does not wait for the person an earlier decision asked for.
func TestAdmittedEvidenceDoesNotWait(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	waits, err := r.ask(contain.OpenRequest{Subject: account("bob"), Opener: "a", Tier: staunch.TierIsolate, Playbook: revokeNow, Approval: true})
	if err != nil {
		t.Fatal(err)
	}
	o := r.open(account("bob"), staunch.TierIsolate, revokeNow, "b")
	if o.Created || !o.Raised || o.Containment.ID != waits.Containment.ID {
		t.Fatalf("%+v", o)
	}
	r.await(o.Containment.ID, "held", phase(staunch.PhaseHeld))
}

// gate has a connector's mutating calls pass through fn.
type gate struct {
	connector.Connector
	fn func(ctx context.Context, in staunch.Intent, next func(context.Context, staunch.Intent) (staunch.Receipt, error)) (staunch.Receipt, error)
}

func (g gate) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return g.fn(ctx, in, g.Connector.Apply)
}

// A realm that is down or refuses us does not keep the others from being acted
// upon, and is acted upon when it is back.
func TestOneRealmDoesNotHoldUpAnother(t *testing.T) {
	const other = "fake/other"
	r := newRig(t)
	r.platform.AddAccount("bob")
	second := connectortest.NewFakePlatform(staunch.SystemClock{})
	second.AddAccount("bob")
	second.SetDown(true)
	r.tune = func(o *contain.Options) { o.Connectors[other] = connectortest.NewFake(second, other) }
	r.start()
	far := staunch.Ref{Kind: staunch.KindAccount, Realm: other, Scheme: "name", Value: "bob"}
	if err := r.do(func(tx store.Tx) error {
		return tx.PutIdentity(staunch.Identity{V: 1, Name: "robert", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: []staunch.Ref{far, account("bob")}})
	}); err != nil {
		t.Fatal(err)
	}
	con := r.open(staunch.IdentityRef("robert"), staunch.TierIsolate, revokeNow, "k").Containment
	for _, ref := range []staunch.Ref{far, account("bob")} {
		if h, ok := r.guard.on(ref); !ok || h.Deny[0] != "*" {
			t.Errorf("%s of the identity is not held when the commit returns", ref)
		}
	}
	r.await(con.ID, "the realm that is up", func(c contain.Case) bool {
		return len(c.Steps) == 2 && c.Steps[0].State == staunch.StepProven && c.Steps[1].State == staunch.StepProven
	})
	second.SetDown(false)
	c := r.await(con.ID, "the other", phase(staunch.PhaseHeld))
	if len(c.Steps) != 4 || !strings.HasPrefix(second.Dump("bob"), "disabled") {
		t.Errorf("%d steps, %q", len(c.Steps), second.Dump("bob"))
	}
}

// A case that shares a step waits for its proof, and does it itself when its
// maker fails.
func TestSharedStepWhoseMakerFails(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	called, goOn := make(chan struct{}, 10), make(chan struct{})
	var calls atomic.Int64
	r.wrap = func(c connector.Connector) connector.Connector {
		return gate{c, func(ctx context.Context, in staunch.Intent, next func(context.Context, staunch.Intent) (staunch.Receipt, error)) (staunch.Receipt, error) {
			if calls.Add(1) == 1 {
				called <- struct{}{}
				<-goOn
				return staunch.Receipt{}, staunch.Permanent(errors.New("refused"))
			}
			return next(ctx, in)
		}}
	}
	r.start()
	if err := r.do(func(tx store.Tx) error {
		return tx.PutIdentity(staunch.Identity{V: 1, Name: "robert", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: []staunch.Ref{account("bob")}})
	}); err != nil {
		t.Fatal(err)
	}
	a := r.open(account("bob"), staunch.TierIsolate, revokeNow, "a").Containment
	<-called
	b := r.open(staunch.IdentityRef("robert"), staunch.TierIsolate, revokeNow, "b").Containment
	c := r.await(b.ID, "the shared steps", func(c contain.Case) bool { return len(c.Steps) == 2 })
	if c.Steps[0].State != staunch.StepShared || c.Containment.Phase == staunch.PhaseHeld {
		t.Fatalf("%s is %s, the case %s", c.Steps[0].Target, c.Steps[0].State, c.Containment.Phase)
	}
	close(goOn)
	r.await(b.ID, "held", phase(staunch.PhaseHeld))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "disabled") {
		t.Errorf("the case that shared the failed step is held, and the account is %q", got)
	}
	r.await(a.ID, "held with a failed step", phase(staunch.PhaseHeld))
	r.release(a.ID)
	r.await(a.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "disabled") {
		t.Errorf("the failed case's release undid the other's step: %q", got)
	}
	r.release(b.ID)
	r.await(b.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("after the last release the account is %q", got)
	}
}

// What a case left to a person says nothing of the target later: another case
// does its own work. Released once more, the first leaves it as it is.
func TestKeptHoldIsNotShared(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	a := r.open(account("bob"), staunch.TierIsolate, revokeNow, "a").Containment
	r.await(a.ID, "held", phase(staunch.PhaseHeld))
	r.platform.SetState("bob", "archived")
	r.release(a.ID)
	r.await(a.ID, "stuck", phase(staunch.PhaseStuck))
	r.platform.SetState("bob", "enabled")
	if err := r.do(func(tx store.Tx) error {
		return tx.PutIdentity(staunch.Identity{V: 1, Name: "robert", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: []staunch.Ref{account("bob")}})
	}); err != nil {
		t.Fatal(err)
	}
	b := r.open(staunch.IdentityRef("robert"), staunch.TierIsolate, revokeNow, "b").Containment
	r.await(b.ID, "held", phase(staunch.PhaseHeld))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "disabled") {
		t.Errorf("it leans on a hold that an ended case left, and the account is %q", got)
	}
	r.release(a.ID)
	c := r.await(a.ID, "released at last", phase(staunch.PhaseReleased))
	if len(c.Containment.Release.Kept) == 0 || !strings.HasPrefix(r.platform.Dump("bob"), "disabled") {
		t.Errorf("kept %v, account %q", c.Containment.Release.Kept, r.platform.Dump("bob"))
	}
	r.release(b.ID)
	r.await(b.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("in the end the account is %q", got)
	}
}

// A call without an answer may arrive after a release has looked: the release
// waits until it cannot any more.
func TestReleaseWaitsForALateCall(t *testing.T) {
	const timeout = 600 * time.Millisecond
	r := newRig(t)
	r.platform.AddAccount("bob")
	var wg sync.WaitGroup
	var calls atomic.Int64
	unanswered := make(chan struct{})
	r.tune = func(o *contain.Options) { o.CallTimeout = timeout }
	r.wrap = func(c connector.Connector) connector.Connector {
		return gate{c, func(ctx context.Context, in staunch.Intent, next func(context.Context, staunch.Intent) (staunch.Receipt, error)) (staunch.Receipt, error) {
			if calls.Add(1) > 1 {
				return next(ctx, in)
			}
			late := time.NewTimer(timeout / 2)
			wg.Go(func() {
				<-late.C
				if _, err := next(context.Background(), in); err != nil {
					t.Error(err)
				}
			})
			close(unanswered)
			return staunch.Receipt{}, staunch.OutcomeUnknown(errors.New("no answer"))
		}}
	}
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	<-unanswered
	r.release(con.ID)
	r.await(con.ID, "released", phase(staunch.PhaseReleased))
	wg.Wait()
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("the late call stayed in force: %q", got)
	}
}

// blind is a connector whose reads are refused from the first call on.
type blind struct {
	connector.Connector
	called, sees atomic.Bool
}

func (b *blind) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	_, err := b.Connector.Apply(ctx, in)
	b.called.Store(true)
	return staunch.Receipt{}, staunch.OutcomeUnknown(errors.Join(err, errors.New("no answer")))
}

func (b *blind) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	if b.called.Load() && !b.sees.Load() {
		return staunch.State{}, staunch.Denied(errors.New("not allowed to read"))
	}
	return b.Connector.Read(ctx, t, proof)
}

// doubter is a connector whose proof credential sees each effect a read later
// than the acting one.
type doubter struct {
	connector.Connector
	mu     sync.Mutex
	before map[string]staunch.State
	acted  map[string]bool
	proofs map[string]int
}

// Expand leaves every read to Read, where it is seen.
func (d *doubter) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	ex, err := d.Connector.Expand(ctx, req)
	for i := range ex.Actions {
		ex.Actions[i].State = nil
	}
	return ex, err
}

func (d *doubter) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	rec, err := d.Connector.Apply(ctx, in)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.acted[in.Target.String()] = true
	return rec, err
}

func (d *doubter) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	st, err := d.Connector.Read(ctx, t, proof)
	if err != nil {
		return st, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := t.String()
	switch {
	case !d.acted[key]:
		d.before[key] = st
	case proof:
		if d.proofs[key]++; d.proofs[key] == 1 {
			return d.before[key], nil
		}
	}
	return st, nil
}

// What the acting credential reads is no proof: a step is proven when the proof
// credential sees the effect, and not before.
func TestProofIsReadApart(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	d := &doubter{before: map[string]staunch.State{}, acted: map[string]bool{}, proofs: map[string]int{}}
	r.wrap = func(c connector.Connector) connector.Connector { d.Connector = c; return d }
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	d.mu.Lock()
	defer d.mu.Unlock()
	doubted := 0
	for _, s := range c.Steps {
		if s.State != staunch.StepProven {
			t.Errorf("%s is %s: %s", s.Target, s.State, c.Containment.Trouble)
		}
		key := s.Target.String()
		if !d.acted[key] || !d.before[key].Effective {
			continue // nothing was there to take away
		}
		doubted++
		if d.proofs[key] < 2 {
			t.Errorf("%s was taken for proven after %d proof reads, of which the first saw no effect", s.Target, d.proofs[key])
		}
	}
	if doubted == 0 {
		t.Error("no effect was doubted")
	}
}

// A step that failed without anybody knowing whether it took effect is undone at
// release like any other.
func TestFailedStepThatMayHaveTakenEffect(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	b := &blind{}
	r.tune = func(o *contain.Options) { o.CallTimeout = 300 * time.Millisecond }
	r.wrap = func(c connector.Connector) connector.Connector { b.Connector = c; return b }
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if c.Steps[0].State != staunch.StepFailed || !strings.HasPrefix(r.platform.Dump("bob"), "disabled") {
		t.Fatalf("%s is %s, the account %q", c.Steps[0].Target, c.Steps[0].State, r.platform.Dump("bob"))
	}
	if !strings.Contains(c.Containment.Trouble, "not allowed to read") {
		t.Errorf("trouble %q", c.Containment.Trouble)
	}
	b.sees.Store(true)
	r.release(con.ID)
	r.await(con.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("after the release the account is %q", got)
	}
}

// A derived session of a protected account is not ended, nor held.
func TestDerivedOfAProtectedAccount(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.AddAccount("glass")
	r.protect = func(ref staunch.Ref) string {
		if ref == account("glass") {
			return "the break-glass account"
		}
		return ""
	}
	r.start()
	id := r.platform.Login("glass")
	if err := r.do(func(tx store.Tx) error {
		f := staunch.Fact{V: 1, Type: staunch.FactSessionStarted, Subject: session(id), Of: account("glass"), By: account("bob"), Time: now(), Learned: now(), Source: "t"}
		f.ID = staunch.FactID(f)
		_, err := tx.PutFact(f)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if !r.platform.Use(id) {
		t.Error("the protected account's session was ended")
	}
	if _, held := r.guard.on(session(id)); held {
		t.Error("the protected account's session is held on the fast plane")
	}
}

// When the same opener asks again after its case has ended, it gets that case,
// and the places reserved for it are given back.
func TestEndedOpenerGivesPlacesBack(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	r.release(con.ID)
	r.await(con.ID, "released", phase(staunch.PhaseReleased))
	err := r.do(func(tx store.Tx) error {
		if _, err := tx.Reserve("open/global", 5, 0, true); err != nil {
			return err
		}
		o, err := r.engine.Open(tx, contain.OpenRequest{
			Subject: account("bob"), Resolution: staunch.Resolution{Names: []staunch.Ref{account("bob")}},
			Opener: "k", Tier: staunch.TierIsolate, Playbook: revokeNow, Caps: []string{"open/global"},
		})
		if o.Containment.Phase != staunch.PhaseReleased || o.Created {
			t.Errorf("%+v", o)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.View(t.Context(), func(rd store.Reader) error {
		c, err := rd.Cap("open/global")
		if c.Used != 0 {
			t.Errorf("%d places leaked", c.Used)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// While one node is in a call, another that looks at the same case calls nothing.
func TestAnotherNodeWaitsForTheLease(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	called, goOn := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	r.wrap = func(c connector.Connector) connector.Connector {
		return gate{c, func(ctx context.Context, in staunch.Intent, next func(context.Context, staunch.Intent) (staunch.Receipt, error)) (staunch.Receipt, error) {
			if calls.Add(1) == 1 {
				close(called)
				<-goOn
			}
			return next(ctx, in)
		}}
	}
	var opt contain.Options
	r.tune = func(o *contain.Options) { o.Node, opt = "one", *o }
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	<-called
	opt.Node = "two"
	looked := make(chan struct{}, 100)
	opt.Observer = observer(func(a contain.ActionKind) {
		if a == contain.DoLook {
			looked <- struct{}{}
		}
	})
	two, err := contain.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() { cancel(); two.Wait() }()
	if err := two.Start(ctx); err != nil {
		t.Fatal(err)
	}
	<-looked
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls while the first is under way", n)
	}
	close(goOn)
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if l := r.platform.Ledger(); len(l) != 1 { // bob has no sessions to end
		t.Errorf("ledger %v", l)
	}
}

type observer func(contain.ActionKind)

func (o observer) Observe(_ string, a contain.ActionKind, _ string, _, _ time.Time, _ error) { o(a) }

// jumping is a clock that somebody sets.
type jumping struct{ by atomic.Int64 }

func (j *jumping) Now() time.Time { return time.Now().Add(time.Duration(j.by.Load())) }

// A clock that was set forward releases nothing, and people are told.
func TestClockJumpSuspendsExpiry(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	clock := &jumping{}
	r.tune = func(o *contain.Options) { o.Clock = clock }
	r.start()
	p := stagedBook
	p.Stages = slices.Clone(p.Stages[:1])
	p.Stages[0].Window = 0
	p.Expiry, p.OnExpiry = staunch.Duration(time.Hour), staunch.ExpiryRelease
	con := r.open(account("bob"), staunch.TierRestrict, p, "k").Containment
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	clock.by.Store(int64(2 * time.Hour))
	c := r.await(con.ID, "trouble", func(c contain.Case) bool { return c.Containment.Trouble != "" })
	if c.Containment.Phase != staunch.PhaseHeld || !strings.Contains(c.Containment.Trouble, "clock") {
		t.Errorf("%s, trouble %q", c.Containment.Phase, c.Containment.Trouble)
	}
	if _, held := r.guard.on(account("bob")); !held {
		t.Error("the jump released it")
	}
	// Once the clock is right again it expires as it should.
	clock.by.Store(0)
	if err := r.do(func(tx store.Tx) error {
		con, err := tx.Containment(con.ID)
		if err != nil {
			return err
		}
		con.Expires = now()
		return tx.PutContainment(con)
	}); err != nil {
		t.Fatal(err)
	}
	r.engine.Kick(con.ID)
	r.await(con.ID, "release", phase(staunch.PhaseReleased))
}

// A preview reads and changes nothing; what is down is among the gaps.
func TestPreviewChangesNothing(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	con := contain.Would(account("bob"), staunch.TierIsolate, revokeNow, now())
	d, err := r.engine.Preview(t.Context(), con)
	if err != nil || len(d.Items) != 2 || d.Items[0].Found == "" {
		t.Fatalf("%+v, %v", d, err)
	}
	r.platform.SetDown(true)
	if _, err := r.engine.Preview(t.Context(), con); staunch.ClassOf(err) != staunch.ClassTransient {
		t.Errorf("of a platform that is down: %v", err)
	}
	if l := r.platform.Ledger(); len(l) != 0 {
		t.Errorf("ledger %v", l)
	}
	if err := r.store.View(t.Context(), func(rd store.Reader) error {
		heads, err := rd.Heads()
		n, err2 := rd.HoldSeq()
		if len(heads) != 0 || n != 0 {
			t.Errorf("it wrote: %v, hold sequence %d", heads, n)
		}
		return errors.Join(err, err2)
	}); err != nil {
		t.Fatal(err)
	}
}
