package contain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/crashpoint"
	"github.com/staunch-project/staunch/internal/store"
)

func ignoreNotFound(err error) error {
	if errors.Is(err, staunch.ErrNotFound) {
		return nil
	}
	return err
}

// Draft is a stage's plan before it is durable: what Expand and Read found.
type Draft struct {
	// Roots and Derived are what was asked about.
	Roots   []staunch.Ref `json:"roots"`
	Derived []staunch.Ref `json:"derived,omitempty"`
	Items   []DraftItem   `json:"items"`
	Gaps    []staunch.Gap `json:"gaps,omitempty"`
	// Facts are what the platforms said that the logs had not.
	Facts []staunch.Fact `json:"-"`

	// barred has what a wall keeps from being touched.
	barred map[staunch.Ref]bool
	// more says that a quick answer left something out for a child plan.
	more bool
	// seq is the hold sequence before anything was asked of a platform.
	seq int64
	// held has the hold that was active on each target when it was read.
	held map[string]version
	// outage has what could not be asked or read now, refusal what never can.
	outage, refusal []error
	// unapproved has what was left out since nobody approved it.
	unapproved []staunch.Target
}

// version is a hold as it was at one moment; zero where there was none.
type version struct {
	id  string
	seq int64
}

// missed notes that part of the plan could not be made. One platform that is
// down or refuses us must not keep the others from being acted upon.
func (d *Draft) missed(ref staunch.Ref, err error) {
	d.Gaps = append(d.Gaps, staunch.Gap{Ref: ref, Reason: err.Error()})
	switch staunch.ClassOf(err) {
	case staunch.ClassTransient, staunch.ClassUnknown:
		d.outage = append(d.outage, err)
	default:
		d.refusal = append(d.refusal, err)
	}
}

// DraftItem is one would-be step.
type DraftItem struct {
	Connector string             `json:"connector"`
	Intent    staunch.Intent     `json:"intent"`
	Spec      connector.VerbSpec `json:"-"`
	Before    staunch.State      `json:"-"`
	// Read says that Expand has read Before.
	Read bool `json:"-"`
	// Found is the pre-image's summary.
	Found string `json:"found"`
}

// Preview returns what a stage would do to a subject now. It reads and changes
// nothing. What could not be asked is among the gaps, and an error where nothing
// could.
func (e *Engine) Preview(ctx context.Context, con staunch.Containment) (Draft, error) {
	d, err := e.draft(ctx, Case{Containment: con})
	if err == nil && len(d.Items) == 0 {
		err = errors.Join(append(d.outage, d.refusal...)...)
	}
	return d, err
}

