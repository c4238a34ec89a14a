package cli

import (
	"fmt"
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
	var source, mapping, logsource, mmdb string
	var rules, placeholders []string
	var correlations bool
	cmd := &cobra.Command{
		Use:   "match --rules PATH --source NAME [FILE|-]",
		Short: "Evaluate Sigma rules on records, one line per record",
		Long: `Evaluate the Sigma rules of files and folders on records. For each record one
line {"record":N,"rules":[ids...]} is printed; a broken record gives
{"record":N,"error":...}, and the exit code is 3 at the end. A rule without id is
named by its path and title. NAME is a format's name; json evaluates every rule
whatever its log source, unless --logsource narrows it.

With --correlations the records are then taken in the order of their time, and for
each signal that a correlation would make one more line
{"correlation":ID,"records":[N...],...} follows. Without it correlations are
checked and not evaluated. Rules that correlations refer to are printed for the
records that they match either way.

Rules that are not supported are named on standard error with file and line.`,
		Example: `  staunch match --rules rules/ --source aws.cloudtrail events.ndjson
  staunch match --rules rules/ --source aws.cloudtrail --correlations events.ndjson
  staunch match --rules rules/ --rules more/rule.yml --source json --logsource product=github,service=audit -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wantJSONLines(cmd, g); err != nil {
				return err
			}
			f, err := formatNamed(source, mapping)
			if err != nil {
				return err
			}
			values, err := parsePlaceholders(placeholders)
			if err != nil {
				return err
			}
			ls, err := parseLogsource(logsource)
			if err != nil {
				return err
			}
			var docs correlate.Reader
			loaded, refused := sigma.LoadPaths(rules, sigma.Options{Placeholders: values, Correlation: docs.Read})
			set, err := sigma.Compile(loaded)
			if err != nil {
				return fmt.Errorf("compiling the rules: %w", err)
			}
			opt := correlate.Options{Lateness: config.DefaultLateness}
			if mmdb != "" {
				if opt.Geo, err = app.OpenGeo(mmdb); err != nil {
					return err
				}
			}
			corrs, more := docs.Compile(set, opt)
			for _, e := range append(refused, more...) {
				g.errf("refused: %s\n", clean(e.Error()))
			}
			if len(loaded) == 0 {
				return &staunch.Problem{Place: strings.Join(rules, ", "), Reason: "has no rule that can be used"}
			}
			in, err := openInput(cmd, args)
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // read only
			if !correlations {
				corrs = nil
			}
			return offline.Match(set, corrs, f, ls, in, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringArrayVar(&rules, "rules", nil, "a rule file or a folder of rules (repeatable)")
	cmd.Flags().StringVar(&source, "source", "", "the records' format")
	cmd.Flags().StringVar(&mapping, "mapping", "", "the mapping file, for format generic")
	cmd.Flags().StringVar(&logsource, "logsource", "", "evaluate the rules for this log source: product=P[,service=S][,category=C]")
	cmd.Flags().BoolVar(&correlations, "correlations", false, "evaluate correlations over the records, and print their signals after them")
	cmd.Flags().StringVar(&mmdb, "mmdb", "", "a database of places in the MaxMind DB format, for impossible_travel")
	cmd.Flags().StringArrayVar(&placeholders, "placeholder", nil, "a value for Sigma's expand modifier: NAME=VALUE (repeatable)")
	must(cmd.MarkFlagRequired("rules"))
	must(cmd.MarkFlagRequired("source"))
	completeFormats(cmd, "source")
	return cmd
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
	for _, part := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		switch {
		case !ok || value == "":
			return nil, usagef("--logsource: %q is not product=, service= or category= and a value", part)
		case key == "product":
			ls.Product = value
		case key == "service":
			ls.Service = value
		case key == "category":
			ls.Category = value
		default:
			return nil, usagef("--logsource: %q is not product, service or category", key)
		}
	}
	return ls, nil
}
