package record

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
)

// The frameworks that a bundle speaks of.
const (
	frameworkCSF     = "NIST CSF 2.0"
	frameworkDefend  = "MITRE D3FEND"
	frameworkAttack  = "MITRE ATT&CK"
	frameworkAtlas   = "MITRE ATLAS"
	frameworkNHI     = "OWASP NHI Top 10 2025"
	frameworkAgentic = "OWASP Agentic Top 10 2026"
)

// maxMappedRows bounds the rows that a Mapping lists.
const maxMappedRows = 50

// mappings collects what the rows show.
type mappings struct{ list []Mapping }

// show adds rows to what shows an id; without a row nothing is said.
func (m *mappings) show(framework, id, says string, rows ...string) {
	if len(rows) == 0 {
		return
	}
	i := slices.IndexFunc(m.list, func(o Mapping) bool { return o.Framework == framework && o.ID == id })
	if i < 0 {
		i = len(m.list)
		m.list = append(m.list, Mapping{Framework: framework, ID: id, Says: says, Rows: []string{}})
	}
	for _, r := range rows {
		switch to := &m.list[i]; {
		case slices.Contains(to.Rows, r):
		case len(to.Rows) >= maxMappedRows:
			to.More++
		default:
			to.Rows = append(to.Rows, r)
		}
	}
}

// frameworks says what the bundle's rows show. Only what a row shows is said: a
// containment that released nothing has nothing of recovery.
func frameworks(e Evidence, defend func(staunch.Step) []string) []Mapping {
	m := &mappings{}
	e.csf(m)
	e.defended(m, defend)
	e.attacked(m)
	return some(m.list)
}

// recordBody is what the mapping needs of records' bodies.
type recordBody struct {
	RaisedTo *staunch.Tier `json:"raised_to"`
	Request  string        `json:"request"`
	Phase    staunch.Phase `json:"phase"`
	// Of is the step that a revert undid, State what became of it.
	Of    string            `json:"of"`
	State staunch.StepState `json:"state"`
}

// rowOf names a record of the log in a Mapping's rows.
func rowOf(r staunch.Record) string { return fmt.Sprintf("record %s/%d", r.Lane, r.Seq) }

// csf maps the response and recovery outcomes of NIST's Cybersecurity Framework
// 2.0: management (RS.MA), mitigation (RS.MI) and recovery (RC.RP). What people
// have to do outside of here, such as RC.RP-03 on backups and RC.RP-04 on how
// work goes on, no row can show.
func (e Evidence) csf(m *mappings) {
	show := func(id, says string, rows ...string) { m.show(frameworkCSF, id, says, rows...) }
	escalated := func(row string) {
		show("RS.MA-04", "it was raised to a higher tier, or a person decided how it goes on", row)
	}
	contained := func(row string) {
		show("RS.MI-01", "the subject's access was taken away, and an independent read, or the fast plane's commit, shows it", row)
	}
	for _, d := range e.Decisions {
		show("RS.MA-02", "what detection reported was weighed: confidence, standing and source decided what it may cause", d.ID)
		show("RS.MA-03", "it was put in a tier, which says how much is taken away and how fast", d.ID)
	}
	guarded := slices.ContainsFunc(e.Holds, held)
	for _, p := range e.Plans {
		if guarded || slices.ContainsFunc(e.Steps, func(s staunch.Step) bool { return s.Plan == p.ID }) {
			show("RS.MA-01", "the playbook's stages were carried out as plans with explicit targets", p.ID)
		}
	}
	for _, r := range e.Records {
		var b recordBody
		// A body of another shape shows nothing.
		_ = json.Unmarshal(r.Body, &b)
		row := rowOf(r)
		switch r.Kind {
		case staunch.RecordContainment:
			if b.RaisedTo != nil || b.Request == "approve" || b.Request == "advance" || b.Request == "extend" {
				escalated(row)
			}
		case staunch.RecordRelease:
			switch {
			case b.Request == "release" || b.Request == "clear":
				show("RS.MA-05", "a named person ended it, with a reason and, where it brings a secret back to life, a confirmation", row)
			case b.Phase == staunch.PhaseReleased:
				show("RC.RP-06", "its end is on record, with what stays in force", row)
			}
		case staunch.RecordRevert:
			show("RC.RP-01", "after the release each effect was taken up in turn, with its intent on record first", row)
			// A reversible step is only put on record as undone after a read agreed.
			if b.State == staunch.StepReverted && slices.ContainsFunc(e.Steps, func(s staunch.Step) bool {
				return s.ID == b.Of && s.Intent.Reversibility == staunch.Reversible
			}) {
				show("RC.RP-05", "the state was read after the undo and is the one from before", row, b.Of)
			}
		}
	}
	for _, h := range e.Holds {
		if held(h) {
			contained(h.ID)
		}
	}
	for _, s := range e.Steps {
		if s.Proven != 0 {
			switch s.Verb {
			case staunch.VerbRevoke, staunch.VerbRotate:
				show("RS.MI-02", "what was stolen was revoked or replaced, and an independent read shows it", s.ID)
			case staunch.VerbRestrict, staunch.VerbStepUp, staunch.VerbIsolate, staunch.VerbSuspend:
				contained(s.ID)
			}
		}
		if s.State == staunch.StepReverted && s.Reverted != 0 || s.State == staunch.StepKept && s.Note != "" {
			show("RC.RP-02", "it was undone, or left in force for a reason that is on record", s.ID)
		}
	}
	sortWithin(m.list)
}

