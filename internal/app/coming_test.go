package app_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
)

// burning is a platform whose accounts have a key that can be revoked for good, at
// the revoke tier.
type burning struct{ connector.Connector }

const burnKey = "key"

func (b burning) Describe() connector.Description {
	d := b.Connector.Describe()
	burn := d.Verbs[0]
	burn.Verb, burn.Tier, burn.Attribute = staunch.VerbRevoke, staunch.TierRevoke, burnKey
	burn.Reversibility, burn.Revives = staunch.Irreversible, false
	d.Verbs = append(d.Verbs, burn)
	return d
}

func (b burning) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	ex, err := b.Connector.Expand(ctx, req)
	if err == nil && req.Tier >= staunch.TierRevoke && req.Subject.Kind == staunch.KindAccount {
		ex.Actions = append(ex.Actions, connector.Action{Target: staunch.Target{Ref: req.Subject, Attribute: burnKey}, Verb: staunch.VerbRevoke})
	}
	return ex, err
}

func (b burning) Read(ctx context.Context, t staunch.Target, fresh bool) (staunch.State, error) {
	if t.Attribute != burnKey {
		return b.Connector.Read(ctx, t, fresh)
	}
	return staunch.State{V: staunch.Version, Target: t, Exists: true, Effective: true, Body: json.RawMessage(`"live"`), Summary: "live", ReadAt: staunch.TimeOf(time.Now())}, nil
}

func (b burning) Prepare(st staunch.State, verb staunch.Verb) (staunch.Intent, error) {
	if verb != staunch.VerbRevoke {
		return b.Connector.Prepare(st, verb)
	}
	want := st
	want.Effective, want.Body, want.Summary = false, json.RawMessage(`"gone"`), "gone"
	return staunch.Intent{Target: st.Target, Verb: verb, Call: "revoke the key", Undo: "irreversible", Reversibility: staunch.Irreversible, Expected: want}, nil
}

// TestIrreversibleIsSaidBefore holds that a person who looks at a plan, or at a case
// whose window runs, is told what the stages to come would do and what of that cannot
// be undone, while nothing of it is done.
func TestIrreversibleIsSaidBefore(t *testing.T) {
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	p.AddAccount("mallory")
	n := newNodeOn(t, p, map[string]string{"staunch.yaml": nodeConfig})
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	n.wrap = func(c connector.Connector) connector.Connector { return burning{c} }
	n.start()

	const ask = `{"subject":"account:json/app:name:mallory","tier":"revoke","playbook":"staged","reason":"x"}`
	said := func(what string, stages []api.ComingStage, begins bool) {
		t.Helper()
		if len(stages) != 1 {
			t.Fatalf("%s: %d stages: %+v", what, len(stages), stages)
		}
		s := stages[0]
		if s.Stage != 2 || s.Tier != staunch.TierRevoke || s.Error != "" || (s.Begins != 0) != begins || s.Irreversible() != 1 {
			t.Errorf("%s: %+v", what, s)
		}
		// What is held already is not said again.
		if len(s.Steps) != 1 || s.Steps[0].Verb != staunch.VerbRevoke || s.Steps[0].Target.Attribute != burnKey || s.Steps[0].Call != "revoke the key" {
			t.Errorf("%s: steps %+v", what, s.Steps)
		}
	}
	d := answer[api.Draft](n, http.MethodPost, "/v1/plan", ask)
	if d.Stage != 1 || len(d.Items) != 2 || len(d.Stages) != 3 {
		t.Errorf("%+v", d)
	}
	said("the plan", d.Coming, false)

	path := "/v1/containments/" + answer[api.Opened](n, http.MethodPost, "/v1/containments", ask).Containment.ID
	var c api.Case
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c = answer[api.Case](n, http.MethodGet, path, ""); c.Containment.Phase == staunch.PhaseWindow {
			break
		} else if len(c.Coming) > 0 {
			t.Fatalf("phase %s: %+v", c.Containment.Phase, c.Coming)
		}
		if time.Now().After(end) {
			t.Fatalf("no window: %+v", c.Containment)
		}
	}
	said("the window", c.Coming, true)
	if c.Coming[0].Begins != c.Containment.WindowEnds {
		t.Errorf("it begins at %s, and the window ends at %s", c.Coming[0].Begins, c.Containment.WindowEnds)
	}
	done := p.Ledger()
	if slices.ContainsFunc(done, func(s string) bool { return strings.Contains(s, burnKey) }) {
		t.Errorf("the platform was called: %v", done)
	}
	// Each step has its six instants but for the event's, which it has none of.
	for _, clock := range c.Clocks {
		var marks []string
		for _, m := range clock.Marks {
			marks = append(marks, m.Name)
		}
		want := "decided intended called acknowledged effective"
		if strings.HasPrefix(clock.Of, "hld_") {
			want = "decided effective"
		}
		if got := strings.Join(marks, " "); got != want {
			t.Errorf("clock of %s: %s, want %s", clock.Target, got, want)
		}
	}
	if len(c.Clocks) != 3 || len(c.Tree) != 1 || len(c.Tree[0].Steps) != 2 || c.Tree[0].Steps[0].Undo != "enable" || len(c.Tree[0].Denied) != 1 {
		t.Errorf("%+v, %+v", c.Clocks, c.Tree)
	}

	// A platform that cannot be asked keeps nobody from looking.
	answer[api.Changed](n, http.MethodPost, path+"/extend", `{"by":"10m"}`)
	p.SetDown(true)
	c = answer[api.Case](n, http.MethodGet, path, "")
	if len(c.Coming) != 1 || !strings.Contains(c.Coming[0].Error, "could not be asked") || len(c.Coming[0].Steps) != 0 || c.Coming[0].Begins != c.Containment.WindowEnds {
		t.Errorf("%+v", c.Coming)
	}
	p.SetDown(false)
	answer[api.Changed](n, http.MethodPost, path+"/clear", `{"reason":"the backup job","rotated":true}`)
	if c = answer[api.Case](n, http.MethodGet, path, ""); len(c.Coming) != 0 || len(c.Safeguards) == 0 || c.Safeguards[0] != "rotated: root says that the secrets were replaced first" {
		t.Errorf("%+v, %q", c.Coming, c.Safeguards)
	}
}

