package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

const callers = 64

var errOwn = errors.New("the function's own error")

func testRollback(t *testing.T, h Harness) {
	called := false
	err := h.Store.Update(t.Context(), func(tx store.Tx) error {
		tx.OnCommit(func() { called = true })
		if err := putOne(tx, 1); err != nil {
			return err
		}
		return errOwn
	})
	if !errors.Is(err, errOwn) || err.Error() != errOwn.Error() {
		t.Errorf("error %v, want the function's as it is", err)
	}
	if called {
		t.Error("OnCommit was called after a rollback")
	}
	nothing(t, h.Store)
	// Next to others that go on.
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range callers {
		wg.Go(func() {
			err := h.Store.Update(t.Context(), func(tx store.Tx) error {
				if err := tx.PutCursor(strconv.Itoa(i), "v"); err != nil {
					return err
				}
				if i%2 == 1 {
					return errOwn
				}
				return nil
			})
			if errors.Is(err, errOwn) {
				failed.Add(1)
			} else if err != nil {
				t.Errorf("Update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	same(t, "failed", failed.Load(), int64(callers/2))
	view(t, h.Store, func(r store.Reader) error {
		for i := range callers {
			_, err := r.Cursor(strconv.Itoa(i))
			if i%2 == 0 && err != nil {
				t.Errorf("cursor %d: %v", i, err)
			}
			if i%2 == 1 && !errors.Is(err, staunch.ErrNotFound) {
				t.Errorf("cursor %d of a failed transaction: %v", i, err)
			}
		}
		return nil
	})
}

// putOne puts some of everything.
func putOne(tx store.Tx, n int) error {
	if _, err := tx.PutSignal(Signal(Ref(n), n, 5)); err != nil {
		return err
	}
	if ok, err := tx.Reserve("cap", 10, 0, false); err != nil || !ok {
		return fmt.Errorf("reserved %v: %w", ok, err)
	}
	c := Containment(Ref(n), "x", 5)
	if err := tx.PutContainment(c); err != nil {
		return err
	}
	if _, err := tx.PutHold(Hold(staunch.PlaneGuard, Ref(n), "x", c.ID)); err != nil {
		return err
	}
	_, err := tx.AppendRecord(Record(c.ID, n, 5))
	return err
}

func nothing(t *testing.T, s store.Store) {
	t.Helper()
	view(t, s, func(r store.Reader) error {
		same(t, "signals", len(must(r.Signals(store.Page{}))(t)), 0)
		_, err := r.Cap("cap")
		is(t, "cap", err, staunch.ErrNotFound)
		same(t, "containments", len(must(r.OpenContainments([]staunch.Ref{Ref(1)}))(t)), 0)
		same(t, "holds", len(must(r.HoldsAfter(staunch.PlaneGuard, 0, 10))(t)), 0)
		same(t, "heads", len(must(r.Heads())(t)), 0)
		return nil
	})
}

func testOnCommit(t *testing.T, h Harness) {
	var got []int
	runs := 0
	update(t, h.Store, func(tx store.Tx) error {
		runs++
		for i := range 3 {
			tx.OnCommit(func() {
				// It has committed: a read sees it.
				view(t, h.Store, func(r store.Reader) error { _, err := r.Cursor("c"); return err })
				got = append(got, 10*runs+i)
			})
		}
		return tx.PutCursor("c", "v")
	})
	same(t, "called once, in order, of the run that committed", got, []int{10 * runs, 10*runs + 1, 10*runs + 2})

	// Of transactions that put holds, in the order of the holds.
	var mu sync.Mutex
	var seqs []int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			returned := false
			err := h.Store.Update(t.Context(), func(tx store.Tx) error {
				x, err := tx.PutHold(Hold(staunch.PlaneGuard, Ref(i), "x"))
				tx.OnCommit(func() {
					mu.Lock()
					defer mu.Unlock()
					seqs = append(seqs, x.Seq)
					returned = true
				})
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || !returned {
				t.Errorf("Update: %v; OnCommit called: %v", err, returned)
			}
		})
	}
	wg.Wait()
	if len(seqs) != callers || !slices.IsSorted(seqs) {
		t.Errorf("%d callbacks in the order %v", len(seqs), seqs)
	}
}

func testPanic(t *testing.T, h Harness) {
	func() {
		defer func() { same(t, "recovered", recover(), any("boom")) }()
		_ = h.Store.Update(t.Context(), func(tx store.Tx) error {
			tx.OnCommit(func() { t.Error("OnCommit was called after a panic") })
			if err := putOne(tx, 1); err != nil {
				t.Error(err)
			}
			panic("boom")
		})
		t.Error("no panic")
	}()
	nothing(t, h.Store)
	// A test's FailNow ends its goroutine.
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = h.Store.Update(t.Context(), func(tx store.Tx) error {
			if err := putOne(tx, 1); err != nil {
				t.Error(err)
			}
			runtime.Goexit()
			return nil
		})
	})
	wg.Go(func() {
		defer func() { same(t, "recovered", recover(), any("boom")) }()
		_ = h.Store.View(t.Context(), func(store.Reader) error { panic("boom") })
	})
	wg.Wait()
	nothing(t, h.Store)
	// Others in the meantime are not harmed, and the store goes on.
	for i := range callers {
		wg.Go(func() {
			defer func() { _ = recover() }()
			err := h.Store.Update(t.Context(), func(tx store.Tx) error {
				if err := tx.PutCursor(strconv.Itoa(i), "v"); err != nil {
					return err
				}
				if i%3 == 0 {
					panic(i)
				}
				return nil
			})
			if err != nil {
				t.Errorf("Update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	view(t, h.Store, func(r store.Reader) error {
		for i := range callers {
			if _, err := r.Cursor(strconv.Itoa(i)); (err == nil) != (i%3 != 0) {
				t.Errorf("cursor %d: %v", i, err)
			}
		}
		return nil
	})
}

// testOver: a transaction that is over does nothing more.
func testOver(t *testing.T, h Harness) {
	var kept store.Tx
	var reader store.Reader
	update(t, h.Store, func(tx store.Tx) error { kept = tx; return nil })
	view(t, h.Store, func(r store.Reader) error { reader = r; return nil })
	if err := kept.PutCursor("a", "b"); err == nil {
		t.Error("a write after the transaction was over")
	}
	if _, err := kept.AppendRecord(Record("x", 1, 1)); err == nil {
		t.Error("a record after the transaction was over")
	}
	if _, err := reader.HoldSeq(); err == nil {
		t.Error("a read after the view was over")
	}
	view(t, h.Store, func(r store.Reader) error {
		_, err := r.Cursor("a")
		is(t, "what was written", err, staunch.ErrNotFound)
		return nil
	})
}

func testCancel(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	is(t, "Update", h.Store.Update(ctx, func(tx store.Tx) error { return tx.PutCursor("a", "b") }), context.Canceled)
	is(t, "View", h.Store.View(ctx, func(r store.Reader) error { _, err := r.HoldSeq(); return err }), context.Canceled)
	// In the middle: what was done before is undone.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	err := h.Store.Update(ctx, func(tx store.Tx) error {
		if err := putOne(tx, 1); err != nil {
			return err
		}
		cancel()
		return tx.PutCursor("a", "b")
	})
	is(t, "in the middle", err, context.Canceled)
	nothing(t, h.Store)
	// While others wait behind one that takes its time, those who give up are
	// gone and the rest is done.
	var started, wg sync.WaitGroup
	started.Add(1)
	hold := make(chan struct{})
	wg.Go(func() {
		first := true
		err := h.Store.Update(t.Context(), func(tx store.Tx) error {
			if first {
				first = false
				started.Done()
			}
			<-hold
			return tx.PutCursor("slow", "v")
		})
		if err != nil {
			t.Errorf("the slow one: %v", err)
		}
	})
	started.Wait()
	ctx2, cancel2 := context.WithCancel(t.Context())
	var gone, done atomic.Int64
	for i := range callers {
		wg.Go(func() {
			ctx := t.Context()
			if i%2 == 0 {
				ctx = ctx2
			}
			err := h.Store.Update(ctx, func(tx store.Tx) error { return tx.PutCursor(strconv.Itoa(i), "v") })
			switch {
			case err == nil:
				done.Add(1)
			case errors.Is(err, context.Canceled):
				gone.Add(1)
			default:
				t.Errorf("Update %d: %v", i, err)
			}
		})
	}
	cancel2()
	close(hold)
	wg.Wait()
	if gone.Load()+done.Load() != callers || done.Load() < callers/2 {
		t.Errorf("%d gave up, %d were done", gone.Load(), done.Load())
	}
	view(t, h.Store, func(r store.Reader) error {
		for i := 1; i < callers; i += 2 {
			must(r.Cursor(strconv.Itoa(i)))(t)
		}
		return nil
	})
}

// testSnapshot: a View does not see what commits while it runs.
func testSnapshot(t *testing.T, h Harness) {
	update(t, h.Store, func(tx store.Tx) error { return errors.Join(tx.PutCursor("a", "1"), tx.PutCursor("b", "1")) })
	view(t, h.Store, func(r store.Reader) error {
		a := must(r.Cursor("a"))(t)
		if err := h.Store.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.PutCursor("a", "2"), tx.PutCursor("b", "2"))
		}); err != nil {
			return err
		}
		if err := h.Store.View(t.Context(), func(inner store.Reader) error {
			same(t, "a new view", must(inner.Cursor("b"))(t), "2")
			return nil
		}); err != nil {
			return err
		}
		if b := must(r.Cursor("b"))(t); a != b {
			t.Errorf("a is %s and b %s in one view", a, b)
		}
		return nil
	})
}

