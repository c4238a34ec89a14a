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
	"github.com/staunch-project/staunch/internal/ingest"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
)

func newAuditCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Export and verify the record log",
		Example: `  staunch audit export --file records.ndjson
  staunch audit checkpoint -o json >> checkpoints.ndjson
  staunch audit verify --export records.ndjson --key-file data/staunch.key`,
	}
	cmd.AddCommand(newAuditVerifyCmd(g), newAuditExportCmd(g), newAuditCheckpointCmd(g))
	return cmd
}

func newAuditVerifyCmd(g *globals) *cobra.Command {
	var export, evidence, keyFile, publicKey, checkpoint, logKey, logOrigin string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify the record log, on the server or in an export, or a bundle of evidence",
		Long: `Verify that no record was changed, moved, dropped or added.

Without --export the server checks its own log, and that what the newest checkpoint
that it knows of saw is still there. With it, an export is checked
here, without a server: with the key file every hash is computed again; with the
public key alone, signatures and links are checked. --checkpoint takes a
checkpoint that was signed earlier, and what it saw must still be there, which is
how a log that was cut or written anew is found out. It is a file whose last line
is one: an earlier export, the file that the server appends checkpoints to, or the
body of a webhook.

Where the checkpoint was logged, --log-key has its receipt checked with the key of
the transparency log, without asking the log; a checkpoint without a receipt is
then refused. It is a verifier key (name+hash+base64), or a public key in base64 or
PEM form together with --log-origin, or a file with one. The server takes the key
of the log that it is configured with by itself. --checkpoint with --key-file or
--public-key, and no export, checks the checkpoint and its receipt alone.

--evidence checks a bundle that staunch evidence wrote: that it is what the server
signed. Together with --export, the export must have every record that the bundle
has.

The exit code is 3 for a log or a bundle that was changed.`,
		Example: `  staunch audit verify --checkpoint checkpoints.ndjson
  staunch audit verify --export today.ndjson --key-file staunch.key --checkpoint last-week.ndjson
  staunch audit verify --checkpoint checkpoints.ndjson --public-key 3b6a27bc… --log-key log.pub --log-origin log.example.org
  staunch audit verify --export - --public-key 3b6a27bc… < today.ndjson
  staunch audit verify --evidence evidence.json --public-key 3b6a27bc… --export today.ndjson`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var past *record.Checkpoint
			if checkpoint != "" {
				var err error
				if past, err = readCheckpoint(checkpoint); err != nil {
					return err
				}
			}
			log, err := transparencyLog(logKey, logOrigin)
			switch {
			case err != nil:
				return err
			case log != nil && past == nil:
				return usagef("--log-key is for a checkpoint that was logged: give --checkpoint as well")
			}
			if export == "" && evidence == "" && keyFile+publicKey != "" {
				if past == nil {
					return usagef("--key-file and --public-key are for --export, --evidence and --checkpoint")
				}
				return g.verifyCheckpoint(*past, log, keyFile, publicKey)
			}
			if export == "" && evidence == "" {
				return g.withClient(func(c *client.Client) error {
					var rep record.Report
					var err error
					if past == nil {
						rep, err = c.Verify(cmd.Context())
					} else {
						rep, err = c.VerifyPast(cmd.Context(), *past, log)
					}
					if err != nil {
						return err
					}
					return g.report("log", rep)
				})
			}
			if export == "" && past != nil {
				return usagef("--checkpoint is for a log, and --evidence alone is none: give --export as well")
			}
			if export == "-" && evidence == "-" {
				return usagef("--export and --evidence cannot both be standard input")
			}
			opt, err := verifyOptions(keyFile, publicKey)
			if err != nil {
				return err
			}
			opt.Past, opt.Log = past, log
			if evidence != "" {
				e, rep, err := verifyFile(g, evidence, func(in io.Reader) (record.Evidence, record.Report, error) {
					return record.VerifyEvidence(in, opt)
				})
				if err != nil {
					return err
				}
				if export == "" || len(rep.Breaks) > 0 {
					return g.report("bundle", rep)
				}
				opt.Evidence = &e
			}
			_, rep, err := verifyFile(g, export, func(in io.Reader) (struct{}, record.Report, error) {
				rep, err := record.VerifyExport(in, opt)
				return struct{}{}, rep, err
			})
			if err != nil {
				return err
			}
			return g.report("log", rep)
		},
	}
	f := cmd.Flags()
	f.StringVar(&export, "export", "", "an export to verify here, gzipped or not; - is standard input")
	f.StringVar(&evidence, "evidence", "", "a bundle of evidence to verify here; - is standard input")
	f.StringVar(&keyFile, "key-file", "", "the server's key file")
	f.StringVar(&publicKey, "public-key", "", "the log's public key in hex, from the operators and not from the export")
	f.StringVar(&checkpoint, "checkpoint", "", "a file that ends in an earlier checkpoint, which must still hold")
	f.StringVar(&logKey, "log-key", "", "the key of the transparency log that must have the checkpoint, or a file with it")
	f.StringVar(&logOrigin, "log-origin", "", "the name that the transparency log signs under, where the key has none")
	return cmd
}

