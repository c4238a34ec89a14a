package contain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/crashpoint"
	"github.com/staunch-project/staunch/internal/store"
)

func findStep(c Case, id string) (staunch.Step, error) {
	for _, s := range c.Steps {
		if s.ID == id {
			return s, nil
		}
	}
	return staunch.Step{}, fmt.Errorf("step %s: %w", id, staunch.ErrNotFound)
}

func (e *Engine) connectorOf(s staunch.Step) (connector.Connector, error) {
	c := e.opt.Connectors[s.Target.Ref.Realm]
	if c == nil {
		return nil, staunch.Permanent(fmt.Errorf("no connector is configured for realm %s any more", s.Target.Ref.Realm))
	}
	return c, nil
}

// errLost says that a pre-image is not to be had, which no retry mends.
var errLost = errors.New("the pre-image is lost")

// intent returns what Apply and Revert are given: the durable intent with its
// pre-image opened and a deadline. why is the wall that keeps the target from
// being touched: it is looked at again for each call, by all that is known of
// the target now (invariant I5).
func (e *Engine) intent(ctx context.Context, s staunch.Step) (in staunch.Intent, why string, err error) {
	err = e.opt.Store.View(ctx, func(r store.Reader) error {
		in, why, err = e.readIntent(r, s, map[staunch.Ref]staunch.Resolution{})
		return err
	})
	return in, why, err
}

// readIntent is intent on a snapshot. known keeps what was resolved there.
func (e *Engine) readIntent(r store.Reader, s staunch.Step, known map[staunch.Ref]staunch.Resolution) (in staunch.Intent, why string, err error) {
	in = s.Intent
	res, ok := known[s.Target.Ref]
	if !ok {
		if res, err = e.opt.Lineage.Resolve(r, s.Target.Ref, staunch.TimeOf(e.opt.Clock.Now())); err != nil {
			return in, "", wrapped(err, "resolving", s)
		}
		known[s.Target.Ref] = res
	}
	res.Ref = s.Target.Ref
	if why = e.barred(res); why != "" {
		return in, why, nil
	}
	blob, err := r.Sealed(s.PreImage)
	if errors.Is(err, staunch.ErrNotFound) {
		err = fmt.Errorf("%w: %w", errLost, err)
	}
	if err != nil {
		return in, "", wrapped(err, "reading the pre-image of", s)
	}
	plain, err := e.opt.Sealer.Unseal(s.PreImage, blob)
	if err == nil {
		err = json.Unmarshal(plain, &in.PreImage)
	}
	if err != nil {
		return in, "", wrapped(fmt.Errorf("%w: %w", errLost, err), "opening the pre-image of", s)
	}
	in.Deadline = staunch.TimeOf(e.opt.Clock.Now().Add(e.opt.CallTimeout))
	return in, "", nil
}

// bars reports why a step must not be called now, whoever admitted its case.
func (e *Engine) bars(r store.Reader, con staunch.Containment, s staunch.Step) (string, error) {
	if e.opt.Barred == nil {
		return "", nil
	}
	why, err := e.opt.Barred(r, con, s)
	return why, wrapped(err, "asking whether to call", s)
}

func wrapped(err error, doing string, s staunch.Step) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", doing, s.Target, err)
}

// apply calls the platform for a step whose intent is durable (invariant I3),
// and for those after it on the same realm that nobody has called either, one
// after the other: each is called and read back before the next, and what came
// of them is committed together. Who takes up the case after a crash looks at
// each of them first.
func (e *Engine) apply(ctx context.Context, c Case, id string, j *job) error {
	first, err := findStep(c, id)
	if err != nil {
		return err
	}
	conn, err := e.connectorOf(first)
	if err != nil {
		return e.failed(ctx, c, first, err.Error(), !j.fresh[id])
	}
	run, err := e.run(ctx, c, first, j.fresh)
	if err != nil {
		return err
	}
	if len(run) == 0 {
		return e.call(ctx, c, first, conn, j) // it says why
	}
	var done []applied
	var broken func() error // what is left to be said of the step that ended the run
	for _, r := range run {
		cctx, cancel, err := e.changing(ctx, c)
		if err != nil {
			broken = func() error { return err }
			break
		}
		s, began := r.step, e.opt.Clock.Now()
		r.in.Deadline = staunch.TimeOf(began.Add(e.opt.CallTimeout))
		delete(j.fresh, s.ID) // from here on it may have been sent
		err = e.send(cctx, &s, conn, r.in)
		cancel()
		if err != nil {
			broken = func() error { return e.applyFailed(ctx, c, s, err, false, j) }
			break
		}
		st, err := e.readAfter(ctx, s, conn)
		if err != nil {
			broken = func() error { return e.readFailed(ctx, c, s, err) }
			break
		}
		if !conn.Matches(s.Intent.Expected, st) {
			broken = func() error { return e.noEffect(ctx, c, s, st) }
			break
		}
		a, err := e.after(s, conn, st)
		if err != nil {
			return err
		}
		a.began = began
		done = append(done, a)
	}
	if len(done) > 0 {
		if err := e.wereRead(ctx, c, done); err != nil {
			return err
		}
		if e.opt.Observer != nil {
			for _, a := range done[1:] {
				e.opt.Observer.Observe(c.Containment.ID, DoApply, a.step.ID, a.began, e.opt.Clock.Now(), nil)
			}
		}
	}
	if broken != nil {
		return broken()
	}
	return nil
}

