package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// testBundleRequired: only transactions for the active bundle commit, and what
// fails leaves nothing behind.
func testBundleRequired(t *testing.T, h Harness) {
	put := func(s store.Store, hash string, n int) error {
		return s.Update(t.Context(), func(tx store.Tx) error {
			if err := tx.RequireBundle(hash); err != nil {
				return err
			}
			return tx.PutCursor(fmt.Sprint("decided/", n), hash)
		})
	}
	if err := put(h.Store, "sha256:a", 1); err != nil {
		t.Fatalf("with no bundle active: %v", err)
	}
	activate := func(s store.Store, hash string) {
		t.Helper()
		update(t, s, func(tx store.Tx) error { return tx.PutBundle(store.Bundle{Hash: hash, Made: 1}, true) })
	}
	activate(h.Store, "sha256:a")
	if err := put(h.Store, "sha256:a", 2); err != nil {
		t.Fatalf("with its own bundle active: %v", err)
	}
	is(t, "another bundle", put(h.Store, "sha256:b", 3), store.ErrBundle)
	is(t, "two bundles", h.Store.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(tx.RequireBundle("sha256:a"), tx.RequireBundle("sha256:b"))
	}), store.ErrBundle)
	// At the end of the transaction at the latest, though it writes nothing else.
	is(t, "alone", h.Store.Update(t.Context(), func(tx store.Tx) error { return tx.RequireBundle("sha256:b") }), store.ErrBundle)
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.RequireBundle("sha256:a"), tx.PutBundle(store.Bundle{Hash: "sha256:c", Made: 2}, true))
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "active", must(r.ActiveHash())(t), "sha256:c")
		same(t, "kept", must(r.Cursor("decided/2"))(t), "sha256:a")
		_, err := r.Cursor("decided/3")
		is(t, "a refused decision", err, staunch.ErrNotFound)
	})
	if h.Other == nil {
		return
	}
	other := h.Other(t, "n2")
	activate(other, "sha256:d")
	is(t, "another node's activation", put(h.Store, "sha256:c", 4), store.ErrBundle)
	if err := put(h.Store, "sha256:d", 5); err != nil {
		t.Errorf("the bundle that another node activated: %v", err)
	}
	testActivationRace(t, h.Store, other)
}

// testActivationRace has one node decide by the bundle of before while another
// activates a further one: what commits, committed before the activation.
func testActivationRace(t *testing.T, deciding, activating store.Store) {
	for round := range 10 {
		began := make(chan struct{})
		goOn := make(chan struct{})
		done := make(chan error, 1)
		hash := fmt.Sprint("sha256:race", round)
		var before string
		view(t, deciding, func(r store.Reader) (err error) {
			before, err = r.ActiveHash()
			return err
		})
		go func() {
			first := true
			done <- deciding.Update(context.WithoutCancel(t.Context()), func(tx store.Tx) error {
				if err := tx.RequireBundle(before); err != nil {
					return err
				}
				if _, err := tx.HoldSeq(); err != nil { // the condition is sent by now
					return err
				}
				if first {
					first = false
					close(began)
					<-goOn
				}
				return tx.PutCursor("race", before)
			})
		}()
		<-began
		activated := make(chan error, 1)
		go func() {
			activated <- activating.Update(context.WithoutCancel(t.Context()), func(tx store.Tx) error {
				return tx.PutBundle(store.Bundle{Hash: hash, Made: 3}, true)
			})
		}()
		select {
		case err := <-activated:
			t.Errorf("a bundle was activated (%v) under a transaction that decides by the one before", err)
		case <-time.After(50 * time.Millisecond):
		}
		close(goOn)
		if err := <-done; err != nil && !errors.Is(err, store.ErrBundle) {
			t.Errorf("deciding: %v", err)
		}
		if err := <-activated; err != nil {
			t.Errorf("activating: %v", err)
		}
	}
}

