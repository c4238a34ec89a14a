package cli

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/detect/ruletest"
	formats "github.com/staunch-project/staunch/internal/format/registry"
)

// errRuleTestsFailed says that rule tests ran and failed; the report has been
// printed.
var errRuleTestsFailed = bad("rule tests failed")

func newRulesTestCmd(g *globals) *cobra.Command {
	var l ruleFlags
	var mappings []string
	cmd := &cobra.Command{
		Use:   "test PATH",
		Short: "Run the tests that stand beside rules and correlations (*.txtar)",
		Long: `Run the tests of a rule file, or of all rule files of a folder. Beside x.yml
stands x.txtar, whose files are events as the vendor writes them: hit-NAME.json
has to match, miss-NAME.json must not. hit-NAME.ndjson is a sequence of events, one
a line. A file called accuse says whom hits accuse, "hit-NAME.json REF" a line, with
refs in the realm "test", or nobody.

Where staunch has a format for the rule's product, every hit is read with it: the
format has to route the event to the rule, and somebody has to be accused.
--mapping adds a format of your own, which comes first for the product under its
logsource.

Correlations are tested by x.sequences.txtar: in each hit-NAME.ndjson a correlation
of x.yml has to hold, in a miss-NAME.ndjson none may. Each event is read with the
format for the product of the rule that it matches, else as plain JSON. The rules
that correlations refer to have to be at PATH as well.

What came of each sequence is told, and each failure with its file, event, what was
wanted, what came, and the parts of the rule that decided; then the rule files
without a test, and the correlations that hold in no hit or are left out. A test that stands beside
no rule file of its name fails. The exit code is 3 when a test or a rule fails, or
when there is no test.`,
		Example: `  staunch rules test rules/
  staunch rules test rules/aws/access-key-created.yml -o json
  staunch rules test rules/gateway --mapping gateway.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			opts, err := l.options()
			if err != nil {
				return err
			}
			o := ruletest.Options{Rules: opts}
			if o.Correlations, err = l.correlations(); err != nil {
				return err
			}
			for _, m := range mappings {
				f, err := app.NewFormat(app.GenericFormat, m)
				if err != nil {
					return err
				}
				o.Formats = append(o.Formats, f)
			}
			all, err := formats.Formats()
			if err != nil {
				return err
			}
			o.Formats = append(o.Formats, all...)
			st, err := os.Stat(args[0])
			if err != nil {
				return fmt.Errorf("opening the rules: %w", err)
			}
			var fsys fs.FS
			if dir := args[0]; st.IsDir() {
				fsys, o.Prefix = os.DirFS(dir), filepath.ToSlash(filepath.Clean(dir))
			} else {
				dir, name := filepath.Split(args[0])
				dir = filepath.Clean(dir)
				fsys, o.Prefix, o.Roots = os.DirFS(dir), filepath.ToSlash(dir), []string{name}
			}
			rep, err := ruletest.Run(fsys, o)
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
			switch {
			case rep.OK():
			case len(rep.Failures) > 0:
				return errRuleTestsFailed
			case rep.Rules+rep.Correlations == 0:
				return &exitError{code: ExitBad, err: fmt.Errorf("no rule is at %s, so nothing was tested", args[0]), hint: "the names of rule files end in .yml or .yaml"}
			default:
				return &exitError{code: ExitBad, err: fmt.Errorf("no test is at %s, so nothing was tested", args[0]), hint: "the tests of x.yml stand beside it in x.txtar; staunch rules test --help says what is in it"}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&mappings, "mapping", nil, "a mapping file that reads the records of a product of your own (repeatable)")
	l.add(cmd)
	return cmd
}
