package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// LinkReader is the part of store.Reader that walks need.
type LinkReader = store.LinkReader

// Reader is the part of store.Reader that resolving needs. A thing that is not
// there is an error that wraps staunch.ErrNotFound.
type Reader interface {
	LinkReader
	// Identity returns a declared identity by name.
	Identity(name string) (staunch.Identity, error)
	// IdentityOf returns the declared identity that has ref among its accounts.
	IdentityOf(ref staunch.Ref) (staunch.Identity, error)
	// Above returns what is above each of refs.
	Above(refs []staunch.Ref) (map[staunch.Ref][]store.Raised, error)
}

// Limits bounds walks. A zero field takes its default.
type Limits struct {
	// Names bounds the names of one entity (64).
	Names int
	// Up bounds what a subject belongs to (128).
	Up int
	// Depth bounds the rounds of a walk (32).
	Depth int
	// Links bounds the links that one query of the store returns (10,000).
	Links int
	// Refs bounds the answer of a downward walk whose caller sets no limit
	// (10,000).
	Refs int
	// Skew is how far ahead of the instant asked about a membership may begin
	// (5 minutes): the skew that sources are allowed.
	Skew time.Duration
	// UnknownTolerance is the tolerance of identities that nobody declared
	// (normal). Policy caps the tier for them apart from it.
	UnknownTolerance staunch.Tolerance
}

// batch is how many refs one query of the store names.
const batch = 200

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Names, 64)
	def(&l.Up, 128)
	def(&l.Depth, 32)
	def(&l.Links, 10_000)
	def(&l.Refs, 10_000)
	if l.Skew <= 0 {
		l.Skew = 5 * time.Minute
	}
	if l.UnknownTolerance == "" {
		l.UnknownTolerance = staunch.ToleranceNormal
	}
	return l
}

// Inventory answers questions about refs. It has limits and no state, and is
// safe for concurrent use.
type Inventory struct{ limits Limits }

// New returns an inventory with the limits; zero fields take their defaults.
func New(l Limits) *Inventory { return &Inventory{limits: l.withDefaults()} }

// Resolve says what is known of ref as of an instant; asOf 0 means at any time.
// A ref of which nothing is known resolves to itself and an unknown, unmanaged
// identity. Where several declared identities have a claim, the one that claims
// the narrowest ref wins, and the answer is protected when any of them is: a
// shared key must not lose its owner's protection. An error is the store's.
func (i *Inventory) Resolve(r Reader, ref staunch.Ref, asOf staunch.Time) (staunch.Resolution, error) {
	names, err := i.names(r, []staunch.Ref{ref}, i.limits.Names)
	if err != nil {
		return staunch.Resolution{}, fmt.Errorf("resolving %s: %w", ref, err)
	}
	up, err := i.up(r, names, asOf)
	if err != nil {
		return staunch.Resolution{}, fmt.Errorf("resolving %s: %w", ref, err)
	}
	res := staunch.Resolution{Ref: ref, Names: names, AsOf: asOf}
	id, known, err := i.identity(r, ref, names, up)
	if err != nil {
		return staunch.Resolution{}, fmt.Errorf("resolving %s: %w", ref, err)
	}
	if known {
		who := staunch.IdentityRef(id.Name)
		if !slices.Contains(names, who) && !slices.Contains(up, who) {
			up = append(up, who)
			slices.SortFunc(up, compareWidth)
		}
	}
	res.Up, res.Identity = up, id
	return res, nil
}

