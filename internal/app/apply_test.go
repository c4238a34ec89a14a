package app_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/store"
)

func (n *node) token(tk store.Token) staunch.Secret {
	n.t.Helper()
	secret, _, err := app.MakeToken(n.t.Context(), n.app.Store(), tk, "test")
	if err != nil {
		n.t.Fatal(err)
	}
	return secret
}

// draw asks for a plan file and returns it as it came.
func (n *node) draw(subject, more string) string {
	n.t.Helper()
	status, b := n.call(http.MethodPost, "/v1/plan/file", n.admin, `{"subject":"`+subject+`","tier":"isolate","reason":"plan"`+more+`}`)
	if status != http.StatusOK {
		n.t.Fatalf("drawing a plan of %s: %d %s", subject, status, b)
	}
	return strings.TrimSpace(string(b))
}

func (n *node) apply(plan string, token staunch.Secret) (int, string) {
	n.t.Helper()
	status, b := n.call(http.MethodPost, "/v1/plan/apply", token, `{"plan":`+plan+`,"reason":"INC-42"}`)
	return status, string(b)
}

func TestApply(t *testing.T) {
	platform := connectortest.NewFakePlatform(staunch.SystemClock{})
	platform.AddAccount("mallory")
	platform.AddAccount("bob")
	n := newNodeOn(t, platform, map[string]string{"staunch.yaml": nodeConfig})
	const mallory = "account:json/app:name:mallory"
	approver := n.token(store.Token{Name: "bea", Role: "approver"})
	responder := n.token(store.Token{Name: "rob", Role: "responder"})
	elsewhere := n.token(store.Token{Name: "els", Role: "responder", Realms: []string{"json/other"}})
	viewer := n.token(store.Token{Name: "vic", Role: "viewer"})

	plan := n.draw(mallory, "")
	var f staunch.PlanFile
	if err := json.Unmarshal([]byte(plan), &f); err != nil {
		t.Fatal(err)
	}
	if f.MadeBy != "root" || len(f.Targets) != 2 || f.Until.Sub(f.Made) != time.Hour || f.Bundle == "" {
		t.Fatalf("the plan is %s", plan)
	}
	other := newNodeOn(t, platform, map[string]string{"staunch.yaml": nodeConfig})
	asked := n.draw(mallory, `,"approval":true`)
	over := n.draw(mallory, `,"valid_for":"1us"`)
	refused := func(what, plan string, token staunch.Secret, want int, says string) {
		t.Helper()
		if status, b := n.apply(plan, token); status != want || !strings.Contains(b, says) {
			t.Errorf("%s: %d %s, want %d and %q", what, status, b, want, says)
		}
		if cs := n.cases(); len(cs) != 0 {
			t.Fatalf("%s: cases are %+v", what, cs)
		}
		if l := platform.Ledger(); len(l) != 0 {
			t.Fatalf("%s: the platform was called: %v", what, l)
		}
	}
	refused("edited", strings.ReplaceAll(plan, "name:mallory", "name:bob"), n.admin, 400, "was edited")
	refused("with something added", strings.Replace(plan, "{", `{"more":1,`, 1), n.admin, 400, "more")
	refused("with something twice", strings.Replace(plan, "{", `{"v":1,`, 1), n.admin, 400, "body")
	// People who read the file would see one list, and the server the other.
	refused("with targets twice", strings.Replace(plan, "{", `{"Targets":[],`, 1), n.admin, 400, "Targets")
	refused("not a plan", `{}`, n.admin, 400, "plan")
	refused("another server's", other.draw(mallory, ""), n.admin, 400, "another server")
	refused("run out", over, n.admin, 409, "was valid until")
	refused("out of the token's scope", plan, elsewhere, 403, "json/app is outside")
	refused("by a viewer", plan, viewer, 403, "may not contain")
	refused("approved by who asked", asked, n.admin, 403, "another person")
	refused("approved by who may not", asked, responder, 403, "may not approve")
	platform.SetState("mallory", "archived")
	refused("changed since", plan, n.admin, 409, "#enabled: it was")
	platform.AddAccount("mallory")

	// Nothing to do is not a plan.
	if status, b := n.call(http.MethodPost, "/v1/plan/file", n.admin, `{"subject":"account:json/app:name:nobody","tier":"isolate","reason":"plan"}`); status != 400 || !bytes.Contains(b, []byte("no target")) {
		t.Errorf("a plan of nobody gave %d %s", status, b)
	}
	if status, b := n.call(http.MethodPost, "/v1/plan/file", elsewhere, `{"subject":"`+mallory+`","tier":"isolate","reason":"plan"}`); status != 403 {
		t.Errorf("a plan out of scope gave %d %s", status, b)
	}
	for _, d := range []string{"-1h", "169h"} {
		if status, b := n.call(http.MethodPost, "/v1/plan/file", n.admin, `{"subject":"`+mallory+`","tier":"isolate","reason":"plan","valid_for":"`+d+`"}`); status != 400 {
			t.Errorf("a plan for %s gave %d %s", d, status, b)
		}
	}

	var o api.Opened
	status, b := n.apply(asked, approver)
	if err := json.Unmarshal([]byte(b), &o); status != 201 || err != nil || !o.Created {
		t.Fatalf("applying gave %d %s", status, b)
	}
	id := o.Containment.ID
	if c := o.Containment; c.Requester != "root" || c.Approver != "bea" || c.PlanFile == "" || !slices.Contains(c.Reasons, "bea: INC-42") {
		t.Errorf("the case is %+v", c)
	}
	await := func(want staunch.Phase) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for n.cases()[0].Phase != want {
			if time.Now().After(deadline) {
				t.Fatalf("the case does not come to %s: %+v", want, n.cases())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	await(staunch.PhaseHeld)
	if got := platform.Dump("mallory"); !strings.HasPrefix(got, "disabled") {
		t.Errorf("the account is %q", got)
	}
	// The same again is the same case, for whoever may; another on the subject is none.
	if status, b = n.apply(asked, approver); status != 200 || !strings.Contains(b, id) {
		t.Errorf("once more it gave %d %s", status, b)
	}
	if status, b = n.apply(plan, n.admin); status != 409 || !strings.Contains(b, "it was") && !strings.Contains(b, "is open") {
		t.Errorf("another plan gave %d %s", status, b)
	}
	if status, rb := n.call(http.MethodPost, "/v1/containments/"+id+"/release", n.admin, `{"reason":"a drill","revive":true}`); status != 200 {
		t.Fatalf("releasing gave %d %s", status, rb)
	}
	await(staunch.PhaseReleased)
	if status, b = n.apply(asked, approver); status != 409 || !strings.Contains(b, "applied already") {
		t.Errorf("after the release it gave %d %s", status, b)
	}

	// Another configuration is another reason to look again.
	bob := n.draw("account:json/app:name:bob", "")
	write(t, n.dir, "rules/grant.yaml", "title: Grant\nid: grant\nlevel: high\nlogsource: {product: app}\ndetection: {s: {action: grant}, condition: s}\n")
	if _, err := n.app.Reload(t.Context(), "test", false); err != nil {
		t.Fatal(err)
	}
	if status, b = n.apply(bob, n.admin); status != 409 || !strings.Contains(b, "made under the configuration") {
		t.Errorf("under another configuration it gave %d %s", status, b)
	}
	if got := platform.Dump("bob"); !strings.HasPrefix(got, "enabled") {
		t.Errorf("bob is %q", got)
	}
}

// A token for some realms opens no case that takes something of another realm with
// it, and does where the scope leaves that alone.
func TestContainReachesNoOtherRealm(t *testing.T) {
	n := newNode(t)
	token := n.token(store.Token{Name: "app", Role: "responder", Realms: []string{"json/app"}})
	account := func(realm, name string) staunch.Ref {
		return staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: "name", Value: name}
	}
	now := staunch.TimeOf(time.Now())
	err := n.app.Store().Update(t.Context(), func(tx store.Tx) error {
		for _, f := range []staunch.Fact{
			{Subject: account("json/app", "near"), By: account("json/app", "bob")},
			{Subject: account("json/other", "far"), By: account("json/app", "eve")},
		} {
			f.V, f.Type, f.Time, f.Learned, f.Source = staunch.Version, staunch.FactCredentialIssued, now, now, "events"
			f.ID = staunch.FactID(f)
			if _, err := tx.PutFact(f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	contain := func(name string, token staunch.Secret) (int, string) {
		status, b := n.call(http.MethodPost, "/v1/containments", token, `{"subject":"`+account("json/app", name).String()+`","tier":"isolate","reason":"x"}`)
		return status, string(b)
	}
	if status, b := contain("eve", token); status != 403 || !strings.Contains(b, "json/other") {
		t.Errorf("beyond the token's realms: %d %s", status, b)
	}
	if cs := n.cases(); len(cs) != 0 {
		t.Errorf("cases are %+v", cs)
	}
	if status, b := contain("bob", token); status != 201 {
		t.Errorf("within the token's realms: %d %s", status, b)
	}
	if status, b := contain("eve", n.admin); status != 201 {
		t.Errorf("by who may: %d %s", status, b)
	}
}
