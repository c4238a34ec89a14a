// Package ruletest runs the tests that stand beside Sigma rules.
//
// Beside rules/x.yml stands rules/x.txtar. Its comment is free text; its files
// are events, written as the vendor writes them:
//
//	hit-*.json     one event that a rule of x.yml has to match
//	miss-*.json    one that none may match: the nearer to a hit, the better
//	hit-*.ndjson   a sequence, an event a line, of which at least one has to
//	               match; miss-*.ndjson, of which none may
//	accuse         whom hits accuse, a line each: the file's name, and a ref in
//	               the realm "test", or nobody
//
// Where a format for the rule's product is known, every hit is also read with
// it: the format has to route the event to the rule, and the rule has to accuse
// somebody, the ref under accuse where one is given.
//
// Beside a file with correlations stands rules/x.sequences.txtar, of hit-*.ndjson,
// miss-*.ndjson and accuse: in each hit a correlation of x.yml has to hold, in a
// miss none may. The rules that they refer to may stand in other files. Each event
// is read with the format for the product of the rule that it matches, and where
// there is none as plain JSON. Correlations that make no signals of their own,
// because others refer to them, are looked at only where x.yml has no others. A
// correlation that holds in no hit is untested.
package ruletest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/accuse"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Realm is the realm that tests' records belong to.
const Realm = "test"

const (
	ext         = ".txtar"
	sequenceExt = ".sequences.txtar"
	accuseFile  = "accuse"
	nobody      = "nobody"

	maxTestBytes = 4 << 20
)

// Options say what is tested, and with what.
type Options struct {
	// Rules say how rules are read. Run sets their Correlation itself.
	Rules sigma.Options
	// Correlations say how correlations are compiled.
	Correlations correlate.Options
	// Formats read the events; of those for a product the first counts. Without
	// those of a product neither the log source nor the accused are checked.
	Formats []format.Format
	// Roots are files and folders to test; none means everything.
	Roots []string
	// Prefix stands before paths in the report.
	Prefix string
}

// Report is what a run of rule tests found.
type Report struct {
	V     int `json:"v"`
	Rules int `json:"rules"`
	// Files and Events are of tests of single events.
	Files  int `json:"files"`
	Events int `json:"events"`
	// Correlations counts those that can be used.
	Correlations int `json:"correlations"`
	// Sequences has what came of each sequence.
	Sequences []Sequence `json:"sequences,omitempty"`
	// Untested lists the rule files without a test, and UntestedCorrelations the
	// correlations that hold in no sequence that has to hit.
	Untested             []string   `json:"untested,omitempty"`
	UntestedCorrelations []Untested `json:"untested_correlations,omitempty"`
	Failures             []Failure  `json:"failures,omitempty"`
}

// Failure is one expectation that did not hold, or a file that is not right.
type Failure struct {
	// Place is a file and line: of the event, or of the rule where that is wrong.
	Place string `json:"place"`
	// Rule and Event are the rule's title and the event's name in the test.
	Rule  string `json:"rule,omitempty"`
	Event string `json:"event,omitempty"`
	Want  string `json:"want,omitempty"`
	Got   string `json:"got"`
	// Why has the items of the rule that decided.
	Why []string `json:"why,omitempty"`
}

// OK reports whether there were tests and all of them held.
func (r Report) OK() bool { return r.Events+len(r.Sequences) > 0 && len(r.Failures) == 0 }

