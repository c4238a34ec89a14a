package vault

import (
	"bytes"
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
	"sync"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
)

const (
	// maxAnswer bounds what is read of an answer; a list of 200,000 accessors
	// has about 6 MiB.
	maxAnswer    = 16 << 20
	maxTokenFile = 16 << 10
	maxKey       = 128
	maxMessage   = 300
)

// client speaks to Vault over connections of its own.
type client struct {
	base      *url.URL
	namespace string
	timeout   time.Duration
	token     func() (staunch.Secret, error)
	http      *http.Client
	transport *http.Transport
}

// call is one request.
type call struct {
	method, path string // path without /v1/, escaped
	body         any
	// key, when set, marks a call that changes something, and goes along.
	key string
	// token, when set, is shown instead of the client's.
	token staunch.Secret
	// bare shows no token.
	bare bool
	// until ends the call; 0 is with the context.
	until staunch.Time
	now   time.Time
}

// answer is what Vault said when it did not refuse.
type answer struct {
	status   int
	ID       string          `json:"request_id"`
	Data     json.RawMessage `json:"data"`
	Warnings []string        `json:"warnings"`
	raw      []byte
}

func (a answer) warned(what string) bool {
	for _, w := range a.Warnings {
		if strings.Contains(w, what) {
			return true
		}
	}
	return false
}

// statusError is an answer that refuses.
type statusError struct {
	what   string
	status int
	errors []string
}

func (e *statusError) Error() string {
	msg := strings.Join(strings.Fields(strings.Join(e.errors, "; ")), " ")
	if len(msg) > maxMessage {
		msg = strings.ToValidUTF8(msg[:maxMessage], "") + "…"
	}
	if msg == "" {
		msg = http.StatusText(e.status)
	}
	return fmt.Sprintf("%s: status %d: %s", e.what, e.status, msg)
}

func (e *statusError) says(what string) bool {
	for _, m := range e.errors {
		if strings.Contains(m, what) {
			return true
		}
	}
	return false
}

// refused returns the refusal in err's chain with the status and a message
// that contains says.
func refused(err error, status int, says string) bool {
	var e *statusError
	return errors.As(err, &e) && e.status == status && (says == "" || e.says(says))
}

// base checks an address: plain HTTP is for loopback only, since every request
// carries a token.
func base(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, &staunch.Problem{Place: "address", Reason: "not an address such as https://vault.example.org:8200"}
	case u.Scheme == "https":
	case u.Scheme == "http" && loopback(u.Hostname()):
	default:
		return nil, &staunch.Problem{Place: "address", Reason: "plain http would send the token in the clear", Hint: "use https, or a loopback address"}
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/"
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func newClient(cfg Config, token func() (staunch.Secret, error)) (*client, error) {
	u, err := base(cfg.Address)
	if err != nil {
		return nil, err
	}
	tc, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     tc,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 32,
		MaxConnsPerHost:     64,
		IdleConnTimeout:     90 * time.Second,
		// A response header larger than this is not Vault's.
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &client{
		base: u, namespace: cfg.Namespace, timeout: cfg.Timeout.Std(), token: token, transport: tr,
		http: &http.Client{
			Transport: tr,
			// A redirect would carry the token to wherever the answer points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (t TLS) config() (*tls.Config, error) {
	tc := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading tls.ca_file: %w", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &staunch.Problem{Place: "tls.ca_file", Reason: t.CAFile + " has no certificate in PEM form"}
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading tls.cert_file and tls.key_file: %w", err)
		}
		tc.Certificates = []tls.Certificate{pair}
	}
	return tc, nil
}

// source returns the token, from its file when it is in one; the file is read
// again when its time or size has changed.
func source(token staunch.Secret, file string) func() (staunch.Secret, error) {
	if file == "" {
		return func() (staunch.Secret, error) { return token, nil }
	}
	var mu sync.Mutex
	var last os.FileInfo
	var value staunch.Secret
	return func() (staunch.Secret, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(file)
		if err != nil {
			return staunch.Secret{}, fmt.Errorf("reading the token file: %w", err)
		}
		if last != nil && info.ModTime().Equal(last.ModTime()) && info.Size() == last.Size() {
			return value, nil
		}
		if info.Size() > maxTokenFile {
			return staunch.Secret{}, fmt.Errorf("the token file %s has %d bytes, at most %d", file, info.Size(), maxTokenFile)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return staunch.Secret{}, fmt.Errorf("reading the token file: %w", err)
		}
		v := strings.TrimSpace(string(b))
		if v == "" {
			return staunch.Secret{}, fmt.Errorf("the token file %s is empty", file)
		}
		last, value = info, staunch.NewSecret(v)
		return value, nil
	}
}

// do makes one request. Its errors are classed: for a call that changes
// something, whatever goes wrong after a connection was had for it is
// outcome-unknown, since the request may have been sent.
func (c *client) do(ctx context.Context, r call) (answer, error) {
	what := r.method + " " + r.path
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
	req, sent, err := c.request(ctx, r)
	if err != nil {
		return answer{}, err
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
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, lost(err)
	case len(raw) > maxAnswer:
		return answer{}, lost(fmt.Errorf("an answer of more than %d bytes", maxAnswer))
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return answer{}, refusal(what, r.key != "", resp, raw)
	}
	a := answer{status: resp.StatusCode, raw: raw}
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &a); err != nil {
			return answer{}, lost(fmt.Errorf("decoding the answer: %w", err))
		}
	}
	return a, nil
}

