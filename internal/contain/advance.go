package contain

import (
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// Case is everything durable about one containment.
type Case struct {
	Containment staunch.Containment
	Steps       []staunch.Step
	Holds       []staunch.Hold
	// Canary is what became of the case that this one waits for; it is set in
	// PhaseWaiting alone.
	Canary CanaryState
}

// ActionKind is what is to be done next.
type ActionKind string

// The actions.
const (
	// DoNothing: the case waits until Action.At (0: for a person or evidence).
	DoNothing ActionKind = "nothing"
	// DoDraw: expand and read, and commit what people are asked to approve.
	DoDraw ActionKind = "draw"
	// DoGo: the canary is proven or the wait is over; the case begins.
	DoGo ActionKind = "go"
	// DoStop: the canary failed; the case is left to a person.
	DoStop ActionKind = "stop"
	// DoPlan: expand, read and commit the stage's intents.
	DoPlan ActionKind = "plan"
	// DoApply: call Apply for Action.Step.
	DoApply ActionKind = "apply"
	// DoLook: the step's outcome is not known; read before anything else.
	DoLook ActionKind = "look"
	// DoSweep: call Apply once more, against the platform's races.
	DoSweep ActionKind = "sweep"
	// DoProve: read independently and probe.
	DoProve ActionKind = "prove"
	// DoJoin: another case's step makes the effect that Action.Step claims; see
	// what has become of it.
	DoJoin ActionKind = "join"
	// DoWindow: the stage is in force; its verification window opens.
	DoWindow ActionKind = "window"
	// DoNextStage: go to the next stage.
	DoNextStage ActionKind = "next_stage"
	// DoHold: every stage is in force.
	DoHold ActionKind = "hold"
	// DoExpire: the case has run out; do what its playbook says.
	DoExpire ActionKind = "expire"
	// DoRevert: commit the intent to undo Action.Step, then undo it.
	DoRevert ActionKind = "revert"
	// DoFinish: everything that is to be undone is; end the case.
	DoFinish ActionKind = "finish"
)

// Action is the next thing to do for a case.
type Action struct {
	Kind ActionKind
	// Step is the step's id, for the actions on a step.
	Step string
	// At is when to look again, for DoNothing.
	At staunch.Time
}

// Limits of what is tried before a person is asked.
const (
	// MaxAttempts bounds the calls for one step that do not have their effect.
	MaxAttempts = 6
	// MaxRefusals bounds the calls and reads for one step that the platform refuses
	// our credential, one after the other, before a person is asked: most often it
	// means it, but a proxy or a token that is just being renewed may not.
	MaxRefusals = 3
	// outageTime bounds how long a step is tried again while its platform cannot
	// be reached.
	outageTime = 15 * time.Minute
	// provingTime bounds how long a step may take to be proven.
	provingTime = 30 * time.Second
)

// mostPause is longer than the pauses that are taken between two tries and for
// calls without an answer.
const mostPause = 2 * time.Minute

// pausing reports whether a step has to wait. A time that lies further off than
// anything that it could be waiting for was set while the clock was wrong, and
// does not count: the step would be held up until then.
func pausing(s staunch.Step, longest time.Duration, now staunch.Time) bool {
	return s.NotBefore > now && s.NotBefore <= now.Add(longest)
}

// longestPause is how long a step may have to wait: for its effect to spread, for
// a sweep, or for another try.
func longestPause(spec connector.VerbSpec) time.Duration {
	longest := max(mostPause, spec.Propagation)
	for _, d := range spec.Sweeps {
		longest = max(longest, d)
	}
	return longest
}

// SpecOf returns the declaration of the verb that a step uses.
type SpecOf func(staunch.Step) (connector.VerbSpec, bool)

// Advance returns what comes next. It is pure. fresh has the ids of steps whose
// intent this very process committed and has not called yet: those need no
// look; all others that are intended may have been sent by somebody who died.
func Advance(c Case, specs SpecOf, fresh map[string]bool, now staunch.Time) Action {
	con := c.Containment
	ending := con.Phase == staunch.PhaseReleasing || con.Phase == staunch.PhaseReleased
	if !ending && con.Expires != 0 && now >= con.Expires {
		return Action{Kind: DoExpire} // whatever else goes on (invariant I8)
	}
	switch con.Phase {
	case staunch.PhaseOpen:
		return Action{Kind: DoPlan}
	case staunch.PhaseActing:
		return advanceActing(c, specs, fresh, now)
	case staunch.PhaseWindow:
		// The next stage's plan has in it what a child plan would.
		if con.WindowEnds != 0 && now >= con.WindowEnds {
			return Action{Kind: DoNextStage}
		}
		if con.Replan {
			return Action{Kind: DoPlan}
		}
		if a, ok := advanceShared(c); ok {
			return a
		}
		return Action{Kind: DoNothing, At: earliest(con.WindowEnds, con.Expires)}
	case staunch.PhaseHeld:
		if con.Replan {
			return Action{Kind: DoPlan}
		}
		if a, ok := advanceShared(c); ok {
			return a
		}
		return Action{Kind: DoNothing, At: con.Expires}
	case staunch.PhaseReleasing:
		return advanceReleasing(c, now)
	case staunch.PhaseStuck:
		// What was intended is carried out all the same: a plan that could not be
		// made must not stop the one before it half-way.
		if a, more := advanceSteps(c, specs, fresh, now); more && a.Kind != DoPlan {
			a.At = earliest(a.At, con.Expires)
			return a
		}
		return Action{Kind: DoNothing, At: con.Expires}
	case staunch.PhaseApproval:
		if con.Asked == nil {
			return Action{Kind: DoDraw}
		}
		return Action{Kind: DoNothing, At: con.Expires}
	case staunch.PhaseWaiting:
		return advanceWaiting(c, now)
	default: // released
		return Action{Kind: DoNothing}
	}
}

// advanceSteps returns what comes next for the steps; more is false when none
// is left to be called, swept, proven or joined.
func advanceSteps(c Case, specs SpecOf, fresh map[string]bool, now staunch.Time) (a Action, more bool) {
	// First everything that still has to be called. The steps of one realm depend
	// on the ones before (NOLOGIN, then REVOKE, then terminate), so one that has
	// to wait holds up its realm, until it has failed so often that the others
	// had better go on without it. Realms do not wait for each other.
	var next staunch.Time
	blocked := map[string]bool{}
	first := map[string]int{} // realm → the first that is still to be called
	for i, s := range c.Steps {
		if _, ok := first[s.Target.Ref.Realm]; !ok && calling(s.State) {
			first[s.Target.Ref.Realm] = i
		}
		if !calling(s.State) || blocked[s.Target.Ref.Realm] {
			continue
		}
		switch {
		case pausing(s, mostPause, now):
			next = earliest(next, s.NotBefore)
			blocked[s.Target.Ref.Realm] = s.Attempts < MaxAttempts-1
		case s.State == staunch.StepIntended && fresh[s.ID]:
			return Action{Kind: DoApply, Step: s.ID}, true
		default:
			return Action{Kind: DoLook, Step: s.ID}, true
		}
	}
	// Then sweeps and proofs, whichever is due; otherwise wait for the next. What
	// went on without a step before it is swept and proven after that one: sessions
	// that were ended come back until the login is closed.
	for i, s := range c.Steps {
		if at, ok := first[s.Target.Ref.Realm]; s.State != staunch.StepRead || ok && i > at {
			continue
		}
		spec, ok := specs(s)
		if pausing(s, longestPause(spec), now) {
			next = earliest(next, s.NotBefore)
			continue
		}
		if ok && s.Sweeps < len(spec.Sweeps) {
			return Action{Kind: DoSweep, Step: s.ID}, true
		}
		return Action{Kind: DoProve, Step: s.ID}, true
	}
	if next != 0 {
		return Action{Kind: DoNothing, At: next}, true
	}
	// Last what another case's step makes: it counts when that is proven.
	if a, ok := advanceShared(c); ok {
		if c.Containment.Replan {
			a = Action{Kind: DoPlan}
		}
		return a, true
	}
	return Action{}, false
}

// advanceShared looks for an effect that the case claims, that another case's step
// makes, and that is not proven; or not any more, since the other began to make it
// anew.
func advanceShared(c Case) (Action, bool) {
	for _, s := range c.Steps {
		if s.State == staunch.StepShared && holdOf(c, s).State != staunch.HoldProven {
			return Action{Kind: DoJoin, Step: s.ID}, true
		}
	}
	return Action{}, false
}

// calling reports whether a step in the state is still to be called or looked
// at: it cannot be said that its effect is there.
func calling(st staunch.StepState) bool {
	return st == staunch.StepIntended || st == staunch.StepUnknown || st == staunch.StepApplied
}

// over reports whether a release leaves a step in the state alone.
func over(st staunch.StepState) bool {
	switch st {
	case staunch.StepReverted, staunch.StepKept, staunch.StepVoid, staunch.StepDiverged:
		return true
	}
	return false
}

// holdOf returns the hold that a step claims, the zero Hold where the case has
// it not.
func holdOf(c Case, s staunch.Step) staunch.Hold {
	for _, h := range c.Holds {
		if h.ID == s.Hold {
			return h
		}
	}
	return staunch.Hold{}
}

func advanceActing(c Case, specs SpecOf, fresh map[string]bool, now staunch.Time) Action {
	con := c.Containment
	if a, more := advanceSteps(c, specs, fresh, now); more {
		if a.Kind == DoNothing {
			a.At = earliest(a.At, con.Expires)
		}
		return a
	}
	if con.Replan {
		return Action{Kind: DoPlan}
	}
	switch {
	case !hasNext(con):
		return Action{Kind: DoHold}
	case con.Playbook.Stages[con.Stage].Window > 0 && (con.WindowEnds == 0 || con.WindowEnds > now):
		// A child plan may have run inside the window; it does not start anew.
		return Action{Kind: DoWindow}
	default:
		return Action{Kind: DoNextStage}
	}
}

func advanceReleasing(c Case, now staunch.Time) Action {
	// From the last to the first, since later steps may build on earlier ones;
	// again realm by realm.
	var next staunch.Time
	blocked := map[string]bool{}
	for i := len(c.Steps) - 1; i >= 0; i-- {
		s := c.Steps[i]
		switch {
		case over(s.State) || blocked[s.Target.Ref.Realm]:
		case s.State == staunch.StepFailed && !claims(holdOf(c, s), c.Containment.ID):
			// Nothing of it was ever in force.
		case s.State == staunch.StepReverting && pausing(s, mostPause, now):
			next = earliest(next, s.NotBefore)
			blocked[s.Target.Ref.Realm] = s.Attempts < MaxAttempts-1
		default:
			return Action{Kind: DoRevert, Step: s.ID}
		}
	}
	if next != 0 {
		return Action{Kind: DoNothing, At: next}
	}
	return Action{Kind: DoFinish}
}

// claims reports whether the hold is active and the case claims it.
func claims(h staunch.Hold, id string) bool {
	return h.Active() && slices.Contains(h.Claims, id)
}

// hasNext reports whether the playbook has a further stage that the decided tier
// allows.
func hasNext(con staunch.Containment) bool {
	next := con.Stage + 1
	return next < len(con.Playbook.Stages) && con.Playbook.Stages[next].Tier <= con.Tier
}

// earliest returns the earlier of two instants of which 0 means never.
func earliest(a, b staunch.Time) staunch.Time {
	switch {
	case a == 0:
		return b
	case b == 0 || a < b:
		return a
	default:
		return b
	}
}