// draft asks lineage and the platforms, filters by the stage and the walls
// (protected, own, scope), and reads the pre-images.
func (e *Engine) draft(ctx context.Context, c Case) (Draft, error) {
	con := c.Containment
	stage := con.Playbook.Stages[con.Stage]
	d := Draft{Roots: con.Scope.Roots}
	var known map[staunch.Ref]staunch.Resolution
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		now := staunch.TimeOf(e.opt.Clock.Now())
		known = map[staunch.Ref]staunch.Resolution{}
		d.Derived, d.Gaps, d.barred = nil, nil, map[staunch.Ref]bool{}
		var err error
		if d.seq, err = r.HoldSeq(); err != nil {
			return err
		}
		roots := slices.Clone(con.Scope.Roots)
		for _, root := range con.Scope.Roots {
			if root.Kind == staunch.KindIdentity {
				id, err := r.Identity(root.Value)
				if err := ignoreNotFound(err); err != nil {
					return err
				}
				roots = append(roots, id.Accounts...)
			}
		}
		d.Roots = roots
		learn := func(ref staunch.Ref) error {
			res, err := e.opt.Lineage.Resolve(r, ref, now)
			if err != nil {
				return err
			}
			known[ref] = res
			if why := e.barred(res); why != "" {
				d.barred[ref] = true
				d.Gaps = append(d.Gaps, staunch.Gap{Ref: ref, Reason: why})
			}
			return nil
		}
		for _, root := range roots {
			if err := learn(root); err != nil {
				return err
			}
		}
		if con.Scope.Closure == "derived" {
			refs, truncated, err := e.opt.Lineage.Derived(r, roots, con.Since, e.opt.DerivedLimit)
			if err != nil {
				return err
			}
			d.Derived = refs
			for _, ref := range refs {
				if err := learn(ref); err != nil {
					return err
				}
			}
			if truncated {
				d.Gaps = append(d.Gaps, staunch.Gap{Ref: con.Subject, Reason: fmt.Sprintf("more than %d derived subjects; the rest is not in this plan", e.opt.DerivedLimit)})
			}
		}
		return nil
	})
	if err != nil {
		return Draft{}, fmt.Errorf("reading what is known of %s: %w", con.Subject, err)
	}
	// One request a root, which is told what came from it, and one a derived
	// subject, since a connector need not act on what it is only told of.
	type request struct {
		realm string
		req   connector.ExpandRequest
	}
	var reqs []request
	derived := map[string][]staunch.Ref{}
	for _, ref := range d.Derived {
		if !d.barred[ref] {
			derived[ref.Realm] = append(derived[ref.Realm], ref)
		}
	}
	// A stage's own plan is quick: nothing that can be done at once waits for a
	// search. What the search would find is for a child plan.
	// Where no child plan may find anything, the stage's own plan has it all.
	quick := con.ID != "" && con.Phase == staunch.PhaseOpen && !closed(con)
	ask := func(ref staunch.Ref, names, derived []staunch.Ref) {
		if ref.Realm == "" || d.barred[ref] {
			return
		}
		req := connector.ExpandRequest{Subject: ref, Names: names, Derived: derived, Since: con.Since, Tier: stage.Tier, Verbs: stage.Verbs, Quick: quick}
		for _, up := range known[ref].Up {
			if up.Realm == ref.Realm {
				req.Up = append(req.Up, up)
			}
		}
		reqs = append(reqs, request{ref.Realm, req})
	}
	// The scope widens from its roots. What is derived widens only to what a root
	// belongs to: its account may be somebody else's.
	widens := map[staunch.Ref]bool{}
	above := map[staunch.Ref]bool{}
	for _, root := range d.Roots {
		widens[root] = true
		for _, ref := range slices.Concat(known[root].Names, known[root].Up) {
			above[ref] = true
		}
		ask(root, known[root].Names, derived[root.Realm])
	}
	for _, ref := range d.Derived {
		ask(ref, []staunch.Ref{ref}, nil)
	}
	seen := map[string]bool{}
	for i := 0; i < len(reqs); i++ {
		rq := reqs[i]
		c := e.opt.Connectors[rq.realm]
		if c == nil {
			d.Gaps = append(d.Gaps, staunch.Gap{Ref: rq.req.Subject, Reason: "no connector is configured for realm " + rq.realm})
			continue
		}
		ex, err := e.expand(ctx, c, rq.req)
		if ctx.Err() != nil {
			return Draft{}, ctx.Err()
		}
		if err != nil {
			d.missed(rq.req.Subject, fmt.Errorf("expanding %s: %w", rq.req.Subject, err))
			continue
		}
		d.Facts = append(d.Facts, ex.Facts...)
		d.more = d.more || quick && ex.More
		for _, g := range ex.Gaps {
			if w := g.Widen; !w.IsZero() && w != rq.req.Subject && w.Kind.Width() <= con.Scope.Widest.Width() &&
				w.Kind.Width() > rq.req.Subject.Kind.Width() && w.Realm == rq.realm && (widens[rq.req.Subject] || above[w]) &&
				!slices.ContainsFunc(reqs, func(x request) bool { return x.req.Subject == w }) {
				g.Reason += "; widened to " + w.String()
				widens[w] = true
				ask(w, []staunch.Ref{w}, nil)
			}
			d.Gaps = append(d.Gaps, g)
		}
		desc := c.Describe()
		for _, a := range ex.Actions {
			item, gap, err := e.draftItem(desc, a, rq.req.Subject, con)
			if err != nil {
				d.missed(rq.req.Subject, err)
				continue
			}
			if gap != "" {
				d.Gaps = append(d.Gaps, staunch.Gap{Ref: a.Target.Ref, Reason: gap})
				continue
			}
			key := a.Target.Key() + string(a.Verb)
			if item == nil || seen[key] {
				continue
			}
			seen[key] = true
			if a.State != nil && a.State.Target == a.Target {
				item.Before, item.Read = *a.State, true
			}
			d.Items = append(d.Items, *item)
		}
	}
	if err := e.readHolds(ctx, &d); err != nil {
		return Draft{}, err
	}
	e.readAll(ctx, &d)
	unapproved(con, &d)
	return d, ctx.Err()
}

