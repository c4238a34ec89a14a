package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/test/ledger"
)

// phase is which half of a run a crash falls into.
type phase int

const (
	containing phase = iota
	releasing
)

// crash is one planned death.
type crash struct {
	// At is "point:n", or "kill:" and a duration for a kill -9 from outside.
	At string
}

// idle is the kill between the phases, when there is nothing to do.
var idle = crash{At: "idle"}

// outsideLabel is what a kill at no named point is called.
const outsideLabel = "kill -9 at a random moment"

// labels names what was passed: a commit is named with the action that it is of.
func labels(trace []string) []string {
	out := make([]string, len(trace))
	action := ""
	for i, p := range trace {
		if a, ok := strings.CutPrefix(p, "begin/"); ok {
			action = a
		}
		out[i] = p
		if strings.HasPrefix(p, "commit.") {
			out[i] += " (" + action + ")"
		}
	}
	return out
}

func (c crash) after() (time.Duration, bool) {
	d, ok := strings.CutPrefix(c.At, "kill:")
	if !ok {
		return 0, false
	}
	v, err := time.ParseDuration(d)
	if err != nil {
		panic(err)
	}
	return v, true
}

// scenario is what one run does.
type scenario struct {
	N       int
	Crashes [2][]crash // by phase; each process gets the next
	// Postgres keeps staunch's database in PostgreSQL.
	Postgres bool
	// Rotate gives the role a new password before the release, in place of
	// confirming that the old one comes back to life.
	Rotate bool
	// Expiring has the case run out while it is held; it is kept.
	Expiring bool
}

// verdict is what became of a run.
type verdict struct {
	scenario
	// Hit are the crashes that happened, by label.
	Hit []string
	// Wrong is everything that is not as it has to be.
	Lost, Doubled, Unreleased, Early, Wrong []string
	Repeats                                 int
	Took                                    time.Duration
	// Traces are what the last process of each phase passed, Phases how long they
	// took.
	Traces [2][]string
	Phases [2]time.Duration
	// Log is what the processes said, Sent what the ledger has of the run.
	Log, Sent string
}

func (v *verdict) ok() bool {
	return len(v.Lost)+len(v.Doubled)+len(v.Unreleased)+len(v.Early)+len(v.Wrong) == 0
}

func (v *verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %d (%s store, rotate %t, expiring %t): crashes %v", v.N, map[bool]string{true: "PostgreSQL", false: "SQLite"}[v.Postgres], v.Rotate, v.Expiring, v.Hit)
	for what, list := range map[string][]string{"lost": v.Lost, "doubled": v.Doubled, "unreleased": v.Unreleased, "early": v.Early, "wrong": v.Wrong} {
		for _, l := range list {
			fmt.Fprintf(&b, "\n    %s: %s", what, l)
		}
	}
	if !v.ok() && v.Log != "" {
		b.WriteString("\n    the nodes said:\n" + v.Log + "    the ledger says:\n" + v.Sent)
	}
	return b.String()
}

// run is one run under way.
type run struct {
	scenario
	*verdict
	site    platform
	node    *node
	http    *http.Client
	api     *client.Client
	subject string

	phase  phase
	queue  []crash
	cur    crash
	timer  *time.Timer
	began  time.Time
	posted []string // records that are acknowledged
}

// Limits of a run.
const (
	runLimit   = 3 * time.Minute
	phaseLimit = 80 * time.Second
	pollEvery  = 10 * time.Millisecond
)

// harness is what runs have in common.
type harness struct {
	bin, dir string
}

// play makes one run.
func (h *harness) play(ctx context.Context, st platform, sc scenario) *verdict {
	began := time.Now()
	v := &verdict{scenario: sc}
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	r := &run{
		scenario: sc, verdict: v, site: st,
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}},
	}
	if err := r.all(ctx, h); err != nil {
		r.wrong("%v", err)
	}
	v.Took = time.Since(began)
	return v
}

func (r *run) wrong(format string, args ...any) {
	r.Wrong = append(r.Wrong, fmt.Sprintf(format, args...))
}

func (r *run) lost(format string, args ...any) {
	r.Lost = append(r.Lost, fmt.Sprintf(format, args...))
}

func (r *run) unreleased(format string, args ...any) {
	r.Unreleased = append(r.Unreleased, fmt.Sprintf(format, args...))
}

