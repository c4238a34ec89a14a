package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/test/ledger"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

var (
	clusterFor      = flag.Duration("cluster-for", 8*time.Second, "how long the nodes of a cluster are killed and held up, while it contains and again while it releases")
	clusterNodes    = flag.Int("cluster-nodes", 3, "how many nodes a cluster has")
	clusterSubjects = flag.Int("cluster-subjects", 12, "how many roles a cluster contains and releases")
)

// overLease is longer than the lease on a case, so that another node takes over
// from one that is held up or dead for so long.
const overLease = 17 * time.Second

// clusterMore lets the cluster contain as many as there are.
const clusterMore = `guard: {subjects: [{type: user, kind: account, realm: "` + realm + `", scheme: "@SCHEME@"}]}
limits:
  global: {limit: 10000}
  source: {limit: 10000}
  owner: {limit: 10000}
  environment: {limit: 10000}
  restrict: {limit: 10000}
  isolate: {limit: 10000}
  revoke: {limit: 10000}
  identities: {limit: 10000}
  hourly_global: 10000
  hourly_source: 10000
  trip_source: 10000
  trip_rule: 10000
  trip_connector: 10000
  trip_global: 10000
  canary_after: 10000
`

// cluster is several nodes on one PostgreSQL database, whose processes die and are
// held up.
type cluster struct {
	*run
	site  *site
	nodes []*member
	roles []string
	pep   staunch.Secret

	mu    sync.Mutex
	tally map[string]int       // of what was done to the nodes
	acked map[string]time.Time // when the record that accuses a role was acknowledged first
	took  []time.Duration      // from there until the role was seen to be held and proven
}

// member is a node of the cluster.
type member struct {
	*node
	api *client.Client
	// mu is held while the process is changed.
	mu sync.Mutex
}

// TestKill9Cluster has three nodes on one PostgreSQL contain a dozen roles and
// release them, while each of them is killed, held up and started again at random,
// all at once or one after another, some for longer than their leases. Records and
// requests go to any node. The platform's own log is the judge; and while nodes
// sleep and wake up, none may let anybody in whose hold on the fast plane was said
// to be proven.
func TestKill9Cluster(t *testing.T) {
	pgtest.Require(t)
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	limit := 5*time.Minute + 2**clusterFor
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := newCluster(ctx, t)
	began := time.Now()
	if err := c.all(ctx, rand.New(rand.NewPCG(seed, 1))); err != nil {
		c.wrong("%v", err)
	}
	c.N = int(seed)
	for _, m := range c.nodes {
		if b, err := os.ReadFile(filepath.Join(m.dir, "node.log")); err == nil {
			c.Log += "    " + filepath.Base(m.dir) + ":\n" + string(b)
		}
	}
	if !c.ok() {
		t.Errorf("seed %d: %s", seed, c.verdict)
	}
	slices.Sort(c.took)
	if n := len(c.took); n > 0 {
		t.Logf("acknowledged → seen to be held and proven, of %d: p50 %s, at most %s", n, c.took[n/2].Round(time.Millisecond), c.took[n-1].Round(time.Millisecond))
	}
	t.Logf("%d nodes, %d roles, %s: %v\n%d lost, %d doubled, %d unreleased, %d before their intent, %d otherwise wrong; %d repeats that named a session again\n"+
		"go test -count=1 -timeout 0 -v ./test/crash -run '^%s$' -args -cluster-nodes %d -cluster-subjects %d -cluster-for %s -seed %d",
		len(c.nodes), len(c.roles), time.Since(began).Round(time.Second), c.tally,
		len(c.Lost), len(c.Doubled), len(c.Unreleased), len(c.Early), len(c.Wrong), c.Repeats,
		t.Name(), *clusterNodes, *clusterSubjects, *clusterFor, seed)
}

