package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/app/offline"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
)

func newMatchCmd(g *globals) *cobra.Command {
	var source, mapping, logsource string
	var rules []string
	var details, correlations bool
	var l ruleFlags
	cmd := &cobra.Command{
		Use:   "match --rules PATH --source NAME [FILE|-]",
		Short: "Evaluate Sigma rules on records, one line per record",
		Long: `Evaluate the Sigma rules of files and folders on records. For each record one
line {"record":N,"rules":[ids...]} is printed; a broken record gives
{"record":N,"error":...}, and the exit code is 3 at the end. A rule without id is
named by its path and title. With --details a line has "matches" too where rules
match: the title, level, author, licence and references of each. With -o table
there is a line per match instead.

NAME is a format's name; its records are of the format's log source. json
evaluates every rule whatever its log source. With --logsource only the rules are
evaluated whose log source has all the parts that it names, whatever the format's
log source; parts that it does not name are free.

With --correlations the records are then taken in the order of their time, and for
each signal that a correlation would make one more line
{"correlation":ID,"records":[N...],...} follows, with --details of its "rule" too.
How many records count for none, such as those without a time, is told on standard
error. Without it correlations are
checked and not evaluated.

A rule that correlations refer to makes no signal of its own, unless one of them
says generate: true. Its matches stand under "base", and not under "rules", with
"matches" of both.

Rules that are not supported are named on standard error with file and line.`,
		Example: `  staunch match --rules rules/ --source aws.cloudtrail events.ndjson
  staunch match --rules rules/ --source aws.cloudtrail --correlations events.ndjson
  staunch match --rules rules/ --rules more/rule.yml --source json --logsource product=github,service=audit -
  staunch match --rules rules/ --source okta.system_log -o table events.ndjson`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wantJSONLines(cmd, g); err != nil {
				return err
			}
			if correlations && g.output == formTable && cmd.Flags().Changed("output") {
				return usagef("--correlations writes JSON lines, not a table")
			}
			f, err := formatNamed(source, mapping)
			if err != nil {
				return err
			}
			opts, err := l.options()
			if err != nil {
				return err
			}
			ls, err := parseLogsource(logsource)
			if err != nil {
				return err
			}
			loaded, err := l.load(opts, rules...)
			if err != nil {
				return err
			}
			for _, e := range loaded.Errors {
				g.errf("refused: %s\n", clean(e.Error()))
			}
			if len(loaded.Rules) == 0 {
				return &staunch.Problem{Place: strings.Join(rules, ", "), Reason: "has no rule that can be used"}
			}
			set, corrs := loaded.set, loaded.correlations
			if ls != nil {
				within := sigma.Within(loaded.Rules, *ls)
				if len(within) == 0 {
					g.errf("none of the %d rules is for --logsource %s\n", len(loaded.Rules), logsource)
				}
				if set, err = sigma.Compile(within); err != nil {
					return fmt.Errorf("compiling the rules: %w", err)
				}
				// Correlations of rules that are left out have nothing to count.
				corrs, _ = loaded.docs.Compile(set, loaded.options)
			}
			referring := corrs
			if !correlations {
				corrs = nil
			}
			in, err := openInput(cmd, args)
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // read only
			o := offline.MatchOptions{Set: set, Referring: referring, Correlations: corrs, Format: f, All: ls != nil, Details: details, In: in, Out: cmd.OutOrStdout()}
			o.Uncounted = func(n int, first error) {
				g.errf("%d records that rules matched are left out of the correlations; %s\n", n, clean(first.Error()))
			}
			if g.output != formTable || !cmd.Flags().Changed("output") {
				return offline.Match(o)
			}
			return g.matchTable(o)
		},
	}
	cmd.Flags().StringArrayVar(&rules, "rules", nil, "a rule file or a folder of rules (repeatable)")
	cmd.Flags().StringVar(&source, "source", "", "the records' format")
	cmd.Flags().StringVar(&mapping, "mapping", "", "the mapping file, for format generic")
	cmd.Flags().StringVar(&logsource, "logsource", "", "evaluate only rules for this log source: product=P[,service=S][,category=C]")
	cmd.Flags().BoolVar(&details, "details", false, "tell title, author, licence and references of the rules that match")
	cmd.Flags().BoolVar(&correlations, "correlations", false, "evaluate correlations over the records, and print their signals after them")
	l.add(cmd)
	must(cmd.MarkFlagRequired("rules"))
	must(cmd.MarkFlagRequired("source"))
	completeFormats(cmd, "source")
	return cmd
}

