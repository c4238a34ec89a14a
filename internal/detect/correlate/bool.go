package correlate

import (
	"fmt"
	"slices"
	"strings"
)

// boolExpr is a condition over which rules matched in the window.
type boolExpr struct {
	op   string // and, or, not, or rule
	ref  string
	rule int
	kids []*boolExpr
}

const maxBoolTokens = 1000

// parseBool reads names joined by and, or, not and parentheses; not binds
// strongest, or weakest.
func parseBool(s string) (*boolExpr, error) {
	s = strings.NewReplacer("(", " ( ", ")", " ) ").Replace(s)
	p := &boolParser{tokens: strings.Fields(s)}
	if len(p.tokens) > maxBoolTokens {
		return nil, fmt.Errorf("more than %d words", maxBoolTokens)
	}
	e, err := p.or(0)
	if err == nil && len(p.tokens) > 0 {
		err = fmt.Errorf("%q is not expected", p.tokens[0])
	}
	return e, err
}

type boolParser struct{ tokens []string }

func (p *boolParser) take(word string) bool {
	if len(p.tokens) == 0 || !strings.EqualFold(p.tokens[0], word) {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *boolParser) or(depth int) (*boolExpr, error) {
	return p.joined("or", func() (*boolExpr, error) {
		return p.joined("and", func() (*boolExpr, error) { return p.not(depth) })
	})
}

func (p *boolParser) joined(word string, next func() (*boolExpr, error)) (*boolExpr, error) {
	e, err := next()
	if err != nil {
		return nil, err
	}
	kids := []*boolExpr{e}
	for p.take(word) {
		if e, err = next(); err != nil {
			return nil, err
		}
		kids = append(kids, e)
	}
	if len(kids) == 1 {
		return kids[0], nil
	}
	return &boolExpr{op: word, kids: kids}, nil
}

func (p *boolParser) not(depth int) (*boolExpr, error) {
	switch {
	case depth > maxDepth:
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	case p.take("not"):
		e, err := p.not(depth + 1)
		return &boolExpr{op: "not", kids: []*boolExpr{e}}, err
	case p.take("("):
		e, err := p.or(depth + 1)
		if err == nil && !p.take(")") {
			err = fmt.Errorf("a ) is missing")
		}
		return e, err
	case len(p.tokens) == 0:
		return nil, fmt.Errorf("it ends where a rule is expected")
	}
	w := p.tokens[0]
	if slices.Contains([]string{")", "and", "or"}, strings.ToLower(w)) {
		return nil, fmt.Errorf("%q where a rule is expected", w)
	}
	p.tokens = p.tokens[1:]
	return &boolExpr{op: "rule", ref: w}, nil
}

// bind finds the rules that the names are of.
func (e *boolExpr) bind(ops []operand) error {
	if e.op == "rule" {
		if e.rule = slices.IndexFunc(ops, func(o operand) bool { return o.Ref == e.ref }); e.rule < 0 {
			return fmt.Errorf("the condition names %q, which is not among the rules", e.ref)
		}
	}
	for _, k := range e.kids {
		if err := k.bind(ops); err != nil {
			return err
		}
	}
	return nil
}

func (e *boolExpr) negates() bool {
	return e.op == "not" || slices.ContainsFunc(e.kids, (*boolExpr).negates)
}

func (e *boolExpr) holds(count []int) bool {
	switch e.op {
	case "rule":
		return count[e.rule] > 0
	case "not":
		return !e.kids[0].holds(count)
	case "and":
		return !slices.ContainsFunc(e.kids, func(k *boolExpr) bool { return !k.holds(count) })
	default:
		return slices.ContainsFunc(e.kids, func(k *boolExpr) bool { return k.holds(count) })
	}
}

func (e *boolExpr) String() string {
	if e.op == "rule" {
		return e.ref
	}
	var parts []string
	for _, k := range e.kids {
		parts = append(parts, k.String())
	}
	return e.op + "(" + strings.Join(parts, " ") + ")"
}
