package sigma

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

const (
	ruleA = "title: A\nid: id-a\nname: name_a\nlogsource: {product: p, service: s}\ndetection: {sel: {a: 1}, condition: sel}\n"
	ruleB = "title: B\nid: id-b\nlogsource: {product: p, service: t}\ndetection: {sel: {a: 1}, condition: [sel]}\n"
)

func filterText(logsource, body string) string {
	return "title: F\nid: id-f\nlogsource: " + logsource + "\nfilter:\n" + indent(body)
}

func loadText(t testing.TB, opts Options, docs ...string) *Loaded {
	t.Helper()
	fsys := fstest.MapFS{}
	for i, d := range docs {
		fsys[fmt.Sprintf("%d.yml", i)] = &fstest.MapFile{Data: []byte(d)}
	}
	l := new(Loaded)
	l.read(fsys, "", opts, nil)
	l.finish()
	return l
}

// matched returns the ids of the rules that a record matches, each also as
// Explain says.
func matched(t testing.TB, rules []*Rule, record string) string {
	t.Helper()
	s := compile(t, rules...)
	d := parseDoc(t, record)
	var out []string
	got := map[int]bool{}
	for _, n := range s.Match(d, everything, nil, nil) {
		got[n] = true
		out = append(out, rules[n].ID)
	}
	for i, r := range rules {
		if !r.Mapped() && s.Explain(d, i).Matched != got[i] {
			t.Errorf("%s: Match and Explain disagree on %s", record, r.ID)
		}
	}
	return strings.Join(out, ",")
}

