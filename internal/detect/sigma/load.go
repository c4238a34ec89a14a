package sigma

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Load reads every .yml and .yaml file of fsys below the roots (all of it when
// none is given; a root may be a file of any name), in the order of their
// paths; files and folders whose name begins with a dot are passed over. It
// returns the rules that are sound and an error for each problem of
// those that are not; a file that cannot be read is one too. Two rules with one
// id are an error of the later one.
func Load(fsys fs.FS, opts Options, roots ...string) ([]*Rule, []*RuleError) {
	return load(fsys, "", opts, roots)
}

// LoadPath is Load for one file or folder of the operating system. Rules and
// errors name the files by path joined with what is below it.
func LoadPath(name string, opts Options) ([]*Rule, []*RuleError) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, []*RuleError{{Path: name, Reason: "reading rules: " + err.Error()}}
	}
	if info.IsDir() {
		return load(os.DirFS(name), filepath.ToSlash(name), opts, nil)
	}
	dir, file := filepath.Split(name)
	if dir == "" {
		return load(os.DirFS("."), "", opts, []string{file})
	}
	return load(os.DirFS(dir), filepath.ToSlash(filepath.Clean(dir)), opts, []string{file})
}

func load(fsys fs.FS, prefix string, opts Options, roots []string) ([]*Rule, []*RuleError) {
	limits := opts.Limits.withDefaults()
	var (
		rules []*Rule
		errs  []*RuleError
		files []string
	)
	if len(roots) == 0 {
		roots = []string{"."}
	}
	shown := func(name string) string {
		if prefix == "" || prefix == "." {
			return name
		}
		return path.Join(prefix, name)
	}
	seen := map[string]bool{}
	full := errors.New("too many files")
	for _, root := range roots {
		err := fs.WalkDir(fsys, root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				errs = append(errs, &RuleError{Path: shown(name), Reason: "reading rules: " + err.Error()})
				if d != nil && d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			// Hidden ones are a repository's own, or the copies that a mounted
			// Kubernetes volume keeps behind its links.
			if base := path.Base(name); name != root && strings.HasPrefix(base, ".") {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			ext := strings.ToLower(path.Ext(name))
			if d.IsDir() || name != root && ext != ".yml" && ext != ".yaml" || seen[name] {
				return nil
			}
			if len(files) >= limits.Files {
				errs = append(errs, &RuleError{Path: shown(name), Reason: fmt.Sprintf("more than %d rule files; this one and those behind it are not read", limits.Files)})
				return full
			}
			seen[name] = true
			files = append(files, name)
			return nil
		})
		if err != nil && !errors.Is(err, full) {
			errs = append(errs, &RuleError{Path: shown(root), Reason: "reading rules: " + err.Error()})
		}
	}
	sort.Strings(files)
	for _, name := range files {
		data, err := readFile(fsys, name, limits.FileBytes)
		if err != nil {
			errs = append(errs, &RuleError{Path: shown(name), Reason: err.Error()})
			continue
		}
		r, e := Parse(shown(name), data, opts)
		rules = append(rules, r...)
		errs = append(errs, e...)
	}
	unique, dups := uniqueIDs(rules)
	return unique, append(errs, dups...)
}

func readFile(fsys fs.FS, name string, limit int) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading rules: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("reading rules: %w", err)
	}
	return data, nil
}

// uniqueIDs drops rules whose id an earlier one has.
func uniqueIDs(rules []*Rule) ([]*Rule, []*RuleError) {
	var errs []*RuleError
	first := make(map[string]*Rule, len(rules))
	kept := rules[:0:0]
	for _, r := range rules {
		if o, dup := first[r.ID]; dup {
			errs = append(errs, &RuleError{Path: r.Path, Line: r.Line, Rule: r.ID,
				Reason: fmt.Sprintf("its id is taken by the rule at %s:%d", o.Path, o.Line)})
			continue
		}
		first[r.ID] = r
		kept = append(kept, r)
	}
	return kept, errs
}

