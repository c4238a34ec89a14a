package decide_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/policies"
)

func defaults(t testing.TB) *decide.Set {
	t.Helper()
	set, err := decide.Load(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func close2(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }

func TestSuspicion(t *testing.T) {
	at := func(e decide.Evidence, age time.Duration) decide.Evidence {
		e.Signal.Time = noon.Add(-age)
		return e
	}
	hops := func(e decide.Evidence, n int) decide.Evidence { e.Hops = n; return e }
	again := func(e decide.Evidence, id string) decide.Evidence { e.Signal.ID, e.Signal.Event = id, id; return e }
	with := func(e decide.Evidence, c staunch.Tier, source string) decide.Evidence {
		e.Signal.Ceiling, e.Signal.Source = c, source
		return e
	}
	for _, tt := range []struct {
		name    string
		in      []decide.Evidence
		want    float64
		ceiling staunch.Tier
	}{
		{"nothing", nil, 0, staunch.TierObserve},
		{"one", []decide.Evidence{accuse("a", 0.5)}, 0.5, staunch.TierRevoke},
		{"two rules", []decide.Evidence{accuse("a", 0.5), accuse("b", 0.4)}, 0.7, staunch.TierRevoke},
		{"the same signal twice", []decide.Evidence{accuse("a", 0.5), accuse("a", 0.5)}, 0.5, staunch.TierRevoke},
		{"a repeat adds a tenth of what it could", []decide.Evidence{accuse("a", 0.5), again(accuse("a", 0.5), "2")}, 1 - 0.5*(1-0.1*0.5), staunch.TierRevoke},
		{"a day old", []decide.Evidence{at(accuse("a", 0.8), 24*time.Hour), accuse("b", 0.1)}, 1 - 0.6*0.9, staunch.TierRevoke},
		{"the latest does not decay", []decide.Evidence{at(accuse("a", 0.8), 24*time.Hour)}, 0.8, staunch.TierRevoke},
		{"beyond the horizon", []decide.Evidence{at(accuse("a", 1), 241*time.Hour), accuse("b", 0.1)}, 0.1, staunch.TierRestrict},
		{"two memberships below", []decide.Evidence{hops(accuse("a", 0.5), 2)}, 0.5 * 0.81, staunch.TierRevoke},
		{"by two ways, the shorter counts", []decide.Evidence{hops(accuse("a", 0.5), 2), accuse("a", 0.5)}, 0.5, staunch.TierRevoke},
		{"confidence above one is one", []decide.Evidence{accuse("a", 3)}, 1, staunch.TierRevoke},
		{"a weak source has no say in the ceiling", []decide.Evidence{with(accuse("a", 0.5), staunch.TierRestrict, "x"), with(accuse("b", 0.1), staunch.TierRevoke, "y")}, 0.55, staunch.TierRestrict},
		{"two sources corroborate", []decide.Evidence{with(accuse("a", 0.5), staunch.TierRestrict, "x"), with(accuse("b", 0.2), staunch.TierRestrict, "y")}, 0.6, staunch.TierIsolate},
		{"many weak ones restrict at most", []decide.Evidence{with(accuse("a", 0.1), staunch.TierRevoke, "x"), with(accuse("b", 0.1), staunch.TierRevoke, "y")}, 0.19, staunch.TierRestrict},
		{"nothing is above revoke", []decide.Evidence{with(accuse("a", 0.5), staunch.TierRevoke, "x"), with(accuse("b", 0.5), staunch.TierRevoke, "y")}, 0.75, staunch.TierRevoke},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := decide.Params{}.Assess(cred("k"), tt.in)
			if !close2(got.Enforce.Confidence, tt.want) || got.Enforce.Ceiling != tt.ceiling {
				t.Errorf("confidence %v, ceiling %s; want %v, %s", got.Enforce.Confidence, got.Enforce.Ceiling, tt.want, tt.ceiling)
			}
			if !reflect.DeepEqual(got.Enforce, got.Would) {
				t.Errorf("all enforce, and yet %+v is not %+v", got.Enforce, got.Would)
			}
		})
	}
}

