package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/store"
)

// listWhat is what can be listed.
func listWhat() []string {
	return []string{"containments", "signals", "decisions", "holds", "identities", "parked", "breakers"}
}

func newListCmd(g *globals) *cobra.Command {
	var open, all bool
	var page client.Page
	cmd := &cobra.Command{
		Use:   "list [" + strings.Join(listWhat(), "|") + "]",
		Short: "List containments, or what else there is",
		Long: `List containments, the newest first, or signals, decisions, holds in force,
declared identities, records that could not be taken, or breakers. Where there is
more, the last line says how to see it.`,
		Example: `  staunch list --open
  staunch list signals --limit 20
  staunch list holds -o json`,
		ValidArgs: listWhat(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && !slices.Contains(listWhat(), args[0]) {
				return usagef("%q is not one of %s", strings.Join(args, " "), strings.Join(listWhat(), ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "containments"
			if len(args) == 1 {
				what = args[0]
			}
			if page.Limit < 0 || page.Limit > 1000 {
				return usagef("--limit must be from 1 to 1000")
			}
			if open && what != "containments" {
				return usagef("--open is for containments")
			}
			if all && what != "holds" {
				return usagef("--all is for holds")
			}
			return g.withClient(func(c *client.Client) error {
				return g.list(cmd.Context(), c, what, open, all, page)
			})
		},
	}
	cmd.Flags().BoolVar(&open, "open", false, "containments that are not released")
	cmd.Flags().BoolVar(&all, "all", false, "holds that are over as well")
	cmd.Flags().IntVar(&page.Limit, "limit", 0, "at most so many (default 100, at most 1000)")
	cmd.Flags().StringVar(&page.After, "after", "", "go on after the page before")
	return cmd
}

// listed prints a page.
func listed[T any](g *globals, v any, err error, items []T, next string, head []any, line func(T) []any) error {
	if err != nil {
		return err
	}
	return g.print(v, func(w io.Writer) {
		if len(items) == 0 {
			row(w, "none")
			return
		}
		row(w, head...)
		for _, it := range items {
			row(w, line(it)...)
		}
		if next != "" {
			row(w, "… more: --after "+next)
		}
	})
}

func (g *globals) list(ctx context.Context, c *client.Client, what string, open, all bool, page client.Page) error {
	switch what {
	case "signals":
		l, err := c.Signals(ctx, page)
		return listed(g, l, err, l.Items, l.Next, []any{"ID", "TIME", "RULE", "TITLE", "ACCUSED", "CONFIDENCE", "MODE", "STANDING", "AUTHOR", "LICENCE"}, func(s staunch.Signal) []any {
			return []any{s.ID, s.Time, s.Rule, s.Title, s.Accused, s.Confidence, drilled(s.Mode, s.Drill), s.Standing, orElse(s.Author, "-"), orElse(s.License, "-")}
		})
	case "decisions":
		l, err := c.Decisions(ctx, page)
		return listed(g, l, err, l.Items, l.Next, []any{"ID", "MADE", "SUBJECT", "VERDICT", "TIER", "CONFIDENCE", "CONTAINMENT"}, func(d staunch.Decision) []any {
			return []any{d.ID, d.Made, d.Subject, drilled(d.Verdict, d.Drill), d.Tier, d.Suspicion.Confidence, orElse(d.Containment, "-")}
		})
	case "holds":
		l, err := c.Holds(ctx, all, page)
		return listed(g, l, err, l.Items, l.Next, []any{"ID", "PLANE", "STATE", "TARGET", "TIER", "SINCE", "CLAIMED BY"}, func(h staunch.Hold) []any {
			return []any{h.ID, h.Plane, h.State, h.Target, h.Tier, h.Since, orElse(strings.Join(h.Claims, ", "), "-")}
		})
	case "identities":
		l, err := c.Identities(ctx, page)
		return listed(g, l, err, l.Items, l.Next, []any{"NAME", "KIND", "OWNER", "ENVIRONMENT", "TOLERANCE", "PROTECTED", "ACCOUNTS"}, func(i staunch.Identity) []any {
			return []any{i.Name, i.Kind, orElse(i.Owner, "-"), orElse(i.Environment, "-"), i.Tolerance, i.Protected, len(i.Accounts)}
		})
	case "parked":
		l, err := c.Parked(ctx, page)
		return listed(g, l, err, l.Items, l.Next, []any{"ID", "SOURCE", "RECORD", "AT", "REASON"}, func(p store.Parked) []any {
			return []any{p.ID, p.Source, p.Number, p.At, p.Reason}
		})
	case "breakers":
		return g.breakers(ctx, c)
	}
	l, err := c.Containments(ctx, open, page)
	return listed(g, l, err, l.Items, l.Next, []any{"ID", "OPENED", "SUBJECT", "PHASE", "TIER", "IDENTITY", "OWNER"}, func(c staunch.Containment) []any {
		return []any{c.ID, c.Opened, c.Subject, drilled(c.Phase, c.Drill), c.Tier, orElse(c.Identity.Name, "unknown"), orElse(c.Identity.Owner, "-")}
	})
}

// drilled marks what belongs to a drill.
func drilled(v any, drill string) string {
	if drill == "" {
		return text(v)
	}
	return text(v) + " (drill)"
}

func newIdentityCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "identity REF",
		Short: "Say who a name is, how suspect, and what came from it",
		Example: `  staunch identity account:pg/main:role:app_rw
  staunch identity identity:billing -o yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseRef(args[0])
			if err != nil {
				return err
			}
			return g.withClient(func(c *client.Client) error {
				k, err := c.Identity(cmd.Context(), ref)
				if err != nil {
					return err
				}
				return g.print(k, func(w io.Writer) { writeKnown(w, k) })
			})
		},
	}
}

func writeKnown(w io.Writer, k api.Known) {
	field(w, "ref", k.Resolution.Ref)
	field(w, "identity", identityLine(k.Resolution.Identity))
	field(w, "purpose", k.Resolution.Identity.Purpose)
	for _, n := range k.Resolution.Names {
		if n != k.Resolution.Ref {
			field(w, "also", n)
		}
	}
	for _, n := range k.Resolution.Up {
		field(w, "part of", n)
	}
	field(w, "suspicion", fmt.Sprintf("%.2f", k.Suspicion.Confidence))
	for _, r := range k.Suspicion.Reasons {
		why := ""
		if r.Why != "" {
			why = " (" + r.Why + ")"
		}
		field(w, "because", fmt.Sprintf("%s by %s, weight %.2f%s", r.Rule, r.Source, r.Weight, why))
	}
	if len(k.Lineage.Children) > 0 {
		heading(w, "What belongs to it and came from it")
		writeLineage(w, k.Lineage.Children, "")
		if k.Truncated {
			row(w, "… and more")
		}
	}
	if len(k.Cases) > 0 {
		heading(w, "Open containments")
		for _, c := range k.Cases {
			row(w, c.ID, c.Subject, c.Phase, c.Tier)
		}
	}
}

func writeLineage(w io.Writer, nodes []api.Lineage, indent string) {
	words := relWords()
	for _, n := range nodes {
		seen := ""
		if n.Seen {
			seen = "shown above"
		}
		// The indent is ours; the rest is cleaned.
		_, _ = fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\n", indent, clean(n.Ref.String()), orElse(words[n.Rel], clean(string(n.Rel))), shortTime(n.Since), seen)
		writeLineage(w, n.Children, indent+"  ")
	}
}