// barred returns why nothing that is known of a ref may be touched, "" where it
// may: one of its names, what it belongs to or its identity is protected or ours.
func (e *Engine) barred(res staunch.Resolution) string {
	if res.Identity.Protected {
		return fmt.Sprintf("protected: identity %q is declared so", res.Identity.Name)
	}
	for _, ref := range slices.Concat([]staunch.Ref{res.Ref}, res.Names, res.Up) {
		if why := e.Untouchable(ref); why != "" {
			if ref != res.Ref {
				why = ref.String() + ": " + why
			}
			return why
		}
	}
	return ""
}

// readHolds reads which holds are active on the targets, before the targets
// are: a pre-image counts only as long as nobody of ours has changed its target.
// What Expand has read already counts only where no hold on it has changed since.
func (e *Engine) readHolds(ctx context.Context, d *Draft) error {
	return e.opt.Store.View(ctx, func(r store.Reader) error {
		since, err := r.HoldsAfter(staunch.PlanePlatform, d.seq, store.MaxPage)
		if err != nil {
			return err
		}
		d.held = map[string]version{}
		for i := range d.Items {
			it := &d.Items[i]
			t := it.Intent.Target
			h, err := r.ActiveHold(staunch.PlanePlatform, t)
			if err := ignoreNotFound(err); err != nil {
				return err
			}
			d.held[t.Key()] = version{h.ID, h.Seq}
			if len(since) == store.MaxPage || slices.ContainsFunc(since, func(h staunch.Hold) bool { return h.Target == t }) {
				it.Read = false
			}
		}
		return nil
	})
}

func (e *Engine) expand(ctx context.Context, c connector.Connector, req connector.ExpandRequest) (connector.Expansion, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	defer cancel()
	return c.Expand(ctx, req)
}

// draftItem puts an action before the walls. It returns nil when the stage does
// not want it, and a reason when a wall forbids it.
func (e *Engine) draftItem(desc connector.Description, a connector.Action, subject staunch.Ref, con staunch.Containment) (*DraftItem, string, error) {
	stage := con.Playbook.Stages[con.Stage]
	if err := explicit(a.Target); err != nil {
		return nil, "", staunch.Permanent(fmt.Errorf("realm %s expanded to a target that is not explicit: %w", desc.Realm, err))
	}
	if a.Target.Ref.Realm != desc.Realm {
		return nil, "", staunch.Permanent(fmt.Errorf("realm %s expanded to a target on realm %s", desc.Realm, a.Target.Ref.Realm))
	}
	if a.Target.Ref.Kind.Width() > subject.Kind.Width() {
		return nil, "it is wider than " + subject.String() + ", and the scope widens only by a gap that says why", nil
	}
	spec, ok := SpecFor(desc, a.Verb, a.Target)
	if !ok {
		return nil, "", staunch.Permanent(fmt.Errorf("realm %s expanded to %s on %s, which it does not declare", desc.Realm, a.Verb, a.Target.Attribute))
	}
	if spec.Tier > stage.Tier || spec.Tier > con.Scope.Highest {
		return nil, "", nil
	}
	if len(stage.Verbs) > 0 && !slices.Contains(stage.Verbs, a.Verb) {
		return nil, "", nil
	}
	if reason := e.Untouchable(a.Target.Ref); reason != "" {
		return nil, reason, nil
	}
	return &DraftItem{Connector: desc.Platform, Spec: spec, Intent: staunch.Intent{Target: a.Target, Verb: a.Verb, Probe: a.Probe}}, "", nil
}

// explicit refuses empty and wildcard targets: an empty set must never mean
// everything.
func explicit(t staunch.Target) error {
	if err := t.Ref.Validate(); err != nil {
		return err
	}
	if t.Attribute == "" {
		return fmt.Errorf("%w: target %s has no attribute", staunch.ErrInvalid, t.Ref)
	}
	if t.Ref.Value == "*" || t.Attribute == "*" {
		return fmt.Errorf("%w: target %s is a wildcard", staunch.ErrInvalid, t)
	}
	return nil
}

// Untouchable returns why no mutating call may touch the ref, "" where one may:
// it is protected, or it is ours (invariant I5).
func (e *Engine) Untouchable(ref staunch.Ref) string {
	if e.IsOwn(ref) {
		return "it is staunch's own account"
	}
	if e.opt.Protected != nil {
		if why := e.opt.Protected(ref); why != "" {
			return "protected: " + why
		}
	}
	return ""
}

