// Package connectortest is the suite that every connector passes against its
// real platform, and what tests need beside it: a platform in memory with a
// connector that passes the suite too, and a proxy that cuts connections at a
// chosen moment.
//
// The suite looks at the platform through the harness's own clients, never
// through the connector alone: a connector that reports what it wished for is
// found out.
package connectortest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// Harness says how the suite gets at a platform. Every hook must be set, or
// its name be in Cannot with the reason.
type Harness struct {
	// Factory is the connector's own.
	Factory connector.Factory
	// Realm is the realm that New's connectors have.
	Realm string
	// New makes a connector to the running platform. The suite closes it.
	New func(tb testing.TB) connector.Connector
	// Cases has at least one entry for every verb and attribute of Describe.
	Cases []Case
	// Missing has targets of every scheme on things that are not there.
	Missing []staunch.Target
	// ProofApart fails tb unless c's proof reads of t use another connection or
	// credential than its calls.
	ProofApart func(tb testing.TB, c connector.Connector, t staunch.Target)
	// Denied makes a connector whose credential the platform refuses.
	Denied func(tb testing.TB) connector.Connector
	// Down makes a connector to a platform that does not answer.
	Down func(tb testing.TB) connector.Connector
	// Cut makes a connector, and a function that arms the fault: the first
	// mutating call with key after it reaches the platform, and its answer is
	// lost. Proxy helps with it.
	Cut func(tb testing.TB) (c connector.Connector, arm func(key string))
	// Ledger returns the platform's own log of what it was asked to do.
	Ledger func(tb testing.TB) []string
	// Cannot has the names of hooks (ProofApart, Denied, Down, Cut, Ledger) that
	// the platform makes impossible, each with the reason.
	Cannot map[string]string
	// Settle bounds how long the suite waits, beyond the verb's declared
	// propagation and sweeps, for a read or a thief to agree; default 5 s.
	Settle time.Duration
	// Leaks are further options for the check that no goroutine is left.
	Leaks []goleak.Option
}

// Case is one verb on one attribute.
type Case struct {
	// Name is the subtest's; unique.
	Name string
	Verb staunch.Verb
	// Subject makes a new subject with live access. It is called for every
	// check, so that checks do not meet, and cleans up with tb.Cleanup.
	Subject func(tb testing.TB) Subject
	// Stops says that this verb alone makes Works false.
	Stops bool
	// StaysDead says that Works remains false after Revert although the verb is
	// reversible.
	StaysDead bool
	// Probes says that the connector's Probe is conclusive for this verb, true
	// before and false after.
	Probes bool
}

// Subject is something to be contained, with ways to look at it and use it
// that do not go through the connector.
type Subject struct {
	// Request is what core would ask Expand.
	Request connector.ExpandRequest
	// Target is what the case is about; Expand must return it with the verb.
	Target staunch.Target
	// Works tries the stolen access. It is the thief's own client.
	Works func(ctx context.Context) (bool, error)
	// Observe describes all of the subject's state on the platform, canonically
	// and without anything that changes by itself, through another client.
	Observe func(ctx context.Context) (string, error)
	// Tamper changes the target's attribute as a third party, after Apply, to
	// neither the pre-image nor the expected state. nil where the attribute has
	// no third state, or the verb is not reversible.
	Tamper func(ctx context.Context) error
}

const limit = 60 * time.Second

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Helper()
	leaks := append([]goleak.Option{goleak.IgnoreCurrent()}, h.Leaks...)
	s := newSuite(t, h)
	for _, c := range s.checks() {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
	if err := goleak.Find(leaks...); err != nil {
		t.Errorf("goroutines left after the suite: %v", err)
	}
}

type check struct {
	name string
	run  func(tb testing.TB)
}

type suite struct {
	h    Harness
	desc connector.Description
}

func newSuite(tb testing.TB, h Harness) *suite {
	tb.Helper()
	if h.Settle == 0 {
		h.Settle = 5 * time.Second
	}
	hooks := map[string]bool{
		"ProofApart": h.ProofApart != nil, "Denied": h.Denied != nil, "Down": h.Down != nil,
		"Cut": h.Cut != nil, "Ledger": h.Ledger != nil,
	}
	for name, set := range hooks {
		if set == (h.Cannot[name] != "") {
			tb.Fatalf("harness: set %s or give the reason in Cannot, and only one of them", name)
		}
	}
	for name := range h.Cannot {
		if _, ok := hooks[name]; !ok {
			tb.Fatalf("harness: Cannot[%q] names no hook", name)
		}
	}
	if h.New == nil || len(h.Cases) == 0 || len(h.Missing) == 0 {
		tb.Fatal("harness: New, Cases and Missing must be set")
	}
	s := &suite{h: h}
	c := s.connect(tb)
	s.desc = c.Describe()
	return s
}

func (s *suite) checks() []check {
	out := []check{
		{"describe", s.describe},
		{"factory", s.factory},
		{"missing targets", s.missing},
		{"foreign targets", s.foreign},
		{"own refs", s.own},
		{"health", s.health},
		{"close", s.closing},
	}
	if s.h.Denied != nil {
		out = append(out, check{"wrong credential", s.denied})
	}
	if s.h.Down != nil {
		out = append(out, check{"platform down", s.down})
	}
	for _, c := range s.h.Cases {
		add := func(name string, f func(testing.TB, Case)) {
			out = append(out, check{c.Name + "/" + name, func(tb testing.TB) { f(tb, c) }})
		}
		add("expand", s.expand)
		add("prepare", s.prepare)
		add("apply and revert", s.applyRevert)
		add("revert without apply", s.revertFirst)
		add("third party", s.thirdParty)
		add("contexts", s.contexts)
		add("concurrent", s.concurrent)
		if s.h.ProofApart != nil {
			add("proof apart", s.proofApart)
		}
		if s.h.Cut != nil {
			add("answer lost", s.cut)
		}
	}
	return out
}

