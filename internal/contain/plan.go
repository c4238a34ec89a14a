package contain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
}

// DraftItem is one would-be step.
type DraftItem struct {
	Connector string             `json:"connector"`
	Intent    staunch.Intent     `json:"intent"`
	Spec      connector.VerbSpec `json:"-"`
	Before    staunch.State      `json:"-"`
	// Found is the pre-image's summary.
	Found string `json:"found"`
}

// Preview returns what a stage would do to a subject now. It reads and changes
// nothing.
func (e *Engine) Preview(ctx context.Context, con staunch.Containment) (Draft, error) {
	return e.draft(ctx, Case{Containment: con})
}

// draft asks lineage and the platforms, filters by the stage and the walls
// (protected, own, scope), and reads the pre-images.
func (e *Engine) draft(ctx context.Context, c Case) (Draft, error) {
	con := c.Containment
	stage := con.Playbook.Stages[con.Stage]
	d := Draft{Roots: con.Scope.Roots}
	var names map[staunch.Ref][]staunch.Ref
	var identities map[staunch.Ref]staunch.Identity
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		now := staunch.TimeOf(e.opt.Clock.Now())
		names = map[staunch.Ref][]staunch.Ref{}
		identities = map[staunch.Ref]staunch.Identity{}
		d.Derived, d.Gaps = nil, nil
		roots := slices.Clone(con.Scope.Roots)
		for _, root := range con.Scope.Roots {
			if root.Kind == staunch.KindIdentity {
				id, err := r.Identity(root.Value)
				if err != nil {
					return ignoreNotFound(err)
				}
				roots = append(roots, id.Accounts...)
			}
		}
		d.Roots = roots
		for _, root := range roots {
			res, err := e.opt.Lineage.Resolve(r, root, now)
			if err != nil {
				return err
			}
			names[root] = res.Names
			identities[root] = res.Identity
		}
		if con.Scope.Closure == "derived" {
			refs, truncated, err := e.opt.Lineage.Derived(r, roots, con.Since, e.opt.DerivedLimit)
			if err != nil {
				return err
			}
			d.Derived = refs
			for _, ref := range refs {
				res, err := e.opt.Lineage.Resolve(r, ref, now)
				if err != nil {
					return err
				}
				identities[ref] = res.Identity
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
		derived[ref.Realm] = append(derived[ref.Realm], ref)
	}
	ask := func(ref staunch.Ref, names, derived []staunch.Ref) {
		if ref.Realm != "" {
			reqs = append(reqs, request{ref.Realm, connector.ExpandRequest{
				Subject: ref, Names: names, Derived: derived, Since: con.Since, Tier: stage.Tier, Verbs: stage.Verbs,
			}})
		}
	}
	for _, root := range d.Roots {
		ask(root, names[root], derived[root.Realm])
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
		if err != nil {
			return Draft{}, fmt.Errorf("expanding %s: %w", rq.req.Subject, err)
		}
		d.Facts = append(d.Facts, ex.Facts...)
		for _, g := range ex.Gaps {
			if w := g.Widen; !w.IsZero() && w != rq.req.Subject && w.Kind.Width() <= con.Scope.Widest.Width() &&
				w.Kind.Width() > rq.req.Subject.Kind.Width() && w.Realm == rq.realm &&
				!slices.ContainsFunc(reqs, func(x request) bool { return x.req.Subject == w }) {
				g.Reason += "; widened to " + w.String()
				ask(w, []staunch.Ref{w}, nil)
			}
			d.Gaps = append(d.Gaps, g)
		}
		desc := c.Describe()
		for _, a := range ex.Actions {
			item, gap, err := e.draftItem(ctx, c, desc, a, con, stage)
			if err != nil {
				return Draft{}, err
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
			d.Items = append(d.Items, *item)
		}
	}
	if err := e.readAll(ctx, &d); err != nil {
		return Draft{}, err
	}
	return d, nil
}

func (e *Engine) expand(ctx context.Context, c connector.Connector, req connector.ExpandRequest) (connector.Expansion, error) {
	ctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	defer cancel()
	return c.Expand(ctx, req)
}

// draftItem puts an action before the walls. It returns nil when the stage does
// not want it, and a reason when a wall forbids it.
func (e *Engine) draftItem(_ context.Context, c connector.Connector, desc connector.Description, a connector.Action, con staunch.Containment, stage staunch.Stage) (*DraftItem, string, error) {
	if err := explicit(a.Target); err != nil {
		return nil, "", staunch.Permanent(fmt.Errorf("realm %s expanded to a target that is not explicit: %w", desc.Realm, err))
	}
	if a.Target.Ref.Realm != desc.Realm {
		return nil, "", staunch.Permanent(fmt.Errorf("realm %s expanded to a target on realm %s", desc.Realm, a.Target.Ref.Realm))
	}
	spec, ok := specFor(desc, a.Verb, a.Target)
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
	return &DraftItem{Connector: desc.Platform, Spec: spec, Intent: staunch.Intent{Target: a.Target, Verb: a.Verb}}, "", nil
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

// readers bounds the reads of pre-images that run at once.
const readers = 8

// readAll reads the pre-images and prepares the intents.
func (e *Engine) readAll(ctx context.Context, d *Draft) error {
	ctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	defer cancel()
	errs := make([]error, len(d.Items))
	read := func(i int) {
		it := &d.Items[i]
		c := e.opt.Connectors[it.Intent.Target.Ref.Realm]
		st, err := c.Read(ctx, it.Intent.Target, false)
		if err != nil {
			errs[i] = fmt.Errorf("reading %s: %w", it.Intent.Target, err)
			return
		}
		in, err := c.Prepare(st, it.Intent.Verb)
		if err != nil {
			errs[i] = fmt.Errorf("preparing %s on %s: %w", it.Intent.Verb, it.Intent.Target, err)
			return
		}
		in.Target, in.Verb = it.Intent.Target, it.Intent.Verb
		it.Intent, it.Before, it.Found = in, st, st.Summary
	}
	if len(d.Items) == 1 {
		read(0)
		return errs[0]
	}
	var wg sync.WaitGroup
	sem := make(chan struct{}, readers)
	for i := range d.Items {
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			read(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// plan makes the stage's plan durable (T2), or a child plan where the stage has
// one already.
func (e *Engine) plan(ctx context.Context, c Case, j *job) error {
	d, err := e.draft(ctx, c)
	crashpoint.Here("plan.drafted")
	if err != nil {
		if staunch.ClassOf(err) == staunch.ClassTransient {
			return err // the guard hold stands; it is tried again
		}
		if ctx.Err() != nil {
			return err
		}
		return e.trouble(ctx, c, fmt.Sprintf("the plan could not be made: %v", err))
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
		steps, err := e.claim(tx, *cur, c, plan, d, now)
		if err != nil {
			return err
		}
		if len(c.Steps)+len(steps) > cur.Scope.MostTargets {
			return &tooMany{have: len(c.Steps) + len(steps), most: cur.Scope.MostTargets}
		}
		intents := make([]map[string]any, 0, len(steps))
		for _, s := range steps {
			if s.State == staunch.StepIntended {
				started = append(started, s.ID)
			}
			intents = append(intents, map[string]any{
				"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "call": s.Intent.Call, "undo": s.Intent.Undo,
				"reversibility": s.Intent.Reversibility, "pre_image": s.PreImageDigest, "state": s.State,
			})
		}
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
		if err := e.guardFor(tx, *cur, append([]staunch.Ref{cur.Subject}, d.Derived...), now); err != nil {
			return err
		}
		cur.Phase = staunch.PhaseActing
		cur.Replan = false
		cur.Trouble = ""
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
// left out, those whose effect another case holds are shared, the rest are
// intended with a sealed pre-image and a pending hold.
func (e *Engine) claim(tx store.Tx, con staunch.Containment, c Case, plan staunch.Plan, d Draft, now staunch.Time) ([]staunch.Step, error) {
	have := map[string]staunch.Step{}
	for _, s := range c.Steps {
		switch s.State {
		case staunch.StepFailed, staunch.StepReverted, staunch.StepVoid:
		default:
			have[s.Target.Key()+string(s.Verb)] = s
		}
	}
	var out []staunch.Step
	for _, it := range d.Items {
		key := it.Intent.Target.Key() + string(it.Intent.Verb)
		if prev, ok := have[key]; ok {
			// A child plan after residual access does the same once more where the
			// platform shows that something is left; the step keeps its pre-image.
			if prev.State == staunch.StepProven && it.Before.Effective {
				prev.State, prev.Generation, prev.NotBefore, prev.Sweeps, prev.Attempts = staunch.StepUnknown, con.Generation, 0, 0, 0
				prev.Note = "again, since the platform showed it effective"
				if err := tx.PutStep(prev); err != nil {
					return nil, err
				}
			}
			continue
		}
		s := staunch.Step{
			V: staunch.Version, Plan: plan.ID, Containment: con.ID, Seq: len(out), Connector: it.Connector,
			Target: it.Intent.Target, Verb: it.Intent.Verb, Tier: it.Spec.Tier, State: staunch.StepIntended,
			Generation: con.Generation, Intent: it.Intent, Before: it.Found, Intended: now,
		}
		s.ID = staunch.StepID(plan.ID, s.Target, s.Verb)
		s.Intent.Key, s.Intent.Generation = s.ID, con.Generation
		h, err := tx.ActiveHold(staunch.PlanePlatform, s.Target)
		switch {
		case errors.Is(err, staunch.ErrNotFound):
			h = staunch.Hold{
				V: staunch.Version, ID: staunch.HoldID(staunch.PlanePlatform, s.Target, s.ID), Plane: staunch.PlanePlatform,
				Target: s.Target, State: staunch.HoldPending, Since: now,
			}
		case err != nil:
			return nil, err
		case h.State == staunch.HoldReleasing:
			return nil, &errWait{d: e.opt.CallTimeout / 20, reason: "the target is being released by another case"}
		default:
			if h.Verb == s.Verb && len(h.Steps) > 0 {
				s.State = staunch.StepShared
				s.Note = "in force already, by " + h.Steps[0]
			}
		}
		h.Claims = insert(h.Claims, con.ID)
		h.Changed = now
		s.Hold = h.ID
		if s.State == staunch.StepIntended {
			h.Verb, h.Tier = s.Verb, max(h.Tier, s.Tier)
			h.Steps = append(h.Steps, s.ID)
			body, err := json.Marshal(it.Before)
			if err != nil {
				return nil, fmt.Errorf("encoding the pre-image of %s: %w", s.Target, err)
			}
			s.PreImage, s.PreImageDigest = "pre/"+s.ID, staunch.Digest(it.Before.Body)
			blob, err := e.opt.Sealer.Seal(s.PreImage, body)
			if err != nil {
				return nil, fmt.Errorf("sealing the pre-image of %s: %w", s.Target, err)
			}
			if err := tx.PutSealed(s.PreImage, blob); err != nil {
				return nil, err
			}
		}
		if _, err := tx.PutHold(h); err != nil {
			return nil, err
		}
		if err := tx.PutStep(s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
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