// readAll reads the pre-images and prepares the intents; what cannot be read
// leaves the draft.
func (e *Engine) readAll(ctx context.Context, d *Draft) {
	ctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	defer cancel()
	errs := make([]error, len(d.Items))
	read := func(i int) {
		it := &d.Items[i]
		c := e.opt.Connectors[it.Intent.Target.Ref.Realm]
		st := it.Before
		if !it.Read {
			var err error
			if st, err = c.Read(ctx, it.Intent.Target, false); err != nil {
				errs[i] = fmt.Errorf("reading %s: %w", it.Intent.Target, err)
				return
			}
		}
		in, err := c.Prepare(st, it.Intent.Verb)
		if err != nil {
			errs[i] = fmt.Errorf("preparing %s on %s: %w", it.Intent.Verb, it.Intent.Target, err)
			return
		}
		in.Target, in.Verb, in.Probe = it.Intent.Target, it.Intent.Verb, it.Intent.Probe
		it.Intent, it.Before, it.Found = in, st, st.Summary
	}
	if len(d.Items) == 1 || e.opt.Readers == 1 || !slices.ContainsFunc(d.Items, func(it DraftItem) bool { return !it.Read }) {
		for i := range d.Items {
			read(i)
		}
	} else {
		var wg sync.WaitGroup
		sem := make(chan struct{}, e.opt.Readers)
		for i := range d.Items {
			sem <- struct{}{}
			wg.Go(func() {
				defer func() { <-sem }()
				read(i)
			})
		}
		wg.Wait()
	}
	kept := d.Items[:0]
	for i, it := range d.Items {
		if errs[i] != nil {
			d.missed(it.Intent.Target.Ref, errs[i])
			continue
		}
		kept = append(kept, it)
	}
	d.Items = kept
}

// plan makes the stage's plan durable (T2), or a child plan where the stage has
// one already.
func (e *Engine) plan(ctx context.Context, c Case, j *job) error {
	d, err := e.draft(ctx, c)
	crashpoint.Here("plan.drafted")
	if err != nil {
		return err // the guard hold stands; it is tried again
	}
	found := e.endScope(c, &d)
	outage, refusal := errors.Join(d.outage...), errors.Join(d.refusal...)
	if refusal != nil && e.plansAgain(c.Containment.ID, d.refusal) {
		outage, refusal = errors.Join(outage, refusal), nil
	}
	if len(d.Items) == 0 && outage == nil && refusal != nil {
		return e.trouble(ctx, c, fmt.Sprintf("the plan could not be made: %v", refusal))
	}
	onGuard := slices.Concat([]staunch.Ref{c.Containment.Subject}, d.Roots, d.Derived)
	onGuard = slices.DeleteFunc(onGuard, func(ref staunch.Ref) bool { return d.barred[ref] })
	if closed(c.Containment) && c.Containment.Phase != staunch.PhaseOpen {
		onGuard = slices.DeleteFunc(onGuard, func(ref staunch.Ref) bool { return !guarded(c, ref) })
	}
	if outage != nil && len(d.Items) == 0 {
		// The fast plane does not wait for the platforms.
		if err := e.guardNow(ctx, c, onGuard); err != nil {
			return err
		}
		return outage
	}
	var started []string
	err = e.commit(ctx, c, func(tx store.Tx, cur *staunch.Containment) error {
		started = started[:0]
		now := staunch.TimeOf(e.opt.Clock.Now())
		child := 0
		if cur.Phase != staunch.PhaseOpen {
			cur.Children++
			child = cur.Children
		}
		plan := staunch.Plan{
			V: staunch.Version, ID: staunch.PlanID(cur.ID, cur.Generation, cur.Stage, child), Containment: cur.ID,
			Generation: cur.Generation, Stage: cur.Stage, Child: child,
			Tier: cur.Playbook.Stages[cur.Stage].Tier, Made: now, Gaps: d.Gaps,
		}
		steps, more, err := e.claim(tx, *cur, c, plan, d, now)
		if err != nil {
			return err
		}
		if outage != nil && len(steps) == 0 {
			return outage // nothing came of it; the rest is tried again
		}
		if n := targets(c.Steps, steps); n > cur.Scope.MostTargets {
			return &tooMany{have: n, most: cur.Scope.MostTargets}
		}
		intents, fresh := intentsOf(steps)
		started = append(started, fresh...)
		plan.Hash = planHash(steps)
		if _, err := tx.PutPlan(plan); err != nil {
			return err
		}
		for i := range d.Facts {
			f := d.Facts[i]
			f.V, f.Learned = staunch.Version, now
			if f.Source == "" {
				f.Source = "connector"
			}
			f.ID = staunch.FactID(f)
			if _, err := tx.PutFact(f); err != nil {
				return err
			}
		}
		if err := e.guardFor(tx, *cur, onGuard, now); err != nil {
			return err
		}
		cur.Phase = staunch.PhaseActing
		// What was found derived while this was drafted is not in it.
		late := cur.Replan && cur.Changed != c.Containment.Changed
		cur.Replan = more || late || d.more || outage != nil
		if err := e.tellScope(tx, cur, found, steps, now); err != nil {
			return err
		}
		if err := e.tellUnapproved(tx, cur, d.unapproved, steps, now); err != nil {
			return err
		}
		switch {
		case refusal != nil:
			cur.Trouble = fmt.Sprintf("the plan is not whole: %v", refusal)
			if err := e.notices(tx, "trouble", *cur, steps, now); err != nil {
				return err
			}
		case outage != nil:
			cur.Trouble = fmt.Sprintf("the plan is not whole yet: %v", outage)
		case slices.ContainsFunc(planTroubles, func(p string) bool { return strings.HasPrefix(cur.Trouble, p) }):
			cur.Trouble = "" // other trouble, such as a failed step or an expiry, is not mended by a plan
		}
		return record(tx, staunch.RecordPlan, "engine", cur.ID, now, map[string]any{
			"plan": plan.ID, "stage": plan.Stage, "child": plan.Child, "tier": plan.Tier, "hash": plan.Hash,
			"intents": intents, "gaps": plan.Gaps, "derived": d.Derived, "generation": plan.Generation,
		})
	})
	var tm *tooMany
	if errors.As(err, &tm) {
		return e.trouble(ctx, c, tm.Error())
	}
	if err != nil {
		return err
	}
	for _, id := range started {
		j.fresh[id] = true
	}
	return nil
}