// ---- helpers

func (s *suite) connect(tb testing.TB) connector.Connector {
	tb.Helper()
	c := s.h.New(tb)
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Errorf("closing: %v", err)
		}
	})
	return c
}

func bounded(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	tb.Cleanup(cancel)
	return ctx
}

func (s *suite) spec(t staunch.Target, v staunch.Verb) (connector.VerbSpec, error) {
	for _, vs := range s.desc.Verbs {
		attr := vs.Attribute == t.Attribute
		if strings.HasSuffix(vs.Attribute, "/") {
			attr = strings.HasPrefix(t.Attribute, vs.Attribute) && len(t.Attribute) > len(vs.Attribute)
		}
		if vs.Verb == v && attr && slices.Contains(vs.Kinds, t.Ref.Kind) && slices.Contains(vs.Schemes, t.Ref.Scheme) {
			return vs, nil
		}
	}
	return connector.VerbSpec{}, fmt.Errorf("Describe declares no verb %q for %s", v, t)
}

func sameState(a, b staunch.State) error {
	switch {
	case a.Exists != b.Exists:
		return fmt.Errorf("exists %t, want %t", b.Exists, a.Exists)
	case a.Effective != b.Effective:
		return fmt.Errorf("effective %t, want %t", b.Effective, a.Effective)
	case !bytes.Equal(a.Body, b.Body):
		return fmt.Errorf("body %s, want %s", b.Body, a.Body)
	}
	return nil
}

func mustJSON(tb testing.TB, v any) string {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatalf("marshalling: %v", err)
	}
	return string(b)
}

func observe(ctx context.Context, tb testing.TB, sub Subject) string {
	tb.Helper()
	o, err := sub.Observe(ctx)
	if err != nil {
		tb.Fatalf("harness: observing: %v", err)
	}
	return o
}

func works(ctx context.Context, tb testing.TB, sub Subject) bool {
	tb.Helper()
	ok, err := sub.Works(ctx)
	if err != nil {
		tb.Fatalf("harness: trying the stolen access: %v", err)
	}
	return ok
}

func (s *suite) read(ctx context.Context, tb testing.TB, c connector.Connector, t staunch.Target) staunch.State {
	tb.Helper()
	var both [2]staunch.State
	for i, proof := range []bool{false, true} {
		st, err := c.Read(ctx, t, proof)
		if err != nil {
			tb.Fatalf("reading %s (proof %t): %v", t, proof, err)
		}
		if st.V != staunch.Version || st.Target != t || st.ReadAt == 0 || st.Summary == "" {
			tb.Fatalf("reading %s: V, Target, ReadAt or Summary is not set: %s", t, mustJSON(tb, st))
		}
		if len(st.Body) > 0 && !json.Valid(st.Body) {
			tb.Fatalf("reading %s: the body is not JSON: %s", t, st.Body)
		}
		both[i] = st
	}
	if err := sameState(both[0], both[1]); err != nil {
		tb.Fatalf("reading %s: a proof read of the same state differs: %v", t, err)
	}
	return both[1]
}

const stepKey = "stp_conformance"

// intent expands nothing: it reads and prepares as core does.
func (s *suite) intent(ctx context.Context, tb testing.TB, c connector.Connector, k Case, sub Subject) staunch.Intent {
	tb.Helper()
	pre := s.read(ctx, tb, c, sub.Target)
	if !pre.Exists || !pre.Effective {
		tb.Fatalf("a subject with live access reads as %s", mustJSON(tb, pre))
	}
	in, err := c.Prepare(pre, k.Verb)
	if err != nil {
		tb.Fatalf("preparing %s of %s: %v", k.Verb, sub.Target, err)
	}
	return complete(in, pre)
}

// complete fills in what core fills in.
func complete(in staunch.Intent, pre staunch.State) staunch.Intent {
	in.Key = fmt.Sprintf("%s_%s_%d", stepKey, pre.Target.Key()[:8], time.Now().UnixNano())
	in.Generation = 1
	in.Target = pre.Target
	in.PreImage = pre
	in.Deadline = staunch.TimeOf(time.Now().Add(limit))
	return in
}

// until polls cond within the harness's bound: a platform's propagation is on
// the real clock.
func (s *suite) until(ctx context.Context, tb testing.TB, extra time.Duration, what string, cond func() (bool, string)) {
	tb.Helper()
	deadline := time.NewTimer(extra + s.h.Settle)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, got := cond()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("%s: %v; last: %s", what, ctx.Err(), got)
		case <-deadline.C:
			tb.Fatalf("%s: not within %s; last: %s", what, extra+s.h.Settle, got)
		}
	}
}

// prove reads until the state matches, as core does after the propagation.
func (s *suite) prove(ctx context.Context, tb testing.TB, c connector.Connector, in staunch.Intent) staunch.State {
	tb.Helper()
	spec, err := s.spec(in.Target, in.Verb)
	if err != nil {
		tb.Fatal(err)
	}
	var st staunch.State
	s.until(ctx, tb, spec.Propagation, "proof read of "+in.Target.String(), func() (bool, string) {
		st, err = c.Read(ctx, in.Target, true)
		if err != nil {
			tb.Fatalf("proof read: %v", err)
		}
		return c.Matches(in.Expected, st), mustJSON(tb, st) + " expected " + mustJSON(tb, in.Expected)
	})
	return st
}

