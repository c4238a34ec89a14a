package decide_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/store"
)

var (
	_ decide.HealthTx = store.Tx(nil)
	_ decide.Reader   = store.Reader(nil)
	_ decide.TripTx   = store.Tx(nil)
)

func (l *ledger) CapsNamed(prefix, after string, limit int) ([]string, error) {
	var out []string
	for name := range l.used {
		if strings.HasPrefix(name, prefix) && name > after && len(out) < limit {
			out = append(out, name)
		}
	}
	return out, nil
}
func (l *ledger) DeleteCap(name string) error                                  { delete(l.used, name); return nil }
func (l *ledger) Containments(store.Page, bool) ([]staunch.Containment, error) { return l.cases, nil }

// held is a case in force since an instant.
func held(caps []string, at staunch.Time) staunch.Containment {
	return staunch.Containment{
		Phase: staunch.PhaseHeld, Caps: caps, Changed: at,
		Playbook: staunch.Playbook{Stages: []staunch.Stage{{Tier: staunch.TierIsolate}}},
	}
}

func health(healthy, of int, at staunch.Time) decide.Health {
	return decide.Health{Environment: "prod", Purpose: "web", Healthy: healthy, Of: of, At: at, By: "monitor"}
}

func report(t testing.TB, tx decide.HealthTx, h decide.Health, now staunch.Time) {
	t.Helper()
	if _, err := decide.ReportHealth(tx, h, now); err != nil {
		t.Fatal(err)
	}
}

// wide asks for a whole account of a group.
func wide(n, group int, change ...func(*decide.Request)) decide.Request {
	return request(n, append([]func(*decide.Request){func(r *decide.Request) {
		r.Decision.Scope, r.Group = acct(fmt.Sprint(n)), group
	}}, change...)...)
}

func byHand(r *decide.Request) { r.Origin = staunch.OriginManual }

func TestGroupShare(t *testing.T) {
	for name, tt := range map[string]struct {
		limits          decide.Limits
		group, own, all int // how many are contained by policy, and by hand beside them
	}{
		"two in a hundred":       {decide.Limits{}, 100, 2, 48},
		"at least one":           {decide.Limits{}, 10, 1, 4},
		"never more than stays":  {decide.Limits{GroupShare: 90}, 10, 5, 0},
		"a share without a rest": {decide.Limits{MinHealthy: -1, GroupShare: 10}, 20, 2, 18},
		"no share":               {decide.Limits{GroupShare: -1}, 10, 5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := tt.limits
			l.Identities, l.TripSource, l.TripRule, l.TripConnector, l.TripGlobal = decide.Places{Limit: -1}, -1, -1, -1, -1
			l.Owner = decide.Places{Limit: -1}
			g, tx := rails(t, l), newLedger()
			var own, all int
			for i := range 60 {
				if a := admit(t, g, tx, wide(i, tt.group)); a.Verdict == staunch.VerdictContain {
					own++
				}
			}
			for i := range 60 {
				if a := admit(t, g, tx, wide(100+i, tt.group, byHand)); a.Verdict == staunch.VerdictContain {
					all++
				}
			}
			if own != tt.own || all != tt.all {
				t.Errorf("%d by policy and %d by hand, want %d and %d", own, all, tt.own, tt.all)
			}
		})
	}
}

