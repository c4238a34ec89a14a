package contain_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/connector/wrap"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/contain/containtest"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// The executor's invariants, held against random stories: several subjects and
// cases, a platform that fails in every way it may, third parties, and engines
// that stop and die. A story runs in a bubble with a clock of its own, so hours
// of backoff and expiry pass in no time.
//
// STAUNCH_PROP_CHECKS sets how many stories are told; the default fits an
// ordinary test run. A failure prints rapid's seed.

// op is one thing that happens. Its numbers are drawn beforehand, since nothing
// may be drawn inside the bubble.
type op struct {
	kind    string
	subject int
	tier    int
	book    int
	pick    int
	rate    int
	wait    int
}

func (o op) String() string {
	return fmt.Sprintf("%s(subject %d, tier %d, book %d, pick %d, rate %d, wait %d)", o.kind, o.subject, o.tier, o.book, o.pick, o.rate, o.wait)
}

var opKinds = []string{
	"open", "open", "open", "open", "derived", "residual", "release", "release", "clear", "advance", "extend", "approve",
	"ask", "approve", "faults", "calm", "down", "up", "third", "stop", "crash", "sleep", "sleep", "login", "refuse", "late", "late",
}

func genOp() *rapid.Generator[op] {
	return rapid.Custom(func(t *rapid.T) op {
		return op{
			kind:    rapid.SampledFrom(opKinds).Draw(t, "kind"),
			subject: rapid.IntRange(0, 6).Draw(t, "subject"),
			tier:    rapid.SampledFrom([]int{1, 2, 2, 3}).Draw(t, "tier"),
			book:    rapid.IntRange(0, 5).Draw(t, "book"),
			pick:    rapid.IntRange(0, 1000).Draw(t, "pick"),
			rate:    rapid.SampledFrom([]int{10, 30, 60}).Draw(t, "rate"),
			wait:    rapid.SampledFrom([]int{0, 0, 1, 20, 200, 1_000, 5_000, 20_000}).Draw(t, "wait"),
		}
	})
}

var propBooks = []staunch.Playbook{
	revokeNow,
	{Name: "direct", Derived: true, Stages: []staunch.Stage{{Tier: staunch.TierIsolate, Deny: []string{"*"}}}},
	{Name: "quiet", Stages: []staunch.Stage{{Tier: staunch.TierIsolate}}},
	{Name: "staged", Derived: true, Stages: []staunch.Stage{
		{Tier: staunch.TierRestrict, Deny: []string{"write"}, Window: staunch.Duration(2 * time.Second)},
		{Tier: staunch.TierIsolate, Deny: []string{"*"}, Window: staunch.Duration(3 * time.Second)},
		{Tier: staunch.TierRevoke, Deny: []string{"*"}},
	}},
	{Name: "short", Derived: true, Expiry: staunch.Duration(4 * time.Second), OnExpiry: staunch.ExpiryRelease, Stages: []staunch.Stage{
		{Tier: staunch.TierRestrict, Deny: []string{"write"}},
		{Tier: staunch.TierIsolate, Deny: []string{"*"}, Window: staunch.Duration(time.Hour)},
	}},
	{Name: "long", Expiry: staunch.Duration(time.Minute), OnExpiry: staunch.ExpiryExtend, Stages: []staunch.Stage{
		{Tier: staunch.TierIsolate, Deny: []string{"*"}},
	}},
}

// world is one story.
type world struct {
	dir      string
	keys     *seal.Keyring
	platform *connectortest.FakePlatform
	store    store.Store
	engine   *contain.Engine
	guard    *sink
	cancel   context.CancelFunc
	openers  int
	cases    []string
	sessions []staunch.Ref
	minted   map[staunch.Ref]bool // sessions that a fact says were derived
	logins   int
	third    map[string]int // changes by third parties, by account
	rate     atomic.Int64
	late     atomic.Int64 // how many calls are still to arrive late
	calls    sync.WaitGroup
	refuse   atomic.Int64 // how many calls are still to be refused for good
	seed     uint64

	mu      sync.Mutex
	audited []string // what was wrong when the platform was called
}

const propCallTimeout = 2 * time.Second

var propAccounts = []string{"ann", "ben", "cat"}

func (w *world) subject(n int) staunch.Ref {
	switch {
	case n < 3:
		return account(propAccounts[n])
	case n == 3:
		return staunch.IdentityRef("robert")
	case n == 4:
		return account("vip")
	case len(w.sessions) > 0:
		return w.sessions[n%len(w.sessions)]
	default:
		return account("ann")
	}
}

