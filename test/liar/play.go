package liar

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

// Subject is something to be contained through a server that lies.
type Subject struct {
	// Name is for people.
	Name string
	Ref  staunch.Ref
	Tier staunch.Tier
	// User is whose sessions may be ended, as the platform's log names it; it may
	// be empty.
	User string
	// Alive asks the real platform whether the target lets the subject in.
	Alive func(t staunch.Target) (bool, error)
	// State returns all that a release has to put back, as the real platform has
	// it, or nil where nothing comes back.
	State func() (string, error)
	// Try has the thief try to come in; nil does nothing. It is called now and
	// then.
	Try func()
	// Again is called before it is contained a second time; nil does nothing.
	Again func()
}

// Play contains subjects while the deck lies and judges what is said of them.
type Play struct {
	API  *client.Client
	Deck *Deck
	// Subject makes the subject with that number.
	Subject func(n int) Subject
	// AtOnce is how many are contained at a time, Fewest and Most how many at all:
	// between them new ones come until every lie was told.
	AtOnce, Fewest, Most int
	// Lying bounds how long it lies, Patience how long it may take afterwards
	// until every case has come to rest.
	Lying, Patience time.Duration
}

// lookEvery is the pause between two looks at all cases.
const lookEvery = 60 * time.Millisecond

// thiefTries is after how many looks the thief tries to come in.
const thiefTries = 8

// actor is a subject with its case.
type actor struct {
	Subject
	before string // its State
	// id is the case's; last is it as it was seen last.
	id   string
	last api.Case
	// round counts the containments.
	round int
	// releasing says that it was asked to be released.
	releasing bool
	over      bool // it rests until the lies have ended
	// proven has the steps that were said to be proven, once each round.
	proven map[string]bool
	looks  int
	// checked says that all that is proven was looked at once more at rest.
	checked bool
}

// Outcome counts what came of a play.
type Outcome struct {
	Cases, Proven, Restored int
	// GivenUp counts the cases that came to wait for a person, by the beginning of
	// what they say.
	GivenUp map[string]int
	// Steps has the steps by their ids, Users the subjects' by the cases'.
	Steps map[string]staunch.Step
	Users map[string]string
}

// Run plays it. While it lies, each subject is contained, released as soon as its
// case has come to rest, and contained once more. Then the truth is told: each
// case has to come to rest, and to be released when it is asked to be.
//
// It fails tb where a step is said to be proven and the real platform lets the
// subject in, where a case is said to be released and what there was is not put
// back, where a case does not come to rest or does not say why it waits for a
// person, and where a lie was not told.
func (p Play) Run(tb testing.TB) Outcome {
	tb.Helper()
	out := Outcome{GivenUp: map[string]int{}, Steps: map[string]staunch.Step{}, Users: map[string]string{}}
	var all []*actor
	began := time.Now()
	end := began.Add(p.Lying)
	for busy := true; busy && time.Now().Before(end); {
		busy = false
		under := 0
		for _, a := range all {
			if a.over {
				continue
			}
			p.move(tb, a, &out)
			if !a.over {
				under++
			}
		}
		if under > 0 {
			busy = true
		}
		untold := len(p.Deck.Untold()) > 0
		for ; under < p.AtOnce && (len(all) < p.Fewest || untold && len(all) < p.Most); under++ {
			a := &actor{Subject: p.Subject(len(all))}
			if a.State != nil {
				a.before = p.state(tb, a)
			}
			all = append(all, a)
			p.contain(tb, a, &out)
			busy = true
		}
		time.Sleep(lookEvery)
	}
	p.Deck.Lie(false)
	lied := time.Since(began)
	untold := p.Deck.Untold()
	for _, what := range untold {
		tb.Errorf("never told: %s", what)
	}
	p.until(tb, all, "come to rest", func(a *actor) bool {
		p.look(tb, a, &out)
		if !a.rests(tb) {
			return false
		}
		p.check(tb, a)
		return true
	})
	for _, a := range all {
		if c := a.last.Containment; c.Trouble != "" {
			why, _, _ := strings.Cut(strings.TrimPrefix(c.Trouble, "the plan "), ":")
			if i := strings.Index(c.Trouble, " failed: "); i >= 0 {
				why = c.Trouble[i+len(" failed: "):]
			}
			out.GivenUp[a.Name+": "+first(why, 60)]++
		}
		if a.last.Containment.Phase != staunch.PhaseReleased {
			p.release(tb, a)
		}
	}
	p.until(tb, all, "be released", func(a *actor) bool {
		p.look(tb, a, &out)
		if a.last.Containment.Phase == staunch.PhaseStuck {
			tb.Fatalf("%s cannot be released although nobody lies any more\n%s", a.Name, Tell(a.last))
		}
		return a.last.Containment.Phase == staunch.PhaseReleased
	})
	lies, kinds, ops := p.Deck.Told()
	tb.Logf("%d cases in %s, %s of them lies: %d lies of %d kinds to %d operations; %d steps said to be proven, %d releases that put back; given up: %v",
		out.Cases, time.Since(began).Round(time.Second), lied.Round(time.Second), lies, kinds, ops, out.Proven, out.Restored, out.GivenUp)
	if testing.Verbose() {
		tb.Logf("lies told:\n%s", p.Deck)
	}
	if out.Proven == 0 {
		tb.Error("nothing came to be proven")
	}
	return out
}

