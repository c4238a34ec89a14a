package json

import (
	stdjson "encoding/json"
	"path/filepath"
	"testing"

	"github.com/staunch-project/staunch/internal/format/formattest"
)

func TestConformance(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	formattest.Run(t, f, "testdata")
}

// TestCorpusIsValid maps every event of every log type of the corpora.
func TestCorpusIsValid(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	c := formattest.NewChecker(t, f)
	files, err := filepath.Glob(filepath.Join(formattest.Corpus(t), "panther/rule_tests/*.ndjson"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no rule tests in the corpus: %v", err)
	}
	n := 0
	for _, name := range files {
		formattest.Lines(t, filepath.Join("panther/rule_tests", filepath.Base(name)), func(v struct{ Event stdjson.RawMessage }) {
			n++
			if w := c.Check(t, v.Event); w.Error != "" {
				t.Errorf("%s: refused: %s", filepath.Base(name), w.Error)
			}
		})
	}
	t.Logf("%d events", n)
}
