package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// late is a time after that of every row that the tests put.
const late = staunch.Time(1 << 50)

// walkAll returns all old rows of a kind, in steps of limit.
func walkAll(t *testing.T, s store.Store, kind store.Kept, limit int) []store.OldRow {
	t.Helper()
	var out []store.OldRow
	seen := map[string]bool{}
	for place := ""; ; {
		var w store.Walked
		view(t, s, func(r store.Reader) error {
			var err error
			w, err = r.Walk(kind, place, late, late, limit)
			return err
		})
		for _, row := range w.Rows {
			if seen[row.ID] {
				t.Fatalf("%s of the %s comes twice", row.ID, kind)
			}
			seen[row.ID] = true
			out = append(out, row)
		}
		if w.Next == "" {
			return out
		}
		place = w.Next
	}
}

// forget deletes the rows of a kind that pick picks, nil for all.
func forget(t *testing.T, s store.Store, kind store.Kept, pick func(store.OldRow) bool) store.Forgotten {
	t.Helper()
	var rows []store.OldRow
	for _, row := range walkAll(t, s, kind, 3) {
		if pick == nil || pick(row) {
			rows = append(rows, row)
		}
	}
	var f store.Forgotten
	update(t, s, func(tx store.Tx) error {
		var err error
		f, err = tx.Forget(kind, rows)
		return err
	})
	return f
}

func oldIDs(rows []store.OldRow) []string {
	out := idsOf(rows, func(o store.OldRow) string { return o.ID })
	slices.Sort(out)
	return out
}

func testForgetEvents(t *testing.T, h Harness) {
	const n = 20
	var ids []string
	update(t, h.Store, func(tx store.Tx) error {
		ids = nil
		for i := range n {
			e := Event(i, staunch.Time(100+i), Ref(1), Ref(i))
			ids = append(ids, e.ID)
			if _, err := tx.PutEvent(e); err != nil {
				return err
			}
		}
		return nil
	})
	all := walkAll(t, h.Store, store.KeptEvents, 3)
	slices.Sort(ids)
	same(t, "walked", oldIDs(all), ids)
	for _, row := range all {
		var e staunch.Event
		if err := store.Decode(row.Body, &e); err != nil || e.ID != row.ID || e.Time != row.At || len(e.Actor) == 0 {
			t.Errorf("row %+v: %v", row, err)
		}
	}
	f := forget(t, h.Store, store.KeptEvents, func(o store.OldRow) bool { return o.At < 110 })
	same(t, "deleted", f, store.Forgotten{Rows: 10, With: 19}) // number 1 names one ref twice
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "left", len(must(r.EventsNaming([]staunch.Ref{Ref(1)}, 100))(t)), 10)
		same(t, "of one that is gone", len(must(r.EventsNaming([]staunch.Ref{Ref(5)}, 100))(t)), 0)
		_, err := r.Event(Event(5, 105).ID)
		is(t, "deleted event", err, staunch.ErrNotFound)
	})
	// What is not there is nothing, and what was deleted can come again.
	update(t, h.Store, func(tx store.Tx) error {
		f, err := tx.Forget(store.KeptEvents, slices.DeleteFunc(slices.Clone(all), func(o store.OldRow) bool { return o.At >= 110 }))
		same(t, "again", f, store.Forgotten{})
		if err != nil {
			return err
		}
		in, err := tx.PutEvent(Event(5, 105, Ref(5)))
		same(t, "came again", in, true)
		return err
	})
	// A transaction that fails deletes nothing.
	rows := walkAll(t, h.Store, store.KeptEvents, 100)
	err := h.Store.Update(t.Context(), func(tx store.Tx) error {
		if _, err := tx.Forget(store.KeptEvents, rows); err != nil {
			return err
		}
		return errOwn
	})
	is(t, "failed", err, errOwn)
	same(t, "after a failure", oldIDs(walkAll(t, h.Store, store.KeptEvents, 100)), oldIDs(rows))
	err = h.Store.Update(t.Context(), func(tx store.Tx) error { _, err := tx.Forget("nothing", nil); return err })
	is(t, "no such kind", err, store.ErrKept)
	err = h.Store.View(t.Context(), func(r store.Reader) error { _, err := r.Walk("nothing", "", late, late, 1); return err })
	is(t, "no such kind", err, store.ErrKept)
}

