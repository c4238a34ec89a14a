package app_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch/internal/notify"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/record/rekor/fakelog"
)

// TestTransparencyLog: every checkpoint goes to the log, and its receipt to the
// file and the channel. A log that fails or lies keeps none of them from their
// checkpoint, which then has no receipt, and doctor says so until one is logged.
func TestTransparencyLog(t *testing.T) {
	log := fakelog.Start(t, "log.example.org")
	got := make(chan record.Checkpoint, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b notify.WebhookBody
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil || b.Data.Checkpoint == nil {
			t.Errorf("the channel got %+v, %v", b, err)
			return
		}
		got <- *b.Data.Checkpoint
	}))
	defer hook.Close()
	n := newNodeWith(t, map[string]string{"staunch.yaml": nodeConfig + `
audit:
  checkpoint_every: 24h
  checkpoint_channel: siem
  transparency_log: {url: "` + log.URL + `", key: "` + log.VerifierKey + `"}
notify: [{name: siem, type: webhook, url: "` + hook.URL + `", secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, min_tier: revoke}]
`})
	parsed, err := record.ParseTransparencyLog(log.Key, log.Origin)
	if err != nil {
		t.Fatal(err)
	}
	last := func() record.Checkpoint {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(n.dir, "data", "checkpoints.ndjson"))
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		var cp record.Checkpoint
		if err := json.Unmarshal(lines[len(lines)-1], &cp); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		return cp
	}
	told := func(want record.Checkpoint) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case cp := <-got:
				if cp.Signature != want.Signature {
					continue
				}
				if (cp.Logged == nil) != (want.Logged == nil) {
					t.Errorf("the channel's receipt is %+v, the file's %+v", cp.Logged, want.Logged)
				}
				return
			case <-deadline:
				t.Fatal("the channel did not get it")
			}
		}
	}
	logs := func() record.Checkpoint {
		t.Helper()
		status, b := n.call(http.MethodPost, "/v1/records/checkpoint", n.admin, "")
		var cp record.Checkpoint
		if err := json.Unmarshal(b, &cp); status != http.StatusOK || err != nil {
			t.Fatalf("status %d, %v: %s", status, err, b)
		}
		logged, err := cp.VerifyLogged(publicKey(t, n), parsed)
		if entries := log.Entries(); err != nil || logged.Entry != int64(len(entries))-1 || logged.Origin != log.Origin {
			t.Fatalf("%v, %+v of %d", err, logged, len(entries))
		}
		if kept := last(); kept.Signature != cp.Signature || kept.Logged == nil {
			t.Fatalf("the file has %+v", kept)
		}
		told(cp)
		return cp
	}
	first := logs()
	if _, b := n.call(http.MethodGet, "/v1/doctor", n.admin, ""); bytes.Contains(b, []byte("logged")) {
		t.Errorf("doctor says %s", b)
	}
	if status, b := n.call(http.MethodGet, "/v1/records/verify", n.admin, ""); status != http.StatusOK || !bytes.Contains(b, []byte(`"logged":{"checked":true,"origin":"log.example.org","entry":0,"tree_size":1}`)) {
		t.Errorf("the newest is verified as %d %s", status, b)
	}

	answer := func(status int, body string) func(http.ResponseWriter, *http.Request, func() []byte) {
		return func(w http.ResponseWriter, _ *http.Request, _ func() []byte) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	// A receipt that was right before, for another checkpoint.
	old, err := json.Marshal(first.Logged)
	if err != nil {
		t.Fatal(err)
	}
	since := ""
	for name, tc := range map[string]struct {
		behave func(http.ResponseWriter, *http.Request, func() []byte)
		why    string
	}{
		"down":          {answer(503, "not now"), "it answered 503 Service Unavailable: not now"},
		"refuses":       {answer(400, "no"), "it answered 400 Bad Request: no"},
		"rubbish":       {answer(201, "{"), "not JSON"},
		"old receipt":   {answer(201, string(old)), "signature does not fit"},
		"another index": {edited("logIndex", `"0"`), "signature does not fit"},
		"another body":  {edited("canonicalizedBody", `"`+base64.StdEncoding.EncodeToString([]byte("{}"))+`"`), "signature does not fit"},
	} {
		log.Behave(tc.behave)
		status, b := n.call(http.MethodPost, "/v1/records/checkpoint", n.admin, "")
		if status != http.StatusBadGateway || !bytes.Contains(b, []byte("the checkpoint was signed, but not logged: transparency log 127.0.0.1")) || !bytes.Contains(b, []byte(tc.why)) {
			t.Errorf("%s: %d %s", name, status, b)
		}
		kept := last()
		if err := kept.Verify(publicKey(t, n)); err != nil || kept.At <= first.At || kept.Logged != nil {
			t.Errorf("%s: the file ends with %+v, %v", name, kept, err)
		}
		told(kept)
		if since == "" {
			since = kept.At.String()
		}
		_, b = n.call(http.MethodGet, "/v1/doctor", n.admin, "")
		if !bytes.Contains(b, []byte("none was logged since "+since)) || !bytes.Contains(b, []byte(tc.why)) {
			t.Errorf("%s: doctor says %s", name, b)
		}
	}
	log.Behave(nil)
	logs()
	if _, b := n.call(http.MethodGet, "/v1/doctor", n.admin, ""); bytes.Contains(b, []byte("none was logged")) {
		t.Errorf("doctor still says %s", b)
	}

	// A receipt that was changed in the file is found by itself after a restart.
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.dir, "data", "checkpoints.ndjson")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(b, []byte(`"treeSize":"`))
	b[i+len(`"treeSize":"`)]++
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	if status, b := n.call(http.MethodGet, "/v1/records/verify", n.admin, ""); status != http.StatusConflict || !strings.Contains(string(b), "the newest checkpoint was changed") {
		t.Errorf("an edited receipt is verified as %d %s", status, b)
	}
	// The next is not kept from being signed and logged by it.
	logs()
}

// edited has a log change a member of its answer.
func edited(name, to string) func(http.ResponseWriter, *http.Request, func() []byte) {
	return func(w http.ResponseWriter, _ *http.Request, honest func() []byte) {
		var a map[string]json.RawMessage
		b := honest()
		if json.Unmarshal(b, &a) == nil {
			a[name] = json.RawMessage(to)
			b, _ = json.Marshal(a) // of what was JSON
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(b)
	}
}

// publicKey is what the node's checkpoints are signed with, as its export names it.
func publicKey(t *testing.T, n *node) []byte {
	t.Helper()
	status, b := n.call(http.MethodGet, "/v1/records/export", n.admin, "")
	var h struct {
		Key string `json:"key"`
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if err := json.Unmarshal(line, &h); status != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v: %s", status, err, line)
	}
	key, err := record.ParsePublicKey(h.Key)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