// identity returns the canonical who behind names and what they belong to.
func (i *Inventory) identity(r Reader, ref staunch.Ref, names, up []staunch.Ref) (staunch.Identity, bool, error) {
	own := slices.Clone(names)
	slices.SortFunc(own, compareWidth)
	all := slices.Concat(own, up)
	var found staunch.Identity
	known, protected := false, false
	take := func(id staunch.Identity) {
		if !known {
			found, known = id, true
		}
		protected = protected || id.Protected
	}
	for _, n := range all {
		if n.Kind == staunch.KindIdentity {
			continue
		}
		id, err := r.IdentityOf(n)
		switch {
		case err == nil:
			take(id)
		case !errors.Is(err, staunch.ErrNotFound):
			return staunch.Identity{}, false, fmt.Errorf("reading the identity of %s: %w", n, err)
		}
	}
	// What facts say of the identity comes after what was declared, unless the
	// identity itself is what was asked about.
	for _, n := range all {
		if n.Kind != staunch.KindIdentity || (known && n != ref) {
			continue
		}
		id, err := r.Identity(n.Value)
		switch {
		case err == nil:
			take(id)
		case !errors.Is(err, staunch.ErrNotFound):
			return staunch.Identity{}, false, fmt.Errorf("reading identity %q: %w", n.Value, err)
		}
	}
	if known {
		found.Protected = protected
		return found, true, nil
	}
	// The widest thing known is the best name for the unknown: two sessions of
	// one account are then one unknown.
	widest := all[0]
	for _, n := range all {
		if n.Kind.Width() > widest.Kind.Width() {
			widest = n
		}
	}
	return staunch.Identity{
		V:         staunch.Version,
		Name:      "unknown:" + widest.String(),
		Kind:      staunch.IdentityUnknown,
		Tolerance: i.limits.UnknownTolerance,
	}, false, nil
}

// names returns the closure of refs over RelSame, refs included, sorted. Names
// of other kinds than the ref they are said to equal are left out: a session is
// never the same thing as an account, whatever a record says. More than limit
// names are cut, the first found kept.
func (i *Inventory) names(r LinkReader, refs []staunch.Ref, limit int) ([]staunch.Ref, error) {
	found, _, err := i.closure(r, refs, limit, func(staunch.Ref, staunch.Ref) {})
	return found, err
}

// entities is a set of refs with, for each, the first name of its entity.
type entities struct {
	refs []staunch.Ref // sorted
	of   map[staunch.Ref]staunch.Ref
	cut  bool
}

// entities finds the other names of refs, and which of them name one thing.
func (i *Inventory) entities(r LinkReader, refs []staunch.Ref, limit int) (entities, error) {
	g := entities{of: make(map[staunch.Ref]staunch.Ref, len(refs))}
	// root follows of to the entity's first name; joining keeps the smaller one,
	// so that the name does not depend on the order of joins.
	root := func(n staunch.Ref) staunch.Ref {
		for {
			up, ok := g.of[n]
			if !ok || up == n {
				return n
			}
			if upper, ok := g.of[up]; ok {
				g.of[n] = upper
			}
			n = up
		}
	}
	var err error
	g.refs, g.cut, err = i.closure(r, refs, limit, func(from, to staunch.Ref) {
		a, b := root(from), root(to)
		if compareRef(b, a) < 0 {
			a, b = b, a
		}
		g.of[b] = a
	})
	if err != nil {
		return entities{}, err
	}
	for _, n := range g.refs {
		g.of[n] = root(n)
	}
	return g, nil
}

// closure is names, a query for each round and not for each ref. It tells joined of
// each link between two that it returns, and whether there were more than fitted.
func (i *Inventory) closure(r LinkReader, refs []staunch.Ref, limit int, joined func(from, to staunch.Ref)) ([]staunch.Ref, bool, error) {
	limit = max(limit, len(refs))
	found, cut := RefSet{list: make([]staunch.Ref, 0, len(refs))}, false
	add := func(n staunch.Ref) bool {
		if found.Has(n) {
			return false
		}
		if len(found.list) >= limit {
			cut = true
			return false
		}
		return found.Add(n)
	}
	for _, n := range refs {
		add(n)
	}
	frontier := slices.Clone(found.list)
	for depth := 0; len(frontier) > 0; depth++ {
		if depth >= i.limits.Depth {
			cut = true
			break
		}
		links, more, err := i.both(r, frontier, staunch.RelSame)
		if err != nil {
			return nil, false, err
		}
		cut = cut || more
		var next []staunch.Ref
		for _, l := range links {
			if l.From.Kind != l.To.Kind {
				continue
			}
			for _, n := range [2]staunch.Ref{l.From, l.To} {
				if add(n) {
					next = append(next, n)
				}
			}
			if found.Has(l.From) && found.Has(l.To) { // not cut
				joined(l.From, l.To)
			}
		}
		slices.SortFunc(next, compareRef)
		frontier = next
	}
	slices.SortFunc(found.list, compareRef)
	return found.list, cut, nil
}

