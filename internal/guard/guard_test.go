package guard_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// clock is set by the test.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

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

func account(name string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: "agents", Scheme: "name", Value: name}
}

func session(id string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: "agents", Scheme: "run", Value: id}
}

// hold is a guard hold in force.
func hold(id string, seq int64, ref staunch.Ref, deny ...string) staunch.Hold {
	return staunch.Hold{
		V: staunch.Version, ID: id, Seq: seq, Plane: staunch.PlaneGuard, Target: staunch.Target{Ref: ref, Attribute: "access"},
		Verb: staunch.VerbIsolate, Tier: staunch.TierIsolate, State: staunch.HoldInForce, Deny: deny,
		Claims: []string{"con_1"}, Message: "contained by con_1",
	}
}

func released(h staunch.Hold, seq int64) staunch.Hold {
	h.Seq, h.State = seq, staunch.HoldReleased
	return h
}

// memory is a store that has holds alone; any other call panics.
type memory struct {
	store.Store
	mu    sync.Mutex
	holds []staunch.Hold // by seq
	err   error
	reads int
	// during runs inside of a read, after the rows were taken.
	during func()
}

func (m *memory) View(_ context.Context, fn func(store.Reader) error) error {
	m.mu.Lock()
	err := m.err
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return fn(memoryReader{m: m})
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

type memoryReader struct {
	store.Reader
	m *memory
}

func (r memoryReader) HoldsAfter(p staunch.Plane, seq int64, limit int) ([]staunch.Hold, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.m.reads++
	var out []staunch.Hold
	for _, h := range r.m.holds {
		if h.Plane == p && h.Seq > seq && len(out) < limit {
			out = append(out, h)
		}
	}
	if r.m.during != nil {
		r.m.during()
	}
	return out, nil
}

type fixture struct {
	*guard.Guard
	clock *clock
	store *memory
}

// fresh is a guard that has loaded an empty store.
func fresh(t testing.TB, opt guard.Options) fixture {
	t.Helper()
	f := fixture{clock: newClock(), store: &memory{}}
	opt.Clock, opt.Store = f.clock, f.store
	f.Guard = guard.New(opt)
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f fixture) ask(t *testing.T, action string, want guard.Reason, refs ...staunch.Ref) guard.Answer {
	t.Helper()
	a := f.MayAct(refs, action)
	if a.Reason != want || a.Allowed != (want == guard.ReasonNoHold) {
		t.Errorf("%q by %v: %+v, want %s", action, refs, a, want)
	}
	return a
}

func TestApply(t *testing.T) {
	f := fresh(t, guard.Options{})
	f.ask(t, "read", guard.ReasonNoHold, account("bob"))

	h := hold("h1", 5, account("bob"), "*")
	h.Names = []staunch.Ref{account("robert"), account("bob"), account("robert"), session("r1")}
	f.Apply(h)
	for _, ref := range []staunch.Ref{account("bob"), account("robert"), session("r1")} {
		if a := f.ask(t, "read", guard.ReasonHold, account("other"), ref); a.Hold != "h1" || a.Message != h.Message || len(a.Cases) != 1 {
			t.Errorf("%s: %+v", ref, a)
		}
	}
	f.ask(t, "read", guard.ReasonNoHold, account("other"))

	// What is older is ignored; what is newer takes the place of all of it.
	f.Apply(released(h, 4))
	f.ask(t, "read", guard.ReasonHold, account("bob"))
	n := hold("h1", 6, account("bob"), "write")
	n.Names = []staunch.Ref{account("rob")}
	f.Apply(n)
	f.ask(t, "read", guard.ReasonNoHold, account("bob"), account("robert"), session("r1"))
	f.ask(t, "write", guard.ReasonNoHold, account("robert"), session("r1"))
	f.ask(t, "write", guard.ReasonHold, account("rob"))

	// A second hold on the same ref stays when the first goes.
	f.Apply(hold("h2", 7, account("bob"), "delete"))
	f.Apply(released(n, 8))
	f.ask(t, "write", guard.ReasonNoHold, account("bob"), account("rob"))
	f.ask(t, "delete", guard.ReasonHold, account("bob"))

	// The platform's holds are not ours.
	p := hold("h3", 9, account("carol"), "*")
	p.Plane = staunch.PlanePlatform
	f.Apply(p)
	f.ask(t, "read", guard.ReasonNoHold, account("carol"))
}

// TestOlderNewsComesLate checks that a hold that has ended is not brought back
// by older news of it, whether from another commit's callback or from a read
// that began before.
func TestOlderNewsComesLate(t *testing.T) {
	h := hold("h1", 5, account("bob"), "*")
	t.Run("callbacks", func(t *testing.T) {
		f := fresh(t, guard.Options{})
		f.Apply(released(h, 6))
		f.Apply(h)
		f.ask(t, "read", guard.ReasonNoHold, account("bob"))
	})
	t.Run("after the reader went past", func(t *testing.T) {
		f := fresh(t, guard.Options{})
		f.store.holds = []staunch.Hold{released(h, 6)}
		if err := f.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.Apply(h)
		f.ask(t, "read", guard.ReasonNoHold, account("bob"))
	})
	t.Run("a read that began before", func(t *testing.T) {
		f := fresh(t, guard.Options{})
		f.store.holds = []staunch.Hold{h}
		f.store.during = func() { f.Apply(released(h, 6)) }
		if err := f.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.ask(t, "read", guard.ReasonNoHold, account("bob"))
	})
	t.Run("held again", func(t *testing.T) {
		f := fresh(t, guard.Options{})
		f.Apply(released(h, 6))
		again := h
		again.Seq = 7
		f.Apply(again)
		f.ask(t, "read", guard.ReasonHold, account("bob"))
	})
}

// TestAnyOrder applies the changes of some holds in any order, some twice, with
// reads of the store in between: what is in force at the end is what the last
// change of each says.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := fresh(t, guard.Options{})
		n := rapid.IntRange(1, 30).Draw(rt, "changes")
		last := map[string]staunch.Hold{}
		var all []staunch.Hold
		for seq := range n {
			id := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "hold")
			h := hold(id, int64(seq+1), account(id), "*")
			if rapid.Bool().Draw(rt, "released") {
				h = released(h, h.Seq)
			}
			last[id] = h
			all = append(all, h)
		}
		// The store has each hold's last change alone.
		for _, h := range all {
			if last[h.ID].Seq == h.Seq {
				f.store.holds = append(f.store.holds, h)
			}
		}
		for _, h := range rapid.Permutation(append(all, all...)).Draw(rt, "order") {
			if rapid.IntRange(0, 9).Draw(rt, "read") == 0 {
				if err := f.Load(t.Context()); err != nil {
					rt.Fatal(err)
				}
			}
			f.Apply(h)
		}
		for id, h := range last {
			if got := f.MayAct([]staunch.Ref{account(id)}, "x").Allowed; got == h.Active() {
				rt.Errorf("%s: allowed %t, though the last change makes it active %t", id, got, h.Active())
			}
		}
	})
}

