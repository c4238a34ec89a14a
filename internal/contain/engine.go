package contain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/crashpoint"
	"github.com/staunch-project/staunch/internal/store"
)

// Sealer encrypts pre-images; package seal implements it.
type Sealer interface {
	Seal(purpose string, plain []byte) ([]byte, error)
	Unseal(purpose string, blob []byte) ([]byte, error)
}

// HoldSink is the fast plane: it has a guard hold in force when Apply returns.
// Two transactions that commit at once may have Apply called in any order, so
// what is older than the sequence known of a hold is to be ignored. Apply may be
// called again with the same hold, and must not block.
type HoldSink interface {
	Apply(h staunch.Hold)
}

// Lineage is what the executor needs of the inventory.
type Lineage interface {
	// Resolve returns what is known of ref as of an instant.
	Resolve(r store.Reader, ref staunch.Ref, asOf staunch.Time) (staunch.Resolution, error)
	// Derived returns what was issued by the roots since, bounded; truncated
	// says that there was more.
	Derived(r store.Reader, roots []staunch.Ref, since staunch.Time, limit int) (refs []staunch.Ref, truncated bool, err error)
}

// Teller makes the notices to people about a case. It runs inside the
// transaction that it tells about and only returns rows: nothing is sent.
type Teller interface {
	Notices(event string, c staunch.Containment, steps []staunch.Step, now staunch.Time) []store.Notice
}

// Observer is told of each action and how long it took, for metrics and the
// demo's timeline. It must not block.
type Observer interface {
	Observe(containment string, a ActionKind, step string, began, ended time.Time, err error)
}

// Options are what the engine works with. Store, Connectors, Sealer, Guard,
// Lineage and Clock are required.
type Options struct {
	Store store.Store
	// Connectors has one connector a realm, already wrapped.
	Connectors map[string]connector.Connector
	Sealer     Sealer
	Guard      HoldSink
	Lineage    Lineage
	Teller     Teller
	Observer   Observer
	Clock      staunch.Clock
	// Steady is a clock that nobody sets, for measuring how much time has passed;
	// nil is the process's own.
	Steady func() time.Time
	Log    *slog.Logger
	// Node is the node's name, in records.
	Node string
	// Owner, when given, is asked at the start what this process is called in leases
	// (see store.Owner); nil gives Node.
	Owner func() string
	// Workers bounds the cases worked on at once; 0 gives 32.
	Workers int
	// Queue bounds the cases that wait to be looked at; 0 gives 65,536. What does
	// not find room is found again by a poll.
	Queue int
	// Readers bounds the pre-images of one case that are read at once; 0 gives 8.
	Readers int
	// CallTimeout bounds one call to a platform; 0 gives 10 s. The lease on a case
	// is one and a half times that.
	CallTimeout time.Duration
	// Protected reports why a ref may never be touched, "" where it may.
	Protected func(staunch.Ref) string
	// DerivedLimit bounds what lineage adds to a case; 0 gives 200.
	DerivedLimit int
	// Admit reserves the places of a case that a person approves, in the
	// approval's transaction, and returns their names; an error refuses it. What
	// waits for approval has no places. nil reserves none.
	Admit func(tx store.Tx, con staunch.Containment) (caps []string, err error)
	// Judged is told, in its transaction, of a case's new verdict, and of the one that
	// stood before, nil for none; it returns the rules that the verdict counts for.
	// nil is told nothing.
	Judged func(tx store.Tx, con staunch.Containment, was *staunch.Judged, now staunch.Time) (rules []string, err error)
	// Released is told, in its transaction, of a case that ends, before it gives its
	// places back. nil is told nothing.
	Released func(tx store.Tx, con staunch.Containment) error
	// Approving says what an approval takes at present; nil gives the defaults.
	Approving func() Approving
	// Barred reports why a step must not be called now, "" where it may: it is
	// asked from a snapshot before each call that takes something away, so that
	// what was admitted under other circumstances is not done. nil bars nothing.
	Barred func(r store.Reader, con staunch.Containment, s staunch.Step) (why string, err error)
}

