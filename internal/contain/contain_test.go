package contain_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const realm = "fake/test"

func account(name string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: "name", Value: name}
}

func session(id string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: realm, Scheme: "id", Value: id}
}

// sink keeps the guard holds it was given.
type sink struct {
	mu    sync.Mutex
	holds map[string]staunch.Hold
}

func (s *sink) Apply(h staunch.Hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds[h.ID].Seq <= h.Seq {
		s.holds[h.ID] = h
	}
}

func (s *sink) on(ref staunch.Ref) (staunch.Hold, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.holds {
		if h.Target.Ref == ref && h.Active() {
			return h, true
		}
	}
	return staunch.Hold{}, false
}

type lineage struct{ inv *inventory.Inventory }

func (l lineage) Resolve(r store.Reader, ref staunch.Ref, at staunch.Time) (staunch.Resolution, error) {
	return l.inv.Resolve(r, ref, at)
}

func (l lineage) Derived(r store.Reader, roots []staunch.Ref, since staunch.Time, limit int) ([]staunch.Ref, bool, error) {
	return l.inv.Derived(r, roots, since, limit)
}

// teller makes a notice an event, so that tests see what people would.
type teller struct{}

func (teller) Notices(event string, c staunch.Containment, _ []staunch.Step, now staunch.Time) []store.Notice {
	return []store.Notice{{ID: c.ID + "/" + event, Channel: "test", About: c.ID, Body: []byte(event), Made: now, Due: now}}
}

type rig struct {
	t        *testing.T
	platform *connectortest.FakePlatform
	store    store.Store
	guard    *sink
	engine   *contain.Engine
	dir      string
	keys     *seal.Keyring
	stop     func()
	wrap     func(connector.Connector) connector.Connector
	protect  func(staunch.Ref) string
	tune     func(*contain.Options)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, platform: connectortest.NewFakePlatform(staunch.SystemClock{}), dir: t.TempDir()}
	key := filepath.Join(r.dir, "key")
	if err := seal.Generate(key); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.keys, err = seal.Load(key); err != nil {
		t.Fatal(err)
	}
	return r
}

// start opens the store and runs an engine on it.
func (r *rig) start() {
	r.t.Helper()
	chain, err := record.NewChain(r.keys.DeriveKey("records"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.store, err = sqlstore.OpenSQLite(r.t.Context(), filepath.Join(r.dir, "db"), sqlstore.Options{Chain: chain})
	if err != nil {
		r.t.Fatal(err)
	}
	var conn connector.Connector = connectortest.NewFake(r.platform, realm)
	if r.wrap != nil {
		conn = r.wrap(conn)
	}
	r.guard = &sink{holds: map[string]staunch.Hold{}}
	opt := contain.Options{
		Store: r.store, Connectors: map[string]connector.Connector{realm: conn}, Sealer: r.keys, Guard: r.guard,
		Lineage: lineage{inventory.New(inventory.Limits{})}, Teller: teller{}, Clock: staunch.SystemClock{}, Protected: r.protect,
	}
	if r.tune != nil {
		r.tune(&opt)
	}
	r.engine, err = contain.New(opt)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.engine.Start(ctx); err != nil {
		r.t.Fatal(err)
	}
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			r.engine.Wait()
			if err := r.store.Close(); err != nil {
				r.t.Error(err)
			}
		})
	}
	r.t.Cleanup(r.stop)
}

func now() staunch.Time { return staunch.TimeOf(time.Now()) }

var revokeNow = staunch.Playbook{Name: "now", Derived: true, Stages: []staunch.Stage{
	{Tier: staunch.TierRestrict, Deny: []string{"write"}},
	{Tier: staunch.TierIsolate, Deny: []string{"*"}},
	{Tier: staunch.TierRevoke, Deny: []string{"*"}},
}}

