package contain

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/crashpoint"
	"github.com/staunch-project/staunch/internal/store"
)

// RevivalError says that a release would bring possibly stolen secrets back to
// life, and which.
type RevivalError struct {
	// Items says what would work again, one line each.
	Items []string
}

// Error lists what would be revived.
func (r *RevivalError) Error() string {
	return fmt.Sprintf("the release would revive %d possibly stolen secret(s): %v", len(r.Items), r.Items)
}

// Unwrap makes it a conflict: it can be confirmed.
func (r *RevivalError) Unwrap() error { return staunch.ErrConflict }

// Revivals returns what releasing the case would bring back to life.
func Revivals(c Case) []string {
	var out []string
	for _, s := range c.Steps {
		if revives(c, s) {
			out = append(out, fmt.Sprintf("%s: %s", s.Target, s.Intent.Undo))
		}
	}
	for _, h := range c.Holds {
		if readmits(c, h) {
			out = append(out, h.Target.Ref.String()+": accepted again on the fast plane")
		}
	}
	return out
}

// revives reports whether undoing a step lets a secret work again.
func revives(c Case, s staunch.Step) bool {
	return s.Intent.Revives && !over(s.State) && lastClaim(c, holdOf(c, s))
}

// readmits reports whether the end of a hold has the fast plane accept a secret
// again: one that nothing ended for good.
func readmits(c Case, h staunch.Hold) bool {
	if h.Plane != staunch.PlaneGuard || !h.Active() || h.State == staunch.HoldKept || len(h.Deny) == 0 || !lastClaim(c, h) {
		return false
	}
	if k := h.Target.Ref.Kind; k != staunch.KindCredential && k != staunch.KindSession {
		return false
	}
	return !slices.ContainsFunc(c.Steps, func(s staunch.Step) bool {
		return s.Target.Ref == h.Target.Ref && s.Intent.Reversibility == staunch.Irreversible && s.State != staunch.StepFailed && s.State != staunch.StepVoid
	})
}

// outlived returns an error unless all that a release would bring back to life was
// denied for longer than it lives.
func outlived(c Case, life staunch.Duration, now staunch.Time) error {
	for _, s := range c.Steps {
		if revives(c, s) {
			return fmt.Errorf("%w: what %s lets in again (%s) has no end of its own to be waited for", staunch.ErrConflict, s.Target, s.Intent.Undo)
		}
	}
	for _, h := range c.Holds {
		if readmits(c, h) && now < h.Since.Add(life.Std()) {
			return fmt.Errorf("%w: %s is denied since %s; what lives for %s has run out at %s", staunch.ErrConflict, h.Target.Ref, h.Since, life.Std(), h.Since.Add(life.Std()))
		}
	}
	return nil
}

// lastClaim reports whether this case is the only one that claims the hold, so
// that releasing the case undoes it.
func lastClaim(c Case, h staunch.Hold) bool {
	return claims(h, c.Containment.ID) && len(h.Claims) == 1
}

