package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func TestPlanFiles(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.token(store.Token{Name: "pg", Role: "responder", Realms: []string{"pg/main"}})
	r.token(store.Token{Name: "Approver", Role: "approver"})
	req := PlanFileRequest{ContainRequest: ContainRequest{Subject: appRW, Tier: staunch.TierIsolate, Reason: "plan"}, Approval: true}
	var f staunch.PlanFile
	r.want(r.do("responder", "POST", "/v1/plan/file", req), 200).into(&f)
	if f.MadeBy != "responder" || !f.Approval || f.Until.Sub(f.Made) != time.Hour {
		t.Errorf("%+v", f)
	}
	r.want(r.do("pg", "POST", "/v1/plan/file", req), 200)
	wide := req
	wide.Playbook = "wide"
	r.want(r.do("pg", "POST", "/v1/plan/file", wide), 403).problem()
	bad := req
	bad.ValidFor = staunch.Duration(8 * 24 * time.Hour)
	if p := r.want(r.do("responder", "POST", "/v1/plan/file", bad), 400).problem(); p.Place != "valid_for" {
		t.Errorf("%+v", p)
	}

	apply := func(who string, f staunch.PlanFile, status int) answer {
		t.Helper()
		return r.want(r.do(who, "POST", pathApply, ApplyRequest{Plan: f, Reason: " INC-42 "}), status)
	}
	var o Opened
	apply("admin", f, 201).into(&o)
	if o.V != 1 || o.Containment.Reasons[0] != "INC-42" {
		t.Errorf("%+v", o)
	}
	again := f
	again.Hash = "sha256:again"
	apply("admin", again, 200)
	// Who asked for it, and who may not approve.
	own := f
	own.MadeBy = " approver"
	for _, who := range []string{"approver", "Approver"} {
		if p := apply(who, own, 403).problem(); !strings.Contains(p.Message, "another person") {
			t.Errorf("%s: %+v", who, p)
		}
	}
	if p := apply("responder", f, 403).problem(); !strings.Contains(p.Message, "may not approve") {
		t.Errorf("%+v", p)
	}
	f.Approval = false
	apply("responder", f, 201)
	apply("pg", f, 201)
	for what, change := range map[string]func(*staunch.PlanFile){
		"subject": func(f *staunch.PlanFile) { f.Subject = billing },
		"target":  func(f *staunch.PlanFile) { f.Targets[0].Target.Ref = billing },
		"guard":   func(f *staunch.PlanFile) { f.Guard = []staunch.Ref{billing} },
	} {
		b, err := json.Marshal(f)
		must(t, err)
		var out staunch.PlanFile
		must(t, json.Unmarshal(b, &out))
		change(&out)
		if p := apply("pg", out, 403).problem(); !strings.Contains(p.Message, "vault/main") {
			t.Errorf("another realm's %s: %+v", what, p)
		}
	}
	r.want(r.do("responder", "POST", pathApply, ApplyRequest{Plan: f, Reason: " "}), 400).problem()

	// A plan may be longer than other bodies, and not without a bound.
	long := f
	long.Targets = nil
	for range 400 {
		long.Targets = append(long.Targets, f.Targets[0])
		long.Targets[0].Call = strings.Repeat("x", 500)
	}
	apply("responder", long, 201)
	long.Targets[0].Call = strings.Repeat("x", MaxLongBody)
	if p := apply("responder", long, 413).problem(); p.Code != CodeTooLarge {
		t.Errorf("%+v", p)
	}
}
