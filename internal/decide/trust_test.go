package decide_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
)

func TestIndependentSources(t *testing.T) {
	from := func(e decide.Evidence, source, origin string, origins ...string) decide.Evidence {
		e.Signal.Source, e.Signal.Origin, e.Signal.Origins = source, origin, origins
		return e
	}
	for _, tt := range []struct {
		name string
		in   []decide.Evidence
		want int
	}{
		{"nothing", nil, 0},
		{"two rules of one source", []decide.Evidence{from(accuse("a", 0.9), "x", ""), from(accuse("b", 0.9), "x", "")}, 1},
		{"two sources", []decide.Evidence{from(accuse("a", 0.9), "x", ""), from(accuse("b", 0.9), "y", "")}, 2},
		{"two sources of one rule", []decide.Evidence{from(accuse("a", 0.9), "x", ""), from(again(accuse("a", 0.9)), "y", "")}, 2},
		{"one says hardly anything", []decide.Evidence{from(accuse("a", 0.9), "x", ""), from(accuse("b", 0.19), "y", "")}, 1},
		{"two of one origin", []decide.Evidence{from(accuse("a", 0.9), "x", "log"), from(accuse("b", 0.9), "y", "log")}, 1},
		{"one tells of the other", []decide.Evidence{from(accuse("a", 0.9), "x", ""), from(accuse("b", 0.9), "y", "x")}, 1},
		{"a correlation over one source and that source", []decide.Evidence{from(accuse("a", 0.9), "x", ""), from(accuse("c", 0.9), "x", "")}, 1},
		{"a correlation over two is nobody's", []decide.Evidence{from(accuse("a", 0.9), "x", ""), from(accuse("c", 0.9), "y", "", "x", "y")}, 1},
		{"late evidence does not contain", []decide.Evidence{from(accuse("a", 0.9), "x", ""), late(from(accuse("b", 0.9), "y", ""))}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (decide.Params{}).Assess(cred("k"), tt.in).Views.Enforce.Independent; got != tt.want {
				t.Errorf("%d independent sources, want %d", got, tt.want)
			}
		})
	}
}

func again(e decide.Evidence) decide.Evidence {
	e.Signal.ID += "/again"
	return e
}

func late(e decide.Evidence) decide.Evidence {
	e.Signal.Standing = staunch.StandingLate
	return e
}

// TestRevokeSources holds when one source is enough for the highest tier.
func TestRevokeSources(t *testing.T) {
	const ladder = "tiers: [{at: 0.3, tier: isolate}, {at: 0.8, tier: revoke}]"
	one := []decide.Evidence{accuse("a", 0.9)}
	other := accuse("b", 0.5)
	other.Signal.Source = "other"
	two := append(slices.Clone(one), other)
	for _, tt := range []struct {
		name   string
		policy string
		env    string
		need   int
		in     []decide.Evidence
		want   staunch.Tier
	}{
		{"production, one", ladder, "production", 2, one, staunch.TierIsolate},
		{"production, two", ladder, "production", 2, two, staunch.TierRevoke},
		{"production of another name", ladder, "PROD-eu", 2, one, staunch.TierIsolate},
		{"three are asked for", ladder, "production", 3, two, staunch.TierIsolate},
		{"turned off", ladder, "production", 1, one, staunch.TierRevoke},
		{"not production", ladder, "producer-tests", 2, one, staunch.TierRevoke},
		{"nobody said where", ladder, "", 2, one, staunch.TierRevoke},
		{"the policy lets one be enough", ladder + ", revoke_sources: 1", "production", 2, one, staunch.TierRevoke},
		{"the policy asks everywhere", ladder + ", revoke_sources: 2", "test", 1, one, staunch.TierIsolate},
		{"a person approves", ladder + ", approve: true", "production", 2, one, staunch.TierRevoke},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := parse(t, "  - {id: p, mode: enforce, then: {"+tt.policy+"}}\n")
			id := ident()
			id.Environment = tt.env
			a := decide.Params{}.Assess(cred("k"), tt.in)
			out := set.Decide(decide.NewInput(staunch.Resolution{Ref: cred("k"), Identity: id}, a, decide.Context{Mode: staunch.ModeEnforce, RevokeSources: tt.need}))
			said := slices.ContainsFunc(out.Reasons, func(r string) bool { return strings.Contains(r, "independent sources") })
			if out.Tier != tt.want || said != (tt.want == staunch.TierIsolate) {
				t.Errorf("tier %s, want %s: %q", out.Tier, tt.want, out.Reasons)
			}
		})
	}
	if _, err := decide.Parse([]decide.File{{Name: "p.yaml", Data: []byte("v: 1\npolicies:\n  - {id: p, then: {tier: observe, revoke_sources: 0}}\n")}}); err == nil {
		t.Error("a policy that asks for no source at all was taken")
	}
}

