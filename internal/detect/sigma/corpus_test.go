package sigma

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// corpus returns the folder of third-party test data.
func corpus(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("STAUNCH_CORPUS")
	if dir == "" {
		t.Skip("STAUNCH_CORPUS is not set: the third-party rules and events are not part of this repository")
	}
	return dir
}

// Every rule of SigmaHQ's cloud corpus loads, or is refused for a reason that
// is on this list.
func TestCorpusRulesLoad(t *testing.T) {
	dir := filepath.Join(corpus(t), "sigma")
	rules, errs := LoadPath(dir, Options{})
	refused := map[string][]string{}
	for _, e := range errs {
		if e.Line == 0 || e.Path == "" {
			t.Errorf("an error without its place: %v", e)
		}
		refused[e.Path] = append(refused[e.Path], e.Reason)
	}
	counts := map[string]int{}
	for path, reasons := range refused {
		kind := ""
		for _, r := range reasons {
			switch {
			case strings.Contains(r, "status is unsupported"), strings.Contains(r, "timeframe in detection"),
				strings.Contains(r, "aggregation after |"), strings.Contains(r, "near operator"):
				kind = "old syntax"
			case strings.Contains(r, "the placeholder %"):
				kind = "placeholder"
			default:
				t.Errorf("%s: refused for another reason: %s", path, r)
			}
		}
		counts[kind]++
	}
	if counts["old syntax"] != 9 || counts["placeholder"] != 9 || len(rules)+len(refused) != 317 {
		t.Errorf("loaded %d, refused %v", len(rules), counts)
	}
	if _, err := Compile(rules); err != nil {
		t.Fatal(err)
	}

	// With values for them, the rules with placeholders load too.
	names := map[string][]string{}
	for _, e := range errs {
		if _, rest, ok := strings.Cut(e.Reason, "the placeholder %"); ok {
			name, _, _ := strings.Cut(rest, "%")
			names[name] = []string{"10.0.0.0/8"}
		}
	}
	rules, errs = LoadPath(filepath.Join(dir, "rules-placeholder"), Options{Placeholders: names})
	if len(errs) > 0 || len(rules) != 9 {
		t.Errorf("%d rules with placeholders, %v", len(rules), errs)
	}
}

// Each event of SigmaHQ's regression data matches its rule.
func TestCorpusRegression(t *testing.T) {
	f, err := os.Open(filepath.Join(corpus(t), "sigma_regression", "regression.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	doc := jsondoc.New(jsondoc.Limits{})
	total, hits := 0, 0
	for in.Scan() {
		var c struct {
			RulePath  string            `json:"rule_path"`
			RuleYAML  string            `json:"rule_yaml"`
			Logsource map[string]string `json:"logsource"`
			Events    []json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		total++
		rules, errs := Parse(c.RulePath, []byte(c.RuleYAML), Options{})
		if len(errs) > 0 {
			t.Errorf("%s: %v", c.RulePath, errs[0])
			continue
		}
		set, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		ls := Logsource{Product: c.Logsource["product"], Category: c.Logsource["category"], Service: c.Logsource["service"]}
		hit := false
		for _, e := range c.Events {
			if err := doc.Parse(e); err != nil {
				t.Fatal(err)
			}
			if len(set.Match(doc, ls, nil, nil)) == 1 {
				hit = true
			} else {
				out, _ := json.MarshalIndent(set.Explain(doc, 0), "", " ")
				t.Logf("%s", out)
			}
		}
		if hit {
			hits++
		} else {
			t.Errorf("%s: none of %d events matches", c.RulePath, len(c.Events))
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	if total != 102 || hits != total {
		t.Errorf("%d of %d", hits, total)
	}
}

// The specification's samples of rules and filters load; its correlations are
// refused as such.
func TestCorpusSamples(t *testing.T) {
	dir := filepath.Join(corpus(t), "sigma-specification", "tests", "schema")
	for _, name := range []string{"rule_1.yml", "rule_ecs.yml"} {
		rules, errs := LoadPath(filepath.Join(dir, "rules", name), Options{})
		if len(errs) > 0 || len(rules) != 1 {
			t.Errorf("%s: %d rules, %v", name, len(rules), errs)
		}
	}
	for _, name := range []string{"filter_1.yml", "filter_ecs.yml"} {
		l := LoadPaths(Options{}, filepath.Join(dir, "filter", name))
		if len(l.Errors) > 0 || len(l.Filters) != 1 || len(l.Filters[0].Rules) != 2 || l.Filters[0].stays {
			t.Errorf("%s: %+v, %v", name, l.Filters, l.Errors)
		}
	}
	for kind, want := range map[string]string{"correlation": "correlation rules are not supported here"} {
		rules, errs := LoadPath(filepath.Join(dir, kind), Options{})
		if len(rules) > 0 || len(errs) == 0 {
			t.Errorf("%s: %d rules, %d errors", kind, len(rules), len(errs))
		}
		for _, e := range errs {
			if e.Reason != want || e.Line == 0 {
				t.Errorf("%v", e)
			}
		}
	}
}

// The engine and the slow interpreter say the same of every rule and event of the
// regression data that are of one log source, so that a rule which matches
// another rule's event does so by its own words.
func TestCorpusAgainstReference(t *testing.T) {
	f, err := os.Open(filepath.Join(corpus(t), "sigma_regression", "regression.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	type one struct {
		RuleYAML  string            `json:"rule_yaml"`
		Logsource Logsource         `json:"logsource"`
		Events    []json.RawMessage `json:"events"`
		rule      *Rule
	}
	var all []one
	for in.Scan() {
		var c one
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		c.rule = parseOne(t, c.RuleYAML, Options{})
		all = append(all, c)
	}
	doc := jsondoc.New(jsondoc.Limits{})
	pairs, hits := 0, 0
	for _, r := range all {
		set := compile(t, r.rule)
		for _, c := range all {
			if !c.Logsource.Covers(r.rule.Logsource) {
				continue
			}
			for _, e := range c.Events {
				if err := doc.Parse(e); err != nil {
					t.Fatal(err)
				}
				got := len(set.Match(doc, c.Logsource, nil, nil)) == 1
				want, err := refMatch(r.RuleYAML, string(e), nil)
				if err != nil {
					t.Fatal(err)
				}
				if pairs++; got {
					hits++
				}
				if got != want {
					t.Errorf("%s on %s: the engine says %v, the reference %v", r.rule.Title, e, got, want)
				}
			}
		}
	}
	t.Logf("%d pairs, %d match", pairs, hits)
	if hits < len(all) {
		t.Errorf("only %d of %d pairs match", hits, pairs)
	}
}
