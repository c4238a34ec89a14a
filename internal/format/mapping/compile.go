package mapping

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
)

func sortStrings(s []string) { sort.Strings(s) }

// compiler turns a mapping's YAML into a Format.
type compiler struct {
	reader
	f      *Format
	schema *schema
	refs   map[string]*refSpec
	paths  map[string]*path // remembered, by text
	inEach bool

	common  []assignment
	classes []*classSource
	names   []string // of secrets
	except  []string
	product []assignment
}

// assignment is one line of an ocsf section.
type assignment struct {
	path string
	node *yaml.Node // of the path
	val  *yaml.Node
}

type classSource struct {
	class    *object
	node     *yaml.Node
	when     *yaml.Node
	activity *yaml.Node
	set      []assignment
}

var formatName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Compile reads a mapping. file is the name by which errors call the source;
// the error joins a *staunch.Problem with file:line for each thing that is
// wrong.
func Compile(src []byte, file string, opts Options) (*Format, error) {
	sch, err := loadSchema()
	if err != nil {
		return nil, err
	}
	c := &compiler{
		reader: reader{file: file},
		f:      &Format{opts: opts, accused: []staunch.Kind{staunch.KindSession, staunch.KindCredential, staunch.KindAccount}, secretMin: 3},
		schema: sch, refs: map[string]*refSpec{}, paths: map[string]*path{}, names: secretNames,
	}
	root := c.document(src)
	if root == nil {
		return nil, c.err()
	}
	c.compile(root)
	if err := c.err(); err != nil {
		return nil, err
	}
	return c.f, nil
}

func (c *compiler) compile(root *yaml.Node) {
	f := c.f
	var keys, facts, findings, secrets, ocsf, refs, product, logsources, envelopes, severity *yaml.Node
	version := false
	into := func(p **yaml.Node) func(*yaml.Node) { return func(n *yaml.Node) { *p = n } }
	c.fields(root, "a mapping", map[string]func(*yaml.Node){
		"v": func(n *yaml.Node) {
			version = true
			if n.Value != "1" {
				c.fail(n, "v has to be 1, the version of the mapping language")
			}
		},
		"name": func(n *yaml.Node) {
			f.name = c.str(n, "name")
			if !formatName.MatchString(f.name) {
				c.fail(n, "name has to be lower-case letters, digits and ._- , at most 64")
			}
		},
		"title": func(n *yaml.Node) { c.str(n, "title") },
		"ignore_case": func(n *yaml.Node) {
			if n.Tag == "!!bool" {
				f.fold = c.boolean(n, "ignore_case")
				return
			}
			f.fold = true
			if f.unless = c.path(n, c.str(n, "ignore_case")); f.unless.derived >= 0 || f.unless.self {
				c.fail(n, "ignore_case has to be true, false or the path of a key that tells")
			}
		},
		"product":   into(&product),
		"logsource": into(&logsources),
		"envelopes": into(&envelopes),
		"accused": func(n *yaml.Node) {
			f.accused = nil
			for _, k := range c.strs(n, "accused") {
				if staunch.Kind(k).Width() == 0 {
					c.fail(n, "%q is not a kind that can be accused (session, credential, account, identity)", k)
				}
				f.accused = append(f.accused, staunch.Kind(k))
			}
		},
		"same": func(n *yaml.Node) {
			f.same = map[staunch.Kind][]string{}
			c.pairs(n, "same", func(k, v *yaml.Node) {
				if w := staunch.Kind(k.Value).Width(); w == 0 || w == staunch.KindIdentity.Width() {
					c.fail(k, "%q is not a kind whose names can be the same (session, credential, account)", k.Value)
					return
				}
				schemes := c.strs(v, "same")
				if len(schemes) < 2 {
					c.fail(v, "same needs two schemes or more")
				}
				f.same[staunch.Kind(k.Value)] = schemes
			})
		},
		"refs": into(&refs), "keys": into(&keys), "facts": into(&facts), "findings": into(&findings),
		"secrets": into(&secrets), "ocsf": into(&ocsf), "severity": into(&severity),
	})
	if !version {
		c.fail(root, "v is missing: it has to be 1")
	}
	if f.name == "" {
		c.fail(root, "name is missing")
	}
	c.secretRules(secrets)
	c.logsourceList(logsources)
	c.envelopeList(envelopes)
	if refs != nil {
		c.pairs(refs, "refs", func(k, v *yaml.Node) {
			if s := c.ref(v); s != nil {
				c.refs[k.Value] = s
			}
		})
	}
	if keys != nil {
		c.keys(keys)
	}
	if facts != nil {
		c.list(facts, func(n *yaml.Node) { c.fact(n) })
	}
	if findings != nil {
		c.list(findings, func(n *yaml.Node) { c.finding(n) })
	}
	if severity != nil {
		f.severity = c.value(severity)
	}
	if product == nil {
		c.fail(root, "product is missing: {name: …, vendor_name: …}")
	} else {
		c.pairs(product, "product", func(k, v *yaml.Node) {
			if v.Kind == yaml.ScalarNode && v.Tag == "!!str" {
				v = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "=" + v.Value, Line: v.Line}
			}
			c.product = append(c.product, assignment{"metadata.product." + k.Value, k, v})
		})
	}
	if ocsf != nil {
		c.ocsfSection(ocsf)
	}
	c.buildClasses(root)
	c.rememberPaths()
	c.indexFacts()
}

