package e2e

import (
	"encoding/json"
	"flag"
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
	"github.com/staunch-project/staunch/internal/demo"
	"github.com/staunch-project/staunch/test/ledger"
	"github.com/staunch-project/staunch/test/liar"
)

// How much is lied. The usual is for every test run.
var (
	lieSeed  = flag.Uint64("lie-seed", 11, "what lies are drawn by")
	lieOften = flag.Int("lie-often", 1, "how often each lie is told to each operation at least")
)

const (
	// lieRate is the share of an operation's requests that are lied to.
	lieRate = 0.6
	// lagRate is the share of the reads that a replica answers that lags behind.
	lagRate = 0.5
	// hastily bounds a call to a platform that lies.
	hastily = time.Second
)

// lyingConfig begins the configuration for a platform that lies; realms follow.
const lyingConfig = `v: 1
listen: "@LISTEN@"
mode: enforce
limits: {global: {limit: -1}, isolate: {limit: -1}, revoke: {limit: -1}, identities: {limit: -1}}
realms:
`

// lying is how long it may take until each lie was told; it ends when they were.
func lying() time.Duration { return time.Duration(*lieOften) * 3 * time.Minute }

// TestLyingServer contains tokens of an authorization server that is reached
// through one that lies.
func TestLyingServer(t *testing.T) {
	t.Parallel() // it waits more than it works
	estate, err := demo.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(estate.Stop)
	truth := estate.AuthURL
	deck := liar.NewDeck(*lieSeed, lieRate, *lieOften)
	estate.AuthURL = liar.HTTP{
		Upstream: truth, Deck: deck,
		Ask: func(r *http.Request, _ []byte) liar.Ask {
			as, _, _ := r.BasicAuth()
			switch {
			case strings.HasSuffix(r.URL.Path, "/revoke"):
				return liar.Ask{Op: "revoke", Change: true}
			case strings.HasSuffix(r.URL.Path, "/introspect"):
				return liar.Ask{Op: "introspect as " + as, Reads: true}
			}
			return liar.Ask{Op: r.URL.Path}
		},
		Hollow: func(*http.Request) (int, string) { return http.StatusOK, "" },
	}.Serve(t)
	files := lyingFiles(t, estate)
	estate.AuthURL = truth // the APIs are told the truth
	n := newHastyNode(t, files, hastily)
	liar.Play{
		API: n.api, Deck: deck, AtOnce: 12, Fewest: 24, Most: 200 * *lieOften, Lying: lying(), Patience: 2 * patience,
		Subject: func(i int) liar.Subject {
			s, err := estate.NewToken(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !alive(t, estate, s) {
				t.Fatal("a token is dead before anything was done")
			}
			line, err := json.Marshal(map[string]any{
				"id": fmt.Sprintf("lie-%d", i), "time": time.Now().UTC().Format(time.RFC3339Nano), "method": "GET", "path": "/orders",
				"status": 200, "client_ip": demo.ThiefAddress, "client_id": demo.WorkloadClient, "token": s.Reveal(),
			})
			if err != nil {
				t.Fatal(err)
			}
			n.post(demo.SourceAccessLog, string(line))
			return liar.Subject{
				Name: "token", Tier: staunch.TierRevoke,
				Ref:   staunch.Ref{Kind: staunch.KindCredential, Realm: demo.Realm, Scheme: "sha256", Value: s.Digest()},
				Alive: func(staunch.Target) (bool, error) { return alive(t, estate, s), nil },
			}
		},
	}.Run(t)
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

// checkLedger holds what a platform wrote down itself against the steps of all
// cases: each change was a step's, made once and undone once at most.
func checkLedger(t *testing.T, j ledger.Judgement, outcomes map[string]liar.Outcome) {
	t.Helper()
	if t.Failed() {
		return // not every case is known
	}
	for _, w := range j.Wrong {
		t.Errorf("the platform's own log: %s", w)
	}
	known := map[string]bool{}
	cases, users := map[string][]staunch.Step{}, map[string]string{}
	for _, o := range outcomes {
		maps.Copy(users, o.Users)
		for id, s := range o.Steps {
			known[id] = true
			cases[s.Containment] = append(cases[s.Containment], s)
		}
	}
	took := 0
	for _, e := range j.Effects {
		if !known[e.Key] {
			t.Errorf("the platform's own log: %s under the key %s, which is no step", e.Kind, e.Key)
		}
		if e.Took {
			took++
		}
	}
	for id, steps := range cases {
		keys := map[string]bool{}
		var intents []ledger.Intent
		for _, s := range steps {
			keys[s.ID] = true
			intents = append(intents, ledger.Intent{
				Key: s.ID, Sessions: s.Verb == staunch.VerbIsolate, Final: s.Intent.Reversibility == staunch.Irreversible, Undo: s.Reverted != 0,
			})
		}
		of := j.Of(keys)
		for _, e := range of.Early(intents) {
			t.Errorf("%s: %s", id, e)
		}
		// What is lost is told by the steps: a case that was given up may lack it.
		if _, doubled, _ := of.Account(intents, users[id]); len(doubled) > 0 {
			t.Errorf("%s: %v", id, doubled)
		}
	}
	t.Logf("the platform's own log has %d changes of %d cases that took effect", took, len(cases))
}