func session(n int) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: "pg/test", Scheme: "session", Value: strconv.Itoa(n)}
}

func testForgetSignals(t *testing.T, h Harness) {
	// Sessions 0 to 9 of account 1, two signals against each; half is known of before
	// the signals, half after.
	put := func(tx store.Tx, i int) error { _, err := tx.PutFact(Fact(session(i), Ref(1), i, 50)); return err }
	update(t, h.Store, func(tx store.Tx) error {
		for i := range 10 {
			if i%2 == 0 {
				if err := put(tx, i); err != nil {
					return err
				}
			}
			for k := range 2 {
				if _, err := tx.PutSignal(Signal(session(i), 2*i+k, staunch.Time(100+10*k+i))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	update(t, h.Store, func(tx store.Tx) error {
		for i := range 10 {
			if i%2 == 1 {
				if err := put(tx, i); err != nil {
					return err
				}
			}
		}
		// So that the writer remembers what is under the account.
		found, err := tx.SignalsWithin([]staunch.Ref{Ref(1)}, 0, 100)
		same(t, "before", len(found), 20)
		return err
	})
	// Facts stay while there are signals.
	same(t, "facts with signals", forget(t, h.Store, store.KeptFacts, nil), store.Forgotten{})
	f := forget(t, h.Store, store.KeptSignals, func(o store.OldRow) bool { return o.At < 110 })
	same(t, "deleted", f, store.Forgotten{Rows: 10, With: 20})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		found := must(r.SignalsWithin([]staunch.Ref{Ref(1)}, 0, 100))(t)
		same(t, "under the account", len(found), 10)
		for _, s := range found {
			if s.Time < 110 {
				t.Errorf("signal %s was deleted", s.ID)
			}
		}
		same(t, "under a session", len(must(r.SignalsWithin([]staunch.Ref{session(3)}, 0, 100))(t)), 1)
		same(t, "listed", len(must(r.Signals(store.Page{}))(t)), 10)
		use := must(r.RuleUse("rule-1"))(t)
		same(t, "counted", []any{use.Matches, use.First}, []any{10, staunch.Time(110)})
		n, _, err := r.MatchesSince("rule-1", 0)
		same(t, "matches", []any{n, err}, []any{10, error(nil)})
		_, err = r.Signal(Signal(session(3), 6, 103).ID)
		is(t, "deleted signal", err, staunch.ErrNotFound)
	})
	// The same accusation may come again.
	update(t, h.Store, func(tx store.Tx) error {
		in, err := tx.PutSignal(Signal(session(3), 6, 103))
		same(t, "came again", in, true)
		if err != nil {
			return err
		}
		found, err := tx.SignalsWithin([]staunch.Ref{Ref(1)}, 0, 100)
		same(t, "under the account again", len(found), 11)
		return err
	})
}

func testForgetFacts(t *testing.T, h Harness) {
	// Session 1 of account 1 issued session 2, which has account 2's role.
	issued := Fact(session(2), Ref(2), 2, 60)
	issued.By = session(1)
	issued.ID = staunch.FactID(issued)
	first := Fact(session(1), Ref(1), 1, 50)
	update(t, h.Store, func(tx store.Tx) error {
		_, err := tx.PutFact(first)
		_, ierr := tx.PutFact(issued)
		return errors.Join(err, ierr)
	})
	lineage := func(want int) {
		t.Helper()
		inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
			same(t, "links to the session", len(must(r.LinksTo([]staunch.Ref{session(1)}, []staunch.Rel{staunch.RelBy}, 10))(t)), want)
			up := must(r.Above([]staunch.Ref{session(2)}))(t)
			same(t, "above the issued one", len(up[session(2)]), 1+want)
		})
	}
	lineage(1)
	// What something came from stays as long as that.
	same(t, "the parent first", forget(t, h.Store, store.KeptFacts, func(o store.OldRow) bool { return o.ID == first.ID }), store.Forgotten{})
	same(t, "the child", forget(t, h.Store, store.KeptFacts, func(o store.OldRow) bool { return o.ID == issued.ID }), store.Forgotten{Rows: 1, With: 2})
	lineage(0)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.Fact(issued.ID)
		is(t, "deleted fact", err, staunch.ErrNotFound)
		same(t, "links from", len(must(r.LinksFrom([]staunch.Ref{session(2)}, []staunch.Rel{staunch.RelOf, staunch.RelBy}, 10))(t)), 0)
	})
	same(t, "the parent", forget(t, h.Store, store.KeptFacts, nil), store.Forgotten{Rows: 1, With: 1})
	update(t, h.Store, func(tx store.Tx) error {
		in, err := tx.PutFact(issued)
		same(t, "came again", in, true)
		return err
	})
	lineage(1)
}

