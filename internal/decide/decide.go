package decide

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/staunch-project/staunch"
)

// Input is all that a decision is made of: closed, versioned, and stored with
// the decision so that it can be made again.
type Input struct {
	V int `json:"v"`
	// Subject is what is accused; Names has its other refs.
	Subject staunch.Ref   `json:"subject"`
	Names   []staunch.Ref `json:"names,omitempty"`
	// Up has what the subject belongs to, narrowest first.
	Up       []staunch.Ref `json:"up,omitempty"`
	Identity IdentityFacts `json:"identity"`
	Views    Views         `json:"views"`
	// Containment is the open case that holds the subject, if there is one.
	Containment ContainmentFacts `json:"containment"`
	// Waits is the open case that waits for a person to approve it, if there is one;
	// nothing of it is in force.
	Waits ContainmentFacts `json:"waits,omitzero"`
	// Platform is the connector's platform on the subject's realm, "" for none.
	Platform string `json:"platform,omitempty"`
	// Mode is the engine's mode.
	Mode staunch.Mode `json:"mode"`
	// Gaps lists what platforms are known not to be able to do for the subject.
	Gaps []staunch.Gap `json:"gaps,omitempty"`
	// RevokeSources is how many independent sources the revoke tier needs, unless
	// the policy says; 0 asks for none.
	RevokeSources int `json:"revoke_sources,omitempty"`
	// Trust has the rules among the evidence whose mode is not their file's, by
	// rule.
	Trust []staunch.RuleTrust `json:"trust,omitempty"`
}

// Context is what NewInput needs beside the resolution and the assessment.
type Context struct {
	// Mode is the engine's mode.
	Mode staunch.Mode
	// Platform is the connector's platform on the subject's realm, "" for none.
	Platform string
	// Open is the open case for the subject with the highest tier, nil for none. One
	// that waits for approval is only where there is no other.
	Open *staunch.Containment
	// Waits is the one with the highest tier that waits for approval, nil for none.
	Waits *staunch.Containment
	Gaps  []staunch.Gap
	// RevokeSources is what Params.NeedSources says.
	RevokeSources int
	// Trust is the trust in rules that steers any of the evidence, by rule.
	Trust []staunch.RuleTrust
}

// NewInput puts together what policy sees of a subject.
func NewInput(res staunch.Resolution, a Assessment, c Context) Input {
	id := res.Identity
	in := Input{
		V: staunch.Version, Subject: res.Ref, Names: res.Names, Up: res.Up, Views: a.Views,
		Platform: c.Platform, Mode: c.Mode, Gaps: c.Gaps, Trust: c.Trust,
		Identity: IdentityFacts{
			Name: id.Name, Kind: string(id.Kind), Owner: id.Owner, Purpose: id.Purpose, Environment: id.Environment,
			Tier: id.Tier, Tolerance: string(id.Tolerance), Shared: id.Shared, Protected: id.Protected,
			Managed: id.Managed, Accounts: len(id.Accounts),
		},
	}
	if Production(id.Environment) && c.RevokeSources > 1 {
		in.RevokeSources = c.RevokeSources
	}
	in.Containment, in.Waits = factsOf(c.Open), factsOf(c.Waits)
	return in
}

func factsOf(con *staunch.Containment) ContainmentFacts {
	if con == nil {
		return ContainmentFacts{}
	}
	return ContainmentFacts{Open: true, Tier: con.Tier.String(), Phase: string(con.Phase), Scope: string(con.Subject.Kind)}
}

// The names of the views.
const (
	ViewEnforce   = "enforce"
	ViewInform    = "inform"
	ViewRecommend = "recommend"
	ViewShadow    = "shadow"
)