// path compiles a path and shares what it finds within a record.
func (c *compiler) path(n *yaml.Node, text string) *path {
	key := text
	if c.inEach && !strings.HasPrefix(text, "$") {
		key = "" // relative to an item: not remembered
	}
	if p := c.paths[key]; key != "" && p != nil {
		return p
	}
	p, err := parsePath(text, c.f.opts.Derived)
	if err != nil {
		c.fail(n, "%s", err.Error())
		return &path{text: text, derived: -1, slot: -1, self: true}
	}
	p.rel = c.inEach && !p.root && p.derived < 0
	p.secret = c.secretOf(p)
	if key != "" {
		c.paths[key] = p
		if p.derived < 0 && !p.self && p.single {
			p.slot = len(c.f.parents)
			c.f.parents = append(c.f.parents, parentPath{path: p})
		}
	}
	return p
}

// rememberPaths links each remembered path to the longest other one that it
// begins with.
func (c *compiler) rememberPaths() {
	all := make([]*path, 0, len(c.f.parents))
	for _, p := range c.f.parents {
		all = append(all, p.path)
	}
	for i, p := range all {
		c.f.parents[i] = parentPath{}
		for _, q := range all {
			if q != p && len(q.steps) < len(p.steps) && len(q.steps) > c.f.parents[i].depth && samePrefix(p.steps, q.steps) {
				c.f.parents[i] = parentPath{path: q, depth: len(q.steps)}
			}
		}
	}
}

// indexFacts builds the fact index on the path that most facts ask for.
func (c *compiler) indexFacts() {
	anchor := func(s *factSpec) *test {
		if s.when == nil || len(s.when.any) != 1 || s.each != nil {
			return nil
		}
		for i := range s.when.any[0] {
			t := &s.when.any[0][i]
			if (t.op == opEquals || t.op == opIn) && !t.negate && t.path.slot >= 0 {
				return t
			}
		}
		return nil
	}
	count := map[*path]int{}
	x := &c.f.factIndex
	for _, s := range c.f.facts {
		if t := anchor(s); t != nil {
			count[t.path]++
			if x.path == nil || count[t.path] > count[x.path] {
				x.path = t.path
			}
		}
	}
	x.byValue = map[string][]int{}
	for i, s := range c.f.facts {
		t := anchor(s)
		switch {
		case t == nil || t.path != x.path:
			x.others = append(x.others, i)
		case t.op == opEquals:
			x.byValue[string(t.one)] = append(x.byValue[string(t.one)], i)
		default:
			for v := range t.set {
				x.byValue[v] = append(x.byValue[v], i)
			}
		}
	}
}

func samePrefix(p, q []step) bool {
	for i := range q {
		if p[i].kind != q[i].kind || p[i].key != q[i].key || p[i].index != q[i].index {
			return false
		}
	}
	return true
}

// value compiles a value.
func (c *compiler) value(n *yaml.Node) *expr {
	e := &expr{scale: 1}
	switch n.Kind {
	case yaml.ScalarNode:
		c.scalarValue(n, e)
	case yaml.SequenceNode:
		e.kind = exprFirst
		for _, a := range n.Content {
			e.alts = append(e.alts, c.value(c.deref(a)))
		}
		if len(e.alts) == 0 {
			c.fail(n, "an empty list gives no value")
		}
	case yaml.MappingNode:
		c.mappingValue(n, e)
	default:
		c.fail(n, "not a value")
	}
	return e
}

func (c *compiler) scalarValue(n *yaml.Node, e *expr) {
	switch n.Tag {
	case "!!int", "!!float", "!!bool":
		k := c.constant(n, "a constant")
		e.kind, e.text = exprLiteral, k.text
	case "!!str":
		switch {
		case strings.HasPrefix(n.Value, "="):
			e.kind, e.text = exprConst, []byte(n.Value[1:])
			if len(e.text) == 0 {
				c.fail(n, "a constant is empty")
			}
		case strings.Contains(n.Value, "{"):
			e.kind = exprTemplate
			e.parts = c.template(n, n.Value)
		default:
			e.kind, e.path = exprPath, c.path(n, n.Value)
		}
	default:
		c.fail(n, "not a value: a path, =text, a number, true or false")
	}
}

func (c *compiler) template(n *yaml.Node, s string) []part {
	var out []part
	for s != "" {
		open := strings.IndexByte(s, '{')
		if open < 0 {
			return append(out, part{text: s})
		}
		if open > 0 {
			out = append(out, part{text: s[:open]})
		}
		end := strings.IndexByte(s, '}')
		if end < open {
			c.fail(n, "a template has { without }")
			return out
		}
		out = append(out, part{path: c.path(n, s[open+1:end])})
		s = s[end+1:]
	}
	return out
}