func testForgetDecisions(t *testing.T, h Harness) {
	decision := func(n int, containment string) staunch.Decision {
		return staunch.Decision{
			ID: "dec_" + strconv.Itoa(n), Subject: Ref(1), Scope: Ref(1), Made: staunch.Time(100 + n), Tier: staunch.TierIsolate,
			Verdict: staunch.VerdictContain, Containment: containment,
			Suspicion: staunch.Suspicion{Confidence: 0.9, Reasons: []staunch.Contribution{{Rule: "rule-1", Weight: 0.9}}},
		}
	}
	update(t, h.Store, func(tx store.Tx) error {
		for n := range 4 {
			if _, err := tx.PutDecision(decision(n, "con_a")); err != nil {
				return err
			}
		}
		return nil
	})
	behind := func(want ...string) {
		t.Helper()
		inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
			if got := must(r.RulesBehind("con_a"))(t); !slices.Equal(got, want) {
				t.Errorf("rules behind it are %q, want %q", got, want)
			}
		})
	}
	behind("rule-1")
	forget(t, h.Store, store.KeptDecisions, func(o store.OldRow) bool { return o.At < 103 })
	behind("rule-1")
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "left", idsOf(must(r.Decisions(store.Page{}))(t), func(d staunch.Decision) string { return d.ID }), []string{"dec_3"})
	})
	same(t, "the last", forget(t, h.Store, store.KeptDecisions, nil).Rows, 1)
	behind()
}

