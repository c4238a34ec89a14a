//go:build systems

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector/vault"
	"github.com/staunch-project/staunch/test/ledger"
	"github.com/staunch-project/staunch/test/liar"
)

// vaultAsk tells what a request of the connector is about.
func (s *safe) ask(r *http.Request, body []byte) liar.Ask {
	as := " as thief"
	switch r.Header.Get("X-Vault-Token") {
	case s.act:
		as = " as staunch"
	case s.proof:
		as = " as staunch-proof"
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	list := r.Method == "LIST"
	read := func(op string) liar.Ask { return liar.Ask{Op: op + as, Reads: true} }
	switch {
	case path == "auth/token/lookup-self":
		// What our own tokens are is asked once, if the answer can be had.
		if as == " as thief" {
			return liar.Ask{Op: "probe"}
		}
		return liar.Ask{Op: "own token" + as, First: true}
	case strings.HasPrefix(path, "identity/entity/id/") && r.Method == http.MethodGet:
		return read("entity")
	case strings.HasPrefix(path, "identity/entity/id/") && strings.Contains(string(body), "true"):
		return liar.Ask{Op: "disable", Change: true}
	case strings.HasPrefix(path, "identity/entity/id/"):
		return liar.Ask{Op: "enable", Change: true}
	case path == "auth/token/accessors" && list:
		return read("accessors")
	case path == "auth/token/lookup-accessor":
		return read("accessor")
	case path == "sys/capabilities-self" && strings.Contains(string(body), `"paths":["auth/token/accessors/"]`):
		return liar.Ask{Op: "capabilities" + as, Reads: true, Seldom: true}
	case path == "auth/token/lookup":
		return read("sealed token")
	case strings.HasPrefix(path, "sys/audit-hash/"):
		return read("HMAC")
	case path == "sys/leases/lookup":
		return read("lease")
	case strings.HasPrefix(path, "sys/leases/lookup/") && list:
		return read("leases")
	case path == "auth/token/revoke-accessor":
		return liar.Ask{Op: "revoke token", Change: true}
	case path == "sys/leases/revoke":
		return liar.Ask{Op: "revoke lease", Change: true}
	case strings.HasPrefix(path, "sys/leases/revoke-prefix/"):
		return liar.Ask{Op: "revoke leases", Change: true, Parts: true}
	}
	return liar.Ask{} // doctor's
}

// serve puts a server that lies in front of the Vault.
func (s *safe) serve(d *liar.Deck) string {
	return liar.HTTP{
		Upstream: s.Addr, Deck: d, Ask: s.ask,
		Hollow: func(*http.Request) (int, string) { return http.StatusNoContent, "" },
		Part: func(r *http.Request) error {
			prefix := strings.TrimPrefix(r.URL.Path, "/v1/sys/leases/revoke-prefix/")
			var out struct {
				Data struct {
					Keys []string `json:"keys"`
				} `json:"data"`
			}
			status, err := s.Do(s.Token, "LIST", "sys/leases/lookup/"+prefix, nil, &out)
			if err != nil || status != http.StatusOK || len(out.Data.Keys) < 2 {
				return err // there is nothing left to be a part of
			}
			_, err = s.Do(s.Token, http.MethodPost, "sys/leases/revoke", map[string]any{"lease_id": prefix + "/" + out.Data.Keys[0], "sync": true}, nil)
			return err
		},
		Refusal: func(status int) string {
			says := "internal error"
			if status < http.StatusInternalServerError {
				says = "permission denied"
			}
			return `{"errors":["` + says + `"]}`
		},
	}.Serve(s.tb)
}

// TestLyingVault contains entities, tokens and leases of a Vault that is reached
// through one that lies.
func TestLyingVault(t *testing.T) {
	s := newSafe(t)
	s.Call(t, http.MethodPut, "sys/config/auditing/request-headers/"+ledger.StepHeader, map[string]any{"hmac": false}, nil)
	s.Call(t, http.MethodPost, "auth/token/roles/lent", map[string]any{"allowed_entity_aliases": "*", "allowed_policies": "app,default", "orphan": true}, nil)
	s.Call(t, http.MethodPost, "sys/mounts/ssh", map[string]any{"type": "ssh"}, nil)
	bystander := s.lend("bystander")
	deck, lag := liar.NewDeck(*lieSeed, lieRate, *lieOften), liar.NewLag(*lieSeed, lagRate)
	lag.Lie(false)
	const lagRealm = vaultRealm + "/lag"
	files := map[string]string{"leaks.yaml": `v: 1
name: leaks
title: Leak reports
product: {name: Leak watch, vendor_name: Example}
logsource: {product: leakwatch}
secrets:
  at:
    - {path: token, kind: credential, keep: true}
refs:
  token: {kind: credential, scheme: sha256, from: token}
keys: {id: id, time: time, operation: =token_leaked, outcome: success, targets: [token]}
findings:
  - {id: =leaked-token, title: "Token found in {id}", confidence: 0.1, accuse: [token]}
ocsf:
  classes:
    - {class: Detection Finding, activity: =Create, set: {message: "token found in {id}", finding_info: {uid: id, title: "Token found in {id}"}}}
`}
	realms, sources := "", ""
	for realm, d := range map[string]*liar.Deck{vaultRealm: deck, lagRealm: lag} {
		realms += fmt.Sprintf(`  - name: %s
    platform: vault
    rate_per_second: 2000
    connector: {address: %q, token: %q, proof_token: %q, audit_devices: [file], timeout: 1s}
`, realm, s.serve(d), s.act, s.proof)
		sources += fmt.Sprintf("  - {name: %s, format: generic, mapping: leaks.yaml, realm: %s, ceiling: observe}\n", leaksOf(realm), realm)
	}
	files["staunch.yaml"] = lyingConfig + realms + "sources:\n" + sources
	n := newHastyNode(t, files, 3*hastily)
	outcomes := map[string]liar.Outcome{}
	var mu sync.Mutex
	t.Run("play", func(t *testing.T) {
		play := func(name, realm string, p liar.Play) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p.API, p.Lying, p.Patience = n.api, lying(), 2*patience
				p.Subject = func(i int) liar.Subject { return s.subject(t, n, realm, fmt.Sprintf("%s-%d", name, i), i) }
				p.Deck.Lie(true)
				o := p.Run(t)
				mu.Lock()
				defer mu.Unlock()
				outcomes[realm] = o
			})
		}
		play("lies", vaultRealm, liar.Play{Deck: deck, AtOnce: 24, Fewest: 24, Most: 900 * *lieOften})
		play("lag", lagRealm, liar.Play{Deck: lag, AtOnce: 2 * vaultKinds, Fewest: 4 * vaultKinds * *lieOften, Most: 4 * vaultKinds * *lieOften})
	})
	if !s.works(bystander.Token) {
		t.Error("a token that nobody spoke of was hit")
	}
	n.stop()
	var entries []ledger.AuditEntry
	for _, line := range s.Audit(t) {
		var e ledger.AuditEntry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	checkLedger(t, ledger.Vault(entries, "act", "proof", "").Once(), outcomes)
}

