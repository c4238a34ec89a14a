package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

func newReloadCmd(g *globals) *cobra.Command {
	var keepGoing bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the server read its configuration again",
		Long: `Have the server read its configuration, rules, policies and identities again, all
or nothing: where anything is wrong, all of it is told and nothing changes.

With --keep-going, rules that are refused are told and left out, and the rest takes
effect; the exit code is 3 all the same when one was. A refused filter takes nothing
out of the rules that it is for, and the rules of a refused correlation make no
signals. Anything else that is wrong still keeps everything as it was.`,
		Example: `  staunch reload
  staunch reload --keep-going -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				r, err := c.Reload(cmd.Context(), keepGoing)
				if err != nil {
					return err
				}
				err = g.print(r, func(w io.Writer) {
					if r.Changed {
						row(w, "the configuration is now "+r.Bundle)
					} else {
						row(w, "nothing changed: "+r.Bundle)
					}
					for _, f := range r.Refused {
						row(w, "refused", f.Place, f.Message)
					}
					for _, n := range r.Notes {
						row(w, "note: "+n)
					}
				})
				if err == nil && len(r.Refused) > 0 {
					err = errRulesRefused
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&keepGoing, "keep-going", false, "leave out the rules that are refused")
	return cmd
}

func newTokenCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke API tokens",
		Example: `  staunch token create --name ann --role responder --ttl 720h
  staunch token list`,
	}
	cmd.AddCommand(newTokenCreateCmd(g), newTokenListCmd(g), newTokenRevokeCmd(g))
	return cmd
}

func newTokenCreateCmd(g *globals) *cobra.Command {
	var req api.TokenRequest
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create --name NAME --role ROLE",
		Short: "Make a token and print it, this once",
		Long: `Make a token. It is printed this once; the server keeps only its digest.

Give every person and every program its own: records carry the token's name, and
nobody approves what somebody of the same name asked for.

Roles: viewer looks; responder contains and releases; approver also approves what
others asked for; admin also sets up; source posts the records of one source; pep
asks whether actions may go on.`,
		Example: `  staunch token create --name ann --role responder
  staunch token create --name cloudtrail-push --role source --source cloudtrail
  staunch token create --name team-a --role viewer --owner team-a --ttl 720h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Name == "" || req.Role == "" {
				return usagef("--name and --role are needed")
			}
			if !auth.Role(req.Role).Valid() {
				return usagef("--role %q is not one of %s", req.Role, strings.Join(roleWords(), ", "))
			}
			if (req.Role == string(auth.RoleSource)) != (req.Source != "") {
				return usagef("--source names the one source that a token of role source posts for: role %s %s", req.Role, map[bool]string{true: "needs it", false: "has none"}[req.Source == ""])
			}
			if ttl < 0 {
				return usagef("--ttl must not be negative")
			}
			req.TTL = staunch.Duration(ttl)
			return g.withClient(func(c *client.Client) error {
				t, err := c.CreateToken(cmd.Context(), req)
				if err != nil {
					return err
				}
				if g.output == formTable {
					g.errf("%s for %s, role %s; it is shown this once:\n", clean(t.Token.ID), clean(t.Token.Name), clean(t.Token.Role))
				}
				return g.print(t, func(w io.Writer) { row(w, t.Secret) })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Name, "name", "", "whose it is (needed)")
	f.StringVar(&req.Role, "role", "", "viewer, responder, approver, admin, source or pep (needed)")
	completeWords(cmd, "role", roleWords()...)
	f.StringVar(&req.Source, "source", "", "the source that a token of role source posts for")
	f.StringSliceVar(&req.Realms, "realm", nil, "limit it to a realm; may be given several times")
	f.StringSliceVar(&req.Owners, "owner", nil, "limit it to an owner's identities")
	f.StringSliceVar(&req.Environments, "environment", nil, "limit it to an environment")
	f.DurationVar(&ttl, "ttl", 0, "how long it is good for, such as 720h; until it is revoked when not given")
	return cmd
}

func roleWords() []string {
	var out []string
	for _, r := range auth.Roles() {
		out = append(out, string(r))
	}
	return out
}

func newTokenListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, without their secrets",
		Example: `  staunch token list`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				l, err := c.Tokens(cmd.Context())
				return listed(g, l, err, l.Items, "", []any{"ID", "NAME", "ROLE", "LIMITED TO", "CREATED", "EXPIRES", "STATE"}, func(t store.Token) []any {
					limits := append(append(append([]string{}, t.Realms...), t.Owners...), t.Environments...)
					if t.Source != "" {
						limits = append(limits, "source "+t.Source)
					}
					state := "good"
					switch {
					case t.Revoked:
						state = "revoked"
					case t.Expires != 0 && t.Expires.Std().Before(time.Now()):
						state = "expired"
					}
					return []any{t.ID, t.Name, t.Role, orElse(text(limits), "-"), t.Created, t.Expires, state}
				})
			})
		},
	}
}

func newTokenRevokeCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke a token",
		Example: `  staunch token revoke tok_0123456789abcdef`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				if err := g.confirm("Revoke %s? It cannot be used again.", args[0]); err != nil {
					return err
				}
				if err := c.RevokeToken(cmd.Context(), args[0]); err != nil {
					return err
				}
				v := struct {
					V       int    `json:"v"`
					Revoked string `json:"revoked"`
				}{staunch.Version, args[0]}
				return g.print(v, func(w io.Writer) { row(w, args[0]+" is revoked") })
			})
		},
	}
	yesFlag(g, cmd)
	return cmd
}

func newBreakerCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "breaker",
		Short: "List and reset the breakers of automatic containment",
		Long: `List and reset the breakers of automatic containment. While one is open, new
automatic containments in its scope are stopped. What people do, approvals and every
release go on; so does what revokes where the breaker is of a realm (connector/REALM)
or of all (global), by sources and rules whose own breakers are closed.`,
		Example: "  staunch breaker list\n  staunch breaker reset source/cloudtrail",
	}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List the breakers", Example: "  staunch breaker list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error { return g.breakers(cmd.Context(), c) })
		},
	}, &cobra.Command{
		Use: "reset SCOPE", Short: "Close a breaker, so that automatic containment goes on in its scope",
		Long:    "Close a breaker. Look first why it opened: too many containments from one source or rule are rarely all right.",
		Example: "  staunch breaker reset source/cloudtrail", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(func(c *client.Client) error {
				b, err := c.ResetBreaker(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return g.print(b, func(w io.Writer) { row(w, "breaker "+b.Breaker.Scope+" is closed") })
			})
		},
	})
	return cmd
}

func (g *globals) breakers(ctx context.Context, c *client.Client) error {
	l, err := c.Breakers(ctx)
	return listed(g, l, err, l.Items, "", []any{"SCOPE", "OPEN", "CHANGED", "BY", "REASON"}, func(b store.Breaker) []any {
		return []any{b.Scope, b.Open, b.Changed, orElse(b.By, "-"), orElse(b.Reason, "-")}
	})
}

func newDoctorCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that has to work",
		Long: `Have the server look at everything that has to work: its store, its clock, every
realm's route, credential and permissions. Nothing is changed. The exit code is 3
where a check failed.`,
		Example: `  staunch doctor
  staunch doctor -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(func(c *client.Client) error {
				d, err := c.Doctor(cmd.Context())
				if err != nil {
					return err
				}
				return g.diagnosis(d)
			})
		},
	}
}

// diagnosis prints what doctor found; a failed check is an error.
func (g *globals) diagnosis(d api.Diagnosis) error {
	failed := 0
	for _, ch := range d.Checks {
		if ch.Status == "error" {
			failed++
		}
	}
	err := g.print(d, func(w io.Writer) {
		for _, ch := range d.Checks {
			row(w, ch.Status, ch.Name, orElse(ch.Message, "-"))
			if ch.Hint != "" {
				row(w, "", "", "hint: "+ch.Hint)
			}
		}
	})
	if err != nil {
		return err
	}
	if failed > 0 {
		return bad("%s failed", count(failed, "check"))
	}
	return nil
}

// count is "1 check", "2 checks".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
