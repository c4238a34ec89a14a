package corpus

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/detect/sigma"
)

// A match is one rule's claim about one labelled event.
type match struct {
	rule             *sigma.Rule
	logType          string
	alerting, urgent bool
}

// technique is the first ATT&CK technique of the rule, without its part; "-" for a
// rule that has only those of ATLAS.
func (m match) technique() string {
	if len(m.rule.Techniques) == 0 {
		return "-"
	}
	whole, _, _ := strings.Cut(m.rule.Techniques[0], ".")
	return whole
}

// grouping puts rules into groups that are ordered by what they claim.
type grouping struct {
	title string
	names []string
	of    func(*sigma.Rule) int
}

var levels = []string{"informational", "low", "medium", "high", "critical"}

// bands are the lower bounds of the bands of stated confidence: what is only told,
// what is watched, what restricts (in halves), and what isolates or revokes.
var bands = []float64{0, 0.13, 0.30, 0.45, 0.60}

var groupings = []grouping{
	{"level", levels, func(r *sigma.Rule) int { return slices.Index(levels, r.Level) }},
	{"stated confidence", []string{"up to 0.12", "0.13 to 0.29", "0.30 to 0.44", "0.45 to 0.59", "0.60 and more"}, func(r *sigma.Rule) int {
		n := 0
		for i, low := range bands {
			if r.Confidence >= low {
				n = i
			}
		}
		return n
	}},
}

// TestCalibration compares the confidences that rules state with how often the
// corpus holds their matches for urgent. How, and what the numbers can say, is told
// in docs/detection-quality.md.
func TestCalibration(t *testing.T) {
	dir := folder(t)
	rules := packRules(t)
	var all []match
	for _, lt := range logTypes {
		m := newMatcher(t, rules, lt.format, lt.source)
		for _, e := range labelledEvents(t, dir, lt.name) {
			hit, err := m.matches(e.raw)
			if err != nil {
				continue // TestEvents counts them
			}
			for _, n := range hit {
				all = append(all, match{m.set.Rules()[n], lt.name, e.alerting, e.urgent})
			}
		}
	}
	if len(all) == 0 {
		t.Fatal("nothing matched")
	}
	for _, g := range groupings {
		calibrate(t, g, all)
	}
}

func calibrate(t *testing.T, g grouping, all []match) {
	byType := leftOut(g, all, func(m match) string { return m.logType })
	byTechnique := leftOut(g, all, match.technique)
	var before proportion
	table("Calibration, by "+g.title, func(w io.Writer) {
		line(w, strings.ToUpper(g.title), "RULES", "MATCHES", "ALERTING", "QUIET", "PRECISION", "95 %", "URGENT", "95 %", "STATED", "LEFT OUT BY LOG TYPE", "BY TECHNIQUE", "STATED IS")
		for i, name := range g.names {
			var alerting, urgent proportion
			stated, types, techniques := 0.0, 0.0, 0.0
			used := map[string]bool{}
			for k, m := range all {
				if g.of(m.rule) != i {
					continue
				}
				used[m.rule.ID] = true
				alerting.add(m.alerting)
				urgent.add(m.urgent)
				stated += m.rule.Confidence
				types += byType[k]
				techniques += byTechnique[k]
			}
			n := float64(alerting.of)
			if n == 0 {
				line(w, name, 0, 0)
				continue
			}
			stated, types, techniques = stated/n, types/n, techniques/n
			low, high := urgent.wilson()
			verdict := "in line"
			switch {
			case stated > high:
				verdict = "too high"
			case stated < low:
				verdict = "too low"
			}
			line(w, name, len(used), alerting.of, alerting.n, alerting.of-alerting.n, alerting, alerting.interval(), urgent, urgent.interval(),
				fmt.Sprintf("%.2f", stated), fmt.Sprintf("%.2f", types), fmt.Sprintf("%.2f", techniques), verdict)
			if verdict == "too high" {
				t.Errorf("%s %s: a match is stated to be right in %.2f, and the corpus holds at most %.2f for urgent", g.title, name, stated, high)
			}
			if _, top := urgent.wilson(); before.of > 0 {
				if was, _ := before.wilson(); was > top {
					t.Errorf("%s %s: its matches are less urgent than those of the group below", g.title, name)
				}
			}
			before = urgent
		}
	})
	var stated, types, techniques, constant float64
	base := leftOut(grouping{"", []string{""}, func(*sigma.Rule) int { return 0 }}, all, func(m match) string { return m.logType })
	for k, m := range all {
		truth := 0.0
		if m.urgent {
			truth = 1
		}
		square := func(p float64) float64 { return (p - truth) * (p - truth) / float64(len(all)) }
		stated += square(m.rule.Confidence)
		types += square(byType[k])
		techniques += square(byTechnique[k])
		constant += square(base[k])
	}
	table("Mean squared error (Brier score) against urgent, by "+g.title, func(w io.Writer) {
		line(w, "as stated", "left out by log type", "left out by technique", "one number for all")
		line(w, fmt.Sprintf("%.3f", stated), fmt.Sprintf("%.3f", types), fmt.Sprintf("%.3f", techniques), fmt.Sprintf("%.3f", constant))
	})
}

