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
	Reader
	// Breakers returns every breaker that was ever opened, which are few.
	Breakers() ([]store.Breaker, error)
	PutBreaker(store.Breaker) error
	Reserve(name string, limit, keep int, useKept bool) (bool, error)
	GiveBack(name string) error
	AppendRecord(staunch.Record) (staunch.Record, error)
}

// Reader is the part of store.Reader that says how healthy a group is.
type Reader interface {
	Cursor(name string) (string, error)
	Cap(name string) (store.Cap, error)
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
	// Restrict, Isolate and Revoke bound those of one tier: 200 (keep 20), 100 (keep
	// 10) and 50. A case that is raised takes a place of its new tier as well.
	Restrict Places `json:"restrict,omitzero" yaml:"restrict"`
	Isolate  Places `json:"isolate,omitzero" yaml:"isolate"`
	Revoke   Places `json:"revoke,omitzero" yaml:"revoke"`
	// Identities bounds how many identities are contained automatically within one
	// TripWindow: 10, of which 5 are kept for revoking containments.
	Identities Places `json:"identities,omitzero" yaml:"identities"`
	// HourlyGlobal and HourlySource bound the containments opened in one hour of
	// the clock: in all (500) and by one source (200).
	HourlyGlobal int `json:"hourly_global" yaml:"hourly_global"`
	HourlySource int `json:"hourly_source" yaml:"hourly_source"`
	// Trip opens a breaker when automatic containments of more identities than this
	// are asked for by one source (12) or one rule (12), or on one realm's connector
	// (30), or in all (60), within one TripWindow (10m). What a cap refuses counts.
	// Windows are fixed, so twice as many may pass across the end of one.
	TripSource    int              `json:"trip_source" yaml:"trip_source"`
	TripRule      int              `json:"trip_rule" yaml:"trip_rule"`
	TripConnector int              `json:"trip_connector" yaml:"trip_connector"`
	TripGlobal    int              `json:"trip_global" yaml:"trip_global"`
	TripWindow    staunch.Duration `json:"trip_window" yaml:"trip_window"`
	// CanaryAfter is how many automatic containments below revoke one rule, or one
	// source, may ask for within one TripWindow before further ones wait until the
	// first is proven (1); -1 has none wait. CanaryWait bounds the wait (1m).
	CanaryAfter int              `json:"canary_after,omitempty" yaml:"canary_after"`
	CanaryWait  staunch.Duration `json:"canary_wait,omitempty" yaml:"canary_wait"`
	// MinHealthy is the percentage of a group (identities of one environment and
	// purpose) that has to stay untouched by containments of whole accounts or
	// identities at isolate or above (50). Groups of one are exempt: nothing
	// could stand in for them anyway.
	MinHealthy int `json:"min_healthy" yaml:"min_healthy"`
	// HealthAge is how long a report of how many of a group are healthy counts
	// (15m). While the newest is older, none of the group is contained automatically
	// as above.
	HealthAge staunch.Duration `json:"health_age,omitempty" yaml:"health_age"`
	// GroupShare is the percentage of a group (2, at least one identity) that
	// automatic containments as above may take; what MinHealthy leaves beyond it is
	// kept for manual and revoking ones.
	GroupShare int `json:"group_share,omitempty" yaml:"group_share"`
	// Approvers is how many different people have to approve a plan of which
	// something cannot be undone (2). ApprovalFor is how long one person's approval
	// counts while others are missing (4h).
	Approvers   int              `json:"approvers,omitempty" yaml:"approvers"`
	ApprovalFor staunch.Duration `json:"approval_for,omitempty" yaml:"approval_for"`
	// AskByHand has containments by hand of this tier and above wait for the
	// approval of others; observe (default) has none wait.
	AskByHand staunch.Tier `json:"ask_by_hand,omitempty" yaml:"ask_by_hand"`
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
	places(&l.Restrict, 200, 20)
	places(&l.Isolate, 100, 10)
	places(&l.Revoke, 50, 0)
	places(&l.Identities, 10, 5)
	def(&l.HourlyGlobal, 500)
	def(&l.HourlySource, 200)
	def(&l.TripSource, 12)
	def(&l.TripRule, 12)
	def(&l.TripConnector, 30)
	def(&l.TripGlobal, 60)
	def(&l.CanaryAfter, 1)
	def(&l.MinHealthy, 50)
	def(&l.GroupShare, 2)
	def(&l.Approvers, staunch.DefaultApprovers)
	wait := func(v *staunch.Duration, d time.Duration) {
		if *v == 0 {
			*v = staunch.Duration(d)
		}
	}
	wait(&l.TripWindow, 10*time.Minute)
	wait(&l.CanaryWait, time.Minute)
	wait(&l.HealthAge, 15*time.Minute)
	wait(&l.ApprovalFor, staunch.DefaultApprovalFor)
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
	}{
		{"global", g.limits.Global}, {"source", g.limits.Source}, {"owner", g.limits.Owner}, {"environment", g.limits.Environment},
		{"restrict", g.limits.Restrict}, {"isolate", g.limits.Isolate}, {"revoke", g.limits.Revoke}, {"identities", g.limits.Identities},
	} {
		if p.Limit < -1 || (p.Limit > 0 && p.Keep >= p.Limit) {
			bad(p.name, "limit %d with %d kept leaves no place", p.Limit, p.Keep)
		}
	}
	for _, n := range []struct {
		name string
		v    int
	}{{"hourly_global", g.limits.HourlyGlobal}, {"hourly_source", g.limits.HourlySource}, {"trip_source", g.limits.TripSource},
		{"trip_rule", g.limits.TripRule}, {"trip_connector", g.limits.TripConnector}, {"trip_global", g.limits.TripGlobal}, {"canary_after", g.limits.CanaryAfter}} {
		if n.v < -1 {
			bad(n.name, "%d is neither a number of containments nor -1 for no limit", n.v)
		}
	}
	for _, d := range []struct {
		name        string
		v           staunch.Duration
		least, most time.Duration
	}{
		{"trip_window", g.limits.TripWindow, time.Second, 24 * time.Hour},
		{"canary_wait", g.limits.CanaryWait, time.Second, 10 * time.Minute},
		{"health_age", g.limits.HealthAge, time.Second, 7 * 24 * time.Hour},
		{"approval_for", g.limits.ApprovalFor, time.Minute, 7 * 24 * time.Hour},
	} {
		if d.v.Std() < d.least || d.v.Std() > d.most {
			bad(d.name, "%s is not between %s and %s", d.v.Std(), d.least, d.most)
		}
	}
	if n := g.limits.Approvers; n < 1 || n > maxApprovers {
		bad("approvers", "%d is not a number of people from 1 to %d", n, maxApprovers)
	}
	if n := g.limits.GroupShare; n < -1 || n > 100 {
		bad("group_share", "%d is not a percentage, or -1 for no share", n)
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

// maxApprovers bounds how many people a configuration may ask for.
const maxApprovers = 10

// Approving returns how many different people have to approve what cannot be
// undone, and how long one person's approval counts.
func (g *Guardrails) Approving() (persons int, validFor time.Duration) {
	return g.limits.Approvers, g.limits.ApprovalFor.Std()
}

// AsksByHand reports whether a containment by hand at a tier waits for the
// approval of others.
func (g *Guardrails) AsksByHand(t staunch.Tier) bool {
	return g.limits.AskByHand > staunch.TierObserve && t >= g.limits.AskByHand
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
	// but for those that its new tier takes, and is not counted again. Have names
	// those that it has.
	Raise bool
	Have  []string
	// Exercise says that a drill asks: it takes nobody's place and is counted
	// nowhere.
	Exercise bool
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
	// Tripped names the breakers that this request opened, Open those that stand in
	// its way.
	Tripped, Open []string
	// Causes names the rules and sources that ask for it where it may have to wait
	// for a canary, and Follows those of them that asked for so many already that
	// it has to; Window numbers the window in which they are counted, and Wait
	// bounds the wait.
	Causes, Follows []string
	Window          int64
	Wait            time.Duration

	taken []string
}

// Admit reserves places for a decision whose verdict is contain, or says why it
// may not go on. Other verdicts take no places; of those, approval is checked
// for protection, since nobody can approve that away. It takes places and
// judges breakers in tx alone, by name, so that the admissions of several nodes
// never exceed a limit (invariant I4) nor wait for each other in a circle. On
// refusal every place is given back; that it was asked for stays counted, so that
// a spike opens its breaker whatever the caps refuse of it. An error is the
// store's; the transaction must not be committed then.
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
	sources, rules := r.Decision.Suspicion.Culprits()
	automatic := r.Origin != staunch.OriginManual
	var yielded []string
	if automatic {
		breakers, err := tx.Breakers()
		if err != nil {
			return Admission{}, fmt.Errorf("reading the breakers: %w", err)
		}
		for _, scope := range breakerScopes(r, sources, rules) {
			for _, b := range breakers {
				switch {
				case b.Scope != scope || !b.Open:
				case g.yields(scope, r.Decision.Tier):
					yielded = append(yielded, "the breaker "+scope+" is open ("+b.Reason+"); it does not stop what revokes")
				default:
					a.Reasons = append(a.Reasons, "the breaker "+scope+" is open: "+b.Reason)
					a.Open = append(a.Open, scope)
				}
			}
		}
		if len(a.Reasons) > 0 {
			a.Verdict = staunch.VerdictBreaker
			return a, nil
		}
	}
	a.Reasons = yielded
	if automatic && r.Decision.Tier < staunch.TierRevoke && g.limits.CanaryAfter > 0 {
		for _, s := range rules {
			a.Causes = append(a.Causes, "rule/"+s)
		}
		for _, s := range sources {
			a.Causes = append(a.Causes, "source/"+s)
		}
		a.Window, a.Wait = g.window(r.Now), g.limits.CanaryWait.Std()
	}
	why, err := g.unhealthy(tx, r, automatic)
	if err != nil {
		return Admission{}, err
	}
	if why != "" {
		a = Admission{Verdict: staunch.VerdictCapped, Reasons: []string{why}}
	}
	if a.Verdict == staunch.VerdictContain {
		if err := g.reserve(tx, r, g.demands(r, sources, automatic), &a); err != nil {
			return Admission{}, err
		}
	}
	if r.Raise || r.Exercise || !automatic {
		return a, nil
	}
	err = g.count(tx, r, sources, rules, &a)
	return a, err
}

