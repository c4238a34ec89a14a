package correlate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

// Type is what a correlation asks of the contributions of one group.
type Type string

// Sigma's types.
const (
	EventCount      Type = "event_count"
	ValueCount      Type = "value_count"
	Temporal        Type = "temporal"
	TemporalOrdered Type = "temporal_ordered"
	ValueSum        Type = "value_sum"
	ValueAvg        Type = "value_avg"
	ValuePercentile Type = "value_percentile"
	ValueMedian     Type = "value_median"
)

// Staunch's own types; the package comment says what each means.
const (
	FirstSeen        Type = "first_seen"
	Rate             Type = "rate"
	Dormant          Type = "dormant"
	ImpossibleTravel Type = "impossible_travel"
	SessionReuse     Type = "session_reuse"
	UseAfterReport   Type = "use_after_report"
	MintedElsewhere  Type = "minted_elsewhere"
	Honeytoken       Type = "honeytoken"
)

// types has, of each type, which keys it takes beside rules, group-by, aliases,
// timespan and settle.
var types = map[Type]struct {
	needs, may []string
	// state says that the type reads what was seen rather than a window.
	state bool
	// rules is how many rules it needs at least.
	rules int
	// group and field are the defaults.
	group, field string
}{
	EventCount:       {needs: []string{"condition"}, rules: 1},
	ValueCount:       {needs: []string{"condition", "field"}, rules: 1},
	Temporal:         {may: []string{"condition"}, rules: 1},
	TemporalOrdered:  {may: []string{"condition"}, rules: 1},
	ValueSum:         {needs: []string{"condition", "field"}, rules: 1},
	ValueAvg:         {needs: []string{"condition", "field"}, rules: 1},
	ValuePercentile:  {needs: []string{"condition", "field"}, may: []string{"percentile"}, rules: 1},
	ValueMedian:      {needs: []string{"condition", "field"}, rules: 1},
	FirstSeen:        {needs: []string{"field"}, may: []string{"learn"}, state: true, rules: 1},
	Rate:             {needs: []string{"condition", "baseline", "factor"}, may: []string{"learn"}, state: true, rules: 1},
	Dormant:          {state: true, rules: 1},
	ImpossibleTravel: {may: []string{"speed", "field"}, rules: 1, group: FieldAccount, field: FieldSourceIP},
	SessionReuse:     {may: []string{"field"}, rules: 1, group: FieldSession, field: FieldNetwork},
	UseAfterReport:   {rules: 2, group: FieldCredential},
	MintedElsewhere:  {may: []string{"field"}, rules: 2, group: FieldCredential, field: FieldNetwork},
	Honeytoken:       {needs: []string{"values"}, may: []string{"field"}, rules: 1, group: FieldCredential, field: FieldCredential},
}

// Bounds on correlations.
const (
	MaxTimespan = 400 * 24 * time.Hour
	// MaxWindow is how many contributions of one group are looked at, the newest
	// of a window; a threshold above it is refused.
	MaxWindow  = 10_000
	maxRules   = 100
	maxGroupBy = 16
	maxValues  = 10_000
	maxDepth   = 16
)

// defaultSpeed is a little above what an airliner does.
const defaultSpeed = 1000 // km/h

// comparison is one criterion of a condition.
type comparison struct {
	Op    string  `json:"op"`
	Value float64 `json:"value"`
}

func (c comparison) holds(v float64) bool {
	switch c.Op {
	case "gt":
		return v > c.Value
	case "gte":
		return v >= c.Value
	case "lt":
		return v < c.Value
	case "lte":
		return v <= c.Value
	case "eq":
		return v == c.Value
	default:
		return v != c.Value
	}
}

// operand is a rule that a correlation refers to.
type operand struct {
	Ref  string
	Line int
	// rule and corr are what it refers to, one of them, once compiled.
	rule int // number in the sigma.Set, -1 for a correlation
	corr *Rule
	id   string
	name string
}