func (c *client) request(ctx context.Context, r call) (*http.Request, *atomic.Bool, error) {
	what := r.method + " " + r.path
	var body io.Reader
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, nil, staunch.Permanent(fmt.Errorf("%s: encoding the body: %w", what, err))
		}
		body = bytes.NewReader(b)
	}
	sent := new(atomic.Bool)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	u, err := c.base.Parse(r.path)
	if err != nil || !strings.HasPrefix(u.Path, c.base.Path) {
		return nil, nil, staunch.Permanent(fmt.Errorf("%s: %w: not a path of Vault", what, staunch.ErrInvalid))
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, nil, staunch.Permanent(fmt.Errorf("%s: %w", what, err))
	}
	req.Header.Set("X-Vault-Request", "true")
	if c.namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.namespace)
	}
	if r.key != "" {
		req.Header.Set(StepHeader, r.key)
	}
	switch {
	case r.bare:
	case !r.token.Empty():
		req.Header.Set("X-Vault-Token", r.token.Reveal())
	default:
		t, err := c.token()
		if err != nil {
			return nil, nil, staunch.Denied(fmt.Errorf("%s: %w", what, err))
		}
		req.Header.Set("X-Vault-Token", t.Reveal())
	}
	return req, sent, nil
}

// refusal classes an answer that is no success. The README has the table.
func refusal(what string, mutating bool, resp *http.Response, raw []byte) error {
	e := &statusError{what: what, status: resp.StatusCode}
	var body struct {
		Errors []string `json:"errors"`
	}
	own := json.Unmarshal(raw, &body) == nil && body.Errors != nil // Vault's words, not a proxy's
	e.errors = body.Errors
	switch s := resp.StatusCode; {
	case s == http.StatusTemporaryRedirect || s == http.StatusPermanentRedirect:
		// A standby that does not forward; it did nothing.
		e.errors = []string{"a standby node that does not forward requests; use the active node's address"}
		return staunch.Transient(e)
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		return staunch.Denied(e)
	case s == http.StatusBadRequest && e.says("missing client token"):
		return staunch.Denied(e)
	case s == http.StatusBadRequest && mutating && e.says("failed to revoke"):
		// The backend that a lease is from did not agree, perhaps after it acted.
		return staunch.OutcomeUnknown(e)
	case s == http.StatusPreconditionFailed, s == http.StatusTooManyRequests, s == 472, s == 473:
		// Not yet replicated; over a quota; a standby. Nothing was done.
		return staunch.Transient(e)
	case s == http.StatusServiceUnavailable && own && e.says("sealed"):
		return staunch.Transient(e)
	case s == http.StatusNotImplemented:
		return staunch.Permanent(e)
	case s >= 500 && mutating:
		return staunch.OutcomeUnknown(e)
	case s >= 500:
		return staunch.Transient(e)
	}
	return staunch.Permanent(e)
}
