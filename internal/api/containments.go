package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// out is an answer with a JSON body.
type out[T any] struct{ Body T }

// created is an answer whose status says whether something was made.
type created[T any] struct {
	Status int
	Body   T
}

// PageInput has the parameters of every listing. It is exported for the
// description alone, which looks into embedded structs by that.
type PageInput struct {
	After string `query:"after" maxLength:"512" doc:"the next of the page before"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"at most so many items; 0 gives 100"`
}

// IDInput has the path's id; exported for the same reason.
type IDInput struct {
	ID string `path:"id" maxLength:"128"`
}

func (s *Server) registerContainments() {
	tags := []string{"containments"}

	type listInput struct {
		PageInput
		Open bool `query:"open" doc:"only those that are not released"`
	}
	operation(s, Route{Method: "GET", Path: "/v1/containments", Verb: auth.Read},
		huma.Operation{OperationID: "listContainments", Summary: "List containments, newest first", Tags: tags},
		func(ctx context.Context, p auth.Principal, in *listInput) (*out[Containments], error) {
			items, next, err := list(ctx, s, p, in.After, in.Limit, listing[staunch.Containment]{
				fetch: func(r store.Reader, after string, limit int) ([]staunch.Containment, error) {
					return r.Containments(store.Page{After: after, Limit: limit}, in.Open)
				},
				cursor: func(c staunch.Containment) string { return c.ID },
				object: func(r store.Reader, c staunch.Containment) (auth.Object, error) { return caseObject(r, p, c) },
			})
			if err != nil {
				return nil, err
			}
			return &out[Containments]{Containments{V: staunch.Version, Items: items, Next: next}}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/containments/{id}", Verb: auth.Read},
		huma.Operation{OperationID: "getContainment", Summary: "One containment with its plans, steps, holds, tree, clocks and timeline", Tags: tags, Errors: []int{http.StatusNotFound},
			Description: "While it waits in a verification window, or for its canary, coming says what the stages that have not begun would do: the platforms are asked for that, for a few seconds at most.",
		},
		func(ctx context.Context, p auth.Principal, in *IDInput) (*out[Case], error) {
			var c Case
			err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				c, err = s.readCase(r, p, in.ID)
				return err
			})
			if err != nil {
				return nil, err
			}
			c.Coming = s.coming(ctx, p, c)
			return &out[Case]{c}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/containments/{id}/evidence", Verb: auth.Read, Limit: slowTimeout},
		huma.Operation{
			OperationID: "getEvidence", Summary: "Everything that is kept about one containment, signed", Tags: tags, Errors: []int{http.StatusNotFound},
			Description: "One document of one snapshot, with the records of the chained log. It is checked without the server: staunch audit verify --evidence. Events that the token may not see are left out, and that is said.",
		},
		func(ctx context.Context, p auth.Principal, in *IDInput) (*out[record.Evidence], error) {
			e, err := s.evidence(ctx, p, in.ID)
			if err != nil {
				return nil, err
			}
			return &out[record.Evidence]{e}, nil
		})

	operation(s, Route{Method: "POST", Path: "/v1/containments", Verb: auth.Contain},
		huma.Operation{
			OperationID: "contain", Summary: "Open a containment by hand", Tags: tags, DefaultStatus: http.StatusCreated,
			Description: "An open case on the same subject is raised instead. The same subject and key give the same case, with status 200.",
			Errors:      []int{http.StatusNotFound, http.StatusConflict},
		},
		func(ctx context.Context, p auth.Principal, in *struct{ Body ContainRequest }) (*created[Opened], error) {
			req := in.Body
			if err := checkContain(req); err != nil {
				return nil, err
			}
			if req.Key == "" {
				var b [16]byte
				_, _ = rand.Read(b[:]) // never fails
				req.Key = hex.EncodeToString(b[:])
			}
			var opened Opened
			err := s.opt.Store.Update(ctx, func(tx store.Tx) error {
				if err := s.mayTouch(tx, p, auth.Contain, req.Subject); err != nil {
					return err
				}
				var err error
				if opened, err = s.opt.Cases.Contain(tx, req, p.Name); err != nil {
					return err
				}
				return s.mayTake(tx, p, auth.Contain, opened.Containment)
			})
			if err != nil {
				return nil, err
			}
			opened.V = staunch.Version
			status := http.StatusOK
			if opened.Created {
				status = http.StatusCreated
			}
			return &created[Opened]{Status: status, Body: opened}, nil
		})

	operation(s, Route{Method: "POST", Path: "/v1/plan", Verb: auth.Plan, Limit: slowTimeout},
		huma.Operation{
			OperationID: "plan", Summary: "What a containment would do now", Tags: tags,
			Description: "Reads the platforms and changes nothing. Where the playbook has further stages, coming says what those would do.",
			Errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusBadGateway},
		},
		func(ctx context.Context, p auth.Principal, in *struct{ Body ContainRequest }) (*out[Draft], error) {
			if err := checkContain(in.Body); err != nil {
				return nil, err
			}
			err := s.opt.Store.View(ctx, func(r store.Reader) error { return s.mayTouch(r, p, auth.Plan, in.Body.Subject) })
			if err != nil {
				return nil, err
			}
			d, err := s.opt.Cases.Plan(ctx, in.Body)
			if err != nil {
				return nil, err
			}
			refs := slices.Concat(d.Roots, d.Derived)
			for _, it := range d.Items {
				refs = append(refs, it.Intent.Target.Ref)
			}
			if err := mayReach(p, auth.Plan, refs); err != nil {
				return nil, err
			}
			hideComing(p, auth.Plan, d.Coming)
			d.V = staunch.Version
			if d.Items == nil {
				d.Items = []DraftItem{}
			}
			return &out[Draft]{d}, nil
		})

	type releaseInput struct {
		IDInput
		Body ReleaseRequest
	}
	release := func(path, id, summary string, verb auth.Verb, do func(store.Tx, string, staunch.Release) (staunch.Containment, error)) {
		operation(s, Route{Method: "POST", Path: path, Verb: verb},
			huma.Operation{
				OperationID: id, Summary: summary, Tags: tags,
				Description: "Where it would bring a possibly stolen secret back to life, the answer is 409 with the code \"revives\" and the list, until the request confirms it (revive), says that the secret was replaced first (rotated), or for how long a token lives that has been denied for longer (token_life).",
				Errors:      []int{http.StatusNotFound, http.StatusConflict},
			},
			func(ctx context.Context, p auth.Principal, in *releaseInput) (*out[Changed], error) {
				reason, err := words("reason", in.Body.Reason)
				if err != nil {
					return nil, err
				}
				return s.change(ctx, p, verb, in.ID, func(tx store.Tx) (staunch.Containment, error) {
					con, err := do(tx, in.ID, staunch.Release{Reason: reason, By: p.Name, Revive: in.Body.Revive, Rotated: in.Body.Rotated, TokenLife: in.Body.TokenLife, Verdict: in.Body.Verdict})
					if !errors.Is(err, staunch.ErrConflict) || in.Body.Revive || in.Body.Rotated || in.Body.TokenLife > 0 {
						return con, err
					}
					items, rerr := s.opt.Cases.Revivals(tx, in.ID)
					if rerr != nil || len(items) == 0 {
						return con, err
					}
					pr := newProblem(http.StatusConflict, CodeRevives, "the release would bring possibly stolen secrets back to life").
						hint("replace the secrets first and say so (rotated), wait until tokens have run out and say how long they live (token_life), or confirm that they may work again (revive)")
					pr.Revives = items
					return con, pr
				})
			})
	}
	release("/v1/containments/{id}/release", "release", "Release a containment", auth.Release,
		func(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error) {
			return s.opt.Cases.Release(tx, id, r)
		})
	release("/v1/containments/{id}/clear", "clear", "End a verification window in the subject's favour", auth.Clear,
		func(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error) {
			return s.opt.Cases.Clear(tx, id, r)
		})

	type judgeInput struct {
		IDInput
		Body JudgeRequest
	}
	operation(s, Route{Method: "POST", Path: "/v1/containments/{id}/judge", Verb: auth.Release},
		huma.Operation{
			OperationID: "judge", Summary: "Say whether a containment that was released was called for", Tags: tags,
			Description: "Wrong takes the rules behind it one mode down, in the same transaction. A verdict of before, given with the release or later, is corrected: each containment counts once for a rule, by its newest verdict. A demotion is not taken back by a correction. The same verdict again changes nothing.",
			Errors:      []int{http.StatusNotFound, http.StatusConflict},
		},
		func(ctx context.Context, p auth.Principal, in *judgeInput) (*out[Changed], error) {
			reason, err := words("reason", in.Body.Reason)
			if err != nil {
				return nil, err
			}
			return s.change(ctx, p, auth.Release, in.ID, func(tx store.Tx) (staunch.Containment, error) {
				return s.opt.Cases.Judge(tx, in.ID, p.Name, in.Body.Verdict, reason)
			})
		})

	operation(s, Route{Method: "POST", Path: "/v1/containments/{id}/advance", Verb: auth.Advance},
		huma.Operation{OperationID: "advance", Summary: "Cut a verification window, or the wait for a canary, short", Tags: tags, Errors: []int{http.StatusNotFound, http.StatusConflict}},
		func(ctx context.Context, p auth.Principal, in *IDInput) (*out[Changed], error) {
			return s.change(ctx, p, auth.Advance, in.ID, func(tx store.Tx) (staunch.Containment, error) {
				return s.opt.Cases.AdvanceWindow(tx, in.ID, p.Name)
			})
		})

	type extendInput struct {
		IDInput
		Body ExtendRequest
	}
	operation(s, Route{Method: "POST", Path: "/v1/containments/{id}/extend", Verb: auth.Extend},
		huma.Operation{OperationID: "extend", Summary: "Put a window or an expiry off", Tags: tags, Errors: []int{http.StatusNotFound, http.StatusConflict}},
		func(ctx context.Context, p auth.Principal, in *extendInput) (*out[Changed], error) {
			by := in.Body.By.Std()
			if by <= 0 || by > maxDuration {
				return nil, place("by", "must be more than zero and at most ten years")
			}
			return s.change(ctx, p, auth.Extend, in.ID, func(tx store.Tx) (staunch.Containment, error) {
				return s.opt.Cases.Extend(tx, in.ID, p.Name, by)
			})
		})

	type approveInput struct {
		IDInput
		Body ApproveRequest
	}
	operation(s, Route{Method: "POST", Path: "/v1/containments/{id}/approve", Verb: auth.Approve},
		huma.Operation{
			OperationID: "approve", Summary: "Let a containment that waits for a person go on", Tags: tags,
			Description: "scope_hash and plan_hash are those of what was shown: scope_hash and containment.asked.hash of the case. Nobody approves what they asked for themselves, or twice. Where something of the plan cannot be undone it takes several people (containment.asked.persons), and the case stays in phase approval until they are there; an approval counts until its time is over.",
			Errors:      []int{http.StatusNotFound, http.StatusConflict},
		},
		func(ctx context.Context, p auth.Principal, in *approveInput) (*out[Changed], error) {
			return s.change(ctx, p, auth.Approve, in.ID, func(tx store.Tx) (staunch.Containment, error) {
				con, err := tx.Containment(in.ID)
				if err != nil {
					return con, err
				}
				if con.Phase == staunch.PhaseApproval {
					if err := auth.DifferentPerson(con.Requester, p); err != nil {
						return con, err
					}
				}
				return s.opt.Cases.Approve(tx, in.ID, p.Name, in.Body.ScopeHash, in.Body.PlanHash)
			})
		})
}

