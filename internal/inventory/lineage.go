package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Member is something that belongs to a subject.
type Member struct {
	Ref staunch.Ref `json:"ref"`
	// Hops is how many memberships lie between it and the subject; 0 for the
	// subject's own names.
	Hops int `json:"hops"`
	// Entity is the first of its names, the same for all names of one entity, so
	// that entities can be counted.
	Entity staunch.Ref `json:"entity"`
}

// Below says where each of refs lies below ref: the roll-up of suspicion weighs
// signals by it. What does not belong to it is not in the answer; what once did is,
// since a session that is over was nevertheless the credential's. Each is followed
// upwards, so that the cost is theirs and not that of all that ref has.
func (i *Inventory) Below(r Reader, ref staunch.Ref, refs []staunch.Ref) (map[staunch.Ref]Member, error) {
	out, err := i.below(r, ref, refs)
	if err != nil {
		return nil, fmt.Errorf("finding what of %d refs belongs to %s: %w", len(refs), ref, err)
	}
	return out, nil
}

func (i *Inventory) below(r Reader, ref staunch.Ref, refs []staunch.Ref) (map[staunch.Ref]Member, error) {
	names, err := i.names(r, []staunch.Ref{ref}, i.limits.Names)
	if err != nil {
		return nil, err
	}
	// What is below one that ref has by declaration is below ref, one further down.
	further := make(map[staunch.Ref]int, len(names))
	for _, n := range names {
		further[n] = 0
	}
	for _, n := range names {
		if n.Kind != staunch.KindIdentity {
			continue
		}
		id, err := r.Identity(n.Value)
		if err != nil && !errors.Is(err, staunch.ErrNotFound) {
			return nil, fmt.Errorf("reading identity %q: %w", n.Value, err)
		}
		for _, a := range id.Accounts {
			if _, ok := further[a]; !ok {
				further[a] = 1
			}
		}
	}
	above, err := r.Above(refs)
	if err != nil {
		return nil, err
	}
	out := make(map[staunch.Ref]Member, len(refs))
	for n, up := range above {
		m := Member{Ref: n, Hops: -1, Entity: n}
		for _, u := range up {
			if u.Hops == 0 && compareRef(u.Ref, m.Entity) < 0 {
				m.Entity = u.Ref
			}
			if f, ok := further[u.Ref]; ok && (m.Hops < 0 || u.Hops+f < m.Hops) {
				m.Hops = u.Hops + f
			}
		}
		if m.Hops >= 0 {
			out[n] = m
		}
	}
	return out, nil
}

// within returns what belongs to the roots, they and their other names first with
// no hops, the rest by hops and then by ref. A membership counts once it has begun
// by asOf (0: at any time), also after it ended. It returns at most limit members
// and says when there were more.
func (i *Inventory) within(r Reader, roots []staunch.Ref, asOf staunch.Time, limit int) ([]Member, bool, error) {
	seen := make(map[staunch.Ref]bool)
	var out []Member
	cut := false
	// level takes newly found refs with their other names and returns those that
	// fitted.
	level := func(found []staunch.Ref, hops int) ([]staunch.Ref, error) {
		fresh := make(map[staunch.Ref]bool, len(found))
		var ask []staunch.Ref
		slices.SortFunc(found, compareRef)
		for _, f := range found {
			if seen[f] || fresh[f] {
				continue
			}
			if len(out)+len(ask) >= limit {
				cut = true
				break
			}
			fresh[f] = true
			ask = append(ask, f)
		}
		g, err := i.entities(r, ask, limit-len(out))
		if err != nil {
			return nil, err
		}
		cut = cut || g.cut
		var next []staunch.Ref
		for _, n := range g.refs {
			if seen[n] {
				continue
			}
			seen[n] = true
			out = append(out, Member{Ref: n, Hops: hops, Entity: g.of[n]})
			next = append(next, n)
		}
		return next, nil
	}
	frontier, err := level(slices.Clone(roots), 0)
	if err != nil {
		return nil, false, err
	}
	for hops := 1; len(frontier) > 0; hops++ {
		if hops > i.limits.Depth {
			cut = true
			break
		}
		links, more, err := i.to(r, frontier, staunch.RelOf)
		if err != nil {
			return nil, false, err
		}
		cut = cut || more
		var found []staunch.Ref
		for _, l := range links {
			if store.Rises(l) && i.begun(l, asOf) {
				found = append(found, l.From)
			}
		}
		for _, f := range frontier {
			if f.Kind != staunch.KindIdentity {
				continue
			}
			id, err := r.Identity(f.Value)
			switch {
			case err == nil:
				found = append(found, id.Accounts...)
			case !errors.Is(err, staunch.ErrNotFound):
				return nil, false, fmt.Errorf("reading identity %q: %w", f.Value, err)
			}
		}
		if frontier, err = level(found, hops); err != nil {
			return nil, false, err
		}
	}
	slices.SortFunc(out, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Hops, b.Hops), compareRef(a.Ref, b.Ref))
	})
	return out, cut, nil
}

