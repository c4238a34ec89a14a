package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Run runs the suite. open gives a store on a new, empty database each time.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Nothing", testNothing},
		{"Events", testEvents},
		{"Facts", testFacts},
		{"Identities", testIdentities},
		{"Signals", testSignals},
		{"Decisions", testDecisions},
		{"Containments", testContainments},
		{"Trust", testTrust},
		{"RuleUse", testRuleUse},
		{"Drills", testDrills},
		{"PlansAndSteps", testPlansAndSteps},
		{"Holds", testHolds},
		{"Timers", testTimers},
		{"Caps", testCaps},
		{"Rows", testRows},
		{"Sealed", testSealed},
		{"Records", testRecords},
		{"Leases", testLeases},
		{"BundleRequired", testBundleRequired},
		{"Guards", testGuards},
		{"SealedValues", testSealedValues},
		{"CapsNamed", testCapsNamed},
		{"BadInput", testBadInput},
		{"Contributions", testContributions},
		{"Sightings", testSightings},
		{"PruneCorrelations", testPruneCorrelations},
		{"ForgetEvents", testForgetEvents},
		{"ForgetSignals", testForgetSignals},
		{"ForgetFacts", testForgetFacts},
		{"ForgetDecisions", testForgetDecisions},
		{"ForgetContainments", testForgetContainments},
		{"ForgetRest", testForgetRest},
		{"Sizes", testSizes},
		{"ForgetBesideWriting", testForgetBesideWriting},
		{"Rollback", testRollback},
		{"OnCommit", testOnCommit},
		{"Panic", testPanic},
		{"Over", testOver},
		{"Cancel", testCancel},
		{"Snapshot", testSnapshot},
		{"Serializable", testSerializable},
		{"WriteSkew", testWriteSkew},
		{"CapsAtOnce", testCapsAtOnce},
		{"HoldsAtOnce", testHoldsAtOnce},
		{"RecordsAtOnce", testRecordsAtOnce},
		{"ContributionsAtOnce", testContributionsAtOnce},
		{"OpposedLocks", testOpposedLocks},
		{"OneActiveHold", testOneActiveHold},
		{"Reopen", testReopen},
		{"Close", testClose},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func update(t *testing.T, s store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t *testing.T, s store.Store, fn func(store.Reader) error) {
	t.Helper()
	if err := s.View(t.Context(), fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

// inBoth runs the same checks inside a View and inside an Update.
func inBoth(t *testing.T, s store.Store, fn func(t *testing.T, r store.Reader)) {
	t.Helper()
	t.Run("view", func(t *testing.T) {
		view(t, s, func(r store.Reader) error { fn(t, r); return nil })
	})
	t.Run("update", func(t *testing.T) {
		update(t, s, func(tx store.Tx) error { fn(t, tx); return nil })
	})
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
		return v
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want one that wraps %q", what, err, want)
	}
}

func idsOf[T any](list []T, id func(T) string) []string {
	out := []string{}
	for _, v := range list {
		out = append(out, id(v))
	}
	return out
}

// testNothing: what is not there is ErrNotFound, or an empty slice, not nil.
func testNothing(t *testing.T, h Harness) {
	refs := []staunch.Ref{Ref(1), Ref(2)}
	rels := []staunch.Rel{staunch.RelOf, staunch.RelBy}
	target := staunch.Target{Ref: Ref(1), Attribute: "login"}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		for name, call := range map[string]func() (any, error){
			"Event":                               func() (any, error) { return r.Event("x") },
			"Fact":                                func() (any, error) { return r.Fact("x") },
			"Identity":                            func() (any, error) { return r.Identity("x") },
			"IdentityOf":                          func() (any, error) { return r.IdentityOf(Ref(1)) },
			"Signal":                              func() (any, error) { return r.Signal("x") },
			"Decision":                            func() (any, error) { return r.Decision("x") },
			"Containment":                         func() (any, error) { return r.Containment("x") },
			"Step":                                func() (any, error) { return r.Step("x") },
			"Hold":                                func() (any, error) { return r.Hold("x") },
			"ActiveHold":                          func() (any, error) { return r.ActiveHold(staunch.PlaneGuard, target) },
			"Cursor":                              func() (any, error) { return r.Cursor("x") },
			"Cap":                                 func() (any, error) { return r.Cap("x") },
			"Breaker":                             func() (any, error) { return r.Breaker("x") },
			"Token":                               func() (any, error) { return r.Token("x") },
			"TokenByHash":                         func() (any, error) { return r.TokenByHash("x") },
			"ActiveBundle":                        func() (any, error) { return r.ActiveBundle() },
			"ActiveHash":                          func() (any, error) { return r.ActiveHash() },
			"Sealed":                              func() (any, error) { return r.Sealed("x") },
			"SecretOf":                            func() (any, error) { return r.SecretOf(Ref(1)) },
			"Signals after one that is not there": func() (any, error) { return r.Signals(store.Page{After: "x"}) },
		} {
			_, err := call()
			is(t, name, err, staunch.ErrNotFound)
		}
		for name, call := range map[string]func() (any, error){
			"EventsNaming":         func() (any, error) { return r.EventsNaming(refs, 10) },
			"EventsNaming nobody":  func() (any, error) { return r.EventsNaming(nil, 10) },
			"LinksFrom":            func() (any, error) { return r.LinksFrom(refs, rels, 10) },
			"LinksTo":              func() (any, error) { return r.LinksTo(refs, rels, 10) },
			"LinksTo by no rel":    func() (any, error) { return r.LinksTo(refs, nil, 10) },
			"Identities":           func() (any, error) { return r.Identities(store.Page{}) },
			"SignalsWithin":        func() (any, error) { return r.SignalsWithin(refs, 0, 10) },
			"Signals":              func() (any, error) { return r.Signals(store.Page{}) },
			"Decisions":            func() (any, error) { return r.Decisions(store.Page{}) },
			"OpenContainments":     func() (any, error) { return r.OpenContainments(refs) },
			"Containments":         func() (any, error) { return r.Containments(store.Page{}, false) },
			"Containments, open":   func() (any, error) { return r.Containments(store.Page{}, true) },
			"Plans":                func() (any, error) { return r.Plans("x") },
			"Steps":                func() (any, error) { return r.Steps("x") },
			"HoldsClaimedBy":       func() (any, error) { return r.HoldsClaimedBy("x") },
			"HoldsAfter":           func() (any, error) { return r.HoldsAfter(staunch.PlaneGuard, 0, 10) },
			"DueTimers":            func() (any, error) { return r.DueTimers(1<<60, 10) },
			"Breakers":             func() (any, error) { return r.Breakers() },
			"Tokens":               func() (any, error) { return r.Tokens() },
			"Records":              func() (any, error) { return r.Records("x", 0, 10) },
			"RecordsAbout":         func() (any, error) { return r.RecordsAbout("x", 10) },
			"Heads":                func() (any, error) { return r.Heads() },
			"Notices":              func() (any, error) { return r.Notices(1<<60, 10) },
			"Parked":               func() (any, error) { return r.Parked(store.Page{}) },
			"Contributions":        func() (any, error) { return r.Contributions("x", 0, 1<<60, 10) },
			"DueContributions":     func() (any, error) { return r.DueContributions(1<<60, 10) },
			"Sightings":            func() (any, error) { return r.Sightings("x", "", "~", 10) },
			"Parked after nothing": func() (any, error) { return r.Parked(store.Page{After: "x"}) },
		} {
			got, err := call()
			if v := reflect.ValueOf(got); err != nil || v.Kind() != reflect.Slice || v.IsNil() || v.Len() != 0 {
				t.Errorf("%s: got %#v, %v; want an empty slice", name, got, err)
			}
		}
		same(t, "HoldSeq", must(r.HoldSeq())(t), int64(0))
		same(t, "NextTimer", must(r.NextTimer())(t), staunch.Time(0))
	})
	// Deleting what is not there is no error.
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.DeleteIdentity("x"), tx.DeleteTimer("x"), tx.DeleteToken("x"), tx.DeleteParked("x"),
			tx.Shred("x", "y"), tx.Shred(), tx.ShredSecret(Ref(1)), tx.GiveBack("x"), tx.ReleaseLease("x", "y"))
	})
}