func (r *run) all(ctx context.Context, h *harness) (err error) {
	dir, err := os.MkdirTemp(h.dir, "run-")
	if err != nil {
		return err
	}
	defer func() {
		if b, rerr := os.ReadFile(filepath.Join(dir, "node.log")); rerr == nil {
			r.Log = string(b)
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	var dsn string
	if r.Postgres {
		var drop func(context.Context) error
		if dsn, drop, err = r.site.(storer).database(ctx, r.N); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, drop(context.WithoutCancel(ctx))) }()
	}
	if r.subject, err = r.site.make(ctx, r.N); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.site.drop(context.WithoutCancel(ctx), r.subject)) }()
	before, err := r.site.state(ctx, r.subject, !r.Rotate)
	if err != nil {
		return err
	}
	if r.node, err = newNode(ctx, nodeOptions{
		bin: h.bin, dir: dir, subjects: []string{r.subject}, postgres: dsn, platform: r.site, expiring: r.Expiring,
	}); err != nil {
		return err
	}
	if r.api, err = client.New(client.Options{URL: r.node.url(), Token: r.node.admin}); err != nil {
		return err
	}
	defer r.api.Close()
	defer r.http.CloseIdleConnections()
	defer func() {
		if r.node.cmd != nil && !r.node.dead() {
			r.node.kill()
		}
		if r.timer != nil {
			r.timer.Stop()
		}
	}()

	th := r.site.thief(ctx, r.subject)
	defer th.stop()
	select {
	case <-th.open:
	case <-time.After(30 * time.Second):
		return errors.New("the thief never got in")
	}
	if err := r.begin(ctx, containing); err != nil {
		return err
	}
	id, caps, err := r.contain(ctx)
	if err != nil {
		return err
	}
	if err := r.whileHeld(ctx, th); err != nil {
		return err
	}
	if err := r.end(ctx); err != nil { // a kill -9 while nothing goes on, and a new process
		return err
	}
	if r.Rotate {
		if err := r.site.rotate(ctx, r.subject); err != nil {
			return err
		}
	}
	if err := r.begin(ctx, releasing); err != nil {
		return err
	}
	if err := r.release(ctx, id); err != nil {
		return err
	}
	th.stop()
	if err := r.afterRelease(ctx, before); err != nil {
		return err
	}
	if err := r.end(ctx); err != nil {
		return err
	}
	return r.finalCheck(ctx, id, caps)
}

// begin starts the first process of a phase.
func (r *run) begin(ctx context.Context, p phase) error {
	r.phase, r.queue = p, slices.Clone(r.Crashes[p])
	err := r.start(ctx)
	r.began = time.Now()
	return err
}

// start starts a process that dies at the next crash of the queue.
func (r *run) start(ctx context.Context) error {
	again := r.cur.At != "" && r.cur.At != idle.At
	r.cur = crash{}
	if len(r.queue) > 0 {
		r.cur, r.queue = r.queue[0], r.queue[1:]
	}
	d, outside := r.cur.after()
	at := r.cur.At
	if outside {
		at = ""
	}
	if err := r.node.start(ctx, at); err != nil {
		return err
	}
	n := r.node
	kill := func() {
		p := n.cmd.Process
		r.timer = time.AfterFunc(d, func() { _ = p.Kill() }) // it may be over
	}
	if outside && again {
		kill() // while it takes up what the one before left
	}
	if err := r.node.ready(ctx, r.http); err != nil {
		return err
	}
	if outside && !again {
		kill() // once there is something to do
	}
	return nil
}

// alive sees to it that a process runs: one that died is looked at and followed
// by the next.
func (r *run) alive(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !r.node.dead() {
			return nil
		}
		if err := r.node.killed(); err != nil {
			return err
		}
		if r.cur.At == "" {
			return errors.New("a process was killed that was not to be")
		}
		label := outsideLabel
		if _, outside := r.cur.after(); !outside {
			trace, err := r.node.passed(r.node.starts)
			if err != nil {
				return err
			}
			label = labels(trace)[len(trace)-1]
		}
		r.Hit = append(r.Hit, label)
		if err := r.crashed(ctx); err != nil {
			return err
		}
		if err := r.start(ctx); err != nil {
			return err
		}
	}
}

