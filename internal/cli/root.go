package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api/client"
)

// version is the release; the build sets it with
// -ldflags "-X github.com/staunch-project/staunch/internal/cli.version=…".
var version = "dev"

// defaultURL is where a server listens when its configuration does not say.
const defaultURL = "http://127.0.0.1:8422"

// Env is what a command line runs in.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv returns a variable, "" where it is not set.
	Getenv func(string) string
}

// globals is what all commands share.
type globals struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	url, token, tokenFile, caFile string
	output                        string
	// yes answers every question.
	yes bool
}

// Main runs a command line and returns the exit code. It ends early when ctx
// does.
func Main(ctx context.Context, args []string, env Env) int {
	g := &globals{stdin: env.Stdin, stdout: forTerminal(env.Stdout), stderr: forTerminal(env.Stderr), getenv: env.Getenv}
	root := newRoot(g)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "required flag(s) ") { // cobra has no type for it
		err = &exitError{code: ExitUsage, err: err, hint: cmd.CommandPath() + " --help"}
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &exitError{code: ExitFailure, err: errors.New("interrupted")}
	}
	if err != nil {
		g.tell(err)
	}
	return exitCode(err)
}

// Root returns the root command, for the generated documentation.
func Root() *cobra.Command {
	root := newRoot(&globals{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }})
	root.InitDefaultCompletionCmd()
	return root
}

const (
	groupCases = "cases"
	groupLook  = "look"
	groupRun   = "run"
	groupRules = "rules"
)

func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "staunch",
		Short: "Contain compromised identities",
		Long: `staunch contains identities: when a service account, API key, session, human
account or AI agent shows that it is compromised, staunch takes away what it can
do, proves that it took effect, tells people, and puts everything back when it
was wrong.

Commands that look at or change what a server keeps go through its API. They need
to know where it is (--url) and who you are (--token-file).`,
		Example: `  staunch list --open
  staunch contain account:pg/main:role:app_rw --tier isolate --reason "on a paste site"
  staunch show con_0123456789abcdef0123
  staunch release con_0123456789abcdef0123 --reason "a false alarm" --rotated`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				msg := fmt.Sprintf("there is no command %q", args[0])
				hint := "staunch --help lists the commands"
				if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
					hint = "did you mean: " + strings.Join(s, ", ") + "?"
				}
				return &exitError{code: ExitUsage, err: errors.New(msg), hint: hint}
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch g.output {
			case formTable, formJSON, formYAML:
				return nil
			}
			return usagef("--output %q is not table, json or yaml", g.output)
		},
	}
	root.SetIn(g.stdin)
	root.SetOut(g.stdout)
	root.SetErr(g.stderr)
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return &exitError{code: ExitUsage, err: err, hint: cmd.CommandPath() + " --help"}
	})

	f := root.PersistentFlags()
	f.StringVar(&g.url, "url", "", "the server's URL (STAUNCH_URL; default "+defaultURL+")")
	f.StringVar(&g.token, "token", "", "the API token (STAUNCH_TOKEN); others can see it in the list of processes, so prefer --token-file")
	f.StringVar(&g.tokenFile, "token-file", "", "a file with the API token (STAUNCH_TOKEN_FILE; default staunch/token in the user's configuration folder)")
	f.StringVarP(&g.output, "output", "o", formTable, "how to answer: table, json or yaml")
	completeWords(root, "output", formTable, formJSON, formYAML)
	f.StringVar(&g.caFile, "ca-file", "", "PEM certificates to trust in place of the system's (STAUNCH_CA_FILE)")

	root.AddGroup(
		&cobra.Group{ID: groupCases, Title: "Containing:"},
		&cobra.Group{ID: groupLook, Title: "Looking:"},
		&cobra.Group{ID: groupRules, Title: "Writing rules, policies and mappings (these need no server):"},
		&cobra.Group{ID: groupRun, Title: "Running a server:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupCases, newPlanCmd(g), newApplyCmd(g), newContainCmd(g), newApproveCmd(g), newReleaseCmd(g), newJudgeCmd(g), newClearCmd(g), newAdvanceCmd(g), newExtendCmd(g))
	add(groupLook, newListCmd(g), newShowCmd(g), newEvidenceCmd(g), newIdentityCmd(g), newTrustCmd(g), newBacktestCmd(g))
	add(groupRules, newNormalizeCmd(g), newMatchCmd(g), newExplainCmd(g), newReplayCmd(g), newRulesCmd(g), newPolicyCmd(g), newValidateCmd(g))
	add(groupRun, newDemoCmd(g), newInitCmd(g), newServeCmd(g), newDoctorCmd(g), newDrillCmd(g), newReloadCmd(g), newTokenCmd(g), newBreakerCmd(g), newGroupCmd(g), newStoreCmd(g), newAuditCmd(g), newSealCmd(g))
	root.AddCommand(newVersionCmd(g))
	checkArgs(root)
	return root
}

// checkArgs turns what cobra says of arguments into usage errors, and has
// commands that only have subcommands refuse what is none.
func checkArgs(cmd *cobra.Command) {
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, a []string) error {
			err := args(c, a)
			var ee *exitError
			if err == nil || errors.As(err, &ee) {
				return err
			}
			given := fmt.Sprintf("%d arguments are", len(a))
			if len(a) < 2 {
				given = [...]string{"no argument is", "one argument is"}[len(a)]
			}
			return &exitError{code: ExitUsage, err: fmt.Errorf("%s given, and it is called as: %s", given, c.UseLine()), hint: c.CommandPath() + " --help"}
		}
	}
	if cmd.HasSubCommands() && cmd.RunE == nil && cmd.Run == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(c *cobra.Command, a []string) error {
			if len(a) > 0 {
				c.SuggestionsMinimumDistance = c.Root().SuggestionsMinimumDistance
				hint := c.CommandPath() + " --help"
				if s := c.SuggestionsFor(a[0]); len(s) > 0 {
					hint = "did you mean: " + strings.Join(s, ", ") + "?"
				}
				return &exitError{code: ExitUsage, err: fmt.Errorf("%s has no command %q", c.CommandPath(), a[0]), hint: hint}
			}
			return &exitError{code: ExitUsage, err: fmt.Errorf("%s needs a command", c.CommandPath()), hint: c.CommandPath() + " --help"}
		}
	}
	for _, c := range cmd.Commands() {
		checkArgs(c)
	}
}

