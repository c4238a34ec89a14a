package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/staunch-project/staunch"
)

// Subject, Action and Resource are AuthZEN's entities.
type (
	// Subject is who wants to act.
	Subject struct {
		Type       string         `json:"type"`
		ID         string         `json:"id"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	// Action is what is to be done.
	Action struct {
		Name       string         `json:"name"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	// Resource is what it is to be done to.
	Resource struct {
		Type       string         `json:"type"`
		ID         string         `json:"id"`
		Properties map[string]any `json:"properties,omitempty"`
	}
)

// EvaluationRequest is the body of POST /access/v1/evaluation.
type EvaluationRequest struct {
	Subject  *Subject       `json:"subject,omitempty"`
	Action   *Action        `json:"action,omitempty"`
	Resource *Resource      `json:"resource,omitempty"`
	Context  map[string]any `json:"context,omitempty"`
}

// EvaluationsRequest is the body of POST /access/v1/evaluations. What stands
// at the top are defaults for each of Evaluations; without any, the request is
// a single evaluation.
type EvaluationsRequest struct {
	EvaluationRequest
	Evaluations []EvaluationRequest `json:"evaluations,omitempty"`
	Options     *EvaluationOptions  `json:"options,omitempty"`
}

// EvaluationOptions say when to stop.
type EvaluationOptions struct {
	// Semantic is execute_all (default), deny_on_first_deny or
	// permit_on_first_permit.
	Semantic string `json:"evaluations_semantic,omitempty"`
}

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
}

// EvaluationsResponse is the answer to several.
type EvaluationsResponse struct {
	Evaluations []EvaluationResponse `json:"evaluations"`
}

// Bounds of requests.
const (
	// MaxRequest is the largest body in bytes.
	MaxRequest = 1 << 20
	// MaxEvaluations is the most evaluations in one request.
	MaxEvaluations = 1000
)

// Semantics of several evaluations.
const (
	semanticAll    = "execute_all"
	semanticDeny   = "deny_on_first_deny"
	semanticPermit = "permit_on_first_permit"
)

func decode(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, MaxRequest+1))
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if len(b) > MaxRequest {
		return &staunch.Problem{Place: "body", Reason: fmt.Sprintf("is larger than %d bytes", MaxRequest)}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return &staunch.Problem{Place: "body", Reason: err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &staunch.Problem{Place: "body", Reason: "has something after the JSON value"}
	}
	return nil
}

// check reports what a request lacks, at place.
func (r EvaluationRequest) check(place string) error {
	missing := func(field string) error {
		return &staunch.Problem{Place: place + field, Reason: "is missing"}
	}
	switch {
	case r.Subject == nil:
		return missing("subject")
	case r.Subject.Type == "":
		return missing("subject.type")
	case r.Subject.ID == "":
		return missing("subject.id")
	case r.Action == nil:
		return missing("action")
	case r.Action.Name == "":
		return missing("action.name")
	case r.Resource == nil:
		return missing("resource")
	case r.Resource.Type == "":
		return missing("resource.type")
	case r.Resource.ID == "":
		return missing("resource.id")
	}
	return nil
}

// evaluate answers a request that check has passed.
func (g *Guard) evaluate(r EvaluationRequest) EvaluationResponse {
	refs := g.Resolve(*r.Subject)
	if len(refs) == 0 {
		return EvaluationResponse{Context: &ResponseContext{Reason: ReasonUnresolved}}
	}
	a := g.MayAct(refs, r.Action.Name)
	return EvaluationResponse{Decision: a.Allowed, Context: &ResponseContext{
		Reason: a.Reason, Hold: a.Hold, Message: a.Message, Containments: a.Cases,
	}}
}

// Evaluation answers the body of POST /access/v1/evaluation. A request that is
// not one gives a *staunch.Problem, which is answered with status 400.
func (g *Guard) Evaluation(body io.Reader) (EvaluationResponse, error) {
	var req EvaluationRequest
	if err := decode(body, &req); err != nil {
		return EvaluationResponse{}, err
	}
	if err := req.check(""); err != nil {
		return EvaluationResponse{}, err
	}
	return g.evaluate(req), nil
}

// Evaluations answers the body of POST /access/v1/evaluations: an
// EvaluationsResponse, or an EvaluationResponse where the request has no
// evaluations.
func (g *Guard) Evaluations(body io.Reader) (any, error) {
	var req EvaluationsRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	if len(req.Evaluations) == 0 {
		if err := req.check(""); err != nil {
			return nil, err
		}
		return g.evaluate(req.EvaluationRequest), nil
	}
	if len(req.Evaluations) > MaxEvaluations {
		return nil, &staunch.Problem{Place: "evaluations", Reason: fmt.Sprintf("has %d entries, at most %d", len(req.Evaluations), MaxEvaluations)}
	}
	semantic := semanticAll
	if req.Options != nil && req.Options.Semantic != "" {
		semantic = req.Options.Semantic
	}
	switch semantic {
	case semanticAll, semanticDeny, semanticPermit:
	default:
		return nil, &staunch.Problem{Place: "options.evaluations_semantic", Reason: fmt.Sprintf("%q is not execute_all, deny_on_first_deny or permit_on_first_permit", semantic)}
	}
	// Every entry is checked before any is answered: a request is good or bad as
	// a whole.
	for i := range req.Evaluations {
		e := &req.Evaluations[i]
		if e.Subject == nil {
			e.Subject = req.Subject
		}
		if e.Action == nil {
			e.Action = req.Action
		}
		if e.Resource == nil {
			e.Resource = req.Resource
		}
		if e.Context == nil {
			e.Context = req.Context
		}
		if err := e.check(fmt.Sprintf("evaluations[%d].", i)); err != nil {
			return nil, err
		}
	}
	out := EvaluationsResponse{Evaluations: make([]EvaluationResponse, 0, len(req.Evaluations))}
	for _, e := range req.Evaluations {
		a := g.evaluate(e)
		out.Evaluations = append(out.Evaluations, a)
		if semantic == semanticDeny && !a.Decision || semantic == semanticPermit && a.Decision {
			break
		}
	}
	return out, nil
}
