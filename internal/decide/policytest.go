package decide

import (
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

// testFile is the shape of a *_test.yaml.
type testFile struct {
	V     int                       `yaml:"v"`
	Cases strictyaml.List[caseYAML] `yaml:"cases"`
}

type caseYAML struct {
	Name   string     `yaml:"name"`
	Given  givenYAML  `yaml:"given"`
	Expect expectYAML `yaml:"expect"`
	line   int
}

// UnmarshalYAML keeps the line.
func (y *caseYAML) UnmarshalYAML(n *yaml.Node) error {
	type plain caseYAML
	y.line = n.Line
	return n.Load((*plain)(y), yaml.WithKnownFields())
}

// givenYAML describes an input. What it leaves out is the plainest case: a
// managed service of tolerance normal, everything in mode enforce and in time.
type givenYAML struct {
	Subject     staunch.Ref                 `yaml:"subject"`
	Names       []staunch.Ref               `yaml:"names"`
	Up          []staunch.Ref               `yaml:"up"`
	Signals     strictyaml.List[signalYAML] `yaml:"signals"`
	Identity    identityYAML                `yaml:"identity"`
	Containment *struct {
		Tier  staunch.Tier  `yaml:"tier"`
		Phase staunch.Phase `yaml:"phase"`
		Scope staunch.Kind  `yaml:"scope"`
	} `yaml:"containment"`
	Gaps strictyaml.List[struct {
		Ref    staunch.Ref `yaml:"ref"`
		Reason string      `yaml:"reason"`
		Widen  staunch.Ref `yaml:"widen"`
	}] `yaml:"gaps"`
	Platform string        `yaml:"platform"`
	Mode     *staunch.Mode `yaml:"mode"`
}

type signalYAML struct {
	ID         string           `yaml:"id"`
	Rule       string           `yaml:"rule"`
	Source     string           `yaml:"source"`
	Confidence float64          `yaml:"confidence"`
	Techniques []string         `yaml:"techniques"`
	Ceiling    *staunch.Tier    `yaml:"ceiling"`
	Mode       *staunch.Mode    `yaml:"mode"`
	Standing   staunch.Standing `yaml:"standing"`
	Age        staunch.Duration `yaml:"age"`
	Hops       int              `yaml:"hops"`
	Accused    staunch.Ref      `yaml:"accused"`
	Event      string           `yaml:"event"`
	line       int
}

// UnmarshalYAML keeps the line.
func (y *signalYAML) UnmarshalYAML(n *yaml.Node) error {
	type plain signalYAML
	y.line = n.Line
	return n.Load((*plain)(y), yaml.WithKnownFields())
}

type identityYAML struct {
	Name        string               `yaml:"name"`
	Kind        staunch.IdentityKind `yaml:"kind"`
	Owner       string               `yaml:"owner"`
	Purpose     string               `yaml:"purpose"`
	Environment string               `yaml:"environment"`
	Tier        int                  `yaml:"tier"`
	Tolerance   staunch.Tolerance    `yaml:"tolerance"`
	Shared      bool                 `yaml:"shared"`
	Protected   bool                 `yaml:"protected"`
	Managed     *bool                `yaml:"managed"`
}

// expectYAML has what a case expects; what it leaves out is not compared.
type expectYAML struct {
	Policy   *string          `yaml:"policy"`
	Tier     *staunch.Tier    `yaml:"tier"`
	Mode     *staunch.Mode    `yaml:"mode"`
	Verdict  *staunch.Verdict `yaml:"verdict"`
	Playbook *string          `yaml:"playbook"`
	// Stages are the tiers of the playbook's stages.
	Stages *[]staunch.Tier `yaml:"stages"`
	// Window is the longest window among them.
	Window *staunch.Duration `yaml:"window"`
	// Scope is the ref that is contained, or its kind.
	Scope   *string       `yaml:"scope"`
	Approve *bool         `yaml:"approve"`
	Notify  *[]string     `yaml:"notify"`
	Would   *staunch.Tier `yaml:"would"`
	// Confidence has the least and the most.
	Confidence *[]float64 `yaml:"confidence"`
	line       int
}

// UnmarshalYAML keeps the line.
func (y *expectYAML) UnmarshalYAML(n *yaml.Node) error {
	type plain expectYAML
	y.line = n.Line
	return n.Load((*plain)(y), yaml.WithKnownFields())
}

func (y *expectYAML) empty() bool {
	z := *y
	z.line = 0
	return z == expectYAML{}
}

// Report is what a run of policy tests found.
type Report struct {
	V        int       `json:"v"`
	Files    int       `json:"files"`
	Cases    int       `json:"cases"`
	Failures []Failure `json:"failures,omitempty"`
}

// Failure is one expectation that did not hold.
type Failure struct {
	// Place is the case's file and line.
	Place   string `json:"place"`
	Case    string `json:"case"`
	Message string `json:"message"`
	// Reasons are those of the outcome that was not expected.
	Reasons []string `json:"reasons,omitempty"`
}

// OK reports whether there were cases and all of them held.
func (r Report) OK() bool { return r.Cases > 0 && len(r.Failures) == 0 }

// String prints the failures with file and line, and a summary line.
func (r Report) String() string {
	var b strings.Builder
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "%s: %s: %s\n", f.Place, f.Case, f.Message)
		for _, why := range f.Reasons {
			fmt.Fprintf(&b, "\t%s\n", why)
		}
	}
	fmt.Fprintf(&b, "%d cases in %d files, %d failures\n", r.Cases, r.Files, len(r.Failures))
	return b.String()
}

