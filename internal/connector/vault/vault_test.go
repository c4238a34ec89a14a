package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const realm = "vault/test"

// build makes a connector from a configuration, as the engine would.
func build(tb testing.TB, cfg Config, secrets connector.Secrets) *Connector {
	tb.Helper()
	c, err := New(connector.Deps{
		Realm: realm, Clock: staunch.SystemClock{}, Secrets: secrets,
		Decode: func(v any) error { *v.(*Config) = cfg; return nil },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

type sealed map[staunch.Ref]staunch.Secret

func (s sealed) Open(_ context.Context, r staunch.Ref) (staunch.Secret, error) {
	if v, ok := s[r]; ok {
		return v, nil
	}
	return staunch.Secret{}, fmt.Errorf("secret %s: %w", r, staunch.ErrNotFound)
}

func target(kind staunch.Kind, scheme, value, attribute string) staunch.Target {
	return staunch.Target{Ref: staunch.Ref{Kind: kind, Realm: realm, Scheme: scheme, Value: value}, Attribute: attribute}
}

var (
	anEntity = target(staunch.KindAccount, SchemeEntity, "e1", AttributeDisabled)
	aToken   = target(staunch.KindCredential, SchemeAccessor, "a1", AttributeToken)
	aLease   = target(staunch.KindCredential, SchemeLease, "database/creds/reader/l1", AttributeLease)
)

// faulty answers look-ups as Vault does and every call that changes something
// as told.
func faulty(tb testing.TB, handle http.HandlerFunc) (*Connector, *atomic.Int64) {
	tb.Helper()
	changes := new(atomic.Int64)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		switch {
		case r.Header.Get(StepHeader) != "":
			changes.Add(1)
			handle(w, r)
		case path == "auth/token/lookup-self":
			_, _ = io.WriteString(w, `{"data":{"accessor":"own","entity_id":"own-entity","policies":["staunch"],"orphan":true}}`)
		case path == "identity/entity/id/e1":
			_, _ = io.WriteString(w, `{"data":{"id":"e1","name":"alice","disabled":false}}`)
		case path == "auth/token/lookup-accessor":
			_, _ = io.WriteString(w, `{"data":{"accessor":"a1","entity_id":"e1","type":"service","creation_time":1}}`)
		case path == "sys/leases/lookup":
			_, _ = io.WriteString(w, `{"data":{"id":"database/creds/reader/l1","issue_time":"2026-01-01T00:00:00Z"}}`)
		default:
			handle(w, r)
		}
	}))
	tb.Cleanup(srv.Close)
	c := build(tb, Config{Address: srv.URL, Token: staunch.NewSecret("t")}, nil)
	tb.Cleanup(func() { _ = c.Close() })
	return c, changes
}

func prepared(tb testing.TB, c *Connector, t staunch.Target, v staunch.Verb) staunch.Intent {
	tb.Helper()
	st, err := c.Read(tb.Context(), t, false)
	if err != nil {
		tb.Fatal(err)
	}
	in, err := c.Prepare(st, v)
	if err != nil {
		tb.Fatal(err)
	}
	in.Key, in.PreImage = "stp_1", st
	return in
}