// Only signals that enforce and came in time enforce, and those that do not
// cannot age the others.
func TestSuspicionViews(t *testing.T) {
	late, future, undated := accuse("late", 0.5), accuse("future", 0.5), accuse("undated", 0.5)
	late.Signal.Standing, late.Signal.Time = staunch.StandingLate, noon.Add(-5*time.Hour)
	future.Signal.Standing, future.Signal.Time = staunch.StandingFuture, noon.Add(1000*time.Hour)
	undated.Signal.Standing, undated.Signal.Time = staunch.StandingUndated, 0
	shadow, rec := accuse("shadow", 0.5), accuse("rec", 0.5)
	shadow.Signal.Mode, shadow.Signal.Time = staunch.ModeShadow, noon.Add(48*time.Hour)
	rec.Signal.Mode = staunch.ModeRecommend
	a := decide.Params{}.Assess(cred("k"), []decide.Evidence{accuse("real", 0.4), late, future, undated, shadow, rec})
	if v := a.Views.Enforce; v.Count != 1 || v.Confidence != 0.4 || v.AsOf != noon || a.Enforce.AsOf != noon {
		t.Errorf("enforce %+v", v)
	}
	if v := a.Views.Inform; v.Count != 4 || v.AsOf != noon {
		t.Errorf("inform %+v", v)
	}
	if v := a.Views.Recommend; v.Count != 5 {
		t.Errorf("recommend %+v", v)
	}
	if v := a.Views.Shadow; v.Count != 6 || v.AsOf != noon.Add(48*time.Hour) || v.Signal.Rule != "future" {
		t.Errorf("shadow %+v", v)
	}
	if len(a.Signals) != 6 || !slices.IsSorted(a.Signals) {
		t.Errorf("signals %v", a.Signals)
	}
	for _, c := range a.Would.Reasons {
		switch c.Rule {
		case "shadow", "rec", "late", "future", "undated":
			if c.Why == "" {
				t.Errorf("%s does not say why it does not enforce", c.Rule)
			}
		}
	}
}

// sigs draws signals that share rules, sources, events and instants.
func sigs() *rapid.Generator[[]decide.Evidence] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) decide.Evidence {
		v := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
		e := decide.Evidence{Hops: rapid.IntRange(0, 3).Draw(t, "hops")}
		e.Signal = &staunch.Signal{
			V: 1, Rule: v("rule", "a", "b", "c"), Source: v("source", "x", "y"), Event: v("event", "1", "2", "3", "4"),
			Confidence: rapid.Float64Range(0.01, 1).Draw(t, "confidence"), Accused: rapid.SampledFrom([]staunch.Ref{sess("1"), sess("2"), cred("k")}).Draw(t, "accused"),
			Mode: rapid.SampledFrom([]staunch.Mode{0, 1, 2, 2, 2}).Draw(t, "mode"), Ceiling: rapid.SampledFrom([]staunch.Tier{1, 2, 3}).Draw(t, "ceiling"),
			Standing: rapid.SampledFrom([]staunch.Standing{"current", "current", "current", "late", "future", "undated"}).Draw(t, "standing"),
			Time:     noon.Add(time.Duration(rapid.IntRange(-100, 0).Draw(t, "hours")) * time.Hour), Learned: noon,
			Techniques: []string{v("technique", "T1", "T2.1")},
		}
		return e
	}), 0, 12)
}

