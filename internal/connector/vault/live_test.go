//go:build systems

package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
	"github.com/staunch-project/staunch/test/systems/vaulttest"
)

// estate is a Vault with the README's policies, a userpass mount and, where
// asked for, a database engine.
type estate struct {
	*vaulttest.Server
	token, proof string
	n            atomic.Int64
}

func newEstate(tb testing.TB) *estate {
	tb.Helper()
	e := &estate{Server: vaulttest.Start(tb, vaulttest.Options{AuditRequestHeaders: []string{StepHeader}})}
	e.Call(tb, http.MethodPost, "sys/auth/userpass", map[string]any{"type": "userpass"}, nil)
	readme, err := os.ReadFile("README.md")
	if err != nil {
		tb.Fatal(err)
	}
	for name, into := range map[string]*string{"act": &e.token, "proof": &e.proof} {
		m := regexp.MustCompile("(?s)```hcl " + name + "\n(.*?)```").FindSubmatch(readme)
		if m == nil {
			tb.Fatalf("the README has no policy %q", name)
		}
		e.Call(tb, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": string(m[1])}, nil)
		var out struct{ Auth auth }
		e.Call(tb, http.MethodPost, "auth/token/create-orphan", map[string]any{"policies": []string{name}, "no_default_policy": true, "period": "24h"}, &out)
		*into = out.Auth.Token
	}
	return e
}

type auth struct {
	Token    string `json:"client_token"`
	Accessor string `json:"accessor"`
	Entity   string `json:"entity_id"`
}

func (e *estate) config() Config {
	return Config{
		Address: e.Addr, Token: staunch.NewSecret(e.token), ProofToken: staunch.NewSecret(e.proof), AuditDevices: []string{"file"},
	}
}

func (e *estate) connector(tb testing.TB, secrets connector.Secrets) *Connector {
	tb.Helper()
	c := build(tb, e.config(), secrets)
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// user makes a user with the extra settings and logs in.
func (e *estate) user(tb testing.TB, extra map[string]any) (name string, a auth) {
	tb.Helper()
	name = fmt.Sprintf("user%d", e.n.Add(1))
	body := map[string]any{"password": "pw", "token_policies": "default"}
	for k, v := range extra {
		body[k] = v
	}
	e.Call(tb, http.MethodPost, "auth/userpass/users/"+name, body, nil)
	a, ok := e.login(tb, name)
	if !ok {
		tb.Fatalf("%s cannot log in", name)
	}
	return name, a
}

func (e *estate) login(tb testing.TB, name string) (auth, bool) {
	tb.Helper()
	var out struct{ Auth auth }
	status, err := e.Do("", http.MethodPost, "auth/userpass/login/"+name, map[string]any{"password": "pw"}, &out)
	if err != nil {
		tb.Fatal(err)
	}
	return out.Auth, status == http.StatusOK
}

// works uses a token as a thief would.
func (e *estate) works(token string) (bool, error) {
	status, err := e.Do(token, http.MethodGet, "auth/token/lookup-self", nil, nil)
	return status == http.StatusOK, err
}

func (e *estate) alive(tb testing.TB, token string) bool {
	tb.Helper()
	ok, err := e.works(token)
	if err != nil {
		tb.Fatal(err)
	}
	return ok
}

// raw reads something with the root token; what changes by itself is cut.
func (e *estate) raw(method, path string, in any, cut ...string) (string, error) {
	var out map[string]any
	status, err := e.Do(e.Token, method, path, in, &out)
	if err != nil {
		return "", err
	}
	data, _ := out["data"].(map[string]any)
	for _, k := range cut {
		delete(data, k)
	}
	b, err := json.Marshal(data)
	return fmt.Sprintf("%d %s", status, b), err
}

func (e *estate) ref(kind staunch.Kind, scheme, value string) staunch.Ref {
	return staunch.Ref{Kind: kind, Realm: realm, Scheme: scheme, Value: value}
}

// database adds the database engine on a real PostgreSQL and returns a
// function that leases a role: the lease id and the login.
func (e *estate) database(tb testing.TB, pg *pgtest.Server) (lease func(token string) (id, user, password string)) {
	tb.Helper()
	dsn := pg.NewDatabase(tb)
	e.Call(tb, http.MethodPost, "sys/mounts/database", map[string]any{"type": "database"}, nil)
	e.Call(tb, http.MethodPost, "database/config/pg", map[string]any{
		"plugin_name": vaulttest.DatabasePlugin, "allowed_roles": "*", "connection_url": dsn,
	}, nil)
	e.Call(tb, http.MethodPut, "sys/policies/acl/leaser", map[string]any{"policy": `path "database/creds/*" { capabilities = ["read"] }`}, nil)
	var roles sync.Map
	return func(token string) (string, string, string) {
		tb.Helper()
		role := "reader"
		if name, ok := strings.CutPrefix(token, "role:"); ok {
			role, token = name, e.Token
		}
		if _, ok := roles.LoadOrStore(role, true); !ok {
			e.Call(tb, http.MethodPost, "database/roles/"+role, map[string]any{
				"db_name": "pg", "default_ttl": "1h",
				"creation_statements":   []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
				"revocation_statements": []string{`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`, `DROP ROLE IF EXISTS "{{name}}"`},
			}, nil)
		}
		var out struct {
			ID   string `json:"lease_id"`
			Data struct {
				User     string `json:"username"`
				Password string `json:"password"`
			} `json:"data"`
		}
		status, err := e.Do(token, http.MethodGet, "database/creds/"+role, nil, &out)
		if err != nil || status != http.StatusOK {
			tb.Fatalf("leasing: status %d, %v", status, err)
		}
		return out.ID, out.Data.User, out.Data.Password
	}
}

func harness(tb testing.TB, e *estate, pg *pgtest.Server) connectortest.Harness {
	tb.Helper()
	lease := e.database(tb, pg)
	secrets := &lockedSecrets{m: sealed{}}
	mk := func(tb testing.TB, change func(*Config)) *Connector {
		cfg := e.config()
		if change != nil {
			change(&cfg)
		}
		return build(tb, cfg, secrets)
	}
	login := func(ctx context.Context, user, password string) (bool, error) {
		conn, err := pgx.Connect(ctx, pg.UserDSN(user, password, "postgres"))
		if err != nil {
			return false, nil
		}
		return true, conn.Close(ctx)
	}
	leaseSubject := func(prefix bool) func(testing.TB) connectortest.Subject {
		return func(tb testing.TB) connectortest.Subject {
			role := fmt.Sprintf("role%d", e.n.Add(1))
			id, user, password := lease("role:" + role)
			t := staunch.Target{Ref: e.ref(staunch.KindCredential, SchemeLease, id), Attribute: AttributeLease}
			if prefix {
				t = staunch.Target{Ref: e.ref(staunch.KindCredential, SchemeLeasePrefix, "database/creds/"+role), Attribute: AttributeLeases}
			}
			return connectortest.Subject{
				Request: connector.ExpandRequest{Subject: t.Ref, Tier: staunch.TierRevoke},
				Target:  t,
				Works:   func(ctx context.Context) (bool, error) { return login(ctx, user, password) },
				Observe: func(context.Context) (string, error) {
					return e.raw("LIST", "sys/leases/lookup/database/creds/"+role, nil)
				},
			}
		}
	}
	return connectortest.Harness{
		Factory: Factory(),
		Realm:   realm,
		New:     func(tb testing.TB) connector.Connector { return mk(tb, nil) },
		Cases: []connectortest.Case{
			{Name: "entity", Verb: staunch.VerbSuspend, Stops: true, Subject: func(tb testing.TB) connectortest.Subject {
				name, a := e.user(tb, nil)
				t := staunch.Target{Ref: e.ref(staunch.KindAccount, SchemeEntity, a.Entity), Attribute: AttributeDisabled}
				return connectortest.Subject{
					Request: connector.ExpandRequest{Subject: t.Ref, Names: []staunch.Ref{t.Ref}, Tier: staunch.TierRevoke},
					Target:  t,
					// Logs in anew, too.
					Works: func(context.Context) (bool, error) {
						old, err := e.works(a.Token)
						if err != nil || !old {
							return false, err
						}
						fresh, ok := e.login(tb, name)
						if ok {
							e.Call(tb, http.MethodPost, "auth/token/revoke-accessor", map[string]string{"accessor": fresh.Accessor}, nil)
						}
						return ok, nil
					},
					Observe: func(context.Context) (string, error) {
						return e.raw(http.MethodGet, "identity/entity/id/"+a.Entity, nil, "last_update_time")
					},
					// Its third state is to be gone.
					Tamper: func(context.Context) error {
						_, err := e.Do(e.Token, http.MethodDelete, "identity/entity/id/"+a.Entity, nil, nil)
						return err
					},
				}
			}},
			// Probes need an Expand that saw the sealed token; TestBatchTokenWidens and
			// TestProbeOfATokenWithoutPolicies have them.
			{Name: "token", Verb: staunch.VerbRevoke, Stops: true, Subject: func(tb testing.TB) connectortest.Subject {
				_, a := e.user(tb, nil)
				t := staunch.Target{Ref: e.ref(staunch.KindCredential, SchemeAccessor, a.Accessor), Attribute: AttributeToken}
				digest := e.ref(staunch.KindCredential, SchemeDigest, staunch.NewSecret(a.Token).Digest())
				secrets.put(digest, a.Token)
				return connectortest.Subject{
					Request: connector.ExpandRequest{Subject: digest, Tier: staunch.TierRevoke},
					Target:  t,
					Works:   func(context.Context) (bool, error) { return e.works(a.Token) },
					Observe: func(context.Context) (string, error) {
						return e.raw(http.MethodPost, "auth/token/lookup-accessor", map[string]string{"accessor": a.Accessor}, "ttl")
					},
				}
			}},
			{Name: "lease", Verb: staunch.VerbRevoke, Stops: true, Subject: leaseSubject(false)},
			{Name: "prefix", Verb: staunch.VerbRevoke, Stops: true, Subject: leaseSubject(true)},
		},
		Missing: []staunch.Target{
			target(staunch.KindAccount, SchemeEntity, "00000000-0000-0000-0000-000000000000", AttributeDisabled),
			target(staunch.KindCredential, SchemeAccessor, "nobodysaccessor", AttributeToken),
			target(staunch.KindCredential, SchemeLease, "database/creds/none/x", AttributeLease),
			target(staunch.KindCredential, SchemeLeasePrefix, "database/creds/none", AttributeLeases),
		},
		ProofApart: func(tb testing.TB, _ connector.Connector, t staunch.Target) {
			conns, shown := e.watched(tb, mk, t)
			if conns[false] == conns[true] || shown[false] != e.token || shown[true] != e.proof {
				tb.Errorf("reads over %v; the acting token acts: %t, the proof token proves: %t", conns, shown[false] == e.token, shown[true] == e.proof)
			}
		},
		Denied: func(tb testing.TB) connector.Connector {
			return mk(tb, func(c *Config) {
				c.Token, c.ProofToken = staunch.NewSecret("hvs.wrong"), staunch.NewSecret("hvs.wrong-too")
			})
		},
		Down: func(tb testing.TB) connector.Connector {
			return mk(tb, func(c *Config) { c.Address = "http://" + closedPort(tb) })
		},
		Cut: func(tb testing.TB) (connector.Connector, func(string)) {
			p := connectortest.NewProxy(tb, strings.TrimPrefix(e.Addr, "http://"))
			return mk(tb, func(c *Config) { c.Address = "http://" + p.Addr() }),
				func(key string) { p.LoseAnswer(connectortest.Containing(key)) }
		},
		Ledger: func(tb testing.TB) []string {
			var out []string
			for _, l := range e.Audit(tb) {
				out = append(out, string(l))
			}
			return out
		},
	}
}

// watched reads t both ways through a proxy that notes which connection and
// token each read used.
func (e *estate) watched(tb testing.TB, mk func(testing.TB, func(*Config)) *Connector, t staunch.Target) (conns map[bool]string, shown map[bool]string) {
	up, err := url.Parse(e.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	var mu sync.Mutex
	proof := false
	conns, shown = map[bool]string{}, map[bool]string{}
	tr := &http.Transport{}
	srv := httptest.NewServer(&httputil.ReverseProxy{Transport: tr, Rewrite: func(r *httputil.ProxyRequest) {
		mu.Lock()
		conns[proof], shown[proof] = r.In.RemoteAddr, r.In.Header.Get("X-Vault-Token")
		mu.Unlock()
		r.SetURL(up)
	}})
	defer tr.CloseIdleConnections()
	defer srv.Close()
	c := mk(tb, func(c *Config) { c.Address = srv.URL })
	defer func() { _ = c.Close() }()
	for _, p := range []bool{false, true} {
		mu.Lock()
		proof = p
		mu.Unlock()
		if _, err := c.Read(context.Background(), t, p); err != nil {
			tb.Fatal(err)
		}
	}
	return conns, shown
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

type lockedSecrets struct {
	mu sync.Mutex
	m  sealed
}

func (l *lockedSecrets) put(r staunch.Ref, token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[r] = staunch.NewSecret(token)
}

func (l *lockedSecrets) Open(ctx context.Context, r staunch.Ref) (staunch.Secret, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m.Open(ctx, r)
}

func TestConformance(t *testing.T) {
	e := newEstate(t)
	pg := pgtest.Start(t, pgtest.Options{})
	connectortest.Run(t, harness(t, e, pg))
}

func apply(t *testing.T, c *Connector, a connector.Action, key string) staunch.Intent {
	t.Helper()
	st, err := c.Read(t.Context(), a.Target, false)
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.Prepare(st, a.Verb)
	if err != nil {
		t.Fatal(err)
	}
	in.Key, in.PreImage, in.Probe, in.Deadline = key, st, a.Probe, staunch.TimeOf(time.Now().Add(30*time.Second))
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	proof, err := c.Read(t.Context(), a.Target, true)
	if err != nil || !c.Matches(in.Expected, proof) || proof.Effective {
		t.Fatalf("after %s: %+v, %v", key, proof, err)
	}
	return in
}

func attributes(ex connector.Expansion) (out []string) {
	for _, a := range ex.Actions {
		out = append(out, a.Target.Attribute)
	}
	return out
}

// An entity that is disabled loses logins and every token, batch tokens among
// them; enabling it again brings the same tokens back.
func TestEntity(t *testing.T) {
	e := newEstate(t)
	c := e.connector(t, nil)
	name, service := e.user(t, nil)
	e.Call(t, http.MethodPost, "auth/userpass/users/"+name, map[string]any{"token_type": "batch"}, nil)
	batch, ok := e.login(t, name)
	if !ok || batch.Accessor != "" || batch.Entity != service.Entity {
		t.Fatalf("no batch token: %+v", batch)
	}
	_, stranger := e.user(t, nil)
	ref := e.ref(staunch.KindAccount, SchemeEntity, service.Entity)
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: ref, Tier: staunch.TierIsolate})
	if err != nil || !slices.Equal(attributes(ex), []string{AttributeDisabled}) {
		t.Fatalf("%+v, %v", ex, err)
	}
	in := apply(t, c, ex.Actions[0], "stp_entity")
	if !in.Revives || e.alive(t, service.Token) || e.alive(t, batch.Token) {
		t.Error("a token works while its entity is disabled, or the release is not said to revive it")
	}
	if _, ok := e.login(t, name); ok {
		t.Error("a login works while the entity is disabled")
	}
	if !e.alive(t, stranger.Token) {
		t.Error("another entity's token was stopped too")
	}
	if r, err := c.Revert(t.Context(), in); err != nil || !r.Changed {
		t.Fatalf("%+v, %v", r, err)
	}
	if !e.alive(t, service.Token) || !e.alive(t, batch.Token) {
		t.Error("the tokens are not back")
	}
	// At the tier revoke its tokens are found and go, after the entity.
	ex, err = c.Expand(t.Context(), connector.ExpandRequest{Subject: ref, Tier: staunch.TierRevoke})
	if err != nil || !slices.Equal(attributes(ex), []string{AttributeDisabled, AttributeToken}) || ex.Actions[1].Target.Ref.Value != service.Accessor {
		t.Fatalf("%+v, %v", ex, err)
	}
	if len(ex.Facts) != 1 || ex.Facts[0].Of != ref || ex.Facts[0].Until == 0 {
		t.Errorf("facts: %+v", ex.Facts)
	}
	for i, a := range ex.Actions {
		in = apply(t, c, a, fmt.Sprintf("stp_all_%d", i))
	}
	if _, err := c.Revert(t.Context(), in); err == nil {
		t.Error("a revocation was undone")
	}
}

// A child dies with its parent, an orphan does not.
func TestChildrenOfARevokedToken(t *testing.T) {
	e := newEstate(t)
	c := e.connector(t, nil)
	e.Call(t, http.MethodPut, "sys/policies/acl/parent", map[string]any{"policy": `path "auth/token/*" { capabilities = ["update", "sudo"] }`}, nil)
	create := func(by, path string) (a auth) {
		var out struct{ Auth auth }
		status, err := e.Do(by, http.MethodPost, path, map[string]any{"policies": []string{"parent", "default"}}, &out)
		if err != nil || status != http.StatusOK {
			t.Fatalf("creating a token: status %d, %v", status, err)
		}
		return out.Auth
	}
	parent := create(e.Token, "auth/token/create")
	child, orphan := create(parent.Token, "auth/token/create"), create(parent.Token, "auth/token/create-orphan")
	ref := e.ref(staunch.KindCredential, SchemeAccessor, parent.Accessor)
	// A token without an entity cannot be suspended, and nothing is widened.
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: ref, Tier: staunch.TierIsolate})
	if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || !ex.Gaps[0].Widen.IsZero() {
		t.Fatalf("%+v, %v", ex, err)
	}
	// What lineage knows of goes with it: the orphan.
	ex, err = c.Expand(t.Context(), connector.ExpandRequest{
		Subject: ref, Tier: staunch.TierRevoke, Derived: []staunch.Ref{e.ref(staunch.KindCredential, SchemeAccessor, orphan.Accessor)},
	})
	if err != nil || len(ex.Actions) != 2 {
		t.Fatalf("%+v, %v", ex, err)
	}
	apply(t, c, ex.Actions[0], "stp_parent")
	if e.alive(t, parent.Token) || e.alive(t, child.Token) || !e.alive(t, orphan.Token) {
		t.Error("parent and child must be dead, the orphan not yet")
	}
	apply(t, c, ex.Actions[1], "stp_orphan")
	if e.alive(t, orphan.Token) {
		t.Error("the orphan lives")
	}
}