// twice puts v twice, in one transaction and in another, and checks that only
// the first call inserted.
func twice(t *testing.T, s store.Store, put func(store.Tx) (bool, error)) {
	t.Helper()
	for i, want := range []bool{true, false} {
		update(t, s, func(tx store.Tx) error {
			first, err := put(tx)
			if err != nil {
				return err
			}
			second, err := put(tx)
			if first != want || second {
				t.Errorf("transaction %d: inserted %v, then %v; want %v, then false", i+1, first, second, want)
			}
			return err
		})
	}
}

func testEvents(t *testing.T, h Harness) {
	a, b, c := Ref(1), Ref(2), Ref(3)
	e1, e2, e3 := Event(1, 100, a, b), Event(2, 300, b), Event(3, 200, a, a)
	for _, e := range []staunch.Event{e1, e2, e3} {
		twice(t, h.Store, func(tx store.Tx) (bool, error) { return tx.PutEvent(e) })
	}
	update(t, h.Store, func(tx store.Tx) error {
		other := e1
		other.Operation = "something else"
		inserted, err := tx.PutEvent(other)
		same(t, "inserted over another", inserted, false)
		return err
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "event", must(r.Event(e1.ID))(t), e1)
		same(t, "newest first, each once", must(r.EventsNaming([]staunch.Ref{a, b, c, a}, 10))(t), []staunch.Event{e2, e3, e1})
		same(t, "the newest are kept", must(r.EventsNaming([]staunch.Ref{a, b}, 2))(t), []staunch.Event{e2, e3})
		same(t, "of one", must(r.EventsNaming([]staunch.Ref{a}, 10))(t), []staunch.Event{e3, e1})
	})
}

func testFacts(t *testing.T, h Harness) {
	a, b, c, d := Ref(1), Ref(2), Ref(3), Ref(4)
	f1 := Fact(a, b, 1, 100)
	f1.By = c
	f1.ID = staunch.FactID(f1)
	f2 := Fact(d, b, 2, 50)
	f3 := Fact(a, d, 3, 70)
	f3.Type, f3.Until = staunch.FactSameAs, 900
	f3.ID = staunch.FactID(f3)
	for _, f := range []staunch.Fact{f1, f2, f3} {
		twice(t, h.Store, func(tx store.Tx) (bool, error) { return tx.PutFact(f) })
	}
	l1, l2, l3 := f1.Links(), f2.Links(), f3.Links()
	all := []staunch.Rel{staunch.RelOf, staunch.RelBy, staunch.RelSame, staunch.RelOf}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "fact", must(r.Fact(f1.ID))(t), f1)
		from := must(r.LinksFrom([]staunch.Ref{a, d}, all, 10))(t)
		same(t, "links", len(from), 4)
		same(t, "first link", from[0], l2[0])
		same(t, "second link", from[1], l3[0])
		for range 2 { // what the caller does to an answer does not reach the next one
			of := must(r.LinksFrom([]staunch.Ref{a, a}, []staunch.Rel{staunch.RelOf}, 10))(t)
			same(t, "of", of, []staunch.Link{l1[0]})
			clear(of)
		}
		same(t, "to", must(r.LinksTo([]staunch.Ref{b}, []staunch.Rel{staunch.RelOf}, 10))(t), []staunch.Link{l2[0], l1[0]})
		same(t, "to, limited", must(r.LinksTo([]staunch.Ref{b}, []staunch.Rel{staunch.RelOf}, 1))(t), []staunch.Link{l2[0]})
		same(t, "by", must(r.LinksTo([]staunch.Ref{c}, []staunch.Rel{staunch.RelBy}, 10))(t), []staunch.Link{l1[1]})
	})
	// More refs than go into one statement.
	many := []staunch.Ref{}
	for i := range 150 {
		many = append(many, Ref(1000+i))
	}
	update(t, h.Store, func(tx store.Tx) error {
		for i, ref := range many {
			if _, err := tx.PutFact(Fact(ref, b, 100+i, staunch.Time(1000-i))); err != nil {
				return err
			}
		}
		return nil
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		got := must(r.LinksFrom(many, []staunch.Rel{staunch.RelOf}, 120))(t)
		if len(got) != 120 || got[0].Since != 1000-149 || got[119].Since != 1000-149+119 {
			t.Errorf("%d links, from %d to %d", len(got), got[0].Since, got[len(got)-1].Since)
		}
	})
}

