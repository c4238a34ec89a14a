package ruletest

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sequence"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Sequence is what came of one sequence of events.
type Sequence struct {
	// Place is the file of sequences, and the line of this one.
	Place  string `json:"place"`
	Name   string `json:"name"`
	Events int    `json:"events"`
	// OK says that it came as it has to; otherwise a Failure tells more.
	OK      bool     `json:"ok"`
	Signals []Signal `json:"signals,omitempty"`
}

// Signal is what a correlation made of a sequence.
type Signal struct {
	Correlation string `json:"correlation"`
	Title       string `json:"title"`
	// Records are the numbers of its events in the sequence, from 1 on.
	Records []int  `json:"records"`
	Accused string `json:"accused,omitempty"`
}

// Untested is a correlation that no sequence tests.
type Untested struct {
	Place  string `json:"place"`
	ID     string `json:"id"`
	Rule   string `json:"rule"` // its title
	Reason string `json:"reason"`
}

// String says what came of it, on one line.
func (s Sequence) String() string {
	held := "none"
	if len(s.Signals) > 0 {
		var titles []string
		for _, sg := range s.Signals {
			titles = append(titles, sg.Title)
		}
		slices.Sort(titles)
		held = strings.Join(slices.Compact(titles), ", ")
	}
	return fmt.Sprintf("%s: %s: %d events, held: %s", s.Place, s.Name, s.Events, held)
}

// maxWhy bounds the reasons that are told of one sequence.
const maxWhy = 20

// suite is a file of sequences.
type suite struct {
	own  []*correlate.Rule // of the rule file
	held map[*correlate.Rule]bool
	// hidden says that none of own makes signals, so that hidden ones count.
	hidden bool
	// numbers are those, among all, of the test's rules.
	numbers []int
}

// sequences runs the sequences beside a rule file; wrong says that something of the
// file was refused.
func (t *tester) sequences(file string, own []*correlate.Rule, wrong bool) error {
	x := test{name: beside(file, sequenceExt), lines: map[string]int{}}
	data, err := read(t.fsys, x.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.untested(own, "has no sequence ("+path.Base(x.name)+")")
		return nil
	case err != nil:
		return fmt.Errorf("reading the sequences of correlations: %w", err)
	case len(own) == 0:
		if !wrong { // what was refused is told
			t.fail(Failure{Place: t.place(x.name, 0), Got: "has sequences, and " + path.Base(file) + " has no correlation"})
		}
		return nil
	}
	s := &suite{own: own, held: map[*correlate.Rule]bool{}, hidden: true}
	for _, r := range own {
		s.hidden = s.hidden && r.Hidden()
		s.numbers = append(s.numbers, r.Bases()...)
	}
	slices.Sort(s.numbers)
	s.numbers = slices.Compact(s.numbers)
	x.suite, x.title = s, own[0].Title
	for _, n := range s.numbers {
		x.rules = append(x.rules, t.all.Rules()[n])
	}
	if x.set, err = sigma.Compile(x.rules); err != nil {
		return fmt.Errorf("compiling the rules: %w", err)
	}
	arch := txtar.Parse(data)
	if !t.names(&x, arch, data) {
		return nil
	}
	for _, f := range arch.Files {
		if f.Name == accuseFile {
			continue
		}
		if err := t.sequence(&x, f); err != nil {
			return err
		}
	}
	t.untested(slices.DeleteFunc(slices.Clone(own), func(r *correlate.Rule) bool { return s.held[r] }), "holds in no sequence that has to hit")
	return nil
}

func (t *tester) untested(rules []*correlate.Rule, reason string) {
	for _, r := range rules {
		t.rep.UntestedCorrelations = append(t.rep.UntestedCorrelations, Untested{Place: t.place(r.Path, r.Line), ID: r.ID, Rule: r.Title, Reason: reason})
	}
}

