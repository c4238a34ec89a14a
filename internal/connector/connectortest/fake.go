package connectortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// FakePlatform is a platform in memory: accounts that are enabled or not and
// have sessions. Its methods are safe for concurrent use.
type FakePlatform struct {
	mu       sync.Mutex
	accounts map[string]*fakeAccount
	ledger   []string
	down     bool
	lose     string
	clock    staunch.Clock
	sessions int
}

type fakeAccount struct {
	state    string // "enabled", "disabled", or what a third party made of it
	sessions map[string]bool
}

// NewFakePlatform makes an empty platform with a clock for what it dates.
func NewFakePlatform(clock staunch.Clock) *FakePlatform {
	return &FakePlatform{accounts: map[string]*fakeAccount{}, clock: clock}
}

// AddAccount adds an enabled account, or enables it again.
func (p *FakePlatform) AddAccount(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accounts[name] = &fakeAccount{state: "enabled", sessions: map[string]bool{}}
}

// Login opens a session and returns its id, or "" when the account is not
// enabled.
func (p *FakePlatform) Login(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.accounts[name]
	if a == nil || a.state != "enabled" {
		return ""
	}
	p.sessions++
	id := fmt.Sprintf("%s.%d", name, p.sessions)
	a.sessions[id] = true
	return id
}

// Use reports whether the session works.
func (p *FakePlatform) Use(session string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, _, _ := strings.Cut(session, ".")
	a := p.accounts[name]
	return a != nil && a.sessions[session]
}

// SetState sets an account's state as a third party would.
func (p *FakePlatform) SetState(name, state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.accounts[name]; a != nil {
		a.state = state
	}
}

// SetDown makes the platform unreachable, or reachable again.
func (p *FakePlatform) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// LoseAnswer loses the answer to the next mutating call with the key.
func (p *FakePlatform) LoseAnswer(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = key
}

// Ledger returns a line "key operation target" for every mutating call that
// reached the platform and changed something.
func (p *FakePlatform) Ledger() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ledger)
}

// Dump returns the state of an account.
func (p *FakePlatform) Dump(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.accounts[name]
	if a == nil {
		return "none"
	}
	return a.state + " " + strings.Join(a.list(), ",")
}

func (a *fakeAccount) list() []string {
	out := []string{}
	for s := range a.sessions {
		out = append(out, s)
	}
	sort.Strings(out)
	return out
}

// Fake is a connector to a FakePlatform, to be shared by the tests of rooms
// that need one. It passes the suite.
type Fake struct {
	platform *FakePlatform
	realm    string
	denied   bool

	mu     sync.Mutex
	closed bool
}

var (
	_ connector.Connector = (*Fake)(nil)
	_ connector.Prober    = (*Fake)(nil)
	_ connector.Health    = (*Fake)(nil)
	_ connector.Own       = (*Fake)(nil)
)

// FakeOwn is the name of the account that a Fake acts with.
const FakeOwn = "staunch"

// NewFake makes a connector to p for a realm.
func NewFake(p *FakePlatform, realm string) *Fake { return &Fake{platform: p, realm: realm} }

// Deny makes the platform refuse the connector's credential from now on.
func (f *Fake) Deny() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.denied = true
}

// Describe declares suspend of "enabled", and isolate of "sessions" and of one
// "session".
func (f *Fake) Describe() connector.Description { return fakeDescription(f.realm) }

func fakeDescription(realm string) connector.Description {
	base := connector.VerbSpec{Permissions: []string{"admin"}, Verified: "another read", Survives: []string{"nothing in memory"}, D3FEND: []string{"D3-AL"}}
	suspend, all, one := base, base, base
	suspend.Verb, suspend.Tier, suspend.Attribute = staunch.VerbSuspend, staunch.TierIsolate, "enabled"
	suspend.Kinds, suspend.Schemes, suspend.Narrowest = []staunch.Kind{staunch.KindAccount}, []string{"name"}, staunch.KindAccount
	suspend.Reversibility, suspend.Revives = staunch.Reversible, true
	all.Verb, all.Tier, all.Attribute = staunch.VerbIsolate, staunch.TierIsolate, "sessions"
	all.Kinds, all.Schemes, all.Narrowest = []staunch.Kind{staunch.KindAccount}, []string{"name"}, staunch.KindAccount
	all.Reversibility = staunch.Compensable
	one.Verb, one.Tier, one.Attribute = staunch.VerbIsolate, staunch.TierIsolate, "session"
	one.Kinds, one.Schemes, one.Narrowest = []staunch.Kind{staunch.KindSession}, []string{"id"}, staunch.KindSession
	one.Reversibility = staunch.Compensable
	d := connector.Description{Platform: "fake", Realm: realm, Verbs: []connector.VerbSpec{suspend, all, one}}
	for i := range d.Verbs {
		v := &d.Verbs[i]
		v.Permissions, v.Survives, v.D3FEND = slices.Clone(v.Permissions), slices.Clone(v.Survives), slices.Clone(v.D3FEND)
	}
	return d
}

