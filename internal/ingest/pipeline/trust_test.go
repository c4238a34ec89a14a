package pipeline_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/store"
)

// TestTrustDecides holds that what a rule is trusted with is read in the
// transaction that decides: it takes effect with its commit.
func TestTrustDecides(t *testing.T) {
	r := newRig(t)
	r.setIdentity(staunch.Identity{Name: "bob", Accounts: []staunch.Ref{account("bob")}})
	rule := ""
	r.ingest(r.rec("1", "high", "bob"))
	r.view(func(v store.Reader) error {
		list, err := v.Signals(store.Page{})
		rule = list[0].Rule
		return err
	})
	if d := r.only(); d.Verdict != staunch.VerdictContain {
		t.Fatalf("%s", d.Verdict)
	}
	r.update(func(tx store.Tx) error {
		_, err := decide.Move{Rule: rule, To: staunch.ModeRecommend, By: "ann", Reason: "noisy", Key: "1"}.Apply(tx, staunch.ModeEnforce, staunch.TimeOf(r.clock.Now()))
		return err
	})
	r.observed = nil
	r.setIdentity(staunch.Identity{Name: "eve", Accounts: []staunch.Ref{account("eve")}})
	r.ingest(r.rec("2", "high", "eve"))
	if len(r.observed) != 1 {
		t.Fatalf("%d decisions", len(r.observed))
	}
	d := r.observed[0]
	if d.Verdict != staunch.VerdictRecommend || !strings.Contains(string(d.Inputs), `"reason":"noisy"`) {
		t.Errorf("%s: %s", d.Verdict, d.Inputs)
	}
	if !slices.ContainsFunc(d.Reasons, func(s string) bool { return strings.Contains(s, "by ann: noisy") }) {
		t.Errorf("reasons: %q", d.Reasons)
	}
	// What the statistics are made of.
	r.view(func(v store.Reader) error {
		u, err := v.RuleUse(rule)
		if u.Matches != 2 || u.Decisions != 2 || u.Containments != 1 {
			t.Errorf("use: %+v", u)
		}
		return err
	})
}

// TestProductionNeedsTwoSources goes the whole way with two sources, and with two
// that are configured to be one.
func TestProductionNeedsTwoSources(t *testing.T) {
	for _, c := range []struct {
		name, origin string
		want         staunch.Tier
	}{{"two", "", staunch.TierRevoke}, {"of one origin", "src", staunch.TierIsolate}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.setIdentity(staunch.Identity{Name: "bob", Environment: "production", Accounts: []staunch.Ref{account("bob")}})
			r.ingest(r.rec("1", "critical", "bob"), r.rec("2", "high", "bob"))
			if d := r.only(); d.Tier != staunch.TierIsolate || !strings.Contains(strings.Join(d.Reasons, ";"), "independent sources in production") {
				t.Fatalf("one source: %s, %q", d.Tier, d.Reasons)
			}
			other := *r.src
			other.Name, other.Origin = "other", c.origin
			r.src = &other
			r.ingest(r.rec("3", "high", "bob"))
			r.view(func(v store.Reader) error {
				cs, err := v.Containments(store.Page{}, true)
				if len(cs) != 1 || cs[0].Tier != c.want {
					t.Errorf("cases: %+v", cs)
				}
				return err
			})
		})
	}
}

