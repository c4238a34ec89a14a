package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

func newTrustCmd(g *globals) *cobra.Command {
	var all bool
	var page client.Page
	cmd := &cobra.Command{
		Use:   "trust [RULE]",
		Short: "How far rules are trusted, and what they have done",
		Long: `How far each rule may go, and what it has done: shadow decides and records,
recommend tells people, enforce contains. A rule begins with what its file and
rule_modes say. From there a person promotes or demotes it, and a containment that
is judged wrong (staunch release --wrong, staunch judge) demotes the rules behind it
by one mode, at once and on all nodes. Nothing is ever promoted by itself.

Without RULE, list the rules that matched anything or were judged, by id: how far
each may go, its matches, decisions above observe and containments, and how many of
those were judged wrong or right. The last column says whether it is ready for the
next mode by the criteria that the configuration has (trust.matches, trust.for): it
is a recommendation, and a person decides. With RULE, show that one with its history.`,
		Example: `  staunch trust
  staunch trust --all -o json
  staunch trust af0491eb-2261-4a13-9675-283d7b3b153a
  staunch trust promote af0491eb-2261-4a13-9675-283d7b3b153a --reason "two weeks in shadow, none wrong"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if page.Limit < 0 || page.Limit > 1000 {
				return usagef("--limit must be from 1 to 1000")
			}
			return g.withClient(func(c *client.Client) error {
				if len(args) == 1 {
					h, err := c.Trust(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					return g.print(h, func(w io.Writer) { writeTrust(w, h) })
				}
				l, err := c.Trusts(cmd.Context(), all, page)
				return listed(g, l, err, l.Items, l.Next, []any{"RULE", "MODE", "MATCHES", "LAST", "DECISIONS", "CONTAINED", "WRONG", "RIGHT", "ADVICE"}, func(r api.RuleStanding) []any {
					return []any{r.Rule, standsAt(r), r.Matches, r.Last, r.Decisions, r.Containments, r.Wrong, r.Right, r.Advice}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "rules that have done nothing yet as well")
	cmd.Flags().IntVar(&page.Limit, "limit", 0, "at most so many (default 100, at most 1000)")
	cmd.Flags().StringVar(&page.After, "after", "", "go on after the page before")
	cmd.AddCommand(newTrustMoveCmd(g, "promote", "Let a rule go further",
		`Let a rule go one mode further, or to --to: from shadow to recommend to enforce. What
it matched before counts as it did then. A promotion above what the rule's file says
holds as long as the file says the same.`, (*client.Client).Promote),
		newTrustMoveCmd(g, "demote", "Let a rule go less far",
			`Let a rule go one mode less far, or down to --to: from enforce to recommend to
shadow. What it matched before counts no further than that either.`, (*client.Client).Demote))
	return cmd
}

// standsAt is a rule's mode, with its file's where that is another.
func standsAt(r api.RuleStanding) string {
	if r.Mode == r.Declared {
		return r.Mode.String()
	}
	return fmt.Sprintf("%s (declared %s)", r.Mode, r.Declared)
}

func writeTrust(w io.Writer, h api.RuleHistory) {
	r := h.Rule
	field(w, "rule", r.Rule)
	field(w, "title", r.Title)
	if r.Gone {
		field(w, "note", "the active configuration does not have it")
	}
	field(w, "mode", standsAt(r))
	if r.Changed != 0 {
		field(w, "since", fmt.Sprintf("%s by %s: %s", shortTime(r.Changed), r.By, r.Reason))
	}
	field(w, "matches", r.Matches)
	field(w, "first", r.First)
	field(w, "last", r.Last)
	field(w, "decisions", r.Decisions)
	field(w, "contained", r.Containments)
	field(w, "judged", fmt.Sprintf("%d wrong, %d right", r.Wrong, r.Right))
	field(w, "last wrong", r.LastWrong)
	field(w, "advice", r.Advice)
	if len(h.History) == 0 {
		return
	}
	heading(w, "History")
	row(w, "AT", "WHAT", "BY", "CONTAINMENT", "REASON")
	for _, ev := range h.History {
		what := string(ev.Kind)
		if ev.From != ev.To {
			what += fmt.Sprintf(" %s → %s", ev.From, ev.To)
		}
		row(w, ev.At, what, ev.By, orElse(ev.Containment, "-"), orElse(ev.Reason, "-"))
	}
}

func newTrustMoveCmd(g *globals, use, short, long string, do func(*client.Client, context.Context, api.TrustRequest) (api.TrustMoved, error)) *cobra.Command {
	var req api.TrustRequest
	cmd := &cobra.Command{
		Use:     use + " RULE --reason TEXT",
		Short:   short,
		Long:    long,
		Example: `  staunch trust ` + use + ` af0491eb-2261-4a13-9675-283d7b3b153a --reason "as discussed on Tuesday"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needReason(req.Reason); err != nil {
				return err
			}
			if req.To != "" {
				if _, err := staunch.ParseMode(req.To); err != nil {
					return usagef("--to %q is not shadow, recommend or enforce", req.To)
				}
			}
			req.Rule = args[0]
			return g.withClient(func(c *client.Client) error {
				if use == "promote" {
					if err := g.confirm("Let %s go further?", req.Rule); err != nil {
						return err
					}
				}
				m, err := do(c, cmd.Context(), req)
				if err != nil {
					return err
				}
				return g.print(m, func(w io.Writer) {
					row(w, fmt.Sprintf("%s goes from %s to %s", m.Event.Rule, m.Event.From, m.Event.To))
				})
			})
		},
	}
	cmd.Flags().StringVar(&req.To, "to", "", "the mode: shadow, recommend or enforce; the next one when not given")
	completeWords(cmd, "to", modeWords...)
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for people and the record (needed)")
	yesFlag(g, cmd)
	return cmd
}