func testIdentities(t *testing.T, h Harness) {
	one := staunch.Identity{V: 1, Name: "billing", Kind: staunch.IdentityService, Tolerance: staunch.ToleranceStaged, Managed: true,
		Accounts: []staunch.Ref{Ref(1), Ref(2)}}
	two := staunch.Identity{V: 1, Name: "anna", Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true,
		Accounts: []staunch.Ref{Ref(3)}}
	update(t, h.Store, func(tx store.Tx) error { return errors.Join(tx.PutIdentity(one), tx.PutIdentity(two)) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "identity", must(r.Identity("billing"))(t), one)
		same(t, "identity of", must(r.IdentityOf(Ref(2)))(t), one)
		same(t, "identities", must(r.Identities(store.Page{}))(t), []staunch.Identity{two, one})
		same(t, "first", must(r.Identities(store.Page{Limit: 1}))(t), []staunch.Identity{two})
		same(t, "after", must(r.Identities(store.Page{After: "anna"}))(t), []staunch.Identity{one})
	})
	// Replaced: an account goes, another comes.
	one.Accounts, one.Owner = []staunch.Ref{Ref(2), Ref(4)}, "team-b"
	update(t, h.Store, func(tx store.Tx) error { return tx.PutIdentity(one) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.IdentityOf(Ref(1))
		is(t, "an account that went", err, staunch.ErrNotFound)
		same(t, "an account that came", must(r.IdentityOf(Ref(4)))(t), one)
	})
	// A conflict changes nothing, and the transaction may go on.
	thief := staunch.Identity{V: 1, Name: "thief", Kind: staunch.IdentityService, Tolerance: staunch.ToleranceNormal, Accounts: []staunch.Ref{Ref(9), Ref(3)}}
	update(t, h.Store, func(tx store.Tx) error {
		is(t, "another's account", tx.PutIdentity(thief), staunch.ErrConflict)
		return tx.PutCursor("after the conflict", "went on")
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.Identity("thief")
		is(t, "the one in conflict", err, staunch.ErrNotFound)
		_, err = r.IdentityOf(Ref(9))
		is(t, "its account", err, staunch.ErrNotFound)
		same(t, "cursor", must(r.Cursor("after the conflict"))(t), "went on")
	})
	update(t, h.Store, func(tx store.Tx) error { return tx.DeleteIdentity("anna") })
	update(t, h.Store, func(tx store.Tx) error { return tx.PutIdentity(thief) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "account of a deleted one, taken", must(r.IdentityOf(Ref(3)))(t), thief)
	})
}

func testSignals(t *testing.T, h Harness) {
	a, b := Ref(1), Ref(2)
	var all []staunch.Signal
	for i := range 6 {
		ref := a
		if i%2 == 1 {
			ref = b
		}
		all = append(all, Signal(ref, i, staunch.Time(100*(i+1))))
	}
	tied := Signal(a, 50, 100) // the same time as the first: the id decides
	all = append(all, tied)
	for _, s := range all {
		twice(t, h.Store, func(tx store.Tx) (bool, error) { return tx.PutSignal(s) })
	}
	first, second := all[0], tied
	if first.ID > second.ID {
		first, second = second, first
	}
	ascending := append([]staunch.Signal{first, second}, all[1:6]...)
	briefs := func(of ...staunch.Signal) (out []staunch.Signal) {
		for _, s := range of {
			out = append(out, store.Brief(s))
		}
		return out
	}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		both := []staunch.Ref{a, b}
		same(t, "signal", must(r.Signal(tied.ID))(t), tied)
		within := func(refs []staunch.Ref, since staunch.Time, limit int) (ascending []staunch.Signal) {
			for _, s := range slices.Backward(must(r.SignalsWithin(refs, since, limit))(t)) {
				ascending = append(ascending, *s)
			}
			return ascending
		}
		same(t, "within", within(both, 0, 10), briefs(ascending...))
		same(t, "since is included", within(both, 200, 10), briefs(ascending[2:]...))
		same(t, "the newest kept, in order", within(both, 0, 3), briefs(ascending[4:]...))
		same(t, "of one", within([]staunch.Ref{b}, 0, 10), briefs(all[1], all[3], all[5]))
		var paged []staunch.Signal
		p := store.Page{Limit: 3}
		for {
			page := must(r.Signals(p))(t)
			if len(page) == 0 {
				break
			}
			paged = append(paged, page...)
			p.After = page[len(page)-1].ID
		}
		for i, s := range paged {
			same(t, fmt.Sprintf("signal %d of the pages", i), s, ascending[len(ascending)-1-i])
		}
		same(t, "paged", len(paged), len(all))
	})
	testWithin(t, h)
	// Bounds of a page.
	update(t, h.Store, func(tx store.Tx) error {
		for i := range store.MaxPage + 10 {
			if _, err := tx.PutSignal(Signal(Ref(7), 1000+i, staunch.Time(10000+i))); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, h.Store, func(r store.Reader) error {
		same(t, "default page", len(must(r.Signals(store.Page{}))(t)), store.DefaultPage)
		same(t, "largest page", len(must(r.Signals(store.Page{Limit: 5 * store.MaxPage}))(t)), store.MaxPage)
		same(t, "as many as asked for", len(must(r.SignalsWithin([]staunch.Ref{Ref(7)}, 0, store.MaxPage+5))(t)), store.MaxPage+5)
		return nil
	})
}

// testWithin puts signals and links in a random order and asks, of everything,
// which signals are within, beside a walk over all that was put.
func testWithin(t *testing.T, h Harness) {
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := []staunch.Kind{staunch.KindSession, staunch.KindCredential, staunch.KindAccount, staunch.KindIdentity, staunch.KindResource}
	var refs []staunch.Ref
	for i := range 15 {
		ref := staunch.Ref{Kind: kinds[i%len(kinds)], Realm: "within", Scheme: "n", Value: strconv.Itoa(i)}
		if ref.Kind == staunch.KindIdentity {
			ref = staunch.IdentityRef("within " + ref.Value)
		}
		refs = append(refs, ref)
	}
	var links []staunch.Link
	var signals []staunch.Signal
	for n := range 120 {
		ref, other := refs[rng.IntN(len(refs))], refs[rng.IntN(len(refs))]
		undone := rng.IntN(4) == 0
		accusation := Signal(ref, 5000+n, staunch.Time(1000+n))
		fact := Fact(ref, other, 5000+n, staunch.Time(n))
		if n%6 == 4 {
			fact.Type = staunch.FactSameAs
		}
		fact.ID = staunch.FactID(fact)
		accuses := n%3 == 0
		if !accuses && ref == other {
			continue
		}
		err := h.Store.Update(t.Context(), func(tx store.Tx) (err error) {
			if accuses {
				_, err = tx.PutSignal(accusation)
			} else {
				_, err = tx.PutFact(fact)
			}
			// What a store remembers of this has to go with it.
			_, aerr := tx.SignalsWithin(refs, 0, 1000)
			if undone {
				err = errors.Join(err, errUndone)
			}
			return errors.Join(err, aerr)
		})
		switch {
		case undone && errors.Is(err, errUndone):
		case err != nil:
			t.Fatal(err)
		case accuses:
			signals = append(signals, accusation)
		default:
			links = append(links, fact.Links()...)
		}
		if n%10 != 9 {
			continue
		}
		inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
			for _, top := range refs {
				in := map[staunch.Ref]bool{top: true}
				for before := 0; before != len(in); {
					before = len(in)
					for _, l := range links {
						if !store.Rises(l) {
							continue
						}
						if in[l.To] {
							in[l.From] = true
						}
						if l.Rel == staunch.RelSame && in[l.From] {
							in[l.To] = true
						}
					}
				}
				var want []string
				for _, s := range signals {
					if in[s.Accused] {
						want = append(want, s.ID)
					}
				}
				var got []string
				for _, s := range slices.Backward(must(r.SignalsWithin([]staunch.Ref{top}, 0, 1000))(t)) {
					got = append(got, s.ID)
				}
				same(t, fmt.Sprintf("after %d, signals within %s", n, top), got, want)
			}
		})
	}
}

