package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/sigma"
)

// errRulesRefused says that rules were refused; they have been named.
var errRulesRefused = errors.New("some rules were refused")

// rulesReport is what is found out about rule files.
type rulesReport struct {
	V     int          `json:"v"`
	Rules []ruleReport `json:"rules"`
	// Problems has every reason for which something was refused, a rule may have
	// several; Notes has what was loaded with a reservation.
	Problems []ruleProblem `json:"problems"`
	Notes    []ruleProblem `json:"notes"`
	// Loaded and Refused count rules, filters and correlations.
	Loaded  int `json:"loaded"`
	Refused int `json:"refused"`
}

type ruleReport struct {
	// Kind is rule, filter or correlation.
	Kind       string          `json:"kind"`
	Path       string          `json:"path"`
	Line       int             `json:"line"`
	ID         string          `json:"id"`
	Title      string          `json:"title"`
	Level      string          `json:"level,omitempty"`
	Status     string          `json:"status,omitempty"`
	Mode       string          `json:"mode,omitempty"`
	Logsource  sigma.Logsource `json:"logsource"`
	Author     string          `json:"author,omitempty"`
	License    string          `json:"license,omitempty"`
	References []string        `json:"references,omitempty"`
	Filters    []string        `json:"filters,omitempty"`
}

type ruleProblem struct {
	Path   string `json:"path"`
	Line   int    `json:"line,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason"`
}

func newRulesReport(l *loadedRules) rulesReport {
	r := rulesReport{V: staunch.Version, Rules: []ruleReport{}, Problems: problemsOf(l.Errors), Notes: problemsOf(l.Notes), Refused: l.Refused}
	for _, x := range l.Rules {
		r.Rules = append(r.Rules, ruleReport{
			Kind: "rule", Path: x.Path, Line: x.Line, ID: x.ID, Title: x.Title, Level: x.Level, Status: x.Status, Mode: x.Mode,
			Logsource: x.Logsource, Author: x.Author, License: x.License, References: x.References, Filters: x.Filters,
		})
	}
	for _, x := range l.Filters {
		r.Rules = append(r.Rules, ruleReport{Kind: "filter", Path: x.Path, Line: x.Line, ID: x.ID, Title: x.Title, Logsource: x.Logsource})
	}
	for _, x := range l.correlations.Rules() {
		r.Rules = append(r.Rules, ruleReport{
			Kind: "correlation", Path: x.Path, Line: x.Line, ID: x.ID, Title: x.Title, Level: x.Level, Status: x.Status, Mode: x.Mode,
			Author: x.Author, License: x.License, References: x.References,
		})
	}
	r.Loaded = len(r.Rules)
	return r
}

func problemsOf(errs []*sigma.RuleError) []ruleProblem {
	out := make([]ruleProblem, 0, len(errs))
	for _, e := range errs {
		out = append(out, ruleProblem{Path: e.Path, Line: e.Line, Rule: e.Rule, Reason: e.Reason})
	}
	return out
}

func (p ruleProblem) place() string {
	if p.Line == 0 {
		return p.Path
	}
	return fmt.Sprintf("%s:%d", p.Path, p.Line)
}

func newRulesCheckCmd(g *globals) *cobra.Command {
	var l ruleFlags
	cmd := &cobra.Command{
		Use:   "check PATH...",
		Short: "Say of each rule whether it can be used, and why not",
		Long: `Read the Sigma rules, filters and correlations of files and folders. Each is
loaded, or refused with file, line and reason; nothing in a rule that could change
what it matches is ignored. The last line is "N loaded, M refused", and the exit code is 3 when a
rule was refused.`,
		Example: `  staunch rules check rules/
  staunch rules check rules/ --placeholder Administrators=root -o json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			opts, err := l.options()
			if err != nil {
				return err
			}
			loaded, err := l.load(opts, args...)
			if err != nil {
				return err
			}
			rep := newRulesReport(loaded)
			if err := g.print(rep, func(w io.Writer) { writeRulesReport(w, rep) }); err != nil {
				return err
			}
			if rep.Refused > 0 {
				return errRulesRefused
			}
			return nil
		},
	}
	l.add(cmd)
	return cmd
}

func writeRulesReport(w io.Writer, rep rulesReport) {
	for _, r := range rep.Rules {
		row(w, "loaded", fmt.Sprintf("%s:%d", r.Path, r.Line), r.Kind, r.ID, r.Title)
	}
	for _, p := range rep.Problems {
		row(w, "refused", p.place(), orElse(p.Rule, "-"), p.Reason)
	}
	for _, n := range rep.Notes {
		row(w, "note", n.place(), orElse(n.Rule, "-"), n.Reason)
	}
	writeTally(w, "Loaded, by log source", tally(rep.Rules, func(r ruleReport) string { return orElse(r.Logsource.Parts(), r.Kind) }))
	writeTally(w, "Refused, by reason", tally(rep.Problems, func(p ruleProblem) string { return p.Reason }))
	if len(rep.Rules)+len(rep.Problems) > 0 {
		_, _ = fmt.Fprintln(w) // print's Flush tells
	}
	_, _ = fmt.Fprintf(w, "%d loaded, %d refused\n", rep.Loaded, rep.Refused) // print's Flush tells
}

func tally[T any](list []T, of func(T) string) map[string]int {
	out := map[string]int{}
	for _, x := range list {
		out[of(x)]++
	}
	return out
}

func writeTally(w io.Writer, title string, counts map[string]int) {
	if len(counts) == 0 {
		return
	}
	heading(w, title)
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		row(w, counts[k], k)
	}
}