// Rule is one correlation that was read and checked.
type Rule struct {
	*sigma.Rule
	Type     Type
	Timespan time.Duration
	GroupBy  []string
	Aliases  map[string]map[string]string
	// Fields are what is counted, added up or looked at.
	Fields []string
	// Generate says that the rules referred to make signals of their own too.
	Generate bool
	// Settle is how long a window that later records can still undo is waited
	// with; negative: the longest lateness of all sources.
	Settle time.Duration
	// Percentile, Learn, Baseline, Factor, Speed and Values are of single types.
	Percentile float64
	Learn      time.Duration
	Baseline   time.Duration
	Factor     float64
	Speed      float64
	Values     []string

	operands  []operand
	aliasLine int // where the aliases begin
	conds     []comparison
	cond      *boolExpr
	need      int // contributions without which it cannot hold
	settled   bool
	// key is of what a window is made of: the same key, the same window.
	key     string
	feeds   []feed // correlations that refer to this one
	hidden  bool   // it makes no signals of its own
	watched map[string]bool
	slot    time.Duration
	paths   int // ways from events to it
}

// Hidden reports whether it makes no signals of its own, because a correlation
// refers to it and none that does says generate: true.
func (r *Rule) Hidden() bool { return r.hidden }

// Bases returns, in ascending order, the numbers of the rules whose matches count
// for a compiled correlation, by way of other correlations as well.
func (r *Rule) Bases() []int {
	var out []int
	seen := map[*Rule]bool{}
	var walk func(*Rule)
	walk = func(r *Rule) {
		if seen[r] {
			return
		}
		seen[r] = true
		for _, o := range r.operands {
			switch {
			case o.corr != nil:
				walk(o.corr)
			case o.rule >= 0:
				out = append(out, o.rule)
			}
		}
	}
	walk(r)
	slices.Sort(out)
	return slices.Compact(out)
}

// body is the shape of a correlation section.
type body struct {
	Type      string    `yaml:"type"`
	Rules     yaml.Node `yaml:"rules"`
	Aliases   yaml.Node `yaml:"aliases"`
	GroupBy   yaml.Node `yaml:"group-by"`
	Timespan  string    `yaml:"timespan"`
	Condition yaml.Node `yaml:"condition"`
	Generate  bool      `yaml:"generate"`
	Field     yaml.Node `yaml:"field"`
	Settle    string    `yaml:"settle"`
	Learn     string    `yaml:"learn"`
	Baseline  string    `yaml:"baseline"`
	Factor    *float64  `yaml:"factor"`
	Speed     *float64  `yaml:"speed"`
	Values    yaml.Node `yaml:"values"`
}

// Reader collects correlation documents while rules are loaded; its Read is the
// sigma.Options' Correlation. It is for one goroutine.
type Reader struct {
	rules []*Rule
	// refused has what refused documents refer to: their rules stay hidden, so
	// that a mistake in a correlation does not turn its bases into accusations.
	refused []string
}

// Read checks one document and keeps it.
func (rd *Reader) Read(c *sigma.Correlation) []*sigma.RuleError {
	p := &parser{r: &Rule{Rule: c.Rule, Generate: c.Generate, Settle: -1}, line: c.Line}
	p.read(c.Body)
	if len(p.errs) > 0 {
		if !p.r.Generate {
			for _, o := range p.r.operands {
				rd.refused = append(rd.refused, o.Ref)
			}
		}
		return p.errs
	}
	rd.rules = append(rd.rules, p.r)
	return nil
}

// Len returns how many documents were kept.
func (rd *Reader) Len() int { return len(rd.rules) }

type parser struct {
	r    *Rule
	line int
	errs []*sigma.RuleError
}

func (p *parser) errorf(line int, format string, args ...any) {
	p.errs = append(p.errs, p.r.errorf(line, format, args...))
}

func (r *Rule) errorf(line int, format string, args ...any) *sigma.RuleError {
	return &sigma.RuleError{Path: r.Path, Line: line, Rule: r.ID, Reason: fmt.Sprintf(format, args...)}
}