// Parse reads the rules of one file, which may hold several YAML documents.
// Ids are not compared; Load and Compile do that.
func Parse(name string, data []byte, opts Options) ([]*Rule, []*RuleError) {
	limits := opts.Limits.withDefaults()
	if len(data) > limits.FileBytes {
		return nil, []*RuleError{{Path: name, Reason: fmt.Sprintf("the file is larger than %d bytes", limits.FileBytes)}}
	}
	if i := invalidUTF8(data); i >= 0 {
		return nil, []*RuleError{{Path: name, Line: 1 + bytes.Count(data[:i], []byte("\n")), Reason: "the file is not UTF-8"}}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, []*RuleError{{Path: name, Reason: "reading YAML: " + err.Error()}}
	}
	var (
		rules        []*Rule
		errs         []*RuleError
		correlations int
	)
	for n := 0; ; n++ {
		var doc yaml.Node
		err := loader.Load(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			errs = append(errs, yamlError(name, err))
			break
		}
		if n >= limits.Documents {
			errs = append(errs, &RuleError{Path: name, Line: doc.Line, Reason: fmt.Sprintf("more than %d documents in one file", limits.Documents)})
			break
		}
		if isEmptyDocument(&doc) {
			continue
		}
		p := &ruleParser{path: name, opts: opts, limits: limits, rule: &Rule{Path: name, Line: doc.Line}}
		if p.check(&doc) {
			p.document(&doc)
		}
		if len(p.errs) > 0 {
			errs = append(errs, p.errs...)
			continue
		}
		if p.correlation {
			correlations++
			continue
		}
		rules = append(rules, p.rule)
	}
	if len(rules) == 0 && correlations == 0 && len(errs) == 0 {
		errs = append(errs, &RuleError{Path: name, Reason: "the file holds no rule"})
	}
	return rules, errs
}