// Engine carries out cases. Its methods are safe for concurrent use.
type Engine struct {
	opt   Options
	owner string // what we are called in leases

	mu      sync.Mutex
	running map[string]*job
	queue   chan string
	closed  bool
	dropped bool // a kick found the queue full
	own     map[staunch.Ref]bool
	unknown []string // realms whose own accounts could not be asked for yet
	timers  map[string]alarm
	// failures counts the failures in a row of a case.
	failures map[string]int
	// followers has the cases that this node saw waiting for a canary, by its id.
	followers map[string]map[string]bool
	// urgent counts the urgent actions that are being carried out.
	urgent atomic.Int64
	wg     sync.WaitGroup

	clock clockWatch
}

// alarm has a case looked at later. Whoever Drives the engine keeps its own
// timers; then there is none.
type alarm struct {
	timer *time.Timer
	at    time.Time
}

func (a alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// job is the memory of one case under work. again says that it was kicked
// meanwhile.
type job struct {
	again bool
	fresh map[string]bool
	// conflicts counts those in a row.
	conflicts int
	// leased is when the commit began that renewed the case's lease last, and
	// lease the lease's generation then; 0 before the first.
	leased time.Time
	lease  int64
	// known is the case as this process's last commit left it, nil where it has
	// to be read. What others change meanwhile is noticed by a kick, by the next
	// commit, which reads the case again, and before anything is waited for.
	known *Case
}

// New returns an engine that does nothing until Start.
func New(opt Options) (*Engine, error) {
	switch {
	case opt.Store == nil, opt.Sealer == nil, opt.Guard == nil, opt.Lineage == nil, opt.Clock == nil:
		return nil, errors.New("contain: Store, Sealer, Guard, Lineage and Clock are required")
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Workers <= 0 {
		opt.Workers = 32
	}
	if opt.Queue <= 0 {
		opt.Queue = 64 * 1024
	}
	if opt.CallTimeout <= 0 {
		opt.CallTimeout = 10 * time.Second
	}
	if opt.Steady == nil {
		opt.Steady = time.Now
	}
	if opt.Readers <= 0 {
		opt.Readers = 8
	}
	if opt.DerivedLimit <= 0 {
		opt.DerivedLimit = 200
	}
	if opt.Node == "" {
		opt.Node = "node"
	}
	return &Engine{
		opt:       opt,
		owner:     opt.Node,
		running:   map[string]*job{},
		queue:     make(chan string, opt.Queue),
		own:       map[staunch.Ref]bool{},
		timers:    map[string]alarm{},
		failures:  map[string]int{},
		followers: map[string]map[string]bool{},
	}, nil
}

// Start asks the connectors for our own accounts, takes up every case that was
// under way, and works until ctx ends. It returns once the workers run.
func (e *Engine) Start(ctx context.Context) error {
	e.Prepare(ctx)
	ids, err := e.openCases(ctx)
	if err != nil {
		return err
	}
	for range e.opt.Workers {
		e.wg.Go(func() { e.work(ctx) })
	}
	e.wg.Go(func() { e.watchTimers(ctx) })
	for _, id := range ids {
		e.Kick(id)
	}
	return nil
}

// Prepare is what Start does before it works: it asks what we are called, begins
// to watch the clock and asks the connectors for our own accounts.
func (e *Engine) Prepare(ctx context.Context) {
	if e.opt.Owner != nil {
		e.owner = e.opt.Owner()
	}
	e.clock.begin(e.opt.Clock.Now(), e.opt.Steady())
	realms := make([]string, 0, len(e.opt.Connectors))
	for realm := range e.opt.Connectors {
		realms = append(realms, realm)
	}
	e.learnOwn(ctx, realms)
}

// Drive carries out one action of a case on the caller's goroutine, for whoever
// does not Start the engine because it has to know what happens when. It returns
// when to look at the case again: a negative time is at once, 0 is when something
// has changed it. What Start does beside, Prepare and Poll do.
func (e *Engine) Drive(ctx context.Context, id string) staunch.Time {
	j := e.jobOf(id)
	wait, more := e.attempt(ctx, id, j)
	if more {
		return -1
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if j.again {
		return -1
	}
	delete(e.running, id)
	if wait > 0 {
		e.timers[id] = alarm{at: e.opt.Steady().Add(wait.Std().Sub(e.opt.Clock.Now()))}
	}
	return wait
}

// Kicked takes the next case from the queue of those to be looked at; it is for
// whoever Drives.
func (e *Engine) Kicked() (id string, ok bool) {
	select {
	case id = <-e.queue:
		return id, true
	default:
		return "", false
	}
}

// Wait returns when every worker has ended after Start's context did.
func (e *Engine) Wait() {
	e.wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for id, t := range e.timers {
		t.stop()
		delete(e.timers, id)
	}
}

// learnOwn asks the realms at once for our own accounts and keeps those that
// did not answer, to be asked again. The connector itself refuses its own
// accounts as well; this is the second wall, so a platform that is down does
// not keep us from starting.
func (e *Engine) learnOwn(ctx context.Context, realms []string) {
	ctx, cancel := context.WithTimeout(ctx, e.opt.CallTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, realm := range realms {
		o, ok := e.opt.Connectors[realm].(connector.Own)
		if !ok {
			continue
		}
		wg.Go(func() {
			refs, err := o.OwnRefs(ctx)
			e.mu.Lock()
			defer e.mu.Unlock()
			if err != nil {
				e.opt.Log.Warn("own accounts are not known yet", "realm", realm, "error", err)
				e.unknown = append(e.unknown, realm)
				return
			}
			for _, r := range refs {
				e.own[r] = true
			}
		})
	}
	wg.Wait()
}

// learnMore asks again for the own accounts that are not known yet.
func (e *Engine) learnMore(ctx context.Context) {
	e.mu.Lock()
	realms := e.unknown
	e.unknown = nil
	e.mu.Unlock()
	if len(realms) > 0 {
		e.learnOwn(ctx, realms)
	}
}

// IsOwn reports whether ref is one of our own accounts or credentials.
func (e *Engine) IsOwn(ref staunch.Ref) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.own[ref]
}

// OwnRefs returns our own accounts and credentials, as far as they are known.
func (e *Engine) OwnRefs() []staunch.Ref {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]staunch.Ref, 0, len(e.own))
	for r := range e.own {
		out = append(out, r)
	}
	return out
}

func (e *Engine) openCases(ctx context.Context) ([]string, error) {
	var ids []string
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		ids = ids[:0]
		page := store.Page{Limit: store.MaxPage}
		for {
			cs, err := r.Containments(page, true)
			if err != nil {
				return err
			}
			for _, c := range cs {
				ids = append(ids, c.ID)
			}
			if len(cs) < page.Limit {
				return nil
			}
			page.After = cs[len(cs)-1].ID
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the open cases: %w", err)
	}
	return ids, nil
}

// Kick has the case looked at soon. It never blocks; a kick that comes while
// the case is being worked on has it looked at once more. When the queue is
// full the timer loop finds the case.
func (e *Engine) Kick(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kickLocked(id)
}

// kickFresh is Kick for a case that was made in the commit just now with steps
// that nobody has called. Where it is being worked on already, they are looked at
// first like any other.
func (e *Engine) kickFresh(id string, steps []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, busy := e.running[id]
	e.kickLocked(id)
	if j := e.running[id]; j != nil && !busy {
		for _, s := range steps {
			j.fresh[s] = true // no worker has the job before the lock is let go
		}
	}
}

func (e *Engine) kickLocked(id string) {
	if e.closed {
		return
	}
	if t, ok := e.timers[id]; ok {
		t.stop()
		delete(e.timers, id)
	}
	if j := e.running[id]; j != nil {
		j.again = true
		return
	}
	select {
	case e.queue <- id:
		e.running[id] = &job{fresh: map[string]bool{}}
	default:
		e.dropped = true
	}
}

// later has the case looked at in d.
func (e *Engine) later(id string, d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	if t, ok := e.timers[id]; ok {
		t.stop()
	}
	e.timers[id] = alarm{time.AfterFunc(max(d, 0), func() { e.Kick(id) }), e.opt.Steady().Add(d)}
}

// nudge is Kick for a case that this node need not know of; one that is being
// worked on, or waits here for a short time, is left alone.
func (e *Engine) nudge(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.timers[id]; ok && t.at.Sub(e.opt.Steady()) <= maxRetry {
		return
	}
	if e.running[id] == nil {
		e.kickLocked(id)
	}
}

// pollEvery is how often durable timers are looked for beside the timers in
// memory, so that what another node or a full queue left behind is found.
const pollEvery = time.Second

// learnEvery is after how many polls own accounts are asked for again.
const learnEvery = 30

// maxRetry bounds the time between two tries of what keeps failing.
const maxRetry = 30 * time.Second

// tellAfter is after how many failures in a row people are told.
const tellAfter = 6

func (e *Engine) watchTimers(ctx context.Context) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		e.Poll(ctx, n)
	}
}

