package guard

import (
	"bytes"
	"fmt"
	"io"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Requests are read strictly: valid UTF-8, no name twice in an object, bounded
// in depth and number of values. An enforcement point and the guard must not
// read one request in two ways. Members that are not known are ignored, as the
// specification asks; null is as absent.

// EvaluationResponse is the answer to one evaluation.
type EvaluationResponse struct {
	Decision bool             `json:"decision"`
	Context  *ResponseContext `json:"context,omitempty"`
}

// ResponseContext says why.
type ResponseContext struct {
	Reason Reason `json:"reason"`
	// Hold, Message and Containments are given for the reason "hold".
	Hold         string   `json:"hold,omitempty"`
	Message      string   `json:"message,omitempty"`
	Containments []string `json:"containments,omitempty"`
	// Error is given for the reason "invalid_request": what is wrong with this
	// one of several evaluations.
	Error *ResponseError `json:"error,omitempty"`
}

// ResponseError is an error in one of several evaluations.
type ResponseError struct {
	// Status is what HTTP would answer to the evaluation alone.
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// EvaluationsResponse is the answer to several, in their order; shorter than
// the request where the semantic stops early.
type EvaluationsResponse struct {
	Evaluations []EvaluationResponse `json:"evaluations"`
}

// Bounds of requests.
const (
	// MaxRequest is the largest body in bytes.
	MaxRequest = 1 << 20
	// MaxEvaluations is the most evaluations in one request.
	MaxEvaluations = 1000

	maxDepth  = 32
	maxValues = 1 << 16
)

// Semantics of several evaluations.
const (
	semanticAll    = "execute_all"
	semanticDeny   = "deny_on_first_deny"
	semanticPermit = "permit_on_first_permit"
)

// scratch is the memory of one request.
type scratch struct {
	body bytes.Buffer
	doc  *jsondoc.Doc
}

// keepBody is how large a body's memory may be to be kept for the next request.
const keepBody = 64 << 10

func (g *Guard) take() *scratch {
	if s, ok := g.scratch.Get().(*scratch); ok {
		return s
	}
	return &scratch{doc: jsondoc.New(jsondoc.Limits{Bytes: MaxRequest, Depth: maxDepth, Nodes: maxValues})}
}

func (g *Guard) give(s *scratch) {
	if s.body.Cap() <= keepBody {
		g.scratch.Put(s)
	}
}

// decode returns the request's object, valid until s is given back.
func (s *scratch) decode(r io.Reader) (jsondoc.Value, error) {
	s.body.Reset()
	if _, err := s.body.ReadFrom(io.LimitReader(r, MaxRequest+1)); err != nil {
		return jsondoc.Value{}, fmt.Errorf("reading the request: %w", err)
	}
	if s.body.Len() > MaxRequest {
		return jsondoc.Value{}, &staunch.Problem{Place: "body", Reason: fmt.Sprintf("is larger than %d bytes", MaxRequest)}
	}
	if err := s.doc.Parse(s.body.Bytes()); err != nil {
		return jsondoc.Value{}, &staunch.Problem{Place: "body", Reason: err.Error()}
	}
	v := s.doc.Root()
	if v.Kind() != jsondoc.Object {
		return v, &staunch.Problem{Place: "body", Reason: "is of type " + v.Kind().String() + ", not object"}
	}
	return v, nil
}

// given reports whether a value is there and is not null.
func given(v jsondoc.Value) bool { return v.Exists() && v.Kind() != jsondoc.Null }

// member returns the object called name, the absent value where there is none.
func member(v jsondoc.Value, name, place string) (jsondoc.Value, *staunch.Problem) {
	m := v.Get(name)
	if !given(m) {
		return jsondoc.Value{}, nil
	}
	if m.Kind() != jsondoc.Object {
		return jsondoc.Value{}, &staunch.Problem{Place: place + name, Reason: "is of type " + m.Kind().String() + ", not object"}
	}
	return m, nil
}

// tuple is what an evaluation is about.
type tuple struct{ subject, action, resource jsondoc.Value }

// tupleOf finds the entities of an evaluation.
func tupleOf(v jsondoc.Value, place string) (t tuple, p *staunch.Problem) {
	if t.subject, p = member(v, "subject", place); p != nil {
		return t, p
	}
	if t.action, p = member(v, "action", place); p != nil {
		return t, p
	}
	if t.resource, p = member(v, "resource", place); p != nil {
		return t, p
	}
	_, p = member(v, "context", place)
	return t, p
}

// text returns a required text: the entity's own, else that of the defaults.
func text(own, defaults jsondoc.Value, place, entity, name string) (string, *staunch.Problem) {
	v := own.Get(name)
	if !given(v) {
		v = defaults.Get(name)
	}
	bad := func(reason string) (string, *staunch.Problem) {
		return "", &staunch.Problem{Place: place + entity + "." + name, Reason: reason}
	}
	switch {
	case !given(v):
		return bad("is missing")
	case v.Kind() != jsondoc.String:
		return bad("is of type " + v.Kind().String() + ", not string")
	case v.Len() == 0:
		return bad("is empty")
	}
	return v.String(), nil
}

// answer evaluates what own says, with the defaults for what it leaves out: an
// entity as a whole, and of an entity that it has the required type, id and
// name alone. The problem names place.
func (g *Guard) answer(own, defaults tuple, place string) (EvaluationResponse, *staunch.Problem) {
	pick := func(o, d jsondoc.Value) jsondoc.Value {
		if o.Exists() {
			return o
		}
		return d
	}
	t := tuple{pick(own.subject, defaults.subject), pick(own.action, defaults.action), pick(own.resource, defaults.resource)}
	for _, e := range [...]struct {
		v    jsondoc.Value
		name string
	}{{t.subject, "subject"}, {t.action, "action"}, {t.resource, "resource"}} {
		if !e.v.Exists() {
			return EvaluationResponse{}, &staunch.Problem{Place: place + e.name, Reason: "is missing"}
		}
		if _, p := member(e.v, "properties", place+e.name+"."); p != nil {
			return EvaluationResponse{}, p
		}
	}
	var s Subject
	var p *staunch.Problem
	if s.Type, p = text(t.subject, defaults.subject, place, "subject", "type"); p != nil {
		return EvaluationResponse{}, p
	}
	if s.ID, p = text(t.subject, defaults.subject, place, "subject", "id"); p != nil {
		return EvaluationResponse{}, p
	}
	action, p := text(t.action, defaults.action, place, "action", "name")
	if p != nil {
		return EvaluationResponse{}, p
	}
	// The holds are on subjects: the resource only has to be one.
	for _, name := range [...]string{"type", "id"} {
		if _, p := text(t.resource, defaults.resource, place, "resource", name); p != nil {
			return EvaluationResponse{}, p
		}
	}
	properties := t.subject.Get("properties")
	s.Property = func(name string) string {
		if v := properties.Get(name); v.Kind() == jsondoc.String {
			return v.String()
		}
		return ""
	}
	refs := g.Resolve(s)
	if len(refs) == 0 {
		return EvaluationResponse{Context: &ResponseContext{Reason: ReasonUnresolved}}, nil
	}
	a := g.MayAct(refs, action)
	return EvaluationResponse{Decision: a.Allowed, Context: &ResponseContext{
		Reason: a.Reason, Hold: a.Hold, Message: a.Message, Containments: a.Cases,
	}}, nil
}

// single answers a request that is one evaluation.
func (g *Guard) single(req jsondoc.Value) (EvaluationResponse, error) {
	t, p := tupleOf(req, "")
	if p != nil {
		return EvaluationResponse{}, p
	}
	out, p := g.answer(t, tuple{}, "")
	if p != nil {
		return EvaluationResponse{}, p
	}
	return out, nil
}

// Evaluation answers the body of POST /access/v1/evaluation. A request that is
// not one gives a *staunch.Problem, which is answered with status 400.
func (g *Guard) Evaluation(body io.Reader) (EvaluationResponse, error) {
	s := g.take()
	defer g.give(s)
	req, err := s.decode(body)
	if err != nil {
		return EvaluationResponse{}, err
	}
	return g.single(req)
}

// Evaluations answers the body of POST /access/v1/evaluations: an
// EvaluationsResponse, or an EvaluationResponse where the request has no
// evaluations or an empty list of them. What stands at the top are defaults for
// each evaluation. A *staunch.Problem is about the request as a whole; what is
// wrong with one evaluation is its answer: false, with an error in the context.
func (g *Guard) Evaluations(body io.Reader) (any, error) {
	s := g.take()
	defer g.give(s)
	req, err := s.decode(body)
	if err != nil {
		return nil, err
	}
	list := req.Get("evaluations")
	if given(list) && list.Kind() != jsondoc.Array {
		return nil, &staunch.Problem{Place: "evaluations", Reason: "is of type " + list.Kind().String() + ", not array"}
	}
	if !given(list) || list.Len() == 0 {
		return g.single(req)
	}
	if n := list.Len(); n > MaxEvaluations {
		return nil, &staunch.Problem{Place: "evaluations", Reason: fmt.Sprintf("has %d entries, at most %d", n, MaxEvaluations)}
	}
	semantic, err := semanticOf(req)
	if err != nil {
		return nil, err
	}
	defaults, p := tupleOf(req, "")
	if p != nil {
		return nil, p
	}
	out := EvaluationsResponse{Evaluations: make([]EvaluationResponse, 0, list.Len())}
	list.Items(func(v jsondoc.Value) bool {
		a, err := g.one(v, defaults, len(out.Evaluations))
		if err != nil {
			a = EvaluationResponse{Context: &ResponseContext{
				Reason: ReasonInvalid, Error: &ResponseError{Status: 400, Message: err.Error()},
			}}
		}
		out.Evaluations = append(out.Evaluations, a)
		switch semantic {
		case semanticDeny:
			return a.Decision
		case semanticPermit:
			return !a.Decision
		default:
			return true
		}
	})
	return out, nil
}

// one answers one of several evaluations.
func (g *Guard) one(v jsondoc.Value, defaults tuple, n int) (EvaluationResponse, error) {
	place := fmt.Sprintf("evaluations[%d]", n)
	if given(v) && v.Kind() != jsondoc.Object {
		return EvaluationResponse{}, &staunch.Problem{Place: place, Reason: "is of type " + v.Kind().String() + ", not object"}
	}
	own, p := tupleOf(v, place+".")
	if p != nil {
		return EvaluationResponse{}, p
	}
	a, p := g.answer(own, defaults, place+".")
	if p != nil {
		return EvaluationResponse{}, p
	}
	return a, nil
}

const notASemantic = "is not execute_all, deny_on_first_deny or permit_on_first_permit"

// semanticOf returns how several evaluations are to be gone through.
func semanticOf(req jsondoc.Value) (string, error) {
	options, p := member(req, "options", "")
	if p != nil {
		return "", p
	}
	v := options.Get("evaluations_semantic")
	if !given(v) {
		return semanticAll, nil
	}
	bad := &staunch.Problem{Place: "options.evaluations_semantic", Reason: notASemantic}
	if v.Kind() != jsondoc.String {
		return "", bad
	}
	switch s := v.String(); s {
	case semanticAll, semanticDeny, semanticPermit:
		return s, nil
	default:
		return "", bad
	}
}
