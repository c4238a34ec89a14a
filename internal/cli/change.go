package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

// changed prints a case after a change.
func (g *globals) changed(ch api.Changed) error {
	return g.print(ch, func(w io.Writer) {
		con := ch.Containment
		line := fmt.Sprintf("%s is %s", con.ID, con.Phase)
		if con.WindowEnds != 0 {
			line += ", its window ends " + shortTime(con.WindowEnds)
		}
		if con.Expires != 0 && con.Phase.Open() && con.Phase != staunch.PhaseReleasing {
			line += ", it runs out " + shortTime(con.Expires)
		}
		row(w, line)
		if r := con.Release; r != nil && con.Phase == staunch.PhaseReleasing {
			row(w, rearmLine(*r)+"; what stays in force: staunch show "+con.ID)
		}
		if a := con.Asked; a != nil && con.Phase == staunch.PhaseApproval {
			row(w, fmt.Sprintf("%d of %d people approved it; the next: staunch approve %s", len(con.Approvals), a.Persons, con.ID))
		}
	})
}

// rearmLine says what keeps a thief out of what a release puts back.
func rearmLine(r staunch.Release) string {
	switch {
	case r.Rotated:
		return "the secrets were replaced first, and what the fast plane denied of the old ones stays denied"
	case r.TokenLife > 0:
		return fmt.Sprintf("what was denied lives for %s and has run out", r.TokenLife.Std())
	case r.Revive:
		return "secrets that may be stolen work again as they are"
	}
	return "no secret that may be stolen comes back to life"
}

func newReleaseCmd(g *globals) *cobra.Command {
	var req api.ReleaseRequest
	var keep []string
	cmd := &cobra.Command{
		Use:   "release ID --reason TEXT",
		Short: "Release a containment: put back what was there",
		Long: `Release a containment: what it took away is put back, where nobody else changed
it meanwhile.

Where that would bring a possibly stolen secret back to life, nothing is done
until you say that the secret was replaced first (--rotated), that it has run out
by itself while it was denied (--token-life), or confirm that it may work again
(--revive).

--wrong says that it was a false positive: in the same transaction every rule that
was a meaningful part of it goes one mode down, from enforce to recommend to
shadow, on all nodes, and people are told (staunch trust).

--keep releases a part: what is named stays contained. A case of its own claims what
is in force on it, and only when that holds is this one released.`,
		Example: `  staunch release con_0123456789abcdef0123 --reason "a false alarm" --wrong --rotated
  staunch release con_0123456789abcdef0123 --reason "it was the new laptop" --token-life 12h
  staunch release con_0123456789abcdef0123 --reason "only the key leaked" --keep credential:aws/prod:access-key-id:AKIA… --revive
  staunch release con_0123456789abcdef0123 --reason "never left the laptop" --revive`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept := make([]staunch.Ref, 0, len(keep))
			for _, s := range keep {
				ref, err := parseRef(s)
				if err != nil {
					return err
				}
				kept = append(kept, ref)
			}
			return g.release(cmd, args[0], req, func(c *client.Client, ctx context.Context, id string, r api.ReleaseRequest) (api.Changed, error) {
				if err := g.keepPart(ctx, c, id, r, kept); err != nil {
					return api.Changed{}, err
				}
				return c.Release(ctx, id, r)
			})
		},
	}
	releaseFlags(g, cmd, &req)
	cmd.Flags().StringArrayVar(&keep, "keep", nil, "what of it stays contained, in a case of its own; may be given several times")
	return cmd
}

// How long a part that is kept may take to be held, and how often that is looked at.
const (
	keepTimeout = time.Minute
	keepEvery   = 200 * time.Millisecond
)

