package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func testTrust(t *testing.T, h Harness) {
	judged := staunch.RuleTrust{V: 1, Rule: "a", Wrong: 1, LastWrong: 5}
	steered := staunch.RuleTrust{V: 1, Rule: "b", Mode: staunch.ModeRecommend, Changed: 7, By: "ann", Reason: "a <b> & c", Declared: staunch.ModeEnforce, Was: staunch.ModeEnforce}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.Trust("a")
		is(t, "Trust", err, staunch.ErrNotFound)
		same(t, "Trusts", must(r.Trusts())(t), []staunch.RuleTrust{})
		same(t, "SteeredRules", must(r.SteeredRules())(t), []staunch.RuleTrust{})
		same(t, "TrustEvents", must(r.TrustEvents("a", 10))(t), []staunch.TrustEvent{})
	})
	update(t, h.Store, func(tx store.Tx) error {
		if err := tx.PutTrust(steered); err != nil {
			return err
		}
		return tx.PutTrust(judged)
	})
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "one", must(r.Trust("b"))(t), steered)
		same(t, "all", must(r.Trusts())(t), []staunch.RuleTrust{judged, steered})
		same(t, "steered", must(r.SteeredRules())(t), []staunch.RuleTrust{steered})
	})
	judged.Mode, judged.Changed, judged.Wrong = staunch.ModeShadow, 9, 2
	update(t, h.Store, func(tx store.Tx) error { return tx.PutTrust(judged) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "replaced", must(r.SteeredRules())(t), []staunch.RuleTrust{judged, steered})
	})
	is(t, "trust in no rule", h.Store.Update(t.Context(), func(tx store.Tx) error { return tx.PutTrust(staunch.RuleTrust{}) }), staunch.ErrInvalid)

	event := func(rule string, n int) staunch.TrustEvent {
		return staunch.TrustEvent{V: 1, ID: staunch.TrustEventID(rule, staunch.TrustWrong, fmt.Sprint(n)), Rule: rule, Kind: staunch.TrustWrong,
			At: staunch.Time(n), By: "ann", Containment: "con_1", From: staunch.ModeEnforce, To: staunch.ModeEnforce}
	}
	for _, n := range []int{3, 1, 2} {
		twice(t, h.Store, func(tx store.Tx) (bool, error) { return tx.PutTrustEvent(event("a", n)) })
	}
	twice(t, h.Store, func(tx store.Tx) (bool, error) { return tx.PutTrustEvent(event("ab", 9)) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "history", must(r.TrustEvents("a", 2))(t), []staunch.TrustEvent{event("a", 3), event("a", 2)})
	})
}

