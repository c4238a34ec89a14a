package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// maxLineage bounds the tree that is drawn of a ref.
const maxLineage = 500

func (s *Server) registerLists() {
	evidence, who := []string{"evidence"}, []string{"identities"}

	operation(s, Route{Method: "GET", Path: "/v1/signals", Verb: auth.Read},
		huma.Operation{OperationID: "listSignals", Summary: "List signals, newest first", Tags: evidence},
		func(ctx context.Context, p auth.Principal, in *PageInput) (*out[Signals], error) {
			items, next, err := list(ctx, s, p, in.After, in.Limit, listing[staunch.Signal]{
				fetch: func(r store.Reader, after string, limit int) ([]staunch.Signal, error) {
					return r.Signals(store.Page{After: after, Limit: limit})
				},
				cursor: func(g staunch.Signal) string { return g.ID },
				object: func(r store.Reader, g staunch.Signal) (auth.Object, error) {
					o, err := s.subject(r, p, g.ID, g.Accused)
					addRealm(&o, g.Realm)
					return o, err
				},
			})
			if err != nil {
				return nil, err
			}
			return &out[Signals]{Signals{V: staunch.Version, Items: items, Next: next}}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/decisions", Verb: auth.Read},
		huma.Operation{OperationID: "listDecisions", Summary: "List decisions, newest first", Tags: evidence},
		func(ctx context.Context, p auth.Principal, in *PageInput) (*out[Decisions], error) {
			items, next, err := list(ctx, s, p, in.After, in.Limit, listing[staunch.Decision]{
				fetch: func(r store.Reader, after string, limit int) ([]staunch.Decision, error) {
					return r.Decisions(store.Page{After: after, Limit: limit})
				},
				cursor: func(d staunch.Decision) string { return d.ID },
				object: func(_ store.Reader, d staunch.Decision) (auth.Object, error) { return decisionObject(d), nil },
			})
			if err != nil {
				return nil, err
			}
			return &out[Decisions]{Decisions{V: staunch.Version, Items: items, Next: next}}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/decisions/{id}", Verb: auth.Read},
		huma.Operation{OperationID: "getDecision", Summary: "One decision, with the signals that it rests on", Tags: evidence, Errors: []int{http.StatusNotFound}},
		func(ctx context.Context, p auth.Principal, in *IDInput) (*out[Decided], error) {
			var d Decided
			err := s.opt.Store.View(ctx, func(r store.Reader) error {
				d = Decided{V: staunch.Version, Signals: []staunch.Signal{}}
				var err error
				if d.Decision, err = r.Decision(in.ID); err != nil {
					return err
				}
				if err := auth.Authorize(p, auth.Read, decisionObject(d.Decision)); err != nil {
					return err
				}
				for _, id := range d.Decision.Signals[:min(len(d.Decision.Signals), MaxEvidence)] {
					sig, err := r.Signal(id)
					if errors.Is(err, staunch.ErrNotFound) {
						continue
					} else if err != nil {
						return err
					}
					d.Signals = append(d.Signals, sig)
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
			return &out[Decided]{d}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/events/{id}", Verb: auth.Read},
		huma.Operation{OperationID: "getEvent", Summary: "One event, with the record that it was made of", Tags: evidence, Errors: []int{http.StatusNotFound}},
		func(ctx context.Context, p auth.Principal, in *IDInput) (*out[Observed], error) {
			o := Observed{V: staunch.Version}
			err := s.opt.Store.View(ctx, func(r store.Reader) error {
				var err error
				if o.Event, err = r.Event(in.ID); err != nil {
					return err
				}
				obj, err := s.eventObject(r, p, o.Event)
				if err != nil {
					return err
				}
				return auth.Authorize(p, auth.Read, obj)
			})
			if err != nil {
				return nil, err
			}
			return &out[Observed]{o}, nil
		})

	type holdsInput struct {
		After       string `query:"after" maxLength:"20" pattern:"^[0-9]*$" doc:"the next of the page before: a hold's seq"`
		Limit       int    `query:"limit" minimum:"0" maximum:"1000"`
		Plane       string `query:"plane" enum:"guard,platform" doc:"one plane alone"`
		Containment string `query:"containment" maxLength:"128" doc:"those that this containment claims or claimed"`
		All         bool   `query:"all" doc:"those that are no longer in force as well"`
	}
	operation(s, Route{Method: "GET", Path: "/v1/holds", Verb: auth.Read},
		huma.Operation{OperationID: "listHolds", Summary: "List holds in the order in which they last changed", Tags: []string{"containments"}},
		func(ctx context.Context, p auth.Principal, in *holdsInput) (*out[Holds], error) {
			if in.After != "" {
				if _, err := strconv.ParseInt(in.After, 10, 64); err != nil {
					return nil, place("after", "is not a hold's seq")
				}
			}
			items, next, err := list(ctx, s, p, in.After, in.Limit, listing[staunch.Hold]{
				fetch: func(r store.Reader, after string, limit int) ([]staunch.Hold, error) {
					seq, _ := strconv.ParseInt(after, 10, 64) // checked above; "" is 0
					return holdsAfter(r, staunch.Plane(in.Plane), in.Containment, seq, limit)
				},
				cursor: func(h staunch.Hold) string { return strconv.FormatInt(h.Seq, 10) },
				object: func(r store.Reader, h staunch.Hold) (auth.Object, error) {
					return s.subject(r, p, h.ID, h.Target.Ref)
				},
				keep: func(h staunch.Hold) bool { return in.All || h.Active() },
			})
			if err != nil {
				return nil, err
			}
			return &out[Holds]{Holds{V: staunch.Version, Items: items, Next: next}}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/identities", Verb: auth.Read},
		huma.Operation{OperationID: "listIdentities", Summary: "List the declared identities by name", Tags: who},
		func(ctx context.Context, p auth.Principal, in *PageInput) (*out[Identities], error) {
			items, next, err := list(ctx, s, p, in.After, in.Limit, listing[staunch.Identity]{
				fetch: func(r store.Reader, after string, limit int) ([]staunch.Identity, error) {
					return r.Identities(store.Page{After: after, Limit: limit})
				},
				cursor: func(i staunch.Identity) string { return i.Name },
				object: func(_ store.Reader, i staunch.Identity) (auth.Object, error) {
					return auth.ObjectOf(i.Name, staunch.IdentityRef(i.Name), i), nil
				},
			})
			if err != nil {
				return nil, err
			}
			return &out[Identities]{Identities{V: staunch.Version, Items: items, Next: next}}, nil
		})

	type refInput struct {
		Ref string `query:"ref" required:"true" maxLength:"2400" doc:"kind:realm:scheme:value, or identity:NAME"`
	}
	operation(s, Route{Method: "GET", Path: "/v1/identity", Verb: auth.Read},
		huma.Operation{OperationID: "getIdentity", Summary: "Who a ref is, how suspect, what came from it, and its open cases", Tags: who},
		func(ctx context.Context, p auth.Principal, in *refInput) (*out[Known], error) {
			ref, err := staunch.ParseRef(in.Ref)
			if err != nil {
				return nil, &staunch.Problem{Place: "ref", Reason: err.Error(), Hint: "such as account:pg/main:role:app_rw, or identity:NAME"}
			}
			var k Known
			err = s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				k, err = s.known(r, p, ref)
				return err
			})
			if err != nil {
				return nil, err
			}
			return &out[Known]{k}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/parked", Verb: auth.Parked},
		huma.Operation{OperationID: "listParked", Summary: "List the records that could not be taken, without their content", Tags: evidence},
		func(ctx context.Context, p auth.Principal, in *PageInput) (*out[ParkedRecords], error) {
			items, next, err := list(ctx, s, p, in.After, in.Limit, listing[store.Parked]{
				fetch: func(r store.Reader, after string, limit int) ([]store.Parked, error) {
					return r.Parked(store.Page{After: after, Limit: limit})
				},
				cursor: func(k store.Parked) string { return k.ID },
				object: func(_ store.Reader, k store.Parked) (auth.Object, error) { return auth.Object{ID: k.ID}, nil },
			})
			if err != nil {
				return nil, err
			}
			return &out[ParkedRecords]{ParkedRecords{V: staunch.Version, Items: items, Next: next}}, nil
		})
}

// holdsAfter returns the next holds by sequence, of one plane or both.
func holdsAfter(r store.Reader, plane staunch.Plane, containment string, seq int64, limit int) ([]staunch.Hold, error) {
	var holds []staunch.Hold
	if containment != "" {
		all, err := r.HoldsClaimedBy(containment)
		if err != nil {
			return nil, err
		}
		for _, h := range all {
			if h.Seq > seq && (plane == "" || h.Plane == plane) {
				holds = append(holds, h)
			}
		}
	} else {
		planes := []staunch.Plane{plane}
		if plane == "" {
			planes = []staunch.Plane{staunch.PlaneGuard, staunch.PlanePlatform}
		}
		for _, pl := range planes {
			some, err := r.HoldsAfter(pl, seq, limit)
			if err != nil {
				return nil, err
			}
			holds = append(holds, some...)
		}
	}
	slices.SortFunc(holds, func(a, b staunch.Hold) int { return cmp.Compare(a.Seq, b.Seq) })
	return holds[:min(len(holds), limit)], nil
}

// known tells what is known of ref, as far as p may see it.
func (s *Server) known(r store.Reader, p auth.Principal, ref staunch.Ref) (Known, error) {
	now := s.now()
	k := Known{V: staunch.Version, Cases: []staunch.Containment{}}
	var err error
	if k.Resolution, err = s.opt.Knowledge.Resolve(r, ref, now); err != nil {
		return k, fmt.Errorf("looking up %s: %w", ref, err)
	}
	if err := auth.Authorize(p, auth.Read, objectOf(ref.String(), k.Resolution)); err != nil {
		return k, err
	}
	if k.Suspicion, err = s.opt.Knowledge.Suspicion(r, k.Resolution, now); err != nil {
		return k, fmt.Errorf("weighing what is known of %s: %w", ref, err)
	}
	if k.Lineage, k.Truncated, err = s.opt.Knowledge.Lineage(r, ref, maxLineage); err != nil {
		return k, fmt.Errorf("drawing the lineage of %s: %w", ref, err)
	}
	if len(p.Realms) > 0 {
		k.Lineage.Children = withinRealms(k.Lineage.Children, p.Realms)
	}
	refs := append(slices.Clone(k.Resolution.Names), k.Resolution.Up...)
	if len(refs) == 0 {
		refs = []staunch.Ref{ref}
	}
	cases, err := r.OpenContainments(refs)
	if err != nil {
		return k, err
	}
	for _, c := range cases {
		o, err := caseObject(r, p, c)
		if err != nil {
			return k, err
		}
		if auth.Authorize(p, auth.Read, o) == nil {
			k.Cases = append(k.Cases, c)
		}
	}
	return k, nil
}

// withinRealms leaves out the branches that begin on another realm.
func withinRealms(nodes []Lineage, realms []string) []Lineage {
	var kept []Lineage
	for _, n := range nodes {
		if n.Ref.Realm != "" && !slices.Contains(realms, n.Ref.Realm) {
			continue
		}
		n.Children = withinRealms(n.Children, realms)
		kept = append(kept, n)
	}
	return kept
}

// registerHealth registers how those who watch groups report.
func (s *Server) registerHealth() {
	operation(s, Route{Method: "POST", Path: "/v1/groups/health", Verb: auth.Health},
		huma.Operation{
			OperationID: "reportHealth", Summary: "Report how many of a group are healthy", Tags: []string{"groups"}, Errors: []int{http.StatusConflict},
			Description: "While a group's newest report is younger than limits.health_age, no whole account or identity of it is contained of which the group could not do without (limits.min_healthy). An older report has none of the group contained automatically as a whole; a group of which nobody ever reported goes by its containments alone. A report that is older than the one there gives 409.",
		},
		func(ctx context.Context, p auth.Principal, in *struct{ Body GroupHealth }) (*out[GroupHealthKept], error) {
			h := in.Body
			now := s.now()
			if h.At == 0 {
				h.At = now
			}
			var kept GroupHealthKept
			err := s.opt.Store.Update(ctx, func(tx store.Tx) error {
				var err error
				if kept, err = s.opt.Operator.ReportHealth(tx, h, p.Name); err != nil {
					return err
				}
				return note(tx, staunch.RecordHealth, p, h.Environment+"/"+h.Purpose, now, kept)
			})
			if err != nil {
				return nil, err
			}
			kept.V = staunch.Version
			return &out[GroupHealthKept]{kept}, nil
		})
}

// registerBreakers registers what stops and restarts automatic containment.
func (s *Server) registerBreakers() {
	tags := []string{"breakers"}
	operation(s, Route{Method: "GET", Path: "/v1/breakers", Verb: auth.Read},
		huma.Operation{OperationID: "listBreakers", Summary: "List the breakers", Tags: tags},
		func(ctx context.Context, p auth.Principal, _ *struct{}) (*out[Breakers], error) {
			// A breaker is nobody's in particular.
			if err := auth.Authorize(p, auth.Read, auth.Object{}); err != nil {
				return nil, err
			}
			b := Breakers{V: staunch.Version}
			err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				b.Items, err = r.Breakers()
				return err
			})
			if err != nil {
				return nil, err
			}
			if b.Items == nil {
				b.Items = []store.Breaker{}
			}
			return &out[Breakers]{b}, nil
		})

	operation(s, Route{Method: "POST", Path: "/v1/breakers/reset", Verb: auth.Breaker},
		huma.Operation{OperationID: "resetBreaker", Summary: "Close a breaker, so that automatic containment goes on in its scope", Tags: tags, Errors: []int{http.StatusNotFound, http.StatusConflict}},
		func(ctx context.Context, p auth.Principal, in *struct{ Body BreakerRequest }) (*out[BreakerChanged], error) {
			var b store.Breaker
			err := s.opt.Store.Update(ctx, func(tx store.Tx) error {
				var err error
				if b, err = tx.Breaker(in.Body.Scope); err != nil {
					return err // it names the breaker
				}
				if !b.Open {
					return fmt.Errorf("%w: breaker %s is not open", staunch.ErrConflict, b.Scope)
				}
				was := b.Reason
				b.Open, b.Reason, b.Changed, b.By = false, "", s.now(), p.Name
				if err := tx.PutBreaker(b); err != nil {
					return err
				}
				if err := s.opt.Operator.ForgetTrips(tx, b.Scope); err != nil {
					return err
				}
				return note(tx, staunch.RecordBreaker, p, b.Scope, b.Changed, map[string]any{
					"scope": b.Scope, "open": false, "was": was,
				})
			})
			if err != nil {
				return nil, err
			}
			return &out[BreakerChanged]{BreakerChanged{V: staunch.Version, Breaker: b}}, nil
		})
}