// What the audit log wrote of a token leads to its accessor.
func TestAccessorFromTheAuditLog(t *testing.T) {
	e := newEstate(t)
	c := e.connector(t, nil)
	var all []auth
	for range 20 {
		_, a := e.user(t, nil)
		all = append(all, a)
	}
	stolen := all[13]
	if !e.alive(t, stolen.Token) {
		t.Fatal("the token does not work")
	}
	var hmac, token string
	for _, l := range e.Audit(t) {
		var r struct {
			Auth struct {
				Accessor string `json:"accessor"`
				Entity   string `json:"entity_id"`
			} `json:"auth"`
			Request struct {
				Path  string `json:"path"`
				Token string `json:"client_token"`
			} `json:"request"`
		}
		if err := json.Unmarshal(l, &r); err != nil {
			t.Fatal(err)
		}
		if r.Request.Path == "auth/token/lookup-self" && r.Auth.Entity == stolen.Entity {
			hmac, token = r.Auth.Accessor, r.Request.Token
		}
	}
	subject := e.ref(staunch.KindCredential, SchemeAccessorHMAC, hmac)
	names := []staunch.Ref{subject, e.ref(staunch.KindCredential, SchemeTokenHMAC, token)}
	for range 2 { // the second time from memory
		ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: subject, Names: names, Tier: staunch.TierRevoke})
		if err != nil || len(ex.Actions) != 1 || ex.Actions[0].Target.Ref.Value != stolen.Accessor || len(ex.Gaps) != 0 {
			t.Fatalf("%+v, %v", ex, err)
		}
		if len(ex.Facts) != 2 || ex.Facts[1].Type != staunch.FactSameAs || ex.Facts[1].Of != subject {
			t.Errorf("facts: %+v", ex.Facts)
		}
	}
	// The token's own HMAC is no way to it; with the accessor's among its names it
	// is found, and at a lower tier its entity is what would cover it.
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: names[1], Names: names[1:], Tier: staunch.TierRevoke})
	if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || !ex.Gaps[0].Widen.IsZero() {
		t.Errorf("%+v, %v", ex, err)
	}
	ex, err = c.Expand(t.Context(), connector.ExpandRequest{Subject: names[1], Names: names, Tier: staunch.TierIsolate})
	if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || ex.Gaps[0].Widen != e.ref(staunch.KindAccount, SchemeEntity, stolen.Entity) {
		t.Errorf("%+v, %v", ex, err)
	}
	// A device that starts anew has another salt: what was remembered is dropped.
	e.Call(t, http.MethodDelete, "sys/audit/file", nil, nil)
	e.Call(t, http.MethodPut, "sys/audit/file", map[string]any{"type": "file", "options": map[string]string{"file_path": e.AuditPath}}, nil)
	ex, err = c.Expand(t.Context(), connector.ExpandRequest{Subject: subject, Tier: staunch.TierRevoke})
	if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 {
		t.Errorf("an HMAC of a device that is gone: %+v, %v", ex, err)
	}
}