// TestSteer holds what a demotion and a promotion do to signals.
func TestSteer(t *testing.T) {
	const before, since, after = noon - 10, noon, noon + 10
	trust := func(mode, was, declared staunch.Mode) staunch.RuleTrust {
		return staunch.RuleTrust{V: 1, Rule: "a", Mode: mode, Was: was, Declared: declared, Changed: since, By: "ann", Reason: "why"}
	}
	s, r, e := staunch.ModeShadow, staunch.ModeRecommend, staunch.ModeEnforce
	for _, tt := range []struct {
		name     string
		trust    staunch.RuleTrust
		declared staunch.Mode
		learned  staunch.Time
		want     staunch.Mode
	}{
		{"demoted, before", trust(r, e, e), e, before, r},
		{"demoted, after", trust(r, e, e), e, after, r},
		{"demoted, and the file says less", trust(r, e, e), s, after, s},
		{"promoted, before", trust(e, s, s), s, before, s},
		{"promoted, after", trust(e, s, s), s, after, e},
		{"promoted, and the file was changed to say less", trust(e, r, e), s, after, s},
		{"promoted above the file, which now says another", trust(e, s, s), r, after, r},
		{"promoted back, before", trust(e, r, e), e, before, r},
		{"only judged", staunch.RuleTrust{Rule: "a", Wrong: 3}, e, after, e},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ev := accuse("a", 0.9)
			ev.Signal.Mode, ev.Signal.Learned = tt.declared, tt.learned
			list := []decide.Evidence{ev, accuse("b", 0.5)}
			used := decide.Steer(list, map[string]staunch.RuleTrust{"a": tt.trust})
			if list[0].Signal.Mode != tt.want || list[1].Signal.Mode != e {
				t.Errorf("modes %s and %s, want %s and %s", list[0].Signal.Mode, list[1].Signal.Mode, tt.want, e)
			}
			if ev.Signal.Mode != tt.declared {
				t.Errorf("what others may have of the signal was changed to %s", ev.Signal.Mode)
			}
			if (len(used) == 1) != (tt.want != tt.declared) || (list[0].Steered != nil) != (tt.want != tt.declared) {
				t.Errorf("used %+v, steered %+v", used, list[0].Steered)
			}
		})
	}
}

