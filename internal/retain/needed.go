package retain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// needed is what cases rest on.
type needed struct {
	seed maphash.Seed
	// ids has the hashes of the ids of decisions, signals and events, sorted. Two ids
	// of one hash keep one row too many.
	ids []uint64
	// open has the subjects of open cases, by all their names.
	open map[staunch.Ref]bool
	// of has the hashes by case, so that what does not change is read once.
	of map[string]rests
}

// rests is what one case rests on.
type rests struct {
	decisions int
	ids       []uint64
}

func newNeeded() *needed {
	return &needed{seed: maphash.MakeSeed(), open: map[staunch.Ref]bool{}, of: map[string]rests{}}
}

func (n *needed) hash(id string) uint64 { return maphash.String(n.seed, id) }

// has reports whether a case rests on what has the id.
func (n *needed) has(id string) bool {
	_, ok := slices.BinarySearch(n.ids, n.hash(id))
	return ok
}

// concerns reports whether an open case has one of the refs as its subject.
func (n *needed) concerns(refs ...staunch.Ref) bool {
	if len(n.open) == 0 {
		return false
	}
	return slices.ContainsFunc(refs, func(r staunch.Ref) bool { return n.open[r] })
}

// read reads every case that there is, a page in a transaction.
func (n *needed) read(ctx context.Context, st store.Store) error {
	open, of := map[staunch.Ref]bool{}, make(map[string]rests, len(n.of))
	page := store.Page{Limit: store.DefaultPage}
	for more := true; more; {
		err := st.View(ctx, func(r store.Reader) error {
			cases, err := r.Containments(page, false)
			if err != nil {
				return err
			}
			for _, c := range cases {
				if c.Phase.Open() {
					open[c.Subject] = true
					for _, name := range c.Names {
						open[name] = true
					}
				}
				have, ok := n.of[c.ID]
				if !ok || have.decisions != len(c.Decisions) {
					if have, err = n.restsOn(r, c); err != nil {
						return err
					}
				}
				of[c.ID] = have
			}
			if more = len(cases) == page.Limit; more {
				page.After = cases[len(cases)-1].ID
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading what cases rest on: %w", err)
		}
	}
	var ids []uint64
	for _, r := range of {
		ids = append(ids, r.ids...)
	}
	slices.Sort(ids)
	n.ids, n.open, n.of = slices.Compact(ids), open, of
	return nil
}

func (n *needed) restsOn(r store.Reader, c staunch.Containment) (rests, error) {
	out := rests{decisions: len(c.Decisions)}
	seen := map[string]bool{}
	for _, id := range c.Decisions {
		out.ids = append(out.ids, n.hash(id))
		d, err := r.Decision(id)
		if errors.Is(err, staunch.ErrNotFound) {
			continue
		}
		if err != nil {
			return out, err
		}
		for _, sid := range d.Signals {
			if seen[sid] {
				continue
			}
			seen[sid] = true
			out.ids = append(out.ids, n.hash(sid))
			s, err := r.Signal(sid)
			if errors.Is(err, staunch.ErrNotFound) {
				continue
			}
			if err != nil {
				return out, err
			}
			for _, ev := range append([]string{s.Event}, s.Events...) {
				out.ids = append(out.ids, n.hash(ev))
			}
		}
	}
	slices.Sort(out.ids)
	out.ids = slices.Clip(slices.Compact(out.ids))
	return out, nil
}

// Bounds of a walk upwards.
const (
	mostUpward  = 1000
	depthUpward = 32
	linksUpward = 10_000
)

// belowOpen reports whether an open case has one of the refs, or what they belong to
// or came from, as its subject. What is beyond the bounds counts as if it had.
func (n *needed) belowOpen(r store.Reader, refs ...staunch.Ref) (bool, error) {
	if len(n.open) == 0 {
		return false, nil
	}
	met := map[staunch.Ref]bool{}
	var frontier []staunch.Ref
	meet := func(ref staunch.Ref) {
		if !ref.IsZero() && !met[ref] {
			met[ref] = true
			frontier = append(frontier, ref)
		}
	}
	for _, ref := range refs {
		meet(ref)
	}
	for range depthUpward {
		asked := frontier
		frontier = nil
		if n.concerns(asked...) || len(met) > mostUpward {
			return true, nil
		}
		if len(asked) == 0 {
			return false, nil
		}
		up, err := r.LinksFrom(asked, []staunch.Rel{staunch.RelOf, staunch.RelBy, staunch.RelSame}, linksUpward)
		if err != nil {
			return false, fmt.Errorf("finding what is above %d refs: %w", len(asked), err)
		}
		names, err := r.LinksTo(asked, []staunch.Rel{staunch.RelSame}, linksUpward)
		if err != nil {
			return false, fmt.Errorf("finding the names of %d refs: %w", len(asked), err)
		}
		for _, l := range up {
			meet(l.To)
		}
		for _, l := range names {
			meet(l.From)
		}
	}
	return true, nil
}

// earlier is the earlier of two times, of which 0 is none.
func earlier(a, b staunch.Time) staunch.Time {
	if a == 0 || b == 0 {
		return cmp.Or(a, b)
	}
	return min(a, b)
}
