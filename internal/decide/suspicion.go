package decide

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
)

// Params are the constants of suspicion. A zero field takes its default.
type Params struct {
	// HalfLife is how long a signal takes to lose half its weight (24h).
	HalfLife time.Duration
	// RollUp is what is left of a weight after each membership (0.9).
	RollUp float64
	// Repeat is how much of the remaining doubt repeats of one rule can take
	// away at most (0.1).
	Repeat float64
	// Meaningful is the confidence from which a source's part counts for the
	// ceiling, and a session as accused (0.2).
	Meaningful float64
	// RevokeSources is how many independent sources the revoke tier needs, by policy
	// alone, for an identity in production (2). 1 asks for no second one.
	RevokeSources int
	// Reasons bounds the contributions that are kept (32).
	Reasons int
	// Signals bounds the signals that are weighed, the newest kept (500).
	Signals int
}

// horizon is how many half-lives a signal counts: after ten it weighs less than
// a thousandth.
const horizon = 10

// DefaultRevokeSources is the default of Params.RevokeSources, MaxRevokeSources the
// most that makes sense to ask for.
const (
	DefaultRevokeSources = 2
	MaxRevokeSources     = 8
)

// maxList bounds the lists of a view.
const maxList = 64

func (p Params) withDefaults() Params {
	if p.HalfLife <= 0 {
		p.HalfLife = 24 * time.Hour
	}
	def := func(v *float64, d float64) {
		if !(*v > 0 && *v <= 1) { // NaN included
			*v = d
		}
	}
	def(&p.RollUp, 0.9)
	def(&p.Repeat, 0.1)
	def(&p.Meaningful, 0.2)
	if p.RevokeSources <= 0 {
		p.RevokeSources = DefaultRevokeSources
	}
	if p.Reasons <= 0 {
		p.Reasons = 32
	}
	if p.Signals <= 0 {
		p.Signals = 500
	}
	return p
}

// Horizon returns the age from which a signal counts nothing: what has to be
// read from the store begins that long before the latest event.
func (p Params) Horizon() time.Duration { return horizon * p.withDefaults().HalfLife }

// Evidence is a signal with its place below the subject.
type Evidence struct {
	// Signal is not changed; what differs for one judgement is a copy.
	Signal *staunch.Signal
	// Hops is how many memberships lie between what the signal accuses and the
	// subject; 0 when it accuses the subject itself.
	Hops int
	// Entity is the first name of what it accuses, the same for all its names;
	// zero stands for the accused ref.
	Entity staunch.Ref
	// Steered is the trust in the signal's rule, where that and not the rule's file
	// says how far it may go; the signal's mode is what it came to.
	Steered *staunch.RuleTrust
}

// View is what one set of signals amounts to.
type View struct {
	Confidence float64      `json:"confidence"`
	Ceiling    staunch.Tier `json:"ceiling"`
	AsOf       staunch.Time `json:"as_of"`
	// Count is how many signals were weighed.
	Count int `json:"count"`
	// Sessions is how many distinct sessions are meaningfully accused.
	Sessions int `json:"sessions"`
	// Independent is how many independent sources have a meaningful part.
	Independent int `json:"independent,omitempty"`
	// Rules, Sources and Techniques are sorted and without repeats, at most 64
	// of each.
	Rules      []string `json:"rules,omitempty"`
	Sources    []string `json:"sources,omitempty"`
	Techniques []string `json:"techniques,omitempty"`
	// Signal describes the latest signal by (event time, id).
	Signal SignalFacts `json:"signal"`
}

// SignalFacts is what policy sees of a signal.
type SignalFacts struct {
	ID         string   `json:"id" cel:"id"`
	Rule       string   `json:"rule" cel:"rule"`
	Source     string   `json:"source" cel:"source"`
	Realm      string   `json:"realm" cel:"realm"`
	Confidence float64  `json:"confidence" cel:"confidence"`
	Techniques []string `json:"techniques,omitempty" cel:"techniques"`
	Mode       string   `json:"mode" cel:"mode"`
	Standing   string   `json:"standing" cel:"standing"`
}