func (p *parser) read(n *yaml.Node) {
	r := p.r
	if n.Kind != yaml.MappingNode {
		p.errorf(p.line, "correlation must be a mapping")
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		lines[n.Content[i].Value] = n.Content[i].Line
	}
	// What it refers to stays hidden even where the rest is wrong.
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "rules" {
			r.operands = p.operands(n.Content[i+1])
		}
	}
	if len(p.errs) > 0 {
		return
	}
	var b body
	if err := strictyaml.Decode(n, r.Path, &b); err != nil {
		p.explain(err)
		return
	}
	r.Generate = r.Generate || b.Generate
	r.Type = Type(b.Type)
	t, known := types[r.Type]
	if len(r.operands) == 0 {
		p.errorf(p.line, "correlation names no rules")
		return
	}
	if b.Type == "" {
		p.errorf(p.line, "correlation has no type")
		return
	}
	if !known {
		p.errorf(lines["type"], "type is %q, but must be one of %s", b.Type, strings.Join(typeNames(), ", "))
		return
	}
	if len(r.operands) < t.rules {
		p.errorf(max(lines["rules"], p.line), "%s needs at least %d rules, the correlation names %d", r.Type, t.rules, len(r.operands))
	}
	r.Timespan = p.duration(lines["timespan"], "timespan", b.Timespan, true)
	if b.Settle != "" {
		r.Settle = p.duration(lines["settle"], "settle", b.Settle, false)
	}
	r.GroupBy = p.texts(&b.GroupBy, "group-by", maxGroupBy)
	p.aliases(&b.Aliases)
	p.condition(&b, lines["condition"])
	if len(r.Fields) == 0 {
		r.Fields = p.texts(&b.Field, "field", maxGroupBy)
	}
	if len(r.GroupBy) == 0 && t.group != "" {
		r.GroupBy = []string{t.group}
	}
	if len(r.Fields) == 0 && t.field != "" {
		r.Fields = []string{t.field}
	}
	r.Learn = p.duration(lines["learn"], "learn", b.Learn, false)
	r.Baseline = p.duration(lines["baseline"], "baseline", b.Baseline, false)
	for _, f := range []struct {
		key string
		in  *float64
		out *float64
	}{{"factor", b.Factor, &r.Factor}, {"speed", b.Speed, &r.Speed}} {
		if f.in == nil {
			continue
		}
		if *f.out = *f.in; !(*f.in > 0) || math.IsInf(*f.in, 0) {
			p.errorf(lines[f.key], "%s must be a number above zero", f.key)
		}
	}
	r.Values = p.texts(&b.Values, "values", maxValues)
	if len(p.errs) > 0 {
		return
	}
	given := map[string]bool{
		"condition": len(r.conds) > 0 || r.cond != nil, "field": len(r.Fields) > 0, "percentile": r.Percentile > 0, "learn": b.Learn != "",
		"baseline": r.Baseline > 0, "factor": r.Factor > 0, "speed": r.Speed > 0, "values": len(r.Values) > 0,
	}
	for _, k := range []string{"condition", "field", "percentile", "learn", "baseline", "factor", "speed", "values"} {
		needed := slices.Contains(t.needs, k)
		switch {
		case needed && !given[k]:
			p.errorf(p.line, "%s needs %s", r.Type, k)
		case given[k] && !needed && !slices.Contains(t.may, k):
			p.errorf(max(lines[k], p.line), "%s takes no %s", r.Type, k)
		}
	}
	if len(p.errs) == 0 {
		p.finish(lines)
	}
}

