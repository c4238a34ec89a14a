package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/store"
)

// node is an app with a source and its token.
type node struct {
	t      *testing.T
	app    *app.App
	dir    string
	url    string
	admin  staunch.Secret
	source staunch.Secret
	// platform, when given, is behind realm json/app.
	platform *connectortest.FakePlatform
	wrap     func(connector.Connector) connector.Connector // nil leaves the platform's as it is
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const nodeConfig = `v: 1
mode: enforce
rules: [rules]
identities: identities.yaml
sources:
  - {name: events, format: json, realm: json/app, ceiling: revoke}
  - {name: other, format: json, realm: json/other}
`

func newNode(t *testing.T) *node {
	t.Helper()
	return newNodeWith(t, map[string]string{"staunch.yaml": nodeConfig})
}

// newNodeWith has further files in its folder.
func newNodeWith(t *testing.T, files map[string]string) *node {
	t.Helper()
	return newNodeOn(t, nil, files)
}

// newNodeOn has a platform behind realm json/app.
func newNodeOn(t *testing.T, p *connectortest.FakePlatform, files map[string]string) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), platform: p}
	for name, text := range files {
		write(t, n.dir, name, text)
	}
	write(t, n.dir, "identities.yaml", "v: 1\nidentities:\n  - {name: mallory, kind: human, tolerance: normal, accounts: [\"account:json/app:name:mallory\"]}\n")
	write(t, n.dir, "rules/dump.yaml", "title: Dump\nid: dump\nlevel: high\nlogsource: {product: app}\ndetection: {s: {action: dump}, condition: s}\n")
	cfg, err := config.Load(filepath.Join(n.dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if n.admin, err = app.Init(t.Context(), cfg, "root"); err != nil {
		t.Fatal(err)
	}
	n.start()
	if n.source, _, err = app.MakeToken(t.Context(), n.app.Store(), store.Token{Name: "shipper", Role: "source", Source: "events"}, "test"); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) start() {
	n.t.Helper()
	cfg, err := config.Load(filepath.Join(n.dir, "staunch.yaml"))
	if err != nil {
		n.t.Fatal(err)
	}
	setup, err := app.Load(cfg, false)
	if err != nil {
		n.t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	if n.app, err = app.New(n.t.Context(), setup, app.Options{Listener: l}); err != nil {
		n.t.Fatal(err)
	}
	if n.platform != nil {
		var c connector.Connector = connectortest.NewFake(n.platform, "json/app")
		if n.wrap != nil {
			c = n.wrap(c)
		}
		n.app.Connect("json/app", c)
	}
	if err := n.app.Start(context.Background()); err != nil {
		n.t.Fatal(err)
	}
	n.url = "http://" + l.Addr().String()
	a := n.app
	n.t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			n.t.Error(err)
		}
	})
}

// call sends a request and returns the status and body.
func (n *node) call(method, path string, token staunch.Secret, body string) (int, []byte) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, b
}

func (n *node) post(records string) (int, []byte) {
	n.t.Helper()
	return n.call(http.MethodPost, "/v1/ingest/events", n.source, records)
}

func event(id, user, action string) string {
	return fmt.Sprintf(`{"id":%q,"time":%q,"user":%q,"action":%q}`+"\n", id, time.Now().UTC().Format(time.RFC3339Nano), user, action)
}

func (n *node) cases() []staunch.Containment {
	n.t.Helper()
	status, b := n.call(http.MethodGet, "/v1/containments", n.admin, "")
	var out struct {
		Items []staunch.Containment `json:"items"`
	}
	if err := json.Unmarshal(b, &out); status != http.StatusOK || err != nil {
		n.t.Fatalf("status %d, %v: %s", status, err, b)
	}
	return out.Items
}

func TestRecordsToContainment(t *testing.T) {
	n := newNode(t)
	line := event("1", "mallory", "dump")
	// A batch with bad records: the good ones are kept, the bad ones named.
	status, b := n.post(line + "{\"id\":\"x\",\"id\":\"y\"}\n\xff\xfe\n" + event("2", "alice", "read"))
	if status != http.StatusOK || !bytes.Contains(b, []byte(`"accepted":2`)) || !bytes.Contains(b, []byte(`"record":2`)) || !bytes.Contains(b, []byte(`"record":3`)) {
		t.Fatalf("status %d: %s", status, b)
	}
	if cs := n.cases(); len(cs) != 1 || cs[0].Tier != staunch.TierIsolate || cs[0].Identity.Name != "mallory" {
		t.Fatalf("cases are %+v", cs)
	}
	// Redelivery changes nothing, after a restart too.
	for range 2 {
		status, b = n.post(line)
		if status != http.StatusOK || !bytes.Contains(b, []byte(`"duplicates":1`)) || !bytes.Contains(b, []byte(`"signals":0`)) {
			t.Fatalf("redelivery: status %d: %s", status, b)
		}
		if err := n.app.Stop(); err != nil {
			t.Fatal(err)
		}
		n.start()
	}
	if cs := n.cases(); len(cs) != 1 || len(cs[0].Decisions) != 1 {
		t.Errorf("after redelivery the cases are %+v", cs)
	}
}