// statuses says what follows from each answer; the README's table is the same.
var statuses = []struct {
	status           int
	body             string
	reading, changes staunch.Class
	fine             bool // for a change: there was nothing to do
}{
	{status: 301, reading: staunch.ClassPermanent, changes: staunch.ClassPermanent},
	{status: 302, reading: staunch.ClassPermanent, changes: staunch.ClassPermanent},
	{status: 307, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 308, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 400, reading: staunch.ClassPermanent, changes: staunch.ClassPermanent},
	{status: 400, body: `{"errors":["missing client token"]}`, reading: staunch.ClassDenied, changes: staunch.ClassDenied},
	{status: 400, body: `{"errors":["failed to revoke entry: the database is down"]}`, reading: staunch.ClassPermanent, changes: staunch.ClassUnknown},
	{status: 401, reading: staunch.ClassDenied, changes: staunch.ClassDenied},
	{status: 403, body: `{"errors":["permission denied"]}`, reading: staunch.ClassDenied, changes: staunch.ClassDenied},
	{status: 404, reading: staunch.ClassPermanent, changes: staunch.ClassPermanent},
	{status: 405, reading: staunch.ClassPermanent, changes: staunch.ClassPermanent},
	{status: 412, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 408, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 413, reading: staunch.ClassPermanent, changes: staunch.ClassPermanent},
	{status: 429, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 472, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 473, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 500, body: `{"errors":["internal error"]}`, reading: staunch.ClassTransient, changes: staunch.ClassUnknown},
	{status: 501, reading: staunch.ClassPermanent, changes: staunch.ClassPermanent},
	{status: 502, body: `<html>bad gateway</html>`, reading: staunch.ClassTransient, changes: staunch.ClassUnknown},
	{status: 503, body: `{"errors":["Vault is sealed"]}`, reading: staunch.ClassTransient, changes: staunch.ClassTransient},
	{status: 503, body: `sealed, says a proxy`, reading: staunch.ClassTransient, changes: staunch.ClassUnknown},
	{status: 504, reading: staunch.ClassTransient, changes: staunch.ClassUnknown},
}

func TestStatuses(t *testing.T) {
	for _, s := range statuses {
		t.Run(fmt.Sprintf("%d %.20s", s.status, s.body), func(t *testing.T) {
			answer := func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://elsewhere.invalid/v1/x")
				w.WriteHeader(s.status)
				_, _ = io.WriteString(w, s.body)
			}
			c, changes := faulty(t, answer)
			_, err := c.act.do(t.Context(), call{method: http.MethodPost, path: "any/path"})
			if err == nil || staunch.ClassOf(err) != s.reading {
				t.Errorf("reading: class %s, want %s: %v", staunch.ClassOf(err), s.reading, err)
			}
			for _, tg := range []staunch.Target{anEntity, aToken, aLease} {
				v := staunch.VerbRevoke
				if tg == anEntity {
					v = staunch.VerbSuspend
				}
				before := changes.Load()
				r, err := c.Apply(t.Context(), prepared(t, c, tg, v))
				if err == nil || staunch.ClassOf(err) != s.changes {
					t.Errorf("%s: class %s, want %s: %v", tg.Attribute, staunch.ClassOf(err), s.changes, err)
				}
				if r.Changed || changes.Load() != before+1 {
					t.Errorf("%s: changed %t after %d calls", tg.Attribute, r.Changed, changes.Load()-before)
				}
			}
		})
	}
}

func TestAnswersThatLie(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON": "<html>", "half": `{"data":{`, "too long": `{"warnings":["` + strings.Repeat("x", maxAnswer) + `"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := faulty(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
			_, err := c.Apply(t.Context(), prepared(t, c, anEntity, staunch.VerbSuspend))
			if staunch.ClassOf(err) != staunch.ClassUnknown {
				t.Errorf("changing: %s: %v", staunch.ClassOf(err), err)
			}
			_, err = c.act.do(t.Context(), call{method: http.MethodGet, path: "x"})
			if staunch.ClassOf(err) != staunch.ClassTransient || err == nil {
				t.Errorf("reading: %s: %v", staunch.ClassOf(err), err)
			}
		})
	}
	// An answer about something else is no state.
	c, _ := faulty(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"data":{"id":"other","disabled":true,"accessor":"other"}}`)
	})
	for _, tg := range []staunch.Target{
		target(staunch.KindAccount, SchemeEntity, "e2", AttributeDisabled),
		target(staunch.KindCredential, SchemeAccessor, "a2", AttributeToken),
		target(staunch.KindCredential, SchemeLease, "database/creds/reader/l2", AttributeLease),
	} {
		if st, err := c.Read(t.Context(), tg, true); err == nil {
			t.Errorf("%s reads as %+v", tg, st)
		}
	}
}

// While Vault cleans up after a token that it refuses already, its accessor is
// answered for in four ways; none of them is a live token, and none is a
// refusal of ours.
func TestTokenThatIsBeingRevoked(t *testing.T) {
	for name, a := range map[string]struct {
		status int
		body   string
	}{
		"marked":     {200, `{"data":{"accessor":"a2","type":"service","num_uses":-1}}`},
		"half there": {403, `{"errors":["bad token"]}`},
		"unknown":    {400, `{"errors":["1 error occurred:\n\t* invalid accessor\n\n"]}`},
		"not found":  {400, `{"errors":["token not found"]}`},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch strings.TrimPrefix(r.URL.Path, "/v1/") {
			case "auth/token/lookup-self":
				_, _ = io.WriteString(w, `{"data":{"accessor":"own"}}`)
			case "auth/token/lookup-accessor":
				w.WriteHeader(a.status)
				_, _ = io.WriteString(w, a.body)
			default:
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"errors":["token not found"]}`)
			}
		}))
		c := build(t, Config{Address: srv.URL, Token: staunch.NewSecret("t")}, nil)
		in := prepared(t, c, target(staunch.KindCredential, SchemeAccessor, "a2", AttributeToken), staunch.VerbRevoke)
		if in.PreImage.Exists || in.PreImage.Effective || !c.Matches(in.Expected, in.PreImage) {
			t.Errorf("%s: reads as %+v", name, in.PreImage)
		}
		if r, err := c.Apply(t.Context(), in); err != nil || r.Changed {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		srv.Close()
	}
}