var timeUnits = map[string]time.Duration{"s": time.Second, "ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}

func (c *compiler) mappingValue(n *yaml.Node, e *expr) {
	sources := 0
	source := func(fn func(v *yaml.Node)) func(*yaml.Node) {
		return func(v *yaml.Node) { sources++; fn(v) }
	}
	var table, other *yaml.Node
	c.fields(n, "a value", map[string]func(*yaml.Node){
		"from": source(func(v *yaml.Node) {
			inner := c.value(v)
			e.kind, e.path, e.parts, e.alts, e.text = inner.kind, inner.path, inner.parts, inner.alts, inner.text
			if !inner.plain() || inner.when != nil || inner.kind == exprEach {
				e.kind, e.alts = exprFirst, []*expr{inner}
			}
		}),
		"const": source(func(v *yaml.Node) {
			k := c.constant(v, "const")
			e.kind, e.text = exprConst, k.text
			if k.literal {
				e.kind = exprLiteral
			}
		}),
		"template": source(func(v *yaml.Node) {
			e.kind, e.parts = exprTemplate, c.template(v, c.str(v, "template"))
		}),
		"first": source(func(v *yaml.Node) {
			e.kind = exprFirst
			c.list(v, func(a *yaml.Node) { e.alts = append(e.alts, c.value(a)) })
		}),
		"when": func(v *yaml.Node) { e.when = c.cond(v) },
		"match": func(v *yaml.Node) {
			e.match = c.regexp(v, "match")
		},
		"as": func(v *yaml.Node) {
			for _, s := range c.strs(v, "as") {
				k, ok := conversions[s]
				if !ok {
					c.fail(v, "%q is not a conversion (%s)", s, conversionList())
				}
				e.as = append(e.as, k)
			}
		},
		"except": func(v *yaml.Node) {
			e.except = map[string]bool{}
			for _, s := range c.strs(v, "except") {
				e.except[s] = true
			}
		},
		"table":   func(v *yaml.Node) { table = v },
		"else":    func(v *yaml.Node) { other = v },
		"unit":    func(v *yaml.Node) { e.time.unit = c.unit(v) },
		"layouts": func(v *yaml.Node) { e.time.layouts = c.strs(v, "layouts") },
		"zones": func(v *yaml.Node) {
			e.time.zones = map[string]string{}
			c.pairs(v, "zones", func(k, o *yaml.Node) {
				off := c.str(o, "a zone's offset")
				if _, err := time.Parse("-07:00", off); err != nil {
					c.fail(o, "%q is not an offset such as +02:00", off)
				}
				e.time.zones[k.Value] = off
			})
		},
		"relative": func(v *yaml.Node) { e.time.relative = c.boolean(v, "relative") },
		"lenient":  func(v *yaml.Node) { e.time.lenient = c.boolean(v, "lenient") },
		"scale": func(v *yaml.Node) {
			s, err := strconv.ParseFloat(v.Value, 64)
			if err != nil || !(s > 0) {
				c.fail(v, "scale has to be a number above 0")
				return
			}
			e.scale = s
		},
	})
	if sources != 1 {
		c.fail(n, "a value takes exactly one of from, const, template, first")
	}
	if table != nil {
		e.table = map[string]constant{}
		c.pairs(table, "table", func(k, v *yaml.Node) { e.table[k.Value] = c.constant(v, "a table's value") })
	}
	if other != nil {
		if table == nil {
			c.fail(other, "else belongs to a table")
		}
		k := c.constant(other, "else")
		e.other = &k
	}
	if slices.Contains(e.as, asDigest) && e.kind == exprPath {
		p := *e.path
		p.raw = true
		e.path = &p
	}
	for _, a := range e.alts { // a time's alternatives are read as it says
		if a.time.unit == 0 && a.time.layouts == nil && a.time.zones == nil {
			a.time = e.time
		}
	}
}

func conversionList() string {
	names := make([]string, 0, len(conversions))
	for k := range conversions {
		names = append(names, k)
	}
	sortStrings(names)
	return strings.Join(names, ", ")
}

func (c *compiler) unit(n *yaml.Node) time.Duration {
	u, ok := timeUnits[c.str(n, "unit")]
	if !ok {
		c.fail(n, "unit has to be s, ms, us or ns")
	}
	return u
}

func (c *compiler) regexp(n *yaml.Node, what string) *regexp.Regexp {
	s := c.str(n, what)
	re, err := regexp.Compile(s)
	if err != nil {
		c.fail(n, "%s: %s", what, err.Error())
		return regexp.MustCompile(`$^`)
	}
	return re
}

// cond compiles a condition: a mapping of paths to tests, all of which must
// hold, or a list of such, any of which must.
func (c *compiler) cond(n *yaml.Node) *cond {
	out := &cond{}
	c.list(n, func(m *yaml.Node) {
		var all []test
		c.pairs(m, "a condition", func(k, v *yaml.Node) {
			all = append(all, c.tests(c.path(k, k.Value), v)...)
		})
		if len(all) == 0 {
			c.fail(m, "an empty condition")
		}
		out.any = append(out.any, all)
	})
	if len(out.any) == 0 {
		c.fail(n, "an empty condition")
	}
	return out
}

func (c *compiler) tests(p *path, v *yaml.Node) []test {
	if v.Kind != yaml.MappingNode {
		return []test{c.equals(p, v)}
	}
	var out []test
	text := func(op testOp) func(*yaml.Node) {
		return func(n *yaml.Node) { out = append(out, test{path: p, op: op, one: []byte(c.str(n, "a test"))}) }
	}
	ok := c.fields(v, "a test", map[string]func(*yaml.Node){
		"exists": func(n *yaml.Node) {
			out = append(out, test{path: p, op: opExists, want: c.boolean(n, "exists")})
		},
		"prefix": text(opPrefix), "suffix": text(opSuffix), "contains": text(opContains),
		"matches": func(n *yaml.Node) {
			out = append(out, test{path: p, op: opMatches, re: c.regexp(n, "matches")})
		},
		"kind": func(n *yaml.Node) {
			set := map[string]bool{}
			for _, s := range c.strs(n, "kind") {
				set[s] = true
			}
			out = append(out, test{path: p, op: opKind, set: set})
		},
		"in": func(n *yaml.Node) { out = append(out, c.equals(p, n)) },
		"not": func(n *yaml.Node) {
			for _, t := range c.tests(p, n) {
				if t.op == opExists {
					t.want = !t.want
				} else {
					t.negate = !t.negate
				}
				out = append(out, t)
			}
		},
	})
	if ok && len(out) == 0 {
		c.fail(v, "an empty test")
	}
	return out
}

func (c *compiler) equals(p *path, n *yaml.Node) test {
	if n.Kind == yaml.SequenceNode {
		set := map[string]bool{}
		for _, s := range c.strs(n, "a test's value") {
			set[s] = true
		}
		return test{path: p, op: opIn, set: set}
	}
	k := c.constant(n, "a test's value")
	return test{path: p, op: opEquals, one: k.text}
}

func (c *compiler) logsourceList(n *yaml.Node) {
	if n == nil {
		return
	}
	c.list(n, func(m *yaml.Node) {
		var l logsource
		c.fields(m, "logsource", map[string]func(*yaml.Node){
			"product":  func(v *yaml.Node) { l.out.Product = c.str(v, "product") },
			"category": func(v *yaml.Node) { l.out.Category = c.str(v, "category") },
			"service":  func(v *yaml.Node) { l.out.Service = c.str(v, "service") },
			"all":      func(v *yaml.Node) { l.out.All = c.boolean(v, "all") },
			"when":     func(v *yaml.Node) { l.when = c.cond(v) },
		})
		if l.out == (format.Logsource{}) {
			c.fail(m, "a logsource names a product, category or service, or is all")
		}
		c.f.logsources = append(c.f.logsources, l)
	})
}

func (c *compiler) envelopeList(n *yaml.Node) {
	if n == nil {
		return
	}
	c.list(n, func(m *yaml.Node) {
		var e envelope
		if m.Kind == yaml.ScalarNode {
			e.path = c.path(m, c.str(m, "an envelope"))
		} else {
			c.fields(m, "an envelope", map[string]func(*yaml.Node){
				"path":   func(v *yaml.Node) { e.path = c.path(v, c.str(v, "path")) },
				"when":   func(v *yaml.Node) { e.when = c.cond(v) },
				"decode": func(v *yaml.Node) { e.decode = c.boolean(v, "decode") },
			})
		}
		if e.path == nil || e.path.self || e.path.derived >= 0 {
			c.fail(m, "an envelope needs the path of the records in it")
			return
		}
		c.f.envelopes = append(c.f.envelopes, e)
	})
}

// ref compiles a ref: a name from refs, a mapping, or a list of either, the
// first of which that the record has counts.
func (c *compiler) ref(n *yaml.Node) *refSpec {
	switch n.Kind {
	case yaml.ScalarNode:
		s := c.refs[n.Value]
		if s == nil {
			c.fail(n, "there is no ref %q under refs", n.Value)
		}
		return s
	case yaml.SequenceNode:
		out := &refSpec{}
		for _, e := range n.Content {
			a := c.ref(c.deref(e))
			if a == nil {
				return nil
			}
			if a.each != nil {
				c.fail(e, "each does not go with a list of alternatives")
			}
			out.alts = append(out.alts, a)
			out.kind = a.kind
		}
		if len(out.alts) == 0 {
			c.fail(n, "an empty list names nothing")
			return nil
		}
		return out
	}
	s := &refSpec{}
	var from, realm, when *yaml.Node
	c.fields(n, "a ref", map[string]func(*yaml.Node){
		"kind": func(v *yaml.Node) {
			s.kind = staunch.Kind(c.str(v, "kind"))
			if !s.kind.Valid() {
				c.fail(v, "%q is not a kind (session, credential, account, identity, resource)", s.kind)
			}
		},
		"scheme": func(v *yaml.Node) { s.scheme = c.str(v, "scheme") },
		"from":   func(v *yaml.Node) { from = v },
		"realm":  func(v *yaml.Node) { realm = v },
		"when":   func(v *yaml.Node) { when = v },
		"each":   func(v *yaml.Node) { s.each = c.path(v, c.str(v, "each")) },
	})
	was := c.inEach
	c.inEach = was || s.each != nil
	defer func() { c.inEach = was }()
	if s.kind == staunch.KindIdentity && s.scheme == "" {
		s.scheme = "name"
	}
	probe := staunch.Ref{Kind: s.kind, Realm: "r", Scheme: s.scheme, Value: "v"}
	if s.kind == staunch.KindIdentity {
		probe.Realm = ""
	}
	if err := probe.Validate(); err != nil && s.kind.Valid() {
		c.fail(n, "%s", err.Error())
	}
	if from == nil {
		c.fail(n, "a ref needs from, where its value is")
		return s
	}
	s.value = c.value(from)
	if realm != nil {
		s.realm = c.value(realm)
	}
	if when != nil {
		s.when = c.cond(when)
	}
	return s
}

func (c *compiler) refList(n *yaml.Node) []*refSpec {
	var out []*refSpec
	c.list(n, func(e *yaml.Node) {
		if s := c.ref(e); s != nil {
			out = append(out, s)
		}
	})
	return out
}

func (c *compiler) keys(n *yaml.Node) {
	f := c.f
	c.fields(n, "keys", map[string]func(*yaml.Node){
		"id":        func(v *yaml.Node) { f.id = c.value(v) },
		"time":      func(v *yaml.Node) { f.time = c.value(v) },
		"operation": func(v *yaml.Node) { f.operation = c.value(v) },
		"source_ip": func(v *yaml.Node) { f.sourceIP = c.value(v) },
		"outcome": func(v *yaml.Node) {
			c.list(v, func(m *yaml.Node) { c.outcome(m) })
		},
		"actor": func(v *yaml.Node) {
			f.actor = c.refList(v)
			for _, s := range f.actor {
				if s.kind == staunch.KindResource {
					c.fail(v, "a resource does not act")
				}
				if s.each != nil {
					c.fail(v, "each is for targets")
				}
			}
			sort.SliceStable(f.actor, func(i, j int) bool { return f.actor[i].kind.Width() < f.actor[j].kind.Width() })
		},
		"targets": func(v *yaml.Node) { f.targets = c.refList(v) },
	})
}

func (c *compiler) outcome(n *yaml.Node) {
	var o outcome
	check := func(v *yaml.Node, s string) staunch.Outcome {
		switch o := staunch.Outcome(s); o {
		case staunch.OutcomeSuccess, staunch.OutcomeFailure, staunch.OutcomeUnknownValue:
			return o
		}
		c.fail(v, "%q is not an outcome (success, failure, unknown)", s)
		return ""
	}
	if n.Kind == yaml.ScalarNode {
		o.is = check(n, n.Value)
		c.f.outcomes = append(c.f.outcomes, o)
		return
	}
	c.fields(n, "an outcome", map[string]func(*yaml.Node){
		"is":   func(v *yaml.Node) { o.is = check(v, c.str(v, "is")) },
		"when": func(v *yaml.Node) { o.when = c.cond(v) },
		"value": func(v *yaml.Node) {
			o.from = c.value(v)
			for _, k := range o.from.table {
				check(v, string(k.text))
			}
			if o.from.other != nil {
				check(v, string(o.from.other.text))
			}
		},
	})
	if (o.is == "") == (o.from == nil) {
		c.fail(n, "an outcome takes either is or value")
	}
	c.f.outcomes = append(c.f.outcomes, o)
}

var factTypes = map[staunch.FactType]bool{
	staunch.FactSessionStarted: true, staunch.FactSessionEnded: true, staunch.FactCredentialIssued: true,
	staunch.FactCredentialRevoked: true, staunch.FactAccountCreated: true, staunch.FactAccountRemoved: true,
	staunch.FactGrantAdded: true, staunch.FactGrantRemoved: true, staunch.FactOwnerSet: true,
	staunch.FactSameAs: true, staunch.FactBelongs: true,
}

func (c *compiler) fact(n *yaml.Node) {
	s := &factSpec{}
	var rest []func()
	later := func(fn func(*yaml.Node)) func(*yaml.Node) {
		return func(v *yaml.Node) { rest = append(rest, func() { fn(v) }) }
	}
	c.fields(n, "a fact", map[string]func(*yaml.Node){
		"type": func(v *yaml.Node) {
			s.typ = staunch.FactType(c.str(v, "type"))
			if !factTypes[s.typ] {
				c.fail(v, "%q is not a fact's type", s.typ)
			}
		},
		"each":    func(v *yaml.Node) { s.each = c.path(v, c.str(v, "each")) },
		"when":    later(func(v *yaml.Node) { s.when = c.cond(v) }),
		"subject": later(func(v *yaml.Node) { s.subject = c.ref(v) }),
		"of":      later(func(v *yaml.Node) { s.of = c.ref(v) }),
		"by":      later(func(v *yaml.Node) { s.by = c.ref(v) }),
		"time":    later(func(v *yaml.Node) { s.time = c.value(v) }),
		"until":   later(func(v *yaml.Node) { s.until = c.value(v) }),
		"attrs": later(func(v *yaml.Node) {
			c.pairs(v, "attrs", func(k, e *yaml.Node) { s.attrs = append(s.attrs, namedExpr{k.Value, c.value(e)}) })
		}),
	})
	was := c.inEach
	c.inEach = was || s.each != nil
	for _, fn := range rest {
		fn()
	}
	c.inEach = was
	switch {
	case s.typ == "":
		c.fail(n, "a fact needs its type")
	case s.subject == nil:
		c.fail(n, "a fact needs its subject")
	case s.of == nil && needsOf(s.typ):
		c.fail(n, "a %s fact needs of", s.typ)
	}
	if len(c.problems) == 0 {
		c.f.facts = append(c.f.facts, s)
	}
}

func (c *compiler) finding(n *yaml.Node) {
	s := &findingSpec{}
	c.fields(n, "a finding", map[string]func(*yaml.Node){
		"when":       func(v *yaml.Node) { s.when = c.cond(v) },
		"id":         func(v *yaml.Node) { s.id = c.value(v) },
		"title":      func(v *yaml.Node) { s.title = c.value(v) },
		"evidence":   func(v *yaml.Node) { s.evidence = c.value(v) },
		"confidence": func(v *yaml.Node) { s.confidence = c.value(v) },
		"accuse":     func(v *yaml.Node) { s.accuse = c.refList(v) },
		"techniques": func(v *yaml.Node) {
			c.list(v, func(e *yaml.Node) { s.techniques = append(s.techniques, c.arrayValue(e)) })
		},
	})
	for _, a := range s.accuse {
		if a.kind.Width() == 0 {
			c.fail(n, "a resource cannot be accused")
		}
	}
	if s.confidence == nil {
		c.fail(n, "a finding needs its confidence")
	}
	if len(s.accuse) == 0 {
		c.fail(n, "a finding needs whom to accuse")
	}
	if len(c.problems) == 0 {
		c.f.findings = append(c.f.findings, s)
	}
}

// arrayValue is a value that may be {each: path}, the items of an array.
func (c *compiler) arrayValue(n *yaml.Node) *expr {
	if n.Kind != yaml.MappingNode || !hasKey(n, "each") {
		return c.value(n)
	}
	e := &expr{kind: exprEach, scale: 1}
	var value *yaml.Node
	c.fields(n, "a list", map[string]func(*yaml.Node){
		"each":  func(v *yaml.Node) { e.each = c.path(v, c.str(v, "each")) },
		"value": func(v *yaml.Node) { value = v },
	})
	was := c.inEach
	c.inEach = true
	if value == nil {
		value = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: ".", Line: n.Line}
	}
	e.val = c.value(value)
	c.inEach = was
	return e
}

