//go:build systems

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/format/vault"
	"github.com/staunch-project/staunch/test/systems/pgtest"
	"github.com/staunch-project/staunch/test/systems/vaulttest"
)

const vaultRealm = "vault/prod"

// safe is a Vault whose audit device's file is followed: two secrets, one of
// which nobody has any business with, and users that may read both.
type safe struct {
	*vaulttest.Server
	tb         testing.TB
	act, proof string // staunch's tokens
}

type token struct {
	Token    string `json:"client_token"`
	Accessor string `json:"accessor"`
	Entity   string `json:"entity_id"`
}

func newSafe(tb testing.TB) *safe {
	tb.Helper()
	s := &safe{tb: tb, Server: vaulttest.Start(tb, vaulttest.Options{})}
	readme, err := os.ReadFile("../../internal/connector/vault/README.md")
	if err != nil {
		tb.Fatal(err)
	}
	for name, into := range map[string]*string{"act": &s.act, "proof": &s.proof} {
		m := regexp.MustCompile("(?s)```hcl " + name + "\n(.*?)```").FindSubmatch(readme)
		if m == nil {
			tb.Fatalf("the connector's README has no policy %q", name)
		}
		s.Call(tb, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": string(m[1])}, nil)
		var out struct{ Auth token }
		s.Call(tb, http.MethodPost, "auth/token/create-orphan", map[string]any{"policies": []string{name}, "no_default_policy": true, "period": "24h"}, &out)
		*into = out.Auth.Token
	}
	s.Call(tb, http.MethodPut, "sys/policies/acl/app", map[string]any{"policy": `
path "secret/data/*"     { capabilities = ["read"] }
path "database/creds/*"  { capabilities = ["read"] }`}, nil)
	s.Call(tb, http.MethodPost, "sys/auth/userpass", map[string]any{"type": "userpass"}, nil)
	for name, kind := range map[string]string{"billing": "service", "batcher": "batch"} {
		s.Call(tb, http.MethodPost, "auth/userpass/users/"+name, map[string]any{"password": "pw", "token_policies": "app", "token_type": kind}, nil)
	}
	for _, name := range []string{"ledger", "honey"} {
		s.Call(tb, http.MethodPost, "secret/data/"+name, map[string]any{"data": map[string]string{"value": name}}, nil)
	}
	return s
}

// login returns a new token of a user.
func (s *safe) login(name string) token {
	s.tb.Helper()
	var out struct{ Auth token }
	if status := s.do("", http.MethodPost, "auth/userpass/login/"+name, map[string]any{"password": "pw"}, &out); status != http.StatusOK {
		s.tb.Fatalf("%s logs in: status %d", name, status)
	}
	return out.Auth
}

func (s *safe) do(token, method, path string, in, out any) int {
	s.tb.Helper()
	status, err := s.Do(token, method, path, in, out)
	if err != nil {
		s.tb.Fatal(err)
	}
	return status
}

// reads reports whether a token can read a secret.
func (s *safe) reads(token, secret string) bool {
	s.tb.Helper()
	return s.do(token, http.MethodGet, "secret/data/"+secret, nil, nil) == http.StatusOK
}

func (s *safe) files(accounts ...string) map[string]string {
	var ids strings.Builder
	for i, a := range accounts {
		fmt.Fprintf(&ids, "  - {name: workload-%d, kind: service, owner: payments, environment: production, tier: 2, tolerance: normal, accounts: [\"account:%s:entity-id:%s\"]}\n", i, vaultRealm, a)
	}
	return map[string]string{
		"staunch.yaml": fmt.Sprintf(`v: 1
listen: "@LISTEN@"
mode: enforce
realms:
  - name: %s
    platform: vault
    connector: {address: %q, token: %q, proof_token: %q, audit_devices: [file]}
sources:
  - {name: vault-audit, format: hashicorp.vault, realm: %[1]s, ceiling: revoke, tail: {path: %[5]q}}
  - {name: leaks, format: generic, mapping: leaks.yaml, realm: %[1]s, ceiling: revoke}
rules: [rules]
identities: identities.yaml
`, vaultRealm, s.Addr, s.act, s.proof, s.AuditPath),
		"identities.yaml": "v: 1\nidentities:\n" + ids.String(),
		"leaks.yaml": `v: 1
name: leaks
title: Leak reports
product: {name: Leak watch, vendor_name: Example}
logsource: {product: leakwatch}
refs:
  accessor: {kind: credential, scheme: accessor-hmac, from: accessor_hmac}
keys: {id: id, time: time, operation: =token_leaked, outcome: success, targets: [accessor]}
findings:
  - {id: =leaked-token, title: "Token found in {where}", confidence: 0.7, accuse: [accessor], evidence: "found in {where}"}
ocsf:
  classes:
    - {class: Detection Finding, activity: =Create, set: {message: "token found in {where}", finding_info: {uid: id, title: "Token found in {where}"}}}
`,
		"rules/honey.yaml": `title: A secret that nobody has any business with was read
id: 7d3f0a52-5d0c-4f5e-9a8b-0d7c7f1f9c01
status: test
level: high
confidence: 0.7
logsource: {product: vault, service: audit}
tags: [attack.t1552]
detection:
  read:
    type: response
    request.path: secret/data/honey
    request.operation: read
  failed:
    error|exists: true
  condition: read and not failed
accuse: [credential]
`,
	}
}

// hash returns what the audit device writes for a value.
func (s *safe) hash(value string) string {
	s.tb.Helper()
	var out struct {
		Data struct {
			Hash string `json:"hash"`
		} `json:"data"`
	}
	s.Call(s.tb, http.MethodPost, "sys/audit-hash/file", map[string]string{"input": value}, &out)
	return out.Data.Hash
}

// checkLog puts the whole audit log through the format's conformance check.
func (s *safe) checkLog() {
	s.tb.Helper()
	f, err := vault.New()
	if err != nil {
		s.tb.Fatal(err)
	}
	data := append(bytes.Join(s.Audit(s.tb), []byte("\n")), '\n')
	if dir := os.Getenv("STAUNCH_CAPTURE"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(s.tb.Name(), "/", "_")+".json"), data, 0o600); err != nil {
			s.tb.Fatal(err)
		}
	}
	checkLines(s.tb, f, data)
}

