package sigma

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// modifiers are a field's modifiers, read and checked for sense together.
type modifiers struct {
	names   []string // as written
	chain   []string // those that change patterns, in their order
	all     bool
	neq     bool
	cased   bool
	exists  bool
	re      bool
	flags   string // of re
	cidr    bool
	expand  bool
	ref     bool
	compare bool
	cmp     cmpOp
	timed   bool
	part    timePart
	match   predKind // of ref: predEq, predPrefix, predSuffix or predContains
}

var compareOps = map[string]cmpOp{"lt": cmpLt, "lte": cmpLte, "gt": cmpGt, "gte": cmpGte}

var timeParts = map[string]timePart{"minute": partMinute, "hour": partHour, "day": partDay, "week": partWeek, "month": partMonth, "year": partYear}

// modifierNames are those that a slip of the pen may mean.
var modifierNames = []string{
	"all", "neq", "cased", "contains", "startswith", "endswith", "windash", "wide", "utf16le", "utf16", "utf16be", "base64", "base64offset",
	"exists", "re", "cidr", "expand", "fieldref", "lt", "lte", "gt", "gte", "minute", "hour", "day", "week", "month", "year",
}

func parseModifiers(names []string, keyword bool) (modifiers, error) {
	m := modifiers{names: names}
	seen := map[string]bool{}
	has := func(list ...string) string {
		for _, n := range list {
			if seen[n] {
				return n
			}
		}
		return ""
	}
	for _, n := range names {
		if seen[n] {
			return m, fmt.Errorf("the modifier %s stands twice", n)
		}
		seen[n] = true
		switch n {
		case "all":
			m.all = true
		case "neq":
			m.neq = true
		case "cased":
			m.cased = true
		case "contains", "startswith", "endswith", "windash":
			m.chain = append(m.chain, n)
		case "wide", "utf16le":
			m.chain = append(m.chain, "utf16le")
		case "utf16", "utf16be", "base64", "base64offset":
			m.chain = append(m.chain, n)
		case "exists":
			m.exists = true
		case "re":
			m.re = true
		case "i", "m", "s":
			if !m.re {
				return m, fmt.Errorf("the modifier %s is a flag of re and stands behind it", n)
			}
			m.flags += n
		case "cidr":
			m.cidr = true
		case "expand":
			m.expand = true
		case "fieldref":
			m.ref = true
		case "lt", "lte", "gt", "gte":
			if m.compare {
				return m, fmt.Errorf("two comparisons in one item")
			}
			m.compare, m.cmp = true, compareOps[n]
		case "minute", "hour", "day", "week", "month", "year":
			if m.timed {
				return m, fmt.Errorf("two parts of a time in one item")
			}
			if m.compare {
				return m, fmt.Errorf("%s must stand before the comparison", n)
			}
			m.timed, m.part = true, timeParts[n]
		case "":
			return m, fmt.Errorf("an empty modifier (two | or one at the end)")
		default:
			if k := nearKey(n, modifierNames); k != "" {
				return m, fmt.Errorf("unknown modifier %q: did you mean %s?", n, k)
			}
			return m, fmt.Errorf("unknown modifier %q", n)
		}
	}
	positions := 0
	for _, n := range m.chain {
		if n == "contains" || n == "startswith" || n == "endswith" {
			positions++
		}
	}
	if positions > 1 {
		return m, fmt.Errorf("contains, startswith and endswith exclude each other")
	}
	texts := []string{"contains", "startswith", "endswith", "windash", "wide", "utf16le", "utf16", "utf16be", "base64", "base64offset"}
	kinds := 0
	for _, k := range []bool{m.exists, m.re, m.cidr, m.ref, m.compare || m.timed} {
		if k {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return m, fmt.Errorf("exists, re, cidr, fieldref and comparisons exclude each other")
	case m.ref && (has("windash", "wide", "utf16le", "utf16", "utf16be", "base64", "base64offset") != "" || m.expand):
		return m, fmt.Errorf("fieldref goes with contains, startswith, endswith, cased, all and neq only")
	case m.ref:
		m.match = predEq
		switch has("contains", "startswith", "endswith") {
		case "contains":
			m.match = predContains
		case "startswith":
			m.match = predPrefix
		case "endswith":
			m.match = predSuffix
		}
		m.chain = nil
	case kinds == 1 && has(texts...) != "":
		return m, fmt.Errorf("%s does not go with %s", has(texts...), has("exists", "re", "cidr", "lt", "lte", "gt", "gte", "minute", "hour", "day", "week", "month", "year"))
	case kinds == 1 && m.cased:
		return m, fmt.Errorf("cased does not go with %s", has("exists", "re", "cidr", "lt", "lte", "gt", "gte", "minute", "hour", "day", "week", "month", "year"))
	case m.exists && (m.all || m.expand):
		return m, fmt.Errorf("exists goes with neq only")
	case m.expand && (m.compare || m.timed):
		return m, fmt.Errorf("expand does not go with comparisons")
	}
	if keyword && (m.exists || m.cidr || m.ref || m.compare || m.timed) {
		return m, fmt.Errorf("%s needs a field", has("exists", "cidr", "fieldref", "lt", "lte", "gt", "gte", "minute", "hour", "day", "week", "month", "year"))
	}
	return m, nil
}

// item reads one field with its values, or keywords where the field is empty.
func (p *ruleParser) item(m member) *expr {
	field, rest, modified := strings.Cut(m.key, "|")
	var names []string
	if modified {
		names = strings.Split(rest, "|")
	}
	keyword := field == ""
	mods, err := parseModifiers(names, keyword)
	if err != nil {
		p.errorf(m.line, "%s: %v", show(m.key), err)
		return nil
	}
	nodes := []*yaml.Node{m.value}
	switch m.value.Kind {
	case yaml.ScalarNode:
	case yaml.SequenceNode:
		nodes = m.value.Content
	default:
		p.errorf(m.line, "%s: a map cannot be a field's value", show(m.key))
		return nil
	}
	if len(nodes) == 0 {
		p.errorf(m.line, "%s: the list of values is empty", show(m.key))
		return nil
	}
	if mods.exists && len(nodes) > 1 {
		p.errorf(m.line, "%s: exists takes one bool", show(m.key))
		return nil
	}
	targets := []string{""}
	if !keyword {
		targets = p.fields(field)
	}
	var groups []*expr
	ok := true
	for _, n := range nodes {
		n = deref(n)
		if n.Kind != yaml.ScalarNode {
			p.errorf(n.Line, "%s: a value must be plain, not a list or map", show(m.key))
			ok = false
			continue
		}
		if isNull(n) && len(nodes) > 1 {
			p.errorf(n.Line, "%s: null cannot be one of several values; Sigma wants a selection of its own for it", show(m.key))
			ok = false
			continue
		}
		var fields []*expr
		for _, target := range targets {
			preds, err := p.value(target, mods, n)
			if err != nil {
				p.errorf(n.Line, "%s: %v", show(m.key), err)
				ok = false
				break
			}
			if p.values += len(preds); p.values > p.limits.Values {
				p.errorf(n.Line, "%s: the modifiers make more than %d values", show(m.key), p.limits.Values)
				return nil
			}
			var kids []*expr
			for _, q := range preds {
				q.line = n.Line
				q.modifier = strings.Join(names, "|")
				q.wanted = []string{n.Value}
				if isNull(n) {
					q.wanted = []string{"null"}
				}
				kids = append(kids, &expr{op: opPred, pred: q, line: n.Line})
			}
			fields = append(fields, join(opOr, kids))
		}
		if len(fields) == 0 {
			continue
		}
		// A field that a pipeline gave several names is absent when all are.
		how := opOr
		if isNull(n) || mods.exists && strings.EqualFold(n.Value, "false") {
			how = opAnd
		}
		groups = append(groups, join(how, fields))
	}
	if !ok {
		return nil
	}
	o := opOr
	if mods.all {
		o = opAnd
	} else if len(targets) == 1 {
		groups = mergeEqual(groups)
	}
	e := join(o, groups)
	for _, g := range preds(e, nil) {
		g.makeKey()
	}
	if mods.neq {
		e = &expr{op: opNot, kids: []*expr{e}, line: m.line}
	}
	return e
}

func preds(e *expr, dst []*pred) []*pred {
	if e.op == opPred {
		return append(dst, e.pred)
	}
	for _, k := range e.kids {
		dst = preds(k, dst)
	}
	return dst
}

// mergeEqual joins the values of an OR that are plain texts into one question.
func mergeEqual(groups []*expr) []*expr {
	var flat, rest []*expr
	for _, g := range groups {
		if g.op == opOr {
			flat = append(flat, g.kids...)
		} else {
			flat = append(flat, g)
		}
	}
	var eq *expr
	var texts []string
	for _, g := range flat {
		if g.op != opPred || g.pred.kind != predEq {
			rest = append(rest, g)
			continue
		}
		texts = append(texts, g.pred.texts...)
		if eq == nil {
			eq = g
			rest = append(rest, g)
			continue
		}
		eq.pred.wanted = append(eq.pred.wanted, g.pred.wanted...)
	}
	if eq != nil {
		eq.pred.setTexts(texts)
	}
	return rest
}

func show(key string) string {
	if key == "" {
		return "keywords"
	}
	return key
}

// value makes the predicates of one value; any of them may hold.
func (p *ruleParser) value(field string, m modifiers, n *yaml.Node) ([]*pred, error) {
	base := func(k predKind) *pred { return &pred{kind: k, field: field, path: jsondoc.ParsePath(field).Fold()} }
	tag := n.ShortTag()
	if tag == "!!null" {
		if field == "" {
			return nil, fmt.Errorf("null needs a field")
		}
		for _, name := range m.names {
			if name != "neq" && name != "all" {
				return nil, fmt.Errorf("null does not go with %s", name)
			}
		}
		return []*pred{base(predNull)}, nil
	}
	switch {
	case m.exists:
		if tag != "!!bool" {
			return nil, fmt.Errorf("exists takes true or false")
		}
		q := base(predExists)
		q.want = strings.EqualFold(n.Value, "true")
		return []*pred{q}, nil
	case m.compare || m.timed:
		if tag != "!!int" && tag != "!!float" {
			return nil, fmt.Errorf("%s takes a number, not %q", strings.Join(m.names, "|"), n.Value)
		}
		num, err := yamlNumber(n)
		if err != nil {
			return nil, err
		}
		q := base(predCompare)
		q.cmp, q.num = m.cmp, num
		if m.timed {
			q.kind, q.part = predPart, m.part
		}
		return []*pred{q}, nil
	case m.ref:
		if _, plain := parsePattern(n.Value).plain(); !plain || n.Value == "" || tag != "!!str" {
			return nil, fmt.Errorf("fieldref takes the name of a field without wildcards")
		}
		name, _ := parsePattern(n.Value).plain()
		var out []*pred
		for _, other := range p.fields(name) {
			q := base(predRef)
			q.ref, q.refPath, q.match, q.cased = other, jsondoc.ParsePath(other).Fold(), m.match, m.cased
			out = append(out, q)
		}
		return out, nil
	case m.re:
		return p.regularExpressions(field, m, n)
	}
	texts := []string{n.Value}
	switch {
	case m.expand:
		var err error
		if texts, err = p.expand(n.Value, nil); err != nil {
			return nil, err
		}
	case (tag == "!!int" || tag == "!!float") && len(m.chain) == 0:
		num, err := yamlNumber(n)
		if err != nil {
			return nil, err
		}
		texts = numberTexts(num, n.Value)
	case tag == "!!bool":
		texts[0] = strings.ToLower(n.Value)
	}
	var out []*pred
	for _, t := range texts {
		if m.cidr {
			q := base(predCIDR)
			var err error
			if q.net, err = parseCIDR(t); err != nil {
				return nil, err
			}
			out = append(out, q)
			continue
		}
		ps, err := m.patterns(parsePattern(t))
		if err != nil {
			return nil, err
		}
		for _, pt := range ps {
			if len(m.chain) > 0 || m.expand {
				p.made += pt.size()
			}
			if p.made > p.limits.MadeBytes {
				return nil, errMade(p.limits.MadeBytes)
			}
			if field != "" {
				q := patternPred(field, pt, m.cased)
				q.path = jsondoc.ParsePath(field).Fold()
				out = append(out, q)
				continue
			}
			if len(pt) == 0 || len(pt) == 1 && pt[0].kind == elemStar {
				return nil, fmt.Errorf("an empty keyword, or one of * alone, would match every record")
			}
			lead, tail := true, true
			for _, name := range m.chain {
				switch name {
				case "startswith":
					lead = false
				case "endswith":
					tail = false
				}
			}
			out = append(out, keywordPred(pt.open(lead, tail), m.cased))
		}
	}
	return out, nil
}

func errMade(most int) error {
	return fmt.Errorf("modifiers and placeholders make more than %d bytes of the document's values", most)
}

// patterns applies the modifiers that change a value, in their order.
func (m modifiers) patterns(first pattern) ([]pattern, error) {
	ps := []pattern{first}
	for _, name := range m.chain {
		var next []pattern
		for _, p := range ps {
			if name == "utf16" || name == "utf16le" || name == "utf16be" || name == "base64" || name == "base64offset" {
				spelled, err := p.spellDashes()
				if err != nil {
					return nil, err
				}
				for _, s := range spelled {
					switch name {
					case "base64":
						b, err := s.encodeBase64()
						if err != nil {
							return nil, err
						}
						next = append(next, b)
					case "base64offset":
						b, err := s.encodeBase64Offset()
						if err != nil {
							return nil, err
						}
						next = append(next, b...)
					default:
						next = append(next, s.encodeWide(name))
					}
				}
				continue
			}
			switch name {
			case "contains":
				p = p.open(true, true)
			case "startswith":
				p = p.open(false, true)
			case "endswith":
				p = p.open(true, false)
			case "windash":
				p = p.windash()
			}
			next = append(next, p)
		}
		ps = next
	}
	for i := range ps {
		var err error
		if ps[i], err = ps[i].settle(); err != nil {
			return nil, err
		}
	}
	return ps, nil
}

// regularExpressions makes the questions of one value of re, several where it has
// placeholders with several values.
func (p *ruleParser) regularExpressions(field string, m modifiers, n *yaml.Node) ([]*pred, error) {
	texts := []string{n.Value}
	if m.expand {
		var err error
		if texts, err = p.expand(n.Value, pattern.regex); err != nil {
			return nil, err
		}
	}
	var out []*pred
	for _, t := range texts {
		q, err := p.regex(field, m, t)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

func (p *ruleParser) regex(field string, m modifiers, text string) (*pred, error) {
	if text == "" {
		return nil, fmt.Errorf("the regular expression is empty")
	}
	if len(text) > p.limits.RegexBytes {
		return nil, fmt.Errorf("the regular expression is longer than %d bytes", p.limits.RegexBytes)
	}
	if m.flags != "" {
		text = "(?" + m.flags + ")" + text
	}
	if *p.regexes -= len(text) + wideSize*len(wideRange.FindAllStringIndex(text, -1)); *p.regexes < 0 {
		return nil, errRegexes(p.limits.Regexes)
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		if lookAround.MatchString(text) {
			return nil, errors.New("the regular expression is not supported: it looks around, with (?=, (?!, (?<= or (?<!; what must not be there can be a selection of its own, under not")
		}
		return nil, fmt.Errorf("the regular expression is not supported: %w", err)
	}
	size := programSize(tree, p.limits.RegexSize)
	if size > p.limits.RegexSize {
		return nil, fmt.Errorf("the regular expression has more than %d instructions when its repeats are written out", p.limits.RegexSize)
	}
	if *p.regexes -= size; *p.regexes < 0 {
		return nil, errRegexes(p.limits.Regexes)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("the regular expression is not supported: %w", err)
	}
	q := &pred{kind: predRegex, field: field, path: jsondoc.ParsePath(field).Fold(), re: re, reText: text}
	q.must, q.mustFold = requiredText(tree)
	if field == "" {
		q.kind, q.match = predKeyword, predRegex
	}
	return q, nil
}

// lookAround finds what RE2 does not have, and calls a wrong name of a group.
var lookAround = regexp.MustCompile(`\(\?<?[=!]`)

// wideRange finds what may be a range with many characters in a class. Where case
// does not count such a range is read character by character, for some ten
// milliseconds each; wideSize is what it counts for, in instructions.
var wideRange = regexp.MustCompile(`-(?:\\x\{|[^\x00-\x7f])`)

const wideSize = 4000

func errRegexes(most int) error {
	return fmt.Errorf("the regular expressions of the file come to more than %d instructions and bytes; put some into other files", most)
}

// programSize is about how many instructions a regular expression compiles to. The
// matcher is linear in the record, and as slow as this for each of its bytes. It
// stops counting above limit.
func programSize(re *syntax.Regexp, limit int) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpCharClass:
		n = 1 + len(re.Rune)/10 // in memory, ten runes are as large as an instruction
	}
	for _, sub := range re.Sub {
		if n += programSize(sub, limit); n > limit {
			return n
		}
	}
	if re.Op == syntax.OpRepeat {
		times := max(re.Min, re.Max, 1)
		if re.Max < 0 {
			times++ // the last one as often as it likes
		}
		n *= times
	}
	return n
}

// expand replaces the placeholders of a value, giving every combination. put, when
// given, says how a placeholder's value is written, which is a pattern otherwise.
func (p *ruleParser) expand(s string, put func(pattern) string) ([]string, error) {
	out := []string{""}
	size := 0 // of all that is in out
	app := func(vals ...string) error {
		if len(out)*len(vals) > p.limits.Values {
			return fmt.Errorf("placeholders give more than %d values", p.limits.Values)
		}
		more := 0
		for _, v := range vals {
			more += len(v)
		}
		if size = size*len(vals) + more*len(out); size > p.limits.MadeBytes {
			return errMade(p.limits.MadeBytes)
		}
		next := make([]string, 0, len(out)*len(vals))
		for _, o := range out {
			for _, v := range vals {
				next = append(next, o+v)
			}
		}
		out = next
		return nil
	}
	var lit strings.Builder // between placeholders
	flush := func() error {
		defer lit.Reset()
		if lit.Len() == 0 {
			return nil
		}
		return app(lit.String())
	}
	found := 0
	for i := 0; i < len(s); {
		if strings.HasPrefix(s[i:], `\%`) {
			lit.WriteByte('%')
			i += 2
			continue
		}
		if s[i] == '%' {
			if end := strings.IndexByte(s[i+1:], '%'); end > 0 && placeholderName(s[i+1:i+1+end]) {
				name := s[i+1 : i+1+end]
				vals := p.opts.placeholder(name)
				if len(vals) == 0 {
					p.missing++
					return nil, fmt.Errorf("the placeholder %%%s%% has no values: give it with --placeholder %s=VALUE, or under placeholders in staunch.yaml or a pipeline", name, name)
				}
				if found++; found > maxPlaceholders {
					return nil, fmt.Errorf("a value has more than %d placeholders", maxPlaceholders)
				}
				if err := flush(); err != nil {
					return nil, err
				}
				if put != nil {
					written := make([]string, len(vals))
					for i, v := range vals {
						written[i] = put(parsePattern(v))
					}
					vals = written
				}
				if err := app(vals...); err != nil {
					return nil, err
				}
				i += end + 2
				continue
			}
		}
		lit.WriteByte(s[i])
		i++
	}
	return out, flush()
}

// maxPlaceholders bounds those of one value.
const maxPlaceholders = 100

func placeholderName(s string) bool {
	for _, r := range s {
		if !isWord(r) && r != '-' && r != '.' {
			return false
		}
	}
	return s != ""
}

// numberTexts are the texts that a number of a rule equals: its decimal text, and
// the one that the rule has, so that 012345678901 is that account too. A whole
// number that does not fit is only its own digits: a float would equal its
// neighbours as well.
func numberTexts(n number, written string) []string {
	if digits := strings.TrimLeft(written, "+-"); !n.whole && digits != "" && strings.Trim(digits, "0123456789") == "" {
		return []string{strings.TrimPrefix(written, "+")}
	}
	if s := string(n.text(nil)); s != written {
		return []string{s, written}
	}
	return []string{written}
}

func yamlNumber(n *yaml.Node) (number, error) {
	var v any
	if err := n.Decode(&v); err != nil {
		return number{}, fmt.Errorf("reading the number %q: %w", n.Value, err)
	}
	switch v := v.(type) {
	case int:
		return wholeNumber(int64(v)), nil
	case int64:
		return wholeNumber(v), nil
	case uint64:
		return number{f: float64(v)}, nil
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return number{}, fmt.Errorf("%s is not a number to compare with", n.Value)
		}
		return floatNumber(v), nil
	}
	return number{}, fmt.Errorf("%q is not a number", n.Value)
}

func parseCIDR(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not a network in CIDR notation", s)
		}
		s += "/" + strconv.Itoa(a.BitLen())
	}
	net, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network in CIDR notation", s)
	}
	// Addresses of records are looked at without the IPv4-in-IPv6 wrapping.
	if net.Addr().Is4In6() && net.Bits() >= 96 {
		net = netip.PrefixFrom(net.Addr().Unmap(), net.Bits()-96)
	}
	return net.Masked(), nil
}
