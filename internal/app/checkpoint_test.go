package app_test

import (
	"bytes"
	"database/sql"
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
)

// TestCheckpoints: they are appended to the file and sent to the channel, and the
// next one finds a log that was cut between two, also after a restart.
func TestCheckpoints(t *testing.T) {
	got := make(chan notify.WebhookBody, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b notify.WebhookBody
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		if r.Header.Get("Webhook-Signature") == "" {
			t.Error("it is not signed")
		}
		got <- b
	}))
	defer hook.Close()
	n := newNodeWith(t, map[string]string{"staunch.yaml": nodeConfig + `
audit: {checkpoint_every: 1h, checkpoint_channel: siem}
notify: [{name: siem, type: webhook, url: "` + hook.URL + `", secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, min_tier: revoke}]
`})
	message := func(kind notify.Kind) notify.Message {
		t.Helper()
		for {
			select {
			case b := <-got:
				if b.Type == kind {
					return b.Data
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("no message of kind %s came", kind)
			}
		}
	}
	checkpoint := func() record.Checkpoint {
		t.Helper()
		status, b := n.call(http.MethodPost, "/v1/records/checkpoint", n.admin, "")
		var cp record.Checkpoint
		if err := json.Unmarshal(b, &cp); status != http.StatusOK || err != nil {
			t.Fatalf("status %d, %v: %s", status, err, b)
		}
		return cp
	}
	first := checkpoint()
	n.post(event("1", "mallory", "dump"))
	second := checkpoint()
	if m := message(notify.KindCheckpoint); m.Checkpoint == nil || m.Checkpoint.Signature != first.Signature && m.Checkpoint.Signature != second.Signature {
		t.Errorf("the channel got %+v", m)
	}
	path := filepath.Join(n.dir, "data", "checkpoints.ndjson")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var last record.Checkpoint
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 2 || last.Signature != second.Signature {
		t.Fatalf("the file has %d lines, %v: %s", len(lines), err, b)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", st.Mode(), err)
	}
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}

	// A line that a crash has torn is passed over, and the next is a line again.
	if err := os.WriteFile(path, append(b, `{"v":1,"at":"20`...), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	third := checkpoint()
	if b, err = os.ReadFile(path); err != nil || bytes.Count(b, []byte("\n")) != 4 || !bytes.Contains(b, []byte("\n"+`{"v":1,"at":"20`+"\n"+`{"v":1,`)) {
		t.Fatalf("%v: %s", err, b)
	}
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}

	// Somebody with the database cuts the newest records off, heads and all.
	raw, err := sql.Open("sqlite", filepath.Join(n.dir, "data", "staunch.db"))
	if err != nil {
		t.Fatal(err)
	}
	long := third.Heads[0]
	for _, h := range third.Heads {
		if h.Seq > long.Seq {
			long = h
		}
	}
	for _, q := range []string{
		"DELETE FROM records WHERE lane = ?1 AND seq > ?2",
		"UPDATE lanes SET seq = ?2, hash = (SELECT hash FROM records WHERE lane = ?1 AND seq = ?2) WHERE lane = ?1",
	} {
		if _, err := raw.ExecContext(t.Context(), q, long.Lane, long.Seq-1); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	n.start()
	// It is found without anybody bringing a checkpoint.
	if status, b := n.call(http.MethodGet, "/v1/records/verify", n.admin, ""); status != http.StatusOK || !bytes.Contains(b, []byte(`"breaks":[{`)) {
		t.Errorf("a log that was cut is verified as %d %s", status, b)
	}
	status, answer := n.call(http.MethodPost, "/v1/records/checkpoint", n.admin, "")
	if status != http.StatusConflict || !bytes.Contains(answer, []byte(long.Lane)) {
		t.Errorf("over a log that was cut: %d %s", status, answer)
	}
	if m := message(notify.KindLogChanged); len(m.Why) == 0 || !strings.Contains(m.Why[0], long.Lane) {
		t.Errorf("people were told %+v", m)
	}
	if _, answer = n.call(http.MethodGet, "/v1/doctor", n.admin, ""); !bytes.Contains(answer, []byte("the log was changed")) {
		t.Errorf("doctor says %s", answer)
	}
	now, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(now, b) {
		t.Errorf("a checkpoint was written over a log that was cut: %v, %s", err, now)
	}
}
