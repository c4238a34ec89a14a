package contain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// When many automatic containments are asked for by one cause, a rule or a source,
// the first goes alone: it is the cause's canary. The others wait, with their
// places and nothing else, until the canary is proven. Where it fails they are
// left to people, who may approve each. The wait is bounded: who waited for long
// enough goes on all the same, since the canary did not fail. Which case is a
// cause's canary is a cursor of the cause, and counts for one window of the
// guardrails' counters.

// CanaryState is what became of a case that others wait for.
type CanaryState string

// The states of a canary.
const (
	// CanaryUnderWay: nobody knows yet.
	CanaryUnderWay CanaryState = "under way"
	// CanaryProven: its first stage is in force and proven.
	CanaryProven CanaryState = "proven"
	// CanaryFailed: a step of it failed, it is stuck, or it was ended before it had
	// an effect.
	CanaryFailed CanaryState = "failed"
)

// Bounds of a wait.
const (
	// MaxWait bounds the wait for a canary.
	MaxWait = 10 * time.Minute
	// canaryEvery is how often a canary that another node works on is looked at.
	canaryEvery = time.Second
)

// canaryState judges a canary. It is pure.
func canaryState(con staunch.Containment, steps []staunch.Step) CanaryState {
	if con.Phase == staunch.PhaseStuck {
		return CanaryFailed
	}
	for _, s := range steps {
		if s.State == staunch.StepFailed || s.State == staunch.StepDiverged {
			return CanaryFailed
		}
	}
	if con.EffectAt != 0 {
		return CanaryProven
	}
	switch con.Phase {
	case staunch.PhaseHeld, staunch.PhaseReleasing, staunch.PhaseReleased:
		return CanaryFailed
	}
	return CanaryUnderWay
}

// readCanary says what became of the case; one that is not there is waited for to
// the end.
func readCanary(r store.Reader, id string) (CanaryState, error) {
	con, err := r.Containment(id)
	if errors.Is(err, staunch.ErrNotFound) {
		return CanaryUnderWay, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the canary %s: %w", id, err)
	}
	steps, err := r.Steps(id)
	if err != nil {
		return "", fmt.Errorf("reading the steps of the canary %s: %w", id, err)
	}
	return canaryState(con, steps), nil
}

// advanceWaiting returns what comes next for a case that waits for its canary.
func advanceWaiting(c Case, now staunch.Time) Action {
	con := c.Containment
	switch {
	case c.Canary == CanaryProven:
		return Action{Kind: DoGo}
	case c.Canary == CanaryFailed:
		return Action{Kind: DoStop}
	case now >= con.WaitEnds, con.WaitEnds > now.Add(MaxWait): // the latter was set while the clock was wrong
		return Action{Kind: DoGo}
	}
	return Action{Kind: DoNothing, At: earliest(earliest(con.WaitEnds, con.Expires), now.Add(canaryEvery))}
}

// canary is the cursor of a cause.
type canary struct {
	Window int64        `json:"window"`
	Case   string       `json:"case"`
	Tier   staunch.Tier `json:"tier"`
}

func canaryCursor(cause string) string { return "canary/" + cause }

func canaryOf(r store.Reader, cause string) (canary, error) {
	c, _, err := store.ReadCursor[canary](r, canaryCursor(cause))
	return c, err
}

// follow has a new case wait where one of its causes has a canary that is not
// proven, or makes it the canary of those that have none yet. Of the cases that do
// not wait the lowest tier is the canary, and the first of those.
func follow(tx store.Tx, con *staunch.Containment, req OpenRequest, now staunch.Time) error {
	if len(req.Causes) == 0 || req.Planned != nil {
		return nil
	}
	lead := ""
	for _, cause := range req.Causes {
		first, err := canaryOf(tx, cause)
		if err != nil {
			return err
		}
		known := first.Case != "" && first.Window == req.Window
		if known && first.Case != con.ID && slices.Contains(req.Follows, cause) {
			state, err := readCanary(tx, first.Case)
			if err != nil {
				return err
			}
			if state != CanaryProven && lead == "" {
				lead = first.Case
			}
			continue
		}
		if known && first.Tier <= con.Tier {
			continue
		}
		if err := store.WriteCursor(tx, canaryCursor(cause), canary{Window: req.Window, Case: con.ID, Tier: con.Tier}); err != nil {
			return err
		}
	}
	con.Causes = req.Causes
	if lead != "" {
		con.Phase, con.Canary, con.WaitEnds = staunch.PhaseWaiting, lead, now.Add(min(req.Wait, MaxWait))
	}
	return nil
}

// endWait has a case that waited begin, or leaves it to people.
func (e *Engine) endWait(ctx context.Context, c Case, kind ActionKind) error {
	return e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		now := staunch.TimeOf(e.opt.Clock.Now())
		from := con.Phase
		con.WaitEnds = 0
		if kind == DoStop {
			con.Phase, con.Asked, con.Approvals = staunch.PhaseApproval, nil, nil
			con.Trouble = fmt.Sprintf("its canary %s failed, so nothing was done; look at both, then approve this or release it", con.Canary)
			if err := giveBack(tx, con.Caps); err != nil { // what waits for people has no places
				return err
			}
			con.Caps = nil
			if err := e.notices(tx, "trouble", *con, nil, now); err != nil {
				return err
			}
		} else {
			con.Phase = staunch.PhaseOpen
			if err := e.guardOwn(tx, *con, now); err != nil {
				return err
			}
		}
		return record(tx, staunch.RecordContainment, "engine", con.ID, now, map[string]any{
			"from": from, "phase": con.Phase, "canary": con.Canary, "canary_state": c.Canary, "trouble": con.Trouble,
		})
	})
}

// follows notes that this node saw a case waiting, to look at it as soon as its
// canary changes.
func (e *Engine) follows(c Case) {
	if c.Containment.Phase != staunch.PhaseWaiting {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	of := e.followers[c.Containment.Canary]
	if of == nil {
		of = map[string]bool{}
		e.followers[c.Containment.Canary] = of
	}
	of[c.Containment.ID] = true
}

// tellFollowers has those that wait for a case looked at where it changed in what
// they wait for. Those on other nodes look by themselves.
func (e *Engine) tellFollowers(tx store.Tx, was, is staunch.Containment) {
	if was.Phase == is.Phase && was.EffectAt == is.EffectAt && was.Trouble == is.Trouble {
		return
	}
	tx.OnCommit(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		of := e.followers[is.ID]
		delete(e.followers, is.ID)
		for _, id := range slices.Sorted(maps.Keys(of)) {
			e.kickLocked(id)
		}
	})
}
