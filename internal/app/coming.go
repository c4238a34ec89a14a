package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/contain"
)

// Bounds of what is asked of the platforms for a person who looks at a case.
const (
	// comingTimeout is how long a person waits for all of a case's stages.
	comingTimeout = 4 * time.Second
	// comingFor is how long an answer stands, so that looking again and again takes
	// nothing from what the platforms let containments ask.
	comingFor = 10 * time.Second
	// maxComing bounds the answers that are kept.
	maxComing = 256
)

// comings keeps what was last found of the coming stages of cases. The zero value is
// ready.
type comings struct {
	mu   sync.Mutex
	kept map[comingKey]coming
}

// comingKey is a case as it was when it was asked for.
type comingKey struct {
	id         string
	generation int64
	phase      staunch.Phase
	stage      int
}

type coming struct {
	until  time.Time
	stages []api.ComingStage
}

func (c *comings) get(k comingKey, now time.Time) ([]api.ComingStage, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.kept[k]
	return cloneComing(v.stages), ok && now.Before(v.until)
}

func (c *comings) put(k comingKey, stages []api.ComingStage, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) >= maxComing || c.kept == nil {
		c.kept = map[comingKey]coming{} // a person looks at few
	}
	c.kept[k] = coming{until: now.Add(comingFor), stages: cloneComing(stages)}
}

// cloneComing copies what an answer may have taken out of it.
func cloneComing(stages []api.ComingStage) []api.ComingStage {
	var out []api.ComingStage
	for _, s := range stages {
		s.Steps, s.Gaps = append([]staunch.AskedStep{}, s.Steps...), append([]staunch.Gap(nil), s.Gaps...)
		out = append(out, s)
	}
	return out
}

// Coming implements api.Cases. It asks the platforms only while there is time to
// read the answer: in a verification window, and while a canary is waited for.
func (c cases) Coming(ctx context.Context, con staunch.Containment, steps []staunch.Step) []api.ComingStage {
	from, begins := con.Stage+1, con.WindowEnds
	switch con.Phase {
	case staunch.PhaseWindow:
	case staunch.PhaseWaiting:
		from, begins = con.Stage, con.WaitEnds
	default:
		return nil
	}
	k := comingKey{con.ID, con.Generation, con.Phase, con.Stage}
	out, ok := c.a.comings.get(k, c.a.opt.Clock.Now())
	if !ok {
		var have []staunch.AskedStep
		for _, s := range steps {
			switch s.State {
			case staunch.StepFailed, staunch.StepVoid, staunch.StepReverted:
			default:
				have = append(have, staunch.AskedStep{Target: s.Target, Verb: s.Verb})
			}
		}
		ctx, cancel := context.WithTimeout(ctx, comingTimeout)
		defer cancel()
		out = c.stages(ctx, con, from, have)
		c.a.comings.put(k, out, c.a.opt.Clock.Now())
	}
	if len(out) > 0 {
		out[0].Begins = begins // it may have been put off since
	}
	return out
}

// stages says what the stages of a case from one on would do that is not among have.
func (c cases) stages(ctx context.Context, con staunch.Containment, from int, have []staunch.AskedStep) []api.ComingStage {
	type key struct{ target, verb string }
	seen := map[key]bool{}
	for _, s := range have {
		seen[key{s.Target.Key(), string(s.Verb)}] = true
	}
	var out []api.ComingStage
	for con.Stage = from; con.Stage < len(con.Playbook.Stages); con.Stage++ {
		stage := con.Playbook.Stages[con.Stage]
		if stage.Tier > con.Tier {
			break // that takes another decision
		}
		at := api.ComingStage{Stage: con.Stage, Tier: stage.Tier, Window: stage.Window, Deny: stage.Deny, Steps: []staunch.AskedStep{}}
		d, err := c.a.engine.Preview(ctx, con)
		if err != nil {
			at.Error = fmt.Sprintf("the platforms could not be asked: %v", err)
		}
		at.Gaps = d.Gaps
		for _, s := range contain.AskedSteps(d) {
			if k := (key{s.Target.Key(), string(s.Verb)}); !seen[k] {
				seen[k] = true
				at.Steps = append(at.Steps, s)
			}
		}
		out = append(out, at)
	}
	return out
}
