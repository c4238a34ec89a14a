package store

import (
	"fmt"

	"github.com/staunch-project/staunch"
)

// Bounds of what a signal is found under.
const (
	// MostAbove is how many refs a signal is found under.
	MostAbove = 256
	// MostRisen is how many of the signals below a ref, the newest, are found
	// under what the ref is later known to belong to.
	MostRisen = 10_000
	// depthAbove bounds the memberships and names in a row that are followed.
	depthAbove = 32
)

// Above returns ref, its other names, and what they belong or ever belonged to,
// with the names of that: what a signal that accuses ref is found under. There
// are at most MostAbove.
func Above(r interface {
	LinksFrom(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error)
	LinksTo(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error)
}, ref staunch.Ref) ([]staunch.Ref, error) {
	seen := map[staunch.Ref]bool{ref: true}
	out := []staunch.Ref{ref}
	add := func(n staunch.Ref) {
		if !seen[n] && len(out) < MostAbove {
			seen[n] = true
			out = append(out, n)
		}
	}
	for from, depth := 0, 0; from < len(out) && depth < depthAbove; depth++ {
		frontier := out[from:len(out):len(out)]
		from = len(out)
		up, err := r.LinksFrom(frontier, []staunch.Rel{staunch.RelOf, staunch.RelSame}, MaxPage)
		if err != nil {
			return nil, fmt.Errorf("finding what %s belongs to: %w", ref, err)
		}
		names, err := r.LinksTo(frontier, []staunch.Rel{staunch.RelSame}, MaxPage)
		if err != nil {
			return nil, fmt.Errorf("finding the names of %s: %w", ref, err)
		}
		for _, l := range up {
			if Rises(l) {
				add(l.To)
			}
		}
		for _, l := range names {
			if Rises(l) {
				add(l.From)
			}
		}
	}
	return out, nil
}

// Rises reports whether what accuses one end of a link counts at the other: at To
// where From is narrower and belongs to it, at both where they name one thing. A
// session is never the same thing as an account, whatever a record says.
func Rises(l staunch.Link) bool {
	switch l.Rel {
	case staunch.RelOf:
		return l.From.Kind.Width() > 0 && l.From.Kind.Width() < l.To.Kind.Width()
	case staunch.RelSame:
		return l.From.Kind == l.To.Kind
	default:
		return false
	}
}
