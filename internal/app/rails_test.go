package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// TestAskByHand: what people ask for by hand waits for others, where the limits say
// so, and a plan file is then a request as well.
func TestAskByHand(t *testing.T) {
	n := newNode(t)
	write(t, n.dir, "staunch.yaml", nodeConfig+"limits: {ask_by_hand: revoke}\n")
	if _, err := n.app.Reload(t.Context(), "test", false); err != nil {
		t.Fatal(err)
	}
	contain := func(subject, tier string) staunch.Containment {
		t.Helper()
		body := fmt.Sprintf(`{"subject":"account:json/app:name:%s","tier":%q,"reason":"INC-1","key":"k"}`, subject, tier)
		if status, b := n.call(http.MethodPost, "/v1/containments", n.admin, body); status != http.StatusCreated {
			t.Fatalf("containing: status %d: %s", status, b)
		}
		for _, c := range n.cases() {
			if c.Subject.Value == subject {
				return c
			}
		}
		t.Fatal("there is no case")
		return staunch.Containment{}
	}
	if c := contain("low", "isolate"); c.Phase == staunch.PhaseApproval {
		t.Errorf("a containment below the tier waits: %+v", c)
	}
	c := contain("high", "revoke")
	if c.Phase != staunch.PhaseApproval || len(c.Caps) != 0 || c.Requester != "root" {
		t.Fatalf("%+v", c)
	}
	for deadline := time.Now().Add(20 * time.Second); c.Asked == nil; c = caseOf(n, c.ID) {
		if time.Now().After(deadline) {
			t.Fatal("the plan to approve is not drawn")
		}
		time.Sleep(5 * time.Millisecond)
	}
	body := fmt.Sprintf(`{"scope_hash":%q,"plan_hash":%q}`, c.Scope.Hash(), c.Asked.Hash)
	if status, b := n.call(http.MethodPost, "/v1/containments/"+c.ID+"/approve", n.admin, body); status != http.StatusForbidden {
		t.Errorf("who asked for it approved it: status %d: %s", status, b)
	}
	bea := n.token(store.Token{Name: "bea", Role: "approver"})
	if status, b := n.call(http.MethodPost, "/v1/containments/"+c.ID+"/approve", bea, body); status != http.StatusOK {
		t.Errorf("approving: status %d: %s", status, b)
	}
	if c := caseOf(n, c.ID); c.Phase == staunch.PhaseApproval || c.Approver != "bea" || len(c.Caps) == 0 {
		t.Errorf("approved: %+v", c)
	}
}

func caseOf(n *node, id string) staunch.Containment {
	for _, c := range n.cases() {
		if c.ID == id {
			return c
		}
	}
	return staunch.Containment{}
}

// TestReportedHealthKeepsAGroup: what a monitor says of a group keeps people, too,
// from containing more of it than it can do without.
func TestReportedHealthKeepsAGroup(t *testing.T) {
	n := newNode(t)
	var ids strings.Builder
	for i := range 4 {
		fmt.Fprintf(&ids, "  - {name: w%d, kind: service, purpose: web, environment: prod, accounts: [\"account:json/app:name:w%d\"]}\n", i, i)
	}
	write(t, n.dir, "identities.yaml", "v: 1\nidentities:\n"+ids.String())
	if _, err := n.app.Reload(t.Context(), "test", false); err != nil {
		t.Fatal(err)
	}
	report := func(healthy int) {
		t.Helper()
		body := fmt.Sprintf(`{"environment":"prod","purpose":"web","healthy":%d,"of":4}`, healthy)
		if status, b := n.call(http.MethodPost, "/v1/groups/health", n.admin, body); status != http.StatusOK {
			t.Fatalf("reporting: status %d: %s", status, b)
		}
	}
	contain := func() (int, string) {
		t.Helper()
		status, b := n.call(http.MethodPost, "/v1/containments", n.admin, `{"subject":"account:json/app:name:w0","tier":"isolate","reason":"INC-1","key":"k"}`)
		return status, string(b)
	}
	report(2)
	if status, b := contain(); status != http.StatusConflict || !strings.Contains(b, "2 have to be") || len(n.cases()) != 0 {
		t.Errorf("two of four are healthy and two have to be: status %d: %s", status, b)
	}
	report(3)
	if status, b := contain(); status != http.StatusCreated {
		t.Errorf("three are healthy: status %d: %s", status, b)
	}
}