// Outcome is what policy makes of an input, before the guardrails.
type Outcome struct {
	V int `json:"v"`
	// Policy is the id of the policy that decided, "" where none matched.
	Policy string `json:"policy,omitempty"`
	// View is the set of signals that the tier rests on.
	View string `json:"view"`
	// Tier is what is decided; with a verdict that does not contain, what would
	// have been.
	Tier staunch.Tier `json:"tier"`
	// Mode is the lowest of the engine's, the policy's and the signals'.
	Mode staunch.Mode `json:"mode"`
	// Verdict is observe, shadow, recommend, inform, held, approval, or contain
	// if the guardrails let it.
	Verdict staunch.Verdict `json:"verdict"`
	// Playbook has the stages up to Tier; without a name when nothing is to be
	// done.
	Playbook staunch.Playbook `json:"playbook"`
	// Scope is what is to be contained.
	Scope       staunch.Ref `json:"scope"`
	ScopeReason string      `json:"scope_reason,omitempty"`
	Notify      []string    `json:"notify,omitempty"`
	// Approve says that a person has to approve.
	Approve bool `json:"approve,omitempty"`
	// Would is the tier if every rule enforced and every event had come in time.
	Would staunch.Tier `json:"would"`
	// Reasons says why, one sentence each, in the order they were found.
	Reasons []string `json:"reasons,omitempty"`
}

// Decide says what policy makes of the input. It is pure, and the same for any
// order of the signals behind it.
func (s *Set) Decide(in Input) Outcome {
	out := Outcome{V: staunch.Version, View: ViewEnforce, Scope: in.Subject, Mode: in.Mode, Verdict: staunch.VerdictObserve}
	if in.Subject.Kind.Width() == 0 {
		out.Reasons = append(out.Reasons, "a "+string(in.Subject.Kind)+" is never accused")
		return out
	}
	views := [...]struct {
		name string
		view *View
		most staunch.Mode
	}{
		{ViewEnforce, &in.Views.Enforce, staunch.ModeEnforce},
		{ViewInform, &in.Views.Inform, staunch.ModeRecommend},
		{ViewRecommend, &in.Views.Recommend, staunch.ModeRecommend},
		{ViewShadow, &in.Views.Shadow, staunch.ModeShadow},
	}
	first := s.weigh(&in, views[0].view)
	d, at := first, 0
	for i := 1; i < len(views) && d.tier == staunch.TierObserve; i++ {
		if sameView(views[i].view, views[i-1].view) {
			continue
		}
		if next := s.weigh(&in, views[i].view); next.tier > staunch.TierObserve {
			d, at = next, i
		}
	}
	out.Would = d.tier
	if !sameView(views[3].view, views[at].view) {
		out.Would = max(out.Would, s.weigh(&in, views[3].view).tier)
	}
	out.View = views[at].name
	out.Tier = d.tier
	out.Reasons = d.reasons
	if d.policy == nil {
		return out
	}
	out.Policy = d.policy.id
	out.Mode = min(d.policy.mode, in.Mode, views[at].most)
	out.Notify = d.policy.notify
	for i, t := range in.Trust {
		if i == maxTrustReasons {
			out.say(strconv.Itoa(len(in.Trust)-i) + " more rules go as far as trust in them says")
			break
		}
		out.say("rule " + t.Rule + ": " + steered(&t, t.Now(t.Declared)))
	}
	if d.tier == staunch.TierObserve {
		return out
	}
	s.act(&out, &in, d, views[at].view)
	out.verdict(&in, at)
	if out.Would > out.Tier && at == 0 {
		out.say("rules that do not enforce yet, or evidence that came late, would make it " + out.Would.String())
	}
	return out
}

// sameView reports whether two nested views rest on the same signals: the wider
// one has no more, and they weigh the same.
func sameView(a, b *View) bool {
	return a.Count == b.Count && a.AsOf == b.AsOf && a.Confidence == b.Confidence && a.Ceiling == b.Ceiling && a.Signal.ID == b.Signal.ID
}

func (o *Outcome) say(reason string) { o.Reasons = append(o.Reasons, reason) }

// draft is what the policies make of one view.
type draft struct {
	policy  *policy
	tier    staunch.Tier
	reasons []string
}

