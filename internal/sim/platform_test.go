package sim_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/store"
)

const (
	realm       = "fake/sim"
	callTimeout = 2 * time.Second
	propagation = 100 * time.Millisecond
	// vip begins the names of what nobody may touch.
	vip = "vip"
)

func account(name string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: "name", Value: name}
}

func session(id string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: realm, Scheme: "id", Value: id}
}

// faults are the shares of calls, in percent, to which each fault happens.
type faults struct {
	// before: the platform could not be reached; lost: the call arrived and its
	// answer did not; late: it arrives after its caller has given up; denied: it
	// is refused for good; hollow: the answer is that it was done, and it was not;
	// stale: a read shows what was before the last change; dies: the process dies
	// before or after the call; other: another node acts meanwhile.
	before, lost, late, denied, hollow, stale, dies, other int
}

// wire is a node's way to the platform.
type wire struct {
	connector.Connector
	connector.Prober
	connector.Own
	w *world
	n *node
}

var (
	errUnreachable = errors.New("connection refused")
	errNoAnswer    = errors.New("no answer")
	errRefused     = errors.New("refused")
)

// Describe has a verb with sweeps, and all need time to be proven.
func (c wire) Describe() connector.Description {
	d := c.Connector.Describe()
	for i := range d.Verbs {
		d.Verbs[i].Propagation = propagation
		if d.Verbs[i].Attribute == "sessions" {
			d.Verbs[i].Sweeps = []time.Duration{50 * time.Millisecond, 400 * time.Millisecond}
		}
	}
	return d
}

// travel is the way there: time passes, others act, and the process may die.
func (c wire) travel(what string) error {
	w := c.w
	began := w.steady
	w.pass(time.Duration(1+w.rng.IntN(20)) * time.Millisecond)
	w.elsewhere(c.n)
	w.mayDie(c.n, what+" not sent")
	switch {
	case w.steady.Sub(began) > callTimeout:
		// Whoever was held up for so long finds its deadline past.
		return staunch.Transient(context.DeadlineExceeded)
	case w.down, w.happens(w.faults.before):
		w.tell("%s: %s: %v", c.n.name, what, errUnreachable)
		return staunch.Transient(errUnreachable)
	}
	return nil
}

// back is the way back. It reports whether the answer came in time.
func (c wire) back(what string) bool {
	w := c.w
	began := w.steady
	w.pass(time.Duration(1+w.rng.IntN(20)) * time.Millisecond)
	w.elsewhere(c.n)
	w.mayDie(c.n, what+" sent")
	return w.steady.Sub(began) <= callTimeout
}

func (c wire) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	if err := c.travel("expand"); err != nil {
		return connector.Expansion{}, err
	}
	ex, err := c.Connector.Expand(ctx, req)
	if !c.back("expand") {
		return connector.Expansion{}, staunch.Transient(context.DeadlineExceeded)
	}
	return ex, err
}

func (c wire) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	what := "read " + t.String()
	if err := c.travel(what); err != nil {
		return staunch.State{}, err
	}
	st, err := c.Connector.Read(ctx, t, proof)
	if old, ok := c.w.before[t]; ok && err == nil && c.w.steady.Sub(old.until) < 0 && c.w.happens(c.w.faults.stale) {
		old.state.ReadAt = st.ReadAt
		st = old.state
	}
	if !c.back(what) {
		return staunch.State{}, staunch.Transient(context.DeadlineExceeded)
	}
	return st, err
}

func (c wire) Probe(ctx context.Context, in staunch.Intent) (connector.Probe, error) {
	if err := c.travel("probe"); err != nil {
		return connector.Probe{}, err
	}
	p, err := c.Prober.Probe(ctx, in)
	if !c.back("probe") {
		return connector.Probe{}, staunch.Transient(context.DeadlineExceeded)
	}
	return p, err
}

func (c wire) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return c.change(ctx, "apply", in, c.Connector.Apply)
}

func (c wire) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return c.change(ctx, "revert", in, c.Connector.Revert)
}

