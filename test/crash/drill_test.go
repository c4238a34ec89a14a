package crash_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
)

// drillPoints begin the names of the points that only drills pass.
const drillPoints = "drill."

const drillConfig = `v: 1
data_dir: data
key_file: staunch.key
listen: "@LISTEN@"
mode: enforce
log: {level: warn}
rules: [rules]
identities: identities.yaml
sources:
  - {name: events, format: json, realm: json/app}
drills:
  - name: canary
    canary: account:json/app:name:canary
    source: events
    record: '{"id":"{{id}}","time":"{{time}}","user":"canary","action":"dump"}'
`

// TestKill9Drill kills the process at every point that a drill passes, its case's
// opening and its release included: the next process ends the drill, with one case,
// which is released.
func TestKill9Drill(t *testing.T) {
	bin := made.Path(t)
	for _, at := range []string{
		"drill.inject:1", "ingest.written:1", "ingest.committed:1", "open.committed:1", "drill.injected:1", "drill.committed:1",
		"request.written:1", "request.committed:1", "drill.committed:2", "drill.committed:3",
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			n := drillNode(ctx, t, bin)
			c, err := client.New(client.Options{URL: n.url(), Token: n.admin})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			begin := func(at string) {
				t.Helper()
				if err := n.start(ctx, at); err != nil {
					t.Fatal(err)
				}
				if err := n.ready(ctx, http.DefaultClient); err != nil {
					t.Fatal(err)
				}
			}
			begin(at)
			defer func() { n.kill() }()
			_, _ = c.RunDrill(ctx, "canary") // whether the answer comes is part of it
			<-n.ended
			if err := n.killed(); err != nil {
				t.Fatal(err)
			}
			begin("")
			for {
				l, err := c.Drills(ctx, "", client.Page{})
				if err != nil {
					t.Fatal(err)
				}
				if len(l.Items) != 1 {
					t.Fatalf("%d drills", len(l.Items))
				}
				if d := l.Items[0]; d.Phase.Over() {
					if d.Phase != staunch.DrillPassed {
						t.Fatalf("the drill failed: %+v", d)
					}
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			cs, err := c.Containments(ctx, false, client.Page{})
			if err != nil || len(cs.Items) != 1 || cs.Items[0].Phase != staunch.PhaseReleased || cs.Items[0].Drill == "" {
				t.Errorf("the cases: %+v, %v", cs.Items, err)
			}
			rep, err := c.Verify(ctx)
			if err != nil || len(rep.Breaks) > 0 {
				t.Errorf("the record log: %+v, %v", rep, err)
			}
		})
	}
}

// drillNode is staunch on disk with a canary.
func drillNode(ctx context.Context, t *testing.T, bin string) *node {
	t.Helper()
	port, err := freePort(ctx)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{bin: bin, dir: t.TempDir(), addr: fmt.Sprintf("127.0.0.1:%d", port)}
	for name, text := range map[string]string{
		"staunch.yaml":    strings.ReplaceAll(drillConfig, "@LISTEN@", n.addr),
		"identities.yaml": "v: 1\nidentities:\n  - {name: canary, kind: service, tolerance: normal, accounts: [\"account:json/app:name:canary\"]}\n",
		"rules/dump.yaml": "title: Dump\nid: dump\nlevel: high\nlogsource: {product: app}\ndetection: {s: {action: dump}, condition: s}\n",
	} {
		path := filepath.Join(n.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(filepath.Join(n.dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if n.admin, err = app.Init(ctx, cfg, "crash"); err != nil {
		t.Fatal(err)
	}
	return n
}
