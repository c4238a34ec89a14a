package sigma

import (
	"math"
	"net/netip"
	"regexp/syntax"
	"unicode/utf8"
)

// An anchor is something cheap to find out about a record. Of every rule we
// look for anchors of which a matching record must have at least one, and the
// index leads from the anchors that a record has to the rules to evaluate.
// A rule for which there are none, such as one that only negates, is evaluated
// for every record of its log source.

type anchorKind uint8

const (
	anchorEqual    anchorKind = iota // a value of the field is the text
	anchorText                       // a value of the field contains the text
	anchorNet                        // a value of the field is an address of the network
	anchorPresent                    // the field is there
	anchorAnywhere                   // the record contains the text, in a key or value
)

// anchor is comparable: equal anchors are one.
type anchor struct {
	kind       anchorKind
	start, end bool  // anchorText: the text is the value's beginning, its end
	field      int32 // -1 for anchorAnywhere
	text       string
	net        netip.Prefix
}

// minText is the shortest text that is looked for inside of others.
const minText = 2

// need says which anchors a rule needs: a single one, one of its kids (any), or
// all of its kids. A nil need says nothing.
type need struct {
	any, all []*need
	anchor   int32
	chosen   *clause // once chosen
}

// clause is anchors of which a matching record has at least one, and what they
// cost: about how many rules are evaluated in vain, a record. Without anchors
// and at no cost it says that no record matches.
type clause struct {
	anchors []int32
	cost    float64
}

// maxClause bounds the anchors of one rule; a rule that needs more is
// evaluated for every record.
const maxClause = 50_000

// anchors collects those of all rules.
type anchors struct {
	preds []question
	list  []anchor
	ids   map[anchor]int32
	rules []int32 // per anchor, how many rules would use it
	memo  map[*expr]*[2]*need
}

func newAnchors(preds []question) *anchors {
	return &anchors{preds: preds, ids: map[anchor]int32{}, memo: map[*expr]*[2]*need{}}
}

func (a *anchors) add(an anchor) *need {
	id, ok := a.ids[an]
	if !ok {
		id = int32(len(a.list))
		a.ids[an] = id
		a.list = append(a.list, an)
		a.rules = append(a.rules, 0)
	}
	a.rules[id]++
	return &need{anchor: id}
}

func anyOf(list []*need) *need {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return &need{any: list}
}

func allOf(list []*need) *need {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return &need{all: list}
}

// needs returns what a record needs for an expression to hold, or with negated
// for it not to hold.
func (a *anchors) needs(e *expr, negated bool) *need {
	n := 0
	if negated {
		n = 1
	}
	m := a.memo[e]
	if m == nil {
		m = new([2]*need)
		a.memo[e] = m
	} else if m[n] != nil {
		return m[n]
	}
	m[n] = a.find(e, negated)
	return m[n]
}

func (a *anchors) find(e *expr, negated bool) *need {
	switch e.op {
	case opPred:
		if negated {
			return a.ofNegated(&a.preds[e.id])
		}
		return a.ofPred(&a.preds[e.id])
	case opNot:
		return a.needs(e.kids[0], !negated)
	case opAnd, opOr:
		var list []*need
		for _, k := range e.kids {
			if n := a.needs(k, negated); n != nil {
				list = append(list, n)
			}
		}
		if (e.op == opAnd) != negated { // all of the kids hold
			return allOf(list)
		}
		switch {
		case len(list) < len(e.kids):
			return nil
		case len(e.kids) == 0:
			return &need{any: []*need{}} // nothing makes it hold
		}
		return anyOf(list)
	}
	return nil
}

func (a *anchors) present(field int32) *need {
	return a.add(anchor{kind: anchorPresent, field: field})
}

// ofNegated: what is not null is there; otherwise a missing field, about which
// there is no anchor, does.
func (a *anchors) ofNegated(q *question) *need {
	if q.kind == predNull || q.kind == predExists && !q.want {
		return a.present(q.fieldID)
	}
	return nil
}

func (a *anchors) ofPred(q *question) *need {
	switch q.kind {
	case predEq:
		var list []*need
		for _, t := range q.texts {
			// A cased text is folded too: looser, so still needed.
			list = append(list, a.add(anchor{kind: anchorEqual, field: q.fieldID, text: foldString(t)}))
		}
		return anyOf(list)
	case predPrefix:
		return a.text(q, foldString(string(q.lit)), true, false)
	case predSuffix:
		return a.text(q, foldString(string(q.lit)), false, true)
	case predContains:
		return a.text(q, foldString(string(q.lit)), false, false)
	case predGlob:
		return a.ofGlob(q)
	case predRegex:
		return a.ofRegex(q)
	case predCIDR:
		return a.add(anchor{kind: anchorNet, field: q.fieldID, net: q.net})
	case predExists:
		if q.want {
			return a.present(q.fieldID)
		}
	case predAny, predCompare, predPart:
		return a.present(q.fieldID)
	case predRef:
		return allOf([]*need{a.present(q.fieldID), a.present(q.refID)})
	case predKeyword:
		switch q.match {
		case predPrefix, predSuffix, predContains:
			lit := q.lit
			for len(lit) > 0 && lit[0] == boundary {
				lit = lit[1:]
			}
			for len(lit) > 0 && lit[len(lit)-1] == boundary {
				lit = lit[:len(lit)-1]
			}
			return a.text(q, foldString(string(lit)), false, false)
		case predGlob:
			return a.ofGlob(q)
		case predRegex:
			return a.ofRegex(q)
		}
	}
	return nil
}

