package okta

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
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
	c.ScoreTruth(t, "panther/Okta.SystemLog").Hold(t, 0.95)
}

// TestCorpusIsValid maps every Okta event of the corpora: each must give a
// valid event.
func TestCorpusIsValid(t *testing.T) {
	c := formattest.NewChecker(t, newFormat(t))
	n := 0
	formattest.Lines(t, "panther/rule_tests/Okta.SystemLog.ndjson", func(v struct{ Event json.RawMessage }) {
		n++
		if w := c.Check(t, v.Event); w.Error != "" {
			t.Errorf("refused: %s", w.Error)
		}
	})
	if n == 0 {
		t.Error("no events")
	}
}

func TestChallenge(t *testing.T) {
	v := newFormat(t).(format.PushVerifier)
	for _, tc := range []struct {
		name, method, value string
		handled             bool
		code                int
		body                string
	}{
		{"verification", http.MethodGet, "my verification challenge", true, 200, `{"verification":"my verification challenge"}`},
		{"quotes are escaped", http.MethodGet, `a"b`, true, 200, `{"verification":"a\"b"}`},
		{"no header", http.MethodGet, "", false, 200, ""},
		{"a delivery", http.MethodPost, "x", false, 200, ""},
		{"too long", http.MethodGet, strings.Repeat("x", 2000), true, 400, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, "/v1/ingest/okta", nil)
			if tc.value != "" {
				r.Header.Set(ChallengeHeader, tc.value)
			}
			w := httptest.NewRecorder()
			if got := v.Challenge(w, r); got != tc.handled {
				t.Fatalf("handled %v, want %v", got, tc.handled)
			}
			if w.Code != tc.code || tc.body != "" && w.Body.String() != tc.body {
				t.Errorf("answer %d %q, want %d %q", w.Code, w.Body, tc.code, tc.body)
			}
		})
	}
}

// TestCorpusMutations breaks the corpus's events in random ways.
func TestCorpusMutations(t *testing.T) {
	c := formattest.NewChecker(t, newFormat(t))
	var records [][]byte
	formattest.Lines(t, "panther/rule_tests/Okta.SystemLog.ndjson", func(v struct{ Event json.RawMessage }) { records = append(records, v.Event) })
	c.Mutate(t, records, 10)
}