func testForgetContainments(t *testing.T, h Harness) {
	made := map[string]staunch.Containment{}
	put := func(name string, ref int, phase staunch.Phase, hold staunch.HoldState, steps int) staunch.Containment {
		t.Helper()
		c := Containment(Ref(ref), name, 10)
		c.Phase, c.Changed = phase, 20
		made[name] = c
		update(t, h.Store, func(tx store.Tx) error {
			x := Hold(staunch.PlaneGuard, Ref(ref), name, c.ID)
			x.State, x.Changed = hold, 20
			err := tx.PutContainment(c)
			_, herr := tx.PutHold(x)
			_, perr := tx.PutPlan(staunch.Plan{ID: "pln_" + name, Containment: c.ID})
			err = errors.Join(err, herr, perr)
			for i := range steps {
				id := fmt.Sprintf("stp_%s_%d", name, i)
				err = errors.Join(err, tx.PutStep(staunch.Step{ID: id, Plan: "pln_" + name, Containment: c.ID, Seq: i, PreImage: id + "/pre"}), tx.PutSealed(id+"/pre", []byte("x")))
			}
			_, rerr := tx.AppendRecord(Record(c.ID, 1, 10))
			return errors.Join(err, rerr)
		})
		return c
	}
	over := put("over", 1, staunch.PhaseReleased, staunch.HoldReleased, store.MostForgotten)
	open := put("open", 2, staunch.PhaseHeld, staunch.HoldInForce, 1)
	kept := put("kept", 3, staunch.PhaseReleased, staunch.HoldKept, 1)
	// The open one claimed a hold of the other's, and let go of it before.
	shared := put("shared", 5, staunch.PhaseReleased, staunch.HoldReleased, 1)
	also := put("also", 6, staunch.PhaseHeld, staunch.HoldInForce, 1)
	update(t, h.Store, func(tx store.Tx) error {
		x := Hold(staunch.PlaneGuard, Ref(7), "both", shared.ID)
		x.Claims, x.State, x.Changed = []string{shared.ID, also.ID}, staunch.HoldReleased, 15
		_, err := tx.PutHold(x)
		return err
	})
	last := put("last", 4, staunch.PhaseReleased, staunch.HoldReleased, 1)
	var seq int64
	view(t, h.Store, func(r store.Reader) error { var err error; seq, err = r.HoldSeq(); return err })

	total, calls := store.Forgotten{}, 0
	for ; calls < 50; calls++ {
		f := forget(t, h.Store, store.KeptContainments, nil)
		if f == (store.Forgotten{}) {
			break
		}
		total.Add(f)
	}
	// Its steps, plan, hold and claim; of the other that, too, and one claim more.
	same(t, "deleted", total, store.Forgotten{Rows: 2, With: store.MostForgotten + 3 + 5})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.Containment(over.ID)
		is(t, "the case", err, staunch.ErrNotFound)
		same(t, "its steps", len(must(r.Steps(over.ID))(t)), 0)
		same(t, "its plans", len(must(r.Plans(over.ID))(t)), 0)
		same(t, "its holds", len(must(r.HoldsClaimedBy(over.ID))(t)), 0)
		_, err = r.Sealed("stp_over_7/pre")
		is(t, "its image", err, staunch.ErrNotFound)
		same(t, "its records", len(must(r.RecordsAbout(over.ID, 10))(t)), 1)
		for _, c := range []staunch.Containment{open, kept, last} {
			must(r.Containment(c.ID))(t)
			same(t, "steps of "+c.ID, len(must(r.Steps(c.ID))(t)), 1)
			same(t, "holds of "+c.ID, len(must(r.HoldsClaimedBy(c.ID))(t)), 1)
		}
		same(t, "holds of "+also.ID, len(must(r.HoldsClaimedBy(also.ID))(t)), 2)
		same(t, "the highest sequence", must(r.HoldSeq())(t), seq)
		same(t, "open ones", len(must(r.OpenContainments([]staunch.Ref{Ref(2)}))(t)), 1)
	})
	// It goes with the last that claimed it.
	update(t, h.Store, func(tx store.Tx) error {
		c := made["also"]
		c.Phase = staunch.PhaseReleased
		err := tx.PutContainment(c)
		x := Hold(staunch.PlaneGuard, Ref(6), "also", c.ID)
		x.State, x.Changed = staunch.HoldReleased, 20
		_, herr := tx.PutHold(x)
		_, lerr := tx.PutHold(Hold(staunch.PlaneGuard, Ref(8), "newest"))
		return errors.Join(err, herr, lerr)
	})
	f := forget(t, h.Store, store.KeptContainments, nil)
	same(t, "the other and what was last before", f.Rows, 2)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		for _, x := range []staunch.Hold{Hold(staunch.PlaneGuard, Ref(7), "both"), Hold(staunch.PlaneGuard, Ref(6), "also"), Hold(staunch.PlaneGuard, Ref(5), "shared")} {
			_, err := r.Hold(x.ID)
			is(t, "hold on "+x.Target.Ref.String(), err, staunch.ErrNotFound)
		}
		same(t, "holds of "+also.ID, len(must(r.HoldsClaimedBy(also.ID))(t)), 0)
	})
	view(t, h.Store, func(r store.Reader) error {
		_, err := VerifyChains(r)
		return err
	})
}

