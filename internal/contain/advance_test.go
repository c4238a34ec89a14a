package contain

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/store"
)

const testNow = staunch.Time(1_790_000_000_000_000)

var twoStages = staunch.Playbook{Name: "p", Stages: []staunch.Stage{
	{Tier: staunch.TierRestrict, Window: staunch.Duration(time.Minute)}, {Tier: staunch.TierRevoke},
}}

func step(id string, st staunch.StepState, change ...func(*staunch.Step)) staunch.Step {
	s := staunch.Step{
		ID: id, State: st, Hold: "hold-" + id, Containment: "con",
		Target: staunch.Target{Ref: staunch.Ref{Kind: staunch.KindAccount, Realm: "r", Scheme: "name", Value: id}, Attribute: "a"},
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

func hold(id string, st staunch.HoldState, claims ...string) staunch.Hold {
	return staunch.Hold{ID: "hold-" + id, Plane: staunch.PlanePlatform, State: st, Claims: claims}
}

func TestAdvance(t *testing.T) {
	later, earlier := testNow.Add(time.Minute), testNow.Add(-time.Minute)
	waits := func(s *staunch.Step) { s.NotBefore = later }
	elsewhere := func(s *staunch.Step) { s.Target.Ref.Realm = "other" }
	spec := func(s staunch.Step) (connector.VerbSpec, bool) {
		if s.ID == "swept" {
			return connector.VerbSpec{Sweeps: []time.Duration{time.Second}}, true
		}
		return connector.VerbSpec{}, s.ID != "unknown"
	}
	for name, tt := range map[string]struct {
		con   staunch.Containment
		steps []staunch.Step
		holds []staunch.Hold
		fresh []string
		want  Action

		canary CanaryState
	}{
		"approval":             {con: staunch.Containment{Phase: staunch.PhaseApproval, Expires: later, Asked: &staunch.Asked{}}, want: Action{Kind: DoNothing, At: later}},
		"approval, not drawn":  {con: staunch.Containment{Phase: staunch.PhaseApproval, Expires: later}, want: Action{Kind: DoDraw}},
		"waits":                {con: staunch.Containment{Phase: staunch.PhaseWaiting, WaitEnds: later}, canary: CanaryUnderWay, want: Action{Kind: DoNothing, At: testNow.Add(canaryEvery)}},
		"waits, not for long":  {con: staunch.Containment{Phase: staunch.PhaseWaiting, WaitEnds: testNow + 1}, canary: CanaryUnderWay, want: Action{Kind: DoNothing, At: testNow + 1}},
		"waited enough":        {con: staunch.Containment{Phase: staunch.PhaseWaiting, WaitEnds: testNow}, canary: CanaryUnderWay, want: Action{Kind: DoGo}},
		"a wrong clock":        {con: staunch.Containment{Phase: staunch.PhaseWaiting, WaitEnds: testNow.Add(time.Hour)}, canary: CanaryUnderWay, want: Action{Kind: DoGo}},
		"the canary lives":     {con: staunch.Containment{Phase: staunch.PhaseWaiting, WaitEnds: later}, canary: CanaryProven, want: Action{Kind: DoGo}},
		"the canary is dead":   {con: staunch.Containment{Phase: staunch.PhaseWaiting, WaitEnds: earlier}, canary: CanaryFailed, want: Action{Kind: DoStop}},
		"waited, ran out":      {con: staunch.Containment{Phase: staunch.PhaseWaiting, WaitEnds: later, Expires: testNow}, canary: CanaryUnderWay, want: Action{Kind: DoExpire}},
		"approval ran out":     {con: staunch.Containment{Phase: staunch.PhaseApproval, Expires: testNow}, want: Action{Kind: DoExpire}},
		"open":                 {con: staunch.Containment{Phase: staunch.PhaseOpen}, want: Action{Kind: DoPlan}},
		"open ran out":         {con: staunch.Containment{Phase: staunch.PhaseOpen, Expires: earlier}, want: Action{Kind: DoExpire}},
		"acting ran out":       {con: staunch.Containment{Phase: staunch.PhaseActing, Expires: earlier}, want: Action{Kind: DoExpire}},
		"released":             {con: staunch.Containment{Phase: staunch.PhaseReleased, Expires: earlier, Replan: true}, want: Action{Kind: DoNothing}},
		"fresh":                {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepIntended)}, fresh: []string{"a"}, want: Action{Kind: DoApply, Step: "a"}},
		"somebody's intent":    {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepIntended)}, want: Action{Kind: DoLook, Step: "a"}},
		"unknown":              {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepUnknown)}, fresh: []string{"a"}, want: Action{Kind: DoLook, Step: "a"}},
		"applied, not read":    {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepApplied)}, want: Action{Kind: DoLook, Step: "a"}},
		"backoff holds up":     {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepUnknown, waits), step("b", staunch.StepIntended)}, fresh: []string{"b"}, want: Action{Kind: DoNothing, At: later}},
		"its realm alone":      {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepUnknown, waits), step("b", staunch.StepIntended, elsewhere)}, fresh: []string{"b"}, want: Action{Kind: DoApply, Step: "b"}},
		"and not in an outage": {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepUnknown, waits, func(s *staunch.Step) { s.Attempts = MaxAttempts - 1 }), step("b", staunch.StepIntended)}, want: Action{Kind: DoLook, Step: "b"}},
		"proofs meanwhile":     {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("b", staunch.StepRead), step("a", staunch.StepUnknown, waits), step("c", staunch.StepRead)}, want: Action{Kind: DoProve, Step: "b"}},
		"proofs elsewhere":     {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepUnknown, waits), step("b", staunch.StepRead, elsewhere)}, want: Action{Kind: DoProve, Step: "b"}},
		"not before the first": {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepUnknown, waits), step("b", staunch.StepRead)}, want: Action{Kind: DoNothing, At: later}},
		"wakes to expire":      {con: staunch.Containment{Phase: staunch.PhaseActing, Expires: testNow + 1}, steps: []staunch.Step{step("a", staunch.StepUnknown, waits)}, want: Action{Kind: DoNothing, At: testNow + 1}},
		"sweep":                {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("swept", staunch.StepRead)}, want: Action{Kind: DoSweep, Step: "swept"}},
		"swept":                {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("swept", staunch.StepRead, func(s *staunch.Step) { s.Sweeps = 1 })}, want: Action{Kind: DoProve, Step: "swept"}},
		"no such connector":    {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("unknown", staunch.StepRead)}, want: Action{Kind: DoProve, Step: "unknown"}},
		"join":                 {con: staunch.Containment{Phase: staunch.PhaseActing}, steps: []staunch.Step{step("a", staunch.StepShared)}, holds: []staunch.Hold{hold("a", staunch.HoldInForce, "con", "x")}, want: Action{Kind: DoJoin, Step: "a"}},
		"join by a plan":       {con: staunch.Containment{Phase: staunch.PhaseActing, Replan: true}, steps: []staunch.Step{step("a", staunch.StepShared)}, holds: []staunch.Hold{hold("a", staunch.HoldFailed)}, want: Action{Kind: DoPlan}},
		"shared, made anew":    {con: staunch.Containment{Phase: staunch.PhaseHeld}, steps: []staunch.Step{step("a", staunch.StepShared)}, holds: []staunch.Hold{hold("a", staunch.HoldPending, "con", "x")}, want: Action{Kind: DoJoin, Step: "a"}},
		"shared in a window":   {con: staunch.Containment{Phase: staunch.PhaseWindow, WindowEnds: later}, steps: []staunch.Step{step("a", staunch.StepShared)}, holds: []staunch.Hold{hold("a", staunch.HoldPending, "con", "x")}, want: Action{Kind: DoJoin, Step: "a"}},
		"shared, the window's": {con: staunch.Containment{Phase: staunch.PhaseWindow, WindowEnds: testNow}, steps: []staunch.Step{step("a", staunch.StepShared)}, holds: []staunch.Hold{hold("a", staunch.HoldPending, "con", "x")}, want: Action{Kind: DoNextStage}},
		"joined":               {con: staunch.Containment{Phase: staunch.PhaseActing, Playbook: twoStages}, steps: []staunch.Step{step("a", staunch.StepShared)}, holds: []staunch.Hold{hold("a", staunch.HoldProven, "con", "x")}, want: Action{Kind: DoHold}},
		"replan":               {con: staunch.Containment{Phase: staunch.PhaseActing, Replan: true}, steps: []staunch.Step{step("a", staunch.StepProven)}, want: Action{Kind: DoPlan}},
		"window":               {con: staunch.Containment{Phase: staunch.PhaseActing, Playbook: twoStages, Tier: staunch.TierRevoke}, want: Action{Kind: DoWindow}},
		"back to the window":   {con: staunch.Containment{Phase: staunch.PhaseActing, Playbook: twoStages, Tier: staunch.TierRevoke, WindowEnds: later}, want: Action{Kind: DoWindow}},
		"window was cut short": {con: staunch.Containment{Phase: staunch.PhaseActing, Playbook: twoStages, Tier: staunch.TierRevoke, WindowEnds: earlier}, want: Action{Kind: DoNextStage}},
		"not beyond the tier":  {con: staunch.Containment{Phase: staunch.PhaseActing, Playbook: twoStages, Tier: staunch.TierIsolate}, want: Action{Kind: DoHold}},
		"last stage":           {con: staunch.Containment{Phase: staunch.PhaseActing, Playbook: twoStages, Tier: staunch.TierRevoke, Stage: 1}, want: Action{Kind: DoHold}},
		"in the window":        {con: staunch.Containment{Phase: staunch.PhaseWindow, WindowEnds: later}, want: Action{Kind: DoNothing, At: later}},
		"window, replan":       {con: staunch.Containment{Phase: staunch.PhaseWindow, WindowEnds: later, Replan: true}, want: Action{Kind: DoPlan}},
		"window is over":       {con: staunch.Containment{Phase: staunch.PhaseWindow, WindowEnds: testNow, Replan: true}, want: Action{Kind: DoNextStage}},
		"window, expiry first": {con: staunch.Containment{Phase: staunch.PhaseWindow, WindowEnds: later, Expires: later - 1}, want: Action{Kind: DoNothing, At: later - 1}},
		"window, ran out":      {con: staunch.Containment{Phase: staunch.PhaseWindow, WindowEnds: later, Expires: earlier}, want: Action{Kind: DoExpire}},
		"held":                 {con: staunch.Containment{Phase: staunch.PhaseHeld}, want: Action{Kind: DoNothing}},
		"held, replan":         {con: staunch.Containment{Phase: staunch.PhaseHeld, Replan: true}, want: Action{Kind: DoPlan}},
		"held, ran out":        {con: staunch.Containment{Phase: staunch.PhaseHeld, Expires: testNow, Replan: true}, want: Action{Kind: DoExpire}},
		"stuck":                {con: staunch.Containment{Phase: staunch.PhaseStuck, Replan: true}, want: Action{Kind: DoNothing}},
		"stuck, half-way":      {con: staunch.Containment{Phase: staunch.PhaseStuck}, steps: []staunch.Step{step("a", staunch.StepIntended)}, want: Action{Kind: DoLook, Step: "a"}},
		"stuck, ran out":       {con: staunch.Containment{Phase: staunch.PhaseStuck, Expires: testNow}, want: Action{Kind: DoExpire}},
		"undo the last first":  {con: staunch.Containment{ID: "con", Phase: staunch.PhaseReleasing, Expires: earlier}, steps: []staunch.Step{step("a", staunch.StepProven), step("b", staunch.StepProven), step("c", staunch.StepKept)}, want: Action{Kind: DoRevert, Step: "b"}},
		"undo is in backoff":   {con: staunch.Containment{ID: "con", Phase: staunch.PhaseReleasing}, steps: []staunch.Step{step("a", staunch.StepProven), step("b", staunch.StepReverting, waits)}, want: Action{Kind: DoNothing, At: later}},
		"undo elsewhere":       {con: staunch.Containment{ID: "con", Phase: staunch.PhaseReleasing}, steps: []staunch.Step{step("a", staunch.StepProven, elsewhere), step("b", staunch.StepReverting, waits)}, want: Action{Kind: DoRevert, Step: "a"}},
		"no wait for a sweep":  {con: staunch.Containment{ID: "con", Phase: staunch.PhaseReleasing}, steps: []staunch.Step{step("a", staunch.StepRead, waits)}, want: Action{Kind: DoRevert, Step: "a"}},
		"failed, nothing sent": {con: staunch.Containment{ID: "con", Phase: staunch.PhaseReleasing}, steps: []staunch.Step{step("a", staunch.StepFailed)}, holds: []staunch.Hold{hold("a", staunch.HoldFailed)}, want: Action{Kind: DoFinish}},
		"failed, may be there": {con: staunch.Containment{ID: "con", Phase: staunch.PhaseReleasing}, steps: []staunch.Step{step("a", staunch.StepFailed)}, holds: []staunch.Hold{hold("a", staunch.HoldPending, "con")}, want: Action{Kind: DoRevert, Step: "a"}},
		"undone":               {con: staunch.Containment{ID: "con", Phase: staunch.PhaseReleasing}, steps: []staunch.Step{step("a", staunch.StepReverted), step("b", staunch.StepVoid), step("c", staunch.StepDiverged)}, want: Action{Kind: DoFinish}},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.con.Playbook.Name == "" {
				tt.con.Playbook = twoStages
			}
			fresh := map[string]bool{}
			for _, id := range tt.fresh {
				fresh[id] = true
			}
			if got := Advance(Case{Containment: tt.con, Steps: tt.steps, Holds: tt.holds, Canary: tt.canary}, spec, fresh, testNow); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