// Views are the four nested sets; see the package comment.
type Views struct {
	Enforce   View `json:"enforce"`
	Inform    View `json:"inform"`
	Recommend View `json:"recommend"`
	Shadow    View `json:"shadow"`
}

// Assessment is all that suspicion says of a subject.
type Assessment struct {
	Subject staunch.Ref `json:"subject"`
	// Enforce is the suspicion that may contain; Would is what it would be if
	// every rule enforced and every event had come in time.
	Enforce staunch.Suspicion `json:"enforce"`
	Would   staunch.Suspicion `json:"would"`
	Views   Views             `json:"views"`
	// Signals has the ids of all signals weighed in Would, sorted.
	Signals []string `json:"signals,omitempty"`
}

// Assess weighs the evidence against a subject. The answer depends on the set
// of signals alone, not on their order or on how often each is given.
func (p Params) Assess(subject staunch.Ref, evidence []Evidence) Assessment {
	p = p.withDefaults()
	all := p.distinct(evidence)
	a := Assessment{Subject: subject}
	// The views nest, so one that lets no more through than the one inside it is
	// the same.
	var v, last viewed
	n := -1
	next := func(keep func(*staunch.Signal) bool) viewed {
		var in []*Evidence
		for _, e := range all {
			if keep(e.Signal) {
				in = append(in, e)
			}
		}
		if len(in) != n {
			n, last = len(in), p.view(subject, in)
		}
		return last
	}
	v = next(func(s *staunch.Signal) bool { return s.Mode == staunch.ModeEnforce && s.Standing.MayEnforce() })
	a.Enforce, a.Views.Enforce = v.suspicion, v.view
	v = next(func(s *staunch.Signal) bool { return s.Mode == staunch.ModeEnforce })
	a.Views.Inform = v.view
	v = next(func(s *staunch.Signal) bool { return s.Mode >= staunch.ModeRecommend })
	a.Views.Recommend = v.view
	v = next(func(*staunch.Signal) bool { return true })
	a.Would, a.Views.Shadow = v.suspicion, v.view
	for _, w := range v.weighed {
		a.Signals = append(a.Signals, w.e.Signal.ID)
	}
	slices.Sort(a.Signals)
	return a
}

// distinct keeps each signal once, at its fewest hops, and the newest when
// there are too many.
func (p Params) distinct(evidence []Evidence) []*Evidence {
	at := make(map[string]int, len(evidence))
	out := make([]*Evidence, 0, len(evidence))
	for n := range evidence {
		e := &evidence[n]
		if i, ok := at[e.Signal.ID]; ok {
			if e.Hops < out[i].Hops {
				out[i] = e
			}
			continue
		}
		at[e.Signal.ID] = len(out)
		out = append(out, e)
	}
	if len(out) > p.Signals {
		slices.SortFunc(out, func(a, b *Evidence) int { return compareTime(b.Signal, a.Signal) })
		out = out[:p.Signals]
	}
	return out
}