// plansAgain reports whether refusals of our credential may pass, so that a plan
// is made again as after an outage.
func (e *Engine) plansAgain(id string, refusals []error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failures[id] < MaxRefusals && !slices.ContainsFunc(refusals, func(err error) bool { return staunch.ClassOf(err) != staunch.ClassDenied })
}

// intentsOf returns what a plan's record says of its steps, and the ids of those
// that are to be called.
func intentsOf(steps []staunch.Step) (said []map[string]any, started []string) {
	said = make([]map[string]any, 0, len(steps))
	for _, s := range steps {
		if s.State == staunch.StepIntended {
			started = append(started, s.ID)
		}
		said = append(said, map[string]any{
			"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "call": s.Intent.Call, "undo": s.Intent.Undo,
			"reversibility": s.Intent.Reversibility, "pre_image": s.PreImageDigest, "state": s.State,
		})
	}
	return said, started
}

// planTroubles begin what is said of a case for which no whole plan could be
// made: one that could is the end of it.
var planTroubles = []string{"the plan ", stalledTrouble, "nothing of it could be contained"}

// guardNow puts the guard holds that the case wants on the refs, where it has
// not all of them.
func (e *Engine) guardNow(ctx context.Context, c Case, refs []staunch.Ref) error {
	missing := slices.ContainsFunc(refs, func(ref staunch.Ref) bool { return e.Untouchable(ref) == "" && !guarded(c, ref) })
	if !missing || len(c.Containment.Playbook.Stages[c.Containment.Stage].Deny) == 0 {
		return nil
	}
	return e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		return e.guardFor(tx, *con, refs, staunch.TimeOf(e.opt.Clock.Now()))
	})
}

// guarded reports whether the case holds the ref on the fast plane.
func guarded(c Case, ref staunch.Ref) bool {
	return slices.ContainsFunc(c.Holds, func(h staunch.Hold) bool {
		return h.Plane == staunch.PlaneGuard && h.Target.Ref == ref && claims(h, c.Containment.ID)
	})
}

// targets counts the explicit targets of the case's steps and of the new ones.
func targets(have, more []staunch.Step) int {
	seen := map[string]bool{}
	for _, s := range slices.Concat(have, more) {
		if s.State != staunch.StepVoid {
			seen[s.Target.Key()] = true
		}
	}
	return len(seen)
}

