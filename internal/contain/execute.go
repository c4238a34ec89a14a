package contain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

// intent returns what Apply and Revert are given: the durable intent with its
// pre-image opened and a deadline.
func (e *Engine) intent(ctx context.Context, s staunch.Step) (staunch.Intent, error) {
	in := s.Intent
	var blob []byte
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		var err error
		blob, err = r.Sealed(s.PreImage)
		return err
	})
	if err != nil {
		return in, fmt.Errorf("reading the pre-image of %s: %w", s.Target, err)
	}
	plain, err := e.opt.Sealer.Unseal(s.PreImage, blob)
	if err != nil {
		return in, fmt.Errorf("opening the pre-image of %s: %w", s.Target, err)
	}
	if err := json.Unmarshal(plain, &in.PreImage); err != nil {
		return in, fmt.Errorf("decoding the pre-image of %s: %w", s.Target, err)
	}
	in.Deadline, _ = e.deadline()
	return in, nil
}

// apply calls the platform for a step whose intent is durable (invariant I3),
// reads the target back, and commits receipt and post-image.
func (e *Engine) apply(ctx context.Context, c Case, id string, j *job) error {
	s, err := findStep(c, id)
	if err != nil {
		return err
	}
	delete(j.fresh, id) // from here on it may have been sent
	if why := e.Untouchable(s.Target.Ref); why != "" {
		return e.failed(ctx, c, s, why)
	}
	conn, err := e.connectorOf(s)
	if err != nil {
		return e.failed(ctx, c, s, err.Error())
	}
	in, err := e.intent(ctx, s)
	if err != nil {
		return err
	}
	cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	crashpoint.Here("apply.call")
	receipt, err := conn.Apply(cctx, in)
	crashpoint.Here("apply.called")
	cancel()
	s.Attempts++
	if err != nil {
		return e.applyFailed(ctx, c, s, err, j)
	}
	if receipt.At == 0 {
		receipt.At = staunch.TimeOf(e.opt.Clock.Now())
	}
	s.Receipt, s.Applied, s.State = &receipt, receipt.At, staunch.StepApplied
	return e.readBack(ctx, c, s, conn)
}

func (e *Engine) applyFailed(ctx context.Context, c Case, s staunch.Step, err error, j *job) error {
	s.Note = err.Error()
	switch class := staunch.ClassOf(err); {
	case class == staunch.ClassUnknown:
		s.State = staunch.StepUnknown
	case class == staunch.ClassTransient && s.Attempts < MaxAttempts:
		s.State = staunch.StepIntended
	default:
		return e.failed(ctx, c, s, fmt.Sprintf("%s: %v", class, err))
	}
	s.NotBefore = staunch.TimeOf(e.opt.Clock.Now()).Add(backoff(s.Attempts))
	again := s.State == staunch.StepIntended
	if err := e.putStep(ctx, c, s, nil); err != nil {
		return err
	}
	if again {
		j.fresh[s.ID] = true // nothing was changed: no look is needed
	}
	return nil
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
		return e.failed(ctx, c, s, err.Error())
	}
	cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	st, err := conn.Read(cctx, s.Target, false)
	crashpoint.Here("look.read")
	cancel()
	if err != nil {
		return e.readFailed(ctx, c, s, err)
	}
	if conn.Matches(s.Intent.Expected, st) && !st.Effective {
		return e.wasRead(ctx, c, s, conn, st)
	}
	if s.Attempts >= MaxAttempts {
		return e.failed(ctx, c, s, "it did not take effect: "+st.Summary)
	}
	return e.apply(ctx, c, id, j)
}

func (e *Engine) readFailed(ctx context.Context, c Case, s staunch.Step, err error) error {
	s.Note = err.Error()
	s.Attempts++
	if cl := staunch.ClassOf(err); s.Attempts >= 2*MaxAttempts || cl == staunch.ClassPermanent || cl == staunch.ClassDenied {
		return e.failed(ctx, c, s, fmt.Sprintf("its state cannot be read: %v", err))
	}
	s.NotBefore = staunch.TimeOf(e.opt.Clock.Now()).Add(backoff(s.Attempts))
	return e.putStep(ctx, c, s, nil)
}