func TestReportedHealth(t *testing.T) {
	g := rails(t, decide.Limits{MinHealthy: 60, HealthAge: staunch.Duration(10 * time.Minute), GroupShare: 40})
	id := request(0).Resolution.Identity
	step := staunch.Step{Target: staunch.Target{Ref: acct("1"), Attribute: "login"}, Tier: staunch.TierIsolate}
	why := func(tx decide.Reader, now staunch.Time, change ...func(*staunch.Step)) string {
		t.Helper()
		s := step
		for _, c := range change {
			c(&s)
		}
		w, err := g.Unhealthy(tx, id, 10, staunch.OriginPolicy, s, now)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	tx := newLedger()
	if w := why(tx, noon); w != "" {
		t.Errorf("nobody reported, and yet: %s", w)
	}
	report(t, tx, health(6, 10, noon), noon)
	a := admit(t, g, tx, wide(1, 10))
	if a.Verdict != staunch.VerdictCapped || !strings.Contains(a.Reasons[0], "6 were healthy") || tx.used["group/prod/web"] != 0 {
		t.Errorf("six of ten have to stay and six are healthy: %+v", a)
	}
	if a := admit(t, g, tx, wide(1, 10, byHand)); a.Verdict != staunch.VerdictCapped {
		t.Errorf("by hand: %+v", a)
	}
	if a := admit(t, g, tx, request(1, func(r *decide.Request) { r.Group = 10 })); a.Verdict != staunch.VerdictContain {
		t.Errorf("a credential: %+v", a)
	}
	// What is found out between admission and call counts.
	tx = newLedger()
	report(t, tx, health(7, 10, noon), noon)
	if a := admit(t, g, tx, wide(1, 10)); a.Verdict != staunch.VerdictContain {
		t.Fatalf("seven are healthy: %+v", a)
	}
	if w := why(tx, noon); w != "" {
		t.Errorf("the first: %s", w)
	}
	if a := admit(t, g, tx, wide(2, 10)); a.Verdict != staunch.VerdictCapped {
		t.Errorf("the second: %+v", a)
	}
	report(t, tx, health(6, 10, noon.Add(time.Second)), noon.Add(time.Second))
	if w := why(tx, noon.Add(time.Second)); !strings.Contains(w, "5 would be left, and 6 have to be") {
		t.Errorf("another is broken by the time of the call: %q", w)
	}
	if w := why(tx, noon.Add(time.Second), func(s *staunch.Step) { s.Target.Ref = cred("x") }); w != "" {
		t.Errorf("a credential: %s", w)
	}
	if w := why(tx, noon.Add(time.Second), func(s *staunch.Step) { s.Tier = staunch.TierRestrict }); w != "" {
		t.Errorf("a restriction: %s", w)
	}
	// What the report knows of does not count against it.
	tx = newLedger()
	a = admit(t, g, tx, wide(1, 10))
	tx.cases = []staunch.Containment{held(a.Caps, noon)}
	report(t, tx, health(7, 10, noon.Add(time.Second)), noon.Add(time.Second))
	if a := admit(t, g, tx, wide(2, 10, func(r *decide.Request) { r.Now = noon.Add(time.Second) })); a.Verdict != staunch.VerdictContain {
		t.Errorf("one of the three that are not healthy is contained already: %+v", a)
	}
	// What the report knew of and was released hides nothing that was contained later.
	tx = newLedger()
	a = admit(t, g, tx, wide(1, 10))
	tx.cases = []staunch.Containment{held(a.Caps, noon)}
	report(t, tx, health(7, 10, noon.Add(time.Second)), noon.Add(time.Second))
	if err := errors.Join(decide.Released(tx, a.Caps), tx.GiveBack("group/prod/web")); err != nil {
		t.Fatal(err)
	}
	for n, want := range []staunch.Verdict{staunch.VerdictContain, staunch.VerdictCapped} {
		if a := admit(t, g, tx, wide(2+n, 10, func(r *decide.Request) { r.Now = noon.Add(time.Second) })); a.Verdict != want {
			t.Errorf("number %d of seven of which six have to stay: %+v", n+1, a)
		}
	}
	// An old report is no report; people decide without it.
	late := noon.Add(11 * time.Minute)
	tx = newLedger()
	report(t, tx, health(10, 10, noon), noon)
	if a := admit(t, g, tx, wide(1, 10, func(r *decide.Request) { r.Now = late })); a.Verdict != staunch.VerdictCapped || !strings.Contains(a.Reasons[0], "nobody knows how healthy") {
		t.Errorf("by an old report: %+v", a)
	}
	if a := admit(t, g, tx, wide(1, 10, byHand, func(r *decide.Request) { r.Now = late })); a.Verdict != staunch.VerdictContain {
		t.Errorf("by hand, by an old report: %+v", a)
	}
}

func TestWhatIsRefusedOfAReport(t *testing.T) {
	for place, h := range map[string]decide.Health{
		"of":      health(0, 0, noon),
		"healthy": health(11, 10, noon),
		"purpose": {Environment: "prod", Healthy: 1, Of: 1, At: noon},
		"at":      health(1, 1, noon.Add(time.Hour)),
	} {
		tx := newLedger()
		_, err := decide.ReportHealth(tx, h, noon)
		var p *staunch.Problem
		if !errors.As(err, &p) || p.Place != place || len(tx.cursors) > 0 {
			t.Errorf("%s: %v, kept %v", place, err, tx.cursors)
		}
	}
	tx := newLedger()
	report(t, tx, health(9, 10, noon), noon)
	if _, err := decide.ReportHealth(tx, health(1, 10, noon.Add(-time.Second)), noon); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("an older report gave %v", err)
	}
}

