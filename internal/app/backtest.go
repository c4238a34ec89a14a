package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
)

// A backtest decides what was decided once more, from the inputs that each
// decision was stored with. So it needs no events and no platform, and it is as
// coarse as what is stored: of several decisions to go on watching that say the
// same only the first of an hour was kept, only the candidate that was chosen has
// its inputs there, and what was open then counts as open. Caps and breakers are
// left out, since they depend on what else happens.

// Bounds of a backtest.
const (
	mostDecisions = 1_000_000
	mostSubjects  = 100_000
	// backtestSays is how often it says how far it is.
	backtestSays = 2 * time.Second
)

// rehearser runs one backtest at a time.
type rehearser struct {
	a    *App
	busy atomic.Bool
}

// Backtest implements api.Rehearser.
func (h *rehearser) Backtest(ctx context.Context, req api.BacktestRequest, may func(staunch.Decision) bool, emit func(api.BacktestLine) error) error {
	b, err := h.a.newBacktest(req)
	if err != nil {
		return err
	}
	if !h.busy.CompareAndSwap(false, true) {
		return fmt.Errorf("%w: a backtest runs on this node already", staunch.ErrOverloaded)
	}
	defer h.busy.Store(false)
	if err := b.run(ctx, may, emit); err != nil {
		return err
	}
	lines, err := b.finish(ctx, req.Diff)
	if err != nil {
		return err
	}
	for i := range lines {
		if err := emit(api.BacktestLine{Type: "subject", Subject: &lines[i]}); err != nil {
			return err
		}
	}
	return emit(api.BacktestLine{Type: "summary", Summary: &b.sum})
}

type backtest struct {
	a            *App
	setup        *Setup
	active, next *decide.Set
	mode         staunch.Mode
	rules        map[string]ruleMode
	unseen       map[string]bool
	declared     map[string]staunch.Identity
	subjects     map[staunch.Ref]*rehearsed
	sum          api.BacktestSummary
}

// ruleMode is another mode for a rule; off leaves its signals out.
type ruleMode struct {
	off  bool
	mode staunch.Mode
}

// rehearsed is a subject with what is only needed until the end.
type rehearsed struct {
	api.BacktestSubject
	protected bool
	cases     []string
}