// readBack reads the target after a call and commits what it found together
// with the receipt.
func (e *Engine) readBack(ctx context.Context, c Case, s staunch.Step, conn connector.Connector) error {
	cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	st, err := conn.Read(cctx, s.Target, false)
	crashpoint.Here("apply.read")
	cancel()
	if err != nil {
		return e.readFailed(ctx, c, s, err)
	}
	if conn.Matches(s.Intent.Expected, st) {
		return e.wasRead(ctx, c, s, conn, st)
	}
	// The platform may need a moment, or somebody worked against us.
	s.Note = "after the call: " + st.Summary
	if s.Attempts >= MaxAttempts {
		return e.failed(ctx, c, s, "it did not take effect: "+st.Summary)
	}
	s.NotBefore = staunch.TimeOf(e.opt.Clock.Now()).Add(backoff(s.Attempts))
	return e.putStep(ctx, c, s, nil)
}

// wasRead commits a step whose read agrees; it is to be swept and proven next.
func (e *Engine) wasRead(ctx context.Context, c Case, s staunch.Step, conn connector.Connector, st staunch.State) error {
	now := staunch.TimeOf(e.opt.Clock.Now())
	s.State, s.Note, s.After = staunch.StepRead, "", st.Summary
	if s.Applied == 0 {
		s.Applied = now
	}
	s.NotBefore = now
	if spec, ok := specFor(conn.Describe(), s.Verb, s.Target); ok {
		if len(spec.Sweeps) > 0 {
			s.NotBefore = now.Add(spec.Sweeps[0])
		} else {
			s.NotBefore = now.Add(spec.Propagation)
		}
	}
	body, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encoding the post-image of %s: %w", s.Target, err)
	}
	s.PostImage, s.PostImageDigest = "post/"+s.ID, staunch.Digest(st.Body)
	blob, err := e.opt.Sealer.Seal(s.PostImage, body)
	if err != nil {
		return fmt.Errorf("sealing the post-image of %s: %w", s.Target, err)
	}
	return e.putStep(ctx, c, s, func(tx store.Tx, _ *staunch.Containment, now staunch.Time) error {
		if err := tx.PutSealed(s.PostImage, blob); err != nil {
			return err
		}
		if err := e.setHold(tx, s.Hold, staunch.HoldInForce, "", now); err != nil {
			return err
		}
		return record(tx, staunch.RecordReceipt, "engine", s.Containment, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "receipt": s.Receipt,
			"post_image": s.PostImageDigest, "after": s.After, "attempts": s.Attempts,
		})
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
	h.State, h.Changed = st, now
	if note != "" {
		h.Note = note
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
// goes on with its other steps.
func (e *Engine) failed(ctx context.Context, c Case, s staunch.Step, why string) error {
	s.State, s.Note = staunch.StepFailed, why
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		con.Trouble = fmt.Sprintf("%s on %s failed: %s", s.Verb, s.Target, why)
		if h, err := tx.Hold(s.Hold); err != nil {
			return err
		} else if h.State == staunch.HoldPending {
			if err := e.setHold(tx, s.Hold, staunch.HoldFailed, why, now); err != nil {
				return err
			}
		}
		if err := e.notices(tx, "trouble", *con, []staunch.Step{s}, now); err != nil {
			return err
		}
		return record(tx, staunch.RecordReceipt, "engine", s.Containment, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "verb": s.Verb, "failed": why, "attempts": s.Attempts,
		})
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
		return e.failed(ctx, c, s, err.Error())
	}
	if why := e.Untouchable(s.Target.Ref); why != "" {
		return e.failed(ctx, c, s, why)
	}
	in, err := e.intent(ctx, s)
	if err != nil {
		return err
	}
	cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	crashpoint.Here("sweep.call")
	receipt, err := conn.Apply(cctx, in)
	crashpoint.Here("sweep.called")
	cancel()
	spec, _ := specFor(conn.Describe(), s.Verb, s.Target)
	now := staunch.TimeOf(e.opt.Clock.Now())
	s.Attempts++
	if err != nil {
		s.Note = err.Error()
		if s.Attempts >= MaxAttempts+len(spec.Sweeps) {
			return e.failed(ctx, c, s, fmt.Sprintf("sweep: %v", err))
		}
		s.NotBefore = now.Add(backoff(s.Attempts))
		return e.putStep(ctx, c, s, nil)
	}
	s.Sweeps++
	s.Note = ""
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
		return e.failed(ctx, c, s, err.Error())
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
		in, err := e.intent(ctx, s)
		if err != nil {
			return err
		}
		pr, err := p.Probe(cctx, in)
		switch {
		case err != nil:
			return e.readFailed(ctx, c, s, err)
		case pr.Conclusive:
			ok = !pr.Works
			how += "; probe: " + pr.How
		}
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	if !ok {
		if now.Sub(s.Applied) > provingTime {
			return e.failed(ctx, c, s, "not proven: "+how)
		}
		s.Note = "not proven yet: " + how
		s.Attempts++
		if s.Attempts%2 == 0 && s.Attempts < 2*MaxAttempts {
			return e.apply(ctx, c, id, j) // somebody may be working against us
		}
		s.NotBefore = now.Add(backoff(s.Attempts))
		return e.putStep(ctx, c, s, nil)
	}
	s.State, s.Proven, s.Note, s.After = staunch.StepProven, now, "", how
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		if err := e.setHold(tx, s.Hold, staunch.HoldProven, "", now); err != nil {
			return err
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
			if con.EffectAt == 0 && effective(c) {
				con.EffectAt = now
				event = "contained"
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
			if err := e.guardFor(tx, *con, guardRefs(c, *con), now); err != nil {
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
	return slices.ContainsFunc(c.Holds, func(h staunch.Hold) bool { return h.Plane == staunch.PlaneGuard && h.Active() })
}

// guardRefs returns what the case's guard holds are on, its subject first.
func guardRefs(c Case, con staunch.Containment) []staunch.Ref {
	refs := []staunch.Ref{con.Subject}
	for _, h := range c.Holds {
		if h.Plane == staunch.PlaneGuard && h.Active() && !slices.Contains(refs, h.Target.Ref) {
			refs = append(refs, h.Target.Ref)
		}
	}
	return refs
}

// expire does what the playbook says when the case runs out; by default it
// keeps everything in force and tells people (invariant I8).
func (e *Engine) expire(_ store.Tx, c Case, con *staunch.Containment, now staunch.Time) (event string, err error) {
	if con.Phase == staunch.PhaseApproval {
		con.Release = &staunch.Release{Reason: "nobody approved it in time", By: "engine", At: now}
		con.Phase, con.Expires = staunch.PhaseReleasing, 0
		return "expired", nil
	}
	switch con.Playbook.OnExpiry {
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
func (e *Engine) revert(ctx context.Context, c Case, id string) error {
	s, err := findStep(c, id)
	if err != nil {
		return err
	}
	con := c.Containment
	// First the intent to undo is durable, with the claim let go of; who else
	// claims the hold keeps its effect.
	var shared, moved bool
	if s.State != staunch.StepReverting {
		err = e.commit(ctx, c, func(tx store.Tx, _ *staunch.Containment) error {
			now := staunch.TimeOf(e.opt.Clock.Now())
			shared, moved = false, false
			h, err := tx.Hold(s.Hold)
			if err != nil {
				return err
			}
			others := slices.DeleteFunc(slices.Clone(h.Claims), func(id string) bool { return id == con.ID })
			if len(others) > 0 {
				// The effect outlives this case; the hold keeps our step and its
				// pre-image for the last one.
				shared = true
				if !e.stillNeeds(c, s) {
					h.Claims = others
					h.Changed = now
					if _, err := tx.PutHold(h); err != nil {
						return err
					}
				}
				s.State, s.Note, s.Reverted = staunch.StepReverted, "left in force for "+others[0], now
			} else {
				h.State, h.Changed = staunch.HoldReleasing, now
				if _, err := tx.PutHold(h); err != nil {
					return err
				}
				if s.State == staunch.StepShared {
					// Its maker has let go already: its steps are ours to undo.
					moved = true
				}
				s.State, s.Attempts, s.NotBefore = staunch.StepReverting, 0, 0
			}
			s.Generation = con.Generation
			if err := tx.PutStep(s); err != nil {
				return err
			}
			return record(tx, staunch.RecordRevert, "engine", con.ID, now, map[string]any{
				"step": s.ID, "target": s.Target.String(), "intent": s.Intent.Undo, "state": s.State, "note": s.Note, "inherited": moved,
			})
		})
		if err != nil || shared {
			return err
		}
		crashpoint.Here("revert.intended")
	}
	return e.undo(ctx, c, s)
}

// stillNeeds reports whether another of the case's own steps has the same hold
// and is still to be undone.
func (e *Engine) stillNeeds(c Case, s staunch.Step) bool {
	for _, o := range c.Steps {
		if o.ID != s.ID && o.Hold == s.Hold {
			switch o.State {
			case staunch.StepReverted, staunch.StepKept, staunch.StepVoid, staunch.StepDiverged:
			default:
				return true
			}
		}
	}
	return false
}

// undo calls Revert for what the step, or the steps whose work it shared, did.
func (e *Engine) undo(ctx context.Context, c Case, s staunch.Step) error {
	conn, err := e.connectorOf(s)
	if err != nil {
		return e.diverged(ctx, c, s, err.Error())
	}
	makers := []staunch.Step{s}
	if s.PreImage == "" { // shared: undo what the hold's steps did, last first
		if makers, err = e.makers(ctx, s.Hold); err != nil {
			return err
		}
	}
	var kept string
	for _, m := range makers {
		if m.Intent.Reversibility == staunch.Irreversible {
			kept = "it cannot be undone: " + m.Intent.Undo
			continue
		}
		if why := e.Untouchable(m.Target.Ref); why != "" {
			return e.diverged(ctx, c, s, why)
		}
		in, err := e.intent(ctx, m)
		if err != nil {
			return err
		}
		cctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
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
			s.After = st.Summary
		}
	}
	s.State, s.Reverted = staunch.StepReverted, staunch.TimeOf(e.opt.Clock.Now())
	s.Note = ""
	if kept != "" {
		s.State, s.Note = staunch.StepKept, kept
	}
	more := e.stillNeeds(c, s)
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		h, err := tx.Hold(s.Hold)
		if err != nil {
			return err
		}
		if !more {
			h.State, h.Claims = staunch.HoldReleased, nil
			if kept != "" {
				h.State, h.Note = staunch.HoldKept, kept
			}
			h.Changed = now
			if _, err := tx.PutHold(h); err != nil {
				return err
			}
		}
		if kept != "" && con.Release != nil {
			con.Release.Kept = append(con.Release.Kept, s.Target.String()+": "+kept)
		}
		return record(tx, staunch.RecordRevert, "engine", con.ID, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "state": s.State, "after": s.After, "note": s.Note,
		})
	})
}

// makers returns the steps that made a hold's effect, the last first.
func (e *Engine) makers(ctx context.Context, hold string) ([]staunch.Step, error) {
	var out []staunch.Step
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		out = out[:0]
		h, err := r.Hold(hold)
		if err != nil {
			return err
		}
		for i := len(h.Steps) - 1; i >= 0; i-- {
			m, err := r.Step(h.Steps[i])
			if err != nil {
				return err
			}
			out = append(out, m)
		}
		return nil
	})
	return out, err
}

