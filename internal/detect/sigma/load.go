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

	"github.com/staunch-project/staunch/internal/strictyaml"
)

// Loaded is what rule files hold.
type Loaded struct {
	Rules   []*Rule
	Filters []*Filter
	// Files are the files that were looked at, in the order of their paths; Data
	// has the bytes of those that could be read.
	Files []string
	Data  map[string][]byte
	// Errors has each problem of what was refused. Refused counts what was: a
	// document, or a file that cannot be read.
	Errors  []*RuleError
	Refused int
	// Notes tell what was loaded with a reservation; none is an error.
	Notes []*RuleError
	// seen has the names in Files.
	seen map[string]bool
}

// Load reads every .yml and .yaml file of fsys below the roots (all of it when
// none is given; a root may be a file of any name), in the order of their
// paths; files and folders whose name begins with a dot are passed over. It
// returns the rules that are sound and an error for each problem of those that
// are not; a file that cannot be read is one too. Filters are applied to the
// rules that they name. Two rules with one id are an error of the later one.
func Load(fsys fs.FS, opts Options, roots ...string) ([]*Rule, []*RuleError) {
	l := new(Loaded)
	l.read(fsys, "", opts, roots)
	l.finish()
	return l.Rules, l.Errors
}

// LoadPath is Load for one file or folder of the operating system. Rules and
// errors name the files by path joined with what is below it.
func LoadPath(name string, opts Options) ([]*Rule, []*RuleError) {
	l := LoadPaths(opts, name)
	return l.Rules, l.Errors
}

// LoadPaths is LoadPath for several files and folders at once: filters of one
// apply to the rules of all, and no id may stand in two.
func LoadPaths(opts Options, names ...string) *Loaded {
	sources := make([]Source, len(names))
	for i, name := range names {
		sources[i].Path = name
	}
	return LoadSources(opts, sources...)
}

// Source is where rules are read from: a file or folder of the operating system,
// or, with FS, the Roots in that. Path then stands before the names of what is in
// FS.
type Source struct {
	Path  string
	FS    fs.FS
	Roots []string
}

// LoadSources is LoadPaths for rules that need not be files of the operating
// system.
func LoadSources(opts Options, sources ...Source) *Loaded {
	l := new(Loaded)
	for _, src := range sources {
		name := src.Path
		if src.FS != nil {
			l.read(src.FS, name, opts, src.Roots)
			continue
		}
		info, err := os.Stat(name)
		switch {
		case err != nil:
			l.refuse(&RuleError{Path: name, Reason: "reading rules: " + err.Error()})
		case info.IsDir():
			l.read(os.DirFS(name), filepath.ToSlash(name), opts, nil)
		default:
			dir, file := filepath.Split(name)
			if dir == "" {
				l.read(os.DirFS("."), "", opts, []string{file})
				continue
			}
			l.read(os.DirFS(dir), filepath.ToSlash(filepath.Clean(dir)), opts, []string{file})
		}
	}
	l.finish()
	return l
}

// refuse notes the problems of one thing that was refused.
func (l *Loaded) refuse(errs ...*RuleError) {
	l.Errors = append(l.Errors, errs...)
	l.Refused++
}

func (l *Loaded) read(fsys fs.FS, prefix string, opts Options, roots []string) {
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	limits := opts.Limits.withDefaults()
	var files []string
	met, refused := 0, len(l.Errors) // rule files, those that were read before among them
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
				l.refuse(&RuleError{Path: shown(name), Reason: "reading rules: " + err.Error()})
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
			if d.Type()&fs.ModeSymlink != 0 && ext != ".yml" && ext != ".yaml" {
				if info, err := fs.Stat(fsys, name); err == nil && info.IsDir() {
					l.Notes = append(l.Notes, &RuleError{Path: shown(name), Reason: "it is a link to a folder, which is not looked into; name it beside this one"})
				}
			}
			if d.IsDir() || name != root && ext != ".yml" && ext != ".yaml" || seen[name] {
				return nil
			}
			met++
			// A pipe would be waited for. One that the user names is meant.
			if name != root && !d.Type().IsRegular() {
				if info, err := fs.Stat(fsys, name); err == nil && !info.Mode().IsRegular() {
					l.refuse(&RuleError{Path: shown(name), Reason: "it is no regular file"})
					return nil
				}
			}
			// One that two paths lead to is one file: rules and rules/aws.
			if l.seen[shown(name)] {
				return nil
			}
			if len(files) >= limits.Files {
				l.refuse(&RuleError{Path: shown(name), Reason: fmt.Sprintf("more than %d rule files; this one and those behind it are not read", limits.Files)})
				return full
			}
			seen[name] = true
			files = append(files, name)
			return nil
		})
		if err != nil && !errors.Is(err, full) {
			l.refuse(&RuleError{Path: shown(root), Reason: "reading rules: " + err.Error()})
		}
	}
	if met == 0 && len(l.Errors) == refused {
		l.Notes = append(l.Notes, &RuleError{Path: path.Clean(prefix), Reason: "no file in it has a name that ends in .yml or .yaml"})
	}
	sort.Strings(files)
	for _, name := range files {
		l.Files = append(l.Files, shown(name))
		l.seen[shown(name)] = true
		data, err := readFile(fsys, name, limits.FileBytes)
		if err != nil {
			l.refuse(&RuleError{Path: shown(name), Reason: err.Error()})
			continue
		}
		if l.Data == nil {
			l.Data = map[string][]byte{}
		}
		if len(data) <= limits.FileBytes {
			l.Data[shown(name)] = data
		}
		l.parse(shown(name), data, opts)
	}
}

