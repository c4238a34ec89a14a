package oauth2

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/storage"
	"golang.org/x/crypto/bcrypt"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
)

// authServer is an authorization server of the ory/fosite library: a real one,
// in this process. It keeps a ledger of what it was asked.
type authServer struct {
	*httptest.Server

	mu     sync.Mutex
	ledger []string
}

func newAuthServer(tb testing.TB, clients ...string) *authServer {
	tb.Helper()
	store := storage.NewMemoryStore()
	for _, id := range clients {
		hash, err := bcrypt.GenerateFromPassword([]byte(id+"-secret"), bcrypt.MinCost)
		if err != nil {
			tb.Fatal(err)
		}
		store.Clients[id] = &fosite.DefaultClient{
			ID: id, Secret: hash, GrantTypes: fosite.Arguments{"client_credentials", "password", "refresh_token"},
			Scopes: fosite.Arguments{"api", "offline"},
		}
	}
	store.Users["alice"] = storage.MemoryUserRelation{Username: "alice", Password: "pw"}
	cfg := &fosite.Config{
		AccessTokenLifespan: time.Hour, RefreshTokenLifespan: 24 * time.Hour, HashCost: bcrypt.MinCost,
		GlobalSecret: []byte("thirty-two bytes of a test secret"),
	}
	provider := compose.Compose(cfg, store, compose.NewOAuth2HMACStrategy(cfg),
		compose.OAuth2ClientCredentialsGrantFactory,
		compose.OAuth2ResourceOwnerPasswordCredentialsFactory, //nolint:staticcheck // the shortest way to a refresh token in a test
		compose.OAuth2RefreshTokenGrantFactory, compose.OAuth2TokenRevocationFactory, compose.OAuth2TokenIntrospectionFactory)
	s := &authServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		session := &fosite.DefaultSession{}
		req, err := provider.NewAccessRequest(r.Context(), r, session)
		if err != nil {
			provider.WriteAccessError(r.Context(), w, req, err)
			return
		}
		session.Subject = req.GetClient().GetID()
		if u := r.PostForm.Get("username"); u != "" {
			session.Subject = u
		}
		for _, scope := range req.GetRequestedScopes() {
			req.GrantScope(scope)
		}
		resp, err := provider.NewAccessResponse(r.Context(), req)
		if err != nil {
			provider.WriteAccessError(r.Context(), w, req, err)
			return
		}
		provider.WriteAccessResponse(r.Context(), w, req, resp)
	})
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		err := provider.NewRevocationRequest(r.Context(), r)
		s.note("revoke " + r.Header.Get(StepHeader))
		provider.WriteRevocationResponse(r.Context(), w, err)
	})
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		id, _, _ := r.BasicAuth()
		s.note("introspect " + id + " " + r.RemoteAddr)
		resp, err := provider.NewIntrospectionRequest(r.Context(), r, &fosite.DefaultSession{})
		if err != nil {
			provider.WriteIntrospectionError(r.Context(), w, err)
			return
		}
		provider.WriteIntrospectionResponse(r.Context(), w, resp)
	})
	// An API that introspects every call.
	mux.HandleFunc("GET /api", func(w http.ResponseWriter, r *http.Request) {
		_, _, err := provider.IntrospectToken(r.Context(), fosite.AccessTokenFromRequest(r), fosite.AccessToken, &fosite.DefaultSession{})
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"issuer":%q,"revocation_endpoint":"%s/revoke","introspection_endpoint":"%s/introspect"}`, s.URL, s.URL, s.URL)
	})
	s.Server = httptest.NewServer(mux)
	tb.Cleanup(s.Close)
	return s
}

func (s *authServer) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger = append(s.ledger, line)
}

func (s *authServer) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ledger...)
}

// once makes a request over a connection that is not kept.
func once(req *http.Request) (*http.Response, error) {
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
}

// post asks an endpoint as a client, the way no connector does.
func post(ctx context.Context, endpoint, as string, form url.Values) (int, map[string]any, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, err
	}
	req.SetBasicAuth(as, as+"-secret")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := once(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, err
	}
	var out map[string]any
	if len(b) > 0 {
		if err := json.Unmarshal(b, &out); err != nil {
			return 0, nil, fmt.Errorf("%s: %w", b, err)
		}
	}
	return resp.StatusCode, out, nil
}

// issue gives tokens to a client, or to alice through it.
func (s *authServer) issue(tb testing.TB, client, user string) (access, refresh string) {
	tb.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"api"}}
	if user != "" {
		form = url.Values{"grant_type": {"password"}, "username": {user}, "password": {"pw"}, "scope": {"api offline"}}
	}
	status, out, err := post(tb.Context(), s.URL+"/token", client, form)
	if err != nil || status != 200 {
		tb.Fatalf("issuing a token: status %d, %v, %v", status, out, err)
	}
	access, _ = out["access_token"].(string)
	refresh, _ = out["refresh_token"].(string)
	return access, refresh
}

// active asks as a resource server.
func active(ctx context.Context, endpoint, token string) (bool, error) {
	_, out, err := post(ctx, endpoint, "rs", url.Values{"token": {token}})
	is, _ := out["active"].(bool)
	return is, err
}

func (s *authServer) active(ctx context.Context, token string) (bool, error) {
	return active(ctx, s.URL+"/introspect", token)
}

func (s *authServer) works(ctx context.Context, token string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api", nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := once(req)
	if err != nil {
		return false, err
	}
	return resp.StatusCode == 200, resp.Body.Close()
}

func (s *authServer) config() Config {
	return Config{
		RevocationEndpoint: s.URL + "/revoke", IntrospectionEndpoint: s.URL + "/introspect", ProbeURL: s.URL + "/api",
		Clients: []Client{known("svc")}, Proof: known("prover"), TokenTypeHint: "access_token",
	}
}

func closedPort(tb testing.TB) string {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// moved points a configuration to another address.
func moved(c Config, host string) Config {
	for _, p := range []*string{&c.RevocationEndpoint, &c.IntrospectionEndpoint} {
		u, err := url.Parse(*p)
		if err != nil {
			panic(err)
		}
		u.Host = host
		*p = u.String()
	}
	return c
}

// harness is the conformance harness for a server whose configuration, and ways
// to issue, use and look at a token, are given.
func harness(cfg Config, secrets *sealed, probes bool, issue func(testing.TB) string,
	works func(context.Context, string) (bool, error), active func(context.Context, string) (bool, error),
	ledger func(testing.TB) []string, apart func(testing.TB, connector.Connector, staunch.Target)) connectortest.Harness {
	host, err := url.Parse(cfg.RevocationEndpoint)
	if err != nil {
		panic(err)
	}
	mk := func(tb testing.TB, cfg Config) connector.Connector { return build(tb, cfg, secrets) }
	return connectortest.Harness{
		Factory: Factory(),
		Realm:   realm,
		New:     func(tb testing.TB) connector.Connector { return mk(tb, cfg) },
		Cases: []connectortest.Case{{
			Name: "token", Verb: staunch.VerbRevoke, Stops: true, Probes: probes,
			Subject: func(tb testing.TB) connectortest.Subject {
				token := issue(tb)
				t := secrets.put(token)
				return connectortest.Subject{
					Request: connector.ExpandRequest{Subject: t.Ref, Tier: staunch.TierRevoke},
					Target:  t,
					Works:   func(ctx context.Context) (bool, error) { return works(ctx, token) },
					Observe: func(ctx context.Context) (string, error) {
						ok, err := active(ctx, token)
						return fmt.Sprint(ok), err
					},
				}
			},
		}},
		Missing:    []staunch.Target{secrets.put("a token that nobody issued")},
		ProofApart: apart,
		Denied: func(tb testing.TB) connector.Connector {
			bad := cfg
			bad.Clients = []Client{{ID: cfg.Clients[0].ID, Secret: staunch.NewSecret("wrong")}}
			bad.Proof.Secret = staunch.NewSecret("wrong")
			bad.ProbeURL = "" // the resource needs no credential of ours
			return mk(tb, bad)
		},
		Down: func(tb testing.TB) connector.Connector {
			down := moved(cfg, closedPort(tb))
			down.ProbeURL = "" // the resource is another server
			return mk(tb, down)
		},
		Cut: func(tb testing.TB) (connector.Connector, func(string)) {
			p := connectortest.NewProxy(tb, host.Host)
			return mk(tb, moved(cfg, p.Addr())), func(key string) { p.LoseAnswer(connectortest.Containing(key)) }
		},
		Ledger: ledger,
	}
}

func TestConformanceFosite(t *testing.T) {
	s := newAuthServer(t, "svc", "prover", "rs")
	issue := func(tb testing.TB) string { a, _ := s.issue(tb, "svc", ""); return a }
	apart := func(tb testing.TB, c connector.Connector, target staunch.Target) {
		var read [2]string
		for i, proof := range []bool{false, true} {
			n := len(s.lines())
			if _, err := c.Read(tb.Context(), target, proof); err != nil {
				tb.Fatal(err)
			}
			if l := s.lines(); len(l) == n+1 {
				read[i] = l[n]
			}
		}
		a, b := strings.Fields(read[0]), strings.Fields(read[1])
		if len(a) != 3 || len(b) != 3 || a[1] != "svc" || b[1] != "prover" || a[2] == b[2] {
			tb.Errorf("a read, then a proof read: %q", read)
		}
	}
	connectortest.Run(t, harness(s.config(), newSealed(), true, issue, s.works, s.active, func(testing.TB) []string { return s.lines() }, apart))
}

// This server answers 200 to a client that may not revoke the token, and
// nothing happens: the answer is no proof, and the reads tell.
func TestAcceptedIsNotRevoked(t *testing.T) {
	s := newAuthServer(t, "svc", "revoker", "prover", "rs")
	secrets := newSealed()
	token, _ := s.issue(t, "svc", "")
	tg := secrets.put(token)
	cfg := s.config()
	cfg.Client, cfg.Clients = known("revoker"), nil
	c := build(t, cfg, secrets)
	defer func() { _ = c.Close() }()
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: tg.Ref, Tier: staunch.TierRevoke})
	if err != nil || len(ex.Gaps) != 1 || !strings.Contains(ex.Gaps[0].Reason, `client "svc"`) {
		t.Fatalf("%+v, %v", ex, err)
	}
	in := prepared(t, c, tg)
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatalf("the premise: the server accepts it: %v", err)
	}
	st, err := c.Read(t.Context(), tg, true)
	if err != nil || !st.Effective || c.Matches(in.Expected, st) {
		t.Errorf("%+v, %v", st, err)
	}
	if p, err := c.Probe(t.Context(), in); err != nil || !p.Conclusive || !p.Works {
		t.Errorf("%+v, %v", p, err)
	}
	// With the credential of the token's own client it is.
	cfg.Clients = []Client{known("svc")}
	right := build(t, cfg, secrets)
	defer func() { _ = right.Close() }()
	in = prepared(t, right, tg)
	if !strings.Contains(in.Call, "as client svc") || strings.Contains(in.Call, token) {
		t.Errorf("call %q", in.Call)
	}
	if _, err := right.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if st, err := right.Read(t.Context(), tg, true); err != nil || st.Effective || !right.Matches(in.Expected, st) {
		t.Errorf("%+v, %v", st, err)
	}
}

// Revoking the refresh token takes its access token along, and other grants of
// the same account go on.
func TestRefreshToken(t *testing.T) {
	s := newAuthServer(t, "svc", "prover", "rs")
	secrets := newSealed()
	access, refresh := s.issue(t, "svc", "alice")
	other, _ := s.issue(t, "svc", "alice")
	cfg := s.config()
	cfg.TokenTypeHint = ""
	c := build(t, cfg, secrets)
	defer func() { _ = c.Close() }()
	in := prepared(t, c, secrets.put(refresh))
	if p, err := c.Probe(t.Context(), in); err != nil || p.Conclusive {
		t.Errorf("a refresh token was shown to the API: %+v, %v", p, err)
	}
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]bool{access: false, refresh: false, other: true} {
		st, err := c.Read(t.Context(), secrets.put(token), true)
		if err != nil || st.Effective != want {
			t.Errorf("%+v, %v; want active %t", st, err, want)
		}
	}
}

func TestCheckAndDiscoveryFosite(t *testing.T) {
	s := newAuthServer(t, "svc", "prover", "rs")
	secrets := newSealed()
	cfg := s.config()
	cfg.Issuer, cfg.RevocationEndpoint, cfg.IntrospectionEndpoint = s.URL, "", ""
	c := build(t, cfg, secrets)
	defer func() { _ = c.Close() }()
	if f := c.Check(t.Context()); len(f) != 0 {
		t.Errorf("%+v", f)
	}
	cfg.Proof = Client{}
	cfg.Clients = []Client{known("svc"), {ID: "rs", Secret: staunch.NewSecret("wrong")}}
	weak := build(t, cfg, secrets)
	defer func() { _ = weak.Close() }()
	var got []string
	for _, f := range weak.Check(t.Context()) {
		got = append(got, f.Severity+" "+f.Message)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"warning no proof client", "error introspection with client rs", "error revocation with client rs"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if len(got) != 3 {
		t.Errorf("findings:\n%s", all)
	}
}