// Invariant I6: whatever is reported, asked for, called and released, no call is let
// through after which fewer of the group are healthy than have to be, as far as the
// last report in time says.
func TestGroupsStayHealthy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const group = 10
		least := rapid.IntRange(1, 9).Draw(t, "least")
		g, err := decide.NewGuardrails(decide.Limits{
			MinHealthy: least * 10, GroupShare: 100, Identities: decide.Places{Limit: -1}, TripSource: -1, TripRule: -1, TripConnector: -1, TripGlobal: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		tx, now := newLedger(), noon
		// The truth: what works apart from us, and what we have taken away.
		works := rapid.IntRange(least, group).Draw(t, "works")
		admitted, taken := map[int][]string{}, map[int]bool{}
		seen, seenTaken := -1, 0 // the last report, and how many were taken when it came
		id := request(0).Resolution.Identity
		for i := range rapid.IntRange(1, 40).Draw(t, "events") {
			now = now.Add(time.Second)
			switch rapid.SampledFrom([]string{"report", "break", "mend", "ask", "ask", "call", "call", "release"}).Draw(t, "what") {
			case "report":
				seen, seenTaken = max(works-len(taken), 0), len(taken)
				if _, err := decide.ReportHealth(tx, health(seen, group, now), now); err != nil {
					t.Fatal(err)
				}
			case "break":
				works = max(works-1, 0)
			case "mend":
				works = min(works+1, group)
			case "ask":
				a, err := g.Admit(tx, wide(i, group, func(r *decide.Request) { r.Now = now }))
				if err != nil {
					t.Fatal(err)
				}
				if a.Verdict == staunch.VerdictContain {
					admitted[i] = a.Caps
				}
			case "call":
				for n := range group * 10 {
					if admitted[n] == nil || taken[n] {
						continue
					}
					s := staunch.Step{Target: staunch.Target{Ref: acct(fmt.Sprint(n)), Attribute: "login"}, Tier: staunch.TierIsolate}
					why, err := g.Unhealthy(tx, id, group, staunch.OriginPolicy, s, now)
					if err != nil {
						t.Fatal(err)
					}
					if why == "" {
						taken[n] = true
						tx.cases = append(tx.cases, held(admitted[n], now))
						if left := seen - (len(taken) - seenTaken); seen >= 0 && left < least {
							t.Fatalf("%d were healthy as last reported; %d are left after a call, and %d have to be", seen, left, least)
						}
					}
					break
				}
			case "release":
				for n := range group * 10 {
					if admitted[n] == nil {
						continue
					}
					if err := decide.Released(tx, admitted[n]); err != nil {
						t.Fatal(err)
					}
					for _, c := range admitted[n] {
						if err := tx.GiveBack(c); err != nil {
							t.Fatal(err)
						}
					}
					if taken[n] {
						delete(taken, n)
						tx.cases = slices.DeleteFunc(tx.cases, func(c staunch.Containment) bool { return &c.Caps[0] == &admitted[n][0] })
						if seen >= 0 { // as the platform is by now
							seenTaken = max(seenTaken-1, 0)
						}
					}
					delete(admitted, n)
					break
				}
			}
		}
	})
}

