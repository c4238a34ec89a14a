package decide_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/store"
)

// ledger is a decide.Tx in memory that remembers in which order places were
// asked for.
type ledger struct {
	used     map[string]int
	most     map[string]int // the highest use that was ever seen
	breakers map[string]store.Breaker
	records  []staunch.Record
	asked    []string
	cursors  map[string]string
	cases    []staunch.Containment
	fail     error
}

var (
	_ decide.Tx = (*ledger)(nil)
	_ decide.Tx = store.Tx(nil)
)

func newLedger() *ledger {
	return &ledger{used: map[string]int{}, most: map[string]int{}, breakers: map[string]store.Breaker{}, cursors: map[string]string{}}
}

func (l *ledger) Cursor(name string) (string, error) {
	if v, ok := l.cursors[name]; ok {
		return v, nil
	}
	return "", staunch.ErrNotFound
}
func (l *ledger) PutCursor(name, value string) error { l.cursors[name] = value; return nil }
func (l *ledger) Cap(name string) (store.Cap, error) {
	if n, ok := l.used[name]; ok {
		return store.Cap{Name: name, Used: n}, nil
	}
	return store.Cap{}, staunch.ErrNotFound
}

func (l *ledger) Breakers() ([]store.Breaker, error) {
	return slices.Collect(maps.Values(l.breakers)), nil
}
func (l *ledger) PutBreaker(b store.Breaker) error { l.breakers[b.Scope] = b; return nil }
func (l *ledger) Reserve(name string, limit, keep int, useKept bool) (bool, error) {
	l.asked = append(l.asked, name)
	if l.fail != nil {
		return false, l.fail
	}
	if !useKept {
		limit -= keep
	}
	if l.used[name] >= limit {
		return false, nil
	}
	l.used[name]++
	l.most[name] = max(l.most[name], l.used[name])
	return true, nil
}
func (l *ledger) GiveBack(name string) error { l.used[name] = max(l.used[name]-1, 0); return nil }
func (l *ledger) AppendRecord(r staunch.Record) (staunch.Record, error) {
	l.records = append(l.records, r)
	return r, nil
}

