package record

import (
	"slices"

	"github.com/staunch-project/staunch"
)

// The marks of a Clock, in order.
const (
	markEvent        = "event"
	markReceived     = "received"
	markDecided      = "decided"
	markIntended     = "intended"
	markCalled       = "called"
	markAcknowledged = "acknowledged"
	markEffective    = "effective"
)

// ClocksOf returns the clocks of a case, as its evidence has them.
func ClocksOf(r Rows) []Clock {
	return clocks(Evidence{
		Containment: r.Containment, Decisions: r.Decisions, Signals: r.Signals, Events: r.Events, Steps: r.Steps, Holds: r.Holds,
	})
}

// clocks gives every step, and every hold of the fast plane, its times. Where
// several decisions led to the case, a step's is the newest that was made before
// its intent; of that decision's signals, the newest that was learned before it.
func clocks(e Evidence) []Clock {
	events := map[string]staunch.Event{}
	for _, ev := range e.Events {
		events[ev.ID] = ev
	}
	signals := map[string]staunch.Signal{}
	for _, s := range e.Signals {
		signals[s.ID] = s
	}
	// cause adds the marks up to the decision that was in force at an instant.
	cause := func(c *Clock, by staunch.Time) {
		d, ok := newest(e.Decisions, by, func(d staunch.Decision) staunch.Time { return d.Made })
		if !ok {
			if e.Containment.Origin == staunch.OriginManual {
				c.mark(markDecided, e.Containment.Opened, e.Containment.ID)
			}
			return
		}
		var of []staunch.Signal
		for _, id := range d.Signals {
			if s, ok := signals[id]; ok {
				of = append(of, s)
			}
		}
		if s, ok := newest(of, d.Made, func(s staunch.Signal) staunch.Time { return s.Learned }); ok {
			if ev, ok := events[s.Event]; ok {
				c.mark(markEvent, ev.Time, ev.ID)
				c.mark(markReceived, ev.Learned, ev.ID)
			} else {
				c.mark(markEvent, s.Time, s.ID)
				c.mark(markReceived, s.Learned, s.ID)
			}
		}
		c.mark(markDecided, d.Made, d.ID)
	}
	out := []Clock{}
	for _, h := range e.Holds {
		if h.Plane != staunch.PlaneGuard {
			continue
		}
		c := Clock{Of: h.ID, Target: targetOf(h.Target), Verb: h.Verb, Marks: []Mark{}}
		cause(&c, h.Since)
		c.mark(markEffective, h.Since, h.ID)
		out = append(out, c)
	}
	for _, s := range e.Steps {
		c := Clock{Of: s.ID, Target: s.Target.String(), Verb: s.Verb, Marks: []Mark{}}
		cause(&c, s.Intended)
		c.mark(markIntended, s.Intended, s.ID)
		c.mark(markCalled, s.Called, s.ID)
		if s.Receipt != nil {
			c.mark(markAcknowledged, s.Applied, s.ID)
		}
		c.mark(markEffective, s.Proven, s.ID)
		out = append(out, c)
	}
	return out
}

// mark adds an instant, unless it is not known.
func (c *Clock) mark(name string, at staunch.Time, row string) {
	if at == 0 {
		return
	}
	first := at
	if len(c.Marks) > 0 {
		first = c.Marks[0].At
	}
	c.Marks = append(c.Marks, Mark{Name: name, At: at, AfterMS: float64(at-first) / 1000, Row: row})
}

// newest returns the one with the highest instant that is not after by.
func newest[T any](list []T, by staunch.Time, at func(T) staunch.Time) (best T, ok bool) {
	for _, v := range list {
		if at(v) <= by && (!ok || at(v) > at(best)) {
			best, ok = v, true
		}
	}
	return best, ok
}

// after returns the mark's time since the first in milliseconds.
func (c Clock) after(name string) (float64, bool) {
	i := slices.IndexFunc(c.Marks, func(m Mark) bool { return m.Name == name })
	if i < 0 {
		return 0, false
	}
	return c.Marks[i].AfterMS, true
}
