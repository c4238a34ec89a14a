package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/store"
)

// TestAuthZEN follows the requests and answers of the OpenID AuthZEN
// Authorization API 1.0 (evaluation: section 6, evaluations: section 7, the
// transport: section 10).
func TestAuthZEN(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stolen := staunch.Ref{Kind: staunch.KindCredential, Realm: "oauth/main", Scheme: "token", Value: staunch.Digest([]byte("stolen"))}
	r.contain(stolen)
	one := func(token, action string) string {
		return `{"subject":{"type":"token","id":"` + token + `"},"resource":{"type":"account","id":"123"},"action":{"name":"` + action + `","properties":{"method":"GET"}},"context":{"time":"1985-10-26T01:22-07:00"}}`
	}
	for _, tt := range []struct {
		name, path, body string
		status           int
		want             string // a part of the answer
	}{
		{"no hold", pathEvaluation, one("fine", "can_read"), 200, `{"decision":true,"context":{"reason":"no_hold"}}`},
		{"held", pathEvaluation, one("stolen", "can_read"), 200, `{"decision":false,"context":{"reason":"hold"`},
		{"no mapping for the subject's type", pathEvaluation, strings.Replace(one("x", "a"), `"type":"token"`, `"type":"user"`, 1), 200, `{"decision":false,"context":{"reason":"subject_unresolved"}}`},
		{"unknown members are ignored", pathEvaluation, `{"extra":1,` + one("fine", "a")[1:], 200, `"decision":true`},
		{"subject missing", pathEvaluation, `{"action":{"name":"a"},"resource":{"type":"r","id":"1"}}`, 400, `"place":"subject"`},
		{"action missing", pathEvaluation, `{"subject":{"type":"token","id":"x"},"resource":{"type":"r","id":"1"}}`, 400, `"place":"action"`},
		{"resource missing", pathEvaluation, `{"subject":{"type":"token","id":"x"},"action":{"name":"a"}}`, 400, `"place":"resource"`},
		{"id missing", pathEvaluation, `{"subject":{"type":"token"},"action":{"name":"a"},"resource":{"type":"r","id":"1"}}`, 400, `"place":"subject.id"`},
		{"wrong type", pathEvaluation, `{"subject":"x","action":{"name":"a"},"resource":{"type":"r","id":"1"}}`, 400, `"place":"subject"`},
		{"not JSON", pathEvaluation, `subject=x`, 400, `"place":"body"`},
		{"nothing", pathEvaluation, ``, 400, `"place":"body"`},
		{"more after it", pathEvaluation, one("a", "b") + `{}`, 400, `"place":"body"`},
		{"too large", pathEvaluation, `{"context":{"x":"` + strings.Repeat("x", guard.MaxRequest) + `"}}`, 400, `larger than`},

		{"defaults", pathEvaluations, `{"subject":{"type":"token","id":"stolen"},"action":{"name":"can_read"},"evaluations":[{"resource":{"type":"d","id":"1"}},{"resource":{"type":"d","id":"2"},"subject":{"type":"token","id":"fine"}}]}`, 200, `{"evaluations":[{"decision":false,`},
		{"no evaluations is one evaluation", pathEvaluations, one("fine", "a"), 200, `{"decision":true`},
		{"deny on first deny", pathEvaluations, `{"options":{"evaluations_semantic":"deny_on_first_deny"},"action":{"name":"a"},"resource":{"type":"d","id":"1"},"evaluations":[{"subject":{"type":"token","id":"stolen"}},{"subject":{"type":"token","id":"fine"}}]}`, 200, `"claims"`},
		{"a bad semantic", pathEvaluations, `{"options":{"evaluations_semantic":"maybe"},"evaluations":[{}]}`, 400, `evaluations_semantic`},
		{"one of them bad", pathEvaluations, `{"action":{"name":"a"},"subject":{"type":"token","id":"x"},"evaluations":[{"resource":{"type":"d","id":"1"}},{}]}`, 200, `{"decision":false,"context":{"reason":"invalid_request"`},
	} {
		a := r.do("pep", "POST", tt.path, tt.body, func(q *http.Request) { q.Header.Set("X-Request-ID", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716") })
		if a.Code != tt.status {
			t.Errorf("%s: %d, want %d: %s", tt.name, a.Code, tt.status, a.Body)
			continue
		}
		if id := a.Header().Get("X-Request-ID"); id != "bfe9eb29-ab87-4ca3-be83-a1d5d8305716" {
			t.Errorf("%s: X-Request-ID %q", tt.name, id)
		}
		if tt.name == "deny on first deny" {
			var e guard.EvaluationsResponse
			a.into(&e)
			if len(e.Evaluations) != 1 || e.Evaluations[0].Decision {
				t.Errorf("%s: %s", tt.name, a.Body)
			}
			continue
		}
		if !strings.Contains(a.Body.String(), tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, a.Body, tt.want)
		}
		want := "application/json"
		if tt.status != 200 {
			want = "application/problem+json"
		}
		if ct := a.Header().Get("Content-Type"); ct != want {
			t.Errorf("%s: Content-Type %q", tt.name, ct)
		}
	}
	for ct, status := range map[string]int{"application/json; charset=utf-8": 200, "text/plain": 400, "": 400} {
		r.want(r.do("pep", "POST", pathEvaluation, one("fine", "a"), func(q *http.Request) { q.Header.Set("Content-Type", ct) }), status)
	}
	r.token(store.Token{Name: "part-pep", Role: "pep", Realms: []string{"oauth/main"}})
	r.want(r.do("part-pep", "POST", pathEvaluation, one("fine", "a")), 403).problem()
	// A HEAD or a path that only looks alike is not answered by the lean way.
	r.want(r.do("pep", "POST", pathEvaluation+"/", one("fine", "a")), 404)

	var d Discovery
	r.want(r.do("pep", "GET", pathDiscovery, nil), 200).into(&d)
	if d.PolicyDecisionPoint != "https://staunch.example" || d.AccessEvaluation != "https://staunch.example/access/v1/evaluation" || d.AccessEvaluations != "https://staunch.example/access/v1/evaluations" {
		t.Errorf("%+v", d)
	}
}

// nobody keeps no answer, so that what is measured is the handler.
type nobody struct{ h http.Header }

func (n nobody) Header() http.Header         { return n.h }
func (n nobody) Write(b []byte) (int, error) { return len(b), nil }
func (n nobody) WriteHeader(int)             {}

// BenchmarkEvaluation compares a whole evaluation with the floor: a handler
// that authenticates, decodes the same body into the same type and answers.
func BenchmarkEvaluation(b *testing.B) {
	r := newRig(b)
	for i := range 1000 {
		h := staunch.Hold{V: 1, ID: staunch.HoldID(staunch.PlaneGuard, staunch.Target{Ref: appRW}, string(rune(i))), Seq: int64(i + 1), Plane: staunch.PlaneGuard, State: staunch.HoldInForce, Deny: []string{"*"},
			Target: staunch.Target{Ref: staunch.Ref{Kind: staunch.KindCredential, Realm: "oauth/main", Scheme: "token", Value: staunch.Digest([]byte{byte(i), byte(i >> 8)})}}}
		r.guard.Apply(h)
	}
	body := `{"subject":{"type":"token","id":"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzdmMifQ.c2ln"},"resource":{"type":"account","id":"123"},"action":{"name":"can_read","properties":{"method":"GET"}},"context":{"ip":"203.0.113.7"}}`
	floor := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		p, err := r.auth.Request(q)
		if err != nil || p.Role != auth.RolePEP {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		type entity struct {
			Type, ID, Name string
			Properties     map[string]any
		}
		var req struct {
			Subject, Action, Resource *entity
			Context                   map[string]any
		}
		if err := json.NewDecoder(io.LimitReader(q.Body, 1<<20)).Decode(&req); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(guard.EvaluationResponse{Decision: true, Context: &guard.ResponseContext{Reason: guard.ReasonNoHold}})
	})
	for name, h := range map[string]http.Handler{"floor": floor, "staunch": r.s.Handler()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req := httptest.NewRequest("POST", pathEvaluation, strings.NewReader(body))
				req.Header.Set("Authorization", "Bearer "+r.tokens["pep"])
				req.Header.Set("Content-Type", "application/json")
				h.ServeHTTP(nobody{http.Header{}}, req)
			}
		})
		b.Run("http/"+name, func(b *testing.B) {
			srv := httptest.NewServer(h)
			defer srv.Close()
			for b.Loop() {
				req, err := http.NewRequest("POST", srv.URL+pathEvaluation, strings.NewReader(body))
				must(b, err)
				req.Header.Set("Authorization", "Bearer "+r.tokens["pep"])
				req.Header.Set("Content-Type", "application/json")
				resp, err := srv.Client().Do(req)
				must(b, err)
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
					b.Fatal(resp.Status, err)
				}
				_ = resp.Body.Close()
			}
		})
	}
}
