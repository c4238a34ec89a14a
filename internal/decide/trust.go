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

// production says which environments are production.
var production = regexp.MustCompile(`(?i)^prod(uction)?([-_./].*)?$`)

// Production reports whether an environment of that name is production: prod or
// production, alone or before one of -_./ ("prod-eu"), in any case.
func Production(environment string) bool { return production.MatchString(environment) }

// NeedSources returns how many independent sources revoke needs in production.
func (p Params) NeedSources() int { return p.withDefaults().RevokeSources }

// maxTrustReasons bounds the rules that an outcome's reasons name.
const maxTrustReasons = 5

// steered says in words why a rule goes as far as m and not as its file says.
func steered(t *staunch.RuleTrust, m staunch.Mode) string {
	why := ""
	if t.Reason != "" {
		why = ": " + t.Reason
	}
	return "it is in mode " + m.String() + " since " + t.Changed.String() + " by " + t.By + why
}

// Steer has signals go as far as trust in their rules lets them, and returns the
// trust that differs from what the rules' files say, by rule.
func Steer(evidence []Evidence, trust map[string]staunch.RuleTrust) []staunch.RuleTrust {
	if len(trust) == 0 {
		return nil
	}
	var used []staunch.RuleTrust
	for i := range evidence {
		e := &evidence[i]
		t, ok := trust[e.Signal.Rule]
		if !ok || !t.Steers() {
			continue
		}
		m := t.ModeOf(*e.Signal)
		if m == e.Signal.Mode {
			continue
		}
		s := *e.Signal
		s.Mode = m
		e.Signal, e.Steered = &s, &t
		if !slices.ContainsFunc(used, func(u staunch.RuleTrust) bool { return u.Rule == t.Rule }) {
			// How often it was judged says nothing of this decision.
			t.Wrong, t.Right, t.LastWrong, t.LastRight = 0, 0, 0, 0
			used = append(used, t)
		}
	}
	slices.SortFunc(used, func(a, b staunch.RuleTrust) int { return strings.Compare(a.Rule, b.Rule) })
	return used
}

// TrustTx is the part of store.Tx that trust in rules needs.
type TrustTx interface {
	Trust(rule string) (staunch.RuleTrust, error)
	PutTrust(staunch.RuleTrust) error
	PutTrustEvent(staunch.TrustEvent) (inserted bool, err error)
	TrustEvents(rule string, limit int) ([]staunch.TrustEvent, error)
	RulesBehind(containment string) ([]string, error)
	AppendRecord(staunch.Record) (staunch.Record, error)
}

// maxJudged bounds the rules that one judgement is about.
const maxJudged = 64

// Judge notes the case's verdict against the rules behind it, in tx. Each that was
// wrong goes one step down at once: from enforce to recommend, from recommend to
// shadow. was is the verdict that stood before, nil for none; of a rule that it
// counted for, a verdict that says the same changes nothing, and one that says the
// opposite takes its place. A case takes a rule down once, unless a person has
// promoted the rule since. It returns the rules that the verdict counts for, sorted,
// and the demotions. declared says how far a rule's file lets it go. Nothing is ever
// promoted here.
func Judge(tx TrustTx, con staunch.Containment, was *staunch.Judged, declared func(rule string) staunch.Mode, now staunch.Time) (rules []string, demoted []staunch.TrustEvent, err error) {
	v := con.Judged
	if v == nil || con.Drill != "" {
		return nil, nil, nil
	}
	if rules, err = tx.RulesBehind(con.ID); err != nil {
		return nil, nil, fmt.Errorf("reading which rules led to %s: %w", con.ID, err)
	}
	if was != nil { // what led to the case may be deleted by now
		rules = append(slices.Clone(rules), was.Rules...)
		slices.Sort(rules)
		rules = slices.Compact(rules)
	}
	rules = rules[:min(len(rules), maxJudged)]
	for _, rule := range rules {
		before := staunch.Judgement("")
		if was != nil && slices.Contains(was.Rules, rule) {
			before = was.Verdict
		}
		if before == v.Verdict {
			continue
		}
		d, err := judgeRule(tx, con, rule, before, declared(rule), now)
		if err != nil {
			return nil, nil, err
		}
		if d != nil {
			demoted = append(demoted, *d)
		}
	}
	return rules, demoted, nil
}