// up walks memberships that hold at asOf, with the other names of all that it
// finds, and returns them narrowest first.
func (i *Inventory) up(r LinkReader, names []staunch.Ref, asOf staunch.Time) ([]staunch.Ref, error) {
	seen := make(map[staunch.Ref]bool, len(names))
	for _, n := range names {
		seen[n] = true
	}
	var out []staunch.Ref
	frontier := names
	for depth := 0; len(frontier) > 0 && depth < i.limits.Depth && len(out) < i.limits.Up; depth++ {
		links, _, err := i.from(r, frontier, staunch.RelOf)
		if err != nil {
			return nil, err
		}
		var parents []staunch.Ref
		for _, l := range links {
			if l.To.Kind.Width() > l.From.Kind.Width() && i.holds(l, asOf) && !seen[l.To] && !slices.Contains(parents, l.To) {
				parents = append(parents, l.To)
			}
		}
		if len(parents) == 0 {
			break
		}
		slices.SortFunc(parents, compareWidth)
		all, err := i.names(r, parents, i.limits.Names)
		if err != nil {
			return nil, err
		}
		var next []staunch.Ref
		for _, p := range all {
			if !seen[p] && len(out) < i.limits.Up {
				seen[p] = true
				out = append(out, p)
				next = append(next, p)
			}
		}
		frontier = next
	}
	slices.SortFunc(out, compareWidth)
	return out, nil
}

// holds reports whether a membership holds at asOf.
func (i *Inventory) holds(l staunch.Link, asOf staunch.Time) bool {
	if asOf == 0 {
		return true
	}
	return i.begun(l, asOf) && (l.Until == 0 || l.Until >= asOf)
}

// begun reports whether a membership had begun by asOf.
func (i *Inventory) begun(l staunch.Link, asOf staunch.Time) bool {
	return asOf == 0 || l.Since == 0 || l.Since <= asOf.Add(i.limits.Skew)
}

func (i *Inventory) from(r LinkReader, refs []staunch.Ref, rels ...staunch.Rel) ([]staunch.Link, bool, error) {
	return i.query(r.LinksFrom, refs, rels)
}

func (i *Inventory) to(r LinkReader, refs []staunch.Ref, rels ...staunch.Rel) ([]staunch.Link, bool, error) {
	return i.query(r.LinksTo, refs, rels)
}

func (i *Inventory) both(r LinkReader, refs []staunch.Ref, rels ...staunch.Rel) ([]staunch.Link, bool, error) {
	a, cut1, err := i.from(r, refs, rels...)
	if err != nil {
		return nil, false, err
	}
	b, cut2, err := i.to(r, refs, rels...)
	if err != nil {
		return nil, false, err
	}
	if len(a) == 0 {
		a, b = b, nil
	}
	return append(a, b...), cut1 || cut2, nil
}

// query asks in batches and sorts, so that no answer depends on how the store
// ordered or a caller permuted things. The flag says that the store may have
// more.
func (i *Inventory) query(ask func([]staunch.Ref, []staunch.Rel, int) ([]staunch.Link, error), refs []staunch.Ref, rels []staunch.Rel) ([]staunch.Link, bool, error) {
	var out []staunch.Link
	cut := false
	for part := range slices.Chunk(refs, batch) {
		links, err := ask(part, rels, i.limits.Links)
		if err != nil {
			return nil, false, fmt.Errorf("reading links: %w", err)
		}
		cut = cut || len(links) >= i.limits.Links
		if len(out) == 0 {
			out = links
			continue
		}
		out = append(out, links...)
	}
	slices.SortFunc(out, func(a, b staunch.Link) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Fact, b.Fact), compareRef(a.From, b.From), compareRef(a.To, b.To))
	})
	return out, cut, nil
}

// compareRef orders refs by their parts, allocating nothing.
func compareRef(a, b staunch.Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Realm, b.Realm), cmp.Compare(a.Scheme, b.Scheme), cmp.Compare(a.Value, b.Value))
}

// compareWidth orders refs narrowest first.
func compareWidth(a, b staunch.Ref) int {
	return cmp.Or(cmp.Compare(a.Kind.Width(), b.Kind.Width()), compareRef(a, b))
}
