package staunch

import "encoding/json"

// Signal is one accusation: a rule or an outside detector says of a subject
// that it is compromised, how surely, and by what evidence.
type Signal struct {
	V  int    `json:"v"`
	ID string `json:"id"`
	// Rule is the rule's id, or "source:NAME" of an outside detector's finding.
	Rule  string `json:"rule"`
	Title string `json:"title,omitempty"`
	// Bundle is the hash of the configuration bundle whose rule it was.
	Bundle string `json:"bundle"`
	// Accused is the subject, a name taken from the record alone.
	Accused Ref `json:"accused"`
	// Refs has what else the record named of the actor, narrowest first.
	Refs []Ref `json:"refs,omitempty"`
	// Confidence is in (0,1].
	Confidence float64  `json:"confidence"`
	Techniques []string `json:"techniques,omitempty"`
	// Frameworks has what the rule's tags name of other lists, as they stand there
	// ("atlas.aml.t0012", "owasp-nhi.nhi5").
	Frameworks []string `json:"frameworks,omitempty"`
	Event      string   `json:"event"`
	// Events has the ids of the events that a correlation put together, the
	// oldest first; of many, the newest.
	Events []string `json:"events,omitempty"`
	Source string   `json:"source"`
	Realm  string   `json:"realm"`
	// Origin is what the source tells of, where it is configured to share that with
	// other sources; "" is the source itself. Sources of one origin are one witness.
	Origin string `json:"origin,omitempty"`
	// Origins has the origins of a correlation's events where they are more than
	// one: such a signal is nobody's own.
	Origins []string `json:"origins,omitempty"`
	// Drill is the id of the exercise that it belongs to, "" for a real one.
	Drill string `json:"drill,omitempty"`
	// Ceiling is the highest tier that this source's signals may cause alone.
	Ceiling Tier `json:"ceiling"`
	// Mode is the rule's mode.
	Mode     Mode     `json:"mode"`
	Standing Standing `json:"standing"`
	Time     Time     `json:"time"`
	Learned  Time     `json:"learned"`
	// Evidence says in a sentence what was seen; it carries no secrets.
	Evidence string `json:"evidence,omitempty"`
	// Author and License are the rule's, shown wherever the match is shown.
	Author  string `json:"author,omitempty"`
	License string `json:"license,omitempty"`
	// References are the rule's.
	References []string `json:"references,omitempty"`
}

// Credit says whose a rule is and under which licence, "" where it does not say.
func Credit(author, license string) string {
	switch {
	case author != "" && license != "":
		return "by " + author + ", licence " + license
	case author != "":
		return "by " + author
	case license != "":
		return "licence " + license
	}
	return ""
}

// SignalID derives the id of a single-event signal: the same rule, subject and
// event always give the same signal, however often it is delivered.
func SignalID(rule string, accused Ref, event string) string {
	return "sig_" + stamped(stampOf(event), hashID("signal", rule, accused.String(), event))
}

// CorrelationSignalID derives the id of a correlation's signal: the same rule,
// accused, group and window always give the same signal, in whatever order and
// however often the events come.
func CorrelationSignalID(rule string, accused Ref, group, window string) string {
	return "sig_" + hashID("correlation", rule, accused.String(), group, window)
}

// Suspicion is the confidence that a subject is compromised, as of an instant,
// with the reasons that made it.
type Suspicion struct {
	Subject    Ref     `json:"subject"`
	Confidence float64 `json:"confidence"`
	// Ceiling is the highest tier that the contributing sources allow.
	Ceiling Tier `json:"ceiling"`
	AsOf    Time `json:"as_of"`
	// Reasons has the contributing signals, the weightiest first.
	Reasons []Contribution `json:"reasons,omitempty"`
}

// Contribution is one signal's part in a suspicion.
type Contribution struct {
	Signal string  `json:"signal"`
	Rule   string  `json:"rule"`
	Source string  `json:"source"`
	Weight float64 `json:"weight"`
	// Why says what lowered the weight: decay, roll-up, standing, mode.
	Why string `json:"why,omitempty"`
}

// Verdict is what became of a decision.
type Verdict string

// The verdicts.
const (
	// VerdictObserve: the suspicion asks for nothing but watching.
	VerdictObserve Verdict = "observe"
	// VerdictShadow: it would have contained, but something is in shadow mode.
	VerdictShadow Verdict = "shadow"
	// VerdictRecommend: people were told what it would have done.
	VerdictRecommend Verdict = "recommend"
	// VerdictContain: a containment was opened or raised.
	VerdictContain Verdict = "contain"
	// VerdictHeld: a containment at this tier or above is already in force.
	VerdictHeld Verdict = "held"
	// VerdictProtected: the subject is protected; people were told.
	VerdictProtected Verdict = "protected"
	// VerdictCapped: a cap had no place left; people were told.
	VerdictCapped Verdict = "capped"
	// VerdictBreaker: a breaker is open in this scope; people were told.
	VerdictBreaker Verdict = "breaker"
	// VerdictApproval: it waits for a person (tolerance never, or policy).
	VerdictApproval Verdict = "approval"
	// VerdictInform: the evidence may inform but never enforce (late, future).
	VerdictInform Verdict = "inform"
)

// Decision is what policy made of a suspicion. It stores its inputs, so that
// it can be replayed.
type Decision struct {
	V       int    `json:"v"`
	ID      string `json:"id"`
	Subject Ref    `json:"subject"`
	// Scope is what is to be contained: Subject, or something wider with the
	// reason for widening.
	Scope       Ref    `json:"scope"`
	ScopeReason string `json:"scope_reason,omitempty"`
	// AsOf is the instant the suspicion was computed for: the event time of the
	// latest signal.
	AsOf      Time      `json:"as_of"`
	Made      Time      `json:"made"`
	Signals   []string  `json:"signals"`
	Suspicion Suspicion `json:"suspicion"`
	// Identity is the snapshot that policy saw.
	Identity Identity `json:"identity"`
	Bundle   string   `json:"bundle"`
	Policy   string   `json:"policy,omitempty"`
	Tier     Tier     `json:"tier"`
	Mode     Mode     `json:"mode"`
	Playbook string   `json:"playbook,omitempty"`
	Verdict  Verdict  `json:"verdict"`
	// Reasons says why, one sentence each, in the order they were found.
	Reasons []string `json:"reasons,omitempty"`
	// Containment is the case that it opened or raised.
	Containment string `json:"containment,omitempty"`
	// Notify names the channels to tell.
	Notify []string `json:"notify,omitempty"`
	// Inputs is the closed struct that CEL saw, for replay.
	Inputs json.RawMessage `json:"inputs,omitempty"`
	// Drill is the id of the exercise that it belongs to, "" for a real one.
	Drill string `json:"drill,omitempty"`
}

// DecisionID derives a decision's id from its subject, its inputs' signal ids
// and the bundle.
func DecisionID(subject Ref, bundle string, signals []string) string {
	var newest Time
	for _, s := range signals {
		newest = max(newest, stampOf(s))
	}
	return "dec_" + stamped(newest, hashID("decision", append([]string{subject.String(), bundle}, signals...)...))
}