// finish checks what hangs together and works out what follows.
func (p *parser) finish(lines map[string]int) {
	r := p.r
	for _, f := range slices.Concat(r.GroupBy, r.Fields) {
		p.fieldName(lines["group-by"], f)
	}
	for _, c := range r.conds {
		if r.Type == EventCount || r.Type == ValueCount {
			if c.Value > MaxWindow {
				p.errorf(lines["condition"], "the condition wants %v, but a window has at most %d contributions", c.Value, MaxWindow)
			}
		}
	}
	if r.cond != nil {
		if r.Type != Temporal {
			p.errorf(lines["condition"], "a condition of words is for temporal; %s takes a mapping", r.Type)
		} else if err := r.cond.bind(r.operands); err != nil {
			p.errorf(lines["condition"], "%v", err)
		}
	}
	switch r.Type {
	case Temporal, TemporalOrdered:
		for _, c := range r.conds {
			if n := float64(len(r.operands)); (c.Op == "gte" || c.Op == "eq") && c.Value > n || c.Op == "gt" && c.Value >= n {
				p.errorf(lines["condition"], "the condition wants %s %v rules, but the correlation names %d", c.Op, c.Value, len(r.operands))
			}
		}
		if len(r.conds) == 0 && r.cond == nil {
			r.conds = []comparison{{"gte", float64(len(r.operands))}}
		}
	case ImpossibleTravel:
		if r.Speed == 0 {
			r.Speed = defaultSpeed
		}
	case SessionReuse:
		r.conds = []comparison{{"gte", 2}}
	case ValueMedian:
		r.Percentile = 50
	case Rate:
		if r.Baseline < r.Timespan {
			p.errorf(lines["baseline"], "the baseline must not be shorter than the timespan")
		}
		if int64(r.Baseline/r.Timespan) > maxBuckets {
			p.errorf(lines["baseline"], "the baseline has more than %d timespans", maxBuckets)
		}
		if !monotone(r.conds) {
			p.errorf(lines["condition"], "rate needs gt or gte: the least count in a timespan")
		}
	case Honeytoken:
		r.watched = map[string]bool{}
		for _, v := range r.Values {
			r.watched[v] = true
		}
	}
	r.settled = p.mustSettle()
	r.need = r.least()
	r.slot = min(r.Timespan, maxSlot)
}

// maxBuckets bounds the timespans of a baseline.
const maxBuckets = 10_000

// mustSettle reports whether records that are still to come can undo what holds.
func (p *parser) mustSettle() bool {
	r := p.r
	switch r.Type {
	case ValueAvg, ValuePercentile, ValueMedian:
		return true
	case EventCount, ValueCount, ValueSum, TemporalOrdered, Temporal:
		if r.cond != nil {
			return r.cond.negates()
		}
		return !monotone(r.conds)
	}
	return false
}

// monotone reports whether more can only help.
func monotone(conds []comparison) bool {
	for _, c := range conds {
		if c.Op != "gt" && c.Op != "gte" {
			return false
		}
	}
	return true
}

// least returns how many contributions there must be at least.
func (r *Rule) least() int {
	if r.settled || types[r.Type].state {
		return 1
	}
	switch r.Type {
	case EventCount, ValueCount, SessionReuse, Temporal, TemporalOrdered:
		n := 1.0
		for _, c := range r.conds {
			v := c.Value
			if c.Op == "gt" {
				v = math.Floor(v) + 1
			}
			n = max(n, math.Ceil(v))
		}
		return int(min(n, MaxWindow))
	case ImpossibleTravel, UseAfterReport, MintedElsewhere:
		return 2
	}
	return 1
}

func typeNames() []string {
	var out []string
	for t := range types {
		out = append(out, string(t))
	}
	slices.Sort(out)
	return out
}

// explain takes over the problems of a strict decode; they name the place.
func (p *parser) explain(err error) {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		for _, e := range many.Unwrap() {
			p.explain(e)
		}
		return
	}
	var pr *staunch.Problem
	if !errors.As(err, &pr) {
		p.errorf(p.line, "%v", err)
		return
	}
	line := p.line
	if i := strings.LastIndexByte(pr.Place, ':'); i >= 0 {
		if n, err := strconv.Atoi(pr.Place[i+1:]); err == nil {
			line = n
		}
	}
	p.errorf(line, "%s", pr.Reason)
}

