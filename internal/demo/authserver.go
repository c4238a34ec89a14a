package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
)

// Clients of the authorization server.
const (
	// WorkloadClient is the rightful workload.
	WorkloadClient = "billing-sync"
	// ResourceClient is the APIs' client, for introspection.
	ResourceClient = "resource-server"
	// ProofClient is the client with which the engine reads proof.
	ProofClient = "staunch-proof"
)

// secretOf returns a client's secret. They guard nothing beyond this process.
func (e *Estate) secretOf(client string) string { return e.secrets[client] }

// newAuthServer returns an OAuth 2 authorization server with the client
// credentials grant, introspection (RFC 7662) and revocation (RFC 7009).
func newAuthServer(secrets map[string]string) (http.Handler, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("making the authorization server's key: %w", err)
	}
	cfg := &fosite.Config{
		AccessTokenLifespan: time.Hour,
		GlobalSecret:        key,
		// Every call of the introspecting API checks a client's secret; the
		// secrets are random, so the lowest cost is enough.
		HashCost: 4,
	}
	hasher := &fosite.BCrypt{Config: cfg}
	store := newTokenStore()
	for id, secret := range secrets {
		h, err := hasher.Hash(context.Background(), []byte(secret))
		if err != nil {
			return nil, fmt.Errorf("hashing a client's secret: %w", err)
		}
		store.clients[id] = &fosite.DefaultClient{
			ID: id, Secret: h, GrantTypes: []string{"client_credentials"}, Scopes: []string{"ledger"},
		}
	}
	provider := compose.Compose(cfg, store, &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(cfg)},
		compose.OAuth2ClientCredentialsGrantFactory, compose.OAuth2TokenIntrospectionFactory, compose.OAuth2TokenRevocationFactory)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		req, err := provider.NewAccessRequest(ctx, r, &fosite.DefaultSession{})
		if err != nil {
			provider.WriteAccessError(ctx, w, req, err)
			return
		}
		for _, s := range req.GetRequestedScopes() {
			req.GrantScope(s)
		}
		session := req.GetSession().(*fosite.DefaultSession)
		session.Subject = req.GetClient().GetID()
		// Introspections share the session, and each would make this map.
		session.Extra = map[string]any{}
		resp, err := provider.NewAccessResponse(ctx, req)
		if err != nil {
			provider.WriteAccessError(ctx, w, req, err)
			return
		}
		provider.WriteAccessResponse(ctx, w, req, resp)
	})
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		resp, err := provider.NewIntrospectionRequest(r.Context(), r, &fosite.DefaultSession{})
		if err != nil {
			provider.WriteIntrospectionError(r.Context(), w, err)
			return
		}
		provider.WriteIntrospectionResponse(r.Context(), w, resp)
	})
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		provider.WriteRevocationResponse(r.Context(), w, provider.NewRevocationRequest(r.Context(), r))
	})
	return mux, nil
}