func rails(t testing.TB, l decide.Limits) *decide.Guardrails {
	t.Helper()
	g, err := decide.NewGuardrails(l)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// request asks for the containment of a credential because of one signal.
func request(n int, change ...func(*decide.Request)) decide.Request {
	id := ident()
	id.Name = fmt.Sprint("id", n)
	scope := cred(fmt.Sprint(n))
	r := decide.Request{
		Decision: staunch.Decision{
			ID: fmt.Sprintf("dec_%d", n), Subject: scope, Scope: scope, Tier: staunch.TierIsolate, Mode: staunch.ModeEnforce, Verdict: staunch.VerdictContain,
			Identity:  id,
			Suspicion: staunch.Suspicion{Reasons: []staunch.Contribution{{Signal: "s", Rule: "leak", Source: "trail", Weight: 0.8}}},
		},
		Resolution: staunch.Resolution{Ref: scope, Names: []staunch.Ref{scope}, Up: []staunch.Ref{acct("a")}, Identity: id},
		Origin:     staunch.OriginPolicy, Now: noon,
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func revoking(r *decide.Request) { r.Decision.Tier = staunch.TierRevoke }

func admit(t testing.TB, g *decide.Guardrails, tx decide.Tx, r decide.Request) decide.Admission {
	t.Helper()
	a, err := g.Admit(tx, r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAdmitReservesByName(t *testing.T) {
	tx := newLedger()
	a := admit(t, rails(t, decide.Limits{}), tx, request(1))
	if a.Verdict != staunch.VerdictContain || !slices.Equal(a.Caps, []string{"open/environment/prod", "open/global", "open/owner/team", "open/source/trail", "open/tier/isolate"}) {
		t.Errorf("admission %+v", a)
	}
	// One order for all, so that nobody waits in a circle; a mark goes right before
	// the place that it is for.
	inOrder := slices.DeleteFunc(slices.Clone(tx.asked), func(s string) bool { return strings.HasPrefix(s, "had/") })
	if !slices.IsSorted(inOrder) {
		t.Errorf("asked in the order %v", tx.asked)
	}
	// Every kind of limit is asked.
	for _, want := range []string{"canary/rule/leak/", "canary/source/trail/", "had/", "identities/", "seen/", "hour/global/", "hour/source/trail/", "trip/global/", "trip/rule/leak/", "trip/source/trail/", "trip/connector/r/"} {
		if !slices.ContainsFunc(tx.asked, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("%s was not asked: %v", want, tx.asked)
		}
	}
	// Verdicts that do not contain take no places.
	for _, v := range []staunch.Verdict{staunch.VerdictObserve, staunch.VerdictShadow, staunch.VerdictRecommend, staunch.VerdictInform, staunch.VerdictHeld, staunch.VerdictApproval} {
		tx := newLedger()
		a := admit(t, rails(t, decide.Limits{}), tx, request(1, func(r *decide.Request) { r.Decision.Verdict = v }))
		if a.Verdict != v || len(tx.asked) > 0 || len(a.Caps) > 0 {
			t.Errorf("%s becomes %+v", v, a)
		}
	}
	// A containment that is raised has its places, but for that of its new tier.
	tx = newLedger()
	if a := admit(t, rails(t, decide.Limits{}), tx, request(1, func(r *decide.Request) { r.Raise = true })); a.Verdict != staunch.VerdictContain || !slices.Equal(a.Caps, []string{"open/tier/isolate"}) || len(tx.asked) != 1 {
		t.Errorf("raised: %+v, asked %v", a, tx.asked)
	}
	if a := admit(t, rails(t, decide.Limits{}), newLedger(), request(1, func(r *decide.Request) { r.Raise, r.Have = true, []string{"open/tier/isolate"} })); a.Verdict != staunch.VerdictContain || a.Caps != nil {
		t.Errorf("raised within its tier: %+v", a)
	}
}

func TestAdmitCaps(t *testing.T) {
	tight := decide.Places{Limit: 3, Keep: 1}
	for name, tt := range map[string]struct {
		limits decide.Limits
		want   string
		plus   int // kept places that revoking or manual ones may use
	}{
		"global":      {decide.Limits{Global: tight}, "for global", 1},
		"source":      {decide.Limits{Source: tight}, "for source/trail", 1},
		"owner":       {decide.Limits{Owner: tight}, "for owner/team", 1},
		"environment": {decide.Limits{Environment: tight}, "for environment/prod", 1},
		"identities":  {decide.Limits{Identities: tight}, "identities contained automatically within 10m0s", 1},
		"hour":        {decide.Limits{HourlyGlobal: 2}, "an hour for global", 0},
		"source hour": {decide.Limits{HourlySource: 2}, "an hour for source/trail", 0},
	} {
		t.Run(name, func(t *testing.T) {
			g, tx := rails(t, tt.limits), newLedger()
			for i := range 2 {
				if a := admit(t, g, tx, request(i)); a.Verdict != staunch.VerdictContain {
					t.Fatalf("number %d: %+v", i, a)
				}
			}
			before := maps.Clone(tx.used)
			a := admit(t, g, tx, request(3))
			if a.Verdict != staunch.VerdictCapped || len(a.Caps) > 0 || !strings.Contains(strings.Join(a.Reasons, "\n"), tt.want) {
				t.Errorf("third: %+v", a)
			}
			for name, n := range tx.used {
				if n != before[name] && !strings.HasPrefix(name, "trip/") && !strings.HasPrefix(name, "seen/") {
					t.Errorf("refused, and yet %s went from %d to %d", name, before[name], n)
				}
			}
			revoking := admit(t, g, tx, request(4, func(r *decide.Request) { r.Decision.Tier = staunch.TierRevoke }))
			if (revoking.Verdict == staunch.VerdictContain) != (tt.plus > 0) {
				t.Errorf("revoking: %+v", revoking)
			}
			if tt.plus == 0 {
				// Rates bind the engine, not people, and the next hour is another.
				if a := admit(t, g, tx, request(5, func(r *decide.Request) { r.Origin = staunch.OriginManual })); a.Verdict != staunch.VerdictContain {
					t.Errorf("manual: %+v", a)
				}
				if a := admit(t, g, tx, request(6, func(r *decide.Request) { r.Now = noon.Add(time.Hour) })); a.Verdict != staunch.VerdictContain {
					t.Errorf("an hour later: %+v", a)
				}
				return
			}
			if name == "identities" {
				// It bounds the engine, not people, and the next window is another.
				if a := admit(t, g, tx, request(5, func(r *decide.Request) { r.Origin = staunch.OriginManual })); a.Verdict != staunch.VerdictContain {
					t.Errorf("manual: %+v", a)
				}
				if a := admit(t, g, tx, request(0)); a.Verdict != staunch.VerdictContain {
					t.Errorf("one that is counted already: %+v", a)
				}
				if a := admit(t, g, tx, request(6, func(r *decide.Request) { r.Now = noon.Add(10 * time.Minute) })); a.Verdict != staunch.VerdictContain {
					t.Errorf("in the next window: %+v", a)
				}
				return
			}
			if a := admit(t, g, tx, request(5, func(r *decide.Request) { r.Origin = staunch.OriginManual })); a.Verdict != staunch.VerdictCapped {
				t.Errorf("a person cannot go over the limit either: %+v", a)
			}
			for _, c := range revoking.Caps {
				if err := tx.GiveBack(c); err != nil {
					t.Fatal(err)
				}
			}
			if a := admit(t, g, tx, request(6, func(r *decide.Request) { r.Origin = staunch.OriginManual })); a.Verdict != staunch.VerdictContain {
				t.Errorf("after a release: %+v", a)
			}
		})
	}
}

func TestAdmitKeepsGroupsHealthy(t *testing.T) {
	g, tx := rails(t, decide.Limits{}), newLedger()
	wide := func(n int, group int) decide.Request {
		return request(n, func(r *decide.Request) { r.Decision.Scope, r.Group = acct(fmt.Sprint(n)), group })
	}
	if a := admit(t, g, tx, wide(1, 3)); a.Verdict != staunch.VerdictContain || !slices.Contains(a.Caps, "group/prod/web") {
		t.Errorf("one of three: %+v", a)
	}
	if a := admit(t, g, tx, wide(2, 3)); a.Verdict != staunch.VerdictCapped || !strings.Contains(a.Reasons[0], "of the 3 identities of prod/web") {
		t.Errorf("two of three: %+v", a)
	}
	if a := admit(t, g, tx, request(3, func(r *decide.Request) { r.Group = 3 })); a.Verdict != staunch.VerdictContain {
		t.Errorf("a credential alone: %+v", a)
	}
	if a := admit(t, g, newLedger(), wide(1, 1)); a.Verdict != staunch.VerdictContain {
		t.Errorf("one of one: %+v", a)
	}
}

// Invariant I5: nothing protected is admitted, whatever asks for it.
func TestProtectedIsNeverAdmitted(t *testing.T) {
	g := rails(t, decide.Limits{Protected: []string{"account:r:id:break-*", "identity:root", "credential:*:id:key"}})
	rapid.Check(t, func(t *rapid.T) {
		r := request(1, func(r *decide.Request) {
			r.Origin = rapid.SampledFrom([]staunch.Origin{staunch.OriginPolicy, staunch.OriginManual}).Draw(t, "origin")
			r.Decision.Verdict = rapid.SampledFrom([]staunch.Verdict{staunch.VerdictContain, staunch.VerdictApproval}).Draw(t, "verdict")
			r.Decision.Tier = rapid.SampledFrom([]staunch.Tier{1, 2, 3}).Draw(t, "tier")
			r.Raise = rapid.Bool().Draw(t, "raise")
		})
		why := rapid.SampledFrom([]string{"declared", "snapshot", "own", "own account", "scope", "name", "up", "identity"}).Draw(t, "why")
		switch why {
		case "declared":
			r.Resolution.Identity.Protected = true
		case "snapshot":
			r.Decision.Identity.Protected = true
		case "own":
			r.Own = []staunch.Ref{cred("other"), r.Decision.Scope}
		case "own account":
			r.Own = []staunch.Ref{acct("a")}
		case "scope":
			r.Decision.Scope = acct("break-glass")
		case "name":
			r.Resolution.Names = append(r.Resolution.Names, cred("key"))
		case "up":
			r.Resolution.Up = append(r.Resolution.Up, acct("break-7"))
		case "identity":
			r.Resolution.Identity.Name = "root"
		}
		tx := newLedger()
		a, err := g.Admit(tx, r)
		if err != nil {
			t.Fatal(err)
		}
		if a.Verdict != staunch.VerdictProtected || len(a.Reasons) == 0 || len(tx.asked) > 0 {
			t.Fatalf("%s: %+v", why, a)
		}
	})
	if why := g.Protected(nil, acct("xbreak-glass"), acct("broken"), staunch.Ref{}); why != "" {
		t.Errorf("too much is protected: %s", why)
	}
	if a := admit(t, g, newLedger(), request(1)); a.Verdict != staunch.VerdictContain {
		t.Errorf("what is not protected: %+v", a)
	}
}

func TestBreaker(t *testing.T) {
	for _, scope := range []string{"global", "source/trail", "rule/leak", "connector/r"} {
		g, tx := rails(t, decide.Limits{}), newLedger()
		tx.breakers[scope] = store.Breaker{Scope: scope, Open: true, Reason: "testing"}
		if a := admit(t, g, tx, request(1)); a.Verdict != staunch.VerdictBreaker || !strings.Contains(a.Reasons[0], scope) || len(tx.asked) > 0 {
			t.Errorf("%s open: %+v", scope, a)
		}
		if a := admit(t, g, tx, request(1, func(r *decide.Request) { r.Raise = true })); a.Verdict != staunch.VerdictBreaker {
			t.Errorf("%s open, raising: %+v", scope, a)
		}
		if a := admit(t, g, tx, request(1, func(r *decide.Request) { r.Origin = staunch.OriginManual })); a.Verdict != staunch.VerdictContain {
			t.Errorf("%s open, a person: %+v", scope, a)
		}
		tx.breakers[scope] = store.Breaker{Scope: scope}
		if a := admit(t, g, tx, request(1)); a.Verdict != staunch.VerdictContain {
			t.Errorf("%s reset: %+v", scope, a)
		}
	}
	// What revokes goes on where a breaker is not of who says so, and says that it did.
	for scope, want := range map[string]staunch.Verdict{
		"global": staunch.VerdictContain, "connector/r": staunch.VerdictContain, "source/trail": staunch.VerdictBreaker, "rule/leak": staunch.VerdictBreaker,
	} {
		for _, raise := range []bool{false, true} {
			g, tx := rails(t, decide.Limits{}), newLedger()
			tx.breakers[scope] = store.Breaker{Scope: scope, Open: true, Reason: "testing"}
			a := admit(t, g, tx, request(1, revoking, func(r *decide.Request) { r.Raise = raise }))
			if a.Verdict != want || len(a.Reasons) != 1 || !strings.Contains(a.Reasons[0], scope) {
				t.Errorf("%s open, revoking (raise %t): %+v", scope, raise, a)
			}
		}
	}
	// A connector's breaker yields to nobody where a source could open it alone.
	for _, l := range []decide.Limits{{TripSource: -1}, {TripSource: 31}, {TripSource: 3, TripConnector: 2}} {
		g, tx := rails(t, l), newLedger()
		tx.breakers["connector/r"] = store.Breaker{Scope: "connector/r", Open: true, Reason: "testing"}
		if a := admit(t, g, tx, request(1, revoking)); a.Verdict != staunch.VerdictBreaker {
			t.Errorf("%+v: %+v", l, a)
		}
	}
	tx := newLedger()
	tx.breakers["source/elsewhere"] = store.Breaker{Scope: "source/elsewhere", Open: true}
	if a := admit(t, rails(t, decide.Limits{}), tx, request(1)); a.Verdict != staunch.VerdictContain {
		t.Errorf("another source's breaker: %+v", a)
	}
}

func TestBreakerTrips(t *testing.T) {
	for scope, limits := range map[string]decide.Limits{
		"source/trail": {TripSource: 2}, "rule/leak": {TripRule: 2}, "connector/r": {TripConnector: 2}, "global": {TripGlobal: 2},
	} {
		g, tx := rails(t, limits), newLedger()
		for i := range 2 {
			if a := admit(t, g, tx, request(i)); a.Verdict != staunch.VerdictContain {
				t.Fatalf("%s, number %d: %+v", scope, i, a)
			}
		}
		// The same identities again are no spike.
		for i := range 2 {
			if a := admit(t, g, tx, request(i, func(r *decide.Request) { r.Decision.Scope = cred("again") })); a.Verdict != staunch.VerdictContain {
				t.Fatalf("%s, number %d again: %+v", scope, i, a)
			}
		}
		open := tx.used["open/global"]
		a := admit(t, g, tx, request(3))
		if a.Verdict != staunch.VerdictBreaker || !slices.Equal(a.Tripped, []string{scope}) {
			t.Errorf("%s: %+v", scope, a)
		}
		if b := tx.breakers[scope]; !b.Open || b.By != "engine" || b.Changed != noon || b.Reason == "" {
			t.Errorf("%s: breaker %+v", scope, b)
		}
		if len(tx.records) != 1 || tx.records[0].Kind != staunch.RecordBreaker || tx.records[0].About != scope || !json.Valid(tx.records[0].Body) {
			t.Errorf("%s: records %+v", scope, tx.records)
		}
		if tx.used["open/global"] != open {
			t.Errorf("%s: places were kept after the refusal", scope)
		}
		if a := admit(t, g, tx, request(5, revoking)); (a.Verdict == staunch.VerdictContain) != (scope == "global") {
			t.Errorf("%s open, revoking: %+v", scope, a)
		}
		// It stays open when the window is over; only a person resets it.
		if a := admit(t, g, tx, request(4, func(r *decide.Request) { r.Now = noon.Add(24 * time.Hour) })); a.Verdict != staunch.VerdictBreaker {
			t.Errorf("%s, a day later: %+v", scope, a)
		}
	}
}

// Invariant I4, for one transaction after another: whatever is asked, no cap is
// exceeded, kept places are only taken by those who may, and what is refused
// leaves nothing behind.
func TestCapsAreNeverExceeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := func(label string) decide.Places {
			limit := rapid.IntRange(2, 5).Draw(t, label)
			return decide.Places{Limit: limit, Keep: rapid.IntRange(1, limit-1).Draw(t, label+" kept")}
		}
		l := decide.Limits{Global: p("global"), Source: p("source"), Owner: p("owner"), Environment: p("environment"), Isolate: p("isolate"), Identities: p("identities"), TripRule: rapid.IntRange(2, 20).Draw(t, "trip")}
		g, err := decide.NewGuardrails(l)
		if err != nil {
			t.Fatal(err)
		}
		tx := newLedger()
		held := map[int][]string{}
		plain := 0
		for i := range rapid.IntRange(1, 40).Draw(t, "requests") {
			if len(held) > 0 && rapid.Bool().Draw(t, "release") {
				k := rapid.SampledFrom(slices.Sorted(maps.Keys(held))).Draw(t, "which")
				for _, c := range held[k] {
					if err := tx.GiveBack(c); err != nil {
						t.Fatal(err)
					}
				}
				delete(held, k)
				plain--
			}
			r := request(i, func(r *decide.Request) {
				r.Decision.Tier = rapid.SampledFrom([]staunch.Tier{1, 2, 3}).Draw(t, "tier")
				r.Decision.Suspicion.Reasons[0].Source = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "source")
				r.Resolution.Identity.Owner = rapid.SampledFrom([]string{"", "o", "p"}).Draw(t, "owner")
				r.Origin = rapid.SampledFrom([]staunch.Origin{staunch.OriginPolicy, staunch.OriginManual}).Draw(t, "origin")
			})
			before := tx.used["open/global"]
			a, err := g.Admit(tx, r)
			if err != nil {
				t.Fatal(err)
			}
			if a.Verdict == staunch.VerdictContain {
				held[i] = a.Caps
				plain++
				if r.Origin == staunch.OriginPolicy && r.Decision.Tier < staunch.TierRevoke && before >= l.Global.Limit-l.Global.Keep {
					t.Fatalf("took a kept place: %d of %d", before, l.Global.Limit)
				}
			}
			count := map[string]int{}
			for _, caps := range held {
				for _, c := range caps {
					count[c]++
				}
			}
			for name, n := range tx.used {
				if strings.HasPrefix(name, "open/") && n != count[name] {
					t.Fatalf("%s is %d, and %d are held", name, n, count[name])
				}
			}
			if n := tx.most["open/global"]; n > l.Global.Limit {
				t.Fatalf("%d of %d", n, l.Global.Limit)
			}
			for name, n := range tx.most {
				if strings.HasPrefix(name, "identities/") && n > l.Identities.Limit || name == "open/tier/isolate" && n > l.Isolate.Limit {
					t.Fatalf("%s: %d", name, n)
				}
			}
			for _, s := range []string{"x", "y"} {
				if n := tx.most["open/source/"+s]; n > l.Source.Limit {
					t.Fatalf("source %s: %d of %d", s, n, l.Source.Limit)
				}
			}
		}
	})
}

func TestAdmitPassesStoreErrorsOn(t *testing.T) {
	tx := newLedger()
	tx.fail = errors.New("disk full")
	if _, err := rails(t, decide.Limits{}).Admit(tx, request(1)); !errors.Is(err, tx.fail) {
		t.Errorf("got %v", err)
	}
}

func TestNewGuardrailsRefuses(t *testing.T) {
	for want, l := range map[string]decide.Limits{
		"global":         {Global: decide.Places{Limit: 5, Keep: 5}},
		"source":         {Source: decide.Places{Limit: -3}},
		"hourly_global":  {HourlyGlobal: -2},
		"trip_window":    {TripWindow: staunch.Duration(time.Millisecond)},
		"min_healthy":    {MinHealthy: 100},
		"protected[1]":   {Protected: []string{"identity:a", "**"}},
		"protected[0]":   {Protected: []string{""}},
		"trip_connector": {TripConnector: -7},
		"isolate":        {Isolate: decide.Places{Limit: 2, Keep: 2}},
		"identities":     {Identities: decide.Places{Limit: -2}},
		"canary_after":   {CanaryAfter: -2},
		"canary_wait":    {CanaryWait: staunch.Duration(time.Hour)},
		"group_share":    {GroupShare: 101},
		"health_age":     {HealthAge: staunch.Duration(-time.Second)},
		"approvers":      {Approvers: 11},
		"approval_for":   {ApprovalFor: staunch.Duration(time.Second)},
	} {
		_, err := decide.NewGuardrails(l)
		var p *staunch.Problem
		if !errors.As(err, &p) || p.Place != want {
			t.Errorf("%s: %v", want, err)
		}
	}
	off := decide.Limits{Global: decide.Places{Limit: -1}, Source: decide.Places{Limit: -1}, Owner: decide.Places{Limit: -1}, Environment: decide.Places{Limit: -1},
		Restrict: decide.Places{Limit: -1}, Isolate: decide.Places{Limit: -1}, Revoke: decide.Places{Limit: -1}, Identities: decide.Places{Limit: -1},
		HourlyGlobal: -1, HourlySource: -1, TripSource: -1, TripRule: -1, TripConnector: -1, TripGlobal: -1, MinHealthy: -1, GroupShare: -1, CanaryAfter: -1}
	tx := newLedger()
	if a := admit(t, rails(t, off), tx, request(1, func(r *decide.Request) { r.Decision.Scope, r.Group = acct("a"), 5 })); a.Verdict != staunch.VerdictContain || len(tx.asked) > 0 {
		t.Errorf("everything off: %+v, asked %v", a, tx.asked)
	}
	if d := decide.DefaultLimits(); d.Global.Limit != 200 || d.Global.Keep != 20 || d.TripWindow.Std() != 10*time.Minute {
		t.Errorf("defaults %+v", d)
	}
}
