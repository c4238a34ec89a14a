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
// pending platform holds. Only then is anything called. Each step is called and
// read back before the next on its realm is; the receipts and post-images of such
// a run share a commit. Later a step is swept again where the platform has races,
// and proven by an independent read and probe, which wait while other cases still
// have access to take away. A stage that is proven opens its verification window, or the next
// stage, or holds.
//
// A realm that is down or refuses us holds up nobody else: its part is a gap
// and is planned again, and its steps are tried again for a quarter of an hour.
//
// What a commit of this process left is known without a read (job.known): it says
// only what to do next. Each commit reads the case again, a kick has it forgotten,
// and nothing is waited for by it.
//
// A plan file (PlanFile, OpenPlanned) is a plan that was drawn before and is carried
// out as it stands: its case begins with T1 and T2 in one.
//
// # After a crash
//
// A step whose intent is durable and that has no receipt may or may not have
// been sent. This is never guessed: the target is read first, and called again
// only where the read says that nothing happened. A commit that fails or whose
// outcome is unknown ends the work on the case until it has been read anew. A
// call that changes something is made only under the case's lease, and a release
// waits until a call without an answer cannot arrive any more.
//
// # Holds that cases share
//
// A platform hold lists the steps that made its effect, in order, whichever case
// they belong to, and the cases that claim it. Who comes later and wants the same
// claims it (a shared step) and waits until it is proven; when its maker fails or
// is released before that, the case makes a step of its own. A release leaves the
// effect to the other claims; the last one undoes all of the hold's steps, the
// last first, each committed before the one under it. A pre-image counts only
// while the hold on its target is as it was when the target was read. A hold that
// was kept (irreversible, or left to a person) is shared with nobody: the next
// case begins a hold of its own.
//
// A guard hold denies what its claims ask for together, and less when one goes.
//
// # Phases
//
//	waiting ─► approval
//	   │          │
//	   ▼          ▼
//	  open ─► acting ─► window ─► open (next stage)
//	            │         └────► releasing
//	            ├─► held ─► releasing ─► released
//	            └─► stuck ─► releasing
//
// A case that waits for people has its plan drawn, and goes on when as many as it
// takes have approved that plan and the scope (Approve). One that waits for the
// canary of its cause goes on when that is proven or the wait is over, and waits for
// people when it failed (CanaryState).
//
// A decision of a higher tier takes window and held back to open at the stage
// that the tier asks for, and never takes less away than what is in force. What a
// person has to approve waits in a case of its own beside what is in force. Every
// phase but the last two can run out; stuck carries out what was intended and is
// released once more by a person, who then leaves what cannot be put back. A higher generation never loses to a lower one: each
// commit reads the case again and gives up when the generation has moved.
package contain
