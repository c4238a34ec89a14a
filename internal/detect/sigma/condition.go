package sigma

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// op is what a node of an expression does.
type op uint8

const (
	opAnd op = iota
	opOr
	opNot
	opRef  // a selection of the rule, by index
	opPred // a predicate
)

// expr is a rule's logic: first over selections (from the condition) and
// predicates (from a selection); Compile joins the two.
type expr struct {
	op     op
	kids   []*expr
	ref    int   // opRef: index of the selection
	pred   *pred // opPred
	line   int   // where it stands
	id     int32 // opPred in a Set: the interned predicate
	weight int   // sum of the predicates' costs; 0 until asked for
}

const maxConditionDepth = 64

// parseCondition reads a condition over the named selections. The error is the
// reason alone; a condition has no lines worth telling.
func parseCondition(text string, names []string) (*expr, error) {
	if i := strings.IndexByte(text, '|'); i >= 0 {
		what := strings.ToLower(strings.TrimSpace(text[i+1:]))
		if strings.HasPrefix(what, "near") {
			return nil, fmt.Errorf("the near operator (| near) is not supported; Sigma replaced it by temporal correlations")
		}
		return nil, fmt.Errorf("an aggregation after | in a condition is not supported; Sigma replaced it by correlation rules")
	}
	p := &condParser{names: names}
	if err := p.lex(text); err != nil {
		return nil, err
	}
	if len(p.toks) == 0 {
		return nil, fmt.Errorf("the condition is empty")
	}
	e, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.toks) {
		return nil, fmt.Errorf("unexpected %q in the condition", p.toks[p.pos])
	}
	return e, nil
}

type condParser struct {
	names []string
	toks  []string
	pos   int
	size  int // nodes made, bounded because "of" multiplies them
}

func identByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
}

func (p *condParser) lex(text string) error {
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '(' || c == ')':
			p.toks = append(p.toks, text[i:i+1])
			i++
		case identByte(c) || c == '*':
			from := i
			for i < len(text) && (identByte(text[i]) || text[i] == '*') {
				i++
			}
			p.toks = append(p.toks, text[from:i])
		default:
			r, _ := utf8.DecodeRuneInString(text[i:])
			return fmt.Errorf("unexpected character %q in the condition", r)
		}
	}
	return nil
}

func (p *condParser) keyword(word string) bool {
	if p.pos < len(p.toks) && strings.EqualFold(p.toks[p.pos], word) {
		p.pos++
		return true
	}
	return false
}

// reserved reports whether a selection of this name could not be told from
// the condition's own words.
func reserved(name string) bool {
	switch strings.ToLower(name) {
	case "and", "or", "not", "of", "them", "all", "any", "1":
		return true
	}
	return false
}

func (p *condParser) or(depth int) (*expr, error)  { return p.chain(depth, "or", opOr, p.and) }
func (p *condParser) and(depth int) (*expr, error) { return p.chain(depth, "and", opAnd, p.unary) }

func (p *condParser) chain(depth int, word string, o op, next func(int) (*expr, error)) (*expr, error) {
	e, err := next(depth)
	if err != nil {
		return nil, err
	}
	kids := []*expr{e}
	for p.keyword(word) {
		k, err := next(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, k)
	}
	return join(o, kids), nil
}

// refs marks the selections that the condition names.
func (e *expr) refs(used []bool) {
	if e.op == opRef {
		used[e.ref] = true
	}
	for _, k := range e.kids {
		k.refs(used)
	}
}

// join makes an AND or OR of its children, and of one child itself.
func join(o op, kids []*expr) *expr {
	if len(kids) == 1 {
		return kids[0]
	}
	return &expr{op: o, kids: kids, line: kids[0].line}
}

func (p *condParser) unary(depth int) (*expr, error) {
	if depth > maxConditionDepth {
		return nil, fmt.Errorf("the condition nests deeper than %d", maxConditionDepth)
	}
	if p.keyword("not") {
		e, err := p.unary(depth + 1)
		if err != nil {
			return nil, err
		}
		return &expr{op: opNot, kids: []*expr{e}}, nil
	}
	if p.pos >= len(p.toks) {
		return nil, fmt.Errorf("the condition ends where a selection is expected")
	}
	tok := p.toks[p.pos]
	p.pos++
	if tok == "(" {
		e, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if !p.keyword(")") {
			return nil, fmt.Errorf("a parenthesis in the condition is not closed")
		}
		return e, nil
	}
	if p.pos < len(p.toks) && strings.EqualFold(p.toks[p.pos], "of") {
		p.pos++
		return p.of(tok)
	}
	if tok == ")" || reserved(tok) && tok != "1" {
		return nil, fmt.Errorf("unexpected %q in the condition", tok)
	}
	if strings.Contains(tok, "*") {
		return nil, fmt.Errorf("the pattern %q needs \"1 of\" or \"all of\" before it", tok)
	}
	for i, n := range p.names {
		if n == tok {
			return p.made(&expr{op: opRef, ref: i})
		}
	}
	if tok == "near" {
		return nil, fmt.Errorf("the near operator is not supported; Sigma replaced it by temporal correlations")
	}
	return nil, fmt.Errorf("the condition names %q, which detection does not define: it has %s", tok, someNames(p.names))
}

// someNames lists names, the first few of many.
func someNames(names []string) string {
	const most = 5
	switch {
	case len(names) == 0:
		return "no selection"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

func (p *condParser) made(e *expr) (*expr, error) {
	if p.size++; p.size > 10_000 {
		return nil, fmt.Errorf("the condition has more than 10000 terms")
	}
	return e, nil
}

func (p *condParser) of(quantifier string) (*expr, error) {
	var o op
	switch strings.ToLower(quantifier) {
	case "1", "any":
		o = opOr
	case "all":
		o = opAnd
	default:
		return nil, fmt.Errorf("%q of is not supported; Sigma knows \"1 of\" and \"all of\"", quantifier)
	}
	if p.pos >= len(p.toks) {
		return nil, fmt.Errorf("the condition ends after \"%s of\"", quantifier)
	}
	pattern := p.toks[p.pos]
	p.pos++
	if pattern == "(" || pattern == ")" {
		return nil, fmt.Errorf("\"%s of\" needs them or a pattern, not %q", quantifier, pattern)
	}
	them := strings.EqualFold(pattern, "them")
	var kids []*expr
	for i, n := range p.names {
		if them && strings.HasPrefix(n, "_") || !them && !nameMatches(pattern, n) {
			continue
		}
		e, err := p.made(&expr{op: opRef, ref: i})
		if err != nil {
			return nil, err
		}
		kids = append(kids, e)
	}
	if len(kids) == 0 {
		return nil, fmt.Errorf("\"%s of %s\" names no selection", quantifier, pattern)
	}
	return join(o, kids), nil
}

// nameMatches reports whether a selection's name fits a pattern with *; names
// that begin with an underscore only fit patterns that do too.
func nameMatches(pattern, name string) bool {
	if strings.HasPrefix(name, "_") && !strings.HasPrefix(pattern, "_") {
		return false
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	if !strings.HasPrefix(name, parts[0]) {
		return false
	}
	rest := name[len(parts[0]):]
	for _, mid := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, mid)
		if i < 0 {
			return false
		}
		rest = rest[i+len(mid):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
