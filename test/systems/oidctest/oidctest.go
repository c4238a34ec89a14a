// Package oidctest starts a real OpenID provider for tests: the npm package
// oidc-provider under Node, on a free port of the loopback address, all in
// memory, gone at the end even when the test process is killed.
//
// Without Node or the installed package a test is skipped, or fails when
// STAUNCH_REQUIRE_OIDC=1, as under make test-systems, which installs the
// package. STAUNCH_OIDC_DIR names the directory with server.mjs and
// node_modules when it is not test/systems/oidc of this module.
package oidctest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/staunch-project/staunch/test/systems/internal/proc"
)

const (
	startLimit = 60 * time.Second
	callLimit  = 30 * time.Second
	maxBody    = 1 << 20
)

// Client is a client of the provider. A client with a redirect URI uses the
// authorization code and refresh token grants, one without only client
// credentials. A public client, which has no secret, needs a redirect URI.
type Client struct {
	ID     string
	Secret string
	// RedirectURIs need no listener: Login reads the code from the redirect.
	RedirectURIs []string
}

// Options says how the provider is to be set up.
type Options struct {
	// Clients defaults to a service, svc, a web application, web, and a
	// resource server that introspects, rs, each with its name and -secret as
	// its secret.
	Clients []Client
	// Scopes are those that clients may ask for beside openid and
	// offline_access; the default is api:read.
	Scopes []string
	// AccessTokenTTL defaults to an hour, RefreshTokenTTL to a day.
	AccessTokenTTL, RefreshTokenTTL time.Duration
	// OwnTokensOnly lets a client revoke and introspect only the tokens that
	// were issued to it, as many servers do. Without it any client may.
	OwnTokensOnly bool
	// StepHeader names the request header whose value Requests reports as
	// Step; empty is none.
	StepHeader string
}

// DefaultRedirectURI is the redirect URI of the default client web.
const DefaultRedirectURI = "http://127.0.0.1:1/callback"

// Server is a running provider. Its fields must not be changed.
type Server struct {
	Issuer  string // http://127.0.0.1:PORT
	Clients []Client

	output string
	http   *http.Client
}

// Tokens are what a token endpoint gave.
type Tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	ID      string `json:"id_token"`
	Type    string `json:"token_type"`
	Scope   string `json:"scope"`
	Expires int    `json:"expires_in"` // seconds
}

// Request is one line of the provider's own ledger.
type Request struct {
	Event  string `json:"event"` // token, token/revocation, token/introspection
	Status int    `json:"status"`
	Client string `json:"client"`
	Step   string `json:"step"`
	Active bool   `json:"active"` // of an introspection
	// TokenSHA256 is the hex digest of the token that the request was about.
	TokenSHA256 string `json:"token_sha256"`
	AtMicros    int64  `json:"at_us"` // Unix time in microseconds, when it was answered
}

// Start starts a provider for tb, which ends with it.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	node, dir := require(tb)
	s, end, err := start(node, dir, opts)
	if err != nil {
		tb.Fatalf("starting the OpenID provider: %v", err)
	}
	tb.Cleanup(func() {
		s.http.CloseIdleConnections()
		if err := end(); err != nil {
			tb.Errorf("stopping the OpenID provider: %v", err)
		}
	})
	return s
}

// Require skips tb, or fails it under STAUNCH_REQUIRE_OIDC=1, unless Node and
// the provider's package are there.
func Require(tb testing.TB) {
	tb.Helper()
	require(tb)
}

func require(tb testing.TB) (node, dir string) {
	tb.Helper()
	node, dir, err := find()
	if err == nil {
		return node, dir
	}
	proc.Missing(tb, "OpenID provider", "STAUNCH_REQUIRE_OIDC", err, "make test-systems installs it")
	return "", ""
}

func find() (node, dir string, err error) {
	node, err = exec.LookPath("node")
	if err != nil {
		return "", "", fmt.Errorf("looking for node: %w", err)
	}
	dir = os.Getenv("STAUNCH_OIDC_DIR")
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			return "", "", err
		}
		dir = filepath.Join(root, "test", "systems", "oidc")
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider", "package.json")); err != nil {
		return "", "", fmt.Errorf("looking for the npm package: %w", err)
	}
	return node, dir, nil
}

// moduleRoot is the nearest directory upward with a go.mod: go test runs in
// the directory of the package under test.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("looking for the module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("looking for the module: no go.mod in any directory upward")
		}
		dir = up
	}
}

