package app

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/notify"
	"github.com/staunch-project/staunch/internal/store"
)

// modeOf is how far a rule's file and the configuration let it go.
func modeOf(r *sigma.Rule) staunch.Mode {
	if m, err := staunch.ParseMode(r.Mode); err == nil {
		return m
	}
	return staunch.ModeEnforce
}

// rulesOf returns the rules and correlations of a bundle, by id.
func rulesOf(b *pipeline.Bundle) map[string]*sigma.Rule {
	out := map[string]*sigma.Rule{}
	for _, r := range b.Rules.Rules() {
		out[r.ID] = r
	}
	for _, r := range b.Correlations.Rules() {
		out[r.ID] = r.Rule
	}
	return out
}

// declaredIn says how far the rules of a bundle may go by their files. One that is
// not in it, an outside detector's, enforces.
func declaredIn(rules map[string]*sigma.Rule) func(string) staunch.Mode {
	return func(rule string) staunch.Mode {
		if r, ok := rules[rule]; ok {
			return modeOf(r)
		}
		return staunch.ModeEnforce
	}
}

// judged has what a person said of a containment count for the rules behind it, in
// the transaction that keeps the verdict, and tells people of demotions and of
// corrections in the rules' favour.
func (a *App) judged(tx store.Tx, con staunch.Containment, was *staunch.Judged, now staunch.Time) ([]string, error) {
	declared := declaredIn(rulesOf(a.current().Bundle))
	rules, demoted, err := decide.Judge(tx, con, was, declared, now)
	if err != nil {
		return nil, err
	}
	for _, ev := range demoted {
		if err := a.tellTrust(tx, ev); err != nil {
			return nil, err
		}
	}
	if v := con.Judged; v != nil && was != nil && was.Verdict == staunch.JudgedWrong && v.Verdict == staunch.JudgedRight {
		return rules, a.tellCorrected(tx, con, *was, rules, declared, now)
	}
	return rules, nil
}

// tellCorrected tells people that a case which they were told was wrong was called
// for after all, and where that leaves the rules that it counted against.
func (a *App) tellCorrected(tx store.Tx, con staunch.Containment, was staunch.Judged, rules []string, declared func(string) staunch.Mode, now staunch.Time) error {
	var stand []notify.RuleStand
	for _, rule := range rules {
		if !slices.Contains(was.Rules, rule) {
			continue // nobody was told anything of it
		}
		t, err := tx.Trust(rule)
		if err != nil && !errors.Is(err, staunch.ErrNotFound) {
			return fmt.Errorf("reading the trust in rule %s: %w", rule, err)
		}
		d := declared(rule)
		stand = append(stand, notify.RuleStand{Rule: rule, Mode: t.Now(d), Declared: d, Wrong: t.Wrong, Right: t.Right})
	}
	if len(stand) == 0 {
		return nil
	}
	for _, n := range a.teller().Corrected(con, was, stand, now) {
		if err := tx.PutNotice(n); err != nil {
			return err
		}
	}
	tx.OnCommit(a.notify.Wake)
	return nil
}

func (a *App) tellTrust(tx store.Tx, ev staunch.TrustEvent) error {
	for _, n := range a.teller().RuleMoved(ev) {
		if err := tx.PutNotice(n); err != nil {
			return err
		}
	}
	tx.OnCommit(a.notify.Wake)
	return nil
}

// truster is the trust in rules as the API sees it.
type truster struct{ a *App }

func (t truster) criteria() decide.Criteria {
	set := t.a.current().Config.Trust
	return decide.Criteria{Matches: set.Matches, For: set.For}
}