// finish compares ids and applies the filters.
func (l *Loaded) finish() {
	unique, dups := uniqueIDs(l.Rules)
	l.Rules = unique
	for _, e := range dups {
		l.refuse(e)
	}
	l.uniqueNames()
	l.applyFilters()
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
				Reason: fmt.Sprintf("its id is taken by the rule at %s:%d", o.Path, o.Line) + withoutID(r)})
			continue
		}
		first[r.ID] = r
		kept = append(kept, r)
	}
	return kept, errs
}

// withoutID says why the id of a rule that has none can be taken.
func withoutID(r *Rule) string {
	if r.HasID {
		return ""
	}
	return "; without an id it is called by its path and title"
}

// uniqueNames drops rules whose name an earlier one has: other documents refer
// to rules by it.
func (l *Loaded) uniqueNames() {
	first := map[string]*Rule{}
	kept := l.Rules[:0:0]
	for _, r := range l.Rules {
		if o := first[r.Name]; r.Name != "" && o != nil {
			l.refuse(&RuleError{Path: r.Path, Line: r.Line, Rule: r.ID, Reason: fmt.Sprintf("its name %q is taken by the rule at %s:%d", r.Name, o.Path, o.Line)})
			continue
		}
		first[r.Name] = r
		kept = append(kept, r)
	}
	l.Rules = kept
}

// Parse reads the rules of one file, which may hold several YAML documents.
// Filters among them are applied to its rules. Ids are not compared; Load and
// Compile do that.
func Parse(name string, data []byte, opts Options) ([]*Rule, []*RuleError) {
	l := new(Loaded)
	l.parse(name, data, opts)
	l.applyFilters()
	return l.Rules, l.Errors
}

func (l *Loaded) parse(name string, data []byte, opts Options) {
	limits := opts.Limits.withDefaults()
	if len(data) > limits.FileBytes {
		line := 1 + bytes.Count(data[:limits.FileBytes], []byte("\n"))
		l.refuse(&RuleError{Path: name, Line: line, Reason: fmt.Sprintf("the file is larger than %d bytes, which end in this line", limits.FileBytes)})
		return
	}
	if i, reason := badText(data); i >= 0 {
		l.refuse(&RuleError{Path: name, Line: 1 + bytes.Count(data[:i], []byte("\n")), Reason: reason})
		return
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		l.refuse(yamlError(name, data, err))
		return
	}
	found := false
	regexes := limits.Regexes
	for n := 0; ; n++ {
		var doc yaml.Node
		err := loader.Load(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			l.refuse(yamlError(name, data, err))
			return
		}
		if n >= limits.Documents {
			l.refuse(&RuleError{Path: name, Line: doc.Line, Reason: fmt.Sprintf("more than %d documents in one file", limits.Documents)})
			return
		}
		if isEmptyDocument(&doc) {
			continue
		}
		found = true
		p := &ruleParser{path: name, opts: opts, limits: limits, regexes: &regexes, rule: &Rule{Path: name, Line: doc.Line}}
		if p.check(&doc) {
			p.document(&doc)
		}
		switch {
		case len(p.errs) > 0 && p.rule.Optional && p.missing >= len(p.errs):
			// Nothing else was found wrong with it: it only lacks values.
			for _, e := range p.errs {
				e.Reason = "it is left out: " + e.Reason
			}
			l.Notes = append(l.Notes, p.errs...)
			continue
		case len(p.errs) > 0:
			l.refuse(p.errs...)
			continue
		case p.correlation:
		case p.filter != nil:
			l.Filters = append(l.Filters, p.filter)
		default:
			l.Rules = append(l.Rules, p.rule)
		}
		l.Notes = append(l.Notes, p.notes...)
	}
	if !found {
		l.refuse(&RuleError{Path: name, Line: 1, Reason: "the file holds no rule"})
	}
}

