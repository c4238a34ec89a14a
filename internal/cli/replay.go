package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/app/offline"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
)

// loadSetup reads the configuration and everything that it names; refused rules
// are named on standard error.
func loadSetup(g *globals, path string) (*app.Setup, error) {
	cfg, err := loadConfig(path)
	if err != nil {
		return nil, err
	}
	s, err := app.Load(cfg, false)
	if err != nil {
		return nil, err
	}
	for _, e := range s.RuleErrors {
		g.errf("refused: %s\n", clean(e.Error()))
	}
	return s, nil
}

// sourceNamed returns a configured source, or a format in the realm called
// replay, trusted with every tier, since nothing outside is touched.
func sourceNamed(s *app.Setup, name string) (*pipeline.Source, error) {
	if name == "" {
		if len(s.Sources) != 1 {
			return nil, &exitError{code: ExitUsage, err: fmt.Errorf("--source is needed: the configuration has %d sources", len(s.Sources)), hint: strings.Join(append(slices.Sorted(maps.Keys(s.Sources)), "or a format"), ", ")}
		}
		for _, src := range s.Sources {
			return src, nil
		}
	}
	if src, ok := s.Sources[name]; ok {
		return src, nil
	}
	if name == app.GenericFormat {
		return nil, usagef("--source: format %s has its mapping from a configured source: name that one", name)
	}
	f, err := app.NewFormat(name, "")
	if err != nil {
		names := slices.DeleteFunc(app.FormatNames(), func(n string) bool { return n == app.GenericFormat })
		return nil, &exitError{code: ExitUsage, err: fmt.Errorf("--source: %q is neither a configured source nor a format", name), hint: "formats: " + strings.Join(names, ", ")}
	}
	return &pipeline.Source{
		Name: offline.ReplayRealm, Realm: offline.ReplayRealm, Format: f, Ceiling: staunch.TierRevoke,
		Skew: staunch.Duration(config.DefaultSkew), Lateness: staunch.Duration(config.DefaultLateness),
	}, nil
}

// replayFlags are those of replay and explain.
type replayFlags struct{ path, source, mode, trust string }

func (f *replayFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "config", "staunch.yaml", "the configuration")
	cmd.Flags().StringVar(&f.source, "source", "", "a configured source, or a format")
	cmd.Flags().StringVar(&f.mode, "mode", "enforce", "the engine's mode: shadow, recommend or enforce")
	completeWords(cmd, "mode", modeWords...)
	cmd.Flags().StringVar(&f.trust, "trust", "", "a file with how far rules are trusted: what staunch trust -o json printed")
}

// maxTrustFile bounds a file of trust in rules.
const maxTrustFile = 64 << 20

// trusted reads how far rules are trusted, where a file says.
func (f *replayFlags) trusted() ([]staunch.RuleTrust, error) {
	if f.trust == "" {
		return nil, nil
	}
	in, err := os.Open(f.trust)
	if err != nil {
		return nil, fmt.Errorf("reading how far rules are trusted: %w", err)
	}
	defer func() { _ = in.Close() }() // read only
	var list api.Trusts
	bad := func(format string, args ...any) error {
		return &staunch.Problem{Place: f.trust, Reason: fmt.Sprintf(format, args...), Hint: "staunch trust -o json makes it"}
	}
	if err := json.NewDecoder(io.LimitReader(in, maxTrustFile)).Decode(&list); err != nil {
		return nil, bad("%v", err)
	}
	switch {
	case list.V != staunch.Version:
		return nil, bad("v is %d; this release reads %d", list.V, staunch.Version)
	case list.Next != "":
		return nil, bad("is a page of a longer list; use --limit 1000, and join the pages' items")
	}
	var out []staunch.RuleTrust
	for _, r := range list.Items {
		if r.Changed != 0 {
			out = append(out, r.Trust())
		}
	}
	return out, nil
}

// load reads the configuration and finds the source in it.
func (f *replayFlags) load(g *globals) (*app.Setup, *pipeline.Source, staunch.Mode, error) {
	m, err := staunch.ParseMode(f.mode)
	if err != nil {
		return nil, nil, m, &exitError{code: ExitUsage, err: fmt.Errorf("--mode: %w", err)}
	}
	s, err := loadSetup(g, f.path)
	if err != nil {
		return nil, nil, m, err
	}
	src, err := sourceNamed(s, f.source)
	return s, src, m, err
}