// TestDemotedRuleDecides holds that a demotion is part of what decides, and stands
// in the decision's inputs and reasons.
func TestDemotedRuleDecides(t *testing.T) {
	set := parse(t, "  - {id: p, mode: enforce, then: {tiers: [{at: 0.3, tier: isolate}]}}\n")
	ev := []decide.Evidence{accuse("a", 0.9)}
	trust := decide.Steer(ev, map[string]staunch.RuleTrust{"a": {V: 1, Rule: "a", Mode: staunch.ModeRecommend, Was: staunch.ModeEnforce, Declared: staunch.ModeEnforce, Changed: noon, By: "engine", Reason: "con_1 was wrong"}})
	a := decide.Params{}.Assess(cred("k"), ev)
	in := decide.NewInput(staunch.Resolution{Ref: cred("k"), Identity: ident()}, a, decide.Context{Mode: staunch.ModeEnforce, Trust: trust})
	out := set.Decide(in)
	if out.Verdict != staunch.VerdictRecommend || out.View != decide.ViewRecommend || len(in.Trust) != 1 {
		t.Errorf("%+v", out)
	}
	want := "rule a: it is in mode recommend since 2026-01-02T12:00:00.000000Z by engine: con_1 was wrong"
	if !slices.Contains(out.Reasons, want) || !strings.Contains(a.Would.Reasons[0].Why, "con_1 was wrong") {
		t.Errorf("reasons %q, %+v", out.Reasons, a.Would.Reasons)
	}
}

// fakeTrust is a decide.TrustTx in memory.
type fakeTrust struct {
	trust   map[string]staunch.RuleTrust
	events  []staunch.TrustEvent
	behind  []string
	records []staunch.Record
}

func (f *fakeTrust) Trust(rule string) (staunch.RuleTrust, error) {
	if t, ok := f.trust[rule]; ok {
		return t, nil
	}
	return staunch.RuleTrust{}, staunch.ErrNotFound
}

func (f *fakeTrust) PutTrust(t staunch.RuleTrust) error { f.trust[t.Rule] = t; return nil }

func (f *fakeTrust) PutTrustEvent(e staunch.TrustEvent) (bool, error) {
	if slices.ContainsFunc(f.events, func(o staunch.TrustEvent) bool { return o.ID == e.ID }) {
		return false, nil
	}
	f.events = append(f.events, e)
	return true, nil
}

func (f *fakeTrust) TrustEvents(rule string, limit int) ([]staunch.TrustEvent, error) {
	out := []staunch.TrustEvent{}
	for _, ev := range f.events {
		if ev.Rule == rule {
			out = append(out, ev)
		}
	}
	slices.SortStableFunc(out, func(a, b staunch.TrustEvent) int {
		return cmp.Or(cmp.Compare(b.At, a.At), strings.Compare(b.ID, a.ID))
	})
	return out[:min(len(out), limit)], nil
}

func (f *fakeTrust) RulesBehind(string) ([]string, error) { return f.behind, nil }

func (f *fakeTrust) AppendRecord(r staunch.Record) (staunch.Record, error) {
	f.records = append(f.records, r)
	return r, nil
}

