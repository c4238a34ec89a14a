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
// returns how many decisions were new.
func (p *Pipeline) decide(tx store.Tx, b *Bundle, accused staunch.Ref, now staunch.Time) (int, error) {
	all, err := p.candidates(tx, b, accused, now)
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
	if nothingNew, err := p.nothingNew(tx, d, now); err != nil || nothingNew {
		return 0, err
	}
	opened, err := p.act(tx, b, &d, j, now)
	if err != nil {
		return 0, err
	}
	if _, err := tx.PutDecision(d); err != nil {
		return 0, err
	}
	body, err := json.Marshal(map[string]any{
		"decision": d.ID, "subject": d.Subject, "scope": d.Scope, "tier": d.Tier, "verdict": d.Verdict, "mode": d.Mode,
		"policy": d.Policy, "confidence": d.Suspicion.Confidence, "signals": d.Signals, "bundle": d.Bundle,
		"containment": d.Containment, "reasons": d.Reasons,
	})
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
	if p.opt.Teller != nil {
		for _, n := range p.opt.Teller.DecisionNotices(d, now) {
			if err := tx.PutNotice(n); err != nil {
				return 0, err
			}
		}
	}
	if opened != nil {
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
func (p *Pipeline) candidates(tx store.Tx, b *Bundle, accused staunch.Ref, now staunch.Time) ([]judged, error) {
	known := knowing{inventory.Memo(tx), settledTimes{tx, map[staunch.Ref]staunch.Time{}}}
	first, err := p.judge(tx, known, b, accused, now)
	if err != nil || first == nil {
		return nil, err
	}
	out := []judged{*first}
	for _, up := range first.res.Up {
		if slices.ContainsFunc(out, func(j judged) bool { return slices.Contains(j.res.Names, up) }) {
			continue // another name of one that was judged
		}
		j, err := p.judge(tx, known, b, up, now)
		if err != nil {
			return nil, err
		}
		if j != nil {
			out = append(out, *j)
		}
	}
	return out, nil
}

// maxEvidence bounds the signals that one judgement reads.
const maxEvidence = 2000

// knowing remembers what one decision has asked for: its candidates belong to each
// other, and nothing that they ask for is written meanwhile.
type knowing struct {
	inventory.Reader
	settled settledTimes
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
// where there is none. known reads from r.
func (p *Pipeline) judge(r store.Reader, known knowing, b *Bundle, ref staunch.Ref, now staunch.Time) (*judged, error) {
	res, err := p.opt.Inventory.Resolve(known, ref, now)
	if err != nil {
		return nil, err
	}
	members, _, err := p.opt.Inventory.Within(known, ref, 0, 0)
	if err != nil {
		return nil, err
	}
	refs := make([]staunch.Ref, 0, len(members))
	hops := map[staunch.Ref]int{}
	entity := map[staunch.Ref]staunch.Ref{}
	for _, m := range members {
		refs = append(refs, m.Ref)
		hops[m.Ref], entity[m.Ref] = m.Hops, m.Entity
	}
	if len(refs) == 0 {
		refs = []staunch.Ref{ref}
	}
	signals, err := r.SignalsAccusing(refs, now.Add(-p.opt.Params.Horizon()), maxEvidence)
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
	var evidence []decide.Evidence
	for _, s := range signals {
		at, err := known.settled.at(s.Accused)
		if err != nil {
			return nil, err
		}
		if s.Learned <= max(at, until) {
			continue // a release settled it
		}
		evidence = append(evidence, decide.Evidence{Signal: s, Hops: hops[s.Accused], Entity: entity[s.Accused]})
	}
	if len(evidence) == 0 {
		return nil, nil
	}
	j := &judged{res: res, evidence: evidence, assessment: p.opt.Params.Assess(ref, evidence)}
	platform, mode := p.opt.PlatformOf(ref.Realm)
	c := decide.Context{Mode: min(p.opt.Mode, mode), Platform: platform}
	open, err := r.OpenContainments(append(slices.Clone(res.Names), res.Up...))
	if err != nil {
		return nil, err
	}
	for i := range open {
		if c.Open == nil || open[i].Tier > c.Open.Tier {
			c.Open = &open[i]
		}
	}
	j.input = decide.NewInput(res, j.assessment, c)
	j.outcome = b.Policy.Decide(j.input)
	return j, nil
}

// decision puts a judgement into the form that is stored.
func decision(b *Bundle, j judged, now staunch.Time) (staunch.Decision, error) {
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
		Verdict: j.outcome.Verdict, Reasons: j.outcome.Reasons, Notify: j.outcome.Notify, Inputs: inputs,
	}, nil
}

// act passes a decision by the guardrails and opens or raises the case.
func (p *Pipeline) act(tx store.Tx, b *Bundle, d *staunch.Decision, j judged, now staunch.Time) (*staunch.Containment, error) {
	if d.Verdict != staunch.VerdictContain && d.Verdict != staunch.VerdictApproval {
		return nil, nil
	}
	res := j.res
	if d.Scope != res.Ref {
		var err error
		if res, err = p.opt.Inventory.Resolve(tx, d.Scope, now); err != nil {
			return nil, err
		}
	}
	open, err := tx.OpenContainments(res.Names)
	if err != nil {
		return nil, err
	}
	raise := false
	var have []string
	for _, c := range open {
		if c.Phase != staunch.PhaseReleasing && c.Phase != staunch.PhaseApproval {
			raise, have = true, append(have, c.Caps...)
		}
	}
	a, err := p.rails.Load().Admit(tx, decide.Request{
		Decision: *d, Resolution: res, Origin: staunch.OriginPolicy, Own: p.own(), Raise: raise, Have: have,
		Group: b.Groups.Size(res.Identity), Now: now,
	})
	if err != nil {
		return nil, err
	}
	d.Verdict = a.Verdict
	d.Reasons = append(d.Reasons, a.Reasons...)
	if d.Verdict != staunch.VerdictContain && d.Verdict != staunch.VerdictApproval {
		return nil, nil
	}
	o, err := p.opt.Cases.Open(tx, contain.OpenRequest{
		Subject: d.Scope, Resolution: res, Origin: staunch.OriginPolicy, Opener: d.ID, Decision: d.ID, Tier: d.Tier,
		Playbook: j.outcome.Playbook, Reasons: d.Reasons, Caps: a.Caps, Notify: d.Notify,
		Since: since(j.evidence), Approval: d.Verdict == staunch.VerdictApproval,
	})
	if err != nil {
		return nil, err
	}
	d.Containment = o.Containment.ID
	return &o.Containment, nil
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
	j, err := p.judge(r, knowing{inventory.Memo(r), settledTimes{r, map[staunch.Ref]staunch.Time{}}}, p.Bundle(), ref, staunch.TimeOf(p.opt.Clock.Now()))
	if err != nil || j == nil {
		return decide.Assessment{Subject: ref}, decide.Outcome{V: staunch.Version, Scope: ref, Verdict: staunch.VerdictObserve}, decide.Input{}, err
	}
	return j.assessment, j.outcome, j.input, nil
}

// Resolve says what is known of a ref now.
func (p *Pipeline) Resolve(r store.Reader, ref staunch.Ref) (staunch.Resolution, error) {
	return p.opt.Inventory.Resolve(r, ref, staunch.TimeOf(p.opt.Clock.Now()))
}