// applied is a step that was called and read back, not yet durable.
type applied struct {
	step  staunch.Step
	post  []byte // sealed
	began time.Time
}

// ready is a step with all that its call needs.
type ready struct {
	step staunch.Step
	in   staunch.Intent
}

// run returns the steps that can be called one after the other from first on. It
// is short of those that a wall or a lost pre-image keeps from being called, and
// empty where first is one of them.
func (e *Engine) run(ctx context.Context, c Case, first staunch.Step, fresh map[string]bool) ([]ready, error) {
	var out []ready
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		out = out[:0]
		known := map[staunch.Ref]staunch.Resolution{}
		now := staunch.TimeOf(e.opt.Clock.Now())
		at := slices.IndexFunc(c.Steps, func(s staunch.Step) bool { return s.ID == first.ID })
		for _, s := range c.Steps[at:] {
			if s.Target.Ref.Realm != first.Target.Ref.Realm || !calling(s.State) {
				continue
			}
			if s.State != staunch.StepIntended || !fresh[s.ID] || pausing(s, mostPause, now) {
				return nil
			}
			in, why, err := e.readIntent(r, s, known)
			if err == nil && why == "" {
				why, err = e.bars(r, c.Containment, s)
			}
			if errors.Is(err, errLost) || why != "" {
				return nil
			}
			if err != nil {
				return err
			}
			out = append(out, ready{s, in})
		}
		return nil
	})
	return out, err
}

func (e *Engine) call(ctx context.Context, c Case, s staunch.Step, conn connector.Connector, j *job) error {
	sent := !j.fresh[s.ID] // by somebody before
	in, why, err := e.intent(ctx, s)
	if err == nil && why == "" && e.opt.Barred != nil {
		err = e.opt.Store.View(ctx, func(r store.Reader) error {
			var err error
			why, err = e.bars(r, c.Containment, s)
			return err
		})
	}
	switch {
	case errors.Is(err, errLost):
		return e.failed(ctx, c, s, err.Error(), sent)
	case err != nil:
		return err
	case why != "":
		return e.failed(ctx, c, s, why, sent)
	}
	cctx, cancel, err := e.changing(ctx, c)
	if err != nil {
		return err
	}
	delete(j.fresh, s.ID) // from here on it may have been sent
	err = e.send(cctx, &s, conn, in)
	cancel()
	if err != nil {
		return e.applyFailed(ctx, c, s, err, sent, j)
	}
	return e.readBack(ctx, c, s, conn)
}

// send makes a step's call, with a context from changing, and notes its receipt in
// the step.
func (e *Engine) send(ctx context.Context, s *staunch.Step, conn connector.Connector, in staunch.Intent) error {
	s.Called = staunch.TimeOf(e.opt.Clock.Now())
	crashpoint.Here("apply.call")
	receipt, err := conn.Apply(ctx, in)
	crashpoint.Here("apply.called")
	s.Attempts++
	if err != nil {
		return err
	}
	if receipt.At == 0 {
		receipt.At = staunch.TimeOf(e.opt.Clock.Now())
	}
	s.Receipt, s.Applied, s.State = &receipt, receipt.At, staunch.StepApplied
	return nil
}

// applyFailed commits what became of a call that failed; sent says that an
// earlier one may have had its effect.
func (e *Engine) applyFailed(ctx context.Context, c Case, s staunch.Step, err error, sent bool, j *job) error {
	s.Note = err.Error()
	switch class := staunch.ClassOf(err); {
	case mayPass(&s, class):
		// Nothing was changed, it says; the next thing is a look all the same.
		return e.tryLater(ctx, c, s)
	case class == staunch.ClassUnknown:
		s.State = staunch.StepUnknown
		e.unanswered(&s)
	case class == staunch.ClassTransient && !e.outlasted(s.Intended):
		if err := e.tryLater(ctx, c, s); err != nil {
			return err
		}
		if !sent {
			j.fresh[s.ID] = true // nothing was changed: no look is needed
		}
		return nil
	default:
		return e.failed(ctx, c, s, fmt.Sprintf("%s: %v", class, err), sent)
	}
	s.NotBefore = staunch.TimeOf(e.opt.Clock.Now()).Add(backoff(s.Attempts))
	return e.putStep(ctx, c, s, nil)
}

// unanswered notes that a call without an answer may still reach the platform,
// until its time is over: a release waits for that, since what arrives after the
// undo would stay.
func (e *Engine) unanswered(s *staunch.Step) {
	s.Intent.Deadline = max(s.Intent.Deadline, staunch.TimeOf(e.opt.Clock.Now().Add(e.opt.CallTimeout)))
}

// mayPass notes a refusal of our credential in the step and reports whether it is
// to be tried again: one that comes once or twice may pass by itself.
func mayPass(s *staunch.Step, class staunch.Class) bool {
	if class != staunch.ClassDenied || s.Refused >= MaxRefusals {
		return false
	}
	s.Refused++
	return true
}

// outlasted reports whether an outage that a step has met since then has lasted
// too long.
func (e *Engine) outlasted(since staunch.Time) bool {
	return staunch.TimeOf(e.opt.Clock.Now()).Sub(since) > outageTime
}

