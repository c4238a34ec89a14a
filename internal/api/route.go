package api

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
)

// Route is one endpoint and what it needs.
type Route struct {
	Method string
	// Path is in net/http's pattern syntax.
	Path string
	// Verb is what a caller must be allowed; empty for the endpoints that answer
	// everyone and tell nothing.
	Verb auth.Verb
	// Limit is how long an answer may take.
	Limit time.Duration
	// Body is the most bytes of a request's body; 0 gives MaxBody.
	Body int64

	// unread: the handler bounds the body itself.
	unread bool
}

func (r Route) pattern() string { return r.Method + " " + r.Path }

// Routes returns every endpoint, in the order in which they were registered.
func (s *Server) Routes() []Route { return append([]Route(nil), s.routes...) }

// add notes a route before its handler is registered.
func (s *Server) add(r Route) *Route {
	if r.Limit == 0 {
		r.Limit = usualTimeout
	}
	if r.Body == 0 {
		r.Body = MaxBody
	}
	if s.byPath[r.pattern()] != nil {
		panic("api: " + r.pattern() + " is registered twice")
	}
	s.routes = append(s.routes, r)
	s.byPath[r.pattern()] = &r
	return &r
}

// handle registers a plain handler.
func (s *Server) handle(r Route, h http.HandlerFunc) {
	s.add(r)
	s.HandleFunc(r.pattern(), h)
}

// HandleFunc is how huma's adapter registers: behind the same door as plain
// handlers. A pattern that no Route was noted for is refused, so that nothing is
// served without a verb.
func (s *Server) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	r := s.byPath[pattern]
	if r == nil {
		panic("api: " + pattern + " says nothing of who may")
	}
	s.mux.HandleFunc(pattern, s.door(r, h))
}

// ServeHTTP completes what huma's adapter asks of a mux.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.serveHTTP(w, r) }

// operation registers a typed handler. Its errors are answered as Problems.
func operation[I, O any](s *Server, r Route, op huma.Operation, h func(ctx context.Context, p auth.Principal, in *I) (*O, error)) {
	r = *s.add(r)
	op.Method, op.Path = r.Method, r.Path
	op.MaxBodyBytes = r.Body
	// The server's own deadline counts, and works for every protocol.
	op.BodyReadTimeout = -1
	op.Security = bearer()
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
		http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable)
	op.Description = strings.TrimSpace(op.Description + "\n\n" + s.needs(r.Verb))
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		p, err := auth.PrincipalOf(ctx)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		out, err := h(ctx, p, in)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return out, nil
	})
}

// needs says who may, for the description.
func (s *Server) needs(v auth.Verb) string {
	if v == "" {
		return "Needs no token."
	}
	names := make([]string, 0, 4)
	for _, r := range s.rights[v].Roles {
		names = append(names, string(r))
	}
	return fmt.Sprintf("Needs the right to %s (%s).", v, strings.Join(names, ", "))
}

func bearer() []map[string][]string { return []map[string][]string{{"bearer": {}}} }

type requestKey struct{}

// request is what is known of one request.
type request struct {
	id    string
	route string
}

func requestID(ctx context.Context) string {
	r, _ := ctx.Value(requestKey{}).(*request)
	if r == nil {
		return ""
	}
	return r.id
}

func routeOf(ctx context.Context) string {
	r, _ := ctx.Value(requestKey{}).(*request)
	if r == nil {
		return ""
	}
	return r.route
}

const idHeader = "X-Request-Id" // canonical form

// idOf takes the caller's request id, or makes one.
func idOf(r *http.Request) string {
	if v := r.Header[idHeader]; len(v) == 1 && validID(v[0]) {
		return v[0]
	}
	// It only has to tell requests apart; nobody gains by guessing one.
	b := make([]byte, 0, 16)
	n := rand.Uint64()
	for range 16 {
		b = append(b, "0123456789abcdef"[n&15])
		n >>= 4
	}
	return string(b)
}

