package cli

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

// containFlags are those of plan and contain.
type containFlags struct {
	tier, playbook, reason, key string
	expiry, scopeFor            time.Duration
}

func (f *containFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.tier, "tier", "isolate", "how much to take away: restrict, isolate or revoke")
	completeWords(cmd, "tier", "restrict", "isolate", "revoke")
	cmd.Flags().StringVar(&f.playbook, "playbook", "", "the stages to go through; the tier chooses when it is not given")
	cmd.Flags().DurationVar(&f.expiry, "expiry", 0, "when the case runs out, such as 4h; the playbook says when it is not given")
	cmd.Flags().DurationVar(&f.scopeFor, "scope-for", 0, "how long what is found derived later is contained with it, such as 2h; the playbook says when it is not given")
}

func (f *containFlags) request(arg string) (api.ContainRequest, error) {
	ref, err := parseRef(arg)
	if err != nil {
		return api.ContainRequest{}, err
	}
	tier, err := staunch.ParseTier(f.tier)
	if err != nil {
		return api.ContainRequest{}, usagef("--tier %q is not restrict, isolate or revoke", f.tier)
	}
	if f.expiry < 0 {
		return api.ContainRequest{}, usagef("--expiry must not be negative")
	}
	if f.scopeFor < 0 {
		return api.ContainRequest{}, usagef("--scope-for must not be negative")
	}
	return api.ContainRequest{Subject: ref, Tier: tier, Playbook: f.playbook, Reason: f.reason, Key: f.key, Expiry: staunch.Duration(f.expiry), ScopeFor: staunch.Duration(f.scopeFor)}, nil
}

func parseRef(arg string) (staunch.Ref, error) {
	ref, err := staunch.ParseRef(arg)
	if err != nil {
		return ref, &exitError{
			code: ExitUsage, err: fmt.Errorf("%q is not a subject: %s", arg, strings.TrimPrefix(err.Error(), staunch.ErrInvalid.Error()+": ")),
			hint: "a subject is kind:realm:scheme:value, such as account:pg/main:role:app_rw, or identity:NAME",
		}
	}
	return ref, nil
}