// Poll is one look at what no kick tells of: whether the clock jumped, due
// timers, and now and then, by n, own accounts that are not known yet.
func (e *Engine) Poll(ctx context.Context, n int) {
	if n%learnEvery == 0 {
		e.learnMore(ctx)
	}
	database := e.checkClock(ctx)
	e.mu.Lock()
	dropped := e.dropped
	e.dropped = false
	e.mu.Unlock()
	if dropped {
		ids, err := e.openCases(ctx)
		if err != nil && ctx.Err() == nil {
			e.opt.Log.Error("looking for cases after the queue was full", "error", err)
		}
		for _, id := range ids {
			e.Kick(id)
		}
	}
	// A node whose clock is behind takes over from one that died all the same.
	now := max(staunch.TimeOf(e.opt.Clock.Now()), database)
	var due []store.Timer
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		var err error
		due, err = r.DueTimers(now, 1000)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			e.opt.Log.Error("reading due timers", "error", err)
		}
		return
	}
	for _, d := range due {
		if d.Kind == timerKind {
			e.nudge(d.About)
		}
	}
}

const timerKind = "containment"

func timerID(containment string) string { return "con/" + containment }

func (e *Engine) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-e.queue:
			e.runCase(ctx, id)
		}
	}
}

// errWait ends a run over a case that cannot go on now.
type errWait struct {
	d      time.Duration
	reason string
}

