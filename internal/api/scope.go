package api

import (
	"context"
	"fmt"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// objectOf describes a subject, with everything known of it, to Authorize: all
// realms on which it has a name would be touched.
func objectOf(id string, res staunch.Resolution) auth.Object {
	o := auth.ObjectOf(id, res.Ref, res.Identity)
	for _, n := range res.Names {
		addRealm(&o, n.Realm)
	}
	return o
}

func addRealm(o *auth.Object, realm string) {
	if realm != "" && !slices.Contains(o.Realms, realm) {
		o.Realms = append(o.Realms, realm)
	}
}

// subject describes a ref to Authorize. Where the principal is not limited
// there is nothing to look up.
func (s *Server) subject(r store.Reader, p auth.Principal, id string, ref staunch.Ref) (auth.Object, error) {
	if !p.Scoped() {
		return auth.Object{ID: id}, nil
	}
	res, err := s.opt.Knowledge.Resolve(r, ref, s.now())
	if err != nil {
		return auth.Object{}, fmt.Errorf("looking up %s: %w", ref, err)
	}
	return objectOf(id, res), nil
}

// caseObject describes a containment to Authorize, the targets of its steps, and of
// those that people are asked to approve, included.
func caseObject(r store.Reader, p auth.Principal, c staunch.Containment) (auth.Object, error) {
	o := objectOf(c.ID, staunch.Resolution{Ref: c.Subject, Names: c.Names, Identity: c.Identity})
	if len(p.Realms) == 0 {
		return o, nil
	}
	steps, err := r.Steps(c.ID)
	if err != nil {
		return auth.Object{}, err
	}
	for _, st := range steps {
		addRealm(&o, st.Target.Ref.Realm)
	}
	if c.Asked != nil {
		for _, st := range c.Asked.Steps {
			addRealm(&o, st.Target.Ref.Realm)
		}
	}
	return o, nil
}

// eventObject describes an event to Authorize by who acted in it.
func (s *Server) eventObject(r store.Reader, p auth.Principal, e staunch.Event) (auth.Object, error) {
	o := auth.Object{ID: e.ID, Realms: []string{e.Realm}}
	if len(e.Actor) == 0 {
		return o, nil
	}
	sub, err := s.subject(r, p, e.ID, e.Actor[0])
	if err != nil {
		return auth.Object{}, err
	}
	o.Owner, o.Environment = sub.Owner, sub.Environment
	for _, realm := range sub.Realms {
		addRealm(&o, realm)
	}
	for _, ref := range e.Targets {
		addRealm(&o, ref.Realm)
	}
	return o, nil
}

// decisionObject describes a decision to Authorize.
func decisionObject(d staunch.Decision) auth.Object {
	o := auth.ObjectOf(d.ID, d.Scope, d.Identity)
	addRealm(&o, d.Subject.Realm)
	return o
}

// maxScanned bounds how many items one request looks at in search of those that
// the caller may see.
const maxScanned = 10 * store.MaxPage

// listing is how one kind of thing is listed.
type listing[T any] struct {
	// fetch reads a page after the given cursor; cursor is an item's.
	fetch  func(r store.Reader, after string, limit int) ([]T, error)
	cursor func(T) string
	// object describes an item to Authorize; keep, when given, filters.
	object func(r store.Reader, item T) (auth.Object, error)
	keep   func(T) bool
}

// list returns a page of what the principal may see, and the cursor of the next
// one where there may be one.
func list[T any](ctx context.Context, s *Server, p auth.Principal, after string, limit int, l listing[T]) (items []T, next string, err error) {
	if limit <= 0 {
		limit = store.DefaultPage
	}
	err = s.opt.Store.View(ctx, func(r store.Reader) error {
		items, next = []T{}, ""
		at, scanned := after, 0
		for {
			page, err := l.fetch(r, at, limit)
			if err != nil {
				return err
			}
			for i, item := range page {
				at = l.cursor(item)
				scanned++
				if l.keep != nil && !l.keep(item) {
					continue
				}
				if p.Scoped() {
					o, err := l.object(r, item)
					if err != nil {
						return err
					}
					if auth.Authorize(p, auth.Read, o) != nil {
						continue
					}
				}
				items = append(items, item)
				if len(items) == limit {
					if i < len(page)-1 || len(page) == limit {
						next = at
					}
					return nil
				}
			}
			if len(page) < limit {
				return nil
			}
			if scanned >= maxScanned {
				next = at
				return nil
			}
		}
	})
	return items, next, err
}