var errUndone = errors.New("undone")

func testDecisions(t *testing.T, h Harness) {
	mk := func(n int) staunch.Decision {
		return staunch.Decision{V: 1, ID: staunch.DecisionID(Ref(n), "b", []string{"s"}), Subject: Ref(n), Scope: Ref(n), AsOf: 5, Made: staunch.Time(100 + n),
			Signals: []string{"s"}, Bundle: "b", Tier: staunch.TierIsolate, Mode: staunch.ModeEnforce, Verdict: staunch.VerdictContain,
			Suspicion: staunch.Suspicion{Subject: Ref(n), Confidence: 0.5, AsOf: 5}, Inputs: []byte(`{"x":"<&>"}`)}
	}
	for n := range 4 {
		twice(t, h.Store, func(tx store.Tx) (bool, error) { return tx.PutDecision(mk(n)) })
	}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "decision", must(r.Decision(mk(2).ID))(t), mk(2))
		same(t, "newest first", must(r.Decisions(store.Page{Limit: 2}))(t), []staunch.Decision{mk(3), mk(2)})
		same(t, "after", must(r.Decisions(store.Page{After: mk(2).ID}))(t), []staunch.Decision{mk(1), mk(0)})
	})
}

func testContainments(t *testing.T, h Harness) {
	one, two, three := Containment(Ref(1), "a", 100), Containment(Ref(2), "b", 200), Containment(Ref(3), "c", 300)
	one.Names = []staunch.Ref{Ref(1), Ref(11), Ref(12)}
	two.Names = []staunch.Ref{Ref(11)}
	put := func(cs ...staunch.Containment) {
		t.Helper()
		update(t, h.Store, func(tx store.Tx) error {
			for _, c := range cs {
				if err := tx.PutContainment(c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	id := func(c staunch.Containment) string { return c.ID }
	put(one, two, three)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "containment", must(r.Containment(one.ID))(t), one)
		same(t, "by subject", must(r.OpenContainments([]staunch.Ref{Ref(2)}))(t), []staunch.Containment{two})
		same(t, "by names", must(r.OpenContainments([]staunch.Ref{Ref(11), Ref(12), Ref(99)}))(t), []staunch.Containment{one, two})
		same(t, "newest first", idsOf(must(r.Containments(store.Page{}, false))(t), id), []string{three.ID, two.ID, one.ID})
		same(t, "after", idsOf(must(r.Containments(store.Page{After: three.ID, Limit: 1}, true))(t), id), []string{two.ID})
	})
	// Replaced by the same and by a higher generation, not by a lower.
	one.Phase, one.Names = staunch.PhaseHeld, []staunch.Ref{Ref(1), Ref(12), Ref(13)}
	put(one)
	one.Generation = 5
	put(one)
	late := one
	late.Generation, late.Phase = 4, staunch.PhaseReleased
	update(t, h.Store, func(tx store.Tx) error {
		is(t, "a lower generation", tx.PutContainment(late), staunch.ErrConflict)
		return nil
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "kept", must(r.Containment(one.ID))(t), one)
		same(t, "a name that went", must(r.OpenContainments([]staunch.Ref{Ref(11)}))(t), []staunch.Containment{two})
		same(t, "a name that came", must(r.OpenContainments([]staunch.Ref{Ref(13)}))(t), []staunch.Containment{one})
	})
	// A stuck case is not released; a released one is found by id only.
	three.Phase, one.Phase = staunch.PhaseStuck, staunch.PhaseReleased
	put(one, three)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "released", must(r.OpenContainments([]staunch.Ref{Ref(1), Ref(12), Ref(13)}))(t), []staunch.Containment{})
		same(t, "open", idsOf(must(r.Containments(store.Page{}, true))(t), id), []string{three.ID, two.ID})
		same(t, "after a released one", idsOf(must(r.Containments(store.Page{After: three.ID}, true))(t), id), []string{two.ID})
		same(t, "all", len(must(r.Containments(store.Page{}, false))(t)), 3)
	})
}