// badText returns where something stands that YAML does not take, and what; -1 for
// nothing. The library would not say where.
func badText(b []byte) (at int, reason string) {
	for i := 0; i < len(b); {
		r, n := rune(b[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(b[i:])
		}
		switch {
		case r == utf8.RuneError && n == 1:
			return i, "the file is not UTF-8"
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0xFFFE, r == 0xFFFF:
			return i, fmt.Sprintf("the control character U+%04X is not allowed", r)
		}
		i += n
	}
	return -1, ""
}

func yamlError(name string, data []byte, err error) *RuleError {
	line, reason := strictyaml.Syntax(data, err)
	return &RuleError{Path: name, Line: line, Reason: "reading YAML: " + reason}
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
	filter *Filter // the document, where it is a filter; rule has its logic
	errs   []*RuleError
	notes  []*RuleError
	maps   []*fieldMap // that its fields go through
	values int         // values that modifiers made of the document's
	// missing counts the uses of placeholders that have no values.
	missing int
	made    int // bytes of those values
	// regexes is what is left of the file's bound on regular expressions.
	regexes *int
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

// note tells what is taken with a reservation.
func (p *ruleParser) note(line int, format string, args ...any) {
	if len(p.notes) < maxErrorsPerRule {
		p.notes = append(p.notes, &RuleError{Path: p.path, Line: line, Rule: p.rule.ID, Reason: fmt.Sprintf(format, args...)})
	}
}

// unknown refuses a key that looks like a slip of the pen for one that has a
// meaning, and notes any other: Sigma lets rules carry keys of their own.
func (p *ruleParser) unknown(m member, where string, known []string) {
	if strings.HasPrefix(m.key, "x-") {
		return
	}
	if k := nearKey(m.key, known); k != "" {
		p.errorf(m.line, "unknown key %q%s: did you mean %s? (a key of your own may begin with x-)", m.key, where, k)
		return
	}
	p.note(m.line, "the key %q%s has no meaning here", m.key, where)
}

// nearKey returns the known key that differs in a letter or two, or in case.
func nearKey(key string, known []string) string {
	key = strings.ToLower(key)
	for _, k := range known {
		most := 2
		if len(k) < 5 {
			most = 1
		}
		if len(key) <= len(k)+most && editDistance(key, k) <= most {
			return k
		}
	}
	return ""
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for k := range len(b) {
			change := diagonal
			if a[i] != b[k] {
				change++
			}
			diagonal = row[k+1]
			row[k+1] = min(change, row[k]+1, row[k+1]+1)
		}
	}
	return row[len(b)]
}

var ruleKeys = []string{"title", "id", "name", "related", "taxonomy", "status", "description", "license", "author", "references", "reference", "date", "modified",
	"logsource", "detection", "fields", "falsepositives", "level", "tags", "scope", "accuse", "confidence", "mode", "optional", "correlation", "generate", "filter"}

var logsourceKeys = []string{"product", "category", "service", "definition"}

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
			p.filterDocument(all, root.Line)
			return
		case "action":
			p.errorf(m.line, "rule collections (action: global, reset, repeat) are not supported; Sigma dropped them")
			return
		}
	}
	var detection, logsource, accuse *member
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
		case "references", "reference": // the specification's text has one, its schema the other
			r.References = append(r.References, p.texts(m)...)
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
			r.Techniques, r.Frameworks = techniques(r.Tags), frameworks(r.Tags)
		case "scope":
			r.Scope = p.texts(m)
		case "accuse":
			accuse = &all[i]
		case "confidence":
			explicit = true
			p.confidence(m)
		case "mode":
			r.Mode = p.oneOf(m, ModeShadow, ModeRecommend, ModeEnforce)
		case "optional":
			r.Optional = p.oneOf(m, "true", "false") == "true"
		case "regression_tests_path", "simulation":
			// SigmaHQ's own book-keeping; see the package comment.
		default:
			p.unknown(m, "", ruleKeys)
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
		if accuse != nil {
			p.accuse(*accuse)
		}
		p.handOver(&correlation, logsource, detection)
		return
	}
	if logsource == nil {
		p.errorf(root.Line, "the rule has no logsource")
	} else {
		p.logsource(*logsource)
		p.translate()
	}
	if accuse != nil {
		p.accuse(*accuse)
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

// maxFrameworks bounds what a signal carries of its rule's tags.
const maxFrameworks = 16

// frameworks returns the tags of ATLAS and of OWASP's lists, in lower case.
func frameworks(tags []string) []string {
	var out []string
	for _, t := range tags {
		t = strings.ToLower(t)
		for _, prefix := range []string{"atlas.aml.t", "owasp-nhi.nhi", "owasp-agentic.asi"} {
			if strings.HasPrefix(t, prefix) && len(out) < maxFrameworks {
				out = append(out, t)
			}
		}
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
			p.unknown(k, " in logsource", logsourceKeys)
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
		a.Field = p.fields(a.Field)[0]
		p.rule.Accuse = append(p.rule.Accuse, a)
	}
}

// detection reads the selections and conditions.
func (p *ruleParser) detection(m member) {
	if m.value.Kind != yaml.MappingNode {
		p.errorf(m.line, "%s must be a mapping", m.key)
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
		p.errorf(m.line, "%s has no condition", m.key)
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
	used := make([]bool, len(p.rule.names))
	p.rule.cond.refs(used)
	for i, name := range p.rule.names {
		// One with an underscore may be there for its YAML anchor.
		if !used[i] && !strings.HasPrefix(name, "_") {
			p.note(p.rule.selections[i].line, "no condition uses the selection %s", name)
		}
	}
	if n := terms(p.rule.cond, p.rule.sizes()); n > maxTerms {
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
