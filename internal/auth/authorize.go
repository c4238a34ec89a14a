package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
)

// Principal is who calls. The zero Principal may do nothing.
type Principal struct {
	// ID is the token's id, Name what records and people call it.
	ID   string `json:"id"`
	Name string `json:"name"`
	Role Role   `json:"role"`
	// Source is the one source that a source token posts for.
	Source string `json:"source,omitempty"`
	// Realms, Owners and Environments limit what it may touch; empty is all.
	Realms       []string `json:"realms,omitempty"`
	Owners       []string `json:"owners,omitempty"`
	Environments []string `json:"environments,omitempty"`
}

// Scoped reports whether anything limits what p may touch.
func (p Principal) Scoped() bool {
	return len(p.Realms)+len(p.Owners)+len(p.Environments) > 0
}

// Object is what a principal wants to do something with. Leave out what the
// object has none of: a principal limited in that dimension may then not touch
// it, since nothing says that it is theirs.
type Object struct {
	// ID is only for the reason.
	ID string
	// Realms has every realm that would be touched: of the subject, of its
	// accounts, of the plan's targets.
	Realms []string
	// Owner and Environment are the identity's.
	Owner       string
	Environment string
	// Source is the source that records are posted for.
	Source string
}

// ObjectOf returns the object for a subject and the identity behind it.
func ObjectOf(id string, subject staunch.Ref, who staunch.Identity) Object {
	o := Object{ID: id, Owner: who.Owner, Environment: who.Environment}
	add := func(realm string) {
		if realm != "" && !slices.Contains(o.Realms, realm) {
			o.Realms = append(o.Realms, realm)
		}
	}
	add(subject.Realm)
	// Whoever acts on an identity acts on all of its accounts.
	if subject.Kind == staunch.KindIdentity {
		for _, a := range who.Accounts {
			add(a.Realm)
		}
	}
	return o
}

// Authorize reports why p may not do verb with obj; nil is yes. The error wraps
// staunch.ErrForbidden and says which rule refused, in terms that p may see.
// Who may approve is also a matter of who asked: see DifferentPerson.
func Authorize(p Principal, verb Verb, obj Object) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", staunch.ErrForbidden, fmt.Sprintf(format, args...))
	}
	right, ok := ruleOf(verb)
	if !ok {
		return no("%.40q is not a verb", verb)
	}
	if !right.roles.has(p.Role) {
		return no("role %s may not %s", orNone(string(p.Role)), verb)
	}
	if verb == Ingest && (p.Source == "" || p.Source != obj.Source) {
		return no("the token is bound to source %s, not %s", orNone(p.Source), orNone(obj.Source))
	}
	if right.unscoped || !p.Scoped() {
		return nil
	}
	if right.whole {
		return no("%s is about the whole deployment, and the token's scope is limited", verb)
	}
	if len(p.Realms) > 0 {
		if len(obj.Realms) == 0 {
			return no("the token is limited to some realms, and nothing says which realm this is in")
		}
		for _, r := range obj.Realms {
			if !slices.Contains(p.Realms, r) {
				return no("realm %s is outside of the token's scope", r)
			}
		}
	}
	if len(p.Owners) > 0 && !slices.Contains(p.Owners, obj.Owner) {
		return no("owner %s is outside of the token's scope", orNone(obj.Owner))
	}
	if len(p.Environments) > 0 && !slices.Contains(p.Environments, obj.Environment) {
		return no("environment %s is outside of the token's scope", orNone(obj.Environment))
	}
	return nil
}

// DifferentPerson reports why approver may not approve what requester, a
// principal's name, asked for: nobody approves their own request (invariant
// I7). Names are compared without regard to case and outer blanks. Two tokens
// of one person under two names cannot be told apart here: whoever makes tokens
// has to give a person one name. What nobody asked for (policy did) may be
// approved by anybody with the right to.
func DifferentPerson(requester string, approver Principal) error {
	name := func(s string) string { return strings.ToLower(strings.TrimSpace(s)) }
	if name(approver.Name) == "" {
		return fmt.Errorf("%w: an approver needs a name", staunch.ErrForbidden)
	}
	if name(requester) == name(approver.Name) {
		return fmt.Errorf("%w: %s asked for this, and another person has to approve it", staunch.ErrForbidden, approver.Name)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

type principalKey struct{}

// WithPrincipal returns a context that carries p, for handlers behind the one
// that authenticated.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns the context's principal. The error wraps
// staunch.ErrUnauthenticated where there is none, so that a handler that was
// wired without authentication refuses.
func PrincipalOf(ctx context.Context) (Principal, error) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	if !ok {
		return Principal{}, fmt.Errorf("%w: the request carries no principal", staunch.ErrUnauthenticated)
	}
	return p, nil
}