// window numbers the present one of those in which things are counted.
func (g *Guardrails) window(now staunch.Time) int64 {
	return int64(now) / g.limits.TripWindow.Std().Microseconds()
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

// yields reports whether a breaker lets automatic containments of a tier go on
// while it is open. Those of a source or rule never do: they say whom not to believe.
// That of all, and those of a realm's connector, say that many were asked for at
// once, by whomever; what has to be stopped now goes on by the sources and rules whose
// own breakers are closed, and within the places that are kept for it. Where a source
// alone could open the realm's breaker and leave its own closed, that one yields to
// nothing.
func (g *Guardrails) yields(scope string, t staunch.Tier) bool {
	switch {
	case t != staunch.TierRevoke:
		return false
	case scope == "global":
		return true
	case strings.HasPrefix(scope, "connector/"):
		return g.limits.TripSource > 0 && (g.limits.TripConnector <= 0 || g.limits.TripSource <= g.limits.TripConnector)
	}
	return false
}

// demand is one place that is wanted.
type demand struct {
	name        string
	limit, keep int
	// held: given back at release. Rates run out by their name.
	held bool
	what string
	// once is a mark with one place: who finds it taken has this place already.
	once string
}

// tierPlaces returns the places of one tier.
func (g *Guardrails) tierPlaces(t staunch.Tier) Places {
	switch t {
	case staunch.TierRestrict:
		return g.limits.Restrict
	case staunch.TierIsolate:
		return g.limits.Isolate
	case staunch.TierRevoke:
		return g.limits.Revoke
	}
	return Places{Limit: -1}
}

// who returns the key of the identity that a request is about; of one that nobody
// declared it is the widest of what is known.
func who(r Request) string {
	if id := r.Resolution.Identity; id.Managed && id.Name != "" {
		return staunch.IdentityRef(id.Name).Key()
	}
	ref := r.Decision.Scope
	for _, up := range r.Resolution.Up {
		if up.Kind.Width() > ref.Kind.Width() {
			ref = up
		}
	}
	return ref.Key()
}

// demands returns the places that a request wants, by name. A case that is raised
// has all but that of its new tier.
func (g *Guardrails) demands(r Request, sources []string, automatic bool) []demand {
	if r.Exercise {
		return nil
	}
	l := &g.limits
	var out []demand
	hour := r.Now.Std().Format("2006-01-02T15")
	window := strconv.FormatInt(g.window(r.Now), 10)
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
	id := r.Resolution.Identity
	places("tier/"+r.Decision.Tier.String(), g.tierPlaces(r.Decision.Tier))
	if g.wholly(r.Decision.Scope, r.Decision.Tier, r.Group) {
		limit := max(r.Group-g.least(r.Group), 1)
		share := limit
		if l.GroupShare >= 0 {
			share = min(max(r.Group*l.GroupShare/100, 1), limit)
		}
		out = append(out, demand{
			name: groupCap(id), limit: limit, keep: limit - share, held: true,
			what: "of the " + strconv.Itoa(r.Group) + " identities of " + groupOf(id) + " contained at once",
		})
	}
	if r.Raise {
		out = slices.DeleteFunc(out, func(d demand) bool { return slices.Contains(r.Have, d.name) })
		slices.SortFunc(out, func(a, b demand) int { return strings.Compare(a.name, b.name) })
		return out
	}
	if p := l.Identities; p.Limit > 0 && automatic {
		out = append(out, demand{
			name: "identities/" + window, limit: p.Limit, keep: p.Keep, once: "had/" + who(r) + "/" + window,
			what: "identities contained automatically within " + l.TripWindow.Std().String(),
		})
	}
	places("global", l.Global)
	rate("global", l.HourlyGlobal)
	if id.Owner != "" {
		places("owner/"+id.Owner, l.Owner)
	}
	if id.Environment != "" {
		places("environment/"+id.Environment, l.Environment)
	}
	for _, s := range sources {
		places("source/"+s, l.Source)
		rate("source/"+s, l.HourlySource)
	}
	slices.SortFunc(out, func(a, b demand) int { return strings.Compare(a.name, b.name) })
	return out
}

// reserve takes all places or none, and says in the admission which.
func (g *Guardrails) reserve(tx Tx, r Request, demands []demand, a *Admission) error {
	useKept := r.Origin == staunch.OriginManual || r.Decision.Tier == staunch.TierRevoke
	var taken []string
	take := func(name string, limit, keep int) (bool, error) {
		ok, err := tx.Reserve(name, limit, keep, useKept)
		if err != nil {
			return false, fmt.Errorf("reserving a place of %s: %w", name, err)
		}
		if ok {
			taken = append(taken, name)
		}
		return ok, nil
	}
	if !r.Raise && !r.Exercise {
		window := "/" + strconv.FormatInt(a.Window, 10)
		for _, cause := range a.Causes {
			ok, err := take("canary/"+cause+window, g.limits.CanaryAfter, 0)
			if err != nil {
				return err
			}
			if !ok {
				a.Follows = append(a.Follows, cause)
			}
		}
	}
	for _, d := range demands {
		if d.once != "" {
			ok, err := take(d.once, 1, 0)
			if err != nil {
				return err
			}
			if !ok {
				continue // the identity is counted already
			}
		}
		ok, err := take(d.name, d.limit, d.keep)
		if err != nil {
			return err
		}
		if ok {
			if d.held {
				a.Caps = append(a.Caps, d.name)
			}
			continue
		}
		if err := giveBack(tx, taken); err != nil {
			return err
		}
		why := "no place left: at most " + strconv.Itoa(d.limit) + " " + d.what
		if d.keep > 0 && !useKept {
			why += ", " + strconv.Itoa(d.keep) + " of them kept for manual and revoking ones"
		}
		*a = Admission{Verdict: staunch.VerdictCapped, Reasons: []string{why}}
		return nil
	}
	a.taken = taken
	return nil
}

func giveBack(tx Tx, names []string) error {
	for _, n := range names {
		if err := tx.GiveBack(n); err != nil {
			return fmt.Errorf("giving back a place of %s: %w", n, err)
		}
	}
	return nil
}

// count counts what was asked for, once an identity for the same sources, and
// opens the breakers of which there was too much.
func (g *Guardrails) count(tx Tx, r Request, sources, rules []string, a *Admission) error {
	l := &g.limits
	window := "/" + strconv.FormatInt(g.window(r.Now), 10)
	type trip struct {
		scope string
		limit int
	}
	var trips []trip
	add := func(scope string, limit int) {
		if limit > 0 {
			trips = append(trips, trip{scope, limit})
		}
	}
	if realm := r.Decision.Scope.Realm; realm != "" {
		add("connector/"+realm, l.TripConnector)
	}
	add("global", l.TripGlobal)
	for _, s := range rules {
		add("rule/"+s, l.TripRule)
	}
	for _, s := range sources {
		add("source/"+s, l.TripSource)
	}
	if len(trips) == 0 {
		return nil
	}
	mark := "seen/" + staunch.Digest(fmt.Appendf(nil, "%q", append([]string{who(r)}, sources...))) + window
	first, err := tx.Reserve(mark, 1, 0, true)
	if err != nil {
		return fmt.Errorf("counting what was asked for: %w", err)
	}
	if !first {
		return nil
	}
	var reasons, open []string
	for _, t := range trips {
		ok, err := tx.Reserve("trip/"+t.scope+window, t.limit, 0, true)
		if err != nil {
			return fmt.Errorf("counting for the breaker %s: %w", t.scope, err)
		}
		if ok {
			continue
		}
		why := "automatic containments of more than " + strconv.Itoa(t.limit) + " identities were asked for within " + l.TripWindow.Std().String() + " for " + t.scope
		if err := g.trip(tx, t.scope, why, r); err != nil {
			return err
		}
		a.Tripped = append(a.Tripped, t.scope)
		if g.yields(t.scope, r.Decision.Tier) {
			continue // it stops others
		}
		reasons, open = append(reasons, "the breaker "+t.scope+" opened: "+why), append(open, t.scope)
	}
	if len(reasons) == 0 {
		return nil
	}
	if err := giveBack(tx, a.taken); err != nil {
		return err
	}
	*a = Admission{Verdict: staunch.VerdictBreaker, Reasons: reasons, Tripped: a.Tripped, Open: open}
	return nil
}

// Heard returns which signals count although breakers are open: all but those of
// their sources and rules. It is nil where other breakers stand in the way, too,
// since leaving signals out would not help. What one source says of too many is no
// reason to leave alone whom another accuses.
func Heard(open []string) func(staunch.Signal) bool {
	for _, scope := range open {
		if !strings.HasPrefix(scope, "source/") && !strings.HasPrefix(scope, "rule/") {
			return nil
		}
	}
	return func(s staunch.Signal) bool {
		return !slices.Contains(open, "source/"+s.Source) && !slices.Contains(open, "rule/"+s.Rule)
	}
}

// TripTx is the part of store.Tx that ForgetTrips needs.
type TripTx interface {
	CapsNamed(prefix, after string, limit int) ([]string, error)
	DeleteCap(name string) error
}

// ForgetTrips has what was counted for a breaker begin anew. Whoever closes one
// has looked at what there was.
func ForgetTrips(tx TripTx, scope string) error {
	prefix, after := "trip/"+scope+"/", ""
	for {
		names, err := tx.CapsNamed(prefix, after, store.MaxPage)
		if err != nil {
			return fmt.Errorf("looking for what breaker %s counted: %w", scope, err)
		}
		for _, n := range names {
			if after = n; strings.Contains(n[len(prefix):], "/") {
				continue // another breaker's, whose scope begins like this one's
			}
			if err := tx.DeleteCap(n); err != nil {
				return fmt.Errorf("forgetting what breaker %s counted: %w", scope, err)
			}
		}
		if len(names) < store.MaxPage {
			return nil
		}
	}
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
