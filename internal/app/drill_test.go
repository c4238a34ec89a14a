package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/store"
)

const drillConfig = nodeConfig + channel + `drills:
  - name: canary
    canary: account:json/app:name:canary
    source: events
    within: 3s
    restore_within: 3s
    record: '{"id":"{{id}}","time":"{{time}}","user":"canary","action":"dump"}'
  - name: nightly
    canary: account:json/app:name:nightly
    source: events
    every: 1h
    record: '{"id":"{{id}}","time":"{{time}}","user":"nightly","action":"dump"}'
`

// drillNode has a platform with two canaries and somebody else.
func drillNode(t *testing.T) (*node, *connectortest.FakePlatform) {
	t.Helper()
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	for _, name := range []string{"canary", "nightly", "mallory"} {
		p.AddAccount(name)
	}
	n := newNodeOn(t, p, map[string]string{"staunch.yaml": drillConfig})
	return n, p
}

// ended waits for a drill's end.
func (n *node) ended(id string) staunch.Drill {
	n.t.Helper()
	for range 400 {
		if d := answer[api.DrillStory](n, http.MethodGet, "/v1/drills/"+id, "").Drill; d.Phase.Over() {
			return d
		}
		time.Sleep(25 * time.Millisecond)
	}
	n.t.Fatalf("drill %s does not end", id)
	return staunch.Drill{}
}

func (n *node) run(name string) staunch.Drill {
	n.t.Helper()
	return answer[api.DrillStory](n, http.MethodPost, "/v1/drills", fmt.Sprintf(`{"name":%q}`, name)).Drill
}

func TestDrill(t *testing.T) {
	n, p := drillNode(t)
	before := p.Dump("canary")
	d := n.ended(n.run("canary").ID)
	if d.Phase != staunch.DrillPassed || d.ContainMS <= 0 || d.RestoreMS <= 0 || d.Failure != "" {
		t.Fatalf("%+v", d)
	}
	var marks []string
	for _, m := range d.Marks {
		marks = append(marks, m.Name)
	}
	want := []string{
		staunch.DrillMarkInjected, staunch.DrillMarkDecided, staunch.DrillMarkOpened, staunch.DrillMarkCalled, staunch.DrillMarkProven,
		staunch.DrillMarkReleased, staunch.DrillMarkRestored,
	}
	if !slices.Equal(marks, want) {
		t.Errorf("marks %v", marks)
	}
	if after := p.Dump("canary"); after != before {
		t.Errorf("the canary was\n%s\nand is\n%s", before, after)
	}
	ledger := p.Ledger()
	if len(ledger) == 0 {
		t.Error("nothing was done on the platform")
	}
	for _, line := range ledger {
		if !strings.Contains(line, "canary") {
			t.Errorf("somebody else was touched: %s", line)
		}
	}
	cs := n.cases()
	if len(cs) != 1 || cs[0].Drill != d.ID || cs[0].ID != d.Containment || cs[0].Release == nil || cs[0].Release.By != "drill" || len(cs[0].Caps) != 0 {
		t.Errorf("cases %+v", cs)
	}
	if n.told("containment.contained") || n.told("drill.failed") {
		t.Error("people were told of a drill that passed")
	}
	if l := answer[api.Trusts](n, http.MethodGet, "/v1/trust", ""); len(l.Items) != 0 {
		t.Errorf("the drill counts for a rule: %+v", l.Items)
	}
	if _, b := n.call(http.MethodGet, "/metrics", n.admin, ""); !strings.Contains(string(b), `staunch_drill_runs_total{drill="canary",result="passed"} 1`) ||
		!strings.Contains(string(b), `staunch_drill_contain_seconds_count{drill="canary"} 1`) {
		t.Error("the metrics do not have it")
	}
	l := answer[api.Drills](n, http.MethodGet, "/v1/drills?name=canary", "")
	if len(l.Items) != 1 || len(l.Configured) != 2 || l.Configured[0].Passed != 1 || l.Configured[0].ContainP50MS != d.ContainMS {
		t.Errorf("%+v", l)
	}
	// It can be run again at once: nothing of the first one is in its way.
	if d := n.ended(n.run("canary").ID); d.Phase != staunch.DrillPassed {
		t.Errorf("the second: %+v", d)
	}
}