// FakeConfig is a Fake's configuration.
type FakeConfig struct {
	Note string `yaml:"note" json:"note,omitempty"`
}

// FakeFactory returns the factory of connectors to p.
func FakeFactory(p *FakePlatform) connector.Factory {
	return connector.Factory{
		Platform: "fake",
		New: func(d connector.Deps) (connector.Connector, error) {
			var c FakeConfig
			if err := d.Decode(&c); err != nil {
				return nil, fmt.Errorf("decoding the configuration: %w", err)
			}
			return NewFake(p, d.Realm), nil
		},
		Config:   func() any { return new(FakeConfig) },
		Describe: func() connector.Description { return fakeDescription("") },
	}
}

var (
	errFakeClosed = errors.New("closed")
	errFakeDown   = errors.New("platform is down")
	errFakeDenied = errors.New("wrong credential")
	errFakeLost   = errors.New("connection lost")
)

// enter begins every call that reaches the platform; on success the platform
// is locked.
func (f *Fake) enter(ctx context.Context) error {
	f.mu.Lock()
	closed, denied := f.closed, f.denied
	f.mu.Unlock()
	if closed {
		return staunch.Permanent(errFakeClosed)
	}
	if err := ctx.Err(); err != nil {
		return staunch.Transient(err)
	}
	f.platform.mu.Lock()
	switch {
	case f.platform.down:
		f.platform.mu.Unlock()
		return staunch.Transient(errFakeDown)
	case denied:
		f.platform.mu.Unlock()
		return staunch.Denied(errFakeDenied)
	}
	return nil
}

func (f *Fake) target(t staunch.Target) error {
	r := t.Ref
	if err := r.Validate(); err != nil {
		return staunch.Permanent(err)
	}
	account := r.Kind == staunch.KindAccount && r.Scheme == "name" && (t.Attribute == "enabled" || t.Attribute == "sessions")
	session := r.Kind == staunch.KindSession && r.Scheme == "id" && t.Attribute == "session"
	if r.Realm != f.realm || !account && !session {
		return staunch.Permanent(fmt.Errorf("%w: %s is no target here", staunch.ErrInvalid, t))
	}
	return nil
}

// Expand returns an account's attributes or one session.
func (f *Fake) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	var ex connector.Expansion
	if err := f.enter(ctx); err != nil {
		return ex, err
	}
	defer f.platform.mu.Unlock()
	var all []connector.Action
	r := req.Subject
	name, _, _ := strings.Cut(r.Value, ".")
	a := f.platform.accounts[name]
	switch {
	case r.Realm != f.realm || a == nil || name == FakeOwn:
	case r.Kind == staunch.KindAccount && r.Scheme == "name":
		// It has read the one attribute already; the other is left to Read.
		st := f.read(staunch.Target{Ref: r, Attribute: "enabled"})
		all = append(all,
			connector.Action{Target: st.Target, Verb: staunch.VerbSuspend, State: &st},
			connector.Action{Target: staunch.Target{Ref: r, Attribute: "sessions"}, Verb: staunch.VerbIsolate})
	case r.Kind == staunch.KindSession && r.Scheme == "id" && a.sessions[r.Value]:
		all = append(all, connector.Action{Target: staunch.Target{Ref: r, Attribute: "session"}, Verb: staunch.VerbIsolate})
	}
	if len(all) == 0 {
		ex.Gaps = append(ex.Gaps, staunch.Gap{Ref: r, Reason: "no such account or session, or our own"})
	}
	for _, act := range all {
		if req.Tier >= staunch.TierIsolate && (len(req.Verbs) == 0 || slices.Contains(req.Verbs, act.Verb)) {
			ex.Actions = append(ex.Actions, act)
		}
	}
	return ex, nil
}

// Read reads a target.
func (f *Fake) Read(ctx context.Context, t staunch.Target, _ bool) (staunch.State, error) {
	if err := f.target(t); err != nil {
		return staunch.State{}, err
	}
	if err := f.enter(ctx); err != nil {
		return staunch.State{}, err
	}
	defer f.platform.mu.Unlock()
	return f.read(t), nil
}

func (f *Fake) read(t staunch.Target) staunch.State {
	st := staunch.State{V: staunch.Version, Target: t, ReadAt: staunch.TimeOf(f.platform.clock.Now()), Summary: "not there"}
	name, _, _ := strings.Cut(t.Ref.Value, ".")
	a := f.platform.accounts[name]
	if a == nil {
		return st
	}
	switch t.Attribute {
	case "enabled":
		return fakeState(st, a.state, a.state == "enabled")
	case "sessions":
		return fakeState(st, a.list(), len(a.sessions) > 0)
	default:
		if !a.sessions[t.Ref.Value] {
			return st
		}
		return fakeState(st, "open", true)
	}
}

