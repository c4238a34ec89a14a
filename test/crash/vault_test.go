//go:build systems

package crash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch/test/ledger"
	"github.com/staunch-project/staunch/test/systems/vaulttest"
)

// vaultSite is what one lane of runs works on: accounts of its engine, and for
// each run a user with an entity, tokens and a lease that another token took out
// for it. The ledger is Vault's audit device.
type vaultSite struct {
	*vaulttest.Server
	n            int
	token, proof string

	ledger *ledger.Log
	audit  []ledger.AuditEntry

	// Of the run that goes on.
	user, entity, lease string
	tokens              []string
}

var _ platform = (*vaultSite)(nil)

type vaultAuth struct {
	Token    string `json:"client_token"`
	Accessor string `json:"accessor"`
	Entity   string `json:"entity_id"`
}

func newVaultSite(tb testing.TB, server *vaulttest.Server, n int) *vaultSite {
	tb.Helper()
	s := &vaultSite{Server: server, n: n}
	readme, err := os.ReadFile("../../internal/connector/vault/README.md")
	if err != nil {
		tb.Fatal(err)
	}
	for name, into := range map[string]*string{"act": &s.token, "proof": &s.proof} {
		m := regexp.MustCompile("(?s)```hcl " + name + "\n(.*?)```").FindSubmatch(readme)
		if m == nil {
			tb.Fatalf("the README has no policy %q", name)
		}
		server.Call(tb, http.MethodPut, "sys/policies/acl/"+s.policy(name), map[string]any{"policy": string(m[1])}, nil)
		var out struct{ Auth vaultAuth }
		server.Call(tb, http.MethodPost, "auth/token/create-orphan", map[string]any{"policies": []string{s.policy(name)}, "no_default_policy": true, "period": "24h"}, &out)
		*into = out.Auth.Token
	}
	return s
}

func (s *vaultSite) policy(name string) string { return fmt.Sprintf("%s_l%d", name, s.n) }

// call fails where Vault does not answer with success.
func (s *vaultSite) call(token, method, path string, in, out any) error {
	status, err := s.Do(token, method, path, in, out)
	if err == nil && status >= 300 {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return fmt.Errorf("on the platform: %s %s: %w", method, path, err)
	}
	return nil
}

// login returns the zero auth where Vault refuses.
func (s *vaultSite) login(pw string) (vaultAuth, error) {
	var out struct{ Auth vaultAuth }
	status, err := s.Do("", http.MethodPost, "auth/userpass/login/"+s.user, map[string]any{"password": pw}, &out)
	if err != nil || status != http.StatusOK {
		return vaultAuth{}, err
	}
	return out.Auth, nil
}

func (s *vaultSite) alive(token string) (bool, error) {
	status, err := s.Do(token, http.MethodGet, "auth/token/lookup-self", nil, nil)
	return status == http.StatusOK, err
}

// make makes a user who logged in twice, and a one-time password that is leased
// for it.
func (s *vaultSite) make(_ context.Context, n int) (string, error) {
	var err error
	s.audit = nil
	s.user = fmt.Sprintf("user-%d-%d", s.n, n)
	if s.ledger, err = ledger.Follow(s.AuditPath); err != nil {
		return "", err
	}
	if err := s.call(s.Token, http.MethodPost, "auth/userpass/users/"+s.user, map[string]any{"password": password, "token_policies": "default"}, nil); err != nil {
		return "", err
	}
	s.tokens = nil
	for range 2 {
		a, err := s.login(password)
		if err != nil || a.Token == "" {
			return "", fmt.Errorf("on the platform: the user cannot log in: %w", err)
		}
		s.entity, s.tokens = a.Entity, append(s.tokens, a.Token)
	}
	var out struct {
		ID string `json:"lease_id"`
	}
	if err := s.call(s.Token, http.MethodPost, "ssh/creds/otp", map[string]any{"ip": "192.0.2.7"}, &out); err != nil {
		return "", err
	}
	if out.ID == "" {
		return "", errors.New("on the platform: no lease was given")
	}
	s.lease = out.ID
	return s.entity, nil
}

func (s *vaultSite) drop(context.Context, string) error {
	return errors.Join(
		s.call(s.Token, http.MethodDelete, "auth/userpass/users/"+s.user, nil, nil),
		s.call(s.Token, http.MethodDelete, "identity/entity/id/"+s.entity, nil, nil))
}

func (s *vaultSite) realm() (config, scheme string) {
	return fmt.Sprintf(`platform: vault
    connector: {address: %q, token: %q, proof_token: %q, audit_devices: [file]}`, s.Addr, s.token, s.proof), "entity-id"
}

func (s *vaultSite) evidence() map[string]any { return map[string]any{"lease": s.lease} }

func (s *vaultSite) steps() int { return 4 } // the entity, two tokens, the lease