// TestDrillStaysApart holds that what an exercise states and what is real are never
// weighed together, that it contains its canary alone, and takes nobody's place.
func TestDrillStaysApart(t *testing.T) {
	one := func(_ *rig, l *decide.Limits) { l.Global = decide.Places{Limit: 1, Keep: -1} }
	drill := func(r *rig, id string, canaries ...staunch.Ref) *pipeline.Source {
		s := *r.src
		s.Name, s.Drill = "drill", &pipeline.Drill{ID: id, Canaries: canaries}
		return &s
	}
	as := func(r *rig, s *pipeline.Source, records ...string) pipeline.Report {
		was := r.src
		r.src = s
		defer func() { r.src = was }()
		return r.ingest(records...)
	}
	t.Run("it accuses its canaries alone", func(t *testing.T) {
		r := newRig(t)
		r.setIdentity(staunch.Identity{Name: "bob", Accounts: []staunch.Ref{account("bob")}})
		if rep := as(r, drill(r, "drl_1", account("canary")), r.rec("1", "critical", "bob")); rep.Signals != 0 || len(r.cases()) != 0 {
			t.Errorf("%+v", rep)
		}
	})
	t.Run("it takes nobody's place and is labelled", func(t *testing.T) {
		r := newRig(t, one)
		r.setIdentity(staunch.Identity{Name: "canary", Accounts: []staunch.Ref{account("canary")}})
		r.setIdentity(staunch.Identity{Name: "bob", Accounts: []staunch.Ref{account("bob")}})
		as(r, drill(r, "drl_1", account("canary")), r.rec("1", "critical", "canary"))
		r.ingest(r.rec("2", "critical", "bob"))
		cs := r.cases()
		if len(cs) != 2 {
			t.Fatalf("%d cases", len(cs))
		}
		for _, c := range cs {
			if want := c.Subject == account("canary"); (c.Drill == "drl_1") != want || (len(c.Caps) == 0) != want || want && (c.Playbook.Derived || c.Playbook.Widest != staunch.KindAccount) {
				t.Errorf("case %+v", c)
			}
		}
		r.view(func(v store.Reader) error {
			uses, err := v.RuleUses(store.Page{})
			if len(uses) != 1 || uses[0].Matches != 1 || uses[0].Decisions != 1 {
				t.Errorf("the drill is counted: %+v", uses)
			}
			return err
		})
	})
	t.Run("the real is not weighed with it", func(t *testing.T) {
		r := newRig(t)
		r.setIdentity(staunch.Identity{Name: "canary", Accounts: []staunch.Ref{account("canary")}})
		r.ingest(r.rec("1", "low", "canary"))
		as(r, drill(r, "drl_1", account("canary")), r.rec("2", "low", "canary"))
		for _, d := range r.observed {
			if len(d.Signals) != 1 {
				t.Errorf("decision of %d signals: %+v", len(d.Signals), d)
			}
		}
		if len(r.observed) != 2 || r.observed[0].Drill != "" || r.observed[1].Drill != "drl_1" {
			t.Errorf("decisions %+v", r.observed)
		}
	})
	t.Run("its windows are its own", func(t *testing.T) {
		r := newRig(t, alone)
		r.setIdentity(staunch.Identity{Name: "canary", Accounts: []staunch.Ref{account("canary")}})
		r.pipe.SetBundle(correlated(t, "sha256:corr", lows, few))
		low := func(id string) string { return r.rec(id, "low", "canary") }
		first, second := drill(r, "drl_1", account("canary")), drill(r, "drl_2", account("canary"))
		// Two are not enough, and count for nobody: not for a drill, nor for what is real.
		r.ingest(low("1"), low("2"))
		as(r, first, low("d1-1"), low("d1-2"))
		as(r, second, low("d2-1"), low("d2-2"))
		same(t, "signals of windows that are mixed", rulesOf(r.signals()), []string{})
		// Three are enough, for each drill and for what is real in the same window.
		as(r, drill(r, "drl_3", account("canary")), low("d3-1"), low("d3-2"), low("d3-3"), r.rec("d3-4", "low", "bob"))
		as(r, drill(r, "drl_4", account("canary")), low("d4-1"), low("d4-2"), low("d4-3"))
		r.ingest(low("3"))
		got := map[string]int{}
		for _, s := range r.signals() {
			got[s.Rule+" "+s.Drill]++
			if s.Accused != account("canary") || len(s.Events) != 3 {
				t.Errorf("%+v", s)
			}
		}
		same(t, "signals", got, map[string]int{"many ": 1, "many drl_3": 1, "many drl_4": 1})
		// What waits until it has settled in earnest is judged at once, and leaves nothing.
		as(r, drill(r, "drl_5", account("canary")), r.rec("d5-1", "other", "canary"))
		r.clock.add(2 * time.Hour)
		if err := r.pipe.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		got = map[string]int{}
		for _, s := range r.signals() {
			got[s.Rule+" "+s.Drill]++
		}
		same(t, "signals", got, map[string]int{"few drl_5": 1, "many ": 1, "many drl_3": 1, "many drl_4": 1})
	})
	t.Run("its decisions are told in their transaction", func(t *testing.T) {
		r := newRig(t)
		r.setIdentity(staunch.Identity{Name: "canary", Accounts: []staunch.Ref{account("canary")}})
		s := drill(r, "drl_1", account("canary"))
		var told []string
		s.Drill.Decided = func(tx store.Tx, d staunch.Decision) error {
			_, err := tx.Decision(d.ID)
			told = append(told, d.Drill+" "+d.Containment)
			return err
		}
		as(r, s, r.rec("1", "critical", "canary"))
		if cs := r.cases(); len(cs) != 1 || len(told) != 1 || told[0] != "drl_1 "+cs[0].ID {
			t.Errorf("told %q of %+v", told, cs)
		}
	})
	t.Run("a real case is not the exercise's", func(t *testing.T) {
		r := newRig(t)
		r.setIdentity(staunch.Identity{Name: "canary", Accounts: []staunch.Ref{account("canary")}})
		r.ingest(r.rec("1", "medium", "canary"))
		as(r, drill(r, "drl_1", account("canary")), r.rec("2", "critical", "canary"))
		cs := r.cases()
		if len(cs) != 1 || cs[0].Drill != "" || cs[0].Tier == staunch.TierRevoke {
			t.Errorf("cases: %+v", cs)
		}
		last := r.observed[len(r.observed)-1]
		if last.Verdict != staunch.VerdictProtected || last.Containment != "" {
			t.Errorf("the drill's decision: %s, %q", last.Verdict, last.Reasons)
		}
	})
	t.Run("an exercise that turns out to be real", func(t *testing.T) {
		r := newRig(t)
		r.setIdentity(staunch.Identity{Name: "canary", Accounts: []staunch.Ref{account("canary")}})
		as(r, drill(r, "drl_1", account("canary")), r.rec("1", "medium", "canary"))
		r.ingest(r.rec("2", "critical", "canary"))
		if cs := r.cases(); len(cs) != 1 || cs[0].Drill != "" || cs[0].Tier != staunch.TierRevoke {
			t.Errorf("cases: %+v", cs)
		}
	})
}
