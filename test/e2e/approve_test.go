//go:build systems

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/test/binary"
)

// program is a node whose server is the real binary, and whose users use it, too.
type program struct {
	*node
	bin string
}

// newProgram builds the binary and has it serve until the test is over.
func newProgram(tb testing.TB, files map[string]string) *program {
	tb.Helper()
	bin, err := binary.Build(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	n, l := initNode(tb, files)
	if err := l.Close(); err != nil { // it listens there itself
		tb.Fatal(err)
	}
	if n.api, err = client.New(client.Options{URL: "http://" + n.addr, Token: n.admin}); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), bin, "serve", "--config", n.path)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		n.api.Close()
		err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
		if err != nil || tb.Failed() {
			tb.Errorf("the server: %v, its log:\n%s", err, n.log)
		}
	})
	eventually(tb, "the server answers", func() bool {
		_, err := n.api.Containments(tb.Context(), true, client.Page{})
		return err == nil
	})
	return &program{node: n, bin: bin}
}

// person makes a token and returns what has its owner use the binary.
func (p *program) person(name, role string) func(args ...string) (string, error) {
	p.tb.Helper()
	made, err := p.api.CreateToken(p.tb.Context(), api.TokenRequest{Name: name, Role: role})
	if err != nil {
		p.tb.Fatal(err)
	}
	return p.as(made.Secret)
}

// as returns what has somebody with that token use the binary; an error is what it
// says on stderr.
func (p *program) as(secret string) func(args ...string) (string, error) {
	return func(args ...string) (string, error) {
		p.tb.Helper()
		cmd := exec.CommandContext(p.tb.Context(), p.bin, args...)
		cmd.Env = append(os.Environ(), "STAUNCH_URL=http://"+p.addr, "STAUNCH_TOKEN="+secret)
		var out, bad bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &bad
		if cmd.Run() != nil {
			return out.String(), errors.New(bad.String())
		}
		return out.String(), nil
	}
}

// drawn waits until the case waits for people at revoke, with its plan.
func (p *program) drawn(id string) api.Case {
	p.tb.Helper()
	var c api.Case
	eventually(p.tb, "the plan to approve is drawn", func() bool {
		if id == "" {
			all := p.cases()
			if len(all) == 0 {
				return false
			}
			id = all[0].ID
		}
		var err error
		if c, err = p.api.Containment(p.tb.Context(), id); err != nil {
			p.tb.Fatal(err)
		}
		con := c.Containment
		return con.Phase == staunch.PhaseApproval && con.Tier == staunch.TierRevoke && con.Asked != nil
	})
	return c
}