func (w *errWait) Error() string { return w.reason }

// jobOf returns the memory of a case, which begins with this where there is none.
func (e *Engine) jobOf(id string) *job {
	e.mu.Lock()
	defer e.mu.Unlock()
	j := e.running[id]
	if j == nil {
		j = &job{fresh: map[string]bool{}}
		e.running[id] = j
	}
	return j
}

// runCase carries out actions until the case has to wait.
func (e *Engine) runCase(ctx context.Context, id string) {
	j := e.jobOf(id)
	for ctx.Err() == nil {
		wait, more := e.attempt(ctx, id, j)
		if more {
			continue
		}
		e.mu.Lock()
		again := j.again
		if !again {
			delete(e.running, id)
		}
		e.mu.Unlock()
		if again {
			continue
		}
		if wait > 0 {
			e.later(id, wait.Std().Sub(e.opt.Clock.Now()))
		}
		return
	}
	e.mu.Lock()
	delete(e.running, id)
	e.mu.Unlock()
}

// attempt carries out one action. Errors are logged and the case is looked at
// again later, from what is durable. It returns when that is, 0 when something
// has to change first, unless there is more to do at once.
func (e *Engine) attempt(ctx context.Context, id string, j *job) (wait staunch.Time, more bool) {
	e.mu.Lock()
	if j.again {
		j.known = nil
	}
	j.again = false
	e.mu.Unlock()
	wait, err := e.step(ctx, id, j)
	if err != nil {
		e.forget(j)
	}
	var w *errWait
	switch {
	case errors.As(err, &w):
		return staunch.TimeOf(e.opt.Clock.Now()).Add(w.d), false
	case errors.Is(err, staunch.ErrConflict), errors.Is(err, staunch.ErrCommitUnknown):
		// Somebody changed the course, or the commit's outcome is not known:
		// nothing in memory counts any more.
		clear(j.fresh)
		if j.conflicts++; j.conflicts < 5 {
			return 0, true
		}
		return staunch.TimeOf(e.opt.Clock.Now()).Add(time.Second), false
	case errors.Is(err, errGone):
		e.opt.Log.Error("a case is gone", "containment", id, "error", err)
		return 0, false
	case err != nil:
		if ctx.Err() != nil {
			return 0, false
		}
		clear(j.fresh)
		n := e.failedAgain(id)
		e.opt.Log.Error("working on a case", "containment", id, "failures", n, "error", err)
		if n == tellAfter {
			e.tellStalled(ctx, id, err)
		}
		return staunch.TimeOf(e.opt.Clock.Now()).Add(min(250*time.Millisecond<<min(n-1, 10), maxRetry)), false
	case wait < 0: // go on
		j.conflicts = 0
		e.wentOn(id)
		return 0, true
	}
	return wait, false
}

