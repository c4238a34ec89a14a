package cli

import (
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/store"
)

func newStoreCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Show what the database has, how long it is kept, and what goes next",
		Long: `Show what each table has, how large the database is, how long rows are kept, and
what the last round of deletions did. Numbers of large tables are estimates, with a
~ before them.`,
		Example: `  staunch store
  staunch store -o json
  staunch store preview`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				st, err := c.Storage(cmd.Context())
				if err != nil {
					return err
				}
				return g.print(st, func(w io.Writer) {
					row(w, "TABLE", "ROWS", "BYTES", "OLDEST", "NEWEST")
					for _, t := range st.Tables {
						about := ""
						if t.Estimate {
							about = "~"
						}
						row(w, t.Name, about+text(t.Rows), about+roundBytes(t.Bytes), orElse(text(t.Oldest), "-"), orElse(text(t.Newest), "-"))
					}
					heading(w, "Size")
					field(w, "in use", roundBytes(st.Size.Used))
					if st.Size.Free > 0 {
						field(w, "free", roundBytes(st.Size.Free)+", used again before the file grows")
					}
					if st.MaxSize > 0 {
						field(w, "at most", roundBytes(st.MaxSize))
					}
					heading(w, "Kept for")
					for _, name := range slices.Sorted(maps.Keys(st.Ages)) {
						field(w, name, st.Ages[name])
					}
					field(w, "records", "for ever")
					if st.Last != nil {
						heading(w, "Last round on this node")
						writeSweep(w, *st.Last)
					}
					if st.Error != "" {
						field(w, "error", st.Error)
					}
				})
			})
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "preview",
		Short: "Say what would be deleted now, and delete nothing",
		Long: `Say what would be deleted now, being older than it is kept for, and what is as old
and stays since a case rests on it. Nothing is deleted. What goes only after
something else, such as the events of a case that goes, is not counted.`,
		Example: "  staunch store preview\n  staunch store preview -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				p, err := c.PreviewRetention(cmd.Context())
				if err != nil {
					return err
				}
				return g.print(p, func(w io.Writer) { writeSweep(w, p.Sweep) })
			})
		},
	})
	return cmd
}

func writeSweep(w io.Writer, s store.Sweep) {
	row(w, "KIND", "GO", "STAY THOUGH OLD", "FROM", "TO", "OLDEST THAT STAYS")
	for _, k := range s.Kinds {
		row(w, string(k.Kind), k.Deleted, k.Held, orElse(text(k.From), "-"), orElse(text(k.To), "-"), orElse(text(k.Oldest), "-"))
	}
	if s.Truncated {
		row(w, "… and more: it looked for as long as it may")
	}
	if s.BySize {
		row(w, "the database is larger than retention.max_size: events go before their age")
	}
	if s.OverSize {
		row(w, "the database is larger than retention.max_size, and what is left is too young to go")
	}
}

func roundBytes(n int64) string { return config.Bytes(n).Rounded().String() }