var (
	allPhases = []staunch.Phase{
		staunch.PhaseApproval, staunch.PhaseWaiting, staunch.PhaseOpen, staunch.PhaseActing, staunch.PhaseWindow, staunch.PhaseHeld,
		staunch.PhaseReleasing, staunch.PhaseReleased, staunch.PhaseStuck,
	}
	allSteps = []staunch.StepState{
		staunch.StepIntended, staunch.StepApplied, staunch.StepUnknown, staunch.StepRead, staunch.StepProven, staunch.StepFailed,
		staunch.StepReverting, staunch.StepReverted, staunch.StepKept, staunch.StepDiverged, staunch.StepShared, staunch.StepVoid,
	}
	allHolds = []staunch.HoldState{
		staunch.HoldPending, staunch.HoldInForce, staunch.HoldProven, staunch.HoldReleasing, staunch.HoldReleased, staunch.HoldKept, staunch.HoldFailed,
	}
)

// model carries actions out in memory, the way the engine does when the platform
// does as it is told.
type model struct {
	Case
	fresh map[string]bool
	now   staunch.Time
}

func (m *model) step(id string) *staunch.Step {
	for i := range m.Steps {
		if m.Steps[i].ID == id {
			return &m.Steps[i]
		}
	}
	panic("no step " + id)
}

