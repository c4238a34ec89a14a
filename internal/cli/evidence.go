package cli

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/record"
)

func newEvidenceCmd(g *globals) *cobra.Command {
	var dir string
	var force bool
	cmd := &cobra.Command{
		Use:   "evidence CONTAINMENT",
		Short: "Bundle what is kept about a containment for an auditor",
		Long: `Bundle everything that is kept about one containment: the records that accused it
as they were stored (secrets are digests), signals, decisions with their inputs,
plans, steps, holds, the timeline, how long each step took, what a release would
bring back to life, the records of the chained log, and what of other frameworks
all that shows. The server signs the bundle; staunch audit verify --evidence checks
it without the server.

Without --out a report is printed. With it, evidence.json, report.md and SHA256SUMS
are written to the folder; files that are there are left alone unless --force is
given.`,
		Example: `  staunch evidence con_0123456789abcdef0123
  staunch evidence con_0123456789abcdef0123 --out incident-42
  staunch evidence con_0123456789abcdef0123 -o json > evidence.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if force && dir == "" {
				return usagef("--force is for --out")
			}
			return g.withClient(func(c *client.Client) error {
				e, err := c.Evidence(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if dir != "" {
					return g.writeEvidence(dir, e, force)
				}
				if g.output != formTable {
					return g.print(e, nil)
				}
				return e.WriteReport(g.stdout)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "out", "", "a folder to write evidence.json, report.md and SHA256SUMS to")
	f.BoolVar(&force, "force", false, "write over files that are there")
	return cmd
}

// writeEvidence writes a bundle's files. Each is put in place once it is whole.
func (g *globals) writeEvidence(dir string, e record.Evidence, force bool) error {
	var doc, report, sums bytes.Buffer
	if err := writeJSON(&doc, e); err != nil {
		return err
	}
	if err := e.WriteReport(&report); err != nil {
		return err
	}
	files := []struct {
		name string
		body *bytes.Buffer
	}{{"evidence.json", &doc}, {"report.md", &report}}
	for _, f := range files {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(f.body.Bytes()), f.name)
	}
	files = append(files, struct {
		name string
		body *bytes.Buffer
	}{"SHA256SUMS", &sums})

	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of the evidence: %w", err)
	}
	if !force {
		for _, f := range files {
			if _, err := os.Lstat(filepath.Join(dir, f.name)); !errors.Is(err, os.ErrNotExist) {
				return &exitError{
					code: ExitConflict, err: fmt.Errorf("%s is there already", filepath.Join(dir, f.name)),
					hint: "give another folder, or --force to write over it",
				}
			}
		}
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(dir, f.name), f.body.Bytes(), force); err != nil {
			return err
		}
	}
	v := struct {
		V           int      `json:"v"`
		Containment string   `json:"containment"`
		Folder      string   `json:"folder"`
		Files       []string `json:"files"`
		Truncated   []string `json:"truncated"`
	}{e.V, e.Containment.ID, dir, []string{files[0].name, files[1].name, files[2].name}, e.Truncated}
	return g.print(v, func(w io.Writer) {
		row(w, fmt.Sprintf("%s: %s, %s in %s", e.Containment.ID, count(len(e.Steps), "step"), count(len(e.Records), "record"), dir))
		for _, t := range e.Truncated {
			row(w, "left out: "+t)
		}
	})
}

// writeFile writes a file for its owner alone; over one that is there only with
// force.
func writeFile(path string, body []byte, force bool) (err error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	to := path
	if force { // never half of the old one
		to = path + ".part"
		if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("writing the evidence: %w", err)
		}
	}
	f, err := os.OpenFile(to, flags, 0o600)
	if err != nil {
		return fmt.Errorf("writing the evidence: %w", err)
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil && to != path {
		err = os.Rename(to, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the evidence: %w", err), os.Remove(to))
	}
	return nil
}
