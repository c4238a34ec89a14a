package cli

import (
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersionCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  staunch version\n  staunch version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				V       int    `json:"v"`
				Version string `json:"version"`
				Go      string `json:"go"`
				System  string `json:"system"`
			}{1, version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return g.print(v, func(w io.Writer) { row(w, "staunch "+v.Version+" ("+v.Go+", "+v.System+")") })
		},
	}
}