func (m *model) holdOf(s *staunch.Step) *staunch.Hold {
	for i := range m.Holds {
		if m.Holds[i].ID == s.Hold {
			return &m.Holds[i]
		}
	}
	return &staunch.Hold{}
}

func (m *model) do(a Action) {
	con := &m.Containment
	switch a.Kind {
	case DoNothing:
		m.now = max(m.now, a.At)
	case DoDraw:
		con.Asked = &staunch.Asked{}
	case DoGo:
		con.Phase, con.WaitEnds = staunch.PhaseOpen, 0
	case DoStop:
		con.Phase, con.WaitEnds = staunch.PhaseApproval, 0
	case DoPlan:
		for i := range m.Steps {
			s := &m.Steps[i]
			if h := m.holdOf(s); s.State == staunch.StepShared && h.State != staunch.HoldProven {
				s.State, h.State = staunch.StepIntended, staunch.HoldPending
			}
		}
		con.Phase, con.Replan = staunch.PhaseActing, false
	case DoApply, DoLook:
		delete(m.fresh, a.Step)
		s := m.step(a.Step)
		s.State, s.NotBefore = staunch.StepRead, m.now.Add(time.Second)
	case DoSweep:
		s := m.step(a.Step)
		s.Sweeps++
		s.NotBefore = m.now.Add(time.Second)
	case DoProve:
		s := m.step(a.Step)
		s.State, m.holdOf(s).State = staunch.StepProven, staunch.HoldProven
	case DoJoin:
		con.Replan = true
	case DoWindow:
		con.Phase = staunch.PhaseWindow
		if con.WindowEnds == 0 {
			con.WindowEnds = m.now.Add(time.Minute)
		}
	case DoNextStage:
		if !hasNext(*con) {
			con.Phase, con.WindowEnds = staunch.PhaseHeld, 0
			return
		}
		con.Stage++
		con.Phase, con.WindowEnds = staunch.PhaseOpen, 0
	case DoHold:
		con.Phase, con.WindowEnds = staunch.PhaseHeld, 0
	case DoExpire:
		con.Expires = 0
	case DoRevert:
		s := m.step(a.Step)
		s.State, m.holdOf(s).State = staunch.StepReverted, staunch.HoldReleased
	case DoFinish:
		con.Phase = staunch.PhaseReleased
	}
}