// change authorises p on the case and changes it, in one transaction.
func (s *Server) change(ctx context.Context, p auth.Principal, v auth.Verb, id string, fn func(store.Tx) (staunch.Containment, error)) (*out[Changed], error) {
	var con staunch.Containment
	err := s.opt.Store.Update(ctx, func(tx store.Tx) error {
		was, err := tx.Containment(id)
		if err != nil {
			return err
		}
		o, err := caseObject(tx, p, was)
		if err != nil {
			return err
		}
		if err := auth.Authorize(p, v, o); err != nil {
			return err
		}
		con, err = fn(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &out[Changed]{Changed{V: staunch.Version, Containment: con}}, nil
}

// mayTouch authorises p on a subject.
func (s *Server) mayTouch(r store.Reader, p auth.Principal, v auth.Verb, ref staunch.Ref) error {
	o, err := s.subject(r, p, "", ref)
	if err != nil {
		return err
	}
	return auth.Authorize(p, v, o)
}

// mayTake authorises p on a case that was just opened or raised: on all that is its
// already, and on what its scope takes with it.
func (s *Server) mayTake(r store.Reader, p auth.Principal, v auth.Verb, con staunch.Containment) error {
	if len(p.Realms) == 0 {
		return nil
	}
	o, err := caseObject(r, p, con)
	if err != nil {
		return err
	}
	if err := auth.Authorize(p, v, o); err != nil {
		return err
	}
	refs, err := s.opt.Cases.Reach(r, con)
	if err != nil {
		return err
	}
	return mayReach(p, v, refs)
}

// mayReach authorises p on what lineage and the platforms added to a subject,
// which may lie on other realms.
func mayReach(p auth.Principal, v auth.Verb, refs []staunch.Ref) error {
	if len(p.Realms) == 0 {
		return nil
	}
	p.Owners, p.Environments = nil, nil
	o := auth.Object{Realms: []string{}}
	for _, ref := range refs {
		addRealm(&o, ref.Realm)
	}
	if len(o.Realms) == 0 {
		return nil
	}
	return auth.Authorize(p, v, o)
}

// maxDuration bounds what a person may ask for: ten years.
const maxDuration = 10 * 365 * 24 * 3600 * 1e9

func checkContain(req ContainRequest) error {
	if err := req.Subject.Validate(); err != nil {
		return place("subject", "%s", strings.TrimPrefix(err.Error(), staunch.ErrInvalid.Error()+": "))
	}
	if req.Subject.Kind.Width() == 0 {
		return place("subject", "a %s cannot be contained", req.Subject.Kind)
	}
	if req.Tier == staunch.TierObserve {
		return place("tier", "observe takes nothing away; use restrict, isolate or revoke")
	}
	if req.Expiry < 0 || req.Expiry.Std() > maxDuration {
		return place("expiry", "must be more than zero and at most ten years")
	}
	if req.ScopeFor < 0 || req.ScopeFor.Std() > maxDuration {
		return place("scope_for", "must be more than zero and at most ten years")
	}
	_, err := words("reason", req.Reason)
	return err
}

// words checks text that people read in records and messages.
func words(field, s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", place(field, "is empty")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }) {
		return "", place(field, "has a control character")
	}
	return s, nil
}

// rows is everything about a containment, of one snapshot.
type rows struct {
	Case
	events  []staunch.Event
	records []staunch.Record
}

// readCase reads everything about a containment that p may see.
func (s *Server) readCase(r store.Reader, p auth.Principal, id string) (Case, error) {
	c, err := s.readRows(r, p, id)
	if err != nil {
		return Case{}, err
	}
	c.Tree, c.TreeTruncated, err = s.caseTree(r, p, c.Case)
	return c.Case, err
}

func (s *Server) readRows(r store.Reader, p auth.Principal, id string) (rows, error) {
	con, err := r.Containment(id)
	if err != nil {
		return rows{}, err
	}
	o, err := caseObject(r, p, con)
	if err != nil {
		return rows{}, err
	}
	if err := auth.Authorize(p, auth.Read, o); err != nil {
		return rows{}, err
	}
	c := rows{Case: Case{
		V: staunch.Version, Containment: con, ScopeHash: con.Scope.Hash(),
		Decisions: []staunch.Decision{}, Signals: []staunch.Signal{},
	}}
	if c.Plans, err = r.Plans(id); err != nil {
		return rows{}, err
	}
	if c.Steps, err = r.Steps(id); err != nil {
		return rows{}, err
	}
	if c.Holds, err = r.HoldsClaimedBy(id); err != nil {
		return rows{}, err
	}
	if con.Phase.Open() {
		if c.Revives, err = s.opt.Cases.Revivals(r, id); err != nil {
			return rows{}, err
		}
	}
	seen := map[string]bool{}
	for _, did := range con.Decisions[:min(len(con.Decisions), MaxEvidence)] {
		d, err := r.Decision(did)
		if errors.Is(err, staunch.ErrNotFound) {
			continue
		} else if err != nil {
			return rows{}, err
		}
		c.Decisions = append(c.Decisions, d)
		for _, sid := range d.Signals {
			if seen[sid] || len(c.Signals) >= MaxEvidence {
				continue
			}
			seen[sid] = true
			sig, err := r.Signal(sid)
			if errors.Is(err, staunch.ErrNotFound) {
				continue
			} else if err != nil {
				return rows{}, err
			}
			c.Signals = append(c.Signals, sig)
			if seen[sig.Event] {
				continue
			}
			seen[sig.Event] = true
			ev, err := r.Event(sig.Event)
			if errors.Is(err, staunch.ErrNotFound) {
				continue
			} else if err != nil {
				return rows{}, err
			}
			c.events = append(c.events, ev)
		}
	}
	if c.records, err = r.RecordsAbout(id, store.MaxPage); err != nil {
		return rows{}, err
	}
	c.Safeguards = safeguards(c.Case)
	c.Timeline = timeline(c.Case, c.events, c.records)
	c.Clocks = record.ClocksOf(record.Rows{
		Containment: con, Decisions: c.Decisions, Signals: c.Signals, Events: c.events, Steps: c.Steps, Holds: c.Holds,
	})
	return c, nil
}