// tryLater commits a step whose platform could not be reached, to be tried again
// after a backoff. An outage does not use up the attempts. People are told once
// it lasts.
func (e *Engine) tryLater(ctx context.Context, c Case, s staunch.Step) error {
	s.NotBefore = staunch.TimeOf(e.opt.Clock.Now()).Add(backoff(s.Attempts))
	lasts := s.Attempts >= MaxAttempts
	s.Attempts = min(s.Attempts, MaxAttempts-1)
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		if !lasts || con.Trouble != "" {
			return nil
		}
		con.Trouble = outageOf(s) + s.Note
		return e.notices(tx, "trouble", *con, []staunch.Step{s}, now)
	})
}

// outageOf begins what is said of a case while the step's platform cannot be
// reached.
func outageOf(s staunch.Step) string {
	return fmt.Sprintf("%s on %s does not get through and is tried again: ", s.Verb, s.Target)
}

// backoff doubles from 100 ms to at most 10 s.
func backoff(attempt int) time.Duration {
	return min(100*time.Millisecond<<min(max(attempt-1, 0), 10), 10*time.Second)
}

// look reads a target whose call may or may not have been sent, and calls again
// only where the read says that nothing happened.
func (e *Engine) look(ctx context.Context, c Case, id string, j *job) error {
	s, err := findStep(c, id)
	if err != nil {
		return err
	}
	conn, err := e.connectorOf(s)
	if err != nil {
		return e.failed(ctx, c, s, err.Error(), true)
	}
	cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	st, err := conn.Read(cctx, s.Target, false)
	crashpoint.Here("look.read")
	cancel()
	if err != nil {
		return e.readFailed(ctx, c, s, err)
	}
	if conn.Matches(s.Intent.Expected, st) && !st.Effective {
		if s.Attempts <= 1 {
			s.Intent.Deadline = 0 // the only call has arrived
		}
		return e.wasRead(ctx, c, s, conn, st)
	}
	if s.State == staunch.StepIntended {
		e.unanswered(&s) // whoever committed the intent may have called
	}
	if s.Attempts >= MaxAttempts {
		return e.failed(ctx, c, s, "it did not take effect: "+st.Summary, true)
	}
	return e.call(ctx, c, s, conn, j)
}

func (e *Engine) readFailed(ctx context.Context, c Case, s staunch.Step, err error) error {
	s.Note = err.Error()
	s.Attempts++
	since := s.Intended
	if s.State == staunch.StepRead {
		since = s.Applied
	}
	cl := staunch.ClassOf(err)
	if !e.outlasted(since) && mayPass(&s, cl) {
		return e.tryLater(ctx, c, s)
	}
	if e.outlasted(since) || cl == staunch.ClassPermanent || cl == staunch.ClassDenied {
		return e.failed(ctx, c, s, fmt.Sprintf("its state cannot be read: %v", err), true)
	}
	return e.tryLater(ctx, c, s)
}

// readBack reads the target after a call and commits what it found together
// with the receipt.
func (e *Engine) readBack(ctx context.Context, c Case, s staunch.Step, conn connector.Connector) error {
	st, err := e.readAfter(ctx, s, conn)
	if err != nil {
		return e.readFailed(ctx, c, s, err)
	}
	if conn.Matches(s.Intent.Expected, st) {
		return e.wasRead(ctx, c, s, conn, st)
	}
	return e.noEffect(ctx, c, s, st)
}

func (e *Engine) readAfter(ctx context.Context, s staunch.Step, conn connector.Connector) (staunch.State, error) {
	cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	defer cancel()
	st, err := conn.Read(cctx, s.Target, false)
	crashpoint.Here("apply.read")
	return st, err
}

// noEffect commits a step whose call shows no effect, to be looked at again: the
// platform may need a moment, or somebody worked against us.
func (e *Engine) noEffect(ctx context.Context, c Case, s staunch.Step, st staunch.State) error {
	s.Note, s.Refused = "after the call: "+st.Summary, 0
	if s.Attempts >= MaxAttempts {
		return e.failed(ctx, c, s, "it did not take effect: "+st.Summary, true)
	}
	s.NotBefore = staunch.TimeOf(e.opt.Clock.Now()).Add(backoff(s.Attempts))
	return e.putStep(ctx, c, s, nil)
}

// wasRead commits a step whose read agrees; it is to be swept and proven next.
func (e *Engine) wasRead(ctx context.Context, c Case, s staunch.Step, conn connector.Connector, st staunch.State) error {
	a, err := e.after(s, conn, st)
	if err != nil {
		return err
	}
	return e.wereRead(ctx, c, []applied{a})
}

// after makes what is to be committed of a step whose read agrees.
func (e *Engine) after(s staunch.Step, conn connector.Connector, st staunch.State) (applied, error) {
	now := staunch.TimeOf(e.opt.Clock.Now())
	s.State, s.Note, s.After, s.Refused = staunch.StepRead, "", st.Summary, 0
	if s.Applied == 0 {
		s.Applied = now
	}
	s.NotBefore = now
	if spec, ok := SpecFor(conn.Describe(), s.Verb, s.Target); ok {
		if len(spec.Sweeps) > 0 {
			s.NotBefore = now.Add(spec.Sweeps[0])
		} else {
			s.NotBefore = now.Add(spec.Propagation)
		}
	}
	body, err := json.Marshal(st)
	if err != nil {
		return applied{}, fmt.Errorf("encoding the post-image of %s: %w", s.Target, err)
	}
	s.PostImage, s.PostImageDigest = "post/"+s.ID, staunch.Digest(st.Body)
	blob, err := e.opt.Sealer.Seal(s.PostImage, body)
	if err != nil {
		return applied{}, fmt.Errorf("sealing the post-image of %s: %w", s.Target, err)
	}
	return applied{step: s, post: blob}, nil
}

