package correlate_test

import (
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/detect/correlate"
)

// TestOptional: what only lacks a database of places, or a rule that was left out,
// is noted and not refused; its bases stay silent all the same.
func TestOptional(t *testing.T) {
	optional := func(doc string) string { return strings.Replace(doc, "level: high", "level: high\noptional: true", 1) }
	for name, doc := range map[string]string{
		"no places":  corr("impossible_travel", "  rules: [a]\n  timespan: 2d\n"),
		"no base":    corr("event_count", "  rules: [a, nobody]\n  timespan: 1m\n  condition: {gte: 2}\n"),
		"no circles": corr("temporal", "  rules: [a, nobody, corr]\n  timespan: 1m\n"),
	} {
		rules, set, errs := compile(t, optional(doc), correlate.Options{})
		left := set.Left()
		if name == "no circles" {
			// Something else is wrong with it as well.
			if len(errs) == 0 || len(left) != 0 {
				t.Errorf("%s: refused %v, left out %v", name, errs, left)
			}
			continue
		}
		if len(errs) != 0 || len(set.Rules()) != 0 || len(left) != 1 || left[0].Rule != "corr" || !strings.HasPrefix(left[0].Reason, "it is left out: ") {
			t.Errorf("%s: refused %v, left out %v", name, errs, left)
		}
		if n, ok := rules.Index("rule-a"); !ok || !set.Hidden(n) {
			t.Errorf("%s: its base speaks", name)
		}
		if n, _ := rules.Index("rule-a"); !set.Idle(n) {
			t.Errorf("%s: its base is matched for nothing", name)
		}
		if _, set, errs := compile(t, doc, correlate.Options{}); len(errs) == 0 || len(set.Left()) != 0 {
			t.Errorf("%s: not optional, and refused %v, left out %v", name, errs, set.Left())
		}
	}
}

// TestIdle: a rule that another correlation needs is not idle.
func TestIdle(t *testing.T) {
	travel := strings.Replace(corr("impossible_travel", "  rules: [a, b]\n  timespan: 2d\n"), "level: high", "level: high\noptional: true", 1)
	count := strings.Replace(corr("event_count", "  rules: [a]\n  timespan: 1m\n  condition: {gte: 2}\n"), "id: corr", "id: other", 1)
	rules, set, errs := compile(t, travel+"---\n"+count, correlate.Options{})
	if len(errs) != 0 || len(set.Left()) != 1 {
		t.Fatalf("refused %v, left out %v", errs, set.Left())
	}
	for id, want := range map[string]bool{"rule-a": false, "rule-b": true, "rule-c": false} {
		if n, _ := rules.Index(id); set.Idle(n) != want {
			t.Errorf("%s: idle is %v", id, !want)
		}
	}
}
