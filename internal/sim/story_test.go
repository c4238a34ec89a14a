package sim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/retain"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/store/memory"
)

// deeds are what a story is drawn from; one that stands here twice happens twice
// as often.
var deeds = []string{
	"post", "post", "post", "post", "post", "post", "again", "again", "manual", "manual", "release", "release", "release",
	"clear", "advance", "extend", "approve", "approve", "bad", "bad", "faults", "calm", "down", "up", "third", "die", "start", "start",
	"pause", "resume", "resume", "jump", "sleep", "sleep", "sleep", "reset", "checkpoint", "sweep",
}

var operations = []string{"idle", "login", "login", "issue", "low", "low", "medium", "medium", "other", "high", "critical"}

// play plays one story and returns what was wrong with it.
func play(f *fixed, seed uint64, encoded bool, told func(string)) (problems []string, actions int) {
	w := newWorld(f, seed, encoded, told)
	w.must(w.judge.Update(context.Background(), f.begin))
	for _, n := range w.nodes {
		n.start()
	}
	for range 10 + w.rng.IntN(40) {
		w.deed(deeds[w.rng.IntN(len(deeds))])
		w.always()
		if len(w.problems) > 0 || w.actions >= maxActions {
			break
		}
	}
	if len(w.problems) == 0 {
		w.end()
	}
	if w.actions >= maxActions {
		w.wrong("%v: %s", errBusy, w.busy(func(contain.Case) bool { return false }))
	}
	return w.problems, w.actions
}

// identities are those that are declared. The workers stand in for each other.
func identities() []staunch.Identity {
	out := []staunch.Identity{
		{
			V: 1, Name: "robert", Kind: staunch.IdentityHuman, Owner: "it", Environment: "production", Tolerance: staunch.ToleranceNormal, Managed: true,
			Accounts: []staunch.Ref{account("ann"), account("ben")},
		},
		{
			V: 1, Name: "books", Kind: staunch.IdentityService, Owner: "finance", Environment: "production", Tolerance: staunch.ToleranceStaged, Managed: true,
			Accounts: []staunch.Ref{account("cat")},
		},
	}
	for _, name := range workers {
		out = append(out, staunch.Identity{
			V: 1, Name: "worker " + name, Kind: staunch.IdentityWorkload, Environment: "plant", Purpose: "work", Tolerance: staunch.ToleranceNormal, Managed: true,
			Accounts: []staunch.Ref{account(name)},
		})
	}
	return out
}

// begin puts what every story begins with.
func (f *fixed) begin(tx store.Tx) error {
	err := tx.PutBundle(store.Bundle{Hash: f.bundle.Hash}, true)
	for _, id := range identities() {
		err = errors.Join(err, tx.PutIdentity(id))
	}
	for _, t := range f.tokens {
		if t.row.ID != "" {
			err = errors.Join(err, tx.PutToken(t.row))
		}
	}
	return err
}

func (w *world) pick() string {
	all := w.cases()
	if len(all) == 0 {
		return ""
	}
	return all[w.rng.IntN(len(all))]
}