// wereRead commits receipts and post-images.
func (e *Engine) wereRead(ctx context.Context, c Case, done []applied) error {
	return e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		now := staunch.TimeOf(e.opt.Clock.Now())
		for _, a := range done {
			s := a.step
			s.Generation = con.Generation
			if err := tx.PutStep(s); err != nil {
				return err
			}
			if err := tx.PutSealed(s.PostImage, a.post); err != nil {
				return err
			}
			if err := e.setHold(tx, s.Hold, staunch.HoldInForce, "", now); err != nil {
				return err
			}
			if err := record(tx, staunch.RecordReceipt, "engine", s.Containment, now, map[string]any{
				"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "receipt": s.Receipt,
				"post_image": s.PostImageDigest, "after": s.After, "attempts": s.Attempts,
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *Engine) setHold(tx store.Tx, id string, st staunch.HoldState, note string, now staunch.Time) error {
	h, err := tx.Hold(id)
	if err != nil {
		return err
	}
	if h.State == st && h.Note == note {
		return nil
	}
	h.State, h.Note, h.Changed = st, note, now
	if st == staunch.HoldProven {
		for _, claim := range h.Claims {
			tx.OnCommit(func() { e.Kick(claim) })
		}
	}
	_, err = tx.PutHold(h)
	return err
}

// putStep commits the step, and with it what more does, under the case's
// generation and lease.
func (e *Engine) putStep(ctx context.Context, c Case, s staunch.Step, more func(store.Tx, *staunch.Containment, staunch.Time) error) error {
	return e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		s.Generation = con.Generation
		if err := tx.PutStep(s); err != nil {
			return err
		}
		if more == nil {
			return nil
		}
		return more(tx, con, staunch.TimeOf(e.opt.Clock.Now()))
	})
}

// failed ends a step that will not be tried again and tells people; the case
// goes on with its other steps. sent says that a call for it may have had its
// effect: then its hold stays, so that a release undoes it.
func (e *Engine) failed(ctx context.Context, c Case, s staunch.Step, why string, sent bool) error {
	s.State, s.Note = staunch.StepFailed, why
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		con.Trouble = fmt.Sprintf("%s on %s failed: %s", s.Verb, s.Target, why)
		h, err := tx.Hold(s.Hold)
		if err != nil {
			return err
		}
		e.kickOthers(tx, h, con.ID) // who shares it has to do it
		if !sent {
			h.Steps = without(h.Steps, s.ID)
		}
		if len(h.Steps) == 0 {
			h.Claims = without(h.Claims, con.ID)
			if len(h.Claims) == 0 {
				h.State = staunch.HoldFailed
			}
		}
		h.Note, h.Changed = why, now
		if _, err := tx.PutHold(h); err != nil {
			return err
		}
		if err := e.notices(tx, "trouble", *con, []staunch.Step{s}, now); err != nil {
			return err
		}
		return record(tx, staunch.RecordReceipt, "engine", s.Containment, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "failed": why, "attempts": s.Attempts,
		})
	})
}

// kickOthers has the other cases that claim the hold looked at after the commit.
func (e *Engine) kickOthers(tx store.Tx, h staunch.Hold, id string) {
	for _, other := range h.Claims {
		if other != id {
			tx.OnCommit(func() { e.Kick(other) })
		}
	}
}

// without returns the list without s; the list itself stays.
func without(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return x == s })
}

// join looks at what has become of the step whose effect this one claims, and
// has the case do it itself where its maker let go before it was proven.
func (e *Engine) join(ctx context.Context, c Case, id string) error {
	s, err := findStep(c, id)
	if err != nil {
		return err
	}
	live := false
	err = e.opt.Store.View(ctx, func(r store.Reader) error {
		h, err := r.Hold(s.Hold)
		if err != nil {
			return err
		}
		_, live, err = maker(r, h)
		return err
	})
	if err != nil {
		return err
	}
	if live { // also where it has just been proven
		// The longer it has taken, the less often it is asked for; also where a clock
		// that was set does not tell how long.
		pause := staunch.TimeOf(e.opt.Clock.Now()).Sub(s.Intended) / 8
		if pause < 0 {
			pause = time.Second
		}
		return &errWait{d: min(max(pause, e.opt.CallTimeout/200, time.Millisecond), time.Second), reason: "another case's step is not proven yet"}
	}
	return e.commit(ctx, c, func(_ store.Tx, con *staunch.Containment) error {
		con.Replan = true
		return nil
	})
}

