package app_test

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/store"
)

// records returns the node's records of a kind.
func (n *node) records(kind staunch.RecordKind) []staunch.Record {
	n.t.Helper()
	var out []staunch.Record
	err := n.app.Store().View(n.t.Context(), func(r store.Reader) error {
		out = nil
		heads, err := r.Heads()
		for _, h := range heads {
			recs, err := r.Records(h.Lane, 0, store.MaxPage)
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if rec.Kind == kind {
					out = append(out, rec)
				}
			}
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// TestLoginsAndConfigurationAreOnRecord: who used a token, that a node started,
// and a reload that changed nothing of the bundle.
func TestLoginsAndConfigurationAreOnRecord(t *testing.T) {
	n := newNode(t)
	for range 5 {
		n.cases()
	}
	n.post(event("1", "alice", "read"))
	if status, _ := n.call(http.MethodGet, "/v1/containments", staunch.NewSecret("stn_nonsense"), ""); status != http.StatusUnauthorized {
		t.Errorf("status %d", status)
	}
	// They are written in the background, and what is left when the node stops.
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	n.start()
	logins := n.records(staunch.RecordLogin)
	names := map[string]string{}
	for _, l := range logins {
		names[l.Actor] = string(l.Body)
	}
	if len(logins) != 2 || !strings.Contains(names["root"], `"role":"admin"`) || !strings.Contains(names["root"], `"from":"127.0.0.1"`) || !strings.Contains(names["shipper"], `"source":"events"`) {
		t.Errorf("logins %v", names)
	}
	if r, err := n.app.Reload(t.Context(), "ann", false); err != nil || r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	write(t, n.dir, "staunch.yaml", nodeConfig+"log: {level: warn}\n")
	if r, err := n.app.Reload(t.Context(), "ann", false); err != nil || r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	var configs []string
	for _, c := range n.records(staunch.RecordConfig) {
		if c.Actor == "ann" {
			var b struct{ Config string }
			if err := json.Unmarshal(c.Body, &b); err != nil {
				t.Fatal(err)
			}
			configs = append(configs, b.Config)
		}
	}
	if len(configs) != 2 || !strings.HasPrefix(configs[0], "hmac-sha256:") || configs[0] == configs[1] {
		t.Errorf("reloads left %q", configs)
	}
	cfg, err := config.Load(filepath.Join(n.dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if starts := n.records(staunch.RecordNode); len(starts) != 2 || starts[0].About != cfg.Node || !strings.Contains(string(starts[0].Body), `"started":`) {
		t.Errorf("starts %+v", starts)
	}
}
