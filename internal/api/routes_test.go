package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// access says, for every route, who may. A route that is not here fails
// TestEveryRouteAsksWhoMay; so does a line without a route.
var access = map[string][]auth.Role{
	"POST /v1/ingest/{source}":               {"source"},
	"GET /v1/ingest/{source}":                {"source"},
	"GET /v1/containments":                   {"viewer", "responder", "approver", "admin"},
	"GET /v1/containments/{id}":              {"viewer", "responder", "approver", "admin"},
	"GET /v1/containments/{id}/evidence":     {"viewer", "responder", "approver", "admin"},
	"POST /v1/containments":                  {"responder", "approver", "admin"},
	"POST /v1/plan":                          {"responder", "approver", "admin"},
	"POST /v1/plan/file":                     {"responder", "approver", "admin"},
	"POST /v1/plan/apply":                    {"responder", "approver", "admin"},
	"POST /v1/backtest":                      {"responder", "approver", "admin"},
	"POST /v1/containments/{id}/release":     {"responder", "approver", "admin"},
	"POST /v1/containments/{id}/judge":       {"responder", "approver", "admin"},
	"POST /v1/containments/{id}/clear":       {"responder", "approver", "admin"},
	"POST /v1/containments/{id}/advance":     {"responder", "approver", "admin"},
	"POST /v1/containments/{id}/extend":      {"responder", "approver", "admin"},
	"POST /v1/containments/{id}/approve":     {"approver", "admin"},
	"GET /v1/signals":                        {"viewer", "responder", "approver", "admin"},
	"GET /v1/decisions":                      {"viewer", "responder", "approver", "admin"},
	"GET /v1/decisions/{id}":                 {"viewer", "responder", "approver", "admin"},
	"GET /v1/events/{id}":                    {"viewer", "responder", "approver", "admin"},
	"GET /v1/holds":                          {"viewer", "responder", "approver", "admin"},
	"GET /v1/identities":                     {"viewer", "responder", "approver", "admin"},
	"GET /v1/identity":                       {"viewer", "responder", "approver", "admin"},
	"GET /v1/parked":                         {"admin"},
	"GET /v1/breakers":                       {"viewer", "responder", "approver", "admin"},
	"POST /v1/breakers/reset":                {"admin"},
	"GET /v1/trust":                          {"viewer", "responder", "approver", "admin"},
	"GET /v1/trust/rule":                     {"viewer", "responder", "approver", "admin"},
	"POST /v1/trust/promote":                 {"approver", "admin"},
	"GET /v1/drills":                         {"viewer", "responder", "approver", "admin"},
	"GET /v1/drills/{id}":                    {"viewer", "responder", "approver", "admin"},
	"POST /v1/drills":                        {"approver", "admin"},
	"POST /v1/trust/demote":                  {"approver", "admin"},
	"POST /v1/groups/health":                 {"responder", "approver", "admin"},
	"GET /v1/tokens":                         {"admin"},
	"POST /v1/tokens":                        {"admin"},
	"DELETE /v1/tokens/{id}":                 {"admin"},
	"GET /v1/doctor":                         {"admin"},
	"GET /v1/store":                          {"admin"},
	"GET /v1/store/preview":                  {"admin"},
	"POST /v1/reload":                        {"admin"},
	"GET /v1/records/verify":                 {"admin"},
	"POST /v1/records/verify":                {"admin"},
	"GET /v1/records/export":                 {"admin"},
	"POST /v1/records/checkpoint":            {"admin"},
	"POST /access/v1/evaluation":             {"pep"},
	"POST /access/v1/evaluations":            {"pep"},
	"GET /.well-known/authzen-configuration": {"pep"},
	"GET /metrics":                           {"viewer", "responder", "approver", "admin"},
	"GET /openapi.json":                      {"viewer", "responder", "approver", "admin"},
	"GET /openapi.yaml":                      {"viewer", "responder", "approver", "admin"},
	"GET /healthz":                           nil,
	"GET /readyz":                            nil,
}

func samplePath(rt Route) string {
	p := strings.NewReplacer("{source}", "trail", "{id}", "con_none").Replace(rt.Path)
	switch p {
	case "/v1/identity":
		p += "?ref=" + appRW.String()
	case "/v1/trust/rule":
		p += "?rule=known"
	}
	return p
}

func sampleBody(rt Route) any {
	switch {
	case rt.Method != "POST":
		return nil
	case strings.HasPrefix(rt.Path, "/access/"):
		return `{"subject":{"type":"token","id":"x"},"action":{"name":"read"},"resource":{"type":"r","id":"1"}}`
	case rt.Path == pathIngest:
		return `{}`
	}
	return `{}` // found wanting only after the question of who
}