func start(node, dir string, opts Options) (_ *Server, end func() error, err error) {
	if len(opts.Clients) == 0 {
		opts.Clients = []Client{
			{ID: "svc", Secret: "svc-secret"},
			{ID: "web", Secret: "web-secret", RedirectURIs: []string{DefaultRedirectURI}},
			{ID: "rs", Secret: "rs-secret"},
		}
	}
	if opts.Scopes == nil {
		opts.Scopes = []string{"api:read"}
	}
	if opts.AccessTokenTTL == 0 {
		opts.AccessTokenTTL = time.Hour
	}
	if opts.RefreshTokenTTL == 0 {
		opts.RefreshTokenTTL = 24 * time.Hour
	}
	tmp, err := proc.TempDir("oidc")
	if err != nil {
		return nil, nil, err
	}
	watcher, err := proc.Watch(tmp)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(tmp))
	}
	var p *proc.Process
	end = func() error {
		var err error
		if p != nil {
			err = p.Stop(syscall.SIGTERM, 5*time.Second)
		}
		err = errors.Join(err, os.RemoveAll(tmp))
		return errors.Join(err, watcher.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()

	config := filepath.Join(tmp, "config.json")
	b, err := json.Marshal(opts.config())
	if err != nil {
		return nil, nil, fmt.Errorf("writing the provider's configuration: %w", err)
	}
	if err := os.WriteFile(config, b, 0o600); err != nil {
		return nil, nil, fmt.Errorf("writing the provider's configuration: %w", err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("making a cookie jar: %w", err)
	}
	s := &Server{
		Clients: opts.Clients,
		output:  filepath.Join(tmp, "output"),
		// A transport of its own, so that its connections end with the server.
		http: &http.Client{Transport: &http.Transport{}, Timeout: callLimit, Jar: jar},
	}
	p, err = proc.Start(proc.Spec{
		Path: node, Args: []string{filepath.Join(dir, "server.mjs"), config},
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + tmp}, Dir: dir, Output: s.output,
	})
	if err != nil {
		return nil, nil, err
	}
	if err := watcher.Follow(p.PID()); err != nil {
		return nil, nil, err
	}
	err = p.Ready(startLimit, func() error {
		return s.lines(func(line []byte) error {
			var ready struct {
				Event  string `json:"event"`
				Issuer string `json:"issuer"`
			}
			if json.Unmarshal(line, &ready) == nil && ready.Event == "ready" {
				s.Issuer = ready.Issuer
			}
			return nil
		}, func() error {
			if s.Issuer == "" {
				return errors.New("it has not named its issuer")
			}
			return nil
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%w; its output ends: %s", err, proc.Tail(s.output, 2000))
	}
	return s, end, nil
}

func (o Options) config() map[string]any {
	clients := make([]map[string]any, 0, len(o.Clients))
	for _, c := range o.Clients {
		m := map[string]any{
			"client_id": c.ID, "redirect_uris": []string{}, "response_types": []string{},
			"grant_types": []string{"client_credentials"},
		}
		if c.Secret == "" {
			m["token_endpoint_auth_method"] = "none"
		} else {
			m["client_secret"] = c.Secret
		}
		if len(c.RedirectURIs) > 0 {
			m["redirect_uris"], m["response_types"] = c.RedirectURIs, []string{"code"}
			m["grant_types"] = []string{"authorization_code", "refresh_token"}
		}
		clients = append(clients, m)
	}
	return map[string]any{
		"clients": clients, "scopes": o.Scopes, "ownTokensOnly": o.OwnTokensOnly, "stepHeader": o.StepHeader,
		"accessTokenTTL": int(o.AccessTokenTTL.Seconds()), "refreshTokenTTL": int(o.RefreshTokenTTL.Seconds()),
	}
}

// lines calls each with every whole line that the provider has printed, then
// last.
func (s *Server) lines(each func([]byte) error, last func() error) error {
	f, err := os.Open(s.output)
	if err != nil {
		return fmt.Errorf("reading the provider's output: %w", err)
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			return last() // what is left is not a whole line yet
		case err != nil:
			return fmt.Errorf("reading the provider's output: %w", err)
		}
		if err := each(line); err != nil {
			return err
		}
	}
}

// Requests returns what the provider answered so far at its token, revocation
// and introspection endpoints,
// oldest first. It fails tb if the provider reported an error of its own.
func (s *Server) Requests(tb testing.TB) []Request {
	tb.Helper()
	var all []Request
	err := s.lines(func(line []byte) error {
		if !strings.HasPrefix(string(line), "{") {
			return nil // a notice of the library
		}
		var r struct {
			Request
			Error string `json:"error"`
			Path  string `json:"path"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("reading the line %q: %w", line, err)
		}
		if r.Error != "" {
			return fmt.Errorf("the provider failed at %s: %s", r.Path, r.Error)
		}
		if r.Event != "ready" {
			all = append(all, r.Request)
		}
		return nil
	}, func() error { return nil })
	if err != nil {
		tb.Fatalf("the OpenID provider's ledger: %v", err)
	}
	return all
}

// ClientCredentials returns an access token of a client's own. A wrong secret
// or the like fails tb.
func (s *Server) ClientCredentials(tb testing.TB, client string, scopes ...string) Tokens {
	tb.Helper()
	return s.token(tb, client, url.Values{"grant_type": {"client_credentials"}, "scope": {strings.Join(scopes, " ")}})
}

// Refresh exchanges a refresh token. ok is false when the provider refused it.
func (s *Server) Refresh(tb testing.TB, client, refresh string) (t Tokens, ok bool) {
	tb.Helper()
	status := s.post(tb, client, "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}, &t)
	return t, status == http.StatusOK
}

// Introspect asks, as client, whether the provider knows a token as active.
func (s *Server) Introspect(tb testing.TB, client, token string) bool {
	tb.Helper()
	var answer struct {
		Active bool `json:"active"`
	}
	if status := s.post(tb, client, "/token/introspection", url.Values{"token": {token}}, &answer); status != http.StatusOK {
		tb.Fatalf("introspecting a token as %s: status %d", client, status)
	}
	return answer.Active
}

// Revoke revokes a token as client, and returns the HTTP status.
func (s *Server) Revoke(tb testing.TB, client, token string) int {
	tb.Helper()
	return s.post(tb, client, "/token/revocation", url.Values{"token": {token}}, nil)
}

// Login signs an account in at a client with a browser's requests and returns
// the tokens, a refresh token among them, since offline_access is asked for.
func (s *Server) Login(tb testing.TB, client, account string, scopes ...string) Tokens {
	tb.Helper()
	t, err := s.login(s.client(tb, client), account, scopes)
	if err != nil {
		tb.Fatalf("signing %s in at %s: %v", account, client, err)
	}
	return t
}

func (s *Server) login(client Client, account string, scopes []string) (t Tokens, err error) {
	if len(client.RedirectURIs) == 0 {
		return t, errors.New("the client has no redirect URI")
	}
	redirect := client.RedirectURIs[0]
	jar, err := cookiejar.New(nil)
	if err != nil {
		return t, fmt.Errorf("making a cookie jar: %w", err)
	}
	// A browser of its own for each sign-in, and so a session of its own.
	browser := &http.Client{
		Transport: s.http.Transport, Timeout: callLimit, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	next := s.Issuer + "/auth?" + url.Values{
		"client_id": {client.ID}, "response_type": {"code"}, "redirect_uri": {redirect},
		"scope": {strings.Join(append([]string{"openid", "offline_access"}, scopes...), " ")}, "prompt": {"consent"},
	}.Encode()
	var form url.Values
	for range 16 {
		location, body, err := step(browser, next, form)
		if err != nil {
			return t, err
		}
		form = nil
		switch {
		case location != nil && strings.HasPrefix(location.String(), redirect):
			code := location.Query().Get("code")
			if code == "" {
				return t, fmt.Errorf("no code came back: %s", location.RawQuery)
			}
			form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}}
			status, err := s.call(client, "/token", form, &t)
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("exchanging the code: status %d", status)
			}
			return t, err
		case location != nil:
			next = location.String()
		case strings.Contains(body, `value="login"`):
			form = url.Values{"prompt": {"login"}, "login": {account}, "password": {"any"}}
		case strings.Contains(body, `value="consent"`):
			form = url.Values{"prompt": {"consent"}}
		default:
			return t, fmt.Errorf("a page that is neither sign-in nor consent: %.300s", body)
		}
	}
	return t, errors.New("sixteen pages, and no end")
}

// step makes one request of a browser: the next address, or the page.
func step(browser *http.Client, address string, form url.Values) (*url.URL, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, "", fmt.Errorf("asking %s: %w", address, err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := browser.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("asking %s: %w", address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, "", fmt.Errorf("reading the page %s: %w", address, err)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		location, err := resp.Location()
		return location, "", err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("the page %s: status %d: %.300s", address, resp.StatusCode, b)
	}
	return nil, string(b), nil
}

func (s *Server) client(tb testing.TB, id string) Client {
	tb.Helper()
	for _, c := range s.Clients {
		if c.ID == id {
			return c
		}
	}
	tb.Fatalf("the OpenID provider has no client %q", id)
	return Client{}
}

func (s *Server) token(tb testing.TB, client string, form url.Values) (t Tokens) {
	tb.Helper()
	if status := s.post(tb, client, "/token", form, &t); status != http.StatusOK {
		tb.Fatalf("asking for a token as %s: status %d", client, status)
	}
	return t
}

func (s *Server) post(tb testing.TB, client, path string, form url.Values, into any) int {
	tb.Helper()
	status, err := s.call(s.client(tb, client), path, form, into)
	if err != nil {
		tb.Fatalf("asking the OpenID provider as %s: %v", client, err)
	}
	return status
}

// call posts a form as a client and decodes the answer of a success.
func (s *Server) call(client Client, path string, form url.Values, into any) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if client.Secret == "" {
		form.Set("client_id", client.ID)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, fmt.Errorf("posting to %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client.Secret != "" {
		req.SetBasicAuth(url.QueryEscape(client.ID), url.QueryEscape(client.Secret))
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("posting to %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return 0, fmt.Errorf("reading the answer of %s: %w", path, err)
	}
	if resp.StatusCode == http.StatusOK && into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			return 0, fmt.Errorf("decoding the answer of %s: %w", path, err)
		}
	}
	return resp.StatusCode, nil
}
