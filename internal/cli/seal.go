package cli

import (
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
)

func newSealCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Show and rotate the key that seals secrets",
		Example: `  staunch seal status --config staunch.yaml
  staunch seal rotate --config staunch.yaml`,
	}
	cmd.AddCommand(newSealStatusCmd(g), newSealRotateCmd(g))
	return cmd
}

func newSealStatusCmd(g *globals) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Count the sealed values by the key that they need",
		Long: `Count the sealed values by the key that they need. It reads the database itself:
with SQLite, stop the server first.`,
		Example: `  staunch seal status --config staunch.yaml
  staunch seal status -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			rep, err := app.SealStatus(cmd.Context(), cfg)
			if err != nil {
				return stopFirst(err)
			}
			return g.print(rep, func(w io.Writer) { writeRotation(w, rep) })
		},
	}
	cmd.Flags().StringVar(&path, "config", "staunch.yaml", "the configuration")
	return cmd
}

func newSealRotateCmd(g *globals) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Seal everything with a new key and drop the old one",
		Long: `Add a key to the key file, seal every value in the database anew with it, and take
the old keys out of the file once nothing needs them. The key that holds the
record log together stays.

Stop every server first: a running one has the old keys in memory. It may be
interrupted at any time; run it again, and it goes on. Afterwards copy the key
file to every node before you start it. A backup of the database from before
needs the key file from before: keep the two together.

The exit code is 3 when a value opens with no key; the old keys then stay.`,
		Example: `  staunch seal rotate --config staunch.yaml
  staunch seal rotate --config /etc/staunch/staunch.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			rep, err := app.RotateKey(cmd.Context(), cfg, "cli")
			if err != nil && len(rep.Unreadable) == 0 {
				return stopFirst(err)
			}
			perr := g.print(rep, func(w io.Writer) { writeRotation(w, rep) })
			if err != nil {
				return errors.Join(&exitError{code: ExitBad, err: err, hint: "restore these values from a backup, or end their cases"}, perr)
			}
			return perr
		},
	}
	cmd.Flags().StringVar(&path, "config", "staunch.yaml", "the configuration")
	return cmd
}

// stopFirst hints at the server that is in the way.
func stopFirst(err error) error {
	if errors.Is(err, staunch.ErrConflict) {
		return &exitError{code: ExitConflict, err: err, hint: "stop the server, then run it again"}
	}
	return err
}

func writeRotation(w io.Writer, rep app.Rotation) {
	field(w, "sealing key", rep.Key)
	if rep.Sealed > 0 {
		field(w, "sealed anew", rep.Sealed)
	}
	for _, id := range rep.Dropped {
		field(w, "dropped", id)
	}
	heading(w, "Values by key")
	for _, id := range slices.Sorted(maps.Keys(rep.Keys)) {
		row(w, id, strconv.Itoa(rep.Keys[id]))
	}
	for _, u := range rep.Unreadable {
		field(w, "does not open", u)
	}
	if rep.MoreUnreadable > 0 {
		field(w, "and more", rep.MoreUnreadable)
	}
}