// Derived returns what came from the roots, by their own act, at or after since
// (0: ever): what they, their other names and what belongs to them issued,
// created or authenticated, what belongs to those, and what those issued in
// turn. Something whose beginning nobody knows counts, since it cannot be shown
// to be older. The roots and what belongs to them are not in the answer, which
// is sorted and has at most limit refs (0: the default); the flag says when a
// bound cut it.
func (i *Inventory) Derived(r Reader, roots []staunch.Ref, since staunch.Time, limit int) ([]staunch.Ref, bool, error) {
	if limit <= 0 {
		limit = i.limits.Refs
	}
	members, cut, err := i.within(r, roots, 0, i.limits.Refs)
	if err != nil {
		return nil, false, fmt.Errorf("walking lineage: %w", err)
	}
	seen := make(map[staunch.Ref]bool, len(members))
	frontier := make([]staunch.Ref, 0, len(members))
	for _, m := range members {
		seen[m.Ref] = true
		frontier = append(frontier, m.Ref)
	}
	var out []staunch.Ref
	for depth := 0; len(frontier) > 0; depth++ {
		if depth >= i.limits.Depth {
			cut = true
			break
		}
		links, more, err := i.to(r, frontier, staunch.RelBy)
		if err != nil {
			return nil, false, fmt.Errorf("walking lineage: %w", err)
		}
		cut = cut || more
		var made []staunch.Ref
		for _, l := range links {
			if l.From.Kind.Width() > 0 && !seen[l.From] && (l.Since == 0 || l.Since >= since) {
				made = append(made, l.From)
			}
		}
		if len(made) == 0 {
			break
		}
		below, more, err := i.within(r, made, 0, i.limits.Refs)
		if err != nil {
			return nil, false, fmt.Errorf("walking lineage: %w", err)
		}
		cut = cut || more
		frontier = frontier[:0]
		for _, m := range below {
			if seen[m.Ref] {
				continue
			}
			if len(out) >= limit {
				slices.SortFunc(out, compareRef)
				return out, true, nil
			}
			seen[m.Ref] = true
			out = append(out, m.Ref)
			frontier = append(frontier, m.Ref)
		}
	}
	slices.SortFunc(out, compareRef)
	return out, cut, nil
}

// Node is one thing in a lineage tree.
type Node struct {
	Ref staunch.Ref `json:"ref"`
	// Rel is how it hangs on the node above: RelOf, RelBy or RelSame; empty for
	// the root.
	Rel   staunch.Rel  `json:"rel,omitempty"`
	Since staunch.Time `json:"since,omitempty"`
	Until staunch.Time `json:"until,omitempty"`
	Fact  string       `json:"fact,omitempty"`
	// Seen says that its children stand where it was met first.
	Seen     bool   `json:"seen,omitempty"`
	Children []Node `json:"children,omitempty"`
}

// Lineage returns, as a tree for people, what belongs to ref and what came from
// it, the oldest first. Each ref is opened once, so that cycles end. It has at
// most limit nodes (0: the default) and says when there was more.
func (i *Inventory) Lineage(r Reader, ref staunch.Ref, limit int) (Node, bool, error) {
	if limit <= 0 {
		limit = i.limits.Refs
	}
	w := lineageWalk{inv: i, r: r, seen: map[staunch.Ref]bool{ref: true}, left: limit - 1}
	root := Node{Ref: ref}
	if err := w.open(&root, 0); err != nil {
		return Node{}, false, fmt.Errorf("drawing the lineage of %s: %w", ref, err)
	}
	return root, w.cut, nil
}

type lineageWalk struct {
	inv  *Inventory
	r    Reader
	seen map[staunch.Ref]bool
	left int
	cut  bool
}

func (w *lineageWalk) open(n *Node, depth int) error {
	if depth >= w.inv.limits.Depth {
		w.cut = true
		return nil
	}
	var kids []Node
	if n.Ref.Kind == staunch.KindIdentity {
		id, err := w.r.Identity(n.Ref.Value)
		switch {
		case err == nil:
			for _, a := range id.Accounts {
				kids = append(kids, Node{Ref: a, Rel: staunch.RelOf})
			}
		case !errors.Is(err, staunch.ErrNotFound):
			return fmt.Errorf("reading identity %q: %w", n.Ref.Value, err)
		}
	}
	links, more, err := w.inv.to(w.r, []staunch.Ref{n.Ref}, staunch.RelOf, staunch.RelBy, staunch.RelSame)
	if err != nil {
		return err
	}
	same, more2, err := w.inv.from(w.r, []staunch.Ref{n.Ref}, staunch.RelSame)
	if err != nil {
		return err
	}
	w.cut = w.cut || more || more2
	for _, l := range links {
		kids = append(kids, Node{Ref: l.From, Rel: l.Rel, Since: l.Since, Until: l.Until, Fact: l.Fact})
	}
	for _, l := range same {
		kids = append(kids, Node{Ref: l.To, Rel: l.Rel, Since: l.Since, Until: l.Until, Fact: l.Fact})
	}
	// Several facts may state one edge; the first stands for them all.
	first := make(map[staunch.Ref]bool, len(kids))
	for _, k := range kids {
		if first[k.Ref] || k.Ref == n.Ref {
			continue
		}
		first[k.Ref] = true
		if w.left <= 0 {
			w.cut = true
			return nil
		}
		w.left--
		k.Seen = w.seen[k.Ref]
		w.seen[k.Ref] = true
		n.Children = append(n.Children, k)
	}
	for c := range n.Children {
		if !n.Children[c].Seen {
			if err := w.open(&n.Children[c], depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