func TestAnothersSourceAndToken(t *testing.T) {
	n := newNode(t)
	for name, tc := range map[string]struct {
		path  string
		token staunch.Secret
		want  int
	}{
		"another source":    {"/v1/ingest/other", n.source, http.StatusForbidden},
		"no such source":    {"/v1/ingest/nobody", n.source, http.StatusForbidden},
		"an admin's token":  {"/v1/ingest/events", n.admin, http.StatusForbidden},
		"no token":          {"/v1/ingest/events", staunch.Secret{}, http.StatusUnauthorized},
		"somebody's token":  {"/v1/ingest/events", staunch.NewSecret("stn_" + strings.Repeat("a", 49)), http.StatusUnauthorized},
		"reading with it":   {"/v1/containments", n.source, http.StatusForbidden},
		"asking the guard":  {"/access/v1/evaluation", n.source, http.StatusForbidden},
		"reading the chain": {"/v1/records/export", n.source, http.StatusForbidden},
	} {
		method := http.MethodPost
		if strings.HasPrefix(tc.path, "/v1/containments") || strings.HasPrefix(tc.path, "/v1/records") {
			method = http.MethodGet
		}
		body := event("1", "mallory", "dump")
		if method == http.MethodGet {
			body = ""
		}
		if status, b := n.call(method, tc.path, tc.token, body); status != tc.want {
			t.Errorf("%s: status %d, want %d: %s", name, status, tc.want, b)
		}
	}
	if cs := n.cases(); len(cs) != 0 {
		t.Errorf("refused input opened %+v", cs)
	}
}