// TestBriefsWeighAsMuch: the stores give a judgement of signals no more than
// store.Brief keeps.
func TestBriefsWeighAsMuch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := withIDs(sigs().Draw(t, "signals"))
		briefs := slices.Clone(whole)
		for i := range briefs {
			s := whole[i].Signal
			s.Title, s.Bundle, s.Evidence, s.Author, s.License = "a title", "sha256:00", "seen", "somebody", "MIT"
			s.Refs, s.Events, s.Frameworks, s.References = []staunch.Ref{s.Accused}, []string{s.Event}, []string{"owasp-nhi.nhi5"}, []string{"https://example.org"}
			s.Origin = rapid.SampledFrom([]string{"", "shared"}).Draw(t, "origin")
			s.Origins = rapid.SampledFrom([][]string{nil, {"x"}, {"x", "y"}}).Draw(t, "origins")
			brief := store.Brief(*s)
			briefs[i].Signal = &brief
		}
		var p decide.Params
		if got, want := p.Assess(sess("1"), briefs), p.Assess(sess("1"), whole); !reflect.DeepEqual(got, want) {
			t.Errorf("briefs %+v\nwhole  %+v", got, want)
		}
	})
}

func withIDs(in []decide.Evidence) []decide.Evidence {
	for i := range in {
		s := in[i].Signal
		s.ID = staunch.SignalID(s.Rule, s.Accused, s.Event)
		// One id is one signal: the same content and place.
		for j := range i {
			if in[j].Signal.ID == s.ID {
				same := *in[j].Signal
				in[i] = in[j]
				in[i].Signal = &same
			}
		}
	}
	return in
}

// Invariant I13: permuting or repeating the signals leaves the same suspicion,
// to the bit, and the same outcome.
func TestSignalsInAnyOrder(t *testing.T) {
	set := defaults(t)
	rapid.Check(t, func(t *rapid.T) {
		in := withIDs(sigs().Draw(t, "signals"))
		other := rapid.Permutation(in).Draw(t, "permuted")
		if len(in) > 0 {
			other = append(other, rapid.SliceOf(rapid.SampledFrom(in)).Draw(t, "again")...)
		}
		res := staunch.Resolution{Ref: cred("k"), Names: []staunch.Ref{cred("k")}, Up: []staunch.Ref{acct("a")}, Identity: ident()}
		ask := func(e []decide.Evidence) string {
			a := decide.Params{}.Assess(cred("k"), e)
			in := decide.NewInput(res, a, decide.Context{Mode: staunch.ModeEnforce})
			b, err := json.Marshal([]any{a, in, set.Decide(in), set.Explain(in)})
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		if a, b := ask(in), ask(other); a != b {
			t.Fatalf("in order:\n%s\npermuted:\n%s", a, b)
		}
	})
}

// Another accusation of the same instant never lowers the confidence, and
// nothing leaves [0,1].
func TestSuspicionIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := withIDs(sigs().Draw(t, "signals"))
		for i := range in {
			in[i].Signal.Time, in[i].Signal.Standing = noon, staunch.StandingCurrent
		}
		all := decide.Params{}.Assess(cred("k"), in)
		if len(in) == 0 {
			return
		}
		fewer := decide.Params{}.Assess(cred("k"), in[1:])
		for _, p := range [][2]float64{{fewer.Enforce.Confidence, all.Enforce.Confidence}, {fewer.Would.Confidence, all.Would.Confidence}} {
			if p[0] > p[1]+1e-12 {
				t.Fatalf("confidence fell from %v to %v", p[0], p[1])
			}
			if p[1] < 0 || p[1] > 1 {
				t.Fatalf("confidence %v", p[1])
			}
		}
		if all.Enforce.Confidence > all.Would.Confidence+1e-12 {
			t.Fatalf("what enforces (%v) is more than all there is (%v)", all.Enforce.Confidence, all.Would.Confidence)
		}
	})
}

