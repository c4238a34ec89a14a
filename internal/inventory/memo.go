package inventory

import (
	"slices"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Memo returns a reader that asks r each question once, unless it is about many
// refs. It is for a few questions in a row on one snapshot, between which nothing
// is written, and not safe for concurrent use.
func Memo(r Reader) Reader {
	return &memo{r: r, links: map[string][]staunch.Link{}, of: map[staunch.Ref]answer{}}
}

type memo struct {
	r     Reader
	links map[string][]staunch.Link
	of    map[staunch.Ref]answer
}

type answer struct {
	id  staunch.Identity
	err error
}

// fewRefs is up to how many refs make a question that is likely to be asked again.
const fewRefs = 16

func (m *memo) ask(way string, ask func([]staunch.Ref, []staunch.Rel, int) ([]staunch.Link, error), refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	if len(refs) > fewRefs {
		return ask(refs, rels, limit)
	}
	var b strings.Builder
	b.WriteString(way)
	b.WriteString(strconv.Itoa(limit))
	for _, rel := range rels {
		b.WriteByte(0)
		b.WriteString(string(rel))
	}
	for _, ref := range refs {
		b.WriteByte(0)
		b.WriteString(ref.Key())
	}
	key := b.String()
	l, ok := m.links[key]
	if !ok {
		var err error
		if l, err = ask(refs, rels, limit); err != nil {
			return nil, err
		}
		m.links[key] = l
	}
	return slices.Clone(l), nil
}

func (m *memo) LinksFrom(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return m.ask("from", m.r.LinksFrom, refs, rels, limit)
}

func (m *memo) LinksTo(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return m.ask("to", m.r.LinksTo, refs, rels, limit)
}

func (m *memo) Above(refs []staunch.Ref) (map[staunch.Ref][]store.Raised, error) {
	return m.r.Above(refs)
}

func (m *memo) Identity(name string) (staunch.Identity, error) { return m.r.Identity(name) }

func (m *memo) IdentityOf(ref staunch.Ref) (staunch.Identity, error) {
	a, ok := m.of[ref]
	if !ok {
		a.id, a.err = m.r.IdentityOf(ref)
		m.of[ref] = a
	}
	return a.id, a.err
}
