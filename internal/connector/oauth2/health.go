package oauth2

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

const maxSkew = time.Minute

// OwnRefs returns the clients that the connector acts and proves with and that
// are nobody else's: those in clients are the contained workloads' own. It asks
// nobody.
func (c *Connector) OwnRefs(context.Context) ([]staunch.Ref, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	var out []staunch.Ref
	for _, cl := range []Client{c.cfg.Client, c.cfg.Proof} {
		shared := slices.ContainsFunc(c.cfg.Clients, func(o Client) bool { return o.ID == cl.ID })
		if cl.ID != "" && !shared {
			out = append(out, c.account(SchemeClient, cl.ID))
		}
	}
	return out, nil
}

// Check tries every credential on a random token that nobody was given: its
// introspection must say inactive, and its revocation, which changes nothing,
// must be accepted.
func (c *Connector) Check(ctx context.Context) []connector.Finding {
	var out []connector.Finding
	say := func(severity, message, hint string) {
		out = append(out, connector.Finding{Severity: severity, Message: message, Hint: hint})
	}
	if err := c.open(); err != nil {
		say("error", err.Error(), "")
		return out
	}
	e, err := c.endpoints(ctx)
	if err != nil {
		say("error", fmt.Sprintf("the server's endpoints are not known: %v", err), "check issuer, or set both endpoints")
		return out
	}
	if c.cfg.Proof.ID == "" {
		say("warning", "no proof client is configured: effects are proven over other connections, but with the credentials that made them", "register a client that may introspect, under proof")
	}
	nobodys := staunch.NewSecret("staunch-doctor-" + rand.Text())
	may := 0
	for _, as := range c.askers("", true) {
		_, active, err := c.introspect(ctx, c.proof, as, nobodys)
		var se *rest.StatusError
		switch {
		case errors.As(err, &se) && se.Status == http.StatusForbidden && as.ID != c.cfg.Proof.ID:
			say("warning", fmt.Sprintf("client %s may not introspect: whether its tokens are inactive rests on what the others are told", as.ID), "")
		case err != nil:
			say("error", fmt.Sprintf("introspection with client %s fails: %v", as.ID, err), "check introspection_endpoint and the client's secret and auth")
		case active:
			say("error", fmt.Sprintf("introspection with client %s calls a random token active", as.ID), "is introspection_endpoint another server's?")
		default:
			may++
		}
	}
	if may == 0 {
		say("error", "no client could introspect: nothing can be proven", "register a client that may, under proof")
	}
	for _, as := range append([]Client{c.cfg.Client}, c.cfg.Clients...) {
		if as.ID == "" {
			continue
		}
		a, err := c.act.do(ctx, "revoking a random token as client "+as.ID, request{
			method: http.MethodPost, url: e.revocation, form: c.form(nobodys), as: as,
		})
		if err != nil {
			say("error", fmt.Sprintf("revocation with client %s fails: %v", as.ID, err), "check revocation_endpoint and the client's secret and auth")
			continue
		}
		date, err := http.ParseTime(a.Header.Get("Date"))
		if skew := c.clock.Now().Sub(date); err == nil && skew.Abs() > maxSkew {
			say("warning", fmt.Sprintf("the clocks differ by %s", skew.Round(time.Second)), "keep both in step with NTP")
		}
	}
	return out
}
