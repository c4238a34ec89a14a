package app_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/store"
)

// answer decodes an answer that has to be 200 or 201.
func answer[T any](n *node, method, path, body string) T {
	n.t.Helper()
	var v T
	status, b := n.call(method, path, n.admin, body)
	if status/100 != 2 {
		n.t.Fatalf("%s %s: %d %s", method, path, status, b)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		n.t.Fatalf("%s %s: %v: %s", method, path, err, b)
	}
	return v
}

// told reports whether a message of the kind is in the outbox.
func (n *node) told(kind string) bool {
	n.t.Helper()
	found := false
	if err := n.app.Store().View(n.t.Context(), func(r store.Reader) error {
		ns, err := r.Notices(staunch.TimeOf(time.Now().Add(24*time.Hour)), 1000)
		for _, m := range ns {
			found = found || strings.Contains(string(m.Body), `"`+kind+`"`)
		}
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	return found
}

// channel is one that nobody listens to: what is told stays in the outbox.
const channel = `notify:
  - {name: ops, type: webhook, url: "http://127.0.0.1:9/", secret: whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}
`

func TestWrongReleaseDemotes(t *testing.T) {
	n := newNodeWith(t, map[string]string{"staunch.yaml": nodeConfig + channel})
	n.post(event("1", "mallory", "dump") + event("2", "bob", "dump"))
	cs := n.cases()
	if len(cs) != 2 {
		t.Fatalf("%d cases", len(cs))
	}
	release := func(id, verdict string) {
		t.Helper()
		answer[api.Changed](n, http.MethodPost, "/v1/containments/"+id+"/release", `{"reason":"the backup job"`+verdict+`}`)
	}
	// Nobody says anything of the rule.
	release(cs[1].ID, "")
	if h := answer[api.RuleHistory](n, http.MethodGet, "/v1/trust/rule?rule=dump", ""); h.Rule.Mode != staunch.ModeEnforce || h.Rule.Matches != 2 || h.Rule.Containments != 2 || len(h.History) != 0 {
		t.Errorf("%+v", h)
	}
	if n.told("trust.demoted") {
		t.Error("a demotion was told")
	}
	release(cs[0].ID, `,"verdict":"wrong"`)
	h := answer[api.RuleHistory](n, http.MethodGet, "/v1/trust/rule?rule=dump", "")
	if h.Rule.Mode != staunch.ModeRecommend || h.Rule.Declared != staunch.ModeEnforce || h.Rule.Wrong != 1 || len(h.History) != 2 ||
		h.Rule.Advice != "no matches in mode recommend" {
		t.Errorf("%+v", h)
	}
	if !n.told("trust.demoted") {
		t.Error("nobody was told")
	}
	n.post(event("3", "eve", "dump"))
	if now := n.cases(); len(now) != 2 {
		t.Errorf("a demoted rule contained: %+v", now)
	}
	// After a restart it stands as it did, and a person lifts it.
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	n.start()
	l := answer[api.Trusts](n, http.MethodGet, "/v1/trust", "")
	if len(l.Items) != 1 || l.Items[0].Mode != staunch.ModeRecommend || l.Items[0].Matches != 3 || l.Criteria.Matches != 20 {
		t.Errorf("%+v", l)
	}
	ev := answer[api.TrustMoved](n, http.MethodPost, "/v1/trust/promote", `{"rule":"dump","reason":"mended"}`).Event
	if ev.From != staunch.ModeRecommend || ev.To != staunch.ModeEnforce || ev.By != "root" || !n.told("trust.promoted") {
		t.Errorf("%+v", ev)
	}
	// What it matched meanwhile counts as it did then; what it matches now contains.
	n.post(event("4", "zoe", "dump"))
	now := n.cases()
	if len(now) != 3 || now[0].Subject.Value != "zoe" {
		t.Errorf("a promoted rule: %+v", now)
	}
}

// TestJudgeLater holds that a case can be judged after its release, that a verdict
// can be corrected, and that each change is counted once and on record.
func TestJudgeLater(t *testing.T) {
	n := newNodeWith(t, map[string]string{"staunch.yaml": nodeConfig + channel})
	n.post(event("1", "mallory", "dump") + event("2", "bob", "dump"))
	id, other := n.cases()[0].ID, n.cases()[1].ID
	path := "/v1/containments/" + id
	judge := func(verdict string) staunch.Containment {
		t.Helper()
		return answer[api.Changed](n, http.MethodPost, path+"/judge", `{"verdict":"`+verdict+`","reason":"looked at it again"}`).Containment
	}
	refused := func(status int, path, body, says string) {
		t.Helper()
		if got, b := n.call(http.MethodPost, path, n.admin, body); got != status || !strings.Contains(string(b), says) {
			t.Errorf("%s: %d %s, want %d with %q", body, got, b, status, says)
		}
	}
	rule := func(wrong, right int, mode staunch.Mode) api.RuleHistory {
		t.Helper()
		h := answer[api.RuleHistory](n, http.MethodGet, "/v1/trust/rule?rule=dump", "")
		if h.Rule.Wrong != wrong || h.Rule.Right != right || h.Rule.Mode != mode || (h.Rule.LastWrong != 0) != (wrong > 0) {
			t.Errorf("%+v, want %d wrong, %d right, mode %s", h.Rule, wrong, right, mode)
		}
		return h
	}
	refused(http.StatusConflict, path+"/judge", `{"verdict":"wrong","reason":"x"}`, "judged when it is released")
	answer[api.Changed](n, http.MethodPost, path+"/release", `{"reason":"keys replaced","rotated":true}`)
	rule(0, 0, staunch.ModeEnforce)
	refused(http.StatusBadRequest, path+"/judge", `{"verdict":"perhaps","reason":"x"}`, "verdict")
	refused(http.StatusBadRequest, path+"/judge", `{"reason":"x"}`, "verdict")
	refused(http.StatusBadRequest, path+"/judge", `{"verdict":"wrong","reason":" "}`, "reason")
	refused(http.StatusNotFound, "/v1/containments/con_x/judge", `{"verdict":"wrong","reason":"x"}`, "")

	con := judge("right")
	if con.Judged == nil || con.Judged.By != "root" || con.Judged.Given != 1 || len(con.Judged.Rules) != 1 {
		t.Fatalf("%+v", con.Judged)
	}
	rule(0, 1, staunch.ModeEnforce)
	if n.told("trust.demoted") {
		t.Error("a demotion was told")
	}
	con = judge("wrong")
	if h := rule(1, 0, staunch.ModeRecommend); con.Judged.Given != 2 || len(h.History) != 3 || !n.told("trust.demoted") {
		t.Errorf("%+v, %+v", con.Judged, h.History)
	}
	n.post(event("3", "eve", "dump"))
	if len(n.cases()) != 2 {
		t.Error("a rule that was judged wrong contained")
	}
	again := judge("wrong")
	if again.Judged.Given != 2 || again.Judged.At != con.Judged.At || again.Generation != con.Generation {
		t.Errorf("the same again: %+v", again.Judged)
	}
	rule(1, 0, staunch.ModeRecommend)

	// It says nothing of the other case, whose verdict comes with its release.
	answer[api.Changed](n, http.MethodPost, "/v1/containments/"+other+"/release", `{"reason":"keys replaced","rotated":true,"verdict":"right"}`)
	rule(1, 1, staunch.ModeRecommend)
	if n.told("trust.corrected") {
		t.Error("a correction was told before there was one in the rule's favour")
	}
	judge("right")
	rule(0, 2, staunch.ModeRecommend)
	// Who was told that it was wrong is told that it was not, and where the rule stands.
	if !n.told("trust.corrected") {
		t.Error("nobody was told of the correction")
	}

	c := answer[api.Case](n, http.MethodGet, path, "")
	var told []string
	for _, m := range c.Timeline {
		if strings.HasPrefix(m.Text, "judged") {
			told = append(told, m.Text)
		}
	}
	if len(told) != 3 || c.Containment.Judged.Verdict != staunch.JudgedRight || c.Containment.Release.Verdict != "" || !strings.Contains(told[2], "judged right: looked at it again, which corrects") {
		t.Errorf("%q, %+v", told, c.Containment.Judged)
	}
}
