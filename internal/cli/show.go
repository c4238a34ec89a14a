package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/record"
)

func newShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Tell the story of a containment, or why a decision was made",
		Long: `Tell the story of a containment: from the record over the signal, the decision
and the hold to the proof, each with its time since the first; what is in force
and what undoes it, as a tree of what came from the subject; how long each target
took from the event until it was proven; and what a release would bring back to
life. While a verification window runs it asks the platforms what the next stage
would do, and says what of that cannot be undone.

Of a decision that opened no containment (dec_…, as messages name it) it says what
was decided, and why nothing was done.`,
		Example: `  staunch show con_0123456789abcdef0123
  staunch show con_0123456789abcdef0123 -o json
  staunch show dec_0123456789abcdef`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				if strings.HasPrefix(args[0], "dec_") {
					d, err := c.Decision(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					return g.print(d, func(w io.Writer) { writeDecision(w, d) })
				}
				cs, err := c.Containment(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return g.print(cs, func(w io.Writer) { writeCase(w, cs) })
			})
		},
	}
}

func writeDecision(w io.Writer, d api.Decided) {
	dec := d.Decision
	field(w, "decision", dec.ID)
	field(w, "made", dec.Made)
	field(w, "subject", dec.Subject)
	if dec.Scope != dec.Subject {
		field(w, "would contain", dec.Scope.String()+": "+dec.ScopeReason)
	}
	field(w, "identity", identityLine(dec.Identity))
	field(w, "verdict", dec.Verdict)
	field(w, "tier", dec.Tier)
	field(w, "mode", dec.Mode)
	field(w, "policy", dec.Policy)
	field(w, "playbook", dec.Playbook)
	field(w, "confidence", dec.Suspicion.Confidence)
	field(w, "containment", dec.Containment)
	for _, r := range dec.Reasons {
		field(w, "because", r)
	}
	if len(d.Signals) > 0 {
		heading(w, "Signals")
		row(w, "TIME", "RULE", "ACCUSED", "CONFIDENCE", "SOURCE", "EVENT")
		for _, s := range d.Signals {
			row(w, s.Time, s.Rule, s.Accused, s.Confidence, s.Source, s.Event)
		}
	}
	if dec.Containment == "" && dec.Tier > staunch.TierObserve {
		heading(w, "By hand")
		row(w, "staunch plan "+dec.Scope.String()+" --tier "+dec.Tier.String())
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
	field(w, "in force", inForceLine(cs))
	field(w, "window ends", con.WindowEnds)
	for _, next := range cs.Coming {
		field(w, "then", comingLine(next))
	}
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
		for _, s := range cs.Safeguards {
			field(w, "safeguard", s)
		}
		for _, k := range r.Kept {
			field(w, "stays", k)
		}
	}
	if con.Phase == staunch.PhaseApproval {
		writeScope(w, cs)
	}

	writeComing(w, con, cs.Coming)
	writeClocks(w, cs.Clocks)

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
	if len(cs.Tree) > 0 {
		heading(w, "What was contained, and what came from it")
		writeTree(w, cs.Tree, "")
		if cs.TreeTruncated {
			row(w, "… and more")
		}
	}
	if len(cs.Holds) > 0 {
		heading(w, "Holds")
		row(w, "STATE", "PLANE", "TARGET", "DENIES", "CLAIMED BY")
		for _, h := range cs.Holds {
			row(w, h.State, h.Plane, h.Target, orElse(strings.Join(h.Deny, ", "), "-"), strings.Join(h.Claims, ", "))
		}
	}
	var gaps []string // each plan says it anew
	for _, p := range cs.Plans {
		for _, gap := range p.Gaps {
			if s := gap.Ref.String() + ": " + gap.Reason; !slices.Contains(gaps, s) {
				gaps = append(gaps, s)
			}
		}
	}
	if len(gaps) > 0 {
		heading(w, "Not covered")
		for _, s := range gaps {
			row(w, s)
		}
	}
	if len(cs.Revives) > 0 {
		heading(w, "A release would bring back to life")
		for _, r := range cs.Revives {
			row(w, r)
		}
	}
}

// inForceLine says what is in force, "" for a case that is over or has not begun.
func inForceLine(cs api.Case) string {
	con := cs.Containment
	if con.Phase.Idle() || !con.Phase.Open() || con.Phase == staunch.PhaseReleasing {
		return ""
	}
	proven, live := 0, 0
	for _, s := range cs.Steps {
		switch s.State {
		case staunch.StepVoid, staunch.StepReverted:
		case staunch.StepProven, staunch.StepShared:
			proven++
			live++
		default:
			live++
		}
	}
	guarded := slices.ContainsFunc(cs.Holds, func(h staunch.Hold) bool {
		return h.Plane == staunch.PlaneGuard && h.Active() && len(h.Deny) > 0
	})
	switch {
	case live > 0 && guarded:
		return fmt.Sprintf("the fast plane, and %d of %s proven on the platforms", proven, count(live, "step"))
	case live > 0:
		return fmt.Sprintf("%d of %s proven on the platforms; nothing on the fast plane", proven, count(live, "step"))
	case guarded && (con.Phase == staunch.PhaseHeld || con.Phase == staunch.PhaseWindow):
		return "the fast plane alone: no platform took anything away"
	case guarded:
		return "the fast plane; the platforms follow"
	case con.Phase == staunch.PhaseHeld || con.Phase == staunch.PhaseWindow:
		return "nothing: neither the fast plane nor a platform took anything away"
	}
	return ""
}