func (r *rig) open(subject staunch.Ref, tier staunch.Tier, p staunch.Playbook, opener string) contain.Opened {
	r.t.Helper()
	var out contain.Opened
	err := r.store.Update(r.t.Context(), func(tx store.Tx) error {
		var err error
		out, err = r.engine.Open(tx, contain.OpenRequest{
			Subject: subject, Resolution: staunch.Resolution{Ref: subject, Names: []staunch.Ref{subject}},
			Origin: staunch.OriginManual, Opener: opener, Tier: tier, Playbook: p, Requester: "alice", Since: now().Add(-time.Hour),
		})
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// asked waits until the plan that people are asked to approve is drawn.
func (r *rig) asked(id string) staunch.Asked {
	r.t.Helper()
	return *r.await(id, "the plan to approve", func(c contain.Case) bool { return c.Containment.Asked != nil }).Containment.Asked
}

func (r *rig) approve(id, who, scopeHash, planHash string) error {
	return r.do(func(tx store.Tx) error {
		_, err := r.engine.Approve(tx, id, who, scopeHash, planHash)
		return err
	})
}

func (r *rig) do(fn func(tx store.Tx) error) error {
	return r.store.Update(r.t.Context(), fn)
}

func (r *rig) caseOf(id string) contain.Case {
	r.t.Helper()
	var c contain.Case
	err := r.store.View(r.t.Context(), func(rd store.Reader) error {
		var err error
		c, err = contain.ReadCase(rd, id)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// await polls the durable state until ok; the engine's own progress is the only
// clock.
func (r *rig) await(id, what string, ok func(contain.Case) bool) contain.Case {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		c := r.caseOf(id)
		if ok(c) {
			return c
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waiting for %s: phase %s, trouble %q, steps %+v", what, c.Containment.Phase, c.Containment.Trouble, c.Steps)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func phase(p staunch.Phase) func(contain.Case) bool {
	return func(c contain.Case) bool { return c.Containment.Phase == p }
}

func TestContainAndRelease(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	stolen := r.platform.Login("bob")
	before := "enabled"
	r.start()
	con := r.open(account("bob"), staunch.TierRevoke, revokeNow, "k1").Containment
	if h, ok := r.guard.on(account("bob")); !ok || h.Deny[0] != "*" {
		t.Fatalf("the guard hold is not in force when the commit returns: %+v", h)
	}
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if r.platform.Use(stolen) {
		t.Fatal("the stolen session still works")
	}
	if len(c.Steps) != 2 {
		t.Fatalf("%d steps, want suspend and isolate", len(c.Steps))
	}
	for _, s := range c.Steps {
		if s.State != staunch.StepProven {
			t.Errorf("%s is %s", s.Target, s.State)
		}
	}
	// Every call in the platform's own ledger has its step's key, once.
	seen := map[string]int{}
	for _, l := range r.platform.Ledger() {
		key, _, _ := strings.Cut(l, " ")
		seen[key]++
	}
	for _, s := range c.Steps {
		if seen[s.ID] != 1 {
			t.Errorf("step %s is %d times in the ledger %v", s.ID, seen[s.ID], r.platform.Ledger())
		}
	}
	// A release that revives the account's old secret has to be confirmed.
	err := r.do(func(tx store.Tx) error {
		_, err := r.engine.Release(tx, con.ID, staunch.Release{Reason: "false alarm", By: "alice"})
		return err
	})
	var rev *contain.RevivalError
	if !errors.As(err, &rev) || len(rev.Items) != 1 {
		t.Fatalf("an unconfirmed release gave %v", err)
	}
	if err := r.do(func(tx store.Tx) error {
		_, err := r.engine.Release(tx, con.ID, staunch.Release{Reason: "false alarm", By: "alice", Revive: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.await(con.ID, "released", phase(staunch.PhaseReleased))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, before+" ") {
		t.Errorf("after the release the account is %q", got)
	}
	for held := true; held; { // the guard is told right after the commit that await saw
		_, held = r.guard.on(account("bob"))
	}
	err = r.store.View(t.Context(), func(rd store.Reader) error {
		for _, s := range c.Steps {
			if _, err := rd.Sealed(s.PreImage); !errors.Is(err, staunch.ErrNotFound) {
				t.Errorf("the pre-image of %s was not shredded: %v", s.ID, err)
			}
		}
		at, err := contain.SettledAt(rd, account("bob"))
		if at == 0 {
			t.Error("the release did not settle the evidence")
		}
		ns, err2 := rd.Notices(now().Add(time.Hour), 10)
		if len(ns) != 2 || string(ns[0].Body) != "contained" || string(ns[1].Body) != "released" {
			t.Errorf("notices are %+v", ns)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestJudge holds that a verdict changes nothing of the course of a case, in
// whatever phase after its release was asked for.
func TestJudge(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	judge := func(id string, j staunch.Judgement) (con staunch.Containment, err error) {
		err = r.do(func(tx store.Tx) error {
			con, err = r.engine.Judge(tx, id, "ann", j, "looked at it again")
			return err
		})
		return con, err
	}
	id := r.open(account("bob"), staunch.TierIsolate, revokeNow, "a").Containment.ID
	r.await(id, "held", phase(staunch.PhaseHeld))
	if _, err := judge(id, staunch.JudgedWrong); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("before its release: %v", err)
	}
	r.platform.SetDown(true)
	if err := r.do(func(tx store.Tx) error {
		_, err := r.engine.Release(tx, id, staunch.Release{Reason: "done", By: "bea", Revive: true, Verdict: staunch.JudgedRight})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before := r.caseOf(id).Containment
	con, err := judge(id, staunch.JudgedWrong)
	if err != nil || con.Phase != staunch.PhaseReleasing || con.Generation != before.Generation || con.Judged.Given != 2 || con.Judged.By != "ann" {
		t.Errorf("while it is released: %+v, %+v, %v", con, con.Judged, err)
	}
	if _, err := judge(id, "perhaps"); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("no judgement: %v", err)
	}
	r.platform.SetDown(false)
	after := r.await(id, "released", phase(staunch.PhaseReleased)).Containment
	if after.Judged == nil || after.Judged.Verdict != staunch.JudgedWrong || after.Release.Verdict != staunch.JudgedRight {
		t.Errorf("the release lost the verdict: %+v, %+v", after.Judged, after.Release)
	}
	if con, err := judge(id, staunch.JudgedRight); err != nil || con.Judged.Given != 3 || con.Phase != staunch.PhaseReleased {
		t.Errorf("after it: %+v, %v", con.Judged, err)
	}
	if err := r.do(func(tx store.Tx) error {
		con, err := tx.Containment(id)
		con.Drill = "drl_1"
		return errors.Join(err, tx.PutContainment(con))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := judge(id, staunch.JudgedWrong); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("a drill: %v", err)
	}
}

func TestSharedHolds(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	a := r.open(account("bob"), staunch.TierIsolate, revokeNow, "a").Containment
	r.await(a.ID, "held", phase(staunch.PhaseHeld))
	// A second case that reaches the same account by way of another subject.
	if err := r.do(func(tx store.Tx) error {
		return tx.PutIdentity(staunch.Identity{V: 1, Name: "robert", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: []staunch.Ref{account("bob")}})
	}); err != nil {
		t.Fatal(err)
	}
	b := r.open(staunch.IdentityRef("robert"), staunch.TierIsolate, revokeNow, "b").Containment
	cb := r.await(b.ID, "held", phase(staunch.PhaseHeld))
	for _, s := range cb.Steps {
		if s.State != staunch.StepShared {
			t.Errorf("%s is %s, want shared", s.Target, s.State)
		}
	}
	release := func(id string) {
		t.Helper()
		if err := r.do(func(tx store.Tx) error {
			_, err := r.engine.Release(tx, id, staunch.Release{Reason: "done", By: "alice", Revive: true})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		r.await(id, "released", phase(staunch.PhaseReleased))
	}
	release(a.ID)
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "disabled") {
		t.Fatalf("the first release undid what the second case holds: %q", got)
	}
	release(b.ID)
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Fatalf("the last release did not undo it: %q", got)
	}
}

func TestStagedWindow(t *testing.T) {
	staged := staunch.Playbook{Name: "staged", Stages: []staunch.Stage{
		{Tier: staunch.TierRestrict, Deny: []string{"write"}, Window: staunch.Duration(time.Hour)},
		{Tier: staunch.TierIsolate, Deny: []string{"*"}},
	}}
	for _, tc := range []struct {
		name string
		do   func(r *rig, id string) error
		then staunch.Phase
		dump string
	}{
		{"clear", func(r *rig, id string) error {
			return r.do(func(tx store.Tx) error {
				_, err := r.engine.Clear(tx, id, staunch.Release{Reason: "it was a deploy", By: "alice"})
				return err
			})
		}, staunch.PhaseReleased, "enabled"},
		{"advance", func(r *rig, id string) error {
			return r.do(func(tx store.Tx) error {
				_, err := r.engine.AdvanceWindow(tx, id, "alice")
				return err
			})
		}, staunch.PhaseHeld, "disabled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.platform.AddAccount("bob")
			r.start()
			con := r.open(account("bob"), staunch.TierIsolate, staged, "k").Containment
			c := r.await(con.ID, "window", phase(staunch.PhaseWindow))
			if len(c.Steps) != 0 || c.Containment.WindowEnds < now().Add(50*time.Minute) {
				t.Fatalf("in the window: %d steps, ends %s", len(c.Steps), c.Containment.WindowEnds)
			}
			if err := r.do(func(tx store.Tx) error {
				got, err := r.engine.Extend(tx, con.ID, "alice", time.Hour)
				if got.WindowEnds < now().Add(110*time.Minute) {
					t.Errorf("extended to %s", got.WindowEnds)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := tc.do(r, con.ID); err != nil {
				t.Fatal(err)
			}
			r.await(con.ID, string(tc.then), phase(tc.then))
			if got := r.platform.Dump("bob"); !strings.HasPrefix(got, tc.dump) {
				t.Errorf("the account is %q, want %s", got, tc.dump)
			}
		})
	}
}

// TestExtendHasABound: no number of requests puts an end off beyond what can be
// written, after which the case could not be read and no node could start.
func TestExtendHasABound(t *testing.T) {
	staged := staunch.Playbook{Name: "staged", Stages: []staunch.Stage{
		{Tier: staunch.TierRestrict, Deny: []string{"*"}, Window: staunch.Duration(time.Hour)}, {Tier: staunch.TierIsolate, Deny: []string{"*"}},
	}}
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	for subject, p := range map[string]staunch.Playbook{"window": staged, "held": {Name: "x", Expiry: staunch.Duration(time.Hour), Stages: []staunch.Stage{{Tier: staunch.TierIsolate, Deny: []string{"*"}}}}} {
		con := r.open(account(subject), staunch.TierIsolate, p, "k").Containment
		r.await(con.ID, "ready", func(c contain.Case) bool {
			return c.Containment.Phase == staunch.PhaseWindow || c.Containment.Phase == staunch.PhaseHeld
		})
		extend := func(d time.Duration) error {
			return r.do(func(tx store.Tx) error {
				_, err := r.engine.Extend(tx, con.ID, "alice", d)
				return err
			})
		}
		const year = 365 * 24 * time.Hour
		if err := extend(9 * year); err != nil {
			t.Errorf("%s: %v", subject, err)
		}
		for _, d := range []time.Duration{2 * year, 10 * year, 290 * year} {
			if err := extend(d); !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "ten years") {
				t.Errorf("%s by %s: %v", subject, d, err)
			}
		}
		c := r.caseOf(con.ID).Containment
		if end := max(c.WindowEnds, c.Expires); end > now().Add(10*year) {
			t.Errorf("%s ends at %s", subject, end)
		}
	}
}

func TestWindowEndsByItself(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, staunch.Playbook{Name: "staged", Stages: []staunch.Stage{
		{Tier: staunch.TierRestrict, Deny: []string{"write"}, Window: staunch.Duration(30 * time.Millisecond)},
		{Tier: staunch.TierIsolate, Deny: []string{"*"}},
	}}, "k").Containment
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	if h, ok := r.guard.on(account("bob")); !ok || h.Deny[0] != "*" {
		t.Errorf("the guard hold did not go up with the stage: %+v", h)
	}
}

func TestExpiry(t *testing.T) {
	for _, tc := range []struct {
		on      staunch.OnExpiry
		want    staunch.Phase
		trouble string
	}{
		{"", staunch.PhaseHeld, "kept in force"},
		{staunch.ExpiryRelease, staunch.PhaseHeld, "would revive"},
	} {
		t.Run("on expiry "+string(tc.on), func(t *testing.T) {
			r := newRig(t)
			r.platform.AddAccount("bob")
			r.start()
			p := revokeNow
			p.Expiry, p.OnExpiry = staunch.Duration(time.Hour), tc.on
			con := r.open(account("bob"), staunch.TierIsolate, p, "k").Containment
			r.await(con.ID, "held", phase(staunch.PhaseHeld))
			if err := r.do(func(tx store.Tx) error {
				con, err := tx.Containment(con.ID)
				if err != nil {
					return err
				}
				con.Expires = now()
				if err := tx.PutTimer(store.Timer{ID: "con/" + con.ID, Due: now(), Kind: "containment", About: con.ID}); err != nil {
					return err
				}
				return tx.PutContainment(con)
			}); err != nil {
				t.Fatal(err)
			}
			r.engine.Kick(con.ID)
			c := r.await(con.ID, "expiry", func(c contain.Case) bool {
				// It may run out before everything was put in force.
				return c.Containment.Trouble != "" && c.Containment.Phase == tc.want
			})
			if c.Containment.Phase != tc.want || !strings.Contains(c.Containment.Trouble, tc.trouble) {
				t.Errorf("phase %s, trouble %q", c.Containment.Phase, c.Containment.Trouble)
			}
			if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "disabled") {
				t.Errorf("it was silently released: %q", got)
			}
		})
	}
}

func TestProtectedAndOwnAreNeverTouched(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("break-glass")
	r.platform.AddAccount(connectortest.FakeOwn)
	r.protect = func(ref staunch.Ref) string {
		if ref == account("break-glass") {
			return "the break-glass account"
		}
		return ""
	}
	r.start()
	for i, name := range []string{"break-glass", connectortest.FakeOwn} {
		con := r.open(account(name), staunch.TierRevoke, revokeNow, string(rune('a'+i))).Containment
		c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
		if len(c.Steps) != 0 {
			t.Errorf("%s got steps %+v", name, c.Steps)
		}
	}
	if l := r.platform.Ledger(); len(l) != 0 {
		t.Errorf("the platform was called: %v", l)
	}
}

func TestThirdPartyChangeIsNotOverwritten(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
	r.platform.SetState("bob", "archived")
	if err := r.do(func(tx store.Tx) error {
		_, err := r.engine.Release(tx, con.ID, staunch.Release{Reason: "done", By: "alice", Rotated: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c := r.await(con.ID, "stuck", phase(staunch.PhaseStuck))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "archived") {
		t.Errorf("the third party's change was overwritten: %q", got)
	}
	if !strings.Contains(c.Containment.Trouble, "put back") {
		t.Errorf("trouble is %q", c.Containment.Trouble)
	}
}

// losing loses the answer of the first Apply of each target after it took effect.
type losing struct {
	connector.Connector
	mu   sync.Mutex
	lost map[string]bool
}

func (l *losing) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	rc, err := l.Connector.Apply(ctx, in)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && !l.lost[in.Target.Key()] {
		l.lost[in.Target.Key()] = true
		return staunch.Receipt{}, staunch.OutcomeUnknown(errors.New("the answer was lost"))
	}
	return rc, err
}

func TestLostAnswersAreReadNotRepeated(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.Login("bob")
	r.wrap = func(c connector.Connector) connector.Connector {
		return &losing{Connector: c, lost: map[string]bool{}}
	}
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	c := r.await(con.ID, "held", phase(staunch.PhaseHeld))
	for _, s := range c.Steps {
		if s.Attempts != 1 || s.Receipt != nil {
			t.Errorf("%s: %d attempts, receipt %+v; want it read, not repeated", s.Target, s.Attempts, s.Receipt)
		}
	}
	if l := r.platform.Ledger(); len(l) != 2 {
		t.Errorf("ledger is %v", l)
	}
}

func TestResumeAfterAStop(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	r.platform.SetDown(true)
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
	r.stop() // before anything could be planned
	r.platform.SetDown(false)
	r.start()
	r.await(con.ID, "held after the restart", phase(staunch.PhaseHeld))
	if got := r.platform.Dump("bob"); !strings.HasPrefix(got, "disabled") {
		t.Errorf("the account is %q", got)
	}
}

func TestRaiseAndRedelivery(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	first := r.open(account("bob"), staunch.TierRestrict, revokeNow, "k1")
	r.await(first.Containment.ID, "held", phase(staunch.PhaseHeld))
	again := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k2")
	if again.Created || !again.Raised || again.Containment.ID != first.Containment.ID {
		t.Fatalf("the open case was not raised: %+v", again)
	}
	c := r.await(first.Containment.ID, "held at isolate", func(c contain.Case) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Stage == 1
	})
	if len(c.Steps) != 2 || !strings.HasPrefix(r.platform.Dump("bob"), "disabled") {
		t.Errorf("after the raise: %d steps, account %q", len(c.Steps), r.platform.Dump("bob"))
	}
}

func TestApproval(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.start()
	var con staunch.Containment
	err := r.do(func(tx store.Tx) error {
		o, err := r.engine.Open(tx, contain.OpenRequest{
			Subject: account("bob"), Resolution: staunch.Resolution{Names: []staunch.Ref{account("bob")}}, Origin: staunch.OriginManual,
			Opener: "k", Tier: staunch.TierIsolate, Playbook: revokeNow, Requester: "alice", Approval: true,
		})
		con = o.Containment
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.guard.on(account("bob")); ok {
		t.Error("it was held before it was approved")
	}
	asked := r.asked(con.ID)
	if len(asked.Steps) != 2 || asked.Persons != 1 {
		t.Fatalf("asked for %+v", asked)
	}
	if err := r.approve(con.ID, "alice", con.Scope.Hash(), asked.Hash); !errors.Is(err, staunch.ErrForbidden) {
		t.Errorf("the requester's own approval gave %v", err)
	}
	if err := r.approve(con.ID, "carol", "sha256:other", asked.Hash); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("approving another scope gave %v", err)
	}
	if err := r.approve(con.ID, "carol", con.Scope.Hash(), "sha256:other"); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("approving another plan gave %v", err)
	}
	if got := len(r.platform.Ledger()); got != 0 {
		t.Errorf("%d calls before the approval", got)
	}
	if err := r.approve(con.ID, "carol", con.Scope.Hash(), asked.Hash); err != nil {
		t.Fatal(err)
	}
	r.await(con.ID, "held", phase(staunch.PhaseHeld))
}

func TestDerivedLaterIsContainedToo(t *testing.T) {
	r := newRig(t)
	r.platform.AddAccount("bob")
	r.platform.AddAccount("minted")
	r.start()
	con := r.open(account("bob"), staunch.TierIsolate, revokeNow, "k").Containment
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
	r.await(con.ID, "the child plan", func(c contain.Case) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Children == 1
	})
	if r.platform.Use(id) {
		t.Error("the derived session still works")
	}
	if got := r.platform.Dump("minted"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("the session's account was touched: %q", got)
	}
	if _, ok := r.guard.on(session(id)); !ok {
		t.Error("the derived session is not held on the fast plane")
	}
}
