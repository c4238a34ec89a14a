package app_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/store"
)

const strictPolicy = `v: 1
policies:
  - id: strict
    mode: enforce
    priority: 50
    then:
      tiers: [{at: 0.2, tier: restrict, playbook: restrict}, {at: 0.7, tier: revoke, playbook: revoke}]
      staged: staged
`

func TestBacktest(t *testing.T) {
	n := newNodeWith(t, map[string]string{
		"staunch.yaml":    nodeConfig,
		"rules/peek.yaml": "title: Peek\nid: peek\nlevel: low\nlogsource: {product: app}\ndetection: {s: {action: peek}, condition: s}\n",
	})
	write(t, n.dir, "identities.yaml", `v: 1
identities:
  - {name: mallory, kind: human, tolerance: normal, accounts: ["account:json/app:name:mallory"]}
  - {name: bob, kind: service, owner: ops, environment: prod-eu, tolerance: normal, shared: true, accounts: ["account:json/app:name:bob"]}
  - {name: glass, kind: service, owner: ops, tolerance: normal, protected: true, accounts: ["account:json/app:name:glass"]}
`)
	if _, err := n.app.Reload(t.Context(), "test", false); err != nil {
		t.Fatal(err)
	}
	n.post(event("1", "mallory", "dump") + event("2", "bob", "peek") + event("3", "glass", "peek"))
	cs := n.cases()
	if len(cs) != 1 {
		t.Fatalf("cases are %+v", cs)
	}
	if status, b := n.call(http.MethodPost, "/v1/containments/"+cs[0].ID+"/release", n.admin, `{"reason":"a false alarm"}`); status != 200 {
		t.Fatalf("releasing gave %d %s", status, b)
	}
	ask := func(token staunch.Secret, req any) (subjects map[string]api.BacktestSubject, sum *api.BacktestSummary) {
		t.Helper()
		body, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		status, b := n.call(http.MethodPost, "/v1/backtest", token, string(body))
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, b)
		}
		subjects = map[string]api.BacktestSubject{}
		for line := range bytes.Lines(b) {
			var l api.BacktestLine
			if err := json.Unmarshal(line, &l); err != nil || l.V != 1 || sum != nil {
				t.Fatalf("line %s: %v", line, err)
			}
			if l.Subject != nil {
				subjects[l.Subject.Subject.Value] = *l.Subject
			}
			sum = l.Summary
		}
		if sum == nil {
			t.Fatalf("no summary: %s", b)
		}
		return subjects, sum
	}
	strict := []api.PolicyFile{{Name: "strict.yaml", Text: strictPolicy}}
	day := staunch.Duration(24 * time.Hour)

	got, sum := ask(n.admin, api.BacktestRequest{Since: day, Policies: strict, Diff: true})
	m, b, g := got["mallory"], got["bob"], got["glass"]
	if m.Change != api.BacktestTier || m.Active.Tier != staunch.TierIsolate || m.New.Tier != staunch.TierRevoke || m.New.Policy != "strict" ||
		!slices.Equal(m.Hurts, []string{api.HurtFalseAlarm}) || len(m.Cases) != 1 || !m.Cases[0].FalseAlarm {
		t.Errorf("mallory: %+v", m)
	}
	if b.Change != api.BacktestNewly || b.Active.Tier != staunch.TierObserve || b.New.Tier != staunch.TierRestrict || b.Owner != "ops" ||
		!slices.Equal(b.Hurts, []string{api.HurtProduction, api.HurtShared}) {
		t.Errorf("bob: %+v", b)
	}
	if g.Change != api.BacktestNewly || !slices.Equal(g.Hurts, []string{api.HurtProtected}) {
		t.Errorf("glass: %+v", g)
	}
	if sum.Decisions != 3 || sum.Newly != 2 || sum.Tier != 1 || sum.Same != 0 || sum.Hurt[api.HurtProtected] != 1 || sum.Hurt[api.HurtFalseAlarm] != 1 {
		t.Errorf("summary: %+v", sum)
	}

	// A rule that is left out, and what it spares.
	got, sum = ask(n.admin, api.BacktestRequest{Since: day, Rules: map[string]string{"dump": "off", "nosuch": "shadow"}})
	if m := got["mallory"]; len(got) != 1 || m.Change != api.BacktestNoLonger || m.New.Tier != staunch.TierObserve || len(m.Hurts) != 0 {
		t.Errorf("without the rule: %+v", got)
	}
	if sum.NoLonger != 1 || sum.Spared != 1 || sum.Missed != 0 || !slices.Equal(sum.UnseenRules, []string{"nosuch"}) {
		t.Errorf("summary: %+v", sum)
	}
	// A rule in shadow contains nothing either; the same policies differ in nothing.
	if got, _ = ask(n.admin, api.BacktestRequest{Since: day, Rules: map[string]string{"dump": "shadow"}}); got["mallory"].Change != api.BacktestNoLonger {
		t.Errorf("in shadow: %+v", got)
	}
	if got, sum = ask(n.admin, api.BacktestRequest{Since: day, Rules: map[string]string{"dump": "enforce"}, Diff: true}); len(got) != 0 || sum.Same != 1 {
		t.Errorf("the same: %+v, %+v", got, sum)
	}
	// In shadow mode nobody is contained by anything.
	if got, sum = ask(n.admin, api.BacktestRequest{Since: day, Policies: strict, Mode: "shadow"}); len(got) != 0 || sum.Decisions != 3 {
		t.Errorf("in shadow mode: %+v, %+v", got, sum)
	}
	// What is older is not looked at.
	time.Sleep(2 * time.Millisecond)
	if got, sum = ask(n.admin, api.BacktestRequest{Since: staunch.Duration(time.Millisecond), Policies: strict}); len(got) != 0 || sum.Decisions != 0 {
		t.Errorf("of the last millisecond: %+v, %+v", got, sum)
	}
	// A token sees its part.
	ops := n.token(store.Token{Name: "ops", Role: "responder", Owners: []string{"ops"}})
	if got, sum = ask(ops, api.BacktestRequest{Since: day, Policies: strict}); len(got) != 2 || sum.Decisions != 2 {
		t.Errorf("for ops: %+v, %+v", got, sum)
	}
	viewer := n.token(store.Token{Name: "vic", Role: "viewer"})
	if status, b := n.call(http.MethodPost, "/v1/backtest", viewer, `{"since":"24h"}`); status != http.StatusForbidden {
		t.Errorf("a viewer: %d %s", status, b)
	}
	for body, says := range map[string]string{
		`{}`:                                    "since",
		`{"since":"24h"}`:                       "nothing to compare",
		`{"since":"-1h"}`:                       "since",
		`{"since":"24h","nosuch":1}`:            "nosuch",
		`{"since":"24h","since":"1h"}`:          "body",
		`{"since":"24h","mode":"loud"}`:         "mode",
		`{"since":"24h","rules":{"dump":"of"}}`: "rules",
		`{"since":"24h","policies":[{"name":"x.yaml","text":"v: 1\nnosuch: 1"}]}`: "x.yaml:2",
	} {
		if status, b := n.call(http.MethodPost, "/v1/backtest", n.admin, body); status != http.StatusBadRequest || !bytes.Contains(b, []byte(says)) {
			t.Errorf("%s: %d %s", body, status, b)
		}
	}
	if again := n.cases(); len(again) != 1 {
		t.Errorf("the backtest opened %+v", again)
	}
}

