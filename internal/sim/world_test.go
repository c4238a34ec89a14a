package sim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/store/memory"
)

// fixed is what all stories share; it never changes.
type fixed struct {
	bundle *pipeline.Bundle
	source *pipeline.Source
	chain  *record.Chain
	rails  *decide.Guardrails
	// open are guardrails that let everything through.
	open   *decide.Guardrails
	tokens map[string]token
}

// world is one story.
type world struct {
	*fixed
	seed uint64
	rng  *rand.Rand
	// steady is the time that really is; the database and the platform go by it.
	steady   time.Time
	begun    time.Time // when the story began
	encoded  bool      // the rows are
	crowd    int       // the share of records that are of workers, in percent
	db       *memory.DB
	judge    *memory.Store
	platform *connectortest.FakePlatform
	nodes    []*node
	faults   faults
	commits  commitFaults
	down     bool
	late     []late
	before   map[staunch.Target]stale
	depth    int // of nodes that act in the middle of another's call
	actions  int

	// What happened, by which the end is judged.
	records  int
	posted   []*posted
	sessions []staunch.Ref
	minted   map[staunch.Ref]bool // what a fact says was derived
	logins   int
	third    map[string]int // changes by third parties, by account
	past     *record.Checkpoint
	// What is known of cases that may be deleted: their steps, and the accounts that
	// they could not put back. A request's key is known as long as its case is.
	gone     map[string]staunch.Step
	left     map[string]bool
	sweeps   int
	problems []string
	told     func(string)
}

// commitFaults are the shares of commits, in percent, that end in some way.
type commitFaults struct{ failed, unknown, again, dies int }

// posted is a record that a source sent.
type posted struct {
	id, text string
	acked    bool
	// commits says that it matches a rule or states a fact.
	commits bool
	actor   []staunch.Ref
}

// node is a process.
type node struct {
	w      *world
	name   string
	up     bool
	paused bool
	// offset is how far its clock is off.
	offset time.Duration
	store  *memory.Store
	engine *contain.Engine
	pipe   *pipeline.Pipeline
	guard  *sink
	due    map[string]staunch.Time // cases to be looked at, by its own clock
	polls  int
	poll   time.Time // when it looks around next
}

// Now is the node's clock.
func (n *node) Now() time.Time { return n.w.steady.Add(n.offset) }

type trueClock struct{ w *world }

func (c trueClock) Now() time.Time { return c.w.steady }

// sealer keeps what it is given in plain, since a nonce would make two runs
// differ.
type sealer struct{}

func (sealer) Seal(purpose string, plain []byte) ([]byte, error) {
	return append([]byte(purpose+"\x00"), plain...), nil
}

func (sealer) Unseal(purpose string, blob []byte) ([]byte, error) {
	plain, ok := strings.CutPrefix(string(blob), purpose+"\x00")
	if !ok {
		return nil, errors.New("sealed for another purpose")
	}
	return []byte(plain), nil
}

// sink is a node's fast plane.
type sink struct {
	holds map[string]staunch.Hold
	seq   int64
}

func (s *sink) Apply(h staunch.Hold) {
	if s.holds[h.ID].Seq <= h.Seq {
		s.holds[h.ID] = h
	}
}

// follow applies what other nodes committed.
func (s *sink) follow(r store.Reader) error {
	for {
		holds, err := r.HoldsAfter(staunch.PlaneGuard, s.seq, 100)
		if err != nil || len(holds) == 0 {
			return err
		}
		for _, h := range holds {
			s.Apply(h)
			s.seq = h.Seq
		}
	}
}

type lineage struct{ inv *inventory.Inventory }

func (l lineage) Resolve(r store.Reader, ref staunch.Ref, at staunch.Time) (staunch.Resolution, error) {
	return l.inv.Resolve(r, ref, at)
}

func (l lineage) Derived(r store.Reader, roots []staunch.Ref, since staunch.Time, limit int) ([]staunch.Ref, bool, error) {
	return l.inv.Derived(r, roots, since, limit)
}

type teller struct{}