// TestDoctorFindsWhatIsWrong breaks one thing after the other and has doctor
// name it.
func TestDoctorFindsWhatIsWrong(t *testing.T) {
	n := newNode(t)
	diagnose := func() api.Diagnosis {
		t.Helper()
		status, b := n.call(http.MethodGet, "/v1/doctor", n.admin, "")
		var d api.Diagnosis
		if err := json.Unmarshal(b, &d); err != nil || status != http.StatusOK {
			t.Fatalf("doctor answered %d %s (%v)", status, b, err)
		}
		return d
	}
	if d := diagnose(); !d.Healthy {
		t.Fatalf("a sound node is ill: %+v", d)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	n = newNodeWith(t, map[string]string{
		"rules/bad.yaml": "title: Bad\nid: bad\nlogsource: {product: app}\ndetection: {s: {'a|nosuch': b}, condition: s}\n",
		"extra.yaml":     "v: 1\npolicies:\n  - {id: extra, mode: shadow, when: suspicion.confidence >= 0.9, then: {tier: isolate, playbook: isolate, staged: staged, notify: [nobody]}}\n",
		"staunch.yaml": strings.Replace(nodeConfig, "mode: enforce", "mode: shadow", 1) + `
  - {name: folder, format: json, realm: json/app, tail: {path: rules/dump.yaml/nowhere}}
  - {name: early, format: json, realm: json/app, tail: {path: early.log}}
realms:
  - {name: postgresql/down, platform: postgresql, connector: {dsn: "postgres://staunch@` + nobody + `/postgres?connect_timeout=2"}}
policies: [extra.yaml]
`,
	})
	err = n.app.Store().Update(t.Context(), func(tx store.Tx) error {
		return tx.PutBreaker(store.Breaker{Scope: "source/events", Open: true, Reason: "too many at once"})
	})
	if err != nil {
		t.Fatal(err)
	}
	d := diagnose()
	if d.Healthy {
		t.Error("an ill node is healthy")
	}
	for name, want := range map[string][2]string{
		"rules":                 {"warning", "bad.yaml:4"},
		"mode":                  {"warning", "shadow"},
		"notify":                {"warning", `channel "nobody"`},
		"realm postgresql/down": {"error", ""},
		"tail folder":           {"error", "cannot be read"},
		"tail early":            {"warning", "does not exist yet"},
		"source events":         {"warning", "has no connector"},
		"breakers":              {"warning", "source/events is open: too many at once"},
		"store":                 {"ok", ""},
		"guard":                 {"ok", ""},
	} {
		if !slices.ContainsFunc(d.Checks, func(c api.Check) bool {
			return c.Name == name && c.Status == want[0] && strings.Contains(c.Message, want[1])
		}) {
			t.Errorf("doctor does not say %v of %s: %+v", want, name, d.Checks)
		}
	}
}

func TestContainRefusesAnUnknownRealm(t *testing.T) {
	n := newNode(t)
	for _, path := range []string{"/v1/containments", "/v1/plan"} {
		status, b := n.call(http.MethodPost, path, n.admin, `{"subject": "account:json/apq:name:mallory", "tier": "isolate", "reason": "a typo"}`)
		if status != http.StatusBadRequest && status != http.StatusUnprocessableEntity || !strings.Contains(string(b), "json/app") {
			t.Errorf("%s answered %d %s", path, status, b)
		}
	}
	if status, b := n.call(http.MethodPost, "/v1/containments", n.admin, `{"subject": "account:json/app:name:*", "tier": "isolate", "reason": "all of them"}`); status/100 != 4 {
		t.Errorf("a wildcard was answered %d %s", status, b)
	}
	if cs := n.cases(); len(cs) != 0 {
		t.Errorf("cases were opened: %+v", cs)
	}
	if status, b := n.call(http.MethodPost, "/v1/containments", n.admin, `{"subject": "identity:mallory", "tier": "isolate", "reason": "no typo"}`); status/100 != 2 {
		t.Errorf("an identity was answered %d %s", status, b)
	}
}

func TestReloadIsAllOrNothing(t *testing.T) {
	n := newNode(t)
	write(t, n.dir, "rules/grant.yaml", "title: Grant\nid: grant\nlevel: high\nlogsource: {product: app}\ndetection: {s: {action: grant}, condition: s}\n")
	// One file is good and one is bad: nothing changes.
	write(t, n.dir, "rules/bad.yaml", "title: Bad\nid: bad\nlogsource: {product: app}\ndetection: {s: {'a|nosuch': b}, condition: s}\n")
	if _, err := n.app.Reload(t.Context(), "test", false); !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "bad.yaml:4") {
		t.Fatalf("reloading a bad rule gave %v", err)
	}
	n.post(event("1", "bob", "grant"))
	if cs := n.cases(); len(cs) != 0 {
		t.Fatalf("a refused reload put its good rule in force: %+v", cs)
	}
	for _, bad := range []string{"v: 1\nnosuch: 1\n", nodeConfig + "policies: [nowhere]\n", nodeConfig + "limits: {global: {limit: 5, keep: 9}}\n"} {
		write(t, n.dir, "staunch.yaml", bad)
		if _, err := n.app.Reload(t.Context(), "test", false); err == nil {
			t.Errorf("a bad configuration was taken: %q", bad)
		}
	}
	write(t, n.dir, "staunch.yaml", nodeConfig)
	if err := os.Remove(filepath.Join(n.dir, "rules/bad.yaml")); err != nil {
		t.Fatal(err)
	}
	r, err := n.app.Reload(t.Context(), "test", false)
	if err != nil || !r.Changed {
		t.Fatalf("reloading gave %+v, %v", r, err)
	}
	n.post(event("2", "bob", "grant"))
	if cs := n.cases(); len(cs) != 1 {
		t.Errorf("the reloaded rule made %+v", cs)
	}
	err = n.app.Store().View(t.Context(), func(rd store.Reader) error {
		b, err := rd.ActiveBundle()
		if b.Hash != r.Bundle {
			t.Errorf("the active bundle is %s, want %s", b.Hash, r.Bundle)
		}
		recs, err2 := rd.RecordsAbout(r.Bundle, 10)
		if len(recs) != 1 || recs[0].Kind != staunch.RecordConfig || recs[0].Actor != "test" {
			t.Errorf("the reload's records are %+v", recs)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Error(err)
	}
}

// TestReloadKeepsGoing: where the user says so, the rules that are refused are left
// out and named, and the others are in force; what is wrong elsewhere still keeps
// everything as it was.
func TestReloadKeepsGoing(t *testing.T) {
	n := newNode(t)
	write(t, n.dir, "rules/grant.yaml", "title: Grant\nid: grant\nlevel: high\nlogsource: {product: app}\ndetection: {s: {action: grant}, condition: s}\n")
	write(t, n.dir, "rules/bad.yaml", "title: Bad\nid: bad\nlogsource: {product: app}\ndetection: {s: {'a|nosuch': b}, condition: s}\n")
	write(t, n.dir, "staunch.yaml", nodeConfig+"policies: [nowhere]\n")
	if _, err := n.app.Reload(t.Context(), "test", true); !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "nowhere") {
		t.Fatalf("reloading without its policies gave %v", err)
	}
	// Without it, the answer has the rule's place beside those of the rest.
	_, err := n.app.Reload(t.Context(), "test", false)
	if err == nil || !strings.Contains(err.Error(), "bad.yaml:4: rule \"bad\"") || !strings.Contains(err.Error(), "nowhere") {
		t.Fatalf("reloading gave %v", err)
	}
	status, body := n.call(http.MethodPost, "/v1/reload", n.admin, "")
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil || status != http.StatusBadRequest || len(p.Problems) < 2 || !strings.HasSuffix(p.Problems[0].Place, "rules/bad.yaml:4") {
		t.Fatalf("reloading was answered %d %s (%v)", status, body, err)
	}
	n.post(event("1", "bob", "grant"))
	if cs := n.cases(); len(cs) != 0 {
		t.Fatalf("a refused reload put its good rule in force: %+v", cs)
	}
	write(t, n.dir, "staunch.yaml", nodeConfig)
	r, err := n.app.Reload(t.Context(), "test", true)
	if err != nil || !r.Changed || len(r.Refused) != 1 || !strings.HasSuffix(r.Refused[0].Place, "rules/bad.yaml:4") || !strings.Contains(r.Refused[0].Message, `rule "bad"`) {
		t.Fatalf("reloading gave %+v, %v", r, err)
	}
	n.post(event("2", "bob", "grant"))
	if cs := n.cases(); len(cs) != 1 {
		t.Errorf("the good rule made %+v", cs)
	}
	err = n.app.Store().View(t.Context(), func(rd store.Reader) error {
		recs, err := rd.RecordsAbout(r.Bundle, 10)
		if len(recs) != 1 || !strings.Contains(string(recs[0].Body), `"refused":["rules/bad.yaml:4"]`) {
			t.Errorf("the reload's records are %+v", recs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestTakesOverWhatAnotherKeptGoingWith: a node whose files make the active bundle
// takes it over, though a rule among them is refused.
func TestTakesOverWhatAnotherKeptGoingWith(t *testing.T) {
	n := newNode(t)
	write(t, n.dir, "rules/grant.yaml", "title: Grant\nid: grant\nlevel: high\nlogsource: {product: app}\ndetection: {s: {action: grant}, condition: s}\n")
	write(t, n.dir, "rules/bad.yaml", "title: Bad\nid: bad\nlogsource: {product: app}\ndetection: {s: {'a|nosuch': b}, condition: s}\n")
	cfg, err := config.Load(filepath.Join(n.dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := app.Load(cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	err = n.app.Store().Update(t.Context(), func(tx store.Tx) error {
		return tx.PutBundle(store.Bundle{Hash: other.Bundle.Hash, Made: 1, Body: other.Body}, true)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.app.CheckBundle(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.post(event("1", "bob", "grant"))
	if cs := n.cases(); len(cs) != 1 {
		t.Errorf("the rule of the active bundle made %+v", cs)
	}
}

func TestKeysAreNeeded(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "staunch.yaml", "v: 1\n")
	cfg, err := config.Load(filepath.Join(dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	setup, err := app.Load(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.New(t.Context(), setup, app.Options{}); err == nil || !strings.Contains(err.Error(), "no key file") {
		t.Errorf("starting without a key file gave %v", err)
	}
	if _, err := app.Init(t.Context(), cfg, "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Init(t.Context(), cfg, "root"); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("a second init gave %v", err)
	}
}

func TestExpiredSecretsAreShredded(t *testing.T) {
	n := newNode(t)
	ref := staunch.Ref{Kind: staunch.KindCredential, Realm: "json/app", Scheme: "sha256", Value: "sha256:aa"}
	past := staunch.TimeOf(time.Now().Add(-time.Hour))
	if err := n.app.Store().Update(t.Context(), func(tx store.Tx) error { return tx.PutSecret(ref, past, []byte("x")) }); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := n.app.Store().View(t.Context(), func(r store.Reader) error {
			_, err := r.SecretOf(ref)
			return err
		})
		if errors.Is(err, staunch.ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the secret is still there: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestApprovalTakesItsPlaces has a case of tolerance never wait for a person, and
// its places reserved once it is approved.
func TestApprovalTakesItsPlaces(t *testing.T) {
	n := newNode(t)
	write(t, n.dir, "identities.yaml", "v: 1\nidentities:\n  - {name: mallory, kind: service, owner: ops, tolerance: never, accounts: [\"account:json/app:name:mallory\"]}\n")
	if _, err := n.app.Reload(t.Context(), "test", false); err != nil {
		t.Fatal(err)
	}
	n.post(event("1", "mallory", "dump"))
	cs := n.cases()
	if len(cs) != 1 || cs[0].Phase != staunch.PhaseApproval {
		t.Fatalf("the case does not wait for a person: %+v", cs)
	}
	used := func() int {
		t.Helper()
		var c store.Cap
		err := n.app.Store().View(t.Context(), func(r store.Reader) error {
			var err error
			c, err = r.Cap("open/owner/ops")
			if errors.Is(err, staunch.ErrNotFound) {
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return c.Used
	}
	if got := used(); got != 0 {
		t.Errorf("%d places are taken before the approval", got)
	}
	for deadline := time.Now().Add(20 * time.Second); cs[0].Asked == nil; cs = n.cases() {
		if time.Now().After(deadline) {
			t.Fatal("the plan to approve is not drawn")
		}
		time.Sleep(5 * time.Millisecond)
	}
	body := fmt.Sprintf(`{"scope_hash":%q,"plan_hash":%q}`, cs[0].Scope.Hash(), cs[0].Asked.Hash)
	if status, b := n.call(http.MethodPost, "/v1/containments/"+cs[0].ID+"/approve", n.admin, body); status != http.StatusOK {
		t.Fatalf("approving: status %d: %s", status, b)
	}
	if got := used(); got != 1 {
		t.Errorf("%d places are taken after the approval, want 1", got)
	}
}

// TestReloadOfRuleSettings has modes by id, pipelines and filters take effect at
// once and together, each with another bundle; a wrong one changes nothing.
func TestReloadOfRuleSettings(t *testing.T) {
	n := newNode(t)
	bundles := map[string]bool{}
	reload := func(what string) {
		t.Helper()
		r, err := n.app.Reload(t.Context(), "test", false)
		if err != nil || !r.Changed || bundles[r.Bundle] {
			t.Fatalf("%s: reloading gave %+v, %v", what, r, err)
		}
		bundles[r.Bundle] = true
	}
	write(t, n.dir, "staunch.yaml", nodeConfig+"rule_modes: {dump: shadow}\n")
	reload("a mode by id")
	n.post(event("1", "mallory", "dump"))
	if cs := n.cases(); len(cs) != 0 {
		t.Fatalf("a rule in shadow contained: %+v", cs)
	}
	for _, bad := range []string{"rule_modes: {dmup: shadow}\n", "rule_modes: {dump: quiet}\n", "pipelines: [nowhere.yaml]\n"} {
		write(t, n.dir, "staunch.yaml", nodeConfig+bad)
		if _, err := n.app.Reload(t.Context(), "test", false); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	n.post(event("2", "mallory", "dump"))
	if cs := n.cases(); len(cs) != 0 {
		t.Fatalf("a refused reload changed the rule's mode: %+v", cs)
	}
	write(t, n.dir, "staunch.yaml", nodeConfig)
	write(t, n.dir, "rules/known.yaml", "title: Known\nlogsource: {product: app}\nfilter: {rules: [dump], who: {user: mallory}, condition: who}\n")
	reload("a filter")
	n.post(event("3", "mallory", "dump"))
	if cs := n.cases(); len(cs) != 0 {
		t.Fatalf("a filtered event contained: %+v", cs)
	}
	write(t, n.dir, "staunch.yaml", nodeConfig+"pipelines: [pipe.yaml]\n")
	write(t, n.dir, "pipe.yaml", "v: 1\nmaps: [{fields: {user: nobody}}]\n")
	reload("a pipeline")
	n.post(event("4", "mallory", "dump"))
	if cs := n.cases(); len(cs) != 1 {
		t.Errorf("the filter's field was not translated: %+v", cs)
	}
}
