package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/demo"
)

// TestLyingServer contains tokens of an authorization server that is reached
// through a server that lies in every way it can, and holds that nothing is said
// to be proven that is not so: whenever a hold is proven, the authorization server
// itself says that the token is dead.
func TestLyingServer(t *testing.T) {
	t.Parallel() // it waits more than it works
	estate, err := demo.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(estate.Stop)
	truth := estate.AuthURL
	const tokens = 24
	var stolen []staunch.Secret
	for range tokens {
		s, err := estate.NewToken(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stolen = append(stolen, s)
	}
	liar := connectortest.NewLiar(t, truth, 11, 0.6, func(r *http.Request) (int, string, bool) {
		return http.StatusOK, "", strings.HasSuffix(r.URL.Path, "/revoke")
	})
	estate.AuthURL = liar.URL()
	files := lyingFiles(t, estate)
	estate.AuthURL = truth // the APIs are told the truth
	for _, s := range stolen {
		if !alive(t, estate, s) {
			t.Fatal("a token is dead before anything was done")
		}
	}
	n := newNode(t, files)
	var lines []string
	for i, s := range stolen {
		line, err := json.Marshal(map[string]any{
			"id": fmt.Sprintf("lie-%d", i), "time": time.Now().UTC().Format(time.RFC3339Nano), "method": "GET", "path": "/orders",
			"status": 200, "client_ip": demo.ThiefAddress, "client_id": demo.WorkloadClient, "token": s.Reveal(),
		})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	n.post(demo.SourceAccessLog, strings.Join(lines, "\n"))
	subject := map[string]staunch.Secret{} // by containment
	for _, s := range stolen {
		o, err := n.api.Contain(t.Context(), api.ContainRequest{
			Subject: staunch.Ref{Kind: staunch.KindCredential, Realm: demo.Realm, Scheme: "sha256", Value: s.Digest()},
			Tier:    staunch.TierRevoke, Reason: "stolen",
		})
		if err != nil {
			t.Fatal(err)
		}
		subject[o.Containment.ID] = s
	}

	proven := map[string]bool{}
	look := func() (done bool) {
		done = true
		for id, s := range subject {
			c, err := n.api.Containment(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if says := dead(c); says && !proven[id] {
				proven[id] = true
				if alive(t, estate, s) {
					t.Errorf("%s is said to be proven, and the token is alive\n%s", id, timeline(c))
				}
			}
			// A refusal for good needs a person; all else has to come to an end.
			done = done && (proven[id] || givenUp(c))
		}
		return done
	}
	// It lies until most are done, then it tells the truth.
	deadline := time.Now().Add(12 * time.Second)
	for !look() && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	before := len(proven)
	liar.Calm()
	for deadline := time.Now().Add(2 * patience); !look(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			for id := range subject {
				if c, err := n.api.Containment(t.Context(), id); err == nil && !proven[id] && !givenUp(c) {
					t.Errorf("%s is %s and neither proven nor given up\n%s", id, c.Containment.Phase, timeline(c))
				}
			}
			t.FailNow()
		}
	}
	told := liar.Told()
	t.Logf("%d of %d proven while it lied, %d in the end; lies told: %v", before, tokens, len(proven), told)
	for _, lie := range connectortest.Lies() {
		if told[lie] == 0 {
			t.Errorf("the lie %q was never told", lie)
		}
	}
	if len(proven) == 0 {
		t.Error("none came to be proven")
	}
}

// dead reports whether a case says that something is proven on the platform.
func dead(c api.Case) bool {
	return slices.ContainsFunc(c.Holds, func(h staunch.Hold) bool {
		return h.Plane == staunch.PlanePlatform && h.State == staunch.HoldProven
	})
}

// givenUp reports whether a case waits for a person, and says so.
func givenUp(c api.Case) bool {
	return c.Containment.Trouble != "" && (len(c.Steps) > 0 || c.Containment.Phase == staunch.PhaseStuck) && !slices.ContainsFunc(c.Steps, func(s staunch.Step) bool {
		switch s.State {
		case staunch.StepIntended, staunch.StepUnknown, staunch.StepApplied, staunch.StepRead:
			return true
		}
		return false
	})
}

// alive asks an API that introspects the token at the authorization server
// itself.
func alive(t *testing.T, e *demo.Estate, token staunch.Secret) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.OrdersURL+"/orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
		return true
	case http.StatusUnauthorized, http.StatusForbidden:
		return false
	}
	t.Fatalf("the orders API answers %s", resp.Status)
	return true
}

// lyingFiles is the estate's configuration, with calls that do not wait long.
func lyingFiles(t *testing.T, e *demo.Estate) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if _, err := e.WriteConfig(dir, "@LISTEN@"); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, en := range entries {
		b, err := os.ReadFile(filepath.Join(dir, en.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[en.Name()] = string(b)
	}
	const at = "    connector:\n"
	changed := strings.Replace(files["staunch.yaml"], at, at+"      timeout: 1s\n", 1)
	if changed == files["staunch.yaml"] {
		t.Fatalf("no connector in the configuration; files: %v", slices.Collect(maps.Keys(files)))
	}
	files["staunch.yaml"] = changed
	return files
}
