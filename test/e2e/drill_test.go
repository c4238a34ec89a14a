package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/store"
)

// drilled waits for a drill's end.
func (n *node) drilled(id string) staunch.Drill {
	n.tb.Helper()
	var d staunch.Drill
	eventually(n.tb, "the drill ends", func() bool {
		got, err := n.api.Drill(n.tb.Context(), id)
		if err != nil {
			n.tb.Fatal(err)
		}
		d = got.Drill
		return d.Phase.Over()
	})
	return d
}

// TestDrillOnPostgreSQL has a drill contain a canary role by the real connector,
// and put it back; nobody else is touched.
func TestDrillOnPostgreSQL(t *testing.T) {
	s := newShop(t, false)
	s.Exec(t, "shop", "CREATE ROLE canary LOGIN PASSWORD 'nobody-knows'", "GRANT USAGE ON SCHEMA sales TO canary", "GRANT SELECT ON sales.cards TO canary")
	files := s.files("", `drills:
  - name: pg-canary
    canary: account:`+pgRealm+`:role:canary
    source: pg-log
    within: 20s
    restore_within: 20s
    record: >-
      {"timestamp":"{{time:2006-01-02 15:04:05.000 MST}}","user":"canary","dbname":"shop","pid":1,"session_id":"{{id}}","line_num":1,
      "ps":"SELECT","error_severity":"LOG","message":"statement: SELECT 'drill {{id}}'","application_name":"drill","backend_type":"client backend"}
`)
	files["identities.yaml"] += `  - name: canary
    kind: service
    owner: security
    purpose: is contained by drills
    tolerance: normal
    accounts: ["account:` + pgRealm + `:role:canary"]
`
	files["rules/canary.yaml"] = `title: The canary's role is used
id: 4c8c6a4e-4a1d-4d55-9f0e-3f6f1f0d8c05
status: test
level: high
logsource: {product: postgresql, service: jsonlog}
detection:
  s:
    user: canary
    message|startswith: 'statement: '
  condition: s
accuse: [account]
`
	canary, billing := s.access("canary"), s.access("billing")
	n := newNode(t, files)
	began, err := n.api.RunDrill(t.Context(), "pg-canary")
	if err != nil {
		t.Fatal(err)
	}
	d := n.drilled(began.Drill.ID)
	if d.Phase != staunch.DrillPassed || d.ContainMS <= 0 || d.At(staunch.DrillMarkCalled) == 0 {
		t.Fatalf("the drill: %+v", d)
	}
	t.Logf("contained after %.1f ms, put back after %.1f ms", d.ContainMS, d.RestoreMS)
	if after := s.access("canary"); after != canary {
		t.Errorf("the canary may not what it could\nbefore:\n%s\nafter:\n%s", canary, after)
	}
	if after := s.access("billing"); after != billing {
		t.Errorf("somebody else was touched\nbefore:\n%s\nafter:\n%s", billing, after)
	}
	c, err := n.api.Containment(t.Context(), d.Containment)
	if err != nil {
		t.Fatal(err)
	}
	if c.Containment.Drill != d.ID || len(c.Steps) == 0 {
		t.Errorf("the case: drill %q, %d steps", c.Containment.Drill, len(c.Steps))
	}
	for _, st := range c.Steps {
		if !strings.Contains(st.Target.Ref.Value, "canary") && st.Target.Ref.Kind == staunch.KindAccount || st.Proven == 0 {
			t.Errorf("step %s on %s: %s", st.Verb, st.Target, st.State)
		}
	}
	if !strings.Contains(string(s.logs()), "canary") {
		t.Error("the server's own log has nothing of it")
	}
	n.sound()
	n.stop()
}

// TestNodesTrustAlike holds that a demotion on one node holds on the other from
// its answer on, and that of two nodes one runs the drill that is due.
func TestNodesTrustAlike(t *testing.T) {
	t.Parallel() // it waits more than it works
	a, b := pair(t)
	if err := a.try("bob", "dump"); err != nil {
		t.Fatal(err)
	}
	cs := a.cases()
	if len(cs) != 1 {
		t.Fatalf("the cases are %s", summary(cs))
	}
	if _, err := a.api.Release(t.Context(), cs[0].ID, api.ReleaseRequest{Reason: "a test", Verdict: staunch.JudgedWrong}); err != nil {
		t.Fatal(err)
	}
	if err := b.try("carol", "dump"); err != nil {
		t.Fatal(err)
	}
	if cs := b.cases(); len(cs) != 1 {
		t.Errorf("the other node contained by a demoted rule: %s", summary(cs))
	}
	l, err := b.api.Trusts(t.Context(), false, client.Page{})
	if err != nil || len(l.Items) != 1 || l.Items[0].Mode != staunch.ModeRecommend || l.Items[0].Matches != 2 {
		t.Errorf("the other node says %+v, %v", l, err)
	}
	if _, err := b.api.Promote(t.Context(), api.TrustRequest{Rule: "dump", Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	if err := a.try("dave", "dump"); err != nil {
		t.Fatal(err)
	}
	if cs := a.cases(); len(cs) != 2 {
		t.Errorf("after the promotion the cases are %s", summary(cs))
	}
}

func TestNodesDrillOnce(t *testing.T) {
	t.Parallel() // it waits more than it works
	a, b := pairWith(t, `drills:
  - name: canary
    canary: account:json/app:name:canary
    source: app
    every: 1h
    record: '{"id":"{{id}}","time":"{{time}}","user":"canary","action":"dump"}'
`, "a", "b")
	runs := func(n *node) []staunch.Drill {
		l, err := n.api.Drills(t.Context(), "canary", client.Page{})
		if err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	for turn := range 3 {
		if err := a.app.Store().Update(t.Context(), func(tx store.Tx) error {
			return tx.PutCursor("drill due/canary", fmt.Sprint(time.Now().Add(-time.Second).UnixMicro()))
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the drill that is due passes", func() bool {
			ds := runs(b)
			return len(ds) == turn+1 && ds[0].Phase == staunch.DrillPassed
		})
	}
	time.Sleep(2 * time.Second) // two looks of each node
	if ds := runs(a); len(ds) != 3 {
		t.Errorf("%d runs: %+v", len(ds), ds)
	}
}
