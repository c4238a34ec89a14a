package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/app"
)

// parseSpan reads a duration, with d for days as well.
func parseSpan(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > 3650 {
			return 0, fmt.Errorf("%d days are more than ten years", n)
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration (such as 12h, 30d)", s)
	}
	return d, nil
}

func newBacktestCmd(g *globals) *cobra.Command {
	var since, mode string
	var paths, rules []string
	var diff bool
	cmd := &cobra.Command{
		Use:   "backtest --policy PATH",
		Short: "Say what other policies would have contained, and whom that would have hurt",
		Long: `Have the server decide what it decided once more, with other policies, and compare
that with the active ones. Nothing is changed, and no platform is asked.

The policies of --policy, a file or a folder and given as often as you like, take the
place of those that the configuration names; the default ones stay as it has them.
--rule gives a rule another mode, or leaves its signals out (off). Rules that are
new need events: see staunch replay.

A line a subject says whether it is contained newly, no longer, at another tier or
the same, and whom the new outcome would hurt: those whose containment was released
as a false alarm, protected, production and shared identities. The last line is a
summary.`,
		Example: `  staunch backtest --policy ./policies --since 30d --diff
  staunch backtest --policy strict.yaml --rule 5b7ed0a1-0000-4000-8000-000000000011=enforce -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 && len(rules) == 0 {
				return usagef("--policy or --rule is needed")
			}
			d, err := parseSpan(since)
			if err != nil {
				return usagef("--since: %v", err)
			}
			if _, err := staunch.ParseMode(mode); err != nil {
				return usagef("--mode: %v", err)
			}
			req := api.BacktestRequest{Since: staunch.Duration(d), Mode: mode, Diff: diff, Rules: map[string]string{}}
			for _, r := range rules {
				id, m, ok := strings.Cut(r, "=")
				if !ok || id == "" || !slices.Contains([]string{"off", "shadow", "recommend", "enforce"}, m) {
					return usagef("--rule %q is not ID=off, ID=shadow, ID=recommend or ID=enforce", r)
				}
				req.Rules[id] = m
			}
			files, err := app.ReadPolicies("--policy", paths...)
			if err != nil {
				return err
			}
			if len(paths) > 0 && len(files) == 0 {
				return bad("%s has no policy file", strings.Join(paths, ", "))
			}
			for _, f := range files {
				req.Policies = append(req.Policies, api.PolicyFile{Name: f.Name, Text: string(f.Data)})
			}
			return g.withClient(func(c *client.Client) error { return g.backtest(cmd, c, req) })
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&paths, "policy", nil, "the new policies, a file or a folder; may be given several times")
	f.StringSliceVar(&rules, "rule", nil, "another mode for a rule, ID=off, shadow, recommend or enforce; may be given several times")
	f.StringVar(&since, "since", "30d", "how far back, such as 12h or 30d")
	f.StringVar(&mode, "mode", "enforce", "what the engine's mode is taken to be: shadow, recommend or enforce")
	completeWords(cmd, "mode", modeWords...)
	f.BoolVar(&diff, "diff", false, "leave out the subjects for which nothing differs")
	return cmd
}

func (g *globals) backtest(cmd *cobra.Command, c *client.Client, req api.BacktestRequest) error {
	var subjects []*api.BacktestSubject
	return c.Backtest(cmd.Context(), req, func(l api.BacktestLine) error {
		if p := l.Progress; p != nil {
			g.errf("looked at %s, back to %s\n", count(p.Decisions, "decision"), clean(p.At.String()))
			return nil
		}
		if s := l.Summary; s != nil {
			for _, id := range s.UnseenRules {
				g.errf("no decision rests on rule %s\n", clean(id))
			}
			for _, t := range s.Trust {
				g.errf("rule %s is in mode %s now, and counts as it was: %s\n", clean(t.Rule), t.Mode, clean(t.Reason))
			}
		}
		if g.output != formTable {
			return g.writeDocument(g.stdout, l)
		}
		if l.Subject != nil {
			subjects = append(subjects, l.Subject)
			return nil
		}
		return g.print(nil, func(w io.Writer) { writeBacktest(w, subjects, l.Summary) })
	})
}

func writeBacktest(w io.Writer, subjects []*api.BacktestSubject, s *api.BacktestSummary) {
	if len(subjects) > 0 {
		row(w, "CHANGE", "SUBJECT", "ACTIVE", "NEW", "POLICY", "FIRST", "HURTS", "CASES")
	}
	outcome := func(o api.BacktestOutcome) string {
		t := o.Tier.String()
		if o.Approval {
			t += " (asks)"
		}
		return t
	}
	words := func(list []string) string { return orElse(strings.ReplaceAll(strings.Join(list, ", "), "_", " "), "-") }
	for _, b := range subjects {
		o := b.New
		if o.Tier == staunch.TierObserve {
			o = b.Active
		}
		var cases []string
		for _, c := range b.Cases {
			id := c.ID
			if c.FalseAlarm {
				id += " (a false alarm)"
			}
			cases = append(cases, id)
		}
		row(w, strings.ReplaceAll(b.Change, "_", " "), b.Subject, outcome(b.Active), outcome(b.New), o.Policy, o.At, words(b.Hurts), orElse(strings.Join(cases, ", "), "-"))
	}
	if s == nil {
		return
	}
	hurt := ""
	for _, why := range []string{api.HurtFalseAlarm, api.HurtProtected, api.HurtProduction, api.HurtShared} {
		if n := s.Hurt[why]; n > 0 {
			hurt += fmt.Sprintf(", %d %s", n, strings.ReplaceAll(why, "_", " "))
		}
	}
	line := fmt.Sprintf("%s: %d newly, %d no longer, %d at another tier, %d the same", count(s.Decisions, "decision"), s.Newly, s.NoLonger, s.Tier, s.Same)
	if hurt != "" {
		line += "; it would hurt" + strings.TrimPrefix(hurt, ",")
	}
	if s.Spared > 0 {
		line += fmt.Sprintf("; %s spared", count(s.Spared, "false alarm"))
	}
	if s.Missed > 0 {
		line += fmt.Sprintf("; %d missed", s.Missed)
	}
	if s.Skipped > 0 {
		line += fmt.Sprintf("; %d could not be decided again", s.Skipped)
	}
	if s.Truncated {
		line += "; there was more than was looked at"
	}
	row(w, line)
}