// A stolen batch token cannot be revoked: the gap names its entity, from the
// sealed token or from a name that core knows, and that stops it. The probe
// tells.
func TestBatchTokenWidens(t *testing.T) {
	e := newEstate(t)
	_, batch := e.user(t, map[string]any{"token_type": "batch"})
	digest := e.ref(staunch.KindCredential, SchemeDigest, staunch.NewSecret(batch.Token).Digest())
	entity := e.ref(staunch.KindAccount, SchemeEntity, batch.Entity)
	c := e.connector(t, sealed{digest: staunch.NewSecret(batch.Token)})
	byHMAC := e.ref(staunch.KindCredential, SchemeTokenHMAC, "hmac-sha256:00")
	for name, req := range map[string]connector.ExpandRequest{
		"sealed": {Subject: digest, Tier: staunch.TierRevoke},
		"named":  {Subject: byHMAC, Names: []staunch.Ref{byHMAC}, Up: []staunch.Ref{entity}, Tier: staunch.TierRevoke},
	} {
		ex, err := c.Expand(t.Context(), req)
		if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || ex.Gaps[0].Widen != entity {
			t.Fatalf("%s: %+v, %v", name, ex, err)
		}
	}
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: entity, Tier: staunch.TierIsolate})
	if err != nil || len(ex.Actions) != 1 {
		t.Fatalf("%+v, %v", ex, err)
	}
	p, err := c.Probe(t.Context(), staunch.Intent{Target: ex.Actions[0].Target, Probe: ex.Actions[0].Probe})
	if err != nil || !p.Conclusive || !p.Works {
		t.Errorf("before: %+v, %v", p, err)
	}
	in := apply(t, c, ex.Actions[0], "stp_batch")
	if e.alive(t, batch.Token) {
		t.Error("the batch token works")
	}
	p, err = c.Probe(t.Context(), in)
	if err != nil || !p.Conclusive || p.Works {
		t.Errorf("after: %+v, %v", p, err)
	}
	// A connector that was made anew has nothing but the intent, and tries the
	// token; whether it may have been refused always, it cannot tell any more.
	again := e.connector(t, sealed{digest: staunch.NewSecret(batch.Token)})
	p, err = again.Probe(t.Context(), in)
	if err != nil || p.Works || !strings.Contains(p.How, digest.Value) {
		t.Errorf("after a restart: %+v, %v", p, err)
	}
}

