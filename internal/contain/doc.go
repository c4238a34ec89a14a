// Package contain is the executor: it turns an admitted decision into explicit
// intents, carries them out, proves them, and puts everything back.
//
// It is a state machine on SQL. [Advance] is pure: from the durable case and
// the time it names the next [Action], so a case resumes after a crash, can be
// simulated and can be replayed. [Engine] carries actions out and commits what
// came of them.
//
// # Order of work
//
// Open (T1, in the transaction of the decision) makes the case, its guard hold
// and its record. Then, for each stage of the playbook: Expand asks the
// platforms what exists now, Read takes the pre-images, and one transaction
// (T2) commits the plan, every intent with its sealed pre-image, and the
// pending platform holds. Only then is anything called. Each step is called,
// read back, and committed with its receipt and post-image; later it is swept
// again where the platform has races, and proven by an independent read and
// probe. A stage that is proven opens its verification window, or the next
// stage, or holds.
//
// # After a crash
//
// A step whose intent is durable and that has no receipt may or may not have
// been sent. This is never guessed: the target is read first, and called again
// only where the read says that nothing happened. A commit that fails or whose
// outcome is unknown ends the work on the case until it has been read anew.
//
// # Phases
//
//	approval ─► open ─► acting ─► window ─► open (next stage)
//	                        │        └────► releasing
//	                        ├─► held ─► releasing ─► released
//	                        └─► stuck ─► releasing
//
// A decision of a higher tier takes window and held back to open at the stage
// that the tier asks for. A higher generation never loses to a lower one: each
// commit reads the case again and gives up when the generation has moved.
package contain