// maxKeyFile bounds a file with a transparency log's key, in bytes.
const maxKeyFile = 64 << 10

// transparencyLog reads --log-key and --log-origin; nil for neither.
func transparencyLog(key, origin string) (*record.TransparencyLog, error) {
	if key == "" {
		if origin != "" {
			return nil, usagef("--log-origin is for --log-key")
		}
		return nil, nil
	}
	// A key in PEM form has line feeds, and no key is the path of a file.
	if f, err := os.Open(key); err == nil {
		b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("reading the transparency log's key: %w", err)
		}
		key = string(b)
	}
	log, err := record.ParseTransparencyLog(key, origin)
	if err != nil {
		return nil, usagef("--log-key and --log-origin: %w", err)
	}
	return log, nil
}

// verifyCheckpoint checks a checkpoint by itself: that it was signed as it stands,
// and that the log, where one is given, has it.
func (g *globals) verifyCheckpoint(cp record.Checkpoint, log *record.TransparencyLog, keyFile, publicKey string) error {
	opt, err := verifyOptions(keyFile, publicKey)
	if err != nil {
		return err
	}
	key := opt.PublicKey
	if opt.Chain != nil {
		key = opt.Chain.PublicKey()
	}
	if err := cp.Verify(key); err != nil {
		return err
	}
	// The report has no records: the checkpoint alone was looked at.
	rep := record.Report{V: staunch.Version, Heads: cp.Heads, Signed: true, Checkpoint: &cp, Breaks: []record.Break{}}
	switch {
	case log != nil:
		logged, err := cp.VerifyLogged(key, log)
		if err != nil {
			return err
		}
		rep.Logged = &logged
	case cp.Logged != nil:
		rep.Logged = &record.Logged{}
	}
	return g.print(rep, func(w io.Writer) {
		row(w, fmt.Sprintf("checkpoint of %s with %s: the signature fits", cp.At, count(len(cp.Heads), "lane")))
		logged(w, rep.Logged)
	})
}

// logged prints what the receipt of a checkpoint says.
func logged(w io.Writer, l *record.Logged) {
	switch {
	case l == nil:
	case l.Checked:
		row(w, "the checkpoint was "+l.String())
	default:
		row(w, "the checkpoint "+l.String()+": give --log-key")
	}
}

// unpacked reads gzip as what is in it, and all else as it is.
func unpacked(r io.Reader) (io.Reader, error) { return ingest.Body(r, "", 1<<62) }