// sequence runs one sequence.
func (t *tester) sequence(x *test, f txtar.File) error {
	wantHit, _, _ := kindOf(f.Name)
	res := Sequence{Place: t.place(x.name, x.lines[f.Name]), Name: f.Name}
	defer func() { t.rep.Sequences = append(t.rep.Sequences, res) }()
	fail := func(want, got string, why []string) {
		t.fail(Failure{Place: res.Place, Rule: x.title, Event: f.Name, Want: want, Got: got, Why: why})
	}
	w := windows{best: map[*correlate.Rule]correlate.Judged{}}
	seq := sequence.New(t.correlations, format.Env{Source: Realm, Realm: Realm})
	seq.Tell = w.tell
	somebody := false
	for i, raw := range recordsOf(f) {
		res.Events++
		own, err := t.take(x, seq, i+1, raw, &w)
		if err != nil {
			fail("", fmt.Sprintf("record %d: %v", i+1, err), nil)
			return nil
		}
		somebody = somebody || own
	}
	var why, accused []string
	err := seq.Signals(func(sg sequence.Signal) error {
		if !slices.Contains(x.suite.own, sg.Rule) {
			return nil
		}
		if wantHit {
			x.suite.held[sg.Rule] = true
		}
		if sg.Hidden && !x.suite.hidden {
			return nil
		}
		res.Signals = append(res.Signals, Signal{Correlation: sg.Rule.ID, Title: sg.Rule.Title, Records: sg.Records, Accused: sg.Accused.String()})
		who := sg.Accused.String()
		if who == "" {
			who = nobody
		}
		accused = append(accused, who)
		if len(why) < maxWhy {
			why = append(why, fmt.Sprintf("%s: %s (records %s)", sg.Rule.Title, sg.Evidence, list(sg.Records)))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: evaluating correlations: %w", res.Place, err)
	}
	switch {
	case wantHit && len(res.Signals) == 0:
		fail("a correlation to hold", "none", w.why(x.suite.own))
	case !wantHit && len(res.Signals) > 0:
		fail("no correlation to hold", "one", why)
	default:
		// A hidden one accuses nobody itself.
		res.OK = !wantHit || t.judgeAccused(x, f.Name, accused, somebody && !x.suite.hidden)
	}
	return nil
}

// take puts a record in the sequence, for each rule that it matches as the format
// for the rule's product reads it, or as plain JSON. own says that one of those was
// for the product.
func (t *tester) take(x *test, seq *sequence.Sequence, number int, raw []byte, w *windows) (own bool, err error) {
	doc := jsondoc.New(jsondoc.DefaultLimits())
	if err := doc.Parse(raw); err != nil {
		return false, err
	}
	hits, _, err := t.match(x, doc)
	if err != nil {
		return false, err
	}
	var formats []format.Format
	matched := map[string][]int{} // by the format's name
	for _, n := range hits {
		f, err := t.reader(x.rules[n], doc)
		if err != nil {
			// It reaches another rule, or none, as it would on a node.
			w.elsewhere(fmt.Sprintf("record %d matches %s, but %v", number, x.rules[n].Title, err))
			continue
		}
		if own = own || f != nil; f == nil {
			i := slices.IndexFunc(t.o.Formats, func(f format.Format) bool { return f.Logsource(doc).All })
			if i < 0 {
				return own, fmt.Errorf("no format is for the product %q", x.rules[n].Logsource.Product)
			}
			f = t.o.Formats[i]
		}
		if len(matched[f.Name()]) == 0 {
			formats = append(formats, f)
		}
		matched[f.Name()] = append(matched[f.Name()], x.suite.numbers[n])
	}
	for _, f := range formats {
		if err := seq.Take(number, f, doc, matched[f.Name()]); err != nil {
			return own, err
		}
	}
	return own, nil
}

// windows remembers how far correlations came in a sequence.
type windows struct {
	best map[*correlate.Rule]correlate.Judged
	lost []string
}

func (w *windows) tell(j correlate.Judged) {
	if b, ok := w.best[j.Rule]; !ok || j.Have > b.Have {
		w.best[j.Rule] = j
	}
}

func (w *windows) elsewhere(why string) {
	if len(w.lost) < maxWhy {
		w.lost = append(w.lost, why)
	}
}

// why says how far each of the correlations came, and which records reached none
// of their rules.
func (w *windows) why(rules []*correlate.Rule) []string {
	var out []string
	for _, r := range rules {
		j, ok := w.best[r]
		switch {
		case len(out) >= maxWhy:
		case !ok:
			out = append(out, r.Title+": no record counts for it")
		case len(j.Group) == 0:
			out = append(out, fmt.Sprintf("%s: at most %d records count in a window", r.Title, j.Have))
		default:
			out = append(out, fmt.Sprintf("%s: at most %d records count in a window of %s", r.Title, j.Have, strings.Join(j.Group, ", ")))
		}
	}
	return append(out, w.lost...)
}

func list(numbers []int) string {
	parts := make([]string, len(numbers))
	for i, n := range numbers {
		parts[i] = fmt.Sprint(n)
	}
	return strings.Join(parts, ", ")
}