func invalidUTF8(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func yamlError(name string, err error) *RuleError {
	out := &RuleError{Path: name, Reason: "reading YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	var le *yaml.LoadError
	if errors.As(err, &le) {
		out.Line = le.Mark.Line
	}
	return out
}

func isEmptyDocument(n *yaml.Node) bool {
	if n.Kind == yaml.DocumentNode {
		if len(n.Content) == 0 {
			return true
		}
		n = n.Content[0]
	}
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// ruleParser turns one YAML document into a Rule, collecting its errors.
type ruleParser struct {
	path   string
	opts   Options
	limits Limits
	rule   *Rule
	errs   []*RuleError
	values int // values that modifiers made of the document's
	// correlation says that the document went to Options.Correlation.
	correlation bool
}

const maxErrorsPerRule = 20

func (p *ruleParser) errorf(line int, format string, args ...any) {
	if len(p.errs) >= maxErrorsPerRule {
		return
	}
	id := p.rule.ID
	if id == "" {
		id = p.rule.Title
	}
	p.errs = append(p.errs, &RuleError{Path: p.path, Line: line, Rule: id, Reason: fmt.Sprintf(format, args...)})
}

// check walks the document as it will be read, aliases followed, and refuses
// what is too deep or too much, keys that are not plain or stand twice, merge
// keys, and tags that are not YAML's own.
func (p *ruleParser) check(doc *yaml.Node) bool {
	left := p.limits.Values
	var walk func(n *yaml.Node, depth int) bool
	walk = func(n *yaml.Node, depth int) bool {
		if left--; left < 0 {
			p.errorf(n.Line, "the document has more than %d values (uses of aliases counted)", p.limits.Values)
			return false
		}
		if depth > p.limits.Depth {
			p.errorf(n.Line, "the document nests deeper than %d", p.limits.Depth)
			return false
		}
		switch n.Kind {
		case yaml.AliasNode:
			return walk(n.Alias, depth+1)
		case yaml.ScalarNode:
			if len(n.Value) > p.limits.ValueBytes {
				p.errorf(n.Line, "a value is longer than %d bytes", p.limits.ValueBytes)
				return false
			}
			switch n.ShortTag() {
			case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp":
			default:
				p.errorf(n.Line, "the YAML tag %s is not supported", n.ShortTag())
				return false
			}
		case yaml.MappingNode:
			keys := make(map[string]int, len(n.Content)/2)
			for i := 0; i+1 < len(n.Content); i += 2 {
				k := deref(n.Content[i])
				if k.ShortTag() == "!!merge" {
					p.errorf(k.Line, "YAML merge keys are not supported")
					return false
				}
				if k.Kind != yaml.ScalarNode {
					p.errorf(k.Line, "a key must be plain text")
					return false
				}
				if first, dup := keys[k.Value]; dup {
					p.errorf(n.Content[i].Line, "the key %q stands twice, first in line %d", k.Value, first)
					return false
				}
				keys[k.Value] = n.Content[i].Line
			}
			fallthrough
		default:
			for _, c := range n.Content {
				if !walk(c, depth+1) {
					return false
				}
			}
		}
		return true
	}
	return walk(doc, 0)
}

func deref(n *yaml.Node) *yaml.Node {
	for range 100 {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			return n
		}
		n = n.Alias
	}
	return n
}

// member is a key of a mapping with its value.
type member struct {
	key   string
	line  int // of the key
	value *yaml.Node
}

func members(n *yaml.Node) []member {
	var out []member
	for i := 0; i+1 < len(n.Content); i += 2 {
		out = append(out, member{deref(n.Content[i]).Value, n.Content[i].Line, deref(n.Content[i+1])})
	}
	return out
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// text reads a key's value as one plain text.
func (p *ruleParser) text(m member) string {
	if m.value.Kind != yaml.ScalarNode || isNull(m.value) {
		p.errorf(m.line, "%s must be text", m.key)
		return ""
	}
	return strings.TrimSpace(m.value.Value)
}

// texts reads a key's value as a list of plain texts; one text is a list too,
// and null an empty one.
func (p *ruleParser) texts(m member) []string {
	switch {
	case isNull(m.value):
		return nil
	case m.value.Kind == yaml.ScalarNode:
		return []string{strings.TrimSpace(m.value.Value)}
	case m.value.Kind != yaml.SequenceNode:
		p.errorf(m.line, "%s must be a list of texts", m.key)
		return nil
	}
	var out []string
	for _, c := range m.value.Content {
		c = deref(c)
		if c.Kind != yaml.ScalarNode || isNull(c) {
			p.errorf(c.Line, "%s must be a list of texts", m.key)
			return nil
		}
		out = append(out, strings.TrimSpace(c.Value))
	}
	return out
}

func (p *ruleParser) oneOf(m member, allowed ...string) string {
	s := p.text(m)
	for _, a := range allowed {
		if s == a {
			return s
		}
	}
	p.errorf(m.line, "%s is %q, but must be one of %s", m.key, s, strings.Join(allowed, ", "))
	return ""
}

func (p *ruleParser) document(doc *yaml.Node) {
	root := doc
	if root.Kind == yaml.DocumentNode {
		root = deref(root.Content[0])
	}
	p.rule.Line = root.Line
	if root.Kind != yaml.MappingNode {
		p.errorf(root.Line, "a rule must be a mapping")
		return
	}
	all := members(root)
	r := p.rule
	// The name first, so that every other error can tell it.
	for _, m := range all {
		switch m.key {
		case "title":
			r.Title = p.text(m)
			if utf8.RuneCountInString(r.Title) > 256 {
				p.errorf(m.line, "title is longer than 256 characters")
			}
		case "id":
			r.ID, r.HasID = p.text(m), true
			if r.ID == "" || len(r.ID) > 256 {
				p.errorf(m.line, "id must have 1 to 256 characters")
			}
		}
	}
	for _, m := range all {
		switch m.key {
		case "correlation":
			if p.opts.Correlation == nil {
				p.errorf(m.line, "correlation rules are not supported here")
				return
			}
			p.correlation = true
		case "filter":
			p.errorf(m.line, "filter documents are not supported yet")
			return
		case "action":
			p.errorf(m.line, "rule collections (action: global, reset, repeat) are not supported; Sigma dropped them")
			return
		}
	}
	var detection, logsource *member
	var correlation Correlation
	explicit := false
	for i, m := range all {
		switch m.key {
		case "title", "id":
		case "name":
			r.Name = p.text(m)
		case "related":
			p.related(m)
		case "taxonomy":
			r.Taxonomy = p.text(m)
		case "status":
			r.Status = p.oneOf(m, "stable", "test", "experimental", "deprecated", "unsupported")
			if r.Status == "unsupported" {
				p.errorf(m.line, "the rule's status is unsupported: it cannot be used in its current state")
			}
		case "description":
			r.Description = p.text(m)
		case "license":
			r.License = p.text(m)
		case "author":
			r.Author = strings.Join(p.texts(m), ", ")
		case "references":
			r.References = p.texts(m)
		case "date":
			r.Date = p.text(m)
		case "modified":
			r.Modified = p.text(m)
		case "logsource":
			logsource = &all[i]
		case "detection":
			detection = &all[i]
		case "correlation":
			correlation.Line, correlation.Body = m.line, m.value
		case "generate":
			if !p.correlation {
				p.errorf(m.line, "generate is for correlation rules")
				continue
			}
			correlation.Generate = p.oneOf(m, "true", "false") == "true"
		case "fields":
			r.Fields = p.texts(m)
		case "falsepositives":
			r.FalsePositives = p.texts(m)
		case "level":
			r.Level = p.oneOf(m, "informational", "low", "medium", "high", "critical")
		case "tags":
			r.Tags = p.texts(m)
			r.Techniques = techniques(r.Tags)
		case "scope":
			r.Scope = p.texts(m)
		case "accuse":
			p.accuse(m)
		case "confidence":
			explicit = true
			p.confidence(m)
		case "mode":
			r.Mode = p.oneOf(m, ModeShadow, ModeRecommend, ModeEnforce)
		case "regression_tests_path", "simulation":
			// SigmaHQ's own book-keeping; see the package comment.
		default:
			if !strings.HasPrefix(m.key, "x-") {
				p.errorf(m.line, "unknown key %q (a key of your own may begin with x-)", m.key)
			}
		}
	}
	if r.Title == "" {
		p.errorf(root.Line, "the rule has no title")
	}
	if r.ID == "" {
		r.ID = r.Path + ": " + r.Title
	}
	if !explicit {
		r.Confidence, _ = levelConfidence(r.Level)
	}
	if p.correlation {
		p.handOver(&correlation, logsource, detection)
		return
	}
	if logsource == nil {
		p.errorf(root.Line, "the rule has no logsource")
	} else {
		p.logsource(*logsource)
	}
	if detection == nil {
		p.errorf(root.Line, "the rule has no detection")
	} else {
		p.detection(*detection)
	}
}

// handOver gives a correlation document to whoever compiles them.
func (p *ruleParser) handOver(c *Correlation, logsource, detection *member) {
	for _, m := range []*member{logsource, detection} {
		if m != nil {
			p.errorf(m.line, "a correlation has no %s; its rules do", m.key)
		}
	}
	if len(p.errs) > 0 {
		return
	}
	c.Rule = p.rule
	p.errs = append(p.errs, p.opts.Correlation(c)...)
}

func techniques(tags []string) []string {
	var out []string
	for _, t := range tags {
		id, ok := strings.CutPrefix(strings.ToLower(t), "attack.t")
		if !ok || id == "" || id[0] < '0' || id[0] > '9' {
			continue
		}
		out = append(out, "T"+id)
	}
	return out
}

func (p *ruleParser) related(m member) {
	if isNull(m.value) {
		return
	}
	if m.value.Kind != yaml.SequenceNode {
		p.errorf(m.line, "related must be a list of {id, type}")
		return
	}
	for _, c := range m.value.Content {
		c = deref(c)
		if c.Kind != yaml.MappingNode {
			p.errorf(c.Line, "related must be a list of {id, type}")
			return
		}
		for _, k := range members(c) {
			switch k.key {
			case "id":
				p.text(k)
			case "type":
				p.oneOf(k, "derived", "obsolete", "merged", "renamed", "similar", "obsoletes")
			default:
				p.errorf(k.line, "unknown key %q in related", k.key)
			}
		}
	}
}

func (p *ruleParser) logsource(m member) {
	if m.value.Kind != yaml.MappingNode {
		p.errorf(m.line, "logsource must be a mapping")
		return
	}
	l := &p.rule.Logsource
	for _, k := range members(m.value) {
		switch k.key {
		case "product":
			l.Product = p.text(k)
		case "category":
			l.Category = p.text(k)
		case "service":
			l.Service = p.text(k)
		case "definition":
			p.text(k)
		default:
			p.errorf(k.line, "unknown key %q in logsource", k.key)
		}
	}
	if l.Product == "" && l.Category == "" && l.Service == "" && len(p.errs) == 0 {
		p.errorf(m.line, "logsource names no product, category or service")
	}
}

func (p *ruleParser) confidence(m member) {
	f, err := strconv.ParseFloat(p.text(m), 64)
	if tag := m.value.ShortTag(); err != nil || tag != "!!float" && tag != "!!int" || math.IsNaN(f) || f < 0 || f > 1 {
		p.errorf(m.line, "confidence must be a number from 0 to 1")
		return
	}
	p.rule.Confidence = f
}

func (p *ruleParser) accuse(m member) {
	kind := func(line int, s string) bool {
		switch s {
		case KindSession, KindCredential, KindAccount:
			for _, a := range p.rule.Accuse {
				if a.Kind == s {
					p.errorf(line, "accuse names %s twice", s)
					return false
				}
			}
			return true
		}
		p.errorf(line, "accuse names %q, but must name %s, %s or %s", s, KindSession, KindCredential, KindAccount)
		return false
	}
	if m.value.Kind != yaml.MappingNode {
		list := p.texts(m)
		if len(list) == 0 && len(p.errs) == 0 {
			p.errorf(m.line, "accuse is empty")
		}
		for _, s := range list {
			if kind(m.line, s) {
				p.rule.Accuse = append(p.rule.Accuse, Accusation{Kind: s})
			}
		}
		return
	}
	if len(m.value.Content) == 0 {
		p.errorf(m.line, "accuse is empty")
	}
	for _, k := range members(m.value) {
		if !kind(k.line, k.key) {
			continue
		}
		a := Accusation{Kind: k.key}
		switch k.value.Kind {
		case yaml.ScalarNode:
			a.Field = p.text(k)
		case yaml.MappingNode:
			for _, f := range members(k.value) {
				switch f.key {
				case "field":
					a.Field = p.text(f)
				case "scheme":
					a.Scheme = p.text(f)
				default:
					p.errorf(f.line, "unknown key %q in accuse", f.key)
				}
			}
		}
		if a.Field == "" {
			p.errorf(k.line, "accuse.%s must name a field", k.key)
			continue
		}
		p.rule.Accuse = append(p.rule.Accuse, a)
	}
}

// detection reads the selections and conditions.
func (p *ruleParser) detection(m member) {
	if m.value.Kind != yaml.MappingNode {
		p.errorf(m.line, "detection must be a mapping")
		return
	}
	var condition *member
	all := members(m.value)
	for i, k := range all {
		switch k.key {
		case "condition":
			condition = &all[i]
			continue
		case "timeframe":
			p.errorf(k.line, "timeframe in detection is not supported; Sigma replaced it by correlation rules")
			continue
		}
		if !validName(k.key) || reserved(k.key) {
			p.errorf(k.line, "%q cannot name a selection: it may hold letters, digits, _, - and . and must not be a word of conditions", k.key)
			continue
		}
		e := p.selection(k)
		if e == nil {
			continue
		}
		p.rule.names = append(p.rule.names, k.key)
		p.rule.selections = append(p.rule.selections, e)
	}
	if condition == nil {
		p.errorf(m.line, "detection has no condition")
		return
	}
	if len(p.errs) > 0 {
		// What a condition names may be missing for another reason; only its
		// own syntax is worth telling.
		if condition.value.Kind == yaml.ScalarNode && strings.Contains(condition.value.Value, "|") {
			_, err := parseCondition(condition.value.Value, nil)
			p.errorf(condition.line, "%v", err)
		}
		return
	}
	nodes := []*yaml.Node{condition.value}
	if condition.value.Kind == yaml.SequenceNode {
		nodes = condition.value.Content
	}
	if len(nodes) == 0 {
		p.errorf(condition.line, "the list of conditions is empty")
	}
	var conds []*expr
	for _, n := range nodes {
		n = deref(n)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" && n.ShortTag() != "!!int" {
			p.errorf(n.Line, "a condition must be text")
			continue
		}
		if len(n.Value) > p.limits.ConditionBytes {
			p.errorf(n.Line, "a condition is longer than %d bytes", p.limits.ConditionBytes)
			continue
		}
		e, err := parseCondition(n.Value, p.rule.names)
		if err != nil {
			p.errorf(n.Line, "%v", err)
			continue
		}
		p.rule.conditions = append(p.rule.conditions, n.Value)
		conds = append(conds, e)
	}
	if len(conds) == 0 {
		return
	}
	p.rule.cond = join(opOr, conds)
	sizes := make([]int, len(p.rule.selections))
	for i, e := range p.rule.selections {
		sizes[i] = len(preds(e, nil))
	}
	if n := terms(p.rule.cond, sizes); n > maxTerms {
		p.errorf(condition.line, "the condition repeats its selections to %d items, more than %d", n, maxTerms)
	}
}

// maxTerms bounds the work of one rule on one record.
const maxTerms = 100_000

func terms(e *expr, sizes []int) int {
	if e.op == opRef {
		return sizes[e.ref]
	}
	n := 0
	for _, k := range e.kids {
		n += terms(k, sizes)
	}
	return n
}

func validName(s string) bool {
	for i := range len(s) {
		if !identByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// selection reads one named selection: a map, a list of maps, or keywords.
func (p *ruleParser) selection(m member) *expr {
	switch m.value.Kind {
	case yaml.MappingNode:
		return p.items(m.value, m.line)
	case yaml.ScalarNode:
		return p.item(member{"", m.line, m.value})
	case yaml.SequenceNode:
		if len(m.value.Content) == 0 {
			p.errorf(m.line, "the selection %s is empty", m.key)
			return nil
		}
		scalars := true
		for _, c := range m.value.Content {
			scalars = scalars && deref(c).Kind == yaml.ScalarNode
		}
		if scalars {
			return p.item(member{"", m.line, m.value})
		}
		var kids []*expr
		for _, c := range m.value.Content {
			c = deref(c)
			var e *expr
			switch c.Kind {
			case yaml.MappingNode:
				e = p.items(c, c.Line)
			case yaml.ScalarNode:
				e = p.item(member{"", c.Line, c})
			default:
				p.errorf(c.Line, "the selection %s holds a list in a list", m.key)
			}
			if e == nil {
				return nil
			}
			kids = append(kids, e)
		}
		return join(opOr, kids)
	}
	p.errorf(m.line, "the selection %s is neither a map nor a list", m.key)
	return nil
}

// items reads a map of fields, all of which must hold.
func (p *ruleParser) items(n *yaml.Node, line int) *expr {
	all := members(n)
	if len(all) == 0 {
		p.errorf(line, "a selection is an empty map")
		return nil
	}
	var kids []*expr
	ok := true
	for _, m := range all {
		e := p.item(m)
		if e == nil {
			ok = false
			continue
		}
		kids = append(kids, e)
	}
	if !ok {
		return nil
	}
	return join(opAnd, kids)
}
