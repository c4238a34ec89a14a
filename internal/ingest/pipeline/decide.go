package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
)

// judged is one candidate subject with what policy made of it.
type judged struct {
	res        staunch.Resolution
	assessment decide.Assessment
	input      decide.Input
	outcome    decide.Outcome
	evidence   []decide.Evidence
}

// decide judges an accused ref and what it belongs to, stores the decision with
// its inputs, passes it by the guardrails and opens or raises the case. It
// returns how many decisions were new. drill is the exercise that accused it, nil
// for none: what is an exercise's and what is real are never weighed together.
func (p *Pipeline) decide(tx store.Tx, known knowing, b *Bundle, accused staunch.Ref, drill *Drill, now staunch.Time) (int, error) {
	return p.decideBy(tx, known, b, accused, drill, now, nil)
}

// decideBy is decide by the signals that are heard alone, nil is by all. Where not
// all are, only what contains is stored: the decision by all says the rest.
func (p *Pipeline) decideBy(tx store.Tx, known knowing, b *Bundle, accused staunch.Ref, drill *Drill, now staunch.Time, heard func(staunch.Signal) bool) (int, error) {
	all, err := p.candidates(tx, known, b, accused, drill, now, heard)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	outcomes := make([]decide.Outcome, len(all))
	for i := range all {
		outcomes[i] = all[i].outcome
	}
	j := all[decide.Choose(outcomes)]
	d, err := decision(b, j, now)
	if err != nil {
		return 0, err
	}
	d.Drill = drill.id()
	if before, err := tx.Decision(d.ID); err == nil {
		if d.Tier <= before.Tier && d.Scope == before.Scope {
			return 0, nil // the same evidence under the same bundle was decided on
		}
		// What was learned since of the subject, such as whose it is, makes more of
		// the same evidence.
		d.ID = staunch.DecisionID(d.Subject, b.Hash, append(slices.Clone(d.Signals), "knowing/"+staunch.Digest(d.Inputs)))
		_, err = tx.Decision(d.ID)
		if err == nil {
			return 0, nil
		}
		if !errors.Is(err, staunch.ErrNotFound) {
			return 0, err
		}
	} else if !errors.Is(err, staunch.ErrNotFound) {
		return 0, err
	}
	if d.Verdict == staunch.VerdictHeld {
		// The open case does already what this asks for. The signals are kept; a
		// decision for each of a hammering thief's calls would say nothing more.
		return 0, nil
	}
	if heard != nil && d.Verdict != staunch.VerdictContain {
		return 0, nil
	}
	if nothingNew, err := p.nothingNew(tx, d, now); err != nil || nothingNew {
		return 0, err
	}
	opened, open, err := p.act(tx, b, &d, j, drill, now)
	if err != nil {
		return 0, err
	}
	if heard != nil && opened == nil {
		return 0, nil
	}
	if len(open) > 0 && heard == nil {
		// A forger must not be able to shield somebody by accusing them, too.
		if others := decide.Heard(open); others != nil {
			if n, err := p.decideBy(tx, known, b, accused, drill, now, others); n > 0 || err != nil {
				return n, err
			}
		}
	}
	if _, err := tx.PutDecision(d); err != nil {
		return 0, err
	}
	if drill != nil && drill.Decided != nil {
		if err := drill.Decided(tx, d); err != nil {
			return 0, err
		}
	}
	said := map[string]any{
		"decision": d.ID, "subject": d.Subject, "scope": d.Scope, "tier": d.Tier, "verdict": d.Verdict, "mode": d.Mode,
		"policy": d.Policy, "confidence": d.Suspicion.Confidence, "signals": d.Signals, "bundle": d.Bundle,
		"containment": d.Containment, "reasons": d.Reasons,
	}
	if d.Drill != "" {
		said["drill"] = d.Drill
	}
	body, err := json.Marshal(said)
	if err != nil {
		return 0, fmt.Errorf("encoding a decision's record: %w", err)
	}
	about := d.Containment
	if about == "" {
		about = d.ID
	}
	if _, err := tx.AppendRecord(staunch.Record{Time: now, Kind: staunch.RecordDecision, Actor: "engine", About: about, Body: body}); err != nil {
		return 0, err
	}
	if p.opt.Teller != nil && drill == nil { // of an exercise its end is told
		for _, n := range p.opt.Teller.DecisionNotices(d, now) {
			if err := tx.PutNotice(n); err != nil {
				return 0, err
			}
		}
	}
	if opened != nil {
		clear(known.judged) // what is open is part of each
		id, refs := opened.ID, append([]staunch.Ref{opened.Subject}, opened.Names...)
		tx.OnCommit(func() { p.watch.add(id, refs) })
	}
	if p.opt.Observe != nil {
		tx.OnCommit(func() { p.opt.Observe(d) })
	}
	return 1, nil
}