// TestAdvanceEnds: from wherever a case stands, with any two steps in any states
// on holds in any states, it comes to wait for a person or evidence, and nothing
// is then left half-way.
func TestAdvanceEnds(t *testing.T) {
	const most = 60
	specs := func(staunch.Step) (connector.VerbSpec, bool) {
		return connector.VerbSpec{Sweeps: []time.Duration{time.Second}}, true
	}
	run := func(phase staunch.Phase, a, b staunch.StepState, h staunch.HoldState, replan, expires, fresh bool) error {
		m := &model{
			Case: Case{
				Containment: staunch.Containment{ID: "con", Phase: phase, Playbook: twoStages, Tier: staunch.TierRevoke, Replan: replan},
				Steps:       []staunch.Step{step("a", a), step("b", b, func(s *staunch.Step) { s.NotBefore = testNow.Add(time.Second) })},
				Holds:       []staunch.Hold{hold("a", h, "con"), hold("b", staunch.HoldInForce, "con", "x")},
			},
			fresh: map[string]bool{"a": fresh}, now: testNow,
		}
		if expires {
			m.Containment.Expires = testNow.Add(2 * time.Second)
		}
		if phase == staunch.PhaseWaiting {
			m.Containment.WaitEnds = testNow.Add(3 * time.Second)
			m.Canary = []CanaryState{CanaryUnderWay, CanaryProven, CanaryFailed}[(len(a)+len(b))%3]
		}
		for range most {
			act := Advance(m.Case, specs, m.fresh, m.now)
			if act.Kind == DoNothing && act.At != 0 && act.At <= m.now {
				return fmt.Errorf("waits for %d at %d", act.At, m.now)
			}
			if act.Kind == DoNothing && act.At == 0 {
				switch p := m.Containment.Phase; p {
				case staunch.PhaseApproval, staunch.PhaseReleased:
					return nil
				case staunch.PhaseHeld, staunch.PhaseWindow, staunch.PhaseStuck:
					if p != staunch.PhaseStuck && m.Containment.Replan {
						return fmt.Errorf("%s with a plan to be made", p)
					}
					for _, s := range m.Steps {
						if p == phase {
							break // Held and window are come to only when the steps are over
						}
						if making(s.State) {
							return fmt.Errorf("%s with step %s %s", p, s.ID, s.State)
						}
					}
					return nil
				default:
					return fmt.Errorf("waits for ever in phase %s", p)
				}
			}
			m.do(act)
		}
		return fmt.Errorf("no end after %d actions: %+v", most, m.Case)
	}
	n := 0
	for _, phase := range allPhases {
		for _, a := range allSteps {
			for _, b := range allSteps {
				for _, h := range allHolds {
					for bits := range 8 {
						n++
						if err := run(phase, a, b, h, bits&1 != 0, bits&2 != 0, bits&4 != 0); err != nil {
							t.Fatalf("%s, steps %s and %s, hold %s, bits %b: %v", phase, a, b, h, bits, err)
						}
					}
				}
			}
		}
	}
	if want := 9 * 12 * 12 * 7 * 8; n != want {
		t.Errorf("%d combinations, want %d", n, want)
	}
}