// auditor looks, whenever the platform is called to change something, whether
// that was durably intended (invariant I3) and may be touched (I5).
type auditor struct {
	connector.Connector
	connector.Prober
	connector.Own
	w *world
}

func (a auditor) wrong(format string, args ...any) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.w.audited = append(a.w.audited, fmt.Sprintf(format, args...))
}

func (a auditor) check(what string, in staunch.Intent) {
	if why := propProtected(in.Target.Ref); why != "" {
		a.wrong("%s of %s, which is protected (I5)", what, in.Target)
	}
	err := a.w.store.View(context.Background(), func(r store.Reader) error {
		s, err := r.Step(in.Key)
		if errors.Is(err, staunch.ErrNotFound) {
			a.wrong("%s of %s with key %s: no such intent is durable (I3)", what, in.Target, in.Key)
			return nil
		}
		if err != nil {
			return err
		}
		h, err := r.Hold(s.Hold)
		if err != nil {
			return err
		}
		if !h.Active() || what == "revert" && h.State != staunch.HoldReleasing {
			a.wrong("%s of %s while its hold %s is %s", what, in.Target, h.ID, h.State)
		}
		return nil
	})
	if err != nil && !errors.Is(err, staunch.ErrNotFound) {
		return // the store was closed under it
	}
}

func (a auditor) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	a.check("apply", in)
	if a.w.refuse.Add(-1) >= 0 {
		return staunch.Receipt{}, staunch.Permanent(errors.New("refused"))
	}
	if a.late(func() { _, _ = a.Connector.Apply(context.Background(), in) }) {
		return staunch.Receipt{}, staunch.OutcomeUnknown(errors.New("no answer"))
	}
	return a.Connector.Apply(ctx, in)
}

// late has a call arrive at the platform after its caller has given up, though
// within the time that calls may take.
func (a auditor) late(call func()) bool {
	if a.w.late.Add(-1) < 0 {
		return false
	}
	a.w.calls.Go(func() {
		time.Sleep(propCallTimeout - time.Millisecond)
		call()
	})
	return true
}

// Describe has a verb with sweeps, and all need time to be proven.
func (a auditor) Describe() connector.Description {
	d := a.Connector.Describe()
	for i := range d.Verbs {
		d.Verbs[i].Propagation = 100 * time.Millisecond
		if d.Verbs[i].Attribute == "sessions" {
			d.Verbs[i].Sweeps = []time.Duration{50 * time.Millisecond, 400 * time.Millisecond}
		}
	}
	return d
}

func (a auditor) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	a.check("revert", in)
	if a.late(func() { _, _ = a.Connector.Revert(context.Background(), in) }) {
		return staunch.Receipt{}, staunch.OutcomeUnknown(errors.New("no answer"))
	}
	return a.Connector.Revert(ctx, in)
}

func propProtected(ref staunch.Ref) string {
	if strings.HasPrefix(ref.Value, "vip") {
		return "it is a very important person"
	}
	if ref == account(connectortest.FakeOwn) {
		return "ours"
	}
	return ""
}

