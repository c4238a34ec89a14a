package load

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/store"
)

// authority is an OAuth 2 authorization server with introspection and revocation.
// What it writes down of revocations shares no code with staunch.
type authority struct {
	*httptest.Server
	mu     sync.Mutex
	active map[string]string // an active token's client
	calls  []revocation
}

// revocation is a call that revokes.
type revocation struct {
	token, step string
	at          time.Time
	// changed is false where the token was not active any more.
	changed bool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{active: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		client, active := a.active[r.FormValue("token")]
		a.mu.Unlock()
		answer := map[string]any{"active": active}
		if active {
			answer["client_id"], answer["sub"], answer["token_type"] = client, client, "Bearer"
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // who asked is gone
	})
	mux.HandleFunc("POST /revoke", func(_ http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		token := r.FormValue("token")
		_, active := a.active[token]
		delete(a.active, token)
		a.calls = append(a.calls, revocation{token, r.Header.Get("X-Staunch-Step"), time.Now(), active})
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

// revoked is when a token was, zero where it was not.
func (a *authority) revoked(token string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c.token == token && c.changed {
			return c.at
		}
	}
	return time.Time{}
}

func (a *authority) ledger() []revocation {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

// subject is an identity with its one token.
type subject struct{ client, token string }

func (s subject) ref() staunch.Ref {
	return staunch.Ref{Kind: staunch.KindCredential, Realm: estateRealm, Scheme: "sha256", Value: staunch.NewSecret(s.token).Digest()}
}

// estate is a node whose sources accuse tokens of an authorization server.
type estate struct {
	*node
	auth     *authority
	api      *client.Client
	admin    staunch.Secret
	tokens   map[string]staunch.Secret // by source
	http     *http.Client
	subjects []subject
}

const estateRealm = "oauth2/estate"

var estateSources = []string{"trusted", "forged", "urgent"}

const estateConfig = `v: 1
data_dir: data
listen: "@LISTEN@"
mode: enforce
log: {level: warn}
realms:
  - name: @REALM@
    platform: oauth2
    connector:
      revocation_endpoint: "@AUTH@/revoke"
      introspection_endpoint: "@AUTH@/introspect"
      client: {id: acting, secret: a}
      proof: {id: proving, secret: b}
rules: [rules.yaml]
identities: identities.yaml
sources:
`

const estateMapping = `v: 1
name: access-log
title: An access log
product: {name: Estate, vendor_name: staunch}
logsource: {product: estate, service: access}
secrets:
  at:
    - {path: token, kind: credential, keep: true}
refs:
  token: {kind: credential, scheme: sha256, from: token}
  client: {kind: account, scheme: client-id, from: client_id}
keys:
  id: id
  time: time
  operation: op
  outcome: success
  source_ip: client_ip
  actor: [token, client]
ocsf:
  classes:
    - class: API Activity
      activity: =Read
      set:
        actor: {user: {name: client_id, uid: client_id}}
        api: {operation: op}
        src_endpoint: {ip: client_ip}
`

// estateRules is how many rules there are of each level: operation seenN is high,
// takenN critical.
const estateRules = 4

// newEstate makes a node in a folder for so many subjects, with more of a
// configuration.
func newEstate(t *testing.T, bin, dir string, subjects int, more string) *estate {
	t.Helper()
	e := &estate{
		node: &node{bin: bin, dir: dir, addr: freeAddress(t)}, auth: newAuthority(t), tokens: map[string]staunch.Secret{},
		http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	t.Cleanup(e.http.CloseIdleConnections)
	var ids, rules strings.Builder
	ids.WriteString("v: 1\nidentities:\n")
	for i := range subjects {
		s := subject{fmt.Sprintf("client-%d", i), rand.Text()}
		e.subjects = append(e.subjects, s)
		e.auth.active[s.token] = s.client
		fmt.Fprintf(&ids, "  - {name: service-%d, kind: service, owner: team-%d, environment: test, tier: 2, tolerance: normal, accounts: [\"account:%s:client-id:%s\"]}\n",
			i, i%40, estateRealm, s.client)
	}
	for i := range 2 * estateRules {
		op, level := "seen", "high"
		if i >= estateRules {
			op, level = "taken", "critical"
		}
		if i > 0 {
			rules.WriteString("---\n")
		}
		fmt.Fprintf(&rules, "title: A token %[1]s %[2]d\nid: %08[2]d-0000-4000-8000-000000000000\nlevel: %[3]s\nstatus: stable\n"+
			"logsource: {product: estate, service: access}\ndetection: {s: {op: %[1]s%[4]d}, condition: s}\naccuse: [credential]\n", op, i, level, i%estateRules)
	}
	text := strings.NewReplacer("@LISTEN@", e.addr, "@REALM@", estateRealm, "@AUTH@", e.auth.URL).Replace(estateConfig)
	for _, s := range estateSources {
		text += fmt.Sprintf("  - {name: %s, format: generic, mapping: access-log.yaml, realm: %s, ceiling: revoke}\n", s, estateRealm)
	}
	for name, text := range map[string]string{
		"staunch.yaml": text + more, "access-log.yaml": estateMapping, "rules.yaml": rules.String(), "identities.yaml": ids.String(),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	cfg, err := config.Load(filepath.Join(dir, "staunch.yaml"))
	must(t, err)
	e.admin, err = app.Init(t.Context(), cfg, "estate")
	must(t, err)
	st := e.open(t)
	for _, s := range estateSources {
		e.tokens[s], _, err = app.MakeToken(t.Context(), st, store.Token{Name: s, Role: "source", Source: s}, "estate")
		must(t, err)
	}
	must(t, st.Close())
	e.api, err = client.New(client.Options{URL: e.url(), Token: e.admin})
	must(t, err)
	t.Cleanup(e.api.Close)
	return e
}

// raised are limits for who wants very many contained.
func raised() string {
	var b strings.Builder
	b.WriteString("limits:\n")
	for _, f := range reflect.VisibleFields(reflect.TypeFor[decide.Limits]()) {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case f.Type == reflect.TypeFor[decide.Places]():
			fmt.Fprintf(&b, "  %s: {limit: 5000}\n", name)
		case f.Type.Kind() == reflect.Int && (strings.HasPrefix(name, "trip_") || strings.HasPrefix(name, "hourly_") || strings.HasPrefix(name, "canary_")):
			fmt.Fprintf(&b, "  %s: 5000\n", name)
		}
	}
	return b.String()
}

// accusation is a record by which a source accuses a subject, of the highest level
// or, where it is forged, of the one below.
func (e *estate) accusation(source string, n int) string {
	op := "taken"
	if source == "forged" {
		op = "seen"
	}
	b, err := json.Marshal(map[string]any{
		"id": fmt.Sprintf("%s-%d", source, n), "time": time.Now().UTC().Format(time.RFC3339Nano), "op": fmt.Sprintf("%s%d", op, n%estateRules),
		"client_id": e.subjects[n].client, "token": e.subjects[n].token, "client_ip": "203.0.113.9",
	})
	if err != nil {
		panic(err) // of strings
	}
	return string(b)
}

// answer is what a node says to a post.
type answer struct {
	status int
	after  string // Retry-After
	body   string
}

// accuse posts an accusation.
func (e *estate) accuse(ctx context.Context, source string, n int) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url()+"/v1/ingest/"+source, bytes.NewReader([]byte(e.accusation(source, n))))
	if err != nil {
		return answer{}, err
	}
	token := e.tokens[source]
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := e.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode == http.StatusOK && !strings.Contains(string(b), `"accepted":1`) {
		err = fmt.Errorf("not accepted: %s", b)
	}
	return answer{resp.StatusCode, resp.Header.Get("Retry-After"), string(b)}, err
}

// all returns every case.
func (e *estate) all(ctx context.Context) ([]staunch.Containment, error) {
	var out []staunch.Containment
	var p client.Page
	for {
		got, err := e.api.Containments(ctx, false, p)
		if err != nil {
			return nil, err
		}
		out = append(out, got.Items...)
		if p.After = got.Next; p.After == "" {
			return out, nil
		}
	}
}

// eventually waits until ok, for at most a time.
func eventually(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(most); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen in %s: %s", most, what)
		}
	}
}

// sound verifies the log as a person would.
func (e *estate) sound(t *testing.T) {
	t.Helper()
	rep, err := e.api.Verify(t.Context())
	if err = errors.Join(err, rep.Err()); err != nil || rep.Records == 0 {
		t.Errorf("audit verify: %d records: %v", rep.Records, err)
	}
}