// TestStolenToken is the story on Vault: somebody reads the honey secret with a
// workload's token.
func TestStolenToken(t *testing.T) {
	s := newSafe(t)
	stolen := s.login("billing")
	other := s.login("batcher")
	n := newNode(t, s.files(stolen.Entity))
	if !s.reads(stolen.Token, "ledger") {
		t.Fatal("the workload cannot read its secret")
	}
	theft := time.Now()
	if !s.reads(stolen.Token, "honey") {
		t.Fatal("the thief cannot read the honey secret")
	}
	eventually(t, "the stolen token is refused", func() bool { return !s.reads(stolen.Token, "ledger") })
	t.Logf("the stolen token was refused %s after the theft", time.Since(theft))
	c := n.await(staunch.PhaseHeld, staunch.TierIsolate)
	n.proven(c)
	// Vault cannot suspend one token, so its entity is, with the reason.
	t.Logf("the case:\n%s", timeline(c))
	if !s.reads(other.Token, "ledger") {
		t.Error("another user's token was hit")
	}

	// Now it is found in public, too.
	n.post("leaks", fmt.Sprintf(`{"id":"leak-1","time":%q,"accessor_hmac":%q,"where":"a build log"}`+"\n",
		time.Now().UTC().Format(time.RFC3339Nano), s.hash(stolen.Accessor)))
	c = n.await(staunch.PhaseHeld, staunch.TierRevoke)
	n.proven(c)
	if s.do(s.Token, http.MethodPost, "auth/token/lookup-accessor", map[string]string{"accessor": stolen.Accessor}, nil) == http.StatusOK {
		t.Errorf("the token was not revoked\n%s", timeline(c))
	}
	n.release(c, api.ReleaseRequest{Reason: "the token is dead, the workload logs in anew", Revive: true})
	c = n.await(staunch.PhaseReleased, staunch.TierRevoke)
	if s.reads(stolen.Token, "ledger") {
		t.Error("the stolen token works after the release")
	}
	if !s.reads(s.login("billing").Token, "ledger") {
		t.Errorf("the workload cannot log in anew\n%s", timeline(c))
	}
	n.sound()
	n.stop()
	s.checkLog()
}

