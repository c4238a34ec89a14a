package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

const pathApply = "/v1/plan/apply"

// planRefs are what a plan file touches.
func planRefs(f staunch.PlanFile) []staunch.Ref {
	refs := slices.Clone(f.Guard)
	for _, t := range f.Targets {
		refs = append(refs, t.Target.Ref)
	}
	return refs
}

func (s *Server) registerPlans() {
	tags := []string{"plans"}
	operation(s, Route{Method: "POST", Path: "/v1/plan/file", Verb: auth.Plan, Limit: slowTimeout},
		huma.Operation{
			OperationID: "planFile", Summary: "What a containment would do now, as a file to be applied", Tags: tags,
			Description: "Reads the platforms and changes nothing. The file is signed: it can be applied as it stands, once, until it runs out, by a server with the same key file.",
			Errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusBadGateway},
		},
		func(ctx context.Context, p auth.Principal, in *struct{ Body PlanFileRequest }) (*out[staunch.PlanFile], error) {
			req := in.Body
			if err := checkContain(req.ContainRequest); err != nil {
				return nil, err
			}
			if d := req.ValidFor.Std(); d < 0 || d > MaxPlanValid {
				return nil, place("valid_for", "must be more than zero and at most %s", MaxPlanValid)
			}
			if req.ValidFor == 0 {
				req.ValidFor = staunch.Duration(DefaultPlanValid)
			}
			err := s.opt.Store.View(ctx, func(r store.Reader) error { return s.mayTouch(r, p, auth.Plan, req.Subject) })
			if err != nil {
				return nil, err
			}
			f, err := s.opt.Cases.PlanFile(ctx, req, p.Name)
			if err != nil {
				return nil, err
			}
			if err := mayReach(p, auth.Plan, planRefs(f)); err != nil {
				return nil, err
			}
			return &out[staunch.PlanFile]{f}, nil
		})

	operation(s, Route{Method: "POST", Path: pathApply, Verb: auth.Contain, Limit: slowTimeout, Body: MaxLongBody},
		huma.Operation{
			OperationID: "apply", Summary: "Carry out a plan file, exactly as it is", Tags: tags, DefaultStatus: http.StatusCreated,
			Description: "Opens a containment whose first plan is that one, or refuses and changes nothing: where the file was edited, was made by another server or has run out, the configuration or the state of a target has changed since, a target is protected, or a case is open on the subject. The same file once more gives the same case, with status 200, and is refused once that case is released.",
			Errors:      []int{http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusBadGateway},
		},
		func(ctx context.Context, p auth.Principal, in *struct{ Body ApplyRequest }) (*created[Opened], error) {
			req := in.Body
			var err error
			if req.Reason, err = words("reason", req.Reason); err != nil {
				return nil, err
			}
			f := req.Plan
			o, err := s.opt.Cases.Apply(ctx, req, p.Name, func(r store.Reader) error {
				obj, err := s.subject(r, p, "", f.Subject)
				if err != nil {
					return err
				}
				if f.Approval {
					if err := auth.Authorize(p, auth.Approve, obj); err != nil {
						return err
					}
					if err := auth.DifferentPerson(f.MadeBy, p); err != nil {
						return err
					}
				}
				if err := auth.Authorize(p, auth.Contain, obj); err != nil {
					return err
				}
				return mayReach(p, auth.Contain, planRefs(f))
			})
			if err != nil {
				return nil, err
			}
			o.V = staunch.Version
			status := http.StatusOK
			if o.Created {
				status = http.StatusCreated
			}
			return &created[Opened]{Status: status, Body: o}, nil
		})
}