func (s *suite) apply(ctx context.Context, tb testing.TB, c connector.Connector, in staunch.Intent) staunch.Receipt {
	tb.Helper()
	r, err := c.Apply(ctx, in)
	if err != nil {
		tb.Fatalf("applying %s to %s: %v", in.Verb, in.Target, err)
	}
	if r.At == 0 {
		tb.Fatalf("applying %s to %s: the receipt has no time", in.Verb, in.Target)
	}
	return r
}

func (s *suite) back(ctx context.Context, tb testing.TB, c connector.Connector, pre staunch.State) {
	tb.Helper()
	s.until(ctx, tb, 0, "the pre-image of "+pre.Target.String(), func() (bool, string) {
		st, err := c.Read(ctx, pre.Target, true)
		if err != nil {
			tb.Fatalf("reading after revert: %v", err)
		}
		err = sameState(pre, st)
		return err == nil, fmt.Sprint(err)
	})
}

// ---- checks of the connector as a whole

func (s *suite) describe(tb testing.TB) {
	c := s.connect(tb)
	d := c.Describe()
	if d.Platform == "" || d.Realm != s.h.Realm || len(d.Verbs) == 0 {
		tb.Fatalf("platform %q, realm %q (want %q), %d verbs", d.Platform, d.Realm, s.h.Realm, len(d.Verbs))
	}
	before := mustJSON(tb, d)
	covered := map[string]bool{}
	for _, k := range s.h.Cases {
		spec, err := s.spec(k.Subject(tb).Target, k.Verb)
		if err != nil {
			tb.Errorf("case %s: %v", k.Name, err)
		}
		covered[string(spec.Verb)+" "+spec.Attribute] = true
	}
	for i, v := range d.Verbs {
		at := fmt.Sprintf("verb %d (%s %s)", i, v.Verb, v.Attribute)
		want := func(ok bool, what string) {
			if !ok {
				tb.Errorf("%s: %s", at, what)
			}
		}
		want(v.Verb.Valid() && v.Verb != staunch.VerbRestore, "not a verb that a connector declares")
		want(v.Tier > staunch.TierObserve, "no tier")
		want(v.Attribute != "", "no attribute")
		want(len(v.Kinds) > 0, "no kinds")
		for _, k := range v.Kinds {
			want(k.Width() > 0 && k != staunch.KindIdentity, fmt.Sprintf("kind %q cannot be acted upon", k))
		}
		want(len(v.Schemes) > 0, "no schemes")
		for _, sc := range v.Schemes {
			want(staunch.Ref{Kind: staunch.KindAccount, Realm: "r", Scheme: sc, Value: "v"}.Validate() == nil, "scheme "+sc)
		}
		want(slices.Contains([]staunch.Reversibility{staunch.Reversible, staunch.Compensable, staunch.Irreversible}, v.Reversibility), "no reversibility")
		want(v.Narrowest.Width() > 0, "no narrowest scope")
		want(len(v.Survives) > 0, "does not say what survives it")
		want(v.Verified != "", "does not say how it is verified")
		want(len(v.Permissions) > 0, "no permissions")
		want(len(v.D3FEND) > 0, "no D3FEND technique")
		want(v.Propagation >= 0, "negative propagation")
		for _, sw := range v.Sweeps {
			want(sw > 0, "a sweep without a delay")
		}
		want(!v.Revives || v.Reversibility == staunch.Reversible, "revives but is not reversible")
		want(covered[string(v.Verb)+" "+v.Attribute], "no case of the harness covers it")
	}
	// A caller that changes its copy must not change the connector's.
	for i := range d.Verbs {
		d.Verbs[i].Attribute = "changed"
		for j := range d.Verbs[i].Survives {
			d.Verbs[i].Survives[j] = "changed"
		}
		for j := range d.Verbs[i].Kinds {
			d.Verbs[i].Kinds[j] = "changed"
		}
	}
	if after := mustJSON(tb, c.Describe()); after != before {
		tb.Errorf("the description is not stable: %s, then %s", before, after)
	}
}

func (s *suite) factory(tb testing.TB) {
	f := s.h.Factory
	if f.Platform != s.desc.Platform {
		tb.Errorf("the factory's platform is %q, the description's %q", f.Platform, s.desc.Platform)
	}
	if f.New == nil || f.Config == nil || f.Describe == nil {
		tb.Fatal("the factory lacks New, Config or Describe")
	}
	if v := reflect.ValueOf(f.Config()); v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		tb.Errorf("Config returns a %T, want a pointer to a struct", f.Config())
	}
	d := f.Describe()
	d.Realm = s.desc.Realm
	if a, b := mustJSON(tb, d), mustJSON(tb, s.desc); a != b {
		tb.Errorf("the factory describes %s, the connector %s", a, b)
	}
	broken := errors.New("broken configuration")
	c, err := f.New(connector.Deps{Realm: s.h.Realm, Decode: func(any) error { return broken }, Clock: staunch.SystemClock{}})
	if !errors.Is(err, broken) {
		tb.Errorf("a configuration that does not decode: %v", err)
	}
	if c != nil {
		tb.Error("a configuration that does not decode gives a connector")
	}
}