// crashed judges what a dead process left.
func (r *run) crashed(ctx context.Context) error {
	a, err := r.node.autopsy(ctx)
	if err != nil {
		return fmt.Errorf("after the crash at %s: %w", r.cur.At, err)
	}
	defer func() { _ = a.close() }()
	if err := a.verify(ctx); err != nil {
		r.wrong("after the crash at %s: %v", r.cur.At, err)
	}
	if err := r.acknowledged(ctx, a); err != nil {
		return err
	}
	intents, err := r.intents(ctx, a)
	if err != nil {
		return err
	}
	j, err := r.site.judge(ctx)
	if err != nil {
		return err
	}
	for _, e := range j.Early(intents) {
		r.Early = append(r.Early, fmt.Sprintf("after the crash at %s: %s", r.cur.At, e))
	}
	return nil
}

// intents returns what is durable of every case's steps.
func (r *run) intents(ctx context.Context, a *autopsy) ([]ledger.Intent, error) {
	cases, err := a.cases(ctx)
	if err != nil {
		return nil, err
	}
	var out []ledger.Intent
	for _, c := range cases {
		steps, err := a.steps(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		for _, s := range steps {
			out = append(out, ledger.Intent{
				Key: s.ID, Sessions: s.Target.Attribute == "sessions", Final: s.Intent.Reversibility == staunch.Irreversible,
				Undo: s.State == staunch.StepReverting || s.State == staunch.StepReverted,
			})
		}
	}
	return out, nil
}

// acknowledged checks that every acknowledged record is there once.
func (r *run) acknowledged(ctx context.Context, a *autopsy) error {
	n, err := a.count(ctx, "SELECT count(*) FROM events")
	if err != nil {
		return err
	}
	// Each record has its own signal, and an event is stored under its id: fewer
	// is a loss, and what was posted but not acknowledged may be there already.
	if n < len(r.posted) {
		r.lost("after the crash at %s: %d records were acknowledged, %d are there", r.cur.At, len(r.posted), n)
	}
	return nil
}

// end waits a moment for a crash that is still due, then kills the process.
func (r *run) end(ctx context.Context) error {
	if r.cur.At != "" {
		select {
		case <-r.node.ended:
			if err := r.alive(ctx); err != nil {
				return err
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	trace, err := r.node.passed(r.node.starts)
	if err != nil {
		return err
	}
	r.Traces[r.phase] = trace
	r.node.kill()
	r.Phases[r.phase] = time.Since(r.began)
	r.cur = idle
	return r.crashed(ctx)
}

// until calls f, which may meet a dead process, until it says that it is done.
func (r *run) until(ctx context.Context, what string, f func() (done bool, err error)) error {
	var last error
	for deadline := time.Now().Add(phaseLimit); ; time.Sleep(pollEvery) {
		if err := r.alive(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		done, err := f()
		if err == nil && done {
			return nil
		}
		if err != nil {
			last = err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s; last: %w", what, phaseLimit, last)
		}
	}
}

// send posts a record until it is acknowledged, as a source does, and returns what
// became of it.
func (r *run) send(ctx context.Context, body []byte) (rep api.IngestReport, err error) {
	err = r.until(ctx, "posting a record", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.node.url()+"/v1/ingest/detector", bytes.NewReader(body))
		if err != nil {
			return false, err
		}
		req.Header.Set("Authorization", "Bearer "+r.node.source.Reveal())
		req.Header.Set("Content-Type", "application/json")
		resp, err := r.http.Do(req)
		if err != nil {
			return false, err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode >= 300 {
			return false, fmt.Errorf("status %s", resp.Status)
		}
		rep = api.IngestReport{}
		return true, json.NewDecoder(resp.Body).Decode(&rep)
	})
	return rep, err
}

func (r *run) record(id, account, path string, more map[string]any) []byte {
	rec := map[string]any{
		"id": id, "time": time.Now().UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano), "method": "GET", "path": path,
		"client_ip": "203.0.113.66", "account": account,
	}
	maps.Copy(rec, more)
	b, err := json.Marshal(rec)
	if err != nil {
		panic(err) // strings always marshal
	}
	return b
}

// take posts a record and notes its acknowledgement.
func (r *run) take(ctx context.Context, id string, body []byte) error {
	rep, err := r.send(ctx, body)
	if err != nil {
		return err
	}
	if rep.Accepted != 1 || rep.Matched != 1 || len(rep.Rejected) > 0 {
		return fmt.Errorf("record %s: %+v", id, rep)
	}
	if !slices.Contains(r.posted, id) {
		r.posted = append(r.posted, id)
	}
	return nil
}

// contain posts the records and waits until the case is held and proven. The
// accusing record is sent again afterwards: it must change nothing.
func (r *run) contain(ctx context.Context) (id string, caps []string, err error) {
	tag := fmt.Sprintf("run-%d-", r.N)
	looked := r.record(tag+"look", "bystander", "/look", nil)
	stolen := r.record(tag+"theft", r.subject, "/export", r.site.evidence())
	if err := r.take(ctx, tag+"look", looked); err != nil {
		return "", nil, err
	}
	if err := r.take(ctx, tag+"theft", stolen); err != nil {
		return "", nil, err
	}
	err = r.until(ctx, "waiting for the case to be held", func() (bool, error) {
		list, err := r.api.Containments(ctx, false, client.Page{})
		if err != nil {
			return false, err
		}
		if len(list.Items) == 0 {
			return false, errors.New("there is no case")
		}
		id = list.Items[0].ID
		c, err := r.api.Containment(ctx, id)
		if err != nil {
			return false, err
		}
		con := c.Containment
		if len(con.Caps) > 0 {
			caps = con.Caps
		}
		for _, s := range c.Steps {
			if s.State != staunch.StepProven {
				return false, fmt.Errorf("%s: step %s is %s: %s", con.Phase, s.Target, s.State, s.Note)
			}
		}
		if con.Phase != staunch.PhaseHeld || r.Expiring && con.Expires != 0 {
			return false, fmt.Errorf("the case is %s", con.Phase)
		}
		if len(c.Steps) < r.site.steps() {
			return false, fmt.Errorf("it has %d steps, not %d", len(c.Steps), r.site.steps())
		}
		if r.cur.At != "" {
			// A crash at the very end of the phase is still to come.
			time.Sleep(30 * time.Millisecond)
			return !r.node.dead(), nil
		}
		return true, nil
	})
	if err != nil {
		r.lost("the case did not come to be held and proven")
		return "", nil, err
	}
	if len(caps) == 0 {
		return "", nil, errors.New("the case took no caps")
	}
	more := r.record(tag+"more", "bystander", "/look", nil)
	if err := r.take(ctx, tag+"more", more); err != nil {
		return "", nil, err
	}
	return id, caps, r.take(ctx, tag+"theft", stolen)
}

// whileHeld checks that nothing works for the role.
func (r *run) whileHeld(ctx context.Context, th *thief) error {
	before := th.success.Load()
	left, err := r.site.access(ctx, r.subject)
	if err != nil {
		return err
	}
	if left != "" {
		r.lost("while the case is held: %s", left)
	}
	time.Sleep(2 * loginEvery) // the thief goes on
	if n := th.success.Load() - before; n > 0 {
		r.lost("the thief succeeded %d times while the case was held", n)
	}
	return r.until(ctx, "verifying the records", func() (bool, error) {
		rep, err := r.api.Verify(ctx)
		if err == nil && len(rep.Breaks) > 0 {
			r.wrong("audit verify while held: %v", rep.Breaks)
		}
		return err == nil, err
	})
}

// release asks for the release until it is done.
func (r *run) release(ctx context.Context, id string) error {
	err := r.until(ctx, "releasing", func() (bool, error) {
		c, err := r.api.Containment(ctx, id)
		if err != nil {
			return false, err
		}
		switch c.Containment.Phase {
		case staunch.PhaseReleased:
			if r.cur.At != "" {
				time.Sleep(30 * time.Millisecond)
				return !r.node.dead(), nil
			}
			return true, nil
		case staunch.PhaseReleasing:
			return false, errors.New("still releasing")
		case staunch.PhaseHeld:
			_, err := r.api.Release(ctx, id, api.ReleaseRequest{Reason: "the run is over", Rotated: r.Rotate, Revive: !r.Rotate})
			return false, err
		default:
			return false, fmt.Errorf("it is %s: %s", c.Containment.Phase, c.Containment.Trouble)
		}
	})
	if err != nil {
		r.unreleased("the case was not released")
	}
	return err
}

// afterRelease checks that everything is as it was, and that records that are
// sent again open nothing.
func (r *run) afterRelease(ctx context.Context, before string) error {
	after, err := r.site.state(ctx, r.subject, !r.Rotate)
	if err != nil {
		return err
	}
	if after != before {
		r.unreleased("what was put back differs:\n%s", differ(before, after))
	}
	works, stolen, err := r.site.works(ctx, r.subject, r.Rotate)
	if err != nil {
		return err
	}
	if !works {
		r.unreleased("the subject cannot log in and work")
	}
	if stolen {
		r.wrong("what was stolen works after the release and must not")
	}
	tag := fmt.Sprintf("run-%d-", r.N)
	return r.take(ctx, tag+"last", r.record(tag+"last", "bystander", "/look", nil))
}

func differ(a, b string) string {
	var out []string
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range as {
		if !slices.Contains(bs, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range bs {
		if !slices.Contains(as, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// finalCheck judges the whole ledger and what staunch's database keeps.
func (r *run) finalCheck(ctx context.Context, id string, caps []string) error {
	a, err := r.node.autopsy(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = a.close() }()
	if err := a.verify(ctx); err != nil {
		r.wrong("at the end: %v", err)
	}
	intents, err := r.intents(ctx, a)
	if err != nil {
		return err
	}
	j, err := r.site.judge(ctx)
	if err != nil {
		return err
	}
	lost, doubled, repeats := j.Account(intents, r.subject)
	r.Lost, r.Doubled = append(r.Lost, lost...), append(r.Doubled, doubled...)
	r.Wrong, r.Repeats = append(r.Wrong, j.Wrong...), repeats
	for _, e := range j.Effects {
		r.Sent += fmt.Sprintf("        %s %s %s took effect: %t %v\n", e.At.Format("15:04:05.000"), e.Key, e.Kind, e.Took, e.Backends)
	}

	cases, err := a.cases(ctx)
	if err != nil {
		return err
	}
	for _, c := range cases {
		if c.ID != id {
			r.Doubled = append(r.Doubled, fmt.Sprintf("a second case: %s on %s, %s", c.ID, c.Subject, c.Phase))
		}
		if c.Phase != staunch.PhaseReleased || len(c.Caps) > 0 {
			r.unreleased("case %s is %s with caps %v: %s", c.ID, c.Phase, c.Caps, c.Trouble)
		}
	}
	if err := r.leftovers(ctx, a, id, caps); err != nil {
		return err
	}
	for _, c := range []struct {
		what, query string
		want        int
		args        []any
	}{
		{"events", "SELECT count(*) FROM events", len(r.posted), nil},
		{"signals", "SELECT count(*) FROM signals", len(r.posted), nil},
	} {
		n, err := a.count(ctx, c.query, c.args...)
		switch {
		case err != nil:
			return err
		case n < c.want:
			r.lost("%d %s, want %d", n, c.what, c.want)
		case n > c.want:
			r.Doubled = append(r.Doubled, fmt.Sprintf("%d %s, want %d", n, c.what, c.want))
		}
	}
	for _, c := range []struct {
		what, query string
		args        []any
	}{
		{"sealed states", "SELECT count(*) FROM sealed WHERE id LIKE 'pre/%' OR id LIKE 'post/%'", nil},
		{"leases held", "SELECT count(*) FROM leases WHERE name = $1 AND owner <> ''", []any{"con/" + id}},
		{"timers", "SELECT count(*) FROM timers WHERE about = $1", []any{id}},
	} {
		n, err := a.count(ctx, c.query, c.args...)
		if err != nil {
			return err
		}
		if n > 0 {
			r.unreleased("%d %s are left", n, c.what)
		}
	}
	return nil
}

// leftovers looks at holds, steps and caps.
func (r *run) leftovers(ctx context.Context, a *autopsy, id string, caps []string) error {
	return a.store.View(ctx, func(rd store.Reader) error {
		for _, plane := range []staunch.Plane{staunch.PlaneGuard, staunch.PlanePlatform} {
			holds, err := rd.HoldsAfter(plane, 0, 1000)
			if err != nil {
				return err
			}
			for _, h := range holds {
				if h.Active() && (h.State != staunch.HoldKept || h.Note == "") {
					r.unreleased("hold %s on %s is %s: %s", h.ID, h.Target, h.State, h.Note)
				}
			}
		}
		steps, err := rd.Steps(id)
		if err != nil {
			return err
		}
		for _, s := range steps {
			if s.State != staunch.StepReverted && (s.State != staunch.StepKept || s.Note == "") {
				r.unreleased("step %s on %s is %s: %s", s.ID, s.Target, s.State, s.Note)
			}
		}
		for _, name := range caps {
			c, err := rd.Cap(name)
			if err != nil {
				return err
			}
			if c.Used != 0 {
				r.unreleased("cap %s has %d places taken", name, c.Used)
			}
		}
		return nil
	})
}
