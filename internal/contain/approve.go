package contain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// A case that waits for people has its plan drawn first, over the stages that may
// follow without a further decision. An approval names the hash of the scope and
// that of the plan; it counts for a time, once a person, and never a person who
// asked for the case. Where something of the plan cannot be undone it takes more
// than one. Once approved, the case does what its scope allows, with one limit:
// nothing that cannot be undone is done that was not in the plan.

// Approving says what an approval takes. What is zero takes its default.
type Approving struct {
	// Persons is how many different people have to approve a plan of which
	// something cannot be undone; staunch.DefaultApprovers where it is zero.
	Persons int
	// For is how long one person's approval counts while others are missing;
	// staunch.DefaultApprovalFor where it is zero.
	For time.Duration
}

func (e *Engine) approving() Approving {
	var a Approving
	if e.opt.Approving != nil {
		a = e.opt.Approving()
	}
	if a.Persons <= 0 {
		a.Persons = staunch.DefaultApprovers
	}
	if a.For <= 0 {
		a.For = staunch.DefaultApprovalFor
	}
	return a
}

// askedKey tells the steps of a plan that people approve apart: another call is
// another step.
func askedKey(s staunch.AskedStep) string { return s.Target.Key() + string(s.Verb) + s.Call }

func askedStep(it DraftItem) staunch.AskedStep {
	in := it.Intent
	return staunch.AskedStep{
		Connector: it.Connector, Target: in.Target, Verb: in.Verb, Tier: it.Spec.Tier,
		Call: in.Call, Undo: in.Undo, Reversibility: in.Reversibility, Revives: in.Revives,
	}
}

// AskedSteps returns what people would be asked to approve of a draft.
func AskedSteps(d Draft) []staunch.AskedStep {
	out := make([]staunch.AskedStep, 0, len(d.Items))
	for _, it := range d.Items {
		out = append(out, askedStep(it))
	}
	return out
}

