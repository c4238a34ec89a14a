package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

// planFile asks for a plan, writes it to a file that must not be there, and prints
// it.
func (g *globals) planFile(ctx context.Context, c *client.Client, path string, req api.PlanFileRequest) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &exitError{code: ExitConflict, err: fmt.Errorf("%s is there already", path), hint: "name another file, or delete it first"}
	}
	if err != nil {
		return fmt.Errorf("making the plan's file: %w", err)
	}
	whole := false
	defer func() {
		if !whole {
			_ = os.Remove(path) // half a plan is none
		}
	}()
	f, raw, err := c.PlanFile(ctx, req)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return errors.Join(fmt.Errorf("writing the plan: %w", err), out.Close())
	}
	if b.Bytes()[b.Len()-1] != '\n' {
		b.WriteByte('\n')
	}
	_, err = out.Write(b.Bytes())
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("writing the plan: %w", err)
	}
	whole = true
	return g.print(f, func(w io.Writer) {
		writePlanFile(w, f)
		row(w, "Written to "+path+"; carry it out with: staunch apply "+path+" --reason TEXT")
	})
}

func writePlanFile(w io.Writer, f staunch.PlanFile) {
	field(w, "plan", f.Hash)
	field(w, "subject", f.Subject)
	field(w, "tier", f.Tier)
	field(w, "playbook", fmt.Sprintf("%s, stage %d of %d", f.Playbook.Name, f.Stage+1, len(f.Playbook.Stages)))
	field(w, "valid until", f.Until)
	if f.Approval {
		field(w, "approval", "another person than "+f.MadeBy+" has to apply it")
	}
	for i, r := range f.Guard {
		field(w, []string{"fast plane denies", ""}[min(i, 1)], r)
	}
	heading(w, count(len(f.Targets), "step"))
	row(w, "VERB", "TARGET", "NOW", "CALL", "UNDO")
	for _, t := range f.Targets {
		undo := t.Undo
		if t.Revives {
			undo += " (revives a possibly stolen secret)"
		}
		row(w, t.Verb, t.Target, t.Before.Summary, t.Call, undo)
	}
	writeGaps(w, f.Gaps)
	_, _ = io.WriteString(w, "\n") // print's Flush tells
}

// readPlan reads a plan file. Only the server can say whether it is whole.
func readPlan(path string) (json.RawMessage, staunch.PlanFile, error) {
	var f staunch.PlanFile
	in, err := os.Open(path)
	if err != nil {
		return nil, f, fmt.Errorf("opening the plan: %w", err)
	}
	defer func() { _ = in.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(in, staunch.MaxPlanFile*2+1))
	if err != nil {
		return nil, f, fmt.Errorf("reading the plan: %w", err)
	}
	bad := func(reason string) error { return &staunch.Problem{Place: path, Reason: reason} }
	if len(b) > staunch.MaxPlanFile*2 {
		return nil, f, bad(fmt.Sprintf("is larger than %d bytes", staunch.MaxPlanFile*2))
	}
	var small bytes.Buffer
	if err := json.Compact(&small, b); err != nil {
		return nil, f, bad("is not a plan file: " + err.Error())
	}
	if small.Len() > staunch.MaxPlanFile {
		return nil, f, bad(fmt.Sprintf("is larger than %d bytes", staunch.MaxPlanFile))
	}
	if err := json.Unmarshal(b, &f); err != nil || f.Kind != staunch.PlanFileKind {
		return nil, f, bad("is not a plan file")
	}
	return small.Bytes(), f, nil
}

func newApplyCmd(g *globals) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "apply FILE --reason TEXT",
		Short: "Carry out a plan file, exactly as it is",
		Long: `Carry out a plan that staunch plan --out wrote: a containment is opened whose
first plan is that one. Its targets are what the file names; what is found derived
later is contained only where the file's scope has the closure "derived".

Nothing is changed, and the reason told, where the file was edited, was made by
another server or has run out, where the configuration has changed since, where a
target is protected or is not as it was, where the token may not touch all of it,
where a case is open on the subject already, or where the plan wants another person
to apply it. The same file once more gives the same case while that is open, and is
refused after.`,
		Example: `  staunch plan identity:billing --tier revoke --out billing.plan
  staunch apply billing.plan --reason "INC-42"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needReason(reason); err != nil {
				return err
			}
			raw, f, err := readPlan(args[0])
			if err != nil {
				return err
			}
			return g.withClient(func(c *client.Client) error {
				if f.Tier == staunch.TierRevoke {
					if err := g.confirm("Contain %s at tier revoke (%s)? Some of that cannot be undone.", f.Subject, count(len(f.Targets), "step")); err != nil {
						return err
					}
				}
				o, err := c.Apply(cmd.Context(), raw, reason)
				if err != nil {
					return err
				}
				return g.opened(o)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people and the record (needed)")
	yesFlag(g, cmd)
	return cmd
}