// Trusts implements api.Truster.
func (t truster) Trusts(r store.Reader, after string, limit int, all bool) (api.Trusts, error) {
	out := api.Trusts{V: staunch.Version, Items: []api.RuleStanding{}, Criteria: api.TrustCriteria(t.criteria())}
	if limit <= 0 {
		limit = store.DefaultPage
	}
	uses, err := r.RuleUses(store.Page{After: after, Limit: limit})
	if err != nil {
		return out, err
	}
	// What lies behind the page's last rule is the next page's.
	last := ""
	if len(uses) == limit {
		last = uses[len(uses)-1].Rule
	}
	in := func(rule string) bool { return rule > after && (last == "" || rule <= last) }
	use := map[string]staunch.RuleUse{}
	names := []string{}
	for _, u := range uses {
		use[u.Rule] = u
		names = append(names, u.Rule)
	}
	trusts, err := r.Trusts()
	if err != nil {
		return out, err
	}
	trust := map[string]staunch.RuleTrust{}
	for _, rt := range trusts {
		trust[rt.Rule] = rt
		if in(rt.Rule) {
			names = append(names, rt.Rule)
		}
	}
	rules := rulesOf(t.a.current().Bundle)
	if all {
		for id := range rules {
			if in(id) {
				names = append(names, id)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > limit {
		names = names[:limit]
		out.Next = names[limit-1]
	} else if last != "" {
		out.Next = last
	}
	for _, id := range names {
		u := use[id]
		u.Rule = id
		s, err := t.standing(r, rules, u, trust[id])
		if err != nil {
			return out, err
		}
		out.Items = append(out.Items, s)
	}
	return out, nil
}

// standing puts together what is known of a rule.
func (t truster) standing(r store.Reader, rules map[string]*sigma.Rule, use staunch.RuleUse, trust staunch.RuleTrust) (api.RuleStanding, error) {
	declared := declaredIn(rules)(use.Rule)
	s := api.RuleStanding{
		RuleUse: use, Declared: declared, Mode: trust.Now(declared), Wrong: trust.Wrong, Right: trust.Right,
		SetTo: trust.Mode, SetFrom: trust.Was, DeclaredThen: trust.Declared, LastWrong: trust.LastWrong, Changed: trust.Changed, By: trust.By, Reason: trust.Reason,
	}
	if rule, ok := rules[use.Rule]; ok {
		s.Title = rule.Title
	} else {
		s.Gone = true
	}
	trial := decide.Trial{Mode: s.Mode, Since: trust.Changed, Matches: use.Matches}
	if trust.Steers() {
		var err error
		if trial.Matches, _, err = r.MatchesSince(use.Rule, trust.Changed); err != nil {
			return s, err
		}
	} else {
		trial.Since = use.First
	}
	if trust.Wrong > 0 && trust.LastWrong >= trust.Changed {
		events, err := r.TrustEvents(use.Rule, store.MaxPage)
		if err != nil {
			return s, err
		}
		for _, ev := range staunch.LatestJudgements(events) {
			// What demoted it was of the mode before.
			if ev.Kind == staunch.TrustWrong && ev.At > trust.Changed {
				trial.Wrong++
			}
		}
	}
	s.Ready, s.Advice = t.criteria().Advise(trial, staunch.TimeOf(t.a.opt.Clock.Now()))
	return s, nil
}

// Trust implements api.Truster.
func (t truster) Trust(r store.Reader, rule string) (api.RuleHistory, error) {
	out := api.RuleHistory{V: staunch.Version, Criteria: api.TrustCriteria(t.criteria())}
	rules := rulesOf(t.a.current().Bundle)
	trust, err := r.Trust(rule)
	none := errors.Is(err, staunch.ErrNotFound)
	if err != nil && !none {
		return out, err
	}
	use, err := r.RuleUse(rule)
	if err != nil {
		return out, err
	}
	if rules[rule] == nil && none && use.Matches == 0 {
		return out, fmt.Errorf("rule %s: %w", rule, staunch.ErrNotFound)
	}
	if out.Rule, err = t.standing(r, rules, use, trust); err != nil {
		return out, err
	}
	out.History, err = r.TrustEvents(rule, store.MaxPage)
	return out, err
}

// Move implements api.Truster.
func (t truster) Move(tx store.Tx, req api.TrustRequest, up bool, who string) (staunch.TrustEvent, error) {
	s := t.a.current()
	if err := tx.RequireBundle(s.Bundle.Hash); err != nil {
		return staunch.TrustEvent{}, err
	}
	rules := rulesOf(s.Bundle)
	rule := req.Rule
	declared := declaredIn(rules)(rule)
	trust, err := tx.Trust(rule)
	if err != nil && !errors.Is(err, staunch.ErrNotFound) {
		return staunch.TrustEvent{}, err
	}
	if rules[rule] == nil {
		n, _, merr := tx.MatchesSince(rule, 0)
		if merr != nil {
			return staunch.TrustEvent{}, merr
		}
		if n == 0 && err != nil {
			return staunch.TrustEvent{}, fmt.Errorf("rule %s: %w", rule, staunch.ErrNotFound)
		}
	}
	at := trust.Now(declared)
	to := at
	switch {
	case req.To != "":
		if to, err = staunch.ParseMode(req.To); err != nil {
			return staunch.TrustEvent{}, &staunch.Problem{Place: "to", Reason: fmt.Sprintf("%.40q is not shadow, recommend or enforce", req.To)}
		}
	case up && at < staunch.ModeEnforce:
		to = at + 1
	case !up && at > staunch.ModeShadow:
		to = at - 1
	}
	if to == at || (to > at) != up {
		return staunch.TrustEvent{}, fmt.Errorf("%w: rule %s is in mode %s", staunch.ErrConflict, rule, at)
	}
	now := staunch.TimeOf(t.a.opt.Clock.Now())
	ev, err := decide.Move{Rule: rule, To: to, By: who, Reason: req.Reason, Key: who + "/" + now.String() + "/" + rand.Text()}.Apply(tx, declared, now)
	if err != nil {
		return ev, err
	}
	return ev, t.a.tellTrust(tx, ev)
}

var _ api.Truster = truster{}
