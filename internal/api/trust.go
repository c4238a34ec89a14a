package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// Truster knows how far rules are trusted. Methods that take a Tx run inside the
// transaction in which the caller was authorised.
type Truster interface {
	// Trusts returns a page of rules that did anything, or of all, by id.
	Trusts(r store.Reader, after string, limit int, all bool) (Trusts, error)
	// Trust returns one rule with its history. The error wraps staunch.ErrNotFound
	// where nothing is known of it.
	Trust(r store.Reader, rule string) (RuleHistory, error)
	// Move promotes a rule (up) or demotes it, by one mode or to the one that is
	// asked for, and leaves a record that names who. The error wraps
	// staunch.ErrConflict where that is where the rule stands or the other way.
	Move(tx store.Tx, req TrustRequest, up bool, who string) (staunch.TrustEvent, error)
}

// RuleStanding is how far a rule is trusted, and what it has done.
type RuleStanding struct {
	staunch.RuleUse
	Title string `json:"title,omitempty"`
	// Mode is how far it may go now, Declared what its file and the configuration
	// say.
	Mode     staunch.Mode `json:"mode"`
	Declared staunch.Mode `json:"declared"`
	// Changed is when the mode was set to another one than declared, By whom, for
	// Reason; null where the file decides.
	Changed staunch.Time `json:"changed,omitempty"`
	// SetTo is the mode that it was set to then, SetFrom the one that it had before,
	// and DeclaredThen what its file said.
	SetTo        staunch.Mode `json:"set_to"`
	SetFrom      staunch.Mode `json:"set_from"`
	DeclaredThen staunch.Mode `json:"declared_then"`
	By           string       `json:"by,omitempty"`
	Reason       string       `json:"reason,omitempty"`
	// Wrong and Right count the containments that were judged so when they were
	// released.
	Wrong     int          `json:"wrong"`
	Right     int          `json:"right"`
	LastWrong staunch.Time `json:"last_wrong,omitempty"`
	// Ready says that it meets the criteria for the next mode; Advice says in one
	// line what speaks for and against.
	Ready  bool   `json:"ready"`
	Advice string `json:"advice"`
	// Gone says that the active configuration does not have the rule.
	Gone bool `json:"gone,omitempty"`
}

// Trust is the row that the standing was made of.
func (s RuleStanding) Trust() staunch.RuleTrust {
	return staunch.RuleTrust{
		V: staunch.Version, Rule: s.Rule, Mode: s.SetTo, Changed: s.Changed, By: s.By, Reason: s.Reason,
		Declared: s.DeclaredThen, Was: s.SetFrom, Wrong: s.Wrong, Right: s.Right, LastWrong: s.LastWrong,
	}
}

// TrustCriteria are what a rule has to show in its mode before it is called ready
// for the next one. Nothing is promoted by itself.
type TrustCriteria struct {
	Matches int              `json:"matches"`
	For     staunch.Duration `json:"for"`
}

// Trusts is a page of rules, by id.
type Trusts struct {
	V        int            `json:"v"`
	Criteria TrustCriteria  `json:"criteria"`
	Items    []RuleStanding `json:"items"`
	Next     string         `json:"next,omitempty"`
}

// RuleHistory is one rule with what happened to it, the newest first, at most
// 1,000.
type RuleHistory struct {
	V        int                  `json:"v"`
	Criteria TrustCriteria        `json:"criteria"`
	Rule     RuleStanding         `json:"rule"`
	History  []staunch.TrustEvent `json:"history"`
}

// TrustRequest promotes or demotes a rule.
type TrustRequest struct {
	Rule string `json:"rule" minLength:"1" maxLength:"2500"`
	// To is the mode; empty is the next one.
	To     string `json:"to,omitempty" enum:"shadow,recommend,enforce"`
	Reason string `json:"reason" minLength:"1" maxLength:"1000"`
}

// TrustMoved is what became of it.
type TrustMoved struct {
	V     int                `json:"v"`
	Event staunch.TrustEvent `json:"event"`
}

func (s *Server) registerTrust() {
	tags := []string{"trust"}
	// A rule is nobody's in particular.
	mayRead := func(p auth.Principal) error { return auth.Authorize(p, auth.Read, auth.Object{}) }

	type listInput struct {
		After string `query:"after" maxLength:"2500" doc:"the next of the page before"`
		Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"at most so many items; 0 gives 100"`
		All   bool   `query:"all" doc:"rules that have done nothing yet as well"`
	}
	operation(s, Route{Method: "GET", Path: "/v1/trust", Verb: auth.Read},
		huma.Operation{OperationID: "listTrust", Summary: "How far rules are trusted, and what they have done", Tags: tags},
		func(ctx context.Context, p auth.Principal, in *listInput) (*out[Trusts], error) {
			if err := mayRead(p); err != nil {
				return nil, err
			}
			var t Trusts
			err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				t, err = s.opt.Trust.Trusts(r, in.After, in.Limit, in.All)
				return err
			})
			if err != nil {
				return nil, err
			}
			return &out[Trusts]{t}, nil
		})

	type ruleInput struct {
		Rule string `query:"rule" required:"true" minLength:"1" maxLength:"2500" doc:"a rule's id"`
	}
	operation(s, Route{Method: "GET", Path: "/v1/trust/rule", Verb: auth.Read},
		huma.Operation{OperationID: "getTrust", Summary: "How far one rule is trusted, with its history", Tags: tags, Errors: []int{http.StatusNotFound}},
		func(ctx context.Context, p auth.Principal, in *ruleInput) (*out[RuleHistory], error) {
			if err := mayRead(p); err != nil {
				return nil, err
			}
			var h RuleHistory
			err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				h, err = s.opt.Trust.Trust(r, in.Rule)
				return err
			})
			if err != nil {
				return nil, err
			}
			return &out[RuleHistory]{h}, nil
		})

	move := func(path, id, summary string, up bool) {
		operation(s, Route{Method: "POST", Path: path, Verb: auth.Trust},
			huma.Operation{
				OperationID: id, Summary: summary, Tags: tags, Errors: []int{http.StatusNotFound, http.StatusConflict},
				Description: "One mode, or to the mode that to names. It holds on every node from the answer on, and is on record.",
			},
			func(ctx context.Context, p auth.Principal, in *struct{ Body TrustRequest }) (*out[TrustMoved], error) {
				req := in.Body
				var err error
				if req.Reason, err = words("reason", req.Reason); err != nil {
					return nil, err
				}
				if err := store.CheckKey(req.Rule); err != nil {
					return nil, place("rule", "is not a rule's id")
				}
				m := TrustMoved{V: staunch.Version}
				err = s.opt.Store.Update(ctx, func(tx store.Tx) (err error) {
					m.Event, err = s.opt.Trust.Move(tx, req, up, p.Name)
					return err
				})
				if err != nil {
					return nil, err
				}
				return &out[TrustMoved]{m}, nil
			})
	}
	move("/v1/trust/promote", "promoteRule", "Let a rule go further", true)
	move("/v1/trust/demote", "demoteRule", "Let a rule go less far", false)
}