// A token that never was allowed to look itself up proves nothing by being
// refused, until Vault calls it invalid.
func TestProbeOfATokenWithoutPolicies(t *testing.T) {
	e := newEstate(t)
	e.Call(t, http.MethodPut, "sys/policies/acl/little", map[string]any{"policy": `path "secret/x" { capabilities = ["read"] }`}, nil)
	_, a := e.user(t, map[string]any{"token_policies": "little", "token_no_default_policy": true})
	digest := e.ref(staunch.KindCredential, SchemeDigest, staunch.NewSecret(a.Token).Digest())
	c := e.connector(t, sealed{digest: staunch.NewSecret(a.Token)})
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: digest, Tier: staunch.TierRevoke})
	if err != nil || len(ex.Actions) != 1 {
		t.Fatalf("%+v, %v", ex, err)
	}
	if p, err := c.Probe(t.Context(), staunch.Intent{Target: ex.Actions[0].Target, Probe: ex.Actions[0].Probe}); err != nil || p.Conclusive {
		t.Errorf("a live token that is refused: %+v, %v", p, err)
	}
	in := apply(t, c, ex.Actions[0], "stp_little")
	if p, err := c.Probe(t.Context(), in); err != nil || !p.Conclusive || p.Works {
		t.Errorf("a revoked token: %+v, %v", p, err)
	}
	again := e.connector(t, sealed{digest: staunch.NewSecret(a.Token)})
	if p, err := again.Probe(t.Context(), in); err != nil || !p.Conclusive || p.Works {
		t.Errorf("a revoked token, after a restart: %+v, %v", p, err)
	}
}