// The outcome never goes above the ceiling or, for an identity that nobody
// declared, above what policy allows; nothing but evidence that may enforce
// contains; and the input survives JSON, for replay.
func TestOutcomeBounds(t *testing.T) {
	set := defaults(t)
	rapid.Check(t, func(t *rapid.T) {
		evidence := withIDs(sigs().Draw(t, "signals"))
		id := ident(func(id *staunch.Identity) {
			id.Managed = rapid.Bool().Draw(t, "managed")
			id.Tolerance = rapid.SampledFrom([]staunch.Tolerance{"normal", "staged", "never"}).Draw(t, "tolerance")
		})
		mode := rapid.SampledFrom([]staunch.Mode{0, 1, 2}).Draw(t, "mode")
		a := decide.Params{}.Assess(cred("k"), evidence)
		in := decide.NewInput(staunch.Resolution{Ref: cred("k"), Identity: id}, a, decide.Context{Mode: mode})
		out := set.Decide(in)
		if out.Mode > mode {
			t.Fatalf("mode %s above the engine's %s", out.Mode, mode)
		}
		switch out.Verdict {
		case staunch.VerdictContain, staunch.VerdictApproval:
			if out.Tier > a.Enforce.Ceiling || out.Mode != staunch.ModeEnforce || a.Enforce.Confidence < 0.3 {
				t.Fatalf("%+v from %+v", out, a.Enforce)
			}
			if out.Verdict == staunch.VerdictContain && id.Tolerance == staunch.ToleranceNever {
				t.Fatalf("contains what bears no interruption: %+v", out)
			}
		}
		if !id.Managed && out.Tier > staunch.TierIsolate {
			t.Fatalf("%s for an identity that nobody declared", out.Tier)
		}
		if out.Tier > staunch.TierObserve {
			n := len(out.Playbook.Stages)
			if n == 0 || out.Playbook.Stages[n-1].Tier != out.Tier {
				t.Fatalf("playbook %+v does not end at %s", out.Playbook, out.Tier)
			}
			if id.Tolerance == staunch.ToleranceStaged && out.Tier == staunch.TierRevoke && n < 3 {
				t.Fatalf("skips the stages: %+v", out.Playbook)
			}
		}
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var back decide.Input
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if again := set.Decide(back); !reflect.DeepEqual(again, out) {
			t.Fatalf("replayed from JSON:\n%+v\nat first:\n%+v", again, out)
		}
	})
}

func TestCeilingTakesTheTierBelow(t *testing.T) {
	set := parse(t, "  - {id: p, mode: enforce, then: {tier: revoke}}\n")
	ev := accuse("r", 0.9)
	ev.Signal.Ceiling = staunch.TierIsolate
	out := set.Decide(input(t, ident(), ev))
	if out.Tier != staunch.TierIsolate || out.Playbook.Name != "isolate" || out.Verdict != staunch.VerdictContain {
		t.Errorf("got %+v", out)
	}
	ev.Signal.Ceiling = staunch.TierObserve
	if out := set.Decide(input(t, ident(), ev)); out.Tier != staunch.TierObserve || out.Verdict != staunch.VerdictObserve {
		t.Errorf("a source that may only be watched: %+v", out)
	}
	// A fixed tier still needs an accusation.
	if out := set.Decide(input(t, ident())); out.Tier != staunch.TierObserve || out.Verdict != staunch.VerdictObserve {
		t.Errorf("nothing is known, and yet %+v", out)
	}
}