// changes counts the calls by which staunch's token changed something, or tried to,
// by the audit device.
func (s *safe) changes() int {
	s.tb.Helper()
	n := 0
	for _, line := range s.Audit(s.tb) {
		var e struct {
			Type string `json:"type"`
			Auth struct {
				Policies []string `json:"policies"`
			} `json:"auth"`
			Request struct {
				Operation string `json:"operation"`
				Path      string `json:"path"`
			} `json:"request"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			s.tb.Fatal(err)
		}
		changes := slices.ContainsFunc([]string{"identity/entity/", "auth/token/revoke", "sys/leases/revoke"}, func(prefix string) bool {
			return strings.HasPrefix(e.Request.Path, prefix)
		})
		if e.Type == "request" && slices.Contains(e.Auth.Policies, "act") && changes && e.Request.Operation != "read" && e.Request.Operation != "list" {
			n++
		}
	}
	return n
}

// lives reports whether Vault knows a token by its accessor.
func (s *safe) lives(accessor string) bool {
	s.tb.Helper()
	return s.do(s.Token, http.MethodPost, "auth/token/lookup-accessor", map[string]string{"accessor": accessor}, nil) == http.StatusOK
}

// TestTwoPersonsForTheIrreversible has the real binary, with a real Vault behind it,
// wait for two people before a token is revoked, which nothing undoes: once where
// policy asks for it in production, and once where a person does.
func TestTwoPersonsForTheIrreversible(t *testing.T) {
	s := newSafe(t)
	s.Call(t, http.MethodPost, "auth/userpass/users/clerk", map[string]any{"password": "pw", "token_policies": "app"}, nil)
	stolen, clerk := s.login("billing"), s.login("clerk")
	files := s.files(stolen.Entity)
	files["identities.yaml"] = strings.ReplaceAll(files["identities.yaml"], "tolerance: normal", "tolerance: never")
	files["staunch.yaml"] += "limits: {approval_for: 1m, ask_by_hand: revoke}\n"
	p := newProgram(t, files)
	ann, bob, cid := p.person("ann", "approver"), p.person("bob", "approver"), p.person("cid", "approver")
	bobToo, rob, dora := p.person("Bob", "approver"), p.person("rob", "responder"), p.person("dora", "viewer")
	secret, _ := auth.NewToken()
	forger := p.as(secret.Reveal())

	// Two sources accuse it: policy would revoke now, were it not for its tolerance.
	if !s.reads(stolen.Token, "honey") {
		t.Fatal("the thief cannot read the honey secret")
	}
	p.post("leaks", fmt.Sprintf(`{"id":"leak-1","time":%q,"accessor_hmac":%q,"where":"a build log"}`+"\n",
		time.Now().UTC().Format(time.RFC3339Nano), s.hash(stolen.Accessor)))
	c := p.drawn("")
	id, scope, plan := c.Containment.ID, c.ScopeHash, c.Containment.Asked.Hash
	if c.Containment.Origin != staunch.OriginPolicy || c.Containment.Identity.Environment != "production" {
		t.Fatalf("not an automatic case in production: %+v", c.Containment)
	}
	shown, err := dora("show", id)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cannot be undone", "people needed: 2", plan, scope} {
		if !strings.Contains(strings.Join(strings.Fields(shown), " "), want) {
			t.Errorf("show does not say %q:\n%s", want, shown)
		}
	}

	// nothing holds that so far nothing was done.
	nothing := func(what string) {
		t.Helper()
		con, err := p.api.Containment(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.changes(); n != 0 || con.Containment.Phase != staunch.PhaseApproval || len(con.Steps) != 0 || !s.lives(stolen.Accessor) || !s.reads(stolen.Token, "ledger") {
			t.Fatalf("%s: %d calls changed something, the case is %s", what, n, con.Containment.Phase)
		}
	}
	refused := func(what string, who func(...string) (string, error), id, scope, plan, why string) {
		t.Helper()
		out, err := who("approve", id, "--scope-hash", scope, "--plan-hash", plan)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %q, %v; want an error with %q", what, out, err, why)
		}
	}
	taken := func(who func(...string) (string, error), id, scope, plan, says string) {
		t.Helper()
		out, err := who("approve", id, "--scope-hash", scope, "--plan-hash", plan)
		if err != nil || !strings.Contains(out, says) {
			t.Fatalf("approving: %q, %v; want %q", out, err, says)
		}
	}
	other := staunch.Digest([]byte("another"))
	refused("another plan", bob, id, scope, other, "the plan is not the one that was shown")
	refused("another scope", bob, id, other, plan, "the scope is not the one that was shown")
	refused("a forged token", forger, id, scope, plan, "token")
	refused("a responder", rob, id, scope, plan, "may not approve")
	refused("a viewer", dora, id, scope, plan, "may not approve")
	nothing("after what was refused")
	taken(bob, id, scope, plan, "1 of 2 people approved it")
	nothing("after one approval")
	refused("the same approval again", bob, id, scope, plan, "approved it already")
	refused("the same person with another token", bobToo, id, scope, plan, "approved it already")
	nothing("after the same person's")

	// Meanwhile ann asks for something herself.
	if _, err := ann("contain", "credential:"+vaultRealm+":accessor:"+clerk.Accessor, "--tier", "revoke", "--reason", "seen on a screen", "--yes"); err != nil {
		t.Fatal(err)
	}
	hand := p.drawn(p.cases()[0].ID)
	handID, handScope, handPlan := hand.Containment.ID, hand.ScopeHash, hand.Containment.Asked.Hash
	if hand.Containment.Requester != "ann" || handID == id {
		t.Fatalf("not ann's: %+v", hand.Containment)
	}
	refused("who asked for it", ann, handID, handScope, handPlan, "another person")
	refused("an approval of another case", bob, handID, scope, plan, "is not the one that was shown")
	taken(bob, handID, handScope, handPlan, "1 of 2 people approved it")
	nothing("after one approval of the other")
	if !s.lives(clerk.Accessor) {
		t.Fatal("one approval revoked a token")
	}
	taken(cid, handID, handScope, handPlan, handID)
	eventually(t, "the second approval revokes the clerk's token", func() bool { return !s.lives(clerk.Accessor) })
	byHand := s.changes()
	if byHand == 0 {
		t.Fatal("the audit device does not show the revocation")
	}

	// The first case's approval runs out while the second person thinks about it.
	got, err := p.api.Containment(t.Context(), id)
	if err != nil || len(got.Containment.Approvals) != 1 {
		t.Fatalf("%+v, %v", got.Containment.Approvals, err)
	}
	time.Sleep(time.Until(got.Containment.Approvals[0].Until.Std()) + 100*time.Millisecond)
	taken(ann, id, scope, plan, "1 of 2 people approved it")
	if n := s.changes(); n != byHand || !s.lives(stolen.Accessor) {
		t.Fatalf("an approval that had run out counted: %d changes, %d before", n, byHand)
	}
	taken(cid, id, scope, plan, id)
	eventually(t, "the second approval revokes the stolen token", func() bool { return !s.lives(stolen.Accessor) })
	var done api.Case
	eventually(t, "the case is held", func() bool {
		if done, err = p.api.Containment(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return done.Containment.Phase == staunch.PhaseHeld
	})
	p.proven(done)
	if done.Containment.Approver != "ann, cid" || s.changes() <= byHand {
		t.Errorf("approved by %q, %d changes", done.Containment.Approver, s.changes())
	}
	after := s.changes()
	refused("an approval of what is done", bob, id, scope, plan, "does not wait for approval")
	if s.changes() != after {
		t.Error("an approval of what is done changed something")
	}
	p.sound()
}