// RunTests compiles the policies of a file system and runs the tests that stand
// beside them (*_test.yaml), with the default constants of suspicion. An error
// means that something could not be read or compiled, by file and line;
// expectations that do not hold are in the report.
func RunTests(fsys fs.FS) (Report, error) { return Params{}.RunTests(fsys) }

// RunTests is RunTests with other constants of suspicion.
func (p Params) RunTests(fsys fs.FS) (Report, error) {
	rep := Report{V: staunch.Version}
	set, err := Load(fsys)
	if err != nil {
		return rep, err
	}
	files, err := readFiles(fsys, isTest)
	if err != nil {
		return rep, err
	}
	for _, f := range files {
		var y testFile
		if err := strictyaml.Load(f.Data, f.Name, &y); err != nil {
			return rep, err
		}
		pr := strictyaml.In(f.Name)
		if y.V != staunch.Version {
			pr.Add(0, "v is %d; this release reads v: %d", y.V, staunch.Version)
		}
		names := map[string]int{}
		for _, c := range y.Cases {
			c.check(pr)
			if first, dup := names[c.Name]; dup {
				pr.Add(c.line, "case %q stands already at line %d", c.Name, first)
			}
			names[c.Name] = c.line
		}
		if err := pr.Err(); err != nil {
			return rep, err
		}
		rep.Files++
		for _, c := range y.Cases {
			rep.Cases++
			out, view := c.run(p, set)
			for _, m := range c.Expect.compare(out, view) {
				rep.Failures = append(rep.Failures, Failure{Place: fmt.Sprintf("%s:%d", f.Name, c.Expect.line), Case: c.Name, Message: m, Reasons: out.Reasons})
			}
		}
	}
	return rep, nil
}

func (y *caseYAML) check(p *strictyaml.Problems) {
	bad := func(line int, format string, args ...any) {
		p.Add(line, "case %q: "+format, append([]any{y.Name}, args...)...)
	}
	if y.Name == "" {
		p.Add(y.line, "case without a name")
	}
	if y.Expect.empty() {
		bad(y.line, "expects nothing")
	}
	if c := y.Expect.Confidence; c != nil && len(*c) != 2 {
		bad(y.Expect.line, "expect.confidence has to have the least and the most")
	}
	id := y.Given.Identity
	if (id.Kind != "" && !id.Kind.Valid()) || (id.Tolerance != "" && !id.Tolerance.Valid()) {
		bad(y.line, "identity of kind %q and tolerance %q", id.Kind, id.Tolerance)
	}
	for _, s := range y.Given.Signals {
		switch {
		case s.Rule == "":
			bad(s.line, "signal without a rule")
		case !(s.Confidence > 0 && s.Confidence <= 1):
			bad(s.line, "a signal's confidence is above 0 and at most 1")
		case s.Age < 0 || s.Hops < 0:
			bad(s.line, "a signal's age and hops are not negative")
		}
		switch s.Standing {
		case "", staunch.StandingCurrent, staunch.StandingLate, staunch.StandingFuture, staunch.StandingUndated:
		default:
			bad(s.line, "standing %q is not one of current, late, future, undated", s.Standing)
		}
	}
}

// testNow is when the signals of tests that have no age happen.
func testNow() staunch.Time {
	return staunch.TimeOf(time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC))
}