// sweep calls Apply once more: some platforms let a racing session through that
// two clean reads do not show.
func (e *Engine) sweep(ctx context.Context, c Case, id string) error {
	s, err := findStep(c, id)
	if err != nil {
		return err
	}
	conn, err := e.connectorOf(s)
	if err != nil {
		return e.failed(ctx, c, s, err.Error(), true)
	}
	in, why, err := e.intent(ctx, s)
	switch {
	case errors.Is(err, errLost):
		return e.failed(ctx, c, s, err.Error(), true)
	case err != nil:
		return err
	case why != "":
		return e.failed(ctx, c, s, why, true)
	}
	cctx, cancel, err := e.changing(ctx, c)
	if err != nil {
		return err
	}
	crashpoint.Here("sweep.call")
	receipt, err := conn.Apply(cctx, in)
	crashpoint.Here("sweep.called")
	cancel()
	spec, _ := SpecFor(conn.Describe(), s.Verb, s.Target)
	now := staunch.TimeOf(e.opt.Clock.Now())
	if err != nil {
		if staunch.ClassOf(err) == staunch.ClassUnknown {
			e.unanswered(&s)
		}
		return e.readFailed(ctx, c, s, fmt.Errorf("sweep: %w", err))
	}
	s.Sweeps++
	s.Note, s.Refused = "", 0
	if s.Sweeps < len(spec.Sweeps) {
		s.NotBefore = now.Add(spec.Sweeps[s.Sweeps])
	} else {
		s.NotBefore = now.Add(spec.Propagation)
	}
	return e.putStep(ctx, c, s, func(tx store.Tx, _ *staunch.Containment, now staunch.Time) error {
		return record(tx, staunch.RecordReceipt, "engine", s.Containment, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "sweep": s.Sweeps, "receipt": receipt,
		})
	})
}

// prove reads the target independently and probes, and commits the step as
// proven only when both agree (invariant I10).
func (e *Engine) prove(ctx context.Context, c Case, id string, j *job) error {
	s, err := findStep(c, id)
	if err != nil {
		return err
	}
	conn, err := e.connectorOf(s)
	if err != nil {
		return e.failed(ctx, c, s, err.Error(), true)
	}
	cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	defer cancel()
	st, err := conn.Read(cctx, s.Target, true)
	crashpoint.Here("prove.read")
	if err != nil {
		return e.readFailed(ctx, c, s, err)
	}
	ok := conn.Matches(s.Intent.Expected, st) && !st.Effective
	how := "read: " + st.Summary
	if p, can := conn.(connector.Prober); ok && can {
		in, why, err := e.intent(ctx, s)
		switch {
		case errors.Is(err, errLost):
			return e.failed(ctx, c, s, err.Error(), true)
		case err != nil:
			return err
		case why != "":
			return e.failed(ctx, c, s, why, true)
		}
		pr, err := p.Probe(cctx, in)
		switch {
		case err != nil:
			return e.readFailed(ctx, c, s, err)
		case pr.Conclusive:
			ok = ok && !pr.Works
			how += "; probe: " + pr.How
		}
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	if !ok {
		if now.Sub(s.Applied) > provingTime {
			return e.failed(ctx, c, s, "not proven: "+how, true)
		}
		s.Note, s.Refused = "not proven yet: "+how, 0
		s.Attempts++
		if s.Attempts%2 == 0 && s.Attempts < 2*MaxAttempts {
			return e.call(ctx, c, s, conn, j) // somebody may be working against us
		}
		s.NotBefore = now.Add(backoff(s.Attempts))
		return e.putStep(ctx, c, s, nil)
	}
	s.State, s.Proven, s.Note, s.After = staunch.StepProven, now, "", how
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		if err := e.setHold(tx, s.Hold, staunch.HoldProven, "", now); err != nil {
			return err
		}
		if strings.HasPrefix(con.Trouble, outageOf(s)) {
			con.Trouble = ""
		}
		return record(tx, staunch.RecordProof, "engine", s.Containment, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "how": how,
		})
	})
}

// turn takes the case from one phase to the next.
func (e *Engine) turn(ctx context.Context, c Case, kind ActionKind) error {
	return e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		now := staunch.TimeOf(e.opt.Clock.Now())
		from, event := con.Phase, ""
		switch kind {
		case DoWindow, DoHold:
			switch {
			case con.EffectAt != 0:
			case effective(c):
				con.EffectAt = now
				event = "contained"
			case kind == DoHold && con.Trouble == "":
				con.Trouble = "nothing of it could be contained: the plans' gaps say why"
				event = "trouble"
			}
			if kind == DoHold {
				con.Phase, con.WindowEnds = staunch.PhaseHeld, 0
				if from != staunch.PhaseHeld && con.Stage > 0 && event == "" && con.Children == 0 {
					event = "stage"
				}
				break
			}
			con.Phase = staunch.PhaseWindow
			if con.WindowEnds == 0 {
				con.WindowEnds = now.Add(con.Playbook.Stages[con.Stage].Window.Std())
			}
		case DoNextStage:
			if !hasNext(*con) {
				con.Phase, con.WindowEnds = staunch.PhaseHeld, 0
				break
			}
			con.Stage++
			con.Phase, con.WindowEnds, con.Children = staunch.PhaseOpen, 0, 0
			if err := e.guardOwn(tx, *con, now); err != nil {
				return err
			}
		case DoExpire:
			var err error
			if event, err = e.expire(tx, c, con, now); err != nil {
				return err
			}
		case DoFinish:
			if err := e.finish(tx, c, con, now); err != nil {
				return err
			}
			event = "released"
			if con.Phase == staunch.PhaseStuck {
				event = "trouble"
			}
		}
		if event != "" {
			if err := e.notices(tx, event, *con, c.Steps, now); err != nil {
				return err
			}
		}
		kindOf := staunch.RecordContainment
		if con.Phase == staunch.PhaseReleased {
			kindOf = staunch.RecordRelease
		}
		return record(tx, kindOf, "engine", con.ID, now, map[string]any{
			"from": from, "phase": con.Phase, "stage": con.Stage, "window_ends": con.WindowEnds,
			"expires": con.Expires, "release": con.Release, "trouble": con.Trouble,
		})
	})
}

