package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

func newDrillCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Exercise the whole line on canaries",
		Long: `Exercise the whole line on canaries that the configuration names (drills): a labelled
record goes in as a real one would, rules and policy decide, the canary is contained
on the real platform, that is proven, and it is put back. How long each took is kept.
Nothing but a declared canary is ever touched; drills take no places of real cases
and say nothing of rules.`,
		Example: "  staunch drill run pg-canary\n  staunch drill list\n  staunch drill show drl_0123456789abcdef0123 -o json",
	}
	cmd.AddCommand(newDrillRunCmd(g), newDrillListCmd(g), newDrillShowCmd(g))
	return cmd
}

// drillPoll is how often a drill that runs is asked for.
const drillPoll = 250 * time.Millisecond

func newDrillRunCmd(g *globals) *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Run a drill and wait for its end",
		Long: `Run the drill of that name from the configuration, and wait for its end. The exit
code is 3 where it failed.`,
		Example: `  staunch drill run pg-canary
  staunch drill run pg-canary --no-wait`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				d, err := c.RunDrill(cmd.Context(), args[0])
				if err == nil && !noWait {
					d, err = drillEnd(cmd.Context(), c, d)
				}
				if err != nil {
					return err
				}
				return g.drill(d)
			})
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for its end")
	return cmd
}

// drillEnd asks for a drill until it is over.
func drillEnd(ctx context.Context, c *client.Client, d api.DrillStory) (api.DrillStory, error) {
	for !d.Drill.Phase.Over() {
		select {
		case <-ctx.Done():
			return d, ctx.Err()
		case <-time.After(drillPoll):
		}
		var err error
		if d, err = c.Drill(ctx, d.Drill.ID); err != nil {
			return d, err
		}
	}
	return d, nil
}

// drill prints a drill; one that failed is an error.
func (g *globals) drill(s api.DrillStory) error {
	d := s.Drill
	err := g.print(s, func(w io.Writer) {
		field(w, "drill", d.ID)
		field(w, "name", d.Name)
		field(w, "canary", d.Canary)
		field(w, "source", d.Source)
		field(w, "asked for by", d.By)
		field(w, "phase", d.Phase)
		field(w, "failure", d.Failure)
		field(w, "containment", d.Containment)
		field(w, "began", d.Began)
		field(w, "ended", d.Ended)
		if d.ContainMS > 0 {
			field(w, "time to contain", fmt.Sprintf("%s, %s are allowed", ms(d.ContainMS), d.Within.Std()))
		}
		if d.RestoreMS > 0 {
			field(w, "time to restore", fmt.Sprintf("%s, %s are allowed", ms(d.RestoreMS), d.RestoreWithin.Std()))
		}
		for _, k := range d.Kept {
			field(w, "stays", k)
		}
		for _, m := range d.Marks {
			row(w, "+"+ms(m.AfterMS), m.Name)
		}
	})
	if err == nil && d.Phase == staunch.DrillFailed {
		err = bad("the drill failed: %s", d.Failure)
	}
	return err
}

func newDrillListCmd(g *globals) *cobra.Command {
	var name string
	var page client.Page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the drills that are configured, and those that ran",
		Example: "  staunch drill list\n  staunch drill list --name pg-canary -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if page.Limit < 0 || page.Limit > 1000 {
				return usagef("--limit must be from 1 to 1000")
			}
			return g.withClient(func(c *client.Client) error {
				l, err := c.Drills(cmd.Context(), name, page)
				if err != nil {
					return err
				}
				return g.print(l, func(w io.Writer) { writeDrills(w, l) })
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "those of one name")
	cmd.Flags().IntVar(&page.Limit, "limit", 0, "at most so many (default 100, at most 1000)")
	cmd.Flags().StringVar(&page.After, "after", "", "go on after the page before")
	return cmd
}

func writeDrills(w io.Writer, l api.Drills) {
	if len(l.Configured) == 0 {
		row(w, "the configuration has no drills")
	} else {
		row(w, "NAME", "CANARY", "EVERY", "NEXT", "PASSED", "FAILED", "P50", "LONGEST", "ALLOWED", "LAST")
	}
	for _, d := range l.Configured {
		every := "by hand"
		if d.Every > 0 {
			every = d.Every.Std().String()
		}
		row(w, d.Name, d.Canary, every, d.Next, d.Passed, d.Failed, took(d.ContainP50MS), took(d.ContainMaxMS), d.Within.Std(), orElse(string(d.LastPhase), "-"))
	}
	if len(l.Items) == 0 {
		return
	}
	heading(w, "Runs")
	row(w, "ID", "BEGAN", "NAME", "BY", "PHASE", "CONTAINED", "RESTORED", "FAILURE")
	for _, d := range l.Items {
		row(w, d.ID, d.Began, d.Name, d.By, d.Phase, took(d.ContainMS), took(d.RestoreMS), orElse(d.Failure, "-"))
	}
	if l.Next != "" {
		row(w, "… more: --after "+l.Next)
	}
}

// took is a time in milliseconds, "-" for none.
func took(f float64) string {
	if f == 0 {
		return "-"
	}
	return ms(f)
}

func newDrillShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show one drill, with the time of each of its marks",
		Long:    "Show one drill, with the time of each of its marks. The exit code is 3 where it failed.",
		Example: "  staunch drill show drl_0123456789abcdef0123",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				d, err := c.Drill(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return g.drill(d)
			})
		},
	}
}
