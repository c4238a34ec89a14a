//go:build systems

package oidctest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/test/systems/oidctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClientCredentialsRevokedAndIntrospected(t *testing.T) {
	t.Parallel()
	s := oidctest.Start(t, oidctest.Options{})
	first, second := s.ClientCredentials(t, "svc"), s.ClientCredentials(t, "svc")
	if first.Access == "" || first.Access == second.Access {
		t.Fatalf("tokens %+v and %+v", first, second)
	}
	if !s.Introspect(t, "rs", first.Access) {
		t.Fatal("a fresh token is not active")
	}
	if status := s.Revoke(t, "rs", first.Access); status != http.StatusOK {
		t.Fatalf("revoking: status %d", status)
	}
	if s.Introspect(t, "rs", first.Access) {
		t.Fatal("a revoked token is active")
	}
	if !s.Introspect(t, "rs", second.Access) {
		t.Fatal("revoking one token took another with it")
	}
	if status := s.Revoke(t, "rs", "never-issued"); status != http.StatusOK {
		t.Fatalf("revoking an unknown token: status %d, RFC 7009 says 200", status)
	}

	digest := sha256.Sum256([]byte(first.Access))
	var trail []string
	for _, r := range s.Requests(t) {
		if r.TokenSHA256 == hex.EncodeToString(digest[:]) {
			trail = append(trail, r.Event+" by "+r.Client)
		}
		if r.AtMicros < time.Now().Add(-time.Hour).UnixMicro() {
			t.Errorf("a request at %d, which is long ago", r.AtMicros)
		}
	}
	want := "token/introspection by rs, token/revocation by rs, token/introspection by rs"
	if got := strings.Join(trail, ", "); got != want {
		t.Errorf("the ledger of the token: %s, want %s", got, want)
	}
}

func TestLoginRefreshAndRevocationOfTheGrant(t *testing.T) {
	t.Parallel()
	s := oidctest.Start(t, oidctest.Options{})
	alice, bob := s.Login(t, "web", "alice"), s.Login(t, "web", "bob")
	if alice.Refresh == "" || alice.ID == "" {
		t.Fatalf("no refresh or id token: %+v", alice)
	}
	if next, ok := s.Refresh(t, "web", bob.Refresh); !ok || next.Access == "" {
		t.Fatal("a good refresh token is refused")
	}
	if status := s.Revoke(t, "web", alice.Refresh); status != http.StatusOK {
		t.Fatalf("revoking the refresh token: status %d", status)
	}
	if _, ok := s.Refresh(t, "web", alice.Refresh); ok {
		t.Fatal("a revoked refresh token is exchanged")
	}
	if s.Introspect(t, "rs", alice.Access) {
		t.Fatal("the access token outlived its revoked refresh token")
	}
}

func TestOwnTokensOnly(t *testing.T) {
	t.Parallel()
	s := oidctest.Start(t, oidctest.Options{
		OwnTokensOnly: true, StepHeader: "X-Step", AccessTokenTTL: 90 * time.Second,
		Scopes:  []string{"orders:write"},
		Clients: []oidctest.Client{{ID: "a", Secret: "secret-of-a"}, {ID: "b", Secret: "secret-of-b"}},
	})
	token := s.ClientCredentials(t, "a", "orders:write")
	if token.Scope != "orders:write" || token.Expires != 90 {
		t.Fatalf("tokens %+v", token)
	}
	if s.Introspect(t, "b", token.Access) {
		t.Fatal("a stranger learned that the token is active")
	}
	s.Revoke(t, "b", token.Access)
	if !s.Introspect(t, "a", token.Access) {
		t.Fatal("a stranger revoked the token")
	}

	form := url.Values{"token": {token.Access}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token/revocation", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("a", "secret-of-a")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Step", "plan-1/step-2")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || s.Introspect(t, "a", token.Access) {
		t.Fatalf("the owner's revocation: status %d", resp.StatusCode)
	}
	var found bool
	for _, r := range s.Requests(t) {
		found = found || r.Event == "token/revocation" && r.Step == "plan-1/step-2" && r.Client == "a"
	}
	if !found {
		t.Errorf("the ledger lacks the step: %+v", s.Requests(t))
	}
}