func (w *world) someNode(ok func(*node) bool) *node {
	var list []*node
	for _, n := range w.nodes {
		if ok(n) {
			list = append(list, n)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[w.rng.IntN(len(list))]
}

func (w *world) deed(what string) {
	switch what {
	case "post":
		var list []*posted
		for range 1 + w.rng.IntN(3) {
			if p := w.makeRecord(operations[w.rng.IntN(len(operations))]); p != nil {
				list = append(list, p)
			}
		}
		if len(list) > 0 {
			w.post(list...)
		}
	case "again":
		if len(w.posted) > 0 {
			w.post(w.posted[w.rng.IntN(len(w.posted))], w.posted[w.rng.IntN(len(w.posted))])
		}
	case "manual":
		w.manual()
	case "release", "clear":
		if id := w.pick(); id != "" {
			r := staunch.Release{Reason: "a false alarm", By: "alice", Revive: w.happens(80)}
			w.request(what+" "+id, func(n *node, tx store.Tx) error {
				end := n.engine.Release
				if what == "clear" {
					end = n.engine.Clear
				}
				_, err := end(tx, id, r)
				return err
			})
		}
	case "advance", "extend", "approve":
		w.turn(what)
	case "faults":
		w.stir()
	case "calm":
		w.faults, w.commits = faults{}, commitFaults{}
	case "down", "up":
		w.down = what == "down"
	case "third":
		name := users[w.rng.IntN(len(users))]
		w.third[name]++
		state := []string{"enabled", "archived", "disabled"}[w.rng.IntN(3)]
		w.tell("a third party makes %s %s", name, state)
		w.platform.SetState(name, state)
	case "die":
		if n := w.someNode(func(n *node) bool { return n.up }); n != nil {
			w.tell("%s is killed", n.name)
			n.up, n.engine, n.pipe = false, nil, nil
		}
	case "start":
		if n := w.someNode(func(n *node) bool { return !n.up }); n != nil {
			n.start()
		}
	case "pause", "resume":
		if n := w.someNode(func(n *node) bool { return n.up && n.paused == (what == "resume") }); n != nil {
			w.tell("%s %s", n.name, what)
			n.paused = what == "pause"
		}
	case "jump":
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		n.offset = []time.Duration{0, 0, time.Second, -time.Second, time.Minute, -time.Hour, 48 * time.Hour, -400 * 24 * time.Hour, 3000 * 24 * time.Hour}[w.rng.IntN(9)]
		w.tell("%s: the clock is off by %s", n.name, n.offset)
	case "reset":
		w.request("reset the breakers", func(_ *node, tx store.Tx) error {
			all, err := tx.Breakers()
			for _, b := range all {
				b.Open = false
				err = errors.Join(err, tx.PutBreaker(b))
			}
			return err
		})
	case "checkpoint":
		w.checkpoint()
	case "sweep":
		w.sweep()
	case "bad":
		w.bad()
	}
	w.loop(w.up(), w.steady.Add([]time.Duration{0, time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute, 20 * time.Minute}[w.rng.IntN(7)]))
}

// sweep has a node whose clock is right delete all that nothing needs, released
// cases among it.
func (w *world) sweep() {
	n := w.someNode(func(n *node) bool { return n.up && n.offset == 0 })
	if n == nil {
		return
	}
	w.sweeps++
	// A crash may leave a case without some of its steps.
	w.left = w.leftAsIs()
	open := map[string]bool{}
	for _, id := range w.cases() {
		w.must(w.view(func(r store.Reader) error {
			c, err := contain.ReadCase(r, id)
			open[id] = c.Containment.Phase.Open()
			for _, s := range c.Steps {
				w.gone[s.ID] = s
			}
			return err
		}))
	}
	n.run(func() {
		s, err := retain.New(retain.Options{
			Store: n.store, Clock: n, Steady: trueClock{w}.Now, Node: n.name,
			Policy: func() retain.Policy { return retain.Policy{Horizon: horizon} },
			Pause:  func(context.Context, time.Duration) error { return nil },
		})
		if err == nil {
			_, err = s.Round(context.Background())
		}
		w.tell("%s sweeps: %v", n.name, err)
		if err != nil && !errors.Is(err, memory.ErrDisk) && !errors.Is(err, staunch.ErrCommitUnknown) {
			w.wrong("%s sweeps: %v", n.name, err)
		}
	})
	for _, id := range w.cases() {
		delete(open, id)
	}
	for _, id := range sorted(open) {
		w.tell("%s is deleted", id)
		if open[id] {
			w.wrong("%s was open and is deleted", id)
		}
	}
}

// horizon is longer than any story, and than clocks are off.
const horizon = 500 * 24 * time.Hour

// remembering also has the steps of cases that were deleted.
type remembering struct {
	store.Reader
	gone map[string]staunch.Step
}

func (r remembering) Step(id string) (staunch.Step, error) {
	if s, ok := r.gone[id]; ok {
		return s, nil
	}
	return r.Reader.Step(id)
}

// stir draws other faults.
func (w *world) stir() {
	some := func(most int) int {
		if w.rng.IntN(2) == 0 {
			return 0
		}
		return 1 + w.rng.IntN(most)
	}
	w.faults = faults{
		before: some(40), lost: some(40), late: some(20), denied: some(5), hollow: some(20), stale: some(60), dies: some(5), other: some(10),
	}
	w.commits = commitFaults{failed: some(10), unknown: some(10), again: some(20), dies: some(4)}
	w.tell("from now on %+v %+v", w.faults, w.commits)
}

func (w *world) subject() staunch.Ref {
	switch n := w.rng.IntN(8); {
	case n == 0:
		return staunch.IdentityRef("robert")
	case n == 1:
		return account(vip + "-one")
	case n < 5 && len(w.sessions) > 0:
		return w.sessions[w.rng.IntN(len(w.sessions))]
	}
	return account(users[w.rng.IntN(len(users))])
}

var books = []staunch.Playbook{
	{Name: "direct", Derived: true, Stages: []staunch.Stage{{Tier: staunch.TierIsolate, Deny: []string{"*"}}}},
	{Name: "quiet", Stages: []staunch.Stage{{Tier: staunch.TierIsolate}}},
	{Name: "staged", Derived: true, Stages: []staunch.Stage{
		{Tier: staunch.TierRestrict, Deny: []string{"write"}, Window: staunch.Duration(2 * time.Second)},
		{Tier: staunch.TierIsolate, Deny: []string{"*"}, Window: staunch.Duration(3 * time.Second)},
		{Tier: staunch.TierRevoke, Deny: []string{"*"}},
	}},
	{Name: "short", Derived: true, Expiry: staunch.Duration(4 * time.Second), OnExpiry: staunch.ExpiryRelease, Stages: []staunch.Stage{
		{Tier: staunch.TierRestrict, Deny: []string{"write"}},
		{Tier: staunch.TierIsolate, Deny: []string{"*"}, Window: staunch.Duration(time.Hour)},
	}},
	{Name: "long", Expiry: staunch.Duration(time.Minute), OnExpiry: staunch.ExpiryExtend, Stages: []staunch.Stage{
		{Tier: staunch.TierIsolate, Deny: []string{"*"}},
	}},
}

// manual has a person contain somebody, or ask for it.
func (w *world) manual() {
	subject, book := w.subject(), books[w.rng.IntN(len(books))]
	tier := staunch.Tier(1 + w.rng.IntN(3))
	approval := w.happens(20)
	opener := fmt.Sprintf("m%d.%d", w.sweeps, w.rng.IntN(20))
	w.request("contain "+subject.String(), func(n *node, tx store.Tx) error {
		now := staunch.TimeOf(n.Now())
		res := staunch.Resolution{Ref: subject, Names: []staunch.Ref{subject}}
		a, err := w.rails.Admit(tx, decide.Request{
			Decision:   staunch.Decision{Subject: subject, Scope: subject, Tier: tier, Verdict: staunch.VerdictContain},
			Resolution: res, Origin: staunch.OriginManual, Own: n.engine.OwnRefs(), Now: now,
		})
		if err != nil {
			return err
		}
		if a.Verdict != staunch.VerdictContain {
			return fmt.Errorf("%w: %s", staunch.ErrConflict, a.Verdict)
		}
		if approval { // what waits has no places
			for _, c := range a.Caps {
				if err := tx.GiveBack(c); err != nil {
					return err
				}
			}
			a.Caps = nil
		}
		_, err = n.engine.Open(tx, contain.OpenRequest{
			Subject: subject, Resolution: res, Origin: staunch.OriginManual, Opener: opener, Tier: tier, Playbook: book, Caps: a.Caps,
			Since: now.Add(-time.Hour), Approval: approval, Requester: "alice",
		})
		return err
	})
}

// turn has a person change the course of a case.
func (w *world) turn(what string) {
	id := w.pick()
	if id == "" {
		return
	}
	by := []string{"alice", "carol"}[w.rng.IntN(2)]
	d := time.Duration(w.rng.IntN(60_000)) * time.Millisecond
	w.request(what+" "+id+" by "+by, func(n *node, tx store.Tx) error {
		con, err := tx.Containment(id)
		if err != nil {
			return err
		}
		switch what {
		case "advance":
			_, err = n.engine.AdvanceWindow(tx, id, by)
		case "extend":
			_, err = n.engine.Extend(tx, id, by, d)
		default:
			hash := ""
			if con.Asked != nil {
				hash = con.Asked.Hash
			}
			_, err = n.engine.Approve(tx, id, by, con.Scope.Hash(), hash)
		}
		return err
	})
}

// wholeLog reads the whole record log, lane by lane.
func wholeLog(r store.Reader) iter.Seq2[staunch.Record, error] {
	return func(yield func(staunch.Record, error) bool) {
		heads, err := r.Heads()
		if err != nil {
			yield(staunch.Record{}, err)
			return
		}
		for _, h := range heads {
			for seq := int64(0); ; {
				page, err := r.Records(h.Lane, seq, 500)
				if err != nil {
					yield(staunch.Record{}, err)
					return
				}
				if len(page) == 0 {
					break
				}
				for _, rec := range page {
					if !yield(rec, nil) {
						return
					}
					seq = rec.Seq
				}
			}
		}
	}
}

func (w *world) checkpoint() {
	w.must(w.view(func(r store.Reader) error {
		cp, err := record.Export(io.Discard, w.chain, w.steady, wholeLog(r))
		if err == nil {
			w.past = &cp
		}
		return err
	}))
}

// busy says which cases are not done, "" when all are.
func (w *world) busy(done func(contain.Case) bool) string {
	var b strings.Builder
	for _, id := range w.cases() {
		w.must(w.view(func(r store.Reader) error {
			c, err := contain.ReadCase(r, id)
			if err != nil || done(c) {
				return err
			}
			con := c.Containment
			fmt.Fprintf(&b, "\n%s on %s is %s at stage %d, replan %v, trouble %q", id, con.Subject, con.Phase, con.Stage, con.Replan, con.Trouble)
			for _, s := range c.Steps {
				fmt.Fprintf(&b, "\n  %s %s %s attempts %d not before %s: %s", s.ID, s.Target, s.State, s.Attempts, s.NotBefore, s.Note)
			}
			return nil
		}))
	}
	return b.String()
}

// quiet reports whether all cases are done.
func (w *world) quiet(done func(contain.Case) bool) bool {
	all := true
	for _, id := range w.cases() {
		w.must(w.view(func(r store.Reader) error {
			c, err := contain.ReadCase(r, id)
			all = all && err == nil && done(c)
			return err
		}))
		if !all {
			break
		}
	}
	return all
}

// settle goes on until every case is done.
func (w *world) settle(what string, done func(contain.Case) bool) bool {
	for range 400 {
		w.loop(w.up(), w.steady.Add(10*time.Second))
		if w.quiet(done) {
			return true
		}
		if w.actions >= maxActions {
			return false
		}
	}
	w.wrong("%s: it does not settle:%s", what, w.busy(done))
	return false
}

// resting reports whether a case waits for something that is far off, or for
// people.
func (w *world) resting(c contain.Case) bool {
	con := c.Containment
	soon := func(at staunch.Time) bool { return at != 0 && at < staunch.TimeOf(w.steady).Add(30*time.Minute) }
	if con.Phase.Open() && con.Expires != 0 && con.Expires <= staunch.TimeOf(w.steady) {
		return false
	}
	if con.Phase == staunch.PhaseWindow && soon(con.WindowEnds) ||
		con.Phase.Open() && soon(con.Expires) && con.Playbook.OnExpiry == staunch.ExpiryRelease {
		return false
	}
	switch con.Phase {
	case staunch.PhaseHeld, staunch.PhaseWindow, staunch.PhaseStuck:
		for _, s := range c.Steps {
			switch s.State {
			case staunch.StepIntended, staunch.StepUnknown, staunch.StepApplied, staunch.StepRead:
				return false
			}
		}
		return !con.Replan
	case staunch.PhaseReleased:
		return true
	case staunch.PhaseApproval:
		return con.Asked != nil
	}
	return false
}

// end has everything calm down, looks, has all released, and looks again.
func (w *world) end() {
	w.tell("all is calm")
	w.faults, w.commits, w.down = faults{}, commitFaults{}, false
	for _, n := range w.nodes {
		// A clock that was off is set right by a restart, as people are told.
		if n.offset = 0; n.up {
			n.up = false
		}
		n.start()
	}
	// What was not acknowledged is sent again.
	for _, p := range w.posted {
		if !p.acked {
			w.post(p)
		}
	}
	if !w.settle("at the end", w.resting) {
		return
	}
	w.invariants(false)
	over := func(c contain.Case) bool { return c.Containment.Phase == staunch.PhaseReleased }
	for range 4 {
		if w.quiet(over) {
			break
		}
		for _, id := range w.cases() {
			w.request("release "+id, func(n *node, tx store.Tx) error {
				_, err := n.engine.Release(tx, id, staunch.Release{Reason: "over", By: "alice", Revive: true})
				return err
			})
		}
		if !w.settle("released", func(c contain.Case) bool {
			p := c.Containment.Phase
			return p == staunch.PhaseReleased || p == staunch.PhaseStuck
		}) {
			return
		}
	}
	if w.settle("released", over) {
		w.invariants(true)
		w.permuted()
	}
}
