package oauth2

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// client speaks HTTP over connections of its own.
type client struct{ rest *rest.Client }

// request is one call, with what rest.Request says of its fields.
type request struct {
	method, url string
	form        url.Values
	as          Client
	bearer      staunch.Secret
	key         string
	until       staunch.Time
	now         time.Time
}

func newClient(cfg Config) (*client, error) {
	tc, err := rest.TLS{CAFile: cfg.CAFile}.Config("")
	if err != nil {
		return nil, err
	}
	return &client{rest.New(rest.Options{
		Timeout: cfg.Timeout.Std(), MaxAnswer: maxAnswer, TLS: tc, KeyHeader: StepHeader,
		Words: words, Class: class,
	})}, nil
}

// do makes one request. Its errors have the classes of the README's table.
func (c *client) do(ctx context.Context, what string, r request) (rest.Answer, error) {
	return c.rest.Do(ctx, r.build(what))
}

func (r request) build(what string) rest.Request {
	out := rest.Request{
		What: what, Method: r.method, URL: r.url, Header: http.Header{"Accept": {"application/json"}},
		Key: r.key, Deadline: r.until, Now: r.now, Hide: []staunch.Secret{r.as.Secret, r.bearer, staunch.NewSecret(r.form.Get("token"))},
	}
	form := r.form
	if r.as.ID != "" && r.as.Auth != authBasic {
		form.Set("client_id", r.as.ID)
		if r.as.Auth == authPost {
			form.Set("client_secret", r.as.Secret.Reveal())
		}
	}
	if form != nil {
		out.Body = []byte(form.Encode())
		out.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if r.as.ID != "" && r.as.Auth == authBasic {
		// RFC 6749, 2.3.1: both are form-encoded first.
		pair := url.QueryEscape(r.as.ID) + ":" + url.QueryEscape(r.as.Secret.Reveal())
		out.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	if !r.bearer.Empty() {
		out.Header.Set("Authorization", "Bearer "+r.bearer.Reveal())
	}
	return out
}

// words reads the error of RFC 6749.
func words(_ int, body []byte) (code, text string) {
	var b struct {
		Error string `json:"error"`
		Text  string `json:"error_description"`
	}
	if json.Unmarshal(body, &b) != nil {
		return "", ""
	}
	return b.Error, b.Text
}

// class says where the error tells more than the status.
func class(e *rest.StatusError, changing bool) (staunch.Class, bool) {
	switch s := e.Status; {
	case s == http.StatusUnauthorized, s == http.StatusForbidden,
		s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests:
		return 0, false
	case s == http.StatusBadRequest && (e.Code == "invalid_client" || e.Code == "unauthorized_client" || e.Code == "access_denied"):
		return staunch.ClassDenied, true
	case e.Code == "unsupported_token_type":
		return staunch.ClassPermanent, true
	case s != http.StatusNotImplemented && (e.Code == "temporarily_unavailable" || e.Code == "server_error"):
		if changing {
			return staunch.ClassUnknown, true
		}
		return staunch.ClassTransient, true
	}
	return 0, false
}

// endpoints are where the server is asked.
type endpoints struct{ revocation, introspection string }

// endpoints returns the configured addresses, or those of the issuer's
// metadata, which is fetched once.
func (c *Connector) endpoints(ctx context.Context) (endpoints, error) {
	e := endpoints{c.cfg.RevocationEndpoint, c.cfg.IntrospectionEndpoint}
	if e.revocation != "" && e.introspection != "" {
		return e, nil
	}
	select {
	case c.meta <- struct{}{}:
	case <-ctx.Done():
		return e, staunch.Transient(fmt.Errorf("waiting for the server's metadata: %w", ctx.Err()))
	}
	defer func() { <-c.meta }()
	c.mu.Lock()
	found := c.found
	c.mu.Unlock()
	if found == nil {
		var err error
		if found, err = c.discover(ctx); err != nil {
			return e, err
		}
		c.mu.Lock()
		c.found = found
		c.mu.Unlock()
	}
	if e.revocation == "" {
		e.revocation = found.revocation
	}
	if e.introspection == "" {
		e.introspection = found.introspection
	}
	for name, v := range map[string]string{"revocation_endpoint": e.revocation, "introspection_endpoint": e.introspection} {
		if v == "" {
			return e, staunch.Permanent(fmt.Errorf("the metadata of %s has no %s, and none is configured", c.cfg.Issuer, name))
		}
	}
	return e, nil
}

// discover fetches the metadata, at RFC 8414's place and then at OpenID
// Connect's.
func (c *Connector) discover(ctx context.Context) (*endpoints, error) {
	u, err := url.Parse(c.cfg.Issuer)
	if err != nil {
		return nil, staunch.Permanent(err)
	}
	path := strings.TrimSuffix(u.Path, "/")
	u.Path = "/.well-known/oauth-authorization-server" + path
	places := []string{u.String()}
	u.Path = path + "/.well-known/openid-configuration"
	places = append(places, u.String())
	var last error
	for _, place := range places {
		a, err := c.act.do(ctx, "fetching the metadata", request{method: http.MethodGet, url: place})
		var se *rest.StatusError
		if errors.As(err, &se) && se.Status < 500 {
			last = err
			continue
		}
		if err != nil {
			return nil, err
		}
		var m struct {
			Issuer        string `json:"issuer"`
			Revocation    string `json:"revocation_endpoint"`
			Introspection string `json:"introspection_endpoint"`
		}
		if err := json.Unmarshal(a.Body, &m); err != nil {
			return nil, staunch.Permanent(fmt.Errorf("decoding the metadata at %s: %w", place, err))
		}
		if m.Issuer != c.cfg.Issuer {
			return nil, staunch.Permanent(fmt.Errorf("the metadata at %s is that of issuer %q, not %q", place, m.Issuer, c.cfg.Issuer))
		}
		for name, v := range map[string]string{"revocation_endpoint": m.Revocation, "introspection_endpoint": m.Introspection} {
			if v == "" {
				continue
			}
			if _, err := rest.ParseURL("the metadata's "+name, v); err != nil {
				return nil, staunch.Permanent(err)
			}
		}
		return &endpoints{m.Revocation, m.Introspection}, nil
	}
	return nil, last
}
