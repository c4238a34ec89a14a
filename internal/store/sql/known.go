package sqlstore

import (
	"cmp"
	"errors"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// recent is a map that forgets what was not asked for lately: half of what it
// has at a time.
type recent[K comparable, V any] struct {
	most       int // of each half
	young, old map[K]V
}

func (m *recent[K, V]) get(k K) (V, bool) {
	v, ok := m.young[k]
	if ok {
		return v, true
	}
	if v, ok = m.old[k]; ok {
		m.put(k, v)
	}
	return v, ok
}

func (m *recent[K, V]) put(k K, v V) {
	if m.young == nil || len(m.young) >= m.most {
		m.old, m.young = m.young, m.old
		if m.young == nil {
			m.young = make(map[K]V)
		}
		clear(m.young) // with its room, which it needs again
	}
	m.young[k] = v
}

func (m *recent[K, V]) drop(k K) {
	delete(m.young, k)
	delete(m.old, k)
}

func (m *recent[K, V]) clear() { m.young, m.old = nil, nil }

// known is what a writer remembers of rows that it has read or written. It is
// right as long as nobody else writes: for one transaction on PostgreSQL, where
// the isolation sees to it, and on SQLite from one to the next, until one is
// rolled back, since it also has what was not committed.
type known struct {
	links   recent[linkKey, []staunch.Link]
	of      recent[staunch.Ref, identityOf]
	cursors recent[string, cursor]
	// above has what is above a ref, and lies all that stands in it or did once.
	above recent[staunch.Ref, []store.Raised]
	lies  map[staunch.Ref]bool
	// within has, by the key of a ref, the briefs of the signals that are found under
	// it, where these are many; signals never change. This and above are for SQLite
	// alone.
	within recent[string, *found]
	// numbers are those of refs, by their keys; next is the next ref's, 0 while it
	// is not known. See numbers.go.
	numbers recent[string, int64]
	next    int64
	lasting bool
}

// found is what was found under a ref: the newest signals since a time, the newest
// first, all of them if they are fewer than most.
type found struct {
	list  []*staunch.Signal
	since staunch.Time
	most  int
}

// has reports whether it answers the question.
func (f *found) has(since staunch.Time, limit int) bool {
	return f.since <= since && (len(f.list) < f.most || limit <= f.most)
}

// add puts a signal that is new.
func (f *found) add(s *staunch.Signal) {
	if s.Time < f.since {
		return
	}
	at, _ := slices.BinarySearchFunc(f.list, s, newestFirstSignals)
	f.list = slices.Insert(f.list, at, s)
	f.list = f.list[:min(len(f.list), f.most)]
}

func newestFirstSignals(a, b *staunch.Signal) int {
	return cmp.Or(cmp.Compare(b.Time, a.Time), cmp.Compare(b.ID, a.ID))
}

// linkKey stands for the links of a relation at one end.
type linkKey struct {
	ref staunch.Ref
	rel staunch.Rel
	end linkEnd
}

type linkEnd bool

const (
	endFrom linkEnd = false
	endTo   linkEnd = true
)

// identityOf is the declared identity of an account, or that there is none.
type identityOf struct {
	identity staunch.Identity
	err      error
}

// cursor is a cursor's value, or that there is none.
type cursor struct {
	value string
	err   error
}

// Bounds of what is remembered. Links of refs that have more are asked for each
// time.
const (
	mostLinks   = 16_384
	mostOf      = 16_384
	mostCursors = 16_384
	mostWithin  = 64
	mostAbove   = 16_384
	mostLies    = 200_000
	mostNumbers = 32_768
	// fewFound is up to how many signals under a ref are read each time.
	fewFound   = 64
	linksOfOne = 64
)

func newKnown() *known {
	return &known{
		links:   recent[linkKey, []staunch.Link]{most: mostLinks},
		of:      recent[staunch.Ref, identityOf]{most: mostOf},
		cursors: recent[string, cursor]{most: mostCursors},
		within:  recent[string, *found]{most: mostWithin},
		above:   recent[staunch.Ref, []store.Raised]{most: mostAbove},
		numbers: recent[string, int64]{most: mostNumbers},
		lies:    map[staunch.Ref]bool{},
	}
}

// forget is for when something was rolled back.
func (k *known) forget() {
	k.links.clear()
	k.of.clear()
	k.cursors.clear()
	k.within.clear()
	k.above.clear()
	clear(k.lies)
	k.numbers.clear()
	k.next = 0
}

// accused notes a new signal under the refs that it is found under.
func (k *known) accused(s staunch.Signal, within []string) {
	if !k.lasting {
		return
	}
	for _, key := range within {
		if f, ok := k.within.get(key); ok {
			brief := store.Brief(s)
			f.add(&brief)
		}
	}
}

// unaccused forgets a signal that is deleted. It may be found under refs that are
// not known to be above it any more, so all that reach back to it are looked at.
func (k *known) unaccused(id string, at staunch.Time) {
	if !k.lasting {
		return
	}
	for _, half := range []map[string]*found{k.within.young, k.within.old} {
		for key, f := range half {
			if n := len(f.list); n > 0 && f.list[n-1].Time <= at && slices.ContainsFunc(f.list, func(s *staunch.Signal) bool { return s.ID == id }) {
				k.within.drop(key)
			}
		}
	}
}

// aboveIs remembers what is above ref.
func (k *known) aboveIs(ref staunch.Ref, list []store.Raised) {
	if len(k.lies) > mostLies {
		k.above.clear()
		clear(k.lies)
	}
	k.above.put(ref, list)
	for _, u := range list {
		k.lies[u.Ref] = true
	}
}

func (k *known) linkPut(l staunch.Link) {
	// A link changes what is above those that it is above of, or that it begins at.
	// A new session is neither.
	if k.lies[l.From] || l.Rel == staunch.RelSame && k.lies[l.To] {
		k.above.clear()
		clear(k.lies)
	}
	k.links.drop(linkKey{l.From, l.Rel, endFrom})
	k.links.drop(linkKey{l.To, l.Rel, endTo})
}

// remembering answers from memory what it can, and asks for the rest. What it
// returns is the caller's to change.
func (r *reader) remembering(end linkEnd, u *union, refs []staunch.Ref, rels []staunch.Rel, limit int64) ([]staunch.Link, error) {
	var missing []linkKey
	var keys [][]any
	known := make([][]staunch.Link, 0, 8)
	count := 0
	for ref := range eachOnce(refs) {
		key := ""
		for _, rel := range rels {
			k := linkKey{ref, rel, end}
			if links, ok := r.known.links.get(k); ok {
				if len(links) > 0 {
					known, count = append(known, links), count+len(links)
				}
				continue
			}
			if key == "" {
				key = ref.Key()
			}
			missing = append(missing, k)
			keys = append(keys, []any{key, string(rel)})
		}
	}
	var rows []link
	if len(missing) > 0 {
		var err error
		if rows, err = fanned(r, u, keys, []any{limit}, int(limit), compareLinks); err != nil {
			return nil, err
		}
		if int64(len(rows)) < limit { // otherwise there may be more
			r.known.linksAre(end, missing, rows)
		}
	}
	out := make([]staunch.Link, 0, count+len(rows))
	for _, links := range known {
		out = append(out, links...)
	}
	for _, l := range rows {
		out = append(out, staunch.Link(l))
	}
	return out, r.failed
}

// linksAre remembers the links of keys, all that there are.
func (k *known) linksAre(end linkEnd, keys []linkKey, rows []link) {
	each := make(map[linkKey][]staunch.Link, len(keys))
	for _, l := range rows {
		at := linkKey{l.From, l.Rel, end}
		if end == endTo {
			at.ref = l.To
		}
		each[at] = append(each[at], staunch.Link(l))
	}
	for _, at := range keys {
		if len(each[at]) <= linksOfOne {
			k.links.put(at, each[at])
		}
	}
}

// isIdentityOf is IdentityOf, remembered.
func (r *reader) isIdentityOf(ref staunch.Ref, ask func(staunch.Ref) (staunch.Identity, error)) (staunch.Identity, error) {
	if r.failed != nil {
		return staunch.Identity{}, r.failed
	}
	if a, ok := r.known.of.get(ref); ok {
		return a.identity, a.err
	}
	id, err := ask(ref)
	if err == nil || r.failed == nil && errors.Is(err, staunch.ErrNotFound) {
		r.known.of.put(ref, identityOf{id, err})
	}
	return id, err
}
