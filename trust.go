package staunch

import "slices"

// Judgement is what a person says of a containment: whether it was called for.
type Judgement string

// The judgements. None is "".
const (
	// JudgedWrong: it was a false positive. The rules behind it lose trust.
	JudgedWrong Judgement = "wrong"
	// JudgedRight: it was called for.
	JudgedRight Judgement = "right"
)

// Valid reports whether j is one of the judgements, or none.
func (j Judgement) Valid() bool { return j == "" || j == JudgedWrong || j == JudgedRight }

// Judged is what a person said of a containment that was released, with the
// release or later.
type Judged struct {
	Verdict Judgement `json:"verdict"`
	By      string    `json:"by"`
	At      Time      `json:"at"`
	Reason  string    `json:"reason,omitempty"`
	// Given is how often one was given: each after the first corrects the one
	// before, which said the opposite.
	Given int `json:"given"`
	// Rules has the rules that it counts for, sorted.
	Rules []string `json:"rules,omitempty"`
}

// RuleTrust is what has been made of a rule beside its file: how far it may go,
// where that was changed, and how often it was judged.
type RuleTrust struct {
	V    int    `json:"v"`
	Rule string `json:"rule"`
	// Mode is how far the rule may go since Changed, by By, for Reason. Where
	// Changed is 0 it was never changed and the rule's file says it.
	Mode    Mode   `json:"mode"`
	Changed Time   `json:"changed,omitempty"`
	By      string `json:"by,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Declared is what the rule's file said then, Was how far the rule could go
	// right before.
	Declared Mode `json:"declared"`
	Was      Mode `json:"was"`
	// Wrong and Right count the containments that were judged so.
	// Each counts once, by the newest verdict.
	Wrong     int  `json:"wrong,omitempty"`
	Right     int  `json:"right,omitempty"`
	LastWrong Time `json:"last_wrong,omitempty"`
	LastRight Time `json:"last_right,omitempty"`
}

// Steers reports whether the rule's mode was changed.
func (t RuleTrust) Steers() bool { return t.Changed != 0 }

// ModeOf returns how far a signal of the rule may go: a demotion holds for all of
// them, a promotion for those that were learned since. A promotion above what the
// rule's file says holds as long as the file says the same: whoever edits it to
// say less is heard.
func (t RuleTrust) ModeOf(s Signal) Mode { return t.modeAt(s.Mode, s.Learned) }

// Now returns how far the rule may go from now on, where its file says declared.
func (t RuleTrust) Now(declared Mode) Mode { return t.modeAt(declared, t.Changed) }

func (t RuleTrust) modeAt(declared Mode, learned Time) Mode {
	if !t.Steers() {
		return declared
	}
	m := t.Mode
	if m > declared && declared != t.Declared {
		m = declared
	}
	if learned < t.Changed {
		m = min(m, t.Was)
	}
	return m
}

// TrustEvent is one line of a rule's history.
type TrustEvent struct {
	V    int    `json:"v"`
	ID   string `json:"id"`
	Rule string `json:"rule"`
	// Kind is what happened.
	Kind TrustKind `json:"kind"`
	At   Time      `json:"at"`
	// By is who: a person, or "engine".
	By string `json:"by"`
	// Containment is the case that was judged.
	Containment string `json:"containment,omitempty"`
	// Corrects is the judgement of the same case that this one takes the place of.
	Corrects Judgement `json:"corrects,omitempty"`
	// From and To are the modes, where they were changed.
	From   Mode   `json:"from"`
	To     Mode   `json:"to"`
	Reason string `json:"reason,omitempty"`
}

// TrustKind is what happened to a rule.
type TrustKind string

// The kinds of events in a rule's history.
const (
	TrustWrong    TrustKind = "wrong"
	TrustRight    TrustKind = "right"
	TrustDemoted  TrustKind = "demoted"
	TrustPromoted TrustKind = "promoted"
)

// TrustEventID derives an event's id. key is the containment, or for a change by a
// person what tells it from others: the same rule, kind and key are the same event.
func TrustEventID(rule string, kind TrustKind, key string) string {
	return "tru_" + hashID("trust", rule, string(kind), key)[:20]
}

// LatestJudgements returns of a rule's history, the newest first, the judgement of each case
// that counts: the newest.
func LatestJudgements(history []TrustEvent) []TrustEvent {
	var out []TrustEvent
	seen := map[string]bool{}
	for _, ev := range history {
		if ev.Kind != TrustWrong && ev.Kind != TrustRight || seen[ev.Containment] {
			continue
		}
		seen[ev.Containment] = true
		out = append(out, ev)
	}
	return out
}

// RuleUse is what a rule has done by what the store has of it. Drills are left
// out.
type RuleUse struct {
	Rule string `json:"rule"`
	// Matches counts its signals, First and Last are the event times of the
	// earliest and the latest.
	Matches int  `json:"matches"`
	First   Time `json:"first,omitempty"`
	Last    Time `json:"last,omitempty"`
	// Decisions counts those above observe that it was a meaningful part of,
	// Containments the cases that they opened or raised.
	Decisions    int `json:"decisions"`
	Containments int `json:"containments"`
}

// Culprits returns the distinct sources and rules behind a suspicion, sorted:
// those that weigh at least a fifth of the weightiest.
func (s Suspicion) Culprits() (sources, rules []string) {
	most := 0.0
	for _, c := range s.Reasons {
		most = max(most, c.Weight)
	}
	for _, c := range s.Reasons {
		if c.Weight > 0 && c.Weight >= most/5 {
			sources, rules = append(sources, c.Source), append(rules, c.Rule)
		}
	}
	return distinct(sources), distinct(rules)
}

func distinct(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}
