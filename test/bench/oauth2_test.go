package bench_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/demo"
	"github.com/staunch-project/staunch/policies"
)

// The rates of the stolen tokens' clients; each call has the API introspect.
const (
	oauthOpenEvery = 50 * time.Millisecond
	oauthNewEvery  = 200 * time.Millisecond
)

type oauthEstate struct {
	*demo.Estate
	node       *node
	tokens     []staunch.Secret
	open, anew *http.Client
}

func (e *oauthEstate) subject(i int) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindCredential, Realm: demo.Realm, Scheme: "sha256", Value: e.tokens[i].Digest()}
}

func (e *oauthEstate) engine() *node { return e.node }

func (e *oauthEstate) accuse(ctx context.Context, n *node, i int) error {
	return n.accuse(ctx, fmt.Sprintf("oauth-%04d", i), "", e.tokens[i].Reveal())
}

// startOAuth starts an authorization server, an API that introspects every
// call, and an engine that revokes undeclared tokens too: the records name the
// token alone.
func startOAuth(t *testing.T, count int) estate {
	demoEstate, err := demo.New(t.Context())
	must(t, err)
	t.Cleanup(demoEstate.Stop)
	e := &oauthEstate{
		Estate: demoEstate,
		open:   &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
		anew:   &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	t.Cleanup(e.open.CloseIdleConnections)
	for range count {
		token, err := e.NewToken(t.Context())
		must(t, err)
		e.tokens = append(e.tokens, token)
	}
	path, err := e.WriteConfig(t.TempDir(), "127.0.0.1:1")
	must(t, err)
	b, err := os.ReadFile(path)
	must(t, err)
	var c struct {
		Realms []map[string]any `yaml:"realms"`
	}
	must(t, yaml.Unmarshal(b, &c))
	c.Realms[0]["rate_per_second"] = 100000
	realms, err := yaml.Marshal(c)
	must(t, err)
	policy, err := fs.ReadFile(policies.FS, "default.yaml")
	must(t, err)
	changed := strings.Replace(string(policy), "unmanaged: isolate", "unmanaged: revoke", 1)
	if changed == string(policy) {
		t.Fatal("the default policy no longer says what becomes of undeclared identities")
	}
	e.node = startNode(t, setting{
		realm: demo.Realm, scheme: "client-id", accuse: "credential",
		more:  "no_default_policy: true\npolicies: [policy.yaml]\n" + string(realms),
		files: map[string]string{"policy.yaml": changed},
	})
	return e
}

func (e *oauthEstate) thieves(i int) []*thief {
	call := func(c *http.Client) func(context.Context) (answer, error) {
		return func(ctx context.Context) (answer, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.OrdersURL+"/orders", nil)
			if err != nil {
				return trouble, err
			}
			req.Header.Set("Authorization", "Bearer "+e.tokens[i].Reveal())
			return httpAnswer(c.Do(req))
		}
	}
	return []*thief{
		{name: "open connection", every: oauthOpenEvery, try: call(e.open), stop: func() {}},
		{name: "new connections", every: oauthNewEvery, try: call(e.anew), stop: func() {}},
	}
}

// httpAnswer says what an answer over HTTP means to a thief.
func httpAnswer(resp *http.Response, err error) (answer, error) {
	if err != nil {
		return trouble, err
	}
	_ = resp.Body.Close() // the status says it all
	switch {
	case resp.StatusCode < 300:
		return success, nil
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return denied, nil
	default:
		return trouble, fmt.Errorf("status %d", resp.StatusCode)
	}
}

func TestContainOAuth2(t *testing.T) {
	containment(t, "oauth2", 300, fmt.Sprintf("open=%s new=%s", oauthOpenEvery, oauthNewEvery), startOAuth)
}