// held reports whether the hold of the fast plane takes something away, or did.
func held(h staunch.Hold) bool {
	return h.Plane == staunch.PlaneGuard && len(h.Deny) > 0 && h.State != staunch.HoldPending && h.State != staunch.HoldFailed
}

// sortWithin puts ids in order.
func sortWithin(list []Mapping) {
	slices.SortStableFunc(list, func(a, b Mapping) int { return strings.Compare(a.ID, b.ID) })
}

// defended maps the verbs whose call was made to what their connectors declare.
func (e Evidence) defended(m *mappings, of func(staunch.Step) []string) {
	if of == nil {
		return
	}
	d := &mappings{}
	for _, s := range e.Steps {
		if s.Applied == 0 {
			continue
		}
		for _, id := range of(s) {
			d.show(frameworkDefend, id, "the connector declares it for the verb that it carried out", s.ID)
		}
	}
	sortWithin(d.list)
	m.list = append(m.list, d.list...)
}

var (
	attackID  = regexp.MustCompile(`^T[0-9]{4}(\.[0-9]{3})?$`)
	atlasID   = regexp.MustCompile(`^AML\.T[0-9]{4}(\.[0-9]{3})?$`)
	nhiID     = regexp.MustCompile(`^OWASP-NHI\.(NHI(?:[1-9]|10))$`)
	agenticID = regexp.MustCompile(`^OWASP-AGENTIC\.(ASI(?:0[1-9]|10))$`)
)

// attacked maps the signals to the techniques and risks that their rules name.
func (e Evidence) attacked(m *mappings) {
	a := map[string]*mappings{}
	order := []string{frameworkAttack, frameworkAtlas, frameworkNHI, frameworkAgentic}
	for _, f := range order {
		a[f] = &mappings{}
	}
	for _, s := range e.Signals {
		for _, t := range slices.Concat(s.Techniques, s.Frameworks) {
			t = strings.TrimPrefix(strings.TrimPrefix(strings.ToUpper(t), "ATTACK."), "ATLAS.")
			switch {
			case attackID.MatchString(t):
				a[frameworkAttack].show(frameworkAttack, t, "a technique that the rule behind the signal names", s.ID)
			case atlasID.MatchString(t):
				a[frameworkAtlas].show(frameworkAtlas, t, "a technique against AI systems that the rule behind the signal names", s.ID)
			case nhiID.MatchString(t):
				a[frameworkNHI].show(frameworkNHI, nhiID.FindStringSubmatch(t)[1]+":2025", "a risk of non-human identities that the rule behind the signal names", s.ID)
			case agenticID.MatchString(t):
				a[frameworkAgentic].show(frameworkAgentic, agenticID.FindStringSubmatch(t)[1], "a risk of agents that the rule behind the signal names", s.ID)
			}
		}
	}
	for _, f := range order {
		sortWithin(a[f].list)
		m.list = append(m.list, a[f].list...)
	}
}