func TestDeny(t *testing.T) {
	f := fresh(t, guard.Options{})
	f.Apply(hold("h", 1, account("bob"), "write", "", "user.delete", "s3:Put*", "*.purge", "a*b*c", "GRANT"))
	for action, denied := range map[string]bool{
		"write": true, "WRITE": true, "write:all": true, "can_write": true, "documents.write": true, "a/write/b": true, "read or write": true,
		"rewrite": false, "writer": false, "overwrite_all": false, "rewrite.write": true,
		"user.delete": true, "admin.user.delete": true, "user.deleted": false, "user_delete": false, "delete": false,
		"s3:PutObject": true, "s3:put": true, "s3:GetObject": false, "x.s3:PutObject": false,
		"data.purge": true, ".purge": true, "purge": false, "data.purge.now": false,
		"abc": true, "a1b2c": true, "acb": false, "abcd": false, "aXbXbXc": true,
		"grant": true, "can-Grant": true,
		"read": false, "": false, ".x": false, "wrıte": false,
	} {
		want := guard.ReasonNoHold
		if denied {
			want = guard.ReasonHold
		}
		f.ask(t, action, want, account("bob"))
	}
	f.Apply(hold("all", 2, account("carol"), "read", "*"))
	f.ask(t, "anything at all", guard.ReasonHold, account("carol"))
	f.ask(t, "", guard.ReasonHold, account("carol"))
	// A hold that denies nothing denies nothing.
	f.Apply(hold("none", 3, account("dave")))
	f.ask(t, "write", guard.ReasonNoHold, account("dave"))
}