func TestClockWatch(t *testing.T) {
	start := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	var w clockWatch
	w.begin(start, start)
	hour := start.Add(time.Hour)
	for name, tt := range map[string]struct {
		wall, steady, database time.Time
		jumped                 bool
	}{
		"in step":             {hour, hour, hour, false},
		"a little off":        {hour.Add(4 * time.Minute), hour, hour, false},
		"set forward":         {hour.Add(6 * time.Minute), hour, hour.Add(6 * time.Minute), true},
		"set back":            {hour.Add(-6 * time.Minute), hour, hour.Add(-6 * time.Minute), true},
		"off to the database": {hour, hour, hour.Add(6 * time.Minute), true},
	} {
		t.Run(name, func(t *testing.T) {
			if off := w.off(tt.wall, tt.steady, tt.database); off > mostJump != tt.jumped {
				t.Errorf("off by %s", off)
			}
		})
	}
}

// steps is a reader that has steps alone.
type steps struct {
	store.Reader
	by map[string]staunch.Step
}

func (r steps) Step(id string) (staunch.Step, error) { return r.by[id], nil }

// TestMaker says whom a case that shares a hold may wait for.
func TestMaker(t *testing.T) {
	for name, c := range map[string]struct {
		hold  staunch.HoldState
		steps []staunch.StepState // the earliest first
		want  int                 // which of them makes it; -1 for none
	}{
		"under way":                      {staunch.HoldPending, []staunch.StepState{staunch.StepIntended}, 0},
		"proven":                         {staunch.HoldProven, []staunch.StepState{staunch.StepProven}, 0},
		"made anew":                      {staunch.HoldInForce, []staunch.StepState{staunch.StepProven, staunch.StepRead}, 1},
		"made anew, which failed":        {staunch.HoldInForce, []staunch.StepState{staunch.StepProven, staunch.StepFailed}, -1},
		"made anew, which did not touch": {staunch.HoldProven, []staunch.StepState{staunch.StepProven, staunch.StepFailed}, 0},
		"left by who let go":             {staunch.HoldProven, []staunch.StepState{staunch.StepKept}, 0},
		"let go":                         {staunch.HoldInForce, []staunch.StepState{staunch.StepKept}, -1},
		"failed":                         {staunch.HoldFailed, []staunch.StepState{staunch.StepProven}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			r := steps{by: map[string]staunch.Step{}}
			h := hold("x", c.hold, "con")
			for i, st := range c.steps {
				s := step(fmt.Sprint(i), st)
				h.Steps, r.by[s.ID] = append(h.Steps, s.ID), s
			}
			m, ok, err := maker(r, h)
			if err != nil || ok != (c.want >= 0) || ok && m.ID != fmt.Sprint(c.want) {
				t.Errorf("%q, %v, %v", m.ID, ok, err)
			}
		})
	}
}