// TestBacktestTellsFalseAlarms by how their cases ended: a window that was cleared
// is one whatever the reason says, and a release is one if its reason says so.
func TestBacktestTellsFalseAlarms(t *testing.T) {
	for _, tc := range []struct {
		how, reason    string
		spared, missed int
	}{
		{"clear", "the deploy", 1, 0},
		{"release", "FALSE-POSITIVE of the new rule", 1, 0},
		{"release", "the key was rotated", 0, 1},
		{"release", "it was not a false alarm, the key was rotated", 0, 1},
		{"", "", 0, 1},
	} {
		t.Run(tc.how+" "+tc.reason, func(t *testing.T) {
			n := newNodeWith(t, map[string]string{
				"staunch.yaml":     nodeConfig,
				"rules/grant.yaml": "title: Grant\nid: grant\nlevel: critical\nlogsource: {product: app}\ndetection: {s: {action: grant}, condition: s}\n",
			})
			write(t, n.dir, "identities.yaml", "v: 1\nidentities:\n  - {name: mallory, kind: service, tolerance: staged, accounts: [\"account:json/app:name:mallory\"]}\n")
			if _, err := n.app.Reload(t.Context(), "test", false); err != nil {
				t.Fatal(err)
			}
			n.post(event("1", "mallory", "grant"))
			deadline := time.Now().Add(20 * time.Second)
			for cs := n.cases(); len(cs) != 1 || cs[0].Phase != staunch.PhaseWindow; cs = n.cases() {
				if time.Now().After(deadline) {
					t.Fatalf("no window opens: %+v", cs)
				}
				time.Sleep(5 * time.Millisecond)
			}
			if tc.how != "" {
				status, b := n.call(http.MethodPost, "/v1/containments/"+n.cases()[0].ID+"/"+tc.how, n.admin, `{"reason":"`+tc.reason+`"}`)
				if status != http.StatusOK {
					t.Fatalf("%s gave %d %s", tc.how, status, b)
				}
			}
			status, b := n.call(http.MethodPost, "/v1/backtest", n.admin, `{"since":"1h","rules":{"grant":"off"}}`)
			lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
			var l api.BacktestLine
			if err := json.Unmarshal(lines[len(lines)-1], &l); err != nil || status != http.StatusOK || l.Summary == nil {
				t.Fatalf("%d %s: %v", status, b, err)
			}
			if l.Summary.NoLonger != 1 || l.Summary.Spared != tc.spared || l.Summary.Missed != tc.missed {
				t.Errorf("%+v", l.Summary)
			}
		})
	}
}
