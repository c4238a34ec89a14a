// Package decide turns accusations into decisions: how sure we are that a
// subject is compromised (suspicion), what policy makes of that, and whether
// the guardrails let it happen.
//
// Everything but the guardrails is a pure function of its input. There is no
// clock, no look-up and no memory, so that a stored decision can be replayed
// and the same signals in any order give the same answer (invariant I13).
//
// # Suspicion
//
// A signal s weighs, as of an instant T,
//
//	w(s) = confidence · 2^(−(T − time of s) / half-life) · roll-up^hops
//
// where hops is how many memberships lie between what the signal accuses and
// the subject (session → credential → account → identity). Roll-up only goes
// up: sibling sessions do not accuse each other. T is the event time of the
// latest signal that counts, never the time of day, so that late delivery
// changes nothing. Signals older than the horizon (ten half-lives) count
// nothing.
//
// Signals of one rule say the same thing again, so repeats add little. With the
// rule's signals in order of weight,
//
//	g = 1 − (1 − w₁) · (1 − repeat · (1 − Π_{i≥2} (1 − wᵢ)))
//
// so that any number of repeats close at most a tenth (repeat, 0.1) of the gap
// that the strongest leaves. Who gathers the evidence gives at most twenty of one
// rule against one ref. Different rules count as independent evidence,
// which is for their authors to see to: two rules that always fire together
// should be one rule, or carry half the confidence each.
//
//	confidence = 1 − Π_rules (1 − g)
//
// rounded to nine places. Adding a signal of the same instant never lowers it.
//
// The ceiling is the highest tier that a source with a meaningful part allows,
// meaningful being a confidence of at least 0.2 from that source's signals
// alone. When two or more sources each have a meaningful part, it is one tier
// higher. When none has, it is the highest of their ceilings, at most restrict.
//
// Independent are the origins (a source, or several that are configured to share
// one) whose own signals make a meaningful part. A correlation over more than one
// of them counts for none. In production the revoke tier needs two (revoke_sources),
// unless a person approves.
//
// # Views
//
// The same arithmetic is done for four nested sets of signals, called views:
// enforce (the rule's mode is enforce and the event's time is within its
// source's bounds), inform (the same at any standing), recommend (mode
// recommend or enforce, any standing) and shadow (all). Only the first can
// contain. A rule's mode is its file's, unless it was promoted or demoted since:
// Steer puts that in its place, and the input keeps what it used. When it asks for
// nothing, the others say what would have been done,
// and why it was not: the evidence was late, the rule only recommends, or the
// rule is being tried in the shadow.
//
// # Policy
//
// Policies are data: a `match:` whose keys are all required and whose lists
// are alternatives, a CEL `when:` over one closed struct, and a `then:` with a
// ladder from confidence to tier. The policy that decides is the first in
// (priority descending, id ascending) whose match and when hold; no other has
// any say. Match is indexed, so that the cost hardly grows with the number of
// policies; policies without a match are tried one by one.
//
// The tier is the ladder's for the confidence, at most the ceiling, and at most
// isolate for identities that nobody declared (`unmanaged:` changes that). The
// mode is the lower of the policy's and the engine's. Tolerance staged takes
// the staged playbook up to the tier; tolerance never waits for a person.
//
// # Guardrails
//
// Admit is the brake on the brake: protected subjects, breakers, groups' health, and
// places reserved by conditional updates in the decision's own transaction. What is
// asked for counts for the breakers, whatever the caps refuse of it; Heard is who is
// listened to while one is open. Which containments have to follow a canary is said
// here, and carried out by package contain.
package decide