func (s *suite) missing(tb testing.TB) {
	ctx := bounded(tb)
	c := s.connect(tb)
	for _, t := range s.h.Missing {
		st := s.read(ctx, tb, c, t)
		if st.Exists || st.Effective {
			tb.Errorf("%s is not there but reads as %s", t, mustJSON(tb, st))
		}
		for _, v := range s.desc.Verbs {
			if _, err := s.spec(t, v.Verb); err != nil {
				continue
			}
			// Either there is nothing to hold, said permanently, or it is already
			// as wanted.
			in, err := c.Prepare(st, v.Verb)
			if err != nil {
				if staunch.ClassOf(err) != staunch.ClassPermanent {
					tb.Errorf("preparing %s of the missing %s: class %s: %v", v.Verb, t, staunch.ClassOf(err), err)
				}
				continue
			}
			if !c.Matches(in.Expected, st) {
				tb.Errorf("%s of the missing %s: a thing that is not there does not match what is expected", v.Verb, t)
			}
			r, err := c.Apply(ctx, complete(in, st))
			switch {
			case err != nil && staunch.ClassOf(err) != staunch.ClassPermanent:
				tb.Errorf("applying %s to the missing %s: class %s: %v", v.Verb, t, staunch.ClassOf(err), err)
			case err == nil && r.Changed:
				tb.Errorf("applying %s to the missing %s is said to have changed something", v.Verb, t)
			}
		}
		ex, err := c.Expand(ctx, connector.ExpandRequest{Subject: t.Ref, Tier: staunch.TierRevoke})
		if err != nil {
			if staunch.ClassOf(err) != staunch.ClassPermanent {
				tb.Errorf("expanding the missing %s: class %s: %v", t.Ref, staunch.ClassOf(err), err)
			}
		} else if len(ex.Actions) > 0 || len(ex.Gaps) == 0 {
			tb.Errorf("expanding the missing %s: %d actions, %d gaps; want none and a reason", t.Ref, len(ex.Actions), len(ex.Gaps))
		}
	}
}

func (s *suite) foreign(tb testing.TB) {
	ctx := bounded(tb)
	c := s.connect(tb)
	k := s.h.Cases[0]
	sub := k.Subject(tb)
	in := s.intent(ctx, tb, c, k, sub)
	before := observe(ctx, tb, sub)
	bad := map[string]staunch.Target{}
	other := sub.Target
	other.Ref.Realm += "-other"
	bad["another realm"] = other
	other = sub.Target
	other.Ref.Scheme = "no-such-scheme"
	bad["unknown scheme"] = other
	other = sub.Target
	other.Attribute = "no such attribute"
	bad["unknown attribute"] = other
	other = sub.Target
	other.Ref.Value = ""
	bad["empty value"] = other
	bad["nothing"] = staunch.Target{}
	refused := func(what string, err error) {
		if err == nil || staunch.ClassOf(err) != staunch.ClassPermanent {
			tb.Errorf("%s: want a permanent error, got %v (class %s)", what, err, staunch.ClassOf(err))
		}
	}
	for name, t := range bad {
		_, err := c.Read(ctx, t, false)
		refused("reading "+name, err)
		x := in
		x.Target, x.PreImage.Target, x.Expected.Target = t, t, t
		_, err = c.Apply(ctx, x)
		refused("applying to "+name, err)
		_, err = c.Revert(ctx, x)
		refused("reverting "+name, err)
	}
	x := in
	x.Verb = "no-such-verb"
	_, err := c.Apply(ctx, x)
	refused("applying an unknown verb", err)
	_, err = c.Prepare(in.PreImage, "no-such-verb")
	refused("preparing an unknown verb", err)
	if after := observe(ctx, tb, sub); after != before {
		tb.Errorf("refused calls changed the platform: %s, then %s", before, after)
	}
	foreign := sub.Request
	foreign.Subject.Realm += "-other"
	foreign.Names, foreign.Derived = nil, nil
	ex, err := c.Expand(ctx, foreign)
	if err == nil && len(ex.Actions) > 0 {
		tb.Errorf("a subject of another realm expands to %d actions", len(ex.Actions))
	}
}

func (s *suite) own(tb testing.TB) {
	ctx := bounded(tb)
	c := s.connect(tb)
	o, ok := c.(connector.Own)
	if !ok {
		tb.Fatal("the connector does not say which refs are its own (connector.Own)")
	}
	refs, err := o.OwnRefs(ctx)
	if err != nil {
		tb.Fatalf("own refs: %v", err)
	}
	if len(refs) == 0 {
		tb.Fatal("no own refs")
	}
	for _, r := range refs {
		if err := r.Validate(); err != nil || r.Realm != s.h.Realm {
			tb.Errorf("own ref %s: %v", r, err)
		}
		ex, err := c.Expand(ctx, connector.ExpandRequest{Subject: r, Tier: staunch.TierRevoke})
		if err == nil && len(ex.Actions) > 0 {
			tb.Errorf("its own %s expands to %d actions", r, len(ex.Actions))
		}
	}
}

func (s *suite) health(tb testing.TB) {
	ctx := bounded(tb)
	if h, ok := s.connect(tb).(connector.Health); ok {
		for _, f := range h.Check(ctx) {
			if f.Severity == "error" {
				tb.Errorf("a healthy platform gives the finding %q", f.Message)
			}
		}
	}
	for name, mk := range map[string]func(testing.TB) connector.Connector{"down": s.h.Down, "denied": s.h.Denied} {
		if mk == nil {
			continue
		}
		c := mk(tb)
		if h, ok := c.(connector.Health); ok {
			bad := slices.ContainsFunc(h.Check(ctx), func(f connector.Finding) bool { return f.Severity == "error" && f.Message != "" })
			if !bad {
				tb.Errorf("%s: no finding of severity error", name)
			}
		}
		if err := c.Close(); err != nil {
			tb.Errorf("%s: closing: %v", name, err)
		}
	}
}