// stores gives the store twice, or with a second node where there can be one.
func stores(t *testing.T, h Harness) []store.Store {
	out := []store.Store{h.Store, h.Store}
	if h.Other != nil {
		out[1] = h.Other(t, "other")
	}
	return out
}

// testSerializable: read, think, write never loses an update.
func testSerializable(t *testing.T, h Harness) {
	const each = 5
	both := stores(t, h)
	var wg sync.WaitGroup
	var runs atomic.Int64
	for i := range callers {
		wg.Go(func() {
			for range each {
				err := both[i%2].Update(t.Context(), func(tx store.Tx) error {
					runs.Add(1)
					v, err := tx.Cursor("suspicion")
					if err != nil && !errors.Is(err, staunch.ErrNotFound) {
						return err
					}
					n := 0
					if v != "" {
						if n, err = strconv.Atoi(v); err != nil {
							return err
						}
					}
					runtime.Gosched()
					return tx.PutCursor("suspicion", strconv.Itoa(n+1))
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	view(t, h.Store, func(r store.Reader) error {
		same(t, "count", must(r.Cursor("suspicion"))(t), strconv.Itoa(callers*each))
		return nil
	})
	t.Logf("%d transactions in %d runs", callers*each, runs.Load())
}

// testWriteSkew: two transactions that each read what the other writes do not
// both go by what they read (which snapshot isolation would let happen).
func testWriteSkew(t *testing.T, h Harness) {
	both := stores(t, h)
	for round := range 20 {
		a, b := fmt.Sprintf("a%d", round), fmt.Sprintf("b%d", round)
		update(t, h.Store, func(tx store.Tx) error { return errors.Join(tx.PutCursor(a, "on"), tx.PutCursor(b, "on")) })
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				mine, other := a, b
				if i%2 == 1 {
					mine, other = b, a
				}
				err := both[i%2].Update(t.Context(), func(tx store.Tx) error {
					v, err := tx.Cursor(other)
					if err != nil || v == "off" {
						return err
					}
					return tx.PutCursor(mine, "off")
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			})
		}
		wg.Wait()
		view(t, h.Store, func(r store.Reader) error {
			if must(r.Cursor(a))(t) == "off" && must(r.Cursor(b))(t) == "off" {
				t.Errorf("round %d: both are off", round)
			}
			return nil
		})
	}
}

func testCapsAtOnce(t *testing.T, h Harness) {
	both := stores(t, h)
	const limit, keep, tries = 20, 5, 2
	var wg sync.WaitGroup
	var plain, kept, back atomic.Int64
	for i := range callers {
		wg.Go(func() {
			for range tries {
				got := false
				err := both[i%2].Update(t.Context(), func(tx store.Tx) (err error) {
					if got, err = tx.Reserve("global", limit, keep, i%4 == 0); err != nil || !got {
						return err
					}
					_, err = tx.PutSignal(Signal(Ref(i), i, 1))
					return err
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
				if got && i%4 == 0 {
					kept.Add(1)
				} else if got {
					plain.Add(1)
				}
			}
		})
	}
	wg.Wait()
	check := func(want int64) {
		t.Helper()
		view(t, h.Store, func(r store.Reader) error {
			c := must(r.Cap("global"))(t)
			same(t, "used", int64(c.Used), want)
			return nil
		})
	}
	total := plain.Load() + kept.Load()
	if total > limit || plain.Load() > limit-keep || total < limit-keep {
		t.Errorf("%d plain and %d kept places of %d, %d kept", plain.Load(), kept.Load(), limit, keep)
	}
	check(total)
	for i := range callers {
		wg.Go(func() {
			if i%2 == 0 {
				return
			}
			if err := both[i%2].Update(t.Context(), func(tx store.Tx) error { return tx.GiveBack("global") }); err != nil {
				t.Errorf("Update: %v", err)
			}
			back.Add(1)
		})
	}
	wg.Wait()
	check(max(0, total-back.Load()))
}

// testHoldsAtOnce: a reader that follows HoldsAfter while holds are put never
// misses one, from whichever node.
func testHoldsAtOnce(t *testing.T, h Harness) {
	both := stores(t, h)
	const each = 4
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[string]int64{}
	var last int64
	follow := func() error {
		return both[1].View(t.Context(), func(r store.Reader) error {
			list, err := r.HoldsAfter(staunch.PlaneGuard, last, 100)
			for _, x := range list {
				if x.Seq <= last {
					t.Errorf("sequence %d after %d", x.Seq, last)
				}
				last = x.Seq
				seen[x.ID] = x.Seq
			}
			return err
		})
	}
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		for ctx.Err() == nil {
			if err := follow(); err != nil {
				t.Errorf("following: %v", err)
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for k := range each {
				err := both[i%2].Update(t.Context(), func(tx store.Tx) error {
					_, err := tx.PutHold(Hold(staunch.PlaneGuard, Ref(i*each+k), "x", "c"))
					return err
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	<-followed
	for {
		before := last
		if err := follow(); err != nil {
			t.Fatal(err)
		}
		if last == before {
			break
		}
	}
	same(t, "holds seen", len(seen), callers*each)
	view(t, h.Store, func(r store.Reader) error {
		all := must(r.HoldsAfter(staunch.PlaneGuard, 0, 2*callers*each))(t)
		same(t, "holds", len(all), callers*each)
		for _, x := range all {
			same(t, "sequence as seen", seen[x.ID], x.Seq)
		}
		return nil
	})
}

func testRecordsAtOnce(t *testing.T, h Harness) {
	both := stores(t, h)
	const each = 4
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for k := range each {
				err := both[i%2].Update(t.Context(), func(tx store.Tx) error {
					if _, err := tx.AppendRecord(Record("x", i, staunch.Time(k))); err != nil {
						return err
					}
					if k == 1 && i%8 == 0 {
						return errOwn // leaves no gap
					}
					_, err := tx.AppendRecord(Record("x", i, staunch.Time(k)))
					return err
				})
				if err != nil && !errors.Is(err, errOwn) {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	view(t, h.Store, func(r store.Reader) error {
		n, err := VerifyChains(r)
		same(t, "records", n, 2*(callers*each-callers/8))
		return err
	})
}

// testOpposedLocks: transactions that touch caps, holds and records in opposite
// orders do not stand in each other's way for ever, nor for the seconds that a
// database takes to see a deadlock.
func testOpposedLocks(t *testing.T, h Harness) {
	both := stores(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for k := range 3 {
				parts := []func(store.Tx) error{
					func(tx store.Tx) error { _, err := tx.Reserve("one", 1000, 0, false); return err },
					func(tx store.Tx) error {
						_, err := tx.PutHold(Hold(staunch.PlaneGuard, Ref(i), "x", "c"))
						return err
					},
					func(tx store.Tx) error { _, err := tx.AppendRecord(Record("x", i, 1)); return err },
					func(tx store.Tx) error { return tx.GiveBack("two") },
				}
				if i%2 == 1 {
					slices.Reverse(parts)
				}
				err := both[(i/2)%2].Update(ctx, func(tx store.Tx) error {
					for _, part := range parts {
						if err := part(tx); err != nil {
							return err
						}
					}
					_, err := tx.Reserve("two", 1000, 0, false)
					return err
				})
				if err != nil {
					t.Errorf("Update %d of %d: %v", k, i, err)
				}
			}
		})
	}
	wg.Wait()
	view(t, h.Store, func(r store.Reader) error {
		same(t, "used", must(r.Cap("one"))(t).Used, 96)
		n, err := VerifyChains(r)
		same(t, "records", n, 96)
		return err
	})
}

// testOneActiveHold: of many that hold one target at once, one does, and the
// others are told of the conflict.
func testOneActiveHold(t *testing.T, h Harness) {
	both := stores(t, h)
	for round := range 5 {
		var wg sync.WaitGroup
		var won, conflicts atomic.Int64
		for i := range 16 {
			wg.Go(func() {
				err := both[i%2].Update(t.Context(), func(tx store.Tx) error {
					_, err := tx.PutHold(Hold(staunch.PlanePlatform, Ref(round), strconv.Itoa(i), "c"))
					return err
				})
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, staunch.ErrConflict):
					conflicts.Add(1)
				default:
					t.Errorf("Update: %v", err)
				}
			})
		}
		wg.Wait()
		same(t, "won and in conflict", []int64{won.Load(), conflicts.Load()}, []int64{1, 15})
	}
}
