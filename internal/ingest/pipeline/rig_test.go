package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/mapping"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/policies"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

const realm = "fake/test"

// testMapping reads the records of the platform in memory.
const testMapping = `
v: 1
name: fake
title: The platform in memory
product: {name: Fake, vendor_name: Staunch}
logsource: {product: fake}
accused: [session, credential, account]
secrets:
  at:
    - {path: token, kind: credential, keep: true}
    - {path: password}
refs:
  session: {kind: session, scheme: id, from: session}
  token: {kind: credential, scheme: sha256, from: token}
  user: {kind: account, scheme: name, from: user}
  issued: {kind: credential, scheme: sha256, from: issued}
  abroad: {kind: credential, scheme: sha256, realm: realm, from: abroad}
keys:
  id: id
  time: {from: time}
  operation: op
  source_ip: ip
  outcome:
    - {is: failure, when: {denied: true}}
    - success
  actor: [session, token, user, abroad]
facts:
  - type: session_started
    when: {op: login}
    subject: session
    of: user
  - type: belongs
    when: {op: belongs}
    subject: session
    of: user
  - type: credential_issued
    when: {op: issue}
    subject: issued
    of: user
    by: session
  - type: credential_issued
    when: {op: issue_abroad}
    subject: abroad
    by: session
findings:
  - when: {kind: finding}
    id: =leak
    title: "=A leak"
    confidence: {from: score, scale: 100}
    accuse:
      - [{kind: identity, from: identity}, {kind: account, scheme: name, realm: realm, from: account}, user]
    evidence: =seen
  - when: {kind: named}
    id: detector
    title: "=Named by its record"
    confidence: {from: score, scale: 100}
    accuse: [user]
ocsf:
  unmapped: all
  common:
    metadata.log_name: =fake
`

// rules match the operation by their own name.
const testRules = `
title: faint
id: faint
level: informational
confidence: 0.05
logsource: {product: fake}
detection: {s: {op: faint}, condition: s}
---
title: low
id: low
level: low
logsource: {product: fake}
detection: {s: {op: low}, condition: s}
---
title: medium
id: medium
level: medium
logsource: {product: fake}
detection: {s: {op: medium}, condition: s}
---
title: other medium
id: other
level: medium
logsource: {product: fake}
detection: {s: {op: other}, condition: s}
---
title: high
id: high
level: high
logsource: {product: fake}
detection: {s: {op: high}, condition: s}
---
title: critical
id: critical
level: critical
logsource: {product: fake}
detection: {s: {op: critical}, condition: s}
---
title: account
id: account
level: medium
accuse: [account]
logsource: {product: fake}
detection: {s: {op: account}, condition: s}
---
title: shadow
id: shadow
level: critical
mode: shadow
logsource: {product: fake}
detection: {s: {op: shadow}, condition: s}
---
title: recommend
id: recommend
level: critical
mode: recommend
logsource: {product: fake}
detection: {s: {op: recommend}, condition: s}
---
title: by field
id: field
level: high
accuse: {credential: {field: token, scheme: raw}, account: {field: owner, scheme: name}}
logsource: {product: fake}
detection: {s: {op: field}, condition: s}
`

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// faulty is the store with faults.
type faulty struct {
	store.Store
	mu sync.Mutex
	// inside fails the transaction after everything was done, after reports an
	// unknown outcome of one that committed.
	inside, after error
	// enter is called at the beginning of every Update.
	enter func()
}

func (f *faulty) Update(ctx context.Context, fn func(store.Tx) error) error {
	f.mu.Lock()
	inside, after, enter := f.inside, f.after, f.enter
	f.inside, f.after = nil, nil
	f.mu.Unlock()
	if enter != nil {
		enter()
	}
	err := f.Store.Update(ctx, func(tx store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return inside
	})
	if err != nil {
		return err
	}
	return after
}

// spy is the engine that says what it was asked.
type spy struct {
	pipeline.Opener
	mu    sync.Mutex
	calls []string
}

func (s *spy) say(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
}

func (s *spy) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *spy) Residual(tx store.Tx, id string, ev staunch.Event) error {
	s.say("residual " + id + " " + ev.Operation)
	return s.Opener.Residual(tx, id, ev)
}

func (s *spy) Derived(tx store.Tx, id string) error {
	s.say("derived " + id)
	return s.Opener.Derived(tx, id)
}

// sink keeps the guard holds.
type sink struct {
	mu    sync.Mutex
	holds map[string]staunch.Hold
}

func (s *sink) Apply(h staunch.Hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[h.ID] = h
}

func (s *sink) active() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, h := range s.holds {
		if h.Active() {
			n++
		}
	}
	return n
}

type lineage struct{ inv *inventory.Inventory }

func (l lineage) Resolve(r store.Reader, ref staunch.Ref, at staunch.Time) (staunch.Resolution, error) {
	return l.inv.Resolve(r, ref, at)
}

func (l lineage) Derived(r store.Reader, roots []staunch.Ref, since staunch.Time, limit int) ([]staunch.Ref, bool, error) {
	return l.inv.Derived(r, roots, since, limit)
}