func TestScope(t *testing.T) {
	set := parse(t, `
  - {id: wide, priority: 2, mode: enforce, match: {owner: wide}, then: {tier: revoke, scope: account}}
  - {id: revoke, priority: 1, mode: enforce, match: {owner: revoke}, then: {tier: revoke, widen: {at_revoke: identity}}}
  - {id: alone, priority: 1, mode: enforce, match: {owner: alone}, then: {tier: revoke, widen: {second_session: false}}}
  - {id: p, mode: enforce, then: {tier: revoke}}
`)
	accusing := func(s staunch.Ref, rule string) decide.Evidence {
		e := accuse(rule, 0.9)
		e.Signal.Accused = s
		return e
	}
	far := staunch.Ref{Kind: staunch.KindAccount, Realm: "aa", Scheme: "id", Value: "far"}
	up := []staunch.Ref{cred("k"), far, acct("a"), staunch.IdentityRef("app")}
	gap := func(from, to staunch.Ref) staunch.Gap {
		return staunch.Gap{Ref: from, Reason: "cannot end one session", Widen: to}
	}
	for _, tt := range []struct {
		name, owner string
		up          []staunch.Ref
		in          []decide.Evidence
		gaps        []staunch.Gap
		want        staunch.Ref
		why         string
	}{
		{name: "narrowest", up: up, in: []decide.Evidence{accusing(sess("1"), "a")}, want: sess("1")},
		{name: "policy", owner: "wide", up: up, in: []decide.Evidence{accusing(sess("1"), "a")}, want: acct("a"), why: "at least the account"},
		{name: "revoke", owner: "revoke", up: up, in: []decide.Evidence{accusing(sess("1"), "a")}, want: staunch.IdentityRef("app"), why: "revokes at least the identity"},
		{name: "second session", up: up, in: []decide.Evidence{accusing(sess("1"), "a"), accusing(sess("2"), "b")}, want: cred("k"), why: "second session"},
		{name: "another name of the same session", up: up, in: []decide.Evidence{accusing(sess("1"), "a"), {Signal: accusing(sess("1b"), "b").Signal, Entity: sess("1")}}, want: sess("1")},
		{name: "second session, turned off", owner: "alone", up: up, in: []decide.Evidence{accusing(sess("1"), "a"), accusing(sess("2"), "b")}, want: sess("1")},
		{name: "nothing wider is known", in: []decide.Evidence{accusing(sess("1"), "a"), accusing(sess("2"), "b")}, want: sess("1"), why: "no credential is known"},
		{name: "no credential is known, an account is", up: []staunch.Ref{acct("a")}, in: []decide.Evidence{accusing(sess("1"), "a"), accusing(sess("2"), "b")}, want: acct("a"), why: "second session"},
		{name: "gaps lead on", up: up, in: []decide.Evidence{accusing(sess("1"), "a")}, gaps: []staunch.Gap{gap(cred("k"), acct("a")), gap(sess("1"), cred("k"))}, want: acct("a"), why: "cannot end one session"},
		{name: "a gap elsewhere does not", up: up, in: []decide.Evidence{accusing(sess("1"), "a")}, gaps: []staunch.Gap{gap(sess("9"), acct("a"))}, want: sess("1")},
		{name: "a gap never narrows", owner: "wide", up: up, in: []decide.Evidence{accusing(sess("1"), "a")}, gaps: []staunch.Gap{gap(acct("a"), cred("k"))}, want: acct("a"), why: "at least the account"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := staunch.Resolution{Ref: sess("1"), Names: []staunch.Ref{sess("1")}, Up: tt.up, Identity: ident(func(id *staunch.Identity) { id.Owner = tt.owner })}
			in := decide.NewInput(res, decide.Params{}.Assess(sess("1"), tt.in), decide.Context{Mode: staunch.ModeEnforce, Gaps: tt.gaps})
			out := set.Decide(in)
			if out.Scope != tt.want || !strings.Contains(out.ScopeReason, tt.why) || (tt.why == "") != (out.ScopeReason == "") {
				t.Errorf("scope %s because %q, want %s because %q", out.Scope, out.ScopeReason, tt.want, tt.why)
			}
		})
	}
}

func TestHeld(t *testing.T) {
	set := defaults(t)
	for _, tt := range []struct {
		name string
		c    staunch.Containment
		want staunch.Verdict
	}{
		{"same tier", staunch.Containment{Tier: staunch.TierIsolate, Phase: staunch.PhaseHeld, Subject: cred("k")}, staunch.VerdictHeld},
		{"above", staunch.Containment{Tier: staunch.TierRevoke, Phase: staunch.PhaseWindow, Subject: acct("a")}, staunch.VerdictHeld},
		{"below", staunch.Containment{Tier: staunch.TierRestrict, Phase: staunch.PhaseHeld, Subject: cred("k")}, staunch.VerdictContain},
		{"narrower", staunch.Containment{Tier: staunch.TierRevoke, Phase: staunch.PhaseHeld, Subject: sess("s")}, staunch.VerdictContain},
		{"not approved", staunch.Containment{Tier: staunch.TierRevoke, Phase: staunch.PhaseApproval, Subject: cred("k")}, staunch.VerdictContain},
		{"being released", staunch.Containment{Tier: staunch.TierRevoke, Phase: staunch.PhaseReleasing, Subject: cred("k")}, staunch.VerdictContain},
	} {
		in := input(t, ident(), accuse("r", 0.7))
		a := decide.Params{}.Assess(cred("k"), []decide.Evidence{accuse("r", 0.7)})
		in = decide.NewInput(staunch.Resolution{Ref: in.Subject, Identity: ident()}, a, decide.Context{Mode: staunch.ModeEnforce, Open: &tt.c})
		if out := set.Decide(in); out.Verdict != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, out.Verdict, tt.want)
		}
	}
}