// testGuards: places on the fast plane live by the database's clock.
func testGuards(t *testing.T, h Harness) {
	var first, second store.Guard
	update(t, h.Store, func(tx store.Tx) (err error) {
		first, err = tx.RenewGuard(store.Guard{Node: "b", Applied: 3, Bundle: "sha256:a"}, time.Hour, true)
		return err
	})
	if first.Since == 0 || first.Until != first.Renewed.Add(time.Hour) {
		t.Errorf("the place is %+v", first)
	}
	update(t, h.Store, func(tx store.Tx) (err error) {
		first.Applied = 7
		if first, err = tx.RenewGuard(first, time.Hour, false); err != nil {
			return err
		}
		second, err = tx.RenewGuard(store.Guard{Node: "a", Applied: 5}, time.Microsecond, true)
		return err
	})
	time.Sleep(2 * time.Millisecond)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		got, now, err := r.Guards()
		if err != nil {
			t.Fatal(err)
		}
		same(t, "guards", got, []store.Guard{second, first})
		if got[0].Live(now) || !got[1].Live(now) {
			t.Errorf("at %d, %+v lives: %v, %+v: %v", now, got[0], got[0].Live(now), got[1], got[1].Live(now))
		}
	})
	update(t, h.Store, func(tx store.Tx) error { return errors.Join(tx.DeleteGuard("b"), tx.DeleteGuard("nobody")) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		got, _, err := r.Guards()
		if err != nil || len(got) != 1 || got[0].Node != "a" {
			t.Errorf("after deleting b: %+v, %v", got, err)
		}
	})
	for name, g := range map[string]store.Guard{"no name": {}, "no time": {Node: "x"}} {
		err := h.Store.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.RenewGuard(g, 0, true)
			return err
		})
		is(t, name, err, staunch.ErrInvalid)
	}
}

// testSealedValues: every place of sealed values can be walked, and a value is
// replaced only where it is still the one that was read.
func testSealedValues(t *testing.T, h Harness) {
	keys := map[store.SealedKind]string{store.SealedState: "pre/1", store.SealedSecret: Ref(1).Key(), store.SealedParked: "prk_1"}
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.PutSealed("pre/1", []byte("old")), tx.PutSealed("pre/2", []byte("two")),
			tx.PutSecret(Ref(1), 9, []byte("old")), tx.PutParked(store.Parked{ID: "prk_1", Raw: []byte("old")}))
	})
	for _, kind := range store.SealedKinds() {
		key := keys[kind]
		var ok, again bool
		update(t, h.Store, func(tx store.Tx) (err error) {
			if ok, err = tx.ReplaceSealed(kind, key, []byte("old"), []byte("new")); err != nil {
				return err
			}
			again, err = tx.ReplaceSealed(kind, key, []byte("old"), []byte("newer"))
			return err
		})
		if !ok || again {
			t.Errorf("%s: replaced %v, and again %v", kind, ok, again)
		}
		inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
			same(t, string(kind), must(r.SealedAfter(kind, "", 1))(t), []store.SealedValue{{Key: key, Blob: []byte("new")}})
			if kind == store.SealedState {
				same(t, "the next", must(r.SealedAfter(kind, key, 5))(t), []store.SealedValue{{Key: "pre/2", Blob: []byte("two")}})
			}
		})
	}
	is(t, "another kind", h.Store.Update(t.Context(), func(tx store.Tx) error {
		_, err := tx.ReplaceSealed("nothing", "x", nil, nil)
		return err
	}), staunch.ErrInvalid)
}

// testCapsNamed: caps whose time is over can be found and deleted.
func testCapsNamed(t *testing.T, h Harness) {
	update(t, h.Store, func(tx store.Tx) error {
		for _, n := range []string{"hour/a", "hour/b", "hour/c", "hour", "hours/x", "open/global"} {
			if _, err := tx.Reserve(n, 5, 0, false); err != nil {
				return err
			}
		}
		return tx.DeleteCap("hour/b")
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "by prefix", must(r.CapsNamed("hour/", "", 10))(t), []string{"hour/a", "hour/c"})
		same(t, "after one", must(r.CapsNamed("hour/", "hour/a", 10))(t), []string{"hour/c"})
		same(t, "limited", must(r.CapsNamed("hour/", "", 1))(t), []string{"hour/a"})
		same(t, "none", must(r.CapsNamed("trip/", "", 1))(t), []string{})
	})
}
