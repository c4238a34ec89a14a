package oauth2

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
)

const (
	// maxAnswer bounds what is read of an answer.
	maxAnswer  = 1 << 20
	maxKey     = 128
	maxMessage = 300
)

// client speaks HTTP over connections of its own.
type client struct {
	timeout   time.Duration
	http      *http.Client
	transport *http.Transport
}

// request is one call.
type request struct {
	method, url string
	form        url.Values
	as          Client
	bearer      staunch.Secret
	// key, when set, marks a call that changes something, and goes along.
	key string
	// until ends the call; 0 is with the context.
	until staunch.Time
	now   time.Time
}

type answer struct {
	body []byte
	date time.Time
}

// statusError is an answer that is no success.
type statusError struct {
	what   string
	status int
	code   string // RFC 6749's error
	text   string
}

func (e *statusError) Error() string {
	msg := strings.Join(strings.Fields(e.code+" "+e.text), " ")
	if len(msg) > maxMessage {
		msg = strings.ToValidUTF8(msg[:maxMessage], "") + "…"
	}
	if msg == "" {
		msg = http.StatusText(e.status)
	}
	return fmt.Sprintf("%s: status %d: %s", e.what, e.status, msg)
}

// checkURL refuses what would send credentials in the clear.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%w: not an address such as https://login.example.org", staunch.ErrInvalid)
	case u.Scheme == "https":
	case u.Scheme == "http" && loopback(u.Hostname()):
	default:
		return fmt.Errorf("%w: plain http would send secrets in the clear; use https, or a loopback address", staunch.ErrInvalid)
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func newClient(cfg Config) (*client, error) {
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading ca_file: %w", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &staunch.Problem{Place: "ca_file", Reason: cfg.CAFile + " has no certificate in PEM form"}
		}
	}
	tr := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        tc,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    32,
		MaxConnsPerHost:        64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &client{timeout: cfg.Timeout.Std(), transport: tr, http: &http.Client{
		Transport: tr,
		// A redirect would carry a token and a secret to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// do makes one request. Its errors are classed: for a call that changes
// something, whatever goes wrong after a connection was had for it is
// outcome-unknown, since the request may have been sent.
func (c *client) do(ctx context.Context, what string, r request) (answer, error) {
	if len(r.key) > maxKey || strings.ContainsFunc(r.key, func(x rune) bool { return x <= ' ' || x > '~' }) {
		return answer{}, staunch.Permanent(fmt.Errorf("%s: %w: the step's key cannot be sent in a header", what, staunch.ErrInvalid))
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if r.until != 0 {
		left := r.until.Std().Sub(r.now)
		if left <= 0 {
			return answer{}, staunch.Transient(fmt.Errorf("%s: the time for the call is over, nothing was sent: %w", what, context.DeadlineExceeded))
		}
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return answer{}, staunch.Transient(fmt.Errorf("%s: nothing was sent: %w", what, err))
	}
	sent := new(atomic.Bool)
	req, err := r.build(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}))
	if err != nil {
		return answer{}, staunch.Permanent(fmt.Errorf("%s: %w", what, err))
	}
	lost := func(err error) error {
		if cerr := ctx.Err(); cerr != nil && !errors.Is(err, cerr) {
			err = fmt.Errorf("%w: %w", cerr, err)
		}
		err = fmt.Errorf("%s: %w", what, err)
		if r.key != "" && sent.Load() {
			return staunch.OutcomeUnknown(err)
		}
		return staunch.Transient(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, lost(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, lost(err)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return answer{}, refusal(what, r.key != "", resp.StatusCode, body)
	case len(body) > maxAnswer:
		return answer{}, lost(fmt.Errorf("an answer of more than %d bytes", maxAnswer))
	}
	date, _ := http.ParseTime(resp.Header.Get("Date"))
	return answer{body: body, date: date}, nil
}

func (r request) build(ctx context.Context) (*http.Request, error) {
	form := r.form
	if r.as.ID != "" && r.as.Auth != authBasic {
		form.Set("client_id", r.as.ID)
		if r.as.Auth == authPost {
			form.Set("client_secret", r.as.Secret.Reveal())
		}
	}
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if r.as.ID != "" && r.as.Auth == authBasic {
		// RFC 6749, 2.3.1: both are form-encoded first.
		req.SetBasicAuth(url.QueryEscape(r.as.ID), url.QueryEscape(r.as.Secret.Reveal()))
	}
	if !r.bearer.Empty() {
		req.Header.Set("Authorization", "Bearer "+r.bearer.Reveal())
	}
	if r.key != "" {
		req.Header.Set(StepHeader, r.key)
	}
	return req, nil
}

// refusal classes an answer that is no success. The README has the table.
func refusal(what string, mutating bool, status int, raw []byte) error {
	e := &statusError{what: what, status: status}
	var b struct {
		Error string `json:"error"`
		Text  string `json:"error_description"`
	}
	if json.Unmarshal(raw, &b) == nil {
		e.code, e.text = b.Error, b.Text
	}
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden,
		status == http.StatusBadRequest && (e.code == "invalid_client" || e.code == "unauthorized_client" || e.code == "access_denied"):
		return staunch.Denied(e)
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return staunch.Transient(e)
	case status == http.StatusNotImplemented, e.code == "unsupported_token_type":
		return staunch.Permanent(e)
	case status >= 500, e.code == "temporarily_unavailable", e.code == "server_error":
		if mutating {
			return staunch.OutcomeUnknown(e)
		}
		return staunch.Transient(e)
	}
	return staunch.Permanent(e)
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
		var se *statusError
		if errors.As(err, &se) && se.status < 500 {
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
		if err := json.Unmarshal(a.body, &m); err != nil {
			return nil, staunch.Permanent(fmt.Errorf("decoding the metadata at %s: %w", place, err))
		}
		if m.Issuer != c.cfg.Issuer {
			return nil, staunch.Permanent(fmt.Errorf("the metadata at %s is that of issuer %q, not %q", place, m.Issuer, c.cfg.Issuer))
		}
		for name, v := range map[string]string{"revocation_endpoint": m.Revocation, "introspection_endpoint": m.Introspection} {
			if v == "" {
				continue
			}
			if err := checkURL(v); err != nil {
				return nil, staunch.Permanent(fmt.Errorf("the metadata's %s: %w", name, err))
			}
		}
		return &endpoints{m.Revocation, m.Introspection}, nil
	}
	return nil, last
}