func hasKey(n *yaml.Node, key string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}

func (c *compiler) secretRules(n *yaml.Node) {
	f := c.f
	f.named = &secretRule{}
	if n != nil {
		c.fields(n, "secrets", map[string]func(*yaml.Node){
			"names": func(v *yaml.Node) {
				if v.Kind == yaml.ScalarNode && v.Value == "none" {
					c.names = nil
					return
				}
				c.names = append(slices.Clone(c.names), c.strs(v, "names")...)
			},
			"except": func(v *yaml.Node) { c.except = c.strs(v, "except") },
			"at": func(v *yaml.Node) {
				c.list(v, func(m *yaml.Node) { c.secretRule(m) })
			},
		})
	}
	f.secretNames, f.notSecret = map[string]bool{}, map[string]bool{}
	for _, s := range c.names {
		f.secretNames[string(normalName([]byte(s), nil))] = true
	}
	for _, s := range c.except {
		f.notSecret[string(normalName([]byte(s), nil))] = true
	}
	for s := range f.secretNames {
		f.secretMin = min(f.secretMin, len(s))
	}
}

func (c *compiler) secretRule(n *yaml.Node) {
	s := &secretRule{}
	if n.Kind == yaml.ScalarNode {
		s.path = c.path(n, n.Value)
		c.f.secrets = append(c.f.secrets, s)
		return
	}
	c.fields(n, "a secret", map[string]func(*yaml.Node){
		"path":   func(v *yaml.Node) { s.path = c.path(v, c.str(v, "path")) },
		"when":   func(v *yaml.Node) { s.when = c.cond(v) },
		"match":  func(v *yaml.Node) { s.match = c.regexp(v, "match") },
		"keep":   func(v *yaml.Node) { s.keep = c.boolean(v, "keep") },
		"inside": func(v *yaml.Node) { s.inside = c.boolean(v, "inside") },
		"realm":  func(v *yaml.Node) { s.realm = c.value(v) },
		"scheme": func(v *yaml.Node) { s.scheme = c.str(v, "scheme") },
		"kind": func(v *yaml.Node) {
			s.kind = staunch.Kind(c.str(v, "kind"))
			if s.kind != staunch.KindCredential && s.kind != staunch.KindSession {
				c.fail(v, "a secret is a credential or a session, not %q", s.kind)
			}
		},
	})
	if s.kind != "" && s.scheme == "" {
		s.scheme = "sha256"
	}
	switch {
	case s.path == nil || s.path.derived >= 0 || s.path.self:
		c.fail(n, "a secret needs its path in the record")
		return
	case s.inside && s.match == nil:
		c.fail(n, "inside needs match, which says what part is secret")
	case s.inside && s.kind != "":
		c.fail(n, "what is inside a longer text is only hidden: inside does not go with kind")
	case s.keep && s.kind == "":
		c.fail(n, "keep needs kind: only a credential is kept")
	}
	s.path.secret = s
	c.f.secrets = append(c.f.secrets, s)
}