func TestDrillFails(t *testing.T) {
	t.Run("the platform is down", func(t *testing.T) {
		n, p := drillNode(t)
		p.SetDown(true)
		id := n.run("canary").ID
		if status, b := n.call(http.MethodPost, "/v1/drills", n.admin, `{"name":"canary"}`); status != http.StatusConflict {
			t.Errorf("another one at once: %d %s", status, b)
		}
		d := n.ended(id)
		if d.Phase != staunch.DrillFailed || d.Failure == "" || d.ContainMS != 0 || !n.told("drill.failed") {
			t.Errorf("%+v", d)
		}
	})
	t.Run("the canary is contained for real", func(t *testing.T) {
		n, _ := drillNode(t)
		n.post(event("1", "canary", "dump"))
		d := n.ended(n.run("canary").ID)
		cs := n.cases()
		if d.Phase != staunch.DrillFailed || len(cs) != 1 || cs[0].Drill != "" || !cs[0].Phase.Open() || !strings.Contains(d.Failure, cs[0].ID) {
			t.Errorf("%+v, %+v", d, cs)
		}
	})
	t.Run("the configuration has it no more", func(t *testing.T) {
		n, p := drillNode(t)
		p.SetDown(true)
		var d staunch.Drill
		if err := n.app.Store().Update(t.Context(), func(tx store.Tx) error {
			now := staunch.TimeOf(time.Now())
			d = staunch.Drill{ID: staunch.DrillID("gone", "1"), Name: "gone", Canary: staunch.Ref{Kind: staunch.KindAccount, Realm: "json/app", Scheme: "name", Value: "mallory"},
				Source: "events", By: "test", Phase: staunch.DrillInjecting, Began: now, Due: now, Record: event("1", "mallory", "dump")}
			return tx.PutDrill(d)
		}); err != nil {
			t.Fatal(err)
		}
		if d := n.ended(d.ID); d.Phase != staunch.DrillFailed || !strings.Contains(d.Failure, "configuration") || len(n.cases()) != 0 {
			t.Errorf("%+v, %+v", d, n.cases())
		}
	})
}