func testPlansAndSteps(t *testing.T, h Harness) {
	plan := func(generation int64, stage, child int) staunch.Plan {
		return staunch.Plan{V: 1, ID: staunch.PlanID("con_1", generation, stage, child), Containment: "con_1", Generation: generation,
			Stage: stage, Child: child, Tier: staunch.TierIsolate, Made: 5, Hash: "sha256:x"}
	}
	plans := []staunch.Plan{plan(1, 0, 0), plan(3, 0, 0), plan(2, 0, 1), plan(1, 1, 0)}
	for _, i := range []int{3, 1, 0, 2} {
		twice(t, h.Store, func(tx store.Tx) (bool, error) { return tx.PutPlan(plans[i]) })
	}
	step := func(p, seq int) staunch.Step {
		target := staunch.Target{Ref: Ref(seq), Attribute: "login"}
		id := staunch.StepID(plans[p].ID, target, staunch.VerbSuspend)
		return staunch.Step{V: 1, ID: id, Plan: plans[p].ID, Containment: "con_1", Seq: seq, Connector: "postgresql", Target: target,
			Verb: staunch.VerbSuspend, Tier: staunch.TierIsolate, State: staunch.StepIntended, Generation: 1, Hold: "hld_1", Intended: 5,
			Intent: staunch.Intent{Key: id, Generation: 1, Target: target, Verb: staunch.VerbSuspend, Call: "ALTER ROLE", Undo: "ALTER ROLE",
				Reversibility: staunch.Reversible, Params: []byte(`{"a":"<b>"}`), Expected: staunch.State{V: 1, Target: target, Exists: true}}}
	}
	var want []staunch.Step
	for p := range plans {
		for seq := range 2 {
			want = append(want, step(p, seq))
		}
	}
	update(t, h.Store, func(tx store.Tx) error {
		for i := len(want) - 1; i >= 0; i-- {
			if err := tx.PutStep(want[i]); err != nil {
				return err
			}
		}
		return nil
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "plans", must(r.Plans("con_1"))(t), plans)
		same(t, "steps in order", must(r.Steps("con_1"))(t), want)
		same(t, "step", must(r.Step(want[3].ID))(t), want[3])
		same(t, "of another", must(r.Steps("con_2"))(t), []staunch.Step{})
	})
	s := want[0]
	s.State, s.Generation, s.Receipt = staunch.StepApplied, 2, &staunch.Receipt{At: 9, Changed: true}
	late := want[0]
	update(t, h.Store, func(tx store.Tx) error {
		if err := errors.Join(tx.PutStep(s), tx.PutStep(s)); err != nil {
			return err
		}
		is(t, "a lower generation", tx.PutStep(late), staunch.ErrConflict)
		return nil
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) { same(t, "replaced", must(r.Step(s.ID))(t), s) })
}

func testHolds(t *testing.T, h Harness) {
	put := func(x staunch.Hold) staunch.Hold {
		t.Helper()
		var got staunch.Hold
		update(t, h.Store, func(tx store.Tx) error {
			before, err := tx.HoldSeq()
			if err != nil {
				return err
			}
			if got, err = tx.PutHold(x); err != nil {
				return err
			}
			if got.Seq <= before {
				t.Errorf("sequence %d after %d", got.Seq, before)
			}
			same(t, "HoldSeq", must(tx.HoldSeq())(t), got.Seq)
			return nil
		})
		want := x
		want.Seq = got.Seq
		same(t, "returned", got, want)
		return got
	}
	a := put(Hold(staunch.PlaneGuard, Ref(1), "c1", "c1"))
	b := put(Hold(staunch.PlanePlatform, Ref(1), "c1", "c1"))
	c := put(Hold(staunch.PlaneGuard, Ref(2), "c2", "c2"))
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "hold", must(r.Hold(a.ID))(t), a)
		same(t, "active", must(r.ActiveHold(staunch.PlanePlatform, b.Target))(t), b)
		same(t, "after 0", must(r.HoldsAfter(staunch.PlaneGuard, 0, 10))(t), []staunch.Hold{a, c})
		same(t, "after the first", must(r.HoldsAfter(staunch.PlaneGuard, a.Seq, 10))(t), []staunch.Hold{c})
		same(t, "limited", must(r.HoldsAfter(staunch.PlaneGuard, 0, 1))(t), []staunch.Hold{a})
	})
	// A second active hold on the target is a conflict, after which the
	// transaction may go on.
	second := Hold(staunch.PlaneGuard, Ref(1), "c9", "c9")
	update(t, h.Store, func(tx store.Tx) error {
		_, err := tx.PutHold(second)
		is(t, "a second active hold", err, staunch.ErrConflict)
		return tx.PutCursor("went", "on")
	})
	// A further claim; then the release, after which the claims are remembered
	// and the target can be held again.
	a.Claims = []string{"c1", "c2"}
	a = put(a)
	a.State, a.Claims = staunch.HoldReleased, nil
	a.Claims = []string{}
	a = put(a)
	id := func(x staunch.Hold) string { return x.ID }
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.ActiveHold(staunch.PlaneGuard, a.Target)
		is(t, "active after release", err, staunch.ErrNotFound)
		same(t, "changed holds come last", must(r.HoldsAfter(staunch.PlaneGuard, 0, 10))(t), []staunch.Hold{c, a})
		if got := idsOf(must(r.HoldsClaimedBy("c2"))(t), id); len(got) != 2 {
			t.Errorf("claimed by c2: %v", got)
		}
		if got := idsOf(must(r.HoldsClaimedBy("c1"))(t), id); len(got) != 2 {
			t.Errorf("claimed by c1: %v", got)
		}
	})
	second = put(second)
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "held again", must(r.ActiveHold(staunch.PlaneGuard, a.Target))(t), second)
		same(t, "highest", must(r.HoldSeq())(t), second.Seq)
	})
}