func (teller) Notices(event string, c staunch.Containment, _ []staunch.Step, now staunch.Time) []store.Notice {
	return []store.Notice{{ID: c.ID + "/" + event, Channel: "sim", About: c.ID, Body: []byte(event), Made: now, Due: now}}
}

func (teller) DecisionNotices(d staunch.Decision, now staunch.Time) []store.Notice {
	return []store.Notice{{ID: "not/" + d.ID, Channel: "sim", About: d.ID, Body: []byte(d.Verdict), Made: now, Due: now}}
}

var (
	users = []string{"ann", "ben", "cat"}
	// workers are a group, half of which has to stay healthy.
	workers = []string{"wim", "wes", "win", "wyn"}
)

const mostWorkers = 2

func newWorld(f *fixed, seed uint64, encoded bool, told func(string)) *world {
	w := &world{
		fixed: f, seed: seed, encoded: encoded, rng: rand.New(rand.NewPCG(seed, 17)), steady: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		before: map[staunch.Target]stale{}, minted: map[staunch.Ref]bool{}, third: map[string]int{}, told: told,
		gone: map[string]staunch.Step{}, left: map[string]bool{},
	}
	w.begun = w.steady
	w.crowd = []int{10, 10, 25, 80}[w.rng.IntN(4)]
	w.db = memory.New(memory.Options{Clock: trueClock{w}, Chain: f.chain, Values: !encoded, Before: w.commitBefore, After: w.commitAfter})
	w.judge = w.db.Open("judge")
	w.platform = connectortest.NewFakePlatform(trueClock{w})
	for _, name := range slices.Concat([]string{vip + "-one", connectortest.FakeOwn}, users, workers) {
		w.platform.AddAccount(name)
	}
	for i := range 1 + w.rng.IntN(3) {
		w.nodes = append(w.nodes, &node{w: w, name: fmt.Sprintf("n%d", i)})
	}
	return w
}

func (w *world) tell(format string, args ...any) {
	if w.told != nil {
		w.told(w.steady.Format("15:04:05.000000 ") + fmt.Sprintf(format, args...))
	}
}

func (w *world) wrong(format string, args ...any) {
	p := fmt.Sprintf(format, args...)
	w.tell("WRONG: %s", p)
	if !slices.Contains(w.problems, p) {
		w.problems = append(w.problems, p)
	}
}

// happens is true in percent of all cases.
func (w *world) happens(percent int) bool { return percent > 0 && w.rng.IntN(100) < percent }

func (w *world) view(fn func(store.Reader) error) error {
	return w.judge.View(context.Background(), fn)
}

// died is how a process dies.
type died struct{ n *node }

func (w *world) mayDie(n *node, where string) {
	if w.happens(w.faults.dies) {
		w.tell("%s dies: %s", n.name, where)
		panic(died{n})
	}
}

func (w *world) named(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil // the judge, or who prepares the story
}

func (w *world) commitBefore(name string) memory.Outcome {
	n := w.named(name)
	if n == nil {
		return memory.Committed
	}
	if w.happens(w.commits.dies) {
		w.tell("%s dies: not committed", name)
		panic(died{n})
	}
	switch {
	case w.happens(w.commits.failed):
		return memory.Failed
	case w.happens(w.commits.unknown):
		return []memory.Outcome{memory.UnknownCommitted, memory.UnknownLost}[w.rng.IntN(2)]
	case w.happens(w.commits.again):
		return memory.Again
	}
	return memory.Committed
}

func (w *world) commitAfter(name string) {
	if n := w.named(name); n != nil && w.happens(w.commits.dies) {
		w.tell("%s dies: committed", name)
		panic(died{n})
	}
}

// run has a node do something that it may die of.
func (n *node) run(fn func()) (alive bool) {
	defer func() {
		switch d := recover().(type) {
		case nil:
		case died:
			if d.n != n {
				panic(d)
			}
			n.up, n.engine, n.pipe = false, nil, nil
		default:
			panic(d)
		}
	}()
	fn()
	return true
}

// teeing has a node's log in the story.
type teeing struct{ n *node }

