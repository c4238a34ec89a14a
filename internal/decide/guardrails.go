package decide

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Tx is the part of store.Tx that admission needs.
type Tx interface {
	// Breakers returns every breaker that was ever opened, which are few.
	Breakers() ([]store.Breaker, error)
	PutBreaker(store.Breaker) error
	Reserve(name string, limit, keep int, useKept bool) (bool, error)
	GiveBack(name string) error
	AppendRecord(staunch.Record) (staunch.Record, error)
}

// Places bounds how many containments may be open at once.
type Places struct {
	// Limit is the number of places; 0 takes the default, -1 is no limit.
	Limit int `json:"limit" yaml:"limit"`
	// Keep is how many of them only manual and revoking containments may take;
	// 0 takes the default, -1 keeps none.
	Keep int `json:"keep" yaml:"keep"`
}

// Limits is the configuration of the guardrails. A zero field takes its
// default; -1 turns a number off.
type Limits struct {
	// Global, Source, Owner and Environment bound the containments that are open
	// at once: in all (200, keep 20), caused by one source (100, keep 10), of
	// one owner's identities (50, keep 5), in one environment (100, keep 10).
	Global      Places `json:"global" yaml:"global"`
	Source      Places `json:"source" yaml:"source"`
	Owner       Places `json:"owner" yaml:"owner"`
	Environment Places `json:"environment" yaml:"environment"`
	// HourlyGlobal and HourlySource bound the containments opened in one hour of
	// the clock: in all (500) and by one source (200).
	HourlyGlobal int `json:"hourly_global" yaml:"hourly_global"`
	HourlySource int `json:"hourly_source" yaml:"hourly_source"`
	// Trip opens a breaker when more automatic containments than this come from
	// one source (60) or one rule (60), or are asked of one realm's connector
	// (120), or of all (250), within one TripWindow (10m). Windows are fixed, so
	// twice as many may pass across the end of one.
	TripSource    int              `json:"trip_source" yaml:"trip_source"`
	TripRule      int              `json:"trip_rule" yaml:"trip_rule"`
	TripConnector int              `json:"trip_connector" yaml:"trip_connector"`
	TripGlobal    int              `json:"trip_global" yaml:"trip_global"`
	TripWindow    staunch.Duration `json:"trip_window" yaml:"trip_window"`
	// MinHealthy is the percentage of a group (identities of one environment and
	// purpose) that has to stay untouched by containments of whole accounts or
	// identities at isolate or above (50). Groups of one are exempt: nothing
	// could stand in for them anyway.
	MinHealthy int `json:"min_healthy" yaml:"min_healthy"`
	// Protected lists refs, with * for any run of characters, that no mutating
	// call may ever touch ("account:aws/prod:arn:*:role/break-glass-*",
	// "identity:root").
	Protected []string `json:"protected,omitempty" yaml:"protected"`
}

// DefaultLimits returns the defaults, filled in.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	places := func(p *Places, limit, keep int) {
		if p.Limit == 0 {
			p.Limit = limit
			if p.Keep == 0 {
				p.Keep = keep
			}
		}
		if p.Keep == 0 && p.Limit > 0 {
			p.Keep = p.Limit / 10
		}
		p.Keep = max(p.Keep, 0)
	}
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	places(&l.Global, 200, 20)
	places(&l.Source, 100, 10)
	places(&l.Owner, 50, 5)
	places(&l.Environment, 100, 10)
	def(&l.HourlyGlobal, 500)
	def(&l.HourlySource, 200)
	def(&l.TripSource, 60)
	def(&l.TripRule, 60)
	def(&l.TripConnector, 120)
	def(&l.TripGlobal, 250)
	def(&l.MinHealthy, 50)
	if l.TripWindow == 0 {
		l.TripWindow = staunch.Duration(10 * time.Minute)
	}
	return l
}

// Guardrails is the brake on the brake. It does not change and is safe for
// concurrent use; what it counts is in the store.
type Guardrails struct {
	limits    Limits
	protected []pattern
}

type pattern struct {
	text string
	re   *regexp.Regexp
}