// effective reports whether anything of the case is in force: a proven or shared
// step, or a guard hold.
func effective(c Case) bool {
	for _, s := range c.Steps {
		if s.State == staunch.StepProven || s.State == staunch.StepShared {
			return true
		}
	}
	return slices.ContainsFunc(c.Holds, func(h staunch.Hold) bool {
		return h.Plane == staunch.PlaneGuard && claims(h, c.Containment.ID) && len(h.Deny) > 0
	})
}

// expire does what the playbook says when the case runs out; by default it
// keeps everything in force and tells people (invariant I8).
func (e *Engine) expire(_ store.Tx, c Case, con *staunch.Containment, now staunch.Time) (event string, err error) {
	if con.Phase.Idle() {
		why := "nobody approved it in time"
		if con.Phase == staunch.PhaseWaiting {
			why = "it ran out while it waited for its canary"
		}
		con.Release = &staunch.Release{Reason: why, By: "engine", At: now}
		con.Phase, con.Expires = staunch.PhaseReleasing, 0
		return "expired", nil
	}
	on := con.Playbook.OnExpiry
	if on == staunch.ExpiryExtend && con.Playbook.Expiry.Std() <= 0 {
		on = staunch.ExpiryKeep
	}
	switch on {
	case staunch.ExpiryExtend:
		con.Expires = now.Add(con.Playbook.Expiry.Std())
		return "expired", nil
	case staunch.ExpiryRelease:
		if items := Revivals(c); len(items) > 0 {
			con.Expires = 0
			con.Trouble = fmt.Sprintf("it ran out and was kept, since its release would revive possibly stolen secrets: %v", items)
			return "trouble", nil
		}
		con.Release = &staunch.Release{Reason: "it ran out", By: "engine", At: now}
		con.Phase, con.Expires = staunch.PhaseReleasing, 0
		return "expired", nil
	default:
		con.Expires = 0
		con.Trouble = "it ran out and was kept in force"
		return "trouble", nil
	}
}

// revert undoes one step, or lets go of its claim where another case still
// wants the effect.
func (e *Engine) revert(ctx context.Context, c Case, id string, j *job) error {
	s, err := findStep(c, id)
	if err != nil {
		return err
	}
	if s.State == staunch.StepReverting {
		return e.undo(ctx, c, s)
	}
	// First the intent to undo is durable, with the claim let go of; who else
	// claims the hold keeps its effect.
	var done staunch.Step
	err = e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		now := staunch.TimeOf(e.opt.Clock.Now())
		done = s
		h, err := tx.Hold(s.Hold)
		if err != nil {
			return err
		}
		done.Attempts, done.Refused, done.NotBefore, done.Generation = 0, 0, 0, con.Generation
		if s.State == staunch.StepIntended && !j.fresh[s.ID] {
			e.unanswered(&done)
		}
		others := without(h.Claims, con.ID)
		switch {
		case !h.Active():
			done.State, done.Note = staunch.StepKept, "it was given up, and what became of the target since is another case's"
			if s.Reverted == 0 {
				done.State = staunch.StepReverted
			} else if con.Release != nil {
				con.Release.Kept = append(con.Release.Kept, s.Target.String()+": "+done.Note)
			}
		case len(others) > 0:
			// The effect outlives this case; the hold keeps our step and its
			// pre-image for the last one.
			done.State, done.Note = staunch.StepKept, "left in force for "+others[0]
			if con.Release != nil {
				con.Release.Kept = append(con.Release.Kept, s.Target.String()+": "+done.Note)
			}
			if !stillNeeds(c, s) {
				h.Claims, h.Changed = others, now
				if _, err := tx.PutHold(h); err != nil {
					return err
				}
			}
			e.kickOthers(tx, h, con.ID)
		default:
			done.State = staunch.StepReverting
			h.State, h.Changed = staunch.HoldReleasing, now
			if _, err := tx.PutHold(h); err != nil {
				return err
			}
		}
		if err := tx.PutStep(done); err != nil {
			return err
		}
		return record(tx, staunch.RecordRevert, "engine", con.ID, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "intent": s.Intent.Undo, "state": done.State, "note": done.Note,
			"inherited": s.State == staunch.StepShared,
		})
	})
	if err != nil || done.State != staunch.StepReverting {
		return err
	}
	crashpoint.Here("revert.intended")
	return e.undo(ctx, c, done)
}

// stillNeeds reports whether another of the case's own steps has the same hold
// and is still to be undone.
func stillNeeds(c Case, s staunch.Step) bool {
	return slices.ContainsFunc(c.Steps, func(o staunch.Step) bool {
		return o.ID != s.ID && o.Hold == s.Hold && !over(o.State)
	})
}

