package api

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
)

// AuthZEN's endpoints.
const (
	pathEvaluation  = "/access/v1/evaluation"
	pathEvaluations = "/access/v1/evaluations"
	pathDiscovery   = "/.well-known/authzen-configuration"
)

func (s *Server) registerAuthZEN() error {
	// Their requests go past the router (serveHTTP); the routes stand here for
	// other methods, the table and the description.
	for path, h := range map[string]func(io.Reader) (any, error){
		pathEvaluation:  func(b io.Reader) (any, error) { return s.opt.Guard.Evaluation(b) },
		pathEvaluations: func(b io.Reader) (any, error) { return s.opt.Guard.Evaluations(b) },
	} {
		rt := s.add(Route{Method: "POST", Path: path, Verb: auth.Evaluate, Limit: leanTimeout, unread: true})
		s.mux.HandleFunc(rt.pattern(), func(w http.ResponseWriter, r *http.Request) {
			s.lean(w, r, requestID(r.Context()), s.opt.Clock.Now(), h)
		})
	}
	s.handle(Route{Method: "GET", Path: pathDiscovery, Verb: auth.Evaluate}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.discovery) // whoever asked may be gone
	})
	base := strings.TrimSuffix(s.opt.URL, "/")
	doc, err := json.Marshal(Discovery{
		PolicyDecisionPoint: base, AccessEvaluation: base + pathEvaluation, AccessEvaluations: base + pathEvaluations,
	})
	if err != nil {
		return fmt.Errorf("making AuthZEN's discovery document: %w", err)
	}
	s.discovery = doc
	return nil
}

// Discovery is AuthZEN's discovery document.
type Discovery struct {
	PolicyDecisionPoint string `json:"policy_decision_point"`
	AccessEvaluation    string `json:"access_evaluation_endpoint"`
	AccessEvaluations   string `json:"access_evaluations_endpoint"`
}

// lean answers an AuthZEN request with as little as possible beside reading it,
// authenticating, and asking the guard: no router, no context values.
func (s *Server) lean(w http.ResponseWriter, r *http.Request, id string, began time.Time, ask func(io.Reader) (any, error)) {
	status := http.StatusOK
	defer func() {
		if s.opt.Observe != nil {
			s.opt.Observe("POST "+r.URL.Path, status, s.opt.Clock.Now().Sub(began))
		}
	}()
	refuse := func(err error) {
		p := *s.fail(r.Context(), err)
		p.RequestID = id
		status = p.Status
		writeProblem(w, &p)
	}
	p, err := s.opt.Auth.Request(r)
	if err != nil {
		refuse(err)
		return
	}
	if p.Scoped() || !s.roleMay(p.Role, auth.Evaluate) {
		// What is not the plain case is for the one function that knows.
		if err := auth.Authorize(p, auth.Evaluate, auth.Object{}); err != nil {
			refuse(err)
			return
		}
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" {
			refuse(&staunch.Problem{Place: "Content-Type", Reason: fmt.Sprintf("%.100q is not application/json", ct)})
			return
		}
	}
	answer, err := ask(r.Body)
	if err != nil {
		refuse(err)
		return
	}
	b, err := json.Marshal(answer)
	if err != nil {
		refuse(fmt.Errorf("encoding an AuthZEN answer: %w", err))
		return
	}
	h := w.Header()
	values := [2]string{"application/json", strconv.Itoa(len(b))}
	h["Content-Type"] = values[0:1:1]
	h["Content-Length"] = values[1:2:2]
	_, _ = w.Write(b) // whoever asked may be gone
}