// TestOutlived says what a release may let in again because it has run out.
func TestOutlived(t *testing.T) {
	token := staunch.Ref{Kind: staunch.KindSession, Realm: "r", Scheme: "jti", Value: "t"}
	denied := func(ref staunch.Ref, since staunch.Time, change ...func(*staunch.Hold)) staunch.Hold {
		h := staunch.Hold{Plane: staunch.PlaneGuard, Target: staunch.Target{Ref: ref}, State: staunch.HoldInForce, Deny: []string{"*"}, Claims: []string{"con"}, Since: since}
		for _, f := range change {
			f(&h)
		}
		return h
	}
	login := step("x", staunch.StepProven, func(s *staunch.Step) { s.Intent.Revives, s.Intent.Undo = true, "LOGIN" })
	for name, c := range map[string]struct {
		holds []staunch.Hold
		steps []staunch.Step
		says  string // "" for what may be released
	}{
		"denied for longer":      {holds: []staunch.Hold{denied(token, testNow.Add(-time.Hour))}},
		"denied for less":        {holds: []staunch.Hold{denied(token, testNow.Add(-59*time.Minute))}, says: "has run out at " + testNow.Add(time.Minute).String()},
		"another denies it, too": {holds: []staunch.Hold{denied(token, testNow, func(h *staunch.Hold) { h.Claims = []string{"con", "other"} })}},
		"a password":             {holds: []staunch.Hold{hold("x", staunch.HoldProven, "con")}, steps: []staunch.Step{login}, says: "LOGIN"},
		"who, and no secret":     {holds: []staunch.Hold{denied(staunch.IdentityRef("bob"), testNow)}},
	} {
		t.Run(name, func(t *testing.T) {
			err := outlived(Case{Containment: staunch.Containment{ID: "con"}, Holds: c.holds, Steps: c.steps}, staunch.Duration(time.Hour), testNow)
			if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, staunch.ErrConflict) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v", err)
			}
		})
	}
}
