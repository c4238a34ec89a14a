package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
)

// The kinds of moments, in the order in which those of one instant are told.
const (
	momentRecord   = "record"
	momentSignal   = "signal"
	momentDecision = "decision"
	momentCase     = "case"
	momentHold     = "hold"
	momentIntent   = "intent"
	momentCall     = "call"
	momentProof    = "proof"
	momentResidual = "residual"
	momentRelease  = "release"
	momentRevert   = "revert"
	momentNotice   = "notice"
)

func momentOrder() []string {
	return []string{
		momentRecord, momentSignal, momentDecision, momentCase, momentHold, momentIntent, momentCall, momentProof,
		momentResidual, momentRelease, momentRevert, momentNotice,
	}
}

// maxMoments bounds a timeline; the earliest are kept, and the last line says so.
const maxMoments = 2000

// timeline tells a case in order.
func timeline(c Case, events []staunch.Event, records []staunch.Record) []Moment {
	var out []Moment
	add := func(at staunch.Time, kind, id, actor, format string, args ...any) {
		if at != 0 {
			out = append(out, Moment{At: at, Kind: kind, ID: id, Actor: actor, Text: fmt.Sprintf(format, args...)})
		}
	}
	for _, e := range events {
		text := e.Operation
		if text == "" {
			text = e.Format + " record"
		}
		if e.SourceIP != "" {
			text += " from " + e.SourceIP
		}
		add(e.Learned, momentRecord, e.ID, "", "%s, by source %s; it happened at %s", text, e.Source, e.Time)
	}
	for _, g := range c.Signals {
		name := g.Title
		if name == "" {
			name = g.Rule
		}
		credit := ""
		if by := staunch.Credit(g.Author, g.License); by != "" {
			credit = "; the rule is " + by
		}
		if len(g.References) > 0 {
			credit += "; see " + strings.Join(g.References, ", ")
		}
		add(g.Learned, momentSignal, g.ID, "", "%s accuses %s (confidence %.2f)%s", name, g.Accused, g.Confidence, credit)
	}
	for _, d := range c.Decisions {
		why := ""
		if len(d.Reasons) > 0 {
			why = ": " + strings.Join(d.Reasons, "; ")
		}
		add(d.Made, momentDecision, d.ID, "", "%s at tier %s, confidence %.2f%s", d.Verdict, d.Tier, d.Suspicion.Confidence, why)
	}
	for _, h := range c.Holds {
		if h.Plane == staunch.PlaneGuard {
			add(h.Since, momentHold, h.ID, "", "the fast plane denies %s to %s", strings.Join(h.Deny, ", "), h.Target.Ref)
		}
	}
	for _, st := range c.Steps {
		add(st.Intended, momentIntent, st.ID, "", "%s on %s: %s", st.Verb, st.Target, st.Intent.Call)
		note := ""
		if st.Receipt != nil && st.Receipt.Note != "" {
			note = ": " + st.Receipt.Note
		}
		add(st.Applied, momentCall, st.ID, "", "%s answered%s", st.Connector, note)
		// After says what the newest read found: once undone, what it is then.
		proof := st.After
		if st.Reverted != 0 && st.Intent.Reversibility != staunch.Irreversible || st.State == staunch.StepReverting || st.State == staunch.StepDiverged {
			proof = ""
		}
		add(st.Proven, momentProof, st.ID, "", "%s holds: %s", st.Target, orElse(proof, "read back as expected"))
		if st.State == staunch.StepReverted {
			add(st.Reverted, momentRevert, st.ID, "", "%s is as it was: %s", st.Target, orElse(st.Before, "read back as expected"))
		}
		if st.State == staunch.StepKept || st.State == staunch.StepDiverged || st.State == staunch.StepFailed {
			// Of what a release left in force, Reverted says when that was settled.
			at := st.Reverted
			if at == 0 {
				at = max(st.Applied, st.Intended, st.Proven)
			}
			add(at, momentRevert, st.ID, "", "%s is %s: %s", st.Target, st.State, orElse(st.Note, "see the step"))
		}
	}
	for _, r := range records {
		if kind, text := tell(r); kind != "" {
			add(r.Time, kind, r.About, r.Actor, "%s", text)
		}
	}
	order := momentOrder()
	slices.SortStableFunc(out, func(a, b Moment) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)))
	})
	if more := len(out) - maxMoments; more > 0 {
		out = out[:maxMoments]
		out[maxMoments-1].Text = fmt.Sprintf("and %d more moments; the record log has them all", more+1)
	}
	if len(out) == 0 {
		return []Moment{}
	}
	first := out[0].At
	for i := range out {
		out[i].AfterMS = float64(out[i].At-first) / 1000
	}
	return out
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// tell words a record that no row tells already.
func tell(r staunch.Record) (kind, text string) {
	var b struct {
		Tier      *staunch.Tier    `json:"tier"`
		RaisedTo  *staunch.Tier    `json:"raised_to"`
		Phase     staunch.Phase    `json:"phase"`
		From      staunch.Phase    `json:"from"`
		Request   string           `json:"request"`
		Playbook  string           `json:"playbook"`
		Origin    staunch.Origin   `json:"origin"`
		Release   *staunch.Release `json:"release"`
		Judged    *staunch.Judged  `json:"judged"`
		Operation string           `json:"operation"`
		Time      staunch.Time     `json:"time"`
		Event     string           `json:"event"`
		Channel   string           `json:"channel"`
		Error     string           `json:"error"`
		Trouble   string           `json:"trouble"`
		Guards    []string         `json:"guards"`
		Target    string           `json:"target"`
		PlannedBy string           `json:"planned_by"`
		WasDrill  string           `json:"was_drill"`
		Asked     string           `json:"asked"`
		Persons   int              `json:"persons"`
		Approvals int              `json:"approvals"`
		Canary    string           `json:"canary"`
		WaitEnds  staunch.Time     `json:"wait_ends"`
		State     string           `json:"canary_state"`
		Stage     int              `json:"stage"`
		WindowEnd staunch.Time     `json:"window_ends"`
		Expires   staunch.Time     `json:"expires"`

		Approval *staunch.Approval `json:"approval"`
	}
	// A body of another shape is told by its kind alone.
	_ = json.Unmarshal(r.Body, &b)
	switch r.Kind {
	case staunch.RecordContainment:
		switch {
		case b.WasDrill != "":
			return momentCase, "from here on a real case: it was of drill " + b.WasDrill
		case b.RaisedTo != nil:
			return momentCase, fmt.Sprintf("raised to %s, playbook %s", *b.RaisedTo, b.Playbook)
		case b.Request != "" && b.Approval != nil:
			return momentCase, fmt.Sprintf("approved, %d of %d, scope %s, plan %s: %s → %s",
				b.Approvals, b.Persons, b.Approval.ScopeHash, b.Approval.PlanHash, b.From, b.Phase)
		case b.Request != "" && b.From == b.Phase && b.Phase == staunch.PhaseWindow:
			return momentCase, fmt.Sprintf("%s: the window ends at %s", b.Request, b.WindowEnd)
		case b.Request != "" && b.From == b.Phase && b.Expires != 0:
			return momentCase, fmt.Sprintf("%s: it runs out at %s", b.Request, b.Expires)
		case b.Request != "":
			return momentCase, fmt.Sprintf("%s: %s → %s", b.Request, b.From, b.Phase)
		case b.Tier != nil:
			text := fmt.Sprintf("opened by %s at tier %s, playbook %s, %s", orElse(string(b.Origin), "policy"), *b.Tier, b.Playbook, b.Phase)
			if b.PlannedBy != "" {
				text += ", with the plan that " + b.PlannedBy + " made"
			}
			if b.Approval != nil {
				text += fmt.Sprintf(", approved, %d of %d, plan %s", b.Approvals, b.Persons, b.Approval.PlanHash)
			}
			if b.Canary != "" {
				text += fmt.Sprintf(" until %s is proven, at most until %s", b.Canary, b.WaitEnds)
			}
			return momentCase, text
		case b.From != "" && b.From != b.Phase:
			text := fmt.Sprintf("%s → %s", b.From, b.Phase)
			if b.Phase == staunch.PhaseWindow && b.WindowEnd != 0 {
				text += fmt.Sprintf(" of stage %d, until %s", b.Stage+1, b.WindowEnd)
			}
			if b.Canary != "" {
				text += "; its canary " + b.Canary + " is " + orElse(b.State, "under way")
			}
			return momentCase, text
		case b.Phase != "":
			return momentCase, strings.TrimSuffix(fmt.Sprintf("now %s; %s", b.Phase, b.Trouble), "; ")
		}
	case staunch.RecordPlan:
		if b.Asked != "" {
			return momentCase, fmt.Sprintf("people are asked to approve the plan %s; it takes %d", b.Asked, b.Persons)
		}
	case staunch.RecordRelease:
		if b.Release != nil && b.Request == "" { // the end of what was asked for
			text := "released"
			if n := len(b.Release.Kept); n > 0 {
				text += fmt.Sprintf("; %d effects stay in force", n)
			}
			return momentRelease, text
		}
		if b.Release != nil {
			how := ""
			switch {
			case b.Release.Rotated:
				how = "; the secrets were replaced first"
			case b.Release.TokenLife > 0:
				how = fmt.Sprintf("; what was denied lives for %s and has run out", b.Release.TokenLife.Std())
			case b.Release.Revive:
				how = "; what comes back to life was confirmed"
			}
			if v := b.Release.Verdict; v != "" {
				how += "; judged " + string(v)
			}
			return momentRelease, fmt.Sprintf("%s: %s%s", b.Request, b.Release.Reason, how)
		}
		return momentRelease, "released"
	case staunch.RecordTrust:
		if v := b.Judged; v != nil {
			how := ""
			if v.Given > 1 {
				how = ", which corrects the verdict before"
			}
			return momentRelease, fmt.Sprintf("judged %s: %s%s", v.Verdict, v.Reason, how)
		}
		var ev staunch.TrustEvent
		_ = json.Unmarshal(r.Body, &ev)
		if ev.Kind == staunch.TrustDemoted {
			return momentRelease, fmt.Sprintf("rule %s was demoted from %s to %s", ev.Rule, ev.From, ev.To)
		}
	case staunch.RecordProof:
		if len(b.Guards) > 0 {
			return momentProof, fmt.Sprintf("the fast plane's hold on %s is applied by every live guard (%s)", b.Target, strings.Join(b.Guards, ", "))
		}
	case staunch.RecordResidual:
		return momentResidual, fmt.Sprintf("the subject still succeeded: %s at %s", orElse(b.Operation, "an action"), b.Time)
	case staunch.RecordNotice:
		if b.Error != "" {
			return momentNotice, fmt.Sprintf("telling %s failed: %s", orElse(b.Channel, "people"), b.Error)
		}
		return momentNotice, fmt.Sprintf("told %s", orElse(b.Channel, "people"))
	}
	return "", ""
}