// undo undoes the last of what is left of a hold's steps, whichever case made
// it, and ends the hold with the step s when nothing is left. Each step is
// committed before the one under it is touched, since its pre-image is the
// other's post-image.
func (e *Engine) undo(ctx context.Context, c Case, s staunch.Step) error {
	conn, err := e.connectorOf(s)
	if err != nil {
		return e.diverged(ctx, c, s, err.Error())
	}
	m, left, err := e.top(ctx, s.Hold)
	if err != nil {
		return err
	}
	if left == 0 {
		return e.undone(ctx, c, s, staunch.Step{})
	}
	if m.Intent.Reversibility != staunch.Irreversible {
		in, why, err := e.intent(ctx, m)
		switch {
		case errors.Is(err, errLost):
			return e.diverged(ctx, c, s, err.Error())
		case err != nil:
			return err
		case why != "":
			return e.diverged(ctx, c, s, why)
		}
		// A deadline beyond what a call may take was set while the clock was wrong.
		now := staunch.TimeOf(e.opt.Clock.Now())
		if until := max(m.Intent.Deadline, s.Intent.Deadline); until > now && until <= now.Add(2*e.opt.CallTimeout) {
			s.NotBefore, s.Note = until, "a call without an answer may still take effect"
			return e.putStep(ctx, c, s, nil)
		}
		cctx, cancel, err := e.changing(ctx, c)
		if err != nil {
			return err
		}
		crashpoint.Here("revert.call")
		_, err = conn.Revert(cctx, in)
		crashpoint.Here("revert.called")
		cancel()
		if errors.Is(err, staunch.ErrConflict) {
			return e.diverged(ctx, c, s, err.Error())
		}
		if err != nil {
			return e.undoFailed(ctx, c, s, err)
		}
		if m.Intent.Reversibility == staunch.Reversible {
			cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
			st, err := conn.Read(cctx, m.Target, true)
			crashpoint.Here("revert.read")
			cancel()
			if err != nil {
				return e.undoFailed(ctx, c, s, err)
			}
			if staunch.Digest(st.Body) != m.PreImageDigest && !conn.Matches(in.PreImage, st) {
				return e.undoFailed(ctx, c, s, staunch.Transient(fmt.Errorf("after the undo it reads: %s", st.Summary)))
			}
			s.After, m.After = st.Summary, st.Summary
		}
	}
	return e.undone(ctx, c, s, m)
}

// undone commits that the hold's step m is undone, or cannot be, and what that
// means to the hold and to the step s that is being reverted. m is zero when
// nothing was left.
func (e *Engine) undone(ctx context.Context, c Case, s, m staunch.Step) error {
	own := s
	return e.commit(ctx, c, func(tx store.Tx, con *staunch.Containment) error {
		s := own
		now := staunch.TimeOf(e.opt.Clock.Now())
		h, err := tx.Hold(s.Hold)
		if err != nil {
			return err
		}
		h.Changed = now
		final := staunch.StepReverted
		if m.ID != "" {
			h.Steps = without(h.Steps, m.ID)
			if m.Intent.Reversibility == staunch.Irreversible {
				h.Note = cannotUndo + m.Intent.Undo
				final = staunch.StepKept
			}
			if m.ID != s.ID {
				m := m
				m.State, m.Reverted, m.Note = final, now, "undone with "+con.ID
				if final == staunch.StepKept {
					m.Note = h.Note
				}
				if m.Containment == con.ID {
					m.Generation = con.Generation
				}
				if err := tx.PutStep(m); err != nil {
					return err
				}
			}
			if err := tx.Shred(images(m)...); err != nil {
				return err
			}
		}
		s.Generation, s.Attempts, s.Refused, s.NotBefore = con.Generation, 0, 0, 0
		if len(h.Steps) == 0 {
			kept := strings.HasPrefix(h.Note, cannotUndo)
			s.State, s.Reverted, s.Note = staunch.StepReverted, now, ""
			h.State, h.Claims = staunch.HoldReleased, nil
			if kept {
				s.State, s.Note = staunch.StepKept, h.Note
				h.State = staunch.HoldKept
				if con.Release != nil {
					con.Release.Kept = append(con.Release.Kept, s.Target.String()+": "+h.Note)
				}
			}
		}
		if _, err := tx.PutHold(h); err != nil {
			return err
		}
		if err := tx.PutStep(s); err != nil {
			return err
		}
		return record(tx, staunch.RecordRevert, "engine", con.ID, now, map[string]any{
			"step": s.ID, "of": m.ID, "target": s.Target.String(), "state": s.State, "after": s.After, "note": s.Note,
		})
	})
}

// cannotUndo begins the note of a hold that ends with something irreversible.
const cannotUndo = "it cannot be undone: "

// images returns the ids of the step's sealed states.
func images(s staunch.Step) []string {
	var out []string
	for _, id := range []string{s.PreImage, s.PostImage} {
		if id != "" {
			out = append(out, id)
		}
	}
	return out
}

// top returns the last of the steps of a hold that are not undone yet, and how
// many there are.
func (e *Engine) top(ctx context.Context, hold string) (m staunch.Step, left int, err error) {
	err = e.opt.Store.View(ctx, func(r store.Reader) error {
		h, err := r.Hold(hold)
		if err != nil {
			return err
		}
		if left = len(h.Steps); left == 0 {
			return nil
		}
		m, err = r.Step(h.Steps[left-1])
		return err
	})
	return m, left, err
}