func newCluster(ctx context.Context, t *testing.T) *cluster {
	t.Helper()
	server := startServer(t)
	st := newSite(t, server, 0)
	dsn, _, err := st.database(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	v := &verdict{scenario: scenario{Postgres: true}}
	c := &cluster{
		run:  &run{scenario: v.scenario, verdict: v, site: st, http: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}},
		site: st, tally: map[string]int{}, acked: map[string]time.Time{},
	}
	t.Cleanup(c.http.CloseIdleConnections)
	for n := range *clusterSubjects {
		role, err := st.make(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		c.roles = append(c.roles, role)
	}
	dir := t.TempDir()
	for n := range *clusterNodes {
		name := fmt.Sprintf("node-%d", n+1)
		o := nodeOptions{
			bin: made.Path(t), dir: filepath.Join(dir, name), name: name, subjects: c.roles, postgres: dsn, platform: st, more: clusterMore,
		}
		m := &member{}
		if n == 0 {
			m.node, err = newNode(ctx, o)
		} else {
			m.node, err = joinNode(ctx, c.nodes[0].node, o)
		}
		if err == nil {
			m.api, err = client.New(client.Options{URL: m.url(), Token: m.admin})
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.api.Close)
		c.nodes = append(c.nodes, m)
	}
	s, err := c.nodes[0].open(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.pep, _, err = app.MakeToken(ctx, s, store.Token{Name: "pep", Role: "pep"}, "crash"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) all(ctx context.Context, rng *rand.Rand) error {
	before := map[string]string{}
	for _, role := range c.roles {
		var err error
		if before[role], err = c.site.state(ctx, role, true); err != nil {
			return err
		}
	}
	defer c.stop()
	for _, m := range c.nodes {
		if err := m.start(ctx, ""); err != nil {
			return err
		}
		if err := m.ready(ctx, c.http); err != nil {
			return err
		}
	}
	thieves := map[string]*thief{}
	for _, role := range c.roles[:min(3, len(c.roles))] {
		th := c.site.thief(ctx, role)
		defer th.stop()
		thieves[role] = th
		select {
		case <-th.open:
		case <-time.After(30 * time.Second):
			return errors.New("the thief never got in")
		}
	}
	watch := c.watchGuards(ctx)
	defer watch.stop()

	cases, err := c.contain(ctx, rng, watch)
	if err != nil {
		return err
	}
	if err := c.held(ctx, thieves); err != nil {
		return err
	}
	watch.stop() // from here on they are let in again
	for _, th := range thieves {
		th.stop()
	}
	if err := c.release(ctx, rng, cases); err != nil {
		return err
	}
	for _, role := range c.roles {
		after, err := c.site.state(ctx, role, true)
		if err != nil {
			return err
		}
		if after != before[role] {
			c.unreleased("what was put back of %s differs:\n%s", role, differ(before[role], after))
		}
		works, _, err := c.site.works(ctx, role, false)
		if err != nil {
			return err
		}
		if !works {
			c.unreleased("%s cannot log in and work", role)
		}
	}
	c.stop()
	return c.final(ctx, cases)
}

// stop kills every process.
func (c *cluster) stop() {
	for _, m := range c.nodes {
		m.mu.Lock()
		if m.cmd != nil && !m.dead() {
			m.kill()
		}
		m.mu.Unlock()
	}
}

// acknowledge notes that a role's record was acknowledged, if it is the first time.
func (c *cluster) acknowledge(role string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.acked[role].IsZero() {
		c.acked[role] = time.Now()
	}
}

func (c *cluster) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tally[what]++
}

// trouble kills and holds up each node at random for a time, then has all of them
// run. One is held up, and one is dead, for longer than a lease.
func (c *cluster) trouble(ctx context.Context, rng *rand.Rand) (wait func() error) {
	var wg sync.WaitGroup
	until := time.Now().Add(*clusterFor)
	errs := make([]error, len(c.nodes))
	long := rng.Perm(len(c.nodes))
	for i, m := range c.nodes {
		own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		asleep, dead := long[i] == 0, long[i] == 1
		wg.Go(func() {
			for errs[i] == nil && ctx.Err() == nil && time.Now().Before(until) {
				time.Sleep(time.Duration(own.IntN(1200)) * time.Millisecond)
				d := time.Duration(own.IntN(1500)) * time.Millisecond
				switch {
				case asleep:
					asleep = false
					errs[i] = c.holdUp(m, overLease)
				case dead:
					dead = false
					errs[i] = c.killFor(ctx, m, overLease)
				case own.IntN(2) == 0:
					errs[i] = c.killFor(ctx, m, d)
				case own.IntN(4) == 0:
					errs[i] = c.holdUp(m, 10*d) // longer than the guard's place lasts
				default:
					errs[i] = c.holdUp(m, d)
				}
			}
		})
	}
	return func() error {
		wg.Wait()
		return errors.Join(errs...)
	}
}

// killFor kills a process and starts the node's next one after d.
func (c *cluster) killFor(ctx context.Context, m *member, d time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead() {
		return fmt.Errorf("a process ended by itself: %s", m.cmd.ProcessState)
	}
	m.kill()
	c.count("killed")
	if d >= overLease {
		c.count("dead for longer than a lease")
	}
	time.Sleep(d)
	if err := m.start(ctx, ""); err != nil {
		return err
	}
	return m.ready(ctx, c.http)
}

// holdUp stops a process in the middle of what it does and lets it go on after d.
func (c *cluster) holdUp(m *member, d time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead() {
		return fmt.Errorf("a process ended by itself: %s", m.cmd.ProcessState)
	}
	c.count("held up")
	if d >= overLease {
		c.count("held up for longer than a lease")
	}
	err := m.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(d)
	return errors.Join(err, m.cmd.Process.Signal(syscall.SIGCONT))
}

// anywhere asks one node after another until one has done it.
func (c *cluster) anywhere(ctx context.Context, rng *rand.Rand, what string, f func(ctx context.Context, m *member) (done bool, err error)) error {
	var last error
	for deadline := time.Now().Add(2*time.Minute + *clusterFor); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		within, cancel := context.WithTimeout(ctx, time.Second) // whom it asks may be held up
		done, err := f(within, c.nodes[rng.IntN(len(c.nodes))])
		cancel()
		if done && err == nil {
			return nil
		}
		if err != nil {
			last = err
		}
	}
	return fmt.Errorf("%s: it did not come to that; last: %w", what, last)
}

// contain posts a record that accuses each role, in the middle of the trouble, and
// waits until every case is held and proven. It returns their ids, by role.
func (c *cluster) contain(ctx context.Context, rng *rand.Rand, watch *guardWatch) (map[string]string, error) {
	began, last := time.Now(), map[string]error{}
	wait := c.trouble(ctx, rng)
	var posts sync.WaitGroup
	errs := make([]error, len(c.roles))
	for i, role := range c.roles {
		own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		body := c.record("theft-"+role, role, "/export", nil)
		posts.Go(func() {
			time.Sleep(time.Duration(own.Int64N(int64(*clusterFor))))
			for range 1 + own.IntN(2) { // some of them twice, perhaps to two nodes
				errs[i] = errors.Join(errs[i], c.anywhere(ctx, own, "posting a record", func(ctx context.Context, m *member) (bool, error) {
					return true, c.post(ctx, m, body)
				}))
				c.acknowledge(role)
			}
		})
	}
	cases := map[string]string{}
	for len(cases) < len(c.roles) {
		role := c.roles[rng.IntN(len(c.roles))]
		if cases[role] != "" {
			continue
		}
		err := c.anywhere(ctx, rng, "looking at a case", func(ctx context.Context, m *member) (bool, error) {
			id, err := heldCase(ctx, m, role, c.site.steps())
			if id != "" && err == nil {
				cases[role] = id
				c.mu.Lock()
				c.took = append(c.took, time.Since(c.acked[role]))
				c.mu.Unlock()
				watch.add(role)
			}
			last[role] = err
			return !errors.As(err, new(net.Error)), nil
		})
		if err != nil || ctx.Err() != nil || time.Since(began) > 2*time.Minute+*clusterFor {
			for _, role := range c.roles {
				if cases[role] == "" {
					c.lost("%s did not come to be held and proven: %v", role, last[role])
				}
			}
			posts.Wait()
			return nil, errors.Join(err, errors.Join(errs...), wait())
		}
	}
	posts.Wait() // some are sent again when their case is held
	return cases, errors.Join(errors.Join(errs...), wait())
}

// heldCase returns the id of a role's case once it is held and all of it is proven;
// otherwise the error says what is missing.
func heldCase(ctx context.Context, m *member, role string, steps int) (string, error) {
	full, err := caseOf(ctx, m, role)
	if err != nil {
		return "", err
	}
	for _, s := range full.Steps {
		if s.State != staunch.StepProven {
			return "", fmt.Errorf("%s: step %s is %s: %s", full.Containment.Phase, s.Target, s.State, s.Note)
		}
	}
	for _, h := range full.Holds {
		if h.Plane == staunch.PlaneGuard && h.State != staunch.HoldProven {
			return "", fmt.Errorf("the hold on the fast plane is %s", h.State)
		}
	}
	if full.Containment.Phase != staunch.PhaseHeld || len(full.Steps) < steps {
		return "", fmt.Errorf("the case is %s with %d steps", full.Containment.Phase, len(full.Steps))
	}
	return full.Containment.ID, nil
}

// caseOf returns the only case of a role.
func caseOf(ctx context.Context, m *member, role string) (api.Case, error) {
	list, err := m.api.Containments(ctx, false, client.Page{})
	if err != nil {
		return api.Case{}, err
	}
	for _, con := range list.Items {
		if con.Subject.Value == role {
			return m.api.Containment(ctx, con.ID)
		}
	}
	return api.Case{}, errors.New("there is no case")
}

// post posts a record to a node.
func (c *cluster) post(ctx context.Context, m *member, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url()+"/v1/ingest/detector", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+m.source.Reveal())
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var rep api.IngestReport
	if resp.StatusCode >= 300 {
		return fmt.Errorf("posting a record: status %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&rep); err != nil {
		return err
	}
	if rep.Accepted != 1 || len(rep.Rejected) > 0 {
		return fmt.Errorf("a record that is right was not taken: %+v", rep)
	}
	return nil
}

// held checks that nobody gets in, at no node and not on the platform.
func (c *cluster) held(ctx context.Context, thieves map[string]*thief) error {
	before := map[string]int64{}
	for role, th := range thieves {
		before[role] = th.success.Load()
	}
	for _, role := range c.roles {
		left, err := c.site.access(ctx, role)
		if err != nil {
			return err
		}
		if left != "" {
			c.lost("while %s is held: %s", role, left)
		}
		for _, m := range c.nodes {
			allowed, err := c.allows(ctx, m, role)
			if err != nil {
				return err
			}
			if allowed {
				c.lost("while %s is held %s lets it in", role, filepath.Base(m.dir))
			}
		}
	}
	time.Sleep(2 * loginEvery) // the thieves go on
	for role, th := range thieves {
		if n := th.success.Load() - before[role]; n > 0 {
			c.lost("a thief succeeded %d times while %s was held", n, role)
		}
	}
	return nil
}

// release releases every case in the middle of trouble and waits until all are.
func (c *cluster) release(ctx context.Context, rng *rand.Rand, cases map[string]string) error {
	wait := c.trouble(ctx, rng)
	asked := time.Now()
	for i, role := range c.roles {
		// The first is asked for at once; with the others the trouble is under way.
		time.Sleep(time.Until(asked.Add(*clusterFor * time.Duration(i) / time.Duration(2*len(c.roles)))))
		err := c.anywhere(ctx, rng, "asking for a release", func(ctx context.Context, m *member) (bool, error) {
			full, err := m.api.Containment(ctx, cases[role])
			if err != nil {
				return false, err
			}
			if p := full.Containment.Phase; p == staunch.PhaseReleasing || p == staunch.PhaseReleased {
				return true, nil
			}
			_, err = m.api.Release(ctx, cases[role], api.ReleaseRequest{Reason: "the run is over", Revive: true})
			return err == nil, err
		})
		if err != nil {
			return errors.Join(err, wait())
		}
	}
	for _, role := range c.roles {
		err := c.anywhere(ctx, rng, "waiting for "+role+" to be released", func(ctx context.Context, m *member) (bool, error) {
			full, err := m.api.Containment(ctx, cases[role])
			if err != nil {
				return false, err
			}
			if full.Containment.Phase != staunch.PhaseReleased {
				return false, fmt.Errorf("it is %s: %s", full.Containment.Phase, full.Containment.Trouble)
			}
			return true, nil
		})
		if err != nil {
			c.unreleased("%s was not released", role)
			return errors.Join(err, wait())
		}
	}
	return wait()
}

// final judges the ledger and what the database keeps.
func (c *cluster) final(ctx context.Context, cases map[string]string) error {
	a, err := c.nodes[0].autopsy(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = a.close() }()
	if err := a.verify(ctx); err != nil {
		c.wrong("at the end: %v", err)
	}
	intents, err := c.intents(ctx, a)
	if err != nil {
		return err
	}
	j, err := c.site.judge(ctx)
	if err != nil {
		return err
	}
	c.Wrong, c.Early = append(c.Wrong, j.Wrong...), append(c.Early, j.Early(intents)...)
	for _, e := range j.Effects {
		c.Sent += fmt.Sprintf("        %s %s %s took effect: %t %v\n", e.At.Format("15:04:05.000"), e.Key, e.Kind, e.Took, e.Backends)
	}
	found, err := a.cases(ctx)
	if err != nil {
		return err
	}
	for _, con := range found {
		role := con.Subject.Value
		if cases[role] != con.ID {
			c.Doubled = append(c.Doubled, fmt.Sprintf("a second case: %s on %s, %s", con.ID, con.Subject, con.Phase))
			continue
		}
		if con.Phase != staunch.PhaseReleased || len(con.Caps) > 0 {
			c.unreleased("case %s is %s with caps %v: %s", con.ID, con.Phase, con.Caps, con.Trouble)
		}
		steps, err := a.steps(ctx, con.ID)
		if err != nil {
			return err
		}
		keys := map[string]bool{}
		for _, s := range steps {
			keys[s.ID] = true
		}
		own := slices.DeleteFunc(slices.Clone(intents), func(n ledger.Intent) bool { return !keys[n.Key] })
		lost, doubled, repeats := j.Of(keys).Account(own, role)
		c.Lost, c.Doubled, c.Repeats = append(c.Lost, lost...), append(c.Doubled, doubled...), c.Repeats+repeats
		if err := c.leftovers(ctx, a, con.ID, con.Caps); err != nil {
			return err
		}
	}
	// What counts by the hour or the window stays.
	if err := a.store.View(ctx, func(r store.Reader) error {
		names, err := r.CapsNamed("open/", "", 1000)
		if err == nil && len(names) == 0 {
			c.wrong("no case took a place")
		}
		for _, name := range names {
			cp, cerr := r.Cap(name)
			if err = errors.Join(err, cerr); cp.Used != 0 {
				c.unreleased("cap %s has %d places taken", name, cp.Used)
			}
		}
		return err
	}); err != nil {
		return err
	}
	for what, query := range map[string]string{"events": "SELECT count(*) FROM events", "signals": "SELECT count(*) FROM signals"} {
		n, err := a.count(ctx, query)
		switch {
		case err != nil:
			return err
		case n < len(c.roles):
			c.lost("%d %s, want %d", n, what, len(c.roles))
		case n > len(c.roles):
			c.Doubled = append(c.Doubled, fmt.Sprintf("%d %s, want %d", n, what, len(c.roles)))
		}
	}
	for what, query := range map[string]string{
		"sealed states": "SELECT count(*) FROM sealed WHERE id LIKE 'pre/%' OR id LIKE 'post/%'",
		"leases held":   "SELECT count(*) FROM leases WHERE name LIKE 'con/%' AND owner <> ''",
		"timers":        "SELECT count(*) FROM timers WHERE about LIKE 'con%'",
	} {
		n, err := a.count(ctx, query)
		if err != nil {
			return err
		}
		if n > 0 {
			c.unreleased("%d %s are left", n, what)
		}
	}
	return nil
}

// allows asks a node's guard.
func (c *cluster) allows(ctx context.Context, m *member, role string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url()+"/access/v1/evaluation", strings.NewReader(
		`{"subject":{"type":"user","id":"`+role+`"},"action":{"name":"read"},"resource":{"type":"x","id":"y"}}`))
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+c.pep.Reveal())
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("asking a guard: %s: %s", resp.Status, b)
	}
	return bytes.Contains(b, []byte(`"decision":true`)), err
}