// start opens the store and runs an engine on it.
func (w *world) start() error {
	chain, err := record.NewChain(w.keys.DeriveKey("records"))
	if err != nil {
		return err
	}
	w.store, err = sqlstore.OpenSQLite(context.Background(), filepath.Join(w.dir, "db"), sqlstore.Options{Chain: chain, Ephemeral: true})
	if err != nil {
		return err
	}
	fake := connectortest.NewFake(w.platform, realm)
	faulty := wrap.Faults(auditor{Connector: fake, Prober: fake, Own: fake, w: w}, func(c wrap.Call, before int) wrap.Fault {
		r := float64(w.rate.Load()) / 100
		return wrap.Seeded(w.seed, wrap.Rates{Before: r, Lost: r, Delayed: r, MostDelay: 2 * propCallTimeout})(c, before)
	})
	w.guard = &sink{holds: map[string]staunch.Hold{}}
	w.engine, err = contain.New(contain.Options{
		Store: w.store, Connectors: map[string]connector.Connector{realm: faulty}, Sealer: w.keys, Guard: w.guard,
		Lineage: lineage{inventory.New(inventory.Limits{})}, Teller: teller{}, Clock: staunch.SystemClock{},
		Protected: propProtected, CallTimeout: propCallTimeout,
		Admit: func(tx store.Tx, _ staunch.Containment) ([]string, error) { return w.reserve(tx) },
	})
	if err != nil {
		return err
	}
	// What a guard does at its start.
	err = w.store.View(context.Background(), func(r store.Reader) error {
		holds, err := r.HoldsAfter(staunch.PlaneGuard, 0, 10_000)
		for _, h := range holds {
			w.guard.Apply(h)
		}
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	return w.engine.Start(ctx)
}

func (w *world) reserve(tx store.Tx) ([]string, error) {
	ok, err := tx.Reserve("open/global", 1000, 0, true)
	if err != nil || !ok {
		return nil, fmt.Errorf("reserving: %v %w", ok, err)
	}
	return []string{"open/global"}, nil
}

// stop ends the engine; a crash takes the store away from under it.
func (w *world) stop(crash bool) error {
	var err error
	if crash {
		err = w.store.Close()
	}
	w.cancel()
	w.engine.Wait()
	if !crash {
		err = w.store.Close()
	}
	return err
}

func (w *world) update(fn func(tx store.Tx) error) error {
	return w.store.Update(context.Background(), fn)
}

// may lets pass what a person may be told: the case is in another phase.
func may(err error) error {
	if errors.Is(err, staunch.ErrConflict) || errors.Is(err, staunch.ErrInvalid) {
		return nil
	}
	return err
}

func (w *world) pick(n int) string {
	if len(w.cases) == 0 {
		return ""
	}
	return w.cases[n%len(w.cases)]
}

func (w *world) do(o op) error {
	time.Sleep(time.Duration(o.wait) * time.Millisecond)
	id := w.pick(o.pick)
	switch o.kind {
	case "open", "ask":
		return w.open(o)
	case "refuse":
		w.refuse.Store(int64(o.tier))
	case "late":
		w.late.Store(int64(o.tier))
	case "login":
		w.login(propAccounts[o.pick%3])
	case "derived":
		if id == "" {
			return nil
		}
		return w.derived(id, o)
	case "residual":
		if id == "" {
			return nil
		}
		return w.update(func(tx store.Tx) error {
			ev := staunch.Event{ID: fmt.Sprintf("ev%d", o.pick), Time: now().Add(time.Hour), Outcome: staunch.OutcomeSuccess}
			return w.engine.Residual(tx, id, ev)
		})
	case "release", "clear":
		if id == "" {
			return nil
		}
		return may(w.update(func(tx store.Tx) error {
			end := w.engine.Release
			if o.kind == "clear" {
				end = w.engine.Clear
			}
			_, err := end(tx, id, staunch.Release{Reason: "r", By: "alice", Revive: true})
			return err
		}))
	case "advance", "extend", "approve":
		if id == "" {
			return nil
		}
		return may(w.update(func(tx store.Tx) error {
			con, err := tx.Containment(id)
			if err != nil {
				return err
			}
			switch o.kind {
			case "advance":
				_, err = w.engine.AdvanceWindow(tx, id, "alice")
			case "extend":
				_, err = w.engine.Extend(tx, id, "alice", time.Duration(o.pick)*time.Millisecond)
			default:
				for _, other := range w.cases { // one that waits for it, if there is one
					if c, err := tx.Containment(other); err == nil && c.Phase == staunch.PhaseApproval && c.Asked != nil {
						con = c
					}
				}
				hash := ""
				if con.Asked != nil {
					hash = con.Asked.Hash
				}
				_, err = w.engine.Approve(tx, con.ID, "carol", con.Scope.Hash(), hash)
			}
			return err
		}))
	case "faults":
		w.rate.Store(int64(o.rate))
	case "calm":
		w.rate.Store(0)
	case "down":
		w.platform.SetDown(true)
	case "up":
		w.platform.SetDown(false)
	case "third":
		name := propAccounts[o.subject%3]
		w.third[name]++
		w.platform.SetState(name, []string{"enabled", "archived", "disabled"}[o.pick%3])
	case "stop", "crash":
		if err := w.stop(o.kind == "crash"); err != nil {
			return err
		}
		return w.start()
	}
	return nil
}

func (w *world) login(name string) staunch.Ref {
	w.logins++
	id := w.platform.Login(name)
	if id == "" {
		return staunch.Ref{}
	}
	w.sessions = append(w.sessions, session(id))
	return session(id)
}

func (w *world) open(o op) error {
	w.openers++
	subject := w.subject(o.subject)
	var out contain.Opened
	err := w.update(func(tx store.Tx) error {
		caps, err := w.reserve(tx)
		if err != nil {
			return err
		}
		approval := o.kind == "ask"
		if approval {
			if err := tx.GiveBack(caps[0]); err != nil {
				return err
			}
			caps = nil
		}
		var causes []string
		if o.pick%4 == 0 { // it waits for the first of those, if that is not proven
			causes = []string{"rule/x"}
		}
		out, err = w.engine.Open(tx, contain.OpenRequest{
			Subject: subject, Resolution: staunch.Resolution{Ref: subject, Names: []staunch.Ref{subject}}, Origin: staunch.OriginPolicy,
			Opener: fmt.Sprintf("d%d", w.openers-o.pick%2), Decision: fmt.Sprintf("d%d", w.openers-o.pick%2), Tier: staunch.Tier(o.tier),
			Playbook: propBooks[o.book], Caps: caps, Since: now().Add(-time.Hour), Approval: approval,
			Causes: causes, Follows: causes, Window: 1, Wait: 20 * time.Millisecond,
		})
		return err
	})
	if err == nil && out.Created {
		w.cases = append(w.cases, out.Containment.ID)
	}
	return err
}

func (w *world) derived(id string, o op) error {
	sub := w.login(propAccounts[o.subject%3])
	if sub.IsZero() {
		return nil
	}
	return w.update(func(tx store.Tx) error {
		con, err := tx.Containment(id)
		if err != nil {
			return err
		}
		by := con.Subject
		if by.Kind == staunch.KindIdentity {
			by = account("ann")
		}
		name, _, _ := strings.Cut(sub.Value, ".")
		f := staunch.Fact{V: 1, Type: staunch.FactSessionStarted, Subject: sub, Of: account(name), By: by, Time: now(), Learned: now(), Source: "t"}
		f.ID = staunch.FactID(f)
		if _, err := tx.PutFact(f); err != nil {
			return err
		}
		w.minted[sub] = true
		return w.engine.Derived(tx, id)
	})
}

func (w *world) read(fn func(r store.Reader) error) error {
	return w.store.View(context.Background(), fn)
}

// settle waits until no case has anything left to do.
func (w *world) settle(done func(contain.Case) bool) error {
	var busy string
	for range 4000 {
		busy = ""
		for _, id := range w.cases {
			err := w.read(func(r store.Reader) error {
				c, err := contain.ReadCase(r, id)
				if err == nil && !done(c) {
					con := c.Containment
					busy += fmt.Sprintf("\n%s on %s is %s at stage %d, replan %v, trouble %q", id, con.Subject, con.Phase, con.Stage, con.Replan, con.Trouble)
					for _, s := range c.Steps {
						busy += fmt.Sprintf("\n  %s %s %s attempts %d not before %s: %s", s.ID, s.Target, s.State, s.Attempts, s.NotBefore, s.Note)
					}
					for _, h := range c.Holds {
						busy += fmt.Sprintf("\n  %s %s %s claims %v steps %v: %s", h.ID, h.Target, h.State, h.Claims, h.Steps, h.Note)
					}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		if busy == "" {
			return nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return errors.New("it does not settle:" + busy)
}

func waiting(c contain.Case) bool {
	con := c.Containment
	soon := func(at staunch.Time) bool { return at != 0 && at < now().Add(10*time.Minute) }
	if con.Phase == staunch.PhaseWindow && soon(con.WindowEnds) ||
		con.Phase.Open() && soon(con.Expires) && con.Playbook.OnExpiry == staunch.ExpiryRelease {
		return false
	}
	switch con.Phase {
	case staunch.PhaseHeld, staunch.PhaseWindow, staunch.PhaseStuck:
		for _, s := range c.Steps {
			switch s.State {
			case staunch.StepIntended, staunch.StepUnknown, staunch.StepApplied, staunch.StepRead:
				return false
			}
		}
		return !con.Replan
	case staunch.PhaseReleased:
		return true
	case staunch.PhaseApproval:
		return con.Asked != nil
	}
	return false
}

func (w *world) run(ops []op) error {
	if err := w.start(); err != nil {
		return err
	}
	err := w.update(func(tx store.Tx) error {
		return tx.PutIdentity(staunch.Identity{
			V: 1, Name: "robert", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true,
			Accounts: []staunch.Ref{account("ann"), account("ben")},
		})
	})
	if err != nil {
		return errors.Join(err, w.stop(false))
	}
	err = w.story(ops)
	w.calls.Wait()
	return errors.Join(err, w.stop(false))
}

func (w *world) story(ops []op) error {
	for i, o := range ops {
		if err := w.do(o); err != nil {
			return fmt.Errorf("%d %s: %w", i, o, err)
		}
	}
	// Faults end, and everything goes its way.
	w.rate.Store(0)
	w.refuse.Store(0)
	w.late.Store(0)
	w.platform.SetDown(false)
	if err := w.settle(waiting); err != nil {
		return err
	}
	if err := w.invariants(false); err != nil {
		return fmt.Errorf("settled: %w", err)
	}
	// Then everything is released; what is stuck a second time.
	for range 4 {
		for _, id := range w.cases {
			if err := may(w.update(func(tx store.Tx) error {
				_, err := w.engine.Release(tx, id, staunch.Release{Reason: "over", By: "alice", Revive: true})
				return err
			})); err != nil {
				return err
			}
		}
		if err := w.settle(func(c contain.Case) bool {
			p := c.Containment.Phase
			return p == staunch.PhaseReleased || p == staunch.PhaseStuck
		}); err != nil {
			return err
		}
	}
	if err := w.settle(phase(staunch.PhaseReleased)); err != nil {
		return err
	}
	if err := w.invariants(true); err != nil {
		return fmt.Errorf("released: %w", err)
	}
	return nil
}

// invariants says what does not hold.
func (w *world) invariants(released bool) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	w.mu.Lock()
	for _, a := range w.audited {
		wrong("%s", a)
	}
	w.mu.Unlock()
	of := w.shared(wrong)
	err := w.read(func(r store.Reader) error {
		of.Ledger(r, w.platform.Ledger(), ":vip", ":"+connectortest.FakeOwn+"#")
		caps := 0
		for _, id := range w.cases {
			c, err := contain.ReadCase(r, id)
			if err != nil {
				return err
			}
			con := c.Containment
			caps += len(con.Caps)
			if con.Phase.Open() && con.Expires != 0 && con.Expires < now().Add(-time.Second) && con.Phase != staunch.PhaseReleasing {
				wrong("I8: %s is %s and ran out at %s", id, con.Phase, con.Expires)
			}
			if err := of.Case(r, c, con.Phase == staunch.PhaseReleased); err != nil {
				return err
			}
		}
		used := 0
		if cp, err := r.Cap("open/global"); err == nil {
			used = cp.Used
		}
		if used != caps {
			wrong("I4: %d places are taken, the cases have %d", used, caps)
		}
		holds, err := of.Holds(r)
		if err != nil {
			return err
		}
		w.guard.mu.Lock()
		defer w.guard.mu.Unlock()
		for _, h := range holds {
			of.Follows("the guard", w.guard.holds[h.ID], h)
		}
		return nil
	})
	if released {
		for _, name := range propAccounts {
			if got := w.platform.Dump(name); w.third[name] == 0 && !strings.HasPrefix(got, "enabled ") {
				wrong("I9: %s was enabled and is %q", name, got)
			}
		}
	}
	return errors.Join(append(errs, err)...)
}

// shared is what the invariants of every world have to know of this one.
func (w *world) shared(wrong func(string, ...any)) containtest.World {
	return containtest.World{
		Dump: w.platform.Dump, Third: w.third, Logins: w.logins, Protected: propProtected, Wrong: wrong,
		Within: func(con staunch.Containment, ref staunch.Ref) bool {
			roots := con.Scope.Roots
			if con.Subject.Kind == staunch.KindIdentity {
				roots = append(slices.Clone(roots), account("ann"), account("ben"))
			}
			return slices.Contains(roots, ref) || w.minted[ref]
		},
	}
}

func TestInvariants(t *testing.T) {
	checks := "25"
	if testing.Short() || raceEnabled {
		checks = "8"
	}
	if n := os.Getenv("STAUNCH_PROP_CHECKS"); n != "" {
		checks = n
	}
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.nofailfile": "true", "rapid.shrinktime": "20s"} {
		f := flag.Lookup(name)
		was := f.Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := flag.Set(name, was); err != nil {
				t.Error(err)
			}
		})
	}
	base := t.TempDir()
	key := filepath.Join(base, "key")
	if err := seal.Generate(key); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Load(key)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		ops := rapid.SliceOfN(genOp(), 8, 40).Draw(rt, "ops")
		rate := rapid.SampledFrom([]int{0, 10, 25, 50}).Draw(rt, "rate")
		seed := rapid.Uint64().Draw(rt, "faults")
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		var err error
		synctest.Test(t, func(*testing.T) {
			w := &world{
				dir: dir, keys: keys, platform: connectortest.NewFakePlatform(staunch.SystemClock{}), seed: seed,
				minted: map[staunch.Ref]bool{}, third: map[string]int{},
			}
			for _, name := range append([]string{"vip", connectortest.FakeOwn}, propAccounts...) {
				w.platform.AddAccount(name)
			}
			w.login("ann")
			w.rate.Store(int64(rate))
			err = w.run(ops)
		})
		if err != nil {
			rt.Fatalf("%v", err)
		}
	})
}