func TestNewDecision(t *testing.T) {
	set := defaults(t)
	late := accuse("late", 0.9)
	late.Signal.Standing, late.Signal.Time = staunch.StandingLate, noon.Add(-2*time.Hour)
	for _, tt := range []struct {
		in   []decide.Evidence
		asOf staunch.Time
		want float64
	}{
		{[]decide.Evidence{accuse("r", 0.7), accuse("q", 0.1)}, noon, 0.73},
		{[]decide.Evidence{late}, noon.Add(-2 * time.Hour), 0.9},
	} {
		a := decide.Params{}.Assess(cred("k"), tt.in)
		in := decide.NewInput(staunch.Resolution{Ref: cred("k"), Names: []staunch.Ref{cred("k")}, Identity: ident()}, a, decide.Context{Mode: staunch.ModeEnforce})
		out := set.Decide(in)
		d, err := decide.NewDecision(in, a, out, decide.Making{Identity: ident(), Bundle: "b1", Made: noon.Add(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if d.AsOf != tt.asOf || !close2(d.Suspicion.Confidence, tt.want) || d.ID != staunch.DecisionID(cred("k"), "b1", a.Signals) ||
			d.Tier != out.Tier || d.Verdict != out.Verdict || d.Scope != cred("k") || len(d.Signals) != len(tt.in) {
			t.Errorf("decision %+v", d)
		}
		var back decide.Input
		if err := json.Unmarshal(d.Inputs, &back); err != nil {
			t.Fatal(err)
		}
		if again := set.Decide(back); !reflect.DeepEqual(again, out) {
			t.Errorf("replayed %+v, decided %+v", again, out)
		}
	}
}

func TestResourcesAreNeverAccused(t *testing.T) {
	r := staunch.Ref{Kind: staunch.KindResource, Realm: "r", Scheme: "id", Value: "db"}
	a := decide.Params{}.Assess(r, []decide.Evidence{accuse("r", 0.9)})
	out := defaults(t).Decide(decide.NewInput(staunch.Resolution{Ref: r, Identity: ident()}, a, decide.Context{Mode: staunch.ModeEnforce}))
	if out.Tier != staunch.TierObserve || out.Verdict != staunch.VerdictObserve {
		t.Errorf("got %+v", out)
	}
}

func TestChoose(t *testing.T) {
	o := func(v staunch.Verdict, tier staunch.Tier, scope staunch.Ref) decide.Outcome {
		return decide.Outcome{Verdict: v, Tier: tier, Scope: scope}
	}
	if decide.Choose(nil) != -1 {
		t.Error("nothing to choose")
	}
	for _, tt := range []struct {
		in   []decide.Outcome
		want int
	}{
		{[]decide.Outcome{o("shadow", 3, sess("s")), o("contain", 1, acct("a")), o("observe", 0, cred("k"))}, 1},
		{[]decide.Outcome{o("contain", 2, sess("s")), o("contain", 3, acct("a"))}, 1},
		{[]decide.Outcome{o("contain", 2, acct("a")), o("contain", 2, sess("s")), o("contain", 2, cred("k"))}, 1},
		{[]decide.Outcome{o("held", 2, acct("a")), o("contain", 2, cred("k"))}, 1},
	} {
		if got := decide.Choose(tt.in); got != tt.want {
			t.Errorf("chose %d, want %d of %+v", got, tt.want, tt.in)
		}
	}
}
