package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// join makes another node on the first one's database, with its key file, and
// starts it.
func join(tb testing.TB, first *node, files map[string]string) *node {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n := &node{tb: tb, addr: l.Addr().String(), log: &lines{}, admin: first.admin, passed: first.passed}
	dir := tb.TempDir()
	n.path = filepath.Join(dir, "staunch.yaml")
	for name, text := range files {
		n.write(name, text)
	}
	key, err := os.ReadFile(filepath.Join(filepath.Dir(first.path), "data", "staunch.key"))
	if err != nil {
		tb.Fatal(err)
	}
	n.write("data/staunch.key", string(key))
	n.serve("the second node", l)
	return n
}

// write puts a file beside the node's configuration.
func (n *node) write(name, text string) {
	n.tb.Helper()
	p := filepath.Join(filepath.Dir(n.path), name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		n.tb.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(strings.ReplaceAll(text, "@LISTEN@", n.addr)), 0o600); err != nil {
		n.tb.Fatal(err)
	}
}

// get asks for a path and returns the status and the body.
func (n *node) get(path string) (int, string) {
	n.tb.Helper()
	return n.ask(http.MethodGet, path, n.admin, "")
}

func (n *node) ask(method, path string, token staunch.Secret, body string) (int, string) {
	n.tb.Helper()
	req, err := http.NewRequestWithContext(n.tb.Context(), method, "http://"+n.addr+path, strings.NewReader(body))
	if err != nil {
		n.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.tb.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// try posts one record and returns why it was not taken.
func (n *node) try(user, action string) error {
	n.tb.Helper()
	c, err := client.New(client.Options{URL: "http://" + n.addr, Token: n.token("app")})
	if err != nil {
		n.tb.Fatal(err)
	}
	defer c.Close()
	_, err = c.Ingest(n.tb.Context(), "app", strings.NewReader(act(user, action)))
	return err
}

func act(user, action string) string {
	return fmt.Sprintf(`{"id":%q,"time":%q,"user":%q,"action":%q}`+"\n", user+"/"+action, time.Now().UTC().Format(time.RFC3339Nano), user, action)
}

func rule(action string) string {
	return fmt.Sprintf("title: T %[1]s\nid: %[1]s\nlevel: high\nlogsource: {product: app}\ndetection: {s: {action: %[1]s}, condition: s}\n", action)
}

// pair starts two nodes on one PostgreSQL, with the same rules in folders of
// their own.
func pair(t *testing.T) (a, b *node) {
	t.Helper()
	return pairWith(t, "", "a", "b")
}

// pairWith is pair with more in both nodes' configurations, and with their names.
func pairWith(t *testing.T, more, nameOfA, nameOfB string) (a, b *node) {
	t.Helper()
	dsn := pgtest.NewDatabase(t)
	files := func(name string) map[string]string {
		return map[string]string{
			"staunch.yaml": "v: 1\nmode: enforce\nnode: " + name + "\nlisten: \"@LISTEN@\"\npostgres_url: \"" + dsn + "\"\nrules: [rules]\n" +
				"metrics_open: true\n" +
				"sources:\n  - {name: app, format: json, realm: json/app, ceiling: revoke}\n" +
				"guard: {subjects: [{type: user, kind: account, realm: json/app, scheme: name}]}\n" + more,
			"rules/dump.yaml": rule("dump"),
		}
	}
	a = newNode(t, files(nameOfA))
	a.post("app", act("nobody", "read"))
	return a, join(t, a, files(nameOfB))
}

func (n *node) active() string {
	n.tb.Helper()
	var hash string
	if err := n.app.Store().View(n.tb.Context(), func(r store.Reader) (err error) {
		hash, err = r.ActiveHash()
		return err
	}); err != nil {
		n.tb.Fatal(err)
	}
	return hash
}

// refuses fails the test unless the node sends records away, to be sent again.
func (n *node) refuses(user, action string) {
	n.tb.Helper()
	var answer *client.Error
	if err := n.try(user, action); !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable || answer.Code != api.CodeUnavailable {
		n.tb.Errorf("a node with another configuration answers %v", err)
	}
}

// TestNodesDecideByOneConfiguration reloads one of two nodes: the other decides
// nothing by what it had, and goes on once its files are the same.
func TestNodesDecideByOneConfiguration(t *testing.T) {
	t.Parallel() // it waits more than it works
	a, b := pair(t)
	if err := b.try("bob", "dump"); err != nil {
		t.Fatalf("with the same files in another folder the second node answers %v", err)
	}
	if cs := a.cases(); len(cs) != 1 {
		t.Fatalf("the cases are %s", summary(cs))
	}
	before := a.active()
	a.write("rules/grant.yaml", rule("grant"))
	r, err := a.api.Reload(t.Context(), false)
	if err != nil || !r.Changed || a.active() != r.Bundle {
		t.Fatalf("reloading gave %+v, %v", r, err)
	}
	b.refuses("carol", "dump") // at once: it may not have heard yet
	eventually(t, "the second node says that it is not ready", func() bool {
		status, _ := b.get("/readyz")
		return status == http.StatusServiceUnavailable
	})
	if _, metrics := b.get("/metrics"); !strings.Contains(metrics, "staunch_bundle_active 0") {
		t.Error("the metric says that the second node decides")
	}
	d, err := b.api.Doctor(t.Context())
	told := ""
	for _, c := range d.Checks {
		if c.Name == "configuration" {
			told = c.Status + ": " + c.Message
		}
	}
	if err != nil || d.Healthy || !strings.Contains(told, r.Bundle) || !strings.Contains(told, before) {
		t.Errorf("doctor says %q, %v", told, err)
	}
	b.refuses("carol", "read") // though no rule of its own matches
	if err := a.try("dave", "grant"); err != nil {
		t.Errorf("the node that reloaded answers %v", err)
	}
	_, err = b.api.Contain(t.Context(), api.ContainRequest{
		Subject: staunch.Ref{Kind: staunch.KindAccount, Realm: "json/app", Scheme: "name", Value: "erin"}, Tier: staunch.TierIsolate, Reason: "test",
	})
	var answer *client.Error
	if !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable {
		t.Errorf("a containment by hand on the second node gives %v", err)
	}
	if cs := a.cases(); len(cs) != 2 {
		t.Errorf("the cases are %s", summary(cs))
	}
	// A restart with the old files takes nothing back.
	b.stop()
	b.start()
	if b.active() != r.Bundle {
		t.Error("a node that started activated its own configuration beside another")
	}
	b.refuses("carol", "dump")
	b.write("rules/grant.yaml", rule("grant"))
	eventually(t, "the second node goes on", func() bool { return b.try("carol", "grant") == nil })
	if status, _ := b.get("/readyz"); status != http.StatusNoContent {
		t.Errorf("/readyz is %d", status)
	}
	if a.active() != r.Bundle || len(a.cases()) != 3 {
		t.Errorf("active is %s; the cases are %s", a.active(), summary(a.cases()))
	}
	a.sound()
	b.sound()
}

// TestTwoProcessesOfOneNode: the later one stays, and has what the earlier had.
func TestTwoProcessesOfOneNode(t *testing.T) {
	t.Parallel()
	first, second := pairWith(t, "", "a", "a")
	select {
	case err := <-first.app.Failed():
		var p *staunch.Problem
		if !errors.As(err, &p) || !strings.Contains(p.Reason, "node a") || p.Hint == "" {
			t.Errorf("the first process ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the first process goes on beside the second")
	}
	first.stop() // and leaves the place that is the second's now
	second.post("app", act("bob", "dump"))
	second.await(staunch.PhaseHeld, staunch.TierIsolate)
	guards := 0
	if err := second.app.Store().View(t.Context(), func(r store.Reader) error {
		all, now, err := r.Guards()
		for _, g := range all {
			if g.Live(now) {
				guards++
			}
		}
		return err
	}); err != nil || guards != 1 {
		t.Errorf("%d guards have a place, %v", guards, err)
	}
	select {
	case err := <-second.app.Failed():
		t.Errorf("the second process ends too: %v", err)
	default:
	}
	second.sound()
}

// TestGuardsOfTwoNodes holds a subject on one node: the other denies it too, and
// the hold is proven once both do.
func TestGuardsOfTwoNodes(t *testing.T) {
	t.Parallel() // it waits more than it works
	a, b := pair(t)
	made, err := a.api.CreateToken(t.Context(), api.TokenRequest{Name: "pep", Role: "pep"})
	if err != nil {
		t.Fatal(err)
	}
	pep := staunch.NewSecret(made.Secret)
	allows := func(n *node, who string) bool {
		status, body := n.ask(http.MethodPost, "/access/v1/evaluation", pep,
			`{"subject":{"type":"user","id":"`+who+`"},"action":{"name":"read"},"resource":{"type":"x","id":"y"}}`)
		if status != http.StatusOK {
			t.Fatalf("asking %s: %d %s", n.addr, status, body)
		}
		return strings.Contains(body, `"decision":true`)
	}
	if !allows(a, "bob") || !allows(b, "bob") {
		t.Fatal("bob is denied before anything was decided")
	}
	if err := a.try("bob", "dump"); err != nil {
		t.Fatal(err)
	}
	if allows(a, "bob") {
		t.Error("the committing node allows a held subject")
	}
	var c api.Case
	eventually(t, "the hold is proven", func() bool {
		if c, err = a.api.Containment(t.Context(), a.cases()[0].ID); err != nil {
			t.Fatal(err)
		}
		return len(c.Holds) > 0 && c.Holds[0].State == staunch.HoldProven
	})
	if allows(b, "bob") {
		t.Error("a hold is proven that the other node does not apply")
	}
	if text := timeline(c); !strings.Contains(text, "every live guard (a, b)") {
		t.Errorf("the timeline does not tell of it:\n%s", text)
	}
	d, err := b.api.Doctor(t.Context())
	if err != nil || !d.Healthy {
		t.Errorf("doctor: %+v, %v", d, err)
	}
	seen := 0
	for _, c := range d.Checks {
		if (c.Name == "guard a" || c.Name == "guard b") && c.Status == "ok" && strings.Contains(c.Message, "applied_seq") {
			seen++
		}
	}
	if seen != 2 {
		t.Errorf("doctor does not show both guards: %+v", d.Checks)
	}
	// A node that left is not waited for.
	b.stop()
	if err := a.try("carol", "dump"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next hold is proven by one guard", func() bool {
		for _, con := range a.cases() {
			c, err := a.api.Containment(t.Context(), con.ID)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(con.Subject.Value, "carol") && c.Holds[0].State == staunch.HoldProven {
				return strings.Contains(timeline(c), "every live guard (a)")
			}
		}
		return false
	})
}
