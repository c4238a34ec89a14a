package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(pgtest.Main(m),
		// fosite's dependencies start a cache that is never stopped.
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto.(*Cache).processItems"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto.(*defaultPolicy).processItems"),
	)
}

// The engine's configuration. The limits are those of a drill: the defaults stop
// long before a thousand containments, as they should.
const (
	sourceName = "detector"

	configHead = `v: 1
data_dir: data
listen: "@LISTEN@"
mode: enforce
metrics_open: true
sources:
  - {name: detector, format: generic, mapping: detector.yaml, realm: "@REALM@", ceiling: revoke}
rules: [rule.yaml]
suspicion: {revoke_sources: 1}
limits:
  global: {limit: -1}
  source: {limit: -1}
  owner: {limit: -1}
  environment: {limit: -1}
  hourly_global: -1
  hourly_source: -1
  trip_source: -1
  trip_rule: -1
  trip_connector: -1
  trip_global: -1
  min_healthy: -1
  restrict: {limit: -1}
  isolate: {limit: -1}
  revoke: {limit: -1}
  identities: {limit: -1}
  canary_after: -1
  group_share: -1
`

	detectorMapping = `v: 1
name: detector
title: A gateway's log
product: {name: Gateway, vendor_name: staunch}
logsource: {product: bench, service: detector}
secrets:
  at:
    - {path: token, kind: credential, keep: true}
refs:
  token: {kind: credential, scheme: sha256, from: token}
  account: {kind: account, scheme: "@SCHEME@", from: account}
keys:
  id: id
  time: time
  operation: "{method} {path}"
  outcome: success
  source_ip: client_ip
  actor: [token, account]
ocsf:
  classes:
    - class: API Activity
      activity: =Read
      set:
        actor: {user: {name: account, uid: account}}
        api: {operation: "{method} {path}"}
        src_endpoint: {ip: client_ip}
`

	stolenRule = `title: Used from where it has no business
id: 3b1c1c9e-6a0e-4f8e-8f57-0f3b0d9a7711
level: critical
status: stable
logsource: {product: bench, service: detector}
detection:
  used: {path: /export}
  own: {client_ip|cidr: 10.0.0.0/8}
  condition: used and not own
tags: [attack.t1078]
accuse: ["@ACCUSE@"]
`
)

// node is a whole engine in this process, reached over loopback HTTP.
type node struct {
	app    *app.App
	url    string
	source staunch.Secret
	client *http.Client
	spans  *spans
	logs   *logs
}

// setting says what to start.
type setting struct {
	realm, scheme, accuse string
	// more is put behind the head of the configuration, and files beside it.
	more  string
	files map[string]string
	// sources, when not empty, takes the place of the one source.
}