// guardWatch asks the nodes' guards all the time whether they let somebody in whose
// hold is proven.
type guardWatch struct {
	mu    sync.Mutex
	roles []string
	letIn []string
	end   func()
	asked atomic.Int64
}

func (w *guardWatch) add(role string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.roles = append(w.roles, role)
}

func (w *guardWatch) stop() { w.end() }

func (c *cluster) watchGuards(ctx context.Context) *guardWatch {
	w := &guardWatch{}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, m := range c.nodes {
		wg.Go(func() {
			every(ctx, 10*time.Millisecond, func() {
				w.mu.Lock()
				var role string
				if n := len(w.roles); n > 0 {
					role = w.roles[int(w.asked.Load())%n]
				}
				w.mu.Unlock()
				if role == "" {
					return
				}
				allowed, err := c.allows(ctx, m, role)
				if err != nil {
					return // it is dead or held up
				}
				w.asked.Add(1)
				if allowed {
					w.mu.Lock()
					w.letIn = append(w.letIn, fmt.Sprintf("%s let %s in after its hold was proven", filepath.Base(m.dir), role))
					w.mu.Unlock()
				}
			})
		})
	}
	w.end = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		c.Lost = append(c.Lost, w.letIn...)
		c.mu.Lock()
		c.tally["answers of guards about who is held"] = int(w.asked.Load())
		c.mu.Unlock()
	})
	return w
}

// TestTakeover kills a node that has just acknowledged what accuses a dozen roles,
// and leaves it dead: the others contain them.
func TestTakeover(t *testing.T) {
	pgtest.Require(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := newCluster(ctx, t)
	defer c.stop()
	for _, m := range c.nodes {
		if err := errors.Join(m.start(ctx, ""), m.ready(ctx, c.http)); err != nil {
			t.Fatal(err)
		}
	}
	for _, role := range c.roles {
		if err := c.post(ctx, c.nodes[0], c.record("theft-"+role, role, "/export", nil)); err != nil {
			t.Fatal(err)
		}
	}
	c.nodes[0].kill()
	began := time.Now()
	rng := rand.New(rand.NewPCG(1, 1))
	for _, role := range c.roles {
		if err := c.anywhere(ctx, rng, "waiting for "+role+" to be held", func(ctx context.Context, m *member) (bool, error) {
			id, err := heldCase(ctx, m, role, c.site.steps())
			return id != "", err
		}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d roles are held and proven by the other nodes %s after the kill", len(c.roles), time.Since(began).Round(time.Millisecond))
}
