package store

import (
	"slices"

	"github.com/staunch-project/staunch"
)

// CountedRule returns the rule that a signal counts for, "" for none: an exercise
// says nothing of a rule, and one whose id is no key, which an outside detector may
// give, cannot be counted.
func CountedRule(s staunch.Signal) string {
	if s.Drill != "" || CheckKey(s.Rule) != nil {
		return ""
	}
	return s.Rule
}

// CountedRules returns the rules that a decision counts for.
func CountedRules(d staunch.Decision) []string {
	if d.Drill != "" || d.Tier == staunch.TierObserve {
		return nil
	}
	_, rules := d.Suspicion.Culprits()
	return slices.DeleteFunc(rules, func(rule string) bool { return rule == "" || CheckKey(rule) != nil })
}