// weigh finds the policy for a view and the tier that it comes to.
func (s *Set) weigh(in *Input, v *View) draft {
	f := in.facts(v)
	var d draft
	var w *whenInput
	s.index.each(&f, func(n int) bool {
		p := s.policies[n]
		if p.when != nil {
			if w == nil {
				w = in.when(v)
			}
			ok, err := p.when.eval(w)
			if err != nil {
				// Left out, and said: a policy that cannot be told must not decide.
				d.reasons = append(d.reasons, "policy "+p.id+" was passed over: "+err.Error())
			}
			if err != nil || !ok {
				return true
			}
		}
		d.policy = p
		return false
	})
	if d.policy == nil {
		d.reasons = append(d.reasons, "no policy matches")
		return d
	}
	p := d.policy
	reached := staunch.TierObserve
	for _, r := range p.rungs {
		if v.Confidence >= r.at && v.Count > 0 {
			reached = r.tier
		}
	}
	confidence := strconv.FormatFloat(v.Confidence, 'f', 2, 64)
	d.reasons = append(d.reasons, "policy "+p.id+" makes "+reached.String()+" of confidence "+confidence+" ("+strconv.Itoa(v.Count)+" signals)")
	tier := reached
	if tier > v.Ceiling {
		tier = v.Ceiling
		d.reasons = append(d.reasons, "the sources allow "+tier.String()+" at most")
	}
	if !in.Identity.Managed && tier > p.unmanaged {
		tier = p.unmanaged
		d.reasons = append(d.reasons, "nobody declared this identity, so "+tier.String()+" at most")
	}
	if need := p.needs(in); tier == staunch.TierRevoke && v.Independent < need {
		tier = staunch.TierIsolate
		d.reasons = append(d.reasons, "revoke needs meaningful evidence of "+strconv.Itoa(need)+" independent sources"+in.where()+
			", and there is that of "+strconv.Itoa(v.Independent)+"; so isolate at most")
	}
	if tier < reached {
		for tier > staunch.TierObserve && p.playbook[tier] == "" {
			tier--
			d.reasons = append(d.reasons, "policy "+p.id+" has no playbook for the tier above "+tier.String())
		}
	}
	d.tier = tier
	return d
}

// needs returns how many independent sources the revoke tier needs. Where a person
// has to approve it is not by policy alone, and it needs none.
func (p *policy) needs(in *Input) int {
	switch {
	case p.approve || in.Identity.Tolerance == string(staunch.ToleranceNever):
		return 0
	case p.revokeSources > 0:
		return p.revokeSources
	default:
		return in.RevokeSources
	}
}

// where says that it is because of production.
func (in *Input) where() string {
	if in.RevokeSources > 0 {
		return " in production"
	}
	return ""
}

// act fills in the playbook, the scope and whether a person is asked.
func (s *Set) act(out *Outcome, in *Input, d draft, v *View) {
	p := d.policy
	name := p.playbook[d.tier]
	if in.Identity.Tolerance == string(staunch.ToleranceStaged) && p.staged != "" {
		name = p.staged
		out.say("its tolerance is staged: playbook " + name + " up to " + d.tier.String())
	}
	out.Playbook = upTo(s.playbooks[name], d.tier)
	if p.expiry != 0 {
		out.Playbook.Expiry, out.Playbook.OnExpiry = p.expiry, p.onExpiry
	}
	out.Scope, out.ScopeReason = in.scope(p, d.tier, v)
	switch {
	case in.Identity.Tolerance == string(staunch.ToleranceNever):
		out.Approve = true
		out.say("its tolerance is never: a person has to approve")
	case p.approve:
		out.Approve = true
		out.say("policy " + p.id + " wants a person to approve")
	}
}

// verdict says what becomes of the tier. view is the index of the view that it
// rests on.
func (o *Outcome) verdict(in *Input, view int) {
	switch {
	case o.Mode == staunch.ModeShadow:
		o.Verdict = staunch.VerdictShadow
		o.say("in shadow mode nothing is done and nobody is told")
	case view == 1:
		o.Verdict = staunch.VerdictInform
		o.say("the evidence is outside of its source's time bounds and may only inform")
	case o.Mode == staunch.ModeRecommend:
		o.Verdict = staunch.VerdictRecommend
		o.say("in recommend mode people are told and nothing is done")
	case in.heldBy(o):
		o.Verdict = staunch.VerdictHeld
		o.say("a containment at " + in.Containment.Tier + " is in force already")
	case o.Approve:
		o.Verdict = staunch.VerdictApproval
	default:
		o.Verdict = staunch.VerdictContain
	}
}

// heldBy reports whether the open case does all that the outcome asks for. What waits
// for a person does nothing yet: it is enough only where this would wait for one, too,
// or asking and never approving would shield somebody.
func (in *Input) heldBy(o *Outcome) bool {
	does := func(c ContainmentFacts) bool {
		if !c.Open || c.Phase == string(staunch.PhaseReleasing) || c.Phase == string(staunch.PhaseApproval) && !o.Approve {
			return false
		}
		tier, err := staunch.ParseTier(c.Tier)
		return err == nil && tier >= o.Tier && staunch.Kind(c.Scope).Width() >= o.Scope.Kind.Width()
	}
	return does(in.Containment) || does(in.Waits)
}