// TestStolenBatchToken has a token without an accessor, which cannot be revoked:
// its entity is disabled.
func TestStolenBatchToken(t *testing.T) {
	s := newSafe(t)
	stolen := s.login("batcher")
	if stolen.Accessor != "" || stolen.Entity == "" {
		t.Fatalf("not a batch token of an entity: accessor %q, entity %q", stolen.Accessor, stolen.Entity)
	}
	n := newNode(t, s.files(stolen.Entity))
	if !s.reads(stolen.Token, "honey") {
		t.Fatal("the thief cannot read the honey secret")
	}
	eventually(t, "the stolen token is refused", func() bool { return !s.reads(stolen.Token, "ledger") })
	c := n.await(staunch.PhaseHeld, staunch.TierIsolate)
	n.proven(c)
	n.release(c, api.ReleaseRequest{Reason: "it was a drill", Revive: true})
	n.await(staunch.PhaseReleased, staunch.TierIsolate)
	if !s.reads(stolen.Token, "ledger") {
		t.Error("what was confirmed to come back to life did not")
	}
	n.sound()
	n.stop()
	s.checkLog()
}

// TestStolenTokenWithLease has the thief lease a database login with the token
// and open a session. Both are derived, and end with it.
func TestStolenTokenWithLease(t *testing.T) {
	bin, err := vaulttest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(bin), "plugins", vaulttest.DatabasePlugin)); err != nil {
		t.Skipf("the database plugin was not built beside Vault: %v", err)
	}
	s := newSafe(t)
	pg := pgtest.Shared(t)
	s.Call(t, http.MethodPost, "sys/mounts/database", map[string]any{"type": "database"}, nil)
	s.Call(t, http.MethodPost, "database/config/pg", map[string]any{
		"plugin_name": vaulttest.DatabasePlugin, "allowed_roles": "*", "connection_url": pg.NewDatabase(t),
	}, nil)
	s.Call(t, http.MethodPost, "database/roles/reader", map[string]any{
		"db_name": "pg", "default_ttl": "1h",
		"creation_statements":   []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
		"revocation_statements": []string{`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`, `DROP ROLE IF EXISTS "{{name}}"`},
	}, nil)
	type lease struct {
		ID   string `json:"lease_id"`
		Data struct {
			User     string `json:"username"`
			Password string `json:"password"`
		} `json:"data"`
	}
	lend := func(token string) (lease, *pgx.Conn) {
		t.Helper()
		var l lease
		if status := s.do(token, http.MethodGet, "database/creds/reader", nil, &l); status != http.StatusOK {
			t.Fatalf("leasing: status %d", status)
		}
		conn, err := pgx.Connect(t.Context(), pg.UserDSN(l.Data.User, l.Data.Password, "postgres"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may have been cut
		return l, conn
	}
	stolen, other := s.login("billing"), s.login("batcher")
	_, honest := lend(other.Token)
	// staunch was away while it happened, and reads it all afterwards: the honey
	// secret comes first, and what the token was used for then is derived.
	if !s.reads(stolen.Token, "honey") {
		t.Fatal("the thief cannot read the honey secret")
	}
	loot, session := lend(stolen.Token)
	n := newNode(t, s.files(stolen.Entity))
	n.post("leaks", fmt.Sprintf(`{"id":"leak-1","time":%q,"accessor_hmac":%q,"where":"a build log"}`+"\n",
		time.Now().UTC().Format(time.RFC3339Nano), s.hash(stolen.Accessor)))
	eventually(t, "the database session ends", func() bool {
		var one int
		return session.QueryRow(t.Context(), "SELECT 1").Scan(&one) != nil
	})
	c := n.await(staunch.PhaseHeld, staunch.TierRevoke)
	n.proven(c)
	leased := false
	for _, st := range c.Steps {
		leased = leased || st.Target.Ref.Value == loot.ID
	}
	if !leased {
		t.Errorf("the lease %s has no step of its own\n%s", loot.ID, timeline(c))
	}
	if conn, err := pgx.Connect(t.Context(), pg.UserDSN(loot.Data.User, loot.Data.Password, "postgres")); err == nil {
		_ = conn.Close(t.Context()) // it was only tried
		t.Error("the leased login works")
	}
	var one int
	if err := honest.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil {
		t.Errorf("another token's session was hit: %v", err)
	}
	if s.reads(stolen.Token, "ledger") {
		t.Error("the stolen token works")
	}
	n.sound()
	n.stop()
	s.checkLog()
}
