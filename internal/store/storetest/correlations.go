package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Contribution returns the n-th of a series, at time n.
func Contribution(series string, n int) store.Contribution {
	return store.Contribution{
		Series: series, At: staunch.Time(n), Event: "evt_" + strconv.Itoa(n), Base: n % 3, Value: "v" + strconv.Itoa(n),
		Until: staunch.Time(n + 1000), Body: []byte(`{"s":"test"}`),
	}
}

func testContributions(t *testing.T, h Harness) {
	// More than one statement holds, in no order, and a part of them twice.
	var list []store.Contribution
	for n := 300; n > 0; n-- {
		list = append(list, Contribution("a", n))
	}
	due := Contribution("b", 7)
	due.Due = 50
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.PutContributions(list), tx.PutContributions(append(list[:10:10], due)), tx.PutContributions(nil))
	})
	other := list[0]
	other.Value, other.Body, other.Due = "another", []byte("{}"), 9
	tie := Contribution("a", 5)
	tie.Base = 9
	update(t, h.Store, func(tx store.Tx) error { return tx.PutContributions([]store.Contribution{other, tie}) })

	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		got := must(r.Contributions("a", 1, 1000, 1000))(t)
		if len(got) != 301 {
			t.Fatalf("%d contributions, want 301", len(got))
		}
		same(t, "the first", got[0], Contribution("a", 1))
		same(t, "those of one instant", got[4:6], []store.Contribution{Contribution("a", 5), tie})
		same(t, "one that was put again", got[300], list[0])
		same(t, "both ends", idsOf(must(r.Contributions("a", 10, 12, 10))(t), func(c store.Contribution) string { return c.Event }), []string{"evt_10", "evt_11", "evt_12"})
		same(t, "the newest", idsOf(must(r.Contributions("a", 10, 12, 2))(t), func(c store.Contribution) string { return c.Event }), []string{"evt_11", "evt_12"})
		same(t, "due too early", must(r.DueContributions(49, 10))(t), []store.Contribution{})
		same(t, "due", must(r.DueContributions(50, 10))(t), []store.Contribution{due})
	})
	update(t, h.Store, func(tx store.Tx) error {
		return tx.SettleContributions([]store.Contribution{due, Contribution("nothing", 1)})
	})
	due.Due = 0
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "due, settled", must(r.DueContributions(1000, 10))(t), []store.Contribution{})
		same(t, "settled", must(r.Contributions("b", 0, 100, 10))(t), []store.Contribution{due})
	})
	for name, c := range map[string]store.Contribution{"no series": {Event: "e"}, "no event": {Series: "s"}, "NUL": {Series: "s", Event: "e", Value: "a\x00"}} {
		err := h.Store.Update(t.Context(), func(tx store.Tx) error { return tx.PutContributions([]store.Contribution{c}) })
		is(t, name, err, staunch.ErrInvalid)
	}
}

func testSightings(t *testing.T, h Harness) {
	add := func(item string, first, last staunch.Time, n int64, until staunch.Time) {
		t.Helper()
		update(t, h.Store, func(tx store.Tx) error {
			return tx.AddSighting(store.Sighting{Series: "s", Item: item, First: first, Last: last, Count: n, Until: until})
		})
	}
	add("x", 50, 60, 1, 500)
	add("x", 40, 55, 2, 400) // earlier
	add("x", 70, 80, 1, 600) // later
	add("", 1, 2, 1, 3)
	add("y", 5, 5, 1, 5)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		x := store.Sighting{Series: "s", Item: "x", First: 40, Last: 80, Count: 4, Until: 600}
		same(t, "one", must(r.Sightings("s", "x", "x", 10))(t), []store.Sighting{x})
		same(t, "all", idsOf(must(r.Sightings("s", "", "z", 10))(t), func(s store.Sighting) string { return s.Item }), []string{"", "x", "y"})
		same(t, "the last", idsOf(must(r.Sightings("s", "", "z", 2))(t), func(s store.Sighting) string { return s.Item }), []string{"x", "y"})
		same(t, "another series", must(r.Sightings("t", "", "z", 10))(t), []store.Sighting{})
	})
	err := h.Store.Update(t.Context(), func(tx store.Tx) error { return tx.AddSighting(store.Sighting{Item: "x"}) })
	is(t, "no series", err, staunch.ErrInvalid)
}

func testPruneCorrelations(t *testing.T, h Harness) {
	update(t, h.Store, func(tx store.Tx) error {
		var list []store.Contribution
		for n := range 10 {
			list = append(list, Contribution("a", n))
			if err := tx.AddSighting(store.Sighting{Series: "a", Item: strconv.Itoa(n), First: 1, Last: 1, Until: staunch.Time(n + 1000)}); err != nil {
				return err
			}
		}
		return tx.PutContributions(list)
	})
	// Until is before 1005 for 0 to 4 of each; at most three of each go at a time.
	for _, want := range []int{6, 4, 0} {
		update(t, h.Store, func(tx store.Tx) error {
			n, err := tx.PruneCorrelations(1005, 3)
			if n != want {
				t.Errorf("pruned %d, want %d", n, want)
			}
			return err
		})
	}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "contributions", len(must(r.Contributions("a", 0, 100, 100))(t)), 5)
		same(t, "sightings", idsOf(must(r.Sightings("a", "", "~", 100))(t), func(s store.Sighting) string { return s.Item }), []string{"5", "6", "7", "8", "9"})
	})
}

// testContributionsAtOnce: whoever is last to count sees what all put, on every
// node, so that a threshold is never missed between two transactions.
func testContributionsAtOnce(t *testing.T, h Harness) {
	stores := []store.Store{h.Store}
	if h.Other != nil {
		stores = append(stores, h.Other(t, "other"))
	}
	const each, workers = 10, 4
	var mu sync.Mutex
	saw := map[int]int{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				c := Contribution("race", w*each+i)
				n := 0
				err := stores[w%len(stores)].Update(t.Context(), func(tx store.Tx) error {
					if err := tx.PutContributions([]store.Contribution{c}); err != nil {
						return err
					}
					rows, err := tx.Contributions("race", 0, 1000, 1000)
					n = len(rows)
					return err
				})
				if err != nil {
					t.Error(fmt.Errorf("counting: %w", err))
					return
				}
				mu.Lock()
				saw[n]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := 1; n <= each*workers; n++ {
		if saw[n] != 1 {
			t.Errorf("%d transactions counted %d, want each count once", saw[n], n)
		}
	}
}