// String prints what came of sequences, the failures with file and line, what is
// untested, and a summary line.
func (r Report) String() string {
	var b strings.Builder
	for _, q := range r.Sequences {
		if q.OK {
			b.WriteString(q.String() + "\n")
		}
	}
	for _, f := range r.Failures {
		b.WriteString(f.Place)
		for _, s := range []string{f.Rule, f.Event} {
			if s != "" {
				b.WriteString(": " + s)
			}
		}
		if f.Want != "" {
			b.WriteString(": want " + f.Want + ", got " + f.Got + "\n")
		} else {
			b.WriteString(": " + f.Got + "\n")
		}
		for _, why := range f.Why {
			b.WriteString("\t" + why + "\n")
		}
	}
	for _, u := range r.Untested {
		fmt.Fprintf(&b, "%s: has no test\n", u)
	}
	for _, u := range r.UntestedCorrelations {
		fmt.Fprintf(&b, "%s: %s: %s\n", u.Place, u.Rule, u.Reason)
	}
	fmt.Fprintf(&b, "%d rules, %d events in %d test files, %d correlations, %d sequences, %d without a test, %d failures\n",
		r.Rules, r.Events, r.Files, r.Correlations, len(r.Sequences), len(r.Untested)+len(r.UntestedCorrelations), len(r.Failures))
	return b.String()
}

// Run tests the rules and correlations of a file system. An error means that they
// could not be tested; whatever is wrong with them and their tests is in the report.
func Run(fsys fs.FS, o Options) (Report, error) {
	t := &tester{fsys: fsys, o: o, rep: Report{V: staunch.Version}}
	var docs correlate.Reader
	o.Rules.Correlation = docs.Read
	loaded := sigma.LoadSources(o.Rules, sigma.Source{FS: fsys, Roots: o.Roots})
	refused := loaded.Errors
	if docs.Len() > 0 {
		var err error
		if t.all, err = sigma.Compile(loaded.Rules); err != nil {
			return t.rep, fmt.Errorf("compiling the rules: %w", err)
		}
		var errs []*sigma.RuleError
		t.correlations, errs = docs.Compile(t.all, o.Correlations)
		refused = append(refused, errs...)
	}
	wrong := map[string]bool{}
	for _, e := range refused {
		wrong[e.Path] = true
		t.fail(Failure{Place: t.place(e.Path, e.Line), Rule: e.Rule, Got: "refused: " + e.Reason})
	}
	// One that is left out for want of an option cannot be tested without it either.
	for _, e := range t.correlations.Left() {
		wrong[e.Path] = true
		t.rep.UntestedCorrelations = append(t.rep.UntestedCorrelations, Untested{Place: t.place(e.Path, e.Line), ID: e.Rule, Rule: e.Rule, Reason: e.Reason})
	}
	for rules := loaded.Rules; len(rules) > 0; {
		n := slices.IndexFunc(rules, func(r *sigma.Rule) bool { return r.Path != rules[0].Path })
		if n < 0 {
			n = len(rules)
		}
		if err := t.file(rules[:n]); err != nil {
			return t.rep, err
		}
		rules = rules[n:]
	}
	own := map[string][]*correlate.Rule{}
	for _, r := range t.correlations.Rules() {
		t.rep.Correlations++
		own[r.Path] = append(own[r.Path], r)
	}
	for _, file := range loaded.Files {
		if err := t.sequences(file, own[file], wrong[file]); err != nil {
			return t.rep, err
		}
	}
	if len(o.Roots) == 0 {
		if err := t.strays(loaded.Files); err != nil {
			return t.rep, err
		}
	}
	return t.rep, nil
}

// strays fails tests that stand beside no rule file, and would never run.
func (t *tester) strays(ruleFiles []string) error {
	stems := map[string]bool{}
	for _, f := range ruleFiles {
		stems[beside(f, "")] = true
	}
	return fs.WalkDir(t.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // what cannot be read was refused with the rules
		case d.IsDir() && name != "." && strings.HasPrefix(path.Base(name), "."):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ext || stems[strings.TrimSuffix(name, sequenceExt)] || stems[strings.TrimSuffix(name, ext)]:
			return nil
		}
		data, err := read(t.fsys, name)
		if err != nil {
			return fmt.Errorf("reading a rule's test: %w", err)
		}
		// Other things are archives too.
		for _, f := range txtar.Parse(data).Files {
			if _, _, ok := kindOf(f.Name); ok {
				t.fail(Failure{Place: t.place(name, 1), Got: "no rule file of this name stands beside it, so it is not run"})
				break
			}
		}
		return nil
	})
}