// teller makes a notice of each decision.
type teller struct{}

func (teller) DecisionNotices(d staunch.Decision, now staunch.Time) []store.Notice {
	return []store.Notice{{ID: "not/" + d.ID, Channel: "test", About: d.ID, Body: []byte(d.Verdict), Made: now, Due: now}}
}

type rig struct {
	t        testing.TB
	path     string // of the database
	postgres string // its DSN, where it is no SQLite
	brief    bool   // the database is thrown away after a few records
	fault    func(statement string) error
	clock    *clock
	platform *connectortest.FakePlatform
	keys     *seal.Keyring
	store    *faulty
	engine   *contain.Engine
	spy      *spy
	guard    *sink
	pipe     *pipeline.Pipeline
	src      *pipeline.Source
	bundle   *pipeline.Bundle
	opt      pipeline.Options
	observed []staunch.Decision
}

func testFormat(t testing.TB) format.Format {
	t.Helper()
	f, err := mapping.Compile([]byte(testMapping), "fake.yaml", mapping.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func compileRules(t testing.TB, files ...string) *sigma.Set {
	t.Helper()
	var rules []*sigma.Rule
	for _, text := range files {
		rs, errs := sigma.Parse("rules.yml", []byte(text), sigma.Options{})
		if len(errs) > 0 {
			t.Fatal(errs[0])
		}
		rules = append(rules, rs...)
	}
	set, err := sigma.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func defaultPolicy(t testing.TB, more ...decide.File) *decide.Set {
	t.Helper()
	files, err := decide.ReadFiles(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	set, err := decide.Parse(append(files, more...))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

type option func(*rig, *decide.Limits)

// unlimited lets everything through.
func unlimited(_ *rig, l *decide.Limits) {
	off := decide.Places{Limit: -1}
	*l = decide.Limits{
		Global: off, Source: off, Owner: off, Environment: off, HourlyGlobal: -1, HourlySource: -1,
		TripSource: -1, TripRule: -1, TripConnector: -1, TripGlobal: -1, MinHealthy: -1,
		Restrict: off, Isolate: off, Revoke: off, Identities: off, CanaryAfter: -1, GroupShare: -1,
	}
}

func engineMode(m staunch.Mode) option { return func(r *rig, _ *decide.Limits) { r.opt.Mode = m } }

func newRig(t testing.TB, options ...option) *rig {
	t.Helper()
	r := rigIn(t, t.TempDir(), options...)
	t.Cleanup(r.close)
	return r
}

// rigIn makes a rig whose caller closes it.
func rigIn(t testing.TB, dir string, options ...option) *rig {
	t.Helper()
	r := &rig{
		t: t, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, guard: &sink{holds: map[string]staunch.Hold{}},
	}
	r.bundle, r.src = compiled(t)
	return r.open(dir, options...)
}

// compiled returns what takes long to make and does not change.
func compiled(t testing.TB) (*pipeline.Bundle, *pipeline.Source) {
	t.Helper()
	b := &pipeline.Bundle{Hash: "sha256:one", Rules: compileRules(t, testRules), Policy: defaultPolicy(t)}
	return b, &pipeline.Source{
		Name: "src", Realm: realm, Format: testFormat(t), Ceiling: staunch.TierRevoke,
		Skew: staunch.Duration(5 * time.Minute), Lateness: staunch.Duration(time.Hour),
	}
}

func (r *rig) open(dir string, options ...option) *rig {
	t := r.t
	t.Helper()
	r.platform = connectortest.NewFakePlatform(r.clock)
	key := filepath.Join(dir, "key")
	_, err := os.Stat(key)
	if errors.Is(err, fs.ErrNotExist) {
		err = seal.Generate(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.keys, err = seal.Load(key); err != nil {
		t.Fatal(err)
	}
	chain, err := record.NewChain(r.keys.DeriveKey("records"))
	if err != nil {
		t.Fatal(err)
	}
	r.path = filepath.Join(dir, "db")
	var st store.Store
	if o := (sqlstore.Options{Chain: chain, Fault: r.fault, Ephemeral: r.brief}); r.postgres == "" {
		st, err = sqlstore.OpenSQLite(context.Background(), r.path, o)
	} else {
		st, err = sqlstore.OpenPostgres(context.Background(), staunch.NewSecret(r.postgres), o)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.store = &faulty{Store: st}
	inv := inventory.New(inventory.Limits{})
	r.engine, err = contain.New(contain.Options{
		Store: r.store, Connectors: map[string]connector.Connector{realm: connectortest.NewFake(r.platform, realm)}, Sealer: r.keys,
		Guard: r.guard, Lineage: lineage{inv}, Clock: r.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.spy = &spy{Opener: r.engine}
	own := staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: "name", Value: connectortest.FakeOwn}
	r.opt = pipeline.Options{
		Store: r.store, Inventory: inv, Cases: r.spy, Clock: r.clock, Sealer: r.keys, Mode: staunch.ModeEnforce, Teller: teller{},
		Digest: func(b []byte) string { return fmt.Sprintf("hmac-sha256:%x", r.keys.MAC("record digest", b)) },
		IsOwn:  func(ref staunch.Ref) bool { return ref == own },
		Own:    func() []staunch.Ref { return []staunch.Ref{own} },
		PlatformOf: func(of string) (string, staunch.Mode) {
			if of == realm {
				return "fake", staunch.ModeEnforce
			}
			return "", staunch.ModeEnforce
		},
		Observe: func(d staunch.Decision) { r.observed = append(r.observed, d) },
	}
	// Most tests are about other things than how many at once.
	limits := decide.Limits{Identities: decide.Places{Limit: -1}, CanaryAfter: -1}
	for _, o := range options {
		o(r, &limits)
	}
	if r.opt.Guardrails, err = decide.NewGuardrails(limits); err != nil {
		t.Fatal(err)
	}
	if r.pipe, err = pipeline.New(r.opt, r.bundle); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) close() {
	if err := r.store.Close(); err != nil {
		r.t.Error(err)
	}
}

func account(name string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: "name", Value: name}
}

func session(id string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: realm, Scheme: "id", Value: id}
}

// rec is a record of now with further members.
func (r *rig) rec(id, op, user string, more ...string) string {
	m := map[string]any{"id": id, "op": op, "user": user, "time": r.clock.Now().Format(time.RFC3339Nano)}
	if user == "" {
		delete(m, "user")
	}
	for i := 0; i+1 < len(more); i += 2 {
		var v any
		if json.Unmarshal([]byte(more[i+1]), &v) != nil {
			v = more[i+1]
		}
		m[more[i]] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// ingest takes records, which have to be good.
func (r *rig) ingest(records ...string) pipeline.Report {
	r.t.Helper()
	rep, err := r.pipe.Ingest(context.Background(), r.src, strings.NewReader(strings.Join(records, "\n")), "")
	if err != nil {
		r.t.Fatal(err)
	}
	if len(rep.Rejected) > 0 {
		r.t.Fatalf("rejected: %+v", rep.Rejected)
	}
	return rep
}

func (r *rig) view(fn func(store.Reader) error) {
	r.t.Helper()
	if err := r.store.View(context.Background(), fn); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) update(fn func(store.Tx) error) {
	r.t.Helper()
	if err := r.store.Store.Update(context.Background(), fn); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) decisions() []staunch.Decision {
	r.t.Helper()
	var out []staunch.Decision
	r.view(func(rd store.Reader) (err error) {
		out, err = rd.Decisions(store.Page{Limit: store.MaxPage})
		return err
	})
	return out
}

// last returns the latest decision; the listing's order within one instant is
// by id, so decisions are told apart by how many signals they rest on.
func (r *rig) only() staunch.Decision {
	r.t.Helper()
	ds := r.decisions()
	if len(ds) != 1 {
		r.t.Fatalf("%d decisions, want 1: %+v", len(ds), ds)
	}
	return ds[0]
}

func (r *rig) cases() []staunch.Containment {
	r.t.Helper()
	var out []staunch.Containment
	r.view(func(rd store.Reader) (err error) {
		out, err = rd.Containments(store.Page{Limit: store.MaxPage}, false)
		return err
	})
	return out
}

func (r *rig) signals() []staunch.Signal {
	r.t.Helper()
	var out []staunch.Signal
	r.view(func(rd store.Reader) (err error) {
		out, err = rd.Signals(store.Page{Limit: store.MaxPage})
		return err
	})
	return out
}

func (r *rig) suspicion(ref staunch.Ref) decide.Assessment {
	r.t.Helper()
	var out decide.Assessment
	r.view(func(rd store.Reader) (err error) {
		out, _, _, err = r.pipe.Judge(rd, ref)
		return err
	})
	return out
}

// state is everything that counts, for comparing before and after.
func (r *rig) state() string {
	r.t.Helper()
	var heads []store.Head
	var seq int64
	var notices []store.Notice
	r.view(func(rd store.Reader) (err error) {
		if heads, err = rd.Heads(); err != nil {
			return err
		}
		if notices, err = rd.Notices(staunch.TimeOf(r.clock.Now()).Add(time.Hour), 1000); err != nil {
			return err
		}
		seq, err = rd.HoldSeq()
		return err
	})
	b, err := json.Marshal([]any{r.signals(), r.decisions(), r.cases(), heads, seq, notices})
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *rig) setIdentity(id staunch.Identity) {
	r.t.Helper()
	id.V = staunch.Version
	if id.Kind == "" {
		id.Kind = staunch.IdentityService
	}
	if id.Tolerance == "" {
		id.Tolerance = staunch.ToleranceNormal
	}
	id.Managed = true
	r.update(func(tx store.Tx) error { return tx.PutIdentity(id) })
}

func (r *rig) event(id string) staunch.Event {
	r.t.Helper()
	var out staunch.Event
	r.view(func(rd store.Reader) (err error) {
		out, err = rd.Event(id)
		return err
	})
	return out
}

var errFault = errors.New("fault")
