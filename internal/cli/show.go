package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

func newShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Tell the story of a containment",
		Long: `Tell the story of a containment: from the record over the signal, the decision
and the hold to the proof, each with its time since the first; what is in force,
and what a release would bring back to life.`,
		Example: `  staunch show con_0123456789abcdef0123
  staunch show con_0123456789abcdef0123 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				cs, err := c.Containment(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return g.print(cs, func(w io.Writer) { writeCase(w, cs) })
			})
		},
	}
}

func writeCase(w io.Writer, cs api.Case) {
	con := cs.Containment
	field(w, "containment", con.ID)
	field(w, "subject", con.Subject)
	field(w, "identity", identityLine(con.Identity))
	field(w, "phase", con.Phase)
	field(w, "tier", con.Tier)
	field(w, "playbook", playbookLine(con))
	field(w, "opened", con.Opened)
	field(w, "window ends", con.WindowEnds)
	field(w, "runs out", con.Expires)
	field(w, "scope until", con.Scope.Until)
	field(w, "asked for by", con.Requester)
	field(w, "approved by", con.Approver)
	if con.Phase == staunch.PhaseWaiting {
		field(w, "waits for", fmt.Sprintf("%s to be proven, until %s (%s)", con.Canary, shortTime(con.WaitEnds), strings.Join(con.Causes, ", ")))
	} else if con.Canary != "" {
		field(w, "waited for", con.Canary)
	}
	field(w, "plan file", con.PlanFile)
	field(w, "drill", con.Drill)
	field(w, "reasons", strings.Join(con.Reasons, "; "))
	if con.Residual > 0 {
		field(w, "still succeeded", fmt.Sprintf("%d times after the proven effect", con.Residual))
	}
	field(w, "trouble", con.Trouble)
	if r := con.Release; r != nil {
		field(w, "released by", fmt.Sprintf("%s at %s: %s", r.By, shortTime(r.At), r.Reason))
		if v := con.Judged; v != nil {
			field(w, "judged", judgedLine(*v))
		}
		for _, k := range r.Kept {
			field(w, "stays", k)
		}
	}
	if con.Phase == staunch.PhaseApproval {
		writeScope(w, cs)
	}

	heading(w, "Timeline")
	for _, m := range cs.Timeline {
		by := ""
		if m.Actor != "" && m.Actor != "engine" {
			by = " (" + m.Actor + ")"
		}
		row(w, "+"+ms(m.AfterMS), m.Kind, m.Text+by)
	}
	if len(cs.Steps) > 0 {
		heading(w, "Steps")
		row(w, "STATE", "VERB", "TARGET", "BEFORE", "AFTER", "UNDO")
		for _, s := range cs.Steps {
			row(w, s.State, s.Verb, s.Target, orElse(s.Before, "-"), orElse(s.After, "-"), s.Intent.Undo)
		}
	}
	if len(cs.Holds) > 0 {
		heading(w, "Holds")
		row(w, "STATE", "PLANE", "TARGET", "DENIES", "CLAIMED BY")
		for _, h := range cs.Holds {
			row(w, h.State, h.Plane, h.Target, orElse(strings.Join(h.Deny, ", "), "-"), strings.Join(h.Claims, ", "))
		}
	}
	for _, p := range cs.Plans {
		for _, gap := range p.Gaps {
			heading(w, "Not covered: "+clean(gap.Ref.String()+": "+gap.Reason))
		}
	}
	if len(cs.Revives) > 0 {
		heading(w, "A release would bring back to life")
		for _, r := range cs.Revives {
			row(w, r)
		}
	}
}

// judgedLine says what people say of a case, and where not its release said it.
func judgedLine(v staunch.Judged) string {
	return fmt.Sprintf("%s by %s at %s: %s", v.Verdict, v.By, shortTime(v.At), v.Reason)
}

func writeScope(w io.Writer, cs api.Case) {
	s := cs.Containment.Scope
	heading(w, "The scope to approve")
	for _, r := range s.Roots {
		field(w, "subject", r)
	}
	field(w, "with it", map[string]string{"derived": "what came from it", "none": "nothing else"}[s.Closure])
	field(w, "at most", fmt.Sprintf("tier %s, up to a whole %s, %d targets", s.Highest, s.Widest, s.MostTargets))
	field(w, "asked for by", orElse(cs.Containment.Requester, "policy"))
	field(w, "reasons", strings.Join(cs.Containment.Reasons, "; "))
	field(w, "scope hash", cs.ScopeHash)
	writeAsked(w, cs.Containment)
}

// writeAsked shows the plan that people are asked to approve, and who did.
func writeAsked(w io.Writer, con staunch.Containment) {
	heading(w, "The plan to approve")
	a := con.Asked
	if a == nil {
		row(w, "It is still being drawn.")
		return
	}
	field(w, "drawn", a.Drawn)
	row(w, "VERB", "TARGET", "CALL", "UNDO")
	for _, s := range a.Steps {
		undo := s.Undo
		if s.Reversibility == staunch.Irreversible {
			undo = "cannot be undone"
		} else if s.Revives {
			undo += " (revives a possibly stolen secret)"
		}
		row(w, s.Verb, s.Target, s.Call, undo)
	}
	writeGaps(w, a.Gaps)
	heading(w, "Approvals")
	field(w, "people needed", a.Persons)
	for _, p := range con.Approvals {
		field(w, "approved by", fmt.Sprintf("%s at %s, counts until %s", p.By, shortTime(p.At), shortTime(p.Until)))
	}
	field(w, "plan hash", a.Hash)
}

func identityLine(id staunch.Identity) string {
	name := orElse(id.Name, "unknown")
	parts := []string{string(id.Kind)}
	for _, p := range []struct{ what, v string }{{"owner", id.Owner}, {"environment", id.Environment}, {"tolerance", string(id.Tolerance)}} {
		if p.v != "" {
			parts = append(parts, p.what+" "+p.v)
		}
	}
	if id.Protected {
		parts = append(parts, "protected")
	}
	return name + " (" + strings.Join(parts, ", ") + ")"
}

func playbookLine(c staunch.Containment) string {
	names := make([]string, 0, len(c.Playbook.Stages))
	for i, s := range c.Playbook.Stages {
		n := s.Tier.String()
		if i == c.Stage {
			n = "[" + n + "]"
		}
		names = append(names, n)
	}
	return c.Playbook.Name + ": " + strings.Join(names, " → ")
}
