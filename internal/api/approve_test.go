package api

import (
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// TestTwoApprovers: what cannot be undone takes two people, by whose tokens the
// realms of the plan may be touched; the case shows who approved what.
func TestTwoApprovers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, tk := range []store.Token{
		{Name: "carol", Role: "approver"}, {Name: "Carol", Role: "admin"}, {Name: "dave", Role: "approver"},
		{Name: "pg-only", Role: "approver", Realms: []string{"pg/main"}},
	} {
		r.token(tk)
	}
	var o Opened
	r.want(r.do("responder", "POST", "/v1/containments", ContainRequest{Subject: appRW, Tier: staunch.TierRevoke, Reason: "ask", Playbook: "ask"}), 201).into(&o)
	id := o.Containment.ID
	path := "/v1/containments/" + id
	// As the engine would draw it, with connectors: it reaches another realm.
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		c, err := tx.Containment(id)
		if err != nil {
			return err
		}
		c.Asked = staunch.Ask(id, []staunch.AskedStep{{
			Connector: "vault", Target: staunch.Target{Ref: billing, Attribute: "token"}, Verb: staunch.VerbRevoke, Tier: staunch.TierRevoke,
			Call: "POST /revoke", Undo: "irreversible", Reversibility: staunch.Irreversible,
		}}, nil, 2, c.Opened)
		return tx.PutContainment(c)
	}))
	var c Case
	r.want(r.do("viewer", "GET", path, nil), 200).into(&c)
	if c.Containment.Asked == nil || c.Containment.Asked.Persons != 2 {
		t.Fatalf("%+v", c.Containment.Asked)
	}
	body := ApproveRequest{ScopeHash: c.ScopeHash, PlanHash: c.Containment.Asked.Hash}
	r.want(r.do("pg-only", "POST", path+"/approve", body), 403).problem()
	r.want(r.do("responder", "POST", path+"/approve", body), 403).problem()
	var ch Changed
	r.want(r.do("carol", "POST", path+"/approve", body), 200).into(&ch)
	if ch.Containment.Phase != staunch.PhaseApproval || len(ch.Containment.Approvals) != 1 || ch.Containment.Approver != "" {
		t.Fatalf("after one: %+v", ch.Containment)
	}
	for _, again := range []string{"carol", "Carol"} {
		if p := r.want(r.do(again, "POST", path+"/approve", body), 409).problem(); !strings.Contains(p.Message, "approved it already") {
			t.Errorf("%s again: %+v", again, p)
		}
	}
	r.want(r.do("dave", "POST", path+"/approve", body), 200).into(&ch)
	if ch.Containment.Phase != staunch.PhaseOpen || ch.Containment.Approver != "carol, dave" {
		t.Fatalf("after two: %+v", ch.Containment)
	}
	r.want(r.do("dave", "POST", path+"/approve", body), 409).problem()
	r.want(r.do("viewer", "GET", path, nil), 200).into(&c)
	var told []string
	for _, m := range c.Timeline {
		if strings.HasPrefix(m.Text, "approved, ") {
			told = append(told, m.Actor+": "+m.Text)
		}
	}
	if len(told) != 2 || !strings.HasPrefix(told[0], "carol: approved, 1 of 2, scope "+c.ScopeHash+", plan "+body.PlanHash) || !strings.HasPrefix(told[1], "dave: approved, 2 of 2") {
		t.Errorf("the timeline tells %q", told)
	}
}

func TestReportHealth(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var kept GroupHealthKept
	r.want(r.do("responder", "POST", "/v1/groups/health", GroupHealth{Environment: "prod", Purpose: "web", Healthy: 9, Of: 10}), 200).into(&kept)
	if kept.Healthy != 9 || kept.Of != 10 || kept.At == 0 || kept.Contained != 1 {
		t.Errorf("%+v", kept)
	}
	if recs := r.records(staunch.RecordHealth); len(recs) != 1 || recs[0].Actor != "responder" || recs[0].About != "prod/web" {
		t.Errorf("records %+v", recs)
	}
	r.want(r.do("viewer", "POST", "/v1/groups/health", GroupHealth{Purpose: "web", Healthy: 1, Of: 1}), 403).problem()
	for _, bad := range []string{`{}`, `{"purpose":"web","healthy":-1,"of":1}`, `{"purpose":"web","healthy":2,"of":1}`, `{"purpose":"","healthy":1,"of":1}`, `{"purpose":"web","healthy":1,"of":1,"x":1}`} {
		r.want(r.do("admin", "POST", "/v1/groups/health", bad), 400).problem()
	}
}
