package contain

import (
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// Case is everything durable about one containment.
type Case struct {
	Containment staunch.Containment
	Steps       []staunch.Step
	Holds       []staunch.Hold
}

// ActionKind is what is to be done next.
type ActionKind string

// The actions.
const (
	// DoNothing: the case waits until Action.At (0: for a person or evidence).
	DoNothing ActionKind = "nothing"
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
	// MaxAttempts bounds the calls for one step.
	MaxAttempts = 6
	// provingTime bounds how long a step may take to be proven.
	provingTime = 30 * time.Second
)

// SpecOf returns the declaration of the verb that a step uses.
type SpecOf func(staunch.Step) (connector.VerbSpec, bool)

// Advance returns what comes next. It is pure. fresh has the ids of steps whose
// intent this very process committed and has not called yet: those need no
// look; all others that are intended may have been sent by somebody who died.
func Advance(c Case, specs SpecOf, fresh map[string]bool, now staunch.Time) Action {
	con := c.Containment
	switch con.Phase {
	case staunch.PhaseOpen:
		return Action{Kind: DoPlan}
	case staunch.PhaseActing:
		return advanceActing(c, specs, fresh, now)
	case staunch.PhaseWindow:
		if con.Replan {
			return Action{Kind: DoPlan}
		}
		if con.WindowEnds != 0 && now >= con.WindowEnds {
			return Action{Kind: DoNextStage}
		}
		return Action{Kind: DoNothing, At: earliest(con.WindowEnds, con.Expires)}
	case staunch.PhaseHeld:
		if con.Replan {
			return Action{Kind: DoPlan}
		}
		if con.Expires != 0 && now >= con.Expires {
			return Action{Kind: DoExpire}
		}
		return Action{Kind: DoNothing, At: con.Expires}
	case staunch.PhaseReleasing:
		return advanceReleasing(c, now)
	case staunch.PhaseStuck:
		if con.Expires != 0 && now >= con.Expires {
			return Action{Kind: DoExpire}
		}
		return Action{Kind: DoNothing, At: con.Expires}
	default: // approval, released
		if con.Phase == staunch.PhaseApproval && con.Expires != 0 && now >= con.Expires {
			return Action{Kind: DoExpire}
		}
		if con.Phase == staunch.PhaseApproval {
			return Action{Kind: DoNothing, At: con.Expires}
		}
		return Action{Kind: DoNothing}
	}
}

func advanceActing(c Case, specs SpecOf, fresh map[string]bool, now staunch.Time) Action {
	// First everything that still has to be called, in order: the steps of one
	// realm depend on the ones before (NOLOGIN, then REVOKE, then terminate).
	for _, s := range c.Steps {
		switch s.State {
		case staunch.StepIntended:
			if s.NotBefore > now {
				return Action{Kind: DoNothing, At: s.NotBefore}
			}
			if fresh[s.ID] {
				return Action{Kind: DoApply, Step: s.ID}
			}
			return Action{Kind: DoLook, Step: s.ID}
		case staunch.StepUnknown, staunch.StepApplied:
			if s.NotBefore > now {
				return Action{Kind: DoNothing, At: s.NotBefore}
			}
			return Action{Kind: DoLook, Step: s.ID}
		}
	}
	// Then sweeps and proofs, whichever is due; otherwise wait for the next.
	var next staunch.Time
	for _, s := range c.Steps {
		if s.State != staunch.StepRead {
			continue
		}
		if s.NotBefore > now {
			next = earliest(next, s.NotBefore)
			continue
		}
		if spec, ok := specs(s); ok && s.Sweeps < len(spec.Sweeps) {
			return Action{Kind: DoSweep, Step: s.ID}
		}
		return Action{Kind: DoProve, Step: s.ID}
	}
	if next != 0 {
		return Action{Kind: DoNothing, At: next}
	}
	con := c.Containment
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
	// From the last to the first, since later steps may build on earlier ones.
	for i := len(c.Steps) - 1; i >= 0; i-- {
		s := c.Steps[i]
		switch s.State {
		case staunch.StepReverted, staunch.StepKept, staunch.StepVoid, staunch.StepDiverged:
			continue
		}
		if s.NotBefore > now {
			return Action{Kind: DoNothing, At: s.NotBefore}
		}
		return Action{Kind: DoRevert, Step: s.ID}
	}
	return Action{Kind: DoFinish}
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
