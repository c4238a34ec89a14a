package formattest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

func sortStrings(s []string) { sort.Strings(s) }

func parse(doc *jsondoc.Doc, rec jsondoc.Record) error {
	if rec.Err != nil {
		return rec.Err
	}
	return doc.Parse(rec.Raw)
}

// Corpus returns the folder of the third-party corpora, or skips the test.
func Corpus(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("STAUNCH_CORPUS")
	if dir == "" {
		t.Skip("STAUNCH_CORPUS is not set: it names the folder of third-party corpora")
	}
	return dir
}

// Lines calls fn for each line of an NDJSON file of the corpus, decoded into a
// T.
func Lines[T any](t testing.TB, name string, fn func(v T)) {
	t.Helper()
	f, err := os.Open(filepath.Join(Corpus(t), name))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 16<<20)
	n := 0
	for sc.Scan() {
		n++
		if len(strings.TrimSpace(sc.Text())) == 0 {
			continue
		}
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatalf("%s: line %d: %v", name, n, err)
		}
		fn(v)
	}
	if err := sc.Err(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// Truth is one case of the normalisation ground truth.
type Truth struct {
	Source   string             `json:"source"`
	ID       string             `json:"id"`
	Raw      string             `json:"raw"`
	Expected map[string]*string `json:"expected_ecs"`
	Accept   struct {
		Actor, Action, Target []string
	} `json:"accept"`
}

// Score counts agreement with the ground truth by field.
type Score struct {
	Right, All map[string]int
	// Wrong has the cases that disagree, for the test's log.
	Wrong []string
}

// ScoreTruth maps the ground truth's records of the source and compares actor,
// source address, action, outcome, target and time with the OCSF event, where a
// reader of OCSF would look for them.
func (c *Checker) ScoreTruth(t *testing.T, source string) Score {
	t.Helper()
	s := Score{Right: map[string]int{}, All: map[string]int{}}
	Lines(t, "normalise/panther_datamodel.ndjson", func(tr Truth) {
		if tr.Source != source {
			return
		}
		w := c.Check(t, []byte(tr.Raw))
		var ev map[string]any
		if w.Error == "" {
			if err := json.Unmarshal(w.OCSF, &ev); err != nil {
				t.Fatal(err)
			}
		}
		for field, exp := range tr.Expected {
			if exp == nil {
				continue
			}
			s.All[field]++
			if ok, got := agrees(field, *exp, tr, ev); ok {
				s.Right[field]++
			} else {
				s.Wrong = append(s.Wrong, fmt.Sprintf("%s %s: want %q, have %v%s", tr.ID, field, *exp, got, w.Error))
			}
		}
	})
	return s
}

func agrees(field, exp string, tr Truth, ev map[string]any) (bool, any) {
	at := func(path string) string {
		var v any = ev
		for _, k := range strings.Split(path, ".") {
			switch x := v.(type) {
			case map[string]any:
				v = x[k]
			case []any:
				if len(x) == 0 {
					return ""
				}
				m, _ := x[0].(map[string]any)
				v = m[k]
			default:
				return ""
			}
		}
		if s, ok := v.(string); ok {
			return s
		}
		return ""
	}
	among := func(want []string, have ...string) (bool, any) {
		for _, w := range want {
			for _, h := range have {
				if h != "" && strings.EqualFold(w, h) {
					return true, h
				}
			}
		}
		return false, have
	}
	switch field {
	case "actor":
		// The name alone: a judge who also looks at uid and e-mail finds more.
		return among(append(tr.Accept.Actor, exp), at("actor.user.name"))
	case "source_ip":
		a, err1 := netip.ParseAddr(exp)
		b, err2 := netip.ParseAddr(at("src_endpoint.ip"))
		return err1 == nil && err2 == nil && a.Unmap() == b.Unmap(), at("src_endpoint.ip")
	case "action":
		return among(append(tr.Accept.Action, exp), at("api.operation"), at("metadata.event_code"))
	case "outcome":
		return among([]string{exp}, at("status"))
	case "target":
		have := []string{at("user.name"), at("user.uid"), at("group.name"), at("iam_role.name"), at("entity.name")}
		for _, list := range []string{"resources", "users"} {
			items, _ := ev[list].([]any)
			for _, it := range items {
				m, _ := it.(map[string]any)
				for _, k := range []string{"name", "uid"} {
					if s, ok := m[k].(string); ok {
						have = append(have, s)
					}
				}
			}
		}
		return among(append(tr.Accept.Target, exp), have...)
	case "timestamp":
		ms, _ := ev["time"].(float64)
		for _, l := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999"} {
			if w, err := time.Parse(l, exp); err == nil {
				return int64(ms) == w.UnixMilli(), staunch.Time(int64(ms) * 1000).String()
			}
		}
		return false, ms
	}
	return false, nil
}

// Hold fails the test where the score is below the floor, a share of 1.
func (s Score) Hold(t *testing.T, floor float64) {
	t.Helper()
	right, all := 0, 0
	for f, n := range s.All {
		right, all = right+s.Right[f], all+n
		t.Logf("%-10s %d/%d", f, s.Right[f], n)
		if float64(s.Right[f]) < floor*float64(n) {
			t.Errorf("%s: %d of %d agree, at least %.0f %% have to", f, s.Right[f], n, floor*100)
		}
	}
	t.Logf("all        %d/%d", right, all)
	if all == 0 {
		t.Error("nothing was scored")
	}
	for i, w := range s.Wrong {
		if i == 30 {
			break
		}
		t.Log(w)
	}
}
