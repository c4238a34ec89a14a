package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/store"
)

// TestOpenConnectorBreaker is the night on which too many were asked for on one
// realm: what is automatic and can wait is stopped; what revokes goes on, unless by a
// source that asked for too many itself; and so does everything that people do.
func TestOpenConnectorBreaker(t *testing.T) {
	n := newNodeWith(t, map[string]string{
		"staunch.yaml":     nodeConfig + "limits: {ask_by_hand: revoke, approvers: 1}\n",
		"rules/theft.yaml": "title: Theft\nid: theft\nlevel: critical\nlogsource: {product: app}\ndetection: {s: {action: steal}, condition: s}\n",
	})
	n.post(event("1", "bob", "dump"))
	before := n.cases()
	if len(before) != 1 {
		t.Fatalf("%d cases", len(before))
	}
	open := func(scope string) {
		t.Helper()
		if err := n.app.Store().Update(t.Context(), func(tx store.Tx) error {
			return tx.PutBreaker(store.Breaker{Scope: scope, Open: true, Reason: "too many at once"})
		}); err != nil {
			t.Fatal(err)
		}
	}
	open("connector/json/app")
	on := func(user string) (found []staunch.Containment) {
		for _, c := range n.cases() {
			if c.Subject.Value == user {
				found = append(found, c)
			}
		}
		return found
	}
	newest := func() staunch.Decision {
		t.Helper()
		return answer[api.Decisions](n, http.MethodGet, "/v1/decisions?limit=1", "").Items[0]
	}

	n.post(event("2", "carol", "dump"))
	if d := newest(); d.Verdict != staunch.VerdictBreaker || len(on("carol")) != 0 {
		t.Errorf("what can wait: %s %q", d.Verdict, d.Reasons)
	}
	n.post(event("3", "mallory", "steal"))
	cs := on("mallory")
	if d := newest(); len(cs) != 1 || cs[0].Tier != staunch.TierRevoke || !strings.Contains(strings.Join(d.Reasons, "; "), "does not stop what revokes") {
		t.Errorf("what revokes: %+v, %s %q", cs, d.Verdict, d.Reasons)
	}

	// People: by hand, with an approval, an extension, a release.
	hand := answer[api.Opened](n, http.MethodPost, "/v1/containments", `{"subject":"account:json/app:name:dave","tier":"isolate","reason":"seen it"}`)
	if hand.Containment.Phase.Idle() {
		t.Errorf("by hand: %+v", hand.Containment)
	}
	asked := answer[api.Opened](n, http.MethodPost, "/v1/containments", `{"subject":"account:json/app:name:erin","tier":"revoke","reason":"seen it"}`).Containment
	if asked.Phase != staunch.PhaseApproval {
		t.Fatalf("by hand at revoke: %+v", asked)
	}
	for deadline := time.Now().Add(20 * time.Second); asked.Asked == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the plan to approve is not drawn")
		}
		asked = on("erin")[0]
	}
	body := fmt.Sprintf(`{"scope_hash":%q,"plan_hash":%q}`, asked.Scope.Hash(), asked.Asked.Hash)
	if status, b := n.call(http.MethodPost, "/v1/containments/"+asked.ID+"/approve", n.token(store.Token{Name: "ann", Role: "approver"}), body); status != http.StatusOK {
		t.Errorf("approving: status %d: %s", status, b)
	}
	if cs := on("erin"); len(cs) != 1 || cs[0].Phase.Idle() {
		t.Errorf("approved: %+v", cs)
	}
	answer[api.Changed](n, http.MethodPost, "/v1/containments/"+before[0].ID+"/release", `{"reason":"a false alarm","rotated":true}`)

	// The source itself asked for too many: nothing of it is believed.
	open("source/events")
	n.post(event("4", "frank", "steal"))
	if d := newest(); d.Verdict != staunch.VerdictBreaker || len(on("frank")) != 0 {
		t.Errorf("by a source whose breaker is open: %s %q", d.Verdict, d.Reasons)
	}
}