type tooMany struct{ have, most int }

func (t *tooMany) Error() string {
	return fmt.Sprintf("the plan has %d targets and the scope allows %d; nothing of it was done", t.have, t.most)
}

func planHash(steps []staunch.Step) string {
	parts := make([]string, 0, len(steps))
	for _, s := range steps {
		parts = append(parts, s.Target.String()+" "+string(s.Verb))
	}
	b, err := json.Marshal(parts)
	if err != nil { // strings always marshal
		panic(err)
	}
	return staunch.Digest(b)
}

// claim makes the draft's items into steps: those that the case has already are
// left out, those whose effect another case makes or has made are shared, the
// rest are intended with a sealed pre-image and a pending hold. more says that
// something has to wait for a step of the case's own.
func (e *Engine) claim(tx store.Tx, con staunch.Containment, c Case, plan staunch.Plan, d Draft, now staunch.Time) (out []staunch.Step, more bool, err error) {
	have := map[string]staunch.Step{}
	for _, s := range c.Steps {
		switch s.State {
		case staunch.StepFailed, staunch.StepReverted, staunch.StepVoid, staunch.StepKept:
		default:
			have[s.Target.Key()+string(s.Verb)] = s
		}
	}
	for _, it := range d.Items {
		key := it.Intent.Target.Key() + string(it.Intent.Verb)
		if prev, ok := have[key]; ok {
			delete(have, key)
			again, err := e.claimAgain(tx, con, prev, it, now)
			if err != nil {
				return nil, false, err
			}
			if !again {
				continue
			}
		}
		s := staunch.Step{
			V: staunch.Version, Plan: plan.ID, Containment: con.ID, Seq: len(out), Connector: it.Connector,
			Target: it.Intent.Target, Verb: it.Intent.Verb, Tier: it.Spec.Tier, State: staunch.StepIntended,
			Generation: con.Generation, Intent: it.Intent, Before: it.Found, Intended: now,
		}
		s.ID = staunch.StepID(plan.ID, s.Target, s.Verb)
		s.Intent.Key, s.Intent.Generation = s.ID, con.Generation
		waits, err := e.claimHold(tx, &s, it, d.held[s.Target.Key()], now)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", s.Target, err)
		}
		if waits {
			more = true
			continue
		}
		if err := tx.PutStep(s); err != nil {
			return nil, false, err
		}
		out = append(out, s)
	}
	if len(d.outage) > 0 {
		return out, more, nil
	}
	// What is shared with a maker that let go, and is not there to be acted upon
	// any more, would be waited for for ever.
	for _, s := range have {
		if s.State != staunch.StepShared {
			continue
		}
		h, err := tx.Hold(s.Hold)
		if err != nil {
			return nil, false, err
		}
		if _, ok, err := maker(tx, h); err != nil {
			return nil, false, err
		} else if !ok {
			s.State, s.Generation, s.Note = staunch.StepFailed, con.Generation, "who made it let go, and there is nothing to act on any more"
			if err := tx.PutStep(s); err != nil {
				return nil, false, err
			}
		}
	}
	return out, more, nil
}

// claimAgain looks at a step that the case has already for an item; again says
// that the case needs another.
func (e *Engine) claimAgain(tx store.Tx, con staunch.Containment, prev staunch.Step, it DraftItem, now staunch.Time) (again bool, err error) {
	switch prev.State {
	case staunch.StepProven:
		// A child plan after residual access does the same once more where the
		// platform shows that something is left; the step keeps its pre-image.
		if !it.Before.Effective {
			return false, nil
		}
		prev.State, prev.NotBefore, prev.Sweeps, prev.Attempts = staunch.StepUnknown, 0, 0, 0
		prev.Note = "again, since the platform showed it effective"
	case staunch.StepShared:
		h, err := tx.Hold(prev.Hold)
		if err != nil {
			return false, err
		}
		m, ok, err := maker(tx, h)
		if err != nil {
			return false, err
		}
		if ok && (making(m.State) || !it.Before.Effective) {
			return false, nil
		}
		// Its maker let go before it was proven, or it does not hold: from here on
		// the case does it itself.
		again, prev.State, prev.Note = true, staunch.StepVoid, "done by this case itself from now on"
	default:
		return false, nil
	}
	prev.Generation = con.Generation
	return again, tx.PutStep(prev)
}