func testTimers(t *testing.T, h Harness) {
	a := store.Timer{ID: "a", Due: 300, Kind: "expiry", About: "con_1"}
	b := store.Timer{ID: "b", Due: 100, Kind: "window", About: "con_2"}
	c := store.Timer{ID: "c", Due: 200, Kind: "window", About: "con_1"}
	update(t, h.Store, func(tx store.Tx) error { return errors.Join(tx.PutTimer(a), tx.PutTimer(b), tx.PutTimer(c)) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "due", must(r.DueTimers(200, 10))(t), []store.Timer{b, c})
		same(t, "limited", must(r.DueTimers(1000, 1))(t), []store.Timer{b})
		same(t, "none due", must(r.DueTimers(99, 10))(t), []store.Timer{})
		same(t, "next", must(r.NextTimer())(t), staunch.Time(100))
	})
	b.Due, b.Kind, b.About = 900, "sweep", "con_3"
	update(t, h.Store, func(tx store.Tx) error { return errors.Join(tx.PutTimer(b), tx.DeleteTimer("c")) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "replaced and deleted", must(r.DueTimers(1000, 10))(t), []store.Timer{a, b})
	})
}

func testCaps(t *testing.T, h Harness) {
	type try struct {
		limit, keep int
		useKept     bool
		want        bool
		used        int
	}
	for name, tries := range map[string][]try{
		"plain":            {{2, 0, false, true, 1}, {2, 0, false, true, 2}, {2, 0, false, false, 2}},
		"kept places":      {{3, 1, false, true, 1}, {3, 1, false, true, 2}, {3, 1, false, false, 2}, {3, 1, true, true, 3}, {3, 1, true, false, 3}},
		"nothing at first": {{0, 0, true, false, 0}, {1, 1, false, false, 0}, {1, 1, true, true, 1}},
		"all kept":         {{2, 5, false, false, 0}, {2, 5, true, true, 1}},
		"raised, lowered":  {{1, 0, false, true, 1}, {2, 0, false, true, 2}, {1, 0, false, false, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			for i, x := range tries {
				update(t, h.Store, func(tx store.Tx) error {
					got, err := tx.Reserve(name, x.limit, x.keep, x.useKept)
					if err != nil {
						return err
					}
					same(t, fmt.Sprintf("try %d", i), got, x.want)
					same(t, fmt.Sprintf("cap after try %d", i), must(tx.Cap(name))(t), store.Cap{Name: name, Used: x.used, Limit: x.limit})
					return nil
				})
			}
		})
	}
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.GiveBack("plain"), tx.GiveBack("plain"), tx.GiveBack("plain"))
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) { same(t, "never below zero", must(r.Cap("plain"))(t).Used, 0) })
	update(t, h.Store, func(tx store.Tx) error {
		_, err := tx.Reserve("x", -1, 0, false)
		is(t, "a negative limit", err, staunch.ErrInvalid)
		return nil
	})
}

// testRows: breakers, tokens, bundles, cursors, notices, parked records.
func testRows(t *testing.T, h Harness) {
	br := store.Breaker{Scope: "source/x", Open: true, Reason: "too many", Changed: 5, By: "engine"}
	tok := store.Token{ID: "t1", Name: "ci", Hash: "aa", Role: "viewer", Realms: []string{"aws/prod"}, Created: 5, Expires: 9}
	tok2 := store.Token{ID: "t0", Name: "src", Hash: "bb", Role: "source", Source: "x", Created: 5}
	n1 := store.Notice{ID: "n1", Channel: "slack", About: "con_1", Body: []byte(`{"a":1}`), Made: 1, Due: 10}
	n2 := store.Notice{ID: "n2", Channel: "hook", About: "con_1", Body: []byte(`{}`), Made: 1, Due: 5}
	p1 := store.Parked{ID: "p1", Source: "x", Number: 3, Reason: "broken", At: 4, Raw: []byte{0, 255, 1}}
	p2 := store.Parked{ID: "p2", Source: "x", Number: 4, Reason: "broken", At: 3}
	long := make([]byte, 5000)
	for i := range long {
		long[i] = 'a' + byte(i%26)
	}
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.PutBreaker(store.Breaker{Scope: "global"}), tx.PutBreaker(store.Breaker{Scope: "source/x"}), tx.PutBreaker(br),
			tx.PutToken(tok2), tx.PutToken(store.Token{ID: "t1", Hash: "old"}), tx.PutToken(tok),
			tx.PutBundle(store.Bundle{Hash: "h1", Made: 1, Body: []byte("{ \"as it is\" : 1 }")}, true),
			tx.PutBundle(store.Bundle{Hash: "h2", Made: 2, Body: []byte("{}")}, false),
			tx.PutCursor("c", "v1"), tx.PutCursor("c", string(long)),
			tx.PutNotice(n1), tx.PutNotice(n2), tx.PutParked(p2), tx.PutParked(p1))
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "breaker", must(r.Breaker("source/x"))(t), br)
		same(t, "breakers", must(r.Breakers())(t), []store.Breaker{{Scope: "global"}, br})
		same(t, "token", must(r.Token("t1"))(t), tok)
		same(t, "by hash", must(r.TokenByHash("aa"))(t), tok)
		_, err := r.TokenByHash("old")
		is(t, "by an old hash", err, staunch.ErrNotFound)
		same(t, "tokens", must(r.Tokens())(t), []store.Token{tok2, tok})
		same(t, "bundle", must(r.ActiveBundle())(t), store.Bundle{Hash: "h1", Made: 1, Body: []byte("{ \"as it is\" : 1 }")})
		same(t, "cursor", must(r.Cursor("c"))(t), string(long))
		same(t, "notices", must(r.Notices(10, 10))(t), []store.Notice{n2, n1})
		same(t, "due", must(r.Notices(9, 10))(t), []store.Notice{n2})
		same(t, "limited", must(r.Notices(10, 1))(t), []store.Notice{n2})
		same(t, "parked", must(r.Parked(store.Page{}))(t), []store.Parked{p1, p2})
		same(t, "parked after", must(r.Parked(store.Page{After: "p1"}))(t), []store.Parked{p2})
	})
	n2.Done, n2.Attempts = 11, 1
	n1.Due, n1.Attempts, n1.Error = 99, 2, "refused"
	update(t, h.Store, func(tx store.Tx) error {
		is(t, "another's hash", tx.PutToken(store.Token{ID: "t9", Hash: "aa"}), staunch.ErrConflict)
		return errors.Join(tx.PutNotice(n1), tx.PutNotice(n2), tx.DeleteParked("p1"), tx.DeleteToken("t0"),
			tx.PutBundle(store.Bundle{Hash: "h2"}, true), tx.PutParked(store.Parked{ID: "p2", Reason: "other"}))
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "notices", must(r.Notices(1000, 10))(t), []store.Notice{n1})
		same(t, "parked: the first is kept", must(r.Parked(store.Page{}))(t), []store.Parked{p2})
		same(t, "tokens", must(r.Tokens())(t), []store.Token{tok})
		same(t, "bundle: the first is kept", must(r.ActiveBundle())(t), store.Bundle{Hash: "h2", Made: 2, Body: []byte("{}")})
	})
}