type tester struct {
	fsys fs.FS
	o    Options
	rep  Report
	// all are the rules by whose numbers the correlations go; nil without any.
	all          *sigma.Set
	correlations *correlate.Set
}

func (t *tester) fail(f Failure) { t.rep.Failures = append(t.rep.Failures, f) }

func (t *tester) place(name string, line int) string {
	name = path.Join(t.o.Prefix, name)
	if line > 0 {
		return fmt.Sprintf("%s:%d", name, line)
	}
	return name
}

// test is a test file with the set of its rules.
type test struct {
	name    string
	rules   []*sigma.Rule
	set     *sigma.Set
	title   string
	lines   map[string]int // of the events
	accused map[string][]string
	// suite is set where the files are sequences for correlations.
	suite *suite
}

// beside names the test of a rule file.
func beside(file, ext string) string { return strings.TrimSuffix(file, path.Ext(file)) + ext }

// file tests the rules of one file.
func (t *tester) file(rules []*sigma.Rule) error {
	t.rep.Rules += len(rules)
	x := test{name: beside(rules[0].Path, ext), rules: rules, title: rules[0].Title, lines: map[string]int{}}
	data, err := read(t.fsys, x.name)
	if errors.Is(err, fs.ErrNotExist) {
		t.rep.Untested = append(t.rep.Untested, t.place(rules[0].Path, rules[0].Line))
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a rule's test: %w", err)
	}
	if x.set, err = sigma.Compile(rules); err != nil {
		return fmt.Errorf("compiling the rules: %w", err)
	}
	t.rep.Files++
	arch := txtar.Parse(data)
	if !t.names(&x, arch, data) {
		return nil
	}
	for _, f := range arch.Files {
		if f.Name != accuseFile {
			t.event(&x, f)
		}
	}
	return nil
}

func read(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxTestBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxTestBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxTestBytes)
	}
	return data, nil
}

// kindOf says what a file of a test is: whether it has to hit, and whether it
// is a sequence.
func kindOf(name string) (hit, sequence, ok bool) {
	rest, hit := strings.CutPrefix(name, "hit-")
	if !hit {
		if rest, ok = strings.CutPrefix(name, "miss-"); !ok {
			return false, false, false
		}
	}
	stem, sequence := strings.CutSuffix(rest, ".ndjson")
	if !sequence {
		if stem, ok = strings.CutSuffix(rest, ".json"); !ok {
			return false, false, false
		}
	}
	return hit, sequence, stem != ""
}

// recordsOf returns the events of one of a test's files.
func recordsOf(f txtar.File) [][]byte {
	if _, sequence, _ := kindOf(f.Name); !sequence {
		return [][]byte{f.Data}
	}
	return bytes.Split(bytes.TrimSpace(f.Data), []byte("\n"))
}

// names checks the test's files and reads whom they accuse.
func (t *tester) names(x *test, arch *txtar.Archive, data []byte) bool {
	before := len(t.rep.Failures)
	bad := func(line int, format string, args ...any) {
		t.fail(Failure{Place: t.place(x.name, line), Rule: x.title, Got: fmt.Sprintf(format, args...)})
	}
	hits, misses := 0, 0
	at := 0
	var accused []byte
	for _, f := range arch.Files {
		marker := "-- " + f.Name + " --"
		if i := bytes.Index(data[at:], []byte(marker)); i >= 0 {
			at += i + len(marker)
		}
		line := 1 + bytes.Count(data[:at], []byte("\n"))
		if _, dup := x.lines[f.Name]; dup {
			bad(line, "the file %q stands twice", f.Name)
			continue
		}
		x.lines[f.Name] = line
		if f.Name == accuseFile {
			accused = f.Data
			continue
		}
		switch hit, sequence, ok := kindOf(f.Name); {
		case x.suite != nil && (!ok || !sequence):
			bad(line, "the file %q is not hit-NAME.ndjson, miss-NAME.ndjson or accuse", f.Name)
		case !ok:
			bad(line, "the file %q is not hit-NAME.json, miss-NAME.json, one of these with .ndjson, or accuse", f.Name)
		case hit:
			hits++
		default:
			misses++
		}
	}
	what, kind := "event", ".json"
	if x.suite != nil {
		what, kind = "sequence", ".ndjson"
	}
	if hits == 0 {
		bad(0, "has no %s that hits (hit-NAME%s)", what, kind)
	}
	if misses == 0 {
		bad(0, "has no %s that nearly hits (miss-NAME%s)", what, kind)
	}
	x.accused = map[string][]string{}
	for i, line := range strings.Split(string(accused), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		n := x.lines[accuseFile] + i + 1
		name, ref, ok := strings.Cut(line, " ")
		ref = strings.TrimSpace(ref)
		hit, _, _ := kindOf(name)
		switch _, there := x.lines[name]; {
		case !ok:
			bad(n, "%q is not a file's name and a ref", line)
		case !there || !hit:
			bad(n, "there is no hit %q", name)
		default:
			if ref != nobody {
				if _, err := staunch.ParseRef(ref); err != nil {
					bad(n, "%v", err)
				}
			}
			x.accused[name] = append(x.accused[name], ref)
		}
	}
	return len(t.rep.Failures) == before
}