// Invariant I14, as a property: while a breaker is open nothing is contained
// automatically in its scope, but for what revokes where it is a connector's; people
// and other scopes go on.
func TestOpenBreakersStopWhatIsTheirs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, err := decide.NewGuardrails(decide.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		tx := newLedger()
		scope := rapid.SampledFrom([]string{"source/trail", "source/x", "rule/leak", "rule/x", "connector/r", "connector/x"}).Draw(t, "scope")
		tx.breakers[scope] = store.Breaker{Scope: scope, Open: true, Reason: "testing"}
		r := request(1, func(r *decide.Request) {
			r.Decision.Tier = rapid.SampledFrom([]staunch.Tier{1, 2, 3}).Draw(t, "tier")
			r.Origin = rapid.SampledFrom([]staunch.Origin{staunch.OriginPolicy, staunch.OriginManual}).Draw(t, "origin")
			r.Raise = rapid.Bool().Draw(t, "raise")
		})
		a, err := g.Admit(tx, r)
		if err != nil {
			t.Fatal(err)
		}
		yields := scope == "connector/r" && r.Decision.Tier == staunch.TierRevoke
		theirs := !strings.HasSuffix(scope, "/x") && r.Origin == staunch.OriginPolicy && !yields
		if (a.Verdict == staunch.VerdictBreaker) != theirs || theirs && (len(a.Open) != 1 || a.Open[0] != scope || len(tx.asked) > 0) {
			t.Fatalf("%s open: %+v", scope, a)
		}
		heard := decide.Heard(a.Open)
		if theirs && (heard == nil) != strings.HasPrefix(scope, "connector/") {
			t.Fatalf("%s open: others are heard: %t", scope, heard != nil)
		}
		if heard != nil && theirs && (heard(staunch.Signal{Source: "trail", Rule: "leak"}) || !heard(staunch.Signal{Source: "y", Rule: "z"})) {
			t.Fatal("the wrong signals are heard")
		}
	})
}

// TestGlobalBreaker: it stops everybody but what has to be stopped now.
func TestGlobalBreaker(t *testing.T) {
	g, tx := rails(t, decide.Limits{}), newLedger()
	tx.breakers["global"] = store.Breaker{Scope: "global", Open: true, Reason: "testing"}
	if a := admit(t, g, tx, request(1)); a.Verdict != staunch.VerdictBreaker {
		t.Errorf("isolating: %+v", a)
	}
	if a := admit(t, g, tx, request(1, func(r *decide.Request) { r.Decision.Tier = staunch.TierRevoke })); a.Verdict != staunch.VerdictContain {
		t.Errorf("revoking: %+v", a)
	}
}

// TestCappedRequestsTrip: what the caps refuse of a spike opens the breaker all the
// same, before a thirteenth identity, and a closed one counts anew.
func TestCappedRequestsTrip(t *testing.T) {
	g, tx := rails(t, decide.Limits{}), newLedger()
	verdicts := map[staunch.Verdict]int{}
	var tripped []string
	for i := range 1000 {
		a := admit(t, g, tx, request(i))
		verdicts[a.Verdict]++
		tripped = append(tripped, a.Tripped...)
	}
	if verdicts[staunch.VerdictContain] != 5 || verdicts[staunch.VerdictCapped] != 7 || verdicts[staunch.VerdictBreaker] != 988 || fmt.Sprint(tripped) != "[rule/leak source/trail]" {
		t.Errorf("%v, tripped %v", verdicts, tripped)
	}
	for _, scope := range tripped {
		delete(tx.breakers, scope)
		if err := decide.ForgetTrips(tx, scope); err != nil {
			t.Fatal(err)
		}
	}
	if a := admit(t, g, tx, request(2000)); a.Verdict != staunch.VerdictCapped {
		t.Errorf("after the reset: %+v", a)
	}
	if tx.used["open/global"] != 5 {
		t.Errorf("%d places are taken, want 5", tx.used["open/global"])
	}
}