// keepPart has cases of their own claim what the case has in force on some of what it
// contains, and returns when they do. On an error nothing is released; the same again
// finds the same cases.
func (g *globals) keepPart(ctx context.Context, c *client.Client, id string, r api.ReleaseRequest, kept []staunch.Ref) error {
	if len(kept) == 0 {
		return nil
	}
	cs, err := c.Containment(ctx, id)
	if err != nil {
		return err
	}
	con := cs.Containment
	if !con.Phase.Open() || con.Phase.Idle() || con.Phase == staunch.PhaseReleasing {
		return &exitError{code: ExitConflict, err: fmt.Errorf("conflict: %s is %s, so there is nothing to keep", id, con.Phase)}
	}
	for _, ref := range kept {
		if ref == con.Subject || slices.Contains(con.Names, ref) {
			return usagef("--keep %s is all of it: nothing would be released", ref)
		}
		if !slices.ContainsFunc(cs.Holds, func(h staunch.Hold) bool { return h.Target.Ref == ref && h.Active() }) {
			return &exitError{code: ExitUsage, err: fmt.Errorf("--keep %s: %s has nothing in force on it", ref, id), hint: "staunch show " + id + " has what it contains, as a tree"}
		}
	}
	// What would be refused after the parts have cases is refused before.
	for _, line := range cs.Revives {
		if !r.Revive && !r.Rotated && r.TokenLife == 0 && !slices.ContainsFunc(kept, func(ref staunch.Ref) bool {
			rest, ok := strings.CutPrefix(line, ref.String())
			return ok && (strings.HasPrefix(rest, "#") || strings.HasPrefix(rest, ": "))
		}) {
			return &exitError{code: ExitConflict, err: fmt.Errorf("the release would bring possibly stolen secrets back to life: %s", line), hint: revivesHint}
		}
	}
	for _, ref := range kept {
		o, err := c.Contain(ctx, api.ContainRequest{Subject: ref, Tier: con.Playbook.Stages[con.Stage].Tier, Reason: "kept of " + id + ": " + r.Reason, Key: "keep-" + id})
		if err != nil {
			return err
		}
		if err := g.awaitHeld(ctx, c, o.Containment.ID); err != nil {
			return err
		}
		g.errf("%s stays contained: %s\n", clean(ref.String()), o.Containment.ID)
	}
	return nil
}

// awaitHeld waits until a case has everything in force.
func (g *globals) awaitHeld(ctx context.Context, c *client.Client, id string) error {
	not := func(code int, format string, args ...any) error {
		return &exitError{code: code, err: fmt.Errorf("nothing was released: "+format, args...), hint: "staunch show " + id + " says what is in the way; then the same command again"}
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	for {
		cs, err := c.Containment(ctx, id)
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return not(ExitUnavailable, "%s, which keeps a part, is not held after %s", id, keepTimeout)
		case err != nil:
			return err
		}
		switch con := cs.Containment; con.Phase {
		case staunch.PhaseHeld, staunch.PhaseWindow:
			if slices.ContainsFunc(cs.Steps, func(s staunch.Step) bool { return s.State == staunch.StepFailed }) {
				return not(ExitConflict, "a step of %s, which keeps a part, failed", id)
			}
			return nil
		case staunch.PhaseOpen, staunch.PhaseActing:
		default:
			return not(ExitConflict, "%s, which keeps a part, is %s", id, con.Phase)
		}
		select {
		case <-ctx.Done():
		case <-time.After(keepEvery):
		}
	}
}