// candidates judges the accused ref and everything that it belongs to: what is
// too little against one session may be enough against its account.
func (p *Pipeline) candidates(tx store.Tx, known knowing, b *Bundle, accused staunch.Ref, drill *Drill, now staunch.Time, heard func(staunch.Signal) bool) ([]*judged, error) {
	first, err := p.judge(tx, known, b, accused, drill.id(), now, heard)
	if err != nil || first == nil {
		return nil, err
	}
	out := []*judged{first}
	for _, up := range first.res.Up {
		if slices.ContainsFunc(out, func(j *judged) bool { return slices.Contains(j.res.Names, up) }) {
			continue // another name of one that was judged
		}
		if !drill.may(up) {
			continue
		}
		j, err := p.judge(tx, known, b, up, drill.id(), now, heard)
		if err != nil {
			return nil, err
		}
		if j != nil {
			out = append(out, j)
		}
	}
	return out, nil
}

// maxEvidence bounds the signals that one judgement reads.
const maxEvidence = 500

// maxRepeats is how many signals of one rule against one ref are weighed. What a
// further one could add is the tenth of the doubt that all repeats share: of
// signals of 0.2 a thousandth.
const maxRepeats = 20

// withoutRepeats leaves of each rule's signals of the exercise against a ref the
// first maxRepeats.
func withoutRepeats(signals []*staunch.Signal, drill string) []*staunch.Signal {
	type pair struct {
		rule    string
		accused staunch.Ref
	}
	out := make([]*staunch.Signal, 0, len(signals))
	var times map[pair]int
	if len(signals) > maxRepeats {
		times = make(map[pair]int)
	}
	for _, s := range signals {
		if s.Drill != drill {
			continue
		}
		if times != nil {
			p := pair{s.Rule, s.Accused}
			if times[p]++; times[p] > maxRepeats {
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// knowing remembers what the decisions of one transaction have asked for: their
// candidates belong to each other, of many sessions often to one account, and
// nothing that they ask for is written meanwhile but cases.
type knowing struct {
	inventory.Reader
	settled settledTimes
	trust   *trusted
	// judged has who was judged already; nil for nobody worth it.
	judged map[judgedFor]*judged
}

// judgedFor is who was judged, and by the evidence of which exercise.
type judgedFor struct {
	ref   staunch.Ref
	drill string
}

// knowingOf reads from r. A transaction remembers what inventories ask for by
// itself.
func knowingOf(r store.Reader) knowing {
	return knowing{r, settledTimes{r, map[staunch.Ref]staunch.Time{}}, &trusted{r: r}, map[judgedFor]*judged{}}
}

// trusted is the trust in the rules whose mode is not what their files say. It is
// read in the transaction that decides, so that a demotion holds on every node
// from its commit on.
type trusted struct {
	r    store.Reader
	read bool
	in   map[string]staunch.RuleTrust
}

func (t *trusted) rules() (map[string]staunch.RuleTrust, error) {
	if t.read {
		return t.in, nil
	}
	list, err := t.r.SteeredRules()
	if err != nil {
		return nil, fmt.Errorf("reading how far rules are trusted: %w", err)
	}
	t.read, t.in = true, make(map[string]staunch.RuleTrust, len(list))
	for _, rt := range list {
		t.in[rt.Rule] = rt
	}
	return t.in, nil
}

// settledTimes are those up to which a release settled what was known of refs.
type settledTimes struct {
	r     store.Reader
	known map[staunch.Ref]staunch.Time
}

func (s settledTimes) at(ref staunch.Ref) (staunch.Time, error) {
	at, ok := s.known[ref]
	if ok {
		return at, nil
	}
	at, err := contain.SettledAt(s.r, ref)
	if err == nil {
		s.known[ref] = at
	}
	return at, err
}

// judge gathers the evidence against a ref and asks policy. It returns nil
// where there is none. known reads from r; drill is the exercise whose evidence
// counts, "" for the real, and heard, when given, says which of it.
func (p *Pipeline) judge(r store.Reader, known knowing, b *Bundle, ref staunch.Ref, drill string, now staunch.Time, heard func(staunch.Signal) bool) (*judged, error) {
	if heard != nil {
		return p.judgeAnew(r, known, b, ref, drill, now, heard)
	}
	who := judgedFor{ref, drill}
	if j, ok := known.judged[who]; ok {
		return j, nil
	}
	j, err := p.judgeAnew(r, known, b, ref, drill, now, nil)
	if err == nil {
		known.judged[who] = j
	}
	return j, err
}

func (p *Pipeline) judgeAnew(r store.Reader, known knowing, b *Bundle, ref staunch.Ref, drill string, now staunch.Time, heard func(staunch.Signal) bool) (*judged, error) {
	res, err := p.opt.Inventory.Resolve(known, ref, now)
	if err != nil {
		return nil, err
	}
	under := slices.Clone(res.Names)
	for _, n := range res.Names {
		if n.Kind != staunch.KindIdentity {
			continue
		}
		id, err := known.Identity(n.Value)
		if err != nil && !errors.Is(err, staunch.ErrNotFound) {
			return nil, err
		}
		under = append(under, id.Accounts...)
	}
	signals, err := r.SignalsWithin(under, now.Add(-p.opt.Params.Horizon()), maxEvidence)
	if err != nil {
		return nil, err
	}
	signals = withoutRepeats(signals, drill)
	var accused inventory.RefSet
	for _, s := range signals {
		accused.Add(s.Accused)
	}
	below, err := p.opt.Inventory.Below(known, ref, accused.List())
	if err != nil {
		return nil, err
	}
	// A release of what it belongs to settles what was known of it as well.
	var until staunch.Time
	for _, n := range slices.Concat(res.Names, res.Up) {
		at, err := known.settled.at(n)
		if err != nil {
			return nil, err
		}
		until = max(until, at)
	}
	evidence := make([]decide.Evidence, 0, len(signals))
	for _, s := range signals {
		m, ok := below[s.Accused]
		if !ok || heard != nil && !heard(*s) { // one too many, or not heard
			continue
		}
		at, err := known.settled.at(s.Accused)
		if err != nil {
			return nil, err
		}
		if s.Learned <= max(at, until) {
			continue // a release settled it
		}
		evidence = append(evidence, decide.Evidence{Signal: s, Hops: m.Hops, Entity: m.Entity})
	}
	if len(evidence) == 0 {
		return nil, nil
	}
	trust, err := known.trust.rules()
	if err != nil {
		return nil, err
	}
	steering := decide.Steer(evidence, trust)
	j := &judged{res: res, evidence: evidence, assessment: p.opt.Params.Assess(ref, evidence)}
	platform, mode := p.opt.PlatformOf(ref.Realm)
	c := decide.Context{Mode: min(p.opt.Mode, mode), Platform: platform, RevokeSources: p.opt.Params.NeedSources(), Trust: steering}
	open, err := r.OpenContainments(append(slices.Clone(res.Names), res.Up...))
	if err != nil {
		return nil, err
	}
	for i := range open {
		most := &c.Open
		if open[i].Phase == staunch.PhaseApproval {
			most = &c.Waits
		}
		if *most == nil || open[i].Tier > (*most).Tier {
			*most = &open[i]
		}
	}
	if c.Open == nil {
		c.Open = c.Waits
	}
	j.input = decide.NewInput(res, j.assessment, c)
	j.outcome = b.Policy.Decide(j.input)
	return j, nil
}

// decision puts a judgement into the form that is stored.
func decision(b *Bundle, j *judged, now staunch.Time) (staunch.Decision, error) {
	inputs, err := json.Marshal(j.input)
	if err != nil {
		return staunch.Decision{}, fmt.Errorf("encoding a decision's inputs: %w", err)
	}
	sus := j.assessment.Enforce
	if j.outcome.View != decide.ViewEnforce {
		sus = j.assessment.Would
	}
	return staunch.Decision{
		V: staunch.Version, ID: staunch.DecisionID(j.res.Ref, b.Hash, j.assessment.Signals), Subject: j.res.Ref,
		Scope: j.outcome.Scope, ScopeReason: j.outcome.ScopeReason, AsOf: sus.AsOf, Made: now,
		Signals: j.assessment.Signals, Suspicion: sus, Identity: j.res.Identity, Bundle: b.Hash,
		Policy: j.outcome.Policy, Tier: j.outcome.Tier, Mode: j.outcome.Mode, Playbook: j.outcome.Playbook.Name,
		Verdict: j.outcome.Verdict, Reasons: slices.Clip(j.outcome.Reasons), Notify: j.outcome.Notify, Inputs: inputs,
	}, nil
}

// act passes a decision by the guardrails and opens or raises the case, or returns
// the breakers that are in the way.
func (p *Pipeline) act(tx store.Tx, b *Bundle, d *staunch.Decision, j *judged, drill *Drill, now staunch.Time) (_ *staunch.Containment, breakers []string, _ error) {
	if d.Verdict != staunch.VerdictContain && d.Verdict != staunch.VerdictApproval {
		return nil, nil, nil
	}
	res := j.res
	if d.Scope != res.Ref {
		var err error
		if res, err = p.opt.Inventory.Resolve(tx, d.Scope, now); err != nil {
			return nil, nil, err
		}
	}
	open, err := tx.OpenContainments(res.Names)
	if err != nil {
		return nil, nil, err
	}
	raise := false
	var have []string
	for _, c := range open {
		if c.Phase != staunch.PhaseReleasing && c.Phase != staunch.PhaseApproval {
			raise, have = true, append(have, c.Caps...)
		}
	}
	playbook := j.outcome.Playbook
	if drill != nil {
		if why := drill.refuses(d.Scope, open); why != "" {
			d.Verdict = staunch.VerdictProtected
			d.Reasons = append(d.Reasons, why)
			return nil, nil, nil
		}
		playbook.Derived, playbook.Widest = false, d.Scope.Kind
	}
	a, err := p.rails.Load().Admit(tx, decide.Request{
		Decision: *d, Resolution: res, Origin: staunch.OriginPolicy, Own: p.own(), Raise: raise, Have: have, Exercise: drill != nil,
		Group: b.Groups.Size(res.Identity), Now: now,
	})
	if err != nil {
		return nil, nil, err
	}
	d.Verdict = a.Verdict
	d.Reasons = append(d.Reasons, a.Reasons...)
	if d.Verdict != staunch.VerdictContain && d.Verdict != staunch.VerdictApproval {
		return nil, a.Open, nil
	}
	o, err := p.opt.Cases.Open(tx, contain.OpenRequest{
		Subject: d.Scope, Resolution: res, Origin: staunch.OriginPolicy, Opener: d.ID, Decision: d.ID, Tier: d.Tier,
		Playbook: playbook, Reasons: d.Reasons, Caps: a.Caps, Notify: d.Notify,
		Since: since(j.evidence), Approval: d.Verdict == staunch.VerdictApproval, Drill: drill.id(),
		Causes: a.Causes, Follows: a.Follows, Window: a.Window, Wait: a.Wait,
	})
	if err != nil {
		return nil, nil, err
	}
	d.Containment = o.Containment.ID
	return &o.Containment, nil, nil
}

// refuses says why the exercise may not contain the scope, with the cases that are
// open on it.
func (d *Drill) refuses(scope staunch.Ref, open []staunch.Containment) string {
	if !d.may(scope) {
		return "an exercise contains its canaries alone, and this would be " + scope.String()
	}
	for _, c := range open {
		if c.Drill != d.ID {
			return "the canary is contained by " + c.ID + " already, which is not this exercise's"
		}
	}
	return ""
}

func (p *Pipeline) own() []staunch.Ref {
	if p.opt.Own == nil {
		return nil
	}
	return p.opt.Own()
}

// since returns when the compromise is taken to have begun: the time of the
// earliest evidence that may enforce.
func since(evidence []decide.Evidence) staunch.Time {
	var at staunch.Time
	for _, e := range evidence {
		if e.Signal.Standing.MayEnforce() && (at == 0 || e.Signal.Time < at) {
			at = e.Signal.Time
		}
	}
	return at
}

// Judge says what policy makes of a ref now, and of what input, without deciding
// anything. Without evidence the outcome is to observe.
func (p *Pipeline) Judge(r store.Reader, ref staunch.Ref) (decide.Assessment, decide.Outcome, decide.Input, error) {
	known := knowingOf(r)
	known.Reader = inventory.Memo(r)
	j, err := p.judge(r, known, p.Bundle(), ref, "", staunch.TimeOf(p.opt.Clock.Now()), nil)
	if err != nil || j == nil {
		return decide.Assessment{Subject: ref}, decide.Outcome{V: staunch.Version, Scope: ref, Verdict: staunch.VerdictObserve}, decide.Input{}, err
	}
	return j.assessment, j.outcome, j.input, nil
}

// Resolve says what is known of a ref now.
func (p *Pipeline) Resolve(r store.Reader, ref staunch.Ref) (staunch.Resolution, error) {
	return p.opt.Inventory.Resolve(r, ref, staunch.TimeOf(p.opt.Clock.Now()))
}