func TestExpiry(t *testing.T) {
	f := fresh(t, guard.Options{})
	h := hold("h", 1, account("bob"), "*")
	h.Expires = staunch.TimeOf(f.clock.Now()).Add(time.Minute)
	f.Apply(h)
	f.clock.add(time.Minute - time.Microsecond)
	if a := f.MayAct([]staunch.Ref{account("bob")}, "read"); a.Reason != guard.ReasonHold {
		t.Errorf("before it expires: %+v", a)
	}
	f.clock.add(time.Microsecond)
	if err := f.Load(t.Context()); err != nil { // not stale
		t.Fatal(err)
	}
	f.ask(t, "read", guard.ReasonNoHold, account("bob"))
}

func TestStale(t *testing.T) {
	for _, open := range []bool{false, true} {
		t.Run(fmt.Sprintf("fail open %t", open), func(t *testing.T) {
			clock := newClock()
			g := guard.New(guard.Options{Store: &memory{}, Clock: clock, FailOpen: open, StaleAfter: 10 * time.Second})
			stale := func(what string) {
				t.Helper()
				if !g.Stale() {
					t.Errorf("%s: not stale", what)
				}
				if a := g.MayAct([]staunch.Ref{account("bob")}, "read"); a.Reason != guard.ReasonStale || a.Allowed != open {
					t.Errorf("%s: %+v", what, a)
				}
				// A hold denies even so, whatever the fail mode.
				if a := g.MayAct([]staunch.Ref{account("held")}, "read"); a.Reason != guard.ReasonHold || a.Allowed {
					t.Errorf("%s: a held subject: %+v", what, a)
				}
			}
			g.Apply(hold("h", 1, account("held"), "*"))
			stale("before Load")
			if err := g.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			if a := g.MayAct([]staunch.Ref{account("bob")}, "read"); !a.Allowed || g.Stale() {
				t.Errorf("after Load: %+v", a)
			}
			clock.add(10 * time.Second)
			if g.Stale() {
				t.Error("stale at the bound")
			}
			clock.add(time.Microsecond)
			stale("after the bound")
			if err := g.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			clock.add(-time.Hour)
			stale("a clock that went back")
		})
	}
}

func TestLoadFails(t *testing.T) {
	broken := errors.New("broken")
	g := guard.New(guard.Options{Store: &memory{err: broken}, Clock: newClock()})
	if err := g.Load(t.Context()); !errors.Is(err, broken) || !strings.Contains(err.Error(), "holds") {
		t.Errorf("Load: %v", err)
	}
	if !g.Stale() {
		t.Error("not stale")
	}
}

// TestFollowRecovers has the store fail for a while: the state becomes stale,
// and whole again by itself.
func TestFollowRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		g := guard.New(guard.Options{Store: m, Clock: staunch.SystemClock{}, StaleAfter: 3 * time.Second, Every: time.Hour})
		if err := g.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.Follow(ctx)
		}()
		// An Every beyond StaleAfter is cut down to what keeps the state fresh.
		time.Sleep(time.Minute)
		if g.Stale() {
			t.Error("stale while the store answers")
		}
		m.fail(errors.New("down"))
		time.Sleep(10 * time.Second)
		if !g.Stale() {
			t.Error("not stale though the store is down")
		}
		m.fail(nil)
		time.Sleep(2 * time.Second)
		if g.Stale() {
			t.Error("stale though the store is back")
		}
		cancel()
		<-done
	})
}