func leaksOf(realm string) string { return "leaks-" + strings.ReplaceAll(realm, "/", "-") }

// lend returns a token of an entity of its own.
func (s *safe) lend(name string) token {
	s.tb.Helper()
	var out struct{ Auth token }
	s.Call(s.tb, http.MethodPost, "auth/token/create/lent", map[string]any{"entity_alias": name, "policies": []string{"app", "default"}}, &out)
	return out.Auth
}

// works uses a token.
func (s *safe) works(token string) bool {
	s.tb.Helper()
	return s.do(token, http.MethodGet, "auth/token/lookup-self", nil, nil) == http.StatusOK
}

// vaultKinds is how many kinds of subjects there are.
const vaultKinds = 8

// subject makes a subject, of each kind in turn.
func (s *safe) subject(t *testing.T, n *node, realm, name string, i int) liar.Subject {
	t.Helper()
	ref := func(kind staunch.Kind, scheme, value string) staunch.Ref {
		return staunch.Ref{Kind: kind, Realm: realm, Scheme: scheme, Value: value}
	}
	credential := func(scheme, value string) staunch.Ref { return ref(staunch.KindCredential, scheme, value) }
	var stolen token
	var lent []string
	lease := func() string {
		var out struct {
			ID string `json:"lease_id"`
		}
		s.Call(t, http.MethodPost, "ssh/creds/"+name, map[string]any{"ip": "192.0.2.7"}, &out)
		lent = append(lent, out.ID)
		return out.ID
	}
	out := liar.Subject{Tier: staunch.TierRevoke}
	disabled := func() (bool, error) {
		var got struct {
			Data struct {
				Disabled bool `json:"disabled"`
			} `json:"data"`
		}
		_, err := s.Do(s.Token, http.MethodGet, "identity/entity/id/"+stolen.Entity, nil, &got)
		return got.Data.Disabled, err
	}
	out.Alive = func(target staunch.Target) (bool, error) {
		switch target.Attribute {
		case vault.AttributeDisabled:
			off, err := disabled()
			return !off || s.works(stolen.Token), err
		case vault.AttributeToken:
			status, err := s.Do(s.Token, http.MethodPost, "auth/token/lookup-accessor", map[string]any{"accessor": target.Ref.Value}, nil)
			return status == http.StatusOK, err
		case vault.AttributeLease:
			status, err := s.Do(s.Token, http.MethodPost, "sys/leases/lookup", map[string]any{"lease_id": target.Ref.Value}, nil)
			return status == http.StatusOK, err
		case vault.AttributeLeases:
			for _, id := range lent {
				status, err := s.Do(s.Token, http.MethodPost, "sys/leases/lookup", map[string]any{"lease_id": id}, nil)
				if err != nil || status == http.StatusOK {
					return true, err
				}
			}
			return false, nil
		}
		return true, fmt.Errorf("no such target: %s", target)
	}
	if kind := i % vaultKinds; kind < 6 {
		stolen = s.lend(name)
		seal := func() staunch.Ref {
			n.post(leaksOf(realm), fmt.Sprintf(`{"id":%q,"time":%q,"token":%q}`+"\n", name, time.Now().UTC().Format(time.RFC3339Nano), stolen.Token))
			return credential(vault.SchemeDigest, staunch.NewSecret(stolen.Token).Digest())
		}
		suspended := func() {
			out.Tier = staunch.TierIsolate
			out.State = func() (string, error) {
				off, err := disabled()
				return fmt.Sprintf("disabled %t, the token works %t", off, s.works(stolen.Token)), err
			}
		}
		switch kind {
		case 0, 1:
			out.Name, out.Ref = "entity", ref(staunch.KindAccount, vault.SchemeEntity, stolen.Entity)
			suspended()
		case 2:
			out.Name, out.Ref = "entity of a sealed token", seal()
			suspended()
		case 3:
			out.Name, out.Ref = "sealed token", seal()
		case 4:
			out.Name, out.Ref = "token by its HMAC", credential(vault.SchemeAccessorHMAC, s.hash(stolen.Accessor))
		case 5:
			out.Name, out.Ref = "entity with its tokens", ref(staunch.KindAccount, vault.SchemeEntity, stolen.Entity)
		}
		return out
	}
	s.Call(t, http.MethodPost, "ssh/roles/"+name, map[string]any{"key_type": "otp", "default_user": "app", "cidr_list": "0.0.0.0/0"}, nil)
	if i%vaultKinds == 6 {
		out.Name, out.Ref = "lease", credential(vault.SchemeLease, lease())
		return out
	}
	for range 4 {
		lease()
	}
	out.Name, out.Ref = "leases", credential(vault.SchemeLeasePrefix, "ssh/creds/"+name)
	return out
}