// drawAsked reads what people are to be asked to approve, and commits it.
func (e *Engine) drawAsked(ctx context.Context, c Case) error {
	con := c.Containment
	var steps []staunch.AskedStep
	var gaps []staunch.Gap
	var outage []error
	seen, about := map[string]bool{}, map[string]bool{}
	for {
		d, err := e.draft(ctx, Case{Containment: con})
		if err != nil {
			return err
		}
		outage = append(outage, d.outage...)
		for _, it := range d.Items {
			s := askedStep(it)
			about[s.Target.Key()] = true
			if key := askedKey(s); !seen[key] {
				seen[key] = true
				steps = append(steps, s)
			}
		}
		for _, g := range d.Gaps {
			if !slices.Contains(gaps, g) {
				gaps = append(gaps, g)
			}
		}
		if !hasNext(con) {
			break
		}
		con.Stage++
	}
	if len(steps) == 0 && len(outage) > 0 {
		return errors.Join(outage...) // nothing of it is known; it is tried again
	}
	if n := len(about); n > con.Scope.MostTargets {
		gaps = append(gaps, staunch.Gap{Ref: con.Subject, Reason: (&tooMany{have: n, most: con.Scope.MostTargets}).Error()})
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	asked := staunch.Ask(con.ID, steps, gaps, e.approving().Persons, now)
	return e.commit(ctx, c, func(tx store.Tx, cur *staunch.Containment) error {
		cur.Asked, cur.Approvals = asked, nil
		if strings.HasPrefix(cur.Trouble, stalledTrouble) {
			cur.Trouble = ""
		}
		return record(tx, staunch.RecordPlan, "engine", cur.ID, now, map[string]any{
			"asked": asked.Hash, "persons": asked.Persons, "steps": asked.Steps, "gaps": asked.Gaps, "generation": cur.Generation,
		})
	})
}

// unapproved takes out of the draft of a case that rests on an approval what
// cannot be undone and is not in the plan that was approved.
func unapproved(con staunch.Containment, d *Draft) {
	if con.Asked == nil || con.Phase == staunch.PhaseApproval {
		return
	}
	approved := map[string]bool{}
	for _, s := range con.Asked.Steps {
		approved[askedKey(s)] = true
	}
	d.Items = slices.DeleteFunc(d.Items, func(it DraftItem) bool {
		if it.Intent.Reversibility != staunch.Irreversible || approved[askedKey(askedStep(it))] {
			return false
		}
		d.unapproved = append(d.unapproved, it.Intent.Target)
		d.Gaps = append(d.Gaps, staunch.Gap{Ref: it.Intent.Target.Ref, Reason: fmt.Sprintf("%s cannot be undone and is not in the plan that was approved", it.Intent.Verb)})
		return true
	})
}

const unapprovedTrouble = "not in the plan that was approved"

// tellUnapproved tells people once of what was left out since nobody approved it.
func (e *Engine) tellUnapproved(tx store.Tx, con *staunch.Containment, left []staunch.Target, steps []staunch.Step, now staunch.Time) error {
	if len(left) == 0 || strings.HasPrefix(con.Trouble, unapprovedTrouble) {
		return nil
	}
	con.Trouble = fmt.Sprintf("%s, and cannot be undone: %s", unapprovedTrouble, left[0])
	if n := len(left) - 1; n > 0 {
		con.Trouble += fmt.Sprintf(" with %d more", n)
	}
	return e.notices(tx, "trouble", *con, steps, now)
}

// samePerson reports whether two principals' names are of one person, as
// auth.DifferentPerson compares them.
func samePerson(a, b string) bool { return auth.DifferentPerson(a, auth.Principal{Name: b}) != nil }

// counting returns the approvals that count at an instant for what the case asks.
func counting(con staunch.Containment, now staunch.Time) []staunch.Approval {
	var out []staunch.Approval
	for _, a := range con.Approvals {
		if con.Asked != nil && a.PlanHash == con.Asked.Hash && a.ScopeHash == con.Scope.Hash() && now < a.Until {
			out = append(out, a)
		}
	}
	return out
}

func approvers(as []staunch.Approval) string {
	names := make([]string, 0, len(as))
	for _, a := range as {
		names = append(names, a.By)
	}
	return strings.Join(names, ", ")
}

// mayApprove reports why who may not approve the case as of now; nil is yes.
func mayApprove(con staunch.Containment, who string, now staunch.Time) error {
	if err := auth.DifferentPerson(con.Requester, auth.Principal{Name: who}); err != nil {
		return err
	}
	for _, a := range counting(con, now) {
		if samePerson(a.By, who) {
			return fmt.Errorf("%w: %s approved it already, until %s; another person has to as well", staunch.ErrConflict, a.By, a.Until)
		}
	}
	return nil
}

// approveAs adds a person's approval and reports whether those that count are
// enough.
func (e *Engine) approveAs(con *staunch.Containment, who string, now staunch.Time) (enough bool) {
	rule := e.approving()
	need := con.Asked.Persons
	if need > 1 {
		need = max(need, rule.Persons) // as many as were shown, or as are wanted by now
	}
	until := now.Add(rule.For)
	con.Approvals = append(counting(*con, now), staunch.Approval{
		By: who, At: now, ScopeHash: con.Scope.Hash(), PlanHash: con.Asked.Hash, Until: until,
	})
	asked := *con.Asked // a store may share what it read
	asked.Persons = need
	con.Asked = &asked
	return len(con.Approvals) >= need
}

// Approve adds a person's approval of a case that waits for people. Where that is
// enough, the case goes on, with its places reserved and its time beginning now.
// scopeHash and planHash are what the person saw. Who asked for it, and who has
// approved it already, cannot. Where it is refused nothing is changed.
func (e *Engine) Approve(tx store.Tx, id, who, scopeHash, planHash string) (staunch.Containment, error) {
	enough := false
	con, err := e.change(tx, id, who, "approve", func(_ Case, con *staunch.Containment, now staunch.Time) error {
		if con.Phase != staunch.PhaseApproval {
			return wrongPhase("approve", con.Phase, "it does not wait for approval")
		}
		if err := mayApprove(*con, who, now); err != nil {
			return err
		}
		switch {
		case scopeHash != con.Scope.Hash():
			return fmt.Errorf("%w: the scope is not the one that was shown; look again", staunch.ErrConflict)
		case scopeOver(*con, now):
			return fmt.Errorf("%w: the scope ended at %s; contain the subject anew", staunch.ErrConflict, con.Scope.Until)
		case con.PlanFile != "":
			return fmt.Errorf("%w: it rests on a plan file; the other person approves it by applying the file", staunch.ErrConflict)
		case con.Asked == nil:
			return fmt.Errorf("%w: its plan is still being drawn; look again", staunch.ErrConflict)
		case planHash != con.Asked.Hash:
			return fmt.Errorf("%w: the plan is not the one that was shown; look again", staunch.ErrConflict)
		}
		if enough = e.approveAs(con, who, now); !enough {
			return nil
		}
		return e.approved(tx, con, now)
	})
	if err != nil {
		return con, err
	}
	if !enough {
		return con, e.notices(tx, "approval", con, nil, con.Changed)
	}
	return con, e.guardOwn(tx, con, con.Changed)
}

// approved has a case that enough people approved go on.
func (e *Engine) approved(tx store.Tx, con *staunch.Containment, now staunch.Time) error {
	con.Approver = approvers(con.Approvals)
	con.Phase = staunch.PhaseOpen
	con.Trouble = ""
	if d := con.Playbook.Expiry.Std(); d > 0 {
		con.Expires = now.Add(d) // so far it was the time to approve it
	}
	if e.opt.Admit == nil {
		return nil
	}
	if err := giveBack(tx, con.Caps); err != nil {
		return err
	}
	caps, err := e.opt.Admit(tx, *con)
	con.Caps = caps
	return err
}
