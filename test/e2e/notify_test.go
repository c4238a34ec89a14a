package e2e

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
)

// told is one message that a receiver got.
type told struct {
	path   string
	header http.Header
	body   []byte
	at     time.Time
	// locked says that billing's login was refused when the message came.
	locked bool
}

// receivers are the addresses that people are told at: /hook and /slack take
// everything, /broken fails, /hung never answers.
type receivers struct {
	*httptest.Server
	mu   sync.Mutex
	got  []told
	free chan struct{} // closed: the hung one answers
}

func newReceivers(t *testing.T, locked func() bool) *receivers {
	t.Helper()
	r := &receivers{free: make(chan struct{})}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		m := told{path: req.URL.Path, header: req.Header.Clone(), at: time.Now()}
		m.locked = locked()
		m.body, _ = io.ReadAll(io.LimitReader(req.Body, 1<<20)) // a short body does not verify
		r.mu.Lock()
		r.got = append(r.got, m)
		r.mu.Unlock()
		switch req.URL.Path {
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/hung":
			select {
			case <-r.free:
			case <-req.Context().Done():
			}
		case "/slack":
			_, _ = io.WriteString(w, "ok") // as Slack answers
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// at returns what came to a path.
func (r *receivers) at(path string) []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []told
	for _, m := range r.got {
		if m.path == path {
			out = append(out, m)
		}
	}
	return out
}

// signed checks a message by the Standard Webhooks specification and returns its
// body.
func (m told) signed(t *testing.T, key []byte) (kind, containment string) {
	t.Helper()
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", m.header.Get("webhook-id"), m.header.Get("webhook-timestamp"), m.body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); !strings.Contains(" "+m.header.Get("webhook-signature")+" ", " "+want+" ") {
		t.Errorf("the signature is %q, not %q", m.header.Get("webhook-signature"), want)
	}
	if sec, err := strconv.ParseInt(m.header.Get("webhook-timestamp"), 10, 64); err != nil || time.Unix(sec, 0).Sub(m.at).Abs() > time.Minute {
		t.Errorf("the timestamp is %q", m.header.Get("webhook-timestamp"))
	}
	var b struct {
		Type string `json:"type"`
		Data struct {
			Containment string `json:"containment"`
		} `json:"data"`
	}
	if err := json.Unmarshal(m.body, &b); err != nil {
		t.Errorf("the webhook's body: %v", err)
	}
	return b.Type, b.Data.Containment
}

// TestPeopleAreToldAfterwards has four channels: two that work, one that fails
// and one that hangs. What works tells after the hold is in force, and what does
// not work delays nothing.
func TestPeopleAreToldAfterwards(t *testing.T) {
	s := newShop(t, false)
	r := newReceivers(t, func() bool {
		c, err := s.dial("billing", s.password, "billing-sync")
		if err == nil {
			_ = c.conn.Close(t.Context()) // it was only tried
		}
		return sqlState(err) == "28000"
	})
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	n := newNode(t, s.files("", fmt.Sprintf(`notify:
  - {name: hung, type: webhook, url: "%[1]s/hung", secret: %[2]q, min_tier: observe}
  - {name: broken, type: webhook, url: "%[1]s/broken", secret: %[2]q, min_tier: observe}
  - {name: siem, type: webhook, url: "%[1]s/hook", secret: %[2]q, min_tier: observe}
  - {name: people, type: slack, url: "%[1]s/slack"}
`, r.URL, secret)))

	thief := s.login("billing", s.password, "psql")
	if err := thief.do("SELECT number FROM sales.cards"); err != nil {
		t.Fatal(err)
	}
	c := n.await(staunch.PhaseHeld, staunch.TierIsolate)
	n.proven(c)
	for _, path := range []string{"/hung", "/broken", "/hook", "/slack"} {
		eventually(t, path+" is told", func() bool { return len(r.at(path)) > 0 })
	}
	// The hung receiver still hangs, and the other channels have more to tell.
	n.post("leaks", leak("billing"))
	n.await(staunch.PhaseHeld, staunch.TierRevoke)
	fresh := "fresh-" + rand.Text()
	s.Exec(t, "postgres", "ALTER ROLE billing PASSWORD '"+fresh+"'")
	n.release(c, api.ReleaseRequest{Reason: "the password is a new one", Rotated: true})
	n.await(staunch.PhaseReleased, staunch.TierRevoke)
	released := func(path string) bool {
		for _, m := range r.at(path) {
			if strings.Contains(string(m.body), "eleased") {
				return true
			}
		}
		return false
	}
	eventually(t, "/hook and /slack are told of the release", func() bool { return released("/hook") && released("/slack") })
	var proven staunch.Time
	for _, st := range c.Steps {
		if st.Target.Attribute == "login" {
			proven = st.Proven
		}
	}
	kinds := map[string]bool{}
	for _, m := range r.at("/hook") {
		kind, id := m.signed(t, key)
		kinds[kind] = true
		if id != c.Containment.ID {
			t.Errorf("the message is about case %q", id)
		}
	}
	for _, kind := range []string{"containment.contained", "containment.released"} {
		if !kinds[kind] {
			t.Errorf("nobody was told %s, only %v", kind, kinds)
		}
	}
	for _, path := range []string{"/hook", "/slack", "/broken", "/hung"} {
		first := r.at(path)[0]
		if !first.locked {
			t.Errorf("%s was told %s while billing could still log in", path, first.body)
		}
		if at := staunch.TimeOf(first.at); proven == 0 || at < proven {
			t.Errorf("%s was told at %s, and the hold was proven at %s", path, at, proven)
		}
	}
	var slack struct {
		Text   string            `json:"text"`
		Blocks []json.RawMessage `json:"blocks"`
	}
	if err := json.Unmarshal(r.at("/slack")[0].body, &slack); err != nil || slack.Text == "" || len(slack.Blocks) == 0 || len(slack.Blocks) > 50 {
		t.Errorf("not a message that Slack takes: %v: %s", err, r.at("/slack")[0].body)
	}
	for _, m := range append(r.at("/hook"), r.at("/slack")...) {
		if strings.Contains(string(m.body), s.password) || strings.Contains(string(m.body), fresh) {
			t.Errorf("a message has a password: %s", m.body)
		}
	}
	if err := s.login("billing", fresh, "billing-sync").do("SELECT count(*) FROM sales.cards"); err != nil {
		t.Errorf("the workload: %v", err)
	}
	close(r.free)
	n.sound()
}