func testSealed(t *testing.T, h Harness) {
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.PutSealed("pre_1", []byte("first")), tx.PutSealed("pre_1", []byte("second")), tx.PutSealed("pre_2", []byte{}),
			tx.PutSecret(Ref(1), 100, []byte("token")), tx.PutSecret(Ref(1), 50, []byte("again")))
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "the first is kept", must(r.Sealed("pre_1"))(t), []byte("first"))
		same(t, "empty", len(must(r.Sealed("pre_2"))(t)), 0)
		same(t, "secret", must(r.SecretOf(Ref(1)))(t), []byte("token"))
	})
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.Shred("pre_1", "pre_2", "pre_3"), tx.ShredSecret(Ref(1)))
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err1 := r.Sealed("pre_1")
		_, err2 := r.Sealed("pre_2")
		_, err3 := r.SecretOf(Ref(1))
		for _, err := range []error{err1, err2, err3} {
			is(t, "shredded", err, staunch.ErrNotFound)
		}
	})
	// What runs out goes by its time, a page at a time; 0 never runs out.
	update(t, h.Store, func(tx store.Tx) error {
		return errors.Join(tx.PutSecret(Ref(1), 100, []byte("a")), tx.PutSecret(Ref(2), 100, []byte("b")),
			tx.PutSecret(Ref(3), 101, []byte("c")), tx.PutSecret(Ref(4), 0, []byte("d")))
	})
	for _, want := range []int{1, 1, 0} {
		update(t, h.Store, func(tx store.Tx) error {
			n, err := tx.ShredExpired(100, 1)
			if n != want {
				t.Errorf("%d secrets ran out, want %d", n, want)
			}
			return err
		})
	}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		for i, left := range map[int]bool{1: false, 2: false, 3: true, 4: true} {
			_, err := r.SecretOf(Ref(i))
			if left != (err == nil) {
				t.Errorf("secret %d: %v", i, err)
			}
		}
	})
}

func testRecords(t *testing.T, h Harness) {
	var put []staunch.Record
	for i := range 3 {
		update(t, h.Store, func(tx store.Tx) error {
			var mine []staunch.Record
			for k := range 2 {
				rec, err := tx.AppendRecord(Record("con_1", 10*i+k, staunch.Time(100-10*i+k)))
				if err != nil {
					return err
				}
				mine = append(mine, rec)
				heads, err := tx.Heads()
				if err != nil {
					return err
				}
				found := false
				for _, head := range heads {
					found = found || head == store.Head{Lane: rec.Lane, Seq: rec.Seq, Hash: rec.Hash, Time: rec.Time}
				}
				if !found {
					t.Errorf("the heads %v do not have the record that was just appended: %+v", heads, rec)
				}
			}
			if mine[0].Lane != mine[1].Lane || mine[1].Prev != mine[0].Hash || mine[1].Seq != mine[0].Seq+1 || mine[0].V != staunch.Version {
				t.Errorf("not chained: %+v", mine)
			}
			put = append(put, mine...)
			return nil
		})
	}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "verified", must(VerifyChains(r))(t), 6)
		about := must(r.RecordsAbout("con_1", 10))(t)
		// By time: the last transaction's come first.
		same(t, "about", about, []staunch.Record{put[4], put[5], put[2], put[3], put[0], put[1]})
		same(t, "about, limited", len(must(r.RecordsAbout("con_1", 4))(t)), 4)
		same(t, "about another", len(must(r.RecordsAbout("con_2", 4))(t)), 0)
		after := must(r.Records(put[0].Lane, put[0].Seq, 1))(t)
		same(t, "after", after, []staunch.Record{put[1]})
	})
}