func openStore(t testing.TB) store.Store {
	t.Helper()
	chain, err := record.NewChain(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	st, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "db"), sqlstore.Options{Chain: chain})
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

func put(t testing.TB, st store.Store, holds ...staunch.Hold) []staunch.Hold {
	t.Helper()
	out := make([]staunch.Hold, len(holds))
	err := st.Update(t.Context(), func(tx store.Tx) error {
		for i, h := range holds {
			var err error
			if out[i], err = tx.PutHold(h); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRealStore loads more than a page of holds from SQLite and follows what
// another writer changes.
func TestRealStore(t *testing.T) {
	st := openStore(t)
	var holds []staunch.Hold
	for i := range 2345 {
		h := hold(fmt.Sprintf("h%d", i), 0, account(fmt.Sprintf("u%d", i)), "*")
		if i%10 == 0 {
			h.State = staunch.HoldReleased
		}
		if i%7 == 0 {
			h.Plane = staunch.PlanePlatform
		}
		holds = append(holds, h)
	}
	holds = put(t, st, holds...)
	g := guard.New(guard.Options{Store: st, Clock: staunch.SystemClock{}, Every: time.Millisecond})
	if err := g.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, h := range holds {
		denied := h.Active() && h.Plane == staunch.PlaneGuard
		if a := g.MayAct([]staunch.Ref{h.Target.Ref}, "read"); a.Allowed == denied {
			t.Fatalf("hold %d (%s on %s): %+v", i, h.State, h.Plane, a)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Follow(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	// Another writer: nothing calls Apply.
	changed := put(t, st, released(holds[1], 0), hold("new", 0, account("new"), "*"))
	for deadline := time.Now().Add(10 * time.Second); g.Seq() < changed[1].Seq; {
		if time.Now().After(deadline) {
			t.Fatalf("seq %d, want %d", g.Seq(), changed[1].Seq)
		}
		time.Sleep(time.Millisecond)
	}
	if a := g.MayAct([]staunch.Ref{holds[1].Target.Ref}, "read"); !a.Allowed {
		t.Errorf("released elsewhere: %+v", a)
	}
	if a := g.MayAct([]staunch.Ref{account("new")}, "read"); a.Allowed {
		t.Errorf("held elsewhere: %+v", a)
	}
	if g.Stale() {
		t.Error("stale")
	}
}

// TestConcurrent has readers beside writers, for the race detector.
func TestConcurrent(t *testing.T) {
	f := fresh(t, guard.Options{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range 500 {
				h := hold(fmt.Sprintf("h%d", rng.IntN(8)), int64(i), account("bob"), "write")
				h.Names = []staunch.Ref{account("robert")}
				if rng.IntN(2) == 0 {
					h.State = staunch.HoldReleased
				}
				f.Apply(h)
				f.MayAct([]staunch.Ref{account("robert"), account("bob")}, "write")
				if i%50 == 0 {
					if err := f.Load(context.Background()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkMayAct(b *testing.B) {
	for _, n := range []int{1, 1_000, 100_000} {
		for _, held := range []bool{false, true} {
			b.Run(fmt.Sprintf("holds=%d/held=%t", n, held), func(b *testing.B) {
				f := fresh(b, guard.Options{StaleAfter: time.Hour})
				g := f.Guard
				for i := range n {
					g.Apply(hold(fmt.Sprintf("h%d", i), int64(i+1), account(fmt.Sprintf("user-%d@example.com", i)), "write", "create", "update", "delete", "admin", "grant", "assume", "issue"))
				}
				// A run, its credential and its account, as an enforcement point sends.
				refs := []staunch.Ref{session("run-1"), session("token"), account("user-x@example.com")}
				action := "documents.read"
				if held {
					refs[2], action = account("user-0@example.com"), "documents.issue"
				}
				b.ReportAllocs()
				for b.Loop() {
					if g.MayAct(refs, action).Allowed == held {
						b.Fatal("wrong answer")
					}
				}
			})
		}
	}
}
