package decide_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/policies"
)

func TestDefaultPolicies(t *testing.T) {
	rep, err := decide.RunTests(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.OK() || rep.Cases < 30 {
		t.Errorf("default policies:\n%s", rep)
	}
}

// The tests beside the default policies fail when the policies change: each
// edit is one that a person might make without meaning it.
func TestDefaultPoliciesAreGuarded(t *testing.T) {
	text := func(name string) string {
		b, err := fs.ReadFile(policies.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, tt := range []struct {
		name, old, new string
		nth            int // which occurrence
	}{
		{"restrict earlier", "at: 0.30", "at: 0.29", 1},
		{"restrict later", "at: 0.30", "at: 0.31", 1},
		{"isolate earlier", "at: 0.60", "at: 0.59", 1},
		{"isolate later", "at: 0.60", "at: 0.61", 1},
		{"revoke earlier", "at: 0.85", "at: 0.84", 1},
		{"revoke later", "at: 0.85", "at: 0.86", 1},
		{"shadow", "mode: enforce", "mode: shadow", 1},
		{"recommend", "mode: enforce", "mode: recommend", 1},
		{"unknown identities revoked", "unmanaged: isolate", "unmanaged: revoke", 1},
		{"unknown identities only restricted", "unmanaged: isolate", "unmanaged: restrict", 1},
		{"second session ignored", "second_session: true", "second_session: false", 1},
		{"wider scope", "scope: narrowest", "scope: account", 1},
		{"no window", "window: 30m", "window: 0s", 1},
		{"never in shadow", "mode: enforce", "mode: shadow", 2},
		{"never after the default", "priority: 10", "priority: -10", 1},
		{"staged without restrict", "      - tier: restrict\n        deny: [write, create, update, delete, admin, grant, assume, issue]\n      - tier: isolate", "      - tier: isolate", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := text("default.yaml")
			at := 0
			for range tt.nth {
				i := strings.Index(src[at:], tt.old)
				if i < 0 {
					t.Fatalf("default.yaml has no %q any more", tt.old)
				}
				at += i + 1
			}
			at--
			edited := src[:at] + tt.new + src[at+len(tt.old):]
			rep, err := decide.RunTests(fstest.MapFS{
				"default.yaml":      {Data: []byte(edited)},
				"default_test.yaml": {Data: []byte(text("default_test.yaml"))},
			})
			if err != nil {
				t.Fatal(err)
			}
			if rep.OK() {
				t.Error("the tests beside the policies do not notice")
			}
			for _, f := range rep.Failures {
				if !strings.HasPrefix(f.Place, "default_test.yaml:") || f.Case == "" || f.Message == "" {
					t.Errorf("failure %+v does not say where", f)
				}
			}
		})
	}
}

func TestRunTestsReports(t *testing.T) {
	policy := `v: 1
policies:
  - {id: p, mode: enforce, then: {tier: restrict}}
playbooks:
  - {name: restrict, stages: [{tier: restrict, deny: [write]}]}
`
	run := func(tests string) (decide.Report, error) {
		return decide.RunTests(fstest.MapFS{"a/p.yaml": {Data: []byte(policy)}, "a/p_test.yaml": {Data: []byte(tests)}, "README.md": {Data: []byte("x")}})
	}
	rep, err := run("v: 1\ncases:\n- name: wrong\n  given: {signals: [{rule: r, confidence: 0.5}]}\n  expect: {tier: isolate, playbook: isolate}\n")
	if err != nil {
		t.Fatal(err)
	}
	if rep.OK() || len(rep.Failures) != 2 || rep.Failures[0].Place != "a/p_test.yaml:5" {
		t.Errorf("report %+v", rep)
	}
	if s := rep.String(); !strings.Contains(s, "a/p_test.yaml:5: wrong: tier is restrict, want isolate") || !strings.Contains(s, "1 cases in 1 files, 2 failures") {
		t.Errorf("printed as\n%s", s)
	}
	if rep, err := decide.RunTests(fstest.MapFS{"p.yaml": {Data: []byte(policy)}}); err != nil || rep.OK() {
		t.Errorf("no cases must not be a success: %+v, %v", rep, err)
	}
	for _, tt := range []struct{ in, place, want string }{
		{"v: 1\ncases:\n- name: a\n  expect: {teir: isolate}\n", "a/p_test.yaml:4", `unknown key "teir"`},
		{"v: 1\ncases:\n- name: a\n  given: {signals: [{rule: r, confidence: 0.5}]}\n", "a/p_test.yaml:3", "expects nothing"},
		{"v: 1\ncases:\n- name: a\n  given:\n    signals:\n    - {rule: r, confidence: 2}\n  expect: {tier: isolate}\n", "a/p_test.yaml:6", "confidence"},
		{"v: 1\ncases:\n- name: a\n  given:\n    signals:\n    - {confidence: 1}\n  expect: {tier: isolate}\n", "a/p_test.yaml:6", "without a rule"},
		{"v: 1\ncases:\n- name: a\n  given:\n    signals:\n    - {rule: r, confidence: 1, standing: early}\n  expect: {tier: isolate}\n", "a/p_test.yaml:6", "standing"},
		{"v: 1\ncases:\n- {name: a, expect: {tier: isolate}}\n- {name: a, expect: {tier: isolate}}\n", "a/p_test.yaml:4", "already at line 3"},
		{"v: 2\n", "a/p_test.yaml", "v is 2"},
	} {
		_, err := run(tt.in)
		var p *staunch.Problem
		if !errors.As(err, &p) || p.Place != tt.place || !strings.Contains(p.Reason, tt.want) {
			t.Errorf("%q gives %v, want %q at %s", tt.in, err, tt.want, tt.place)
		}
	}
}

const books = `playbooks:
  - {name: restrict, stages: [{tier: restrict, deny: [write]}]}
  - {name: isolate, stages: [{tier: isolate, deny: ["*"]}]}
  - {name: revoke, stages: [{tier: revoke, deny: ["*"]}]}
  - {name: staged, stages: [{tier: restrict}, {tier: isolate, window: 10m}, {tier: revoke}]}
`

func TestParseRefuses(t *testing.T) {
	pol := func(body string) string { return "v: 1\npolicies:\n  - id: p\n" + body + "\n" + books }
	const then = "    then: {tier: restrict}\n"
	for _, tt := range []struct{ name, in, place, want string }{
		{"empty", " \n", "p.yaml", "empty"},
		{"version", "v: 3\n", "p.yaml", "v is 3"},
		{"unknown key at the top", "v: 1\npolicy: []\n", "p.yaml:2", `unknown key "policy"`},
		{"unknown key", pol("    wen: 'true'\n" + then), "p.yaml:4", `unknown key "wen"`},
		{"unknown key in then", pol("    then:\n      tier: restrict\n      scop: account\n"), "p.yaml:6", `unknown key "scop"`},
		{"unknown key in a rung", pol("    then:\n      tiers:\n      - {at: 0.3, teir: restrict}\n"), "p.yaml:6", `unknown key "teir"`},
		{"unknown match key", pol("    match: {envs: prod}\n" + then), "p.yaml:4", `unknown key "envs"`},
		{"null policy", "v: 1\npolicies:\n- ~\n", "p.yaml:3", "without content"},
		{"no id", "v: 1\npolicies:\n- {then: {tier: restrict}}\n" + books, "p.yaml:3", "policy id"},
		{"duplicate id", "v: 1\npolicies:\n- {id: a, then: {tier: restrict}}\n- {id: a, then: {tier: restrict}}\n" + books, "p.yaml:4", "already at p.yaml:3"},
		{"bad tier", pol("    then: {tier: burn}\n"), "p.yaml:4", "not a tier"},
		{"bad mode", pol("    mode: on\n" + then), "p.yaml:4", "mode"},
		{"no tier", pol("    then: {approve: true}\n"), "p.yaml:3", "neither tier nor tiers"},
		{"both", pol("    then: {tier: restrict, tiers: [{at: 0.2, tier: isolate}]}\n"), "p.yaml:3", "both"},
		{"descending ladder", pol("    then:\n      tiers:\n      - {at: 0.5, tier: restrict}\n      - {at: 0.4, tier: isolate}\n"), "p.yaml:7", "above the one before"},
		{"no at", pol("    then:\n      tiers:\n      - {tier: restrict}\n"), "p.yaml:6", "between 0 and 1"},
		{"at above one", pol("    then:\n      tiers:\n      - {at: 30, tier: restrict}\n"), "p.yaml:6", "between 0 and 1"},
		{"no playbook", pol("    then: {tier: restrict, playbook: gone}\n"), "p.yaml:3", `no playbook "gone"`},
		{"weaker playbook", pol("    then: {tier: isolate, playbook: restrict}\n"), "p.yaml:3", "whose highest stage is restrict"},
		{"no staged playbook", "v: 1\npolicies:\n- {id: a, then: {tier: isolate}}\nplaybooks:\n- {name: isolate, stages: [{tier: isolate}]}\n", "p.yaml:3", `no playbook "staged"`},
		{"staged playbook with one stage", pol("    then: {tier: isolate, staged: isolate}\n"), "p.yaml:3", "one stage"},
		{"bad scope", pol("    then: {tier: restrict, scope: realm}\n"), "p.yaml:3", `scope "realm"`},
		{"bad widen", pol("    then: {tier: restrict, widen: {at_revoke: resource}}\n"), "p.yaml:3", "at_revoke"},
		{"bad channel", pol("    then: {tier: restrict, notify: ['a b']}\n"), "p.yaml:3", "channel"},
		{"bad match value", pol("    match: {tolerance: some}\n" + then), "p.yaml:3", `"some"`},
		{"bad kind", pol("    match: {subject_kind: [resource]}\n" + then), "p.yaml:3", `"resource"`},
		{"bad tier range", pol("    match: {tier: {min: 3, max: 2}}\n" + then), "p.yaml:3", "match.tier"},
		{"empty list", pol("    match: {owner: []}\n" + then), "p.yaml:4", "empty list"},
		{"on_expiry alone", pol("    then: {tier: restrict, on_expiry: release}\n"), "p.yaml:3", "on_expiry without expiry"},
		{"bad expiry", pol("    then: {tier: restrict, expiry: 5}\n"), "p.yaml:4", "not a duration"},
		{"when is no CEL", pol("    when: identity.kind ==\n" + then), "p.yaml:4", "when: column"},
		{"when has an unknown field", pol("    when: identity.knd == 'human'\n" + then), "p.yaml:4", "knd"},
		{"when compares types", pol("    when: identity.tier == 'one'\n" + then), "p.yaml:4", "no matching overload"},
		{"when is no bool", pol("    when: identity.name\n" + then), "p.yaml:4", "has to give a bool"},
		{"when in a block", pol("    when: |\n      identity.managed &&\n      identity.knd == 'x'\n" + then), "p.yaml:6", "knd"},
		{"when looks at the clock", pol("    when: now() > 3\n" + then), "p.yaml:4", "undeclared reference"},
		{"when looks at raw events", pol("    when: event.ip == 'x'\n" + then), "p.yaml:4", "undeclared reference"},
		{"when maps", pol("    when: suspicion.rules.map(r, r + r) == []\n" + then), "p.yaml:4", "undeclared reference"},
		{"when is long", pol("    when: '" + strings.Repeat("true && ", 600) + "true'\n" + then), "p.yaml:4", "bytes long"},
		{"when is deep", pol("    when: '" + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + "'\n" + then), "p.yaml:4", "recursion"},
		{"playbook without stages", "v: 1\nplaybooks:\n- {name: a}\n", "p.yaml:3", "0 stages"},
		{"playbook that descends", "v: 1\nplaybooks:\n- {name: a, stages: [{tier: isolate}, {tier: restrict}]}\n", "p.yaml:3", "goes above"},
		{"playbook that observes", "v: 1\nplaybooks:\n- {name: a, stages: [{tier: observe}]}\n", "p.yaml:3", "goes above"},
		{"verb above the tier", "v: 1\nplaybooks:\n- {name: a, stages: [{tier: restrict, verbs: [revoke]}]}\n", "p.yaml:3", `"revoke"`},
		{"window at the end", "v: 1\nplaybooks:\n- {name: a, stages: [{tier: isolate, window: 5m}]}\n", "p.yaml:3", "last stage has a window"},
		{"negative window", "v: 1\nplaybooks:\n- {name: a, stages: [{tier: restrict, window: -5m}, {tier: isolate}]}\n", "p.yaml:3", "window"},
		{"unknown key in a stage", "v: 1\nplaybooks:\n- name: a\n  stages:\n  - {tier: isolate, denies: [x]}\n", "p.yaml:5", `unknown key "denies"`},
		{"duplicate playbook", "v: 1\nplaybooks:\n- {name: a, stages: [{tier: isolate}]}\n- {name: a, stages: [{tier: isolate}]}\n", "p.yaml:4", "already at p.yaml:3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decide.Parse([]decide.File{{Name: "p.yaml", Data: []byte(tt.in)}})
			var p *staunch.Problem
			if !errors.As(err, &p) || !errors.Is(err, staunch.ErrInvalid) {
				t.Fatalf("got %v, want a problem", err)
			}
			if p.Place != tt.place || !strings.Contains(p.Reason, tt.want) {
				t.Errorf("got %q at %q, want %q at %q", p.Reason, p.Place, tt.want, tt.place)
			}
		})
	}
}

// All that is wrong is said at once, over all files, and playbooks are shared
// between them.
func TestParseSeveralFiles(t *testing.T) {
	a := decide.File{Name: "a.yaml", Data: []byte("v: 1\npolicies: [{id: a, then: {tier: isolate}}]\n")}
	b := decide.File{Name: "b.yaml", Data: []byte("v: 1\n" + books)}
	if _, err := decide.Parse([]decide.File{a, b}); err != nil {
		t.Errorf("playbooks of another file: %v", err)
	}
	a.Data = []byte("v: 1\npolicies: [{id: a, then: {tier: isolate, scope: x}}]\n")
	b.Data = []byte("v: 1\nplaybook: 3\n")
	_, err := decide.Parse([]decide.File{a, b})
	if err == nil || !strings.Contains(err.Error(), "a.yaml:2") || !strings.Contains(err.Error(), "b.yaml:2") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := fs.ReadFile(policies.FS, "default.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("v: 1\npolicies:\n- id: p\n  when: |\n    identity.tier in [1, 2] && suspicion.rules.exists(r, r.startsWith('x'))\n  then: {tier: isolate}\n" + books))
	f.Add([]byte("v: 1\npolicies: [~]\nplaybooks: {a: 1}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := decide.Parse([]decide.File{{Name: "f.yaml", Data: data}})
		if err != nil {
			if !errors.Is(err, staunch.ErrInvalid) {
				t.Fatalf("%v is not an ErrInvalid", err)
			}
			return
		}
		in := input(t, ident(), accuse("r", 0.9))
		out := set.Decide(in)
		if out.Tier > staunch.TierObserve && out.Verdict != staunch.VerdictObserve && len(out.Playbook.Stages) == 0 {
			t.Fatalf("decides %s with an empty playbook: %+v", out.Tier, out)
		}
		for _, s := range out.Playbook.Stages {
			if s.Tier > out.Tier {
				t.Fatalf("stage %s is above the tier %s", s.Tier, out.Tier)
			}
		}
		set.Explain(in)
	})
}

// parse compiles policies with the plain playbooks.
func parse(t testing.TB, policies string) *decide.Set {
	t.Helper()
	set, err := decide.Parse([]decide.File{{Name: "p.yaml", Data: []byte("v: 1\npolicies:\n" + policies + books)}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func ident(change ...func(*staunch.Identity)) staunch.Identity {
	id := staunch.Identity{V: 1, Name: "app", Kind: staunch.IdentityService, Owner: "team", Purpose: "web", Environment: "prod", Tier: 2, Tolerance: staunch.ToleranceNormal, Managed: true}
	for _, c := range change {
		c(&id)
	}
	return id
}

func cred(v string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindCredential, Realm: "r", Scheme: "id", Value: v}
}
func sess(v string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: "r", Scheme: "id", Value: v}
}
func acct(v string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: "r", Scheme: "id", Value: v}
}

const noon = staunch.Time(1_767_355_200_000_000)

func accuse(rule string, confidence float64) decide.Evidence {
	return decide.Evidence{Signal: &staunch.Signal{
		V: 1, ID: "sig_" + rule, Rule: rule, Source: "trail", Realm: "r", Accused: cred("k"), Confidence: confidence,
		Event: "evt_" + rule, Ceiling: staunch.TierRevoke, Mode: staunch.ModeEnforce, Standing: staunch.StandingCurrent, Time: noon, Learned: noon,
	}}
}

func input(t testing.TB, id staunch.Identity, evidence ...decide.Evidence) decide.Input {
	t.Helper()
	res := staunch.Resolution{Ref: cred("k"), Names: []staunch.Ref{cred("k")}, Up: []staunch.Ref{acct("a"), staunch.IdentityRef("app")}, Identity: id}
	return decide.NewInput(res, decide.Params{}.Assess(cred("k"), evidence), decide.Context{Mode: staunch.ModeEnforce, Platform: "postgresql"})
}

func TestMatch(t *testing.T) {
	ev := accuse("aws-key-leak", 0.9)
	ev.Signal.Techniques = []string{"attack.t1078.004"}
	in := input(t, ident(), ev)
	for _, tt := range []struct {
		match string
		want  bool
	}{
		{"{}", true},
		{"{identity_kind: service}", true},
		{"{identity_kind: [human, agent]}", false},
		{"{environment: [dev, prod]}", true},
		{"{environment: dev}", false},
		{"{tier: {min: 1, max: 2}}", true},
		{"{tier: {max: 1}}", false},
		{"{tier: {min: 2}}", true},
		{"{tolerance: normal}", true},
		{"{tolerance: [staged, never]}", false},
		{"{managed: true}", true},
		{"{managed: false}", false},
		{"{shared: false}", true},
		{"{shared: true}", false},
		{"{owner: team}", true},
		{"{owner: other}", false},
		{"{realm: r}", true},
		{"{realm: q}", false},
		{"{platform: postgresql}", true},
		{"{platform: vault}", false},
		{"{subject_kind: [credential]}", true},
		{"{subject_kind: session}", false},
		{"{rule: [x, aws-key-leak]}", true},
		{"{rule: x}", false},
		{"{technique: T1078}", true},
		{"{technique: t1078.004}", true},
		{"{technique: T1078.001}", false},
		{"{source: trail}", true},
		{"{source: other}", false},
		{"{owner: team, environment: dev}", false},
		{"{owner: team, environment: prod, rule: aws-key-leak}", true},
	} {
		set := parse(t, "  - {id: p, mode: enforce, match: "+tt.match+", then: {tier: restrict}}\n")
		out := set.Decide(in)
		if got := out.Policy == "p"; got != tt.want {
			t.Errorf("match %s gives %v: %v", tt.match, got, out.Reasons)
		}
		trace := set.Explain(in)
		if len(trace) != 1 || trace[0].Matched != tt.want || trace[0].Chosen != tt.want || trace[0].Why == "" {
			t.Errorf("match %s is explained as %+v", tt.match, trace)
		}
	}
	// An identity whose tier nobody said is in no range.
	unsaid := input(t, ident(func(id *staunch.Identity) { id.Tier = 0 }), ev)
	if out := parse(t, "  - {id: p, match: {tier: {max: 4}}, then: {tier: restrict}}\n").Decide(unsaid); out.Policy != "" || out.Verdict != staunch.VerdictObserve {
		t.Errorf("tier 0 matches: %+v", out)
	}
}

func TestWhen(t *testing.T) {
	ev := accuse("aws-key-leak", 0.9)
	ev.Signal.Techniques = []string{"T1078.004"}
	in := input(t, ident(), ev, accuse("other", 0.4))
	in.Containment = decide.ContainmentFacts{Open: true, Tier: "restrict", Phase: "held", Scope: "credential"}
	for when, want := range map[string]bool{
		`true`:                        true,
		`suspicion.confidence > 0.93`: true,
		`suspicion.confidence > 0.95`: false,
		`suspicion.rules.exists(r, r.startsWith("aws-"))`:      true,
		`suspicion.rules.all(r, r.startsWith("aws-"))`:         false,
		`"T1078" in suspicion.techniques`:                      true,
		`suspicion.signals == 2 && suspicion.sessions == 0`:    true,
		`signal.rule == "other" && signal.source == "trail"`:   true,
		`identity.tier <= 2 && identity.managed`:               true,
		`identity.owner != "team"`:                             false,
		`containment.open && containment.tier == "restrict"`:   true,
		`environment.platform == "postgresql"`:                 true,
		`environment.mode == "enforce" && !identity.protected`: true,
		`suspicion.ceiling == "revoke"`:                        true,
		`suspicion.rules[7] == "x"`:                            false, // an error is as good as no
		`identity.name.matches("^a.p$")`:                       true,
		`suspicion.subject == "credential"`:                    true,
	} {
		set := parse(t, "  - {id: p, mode: enforce, when: '"+when+"', then: {tier: restrict}}\n")
		if got := set.Decide(in).Policy == "p"; got != want {
			t.Errorf("%s gives %v, want %v", when, got, want)
		}
	}
	// A policy that cannot be told says so, and the next one decides.
	set := parse(t, "  - {id: broken, priority: 9, when: 'suspicion.rules[7] == \"x\"', then: {tier: restrict}}\n  - {id: next, then: {tier: restrict}}\n")
	out := set.Decide(in)
	if out.Policy != "next" || !strings.Contains(strings.Join(out.Reasons, "\n"), "policy broken was passed over") {
		t.Errorf("got %+v", out)
	}
}

// An expression cannot take longer than its budget.
func TestWhenCost(t *testing.T) {
	in := input(t, ident())
	var rules []string
	for i := range 64 {
		rules = append(rules, fmt.Sprint(i))
	}
	in.Views.Enforce.Rules = rules
	set := parse(t, "  - {id: p, when: 'suspicion.rules.all(a, suspicion.rules.all(b, suspicion.rules.all(c, a != \"x\")))', then: {tier: restrict}}\n")
	out := set.Decide(in)
	if out.Policy != "" || !strings.Contains(strings.Join(out.Reasons, "\n"), "cost limit") {
		t.Errorf("got %+v", out)
	}
}

func TestFirstMatchDecides(t *testing.T) {
	set := parse(t, `
  - {id: c, priority: 5, mode: enforce, match: {owner: other}, then: {tier: revoke}}
  - {id: b, priority: 5, mode: enforce, then: {tier: restrict}}
  - {id: a, priority: 1, mode: enforce, then: {tier: revoke}}
  - {id: d, priority: 5, mode: enforce, then: {tier: revoke}}
`)
	in := input(t, ident(), accuse("r", 0.5))
	if out := set.Decide(in); out.Policy != "b" || out.Tier != staunch.TierRestrict {
		t.Errorf("decided by %s at %s", out.Policy, out.Tier)
	}
	var got []string
	for _, tr := range set.Explain(in) {
		got = append(got, fmt.Sprintf("%s matched=%v chosen=%v", tr.Policy, tr.Matched, tr.Chosen))
	}
	want := "b matched=true chosen=true|c matched=false chosen=false|d matched=true chosen=false|a matched=true chosen=false"
	if strings.Join(got, "|") != want {
		t.Errorf("explained as %v", got)
	}
	if p := set.Policies(); len(p) != 4 || p[0].ID != "b" || p[0].Place != "p.yaml:5" {
		t.Errorf("policies %+v", p)
	}
}

// What the README shows compiles, and its test passes.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("../../policies/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, part := range strings.Split(string(b), "```") {
		if i%2 == 1 {
			blocks = append(blocks, strings.TrimPrefix(part, "yaml\n"))
		}
	}
	if len(blocks) != 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	rep, err := decide.RunTests(fstest.MapFS{"a.yaml": {Data: []byte(blocks[0])}, "a_test.yaml": {Data: []byte(blocks[1])}})
	if err != nil || !rep.OK() {
		t.Errorf("%v\n%s", err, rep)
	}
}