func (a *App) newBacktest(req api.BacktestRequest) (*backtest, error) {
	s, now := a.current(), staunch.TimeOf(a.opt.Clock.Now())
	b := &backtest{
		a: a, setup: s, active: s.Bundle.Policy, next: s.Bundle.Policy, mode: staunch.ModeEnforce,
		rules: map[string]ruleMode{}, unseen: map[string]bool{}, declared: map[string]staunch.Identity{},
		subjects: map[staunch.Ref]*rehearsed{},
	}
	var errs []error
	if req.Mode != "" {
		var err error
		if b.mode, err = staunch.ParseMode(req.Mode); err != nil {
			errs = append(errs, &staunch.Problem{Place: "mode", Reason: fmt.Sprintf("%.40q is not shadow, recommend or enforce", req.Mode)})
		}
	}
	for id, text := range req.Rules {
		m, err := staunch.ParseMode(text)
		if err != nil && text != "off" {
			errs = append(errs, &staunch.Problem{Place: "rules", Reason: fmt.Sprintf("%.40q is not off, shadow, recommend or enforce", text)})
		}
		b.rules[id], b.unseen[id] = ruleMode{off: err != nil, mode: m}, true
	}
	digest := ""
	if len(req.Policies) > 0 {
		files, err := defaultPolicies(s.Config)
		if err != nil {
			return nil, err
		}
		for _, f := range req.Policies {
			files = append(files, decide.File{Name: f.Name, Data: []byte(f.Text)})
		}
		if b.next, err = decide.Parse(files); err != nil {
			errs = append(errs, err)
		}
		text, err := json.Marshal(files)
		if err != nil {
			return nil, fmt.Errorf("encoding the policies: %w", err)
		}
		digest = staunch.Digest(text)
	} else if len(req.Rules) == 0 {
		errs = append(errs, &staunch.Problem{Place: "policies", Reason: "are none, and no rule has another mode: there is nothing to compare"})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, id := range s.Identities {
		b.declared[id.Name] = id
	}
	b.sum = api.BacktestSummary{
		Since: now.Add(-req.Since.Std()), Until: now, Bundle: s.Bundle.Hash, Policies: digest, Mode: b.mode, Hurt: map[string]int{},
	}
	return b, nil
}

// kept is a decision with what it was made of, and what its evidence amounts to
// with the rules' other modes where that is something else.
type kept struct {
	staunch.Decision
	in    decide.Input
	views *decide.Views
	bad   bool // its inputs cannot be read
}

// run reads the decisions, the newest first, a page a snapshot.
func (b *backtest) run(ctx context.Context, may func(staunch.Decision) bool, emit func(api.BacktestLine) error) error {
	if err := b.a.store.View(ctx, func(r store.Reader) (err error) {
		b.sum.Trust, err = r.SteeredRules()
		return err
	}); err != nil {
		return fmt.Errorf("reading how far rules are trusted: %w", err)
	}
	said := time.Now()
	page := store.Page{Limit: store.MaxPage}
	for read := 0; ; {
		var ks []kept
		last, more := "", false
		err := b.a.store.View(ctx, func(r store.Reader) error {
			ks, more = ks[:0], false
			ds, err := r.Decisions(page)
			if err != nil {
				return err
			}
			more = len(ds) == page.Limit
			for _, d := range ds {
				if d.Made < b.sum.Since {
					more = false
					break
				}
				last = d.ID
				if !may(d) {
					continue
				}
				k, err := b.keep(r, d)
				if err != nil {
					return err
				}
				ks = append(ks, k)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading the decisions: %w", err)
		}
		for i := range ks {
			b.decide(&ks[i])
		}
		read += len(ks)
		if !more {
			return nil
		}
		if read >= mostDecisions {
			b.sum.Truncated = true
			return nil
		}
		page.After = last
		if n := len(ks); n > 0 && time.Since(said) > backtestSays {
			said = time.Now()
			if err := emit(api.BacktestLine{Type: "progress", Progress: &api.BacktestProgress{Decisions: read, At: ks[n-1].Made}}); err != nil {
				return err
			}
		}
	}
}

// keep reads what the decision was made of.
func (b *backtest) keep(r store.Reader, d staunch.Decision) (kept, error) {
	k := kept{Decision: d}
	if len(d.Inputs) == 0 || json.Unmarshal(d.Inputs, &k.in) != nil || k.in.V != staunch.Version {
		k.bad = true
		return k, nil
	}
	k.Inputs = nil
	// The lists of a view are cut at 64.
	seen := k.in.Views.Shadow.Rules
	if !slices.ContainsFunc(seen, func(id string) bool { _, ok := b.rules[id]; return ok }) && (len(seen) < 64 || len(b.rules) == 0) {
		return k, nil
	}
	var signals []staunch.Signal
	var accused []staunch.Ref
	trust := make(map[string]staunch.RuleTrust, len(k.in.Trust)) // as it was then
	for _, t := range k.in.Trust {
		trust[t.Rule] = t
	}
	for _, id := range d.Signals {
		s, err := r.Signal(id)
		if errors.Is(err, staunch.ErrNotFound) {
			continue
		} else if err != nil {
			return k, err
		}
		if m, ok := b.rules[s.Rule]; ok {
			delete(b.unseen, s.Rule)
			if m.off {
				continue
			}
			s.Mode = m.mode
			delete(trust, s.Rule)
		}
		signals, accused = append(signals, s), append(accused, s.Accused)
	}
	at, err := b.a.inv.Below(inventory.Memo(r), d.Subject, accused)
	if err != nil {
		return k, err
	}
	evidence := make([]decide.Evidence, 0, len(signals))
	for i, s := range signals {
		m := at[s.Accused]
		evidence = append(evidence, decide.Evidence{Signal: &signals[i], Hops: m.Hops, Entity: m.Entity})
	}
	decide.Steer(evidence, trust)
	a := Params(b.setup.Config).Assess(d.Subject, evidence)
	k.views = &a.Views
	return k, nil
}

// decide asks both sets of policies.
func (b *backtest) decide(k *kept) {
	if k.bad {
		b.sum.Skipped++
		return
	}
	b.sum.Decisions++
	in := k.in
	in.Mode = b.mode
	active := b.active.Decide(in)
	if k.views != nil {
		in.Views = *k.views
	}
	next := b.next.Decide(in)
	who := whoOf(&in)
	s := b.subjects[who]
	if s == nil {
		if len(b.subjects) >= mostSubjects {
			b.sum.Truncated = true
			return
		}
		s = &rehearsed{BacktestSubject: api.BacktestSubject{
			Subject: who, Owner: in.Identity.Owner, Environment: in.Identity.Environment,
			Tolerance: in.Identity.Tolerance, Shared: in.Identity.Shared,
		}}
		if id, ok := b.declared[in.Identity.Name]; ok {
			s.Owner, s.Environment, s.Tolerance, s.Shared, s.protected = id.Owner, id.Environment, string(id.Tolerance), id.Shared, id.Protected
		} else {
			s.protected = in.Identity.Protected
		}
		b.subjects[who] = s
	}
	if id := k.Containment; id != "" && !slices.Contains(s.cases, id) && len(s.cases) < api.MaxBacktestCases {
		s.cases = append(s.cases, id)
	}
	note(&s.Active, active, k)
	if note(&s.New, next, k) && !s.protected {
		refs := slices.Concat([]staunch.Ref{in.Subject, next.Scope, who}, in.Names, in.Up)
		s.protected = b.setup.Guardrails.Protected(b.a.engine.OwnRefs(), refs...) != ""
	}
}

// whoOf returns the identity where it was declared, otherwise the widest thing
// that the subject is known to belong to.
func whoOf(in *decide.Input) staunch.Ref {
	if in.Identity.Managed && in.Identity.Name != "" {
		return staunch.IdentityRef(in.Identity.Name)
	}
	who := in.Subject
	for _, up := range in.Up {
		if up.Kind.Width() > who.Kind.Width() {
			who = up
		}
	}
	return who
}

// note keeps what a decision comes to where it is the most so far, or the same
// earlier. It reports whether it contains. Held is what it is where the case that
// was open then did all of it.
func note(to *api.BacktestOutcome, o decide.Outcome, k *kept) bool {
	switch o.Verdict {
	case staunch.VerdictContain, staunch.VerdictApproval, staunch.VerdictHeld:
	default:
		return false
	}
	to.Decisions++
	if o.Tier > to.Tier || o.Tier == to.Tier && k.Made <= to.At {
		n := to.Decisions
		*to = api.BacktestOutcome{
			Tier: o.Tier, Approval: o.Approve, Policy: o.Policy, Playbook: o.Playbook.Name, Scope: o.Scope,
			Decision: k.ID, At: k.Made, Decisions: n,
		}
	}
	return true
}

// finish says what differs, the newly contained first.
func (b *backtest) finish(ctx context.Context, diff bool) ([]api.BacktestSubject, error) {
	var out []*rehearsed
	for _, s := range b.subjects {
		active, next := s.Active.Tier, s.New.Tier
		switch {
		case next == staunch.TierObserve && active == next:
			continue
		case active == staunch.TierObserve:
			s.Change = api.BacktestNewly
		case next == staunch.TierObserve:
			s.Change = api.BacktestNoLonger
		case active != next:
			s.Change = api.BacktestTier
		default:
			s.Change = api.BacktestSame
		}
		out = append(out, s)
	}
	order := []string{api.BacktestNewly, api.BacktestTier, api.BacktestNoLonger, api.BacktestSame}
	slices.SortFunc(out, func(x, y *rehearsed) int {
		return cmp.Or(cmp.Compare(slices.Index(order, x.Change), slices.Index(order, y.Change)), cmp.Compare(x.Subject.String(), y.Subject.String()))
	})
	for part := range slices.Chunk(out, 100) {
		err := b.a.store.View(ctx, func(r store.Reader) error {
			for _, s := range part {
				if err := s.readCases(r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading the containments that there were: %w", err)
		}
	}
	lines := make([]api.BacktestSubject, 0, len(out))
	for _, s := range out {
		b.count(s)
		if s.Change != api.BacktestSame || !diff {
			lines = append(lines, s.BacktestSubject)
		}
	}
	b.sum.UnseenRules = slices.Sorted(maps.Keys(b.unseen))
	return lines, nil
}

// count says whom the new outcome would hurt, and adds the subject to the summary.
func (b *backtest) count(s *rehearsed) {
	falseAlarm := slices.ContainsFunc(s.Cases, func(c api.BacktestCase) bool { return c.FalseAlarm })
	if s.New.Tier > staunch.TierObserve {
		for _, h := range []struct {
			why string
			is  bool
		}{
			{api.HurtFalseAlarm, falseAlarm}, {api.HurtProtected, s.protected},
			{api.HurtProduction, decide.Production(s.Environment)}, {api.HurtShared, s.Shared},
		} {
			if h.is {
				s.Hurts = append(s.Hurts, h.why)
			}
		}
	}
	if s.New.Tier > s.Active.Tier {
		for _, why := range s.Hurts {
			b.sum.Hurt[why]++
		}
	}
	switch s.Change {
	case api.BacktestNewly:
		b.sum.Newly++
	case api.BacktestTier:
		b.sum.Tier++
	case api.BacktestSame:
		b.sum.Same++
	case api.BacktestNoLonger:
		b.sum.NoLonger++
		switch {
		case falseAlarm:
			b.sum.Spared++
		case len(s.Cases) > 0:
			b.sum.Missed++
		}
	}
}

func (s *rehearsed) readCases(r store.Reader) error {
	s.Cases = s.Cases[:0]
	for _, id := range s.cases {
		con, err := r.Containment(id)
		if errors.Is(err, staunch.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		c := api.BacktestCase{ID: id, Tier: con.Tier, Phase: con.Phase}
		if rel := con.Release; rel != nil {
			c.Reason = rel.Reason
			if c.FalseAlarm, err = falseAlarm(r, con); err != nil {
				return err
			}
		}
		s.Cases = append(s.Cases, c)
	}
	return nil
}

var (
	saysFalse = regexp.MustCompile(`(?i)\bfalse[ -]?(alarm|positive)s?\b|\bmistake(n|nly)?\b|\bbenign\b|\blegitimate\b|\bwrong(ly)?\b`)
	saysNotSo = regexp.MustCompile(`(?i)\b(not?|isn't|wasn't|never)\s+(an?\s+)?(false|mistake|benign|legitimate|wrong)`)
)

// clearedCase is what the record of a cleared window calls the request.
const clearedCase = "clear"

// falseAlarm reports whether a person ended the case in the subject's favour: by
// clearing its window, or by a release whose reason says so.
func falseAlarm(r store.Reader, con staunch.Containment) (bool, error) {
	switch {
	case con.Judged != nil:
		return con.Judged.Verdict == staunch.JudgedWrong, nil
	case con.Release.By == "engine" || con.Drill != "":
		return false, nil
	}
	if reason := con.Release.Reason; saysFalse.MatchString(reason) && !saysNotSo.MatchString(reason) {
		return true, nil
	}
	records, err := r.RecordsAbout(con.ID, store.MaxPage)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(records, func(rec staunch.Record) bool {
		if rec.Kind != staunch.RecordRelease || !strings.Contains(string(rec.Body), clearedCase) {
			return false
		}
		var body struct {
			Request string `json:"request"`
		}
		return json.Unmarshal(rec.Body, &body) == nil && body.Request == clearedCase
	}), nil
}
