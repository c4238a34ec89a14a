package sigma

import (
	"strconv"
	"unicode/utf8"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Explanation says why a rule matched a record, or why not.
type Explanation struct {
	Rule      string       `json:"rule"`
	Path      string       `json:"path"`
	Line      int          `json:"line"`
	Condition []string     `json:"condition"`
	Logsource Logsource    `json:"logsource"`
	Matched   bool         `json:"matched"`
	Tree      *ExplainNode `json:"tree"`
}

// ExplainNode is one part of a rule's logic with its result. Every part is
// evaluated, also those that no longer matter.
type ExplainNode struct {
	// Op is and, or, not, selection or item.
	Op     string `json:"op"`
	Result bool   `json:"result"`
	Line   int    `json:"line,omitempty"`
	// Selection is the name, for a selection.
	Selection string `json:"selection,omitempty"`
	// Field, Modifier and Wanted are an item's, as the rule has them; a keyword
	// has no field.
	Field    string   `json:"field,omitempty"`
	Modifier string   `json:"modifier,omitempty"`
	Wanted   []string `json:"wanted,omitempty"`
	// Found holds the JSON text of the field's values in the record, shortened;
	// empty when it has none. Present tells an absent field from an empty list.
	Found    []string       `json:"found,omitempty"`
	Present  bool           `json:"present,omitempty"`
	Children []*ExplainNode `json:"children,omitempty"`
}

const (
	maxFound      = 10
	maxFoundBytes = 200
)

// Explain evaluates every part of one rule, given by its number, on a record,
// whatever its log source; for a rule that is [Rule.Mapped], doc is the mapped
// event. It is made for people and allocates freely. It panics if there is no
// rule of this number.
func (s *Set) Explain(doc *jsondoc.Doc, rule int) *Explanation {
	r := s.rules[rule]
	if r.Mapped() {
		return s.mapped.explain(doc, rule)
	}
	sc := new(Scratch)
	sc.begin(s, doc)
	e := &explainer{s, sc, r}
	tree := e.node(r.cond)
	return &Explanation{Rule: r.ID, Path: r.Path, Line: r.Line, Condition: r.conditions, Logsource: r.Logsource, Matched: tree.Result, Tree: tree}
}

type explainer struct {
	s  *Set
	sc *Scratch
	r  *Rule
}

func (x *explainer) node(e *expr) *ExplainNode {
	switch e.op {
	case opRef:
		k := x.node(x.r.selections[e.ref])
		return &ExplainNode{Op: "selection", Selection: x.r.names[e.ref], Result: k.Result, Line: k.Line, Children: []*ExplainNode{k}}
	case opPred:
		return x.item(e)
	}
	n := &ExplainNode{Op: "or", Line: e.line}
	for _, k := range e.kids {
		n.Children = append(n.Children, x.node(k))
	}
	switch e.op {
	case opNot:
		n.Op, n.Result = "not", !n.Children[0].Result
	case opAnd:
		n.Op, n.Result = "and", true
		for _, k := range n.Children {
			n.Result = n.Result && k.Result
		}
	default:
		for _, k := range n.Children {
			n.Result = n.Result || k.Result
		}
	}
	return n
}

func (x *explainer) item(e *expr) *ExplainNode {
	id := x.s.ids[e.pred.key]
	q := &x.s.preds[id]
	n := &ExplainNode{Op: "item", Line: e.line, Field: e.pred.field, Modifier: e.pred.modifier, Wanted: e.pred.wanted, Result: x.sc.root.Exists() && x.s.ask(x.sc, id)}
	if q.fieldID >= 0 {
		n.Present = x.sc.exists(q.fieldID)
		n.Found = found(x.sc.values(q.fieldID))
	}
	if q.refID >= 0 {
		for _, f := range found(x.sc.values(q.refID)) {
			n.Wanted = append(n.Wanted[:len(n.Wanted):len(n.Wanted)], "= "+f)
		}
	}
	return n
}

func found(vals []value) []string {
	var out []string
	for i, v := range vals {
		if i == maxFound {
			return append(out, "… and "+strconv.Itoa(len(vals)-i)+" more")
		}
		raw := v.v.Raw()
		if len(raw) > maxFoundBytes {
			cut := maxFoundBytes
			for cut > 0 && !utf8.RuneStart(raw[cut]) {
				cut--
			}
			out = append(out, string(raw[:cut])+"…")
			continue
		}
		out = append(out, string(raw))
	}
	return out
}