func follow(n *yaml.Node) *yaml.Node {
	for range 100 {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// texts reads one text or a list of them.
func (p *parser) texts(n *yaml.Node, key string, most int) []string {
	n = follow(n)
	nodes := n.Content
	switch n.Kind {
	case 0:
		return nil
	case yaml.ScalarNode:
		nodes = []*yaml.Node{n}
	case yaml.SequenceNode:
	default:
		p.errorf(n.Line, "%s must be a text or a list of texts", key)
		return nil
	}
	var out []string
	for _, c := range nodes {
		c = follow(c)
		v := strings.TrimSpace(c.Value)
		switch {
		case c.Kind != yaml.ScalarNode || strictyaml.IsNull(c) || v == "":
			p.errorf(c.Line, "%s must be a text or a list of texts", key)
			return nil
		case slices.Contains(out, v):
			p.errorf(c.Line, "%s names %q twice", key, v)
			return nil
		case len(out) >= most:
			p.errorf(c.Line, "%s has more than %d entries", key, most)
			return nil
		}
		out = append(out, v)
	}
	return out
}

func (p *parser) operands(n *yaml.Node) []operand {
	var out []operand
	names := p.texts(n, "rules", maxRules)
	n = follow(n)
	for i, ref := range names {
		line := n.Line
		if n.Kind == yaml.SequenceNode {
			line = n.Content[i].Line
		}
		out = append(out, operand{Ref: ref, Line: line, rule: -1})
	}
	return out
}

func (p *parser) aliases(n *yaml.Node) {
	if n = follow(n); n.Kind == 0 {
		return
	}
	p.r.aliasLine = n.Line
	var m map[string]map[string]string
	if err := strictyaml.Decode(n, p.r.Path, &m); err != nil {
		p.explain(err)
		return
	}
	if len(m) > maxGroupBy {
		p.errorf(n.Line, "more than %d aliases", maxGroupBy)
		return
	}
	for name, of := range m {
		if strings.HasPrefix(name, namespace) {
			p.errorf(n.Line, "the alias %s takes a name of staunch's own", name)
		}
		for _, f := range of {
			p.fieldName(n.Line, f)
		}
	}
	p.r.Aliases = m
}

// fieldName refuses names in staunch's namespace that mean nothing.
func (p *parser) fieldName(line int, f string) {
	if strings.HasPrefix(f, namespace) && !slices.Contains(fieldNames, f) {
		p.errorf(max(line, p.line), "%s is not one of %s", f, strings.Join(fieldNames, ", "))
	}
}

func (p *parser) duration(line int, key, s string, required bool) time.Duration {
	if s == "" && !required {
		return 0
	}
	d, err := parseTimespan(s)
	if err != nil || required && d <= 0 || d > MaxTimespan {
		p.errorf(max(line, p.line), "%s is %q, but must be a number and s, m, h or d, such as 15m, at most 400d", key, s)
		return 0
	}
	return d
}

// parseTimespan reads Sigma's "number + letter".
func parseTimespan(s string) (time.Duration, error) {
	if len(s) < 2 || len(s) > 10 {
		return 0, fmt.Errorf("%w: timespan %q", staunch.ErrInvalid, s)
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 31)
	unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[len(s)-1]]
	if err != nil || unit == 0 || n > uint64(math.MaxInt64/int64(unit)) {
		return 0, fmt.Errorf("%w: timespan %q", staunch.ErrInvalid, s)
	}
	return time.Duration(n) * unit, nil
}

// condition reads a mapping of criteria, with field and percentile among them,
// or a text of rules' names joined by and, or and not.
func (p *parser) condition(b *body, line int) {
	n := follow(&b.Condition)
	switch {
	case n.Kind == 0:
		return
	case n.Kind == yaml.ScalarNode:
		e, err := parseBool(n.Value)
		if err != nil {
			p.errorf(n.Line, "condition: %v", err)
		}
		p.r.cond = e
		return
	case n.Kind != yaml.MappingNode:
		p.errorf(line, "condition must be a mapping, or for temporal a text of rules' names")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], follow(n.Content[i+1])
		switch k.Value {
		case "field":
			p.r.Fields = p.texts(v, "field", maxGroupBy)
			continue
		case "gt", "gte", "lt", "lte", "eq", "neq", "percentile":
		default:
			p.errorf(k.Line, "unknown key %q in condition", k.Value)
			continue
		}
		f, err := strconv.ParseFloat(v.Value, 64)
		if tag := v.ShortTag(); v.Kind != yaml.ScalarNode || err != nil || tag != "!!int" && tag != "!!float" || math.IsNaN(f) || math.IsInf(f, 0) {
			p.errorf(k.Line, "%s must be a number", k.Value)
			continue
		}
		if k.Value == "percentile" {
			if p.r.Percentile = f; f <= 0 || f > 100 {
				p.errorf(k.Line, "percentile must be above 0 and at most 100")
			}
			continue
		}
		p.r.conds = append(p.r.conds, comparison{k.Value, f})
	}
	if len(p.r.conds) == 0 && len(p.errs) == 0 {
		p.errorf(line, "condition has none of gt, gte, lt, lte, eq, neq")
	}
}