// event runs one event or sequence.
func (t *tester) event(x *test, f txtar.File) {
	wantHit, _, _ := kindOf(f.Name)
	fail := func(want, got string, why []string) {
		t.fail(Failure{Place: t.place(x.name, x.lines[f.Name]), Rule: x.title, Event: f.Name, Want: want, Got: got, Why: why})
	}
	var (
		matched bool
		why     []string
		accused []string
	)
	for i, raw := range recordsOf(f) {
		t.rep.Events++
		doc := jsondoc.New(jsondoc.DefaultLimits())
		if err := doc.Parse(bytes.TrimSpace(raw)); err != nil {
			fail("", fmt.Sprintf("record %d: %v", i+1, err), nil)
			return
		}
		hits, event, err := t.match(x, doc)
		if err != nil {
			fail("", fmt.Sprintf("record %d: %v", i+1, err), nil)
			return
		}
		explained := hits
		if len(hits) == 0 {
			explained = make([]int, len(x.set.Rules()))
			for n := range explained {
				explained[n] = n
			}
		}
		for _, n := range explained {
			on := doc
			if x.set.Rules()[n].Mapped() {
				on = event
			}
			for _, line := range x.set.Explain(on, n).Deciding() {
				// The rule's path is that in the file system that is tested.
				from := x.set.Rules()[n].Path
				why = append(why, strings.Replace(line, "("+from+":", "("+t.place(from, 0)+":", 1))
			}
		}
		for _, n := range hits {
			matched = true
			if wantHit {
				refs, err := t.accuse(x.set.Rules()[n], doc)
				if err != nil {
					fail("", err.Error(), nil)
					return
				}
				accused = append(accused, refs...)
			}
		}
	}
	switch {
	case wantHit && !matched:
		fail("a match", "none", why)
		return
	case !wantHit && matched:
		fail("no match", "one", why)
		return
	}
	t.judgeAccused(x, f.Name, accused, true)
}

// judgeAccused compares whom a hit accuses with what is said of it, or where
// nothing is and somebody has to be, wants somebody.
func (t *tester) judgeAccused(x *test, name string, accused []string, somebody bool) bool {
	f := Failure{Place: t.place(x.name, x.lines[name]), Rule: x.title, Event: name}
	if want := x.accused[name]; len(want) > 0 {
		slices.Sort(want)
		slices.Sort(accused)
		if accused = slices.Compact(accused); slices.Equal(want, accused) {
			return true
		}
		f.Want, f.Got = "to accuse "+strings.Join(want, ", "), strings.Join(accused, ", ")
		if len(accused) == 0 {
			f.Got = "nobody, since no format is for the rule's product: --mapping gives one"
		}
	} else {
		if !somebody || !slices.Contains(accused, nobody) {
			return true
		}
		f.Want, f.Got = "to accuse somebody", nobody
	}
	t.fail(f)
	return false
}