func (s *suite) closing(tb testing.TB) {
	ctx := bounded(tb)
	c := s.h.New(tb)
	sub := s.h.Cases[0].Subject(tb)
	s.read(ctx, tb, c, sub.Target)
	for range 2 {
		if err := c.Close(); err != nil {
			tb.Errorf("closing: %v", err)
		}
	}
	if _, err := c.Read(ctx, sub.Target, false); err == nil {
		tb.Error("a closed connector reads")
	}
}

func (s *suite) denied(tb testing.TB) { s.refusing(tb, s.h.Denied, staunch.ClassDenied) }
func (s *suite) down(tb testing.TB)   { s.refusing(tb, s.h.Down, staunch.ClassTransient) }

// refusing checks the class of every method when nothing can be reached.
func (s *suite) refusing(tb testing.TB, mk func(testing.TB) connector.Connector, want staunch.Class) {
	ctx := bounded(tb)
	k := s.h.Cases[0]
	sub := k.Subject(tb)
	in := s.intent(ctx, tb, s.connect(tb), k, sub)
	before := observe(ctx, tb, sub)
	c := mk(tb)
	defer func() {
		if err := c.Close(); err != nil {
			tb.Errorf("closing: %v", err)
		}
	}()
	is := func(what string, err error) {
		if err == nil {
			tb.Errorf("%s: no error", what)
		} else if got := staunch.ClassOf(err); got != want {
			tb.Errorf("%s: class %s, want %s: %v", what, got, want, err)
		}
	}
	for _, proof := range []bool{false, true} {
		_, err := c.Read(ctx, sub.Target, proof)
		is(fmt.Sprintf("read (proof %t)", proof), err)
	}
	_, err := c.Expand(ctx, sub.Request)
	is("expand", err)
	_, err = c.Apply(ctx, in)
	is("apply", err)
	if in.Reversibility == staunch.Reversible {
		_, err = c.Revert(ctx, in)
		is("revert", err)
	}
	if p, ok := c.(connector.Prober); ok {
		if got, err := p.Probe(ctx, in); err == nil && got.Conclusive {
			tb.Errorf("probe is conclusive: %+v", got)
		}
	}
	if after := observe(ctx, tb, sub); after != before {
		tb.Errorf("the platform changed: %s, then %s", before, after)
	}
}

// ---- checks of each case

func (s *suite) expand(tb testing.TB, k Case) {
	ctx := bounded(tb)
	c := s.connect(tb)
	sub := k.Subject(tb)
	before := observe(ctx, tb, sub)
	first, err := c.Expand(ctx, sub.Request)
	if err != nil {
		tb.Fatalf("expanding: %v", err)
	}
	second, err := c.Expand(ctx, sub.Request)
	if err != nil {
		tb.Fatalf("expanding again: %v", err)
	}
	order := func(ex connector.Expansion) string {
		var keys []string
		for _, a := range ex.Actions {
			keys = append(keys, string(a.Verb)+" "+a.Target.String())
		}
		return strings.Join(keys, ", ")
	}
	if a, b := order(first), order(second); a != b {
		tb.Errorf("the order of actions is not stable: %s, then %s", a, b)
	}
	if a, b := mustJSON(tb, first.Gaps), mustJSON(tb, second.Gaps); a != b {
		tb.Errorf("the gaps are not stable: %s, then %s", a, b)
	}
	found := false
	seen := map[string]bool{}
	for _, a := range first.Actions {
		if err := a.Target.Ref.Validate(); err != nil {
			tb.Errorf("%s: %v", a.Target, err)
		}
		if a.Target.Ref.Realm != s.h.Realm || a.Target.Ref.Kind == staunch.KindIdentity || a.Target.Ref.Kind == staunch.KindResource {
			tb.Errorf("%s is not a target of this realm", a.Target)
		}
		if strings.ContainsAny(a.Target.Ref.Value, "*%") || a.Target.Ref.Value == "" || a.Target.Attribute == "" || strings.HasSuffix(a.Target.Attribute, "/") || strings.Contains(a.Target.Attribute, "*") {
			tb.Errorf("%s is not explicit", a.Target)
		}
		spec, err := s.spec(a.Target, a.Verb)
		if err != nil {
			tb.Error(err)
		} else if spec.Tier > sub.Request.Tier {
			tb.Errorf("%s %s is of tier %s, asked for %s", a.Verb, a.Target, spec.Tier, sub.Request.Tier)
		}
		if len(sub.Request.Verbs) > 0 && !slices.Contains(sub.Request.Verbs, a.Verb) {
			tb.Errorf("%s was not asked for", a.Verb)
		}
		key := a.Target.Key() + string(a.Verb)
		if seen[key] {
			tb.Errorf("%s %s comes twice", a.Verb, a.Target)
		}
		seen[key] = true
		found = found || a.Target == sub.Target && a.Verb == k.Verb
		if a.State == nil {
			continue
		}
		st, err := c.Read(ctx, a.Target, false)
		switch {
		case err != nil:
			tb.Errorf("reading %s: %v", a.Target, err)
		case a.State.Target != a.Target || a.State.V != st.V || a.State.ReadAt == 0 || a.State.Summary != st.Summary || !c.Matches(*a.State, st) || !c.Matches(st, *a.State):
			tb.Errorf("the state that came with %s is %s, and it reads %s", a.Target, mustJSON(tb, a.State), mustJSON(tb, st))
		}
	}
	if !found {
		tb.Errorf("%s %s is not among the actions %s", k.Verb, sub.Target, mustJSON(tb, first.Actions))
	}
	for _, g := range first.Gaps {
		if g.Reason == "" {
			tb.Error("a gap without a reason")
		}
	}
	for _, f := range first.Facts {
		if f.Type == "" || f.Subject.Validate() != nil || f.Time == 0 {
			tb.Errorf("a fact without type, subject or time: %s", mustJSON(tb, f))
		}
	}
	// Narrowed by verb and by tier.
	narrow := sub.Request
	narrow.Verbs = []staunch.Verb{k.Verb}
	ex, err := c.Expand(ctx, narrow)
	if err != nil {
		tb.Fatalf("expanding for %s alone: %v", k.Verb, err)
	}
	if len(ex.Actions) == 0 || slices.ContainsFunc(ex.Actions, func(a connector.Action) bool { return a.Verb != k.Verb }) {
		tb.Errorf("expanding for %s alone gives %s", k.Verb, mustJSON(tb, ex.Actions))
	}
	narrow = sub.Request
	narrow.Tier = staunch.TierObserve
	ex, err = c.Expand(ctx, narrow)
	if err != nil || len(ex.Actions) > 0 {
		tb.Errorf("the tier observe gives %d actions, error %v", len(ex.Actions), err)
	}
	if after := observe(ctx, tb, sub); after != before {
		tb.Errorf("expanding changed the platform: %s, then %s", before, after)
	}
}

