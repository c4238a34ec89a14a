// Package inventory says who a name is: it resolves refs to what is known of
// them as of an instant, finds what belongs to a subject and what came from it,
// and keeps the declared identities.
//
// Nothing here stores a resolution. Facts are append-only, and a fact that is
// learned later changes what the next question is answered, never what was
// stored about the past. Every answer is a function of the set of facts, not of
// the order in which they came (invariant I13); every walk is bounded, safe on
// cycles, and says when a bound cut it short where that changes the answer.
//
// # Time
//
// A membership (session → credential → account → identity) holds at an instant
// when it began no later than that instant plus the skew that sources are
// allowed, and has not ended before it; one whose beginning is not known holds
// until it ends. Names of one entity hold for all time: learning today that two
// names are one thing says so about yesterday too.
//
// # Trust
//
// Records teach which session used which credential of which account, on their
// own realm. That an account is a certain identity's is declared in
// identities.yaml and wins over what facts say; otherwise whoever can write a
// log line could borrow a protected identity's name.
package inventory
