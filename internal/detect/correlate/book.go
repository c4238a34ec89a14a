package correlate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Book is a Ledger in memory, for a file's records and for tests. It keeps
// everything, and is for one goroutine.
type Book struct {
	rows map[string][]store.Contribution // in order
	due  map[string]bool                 // series that have some
	seen map[string]map[string]store.Sighting
}

var _ Ledger = (*Book)(nil)

// NewBook returns an empty book.
func NewBook() *Book {
	return &Book{rows: map[string][]store.Contribution{}, due: map[string]bool{}, seen: map[string]map[string]store.Sighting{}}
}

func compareRows(a, b store.Contribution) int {
	return cmp.Or(cmp.Compare(a.At, b.At), strings.Compare(a.Event, b.Event), cmp.Compare(a.Base, b.Base))
}

// Contributions implements Ledger.
func (b *Book) Contributions(series string, from, to staunch.Time, limit int) ([]store.Contribution, error) {
	rows := b.rows[series]
	lo, _ := slices.BinarySearchFunc(rows, from, func(c store.Contribution, t staunch.Time) int { return cmp.Compare(c.At, t) })
	hi, _ := slices.BinarySearchFunc(rows, to, func(c store.Contribution, t staunch.Time) int {
		if c.At <= t {
			return -1
		}
		return 1
	})
	hi = max(hi, lo)
	return slices.Clone(rows[max(lo, hi-limit):hi]), nil
}

// DueContributions implements Ledger.
func (b *Book) DueContributions(now staunch.Time, limit int) ([]store.Contribution, error) {
	var out []store.Contribution
	for series := range b.due {
		left := false
		for _, c := range b.rows[series] {
			left = left || c.Due > 0
			if c.Due > 0 && c.Due <= now {
				out = append(out, c)
			}
		}
		if !left {
			delete(b.due, series)
		}
	}
	slices.SortFunc(out, func(x, y store.Contribution) int {
		return cmp.Or(cmp.Compare(x.Due, y.Due), strings.Compare(x.Series, y.Series), compareRows(x, y))
	})
	return out[:min(limit, len(out))], nil
}

// Sightings implements Ledger.
func (b *Book) Sightings(series, from, to string, limit int) ([]store.Sighting, error) {
	var out []store.Sighting
	if from == to {
		if s, ok := b.seen[series][from]; ok {
			out = append(out, s)
		}
		return out, nil
	}
	for item, s := range b.seen[series] {
		if item >= from && item <= to {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(x, y store.Sighting) int { return strings.Compare(x.Item, y.Item) })
	return out[max(0, len(out)-limit):], nil
}

// PutContributions implements Ledger.
func (b *Book) PutContributions(list []store.Contribution) error {
	for _, c := range list {
		rows := b.rows[c.Series]
		i, found := slices.BinarySearchFunc(rows, c, compareRows)
		if found {
			continue
		}
		b.rows[c.Series] = slices.Insert(rows, i, c)
		if c.Due > 0 {
			b.due[c.Series] = true
		}
	}
	return nil
}

// SettleContributions implements Ledger.
func (b *Book) SettleContributions(list []store.Contribution) error {
	for _, c := range list {
		if i, found := slices.BinarySearchFunc(b.rows[c.Series], c, compareRows); found {
			b.rows[c.Series][i].Due = 0
		}
	}
	return nil
}

// AddSighting implements Ledger.
func (b *Book) AddSighting(s store.Sighting) error {
	of := b.seen[s.Series]
	if of == nil {
		of = map[string]store.Sighting{}
		b.seen[s.Series] = of
	}
	if o, ok := of[s.Item]; ok {
		s.First, s.Last, s.Count, s.Until = min(s.First, o.First), max(s.Last, o.Last), s.Count+o.Count, max(s.Until, o.Until)
	}
	of[s.Item] = s
	return nil
}
