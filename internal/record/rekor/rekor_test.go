package rekor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/record/rekor/fakelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a log, a client of it, and a checkpoint to be logged.
type rig struct {
	*fakelog.Log
	chain  *record.Chain
	cp     record.Checkpoint
	parsed *record.TransparencyLog
	client *Client
}

func newRig(t *testing.T, timeout time.Duration) *rig {
	t.Helper()
	r := &rig{Log: fakelog.Start(t, "log.example.org")}
	var err error
	if r.chain, err = record.NewChain(bytes.Repeat([]byte{7}, record.KeySize)); err != nil {
		t.Fatal(err)
	}
	if r.cp, err = r.chain.Checkpoint(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), []record.Head{{Lane: "secret-node/1", Seq: 3, Hash: strings.Repeat("ab", 32)}}); err != nil {
		t.Fatal(err)
	}
	if r.parsed, err = record.ParseTransparencyLog(r.Key, r.Origin); err != nil {
		t.Fatal(err)
	}
	if r.client, err = New(r.URL+"/", r.parsed, timeout); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	return r
}

func TestAdd(t *testing.T) {
	r := newRig(t, 0)
	var seen http.Header
	r.Behave(func(w http.ResponseWriter, req *http.Request, honest func() []byte) {
		seen = req.Header
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(honest())
	})
	for i := range int64(3) {
		receipt, logged, err := r.client.Add(t.Context(), r.chain, r.cp)
		want := record.Logged{Checked: true, Origin: r.Origin, Entry: i, TreeSize: i + 1}
		if err != nil || logged != want {
			t.Fatalf("%v, %+v", err, logged)
		}
		cp := r.cp
		cp.Logged = receipt
		if again, err := cp.VerifyLogged(r.chain.PublicKey(), r.parsed); err != nil || again != want {
			t.Errorf("%v, %+v", err, again)
		}
	}
	if seen.Get("Content-Type") != "application/json" || seen.Get("User-Agent") != "staunch" {
		t.Errorf("it was asked with %v", seen)
	}
	// Nothing of what the checkpoint says leaves the house.
	for _, e := range r.Entries() {
		if bytes.Contains(e, []byte("secret-node")) || bytes.Contains(e, []byte("abab")) || bytes.Contains(e, []byte(r.cp.Signature)) {
			t.Errorf("the log has %s", e)
		}
	}
}

// TestRefusals: whatever the log does but give a receipt that fits, the error names
// it, and there is none.
func TestRefusals(t *testing.T) {
	answers := func(status int, body string) func(http.ResponseWriter, *http.Request, func() []byte) {
		return func(w http.ResponseWriter, _ *http.Request, _ func() []byte) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	asked := make(chan struct{}, 1)
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} }))
	defer other.Close()
	for name, tc := range map[string]struct {
		behave  func(http.ResponseWriter, *http.Request, func() []byte)
		class   staunch.Class
		has     string
		timeout time.Duration
	}{
		"bad request": {behave: answers(400, `{"code":3,"message":"invalid\n`+"\x1b[31m"+`digest"}`), class: staunch.ClassPermanent, has: `it answered 400 Bad Request: {"code":3,"message":"invalid\n[31mdigest"}`},
		"forbidden":   {behave: answers(403, ""), class: staunch.ClassPermanent, has: "it answered 403 Forbidden"},
		"not there":   {behave: answers(404, "no"), class: staunch.ClassPermanent, has: "404"},
		"frozen":      {behave: answers(405, "this log has been frozen"), class: staunch.ClassPermanent, has: "this log has been frozen"},
		"too many":    {behave: answers(429, "slow down"), class: staunch.ClassTransient, has: "429 Too Many Requests: slow down"},
		"failed":      {behave: answers(500, strings.Repeat("x", 1<<20)), class: staunch.ClassTransient, has: "xxx…"},
		"unavailable": {behave: answers(503, ""), class: staunch.ClassTransient, has: "503"},
		"no longer":   {behave: answers(200, "{}"), class: staunch.ClassPermanent, has: "it answered 200 OK"},
		"accepted":    {behave: answers(202, "{}"), class: staunch.ClassPermanent, has: "202"},
		"rubbish":     {behave: answers(201, "<html>"), class: staunch.ClassPermanent, has: "not JSON"},
		"nothing":     {behave: answers(201, ""), class: staunch.ClassPermanent, has: "not JSON"},
		"empty":       {behave: answers(201, "{}"), class: staunch.ClassPermanent, has: "kind"},
		"huge":        {behave: answers(201, strings.Repeat(" ", record.MaxReceipt+1)), class: staunch.ClassPermanent, has: "more than 1048576 bytes"},
		"redirect": {behave: func(w http.ResponseWriter, r *http.Request, _ func() []byte) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, class: staunch.ClassPermanent, has: "307"},
		"another's receipt": {behave: func(w http.ResponseWriter, _ *http.Request, honest func() []byte) {
			var a map[string]any
			if err := json.Unmarshal(honest(), &a); err != nil {
				t.Error(err)
			}
			a["canonicalizedBody"] = "e30="
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(a)
		}, class: staunch.ClassPermanent, has: "signature does not fit"},
		"breaks off": {behave: func(w http.ResponseWriter, _ *http.Request, honest func() []byte) {
			w.Header().Set("Content-Length", "100000")
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write(honest())
		}, class: staunch.ClassTransient, has: "reading its answer"},
		"slow": {behave: func(_ http.ResponseWriter, r *http.Request, _ func() []byte) {
			<-r.Context().Done()
		}, class: staunch.ClassTransient, has: "Client.Timeout", timeout: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tc.timeout)
			r.Behave(tc.behave)
			receipt, logged, err := r.client.Add(t.Context(), r.chain, r.cp)
			if err == nil || receipt != nil || logged.Checked {
				t.Fatalf("%v, %+v, %+v", err, receipt, logged)
			}
			host := strings.TrimPrefix(r.URL, "http://")
			if staunch.ClassOf(err) != tc.class || !strings.Contains(err.Error(), tc.has) || !strings.Contains(err.Error(), "transparency log "+host) || len(err.Error()) > 600 {
				t.Errorf("class %v: %v", staunch.ClassOf(err), err)
			}
		})
	}
	select {
	case <-asked:
		t.Error("a redirect to another host was followed")
	default:
	}
}

func TestUnreachable(t *testing.T) {
	r := newRig(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.client.Add(ctx, r.chain, r.cp); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has gone: %v", err)
	}
	// Where clouds serve their machines' credentials.
	c, err := New("https://169.254.169.254", r.parsed, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.Add(t.Context(), r.chain, r.cp); !errors.Is(err, staunch.ErrForbidden) {
		t.Errorf("a link-local address: %v", err)
	}
	for _, url := range []string{"", "http://log.example.org", "https://me:x@log.example.org"} {
		if _, err := New(url, r.parsed, 0); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, _, err := r.client.Add(t.Context(), r.chain, record.Checkpoint{V: 1}); !errors.Is(err, record.ErrSignature) {
		t.Errorf("a checkpoint that nobody signed: %v", err)
	}
}