// judgeRule notes the case's verdict against one rule, in place of the one before,
// and returns the demotion, nil for none.
func judgeRule(tx TrustTx, con staunch.Containment, rule string, before staunch.Judgement, declared staunch.Mode, now staunch.Time) (*staunch.TrustEvent, error) {
	v := con.Judged
	t, err := trustIn(tx, rule)
	if err != nil {
		return nil, err
	}
	key := con.ID
	if v.Given > 1 {
		key += "/" + strconv.Itoa(v.Given)
	}
	ev := staunch.TrustEvent{
		V: staunch.Version, Rule: rule, At: now, By: v.By, Containment: con.ID, Reason: v.Reason, Kind: staunch.TrustRight, Corrects: before,
	}
	ev.From = t.Now(declared)
	ev.To = ev.From
	if v.Verdict == staunch.JudgedWrong {
		ev.Kind = staunch.TrustWrong
	}
	ev.ID = staunch.TrustEventID(rule, ev.Kind, key)
	if fresh, err := tx.PutTrustEvent(ev); err != nil || !fresh {
		return nil, err
	}
	if err := recordTrust(tx, ev); err != nil {
		return nil, err
	}
	var history []staunch.TrustEvent
	if before != "" {
		if history, err = tx.TrustEvents(rule, store.MaxPage); err != nil {
			return nil, fmt.Errorf("reading the history of rule %s: %w", rule, err)
		}
	}
	switch before {
	case staunch.JudgedWrong:
		t.Wrong = max(t.Wrong-1, 0)
		t.LastWrong = lastJudged(history, staunch.TrustWrong)
	case staunch.JudgedRight:
		t.Right = max(t.Right-1, 0)
		t.LastRight = lastJudged(history, staunch.TrustRight)
	}
	if ev.Kind == staunch.TrustRight {
		t.Right, t.LastRight = t.Right+1, now
	} else {
		t.Wrong, t.LastWrong = t.Wrong+1, now
	}
	if ev.Kind == staunch.TrustRight || ev.From == staunch.ModeShadow || tookDown(history, con.ID) {
		return nil, tx.PutTrust(t)
	}
	down := Move{Rule: rule, To: ev.From - 1, By: "engine", Reason: con.ID + " was judged wrong by " + v.By, Key: key, Containment: con.ID}
	d, err := down.put(tx, t, declared, now)
	return &d, err
}

// lastJudged returns when a case of a history, the newest event first, was judged so
// last, by what counts of it; 0 for never.
func lastJudged(history []staunch.TrustEvent, kind staunch.TrustKind) staunch.Time {
	for _, ev := range staunch.LatestJudgements(history) {
		if ev.Kind == kind {
			return ev.At
		}
	}
	return 0
}

// tookDown reports whether a case has taken the rule of a history, the newest event
// first, down already, and nobody has promoted the rule since.
func tookDown(history []staunch.TrustEvent, containment string) bool {
	for _, ev := range history {
		switch {
		case ev.Kind == staunch.TrustPromoted:
			return false
		case ev.Kind == staunch.TrustDemoted && ev.Containment == containment:
			return true
		}
	}
	return false
}

// Move sets how far a rule may go.
type Move struct {
	Rule string
	To   staunch.Mode
	// By and Reason are for people; Key tells this change from others of the rule.
	By, Reason, Key string
	// Containment is the case that it is about, "" for none.
	Containment string
}