func (e *Engine) undoFailed(ctx context.Context, c Case, s staunch.Step, err error) error {
	s.Attempts++
	s.Note = err.Error()
	cl := staunch.ClassOf(err)
	if s.Attempts >= 2*MaxAttempts || cl == staunch.ClassPermanent || cl == staunch.ClassDenied {
		return e.diverged(ctx, c, s, fmt.Sprintf("the undo failed: %v", err))
	}
	s.NotBefore = staunch.TimeOf(e.opt.Clock.Now()).Add(backoff(s.Attempts))
	return e.putStep(ctx, c, s, nil)
}

// diverged leaves a step to a person: writing the pre-image would overwrite
// what somebody else did.
func (e *Engine) diverged(ctx context.Context, c Case, s staunch.Step, why string) error {
	s.State, s.Note = staunch.StepDiverged, why
	return e.putStep(ctx, c, s, func(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
		if err := e.setHold(tx, s.Hold, staunch.HoldKept, why, now); err != nil {
			return err
		}
		return record(tx, staunch.RecordRevert, "engine", con.ID, now, map[string]any{
			"step": s.ID, "target": s.Target.String(), "state": s.State, "note": why,
		})
	})
}

// finish ends a case whose steps are undone: guard holds go, but for those on
// possibly stolen secrets, caps are given back, and sealed states are shredded.
func (e *Engine) finish(tx store.Tx, c Case, con *staunch.Containment, now staunch.Time) error {
	diverged := ""
	stolen := map[staunch.Ref]bool{}
	for _, s := range c.Steps {
		switch s.State {
		case staunch.StepDiverged:
			diverged = s.Target.String() + ": " + s.Note
		case staunch.StepKept:
			stolen[s.Target.Ref] = true
		}
	}
	revive := con.Release != nil && con.Release.Revive
	holds, err := tx.HoldsClaimedBy(con.ID)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if h.Plane != staunch.PlaneGuard || !h.Active() || h.State == staunch.HoldKept {
			continue
		}
		h.Claims = slices.DeleteFunc(slices.Clone(h.Claims), func(id string) bool { return id == con.ID })
		h.Changed = now
		if len(h.Claims) == 0 {
			k := h.Target.Ref.Kind
			secret := k == staunch.KindCredential || k == staunch.KindSession
			if stolen[h.Target.Ref] || secret && !revive {
				h.State = staunch.HoldKept
				h.Note = "a possibly stolen secret; the release does not revive it"
				h.Message = "kept after the release of " + con.ID
				con.Release.Kept = append(con.Release.Kept, h.Target.Ref.String()+": "+h.Note)
			} else {
				h.State = staunch.HoldReleased
			}
		}
		if h, err = tx.PutHold(h); err != nil {
			return err
		}
		tx.OnCommit(func() { e.opt.Guard.Apply(h) })
	}
	if err := giveBack(tx, con.Caps); err != nil {
		return err
	}
	con.Caps = nil
	con.Expires, con.WindowEnds = 0, 0
	if diverged != "" {
		con.Phase = staunch.PhaseStuck
		con.Trouble = "not everything could be put back: " + diverged
		return nil
	}
	con.Phase = staunch.PhaseReleased
	con.Trouble = ""
	var shred []string
	for _, s := range c.Steps {
		h, err := tx.Hold(s.Hold)
		if err != nil {
			return err
		}
		if h.Active() && h.State != staunch.HoldKept {
			continue // another case still needs the pre-image
		}
		for _, id := range []string{s.PreImage, s.PostImage} {
			if id != "" {
				shred = append(shred, id)
			}
		}
	}
	if err := tx.Shred(shred...); err != nil {
		return err
	}
	return tx.ReleaseLease("con/"+con.ID, e.opt.Node)
}
