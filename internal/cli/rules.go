package cli

import "github.com/spf13/cobra"

// newRulesCmd is the parent of the commands on rules; each stands in a file of
// its own.
func newRulesCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "rules", Short: "Check, import and test Sigma rules", Example: `  staunch rules check rules/
  staunch rules test rules/
  staunch rules import ~/sigma/rules/cloud/okta --into rules/okta`}
	cmd.AddCommand(
		newRulesCheckCmd(g),
		newRulesImportCmd(g),
		newRulesTestCmd(g),
	)
	return cmd
}
