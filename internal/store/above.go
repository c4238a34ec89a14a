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
	// linksAbove bounds the links that one question returns.
	linksAbove = 10_000
)

// Raised is a ref above another.
type Raised struct {
	Ref staunch.Ref
	// Hops is how many memberships lie between the two; 0 for other names.
	Hops int
}

// LinkReader is what Above needs of a Reader.
type LinkReader interface {
	LinksFrom(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error)
	LinksTo(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error)
}

// Above returns, for each of refs, itself, its other names, and what they belong
// or ever belonged to, with the names of that: what a signal that accuses it is
// found under, the nearest first and at most MostAbove. The refs share their
// questions.
func Above(r LinkReader, refs []staunch.Ref) (map[staunch.Ref][]Raised, error) {
	type way struct {
		to   staunch.Ref
		hops int
	}
	ways := map[staunch.Ref][]way{}
	met := make(map[staunch.Ref]bool, len(refs))
	var frontier []staunch.Ref
	meet := func(n staunch.Ref) {
		if !met[n] {
			met[n] = true
			frontier = append(frontier, n)
		}
	}
	for _, n := range refs {
		meet(n)
	}
	for depth := 0; len(frontier) > 0 && depth < depthAbove; depth++ {
		asked := frontier
		frontier = nil
		up, err := r.LinksFrom(asked, []staunch.Rel{staunch.RelOf, staunch.RelSame}, linksAbove)
		if err != nil {
			return nil, fmt.Errorf("finding what %d refs belong to: %w", len(asked), err)
		}
		names, err := r.LinksTo(asked, []staunch.Rel{staunch.RelSame}, linksAbove)
		if err != nil {
			return nil, fmt.Errorf("finding the names of %d refs: %w", len(asked), err)
		}
		for _, l := range up {
			if !Rises(l) {
				continue
			}
			hops := 0
			if l.Rel == staunch.RelOf {
				hops = 1
			}
			ways[l.From] = append(ways[l.From], way{l.To, hops})
			meet(l.To)
		}
		for _, l := range names {
			if Rises(l) {
				ways[l.To] = append(ways[l.To], way{l.From, 0})
				meet(l.From)
			}
		}
	}
	out := make(map[staunch.Ref][]Raised, len(refs))
	for _, ref := range refs {
		at := map[staunch.Ref]bool{ref: true}
		list := []Raised{{ref, 0}}
		var next []staunch.Ref // one membership further
		for i, hops := 0, 0; ; i++ {
			if i == len(list) {
				hops++
				for _, n := range next {
					if !at[n] && len(list) < MostAbove {
						at[n] = true
						list = append(list, Raised{n, hops})
					}
				}
				if next = next[:0]; i == len(list) {
					break
				}
			}
			for _, w := range ways[list[i].Ref] {
				switch {
				case at[w.to]:
				case w.hops > 0:
					next = append(next, w.to)
				case len(list) < MostAbove:
					at[w.to] = true
					list = append(list, Raised{w.to, list[i].Hops})
				}
			}
		}
		out[ref] = list
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