func (g *globals) errf(format string, args ...any) {
	_, _ = fmt.Fprintf(g.stderr, format, args...) // there is nowhere else to tell
}

// outf writes to standard output what is for people alone.
func (g *globals) outf(format string, args ...any) {
	_, _ = fmt.Fprintf(g.stdout, format, args...) // who closed it wants no more
}

// client makes the API's client from flags, environment and files.
func (g *globals) client() (*client.Client, error) {
	token, err := g.findToken()
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Options{
		URL:   orElse(g.url, orElse(g.getenv("STAUNCH_URL"), defaultURL)),
		Token: token, CAFile: orElse(g.caFile, g.getenv("STAUNCH_CA_FILE")), UserAgent: "staunch/" + version,
	})
	var p *staunch.Problem
	if errors.As(err, &p) {
		return nil, &exitError{code: ExitUsage, err: err, hint: p.Hint}
	}
	return c, err
}

// findToken looks where the more deliberate choice was made first: flags, then
// the environment, then the file in its usual place.
func (g *globals) findToken() (staunch.Secret, error) {
	if g.token != "" && g.tokenFile != "" {
		return staunch.Secret{}, usagef("--token and --token-file are both given")
	}
	switch {
	case g.token != "":
		return staunch.NewSecret(g.token), nil
	case g.tokenFile != "":
		return readToken(g.tokenFile)
	case g.getenv("STAUNCH_TOKEN") != "":
		return staunch.NewSecret(g.getenv("STAUNCH_TOKEN")), nil
	case g.getenv("STAUNCH_TOKEN_FILE") != "":
		return readToken(g.getenv("STAUNCH_TOKEN_FILE"))
	}
	s, err := readToken(g.usualTokenFile())
	if errors.Is(err, os.ErrNotExist) {
		return staunch.Secret{}, nil // the server says that it wants one
	}
	return s, err
}

// usualTokenFile is where a token is looked for, "" where the system does not
// say.
func (g *globals) usualTokenFile() string {
	dir := g.getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home := g.getenv("HOME")
		var err error
		if dir = filepath.Join(home, ".config"); home == "" {
			if dir, err = os.UserConfigDir(); err != nil {
				return ""
			}
		}
	}
	return filepath.Join(dir, "staunch", "token")
}

func readToken(path string) (staunch.Secret, error) {
	if path == "" {
		return staunch.Secret{}, os.ErrNotExist
	}
	f, err := os.Open(path)
	if err != nil {
		return staunch.Secret{}, fmt.Errorf("reading the token: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(f, 4097))
	if err != nil {
		return staunch.Secret{}, fmt.Errorf("reading the token: %w", err)
	}
	s := strings.TrimSpace(string(b))
	if s == "" || len(b) > 4096 || strings.ContainsAny(s, " \t\r\n") {
		return staunch.Secret{}, &staunch.Problem{Place: path, Reason: "does not have one token and nothing else"}
	}
	return staunch.NewSecret(s), nil
}

// withClient runs fn with a client and closes it.
func (g *globals) withClient(fn func(*client.Client) error) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

// terminal says whether a person sits at the other end of stdin.
func (g *globals) terminal() bool {
	f, ok := g.stdin.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// confirm asks before something that cannot be undone, when a person is there to
// answer. Scripts are taken at their word.
func (g *globals) confirm(format string, args ...any) error {
	if g.yes || !g.terminal() {
		return nil
	}
	return g.ask(fmt.Sprintf(format, args...))
}

// showFirst shows, before a person at a terminal is asked to confirm, what would be
// done. That it could not be had is said, and keeps nobody from going on.
func (g *globals) showFirst(table func(w io.Writer) error) {
	if g.yes || !g.terminal() {
		return
	}
	var failed error
	if err := g.printTo(g.stderr, func(w io.Writer) { failed = table(w) }); err != nil {
		return
	}
	if failed != nil {
		g.errf("What it would do could not be had: %s\n", clean(failed.Error()))
	}
}

func (g *globals) ask(question string) error {
	g.errf("%s [y/N] ", clean(question))
	var line []byte
	b := make([]byte, 1)
	for len(line) < 64 {
		n, err := g.stdin.Read(b)
		if n == 1 && b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		if n == 1 || err != nil {
			break
		}
	}
	switch strings.ToLower(strings.TrimSpace(string(line))) {
	case "y", "yes":
		return nil
	}
	return &exitError{code: ExitConflict, err: errors.New("not confirmed; nothing was done")}
}

// yesFlag adds --yes to a command that asks.
func yesFlag(g *globals, cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&g.yes, "yes", "y", false, "do not ask")
}
