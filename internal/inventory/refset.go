package inventory

import (
	"slices"

	"github.com/staunch-project/staunch"
)

// RefSet is a set of refs that keeps the order of their adding; its zero value is
// empty. It is not safe for concurrent use.
type RefSet struct {
	list []staunch.Ref
	in   map[staunch.Ref]bool // where they are many
}

// fewNames is up to how many refs are compared faster than hashed.
const fewNames = 16

// Has reports whether n was added.
func (s *RefSet) Has(n staunch.Ref) bool {
	if s.in != nil {
		return s.in[n]
	}
	return slices.Contains(s.list, n)
}

// Add adds n, and reports whether it was not there.
func (s *RefSet) Add(n staunch.Ref) bool {
	if s.Has(n) {
		return false
	}
	s.list = append(s.list, n)
	switch {
	case s.in != nil:
		s.in[n] = true
	case len(s.list) > fewNames:
		s.in = make(map[staunch.Ref]bool, 2*len(s.list))
		for _, m := range s.list {
			s.in[m] = true
		}
	}
	return true
}

// List returns the refs in the order of their adding, not to be changed.
func (s *RefSet) List() []staunch.Ref { return s.list }