// testForgetRest: what has no rows that belong to it, and what of it stays.
func testForgetRest(t *testing.T, h Harness) {
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(
			tx.PutNotice(store.Notice{ID: "done", Channel: "c", Made: 1, Due: 1, Done: 9}),
			tx.PutNotice(store.Notice{ID: "waits", Channel: "c", Made: 1, Due: 1}),
			tx.PutParked(store.Parked{ID: "prk_1", At: 7, Raw: []byte("raw")}),
			tx.PutDrill(staunch.Drill{ID: "drl_1", Name: "d", Began: 5, Ended: 6}),
			tx.PutDrill(staunch.Drill{ID: "drl_2", Name: "d", Began: 7}),
			tx.PutCursor("a", "1"), tx.PutCursor("b", "2"),
			tx.PutBundle(store.Bundle{Hash: "one", Made: 1}, true),
		)
	})
	update(t, h.Store, func(tx store.Tx) error { return tx.PutBundle(store.Bundle{Hash: "two", Made: 5}, true) })
	update(t, h.Store, func(tx store.Tx) error { return tx.PutBundle(store.Bundle{Hash: "three", Made: 8}, true) })
	for kind, want := range map[store.Kept]map[string]staunch.Time{
		store.KeptNotices: {"done": 9, "waits": 0}, store.KeptParked: {"prk_1": 7}, store.KeptDrills: {"drl_1": 5, "drl_2": 7},
		store.KeptCursors: {"a": 0, "b": 0}, store.KeptBundles: {"one": 5, "two": 8},
	} {
		for _, row := range walkAll(t, h.Store, kind, 3) {
			if at, ok := want[row.ID]; ok && at != row.At {
				t.Errorf("%s of the %s is found by %d, want %d", row.ID, kind, row.At, at)
			}
			delete(want, row.ID)
		}
		if len(want) > 0 {
			t.Errorf("%v of the %s were not found", want, kind)
		}
	}
	// What changes between the walk and the deletion stays.
	cursors, bundles := walkAll(t, h.Store, store.KeptCursors, 9), walkAll(t, h.Store, store.KeptBundles, 9)
	update(t, h.Store, func(tx store.Tx) error {
		_, err := tx.Cursor("a") // the writer remembers it
		return errors.Join(err, tx.PutCursor("b", "3"), tx.PutBundle(store.Bundle{Hash: "one", Made: 20}, true))
	})
	update(t, h.Store, func(tx store.Tx) error {
		f, err := tx.Forget(store.KeptCursors, cursors)
		same(t, "cursors", f, store.Forgotten{Rows: 1})
		if err != nil {
			return err
		}
		f, err = tx.Forget(store.KeptBundles, bundles)
		same(t, "bundles", f, store.Forgotten{Rows: 1}) // two: one is active again, three was until now
		return err
	})
	for _, kind := range []store.Kept{store.KeptNotices, store.KeptParked, store.KeptDrills} {
		same(t, string(kind), forget(t, h.Store, kind, nil), store.Forgotten{Rows: 1})
	}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.Cursor("a")
		is(t, "deleted cursor", err, staunch.ErrNotFound)
		same(t, "a cursor that changed", must(r.Cursor("b"))(t), "3")
		same(t, "notices", len(must(r.Notices(late, 10))(t)), 1)
		same(t, "drills", len(must(r.UnfinishedDrills())(t)), 1)
		same(t, "drills of the name", len(must(r.Drills("d", store.Page{}))(t)), 1)
		same(t, "parked", len(must(r.Parked(store.Page{}))(t)), 0)
		same(t, "the active bundle", must(r.ActiveBundle())(t).Hash, "one")
	})
	replaced := slices.DeleteFunc(walkAll(t, h.Store, store.KeptBundles, 9), func(o store.OldRow) bool { return o.At == 0 })
	same(t, "a bundle that was replaced", oldIDs(replaced), []string{"three"})
}