func testRuleUse(t *testing.T, h Harness) {
	signal := func(rule string, n int, at staunch.Time, drill string) staunch.Signal {
		s := Signal(Ref(n), n, at)
		s.Rule, s.Drill = rule, drill
		s.ID = staunch.SignalID(rule, s.Accused, s.Event)
		return s
	}
	decision := func(n int, tier staunch.Tier, containment, drill string, rules ...string) staunch.Decision {
		d := staunch.Decision{V: 1, ID: staunch.DecisionID(Ref(n), "b", []string{"s"}), Subject: Ref(n), Scope: Ref(n), Made: staunch.Time(n), Tier: tier, Containment: containment, Drill: drill}
		for i, rule := range rules {
			d.Suspicion.Reasons = append(d.Suspicion.Reasons, staunch.Contribution{Signal: fmt.Sprint(i), Rule: rule, Source: "s", Weight: 0.5})
		}
		d.Suspicion.Reasons = append(d.Suspicion.Reasons, staunch.Contribution{Rule: "weak", Weight: 0.05})
		return d
	}
	long := strings.Repeat("x", store.MaxKey+1)
	update(t, h.Store, func(tx store.Tx) error {
		for _, s := range []staunch.Signal{
			signal("a", 1, 30, ""), signal("a", 2, 10, ""), signal("a", 3, 20, ""), signal("b", 4, 5, ""),
			signal("a", 5, 99, "drl_1"), signal("drilled", 6, 99, "drl_1"), signal(long, 7, 99, ""),
		} {
			if _, err := tx.PutSignal(s); err != nil {
				return err
			}
		}
		for _, d := range []staunch.Decision{
			decision(1, staunch.TierIsolate, "con_1", "", "a", "b", long), decision(2, staunch.TierRevoke, "con_1", "", "a"),
			decision(3, staunch.TierIsolate, "", "", "a"), decision(4, staunch.TierObserve, "", "", "a"), decision(5, staunch.TierIsolate, "con_2", "drl_1", "a"),
		} {
			if _, err := tx.PutDecision(d); err != nil {
				return err
			}
		}
		return nil
	})
	a := staunch.RuleUse{Rule: "a", Matches: 3, First: 10, Last: 30, Decisions: 3, Containments: 1}
	b := staunch.RuleUse{Rule: "b", Matches: 1, First: 5, Last: 5, Decisions: 1, Containments: 1}
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		same(t, "all", must(r.RuleUses(store.Page{}))(t), []staunch.RuleUse{a, b})
		same(t, "a page", must(r.RuleUses(store.Page{Limit: 1}))(t), []staunch.RuleUse{a})
		same(t, "the next", must(r.RuleUses(store.Page{After: "a", Limit: 1}))(t), []staunch.RuleUse{b})
		same(t, "the end", must(r.RuleUses(store.Page{After: "b"}))(t), []staunch.RuleUse{})
		same(t, "one", must(r.RuleUse("a"))(t), a)
		same(t, "none", must(r.RuleUse("c"))(t), staunch.RuleUse{Rule: "c"})
		n, first, err := r.MatchesSince("a", 11)
		if n != 2 || first != 20 || err != nil {
			t.Errorf("since 11: %d from %d, %v", n, first, err)
		}
		if n, first, err := r.MatchesSince("", 0); n != 0 || first != 0 || err != nil {
			t.Errorf("of no rule: %d from %d, %v", n, first, err)
		}
		same(t, "behind", must(r.RulesBehind("con_1"))(t), []string{"a", "b"})
		same(t, "behind a drill", must(r.RulesBehind("con_2"))(t), []string{})
		same(t, "behind nothing", must(r.RulesBehind(""))(t), []string{})
	})
}

func testDrills(t *testing.T, h Harness) {
	mk := func(name string, n int) staunch.Drill {
		return staunch.Drill{V: 1, ID: staunch.DrillID(name, fmt.Sprint(n)), Name: name, Canary: Ref(1), Source: "s", By: "ann", Phase: staunch.DrillInjecting, Began: staunch.Time(n)}
	}
	update(t, h.Store, func(tx store.Tx) error {
		for _, d := range []staunch.Drill{mk("x", 1), mk("x", 3), mk("y", 2)} {
			if err := tx.PutDrill(d); err != nil {
				return err
			}
		}
		return nil
	})
	over := mk("x", 3)
	over.Phase, over.Ended = staunch.DrillPassed, 9
	over.Mark(staunch.DrillMarkProven, 5)
	update(t, h.Store, func(tx store.Tx) error { return tx.PutDrill(over) })
	inBoth(t, h.Store, func(t *testing.T, r store.Reader) {
		_, err := r.Drill("x")
		is(t, "Drill", err, staunch.ErrNotFound)
		same(t, "one", must(r.Drill(over.ID))(t), over)
		same(t, "all", must(r.Drills("", store.Page{}))(t), []staunch.Drill{over, mk("y", 2), mk("x", 1)})
		same(t, "of a name", must(r.Drills("x", store.Page{Limit: 1}))(t), []staunch.Drill{over})
		same(t, "the next of a name", must(r.Drills("x", store.Page{After: over.ID}))(t), []staunch.Drill{mk("x", 1)})
		open := must(r.UnfinishedDrills())(t)
		if len(open) != 2 || open[0].ID >= open[1].ID || open[0].Ended != 0 || open[1].Ended != 0 {
			t.Errorf("unfinished: %+v", open)
		}
	})
	is(t, "a drill without id", h.Store.Update(t.Context(), func(tx store.Tx) error { return tx.PutDrill(staunch.Drill{}) }), staunch.ErrInvalid)
}