func (c wire) change(ctx context.Context, what string, in staunch.Intent, call func(context.Context, staunch.Intent) (staunch.Receipt, error)) (staunch.Receipt, error) {
	w := c.w
	c.check(what, in)
	line := fmt.Sprintf("%s %s %s", what, in.Verb, in.Target)
	if err := c.travel(line); err != nil {
		return staunch.Receipt{}, err
	}
	switch {
	case w.happens(w.faults.denied):
		w.tell("%s: %s: %v", c.n.name, line, errRefused)
		return staunch.Receipt{}, staunch.Denied(errRefused)
	case what == "apply" && w.happens(w.faults.hollow):
		w.tell("%s: %s: answered, and nothing was done", c.n.name, line)
		c.back(line)
		return staunch.Receipt{At: staunch.TimeOf(c.n.Now()), Changed: true}, nil
	case w.happens(w.faults.late):
		arrives := w.steady.Add(time.Duration(w.rng.Int64N(int64(callTimeout))))
		w.tell("%s: %s: arrives late", c.n.name, line)
		w.late = append(w.late, late{arrives, func() {
			w.tell("%s: arrived", line)
			_, _ = call(context.WithoutCancel(ctx), in) // nobody hears of it
		}})
		w.pass(callTimeout)
		c.back(line)
		return staunch.Receipt{}, staunch.OutcomeUnknown(errNoAnswer)
	}
	was, err := c.Connector.Read(ctx, in.Target, false)
	if err == nil {
		w.before[in.Target] = stale{state: was, until: w.steady.Add(propagation)}
	}
	r, err := call(ctx, in)
	w.tell("%s: %s: %s changed %v, error %v", c.n.name, line, in.Key, r.Changed, err)
	if !c.back(line) || w.happens(w.faults.lost) {
		w.tell("%s: %s: the answer is lost", c.n.name, line)
		return staunch.Receipt{}, staunch.OutcomeUnknown(errNoAnswer)
	}
	return r, err
}

// check looks, whenever the platform is called to change something, whether that
// was durably intended (I3) and may be touched (I5).
func (c wire) check(what string, in staunch.Intent) {
	w := c.w
	if why := protected(in.Target.Ref); why != "" {
		w.wrong("I5: %s of %s, which is protected: %s", what, in.Target, why)
	}
	err := w.view(func(r store.Reader) error {
		s, err := r.Step(in.Key)
		if err != nil {
			w.wrong("I3: %s of %s with key %s: no such intent is durable: %v", what, in.Target, in.Key, err)
			return nil
		}
		h, err := r.Hold(s.Hold)
		if err != nil {
			return err
		}
		con, err := r.Containment(s.Containment)
		if err != nil {
			return err
		}
		if con.Phase.Idle() {
			w.wrong("I7: %s of %s for %s, which waits (%s)", what, in.Target, con.ID, con.Phase)
		}
		// Of two steps on one hold the first may be given up in an outage while the
		// second has its last try under way.
		lastTry := false
		if h.State == staunch.HoldKept {
			steps, err := r.Steps(s.Containment)
			if err != nil {
				return err
			}
			lastTry = slices.ContainsFunc(steps, func(o staunch.Step) bool { return o.Hold == h.ID && o.State == staunch.StepReverting })
		}
		if !h.Active() || what == "revert" && h.State != staunch.HoldReleasing && !lastTry {
			// Another node may have gone on while this one was held up; then its
			// call is late, as any call may be.
			if len(w.up()) < 2 {
				w.wrong("%s of %s while its hold %s is %s", what, in.Target, h.ID, h.State)
			}
		}
		return nil
	})
	if err != nil {
		w.wrong("looking at an intent: %v", err)
	}
}

func protected(ref staunch.Ref) string {
	if strings.HasPrefix(ref.Value, vip) {
		return "a very important person"
	}
	if ref == account(connectortest.FakeOwn) {
		return "ours"
	}
	return ""
}

// late is a call that is still under way though nobody waits for it.
type late struct {
	at  time.Time
	run func()
}

// stale is a state that a read may still show.
type stale struct {
	state staunch.State
	until time.Time
}

// pass has time go by, with all that comes due in it.
func (w *world) pass(d time.Duration) {
	until := w.steady.Add(d)
	for {
		i := -1
		for k, l := range w.late {
			if !l.at.After(until) && (i < 0 || l.at.Before(w.late[i].at)) {
				i = k
			}
		}
		if i < 0 {
			break
		}
		l := w.late[i]
		w.late = slices.Delete(w.late, i, i+1)
		if l.at.After(w.steady) {
			w.steady = l.at
		}
		l.run()
	}
	w.steady = until
}