func (y *caseYAML) run(p Params, set *Set) (Outcome, View) {
	g := y.Given
	subject := g.Subject
	if subject.IsZero() {
		subject = staunch.Ref{Kind: staunch.KindCredential, Realm: "test", Scheme: "name", Value: "subject"}
	}
	var evidence []Evidence
	for i, s := range g.Signals {
		sig := staunch.Signal{
			V: staunch.Version, ID: s.ID, Rule: s.Rule, Source: s.Source, Realm: subject.Realm, Accused: s.Accused,
			Confidence: s.Confidence, Techniques: s.Techniques, Event: s.Event, Ceiling: staunch.TierRevoke,
			Mode: staunch.ModeEnforce, Standing: s.Standing, Time: testNow().Add(-s.Age.Std()), Learned: testNow(),
		}
		if sig.ID == "" {
			sig.ID = fmt.Sprintf("sig_%d", i)
		}
		if sig.Source == "" {
			sig.Source = "test"
		}
		if sig.Event == "" {
			sig.Event = fmt.Sprintf("evt_%d", i)
		}
		if sig.Standing == "" {
			sig.Standing = staunch.StandingCurrent
		}
		if sig.Accused.IsZero() {
			sig.Accused = subject
		}
		if s.Ceiling != nil {
			sig.Ceiling = *s.Ceiling
		}
		if s.Mode != nil {
			sig.Mode = *s.Mode
		}
		evidence = append(evidence, Evidence{Signal: &sig, Hops: s.Hops})
	}
	id := staunch.Identity{
		V: staunch.Version, Name: g.Identity.Name, Kind: g.Identity.Kind, Owner: g.Identity.Owner, Purpose: g.Identity.Purpose,
		Environment: g.Identity.Environment, Tier: g.Identity.Tier, Tolerance: g.Identity.Tolerance, Shared: g.Identity.Shared,
		Protected: g.Identity.Protected, Managed: g.Identity.Managed == nil || *g.Identity.Managed,
	}
	if id.Kind == "" {
		id.Kind = staunch.IdentityService
		if !id.Managed {
			id.Kind = staunch.IdentityUnknown
		}
	}
	if id.Tolerance == "" {
		id.Tolerance = staunch.ToleranceNormal
	}
	if id.Name == "" {
		id.Name = "test"
	}
	ctx := Context{Mode: staunch.ModeEnforce, Platform: g.Platform, RevokeSources: p.NeedSources()}
	if g.Mode != nil {
		ctx.Mode = *g.Mode
	}
	for _, gap := range g.Gaps {
		ctx.Gaps = append(ctx.Gaps, staunch.Gap{Ref: gap.Ref, Reason: gap.Reason, Widen: gap.Widen})
	}
	if c := g.Containment; c != nil {
		kind := c.Scope
		if kind == "" {
			kind = subject.Kind
		}
		ctx.Open = &staunch.Containment{Tier: c.Tier, Phase: c.Phase, Subject: staunch.Ref{Kind: kind}}
	}
	names := g.Names
	if !slices.Contains(names, subject) {
		names = append([]staunch.Ref{subject}, names...)
	}
	a := p.Assess(subject, evidence)
	in := NewInput(staunch.Resolution{Ref: subject, Names: names, Up: g.Up, Identity: id}, a, ctx)
	out := set.Decide(in)
	return out, *in.view(out.View)
}

// compare returns what is not as expected.
func (y *expectYAML) compare(out Outcome, view View) []string {
	var bad []string
	check := func(what string, want, got any) {
		w, g := fmt.Sprint(want), fmt.Sprint(got)
		if w != g {
			bad = append(bad, fmt.Sprintf("%s is %s, want %s", what, orNone(g), orNone(w)))
		}
	}
	if y.Policy != nil {
		check("policy", *y.Policy, out.Policy)
	}
	if y.Tier != nil {
		check("tier", *y.Tier, out.Tier)
	}
	if y.Mode != nil {
		check("mode", *y.Mode, out.Mode)
	}
	if y.Verdict != nil {
		check("verdict", *y.Verdict, out.Verdict)
	}
	if y.Playbook != nil {
		check("playbook", *y.Playbook, out.Playbook.Name)
	}
	var stages []staunch.Tier
	var window staunch.Duration
	for _, s := range out.Playbook.Stages {
		stages = append(stages, s.Tier)
		window = max(window, s.Window)
	}
	if y.Stages != nil {
		check("stages", *y.Stages, stages)
	}
	if y.Window != nil {
		check("window", y.Window.Std(), window.Std())
	}
	if y.Scope != nil && *y.Scope != string(out.Scope.Kind) {
		check("scope", *y.Scope, out.Scope)
	}
	if y.Approve != nil {
		check("approve", *y.Approve, out.Approve)
	}
	if y.Notify != nil {
		check("notify", *y.Notify, out.Notify)
	}
	if y.Would != nil {
		check("would", *y.Would, out.Would)
	}
	if c := y.Confidence; c != nil {
		if lo, hi := (*c)[0], (*c)[1]; math.IsNaN(lo) || view.Confidence < lo || view.Confidence > hi {
			bad = append(bad, fmt.Sprintf("confidence is %.4f, want between %g and %g", view.Confidence, lo, hi))
		}
	}
	return bad
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