// state is what the entity is; what is revoked does not come back.
func (s *vaultSite) state(context.Context, string, bool) (string, error) {
	var out struct {
		Data struct {
			ID       string            `json:"id"`
			Name     string            `json:"name"`
			Disabled bool              `json:"disabled"`
			Policies []string          `json:"policies"`
			Metadata map[string]string `json:"metadata"`
			Aliases  []struct {
				ID   string `json:"id"`
				Name string `json:"name"`
			} `json:"aliases"`
		} `json:"data"`
	}
	if err := s.call(s.Token, http.MethodGet, "identity/entity/id/"+s.entity, nil, &out); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(out.Data, "", " ")
	return string(b), err
}

func (s *vaultSite) stolen() (left []string, err error) {
	for i, t := range s.tokens {
		ok, err := s.alive(t)
		if err != nil {
			return nil, err
		}
		if ok {
			left = append(left, fmt.Sprintf("token %d works", i+1))
		}
	}
	status, err := s.Do(s.Token, http.MethodPost, "sys/leases/lookup", map[string]any{"lease_id": s.lease}, nil)
	if err == nil && status == http.StatusOK {
		left = append(left, "the lease is there")
	}
	return left, err
}

func (s *vaultSite) access(context.Context, string) (string, error) {
	left, err := s.stolen()
	if err != nil {
		return "", err
	}
	a, err := s.login(password)
	if a.Token != "" {
		left = append(left, "a new login works")
	}
	return strings.Join(left, ", "), err
}

func (s *vaultSite) rotate(context.Context, string) error {
	return s.call(s.Token, http.MethodPost, "auth/userpass/users/"+s.user, map[string]any{"password": newPassword}, nil)
}

func (s *vaultSite) works(_ context.Context, _ string, rotated bool) (works, stolen bool, err error) {
	pw := password
	left, err := s.stolen() // a release brings none of it back
	if err != nil {
		return false, false, err
	}
	if rotated {
		pw = newPassword
		a, err := s.login(password)
		if err != nil {
			return false, false, err
		}
		if a.Token != "" {
			left = append(left, "the old password works")
		}
	}
	a, err := s.login(pw)
	if err != nil || a.Token == "" {
		return false, len(left) > 0, err
	}
	works, err = s.alive(a.Token)
	return works, len(left) > 0, err
}

// The thief's logins each leave a token behind, which is one more to revoke.
const (
	vaultLogins     = 10
	vaultLoginEvery = 300 * time.Millisecond
)

func (s *vaultSite) thief(ctx context.Context, _ string) *thief {
	th, ctx := newThief(ctx)
	th.wg.Go(func() {
		first := true
		every(ctx, sessionEvery, func() {
			ok, err := s.alive(s.tokens[0])
			if err != nil || !ok {
				return
			}
			th.success.Add(1)
			if first {
				first = false
				close(th.open)
			}
		})
	})
	th.wg.Go(func() {
		had := 0
		every(ctx, vaultLoginEvery, func() {
			if had == vaultLogins {
				return
			}
			a, err := s.login(password)
			if err != nil || a.Token == "" {
				return
			}
			had++
			th.success.Add(1)
		})
	})
	return th
}

// judge reads the audit device: an answer without an error is a change that took
// effect.
func (s *vaultSite) judge(context.Context) (ledger.Judgement, error) {
	lines, err := s.ledger.Lines()
	if err != nil {
		return ledger.Judgement{}, err
	}
	for _, l := range lines {
		var e ledger.AuditEntry
		if err := json.Unmarshal(l, &e); err != nil {
			return ledger.Judgement{}, fmt.Errorf("reading Vault's audit log: %w", err)
		}
		s.audit = append(s.audit, e)
	}
	return ledger.Vault(s.audit, s.policy("act"), s.policy("proof"), s.entity), nil
}

func TestKill9Vault(t *testing.T) {
	server := vaulttest.Start(t, vaulttest.Options{AuditRequestHeaders: []string{ledger.StepHeader}})
	server.Call(t, http.MethodPost, "sys/auth/userpass", map[string]any{"type": "userpass"}, nil)
	// The thief goes on with the old password after a rotation; the lockout would
	// keep the rightful user out too.
	server.Call(t, http.MethodPost, "sys/auth/userpass/tune", map[string]any{"user_lockout_config": map[string]any{"lockout_disable": true}}, nil)
	server.Call(t, http.MethodPost, "sys/mounts/ssh", map[string]any{"type": "ssh"}, nil)
	server.Call(t, http.MethodPost, "ssh/roles/otp", map[string]any{"key_type": "otp", "default_user": "app", "cidr_list": "0.0.0.0/0"}, nil)
	sites := make([]platform, *lanes)
	for i := range sites {
		sites[i] = newVaultSite(t, server, i)
	}
	// Nothing of Vault's is swept again.
	killAll(t, sites, "-tags systems ", "begin/sweep", "end/sweep", "sweep.call", "sweep.called")
}