func newReplayCmd(g *globals) *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay --config FILE [--source NAME] FILE...",
		Short: "Show what recorded events would have caused",
		Long: `Feed recorded events in order of (event time, id) with a simulated clock, and
print signals, decisions and would-be containments, a summary last. Nothing
outside is touched: no platform is asked, nothing is stored. NAME is a configured
source, or a format, whose records are then of a realm called replay; it may be left
out where one source is configured.

The engine's mode is taken to be enforce, so that what would be contained shows;
--mode shadow shows what the rules' and policies' own modes would have allowed.

How far rules are trusted is in the server's store and not in the configuration: give
what staunch trust -o json printed as --trust, or the rules' files decide. Demotions
hold from the first event on, promotions from when they were made.`,
		Example: `  staunch replay --config staunch.yaml --source cloudtrail last-month/*.json.gz -o json
  staunch replay --config staunch.yaml --source aws.cloudtrail events.ndjson`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, src, m, err := f.load(g)
			if err != nil {
				return err
			}
			trust, err := f.trusted()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			return offline.Replay(cmd.Context(), s, offline.ReplayOptions{
				Source: src, Files: args, In: cmd.InOrStdin(), Mode: m, Trust: trust,
				Progress: func(format string, a ...any) { g.errf(format+"\n", a...) },
			}, func(l offline.Line) error {
				if g.output == formTable {
					return replayText(out, l)
				}
				return g.writeDocument(out, l)
			})
		},
	}
	f.add(cmd)
	return cmd
}

// writeClean writes lines whose words may come from records, so that nothing in
// them reaches the terminal as a control sequence.
func writeClean(w io.Writer, lines string) error {
	for line := range strings.Lines(lines) {
		if _, err := io.WriteString(w, clean(strings.TrimSuffix(line, "\n"))+"\n"); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

// writeDocument writes one of many answers: a line of JSON, or a YAML document.
func (g *globals) writeDocument(w io.Writer, v any) error {
	if g.output != formYAML {
		return writeJSONLine(w, v)
	}
	if _, err := io.WriteString(w, "---\n"); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return writeYAML(w, v)
}

// writeJSONLine writes v on one line.
func writeJSONLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// credit says whose the rule of a signal is.
func credit(s *staunch.Signal) string {
	out := ""
	if by := staunch.Credit(s.Author, s.License); by != "" {
		out = "  (" + by + ")"
	}
	for _, r := range s.References {
		out += "  " + r
	}
	return out
}

// replayText writes one line of a replay for people.
func replayText(out io.Writer, l offline.Line) error {
	var err error
	w := &strings.Builder{}
	switch {
	case l.Signal != nil:
		s := l.Signal
		_, err = fmt.Fprintf(w, "%s  signal       %.2f  %s  %s%s\n", s.Time, s.Confidence, s.Accused, s.Title, credit(s))
	case l.Decision != nil:
		d := l.Decision
		_, err = fmt.Fprintf(w, "%s  decision     %s %s of %s (confidence %.2f, policy %s)\n", d.AsOf, d.Verdict, d.Tier, d.Scope, d.Suspicion.Confidence, d.Policy)
	case l.Containment != nil:
		c := l.Containment
		_, err = fmt.Fprintf(w, "%s  containment  %s %s, playbook %s\n", c.Changed, c.Tier, c.Subject, c.Playbook.Name)
	case l.Summary != nil:
		s := l.Summary
		when := ""
		if s.From != 0 || s.To != 0 {
			when = fmt.Sprintf(" from %s to %s", s.From, s.To)
		}
		_, err = fmt.Fprintf(w, "%s (%d rejected, %s)%s: %s, %s, %s\n", count(s.Records, "record"), s.Rejected, count(s.Duplicates, "duplicate"), when,
			count(s.Signals, "signal"), count(s.Decisions, "decision"), count(s.Containments, "would-be containment"))
	default:
		_, err = fmt.Fprintf(w, "%s record %d: %s\n", l.File, l.Record, l.Error)
	}
	if err != nil {
		return err
	}
	return writeClean(out, w.String())
}

func newExplainCmd(g *globals) *cobra.Command {
	var f replayFlags
	var all, matched bool
	cmd := &cobra.Command{
		Use:   "explain --config FILE [--source NAME] [FILE|-]",
		Short: "Say why records cause what they cause, and why not",
		Long: `Say, record by record: which rules matched and which parts of the others did not
hold, whom the signals accuse, what the suspicion is made of, which policy
decided and why the others did not, and what the guardrails say. Evidence adds up
over the input, as it would if the records came one after the other. NAME is a
configured source, or a format; it may be left out where one source is configured.

With many rules most of the answer is about those that did not match; --matched
leaves them out.`,
		Example: `  staunch explain --config staunch.yaml --source cloudtrail event.json
  staunch explain --config staunch.yaml --source okta.system_log -o json - < event.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, src, m, err := f.load(g)
			if err != nil {
				return err
			}
			trust, err := f.trusted()
			if err != nil {
				return err
			}
			in, err := openInput(cmd, args)
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // read only
			out := cmd.OutOrStdout()
			return offline.Explain(cmd.Context(), s, offline.ExplainOptions{Source: src, In: in, Mode: m, Trust: trust, AllRules: all}, func(x offline.Explained) error {
				if matched {
					x.LeaveOut()
				}
				if g.output == formTable {
					var b strings.Builder
					x.Text(&b)
					return writeClean(out, b.String())
				}
				return g.writeDocument(out, x)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&all, "all-rules", false, "name the rules of other log sources as well")
	cmd.Flags().BoolVar(&matched, "matched", false, "leave out the rules that did not match")
	return cmd
}