func TestRedirectsGetNoToken(t *testing.T) {
	var shown atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { shown.Store(true) }))
	defer elsewhere.Close()
	c, _ := faulty(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	if _, err := c.Apply(t.Context(), prepared(t, c, aToken, staunch.VerbRevoke)); staunch.ClassOf(err) != staunch.ClassTransient {
		t.Errorf("%v", err)
	}
	if shown.Load() {
		t.Error("the redirect was followed")
	}
}

func TestDeadlineOfTheIntent(t *testing.T) {
	c, changes := faulty(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	in := prepared(t, c, aToken, staunch.VerbRevoke)
	in.Deadline = staunch.TimeOf(time.Now().Add(-time.Second))
	_, err := c.Apply(t.Context(), in)
	if staunch.ClassOf(err) != staunch.ClassTransient || !errors.Is(err, context.DeadlineExceeded) || changes.Load() != 0 {
		t.Errorf("class %s, %d calls: %v", staunch.ClassOf(err), changes.Load(), err)
	}
	in.Deadline, in.Key = 0, "a\nb"
	if _, err = c.Apply(t.Context(), in); staunch.ClassOf(err) != staunch.ClassPermanent || changes.Load() != 0 {
		t.Errorf("a key that is no header: %v", err)
	}
}

func TestOwnAndProtectedAreRefused(t *testing.T) {
	c, changes := faulty(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	c.cfg.Protect = Protect{Entities: []string{"e1"}}
	mine := prepared(t, c, aToken, staunch.VerbRevoke)
	mine.PreImage.Body = json.RawMessage(`{"entity":"own-entity"}`)
	for name, in := range map[string]staunch.Intent{
		"a protected entity":          prepared(t, c, anEntity, staunch.VerbSuspend),
		"a protected entity's token":  prepared(t, c, aToken, staunch.VerbRevoke),
		"another token of our entity": mine,
		"our token": {Target: target(staunch.KindCredential, SchemeAccessor, "own", AttributeToken),
			Verb: staunch.VerbRevoke, Key: "k"},
		"our entity": {Target: target(staunch.KindAccount, SchemeEntity, "own-entity", AttributeDisabled),
			Verb: staunch.VerbSuspend, Key: "k"},
	} {
		if _, err := c.Apply(t.Context(), in); staunch.ClassOf(err) != staunch.ClassPermanent || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Revert(t.Context(), in); staunch.ClassOf(err) != staunch.ClassPermanent || err == nil {
			t.Errorf("reverting %s: %v", name, err)
		}
	}
	if n := changes.Load(); n != 0 {
		t.Errorf("%d calls were made", n)
	}
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: aToken.Ref, Tier: staunch.TierRevoke})
	if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 {
		t.Errorf("expanding a protected entity's token: %+v, %v", ex, err)
	}
}