// text returns the need of a folded text in a value, at its beginning or end
// where that is so.
func (a *anchors) text(q *question, text string, start, end bool) *need {
	keyword := q.kind == predKeyword
	switch {
	case len(text) < minText && keyword:
		return nil
	case len(text) < minText:
		return a.present(q.fieldID)
	case keyword:
		return a.add(anchor{kind: anchorAnywhere, field: -1, text: text})
	}
	return a.add(anchor{kind: anchorText, field: q.fieldID, text: text, start: start, end: end})
}

func (a *anchors) ofGlob(q *question) *need {
	var list []*need
	for i, s := range q.glob.segs {
		for k, e := range s.elems {
			if e.kind == elemLit && len(e.text) >= minText {
				first := q.glob.start && i == 0 && k == 0
				last := q.glob.end && i == len(q.glob.segs)-1 && k == len(s.elems)-1
				list = append(list, a.text(q, foldString(e.text), first, last))
			}
		}
	}
	if len(list) == 0 {
		return a.text(q, "", false, false)
	}
	return allOf(list)
}

func (a *anchors) ofRegex(q *question) *need {
	if tree, err := syntax.Parse(q.reText, syntax.Perl); err == nil {
		if n := a.regexNeeds(q, tree); n != nil {
			return n
		}
	}
	return a.text(q, "", false, false)
}

// regexNeeds returns the texts that every match of a regular expression
// contains.
func (a *anchors) regexNeeds(q *question, re *syntax.Regexp) *need {
	switch re.Op {
	case syntax.OpLiteral:
		if t := foldString(string(re.Rune)); len(t) >= minText && utf8.ValidString(string(re.Rune)) {
			return a.text(q, t, false, false)
		}
	case syntax.OpCapture, syntax.OpPlus:
		return a.regexNeeds(q, re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return a.regexNeeds(q, re.Sub[0])
		}
	case syntax.OpConcat, syntax.OpAlternate:
		var list []*need
		for _, sub := range re.Sub {
			if n := a.regexNeeds(q, sub); n != nil {
				list = append(list, n)
			}
		}
		if re.Op == syntax.OpConcat {
			return allOf(list)
		}
		if len(list) == len(re.Sub) {
			return anyOf(list)
		}
	}
	return nil
}

// choose returns the cheapest clause of a need; nil when there is none that is
// small enough.
func (n *need) choose(costs []float64) *clause {
	if n.chosen != nil {
		return n.chosen
	}
	var out *clause
	switch {
	case n.all != nil:
		for _, k := range n.all {
			if c := k.choose(costs); out == nil || c.cost < out.cost {
				out = c
			}
		}
	case n.any != nil:
		out = &clause{}
		for _, k := range n.any {
			c := k.choose(costs)
			out.cost += c.cost
			if len(out.anchors)+len(c.anchors) > maxClause {
				out.cost, out.anchors = math.Inf(1), nil
			}
			if math.IsInf(out.cost, 1) {
				break
			}
			out.anchors = append(out.anchors, c.anchors...)
		}
	default:
		out = &clause{[]int32{n.anchor}, costs[n.anchor]}
	}
	n.chosen = out
	return out
}

// guess estimates how many records have each anchor without knowing any: the
// longer a text, the rarer, and what few other rules ask for is rarer than what
// many do, which describes the kind of record rather than the deed.
func (a *anchors) guess() []float64 {
	// How many texts a field is compared with says how much one of them tells:
	// eventName sorts records out better than eventSource.
	equal := map[int32]int{}
	for _, an := range a.list {
		if an.kind == anchorEqual {
			equal[an.field]++
		}
	}
	out := make([]float64, len(a.list))
	for i, an := range a.list {
		p := 0.0
		switch an.kind {
		case anchorEqual:
			p = 1 / float64(equal[an.field]+1)
		case anchorText, anchorAnywhere:
			p = 0.4 * math.Pow(0.75, float64(len(an.text)-minText))
			if an.start {
				p *= 0.8 // records begin alike, and end differently
			}
			if an.end {
				p *= 0.6
			}
			if an.kind == anchorAnywhere {
				p *= 2
			}
			p *= 1 + math.Log2(float64(a.rules[i]))/2
		case anchorNet:
			p = math.Pow(0.8, float64(an.net.Bits()))
		case anchorPresent:
			p = 0.3
		}
		out[i] = min(p, 0.9)
	}
	return out
}

// work is what looking for an anchor costs beside the evaluations, in parts of
// one; all anchors on a field share it.
var work = [...]float64{anchorEqual: 0, anchorText: 3e-4, anchorNet: 1e-4, anchorPresent: 0, anchorAnywhere: 2e-3}