// TestUndeclaredIdentity holds that a mistyped identity is refused: it has no accounts,
// so its case would hold nothing.
func TestUndeclaredIdentity(t *testing.T) {
	n := newNode(t)
	for _, path := range []string{"/v1/plan", "/v1/plan/file", "/v1/containments"} {
		status, b := n.call(http.MethodPost, path, n.admin, `{"subject":"identity:malory","tier":"isolate","reason":"x"}`)
		if status != http.StatusBadRequest || !strings.Contains(string(b), "is declared, so nothing would be contained") {
			t.Errorf("%s: %d %s", path, status, b)
		}
	}
	if cs := n.cases(); len(cs) != 0 {
		t.Errorf("%+v", cs)
	}
	answer[api.Opened](n, http.MethodPost, "/v1/containments", `{"subject":"identity:mallory","tier":"isolate","reason":"x"}`)
}

// TestPolicyThatContainsEverything holds that it is refused at the start and at a
// reload, with nothing changed.
func TestPolicyThatContainsEverything(t *testing.T) {
	const books = "playbooks: [{name: gone, stages: [{tier: isolate, deny: ['*']}]}]\n"
	n := newNodeWith(t, map[string]string{
		"staunch.yaml": nodeConfig + "policies: [own.yaml]\n",
		"own.yaml":     "v: 1\npolicies:\n- {id: all, mode: shadow, priority: 9, then: {tier: isolate, playbook: gone, staged: staged}}\n" + books,
	})
	for name, c := range map[string]struct {
		policy string
		bad    bool
	}{
		"a fixed tier":          {"{id: all, mode: enforce, priority: 9, then: {tier: isolate, playbook: gone}}", true},
		"a threshold of zero":   {"{id: all, mode: enforce, priority: 9, then: {tiers: [{at: 0, tier: isolate, playbook: gone}]}}", true},
		"one of next to zero":   {"{id: all, mode: enforce, priority: 9, then: {tiers: [{at: 0.01, tier: isolate, playbook: gone}]}}", true},
		"when it is always":     {"{id: all, mode: enforce, priority: 9, when: 'true', then: {tier: isolate, playbook: gone}}", true},
		"all who are declared":  {"{id: all, mode: enforce, priority: 9, match: {managed: true}, then: {tier: isolate, playbook: gone}}", true},
		"with a threshold":      {"{id: all, mode: enforce, priority: 9, then: {tiers: [{at: 0.3, tier: isolate, playbook: gone}]}}", false},
		"of a rule":             {"{id: all, mode: enforce, priority: 9, match: {rule: dump}, then: {tier: isolate, playbook: gone}}", false},
		"when it is sure":       {"{id: all, mode: enforce, priority: 9, when: 'suspicion.confidence > 0.5', then: {tier: isolate, playbook: gone}}", false},
		"with people's consent": {"{id: all, mode: enforce, priority: 9, then: {tier: isolate, playbook: gone, approve: true}}", false},
	} {
		before := n.records(staunch.RecordConfig)
		write(t, n.dir, "own.yaml", "v: 1\npolicies:\n- "+strings.Replace(c.policy, "then: {", "then: {staged: staged, ", 1)+"\n"+books)
		status, b := n.call(http.MethodPost, "/v1/reload", n.admin, "{}")
		refused := status == http.StatusBadRequest && strings.Contains(string(b), "own.yaml:3") && strings.Contains(string(b), "would contain everything")
		if refused != c.bad || !c.bad && status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, b)
		}
		if c.bad && len(n.records(staunch.RecordConfig)) != len(before) {
			t.Errorf("%s: something was changed", name)
		}
	}
}