// leftOut returns, for each match, how often matches of its group are urgent among
// those of other folds than its own, made monotone over the groups: so no number
// stems from the log type, or the technique, that it is about.
func leftOut(g grouping, all []match, fold func(match) string) []float64 {
	models := map[string][]float64{}
	out := make([]float64, len(all))
	for k, m := range all {
		f := fold(m)
		if models[f] == nil {
			counts := make([]proportion, len(g.names))
			for _, o := range all {
				if fold(o) != f {
					counts[g.of(o.rule)].add(o.urgent)
				}
			}
			models[f] = monotone(counts)
		}
		out[k] = models[f][g.of(m.rule)]
	}
	return out
}

// monotone returns the shares as the nearest that do not fall, by pooling
// neighbours that violate it. A group without matches has its neighbour's.
func monotone(counts []proportion) []float64 {
	type pool struct {
		proportion
		groups int
	}
	var pools []pool
	for _, c := range counts {
		pools = append(pools, pool{c, 1})
		for len(pools) > 1 {
			a, b := pools[len(pools)-2], pools[len(pools)-1]
			if a.of > 0 && b.of > 0 && a.value() <= b.value() {
				break
			}
			pools = append(pools[:len(pools)-2], pool{proportion{a.n + b.n, a.of + b.of}, a.groups + b.groups})
		}
	}
	var out []float64
	for _, p := range pools {
		for range p.groups {
			out = append(out, p.value())
		}
	}
	return out
}

// proportion is n of of, as counted.
type proportion struct{ n, of int }

func (s *proportion) add(yes bool) {
	s.of++
	if yes {
		s.n++
	}
}

func (s proportion) value() float64 { return float64(s.n) / float64(max(s.of, 1)) }

// String is the share with two digits.
func (s proportion) String() string { return fmt.Sprintf("%.2f", s.value()) }

// wilson returns the score interval of 95 %.
func (s proportion) wilson() (low, high float64) {
	const z = 1.96
	if s.of == 0 {
		return 0, 1
	}
	n, p := float64(s.of), s.value()
	mid := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z * math.Sqrt(p*(1-p)/n+z*z/(4*n*n)) / (1 + z*z/n)
	return max(0, mid-half), min(1, mid+half)
}

func (s proportion) interval() string {
	low, high := s.wilson()
	return fmt.Sprintf("%.2f to %.2f", low, high)
}

// TestShares holds the arithmetic that the calibration stands on.
func TestShares(t *testing.T) {
	for _, c := range []struct {
		s         proportion
		low, high float64
	}{{proportion{0, 10}, 0, 0.278}, {proportion{5, 10}, 0.237, 0.763}, {proportion{10, 10}, 0.722, 1}, {proportion{81, 263}, 0.255, 0.366}} {
		if low, high := c.s.wilson(); math.Abs(low-c.low) > 0.001 || math.Abs(high-c.high) > 0.001 {
			t.Errorf("%d of %d: %.3f to %.3f, want %.3f to %.3f", c.s.n, c.s.of, low, high, c.low, c.high)
		}
	}
	for _, c := range []struct {
		in   []proportion
		want []float64
	}{
		{[]proportion{{1, 10}, {2, 10}, {9, 10}}, []float64{0.1, 0.2, 0.9}},
		{[]proportion{{4, 10}, {2, 10}, {9, 10}}, []float64{0.3, 0.3, 0.9}},
		{[]proportion{{5, 10}, {4, 10}, {0, 10}}, []float64{0.3, 0.3, 0.3}},
		{[]proportion{{1, 10}, {0, 0}, {9, 10}}, []float64{0.1, 0.1, 0.9}},
		{[]proportion{{0, 0}, {3, 10}}, []float64{0.3, 0.3}},
	} {
		if got := monotone(c.in); !slices.EqualFunc(got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}