// secretOf returns the rule by which what the path reaches is a secret.
func (c *compiler) secretOf(p *path) *secretRule {
	keys := p.keysOnly()
	for _, s := range c.f.secrets {
		if s.path != p && s.path.keysOnly() == keys {
			return s
		}
	}
	// The containers of secrets: what is below them is secret too.
	for _, s := range c.f.secrets {
		if s.path != p && strings.HasPrefix(keys, s.path.keysOnly()+"\x00") {
			return s
		}
	}
	if k := p.lastKey(); k != "" && c.f.secretName([]byte(k)) {
		return c.f.named
	}
	return nil
}

func (c *compiler) ocsfSection(n *yaml.Node) {
	c.fields(n, "ocsf", map[string]func(*yaml.Node){
		"common": func(v *yaml.Node) { c.common = c.assignments(v, "") },
		"unmapped": func(v *yaml.Node) {
			switch v.Value {
			case "rest":
			case "all":
				c.f.whole = true
			default:
				c.fail(v, "unmapped is rest, what was not assigned, or all, the whole record")
			}
		},
		"classes": func(v *yaml.Node) {
			c.list(v, func(m *yaml.Node) {
				s := &classSource{node: m}
				c.fields(m, "a class", map[string]func(*yaml.Node){
					"class": func(k *yaml.Node) {
						if s.class = c.schema.class(c.str(k, "class")); s.class == nil {
							c.fail(k, "%q is not a class that mappings may use (%s)", k.Value, c.classNames())
						}
					},
					"when":     func(k *yaml.Node) { s.when = k },
					"activity": func(k *yaml.Node) { s.activity = k },
					"set":      func(k *yaml.Node) { s.set = c.assignments(k, "") },
				})
				if s.class == nil {
					if !hasKey(m, "class") {
						c.fail(m, "a class needs its name")
					}
					return
				}
				c.classes = append(c.classes, s)
			})
		},
	})
}