func (e *Engine) failedAgain(id string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures[id]++
	return e.failures[id]
}

func (e *Engine) wentOn(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.failures, id)
}

// tellStalled tells people that a case cannot go on, such as when a platform is
// down before anything could be planned. It is tried again all the same.
func (e *Engine) tellStalled(ctx context.Context, id string, why error) {
	err := e.opt.Store.Update(ctx, func(tx store.Tx) error {
		c, err := ReadCase(tx, id)
		if err != nil {
			return err
		}
		now := staunch.TimeOf(e.opt.Clock.Now())
		con := c.Containment
		if con.Changed = now; con.Trouble == "" {
			con.Trouble = fmt.Sprintf("%s and is tried again: %v", stalledTrouble, why)
		}
		if err := tx.PutContainment(con); err != nil {
			return err
		}
		if err := e.notices(tx, "trouble", con, c.Steps, now); err != nil {
			return err
		}
		return record(tx, staunch.RecordContainment, "engine", id, now, map[string]any{"phase": con.Phase, "trouble": con.Trouble})
	})
	if err != nil && ctx.Err() == nil {
		e.opt.Log.Error("telling people of a case that cannot go on", "containment", id, "error", err)
	}
}

// stalledTrouble begins what is said of a case that cannot go on.
const stalledTrouble = "it cannot go on"

// errGone says that the store has no such case.
var errGone = errors.New("no such case")

// load reads the durable case.
func (e *Engine) load(ctx context.Context, id string) (Case, error) {
	var c Case
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		var err error
		c, err = ReadCase(r, id)
		return err
	})
	return c, err
}

// ReadCase reads the durable case.
func ReadCase(r store.Reader, id string) (Case, error) {
	var c Case
	var err error
	if c.Containment, err = r.Containment(id); err != nil {
		return Case{}, fmt.Errorf("reading containment %s: %w", id, err)
	}
	if c.Steps, err = r.Steps(id); err != nil {
		return Case{}, fmt.Errorf("reading the steps of %s: %w", id, err)
	}
	if c.Holds, err = r.HoldsClaimedBy(id); err != nil {
		return Case{}, fmt.Errorf("reading the holds of %s: %w", id, err)
	}
	if c.Containment.Phase == staunch.PhaseWaiting {
		if c.Canary, err = readCanary(r, c.Containment.Canary); err != nil {
			return Case{}, err
		}
	}
	return c, nil
}