// compareTime orders signals by (event time, id).
func compareTime(a, b *staunch.Signal) int {
	if c := cmp.Compare(a.Time, b.Time); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

// weighed is a signal with its weight and what made it so.
type weighed struct {
	e      *Evidence
	weight float64
	decay  float64
	repeat bool // a further signal of its rule
}

// viewed is what one set of signals comes to.
type viewed struct {
	suspicion staunch.Suspicion
	view      View
	weighed   []weighed
}

func (p Params) view(subject staunch.Ref, in []*Evidence) viewed {
	asOf := asOf(in)
	out := viewed{suspicion: staunch.Suspicion{Subject: subject, AsOf: asOf}, view: View{AsOf: asOf}}
	ws := p.weigh(in, asOf)
	if len(ws) == 0 {
		return out
	}
	v := &out.view
	v.Confidence = p.combine(ws)
	v.Ceiling = p.ceiling(ws)
	v.Count = len(ws)
	v.Sessions = accusedSessions(ws, p.Meaningful)
	v.Independent = p.independent(ws)
	latest := ws[0].e.Signal
	for _, w := range ws {
		s := w.e.Signal
		v.Rules = append(v.Rules, s.Rule)
		v.Sources = append(v.Sources, s.Source)
		v.Techniques = append(v.Techniques, techniques(s)...)
		if compareTime(s, latest) > 0 {
			latest = s
		}
	}
	v.Rules, v.Sources, v.Techniques = set(v.Rules), set(v.Sources), set(v.Techniques)
	v.Signal = SignalFacts{
		ID: latest.ID, Rule: latest.Rule, Source: latest.Source, Realm: latest.Realm, Confidence: clamp(latest.Confidence),
		Techniques: set(techniques(latest)), Mode: latest.Mode.String(), Standing: string(latest.Standing),
	}
	out.suspicion.Confidence, out.suspicion.Ceiling, out.suspicion.Reasons = v.Confidence, v.Ceiling, p.reasons(ws)
	out.weighed = ws
	return out
}

// asOf is the latest event time among signals whose time can be believed;
// where there is none, the latest there is. A record from the future must not
// be able to age the others.
func asOf(in []*Evidence) staunch.Time {
	var best [3]staunch.Time
	for _, e := range in {
		i, t := 2, e.Signal.Time
		switch e.Signal.Standing {
		case staunch.StandingCurrent:
			i = 0
		case staunch.StandingLate:
			i = 1
		case staunch.StandingUndated:
			t = e.Signal.Learned
		}
		best[i] = max(best[i], t)
	}
	return cmp.Or(best[0], best[1], best[2])
}

// weigh returns the signals with their weights, the weightiest first and by id
// among equals, so that sums and products do not depend on the order given.
func (p Params) weigh(in []*Evidence, asOf staunch.Time) []weighed {
	ws := make([]weighed, 0, len(in))
	for _, e := range in {
		w := weighed{e: e, decay: 1}
		// The age of an event without a time is not known; it only informs.
		if e.Signal.Standing != staunch.StandingUndated && e.Signal.Time < asOf {
			age := asOf.Sub(e.Signal.Time)
			if age > horizon*p.HalfLife {
				continue
			}
			w.decay = math.Exp2(-float64(age) / float64(p.HalfLife))
		}
		w.weight = clamp(e.Signal.Confidence) * w.decay * math.Pow(p.RollUp, float64(max(e.Hops, 0)))
		if w.weight > 0 {
			ws = append(ws, w)
		}
	}
	slices.SortFunc(ws, func(a, b weighed) int {
		if c := cmp.Compare(b.weight, a.weight); c != 0 {
			return c
		}
		return cmp.Compare(a.e.Signal.ID, b.e.Signal.ID)
	})
	rules := make(map[string]bool, len(ws))
	for i := range ws {
		ws[i].repeat = rules[ws[i].e.Signal.Rule]
		rules[ws[i].e.Signal.Rule] = true
	}
	return ws
}

// combine returns the confidence that signals in order of weight make.
func (p Params) combine(ws []weighed) float64 {
	type group struct{ first, rest float64 } // what doubt they leave
	groups := make(map[string]*group, len(ws))
	var order []*group
	for _, w := range ws {
		g, ok := groups[w.e.Signal.Rule]
		if !ok {
			g = &group{first: 1 - w.weight, rest: 1}
			groups[w.e.Signal.Rule] = g
			order = append(order, g)
			continue
		}
		g.rest *= 1 - w.weight
	}
	doubt := 1.0
	for _, g := range order {
		doubt *= g.first * (1 - p.Repeat*(1-g.rest))
	}
	// Rounded, so that 0.2 twice over is 0.36 and thresholds mean what they say.
	return math.Round(clamp(1-doubt)*1e9) / 1e9
}

// ceiling returns the highest tier that the sources allow together.
func (p Params) ceiling(ws []weighed) staunch.Tier {
	type source struct {
		ws     []weighed
		latest *staunch.Signal
	}
	by := map[string]*source{}
	for _, w := range ws {
		s, ok := by[w.e.Signal.Source]
		if !ok {
			s = &source{latest: w.e.Signal}
			by[w.e.Signal.Source] = s
		}
		s.ws = append(s.ws, w)
		// A source's trust may have been changed: its latest signal has it.
		if compareTime(w.e.Signal, s.latest) > 0 {
			s.latest = w.e.Signal
		}
	}
	var highest, meaningful staunch.Tier
	n := 0
	for _, s := range by {
		highest = max(highest, s.latest.Ceiling)
		if p.combine(s.ws) >= p.Meaningful {
			n++
			meaningful = max(meaningful, s.latest.Ceiling)
		}
	}
	switch {
	case n == 0:
		return min(highest, staunch.TierRestrict)
	case n >= 2:
		return min(meaningful+1, staunch.TierRevoke)
	default:
		return min(meaningful, staunch.TierRevoke)
	}
}

// independent counts the origins whose own signals make a meaningful part. An
// origin is a configured source, or several that are configured to share one. What
// a correlation made of more than one of them is nobody's own, since each of them
// could have made it up with the other's help.
func (p Params) independent(ws []weighed) int {
	by := map[string][]weighed{}
	for _, w := range ws {
		if s := w.e.Signal; len(s.Origins) < 2 {
			origin := cmp.Or(s.Origin, s.Source)
			by[origin] = append(by[origin], w)
		}
	}
	n := 0
	for _, ws := range by {
		if p.combine(ws) >= p.Meaningful {
			n++
		}
	}
	return n
}

// reasons says what each signal weighed and why.
func (p Params) reasons(ws []weighed) []staunch.Contribution {
	out := make([]staunch.Contribution, 0, min(len(ws), p.Reasons))
	for _, w := range ws {
		c := staunch.Contribution{Signal: w.e.Signal.ID, Rule: w.e.Signal.Rule, Source: w.e.Signal.Source, Weight: w.weight}
		var why []string
		switch t := w.e.Steered; {
		case t != nil:
			why = append(why, steered(t, w.e.Signal.Mode))
		case w.e.Signal.Mode != staunch.ModeEnforce:
			why = append(why, "the rule is in mode "+w.e.Signal.Mode.String())
		}
		if !w.e.Signal.Standing.MayEnforce() {
			why = append(why, "the event is "+string(w.e.Signal.Standing)+" and may only inform")
		}
		if w.decay < 0.995 {
			why = append(why, fmt.Sprintf("decayed to %.0f%%", 100*w.decay))
		}
		if w.e.Hops > 0 {
			why = append(why, fmt.Sprintf("accuses %s, %d below", w.e.Signal.Accused.Kind, w.e.Hops))
		}
		if w.repeat {
			c.Weight *= p.Repeat
			why = append(why, "repeats its rule")
		}
		c.Why = strings.Join(why, "; ")
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b staunch.Contribution) int {
		return cmp.Or(cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Signal, b.Signal))
	})
	return out[:min(len(out), p.Reasons)]
}

