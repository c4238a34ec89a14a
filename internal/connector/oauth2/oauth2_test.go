package oauth2

import (
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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const realm = "oauth2/test"

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

// sealed holds tokens the way core does.
type sealed struct {
	mu sync.Mutex
	m  map[staunch.Ref]staunch.Secret
}

func newSealed() *sealed { return &sealed{m: map[staunch.Ref]staunch.Secret{}} }

// put seals a token and returns the target that it is.
func (s *sealed) put(token string) staunch.Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := target(token)
	s.m[t.Ref] = staunch.NewSecret(token)
	return t
}

func (s *sealed) Open(_ context.Context, r staunch.Ref) (staunch.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.m[r]; ok {
		return v, nil
	}
	return staunch.Secret{}, fmt.Errorf("secret %s: %w", r, staunch.ErrNotFound)
}

func target(token string) staunch.Target {
	return staunch.Target{
		Ref:       staunch.Ref{Kind: staunch.KindCredential, Realm: realm, Scheme: SchemeDigest, Value: staunch.NewSecret(token).Digest()},
		Attribute: AttributeToken,
	}
}

func known(id string) Client { return Client{ID: id, Secret: staunch.NewSecret(id + "-secret")} }

const stolen = "a-stolen-token"

// fake answers introspection as RFC 7662 does, and revocation and anything else
// as told.
type fake struct {
	*httptest.Server
	secrets *sealed
	// Introspect, when set, answers instead.
	introspect http.HandlerFunc
	revoke     http.HandlerFunc
	other      http.HandlerFunc
	revoked    atomic.Int64
	body       string
}

func newFake(tb testing.TB) *fake {
	tb.Helper()
	f := &fake{secrets: newSealed(), body: `{"active":true,"client_id":"svc","sub":"svc","scope":"a b","exp":2000000000,"iat":1700000000,"token_type":"Bearer","extra":{"x":[1]}}`}
	f.secrets.put(stolen)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/introspect" && f.introspect != nil:
			f.introspect(w, r)
		case r.URL.Path == "/introspect":
			say(w, 200, f.body)
		case r.URL.Path == "/revoke":
			f.revoked.Add(1)
			f.revoke(w, r)
		case f.other != nil:
			f.other(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	tb.Cleanup(f.Close)
	return f
}

func say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Location", "https://elsewhere.invalid/")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (f *fake) config() Config {
	return Config{
		RevocationEndpoint: f.URL + "/revoke", IntrospectionEndpoint: f.URL + "/introspect",
		Client: known("revoker"), Clients: []Client{known("svc")}, Proof: known("prover"),
	}
}