// TestDrillCorrelation has a drill send what a correlation needs, a second time in
// the same window as well, while others are decided on more often than a page of
// decisions has.
func TestDrillCorrelation(t *testing.T) {
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	p.AddAccount("canary")
	n := newNodeOn(t, p, map[string]string{"staunch.yaml": nodeConfig + `drills:
  - name: guess
    canary: account:json/app:name:canary
    source: events
    repeat: 2
    apart: 1s
    records:
      - '{"id":"{{id}}-{{n}}","time":"{{time}}","user":"canary","action":"login","outcome":"failure"}'
      - '{"id":"{{id}}-{{n}}","time":"{{time}}","user":"canary","action":"login","outcome":"failure","again":true}'
  - name: few
    canary: account:json/app:name:other
    source: events
    repeat: 3
    record: '{"id":"{{id}}-{{n}}","time":"{{time}}","user":"other","action":"login","outcome":"failure"}'
`, "rules/guess.yaml": `title: A failure
id: fail
name: fail
level: low
logsource: {product: app}
detection: {s: {action: login, outcome: failure}, condition: s}
---
title: Many failures
id: many
level: critical
correlation: {type: event_count, rules: [fail], group-by: [staunch.account], timespan: 1h, condition: {gte: 4}}
`})
	if err := n.app.Store().Update(t.Context(), func(tx store.Tx) error {
		for i := range store.MaxPage + 1 {
			ref := staunch.Ref{Kind: staunch.KindAccount, Realm: "json/app", Scheme: "name", Value: fmt.Sprint("busy-", i)}
			d := staunch.Decision{V: 1, ID: staunch.DecisionID(ref, "b", nil), Subject: ref, Scope: ref, Made: staunch.TimeOf(time.Now().Add(time.Hour))}
			if _, err := tx.PutDecision(d); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d := n.ended(n.run("guess").ID)
		if d.Phase != staunch.DrillPassed || d.Decision == "" {
			t.Fatalf("%+v", d)
		}
		lines := strings.Split(d.Record, "\n")
		if len(lines) != 4 || !strings.Contains(lines[3], d.ID+"-4") || strings.Contains(lines[2], "again") || !strings.Contains(lines[3], "again") {
			t.Errorf("what was taken in: %q", lines)
		}
	}
	if d := n.ended(n.run("few").ID); d.Phase != staunch.DrillFailed || !strings.Contains(d.Failure, "nobody decided anything") {
		t.Errorf("too few: %+v", d)
	}
}

// TestDrillRefused holds that what the good ones of a drill's records led to is put
// back where another is refused.
func TestDrillRefused(t *testing.T) {
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	p.AddAccount("canary")
	before := p.Dump("canary")
	n := newNodeOn(t, p, map[string]string{"staunch.yaml": nodeConfig + `drills:
  - name: broken
    canary: account:json/app:name:canary
    source: events
    records:
      - '{"id":"{{id}}","time":"{{time}}","user":"canary","action":"dump"}'
      - '{"id":"{{id}}-2","time":"{{time}}",}'
`})
	d := n.ended(n.run("broken").ID)
	if d.Phase != staunch.DrillFailed || !strings.Contains(d.Failure, "record 2 was refused") || d.Containment == "" {
		t.Errorf("%+v", d)
	}
	if after := p.Dump("canary"); after != before || len(n.cases()) != 1 || n.cases()[0].Phase.Open() {
		t.Errorf("the canary was\n%s\nand is\n%s, %+v", before, after, n.cases())
	}
}

// TestDrillGoesOn stops the node in the middle and starts it again.
func TestDrillGoesOn(t *testing.T) {
	n, p := drillNode(t)
	// The one that has the time that exercises usually have: a restart takes some.
	before := p.Dump("nightly")
	p.SetDown(true) // so that it does not end before
	id := n.run("nightly").ID
	for range 200 {
		if answer[api.DrillStory](n, http.MethodGet, "/v1/drills/"+id, "").Drill.Phase == staunch.DrillContaining {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	p.SetDown(false)
	n.start()
	if d := n.ended(id); d.Phase != staunch.DrillPassed || p.Dump("nightly") != before {
		t.Errorf("%+v\n%s", d, p.Dump("nightly"))
	}
}

// TestDrillSchedule holds that one that is due begins by itself, once, and puts
// off the next.
func TestDrillSchedule(t *testing.T) {
	n, _ := drillNode(t)
	standing := func() api.DrillStanding {
		l := answer[api.Drills](n, http.MethodGet, "/v1/drills", "")
		return l.Configured[1]
	}
	for range 200 {
		if standing().Next != 0 {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	if s := standing(); s.Next == 0 || s.Last != 0 || s.Next.Std().Before(time.Now().Add(50*time.Minute)) {
		t.Fatalf("at first: %+v", s)
	}
	if err := n.app.Store().Update(t.Context(), func(tx store.Tx) error {
		return tx.PutCursor("drill due/nightly", fmt.Sprint(time.Now().Add(-time.Second).UnixMicro()))
	}); err != nil {
		t.Fatal(err)
	}
	var s api.DrillStanding
	for range 400 {
		if s = standing(); s.LastPhase.Over() {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	if s.LastPhase != staunch.DrillPassed || s.Passed != 1 || s.Next.Std().Before(time.Now().Add(50*time.Minute)) {
		t.Errorf("%+v", s)
	}
	l := answer[api.Drills](n, http.MethodGet, "/v1/drills?name=nightly", "")
	if len(l.Items) != 1 || l.Items[0].By != "schedule" {
		t.Errorf("%+v", l.Items)
	}
}
