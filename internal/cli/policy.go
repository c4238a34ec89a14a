package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/policies"
)

// errTestsFailed says that policy tests ran and failed; the report has been
// printed.
var errTestsFailed = errors.New("policy tests failed")

func newPolicyCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Work on policies", Example: "  staunch policy test ./policies"}
	test := &cobra.Command{
		Use:   "test [FOLDER]",
		Short: "Run the tests that stand beside policies (*_test.yaml)",
		Long: `Compile the policies of a folder and run the tests that stand beside them
(*_test.yaml). Without a folder the policies that staunch ships are tested. The
exit code is 3 when a test fails, or when there is none.`,
		Example: `  staunch policy test
  staunch policy test ./policies -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var fsys fs.FS = policies.FS
			if len(args) == 1 {
				st, err := os.Stat(args[0])
				if err != nil {
					return fmt.Errorf("opening the policies: %w", err)
				}
				if !st.IsDir() {
					return fmt.Errorf("opening the policies: %s is not a folder", args[0])
				}
				fsys = os.DirFS(args[0])
			}
			rep, err := decide.RunTests(fsys)
			if len(args) == 1 {
				placeIn(args[0], err)
				for i, f := range rep.Failures {
					rep.Failures[i].Place = filepath.Join(args[0], f.Place)
				}
			}
			if err != nil {
				return err
			}
			if g.output == formTable {
				if err := writeClean(g.stdout, rep.String()); err != nil {
					return err
				}
			} else if err := g.print(rep, nil); err != nil {
				return err
			}
			if !rep.OK() && len(rep.Failures) == 0 {
				return &exitError{code: ExitBad, err: errors.New("no test is there, so nothing was tested"), hint: "tests stand beside the policies, in files whose names end in _test.yaml"}
			}
			if !rep.OK() {
				return errTestsFailed
			}
			return nil
		},
	}
	cmd.AddCommand(test)
	return cmd
}

// placeIn puts a folder before the places of problems in files of it.
func placeIn(folder string, err error) {
	switch e := err.(type) { //nolint:errorlint // every one of them is looked at, not the first
	case *staunch.Problem:
		e.Place = filepath.Join(folder, e.Place)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			placeIn(folder, one)
		}
	case interface{ Unwrap() error }:
		placeIn(folder, e.Unwrap())
	}
}