func (c *compiler) classNames() string {
	var names []string
	for n := range c.schema.classes {
		names = append(names, n)
	}
	sortStrings(names)
	return strings.Join(names, ", ")
}

// assignments flattens nested mappings into dotted attribute paths. Values of
// a mapping's kind are told from nested attributes by their keys.
func (c *compiler) assignments(n *yaml.Node, prefix string) []assignment {
	var out []assignment
	c.pairs(n, "assignments", func(k, v *yaml.Node) {
		name := prefix + k.Value
		if v.Kind == yaml.MappingNode && !isValue(v) {
			out = append(out, c.assignments(v, name+".")...)
			return
		}
		out = append(out, assignment{name, k, v})
	})
	return out
}

// isValue tells a value from nested attributes.
func isValue(n *yaml.Node) bool {
	for _, k := range []string{"from", "const", "template", "first", "each", "item"} {
		if hasKey(n, k) {
			return true
		}
	}
	return false
}

func (c *compiler) buildClasses(root *yaml.Node) {
	base := c.schema.classes["base_event"]
	usedBy := map[string]bool{}
	for _, s := range c.classes {
		c.f.classes = append(c.f.classes, c.buildClass(s, usedBy))
	}
	c.f.last = c.buildClass(&classSource{class: base, node: root}, usedBy)
	for _, a := range c.common {
		if !usedBy[a.path] {
			c.fail(a.node, "no class of this mapping has the attribute %s", a.path)
		}
	}
}