func (t teeing) Write(b []byte) (int, error) {
	_, line, _ := strings.Cut(string(b), "level=") // without the time that it really was
	t.n.w.tell("%s logs %s", t.n.name, strings.TrimSpace(line))
	return len(b), nil
}

// start starts a process.
func (n *node) start() {
	w := n.w
	w.tell("%s starts", n.name)
	n.store = w.db.Open(n.name)
	n.guard = &sink{holds: map[string]staunch.Hold{}}
	n.due, n.paused = map[string]staunch.Time{}, false
	inv := inventory.New(inventory.Limits{})
	fake := connectortest.NewFake(w.platform, realm)
	var logged *slog.Logger
	if w.told != nil {
		logged = slog.New(slog.NewTextHandler(teeing{n}, nil))
	}
	engine, err := contain.New(contain.Options{
		Store: n.store, Connectors: map[string]connector.Connector{realm: wire{fake, fake, fake, w, n}}, Sealer: sealer{}, Guard: n.guard,
		Lineage: lineage{inv}, Teller: teller{}, Clock: n, Steady: trueClock{w}.Now, Node: n.name, Readers: 1,
		CallTimeout: callTimeout, Protected: protected, Log: logged, Admit: n.admit, Queue: 1024,
	})
	if err != nil {
		w.wrong("making an engine: %v", err)
		return
	}
	n.engine = engine
	n.pipe, err = pipeline.New(pipeline.Options{
		Store: n.store, Inventory: inv, Cases: engine, Clock: n, Guardrails: w.rails, Mode: staunch.ModeEnforce, Teller: teller{},
		Sealer: sealer{}, IsOwn: engine.IsOwn, Own: engine.OwnRefs,
		PlatformOf: func(of string) (string, staunch.Mode) {
			if of == realm {
				return "fake", staunch.ModeEnforce
			}
			return "", staunch.ModeEnforce
		},
	}, w.bundle)
	if err != nil {
		w.wrong("making a pipeline: %v", err)
		return
	}
	n.up = true
	n.run(func() {
		engine.Prepare(context.Background())
		if err := n.look(); err != nil {
			w.wrong("%s: looking around at its start: %v", n.name, err)
		}
		// Start kicks every open case.
		if err := w.view(func(r store.Reader) error {
			open, err := r.Containments(store.Page{Limit: store.MaxPage}, true)
			for _, c := range open {
				n.due[c.ID] = staunch.TimeOf(n.Now())
			}
			return err
		}); err != nil {
			w.wrong("%s: listing the open cases: %v", n.name, err)
		}
	})
}

// admit reserves the places of a case that a person approved.
func (n *node) admit(tx store.Tx, con staunch.Containment) ([]string, error) {
	now := staunch.TimeOf(n.Now())
	res, err := inventory.New(inventory.Limits{}).Resolve(tx, con.Subject, now)
	if err != nil {
		return nil, err
	}
	a, err := n.w.rails.Admit(tx, decide.Request{
		Decision: staunch.Decision{
			ID: con.ID, Subject: con.Subject, Scope: con.Subject, Identity: res.Identity, Tier: con.Tier, Verdict: staunch.VerdictContain,
		},
		Resolution: res, Origin: staunch.OriginManual, Own: n.engine.OwnRefs(), Group: n.w.bundle.Groups.Size(res.Identity), Now: now,
	})
	if err != nil {
		return nil, err
	}
	if a.Verdict != staunch.VerdictContain {
		return nil, fmt.Errorf("%w: %s: %v", staunch.ErrConflict, a.Verdict, a.Reasons)
	}
	return a.Caps, nil
}

// look is what a node does from time to time.
func (n *node) look() error {
	n.polls++
	n.engine.Poll(context.Background(), n.polls)
	if err := n.pipe.RefreshWatch(context.Background()); err != nil {
		return err
	}
	return n.w.view(n.guard.follow)
}

// up are the nodes that can act.
func (w *world) up() []*node {
	var out []*node
	for _, n := range w.nodes {
		if n.up && !n.paused {
			out = append(out, n)
		}
	}
	return out
}

