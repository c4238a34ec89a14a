package sigma

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/staunch-project/staunch/test/generated"
)

// generatedRules are n of the rules that package generated makes.
func generatedRules(t testing.TB, n int) []*Rule {
	t.Helper()
	var rules []*Rule
	for _, text := range generated.Rules(n) {
		r, errs := Parse("generated.yml", text, Options{})
		if len(errs) > 0 {
			t.Fatalf("%v\n%s", errs[0], text)
		}
		rules = append(rules, r...)
	}
	return rules
}

// corpusEvents reads the events of a file of the corpus: those of each line's
// "event" or "events".
func corpusEvents(t testing.TB, path ...string) [][]byte {
	t.Helper()
	f, err := os.Open(filepath.Join(append([]string{corpus(t)}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var recs [][]byte
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var row struct {
			Event  json.RawMessage   `json:"event"`
			Events []json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		if row.Event != nil {
			row.Events = append(row.Events, row.Event)
		}
		for _, e := range row.Events {
			var b bytes.Buffer
			if err := json.Compact(&b, e); err != nil {
				t.Fatal(err)
			}
			recs = append(recs, b.Bytes())
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return recs
}

// corpusRules loads SigmaHQ's rules, those for one product where it is given.
func corpusRules(t testing.TB, product string) []*Rule {
	t.Helper()
	rules, _ := LoadPath(filepath.Join(corpus(t), "sigma"), Options{})
	var out []*Rule
	for _, r := range rules {
		if product == "" || r.Logsource.Product == product {
			out = append(out, r)
		}
	}
	return out
}