// change reads the case, lets fn change it under the next generation, and
// commits it with a record, in the caller's transaction.
func (e *Engine) change(tx store.Tx, id, who, what string, fn func(c Case, con *staunch.Containment, now staunch.Time) error) (staunch.Containment, error) {
	c, err := ReadCase(tx, id)
	if err != nil {
		return staunch.Containment{}, err
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	con := c.Containment
	from := con.Phase
	if err := fn(c, &con, now); err != nil {
		return staunch.Containment{}, err
	}
	con.Generation++
	con.Changed = now
	if err := tx.PutContainment(con); err != nil {
		return staunch.Containment{}, err
	}
	if err := e.putTimer(tx, con); err != nil {
		return staunch.Containment{}, err
	}
	kind := staunch.RecordContainment
	if what == "release" || what == "clear" {
		kind = staunch.RecordRelease
	}
	said := map[string]any{
		"request": what, "from": from, "phase": con.Phase, "generation": con.Generation,
		"release": con.Release, "expires": con.Expires, "window_ends": con.WindowEnds,
	}
	if n := len(con.Approvals); what == "approve" && n > 0 {
		said["approval"], said["approvals"], said["persons"] = con.Approvals[n-1], n, con.Asked.Persons
	}
	if err := record(tx, kind, who, id, now, said); err != nil {
		return staunch.Containment{}, err
	}
	crashpoint.Here("request.written")
	e.tellFollowers(tx, c.Containment, con)
	tx.OnCommit(func() { crashpoint.Here("request.committed") })
	tx.OnCommit(func() { e.Kick(id) })
	return con, nil
}

func wrongPhase(what string, p staunch.Phase, want string) error {
	return fmt.Errorf("%w: cannot %s a case that is %s (%s)", staunch.ErrConflict, what, p, want)
}

// Release has the case undone. A case that is stuck because something could not
// be put back is tried once more; what still cannot be is then left as it is.
// Where that would revive a possibly stolen
// secret, r must confirm it (Revive), say that the secret was rotated first
// (Rotated), or that it has run out by itself (TokenLife); otherwise the error is
// a *RevivalError and nothing changes.
func (e *Engine) Release(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error) {
	return e.release(tx, id, "release", r, func(p staunch.Phase) bool {
		return p.Open() && p != staunch.PhaseReleasing
	})
}

// Clear ends a verification window in the subject's favour: the case is
// released without its further stages, under the same rule about revival.
func (e *Engine) Clear(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error) {
	return e.release(tx, id, "clear", r, func(p staunch.Phase) bool { return p == staunch.PhaseWindow })
}

func (e *Engine) release(tx store.Tx, id, what string, r staunch.Release, may func(staunch.Phase) bool) (staunch.Containment, error) {
	return e.change(tx, id, r.By, what, func(c Case, con *staunch.Containment, now staunch.Time) error {
		if !may(con.Phase) {
			if what == "clear" {
				return wrongPhase(what, con.Phase, "it is not in a verification window; use release")
			}
			return wrongPhase(what, con.Phase, "there is nothing to release")
		}
		if !r.Verdict.Valid() {
			return notJudgement(r.Verdict)
		}
		if items := Revivals(c); len(items) > 0 && !r.Revive && !r.Rotated {
			if r.TokenLife <= 0 {
				return &RevivalError{Items: items}
			}
			if err := outlived(c, r.TokenLife, now); err != nil {
				return err
			}
		}
		r.At = now
		con.Release = &r
		con.Phase = staunch.PhaseReleasing
		con.WindowEnds = 0
		con.Replan = false
		if r.Verdict != "" {
			if err := e.judge(tx, con, staunch.Judged{Verdict: r.Verdict, By: r.By, Reason: r.Reason, At: now}); err != nil {
				return err
			}
		}
		for _, s := range c.Steps {
			if s.State == staunch.StepDiverged {
				s.State, s.Attempts, s.Refused, s.NotBefore = staunch.StepUnknown, 0, 0, 0
				if err := tx.PutStep(s); err != nil {
					return err
				}
			}
		}
		if con.Drill != "" {
			return nil // of what is real it settles nothing
		}
		// What was known until now is settled: the same evidence does not contain
		// the subject again.
		return settle(tx, con.Names, con.Subject, now)
	})
}

// judge gives the case a verdict, or corrects the one that it has. A drill says
// nothing of rules.
func (e *Engine) judge(tx store.Tx, con *staunch.Containment, v staunch.Judged) error {
	if con.Drill != "" {
		return nil
	}
	was := con.Judged
	switch {
	case was == nil:
		v.Given = 1
	case was.Verdict == v.Verdict:
		v = *was // once more; it may have to count for rules that came since
	default:
		v.Given = was.Given + 1
	}
	con.Judged = &v
	if e.opt.Judged == nil {
		return nil
	}
	rules, err := e.opt.Judged(tx, *con, was, staunch.TimeOf(e.opt.Clock.Now()))
	v.Rules = rules
	return err
}

// Judge has a person say of a case whose release was asked for whether it was
// called for, or correct what was said of it. The same verdict again changes
// nothing. The course of the case is left alone, and so are its releases: a case
// that was wrong gives its rules less trust, and nothing back.
func (e *Engine) Judge(tx store.Tx, id, who string, j staunch.Judgement, reason string) (staunch.Containment, error) {
	con, err := tx.Containment(id)
	if err != nil {
		return con, err
	}
	was := con.Judged
	switch {
	case j == "" || !j.Valid():
		return con, notJudgement(j)
	case con.Drill != "":
		return con, wrongPhase("judge", con.Phase, "it is a drill, which says nothing of rules")
	case con.Release == nil:
		return con, wrongPhase("judge", con.Phase, "it is judged when it is released, or later; release takes a verdict")
	case was != nil && was.Verdict == j:
		return con, nil
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	if err := e.judge(tx, &con, staunch.Judged{Verdict: j, By: who, Reason: reason, At: now}); err != nil {
		return con, err
	}
	if err := tx.PutContainment(con); err != nil {
		return con, err
	}
	return con, record(tx, staunch.RecordTrust, who, id, now, map[string]any{"request": "judge", "judged": con.Judged, "was": was})
}

func notJudgement(j staunch.Judgement) error {
	return &staunch.Problem{Place: "verdict", Reason: fmt.Sprintf("%.40q is not wrong or right", j)}
}

// settledCursor names the cursor that has the instant up to which evidence
// against a subject is settled.
func settledCursor(ref staunch.Ref) string { return SettledPrefix + ref.Key() }

// SettledPrefix begins the names of those cursors.
const SettledPrefix = "settled/"

// SettledOver reports whether such a cursor settles nothing: there are no signals of
// before the instant that count.
func SettledOver(value string, instant staunch.Time) bool {
	n, err := strconv.ParseInt(value, 10, 64)
	return err == nil && staunch.Time(n) < instant
}

func settle(tx store.Tx, names []staunch.Ref, subject staunch.Ref, now staunch.Time) error {
	for _, ref := range append([]staunch.Ref{subject}, names...) {
		if err := store.WriteCursor(tx, settledCursor(ref), int64(now)); err != nil {
			return err
		}
	}
	return nil
}

// SettledAt returns the instant up to which evidence against the ref was
// settled by a release, 0 where there was none. Signals learned before it do
// not count again.
func SettledAt(r store.Reader, ref staunch.Ref) (staunch.Time, error) {
	n, _, err := store.ReadCursor[int64](r, settledCursor(ref))
	return staunch.Time(n), err
}

// AdvanceWindow cuts a verification window short: the next stage begins now. A
// case that waits for its canary waits no longer.
func (e *Engine) AdvanceWindow(tx store.Tx, id, who string) (staunch.Containment, error) {
	return e.change(tx, id, who, "advance", func(_ Case, con *staunch.Containment, now staunch.Time) error {
		switch con.Phase {
		case staunch.PhaseWindow:
			con.WindowEnds = now
		case staunch.PhaseWaiting:
			con.WaitEnds = now
		default:
			return wrongPhase("advance", con.Phase, "it is not in a verification window")
		}
		return nil
	})
}

// furthest is how far from now the end of a window or of a case may be put off, by
// one request or by many: ten years.
const furthest = 10 * 365 * 24 * time.Hour

// Extend puts the case's window, when it is in one, or its expiry off by d. The error
// is a staunch.Problem where that would be more than ten years from now.
func (e *Engine) Extend(tx store.Tx, id, who string, d time.Duration) (staunch.Containment, error) {
	return e.change(tx, id, who, "extend", func(_ Case, con *staunch.Containment, now staunch.Time) error {
		if d <= 0 {
			return &staunch.Problem{Place: "by", Reason: "must be more than zero"}
		}
		end := &con.Expires
		switch {
		case con.Phase == staunch.PhaseWindow:
			end = &con.WindowEnds
		case !con.Phase.Open() || con.Phase == staunch.PhaseReleasing:
			return wrongPhase("extend", con.Phase, "it is ending or has ended")
		case con.Expires == 0:
			return wrongPhase("extend", con.Phase, "it has no expiry")
		default:
			con.Expires = max(con.Expires, now)
		}
		if d > furthest || end.Add(d) > now.Add(furthest) {
			return &staunch.Problem{Place: "by", Reason: "puts the end off to more than ten years from now"}
		}
		*end = end.Add(d)
		return nil
	})
}