func testSizes(t *testing.T, h Harness) {
	update(t, h.Store, func(tx store.Tx) error {
		for n := range 200 {
			if _, err := tx.PutEvent(Event(n, staunch.Time(100+n), Ref(n))); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, h.Store, func(r store.Reader) error {
		size, err := r.Size()
		if size.Used <= 0 || size.Free < 0 {
			t.Errorf("size is %+v", size)
		}
		if err != nil {
			return err
		}
		tables, err := r.TableSizes()
		for _, ts := range tables {
			if ts.Name != "events" {
				continue
			}
			// PostgreSQL has not counted them yet.
			if !ts.Estimate && (ts.Rows != 200 || ts.Bytes < 200*100 || ts.Oldest != 100 || ts.Newest != 299) {
				t.Errorf("events are %+v", ts)
			}
		}
		if len(tables) == 0 {
			t.Error("no tables")
		}
		return err
	})
}

// testForgetBesideWriting: who deletes what is old while others write loses nothing
// of theirs, and none is told that a record is new that is there.
func testForgetBesideWriting(t *testing.T, h Harness) {
	stores := []store.Store{h.Store}
	if h.Other != nil {
		stores = append(stores, h.Other(t, "sweeper"))
	}
	sweeper := stores[len(stores)-1]
	const writers, each = 4, 40
	update(t, h.Store, func(tx store.Tx) error {
		for n := range 300 {
			ref := session(n)
			_, err := tx.PutEvent(Event(n, staunch.Time(n+1), ref))
			_, serr := tx.PutSignal(Signal(ref, n, staunch.Time(n+1)))
			if err := errors.Join(err, serr); err != nil {
				return err
			}
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				n := 1000 + w*each + i
				at := staunch.Time(1_000_000 + n)
				for _, want := range []bool{true, false} { // and once more, as it is delivered again
					var in bool
					err := stores[w%len(stores)].Update(ctx, func(tx store.Tx) error {
						ref := session(n)
						var err error
						if in, err = tx.PutEvent(Event(n, at, ref)); err != nil || !in {
							return err
						}
						_, ferr := tx.PutFact(Fact(ref, Ref(1), n, at))
						_, serr := tx.PutSignal(Signal(ref, n, at))
						return errors.Join(ferr, serr)
					})
					if err != nil || in != want {
						t.Errorf("event %d: inserted %v, want %v: %v", n, in, want, err)
						return
					}
				}
			}
		})
	}
	deleted := map[store.Kept]int{}
	for _, kind := range []store.Kept{store.KeptSignals, store.KeptEvents} {
		rows := slices.DeleteFunc(walkAll(t, sweeper, kind, 50), func(o store.OldRow) bool { return o.At > 1000 })
		for part := range slices.Chunk(rows, 20) {
			n := 0
			if err := sweeper.Update(ctx, func(tx store.Tx) error {
				f, err := tx.Forget(kind, part)
				n = f.Rows
				return err
			}); err != nil {
				t.Fatal(err)
			}
			deleted[kind] += n
		}
	}
	wg.Wait()
	same(t, "deleted", deleted, map[store.Kept]int{store.KeptSignals: 300, store.KeptEvents: 300})
	same(t, "events left", len(walkAll(t, sweeper, store.KeptEvents, 1000)), writers*each)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "under the account", len(must(r.SignalsWithin([]staunch.Ref{Ref(1)}, 0, 1000))(t)), writers*each)
		for w := range writers {
			n := 1000 + w*each
			same(t, "under a session", len(must(r.SignalsWithin([]staunch.Ref{session(n)}, 0, 10))(t)), 1)
		}
	})
}
