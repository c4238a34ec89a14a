package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

func newGroupCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "group",
		Short:   "Report how healthy groups of identities are",
		Example: `  staunch group report --environment production --purpose checkout --healthy 9 --of 10`,
	}
	cmd.AddCommand(newGroupReportCmd(g))
	return cmd
}

func newGroupReportCmd(g *globals) *cobra.Command {
	var h api.GroupHealth
	cmd := &cobra.Command{
		Use:   "report --purpose PURPOSE --healthy N --of N",
		Short: "Report how many of a group are healthy",
		Long: `Report how many identities of one environment and purpose work at present. While
the newest report is young enough (limits.health_age), no account or identity is
contained as a whole of which its group could not do without (limits.min_healthy).
While it is older, none of the group is contained automatically as a whole. So
whoever reports once has to go on, such as from a health check every minute.`,
		Example: `  staunch group report --environment production --purpose checkout --healthy 9 --of 10`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if h.Purpose == "" || !cmd.Flags().Changed("healthy") || h.Of <= 0 {
				return usagef("--purpose, --healthy and --of are needed")
			}
			if h.Healthy < 0 || h.Healthy > h.Of {
				return usagef("--healthy must be from 0 to --of")
			}
			return g.withClient(func(c *client.Client) error {
				kept, err := c.ReportHealth(cmd.Context(), h)
				if err != nil {
					return err
				}
				return g.print(kept, func(w io.Writer) {
					row(w, fmt.Sprintf("%d of %d are healthy; the report knows of %d containments", kept.Healthy, kept.Of, kept.Contained))
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&h.Environment, "environment", "", "the identities' environment")
	f.StringVar(&h.Purpose, "purpose", "", "the identities' purpose (needed)")
	f.IntVar(&h.Healthy, "healthy", 0, "how many work (needed)")
	f.IntVar(&h.Of, "of", 0, "of how many (needed)")
	return cmd
}