// verifyFile opens a file, or standard input, and has it verified; it may be
// gzipped.
func verifyFile[T any](g *globals, path string, verify func(io.Reader) (T, record.Report, error)) (T, record.Report, error) {
	in := g.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			var none T
			return none, record.Report{}, fmt.Errorf("reading what is to be verified: %w", err)
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	plain, err := unpacked(in)
	if err != nil {
		var none T
		return none, record.Report{}, fmt.Errorf("verifying %s: %w", path, err)
	}
	v, rep, err := verify(plain)
	if err != nil {
		return v, rep, fmt.Errorf("verifying %s: %w", path, err)
	}
	return v, rep, nil
}

func newAuditCheckpointCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint",
		Short: "Have the server sign a checkpoint of the record log",
		Long: `Have the server sign the ends of the record log as they are now. What came since
its checkpoint before is checked first; over a log that was changed none is signed.

Keep it where staunch's operators cannot write: whoever cuts or rewrites what came
before it is found out by staunch audit verify --checkpoint. With -o json, one
line is printed that such a file can be made of, with the receipt of the transparency
log where one is configured. A server can do all this by itself: see audit in its
configuration.`,
		Example: `  staunch audit checkpoint
  staunch audit checkpoint -o json >> checkpoints.ndjson`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				cp, err := c.Checkpoint(cmd.Context())
				if err != nil {
					return err
				}
				if g.output == formJSON { // on one line, as in the server's file
					e := json.NewEncoder(g.stdout)
					e.SetEscapeHTML(false)
					if err := e.Encode(cp); err != nil {
						return fmt.Errorf("writing the answer: %w", err)
					}
					return nil
				}
				return g.print(cp, func(w io.Writer) {
					row(w, "LANE", "RECORD", "HASH")
					for _, h := range cp.Heads {
						row(w, h.Lane, h.Seq, h.Hash)
					}
					row(w, "signed at "+shortTime(cp.At)+":", "", cp.Signature)
					if cp.Logged != nil { // the server has checked it
						origin, entry := cp.Logged.Claims()
						row(w, "logged by "+origin+":", entry, "")
					}
				})
			})
		},
	}
}

func verifyOptions(keyFile, publicKey string) (record.VerifyOptions, error) {
	var opt record.VerifyOptions
	if (keyFile == "") == (publicKey == "") {
		return opt, usagef("it is verified with either --key-file or --public-key")
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

// report prints what a check of a log or bundle found; one that was changed is an
// error.
func (g *globals) report(what string, rep record.Report) error {
	err := g.print(rep, func(w io.Writer) {
		how := "links and numbers were compared"
		if rep.Keyed {
			how = "every hash was computed again"
		}
		switch {
		case rep.Checkpoint != nil:
			how += ", the checkpoint's signature fits"
		case rep.Signed:
			how += ", the signature fits"
		}
		row(w, fmt.Sprintf("%s in %s: %s", count(int(rep.Records), "record"), count(len(rep.Heads), "lane"), how))
		logged(w, rep.Logged)
		for _, b := range rep.Breaks {
			row(w, b)
		}
	})
	if err != nil {
		return err
	}
	if len(rep.Breaks) > 0 {
		return bad("the %s was changed: %s", what, count(len(rep.Breaks), "break"))
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

// checkpointOf reads a line that is an export's last, a checkpoint alone, or the
// body of a webhook that carries one.
func checkpointOf(line []byte) (*record.Checkpoint, error) {
	var end struct {
		Checkpoint *record.Checkpoint `json:"checkpoint"`
		Data       struct {
			Checkpoint *record.Checkpoint `json:"checkpoint"`
		} `json:"data"`
	}
	if err := json.Unmarshal(line, &end); err == nil {
		if end.Checkpoint != nil {
			return end.Checkpoint, nil
		}
		if end.Data.Checkpoint != nil {
			return end.Data.Checkpoint, nil
		}
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
	plain, err := unpacked(f)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint %s: %w", path, err)
	}
	var l lastLine
	if _, err := io.Copy(&l, bufio.NewReader(plain)); err != nil {
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