func TestFilters(t *testing.T) {
	for _, tc := range []struct {
		name, filter string
		// out is filtered from which rules; both rules match {"a":1}.
		record, want string
		note         string
	}{
		{"by id", filterText("{product: p}", "rules: [id-a]\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "id-b", ""},
		{"others stay", filterText("{product: p}", "rules: [id-a]\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"bob"}`, "id-a,id-b", ""},
		{"by id in capitals", filterText("{product: p}", "rules: [ID-A]\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "id-b", ""},
		{"by name", filterText("{product: p}", "rules: name_a\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "id-b", ""},
		{"any", filterText("{product: p}", "rules: any\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "", ""},
		{"any of a log source", filterText("{product: P, service: t}", "rules: any\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "id-a", ""},
		{"another log source", filterText("{product: q}", "rules: [id-a]\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "id-a,id-b", `no rule "id-a"`},
		{"a part that the rule lacks", filterText("{product: p, category: c}", "rules: [id-a]\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "id-a,id-b", `no rule "id-a"`},
		{"an unknown rule", filterText("{product: p}", "rules: [id-a, id-x]\nsel: {u: root}\ncondition: sel"), `{"a":1,"u":"root"}`, "id-b", `no rule "id-x"`},
		// The other way to write the same.
		{"not", filterText("{product: p}", "rules: [id-a]\nsel: {u: root}\ncondition: not sel"), `{"a":1,"u":"root"}`, "id-b", ""},
		{"not, others stay", filterText("{product: p}", "rules: [id-a]\nsel: {u: root}\ncondition: not sel"), `{"a":1,"u":"bob"}`, "id-a,id-b", ""},
		{"two nots", filterText("{product: p}", "rules: [id-a]\nx: {u: root}\ny: {u: sys}\ncondition: not x and not y"), `{"a":1,"u":"sys"}`, "id-b", ""},
		{"not 1 of", filterText("{product: p}", "rules: [id-a]\nx_1: {u: root}\nx_2: {u: sys}\ncondition: not 1 of x_*"), `{"a":1,"u":"bob"}`, "id-a,id-b", ""},
		{"not not", filterText("{product: p}", "rules: [id-a]\nx: {u: root}\ncondition: not not x"), `{"a":1,"u":"root"}`, "id-b", ""},
		{"mixed", filterText("{product: p}", "rules: [id-a]\nx: {u: root}\ny: {ip: '10.0.0.1'}\ncondition: x and not y"), `{"a":1,"u":"root"}`, "id-b", "with and without not"},
		{"mixed, others stay", filterText("{product: p}", "rules: [id-a]\nx: {u: root}\ny: {ip: '10.0.0.1'}\ncondition: x and not y"), `{"a":1,"u":"root","ip":"10.0.0.1"}`, "id-a,id-b", "with and without not"},
		// A name that the rule has as well is the filter's own.
		{"the same name", filterText("{product: p}", "rules: [id-a]\nsel: {a: 2}\ncondition: sel"), `{"a":[1,2]}`, "id-b", ""},
	} {
		l := loadText(t, Options{}, ruleA, ruleB, tc.filter)
		if len(l.Errors) > 0 || len(l.Filters) != 1 {
			t.Errorf("%s: %v", tc.name, l.Errors)
			continue
		}
		if got := matched(t, l.Rules, tc.record); got != tc.want {
			t.Errorf("%s: %s matches %q, want %q", tc.name, tc.record, got, tc.want)
		}
		if got := fmt.Sprint(l.Notes); (tc.note == "") != (len(l.Notes) == 0) || !strings.Contains(got, tc.note) {
			t.Errorf("%s: the notes are %s", tc.name, got)
		}
	}

	// Several filters add up, and the rule says which it has; the hash tells.
	one := filterText("{product: p}", "rules: [id-a]\nsel: {u: root}\ncondition: sel")
	two := strings.Replace(filterText("{product: p}", "rules: [id-a]\nsel: {u: sys}\ncondition: sel"), "id-f", "id-g", 1)
	l := loadText(t, Options{}, ruleA, one, two)
	if got := fmt.Sprint(l.Rules[0].Filters); got != "[id-f id-g]" {
		t.Errorf("the rule has the filters %s", got)
	}
	for rec, want := range map[string]string{`{"a":1,"u":"root"}`: "", `{"a":1,"u":"sys"}`: "", `{"a":1,"u":"x"}`: "id-a"} {
		if got := matched(t, l.Rules, rec); got != want {
			t.Errorf("%s matches %q, want %q", rec, got, want)
		}
	}
	plain := loadText(t, Options{}, ruleA)
	if compile(t, l.Rules...).Hash() == compile(t, plain.Rules...).Hash() {
		t.Error("filters do not change the hash")
	}
	if len(plain.Rules[0].selections) != 1 || len(l.Rules[0].selections) != 3 {
		t.Error("filters share selections with the rule that they were not applied to")
	}

	// In one file, in whichever order.
	rules, errs := Parse("t.yml", []byte(one+"---\n"+ruleA), Options{})
	if len(errs) > 0 || len(rules) != 1 || matched(t, rules, `{"a":1,"u":"root"}`) != "" {
		t.Errorf("in one file: %v", errs)
	}
}

func TestFilterRefusals(t *testing.T) {
	good := "rules: [id-a]\nsel: {u: root}\ncondition: sel"
	for _, tc := range []struct {
		text, reason string
		line         int
	}{
		{"title: F\nfilter: {rules: any, s: {a: 1}, condition: s}\n", "the filter has no logsource", 1},
		{"logsource: {product: p}\nfilter: {rules: any, s: {a: 1}, condition: s}\n", "the filter has no title", 1},
		{"title: F\nlogsource: {product: p}\nfilter: x\n", "filter must be a mapping", 3},
		{filterText("{product: p}", "sel: {u: root}\ncondition: sel"), "filter names no rules", 4},
		{filterText("{product: p}", "rules: []\nsel: {u: root}\ncondition: sel"), "filter names no rules", 5},
		{filterText("{product: p}", "rules: {a: b}\nsel: {u: root}\ncondition: sel"), "rules must be a list", 5},
		{filterText("{product: p}", "rules: [id-a]\nsel: {u: root}"), "filter has no condition", 4},
		{filterText("{product: p}", "rules: [id-a]\ncondition: sel"), `names "sel"`, 6},
		{filterText("{product: p}", "rules: [id-a]\nsel: {u|nosuch: root}\ncondition: sel"), "unknown modifier", 6},
		{filterText("{product: p}", good) + "detection: {s: {a: 1}, condition: s}\n", "a filter has no detection", 8},
		{"correlation: {type: event_count}\n" + filterText("{product: p}", good), "a filter has no correlation", 1},
		{filterText("{product: p}", good) + "titel: x\n", "did you mean title?", 8},
		{strings.Replace(filterText("{product: p}", good), "title: F", "title: F\ntaxonomy: ocsf", 1), "different taxonomies", 1},
	} {
		l := loadText(t, Options{Correlation: func(*Correlation) []*RuleError { return nil }}, ruleA, tc.text)
		ok := false
		for _, e := range l.Errors {
			ok = ok || strings.Contains(e.Reason, tc.reason) && e.Line == tc.line && e.Path == "1.yml"
		}
		if !ok || l.Refused != 1 || len(l.Rules) != 1 {
			t.Errorf("%s\n got %v, refused %d", tc.text, l.Errors, l.Refused)
		}
	}
	twice := loadText(t, Options{}, filterText("{product: p}", good), filterText("{product: p}", good))
	if len(twice.Filters) != 1 || twice.Refused != 1 || !strings.Contains(fmt.Sprint(twice.Errors), "its id is taken by the filter at 0.yml:1") {
		t.Errorf("two filters with one id: %v", twice.Errors)
	}
}

func TestNamesAreUnique(t *testing.T) {
	l := loadText(t, Options{}, ruleA, strings.ReplaceAll(ruleA, "id-a", "id-c"), ruleB)
	if len(l.Rules) != 2 || l.Refused != 1 || !strings.Contains(fmt.Sprint(l.Errors), `1.yml:1: rule "id-c": its name "name_a" is taken by the rule at 0.yml:1`) {
		t.Errorf("got %v", l.Errors)
	}
}

// Keys of a rule's own are told, and change nothing.
// TestUnusedSelections: what no condition uses is noted, for it may be a slip.
func TestUnusedSelections(t *testing.T) {
	l := loadText(t, Options{}, ruleText("s: {a: 1}\nt: {a: 2}\nu_1: {a: 3}\n_v: {a: 4}\ncondition:\n  - s\n  - not 1 of u_*"))
	if got := fmt.Sprint(l.Notes); len(l.Notes) != 1 || !strings.Contains(got, "0.yml:5:") || !strings.Contains(got, "no condition uses the selection t") {
		t.Errorf("the notes are %s", got)
	}
}

func TestCustomKeys(t *testing.T) {
	text := ruleA + "severity: high\nx-mine: 1\nplaybook: {a: [b]}\n"
	l := loadText(t, Options{}, strings.Replace(text, "{product: p, service: s}", "{product: p, service: s, collector: beat}", 1))
	if len(l.Errors) > 0 || len(l.Rules) != 1 {
		t.Fatal(l.Errors)
	}
	if got := fmt.Sprint(l.Notes); len(l.Notes) != 3 || !strings.Contains(got, `0.yml:4: rule "id-a": the key "collector" in logsource`) || !strings.Contains(got, `0.yml:6: rule "id-a": the key "severity" has no meaning here`) {
		t.Errorf("the notes are %s", got)
	}
	if compile(t, l.Rules...).Hash() != compile(t, loadText(t, Options{}, ruleA).Rules...).Hash() {
		t.Error("a key without meaning changes the hash")
	}
}

func pipelineOf(t testing.TB, text string) *Pipeline {
	t.Helper()
	p, err := ParsePipeline("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPipelines(t *testing.T) {
	ecs := pipelineOf(t, "v: 1\nfrom: ecs\nplaceholders: {admins: [root, 'adm*'], users: [eve]}\nmaps:\n"+
		"  - logsource: {product: p, service: s}\n    prefix: raw.\n    becomes: {product: p, service: real}\n    fields: {user.name: [actor, alt.actor], event.action: op}\n"+
		"  - fields: {user.name: other}\n")
	last := pipelineOf(t, "v: 1\nmaps: [{fields: {op: operation}}]\n")
	opts := Options{Pipelines: []*Pipeline{ecs, last}, Placeholders: map[string][]string{"users": {"bob"}}}
	rule := func(logsource, item string) string {
		return "title: T\nid: t\ntaxonomy: ecs\nlogsource: " + logsource + "\naccuse: {account: user.name}\ndetection:\n    s:\n        " + item + "\n    condition: s\n"
	}
	for _, tc := range []struct {
		item    string
		yes, no []string
	}{
		{"user.name: bob", []string{`{"actor":"bob"}`, `{"alt":{"actor":"Bob"}}`}, []string{`{"user":{"name":"bob"}}`, `{"other":"bob"}`, `{}`}},
		{"user.name: [bob, eve]", []string{`{"actor":"eve"}`, `{"alt.actor":"bob"}`}, []string{`{"actor":"x"}`}},
		{"user.name|neq: bob", []string{`{"actor":"x","alt":{"actor":"y"}}`, `{}`}, []string{`{"actor":"bob"}`, `{"actor":"x","alt":{"actor":"bob"}}`}},
		{"user.name: null", []string{`{}`, `{"actor":null}`}, []string{`{"actor":"x"}`, `{"alt":{"actor":"x"}}`}},
		{"user.name|exists: false", []string{`{}`}, []string{`{"actor":null}`, `{"alt":{"actor":"x"}}`}},
		{"user.name|exists: true", []string{`{"actor":null}`, `{"alt":{"actor":"x"}}`}, []string{`{}`}},
		{"user.name|contains|all: [a, b]", []string{`{"actor":"ab"}`, `{"actor":"a","alt":{"actor":"b"}}`}, []string{`{"actor":"a"}`}},
		{"event.action: x", []string{`{"operation":"x"}`}, []string{`{"op":"x"}`, `{"event":{"action":"x"}}`}},
		{"source.ip|cidr: 10.0.0.0/8", []string{`{"raw":{"source":{"ip":"10.1.1.1"}}}`}, []string{`{"source":{"ip":"10.1.1.1"}}`}},
		{"event.action|fieldref: user.name", []string{`{"operation":"x","actor":"x"}`, `{"operation":"x","actor":"y","alt":{"actor":"x"}}`}, []string{`{"operation":"x","user":{"name":"x"}}`}},
		{"user.name|expand: '%admins%'", []string{`{"actor":"adm7"}`, `{"actor":"root"}`}, []string{`{"actor":"bob"}`}},
		{"user.name|expand: '%users%'", []string{`{"actor":"bob"}`}, []string{`{"actor":"eve"}`}},
		{"'|contains': word", []string{`{"x":"a word"}`}, []string{`{"x":"w"}`}},
	} {
		r := parseOne(t, rule("{product: p, service: s}", tc.item), opts)
		if r.Logsource != (Logsource{Product: "p", Service: "real"}) || r.Taxonomy != "sigma" || r.Accuse[0].Field != "actor" {
			t.Fatalf("the rule became %+v", r)
		}
		s := compile(t, r)
		for _, rec := range tc.yes {
			if !matches(t, s, rec) {
				t.Errorf("%s does not match %s", tc.item, rec)
			}
		}
		for _, rec := range tc.no {
			if matches(t, s, rec) {
				t.Errorf("%s matches %s", tc.item, rec)
			}
		}
	}
	// Another log source takes another part; another taxonomy none.
	if s := compile(t, parseOne(t, rule("{product: q}", "user.name: bob"), opts)); !matches(t, s, `{"other":"bob"}`) || matches(t, s, `{"actor":"bob"}`) {
		t.Error("the part for any log source was not taken")
	}
	if s := compile(t, parseOne(t, strings.Replace(rule("{product: q}", "user.name: bob"), "taxonomy: ecs\n", "", 1), opts)); !matches(t, s, `{"user":{"name":"bob"}}`) {
		t.Error("a rule of another taxonomy was translated")
	}
	l := loadText(t, Options{}, rule("{product: q}", "user.name: bob"))
	if len(l.Rules) != 1 || !strings.Contains(fmt.Sprint(l.Notes), `no pipeline translates the taxonomy "ecs"`) {
		t.Errorf("got %v %v", l.Errors, l.Notes)
	}
	// Filters go through pipelines as rules do.
	f := strings.Replace(filterText("{product: p, service: s}", "rules: any\nsel: {user.name: bob}\ncondition: sel"), "title: F", "title: F\ntaxonomy: ecs", 1)
	l = loadText(t, opts, rule("{product: p, service: s}", "event.action: x"), f)
	if len(l.Errors) > 0 || matched(t, l.Rules, `{"operation":"x","actor":"bob"}`) != "" || matched(t, l.Rules, `{"operation":"x"}`) != "t" {
		t.Errorf("the filter was not translated: %v", l.Errors)
	}
}

func TestPipelineRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"":                 "p.yaml: empty",
		"v: 1\n":           "neither maps nor placeholders",
		"maps: []\n":       "p.yaml: v: is 0",
		"v: 1\nmpas: []\n": `p.yaml:2: unknown key "mpas"`,
		"v: 1\nmaps:\n  - {logsource: {product: p}}\n":    "maps[0]: changes nothing",
		"v: 1\nmaps:\n  - fields: {a: []}\n":              "p.yaml:3: one to 16 names are needed",
		"v: 1\nmaps:\n  - fields: {a: ['']}\n":            "p.yaml:3: an empty name",
		"v: 1\nmaps:\n  - logsource: {prodct: p}\n":       `p.yaml:3: unknown key "prodct"`,
		"v: 1\nmaps:\n  - fields:\n      a:\n":            "maps[0].fields.a: has no name",
		"v: 1\nplaceholders: {a: b}\n":                    "a list is needed",
		"v: 1\n#" + strings.Repeat("x", maxPipelineBytes): "larger than",
	} {
		if _, err := ParsePipeline("p.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
	if _, err := LoadPipelines("no/such/file"); err == nil {
		t.Error("a file that is not there was read")
	}
	wide := pipelineOf(t, "v: 1\nmaps: [{fields: {a: [a, b, c, d, e]}}]\n")
	if _, errs := Parse("t.yml", []byte(ruleA), Options{Pipelines: []*Pipeline{wide, wide, wide, wide}}); len(errs) == 0 || !strings.Contains(errs[0].Reason, "more than 16 names") {
		t.Errorf("got %v", errs)
	}
}

// Rules in OCSF's names are evaluated on the mapped event, beside the others.
func TestMappedRules(t *testing.T) {
	rule := func(id, taxonomy, logsource, item string) string {
		return "title: T\nid: " + id + "\ntaxonomy: " + taxonomy + "\nlogsource: " + logsource + "\ndetection: {s: {" + item + "}, condition: s}\n"
	}
	l := loadText(t, Options{},
		rule("raw", "sigma", "{product: p}", "op: x"),
		rule("ocsf", "OCSF", "{product: p}", "'api.operation': x"),
		rule("class", "ocsf", "{category: api_activity}", "'actor.user.name|startswith': b"),
		rule("other", "ocsf", "{product: q}", "'api.operation': x"),
		rule("raw2", "sigma", "{service: s}", "'api.operation': null"))
	s := compile(t, l.Rules...)
	p := Logsource{Product: "p", Service: "s"}
	event := `{"class_uid":6003,"class_name":"API Activity","metadata":{"version":"1.6.0"},"api":{"operation":"X"},"actor":{"user":{"name":"bob"}}}`
	raw := parseDoc(t, `{"op":"x"}`)
	var sc Scratch
	var ms MappedScratch
	for range 2 {
		got, err := s.MatchMapped([]byte(event), p, &ms, s.Match(raw, p, &sc, nil))
		if err != nil || fmt.Sprint(got) != "[0 1 2 4]" {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if got, err := s.MatchMapped([]byte(event), Logsource{Product: "r"}, &ms, nil); err != nil || fmt.Sprint(got) != "[2]" {
		t.Errorf("another product: %v, %v", got, err)
	}
	if got, err := s.MatchMapped([]byte(event), Logsource{Product: "p", Category: "own"}, &ms, nil); err != nil || fmt.Sprint(got) != "[1]" {
		t.Errorf("a category of its own: %v, %v", got, err)
	}
	if got, err := s.MatchMapped([]byte(event), everything, &ms, nil); err != nil || fmt.Sprint(got) != "[1 2 3]" {
		t.Errorf("everything: %v, %v", got, err)
	}
	if _, err := s.MatchMapped([]byte(`{"a":`), p, &ms, nil); err == nil {
		t.Error("a broken event was read")
	}
	// Explain takes the event for them.
	d := jsondoc.New(jsondoc.Limits{})
	if err := d.Parse([]byte(event)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, true, true, false} {
		if x := s.Explain(d, i); x.Matched != want || x.Rule != l.Rules[i].ID {
			t.Errorf("%s: explained as %+v", l.Rules[i].ID, x)
		}
	}
	if !IsMapped(d) || IsMapped(raw) {
		t.Error("what is an OCSF event is not known")
	}
	// Records are mapped only where a rule could want it.
	few := compile(t, l.Rules[1], l.Rules[3])
	for ls, want := range map[Logsource]bool{p: true, {Product: "q"}: true, {Product: "r"}: false, everything: true} {
		if few.NeedsMapped(ls) != want {
			t.Errorf("%+v: needs the event: %v", ls, !want)
		}
	}
	if compile(t, l.Rules[0], l.Rules[4]).NeedsMapped(p) || !compile(t, l.Rules[2]).NeedsMapped(Logsource{Product: "r"}) {
		t.Error("whether the event is needed is wrong")
	}
	as := parseOne(t, rule("x", "sigma", "{product: p}", "a: 1"), Options{})
	on := parseOne(t, rule("x", "ocsf", "{product: p}", "a: 1"), Options{})
	if compile(t, as).Hash() == compile(t, on).Hash() {
		t.Error("the taxonomy does not change the hash")
	}
	// A pipeline may translate OCSF's names to a source's own.
	back := pipelineOf(t, "v: 1\nfrom: ocsf\nmaps: [{logsource: {product: p}, fields: {api.operation: op}}]\n")
	r := parseOne(t, rule("x", "ocsf", "{product: p}", "'api.operation': x"), Options{Pipelines: []*Pipeline{back}})
	if r.Mapped() || !matches(t, compile(t, r), `{"op":"x"}`) {
		t.Error("the rule was not translated back")
	}
}