// accusedSessions counts the distinct sessions that a signal of at least the
// meaningful weight accuses.
func accusedSessions(ws []weighed, meaningful float64) int {
	seen := map[staunch.Ref]bool{}
	for _, w := range ws {
		if w.e.Signal.Accused.Kind != staunch.KindSession || w.weight < meaningful {
			continue
		}
		e := w.e.Entity
		if e.IsZero() {
			e = w.e.Signal.Accused
		}
		seen[e] = true
	}
	return len(seen)
}

// techniques returns a signal's techniques as ATT&CK writes them, each
// sub-technique with its technique.
func techniques(s *staunch.Signal) []string {
	var out []string
	for _, t := range s.Techniques {
		t = technique(t)
		out = append(out, t)
		if parent, _, ok := strings.Cut(t, "."); ok {
			out = append(out, parent)
		}
	}
	return out
}

// technique turns "attack.t1078.004" into "T1078.004".
func technique(s string) string {
	return strings.TrimPrefix(strings.ToUpper(s), "ATTACK.")
}

func set(s []string) []string {
	slices.Sort(s)
	s = slices.Compact(s)
	return s[:min(len(s), maxList)]
}

// clamp keeps v in [0,1]; what is not a number is 0.
func clamp(v float64) float64 {
	if !(v > 0) {
		return 0
	}
	return min(v, 1)
}
