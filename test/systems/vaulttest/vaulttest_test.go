//go:build systems

package vaulttest_test

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/test/systems/pgtest"
	"github.com/staunch-project/staunch/test/systems/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func TestTokenRevokedAndAudited(t *testing.T) {
	t.Parallel()
	audit := filepath.Join(t.TempDir(), "vault-audit.log")
	s := vaulttest.Start(t, vaulttest.Options{AuditPath: audit})
	var made struct {
		Auth struct {
			ClientToken string `json:"client_token"`
			Accessor    string `json:"accessor"`
		} `json:"auth"`
	}
	s.Call(t, http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"default"}}, &made)
	lookup := func() int {
		t.Helper()
		status, err := s.Do(made.Auth.ClientToken, http.MethodGet, "auth/token/lookup-self", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	if status := lookup(); status != http.StatusOK {
		t.Fatalf("a fresh token: status %d", status)
	}
	s.Call(t, http.MethodPost, "auth/token/revoke-accessor", map[string]any{"accessor": made.Auth.Accessor}, nil)
	if status := lookup(); status != http.StatusForbidden {
		t.Fatalf("a revoked token: status %d", status)
	}

	var revoked int
	for _, line := range s.Audit(t) {
		var entry struct {
			Type    string `json:"type"`
			Request struct {
				Path string `json:"path"`
			} `json:"request"`
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("an audit line is not JSON: %v: %s", err, line)
		}
		if entry.Type == "response" && entry.Request.Path == "auth/token/revoke-accessor" {
			revoked++
		}
		if strings.Contains(string(line), made.Auth.ClientToken) {
			t.Error("the audit log has a token in plain text")
		}
	}
	if revoked != 1 {
		t.Errorf("%d revocations in the audit log at %s, want 1", revoked, audit)
	}
}

func TestDatabaseLease(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	database := pg.NewDatabase(t)
	s := vaulttest.Start(t, vaulttest.Options{NoAudit: true})
	s.Call(t, http.MethodPost, "sys/mounts/database", map[string]any{"type": "database"}, nil)
	s.Call(t, http.MethodPost, "database/config/pg", map[string]any{
		"plugin_name": vaulttest.DatabasePlugin, "allowed_roles": "*", "connection_url": database,
	}, nil)
	s.Call(t, http.MethodPost, "database/roles/reader", map[string]any{
		"db_name": "pg", "default_ttl": "1h",
		"creation_statements": []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
	}, nil)
	var lease struct {
		ID   string `json:"lease_id"`
		Data struct {
			Username string `json:"username"`
		} `json:"data"`
	}
	s.Call(t, http.MethodGet, "database/creds/reader", nil, &lease)
	if lease.ID == "" || lease.Data.Username == "" {
		t.Fatalf("no lease: %+v", lease)
	}
	s.Call(t, http.MethodPut, "sys/leases/revoke", map[string]any{"lease_id": lease.ID, "sync": true}, nil)
	if log := pg.Log(t); !strings.Contains(log, "DROP ROLE IF EXISTS \""+lease.Data.Username) {
		t.Error("the shared PostgreSQL did not see the lease's role dropped")
	}
}

func TestServersInParallel(t *testing.T) {
	t.Parallel()
	first, second := vaulttest.Start(t, vaulttest.Options{}), vaulttest.Start(t, vaulttest.Options{})
	if first.Addr == second.Addr || first.Token == second.Token {
		t.Fatalf("two servers at %s and %s", first.Addr, second.Addr)
	}
	status, err := second.Do(first.Token, http.MethodGet, "auth/token/lookup-self", nil, nil)
	if err != nil || status != http.StatusForbidden {
		t.Fatalf("the token of one server at the other: status %d, %v", status, err)
	}
}