func first(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// until waits until all are, each of which is no longer looked at then.
func (p Play) until(tb testing.TB, all []*actor, what string, done func(*actor) bool) {
	tb.Helper()
	left := slices.Clone(all)
	for deadline := time.Now().Add(p.Patience); ; time.Sleep(lookEvery) {
		left = slices.DeleteFunc(left, done)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, a := range left {
				tb.Errorf("%s did not %s in %s: %s\n%s", a.Name, what, p.Patience, a.last.Containment.Phase, Tell(a.last))
			}
			tb.FailNow()
		}
	}
}

// move looks at a case under lies and takes it on.
func (p Play) move(tb testing.TB, a *actor, out *Outcome) {
	tb.Helper()
	p.look(tb, a, out)
	switch phase := a.last.Containment.Phase; {
	case phase == staunch.PhaseReleased && a.round == 1 && a.State != nil:
		if a.Again != nil {
			a.Again()
		}
		p.contain(tb, a, out)
	case phase == staunch.PhaseReleased, a.releasing && phase == staunch.PhaseStuck:
		a.over = true
	case !a.releasing && a.rests(tb):
		p.check(tb, a)
		if a.round > 1 {
			a.over = true
		} else {
			p.release(tb, a)
		}
	}
}

func (p Play) contain(tb testing.TB, a *actor, out *Outcome) {
	tb.Helper()
	o, err := p.API.Contain(tb.Context(), api.ContainRequest{Subject: a.Ref, Tier: a.Tier, Reason: "stolen"})
	if err != nil {
		tb.Fatalf("containing %s: %v", a.Name, err)
	}
	a.id, a.releasing, a.proven, a.checked = o.Containment.ID, false, map[string]bool{}, false
	a.round++
	out.Cases++
	out.Users[a.id] = a.User
}

func (p Play) release(tb testing.TB, a *actor) {
	tb.Helper()
	_, err := p.API.Release(tb.Context(), a.id, api.ReleaseRequest{Reason: "it was a drill", Revive: true})
	var refused *client.Error
	if err != nil && (!errors.As(err, &refused) || refused.Code != api.CodeConflict) {
		tb.Fatalf("releasing %s: %v", a.Name, err)
	}
	a.releasing = err == nil
}