func (e *Engine) undoFailed(ctx context.Context, c Case, s staunch.Step, err error) error {
	s.Attempts++
	s.Note = err.Error()
	since := c.Containment.Changed
	if r := c.Containment.Release; r != nil {
		since = r.At
	}
	cl := staunch.ClassOf(err)
	if cl == staunch.ClassUnknown {
		e.unanswered(&s)
	}
	if !e.outlasted(since) && mayPass(&s, cl) {
		return e.tryLater(ctx, c, s)
	}
	if e.outlasted(since) || cl == staunch.ClassPermanent || cl == staunch.ClassDenied {
		return e.diverged(ctx, c, s, fmt.Sprintf("the undo failed: %v", err))
	}
	return e.tryLater(ctx, c, s)
}

// diverged leaves a step to a person: writing the pre-image would overwrite
// what somebody else did. When the person releases the case once more and it
// still does not go, it stays as it is.
func (e *Engine) diverged(ctx context.Context, c Case, s staunch.Step, why string) error {
	again := s.Reverted != 0
	s.State, s.Note = staunch.StepDiverged, why
	if again {
		s.State = staunch.StepKept
	}
	s.Reverted = staunch.TimeOf(e.opt.Clock.Now())
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		if err := e.setHold(tx, s.Hold, staunch.HoldKept, why, now); err != nil {
			return err
		}
		if again && con.Release != nil {
			con.Release.Kept = append(con.Release.Kept, s.Target.String()+": left as it is: "+why)
		}
		return record(tx, staunch.RecordRevert, "engine", con.ID, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "state": s.State, "note": why,
		})
	})
}

// finish ends a case whose steps are undone: guard holds go, but for those on
// possibly stolen secrets, caps are given back, and sealed states are shredded.
// Where something could not be put back, caps and states wait for a person.
func (e *Engine) finish(tx store.Tx, c Case, con *staunch.Containment, now staunch.Time) error {
	diverged := ""
	gone := map[staunch.Ref]bool{} // secrets that nothing brings back
	for _, s := range c.Steps {
		switch {
		case s.State == staunch.StepDiverged:
			diverged = s.Target.String() + ": " + s.Note
		case s.State == staunch.StepKept && s.Intent.Reversibility == staunch.Irreversible:
			gone[s.Target.Ref] = true
		}
	}
	holds, err := tx.HoldsClaimedBy(con.ID)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if h.Plane == staunch.PlaneGuard && claims(h, con.ID) {
			if err := e.letGo(tx, h, con, gone[h.Target.Ref], now); err != nil {
				return err
			}
		}
	}
	con.Expires, con.WindowEnds, con.Replan = 0, 0, false
	if diverged != "" {
		// What it took away is still away, so that it keeps its places.
		con.Phase = staunch.PhaseStuck
		con.Trouble = "not everything could be put back: " + diverged
		return nil
	}
	if e.opt.Released != nil {
		if err := e.opt.Released(tx, *con); err != nil {
			return err
		}
	}
	if err := giveBack(tx, con.Caps); err != nil {
		return err
	}
	con.Caps = nil
	con.Phase = staunch.PhaseReleased
	con.Trouble = ""
	var shred []string
	for _, h := range holds {
		if h.Plane != staunch.PlanePlatform {
			continue
		}
		if claims(h, con.ID) { // kept: it is nobody's any more
			h.Claims, h.Changed = without(h.Claims, con.ID), now
			if _, err := tx.PutHold(h); err != nil {
				return err
			}
		}
		if h.Active() && (h.State != staunch.HoldKept || len(h.Claims) > 0) {
			continue // another case still needs the pre-images, if it is stuck
		}
		for _, id := range h.Steps {
			m, err := tx.Step(id)
			if err != nil {
				return err
			}
			shred = append(shred, images(m)...)
		}
		for _, s := range c.Steps {
			if s.Hold == h.ID {
				shred = append(shred, images(s)...)
			}
		}
	}
	if err := tx.Shred(shred...); err != nil {
		return err
	}
	return tx.ReleaseLease("con/"+con.ID, e.owner)
}

// letGo takes the case's claim off a guard hold. What the other claims ask for
// stays in force; the last one ends the hold, but for a possibly stolen secret.
func (e *Engine) letGo(tx store.Tx, h staunch.Hold, con *staunch.Containment, gone bool, now staunch.Time) error {
	h.Claims = without(h.Claims, con.ID)
	if len(h.Claims) > 0 {
		return e.putGuardHold(tx, h, nil, now)
	}
	k := h.Target.Ref.Kind
	secret := k == staunch.KindCredential || k == staunch.KindSession
	revive := con.Release != nil && (con.Release.Revive || con.Release.TokenLife > 0)
	switch {
	case len(h.Deny) > 0 && (gone || secret && !revive):
		h.State = staunch.HoldKept
		h.Note = "a possibly stolen secret; the release does not revive it"
		h.Message = "kept after the release of " + con.ID
		if con.Release != nil {
			con.Release.Kept = append(con.Release.Kept, h.Target.Ref.String()+": "+h.Note)
		}
	default:
		h.State = staunch.HoldReleased
	}
	h.Changed = now
	h, err := tx.PutHold(h)
	if err != nil {
		return err
	}
	tx.OnCommit(func() { e.opt.Guard.Apply(h) })
	return nil
}