// matchTable writes a line per match, for people.
func (g *globals) matchTable(o offline.MatchOptions) error {
	var failed error
	err := g.printTo(o.Out, func(w io.Writer) {
		row(w, "RECORD", "RULE", "LEVEL", "TITLE", "AUTHOR", "LICENCE", "REFERENCES")
		o.Table = func(record int, r *sigma.Rule, base bool, broken error) {
			if broken != nil {
				row(w, record, "-", "-", "cannot be used: "+broken.Error(), "-", "-", "-")
				return
			}
			title := r.Title
			if base {
				title += " (counts for correlations)"
			}
			row(w, record, r.ID, orElse(r.Level, "-"), title, orElse(r.Author, "-"), orElse(r.License, "-"), orElse(text(r.References), "-"))
		}
		failed = offline.Match(o)
	})
	if err != nil {
		return err
	}
	return failed
}

// ruleFlags say how rules are read.
type ruleFlags struct {
	placeholders, pipelines []string
	mmdb                    string
}

func (f *ruleFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.placeholders, "placeholder", nil, "a value for Sigma's expand modifier: NAME=VALUE (repeatable)")
	cmd.Flags().StringArrayVar(&f.pipelines, "pipeline", nil, "a file that translates rules' fields and log sources (repeatable)")
	cmd.Flags().StringVar(&f.mmdb, "mmdb", "", "a database of places in the MaxMind DB format, for impossible_travel")
}

func (f *ruleFlags) options() (sigma.Options, error) {
	values, err := parsePlaceholders(f.placeholders)
	if err != nil {
		return sigma.Options{}, err
	}
	pipelines, err := sigma.LoadPipelines(f.pipelines...)
	return sigma.Options{Placeholders: values, Pipelines: pipelines}, err
}

// correlations says how correlations are compiled where no configuration does.
func (f *ruleFlags) correlations() (correlate.Options, error) {
	o := correlate.Options{Lateness: config.DefaultLateness}
	var err error
	if f.mmdb != "" {
		o.Geo, err = app.OpenGeo(f.mmdb)
	}
	return o, err
}

// loadedRules are rules with the correlations over them.
type loadedRules struct {
	*sigma.Loaded
	set          *sigma.Set
	docs         correlate.Reader
	options      correlate.Options
	correlations *correlate.Set
}

// load reads rules and correlations. What is refused is in its Errors.
func (f *ruleFlags) load(opts sigma.Options, paths ...string) (*loadedRules, error) {
	l := new(loadedRules)
	var err error
	if l.options, err = f.correlations(); err != nil {
		return nil, err
	}
	opts.Correlation = l.docs.Read
	l.Loaded = sigma.LoadPaths(opts, paths...)
	if l.set, err = sigma.Compile(l.Rules); err != nil {
		return nil, fmt.Errorf("compiling the rules: %w", err)
	}
	var refused []*sigma.RuleError
	l.correlations, refused = l.docs.Compile(l.set, l.options)
	l.Errors = append(l.Errors, refused...)
	l.Notes = append(l.Notes, l.correlations.Left()...)
	l.Refused += l.docs.Len() - len(l.correlations.Rules()) - len(l.correlations.Left())
	return l, nil
}

func parsePlaceholders(list []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, usagef("--placeholder: %q is not NAME=VALUE", s)
		}
		out[name] = append(out[name], value)
	}
	return out, nil
}

// parseLogsource reads product=P,service=S; an empty text leaves the format's.
func parseLogsource(s string) (*sigma.Logsource, error) {
	if s == "" {
		return nil, nil
	}
	ls := &sigma.Logsource{}
	named := map[string]bool{}
	for _, part := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		switch {
		case !ok || value == "":
			return nil, usagef("--logsource: %q is not product=, service= or category= and a value", part)
		case named[key]:
			return nil, usagef("--logsource: %s stands twice", key)
		case key == "product":
			ls.Product = value
		case key == "service":
			ls.Service = value
		case key == "category":
			ls.Category = value
		default:
			return nil, usagef("--logsource: %q is not product, service or category", key)
		}
		named[key] = true
	}
	return ls, nil
}
