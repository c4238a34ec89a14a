package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/formattest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// patience bounds the wait for what has to happen. It is far above what it
// takes, since the machine may be busy.
const patience = 30 * time.Second

// eventually waits until ok. Real systems keep real time, so it looks again and
// again.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("it did not happen in %s: %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// node is staunch in this process.
type node struct {
	tb     testing.TB
	path   string // of staunch.yaml
	addr   string
	app    *app.App
	admin  staunch.Secret
	api    *client.Client
	log    *lines
	passed *passes
	calls  time.Duration // bounds a call to a platform, 0 as usual
}

// passes has the tokens of sources, of all nodes on one database.
type passes struct {
	mu sync.Mutex
	m  map[string]staunch.Secret
}

// of returns the token of a source, which is made when it is first asked for.
func (p *passes) of(source string, create func() staunch.Secret) staunch.Secret {
	p.mu.Lock()
	defer p.mu.Unlock()
	token, ok := p.m[source]
	if !ok {
		token = create()
		p.m[source] = token
	}
	return token
}

// lines is a log that a test can look at.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newNode writes the files, initialises the data folder and starts the node,
// which ends with tb. Its address is written in place of @LISTEN@, and is the
// same after a restart.
func newNode(tb testing.TB, files map[string]string) *node {
	tb.Helper()
	return newHastyNode(tb, files, 0)
}

// newHastyNode is newNode for a node whose calls to platforms do not wait long.
func newHastyNode(tb testing.TB, files map[string]string, calls time.Duration) *node {
	tb.Helper()
	n, l := initNode(tb, files)
	n.calls = calls
	n.serve("the node", l)
	return n
}

// initNode is newNode without the start: it returns the listener as well.
func initNode(tb testing.TB, files map[string]string) (*node, net.Listener) {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n := &node{tb: tb, addr: l.Addr().String(), log: &lines{}, passed: &passes{m: map[string]staunch.Secret{}}}
	dir := tb.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.ReplaceAll(text, "@LISTEN@", n.addr)), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	n.path = filepath.Join(dir, "staunch.yaml")
	cfg, err := config.Load(n.path)
	if err != nil {
		tb.Fatal(err)
	}
	if n.admin, err = app.Init(tb.Context(), cfg, "admin"); err != nil {
		tb.Fatal(err)
	}
	return n, l
}

// serve has the node answer on l and be spoken to as its administrator until the
// test is over; name is for its log where the test failed.
func (n *node) serve(name string, l net.Listener) {
	n.tb.Helper()
	var err error
	if n.api, err = client.New(client.Options{URL: "http://" + n.addr, Token: n.admin}); err != nil {
		n.tb.Fatal(err)
	}
	n.tb.Cleanup(func() {
		n.stop()
		n.api.Close()
		if n.tb.Failed() {
			n.tb.Logf("%s's log:\n%s", name, n.log)
		}
	})
	n.listenOn(l)
}

// start starts the node again, as its files are now.
func (n *node) start() {
	n.tb.Helper()
	var l net.Listener
	eventually(n.tb, "the address is free again", func() bool {
		var err error
		l, err = (&net.ListenConfig{}).Listen(n.tb.Context(), "tcp", n.addr)
		return err == nil
	})
	n.listenOn(l)
}