// scope starts from the subject, the narrowest thing that is accused, and
// widens only for a reason that it names.
func (in *Input) scope(p *policy, tier staunch.Tier, v *View) (staunch.Ref, string) {
	at, why := in.Subject, ""
	widen := func(to staunch.Kind, reason string) {
		if to.Width() <= at.Kind.Width() {
			return
		}
		wide, ok := in.wider(to)
		if !ok {
			reason = "should be wider (" + reason + "), but no " + string(to) + " is known for it"
		} else {
			at = wide
			reason = "widened to " + wide.String() + ": " + reason
		}
		why = join(why, reason)
	}
	if p.scope != "" {
		widen(p.scope, "policy "+p.id+" contains at least the "+string(p.scope))
	}
	if p.second && v.Sessions >= 2 && at.Kind == staunch.KindSession {
		widen(staunch.KindCredential, "a second session of the same credential is accused")
	}
	if tier == staunch.TierRevoke && p.atRevoke != "" {
		widen(p.atRevoke, "policy "+p.id+" revokes at least the "+string(p.atRevoke))
	}
	// A gap may lead to the next one; widths end it.
	for range 4 {
		before := at
		for _, g := range in.Gaps {
			if g.Widen.Kind.Width() > at.Kind.Width() && (g.Ref == at || (at == in.Subject && slices.Contains(in.Names, g.Ref))) {
				at = g.Widen
				why = join(why, "widened to "+at.String()+": "+g.Reason)
				break
			}
		}
		if at == before {
			break
		}
	}
	return at, why
}