func (c *compiler) buildClass(s *classSource, usedBy map[string]bool) *classPlan {
	plan := &classPlan{class: s.class, root: &node{}, meta: &node{}}
	if s.when != nil {
		plan.when = c.cond(s.when)
	}
	if s.activity != nil {
		plan.activity = c.value(s.activity)
		c.notCaption(s.activity, s.class.attrs["activity_id"])
		for _, k := range plan.activity.constants() {
			if _, ok := s.class.attrs["activity_id"].number(k); !ok {
				c.fail(s.activity, "%s has no activity %q", s.class.caption, k)
			}
		}
	}
	own := map[string]bool{}
	for _, a := range s.set {
		own[a.path] = true
	}
	var all []assignment
	for _, a := range append(slices.Clone(c.product), c.common...) {
		if own[a.path] {
			usedBy[a.path] = true
			continue
		}
		head, _, _ := strings.Cut(a.path, ".")
		if s.class.attrs[head] == nil {
			continue
		}
		usedBy[a.path] = true
		all = append(all, a)
	}
	all = append(all, s.set...)
	tree := c.tree(s.node, s.class, all, "")
	for _, n := range tree {
		switch n.attr.name {
		case "metadata":
			plan.meta = n
		case "cloud":
			plan.cloud = n
		default:
			plan.root.children = append(plan.root.children, n)
		}
	}
	// What the engine fills in itself needs no assignment.
	c.constrain(s.node, plan.root, s.class, s.class.caption, map[string]bool{
		"activity_id": true, "category_uid": true, "class_uid": true, "type_uid": true, "severity_id": true,
		"time": true, "metadata": true,
	})
	return plan
}

// notCaption refuses a path that reads like one of the attribute's values: it
// was meant as a constant.
func (c *compiler) notCaption(n *yaml.Node, attr *attribute) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if _, ok := attr.captions[strings.ToLower(n.Value)]; ok {
			c.fail(n, "%q is read as a path; the value is written \"=%s\"", n.Value, n.Value)
		}
	}
}

// constants returns the values that a table or constant may give.
func (e *expr) constants() [][]byte {
	var out [][]byte
	switch e.kind {
	case exprConst, exprLiteral:
		out = append(out, e.text)
	case exprFirst:
		for _, a := range e.alts {
			out = append(out, a.constants()...)
		}
	}
	if e.table != nil {
		out = nil
		for _, k := range e.table {
			out = append(out, k.text)
		}
	}
	if e.other != nil {
		out = append(out, e.other.text)
	}
	return out
}

// Attributes that the engine writes.
var engineOwned = map[string]bool{
	"activity_id": true, "activity_name": true, "category_uid": true, "category_name": true, "class_uid": true,
	"class_name": true, "type_uid": true, "type_name": true, "severity_id": true, "severity": true, "time": true,
	"status_id": true, "status": true, "unmapped": true,
	"metadata.version": true, "metadata.uid": true, "metadata.event_code": true, "metadata.original_time": true, "metadata.profiles": true,
}