// claimHold has a new step claim the hold on its target: a new one, or the one
// that is active. waits says that a step of the same case has to be over first.
func (e *Engine) claimHold(tx store.Tx, s *staunch.Step, it DraftItem, read version, now staunch.Time) (waits bool, err error) {
	h, err := tx.ActiveHold(staunch.PlanePlatform, s.Target)
	if err := ignoreNotFound(err); err != nil {
		return false, err
	}
	present := version{h.ID, h.Seq}
	if h.State == staunch.HoldReleasing {
		return false, &errWait{d: e.opt.CallTimeout / 20, reason: "the target is being released by another case"}
	}
	if h.State == staunch.HoldKept {
		// What an ended case left says nothing of the target as it is now.
		h.State, h.Claims, h.Changed, h.Note = staunch.HoldReleased, nil, now, h.Note+"; now held for "+s.Containment
		if _, err := tx.PutHold(h); err != nil {
			return false, err
		}
		h = staunch.Hold{}
	}
	if h.ID != "" {
		m, ok, err := maker(tx, h)
		switch {
		case err != nil:
			return false, err
		case ok && m.Verb == s.Verb && (making(m.State) || !it.Before.Effective):
			// The maker's intent is what a release undoes.
			s.State, s.Note = staunch.StepShared, "by "+m.ID
			s.Intent = m.Intent
			s.Intent.Key, s.Intent.Generation = s.ID, s.Generation
		case ok && making(m.State) && m.Containment == s.Containment:
			return true, nil
		case ok && making(m.State):
			return false, &errWait{d: e.opt.CallTimeout / 20, reason: "the target is being changed by another case"}
		}
	}
	if s.State == staunch.StepIntended && present != read {
		return false, &errWait{d: e.opt.CallTimeout / 200, reason: "the target was changed by another case while it was read"}
	}
	if h.ID == "" {
		h = staunch.Hold{
			V: staunch.Version, ID: staunch.HoldID(staunch.PlanePlatform, s.Target, s.ID), Plane: staunch.PlanePlatform, Target: s.Target, Since: now,
		}
	}
	h.Claims = insert(h.Claims, s.Containment)
	h.Changed = now
	s.Hold = h.ID
	if s.State == staunch.StepIntended {
		h.State, h.Verb, h.Tier = staunch.HoldPending, s.Verb, max(h.Tier, s.Tier)
		h.Steps = append(slices.Clone(h.Steps), s.ID)
		body, err := json.Marshal(it.Before)
		if err != nil {
			return false, fmt.Errorf("encoding the pre-image of %s: %w", s.Target, err)
		}
		s.PreImage, s.PreImageDigest = "pre/"+s.ID, staunch.Digest(it.Before.Body)
		blob, err := e.opt.Sealer.Seal(s.PreImage, body)
		if err != nil {
			return false, fmt.Errorf("sealing the pre-image of %s: %w", s.Target, err)
		}
		if err := tx.PutSealed(s.PreImage, blob); err != nil {
			return false, err
		}
	}
	_, err = tx.PutHold(h)
	return false, err
}

// making reports whether a step in the state is under way to its effect's proof.
func making(st staunch.StepState) bool { return calling(st) || st == staunch.StepRead }

// maker returns the step that makes the hold's effect, or has made it and was
// proven; ok is false where nobody does, so that who wants it has to. A step that
// was proven is none where another made the effect anew and failed before it was
// proven again: nobody looks at it any more.
func maker(r store.Reader, h staunch.Hold) (m staunch.Step, ok bool, err error) {
	if !h.Active() {
		return m, false, nil
	}
	for i := len(h.Steps) - 1; i >= 0; i-- {
		if m, err = r.Step(h.Steps[i]); err != nil {
			return m, false, err
		}
		proven := m.State == staunch.StepProven || m.State == staunch.StepKept
		if making(m.State) || proven && h.State == staunch.HoldProven {
			return m, true, nil
		}
	}
	return m, false, nil
}

// trouble leaves the case to a person; what is in force stays in force.
func (e *Engine) trouble(ctx context.Context, c Case, why string) error {
	return e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		now := staunch.TimeOf(e.opt.Clock.Now())
		con.Phase = staunch.PhaseStuck
		con.Trouble = why
		con.Replan = false
		if err := e.notices(tx, "trouble", *con, c.Steps, now); err != nil {
			return err
		}
		return record(tx, staunch.RecordContainment, "engine", con.ID, now, map[string]any{"phase": con.Phase, "trouble": why})
	})
}