// Apply makes the change in tx, where the rule's file says declared. A change to
// the mode that the rule has is a staunch.ErrConflict.
func (m Move) Apply(tx TrustTx, declared staunch.Mode, now staunch.Time) (staunch.TrustEvent, error) {
	t, err := trustIn(tx, m.Rule)
	if err != nil {
		return staunch.TrustEvent{}, err
	}
	if at := t.Now(declared); at == m.To {
		return staunch.TrustEvent{}, fmt.Errorf("%w: rule %s is in mode %s already", staunch.ErrConflict, m.Rule, at)
	}
	return m.put(tx, t, declared, now)
}

func (m Move) put(tx TrustTx, t staunch.RuleTrust, declared staunch.Mode, now staunch.Time) (staunch.TrustEvent, error) {
	ev := staunch.TrustEvent{
		V: staunch.Version, Rule: m.Rule, Kind: staunch.TrustDemoted, At: now, By: m.By, Containment: m.Containment,
		From: t.Now(declared), To: m.To, Reason: m.Reason,
	}
	if m.To > ev.From {
		ev.Kind = staunch.TrustPromoted
	}
	ev.ID = staunch.TrustEventID(m.Rule, ev.Kind, m.Key)
	t.Was, t.Mode, t.Declared, t.Changed, t.By, t.Reason = ev.From, m.To, declared, now, m.By, m.Reason
	if err := tx.PutTrust(t); err != nil {
		return ev, err
	}
	if _, err := tx.PutTrustEvent(ev); err != nil {
		return ev, err
	}
	return ev, recordTrust(tx, ev)
}

func trustIn(tx TrustTx, rule string) (staunch.RuleTrust, error) {
	t, err := tx.Trust(rule)
	if errors.Is(err, staunch.ErrNotFound) {
		return staunch.RuleTrust{V: staunch.Version, Rule: rule}, nil
	}
	if err != nil {
		return t, fmt.Errorf("reading the trust in rule %s: %w", rule, err)
	}
	return t, nil
}

func recordTrust(tx TrustTx, ev staunch.TrustEvent) error {
	body, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("recording the trust in rule %s: %w", ev.Rule, err)
	}
	about := ev.Containment
	if about == "" {
		about = "rule/" + ev.Rule
	}
	_, err = tx.AppendRecord(staunch.Record{Time: ev.At, Kind: staunch.RecordTrust, Actor: ev.By, About: about, Body: body})
	return err
}

// Criteria are what a rule has to show before it is recommended for the next mode.
// Nothing is ever promoted by them.
type Criteria struct {
	// Matches is how many matches it needs in its present mode, over at least For, and
	// none of the containments that were judged since may have
	// been wrong.
	Matches int              `json:"matches"`
	For     staunch.Duration `json:"for"`
}

// Trial is what a rule has shown in its present mode.
type Trial struct {
	Mode staunch.Mode
	// Since is when it got the mode, or its first match.
	Since staunch.Time
	// Matches counts its signals since, Wrong the containments judged wrong since.
	Matches, Wrong int
}

// Advise says whether a rule is ready for the next mode, and in one line why.
func (c Criteria) Advise(t Trial, now staunch.Time) (ready bool, advice string) {
	if t.Matches == 0 {
		return false, "no matches in mode " + t.Mode.String()
	}
	days := int(now.Sub(t.Since) / (24 * time.Hour))
	what := fmt.Sprintf("%d matches in %d days, %d wrong", t.Matches, days, t.Wrong)
	switch {
	case t.Mode == staunch.ModeEnforce && t.Wrong > 0:
		return false, "enforces: " + what + "; consider to demote it"
	case t.Mode == staunch.ModeEnforce:
		return false, "enforces: " + what
	case t.Wrong > 0:
		return false, "not ready: " + what
	case t.Matches < c.Matches || now.Sub(t.Since) < c.For.Std():
		return false, fmt.Sprintf("not yet: %s; %d in %d days are needed", what, c.Matches, int(c.For.Std()/(24*time.Hour)))
	default:
		return true, "ready: " + what
	}
}