// TestTiersHaveTheirCaps: each tier has its places, also for what is raised to it.
func TestTiersHaveTheirCaps(t *testing.T) {
	g := rails(t, decide.Limits{Isolate: decide.Places{Limit: 2, Keep: 1}, Revoke: decide.Places{Limit: 1}})
	tx := newLedger()
	if a := admit(t, g, tx, request(1)); a.Verdict != staunch.VerdictContain {
		t.Fatalf("%+v", a)
	}
	if a := admit(t, g, tx, request(2)); a.Verdict != staunch.VerdictCapped || !strings.Contains(a.Reasons[0], "for tier/isolate") {
		t.Errorf("%+v", a)
	}
	if a := admit(t, g, tx, request(3, func(r *decide.Request) { r.Decision.Tier = staunch.TierRestrict })); a.Verdict != staunch.VerdictContain {
		t.Errorf("another tier: %+v", a)
	}
	raise := func(n int) decide.Admission {
		return admit(t, g, tx, request(n, func(r *decide.Request) {
			r.Decision.Tier, r.Raise, r.Have = staunch.TierRevoke, true, []string{"open/tier/isolate"}
		}))
	}
	if a := raise(1); a.Verdict != staunch.VerdictContain || fmt.Sprint(a.Caps) != "[open/tier/revoke]" {
		t.Errorf("raised: %+v", a)
	}
	if a := raise(3); a.Verdict != staunch.VerdictCapped {
		t.Errorf("raised beyond the cap: %+v", a)
	}
}

// TestFollowers: after the first of a rule or source the rest are told to follow,
// but for what has to be stopped now, and for people.
func TestFollowers(t *testing.T) {
	g, tx := rails(t, decide.Limits{CanaryWait: staunch.Duration(30 * time.Second)}), newLedger()
	if a := admit(t, g, tx, request(1)); len(a.Follows) != 0 || fmt.Sprint(a.Causes) != "[rule/leak source/trail]" || a.Wait != 30*time.Second || a.Window == 0 {
		t.Errorf("the first: %+v", a)
	}
	if a := admit(t, g, tx, request(2)); a.Verdict != staunch.VerdictContain || fmt.Sprint(a.Follows) != "[rule/leak source/trail]" {
		t.Errorf("the second: %+v", a)
	}
	other := request(3, func(r *decide.Request) { r.Decision.Suspicion.Reasons[0].Rule = "else" })
	if a := admit(t, g, tx, other); fmt.Sprint(a.Follows) != "[source/trail]" {
		t.Errorf("by another rule: %+v", a)
	}
	if a := admit(t, g, tx, request(4, func(r *decide.Request) { r.Decision.Tier = staunch.TierRevoke })); a.Causes != nil || a.Follows != nil {
		t.Errorf("revoking: %+v", a)
	}
	if a := admit(t, g, tx, request(5, byHand)); a.Causes != nil || a.Follows != nil {
		t.Errorf("by hand: %+v", a)
	}
	if a := admit(t, g, tx, request(6, func(r *decide.Request) { r.Now = noon.Add(time.Hour) })); len(a.Follows) != 0 {
		t.Errorf("an hour later: %+v", a)
	}
	off := rails(t, decide.Limits{CanaryAfter: -1})
	if a := admit(t, off, newLedger(), request(1)); a.Causes != nil {
		t.Errorf("turned off: %+v", a)
	}
}