// look reads a case and compares what is said of it with what is.
func (p Play) look(tb testing.TB, a *actor, out *Outcome) {
	tb.Helper()
	c, err := p.API.Containment(tb.Context(), a.id)
	if err != nil {
		tb.Fatal(err)
	}
	was := a.last.Containment
	a.last = c
	for _, s := range c.Steps {
		out.Steps[s.ID] = s
		if s.State != staunch.StepProven || a.proven[s.ID] {
			continue
		}
		a.proven[s.ID] = true
		out.Proven++
		p.deny(tb, a, s)
	}
	if !a.releasing && a.Try != nil {
		if a.looks++; a.looks%thiefTries == 0 {
			a.Try()
		}
	}
	for _, h := range c.Holds {
		if h.Plane == staunch.PlanePlatform && h.State == staunch.HoldProven && !slices.ContainsFunc(c.Steps, func(s staunch.Step) bool {
			return s.Hold == h.ID && (s.State == staunch.StepProven || s.State == staunch.StepShared || s.Proven != 0)
		}) {
			tb.Errorf("%s: the hold on %s is said to be proven without a step that is\n%s", a.Name, h.Target, Tell(c))
		}
	}
	if c.Containment.Phase != staunch.PhaseReleased || was.Phase == staunch.PhaseReleased && was.ID == c.Containment.ID || a.State == nil {
		return
	}
	out.Restored++
	if now := p.state(tb, a); now != a.before {
		tb.Errorf("%s is said to be released and is not as it was\nbefore:\n%s\nnow:\n%s\nkept: %v\n%s", a.Name, a.before, now, c.Containment.Release.Kept, Tell(c))
	}
}

// deny fails tb where a step is proven and the real platform lets the subject in.
func (p Play) deny(tb testing.TB, a *actor, s staunch.Step) {
	tb.Helper()
	alive, err := a.Alive(s.Target)
	if err != nil {
		tb.Fatalf("asking the real platform about %s: %v", s.Target, err)
	}
	if alive {
		tb.Errorf("%s: %s is said to be proven (%s) and lets it in\n%s", a.Name, s.Target, s.After, Tell(a.last))
	}
}

// check looks at all that is proven of a case at rest once more.
func (p Play) check(tb testing.TB, a *actor) {
	tb.Helper()
	if a.checked || a.releasing || a.last.Containment.Trouble != "" {
		return // what was given up may let the subject back in, and it says so
	}
	a.checked = true
	for _, s := range a.last.Steps {
		if s.State == staunch.StepProven {
			p.deny(tb, a, s)
		}
	}
}

func (p Play) state(tb testing.TB, a *actor) string {
	tb.Helper()
	s, err := a.State()
	if err != nil {
		tb.Fatalf("asking the real platform for the state of %s: %v", a.Name, err)
	}
	return s
}

// rests reports whether a case goes on no more by itself, and fails tb where it
// neither holds nor says why not.
func (a *actor) rests(tb testing.TB) bool {
	tb.Helper()
	c := a.last.Containment
	switch c.Phase {
	case staunch.PhaseReleased:
		return true
	case staunch.PhaseHeld, staunch.PhaseStuck:
	default:
		return false
	}
	if c.Replan && c.Phase == staunch.PhaseHeld {
		return false
	}
	whole := len(a.last.Steps) > 0
	for _, s := range a.last.Steps {
		switch s.State {
		case staunch.StepIntended, staunch.StepUnknown, staunch.StepApplied, staunch.StepRead, staunch.StepReverting:
			return false
		case staunch.StepFailed, staunch.StepDiverged:
			whole = false
			if s.Note == "" {
				tb.Errorf("%s: the step on %s is %s and does not say why\n%s", a.Name, s.Target, s.State, Tell(a.last))
			}
		}
	}
	// A plan that found nothing to act upon says so in its gaps.
	gaps := len(a.last.Steps) == 0 && slices.ContainsFunc(a.last.Plans, func(p staunch.Plan) bool { return len(p.Gaps) > 0 })
	if !whole && c.Trouble == "" && !gaps {
		tb.Errorf("%s neither holds nor says why\n%s", a.Name, Tell(a.last))
	}
	return true
}

// Tell tells a case's story.
func Tell(c api.Case) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s, trouble %q\n", c.Containment.ID, c.Containment.Phase, c.Containment.Trouble)
	for _, m := range c.Timeline {
		fmt.Fprintf(&b, "%10.1f ms  %-9s %s\n", m.AfterMS, m.Kind, m.Text)
	}
	for _, s := range c.Steps {
		fmt.Fprintf(&b, "step %s: %s on %s is %s: %s (%s)\n", s.ID, s.Verb, s.Target, s.State, s.Note, s.After)
	}
	for _, p := range c.Plans {
		for _, g := range p.Gaps {
			fmt.Fprintf(&b, "gap: %s: %s\n", g.Ref, g.Reason)
		}
	}
	return b.String()
}