// tree groups assignments by their first attribute and compiles them.
func (c *compiler) tree(at *yaml.Node, o *object, all []assignment, prefix string) []*node {
	groups := map[string][]assignment{}
	for _, a := range all {
		head, rest, nested := strings.Cut(a.path, ".")
		attr := o.attrs[head]
		full := prefix + head
		switch {
		case engineOwned[prefix+a.path]:
			c.fail(a.node, "%s is filled in by the engine", prefix+a.path)
			continue
		case attr == nil:
			c.fail(a.node, "%s has no attribute %s (at %s)", o.describe(), head, full)
			continue
		case nested && (attr.kind != typeObject || attr.array):
			c.fail(a.node, "%s is %s: it has no attribute %s", full, attr.describe(), rest)
			continue
		case !nested && attr.kind == typeObject && !attr.array:
			c.fail(a.node, "%s is an object: assign its attributes", full)
			continue
		}
		if nested {
			a.path = rest
		}
		if len(groups[head]) > 0 && !nested {
			c.fail(a.node, "%s is assigned twice", full)
		}
		groups[head] = append(groups[head], a)
	}
	var out []*node
	for _, name := range o.names {
		g := groups[name]
		if len(g) == 0 {
			continue
		}
		attr := o.attrs[name]
		n := &node{attr: attr, key: []byte(`"` + name + `":`)}
		switch {
		case attr.array:
			n.items = c.items(g[0].val, attr, prefix+name)
		case attr.kind == typeObject:
			n.children = c.tree(g[0].node, attr.object, g, prefix+name+".")
			var filled map[string]bool
			if prefix+name == "metadata" {
				filled = map[string]bool{"version": true}
			}
			c.constrain(g[0].node, n, attr.object, prefix+name, filled)
		default:
			n.expr = c.value(g[0].val)
			if attr.ids != nil {
				c.notCaption(g[0].val, attr)
				for _, k := range n.expr.constants() {
					if _, ok := attr.number(k); !ok {
						c.fail(g[0].val, "%s has no value %q", prefix+name, k)
					}
				}
			}
		}
		out = append(out, n)
	}
	return c.pairSiblings(o, out)
}

// pairSiblings lets each enumerated number write its caption.
func (c *compiler) pairSiblings(o *object, nodes []*node) []*node {
	for _, n := range nodes {
		if n.attr.ids == nil || n.attr.sibling == "" || o.attrs[n.attr.sibling] == nil || n.attr.array {
			continue
		}
		n.sibling = []byte(`,"` + n.attr.sibling + `":`)
		for i, m := range nodes {
			if m.attr.name == n.attr.sibling {
				n.caption = m.expr
				nodes = slices.Delete(slices.Clone(nodes), i, i+1)
				break
			}
		}
	}
	return nodes
}

// constrain notes what the schema requires of the object, fills in required
// numbers with Unknown, and reports what can never be there.
func (c *compiler) constrain(at *yaml.Node, n *node, o *object, name string, filled map[string]bool) {
	index := func(attr string) int {
		return slices.IndexFunc(n.children, func(k *node) bool { return k.attr.name == attr })
	}
	for _, req := range o.required {
		if filled[req] {
			continue
		}
		i := index(req)
		if i < 0 {
			a := o.attrs[req]
			if _, ok := a.ids[0]; !ok || a.array {
				c.fail(at, "%s needs %s", name, req)
				continue
			}
			k := &node{attr: a, key: []byte(`"` + req + `":`), expr: &expr{kind: exprLiteral, text: []byte("0"), scale: 1}}
			if a.sibling != "" && o.attrs[a.sibling] != nil {
				k.sibling = []byte(`,"` + a.sibling + `":`)
			}
			n.children = append(n.children, k)
			i = len(n.children) - 1
		}
		n.required |= 1 << i
	}
	for _, a := range o.any {
		if i := index(a); i >= 0 {
			n.any |= 1 << i
		}
	}
	if len(o.any) > 0 && n.any == 0 {
		c.fail(at, "%s needs at least one of %s", name, strings.Join(o.any, ", "))
	}
	if len(n.children) > 63 {
		c.fail(at, "%s has more than 63 attributes", name)
	}
}

// items compiles what an array is made of: {each, item|value, when} or a list
// of such, or values.
func (c *compiler) items(n *yaml.Node, attr *attribute, name string) []*itemPlan {
	var out []*itemPlan
	c.list(n, func(m *yaml.Node) {
		it := &itemPlan{}
		if m.Kind != yaml.MappingNode || !hasKey(m, "each") && !hasKey(m, "item") {
			if attr.kind == typeObject {
				c.fail(m, "%s is an array of objects: it takes {each: path, item: {…}}", name)
				return
			}
			it.val = c.value(m)
			out = append(out, it)
			return
		}
		var item, value, when *yaml.Node
		c.fields(m, "an array", map[string]func(*yaml.Node){
			"each":  func(v *yaml.Node) { it.each = c.path(v, c.str(v, "each")) },
			"item":  func(v *yaml.Node) { item = v },
			"value": func(v *yaml.Node) { value = v },
			"when":  func(v *yaml.Node) { when = v },
		})
		was := c.inEach
		c.inEach = was || it.each != nil
		defer func() { c.inEach = was }()
		if when != nil {
			it.when = c.cond(when)
		}
		switch {
		case attr.kind == typeObject && item == nil:
			c.fail(m, "%s is an array of objects: it takes item", name)
		case attr.kind == typeObject:
			it.obj = &node{attr: attr, children: c.tree(item, attr.object, c.assignments(item, ""), name+"[].")}
			c.constrain(item, it.obj, attr.object, name+"[]", nil)
		case item != nil:
			c.fail(m, "%s is an array of %s: it takes value", name, attr.describe())
		case value != nil:
			it.val = c.value(value)
		default:
			it.val = c.value(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: ".", Line: m.Line})
		}
		out = append(out, it)
	})
	return out
}

func (o *object) describe() string {
	if o.class {
		return o.caption
	}
	return "the object " + o.name
}

func (a *attribute) describe() string {
	what := "an object"
	if a.kind != typeObject {
		for n, k := range attrTypes {
			if k == a.kind {
				what = n
			}
		}
	}
	if a.array {
		return "an array of " + what
	}
	return fmt.Sprintf("of type %s", what)
}