// NewGuardrails checks the limits. An error is a staunch.Problem whose place is
// the field.
func NewGuardrails(l Limits) (*Guardrails, error) {
	g := &Guardrails{limits: l.withDefaults()}
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &staunch.Problem{Place: field, Reason: fmt.Sprintf(format, args...)})
	}
	for _, p := range []struct {
		name string
		Places
	}{{"global", g.limits.Global}, {"source", g.limits.Source}, {"owner", g.limits.Owner}, {"environment", g.limits.Environment}} {
		if p.Limit < -1 || (p.Limit > 0 && p.Keep >= p.Limit) {
			bad(p.name, "limit %d with %d kept leaves no place", p.Limit, p.Keep)
		}
	}
	for _, n := range []struct {
		name string
		v    int
	}{{"hourly_global", g.limits.HourlyGlobal}, {"hourly_source", g.limits.HourlySource}, {"trip_source", g.limits.TripSource},
		{"trip_rule", g.limits.TripRule}, {"trip_connector", g.limits.TripConnector}, {"trip_global", g.limits.TripGlobal}} {
		if n.v < -1 {
			bad(n.name, "%d is neither a number of containments nor -1 for no limit", n.v)
		}
	}
	if w := g.limits.TripWindow.Std(); w < time.Second || w > 24*time.Hour {
		bad("trip_window", "%s is not between 1s and 24h", w)
	}
	if m := g.limits.MinHealthy; m < -1 || m > 99 {
		bad("min_healthy", "%d is not a percentage below 100, or -1 for none", m)
	}
	for i, text := range l.Protected {
		place := fmt.Sprintf("protected[%d]", i)
		if len(text) > 4096 || strings.Trim(text, "*") == "" {
			bad(place, "%q would protect everything or is too long", text)
			continue
		}
		parts := strings.Split(text, "*")
		for j := range parts {
			parts[j] = regexp.QuoteMeta(parts[j])
		}
		re, err := regexp.Compile(`(?s)\A` + strings.Join(parts, ".*") + `\z`)
		if err != nil {
			bad(place, "%q: %v", text, err)
			continue
		}
		g.protected = append(g.protected, pattern{text: text, re: re})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return g, nil
}

// Protected says why none of the refs may be touched, "" when all may. own has
// the engine's own accounts and credentials. It is asked at admission, and
// again for every target before a call (invariant I5).
func (g *Guardrails) Protected(own []staunch.Ref, refs ...staunch.Ref) string {
	for _, r := range refs {
		if r.IsZero() {
			continue
		}
		if slices.Contains(own, r) {
			return r.String() + " is the engine's own"
		}
		text := r.String()
		for _, p := range g.protected {
			if p.re.MatchString(text) {
				return text + " is protected by " + strconv.Quote(p.text)
			}
		}
	}
	return ""
}

// Request asks for the admission of a decision.
type Request struct {
	Decision staunch.Decision
	// Resolution is of the decision's scope.
	Resolution staunch.Resolution
	Origin     staunch.Origin
	// Own has the engine's own accounts and credentials.
	Own []staunch.Ref
	// Raise says that an open containment is raised: it has its places already,
	// but for its group's, which a higher tier may take, and is not counted again.
	// Have names those that it has.
	Raise bool
	Have  []string
	// Group is how many identities of the same environment and purpose are
	// declared, this one included; 0 when it is not known.
	Group int
	// Now is the time at which it is asked.
	Now staunch.Time
}

// Admission is the guardrails' answer.
type Admission struct {
	// Verdict is the decision's own when it may go on; otherwise protected,
	// breaker or capped.
	Verdict staunch.Verdict
	// Caps names the places that were taken, to be given back at release.
	Caps []string
	// Reasons says why, one sentence each.
	Reasons []string
	// Tripped names the breakers that this request opened.
	Tripped []string
}