func validID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// serveHTTP is the way of every request.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	began := s.opt.Clock.Now()
	id := idOf(r)
	h := w.Header()
	values := [3]string{id, "no-store", "nosniff"} // one allocation for all
	h[idHeader] = values[0:1:1]
	h["Cache-Control"] = values[1:2:2]
	h["X-Content-Type-Options"] = values[2:3:3]

	// What enforcement points ask for every action goes past the router.
	if r.Method == http.MethodPost {
		switch r.URL.Path {
		case pathEvaluation:
			s.lean(w, r, id, began, s.opt.Guard.Evaluation)
			return
		case pathEvaluations:
			s.lean(w, r, id, began, s.opt.Guard.Evaluations)
			return
		}
	}

	_, pattern := s.mux.Handler(r)
	req := &request{id: id, route: pattern}
	r = r.WithContext(context.WithValue(r.Context(), requestKey{}, req))
	sw := &statusWriter{ResponseWriter: w}
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this
				panic(v)
			}
			s.opt.Log.Error("a request's handler panicked", "request", id, "route", pattern, "panic", v, "stack", string(debug.Stack()))
			if sw.status == 0 {
				p := newProblem(http.StatusInternalServerError, CodeInternal, "something failed inside")
				p.RequestID = id
				writeProblem(sw, p)
			}
		}
		if s.opt.Observe != nil {
			s.opt.Observe(pattern, sw.status, s.opt.Clock.Now().Sub(began))
		}
	}()
	if pattern == "" {
		s.unknown(sw, r)
		return
	}
	s.mux.ServeHTTP(sw, r)
}

// unknown answers what no route is for.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	probe := &discard{header: http.Header{}}
	s.mux.ServeHTTP(probe, r)
	var p *Problem
	if allow := probe.header.Get("Allow"); probe.status == http.StatusMethodNotAllowed {
		p = newProblem(http.StatusMethodNotAllowed, CodeMethod, fmt.Sprintf("%.20s is not what this path answers", r.Method)).
			header("Allow", allow).hint("it answers " + allow)
	} else {
		p = newProblem(http.StatusNotFound, CodeNotFound, "there is no such path").hint("the paths are in /openapi.yaml")
	}
	p.RequestID = requestID(r.Context())
	writeProblem(w, p)
}

// discard keeps the status and headers of an answer.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

// statusWriter notes the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes and writes the status.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes, which begins with 200 where no status was written.
func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// door lets a request through to its handler: authentication, the role, bounds
// on body and time.
func (s *Server) door(rt *Route, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if rt.Verb != "" {
			p, err := s.opt.Auth.Request(r)
			if err == nil {
				ctx = auth.WithPrincipal(ctx, p)
				err = s.mayBegin(p, rt.Verb)
			}
			if err != nil {
				writeProblem(w, s.fail(ctx, err))
				return
			}
		}
		ctx, cancel := context.WithTimeout(ctx, rt.Limit)
		defer cancel()
		// Not every writer has deadlines (a test's has none); the server's own
		// stand then.
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(rt.Limit + bodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			s.opt.Log.Debug("moving a request's deadline", "error", err)
		}
		if !rt.unread {
			r.Body = http.MaxBytesReader(w, r.Body, rt.Body+1)
		}
		h(w, r.WithContext(ctx))
	}
}

// mayBegin refuses a role that may not do this to anything at all. What the
// token's scope allows is asked where the object is known.
func (s *Server) mayBegin(p auth.Principal, v auth.Verb) error {
	if !s.rights[v].Whole {
		p.Realms, p.Owners, p.Environments = nil, nil, nil
	}
	return auth.Authorize(p, v, auth.Object{Source: p.Source})
}

// roleMay is mayBegin's first question, without a copy of the table.
func (s *Server) roleMay(role auth.Role, v auth.Verb) bool {
	for _, r := range s.rights[v].Roles {
		if r == role {
			return true
		}
	}
	return false
}

// place makes err a problem of the field.
func place(field, format string, args ...any) error {
	return &staunch.Problem{Place: field, Reason: fmt.Sprintf(format, args...)}
}