// elsewhere lets another node act while this one is held up.
func (w *world) elsewhere(held *node) {
	if w.depth > 0 || !w.happens(w.faults.other) {
		return
	}
	w.depth++
	defer func() { w.depth-- }()
	others := slices.DeleteFunc(w.up(), func(n *node) bool { return n == held })
	long := time.Duration(w.rng.Int64N(int64(5 * callTimeout)))
	w.tell("%s is held up for %s", held.name, long)
	w.loop(others, w.steady.Add(long))
}

// errBusy says that a story does not come to an end.
var errBusy = errors.New("too many actions")

const maxActions = 100_000

// loop has nodes act until an instant, one action at a time.
func (w *world) loop(nodes []*node, until time.Time) {
	for w.actions < maxActions {
		type task struct {
			n  *node
			id string
		}
		var ready []task
		next := until
		for _, n := range nodes {
			if !n.up || n.paused {
				continue
			}
			if !w.steady.Before(n.poll) {
				n.poll = w.steady.Add(time.Second)
				n.run(func() {
					if err := n.look(); err != nil {
						w.wrong("%s: looking around: %v", n.name, err)
					}
				})
			}
			if !n.up {
				continue
			}
			for {
				id, ok := n.engine.Kicked()
				if !ok {
					break
				}
				n.due[id] = staunch.TimeOf(n.Now())
			}
			now := staunch.TimeOf(n.Now())
			for _, id := range sorted(n.due) {
				if n.due[id] <= now {
					ready = append(ready, task{n, id})
				} else if at := w.steady.Add(n.due[id].Sub(now)); at.Before(next) {
					next = at
				}
			}
		}
		if len(ready) > 0 {
			t := ready[w.rng.IntN(len(ready))]
			w.act(t.n, t.id)
			if !w.steady.Before(until) {
				return
			}
			continue
		}
		if !w.steady.Before(until) {
			return
		}
		for _, l := range w.late {
			if l.at.Before(next) {
				next = l.at
			}
		}
		// Durable timers are looked for every second.
		if err := w.view(func(r store.Reader) error {
			at, err := r.NextTimer()
			if err == nil && at != 0 && len(nodes) > 0 {
				due := at.Std().Add(-nodes[0].offset)
				if due.Before(w.steady) {
					due = w.steady
				}
				if due = due.Add(time.Second); due.Before(next) {
					next = due
				}
			}
			return err
		}); err != nil {
			w.wrong("reading the next timer: %v", err)
			return
		}
		w.pass(max(next.Sub(w.steady), time.Microsecond))
	}
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// act has a node carry out one action of a case.
func (w *world) act(n *node, id string) {
	w.actions++
	n.run(func() {
		w.pass(time.Duration(50+w.rng.IntN(500)) * time.Microsecond)
		wait := n.engine.Drive(context.Background(), id)
		w.tell("%s worked on %s, next at %s", n.name, id, wait)
		switch {
		case wait < 0:
			n.due[id] = staunch.TimeOf(n.Now())
		case wait == 0:
			delete(n.due, id)
		default:
			n.due[id] = wait
		}
	})
}

// post sends records to a node and notes what was acknowledged.
func (w *world) post(list ...*posted) {
	up := w.up()
	if len(up) == 0 {
		return
	}
	n := up[w.rng.IntN(len(up))]
	var body strings.Builder
	for _, p := range list {
		body.WriteString(p.text + "\n")
	}
	before := w.automatic()
	breaker := w.breaker()
	n.run(func() {
		rep, err := n.take("source", body.String())
		w.tell("%s takes %d records: kept %d, duplicates %d, decisions %d, error %v", n.name, len(list), rep.Kept, rep.Duplicates, rep.Decisions, err)
		if err != nil {
			return
		}
		if len(rep.Rejected) > 0 {
			w.wrong("rejected: %+v", rep.Rejected)
		}
		for _, p := range list {
			p.acked = true
		}
	})
	if after := w.automatic(); breaker && after > before {
		w.wrong("I14: %d automatic containments were opened while a breaker was open", after-before)
	}
}

// automatic counts the containments that policy opened.
func (w *world) automatic() int {
	n := 0
	w.must(w.view(func(r store.Reader) error {
		all, err := r.Containments(store.Page{Limit: store.MaxPage}, false)
		for _, c := range all {
			if c.Origin == staunch.OriginPolicy {
				n++
			}
		}
		return err
	}))
	return n
}

// breaker reports whether one is open for the only source.
func (w *world) breaker() bool {
	open := false
	w.must(w.view(func(r store.Reader) error {
		all, err := r.Breakers()
		for _, b := range all {
			open = open || b.Open && (b.Scope == "source/"+w.source.Name || b.Scope == "global")
		}
		return err
	}))
	return open
}

func (w *world) must(err error) {
	if err != nil {
		w.wrong("the judge: %v", err)
	}
}

// makeRecord makes a record of something that somebody did.
func (w *world) makeRecord(op string) *posted {
	w.records++
	user := users[w.rng.IntN(len(users))]
	switch {
	case w.happens(5):
		user = vip + "-one"
	case w.happens(w.crowd):
		user = workers[w.rng.IntN(len(workers))]
	}
	at := w.steady
	switch {
	case w.happens(10):
		at = at.Add(-time.Duration(w.rng.Int64N(int64(3 * time.Hour)))) // late, or too late
	case w.happens(3):
		at = at.Add(time.Hour) // from the future
	}
	id := fmt.Sprintf("r%d", w.records)
	m := map[string]any{"id": id, "op": op, "user": user, "time": at.UTC().Format(time.RFC3339Nano), "ip": "203.0.113.9"}
	p := &posted{id: id, commits: op != "idle", actor: []staunch.Ref{account(user)}}
	switch {
	case op == "login":
		s := w.login(user)
		if s.IsZero() {
			return nil
		}
		m["session"] = s.Value
		p.actor = append(p.actor, s)
	case op == "issue":
		// A session that somebody's session made.
		if len(w.sessions) == 0 {
			return nil
		}
		by := w.sessions[w.rng.IntN(len(w.sessions))]
		name, _, _ := strings.Cut(by.Value, ".")
		s := w.login(name)
		if s.IsZero() {
			return nil
		}
		m["user"], m["session"], m["issued"] = name, by.Value, s.Value
		w.minted[s] = true
		p.actor = []staunch.Ref{by, account(name)}
	case len(w.sessions) > 0 && w.happens(40):
		s := w.sessions[w.rng.IntN(len(w.sessions))]
		name, _, _ := strings.Cut(s.Value, ".")
		m["user"], m["session"] = name, s.Value
		p.actor = []staunch.Ref{s, account(name)}
	}
	b, err := json.Marshal(m)
	if err != nil {
		w.wrong("%v", err)
		return nil
	}
	p.text = string(b)
	w.posted = append(w.posted, p)
	return p
}

func (w *world) login(user string) staunch.Ref {
	w.logins++
	id := w.platform.Login(user)
	if id == "" {
		return staunch.Ref{}
	}
	s := session(id)
	w.sessions = append(w.sessions, s)
	return s
}

// request has a person ask a node for something.
func (w *world) request(what string, fn func(n *node, tx store.Tx) error) {
	up := w.up()
	if len(up) == 0 {
		return
	}
	n := up[w.rng.IntN(len(up))]
	n.run(func() {
		err := n.store.Update(context.Background(), func(tx store.Tx) error { return fn(n, tx) })
		w.tell("%s is asked to %s: %v", n.name, what, err)
		switch {
		case err == nil, errors.Is(err, staunch.ErrConflict), errors.Is(err, staunch.ErrInvalid), errors.Is(err, staunch.ErrForbidden),
			errors.Is(err, staunch.ErrCommitUnknown), errors.Is(err, memory.ErrDisk):
		default:
			w.wrong("%s: %v", what, err)
		}
	})
}

func (w *world) cases() []string {
	var out []string
	w.must(w.view(func(r store.Reader) error {
		all, err := r.Containments(store.Page{Limit: store.MaxPage}, false)
		for _, c := range all {
			out = append(out, c.ID)
		}
		return err
	}))
	return out
}