func (f *fake) connector(tb testing.TB, change func(*Config)) *Connector {
	tb.Helper()
	cfg := f.config()
	if change != nil {
		change(&cfg)
	}
	c := build(tb, cfg, f.secrets)
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func prepared(tb testing.TB, c *Connector, t staunch.Target) staunch.Intent {
	tb.Helper()
	st, err := c.Read(tb.Context(), t, false)
	if err != nil {
		tb.Fatal(err)
	}
	in, err := c.Prepare(st, staunch.VerbRevoke)
	if err != nil {
		tb.Fatal(err)
	}
	in.Key, in.PreImage = "stp_1", st
	return in
}

// statuses says what follows from each answer; the README's table is the same.
var statuses = []struct {
	status            int
	body              string
	reading, revoking staunch.Class
}{
	{301, "", staunch.ClassPermanent, staunch.ClassPermanent},
	{302, "", staunch.ClassPermanent, staunch.ClassPermanent},
	{307, "", staunch.ClassPermanent, staunch.ClassPermanent},
	{400, `{"error":"invalid_request"}`, staunch.ClassPermanent, staunch.ClassPermanent},
	{400, `{"error":"unsupported_token_type"}`, staunch.ClassPermanent, staunch.ClassPermanent},
	{400, `{"error":"invalid_client"}`, staunch.ClassDenied, staunch.ClassDenied},
	{400, `{"error":"unauthorized_client"}`, staunch.ClassDenied, staunch.ClassDenied},
	{400, `{"error":"access_denied"}`, staunch.ClassDenied, staunch.ClassDenied},
	{400, `{"error":"temporarily_unavailable"}`, staunch.ClassTransient, staunch.ClassUnknown},
	{400, `{"error":"server_error"}`, staunch.ClassTransient, staunch.ClassUnknown},
	{400, `not JSON`, staunch.ClassPermanent, staunch.ClassPermanent},
	{401, `{"error":"invalid_client"}`, staunch.ClassDenied, staunch.ClassDenied},
	{403, "", staunch.ClassDenied, staunch.ClassDenied},
	{404, "", staunch.ClassPermanent, staunch.ClassPermanent},
	{405, "", staunch.ClassPermanent, staunch.ClassPermanent},
	{408, "", staunch.ClassTransient, staunch.ClassTransient},
	{415, "", staunch.ClassPermanent, staunch.ClassPermanent},
	{425, "", staunch.ClassTransient, staunch.ClassTransient},
	{429, "", staunch.ClassTransient, staunch.ClassTransient},
	{500, "", staunch.ClassTransient, staunch.ClassUnknown},
	{501, "", staunch.ClassPermanent, staunch.ClassPermanent},
	{502, "<html>", staunch.ClassTransient, staunch.ClassUnknown},
	{503, `{"error":"temporarily_unavailable"}`, staunch.ClassTransient, staunch.ClassUnknown},
	{503, `{"error":"unsupported_token_type"}`, staunch.ClassPermanent, staunch.ClassPermanent},
	{504, "", staunch.ClassTransient, staunch.ClassUnknown},
}

func TestStatuses(t *testing.T) {
	for _, s := range statuses {
		t.Run(fmt.Sprintf("%d %s", s.status, s.body), func(t *testing.T) {
			f := newFake(t)
			c := f.connector(t, nil)
			f.revoke = func(w http.ResponseWriter, _ *http.Request) { say(w, s.status, s.body) }
			in := prepared(t, c, target(stolen))
			r, err := c.Apply(t.Context(), in)
			if err == nil || staunch.ClassOf(err) != s.revoking || r.Changed || f.revoked.Load() != 1 {
				t.Errorf("revoking: class %s after %d calls, want %s: %v", staunch.ClassOf(err), f.revoked.Load(), s.revoking, err)
			}
			f.introspect = f.revoke
			_, err = c.Read(t.Context(), in.Target, true)
			if err == nil || staunch.ClassOf(err) != s.reading {
				t.Errorf("reading: class %s, want %s: %v", staunch.ClassOf(err), s.reading, err)
			}
		})
	}
}

// What is no answer to the question is no proof that the token is inactive.
func TestAnswersThatProveNothing(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON": "<html>", "nothing": "", "null": "null", "a list": "[]", "no active": `{"client_id":"svc"}`,
		"active is text": `{"active":"false"}`, "active is null": `{"active":null}`, "another case": `{"Active":false}`,
		"a signed answer": "eyJhbGciOiJub25lIn0.eyJhY3RpdmUiOmZhbHNlfQ.",
		"too long":        `{"active":false,"x":"` + strings.Repeat("x", maxAnswer) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.body = body
			if st, err := f.connector(t, nil).Read(t.Context(), target(stolen), true); err == nil {
				t.Errorf("reads as %+v", st)
			}
		})
	}
	// Odd claims do not keep a token from being seen as active.
	f := newFake(t)
	f.body = `{"active":true,"client_id":7,"exp":"soon","iat":1.7e9,"sub":["x"],"scope":null}`
	st, err := f.connector(t, nil).Read(t.Context(), target(stolen), true)
	if err != nil || !st.Effective || string(st.Body) != `{"iat":1700000000}` {
		t.Errorf("%+v %s, %v", st, st.Body, err)
	}
}

