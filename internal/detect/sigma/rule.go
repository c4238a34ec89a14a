package sigma

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Default bounds on rules, used where [Limits] leaves a field zero.
const (
	DefaultMaxFileBytes  = 1 << 20
	DefaultMaxFiles      = 50_000
	DefaultMaxDocuments  = 1_000
	DefaultMaxDepth      = 32
	DefaultMaxValues     = 20_000
	DefaultMaxRegexBytes = 8 << 10
	DefaultMaxRegexSize  = 10_000
	DefaultMaxRegexes    = 200_000
	DefaultMaxValueBytes = 64 << 10
	DefaultMaxMadeBytes  = 16 << 20
	DefaultMaxCondition  = 16 << 10
)

// Limits bounds what a rule file may hold. A zero field means its default.
type Limits struct {
	FileBytes      int // size of one file in bytes
	Files          int // rule files in one Load
	Documents      int // YAML documents in one file
	Depth          int // nesting of a document's nodes, aliases followed
	Values         int // nodes of one document, every use of an alias counted, and values that modifiers make of them
	RegexBytes     int // length of one regular expression in bytes
	RegexSize      int // instructions of one regular expression, its repeats written out
	Regexes        int // the same of all in one file, their text counted as well
	ValueBytes     int // length of any other scalar in bytes
	MadeBytes      int // text that modifiers and placeholders make of one document's values
	ConditionBytes int // length of one condition in bytes
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		v *int
		d int
	}{
		{&l.FileBytes, DefaultMaxFileBytes}, {&l.Files, DefaultMaxFiles}, {&l.Documents, DefaultMaxDocuments},
		{&l.Depth, DefaultMaxDepth}, {&l.Values, DefaultMaxValues}, {&l.RegexBytes, DefaultMaxRegexBytes},
		{&l.RegexSize, DefaultMaxRegexSize}, {&l.Regexes, DefaultMaxRegexes},
		{&l.ValueBytes, DefaultMaxValueBytes}, {&l.MadeBytes, DefaultMaxMadeBytes}, {&l.ConditionBytes, DefaultMaxCondition},
	} {
		if *f.v <= 0 {
			*f.v = f.d
		}
	}
	return l
}

// Options says how rules are loaded.
type Options struct {
	// Placeholders gives the values of %name% for the expand modifier. They
	// are Sigma strings: * and ? are wildcards.
	Placeholders map[string][]string
	// Pipelines translate rules as they are read, each what the one before left.
	Pipelines []*Pipeline
	Limits    Limits
	// Correlation is given each correlation document, whose keys beside
	// correlation and generate were read as a rule's are. What it finds wrong is
	// an error of the load. Where it is nil, correlation documents are refused.
	Correlation func(*Correlation) []*RuleError
}

// placeholder returns the values of a name; the options' own come before those
// of pipelines.
func (o Options) placeholder(name string) []string {
	if v := o.Placeholders[name]; len(v) > 0 {
		return v
	}
	for _, p := range o.Pipelines {
		if v := p.placeholders[name]; len(v) > 0 {
			return v
		}
	}
	return nil
}

// Correlation is a correlation document. Its Rule has no log source and no
// condition.
type Correlation struct {
	Rule     *Rule
	Generate bool
	Line     int        // of the key
	Body     *yaml.Node // what stands under correlation
}

// Logsource names where records come from, in Sigma's terms. Case does not
// count.
type Logsource struct {
	Product  string `json:"product,omitempty"`
	Category string `json:"category,omitempty"`
	Service  string `json:"service,omitempty"`
	// All is for the log source of a record only: every rule is evaluated.
	All bool `json:"-"`
}

// Parts names the log source for people: its product, service and category, with
// slashes between those that it has.
func (l Logsource) Parts() string {
	var parts []string
	for _, p := range [...]string{l.Product, l.Service, l.Category} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/")
}

// Covers reports whether a rule for the log source r is to be evaluated on
// records of the log source l: none of the parts that both name may differ, and
// at least one must be equal. So records of {product: aws, service: cloudtrail}
// get the rules for exactly that and those for {product: aws}, but neither
// {product: aws, service: guardduty} nor {category: process_creation}.
func (l Logsource) Covers(r Logsource) bool {
	if l.All {
		return true
	}
	same := false
	for _, p := range [...][2]string{{l.Product, r.Product}, {l.Category, r.Category}, {l.Service, r.Service}} {
		if p[0] == "" || p[1] == "" {
			continue
		}
		if !strings.EqualFold(p[0], p[1]) {
			return false
		}
		same = true
	}
	return same
}

// Kinds of refs that a rule can accuse.
const (
	KindSession    = "session"
	KindCredential = "credential"
	KindAccount    = "account"
)

// Accusation is one thing that a rule is about: the refs of a kind that the
// record's format found, or the value of a field.
type Accusation struct {
	Kind   string `json:"kind"`             // session, credential or account
	Field  string `json:"field,omitempty"`  // dotted path; empty: the format's refs of the kind
	Scheme string `json:"scheme,omitempty"` // the ref's scheme; only with Field
}

// Modes of a rule. An empty mode leaves it to the configuration.
const (
	ModeShadow    = "shadow"
	ModeRecommend = "recommend"
	ModeEnforce   = "enforce"
)

// Rule is one rule that was read and checked.
type Rule struct {
	ID     string // the rule's id, or "path: title"
	HasID  bool   // whether the rule brought its id
	Name   string
	Title  string
	Path   string // of the file
	Line   int    // of the document's first key
	Author string

	License, Level, Status, Description, Taxonomy string
	Date, Modified                                string

	Confidence float64 // 0 to 1
	Accuse     []Accusation
	Mode       string // empty, shadow, recommend or enforce
	// Optional says that the rule is left out and noted, not refused, where the
	// configuration does not give what it needs: values of a placeholder or, for a
	// correlation, a database of places.
	Optional       bool
	Logsource      Logsource
	Tags           []string
	Techniques     []string // ATT&CK technique ids from the tags, e.g. T1078.004
	Frameworks     []string // tags of the other lists that name risks and techniques
	FalsePositives []string
	References     []string
	Fields         []string
	Scope          []string
	// Filters has the ids of the filters that were applied.
	Filters []string

	conditions []string // as written
	selections []*expr  // every named selection, in the order of the file
	names      []string // of selections
	cond       *expr    // over refs to selections
}

// RuleError says why a file or a rule was refused.
type RuleError struct {
	Path   string
	Line   int    // 0 when the file as a whole is meant
	Rule   string // id or title where known
	Reason string
}

// Place returns "path:line", or the path where the file as a whole is meant.
func (e *RuleError) Place() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d", e.Path, e.Line)
	}
	return e.Path
}

// What returns the reason, with the rule's name before it.
func (e *RuleError) What() string {
	if e.Rule != "" {
		return fmt.Sprintf("rule %q: %s", e.Rule, e.Reason)
	}
	return e.Reason
}

// Error returns the place and what is wrong there.
func (e *RuleError) Error() string { return e.Place() + ": " + e.What() }

// levelConfidence is documented in the package comment.
func levelConfidence(level string) (float64, bool) {
	switch level {
	case "informational":
		return 0.10, true
	case "low", "":
		return 0.25, true
	case "medium":
		return 0.50, true
	case "high":
		return 0.75, true
	case "critical":
		return 0.90, true
	}
	return 0, false
}
