package sigma

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Filter is a Sigma filter: what its selections describe no longer matches the
// rules that it is for.
type Filter struct {
	ID, Title, Path string
	Line            int
	Logsource       Logsource
	// Any says that it is for every rule of the log source; Rules names them
	// otherwise, by id or name.
	Any   bool
	Rules []string

	lines []int // of Rules
	logic *Rule // its selections and condition
	stays bool  // the condition says what stays, not what goes
}

var filterKeys = []string{"title", "id", "description", "date", "modified", "taxonomy", "logsource", "filter"}

// filterDocument reads a document that has the key filter. Title and id were
// read.
func (p *ruleParser) filterDocument(all []member, line int) {
	r := p.rule
	f := &Filter{Path: p.path, Line: line, logic: r}
	var filter, logsource *member
	for i, m := range all {
		switch m.key {
		case "title", "id":
		case "description", "date", "modified", "author", "status", "license":
			p.texts(m)
		case "taxonomy":
			r.Taxonomy = p.text(m)
		case "references", "related":
		case "logsource":
			logsource = &all[i]
		case "filter":
			filter = &all[i]
		case "detection", "correlation", "generate":
			p.errorf(m.line, "a filter has no %s; put it into a document of its own", m.key)
		default:
			p.unknown(m, " in a filter", filterKeys)
		}
	}
	if r.Title == "" {
		p.errorf(line, "the filter has no title")
	}
	if r.ID == "" {
		r.ID = r.Path + ": " + r.Title
	}
	if logsource == nil {
		p.errorf(line, "the filter has no logsource")
		return
	}
	p.logsource(*logsource)
	p.translate()
	if filter.value.Kind != yaml.MappingNode {
		p.errorf(filter.line, "filter must be a mapping")
		return
	}
	logic := &yaml.Node{Kind: yaml.MappingNode, Line: filter.value.Line}
	named := false
	for i, m := range members(filter.value) {
		if m.key != "rules" {
			logic.Content = append(logic.Content, filter.value.Content[2*i:2*i+2]...)
			continue
		}
		named = true
		p.filterRules(m, f)
	}
	if !named {
		p.errorf(filter.line, "filter names no rules")
	}
	p.detection(member{"filter", filter.line, logic})
	if len(p.errs) > 0 {
		return
	}
	affirmed, negated := polarity(r.cond, false)
	if f.stays = negated && !affirmed; negated && affirmed {
		p.note(filter.line, "the filter's condition has selections with and without not; what it holds for no longer matches")
	}
	f.ID, f.Title, f.Logsource = r.ID, r.Title, r.Logsource
	p.filter = f
}

func (p *ruleParser) filterRules(m member, f *Filter) {
	if m.value.Kind == yaml.ScalarNode && strings.EqualFold(m.value.Value, "any") {
		f.Any = true
		return
	}
	f.Rules = p.texts(m)
	if len(f.Rules) == 0 && len(p.errs) == 0 {
		p.errorf(m.line, "filter names no rules")
	}
	for i := range f.Rules {
		line := m.line
		if m.value.Kind == yaml.SequenceNode {
			line = m.value.Content[i].Line
		}
		f.lines = append(f.lines, line)
	}
}

// polarity says whether selections stand in a condition as they are, and whether
// they stand under a not.
func polarity(e *expr, under bool) (affirmed, negated bool) {
	switch e.op {
	case opRef:
		return !under, under
	case opNot:
		under = !under
	}
	for _, k := range e.kids {
		a, n := polarity(k, under)
		affirmed, negated = affirmed || a, negated || n
	}
	return affirmed, negated
}

// applyFilters puts the filters' logic into the rules that they are for.
func (l *Loaded) applyFilters() {
	ids := map[string]*Filter{}
	kept := l.Filters[:0:0]
	for _, f := range l.Filters {
		if o := ids[f.ID]; o != nil {
			l.refuse(&RuleError{Path: f.Path, Line: f.Line, Rule: f.ID, Reason: fmt.Sprintf("its id is taken by the filter at %s:%d", o.Path, o.Line)})
			continue
		}
		ids[f.ID] = f
		kept = append(kept, f)
	}
	l.Filters = kept
	for _, f := range l.Filters {
		var errs []*RuleError
		meant := map[string]bool{}
		for i, r := range l.Rules {
			by := f.names(r)
			if by == "" {
				continue
			}
			meant[by] = true
			filtered, problem := f.apply(r)
			switch {
			case problem == "":
				l.Rules[i] = filtered
			case !f.Any:
				errs = append(errs, &RuleError{Path: f.Path, Line: f.Line, Rule: f.ID, Reason: problem})
			}
		}
		for i, name := range f.Rules {
			if !meant[name] {
				l.Notes = append(l.Notes, &RuleError{Path: f.Path, Line: f.lines[i], Rule: f.ID, Reason: fmt.Sprintf("no rule %q is loaded that the filter could be for", name)})
			}
		}
		if len(errs) > 0 {
			l.refuse(errs...)
		}
	}
}

// names returns by what the filter names the rule, "" where it is not for it.
func (f *Filter) names(r *Rule) string {
	if !f.Logsource.within(r.Logsource) {
		return ""
	}
	if f.Any {
		return "any"
	}
	for _, name := range f.Rules {
		if r.HasID && strings.EqualFold(name, r.ID) || r.Name != "" && name == r.Name {
			return name
		}
	}
	return ""
}

// apply returns the rule with the filter's logic, or why it cannot.
func (f *Filter) apply(r *Rule) (*Rule, string) {
	if f.logic.Mapped() != r.Mapped() {
		return nil, fmt.Sprintf("the filter and the rule %s name fields of different taxonomies", r.ID)
	}
	out := *r
	out.Filters = slices.Concat(r.Filters, []string{f.ID})
	out.names = slices.Concat(r.names, f.logic.names)
	for i := len(r.names); i < len(out.names); i++ {
		out.names[i] = f.Title + ": " + out.names[i]
	}
	out.selections = slices.Concat(r.selections, f.logic.selections)
	logic := moved(f.logic.cond, len(r.selections))
	if !f.stays {
		logic = &expr{op: opNot, kids: []*expr{logic}, line: f.Line}
	}
	out.cond = &expr{op: opAnd, kids: []*expr{r.cond, logic}, line: r.cond.line}
	if n := terms(out.cond, out.sizes()); n > maxTerms {
		return nil, fmt.Sprintf("with the filter the rule %s has %d items, more than %d", r.ID, n, maxTerms)
	}
	return &out, ""
}

// moved copies a condition with its selections' numbers raised.
func moved(e *expr, by int) *expr {
	out := *e
	if e.op == opRef {
		out.ref += by
	}
	out.kids = nil
	for _, k := range e.kids {
		out.kids = append(out.kids, moved(k, by))
	}
	return &out
}

// sizes counts the items of each selection.
func (r *Rule) sizes() []int {
	out := make([]int, len(r.selections))
	for i, e := range r.selections {
		out[i] = len(preds(e, nil))
	}
	return out
}