func (s *suite) prepare(tb testing.TB, k Case) {
	ctx := bounded(tb)
	c := s.connect(tb)
	sub := k.Subject(tb)
	before := observe(ctx, tb, sub)
	pre := s.read(ctx, tb, c, sub.Target)
	given := mustJSON(tb, pre)
	a, err := c.Prepare(pre, k.Verb)
	if err != nil {
		tb.Fatalf("preparing: %v", err)
	}
	b, err := c.Prepare(pre, k.Verb)
	if err != nil {
		tb.Fatalf("preparing again: %v", err)
	}
	if x, y := mustJSON(tb, a), mustJSON(tb, b); x != y {
		tb.Errorf("not deterministic: %s, then %s", x, y)
	}
	if got := mustJSON(tb, pre); got != given {
		tb.Errorf("changed its input: %s, then %s", given, got)
	}
	spec, err := s.spec(sub.Target, k.Verb)
	if err != nil {
		tb.Fatal(err)
	}
	if a.Verb != k.Verb || a.Target != sub.Target || a.Call == "" || a.Undo == "" || a.Expected.V != staunch.Version || a.Expected.Target != sub.Target {
		tb.Errorf("verb, target, call, undo or expected is not set: %s", mustJSON(tb, a))
	}
	if a.Reversibility != spec.Reversibility || a.Revives && !spec.Revives {
		tb.Errorf("reversibility %s, revives %t; declared %s, %t", a.Reversibility, a.Revives, spec.Reversibility, spec.Revives)
	}
	if c.Matches(a.Expected, pre) {
		tb.Errorf("what is expected matches the state before: %s", given)
	}
	if a.Expected.Effective {
		tb.Error("what is expected still has an effect")
	}
	if after := observe(ctx, tb, sub); after != before {
		tb.Errorf("preparing changed the platform: %s, then %s", before, after)
	}
}

func (s *suite) applyRevert(tb testing.TB, k Case) {
	ctx := bounded(tb)
	c := s.connect(tb)
	sub := k.Subject(tb)
	if !works(ctx, tb, sub) {
		tb.Fatal("harness: the access does not work to begin with")
	}
	original := observe(ctx, tb, sub)
	in := s.intent(ctx, tb, c, k, sub)
	spec, err := s.spec(in.Target, k.Verb)
	if err != nil {
		tb.Fatal(err)
	}
	s.probe(ctx, tb, c, k, in, true)

	if r := s.apply(ctx, tb, c, in); !r.Changed {
		tb.Error("the receipt says that nothing changed")
	}
	post := s.prove(ctx, tb, c, in)
	if post.Effective {
		tb.Error("after apply the state is still effective")
	}
	if k.Stops {
		s.until(ctx, tb, spec.Propagation, "the thief to be denied", func() (bool, string) {
			return !works(ctx, tb, sub), "it still works"
		})
	}
	s.probe(ctx, tb, c, k, in, false)
	if s.h.Ledger != nil {
		s.until(ctx, tb, 0, "the step's key in the platform's own log", func() (bool, string) {
			return slices.ContainsFunc(s.h.Ledger(tb), func(l string) bool { return strings.Contains(l, in.Key) }), "not there"
		})
	}

	// Again, as a sweep does: nothing more changes.
	held := observe(ctx, tb, sub)
	if r := s.apply(ctx, tb, c, in); r.Changed {
		tb.Error("the second apply says that it changed something")
	}
	if again := observe(ctx, tb, sub); again != held {
		tb.Errorf("the second apply changed the platform: %s, then %s", held, again)
	}
	// Already as wanted: what is expected is what is there.
	noop, err := c.Prepare(post, k.Verb)
	if err != nil {
		tb.Errorf("preparing where it is already as wanted: %v", err)
	} else {
		if !c.Matches(noop.Expected, post) || sameState(noop.Expected, post) != nil {
			tb.Errorf("already as wanted, expected %s, is %s", mustJSON(tb, noop.Expected), mustJSON(tb, post))
		}
		if r := s.apply(ctx, tb, c, complete(noop, post)); r.Changed {
			tb.Error("applying where it is already as wanted says that it changed something")
		}
	}

	if spec.Reversibility != staunch.Reversible {
		if _, err := c.Revert(ctx, in); err != nil && staunch.ClassOf(err) != staunch.ClassPermanent {
			tb.Errorf("reverting what cannot be: class %s: %v", staunch.ClassOf(err), err)
		}
		if after := observe(ctx, tb, sub); after != held {
			tb.Errorf("reverting what cannot be changed the platform: %s, then %s", held, after)
		}
		return
	}
	for i := range 2 {
		r, err := c.Revert(ctx, in)
		if err != nil {
			tb.Fatalf("revert %d: %v", i+1, err)
		}
		if want := i == 0; r.Changed != want {
			tb.Errorf("revert %d: changed %t, want %t", i+1, r.Changed, want)
		}
		s.back(ctx, tb, c, in.PreImage)
		if got := observe(ctx, tb, sub); got != original {
			tb.Errorf("revert %d: the platform has %s, had %s", i+1, got, original)
		}
	}
	if !k.StaysDead {
		s.until(ctx, tb, spec.Propagation, "access to be back", func() (bool, string) { return works(ctx, tb, sub), "denied" })
	}
	// A second containment of the same target works as the first did.
	again := s.intent(ctx, tb, c, k, sub)
	s.apply(ctx, tb, c, again)
	s.prove(ctx, tb, c, again)
	if _, err := c.Revert(ctx, again); err != nil {
		tb.Errorf("reverting the second time round: %v", err)
	}
}