func TestEveryRouteAsksWhoMay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.token(store.Token{Name: "expired", Role: "admin", Expires: staunch.TimeOf(r.s.opt.Clock.Now().Add(1e6))})
	r.token(store.Token{Name: "other-source", Role: "source", Source: "other"})
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		tk, err := tx.Token("tok_expired")
		if err != nil {
			return err
		}
		tk.Created, tk.Expires = 1, 2
		return tx.PutToken(tk)
	}))
	revoked := r.token(store.Token{Name: "revoked", Role: "admin", Revoked: true})
	unknown, _ := auth.NewToken()

	seen := map[string]bool{}
	for _, rt := range r.s.Routes() {
		roles, ok := access[rt.pattern()]
		if !ok {
			t.Errorf("%s is not in the table", rt.pattern())
			continue
		}
		seen[rt.pattern()] = true
		open := rt.Verb == ""
		if open != (roles == nil) {
			t.Errorf("%s asks for %q", rt.pattern(), rt.Verb)
		}
		header := func(v string) func(*http.Request) {
			return func(q *http.Request) {
				if v != "" {
					q.Header.Set("Authorization", v)
				}
			}
		}
		for _, bad := range []string{"", "Bearer", "Bearer nonsense", "Basic YTpi", "Bearer " + unknown.Reveal(), "Bearer " + revoked, "Bearer " + r.tokens["expired"]} {
			a := r.do("", rt.Method, samplePath(rt), sampleBody(rt), header(bad))
			if open {
				if a.Code != 204 || a.Body.Len() != 0 {
					t.Errorf("%s answers everyone %d %q, want 204 and nothing", rt.pattern(), a.Code, a.Body)
				}
				continue
			}
			if a.Code != 401 {
				t.Errorf("%s with %.12q: %d, want 401", rt.pattern(), bad, a.Code)
				continue
			}
			if p := a.problem(); p.Code != CodeUnauthenticated || a.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s: %s", rt.pattern(), a.Body)
			}
		}
		if open {
			continue
		}
		for _, role := range auth.Roles() {
			a := r.do(string(role), rt.Method, samplePath(rt), sampleBody(rt))
			may := slices.Contains(roles, role)
			if refused := a.Code == 403 || a.Code == 401; refused == may {
				t.Errorf("%s as %s: %d, allowed = %v: %s", rt.pattern(), role, a.Code, may, a.Body)
			}
			if a.Code >= 500 {
				t.Errorf("%s as %s: %d: %s", rt.pattern(), role, a.Code, a.Body)
			}
			if !may {
				a.problem()
			}
		}
		if rt.Verb == auth.Ingest {
			if a := r.do("other-source", rt.Method, samplePath(rt), sampleBody(rt)); a.Code != 403 {
				t.Errorf("%s with another source's token: %d, want 403", rt.pattern(), a.Code)
			}
		}
	}
	for p := range access {
		if !seen[p] {
			t.Errorf("%s is in the table and not served", p)
		}
	}
}

// nobodys are the routes that tell of what is nobody's in particular.
var nobodys = []string{"GET /v1/breakers", "GET /v1/trust", "GET /v1/trust/rule", "GET /v1/drills", "GET /v1/drills/{id}"}