func testLeases(t *testing.T, h Harness) {
	lease := func(owner string, ttl time.Duration) (generation int64, ok bool) {
		t.Helper()
		update(t, h.Store, func(tx store.Tx) (err error) {
			generation, ok, err = tx.Lease("work", owner, ttl)
			return err
		})
		return generation, ok
	}
	want := func(what string, generation int64, ok bool, wantGeneration int64, wantOK bool) {
		t.Helper()
		if generation != wantGeneration || ok != wantOK {
			t.Errorf("%s: generation %d, %v; want %d, %v", what, generation, ok, wantGeneration, wantOK)
		}
	}
	g, ok := lease("a", time.Hour)
	want("taken", g, ok, 1, true)
	g, ok = lease("a", time.Hour)
	want("renewed", g, ok, 1, true)
	g, ok = lease("b", time.Hour)
	want("another's", g, ok, 1, false)
	update(t, h.Store, func(tx store.Tx) error { return tx.ReleaseLease("work", "b") })
	g, ok = lease("b", time.Hour)
	want("released by one who has not got it", g, ok, 1, false)
	update(t, h.Store, func(tx store.Tx) error { return tx.ReleaseLease("work", "a") })
	g, ok = lease("b", time.Microsecond)
	want("released", g, ok, 2, true)
	until := time.Now().Add(5 * time.Second)
	for { // the database's clock has to move on by a microsecond
		if g, ok = lease("a", time.Hour); ok || time.Now().After(until) {
			break
		}
	}
	want("run out", g, ok, 3, true)
	for _, s := range []struct {
		owner string
		want  int64
		ok    bool
	}{
		{"a#9", 4, true},  // a process of the node that held it before there were numbers
		{"a#10", 5, true}, // the next one
		{"a#10", 5, true},
		{"a#9", 5, false}, // it woke up late
		{"a", 5, false},
		{"b#11", 5, false},
		{"#11", 5, false},
		{"a#10#11", 5, false},
	} {
		g, ok = lease(s.owner, time.Hour)
		want("asked for by "+s.owner, g, ok, s.want, s.ok)
	}
	for i, node := range []string{"n", "n", "m", "n"} {
		update(t, h.Store, func(tx store.Tx) error {
			n, err := store.BeginProcess(tx, node)
			if want := []int64{1, 2, 1, 3}[i]; err != nil || n != want {
				t.Errorf("process %d of node %s, %v; want %d", n, node, err, want)
			}
			is(t, "one that was followed", store.NewestProcess(tx, node, n-1), staunch.ErrConflict)
			return store.NewestProcess(tx, node, n)
		})
	}
	now, err := h.Store.Now(t.Context())
	if d := time.Since(now.Std()); err != nil || d < -time.Minute || d > time.Minute {
		t.Errorf("Now: %v, %v", now, err)
	}
}

// testBadInput: what one of the databases could not keep is refused by both,
// and the transaction may go on.
func testBadInput(t *testing.T, h Harness) {
	huge := make([]byte, 3000)
	for i := range huge {
		huge[i] = 'x'
	}
	update(t, h.Store, func(tx store.Tx) error {
		for name, err := range map[string]error{
			"NUL":         tx.PutCursor("a\x00b", "v"),
			"not UTF-8":   tx.PutCursor("a\xffb", "v"),
			"too long":    tx.PutCursor(string(huge), "v"),
			"no id":       tx.PutTimer(store.Timer{}),
			"no token id": tx.PutToken(store.Token{Hash: "x"}),
			"no hash":     tx.PutToken(store.Token{ID: "x"}),
			"no ref":      tx.PutSecret(staunch.Ref{}, 0, nil),
			"no step id":  tx.PutStep(staunch.Step{}),
		} {
			is(t, name, err, staunch.ErrInvalid)
		}
		_, err := tx.PutSignal(staunch.Signal{})
		is(t, "no signal id", err, staunch.ErrInvalid)
		_, err = tx.PutHold(staunch.Hold{ID: "x", Plane: "air"})
		is(t, "no plane", err, staunch.ErrInvalid)
		if !h.Values {
			bad := Event(1, 1, Ref(1))
			bad.Raw = []byte("{")
			_, err = tx.PutEvent(bad)
			is(t, "raw that is no JSON", err, staunch.ErrInvalid)
		}
		_, _, err = tx.Lease("x", "", time.Second)
		is(t, "no owner", err, staunch.ErrInvalid)
		_, err = tx.Event("a\x00b")
		is(t, "a read of a NUL", err, staunch.ErrInvalid)
		return tx.PutCursor("fine", "any \x00 value \xff is kept")
	})
	newer := Event(9, 1, Ref(1))
	newer.V = staunch.Version + 1
	update(t, h.Store, func(tx store.Tx) error { _, err := tx.PutEvent(newer); return err })
	view(t, h.Store, func(r store.Reader) error {
		same(t, "a value", must(r.Cursor("fine"))(t), "any \x00 value \xff is kept")
		if _, err := r.Event(newer.ID); !h.Values {
			is(t, "a version from the future", err, staunch.ErrInvalid)
		}
		return nil
	})
}

func testReopen(t *testing.T, h Harness) {
	c := Containment(Ref(1), "x", 5)
	var hold staunch.Hold
	update(t, h.Store, func(tx store.Tx) error {
		if err := tx.PutContainment(c); err != nil {
			return err
		}
		var err error
		if hold, err = tx.PutHold(Hold(staunch.PlaneGuard, Ref(1), "x", c.ID)); err != nil {
			return err
		}
		_, err = tx.AppendRecord(Record(c.ID, 1, 5))
		return err
	})
	s := h.Reopen(t)
	inBoth(t, s, func(t *testing.T, r store.Reader) {
		same(t, "containment", must(r.Containment(c.ID))(t), c)
		same(t, "hold", must(r.Hold(hold.ID))(t), hold)
		same(t, "records", must(VerifyChains(r))(t), 1)
	})
	update(t, s, func(tx store.Tx) error {
		again, err := tx.PutHold(hold)
		if again.Seq <= hold.Seq {
			t.Errorf("sequence %d after %d", again.Seq, hold.Seq)
		}
		return err
	})
	update(t, s, func(tx store.Tx) error { _, err := tx.AppendRecord(Record(c.ID, 2, 5)); return err })
	view(t, s, func(r store.Reader) error { same(t, "records", must(VerifyChains(r))(t), 2); return nil })
}

func testClose(t *testing.T, h Harness) {
	for range 2 {
		if err := h.Store.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	ran := false
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.Store.Update(ctx, func(store.Tx) error { ran = true; return nil }); err == nil || ctx.Err() != nil {
		t.Errorf("Update after Close: %v", err)
	}
	if err := h.Store.View(ctx, func(store.Reader) error { ran = true; return nil }); err == nil || ctx.Err() != nil {
		t.Errorf("View after Close: %v", err)
	}
	if ran {
		t.Error("a function ran after Close")
	}
}