// One credential that sees the token as active outweighs others that do not.
func TestInactiveToOneIsNoProof(t *testing.T) {
	f := newFake(t)
	var mu sync.Mutex
	var asked []string
	sees, refused := "svc", ""
	f.introspect = func(w http.ResponseWriter, r *http.Request) {
		id, _, _ := r.BasicAuth()
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, id)
		switch id {
		case refused:
			say(w, 403, "")
		case sees:
			say(w, 200, `{"active":true,"client_id":"svc"}`)
		default:
			say(w, 200, `{"active":false}`)
		}
	}
	take := func() string {
		mu.Lock()
		defer mu.Unlock()
		s := strings.Join(asked, " ")
		asked = nil
		return s
	}
	set := func(s, r string) { mu.Lock(); sees, refused = s, r; mu.Unlock() }
	c := f.connector(t, func(cfg *Config) { cfg.Clients = append(cfg.Clients, known("other")) })
	read := func(proof bool) staunch.State {
		t.Helper()
		st, err := c.Read(t.Context(), target(stolen), proof)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := read(true); !st.Effective || take() != "prover revoker svc" {
		t.Errorf("a token that only its client sees: %+v", st)
	}
	// The owner is known now and asked first, or right after the prover.
	if st := read(false); !st.Effective || take() != "svc" {
		t.Errorf("%+v", st)
	}
	set("nobody", "")
	if st := read(true); st.Effective || st.Exists || take() != "prover svc revoker" {
		t.Errorf("a token that nobody sees: %+v", st)
	}
	if st := read(false); st.Effective || take() != "svc revoker prover" {
		t.Errorf("%+v", st)
	}
	// A client that may not introspect can be done without; the prover and the
	// token's own cannot.
	set("nobody", "revoker")
	if st := read(true); st.Effective {
		t.Errorf("%+v", st)
	}
	for _, id := range []string{"prover", "svc"} {
		set("nobody", id)
		if _, err := c.Read(t.Context(), target(stolen), true); staunch.ClassOf(err) != staunch.ClassDenied {
			t.Errorf("%s is refused: %v", id, err)
		}
	}
}

func TestWhoRevokes(t *testing.T) {
	f := newFake(t)
	var who atomic.Value
	f.revoke = func(_ http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		who.Store(id + "/" + secret + "/" + r.Form.Get("client_id") + "/" + r.Form.Get("client_secret") + "/" + r.Form.Get("token_type_hint"))
		if r.Form.Get("token") != stolen || r.Header.Get(StepHeader) != "stp_1" {
			t.Errorf("token %q, step %q", r.Form.Get("token"), r.Header.Get(StepHeader))
		}
	}
	odd := Client{ID: "svc", Secret: staunch.NewSecret("p:%&=ü")}
	post, public := odd, Client{ID: "svc", Auth: authNone}
	post.Auth = authPost
	for want, change := range map[string]func(*Config){
		"svc/svc-secret///":                     nil,
		"svc/svc-secret///access_token":         func(c *Config) { c.TokenTypeHint = "access_token" },
		"svc/p%3A%25%26%3D%C3%BC///":            func(c *Config) { c.Clients = []Client{odd} },
		"//svc/p:%&=ü/":                         func(c *Config) { c.Clients = []Client{post} },
		"//svc//":                               func(c *Config) { c.Clients = []Client{public} },
		"revoker/revoker-secret///":             func(c *Config) { c.Clients = nil },
		"none of ours may, and nothing is sent": func(c *Config) { c.Client, c.Clients = Client{}, []Client{known("other")} },
	} {
		who.Store("")
		c := f.connector(t, change)
		ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: target(stolen).Ref, Tier: staunch.TierRevoke})
		if err != nil {
			t.Fatal(err)
		}
		in := prepared(t, c, target(stolen))
		_, err = c.Apply(t.Context(), in)
		if strings.HasPrefix(want, "none") {
			if err == nil || staunch.ClassOf(err) != staunch.ClassPermanent || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || who.Load() != "" {
				t.Errorf("%s: %+v, %v, %v", want, ex, err, who.Load())
			}
			continue
		}
		if err != nil || who.Load() != want || len(ex.Actions) != 1 {
			t.Errorf("%v, want %s; %+v, %v", who.Load(), want, ex.Actions, err)
		}
		if foreign := strings.HasPrefix(want, "revoker"); foreign != (len(ex.Gaps) == 1) {
			t.Errorf("%s: gaps %+v", want, ex.Gaps)
		}
	}
}

func TestUnsupportedTokenTypeBecomesAGap(t *testing.T) {
	f := newFake(t)
	c := f.connector(t, nil)
	f.revoke = func(w http.ResponseWriter, _ *http.Request) { say(w, 400, `{"error":"unsupported_token_type"}`) }
	req := connector.ExpandRequest{Subject: target(stolen).Ref, Tier: staunch.TierRevoke}
	ex, err := c.Expand(t.Context(), req)
	if err != nil || len(ex.Actions) != 1 {
		t.Fatalf("%+v, %v", ex, err)
	}
	if _, err := c.Apply(t.Context(), prepared(t, c, target(stolen))); staunch.ClassOf(err) != staunch.ClassPermanent || err == nil {
		t.Fatal(err)
	}
	ex, err = c.Expand(t.Context(), req)
	if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || !strings.Contains(ex.Gaps[0].Reason, "unsupported_token_type") {
		t.Errorf("%+v, %v", ex, err)
	}
	// Tokens of another type are not concerned.
	f.body = `{"active":true,"client_id":"svc"}`
	if ex, err = c.Expand(t.Context(), req); err != nil || len(ex.Actions) != 1 {
		t.Errorf("%+v, %v", ex, err)
	}
}

