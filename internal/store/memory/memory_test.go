package memory_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/store/memory"
	"github.com/staunch-project/staunch/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	for name, values := range map[string]bool{"encoded": false, "values": true} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(*testing.T) storetest.Harness {
				db := memory.New(memory.Options{Clock: staunch.SystemClock{}, Chain: storetest.Chain{}, Values: values})
				s := db.Open("one")
				return storetest.Harness{
					Store: s, Values: values,
					Other: func(_ *testing.T, node string) store.Store { return db.Open(node) },
					Reopen: func(t *testing.T) store.Store {
						if err := s.Close(); err != nil {
							t.Fatal(err)
						}
						return db.Open("one")
					},
				}
			})
		})
	}
}

// TestFaults holds what each outcome of a commit means.
func TestFaults(t *testing.T) {
	var next memory.Outcome
	runs := 0
	db := memory.New(memory.Options{Clock: staunch.SystemClock{}, Chain: storetest.Chain{}, Before: func(node string) memory.Outcome {
		if node != "one" {
			t.Errorf("node %q", node)
		}
		out := next
		if out == memory.Again {
			next = memory.Committed
		}
		return out
	}})
	s := db.Open("one")
	for _, c := range []struct {
		outcome memory.Outcome
		there   bool
		want    error
		runs    int
	}{
		{memory.Committed, true, nil, 1},
		{memory.Failed, false, memory.ErrDisk, 1},
		{memory.UnknownCommitted, true, staunch.ErrCommitUnknown, 1},
		{memory.UnknownLost, false, staunch.ErrCommitUnknown, 1},
		{memory.Again, true, nil, 2},
	} {
		runs, next = 0, memory.Committed
		if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.PutCursor("c", "before") }); err != nil {
			t.Fatal(err)
		}
		next = c.outcome
		called := 0
		err := s.Update(t.Context(), func(tx store.Tx) error {
			runs++
			tx.OnCommit(func() { called++ })
			return tx.PutCursor("c", "after")
		})
		if !errors.Is(err, c.want) || runs != c.runs || called > 1 || (called == 1) != (err == nil) {
			t.Errorf("%d: error %v, %d runs, %d callbacks", c.outcome, err, runs, called)
		}
		if err := s.View(t.Context(), func(r store.Reader) error {
			v, err := r.Cursor("c")
			if (v == "after") != c.there {
				t.Errorf("%d: the value is %q", c.outcome, v)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	// Where it dies, nobody else is kept waiting.
	next = memory.Committed
	func() {
		defer func() { _ = recover() }()
		_ = s.Update(context.Background(), func(store.Tx) error { panic("dies") })
	}()
	if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.PutCursor("c", "on") }); err != nil {
		t.Error(err)
	}
}