func (n *node) listenOn(l net.Listener) {
	n.tb.Helper()
	cfg, err := config.Load(n.path)
	if err != nil {
		n.tb.Fatal(err)
	}
	setup, err := app.Load(cfg, true)
	if err != nil {
		n.tb.Fatal(err)
	}
	a, err := app.New(n.tb.Context(), setup, app.Options{Listener: l, CallTimeout: n.calls, Log: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		n.tb.Fatal(err)
	}
	n.app = a
	if err := a.Start(context.WithoutCancel(n.tb.Context())); err != nil {
		n.tb.Fatal(err)
	}
}

// stop stops the node, if it runs.
func (n *node) stop() {
	n.tb.Helper()
	if n.app == nil {
		return
	}
	if err := n.app.Stop(); err != nil {
		n.tb.Errorf("stopping the node: %v", err)
	}
	n.app = nil
}

// token returns the token of a source.
func (n *node) token(source string) staunch.Secret {
	n.tb.Helper()
	return n.passed.of(source, func() staunch.Secret {
		made, err := n.api.CreateToken(n.tb.Context(), api.TokenRequest{Name: source, Role: "source", Source: source})
		if err != nil {
			n.tb.Fatal(err)
		}
		return staunch.NewSecret(made.Secret)
	})
}

// post posts records to a source.
func (n *node) post(source, records string) api.IngestReport {
	n.tb.Helper()
	c, err := client.New(client.Options{URL: "http://" + n.addr, Token: n.token(source)})
	if err != nil {
		n.tb.Fatal(err)
	}
	defer c.Close()
	rep, err := c.Ingest(n.tb.Context(), source, strings.NewReader(records))
	if err != nil || len(rep.Rejected) > 0 {
		n.tb.Fatalf("posting records to %s: %v, rejected %v", source, err, rep.Rejected)
	}
	return rep
}

// cases returns all cases, the newest first.
func (n *node) cases() []staunch.Containment {
	n.tb.Helper()
	got, err := n.api.Containments(n.tb.Context(), false, client.Page{})
	if err != nil {
		n.tb.Fatal(err)
	}
	return got.Items
}

// await waits until the only case is in the phase and at the tier, and returns
// everything about it.
func (n *node) await(phase staunch.Phase, tier staunch.Tier) api.Case {
	n.tb.Helper()
	var c api.Case
	told := "there is no case"
	deadline := time.Now().Add(patience)
	for {
		if all := n.cases(); len(all) > 0 {
			var err error
			if c, err = n.api.Containment(n.tb.Context(), all[0].ID); err != nil {
				n.tb.Fatal(err)
			}
			if con := c.Containment; con.Phase == phase && con.Tier == tier {
				if len(all) != 1 {
					n.tb.Fatalf("there are %d cases, not one: %s", len(all), summary(all))
				}
				return c
			}
			told = summary(all) + "\n" + timeline(c)
		}
		if time.Now().After(deadline) {
			n.tb.Fatalf("no case came to %s at %s in %s: %s", phase, tier, patience, told)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func summary(cases []staunch.Containment) string {
	var out []string
	for _, c := range cases {
		out = append(out, fmt.Sprintf("%s on %s is %s at %s, trouble %q", c.ID, c.Subject, c.Phase, c.Tier, c.Trouble))
	}
	return strings.Join(out, "\n")
}

func timeline(c api.Case) string {
	var b strings.Builder
	for _, m := range c.Timeline {
		fmt.Fprintf(&b, "%10.1f ms  %-9s %s\n", m.AfterMS, m.Kind, m.Text)
	}
	for _, p := range c.Plans {
		for _, g := range p.Gaps {
			fmt.Fprintf(&b, "gap: %s: %s\n", g.Ref, g.Reason)
		}
	}
	return b.String()
}

// proven fails the test unless every effect of the case on a platform is proven.
func (n *node) proven(c api.Case) {
	n.tb.Helper()
	if c.Containment.Trouble != "" {
		n.tb.Errorf("the case is in trouble: %s\n%s", c.Containment.Trouble, timeline(c))
	}
	platform := 0
	for _, h := range c.Holds {
		if h.Plane != staunch.PlanePlatform {
			continue
		}
		platform++
		if h.State != staunch.HoldProven {
			n.tb.Errorf("hold on %s (%s) is %s and not proven: %s", h.Target, h.Verb, h.State, h.Note)
		}
	}
	if platform == 0 {
		n.tb.Errorf("nothing is held on the platform\n%s", timeline(c))
	}
}

// release releases the case: first without saying anything, which has to be
// refused since a stolen secret would come back to life, and then as asked.
func (n *node) release(c api.Case, req api.ReleaseRequest) {
	n.tb.Helper()
	var refused *client.Error
	_, err := n.api.Release(n.tb.Context(), c.Containment.ID, api.ReleaseRequest{Reason: req.Reason})
	if !errors.As(err, &refused) || refused.Code != api.CodeRevives {
		n.tb.Fatalf("a release that revives a secret is answered with %v, not refused", err)
	}
	if _, err := n.api.Release(n.tb.Context(), c.Containment.ID, req); err != nil {
		n.tb.Fatal(err)
	}
}

// sound checks what holds at the end of each story: the chain of records is
// whole, no record was left out, and everything is healthy.
func (n *node) sound() {
	n.tb.Helper()
	rep, err := n.api.Verify(n.tb.Context())
	if err = errors.Join(err, rep.Err()); err != nil || rep.Records == 0 {
		n.tb.Errorf("the chain of %d records: %v", rep.Records, err)
	}
	parked, err := n.api.Parked(n.tb.Context(), client.Page{})
	if err != nil {
		n.tb.Fatal(err)
	}
	for _, p := range parked.Items {
		n.tb.Errorf("line %d of %s was not taken: %s", p.Number, p.Source, p.Reason)
	}
	d, err := n.api.Doctor(n.tb.Context())
	if err != nil {
		n.tb.Fatal(err)
	}
	if !d.Healthy {
		n.tb.Errorf("doctor: %+v", d.Checks)
	}
}

// signals returns all signals.
func (n *node) signals() []staunch.Signal {
	n.tb.Helper()
	var out []staunch.Signal
	var p client.Page
	for {
		got, err := n.api.Signals(n.tb.Context(), p)
		if err != nil {
			n.tb.Fatal(err)
		}
		out = append(out, got.Items...)
		if p.After = got.Next; p.After == "" {
			return out
		}
	}
}

// checkLines puts every line of a platform's real log through the conformance
// check of the format: each is valid OCSF (where STAUNCH_CORPUS is set) or is
// refused with the place and the reason.
func checkLines(tb testing.TB, f format.Format, data []byte) {
	tb.Helper()
	c := formattest.NewChecker(tb, f)
	good, refused := 0, 0
	for i, line := range bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		w := c.Check(tb, line)
		if w.Error == "" {
			good++
			continue
		}
		refused++
		tb.Logf("line %d is refused: %s", i+1, w.Error)
	}
	tb.Logf("%d lines were mapped, %d refused", good, refused)
	if good == 0 {
		tb.Error("no line was mapped")
	}
}