func fakeState(st staunch.State, body any, effective bool) staunch.State {
	b, err := json.Marshal(body)
	if err != nil { // strings alone
		panic(err)
	}
	st.Exists, st.Effective, st.Body, st.Summary = true, effective, b, string(b)
	return st
}

// Prepare prepares suspend and isolate.
func (f *Fake) Prepare(st staunch.State, verb staunch.Verb) (staunch.Intent, error) {
	if err := f.target(st.Target); err != nil {
		return staunch.Intent{}, err
	}
	want := st
	want.ReadAt = 0
	in := staunch.Intent{Target: st.Target, Verb: verb, Call: string(verb) + " " + st.Target.String(), Undo: "irreversible", Reversibility: staunch.Compensable}
	switch {
	case verb == staunch.VerbSuspend && st.Target.Attribute == "enabled":
		in.Undo, in.Reversibility, in.Revives = "enable", staunch.Reversible, true
		if st.Exists {
			want = fakeState(want, "disabled", false)
		}
	case verb == staunch.VerbIsolate && st.Target.Attribute == "sessions":
		if st.Exists {
			want = fakeState(want, []string{}, false)
		}
	case verb == staunch.VerbIsolate && st.Target.Attribute == "session":
		want.Exists, want.Effective, want.Body, want.Summary = false, false, nil, "not there"
	default:
		return staunch.Intent{}, staunch.Permanent(fmt.Errorf("%w: no %s of %s", staunch.ErrInvalid, verb, st.Target))
	}
	in.Expected = want
	return in, nil
}

// Matches compares existence, effect and body.
func (f *Fake) Matches(expected, actual staunch.State) bool {
	return sameState(expected, actual) == nil
}

func (f *Fake) change(ctx context.Context, in staunch.Intent, undo bool) (staunch.Receipt, error) {
	if err := f.target(in.Target); err != nil {
		return staunch.Receipt{}, err
	}
	if _, err := f.Prepare(in.PreImage, in.Verb); err != nil {
		return staunch.Receipt{}, err
	}
	if err := f.enter(ctx); err != nil {
		return staunch.Receipt{}, err
	}
	defer f.platform.mu.Unlock()
	r := staunch.Receipt{At: staunch.TimeOf(f.platform.clock.Now())}
	now := f.read(in.Target)
	name, _, _ := strings.Cut(in.Target.Ref.Value, ".")
	a := f.platform.accounts[name]
	op := string(in.Verb)
	switch {
	case a == nil:
	case undo && (in.Reversibility != staunch.Reversible || f.Matches(in.PreImage, now)):
	case undo && !f.Matches(in.Expected, now):
		return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("reverting %s: %w", in.Target, staunch.ErrConflict))
	case undo:
		op = "restore"
		if err := json.Unmarshal(in.PreImage.Body, &a.state); err != nil {
			return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("reading the pre-image: %w", err))
		}
		r.Changed = true
	case in.Target.Attribute == "enabled" && a.state != "disabled":
		a.state, r.Changed = "disabled", true
	case in.Target.Attribute == "sessions" && len(a.sessions) > 0:
		clear(a.sessions)
		r.Changed = true
	case in.Target.Attribute == "session" && a.sessions[in.Target.Ref.Value]:
		delete(a.sessions, in.Target.Ref.Value)
		r.Changed = true
	}
	if r.Changed {
		f.platform.ledger = append(f.platform.ledger, in.Key+" "+op+" "+in.Target.String())
	}
	if f.platform.lose != "" && f.platform.lose == in.Key {
		f.platform.lose = ""
		return staunch.Receipt{}, staunch.OutcomeUnknown(errFakeLost)
	}
	return r, nil
}

// Apply makes the change.
func (f *Fake) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return f.change(ctx, in, false)
}

// Revert undoes it.
func (f *Fake) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return f.change(ctx, in, true)
}

// Probe reports whether the target still has an effect.
func (f *Fake) Probe(ctx context.Context, in staunch.Intent) (connector.Probe, error) {
	st, err := f.Read(ctx, in.Target, true)
	return connector.Probe{Works: st.Effective, Conclusive: err == nil, How: "looked into memory"}, err
}

// Check reports an unreachable platform or a refused credential.
func (f *Fake) Check(ctx context.Context) []connector.Finding {
	if err := f.enter(ctx); err != nil {
		return []connector.Finding{{Severity: "error", Message: err.Error()}}
	}
	f.platform.mu.Unlock()
	return nil
}

// OwnRefs returns the account FakeOwn.
func (f *Fake) OwnRefs(context.Context) ([]staunch.Ref, error) {
	return []staunch.Ref{{Kind: staunch.KindAccount, Realm: f.realm, Scheme: "name", Value: FakeOwn}}, nil
}

// Close closes the connector.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}
