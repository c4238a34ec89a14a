package cloudtrail

import (
	"encoding/json"
	"testing"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/formattest"
)

func newFormat(t testing.TB) format.Format {
	t.Helper()
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConformance(t *testing.T) {
	formattest.Run(t, newFormat(t), "testdata")
}

func TestAgreesWithGroundTruth(t *testing.T) {
	c := formattest.NewChecker(t, newFormat(t))
	c.ScoreTruth(t, "panther/AWS.CloudTrail").Hold(t, 0.95)
}

// TestCorpusIsValid maps every CloudTrail event of the corpora: each must give
// a valid event, or say what in it cannot be read.
func TestCorpusIsValid(t *testing.T) {
	c := formattest.NewChecker(t, newFormat(t))
	n, refused, base := 0, 0, 0
	one := func(raw json.RawMessage) {
		n++
		w := c.Check(t, raw)
		if w.Error != "" {
			refused++
			t.Logf("refused: %s", w.Error)
		}
		var ev struct {
			Class int `json:"class_uid"`
		}
		if json.Unmarshal(w.OCSF, &ev) == nil && ev.Class == 0 {
			base++
		}
	}
	formattest.Lines(t, "panther/rule_tests/AWS.CloudTrail.ndjson", func(v struct{ Event json.RawMessage }) { one(v.Event) })
	formattest.Lines(t, "stratus/detonations.ndjson", func(v struct{ Events []json.RawMessage }) {
		for _, e := range v.Events {
			one(e)
		}
	})
	formattest.Lines(t, "streams/otrf_s3_honeybucket.ndjson", func(v struct{ Event json.RawMessage }) { one(v.Event) })
	t.Logf("%d events, %d refused, %d without a class of their own", n, refused, base)
	// One record of the corpora has the word "redacted" for its time.
	if n == 0 || refused > 1 {
		t.Errorf("%d of %d events were refused", refused, n)
	}
}

// TestCorpusMutations breaks the corpus's events in random ways.
func TestCorpusMutations(t *testing.T) {
	c := formattest.NewChecker(t, newFormat(t))
	var records [][]byte
	formattest.Lines(t, "panther/rule_tests/AWS.CloudTrail.ndjson", func(v struct{ Event json.RawMessage }) { records = append(records, v.Event) })
	c.Mutate(t, records, 10)
}