// step carries out one action. It returns when to look again: negative is at
// once, 0 is when kicked.
func (e *Engine) step(ctx context.Context, id string, j *job) (staunch.Time, error) {
	c, read, err := e.caseOf(ctx, id, j)
	if err != nil {
		return 0, err
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	a := Advance(c, e.spec, j.fresh, now)
	if a.Kind == DoNothing && !read {
		e.forget(j)
		return -1, nil // waiting is for what the store says
	}
	if a.Kind == DoExpire {
		// No expiry by a clock that jumped, even if nobody has seen it jump yet.
		e.checkClock(ctx)
		if e.clock.jumped.Load() {
			still := c
			still.Containment.Expires = 0
			a = Advance(still, e.spec, j.fresh, now)
			if a.Kind == DoNothing && a.At == 0 {
				// Its durable timer is due, and would have it looked at every second.
				a.At = now.Add(maxRetry)
			}
		}
	}
	if a.Kind == DoNothing {
		e.follows(c)
		return a.At, nil
	}
	if a.Kind == DoProve && e.urgent.Load() > 0 && proofCanWait(c, a.Step, now) {
		return now.Add(proofPause), nil
	}
	if urgent(a.Kind) {
		e.urgent.Add(1)
		defer e.urgent.Add(-1)
	}
	began := e.opt.Clock.Now()
	crashpoint.At("begin", string(a.Kind))
	err = e.do(ctx, c, a, j)
	crashpoint.At("end", string(a.Kind))
	if e.opt.Observer != nil {
		e.opt.Observer.Observe(id, a.Kind, a.Step, began, e.opt.Clock.Now(), err)
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", a.Kind, a.Step, err)
	}
	return -1, nil
}

// caseOf returns the case as it is known, or else as the store has it; read
// tells which.
func (e *Engine) caseOf(ctx context.Context, id string, j *job) (c Case, read bool, err error) {
	e.mu.Lock()
	known := j.known
	e.mu.Unlock()
	if known != nil {
		return *known, false, nil
	}
	c, err = e.load(ctx, id)
	if errors.Is(err, staunch.ErrNotFound) {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	return c, true, err
}

func (e *Engine) forget(j *job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	j.known = nil
}

// urgent reports whether an action takes access away: everything else waits for
// those when many cases are under work at once.
func urgent(k ActionKind) bool {
	switch k {
	case DoPlan, DoApply, DoLook, DoSweep, DoGo:
		return true
	}
	return false
}

// A proof waits for urgent actions of other cases, in pauses, but not for long.
const (
	proofPause    = 10 * time.Millisecond
	proofPatience = time.Second
)

func proofCanWait(c Case, step string, now staunch.Time) bool {
	s, err := findStep(c, step)
	return err == nil && now.Sub(s.Applied) < proofPatience
}

func (e *Engine) do(ctx context.Context, c Case, a Action, j *job) error {
	switch a.Kind {
	case DoPlan:
		return e.plan(ctx, c, j)
	case DoApply:
		return e.apply(ctx, c, a.Step, j)
	case DoLook:
		return e.look(ctx, c, a.Step, j)
	case DoSweep:
		return e.sweep(ctx, c, a.Step)
	case DoProve:
		return e.prove(ctx, c, a.Step, j)
	case DoJoin:
		return e.join(ctx, c, a.Step)
	case DoRevert:
		return e.revert(ctx, c, a.Step, j)
	case DoDraw:
		return e.drawAsked(ctx, c)
	case DoGo, DoStop:
		return e.endWait(ctx, c, a.Kind)
	case DoWindow, DoNextStage, DoHold, DoExpire, DoFinish:
		return e.turn(ctx, c, a.Kind)
	default:
		return fmt.Errorf("no such action %q", a.Kind)
	}
}

// spec returns the declaration of the verb that the step uses.
func (e *Engine) spec(s staunch.Step) (connector.VerbSpec, bool) {
	c := e.opt.Connectors[s.Target.Ref.Realm]
	if c == nil {
		return connector.VerbSpec{}, false
	}
	return SpecFor(c.Describe(), s.Verb, s.Target)
}

// SpecFor returns what a connector declares for a verb on a target.
func SpecFor(d connector.Description, v staunch.Verb, t staunch.Target) (connector.VerbSpec, bool) {
	for _, s := range d.Verbs {
		if s.Verb != v {
			continue
		}
		if s.Attribute == t.Attribute ||
			len(s.Attribute) > 0 && s.Attribute[len(s.Attribute)-1] == '/' &&
				len(t.Attribute) > len(s.Attribute) && t.Attribute[:len(s.Attribute)] == s.Attribute {
			return s, true
		}
	}
	return connector.VerbSpec{}, false
}

// commit runs fn in a transaction after it has read the case again and found
// the generation that the work was begun under; it renews the lease with it.
func (e *Engine) commit(ctx context.Context, c Case, fn func(tx store.Tx, con *staunch.Containment) error) error {
	began := e.opt.Steady()
	e.mu.Lock()
	j := e.running[c.Containment.ID]
	held := int64(0)
	if j != nil {
		held = j.lease
	}
	e.mu.Unlock()
	var after *Case
	var lease int64
	err := e.opt.Store.Update(ctx, func(stx store.Tx) error {
		tx := &noting{Tx: stx, id: c.Containment.ID}
		con, err := tx.Containment(c.Containment.ID)
		if err != nil {
			return err
		}
		if con.Generation != c.Containment.Generation {
			return fmt.Errorf("%w: the case is at generation %d, not %d", staunch.ErrConflict, con.Generation, c.Containment.Generation)
		}
		var ok bool
		if lease, ok, err = tx.Lease("con/"+con.ID, e.owner, e.leaseTime()); err != nil {
			return err
		} else if !ok {
			// The timer comes when the lease ends: see takeOver.
			return &errWait{d: e.opt.CallTimeout / 2, reason: "another node has the lease"}
		}
		// A node that was held up for long may find its lease free again, and the
		// work done by another that had it meanwhile.
		if held == 0 || lease != held {
			if err := unchanged(tx, c, con); err != nil {
				return err
			}
		}
		if err := fn(tx, &con); err != nil {
			return err
		}
		con.Changed = staunch.TimeOf(e.opt.Clock.Now())
		if err := tx.PutContainment(con); err != nil {
			return err
		}
		crashpoint.Here("commit.before")
		after = tx.over(c, con)
		e.tellFollowers(tx, c.Containment, con)
		return e.putTimer(tx, con)
	})
	crashpoint.Here("commit.after")
	if err == nil {
		e.mu.Lock()
		if j := e.running[c.Containment.ID]; j != nil {
			j.leased, j.lease, j.known = began, lease, after
		}
		e.mu.Unlock()
	}
	return err
}

// unchanged reports a conflict where a case is not any more as it was read.
func unchanged(r store.Reader, c Case, con staunch.Containment) error {
	steps, err := r.Steps(con.ID)
	if err != nil {
		return err
	}
	same := con.Phase == c.Containment.Phase && con.Stage == c.Containment.Stage && len(steps) == len(c.Steps)
	for i := 0; same && i < len(steps); i++ {
		a, b := steps[i], c.Steps[i]
		same = a.ID == b.ID && a.State == b.State && a.Attempts == b.Attempts && a.Sweeps == b.Sweeps
	}
	if !same {
		return fmt.Errorf("%w: another node has gone on with the case", staunch.ErrConflict)
	}
	return nil
}

// noting notes what a transaction writes of a case.
type noting struct {
	store.Tx
	id    string
	steps []staunch.Step
	holds []staunch.Hold
}

func (n *noting) PutStep(s staunch.Step) error {
	err := n.Tx.PutStep(s)
	if err == nil && s.Containment == n.id {
		n.steps = append(n.steps, s)
	}
	return err
}

func (n *noting) PutHold(h staunch.Hold) (staunch.Hold, error) {
	h, err := n.Tx.PutHold(h)
	if err == nil {
		n.holds = append(n.holds, h)
	}
	return h, err
}

// over returns the case c with what was written put over it, nil where the order
// of its steps would have to be asked for.
func (n *noting) over(c Case, con staunch.Containment) *Case {
	if con.Phase == staunch.PhaseWaiting {
		return nil // its canary has to be read with it
	}
	out := Case{Containment: con, Steps: slices.Clone(c.Steps), Holds: slices.Clone(c.Holds)}
	for _, s := range n.steps {
		i := slices.IndexFunc(out.Steps, func(o staunch.Step) bool { return o.ID == s.ID })
		switch {
		case i >= 0:
			out.Steps[i] = s
		case len(c.Steps) > 0:
			return nil
		default:
			out.Steps = append(out.Steps, s) // a first plan's, in their order
		}
	}
	for _, h := range n.holds {
		i := slices.IndexFunc(out.Holds, func(o staunch.Hold) bool { return o.ID == h.ID })
		switch {
		case i >= 0:
			out.Holds[i] = h
		case slices.Contains(h.Claims, n.id):
			out.Holds = append(out.Holds, h)
		}
	}
	return &out
}

// leaseTime is how long a commit keeps a case to this node: for one call, and for
// what goes before it. When the node dies, others take the case up after so long.
func (e *Engine) leaseTime() time.Duration { return 3 * e.opt.CallTimeout / 2 }

// takeOver is when another node takes the case up, unless this one commits again:
// a little after the lease, which is counted by the database's clock, so that the
// first try finds it free.
func (e *Engine) takeOver() staunch.Time {
	return staunch.TimeOf(e.opt.Clock.Now().Add(e.leaseTime() + e.opt.CallTimeout/20))
}

// leased returns how long the lease on a case still runs, 0 where we have none.
func (e *Engine) leased(id string) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	j := e.running[id]
	if j == nil || j.leased.IsZero() {
		return 0
	}
	return e.leaseTime() - e.opt.Steady().Sub(j.leased)
}

// changing returns the context of a call that changes something. The case's lease
// lasts for as long, since who has none may be working beside another node: a node
// that is held up before the call does not make it any more. Most often the commit
// before has just renewed the lease.
func (e *Engine) changing(ctx context.Context, c Case) (context.Context, context.CancelFunc, error) {
	id := c.Containment.ID
	if e.leased(id) < 5*e.opt.CallTimeout/4 {
		if err := e.commit(ctx, c, func(store.Tx, *staunch.Containment) error { return nil }); err != nil {
			return nil, nil, err
		}
	}
	cctx, cancel := context.WithTimeout(ctx, min(e.leased(id), e.opt.CallTimeout))
	return cctx, cancel, nil
}

// putTimer keeps the durable timer of the case in step with it. A case under
// work has one at the end of its lease, so that another node takes it up when
// this one dies.
func (e *Engine) putTimer(tx store.Tx, con staunch.Containment) error {
	at := con.Expires
	switch {
	case con.Phase == staunch.PhaseOpen, con.Phase == staunch.PhaseActing, con.Phase == staunch.PhaseReleasing, con.Replan:
		at = earliest(at, e.takeOver())
	case con.Phase == staunch.PhaseApproval && con.Asked == nil:
		at = earliest(at, e.takeOver())
	case con.Phase == staunch.PhaseWindow:
		at = earliest(con.WindowEnds, con.Expires)
	case con.Phase == staunch.PhaseWaiting:
		at = earliest(con.WaitEnds, con.Expires)
	}
	if at == 0 || !con.Phase.Open() {
		return tx.DeleteTimer(timerID(con.ID))
	}
	return tx.PutTimer(store.Timer{ID: timerID(con.ID), Due: at, Kind: timerKind, About: con.ID})
}
