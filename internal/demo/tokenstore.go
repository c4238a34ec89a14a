package demo

import (
	"context"
	"sync"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/oauth2"
)

// tokenStore keeps the authorization server's clients and access tokens in
// memory. There are no codes and no refresh tokens: the client credentials
// grant makes neither.
type tokenStore struct {
	mu      sync.RWMutex
	clients map[string]fosite.Client
	tokens  map[string]fosite.Requester // by signature
	byReq   map[string]string           // request id → signature
}

var (
	_ fosite.Storage                = (*tokenStore)(nil)
	_ oauth2.CoreStorage            = (*tokenStore)(nil)
	_ oauth2.TokenRevocationStorage = (*tokenStore)(nil)
)

func newTokenStore() *tokenStore {
	return &tokenStore{clients: map[string]fosite.Client{}, tokens: map[string]fosite.Requester{}, byReq: map[string]string{}}
}

// GetClient returns a client by its id.
func (s *tokenStore) GetClient(_ context.Context, id string) (fosite.Client, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.clients[id]
	if !ok {
		return nil, fosite.ErrNotFound
	}
	return c, nil
}

// ClientAssertionJWTValid refuses: clients authenticate by their secret.
func (s *tokenStore) ClientAssertionJWTValid(context.Context, string) error {
	return fosite.ErrInvalidClient
}

// SetClientAssertionJWT refuses: clients authenticate by their secret.
func (s *tokenStore) SetClientAssertionJWT(context.Context, string, time.Time) error {
	return fosite.ErrInvalidClient
}

// CreateAccessTokenSession keeps a token.
func (s *tokenStore) CreateAccessTokenSession(_ context.Context, signature string, r fosite.Requester) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[signature], s.byReq[r.GetID()] = r, signature
	return nil
}

// GetAccessTokenSession returns a token's request.
func (s *tokenStore) GetAccessTokenSession(_ context.Context, signature string, _ fosite.Session) (fosite.Requester, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.tokens[signature]
	if !ok {
		return nil, fosite.ErrNotFound
	}
	return r, nil
}

// DeleteAccessTokenSession forgets a token.
func (s *tokenStore) DeleteAccessTokenSession(_ context.Context, signature string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, signature)
	return nil
}

// RevokeAccessToken forgets the token of a request.
func (s *tokenStore) RevokeAccessToken(_ context.Context, requestID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, s.byReq[requestID])
	delete(s.byReq, requestID)
	return nil
}

// RevokeRefreshToken has nothing to revoke.
func (s *tokenStore) RevokeRefreshToken(context.Context, string) error { return nil }

// CreateRefreshTokenSession refuses: the grant makes no refresh tokens.
func (s *tokenStore) CreateRefreshTokenSession(context.Context, string, string, fosite.Requester) error {
	return fosite.ErrServerError
}

// GetRefreshTokenSession finds none.
func (s *tokenStore) GetRefreshTokenSession(context.Context, string, fosite.Session) (fosite.Requester, error) {
	return nil, fosite.ErrNotFound
}

// DeleteRefreshTokenSession has nothing to delete.
func (s *tokenStore) DeleteRefreshTokenSession(context.Context, string) error { return nil }

// RotateRefreshToken has nothing to rotate.
func (s *tokenStore) RotateRefreshToken(context.Context, string, string) error {
	return fosite.ErrNotFound
}

// CreateAuthorizeCodeSession refuses: the grant uses no codes.
func (s *tokenStore) CreateAuthorizeCodeSession(context.Context, string, fosite.Requester) error {
	return fosite.ErrServerError
}

// GetAuthorizeCodeSession finds none.
func (s *tokenStore) GetAuthorizeCodeSession(context.Context, string, fosite.Session) (fosite.Requester, error) {
	return nil, fosite.ErrNotFound
}

// InvalidateAuthorizeCodeSession finds none.
func (s *tokenStore) InvalidateAuthorizeCodeSession(context.Context, string) error {
	return fosite.ErrNotFound
}