// A disabled entity's database user lives on, with its session; revoking the
// lease ends both. Leases that lineage names go with the entity, after it.
func TestLeaseOutlivesTheEntity(t *testing.T) {
	e := newEstate(t)
	pg := pgtest.Start(t, pgtest.Options{})
	lease := e.database(t, pg)
	c := e.connector(t, nil)
	_, a := e.user(t, map[string]any{"token_policies": "default,leaser"})
	// The role must be there before a user's token may read it.
	lease("role:reader")
	id, user, password := lease(a.Token)
	session, err := pgx.Connect(t.Context(), pg.UserDSN(user, password, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close(context.Background()) }()
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{
		Subject: e.ref(staunch.KindAccount, SchemeEntity, a.Entity), Tier: staunch.TierRevoke,
		Derived: []staunch.Ref{
			e.ref(staunch.KindCredential, SchemeLease, id),
			e.ref(staunch.KindCredential, SchemeLease, "database/creds/reader/gone"),
			e.ref(staunch.KindCredential, SchemeLeasePrefix, "database/creds/reader"),
		},
	})
	if err != nil || !slices.Equal(attributes(ex), []string{AttributeDisabled, AttributeToken, AttributeLease}) || len(ex.Gaps) != 1 {
		t.Fatalf("%+v, %v", ex, err)
	}
	apply(t, c, ex.Actions[0], "stp_l0")
	var one int
	if err := session.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil {
		t.Fatalf("the premise: the session of a disabled entity lives: %v", err)
	}
	apply(t, c, ex.Actions[2], "stp_l2")
	if err := session.QueryRow(t.Context(), "SELECT 1").Scan(&one); err == nil {
		t.Error("the session outlived its lease")
	}
	if conn, err := pgx.Connect(t.Context(), pg.UserDSN(user, password, "postgres")); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the leased user logs in")
	}
	apply(t, c, ex.Actions[1], "stp_l1")
}

