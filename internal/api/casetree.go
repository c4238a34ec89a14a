package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// maxCaseNodes bounds the tree of a case.
const maxCaseNodes = 500

// caseTree draws what a case contains: its subjects, what belongs to them and came
// from them, each with what was done to it and what undoes that. What only belongs to
// them is left out where nothing was done to it or to what is below it. It reports
// whether there is more.
func (s *Server) caseTree(r store.Reader, p auth.Principal, c Case) ([]CaseNode, bool, error) {
	steps := map[staunch.Ref][]NodeStep{}
	var refs []staunch.Ref // in the order of the steps
	for _, st := range c.Steps {
		ref := st.Target.Ref
		if steps[ref] == nil {
			refs = append(refs, ref)
		}
		steps[ref] = append(steps[ref], NodeStep{
			ID: st.ID, State: st.State, Verb: st.Verb, Attribute: st.Target.Attribute,
			Undo: st.Intent.Undo, Reversibility: st.Intent.Reversibility, Note: st.Note,
		})
	}
	denied := map[staunch.Ref][]string{}
	for _, h := range c.Holds {
		if h.Plane == staunch.PlaneGuard && h.Active() {
			denied[h.Target.Ref] = h.Deny
		}
	}
	con := c.Containment
	shown := map[staunch.Ref]bool{}
	left, cut := maxCaseNodes, false
	var draw func(n Lineage) (CaseNode, bool)
	draw = func(n Lineage) (CaseNode, bool) {
		node := CaseNode{Ref: n.Ref, Rel: n.Rel, Since: n.Since, Seen: n.Seen}
		if !shown[n.Ref] {
			shown[n.Ref] = true
			node.Steps, node.Denied = steps[n.Ref], denied[n.Ref]
		}
		for _, kid := range n.Children {
			if k, ok := draw(kid); ok {
				node.Children = append(node.Children, k)
			}
		}
		node.Before = n.Rel == staunch.RelBy && n.Since != 0 && n.Since < con.Since && len(node.Steps) == 0 && len(node.Denied) == 0
		return node, n.Rel == staunch.RelBy || len(node.Steps) > 0 || len(node.Denied) > 0 || len(node.Children) > 0
	}
	out := []CaseNode{}
	for _, root := range con.Scope.Roots {
		n := Lineage{Ref: root}
		if con.Scope.Closure == "derived" && left > 0 {
			var more bool
			var err error
			if n, more, err = s.opt.Knowledge.Lineage(r, root, left); err != nil {
				return nil, false, err
			}
			cut = cut || more
			if len(p.Realms) > 0 {
				n.Children = withinRealms(n.Children, p.Realms)
			}
		}
		node, _ := draw(n)
		left -= countNodes(node)
		out = append(out, node)
	}
	// What the platforms named, and what the case was widened to.
	for _, ref := range refs {
		if !shown[ref] {
			out = append(out, CaseNode{Ref: ref, Denied: denied[ref], Steps: steps[ref]})
		}
	}
	return out, cut, nil
}

func countNodes(n CaseNode) int {
	sum := 1
	for _, k := range n.Children {
		sum += countNodes(k)
	}
	return sum
}

// safeguards says what keeps a thief out of what the case's release puts back.
func safeguards(c Case) []string {
	r := c.Containment.Release
	if r == nil {
		return nil
	}
	var out []string
	switch {
	case r.Rotated:
		out = append(out, "rotated: "+r.By+" says that the secrets were replaced first")
	case r.TokenLife > 0:
		out = append(out, fmt.Sprintf("waited out: %s says that what was denied lives for %s, and it was denied for longer", r.By, r.TokenLife.Std()))
	case r.Revive:
		out = append(out, "none for secrets: "+r.By+" confirmed that those which may be stolen may work again as they are")
	}
	for _, h := range c.Holds {
		if h.Plane == staunch.PlaneGuard && h.State == staunch.HoldKept {
			out = append(out, fmt.Sprintf("cut-off kept: the fast plane goes on denying %s to %s", strings.Join(h.Deny, ", "), h.Target.Ref))
		}
	}
	for _, st := range c.Steps {
		switch {
		case st.State == staunch.StepKept && st.Intent.Reversibility == staunch.Irreversible:
			out = append(out, fmt.Sprintf("gone for good: %s of %s cannot be undone", st.Verb, st.Target))
		case st.State == staunch.StepKept || st.State == staunch.StepDiverged:
			out = append(out, fmt.Sprintf("left in force: %s of %s: %s", st.Verb, st.Target, orElse(st.Note, "see the step")))
		}
	}
	if len(out) == 0 {
		out = append(out, "none needed: nothing that is put back lets a secret work again")
	}
	return out
}

// coming says what of a case is yet to come, as far as p may see it.
func (s *Server) coming(ctx context.Context, p auth.Principal, c Case) []ComingStage {
	stages := s.opt.Cases.Coming(ctx, c.Containment, c.Steps)
	hideComing(p, auth.Read, stages)
	return stages
}

// hideComing takes out of the stages the steps on realms that p may not see.
func hideComing(p auth.Principal, v auth.Verb, stages []ComingStage) {
	for i := range stages {
		all := len(stages[i].Steps)
		stages[i].Steps = slices.DeleteFunc(stages[i].Steps, func(st staunch.AskedStep) bool {
			return mayReach(p, v, []staunch.Ref{st.Target.Ref}) != nil
		})
		stages[i].Gaps = slices.DeleteFunc(stages[i].Gaps, func(g staunch.Gap) bool { return mayReach(p, v, []staunch.Ref{g.Ref}) != nil })
		if len(stages[i].Steps) < all && stages[i].Error == "" {
			stages[i].Error = "some of it is on realms that the token may not see"
		}
	}
}