// TestLimitedTokens: what concerns the deployment as a whole is not for tokens
// that are limited to a part of it.
func TestLimitedTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.token(store.Token{Name: "part", Role: "admin", Realms: []string{"pg/main"}})
	whole := map[auth.Verb]bool{}
	for _, right := range auth.Rights() {
		whole[right.Verb] = right.Whole
	}
	n := 0
	for _, rt := range r.s.Routes() {
		a := r.do("part", rt.Method, samplePath(rt), sampleBody(rt))
		if whole[rt.Verb] || slices.Contains(nobodys, rt.pattern()) {
			n++
			if a.Code != 403 {
				t.Errorf("%s with a limited token: %d, want 403: %s", rt.pattern(), a.Code, a.Body)
			}
		} else if a.Code == 403 && slices.Contains(access[rt.pattern()], auth.RoleAdmin) {
			t.Errorf("%s with a limited token: %s", rt.pattern(), a.Body)
		}
	}
	if n < 9 {
		t.Errorf("only %d routes are about the whole deployment", n)
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	app, bill := r.contain(appRW), r.contain(billing)
	r.token(store.Token{Name: "pg", Role: "responder", Realms: []string{"pg/main"}})
	r.token(store.Token{Name: "team-b", Role: "responder", Owners: []string{"team-b"}})
	r.token(store.Token{Name: "dev", Role: "responder", Environments: []string{"dev"}})
	r.token(store.Token{Name: "nobody", Role: "responder", Owners: []string{"team-z"}})
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		for i, ref := range []staunch.Ref{appRW, billing} {
			ev := staunch.Event{V: 1, ID: "evt_" + ref.Value, Realm: ref.Realm, Actor: []staunch.Ref{ref}, Time: 5, Learned: 6, Digest: "sha256:0", Source: "trail"}
			if _, err := tx.PutEvent(ev); err != nil {
				return err
			}
			if _, err := tx.PutSignal(staunch.Signal{V: 1, ID: "sig_" + ref.Value, Accused: ref, Realm: ref.Realm, Event: ev.ID, Time: staunch.Time(i + 1), Confidence: 0.5}); err != nil {
				return err
			}
			d := staunch.Decision{V: 1, ID: "dec_" + ref.Value, Subject: ref, Scope: ref, Made: staunch.Time(i + 1), Identity: declared[i]}
			if _, err := tx.PutDecision(d); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, tt := range []struct {
		who       string
		app, bill bool
	}{
		{"responder", true, true}, {"pg", true, false}, {"team-b", false, true}, {"dev", false, true}, {"nobody", false, false},
	} {
		for _, c := range []struct {
			ref     staunch.Ref
			id, key string
			may     bool
		}{{appRW, app.ID, "app", tt.app}, {billing, bill.ID, "billing", tt.bill}} {
			status := func(a answer, ok int) {
				t.Helper()
				if want := map[bool]int{true: ok, false: 403}[c.may]; a.Code != want {
					t.Errorf("%s on %s: %d, want %d: %s", tt.who, c.key, a.Code, want, a.Body)
				}
			}
			status(r.do(tt.who, "GET", "/v1/containments/"+c.id, nil), 200)
			status(r.do(tt.who, "GET", "/v1/containments/"+c.id+"/evidence", nil), 200)
			status(r.do(tt.who, "GET", "/v1/decisions/dec_"+c.ref.Value, nil), 200)
			status(r.do(tt.who, "GET", "/v1/events/evt_"+c.ref.Value, nil), 200)
			status(r.do(tt.who, "GET", "/v1/identity?ref="+c.ref.String(), nil), 200)
			status(r.do(tt.who, "POST", "/v1/plan", ContainRequest{Subject: c.ref, Tier: 2, Reason: "x"}), 200)
			status(r.do(tt.who, "POST", "/v1/containments", ContainRequest{Subject: c.ref, Tier: 2, Reason: "x"}), 200) // held already
			status(r.do(tt.who, "POST", "/v1/containments/"+c.id+"/advance", nil), 409)                                 // no window
			status(r.do(tt.who, "POST", "/v1/containments/"+c.id+"/clear", ReleaseRequest{Reason: "x"}), 409)
			status(r.do(tt.who, "POST", "/v1/containments/"+c.id+"/extend", `{"by":"1h"}`), 409)
			// A listing leaves out what may not be seen.
			for _, path := range []string{"/v1/containments", "/v1/signals", "/v1/decisions", "/v1/holds", "/v1/identities"} {
				a := r.want(r.do(tt.who, "GET", path, nil), 200)
				if has := strings.Contains(a.Body.String(), c.ref.Value); has != c.may {
					t.Errorf("%s lists %s for %s: %v, want %v", path, c.key, tt.who, has, c.may)
				}
			}
		}
	}
	// The plan of a subject within scope reaches a target outside of it.
	r.want(r.do("pg", "POST", "/v1/plan", ContainRequest{Subject: appRW, Tier: 2, Reason: "x", Playbook: "wide"}), 403)
	r.want(r.do("team-b", "POST", "/v1/plan", ContainRequest{Subject: billing, Tier: 2, Reason: "x", Playbook: "wide"}), 200)
	// Nor is a case opened, or raised, whose scope takes that with it.
	wide := func(ref staunch.Ref) ContainRequest {
		return ContainRequest{Subject: ref, Tier: 3, Reason: "x", Playbook: "wide"}
	}
	other := staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/main", Scheme: "role", Value: "other"}
	if p := r.want(r.do("pg", "POST", "/v1/containments", wide(other)), 403).problem(); !strings.Contains(p.Message, "vault/main") {
		t.Errorf("%+v", p)
	}
	if a := r.want(r.do("admin", "GET", "/v1/containments", nil), 200); strings.Contains(a.Body.String(), other.Value) {
		t.Errorf("a case was opened: %s", a.Body)
	}
	r.want(r.do("responder", "POST", "/v1/containments", wide(other)), 201)
	r.want(r.do("pg", "POST", "/v1/containments", wide(other)), 403)
	// What lineage says of other realms is left out.
	var k Known
	r.want(r.do("pg", "GET", "/v1/identity?ref="+appRW.String(), nil), 200).into(&k)
	if len(k.Lineage.Children) != 1 || k.Lineage.Children[0].Ref.Realm != "pg/main" {
		t.Errorf("lineage for pg: %+v", k.Lineage)
	}
	// A refused release changes nothing.
	r.want(r.do("team-b", "POST", "/v1/containments/"+app.ID+"/release", ReleaseRequest{Reason: "x", Revive: true}), 403)
	var c Case
	r.want(r.do("admin", "GET", "/v1/containments/"+app.ID, nil), 200).into(&c)
	if c.Containment.Phase != staunch.PhaseOpen || c.Containment.Generation != app.Generation {
		t.Errorf("the case is %s", c.Containment.Phase)
	}
}

func TestScopedPagesAreFilled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		for i := range 250 {
			ref := appRW
			if i%25 != 0 {
				ref = billing
			}
			s := staunch.Signal{V: 1, ID: staunch.SignalID("r", ref, string(rune('a'+i%26))+string(rune('A'+i/26))), Accused: ref, Realm: ref.Realm, Time: staunch.Time(i + 1)}
			if _, err := tx.PutSignal(s); err != nil {
				return err
			}
		}
		return nil
	}))
	r.token(store.Token{Name: "pg", Role: "viewer", Realms: []string{"pg/main"}})
	for who, total := range map[string]int{"pg": 10, "viewer": 250} {
		got, pages, after := map[string]bool{}, 0, ""
		for {
			var s Signals
			r.want(r.do(who, "GET", "/v1/signals?limit=4&after="+after, nil), 200).into(&s)
			pages++
			for _, g := range s.Items {
				if got[g.ID] {
					t.Fatalf("%s is listed twice", g.ID)
				}
				got[g.ID] = true
			}
			if s.Next == "" {
				break
			}
			if len(s.Items) != 4 {
				t.Errorf("a page of %d items has a next one", len(s.Items))
			}
			after = s.Next
		}
		if len(got) != total || pages > total/4+1 {
			t.Errorf("%s saw %d signals on %d pages, want %d", who, len(got), pages, total)
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if p := r.want(r.do("admin", "GET", "/v1/nothing", nil), 404).problem(); p.Code != CodeNotFound {
		t.Errorf("%+v", p)
	}
	a := r.want(r.do("admin", "PUT", "/v1/containments", nil), 405)
	if p := a.problem(); p.Code != CodeMethod || !strings.Contains(a.Header().Get("Allow"), "POST") {
		t.Errorf("%+v, Allow %q", p, a.Header().Get("Allow"))
	}
	r.want(r.do("pep", "GET", "/access/v1/evaluation", nil), 405)
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for given, echoed := range map[string]bool{"abc-123": true, "": false, "two words": false, strings.Repeat("x", 129): false, "tab\t": false} {
		for _, path := range []string{"/v1/signals", "/access/v1/evaluation", "/nowhere"} {
			a := r.do("viewer", "GET", path, nil, func(q *http.Request) {
				if given != "" {
					q.Header.Set("X-Request-ID", given)
				}
			})
			if got := a.Header().Get("X-Request-ID"); got == "" || (got == given) != echoed {
				t.Errorf("%s with id %.20q: %q", path, given, got)
			}
		}
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	t.Parallel()
	routes := map[string]int{}
	r := newRig(t, func(o *Options) {
		o.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a bug with s3cret") })
		o.Observe = func(route string, status int, _ time.Duration) { routes[route] = status }
	})
	p := r.want(r.do("viewer", "GET", "/metrics", nil), 500).problem()
	if p.Code != CodeInternal || strings.Contains(p.Message, "s3cret") || !strings.Contains(r.logged(), p.RequestID) {
		t.Errorf("%+v\n%s", p, r.logged())
	}
	r.want(r.do("pep", "POST", "/access/v1/evaluation", `{}`), 400)
	if routes["GET /metrics"] != 500 || routes["POST /access/v1/evaluation"] != 400 {
		t.Errorf("observed %v", routes)
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil {
		t.Error("a server without a store was made")
	}
	r := newRig(t)
	opt := r.s.opt
	opt.URL = ""
	if _, err := New(opt); err == nil {
		t.Error("a server without a URL was made")
	}
	// A handler without a verb is refused when it is registered.
	defer func() {
		if recover() == nil {
			t.Error("a pattern without a route was registered")
		}
	}()
	r.s.HandleFunc("GET /open", func(http.ResponseWriter, *http.Request) {})
}

func TestMetricsOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.MetricsOpen = true })
	if a := r.want(r.do("", "GET", "/metrics", nil), 200); !strings.Contains(a.Body.String(), "staunch_up") {
		t.Errorf("metrics: %s", a.Body)
	}
	none := newRig(t, func(o *Options) { o.Metrics = nil })
	none.want(none.do("viewer", "GET", "/metrics", nil), 404)
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.oper.ready = staunch.ErrOverloaded
	if a := r.want(r.do("", "GET", "/readyz", nil), 503); a.Body.Len() != 0 {
		t.Errorf("readyz tells %q", a.Body)
	}
	r.want(r.do("", "GET", "/healthz", nil), 204)
}
