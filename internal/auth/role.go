package auth

import (
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
)

// Role is what a token is for.
type Role string

// The roles.
const (
	// RoleViewer looks.
	RoleViewer Role = "viewer"
	// RoleResponder contains and releases.
	RoleResponder Role = "responder"
	// RoleApprover is a responder who may also approve what others asked for.
	RoleApprover Role = "approver"
	// RoleAdmin also sets up: tokens, configuration, identities, breakers, audit.
	RoleAdmin Role = "admin"
	// RoleSource posts the records of one source, and nothing else.
	RoleSource Role = "source"
	// RolePEP asks whether actions may go on, and nothing else.
	RolePEP Role = "pep"
)

// Verb is what a principal wants to do; not to be confused with staunch.Verb,
// which is what a step does.
type Verb string

// The verbs.
const (
	Read     Verb = "read"
	Metrics  Verb = "metrics"
	Plan     Verb = "plan"
	Contain  Verb = "contain"
	Clear    Verb = "clear"
	Advance  Verb = "advance"
	Extend   Verb = "extend"
	Release  Verb = "release"
	Approve  Verb = "approve"
	Audit    Verb = "audit"
	Identity Verb = "identity"
	Breaker  Verb = "breaker"
	Health   Verb = "health"
	Parked   Verb = "parked"
	Config   Verb = "config"
	Token    Verb = "token"
	Trust    Verb = "trust"
	Drill    Verb = "drill"
	Ingest   Verb = "ingest"
	Evaluate Verb = "evaluate"
)

// Right is one row of the table of roles and verbs.
type Right struct {
	Verb Verb `json:"verb"`
	// Does says what the verb is, for the documentation.
	Does string `json:"does"`
	// Roles has the roles that may.
	Roles []Role `json:"roles"`
	// Whole says that it is about the deployment as a whole: a principal whose
	// scope is limited may not, whatever the object.
	Whole bool `json:"whole,omitempty"`
	// Unscoped says that scopes do not limit it, since it tells nothing of any
	// one object.
	Unscoped bool `json:"unscoped,omitempty"`
}

// roleSet is a set of roles that costs no allocation.
type roleSet uint8

const (
	viewer roleSet = 1 << iota
	responder
	approver
	admin
	source
	pep

	people     = viewer | responder | approver | admin
	responders = responder | approver | admin
	approvers  = approver | admin
)

func (s roleSet) has(r Role) bool {
	switch r {
	case RoleViewer:
		return s&viewer != 0
	case RoleResponder:
		return s&responder != 0
	case RoleApprover:
		return s&approver != 0
	case RoleAdmin:
		return s&admin != 0
	case RoleSource:
		return s&source != 0
	case RolePEP:
		return s&pep != 0
	}
	return false
}

// rule is a row of the table as Authorize reads it.
type rule struct {
	roles           roleSet
	whole, unscoped bool
	does            string
}

// ruleOf is the table of roles and verbs.
func ruleOf(v Verb) (rule, bool) {
	switch v {
	case Read:
		return rule{roles: people, does: "see containments, signals, decisions, identities, holds and records about them"}, true
	case Metrics:
		return rule{roles: people, unscoped: true, does: "read /metrics, which has numbers and names no subject"}, true
	case Plan:
		return rule{roles: responders, does: "see what a containment would do, by reading the platforms, or what another policy would have done"}, true
	case Contain:
		return rule{roles: responders, does: "open a containment by hand"}, true
	case Clear:
		return rule{roles: responders, does: "end a window in the subject's favour"}, true
	case Advance:
		return rule{roles: responders, does: "cut a window short"}, true
	case Extend:
		return rule{roles: responders, does: "extend a window or an expiry"}, true
	case Release:
		return rule{roles: responders, does: "release a containment, with a confirmation where that revives a secret, and judge it"}, true
	case Approve:
		return rule{roles: approvers, does: "approve what policy or another principal asked for, never one's own"}, true
	case Audit:
		return rule{roles: admin, whole: true, does: "verify and export the record log, and have checkpoints of it signed"}, true
	case Identity:
		return rule{roles: admin, does: "declare, change and delete identities"}, true
	case Breaker:
		return rule{roles: admin, whole: true, does: "reset a breaker"}, true
	case Health:
		return rule{roles: responders, whole: true, does: "report how many of a group are healthy"}, true
	case Parked:
		return rule{roles: admin, whole: true, does: "see and retry records that could not be taken"}, true
	case Config:
		return rule{roles: admin, whole: true, does: "read and reload the configuration, run doctor"}, true
	case Token:
		return rule{roles: admin, whole: true, does: "make, list and revoke tokens"}, true
	case Trust:
		return rule{roles: approvers, whole: true, does: "promote and demote rules"}, true
	case Drill:
		return rule{roles: approvers, whole: true, does: "run an exercise on the canaries that the configuration names"}, true
	case Ingest:
		return rule{roles: source, does: "post records of the token's own source"}, true
	case Evaluate:
		return rule{roles: pep, does: "ask whether an action may go on (AuthZEN)"}, true
	}
	return rule{}, false
}

// Verbs returns every verb, in the order of the documentation.
func Verbs() []Verb {
	return []Verb{
		Read, Metrics, Plan, Contain, Clear, Advance, Extend, Release, Approve,
		Audit, Identity, Breaker, Health, Parked, Config, Token, Trust, Drill, Ingest, Evaluate,
	}
}

// Rights returns the table of roles and verbs that Authorize follows, for the
// documentation.
func Rights() []Right {
	out := make([]Right, 0, len(Verbs()))
	for _, v := range Verbs() {
		r, _ := ruleOf(v)
		right := Right{Verb: v, Does: r.does, Whole: r.whole, Unscoped: r.unscoped}
		for _, role := range Roles() {
			if r.roles.has(role) {
				right.Roles = append(right.Roles, role)
			}
		}
		out = append(out, right)
	}
	return out
}

// Roles returns every role, those of people first.
func Roles() []Role {
	return []Role{RoleViewer, RoleResponder, RoleApprover, RoleAdmin, RoleSource, RolePEP}
}

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return slices.Contains(Roles(), r) }

// ParseRole reads a role's name.
func ParseRole(s string) (Role, error) {
	if r := Role(s); r.Valid() {
		return r, nil
	}
	names := make([]string, 0, len(Roles()))
	for _, r := range Roles() {
		names = append(names, string(r))
	}
	return "", fmt.Errorf("%w: %.40q is not a role (%s)", staunch.ErrInvalid, s, strings.Join(names, ", "))
}