func (s *suite) probe(ctx context.Context, tb testing.TB, c connector.Connector, k Case, in staunch.Intent, want bool) {
	tb.Helper()
	p, ok := c.(connector.Prober)
	if !ok {
		if k.Probes {
			tb.Error("the case says that it probes, the connector does not")
		}
		return
	}
	got, err := p.Probe(ctx, in)
	if err != nil {
		tb.Errorf("probing: %v", err)
		return
	}
	if got.How == "" {
		tb.Error("a probe does not say what it tried")
	}
	if k.Probes && (!got.Conclusive || got.Works != want) {
		tb.Errorf("probe says %+v, want conclusive and works %t", got, want)
	}
}

// revertFirst is a revert of an intent that was committed and never sent.
func (s *suite) revertFirst(tb testing.TB, k Case) {
	ctx := bounded(tb)
	c := s.connect(tb)
	sub := k.Subject(tb)
	in := s.intent(ctx, tb, c, k, sub)
	before := observe(ctx, tb, sub)
	r, err := c.Revert(ctx, in)
	if in.Reversibility == staunch.Reversible {
		if err != nil {
			tb.Errorf("reverting what was never applied: %v", err)
		}
	} else if err != nil && staunch.ClassOf(err) != staunch.ClassPermanent {
		tb.Errorf("reverting what was never applied: class %s: %v", staunch.ClassOf(err), err)
	}
	if r.Changed {
		tb.Error("reverting what was never applied says that it changed something")
	}
	if after := observe(ctx, tb, sub); after != before {
		tb.Errorf("reverting what was never applied changed the platform: %s, then %s", before, after)
	}
	if !works(ctx, tb, sub) {
		tb.Error("reverting what was never applied took access away")
	}
}

func (s *suite) thirdParty(tb testing.TB, k Case) {
	ctx := bounded(tb)
	c := s.connect(tb)
	sub := k.Subject(tb)
	if sub.Tamper == nil {
		tb.Logf("the attribute of %s has no third state that another could set", k.Name)
		return
	}
	in := s.intent(ctx, tb, c, k, sub)
	s.apply(ctx, tb, c, in)
	s.prove(ctx, tb, c, in)
	if err := sub.Tamper(ctx); err != nil {
		tb.Fatalf("harness: tampering: %v", err)
	}
	st := s.read(ctx, tb, c, sub.Target)
	if c.Matches(in.Expected, st) {
		tb.Fatalf("a third party's change still matches: %s", mustJSON(tb, st))
	}
	changed := observe(ctx, tb, sub)
	r, err := c.Revert(ctx, in)
	if !errors.Is(err, staunch.ErrConflict) {
		tb.Errorf("reverting over a third party's change: %v, want a conflict", err)
	}
	if err != nil && staunch.ClassOf(err) != staunch.ClassPermanent {
		tb.Errorf("a conflict is of class %s, want permanent", staunch.ClassOf(err))
	}
	if r.Changed {
		tb.Error("a conflict says that it changed something")
	}
	if after := observe(ctx, tb, sub); after != changed {
		tb.Errorf("a conflict changed the platform: %s, then %s", changed, after)
	}
}

func (s *suite) contexts(tb testing.TB, k Case) {
	c := s.connect(tb)
	sub := k.Subject(tb)
	ctx := bounded(tb)
	in := s.intent(ctx, tb, c, k, sub)
	before := observe(ctx, tb, sub)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel2 := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel2()
	for name, dead := range map[string]context.Context{"cancelled": cancelled, "expired": expired} {
		calls := map[string]func() error{
			"read":   func() error { _, err := c.Read(dead, sub.Target, false); return err },
			"proof":  func() error { _, err := c.Read(dead, sub.Target, true); return err },
			"expand": func() error { _, err := c.Expand(dead, sub.Request); return err },
			"apply":  func() error { _, err := c.Apply(dead, in); return err },
		}
		if in.Reversibility == staunch.Reversible {
			calls["revert"] = func() error { _, err := c.Revert(dead, in); return err }
		}
		for what, call := range calls {
			err := call()
			class := staunch.ClassOf(err)
			switch {
			case err == nil:
				tb.Errorf("%s with a %s context succeeds", what, name)
			case class != staunch.ClassTransient && class != staunch.ClassUnknown:
				tb.Errorf("%s with a %s context: class %s: %v", what, name, class, err)
			case !errors.Is(err, dead.Err()):
				tb.Errorf("%s with a %s context does not wrap %v: %v", what, name, dead.Err(), err)
			}
		}
	}
	if after := observe(ctx, tb, sub); after != before {
		tb.Errorf("calls with dead contexts changed the platform: %s, then %s", before, after)
	}
	// Deadlines that fall somewhere into the call. A transient error says that
	// nothing was changed, so it must not follow a change.
	may := false
	for _, d := range []time.Duration{200 * time.Microsecond, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond} {
		short, cancel := context.WithTimeout(context.Background(), d)
		_, err := c.Apply(short, in)
		cancel()
		switch {
		case err == nil:
			may = true
			s.prove(ctx, tb, c, in)
		case staunch.ClassOf(err) == staunch.ClassTransient:
			if after := observe(ctx, tb, sub); !may && after != before {
				tb.Errorf("a deadline of %s is transient and changed the platform: %s, then %s", d, before, after)
			}
		case staunch.ClassOf(err) == staunch.ClassUnknown:
			may = true
		default:
			tb.Errorf("a deadline of %s: class %s: %v", d, staunch.ClassOf(err), err)
		}
	}
	s.apply(ctx, tb, c, in)
	s.prove(ctx, tb, c, in)
}