func TestExpandSaysWhatCannotBeDone(t *testing.T) {
	f := newFake(t)
	c := f.connector(t, func(cfg *Config) { cfg.Protect = Protect{Subjects: []string{"root"}, Clients: []string{"billing"}} })
	never := target("never seen").Ref
	wrong := f.secrets.put("something")
	f.secrets.m[wrong.Ref] = staunch.NewSecret("something else")
	for name, req := range map[string]connector.ExpandRequest{
		"never seen":     {Subject: never, Tier: staunch.TierRevoke},
		"an account":     {Subject: c.account(SchemeClient, "svc"), Tier: staunch.TierRevoke},
		"a lower tier":   {Subject: target(stolen).Ref, Tier: staunch.TierIsolate},
		"another verb":   {Subject: target(stolen).Ref, Tier: staunch.TierRevoke, Verbs: []staunch.Verb{staunch.VerbSuspend}},
		"another scheme": {Subject: staunch.Ref{Kind: staunch.KindCredential, Realm: realm, Scheme: "jti", Value: "x"}, Tier: staunch.TierRevoke},
	} {
		ex, err := c.Expand(t.Context(), req)
		if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || !ex.Gaps[0].Widen.IsZero() {
			t.Errorf("%s: %+v, %v", name, ex, err)
		}
	}
	if _, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: wrong.Ref, Tier: staunch.TierRevoke}); staunch.ClassOf(err) != staunch.ClassPermanent || err == nil {
		t.Errorf("another token under the digest: %v", err)
	}
	f.revoke = func(http.ResponseWriter, *http.Request) {}
	in := prepared(t, c, target(stolen))
	for _, body := range []string{`{"active":true,"sub":"root"}`, `{"active":true,"client_id":"billing"}`} {
		f.body = body
		ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: target(stolen).Ref, Tier: staunch.TierRevoke})
		if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 {
			t.Errorf("protected: %+v, %v", ex, err)
		}
		if _, err := c.Apply(t.Context(), in); staunch.ClassOf(err) != staunch.ClassPermanent || err == nil || f.revoked.Load() != 0 {
			t.Errorf("protected: %v after %d calls", err, f.revoked.Load())
		}
	}
	// A token under several names, and one derived from it.
	f.body = `{"active":true,"client_id":"svc","sub":"alice","iat":1700000000,"exp":1700003600}`
	second := f.secrets.put("another token")
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{
		Subject: c.account(SchemeSubject, "alice"), Tier: staunch.TierRevoke,
		Names:   []staunch.Ref{c.account(SchemeSubject, "alice"), target(stolen).Ref},
		Derived: []staunch.Ref{second.Ref, target(stolen).Ref, never},
	})
	if err != nil || len(ex.Actions) != 2 || len(ex.Gaps) != 1 || len(ex.Facts) != 2 {
		t.Fatalf("%+v, %v", ex, err)
	}
	fact := ex.Facts[0]
	if fact.Subject != target(stolen).Ref || fact.Of != c.account(SchemeSubject, "alice") || fact.By != c.account(SchemeClient, "svc") || fact.Until == 0 || fact.ID == "" {
		t.Errorf("%+v", fact)
	}
}

func TestDeadlineAndKey(t *testing.T) {
	f := newFake(t)
	c := f.connector(t, nil)
	f.revoke = func(http.ResponseWriter, *http.Request) {}
	in := prepared(t, c, target(stolen))
	in.Deadline = staunch.TimeOf(time.Now().Add(-time.Second))
	if _, err := c.Apply(t.Context(), in); staunch.ClassOf(err) != staunch.ClassTransient || !errors.Is(err, context.DeadlineExceeded) || f.revoked.Load() != 0 {
		t.Errorf("%v", err)
	}
	in.Deadline, in.Key = 0, "a b"
	if _, err := c.Apply(t.Context(), in); staunch.ClassOf(err) != staunch.ClassPermanent || f.revoked.Load() != 0 {
		t.Errorf("%v", err)
	}
}

