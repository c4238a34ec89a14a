package api

import (
	"context"
	"crypto/rand"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// Driller runs exercises on canaries.
type Driller interface {
	// Begin begins the configured exercise of that name in the transaction in which
	// who was authorised; key tells it from who's others. It runs after the commit.
	// The error wraps staunch.ErrNotFound where none is called so, and
	// staunch.ErrConflict while it is under way.
	Begin(tx store.Tx, name, key, who string) (staunch.Drill, error)
	// Configured returns the exercises that the configuration has, with how their
	// last runs went.
	Configured(r store.Reader) ([]DrillStanding, error)
}

// DrillStanding is a configured exercise with the figures of its last 100 runs.
type DrillStanding struct {
	Name          string           `json:"name"`
	Canary        staunch.Ref      `json:"canary"`
	Source        string           `json:"source"`
	Every         staunch.Duration `json:"every,omitempty"`
	Within        staunch.Duration `json:"within"`
	RestoreWithin staunch.Duration `json:"restore_within"`
	// Next is when it is due by its schedule.
	Next staunch.Time `json:"next,omitempty"`
	// Last is when it began last, LastPhase where that run stands.
	Last      staunch.Time       `json:"last,omitempty"`
	LastPhase staunch.DrillPhase `json:"last_phase,omitempty"`
	Passed    int                `json:"passed"`
	Failed    int                `json:"failed"`
	// ContainP50MS and ContainMaxMS are the median and the longest time to contain,
	// in milliseconds.
	ContainP50MS float64 `json:"time_to_contain_p50_ms,omitempty"`
	ContainMaxMS float64 `json:"time_to_contain_max_ms,omitempty"`
}

// Drills is a page of exercises, the newest first, with those that are configured.
type Drills struct {
	V          int             `json:"v"`
	Configured []DrillStanding `json:"configured"`
	Items      []staunch.Drill `json:"items"`
	Next       string          `json:"next,omitempty"`
}

// DrillStory is one exercise.
type DrillStory struct {
	V     int           `json:"v"`
	Drill staunch.Drill `json:"drill"`
}

// DrillRequest begins an exercise.
type DrillRequest struct {
	Name string `json:"name" minLength:"1" maxLength:"64"`
}

func (s *Server) registerDrills() {
	tags := []string{"drills"}
	// An exercise is nobody's in particular.
	mayRead := func(p auth.Principal) error { return auth.Authorize(p, auth.Read, auth.Object{}) }

	type listInput struct {
		PageInput
		Name string `query:"name" maxLength:"64" doc:"those of one name"`
	}
	operation(s, Route{Method: "GET", Path: "/v1/drills", Verb: auth.Read},
		huma.Operation{OperationID: "listDrills", Summary: "Exercises, newest first, and those that are configured", Tags: tags},
		func(ctx context.Context, p auth.Principal, in *listInput) (*out[Drills], error) {
			if err := mayRead(p); err != nil {
				return nil, err
			}
			limit := in.Limit
			if limit <= 0 {
				limit = store.DefaultPage
			}
			d := Drills{V: staunch.Version}
			err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				if d.Configured, err = s.opt.Drill.Configured(r); err != nil {
					return err
				}
				d.Items, err = r.Drills(in.Name, store.Page{After: in.After, Limit: limit})
				return err
			})
			if err != nil {
				return nil, err
			}
			if n := len(d.Items); n == limit {
				d.Next = d.Items[n-1].ID
			}
			return &out[Drills]{d}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/drills/{id}", Verb: auth.Read},
		huma.Operation{OperationID: "getDrill", Summary: "One exercise, with the time of each of its marks", Tags: tags, Errors: []int{http.StatusNotFound}},
		func(ctx context.Context, p auth.Principal, in *IDInput) (*out[DrillStory], error) {
			if err := mayRead(p); err != nil {
				return nil, err
			}
			d := DrillStory{V: staunch.Version}
			err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				d.Drill, err = r.Drill(in.ID)
				return err
			})
			if err != nil {
				return nil, err
			}
			return &out[DrillStory]{d}, nil
		})

	operation(s, Route{Method: "POST", Path: "/v1/drills", Verb: auth.Drill},
		huma.Operation{
			OperationID: "runDrill", Summary: "Begin a configured exercise", Tags: tags, DefaultStatus: http.StatusCreated,
			Description: "It contains its canary on the real platform and puts it back. The answer comes when it has begun; see it by its id.",
			Errors:      []int{http.StatusNotFound, http.StatusConflict},
		},
		func(ctx context.Context, p auth.Principal, in *struct{ Body DrillRequest }) (*out[DrillStory], error) {
			d := DrillStory{V: staunch.Version}
			key := rand.Text()
			err := s.opt.Store.Update(ctx, func(tx store.Tx) (err error) {
				d.Drill, err = s.opt.Drill.Begin(tx, in.Body.Name, key, p.Name)
				return err
			})
			if err != nil {
				return nil, err
			}
			return &out[DrillStory]{d}, nil
		})
}
