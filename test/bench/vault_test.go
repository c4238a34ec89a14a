//go:build systems

package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/test/systems/vaulttest"
)

const vaultRealm = "vault/bench"

// The rates of Vault's clients.
const (
	vaultOpenEvery  = 40 * time.Millisecond
	vaultLoginEvery = 200 * time.Millisecond
)

type vaultEstate struct {
	server *vaulttest.Server
	node   *node
	client *http.Client
	// By subject: its entity, its first token, and what it logs in with.
	entities, tokens, logins []string
}

func (e *vaultEstate) subject(i int) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: vaultRealm, Scheme: "entity-id", Value: e.entities[i]}
}

func (e *vaultEstate) engine() *node { return e.node }

func (e *vaultEstate) accuse(ctx context.Context, n *node, i int) error {
	return n.accuse(ctx, "vault-"+e.entities[i], e.entities[i], "")
}

// startVault starts a Vault with a role of AppRole for each subject, each with
// an entity of its own, and an engine that knows them.
func startVault(t *testing.T, count int) estate {
	e := &vaultEstate{
		server: vaulttest.Start(t, vaulttest.Options{AuditRequestHeaders: []string{"X-Staunch-Step"}}),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
	t.Cleanup(e.client.CloseIdleConnections)
	readme, err := os.ReadFile(filepath.FromSlash("../../internal/connector/vault/README.md"))
	must(t, err)
	var own [2]string
	for i, name := range []string{"act", "proof"} {
		m := regexp.MustCompile("(?s)```hcl " + name + "\n(.*?)```").FindSubmatch(readme)
		if m == nil {
			t.Fatalf("the connector's README has no policy %q", name)
		}
		e.server.Call(t, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": string(m[1])}, nil)
		var out struct {
			Auth struct {
				Token string `json:"client_token"`
			}
		}
		e.server.Call(t, http.MethodPost, "auth/token/create-orphan", map[string]any{"policies": []string{name}, "no_default_policy": true, "period": "24h"}, &out)
		own[i] = out.Auth.Token
	}
	e.server.Call(t, http.MethodPost, "sys/auth/approle", map[string]any{"type": "approle"}, nil)
	var ids strings.Builder
	ids.WriteString("v: 1\nidentities:\n")
	for i := range count {
		role := fmt.Sprintf("auth/approle/role/svc-%04d", i)
		e.server.Call(t, http.MethodPost, role, map[string]any{"token_policies": "default", "token_ttl": "1h"}, nil)
		var id, secret struct {
			Data struct {
				Role   string `json:"role_id"`
				Secret string `json:"secret_id"`
			}
		}
		e.server.Call(t, http.MethodGet, role+"/role-id", nil, &id)
		e.server.Call(t, http.MethodPost, role+"/secret-id", map[string]any{}, &secret)
		login, err := json.Marshal(map[string]string{"role_id": id.Data.Role, "secret_id": secret.Data.Secret})
		must(t, err)
		var out struct {
			Auth struct {
				Token  string `json:"client_token"`
				Entity string `json:"entity_id"`
			}
		}
		e.server.Call(t, http.MethodPost, "auth/approle/login", json.RawMessage(login), &out)
		e.entities, e.tokens, e.logins = append(e.entities, out.Auth.Entity), append(e.tokens, out.Auth.Token), append(e.logins, string(login))
		fmt.Fprintf(&ids, "- {name: svc-%04d, kind: service, owner: team%d, purpose: deploy %d, environment: production, tier: 2, tolerance: normal, accounts: ['account:%s:entity-id:%s']}\n", i, i%40, i%40, vaultRealm, out.Auth.Entity)
	}
	e.node = startNode(t, setting{
		realm: vaultRealm, scheme: "entity-id", accuse: "account",
		more: "identities: identities.yaml\nrealms:\n- name: " + vaultRealm + "\n  platform: vault\n  rate_per_second: 100000\n  connector:\n    address: " +
			e.server.Addr + "\n    token: " + own[0] + "\n    proof_token: " + own[1] + "\n",
		files: map[string]string{"identities.yaml": ids.String()},
	})
	return e
}

func (e *vaultEstate) thieves(i int) []*thief {
	call := func(ctx context.Context, method, path, token, body string) (answer, []byte, error) {
		req, err := http.NewRequestWithContext(ctx, method, e.server.Addr+"/v1/"+path, strings.NewReader(body))
		if err != nil {
			return trouble, nil, err
		}
		if token != "" {
			req.Header.Set("X-Vault-Token", token)
		}
		resp, err := e.client.Do(req)
		if err != nil {
			return trouble, nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return trouble, nil, err
		}
		// Vault answers a login of a disabled entity with 400 in some versions.
		if resp.StatusCode == http.StatusBadRequest && bytes.Contains(b, []byte("permission denied")) {
			return denied, b, nil
		}
		a, err := httpAnswer(resp, nil)
		if a == trouble {
			err = fmt.Errorf("status %d: %.200s", resp.StatusCode, b)
		}
		return a, b, err
	}
	open := func(ctx context.Context) (answer, error) {
		a, _, err := call(ctx, http.MethodGet, "auth/token/lookup-self", e.tokens[i], "")
		return a, err
	}
	// A login counts when its token works.
	logins := func(ctx context.Context) (answer, error) {
		a, b, err := call(ctx, http.MethodPost, "auth/approle/login", "", e.logins[i])
		if a != success {
			return a, err
		}
		var out struct {
			Auth struct {
				Token string `json:"client_token"`
			}
		}
		if err := json.Unmarshal(b, &out); err != nil {
			return trouble, err
		}
		a, _, err = call(ctx, http.MethodGet, "auth/token/lookup-self", out.Auth.Token, "")
		return a, err
	}
	return []*thief{
		{name: "stolen token", every: vaultOpenEvery, try: open, stop: func() {}},
		{name: "new logins", every: vaultLoginEvery, try: logins, stop: func() {}},
	}
}

func TestContainVault(t *testing.T) {
	vaulttest.Require(t)
	containment(t, "vault", 300, fmt.Sprintf("token=%s logins=%s", vaultOpenEvery, vaultLoginEvery), startVault)
}
