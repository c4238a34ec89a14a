package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
)

func newAuditCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Export and verify the record log",
		Example: `  staunch audit export --file records.ndjson
  staunch audit verify
  staunch audit verify --export records.ndjson --key-file staunch.key`,
	}
	cmd.AddCommand(newAuditVerifyCmd(g), newAuditExportCmd(g))
	return cmd
}

func newAuditVerifyCmd(g *globals) *cobra.Command {
	var export, keyFile, publicKey, checkpoint string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify the record log, on the server or in an export",
		Long: `Verify that no record was changed, moved, dropped or added.

Without --export the server checks its own log. With it, an export is checked
here, without a server: with the key file every hash is computed again; with the
public key alone, signatures and links are checked. --checkpoint takes an earlier
export, or its last line: what it saw must still be there, which is how a log
that was cut or written anew is found out.

The exit code is 3 for a log that was changed.`,
		Example: `  staunch audit verify
  staunch audit verify --export today.ndjson --key-file staunch.key --checkpoint last-week.ndjson
  staunch audit verify --export - --public-key 3b6a27bc… < today.ndjson`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if export == "" {
				if keyFile+publicKey+checkpoint != "" {
					return usagef("--key-file, --public-key and --checkpoint are for --export")
				}
				return g.withClient(func(c *client.Client) error {
					rep, err := c.Verify(cmd.Context())
					if err != nil {
						return err
					}
					return g.report(rep)
				})
			}
			opt, err := verifyOptions(keyFile, publicKey)
			if err != nil {
				return err
			}
			if checkpoint != "" {
				if opt.Past, err = readCheckpoint(checkpoint); err != nil {
					return err
				}
			}
			in := g.stdin
			if export != "-" {
				f, err := os.Open(export)
				if err != nil {
					return fmt.Errorf("reading the export: %w", err)
				}
				defer func() { _ = f.Close() }() // read only
				in = f
			}
			rep, err := record.VerifyExport(in, opt)
			if err != nil {
				return fmt.Errorf("verifying %s: %w", export, err)
			}
			return g.report(rep)
		},
	}
	f := cmd.Flags()
	f.StringVar(&export, "export", "", "an export to verify here; - is standard input")
	f.StringVar(&keyFile, "key-file", "", "the server's key file")
	f.StringVar(&publicKey, "public-key", "", "the log's public key in hex, from the operators and not from the export")
	f.StringVar(&checkpoint, "checkpoint", "", "an earlier export, or its checkpoint, that must still hold")
	return cmd
}

func verifyOptions(keyFile, publicKey string) (record.VerifyOptions, error) {
	var opt record.VerifyOptions
	if (keyFile == "") == (publicKey == "") {
		return opt, usagef("an export is verified with either --key-file or --public-key")
	}
	if publicKey != "" {
		key, err := record.ParsePublicKey(publicKey)
		if err != nil {
			return opt, usagef("--public-key: %w", err)
		}
		opt.PublicKey = key
		return opt, nil
	}
	ring, err := seal.Load(keyFile)
	if err != nil {
		return opt, fmt.Errorf("loading the key file: %w", err)
	}
	if opt.Chain, err = record.NewChain(ring.DeriveKey(record.KeyPurpose)); err != nil {
		return opt, fmt.Errorf("preparing the record chain: %w", err)
	}
	return opt, nil
}

// report prints what a check found; a changed log is an error.
func (g *globals) report(rep record.Report) error {
	err := g.print(rep, func(w io.Writer) {
		how := "links and numbers were compared"
		if rep.Keyed {
			how = "every hash was computed again"
		}
		if rep.Signed {
			how += ", the checkpoint's signature fits"
		}
		row(w, fmt.Sprintf("%s in %s: %s", count(int(rep.Records), "record"), count(len(rep.Heads), "lane"), how))
		for _, b := range rep.Breaks {
			row(w, b)
		}
	})
	if err != nil {
		return err
	}
	if len(rep.Breaks) > 0 {
		return bad("the log was changed: %s", count(len(rep.Breaks), "break"))
	}
	return nil
}

// lastLine keeps the last line of what is written to it, up to a bound.
type lastLine struct {
	cur, last []byte
}

func (l *lastLine) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		l.last = append(append(l.last[:0], l.cur...), b[:i]...)
		l.cur = l.cur[:0]
		b = b[i+1:]
	}
	if len(l.cur)+len(b) > record.MaxLine {
		return 0, fmt.Errorf("%w: a line of more than %d bytes", staunch.ErrInvalid, record.MaxLine)
	}
	l.cur = append(l.cur, b...)
	return n, nil
}

// checkpointOf reads a line that is an export's last, or a checkpoint alone.
func checkpointOf(line []byte) (*record.Checkpoint, error) {
	var end struct {
		Checkpoint *record.Checkpoint `json:"checkpoint"`
	}
	if err := json.Unmarshal(line, &end); err == nil && end.Checkpoint != nil {
		return end.Checkpoint, nil
	}
	var cp record.Checkpoint
	if err := json.Unmarshal(line, &cp); err != nil || cp.Signature == "" {
		return nil, fmt.Errorf("%w: it does not end in a checkpoint", staunch.ErrInvalid)
	}
	return &cp, nil
}

func readCheckpoint(path string) (*record.Checkpoint, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	var l lastLine
	if _, err := io.Copy(&l, bufio.NewReader(f)); err != nil {
		return nil, fmt.Errorf("reading the checkpoint %s: %w", path, err)
	}
	line := l.last
	if len(bytes.TrimSpace(l.cur)) > 0 {
		line = l.cur
	}
	cp, err := checkpointOf(line)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint %s: %w", path, err)
	}
	return cp, nil
}

func newAuditExportCmd(g *globals) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Export the record log with a signed checkpoint",
		Long: `Export the record log as NDJSON. Its last line is a signed checkpoint: keep it in
another place, since only it shows later that the log was cut or written anew.

A file is put in place once the export is whole.`,
		Example: `  staunch audit export --file records.ndjson
  staunch audit export | gzip > records.ndjson.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				var end lastLine
				if file == "" {
					if err := c.Export(cmd.Context(), io.MultiWriter(g.stdout, &end)); err != nil {
						return err
					}
					return exported(end)
				}
				tmp, err := os.CreateTemp(filepath.Dir(file), ".staunch-export-*")
				if err != nil {
					return fmt.Errorf("making the export's file: %w", err)
				}
				err = c.Export(cmd.Context(), io.MultiWriter(tmp, &end))
				err = errors.Join(err, tmp.Sync(), tmp.Close())
				broken := exported(end)
				if err == nil { // a log that was changed is kept as evidence
					err = os.Rename(tmp.Name(), file)
				}
				if err != nil {
					return errors.Join(err, os.Remove(tmp.Name()))
				}
				if broken != nil {
					return broken
				}
				cp, err := checkpointOf(end.last)
				if err != nil {
					return err
				}
				return g.print(cp, func(w io.Writer) {
					row(w, fmt.Sprintf("%s in %s; checkpoint of %s", count(int(cp.Records), "record"), file, shortTime(cp.At)))
				})
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "where to; standard output when not given")
	return cmd
}

// exported says whether an export came to its end.
func exported(end lastLine) error {
	if _, err := checkpointOf(end.last); err != nil || len(end.cur) > 0 {
		return &exitError{code: ExitBad, err: errors.New("the export has no checkpoint: the log was changed"), hint: "staunch audit verify says where"}
	}
	return nil
}
