package retain_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/retain"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/store/memory"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *clock) at(ago time.Duration) staunch.Time { return staunch.TimeOf(c.Now().Add(-ago)) }

const day = 24 * time.Hour

// policy is short, so that stories are.
func policy() retain.Policy {
	return retain.Policy{
		Events: 5 * day, Signals: 9 * day, Decisions: 4 * day, Acted: 20 * day, Containments: 20 * day, Facts: 12 * day,
		Notices: 3 * day, Parked: 3 * day, Redelivery: day, Horizon: 2 * day, Window: 6 * time.Hour,
	}
}

func sweeper(t testing.TB, st store.Store, c staunch.Clock, p *retain.Policy, node string) *retain.Sweeper {
	t.Helper()
	s, err := retain.New(retain.Options{
		Store: st, Clock: c, Node: node, Policy: func() retain.Policy { return *p },
		Cursors: []retain.Cursor{{Prefix: "settled/", Over: func(v string, _, signals staunch.Time) bool {
			n, err := strconv.ParseInt(v, 10, 64)
			return err == nil && staunch.Time(n) < signals
		}}},
		Pause: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func update(t testing.TB, st store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := st.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, st store.Store, fn func(store.Reader) error) {
	t.Helper()
	if err := st.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func round(t testing.TB, s *retain.Sweeper) store.Sweep {
	t.Helper()
	rep, err := s.Round(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func sweptOf(rep store.Sweep, kind store.Kept) store.Swept {
	for _, k := range rep.Kinds {
		if k.Kind == kind {
			return k
		}
	}
	return store.Swept{}
}

// onAll runs a test on every store.
func onAll(t *testing.T, fn func(t *testing.T, st store.Store, c *clock)) {
	t.Run("memory", func(t *testing.T) {
		c := newClock()
		fn(t, memory.New(memory.Options{Clock: c, Chain: storetest.Chain{}}).Open("one"), c)
	})
	t.Run("sqlite", func(t *testing.T) {
		c := newClock()
		fn(t, openLite(t, c), c)
	})
	t.Run("postgresql", func(t *testing.T) {
		st, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret(pgtest.NewDatabase(t)), sqlstore.Options{Chain: storetest.Chain{}, Node: "one"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		fn(t, st, newClock())
	})
}

func openLite(t testing.TB, c staunch.Clock) *sqlstore.SQLite {
	t.Helper()
	st, err := sqlstore.OpenSQLite(context.Background(), filepath.Join(t.TempDir(), "staunch.db"), sqlstore.Options{Chain: storetest.Chain{}, Clock: c, Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func session(n int) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: "pg/test", Scheme: "session", Value: strconv.Itoa(n)}
}

// hit puts an event with its fact and signal, and returns the signal.
func hit(tx store.Tx, n int, at staunch.Time) (staunch.Signal, error) {
	ref := session(n)
	g := storetest.Signal(ref, n, at)
	g.Learned = at
	e := storetest.Event(n, at, ref)
	e.Learned = at
	f := storetest.Fact(ref, storetest.Ref(n), n, at)
	_, eerr := tx.PutEvent(e)
	_, ferr := tx.PutFact(f)
	_, gerr := tx.PutSignal(g)
	return g, errors.Join(eerr, ferr, gerr)
}

func decision(n int, made staunch.Time, verdict staunch.Verdict, con string, signals ...string) staunch.Decision {
	return staunch.Decision{
		ID: "dec_" + strconv.Itoa(n), Subject: session(n), Scope: session(n), Made: made, Verdict: verdict, Containment: con,
		Signals: signals, Tier: staunch.TierIsolate, Bundle: "one",
	}
}

// contain puts a decision about a signal with its case.
func contain(tx store.Tx, n int, g staunch.Signal, opened staunch.Time) (staunch.Containment, error) {
	c := storetest.Containment(session(n), "dec_"+strconv.Itoa(n), opened)
	c.Decisions = []string{"dec_" + strconv.Itoa(n)}
	_, err := tx.PutDecision(decision(n, opened, staunch.VerdictContain, c.ID, g.ID))
	return c, errors.Join(err, tx.PutContainment(c))
}

func release(tx store.Tx, c staunch.Containment, at staunch.Time) error {
	c.Phase, c.Changed = staunch.PhaseReleased, at
	return tx.PutContainment(c)
}

func there(err error) bool {
	if err != nil && !errors.Is(err, staunch.ErrNotFound) {
		panic(err)
	}
	return err == nil
}

// TestRound: what is old goes, and stays where something needs it.
func TestRound(t *testing.T) {
	onAll(t, func(t *testing.T, st store.Store, c *clock) {
		now := c.at(0)
		var held, over staunch.Containment
		update(t, st, func(tx store.Tx) error {
			var errs []error
			// 4: of a case that was released long ago. 1: long ago, of nobody. 2: of an open
			// case. 3: of one that was released lately. 5: of today.
			story := func(n int) {
				ago := map[int]time.Duration{1: 30 * day, 2: 30 * day, 3: 30 * day, 4: 40 * day, 5: time.Hour}[n]
				g, err := hit(tx, n, c.at(ago))
				errs = append(errs, err)
				var con staunch.Containment
				switch n {
				case 2:
					held, err = contain(tx, n, g, c.at(ago-time.Minute))
				case 3, 4:
					con, err = contain(tx, n, g, c.at(ago-time.Minute))
					errs = append(errs, release(tx, con, map[int]staunch.Time{3: c.at(day), 4: c.at(25 * day)}[n]))
					if n == 4 {
						over = con
					}
				case 1:
					_, err = tx.PutDecision(decision(n, c.at(ago), staunch.VerdictObserve, "", g.ID))
				}
				errs = append(errs, err)
			}
			for n := range 4 {
				story([]int{4, 1, 2, 3}[n])
			}
			// The open case's subject did something else, long ago.
			did := storetest.Event(9, c.at(29*day), session(2))
			did.Learned = did.Time
			_, derr := tx.PutEvent(did)
			// One whose clock is ahead.
			ahead := storetest.Event(8, staunch.TimeOf(c.Now().Add(1000*day)), session(8))
			ahead.Learned = c.at(8 * day)
			_, aerr := tx.PutEvent(ahead)
			story(5)
			// An event of long ago that came today; a decision that led to something,
			// without a case.
			late := storetest.Event(7, c.at(60*day), session(7))
			late.Learned = now
			_, lerr := tx.PutEvent(late)
			_, err := tx.PutDecision(decision(6, c.at(10*day), staunch.VerdictProtected, ""))
			errs = append(errs, err, lerr, aerr, derr,
				tx.PutNotice(store.Notice{ID: "told", Done: c.at(4 * day)}), tx.PutNotice(store.Notice{ID: "just", Done: c.at(day)}), tx.PutNotice(store.Notice{ID: "waits"}),
				tx.PutParked(store.Parked{ID: "prk_old", At: c.at(4 * day)}), tx.PutParked(store.Parked{ID: "prk_new", At: now}),
				tx.PutCursor("settled/a", fmt.Sprint(int64(c.at(30*day)))), tx.PutCursor("settled/b", fmt.Sprint(int64(c.at(day)))), tx.PutCursor("tail/x", "1"),
				tx.PutDrill(staunch.Drill{ID: "drl_1", Name: "d", Began: c.at(50 * day), Ended: c.at(50 * day)}),
				tx.PutDrill(staunch.Drill{ID: "drl_2", Name: "d", Began: c.at(40 * day), Ended: c.at(40 * day)}),
				tx.PutBundle(store.Bundle{Hash: "one", Made: 1}, true), tx.PutBundle(store.Bundle{Hash: "two", Made: c.at(30 * day)}, true),
				tx.PutBundle(store.Bundle{Hash: "three", Made: c.at(day)}, true),
			)
			_, rerr := tx.AppendRecord(storetest.Record(over.ID, 1, c.at(40*day)))
			return errors.Join(append(errs, rerr)...)
		})
		p := policy()
		s := sweeper(t, st, c, &p, "one")
		preview, err := s.Preview(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rep := round(t, s)
		for _, kind := range store.AllKept() {
			a, b := sweptOf(preview, kind), sweptOf(rep, kind)
			if kind != store.KeptFacts && (a.Deleted != b.Deleted || a.Held != b.Held) {
				t.Errorf("%s: the preview says %+v, the round %+v", kind, a, b)
			}
		}
		// The evidence of the case that went is nobody's in the next.
		round(t, s)
		round(t, s)
		view(t, st, func(r store.Reader) error {
			for what, want := range map[string]bool{
				"event 1": false, "event 2": true, "event 3": true, "event 4": false, "event 5": true, "event 7": true, "event 8": false, "event 9": true,
				"signal 1": false, "signal 2": true, "signal 3": true, "signal 4": false, "signal 5": true,
				"decision 1": false, "decision 2": true, "decision 3": true, "decision 4": false, "decision 6": true,
				"fact 1": false, "fact 2": true, "fact 3": true, "fact 4": false, "fact 5": true,
			} {
				kind, number, _ := strings.Cut(what, " ")
				n, err := strconv.Atoi(number)
				if err != nil {
					return err
				}
				at := map[int]staunch.Time{1: c.at(30 * day), 2: c.at(30 * day), 3: c.at(30 * day), 4: c.at(40 * day), 5: c.at(time.Hour)}[n]
				switch kind {
				case "event":
					_, err = r.Event(storetest.Event(n, 0).ID)
				case "signal":
					_, err = r.Signal(storetest.Signal(session(n), n, at).ID)
				case "decision":
					_, err = r.Decision("dec_" + number)
				case "fact":
					_, err = r.Fact(storetest.Fact(session(n), storetest.Ref(n), n, at).ID)
				}
				if there(err) != want {
					t.Errorf("%s is there: %v, want %v", what, !want, want)
				}
			}
			_, err := r.Containment(held.ID)
			_, oerr := r.Containment(over.ID)
			if !there(err) || there(oerr) {
				t.Errorf("the cases: %v, %v", err, oerr)
			}
			if recs, err := r.RecordsAbout(over.ID, 10); err != nil || len(recs) != 1 {
				t.Errorf("%d records of the case that went: %v", len(recs), err)
			}
			for name, want := range map[string]bool{"settled/a": false, "settled/b": true, "tail/x": true} {
				if _, err := r.Cursor(name); there(err) != want {
					t.Errorf("cursor %s is there: %v", name, !want)
				}
			}
			if _, err := r.Drill("drl_1"); there(err) {
				t.Error("the older drill is there")
			}
			_, err = r.Drill("drl_2")
			return err // the newest of its name stays
		})
		if got := sweptOf(rep, store.KeptBundles).Deleted; got != 1 {
			t.Errorf("%d bundles went, want the one that nothing was decided by since", got)
		}
		if got := sweptOf(rep, store.KeptNotices).Deleted; got != 1 {
			t.Errorf("%d notices went", got)
		}
		if got := sweptOf(rep, store.KeptParked).Deleted; got != 1 {
			t.Errorf("%d parked records went", got)
		}
		if rep := round(t, s); s.Deleted(store.KeptEvents) == 0 || sweptOf(rep, store.KeptEvents).Deleted != 0 {
			t.Errorf("a round with nothing to do: %+v", rep)
		}
	})
}

// TestEffective: no age is shorter than what is judged looks back.
func TestEffective(t *testing.T) {
	p := retain.Policy{Events: 1, Signals: 1, Decisions: 1, Acted: 1, Facts: 1, Redelivery: time.Hour, Horizon: 10 * day, Window: 2 * day}.Effective()
	if p.Events < 12*day || p.Signals < 10*day || p.Decisions < 10*day || p.Acted < p.Decisions || p.Facts < p.Signals {
		t.Errorf("%+v", p)
	}
	if got := p.LeastEvents(); got < 2*day || got > 3*day {
		t.Errorf("events are kept for at least %s", got)
	}
	p.Horizon, p.Window = retain.Forever, retain.Forever
	if p = p.Effective(); p.Events != retain.Forever || p.Signals != retain.Forever {
		t.Errorf("for ever is %+v", p)
	}
}

// TestMaxSize: the oldest events go first, none that is younger than what is
// promised, and where that does not suffice it is said.
func TestMaxSize(t *testing.T) {
	c := newClock()
	st := openLite(t, c)
	const n = 2000
	for i := 0; i < n; i += 100 {
		update(t, st, func(tx store.Tx) error {
			for k := i; k < i+100; k++ {
				e := storetest.Event(k, c.at(time.Duration(n-k)*time.Minute), session(k)) // over 33 hours
				e.Learned = e.Time
				e.Raw = []byte(`"` + strings.Repeat("x", 3000) + `"`)
				if _, err := tx.PutEvent(e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var before store.Size
	view(t, st, func(r store.Reader) error { var err error; before, err = r.Size(); return err })
	p := policy()
	s := sweeper(t, st, c, &p, "one")
	if rep := round(t, s); sweptOf(rep, store.KeptEvents).Deleted != 0 {
		t.Fatalf("without a bound: %+v", rep)
	}
	p.MaxSize = before.Used * 9 / 10
	rep := round(t, s)
	gone := sweptOf(rep, store.KeptEvents).Deleted
	if !rep.BySize {
		t.Errorf("it is not said that events went by size: %+v", rep)
	}
	if gone < n/10 || gone > n/4 || rep.OverSize || rep.Size.Used > p.MaxSize || rep.Size.Free == 0 {
		t.Errorf("%d of %d events went, report %+v, before %+v, at most %d", gone, n, rep, before, p.MaxSize)
	}
	view(t, st, func(r store.Reader) error {
		_, first := r.Event(storetest.Event(gone-1, 0).ID)
		_, next := r.Event(storetest.Event(gone, 0).ID)
		if there(first) || !there(next) {
			t.Error("it were not the oldest that went")
		}
		return nil
	})
	// What is promised stays, whatever the size.
	p.MaxSize = before.Used / 100
	rep = round(t, s)
	if !rep.OverSize {
		t.Errorf("nothing is said of the size: %+v", rep)
	}
	view(t, st, func(r store.Reader) error {
		for k := range n {
			_, err := r.Event(storetest.Event(k, 0).ID)
			if young := time.Duration(n-k)*time.Minute <= p.LeastEvents(); there(err) != young {
				t.Fatalf("event %d is there: %v", k, !young)
			}
		}
		return nil
	})
}

// TestOneSweeps: of two nodes on one database one sweeps, and the other goes on once
// that ends or may not any more.
func TestOneSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := memory.New(memory.Options{Clock: staunch.SystemClock{}, Chain: storetest.Chain{}})
		p := policy()
		type node struct {
			s    *retain.Sweeper
			may  atomic.Bool
			stop func()
		}
		var nodes []*node
		start := func(name string) *node {
			n := new(node)
			n.may.Store(true)
			s, err := retain.New(retain.Options{
				Store: db.Open(name), Clock: staunch.SystemClock{}, Node: name, Policy: func() retain.Policy { return p }, May: n.may.Load,
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			n.s, n.stop = s, func() { cancel(); <-done }
			go func() { defer close(done); s.Run(ctx) }()
			time.Sleep(time.Second)
			return n
		}
		sweeps := func(what string, one, two bool) {
			t.Helper()
			time.Sleep(3 * time.Minute)
			synctest.Wait()
			if a, b := nodes[0].s.Status(), nodes[1].s.Status(); a.Sweeps != one || b.Sweeps != two {
				t.Errorf("%s: the first sweeps %v, the second %v", what, a.Sweeps, b.Sweeps)
			}
		}
		nodes = []*node{start("one"), start("two")}
		sweeps("at first", true, false)
		time.Sleep(24 * time.Hour)
		sweeps("a day later", true, false)
		nodes[0].may.Store(false)
		sweeps("once the first may not", false, true)
		nodes[0].may.Store(true)
		sweeps("once it may again", false, true)
		nodes[1].stop()
		sweeps("once the second ended", true, false)
		nodes[0].stop()
	})
}

// TestLeap: a clock that is suddenly years ahead deletes nothing for a day, in which
// it can be set right, on a node that goes on and on one that is started again.
func TestLeap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := memory.New(memory.Options{Clock: staunch.SystemClock{}, Chain: storetest.Chain{}})
		c, p := shifted{new(atomic.Int64)}, policy()
		st := db.Open("one")
		put := func(id string) {
			update(t, st, func(tx store.Tx) error {
				return tx.PutParked(store.Parked{ID: id, Source: "x", Number: 1, Reason: "r", At: staunch.TimeOf(time.Now())})
			})
		}
		there := func() (ids []string) {
			view(t, st, func(r store.Reader) error {
				rows, err := r.Parked(store.Page{Limit: 10})
				for _, row := range rows {
					ids = append(ids, row.ID)
				}
				return err
			})
			return ids
		}
		var s *retain.Sweeper
		run := func() (stop func()) {
			var err error
			if s, err = retain.New(retain.Options{Store: st, Clock: c, Node: "one", Policy: func() retain.Policy { return p }}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); s.Run(ctx) }()
			return func() { cancel(); <-done }
		}
		check := func(what string, error bool, want ...string) {
			t.Helper()
			time.Sleep(3 * time.Minute)
			synctest.Wait()
			if got := there(); !slices.Equal(got, want) || (s.Status().Error != "") != error {
				t.Errorf("%s: %v are there, want %v; error %q", what, got, want, s.Status().Error)
			}
		}
		put("prk_1")
		stop := run()
		check("at first", false, "prk_1")
		c.by.Store(int64(3000 * day))
		check("years ahead", true, "prk_1")
		time.Sleep(20 * time.Hour)
		check("most of a day later", true, "prk_1")
		c.by.Store(0)
		check("set right", false, "prk_1")
		c.by.Store(int64(300 * day))
		check("ahead again", true, "prk_1")
		stop()
		time.Sleep(20 * time.Hour)
		stop = run()
		time.Sleep(20 * time.Hour)
		c.by.Store(int64(3000 * day))
		time.Sleep(10 * time.Hour)
		check("started again, and further ahead", true, "prk_1")
		time.Sleep(15 * time.Hour)
		check("a day later", false)
		// By its age alone, while the clock goes on as it should.
		c.by.Store(0)
		put("prk_2")
		check("right again", false, "prk_2")
		time.Sleep(4 * day)
		check("days later", false)
		stop()
	})
}

// shifted is a clock that is off.
type shifted struct{ by *atomic.Int64 }

func (c shifted) Now() time.Time { return time.Now().Add(time.Duration(c.by.Load())) }

func sorted[V any](m map[int]V) []int { return slices.Sorted(maps.Keys(m)) }

// model is what a property test knows of what it put.
type model struct {
	hits  map[int]staunch.Time
	cases map[int]staunch.Containment
	// over has when a case was released.
	over map[int]staunch.Time
}

// TestNeededIsKept plays random estates over weeks, with rounds in between that the
// disk ends in any batch: what a case rests on is there for as long as the case is,
// what came lately is known to have come, and in the end what is old is gone.
func TestNeededIsKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newClock()
		fail := false
		fails := rapid.IntRange(1, 7).Draw(rt, "fails every")
		commits := 0
		db := memory.New(memory.Options{Clock: c, Chain: storetest.Chain{}, Before: func(string) memory.Outcome {
			commits++
			switch {
			case !fail || commits%fails != 0:
				return memory.Committed
			case commits%2 == 0:
				return memory.UnknownCommitted
			default:
				return memory.Failed
			}
		}})
		st := db.Open("one")
		p := policy()
		s := sweeper(t, st, c, &p, "one")
		m := model{map[int]staunch.Time{}, map[int]staunch.Containment{}, map[int]staunch.Time{}}
		n := 0
		horizon := p.Horizon
		steps := rapid.IntRange(5, 40).Draw(rt, "steps")
		for range steps {
			switch rapid.SampledFrom([]string{"hits", "contain", "release", "time", "time", "sweep", "crash"}).Draw(rt, "step") {
			case "hits":
				for range rapid.IntRange(1, 5).Draw(rt, "hits") {
					n++
					at := c.at(0)
					update(t, st, func(tx store.Tx) error { _, err := hit(tx, n, at); return err })
					m.hits[n] = at
				}
			case "contain":
				for _, k := range sorted(m.hits) {
					at := m.hits[k]
					// A judgement looks at what counts.
					if _, ok := m.cases[k]; ok || c.at(horizon) > at || rapid.Bool().Draw(rt, "not this") {
						continue
					}
					update(t, st, func(tx store.Tx) error {
						con, err := contain(tx, k, storetest.Signal(session(k), k, at), c.at(0))
						m.cases[k] = con
						return err
					})
					break
				}
			case "release":
				for _, k := range sorted(m.cases) {
					con := m.cases[k]
					if _, ok := m.over[k]; ok {
						continue
					}
					at := c.at(0)
					update(t, st, func(tx store.Tx) error { return release(tx, con, at) })
					m.over[k] = at
					break
				}
			case "time":
				c.add(time.Duration(rapid.IntRange(1, 200).Draw(rt, "hours")) * time.Hour)
			case "sweep":
				round(t, s)
			case "crash":
				fail = true
				_, _ = s.Round(context.Background()) // it may fail; nothing is half done
				fail = false
				if rapid.Bool().Draw(rt, "restarts") {
					s = sweeper(t, st, c, &p, "one")
				}
			}
			m.check(rt, st, c, p)
		}
		// In the end everything that nobody needs goes.
		for k, con := range m.cases {
			if _, ok := m.over[k]; !ok && k%2 == 0 {
				m.over[k] = c.at(0)
				update(t, st, func(tx store.Tx) error { return release(tx, con, m.over[k]) })
			}
		}
		c.add(60 * day)
		for range 4 {
			s = sweeper(t, st, c, &p, "one") // which begins at the oldest rows
			round(t, s)
		}
		view(t, st, func(r store.Reader) error {
			for k, at := range m.hits {
				_, isOpen := m.cases[k]
				_, over := m.over[k]
				want := isOpen && !over
				_, eerr := r.Event(storetest.Event(k, at).ID)
				_, gerr := r.Signal(storetest.Signal(session(k), k, at).ID)
				_, ferr := r.Fact(storetest.Fact(session(k), storetest.Ref(k), k, at).ID)
				if there(eerr) != want || there(gerr) != want || there(ferr) != want {
					rt.Fatalf("in the end hit %d is there: event %v, signal %v, fact %v; want %v", k, there(eerr), there(gerr), there(ferr), want)
				}
			}
			return nil
		})
		m.check(rt, st, c, p)
	})
}

func (m model) check(rt *rapid.T, st store.Store, c *clock, p retain.Policy) {
	eff := p.Effective()
	err := st.View(context.Background(), func(r store.Reader) error {
		for k, con := range m.cases {
			_, err := r.Containment(con.ID)
			ended, over := m.over[k]
			if !there(err) {
				if !over || ended >= c.at(p.Containments) {
					rt.Fatalf("case %d is gone, released %v %s ago", k, over, c.at(0).Sub(ended))
				}
				continue
			}
			d, derr := r.Decision("dec_" + strconv.Itoa(k))
			if !there(derr) {
				rt.Fatalf("decision %d is gone, and its case is not", k)
			}
			for _, id := range d.Signals {
				g, gerr := r.Signal(id)
				if !there(gerr) {
					rt.Fatalf("signal %s of case %d is gone", id, k)
				}
				if _, eerr := r.Event(g.Event); !there(eerr) {
					rt.Fatalf("event %s of case %d is gone", g.Event, k)
				}
			}
		}
		for k, at := range m.hits {
			_, eerr := r.Event(storetest.Event(k, at).ID)
			if !there(eerr) && at > c.at(eff.Events) {
				rt.Fatalf("event %d is gone after %s", k, c.at(0).Sub(at))
			}
			_, gerr := r.Signal(storetest.Signal(session(k), k, at).ID)
			if !there(gerr) && at > c.at(eff.Signals) {
				rt.Fatalf("signal %d is gone after %s", k, c.at(0).Sub(at))
			}
			if there(gerr) {
				up, err := r.SignalsWithin([]staunch.Ref{storetest.Ref(k)}, 0, 10)
				if err != nil || len(up) != 1 {
					rt.Fatalf("signal %d is found %d times under its account: %v", k, len(up), err)
				}
			}
		}
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
	// A record that comes again is known to have come.
	for _, k := range sorted(m.hits) {
		at := m.hits[k]
		if at <= c.at(eff.Events) {
			continue
		}
		in := true
		err := st.Update(context.Background(), func(tx store.Tx) error {
			var err error
			in, err = tx.PutEvent(storetest.Event(k, at, session(k)))
			return err
		})
		if err != nil || in {
			rt.Fatalf("event %d is taken for new: %v", k, err)
		}
		break
	}
}