func TestDiscovery(t *testing.T) {
	f := newFake(t)
	var fetched atomic.Int64
	var body atomic.Value
	at := "/.well-known/oauth-authorization-server/tenant"
	f.other = func(w http.ResponseWriter, r *http.Request) {
		fetched.Add(1)
		if r.URL.Path != at {
			http.NotFound(w, r)
			return
		}
		say(w, 200, body.Load().(string))
	}
	issuer := f.URL + "/tenant"
	conn := func() *Connector {
		return f.connector(t, func(c *Config) { c.Issuer, c.RevocationEndpoint, c.IntrospectionEndpoint = issuer, "", "" })
	}
	good := fmt.Sprintf(`{"issuer":%q,"revocation_endpoint":"%s/revoke","introspection_endpoint":"%s/introspect"}`, issuer, f.URL, f.URL)
	body.Store(good)
	c := conn()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if st, err := c.Read(t.Context(), target(stolen), false); err != nil || !st.Effective {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
	wg.Wait()
	if n := fetched.Load(); n != 1 {
		t.Errorf("the metadata was fetched %d times", n)
	}
	at = "/tenant/.well-known/openid-configuration"
	if st, err := conn().Read(t.Context(), target(stolen), false); err != nil || !st.Effective {
		t.Errorf("OpenID Connect's place: %+v, %v", st, err)
	}
	for name, b := range map[string]string{
		"another issuer":       strings.Replace(good, "tenant", "other", 1),
		"no endpoints":         fmt.Sprintf(`{"issuer":%q}`, issuer),
		"an endpoint in clear": strings.ReplaceAll(good, f.URL+"/introspect", "http://elsewhere.example/introspect"),
		"no JSON":              "<html>",
	} {
		body.Store(b)
		if _, err := conn().Read(t.Context(), target(stolen), false); err == nil || staunch.ClassOf(err) != staunch.ClassPermanent {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A failure is not kept.
	body.Store("<html>")
	c = conn()
	if _, err := c.Read(t.Context(), target(stolen), false); err == nil {
		t.Error("no error")
	}
	body.Store(good)
	if _, err := c.Read(t.Context(), target(stolen), false); err != nil {
		t.Error(err)
	}
}

func TestProbe(t *testing.T) {
	f := newFake(t)
	var shown atomic.Int64
	status := 200
	f.other = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+stolen {
			shown.Add(1)
		}
		say(w, status, "")
	}
	c := f.connector(t, func(cfg *Config) { cfg.ProbeURL = f.URL + "/api" })
	in := prepared(t, c, target(stolen))
	for s, want := range map[int]connector.Probe{
		200: {Works: true, Conclusive: true}, 204: {Works: true, Conclusive: true}, 401: {Conclusive: true},
		302: {}, 403: {}, 404: {}, 429: {}, 500: {}, 503: {},
	} {
		status = s
		got, err := c.Probe(t.Context(), in)
		if err != nil || got.Works != want.Works || got.Conclusive != want.Conclusive || got.How == "" {
			t.Errorf("%d: %+v, %v", s, got, err)
		}
	}
	if shown.Load() != 9 {
		t.Errorf("shown %d times", shown.Load())
	}
	// What may be a refresh token is shown to nobody.
	in.PreImage.Body = json.RawMessage(`{"client_id":"svc"}`)
	if got, err := c.Probe(t.Context(), in); err != nil || got.Conclusive || shown.Load() != 9 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := f.connector(t, nil).Probe(t.Context(), in); err != nil || got.Conclusive || got.How == "" {
		t.Errorf("no probe_url: %+v, %v", got, err)
	}
}

func TestConfig(t *testing.T) {
	valid := func() Config {
		return Config{Issuer: "https://login.example.org", Client: known("revoker"), Clients: []Client{known("svc")}, Proof: known("prover")}
	}
	ok := valid()
	if err := ok.complete(); err != nil || ok.Clients[0].Auth != authBasic || ok.Timeout.Std() != defaultTimeout {
		t.Fatalf("%+v, %v", ok, err)
	}
	for place, spoil := range map[string]func(*Config){
		"issuer":                 func(c *Config) { c.Issuer = "http://login.example.org" },
		"issuer ":                func(c *Config) { c.Issuer = "" },
		"issuer  ":               func(c *Config) { c.Issuer = "https://login.example.org?x=y" },
		"revocation_endpoint":    func(c *Config) { c.RevocationEndpoint = "/revoke" },
		"introspection_endpoint": func(c *Config) { c.IntrospectionEndpoint = "https://u:p@login.example.org" },
		"probe_url":              func(c *Config) { c.ProbeURL = "http://api.example.org" },
		"client":                 func(c *Config) { c.Client, c.Clients = Client{}, nil },
		"client.id":              func(c *Config) { c.Client.ID = "" },
		"client.auth":            func(c *Config) { c.Client.Auth = "mtls" },
		"client.secret":          func(c *Config) { c.Client.Auth = authNone },
		"clients[0].secret":      func(c *Config) { c.Clients[0].Secret = staunch.Secret{} },
		"clients[1].id":          func(c *Config) { c.Clients = append(c.Clients, known("svc")) },
		"clients":                func(c *Config) { c.Clients = make([]Client, maxClients+1) },
		"proof":                  func(c *Config) { c.Proof = known("revoker") },
		"token_type_hint":        func(c *Config) { c.TokenTypeHint = "jwt" },
		"timeout":                func(c *Config) { c.Timeout = staunch.Duration(time.Hour) },
		"protect":                func(c *Config) { c.Protect.Clients = []string{""} },
	} {
		cfg := valid()
		spoil(&cfg)
		err := cfg.complete()
		var p *staunch.Problem
		if !errors.As(err, &p) || p.Place != strings.TrimSpace(place) && place != "clients" {
			t.Errorf("%s: %v", place, err)
		}
	}
	_, err := New(connector.Deps{Realm: realm, Decode: func(v any) error {
		cfg := valid()
		cfg.CAFile = filepath.Join(t.TempDir(), "none")
		*v.(*Config) = cfg
		return nil
	}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing ca_file: %v", err)
	}
}

func TestOwnRefs(t *testing.T) {
	f := newFake(t)
	refs, err := f.connector(t, func(c *Config) { c.Client = known("svc") }).OwnRefs(t.Context())
	if err != nil || len(refs) != 1 || refs[0].Value != "prover" {
		t.Errorf("a workload's client is not ours: %v, %v", refs, err)
	}
}

// Neither token nor secrets reach errors or anything that is printed.
func TestSecretsAreNotShown(t *testing.T) {
	f := newFake(t)
	f.introspect = func(w http.ResponseWriter, r *http.Request) { say(w, 500, "") }
	c := f.connector(t, nil)
	_, err := c.Read(t.Context(), target(stolen), false)
	f.introspect = func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		say(w, 400, `{"error":"invalid_request","error_description":"`+r.FormValue("token")+" is none of "+secret+`"}`)
	}
	_, back := c.Read(t.Context(), target(stolen), false)
	if !strings.Contains(fmt.Sprint(back), "*** is none of ***") {
		t.Errorf("what the server says is not told: %v", back)
	}
	f.Close()
	_, down := c.Read(t.Context(), target(stolen), true)
	b, jerr := json.Marshal(c.cfg)
	if jerr != nil {
		t.Fatal(jerr)
	}
	for _, s := range []string{fmt.Sprint(err), fmt.Sprint(back), fmt.Sprint(down), fmt.Sprintf("%+v %#v", c.cfg, c.cfg), string(b)} {
		if strings.Contains(s, stolen) || strings.Contains(s, "-secret") {
			t.Errorf("a secret is in %q", s)
		}
	}
}

func FuzzIntrospection(f *testing.F) {
	for _, s := range []string{
		`{"active":true}`, `{"active":false}`, `{"active":true,"exp":1e400}`, `{"active":true,"client_id":"\u0000"}`, `[]`, `null`, ``, `{"active":1}`,
	} {
		f.Add(s)
	}
	srv := newFake(f)
	c := srv.connector(f, nil)
	f.Fuzz(func(t *testing.T, body string) {
		srv.body = body
		st, err := c.Read(t.Context(), target(stolen), true)
		if err != nil {
			return
		}
		if st.Effective != st.Exists || len(st.Body) > 0 && !json.Valid(st.Body) {
			t.Fatalf("%+v", st)
		}
		var v struct{ A *bool }
		if json.Unmarshal([]byte(body), &v) != nil && !json.Valid([]byte(body)) {
			t.Fatalf("%q reads as %+v", body, st)
		}
		if _, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: st.Target.Ref, Tier: staunch.TierRevoke}); err != nil {
			t.Fatal(err)
		}
	})
}