func TestJudge(t *testing.T) {
	f := &fakeTrust{trust: map[string]staunch.RuleTrust{}, behind: []string{"a", "b"}}
	declared := func(rule string) staunch.Mode {
		if rule == "b" {
			return staunch.ModeRecommend
		}
		return staunch.ModeEnforce
	}
	given := map[string]*staunch.Judged{}
	judge := func(id string, v staunch.Judgement, now staunch.Time) []staunch.TrustEvent {
		t.Helper()
		con := staunch.Containment{ID: id, Judged: &staunch.Judged{Verdict: v, By: "ann", Reason: "it was the backup", At: now, Given: 1}}
		was := given[id]
		if was != nil {
			con.Judged.Given = was.Given + 1
			if was.Verdict == v {
				con.Judged.Given = was.Given
			}
		}
		rules, out, err := decide.Judge(f, con, was, declared, now)
		if err != nil {
			t.Fatal(err)
		}
		con.Judged.Rules = rules
		given[id] = con.Judged
		return out
	}
	if rules, out, err := decide.Judge(f, staunch.Containment{ID: "con_0"}, nil, declared, 1); err != nil || len(rules)+len(out)+len(f.events)+len(f.records) != 0 {
		t.Errorf("nobody judged, and yet %v, %+v, %v", rules, f.events, err)
	}
	if out := judge("con_1", staunch.JudgedRight, 2); len(out) != 0 || f.trust["a"].Right != 1 || f.trust["a"].Steers() {
		t.Errorf("right: %+v, %+v", out, f.trust["a"])
	}
	out := judge("con_2", staunch.JudgedWrong, 3)
	if len(out) != 2 || out[0].From != staunch.ModeEnforce || out[0].To != staunch.ModeRecommend || out[1].To != staunch.ModeShadow || out[0].Containment != "con_2" {
		t.Errorf("wrong: %+v", out)
	}
	if a := f.trust["a"]; a.Mode != staunch.ModeRecommend || a.Was != staunch.ModeEnforce || a.Wrong != 1 || a.Right != 1 || a.LastWrong != 3 || a.By != "engine" {
		t.Errorf("a: %+v", a)
	}
	if out := judge("con_2", staunch.JudgedWrong, 4); len(out) != 0 || f.trust["a"].Wrong != 1 {
		t.Errorf("the same containment again: %+v", out)
	}
	if out := judge("con_3", staunch.JudgedWrong, 5); len(out) != 1 || f.trust["a"].Mode != staunch.ModeShadow || f.trust["b"].Wrong != 2 || f.trust["b"].Mode != staunch.ModeShadow {
		t.Errorf("once more: %+v", out)
	}
	n := len(f.records)
	con := staunch.Containment{ID: "con_4", Drill: "drl_1", Judged: &staunch.Judged{By: "drill", Verdict: staunch.JudgedWrong}}
	if _, out, err := decide.Judge(f, con, nil, declared, 6); err != nil || len(out) != 0 || len(f.records) != n {
		t.Errorf("a drill was counted: %+v, %v", out, err)
	}

	// A person promotes; nobody promotes to where a rule is.
	ev, err := decide.Move{Rule: "a", To: staunch.ModeEnforce, By: "ann", Reason: "mended", Key: "1"}.Apply(f, staunch.ModeEnforce, 7)
	if err != nil || ev.Kind != staunch.TrustPromoted || ev.From != staunch.ModeShadow || f.trust["a"].Now(staunch.ModeEnforce) != staunch.ModeEnforce {
		t.Errorf("promoted: %+v, %v", ev, err)
	}
	if _, err := (decide.Move{Rule: "a", To: staunch.ModeEnforce}).Apply(f, staunch.ModeEnforce, 8); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("promoted to where it is: %v", err)
	}
	for _, r := range f.records {
		if r.Kind != staunch.RecordTrust || r.About == "" || r.Actor == "" {
			t.Errorf("record %+v", r)
		}
	}
}