func newContainCmd(g *globals) *cobra.Command {
	var f containFlags
	cmd := &cobra.Command{
		Use:   "contain SUBJECT --reason TEXT",
		Short: "Contain a subject by hand",
		Long: `Contain a subject by hand: the fast plane denies it at once, and the platforms
follow as the playbook says. An open case on the same subject is raised instead.

See first what it would do with staunch plan.`,
		Example: `  staunch contain account:pg/main:role:app_rw --reason "password on a paste site"
  staunch contain identity:billing --tier revoke --reason "INC-42" --key INC-42 --yes
  staunch contain credential:oauth/main:token:sha256:9f86… --expiry 4h --reason drill`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.request(args[0])
			if err != nil {
				return err
			}
			if err := needReason(req.Reason); err != nil {
				return err
			}
			if req.Key == "" {
				req.Key = rand.Text()
			}
			return g.withClient(func(c *client.Client) error {
				if req.Tier == staunch.TierRevoke {
					g.showFirst(func(w io.Writer) error {
						d, err := c.Plan(cmd.Context(), req)
						if err == nil {
							writeDraft(w, d)
						}
						return err
					})
					if err := g.confirm("Contain %s at tier revoke? Some of that cannot be undone.", req.Subject); err != nil {
						return err
					}
				}
				o, err := c.Contain(cmd.Context(), req)
				if err != nil {
					return err
				}
				return g.opened(o)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.reason, "reason", "", "why, for people and the record (needed)")
	cmd.Flags().StringVar(&f.key, "key", "", "a key of your own: the same subject and key again are the same case")
	yesFlag(g, cmd)
	return cmd
}

// opened prints what became of a request to contain.
func (g *globals) opened(o api.Opened) error {
	return g.print(o, func(w io.Writer) {
		what := "is open already"
		switch {
		case o.Created:
			what = "opened"
		case o.Raised:
			what = "raised"
		}
		con := o.Containment
		row(w, fmt.Sprintf("%s %s: %s, %s, tier %s", con.ID, what, con.Subject, con.Phase, con.Tier))
		switch {
		case con.Phase == staunch.PhaseApproval && con.PlanFile != "" && con.Asked != nil:
			row(w, fmt.Sprintf("%d of %d people approved it; the next one applies the same file.", len(con.Approvals), con.Asked.Persons))
		case con.Phase == staunch.PhaseApproval:
			row(w, "It waits for another person: staunch approve "+con.ID)
		default:
			row(w, "See what becomes of it: staunch show "+con.ID)
		}
	})
}

func newPlanCmd(g *globals) *cobra.Command {
	var f containFlags
	var file string
	var validFor time.Duration
	var approval bool
	cmd := &cobra.Command{
		Use:   "plan SUBJECT",
		Short: "Show what a containment would do, and change nothing",
		Long: `Show what containing a subject would do now. The platforms are read, nothing is
changed. It shows the playbook's first stage, and what the later ones would do as
the platforms are now; those are planned anew when their time comes.

With --out the plan is written to a file, which staunch apply carries out exactly
as it is, once, until it runs out. The file is signed by the server and must not be
changed; it has no secrets. A file that is there already is not overwritten.`,
		Example: `  staunch plan account:pg/main:role:app_rw
  staunch plan identity:billing --tier revoke -o json
  staunch plan identity:billing --tier revoke --out billing.plan --approval --valid-for 4h`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.reason = "plan"
			req, err := f.request(args[0])
			if err != nil {
				return err
			}
			if file == "" {
				if approval || validFor != 0 {
					return usagef("--approval and --valid-for go with --out")
				}
				return g.withClient(func(c *client.Client) error {
					d, err := c.Plan(cmd.Context(), req)
					if err != nil {
						return err
					}
					return g.print(d, func(w io.Writer) { writeDraft(w, d) })
				})
			}
			if validFor < 0 || validFor > api.MaxPlanValid {
				return usagef("--valid-for must be more than zero and at most %s", api.MaxPlanValid)
			}
			return g.withClient(func(c *client.Client) error {
				return g.planFile(cmd.Context(), c, file, api.PlanFileRequest{ContainRequest: req, ValidFor: staunch.Duration(validFor), Approval: approval})
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&file, "out", "", "write the plan to this file, for staunch apply")
	cmd.Flags().DurationVar(&validFor, "valid-for", 0, "how long the file can be applied, at most 168h; 1h when not given")
	cmd.Flags().BoolVar(&approval, "approval", false, "another person, who may approve, has to apply the file")
	return cmd
}

func writeDraft(w io.Writer, d api.Draft) {
	field(w, "tier", d.Tier)
	field(w, "playbook", stagesLine(d.Playbook, d.Stages, d.Stage))
	for i, r := range d.Roots {
		field(w, []string{"subject", ""}[min(i, 1)], r)
	}
	for i, r := range d.Derived {
		field(w, []string{"derived", ""}[min(i, 1)], r)
	}
	if len(d.Deny) > 0 {
		field(w, "fast plane denies", d.Deny)
	}
	heading(w, count(len(d.Items), "step"))
	if len(d.Items) > 0 {
		row(w, "VERB", "TARGET", "NOW", "CALL", "UNDO")
		for _, it := range d.Items {
			undo := it.Intent.Undo
			if it.Intent.Reversibility == staunch.Irreversible {
				undo = "cannot be undone"
			} else if it.Intent.Revives {
				undo += " (revives a possibly stolen secret)"
			}
			row(w, it.Intent.Verb, it.Intent.Target, it.Found, it.Intent.Call, undo)
		}
	}
	writeGaps(w, d.Gaps)
	writeComing(w, staunch.Containment{}, d.Coming)
}

func writeGaps(w io.Writer, gaps []staunch.Gap) {
	if len(gaps) == 0 {
		return
	}
	heading(w, "What cannot be done")
	for _, gap := range gaps {
		more := ""
		if !gap.Widen.IsZero() {
			more = "; " + gap.Widen.String() + " would cover it"
		}
		row(w, gap.Ref, gap.Reason+more)
	}
}