// Admit reserves places for a decision whose verdict is contain, or says why it
// may not go on. Other verdicts take no places; of those, approval is checked
// for protection, since nobody can approve that away. It takes places and
// judges breakers in tx alone, by name, so that the admissions of several nodes
// never exceed a limit (invariant I4) nor wait for each other in a circle. On
// refusal everything taken is given back. An error is the store's; the
// transaction must not be committed then.
func (g *Guardrails) Admit(tx Tx, r Request) (Admission, error) {
	a := Admission{Verdict: r.Decision.Verdict}
	if a.Verdict != staunch.VerdictContain && a.Verdict != staunch.VerdictApproval {
		return a, nil
	}
	if why := g.protects(r); why != "" {
		return Admission{Verdict: staunch.VerdictProtected, Reasons: []string{why}}, nil
	}
	if a.Verdict == staunch.VerdictApproval {
		return a, nil
	}
	sources, rules := culprits(r.Decision.Suspicion)
	automatic := r.Origin != staunch.OriginManual
	if automatic {
		breakers, err := tx.Breakers()
		if err != nil {
			return Admission{}, fmt.Errorf("reading the breakers: %w", err)
		}
		for _, scope := range breakerScopes(r, sources, rules) {
			for _, b := range breakers {
				if b.Scope == scope && b.Open {
					a.Reasons = append(a.Reasons, "the breaker "+scope+" is open: "+b.Reason)
				}
			}
		}
		if len(a.Reasons) > 0 {
			a.Verdict = staunch.VerdictBreaker
			return a, nil
		}
	}
	demands := g.demands(r, sources, rules, automatic)
	if r.Raise {
		demands = slices.DeleteFunc(demands, func(d demand) bool {
			return !strings.HasPrefix(d.name, "group/") || slices.Contains(r.Have, d.name)
		})
	}
	return g.reserve(tx, r, demands)
}

// protects says why the decision's scope may not be touched.
func (g *Guardrails) protects(r Request) string {
	if r.Resolution.Identity.Protected || r.Decision.Identity.Protected {
		return "identity " + strconv.Quote(r.Resolution.Identity.Name) + " is declared protected"
	}
	refs := []staunch.Ref{r.Decision.Subject, r.Decision.Scope, r.Resolution.Ref, staunch.IdentityRef(r.Resolution.Identity.Name)}
	refs = append(refs, r.Resolution.Names...)
	refs = append(refs, r.Resolution.Up...)
	return g.Protected(r.Own, refs...)
}

// culprits returns the distinct sources and rules behind a suspicion, sorted:
// those that weigh at least a fifth of the weightiest.
func culprits(s staunch.Suspicion) (sources, rules []string) {
	most := 0.0
	for _, c := range s.Reasons {
		most = max(most, c.Weight)
	}
	for _, c := range s.Reasons {
		if c.Weight > 0 && c.Weight >= most/5 {
			sources, rules = append(sources, c.Source), append(rules, c.Rule)
		}
	}
	return set(sources), set(rules)
}

