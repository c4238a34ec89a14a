package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// Problem is how every error is answered: RFC 9457 problem details with what
// programs branch on and what people do next.
type Problem struct {
	V int `json:"v"`
	// Title is the status in words; Detail is Message, under the RFC's name.
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Code is one of the codes below, for programs.
	Code string `json:"code" enum:"invalid,unauthenticated,forbidden,not_found,method_not_allowed,conflict,revives,too_large,overloaded,timeout,commit_unknown,unavailable,platform_denied,platform_unavailable,internal"`
	// Message says what is wrong, in lower case without a full stop.
	Message string `json:"message"`
	// Place is where in the input it is: a field, a file and line, a record.
	Place string `json:"place,omitempty"`
	// Hint says what to do next.
	Hint string `json:"hint,omitempty"`
	// RequestID finds the request in the server's log.
	RequestID string `json:"request_id,omitempty"`
	// Problems lists the places, where there are several.
	Problems []Fault `json:"problems,omitempty"`
	// Revives lists what a release would bring back to life (code "revives").
	Revives []string `json:"revives,omitempty"`
	// Report says what of a body of records was kept all the same.
	Report *IngestReport `json:"report,omitempty"`

	headers http.Header
}

// Fault is one of several problems in an input.
type Fault struct {
	Place   string `json:"place,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// The codes.
const (
	CodeInvalid             = "invalid"
	CodeUnauthenticated     = "unauthenticated"
	CodeForbidden           = "forbidden"
	CodeNotFound            = "not_found"
	CodeMethod              = "method_not_allowed"
	CodeConflict            = "conflict"
	CodeRevives             = "revives"
	CodeTooLarge            = "too_large"
	CodeOverloaded          = "overloaded"
	CodeTimeout             = "timeout"
	CodeCommitUnknown       = "commit_unknown"
	CodeUnavailable         = "unavailable"
	CodePlatformDenied      = "platform_denied"
	CodePlatformUnavailable = "platform_unavailable"
	CodeInternal            = "internal"
)

// maxFaults bounds the places that one answer lists.
const maxFaults = 100

var (
	_ huma.StatusError       = (*Problem)(nil)
	_ huma.HeadersError      = (*Problem)(nil)
	_ huma.ContentTypeFilter = (*Problem)(nil)
)

// Error returns "place: message".
func (p *Problem) Error() string {
	if p.Place == "" {
		return p.Message
	}
	return p.Place + ": " + p.Message
}

// GetStatus returns the status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders returns the headers that go with it.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// ContentType returns the media type of problem details.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func newProblem(status int, code, message string) *Problem {
	return &Problem{V: staunch.Version, Title: http.StatusText(status), Status: status, Detail: message, Code: code, Message: message}
}

func (p *Problem) header(name, value string) *Problem {
	if p.headers == nil {
		p.headers = http.Header{}
	}
	p.headers.Set(name, value)
	return p
}

func (p *Problem) hint(s string) *Problem {
	if p.Hint == "" {
		p.Hint = s
	}
	return p
}

// problemOf says how err is answered. What it does not know is a failure of
// ours, of which the answer tells nothing.
func problemOf(err error) *Problem {
	var p *Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, staunch.ErrUnauthenticated):
		return newProblem(http.StatusUnauthorized, CodeUnauthenticated, message(err)).
			header("WWW-Authenticate", `Bearer realm="staunch"`).
			hint("send a token as: Authorization: Bearer TOKEN")
	case errors.Is(err, staunch.ErrForbidden):
		return newProblem(http.StatusForbidden, CodeForbidden, message(err))
	case errors.As(err, &tooLarge):
		return newProblem(http.StatusRequestEntityTooLarge, CodeTooLarge, fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit))
	case errors.Is(err, ErrTooLarge):
		return newProblem(http.StatusRequestEntityTooLarge, CodeTooLarge, message(err))
	case errors.Is(err, staunch.ErrOverloaded):
		return newProblem(http.StatusTooManyRequests, CodeOverloaded, message(err)).header("Retry-After", "1").hint("try again after a second")
	case errors.Is(err, store.ErrBundle):
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, message(err)).header("Retry-After", "2").
			hint("this node does not decide: ask another node, give this one the same files, or reload here to activate its own")
	case errors.Is(err, staunch.ErrCommitUnknown):
		return newProblem(http.StatusServiceUnavailable, CodeCommitUnknown, "whether this was committed is not known").
			header("Retry-After", "1").hint("send it again: it takes effect once at most")
	case errors.Is(err, staunch.ErrNotFound):
		return newProblem(http.StatusNotFound, CodeNotFound, message(err))
	case errors.Is(err, staunch.ErrConflict):
		return newProblem(http.StatusConflict, CodeConflict, message(err))
	case errors.Is(err, staunch.ErrInvalid):
		return invalid(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newProblem(http.StatusRequestTimeout, CodeTimeout, "the request did not come to its end in time")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return newProblem(http.StatusServiceUnavailable, CodeTimeout, "this took too long and was given up").header("Retry-After", "1")
	}
	if errors.Is(err, store.ErrFailed) {
		return newProblem(http.StatusServiceUnavailable, CodeUnavailable, "the store failed").
			header("Retry-After", "2").hint("nothing was changed; the server's log has the cause under this request id")
	}
	switch staunch.ClassOf(err) {
	case staunch.ClassDenied:
		return newProblem(http.StatusBadGateway, CodePlatformDenied, "a platform refused our credential").
			hint("run staunch doctor; the server's log has the cause")
	case staunch.ClassTransient, staunch.ClassUnknown:
		return newProblem(http.StatusBadGateway, CodePlatformUnavailable, "a platform did not answer").
			header("Retry-After", "5").hint("run staunch doctor; the server's log has the cause")
	}
	return newProblem(http.StatusInternalServerError, CodeInternal, "something failed inside").
		hint("the server's log has the cause under this request id")
}

// message is err's text, cut to a length that fits an answer.
func message(err error) string {
	const most = 2000
	s := strings.ToValidUTF8(err.Error(), "�")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// invalid answers bad input with every place that err names.
func invalid(err error) *Problem {
	var faults []Fault
	collect(err, &faults)
	switch len(faults) {
	case 0:
		return newProblem(http.StatusBadRequest, CodeInvalid, message(err))
	case 1:
		p := newProblem(http.StatusBadRequest, CodeInvalid, faults[0].Message).hint(faults[0].Hint)
		p.Place = faults[0].Place
		return p
	}
	p := newProblem(http.StatusBadRequest, CodeInvalid, fmt.Sprintf("%d problems; the first is %s: %s", len(faults), faults[0].Place, faults[0].Message))
	p.Problems = faults[:min(len(faults), maxFaults)]
	return p
}

// collect finds the problems in err's tree, in order.
func collect(err error, to *[]Fault) {
	var sp *staunch.Problem
	switch e := err.(type) { //nolint:errorlint // the tree is walked here, level by level
	case nil:
	case *staunch.Problem:
		*to = append(*to, Fault{Place: e.Place, Message: e.Reason, Hint: e.Hint})
	case interface{ Unwrap() []error }:
		for _, sub := range e.Unwrap() {
			collect(sub, to)
		}
	default:
		if sub := errors.Unwrap(err); sub != nil && errors.As(sub, &sp) {
			collect(sub, to)
		}
	}
}

// fail makes the answer to err, and logs what the answer does not tell.
func (s *Server) fail(ctx context.Context, err error) *Problem {
	p := problemOf(err)
	id := requestID(ctx)
	if p.RequestID == "" && id != "" {
		c := *p
		c.RequestID = id
		p = &c
	}
	level := slog.LevelDebug
	switch {
	case p.Status >= 500 && !errors.Is(err, context.Canceled):
		level = slog.LevelError
	case p.Status == http.StatusForbidden, p.Status == http.StatusUnauthorized:
		level = slog.LevelInfo
	}
	if s.opt.Log.Enabled(ctx, level) {
		who := ""
		if pr, perr := auth.PrincipalOf(ctx); perr == nil {
			who = pr.Name
		}
		s.opt.Log.Log(ctx, level, "request refused", "status", p.Status, "code", p.Code, "error", err,
			"request", id, "route", routeOf(ctx), "principal", who)
	}
	return p
}

// writeProblem answers with p.
func writeProblem(w http.ResponseWriter, p *Problem) {
	b, err := json.Marshal(p)
	if err != nil { // strings and numbers alone
		panic(err)
	}
	h := w.Header()
	for k, v := range p.headers {
		h[k] = v
	}
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n')) // whoever asked may be gone
}

// rewrite turns the errors that huma finds itself into Problems. The values
// that it found wanting are left out: they may be secrets.
func rewrite(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	status, code := m.Status, CodeInvalid
	switch status {
	case http.StatusRequestEntityTooLarge:
		code = CodeTooLarge
	case http.StatusRequestTimeout:
		code = CodeTimeout
	default:
		status = badRequest(status)
	}
	p := newProblem(status, code, m.Detail)
	p.RequestID = requestID(ctx.Context())
	var faults []Fault
	for _, e := range m.Errors {
		if e != nil {
			faults = append(faults, Fault{Place: strings.TrimPrefix(e.Location, "body."), Message: e.Message})
		}
	}
	switch len(faults) {
	case 0:
	case 1:
		p.Place, p.Message = faults[0].Place, faults[0].Message
	default:
		p.Message = fmt.Sprintf("%d problems; the first is %s: %s", len(faults), faults[0].Place, faults[0].Message)
		p.Problems = faults[:min(len(faults), maxFaults)]
	}
	p.Detail = p.Message
	return p, nil
}

// badRequest makes one status of all that says that the input is bad; bodies
// that cannot be read are the sender's doing as well.
func badRequest(status int) int {
	switch status {
	case http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType, http.StatusInternalServerError:
		return http.StatusBadRequest
	}
	return status
}

// oneStatus has huma's own answers carry the status that rewrite gives them.
func oneStatus(ctx huma.Context, next func(huma.Context)) { next(statusContext{ctx}) }

type (
	// inner has another name than the method that it has.
	inner         huma.Context
	statusContext struct{ inner }
)

// Unwrap gives adapters their own context back.
func (c statusContext) Unwrap() huma.Context { return c.inner }

// SetStatus writes the status.
func (c statusContext) SetStatus(status int) {
	switch status {
	case http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		status = badRequest(status)
	}
	c.inner.SetStatus(status)
}