func TestTargets(t *testing.T) {
	c := build(t, Config{Address: "http://127.0.0.1:1", Token: staunch.NewSecret("t")}, nil)
	defer func() { _ = c.Close() }()
	good := []staunch.Target{
		anEntity, aToken, aLease,
		target(staunch.KindCredential, SchemeAccessor, "abc.ns1", AttributeToken),
		target(staunch.KindCredential, SchemeLeasePrefix, "database/creds/reader", AttributeLeases),
	}
	for _, tg := range good {
		if err := c.checkTarget(tg); err != nil {
			t.Errorf("%s: %v", tg, err)
		}
	}
	bad := map[string]staunch.Target{
		"a path in an entity id":    target(staunch.KindAccount, SchemeEntity, "../../sys/seal", AttributeDisabled),
		"a dot":                     target(staunch.KindAccount, SchemeEntity, "..", AttributeDisabled),
		"a query":                   target(staunch.KindAccount, SchemeEntity, "e1?x=y", AttributeDisabled),
		"a wildcard":                target(staunch.KindCredential, SchemeAccessor, "*", AttributeToken),
		"an HMAC as a target":       target(staunch.KindCredential, SchemeAccessorHMAC, "hmac-sha256:00", AttributeToken),
		"an engine as a prefix":     target(staunch.KindCredential, SchemeLeasePrefix, "database", AttributeLeases),
		"too short a prefix":        target(staunch.KindCredential, SchemeLeasePrefix, "database/creds", AttributeLeases),
		"a prefix with a slash":     target(staunch.KindCredential, SchemeLeasePrefix, "database/creds/reader/", AttributeLeases),
		"a wildcard in a prefix":    target(staunch.KindCredential, SchemeLeasePrefix, "database/creds/*", AttributeLeases),
		"a relative prefix":         target(staunch.KindCredential, SchemeLeasePrefix, "database/../creds/x", AttributeLeases),
		"tokens' leases":            target(staunch.KindCredential, SchemeLeasePrefix, "auth/userpass/login", AttributeLeases),
		"a token's lease":           target(staunch.KindCredential, SchemeLease, "auth/token/create/h1", AttributeLease),
		"a lease of nothing":        target(staunch.KindCredential, SchemeLease, "lease", AttributeLease),
		"the wrong attribute":       target(staunch.KindCredential, SchemeLease, "database/creds/reader/l1", AttributeToken),
		"the wrong kind":            target(staunch.KindAccount, SchemeAccessor, "a1", AttributeToken),
		"another realm":             {Ref: staunch.Ref{Kind: staunch.KindCredential, Realm: "other", Scheme: SchemeAccessor, Value: "a1"}, Attribute: AttributeToken},
		"a line break in a lease":   target(staunch.KindCredential, SchemeLease, "database/creds/reader/l\n1", AttributeLease),
		"an escape in a lease path": target(staunch.KindCredential, SchemeLeasePrefix, "database/creds/%2e%2e/x", AttributeLeases),
	}
	for name, tg := range bad {
		err := c.checkTarget(tg)
		if err == nil || staunch.ClassOf(err) != staunch.ClassPermanent || !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No lease path that passes the check leaves the place that it names.
func TestPathsStayInPlace(t *testing.T) {
	u, err := base("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z.%/?#\\:]{1,30}`)).Draw(t, "path")
		if checkPath(p, 2) != nil {
			return
		}
		got, err := u.Parse("sys/leases/revoke-prefix/" + escape(p))
		if err != nil || got.Path != "/v1/sys/leases/revoke-prefix/"+p || got.RawQuery != "" || got.Host != u.Host {
			t.Fatalf("%q becomes %v, %v", p, got, err)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"data":{"id":"e1","disabled":false}}`, `{"data":null}`, `{"data":[]}`, `{}`, ``, `null`, `{"data":{"keys":["a/","b"]}}`,
		`{"data":{"accessor":"a1","creation_time":1e99}}`, `{"errors":["x"]}`,
	} {
		f.Add([]byte(s), 200)
		f.Add([]byte(s), 403)
	}
	var body []byte
	status := 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}))
	f.Cleanup(srv.Close)
	c := build(f, Config{Address: srv.URL, Token: staunch.NewSecret("t")}, nil)
	f.Cleanup(func() { _ = c.Close() })
	f.Fuzz(func(t *testing.T, b []byte, s int) {
		body, status = bytes.Clone(b), 200+((s%400)+400)%400
		for _, tg := range []staunch.Target{anEntity, aToken, aLease, target(staunch.KindCredential, SchemeLeasePrefix, "a/b/c", AttributeLeases)} {
			st, err := c.Read(t.Context(), tg, false)
			if err == nil && (st.Target != tg || len(st.Body) > 0 && !json.Valid(st.Body)) {
				t.Fatalf("%+v", st)
			}
		}
	})
}

// A search that takes too long gives what it found, says so, and goes on from
// there the next time.
func TestSearchIsBounded(t *testing.T) {
	var slow atomic.Bool
	slow.Store(true)
	var looked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		var in struct{ Accessor, Input string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		wait := func(name string) bool {
			if name < "a5" || !slow.Load() {
				return false
			}
			<-r.Context().Done() // the client has given up
			return true
		}
		switch path {
		case "auth/token/lookup-self":
			_, _ = io.WriteString(w, `{"data":{"accessor":"own"}}`)
		case "auth/token/accessors":
			_, _ = io.WriteString(w, `{"data":{"keys":["a9","a8","a7","a6","a5","a4","a3","a2","a1","a0"]}}`)
		case "identity/entity/id/e1":
			_, _ = io.WriteString(w, `{"data":{"id":"e1","disabled":false}}`)
		case "auth/token/lookup-accessor":
			if !wait(in.Accessor) {
				looked.Add(1)
				_, _ = fmt.Fprintf(w, `{"data":{"accessor":%q,"entity_id":"e1","type":"service","creation_time":1}}`, in.Accessor)
			}
		case "sys/audit-hash/file":
			if in.Input == "staunch" || !wait(in.Input) {
				_, _ = fmt.Fprintf(w, `{"data":{"hash":"h-%s"}}`, in.Input)
			}
		}
	}))
	defer srv.Close()
	c := build(t, Config{
		Address: srv.URL, Token: staunch.NewSecret("t"), SearchTime: staunch.Duration(100 * time.Millisecond), AuditDevices: []string{"file"},
	}, nil)
	defer func() { _ = c.Close() }()
	req := connector.ExpandRequest{Subject: anEntity.Ref, Tier: staunch.TierRevoke}
	ex, err := c.Expand(t.Context(), req)
	if err != nil || len(ex.Actions) != 1+5 || len(ex.Gaps) != 1 || !strings.Contains(ex.Gaps[0].Reason, "5 of 10") {
		t.Fatalf("%+v, %v", ex, err)
	}
	hashed := connector.ExpandRequest{Subject: staunch.Ref{Kind: staunch.KindCredential, Realm: realm, Scheme: SchemeAccessorHMAC, Value: "h-a7"}, Tier: staunch.TierRevoke}
	if ex, err = c.Expand(t.Context(), hashed); err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || !strings.Contains(ex.Gaps[0].Reason, "search_time") {
		t.Fatalf("%+v, %v", ex, err)
	}
	slow.Store(false)
	if ex, err = c.Expand(t.Context(), req); err != nil || len(ex.Actions) != 1+10 || len(ex.Gaps) != 0 || looked.Load() != 10 {
		t.Errorf("%+v, %v after %d look-ups", ex, err, looked.Load())
	}
	if ex, err = c.Expand(t.Context(), hashed); err != nil || len(ex.Actions) != 1 || ex.Actions[0].Target.Ref.Value != "a7" {
		t.Errorf("%+v, %v", ex, err)
	}
}

func TestConfig(t *testing.T) {
	ok := Config{Address: "https://vault.example.org:8200", Token: staunch.NewSecret("t")}
	if err := ok.complete(); err != nil {
		t.Fatal(err)
	}
	if ok.MaxAccessors != defaultMaxAccessors || ok.MinPrefixDepth != 3 || ok.Timeout.Std() != defaultTimeout {
		t.Errorf("defaults: %+v", ok)
	}
	for place, spoil := range map[string]func(*Config){
		"address":           func(c *Config) { c.Address = "http://vault.example.org" },
		"address ":          func(c *Config) { c.Address = "vault.example.org" },
		"address  ":         func(c *Config) { c.Address = "https://user:pass@vault" },
		"token":             func(c *Config) { c.Token = staunch.Secret{} },
		"token ":            func(c *Config) { c.TokenFile = "/x" },
		"proof_token":       func(c *Config) { c.ProofToken = c.Token },
		"proof_token ":      func(c *Config) { c.ProofToken, c.ProofTokenFile = staunch.NewSecret("p"), "/x" },
		"tls":               func(c *Config) { c.TLS.CertFile = "/x" },
		"audit_devices":     func(c *Config) { c.AuditDevices = []string{"../x"} },
		"max_accessors":     func(c *Config) { c.MaxAccessors = limitMaxAccessors + 1 },
		"min_prefix_depth":  func(c *Config) { c.MinPrefixDepth = 1 },
		"timeout":           func(c *Config) { c.Timeout = -1 },
		"search_time":       func(c *Config) { c.SearchTime = staunch.Duration(time.Hour) },
		"protect.entities":  func(c *Config) { c.Protect.Entities = []string{"*"} },
		"protect.accessors": func(c *Config) { c.Protect.Accessors = []string{""} },
	} {
		cfg := Config{Address: "https://vault.example.org:8200", Token: staunch.NewSecret("t")}
		spoil(&cfg)
		err := cfg.complete()
		var p *staunch.Problem
		if !errors.As(err, &p) || p.Place != strings.TrimSpace(place) {
			t.Errorf("%s: %v", place, err)
		}
	}
	_, err := New(connector.Deps{Realm: realm, Decode: func(v any) error {
		*v.(*Config) = Config{Address: "https://v", Token: staunch.NewSecret("t"), TLS: rest.TLS{CAFile: filepath.Join(t.TempDir(), "none")}}
		return nil
	}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing ca_file: %v", err)
	}
}

func TestTokenFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	get := source(staunch.Secret{}, file)
	if _, err := get(); err == nil {
		t.Error("a missing file gives a token")
	}
	for _, want := range []string{"first", "the second"} {
		if err := os.WriteFile(file, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := get()
		if err != nil || got.Reveal() != want {
			t.Errorf("%q, %v; want %q", got.Reveal(), err, want)
		}
	}
	for name, b := range map[string][]byte{"empty": {'\n'}, "too long": make([]byte, maxTokenFile+1)} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := get(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What Vault, or who stands for it, says back of a token does not get into errors.
func TestTokensAreNotSaidBack(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in map[string]string
		_ = json.NewDecoder(r.Body).Decode(&in)
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {r.Header.Get("X-Vault-Token") + " asks for " + in["token"]}})
	}))
	defer srv.Close()
	c := build(t, Config{Address: srv.URL, Token: staunch.NewSecret("hvs.our-own")}, nil)
	defer func() { _ = c.Close() }()
	_, err := c.act.do(t.Context(), call{method: http.MethodPost, path: "auth/token/lookup", body: map[string]string{"token": "hvs.stolen-words"}})
	if err == nil || !strings.Contains(err.Error(), "*** asks for ***") {
		t.Errorf("%v", err)
	}
}

// The token reaches neither errors nor anything that is printed.
func TestTokenIsNotShown(t *testing.T) {
	c := build(t, Config{Address: "http://127.0.0.1:1", Token: staunch.NewSecret("hvs.stolen-words")}, nil)
	defer func() { _ = c.Close() }()
	_, err := c.Read(t.Context(), aToken, false)
	b, jerr := json.Marshal(c.cfg)
	if jerr != nil {
		t.Fatal(jerr)
	}
	for _, s := range []string{fmt.Sprint(err), fmt.Sprintf("%+v %#v", c.cfg, c.cfg), string(b)} {
		if strings.Contains(s, "stolen-words") {
			t.Errorf("the token is in %q", s)
		}
	}
}