// match returns the rules that the record matches, and the OCSF event that the
// record is or is mapped to where a rule is written in OCSF's names.
func (t *tester) match(x *test, doc *jsondoc.Doc) (hits []int, event *jsondoc.Doc, err error) {
	all := sigma.Logsource{All: true}
	hits = x.set.Match(doc, all, nil, nil)
	if !x.set.NeedsMapped(all) {
		return hits, nil, nil
	}
	raw := doc.Raw()
	if !sigma.IsMapped(doc) {
		if raw, err = t.mapped(x, doc); err != nil {
			return nil, nil, err
		}
	}
	event = jsondoc.New(jsondoc.DefaultLimits())
	if err := event.Parse(raw); err != nil {
		return nil, nil, fmt.Errorf("reading the mapped event: %w", err)
	}
	hits, err = x.set.MatchMapped(raw, all, new(sigma.MappedScratch), hits)
	return hits, event, err
}

// mapped maps the record with the format of a rule's product.
func (t *tester) mapped(x *test, doc *jsondoc.Doc) ([]byte, error) {
	env := format.Env{Source: Realm, Realm: Realm}
	for _, f := range t.o.Formats {
		p := f.Logsource(doc)
		if p.All || p.Product == "" || !slices.ContainsFunc(x.rules, func(r *sigma.Rule) bool { return strings.EqualFold(r.Logsource.Product, p.Product) }) {
			continue
		}
		keys, err := f.Keys(doc, env)
		if err != nil {
			return nil, fmt.Errorf("format %s cannot read it: %w", f.Name(), err)
		}
		m, err := f.Map(doc, keys, env)
		if err != nil {
			return nil, fmt.Errorf("format %s cannot map it: %w", f.Name(), err)
		}
		return m.OCSF, nil
	}
	return nil, errors.New("a rule is written in OCSF's names, the record is no OCSF event, and no format is for the rule's product")
}

// accuse reads the record with the format for the rule's product and returns whom
// the rule accuses, "nobody" for none, and nothing where no format is for the
// product.
func (t *tester) accuse(r *sigma.Rule, doc *jsondoc.Doc) ([]string, error) {
	f, err := t.reader(r, doc)
	if f == nil || err != nil {
		return nil, err
	}
	env := format.Env{Source: Realm, Realm: Realm}
	keys, err := f.Keys(doc, env)
	if err != nil {
		return nil, fmt.Errorf("format %s cannot read it: %w", f.Name(), err)
	}
	refs := accuse.Refs(r.Accuse, accuse.Record{Format: f, Realm: Realm, Doc: doc, Keys: keys, Secrets: f.Secrets(doc, env)})
	if len(refs) == 0 {
		return []string{nobody}, nil
	}
	out := make([]string, len(refs))
	for i, ref := range refs {
		out[i] = ref.String()
	}
	return out, nil
}

// reader returns the first format for the rule's product that routes the record to
// the rule, nil where no format is for the product. It is an error that all of them
// route it elsewhere.
func (t *tester) reader(r *sigma.Rule, doc *jsondoc.Doc) (format.Format, error) {
	var other []string
	for _, f := range t.o.Formats {
		p := f.Logsource(doc)
		ls := sigma.Logsource{Product: p.Product, Category: p.Category, Service: p.Service, All: p.All}
		if ls.All || ls.Product == "" || !strings.EqualFold(ls.Product, r.Logsource.Product) {
			continue
		}
		if ls.Covers(r.Logsource) {
			return f, nil
		}
		other = append(other, fmt.Sprintf("%s/%s%s (format %s)", ls.Product, ls.Category, ls.Service, f.Name()))
	}
	if len(other) > 0 {
		return nil, fmt.Errorf("it goes to the log source %s, and the rule is for %s/%s%s",
			strings.Join(other, " and "), r.Logsource.Product, r.Logsource.Category, r.Logsource.Service)
	}
	return nil, nil
}