func (s *suite) concurrent(tb testing.TB, k Case) {
	ctx := bounded(tb)
	c := s.connect(tb)
	sub := k.Subject(tb)
	original := observe(ctx, tb, sub)
	in := s.intent(ctx, tb, c, k, sub)
	both := func(what string, f func() (staunch.Receipt, error)) {
		var wg sync.WaitGroup
		errs := make(chan error, 16)
		for range 4 {
			wg.Go(func() {
				if _, err := f(); err != nil && staunch.ClassOf(err) != staunch.ClassTransient {
					errs <- fmt.Errorf("%s: class %s: %w", what, staunch.ClassOf(err), err)
				}
			})
			wg.Go(func() {
				st, err := c.Read(ctx, sub.Target, true)
				if err != nil {
					errs <- fmt.Errorf("read: %w", err)
					return
				}
				c.Matches(in.Expected, st)
			})
			wg.Go(func() {
				if _, err := c.Expand(ctx, sub.Request); err != nil {
					errs <- fmt.Errorf("expand: %w", err)
				}
			})
			wg.Go(func() {
				if _, err := c.Prepare(in.PreImage, k.Verb); err != nil {
					errs <- fmt.Errorf("prepare: %w", err)
				}
				c.Describe()
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			tb.Errorf("concurrently: %v", err)
		}
	}
	both("apply", func() (staunch.Receipt, error) { return c.Apply(ctx, in) })
	s.apply(ctx, tb, c, in)
	s.prove(ctx, tb, c, in)
	if in.Reversibility != staunch.Reversible {
		return
	}
	both("revert", func() (staunch.Receipt, error) { return c.Revert(ctx, in) })
	if _, err := c.Revert(ctx, in); err != nil {
		tb.Errorf("reverting after concurrent reverts: %v", err)
	}
	s.back(ctx, tb, c, in.PreImage)
	if got := observe(ctx, tb, sub); got != original {
		tb.Errorf("after concurrent reverts the platform has %s, had %s", got, original)
	}
}

func (s *suite) proofApart(tb testing.TB, k Case) {
	s.h.ProofApart(tb, s.connect(tb), k.Subject(tb).Target)
}

// cut loses the answer to Apply and to Revert: the outcome is unknown, whatever
// it was, and reading and going on leads to the right end.
func (s *suite) cut(tb testing.TB, k Case) {
	ctx := bounded(tb)
	good := s.connect(tb)
	sub := k.Subject(tb)
	in := s.intent(ctx, tb, good, k, sub)
	original := observe(ctx, tb, sub)
	lost := func(what string, f func(connector.Connector) error) {
		c, arm := s.h.Cut(tb)
		arm(in.Key)
		err := f(c)
		if err == nil || staunch.ClassOf(err) != staunch.ClassUnknown {
			tb.Errorf("%s whose answer is lost: want class outcome-unknown, got %v (class %s)", what, err, staunch.ClassOf(err))
		}
		if err := c.Close(); err != nil {
			tb.Errorf("closing after a cut: %v", err)
		}
		st, err := good.Read(ctx, sub.Target, true)
		if err != nil {
			tb.Fatalf("reading after a cut: %v", err)
		}
		if !good.Matches(in.Expected, st) && sameState(in.PreImage, st) != nil {
			// Compensable effects may be under way: wait for one of the two.
			s.until(ctx, tb, 0, what+" whose answer is lost to be done or not", func() (bool, string) {
				st, err = good.Read(ctx, sub.Target, true)
				if err != nil {
					tb.Fatalf("reading after a cut: %v", err)
				}
				return good.Matches(in.Expected, st) || sameState(in.PreImage, st) == nil, mustJSON(tb, st)
			})
		}
	}
	lost("apply", func(c connector.Connector) error { _, err := c.Apply(ctx, in); return err })
	s.apply(ctx, tb, good, in)
	s.prove(ctx, tb, good, in)
	if in.Reversibility != staunch.Reversible {
		return
	}
	lost("revert", func(c connector.Connector) error { _, err := c.Revert(ctx, in); return err })
	if _, err := good.Revert(ctx, in); err != nil {
		tb.Errorf("reverting after a lost answer: %v", err)
	}
	s.back(ctx, tb, good, in.PreImage)
	if got := observe(ctx, tb, sub); got != original {
		tb.Errorf("after a lost answer the platform has %s, had %s", got, original)
	}
}