// startNode starts an engine on SQLite in a folder of its own.
func startNode(tb testing.TB, s setting) *node {
	tb.Helper()
	dir := tb.TempDir()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	must(tb, err)
	fill := strings.NewReplacer("@LISTEN@", l.Addr().String(), "@REALM@", s.realm, "@SCHEME@", s.scheme, "@ACCUSE@", s.accuse)
	write(tb, filepath.Join(dir, "staunch.yaml"), fill.Replace(configHead+s.more))
	write(tb, filepath.Join(dir, "detector.yaml"), fill.Replace(detectorMapping))
	write(tb, filepath.Join(dir, "rule.yaml"), fill.Replace(stolenRule))
	for name, content := range s.files {
		write(tb, filepath.Join(dir, name), fill.Replace(content))
	}
	cfg, err := config.Load(filepath.Join(dir, "staunch.yaml"))
	must(tb, err)
	_, err = app.Init(tb.Context(), cfg, "bench")
	must(tb, err)
	set, err := app.Load(cfg, true)
	must(tb, err)
	n := &node{
		url: "http://" + l.Addr().String(), spans: newSpans(), logs: &logs{},
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
	n.app, err = app.New(tb.Context(), set, app.Options{
		Listener: l, Observer: n.spans, OnDecision: n.spans.decided, Log: slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	must(tb, err)
	must(tb, n.app.Start(context.WithoutCancel(tb.Context())))
	tb.Cleanup(func() {
		n.client.CloseIdleConnections()
		if err := n.app.Stop(); err != nil {
			tb.Errorf("stopping the engine: %v", err)
		}
	})
	n.source = n.token(tb, store.Token{Name: "detector", Role: "source", Source: sourceName})
	return n
}

// token makes a token.
func (n *node) token(tb testing.TB, t store.Token) staunch.Secret {
	tb.Helper()
	s, _, err := app.MakeToken(tb.Context(), n.app.Store(), t, "bench")
	must(tb, err)
	return s
}

// accuse posts the record that decides and returns once it is acknowledged.
func (n *node) accuse(ctx context.Context, id, account, token string) error {
	rec := map[string]any{
		"id": id, "time": time.Now().UTC().Format(time.RFC3339Nano), "method": "GET", "path": "/export", "client_ip": "203.0.113.66",
		"user_agent": "curl/8.5.0", "bytes": 52133,
	}
	if account != "" {
		rec["account"] = account
	}
	if token != "" {
		rec["token"] = token
	}
	body, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/v1/ingest/"+sourceName, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+n.source.Reveal())
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var rep struct {
		Signals  int               `json:"signals"`
		Rejected []json.RawMessage `json:"rejected"`
	}
	if err := json.Unmarshal(answer, &rep); err != nil || resp.StatusCode >= 300 || rep.Signals != 1 || len(rep.Rejected) > 0 {
		return fmt.Errorf("posting the deciding record: status %d: %s", resp.StatusCode, answer)
	}
	return nil
}

// calls returns how often each method of the connectors was called, and for how
// many seconds in all, from the engine's own metrics.
func (n *node) calls(tb testing.TB) map[string]callTime {
	tb.Helper()
	resp, err := n.client.Get(n.url + "/metrics")
	must(tb, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	must(tb, err)
	out := map[string]callTime{}
	for _, ln := range strings.Split(string(b), "\n") {
		name, labels, ok := strings.Cut(ln, "{")
		name, is := strings.CutPrefix(name, "staunch_connector_call_seconds_")
		if !ok || !is || name == "bucket" {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		v, err := strconv.ParseFloat(value, 64)
		must(tb, err)
		key := label(labels, "method")
		if verb := label(labels, "verb"); verb != "" {
			key += " " + verb
		}
		c := out[key]
		if name == "count" {
			c.N += v
		} else {
			c.Seconds += v
		}
		out[key] = c
	}
	return out
}

func label(labels, name string) string {
	_, rest, _ := strings.Cut(labels, name+`="`)
	v, _, _ := strings.Cut(rest, `"`)
	return v
}

// callTime is how often something was called and how long that took in all.
type callTime struct {
	N, Seconds float64
}

// steps returns a case with its steps.
func (n *node) steps(tb testing.TB, id string) (con staunch.Containment, steps []staunch.Step) {
	tb.Helper()
	must(tb, n.app.Store().View(context.Background(), func(r store.Reader) error { //nolint:usetesting // also asked in clean-ups
		var err error
		if con, err = r.Containment(id); err != nil {
			return err
		}
		steps, err = r.Steps(id)
		return err
	}))
	return con, steps
}

// span is one action of the executor.
type span struct {
	Kind         contain.ActionKind
	Step         string
	Began, Ended time.Time
	Err          string
}

// spans keeps what the engine tells of its cases.
type spans struct {
	mu     sync.Mutex
	cases  map[staunch.Ref]string // subject → containment
	of     map[string][]span
	waiter map[string]chan struct{}
}

func newSpans() *spans {
	return &spans{cases: map[staunch.Ref]string{}, of: map[string][]span{}, waiter: map[string]chan struct{}{}}
}

var _ contain.Observer = (*spans)(nil)

// Observe implements contain.Observer.
func (s *spans) Observe(con string, a contain.ActionKind, step string, began, ended time.Time, err error) {
	sp := span{Kind: a, Step: step, Began: began, Ended: ended}
	if err != nil {
		sp.Err = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[con] = append(s.of[con], sp)
	if a == contain.DoHold && err == nil {
		if c := s.waiter[con]; c != nil {
			close(c)
			delete(s.waiter, con)
		}
	}
}

func (s *spans) decided(d staunch.Decision) {
	if d.Containment == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cases[d.Subject] = d.Containment
}

// case returns the containment of a subject, "" where there is none.
func (s *spans) caseOf(subject staunch.Ref) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cases[subject]
}

func (s *spans) list(con string) []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.of[con])
}

// held waits until a case is held in full.
func (s *spans) held(ctx context.Context, con string) error {
	s.mu.Lock()
	if slices.ContainsFunc(s.of[con], func(sp span) bool { return sp.Kind == contain.DoHold && sp.Err == "" }) {
		s.mu.Unlock()
		return nil
	}
	c := s.waiter[con]
	if c == nil {
		c = make(chan struct{})
		s.waiter[con] = c
	}
	s.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to be held: %w", con, context.Cause(ctx))
	}
}

// logs keeps the first of the engine's warnings, for a failure's message.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < 8<<10 {
		l.b.Write(p)
	}
	return len(p), nil
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func write(tb testing.TB, path, content string) {
	tb.Helper()
	must(tb, os.WriteFile(path, []byte(content), 0o600))
}
