//go:build systems

package oauth2

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/test/systems/oidctest"
)

// provider is a real OpenID provider, oidc-provider under Node.
func provider(tb testing.TB, own bool) (*oidctest.Server, Config) {
	tb.Helper()
	s := oidctest.Start(tb, oidctest.Options{
		StepHeader: StepHeader, OwnTokensOnly: own,
		Clients: []oidctest.Client{
			{ID: "svc", Secret: "svc-secret"}, {ID: "other", Secret: "other-secret"}, {ID: "prover", Secret: "prover-secret"},
			{ID: "rs", Secret: "rs-secret"}, {ID: "web", Secret: "web-secret", RedirectURIs: []string{oidctest.DefaultRedirectURI}},
		},
	})
	return s, Config{
		RevocationEndpoint: s.Issuer + "/token/revocation", IntrospectionEndpoint: s.Issuer + "/token/introspection",
		Clients: []Client{known("svc")}, Proof: known("prover"),
	}
}

func TestConformanceOIDCProvider(t *testing.T) {
	s, cfg := provider(t, false)
	issue := func(tb testing.TB) string {
		form := url.Values{"grant_type": {"client_credentials"}, "scope": {"api:read"}}
		status, out, err := post(tb.Context(), s.Issuer+"/token", "svc", form)
		token, _ := out["access_token"].(string)
		if err != nil || token == "" {
			tb.Fatalf("issuing a token: status %d, %v", status, err)
		}
		return token
	}
	active := func(ctx context.Context, token string) (bool, error) {
		return active(ctx, s.Issuer+"/token/introspection", token)
	}
	ledger := func(tb testing.TB) []string {
		var out []string
		for _, r := range s.Requests(tb) {
			b, err := json.Marshal(r)
			if err != nil {
				tb.Fatal(err)
			}
			out = append(out, string(b))
		}
		return out
	}
	apart := func(tb testing.TB, c connector.Connector, target staunch.Target) {
		var by []string
		for _, proof := range []bool{false, true} {
			n := len(s.Requests(tb))
			if _, err := c.Read(tb.Context(), target, proof); err != nil {
				tb.Fatal(err)
			}
			for _, r := range s.Requests(tb)[n:] {
				by = append(by, r.Client)
			}
		}
		if strings.Join(by, " ") != "svc prover" {
			tb.Errorf("a read, then a proof read, by %v", by)
		}
	}
	connectortest.Run(t, harness(cfg, newSealed(), false, issue, active, active, ledger, apart))
}

func TestGrantOIDCProvider(t *testing.T) {
	s, cfg := provider(t, false)
	cfg.Issuer, cfg.RevocationEndpoint, cfg.IntrospectionEndpoint = s.Issuer, "", ""
	cfg.Clients = append(cfg.Clients, known("web"))
	secrets := newSealed()
	c := build(t, cfg, secrets)
	defer func() { _ = c.Close() }()
	if f := c.Check(t.Context()); len(f) != 0 {
		t.Errorf("%+v", f)
	}
	alice, bob := s.Login(t, "web", "alice", "api:read"), s.Login(t, "web", "bob", "api:read")
	in := prepared(t, c, secrets.put(alice.Refresh))
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]bool{alice.Refresh: false, alice.Access: false, bob.Access: true} {
		st, err := c.Read(t.Context(), secrets.put(token), true)
		if err != nil || st.Effective != want {
			t.Errorf("%+v, %v; want active %t", st, err, want)
		}
	}
	if _, ok := s.Refresh(t, "web", alice.Refresh); ok {
		t.Error("the revoked refresh token is exchanged")
	}
}

// A server that shows a client its own tokens only calls every other inactive:
// the prover's word alone would prove a live token dead.
func TestProverThatSeesNothing(t *testing.T) {
	s, cfg := provider(t, true)
	cfg.Client, cfg.Clients = known("other"), []Client{known("svc")}
	secrets := newSealed()
	tg := secrets.put(s.ClientCredentials(t, "svc", "api:read").Access)
	c := build(t, cfg, secrets)
	defer func() { _ = c.Close() }()
	if st, err := c.Read(t.Context(), tg, true); err != nil || !st.Effective {
		t.Fatalf("a live token reads as %+v, %v", st, err)
	}
	in := prepared(t, c, tg)
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Read(t.Context(), tg, true); err != nil || st.Effective || !c.Matches(in.Expected, st) {
		t.Errorf("a revoked token reads as %+v, %v", st, err)
	}
	var by []string
	for _, r := range s.Requests(t) {
		if r.Event == "token/revocation" {
			by = append(by, r.Client+" "+r.Step)
		}
	}
	if strings.Join(by, ",") != "svc stp_1" {
		t.Errorf("revoked by %v", by)
	}
}