// comingLine says in one line what a stage that has not begun would do.
func comingLine(next api.ComingStage) string {
	line := fmt.Sprintf("stage %d, tier %s: %s", next.Stage+1, next.Tier, count(len(next.Steps), "step"))
	if n := next.Irreversible(); n > 0 {
		line += fmt.Sprintf(", %d of which cannot be undone", n)
	} else if len(next.Steps) > 0 && next.Error == "" {
		line += ", all of which can be undone"
	}
	if next.Begins != 0 {
		line += ", from " + shortTime(next.Begins) + " on"
	}
	if next.Error != "" {
		line += "; " + next.Error
	}
	return line
}

// writeComing shows what the stages that have not begun would do.
func writeComing(w io.Writer, con staunch.Containment, stages []api.ComingStage) {
	for i, next := range stages {
		title := "Coming: " + comingLine(next)
		if i == 0 && con.Phase == staunch.PhaseWindow {
			title += ", unless somebody clears it"
		}
		heading(w, clean(title))
		if len(next.Deny) > 0 {
			field(w, "fast plane denies", next.Deny)
		}
		if len(next.Steps) > 0 {
			writeAskedSteps(w, next.Steps)
		}
		for _, gap := range next.Gaps {
			field(w, "cannot be done", gap.Ref.String()+": "+gap.Reason)
		}
	}
}

// writeClocks shows how long it took to take each thing away.
func writeClocks(w io.Writer, clocks []record.Clock) {
	if len(clocks) == 0 {
		return
	}
	heading(w, "Clocks, each from its first instant on")
	names := []string{"event", "received", "decided", "called", "acknowledged", "effective"}
	row(w, "TARGET", "VERB", "EVENT", "RECEIVED", "DECIDED", "CALLED", "ACKNOWLEDGED", "EFFECTIVE")
	for _, c := range clocks {
		cells := []any{c.Target, orElse(string(c.Verb), "-")}
		first := true
		for _, name := range names {
			i := slices.IndexFunc(c.Marks, func(m record.Mark) bool { return m.Name == name })
			switch {
			case i < 0:
				cells = append(cells, "-")
			case first:
				first = false
				cells = append(cells, shortTime(c.Marks[i].At))
			default:
				cells = append(cells, "+"+ms(c.Marks[i].AfterMS))
			}
		}
		row(w, cells...)
	}
}

// relWords say how one thing hangs on another.
func relWords() map[staunch.Rel]string {
	return map[staunch.Rel]string{staunch.RelOf: "belongs to it", staunch.RelBy: "issued by it", staunch.RelSame: "the same"}
}

// writeTree shows what was contained, each with what was done to it and its undo.
func writeTree(w io.Writer, nodes []api.CaseNode, indent string) {
	for _, n := range nodes {
		what := orElse(relWords()[n.Rel], string(n.Rel))
		if n.Rel == "" && indent == "" {
			what = "-"
		}
		said := ""
		switch {
		case n.Before:
			said = "from before the first suspicious moment: left alone"
		case len(n.Denied) > 0:
			said = "the fast plane denies " + strings.Join(n.Denied, ", ")
		case n.Seen:
			said = "shown above"
		case len(n.Steps) == 0:
			said = "nothing was done to it"
		}
		// The indent is ours; the rest is cleaned.
		_, _ = fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\n", indent, clean(n.Ref.String()), clean(what), shortTime(n.Since), clean(said))
		for _, s := range n.Steps {
			undo := "undo: " + s.Undo
			if s.Reversibility == staunch.Irreversible {
				undo = "cannot be undone"
			}
			_, _ = fmt.Fprintf(w, "%s- %s #%s\t%s\t\t%s\n", indent+"  ", clean(string(s.Verb)), clean(s.Attribute), clean(string(s.State)), clean(undo))
		}
		writeTree(w, n.Children, indent+"  ")
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
	writeAskedSteps(w, a.Steps)
	writeGaps(w, a.Gaps)
	heading(w, "Approvals")
	field(w, "people needed", a.Persons)
	for _, p := range con.Approvals {
		field(w, "approved by", fmt.Sprintf("%s at %s, counts until %s", p.By, shortTime(p.At), shortTime(p.Until)))
	}
	field(w, "plan hash", a.Hash)
}

func writeAskedSteps(w io.Writer, steps []staunch.AskedStep) {
	row(w, "VERB", "TARGET", "CALL", "UNDO")
	for _, s := range steps {
		undo := s.Undo
		if s.Reversibility == staunch.Irreversible {
			undo = "cannot be undone"
		} else if s.Revives {
			undo += " (revives a possibly stolen secret)"
		}
		row(w, s.Verb, s.Target, s.Call, undo)
	}
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
	return stagesLine(c.Playbook.Name, c.Playbook.Stages, c.Stage)
}

// stagesLine names a playbook's stages, the one that is at hand in brackets.
func stagesLine(playbook string, stages []staunch.Stage, at int) string {
	if len(stages) == 0 { // of an older server
		return playbook
	}
	names := make([]string, 0, len(stages))
	for i, s := range stages {
		n := s.Tier.String()
		if i == at {
			n = "[" + n + "]"
		}
		names = append(names, n)
	}
	return playbook + ": " + strings.Join(names, " → ")
}
