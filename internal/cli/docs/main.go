// Command docs writes the generated part of the reference: a page a command, the
// table of exit codes, the API's description and the schema of staunch.yaml. Its argument is the folder.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra/doc"

	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: docs FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	pages := filepath.Join(dir, "cli")
	// Pages of commands that are gone must not stay.
	if err := os.RemoveAll(pages); err != nil {
		return fmt.Errorf("clearing the commands' pages: %w", err)
	}
	if err := os.MkdirAll(pages, 0o755); err != nil {
		return fmt.Errorf("making the commands' folder: %w", err)
	}
	root := cli.Root()
	root.DisableAutoGenTag = true
	if err := doc.GenMarkdownTree(root, pages); err != nil {
		return fmt.Errorf("writing the commands' pages: %w", err)
	}

	var b strings.Builder
	b.WriteString("# Exit codes\n\nEvery command of staunch ends with one of these. Scripts may rely on them.\n\n| code | name | means |\n|---|---|---|\n")
	for _, c := range cli.ExitCodes() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", c.Code, c.Name, c.Means)
	}
	b.WriteString("\nErrors go to standard error as `error: …`, with `hint: …` below where there is something to do about it.\n")
	if err := os.WriteFile(filepath.Join(dir, "exit-codes.md"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("writing the exit codes: %w", err)
	}

	spec, err := api.OpenAPI()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "openapi.yaml"), spec, 0o644); err != nil {
		return fmt.Errorf("writing the API's description: %w", err)
	}
	schema, err := configSchema(filepath.Join(dir, "..", ".."))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "staunch.schema.json"), schema, 0o644); err != nil {
		return fmt.Errorf("writing the schema of staunch.yaml: %w", err)
	}
	return nil
}