// A backend that is down: Vault keeps the lease, and the outcome is unknown,
// not permanent.
func TestBackendDown(t *testing.T) {
	e := newEstate(t)
	pg := pgtest.Start(t, pgtest.Options{})
	lease := e.database(t, pg)
	c := e.connector(t, nil)
	id, _, _ := lease(e.Token)
	pg.Stop(t, pgtest.Immediate)
	in := prepared(t, c, staunch.Target{Ref: e.ref(staunch.KindCredential, SchemeLease, id), Attribute: AttributeLease}, staunch.VerbRevoke)
	if _, err := c.Apply(t.Context(), in); staunch.ClassOf(err) != staunch.ClassUnknown || err == nil {
		t.Errorf("class %s: %v", staunch.ClassOf(err), err)
	}
	if st, err := c.Read(t.Context(), in.Target, true); err != nil || !st.Effective {
		t.Errorf("%+v, %v", st, err)
	}
	pg.Start(t)
	if r, err := c.Apply(t.Context(), in); err != nil || !r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	if st, err := c.Read(t.Context(), in.Target, true); err != nil || st.Effective {
		t.Errorf("%+v, %v", st, err)
	}
}

// The audit device's ledger joins with ours by the step's key: one request and
// one response for each call, on the path that the intent named.
func TestLedger(t *testing.T) {
	e := newEstate(t)
	c := e.connector(t, nil)
	want := map[string]string{}
	for i := range 5 {
		_, a := e.user(t, nil)
		key := fmt.Sprintf("stp_ledger_%d", i)
		if i%2 == 0 {
			apply(t, c, connector.Action{Target: target(staunch.KindAccount, SchemeEntity, a.Entity, AttributeDisabled), Verb: staunch.VerbSuspend}, key)
			want[key] = "identity/entity/id/" + a.Entity
		} else {
			apply(t, c, connector.Action{Target: target(staunch.KindCredential, SchemeAccessor, a.Accessor, AttributeToken), Verb: staunch.VerbRevoke}, key)
			want[key] = "auth/token/revoke-accessor"
		}
	}
	got := map[string][]string{}
	for _, l := range e.Audit(t) {
		var r struct {
			Type    string `json:"type"`
			Error   string `json:"error"`
			Request struct {
				Path    string              `json:"path"`
				Headers map[string][]string `json:"headers"`
			} `json:"request"`
		}
		if err := json.Unmarshal(l, &r); err != nil {
			t.Fatal(err)
		}
		if k := r.Request.Headers[strings.ToLower(StepHeader)]; len(k) > 0 {
			got[k[0]] = append(got[k[0]], r.Type+" "+r.Request.Path+r.Error)
		}
	}
	for key, path := range want {
		if lines := got[key]; !slices.Equal(lines, []string{"request " + path, "response " + path}) {
			t.Errorf("%s: %v, want one request and one response on %s", key, lines, path)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d keys in the ledger, want %d", len(got), len(want))
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	e := newEstate(t)
	if f := e.connector(t, nil).Check(t.Context()); len(f) != 0 {
		t.Errorf("the README's policies give findings: %+v", f)
	}
	find := func(f []connector.Finding, severity, part string) bool {
		return slices.ContainsFunc(f, func(x connector.Finding) bool { return x.Severity == severity && strings.Contains(x.Message, part) })
	}
	cfg := e.config()
	cfg.Token, cfg.ProofToken, cfg.AuditDevices = staunch.NewSecret(e.Token), staunch.Secret{}, []string{"none"}
	c := build(t, cfg, nil)
	defer func() { _ = c.Close() }()
	f := c.Check(t.Context())
	for _, part := range []string{"root token", "no proof_token", "audit device none"} {
		if !find(f, "warning", part) {
			t.Errorf("no warning %q in %+v", part, f)
		}
	}
	// The proof token cannot act, and doctor says so.
	cfg = e.config()
	cfg.Token, cfg.ProofToken = cfg.ProofToken, staunch.Secret{}
	weak := build(t, cfg, nil)
	defer func() { _ = weak.Close() }()
	f = weak.Check(t.Context())
	if !find(f, "error", "revoke-accessor") || !find(f, "error", "identity/entity") || !find(f, "warning", "auth/token/accessors") {
		t.Errorf("%+v", f)
	}
	// Without the list of accessors the entity is still disabled, and the gap said.
	_, a := e.user(t, nil)
	ex, err := weak.Expand(t.Context(), connector.ExpandRequest{Subject: e.ref(staunch.KindAccount, SchemeEntity, a.Entity), Tier: staunch.TierRevoke})
	if err != nil || !slices.Equal(attributes(ex), []string{AttributeDisabled}) || len(ex.Gaps) != 1 {
		t.Errorf("%+v, %v", ex, err)
	}
	e.Call(t, http.MethodDelete, "sys/config/auditing/request-headers/"+StepHeader, nil, nil)
	if f := e.connector(t, nil).Check(t.Context()); !find(f, "warning", "does not keep the header") {
		t.Errorf("%+v", f)
	}
	e.Call(t, http.MethodPut, "sys/seal", nil, nil)
	if f := e.connector(t, nil).Check(t.Context()); !find(f, "error", "sealed") {
		t.Errorf("%+v", f)
	}
	if _, err := e.connector(t, nil).Read(t.Context(), anEntity, true); staunch.ClassOf(err) != staunch.ClassTransient {
		t.Errorf("reading from a sealed Vault: %v", err)
	}
}