func newJudgeCmd(g *globals) *cobra.Command {
	var req api.JudgeRequest
	cmd := &cobra.Command{
		Use:   "judge ID --verdict wrong|right --reason TEXT",
		Short: "Say of a released containment whether it was called for",
		Long: `Say of a containment that was released whether it was called for, when that is known
only later, or correct what was said of it. Nothing is contained or put back by it.

wrong takes every rule that was a meaningful part of it one mode down, in the same
transaction, as release --wrong does; right counts in their favour (staunch trust).
Each containment counts once, by its newest verdict, and every verdict stays on
record. One that is corrected to right leaves its rules where it took them: lift them
with staunch trust promote.`,
		Example: `  staunch judge con_0123456789abcdef0123 --verdict wrong --reason "it was the backup job"
  staunch judge con_0123456789abcdef0123 --verdict right --reason "the key was on a paste site" -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needReason(req.Reason); err != nil {
				return err
			}
			if req.Verdict == "" || !req.Verdict.Valid() {
				return usagef("--verdict %q is not wrong or right", req.Verdict)
			}
			return g.withClient(func(c *client.Client) error {
				ch, err := c.Judge(cmd.Context(), args[0], req)
				if err != nil {
					return err
				}
				return g.print(ch, func(w io.Writer) { writeJudged(w, ch.Containment) })
			})
		},
	}
	cmd.Flags().StringVar((*string)(&req.Verdict), "verdict", "", "whether it was called for: wrong or right (needed)")
	completeWords(cmd, "verdict", verdictWords...)
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for people and the record (needed)")
	return cmd
}

func writeJudged(w io.Writer, con staunch.Containment) {
	v := con.Judged
	if v == nil { // of an older server
		return
	}
	row(w, fmt.Sprintf("%s was judged %s by %s", con.ID, v.Verdict, v.By))
	rules := "no rule: none led to it"
	if len(v.Rules) > 0 {
		rules = strings.Join(v.Rules, ", ")
	}
	row(w, "it counts for "+rules)
	if v.Given > 1 && v.Verdict == staunch.JudgedRight && len(v.Rules) > 0 {
		row(w, "a rule that it took down stays there: staunch trust promote")
	}
}

func newClearCmd(g *globals) *cobra.Command {
	var req api.ReleaseRequest
	cmd := &cobra.Command{
		Use:   "clear ID --reason TEXT",
		Short: "End a verification window in the subject's favour",
		Long: `End a verification window in the subject's favour: the case is released without
its further stages, under the same rule about stolen secrets as release.`,
		Example: `  staunch clear con_0123456789abcdef0123 --reason "it was the backup job"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.release(cmd, args[0], req, (*client.Client).Clear)
		},
	}
	releaseFlags(g, cmd, &req)
	return cmd
}

func releaseFlags(g *globals, cmd *cobra.Command, req *api.ReleaseRequest) {
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for people and the record (needed)")
	cmd.Flags().BoolVar(&req.Revive, "revive", false, "secrets that may be stolen may work again")
	cmd.Flags().BoolVar(&req.Rotated, "rotated", false, "the secrets were replaced first")
	cmd.Flags().DurationVar((*time.Duration)(&req.TokenLife), "token-life", 0, "the longest life of the sessions and credentials that are denied, which they were for longer")
	cmd.Flags().StringVar((*string)(&req.Verdict), "verdict", "", "whether it was called for: wrong or right")
	completeWords(cmd, "verdict", verdictWords...)
	cmd.Flags().BoolFunc("wrong", "it was a false positive, as --verdict wrong: the rules behind it are demoted", func(s string) error {
		if on, err := strconv.ParseBool(s); err != nil || !on {
			return err
		}
		if req.Verdict == staunch.JudgedRight {
			return errors.New("--verdict says right")
		}
		req.Verdict = staunch.JudgedWrong
		return nil
	})
	yesFlag(g, cmd)
}

// needReason refuses to change anything without one.
func needReason(s string) error {
	if strings.TrimSpace(s) == "" {
		return usagef("--reason is missing: others will want to know why")
	}
	return nil
}

const revivesHint = "replace the secrets first and say --rotated, wait until tokens have run out and say --token-life, or confirm that they may work again with --revive"

type releaser = func(*client.Client, context.Context, string, api.ReleaseRequest) (api.Changed, error)

func (g *globals) release(cmd *cobra.Command, id string, req api.ReleaseRequest, do releaser) error {
	if err := needReason(req.Reason); err != nil {
		return err
	}
	if !req.Verdict.Valid() {
		return usagef("--verdict %q is not wrong or right", req.Verdict)
	}
	return g.withClient(func(c *client.Client) error {
		if req.Revive {
			if err := g.confirm("Release %s, and let secrets that may be stolen work again?", id); err != nil {
				return err
			}
		}
		ch, err := do(c, cmd.Context(), id, req)
		var ce *client.Error
		if errors.As(err, &ce) && ce.Code == api.CodeRevives {
			return &exitError{code: ExitConflict, err: err, hint: revivesHint}
		}
		if err != nil {
			return err
		}
		return g.changed(ch)
	})
}

func newAdvanceCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "advance ID",
		Short:   "Cut a verification window short: the next stage begins now",
		Long:    "Cut the case's verification window short: the next stage begins now. A case that\nwaits for its canary to be proven waits no longer.",
		Example: `  staunch advance con_0123456789abcdef0123`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				g.showFirst(func(w io.Writer) error {
					cs, err := c.Containment(cmd.Context(), args[0])
					if err == nil {
						writeComing(w, cs.Containment, cs.Coming)
					}
					return err
				})
				if err := g.confirm("Begin the next stage of %s now? Some of it may not be undone.", args[0]); err != nil {
					return err
				}
				ch, err := c.Advance(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return g.changed(ch)
			})
		},
	}
	yesFlag(g, cmd)
	return cmd
}

func newExtendCmd(g *globals) *cobra.Command {
	var by time.Duration
	cmd := &cobra.Command{
		Use:     "extend ID --by DURATION",
		Short:   "Put the end of a window, or of the case, off",
		Long:    "Put the end of the case's verification window off, or outside of one the case's expiry.",
		Example: `  staunch extend con_0123456789abcdef0123 --by 2h`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if by <= 0 {
				return usagef("--by must be more than zero, such as 2h")
			}
			return g.withClient(func(c *client.Client) error {
				ch, err := c.Extend(cmd.Context(), args[0], by)
				if err != nil {
					return err
				}
				return g.changed(ch)
			})
		},
	}
	cmd.Flags().DurationVar(&by, "by", 0, "by how much, such as 30m (needed)")
	return cmd
}

func newApproveCmd(g *globals) *cobra.Command {
	var scope, plan string
	cmd := &cobra.Command{
		Use:   "approve ID",
		Short: "Approve a containment that waits for people",
		Long: `Approve a containment that waits for people. You approve its scope (the subjects,
how far it may go from them, and how much it may take away) and its plan (what
would be done now, and in the stages after). At a terminal both are shown and you
are asked; a script gives the hashes of what was shown elsewhere.

Nobody approves what they asked for themselves, or twice. Where something of the
plan cannot be undone it takes two different people (limits.approvers). The case
goes on with the last of them.`,
		Example: `  staunch approve con_0123456789abcdef0123
  staunch approve con_0123456789abcdef0123 --scope-hash sha256:… --plan-hash sha256:…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				if scope == "" || plan == "" {
					if !g.terminal() {
						return &exitError{code: ExitUsage, err: errors.New("--scope-hash and --plan-hash are needed"), hint: "staunch show " + args[0] + " shows the scope, the plan and their hashes"}
					}
					cs, err := c.Containment(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					asked := cs.Containment.Asked
					if asked == nil && cs.Containment.Phase == staunch.PhaseApproval {
						return &exitError{code: ExitConflict, err: errors.New("its plan is still being drawn"), hint: "try again in a moment; staunch show " + args[0] + " says what is in the way"}
					}
					if asked == nil {
						asked = &staunch.Asked{Hash: "none"}
					}
					if err := g.printTo(g.stderr, func(w io.Writer) { writeScope(w, cs) }); err != nil {
						return err
					}
					if err := g.ask("Approve this?"); err != nil {
						return err
					}
					scope, plan = cs.ScopeHash, asked.Hash
				}
				ch, err := c.Approve(cmd.Context(), args[0], scope, plan)
				if err != nil {
					return err
				}
				return g.changed(ch)
			})
		},
	}
	cmd.Flags().StringVar(&scope, "scope-hash", "", "the hash of the scope that you saw")
	cmd.Flags().StringVar(&plan, "plan-hash", "", "the hash of the plan that you saw")
	return cmd
}
