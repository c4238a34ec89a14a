package contain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// A scope may end before its case does. From then on what is found derived is
// not contained any more without a new decision; what is held stays held, is
// proven again and is released as ever, and the playbook's stages go on.

// scopeUntil returns when the scope of a case that a playbook opens ends, 0 for
// with the case.
func scopeUntil(p staunch.Playbook, now staunch.Time) staunch.Time {
	if d := p.ScopeFor.Std(); d > 0 {
		return now.Add(d)
	}
	return 0
}

// renewScope has a further decision's scope last at least as long as it says.
func renewScope(con *staunch.Containment, p staunch.Playbook, now staunch.Time) {
	if con.Scope.Until == 0 {
		return
	}
	until := scopeUntil(p, now)
	if until != 0 {
		until = max(until, con.Scope.Until)
	}
	if scopeOver(*con, now) {
		con.Replan = con.Replan || !con.Phase.Idle() // what was left out meanwhile
		if strings.HasPrefix(con.Trouble, scopeTrouble) {
			con.Trouble = ""
		}
	}
	con.Scope.Until = until
}

func scopeOver(con staunch.Containment, now staunch.Time) bool {
	return con.Scope.Until != 0 && now >= con.Scope.Until
}

const (
	scopeTrouble  = "the scope ended"
	closedTrouble = "outside of the plan that was applied"
)

// endScope takes out of a child plan's draft what the case does not have yet,
// once the scope is over or where it is closed, and returns it.
func (e *Engine) endScope(c Case, d *Draft) (found []staunch.Ref) {
	con := c.Containment
	why := ""
	switch {
	case con.Phase == staunch.PhaseOpen:
		return nil
	case scopeOver(con, staunch.TimeOf(e.opt.Clock.Now())):
		why = fmt.Sprintf("found after the scope ended at %s; contain it by a new decision", con.Scope.Until)
	case closed(con):
		why = "the plan that was applied does not have it, and its scope has no closure; contain it by a new decision"
	default:
		return nil
	}
	leave := func(ref staunch.Ref) {
		if slices.Contains(found, ref) {
			return
		}
		found = append(found, ref)
		d.Gaps = append(d.Gaps, staunch.Gap{Ref: ref, Reason: why})
	}
	has := map[string]bool{}
	for _, s := range c.Steps {
		has[s.Target.Key()] = true
	}
	d.Items = slices.DeleteFunc(d.Items, func(it DraftItem) bool {
		if has[it.Intent.Target.Key()] {
			return false
		}
		leave(it.Intent.Target.Ref)
		return true
	})
	d.Derived = slices.DeleteFunc(d.Derived, func(ref staunch.Ref) bool {
		if slices.ContainsFunc(c.Holds, func(h staunch.Hold) bool { return h.Target.Ref == ref && claims(h, con.ID) }) {
			return false
		}
		leave(ref)
		return true
	})
	return found
}

// tellScope tells people of what was left out, once.
func (e *Engine) tellScope(tx store.Tx, con *staunch.Containment, found []staunch.Ref, steps []staunch.Step, now staunch.Time) error {
	if len(found) == 0 || strings.HasPrefix(con.Trouble, scopeTrouble) || strings.HasPrefix(con.Trouble, closedTrouble) {
		return nil
	}
	con.Trouble = fmt.Sprintf("%s at %s, and %s came to light after it", scopeTrouble, con.Scope.Until, found[0])
	if !scopeOver(*con, now) {
		con.Trouble = fmt.Sprintf("%s: %s came to light", closedTrouble, found[0])
	}
	if n := len(found) - 1; n > 0 {
		con.Trouble += fmt.Sprintf(" with %d more", n)
	}
	return e.notices(tx, "trouble", *con, steps, now)
}