// wider returns the narrowest thing of at least the kind that the subject
// belongs to, on its own realm where there is one.
func (in *Input) wider(to staunch.Kind) (staunch.Ref, bool) {
	var found staunch.Ref
	for _, u := range in.Up {
		switch {
		case u.Kind.Width() < to.Width():
		case found.IsZero(), u.Kind == found.Kind && u.Realm == in.Subject.Realm && found.Realm != in.Subject.Realm:
			found = u
		}
	}
	return found, !found.IsZero()
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// facts are what match looks at.
func (in *Input) facts(v *View) facts {
	f := facts{one: [keyCount]string{
		keyIdentityKind: in.Identity.Kind,
		keyEnvironment:  in.Identity.Environment,
		keyTier:         strconv.Itoa(in.Identity.Tier),
		keyTolerance:    in.Identity.Tolerance,
		keyManaged:      strconv.FormatBool(in.Identity.Managed),
		keyShared:       strconv.FormatBool(in.Identity.Shared),
		keyOwner:        in.Identity.Owner,
		keyRealm:        in.Subject.Realm,
		keyPlatform:     in.Platform,
		keySubjectKind:  string(in.Subject.Kind),
	}}
	f.many[keyRule], f.many[keyTechnique], f.many[keySource] = v.Rules, v.Techniques, v.Sources
	return f
}

// when is what expressions look at.
func (in *Input) when(v *View) *whenInput {
	return &whenInput{
		signal: &v.Signal,
		suspicion: SuspicionFacts{
			Confidence: v.Confidence, Ceiling: v.Ceiling.String(), Signals: v.Count, Sessions: v.Sessions,
			Rules: v.Rules, Sources: v.Sources, Techniques: v.Techniques, Subject: string(in.Subject.Kind),
		},
		identity:    &in.Identity,
		containment: &in.Containment,
		environment: EnvironmentFacts{Name: in.Identity.Environment, Realm: in.Subject.Realm, Platform: in.Platform, Mode: in.Mode.String()},
	}
}

// Making is what NewDecision needs beside the decision itself.
type Making struct {
	// Identity is the snapshot that policy saw.
	Identity staunch.Identity
	// Bundle is the hash of the configuration that decided.
	Bundle string
	Made   staunch.Time
}

// NewDecision writes an outcome down with its inputs, so that it can be made
// again. The suspicion is the one that may contain when the outcome rests on
// it, and otherwise what it would be.
func NewDecision(in Input, a Assessment, out Outcome, m Making) (staunch.Decision, error) {
	inputs, err := json.Marshal(in)
	if err != nil {
		return staunch.Decision{}, fmt.Errorf("writing down a decision's inputs: %w", err)
	}
	d := staunch.Decision{
		V: staunch.Version, ID: staunch.DecisionID(in.Subject, m.Bundle, a.Signals), Subject: in.Subject,
		Scope: out.Scope, ScopeReason: out.ScopeReason, AsOf: in.view(out.View).AsOf, Made: m.Made,
		Signals: a.Signals, Suspicion: a.Enforce, Identity: m.Identity, Bundle: m.Bundle, Policy: out.Policy,
		Tier: out.Tier, Mode: out.Mode, Playbook: out.Playbook.Name, Verdict: out.Verdict,
		Reasons: out.Reasons, Notify: out.Notify, Inputs: inputs,
	}
	if out.View != ViewEnforce {
		d.Suspicion = a.Would
	}
	return d, nil
}

// view returns the view by its name.
func (in *Input) view(name string) *View {
	switch name {
	case ViewInform:
		return &in.Views.Inform
	case ViewRecommend:
		return &in.Views.Recommend
	case ViewShadow:
		return &in.Views.Shadow
	default:
		return &in.Views.Enforce
	}
}

// Choose returns the index of the outcome to act on among those for a subject
// and what it belongs to, -1 for none: the one that does most (contain or ask,
// before only telling, before watching), then the highest tier, then the
// narrowest scope.
func Choose(outcomes []Outcome) int {
	best := -1
	for i := range outcomes {
		if best < 0 || better(&outcomes[i], &outcomes[best]) {
			best = i
		}
	}
	return best
}

func better(a, b *Outcome) bool {
	return cmp.Or(
		cmp.Compare(force(a.Verdict), force(b.Verdict)),
		cmp.Compare(a.Tier, b.Tier),
		cmp.Compare(b.Scope.Kind.Width(), a.Scope.Kind.Width()),
		// The rest only settles ties, so that order never matters.
		cmp.Compare(b.Scope.String(), a.Scope.String()),
	) > 0
}

func force(v staunch.Verdict) int {
	switch v {
	case staunch.VerdictContain, staunch.VerdictApproval, staunch.VerdictHeld:
		return 4
	case staunch.VerdictRecommend:
		return 3
	case staunch.VerdictInform:
		return 2
	case staunch.VerdictShadow:
		return 1
	default:
		return 0
	}
}

// PolicyTrace says of one policy why it decided or did not.
type PolicyTrace struct {
	Policy   string       `json:"policy"`
	Place    string       `json:"place"`
	Priority int          `json:"priority"`
	Mode     staunch.Mode `json:"mode"`
	// Matched says that match and when hold; Chosen that it decided.
	Matched bool   `json:"matched"`
	Chosen  bool   `json:"chosen"`
	Why     string `json:"why"`
}

// Explain goes through all policies, in the order in which they are tried, for
// the view that Decide's outcome rests on.
func (s *Set) Explain(in Input) []PolicyTrace {
	out := s.Decide(in)
	v := in.view(out.View)
	f, w := in.facts(v), in.when(v)
	traces := make([]PolicyTrace, 0, len(s.policies))
	chosen := ""
	for _, p := range s.policies {
		t := PolicyTrace{Policy: p.id, Place: p.place, Priority: p.priority, Mode: p.mode}
		t.Why = p.match.fails(&f)
		if t.Why == "" && p.when != nil {
			ok, err := p.when.eval(w)
			switch {
			case err != nil:
				t.Why = "when cannot be told: " + err.Error()
			case !ok:
				t.Why = "when does not hold"
			}
		}
		if t.Why == "" {
			t.Matched = true
			if chosen == "" {
				t.Chosen, chosen = true, p.id
				t.Why = fmt.Sprintf("decides: %s (%s view, confidence %.2f)", p.ladderText(), out.View, v.Confidence)
			} else {
				t.Why = "matches, but " + chosen + " comes before it"
			}
		}
		traces = append(traces, t)
	}
	return traces
}

func (p *policy) ladderText() string {
	text := ""
	for _, r := range p.rungs {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s from %.2f", r.tier, r.at)
	}
	return text
}