// breakerScopes returns the breakers that stand before a decision, sorted.
func breakerScopes(r Request, sources, rules []string) []string {
	out := []string{"global"}
	for _, s := range sources {
		out = append(out, "source/"+s)
	}
	for _, s := range rules {
		out = append(out, "rule/"+s)
	}
	for _, ref := range []staunch.Ref{r.Decision.Subject, r.Decision.Scope} {
		if ref.Realm != "" {
			out = append(out, "connector/"+ref.Realm)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// demand is one place that is wanted.
type demand struct {
	name        string
	limit, keep int
	// kept: given back at release. Rates and trips run out by their name.
	held bool
	// breaker is opened when there is no place.
	breaker string
	what    string
}

func (g *Guardrails) demands(r Request, sources, rules []string, automatic bool) []demand {
	l := &g.limits
	var out []demand
	hour := r.Now.Std().Format("2006-01-02T15")
	places := func(name string, p Places) {
		if p.Limit > 0 {
			out = append(out, demand{name: "open/" + name, limit: p.Limit, keep: p.Keep, held: true, what: "containments open at once for " + name})
		}
	}
	rate := func(name string, limit int) {
		if limit > 0 && automatic {
			out = append(out, demand{name: "hour/" + name + "/" + hour, limit: limit, what: "containments an hour for " + name})
		}
	}
	window := strconv.FormatInt(int64(r.Now)/(l.TripWindow.Std().Microseconds()), 10)
	trip := func(scope string, limit int) {
		if limit > 0 && automatic {
			out = append(out, demand{name: "trip/" + scope + "/" + window, limit: limit, breaker: scope, what: "automatic containments within " + l.TripWindow.Std().String() + " for " + scope})
		}
	}
	places("global", l.Global)
	rate("global", l.HourlyGlobal)
	trip("global", l.TripGlobal)
	id := r.Resolution.Identity
	if id.Owner != "" {
		places("owner/"+id.Owner, l.Owner)
	}
	if id.Environment != "" {
		places("environment/"+id.Environment, l.Environment)
	}
	for _, s := range sources {
		places("source/"+s, l.Source)
		rate("source/"+s, l.HourlySource)
		trip("source/"+s, l.TripSource)
	}
	for _, s := range rules {
		trip("rule/"+s, l.TripRule)
	}
	if realm := r.Decision.Scope.Realm; realm != "" {
		trip("connector/"+realm, l.TripConnector)
	}
	wide := r.Decision.Scope.Kind.Width() >= staunch.KindAccount.Width()
	if l.MinHealthy > 0 && r.Group >= 2 && wide && r.Decision.Tier >= staunch.TierIsolate {
		healthy := (r.Group*l.MinHealthy + 99) / 100
		group := id.Environment + "/" + id.Purpose
		out = append(out, demand{
			name: "group/" + group, limit: max(r.Group-healthy, 1), held: true,
			what: "of the " + strconv.Itoa(r.Group) + " identities of " + group + " contained at once",
		})
	}
	slices.SortFunc(out, func(a, b demand) int { return strings.Compare(a.name, b.name) })
	return out
}

// reserve takes all places or none.
func (g *Guardrails) reserve(tx Tx, r Request, demands []demand) (Admission, error) {
	useKept := r.Origin == staunch.OriginManual || r.Decision.Tier == staunch.TierRevoke
	a := Admission{Verdict: staunch.VerdictContain}
	for i, d := range demands {
		ok, err := tx.Reserve(d.name, d.limit, d.keep, useKept)
		if err != nil {
			return Admission{}, fmt.Errorf("reserving a place of %s: %w", d.name, err)
		}
		if ok {
			if d.held {
				a.Caps = append(a.Caps, d.name)
			}
			continue
		}
		for _, taken := range demands[:i] {
			if err := tx.GiveBack(taken.name); err != nil {
				return Admission{}, fmt.Errorf("giving back a place of %s: %w", taken.name, err)
			}
		}
		why := "no place left: at most " + strconv.Itoa(d.limit) + " " + d.what
		if d.keep > 0 && !useKept {
			why += ", " + strconv.Itoa(d.keep) + " of them kept for manual and revoking ones"
		}
		if d.breaker == "" {
			return Admission{Verdict: staunch.VerdictCapped, Reasons: []string{why}}, nil
		}
		if err := g.trip(tx, d.breaker, why, r); err != nil {
			return Admission{}, err
		}
		return Admission{Verdict: staunch.VerdictBreaker, Reasons: []string{"the breaker " + d.breaker + " opened: " + why}, Tripped: []string{d.breaker}}, nil
	}
	return a, nil
}

// trip opens a breaker, which only a person closes again.
func (g *Guardrails) trip(tx Tx, scope, why string, r Request) error {
	b := store.Breaker{Scope: scope, Open: true, Reason: why, Changed: r.Now, By: "engine"}
	if err := tx.PutBreaker(b); err != nil {
		return fmt.Errorf("opening breaker %s: %w", scope, err)
	}
	body, err := json.Marshal(struct {
		V int `json:"v"`
		store.Breaker
		Decision string `json:"decision"`
	}{staunch.Version, b, r.Decision.ID})
	if err != nil {
		return fmt.Errorf("recording breaker %s: %w", scope, err)
	}
	if _, err := tx.AppendRecord(staunch.Record{Time: r.Now, Kind: staunch.RecordBreaker, Actor: "engine", About: scope, Body: body}); err != nil {
		return fmt.Errorf("recording breaker %s: %w", scope, err)
	}
	return nil
}