// TestJudgeCorrects holds that each containment counts once, by its newest verdict,
// and takes a rule down once.
func TestJudgeCorrects(t *testing.T) {
	f := &fakeTrust{trust: map[string]staunch.RuleTrust{}, behind: []string{"a"}}
	declared := func(string) staunch.Mode { return staunch.ModeEnforce }
	given := map[string]*staunch.Judged{}
	now := staunch.Time(0)
	judge := func(id string, v staunch.Judgement) (demoted int) {
		t.Helper()
		now++
		con := staunch.Containment{ID: id, Judged: &staunch.Judged{Verdict: v, By: "ann", Reason: "why", At: now, Given: 1}}
		if was := given[id]; was != nil {
			con.Judged.Given += was.Given
		}
		rules, out, err := decide.Judge(f, con, given[id], declared, now)
		if err != nil || !slices.Equal(rules, []string{"a"}) {
			t.Fatalf("%v, %v", rules, err)
		}
		con.Judged.Rules = rules
		given[id] = con.Judged
		return len(out)
	}
	counts := func(wrong, right int, lastWrong, lastRight staunch.Time, mode staunch.Mode) {
		t.Helper()
		a := f.trust["a"]
		if a.Wrong != wrong || a.Right != right || a.LastWrong != lastWrong || a.LastRight != lastRight || a.Now(staunch.ModeEnforce) != mode {
			t.Errorf("%+v, in mode %s", a, a.Now(staunch.ModeEnforce))
		}
	}
	judge("con_1", staunch.JudgedWrong)
	judge("con_2", staunch.JudgedRight)
	counts(1, 1, 1, 2, staunch.ModeRecommend)
	if judge("con_2", staunch.JudgedWrong) != 1 {
		t.Error("one that turned out wrong took nothing down")
	}
	counts(2, 0, 3, 0, staunch.ModeShadow)
	// What led to it is deleted meanwhile.
	f.behind = nil
	judge("con_2", staunch.JudgedRight)
	counts(1, 1, 1, 4, staunch.ModeShadow)
	if _, err := (decide.Move{Rule: "a", To: staunch.ModeEnforce, By: "ann", Reason: "mended", Key: "1"}).Apply(f, staunch.ModeEnforce, 5); err != nil {
		t.Fatal(err)
	}
	now = 5
	if judge("con_1", staunch.JudgedRight) != 0 {
		t.Error("right took it down")
	}
	counts(0, 2, 0, 6, staunch.ModeEnforce)
	if judge("con_1", staunch.JudgedWrong) != 1 {
		t.Error("after a promotion it was not taken down once more")
	}
	counts(1, 1, 7, 4, staunch.ModeRecommend)
	judge("con_1", staunch.JudgedRight)
	if judge("con_1", staunch.JudgedWrong) != 0 {
		t.Error("changing one's mind twice took it down twice")
	}
	counts(1, 1, 9, 4, staunch.ModeRecommend)
	history, err := f.TrustEvents("a", 100)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(staunch.LatestJudgements(history)); n != 2 {
		t.Errorf("%d verdicts count, of two containments", n)
	}
	for _, r := range f.records {
		var ev staunch.TrustEvent
		if err := json.Unmarshal(r.Body, &ev); err != nil || r.Kind != staunch.RecordTrust {
			t.Errorf("record %+v: %v", r, err)
		}
	}
	if got, want := len(f.records), len(f.events); got != want {
		t.Errorf("%d records of %d events", got, want)
	}
}

func TestAdvise(t *testing.T) {
	now := noon
	ago := func(days int) staunch.Time { return now.Add(-time.Duration(days) * 24 * time.Hour) }
	for _, tt := range []struct {
		name  string
		trial decide.Trial
		ready bool
		want  string
	}{
		{"nothing", decide.Trial{Mode: staunch.ModeShadow}, false, "no matches in mode shadow"},
		{"ready", decide.Trial{Mode: staunch.ModeShadow, Since: ago(14), Matches: 41}, true, "ready: 41 matches in 14 days, 0 wrong"},
		{"too few", decide.Trial{Mode: staunch.ModeShadow, Since: ago(30), Matches: 19}, false, "not yet: 19 matches in 30 days, 0 wrong; 20 in 14 days are needed"},
		{"too short", decide.Trial{Mode: staunch.ModeRecommend, Since: ago(13), Matches: 100}, false, "not yet: 100 matches in 13 days, 0 wrong; 20 in 14 days are needed"},
		{"wrong", decide.Trial{Mode: staunch.ModeRecommend, Since: ago(14), Matches: 100, Wrong: 1}, false, "not ready: 100 matches in 14 days, 1 wrong"},
		{"enforces", decide.Trial{Mode: staunch.ModeEnforce, Since: ago(14), Matches: 100}, false, "enforces: 100 matches in 14 days, 0 wrong"},
	} {
		ready, got := (decide.Criteria{Matches: 20, For: staunch.Duration(14 * 24 * time.Hour)}).Advise(tt.trial, now)
		if ready != tt.ready || got != tt.want {
			t.Errorf("%s: %v %q, want %v %q", tt.name, ready, got, tt.ready, tt.want)
		}
	}
}
