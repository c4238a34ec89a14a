package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/app/offline"
	"github.com/staunch-project/staunch/internal/format"
)

// openInput opens the file that a command reads: the last argument, or standard
// input for "-" and for none.
func openInput(cmd *cobra.Command, args []string) (io.ReadCloser, error) {
	if len(args) == 0 || args[0] == "-" {
		return &input{ReadCloser: io.NopCloser(cmd.InOrStdin()), name: "standard input", stderr: cmd.ErrOrStderr()}, nil
	}
	f, err := os.Open(args[0])
	if err != nil {
		return nil, fmt.Errorf("opening the input: %w", err)
	}
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, errors.Join(usagef("%s is a folder, and a file is wanted", args[0]), f.Close())
	}
	return &input{ReadCloser: f, name: args[0], stderr: cmd.ErrOrStderr()}, nil
}

// input says, when it is closed, that nothing was in it: a command that answers
// with nothing would leave open whether it looked.
type input struct {
	io.ReadCloser
	name   string
	stderr io.Writer
	got    bool // something, or an error that is told
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.ReadCloser.Read(p)
	i.got = i.got || n > 0 || err != nil && !errors.Is(err, io.EOF)
	return n, err
}

func (i *input) Close() error {
	if !i.got {
		_, _ = fmt.Fprintf(i.stderr, "note: %s is empty\n", clean(i.name)) // there is nowhere else to tell
	}
	return i.ReadCloser.Close()
}

// formatNamed returns the format that a command line names.
func formatNamed(name, mapping string) (format.Format, error) {
	if (name == app.GenericFormat) != (mapping != "") {
		if mapping != "" {
			return nil, usagef("--mapping is for --source %s alone, not for %q", app.GenericFormat, name)
		}
		return nil, &exitError{code: ExitUsage, err: fmt.Errorf("format %s needs a mapping file", name), hint: "give --mapping FILE"}
	}
	f, err := app.NewFormat(name, mapping)
	if errors.Is(err, staunch.ErrNotFound) {
		return nil, &exitError{code: ExitUsage, err: err}
	}
	return f, err
}

// wantJSONLines refuses the output that a command of JSON lines does not have.
func wantJSONLines(cmd *cobra.Command, g *globals) error {
	if g.output == formYAML {
		return usagef("%s writes JSON lines, not YAML", cmd.CommandPath())
	}
	return nil
}

func newNormalizeCmd(g *globals) *cobra.Command {
	var source, mapping string
	cmd := &cobra.Command{
		Use:   "normalize --source NAME [FILE|-]",
		Short: "Map records to OCSF JSON, one line per record",
		Long: `Map records to OCSF JSON, one line per record, in order. NAME is a format's name
(see "staunch version -o json" for the list); generic takes --mapping FILE.

A record that cannot be mapped gives {"error":...,"record":N} in its place, and
the exit code is 3 at the end. Records are counted from 1; blank lines are none,
a broken line is one. Input may be an object, an array, NDJSON, a vendor's
envelope, and gzipped.`,
		Example: `  staunch normalize --source aws.cloudtrail events.json.gz
  staunch normalize --source generic --mapping leaks.yaml < leaks.ndjson`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wantJSONLines(cmd, g); err != nil {
				return err
			}
			f, err := formatNamed(source, mapping)
			if err != nil {
				return err
			}
			in, err := openInput(cmd, args)
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // read only
			return offline.Normalize(f, in, cmd.OutOrStdout(), staunch.TimeOf(time.Now()))
		},
	}
	cmd.Flags().StringVar(&source, "source", "", "the records' format")
	cmd.Flags().StringVar(&mapping, "mapping", "", "the mapping file, for format generic")
	must(cmd.MarkFlagRequired("source"))
	completeFormats(cmd, "source")
	return cmd
}

// completeFormats completes a flag with the formats' names.
func completeFormats(cmd *cobra.Command, flag string) {
	must(cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return app.FormatNames(), cobra.ShellCompDirectiveNoFileComp
	}))
}

// completeWords completes a flag with the only words that it takes.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
}

// The words of flags that several commands have.
var (
	modeWords    = []string{"shadow", "recommend", "enforce"}
	verdictWords = []string{"wrong", "right"}
)

// must panics where a command is put together wrongly, which every run shows.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
